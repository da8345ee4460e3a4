/* Messages, collectives, groups, failures: see ranks_test.h. Oracles are serial. */
#include "comm/ranks_test.h"

#include "base/rng.h"

static const size_t counts[] = {0, 1, 3, 17, 1000, 100003};
enum { COUNTS = sizeof counts / sizeof *counts, MOST = 100003 };

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
                for (int r = 0; r < n; r++) parts[r] = count / (size_t)n;
                parts[0] += count % (size_t)n;
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

/* Random floats: the sum along the tree of ranks, bit for bit, whatever call and algorithm. */
static td_status float_bits(td_comm *c, void *arg)
{
    (void)arg;
    enum { N = 50021 };
    static const size_t sizes[] = {1, 33, 700, 5000, N}; /* each algorithm's */
    int n = td_comm_size(c), me = td_comm_rank(c);
    float *in = td_malloc(N * 4), *out = td_malloc(N * 4), *all = td_malloc((size_t)n * N * 4);
    td_rng rng;
    td_rng_init(&rng, 7, TD_RNG_TEST, (uint64_t)me, 0);
    for (size_t i = 0; i < N; i++) in[i] = td_rng_normal(&rng);
    TD_TRY(td_comm_allgather(c, in, N * 4, all));
    for (int bit = 1; bit < n; bit *= 2)
        for (int r = 0; r + bit < n; r += 2 * bit)
            for (size_t i = 0; i < N; i++)
                all[(size_t)r * N + i] += all[(size_t)(r + bit) * N + i];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        TD_TRY(td_comm_allreduce(c, in, out, sizes[k], TD_F32, TD_SUM));
        CHECK(!memcmp(out, all, sizes[k] * 4));
        TD_TRY(td_comm_reduce(c, in, out, sizes[k], TD_F32, TD_SUM, n - 1));
        CHECK(me != n - 1 || !memcmp(out, all, sizes[k] * 4));
    }
    size_t *parts = td_calloc((size_t)n, sizeof *parts);
    parts[n - 1] = N;
    TD_TRY(td_comm_reduce_scatter(c, in, out, parts, TD_F32, TD_SUM));
    CHECK(me != n - 1 || !memcmp(out, all, N * 4));
    TD_TRY(td_comm_allreduce(c, in, in, N, TD_F32, TD_SUM)); /* in place */
    CHECK(!memcmp(in, all, N * 4));
    td_free(in), td_free(out), td_free(all), td_free(parts);
    return TD_OK;
}

/* --- failures --- */

