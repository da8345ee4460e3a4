/* Operations under way beside their rank: see ranks_test.h. The oracle is the blocking call. */
#include "comm/ranks_test.h"

#include "base/rng.h"

enum { N = 40000, WORKS = 12 };

static float *randoms(td_comm *c, size_t n)
{
    float *x = td_malloc(n * sizeof *x);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, (uint64_t)td_comm_rank(c), 0);
    for (size_t i = 0; i < n; i++) x[i] = td_rng_normal(&rng);
    return x;
}

/* Several in flight, blocking calls between them, started again and again. */
static td_status many(td_comm *c, void *arg)
{
    (void)arg;
    size_t n = (size_t)td_comm_size(c), counts[WORKS];
    float *in = randoms(c, N), *want = td_malloc(N * 4), *out[WORKS];
    td_work *work[WORKS];
    for (int k = 0; k < WORKS; k++) {
        counts[k] = (size_t)(k * k * 250 + k % 3);
        out[k] = td_malloc(counts[k] * 4);
        td_collective what = {.pattern = TD_ALLREDUCE,
                              .in = in,
                              .out = out[k],
                              .count = counts[k],
                              .type = TD_F32,
                              .op = TD_SUM};
        TD_TRY(td_work_create(c, &what, &work[k]));
        CHECK(td_work_done(work[k]));
    }
    for (int round = 0; round < 3; round++) {
        in[0] = (float)round;
        for (int k = 0; k < WORKS; k++) memset(out[k], 255, counts[k] * 4);
        if (round == 1)
            TD_TRY(td_work_start_all(work, WORKS));
        else
            for (int k = 0; k < WORKS; k++) TD_TRY(td_work_start(work[k]));
        TD_TRY(td_comm_allreduce(c, in, want, N, TD_F32, TD_SUM)); /* meanwhile */
        for (int k = WORKS - 1; k >= 0; k--) {
            TD_TRY(td_work_wait(work[k]));
            CHECK(td_work_done(work[k]));
            CHECK(!memcmp(out[k], want, counts[k] * 4));
        }
    }
    for (int k = 0; k < WORKS; k++) {
        td_work_destroy(work[k]);
        td_free(out[k]);
    }
    CHECK(n == (size_t)td_comm_size(c));
    td_free(in), td_free(want);
    return TD_OK;
}

/* Every pattern gives what the blocking call gives. */
static td_status patterns(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c), root = n / 2;
    size_t part = 999, all = part * (size_t)n;
    float *in = randoms(c, all), *want = td_calloc(all, 4), *got = td_calloc(all, 4);
    size_t counts[64];
    for (int r = 0; r < n; r++) counts[r] = part;
    for (int p = 0; p < TD_PATTERNS; p++) {
        bool at_root = me == root;
        td_collective what = {.pattern = (td_pattern)p,
                              .in = in,
                              .out = want,
                              .bytes = part * 4,
                              .count = part,
                              .root = root,
                              .type = TD_F32,
                              .op = TD_SUM};
        if (p == TD_REDUCE_SCATTER) what.parts = counts;
        if (p == TD_BROADCAST && at_root) what.out = NULL;
        td_collective beside = what;
        beside.out = what.out ? got : NULL;
        memset(want, 0, all * 4), memset(got, 0, all * 4);
        td_work *work;
        TD_TRY(td_comm_run(c, &what));
        TD_TRY(td_comm_start(c, &beside, &work));
        TD_TRY(td_work_wait(work));
        CHECK(!memcmp(want, got, all * 4));
        td_work_destroy(work);
    }
    td_free(in), td_free(want), td_free(got);
    return TD_OK;
}

static td_status mistakes(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y = 0;
    td_work *work;
    td_collective what = {.pattern = TD_ALLREDUCE, .in = &x, .out = NULL, .count = 1};
    CHECK(td_work_create(c, &what, &work) == TD_ERR_ARG);
    what.pattern = TD_PATTERNS;
    CHECK(td_work_create(c, &what, &work) == TD_ERR_ARG);
    what.pattern = TD_ALLREDUCE, what.out = &y;
    TD_TRY(td_work_create(c, &what, &work));
    CHECK(td_work_start_all((td_work *[]){work, work}, 2) == TD_ERR_ARG);
    TD_TRY(td_work_wait(work)); /* never started */
    TD_TRY(td_work_start(work));
    td_work_destroy(work); /* waits */
    td_work_destroy(NULL);
    CHECK((int)y == td_comm_size(c));
    return TD_OK;
}

/* A rank that fails meanwhile ends the works of the others, by name. */
static td_status one_fails(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y;
    td_work *work;
    td_collective what = {.pattern = TD_ALLREDUCE, .in = &x, .out = &y, .count = 1};
    TD_TRY(td_work_create(c, &what, &work));
    if (td_comm_rank(c) == 1) {
        td_work_destroy(work);
        return td_fail(TD_ERR_DATA, "line 5 is torn");
    }
    TD_TRY(td_work_start(work));
    td_status status = td_work_wait(work);
    CHECK(status == TD_ERR_PEER && strstr(td_last_error(), "rank 1 failed: line 5 is torn"));
    td_work_destroy(work);
    return status;
}

static void many_are_in_flight_at_once(void **state)
{
    (void)state;
    on_all_sizes(many, NULL);
}

static void every_pattern_runs_beside_its_rank(void **state)
{
    (void)state;
    on_all_sizes(patterns, NULL);
}

static void mistakes_are_refused(void **state)
{
    (void)state;
    on_all_sizes(mistakes, NULL);
}

static void a_failing_rank_ends_the_others_works(void **state)
{
    (void)state;
    if (mpi_world) skip();
    assert_fails(TD_ERR_DATA, "line 5 is torn", td_comm_run_local(3, NULL, one_fails, NULL));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_are_in_flight_at_once),
        cmocka_unit_test(every_pattern_runs_beside_its_rank),
        cmocka_unit_test(mistakes_are_refused),
        cmocka_unit_test(a_failing_rank_ends_the_others_works),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
