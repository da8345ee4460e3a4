/* Equal parts by doubling distances, on any number of ranks.
 *
 * All-gather: in step k each rank gives all parts that it has (or the last ones missing) to the
 * rank 2^k below it. Parts are kept from this rank's on, and turned into rank order at the end.
 * Cost: ceil(log2 n) messages a rank, all bytes but its own.
 *
 * All-to-all: part i is for the rank i above; in step k all parts whose i has bit k move on to the
 * rank 2^k above. Cost: ceil(log2 n) messages a rank, each of about half of all parts.
 *
 * Source: Bruck, Ho, Kipnis, Upfal, Weathersby, "Efficient algorithms for
 * all-to-all communications in multiport message-passing systems", 1997. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_bruck_allgather(td_comm *comm, const td_call *call)
{
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

/* The parts whose number has the bit, one behind the other; returns how many. */
static size_t pick(char *parts, size_t n, size_t bytes, size_t bit, char *picked, bool back)
{
    size_t k = 0;
    for (size_t i = bit; i < n; i++)
        if (i & bit) {
            char *part = parts + i * bytes, *at = picked + k++ * bytes;
            memcpy(back ? part : at, back ? at : part, bytes);
        }
    return k;
}

td_status td_bruck_alltoall(td_comm *comm, const td_call *call)
{
    size_t n = (size_t)comm->size, me = (size_t)comm->rank, bytes = call->bytes, all, room;
    if (!td_mul(n, bytes, &all) || !td_mul(all, 2, &room))
        return td_fail(TD_ERR_ARG, "all-to-all: %zu parts of %zu bytes are more than memory holds",
                       n, bytes);
    char *parts = td_malloc(room);
    if (!parts) return td_fail(TD_ERR_NOMEM, "no memory for an all-to-all");
    char *give = parts + all, *take = give + (n + 1) / 2 * bytes;
    td_status status = TD_OK;
    const char *in = call->in;
    char *out = call->out;
    if (bytes) {
        memcpy(parts, in + me * bytes, (n - me) * bytes);
        memcpy(parts + (n - me) * bytes, in, me * bytes);
    }
    for (size_t bit = 1; bit < n; bit *= 2) {
        size_t count = pick(parts, n, bytes, bit, give, false);
        TD_GOTO(td_comm_exchange(comm, give, count * bytes, (int)((me + bit) % n), take,
                                 count * bytes, (int)((me + n - bit) % n), TD_TAG_COLLECTIVE));
        pick(parts, n, bytes, bit, take, true);
    }
    for (size_t i = 0; i < n && bytes; i++)
        memcpy(out + (me + n - i) % n * bytes, parts + i * bytes, bytes);
out:
    td_free(parts);
    return status;
}
