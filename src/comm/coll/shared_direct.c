/* Patterns over the ranks' own buffers, which threads read and write where they lie, processes read
 * so where both have mapped them, and else fetch, and put, through the system: see shared.c. */
#include "comm/coll/shared_impl.h"

#include "base/error.h"

enum {
    DIRECT_FROM = 16 << 10,
    FETCH_FROM = 32 << 10, /* by processes, up to TD_SHARED_THROUGH */
    FETCH_OF_TWO_FROM = 16 << 10,
    OPEN_FROM = 16 << 10, /* by processes, what both have mapped */
    PAGE = 4 << 10,
    PIECE = 128 << 10,     /* fetched at a time, for a reduction */
    ONE_FROM = 256 << 10,  /* where one writes, or reads: staged, it need not wait for the others */
    HALVES_FROM = 64 << 10 /* where each of two moves, or folds, half */
};

/* Shows this rank's vectors, unless that has been done. */
static td_status show(td_place *p, const void *in, void *out)
{
    if (p->open || p->shown) return TD_OK;
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, in, out);
    return TD_OK;
}

/* Of what a rank has shown, by one that sees it. */
static td_status copy_seen(td_place *p, size_t all, void *to, const void *from, size_t bytes)
{
    TD_TRY(td_meet_look(p->meet));
    td_place_give(p, all, to, from, bytes);
    return td_meet_look_away(p->meet);
}

/* From what that rank has shown, `at` bytes on, to this rank's result of `all` bytes. */
static td_status fetch(td_place *p, size_t all, int rank, size_t at, void *to, size_t bytes)
{
    const void *in;
    TD_TRY(td_meet_in(p->meet, rank, &in));
    const char *from = (const char *)in + at;
    return td_meet_sees(p->meet) ? copy_seen(p, all, to, from, bytes)
                                 : td_meet_fetch(p->meet, rank, from, to, bytes);
}

/* To what that rank has shown for its result of `all` bytes, `at` bytes on. */
static td_status put(td_place *p, size_t all, int rank, size_t at, const void *from, size_t bytes)
{
    char *to = (char *)td_meet_theirs(p->meet, rank) + at;
    return p->comm->ops->one_memory ? copy_seen(p, all, to, from, bytes)
                                    : td_meet_put(p->meet, rank, to, from, bytes);
}

/* From how long a part on it may be read where it lies. Several processes that fetch from one get
 * in each other's way. */
static size_t direct_from(const td_place *p)
{
    bool two = p->size == 2, threads = p->comm->ops->one_memory;
    td_pattern of = p->call->pattern;
    bool one = td_root_gives(p->call) || of == TD_GATHER;
    bool folds = of >= TD_REDUCE;
    if (two && (one || folds)) return HALVES_FROM;
    if (threads) return one ? ONE_FROM : DIRECT_FROM;
    if (one) return SIZE_MAX;
    return two ? FETCH_OF_TWO_FROM : FETCH_FROM;
}

td_status td_direct_serves(td_place *p, size_t bytes, size_t all, bool *out)
{
    *out = true;
    if (p->open) return TD_OK;
    if (p->comm->ops->one_memory) {
        *out = bytes >= direct_from(p);
        return TD_OK;
    }
    *out = bytes >= direct_from(p) && all * (size_t)p->size < TD_SHARED_THROUGH;
    return *out ? td_meet_reaches(p->meet, out) : TD_OK;
}

td_status td_direct_chosen(td_place *p, size_t bytes, size_t all, bool *out)
{
    const td_call *c = p->call;
    *out = false;
    if (!p->probes || bytes < direct_from(p)) {
        p->probes = false;
        return td_direct_serves(p, bytes, all, out);
    }
    TD_TRY(td_meet_reaches(p->meet, &p->probes));
    if (!p->probes) return TD_OK;
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, c->in, c->out);
    bool gives = td_root_gives(c) && p->rank == c->root;
    if (!gives) TD_TRY(td_meet_arrived(p->meet, 1 - p->rank));
    bool second;
    TD_TRY(td_meet_second_way(p->meet, &second));
    *out = !second;
    p->shown = *out;
    if (!p->shown) td_meet_leave(p->meet);
    return TD_OK;
}

