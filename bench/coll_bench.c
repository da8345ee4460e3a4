/* Our collectives beside MPI_* of the same MPI, in one process and one run.
 *
 *     mpiexec -n 4 coll_bench [PATTERN [LEAST [MOST [registered]]]]   bytes; default all patterns,
 *                                                                     4 to 64 Mi
 *
 * registered: vectors lie in memory of td_comm_alloc for ours, of MPI_Alloc_mem for MPI's; else of
 * malloc.
 * For each size the two take turns, ROUNDS times; a turn is as many calls as fit a few milliseconds
 * between two barriers, and counts as long as its slowest rank. Medians over the rounds. Every
 * result is checked. Bytes are those of the whole vector of a rank (all-gather, reduce-scatter,
 * all-to-all: all parts together). The share is that of the machine's memory-copy bandwidth: of the
 * time of the calls, what all ranks need to memcpy what the pattern must at least move into each
 * rank (the vector; for all-reduce twice, as parts to add and as results). Prints TSV; then, for
 * each pattern, the median and the least of the ratios MPI / ours. A wrong result ends with status
 * 1. */
#include "tandem/comm.h"

#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 25, MOST_SIZES = 32 };
#define TURN_SECONDS 0.004

typedef struct bench {
    td_comm *comm;
    int rank, size;
    size_t count; /* floats of the whole vector, a multiple of size */
    float *in, *out;
    float *vector[2][2]; /* MPI's and ours: in, out */
    size_t *counts;      /* [size] */
} bench;

static void die(const char *what)
{
    fprintf(stderr, "coll_bench: %s\n", what);
    MPI_Abort(MPI_COMM_WORLD, 1);
}

static void must(td_status status)
{
    if (status != TD_OK) die(td_last_error());
}

static float value(int rank, size_t i)
{
    return (float)((i * 7 + (size_t)rank * 13) % 101);
}

static float summed(const bench *b, size_t i)
{
    float s = 0;
    for (int r = 0; r < b->size; r++) s += value(r, i);
    return s;
}

/* --- the patterns: ours, MPI's, and what must be in out --- */

