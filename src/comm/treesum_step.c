/* The steps of a posted range: see treesum_impl.h. Every range goes its way by itself, so that one
 * that waits for a slow rank or a message holds up none of the others. Allocates nothing. */
#include "comm/treesum_impl.h"

#include "base/clock.h"
#include "base/error.h"

#include <string.h>

static uint64_t load(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static void raise(td_treesum *ts, uint64_t *counter, uint64_t value)
{
    __atomic_store_n(counter, value, __ATOMIC_RELEASE);
    if (ts->size > 1) td_bell_ring(ts->bell);
}

static bool all_posted(const td_treesum *ts, int index)
{
    uint64_t want = ts->before + (uint64_t)index + 1;
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].posted) < want) return false;
    return true;
}

/* Counts ranges that are done, in whatever order: only all of them together mean something. */
static void set_done(td_treesum *ts, td_range *r)
{
    r->state = TD_RANGE_DONE;
    ts->finished++;
    raise(ts, &ts->counter[ts->local].done, ts->before + (uint64_t)ts->finished);
}

/* --- messages --- */

/* Tags tell ranges, phases and nodes apart. */
static int tag_of(const td_treesum *ts, const td_range *r, int phase, int node)
{
    return TD_TAG_RANGES + ((int)(r - ts->ranges) * 2 + phase) * 64 + node;
}

static td_status receive(td_treesum *ts, td_range *r, void *data, size_t bytes, int peer, int tag)
{
    td_request *q = &r->requests[r->request_count];
    *q = (td_request){.data = data, .bytes = bytes, .peer = peer, .tag = tag};
    TD_TRY(ts->comm->ops->irecv(ts->comm, q));
    r->request_count++;
    return TD_OK;
}

static td_status send(td_treesum *ts, td_range *r, void *data, size_t bytes, int peer, int tag)
{
    td_request *q = &r->requests[r->request_count];
    *q = (td_request){.data = data, .bytes = bytes, .peer = peer, .tag = tag};
    TD_TRY(ts->comm->ops->isend(ts->comm, q));
    r->request_count++;
    ts->comm->bytes_sent += bytes;
    ts->times.bytes_sent += bytes;
    return TD_OK;
}

static td_status requests_done(td_treesum *ts, td_range *r, bool *all)
{
    *all = true;
    for (int k = 0; k < r->request_count; k++) {
        bool done;
        TD_TRY(ts->comm->ops->test(ts->comm, &r->requests[k], &done));
        if (!done) *all = false;
    }
    return TD_OK;
}

/* --- between islands --- */

typedef struct span {
    size_t lo, hi;
} span;

/* Island i's piece of this channel's slice. */
static span piece_of(const td_treesum *ts, const td_range *r, int i)
{
    size_t lo = td_treesum_cut(r->lo, r->hi, ts->channels, ts->local);
    size_t hi = td_treesum_cut(r->lo, r->hi, ts->channels, ts->local + 1);
    return (span){.lo = td_treesum_cut(lo, hi, ts->islands, i),
                  .hi = td_treesum_cut(lo, hi, ts->islands, i + 1)};
}

static size_t bytes_of(span s)
{
    return (s.hi - s.lo) * sizeof(float);
}

/* This island's nodes of piece i go to island i; theirs of my piece come here. */
static td_status scatter_nodes(td_treesum *ts, td_range *r)
{
    span mine = piece_of(ts, r, ts->island);
    for (int i = 0, node = 0; i < ts->islands; node += ts->island_nodes[i++])
        for (int k = 0; k < ts->island_nodes[i] && i != ts->island; k++)
            TD_TRY(receive(ts, r, ts->received + (size_t)(node + k) * ts->piece_room + r->room,
                           bytes_of(mine), ts->first[i] + ts->local, tag_of(ts, r, 0, k)));
    for (int step = 1; step < ts->islands; step++) {
        int i = (ts->island + step) % ts->islands;
        span theirs = piece_of(ts, r, i);
        for (int k = 0; k < ts->left_count; k++)
            TD_TRY(send(ts, r, ts->left_data[k] + theirs.lo, bytes_of(theirs),
                        ts->first[i] + ts->local, tag_of(ts, r, 0, k)));
    }
    return TD_OK;
}

