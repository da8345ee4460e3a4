/* All-reduce over memory that the ranks of a host share, in blocks: each rank copies its block in,
 * reduces a slice of all ranks' blocks in place, and copies the whole result out.
 *
 * Cost: no messages; a rank moves its bytes in and out and reads them once in between, and waits
 * twice per block. Order: the tree with ranks as leaves.
 *
 * Two sets of blocks take turns. The result stands in rank 0's block of a set while slow ranks copy
 * it out; who writes that set again has seen all ranks reduce the other one, which they did after
 * they copied.
 *
 * Shared memory: counters of rank 0, 1, ... (128 bytes each) | bell
 *   | block of rank 0, 1, ..., twice */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { BLOCK = 128 << 10, LINE = 128 };

typedef struct counters { /* blocks since creation; written by one rank */
    uint64_t written, reduced;
    char pad[LINE - 16];
} counters;

typedef struct td_scratch {
    td_comm *comm;
    td_region region;
    counters *counter; /* [size] */
    td_bell *bell;
    char *block;     /* [2][size][BLOCK] */
    uint64_t number; /* of the block under way, from 1 */
    bool reducing;   /* waited for: all reduced (or else all written) */
} td_scratch;

bool td_coll_shared_fits(const td_comm *comm)
{
    return comm->hosts == 1 && comm->size > 1 && comm->size <= 64;
}

void td_coll_release(td_comm *comm)
{
    if (!comm->scratch) return;
    td_comm_shared_destroy(comm, &comm->scratch->region);
    td_free(comm->scratch);
    comm->scratch = NULL;
}

static td_status make_scratch(td_comm *comm)
{
    const char *operation = comm->operation;
    size_t n = (size_t)comm->size, head = n * sizeof(counters) + LINE;
    td_scratch *s = td_calloc(1, sizeof *s);
    td_status status = s ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for an all-reduce");
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_comm_shared_create(comm, head + 2 * n * BLOCK, &s->region));
    s->comm = comm;
    s->counter = s->region.data;
    s->bell = (td_bell *)(void *)(s->counter + n);
    s->block = (char *)s->region.data + head;
    comm->scratch = s;
    s = NULL;
out:
    comm->operation = operation;
    td_free(s);
    return status;
}

static int missing(void *arg)
{
    td_scratch *s = arg;
    for (int r = 0; r < s->comm->size; r++) {
        const uint64_t *at = s->reducing ? &s->counter[r].reduced : &s->counter[r].written;
        if (__atomic_load_n(at, __ATOMIC_ACQUIRE) < s->number) return r;
    }
    return -1;
}

static td_status test(void *arg, bool *done)
{
    *done = missing(arg) < 0;
    return TD_OK;
}

/* Says that this rank has come so far, and waits for the others. */
static td_status meet(td_scratch *s, bool reducing)
{
    counters *own = &s->counter[s->comm->rank];
    s->reducing = reducing;
    __atomic_store_n(reducing ? &own->reduced : &own->written, s->number, __ATOMIC_RELEASE);
    td_bell_ring(s->bell);
    return td_comm_wait(s->comm, -1, s->bell, test, missing, s);
}

/* Slices end on cache lines, so that no two ranks write one. */
static void reduce_slice(const td_scratch *s, char *block, size_t count, td_type type, td_op op)
{
    size_t n = (size_t)s->comm->size, me = (size_t)s->comm->rank, unit = 64 / td_type_size(type);
    size_t units = (count + unit - 1) / unit, width = td_type_size(type);
    size_t lo = units * me / n * unit, hi = units * (me + 1) / n * unit;
    if (hi > count) hi = count;
    if (lo >= hi) return;
    for (size_t bit = 1; bit < n; bit <<= 1)
        for (size_t r = 0; r + bit < n; r += 2 * bit)
            td_coll_combine(block + r * BLOCK + lo * width, block + (r + bit) * BLOCK + lo * width,
                            hi - lo, type, op);
}

td_status td_coll_shared_allreduce(td_comm *comm, const void *in, void *out, size_t count,
                                   td_type type, td_op op)
{
    size_t width = td_type_size(type), most = BLOCK / width;
    if (!comm->scratch) TD_TRY(make_scratch(comm));
    td_scratch *s = comm->scratch;
    for (size_t at = 0; at < count; at += most) {
        size_t n = count - at < most ? count - at : most;
        char *block = s->block + (++s->number & 1) * (size_t)comm->size * BLOCK;
        memcpy(block + (size_t)comm->rank * BLOCK, (const char *)in + at * width, n * width);
        TD_TRY(meet(s, false));
        reduce_slice(s, block, n, type, op);
        TD_TRY(meet(s, true));
        memcpy((char *)out + at * width, block, n * width);
    }
    return TD_OK;
}
