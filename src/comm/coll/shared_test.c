/* Long vectors inside a host, by each way that may serve them, where they lie and into another
 * vector: see ranks_test.h. */
#include "comm/coll/meet_impl.h"
#include "comm/coll/shared_impl.h"
#include "comm/ranks_test.h"

#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { CALLS = 12 /* of a pattern and length: the first ones go one way, then the other */ };

static void on_few(td_rank_fn *fn, void *arg)
{
    if (mpi_world) assert_ok(td_comm_agree(mpi_world, fn(mpi_world, arg)));
    for (int n = 2; n < 4 && !mpi_world; n++) assert_ok(td_comm_run_local(n, NULL, fn, arg));
}

static float value(int rank, size_t i)
{
    return (float)((i * 7 + (size_t)rank * 13) % 61);
}

static float sum(int from, int ranks, size_t i)
{
    float s = 0;
    for (int r = from; r < from + ranks; r++) s += value(r, i);
    return s;
}

static td_status adds(td_comm *c, size_t count, bool in_place)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    float *in = td_malloc(count * sizeof *in), *out = in_place ? in : td_calloc(count, sizeof *out);
    td_status status = TD_OK;
    for (int k = 0; k < CALLS && status == TD_OK; k++) {
        for (size_t i = 0; i < count; i++) in[i] = value(me + k, i);
        status = td_comm_allreduce(c, in, out, count, TD_F32, TD_SUM);
        for (size_t i = 0; i < count && status == TD_OK; i++) {
            float want = sum(k, n, i);
            if (out[i] != want || (!in_place && in[i] != value(me + k, i)))
                status = td_fail(TD_ERR_INTERNAL, "call %d: element %zu of %zu is %g, not %g", k, i,
                                 count, (double)out[i], (double)want);
        }
    }
    td_free(in);
    if (!in_place) td_free(out);
    return status;
}

static td_status long_sums(td_comm *c, void *arg)
{
    static const size_t counts[] = {8193, 50021, 262145, 400003};
    (void)arg;
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
        for (int in_place = 0; in_place < 2; in_place++) TD_TRY(adds(c, counts[k], in_place));
    return TD_OK;
}

static void each_way_adds_what_is_there(void **state)
{
    (void)state;
    on_few(long_sums, NULL);
}

/* Whole numbers to 256 are exact. */
static uint16_t bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (uint16_t)(bits >> 16);
}

static td_status long_halves(td_comm *c, void *arg)
{
    enum { N = 600011 };
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    uint16_t *in = td_malloc(N * sizeof *in), *out = td_malloc(N * sizeof *out);
    for (size_t i = 0; i < N; i++) in[i] = bf16(value(me, i));
    for (int k = 0; k < CALLS; k++) {
        memset(out, 255, N * sizeof *out);
        TD_TRY(td_comm_allreduce(c, in, out, N, TD_BF16, TD_SUM));
        for (size_t i = 0; i < N; i++) CHECK(out[i] == bf16(sum(0, n, i)));
    }
    td_free(in), td_free(out);
    return TD_OK;
}

static void halves_are_added_so_too(void **state)
{
    (void)state;
    on_few(long_halves, NULL);
}

/* x -> a x + b: applied one after the other, in the order of ranks. */
typedef struct map {
    uint32_t a, b;
} map;

static void apply(void *into, const void *from, size_t count, void *user)
{
    map *x = into;
    const map *y = from;
    (void)user;
    for (size_t i = 0; i < count; i++) x[i] = (map){y[i].a * x[i].a, y[i].a * x[i].b + y[i].b};
}

static map map_of(int rank, size_t i)
{
    uint32_t k = (uint32_t)rank * 977 + (uint32_t)i;
    return (map){k, k * k + 1};
}

