/* Which algorithm serves which call. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/coll/hosts.h"
#include "comm/coll/meet.h"
#include "comm/message.h"
#include "comm/recorder.h"
#include "math/kernels.h"

#include <string.h>

/* What a reduction's order is: that of the tree with ranks as leaves; the same, but with partial
 * results sent, which is not for half types; another, which is for whole numbers alone. */
typedef enum order { TREE, TREE_IN_PARTS, ANY_ORDER } order;

typedef struct row {
    td_pattern pattern;
    const char *name;
    size_t from_bytes; /* taken from this size on */
    order order;
    td_algorithm *run;
    bool (*fits)(const td_comm *comm); /* NULL: any group */
} row;

#define MEASURED SIZE_MAX /* taken only where a measurement or the user says so */

static bool over_hosts(const td_comm *comm)
{
    return comm->hosts > 1;
}

/* Where a vector for each host costs less than a second round of messages. */
static bool over_few_hosts(const td_comm *comm)
{
    return comm->hosts > 1 && comm->hosts <= 4;
}

static bool over_10_ranks(const td_comm *comm)
{
    return comm->size > 10;
}

/* Where a message of the root's own with each costs more than the steps of a tree. */
static bool over_32_ranks(const td_comm *comm)
{
    return comm->size > 32;
}

/* The last row of a pattern that fits serves, unless a measurement says otherwise. Reductions give
 * the same bits by every row that carries the tree's order (scan: the chain's), and whole numbers
 * by every row. */
static const row table[] = {
    {TD_BARRIER, "dissemination", 0, TREE, td_dissemination_barrier},
    {TD_BROADCAST, "binomial", 0, TREE, td_binomial_broadcast},
    {TD_BROADCAST, "hierarchical", 131072, TREE, td_hierarchical_broadcast, over_hosts},
    {TD_BROADCAST, "double-tree", MEASURED, TREE, td_double_tree_broadcast},
    {TD_SCATTER, "linear", 0, TREE, td_linear_scatter},
    {TD_SCATTER, "binomial", MEASURED, TREE, td_binomial_scatter},
    {TD_SCATTER, "binomial", 0, TREE, td_binomial_scatter, over_32_ranks},
    {TD_SCATTER, "linear", 512, TREE, td_linear_scatter},
    {TD_GATHER, "linear", 0, TREE, td_linear_gather},
    {TD_GATHER, "binomial", MEASURED, TREE, td_binomial_gather},
    {TD_GATHER, "binomial", 0, TREE, td_binomial_gather, over_32_ranks},
    {TD_GATHER, "linear", 1024, TREE, td_linear_gather},
    {TD_ALLGATHER, "ring", 0, TREE, td_ring_allgather},
    {TD_ALLGATHER, "bruck", 0, TREE, td_bruck_allgather},
    {TD_ALLGATHER, "ring", 32768, TREE, td_ring_allgather},
    {TD_ALLGATHER, "hierarchical", 65536, TREE, td_hierarchical_allgather, over_hosts},
    {TD_ALLTOALL, "bruck", 0, TREE, td_bruck_alltoall},
    {TD_ALLTOALL, "pairwise", 512, TREE, td_pairwise_alltoall},
    {TD_REDUCE, "pairwise", 0, TREE, td_pairwise_reduce},
    {TD_REDUCE, "binomial", 0, TREE_IN_PARTS, td_binomial_reduce},
    {TD_REDUCE, "hierarchical", 262144, TREE, td_hierarchical_reduce, over_hosts},
    {TD_ALLREDUCE, "pairwise", 0, TREE, td_pairwise_allreduce},
    {TD_ALLREDUCE, "binomial", 0, TREE_IN_PARTS, td_binomial_allreduce},
    {TD_ALLREDUCE, "recursive-doubling", 0, TREE_IN_PARTS, td_recursive_doubling,
     td_recursive_fits},
    {TD_ALLREDUCE, "recursive-doubling", 0, ANY_ORDER, td_recursive_doubling, td_recursive_folds},
    {TD_ALLREDUCE, "pairwise", 16384, TREE, td_pairwise_allreduce},
    {TD_ALLREDUCE, "recursive-halving", 4096, TREE_IN_PARTS, td_recursive_halving,
     td_recursive_fits},
    {TD_ALLREDUCE, "recursive-halving", 4096, ANY_ORDER, td_recursive_halving, td_recursive_folds},
    {TD_ALLREDUCE, "hierarchical", 32768, TREE, td_hierarchical_reduce, over_hosts},
    {TD_ALLREDUCE, "hierarchical-exchange", 16384, TREE, td_hierarchical_exchange, over_few_hosts},
    {TD_ALLREDUCE, "hierarchical", 65536, TREE, td_hierarchical_reduce, over_hosts},
    {TD_ALLREDUCE, "ring", MEASURED, ANY_ORDER, td_ring_allreduce},
    {TD_ALLREDUCE, "double-tree", MEASURED, ANY_ORDER, td_double_tree_allreduce},
    {TD_REDUCE_SCATTER, "pairwise", 0, TREE, td_pairwise_reduce_scatter},
    {TD_REDUCE_SCATTER, "hierarchical", 65536, TREE, td_hierarchical_reduce_scatter, over_hosts},
    {TD_SCAN, "chain", 0, TREE, td_chain_scan},
    {TD_SCAN, "recursive-doubling", 16384, ANY_ORDER, td_doubling_scan},
    {TD_SCAN, "recursive-doubling", 0, ANY_ORDER, td_doubling_scan, over_10_ranks},
    /* the system's own, for comparison */
    {TD_BARRIER, "mpi", MEASURED, TREE, td_own_run, td_own_fits},
    {TD_BROADCAST, "mpi", MEASURED, TREE, td_own_run, td_own_fits},
    {TD_SCATTER, "mpi", MEASURED, TREE, td_own_run, td_own_fits},
    {TD_GATHER, "mpi", MEASURED, TREE, td_own_run, td_own_fits},
    {TD_ALLGATHER, "mpi", MEASURED, TREE, td_own_run, td_own_fits},
    {TD_ALLTOALL, "mpi", MEASURED, TREE, td_own_run, td_own_fits},
    {TD_REDUCE, "mpi", MEASURED, ANY_ORDER, td_own_run, td_own_fits},
    {TD_ALLREDUCE, "mpi", MEASURED, ANY_ORDER, td_own_run, td_own_fits},
    {TD_REDUCE_SCATTER, "mpi", MEASURED, ANY_ORDER, td_own_run, td_own_fits},
    {TD_SCAN, "mpi", MEASURED, ANY_ORDER, td_own_run, td_own_fits},
    /* inside a host nothing is faster; the last rows, in the order of td_pattern */
    {TD_BARRIER, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_BROADCAST, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_SCATTER, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_GATHER, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_ALLGATHER, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_ALLTOALL, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_REDUCE, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_ALLREDUCE, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_REDUCE_SCATTER, "shared", 0, TREE, td_shared_run, td_shared_fits},
    {TD_SCAN, "shared", 0, TREE, td_shared_run, td_shared_fits},
};
enum { ROWS = sizeof table / sizeof *table };

