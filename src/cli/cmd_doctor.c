/* tandem doctor: what this machine has, tried rather than believed. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/treesum.h"
#include "math/kernels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 28, SUM_FLOATS = 1 << 20 };

/* Bytes read and written by memcpy beyond the caches, per second. */
static double memory_bandwidth(void)
{
    char *from = td_malloc(COPY_BYTES), *to = td_malloc(COPY_BYTES);
    double best = 0;
    if (from && to) {
        memset(from, 1, COPY_BYTES);
        for (int i = 0; i < 4; i++) {
            int64_t begin = td_clock_ns();
            memcpy(to, from, COPY_BYTES);
            double rate = 2.0 * COPY_BYTES / td_seconds(td_clock_ns() - begin);
            if (rate > best) best = rate;
        }
    }
    td_free(from);
    td_free(to);
    return best;
}

static double arithmetic(void)
{
    enum { N = 384 };
    const td_kernels *k = td_kernels_best();
    float *m = td_alloc_aligned(3 * N * N * sizeof *m);
    double best = 0;
    if (!m) return 0;
    for (int i = 0; i < 3 * N * N; i++) m[i] = 1e-3f;
    td_gemm g = {.m = N,
                 .n = N,
                 .k = N,
                 .a = m,
                 .a_row = N,
                 .a_col = 1,
                 .b = m + N * N,
                 .b_row = N,
                 .b_col = 1,
                 .c = m + 2 * N * N,
                 .c_row = N,
                 .c_col = 1};
    for (int i = 0; i < 10; i++) {
        int64_t begin = td_clock_ns();
        k->gemm(&g);
        double rate = 2.0 * N * N * N / td_seconds(td_clock_ns() - begin);
        if (rate > best) best = rate;
    }
    td_free(m);
    return best;
}

/* The time of a tree sum of 4 MiB between two workers. */
static td_status time_sum(td_comm *comm, void *arg)
{
    td_treesum *ts;
    td_treesum_config config = {.leaves = 2, .lanes = 1, .count = SUM_FLOATS};
    double *best = arg;
    TD_TRY(td_treesum_create(comm, &config, &ts));
    td_status status = TD_OK;
    for (int i = 0; i < 20 && status == TD_OK; i++) {
        int64_t begin = td_clock_ns();
        status = td_treesum_post(ts, 0, SUM_FLOATS);
        if (status == TD_OK) status = td_treesum_wait(ts);
        double s = td_seconds(td_clock_ns() - begin);
        if (td_comm_rank(comm) == 0 && (i == 0 || s < *best)) *best = s;
    }
    td_treesum_destroy(ts);
    return status;
}

/* Whether mpiexec with user-level failure mitigation starts here: two ranks of `true`. */
static bool ulfm_starts(void)
{
    int code = system("env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                      "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
                      "mpiexec --with-ft ulfm --map-by :OVERSUBSCRIBE -n 2 true >/dev/null 2>&1");
    return WIFEXITED(code) && WEXITSTATUS(code) == 0;
}

static void report_mpi(void)
{
    char version[256];
    bool ulfm = false;
    if (td_comm_mpi_version(version, &ulfm) != TD_OK) {
        printf("mpi            missing: %s\n", td_last_error());
        puts("live recovery  no: without MPI, workers are threads of one process");
        return;
    }
    version[strcspn(version, ",\n")] = 0;
    printf("mpi            %s\n", version);
    if (!ulfm)
        puts("live recovery  no: this MPI lacks ULFM; a lost worker means a restart from a "
             "checkpoint");
    else if (!ulfm_starts())
        puts("live recovery  not now: \"mpiexec --with-ft ulfm\" does not start here (is the "
             "mpiexec of "
             "this MPI on PATH?)");
    else
        puts("live recovery  yes: mpiexec --with-ft ulfm starts");
}

td_status td_cmd_doctor(int argc, char **argv)
{
    if (argc) return td_fail(TD_ERR_ARG, "tandem doctor takes no argument, not \"%s\"", argv[0]);
    double sum = 0;
    printf("cores          %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    fputs("kernels        ", stdout);
    for (const td_kernels *const *k = td_kernels_all(); *k; k++)
        printf("%s%s", (*k)->isa, k[1] ? ", " : "");
    printf(" (the last is used; all give the same bits)\n");
    printf("arithmetic     %.0f GFLOP/s on one core\n", arithmetic() * 1e-9);
    printf("memory         %.1f GB, copied at %.1f GB/s (read and written)\n",
           (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) * 1e-9,
           memory_bandwidth() * 1e-9);
    TD_TRY(td_comm_run_local(2, NULL, time_sum, &sum));
    printf("tree sum       4 MiB between two workers in %.3f ms (%.1f GB/s)\n", sum * 1e3,
           SUM_FLOATS * 4.0 / sum * 1e-9);
    report_mpi();
    return TD_OK;
}
