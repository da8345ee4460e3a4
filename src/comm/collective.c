/* The collectives as users call them: arguments are checked and made into a td_call. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

/* --- checks --- */

static td_status check_buffer(const char *what, const void *buffer, size_t bytes)
{
    if (bytes > (size_t)PTRDIFF_MAX)
        return td_fail(TD_ERR_ARG, "%s: %zu bytes are more than memory holds", what, bytes);
    if (bytes && !buffer) return td_fail(TD_ERR_ARG, "%s: no buffer for %zu bytes", what, bytes);
    return TD_OK;
}

static td_status check_apart(const char *what, const void *in, size_t in_bytes, const void *out,
                             size_t out_bytes)
{
    const char *a = in, *b = out;
    if (!in_bytes || !out_bytes || a + in_bytes <= b || b + out_bytes <= a) return TD_OK;
    return td_fail(TD_ERR_ARG, "%s: the buffers of %zu bytes in and %zu bytes out overlap", what,
                   in_bytes, out_bytes);
}

/* All parts together, SIZE_MAX where that is more than memory holds. */
static size_t sum_of(const td_comm *comm, const size_t *parts, size_t each, size_t unit)
{
    size_t all = 0;
    for (int r = 0; r < comm->size; r++)
        if (!td_add(all, parts ? parts[r] : each, &all)) return SIZE_MAX;
    return td_mul(all, unit, &all) ? all : SIZE_MAX;
}

/* Bytes that this rank reads and writes. */
typedef struct extent {
    size_t in, out;
    size_t in_place; /* where `in` may lie within out, or out within `in`; SIZE_MAX: nowhere */
    bool out_in_in;
} extent;

static td_status check_extent(const char *what, const td_call *call, extent e)
{
    TD_TRY(check_buffer(what, call->in, e.in));
    TD_TRY(check_buffer(what, call->out, e.out));
    const char *inner = e.out_in_in ? call->out : call->in,
               *outer = e.out_in_in ? call->in : call->out;
    if (e.in && e.out && e.in_place != SIZE_MAX && inner == outer + e.in_place) return TD_OK;
    return check_apart(what, call->in, e.in, call->out, e.out);
}

static td_status make_reduction(const char *what, const td_collective *c, td_reduction *out)
{
    *out = (td_reduction){.type = c->type, .op = c->op, .width = td_type_size(c->type)};
    if (c->combine) {
        *out = (td_reduction){.width = c->width, .combine = c->combine, .user = c->user};
        if (c->width < 1 || c->width > 2048)
            return td_fail(TD_ERR_ARG, "%s: elements of %zu bytes; 1 to 2048 are possible", what,
                           c->width);
        return TD_OK;
    }
    if (!out->width) return td_fail(TD_ERR_ARG, "%s: unknown type %d", what, (int)c->type);
    if ((unsigned)c->op > TD_PROD)
        return td_fail(TD_ERR_ARG, "%s: unknown operation %d", what, (int)c->op);
    return TD_OK;
}

static td_status make_reducing(const td_comm *comm, const td_collective *c, td_call *call,
                               const char *what)
{
    extent e = {.in_place = 0};
    TD_TRY(make_reduction(what, c, &call->how));
    call->unit = call->how.width;
    if (c->pattern == TD_REDUCE_SCATTER) {
        if (!c->parts) return td_fail(TD_ERR_ARG, "%s: no counts", what);
        call->parts = c->parts;
        call->bytes = e.in = sum_of(comm, c->parts, 0, call->unit);
        call->count = call->bytes / call->unit;
        e.in_place = SIZE_MAX;
        if (e.in != SIZE_MAX) e.out = td_call_part(call, comm->rank);
    } else {
        call->count = c->count;
        if (!td_mul(c->count, call->unit, &call->bytes)) call->bytes = SIZE_MAX;
        e.in = call->bytes;
        e.out = c->pattern == TD_REDUCE && comm->rank != c->root ? 0 : call->bytes;
    }
    return check_extent(what, call, e);
}

