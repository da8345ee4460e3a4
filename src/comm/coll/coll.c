/* Which algorithm serves which call. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
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
    bool (*fits)(const td_comm *comm); /* NULL: any group */
} row;

static bool over_hosts(const td_comm *comm)
{
    return comm->hosts > 1;
}

/* The last row of a pattern that fits serves, unless a measurement says otherwise. All reductions
 * follow the tree with ranks as leaves (scan: the chain), so all give the same bits. */
static const row table[] = {
    {TD_BARRIER, "dissemination", 0, false, td_dissemination_barrier},
    {TD_BROADCAST, "binomial", 0, false, td_binomial_broadcast},
    {TD_BROADCAST, "hierarchical", 131072, false, td_hierarchical_broadcast, over_hosts},
    {TD_SCATTER, "linear", 0, false, td_linear_scatter},
    {TD_GATHER, "linear", 0, false, td_linear_gather},
    {TD_ALLGATHER, "bruck", 0, false, td_bruck_allgather},
    {TD_ALLGATHER, "ring", 32768, false, td_ring_allgather},
    {TD_ALLTOALL, "pairwise", 0, false, td_pairwise_alltoall},
    {TD_REDUCE, "pairwise", 0, false, td_pairwise_reduce},
    {TD_REDUCE, "binomial", 0, true, td_binomial_reduce},
    {TD_REDUCE, "hierarchical", 262144, false, td_hierarchical_reduce, over_hosts},
    {TD_ALLREDUCE, "pairwise", 0, false, td_pairwise_allreduce},
    {TD_ALLREDUCE, "binomial", 0, true, td_binomial_allreduce},
    {TD_ALLREDUCE, "recursive-doubling", 0, true, td_recursive_doubling, td_recursive_fits},
    {TD_ALLREDUCE, "pairwise", 16384, false, td_pairwise_allreduce},
    {TD_ALLREDUCE, "recursive-halving", 4096, true, td_recursive_halving, td_recursive_fits},
    {TD_ALLREDUCE, "hierarchical", 32768, false, td_hierarchical_reduce, over_hosts},
    {TD_REDUCE_SCATTER, "pairwise", 0, false, td_pairwise_reduce_scatter},
    {TD_SCAN, "chain", 0, false, td_chain_scan},
    /* inside a host nothing is faster; the last rows, a row for each pattern */
    {TD_BARRIER, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_BROADCAST, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_SCATTER, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_GATHER, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_ALLGATHER, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_ALLTOALL, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_REDUCE, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_ALLREDUCE, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_REDUCE_SCATTER, "shared", 0, false, td_shared_run, td_shared_fits},
    {TD_SCAN, "shared", 0, false, td_shared_run, td_shared_fits},
};
enum { ROWS = sizeof table / sizeof *table };

/* A rank alone has its result already. */
static td_status alone(const td_call *call)
{
    size_t bytes = call->pattern == TD_BARRIER ? 0 : td_call_part(call, 0);
    if (bytes && call->out && call->out != call->in) memmove(call->out, call->in, bytes);
    return TD_OK;
}

static bool fits(const td_comm *comm, const row *r, td_pattern pattern)
{
    return r->pattern == pattern && (!r->fits || r->fits(comm));
}

int td_coll_algorithms(const td_comm *comm, td_pattern pattern, const char **names, int room)
{
    int n = 0;
    for (int k = 0; k < ROWS; k++) {
        if (!fits(comm, &table[k], pattern)) continue;
        bool known = false;
        for (int i = 0; i < n && i < room; i++) known = known || !strcmp(names[i], table[k].name);
        if (known) continue;
        if (n < room) names[n] = table[k].name;
        n++;
    }
    return n < room ? n : room;
}

int td_coll_row(const td_comm *comm, td_pattern pattern, int algorithm)
{
    enum { MOST = 16 };
    const char *names[MOST];
    int n = td_coll_algorithms(comm, pattern, names, MOST);
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

/* The row that is forced on a call or was measured best for it, -1: neither. */
static int preferred(const td_comm *comm, const td_call *call)
{
    if (comm->forced[call->pattern]) return comm->forced[call->pattern] - 1;
    int found = -1;
    for (int k = 0; comm->tuning && k < comm->tuning->count; k++) {
        const td_tuning_row *r = &comm->tuning->row[k];
        if (r->pattern == call->pattern && call->bytes >= r->from_bytes) found = r->algorithm;
    }
    return found;
}

/* The place in the table that serves the call, -1: none. */
static int choose(const td_comm *comm, const td_call *call, int wanted)
{
    bool halves = call->pattern >= TD_REDUCE && !td_reduction_in_parts(&call->how);
    if (wanted >= 0 && !(table[wanted].partial && halves)) return wanted;
    for (int k = ROWS - 1; k >= 0; k--)
        if (fits(comm, &table[k], call->pattern) && call->bytes >= table[k].from_bytes &&
            !(table[k].partial && halves))
            return k;
    return -1;
}

td_status td_coll_run(td_comm *comm, const td_call *call)
{
    if (comm->size == 1) return alone(call);
    int wanted = preferred(comm, call);
    if (wanted < 0 && td_shared_fits(comm)) {
        td_header_of_call(comm, call, ROWS - TD_PATTERNS + (int)call->pattern);
        return td_shared_run(comm, call);
    }
    int place = choose(comm, call, wanted), first = 0;
    if (place < 0)
        return td_fail(TD_ERR_INTERNAL, "no algorithm for %s", td_does_names[call->pattern]);
    td_algorithm *run = table[place].run;
    while (table[first].pattern != call->pattern || table[first].run != run) first++;
    td_header_of_call(comm, call, first);
    TD_TRY(td_greeting_begin(comm));
    td_status status = run(comm, call);
    comm->greets = false;
    return status;
}

void td_coll_release(td_comm *comm)
{
    td_worker_destroy(comm);
    td_meet_destroy(comm);
    td_hosts_destroy(comm);
    td_greeting_destroy(comm);
    td_free(comm->tuning);
    comm->tuning = NULL;
    td_recorder_close(comm);
}