static td_status own_order(td_comm *c, bool in_place)
{
    enum { N = 150011 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    map *in = td_malloc(N * sizeof *in), *out = in_place ? in : td_malloc(N * sizeof *out);
    td_collective call = {.pattern = TD_ALLREDUCE, .in = in, .out = out, .count = N};
    call.combine = apply, call.width = sizeof *in;
    for (int k = 0; k < CALLS; k++) {
        for (size_t i = 0; i < N; i++) in[i] = map_of(me, i);
        TD_TRY(td_comm_run(c, &call));
        for (size_t i = 0; i < N; i++) {
            map want = map_of(0, i);
            for (int r = 1; r < n; r++) {
                map next = map_of(r, i);
                apply(&want, &next, 1, NULL);
            }
            CHECK(!memcmp(&out[i], &want, sizeof want));
        }
    }
    td_free(in);
    if (!in_place) td_free(out);
    return TD_OK;
}

static td_status own_operations(td_comm *c, void *arg)
{
    (void)arg;
    TD_TRY(own_order(c, true));
    return own_order(c, false);
}

static void own_operations_keep_their_order(void **state)
{
    (void)state;
    on_few(own_operations, NULL);
}

/* To and from that rank. */
static td_status moves(td_comm *c, size_t count, int root)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    float *own = td_malloc(count * sizeof *own);
    float *all = td_malloc((size_t)n * count * sizeof *all);
    for (size_t i = 0; i < count; i++) own[i] = value(me, i);
    TD_TRY(td_comm_gather(c, own, count * sizeof *own, all, root));
    for (size_t i = 0; i < (size_t)n * count && me == root; i++)
        CHECK(all[i] == value((int)(i / count), i % count));
    TD_TRY(td_comm_reduce(c, own, all, count, TD_F32, TD_SUM, root));
    for (size_t i = 0; i < count; i++) CHECK(own[i] == value(me, i));
    for (size_t i = 0; i < count && me == root; i++) CHECK(all[i] == sum(0, n, i));
    TD_TRY(td_comm_reduce(c, own, own, count, TD_F32, TD_SUM, root));
    for (size_t i = 0; i < count; i++) CHECK(own[i] == (me == root ? sum(0, n, i) : value(me, i)));
    TD_TRY(td_comm_broadcast(c, own, count * sizeof *own, root));
    for (size_t i = 0; i < count; i++) CHECK(own[i] == sum(0, n, i));
    for (size_t i = 0; i < (size_t)n * count; i++) all[i] = value((int)(i / count), i % count);
    for (int in_place = 0; in_place < 2; in_place++) {
        float *out = in_place && me == root ? all + (size_t)me * count : own;
        TD_TRY(td_comm_scatter(c, me == root ? all : NULL, count * sizeof *own, out, root));
        for (size_t i = 0; i < count; i++) CHECK(out[i] == value(me, i));
    }
    for (size_t i = 0; i < (size_t)n * count; i++)
        CHECK(all[i] == value((int)(i / count), i % count));
    td_free(own), td_free(all);
    return TD_OK;
}

static td_status long_moves(td_comm *c, void *arg)
{
    static const size_t counts[] = {20001, 262144, 300007};
    (void)arg;
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
        for (int root = 0; root < td_comm_size(c); root++) TD_TRY(moves(c, counts[k], root));
    return TD_OK;
}

static void long_vectors_reach_and_leave_every_rank(void **state)
{
    (void)state;
    on_few(long_moves, NULL);
}

/* Of which some go where they lie, some are staged and some are empty. At the root its own lies
 * where it goes, or elsewhere. */
static td_status gather_and_scatter(td_comm *c, const size_t *parts, int root, bool in_place)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    size_t at = 0, all = 0;
    for (int r = 0; r < n; all += parts[r++]) at += r < me ? parts[r] : 0;
    unsigned char *out = td_malloc(all + 1), *apart = td_malloc(parts[me] + 1), *back;
    unsigned char *in = in_place && me == root ? out + at : apart;
    for (int k = 0; k < CALLS; k++) {
        memset(out, 255, all + 1);
        for (size_t i = 0; i < parts[me]; i++) in[i] = (unsigned char)value(me + k, i);
        TD_TRY(td_comm_gatherv(c, in, parts, me == root ? out : NULL, root));
        const unsigned char *got = out;
        for (int r = 0; r < n && me == root; got += parts[r++])
            for (size_t i = 0; i < parts[r]; i++) CHECK(got[i] == (unsigned char)value(r + k, i));
        CHECK(out[all] == 255);
        back = in_place && me == root ? in : memset(apart, 255, parts[me] + 1);
        TD_TRY(td_comm_scatterv(c, me == root ? out : NULL, parts, back, root));
        for (size_t i = 0; i < parts[me]; i++) CHECK(back[i] == (unsigned char)value(me + k, i));
        CHECK(back != apart || apart[parts[me]] == 255);
    }
    td_free(out), td_free(apart);
    return TD_OK;
}

static td_status parts_that_differ(td_comm *c, void *arg)
{
    static const size_t parts[][3] = {{100003, 70001, 12}, {5, 131077, 65536}, {100003, 65535, 0},
                                      {0, 65537, 1},       {65536, 0, 131071}, {24, 16, 8}};
    (void)arg;
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++)
        for (int root = 0; root < td_comm_size(c); root++)
            for (int in_place = 0; in_place < 2; in_place++)
                TD_TRY(gather_and_scatter(c, parts[k], root, in_place));
    return TD_OK;
}

