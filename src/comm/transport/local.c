/* Ranks are threads of this process.
 *
 * A message is never copied twice: whichever of sender and receiver comes second finds the other's
 * request in the receiver's inbox and copies straight from one buffer to the other. Requests are
 * linked into the lists themselves, so nothing is allocated. The copy is made outside the lock;
 * meanwhile both requests are marked COPYING, and whoever wants to withdraw one waits.
 *
 * Lists are searched from the oldest: cheap, as few messages to one rank are under way at once. */
#include "comm/transport/local.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport/requests.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { OPEN = 0, FINISHED = 1, MISFIT = 2, COPYING = 3 }; /* td_request.done */

td_local_group *td_local_group_create(int size, td_local_run *run)
{
    td_local_group *g = run ? td_calloc(1, sizeof *g) : NULL;
    td_local_inbox *boxes = td_calloc((size_t)size, sizeof *boxes);
    if (!g || !boxes) {
        td_free(boxes);
        td_free(g);
        return NULL;
    }
    g->size = size;
    g->run = run;
    g->boxes = boxes;
    atomic_init(&g->members, size);
    for (int r = 0; r < size; r++) pthread_mutex_init(&boxes[r].lock, NULL);
    pthread_mutex_lock(&run->groups_lock);
    g->next = run->groups;
    run->groups = g;
    pthread_mutex_unlock(&run->groups_lock);
    return g;
}

void td_local_group_destroy(td_local_group *g)
{
    td_local_run *run = g->run;
    pthread_mutex_lock(&run->groups_lock);
    td_local_group **at = &run->groups;
    while (*at != g) at = &(*at)->next;
    *at = g->next;
    pthread_mutex_unlock(&run->groups_lock);
    for (int r = 0; r < g->size; r++) pthread_mutex_destroy(&g->boxes[r].lock);
    td_free(g->boxes);
    td_free(g);
}

/* --- messages --- */

static void set_state(td_request *request, int state)
{
    __atomic_store_n(&request->done, state, __ATOMIC_RELEASE);
}

/* The other's request may be gone as soon as its state says so. */
static void copy(td_local_group *g, td_request *send, td_request *receive, int other)
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
    td_local_group *g = comm->impl;
    td_local_inbox *box = &g->boxes[sends ? request->peer : comm->rank];
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

static void unlink_request(td_local_inbox *box, const td_request *request)
{
    pthread_mutex_lock(&box->lock);
    for (int k = 0; k < 2; k++) td_requests_remove(k ? &box->sends : &box->receives, request);
    pthread_mutex_unlock(&box->lock);
}

static void local_cancel(td_comm *comm, td_request *request)
{
    td_local_group *g = comm->impl;
    unlink_request(&g->boxes[request->peer], request);
    unlink_request(&g->boxes[comm->rank], request);
    while (__atomic_load_n(&request->done, __ATOMIC_ACQUIRE) == COPYING) sched_yield();
}

static td_bell *local_bell(td_comm *comm)
{
    return &((td_local_group *)comm->impl)->boxes[comm->rank].bell;
}

/* --- failures --- */

static td_status revoked(td_comm *comm, td_local_run *run)
{
    pthread_mutex_lock(&run->lock);
    td_status status = td_fail(TD_ERR_PEER, "rank %d's %s ends, as %.900s", comm->world[comm->rank],
                               comm->operation, run->why);
    pthread_mutex_unlock(&run->lock);
    return status;
}

static td_status local_check(td_comm *comm, int peer)
{
    td_local_group *g = comm->impl;
    td_local_run *run = g->run;
    int failed = atomic_load(&run->failed);
    if (failed && failed - 1 != comm->world[comm->rank]) {
        pthread_mutex_lock(&run->lock);
        td_status status = td_fail(TD_ERR_PEER, "rank %d failed: %.900s",
                                   atomic_load(&run->failed) - 1, run->sentence);
        pthread_mutex_unlock(&run->lock);
        return status;
    }
    int lost = atomic_load(&run->lost);
    if ((int64_t)comm->generation <= atomic_load(&run->revoked)) return revoked(comm, run);
    if (lost)
        return td_fail(TD_ERR_PEER, "rank %d has died, seen by rank %d in %s", lost - 1,
                       comm->world[comm->rank], comm->operation);
    if (peer < 0) return TD_OK;
    if (atomic_load(&g->boxes[peer].left) || atomic_load(&run->left[comm->world[peer]]))
        return td_fail(TD_ERR_PEER, "rank %d left while rank %d waited for it in %s",
                       comm->world[peer], comm->world[comm->rank], comm->operation);
    return TD_OK;
}

