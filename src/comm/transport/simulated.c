/* See simulated.h. A rank runs until it waits; then the next one does. */
#include "comm/transport/simulated.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/coll/coll.h"
#include "comm/recorder.h"
#include "comm/recover.h"
#include "comm/transport/requests.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

enum { STACK = 256 << 10, STUCK = 10000, SENTENCE = 512 };

typedef struct simulated simulated;

typedef struct memory { /* that ranks of a host share, to the end */
    struct memory *next;
    void *data;
    size_t bytes;
} memory;

typedef struct sim_rank {
    simulated *all;
    td_comm comm;
    ucontext_t context;
    char *stack;
    double now, out_free, in_free; /* its clock; when its ports are free again */
    td_request *sends, *receives;  /* to it and by it, unmatched, oldest first */
    bool ended, stalled;           /* it waits, and nothing has come since */
} sim_rank;

struct simulated {
    td_simulation *what;
    td_rank_fn *fn;
    void *arg;
    sim_rank *rank; /* [size] */
    int size, left;
    ucontext_t caller;
    memory *shared;
    long idle;  /* turns since something moved */
    int failed; /* rank + 1 */
    td_status status;
    char sentence[SENTENCE];
};

/* Zeroed pages, of which most are never touched. NULL: no memory. */
static void *fresh(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static sim_rank *self_of(td_comm *comm)
{
    return &((simulated *)comm->impl)->rank[comm->rank];
}

/* --- turns --- */

/* Of the ranks that may have something to do, the one whose clock is furthest behind, the next ones
 * first; NULL: none has. */
static sim_rank *earliest(simulated *s, int after)
{
    sim_rank *found = NULL;
    for (int k = 1; k <= s->size; k++) {
        sim_rank *r = &s->rank[(after + k) % s->size];
        if (!r->ended && !r->stalled && (!found || r->now < found->now)) found = r;
    }
    return found;
}

static void switch_to(sim_rank *from, sim_rank *to)
{
    if (from != to) swapcontext(&from->context, &to->context);
}

/* Memory that ranks share changes unseen: when all are stalled, all look again. */
static td_status sim_pause(td_comm *comm)
{
    simulated *s = comm->impl;
    sim_rank *me = self_of(comm), *next;
    me->stalled = true;
    while (!(next = earliest(s, comm->rank))) {
        if (++s->idle > STUCK)
            return td_fail(TD_ERR_TIMEOUT, "no rank can go on; rank %d waits in %s", comm->rank,
                           comm->operation ? comm->operation : "a message");
        for (int r = 0; r < s->size; r++) s->rank[r].stalled = false;
    }
    switch_to(me, next);
    return TD_OK;
}

/* Ports are taken in the order of time. */
static void let_earlier_run(td_comm *comm)
{
    sim_rank *me = self_of(comm);
    for (sim_rank *next; (next = earliest(comm->impl, comm->rank)) && next->now < me->now;)
        switch_to(me, next);
}

/* makecontext passes ints: the pointer in two halves. */
static void rank_main(unsigned high, unsigned low)
{
    sim_rank *me = (sim_rank *)(((uintptr_t)high << 32) | (uintptr_t)low);
    simulated *s = me->all;
    td_status status = s->fn(&me->comm, s->arg);
    if (status != TD_OK) me->comm.ops->fail(&me->comm, status);
    td_coll_release(&me->comm);
    td_recorder_close(&me->comm);
    me->ended = true;
    s->idle = 0;
    if (me->now > s->what->time) s->what->time = me->now;
    for (int r = 0; r < s->size; r++) s->rank[r].stalled = false;
    sim_rank *next = earliest(s, me->comm.rank);
    if (next) switch_to(me, next);
    setcontext(&s->caller);
}

/* --- messages --- */

static void set_time(td_request *r, double at)
{
    memcpy(&r->native[0], &at, sizeof at);
}

static double time_of(const td_request *r)
{
    double at;
    memcpy(&at, &r->native[0], sizeof at);
    return at;
}

enum { OPEN, FINISHED, MISFIT };

static void copy(simulated *s, td_request *send, td_request *receive)
{
    bool fits = td_requests_fit(send, receive);
    if (fits && send->bytes) memcpy(receive->data, send->data, send->bytes);
    double at = time_of(send);
    if (at > time_of(receive)) set_time(receive, at);
    receive->done = fits ? FINISHED : MISFIT;
    send->done = FINISHED;
    s->rank[send->self].stalled = s->rank[receive->self].stalled = false;
    s->idle = 0;
}

static td_status sim_isend(td_comm *comm, td_request *request)
{
    simulated *s = comm->impl;
    sim_rank *me = self_of(comm), *to = &s->rank[request->peer];
    let_earlier_run(comm);
    double begin = me->now > me->out_free ? me->now : me->out_free;
    if (to->in_free > begin) begin = to->in_free;
    double end = begin + s->what->latency + s->what->per_byte * (double)request->bytes;
    me->out_free = to->in_free = end;
    set_time(request, end);
    request->self = comm->rank;
    request->done = OPEN;
    s->what->messages++;
    s->what->bytes += request->bytes;
    td_request *match = td_requests_take(&to->receives, request->peer, comm->rank, request->tag);
    if (match)
        copy(s, request, match);
    else
        td_requests_append(&to->sends, request);
    return TD_OK;
}

static td_status sim_irecv(td_comm *comm, td_request *request)
{
    sim_rank *me = self_of(comm);
    set_time(request, me->now);
    request->self = comm->rank;
    request->done = OPEN;
    td_request *match = td_requests_take(&me->sends, request->peer, comm->rank, request->tag);
    if (match)
        copy(comm->impl, match, request);
    else
        td_requests_append(&me->receives, request);
    return TD_OK;
}

static td_status sim_test(td_comm *comm, td_request *request, bool *done)
{
    sim_rank *me = self_of(comm);
    *done = request->done == FINISHED;
    if (request->done == MISFIT)
        return td_fail(TD_ERR_PEER, "rank %d sent %zu bytes where rank %d expected %zu in %s",
                       request->peer, request->got, comm->rank, request->bytes,
                       comm->operation ? comm->operation : "a message");
    if (*done && time_of(request) > me->now) me->now = time_of(request);
    return TD_OK;
}

static void sim_cancel(td_comm *comm, td_request *request)
{
    simulated *s = comm->impl;
    td_requests_remove(&s->rank[request->peer].sends, request);
    td_requests_remove(&s->rank[comm->rank].receives, request);
}

/* --- the rest of a transport --- */

static td_status sim_check(td_comm *comm, int peer)
{
    simulated *s = comm->impl;
    (void)peer;
    if (s->failed && s->failed - 1 != comm->rank)
        return td_fail(TD_ERR_PEER, "rank %d failed: %.400s", s->failed - 1, s->sentence);
    return TD_OK;
}

static void sim_fail(td_comm *comm, td_status status)
{
    simulated *s = comm->impl;
    if (s->failed) return;
    s->failed = comm->rank + 1;
    s->status = status;
    snprintf(s->sentence, sizeof s->sentence, "%s", td_last_error());
}

static void sim_show(td_comm *comm, int world)
{
    (void)comm, (void)world;
}

static bool sim_card(td_comm *comm, int world, td_card *out)
{
    (void)comm, (void)world, (void)out;
    return false;
}

static td_status sim_split(td_comm *comm, int color, int key, const int *members, int number,
                           td_comm *out)
{
    (void)comm, (void)color, (void)key, (void)members, (void)number, (void)out;
    return td_fail(TD_ERR_UNSUPPORTED, "simulated groups cannot be split");
}

static td_bell *sim_bell(td_comm *comm)
{
    (void)comm;
    return NULL;
}

static void *make_shared(simulated *s, size_t bytes)
{
    memory *m = td_calloc(1, sizeof *m);
    if (!m) return NULL;
    m->bytes = bytes ? bytes : 1;
    m->data = fresh(m->bytes);
    m->next = s->shared;
    s->shared = m;
    return m->data;
}

/* The host's first rank makes it and hands its address to the others. */
static td_status sim_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    int first = 0;
    void *data = NULL;
    while (comm->host[first] != comm->host[comm->rank]) first++;
    if (comm->rank != first)
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, &data, sizeof data, first, TD_TAG_SHARED));
    else
        data = make_shared(comm->impl, bytes);
    for (int r = first + 1; r < comm->size && comm->rank == first; r++)
        if (comm->host[r] == comm->host[first])
            TD_TRY(td_comm_exchange(comm, &data, sizeof data, r, NULL, 0, -1, TD_TAG_SHARED));
    if (!data) return td_fail(TD_ERR_NOMEM, "no memory for %zu shared bytes", bytes);
    *out = (td_region){.data = data, .bytes = bytes};
    return TD_OK;
}