static void parts_that_differ_are_gathered_and_scattered(void **state)
{
    (void)state;
    on_few(parts_that_differ, NULL);
}

/* Results of two ranks that would drive what is staged out of the caches go past them. */
static td_status very_long(td_comm *c, void *arg)
{
    enum { N = TD_SHARED_THROUGH / 2 / 4 + 3 };
    (void)arg;
    TD_TRY(adds(c, N, false));
    TD_TRY(adds(c, N, true));
    TD_TRY(moves(c, N, 0));
    return moves(c, N, 1);
}

static void results_go_past_the_caches(void **state)
{
    (void)state;
    if (mpi_world && td_comm_size(mpi_world) != 2) skip();
    if (mpi_world)
        assert_ok(td_comm_agree(mpi_world, very_long(mpi_world, NULL)));
    else
        assert_ok(td_comm_run_local(2, NULL, very_long, NULL));
}

/* --- what goes through the system: its calls are counted on their way there --- */

static uint64_t moved; /* bytes, by this process */

static ssize_t tally(ssize_t bytes)
{
    if (bytes > 0) moved += (uint64_t)bytes;
    return bytes;
}

ssize_t process_vm_readv(pid_t pid, const struct iovec *own, unsigned long owns,
                         const struct iovec *its, unsigned long theirs, unsigned long flags)
{
    return tally(syscall(SYS_process_vm_readv, pid, own, owns, its, theirs, flags));
}

ssize_t process_vm_writev(pid_t pid, const struct iovec *own, unsigned long owns,
                          const struct iovec *its, unsigned long theirs, unsigned long flags)
{
    return tally(syscall(SYS_process_vm_writev, pid, own, owns, its, theirs, flags));
}

/* Whether each process may read the next one's memory, and write there. */
static td_status system_allows(td_comm *c, bool *out)
{
    int n = td_comm_size(c), next = (td_comm_rank(c) + 1) % n, may, all;
    uint64_t word[2] = {(uint64_t)getpid(), 0}, seen = 0;
    struct {
        uint64_t pid, at;
    } own = {word[0], (uintptr_t)word}, each[8];
    TD_TRY(td_comm_allgather(c, &own, sizeof own, each));
    char *there = (char *)(uintptr_t)each[next].at;
    struct iovec here = {&seen, sizeof seen}, its = {there, sizeof seen};
    pid_t pid = (pid_t)each[next].pid;
    may = process_vm_readv(pid, &here, 1, &its, 1, 0) == sizeof seen && seen == each[next].pid;
    its.iov_base = there + sizeof seen;
    may = may && process_vm_writev(pid, &here, 1, &its, 1, 0) == sizeof seen;
    TD_TRY(td_comm_allreduce(c, &may, &all, 1, TD_I32, TD_MIN));
    *out = all && word[1] == word[0];
    return td_comm_allreduce(c, &(int){*out}, &all, 1, TD_I32, TD_MIN);
}

/* What all ranks move in a call that goes this way, in halves of BYTES. */
typedef struct direct {
    td_pattern pattern;
    uint64_t by_two, by_three;
} direct;

static td_status moves_directly(td_comm *c, const direct *d)
{
    enum { BYTES = 200 << 10 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    uint64_t halves = n == 2 ? d->by_two : d->by_three, all;
    float *in = td_calloc(BYTES, (size_t)n), *out = td_calloc(BYTES, (size_t)n);
    td_collective call = {.pattern = d->pattern, .bytes = BYTES, .count = BYTES / sizeof *in};
    bool gives = d->pattern != TD_BROADCAST || me == 0;
    call.in = gives ? in : NULL;
    call.out = d->pattern == TD_BROADCAST && me == 0 ? NULL : out;
    moved = 0;
    for (int k = 0; k < CALLS; k++) TD_TRY(td_comm_run(c, &call)); /* the first ones try it */
    TD_TRY(td_comm_allreduce(c, &(int64_t){(int64_t)moved}, &all, 1, TD_I64, TD_SUM));
    CHECK(halves ? all > 0 && all % (halves * BYTES / 2) == 0 : all == 0);
    td_free(in), td_free(out);
    return TD_OK;
}

static td_status through_the_system(td_comm *c, void *arg)
{
    static const direct directs[] = {{TD_BROADCAST, 2, 0}, {TD_GATHER, 2, 0}, {TD_ALLGATHER, 4, 12},
                                     {TD_ALLTOALL, 4, 12}, {TD_REDUCE, 3, 0}, {TD_ALLREDUCE, 4, 0},
                                     {TD_SCATTER, 2, 0}};
    td_comm *group; /* which has found out nothing yet */
    bool *allowed = arg;
    TD_TRY(system_allows(c, allowed));
    if (!*allowed) return TD_OK;
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &group));
    float in[10000] = {0}, out[30000];
    td_status status = td_comm_allgather(group, in, sizeof in, out); /* it tries the memory */
    for (size_t k = 0; k < sizeof directs / sizeof *directs && status == TD_OK; k++)
        status = moves_directly(group, &directs[k]);
    td_comm_close(group);
    return status;
}

