/* What runs beside a rank, and what the record costs; ranks are threads.
 *
 *     work_bench [RANKS [MEGABYTES]]        default 2 ranks, 4 MB
 *
 * overlap: an all-reduce and a computation that takes as long, one after the other and at once;
 * hidden = (one after the other - at once) / all-reduce. Where ranks and their threads share cores
 * the all-reduce's own arithmetic cannot be hidden.
 * record: a 1 KiB all-reduce with and without a record of operations, turn by turn. */
#include "tandem/comm.h"

#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ROUNDS = 15, CALLS = 20000, SMALL = 256 };

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

static double median(double *v)
{
    qsort(v, ROUNDS, sizeof *v, ascending);
    return v[ROUNDS / 2];
}

static double compute(double seconds)
{
    double x = 1;
    int64_t end = td_clock_ns() + (int64_t)(seconds * 1e9);
    while (td_clock_ns() < end)
        for (int i = 0; i < 1000; i++) x = x * 1.0000001 + 1e-9;
    return x;
}

static double slowest(td_comm *comm, int64_t begin)
{
    double mine = td_seconds(td_clock_ns() - begin), all;
    must(td_comm_allreduce(comm, &mine, &all, 1, TD_F64, TD_MAX));
    return all;
}

static void overlap(td_comm *comm, size_t count)
{
    float *in = calloc(count, sizeof *in), *out = calloc(count, sizeof *out);
    double alone[ROUNDS], serial[ROUNDS], both[ROUNDS], sink = 0;
    td_collective what = {.pattern = TD_ALLREDUCE, .in = in, .out = out, .count = count};
    td_work *work;
    if (!in || !out) exit(1);
    must(td_work_create(comm, &what, &work));
    for (int k = -2; k < ROUNDS; k++) {
        int slot = k < 0 ? 0 : k;
        must(td_comm_barrier(comm));
        int64_t begin = td_clock_ns();
        must(td_work_start(work));
        must(td_work_wait(work));
        alone[slot] = slowest(comm, begin);
        double length = alone[slot];
        must(td_comm_barrier(comm));
        begin = td_clock_ns();
        must(td_work_start(work));
        must(td_work_wait(work));
        sink += compute(length);
        serial[slot] = slowest(comm, begin);
        must(td_comm_barrier(comm));
        begin = td_clock_ns();
        must(td_work_start(work));
        sink += compute(length);
        must(td_work_wait(work));
        both[slot] = slowest(comm, begin);
    }
    td_work_destroy(work);
    double a = median(alone), s = median(serial), b = median(both);
    if (td_comm_rank(comm) == 0 && isfinite(sink))
        printf("overlap\t%d ranks\t%ld cores\t%.1f MB\talone %.3f ms\tthen %.3f ms\tat once %.3f "
               "ms\thidden %.0f %%\n",
               td_comm_size(comm), sysconf(_SC_NPROCESSORS_ONLN), (double)count * 4e-6, a * 1e3,
               s * 1e3, b * 1e3, 100 * (s - b) / a);
    free(in), free(out);
}

static double small_calls(td_comm *comm)
{
    float in[SMALL] = {0}, out[SMALL];
    must(td_comm_barrier(comm));
    int64_t begin = td_clock_ns();
    for (int i = 0; i < CALLS; i++) must(td_comm_allreduce(comm, in, out, SMALL, TD_F32, TD_SUM));
    return slowest(comm, begin) / CALLS;
}

static void record(td_comm *comm)
{
    char path[] = "/tmp/tandem-record-XXXXXX";
    double plain[ROUNDS], recorded[ROUNDS];
    td_comm *other;
    int fd = mkstemp(path);
    if (fd < 0) exit(1);
    close(fd);
    must(td_comm_split(comm, 0, td_comm_rank(comm), &other));
    must(td_comm_record(other, path));
    for (int k = -1; k < ROUNDS; k++) {
        plain[k < 0 ? 0 : k] = small_calls(comm);
        recorded[k < 0 ? 0 : k] = small_calls(other);
    }
    td_comm_close(other);
    unlink(path);
    double p = median(plain), r = median(recorded);
    if (td_comm_rank(comm) == 0)
        printf("record\t%d ranks\t1 KiB\twithout %.1f ns\twith %.1f ns\tcost %.2f %%\n",
               td_comm_size(comm), p * 1e9, r * 1e9, 100 * (r / p - 1));
}

static td_status run_rank(td_comm *comm, void *arg)
{
    overlap(comm, *(size_t *)arg);
    record(comm);
    return TD_OK;
}

int main(int argc, char **argv)
{
    int ranks = argc > 1 ? atoi(argv[1]) : 2;
    size_t count = (size_t)(argc > 2 ? atof(argv[2]) : 4) * 250000;
    must(td_comm_run_local(ranks, NULL, run_rank, &count));
    return 0;
}