static td_status make_moving(const td_comm *comm, const td_collective *c, td_call *call,
                             const char *what)
{
    bool at_root = comm->rank == c->root;
    extent e = {.in_place = SIZE_MAX};
    call->unit = 1;
    call->bytes = c->bytes;
    if (c->pattern == TD_BARRIER) return TD_OK;
    if (c->pattern == TD_BROADCAST) {
        (at_root ? &e.in : &e.out)[0] = c->bytes;
        return check_extent(what, call, e);
    }
    size_t all = sum_of(comm, c->parts, c->bytes, 1);
    if (all > (size_t)PTRDIFF_MAX) /* also where this rank has but a part */
        return td_fail(TD_ERR_ARG, "%s: the parts of all ranks are more than memory holds", what);
    size_t own = c->parts ? c->parts[comm->rank] : c->bytes;
    call->parts = c->parts;
    if (c->parts) call->bytes = all;
    e.in_place = td_call_offset(call, comm->rank);
    switch (c->pattern) {
    case TD_SCATTER: e.in = at_root ? all : 0, e.out = own, e.out_in_in = true; break;
    case TD_ALLTOALL:
        if (!c->parts != !c->takes) return td_fail(TD_ERR_ARG, "%s: no sizes", what);
        if (c->parts && c->takes[comm->rank] != own)
            return td_fail(TD_ERR_ARG, "%s: rank %d gives itself %zu bytes and takes %zu", what,
                           comm->rank, own, c->takes[comm->rank]);
        call->takes = c->takes;
        e.in = all, e.out = sum_of(comm, c->takes, c->bytes, 1), e.in_place = SIZE_MAX;
        break;
    default: /* gather, all-gather */
        e.in = own, e.out = c->pattern == TD_GATHER && !at_root ? 0 : all;
        break;
    }
    return check_extent(what, call, e);
}

td_status td_call_make(const td_comm *comm, const td_collective *c, td_call *call)
{
    if (!c) return td_fail(TD_ERR_ARG, "a collective: NULL says none");
    if ((unsigned)c->pattern >= TD_PATTERNS)
        return td_fail(TD_ERR_ARG, "unknown pattern %d", (int)c->pattern);
    const char *what = td_does_names[c->pattern];
    TD_TRY(td_comm_check_open(comm, what));
    *call = (td_call){.pattern = c->pattern, .in = c->in, .out = c->out};
    if (c->pattern == TD_BROADCAST || c->pattern == TD_SCATTER || c->pattern == TD_GATHER ||
        c->pattern == TD_REDUCE) {
        if (c->root < 0 || c->root >= comm->size)
            return td_fail(TD_ERR_ARG, "%s: root %d is not one of 0..%d", what, c->root,
                           comm->size - 1);
        call->root = c->root;
    }
    return c->pattern >= TD_REDUCE ? make_reducing(comm, c, call, what)
                                   : make_moving(comm, c, call, what);
}

td_status td_call_run(td_comm *comm, const td_call *call)
{
    bool reduces = call->pattern >= TD_REDUCE && !call->how.combine;
    struct td_record *record =
        td_comm_begin(comm, &(td_note){(int)call->pattern, call->bytes,
                                       reduces ? (int)call->how.type : -1,
                                       reduces ? (int)call->how.op : -1, call->root});
    td_status status = td_coll_run(comm, call);
    if (status != TD_OK) td_comm_give_up(comm, -1);
    td_comm_record_due(comm);
    return td_comm_end(record, status);
}

td_status td_comm_run(td_comm *comm, const td_collective *what)
{
    td_call call;
    TD_TRY(td_call_make(comm, what, &call));
    return td_call_run(comm, &call);
}

/* --- the calls --- */

#define RUN(...) td_comm_run(comm, &(td_collective){__VA_ARGS__})

td_status td_comm_barrier(td_comm *comm)
{
    return RUN(.pattern = TD_BARRIER);
}

td_status td_comm_broadcast(td_comm *comm, void *data, size_t bytes, int root)
{
    bool at_root = comm && comm->rank == root;
    return RUN(.pattern = TD_BROADCAST, .in = at_root ? data : NULL, .out = at_root ? NULL : data,
               .bytes = bytes, .root = root);
}

td_status td_comm_scatter(td_comm *comm, const void *in, size_t bytes, void *out, int root)
{
    return RUN(.pattern = TD_SCATTER, .in = in, .out = out, .bytes = bytes, .root = root);
}