static void processes_reach_each_others_memory(void **state)
{
    (void)state;
    bool allowed = true;
    if (!mpi_world) skip(); /* threads need not ask the system */
    assert_ok(td_comm_agree(mpi_world, through_the_system(mpi_world, &allowed)));
    if (allowed) return;
    print_message("the system does not let processes read each other's memory\n");
    skip();
}

/* What call k of the pattern leaves in element i of this rank's result, where element i of what
 * rank r gives is value(r, i) + k. */
static float left_by(const td_collective *call, int me, int k, size_t i)
{
    size_t n = call->count;
    switch (call->pattern) {
    case TD_REDUCE:
    case TD_ALLREDUCE: return value(0, i) + value(1, i) + 2 * (float)k;
    case TD_BROADCAST: return value(call->root, i) + (float)k;
    case TD_SCATTER: return value(call->root, (size_t)me * n + i) + (float)k;
    case TD_ALLTOALL: return value((int)(i / n), (size_t)me * n + i % n) + (float)k;
    default: return value((int)(i / n), i % n) + (float)k;
    }
}

/* Elements of the result, where this rank has one. */
static size_t results_of(const td_collective *call, int me)
{
    switch (call->pattern) {
    case TD_BROADCAST: return me == call->root ? 0 : call->count;
    case TD_GATHER: return me == call->root ? 2 * call->count : 0;
    case TD_REDUCE: return me == call->root ? call->count : 0;
    case TD_ALLGATHER:
    case TD_ALLTOALL: return 2 * call->count;
    default: return call->count;
    }
}

/* Two processes try to fetch, and to stage, in turn: each way moves the same. */
static td_status goes_both_ways(td_comm *c, const td_collective *like, bool *allowed)
{
    enum { TURN = 100 };
    td_collective call = *like;
    int me = td_comm_rank(c);
    size_t n = call.count, results = results_of(&call, me);
    float *in = td_calloc(2 * n, sizeof *in), *out = td_calloc(2 * n, sizeof *out);
    bool gives = me == call.root || (call.pattern != TD_BROADCAST && call.pattern != TD_SCATTER);
    int fetched = 0;
    call.in = gives ? in : NULL, call.out = results ? out : NULL, call.bytes = n * sizeof *in;
    for (int k = 0; k < TURN; k++) {
        uint64_t before = moved;
        for (size_t i = 0; i < 2 * n; i++) in[i] = value(me, i) + (float)k;
        TD_TRY(td_comm_run(c, &call));
        fetched += moved > before;
        for (size_t i = 0; i < results; i++) CHECK(out[i] == left_by(&call, me, k, i));
    }
    CHECK(!*allowed || (fetched > 0 && fetched < TURN));
    td_free(in), td_free(out);
    return TD_OK;
}

static td_status both_ways(td_comm *c, void *arg)
{
    enum { N = 50003 };
    static const td_pattern patterns[] = {TD_BROADCAST, TD_SCATTER, TD_GATHER,   TD_ALLGATHER,
                                          TD_ALLTOALL,  TD_REDUCE,  TD_ALLREDUCE};
    td_comm *group;
    TD_TRY(system_allows(c, arg));
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &group));
    td_status status = TD_OK;
    for (size_t k = 0; k < 2 * sizeof patterns / sizeof *patterns && status == TD_OK; k++) {
        td_collective call = {.pattern = patterns[k / 2], .count = N, .root = (int)(k % 2)};
        status = goes_both_ways(group, &call, arg);
    }
    td_comm_close(group);
    return status;
}

static void two_processes_try_both_ways(void **state)
{
    (void)state;
    if (!mpi_world || td_comm_size(mpi_world) != 2) skip();
    assert_ok(td_comm_agree(mpi_world, both_ways(mpi_world, &(bool){true})));
}

