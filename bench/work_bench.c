/* What runs beside a rank, and what the record costs.
 *
 *     work_bench [RANKS [MEGABYTES]]        ranks are threads; default 2 ranks, 4 MB
 *     mpiexec -n 2 work_bench [0 MEGABYTES]
 *
 * overlap: an all-reduce and a fixed amount of computation that alone takes as long, each alone and
 * at once; hidden = (the one + the other - at once) / all-reduce. First with ranks that compute
 * elsewhere (on a device, say: they sleep), so that the cores are free for what runs beside them;
 * then with ranks that compute on these cores, where the all-reduce's own work cannot be hidden
 * when ranks and their threads outnumber them. record: a 1 KiB all-reduce with and without a record
 * of operations, in short turns; the cost is the median difference between neighbouring turns.
 * group: many small all-reduces beside the rank, each started by itself and all by one call. */
#include "tandem/comm.h"

#include "base/clock.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

enum { ROUNDS = 15, TURNS = 4001, CALLS = 50, SMALL = 256, GROUP = 32, GROUPS = 401 };

static void must(td_status status)
{
    if (status == TD_OK) return;
    fprintf(stderr, "work_bench: %s\n", td_last_error());
    exit(1);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
    return v[n / 2];
}

/* So many seconds elsewhere, or units of arithmetic here. */
typedef struct load {
    bool elsewhere;
    double seconds;
    long units;
} load;

static double compute(load l)
{
    double x = 1;
    long units = l.units;
    if (l.elsewhere) {
        struct timespec t = {(time_t)l.seconds, (long)(fmod(l.seconds, 1) * 1e9)};
        nanosleep(&t, NULL);
        return 1;
    }
    for (long u = 0; u < units; u++)
        for (int i = 0; i < 1000; i++) x = x * 1.0000001 + 1e-9;
    return x;
}

static double slowest(td_comm *comm, int64_t begin)
{
    double mine = td_seconds(td_clock_ns() - begin), all;
    must(td_comm_allreduce(comm, &mine, &all, 1, TD_F64, TD_MAX));
    return all;
}

static double timed(td_comm *comm, td_work *work, load l, double *sink)
{
    must(td_comm_barrier(comm));
    int64_t begin = td_clock_ns();
    if (work) must(td_work_start(work));
    *sink += compute(l);
    if (work) must(td_work_wait(work));
    return slowest(comm, begin);
}

static void overlap(td_comm *comm, size_t count, bool elsewhere)
{
    float *in = calloc(count, sizeof *in), *out = calloc(count, sizeof *out);
    double moved[ROUNDS], computed[ROUNDS], both[ROUNDS], hidden[ROUNDS], sink = 0;
    td_collective what = {.pattern = TD_ALLREDUCE, .in = in, .out = out, .count = count};
    td_work *work;
    if (!in || !out) exit(1);
    must(td_work_create(comm, &what, &work));
    for (int k = 0; k < ROUNDS; k++) {
        moved[k] = timed(comm, work, (load){0}, &sink);
        computed[k] = timed(comm, NULL, (load){.units = 1000}, &sink) / 1000;
    }
    load l = {elsewhere, median(moved, ROUNDS), 0};
    l.units = 1 + (long)(l.seconds / median(computed, ROUNDS));
    for (int k = 0; k < ROUNDS; k++) {
        moved[k] = timed(comm, work, (load){0}, &sink);
        computed[k] = timed(comm, NULL, l, &sink);
        both[k] = timed(comm, work, l, &sink);
        hidden[k] = (moved[k] + computed[k] - both[k]) / moved[k];
    }
    td_work_destroy(work);
    double m = median(moved, ROUNDS), c = median(computed, ROUNDS), b = median(both, ROUNDS);
    if (td_comm_rank(comm) == 0 && isfinite(sink))
        printf("overlap\t%d ranks\t%d hosts\t%ld cores, %s\t%.1f MB\tall-reduce %.3f ms\tcompute "
               "%.3f ms\tat once %.3f ms\thidden %.0f %%\n",
               td_comm_size(comm), td_comm_hosts(comm), sysconf(_SC_NPROCESSORS_ONLN),
               elsewhere ? "free" : "taken", (double)count * 4e-6, m * 1e3, c * 1e3, b * 1e3,
               100 * median(hidden, ROUNDS));
    free(in), free(out);
}

