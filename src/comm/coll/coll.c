/* Which algorithm serves which call. */
#include "comm/coll/coll.h"

#include "base/error.h"
#include "comm/coll/hosts.h"
#include "comm/coll/meet.h"
#include "comm/recorder.h"

#include <string.h>

typedef struct row {
    td_pattern pattern;
    const char *name;
    size_t from_bytes; /* taken from this size on */
    bool partial;      /* sends partial results: not for half types */
    td_algorithm *run;
} row;

/* Over messages. The last row of a pattern that fits serves. All reductions follow the tree with
 * ranks as leaves (scan: the chain), as shared.c does, so all give the same bits. */
static const row table[] = {
    {TD_BARRIER, "dissemination", 0, false, td_dissemination_barrier},
    {TD_BROADCAST, "binomial", 0, false, td_binomial_broadcast},
    {TD_BROADCAST, "hierarchical", 131072, false, td_hierarchical_broadcast},
    {TD_SCATTER, "linear", 0, false, td_linear_scatter},
    {TD_GATHER, "linear", 0, false, td_linear_gather},
    {TD_ALLGATHER, "ring", 0, false, td_ring_allgather},
    {TD_ALLTOALL, "pairwise", 0, false, td_pairwise_alltoall},
    {TD_REDUCE, "pairwise", 0, false, td_pairwise_reduce},
    {TD_REDUCE, "binomial", 0, true, td_binomial_reduce},
    {TD_REDUCE, "hierarchical", 262144, false, td_hierarchical_reduce},
    {TD_ALLREDUCE, "pairwise", 0, false, td_pairwise_allreduce},
    {TD_ALLREDUCE, "binomial", 0, true, td_binomial_allreduce},
    {TD_ALLREDUCE, "pairwise", 16384, false, td_pairwise_allreduce},
    {TD_ALLREDUCE, "hierarchical", 32768, false, td_hierarchical_reduce},
    {TD_REDUCE_SCATTER, "pairwise", 0, false, td_pairwise_reduce_scatter},
    {TD_SCAN, "chain", 0, false, td_chain_scan},
};
enum { ROWS = sizeof table / sizeof *table };

/* A rank alone has its result already. */
static td_status alone(const td_call *call)
{
    size_t bytes = call->pattern == TD_BARRIER ? 0 : td_call_part(call, 0);
    if (bytes && call->out && call->out != call->in) memmove(call->out, call->in, bytes);
    return TD_OK;
}

td_status td_coll_run(td_comm *comm, const td_call *call)
{
    if (comm->size == 1) return alone(call);
    if (td_shared_fits(comm)) return td_shared_run(comm, call);
    for (int k = ROWS - 1; k >= 0; k--)
        if (table[k].pattern == call->pattern && call->bytes >= table[k].from_bytes &&
            !(table[k].partial && !td_reduction_in_parts(&call->how)))
            return table[k].run(comm, call);
    return td_fail(TD_ERR_INTERNAL, "no algorithm for %s", td_does_names[call->pattern]);
}

void td_coll_release(td_comm *comm)
{
    td_worker_destroy(comm);
    td_meet_destroy(comm);
    td_hosts_destroy(comm);
    td_recorder_close(comm);
}
