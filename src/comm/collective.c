/* The collectives as users call them: arguments are checked and made into a td_call. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

void td_comm_begin(td_comm *comm, const char *operation)
{
    comm->operation = operation;
    comm->sequence++;
}

static td_status check_buffer(const char *what, const void *buffer, size_t bytes)
{
    if (bytes && !buffer) return td_fail(TD_ERR_ARG, "%s: no buffer for %zu bytes", what, bytes);
    if (bytes > (size_t)PTRDIFF_MAX)
        return td_fail(TD_ERR_ARG, "%s: %zu bytes are more than memory holds", what, bytes);
    return TD_OK;
}

static td_status check_root(const td_comm *comm, const char *what, int root)
{
    if (root >= 0 && root < comm->size) return TD_OK;
    return td_fail(TD_ERR_ARG, "%s: root %d is not one of 0..%d", what, root, comm->size - 1);
}

/* All parts together, SIZE_MAX where that is more than memory holds. */
static size_t sum_of(const td_comm *comm, const size_t *parts, size_t each)
{
    size_t all = 0;
    for (int r = 0; r < comm->size; r++)
        if (!td_add(all, parts ? parts[r] : each, &all)) return SIZE_MAX;
    return all;
}

static td_status check_apart(const char *what, const void *in, size_t in_bytes, const void *out,
                             size_t out_bytes)
{
    const char *a = in, *b = out;
    if (!in_bytes || !out_bytes || a + in_bytes <= b || b + out_bytes <= a) return TD_OK;
    return td_fail(TD_ERR_ARG, "%s: the buffers of %zu bytes in and %zu bytes out overlap", what,
                   in_bytes, out_bytes);
}

/* Checks what each pattern reads and writes at this rank, and runs it. Parts at a root, or at all,
 * are `all` bytes together, this rank's is `own` bytes. */
static td_status run_parts(td_comm *comm, td_call *call, size_t all, size_t own)
{
    const char *what = td_pattern_names[call->pattern];
    bool deals = call->pattern == TD_SCATTER, at_root = comm->rank == call->root;
    size_t in = deals ? (at_root ? all : 0) : own;
    size_t out = deals ? own : call->pattern == TD_GATHER && !at_root ? 0 : all;
    TD_TRY(check_root(comm, what, call->root));
    TD_TRY(check_buffer(what, call->in, in));
    TD_TRY(check_buffer(what, call->out, out));
    size_t at = td_call_offset(call, comm->rank);
    const char *mine = deals ? call->out : call->in, *whole = deals ? call->in : call->out;
    if (in && out && mine != whole + at) TD_TRY(check_apart(what, call->in, in, call->out, out));
    td_comm_begin(comm, what);
    return td_coll_run(comm, call);
}

td_status td_comm_barrier(td_comm *comm)
{
    td_comm_begin(comm, "barrier");
    return td_coll_run(comm, &(td_call){.pattern = TD_BARRIER});
}

td_status td_comm_broadcast(td_comm *comm, void *data, size_t bytes, int root)
{
    td_call call = {.pattern = TD_BROADCAST, .in = data, .out = data, .bytes = bytes, .root = root};
    TD_TRY(check_root(comm, "broadcast", root));
    TD_TRY(check_buffer("broadcast", data, bytes));
    td_comm_begin(comm, "broadcast");
    return td_coll_run(comm, &call);
}

td_status td_comm_scatter(td_comm *comm, const void *in, size_t bytes, void *out, int root)
{
    td_call call = {.pattern = TD_SCATTER, .in = in, .out = out, .bytes = bytes, .root = root};
    return run_parts(comm, &call, sum_of(comm, NULL, bytes), bytes);
}

td_status td_comm_gather(td_comm *comm, const void *in, size_t bytes, void *out, int root)
{
    td_call call = {.pattern = TD_GATHER, .in = in, .out = out, .bytes = bytes, .root = root};
    return run_parts(comm, &call, sum_of(comm, NULL, bytes), bytes);
}

td_status td_comm_allgather(td_comm *comm, const void *in, size_t bytes, void *out)
{
    td_call call = {.pattern = TD_ALLGATHER, .in = in, .out = out, .bytes = bytes};
    return run_parts(comm, &call, sum_of(comm, NULL, bytes), bytes);
}

