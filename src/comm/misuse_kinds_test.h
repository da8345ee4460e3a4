/* The kinds of wrong use: see misuse_test.c. */
#ifndef TD_COMM_MISUSE_KINDS_TEST_H
#define TD_COMM_MISUSE_KINDS_TEST_H

#include "comm/coll/coll.h"
#include "comm/transport.h"
#include "comm/treesum.h"

#include "base/alloc.h"
#include "base/error.h"
#include "tandem/keyed.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { RANKS = 4, ROOM = 60000, SENTENCE = 400, SAYS = 4 };
enum { HASTY_MS = 250, QUICK_MS = 500, SLOW_MS = 2000, PATIENT_MS = 20000 };

typedef struct hand { /* what a rank has */
    td_comm *c;
    bool wrong;
    int me;
    float *x, *y; /* [ROOM] */
} hand;

typedef td_status act_fn(hand *h);

#define SUM .pattern = TD_ALLREDUCE, .count

typedef struct kind {
    const char *name;
    td_collective right, wrong; /* buffers are the hand's */
    act_fn *act;                /* instead */
    const char *says[SAYS];     /* all in one sentence */
    const char *run_says[SAYS]; /* instead, where who waited for one of these is first to fail */
    bool late;                  /* found at the deadline */
    bool leaves;                /* no barrier afterwards: rank 1 may come through */
    bool only_1;                /* rank 1 fails, the others may come through */
} kind;

/* --- rank 1 runs another collective --- */

static void combine(void *into, const void *from, size_t count, void *user)
{
    (void)into, (void)from, (void)count, (void)user;
}

static const size_t even[] = {8, 8, 8, 8}, odd[] = {16, 8, 0, 8}, more[] = {8, 8, 16, 8},
                    endless[] = {SIZE_MAX, 8, 8, 8};

static td_status run_collective(const hand *h, td_collective what)
{
    bool gives = what.pattern == TD_BROADCAST && what.root == h->me;
    what.in = what.pattern == TD_BROADCAST && !gives ? NULL : h->x;
    what.out = gives ? NULL : h->y;
    return td_comm_run(h->c, &what);
}

/* --- other acts --- */

/* Before a rank that has failed cleans up; not where kinds share a run. */
static void tell(hand *h, td_status status)
{
    if (h->c->ops->one_memory) td_comm_fail(h->c, status, td_last_error());
}

static td_status opposite_order(hand *h)
{
    td_collective sum = {.pattern = TD_ALLREDUCE, .count = 10}, barrier = {.pattern = TD_BARRIER};
    TD_TRY(run_collective(h, h->wrong ? barrier : sum));
    return run_collective(h, h->wrong ? sum : barrier);
}

static td_status groups_in_opposite_order(hand *h)
{
    td_comm *a, *b;
    TD_TRY(td_comm_split(h->c, 0, h->me, &a));
    TD_TRY(td_comm_split(h->c, 0, h->me, &b));
    td_status status = td_comm_barrier(h->wrong ? b : a);
    if (status == TD_OK) status = td_comm_barrier(h->wrong ? a : b);
    tell(h, status);
    td_comm_close(a), td_comm_close(b);
    return status;
}

static td_status skips_one(hand *h)
{
    td_collective sum = {.pattern = TD_ALLREDUCE, .count = 10};
    if (!h->wrong) TD_TRY(td_comm_broadcast(h->c, h->x, 40, 0));
    return run_collective(h, sum);
}

static td_status one_more(hand *h)
{
    if (h->wrong) TD_TRY(td_comm_barrier(h->c));
    return td_comm_barrier(h->c);
}

static td_status leaves_early(hand *h)
{
    return h->wrong ? TD_OK : td_comm_barrier(h->c);
}

static td_status returns_failure(hand *h)
{
    return h->wrong ? td_fail(TD_ERR_DATA, "rank 1 read: line 7 is torn") : td_comm_barrier(h->c);
}