static int shared_row(td_pattern pattern)
{
    return ROWS - TD_PATTERNS + (int)pattern;
}

/* A rank alone has its result already. */
static td_status alone(const td_call *call)
{
    size_t bytes = call->pattern == TD_BARRIER ? 0 : td_call_part(call, 0);
    if (bytes && call->out && call->out != call->in)
        td_kernels_best()->copy(bytes, call->in, call->out);
    return TD_OK;
}

static bool fits(const td_comm *comm, const row *r, td_pattern pattern)
{
    return r->pattern == pattern && (!r->fits || r->fits(comm));
}

int td_coll_algorithms(const td_comm *comm, td_pattern pattern, bool whole, const char **names,
                       int room)
{
    int n = 0;
    for (int k = 0; k < ROWS; k++) {
        if (!fits(comm, &table[k], pattern) || (table[k].order == ANY_ORDER && !whole)) continue;
        bool known = false;
        for (int i = 0; i < n && i < room; i++) known = known || !strcmp(names[i], table[k].name);
        if (known) continue;
        if (n < room) names[n] = table[k].name;
        n++;
    }
    return n < room ? n : room;
}

int td_coll_row(const td_comm *comm, td_pattern pattern, bool whole, int algorithm)
{
    enum { MOST = 16 };
    const char *names[MOST];
    int n = td_coll_algorithms(comm, pattern, whole, names, MOST);
    for (int k = 0; k < ROWS && algorithm < n; k++)
        if (fits(comm, &table[k], pattern) && !strcmp(table[k].name, names[algorithm])) return k;
    return -1;
}

const char *td_coll_name(int place)
{
    return place >= 0 && place < ROWS ? table[place].name : "?";
}

