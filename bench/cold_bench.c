/* A sparse table larger than its memory limit: rows per second, hits, disk, and whether memory
 * stays within the limit.
 *
 *     cold_bench [MILLION_ROWS [LIMIT_MIB [FOLDER [WIDTH [MILLION_KEYS]]]]]
 *                default 2, 128, ./cold-bench, 16, 1000
 *
 * Keys are so many numbers: half of them even, half such that the n-th most frequent comes with
 * probability 1/n (Zipf). Batches of 50,000 are pulled and then pushed under adagrad until so many
 * rows have been touched. Gradients are 1, so that a row's state is the number of its pushes.
 *
 * Afterwards a version of the table is frozen, as a checkpoint does, and read in another thread
 * while the batches go on; its states must add up to the pushes that there were then. At the end
 * the states of all rows must add up to all pushes, and every row of a thousandth of the keys must
 * be, bit for bit, that of a table without a limit which was pushed the same. Prints TSV; fails
 * where resident memory has been above 1.3 times the limit. */
#include "ps/table.h"

#include "base/clock.h"
#include "base/rng.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BATCH = 50000, LINES = 10, SAMPLE = 1000 };

static void must(td_status status)
{
    if (status == TD_OK) return;
    fprintf(stderr, "cold_bench: %s\n", td_last_error());
    exit(1);
}

typedef struct bench {
    td_table *table, *sample; /* sample: without a limit */
    size_t rows, limit, width;
    double space; /* keys that there are */
    uint64_t pushes;
    uint64_t *keys; /* [BATCH] */
    float *values;  /* [BATCH][width] */
    double seconds; /* in pulls and pushes */
    td_rng rng;
} bench;

static uint64_t draw(td_rng *rng, double space)
{
    double u = (double)(td_rng_u64(rng) >> 11) * 0x1p-53;
    double k = td_rng_below(rng, 2) ? u * space : exp(u * log(space));
    return (uint64_t)k * 0x9e3779b97f4a7c15; /* all different */
}

static bool is_sampled(uint64_t key)
{
    return (key ^ key >> 32) * 0xd6e8feb86659fd93 >> 32 < UINT32_MAX / SAMPLE;
}

static void work(bench *b)
{
    const td_table_step step = {.scale = 1, .rate_factor = 1, .decay = 1};
    for (int i = 0; i < BATCH; i++) b->keys[i] = draw(&b->rng, b->space);
    int64_t began = td_clock_ns();
    must(td_table_pull(b->table, b->keys, BATCH, b->values));
    int64_t pulled = td_clock_ns();
    for (size_t i = 0; i < BATCH * b->width; i++) b->values[i] = 1;
    int64_t filled = td_clock_ns();
    must(td_table_push(b->table, b->keys, BATCH, b->values, step));
    b->seconds += (double)(td_clock_ns() - filled + pulled - began) * 1e-9;
    b->pushes += BATCH;
    for (int i = 0; i < BATCH; i++)
        if (is_sampled(b->keys[i])) must(td_table_push(b->sample, b->keys + i, 1, b->values, step));
}

static double status_mib(const char *name)
{
    char line[256];
    unsigned long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, name, strlen(name))) kib = strtoul(line + strlen(name) + 1, NULL, 10);
    if (f) fclose(f);
    return (double)kib / 1024;
}

static void print(bench *b, td_table_stats *last, uint64_t *pushes, double *since)
{
    td_table_stats s;
    td_table_measure(b->table, &s);
    double hits = (double)(s.hits - last->hits), misses = (double)(s.misses - last->misses);
    printf("%.2f\t%.2f\t%.3f\t%.1f\t%.2f\t%.2f\t%.0f\t%.0f\t%.0f\t%.0f\n", (double)s.rows * 1e-6,
           (double)s.hot_rows * 1e-6,
           2 * (double)(b->pushes - *pushes) / (b->seconds - *since) * 1e-6,
           100 * hits / (hits + misses), (double)s.cold_reads * 1e-6, (double)s.cold_writes * 1e-6,
           (double)s.disk_bytes / (1 << 20), (double)s.bytes / (1 << 20), status_mib("VmRSS"),
           status_mib("VmHWM"));
    fflush(stdout);
    *last = s, *since = b->seconds, *pushes = b->pushes;
}

typedef struct sums {
    size_t rows, width;
    double state;
} sums;

static td_status add(void *arg, uint64_t key, const float *row)
{
    sums *s = arg;
    (void)key;
    s->rows++, s->state += (double)row[s->width];
    return TD_OK;
}

typedef struct check {
    const bench *b;
    float *row; /* of a key that is to come, whole */
    size_t rows;
} check;

static td_status differs(void *arg, uint64_t key, float *row)
{
    check *c = arg;
    if (!memcmp(row, c->row, 2 * c->b->width * sizeof *row)) return TD_OK;
    fprintf(stderr, "cold_bench: the row of %llu had %g pushes, not %g\n", (unsigned long long)key,
            (double)row[c->b->width], (double)c->row[c->b->width]);
    exit(1);
}