static td_status sleeps(hand *h)
{
    int ms = (int)h->c->deadline_ms * 2;
    TD_TRY(td_comm_allreduce(h->c, h->x, h->y, 10, TD_F32, TD_SUM));
    for (; h->wrong && ms > 0; ms -= 10) nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    return td_comm_barrier(h->c);
}

static td_status splits_alone(hand *h)
{
    td_comm *half = NULL;
    if (!h->wrong) return td_comm_barrier(h->c);
    td_status status = td_comm_split(h->c, 0, 0, &half);
    td_comm_close(half);
    return status;
}

static td_status agrees_alone(hand *h)
{
    return h->wrong ? td_comm_agree(h->c, TD_OK) : td_comm_barrier(h->c);
}

static td_status sends_to_itself(hand *h)
{
    return h->wrong ? td_comm_send(h->c, h->x, 4, 1, 0) : td_comm_barrier(h->c);
}

static td_status sends_to_nobody(hand *h)
{
    return h->wrong ? td_comm_send(h->c, h->x, 4, 17, 0) : td_comm_barrier(h->c);
}

static td_status sends_more_than_there_is(hand *h)
{
    return h->wrong ? td_comm_send(h->c, h->x, SIZE_MAX, 0, 0) : td_comm_barrier(h->c);
}

static td_status uses_a_closed_group(hand *h)
{
    td_comm *half = NULL;
    TD_TRY(td_comm_split(h->c, 0, h->me, &half));
    td_comm_close(half);
    return h->wrong ? td_comm_allreduce(half, h->x, h->y, 10, TD_F32, TD_SUM)
                    : td_comm_barrier(h->c);
}

static td_status starts_a_closed_groups_work(hand *h)
{
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = h->x, .out = h->y, .count = 10};
    td_comm *half = NULL;
    td_work *work = NULL;
    TD_TRY(td_comm_split(h->c, 0, h->me, &half));
    td_status status = td_work_create(half, &sum, &work);
    td_comm_close(half);
    if (status == TD_OK) status = h->wrong ? td_work_start(work) : td_comm_barrier(h->c);
    td_work_destroy(work);
    return status;
}

static td_status sends_in_a_closed_group(hand *h)
{
    td_comm *half = NULL;
    td_work *work = NULL;
    TD_TRY(td_comm_split(h->c, 0, h->me, &half));
    td_status status = td_work_create_send(half, h->x, 4, (h->me + 1) % RANKS, 0, &work);
    td_comm_close(half);
    if (status == TD_OK) status = h->wrong ? td_work_start(work) : td_comm_barrier(h->c);
    td_work_destroy(work);
    return status;
}

static td_status sends_under_a_strange_tag(hand *h)
{
    return h->wrong ? td_comm_send(h->c, h->x, 4, 0, 1000001) : td_comm_barrier(h->c);
}

static td_status has_no_buffer(hand *h)
{
    return td_comm_allreduce(h->c, h->x, h->wrong ? NULL : h->y, 10, TD_F32, TD_SUM);
}

static td_status has_overlapping_buffers(hand *h)
{
    return td_comm_allreduce(h->c, h->x, h->wrong ? h->x + 1 : h->y, 10, TD_F32, TD_SUM);
}

static td_status sends_too_much(hand *h)
{
    if (h->me == 0) return td_comm_recv(h->c, h->y, 40, 1, 3);
    return h->wrong ? td_comm_send(h->c, h->x, 80, 0, 3) : TD_OK;
}

static td_status sends_too_little(hand *h)
{
    if (h->me == 0) return td_comm_recv(h->c, h->y, 40, 1, 3);
    return h->wrong ? td_comm_send(h->c, h->x, 20, 0, 3) : TD_OK;
}

/* So much that no transport takes it in advance. */
static td_status sends_unasked(hand *h)
{
    return h->wrong ? td_comm_send(h->c, h->x, ROOM * 4, 0, 3) : td_comm_barrier(h->c);
}

