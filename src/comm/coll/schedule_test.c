/* Every schedule over messages, simulated on every number of ranks from 1 to 64: the right result,
 * and exactly the messages, the bytes and the steps one after the other that its file says. What is
 * reduced in an order (that of the tree, or of the chain) is reduced by an operation of which any
 * other order shows. */
#include "comm/coll/coll.h"
#include "comm/transport/simulated.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"

#include <stdio.h>
#include <string.h>

enum { AT_MOST = 1 << 20, SHARED_WORD = 64 };
enum { MOST_RANKS = 64, MOST_COUNT = 3 * MOST_RANKS + 1 };

typedef struct shape {
    uint64_t n, rounds; /* ranks; log2 of n rounded up */
    uint64_t bytes;     /* of the vector, or of a part */
    uint64_t root_part; /* bytes of the root's n-th of the vector */
    bool root0;         /* the root is rank 0 */
    uint64_t power;     /* the largest power of two that is not above n */
} shape;

typedef struct cost {
    uint64_t messages, bytes; /* of all ranks */
    uint64_t steps;           /* messages one after the other; or AT_MOST + a bound */
} cost;

typedef enum order { ANY_ORDER, TREE, TREE_OF_POWER /* of two of ranks */, CHAIN } order;

typedef struct schedule {
    const char *name;
    td_pattern pattern;
    td_algorithm *run;
    cost (*cost)(shape s);
    order order; /* of a reduction */
} schedule;

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

typedef struct trial {
    const schedule *schedule;
    int root;
    size_t count; /* int32s of the vector, or of a part */
    order order;  /* on so many ranks */
    int32_t *all; /* [count] of a reduction of all ranks, but for a scan */
} trial;

static int32_t element(int rank, size_t i)
{
    return (int32_t)((i * 7 + (size_t)rank * 13) % 101) - 50;
}

/* Neither commutes nor associates. */
static void mix(void *into, const void *from, size_t count, void *user)
{
    uint32_t *a = into;
    const uint32_t *b = from;
    (void)user;
    for (size_t i = 0; i < count; i++) a[i] = (a[i] + 1) * 0x9e3779b1u ^ b[i];
}

/* Of ranks [from, from + n): the larger power of two left, the rest right. */
static int32_t along_tree(int from, int n, size_t i)
{
    int left = 1;
    if (n == 1) return element(from, i);
    while (2 * left < n) left *= 2;
    int32_t a = along_tree(from, left, i), b = along_tree(from + left, n - left, i);
    mix(&a, &b, 1, NULL);
    return a;
}

/* Of the first n ranks. */
static int32_t reduced(const trial *t, int n, size_t i)
{
    if (t->order == TREE) return along_tree(0, n, i);
    int32_t all = element(0, i);
    for (int r = 1; r < n; r++) {
        int32_t next = element(r, i);
        if (t->order == CHAIN)
            mix(&all, &next, 1, NULL);
        else
            all += next;
    }
    return all;
}

/* What must stand at i of this rank's out; false: nothing. */
static bool expected(const trial *t, int n, int me, size_t i, int32_t *out)
{
    size_t count = t->count, part = count / (size_t)n;
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
    case TD_REDUCE:
    case TD_ALLREDUCE:
        if (i < count) *out = t->all[i];
        return i < count && (t->schedule->pattern == TD_ALLREDUCE || me == t->root);
    case TD_REDUCE_SCATTER:
        if (i < part) *out = t->all[(size_t)me * part + i];
        return i < part;
    case TD_SCAN: *out = reduced(t, me + 1, i); return i < count;
    default: return false;
    }
}

static td_status run_trial(td_comm *comm, void *arg)
{
    trial *t = arg;
    int n = td_comm_size(comm), me = td_comm_rank(comm);
    bool whole = t->schedule->pattern >= TD_REDUCE || t->schedule->pattern == TD_BROADCAST;
    size_t most = t->count * (whole ? 1 : (size_t)n) + 1, parts[MOST_RANKS];
    int32_t *in = td_calloc(most, 4), *out = td_calloc(most, 4), want = 0;
    td_status status = in && out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a trial");
    td_reduction how = {.type = TD_I32, .op = TD_SUM, .width = 4};
    if (t->order != ANY_ORDER) how.combine = mix;
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
    if (!t->schedule->cost) TD_GOTO(td_greeting_begin(comm)); /* headers would be counted */
    TD_GOTO(t->schedule->run(comm, &call));
    for (size_t i = 0; i < most && status == TD_OK; i++)
        if (expected(t, n, me, i, &want) && out[i] != want)
            status = td_fail(TD_ERR_INTERNAL, "%s: rank %d of %d has %d at %zu, not %d",
                             t->schedule->name, me, n, out[i], i, want);
out:
    td_free(in);
    td_free(out);
    return status;
}

