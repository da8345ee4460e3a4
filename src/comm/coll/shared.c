/* Every pattern for the ranks of one host, over memory that they share (meet.h).
 *
 * Staged: a rank copies what others need into its block, in windows; they read it from there. Bytes
 * are written once more than they must be, and a window costs one wait (all-reduce: two).
 * Direct, where ranks are threads of one process and the vector is long: ranks read each other's
 * buffers, so nothing is copied twice; an operation costs two waits (all-reduce: three). Processes
 * do so, too, through the system, where nothing is to be reduced, or by two, parts are so long that
 * the way there costs less than a second copy, and the result stays in the caches. (Of more than
 * two, or by slices, reductions won nothing by it.)
 *
 * Reductions follow the tree with ranks as leaves: a slice's rank reads all parts of it and folds
 * them in one pass. So a rank reads n/n of the vector and writes 1/n; all-reduce then copies the
 * other slices from their ranks. Sources: Graham, Shipman, "MPI support for multi-core
 * architectures: optimized shared memory collectives", EuroPVM/MPI 2008; of copies through the
 * system: Chakraborty, Subramoni, Panda, "Contention-aware kernel-assisted MPI collectives",
 * CLUSTER 2017. */
#include "comm/coll/meet.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

#include <string.h>

enum {
    DIRECT_FROM = 16 << 10,
    FETCH_FROM = 32 << 10, /* by processes, up to THROUGH_FROM */
    FETCH_ONE_FROM = 64 << 10,
    PIECE = 64 << 10, /* fetched at a time, for a reduction */
    DIRECT_ONE_FROM =
        256 << 10, /* where one writes, or reads: staged, it need not wait for others */
    FOLD_ALL = 4 << 10,
    FOLD_TWO = 1 << 20,
    LINE = 64,
    TWO_WINDOW = 128 << 10, /* two ranks': all that they touch in a round stays in their caches */
    THROUGH_FROM = 16 << 20 /* bytes of all ranks' results */
};

typedef struct place { /* a call at its meeting place */
    td_comm *comm;
    td_meet *meet;
    const td_call *call;
    int rank, size;
} place;

bool td_shared_fits(const td_comm *comm)
{
    return comm->hosts == 1 && comm->size > 1 && comm->size <= TD_MEET_RANKS;
}

static void copy(void *to, const void *from, size_t bytes)
{
    td_kernels_best()->copy(bytes, from, to);
}

/* Most bytes that a rank stages in a round: with more ranks the waits between rounds cost more than
 * the caches win. */
static size_t window_of(const place *p)
{
    return p->size == 2 ? TWO_WINDOW : TD_MEET_BLOCK;
}

/* To where a call's result of `all` bytes goes: past the caches where all ranks' would drive out
 * what is staged. */
static void give(const place *p, size_t all, void *to, const void *from, size_t bytes)
{
    if (all * (size_t)p->size >= THROUGH_FROM)
        td_kernels_best()->copy_through(bytes, from, to);
    else
        copy(to, from, bytes);
}