static void sim_shared_destroy(td_comm *comm, td_region *region)
{
    (void)comm, (void)region; /* at the end */
}

static void sim_close(td_comm *comm)
{
    (void)comm;
}

static const td_transport_ops sim_ops = {
    .name = "simulated",
    .isend = sim_isend,
    .irecv = sim_irecv,
    .test = sim_test,
    .cancel = sim_cancel,
    .bell = sim_bell,
    .check = sim_check,
    .fail = sim_fail,
    .show = sim_show,
    .card = sim_card,
    .split = sim_split,
    .shared_create = sim_shared_create,
    .shared_destroy = sim_shared_destroy,
    .close = sim_close,
    .pause = sim_pause,
};

/* --- running --- */

static td_status create_rank(simulated *s, int rank, const int *host)
{
    sim_rank *me = &s->rank[rank];
    uintptr_t at = (uintptr_t)me;
    me->all = s;
    me->comm =
        (td_comm){.ops = &sim_ops, .impl = s, .rank = rank, .size = s->size, .deadline_ms = 300000};
    TD_TRY(td_comm_set_hosts(&me->comm, host, NULL));
    me->stack = fresh(STACK);
    if (!me->stack || getcontext(&me->context) != 0)
        return td_fail(TD_ERR_NOMEM, "no memory for %d simulated ranks", s->size);
    me->context.uc_stack.ss_sp = me->stack;
    me->context.uc_stack.ss_size = STACK;
    makecontext(&me->context, (void (*)(void))rank_main, 2, (unsigned)(at >> 32),
                (unsigned)(at & 0xffffffffu));
    return TD_OK;
}

