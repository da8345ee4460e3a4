/* All-gather round a ring: n - 1 times, each rank passes on the part that it got last.
 * Cost: n - 1 messages a rank, all bytes but its own. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_coll_allgatherv(td_comm *comm, const void *in, const size_t *bytes, void *out)
{
    int n = comm->size;
    char *to = out;
    size_t *at = td_calloc((size_t)n, sizeof *at);
    if (!at) return td_fail(TD_ERR_NOMEM, "no memory for an all-gather");
    td_status status = TD_OK;
    for (int r = 1; r < n; r++) at[r] = at[r - 1] + bytes[r - 1];
    if (bytes[comm->rank] && in != to + at[comm->rank])
        memmove(to + at[comm->rank], in, bytes[comm->rank]);
    int next = (comm->rank + 1) % n, previous = (comm->rank - 1 + n) % n;
    for (int step = 0; step < n - 1; step++) {
        int give = (comm->rank - step + n) % n, take = (comm->rank - step - 1 + n) % n;
        TD_GOTO(td_comm_exchange(comm, to + at[give], bytes[give], next, to + at[take], bytes[take],
                                 previous, TD_TAG_COLLECTIVE));
    }
out:
    td_free(at);
    return status;
}