static void our_allreduce(bench *b)
{
    must(td_comm_allreduce(b->comm, b->in, b->out, b->count, TD_F32, TD_SUM));
}
static void mpi_allreduce(bench *b)
{
    MPI_Allreduce(b->in, b->out, (int)b->count, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}
static bool allreduce_is(const bench *b, size_t i)
{
    return b->out[i] == summed(b, i);
}

static void our_broadcast(bench *b)
{
    must(td_comm_broadcast(b->comm, b->rank ? b->out : b->in, b->count * 4, 0));
}
static void mpi_broadcast(bench *b)
{
    MPI_Bcast(b->rank ? b->out : b->in, (int)b->count, MPI_FLOAT, 0, MPI_COMM_WORLD);
}
static bool broadcast_is(const bench *b, size_t i)
{
    return !b->rank || b->out[i] == value(0, i);
}

static void our_allgather(bench *b)
{
    must(td_comm_allgather(b->comm, b->in, b->count / (size_t)b->size * 4, b->out));
}
static void mpi_allgather(bench *b)
{
    int n = (int)b->count / b->size;
    MPI_Allgather(b->in, n, MPI_FLOAT, b->out, n, MPI_FLOAT, MPI_COMM_WORLD);
}
static bool allgather_is(const bench *b, size_t i)
{
    size_t part = b->count / (size_t)b->size;
    return b->out[i] == value((int)(i / part), i % part);
}

static void our_reduce_scatter(bench *b)
{
    must(td_comm_reduce_scatter(b->comm, b->in, b->out, b->counts, TD_F32, TD_SUM));
}
static void mpi_reduce_scatter(bench *b)
{
    MPI_Reduce_scatter_block(b->in, b->out, (int)b->count / b->size, MPI_FLOAT, MPI_SUM,
                             MPI_COMM_WORLD);
}
static bool reduce_scatter_is(const bench *b, size_t i)
{
    size_t part = b->count / (size_t)b->size;
    return i >= part || b->out[i] == summed(b, (size_t)b->rank * part + i);
}

static void our_reduce(bench *b)
{
    must(td_comm_reduce(b->comm, b->in, b->out, b->count, TD_F32, TD_SUM, 0));
}
static void mpi_reduce(bench *b)
{
    MPI_Reduce(b->in, b->out, (int)b->count, MPI_FLOAT, MPI_SUM, 0, MPI_COMM_WORLD);
}
static bool reduce_is(const bench *b, size_t i)
{
    return b->rank || b->out[i] == summed(b, i);
}

static void our_alltoall(bench *b)
{
    must(td_comm_alltoall(b->comm, b->in, b->count / (size_t)b->size * 4, b->out));
}
static void mpi_alltoall(bench *b)
{
    int n = (int)b->count / b->size;
    MPI_Alltoall(b->in, n, MPI_FLOAT, b->out, n, MPI_FLOAT, MPI_COMM_WORLD);
}
static bool alltoall_is(const bench *b, size_t i)
{
    size_t part = b->count / (size_t)b->size;
    return b->out[i] == value((int)(i / part), (size_t)b->rank * part + i % part);
}

static void our_barrier(bench *b)
{
    must(td_comm_barrier(b->comm));
}
static void mpi_barrier(bench *b)
{
    (void)b;
    MPI_Barrier(MPI_COMM_WORLD);
}

static void copy_vector(bench *b)
{
    memcpy(b->out, b->in, b->count * 4);
    __asm__ volatile("" ::"r"(b->out) : "memory");
}

typedef struct pattern {
    const char *name;
    int moves; /* vectors, into each rank */
    void (*ours)(bench *b);
    void (*mpis)(bench *b);
    bool (*is)(const bench *b, size_t i); /* NULL: carries nothing */
} pattern;

static const pattern patterns[] = {
    {"all-reduce", 2, our_allreduce, mpi_allreduce, allreduce_is},
    {"broadcast", 1, our_broadcast, mpi_broadcast, broadcast_is},
    {"all-gather", 1, our_allgather, mpi_allgather, allgather_is},
    {"reduce-scatter", 1, our_reduce_scatter, mpi_reduce_scatter, reduce_scatter_is},
    {"all-to-all", 1, our_alltoall, mpi_alltoall, alltoall_is},
    {"reduce", 1, our_reduce, mpi_reduce, reduce_is},
    {"barrier", 0, our_barrier, mpi_barrier, NULL},
};
enum { PATTERNS = sizeof patterns / sizeof *patterns };

/* --- timing --- */

static void use(bench *b, bool ours)
{
    b->in = b->vector[ours][0], b->out = b->vector[ours][1];
}

static double turn(bench *b, void (*call)(bench *b), int calls)
{
    MPI_Barrier(MPI_COMM_WORLD);
    double begin = MPI_Wtime();
    for (int i = 0; i < calls; i++) call(b);
    double mine = (MPI_Wtime() - begin) / calls, all;
    MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_MAX, MPI_COMM_WORLD);
    return all;
}

