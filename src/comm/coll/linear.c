/* One rank and each of the others in turn: gather, scatter; scan, each with the next ones.
 * Cost: gather and scatter n - 1 messages at the root, each of one part; scan up to n - 1 messages
 * a rank, each of the whole vector, in n - 1 steps. Source: Chan, Heimlich, Purkayastha, van de
 * Geijn, "Collective communication: theory, practice, and experience", 2007. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

#include <string.h>

td_status td_linear_gather(td_comm *comm, const td_call *call)
{
    size_t own = td_call_part(call, comm->rank);
    if (comm->rank != call->root)
        return td_comm_exchange(comm, call->in, own, call->root, NULL, 0, -1, TD_TAG_COLLECTIVE);
    char *to = call->out;
    for (int r = 0; r < comm->size; to += td_call_part(call, r++)) {
        if (r != call->root)
            TD_TRY(td_comm_exchange(comm, NULL, 0, -1, to, td_call_part(call, r), r,
                                    TD_TAG_COLLECTIVE));
        else if (own && to != call->in)
            td_kernels_best()->copy(own, call->in, to);
    }
    return TD_OK;
}

td_status td_linear_scatter(td_comm *comm, const td_call *call)
{
    size_t own = td_call_part(call, comm->rank);
    if (comm->rank != call->root)
        return td_comm_exchange(comm, NULL, 0, -1, call->out, own, call->root, TD_TAG_COLLECTIVE);
    const char *from = call->in;
    for (int r = 0; r < comm->size; from += td_call_part(call, r++)) {
        if (r != call->root)
            TD_TRY(td_comm_exchange(comm, from, td_call_part(call, r), r, NULL, 0, -1,
                                    TD_TAG_COLLECTIVE));
        else if (own && from != call->out)
            td_kernels_best()->copy(own, from, call->out);
    }
    return TD_OK;
}

/* Parts travel, not running results: half types are rounded once, as in shared memory. */
td_status td_chain_scan(td_comm *comm, const td_call *call)
{
    size_t n = (size_t)comm->rank + 1, all;
    const void **part = td_calloc(n, sizeof *part);
    char *room = td_mul(n, call->bytes, &all) ? td_malloc(all) : NULL;
    td_status status = TD_OK;
    if (!part || !room) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a scan");
        goto out;
    }
    for (size_t r = 0; r < n; r++) part[r] = room + r * call->bytes;
    if (call->bytes) memcpy(room + (n - 1) * call->bytes, call->in, call->bytes);
    for (int k = 1; k < comm->size; k++) { /* every part goes to all above it */
        int to = comm->rank + k < comm->size ? comm->rank + k : -1;
        int from = comm->rank - k; /* below 0: nobody */
        char *at = from < 0 ? NULL : room + (size_t)from * call->bytes;
        TD_GOTO(td_comm_exchange(comm, part[comm->rank], call->bytes, to, at, call->bytes,
                                 from < 0 ? -1 : from, TD_TAG_COLLECTIVE));
    }
    td_reduction_chain(&call->how, part, (int)n, call->count, call->out);
out:
    td_free(room);
    td_free(part);
    return status;
}
