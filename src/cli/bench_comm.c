/* tandem bench --comm: latency and bandwidth of the collectives, per pattern and size, in the terms
 * of the OSU and nccl tests: the time of a call, the algorithm bandwidth (bytes of the vector over
 * time) and the bus bandwidth, which sets it against what a link must carry (all-reduce: times
 * 2 (n - 1) / n; all-gather, reduce-scatter, all-to-all: times (n - 1) / n). Results are checked.
 */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/coll/coll.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TURNS = 7, MOST_SIZES = 40, WIDTH = 50 };

typedef struct comm_bench {
    const td_job *job;
    td_comm *comm;
    int rank, size;
    size_t count; /* floats of the vector */
    float *in, *out;
    size_t *counts; /* [size] */
    bool wrong;
    td_tuning *tuning; /* where --tune was given */
} comm_bench;

static float value(int rank, size_t i)
{
    return (float)((i * 7 + (size_t)rank * 13) % 61);
}

static td_collective describe(const comm_bench *b, td_pattern pattern)
{
    bool at_root = b->rank == 0;
    td_collective c = {.pattern = pattern,
                       .in = b->in,
                       .out = b->out,
                       .bytes = b->count / (size_t)b->size * sizeof(float),
                       .count = b->count,
                       .type = TD_F32,
                       .op = TD_SUM};
    if (pattern == TD_BROADCAST) {
        c.bytes = b->count * sizeof(float);
        c.out = at_root ? NULL : b->out;
    }
    if (pattern == TD_REDUCE_SCATTER) c.parts = b->counts;
    return c;
}

/* What element i of this rank's result must be; false: the rank has no such element. */
static bool expected(const comm_bench *b, td_pattern pattern, size_t i, float *out)
{
    size_t part = b->count / (size_t)b->size, me = (size_t)b->rank;
    bool root = b->rank == 0;
    float sum = 0, prefix = 0;
    size_t at = pattern == TD_REDUCE_SCATTER ? me * part + i : i;
    for (int r = 0; r < b->size; r++) {
        sum += value(r, at);
        if (r == b->rank) prefix = sum;
    }
    switch (pattern) {
    case TD_BROADCAST: *out = value(0, i); return !root;
    case TD_SCATTER: *out = value(0, me * part + i); return i < part;
    case TD_GATHER: *out = value((int)(i / part), i % part); return root;
    case TD_ALLGATHER: *out = value((int)(i / part), i % part); return true;
    case TD_ALLTOALL: *out = value((int)(i / part), me * part + i % part); return true;
    case TD_REDUCE: *out = sum; return root;
    case TD_ALLREDUCE: *out = sum; return true;
    case TD_REDUCE_SCATTER: *out = sum; return i < part;
    case TD_SCAN: *out = prefix; return true;
    default: return false;
    }
}

static td_status check(comm_bench *b, td_pattern pattern)
{
    td_collective c = describe(b, pattern);
    if (b->count) memset(b->out, 255, b->count * sizeof(float));
    TD_TRY(td_comm_run(b->comm, &c));
    uint8_t wrong = 0, any;
    float want;
    for (size_t i = 0; i < b->count && !wrong; i++)
        wrong = expected(b, pattern, i, &want) && b->out[i] != want;
    TD_TRY(td_comm_allreduce(b->comm, &wrong, &any, 1, TD_U8, TD_MAX));
    b->wrong = b->wrong || any;
    return TD_OK;
}

