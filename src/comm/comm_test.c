/* One list of tests for every transport: "comm_test local" runs it on threads at sizes 1, 2, 3, 5
 * and 8, "comm_test mpi" on the ranks that mpiexec started. Oracles are serial. */
#include "comm/transport.h"
#include "comm/treesum.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "base/test.h"

#include <stdlib.h>
#include <time.h>

static bool on_mpi;
static td_comm *world; /* of MPI */

#define CHECK(condition)                                                                          \
    do {                                                                                          \
        if (!(condition))                                                                         \
            return td_fail(TD_ERR_INTERNAL, "rank %d of %d, line %d: %s", td_comm_rank(c),        \
                           td_comm_size(c), __LINE__, #condition);                                \
    } while (0)

/* Runs fn as every size of the transport. */
static void on_all_sizes(td_rank_fn *fn, void *arg)
{
    static const int sizes[] = {1, 2, 3, 5, 8};
    if (on_mpi) {
        td_status status = fn(world, arg);
        assert_ok(td_comm_agree(world, status));
        return;
    }
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        assert_ok(td_comm_run_local(sizes[i], NULL, fn, arg));
}

static const size_t counts[] = {0, 1, 3, 17, 1000, 20011};
enum { COUNTS = sizeof counts / sizeof *counts, MOST = 20011 };

/* Element i of rank r: small integers, so that every type and order gives exact results. */
static int element(int r, size_t i, td_op op)
{
    return op == TD_PROD ? 1 + ((int)i + r) % 2 : (int)((i * 7 + (size_t)r * 5) % 11);
}

static double combined(int ranks, size_t i, td_op op)
{
    double v = element(0, i, op);
    for (int r = 1; r < ranks; r++) {
        double e = element(r, i, op);
        v = op == TD_SUM ? v + e : op == TD_PROD ? v * e : op == TD_MIN ? (e < v ? e : v)
                                                                        : (e > v ? e : v);
    }
    return v;
}

static void put(void *buffer, size_t i, td_type type, double v)
{
    switch (type) {
    case TD_F32: ((float *)buffer)[i] = (float)v; break;
    case TD_F64: ((double *)buffer)[i] = v; break;
    case TD_I32: ((int32_t *)buffer)[i] = (int32_t)v; break;
    case TD_I64: ((int64_t *)buffer)[i] = (int64_t)v; break;
    case TD_U8: ((uint8_t *)buffer)[i] = (uint8_t)v; break;
    }
}

static double get(const void *buffer, size_t i, td_type type)
{
    switch (type) {
    case TD_F32: return ((const float *)buffer)[i];
    case TD_F64: return ((const double *)buffer)[i];
    case TD_I32: return ((const int32_t *)buffer)[i];
    case TD_I64: return (double)((const int64_t *)buffer)[i];
    case TD_U8: return ((const uint8_t *)buffer)[i];
    }
    return 0;
}

static td_status reductions(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    void *in = td_malloc(MOST * 8), *out = td_malloc(MOST * 8);
    for (int t = TD_F32; t <= TD_U8; t++)
        for (int o = TD_SUM; o <= TD_PROD; o++)
            for (size_t k = 0; k < COUNTS; k++) {
                size_t count = counts[k], *parts = td_calloc((size_t)n, sizeof *parts), at = 0;
                int root = (int)k % n;
                for (size_t i = 0; i < count; i++) put(in, i, t, element(me, i, o));
                TD_TRY(td_comm_allreduce(c, in, out, count, t, o));
                for (size_t i = 0; i < count; i++) CHECK(get(out, i, t) == combined(n, i, o));
                TD_TRY(td_comm_reduce(c, in, out, count, t, o, root));
                for (size_t i = 0; i < count && me == root; i++)
                    CHECK(get(out, i, t) == combined(n, i, o));
                for (int r = 0; r < n; r++) parts[r] = r ? count / (size_t)n : count - count / (size_t)n * (size_t)(n - 1);
                for (int r = 0; r < me; r++) at += parts[r];
                TD_TRY(td_comm_reduce_scatter(c, in, out, parts, t, o));
                for (size_t i = 0; i < parts[me]; i++)
                    CHECK(get(out, i, t) == combined(n, at + i, o));
                td_free(parts);
            }
    td_free(in), td_free(out);
    return TD_OK;
}

static td_status movements(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    uint8_t *in = td_malloc(MOST), *out = td_malloc(MOST * (size_t)n + (size_t)n * (size_t)n);
    for (size_t k = 0; k < COUNTS; k++) {
        size_t count = counts[k], sizes[64], at = 0;
        for (int root = 0; root < n; root++) {
            for (size_t i = 0; i < count; i++) in[i] = (uint8_t)(me * 3 + (int)i);
            TD_TRY(td_comm_gather(c, in, count, out, root));
            for (size_t i = 0; i < count * (size_t)n && me == root; i++)
                CHECK(out[i] == (uint8_t)(i / count * 3 + i % count));
            TD_TRY(td_comm_broadcast(c, in, count, root));
            for (size_t i = 0; i < count; i++) CHECK(in[i] == (uint8_t)(root * 3 + (int)i));
        }
        for (size_t i = 0; i < count; i++) in[i] = (uint8_t)(me * 3 + (int)i);
        TD_TRY(td_comm_allgather(c, in, count, out));
        for (size_t i = 0; i < count * (size_t)n; i++)
            CHECK(out[i] == (uint8_t)(i / count * 3 + i % count));
        for (int r = 0; r < n; r++) sizes[r] = count < (size_t)r ? 0 : count - (size_t)r;
        TD_TRY(td_comm_allgatherv(c, in, sizes, out));
        for (int r = 0; r < n; at += sizes[r++])
            for (size_t i = 0; i < sizes[r]; i++) CHECK(out[at + i] == (uint8_t)(r * 3 + (int)i));
        TD_TRY(td_comm_barrier(c));
    }
    for (int r = 0; r + 1 < n; r++) { /* a token down the line */
        int token = me;
        if (me == r) TD_TRY(td_comm_send(c, &token, sizeof token, r + 1, 7));
        if (me == r + 1) TD_TRY(td_comm_recv(c, &token, sizeof token, r, 7));
        CHECK(me != r + 1 || token == r);
    }
    td_free(in), td_free(out);
    return TD_OK;
}

static td_status splits(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *half;
    int n = td_comm_size(c), me = td_comm_rank(c);
    TD_TRY(td_comm_split(c, me % 2, -me, &half)); /* odd and even, in reverse order */
    int size = (n + 1 - me % 2) / 2;
    CHECK(td_comm_size(half) == size && td_comm_rank(half) == size - 1 - me / 2);
    int32_t one = me, sum;
    TD_TRY(td_comm_allreduce(half, &one, &sum, 1, TD_I32, TD_SUM));
    int32_t want = 0;
    for (int r = me % 2; r < n; r += 2) want += r;
    CHECK(sum == want);
    td_region region;
    TD_TRY(td_comm_shared_create(half, 1000, &region));
    int place = td_comm_rank(half);
    ((int *)region.data)[place] = place + 1;
    TD_TRY(td_comm_barrier(half));
    for (int r = 0; r < size; r++)
        if (td_comm_host_of(half, r) == td_comm_host_of(half, place))
            CHECK(((int *)region.data)[r] == r + 1);
    TD_TRY(td_comm_barrier(half));
    td_comm_shared_destroy(half, &region);
    td_comm_close(half);
    TD_TRY(td_comm_split(c, me == 0 ? 0 : -1, 0, &half));
    CHECK((half != NULL) == (me == 0));
    td_comm_close(half);
    return TD_OK;
}

/* --- the tree sum --- */

enum { FLOATS = 4099, STEPS = 3 };

static float leaf_element(int step, int leaf, size_t i)
{
    td_rng rng;
    td_rng_init(&rng, (uint64_t)step, TD_RNG_TEST, (uint64_t)leaf, i);
    return td_rng_normal(&rng);
}

static float *leaf_array(int step, int leaf)
{
    float *g = td_malloc(FLOATS * sizeof *g);
    for (size_t i = 0; i < FLOATS; i++) g[i] = leaf_element(step, leaf, i);
    return g;
}

static void serial(int step, int leaves, float *out)
{
    int *merges = td_calloc((size_t)leaves, sizeof *merges);
    float *g[64];
    for (int l = 0; l < leaves; l++) g[l] = leaf_array(step, l);
    td_tree_merges(leaves, 0, leaves, merges);
    td_tree_fold((const float *const *)g, merges, leaves, 0, FLOATS, out);
    for (int l = 0; l < leaves; l++) td_free(g[l]);
    td_free(merges);
}

static void fill_lane(td_treesum *ts, int lane, int step, int leaves)
{
    int begin, end, merges[64];
    float *g[64], *outs[64];
    td_treesum_lane_leaves(ts, lane, &begin, &end);
    for (int l = begin; l < end; l++) {
        g[l - begin] = leaf_array(step, l);
        td_treesum_leaf(ts, l)[0] = l + step;
        td_treesum_leaf(ts, l)[1] = 1;
    }
    for (int k = 0; k < td_treesum_nodes(ts, lane); k++) outs[k] = td_treesum_node(ts, lane, k);
    td_tree_merges(leaves, begin, end, merges);
    if (end > begin) td_tree_fold_to((const float *const *)g, merges, end - begin, 0, FLOATS, outs);
    for (int l = begin; l < end; l++) td_free(g[l - begin]);
}

static td_status treesum_of(td_comm *c, int leaves, int lanes)
{
    td_treesum *ts;
    td_treesum_config config = {.leaves = leaves, .lanes = lanes, .count = FLOATS, .leaf_values = 2};
    TD_TRY(td_treesum_create(c, &config, &ts));
    float *want = td_malloc(FLOATS * sizeof *want);
    for (int step = 0; step < STEPS; step++) {
        for (int lane = 0; lane < lanes; lane++) fill_lane(ts, lane, step, leaves);
        TD_TRY(td_treesum_post(ts, 2000, FLOATS));
        TD_TRY(td_treesum_progress(ts));
        TD_TRY(td_treesum_post(ts, 1999, 2000));
        TD_TRY(td_treesum_post(ts, 0, 1999));
        TD_TRY(td_treesum_wait(ts));
        serial(step, leaves, want);
        CHECK(!memcmp(td_treesum_sum(ts), want, FLOATS * sizeof *want));
        CHECK(td_treesum_leaf_sums(ts)[0] == leaves * (leaves - 1) / 2 + leaves * step);
        CHECK(td_treesum_leaf_sums(ts)[1] == leaves);
    }
    td_free(want);
    td_treesum_destroy(ts);
    return TD_OK;
}

static td_status treesums(td_comm *c, void *arg)
{
    (void)arg;
    static const int leaves[] = {1, 2, 3, 5, 7, 16, 33};
    for (size_t k = 0; k < sizeof leaves / sizeof *leaves; k++)
        for (int lanes = 1; lanes <= 3; lanes++)
            if (leaves[k] >= td_comm_size(c)) TD_TRY(treesum_of(c, leaves[k], lanes));
    td_treesum *ts;
    td_treesum_config config = {.leaves = 1, .lanes = 1, .count = 1};
    if (td_comm_size(c) > 1) {
        CHECK(td_treesum_create(c, &config, &ts) == TD_ERR_ARG);
        CHECK(strstr(td_last_error(), "more than the 1 leaves"));
    }
    return TD_OK;
}

/* --- failures (threads only: a rank's failure ends an MPI job) --- */

static td_status one_fails(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y;
    if (td_comm_rank(c) == 1) return td_fail(TD_ERR_DATA, "line 7 is torn");
    td_status status = td_comm_allreduce(c, &x, &y, 1, TD_F32, TD_SUM);
    CHECK(status == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1"));
    return status;
}

static td_status one_fails_in_treesum(td_comm *c, void *arg)
{
    (void)arg;
    td_treesum *ts;
    td_treesum_config config = {.leaves = 8, .lanes = 1, .count = 100};
    TD_TRY(td_treesum_create(c, &config, &ts));
    td_status status = TD_OK;
    if (td_comm_rank(c) == 2) {
        status = td_fail(TD_ERR_NOMEM, "no memory left");
    } else {
        CHECK(td_treesum_post(ts, 0, 100) == TD_OK);
        status = td_treesum_wait(ts);
        CHECK(status == TD_ERR_PEER);
    }
    td_treesum_destroy(ts);
    return status;
}

static void nap(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static td_status one_sleeps(td_comm *c, void *arg)
{
    (void)arg;
    if (td_comm_rank(c) == 1) {
        nap(1500);
        return TD_OK;
    }
    return td_comm_rank(c) == 0 ? td_comm_barrier(c) : TD_OK;
}

static td_status one_leaves(td_comm *c, void *arg)
{
    (void)arg;
    char x;
    return td_comm_rank(c) == 0 ? td_comm_recv(c, &x, 1, 1, 3) : TD_OK;
}

static void failures_name_the_rank(void **state)
{
    (void)state;
    if (on_mpi) skip();
    td_comm_config quick = {.deadline_ms = 100};
    assert_fails(TD_ERR_DATA, "line 7 is torn", td_comm_run_local(3, NULL, one_fails, NULL));
    assert_fails(TD_ERR_NOMEM, "no memory left",
                 td_comm_run_local(3, NULL, one_fails_in_treesum, NULL));
    assert_fails(TD_ERR_TIMEOUT, "for rank 1 in barrier",
                 td_comm_run_local(2, &quick, one_sleeps, NULL));
    assert_fails(TD_ERR_PEER, "rank 1 left while rank 0 waited for it in recv",
                 td_comm_run_local(2, NULL, one_leaves, NULL));
    assert_fails(TD_ERR_ARG, "1 to 1024", td_comm_run_local(0, NULL, one_leaves, NULL));
}

static td_status wrong_arguments(td_comm *c, void *arg)
{
    (void)arg;
    char b[8] = "";
    int n = td_comm_size(c);
    CHECK(td_comm_send(c, b, 1, n, 0) == TD_ERR_ARG);
    CHECK(td_comm_send(c, b, 1, td_comm_rank(c), 0) == TD_ERR_ARG);
    CHECK(td_comm_recv(c, b, 1, -1, 0) == TD_ERR_ARG);
    CHECK(td_comm_broadcast(c, NULL, 1, 0) == TD_ERR_ARG);
    CHECK(td_comm_broadcast(c, b, 1, n) == TD_ERR_ARG);
    CHECK(td_comm_allreduce(c, b, b, SIZE_MAX / 2, TD_F64, TD_SUM) == TD_ERR_ARG);
    CHECK(td_comm_allreduce(c, b, b, 1, (td_type)9, TD_SUM) == TD_ERR_ARG);
    CHECK(td_comm_reduce(c, b, b, 1, TD_U8, (td_op)7, 0) == TD_ERR_ARG);
    CHECK(td_comm_allgatherv(c, b, NULL, b) == TD_ERR_ARG);
    return TD_OK;
}

static void reductions_match_the_serial_result(void **state)
{
    (void)state;
    on_all_sizes(reductions, NULL);
}

static void movements_bring_every_byte(void **state)
{
    (void)state;
    on_all_sizes(movements, NULL);
}

static void splits_make_working_groups(void **state)
{
    (void)state;
    on_all_sizes(splits, NULL);
}

static void tree_sums_do_not_know_the_number_of_ranks(void **state)
{
    (void)state;
    on_all_sizes(treesums, NULL);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    on_all_sizes(wrong_arguments, NULL);
}

static td_status run_all(td_comm *comm, void *arg)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reductions_match_the_serial_result),
        cmocka_unit_test(movements_bring_every_byte),
        cmocka_unit_test(splits_make_working_groups),
        cmocka_unit_test(tree_sums_do_not_know_the_number_of_ranks),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(failures_name_the_rank),
    };
    world = comm;
    *(int *)arg = cmocka_run_group_tests(tests, NULL, NULL);
    return TD_OK;
}

int main(int argc, char **argv)
{
    int failed = 0;
    on_mpi = argc > 1 && !strcmp(argv[1], "mpi");
    td_status status = on_mpi ? td_comm_run_mpi(NULL, run_all, &failed) : run_all(NULL, &failed);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK || failed;
}
