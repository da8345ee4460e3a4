/* Push and pull over servers: dense values and batches of a sparse table's rows, beside the
 * machine's memory copy, and what a replica costs.
 *
 *     ps_bench [WORKERS SERVERS [ROWS [BATCH [WIDTH [MIB]]]]]   threads
 *     mpiexec -n RANKS ps_bench ...                             the first SERVERS ranks serve
 *
 * Default: 1 1 1000000 100000 16 64.
 * Dense: a value of 64 KiB to MIB MiB, cut by range over the servers, rows of 1024 floats; pulled
 * and pushed whole, short ones one time after the other until 16 MiB have moved. Sparse: ROWS rows
 * of WIDTH floats, of which each worker takes batches of random keys, each once, in ascending
 * order. SGD.
 *
 * Every line is a median over rounds of the slowest worker, and all its kinds (pull, push, and both
 * with a replica) alternate with a memory copy of as many bytes by every worker at once. `of
 * memcpy` compares bytes moved in memory: a copy moves a byte twice (read, written), a pull between
 * threads too (the row is read, the worker's memory is written), a push three times (gradient and
 * row are read, the row is written). Values lie in memory of td_comm_alloc: between processes those
 * that lie together for a server (all but rows of two servers) are read and written there, others
 * pass through shared memory on top, which is not counted. `of ps-lite`: beside its figures
 * (15b8adf, ZeroMQ over IPC), taken on another machine of this size; its sparse ones are of 1
 * worker and 1 server.
 *
 * With two servers or more also with a second copy of every row: how fast that is, to without.
 *
 * The values pulled at the end, and the sum of all weights at the servers, must be those of the
 * pushes. Prints TSV. */
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "ps/sharded.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 31, DENSE_WIDTH = 1024, SIZES = 4, TURN = 16 << 20 };
typedef enum act { COPY, PULL, PUSH, PULL_2, PUSH_2, WHATS } act;

typedef struct setting {
    int workers, servers;
    uint64_t rows;
    size_t batch, width, most_bytes;
} setting;

/* One table, or two where there are replicas, and a worker's batch of it. */
typedef struct work {
    td_comm *comm;
    const setting *set;
    td_sharded *table[2];
    int tables;
    bool works, dense;
    int times; /* an act is done between two looks at the clock */
    uint64_t rows;
    size_t batch, width;
    uint64_t *keys;
    float *values, *copy;
    td_rng rng;
} work;

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double middle(double each[ROUNDS])
{
    qsort(each, ROUNDS, sizeof *each, ascending);
    return each[ROUNDS / 2];
}

/* Different keys, ascending: one of each stretch of the key space. */
static void draw(work *w)
{
    uint64_t stretch = w->rows / w->batch;
    for (uint64_t i = 0; i < w->batch; i++)
        w->keys[i] = i * stretch + (stretch > 1 ? td_rng_u64(&w->rng) % stretch : 0);
}

static td_status do_act(work *w, act what)
{
    td_sharded *t = w->table[what == PULL_2 || what == PUSH_2];
    td_sharded_step step = {w->keys, w->batch, w->values, NULL, 1, 1, 1};
    if (what == COPY) memcpy(w->copy, w->values, w->batch * w->width * sizeof *w->values);
    if (what == COPY) return TD_OK;
    if (what == PUSH || what == PUSH_2) return td_sharded_push(t, &step);
    TD_TRY(td_sharded_fetch(t, w->keys, w->batch, 0, w->values));
    return td_sharded_fetched(t);
}

static td_status one_round(work *w, double seconds[WHATS])
{
    for (act what = COPY; what < WHATS; what++) {
        bool there = what < PULL_2 || w->tables > 1;
        draw(w);
        for (size_t i = 0; i < w->batch * w->width; i++) w->values[i] = 1;
        TD_TRY(td_comm_barrier(w->comm));
        int64_t began = td_clock_ns();
        for (int k = 0; k < w->times && w->works && there; k++) TD_TRY(do_act(w, what));
        double own = w->works ? td_seconds(td_clock_ns() - began) / w->times : 0;
        TD_TRY(td_comm_allreduce(w->comm, &own, &seconds[what], 1, TD_F64, TD_MAX));
    }
    return TD_OK;
}

/* --- what has come of it --- */

static td_status add(void *arg, uint64_t key, const float *row)
{
    (void)key;
    *(double *)arg -= (double)row[0];
    return TD_OK;
}