td_status td_comm_gather(td_comm *comm, const void *in, size_t bytes, void *out, int root)
{
    return RUN(.pattern = TD_GATHER, .in = in, .out = out, .bytes = bytes, .root = root);
}

td_status td_comm_allgather(td_comm *comm, const void *in, size_t bytes, void *out)
{
    return RUN(.pattern = TD_ALLGATHER, .in = in, .out = out, .bytes = bytes);
}

td_status td_comm_scatterv(td_comm *comm, const void *in, const size_t *bytes, void *out, int root)
{
    if (!bytes) return td_fail(TD_ERR_ARG, "scatter: no sizes");
    return RUN(.pattern = TD_SCATTER, .in = in, .out = out, .parts = bytes, .root = root);
}

td_status td_comm_gatherv(td_comm *comm, const void *in, const size_t *bytes, void *out, int root)
{
    if (!bytes) return td_fail(TD_ERR_ARG, "gather: no sizes");
    return RUN(.pattern = TD_GATHER, .in = in, .out = out, .parts = bytes, .root = root);
}

td_status td_comm_allgatherv(td_comm *comm, const void *in, const size_t *bytes, void *out)
{
    if (!bytes) return td_fail(TD_ERR_ARG, "all-gather: no sizes");
    return RUN(.pattern = TD_ALLGATHER, .in = in, .out = out, .parts = bytes);
}

td_status td_comm_alltoall(td_comm *comm, const void *in, size_t bytes, void *out)
{
    return RUN(.pattern = TD_ALLTOALL, .in = in, .out = out, .bytes = bytes);
}

td_status td_comm_alltoallv(td_comm *comm, const void *in, const size_t *give, void *out,
                            const size_t *take)
{
    if (!give || !take) return td_fail(TD_ERR_ARG, "all-to-all: no sizes");
    return RUN(.pattern = TD_ALLTOALL, .in = in, .out = out, .parts = give, .takes = take);
}

td_status td_comm_reduce(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                         td_op op, int root)
{
    return RUN(.pattern = TD_REDUCE, .in = in, .out = out, .count = count, .type = type, .op = op,
               .root = root);
}

td_status td_comm_allreduce(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                            td_op op)
{
    return RUN(.pattern = TD_ALLREDUCE, .in = in, .out = out, .count = count, .type = type,
               .op = op);
}

td_status td_comm_reduce_scatter(td_comm *comm, const void *in, void *out, const size_t *counts,
                                 td_type type, td_op op)
{
    return RUN(.pattern = TD_REDUCE_SCATTER, .in = in, .out = out, .parts = counts, .type = type,
               .op = op);
}

td_status td_comm_scan(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                       td_op op)
{
    return RUN(.pattern = TD_SCAN, .in = in, .out = out, .count = count, .type = type, .op = op);
}

#define RUN_BY(...)                                                                                \
    combine ? RUN(__VA_ARGS__, .width = width, .combine = combine, .user = user)                   \
            : td_fail(TD_ERR_ARG, "a reduction: no operation given")

td_status td_comm_reduce_by(td_comm *comm, const void *in, void *out, size_t count, size_t width,
                            td_combine_fn *combine, void *user, int root)
{
    return RUN_BY(.pattern = TD_REDUCE, .in = in, .out = out, .count = count, .root = root);
}

td_status td_comm_allreduce_by(td_comm *comm, const void *in, void *out, size_t count, size_t width,
                               td_combine_fn *combine, void *user)
{
    return RUN_BY(.pattern = TD_ALLREDUCE, .in = in, .out = out, .count = count);
}

td_status td_comm_reduce_scatter_by(td_comm *comm, const void *in, void *out, const size_t *counts,
                                    size_t width, td_combine_fn *combine, void *user)
{
    return RUN_BY(.pattern = TD_REDUCE_SCATTER, .in = in, .out = out, .parts = counts);
}

td_status td_comm_scan_by(td_comm *comm, const void *in, void *out, size_t count, size_t width,
                          td_combine_fn *combine, void *user)
{
    return RUN_BY(.pattern = TD_SCAN, .in = in, .out = out, .count = count);
}
