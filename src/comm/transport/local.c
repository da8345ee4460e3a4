/* Ranks are threads of this process.
 *
 * A message is never copied twice: whichever of sender and receiver comes second finds the other's
 * request in the receiver's inbox and copies straight from one buffer to the other. Requests are
 * linked into the lists themselves, so nothing is allocated. The copy is made outside the lock;
 * meanwhile both requests are marked COPYING, and whoever wants to withdraw one waits.
 *
 * Lists are searched from the oldest: cheap, as few messages to one rank are under way at once. */
#include "comm/transport.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/coll/coll.h"
#include "comm/transport/requests.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { SENTENCE = 1024 };
enum { OPEN = 0, FINISHED = 1, MISFIT = 2, COPYING = 3 }; /* td_request.done */

typedef struct inbox {
    pthread_mutex_t lock;
    td_request *sends;    /* guarded by lock; to this rank, unmatched, oldest first */
    td_request *receives; /* guarded by lock; by this rank, unmatched, oldest first */
    td_bell bell;         /* rung when a request of this rank has ended */
    atomic_bool left;
    char pad[32];
} inbox;

typedef struct shared {
    struct shared *next;
    atomic_int users;
    void *data;
} shared;

typedef struct group {
    int size;
    atomic_int members; /* that have not closed */
    inbox *boxes;       /* [size] */
    struct group *run;  /* the group of all ranks: where failures are told */
    /* of the run: */
    pthread_mutex_t lock; /* guards failure and sentence */
    atomic_int failed;    /* rank + 1 of the first failure, 0: none */
    td_status failure;
    char sentence[SENTENCE];
    shared *shared; /* guarded by lock; memory not let go of yet */
    td_card *cards; /* [size] guarded by lock; group 0: none shown */
} group;

static group *group_create(int size, group *run)
{
    group *g = td_calloc(1, sizeof *g);
    inbox *boxes = td_calloc((size_t)size, sizeof *boxes);
    if (!g || !boxes) {
        td_free(boxes);
        td_free(g);
        return NULL;
    }
    td_card *cards = run ? NULL : td_calloc((size_t)size, sizeof *cards);
    if (!run && !cards) {
        td_free(boxes);
        td_free(g);
        return NULL;
    }
    g->size = size;
    g->run = run ? run : g;
    g->boxes = boxes;
    g->cards = cards;
    atomic_init(&g->members, size);
    pthread_mutex_init(&g->lock, NULL);
    for (int r = 0; r < size; r++) pthread_mutex_init(&boxes[r].lock, NULL);
    return g;
}

static void group_destroy(group *g)
{
    for (int r = 0; r < g->size; r++) pthread_mutex_destroy(&g->boxes[r].lock);
    pthread_mutex_destroy(&g->lock);
    for (shared *s = g->shared, *next; s; s = next) { /* some rank never took it */
        next = s->next;
        td_free(s->data);
        td_free(s);
    }
    td_free(g->cards);
    td_free(g->boxes);
    td_free(g);
}

/* --- messages --- */

static void set_state(td_request *request, int state)
{
    __atomic_store_n(&request->done, state, __ATOMIC_RELEASE);
}

/* The other's request may be gone as soon as its state says so. */
static void copy(group *g, td_request *send, td_request *receive, int other)
{
    bool fits = td_requests_fit(send, receive);
    if (fits && send->bytes) memcpy(receive->data, send->data, send->bytes);
    set_state(receive, fits ? FINISHED : MISFIT);
    set_state(send, FINISHED);
    td_bell_ring(&g->boxes[other].bell);
}

/* Puts a request into the box, or takes the one that it fits out of it. */
static td_status post(td_comm *comm, td_request *request, bool sends)
{
    group *g = comm->impl;
    inbox *box = &g->boxes[sends ? request->peer : comm->rank];
    request->self = comm->rank;
    request->done = OPEN;
    pthread_mutex_lock(&box->lock);
    td_request *match = td_requests_take(sends ? &box->receives : &box->sends, request->peer,
                                         comm->rank, request->tag);
    if (match) {
        set_state(match, COPYING);
        request->done = COPYING;
    } else {
        td_requests_append(sends ? &box->sends : &box->receives, request);
    }
    pthread_mutex_unlock(&box->lock);
    if (match) copy(g, sends ? request : match, sends ? match : request, request->peer);
    return TD_OK;
}

