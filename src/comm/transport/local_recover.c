/* Recovery where ranks are threads: they come together at a table under one lock.
 *
 * Who comes sees whether all are there whom the run still has; the one who completes them makes the
 * plan and the new group, for all. So nobody can hold another plan than the others. A thread that
 * is lost (td_comm_die) is taken off the table by that. */
#include "comm/transport/local.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

enum { PATIENCE_NS = 1000000000 }; /* with ranks on their way to the spares */

/* The first rank of that role, -1: none. */
static int first_of(const td_local_run *run, td_role role)
{
    for (int r = 0; r < run->size; r++)
        if (run->rank[r].role == role) return r;
    return -1;
}

/* Who was told before and has not woken yet stays told: it was sent back, and still is. */
static void announce(td_local_run *run)
{
    for (int r = 0; r < run->size; r++)
        if (run->rank[r].role == TD_ROLE_RECOVERING) run->rank[r].told = true;
    pthread_cond_broadcast(&run->changed);
}

/* All who recover get this sentence. */
static void judge(td_local_run *run, td_status status)
{
    run->verdict = status;
    snprintf(run->judgement, sizeof run->judgement, "%s", td_last_error());
    announce(run);
    for (int r = 0; r < run->size; r++)
        if (run->rank[r].role == TD_ROLE_RECOVERING) run->rank[r].role = TD_ROLE_ACTIVE;
}

/* False: this rank lacks the memory. */
static bool decide(td_local_run *run)
{
    td_role role[TD_COMM_RANKS];
    bool leaves[TD_COMM_RANKS];
    const td_muster *wish = &run->rank[first_of(run, TD_ROLE_RECOVERING)].wish;
    td_plan *plan = &run->plan;
    for (int r = 0; r < run->size; r++)
        role[r] = run->rank[r].role, leaves[r] = run->rank[r].wish.leaves;
    td_roster roster = {.ranks = run->size,
                        .role = role,
                        .leaves = leaves,
                        .former_size = run->member_count,
                        .former = run->member,
                        .want = wish->want,
                        .least = wish->least};
    td_status status = td_recover_plan(&roster, plan);
    if (status == TD_OK && !(plan->impl = td_local_group_create(plan->size, run))) return false;
    if (status != TD_OK) {
        judge(run, status);
        return true;
    }
    run->verdict = TD_OK;
    announce(run);
    plan->generation = ++run->generation;
    atomic_store(&run->lost, 0);
    run->member_count = plan->size;
    memcpy(run->member, plan->world, (size_t)plan->size * sizeof *run->member);
    for (int r = 0; r < run->size; r++)
        if (plan->parted[r]) run->rank[r].role = TD_ROLE_PARTING;
    for (int k = 0; k < plan->size; k++) {
        run->rank[plan->world[k]].role = TD_ROLE_ACTIVE;
        run->rank[plan->world[k]].told = true;
    }
    return true;
}

static void end_generation(td_local_run *run, const td_comm *comm, const char *why)
{
    if ((int64_t)run->generation <= atomic_load(&run->revoked)) return;
    snprintf(run->why, sizeof run->why, "rank %d recovers: %.240s", comm->seat->rank, why);
    atomic_store(&run->revoked, (int64_t)run->generation);
}

static td_status not_coming(const td_muster *mine, int missing)
{
    if (mine->on_hang == TD_HANG_KILL)
        return td_fail(TD_ERR_UNSUPPORTED,
                       "recover: rank %d lives but did not come within %lld ms, and is a thread, "
                       "which "
                       "cannot be killed; run it under mpiexec",
                       missing, (long long)mine->deadline_ms);
    return td_fail(TD_ERR_TIMEOUT, "recover: rank %d lives but did not come within %lld ms",
                   missing, (long long)mine->deadline_ms);
}

/* Under the lock, until something has changed, or a millisecond-exact deadline. */
static void rest(td_local_run *run, int64_t until_ns)
{
    struct timespec at = {.tv_sec = until_ns / 1000000000, .tv_nsec = until_ns % 1000000000};
    if (until_ns)
        pthread_cond_timedwait(&run->changed, &run->lock, &at);
    else
        pthread_cond_wait(&run->changed, &run->lock);
}

/* Whether more ranks are wanted than there are, and some are on their way back to the spares. */
static bool wants_parting(const td_local_run *run)
{
    int there = 0, first = first_of(run, TD_ROLE_RECOVERING);
    int want = run->rank[first].wish.want > 0 ? run->rank[first].wish.want : run->member_count;
    for (int r = 0; r < run->size; r++)
        there += run->rank[r].role == TD_ROLE_SPARE ||
                 (run->rank[r].role == TD_ROLE_RECOVERING && !run->rank[r].wish.leaves);
    return there < want && first_of(run, TD_ROLE_PARTING) >= 0;
}