/* A rank's own part, which nobody else touches meanwhile: as the system's library finds best. */
static void keep(const place *p, size_t all, void *to, const void *from, size_t bytes)
{
    if (all * (size_t)p->size >= THROUGH_FROM)
        td_kernels_best()->copy_through(bytes, from, to);
    else
        memcpy(to, from, bytes);
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t rounds_of(size_t bytes, size_t window)
{
    return bytes ? (bytes + window - 1) / window : 1; /* at least one: ranks still meet */
}

/* --- one stream from each writer to all readers: broadcast, gather, all-gather --- */

typedef struct stream {
    const char *in; /* this rank's */
    char *out;      /* NULL: this rank does not read */
    const td_call *call;
    int writer; /* -1: all write */
    size_t all; /* bytes of the result */
} stream;

static size_t stream_bytes(const stream *s, int rank)
{
    if (s->writer >= 0) return rank == s->writer ? s->call->bytes : 0;
    return td_call_part(s->call, rank);
}

static char *stream_to(const stream *s, int rank)
{
    return s->writer >= 0 ? s->out : s->out + td_call_offset(s->call, rank);
}

static void keep_own(const place *p, const stream *s)
{
    size_t own = stream_bytes(s, p->rank);
    char *to = s->out && own ? stream_to(s, p->rank) : NULL;
    if (to && to != s->in) keep(p, s->all, to, s->in, own);
}

/* From where that rank's memory lies. */
static td_status fetch(place *p, int rank, const char *from, void *to, size_t bytes)
{
    if (!p->comm->ops->one_memory) return td_meet_fetch(p->meet, rank, from, to, bytes);
    TD_TRY(td_meet_look(p->meet));
    copy(to, from, bytes);
    td_meet_look_away(p->meet);
    return TD_OK;
}

/* From how long a part on it may be read where it lies. Several processes that fetch from one get
 * in each other's way. */
static size_t direct_from(const place *p)
{
    bool one = p->call->pattern == TD_BROADCAST || p->call->pattern == TD_GATHER;
    if (p->comm->ops->one_memory) return one ? DIRECT_ONE_FROM : DIRECT_FROM;
    return !one ? FETCH_FROM : p->size == 2 ? FETCH_ONE_FROM : SIZE_MAX;
}

/* Whether ranks read parts of `bytes` at most where they lie, for a result of `all`: processes only
 * while that stays in the caches, because the system copies through them, and brings a line there
 * before it writes it. */
static td_status goes_directly(place *p, size_t bytes, size_t all, bool *out)
{
    if (p->comm->ops->one_memory) {
        *out = bytes >= direct_from(p);
        return TD_OK;
    }
    *out = bytes >= direct_from(p) && all * (size_t)p->size < THROUGH_FROM;
    return *out ? td_meet_reaches(p->meet, out) : TD_OK;
}

static td_status spread_directly(place *p, const stream *s)
{
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, s->in, NULL);
    keep_own(p, s);
    for (int k = 1; k < p->size && s->out; k++) {
        int r = (p->rank + k) % p->size;
        size_t bytes = stream_bytes(s, r);
        if (s->writer >= 0 && r != s->writer) continue;
        TD_TRY(td_meet_arrived(p->meet, r));
        if (bytes) TD_TRY(fetch(p, r, td_meet_in(p->meet, r), stream_to(s, r), bytes));
    }
    td_meet_done(p->meet);
    return stream_bytes(s, p->rank) ? td_meet_all_done(p->meet) : TD_OK;
}

static td_status spread_window(place *p, const stream *s, size_t at, size_t window)
{
    size_t own = stream_bytes(s, p->rank);
    TD_TRY(td_meet_round(p->meet, window));
    if (at < own)
        td_meet_stage(p->meet, td_meet_block(p->meet, p->rank), s->in + at,
                      smaller(own - at, window));
    td_meet_arrive(p->meet, NULL, NULL);
    for (int k = 1; k < p->size && s->out; k++) {
        int r = (p->rank + k) % p->size;
        size_t bytes = stream_bytes(s, r);
        if (s->writer >= 0 && r != s->writer) continue;
        TD_TRY(td_meet_arrived(p->meet, r));
        if (at < bytes)
            give(p, s->all, stream_to(s, r) + at, td_meet_block(p->meet, r),
                 smaller(bytes - at, window));
    }
    td_meet_leave(p->meet);
    return TD_OK;
}

static td_status spread(place *p, const stream *s)
{
    size_t most = 0;
    for (int r = 0; r < p->size; r++)
        if (stream_bytes(s, r) > most) most = stream_bytes(s, r);
    bool directly;
    TD_TRY(goes_directly(p, most, s->all, &directly));
    if (directly) return spread_directly(p, s);
    keep_own(p, s);
    size_t window = window_of(p);
    for (size_t k = 0, n = rounds_of(most, window); k < n; k++)
        TD_TRY(spread_window(p, s, k * window, smaller(most - k * window, window)));
    return TD_OK;
}

/* --- a stream for each reader: scatter, all-to-all, reduce-scatter --- */

typedef struct deal {
    const char *in;
    bool all_write; /* else only the root */
    size_t window;  /* bytes of a stream per round */
    size_t all;     /* bytes of the result */
} deal;

static size_t given(const place *p, int to)
{
    return td_call_part(p->call, to);
}

static size_t taken(const place *p, int from)
{
    return p->call->takes ? p->call->takes[from] : td_call_part(p->call, p->rank);
}

static bool writes(const place *p, const deal *d, int rank)
{
    return d->all_write || rank == p->call->root;
}

/* Copies the streams' parts [at, at + window) into this rank's block, but its own. */
static void stage_deal(place *p, const deal *d, size_t at)
{
    char *block = td_meet_block(p->meet, p->rank);
    size_t offset = 0;
    for (int r = 0; r < p->size; offset += given(p, r++))
        if (r != p->rank && at < given(p, r))
            td_meet_stage(p->meet, block + (size_t)r * d->window, d->in + offset + at,
                          smaller(given(p, r) - at, d->window));
}