td_status td_comm_simulate(int ranks, td_simulation *what, td_rank_fn *fn, void *arg)
{
    TD_TRY(td_comm_check_ranks(ranks, 0));
    simulated s = {.what = what, .fn = fn, .arg = arg, .size = ranks};
    s.rank = td_calloc((size_t)ranks, sizeof *s.rank);
    int *own = td_calloc((size_t)ranks, sizeof *own);
    td_status status = TD_OK;
    if (!s.rank || !own) status = td_fail(TD_ERR_NOMEM, "no memory for %d simulated ranks", ranks);
    for (int r = 0; own && r < ranks; r++) own[r] = what->host ? what->host[r] : r;
    what->messages = what->bytes = 0;
    what->time = 0;
    for (int r = 0; r < ranks && status == TD_OK; r++) status = create_rank(&s, r, own);
    if (status == TD_OK) {
        swapcontext(&s.caller, &s.rank[0].context);
        if (s.failed) status = td_fail_again(s.status, s.sentence);
    }
    for (int r = 0; s.rank && r < ranks; r++) {
        if (s.rank[r].stack) munmap(s.rank[r].stack, STACK);
        td_free(s.rank[r].comm.host);
    }
    for (memory *m = s.shared, *next; m; m = next) {
        next = m->next;
        if (m->data) munmap(m->data, m->bytes);
        td_free(m);
    }
    td_free(s.rank);
    td_free(own);
    return status;
}
