/* Gather, and reduce-scatter by pairwise exchange: in step k each rank sends the part of the rank k
 * above it and receives its own part from the rank k below.
 * Cost of reduce-scatter: n - 1 messages a rank, all bytes but its own part.
 * Order: the parts are kept and then combined along the tree with ranks as leaves. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_coll_gather(td_comm *comm, const void *in, size_t bytes, void *out, int root)
{
    if (comm->rank != root)
        return td_comm_exchange(comm, in, bytes, root, NULL, 0, -1, TD_TAG_COLLECTIVE);
    char *to = out;
    for (int r = 0; r < comm->size; r++) {
        if (r != root)
            TD_TRY(td_comm_exchange(comm, NULL, 0, -1, to + (size_t)r * bytes, bytes, r,
                                    TD_TAG_COLLECTIVE));
        else if (bytes)
            memmove(to + (size_t)r * bytes, in, bytes);
    }
    return TD_OK;
}

td_status td_coll_reduce_scatter(td_comm *comm, const void *in, void *out, const size_t *counts,
                                 td_type type, td_op op)
{
    int n = comm->size;
    size_t width = td_type_size(type), own = counts[comm->rank] * width;
    td_status status = TD_OK;
    size_t *at = td_calloc((size_t)n, sizeof *at);
    size_t all;
    char *parts = td_mul(own, (size_t)n, &all) ? td_malloc(all) : NULL;
    if (!at || !parts) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a reduce-scatter");
        goto out;
    }
    for (int r = 1; r < n; r++) at[r] = at[r - 1] + counts[r - 1] * width;
    const char *from = in;
    if (own) memcpy(parts + (size_t)comm->rank * own, from + at[comm->rank], own);
    for (int step = 1; step < n; step++) {
        int to = (comm->rank + step) % n, source = (comm->rank - step + n) % n;
        TD_GOTO(td_comm_exchange(comm, from + at[to], counts[to] * width, to,
                                 parts + (size_t)source * own, own, source, TD_TAG_COLLECTIVE));
    }
    for (int bit = 1; bit < n; bit <<= 1)
        for (int r = 0; r + bit < n; r += 2 * bit)
            td_coll_combine(parts + (size_t)r * own, parts + (size_t)(r + bit) * own,
                            counts[comm->rank], type, op);
    if (own) memcpy(out, parts, own);
out:
    td_free(parts);
    td_free(at);
    return status;
}