typedef td_status take_fn(place *p, const deal *d, size_t at, size_t bytes);

/* Takes this rank's streams' parts in a round that all have arrived in. */
static td_status take_copies(place *p, const deal *d, size_t at, size_t bytes)
{
    (void)bytes;
    char *to = p->call->out;
    for (int r = 0; r < p->size; to += taken(p, r++))
        if (writes(p, d, r) && r != p->rank && at < taken(p, r))
            give(p, d->all, to + at, td_meet_block(p->meet, r) + (size_t)p->rank * d->window,
                 smaller(taken(p, r) - at, d->window));
    return TD_OK;
}

static td_status take_from_root(place *p, const deal *d, size_t at, size_t bytes)
{
    if (bytes && p->rank != p->call->root)
        copy((char *)p->call->out + at,
             td_meet_block(p->meet, p->call->root) + (size_t)p->rank * d->window, bytes);
    return TD_OK;
}

static td_status take_fold(place *p, const deal *d, size_t at, size_t bytes)
{
    const void *part[TD_MEET_RANKS];
    for (int r = 0; r < p->size; r++)
        part[r] = r == p->rank ? d->in + td_call_offset(p->call, r) + at
                               : td_meet_block(p->meet, r) + (size_t)p->rank * d->window;
    td_reduction_fold(&p->call->how, part, p->size, bytes / p->call->how.width,
                      (char *)p->call->out + at);
    return TD_OK;
}

static td_status deal_out(place *p, deal *d, size_t most, take_fn *take)
{
    size_t mine = td_call_part(p->call, p->rank);
    size_t unit = p->call->how.width ? p->call->how.width : 1;
    d->window = (window_of(p) / (size_t)p->size) & ~(size_t)(LINE - 1);
    d->window -= d->window % unit;
    if (d->window == 0)
        return td_fail(TD_ERR_ARG, "elements of %zu bytes are too wide for %d ranks", unit,
                       p->size);
    if (most < d->window) d->window = (most + LINE - 1) & ~(size_t)(LINE - 1);
    for (size_t k = 0, n = rounds_of(most, d->window); k < n; k++) {
        size_t at = k * d->window;
        TD_TRY(td_meet_round(p->meet, d->window * (size_t)p->size));
        if (writes(p, d, p->rank)) stage_deal(p, d, at);
        td_meet_arrive(p->meet, NULL, NULL);
        TD_TRY(td_meet_arrived(p->meet, d->all_write ? -1 : p->call->root));
        TD_TRY(take(p, d, at, at < mine ? smaller(mine - at, d->window) : 0));
        td_meet_leave(p->meet);
    }
    return TD_OK;
}

static size_t most_part(const place *p)
{
    size_t most = 0;
    for (int r = 0; r < p->size; r++)
        if (given(p, r) > most) most = given(p, r);
    return most;
}

static td_status scatter(place *p)
{
    const td_call *c = p->call;
    deal d = {.in = c->in};
    size_t own = given(p, p->rank);
    if (p->rank == c->root && own && c->out != d.in + td_call_offset(c, p->rank))
        copy(c->out, d.in + td_call_offset(c, p->rank), own);
    return deal_out(p, &d, most_part(p), take_from_root);
}