void td_local_ring_all(td_local_group *g)
{
    for (int r = 0; r < g->size; r++) td_bell_ring(&g->boxes[r].bell);
}

void td_local_fail(td_comm *comm, td_status status)
{
    td_local_group *g = comm->impl;
    td_local_run *run = g->run;
    pthread_mutex_lock(&run->lock);
    /* What a failure made elsewhere may be told before it. */
    bool cause = run->failure == TD_ERR_PEER && status != TD_ERR_PEER;
    if (!atomic_load(&run->failed) || cause) {
        run->failure = status;
        snprintf(run->sentence, sizeof run->sentence, "%s", td_last_error());
        atomic_store(&run->failed, comm->world[comm->rank] + 1);
    }
    pthread_cond_broadcast(&run->changed);
    pthread_mutex_unlock(&run->lock);
    td_local_ring_all(g);
}

/* Cards lie where all look; nobody need be told. */
static void local_show(td_comm *comm, int world)
{
    td_local_run *run = ((td_local_group *)comm->impl)->run;
    (void)world;
    pthread_mutex_lock(&run->lock);
    run->rank[comm->world[comm->rank]].card = comm->card;
    pthread_mutex_unlock(&run->lock);
}

static bool local_card(td_comm *comm, int world, td_card *out)
{
    td_local_run *run = ((td_local_group *)comm->impl)->run;
    pthread_mutex_lock(&run->lock);
    *out = run->rank[world].card;
    out->gave_up = run->rank[world].gave_up;
    pthread_mutex_unlock(&run->lock);
    return out->group != 0;
}

static void local_give_up(td_comm *comm)
{
    td_local_run *run = ((td_local_group *)comm->impl)->run;
    pthread_mutex_lock(&run->lock);
    td_local_rank *own = &run->rank[comm->world[comm->rank]];
    own->card = comm->card;
    own->gave_up = comm->card.gave_up;
    pthread_mutex_unlock(&run->lock);
}

/* --- groups --- */

/* The first member makes the group and hands its address to the others. */
static td_status local_split(td_comm *comm, int color, int key, const int *members, int number,
                             td_comm *out)
{
    (void)color, (void)key, (void)number;
    if (!members) return TD_OK;
    td_local_group *g = NULL;
    if (out->rank > 0)
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, &g, sizeof g, members[0], TD_TAG_SPLIT));
    else
        g = td_local_group_create(out->size, ((td_local_group *)comm->impl)->run);
    for (int k = 1; k < out->size && out->rank == 0; k++)
        TD_TRY(td_comm_exchange(comm, &g, sizeof g, members[k], NULL, 0, -1, TD_TAG_SPLIT));
    if (!g && out->rank > 0)
        return td_fail(TD_ERR_PEER, "rank %d has no memory for a group", comm->world[members[0]]);
    if (!g) return td_fail(TD_ERR_NOMEM, "no memory for a group of %d ranks", out->size);
    out->impl = g;
    if (atomic_load(&g->run->alone)) atomic_fetch_add(&g->run->alone, 1);
    return TD_OK;
}

static void local_close(td_comm *comm)
{
    td_local_group *g = comm->impl;
    atomic_store(&g->boxes[comm->rank].left, true);
    td_local_ring_all(g);
    td_local_run *run = g->run;
    if (atomic_fetch_sub(&g->members, 1) == 1) td_local_group_destroy(g);
    /* Behind all that this group does with the run: another may be the last one's thread. */
    if (atomic_load(&run->alone) && atomic_fetch_sub(&run->alone, 1) == 1)
        td_local_run_destroy(run);
}

/* --- shared memory: plain memory, freed by whoever lets go last, or at the run's end --- */