td_status td_coll_force(td_comm *comm, td_pattern pattern, const char *name)
{
    comm->forced[pattern] = 0;
    if (!name) return TD_OK;
    for (int k = 0; k < ROWS; k++)
        if (fits(comm, &table[k], pattern) && !strcmp(table[k].name, name))
            comm->forced[pattern] = k + 1;
    if (comm->forced[pattern]) return TD_OK;
    return td_fail(TD_ERR_ARG, "%s: no algorithm \"%s\" serves this group", td_does_names[pattern],
                   name);
}

/* What the choice goes by: the bytes of a part, of parts that differ the mean, where there are
 * parts; but reduce-scatter's are those of the vector. Ranks of an all-to-all of parts that differ
 * have different sizes, and must choose the same. */
static size_t size_of(const td_comm *comm, const td_call *call)
{
    if (!call->parts || call->pattern == TD_REDUCE_SCATTER) return call->bytes;
    return call->pattern == TD_ALLTOALL ? 1 << 20 : call->bytes / (size_t)comm->size;
}

bool td_call_is_whole(const td_call *call)
{
    const td_reduction *how = &call->how;
    return call->pattern >= TD_REDUCE && !how->combine &&
           (how->type == TD_I32 || how->type == TD_I64 || how->type == TD_U8);
}

static int measured(const td_comm *comm, const td_call *call, bool whole)
{
    int found = -1;
    for (int k = 0; comm->tuning && k < comm->tuning->count; k++) {
        const td_tuning_row *r = &comm->tuning->row[k];
        if (r->pattern == call->pattern && r->whole == whole &&
            size_of(comm, call) >= r->from_bytes)
            found = r->algorithm;
    }
    return found;
}

/* The row that is forced on a call or was measured best for it, -1: neither. */
static int preferred(const td_comm *comm, const td_call *call)
{
    if (comm->forced[call->pattern]) return comm->forced[call->pattern] - 1;
    int found = td_call_is_whole(call) ? measured(comm, call, true) : -1;
    return found < 0 ? measured(comm, call, false) : found;
}

static bool serves(const td_comm *comm, const row *r, const td_call *call)
{
    const td_reduction *how = &call->how;
    bool reduces = call->pattern >= TD_REDUCE;
    if (r->run == td_own_run && !td_own_counts(comm, call)) return false;
    bool equal = r->run == td_bruck_alltoall || r->run == td_bruck_allgather ||
                 r->run == td_binomial_gather || r->run == td_binomial_scatter;
    if (equal && call->parts) return false;
    if (!reduces || r->order == TREE) return true;
    if (r->order == TREE_IN_PARTS) return td_reduction_in_parts(how);
    return td_call_is_whole(call);
}

/* The place in the table that serves the call, -1: none. */
static int choose(const td_comm *comm, const td_call *call, int wanted)
{
    if (wanted >= 0 && serves(comm, &table[wanted], call)) return wanted;
    if (td_shared_fits(comm)) return shared_row(call->pattern);
    for (int k = ROWS - 1; k >= 0; k--)
        if (fits(comm, &table[k], call->pattern) && table[k].from_bytes != MEASURED &&
            size_of(comm, call) >= table[k].from_bytes && serves(comm, &table[k], call))
            return k;
    return -1;
}

const char *td_coll_serving(const td_comm *comm, const td_call *call)
{
    return comm->size == 1 ? "none" : td_coll_name(choose(comm, call, preferred(comm, call)));
}

td_status td_coll_run(td_comm *comm, const td_call *call)
{
    if (comm->size == 1) return alone(call);
    int place = choose(comm, call, preferred(comm, call)), first = 0;
    if (place < 0)
        return td_fail(TD_ERR_INTERNAL, "no algorithm for %s", td_does_names[call->pattern]);
    td_algorithm *run = table[place].run;
    if (run == td_shared_run) { /* has one row, and compares by itself */
        td_header_of_call(comm, call, place);
        return td_shared_run(comm, call);
    }
    while (table[first].pattern != call->pattern || table[first].run != run) first++;
    td_header_of_call(comm, call, first);
    TD_TRY(td_greeting_begin(comm));
    td_status status = run(comm, call);
    comm->greets = false;
    return status;
}

void td_coll_release(td_comm *comm)
{
    td_messages_withdraw(comm);
    td_worker_destroy(comm);
    td_meet_destroy(comm);
    td_hosts_destroy(comm);
    td_greeting_destroy(comm);
    td_tuning_free(comm->tuning);
    td_free(comm->verdicts);
    comm->tuning = NULL, comm->verdicts = NULL;
    td_recorder_rest(comm);
}