static td_status run_sizes(td_comm *comm, td_pattern pattern, const void *in, const size_t *bytes,
                           void *out, int root)
{
    if (!bytes) return td_fail(TD_ERR_ARG, "%s: no sizes", td_pattern_names[pattern]);
    td_call call = {.pattern = pattern,
                    .in = in,
                    .out = out,
                    .parts = bytes,
                    .root = root,
                    .bytes = sum_of(comm, bytes, 0)};
    return run_parts(comm, &call, call.bytes, bytes[comm->rank]);
}

td_status td_comm_scatterv(td_comm *comm, const void *in, const size_t *bytes, void *out, int root)
{
    return run_sizes(comm, TD_SCATTER, in, bytes, out, root);
}

td_status td_comm_gatherv(td_comm *comm, const void *in, const size_t *bytes, void *out, int root)
{
    return run_sizes(comm, TD_GATHER, in, bytes, out, root);
}

td_status td_comm_allgatherv(td_comm *comm, const void *in, const size_t *bytes, void *out)
{
    return run_sizes(comm, TD_ALLGATHER, in, bytes, out, 0);
}

static td_status run_alltoall(td_comm *comm, td_call *call, size_t gives, size_t takes)
{
    TD_TRY(check_buffer("all-to-all", call->in, gives));
    TD_TRY(check_buffer("all-to-all", call->out, takes));
    TD_TRY(check_apart("all-to-all", call->in, gives, call->out, takes));
    call->pattern = TD_ALLTOALL;
    td_comm_begin(comm, "all-to-all");
    return td_coll_run(comm, call);
}

td_status td_comm_alltoall(td_comm *comm, const void *in, size_t bytes, void *out)
{
    size_t all = sum_of(comm, NULL, bytes);
    td_call call = {.in = in, .out = out, .bytes = bytes};
    return run_alltoall(comm, &call, all, all);
}

td_status td_comm_alltoallv(td_comm *comm, const void *in, const size_t *give, void *out,
                            const size_t *take)
{
    if (!give || !take) return td_fail(TD_ERR_ARG, "all-to-all: no sizes");
    if (give[comm->rank] != take[comm->rank])
        return td_fail(TD_ERR_ARG, "all-to-all: rank %d gives itself %zu bytes and takes %zu",
                       comm->rank, give[comm->rank], take[comm->rank]);
    td_call call = {.in = in, .out = out, .parts = give, .takes = take};
    return run_alltoall(comm, &call, sum_of(comm, give, 0), sum_of(comm, take, 0));
}

/* --- reductions --- */

static td_status by_type(td_pattern pattern, td_type type, td_op op, td_reduction *out)
{
    const char *what = td_pattern_names[pattern];
    *out = (td_reduction){.type = type, .op = op, .width = td_type_size(type)};
    if (!out->width) return td_fail(TD_ERR_ARG, "%s: unknown type %d", what, (int)type);
    if ((unsigned)op > TD_PROD)
        return td_fail(TD_ERR_ARG, "%s: unknown operation %d", what, (int)op);
    return TD_OK;
}

static td_status by_user(td_pattern pattern, size_t width, td_combine_fn *combine, void *user,
                         td_reduction *out)
{
    const char *what = td_pattern_names[pattern];
    *out = (td_reduction){.width = width, .combine = combine, .user = user};
    if (!combine) return td_fail(TD_ERR_ARG, "%s: no operation given", what);
    if (width < 1 || width > 2048)
        return td_fail(TD_ERR_ARG, "%s: elements of %zu bytes; 1 to 2048 are possible", what,
                       width);
    return TD_OK;
}

static td_status run_vector(td_comm *comm, td_pattern pattern, const void *in, void *out,
                            size_t count, const td_reduction *how, int root)
{
    const char *what = td_pattern_names[pattern];
    td_call call =
        {.pattern = pattern, .in = in, .out = out, .count = count, .root = root, .how = *how};
    bool writes = pattern != TD_REDUCE || comm->rank == root;
    TD_TRY(check_root(comm, what, root));
    if (!td_mul(count, how->width, &call.bytes))
        return td_fail(TD_ERR_ARG, "%s: %zu elements are more than memory holds", what, count);
    TD_TRY(check_buffer(what, in, call.bytes));
    if (writes) TD_TRY(check_buffer(what, out, call.bytes));
    if (writes && in != out) TD_TRY(check_apart(what, in, call.bytes, out, call.bytes));
    td_comm_begin(comm, what);
    return td_coll_run(comm, &call);
}

