/* A user's own gradient: least squares against the exact solution, and the same bits from any
 * number of ranks and threads. */
#include "tandem/train.h"

#include "base/error.h"
#include "base/test.h"

#include <math.h>

enum { SAMPLES = 210, FEATURES = 3 };

static float x[SAMPLES][FEATURES], target[SAMPLES];

typedef struct job {
    td_dataset *data;
    int threads;
    float params[FEATURES], result[FEATURES];
} job;

static double squares(void *user, const td_leaf *leaf, const float *p, float *g)
{
    (void)user;
    double loss = 0;
    for (size_t r = 0; r < leaf->rows; r++) {
        const float *row = leaf->x + r * FEATURES;
        float d = -leaf->target[r];
        for (int k = 0; k < FEATURES; k++) d += p[k] * row[k];
        for (int k = 0; k < FEATURES; k++) g[k] += 2 * d * row[k];
        loss += (double)d * d;
    }
    return loss;
}

static td_status rank(td_comm *comm, void *arg)
{
    job *j = arg;
    float params[FEATURES] = {0};
    td_fit_config config = {.data = j->data,
                            .batch = 32,
                            .threads = j->threads,
                            .epochs = 40,
                            .seed = 3,
                            .optim = {.lr = 0.1},
                            .gradient = squares};
    TD_TRY(td_fit(comm, &config, FEATURES, params));
    if (td_comm_rank(comm) == 0) memcpy(j->result, params, sizeof params);
    return TD_OK;
}

static void least_squares_reach_the_exact_solution(void **state)
{
    (void)state;
    static const float truth[FEATURES] = {0.5f, -2, 1.25f};
    for (int i = 0; i < SAMPLES; i++) {
        target[i] = 0;
        for (int k = 0; k < FEATURES; k++) {
            x[i][k] = (float)sin(1 + i * (k + 1) * 0.37);
            target[i] += truth[k] * x[i][k];
        }
    }
    td_arrays arrays = {.samples = SAMPLES,
                        .rank = 1,
                        .shape = {FEATURES},
                        .dtype = TD_DTYPE_F32,
                        .x = x,
                        .target = target};
    job j = {.threads = 1};
    float first[FEATURES];
    assert_ok(td_dataset_from_arrays(&arrays, &j.data));
    static const int ways[][2] = {{1, 1}, {2, 1}, {3, 1}, {5, 1}, {8, 1}, {1, 2}, {3, 3}};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        j.threads = ways[w][1];
        assert_ok(td_comm_run_local(ways[w][0], NULL, rank, &j));
        if (w == 0) memcpy(first, j.result, sizeof first);
        assert_memory_equal(first, j.result, sizeof first);
    }
    for (int k = 0; k < FEATURES; k++) assert_true(fabsf(first[k] - truth[k]) < 1e-3f);
    td_dataset_close(j.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(least_squares_reach_the_exact_solution)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