static td_status receives_unsent(hand *h)
{
    return h->wrong ? td_comm_recv(h->c, h->y, 40, 0, 3) : td_comm_barrier(h->c);
}

static td_status receives_from_one_that_left(hand *h)
{
    return h->wrong ? td_comm_recv(h->c, h->y, 40, 0, 3) : TD_OK;
}

static td_status both_receive_first(hand *h)
{
    if (h->me > 1) return TD_OK;
    TD_TRY(td_comm_recv(h->c, h->y, 40, 1 - h->me, 3));
    return td_comm_send(h->c, h->x, 40, 1 - h->me, 3);
}

static td_status both_send_first(hand *h)
{
    if (h->me > 1) return TD_OK;
    TD_TRY(td_comm_send(h->c, h->x, ROOM * 4, 1 - h->me, 3));
    return td_comm_recv(h->c, h->y, ROOM * 4, 1 - h->me, 3);
}

static td_status starts_works_in_another_order(hand *h)
{
    td_collective what = {.pattern = TD_ALLREDUCE, .in = h->x, .out = h->y, .count = 10};
    td_work *sum = NULL, *max = NULL;
    td_status status = td_work_create(h->c, &what, &sum);
    what.out = h->y + 10, what.op = TD_MAX;
    if (status == TD_OK) status = td_work_create(h->c, &what, &max);
    if (status == TD_OK) status = td_work_start(h->wrong ? max : sum);
    if (status == TD_OK) status = td_work_start(h->wrong ? sum : max);
    if (status == TD_OK) status = td_work_wait(h->wrong ? max : sum);
    if (status == TD_OK) status = td_work_wait(h->wrong ? sum : max);
    char sentence[SENTENCE];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    tell(h, status);
    td_work_destroy(sum), td_work_destroy(max);
    return status == TD_OK ? TD_OK : td_fail_again(status, sentence);
}

static td_status starts_a_work_twice(hand *h)
{
    td_collective what = {.pattern = TD_ALLREDUCE, .in = h->x, .out = h->y, .count = 10};
    td_work *work;
    TD_TRY(td_work_create(h->c, &what, &work));
    td_status status = TD_OK;
    if (h->wrong) status = td_work_start_all((td_work *[]){work, work}, 2);
    td_work_destroy(work);
    return status;
}

static td_status shares_another_size(hand *h)
{
    td_region region;
    if (h->c->hosts == h->c->size) /* nobody shares: any size is right */
        return td_fail(TD_ERR_ARG,
                       "rank 1: shared memory of 1000 bytes, shared memory of 2000 bytes");
    TD_TRY(td_comm_shared_create(h->c, h->wrong ? 2000 : 1000, &region));
    td_comm_shared_destroy(h->c, &region);
    return TD_OK;
}

static td_status sums(hand *h, int leaves, size_t count)
{
    td_treesum *ts = NULL;
    td_treesum_config config = {.leaves = leaves, .lanes = 1, .count = count};
    td_status status = td_treesum_create(h->c, &config, &ts);
    td_treesum_destroy(ts);
    return status;
}

static td_status sums_other_leaves(hand *h)
{
    return sums(h, h->wrong ? 8 : 16, 100);
}

static td_status sums_another_count(hand *h)
{
    return sums(h, 16, h->wrong ? 99 : 100);
}

static td_status sums_too_few_leaves(hand *h)
{
    return sums(h, h->wrong ? 2 : 16, 100);
}

static td_status serve_nothing(void *user, const td_keyed_request *request)
{
    (void)user, (void)request;
    return TD_OK;
}

static int first_server(void *user, uint64_t key, int servers)
{
    (void)user, (void)key, (void)servers;
    return 0;
}

static td_status opens_keyed(hand *h, td_keyed_config config)
{
    td_keyed *keyed = NULL;
    config.serve = serve_nothing;
    td_status status = td_keyed_open(h->c, &config, &keyed);
    td_keyed_destroy(keyed);
    return status;
}

