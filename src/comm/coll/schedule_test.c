/* Every schedule over messages, simulated on every number of ranks from 1 to 64: the right result,
 * in the right order, and exactly the messages, the bytes and the steps one after the other that
 * its file says. Those over several hosts: schedule_hosts_test.c. */
#include "comm/coll/schedule_trial_test.h"

enum { AT_MOST = 1 << 20 };

static cost dissemination(shape s)
{
    return (cost){s.n * s.rounds, s.n * s.rounds, s.rounds};
}
static cost tree_down(shape s)
{
    return (cost){s.n - 1, (s.n - 1) * s.bytes, s.rounds};
}
static cost one_by_one(shape s)
{
    return (cost){s.n - 1, (s.n - 1) * s.bytes, s.n - 1};
}
static cost each_to_each(shape s)
{
    return (cost){s.n * (s.n - 1), s.n * (s.n - 1) * s.bytes, s.n - 1};
}
static cost vector_scattered(shape s)
{
    return (cost){s.n * (s.n - 1), (s.n - 1) * s.bytes, s.n - 1};
}
static cost tree_up(shape s)
{
    uint64_t more = !s.root0;
    return (cost){s.n - 1 + more, (s.n - 1 + more) * s.bytes, s.rounds + more};
}
static cost tree_up_and_down(shape s)
{
    return (cost){2 * (s.n - 1), 2 * (s.n - 1) * s.bytes, 2 * s.rounds};
}
static cost scattered_and_gathered(shape s)
{
    return (cost){2 * s.n * (s.n - 1), 2 * (s.n - 1) * s.bytes, 2 * (s.n - 1)};
}
static cost scattered_to_root(shape s)
{
    return (cost){s.n * (s.n - 1) + s.n - 1, (s.n - 1) * s.bytes + s.bytes - s.root_part,
                  2 * (s.n - 1)};
}
static cost each_to_later(shape s)
{
    return (cost){s.n * (s.n - 1) / 2, s.n * (s.n - 1) / 2 * s.bytes, s.n - 1};
}
static cost log_messages(shape s)
{
    return (cost){s.n * s.rounds, s.n * (s.n - 1) * s.bytes, s.rounds};
}
/* Of P ranks, after n - P have given their vectors to neighbours, and before they get theirs. Who
 * is given one may be sent the next step's message before it, so that one waits at its port. */
static cost folded(shape s, cost of_power)
{
    uint64_t pairs = s.n - s.power;
    of_power.messages += 2 * pairs, of_power.bytes += 2 * pairs * s.bytes;
    if (pairs) of_power.steps = AT_MOST + 2 * of_power.steps + 2;
    return of_power;
}
static cost doubled(shape s)
{
    uint64_t p = s.power, k = s.n == p ? s.rounds : s.rounds - 1;
    return folded(s, (cost){p * k, p * k * s.bytes, k});
}
static cost halved_and_doubled(shape s)
{
    uint64_t p = s.power, k = s.n == p ? s.rounds : s.rounds - 1;
    return folded(s, (cost){2 * p * k, 2 * (p - 1) * s.bytes, 2 * k});
}

/* A part moves once for each bit of its rank's number, counted from the root. */
static cost parts_along_tree(shape s)
{
    uint64_t moves = 0;
    for (uint64_t v = 1; v < s.n; v++) moves += (uint64_t)__builtin_popcountll(v);
    return (cost){s.n - 1, moves * s.bytes, s.rounds};
}
/* In every step all who have a partner send; who skips one may hold up a port, as above. */
static cost scanned_by_doubling(shape s)
{
    uint64_t sends = 0;
    for (uint64_t bit = 1; bit < s.n; bit *= 2)
        for (uint64_t r = 0; r < s.n; r++) sends += (r ^ bit) < s.n;
    return (cost){sends, sends * s.bytes, s.n == s.power ? s.rounds : AT_MOST + 2 * s.rounds};
}

