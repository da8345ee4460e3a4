/* Round a ring, in which each rank passes on what it got last.
 *
 * All-gather: parts, n - 1 times. Cost: n - 1 messages a rank, all bytes but its own. Source:
 * Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH",
 * 2005, section 4.1.
 *
 * All-reduce, of whole numbers, whose sums have no order: the vector in n parts; each goes round
 * once while all add theirs, and once more as the result. Cost: 2 (n - 1) messages a rank,
 * 2 (n - 1)/n of the bytes, the least possible. Source: Patarasuk, Yuan, "Bandwidth optimal
 * all-reduce algorithms for clusters of workstations", 2009. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

td_status td_ring_allgather(td_comm *comm, const td_call *call)
{
    int n = comm->size, next = (comm->rank + 1) % n, previous = (comm->rank - 1 + n) % n;
    char *out = call->out;
    size_t own = td_call_part(call, comm->rank);
    char *at = out + td_call_offset(call, comm->rank);
    if (own && call->in != at) td_kernels_best()->copy(own, call->in, at);
    for (int step = 0; step < n - 1; step++) {
        int give = (comm->rank - step + n) % n, take = (comm->rank - step - 1 + n) % n;
        td_status status =
            td_comm_exchange(comm, out + td_call_offset(call, give), td_call_part(call, give), next,
                             out + td_call_offset(call, take), td_call_part(call, take), previous,
                             TD_TAG_COLLECTIVE);
        if (status != TD_OK) return status;
    }
    return TD_OK;
}

typedef struct part {
    size_t at, bytes;
} part;

static part part_of(const td_comm *comm, const td_call *call, int k)
{
    size_t n = (size_t)comm->size, r = (size_t)(k + comm->size) % n, width = call->how.width;
    size_t lo = r * call->count / n, hi = (r + 1) * call->count / n;
    return (part){lo * width, (hi - lo) * width};
}

td_status td_ring_allreduce(td_comm *comm, const td_call *call)
{
    int n = comm->size, me = comm->rank, next = (me + 1) % n, previous = (me - 1 + n) % n;
    char *mine = call->out, *room = td_malloc((call->count / (size_t)n + 1) * call->how.width);
    td_status status = TD_OK;
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", call->bytes);
    if (call->bytes && call->in != call->out)
        td_kernels_best()->copy(call->bytes, call->in, call->out);
    for (int step = 0; step < 2 * (n - 1); step++) {
        bool adds = step < n - 1;
        part give = part_of(comm, call, me - step + 2 * n),
             take = part_of(comm, call, me - step - 1 + 2 * n);
        char *to = mine + take.at;
        TD_GOTO(td_comm_exchange(comm, mine + give.at, give.bytes, next, adds ? room : to,
                                 take.bytes, previous, TD_TAG_COLLECTIVE));
        if (adds) td_reduction_combine(&call->how, to, room, take.bytes / call->how.width, to);
    }
out:
    td_free(room);
    return status;
}