static td_status keys_other_parts(hand *h)
{
    return opens_keyed(h, (td_keyed_config){.width = h->wrong ? 32 : 64});
}

static td_status keys_other_servers(hand *h)
{
    return opens_keyed(h, (td_keyed_config){.servers = (int[]){0, h->wrong ? 2 : 3},
                                            .server_count = 2});
}

static td_status keys_fewer_servers(hand *h)
{
    return opens_keyed(h, (td_keyed_config){.servers = (int[]){0, 3},
                                            .server_count = h->wrong ? 1 : 2});
}

static td_status keys_elsewhere(hand *h)
{
    return opens_keyed(h, (td_keyed_config){.owner = h->wrong ? first_server : NULL});
}

static td_status forces_an_algorithm(hand *h)
{
    if (h->wrong) TD_TRY(td_coll_force(h->c, TD_ALLREDUCE, "pairwise"));
    return td_comm_allreduce(h->c, h->x, h->y, 10, TD_F32, TD_SUM);
}

/* By MPI's own where there is an MPI. */
static td_status by_mpi(hand *h, td_collective what)
{
    if (td_coll_force(h->c, what.pattern, "mpi") != TD_OK) td_error_clear();
    return run_collective(h, what);
}

static td_status reduces_less_by_mpi(hand *h)
{
    return by_mpi(h, (td_collective){SUM = h->wrong ? 99 : 100, .type = TD_I32});
}

static td_status gathers_less_by_mpi(hand *h)
{
    return by_mpi(h, (td_collective){.pattern = TD_ALLGATHER, .bytes = h->wrong ? 400 : 800});
}

static td_status takes_another_root_by_mpi(hand *h)
{
    return by_mpi(h, (td_collective){.pattern = TD_BROADCAST, .bytes = 80, .root = h->wrong});
}

static td_status stops(hand *h)
{
    TD_TRY(td_comm_barrier(h->c));
    if (h->wrong) raise(SIGSTOP);
    return td_comm_barrier(h->c);
}

static td_status dies(hand *h)
{
    TD_TRY(td_comm_barrier(h->c));
    if (h->wrong) raise(SIGKILL);
    return td_comm_barrier(h->c);
}

/* --- the table --- */

