/* All-gather round a ring: n - 1 times, each rank passes on the part that it got last.
 * Cost: n - 1 messages a rank, all bytes but its own. Source: Thakur, Rabenseifner, Gropp,
 * "Optimization of collective communication operations in MPICH", 2005, section 4.1. */
#include "comm/coll/coll.h"

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
