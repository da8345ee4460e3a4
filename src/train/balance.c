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

/* The median; the values are sorted. */
static double median_of(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Of the ranks; phase TD_PHASES: the totals. Of an even number the faster of the two in the middle:
 * were it their mean, a slow one of two would be held against itself. */
static double median(const td_pace *paces, int ranks, int phase)
{
    double values[MOST_RANKS];
    int n = ranks < MOST_RANKS ? ranks : MOST_RANKS;
    for (int r = 0; r < n; r++)
        values[r] = phase == TD_PHASES ? td_pace_total(&paces[r]) : paces[r].seconds[phase];
    qsort(values, (size_t)n, sizeof *values, ascending);
    return values[(n - 1) / 2];
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

td_cost td_balance_cost(const td_pace *p, int leaves)
{
    double varies = p->seconds[TD_PHASE_INPUT] + p->seconds[TD_PHASE_COMPUTE];
    return (td_cost){varies / leaves, td_pace_total(p) - varies};
}

td_cost td_balance_usual(const td_cost *costs, int n)
{
    double leaf[TD_COSTS_MOST], fixed[TD_COSTS_MOST];
    for (int i = 0; i < n; i++) leaf[i] = costs[i].leaf, fixed[i] = costs[i].fixed;
    return (td_cost){median_of(leaf, n), median_of(fixed, n)};
}

static double with_leaves(const td_cost *c, int leaves)
{
    return c->leaf * leaves + c->fixed;
}

static double slowest(const td_cost *costs, int ranks, const int *bounds)
{
    double most = 0;
    for (int r = 0; r < ranks; r++) {
        double t = with_leaves(&costs[r], bounds[r + 1] - bounds[r]);
        if (t > most) most = t;
    }
    return most;
}

bool td_balance_deal(const td_cost *costs, int ranks, const int *now, int *bounds)
{
    int count[MOST_RANKS], leaves = now[ranks];
    memcpy(bounds, now, ((size_t)ranks + 1) * sizeof *bounds);
    if (ranks > leaves || ranks > MOST_RANKS) return false;
    for (int r = 0; r < ranks; r++) count[r] = 1;
    for (int l = ranks; l < leaves; l++) { /* the next leaf to whom it makes end soonest */
        int best = 0;
        double soonest = 0;
        for (int r = 0; r < ranks; r++) {
            double t = with_leaves(&costs[r], count[r] + 1);
            if (r == 0 || t < soonest) soonest = t, best = r;
        }
        count[best]++;
    }
    for (int r = 0; r < ranks; r++) bounds[r + 1] = bounds[r] + count[r];
    if (slowest(costs, ranks, bounds) < 0.9 * slowest(costs, ranks, now)) return true;
    memcpy(bounds, now, ((size_t)ranks + 1) * sizeof *bounds);
    return false;
}