/* Leaf values of other islands come straight into this one's memory. */
static td_status scatter_leaves(td_treesum *ts, td_range *r)
{
    size_t row = (size_t)ts->config.leaf_values;
    double *leaf = ts->leaf[ts->step & 1];
    if (ts->local != 0 || row == 0) return TD_OK;
    for (int step = 1; step < ts->islands; step++) {
        int i = (ts->island + ts->islands - step) % ts->islands;
        size_t begin = (size_t)ts->bounds[ts->first[i]];
        size_t end = (size_t)ts->bounds[ts->first[i + 1]];
        TD_TRY(receive(ts, r, leaf + begin * row, (end - begin) * row * sizeof *leaf, ts->first[i],
                       tag_of(ts, r, 0, 0)));
    }
    size_t begin = (size_t)ts->bounds[ts->first[ts->island]];
    size_t end = (size_t)ts->bounds[ts->first[ts->island + 1]];
    for (int step = 1; step < ts->islands; step++)
        TD_TRY(send(ts, r, leaf + begin * row, (end - begin) * row * sizeof *leaf,
                    ts->first[(ts->island + step) % ts->islands], tag_of(ts, r, 0, 0)));
    return TD_OK;
}

/* My piece is added and sent to all; theirs come here. */
static td_status gather_sums(td_treesum *ts, td_range *r)
{
    span mine = piece_of(ts, r, ts->island);
    for (int i = 0, node = 0; i < ts->islands; i++)
        for (int k = 0; k < ts->island_nodes[i]; k++, node++)
            ts->all_parts[node] = i == ts->island
                                      ? ts->left_data[k] + mine.lo
                                      : ts->received + (size_t)node * ts->piece_room + r->room;
    td_tree_fold(ts->all_parts, ts->all_merges, ts->all_count, 0, mine.hi - mine.lo,
                 ts->sum + mine.lo);
    r->request_count = 0;
    for (int step = 1; step < ts->islands; step++) {
        int i = (ts->island + step) % ts->islands, peer = ts->first[i] + ts->local;
        span theirs = piece_of(ts, r, i);
        TD_TRY(receive(ts, r, ts->sum + theirs.lo, bytes_of(theirs), peer, tag_of(ts, r, 1, 0)));
        TD_TRY(send(ts, r, ts->sum + mine.lo, bytes_of(mine), peer, tag_of(ts, r, 1, 0)));
    }
    return TD_OK;
}

/* --- one range --- */

static td_status begin_range(td_treesum *ts, td_range *r)
{
    size_t lo = td_treesum_cut(r->lo, r->hi, ts->channels, ts->local);
    size_t hi = td_treesum_cut(r->lo, r->hi, ts->channels, ts->local + 1);
    if (ts->islands == 1) {
        if (ts->sum != ts->own_nodes && lo < hi)
            td_tree_fold(ts->parts, ts->merges, ts->part_count, lo, hi, ts->sum);
        set_done(ts, r);
        return TD_OK;
    }
    r->state = TD_RANGE_SCATTERED;
    if (r->last) return scatter_leaves(ts, r);
    if (lo < hi) td_tree_fold_to(ts->parts, ts->merges, ts->part_count, lo, hi, ts->left_data);
    return scatter_nodes(ts, r);
}

/* Does what has become possible; *moved: something was. */
static td_status advance(td_treesum *ts, int index, bool *moved)
{
    td_range *r = &ts->ranges[index];
    bool all;
    if (r->state == TD_RANGE_WAITING) {
        if (!all_posted(ts, index)) return TD_OK;
        *moved = true;
        if (ts->local >= ts->channels) { /* others of the island do it */
            set_done(ts, r);
            return TD_OK;
        }
        TD_TRY(begin_range(ts, r));
    }
    if (r->state == TD_RANGE_SCATTERED) {
        TD_TRY(requests_done(ts, r, &all));
        if (!all) return TD_OK;
        *moved = true;
        r->state = TD_RANGE_GATHERING;
        if (!r->last) TD_TRY(gather_sums(ts, r));
    }
    if (r->state == TD_RANGE_GATHERING) {
        TD_TRY(requests_done(ts, r, &all));
        if (all) set_done(ts, r);
    }
    return TD_OK;
}

