/* Long vectors inside a host, by each way that may serve them, where they lie and into another
 * vector: see ranks_test.h. */
#include "comm/coll/meet_impl.h"
#include "comm/ranks_test.h"

enum { CALLS = 12 /* of a pattern and length: the first ones try both ways */ };

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

/* To and from each rank. */
static td_status long_moves(td_comm *c, void *arg)
{
    static const size_t counts[] = {20001, 262144, 300007};
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++)
        for (int root = 0; root < n; root++) {
            size_t count = counts[k];
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
            for (size_t i = 0; i < count; i++)
                CHECK(own[i] == (me == root ? sum(0, n, i) : value(me, i)));
            TD_TRY(td_comm_broadcast(c, own, count * sizeof *own, root));
            for (size_t i = 0; i < count; i++) CHECK(own[i] == sum(0, n, i));
            td_free(own), td_free(all);
        }
    return TD_OK;
}

static void long_vectors_reach_and_leave_every_rank(void **state)
{
    (void)state;
    on_few(long_moves, NULL);
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
        cmocka_unit_test(who_comes_late_writes_nowhere),
        cmocka_unit_test(what_a_stopped_process_may_write_to_stays),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
