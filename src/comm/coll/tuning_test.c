/* Tuning files, and that every algorithm of a pattern gives the same bits. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { N = 30011, MOST = 16 };

static char path[64];

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return td_fail(TD_ERR_INTERNAL, "line %d: %s (%s)", __LINE__, #condition,              \
                           td_last_error());                                                       \
    } while (0)

/* Float sums by each algorithm, forced, are those of the default. */
static td_status same_bits(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    size_t all = N / (size_t)n * (size_t)n, counts[64];
    float *in = td_malloc(N * 4), *want = td_calloc(N, 4), *got = td_calloc(N, 4);
    td_rng rng;
    td_rng_init(&rng, 5, TD_RNG_TEST, (uint64_t)me, 0);
    for (size_t i = 0; i < N; i++) in[i] = td_rng_normal(&rng);
    for (int r = 0; r < n; r++) counts[r] = all / (size_t)n;
    for (int p = 0; p < TD_PATTERNS; p++) {
        const char *names[MOST];
        int algorithms = td_coll_algorithms(c, (td_pattern)p, names, MOST);
        td_collective what = {.pattern = (td_pattern)p,
                              .in = in,
                              .out = want,
                              .bytes = all / (size_t)n * 4,
                              .count = N,
                              .type = TD_F32,
                              .op = TD_SUM,
                              .parts = p == TD_REDUCE_SCATTER ? counts : NULL};
        td_collective other = what;
        other.out = got;
        if (p == TD_BROADCAST && me == 0) what.out = other.out = NULL;
        CHECK(algorithms >= 1);
        memset(want, 0, N * 4);
        TD_TRY(td_comm_run(c, &what));
        for (int k = 0; k < algorithms; k++) {
            memset(got, 0, N * 4);
            TD_TRY(td_coll_force(c, (td_pattern)p, names[k]));
            TD_TRY(td_comm_run(c, &other));
            CHECK(!memcmp(want, got, N * 4));
        }
        TD_TRY(td_coll_force(c, (td_pattern)p, NULL));
        CHECK(td_coll_force(c, (td_pattern)p, "carrier-pigeon") == TD_ERR_ARG);
    }
    td_free(in), td_free(want), td_free(got);
    return TD_OK;
}

static td_status round_trip(td_comm *c, void *arg)
{
    (void)arg;
    td_tuning tuning = {.count = 3,
                        .row = {{TD_ALLREDUCE, 0, 1}, {TD_ALLREDUCE, 4096, 0}, {TD_SCAN, 7, 1}}};
    td_tuning back = {0};
    if (td_comm_rank(c) == 0) TD_TRY(td_tuning_write(c, &tuning, path));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_tuning_read(c, path, &back));
    CHECK(back.count == 3);
    for (int k = 0; k < 3; k++)
        CHECK(back.row[k].pattern == tuning.row[k].pattern &&
              back.row[k].from_bytes == tuning.row[k].from_bytes &&
              back.row[k].algorithm == tuning.row[k].algorithm);
    TD_TRY(td_comm_tune(c, path));
    float x[2000] = {1}, y[2000];
    TD_TRY(td_comm_allreduce(c, x, y, 2000, TD_F32, TD_SUM));
    CHECK(y[0] == (float)td_comm_size(c));
    uint16_t half = 0x3c00, sum; /* an algorithm that sends partial sums gives way */
    TD_TRY(td_comm_allreduce(c, &half, &sum, 1, TD_F16, TD_SUM));
    CHECK(sum == (td_comm_size(c) == 3 ? 0x4200 : 0x4000));
    return TD_OK;
}

static td_status other_group(td_comm *c, void *arg)
{
    (void)arg;
    td_tuning back;
    CHECK(td_tuning_read(c, path, &back) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "ranks 3") && strstr(td_last_error(), "ranks 2"));
    CHECK(td_comm_tune(c, path) == TD_ERR_ARG);
    return TD_OK;
}

/* Each byte changed, and each length, is noticed. */
static td_status damaged(td_comm *c, void *arg)
{
    (void)arg;
    char *text;
    size_t size;
    td_tuning back;
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_read_file(path, &text, &size));
    for (size_t i = 0; i < size - 1; i++) { /* the last line end is not needed */
        text[i] ^= 4;
        TD_TRY(td_write_file(path, text, size));
        text[i] ^= 4;
        CHECK(td_tuning_read(c, path, &back) != TD_OK);
        TD_TRY(td_write_file(path, text, i));
        CHECK(td_tuning_read(c, path, &back) != TD_OK);
    }
    td_free(text);
    CHECK(td_tuning_read(c, "/nowhere/tuning", &back) == TD_ERR_IO);
    return TD_OK;
}

static void every_algorithm_gives_the_same_bits(void **state)
{
    (void)state;
    static const char *const hosts[] = {"0", "0,0,1,1", "0,1,2,2", "0,1,0,1", "0,1,2,3,4,5,6,7"};
    for (int h = 0; h < 5; h++) {
        setenv("TANDEM_FAKE_HOSTS", hosts[h], 1);
        for (int n = 2; n <= 5; n++) assert_ok(td_comm_run_local(n, NULL, same_bits, NULL));
    }
    unsetenv("TANDEM_FAKE_HOSTS");
}

static void tuning_files(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/tandem-tuning-%ld", (long)getpid());
    assert_ok(td_comm_run_local(3, NULL, round_trip, NULL));
    assert_ok(td_comm_run_local(2, NULL, other_group, NULL));
    assert_ok(td_comm_run_local(3, NULL, damaged, NULL));
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_algorithm_gives_the_same_bits),
        cmocka_unit_test(tuning_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