static void simulate(trial *t, int n, td_simulation *sim)
{
    td_pattern pattern = t->schedule->pattern;
    bool reduces = pattern >= TD_REDUCE && pattern != TD_SCAN;
    t->order = t->schedule->order;
    if (t->order == TREE_OF_POWER) t->order = n & (n - 1) ? ANY_ORDER : TREE;
    t->all = td_calloc(t->count + 1, 4);
    assert_non_null(t->all);
    for (size_t i = 0; i < t->count && reduces; i++) t->all[i] = reduced(t, n, i);
    td_status status = td_comm_simulate(n, sim, run_trial, t);
    td_free(t->all);
    assert_ok(status);
}

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

enum { LATE_BY = 32 /* steps: the others are through by then, if they can be */ };

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
    char out = 0, in;
    (void)arg;
    for (int k = 0; k < LATE_BY && me == door.late; k++)
        TD_TRY(td_comm_exchange(comm, &out, 1, me, &in, 1, me, 0));
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

/* The cost function of these is NULL, as headers go along. */
static const schedule over_hosts[] = {
    {"hierarchical all-reduce", TD_ALLREDUCE, td_hierarchical_reduce, NULL, TREE},
    {"hierarchical exchange", TD_ALLREDUCE, td_hierarchical_exchange, NULL, TREE},
    {"hierarchical reduce", TD_REDUCE, td_hierarchical_reduce, NULL, TREE},
    {"hierarchical broadcast", TD_BROADCAST, td_hierarchical_broadcast, NULL},
    {"hierarchical all-gather", TD_ALLGATHER, td_hierarchical_allgather, NULL},
    {"hierarchical reduce-scatter", TD_REDUCE_SCATTER, td_hierarchical_reduce_scatter, NULL, TREE},
};

/* Of one block over one channel, where each host's ranks are one node of the tree. */
static cost between_hosts(const schedule *which, uint64_t h, uint64_t n, uint64_t bytes)
{
    uint64_t all = h * (h - 1), one = h - 1;
    if (which->run == td_hierarchical_exchange) return (cost){0, bytes * all, 0}; /* with headers */
    switch (which->pattern) {
    case TD_ALLREDUCE: return (cost){all, 2 * bytes * one, 0}; /* the others along with headers */
    case TD_REDUCE: return (cost){one, bytes * one + bytes / h * one, 0};
    case TD_BROADCAST: return (cost){one, bytes * one, 0};
    case TD_ALLGATHER: return (cost){all, n * bytes * one, 0};
    default: return (cost){all, bytes * one, 0};
    }
}

static void hosts_send_what_they_say(void **state)
{
    (void)state;
    int host[MOST_RANKS];
    for (int h = 2; h <= 4; h++)
        for (int n = h; n <= (getenv("TANDEM_TEST_SHORT") ? 8 : MOST_RANKS); n += h)
            for (size_t k = 0; k < sizeof over_hosts / sizeof *over_hosts; k++) {
                const schedule *which = &over_hosts[k];
                int of_host = n / h;
                bool sums = which->pattern != TD_BROADCAST && which->pattern != TD_ALLGATHER;
                if (sums && of_host & (of_host - 1)) continue;     /* a host is several nodes */
                int each = which->pattern == TD_ALLGATHER ? 1 : n; /* so that cuts are even */
                trial t = {.schedule = which, .root = n / 2, .count = (size_t)(16 * h * each)};
                td_simulation sim = {.host = host, .latency = 1};
                for (int r = 0; r < n; r++) host[r] = r * h / n;
                simulate(&t, n, &sim);
                cost want = between_hosts(which, (uint64_t)h, (uint64_t)n, t.count * 4);
                uint64_t one = (uint64_t)h - 1,
                         hellos = which->pattern == TD_BROADCAST ? one : one * (uint64_t)h;
                want.messages += hellos, want.bytes += hellos * TD_HELLO_BYTES;
                uint64_t others = (uint64_t)(n - h); /* are told of their host's shared memory */
                want.messages += others, want.bytes += others * SHARED_WORD;
                if (sim.messages != want.messages || sim.bytes != want.bytes)
                    fail_msg("%s, %d ranks on %d hosts: %llu messages, %llu bytes; %llu and %llu "
                             "are right",
                             which->name, n, h, (unsigned long long)sim.messages,
                             (unsigned long long)sim.bytes, (unsigned long long)want.messages,
                             (unsigned long long)want.bytes);
            }
}

