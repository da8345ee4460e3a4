/* Every pattern for the ranks of one host, over memory that they share (meet.h).
 *
 * Staged: a rank copies what others need into its block, in windows; they read it from there. Bytes
 * are written once more than they must be, and a window costs one wait (all-reduce: two).
 * Direct, where the vector is long and ranks are threads of one process, or processes that have
 * mapped each other's (registered.h): ranks read each other's buffers, so nothing is copied twice;
 * an operation costs two waits (all-reduce: three, or two). Else processes do so, too, through the
 * system, where nothing is to be reduced, or by two, parts are so long that the way there costs
 * less than a second copy, and the result stays in the caches. (An all-reduce by four on two cores
 * took 1.0 to 1.7 times as long as staged.) By two either may take less time, as their cores and
 * pages lie: calls find out, and go the shorter way.
 * Halves: where one of two ranks would wait while the other fetches a long vector, each moves half:
 * who gives writes into the result of who takes; of a reduction each process folds a slice and
 * writes what comes of it into the other's result.
 *
 * Reductions follow the tree with ranks as leaves: a slice's rank reads all parts of it and folds
 * them in one pass. So a rank reads n/n of the vector and writes 1/n; all-reduce then copies the
 * other slices from their ranks (halves: they have been put). Sources: Graham, Shipman, "MPI
 * support for multi-core architectures: optimized shared memory collectives", EuroPVM/MPI 2008; of
 * copies through the system: Chakraborty, Subramoni, Panda, "Contention-aware kernel-assisted MPI
 * collectives", CLUSTER 2017. */
#include "comm/coll/shared_impl.h"

#include "base/error.h"
#include "comm/registered.h"

bool td_shared_fits(const td_comm *comm)
{
    return comm->meets;
}

/* Room for several groups: a container has 64 MiB if nobody asked for more, and 100 ranks would
 * take more than that for one. */
bool td_shared_suits(int ranks, uint64_t memory)
{
    bool plenty = memory / ((uint64_t)ranks * TD_MEET_BYTES) >= 4;
    return ranks > 1 && ranks <= (plenty ? TD_MEET_RANKS : TD_MEET_FEW);
}

bool td_shared_may_meet(const td_comm *comm)
{
    return comm->hosts == 1 && td_shared_suits(comm->size, td_meet_memory(comm));
}

static td_status spread(td_place *p, const td_stream *s)
{
    size_t most = s->writer >= 0 ? p->call->bytes : td_place_most_moved(p);
    bool directly;
    TD_TRY(td_direct_chosen(p, most, s->all, &directly));
    return directly ? td_direct_spread(p, s) : td_staged_spread(p, s);
}

static td_status scatter(td_place *p, size_t all)
{
    bool directly;
    TD_TRY(td_direct_chosen(p, td_place_most_moved(p), all, &directly));
    return directly ? td_direct_scatter(p) : td_staged_scatter(p);
}

static td_status reduce(td_place *p)
{
    const td_call *c = p->call;
    bool fetches = false;
    if (p->open) return td_direct_allreduce_seen(p);
    if (td_direct_folds(p)) return td_direct_reduce(p);
    if (!p->comm->ops->one_memory && p->size == 2)
        TD_TRY(td_direct_chosen(p, c->bytes, c->bytes, &fetches));
    return fetches ? td_direct_reduce_of_two(p) : td_staged_reduce(p);
}

static td_status barrier(td_place *p)
{
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, NULL, NULL);
    TD_TRY(td_meet_arrived(p->meet, -1));
    td_meet_leave(p->meet);
    return TD_OK;
}

static td_status run(td_place *p)
{
    td_comm *comm = p->comm;
    const td_call *call = p->call;
    bool directly = false, at_root = comm->rank == call->root;
    size_t all = td_place_all(call, comm->size);
    TD_TRY(td_direct_opens(p, all));
    switch (call->pattern) {
    case TD_BARRIER: return barrier(p);
    case TD_BROADCAST:
        return spread(p, &(td_stream){call->in, at_root ? NULL : call->out, call, call->root,
                                      call->bytes});
    case TD_GATHER:
        return spread(p, &(td_stream){call->in, at_root ? call->out : NULL, call, -1, all});
    case TD_ALLGATHER: return spread(p, &(td_stream){call->in, call->out, call, -1, all});
    case TD_SCATTER: return scatter(p, all);
    case TD_ALLTOALL:
        if (!call->parts) TD_TRY(td_direct_chosen(p, call->bytes, all, &directly));
        return directly ? td_direct_alltoall(p) : td_staged_alltoall(p);
    case TD_REDUCE_SCATTER:
        return td_direct_folds(p) ? td_direct_reduce_scatter(p) : td_staged_reduce_scatter(p);
    case TD_REDUCE:
    case TD_ALLREDUCE: return reduce(p);
    case TD_SCAN: return td_staged_scan(p);
    case TD_PATTERNS: break;
    }
    return td_fail(TD_ERR_INTERNAL, "no such pattern");
}

/* What another rank may still be writing to. */
static void keep_result(const td_place *p)
{
    const td_call *c = p->call;
    bool is_put = c->pattern == TD_BROADCAST || c->pattern == TD_SCATTER ||
                  c->pattern == TD_GATHER || c->pattern == TD_REDUCE || c->pattern == TD_ALLREDUCE;
    if (!is_put || !td_place_takes(p, p->rank)) return;
    size_t bytes = c->pattern == TD_GATHER    ? td_place_all(c, p->size)
                   : c->pattern == TD_SCATTER ? td_call_part(c, p->rank)
                                              : c->bytes;
    p->comm->adrift = true;
    td_registered_adrift(c->out, bytes);
}

td_status td_shared_run(td_comm *comm, const td_call *call)
{
    td_place p = {.comm = comm, .call = call, .rank = comm->rank, .size = comm->size};
    TD_TRY(td_meet_of(comm, &p.meet));
    td_meet_begin(p.meet);
    td_status status = run(&p);
    if (status == TD_OK) status = td_direct_choice_ends(&p);
    if (status == TD_OK)
        td_meet_learn(p.meet, call->pattern);
    else if (td_meet_withdraw(p.meet))
        keep_result(&p);
    return status;
}
