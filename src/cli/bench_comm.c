/* tandem bench --comm: latency and bandwidth per pattern, size and algorithm, in the terms of the
 * OSU and nccl tests: the time of a call, the algorithm bandwidth (bytes of the vector over time)
 * and the bus bandwidth, which sets it against what a link must carry (all-reduce, and a push with
 * its pull: times 2 (n - 1) / n; all-gather, reduce-scatter, all-to-all: times (n - 1) / n). A
 * message goes to and fro, and its time is half of that. Results are checked. */
#include "cli/bench_calls.h"
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WARM_TURNS = 2, TURNS = 7, MOST_LINES = 400, MOST_ALGORITHMS = 16, WIDTH = 50 };

typedef struct line { /* of the picture */
    size_t bytes;
    const char *algorithm;
    double bus;
} line;

typedef struct comm_bench {
    const td_job *job;
    td_bench_calls calls;
    td_tuning *tuning; /* where --tune was given */
    line lines[MOST_LINES];
    int line_count;
    bool found; /* an algorithm that was asked for */
} comm_bench;

static const char *name_of(const comm_bench *b)
{
    return td_job_patterns[b->calls.pattern];
}

/* --- measuring --- */

/* Seconds of a call, of the slowest rank. */
static td_status turn(comm_bench *b, int calls, double *out)
{
    td_comm *comm = b->calls.comm;
    TD_TRY(td_comm_barrier(comm));
    int64_t begin = td_clock_ns();
    for (int i = 0; i < calls; i++) TD_TRY(td_bench_calls_run(&b->calls));
    double mine = td_seconds(td_clock_ns() - begin) / calls;
    if (b->calls.pattern == TD_BENCH_SEND_RECV) mine /= 2;
    return td_comm_allreduce(comm, &mine, out, 1, TD_F64, TD_MAX);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Best, median and worst of the turns; a turn takes a few milliseconds. What is not counted: a few
 * calls that show how many make such a turn, and a turn of as many, as those few may have been slow
 * because threads had yet to come to their cores. */
static td_status time_calls(comm_bench *b, double seconds[3])
{
    double each, all[TURNS];
    int calls = 3;
    for (int k = 0; k < WARM_TURNS; k++) {
        TD_TRY(turn(b, calls, &each));
        calls = each < 1e-6 ? 4000 : each > 4e-3 ? 1 : (int)(4e-3 / each);
    }
    for (int k = 0; k < TURNS; k++) TD_TRY(turn(b, calls, &all[k]));
    qsort(all, TURNS, sizeof *all, ascending);
    seconds[0] = all[0], seconds[1] = all[TURNS / 2], seconds[2] = all[TURNS - 1];
    return TD_OK;
}

static double bus_factor(int pattern, int n)
{
    switch (pattern) {
    case TD_ALLREDUCE:
    case TD_BENCH_PUSH_PULL: return 2.0 * (n - 1) / n;
    case TD_ALLGATHER:
    case TD_ALLTOALL:
    case TD_REDUCE_SCATTER: return (double)(n - 1) / n;
    default: return 1;
    }
}

/* --- printing --- */

static void print_head(const comm_bench *b)
{
    const td_bench_calls *c = &b->calls;
    if (c->rank != 0 || b->job->json) return;
    printf("# %d ranks on %d hosts, transport %s, %s %s\n"
           "pattern\tranks\tbytes\talgorithm\tus\tleast\tmost\talg GB/s\tbus GB/s\tresult\n",
           c->size, td_comm_hosts(c->comm), td_comm_transport(c->comm), td_type_names[c->type],
           td_op_names[c->op]);
}

static void print_line(const comm_bench *b, const line *l, const double t[3], double rate)
{
    const char *name = name_of(b);
    int ranks = b->calls.size;
    if (b->job->json)
        printf("{\"pattern\":\"%s\",\"ranks\":%d,\"bytes\":%zu,\"algorithm\":\"%s\",\"us\":%.3f,"
               "\"least_us\":%.3f,\"most_us\":%.3f,\"alg_gb_s\":%.4f,\"bus_gb_s\":%.4f,"
               "\"right\":true}\n",
               name, ranks, l->bytes, l->algorithm, t[1] * 1e6, t[0] * 1e6, t[2] * 1e6, rate,
               l->bus);
    else
        printf("%s\t%d\t%zu\t%s\t%.2f\t%.2f\t%.2f\t%.3f\t%.3f\tok\n", name, ranks, l->bytes,
               l->algorithm, t[1] * 1e6, t[0] * 1e6, t[2] * 1e6, rate, l->bus);
    fflush(stdout);
}

static void draw(const comm_bench *b)
{
    double most = 0;
    if (b->calls.rank != 0 || b->job->json) return;
    for (int k = 0; k < b->line_count; k++)
        if (b->lines[k].bus > most) most = b->lines[k].bus;
    for (int k = 0; k < b->line_count && most > 0; k++) {
        const line *l = &b->lines[k];
        int filled = (int)(l->bus / most * WIDTH + 0.5);
        printf("# %12zu %-18s |%-*.*s %.2f GB/s\n", l->bytes, l->algorithm, WIDTH, filled,
               "##################################################", l->bus);
    }
}

/* --- a size --- */

/* By the algorithm that is forced, or else by the one that serves. */
static td_status measure(comm_bench *b, const char *algorithm, double *out)
{
    td_bench_calls *c = &b->calls;
    double t[3];
    bool before = false, after = false;
    line l = {.bytes = c->count * c->width, .algorithm = algorithm};
    TD_TRY(td_bench_calls_check(c, &before));
    TD_TRY(time_calls(b, t));
    TD_TRY(td_bench_calls_check(c, &after));
    if (!before || !after)
        return td_fail(TD_ERR_INTERNAL, "%s of %zu bytes by %s has given a wrong result",
                       name_of(b), l.bytes, algorithm);
    double rate = (double)l.bytes / t[1] * 1e-9;
    l.bus = rate * bus_factor(c->pattern, c->size);
    if (b->line_count < MOST_LINES) b->lines[b->line_count++] = l;
    if (c->rank == 0) print_line(b, &l, t, rate);
    *out = t[1];
    return TD_OK;
}

/* The fastest for this size, as rank 0 saw it, serves from it on. Smaller ones than were measured
 * go by the table. */
static td_status note(comm_bench *b, const td_call *call, bool whole, int fastest)
{
    td_tuning *tuning = b->tuning;
    td_tuning_row *last = tuning->count ? &tuning->row[tuning->count - 1] : NULL;
    bool first = !last || last->pattern != call->pattern || last->whole != whole;
    size_t from = call->pattern == TD_BARRIER ? 0 : call->bytes;
    TD_TRY(td_comm_broadcast(b->calls.comm, &fastest, sizeof fastest, 0));
    if ((first || last->algorithm != fastest) && tuning->count < TD_TUNING_ROWS)
        tuning->row[tuning->count++] = (td_tuning_row){call->pattern, whole, from, fastest};
    return TD_OK;
}

static td_status measure_each(comm_bench *b, const td_call *call)
{
    const char *names[MOST_ALGORITHMS], *only = b->job->algorithm;
    td_comm *comm = b->calls.comm;
    bool whole = td_call_is_whole(call);
    double best = 0, t;
    int n = td_coll_algorithms(comm, call->pattern, whole, names, MOST_ALGORITHMS), fastest = 0;
    for (int k = 0; k < n; k++) {
        if (!b->tuning && strcmp(only, "all") != 0 && strcmp(only, names[k]) != 0) continue;
        TD_TRY(td_coll_force(comm, call->pattern, names[k]));
        td_status status = TD_OK;
        if (!strcmp(td_coll_serving(comm, call), names[k])) { /* else another would serve */
            b->found = true;
            status = measure(b, names[k], &t);
            if (best == 0 || t < best) best = t, fastest = k;
        }
        if (td_coll_force(comm, call->pattern, NULL) != TD_OK) td_error_clear();
        TD_TRY(status);
    }
    return b->tuning ? note(b, call, whole, fastest) : TD_OK;
}

static td_status run_size(comm_bench *b, int pattern, size_t bytes)
{
    td_call call;
    double t;
    TD_TRY(td_bench_calls_set(&b->calls, pattern, bytes));
    if (pattern >= TD_PATTERNS) return measure(b, "none", &t);
    TD_TRY(td_bench_calls_call(&b->calls, &call));
    if (b->tuning || b->job->algorithm) return measure_each(b, &call);
    return measure(b, td_coll_serving(b->calls.comm, &call), &t);
}

/* --- all of them --- */

/* Whether it is to be timed. */
static td_status is_wanted(const comm_bench *b, int pattern, bool *out)
{
    const td_job *job = b->job;
    bool chosen = !strcmp(job->bench_comm, td_job_patterns[pattern]);
    *out = false;
    if (!chosen && strcmp(job->bench_comm, "all") != 0) return TD_OK;
    if (pattern >= TD_PATTERNS && (b->tuning || job->algorithm)) {
        if (!chosen) return TD_OK;
        return td_fail(TD_ERR_ARG, "--comm %s: there is one way alone, nothing to choose",
                       job->bench_comm);
    }
    if (pattern == TD_BENCH_SEND_RECV && b->calls.size < 2) {
        if (!chosen) return TD_OK;
        return td_fail(TD_ERR_ARG, "--comm send-recv takes two ranks or more");
    }
    *out = true;
    return TD_OK;
}

static td_status no_algorithm(const comm_bench *b)
{
    return td_fail(TD_ERR_ARG,
                   "--algorithm: no \"%s\" serves %s of %s in this group; \"all\" lists those that "
                   "do",
                   b->job->algorithm, b->job->bench_comm, td_type_names[b->job->bench_type]);
}

static bool has_algorithm(const comm_bench *b, int pattern)
{
    const char *names[MOST_ALGORITHMS];
    td_type type = b->calls.type;
    bool whole = pattern >= TD_REDUCE && (type == TD_I32 || type == TD_I64 || type == TD_U8);
    int n = pattern < TD_PATTERNS ? td_coll_algorithms(b->calls.comm, (td_pattern)pattern, whole,
                                                       names, MOST_ALGORITHMS)
                                  : 0;
    for (int k = 0; k < n; k++)
        if (!strcmp(names[k], b->job->algorithm)) return true;
    return false;
}

/* Mistakes that show before anything is measured, or printed. */
static td_status check_patterns(const comm_bench *b)
{
    const char *name = b->job->algorithm;
    bool found = !name || !strcmp(name, "all"), wanted;
    for (int p = 0; p < TD_BENCH_PATTERNS; p++) {
        TD_TRY(is_wanted(b, p, &wanted));
        found = found || (wanted && has_algorithm(b, p));
    }
    return found ? TD_OK : no_algorithm(b);
}

static td_status run_pattern(comm_bench *b, int pattern)
{
    const td_job *job = b->job;
    bool wanted;
    TD_TRY(is_wanted(b, pattern, &wanted));
    if (!wanted) return TD_OK;
    b->line_count = 0;
    for (size_t bytes = job->min_bytes; bytes <= job->max_bytes; bytes *= (size_t)job->factor) {
        TD_TRY(run_size(b, pattern, bytes));
        if (pattern == TD_BARRIER) return TD_OK;
    }
    draw(b);
    return TD_OK;
}

static td_status run_all(comm_bench *b)
{
    for (int p = 0; p < TD_BENCH_PATTERNS; p++) TD_TRY(run_pattern(b, p));
    b->calls.type = TD_I32; /* as wide; algorithms of any order serve it, too */
    for (int p = TD_REDUCE; p < TD_PATTERNS && b->tuning; p++) TD_TRY(run_pattern(b, p));
    return b->job->algorithm && !b->found ? no_algorithm(b) : TD_OK;
}

static td_status run_rank(td_comm *comm, void *arg)
{
    const td_job *job = arg;
    comm_bench b = {.job = job};
    td_cli_record(comm);
    td_status status =
        td_bench_calls_open(comm, job->max_bytes, job->registered, (td_type)job->bench_type,
                            (td_op)job->bench_op, &b.calls);
    if (status == TD_OK && job->tune && !(b.tuning = td_calloc(1, sizeof *b.tuning)))
        status = td_fail(TD_ERR_NOMEM, "no memory for the tuning");
    TD_GOTO(td_comm_agree(comm, status));
    if (job->tuning) TD_GOTO(td_comm_tune(comm, job->tuning));
    TD_GOTO(check_patterns(&b));
    print_head(&b);
    TD_GOTO(run_all(&b));
    if (b.tuning && b.calls.rank == 0) status = td_tuning_write(comm, b.tuning, job->tune);
    status = td_comm_agree(comm, status);
out:
    td_bench_calls_close(&b.calls);
    td_free(b.tuning);
    return status;
}

/* Before minutes of measuring. */
static td_status check_writable(const char *path)
{
    char folder[TD_PATH_MAX];
    const char *slash = strrchr(path, '/');
    int length = !slash ? 1 : slash == path ? 1 : (int)(slash - path);
    snprintf(folder, sizeof folder, "%.*s", length, slash ? path : ".");
    td_status status = access(td_path_exists(path) ? path : folder, W_OK) == 0
                           ? td_tuning_can_add(path)
                           : td_fail_errno("--tune: cannot write %s", path);
    return status == TD_OK ? status : td_fail_again(TD_ERR_ARG, td_last_error());
}

/* --op goes with patterns that reduce. */
static td_status check_op(const td_job *job)
{
    static const char *const reduce[] = {"all", "all-reduce", "reduce", "reduce-scatter", "scan"};
    for (size_t k = 0; k < sizeof reduce / sizeof *reduce; k++)
        if (job->bench_op == TD_SUM || !strcmp(job->bench_comm, reduce[k])) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "--op is for patterns that reduce: all-reduce, reduce, "
                   "reduce-scatter, scan; %s moves values as they are",
                   job->bench_comm);
}

td_status td_bench_comm(const td_job *job, td_status prepared)
{
    td_comm_config config = {.deadline_ms = 60000};
    if (prepared == TD_OK) prepared = check_op(job);
    if (prepared == TD_OK && job->min_bytes > job->max_bytes)
        prepared = td_fail(TD_ERR_ARG, "--min-bytes %llu is more than --max-bytes %llu",
                           (unsigned long long)job->min_bytes, (unsigned long long)job->max_bytes);
    if (prepared == TD_OK && job->tune && job->algorithm)
        prepared = td_fail(TD_ERR_ARG, "--tune measures every algorithm; leave out --algorithm");
    if (prepared == TD_OK && job->tune && (job->bench_type != TD_F32 || job->bench_op != TD_SUM))
        prepared =
            td_fail(TD_ERR_ARG, "--tune measures sums of f32 and, where the order decides, of "
                                "i32; leave out --type and --op");
    if (prepared == TD_OK && job->tune && td_cli_rank() == 0) prepared = check_writable(job->tune);
    return td_cli_run(job->workers, &config, prepared, run_rank, (void *)(uintptr_t)job);
}
