/* A user's own gradient: least squares against the exact solution, weights against the serial sum,
 * and the same bits from any number of ranks and threads. */
#include "tandem/train.h"

#include "base/error.h"
#include "base/test.h"

#include <math.h>

enum { SAMPLES = 210, FEATURES = 3 };

static float x[SAMPLES][FEATURES], target[SAMPLES];

typedef struct job {
    td_dataset *data;
    int threads;
    size_t batch;    /* default 32 */
    uint64_t epochs; /* default 40 */
    double loss;     /* of the last epoch, at rank 0 */
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

static void note_loss(void *user, uint64_t epoch, double loss)
{
    (void)epoch;
    ((job *)user)->loss = loss;
}

static td_status rank(td_comm *comm, void *arg)
{
    job *j = arg;
    float params[FEATURES] = {0};
    td_fit_config config = {.data = j->data,
                            .batch = j->batch ? j->batch : 32,
                            .threads = j->threads,
                            .epochs = j->epochs ? j->epochs : 40,
                            .seed = 3,
                            .optim = {.lr = 0.1},
                            .gradient = squares,
                            .epoch = td_comm_rank(comm) == 0 ? note_loss : NULL,
                            .user = j};
    TD_TRY(td_fit(comm, &config, FEATURES, params));
    if (td_comm_rank(comm) == 0) memcpy(j->result, params, sizeof params);
    return TD_OK;
}

static const float truth[FEATURES] = {0.5f, -2, 1.25f};

static int make_samples(void **state)
{
    (void)state;
    for (int i = 0; i < SAMPLES; i++) {
        target[i] = 0;
        for (int k = 0; k < FEATURES; k++) {
            x[i][k] = (float)sin(1 + i * (k + 1) * 0.37);
            target[i] += truth[k] * x[i][k];
        }
    }
    return 0;
}

static td_dataset *data_of(uint64_t samples, const void *rows, const float *y, const float *weight)
{
    td_dataset *data;
    td_arrays arrays = {.samples = samples,
                        .rank = 1,
                        .shape = {FEATURES},
                        .dtype = TD_DTYPE_F32,
                        .x = rows,
                        .target = y,
                        .weight = weight};
    assert_ok(td_dataset_from_arrays(&arrays, &data));
    return data;
}

static const int ways[][2] = {{1, 1}, {2, 1}, {3, 1}, {5, 1}, {8, 1}, {1, 2}, {3, 3}};

/* The job's result, the same from any number of ranks and threads. */
static void fit_all_ways(job *j)
{
    float first[FEATURES];
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        j->threads = ways[w][1];
        assert_ok(td_comm_run_local(ways[w][0], NULL, rank, j));
        if (w == 0) memcpy(first, j->result, sizeof first);
        assert_memory_equal(first, j->result, sizeof first);
    }
    td_dataset_close(j->data);
}

static void least_squares_reach_the_exact_solution(void **state)
{
    (void)state;
    job j = {.data = data_of(SAMPLES, x, target, NULL)};
    fit_all_ways(&j);
    for (int k = 0; k < FEATURES; k++) assert_true(fabsf(j.result[k] - truth[k]) < 1e-3f);
}

static void weigh(float *weight) /* runs of some, zeros, and fractions */
{
    static const float some[] = {1, 1, 0, 2.5f, 2.5f, 0.125f, 1, 0, 0, 3};
    for (int i = 0; i < SAMPLES; i++) weight[i] = some[i * 7 % 10];
}

/* One step over all samples is the weighted gradient at 0, over the sum of the weights. */
static void one_step_is_the_serial_sum(void **state)
{
    (void)state;
    float weight[SAMPLES];
    double sum[FEATURES] = {0}, total = 0, loss = 0;
    weigh(weight);
    for (int i = 0; i < SAMPLES; i++) {
        total += weight[i], loss += (double)weight[i] * target[i] * target[i];
        for (int k = 0; k < FEATURES; k++) sum[k] -= 2.0 * weight[i] * target[i] * x[i][k];
    }
    job j = {.data = data_of(SAMPLES, x, target, weight), .batch = SAMPLES, .epochs = 1};
    fit_all_ways(&j);
    for (int k = 0; k < FEATURES; k++)
        assert_true(fabs(j.result[k] - -0.1 * sum[k] / total) < 1e-6);
    assert_true(fabs(j.loss - loss / total) < 1e-6);
}

/* Whole weights are rows so many times over, as long as all of them are in the batch. */
static void a_weight_is_so_many_rows(void **state)
{
    (void)state;
    static float many[3 * SAMPLES][FEATURES], y[3 * SAMPLES], weight[SAMPLES];
    size_t n = 0;
    for (int i = 0; i < SAMPLES; i++) {
        weight[i] = (float)(i * 5 % 7 % 4);
        for (int copy = 0; copy < (int)weight[i]; copy++, n++) {
            memcpy(many[n], x[i], sizeof *many);
            y[n] = target[i] + 0.1f * x[i][0] * x[i][1]; /* so that no answer fits all */
        }
    }
    float rough[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) rough[i] = target[i] + 0.1f * x[i][0] * x[i][1];
    job j = {.data = data_of(SAMPLES, x, rough, weight), .batch = SAMPLES, .epochs = 9};
    job copies = {.data = data_of(n, many, y, NULL), .batch = n, .epochs = 9};
    fit_all_ways(&j);
    fit_all_ways(&copies);
    for (int k = 0; k < FEATURES; k++) assert_true(fabsf(j.result[k] - copies.result[k]) < 1e-5f);
    assert_true(fabs(j.loss - copies.loss) < 1e-5);
}

static void weights_of_one_are_no_weights(void **state)
{
    (void)state;
    float ones[SAMPLES], halves[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) ones[i] = 1, halves[i] = 0.5f;
    job j = {.data = data_of(SAMPLES, x, target, NULL)}, one = j, half = j;
    one.data = data_of(SAMPLES, x, target, ones);
    half.data = data_of(SAMPLES, x, target, halves);
    fit_all_ways(&j);
    fit_all_ways(&one);
    fit_all_ways(&half);
    assert_memory_equal(one.result, j.result, sizeof j.result);
    assert_true(one.loss == j.loss);
    assert_memory_equal(half.result, j.result, sizeof j.result); /* a power of two is exact */
}

static void batches_of_no_weight_move_nothing(void **state)
{
    (void)state;
    float none[SAMPLES] = {0};
    job j = {.data = data_of(SAMPLES, x, target, none), .epochs = 2};
    fit_all_ways(&j);
    for (int k = 0; k < FEATURES; k++) assert_true(j.result[k] == 0);
    assert_true(j.loss == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(least_squares_reach_the_exact_solution),
        cmocka_unit_test(one_step_is_the_serial_sum),
        cmocka_unit_test(a_weight_is_so_many_rows),
        cmocka_unit_test(weights_of_one_are_no_weights),
        cmocka_unit_test(batches_of_no_weight_move_nothing),
    };
    return cmocka_run_group_tests(tests, make_samples, NULL);
}
