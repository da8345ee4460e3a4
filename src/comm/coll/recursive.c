/* All-reduce by recursive doubling and by recursive halving and doubling, on a power of two of
 * ranks. Partners are 1, 2, 4, ... apart in this order, so that sums follow the tree with ranks as
 * leaves.
 *
 * Doubling: in step k partners exchange what they have of the whole vector and both combine it.
 * Cost: log2 n messages a rank, of all bytes.
 * Halving and doubling: in step k a rank gives half of its segment to its partner and combines the
 * other half; then the steps go backward and bring the segments' results to all.
 * Cost: 2 log2 n messages a rank, 2 (n - 1) / n of the bytes.
 * Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in
 * MPICH", 2005; Rabenseifner, "Optimization of collective reduction operations", 2004. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

bool td_recursive_fits(const td_comm *comm)
{
    return (comm->size & (comm->size - 1)) == 0;
}

/* mine = both sides combined, the lower rank's on the left. */
static void combine(const td_comm *comm, const td_call *call, int partner, char *mine,
                    const char *theirs, size_t count)
{
    if (partner > comm->rank)
        td_reduction_combine(&call->how, mine, theirs, count, mine);
    else
        td_reduction_combine(&call->how, theirs, mine, count, mine);
}

td_status td_recursive_doubling(td_comm *comm, const td_call *call)
{
    char *other = td_malloc(call->bytes), *mine = call->out;
    if (!other) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", call->bytes);
    td_status status = TD_OK;
    if (call->bytes && call->in != call->out) td_kernels_best()->copy(call->bytes, call->in, mine);
    for (int bit = 1; bit < comm->size; bit <<= 1) {
        int partner = comm->rank ^ bit;
        TD_GOTO(td_comm_exchange(comm, mine, call->bytes, partner, other, call->bytes, partner,
                                 TD_TAG_COLLECTIVE));
        combine(comm, call, partner, mine, other, call->count);
    }
out:
    td_free(other);
    return status;
}

/* Elements [*lo, *hi) before a step: the half that this rank keeps, and the half that it gives. */
typedef struct halves {
    size_t keep_lo, keep_hi, give_lo, give_hi;
} halves;

static halves cut(const td_comm *comm, int partner, size_t lo, size_t hi)
{
    size_t middle = lo + (hi - lo) / 2;
    if (comm->rank < partner) return (halves){lo, middle, middle, hi};
    return (halves){middle, hi, lo, middle};
}

td_status td_recursive_halving(td_comm *comm, const td_call *call)
{
    enum { MOST_STEPS = 32 };
    size_t width = call->how.width, lo = 0, hi = call->count;
    char *mine = call->out, *other = td_malloc((call->count + 1) / 2 * width);
    halves step[MOST_STEPS];
    int steps = 0;
    td_status status = TD_OK;
    if (!other) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", call->bytes);
    if (call->bytes && call->in != call->out) td_kernels_best()->copy(call->bytes, call->in, mine);
    for (int bit = 1; bit < comm->size; bit <<= 1) {
        int partner = comm->rank ^ bit;
        halves h = step[steps++] = cut(comm, partner, lo, hi);
        TD_GOTO(td_comm_exchange(comm, mine + h.give_lo * width, (h.give_hi - h.give_lo) * width,
                                 partner, other, (h.keep_hi - h.keep_lo) * width, partner,
                                 TD_TAG_COLLECTIVE));
        lo = h.keep_lo, hi = h.keep_hi;
        combine(comm, call, partner, mine + lo * width, other, hi - lo);
    }
    for (int bit = comm->size >> 1; bit; bit >>= 1) {
        int partner = comm->rank ^ bit;
        halves h = step[--steps];
        TD_GOTO(td_comm_exchange(comm, mine + h.keep_lo * width, (h.keep_hi - h.keep_lo) * width,
                                 partner, mine + h.give_lo * width, (h.give_hi - h.give_lo) * width,
                                 partner, TD_TAG_COLLECTIVE));
    }
out:
    td_free(other);
    return status;
}
