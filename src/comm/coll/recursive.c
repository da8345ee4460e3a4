/* All-reduce by recursive doubling and by recursive halving and doubling; scan by doubling.
 * Partners are 1, 2, 4, ... apart in this order, so that on a power of two of ranks sums follow the
 * tree with ranks as leaves.
 *
 * Doubling: in step k partners exchange what they have of the whole vector and both combine it.
 * Cost: log2 n messages a rank, of all bytes.
 * Halving and doubling: in step k a rank gives half of its segment to its partner and combines the
 * other half; then the steps go backward and bring the segments' results to all.
 * Cost: 2 log2 n messages a rank, 2 (n - 1) / n of the bytes.
 * On another number of ranks, P the power of two below it, the first n - P pairs of neighbours are
 * folded: the second of a pair gives its vector to the first, which takes part for both and gives
 * it the result. Cost: two messages more, of all bytes; the order of sums is another than the
 * tree's.
 * Scan: partners exchange the sums of their blocks of 2^k ranks, and who is in the upper one puts
 * the lower one's ahead of its result. Cost: at most ceil(log2 n) messages a rank, of all bytes; on
 * another number of ranks those without a partner skip a step. The order is not the chain's.
 * Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations
 * in MPICH", 2005; Rabenseifner, "Optimization of collective reduction operations", 2004. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

bool td_recursive_fits(const td_comm *comm)
{
    return (comm->size & (comm->size - 1)) == 0;
}

bool td_recursive_folds(const td_comm *comm)
{
    return !td_recursive_fits(comm);
}

/* The ranks that take part, a power of two of them. */
typedef struct part {
    int size, surplus; /* surplus: pairs that are folded */
    int rank;          /* this rank's among those that take part, -1: its neighbour does for it */
} part;

static part part_of(const td_comm *comm)
{
    part p = {.size = 1};
    while (2 * p.size <= comm->size) p.size *= 2;
    p.surplus = comm->size - p.size;
    p.rank = comm->rank < 2 * p.surplus ? comm->rank / 2 : comm->rank - p.surplus;
    if (comm->rank < 2 * p.surplus && comm->rank % 2) p.rank = -1;
    return p;
}

static int rank_of(const part *p, int number)
{
    return number < p->surplus ? 2 * number : number + p->surplus;
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

/* other: [call->bytes] */
static td_status fold(td_comm *comm, const td_call *call, const part *p, char *other)
{
    int next = comm->rank + 1;
    if (call->bytes && call->in != call->out)
        td_kernels_best()->copy(call->bytes, call->in, call->out);
    if (p->rank < 0)
        return td_comm_exchange(comm, call->out, call->bytes, comm->rank - 1, NULL, 0, -1,
                                TD_TAG_COLLECTIVE);
    if (p->rank >= p->surplus) return TD_OK;
    TD_TRY(td_comm_exchange(comm, NULL, 0, -1, other, call->bytes, next, TD_TAG_COLLECTIVE));
    combine(comm, call, next, call->out, other, call->count);
    return TD_OK;
}

static td_status unfold(td_comm *comm, const td_call *call, const part *p)
{
    if (p->rank < 0)
        return td_comm_exchange(comm, NULL, 0, -1, call->out, call->bytes, comm->rank - 1,
                                TD_TAG_COLLECTIVE);
    if (p->rank >= p->surplus) return TD_OK;
    return td_comm_exchange(comm, call->out, call->bytes, comm->rank + 1, NULL, 0, -1,
                            TD_TAG_COLLECTIVE);
}

td_status td_recursive_doubling(td_comm *comm, const td_call *call)
{
    char *other = td_malloc(call->bytes), *mine = call->out;
    part p = part_of(comm);
    if (!other) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", call->bytes);
    td_status status = TD_OK;
    TD_GOTO(fold(comm, call, &p, other));
    for (int bit = 1; bit < p.size && p.rank >= 0; bit <<= 1) {
        int partner = rank_of(&p, p.rank ^ bit);
        TD_GOTO(td_comm_exchange(comm, mine, call->bytes, partner, other, call->bytes, partner,
                                 TD_TAG_COLLECTIVE));
        combine(comm, call, partner, mine, other, call->count);
    }
    status = unfold(comm, call, &p);
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
    part p = part_of(comm);
    char *mine = call->out,
         *other = td_malloc(p.surplus ? call->bytes : (call->count + 1) / 2 * width);
    halves step[MOST_STEPS];
    int steps = 0;
    td_status status = TD_OK;
    if (!other) return td_fail(TD_ERR_NOMEM, "no memory for a reduction of %zu bytes", call->bytes);
    TD_GOTO(fold(comm, call, &p, other));
    for (int bit = 1; bit < p.size && p.rank >= 0; bit <<= 1) {
        int partner = rank_of(&p, p.rank ^ bit);
        halves h = step[steps++] = cut(comm, partner, lo, hi);
        TD_GOTO(td_comm_exchange(comm, mine + h.give_lo * width, (h.give_hi - h.give_lo) * width,
                                 partner, other, (h.keep_hi - h.keep_lo) * width, partner,
                                 TD_TAG_COLLECTIVE));
        lo = h.keep_lo, hi = h.keep_hi;
        combine(comm, call, partner, mine + lo * width, other, hi - lo);
    }
    for (int bit = p.size >> 1; bit && p.rank >= 0; bit >>= 1) {
        int partner = rank_of(&p, p.rank ^ bit);
        halves h = step[--steps];
        TD_GOTO(td_comm_exchange(comm, mine + h.keep_lo * width, (h.keep_hi - h.keep_lo) * width,
                                 partner, mine + h.give_lo * width, (h.give_hi - h.give_lo) * width,
                                 partner, TD_TAG_COLLECTIVE));
    }
    status = unfold(comm, call, &p);
out:
    td_free(other);
    return status;
}

/* The sum of a block that reaches beyond the last rank lacks some ranks' values, but only goes to
 * lower ranks, whose results need none of it. */
td_status td_doubling_scan(td_comm *comm, const td_call *call)
{
    size_t bytes = call->bytes;
    char *block = td_malloc(2 * bytes), *other = block + bytes;
    td_status status = TD_OK;
    if (!block) return td_fail(TD_ERR_NOMEM, "no memory for a scan of %zu bytes", bytes);
    if (bytes) td_kernels_best()->copy(bytes, call->in, block);
    if (bytes && call->in != call->out) td_kernels_best()->copy(bytes, call->in, call->out);
    for (int bit = 1; bit < comm->size; bit <<= 1) {
        int partner = comm->rank ^ bit;
        if (partner >= comm->size) continue;
        TD_GOTO(td_comm_exchange(comm, block, bytes, partner, other, bytes, partner,
                                 TD_TAG_COLLECTIVE));
        if (partner < comm->rank) combine(comm, call, partner, call->out, other, call->count);
        combine(comm, call, partner, block, other, call->count);
    }
out:
    td_free(block);
    return status;
}
