/* Patterns over the ranks' blocks of shared memory, in windows: see shared.c. */
#include "comm/coll/shared_impl.h"

#include "base/error.h"

enum {
    FOLD_ALL = 4 << 10,
    FOLD_TWO = 1 << 20,
    TWO_WINDOW = 128 << 10 /* two ranks', of streams: one reads while the other stages the next */
};

/* Most bytes that a rank stages of streams in a round. With more ranks, as with whole vectors, the
 * waits between rounds cost more than the caches win. */
static size_t window_of(const td_place *p)
{
    return p->size == 2 ? TWO_WINDOW : TD_MEET_BLOCK;
}

static size_t rounds_of(size_t bytes, size_t window)
{
    return bytes > window ? (bytes + window - 1) / window : 1; /* at least one: ranks still meet */
}

/* Nobody else reads what the root of a gather or a reduce gives. */
static bool has_readers(const td_place *p)
{
    bool for_root = p->call->pattern == TD_GATHER || p->call->pattern == TD_REDUCE;
    return !for_root || p->rank != p->call->root;
}

/* --- one stream from each writer to all readers: broadcast, gather, all-gather --- */

static td_status spread_window(td_place *p, const td_stream *s, size_t at, size_t window)
{
    size_t own = has_readers(p) ? td_stream_bytes(s, p->rank) : 0;
    TD_TRY(td_meet_round(p->meet, window));
    if (at < own)
        td_meet_stage(p->meet, td_meet_block(p->meet, p->rank), s->in + at,
                      td_smaller(own - at, window));
    td_meet_arrive(p->meet, NULL, NULL);
    if (at < own) td_place_keep_own(p, s, at, td_smaller(own - at, window));
    for (int k = 1; k < p->size && s->out; k++) {
        int r = td_place_after(p, k);
        size_t bytes = td_stream_bytes(s, r);
        if (s->writer >= 0 && r != s->writer) continue;
        TD_TRY(td_meet_arrived(p->meet, r));
        if (at < bytes)
            td_place_give(p, s->all, td_stream_to(s, r) + at, td_meet_block(p->meet, r),
                          td_smaller(bytes - at, window));
    }
    td_meet_leave(p->meet);
    return TD_OK;
}

td_status td_staged_spread(td_place *p, const td_stream *s)
{
    size_t most = s->writer >= 0 ? p->call->bytes : td_place_most_moved(p), window = window_of(p);
    if (!has_readers(p)) td_place_keep_own(p, s, 0, td_stream_bytes(s, p->rank));
    for (size_t k = 0, n = rounds_of(most, window); k < n; k++)
        TD_TRY(spread_window(p, s, k * window, td_smaller(most - k * window, window)));
    return TD_OK;
}

/* --- a stream for each reader: scatter, all-to-all, reduce-scatter --- */

typedef struct deal {
    const char *in;
    bool all_write; /* else only the root */
    size_t window;  /* bytes of a stream per round */
    size_t all;     /* bytes of the result */
} deal;

static size_t given(const td_place *p, int to)
{
    return td_call_part(p->call, to);
}

static size_t taken(const td_place *p, int from)
{
    return p->call->takes ? p->call->takes[from] : td_call_part(p->call, p->rank);
}

static bool writes(const td_place *p, const deal *d, int rank)
{
    return d->all_write || rank == p->call->root;
}

/* Where that rank's block has what it gives to another: a block has nothing for its own rank. */
static char *dealt(td_place *p, const deal *d, int from, int to)
{
    return td_meet_block(p->meet, from) + (size_t)(to < from ? to : to - 1) * d->window;
}

/* Bytes of a block. */
static size_t dealt_bytes(const td_place *p, const deal *d)
{
    return d->window * (size_t)(p->size - 1);
}

/* Copies the streams' parts [at, at + window) into this rank's block, but its own. */
static void stage_deal(td_place *p, const deal *d, size_t at)
{
    size_t offset = 0;
    for (int r = 0; r < p->size; offset += given(p, r++))
        if (r != p->rank && at < given(p, r))
            td_meet_stage(p->meet, dealt(p, d, p->rank, r), d->in + offset + at,
                          td_smaller(given(p, r) - at, d->window));
}

typedef td_status take_fn(td_place *p, const deal *d, size_t at, size_t bytes);

/* Takes this rank's streams' parts in a round that all have arrived in. */
static td_status take_copies(td_place *p, const deal *d, size_t at, size_t bytes)
{
    (void)bytes;
    char *to = p->call->out;
    for (int r = 0; r < p->size; to += taken(p, r++))
        if (writes(p, d, r) && r != p->rank && at < taken(p, r))
            td_place_give(p, d->all, to + at, dealt(p, d, r, p->rank),
                          td_smaller(taken(p, r) - at, d->window));
    return TD_OK;
}

