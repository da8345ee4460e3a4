/* See buddy.h. The boundaries of all ranges cut the vectors into intervals that every rank has, or
 * wants, as a whole or not at all. All ranks go through them in the same order, the needy of each
 * in rank order, so blocking messages cannot wait for each other in a circle. */
#include "comm/buddy.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 16, TAG = 7301, BOUNDS = 2 * (TD_BUDDY_HAVE + TD_BUDDY_WANT) };

static size_t own_begin(size_t count, int size, int rank)
{
    size_t pieces = (count + ALIGN - 1) / ALIGN, n = (size_t)size, r = (size_t)rank;
    size_t at = (pieces / n * r + pieces % n * r / n) * ALIGN;
    return at < count ? at : count;
}

td_range td_buddy_own(size_t count, int size, int rank)
{
    return (td_range){own_begin(count, size, rank), own_begin(count, size, rank + 1), {0}};
}

td_range td_buddy_mirror(size_t count, int size, int rank)
{
    if (size == 1) return (td_range){0};
    return td_buddy_own(count, size, (rank + size - 1) % size);
}

/* What a rank has and wants, as all are told. */
typedef struct claim {
    uint64_t have[TD_BUDDY_HAVE][2], want[TD_BUDDY_WANT][2];
} claim;

typedef struct deal {
    td_comm *comm;
    size_t width;
    int vectors, rank, size;
    const td_range *have, *want;
    claim *claims; /* [size] */
    bool *lost;
} deal;

static bool covers(const uint64_t range[2], uint64_t begin, uint64_t end)
{
    return range[0] <= begin && end <= range[1];
}

static bool has(const claim *c, uint64_t begin, uint64_t end)
{
    for (int k = 0; k < TD_BUDDY_HAVE; k++)
        if (covers(c->have[k], begin, end)) return true;
    return false;
}

static bool wants(const claim *c, uint64_t begin, uint64_t end)
{
    for (int k = 0; k < TD_BUDDY_WANT; k++)
        if (covers(c->want[k], begin, end)) return true;
    return false;
}

static char *place(const deal *d, const td_range *range, int vector, uint64_t begin)
{
    return range->data[vector] + (begin - range->begin) * d->width;
}

/* The range of this rank's that has it. */
static const td_range *holding(const deal *d, uint64_t begin, uint64_t end)
{
    const td_range *range = d->have;
    while (!(range->begin <= begin && end <= range->end)) range++;
    return range;
}

/* To each of this rank's wanting ranges, from `from`, or from another rank. */
static td_status take(const deal *d, const td_range *from, int source, uint64_t begin, uint64_t end)
{
    size_t bytes = (end - begin) * d->width;
    for (int v = 0; v < d->vectors; v++) {
        const char *got = from ? place(d, from, v, begin) : NULL;
        for (int k = 0; k < TD_BUDDY_WANT; k++) {
            const td_range *range = &d->want[k];
            if (range->begin > begin || end > range->end) continue;
            char *to = place(d, range, v, begin);
            if (got && got != to)
                memcpy(to, got, bytes);
            else if (!got)
                TD_TRY(td_comm_recv(d->comm, to, bytes, source, TAG));
            got = to;
        }
    }
    return TD_OK;
}

static td_status give(const deal *d, int to, uint64_t begin, uint64_t end)
{
    const td_range *from = holding(d, begin, end);
    for (int v = 0; v < d->vectors; v++)
        TD_TRY(td_comm_send(d->comm, place(d, from, v, begin), (end - begin) * d->width, to, TAG));
    return TD_OK;
}

/* One interval: whoever wants it and lacks it gets it from the lowest rank that has it. */
static td_status deal_interval(const deal *d, uint64_t begin, uint64_t end)
{
    int source = 0;
    while (source < d->size && !has(&d->claims[source], begin, end)) source++;
    for (int r = 0; r < d->size; r++) {
        if (!wants(&d->claims[r], begin, end)) continue;
        if (source == d->size) {
            *d->lost = true;
            return td_fail(TD_ERR_PEER, "both ranks that held elements %llu to %llu have died",
                           (unsigned long long)begin, (unsigned long long)end);
        }
        if (has(&d->claims[r], begin, end)) {
            if (r == d->rank) TD_TRY(take(d, holding(d, begin, end), r, begin, end));
        } else if (r == d->rank) {
            TD_TRY(take(d, NULL, source, begin, end));
        } else if (source == d->rank) {
            TD_TRY(give(d, r, begin, end));
        }
    }
    return TD_OK;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static td_status deal_all(const deal *d, uint64_t *bounds)
{
    size_t n = (size_t)d->size * BOUNDS;
    memcpy(bounds, d->claims, n * sizeof *bounds); /* claims are nothing but bounds */
    qsort(bounds, n, sizeof *bounds, compare);
    for (size_t i = 0; i + 1 < n; i++)
        if (bounds[i] < bounds[i + 1]) TD_TRY(deal_interval(d, bounds[i], bounds[i + 1]));
    return TD_OK;
}

td_status td_buddy_deal(td_comm *comm, size_t width, int vectors,
                        const td_range have[TD_BUDDY_HAVE], const td_range want[TD_BUDDY_WANT],
                        bool *lost)
{
    deal d = {comm, width, vectors, td_comm_rank(comm), td_comm_size(comm), have, want, NULL, lost};
    claim own = {0};
    *lost = false;
    _Static_assert(sizeof own == BOUNDS * sizeof(uint64_t), "a claim is its bounds");
    for (int k = 0; k < TD_BUDDY_HAVE; k++)
        own.have[k][0] = have[k].begin, own.have[k][1] = have[k].end;
    for (int k = 0; k < TD_BUDDY_WANT; k++)
        own.want[k][0] = want[k].begin, own.want[k][1] = want[k].end;
    d.claims = td_calloc((size_t)d.size, sizeof *d.claims);
    uint64_t *bounds = td_calloc((size_t)d.size * BOUNDS, sizeof *bounds);
    td_status status =
        d.claims && bounds ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to deal parts of a state");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = td_comm_allgather(comm, &own, sizeof own, d.claims);
    if (status == TD_OK) status = deal_all(&d, bounds);
    td_free(bounds);
    td_free(d.claims);
    return status;
}