static const kind kinds[] = {
    /* another pattern */
    {"broadcast for all-reduce", .right = {SUM = 100},
     .wrong = {.pattern = TD_BROADCAST, .bytes = 400},
     .says = {"rank 1", "runs broadcast of 400 bytes with root 0",
              "runs all-reduce (sum of 400 bytes of f32)"}},
    {"reduce for barrier", .right = {.pattern = TD_BARRIER},
     .wrong = {.pattern = TD_REDUCE, .count = 10}, .says = {"rank 1", "runs barrier"}},
    {"scatter for gather", .right = {.pattern = TD_GATHER, .bytes = 8},
     .wrong = {.pattern = TD_SCATTER, .bytes = 8},
     .says = {"rank 1", "runs gather of 8 bytes", "runs scatter of 8 bytes"}},
    {"all-to-all for all-gather", .right = {.pattern = TD_ALLGATHER, .bytes = 8},
     .wrong = {.pattern = TD_ALLTOALL, .bytes = 8},
     .says = {"rank 1", "runs all-gather of 8 bytes", "runs all-to-all of 8 bytes"}},
    {"scan for reduce-scatter", .right = {.pattern = TD_REDUCE_SCATTER, .parts = even},
     .wrong = {.pattern = TD_SCAN, .count = 32},
     .says = {"rank 1", "runs reduce-scatter", "runs scan"}},
    {"agree for barrier", .act = agrees_alone, .says = {"rank 1", "runs agree", "runs barrier"}},
    {"split for barrier", .act = splits_alone, .says = {"rank 1", "runs split", "runs barrier"}},
    /* another operation, type, length */
    {"maximum for sum", .right = {SUM = 100}, .wrong = {SUM = 100, .op = TD_MAX},
     .says = {"rank 1", "(sum of 400 bytes of f32)", "(max of 400 bytes of f32)"}},
    {"maximum for sum, long", .right = {SUM = ROOM}, .wrong = {SUM = ROOM, .op = TD_MAX},
     .says = {"rank 1", "(sum of 240000 bytes of f32)", "(max of 240000 bytes of f32)"}},
    {"another type of the same size", .right = {SUM = 100}, .wrong = {SUM = 100, .type = TD_I32},
     .says = {"rank 1", "400 bytes of f32", "400 bytes of i32"}},
    {"a type of another size", .right = {SUM = 100}, .wrong = {SUM = 100, .type = TD_F64},
     .says = {"rank 1", "400 bytes of f32", "800 bytes of f64"}},
    {"one element less", .right = {SUM = 100}, .wrong = {SUM = 99},
     .says = {"rank 1", "(sum of 400 bytes", "(sum of 396 bytes"}},
    {"no element", .right = {SUM = 100}, .wrong = {SUM = 0},
     .says = {"rank 1", "(sum of 400 bytes", "(sum of 0 bytes"}},
    {"a long vector for a short one", .right = {SUM = 100}, .wrong = {SUM = ROOM},
     .says = {"rank 1", "(sum of 400 bytes", "(sum of 240000 bytes"}},
    {"a shorter long vector", .right = {.pattern = TD_BROADCAST, .bytes = ROOM * 4},
     .wrong = {.pattern = TD_BROADCAST, .bytes = 150000},
     .says = {"rank 1", "broadcast of 240000 bytes", "broadcast of 150000 bytes"}},
    {"longer parts in a scan", .right = {.pattern = TD_SCAN, .count = 10},
     .wrong = {.pattern = TD_SCAN, .count = 5000},
     .says = {"rank 1", "scan (sum of 40 bytes", "scan (sum of 20000 bytes"}},
    /* another root */
    {"another root of a broadcast", .right = {.pattern = TD_BROADCAST, .bytes = 8},
     .wrong = {.pattern = TD_BROADCAST, .bytes = 8, .root = 1},
     .says = {"rank 1", "broadcast of 8 bytes with root "}},
    {"another root of a long broadcast", .right = {.pattern = TD_BROADCAST, .bytes = ROOM * 4},
     .wrong = {.pattern = TD_BROADCAST, .bytes = ROOM * 4, .root = 2},
     .says = {"rank 1", "broadcast of 240000 bytes with root "}},
    {"another root of a reduce", .right = {.pattern = TD_REDUCE, .count = 10},
     .wrong = {.pattern = TD_REDUCE, .count = 10, .root = 1},
     .says = {"rank 1", "with root 0", "with root 1"}},
    {"another root of a gather", .right = {.pattern = TD_GATHER, .bytes = 8},
     .wrong = {.pattern = TD_GATHER, .bytes = 8, .root = 3},
     .says = {"rank 1", "gather of 8 bytes with root 3"}},
    {"another root of a scatter", .right = {.pattern = TD_SCATTER, .bytes = 8},
     .wrong = {.pattern = TD_SCATTER, .bytes = 8, .root = 2}, .late = true,
     .says = {"rank 1", "scatter of 8 bytes with root 2"}},
    {"a root out of range", .right = {.pattern = TD_GATHER, .bytes = 8},
     .wrong = {.pattern = TD_GATHER, .bytes = 8, .root = 4},
     .says = {"gather: root 4 is not one of 0..3"}},
    /* other parts */
    {"other parts of a gather", .right = {.pattern = TD_GATHER, .parts = even},
     .wrong = {.pattern = TD_GATHER, .parts = odd},
     .says = {"rank 1", "gather of 32 bytes", "sizes of their parts differ"}},
    {"other parts of a scatter", .right = {.pattern = TD_SCATTER, .parts = even},
     .wrong = {.pattern = TD_SCATTER, .parts = odd},
     .says = {"rank 1", "scatter of 32 bytes", "sizes of their parts differ"}},
    {"other parts of an all-gather", .right = {.pattern = TD_ALLGATHER, .parts = even},
     .wrong = {.pattern = TD_ALLGATHER, .parts = odd},
     .says = {"rank 1", "all-gather of 32 bytes", "sizes of their parts differ"}},
    {"other counts of a reduce-scatter", .right = {.pattern = TD_REDUCE_SCATTER, .parts = even},
     .wrong = {.pattern = TD_REDUCE_SCATTER, .parts = odd},
     .says = {"rank 1", "reduce-scatter (sum of 128 bytes", "sizes of their parts differ"}},
    {"giving more than is taken", .right = {.pattern = TD_ALLTOALL, .parts = even, .takes = even},
     .wrong = {.pattern = TD_ALLTOALL, .parts = more, .takes = even},
     .says = {"rank 1 gives 16 bytes where rank 2 takes 8 in all-to-all"}},
    {"taking more than is given", .right = {.pattern = TD_ALLTOALL, .parts = even, .takes = even},
     .wrong = {.pattern = TD_ALLTOALL, .parts = even, .takes = more},
     .says = {"rank 2 gives 8 bytes where rank 1 takes 16 in all-to-all"}},
    {"equal parts for parts that differ",
     .right = {.pattern = TD_ALLTOALL, .parts = even, .takes = even},
     .wrong = {.pattern = TD_ALLTOALL, .bytes = 8},
     .says = {"rank 1", "all-to-all of parts that differ", "all-to-all of 8 bytes"}},
    /* the user's operations */
    {"items of another width", .right = {SUM = 50, .combine = combine, .width = 8},
     .wrong = {SUM = 25, .combine = combine, .width = 16},
     .says = {"rank 1", "of 400 bytes of items of 8", "of 400 bytes of items of 16"}},
    {"a sum for an own operation", .right = {SUM = 50, .combine = combine, .width = 8},
     .wrong = {SUM = 100},
     .says = {"rank 1", "own operation of 400 bytes", "(sum of 400 bytes of f32)"}},
    /* order and presence */
    {"opposite order", .act = opposite_order,
     .says = {"rank 1", "runs barrier", "runs all-reduce"}},
    {"groups in opposite order", .act = groups_in_opposite_order, .late = true,
     .says = {"rank 1", "in barrier", "barrier (operation 1 of another group, of 4 ranks)"}},
    {"skipping one", .act = skips_one,
     .says = {"rank 1", "runs all-reduce (sum of 40 bytes of f32)"}},
    {"one more", .act = one_more, .late = true, .only_1 = true, .says = {"rank 1", "in barrier"}},
    {"leaving early", .act = leaves_early, .late = true, .leaves = true,
     .says = {"rank 1", "in barrier"},
     .run_says = {"gave up barrier (operation 1), having waited for rank 1, while rank "}},
    {"sleeping", .act = sleeps, .late = true, .says = {"rank 1", "in barrier (operation 2)"}},
    {"failing", .act = returns_failure, .says = {"rank 1 read: line 7 is torn"}},
    /* wrong arguments */
    {"sending to itself", .act = sends_to_itself, .says = {"send: rank 1 is this rank"}},
    {"sending to nobody", .act = sends_to_nobody, .says = {"send: rank 17 is not one of 0..3"}},
    {"sending more than there is", .act = sends_more_than_there_is,
     .says = {"send: ", " bytes are more than memory holds"}},
    {"a closed group", .act = uses_a_closed_group,
     .says = {"all-reduce: this group, in which this rank was rank 1 of 4, was closed"}},
    {"a closed group's work", .act = starts_a_closed_groups_work,
     .says = {"all-reduce: the operation's group was closed"}},
    {"a closed group's message", .act = sends_in_a_closed_group,
     .says = {"send: the operation's group was closed"}},
    {"parts of more than memory holds", .right = {.pattern = TD_SCATTER, .parts = even},
     .wrong = {.pattern = TD_SCATTER, .parts = endless},
     .says = {"scatter: the parts of all ranks are more than memory holds"}},
    {"a strange tag", .act = sends_under_a_strange_tag, .says = {"send: tag 1000001 is not in"}},
    {"no buffer", .act = has_no_buffer, .says = {"all-reduce: no buffer for 40 bytes"}},
    {"overlapping buffers", .act = has_overlapping_buffers, .says = {"all-reduce: the buffers"}},
    /* messages */
    {"sending too much", .act = sends_too_much,
     .says = {"rank 1 sent 80 bytes where rank 0 expected 40 in recv"}},
    {"sending too little", .act = sends_too_little,
     .says = {"rank 1 sent 20 bytes where rank 0 expected 40 in recv"}},
    {"sending unasked", .act = sends_unasked, .late = true,
     .says = {"rank 1", "send of 240000 bytes to rank 0 under tag 3", "in barrier"}},
    {"receiving what nobody sent", .act = receives_unsent, .late = true,
     .says = {"rank 1", "recv of 40 bytes from rank 0 under tag 3", "in barrier"}},
    {"receiving from one that left", .act = receives_from_one_that_left, .late = true,
     .leaves = true, .only_1 = true, .says = {"rank 0", "rank 1", "in recv"}},
    {"both receive first", .act = both_receive_first, .late = true,
     .says = {"in recv", "recv of 40 bytes from rank "}},
    {"both send first", .act = both_send_first, .late = true,
     .says = {"in send", "send of 240000 bytes to rank "}},
    /* works, memory, tree sums, algorithms */
    {"works in another order", .act = starts_works_in_another_order,
     .says = {"rank 1", "runs all-reduce (sum", "runs all-reduce (max"}},
    {"a work twice", .act = starts_a_work_twice, .says = {"operation is started twice"}},
    {"memory of another size", .act = shares_another_size,
     .says = {"rank 1", "shared memory of 1000 bytes", "shared memory of 2000 bytes"}},
    {"a tree sum of other leaves", .act = sums_other_leaves,
     .says = {"rank 1", "tree sum of 100 floats", "(8 leaves of"}},
    {"a tree sum of too few leaves", .act = sums_too_few_leaves,
     .says = {"rank 1", "tree sum of 100 floats", "(2 leaves of"}},
    {"a tree sum of another count", .act = sums_another_count,
     .says = {"rank 1", "100 floats (16 leaves", "99 floats (16 leaves"}},
    {"keyed parts of another width", .act = keys_other_parts,
     .says = {"rank 1 has parts of 32 bytes where rank 0 has parts of 64"}},
    {"keyed parts at other servers", .act = keys_other_servers,
     .says = {"rank 1 has other ranks as servers than rank 0"}},
    {"keyed parts at fewer servers", .act = keys_fewer_servers,
     .says = {"servers of rank 1: 1, of rank 0: 2"}},
    {"keyed parts of another owner", .act = keys_elsewhere,
     .says = {"rank 1 has a function that says where keys are, and rank 0 has none"}},
    {"another algorithm", .act = forces_an_algorithm,
     .says = {"rank 1", "runs all-reduce (sum of 40 bytes", "by pairwise"}},
    {"one element less, by MPI", .act = reduces_less_by_mpi,
     .says = {"rank 1", "(sum of 400 bytes of i32", "(sum of 396 bytes of i32"}},
    {"shorter parts, by MPI", .act = gathers_less_by_mpi,
     .says = {"rank 1", "all-gather of 800 bytes", "all-gather of 400 bytes"}},
    {"another root, by MPI", .act = takes_another_root_by_mpi,
     .says = {"rank 1", "broadcast of 80 bytes with root 1"}},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Only by themselves: these end a process. */
static const kind deadly[] = {
    {"stopped", .act = stops, .late = true, .says = {"rank 1", "in barrier"}},
    {"killed", .act = dies, .says = {"rank 1 has died"}},
};

#endif