/* Who waited in vain has its memory for itself: the other, which comes later, is told. */
static td_status comes_late(td_comm *c, void *arg)
{
    enum { N = 500009 };
    const td_pattern *pattern = arg;
    int me = td_comm_rank(c);
    td_comm *group;
    TD_TRY(td_comm_split(c, me < 2 ? 0 : 1, me, &group));
    float *in = td_calloc(N, sizeof *in), *out = td_calloc(N, sizeof *out), word = 0;
    td_collective call = {.pattern = *pattern, .in = in, .out = out, .count = N};
    call.bytes = N * sizeof *in;
    if (*pattern == TD_BROADCAST) call.in = out;
    if (me < 2) { /* whatever has to be found out first */
        TD_TRY(td_comm_allreduce(group, in, out, N, TD_F32, TD_SUM));
        TD_TRY(td_comm_run(group, &call));
        group->deadline_ms = 300;
    }
    if (me == 1) {
        CHECK(td_comm_run(group, &call) == TD_ERR_TIMEOUT);
        for (int i = 0; i < N; i++) out[i] = 7;
    }
    TD_TRY(td_comm_barrier(c));
    if (me == 0) CHECK(td_comm_run(group, &call) == TD_ERR_PEER);
    TD_TRY(td_comm_allreduce(c, &(float){1}, &word, 1, TD_F32, TD_SUM));
    for (int i = 0; i < N && me == 1; i++) CHECK(out[i] == 7);
    td_error_clear();
    td_free(in), td_free(out);
    td_comm_close(group);
    return td_comm_barrier(c);
}

static void who_comes_late_writes_nowhere(void **state)
{
    (void)state;
    static td_pattern patterns[] = {TD_BROADCAST, TD_ALLREDUCE};
    for (size_t k = 0; k < sizeof patterns / sizeof *patterns; k++)
        on_few(comes_late, &patterns[k]);
}

/* A process that was stopped while it wrote to another's result writes there when it goes on: of
 * what is freed meanwhile the addresses stay. One that reads does nobody any harm. */
static td_status stopped_while_it_looks(td_comm *c, void *arg)
{
    enum { N = 1 << 20 };
    int how = *(const int *)arg;
    int me = td_comm_rank(c);
    td_comm *group;
    void *in, *out;
    TD_TRY(td_comm_split(c, me < 2 ? 0 : 1, me, &group));
    TD_TRY(td_comm_alloc(N, &in));
    TD_TRY(td_comm_alloc(2 * N, &out));
    if (me < 2) TD_TRY(td_comm_gather(group, in, N, out, 1));
    if (me == 0) __atomic_store_n(&group->meet->lines[0].looking, how, __ATOMIC_SEQ_CST);
    TD_TRY(td_comm_barrier(c));
    if (me == 1) {
        group->deadline_ms = 300;
        CHECK(td_comm_gather(group, in, N, out, 1) == TD_ERR_TIMEOUT);
        td_error_clear();
        CHECK(group->adrift == (how == TD_MEET_WRITES));
        TD_TRY(td_comm_free(out));
        if (how == TD_MEET_WRITES) memset(out, 7, 2 * N);
    }
    TD_TRY(td_comm_barrier(c));
    if (me == 0) __atomic_store_n(&group->meet->lines[0].looking, 0, __ATOMIC_SEQ_CST);
    if (me != 1) TD_TRY(td_comm_free(out));
    TD_TRY(td_comm_free(in));
    td_comm_close(group);
    return td_comm_barrier(c);
}

static void what_a_stopped_process_may_write_to_stays(void **state)
{
    (void)state;
    if (!mpi_world) skip(); /* threads are waited for */
    on_few(stopped_while_it_looks, &(int){TD_MEET_READS});
    on_few(stopped_while_it_looks, &(int){TD_MEET_WRITES});
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_way_adds_what_is_there),
        cmocka_unit_test(halves_are_added_so_too),
        cmocka_unit_test(own_operations_keep_their_order),
        cmocka_unit_test(long_vectors_reach_and_leave_every_rank),
        cmocka_unit_test(parts_that_differ_are_gathered_and_scattered),
        cmocka_unit_test(results_go_past_the_caches),
        cmocka_unit_test(processes_reach_each_others_memory),
        cmocka_unit_test(two_processes_try_both_ways),
        cmocka_unit_test(who_comes_late_writes_nowhere),
        cmocka_unit_test(what_a_stopped_process_may_write_to_stays),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