static cost log_parts(shape s) /* part i moves once for each bit of i */
{
    uint64_t moves = 0;
    for (uint64_t i = 1; i < s.n; i++) moves += (uint64_t)__builtin_popcountll(i);
    return (cost){s.n * s.rounds, s.n * moves * s.bytes, s.rounds};
}
/* Vectors of these trials are of two pieces, one for each tree (of one where a piece is empty). */
static cost two_trees(shape s)
{
    uint64_t pieces = s.bytes < 2 ? s.bytes : 2;
    return (cost){pieces * (s.n - 1), (s.n - 1) * s.bytes, AT_MOST + 3 * s.rounds + 2};
}
static cost two_trees_up_and_down(shape s)
{
    uint64_t pieces = s.bytes < 8 ? s.bytes / 4 : 2;
    return (cost){2 * pieces * (s.n - 1), 2 * (s.n - 1) * s.bytes, AT_MOST + 6 * s.rounds + 2};
}

static const schedule schedules[] = {
    {"dissemination barrier", TD_BARRIER, td_dissemination_barrier, dissemination},
    {"binomial broadcast", TD_BROADCAST, td_binomial_broadcast, tree_down},
    {"double-tree broadcast", TD_BROADCAST, td_double_tree_broadcast, two_trees},
    {"linear scatter", TD_SCATTER, td_linear_scatter, one_by_one},
    {"linear gather", TD_GATHER, td_linear_gather, one_by_one},
    {"binomial scatter", TD_SCATTER, td_binomial_scatter, parts_along_tree},
    {"binomial gather", TD_GATHER, td_binomial_gather, parts_along_tree},
    {"ring all-gather", TD_ALLGATHER, td_ring_allgather, each_to_each},
    {"bruck all-gather", TD_ALLGATHER, td_bruck_allgather, log_messages},
    {"ring all-reduce", TD_ALLREDUCE, td_ring_allreduce, scattered_and_gathered},
    {"recursive-doubling all-reduce", TD_ALLREDUCE, td_recursive_doubling, doubled, TREE_OF_POWER},
    {"recursive-halving all-reduce", TD_ALLREDUCE, td_recursive_halving, halved_and_doubled,
     TREE_OF_POWER},
    {"pairwise all-to-all", TD_ALLTOALL, td_pairwise_alltoall, each_to_each},
    {"bruck all-to-all", TD_ALLTOALL, td_bruck_alltoall, log_parts},
    {"double-tree all-reduce", TD_ALLREDUCE, td_double_tree_allreduce, two_trees_up_and_down},
    {"binomial reduce", TD_REDUCE, td_binomial_reduce, tree_up, TREE},
    {"pairwise reduce", TD_REDUCE, td_pairwise_reduce, scattered_to_root, TREE},
    {"binomial all-reduce", TD_ALLREDUCE, td_binomial_allreduce, tree_up_and_down, TREE},
    {"pairwise all-reduce", TD_ALLREDUCE, td_pairwise_allreduce, scattered_and_gathered, TREE},
    {"pairwise reduce-scatter", TD_REDUCE_SCATTER, td_pairwise_reduce_scatter, vector_scattered,
     TREE},
    {"chain scan", TD_SCAN, td_chain_scan, each_to_later, CHAIN},
    {"recursive-doubling scan", TD_SCAN, td_doubling_scan, scanned_by_doubling},
};
enum { SCHEDULES = sizeof schedules / sizeof *schedules };

