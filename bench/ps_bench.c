/* Push and pull of a sparse table over servers: rows per second of each worker.
 *
 *     ps_bench [WORKERS SERVERS [ROWS [BATCH [WIDTH]]]]     threads; default 1 1, 1000000, 100000,
 * 16 mpiexec -n RANKS ps_bench ...                         the first SERVERS ranks serve
 *
 * Each worker pulls and pushes batches of random keys, each once, in ascending order; sgd. Medians
 * over ROUNDS batches of the slowest worker. The sum of all weights must be that of the pushes.
 * Prints TSV. */
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "ps/sharded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 31 };

typedef struct setting {
    int workers, servers;
    uint64_t rows;
    size_t batch, width;
} setting;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int by_key(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Different keys: one of each stretch of the key space. */
static void draw(const setting *s, td_rng *rng, uint64_t *keys)
{
    uint64_t stretch = s->rows / s->batch;
    for (uint64_t i = 0; i < s->batch; i++) keys[i] = i * stretch + td_rng_u64(rng) % stretch;
    qsort(keys, s->batch, sizeof *keys, by_key);
}

typedef struct worker {
    td_comm *comm;
    const setting *set;
    td_sharded *table;
    uint64_t *keys;
    float *values;
    td_rng rng;
} worker;

static td_status measure(worker *w, bool push, bool works)
{
    double each[ROUNDS];
    const setting *s = w->set;
    for (int k = 0; k < ROUNDS; k++) {
        draw(s, &w->rng, w->keys);
        for (size_t i = 0; i < s->batch * s->width; i++) w->values[i] = 1;
        TD_TRY(td_comm_barrier(w->comm));
        int64_t began = td_clock_ns();
        td_status status = TD_OK;
        td_sharded_step step = {w->keys, s->batch, w->values, NULL, 1, 1};
        if (works && push) status = td_sharded_push(w->table, &step);
        if (works && !push) {
            status = td_sharded_fetch(w->table, w->keys, s->batch, 0, w->values);
            if (status == TD_OK) status = td_sharded_fetched(w->table);
        }
        TD_TRY(status);
        double seconds = works ? td_seconds(td_clock_ns() - began) : 0;
        TD_TRY(td_comm_allreduce(w->comm, &seconds, &each[k], 1, TD_F64, TD_MAX));
    }
    qsort(each, ROUNDS, sizeof *each, ascending);
    double rows = (double)s->batch / each[ROUNDS / 2];
    if (td_comm_rank(w->comm) == 0)
        printf("%s\t%d\t%d\t%.2f\t%.2f\n", push ? "push" : "pull", s->workers, s->servers,
               rows * 1e-6, rows * (double)s->width * 4e-9);
    return TD_OK;
}

static td_status add(void *arg, uint64_t key, const float *row)
{
    (void)key;
    *(double *)arg -= (double)row[0];
    return TD_OK;
}

static td_status check(worker *w)
{
    double own = 0, all = 0, want = (double)w->set->batch * ROUNDS * w->set->workers;
    TD_TRY(td_sharded_finish(w->table));
    td_table *t = td_sharded_table(w->table);
    if (t) TD_TRY(td_table_each(t, add, &own));
    TD_TRY(td_comm_allreduce(w->comm, &own, &all, 1, TD_F64, TD_SUM));
    if (all != want) {
        fprintf(stderr, "ps_bench: the weights have moved by %g, not %g\n", all, want);
        exit(1);
    }
    return TD_OK;
}

static td_status run(td_comm *comm, void *arg)
{
    const setting *s = arg;
    int servers[64], rank = td_comm_rank(comm), size = td_comm_size(comm);
    bool works = rank >= size - s->workers;
    for (int k = 0; k < s->servers && k < 64; k++) servers[k] = k;
    td_sharded_config c = {.table = {.width = s->width, .lr = 1},
                           .servers = {.rank = servers, .count = s->servers}};
    worker w = {.comm = comm,
                .set = s,
                .keys = malloc(s->batch * sizeof *w.keys),
                .values = malloc(s->batch * s->width * sizeof *w.values)};
    td_rng_init(&w.rng, 1, TD_RNG_TEST, (uint64_t)rank, 0);
    TD_TRY(td_sharded_open(comm, &c, &w.table));
    for (uint64_t at = 0; works && at + s->batch <= s->rows;
         at += s->batch) { /* all rows are there */
        for (uint64_t i = 0; i < s->batch; i++) w.keys[i] = at + i;
        TD_TRY(td_sharded_pull(w.table, w.keys, s->batch, w.values));
    }
    td_status status = measure(&w, false, works);
    if (status == TD_OK) status = measure(&w, true, works);
    if (status == TD_OK) status = check(&w);
    td_sharded_destroy(w.table);
    free(w.keys), free(w.values);
    return status;
}

int main(int argc, char **argv)
{
    setting s = {argc > 1 ? atoi(argv[1]) : 1, argc > 2 ? atoi(argv[2]) : 1,
                 argc > 3 ? strtoull(argv[3], NULL, 10) : 1000000,
                 argc > 4 ? strtoull(argv[4], NULL, 10) : 100000,
                 argc > 5 ? strtoull(argv[5], NULL, 10) : 16};
    if (s.workers < 1 || s.servers < 1 || s.servers > 64 || s.batch < 1 || s.rows < s.batch ||
        s.width < 1)
        return 2;
    bool mpi = td_comm_launched_by_mpi();
    if (!mpi || !getenv("OMPI_COMM_WORLD_RANK") || !strcmp(getenv("OMPI_COMM_WORLD_RANK"), "0"))
        printf("what\tworkers\tservers\tmillion rows/s a worker\tGB/s a worker\n");
    fflush(stdout);
    td_status status = mpi ? td_comm_run_mpi(NULL, run, &s)
                           : td_comm_run_local(s.workers + s.servers, NULL, run, &s);
    if (status != TD_OK) fprintf(stderr, "ps_bench: %s\n", td_last_error());
    return status != TD_OK;
}
