/* The ways in which a rank is lost in recover_test.c: each runs at all active ranks, and does not
 * return TD_OK at any of them, nor return where ranks are processes and it is the one that is lost.
 */
#ifndef TD_COMM_RECOVER_KINDS_TEST_H
#define TD_COMM_RECOVER_KINDS_TEST_H

#include "comm/ranks_test.h"

#include "comm/recover.h"
#include "comm/treesum.h"
#include "tandem/keyed.h"

#include <signal.h>
#include <unistd.h>

enum { SHORT = 5, LONG = 300000, TAG = 7 };

static void lose(td_comm *c)
{
    if (!strcmp(td_comm_transport(c), "mpi")) kill(getpid(), SIGKILL);
    td_comm_die(c);
}

static bool is(td_comm *c, int rank)
{
    return td_comm_rank(c) == rank;
}

/* --- where it is lost: before its part of an operation of the others --- */

static td_status in_allreduce(td_comm *c, int victim, size_t count)
{
    float *x = td_calloc(count, sizeof *x);
    if (is(c, victim)) lose(c);
    td_status status = td_comm_allreduce(c, x, x, count, TD_F32, TD_SUM);
    td_free(x);
    return status;
}

static td_status in_short_allreduce(td_comm *c, int victim)
{
    return in_allreduce(c, victim, SHORT);
}

static td_status in_long_allreduce(td_comm *c, int victim)
{
    return in_allreduce(c, victim, LONG);
}

static td_status in_broadcast(td_comm *c, int victim)
{
    char *x = td_calloc(LONG, 1);
    if (is(c, victim)) lose(c);
    td_status status = td_comm_broadcast(c, x, LONG, victim);
    td_free(x);
    return status;
}

static td_status in_broadcast_of_another(td_comm *c, int victim)
{
    char *x = td_calloc(LONG, 1);
    if (is(c, victim)) lose(c);
    td_status status = td_comm_broadcast(c, x, LONG, (victim + 1) % td_comm_size(c));
    td_free(x);
    return status;
}

static td_status in_barrier(td_comm *c, int victim)
{
    if (is(c, victim)) lose(c);
    return td_comm_barrier(c);
}

static td_status in_messages(td_comm *c, int victim)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    char *x = td_calloc(LONG, 2);
    if (is(c, victim)) lose(c);
    td_work *send = NULL;
    td_status status = td_comm_start_send(c, x, LONG, (me + 1) % n, TAG, &send);
    td_status got = td_comm_recv(c, x + LONG, LONG, (me + n - 1) % n, TAG);
    if (status == TD_OK) status = td_work_wait(send);
    td_work_destroy(send);
    td_free(x);
    return status == TD_OK ? got : status;
}

static td_status in_split(td_comm *c, int victim)
{
    td_comm *half = NULL;
    if (is(c, victim)) lose(c);
    td_status status = td_comm_split(c, td_comm_rank(c) % 2, 0, &half);
    if (status == TD_OK) td_comm_close(half);
    return status;
}

static td_status in_shared_create(td_comm *c, int victim)
{
    td_region region = {0};
    if (is(c, victim)) lose(c);
    td_status status = td_comm_shared_create(c, 5000, &region);
    td_comm_shared_destroy(c, &region);
    return status;
}

/* --- in the middle of one --- */

typedef struct bomb {
    td_comm *comm;
    int fuse; /* calls, 0: none */
} bomb;

static void add_or_die(void *into, const void *from, size_t count, void *user)
{
    bomb *b = user;
    int64_t *x = into;
    const int64_t *y = from;
    if (b->fuse && --b->fuse == 0) lose(b->comm);
    for (size_t i = 0; i < count; i++) x[i] += y[i];
}

static td_status amid_allreduce(td_comm *c, int victim)
{
    bomb b = {c, is(c, victim) ? 1 : 0};
    int64_t *x = td_calloc(LONG, sizeof *x);
    td_status status = td_comm_allreduce_by(c, x, x, LONG, sizeof *x, add_or_die, &b);
    td_free(x);
    return status;
}

/* Others read its vectors where they lie, and have for some calls. */
static td_status amid_a_registered_one(td_comm *c, int victim)
{
    bomb b = {c, 0};
    size_t bytes = LONG * sizeof(int64_t);
    void *x, *y;
    td_status status = TD_OK;
    if (td_comm_alloc(bytes, &x) != TD_OK || td_comm_alloc(bytes, &y) != TD_OK) abort();
    for (int call = 0; call < 4 && status == TD_OK; call++) {
        if (call == 3 && is(c, victim)) b.fuse = 2;
        status = td_comm_allreduce_by(c, x, y, LONG, sizeof(int64_t), add_or_die, &b);
    }
    if (td_comm_free(x) != TD_OK || td_comm_free(y) != TD_OK) abort();
    return status;
}

