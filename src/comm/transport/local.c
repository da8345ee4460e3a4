/* Ranks are threads of this process.
 *
 * A message is never copied twice: whichever of sender and receiver comes second finds the other's
 * request in the receiver's inbox and copies straight from one buffer to the other. Requests are
 * linked into the lists themselves, so nothing is allocated. */
#include "comm/transport.h"

#include "base/alloc.h"
#include "base/error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { SENTENCE = 512 };

typedef struct inbox {
    td_request *sends;    /* to this rank, unmatched, oldest first */
    td_request *receives; /* by this rank, unmatched, oldest first */
} inbox;

typedef struct group {
    int size;
    atomic_int members; /* that have not closed */
    pthread_mutex_t lock; /* guards boxes, and failure text while it is written */
    inbox *boxes;       /* [size] */
    atomic_bool *left;  /* [size] */
    atomic_int failed;  /* rank + 1 of the first failure, 0: none */
    td_status failure;
    char sentence[SENTENCE];
    struct group *parent; /* failures of the whole run are noticed in sub-groups too */
} group;

static group *group_create(int size, group *parent)
{
    group *g = td_calloc(1, sizeof *g);
    if (!g) return NULL;
    g->size = size;
    g->parent = parent;
    atomic_init(&g->members, size);
    g->boxes = td_calloc((size_t)size, sizeof *g->boxes);
    g->left = td_calloc((size_t)size, sizeof *g->left);
    if (!g->boxes || !g->left) {
        td_free(g->boxes);
        td_free(g->left);
        td_free(g);
        return NULL;
    }
    pthread_mutex_init(&g->lock, NULL);
    return g;
}

static void group_destroy(group *g)
{
    pthread_mutex_destroy(&g->lock);
    td_free(g->boxes);
    td_free(g->left);
    td_free(g);
}

/* Finds and unlinks the oldest request of the list that fits. */
static td_request *take_match(td_request **list, int self, int peer, int tag)
{
    for (; *list; list = &(*list)->next) {
        td_request *r = *list;
        if (r->self != self || r->peer != peer || r->tag != tag) continue;
        *list = r->next;
        return r;
    }
    return NULL;
}

static void append(td_request **list, td_request *request)
{
    while (*list) list = &(*list)->next;
    request->next = NULL;
    *list = request;
}

static void finish(td_request *send, td_request *receive)
{
    int outcome = send->bytes == receive->bytes ? 1 : 2;
    if (outcome == 1 && send->bytes) memcpy(receive->data, send->data, send->bytes);
    if (outcome == 2) receive->native[0] = (void *)send->bytes;
    __atomic_store_n(&receive->done, outcome, __ATOMIC_RELEASE);
    __atomic_store_n(&send->done, 1, __ATOMIC_RELEASE);
}

static td_status local_isend(td_comm *comm, td_request *request)
{
    group *g = comm->impl;
    request->self = comm->rank;
    pthread_mutex_lock(&g->lock);
    inbox *box = &g->boxes[request->peer];
    td_request *match = take_match(&box->receives, request->peer, comm->rank, request->tag);
    if (match)
        finish(request, match);
    else
        append(&box->sends, request);
    pthread_mutex_unlock(&g->lock);
    return TD_OK;
}

static td_status local_irecv(td_comm *comm, td_request *request)
{
    group *g = comm->impl;
    request->self = comm->rank;
    pthread_mutex_lock(&g->lock);
    inbox *box = &g->boxes[comm->rank];
    td_request *match = take_match(&box->sends, request->peer, comm->rank, request->tag);
    if (match)
        finish(match, request);
    else
        append(&box->receives, request);
    pthread_mutex_unlock(&g->lock);
    return TD_OK;
}

static td_status local_test(td_comm *comm, td_request *request, bool *done)
{
    int outcome = __atomic_load_n(&request->done, __ATOMIC_ACQUIRE);
    *done = outcome == 1;
    if (outcome == 2)
        return td_fail(TD_ERR_PEER, "rank %d sent %zu bytes where rank %d expected %zu in %s",
                       request->peer, (size_t)request->native[0], comm->rank, request->bytes,
                       comm->operation);
    return TD_OK;
}

static void unlink_request(td_request **list, const td_request *request)
{
    for (; *list; list = &(*list)->next)
        if (*list == request) {
            *list = request->next;
            return;
        }
}

static void local_cancel(td_comm *comm, td_request *request)
{
    group *g = comm->impl;
    pthread_mutex_lock(&g->lock);
    if (!request->done) {
        unlink_request(&g->boxes[request->peer].sends, request);
        unlink_request(&g->boxes[comm->rank].receives, request);
    }
    pthread_mutex_unlock(&g->lock);
}

static td_status local_check(td_comm *comm, int peer)
{
    for (group *g = comm->impl; g; g = g->parent) {
        int failed = atomic_load(&g->failed);
        if (failed && (g != comm->impl || failed - 1 != comm->rank))
            return td_fail(TD_ERR_PEER, "rank %d failed: %s", failed - 1, g->sentence);
    }
    group *g = comm->impl;
    if (peer >= 0 && atomic_load(&g->left[peer]))
        return td_fail(TD_ERR_PEER, "rank %d left while rank %d waited for it in %s", peer,
                       comm->rank, comm->operation);
    return TD_OK;
}

static void local_fail(td_comm *comm, td_status status)
{
    group *g = comm->impl;
    pthread_mutex_lock(&g->lock);
    if (!atomic_load(&g->failed)) {
        g->failure = status;
        snprintf(g->sentence, sizeof g->sentence, "%s", td_last_error());
        atomic_store(&g->failed, comm->rank + 1);
    }
    pthread_mutex_unlock(&g->lock);
}

