/* Who is in the new group, and at which place: a function of what all ranks are, so that whoever
 * computes it gets the same.
 *
 * Places of the former group stay with those who are still there. Empty ones go to ranks that come
 * to the recovery without having been in it (a failure during an earlier recovery), then to spares,
 * lowest first; ranks beyond the former places follow. What is still empty is closed up. Who stands
 * beyond the wanted size is not needed, nor is who came to leave. Cost: ranks squared, at most. */
#include "comm/recover.h"

#include "base/error.h"

static bool taken(const td_plan *plan, int rank)
{
    for (int k = 0; k < plan->size; k++)
        if (plan->world[k] == rank) return true;
    return false;
}

/* Whether it is in the role, and not to leave. */
static bool has(const td_roster *in, int rank, td_role role)
{
    return in->role[rank] == role && !(role == TD_ROLE_RECOVERING && in->leaves[rank]);
}

/* The next rank of that role, from `*from` on, that has no place yet; -1: none. */
static int next_of(const td_roster *in, const td_plan *plan, td_role role, int *from)
{
    while (*from < in->ranks) {
        int rank = (*from)++;
        if (has(in, rank, role) && !taken(plan, rank)) return rank;
    }
    return -1;
}

static int count(const td_roster *in, td_role role)
{
    int n = 0;
    for (int r = 0; r < in->ranks; r++) n += has(in, r, role);
    return n;
}

td_status td_recover_plan(const td_roster *in, td_plan *plan)
{
    int there = count(in, TD_ROLE_RECOVERING);
    int want = in->want > 0 ? in->want : in->former_size;
    int spares = want - there, stranger = 0, spare = 0, places = in->former_size;
    if (spares > count(in, TD_ROLE_SPARE)) spares = count(in, TD_ROLE_SPARE);
    if (spares < 0) spares = 0;
    if (places > in->ranks) places = in->ranks;
    plan->size = places;
    for (int k = 0; k < places; k++) {
        int rank = in->former[k];
        plan->world[k] = has(in, rank, TD_ROLE_RECOVERING) ? rank : -1;
        plan->came[k] = false;
    }
    for (int k = 0; k < in->ranks; k++) { /* empty places, then those behind */
        if (k < places && plan->world[k] >= 0) continue;
        int rank = next_of(in, plan, TD_ROLE_RECOVERING, &stranger);
        bool came = rank < 0 && spares > 0;
        if (came) rank = next_of(in, plan, TD_ROLE_SPARE, &spare), spares--;
        if (rank < 0 && k >= places) break;
        plan->world[k] = rank, plan->came[k] = came;
        if (k >= places) plan->size = k + 1;
    }
    int size = 0;
    for (int k = 0; k < plan->size; k++)
        if (plan->world[k] >= 0)
            plan->world[size] = plan->world[k], plan->came[size++] = plan->came[k];
    plan->size = size < want ? size : want;
    plan->left = 0;
    for (int k = 0; k < in->former_size; k++) plan->left += in->role[in->former[k]] == TD_ROLE_LEFT;
    for (int r = 0; r < in->ranks; r++)
        plan->parted[r] = in->role[r] == TD_ROLE_RECOVERING && !taken(plan, r);
    if (plan->size >= in->least && plan->size > 0) return TD_OK;
    return td_fail(TD_ERR_PEER, "recover: of %d ranks %d are left, where at least %d are wanted",
                   in->former_size, plan->size, in->least > 1 ? in->least : 1);
}