static void must_be(const char *what, double is, double want)
{
    if (is == want) return;
    fprintf(stderr, "ps_bench: %s %g, not %g\n", what, is, want);
    exit(1);
}

static td_status check(work *w)
{
    for (int k = 0; k < w->tables; k++) {
        double own = 0, all = 0, pushed = (double)ROUNDS * w->times * w->set->workers;
        TD_TRY(td_comm_barrier(w->comm));
        if (w->works && w->dense) {
            TD_TRY(td_sharded_pull(w->table[k], w->keys, w->batch, w->values));
            for (size_t i = 0; i < w->batch * w->width; i++)
                must_be("a weight is", (double)w->values[i], -pushed);
        }
        TD_TRY(td_sharded_finish(w->table[k]));
        td_table *t = td_sharded_table(w->table[k]);
        if (t) TD_TRY(td_table_each(t, add, &own));
        TD_TRY(td_comm_allreduce(w->comm, &own, &all, 1, TD_F64, TD_SUM));
        must_be("the weights have moved by", all, (double)w->batch * pushed * (k + 1));
    }
    return TD_OK;
}

/* --- what is printed --- */

/* GB/s of a worker: push, pull; bytes as in sizes. */
static const size_t sizes[SIZES] = {64u << 10, 1u << 20, 16u << 20, 64u << 20};
static const double ps_lite[2][SIZES][2] =
    {{{.41, .41}, {2.2, 2.6}, {1.8, 1.8}, {.65, .56}},  /* 1 worker, 1 server */
     {{.29, .27}, {1.5, 1.4}, {1.3, 1.1}, {.45, .63}}}; /* 2 and 2 */
static const double ps_lite_rows[2] = {5.0, 5.8}; /* million rows/s of 16 floats: push, pull */

/* In the unit of `there`: GB/s of dense values, million rows/s of sparse ones. 0: there is none. */
static double theirs(const work *w, bool pull)
{
    const setting *s = w->set;
    size_t bytes = w->batch * w->width * sizeof(float);
    if (s->workers != s->servers || s->workers > 2) return 0;
    if (!w->dense) return w->width == 16 && s->batch == 100000 ? ps_lite_rows[pull] : 0;
    for (int k = 0; k < SIZES; k++)
        if (sizes[k] == bytes) return ps_lite[s->workers - 1][k][pull];
    return 0;
}

static void print(const work *w, const char *what, bool pull, double seconds, double copy)
{
    double bytes = (double)(w->batch * w->width) * 4, rows = (double)w->batch * 1e-6 / seconds;
    double gb = bytes * 1e-9 / seconds, there = theirs(w, pull);
    printf("%s\t%s\t%d\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t", what, w->dense ? "dense" : "sparse",
           w->set->workers, w->set->servers, bytes / 1024, rows, gb,
           (pull ? 2 : 3) * copy / seconds / 2);
    if (there > 0)
        printf("%.1f\n", (w->dense ? gb : rows) / there);
    else
        printf("\n");
    fflush(stdout);
}

static td_status measure(work *w)
{
    double each[WHATS][ROUNDS], ratio[ROUNDS], m[WHATS];
    for (int r = 0; r < ROUNDS; r++) {
        double seconds[WHATS];
        TD_TRY(one_round(w, seconds));
        for (int k = 0; k < WHATS; k++) each[k][r] = seconds[k];
        ratio[r] = (seconds[PULL] + seconds[PUSH]) / (seconds[PULL_2] + seconds[PUSH_2]);
    }
    for (int k = 0; k < WHATS; k++) m[k] = middle(each[k]);
    if (td_comm_rank(w->comm) != 0) return TD_OK;
    double bytes = (double)(w->batch * w->width) * 4;
    printf("copy\t%s\t%d\t\t%.0f\t\t%.2f\t1.00\t\n", w->dense ? "dense" : "sparse", w->set->workers,
           bytes / 1024, bytes * 1e-9 / m[COPY]);
    print(w, "pull", true, m[PULL], m[COPY]);
    print(w, "push", false, m[PUSH], m[COPY]);
    if (w->tables == 1) return TD_OK;
    print(w, "pull, replica", true, m[PULL_2], m[COPY]);
    print(w, "push, replica", false, m[PUSH_2], m[COPY]);
    printf("# pull and push with a replica: %.0f %% of the speed without\n", 100 * middle(ratio));
    return TD_OK;
}

/* --- tables --- */