/* Until this rank is told; *ended: a spare that nobody is left to take. */
static td_status wait_told(td_local_run *run, int rank, const td_muster *mine, bool *ended)
{
    td_local_rank *self = &run->rank[rank];
    int64_t until = td_clock_ns() + mine->deadline_ms * 1000000;
    int64_t patience = td_clock_ns() + PATIENCE_NS;
    bool timed = mine->role == TD_ROLE_RECOVERING && mine->on_hang != TD_HANG_WAIT;
    for (;;) {
        int missing = first_of(run, TD_ROLE_ACTIVE);
        if (atomic_load(&run->failed))
            return td_fail(TD_ERR_PEER, "rank %d failed: %.900s", atomic_load(&run->failed) - 1,
                           run->sentence);
        if (self->role == TD_ROLE_DEAD) return td_fail(TD_ERR_PEER, "rank %d has died", rank);
        if (self->told)
            return run->verdict == TD_OK ? TD_OK : td_fail_again(run->verdict, run->judgement);
        if (missing < 0 && first_of(run, TD_ROLE_RECOVERING) >= 0 &&
            (!wants_parting(run) || td_clock_ns() >= patience)) {
            if (!decide(run)) { /* another may have more */
                td_warn("rank %d leaves the run: no memory for a group", rank);
                self->role = TD_ROLE_DEAD;
                pthread_cond_broadcast(&run->changed);
            }
            continue;
        }
        *ended = missing < 0 && first_of(run, TD_ROLE_RECOVERING) < 0 &&
                 first_of(run, TD_ROLE_PARTING) < 0;
        if (*ended) return TD_OK;
        if (timed && missing >= 0 && td_clock_ns() >= until)
            judge(run, not_coming(mine, missing));
        else
            rest(run, mine->role != TD_ROLE_RECOVERING ? 0
                      : missing < 0                    ? patience
                      : timed                          ? until
                                                       : 0);
    }
}

td_status td_local_muster(td_comm *comm, const td_muster *mine, td_plan *plan)
{
    td_local_run *run = ((td_local_group *)comm->impl)->run;
    td_local_rank *self = &run->rank[comm->seat->rank];
    size_t n = (size_t)run->size;
    bool ended = false;
    pthread_mutex_lock(&run->lock);
    if (self->role != TD_ROLE_DEAD) {
        self->role = mine->role;
        self->wish = *mine;
        self->told = false;
        if (mine->role == TD_ROLE_RECOVERING) end_generation(run, comm, mine->why);
        pthread_cond_broadcast(&run->changed);
    }
    td_status status = wait_told(run, comm->seat->rank, mine, &ended);
    if (status == TD_OK && !ended) {
        memcpy(plan->world, run->plan.world, n * sizeof *plan->world);
        memcpy(plan->came, run->plan.came, n * sizeof *plan->came);
        memcpy(plan->parted, run->plan.parted, n * sizeof *plan->parted);
        plan->generation = run->plan.generation;
        plan->size = run->plan.size;
        plan->left = 0; /* of the group that this rank comes from: others may have met since */
        for (int r = 0; r < comm->size; r++)
            plan->left += run->rank[comm->world[r]].role == TD_ROLE_LEFT;
        plan->impl = run->plan.impl;
    }
    plan->ended = ended;
    pthread_mutex_unlock(&run->lock);
    return status;
}

/* --- the end of a rank --- */

static void become(td_local_run *run, int rank, td_role role)
{
    pthread_mutex_lock(&run->lock);
    td_role before = run->rank[rank].role;
    /* One that was lost stays lost; a spare that never was taken leaves nothing behind. */
    if (before != TD_ROLE_DEAD && !(before == TD_ROLE_SPARE && role == TD_ROLE_LEFT))
        run->rank[rank].role = role;
    for (int k = 0; k < run->member_count && role == TD_ROLE_DEAD; k++)
        if (run->member[k] == rank && !atomic_load(&run->lost)) atomic_store(&run->lost, rank + 1);
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->lock);
}

void td_local_lose(td_comm *comm, int rank)
{
    become(((td_local_group *)comm->impl)->run, rank, TD_ROLE_DEAD);
}

void td_local_die(td_comm *comm)
{
    td_local_lose(comm, comm->world[comm->rank]);
    td_local_ring_all(comm->impl);
}

void td_local_leave(td_comm *comm)
{
    td_local_group *g = comm->impl;
    become(g->run, comm->world[comm->rank], TD_ROLE_LEFT);
    atomic_store(&g->run->left[comm->world[comm->rank]], true);
    atomic_store(&g->boxes[comm->rank].left, true);
    td_local_ring_all(g);
}
