/* tandem doctor: what this machine has, tried rather than believed. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/transport.h"
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
    td_cli_record(comm);
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

/* Whether a job of two ranks loses one and goes on: this program again, under MPI's own mpiexec. */
static bool recovers(const char *mpiexec)
{
    char self[512] = "", command[2048], line[256];
    bool good = false;
    if (readlink("/proc/self/exe", self, sizeof self - 1) < 0) return false;
    snprintf(command, sizeof command,
             "env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 "
             "PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1 timeout 60 '%s' --with-ft "
             "ulfm --map-by :OVERSUBSCRIBE --mca osc ^ucx -n 2 '%s' doctor lose-a-rank 2>/dev/null",
             mpiexec, self);
    FILE *job = popen(command, "r");
    while (job && fgets(line, sizeof line, job)) good = good || strstr(line, "went on");
    if (job) pclose(job);
    return good;
}

static void lose_a_rank(const td_mpi_module *module)
{
    if (module->lose_a_rank()) puts("went on");
    fflush(stdout);
    _exit(0); /* an MPI that has lost a rank need not end in order */
}

static void report_mpi(void)
{
    char version[256], mpiexec[512];
    const td_mpi_module *module = NULL;
    if (td_mpi_load(&module) != TD_OK) {
        printf("mpi            missing: %s\n", td_last_error());
        puts("live recovery  no: without MPI, workers are threads of one process");
        return;
    }
    module->version(version);
    module->launcher(mpiexec);
    version[strcspn(version, ",\n")] = 0;
    printf("mpi            %s\n", version);
    if (!module->has_ulfm)
        puts("live recovery  no: this MPI lacks ULFM; a lost worker means a restart from a "
             "checkpoint");
    else if (recovers(mpiexec))
        printf("live recovery  yes: a job of two ranks lost one and went on (%s --with-ft ulfm)\n",
               mpiexec);
    else
        printf("live recovery  not now: %s --with-ft ulfm did not start, or did not go on when a "
               "rank was lost\n",
               mpiexec);
}

td_status td_cmd_doctor(int argc, char **argv)
{
    const td_mpi_module *module = NULL;
    if (argc == 1 && !strcmp(argv[0], "lose-a-rank") && td_mpi_load(&module) == TD_OK)
        lose_a_rank(module);
    if (argc) return td_fail(TD_ERR_ARG, "tandem doctor takes no argument, not \"%s\"", argv[0]);
    double sum = 0;
    td_cli_answer();
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