static td_status open_tables(work *w)
{
    const setting *s = w->set;
    int servers[64], worker[64], size = td_comm_size(w->comm);
    for (int k = 0; k < s->servers; k++) servers[k] = k;
    for (int k = 0; k < s->workers; k++) worker[k] = size - s->workers + k;
    w->tables = s->servers > 1 ? 2 : 1;
    for (int k = 0; k < w->tables; k++) {
        td_sharded_config c = {.table = {.width = w->width, .lr = 1},
                               .servers = {.rank = servers, .count = s->servers},
                               .worker = worker,
                               .worker_count = s->workers};
        c.servers.replicas = k;
        c.servers.rows = w->dense ? w->rows : 0;
        TD_TRY(td_sharded_open(w->comm, &c, &w->table[k]));
    }
    return TD_OK;
}

/* All rows are there, at both of their servers: pushes that move nothing. */
static td_status fill(work *w)
{
    memset(w->values, 0, w->batch * w->width * sizeof *w->values);
    for (int k = 0; k < w->tables; k++)
        for (uint64_t at = 0; w->works && at + w->batch <= w->rows; at += w->batch) {
            for (uint64_t i = 0; i < w->batch; i++) w->keys[i] = at + i;
            td_sharded_step step = {w->keys, w->batch, w->values, NULL, 1, 1, 1};
            TD_TRY(td_sharded_push(w->table[k], &step));
        }
    return td_comm_barrier(w->comm);
}

static td_status run_one(work *w)
{
    size_t floats = w->batch * w->width;
    w->keys = malloc(w->batch * sizeof *w->keys);
    void *values = NULL;
    TD_TRY(td_comm_alloc(floats * sizeof *w->values, &values));
    w->values = values;
    w->copy = calloc(floats, sizeof *w->copy);
    if (!w->keys || !w->copy) exit(1);
    td_status status = open_tables(w);
    if (status == TD_OK) status = fill(w);
    if (status == TD_OK) status = measure(w);
    if (status == TD_OK) status = check(w);
    for (int k = 0; k < w->tables; k++) td_sharded_destroy(w->table[k]);
    free(w->keys), free(w->copy);
    td_status freed = td_comm_free(values);
    return status == TD_OK ? freed : status;
}

static td_status run(td_comm *comm, void *arg)
{
    const setting *s = arg;
    int rank = td_comm_rank(comm);
    work plain = {.comm = comm, .set = s, .works = rank >= td_comm_size(comm) - s->workers};
    td_rng_init(&plain.rng, 1, TD_RNG_TEST, (uint64_t)rank, 0);
    for (int k = 0; k < SIZES && sizes[k] <= s->most_bytes; k++) {
        work w = plain;
        w.dense = true, w.width = DENSE_WIDTH;
        w.rows = w.batch = sizes[k] / sizeof(float) / DENSE_WIDTH;
        w.times = sizes[k] < TURN ? (int)(TURN / sizes[k]) : 1;
        TD_TRY(run_one(&w));
    }
    plain.times = 1;
    plain.rows = s->rows, plain.batch = s->batch, plain.width = s->width;
    return run_one(&plain);
}

int main(int argc, char **argv)
{
    setting s = {argc > 1 ? atoi(argv[1]) : 1,
                 argc > 2 ? atoi(argv[2]) : 1,
                 argc > 3 ? strtoull(argv[3], NULL, 10) : 1000000,
                 argc > 4 ? strtoull(argv[4], NULL, 10) : 100000,
                 argc > 5 ? strtoull(argv[5], NULL, 10) : 16,
                 (argc > 6 ? strtoull(argv[6], NULL, 10) : 64) << 20};
    if (s.workers < 1 || s.servers < 1 || s.servers > 64 || s.workers > 64 || s.batch < 1 ||
        s.rows < s.batch || s.width < 1)
        return 2;
    bool mpi = td_comm_launched_by_mpi();
    if (!mpi || !getenv("OMPI_COMM_WORLD_RANK") || !strcmp(getenv("OMPI_COMM_WORLD_RANK"), "0"))
        printf("what\tkind\tworkers\tservers\tKiB\tmillion rows/s a worker\tGB/s a worker\t"
               "of memcpy, per byte moved\tof ps-lite, elsewhere\n");
    fflush(stdout);
    td_status status = mpi ? td_comm_run_mpi(NULL, run, &s)
                           : td_comm_run_local(s.workers + s.servers, NULL, run, &s);
    if (status != TD_OK) fprintf(stderr, "ps_bench: %s\n", td_last_error());
    return status != TD_OK;
}