static void check(bench *b, const pattern *p, void (*call)(bench *b), const char *whose)
{
    if (!p->is) return;
    memset(b->out, 255, b->count * 4);
    call(b);
    for (size_t i = 0; i < b->count; i++)
        if (!p->is(b, i)) {
            fprintf(stderr, "coll_bench: %s %s of %zu bytes is wrong at %zu\n", whose, p->name,
                    b->count * 4, i);
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* Of a turn. The first calls of a size pay for pages and tables; short ones are timed again, as a
 * rank may have lost its core. */
static int calls_for(bench *b, void (*call)(bench *b))
{
    double seconds = turn(b, call, 3);
    for (int k = 0; k < 3 && seconds < 1e-3; k++) {
        double again = turn(b, call, 100);
        if (k == 0 || again < seconds) seconds = again;
    }
    double calls = TURN_SECONDS / (seconds > 1e-9 ? seconds : 1e-9);
    return calls < 1 ? 1 : calls > 4000 ? 4000 : (int)calls;
}

/* One line; returns MPI's time over ours. */
static double measure(bench *b, const pattern *p)
{
    double ours[ROUNDS], mpis[ROUNDS], ratio[ROUNDS], copies[ROUNDS];
    use(b, false);
    check(b, p, p->mpis, "MPI's");
    int n_mpis = calls_for(b, p->mpis), n_copies = calls_for(b, copy_vector);
    use(b, true);
    check(b, p, p->ours, "our");
    int n_ours = calls_for(b, p->ours);
    for (int k = 0; k < ROUNDS; k++) {
        use(b, false);
        copies[k] = turn(b, copy_vector, n_copies) * p->moves;
        use(b, true);
        ours[k] = turn(b, p->ours, n_ours);
        use(b, false);
        mpis[k] = turn(b, p->mpis, n_mpis);
        ratio[k] = mpis[k] / ours[k];
    }
    use(b, true);
    check(b, p, p->ours, "our");
    double r = median(ratio, ROUNDS), t = median(ours, ROUNDS);
    if (b->rank == 0)
        printf("%s\t%zu\t%.2f\t%.2f\t%.2f\t%.2f\t%.0f\n", p->name, p->is ? b->count * 4 : 0,
               t * 1e6, median(mpis, ROUNDS) * 1e6, r, p->is ? (double)b->count * 4 / t * 1e-9 : 0,
               100 * median(copies, ROUNDS) / t);
    fflush(stdout);
    return r;
}

static void run(bench *b, const pattern *p, size_t least, size_t most)
{
    double ratios[MOST_SIZES], least_ratio = INFINITY;
    int n = 0;
    for (size_t bytes = p->is ? least : most; bytes <= most && n < MOST_SIZES; bytes *= 4) {
        size_t part = (bytes / 4 + (size_t)b->size - 1) / (size_t)b->size;
        b->count = p->is == allreduce_is || p->is == broadcast_is || p->is == reduce_is
                       ? bytes / 4
                       : part * (size_t)b->size;
        for (int r = 0; r < b->size; r++) b->counts[r] = part;
        for (size_t i = 0; i < b->count; i++)
            b->vector[0][0][i] = b->vector[1][0][i] = value(b->rank, i);
        ratios[n] = measure(b, p);
        if (ratios[n] < least_ratio) least_ratio = ratios[n];
        n++;
    }
    double middle = median(ratios, n);
    if (b->rank == 0)
        printf("# %s on %d ranks: MPI / ours: median %.2f, least %.2f\n", p->name, b->size, middle,
               least_ratio);
}

/* One pair of vectors serves both, but where each has memory of its own kind. */
static void make_vectors(bench *b, size_t bytes, bool registered)
{
    for (int k = 0; k < 2; k++) {
        void *ours, *mpis;
        if (registered) {
            must(td_comm_alloc(bytes, &ours));
            MPI_Alloc_mem((MPI_Aint)bytes, MPI_INFO_NULL, &mpis);
        } else if (!(ours = mpis = malloc(bytes))) {
            die("no memory");
        }
        b->vector[0][k] = mpis, b->vector[1][k] = ours;
    }
}

static void free_vectors(bench *b, bool registered)
{
    for (int k = 0; k < 2; k++) {
        if (registered) must(td_comm_free(b->vector[1][k]));
        if (registered)
            MPI_Free_mem(b->vector[0][k]);
        else
            free(b->vector[0][k]);
    }
}

int main(int argc, char **argv)
{
    const char *wanted = argc > 1 ? argv[1] : "all";
    size_t least = argc > 2 ? strtoull(argv[2], NULL, 10) : 4;
    size_t most = argc > 3 ? strtoull(argv[3], NULL, 10) : (size_t)64 << 20;
    bench b = {0};
    must(td_comm_open_mpi(NULL, &b.comm));
    b.rank = td_comm_rank(b.comm), b.size = td_comm_size(b.comm);
    bool registered = argc > 4 && !strcmp(argv[4], "registered");
    b.counts = calloc((size_t)b.size, sizeof *b.counts);
    if (!b.counts || least < 4 || most < least) die("no memory, or wrong sizes");
    make_vectors(&b, most + 4096, registered);
    if (b.rank == 0) printf("pattern\tbytes\tours us\tMPI us\tMPI/ours\tours GB/s\tcopy %%\n");
    for (int k = 0; k < PATTERNS; k++)
        if (!strcmp(wanted, "all") || !strcmp(wanted, patterns[k].name))
            run(&b, &patterns[k], least, most);
    free_vectors(&b, registered);
    free(b.counts);
    td_comm_close(b.comm);
    return 0;
}
