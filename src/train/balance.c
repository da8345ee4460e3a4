/* See balance.h. */
#include "train/balance.h"

#include <stdlib.h>
#include <string.h>

const char *const td_phase_names[TD_PHASES] = {"input", "compute", "update", "checkpoint", "other"};

enum { MOST_RANKS = 4096 };

double td_pace_total(const td_pace *p)
{
    double all = 0;
    for (int k = 0; k < TD_PHASES; k++) all += p->seconds[k];
    return all;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* phase TD_PHASES: the totals. */
static double median(const td_pace *paces, int ranks, int phase)
{
    double sorted[MOST_RANKS];
    int n = ranks < MOST_RANKS ? ranks : MOST_RANKS;
    for (int r = 0; r < n; r++)
        sorted[r] = phase == TD_PHASES ? td_pace_total(&paces[r]) : paces[r].seconds[phase];
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

void td_balance_scores(const td_pace *paces, int ranks, double *scores)
{
    double middle = median(paces, ranks, TD_PHASES);
    for (int r = 0; r < ranks; r++) {
        double own = td_pace_total(&paces[r]);
        scores[r] = own > 0 ? middle / own : 1;
    }
}

int td_balance_phase(const td_pace *paces, int ranks, int rank, double *behind)
{
    int found = 0;
    for (int k = 0; k < TD_PHASES; k++) {
        double b = paces[rank].seconds[k] - median(paces, ranks, k);
        if (k == 0 || b > *behind) *behind = b, found = k;
    }
    return found;
}

/* Input and compute grow with the leaves; the rest does not. */
static double of_leaf(const td_pace *p, int leaves)
{
    return (p->seconds[TD_PHASE_INPUT] + p->seconds[TD_PHASE_COMPUTE]) / leaves;
}

static double with_leaves(const td_pace *p, int had, int has)
{
    return of_leaf(p, had) * has + p->seconds[TD_PHASE_UPDATE] + p->seconds[TD_PHASE_CHECKPOINT] +
           p->seconds[TD_PHASE_OTHER];
}

static double slowest(const td_pace *paces, int ranks, const int *now, const int *bounds)
{
    double most = 0;
    for (int r = 0; r < ranks; r++) {
        double t = with_leaves(&paces[r], now[r + 1] - now[r], bounds[r + 1] - bounds[r]);
        if (t > most) most = t;
    }
    return most;
}

bool td_balance_deal(const td_pace *paces, int ranks, const int *now, int *bounds)
{
    int count[MOST_RANKS], leaves = now[ranks];
    memcpy(bounds, now, ((size_t)ranks + 1) * sizeof *bounds);
    if (ranks > leaves || ranks > MOST_RANKS) return false;
    for (int r = 0; r < ranks; r++) count[r] = 1;
    for (int l = ranks; l < leaves; l++) { /* the next leaf to whom it makes end soonest */
        int best = 0;
        double soonest = 0;
        for (int r = 0; r < ranks; r++) {
            double t = with_leaves(&paces[r], now[r + 1] - now[r], count[r] + 1);
            if (r == 0 || t < soonest) soonest = t, best = r;
        }
        count[best]++;
    }
    for (int r = 0; r < ranks; r++) bounds[r + 1] = bounds[r] + count[r];
    if (slowest(paces, ranks, now, bounds) < 0.9 * slowest(paces, ranks, now, now)) return true;
    memcpy(bounds, now, ((size_t)ranks + 1) * sizeof *bounds);
    return false;
}
