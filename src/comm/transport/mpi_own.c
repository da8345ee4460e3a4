/* MPI's own collectives, non-blocking so that every wait keeps its deadline. */
#include "comm/coll/coll.h"
#include "comm/transport/mpi_group.h"

#include <stdlib.h>

static MPI_Datatype type_of(const td_reduction *how)
{
    switch (how->type) {
    case TD_F32: return MPI_FLOAT;
    case TD_F64: return MPI_DOUBLE;
    case TD_I32: return MPI_INT32_T;
    case TD_I64: return MPI_INT64_T;
    case TD_U8: return MPI_UINT8_T;
    default: return MPI_DATATYPE_NULL;
    }
}

static MPI_Op op_of(const td_reduction *how)
{
    static const int ops = 4;
    MPI_Op all[] =
        {[TD_SUM] = MPI_SUM, [TD_MIN] = MPI_MIN, [TD_MAX] = MPI_MAX, [TD_PROD] = MPI_PROD};
    return how->combine || (int)how->op >= ops ? MPI_OP_NULL : all[how->op];
}

/* Parts as MPI has them: counts and where they begin, two times: [4][size] of ints. Where parts are
 * equal some patterns need the count alone, and then they may be more than 2 GiB together. */
static td_status make_parts(const td_comm *comm, const td_call *call, td_mpi_own_memory **out)
{
    size_t n = (size_t)comm->size, at = 0, from = 0, unit = call->unit ? call->unit : 1;
    *out = calloc(1, sizeof **out + 4 * n * sizeof(int));
    if (!*out) return td_mpi_library->fail(TD_ERR_NOMEM, "no memory for MPI's counts");
    int *parts = (*out)->parts;
    bool laid_out = call->parts || call->pattern == TD_SCATTER || call->pattern == TD_GATHER;
    if (call->pattern == TD_REDUCE_SCATTER) unit = 1; /* elements */
    for (size_t r = 0; r < n; r++) {
        size_t give = call->parts ? call->parts[r] * unit : call->bytes;
        size_t take = call->takes ? call->takes[r] : give;
        parts[r] = (int)give, parts[n + r] = (int)at;
        parts[2 * n + r] = (int)take, parts[3 * n + r] = (int)from;
        if (laid_out) at += give, from += take;
    }
    return TD_OK;
}

static const void *in_of(const td_call *call)
{
    return call->in && call->in == call->out ? MPI_IN_PLACE : call->in;
}

/* At one's own place in the root's buffer there is nothing to move. */
static bool in_place(const td_comm *comm, const td_call *call, const void *whole, const void *part)
{
    return whole && part == (const char *)whole + td_call_offset(call, comm->rank);
}

/* A group's own communicator, made when it is needed first (by all). */
static MPI_Comm own_comm(const td_comm *comm)
{
    td_mpi_group *g = comm->impl, *w = g->world;
    if (g->number < 0 || (g == w && comm->size == w->size)) return g->comm;
    if (g->own != MPI_COMM_NULL) return g->own;
    int *ranks = calloc((size_t)comm->size, sizeof *ranks);
    MPI_Group all, some;
    if (!ranks) return MPI_COMM_NULL;
    for (int r = 0; r < comm->size; r++) ranks[r] = td_mpi_peer(g, r);
    MPI_Comm_group(w->comm, &all);
    MPI_Group_incl(all, comm->size, ranks, &some);
    MPI_Comm_create_group(w->comm, some, g->number, &g->own);
    if (g->own != MPI_COMM_NULL) MPI_Comm_set_errhandler(g->own, MPI_ERRORS_RETURN);
    MPI_Group_free(&some);
    MPI_Group_free(&all);
    free(ranks);
    return g->own;
}

static int begin_reduction(MPI_Comm c, const td_comm *comm, const td_call *call,
                           MPI_Request *request, const int *parts)
{
    MPI_Datatype type = type_of(&call->how);
    MPI_Op op = op_of(&call->how);
    int count = (int)call->count;
    const void *in = in_of(call);
    switch (call->pattern) {
    case TD_REDUCE:
        if (comm->rank != call->root) in = call->in; /* in place is for the root */
        return MPI_Ireduce(in, call->out, count, type, op, call->root, c, request);
    case TD_ALLREDUCE: return MPI_Iallreduce(in, call->out, count, type, op, c, request);
    case TD_REDUCE_SCATTER:
        return MPI_Ireduce_scatter(call->in, call->out, parts, type, op, c, request);
    default: return MPI_Iscan(in, call->out, count, type, op, c, request);
    }
}

static int begin(const td_comm *comm, const td_call *call, MPI_Request *request, const int *parts)
{
    MPI_Comm c = own_comm(comm);
    size_t n = (size_t)comm->size;
    const int *give = parts, *give_at = parts + n, *take = parts + 2 * n, *take_at = parts + 3 * n;
    int root = call->root, own = parts[comm->rank];
    bool at_root = comm->rank == root;
    const void *in = call->in;
    void *out = call->out;
    if (c == MPI_COMM_NULL) return MPI_ERR_COMM;
    switch (call->pattern) {
    case TD_BARRIER: return MPI_Ibarrier(c, request);
    case TD_BROADCAST:
        return MPI_Ibcast(at_root ? (void *)(uintptr_t)in : out, (int)call->bytes, MPI_BYTE, root,
                          c, request);
    case TD_SCATTER:
        if (at_root && in_place(comm, call, in, out)) out = MPI_IN_PLACE;
        return MPI_Iscatterv(in, give, give_at, MPI_BYTE, out, own, MPI_BYTE, root, c, request);
    case TD_GATHER:
        if (at_root && in_place(comm, call, out, in)) in = MPI_IN_PLACE;
        return MPI_Igatherv(in, own, MPI_BYTE, out, give, give_at, MPI_BYTE, root, c, request);
    case TD_ALLGATHER:
        if (in_place(comm, call, out, in)) in = MPI_IN_PLACE;
        if (!call->parts) return MPI_Iallgather(in, own, MPI_BYTE, out, own, MPI_BYTE, c, request);
        return MPI_Iallgatherv(in, own, MPI_BYTE, out, give, give_at, MPI_BYTE, c, request);
    case TD_ALLTOALL:
        if (!call->parts) return MPI_Ialltoall(in, own, MPI_BYTE, out, own, MPI_BYTE, c, request);
        return MPI_Ialltoallv(in, give, give_at, MPI_BYTE, out, take, take_at, MPI_BYTE, c,
                              request);
    default: return begin_reduction(c, comm, call, request, parts);
    }
}

/* At most. */
static size_t bytes_of(const td_comm *comm, const td_call *call)
{
    bool whole = call->parts || call->pattern == TD_BROADCAST || call->pattern >= TD_REDUCE;
    return whole ? call->bytes : call->bytes * (size_t)comm->size;
}

td_status td_mpi_own(td_comm *comm, const td_call *call, td_request *request)
{
    td_mpi_own_memory *m = NULL;
    td_status status = make_parts(comm, call, &m);
    if (status != TD_OK) return status;
    m->in = call->in, m->out = call->out;
    m->in_bytes = m->out_bytes = bytes_of(comm, call);
    for (int r = 0; r < comm->size && call->takes; r++) m->out_bytes += call->takes[r];
    request->self = TD_MPI_OWN;
    request->native[1] = m;
    int code = begin(comm, call, td_mpi_native(request), m->parts);
    request->done = code != MPI_SUCCESS;
    if (code == MPI_SUCCESS) return TD_OK;
    free(m);
    return td_mpi_error(code, comm, -1);
}
