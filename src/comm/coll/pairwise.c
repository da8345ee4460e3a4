/* Pairwise exchange: in step k each rank gives to the rank k above it and takes from the rank k
 * below.
 * Cost: n - 1 messages a rank; all-to-all all bytes but its own part; reductions the same, and
 * all-reduce and reduce the results' way back. Order of reductions: parts are kept and folded along
 * the tree with ranks as leaves.
 * Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in
 * MPICH", 2005. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

td_status td_pairwise_alltoall(td_comm *comm, const td_call *call)
{
    size_t n = (size_t)comm->size, me = (size_t)comm->rank;
    size_t *give = td_calloc(2 * n + 2, sizeof *give), *take = give + n + 1; /* offsets */
    if (!give) return td_fail(TD_ERR_NOMEM, "no memory for an all-to-all");
    td_status status = TD_OK;
    for (size_t r = 0; r < n; r++) {
        give[r + 1] = give[r] + td_call_part(call, (int)r);
        take[r + 1] = take[r] + (call->takes ? call->takes[r] : call->bytes);
    }
    const char *in = call->in;
    char *out = call->out;
    if (give[me + 1] - give[me] != take[me + 1] - take[me]) {
        status =
            td_fail(TD_ERR_ARG, "rank %d gives %zu bytes to itself and takes %zu in all-to-all",
                    comm->world[me], give[me + 1] - give[me], take[me + 1] - take[me]);
        goto out;
    }
    if (give[me + 1] > give[me])
        td_kernels_best()->copy(give[me + 1] - give[me], in + give[me], out + take[me]);
    for (size_t k = 1; k < n; k++) {
        size_t to = (me + k) % n, from = (me + n - k) % n;
        TD_GOTO(td_comm_exchange(comm, in + give[to], give[to + 1] - give[to], (int)to,
                                 out + take[from], take[from + 1] - take[from], (int)from,
                                 TD_TAG_COLLECTIVE));
    }
out:
    td_free(give);
    return status;
}

td_status td_pairwise_reduce_scatter(td_comm *comm, const td_call *call)
{
    int n = comm->size;
    size_t own = td_call_part(call, comm->rank), all;
    td_status status = TD_OK;
    const void **part = td_calloc((size_t)n, sizeof *part);
    char *room = td_mul(own, (size_t)n, &all) ? td_malloc(all) : NULL;
    if (!part || !room) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a reduction");
        goto out;
    }
    const char *in = call->in;
    for (int r = 0; r < n; r++) part[r] = room + (size_t)r * own;
    part[comm->rank] = in + td_call_offset(call, comm->rank);
    for (int step = 1; step < n; step++) {
        int to = (comm->rank + step) % n, from = (comm->rank - step + n) % n;
        TD_GOTO(td_comm_exchange(comm, in + td_call_offset(call, to), td_call_part(call, to), to,
                                 room + (size_t)from * own, own, from, TD_TAG_COLLECTIVE));
    }
    td_reduction_fold(&call->how, part, n, own / call->how.width, call->out);
out:
    td_free(room);
    td_free(part);
    return status;
}

/* The vector in n parts; *parts is to be freed, *part holds this rank's result. */
static td_status reduce_parts(td_comm *comm, const td_call *call, size_t **parts, char **part)
{
    size_t n = (size_t)comm->size, width = call->how.width;
    *parts = td_calloc(n, sizeof **parts);
    *part = NULL;
    if (!*parts) return td_fail(TD_ERR_NOMEM, "no memory for a reduction");
    for (size_t r = 0; r < n; r++)
        (*parts)[r] = ((r + 1) * call->count / n - r * call->count / n) * width;
    *part = td_malloc((*parts)[comm->rank]);
    if (!*part) return td_fail(TD_ERR_NOMEM, "no memory for a reduction");
    td_call scatter = *call;
    scatter.parts = *parts, scatter.unit = 1;
    scatter.out = *part;
    return td_pairwise_reduce_scatter(comm, &scatter);
}

td_status td_pairwise_allreduce(td_comm *comm, const td_call *call)
{
    size_t *parts;
    char *part;
    td_status status = reduce_parts(comm, call, &parts, &part);
    td_call gather = {.in = part, .out = call->out, .parts = parts, .unit = 1};
    if (status == TD_OK) status = td_ring_allgather(comm, &gather);
    td_free(part);
    td_free(parts);
    return status;
}

td_status td_pairwise_reduce(td_comm *comm, const td_call *call)
{
    size_t *parts;
    char *part;
    td_status status = reduce_parts(comm, call, &parts, &part);
    td_call gather = {.in = part, .out = call->out, .parts = parts, .unit = 1, .root = call->root};
    if (status == TD_OK) status = td_linear_gather(comm, &gather);
    td_free(part);
    td_free(parts);
    return status;
}