static td_status take_from_root(td_place *p, const deal *d, size_t at, size_t bytes)
{
    if (bytes && p->rank != p->call->root)
        td_place_copy((char *)p->call->out + at, dealt(p, d, p->call->root, p->rank), bytes);
    return TD_OK;
}

static td_status take_fold(td_place *p, const deal *d, size_t at, size_t bytes)
{
    const void *part[TD_MEET_RANKS];
    for (int r = 0; r < p->size; r++)
        part[r] = r == p->rank ? d->in + td_call_offset(p->call, r) + at : dealt(p, d, r, p->rank);
    td_reduction_fold(&p->call->how, part, p->size, bytes / p->call->how.width,
                      (char *)p->call->out + at);
    return TD_OK;
}

/* Of short parts several lie in a line: each would be fetched by itself. */
static bool lie_close(td_place *p, deal *d, size_t most, size_t unit)
{
    size_t align = unit % 16 ? 8 : 16;
    d->window = (most + align - 1) & ~(align - 1);
    return most <= TD_SHARED_CLOSE && dealt_bytes(p, d) <= TD_SHARED_CLOSE;
}

static td_status choose_window(td_place *p, deal *d, size_t most)
{
    size_t unit = p->call->how.width ? p->call->how.width : 1;
    if (lie_close(p, d, most, unit)) return TD_OK;
    d->window = (window_of(p) / (size_t)(p->size - 1)) & ~(size_t)(TD_SHARED_LINE - 1);
    d->window -= d->window % unit;
    if (d->window == 0)
        return td_fail(TD_ERR_ARG, "elements of %zu bytes are too wide for %d ranks", unit,
                       p->size);
    if (most < d->window) d->window = (most + TD_SHARED_LINE - 1) & ~(size_t)(TD_SHARED_LINE - 1);
    return TD_OK;
}

static td_status deal_out(td_place *p, deal *d, size_t most, take_fn *take)
{
    size_t mine = td_call_part(p->call, p->rank);
    TD_TRY(choose_window(p, d, most));
    for (size_t k = 0, n = rounds_of(most, d->window); k < n; k++) {
        size_t at = k * d->window;
        TD_TRY(td_meet_round(p->meet, dealt_bytes(p, d)));
        if (writes(p, d, p->rank)) stage_deal(p, d, at);
        td_meet_arrive(p->meet, NULL, NULL);
        TD_TRY(td_meet_arrived(p->meet, d->all_write ? -1 : p->call->root));
        TD_TRY(take(p, d, at, at < mine ? td_smaller(mine - at, d->window) : 0));
        td_meet_leave(p->meet);
    }
    return TD_OK;
}

td_status td_staged_scatter(td_place *p)
{
    const td_call *c = p->call;
    deal d = {.in = c->in};
    size_t own = given(p, p->rank);
    if (p->rank == c->root && own && c->out != d.in + td_call_offset(c, p->rank))
        td_place_copy(c->out, d.in + td_call_offset(c, p->rank), own);
    return deal_out(p, &d, td_place_most_part(p), take_from_root);
}

/* Ranks tell what they give, so that all know the longest part and a misfit is found. */
static td_status tell_parts(td_place *p, size_t *most)
{
    size_t bytes = (size_t)p->size * sizeof(uint64_t);
    TD_TRY(td_meet_round(p->meet, bytes));
    uint64_t *own = (uint64_t *)(void *)td_meet_block(p->meet, p->rank);
    td_place_copy(own, p->call->parts, bytes);
    td_meet_arrive(p->meet, NULL, NULL);
    TD_TRY(td_meet_arrived(p->meet, -1));
    *most = 0;
    td_status status = TD_OK;
    for (int r = 0; r < p->size; r++) {
        const uint64_t *gives = (const uint64_t *)(const void *)td_meet_block(p->meet, r);
        for (int k = 0; k < p->size; k++)
            if (gives[k] > *most) *most = gives[k];
        if (gives[p->rank] != p->call->takes[r] && status == TD_OK)
            status = td_fail(TD_ERR_ARG,
                             "rank %d gives %llu bytes where rank %d takes %zu in "
                             "all-to-all",
                             p->comm->world[r], (unsigned long long)gives[p->rank],
                             p->comm->world[p->rank], p->call->takes[r]);
    }
    td_meet_leave(p->meet);
    return status;
}

td_status td_staged_alltoall(td_place *p)
{
    const td_call *c = p->call;
    deal d = {.in = c->in,
              .all_write = true,
              .all = c->parts ? c->bytes : c->bytes * (size_t)p->size};
    size_t most = c->bytes, from = td_call_offset(c, p->rank), to = 0;
    if (c->parts) TD_TRY(tell_parts(p, &most));
    for (int r = 0; r < p->rank; r++) to += taken(p, r);
    if (given(p, p->rank))
        td_place_keep(p, d.all, (char *)c->out + to, d.in + from, given(p, p->rank));
    return deal_out(p, &d, most, take_copies);
}

