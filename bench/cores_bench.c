/* How far apart two of the machine's cores are: what ranks on them pass to each other cannot take
 * less. Virtual cores may come to lie elsewhere from one moment to the next, and figures of several
 * ranks with them.
 *
 *     cores_bench [ROUNDS]      default 9
 *
 * Two threads, on the first two cores that the process may use, take turns: with one cache line
 * alone; and one writes a buffer that the other copies, beside a copy by one of what it has written
 * itself. TSV: ns from line to line and back, GB/s of both copies. The copies must be right. Each
 * figure of a round is of 50 ms. */
#include "base/clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1 << 20, EACH_NS = 50000000, SPINS = 10000, SIZES = 2, FIGURES = 1 + 2 * SIZES };
static const size_t sizes[SIZES] = {64 << 10, 1 << 20};

/* A turn of the other thread's says what it is to do; HERE: it has. */
enum { HERE, PASS, WRITE, END = WRITE + SIZES };

static struct {
    _Alignas(64) atomic_int turn;
    _Alignas(64) char written[MOST];
    char copy[MOST];
} shared;

static cpu_set_t cores; /* that the process may use */

static void go_to_core(int which)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int c = 0; c < CPU_SETSIZE; c++)
        if (CPU_ISSET(c, &cores) && which-- == 0) CPU_SET(c, &one);
    pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

/* The turn, when it is this thread's. */
static int await(bool here)
{
    for (int k = 1;; k++) {
        int turn = atomic_load_explicit(&shared.turn, memory_order_acquire);
        if ((turn == HERE) == here) return turn;
        if (k % SPINS == 0) sched_yield();
    }
}

static void give(int turn)
{
    atomic_store_explicit(&shared.turn, turn, memory_order_release);
}

static void *other(void *arg)
{
    unsigned char value = 0;
    (void)arg;
    go_to_core(1);
    for (int turn; (turn = await(false)) != END; give(HERE))
        if (turn >= WRITE) memset(shared.written, ++value, sizes[turn - WRITE]);
    return NULL;
}

/* ns, there and back */
static double passed(void)
{
    int64_t began = td_clock_ns(), ns;
    int n = 0;
    do {
        for (int k = 0; k < 100; k++, n++) give(PASS), await(true);
    } while ((ns = td_clock_ns() - began) < EACH_NS);
    return (double)ns / n;
}

static void must_be(size_t at, unsigned char value)
{
    if ((unsigned char)shared.copy[at] == value) return;
    fprintf(stderr, "cores_bench: a copy is not what was written\n");
    exit(1);
}

/* GB/s; handed: of what the other has written. */
static double copied(int size, bool handed, unsigned char *value)
{
    int64_t began = td_clock_ns(), ns = 0, now = began;
    double bytes = 0;
    for (; now - began < EACH_NS; bytes += (double)sizes[size]) {
        if (handed)
            give(WRITE + size), await(true), ++*value;
        else
            memset(shared.written, *value, sizes[size]);
        int64_t from = td_clock_ns();
        memcpy(shared.copy, shared.written, sizes[size]);
        ns += (now = td_clock_ns()) - from;
        must_be(0, *value), must_be(sizes[size] - 1, *value);
    }
    return bytes / (double)ns;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *what, double *each, size_t rounds)
{
    qsort(each, rounds, sizeof *each, ascending);
    printf("%s\t%.1f\t%.1f\t%.1f\n", what, each[rounds / 2], each[0], each[rounds - 1]);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 9;
    unsigned char value = 0;
    pthread_t thread;
    if (rounds < 1 || rounds > 1000) {
        fprintf(stderr, "cores_bench: ROUNDS must be 1 to 1000\n");
        return 2;
    }
    if (sched_getaffinity(0, sizeof cores, &cores) != 0 || CPU_COUNT(&cores) < 2) {
        fprintf(stderr, "cores_bench: there is one core\n");
        return 77;
    }
    double *each = calloc(FIGURES * (size_t)rounds, sizeof *each);
    go_to_core(0);
    if (!each || pthread_create(&thread, NULL, other, NULL) != 0) return 1;
    for (int r = 0; r < rounds; r++) {
        each[r] = passed();
        for (int k = 1; k < FIGURES; k++) each[k * rounds + r] = copied((k - 1) / 2, k % 2, &value);
    }
    give(END);
    pthread_join(thread, NULL);
    printf("what\tmedian\tleast\tmost\n");
    print("a line there and back, ns", each, (size_t)rounds);
    for (int k = 1; k < FIGURES; k++) {
        char what[80];
        snprintf(what, sizeof what, "copy of %zu KiB %s, GB/s", sizes[(k - 1) / 2] >> 10,
                 k % 2 ? "from the other core" : "of its own");
        print(what, each + k * rounds, (size_t)rounds);
    }
    free(each);
    return 0;
}