td_status td_treesum_progress(td_treesum *ts)
{
    if (ts->finished == ts->posted) return TD_OK;
    int64_t begin = td_clock_ns();
    bool moved = false;
    for (int i = 0; i < ts->posted; i++)
        if (ts->ranges[i].state != TD_RANGE_DONE) TD_TRY(advance(ts, i, &moved));
    if (moved) ts->times.move_ns += td_clock_ns() - begin;
    return TD_OK;
}

static void post(td_treesum *ts, size_t lo, size_t hi, bool last)
{
    td_range *r = &ts->ranges[ts->posted++];
    r->lo = lo, r->hi = hi, r->last = last;
    r->state = TD_RANGE_WAITING;
    r->request_count = 0;
    raise(ts, &ts->counter[ts->local].posted, ts->before + (uint64_t)ts->posted);
}

td_status td_treesum_post(td_treesum *ts, size_t lo, size_t hi)
{
    if (lo > hi || hi > ts->config.count)
        return td_fail(TD_ERR_ARG, "range %zu to %zu does not lie in the sum's %zu floats", lo, hi,
                       ts->config.count);
    if (ts->posted == ts->config.most_ranges)
        return td_fail(TD_ERR_ARG, "more than %d ranges in one sum", ts->config.most_ranges);
    td_range *r = &ts->ranges[ts->posted];
    if (ts->islands > 1 && ts->local < ts->channels) {
        r->lo = lo, r->hi = hi;
        span mine = piece_of(ts, r, ts->island);
        r->room = ts->piece_used;
        if (mine.hi - mine.lo > ts->piece_room - r->room)
            return td_fail(TD_ERR_ARG, "the ranges of a sum overlap: %zu to %zu", lo, hi);
        ts->piece_used = td_treesum_up(r->room + mine.hi - mine.lo, 16);
    }
    post(ts, lo, hi, false);
    return TD_OK;
}

/* --- the end of a step --- */

static int missing_rank(void *arg)
{
    td_treesum *ts = arg;
    int first = ts->first[ts->island];
    uint64_t want = ts->before + (uint64_t)ts->posted;
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].posted) < want) return first + r;
    for (int i = 0; i < ts->posted; i++) {
        const td_range *r = &ts->ranges[i];
        for (int k = 0; k < r->request_count && r->state != TD_RANGE_DONE; k++)
            if (__atomic_load_n(&r->requests[k].done, __ATOMIC_ACQUIRE) != 1)
                return r->requests[k].peer;
    }
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].done) < want) return first + r;
    return -1;
}

static td_status test_all(void *arg, bool *done)
{
    td_treesum *ts = arg;
    TD_TRY(td_treesum_progress(ts));
    *done = false;
    if (ts->finished < ts->posted) return TD_OK;
    uint64_t want = ts->before + (uint64_t)ts->posted;
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].done) < want) return TD_OK;
    *done = true;
    return TD_OK;
}

td_status td_treesum_wait(td_treesum *ts)
{
    int64_t begin = td_clock_ns(), moved = ts->times.move_ns;
    int values = ts->config.leaf_values;
    struct td_record *record =
        td_comm_begin(ts->comm, &(td_note){TD_DOES_TREESUM, ts->config.count * sizeof(float),
                                           TD_F32, TD_SUM, -1});
    if (!ts->waiting) post(ts, ts->config.count, ts->config.count, true);
    ts->waiting = true;
    /* Messages from other islands ring no bell. */
    td_status status =
        td_comm_wait(ts->comm, -1, ts->islands == 1 ? ts->bell : NULL, test_all, missing_rank, ts);
    if (status == TD_OK) {
        for (int v = 0; v < values; v++)
            ts->leaf_sums[v] =
                td_tree_fold_doubles(ts->leaf[ts->step & 1] + v, (size_t)values, ts->config.leaves);
        ts->before += (uint64_t)ts->posted;
        ts->posted = ts->finished = 0;
        ts->piece_used = 0;
        ts->waiting = false;
        ts->step++;
    }
    ts->times.wait_ns += td_clock_ns() - begin - (ts->times.move_ns - moved);
    return td_comm_end(record, status);
}