/* Seconds of a call, of the slowest rank. */
static td_status turn(comm_bench *b, td_pattern pattern, int calls, double *out)
{
    td_collective c = describe(b, pattern);
    TD_TRY(td_comm_barrier(b->comm));
    int64_t begin = td_clock_ns();
    for (int i = 0; i < calls; i++) TD_TRY(td_comm_run(b->comm, &c));
    double mine = td_seconds(td_clock_ns() - begin) / calls;
    return td_comm_allreduce(b->comm, &mine, out, 1, TD_F64, TD_MAX);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Best, median and worst of the turns; a turn takes a few milliseconds. */
static td_status time_calls(comm_bench *b, td_pattern pattern, double seconds[3])
{
    double each, all[TURNS];
    TD_TRY(turn(b, pattern, 3, &each));
    int calls = each < 1e-6 ? 4000 : each > 4e-3 ? 1 : (int)(4e-3 / each);
    for (int k = 0; k < TURNS; k++) TD_TRY(turn(b, pattern, calls, &all[k]));
    qsort(all, TURNS, sizeof *all, ascending);
    seconds[0] = all[0], seconds[1] = all[TURNS / 2], seconds[2] = all[TURNS - 1];
    return TD_OK;
}

static double bus_factor(td_pattern pattern, int n)
{
    switch (pattern) {
    case TD_ALLREDUCE: return 2.0 * (n - 1) / n;
    case TD_ALLGATHER:
    case TD_ALLTOALL:
    case TD_REDUCE_SCATTER: return (double)(n - 1) / n;
    default: return 1;
    }
}

static void draw(const double *bus, const size_t *bytes, int n)
{
    double most = 0;
    for (int k = 0; k < n; k++)
        if (bus[k] > most) most = bus[k];
    for (int k = 0; k < n && most > 0; k++) {
        int filled = (int)(bus[k] / most * WIDTH + 0.5);
        printf("# %12zu |%-*.*s %.2f GB/s\n", bytes[k], WIDTH, filled,
               "##################################################", bus[k]);
    }
}

/* As the table of algorithms counts: the vector, or a part where parts are equal. */
static size_t bytes_of_call(const comm_bench *b, td_pattern pattern)
{
    td_call call;
    td_collective c = describe(b, pattern);
    return td_call_make(b->comm, &c, &call) == TD_OK ? call.bytes : 0;
}

/* Times every algorithm and notes the fastest for this size. */
static td_status tune_size(comm_bench *b, td_pattern pattern, size_t bytes)
{
    enum { MOST = 16 };
    const char *names[MOST];
    double best = 0, t[3];
    int n = td_coll_algorithms(b->comm, pattern, false, names, MOST), fastest = 0;
    for (int k = 0; k < n; k++) {
        TD_TRY(td_coll_force(b->comm, pattern, names[k]));
        TD_TRY(check(b, pattern));
        TD_TRY(time_calls(b, pattern, t));
        if (k == 0 || t[1] < best) best = t[1], fastest = k;
        if (b->rank == 0)
            printf("%s\t%d\t%zu\t%s\t%.2f\n", td_job_patterns[pattern], b->size, bytes, names[k],
                   t[1] * 1e6);
        fflush(stdout);
    }
    TD_TRY(td_coll_force(b->comm, pattern, NULL));
    td_tuning *tuning = b->tuning;
    td_tuning_row *last = tuning->count ? &tuning->row[tuning->count - 1] : NULL;
    TD_TRY(td_comm_broadcast(b->comm, &fastest, sizeof fastest, 0));
    if ((!last || last->pattern != pattern || last->algorithm != fastest) &&
        tuning->count < TD_TUNING_ROWS)
        tuning->row[tuning->count++] =
            (td_tuning_row){pattern, false, last && last->pattern == pattern ? bytes : 0, fastest};
    return TD_OK;
}

static td_status run_pattern(comm_bench *b, td_pattern pattern)
{
    const td_job *job = b->job;
    double bus[MOST_SIZES];
    size_t sizes[MOST_SIZES];
    int n = 0;
    bool parts = pattern == TD_SCATTER || pattern == TD_GATHER || pattern == TD_ALLGATHER ||
                 pattern == TD_ALLTOALL || pattern == TD_REDUCE_SCATTER;
    for (size_t bytes = job->min_bytes; bytes <= job->max_bytes && n < MOST_SIZES; bytes *= 4) {
        double t[3];
        size_t part = (bytes / 4 + (size_t)b->size - 1) / (size_t)b->size;
        b->count = pattern == TD_BARRIER ? 0 : parts ? part * (size_t)b->size : bytes / 4;
        for (int r = 0; r < b->size; r++) b->counts[r] = part;
        for (size_t i = 0; i < b->count; i++) b->in[i] = value(b->rank, i);
        if (b->tuning) {
            TD_TRY(tune_size(b, pattern, bytes_of_call(b, pattern)));
            if (pattern == TD_BARRIER) return TD_OK;
            continue;
        }
        TD_TRY(check(b, pattern));
        TD_TRY(time_calls(b, pattern, t));
        TD_TRY(check(b, pattern));
        size_t all = b->count * sizeof(float);
        double rate = (double)all / t[1] * 1e-9;
        sizes[n] = all;
        bus[n] = rate * bus_factor(pattern, b->size);
        if (b->rank == 0 && job->json)
            printf("{\"pattern\":\"%s\",\"ranks\":%d,\"bytes\":%zu,\"us\":%.3f,\"least_us\":%.3f,"
                   "\"most_us\":%.3f,\"alg_gb_s\":%.4f,\"bus_gb_s\":%.4f,\"right\":%s}\n",
                   td_job_patterns[pattern], b->size, all, t[1] * 1e6, t[0] * 1e6, t[2] * 1e6, rate,
                   bus[n], b->wrong ? "false" : "true");
        else if (b->rank == 0)
            printf("%s\t%d\t%zu\t%.2f\t%.2f\t%.2f\t%.3f\t%.3f\t%s\n", td_job_patterns[pattern],
                   b->size, all, t[1] * 1e6, t[0] * 1e6, t[2] * 1e6, rate, bus[n],
                   b->wrong ? "WRONG" : "ok");
        fflush(stdout);
        n++;
        if (pattern == TD_BARRIER) return TD_OK;
    }
    if (b->rank == 0 && !job->json && !b->tuning) draw(bus, sizes, n);
    return TD_OK;
}

static td_status run_rank(td_comm *comm, void *arg)
{
    const td_job *job = arg;
    comm_bench b = {.job = job,
                    .comm = comm,
                    .rank = td_comm_rank(comm),
                    .size = td_comm_size(comm)};
    size_t room = job->max_bytes + 4 * (size_t)b.size + 64;
    b.in = td_alloc_aligned(room);
    b.out = td_alloc_aligned(room);
    b.counts = td_calloc((size_t)b.size, sizeof *b.counts);
    td_status status = TD_OK;
    if (!b.in || !b.out || !b.counts)
        status = td_fail(TD_ERR_NOMEM, "no memory for vectors of %llu bytes",
                         (unsigned long long)job->max_bytes);
    if (status == TD_OK && job->tune && !(b.tuning = td_calloc(1, sizeof *b.tuning)))
        status = td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    TD_GOTO(td_comm_agree(comm, status));
    if (job->tuning) TD_GOTO(td_comm_tune(comm, job->tuning));
    if (b.rank == 0 && b.tuning) puts("pattern\tranks\tbytes\talgorithm\tus");
    if (b.rank == 0 && !b.tuning && !job->json)
        printf("# %d ranks on %d hosts, transport %s\n"
               "pattern\tranks\tbytes\tus\tleast\tmost\talg GB/s\tbus GB/s\tresult\n",
               b.size, td_comm_hosts(comm), td_comm_transport(comm));
    for (int p = 0; p < TD_PATTERNS; p++)
        if (!strcmp(job->bench_comm, "all") || !strcmp(job->bench_comm, td_job_patterns[p]))
            TD_GOTO(run_pattern(&b, (td_pattern)p));
    if (b.wrong)
        status = td_fail(TD_ERR_INTERNAL, "a result was wrong");
    else if (b.tuning && b.rank == 0)
        status = td_tuning_write(comm, b.tuning, job->tune);
    status = td_comm_agree(comm, status);
out:
    td_free(b.in);
    td_free(b.out);
    td_free(b.counts);
    td_free(b.tuning);
    return status;
}

td_status td_bench_comm(const td_job *job, td_status prepared)
{
    td_comm_config config = {.deadline_ms = 60000};
    if (prepared == TD_OK && job->min_bytes > job->max_bytes)
        prepared = td_fail(TD_ERR_ARG, "--min-bytes %llu is more than --max-bytes %llu",
                           (unsigned long long)job->min_bytes, (unsigned long long)job->max_bytes);
    return td_cli_run(job->workers, &config, prepared, run_rank, (void *)(uintptr_t)job);
}