/* Ranks tell what they give, so that all know the longest part and a misfit is found. */
static td_status tell_parts(place *p, size_t *most)
{
    size_t bytes = (size_t)p->size * sizeof(uint64_t);
    TD_TRY(td_meet_round(p->meet, bytes));
    uint64_t *own = (uint64_t *)(void *)td_meet_block(p->meet, p->rank);
    copy(own, p->call->parts, bytes);
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

static td_status alltoall(place *p)
{
    const td_call *c = p->call;
    deal d = {.in = c->in,
              .all_write = true,
              .all = c->parts ? c->bytes : c->bytes * (size_t)p->size};
    size_t most = c->bytes, from = td_call_offset(c, p->rank), to = 0;
    if (c->parts) TD_TRY(tell_parts(p, &most));
    for (int r = 0; r < p->rank; r++) to += taken(p, r);
    if (given(p, p->rank)) keep(p, d.all, (char *)c->out + to, d.in + from, given(p, p->rank));
    return deal_out(p, &d, most, take_copies);
}

static td_status reduce_scatter(place *p)
{
    deal d = {.in = p->call->in, .all_write = true};
    return deal_out(p, &d, most_part(p), take_fold);
}

/* All-to-all of equal parts, read where they lie. */
static td_status alltoall_directly(place *p)
{
    const td_call *c = p->call;
    size_t bytes = c->bytes, at = bytes * (size_t)p->rank;
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, c->in, NULL);
    keep(p, bytes * (size_t)p->size, (char *)c->out + at, (const char *)c->in + at, bytes);
    for (int k = 1; k < p->size; k++) {
        int r = (p->rank + k) % p->size;
        TD_TRY(td_meet_arrived(p->meet, r));
        TD_TRY(fetch(p, r, (const char *)td_meet_in(p->meet, r) + at,
                     (char *)c->out + (size_t)r * bytes, bytes));
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* Threads read each other's parts where they lie. */
static td_status fold_directly(place *p)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    size_t at = td_call_offset(c, p->rank), own = td_call_part(c, p->rank);
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, c->in, NULL);
    TD_TRY(td_meet_arrived(p->meet, -1));
    TD_TRY(td_meet_look(p->meet));
    for (int k = 0; k < p->size; k++) {
        int r = (p->rank + k) % p->size;
        part[r] = (const char *)td_meet_in(p->meet, r) + at;
    }
    td_reduction_fold(&c->how, part, p->size, own / c->how.width, c->out);
    td_meet_look_away(p->meet);
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* --- whole vectors: all-reduce, reduce, scan --- */

/* Slices end on cache lines, so that no two ranks write one. */
static size_t slice(const place *p, size_t count, int rank)
{
    size_t width = p->call->how.width, unit = width < LINE ? LINE / width : 1;
    size_t units = (count + unit - 1) / unit;
    return smaller(units * (size_t)rank / (size_t)p->size * unit, count);
}

/* Elements [at, at + count): each rank reads all parts and folds them itself, so there is one wait.
 * For short vectors; and of two ranks each reads no more than with slices. */
static td_status fold_window(place *p, size_t at, size_t count)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    size_t width = c->how.width, bytes = count * width;
    const char *in = bytes ? (const char *)c->in + at * width : NULL;
    bool reads = c->pattern == TD_ALLREDUCE || p->rank == c->root;
    TD_TRY(td_meet_round(p->meet, bytes));
    if (bytes) td_meet_stage(p->meet, td_meet_block(p->meet, p->rank), in, bytes);
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
static td_status reduce_window(place *p, size_t at, size_t count)
{
    const td_call *c = p->call;
    size_t width = c->how.width, lo = slice(p, count, p->rank), hi = slice(p, count, p->rank + 1);
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
        give(p, c->bytes, out + lo * width, result, (hi - lo) * width);
        TD_TRY(td_meet_reduced(p->meet));
        for (int k = 1; k < p->size; k++) {
            int r = (p->rank + k) % p->size;
            size_t from = slice(p, count, r) * width, to = slice(p, count, r + 1) * width;
            give(p, c->bytes, out + from, td_meet_block(p->meet, r) + from, to - from);
        }
    }
    td_meet_leave(p->meet);
    return TD_OK;
}

