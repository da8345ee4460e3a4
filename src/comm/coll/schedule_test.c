/* Every schedule over messages on every number of ranks from 2 to 64: the right result, and exactly
 * the messages and bytes that its file says, over all ranks together. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { MOST_RANKS = 64, MOST_COUNT = 3 * MOST_RANKS + 1 };

/* n ranks, log2 of n rounded up, bytes of the vector (of a part), bytes of the root's part. */
typedef struct cost {
    uint64_t messages, bytes;
} cost;

typedef struct schedule {
    const char *name;
    td_pattern pattern;
    td_algorithm *run;
    cost (*cost)(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t root_part, bool root0);
} schedule;

static cost dissemination(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)bytes, (void)part, (void)root0;
    return (cost){n * rounds, n * rounds};
}
static cost one_to_each(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)rounds, (void)part, (void)root0;
    return (cost){n - 1, (n - 1) * bytes};
}
static cost each_to_each(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)rounds, (void)part, (void)root0;
    return (cost){n * (n - 1), n * (n - 1) * bytes};
}
static cost vector_scattered(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)rounds, (void)part, (void)root0;
    return (cost){n * (n - 1), (n - 1) * bytes};
}
static cost tree_up(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)rounds, (void)part;
    return (cost){n - 1 + !root0, (n - 1 + !root0) * bytes};
}
static cost tree_up_and_down(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)rounds, (void)part, (void)root0;
    return (cost){2 * (n - 1), 2 * (n - 1) * bytes};
}
static cost scattered_and_gathered(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part,
                                   bool root0)
{
    (void)rounds, (void)part, (void)root0;
    return (cost){2 * n * (n - 1), 2 * (n - 1) * bytes};
}
static cost scattered_to_root(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part,
                              bool root0)
{
    (void)rounds, (void)root0;
    return (cost){n * (n - 1) + n - 1, (n - 1) * bytes + bytes - part};
}
static cost each_to_later(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)rounds, (void)part, (void)root0;
    return (cost){n * (n - 1) / 2, n * (n - 1) / 2 * bytes};
}

static cost log_messages(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)part, (void)root0;
    return (cost){n * rounds, n * (n - 1) * bytes};
}
static cost doubled(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part, bool root0)
{
    (void)part, (void)root0;
    return (cost){n * rounds, n * rounds * bytes};
}
static cost halved_and_doubled(uint64_t n, uint64_t rounds, uint64_t bytes, uint64_t part,
                               bool root0)
{
    (void)part, (void)root0;
    return (cost){2 * n * rounds, 2 * (n - 1) * bytes};
}

static const schedule schedules[] = {
    {"dissemination barrier", TD_BARRIER, td_dissemination_barrier, dissemination},
    {"binomial broadcast", TD_BROADCAST, td_binomial_broadcast, one_to_each},
    {"linear scatter", TD_SCATTER, td_linear_scatter, one_to_each},
    {"linear gather", TD_GATHER, td_linear_gather, one_to_each},
    {"ring all-gather", TD_ALLGATHER, td_ring_allgather, each_to_each},
    {"bruck all-gather", TD_ALLGATHER, td_bruck_allgather, log_messages},
    {"recursive-doubling all-reduce", TD_ALLREDUCE, td_recursive_doubling, doubled},
    {"recursive-halving all-reduce", TD_ALLREDUCE, td_recursive_halving, halved_and_doubled},
    {"pairwise all-to-all", TD_ALLTOALL, td_pairwise_alltoall, each_to_each},
    {"binomial reduce", TD_REDUCE, td_binomial_reduce, tree_up},
    {"pairwise reduce", TD_REDUCE, td_pairwise_reduce, scattered_to_root},
    {"binomial all-reduce", TD_ALLREDUCE, td_binomial_allreduce, tree_up_and_down},
    {"pairwise all-reduce", TD_ALLREDUCE, td_pairwise_allreduce, scattered_and_gathered},
    {"pairwise reduce-scatter", TD_REDUCE_SCATTER, td_pairwise_reduce_scatter, vector_scattered},
    {"chain scan", TD_SCAN, td_chain_scan, each_to_later},
};
enum { SCHEDULES = sizeof schedules / sizeof *schedules };

typedef struct trial {
    const schedule *schedule;
    int root;
    size_t count; /* int32s of the vector, or of a part */
    atomic_ullong messages, bytes;
} trial;

static int32_t element(int rank, size_t i)
{
    return (int32_t)((i * 7 + (size_t)rank * 13) % 101) - 50;
}

