/* One schedule of a collective, simulated: every rank's result is compared. What is reduced in an
 * order (that of the tree, or of the chain) is reduced by an operation of which any other order
 * shows. For schedule_test.c, and schedule_hosts_test.c. */
#ifndef TD_COMM_COLL_SCHEDULE_TRIAL_TEST_H
#define TD_COMM_COLL_SCHEDULE_TRIAL_TEST_H

#include "comm/coll/hosts.h"
#include "comm/transport/simulated.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"

enum { MOST_RANKS = 64, GUARD = 0x5afe };
enum { LATE_BY = 32 /* steps: all else that can be done is done by then */ };

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

typedef struct trial {
    const schedule *schedule;
    int root;
    int late;     /* a rank + 1, 0: none */
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

/* So much later than the others, by the simulated clock. */
static td_status come_late(td_comm *comm)
{
    char out = 0, in;
    int me = td_comm_rank(comm);
    for (int k = 0; k < LATE_BY; k++) TD_TRY(td_comm_exchange(comm, &out, 1, me, &in, 1, me, 0));
    return TD_OK;
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
    out[most - 1] = GUARD;
    td_hosts *over;
    if (t->late) TD_GOTO(td_hosts_of(comm, &over)); /* for which all wait */
    if (me == t->late - 1) TD_GOTO(come_late(comm));
    if (!t->schedule->cost) TD_GOTO(td_greeting_begin(comm)); /* headers would be counted */
    TD_GOTO(t->schedule->run(comm, &call));
    for (size_t i = 0; i < most && status == TD_OK; i++)
        if (expected(t, n, me, i, &want) && out[i] != want)
            status = td_fail(TD_ERR_INTERNAL, "%s: rank %d of %d has %d at %zu, not %d",
                             t->schedule->name, me, n, out[i], i, want);
    if (status == TD_OK && out[most - 1] != GUARD)
        status = td_fail(TD_ERR_INTERNAL, "%s: rank %d of %d writes behind its result",
                         t->schedule->name, me, n);
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

#endif
