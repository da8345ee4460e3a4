/* See pace.h. */
#include "train/pace.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

#define SLOW_SCORE (1 / 1.5)
#define SLOW_SECONDS 1e-3 /* less is noise */

struct td_paces {
    td_comm *comm;
    int ranks;
    bool balance;
    int steps; /* since the last look */
    td_pace own;
    td_pace *all;       /* [ranks] a step of the newest window */
    double *scores;     /* [ranks] */
    int *slow;          /* [ranks] looks in a row that found it slow */
    int *bounds, *next; /* [ranks + 1] */
    int wishes;         /* looks in a row that would deal leaves otherwise */
};

td_status td_paces_create(td_comm *comm, int leaves, bool balance, td_paces **out)
{
    size_t n = (size_t)td_comm_size(comm);
    td_paces *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(TD_ERR_NOMEM, "no memory for the ranks' paces");
    p->comm = comm, p->ranks = (int)n, p->balance = balance;
    p->all = td_calloc(n, sizeof *p->all);
    p->scores = td_calloc(n, sizeof *p->scores);
    p->slow = td_calloc(n, sizeof *p->slow);
    p->bounds = td_calloc(n + 1, sizeof *p->bounds);
    p->next = td_calloc(n + 1, sizeof *p->next);
    if (!p->all || !p->scores || !p->slow || !p->bounds || !p->next) {
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
    td_free(p->all), td_free(p->scores), td_free(p->slow);
    td_free(p->bounds), td_free(p->next);
    td_free(p);
}

void td_paces_step(td_paces *p, double seconds, double moved, td_pace pace)
{
    pace.seconds[TD_PHASE_OTHER] = 0;
    double left = seconds - moved - td_pace_total(&pace);
    pace.seconds[TD_PHASE_OTHER] = left > 0 ? left : 0;
    for (int k = 0; k < TD_PHASES; k++) p->own.seconds[k] += pace.seconds[k] / TD_PACE_STEPS;
    p->steps++;
}

static void find_slow(td_paces *p, td_pace_look *look)
{
    td_balance_scores(p->all, p->ranks, p->scores);
    for (int r = 0; r < p->ranks; r++) {
        double total = td_pace_total(&p->all[r]), behind;
        int phase = td_balance_phase(p->all, p->ranks, r, &behind);
        bool slow = p->scores[r] < SLOW_SCORE && total * (1 - p->scores[r]) > SLOW_SECONDS;
        p->slow[r] = slow ? p->slow[r] + 1 : 0;
        if (p->slow[r] == TD_PACE_SLOW_LOOKS && look->slow < 0)
            *look = (td_pace_look){r, phase, p->scores[r], behind, false};
    }
}

/* A window may be odd by chance: two must wish for another deal. */
static bool deal(td_paces *p)
{
    bool wished = td_balance_deal(p->all, p->ranks, p->bounds, p->next);
    p->wishes = wished ? p->wishes + 1 : 0;
    if (p->wishes < 2) return false;
    p->wishes = 0;
    memcpy(p->bounds, p->next, ((size_t)p->ranks + 1) * sizeof *p->bounds);
    return true;
}

td_status td_paces_look(td_paces *p, td_pace_look *look)
{
    *look = (td_pace_look){.slow = -1};
    if (p->steps < TD_PACE_STEPS || p->ranks == 1) return TD_OK;
    TD_TRY(td_comm_allgather(p->comm, &p->own, sizeof p->own, p->all));
    p->steps = 0;
    p->own = (td_pace){0};
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