/* Zeros. A group's meeting place has room for long vectors that most groups never exchange: what is
 * that short is memory that nobody has touched yet. */
static bool make_memory(td_local_shared *s, size_t bytes)
{
    enum { LINED_UP = 4096, UNTOUCHED_MOST = 16 << 20 };
    if (bytes > UNTOUCHED_MOST) {
        s->data = s->memory = td_alloc_aligned(bytes);
        if (s->data) memset(s->data, 0, bytes);
        return s->data != NULL;
    }
    s->memory = td_calloc(1, bytes + LINED_UP);
    uintptr_t at = (uintptr_t)s->memory;
    s->data = (char *)s->memory + ((LINED_UP - at % LINED_UP) % LINED_UP);
    return s->memory != NULL;
}

static td_local_shared *make_shared(td_local_run *run, size_t bytes, int users)
{
    td_local_shared *s = td_calloc(1, sizeof *s);
    if (!s || !make_memory(s, bytes)) {
        td_free(s);
        return NULL;
    }
    atomic_init(&s->users, users);
    pthread_mutex_lock(&run->lock);
    s->next = run->shared;
    run->shared = s;
    pthread_mutex_unlock(&run->lock);
    return s;
}

static void free_shared(td_local_run *run, td_local_shared *s)
{
    pthread_mutex_lock(&run->lock);
    td_local_shared **at = &run->shared;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    pthread_mutex_unlock(&run->lock);
    td_free(s->memory);
    td_free(s);
}

/* Between the first rank of a host and that one: the memory's address, and an answer, so that both
 * see what the other runs. */
static td_status hand_over(td_comm *comm, td_local_shared **s, int first, int rank)
{
    char answer = 0;
    if (comm->rank == first) {
        TD_TRY(td_comm_exchange(comm, s, sizeof *s, rank, NULL, 0, -1, TD_TAG_SHARED));
        return td_comm_exchange(comm, NULL, 0, -1, &answer, 1, rank, TD_TAG_SHARED);
    }
    td_status got = td_comm_exchange(comm, NULL, 0, -1, s, sizeof *s, first, TD_TAG_SHARED);
    if (got != TD_OK && got != TD_ERR_ARG) return got;
    char why[TD_LOCAL_SENTENCE];
    snprintf(why, sizeof why, "%s", td_last_error());
    td_status told = td_comm_exchange(comm, &answer, 1, first, NULL, 0, -1, TD_TAG_SHARED);
    return got != TD_OK ? td_fail_again(got, why) : told;
}

/* The (perhaps pretended) host's first rank makes it and hands its address to the others. */
static td_status local_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    int first = 0;
    while (comm->host[first] != comm->host[comm->rank]) first++;
    td_local_shared *s = NULL;
    if (comm->rank == first)
        s = make_shared(((td_local_group *)comm->impl)->run, bytes, comm->local_size);
    for (int r = first + 1; r < comm->size; r++)
        if (comm->host[r] == comm->host[first] && (comm->rank == first || comm->rank == r))
            TD_TRY(hand_over(comm, &s, first, r));
    if (!s && comm->rank != first)
        return td_fail(TD_ERR_PEER, "rank %d has no memory for %zu shared bytes",
                       comm->world[first], bytes);
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for %zu shared bytes", bytes);
    *out = (td_region){.data = s->data, .bytes = bytes, .handle = s};
    return TD_OK;
}

static void local_shared_destroy(td_comm *comm, td_region *region)
{
    td_local_shared *s = region->handle;
    if (comm->adrift) return; /* it goes at the run's end */
    if (atomic_fetch_sub(&s->users, 1) == 1) free_shared(((td_local_group *)comm->impl)->run, s);
}

const td_transport_ops td_local_ops = {
    .name = "local",
    .isend = local_isend,
    .irecv = local_irecv,
    .test = local_test,
    .cancel = local_cancel,
    .bell = local_bell,
    .check = local_check,
    .fail = td_local_fail,
    .show = local_show,
    .card = local_card,
    .give_up = local_give_up,
    .split = local_split,
    .shared_create = local_shared_create,
    .shared_destroy = local_shared_destroy,
    .close = local_close,
    .muster = td_local_muster,
    .die = td_local_die,
    .one_memory = true,
};