static void check_schedule(const schedule *which, int n, int k)
{
    bool parts = which->pattern == TD_REDUCE_SCATTER;
    trial t = {.schedule = which,
               .root = (n * 5 + k) % n,
               .count = parts ? (size_t)(3 * n) : (size_t)(n % 7 + n / 3)};
    uint64_t lo = (uint64_t)t.root * t.count / (uint64_t)n,
             hi = (uint64_t)(t.root + 1) * t.count / (uint64_t)n;
    shape s = {.n = (uint64_t)n,
               .bytes = t.count * 4,
               .root_part = (hi - lo) * 4,
               .root0 = t.root == 0,
               .power = 1};
    while ((1 << s.rounds) < n) s.rounds++;
    while (2 * s.power <= s.n) s.power *= 2;
    td_simulation sim = {.latency = 1};
    simulate(&t, n, &sim);
    cost want = which->cost(s);
    uint64_t steps = (uint64_t)sim.time;
    bool right = want.steps < AT_MOST ? steps == want.steps : steps <= want.steps - AT_MOST;
    if (sim.messages != want.messages || sim.bytes != want.bytes || !right)
        fail_msg("%s on %d ranks: %llu messages, %llu bytes, %llu steps; %llu, %llu and %llu are "
                 "right",
                 which->name, n, (unsigned long long)sim.messages, (unsigned long long)sim.bytes,
                 (unsigned long long)steps, (unsigned long long)want.messages,
                 (unsigned long long)want.bytes, (unsigned long long)(want.steps % AT_MOST));
}

static void schedules_cost_what_they_say(void **state)
{
    (void)state;
    bool some = getenv("TANDEM_TEST_SHORT") != NULL; /* under sanitizers */
    for (int n = 1; n <= MOST_RANKS; n += some && n > 8 ? 11 : 1)
        for (int k = 0; k < SCHEDULES; k++) check_schedule(&schedules[k], n, k);
}

/* --- the barrier: with messages that are sent without waiting for who takes them --- */

typedef struct entrance {
    td_transport_ops eager;
    const td_transport_ops *under;
    td_request sent[MOST_RANKS * 6];
    int sends, entered, late; /* late: the rank that comes last */
} entrance;
static entrance door; /* the simulated ranks are one thread */

static td_status send_at_once(td_comm *comm, td_request *request)
{
    static char nothing;
    if (door.sends == MOST_RANKS * 6) return td_fail(TD_ERR_INTERNAL, "too many messages");
    td_request *own = &door.sent[door.sends++];
    *own = (td_request){.data = &nothing,
                        .bytes = request->bytes,
                        .peer = request->peer,
                        .tag = request->tag};
    request->done = 1;
    return door.under->isend(comm, own);
}

static td_status go_through(td_comm *comm, void *arg)
{
    int n = td_comm_size(comm), me = td_comm_rank(comm);
    td_call barrier = {.pattern = TD_BARRIER};
    (void)arg;
    if (me == door.late) TD_TRY(come_late(comm));
    if (!door.under) door.under = comm->ops, door.eager = *comm->ops;
    door.eager.isend = send_at_once;
    comm->ops = &door.eager;
    door.entered++;
    TD_TRY(td_dissemination_barrier(comm, &barrier));
    if (door.entered == n) return TD_OK;
    return td_fail(TD_ERR_INTERNAL, "rank %d of %d leaves where rank %d has yet to enter", me, n,
                   door.late);
}

static void nobody_leaves_a_barrier_before_all_have_entered(void **state)
{
    (void)state;
    for (int n = 1; n <= MOST_RANKS; n++)
        for (int k = 0; k < 3 && k < n; k++) {
            door = (entrance){.late = k == 0 ? 0 : k == 1 ? n - 1 : n / 2};
            td_simulation sim = {.latency = 1};
            assert_ok(td_comm_simulate(n, &sim, go_through, NULL));
            assert_int_equal(door.entered, n);
        }
}

static td_status wait_in_vain(td_comm *comm, void *arg)
{
    int32_t x = 0;
    (void)arg;
    return td_comm_recv(comm, &x, sizeof x, (comm->rank + 1) % comm->size, 1);
}

static void ranks_that_wait_for_each_other_are_found(void **state)
{
    (void)state;
    td_simulation sim = {.latency = 1};
    assert_fails(TD_ERR_TIMEOUT, "no rank can go on",
                 td_comm_simulate(5, &sim, wait_in_vain, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schedules_cost_what_they_say),
        cmocka_unit_test(nobody_leaves_a_barrier_before_all_have_entered),
        cmocka_unit_test(ranks_that_wait_for_each_other_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
