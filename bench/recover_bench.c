/* How long a run stands still when a rank is killed: under mpiexec --with-ft ulfm, on one host.
 *
 *   mpiexec --with-ft ulfm -n 8 recover_bench [SPARES [ELEMENTS]]
 *
 * As often as there are spares (default 4) a rank sends itself SIGKILL while the others are in
 * all-reduces; they recover with a spare in its place and check a sum. A line for each: the rank,
 * milliseconds from the kill until the last survivor was told, from there until the last one held
 * the new group, and both. */
#include "tandem/recover.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

typedef struct plan {
    int losses;
    size_t count;
} plan;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static td_status check_sum(td_comm *c)
{
    int32_t x = td_comm_rank(c) + 1, n = td_comm_size(c);
    td_status status = td_comm_allreduce(c, &x, &x, 1, TD_I32, TD_SUM);
    if (status != TD_OK) return status;
    if (x == n * (n + 1) / 2) return TD_OK;
    fprintf(stderr, "the sum of the new group is wrong: %d\n", x);
    exit(1);
}

static td_status lose_one(td_comm *c, int round, size_t count, int64_t times[2], td_comm **next)
{
    td_region clock;
    td_status status = td_comm_shared_create(c, sizeof(int64_t), &clock);
    float *x = calloc(count + 1, sizeof *x);
    if (status != TD_OK || !x) {
        free(x);
        return status;
    }
    int64_t *killed = clock.data;
    bool dies = td_comm_rank(c) == round % td_comm_size(c);
    for (int k = 0; status == TD_OK; k++) {
        if (dies && k == 20) {
            __atomic_store_n(killed, now_ns(), __ATOMIC_SEQ_CST);
            kill(getpid(), SIGKILL);
        }
        status = td_comm_allreduce(c, x, x, count, TD_F32, TD_SUM);
    }
    int64_t told = now_ns();
    status = td_comm_recover(c, NULL, next, NULL);
    times[0] = *killed ? told - *killed : 0; /* 0: seen from another (pretended) host */
    times[1] = now_ns() - told;
    td_comm_shared_destroy(c, &clock);
    free(x);
    return status;
}

/* What all ranks of a new group do: the times of those who were there, a sum, and how many were
 * lost so far, which one that has just come does not know. */
static td_status take_stock(td_comm *c, int64_t times[3], int32_t *round)
{
    td_status status = td_comm_allreduce(c, times, times, 3, TD_I64, TD_MAX);
    if (status == TD_OK) status = check_sum(c);
    return status == TD_OK ? td_comm_allreduce(c, round, round, 1, TD_I32, TD_MAX) : status;
}

static td_status rank_main(td_comm *first, void *arg)
{
    const plan *p = arg;
    td_comm *c = first;
    int64_t times[3] = {0};
    int32_t round = 0;
    td_status status = td_comm_generation(c) ? take_stock(c, times, &round) : TD_OK;
    if (td_comm_rank(c) == 0 && td_comm_generation(c) == 0)
        printf("lost\tranks\tdetect_ms\trecover_ms\tboth_ms\n"), fflush(stdout);
    while (status == TD_OK && round < p->losses) {
        td_comm *next = NULL;
        int lost = round % td_comm_size(c), number = td_comm_rank_in_run(c, lost);
        status = lose_one(c, round, p->count, times, &next);
        if (status != TD_OK) break;
        if (c != first) td_comm_close(c);
        c = next;
        round++;
        times[2] = times[0] + times[1];
        status = take_stock(c, times, &round);
        if (status == TD_OK && td_comm_rank(c) == (lost ? 0 : 1 % td_comm_size(c)))
            printf("%d\t%d\t%.1f\t%.1f\t%.1f\n", number, td_comm_size(c), (double)times[0] * 1e-6,
                   (double)times[1] * 1e-6, (double)times[2] * 1e-6),
                fflush(stdout);
    }
    if (c != first) td_comm_close(c);
    return status;
}

int main(int argc, char **argv)
{
    plan p = {.losses = argc > 1 ? atoi(argv[1]) : 4,
              .count = argc > 2 ? (size_t)strtoull(argv[2], NULL, 10) : 1000};
    td_comm_config config = {.deadline_ms = 20000, .spares = p.losses};
    td_status status = td_comm_run_mpi(&config, rank_main, &p);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}
