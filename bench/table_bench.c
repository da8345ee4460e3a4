/* A server's sparse table, on one core: rows per second that a batch of random keys is pulled and
 * pushed at.
 *
 *     table_bench [MILLION_ROWS [WIDTH]]      default 10, 16
 *
 * The table is filled first, which is timed as well. Batches hold 100,000 keys, drawn evenly from
 * all that there are, so that nearly every row comes from memory. Medians over ROUNDS batches;
 * afterwards the sum of all weights must be that of the pushes that each row had. Prints TSV. */
#include "ps/table.h"

#include "base/clock.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 100000, ROUNDS = 41 };

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void must(td_status status)
{
    if (status == TD_OK) return;
    fprintf(stderr, "table_bench: %s\n", td_last_error());
    exit(1);
}

static uint64_t key_of(uint64_t i)
{
    return i * 0x9e3779b97f4a7c15; /* all different */
}

typedef struct bench {
    td_table *table;
    uint64_t rows, *keys;
    uint16_t *pushes; /* [rows] of the table that there is */
    size_t width;
    float *values;
    td_rng rng;
} bench;

static double seconds_of(bench *b, bool push)
{
    for (int i = 0; i < BATCH; i++) {
        uint64_t row = td_rng_u64(&b->rng) % b->rows;
        b->keys[i] = key_of(row);
        b->pushes[row] += push;
    }
    for (size_t i = 0; push && i < BATCH * b->width; i++) b->values[i] = 1;
    int64_t began = td_clock_ns();
    if (push)
        must(td_table_push(b->table, b->keys, BATCH, b->values, (td_table_step){0, 1, 1, 1}));
    else
        must(td_table_pull(b->table, b->keys, BATCH, b->values));
    return (double)(td_clock_ns() - began) * 1e-9;
}

static void print(const bench *b, const char *what, double seconds)
{
    double bytes = (double)b->width * 4;
    printf("%s\t%.2f\t%.2f\n", what, BATCH / seconds * 1e-6, BATCH * bytes / seconds * 1e-9);
    fflush(stdout);
}

static void measure(bench *b, const char *what, bool push)
{
    double seconds[ROUNDS];
    for (int k = 0; k < ROUNDS; k++) seconds[k] = seconds_of(b, push);
    qsort(seconds, ROUNDS, sizeof *seconds, ascending);
    print(b, what, seconds[ROUNDS / 2]);
}

static td_status add(void *arg, uint64_t key, const float *row)
{
    (void)key;
    *(double *)arg += (double)row[0];
    return TD_OK;
}

static double sum_of(const bench *b)
{
    double sum = 0;
    must(td_table_each(b->table, add, &sum));
    return sum;
}

/* All gradients are 1: how far a row has gone after so many. */
static double distance(const char *rule, int pushes)
{
    double gone = 0;
    for (int k = 1; k <= pushes; k++) {
        if (!strcmp(rule, "sgd")) gone += 1;
        if (!strcmp(rule, "adagrad")) gone += 1 / sqrt(k);
        if (!strcmp(rule, "adam"))
            gone += (1 - pow(.9, k)) / .1 / sqrt((1 - pow(.999, k)) / .001); /* of step 0 each */
    }
    return gone;
}

static double expected(const bench *b, const char *rule)
{
    double all = 0;
    for (uint64_t i = 0; i < b->rows; i++)
        if (b->pushes[i]) all += distance(rule, b->pushes[i]);
    return all;
}

static void run(bench *b, const char *rule, const char *push)
{
    td_table_config c = {.width = b->width, .rule = rule, .lr = 1, .momentum = .9f};
    must(td_table_create(&c, &b->table));
    memset(b->pushes, 0, b->rows * sizeof *b->pushes);
    int64_t began = td_clock_ns();
    for (uint64_t at = 0; at < b->rows; at += BATCH) {
        for (uint64_t i = 0; i < BATCH; i++) b->keys[i] = key_of(at + i);
        must(td_table_pull(b->table, b->keys, BATCH, b->values));
    }
    if (!strcmp(rule, "sgd"))
        print(b, "make", (double)(td_clock_ns() - began) * 1e-9 / (double)(b->rows / BATCH));
    if (!strcmp(rule, "sgd")) measure(b, "pull", false);
    measure(b, push, true);
    double sum = -sum_of(b), want = expected(b, rule);
    if (td_table_rows(b->table) != b->rows || fabs(sum - want) > 1e-4 * want) {
        fprintf(stderr, "table_bench: %s: the weights have moved by %g, not %g\n", rule, sum, want);
        exit(1);
    }
    td_table_destroy(b->table);
}

int main(int argc, char **argv)
{
    bench b = {.rows = (uint64_t)((argc > 1 ? atof(argv[1]) : 10) * 1e6) / BATCH * BATCH,
               .width = argc > 2 ? strtoul(argv[2], NULL, 10) : 16};
    if (b.rows < BATCH || b.width < 1) return 2;
    b.keys = malloc(BATCH * sizeof *b.keys);
    b.values = malloc(BATCH * b.width * sizeof *b.values);
    b.pushes = malloc(b.rows * sizeof *b.pushes);
    if (!b.keys || !b.values || !b.pushes) return 1;
    td_rng_init(&b.rng, 1, TD_RNG_TEST, 0, 0);
    printf("# %llu rows of %zu floats, batches of %d random keys, one core\n",
           (unsigned long long)b.rows, b.width, BATCH);
    printf("what\tmillion rows/s\tGB/s\n");
    run(&b, "sgd", "push, sgd");
    run(&b, "adagrad", "push, adagrad");
    run(&b, "adam", "push, adam");
    free(b.keys), free(b.values), free(b.pushes);
    return 0;
}
