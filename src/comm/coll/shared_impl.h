/* What the files of the patterns over shared memory have in common: shared.c chooses,
 * shared_staged.c has the ways through the ranks' blocks, shared_direct.c those that read where
 * vectors lie. */
#ifndef TD_COMM_COLL_SHARED_IMPL_H
#define TD_COMM_COLL_SHARED_IMPL_H

#include "comm/coll/meet.h"

#include "math/kernels.h"

#include <string.h>

enum {
    TD_SHARED_LINE = 64,
    TD_SHARED_CLOSE = 512,
    TD_SHARED_THROUGH = 16 << 20 /* bytes of all ranks' results */
};

typedef struct td_place { /* a call at its meeting place */
    td_comm *comm;
    td_meet *meet;
    const td_call *call;
    int rank, size;
    bool open;   /* all have arrived, and this rank sees what it reads of theirs */
    bool probes; /* which of two ways takes less time */
    bool shown;  /* this rank has arrived with its vectors */
} td_place;

/* The k-th rank behind this one. */
static inline int td_place_after(const td_place *p, int k)
{
    int r = p->rank + k;
    return r < p->size ? r : r - p->size;
}

/* Whether the root alone gives: it need not wait for the others. */
static inline bool td_root_gives(const td_call *c)
{
    return c->pattern == TD_BROADCAST || c->pattern == TD_SCATTER;
}

/* Whether that rank has a result, of a pattern with a root or an all-reduce. */
static inline bool td_place_takes(const td_place *p, int rank)
{
    const td_call *c = p->call;
    return c->pattern == TD_ALLREDUCE || td_root_gives(c) != (rank == c->root);
}

/* Bytes of the parts of all ranks. */
static inline size_t td_place_all(const td_call *c, int size)
{
    return c->parts ? c->bytes : c->bytes * (size_t)size;
}

/* What each writer gives to all readers: broadcast, gather, all-gather. */
typedef struct td_stream {
    const char *in; /* this rank's */
    char *out;      /* NULL: this rank does not read */
    const td_call *call;
    int writer; /* -1: all write */
    size_t all; /* bytes of the result */
} td_stream;

static inline void td_place_copy(void *to, const void *from, size_t bytes)
{
    td_kernels_best()->copy(bytes, from, to);
}

/* To where a call's result of `all` bytes goes: past the caches where all ranks' would drive out
 * what is staged. */
static inline void td_place_give(const td_place *p, size_t all, void *to, const void *from,
                                 size_t bytes)
{
    if (all * (size_t)p->size >= TD_SHARED_THROUGH)
        td_kernels_best()->copy_through(bytes, from, to);
    else
        td_place_copy(to, from, bytes);
}

/* A rank's own part, which nobody else touches meanwhile: as the system's library finds best, which
 * brings what is fetched besides into the caches, too. */
static inline void td_place_keep(const td_place *p, size_t all, void *to, const void *from,
                                 size_t bytes)
{
    if (all * (size_t)p->size >= TD_SHARED_THROUGH && !p->shown)
        td_kernels_best()->copy_through(bytes, from, to);
    else
        memcpy(to, from, bytes);
}

static inline size_t td_smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t td_stream_bytes(const td_stream *s, int rank)
{
    if (s->writer >= 0) return rank == s->writer ? s->call->bytes : 0;
    return td_call_part(s->call, rank);
}

/* Of what that rank writes, in the result. */
static inline size_t td_stream_at(const td_stream *s, int rank)
{
    return s->writer >= 0 ? 0 : td_call_offset(s->call, rank);
}

static inline char *td_stream_to(const td_stream *s, int rank)
{
    return s->out + td_stream_at(s, rank);
}

/* Bytes [at, at + bytes) of this rank's own part, to its place in the result. */
static inline void td_place_keep_own(const td_place *p, const td_stream *s, size_t at, size_t bytes)
{
    char *to = s->out && bytes ? td_stream_to(s, p->rank) : NULL;
    if (to && to != s->in) td_place_keep(p, s->all, to + at, s->in + at, bytes);
}

/* Slices end on cache lines, so that no two ranks write one. */
static inline size_t td_place_slice(const td_place *p, size_t count, int rank)
{
    size_t width = p->call->how.width, unit = width < TD_SHARED_LINE ? TD_SHARED_LINE / width : 1;
    size_t units = (count + unit - 1) / unit;
    return td_smaller(units * (size_t)rank / (size_t)p->size * unit, count);
}

/* The longest part that goes from one rank to another: a root that gathers or scatters has its own.
 */
static inline size_t td_place_most_moved(const td_place *p)
{
    bool rooted = p->call->pattern == TD_GATHER || p->call->pattern == TD_SCATTER;
    size_t most = 0;
    for (int r = 0; r < p->size; r++)
        if (td_call_part(p->call, r) > most && !(rooted && r == p->call->root))
            most = td_call_part(p->call, r);
    return most;
}

/* The longest part that a rank gives this one or another. */
static inline size_t td_place_most_part(const td_place *p)
{
    size_t most = 0;
    for (int r = 0; r < p->size; r++)
        if (td_call_part(p->call, r) > most) most = td_call_part(p->call, r);
    return most;
}

/* Each collective, among the ranks of the host. */
TD_MUST_CHECK td_status td_staged_spread(td_place *p, const td_stream *s);
TD_MUST_CHECK td_status td_staged_scatter(td_place *p);
TD_MUST_CHECK td_status td_staged_alltoall(td_place *p);
TD_MUST_CHECK td_status td_staged_reduce_scatter(td_place *p);
TD_MUST_CHECK td_status td_staged_reduce(td_place *p); /* reduce, all-reduce */
TD_MUST_CHECK td_status td_staged_scan(td_place *p);

/* Whether ranks read parts of `bytes` at most where they lie, for a result of `all`: processes only
 * while that stays in the caches, because the system copies through them, and brings a line there
 * before it writes it. */
TD_MUST_CHECK td_status td_direct_serves(td_place *p, size_t bytes, size_t all, bool *out);
/* The same where two processes find out which takes less time; and the end of the call. */
TD_MUST_CHECK td_status td_direct_chosen(td_place *p, size_t bytes, size_t all, bool *out);
TD_MUST_CHECK td_status td_direct_choice_ends(td_place *p);
/* Finds out p->open: where processes read what both have mapped; and p->probes: where two of them
 * try two ways. `all`: bytes of all parts. */
TD_MUST_CHECK td_status td_direct_opens(td_place *p, size_t all);
TD_MUST_CHECK td_status td_direct_spread(td_place *p, const td_stream *s);
TD_MUST_CHECK td_status td_direct_scatter(td_place *p);
TD_MUST_CHECK td_status td_direct_alltoall(td_place *p); /* of equal parts */
/* Reductions: whether there is a way, and that. */
bool td_direct_folds(const td_place *p);
TD_MUST_CHECK td_status td_direct_reduce_scatter(td_place *p);
TD_MUST_CHECK td_status td_direct_reduce(td_place *p);         /* reduce (threads'), all-reduce */
TD_MUST_CHECK td_status td_direct_allreduce_seen(td_place *p); /* where p->open */
TD_MUST_CHECK td_status td_direct_reduce_of_two(td_place *p);

#endif