td_status td_comm_reduce(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                         td_op op, int root)
{
    td_reduction how;
    TD_TRY(by_type(TD_REDUCE, type, op, &how));
    return run_vector(comm, TD_REDUCE, in, out, count, &how, root);
}

td_status td_comm_allreduce(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                            td_op op)
{
    td_reduction how;
    TD_TRY(by_type(TD_ALLREDUCE, type, op, &how));
    return run_vector(comm, TD_ALLREDUCE, in, out, count, &how, 0);
}

td_status td_comm_scan(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                       td_op op)
{
    td_reduction how;
    TD_TRY(by_type(TD_SCAN, type, op, &how));
    return run_vector(comm, TD_SCAN, in, out, count, &how, 0);
}

td_status td_comm_reduce_by(td_comm *comm, const void *in, void *out, size_t count, size_t width,
                            td_combine_fn *combine, void *user, int root)
{
    td_reduction how;
    TD_TRY(by_user(TD_REDUCE, width, combine, user, &how));
    return run_vector(comm, TD_REDUCE, in, out, count, &how, root);
}

td_status td_comm_allreduce_by(td_comm *comm, const void *in, void *out, size_t count, size_t width,
                               td_combine_fn *combine, void *user)
{
    td_reduction how;
    TD_TRY(by_user(TD_ALLREDUCE, width, combine, user, &how));
    return run_vector(comm, TD_ALLREDUCE, in, out, count, &how, 0);
}

td_status td_comm_scan_by(td_comm *comm, const void *in, void *out, size_t count, size_t width,
                          td_combine_fn *combine, void *user)
{
    td_reduction how;
    TD_TRY(by_user(TD_SCAN, width, combine, user, &how));
    return run_vector(comm, TD_SCAN, in, out, count, &how, 0);
}

static td_status run_reduce_scatter(td_comm *comm, const void *in, void *out, const size_t *counts,
                                    const td_reduction *how)
{
    const char *what = "reduce-scatter";
    if (!counts) return td_fail(TD_ERR_ARG, "%s: no counts", what);
    size_t all = sum_of(comm, counts, 0), bytes;
    if (!td_mul(all, how->width, &bytes))
        return td_fail(TD_ERR_ARG, "%s: %zu elements are more than memory holds", what, all);
    size_t own = counts[comm->rank] * how->width;
    TD_TRY(check_buffer(what, in, bytes));
    TD_TRY(check_buffer(what, out, own));
    TD_TRY(check_apart(what, in, bytes, out, own));
    size_t *parts = td_calloc((size_t)comm->size, sizeof *parts);
    if (!parts) return td_fail(TD_ERR_NOMEM, "no memory for a reduce-scatter");
    for (int r = 0; r < comm->size; r++) parts[r] = counts[r] * how->width;
    td_call call = {.pattern = TD_REDUCE_SCATTER,
                    .in = in,
                    .out = out,
                    .bytes = bytes,
                    .parts = parts,
                    .how = *how,
                    .count = all};
    td_comm_begin(comm, what);
    td_status status = td_coll_run(comm, &call);
    td_free(parts);
    return status;
}

td_status td_comm_reduce_scatter(td_comm *comm, const void *in, void *out, const size_t *counts,
                                 td_type type, td_op op)
{
    td_reduction how;
    TD_TRY(by_type(TD_REDUCE_SCATTER, type, op, &how));
    return run_reduce_scatter(comm, in, out, counts, &how);
}

td_status td_comm_reduce_scatter_by(td_comm *comm, const void *in, void *out, const size_t *counts,
                                    size_t width, td_combine_fn *combine, void *user)
{
    td_reduction how;
    TD_TRY(by_user(TD_REDUCE_SCATTER, width, combine, user, &how));
    return run_reduce_scatter(comm, in, out, counts, &how);
}
