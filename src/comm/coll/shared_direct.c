/* Patterns over the ranks' own buffers, which threads read where they lie and processes fetch
 * through the system: see shared.c. */
#include "comm/coll/shared_impl.h"

#include "base/error.h"

enum {
    DIRECT_FROM = 16 << 10,
    FETCH_FROM = 32 << 10, /* by processes, up to TD_SHARED_THROUGH */
    PIECE = 64 << 10,      /* fetched at a time, for a reduction */
    /* Where one writes, or reads: staged, it need not wait for the others. */
    ONE_FROM = 256 << 10,
    ONE_OF_TWO_FROM = 64 << 10
};

/* From where that rank's memory lies. */
static td_status fetch(td_place *p, int rank, const char *from, void *to, size_t bytes)
{
    if (!p->comm->ops->one_memory) return td_meet_fetch(p->meet, rank, from, to, bytes);
    TD_TRY(td_meet_look(p->meet));
    td_place_copy(to, from, bytes);
    td_meet_look_away(p->meet);
    return TD_OK;
}

/* From how long a part on it may be read where it lies. Several processes that fetch from one get
 * in each other's way. */
static size_t direct_from(const td_place *p)
{
    bool one = p->call->pattern == TD_BROADCAST || p->call->pattern == TD_GATHER;
    if (one && p->size == 2) return ONE_OF_TWO_FROM;
    if (p->comm->ops->one_memory) return one ? ONE_FROM : DIRECT_FROM;
    return one ? SIZE_MAX : FETCH_FROM;
}

td_status td_direct_serves(td_place *p, size_t bytes, size_t all, bool *out)
{
    if (p->comm->ops->one_memory) {
        *out = bytes >= direct_from(p);
        return TD_OK;
    }
    *out = bytes >= direct_from(p) && all * (size_t)p->size < TD_SHARED_THROUGH;
    return *out ? td_meet_reaches(p->meet, out) : TD_OK;
}

td_status td_direct_spread(td_place *p, const td_stream *s)
{
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, s->in, NULL);
    td_place_keep_own(p, s);
    for (int k = 1; k < p->size && s->out; k++) {
        int r = (p->rank + k) % p->size;
        size_t bytes = td_stream_bytes(s, r);
        if (s->writer >= 0 && r != s->writer) continue;
        TD_TRY(td_meet_arrived(p->meet, r));
        if (bytes) TD_TRY(fetch(p, r, td_meet_in(p->meet, r), td_stream_to(s, r), bytes));
    }
    td_meet_done(p->meet);
    return td_stream_bytes(s, p->rank) ? td_meet_all_done(p->meet) : TD_OK;
}

bool td_direct_folds(const td_place *p)
{
    const td_call *c = p->call;
    size_t bytes = c->pattern == TD_REDUCE_SCATTER ? td_place_most_part(p) : c->bytes;
    return p->comm->ops->one_memory && bytes >= DIRECT_FROM;
}

td_status td_direct_alltoall(td_place *p)
{
    const td_call *c = p->call;
    size_t bytes = c->bytes, at = bytes * (size_t)p->rank;
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, c->in, NULL);
    td_place_keep(p, bytes * (size_t)p->size, (char *)c->out + at, (const char *)c->in + at, bytes);
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
td_status td_direct_reduce_scatter(td_place *p)
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

/* Threads: slices are folded from the vectors to the result (of the root, of each rank) at once. */
td_status td_direct_reduce(td_place *p)
{
    const td_call *c = p->call;
    size_t width = c->how.width, lo = td_place_slice(p, c->count, p->rank),
           hi = td_place_slice(p, c->count, p->rank + 1);
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
            size_t from = td_place_slice(p, c->count, r) * width,
                   to = td_place_slice(p, c->count, r + 1) * width;
            td_place_copy(out + from, (const char *)td_meet_out(p->meet, r) + from, to - from);
        }
        td_meet_look_away(p->meet);
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

/* Of two processes each fetches all that the other has, piece by piece, and folds it: what one has
 * written the other only reads, so no line changes hands twice. `shown`: what the other fetches. */
static td_status fetch_and_fold(td_place *p, const char *shown, char *piece)
{
    const td_call *c = p->call;
    int other = 1 - p->rank;
    size_t width = c->how.width, most = PIECE / width;
    TD_TRY(td_meet_round(p->meet, 0));
    td_meet_arrive(p->meet, shown, NULL);
    TD_TRY(td_meet_arrived(p->meet, other));
    const char *theirs = td_meet_in(p->meet, other);
    for (size_t at = 0; at < c->count; at += most) {
        size_t count = td_smaller(c->count - at, most), offset = at * width;
        const void *part[2] = {piece, piece};
        TD_TRY(td_meet_fetch(p->meet, other, theirs + offset, piece, count * width));
        part[p->rank] = shown + offset;
        td_reduction_fold(&c->how, part, 2, count, (char *)c->out + offset);
    }
    td_meet_done(p->meet);
    return td_meet_all_done(p->meet);
}

td_status td_direct_allreduce_of_two(td_place *p)
{
    const td_call *c = p->call;
    bool apart = c->in != c->out; /* else the other fetches a copy */
    char *room = td_meet_scratch(p->meet, PIECE + (apart ? 0 : c->bytes));
    if (!room) return td_fail(TD_ERR_NOMEM, "no memory for an all-reduce of %zu bytes", c->bytes);
    if (!apart) memcpy(room + PIECE, c->in, c->bytes);
    return fetch_and_fold(p, apart ? c->in : room + PIECE, room);
}