/* What must stand at i of this rank's out; false: nothing. */
static bool expected(const trial *t, int n, int me, size_t i, int32_t *out)
{
    size_t count = t->count;
    int32_t all = 0, upto = 0;
    size_t at =
        t->schedule->pattern == TD_REDUCE_SCATTER ? (size_t)me * (count / (size_t)n) + i : i;
    for (int r = 0; r < n; r++) {
        all += element(r, at);
        if (r == me) upto = all;
    }
    switch (t->schedule->pattern) {
    case TD_BROADCAST: *out = element(t->root, i); return i < count && me != t->root;
    case TD_SCATTER: *out = element(t->root, (size_t)me * count + i); return i < count;
    case TD_GATHER:
    case TD_ALLGATHER:
        *out = element((int)(i / count), i % count);
        return i < count * (size_t)n && (t->schedule->pattern == TD_ALLGATHER || me == t->root);
    case TD_ALLTOALL:
        *out = element((int)(i / count), (size_t)me * count + i % count);
        return i < count * (size_t)n;
    case TD_REDUCE: *out = all; return i < count && me == t->root;
    case TD_ALLREDUCE: *out = all; return i < count;
    case TD_REDUCE_SCATTER: *out = all; return i < count / (size_t)n;
    case TD_SCAN: *out = upto; return i < count;
    default: return false;
    }
}

static td_status run_trial(td_comm *comm, void *arg)
{
    trial *t = arg;
    int n = td_comm_size(comm), me = td_comm_rank(comm);
    size_t most = t->count * (size_t)n + 1, parts[MOST_RANKS];
    int32_t *in = td_calloc(most, 4), *out = td_calloc(most, 4), want;
    td_status status = in && out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a trial");
    td_reduction how = {.type = TD_I32, .op = TD_SUM, .width = 4};
    td_call call = {.pattern = t->schedule->pattern,
                    .in = in,
                    .out = out,
                    .bytes = t->count * 4,
                    .unit = 1,
                    .root = t->root,
                    .how = how,
                    .count = t->count};
    if (status != TD_OK) goto out;
    for (size_t i = 0; i < most; i++) in[i] = element(me, i);
    if (call.pattern == TD_REDUCE_SCATTER) {
        for (int r = 0; r < n; r++) parts[r] = t->count / (size_t)n;
        call.parts = parts, call.unit = 4;
    }
    uint64_t messages = comm->messages_sent, bytes = comm->bytes_sent;
    TD_GOTO(t->schedule->run(comm, &call));
    atomic_fetch_add(&t->messages, comm->messages_sent - messages);
    atomic_fetch_add(&t->bytes, comm->bytes_sent - bytes);
    for (size_t i = 0; i < most && status == TD_OK; i++)
        if (expected(t, n, me, i, &want) && out[i] != want)
            status = td_fail(TD_ERR_INTERNAL, "%s: rank %d of %d has %d at %zu, not %d",
                             t->schedule->name, me, n, out[i], i, want);
out:
    td_free(in);
    td_free(out);
    return status;
}

static void schedules_cost_what_they_say(void **state)
{
    (void)state;
    for (int n = 2; n <= MOST_RANKS; n++)
        for (int k = 0; k < SCHEDULES; k++) {
            bool parts = schedules[k].pattern == TD_REDUCE_SCATTER;
            bool two = schedules[k].run == td_recursive_doubling ||
                       schedules[k].run == td_recursive_halving;
            if (two && (n & (n - 1))) continue; /* for powers of two */
            trial t = {.schedule = &schedules[k],
                       .root = (n * 5 + k) % n,
                       .count = parts ? (size_t)(3 * n) : (size_t)(n % 7 + n / 3)};
            uint64_t rounds = 0, lo = (uint64_t)t.root * t.count / (uint64_t)n,
                     hi = (uint64_t)(t.root + 1) * t.count / (uint64_t)n;
            while ((1 << rounds) < n) rounds++;
            assert_ok(td_comm_run_local(n, NULL, run_trial, &t));
            cost want =
                schedules[k].cost((uint64_t)n, rounds, t.count * 4, (hi - lo) * 4, t.root == 0);
            if (atomic_load(&t.messages) != want.messages || atomic_load(&t.bytes) != want.bytes)
                fail_msg("%s on %d ranks: %llu messages, %llu bytes; %llu and %llu are right",
                         schedules[k].name, n, atomic_load(&t.messages), atomic_load(&t.bytes),
                         (unsigned long long)want.messages, (unsigned long long)want.bytes);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(schedules_cost_what_they_say)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