static td_status reduce_beside(td_comm *c, const void *x, void *y, bool lost)
{
    td_work *work = NULL;
    td_collective all =
        {.pattern = TD_ALLREDUCE, .in = x, .out = y, .count = LONG, .type = TD_F32, .op = TD_SUM};
    TD_TRY(td_work_create(c, &all, &work));
    td_status status = td_work_start(work);
    if (lost) nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL); /* it shows its vectors */
    if (lost) lose(c);
    if (status == TD_OK) status = td_work_wait(work);
    td_work_destroy(work);
    return status;
}

/* It has shown vectors that nobody has mapped yet, and the others come when it is gone. */
static td_status amid_a_new_registered_one(td_comm *c, int victim)
{
    enum { CALLS = 3 };
    void *vector[2 * CALLS] = {NULL};
    td_status status = TD_OK;
    for (int k = 0; k < 2 * CALLS; k++)
        if (td_comm_alloc(LONG * sizeof(float), &vector[k]) != TD_OK) abort();
    for (int call = 0; call < CALLS && status == TD_OK; call++) {
        bool last = call == CALLS - 1;
        if (last && !is(c, victim)) nanosleep(&(struct timespec){.tv_nsec = 300000000}, NULL);
        status = reduce_beside(c, vector[call], vector[CALLS + call], last && is(c, victim));
    }
    for (int k = 0; k < 2 * CALLS; k++)
        if (td_comm_free(vector[k]) != TD_OK) abort();
    return status;
}

static td_status amid_scan(td_comm *c, int victim)
{
    bomb b = {c, is(c, victim) ? 1 : 0};
    int64_t *x = td_calloc(LONG, sizeof *x);
    td_status status = td_comm_scan_by(c, x, x, LONG, sizeof *x, add_or_die, &b);
    td_free(x);
    if (is(c, victim)) lose(c); /* the first rank of a scan adds nothing */
    return status;
}

static td_status amid_treesum(td_comm *c, int victim)
{
    td_treesum_config config = {.leaves = 16, .lanes = 1, .count = LONG, .leaf_values = 2};
    td_treesum *ts = NULL;
    TD_TRY(td_treesum_create(c, &config, &ts));
    for (int k = 0; k < td_treesum_nodes(ts, 0); k++)
        memset(td_treesum_node(ts, 0, k), 0, LONG * sizeof(float));
    td_status status = td_treesum_post(ts, 0, LONG / 2);
    if (is(c, victim)) lose(c);
    if (status == TD_OK) status = td_treesum_post(ts, LONG / 2, LONG);
    if (status == TD_OK) status = td_treesum_wait(ts);
    td_treesum_destroy(ts);
    return status;
}

static td_status amid_works(td_comm *c, int victim)
{
    enum { WORKS = 3 };
    td_work *works[WORKS] = {NULL};
    float *x = td_calloc(WORKS * LONG, sizeof *x);
    td_status status = TD_OK;
    for (int k = 0; k < WORKS && status == TD_OK; k++)
        status = td_work_create(c,
                                &(td_collective){.pattern = TD_ALLREDUCE,
                                                 .in = x + k * LONG,
                                                 .out = x + k * LONG,
                                                 .count = LONG,
                                                 .type = TD_F32,
                                                 .op = TD_SUM},
                                &works[k]);
    if (status == TD_OK) status = td_work_start_all(works, 2);
    if (is(c, victim)) lose(c);
    if (status == TD_OK) status = td_work_start(works[2]);
    for (int k = 0; k < WORKS && status == TD_OK; k++) status = td_work_wait(works[k]);
    for (int k = 0; k < WORKS; k++) td_work_destroy(works[k]);
    td_free(x);
    return status;
}

/* A sub-group fails, whose other ranks are told by it, and everybody else by the recovery. */
static td_status in_a_split_group(td_comm *c, int victim)
{
    td_comm *half = NULL;
    int32_t x = 1;
    TD_TRY(td_comm_split(c, td_comm_rank(c) % 2, 0, &half));
    if (is(c, victim)) lose(c);
    td_status status = TD_OK;
    for (int k = 0; k < 20 && status == TD_OK; k++)
        status = td_comm_allreduce(half, &x, &x, 1, TD_I32, TD_MAX);
    if (status == TD_OK) status = td_comm_barrier(c);
    td_comm_close(half);
    return status;
}

static td_status serve(void *user, const td_keyed_request *request)
{
    (void)user, (void)request;
    return TD_OK;
}

/* Rank 0 and the last serve. */
static td_status in_pushes(td_comm *c, int victim)
{
    int servers[2] = {0, td_comm_size(c) - 1};
    td_keyed_config config = {.servers = servers, .server_count = 2, .width = 8, .serve = serve};
    td_keyed *k = NULL;
    uint64_t keys[64];
    double rows[64] = {0};
    for (uint64_t i = 0; i < 64; i++) keys[i] = i;
    TD_TRY(td_keyed_open(c, &config, &k));
    td_status status = td_keyed_push(k, &(td_parts){keys, 64, NULL, rows, NULL});
    if (is(c, victim)) lose(c);
    for (int i = 0; i < 10 && status == TD_OK; i++)
        status = td_keyed_push(k, &(td_parts){keys, 64, NULL, rows, NULL});
    if (status == TD_OK) status = td_comm_barrier(c);
    td_keyed_destroy(k);
    return status;
}

