/* Runs ranks as threads of this process. */
#include "comm/transport/local.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/coll/coll.h"
#include "comm/recorder.h"

#include <stdio.h>
#include <string.h>

void td_local_run_destroy(td_local_run *run)
{
    if (!run) return;
    for (td_local_shared *s = run->shared, *next; s; s = next) { /* some rank never took it */
        next = s->next;
        td_free(s->memory);
        td_free(s);
    }
    while (run->groups) td_local_group_destroy(run->groups);
    pthread_cond_destroy(&run->changed);
    pthread_mutex_destroy(&run->lock);
    pthread_mutex_destroy(&run->groups_lock);
    td_free(run->rank), td_free(run->left), td_free(run->member);
    td_free(run->plan.world), td_free(run->plan.came), td_free(run->plan.parted);
    td_free(run);
}

td_local_run *td_local_run_create(int size, int active)
{
    td_local_run *run = td_calloc(1, sizeof *run);
    size_t n = (size_t)size;
    if (!run) return NULL;
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&run->lock, NULL);
    pthread_mutex_init(&run->groups_lock, NULL);
    pthread_cond_init(&run->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    run->size = size;
    run->rank = td_calloc(n, sizeof *run->rank);
    run->left = td_calloc(n, sizeof *run->left);
    run->member = td_calloc(n, sizeof *run->member);
    run->plan = (td_plan){.world = td_calloc(n, sizeof *run->plan.world),
                          .came = td_calloc(n, sizeof *run->plan.came),
                          .parted = td_calloc(n, sizeof *run->plan.parted)};
    atomic_init(&run->revoked, -1);
    if (!run->rank || !run->left || !run->member || !run->plan.world || !run->plan.came ||
        !run->plan.parted) {
        td_local_run_destroy(run);
        return NULL;
    }
    run->member_count = active;
    for (int r = 0; r < size; r++) {
        run->member[r] = r;
        run->rank[r].role = r < active ? TD_ROLE_ACTIVE : TD_ROLE_PARTING;
    }
    return run;
}

typedef struct rank_state {
    td_comm comm; /* its first group; a spare's: only a handle */
    td_seat seat;
    td_rank_fn *fn;
    void *arg;
    pthread_t thread;
    bool spare;
    char pad[128]; /* a rank writes its group's counters all the time, in cache lines of its own */
} rank_state;

static bool has_died(td_local_run *run, int rank)
{
    pthread_mutex_lock(&run->lock);
    bool dead = run->rank[rank].role == TD_ROLE_DEAD;
    pthread_mutex_unlock(&run->lock);
    return dead;
}

static void *rank_main(void *arg)
{
    rank_state *self = arg;
    td_local_run *run = ((td_local_group *)self->comm.impl)->run;
    td_comm_spread_out(&self->comm);
    td_status status = td_comm_run_rank(&self->comm, self->spare, self->fn, self->arg);
    if (status != TD_OK && !has_died(run, self->seat.rank)) td_local_fail(&self->comm, status);
    td_coll_release(&self->comm);
    td_local_leave(&self->comm);
    td_recorder_close(&self->comm);
    return NULL;
}

/* Starts all, runs rank 0 on this thread and joins the others. The first failure counts: those that
 * it made elsewhere come later. */
static td_status run_all(rank_state *state, td_local_run *run)
{
    td_status status = TD_OK;
    int started = 0, finished = 0;
    for (int r = 1; r < run->size && status == TD_OK; r++) {
        if (pthread_create(&state[r].thread, NULL, rank_main, &state[r]) == 0) {
            started = r;
            continue;
        }
        status = td_fail(TD_ERR_NOMEM, "the thread of rank %d could not be started", r);
        td_local_fail(&state[0].comm, status);
    }
    if (status == TD_OK) rank_main(&state[0]);
    for (int r = 1; r <= started; r++) pthread_join(state[r].thread, NULL);
    if (atomic_load(&run->failed)) return td_fail_again(run->failure, run->sentence);
    for (int r = 0; r < run->size; r++) finished += run->rank[r].role == TD_ROLE_LEFT;
    return finished ? TD_OK : td_fail(TD_ERR_PEER, "all ranks that were active have died");
}

