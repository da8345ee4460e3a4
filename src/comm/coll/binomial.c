/* Broadcast and reduction along a binomial tree. A broadcast numbers ranks from the root, a
 * reduction from 0; a rank's parent is found by clearing its lowest set bit.
 * Cost: n - 1 messages of all bytes, ceil(log2 n) of them one after the other, and one more for a
 * reduction to another root than 0.
 * Order of a reduction: a rank adds its children's sums to its own value in the order 1, 2, 4, ...:
 * the tree of math/tree.h with ranks as leaves, whatever the root.
 * Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in
 * MPICH", 2005. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

static td_status broadcast(td_comm *comm, void *data, size_t bytes, int root)
{
    int n = comm->size, me = (comm->rank - root + n) % n, bit = 1;
    while (bit < n && !(me & bit)) bit <<= 1;
    if (me) {
        int parent = ((me & ~bit) + root) % n;
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, data, bytes, parent, TD_TAG_COLLECTIVE));
    }
    for (bit >>= 1; bit; bit >>= 1)
        if (me + bit < n) {
            int child = (me + bit + root) % n;
            TD_TRY(td_comm_exchange(comm, data, bytes, child, NULL, 0, -1, TD_TAG_COLLECTIVE));
        }
    return TD_OK;
}

td_status td_binomial_broadcast(td_comm *comm, const td_call *call)
{
    /* The root gives from `in`, which nobody writes there. */
    void *data = comm->rank == call->root ? (void *)(uintptr_t)call->in : call->out;
    return broadcast(comm, data, call->bytes, call->root);
}

/* Up the tree of rank 0; sum and other have room for the bytes, sum holds this rank's own. */
static td_status reduce_to_first(td_comm *comm, const td_call *call, char *sum, char *other)
{
    for (int bit = 1; bit < comm->size; bit <<= 1) {
        int parent = comm->rank & ~bit, child = comm->rank + bit;
        if (comm->rank & bit)
            return td_comm_exchange(comm, sum, call->bytes, parent, NULL, 0, -1, TD_TAG_COLLECTIVE);
        if (child >= comm->size) continue;
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, other, call->bytes, child, TD_TAG_COLLECTIVE));
        td_reduction_combine(&call->how, sum, other, call->count, sum);
    }
    return TD_OK;
}

td_status td_binomial_reduce(td_comm *comm, const td_call *call)
{
    size_t bytes = call->bytes;
    int root = call->root;
    char *room = td_malloc(2 * bytes), *sum = room;
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", bytes);
    td_status status = TD_OK;
    if (bytes) memcpy(sum, call->in, bytes);
    TD_GOTO(reduce_to_first(comm, call, sum, room + bytes));
    if (root != 0 && comm->rank == 0)
        TD_GOTO(td_comm_exchange(comm, sum, bytes, root, NULL, 0, -1, TD_TAG_COLLECTIVE));
    if (root != 0 && comm->rank == root)
        TD_GOTO(td_comm_exchange(comm, NULL, 0, -1, sum, bytes, 0, TD_TAG_COLLECTIVE));
    if (comm->rank == root && bytes) memcpy(call->out, sum, bytes);
out:
    td_free(room);
    return status;
}

td_status td_binomial_allreduce(td_comm *comm, const td_call *call)
{
    td_call up = *call;
    up.root = 0;
    TD_TRY(td_binomial_reduce(comm, &up));
    return broadcast(comm, call->out, call->bytes, 0);
}