/* Hosts of several ranks, adjacent, dealt in turn and of unequal size. */
static void schedules_over_hosts_are_right(void **state)
{
    (void)state;
    int host[MOST_RANKS];
    int most = getenv("TANDEM_TEST_SHORT") ? 10 : MOST_RANKS;
    for (int n = 2; n <= most; n++)
        for (int layout = 0; layout < 3; layout++) {
            for (int r = 0; r < n; r++)
                host[r] = layout == 0 ? 3 * r / n : layout == 1 ? r % 3 : r < n / 4 ? 0 : 1 + r % 2;
            for (size_t k = 0; k < sizeof over_hosts / sizeof *over_hosts; k++) {
                trial t = {.schedule = &over_hosts[k],
                           .root = (n * 5 + (int)k) % n,
                           .count = (size_t)((n > 24 ? 1 : n) * n * 40)};
                td_simulation sim = {.host = host, .latency = 1};
                simulate(&t, n, &sim);
            }
        }
}

/* --- wide elements, of which a slice cannot be cut as finely as it should --- */

enum { WORDS = 512 };

static void add_words(void *into, const void *from, size_t count, void *user)
{
    size_t width = *(const size_t *)user;
    int32_t *a = into;
    const int32_t *b = from;
    for (size_t i = 0; i < count * width / 4; i++) a[i] += b[i];
}

typedef struct wide {
    size_t width, each; /* bytes; elements of a rank's part */
} wide;

static td_status scatter_wide(td_comm *comm, void *arg)
{
    wide *w = arg;
    int n = td_comm_size(comm), me = td_comm_rank(comm);
    size_t part = w->each * w->width / 4, parts[MOST_RANKS];
    int32_t *in = td_calloc(part * (size_t)n, 4), *out = td_calloc(part, 4);
    td_reduction how = {.width = w->width, .combine = add_words, .user = &w->width};
    td_call call = {.pattern = TD_REDUCE_SCATTER,
                    .in = in,
                    .out = out,
                    .bytes = part * (size_t)n * 4,
                    .parts = parts,
                    .unit = w->width,
                    .how = how,
                    .count = w->each * (size_t)n};
    td_status status = in && out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a trial");
    for (int r = 0; r < n; r++) parts[r] = w->each;
    for (size_t i = 0; i < part * (size_t)n; i++) in[i] = element(me, i);
    if (status == TD_OK) status = td_greeting_begin(comm);
    if (status == TD_OK) status = td_hierarchical_reduce_scatter(comm, &call);
    for (size_t i = 0; i < part && status == TD_OK; i++) {
        int32_t want = 0;
        for (int r = 0; r < n; r++) want += element(r, (size_t)me * part + i);
        if (out[i] != want)
            status = td_fail(TD_ERR_INTERNAL, "rank %d of %d has %d at %zu, not %d", me, n, out[i],
                             i, want);
    }
    td_free(in), td_free(out);
    return status;
}

static void wide_elements_fit_their_rooms(void **state)
{
    (void)state;
    static const int sizes[][3] = {{40, 1, 1}, {2, 2, 2}, {3, 2, 1}, {9, 2, 2}, {17, 3, 4}};
    int host[MOST_RANKS];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (size_t width = 4 * WORDS; width > 64; width = k ? width * 5 / 8 / 4 * 4 : 0)
            for (size_t bytes = 2048; bytes <= (k ? 32768 : 2048); bytes *= 4) {
                int n = 0;
                for (int h = 0; h < 3; h++)
                    for (int r = 0; r < sizes[k][h]; r++) host[n++] = h;
                wide w = {width, (bytes + width - 1) / width};
                td_simulation sim = {.host = host, .latency = 1};
                assert_ok(td_comm_simulate(n, &sim, scatter_wide, &w));
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
    const struct CMUnitTest tests[] = {cmocka_unit_test(schedules_cost_what_they_say),
                                       cmocka_unit_test(
                                           nobody_leaves_a_barrier_before_all_have_entered),
                                       cmocka_unit_test(hosts_send_what_they_say),
                                       cmocka_unit_test(schedules_over_hosts_are_right),
                                       cmocka_unit_test(wide_elements_fit_their_rooms),
                                       cmocka_unit_test(ranks_that_wait_for_each_other_are_found)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