/* A spare's handle is a group of its own. */
static td_status prepare(rank_state *s, td_local_run *run, td_local_group *first, int active,
                         const int *hosts)
{
    td_local_group *g = s->spare ? td_local_group_create(1, run) : first;
    if (!g) return td_fail(TD_ERR_NOMEM, "no memory for %d ranks", run->size);
    s->comm = (td_comm){.ops = &td_local_ops, .impl = g, .seat = &s->seat};
    s->comm.the_runs = true;
    s->comm.rank = s->spare ? 0 : s->seat.rank;
    s->comm.size = s->spare ? 1 : active;
    return td_comm_set_hosts(&s->comm, s->spare ? hosts + s->seat.rank : hosts,
                             s->spare ? &s->seat.rank : NULL);
}

static td_status run_ranks(int ranks, int active, const td_comm_config *config, td_rank_fn *fn,
                           void *arg)
{
    td_status status = TD_OK;
    td_local_run *run = td_local_run_create(ranks, active);
    td_local_group *g = td_local_group_create(active, run);
    rank_state *state = td_calloc((size_t)ranks, sizeof *state);
    int *hosts = td_calloc((size_t)ranks, sizeof *hosts); /* all 0 */
    if (!run || !g || !state || !hosts) {
        status = td_fail(TD_ERR_NOMEM, "no memory for %d ranks", ranks);
        goto out;
    }
    td_comm_fake_hosts(hosts, ranks);
    for (int r = 0; r < ranks; r++) {
        state[r] = (rank_state){.fn = fn, .arg = arg, .spare = r >= active};
        state[r].seat =
            (td_seat){.rank = r, .ranks = ranks, .host = hosts, .place = r, .places = ranks};
        TD_GOTO(prepare(&state[r], run, g, active, hosts));
        state[r].comm.deadline_ms = td_comm_deadline(config);
    }
    status = run_all(state, run);
out:
    for (int r = 0; state && r < ranks; r++) {
        if (state[r].spare && state[r].comm.impl) td_local_group_destroy(state[r].comm.impl);
        td_free(state[r].comm.host);
    }
    td_free(hosts);
    td_free(state);
    if (g) td_local_group_destroy(g);
    td_local_run_destroy(run);
    return status;
}

td_status td_comm_run_local(int ranks, const td_comm_config *config, td_rank_fn *fn, void *arg)
{
    int spares = config ? config->spares : 0;
    TD_TRY(td_comm_check_config(config));
    TD_TRY(td_comm_check_ranks(ranks, spares));
    if (!fn) return td_fail(TD_ERR_ARG, "a run: no function for its ranks");
    return run_ranks(ranks, ranks - spares, config, fn, arg);
}

td_status td_comm_self(const td_comm_config *config, td_comm **out)
{
    TD_TRY(td_comm_check_config(config));
    TD_TRY(td_comm_check_given(out, "a group of one", "place for it"));
    td_comm *comm = td_calloc(1, sizeof *comm);
    td_local_run *run = td_local_run_create(1, 1);
    td_local_group *g = run ? td_local_group_create(1, run) : NULL;
    td_status status = TD_OK;
    int host = 0;
    if (!comm || !g) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a group of one");
        goto out;
    }
    atomic_store(&run->alone, 1);
    *comm = (td_comm){.ops = &td_local_ops, .impl = g, .size = 1};
    comm->deadline_ms = td_comm_deadline(config);
    TD_GOTO(td_comm_set_hosts(comm, &host, NULL));
    *out = comm;
    return TD_OK;
out:
    if (g) td_local_group_destroy(g);
    td_local_run_destroy(run);
    td_free(comm);
    return status;
}