static td_status local_isend(td_comm *comm, td_request *request)
{
    return post(comm, request, true);
}

static td_status local_irecv(td_comm *comm, td_request *request)
{
    return post(comm, request, false);
}

static td_status local_test(td_comm *comm, td_request *request, bool *done)
{
    int state = __atomic_load_n(&request->done, __ATOMIC_ACQUIRE);
    *done = state == FINISHED;
    if (state == MISFIT)
        return td_fail(TD_ERR_PEER, "rank %d sent %zu bytes where rank %d expected %zu in %s",
                       comm->world[request->peer], request->got, comm->world[comm->rank],
                       request->bytes, comm->operation);
    return TD_OK;
}

static void unlink_request(inbox *box, const td_request *request)
{
    pthread_mutex_lock(&box->lock);
    for (int k = 0; k < 2; k++) td_requests_remove(k ? &box->sends : &box->receives, request);
    pthread_mutex_unlock(&box->lock);
}

static void local_cancel(td_comm *comm, td_request *request)
{
    group *g = comm->impl;
    unlink_request(&g->boxes[request->peer], request);
    unlink_request(&g->boxes[comm->rank], request);
    while (__atomic_load_n(&request->done, __ATOMIC_ACQUIRE) == COPYING) sched_yield();
}

static td_bell *local_bell(td_comm *comm)
{
    return &((group *)comm->impl)->boxes[comm->rank].bell;
}

/* --- failures --- */

static td_status local_check(td_comm *comm, int peer)
{
    group *g = comm->impl, *run = g->run;
    int failed = atomic_load(&run->failed);
    if (failed && failed - 1 != comm->world[comm->rank]) {
        pthread_mutex_lock(&run->lock);
        td_status status = td_fail(TD_ERR_PEER, "rank %d failed: %.900s",
                                   atomic_load(&run->failed) - 1, run->sentence);
        pthread_mutex_unlock(&run->lock);
        return status;
    }
    if (peer < 0) return TD_OK;
    if (atomic_load(&g->boxes[peer].left) || atomic_load(&run->boxes[comm->world[peer]].left))
        return td_fail(TD_ERR_PEER, "rank %d left while rank %d waited for it in %s",
                       comm->world[peer], comm->world[comm->rank], comm->operation);
    return TD_OK;
}

static void ring_all(group *g)
{
    for (int r = 0; r < g->size; r++) td_bell_ring(&g->boxes[r].bell);
}

static void local_fail(td_comm *comm, td_status status)
{
    group *run = ((group *)comm->impl)->run;
    pthread_mutex_lock(&run->lock);
    /* What a failure made elsewhere may be told before it. */
    bool cause = run->failure == TD_ERR_PEER && status != TD_ERR_PEER;
    if (!atomic_load(&run->failed) || cause) {
        run->failure = status;
        snprintf(run->sentence, sizeof run->sentence, "%s", td_last_error());
        atomic_store(&run->failed, comm->world[comm->rank] + 1);
    }
    pthread_mutex_unlock(&run->lock);
    ring_all(run);
}

/* Cards lie where all look; nobody need be told. */
static void local_show(td_comm *comm, int world)
{
    group *run = ((group *)comm->impl)->run;
    (void)world;
    pthread_mutex_lock(&run->lock);
    run->cards[comm->world[comm->rank]] = comm->card;
    pthread_mutex_unlock(&run->lock);
}

static bool local_card(td_comm *comm, int world, td_card *out)
{
    group *run = ((group *)comm->impl)->run;
    pthread_mutex_lock(&run->lock);
    *out = run->cards[world];
    pthread_mutex_unlock(&run->lock);
    return out->group != 0;
}

/* --- groups --- */