static td_status compare(void *arg, uint64_t key, const float *row)
{
    check *c = arg;
    memcpy(c->row, row, 2 * c->b->width * sizeof *row);
    c->rows++;
    return td_table_apply(c->b->table, &key, 1, differs, c);
}

typedef struct version {
    td_table_version *rows;
    sums sums;
    double seconds;
    atomic_bool done;
} version;

static td_status add_key(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    (void)mark;
    return add(arg, key, row);
}

static void *read_version(void *arg)
{
    version *v = arg;
    int64_t began = td_clock_ns();
    must(td_table_version_each(v->rows, add_key, &v->sums));
    v->seconds = (double)(td_clock_ns() - began) * 1e-9;
    atomic_store(&v->done, true);
    return NULL;
}

/* What a checkpoint costs those who wait for it, and those who go on beside it. */
static void freeze(bench *b)
{
    version v = {.sums.width = b->width};
    pthread_t thread;
    size_t rows = td_table_rows(b->table);
    uint64_t pushes = b->pushes;
    double before = b->seconds;
    int64_t began = td_clock_ns();
    must(td_table_freeze(b->table, &v.rows));
    double frozen = (double)(td_clock_ns() - began) * 1e-9;
    if (pthread_create(&thread, NULL, read_version, &v) != 0) exit(1);
    while (!atomic_load(&v.done)) work(b);
    pthread_join(thread, NULL);
    td_table_version_free(v.rows);
    printf("# a version is frozen in %.2f s and read in %.1f s, beside %.3f million rows/s\n",
           frozen, v.seconds, 2 * (double)(b->pushes - pushes) / (b->seconds - before) * 1e-6);
    if (v.sums.rows == rows && v.sums.state == (double)pushes) return;
    fprintf(stderr, "cold_bench: a version has %zu rows with %.0f pushes, not %zu with %llu\n",
            v.sums.rows, v.sums.state, rows, (unsigned long long)pushes);
    exit(1);
}

static void verify(bench *b)
{
    sums s = {.width = b->width};
    int64_t began = td_clock_ns();
    must(td_table_each(b->table, add, &s));
    printf("# all rows are read in %.1f s\n", (double)(td_clock_ns() - began) * 1e-9);
    if (s.rows != td_table_rows(b->table) || s.state != (double)b->pushes) {
        fprintf(stderr, "cold_bench: %zu rows with %.0f pushes, not %zu with %llu\n", s.rows,
                s.state, td_table_rows(b->table), (unsigned long long)b->pushes);
        exit(1);
    }
    check c = {.b = b, .row = malloc(2 * b->width * sizeof *c.row)};
    if (!c.row) exit(1);
    must(td_table_each(b->sample, compare, &c));
    printf("# %zu rows of %zu, and the sum of all %llu pushes, are exact\n", c.rows, s.rows,
           (unsigned long long)b->pushes);
    free(c.row);
}

int main(int argc, char **argv)
{
    bench b = {.rows = (size_t)((argc > 1 ? atof(argv[1]) : 2) * 1e6),
               .limit = (size_t)((argc > 2 ? atof(argv[2]) : 128) * (1 << 20)),
               .width = argc > 4 ? strtoul(argv[4], NULL, 10) : 16,
               .space = (argc > 5 ? atof(argv[5]) : 1000) * 1e6};
    td_table_config config = {.width = b.width, .rule = "adagrad", .lr = 1};
    must(td_table_create(&config, &b.sample));
    config.memory_bytes = b.limit, config.folder = argc > 3 ? argv[3] : "cold-bench";
    must(td_table_create(&config, &b.table));
    b.keys = malloc(BATCH * sizeof *b.keys);
    b.values = malloc(BATCH * b.width * sizeof *b.values);
    if (!b.keys || !b.values) return 1;
    td_rng_init(&b.rng, 1, TD_RNG_TEST, 0, 0);
    printf("# rows of %zu floats and their sums of squares, limit %.0f MiB, batches of %d keys of "
           "%.0g, one core\n",
           b.width, (double)b.limit / (1 << 20), BATCH, b.space);
    printf("million rows\thot\tmillion rows/s\thits %% of pulls\tmillion read\twritten\tdisk MiB\t"
           "table MiB\tRSS MiB\tmost RSS MiB\n");
    td_table_stats last = {0};
    uint64_t pushes = 0; /* as many pulls */
    double since = 0;
    for (int line = 1; line <= LINES; line++) {
        while (td_table_rows(b.table) < b.rows / LINES * (size_t)line) work(&b);
        print(&b, &last, &pushes, &since);
    }
    freeze(&b);
    verify(&b);
    double most = status_mib("VmHWM");
    printf("# at most %.0f MiB resident: %.2f of the limit\n", most,
           most * (1 << 20) / (double)b.limit);
    td_table_destroy(b.table), td_table_destroy(b.sample);
    free(b.keys), free(b.values);
    return most * (1 << 20) <= 1.3 * (double)b.limit ? 0 : 1;
}