td_status td_staged_reduce_scatter(td_place *p)
{
    deal d = {.in = p->call->in, .all_write = true};
    return deal_out(p, &d, td_place_most_part(p), take_fold);
}

/* --- whole vectors: all-reduce, reduce, scan --- */

/* Elements [at, at + count): each rank reads all parts and folds them itself, so there is one wait.
 * For short vectors; and of two ranks each reads no more than with slices. */
static td_status fold_window(td_place *p, size_t at, size_t count)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    size_t width = c->how.width, bytes = count * width;
    const char *in = bytes ? (const char *)c->in + at * width : NULL;
    bool reads = c->pattern == TD_ALLREDUCE || p->rank == c->root;
    TD_TRY(td_meet_round(p->meet, bytes));
    if (bytes && has_readers(p)) td_meet_stage(p->meet, td_meet_block(p->meet, p->rank), in, bytes);
    td_meet_arrive(p->meet, NULL, NULL);
    if (reads) {
        TD_TRY(td_meet_arrived(p->meet, -1));
        for (int r = 0; r < p->size; r++) part[r] = r == p->rank ? in : td_meet_block(p->meet, r);
        char *out = bytes ? (char *)c->out + at * width : NULL;
        td_reduction_fold(&c->how, part, p->size, count, out);
    }
    td_meet_leave(p->meet);
    return TD_OK;
}

/* Elements [at, at + count): this rank's slice is folded from the others' blocks and its own
 * vector, and its result put where its own slice would have been staged. */
static td_status reduce_window(td_place *p, size_t at, size_t count)
{
    const td_call *c = p->call;
    size_t width = c->how.width, lo = td_place_slice(p, count, p->rank),
           hi = td_place_slice(p, count, p->rank + 1);
    const char *in = (const char *)c->in + at * width;
    char *out = (char *)c->out + at * width;
    const void *part[TD_MEET_RANKS];
    bool reads = c->pattern == TD_ALLREDUCE || p->rank == c->root;
    TD_TRY(td_meet_round(p->meet, count * width));
    char *own = td_meet_block(p->meet, p->rank);
    td_meet_stage(p->meet, own, in, lo * width);
    td_meet_stage(p->meet, own + hi * width, in + hi * width, (count - hi) * width);
    td_meet_arrive(p->meet, NULL, NULL);
    TD_TRY(td_meet_arrived(p->meet, -1));
    for (int r = 0; r < p->size; r++)
        part[r] = (r == p->rank ? in : td_meet_block(p->meet, r)) + lo * width;
    char *staged = own + lo * width, *result;
    TD_TRY(td_meet_draft(p->meet, staged, (hi - lo) * width, &result));
    td_reduction_fold(&c->how, part, p->size, hi - lo, result);
    if (result != staged) td_meet_stage(p->meet, staged, result, (hi - lo) * width);
    td_meet_reduce(p->meet);
    if (reads) {
        td_place_give(p, c->bytes, out + lo * width, result, (hi - lo) * width);
        TD_TRY(td_meet_reduced(p->meet));
        for (int k = 1; k < p->size; k++) {
            int r = td_place_after(p, k);
            size_t from = td_place_slice(p, count, r) * width,
                   to = td_place_slice(p, count, r + 1) * width;
            td_place_give(p, c->bytes, out + from, td_meet_block(p->meet, r) + from, to - from);
        }
    }
    td_meet_leave(p->meet);
    return TD_OK;
}

td_status td_staged_reduce(td_place *p)
{
    const td_call *c = p->call;
    size_t most = TD_MEET_BLOCK / c->how.width;
    bool folds_all = c->bytes <= FOLD_ALL || (p->size == 2 && c->bytes <= FOLD_TWO);
    for (size_t at = 0; at == 0 || at < c->count; at += most) {
        size_t count = td_smaller(c->count - at, most);
        TD_TRY(folds_all ? fold_window(p, at, count) : reduce_window(p, at, count));
    }
    return TD_OK;
}

td_status td_staged_scan(td_place *p)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    size_t width = c->how.width, most = TD_MEET_BLOCK / width;
    for (size_t at = 0; at == 0 || at < c->count; at += most) {
        size_t count = td_smaller(c->count - at, most);
        TD_TRY(td_meet_round(p->meet, count * width));
        if (count)
            td_place_copy(td_meet_block(p->meet, p->rank), (const char *)c->in + at * width,
                          count * width);
        td_meet_arrive(p->meet, NULL, NULL);
        for (int r = 0; r <= p->rank; r++) {
            TD_TRY(td_meet_arrived(p->meet, r));
            part[r] = td_meet_block(p->meet, r);
        }
        td_reduction_chain(&c->how, part, p->rank + 1, count, (char *)c->out + at * width);
        td_meet_leave(p->meet);
    }
    return TD_OK;
}
