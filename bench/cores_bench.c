/* How far apart two of the machine's cores are: what ranks on them pass to each other cannot take
 * less. Virtual cores may come to lie elsewhere from one moment to the next, and figures of several
 * ranks with them.
 *
 *     cores_bench [ROUNDS]      default 9
 *
 * Two threads, on the first two cores that the process may use, take turns: with one cache line
 * alone; and one writes a buffer that the other copies, beside a copy by one of what it has written
 * itself. TSV: ns from line to line and back, GB/s of both copies. The copies must be right. */
#include "base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PASSES = 20000, MOST = 1 << 20, MOVED = 64 << 20, SIZES = 2 };
static const size_t sizes[SIZES] = {64 << 10, 1 << 20};

static struct {
    _Alignas(64) atomic_int turn; /* of thread 0 or 1 */
    _Alignas(64) char written[MOST];
    char copy[MOST];
} shared;
static int rounds = 9;

static cpu_set_t cores; /* that the process may use */

static void go_to_core(int which)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET(c, &cores) && which-- == 0) CPU_SET(c, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

static void await(int turn)
{
    while (atomic_load_explicit(&shared.turn, memory_order_acquire) != turn) continue;
}

static void pass_to(int turn)
{
    atomic_store_explicit(&shared.turn, turn, memory_order_release);
}

/* The other thread: in the first part of a round it passes the line back, then it writes. */
static void *other(void *arg)
{
    unsigned char value = 0;
    (void)arg;
    go_to_core(1);
    for (int r = 0; r < rounds; r++) {
        for (int k = 0; k < PASSES; k++) await(1), pass_to(0);
        for (int s = 0; s < SIZES; s++)
            for (size_t k = 0; k < MOVED / sizes[s]; k++) {
                await(1);
                memset(shared.written, ++value, sizes[s]);
                pass_to(0);
            }
    }
    return NULL;
}

static void copy(size_t bytes, unsigned char value)
{
    memcpy(shared.copy, shared.written, bytes);
    if ((unsigned char)shared.copy[0] == value && (unsigned char)shared.copy[bytes - 1] == value)
        return;
    fprintf(stderr, "cores_bench: a copy is not what was written\n");
    exit(1);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* GB/s */
static double copied(size_t bytes, bool handed, unsigned char *value)
{
    int64_t ns = 0;
    for (size_t k = 0; k < MOVED / bytes; k++) {
        if (handed)
            pass_to(1), await(0), ++*value;
        else
            memset(shared.written, *value, bytes);
        int64_t began = td_clock_ns();
        copy(bytes, *value);
        ns += td_clock_ns() - began;
    }
    return (double)MOVED / (double)ns;
}

int main(int argc, char **argv)
{
    if (argc > 1) rounds = atoi(argv[1]);
    if (rounds < 1 || rounds > 1000) {
        fprintf(stderr, "cores_bench: ROUNDS must be 1 to 1000\n");
        return 2;
    }
    if (sched_getaffinity(0, sizeof cores, &cores) != 0 || CPU_COUNT(&cores) < 2) {
        fprintf(stderr, "cores_bench: there is one core\n");
        return 77;
    }
    double(*each)[1000] = calloc(1 + 2 * SIZES, sizeof *each);
    pthread_t thread;
    unsigned char value = 0;
    go_to_core(0);
    if (!each || pthread_create(&thread, NULL, other, NULL) != 0) return 1;
    for (int r = 0; r < rounds; r++) {
        int64_t began = td_clock_ns();
        for (int k = 0; k < PASSES; k++) pass_to(1), await(0);
        each[0][r] = (double)(td_clock_ns() - began) / PASSES;
        for (int s = 0; s < SIZES; s++) {
            each[1 + 2 * s][r] = copied(sizes[s], true, &value);
            each[2 + 2 * s][r] = copied(sizes[s], false, &value);
        }
    }
    pthread_join(thread, NULL);
    for (int k = 0; k < 1 + 2 * SIZES; k++)
        qsort(each[k], (size_t)rounds, sizeof **each, ascending);
    printf("what\tmedian\tleast\tmost\n");
    for (int k = 0; k < 1 + 2 * SIZES; k++) {
        const char *kib = k > 2 ? "1024" : "64";
        char what[80] = "a line there and back, ns";
        if (k)
            snprintf(what, sizeof what, "copy of %s KiB %s, GB/s", kib,
                     k % 2 ? "from the other core" : "of its own");
        printf("%s\t%.1f\t%.1f\t%.1f\n", what, each[k][rounds / 2], each[k][0],
               each[k][rounds - 1]);
    }
    free(each);
    return 0;
}