/* The first member makes the group and hands its address to the others. */
static td_status local_split(td_comm *comm, int color, int key, const int *members, td_comm *out)
{
    (void)color, (void)key;
    if (!members) return TD_OK;
    group *g = NULL;
    if (out->rank > 0)
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, &g, sizeof g, members[0], TD_TAG_SPLIT));
    else
        g = group_create(out->size, ((group *)comm->impl)->run);
    for (int k = 1; k < out->size && out->rank == 0; k++)
        TD_TRY(td_comm_exchange(comm, &g, sizeof g, members[k], NULL, 0, -1, TD_TAG_SPLIT));
    if (!g) return td_fail(TD_ERR_NOMEM, "no memory for a group of %d ranks", out->size);
    out->impl = g;
    return TD_OK;
}

static void local_close(td_comm *comm)
{
    group *g = comm->impl;
    atomic_store(&g->boxes[comm->rank].left, true);
    ring_all(g);
    if (atomic_fetch_sub(&g->members, 1) == 1) group_destroy(g);
}

/* --- shared memory: plain memory, freed by whoever lets go last, or at the run's end --- */

static shared *make_shared(group *run, size_t bytes, int users)
{
    shared *s = td_calloc(1, sizeof *s);
    void *data = td_alloc_aligned(bytes);
    if (!s || !data) {
        td_free(data);
        td_free(s);
        return NULL;
    }
    memset(data, 0, bytes);
    s->data = data;
    atomic_init(&s->users, users);
    pthread_mutex_lock(&run->lock);
    s->next = run->shared;
    run->shared = s;
    pthread_mutex_unlock(&run->lock);
    return s;
}

static void free_shared(group *run, shared *s)
{
    pthread_mutex_lock(&run->lock);
    shared **at = &run->shared;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&run->lock);
    td_free(s->data);
    td_free(s);
}

/* Between the first rank of a host and that one: the memory's address, and an answer, so that both
 * see what the other runs. */
static td_status hand_over(td_comm *comm, shared **s, int first, int rank)
{
    char answer = 0;
    if (comm->rank == first) {
        TD_TRY(td_comm_exchange(comm, s, sizeof *s, rank, NULL, 0, -1, TD_TAG_SHARED));
        return td_comm_exchange(comm, NULL, 0, -1, &answer, 1, rank, TD_TAG_SHARED);
    }
    td_status got = td_comm_exchange(comm, NULL, 0, -1, s, sizeof *s, first, TD_TAG_SHARED);
    if (got != TD_OK && got != TD_ERR_ARG) return got;
    char why[SENTENCE];
    snprintf(why, sizeof why, "%s", td_last_error());
    td_status told = td_comm_exchange(comm, &answer, 1, first, NULL, 0, -1, TD_TAG_SHARED);
    return got != TD_OK ? td_fail_again(got, why) : told;
}

/* The (perhaps pretended) host's first rank makes it and hands its address to the others. */
static td_status local_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    int first = 0;
    while (comm->host[first] != comm->host[comm->rank]) first++;
    shared *s = NULL;
    if (comm->rank == first) s = make_shared(((group *)comm->impl)->run, bytes, comm->local_size);
    for (int r = first + 1; r < comm->size; r++)
        if (comm->host[r] == comm->host[first] && (comm->rank == first || comm->rank == r))
            TD_TRY(hand_over(comm, &s, first, r));
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for %zu shared bytes", bytes);
    *out = (td_region){.data = s->data, .bytes = bytes, .handle = s};
    return TD_OK;
}

static void local_shared_destroy(td_comm *comm, td_region *region)
{
    shared *s = region->handle;
    if (atomic_fetch_sub(&s->users, 1) == 1) free_shared(((group *)comm->impl)->run, s);
}

static const td_transport_ops local_ops = {
    .name = "local",
    .isend = local_isend,
    .irecv = local_irecv,
    .test = local_test,
    .cancel = local_cancel,
    .bell = local_bell,
    .check = local_check,
    .fail = local_fail,
    .show = local_show,
    .card = local_card,
    .split = local_split,
    .shared_create = local_shared_create,
    .shared_destroy = local_shared_destroy,
    .close = local_close,
    .one_memory = true,
};

