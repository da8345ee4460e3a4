/* Broadcast and reduction along a binomial tree. Ranks are numbered from the root; a rank's parent
 * is found by clearing its lowest set bit.
 * Cost: n - 1 messages of all bytes, ceil(log2 n) of them one after the other.
 * Order of a reduction: a rank adds its children's sums to its own value in the order 1, 2, 4, ...
 * which depends on the number of ranks and the root alone. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_coll_broadcast(td_comm *comm, void *data, size_t bytes, int root)
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

td_status td_coll_reduce(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                         td_op op, int root)
{
    int n = comm->size, me = (comm->rank - root + n) % n;
    size_t bytes = count * td_type_size(type);
    if (n == 1) {
        if (bytes && in != out) memmove(out, in, bytes);
        return TD_OK;
    }
    char *room = td_malloc(2 * bytes), *sum = room, *other = room + bytes;
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", bytes);
    td_status status = TD_OK;
    if (bytes) memcpy(sum, in, bytes);
    for (int bit = 1; bit < n; bit <<= 1) {
        if (me & bit) {
            int parent = ((me & ~bit) + root) % n;
            TD_GOTO(td_comm_exchange(comm, sum, bytes, parent, NULL, 0, -1, TD_TAG_COLLECTIVE));
            break;
        }
        if (me + bit >= n) continue;
        int child = (me + bit + root) % n;
        TD_GOTO(td_comm_exchange(comm, NULL, 0, -1, other, bytes, child, TD_TAG_COLLECTIVE));
        td_coll_combine(sum, other, count, type, op);
    }
    if (me == 0 && bytes) memcpy(out, sum, bytes);
out:
    td_free(room);
    return status;
}