/* Fills parts with ones in the asker's memory, and may be lost halfway. */
static td_status serve_or_die(void *user, const td_keyed_request *q)
{
    bomb *b = user;
    unsigned char *out = q->out;
    size_t width = q->count ? q->bytes / q->count : 0;
    bool now = b->fuse && --b->fuse == 0;
    for (size_t i = 0; i < q->count; i++) {
        if (now && i == q->count / 2) lose(b->comm);
        memset(out + (q->places ? q->places[i] : i) * width, 1, width);
    }
    return TD_OK;
}

/* All serve; a process is lost with a request in hand. Behind the failure nobody writes to the
 * asker's memory any more. */
static td_status amid_in_place_pulls(td_comm *c, int victim)
{
    enum { COUNT = 256, WIDTH = 256, ROUNDS = 20 };
    bool process = !strcmp(td_comm_transport(c), "mpi");
    bomb b = {c, process && is(c, victim) ? 2 * td_comm_size(c) + 1 : 0};
    td_keyed_config config = {.width = WIDTH, .serve = serve_or_die, .user = &b};
    td_keyed *k = NULL;
    uint64_t keys[COUNT];
    void *memory;
    for (uint64_t i = 0; i < COUNT; i++) keys[i] = i;
    if (td_comm_alloc(COUNT * WIDTH, &memory) != TD_OK) abort();
    unsigned char *out = memory;
    td_status status = td_keyed_open(c, &config, &k);
    for (int r = 0; r < ROUNDS && status == TD_OK; r++) {
        td_parts parts = {.keys = keys, .count = COUNT, .out = out, .in_place = true};
        if (r == 2 && !process && is(c, victim)) lose(c);
        memset(out, 0xa5, COUNT * WIDTH);
        status = td_keyed_pull(k, &parts);
        for (size_t i = 0; i < COUNT * WIDTH && status == TD_OK; i++) CHECK(out[i] == 1);
    }
    if (status == TD_OK) status = td_comm_barrier(c);
    td_keyed_destroy(k);
    memset(out, 0xee, COUNT * WIDTH);
    nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
    for (size_t i = 0; i < COUNT * WIDTH; i++) CHECK(out[i] == 0xee);
    if (td_comm_free(memory) != TD_OK) abort();
    return status;
}

/* --- with another failure --- */

typedef struct second {
    int step; /* of the recovery */
    bool dies;
} second;

static td_status die_at_step(td_comm *comm, int step, void *arg)
{
    second *s = arg;
    if (!s->dies || s->step != step) return TD_OK;
    s->dies = false;
    lose(comm);
    return TD_ERR_PEER;
}

static td_status and_in_recovery(td_comm *c, int victim, int step, second *s)
{
    *s = (second){step, is(c, (victim + 1) % td_comm_size(c))};
    c->seat->at_step = die_at_step, c->seat->arg = s;
    return in_barrier(c, victim);
}

typedef td_status kind_fn(td_comm *c, int victim);

typedef struct kind {
    const char *name;
    kind_fn *run;
    int step;   /* of the recovery in which another rank is lost, -1: none */
    int losses; /* ranks; more than one at once where there is no step */
} kind;

static td_status two_at_once(td_comm *c, int victim)
{
    if (is(c, (victim + 1) % td_comm_size(c))) lose(c);
    return in_long_allreduce(c, victim);
}

static const kind kinds[] = {
    {"short all-reduce", in_short_allreduce, -1, 1},
    {"long all-reduce", in_long_allreduce, -1, 1},
    {"amid an all-reduce", amid_allreduce, -1, 1},
    {"amid a registered all-reduce", amid_a_registered_one, -1, 1},
    {"amid a registered all-reduce of new memory", amid_a_new_registered_one, -1, 1},
    {"amid in-place pulls", amid_in_place_pulls, -1, 1},
    {"broadcast of the root", in_broadcast, -1, 1},
    {"broadcast of another", in_broadcast_of_another, -1, 1},
    {"barrier", in_barrier, -1, 1},
    {"messages", in_messages, -1, 1},
    {"amid a tree sum", amid_treesum, -1, 1},
    {"amid works", amid_works, -1, 1},
    {"split", in_split, -1, 1},
    {"shared memory", in_shared_create, -1, 1},
    {"amid a scan", amid_scan, -1, 1},
    {"in a group made by split", in_a_split_group, -1, 1},
    {"pushes", in_pushes, -1, 1},
    {"another before it recovers", in_barrier, 0, 2},
    {"another when all have agreed", in_barrier, 1, 2},
    {"another when the new group has met", in_barrier, 2, 2},
    {"two at once", two_at_once, -1, 2},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

#endif