static double small_calls(td_comm *comm)
{
    float in[SMALL] = {0}, out[SMALL];
    int64_t begin = td_clock_ns();
    for (int i = 0; i < CALLS; i++) must(td_comm_allreduce(comm, in, out, SMALL, TD_F32, TD_SUM));
    return td_seconds(td_clock_ns() - begin) / CALLS;
}

static void record(td_comm *comm)
{
    char path[] = "/tmp/tandem-record-XXXXXX";
    static double plain[TURNS], more[TURNS]; /* of rank 0 */
    td_comm *other;
    int fd = mkstemp(path);
    if (fd < 0) exit(1);
    close(fd);
    must(td_comm_split(comm, 0, td_comm_rank(comm), &other));
    must(td_comm_record(other, path));
    for (int k = 0; k < TURNS; k++) {
        bool first = k % 2; /* who goes first changes */
        double a = small_calls(first ? comm : other), b = small_calls(first ? other : comm);
        if (td_comm_rank(comm)) continue;
        plain[k] = first ? a : b;
        more[k] = first ? b - a : a - b;
    }
    td_comm_close(other);
    unlink(path);
    if (td_comm_rank(comm)) return;
    double p = median(plain, TURNS), m = median(more, TURNS);
    printf("record\t%d ranks\t1 KiB\twithout %.1f ns\tmore with %.1f ns\tcost %.2f %%\n",
           td_comm_size(comm), p * 1e9, m * 1e9, 100 * m / p);
}

/* Seconds from the first start to the last end. */
static double group_calls(td_work **work, bool at_once)
{
    int64_t begin = td_clock_ns();
    if (at_once) must(td_work_start_all(work, GROUP));
    for (int k = 0; k < GROUP && !at_once; k++) must(td_work_start(work[k]));
    for (int k = 0; k < GROUP; k++) must(td_work_wait(work[k]));
    return td_seconds(td_clock_ns() - begin);
}

static void group(td_comm *comm)
{
    static double apart[GROUPS], together[GROUPS];
    float in[GROUP][SMALL] = {{0}}, out[GROUP][SMALL];
    td_work *work[GROUP];
    for (int k = 0; k < GROUP; k++) {
        td_collective sum = {.pattern = TD_ALLREDUCE, .in = in[k], .out = out[k], .count = SMALL};
        must(td_work_create(comm, &sum, &work[k]));
    }
    for (int k = 0; k < GROUPS; k++) {
        must(td_comm_barrier(comm));
        apart[k] = group_calls(work, false);
        must(td_comm_barrier(comm));
        together[k] = group_calls(work, true);
    }
    for (int k = 0; k < GROUP; k++) td_work_destroy(work[k]);
    if (td_comm_rank(comm)) return;
    double a = median(apart, GROUPS), t = median(together, GROUPS);
    printf("group\t%d ranks\t%d x 1 KiB\tapart %.1f us\tone call %.1f us\tratio %.2f\n",
           td_comm_size(comm), GROUP, a * 1e6, t * 1e6, a / t);
}

static td_status run_rank(td_comm *comm, void *arg)
{
    overlap(comm, *(size_t *)arg, true);
    overlap(comm, *(size_t *)arg, false);
    record(comm);
    group(comm);
    return TD_OK;
}

int main(int argc, char **argv)
{
    int ranks = argc > 1 ? atoi(argv[1]) : 2;
    size_t count = (size_t)(argc > 2 ? atof(argv[2]) : 4) * 250000;
    if (td_comm_launched_by_mpi())
        must(td_comm_run_mpi(NULL, run_rank, &count));
    else
        must(td_comm_run_local(ranks, NULL, run_rank, &count));
    return 0;
}