td_status td_direct_choice_ends(td_place *p)
{
    return p->probes ? td_meet_way_ends(p->meet) : TD_OK;
}

/* What others would read of this rank's in the call; false: calls of its kind are not made so. */
static bool what_others_read(const td_place *p, size_t all, const void **in, size_t *in_bytes,
                             void **out, size_t *out_bytes)
{
    const td_call *c = p->call;
    size_t most = c->bytes;
    *in = c->in, *in_bytes = c->bytes, *out = NULL, *out_bytes = 0;
    switch (c->pattern) {
    case TD_BROADCAST:
        if (p->rank != c->root) *in = NULL;
        return most >= OPEN_FROM;
    case TD_SCATTER:
        if (p->rank != c->root) *in = NULL;
        *in_bytes = all;
        return td_place_most_part(p) >= OPEN_FROM;
    case TD_ALLGATHER:
        *in_bytes = td_call_part(c, p->rank);
        if (!*in_bytes) *in = NULL;
        return td_place_most_part(p) >= OPEN_FROM;
    case TD_ALLTOALL: *in_bytes = all; return !c->parts && most >= OPEN_FROM;
    case TD_REDUCE_SCATTER: *in_bytes = all; return td_place_most_part(p) >= OPEN_FROM;
    case TD_ALLREDUCE: *out = c->out, *out_bytes = c->bytes; return most >= OPEN_FROM;
    default: return false;
    }
}

/* The length that tries go by. */
static size_t length_of(const td_place *p)
{
    td_pattern of = p->call->pattern;
    bool parts = of == TD_ALLGATHER || of == TD_SCATTER || of == TD_GATHER;
    return parts ? td_place_most_moved(p) : p->call->bytes;
}

/* Two processes never map each other's vectors for such a call, but may fetch them, or stage. */
static bool is_probed_shut(const td_place *p)
{
    td_pattern of = p->call->pattern;
    return p->size == 2 && (of == TD_GATHER || of == TD_REDUCE) && length_of(p) >= HALVES_FROM;
}

td_status td_direct_opens(td_place *p, size_t all)
{
    const td_call *c = p->call;
    const void *in;
    void *out;
    size_t in_bytes, out_bytes;
    bool two_ways = c->pattern == TD_ALLREDUCE && p->size == 2; /* else threads need not be seen */
    if (p->comm->ops->one_memory && !two_ways) return TD_OK;
    bool opens = what_others_read(p, all, &in, &in_bytes, &out, &out_bytes);
    if (!opens && !is_probed_shut(p)) return TD_OK;
    if (opens)
        td_meet_open_up(p->meet, in, in_bytes, out, out_bytes);
    else
        td_meet_keep_shut(p->meet);
    bool times = !td_root_gives(c) || p->rank == c->root;
    td_meet_two_ways(p->meet, c->pattern, length_of(p), times);
    p->probes =
        p->size == 2 && !td_meet_expects(p->meet, c->pattern) && c->pattern != TD_REDUCE_SCATTER;
    int from = td_root_gives(c) ? c->root : -1;
    return td_meet_see(p->meet, c->pattern, from, in, out, &p->open);
}

