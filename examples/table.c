/* A sparse logistic regression whose weights lie in a table over all workers, each of which goes at
 * its own pace; the update rule is FTRL-proximal (McMahan et al., "Ad click prediction: a view from
 * the trenches", KDD 2013).
 *
 *     cc table.c $(pkg-config --cflags --libs tandem) -lm -o table
 *     ./table 4
 *
 * Samples are made up: ten of a million features each, of which one in three speaks for a click. */
#include <tandem/kv.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { FEATURES = 10, BATCH = 64, KEYS = BATCH * FEATURES, STEPS = 2000 };

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * 0x7fb5d329728ea185;
    x = (x ^ x >> 27) * 0x81dadef4bc2dd44d;
    return x ^ x >> 33;
}

/* Frequent features are the low ones. */
static void draw(uint64_t batch, uint64_t keys[KEYS], int label[BATCH])
{
    for (int i = 0; i < BATCH; i++) {
        double score = 0;
        for (int k = 0; k < FEATURES; k++) {
            uint64_t bits = mix(batch * KEYS + (uint64_t)(i * FEATURES + k));
            uint64_t key = (uint64_t)pow(1e6, (double)(bits >> 11) / 0x1p53);
            keys[i * FEATURES + k] = key;
            score += mix(key) % 3 == 0 ? 1 : -0.5;
        }
        label[i] = score > 0;
    }
}

/* Of a batch at the weights w: its loss, and the gradient of each weight. */
static double logistic(const float *w, const int *label, float *gradient)
{
    double loss = 0;
    for (int i = 0; i < BATCH; i++) {
        double margin = 0;
        for (int k = 0; k < FEATURES; k++) margin += w[i * FEATURES + k];
        double p = 1 / (1 + exp(-margin));
        loss -= log(label[i] ? p : 1 - p) / BATCH;
        for (int k = 0; k < FEATURES; k++) gradient[i * FEATURES + k] = (float)(p - label[i]);
    }
    return loss;
}

static td_status count(void *arg, uint64_t key, const float *w)
{
    (void)key;
    if (*w != 0) ++*(int *)arg;
    return TD_OK;
}

/* What each worker does. */
static td_status work(td_comm *comm, void *arg)
{
    const td_kv_config config = {.width = 1, .rule = "ftrl", .lr = 0.2f, .l1 = 2, .clock = "ssp:4"};
    uint64_t keys[KEYS], workers = (uint64_t)td_comm_size(comm), me = (uint64_t)td_comm_rank(comm);
    float w[KEYS], gradient[KEYS];
    int label[BATCH], found = 0;
    double loss = 0;
    td_kv *table = NULL;
    (void)arg;
    td_status status = td_kv_open(comm, &config, &table);
    for (uint64_t step = 0; step < STEPS / workers && status == TD_OK; step++) {
        draw(step * workers + me, keys, label);
        status = td_kv_pull(table, keys, KEYS, w);
        double now = logistic(w, label, gradient);
        loss = step == 0 ? now : 0.95 * loss + 0.05 * now;
        if (status == TD_OK) status = td_kv_push(table, keys, KEYS, gradient);
    }
    if (status == TD_OK) status = td_kv_retire(table);
    if (status == TD_OK) status = td_comm_barrier(comm);
    if (status == TD_OK && me == 0) status = td_kv_range(table, 0, UINT64_MAX, count, &found);
    if (status == TD_OK && me == 0) printf("loss %.3f, %d weights are not zero\n", loss, found);
    if (status == TD_OK) status = td_kv_finish(table);
    td_kv_destroy(table);
    return status;
}

int main(int argc, char **argv)
{
    td_status status = td_comm_run_local(argc > 1 ? atoi(argv[1]) : 1, NULL, work, NULL);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}