static void nap(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static td_status one_fails(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y;
    if (td_comm_rank(c) == 1) return td_fail(TD_ERR_DATA, "line 7 is torn");
    td_status status = td_comm_allreduce(c, &x, &y, 1, TD_F32, TD_SUM);
    CHECK(status == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1 failed: line 7 is torn"));
    return status;
}

/* In a group of the odd and the even, the rank is named as in the run. */
static td_status one_fails_beside_a_group(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *half;
    int me = td_comm_rank(c);
    TD_TRY(td_comm_split(c, me % 2, 0, &half));
    td_status status = TD_OK;
    if (me == 3)
        status = td_fail(TD_ERR_DATA, "line 8 is torn");
    else
        status = td_comm_barrier(half);
    if (me == 1) CHECK(status == TD_ERR_PEER && strstr(td_last_error(), "rank 3 failed"));
    td_comm_close(half);
    return status;
}

static td_status one_sleeps(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c);
    if (me == 1) {
        nap(700);
        return TD_OK;
    }
    return me == 0 ? td_comm_barrier(c) : TD_OK;
}

static td_status one_leaves(td_comm *c, void *arg)
{
    (void)arg;
    char x;
    return td_comm_rank(c) == 0 ? td_comm_recv(c, &x, 1, 1, 3) : TD_OK;
}

static td_status lengths_differ(td_comm *c, void *arg)
{
    (void)arg;
    char x[8] = "";
    if (td_comm_rank(c) == 1) return td_comm_send(c, x, 8, 0, 3);
    td_status status = td_comm_recv(c, x, 4, 1, 3);
    CHECK(status == TD_ERR_PEER && strstr(td_last_error(), "rank 1 sent 8 bytes"));
    return TD_OK;
}

static void failures_name_the_rank(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_comm_config quick = {.deadline_ms = 200};
    assert_fails(TD_ERR_DATA, "line 7 is torn", td_comm_run_local(3, NULL, one_fails, NULL));
    assert_fails(TD_ERR_DATA, "line 8 is torn",
                 td_comm_run_local(5, NULL, one_fails_beside_a_group, NULL));
    assert_fails(TD_ERR_TIMEOUT, "200 ms for rank 1 in barrier (operation 1)",
                 td_comm_run_local(2, &quick, one_sleeps, NULL));
    assert_fails(TD_ERR_PEER, "rank 1 left while rank 0 waited for it in recv",
                 td_comm_run_local(2, NULL, one_leaves, NULL));
    assert_ok(td_comm_run_local(2, NULL, lengths_differ, NULL));
    assert_fails(TD_ERR_ARG, "1 to 1024", td_comm_run_local(0, NULL, one_leaves, NULL));
}

static td_status announced(td_comm *c, void *arg)
{
    float x[9000] = {0}, y[9000];
    (void)arg;
    if (td_comm_size(c) == 1) return TD_OK;
    if (td_comm_rank(c) == 1) {
        td_comm_fail(c, TD_ERR_DATA, "line 9 is torn");
        return TD_OK;
    }
    CHECK(td_comm_allreduce(c, x, y, 9000, TD_F32, TD_SUM) == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1 failed: line 9 is torn"));
    return TD_OK;
}

/* The job's last words, as a failure is for good: comm_test mpi-fail, comm_test mpi-late. */
static td_status late(td_comm *c, void *arg)
{
    (void)arg;
    char x = 0;
    int me = td_comm_rank(c);
    if (me == 1) nap(700);
    if (me != 0 || td_comm_size(c) == 1) return TD_OK;
    CHECK(td_comm_recv(c, &x, 1, 1, 5) == TD_ERR_TIMEOUT);
    CHECK(strstr(td_last_error(), "200 ms for rank 1 in recv"));
    return TD_OK;
}

static void a_rank_may_announce_its_failure(void **state)
{
    (void)state;
    if (mpi_world) skip();
    assert_fails(TD_ERR_DATA, "line 9 is torn", td_comm_run_local(3, NULL, announced, NULL));
}

static void a_rank_alone_is_a_group(void **state)
{
    (void)state;
    td_comm *c;
    int32_t x = 5, y = 0;
    assert_ok(td_comm_self(NULL, &c));
    assert_int_equal(td_comm_size(c), 1);
    assert_int_equal(td_comm_local_size(c), 1);
    assert_ok(td_comm_allreduce(c, &x, &y, 1, TD_I32, TD_SUM));
    assert_ok(td_comm_barrier(c));
    assert_int_equal(y, 5);
    td_comm_close(c);
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

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    on_all_sizes(wrong_arguments, NULL);
}

static void float_sums_follow_the_tree_of_ranks(void **state)
{
    (void)state;
    on_all_sizes(float_bits, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reductions_match_the_serial_result),
        cmocka_unit_test(movements_bring_every_byte),
        cmocka_unit_test(float_sums_follow_the_tree_of_ranks),
        cmocka_unit_test(splits_make_working_groups),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(failures_name_the_rank),
        cmocka_unit_test(a_rank_may_announce_its_failure),
        cmocka_unit_test(a_rank_alone_is_a_group),
    };
    td_comm_config quick = {.deadline_ms = 200};
    td_status status = TD_OK;
    if (argc > 1 && !strcmp(argv[1], "mpi-fail"))
        status = td_comm_run_mpi(NULL, announced, NULL);
    else if (argc > 1 && !strcmp(argv[1], "mpi-late"))
        status = td_comm_run_mpi(&quick, late, NULL);
    else
        return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}