/* --- running --- */

typedef struct rank_state {
    td_comm comm;
    td_rank_fn *fn;
    void *arg;
    pthread_t thread;
} rank_state;

static int64_t deadline_of(const td_comm_config *config)
{
    return config && config->deadline_ms > 0 ? config->deadline_ms : 300000;
}

/* Moves this thread to the rank's own core, and leaves it free again: a thread begins on the core
 * of the one that made it, and two that take turns there may do so for a long while. */
static void spread_out(int rank, int size)
{
#if defined(__linux__)
    cpu_set_t allowed, one;
    int cpu = 0;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < size) return;
    for (int left = rank; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && left-- == 0) break;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)rank, (void)size;
#endif
}

static void *rank_main(void *arg)
{
    rank_state *self = arg;
    group *g = self->comm.impl;
    spread_out(self->comm.rank, g->size);
    td_status status = self->fn(&self->comm, self->arg);
    if (status != TD_OK) local_fail(&self->comm, status);
    td_coll_release(&self->comm);
    atomic_store(&g->boxes[self->comm.rank].left, true);
    ring_all(g);
    return NULL;
}

/* Starts all, runs rank 0 on this thread and joins the others. The first failure counts: those that
 * it made elsewhere come later. */
static td_status run_all(rank_state *state, group *g)
{
    td_status status = TD_OK;
    int started = 0;
    for (int r = 1; r < g->size && status == TD_OK; r++) {
        if (pthread_create(&state[r].thread, NULL, rank_main, &state[r]) == 0) {
            started = r;
            continue;
        }
        status = td_fail(TD_ERR_NOMEM, "the thread of rank %d could not be started", r);
        local_fail(&state[0].comm, status);
    }
    if (status == TD_OK) rank_main(&state[0]);
    for (int r = 1; r <= started; r++) pthread_join(state[r].thread, NULL);
    return atomic_load(&g->failed) ? td_fail_again(g->failure, g->sentence) : TD_OK;
}

td_status td_comm_run_local(int ranks, const td_comm_config *config, td_rank_fn *fn, void *arg)
{
    if (ranks < 1 || ranks > 1024)
        return td_fail(TD_ERR_ARG, "the number of workers must be 1 to 1024, not %d", ranks);
    td_status status = TD_OK;
    group *g = group_create(ranks, NULL);
    rank_state *state = td_calloc((size_t)ranks, sizeof *state);
    int *hosts = td_calloc((size_t)ranks, sizeof *hosts); /* all 0 */
    if (!g || !state || !hosts) {
        status = td_fail(TD_ERR_NOMEM, "no memory for %d ranks", ranks);
        goto out;
    }
    td_comm_fake_hosts(hosts, ranks);
    for (int r = 0; r < ranks; r++) {
        state[r] = (rank_state){.fn = fn, .arg = arg};
        state[r].comm = (td_comm){.ops = &local_ops, .impl = g, .rank = r, .size = ranks};
        state[r].comm.deadline_ms = deadline_of(config);
        TD_GOTO(td_comm_set_hosts(&state[r].comm, hosts, NULL));
    }
    status = run_all(state, g);
out:
    for (int r = 0; state && r < ranks; r++) td_free(state[r].comm.host);
    td_free(hosts);
    td_free(state);
    if (g) group_destroy(g);
    return status;
}

td_status td_comm_self(const td_comm_config *config, td_comm **out)
{
    td_comm *comm = td_calloc(1, sizeof *comm);
    group *g = group_create(1, NULL);
    int host = 0;
    if (!comm || !g) {
        td_free(comm);
        if (g) group_destroy(g);
        return td_fail(TD_ERR_NOMEM, "no memory for a group of one");
    }
    *comm = (td_comm){.ops = &local_ops, .impl = g, .size = 1, .deadline_ms = deadline_of(config)};
    td_status status = td_comm_set_hosts(comm, &host, NULL);
    if (status == TD_OK) {
        *out = comm;
        return TD_OK;
    }
    group_destroy(g);
    td_free(comm);
    return status;
}
