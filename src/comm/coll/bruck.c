/* All-gather of equal parts by doubling distances, on any number of ranks: in step k each rank
 * gives all parts that it has (or the last ones missing) to the rank 2^k below it. Parts are kept
 * from this rank's on, and turned into rank order at the end. Cost: ceil(log2 n) messages a rank,
 * all bytes but its own. Source: Bruck, Ho, Kipnis, Upfal, Weathersby, "Efficient algorithms for
 * all-to-all communications in multiport message-passing systems", 1997. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_bruck_allgather(td_comm *comm, const td_call *call)
{
    if (call->parts) return td_ring_allgather(comm, call); /* parts that differ */
    size_t n = (size_t)comm->size, me = (size_t)comm->rank, bytes = call->bytes, all;
    char *room = td_mul(n, bytes, &all) ? td_malloc(all) : NULL, *out = call->out;
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for an all-gather");
    td_status status = TD_OK;
    if (bytes) memcpy(room, call->in, bytes);
    for (size_t have = 1; have < n; have *= 2) {
        size_t more = have < n - have ? have : n - have;
        TD_GOTO(td_comm_exchange(comm, room, more * bytes, (int)((me + n - have) % n),
                                 room + have * bytes, more * bytes, (int)((me + have) % n),
                                 TD_TAG_COLLECTIVE));
    }
    if (bytes) {
        memcpy(out + me * bytes, room, (n - me) * bytes);
        memcpy(out, room + (n - me) * bytes, me * bytes);
    }
out:
    td_free(room);
    return status;
}