/* The lowest member of each colour makes the group and hands its address to the others. */
static td_status local_split(td_comm *comm, int color, int key, td_comm *out)
{
    int mine[2] = {color, key}, *all = td_calloc((size_t)comm->size * 2, sizeof *all);
    group *g = NULL;
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a group");
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_comm_allgather(comm, mine, sizeof mine, all));
    if (color < 0) goto out;
    int leader = -1, size = 0, rank = 0;
    for (int r = 0; r < comm->size; r++) {
        if (all[2 * r] != color) continue;
        if (leader < 0) leader = r;
        size++;
        rank += all[2 * r + 1] < key || (all[2 * r + 1] == key && r < comm->rank);
    }
    if (leader == comm->rank) g = group_create(size, comm->impl);
    for (int r = leader + 1; r < comm->size; r++) {
        if (all[2 * r] != color) continue;
        if (comm->rank == leader)
            TD_GOTO(td_comm_exchange(comm, &g, sizeof g, r, NULL, 0, -1, TD_TAG_SPLIT));
        else if (comm->rank == r)
            TD_GOTO(td_comm_exchange(comm, NULL, 0, -1, &g, sizeof g, leader, TD_TAG_SPLIT));
    }
    out->impl = g, out->rank = rank, out->size = size;
    if (!g) status = td_fail(TD_ERR_NOMEM, "no memory for a group of %d ranks", size);
out:
    td_free(all);
    return status;
}

static void local_close(td_comm *comm)
{
    group *g = comm->impl;
    atomic_store(&g->left[comm->rank], true);
    if (atomic_fetch_sub(&g->members, 1) == 1) group_destroy(g);
}

/* --- shared memory: plain memory, freed by whoever lets go last --- */

typedef struct shared {
    atomic_int users;
    void *data;
} shared;

static td_status local_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    shared *s = NULL;
    if (comm->rank == 0) {
        s = td_calloc(1, sizeof *s);
        void *data = td_alloc_aligned(bytes);
        if (s && data) {
            memset(data, 0, bytes);
            s->data = data;
            atomic_init(&s->users, comm->size);
        } else {
            td_free(s);
            td_free(data);
            s = NULL;
        }
    }
    td_status status = td_comm_broadcast(comm, &s, sizeof s, 0);
    if (status != TD_OK) return status; /* the group is broken: rank 0's memory goes with it */
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for %zu shared bytes", bytes);
    *out = (td_region){.data = s->data, .bytes = bytes, .handle = s};
    return TD_OK;
}

static void local_shared_destroy(td_comm *comm, td_region *region)
{
    (void)comm;
    shared *s = region->handle;
    if (atomic_fetch_sub(&s->users, 1) > 1) return;
    td_free(s->data);
    td_free(s);
}

static const td_transport_ops local_ops = {
    .name = "local",
    .isend = local_isend,
    .irecv = local_irecv,
    .test = local_test,
    .cancel = local_cancel,
    .check = local_check,
    .fail = local_fail,
    .split = local_split,
    .shared_create = local_shared_create,
    .shared_destroy = local_shared_destroy,
    .close = local_close,
};

/* --- running --- */

typedef struct rank_state {
    td_comm comm;
    td_rank_fn *fn;
    void *arg;
    td_status status;
    char sentence[1024];
    pthread_t thread;
} rank_state;

static void *rank_main(void *arg)
{
    rank_state *self = arg;
    self->status = self->fn(&self->comm, self->arg);
    if (self->status != TD_OK) {
        snprintf(self->sentence, sizeof self->sentence, "%s", td_last_error());
        local_fail(&self->comm, self->status);
    }
    group *g = self->comm.impl;
    atomic_store(&g->left[self->comm.rank], true);
    return NULL;
}

/* The failure that came first, or failing that the lowest rank's. */
static td_status verdict(const rank_state *state, const group *g)
{
    int failed = atomic_load(&g->failed);
    if (!failed) return TD_OK;
    return td_fail_again(state[failed - 1].status, state[failed - 1].sentence);
}

td_status td_comm_run_local(int ranks, const td_comm_config *config, td_rank_fn *fn, void *arg)
{
    if (ranks < 1 || ranks > 1024)
        return td_fail(TD_ERR_ARG, "the number of workers must be 1 to 1024, not %d", ranks);
    td_status status = TD_OK;
    int started = 0;
    group *g = group_create(ranks, NULL);
    rank_state *state = td_calloc((size_t)ranks, sizeof *state);
    int *hosts = td_calloc((size_t)ranks, sizeof *hosts); /* all 0 */
    if (!g || !state || !hosts) {
        status = td_fail(TD_ERR_NOMEM, "no memory for %d ranks", ranks);
        goto out;
    }
    for (int r = 0; r < ranks; r++) {
        state[r] = (rank_state){.fn = fn, .arg = arg};
        state[r].comm = (td_comm){.ops = &local_ops, .impl = g, .rank = r, .size = ranks};
        state[r].comm.deadline_ms = config && config->deadline_ms ? config->deadline_ms : 300000;
        TD_GOTO(td_comm_set_hosts(&state[r].comm, hosts));
    }
    for (int r = 1; r < ranks; r++, started++)
        if (pthread_create(&state[r].thread, NULL, rank_main, &state[r]) != 0) {
            status = td_fail(TD_ERR_NOMEM, "the thread of rank %d could not be started", r);
            local_fail(&state[0].comm, status);
            break;
        }
    if (status == TD_OK) rank_main(&state[0]);
    for (int r = 1; r <= started; r++) pthread_join(state[r].thread, NULL);
    if (status == TD_OK) status = verdict(state, g);
out:
    for (int r = 0; state && r < ranks; r++) td_free(state[r].comm.host);
    td_free(hosts);
    td_free(state);
    if (g) group_destroy(g);
    return status;
}