/* Of two ranks one gives and one takes: each moves half, at once. */
static td_status move_half(td_place *p, const td_stream *s)
{
    int other = 1 - p->rank, giver = s->out ? other : p->rank;
    size_t bytes = td_stream_bytes(s, giver), half = bytes / 2 / PAGE * PAGE;
    TD_TRY(td_meet_arrived(p->meet, other));
    if (s->out) {
        TD_TRY(fetch(p, s->all, other, 0, td_stream_to(s, other), half));
    } else {
        size_t at = td_stream_at(s, p->rank) + half;
        TD_TRY(put(p, s->all, other, at, s->in + half, bytes - half));
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

td_status td_direct_spread(td_place *p, const td_stream *s)
{
    bool one_takes = p->size == 2 && !p->open && p->call->pattern != TD_ALLGATHER;
    TD_TRY(show(p, s->in, s->out));
    td_place_keep_own(p, s, 0, td_stream_bytes(s, p->rank));
    if (one_takes) return move_half(p, s);
    for (int k = 1; k < p->size && s->out; k++) {
        int r = td_place_after(p, k);
        size_t bytes = td_stream_bytes(s, r);
        if (s->writer >= 0 && r != s->writer) continue;
        TD_TRY(td_meet_arrived(p->meet, r));
        if (bytes) TD_TRY(fetch(p, s->all, r, 0, td_stream_to(s, r), bytes));
    }
    td_meet_done(p->meet);
    return td_stream_bytes(s, p->rank) ? td_meet_all_done(p->meet) : TD_OK;
}

/* The other's part of the root's vector: each moves half of it, as in move_half. */
static td_status scatter_halves(td_place *p)
{
    const td_call *c = p->call;
    int other = 1 - p->rank, taker = 1 - c->root;
    size_t bytes = td_call_part(c, taker), half = bytes / 2 / PAGE * PAGE;
    size_t at = td_call_offset(c, taker), all = td_place_all(c, 2);
    TD_TRY(td_meet_arrived(p->meet, other));
    if (p->rank == taker)
        TD_TRY(fetch(p, all, other, at, c->out, half));
    else
        TD_TRY(put(p, all, other, half, (const char *)c->in + at + half, bytes - half));
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

td_status td_direct_scatter(td_place *p)
{
    const td_call *c = p->call;
    bool gives = p->rank == c->root;
    size_t at = td_call_offset(c, p->rank), own = td_call_part(c, p->rank);
    size_t all = td_place_all(c, p->size);
    TD_TRY(show(p, gives ? c->in : NULL, gives ? NULL : c->out));
    const char *from = gives ? (const char *)c->in + at : NULL;
    if (gives && own && c->out && c->out != from) td_place_keep(p, all, c->out, from, own);
    if (p->size == 2 && !p->open) return scatter_halves(p);
    if (!gives) TD_TRY(td_meet_arrived(p->meet, c->root));
    if (!gives && own) TD_TRY(fetch(p, all, c->root, at, c->out, own));
    td_meet_done(p->meet);
    return gives ? td_meet_all_done(p->meet) : TD_OK;
}

bool td_direct_folds(const td_place *p)
{
    const td_call *c = p->call;
    size_t bytes = c->pattern == TD_REDUCE_SCATTER ? td_place_most_part(p) : c->bytes;
    return p->open || (p->comm->ops->one_memory && bytes >= DIRECT_FROM);
}

td_status td_direct_alltoall(td_place *p)
{
    const td_call *c = p->call;
    size_t bytes = c->bytes, at = bytes * (size_t)p->rank, all = td_place_all(c, p->size);
    TD_TRY(show(p, c->in, NULL));
    td_place_keep(p, all, (char *)c->out + at, (const char *)c->in + at, bytes);
    for (int k = 1; k < p->size; k++) {
        int r = td_place_after(p, k);
        TD_TRY(td_meet_arrived(p->meet, r));
        TD_TRY(fetch(p, all, r, at, (char *)c->out + (size_t)r * bytes, bytes));
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* Where all ranks' vectors lie, `at` bytes on. */
static td_status all_in(td_place *p, size_t at, const void *part[TD_MEET_RANKS])
{
    for (int r = 0; r < p->size; r++) {
        TD_TRY(td_meet_in(p->meet, r, &part[r]));
        part[r] = (const char *)part[r] + at;
    }
    return TD_OK;
}

td_status td_direct_reduce_scatter(td_place *p)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    size_t at = td_call_offset(c, p->rank), own = td_call_part(c, p->rank);
    TD_TRY(show(p, c->in, NULL));
    TD_TRY(td_meet_arrived(p->meet, -1));
    TD_TRY(all_in(p, at, part));
    TD_TRY(td_meet_look(p->meet));
    td_reduction_fold(&c->how, part, p->size, own / c->how.width, c->out);
    TD_TRY(td_meet_look_away(p->meet));
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* All-reduce: takes the slices that others have reduced. */
static td_status take_slices(td_place *p)
{
    const td_call *c = p->call;
    size_t width = c->how.width;
    TD_TRY(td_meet_reduced(p->meet));
    for (int k = 1; k < p->size; k++) {
        int r = td_place_after(p, k);
        size_t from = td_place_slice(p, c->count, r) * width,
               to = td_place_slice(p, c->count, r + 1) * width;
        const void *theirs;
        TD_TRY(td_meet_out(p->meet, r, &theirs));
        TD_TRY(
            copy_seen(p, c->bytes, (char *)c->out + from, (const char *)theirs + from, to - from));
    }
    return TD_OK;
}

/* Slices are folded from the vectors to the result (of the root, of each rank) at once. */
td_status td_direct_reduce(td_place *p)
{
    const td_call *c = p->call;
    size_t width = c->how.width, lo = td_place_slice(p, c->count, p->rank),
           hi = td_place_slice(p, c->count, p->rank + 1);
    const void *part[TD_MEET_RANKS];
    TD_TRY(show(p, c->in, c->out));
    TD_TRY(td_meet_arrived(p->meet, -1));
    TD_TRY(all_in(p, lo * width, part));
    char *out = c->pattern == TD_REDUCE ? td_meet_theirs(p->meet, c->root) : c->out;
    TD_TRY(td_meet_look(p->meet));
    td_reduction_fold(&c->how, part, p->size, hi - lo, out + lo * width);
    TD_TRY(td_meet_look_away(p->meet));
    td_meet_reduce(p->meet);
    if (c->pattern == TD_ALLREDUCE) TD_TRY(take_slices(p));
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* Each rank folds all of the vectors itself. */
static td_status fold_whole(td_place *p)
{
    const td_call *c = p->call;
    const void *part[TD_MEET_RANKS];
    TD_TRY(all_in(p, 0, part));
    TD_TRY(td_meet_look(p->meet));
    td_reduction_fold(&c->how, part, p->size, c->count, c->out);
    TD_TRY(td_meet_look_away(p->meet));
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* Of two ranks: in slices, each rank reads half as much of what is new to its caches, but writes to
 * lines that the other has there, and awaits it once more. What is less depends on whether vectors
 * have been written since the last call. */
td_status td_direct_allreduce_seen(td_place *p)
{
    if (p->size != 2 || !td_meet_apart(p->meet)) return td_direct_reduce(p);
    bool second;
    TD_TRY(td_meet_second_way(p->meet, &second));
    TD_TRY(second ? fold_whole(p) : td_direct_reduce(p));
    return td_meet_way_ends(p->meet);
}

/* Elements [at, at + count): what the other shows is fetched, to where its sum goes if this rank
 * has a result apart from its vector (those lines need not be fetched as well), and folded. */
static td_status fetch_and_fold(td_place *p, size_t at, size_t count, char *room, char **sum)
{
    const td_call *c = p->call;
    size_t offset = at * c->how.width;
    const void *part[2], *theirs;
    *sum = td_place_takes(p, p->rank) ? (char *)c->out + offset : room;
    char *piece = c->in == c->out ? room : *sum;
    TD_TRY(td_meet_in(p->meet, 1 - p->rank, &theirs));
    TD_TRY(td_meet_fetch(p->meet, 1 - p->rank, (const char *)theirs + offset, piece,
                         count * c->how.width));
    part[p->rank] = (const char *)c->in + offset, part[1 - p->rank] = piece;
    td_reduction_fold(&c->how, part, 2, count, *sum);
    return TD_OK;
}

/* Of two processes, through the system: each folds a slice, piece by piece while the caches hold
 * them, and puts what comes of it into the other's result. */
td_status td_direct_reduce_of_two(td_place *p)
{
    const td_call *c = p->call;
    int other = 1 - p->rank;
    size_t most = PIECE / c->how.width, to = td_place_slice(p, c->count, p->rank + 1), count;
    char *room = td_meet_scratch(p->meet, PIECE), *sum;
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for a piece of a reduction");
    TD_TRY(show(p, c->in, c->out));
    TD_TRY(td_meet_arrived(p->meet, other));
    for (size_t at = td_place_slice(p, c->count, p->rank); at < to; at += count) {
        count = td_smaller(to - at, most);
        TD_TRY(fetch_and_fold(p, at, count, room, &sum));
        if (td_place_takes(p, other))
            TD_TRY(put(p, c->bytes, other, at * c->how.width, sum, count * c->how.width));
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}
