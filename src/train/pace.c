/* See pace.h. */
#include "train/pace.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

#define SLOW_SCORE (1 / 1.5)
#define SLOW_SECONDS 1e-2 /* less is noise */

/* Leaves are dealt by the median of so many windows: one that is odd by chance moves nothing, and a
 * rank that has become slow shows in the third. */
enum { WINDOWS = 5, LEAST_WINDOWS = 3, NAMED = -1 };

/* What a rank tells the others of a window. */
typedef struct window {
    td_pace pace; /* the mean step */
    td_cost cost; /* of the median step */
} window;

struct td_paces {
    td_comm *comm;
    int ranks, rank;
    bool balance;
    int steps;   /* since the last look */
    int windows; /* of which costs are known */
    window own;
    td_cost of_steps[TD_PACE_STEPS];
    window *told;              /* [ranks] of the newest window */
    td_pace *all;              /* [ranks] their paces */
    td_cost (*costs)[WINDOWS]; /* [ranks] window i in place i % WINDOWS */
    td_cost *usual;            /* [ranks] */
    double *scores;            /* [ranks] */
    int *slow;                 /* [ranks] looks in a row that found it slow; NAMED since it is */
    int *bounds, *next;        /* [ranks + 1] */
};

td_status td_paces_create(td_comm *comm, int leaves, bool balance, td_paces **out)
{
    size_t n = (size_t)td_comm_size(comm);
    td_paces *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(TD_ERR_NOMEM, "no memory for the ranks' paces");
    p->comm = comm, p->ranks = (int)n, p->rank = td_comm_rank(comm), p->balance = balance;
    p->told = td_calloc(n, sizeof *p->told);
    p->all = td_calloc(n, sizeof *p->all);
    p->costs = td_calloc(n, sizeof *p->costs);
    p->usual = td_calloc(n, sizeof *p->usual);
    p->scores = td_calloc(n, sizeof *p->scores);
    p->slow = td_calloc(n, sizeof *p->slow);
    p->bounds = td_calloc(n + 1, sizeof *p->bounds);
    p->next = td_calloc(n + 1, sizeof *p->next);
    if (!p->told || !p->all || !p->costs || !p->usual || !p->scores || !p->slow || !p->bounds ||
        !p->next) {
        td_paces_destroy(p);
        return td_fail(TD_ERR_NOMEM, "no memory for the ranks' paces");
    }
    for (size_t r = 0; r < n; r++) {
        p->scores[r] = 1;
        p->bounds[r + 1] = (int)((long long)leaves * (long long)(r + 1) / (long long)n);
    }
    *out = p;
    return TD_OK;
}

void td_paces_destroy(td_paces *p)
{
    if (!p) return;
    td_free(p->told), td_free(p->all), td_free(p->costs), td_free(p->usual);
    td_free(p->scores), td_free(p->slow);
    td_free(p->bounds), td_free(p->next);
    td_free(p);
}

void td_paces_step(td_paces *p, double seconds, double moved, td_pace pace)
{
    pace.seconds[TD_PHASE_OTHER] = 0;
    double left = seconds - moved - td_pace_total(&pace);
    pace.seconds[TD_PHASE_OTHER] = left > 0 ? left : 0;
    for (int k = 0; k < TD_PHASES; k++) p->own.pace.seconds[k] += pace.seconds[k] / TD_PACE_STEPS;
    int leaves = p->bounds[p->rank + 1] - p->bounds[p->rank];
    if (p->steps < TD_PACE_STEPS) p->of_steps[p->steps] = td_balance_cost(&pace, leaves);
    p->steps++;
}

/* One at a look: another that is slow, too, waits for the next. */
static void find_slow(td_paces *p, td_pace_look *look)
{
    td_balance_scores(p->all, p->ranks, p->scores);
    for (int r = 0; r < p->ranks; r++) {
        double total = td_pace_total(&p->all[r]), behind;
        int phase = td_balance_phase(p->all, p->ranks, r, &behind);
        bool slow = p->scores[r] < SLOW_SCORE && total * (1 - p->scores[r]) > SLOW_SECONDS;
        if (!slow)
            p->slow[r] = 0;
        else if (p->slow[r] != NAMED)
            p->slow[r]++;
        if (p->slow[r] < TD_PACE_SLOW_LOOKS || look->slow >= 0) continue;
        *look = (td_pace_look){r, phase, p->scores[r], behind, false};
        p->slow[r] = NAMED;
    }
}

static bool deal(td_paces *p)
{
    int n = p->windows < WINDOWS ? p->windows : WINDOWS;
    if (n < LEAST_WINDOWS) return false;
    for (int r = 0; r < p->ranks; r++) p->usual[r] = td_balance_usual(p->costs[r], n);
    if (!td_balance_deal(p->usual, p->ranks, p->bounds, p->next)) return false;
    memcpy(p->bounds, p->next, ((size_t)p->ranks + 1) * sizeof *p->bounds);
    return true;
}

td_status td_paces_look(td_paces *p, td_pace_look *look)
{
    *look = (td_pace_look){.slow = -1};
    if (p->steps < TD_PACE_STEPS || p->ranks == 1) return TD_OK;
    p->own.cost = td_balance_usual(p->of_steps, TD_PACE_STEPS);
    TD_TRY(td_comm_allgather(p->comm, &p->own, sizeof p->own, p->told));
    for (int r = 0; r < p->ranks; r++) {
        p->all[r] = p->told[r].pace;
        p->costs[r][p->windows % WINDOWS] = p->told[r].cost;
    }
    p->windows++;
    p->steps = 0;
    p->own = (window){0};
    find_slow(p, look);
    if (p->balance) look->deal = deal(p);
    return TD_OK;
}

const int *td_paces_bounds(const td_paces *p)
{
    return p->bounds;
}

const double *td_paces_scores(const td_paces *p)
{
    return p->scores;
}