/* Threads: slices are folded from the vectors to the result (of the root, of each rank) at once. */
static td_status reduce_directly(place *p)
{
    const td_call *c = p->call;
    size_t width = c->how.width, lo = slice(p, c->count, p->rank),
           hi = slice(p, c->count, p->rank + 1);
    const void *part[TD_MEET_RANKS];
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, c->in, c->out);
    TD_TRY(td_meet_arrived(p->meet, -1));
    for (int r = 0; r < p->size; r++) part[r] = (const char *)td_meet_in(p->meet, r) + lo * width;
    char *out = c->pattern == TD_REDUCE ? td_meet_out(p->meet, c->root) : c->out;
    TD_TRY(td_meet_look(p->meet));
    td_reduction_fold(&c->how, part, p->size, hi - lo, out + lo * width);
    td_meet_look_away(p->meet);
    td_meet_reduce(p->meet);
    if (c->pattern == TD_ALLREDUCE) {
        TD_TRY(td_meet_reduced(p->meet));
        TD_TRY(td_meet_look(p->meet));
        for (int k = 1; k < p->size; k++) {
            int r = (p->rank + k) % p->size;
            size_t from = slice(p, c->count, r) * width, to = slice(p, c->count, r + 1) * width;
            copy(out + from, (const char *)td_meet_out(p->meet, r) + from, to - from);
        }
        td_meet_look_away(p->meet);
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* Of two processes each fetches all that the other has, piece by piece, and folds it: what one has
 * written the other only reads, so no line changes hands twice. `shown`: what the other fetches. */
static td_status fetch_and_fold(place *p, const char *shown, char *piece)
{
    const td_call *c = p->call;
    int other = 1 - p->rank;
    size_t width = c->how.width, most = PIECE / width;
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, shown, NULL);
    TD_TRY(td_meet_arrived(p->meet, other));
    const char *theirs = td_meet_in(p->meet, other);
    for (size_t at = 0; at < c->count; at += most) {
        size_t count = smaller(c->count - at, most), offset = at * width;
        const void *part[2] = {piece, piece};
        TD_TRY(td_meet_fetch(p->meet, other, theirs + offset, piece, count * width));
        part[p->rank] = shown + offset;
        td_reduction_fold(&c->how, part, 2, count, (char *)c->out + offset);
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

static td_status allreduce_of_two(place *p)
{
    const td_call *c = p->call;
    bool apart = c->in != c->out; /* else the other fetches a copy */
    char *room = td_meet_scratch(p->meet, PIECE + (apart ? 0 : c->bytes));
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for an all-reduce of %zu bytes", c->bytes);
    if (!apart) memcpy(room + PIECE, c->in, c->bytes);
    return fetch_and_fold(p, apart ? c->in : room + PIECE, room);
}

static td_status reduce(place *p)
{
    const td_call *c = p->call;
    bool fetches = false;
    size_t most = window_of(p) / c->how.width;
    bool folds_all = c->bytes <= FOLD_ALL || (p->size == 2 && c->bytes <= FOLD_TWO);
    if (p->comm->ops->one_memory && c->bytes >= DIRECT_FROM) return reduce_directly(p);
    if (!p->comm->ops->one_memory && p->size == 2 && c->pattern == TD_ALLREDUCE)
        TD_TRY(goes_directly(p, c->bytes, c->bytes, &fetches));
    if (fetches) return allreduce_of_two(p);
    for (size_t at = 0; at == 0 || at < c->count; at += most) {
        size_t count = smaller(c->count - at, most);
        TD_TRY(folds_all ? fold_window(p, at, count) : reduce_window(p, at, count));
    }
    return TD_OK;
}

static td_status scan(place *p)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    size_t width = c->how.width, most = window_of(p) / width;
    for (size_t at = 0; at == 0 || at < c->count; at += most) {
        size_t count = smaller(c->count - at, most);
        TD_TRY(td_meet_round(p->meet, count * width));
        if (count)
            copy(td_meet_block(p->meet, p->rank), (const char *)c->in + at * width, count * width);
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

static td_status barrier(place *p)
{
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, NULL, NULL);
    TD_TRY(td_meet_arrived(p->meet, -1));
    td_meet_leave(p->meet);
    return TD_OK;
}

static td_status run(place *p)
{
    td_comm *comm = p->comm;
    const td_call *call = p->call;
    bool directly = false, at_root = comm->rank == call->root;
    size_t all = call->parts ? call->bytes : call->bytes * (size_t)comm->size;
    switch (call->pattern) {
    case TD_BARRIER: return barrier(p);
    case TD_BROADCAST:
        return spread(p, &(stream){call->in, at_root ? NULL : call->out, call, call->root,
                                   call->bytes});
    case TD_GATHER:
        return spread(p, &(stream){call->in, at_root ? call->out : NULL, call, -1, all});
    case TD_ALLGATHER: return spread(p, &(stream){call->in, call->out, call, -1, all});
    case TD_SCATTER: return scatter(p);
    case TD_ALLTOALL:
        if (!call->parts) TD_TRY(goes_directly(p, call->bytes, all, &directly));
        return directly ? alltoall_directly(p) : alltoall(p);
    case TD_REDUCE_SCATTER:
        return comm->ops->one_memory && most_part(p) >= DIRECT_FROM ? fold_directly(p)
                                                                    : reduce_scatter(p);
    case TD_REDUCE:
    case TD_ALLREDUCE: return reduce(p);
    case TD_SCAN: return scan(p);
    case TD_PATTERNS: break;
    }
    return td_fail(TD_ERR_INTERNAL, "no such pattern");
}

td_status td_shared_run(td_comm *comm, const td_call *call)
{
    place p = {.comm = comm, .call = call, .rank = comm->rank, .size = comm->size};
    TD_TRY(td_meet_of(comm, &p.meet));
    td_meet_begin(p.meet);
    td_status status = run(&p);
    if (status != TD_OK) td_meet_withdraw(p.meet);
    return status;
}
