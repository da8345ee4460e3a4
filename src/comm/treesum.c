/* See treesum.h.
 *
 * Ranks that share memory and lie side by side form an *island*: the ranks of a host where all
 * hosts have equally many and their ranks are adjacent, otherwise each rank alone. Of every posted
 * range, local rank j of an island owns slice j:
 *
 *   1. when all ranks of the island have posted, it adds their nodes over the slice
 *      (one island: that is the sum, done);
 *   2. it cuts the slice into one piece per island, sends each island's piece of its island's
 *      nodes to the j-th rank there, and receives its own piece of theirs;
 *   3. adds those nodes in tree order, and sends the summed piece to the j-th ranks of the others.
 *
 * Cost beyond the host: 2 (I - 1) messages a rank and node, 2 (I - 1) / I of the slice's bytes
 * where islands make one node each (a power of two), as the best all-reduce does.
 * Inside: every node is read once, the sum written once, by one of the ranks.
 *
 * Shared memory of an island:
 *   [S] counters | leaf values, twice [L][V] | nodes of rank 0, 1, ... [count] each | sum [count]
 * Counters only grow. Leaf values have two copies that take turns, because a fast rank may begin
 * the next step while a slow one still reads. */
#include "comm/treesum.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/transport.h"

#include <string.h>

typedef struct counters { /* one cache line pair per rank, written by that rank alone */
    uint64_t posted, done; /* ranges since creation */
    char pad[112];
} counters;

typedef enum range_state { WAITING, EXCHANGING, GATHERING, DONE } range_state;

typedef struct range {
    size_t lo, hi;
    range_state state;
    td_request *requests; /* [request_room] */
    int request_count;
} range;

struct td_treesum {
    td_comm *comm;
    td_treesum_config config;
    int leaf_begin, leaf_end;
    int islands, island, size, local; /* number, mine, ranks in each, my place */
    td_region region;
    td_comm *group; /* that shares `region`: comm itself, or NULL where a rank is alone */
    counters *counter; /* [size] */
    double *leaf[2];   /* [leaves][leaf_values] */
    float *sum;
    float *own_nodes; /* first of this rank's */
    int own_count;    /* nodes of this rank over all lanes */
    const float **parts; /* nodes of the island, in order */
    int *merges, part_count;
    td_tree_node *left; /* what they leave */
    int left_count;
    float **left_data; /* [left_count], where several islands */
    void *left_memory;
    /* several islands: */
    int *island_nodes;       /* [islands] */
    const float **all_parts; /* nodes of all islands, in order */
    int *all_merges, all_count;
    float *received; /* [all_count][piece_room] */
    size_t piece_room;
    range *ranges; /* [most_ranges] */
    td_request *requests;
    int request_room;
    int posted, finished; /* of this step */
    uint64_t before;      /* ranges of earlier steps */
    uint64_t step;
    double *all_leaves, *leaf_sums;
    td_treesum_times times;
};

static size_t up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static int cut(int n, int parts, int part)
{
    return (int)((long long)n * part / parts);
}

static size_t cut_range(size_t lo, size_t hi, int parts, int part)
{
    /* On 16-float boundaries, so that no two ranks write one cache line. */
    if (part == 0) return lo;
    if (part == parts) return hi;
    size_t at = lo + (hi - lo) / (size_t)parts * (size_t)part;
    at = up(at, 16);
    return at < hi ? at : hi;
}

static void rank_leaves(const td_treesum *ts, int rank, int *begin, int *end)
{
    *begin = cut(ts->config.leaves, ts->comm->size, rank);
    *end = cut(ts->config.leaves, ts->comm->size, rank + 1);
}

static void lane_leaves(const td_treesum *ts, int rank, int lane, int *begin, int *end)
{
    int first, last;
    rank_leaves(ts, rank, &first, &last);
    *begin = first + cut(last - first, ts->config.lanes, lane);
    *end = first + cut(last - first, ts->config.lanes, lane + 1);
}

static int rank_nodes(const td_treesum *ts, int rank)
{
    int n = 0;
    for (int lane = 0; lane < ts->config.lanes; lane++) {
        int begin, end;
        lane_leaves(ts, rank, lane, &begin, &end);
        n += td_tree_nodes(ts->config.leaves, begin, end, NULL);
    }
    return n;
}

/* --- creation --- */

static void find_islands(td_treesum *ts)
{
    const td_comm *c = ts->comm;
    bool whole = c->size == c->hosts * c->local_size;
    for (int r = 0; r < c->size && whole; r++) whole = c->host[r] == r / c->local_size;
    ts->size = whole ? c->local_size : 1;
    ts->islands = c->size / ts->size;
    ts->island = c->rank / ts->size;
    ts->local = c->rank % ts->size;
}

/* Lays the shared memory out; with base NULL, only measures it. */
static size_t lay_out(td_treesum *ts, char *base)
{
    int first = ts->island * ts->size;
    size_t stride = up(ts->config.count, 16) * sizeof(float), at = 0;
    size_t leaves = up((size_t)ts->config.leaves * (size_t)ts->config.leaf_values * 8, 64);
    if (base) ts->counter = (counters *)base;
    at += up((size_t)ts->size * sizeof *ts->counter, 128);
    for (int k = 0; k < 2; k++, at += leaves)
        if (base) ts->leaf[k] = (double *)(base + at);
    int part = 0;
    for (int r = 0; r < ts->size; r++) {
        int nodes = rank_nodes(ts, first + r);
        if (base && r == ts->local) ts->own_nodes = (float *)(base + at);
        for (int k = 0; k < nodes; k++, part++, at += stride)
            if (base) ts->parts[part] = (float *)(base + at);
    }
    if (base) ts->sum = (float *)(base + at);
    return at + (part == 1 && ts->islands == 1 ? 0 : stride);
}

static td_status plan_island(td_treesum *ts)
{
    int first = ts->island * ts->size, n = 0;
    for (int r = 0; r < ts->size; r++) n += rank_nodes(ts, first + r);
    ts->part_count = n;
    ts->own_count = rank_nodes(ts, ts->comm->rank);
    ts->parts = td_calloc((size_t)n + 1, sizeof *ts->parts);
    ts->merges = td_calloc((size_t)n + 1, sizeof *ts->merges);
    ts->left = td_calloc((size_t)n + TD_TREE_MAX_NODES, sizeof *ts->left);
    if (!ts->parts || !ts->merges || !ts->left) return td_fail(TD_ERR_NOMEM, "no memory for a sum");
    int at = 0;
    for (int r = 0; r < ts->size; r++)
        for (int lane = 0; lane < ts->config.lanes; lane++) {
            int begin, end;
            lane_leaves(ts, first + r, lane, &begin, &end);
            at += td_tree_nodes(ts->config.leaves, begin, end, ts->left + at);
        }
    ts->left_count = td_tree_merge_nodes(ts->config.leaves, ts->left, n, ts->merges, ts->left);
    return TD_OK;
}

/* Several islands: everyone's nodes, and room to receive them. */
static td_status plan_exchange(td_treesum *ts)
{
    int islands = ts->islands, leaves = ts->config.leaves, n = 0;
    size_t stride = up(ts->config.count, 16);
    ts->island_nodes = td_calloc((size_t)islands, sizeof *ts->island_nodes);
    td_tree_node *nodes = td_calloc((size_t)islands * TD_TREE_MAX_NODES, sizeof *nodes);
    td_status status = TD_ERR_NOMEM;
    if (!ts->island_nodes || !nodes) goto out;
    for (int i = 0; i < islands; i++) {
        int begin = cut(leaves, ts->comm->size, i * ts->size);
        int end = cut(leaves, ts->comm->size, (i + 1) * ts->size);
        ts->island_nodes[i] = td_tree_nodes(leaves, begin, end, nodes + n);
        n += ts->island_nodes[i];
    }
    ts->all_count = n;
    ts->all_parts = td_calloc((size_t)n, sizeof *ts->all_parts);
    ts->all_merges = td_calloc((size_t)n, sizeof *ts->all_merges);
    ts->piece_room = up(ts->config.count / (size_t)ts->size / (size_t)islands + 64, 16);
    ts->received = td_alloc_aligned((size_t)n * ts->piece_room * sizeof(float));
    ts->left_memory = td_alloc_aligned((size_t)ts->left_count * stride * sizeof(float));
    ts->left_data = td_calloc((size_t)ts->left_count, sizeof *ts->left_data);
    ts->request_room = 2 * n + 2 * ts->left_count * islands + 2 * islands;
    ts->requests = td_calloc((size_t)ts->request_room * (size_t)ts->config.most_ranges,
                             sizeof *ts->requests);
    if (!ts->all_parts || !ts->all_merges || !ts->received || !ts->left_memory || !ts->left_data ||
        !ts->requests)
        goto out;
    td_tree_merge_nodes(leaves, nodes, n, ts->all_merges, NULL);
    for (int k = 0; k < ts->left_count; k++)
        ts->left_data[k] = (float *)ts->left_memory + (size_t)k * stride;
    for (int i = 0; i < ts->config.most_ranges; i++)
        ts->ranges[i].requests = ts->requests + (size_t)i * (size_t)ts->request_room;
    status = TD_OK;
out:
    td_free(nodes);
    return status == TD_OK ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a sum over hosts");
}

static td_status share_memory(td_treesum *ts, size_t bytes)
{
    if (ts->size == 1) {
        ts->region.data = td_alloc_aligned(bytes);
        if (!ts->region.data) return td_fail(TD_ERR_NOMEM, "no memory for %zu bytes of sums", bytes);
        memset(ts->region.data, 0, bytes);
        return TD_OK;
    }
    ts->group = ts->comm;
    return td_comm_shared_create(ts->comm, bytes, &ts->region);
}

td_status td_treesum_create(td_comm *comm, const td_treesum_config *config, td_treesum **out)
{
    td_status status = TD_OK;
    if (config->leaves < 1 || config->leaves > TD_TREE_MAX_LEAVES)
        return td_fail(TD_ERR_ARG, "leaves must be 1 to %d, not %d", TD_TREE_MAX_LEAVES,
                       config->leaves);
    if (comm->size > config->leaves)
        return td_fail(TD_ERR_ARG, "%d workers are more than the %d leaves of a batch; use at "
                       "most %d workers or more leaves", comm->size, config->leaves, config->leaves);
    if (config->lanes < 1) return td_fail(TD_ERR_ARG, "a rank has at least one lane");
    td_treesum *ts = td_calloc(1, sizeof *ts);
    if (!ts) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a sum");
        return td_comm_agree(comm, status);
    }
    ts->comm = comm;
    ts->config = *config;
    if (ts->config.most_ranges == 0) ts->config.most_ranges = 64;
    rank_leaves(ts, comm->rank, &ts->leaf_begin, &ts->leaf_end);
    find_islands(ts);
    size_t values = (size_t)config->leaf_values, all = values * (size_t)config->leaves;
    ts->ranges = td_calloc((size_t)ts->config.most_ranges, sizeof *ts->ranges);
    ts->all_leaves = td_calloc(all + values + 1, sizeof(double));
    status = plan_island(ts);
    if (status == TD_OK && (!ts->ranges || !ts->all_leaves))
        status = td_fail(TD_ERR_NOMEM, "no memory for a sum");
    if (status == TD_OK && ts->islands > 1) status = plan_exchange(ts);
    TD_GOTO(td_comm_agree(comm, status));
    ts->leaf_sums = ts->all_leaves + all;
    TD_GOTO(share_memory(ts, lay_out(ts, NULL)));
    lay_out(ts, ts->region.data);
    if (ts->part_count == 1 && ts->islands == 1) ts->sum = ts->own_nodes; /* nothing to add */
    *out = ts;
    return TD_OK;
out:
    td_treesum_destroy(ts);
    return status;
}

void td_treesum_destroy(td_treesum *ts)
{
    if (!ts) return;
    for (int i = 0; ts->ranges && i < ts->posted; i++)
        for (int k = 0; k < ts->ranges[i].request_count; k++)
            if (__atomic_load_n(&ts->ranges[i].requests[k].done, __ATOMIC_ACQUIRE) != 1)
                ts->comm->ops->cancel(ts->comm, &ts->ranges[i].requests[k]);
    if (ts->group)
        td_comm_shared_destroy(ts->comm, &ts->region);
    else
        td_free(ts->region.data);
    td_free(ts->parts), td_free(ts->merges), td_free(ts->left), td_free(ts->left_data);
    td_free(ts->left_memory), td_free(ts->island_nodes), td_free(ts->all_parts);
    td_free(ts->all_merges), td_free(ts->received), td_free(ts->ranges), td_free(ts->requests);
    td_free(ts->all_leaves);
    td_free(ts);
}

/* --- what lanes use --- */

void td_treesum_lane_leaves(const td_treesum *ts, int lane, int *begin, int *end)
{
    lane_leaves(ts, ts->comm->rank, lane, begin, end);
}

int td_treesum_nodes(const td_treesum *ts, int lane)
{
    int begin, end;
    td_treesum_lane_leaves(ts, lane, &begin, &end);
    return td_tree_nodes(ts->config.leaves, begin, end, NULL);
}

float *td_treesum_node(const td_treesum *ts, int lane, int k)
{
    int before = 0;
    for (int l = 0; l < lane; l++) before += td_treesum_nodes(ts, l);
    return ts->own_nodes + (size_t)(before + k) * up(ts->config.count, 16);
}

double *td_treesum_leaf(const td_treesum *ts, int leaf)
{
    return ts->leaf[ts->step & 1] + (size_t)leaf * (size_t)ts->config.leaf_values;
}

const float *td_treesum_sum(const td_treesum *ts)
{
    return ts->sum;
}

const double *td_treesum_leaf_sums(const td_treesum *ts)
{
    return ts->leaf_sums;
}

td_treesum_times td_treesum_get_times(const td_treesum *ts)
{
    return ts->times;
}

/* --- the steps of a range --- */

static uint64_t load(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_ACQUIRE);
}

static bool all_posted(const td_treesum *ts, int index)
{
    uint64_t want = ts->before + (uint64_t)index + 1;
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].posted) < want) return false;
    return true;
}

static void set_done(td_treesum *ts, range *r)
{
    r->state = DONE;
    ts->finished++;
    __atomic_store_n(&ts->counter[ts->local].done, ts->before + (uint64_t)ts->finished,
                     __ATOMIC_RELEASE);
}

static td_request *next_request(range *r, void *data, size_t floats, int peer, int tag)
{
    td_request *q = &r->requests[r->request_count++];
    *q = (td_request){.data = data, .bytes = floats * sizeof(float), .peer = peer, .tag = tag};
    return q;
}

/* Tags tell ranges, phases and nodes apart. */
static int tag_of(const td_treesum *ts, const range *r, int phase, int node)
{
    return 2000000 + (int)(r - ts->ranges) * 128 + phase * 64 + node;
}

/* Step 2: my island's nodes of piece i go to island i; theirs of my piece come here. */
static td_status begin_exchange(td_treesum *ts, range *r, size_t lo, size_t hi)
{
    size_t mine_lo = cut_range(lo, hi, ts->islands, ts->island);
    size_t mine_hi = cut_range(lo, hi, ts->islands, ts->island + 1);
    r->request_count = 0;
    for (int i = 0, node = 0; i < ts->islands; node += ts->island_nodes[i++]) {
        int peer = i * ts->size + ts->local;
        if (i == ts->island) continue;
        for (int k = 0; k < ts->island_nodes[i]; k++)
            TD_TRY(ts->comm->ops->irecv(
                ts->comm, next_request(r, ts->received + (size_t)(node + k) * ts->piece_room,
                                       mine_hi - mine_lo, peer, tag_of(ts, r, 0, k))));
    }
    for (int step = 1; step < ts->islands; step++) {
        int i = (ts->island + step) % ts->islands, peer = i * ts->size + ts->local;
        size_t from = cut_range(lo, hi, ts->islands, i), to = cut_range(lo, hi, ts->islands, i + 1);
        for (int k = 0; k < ts->left_count; k++) {
            ts->comm->bytes_sent += (to - from) * sizeof(float);
            TD_TRY(ts->comm->ops->isend(ts->comm, next_request(r, ts->left_data[k] + from, to - from,
                                                               peer, tag_of(ts, r, 0, k))));
        }
    }
    r->state = EXCHANGING;
    return TD_OK;
}

/* Step 3: my piece is added and sent to all; theirs come here. */
static td_status begin_gathering(td_treesum *ts, range *r, size_t lo, size_t hi)
{
    size_t mine_lo = cut_range(lo, hi, ts->islands, ts->island);
    size_t mine_hi = cut_range(lo, hi, ts->islands, ts->island + 1);
    for (int i = 0, node = 0; i < ts->islands; i++)
        for (int k = 0; k < ts->island_nodes[i]; k++, node++)
            ts->all_parts[node] = i == ts->island ? ts->left_data[k] + mine_lo
                                                  : ts->received + (size_t)node * ts->piece_room;
    td_tree_fold(ts->all_parts, ts->all_merges, ts->all_count, 0, mine_hi - mine_lo,
                 ts->sum + mine_lo);
    r->request_count = 0;
    for (int step = 1; step < ts->islands; step++) {
        int i = (ts->island + step) % ts->islands, peer = i * ts->size + ts->local;
        size_t from = cut_range(lo, hi, ts->islands, i), to = cut_range(lo, hi, ts->islands, i + 1);
        TD_TRY(ts->comm->ops->irecv(ts->comm, next_request(r, ts->sum + from, to - from, peer,
                                                           tag_of(ts, r, 1, 0))));
        ts->comm->bytes_sent += (mine_hi - mine_lo) * sizeof(float);
        TD_TRY(ts->comm->ops->isend(ts->comm, next_request(r, ts->sum + mine_lo, mine_hi - mine_lo,
                                                           peer, tag_of(ts, r, 1, 0))));
    }
    r->state = GATHERING;
    return TD_OK;
}

static td_status requests_done(td_treesum *ts, range *r, bool *all)
{
    *all = true;
    for (int k = 0; k < r->request_count; k++) {
        bool done;
        TD_TRY(ts->comm->ops->test(ts->comm, &r->requests[k], &done));
        if (!done) *all = false;
    }
    return TD_OK;
}

static td_status advance(td_treesum *ts, int index)
{
    range *r = &ts->ranges[index];
    size_t lo = cut_range(r->lo, r->hi, ts->size, ts->local);
    size_t hi = cut_range(r->lo, r->hi, ts->size, ts->local + 1);
    if (r->state == WAITING) {
        if (!all_posted(ts, index)) return TD_OK;
        if (ts->islands == 1) {
            if (ts->sum != ts->own_nodes)
                td_tree_fold(ts->parts, ts->merges, ts->part_count, lo, hi, ts->sum);
            set_done(ts, r);
            return TD_OK;
        }
        td_tree_fold_to(ts->parts, ts->merges, ts->part_count, lo, hi, ts->left_data);
        TD_TRY(begin_exchange(ts, r, lo, hi));
    }
    bool all;
    if (r->state == EXCHANGING) {
        /* The room for received pieces is one: ranges are gathered in order. */
        TD_TRY(requests_done(ts, r, &all));
        if (!all) return TD_OK;
        TD_TRY(begin_gathering(ts, r, lo, hi));
    }
    if (r->state == GATHERING) {
        TD_TRY(requests_done(ts, r, &all));
        if (all) set_done(ts, r);
    }
    return TD_OK;
}

td_status td_treesum_progress(td_treesum *ts)
{
    int64_t begin = td_clock_ns();
    td_status status = TD_OK;
    /* Several islands share one room for what is received: one range at a time. */
    while (ts->finished < ts->posted && status == TD_OK) {
        int before = ts->finished;
        status = advance(ts, ts->finished);
        if (ts->finished == before) break;
    }
    ts->times.move_ns += td_clock_ns() - begin;
    return status;
}

td_status td_treesum_post(td_treesum *ts, size_t lo, size_t hi)
{
    if (ts->posted == ts->config.most_ranges)
        return td_fail(TD_ERR_ARG, "more than %d ranges in one sum", ts->config.most_ranges);
    range *r = &ts->ranges[ts->posted++];
    r->lo = lo, r->hi = hi, r->state = WAITING, r->request_count = 0;
    __atomic_store_n(&ts->counter[ts->local].posted, ts->before + (uint64_t)ts->posted,
                     __ATOMIC_RELEASE);
    return TD_OK;
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

static int missing_rank(void *arg)
{
    td_treesum *ts = arg;
    int first = ts->island * ts->size;
    uint64_t want = ts->before + (uint64_t)ts->posted;
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].posted) < want) return first + r;
    if (ts->finished < ts->posted) {
        const range *r = &ts->ranges[ts->finished];
        for (int k = 0; k < r->request_count; k++)
            if (r->requests[k].done != 1) return r->requests[k].peer;
    }
    for (int r = 0; r < ts->size; r++)
        if (load(&ts->counter[r].done) < want) return first + r;
    return -1;
}

/* Leaf values of all leaves, from the island's memory and the other islands. */
static td_status collect_leaves(td_treesum *ts)
{
    int values = ts->config.leaf_values, leaves = ts->config.leaves;
    if (!values) return TD_OK;
    int own_begin = cut(leaves, ts->comm->size, ts->island * ts->size);
    int own_end = cut(leaves, ts->comm->size, (ts->island + 1) * ts->size);
    size_t row = (size_t)values * sizeof(double);
    memcpy(ts->all_leaves + (size_t)own_begin * (size_t)values,
           ts->leaf[ts->step & 1] + (size_t)own_begin * (size_t)values,
           (size_t)(own_end - own_begin) * row);
    for (int step = 1; step < ts->islands; step++) {
        int to = (ts->island + step) % ts->islands;
        int from = (ts->island - step + ts->islands) % ts->islands;
        int begin = cut(leaves, ts->comm->size, from * ts->size);
        int end = cut(leaves, ts->comm->size, (from + 1) * ts->size);
        TD_TRY(td_comm_exchange(ts->comm, ts->all_leaves + (size_t)own_begin * (size_t)values,
                                (size_t)(own_end - own_begin) * row, to * ts->size + ts->local,
                                ts->all_leaves + (size_t)begin * (size_t)values,
                                (size_t)(end - begin) * row, from * ts->size + ts->local,
                                TD_TAG_TREESUM));
    }
    for (int v = 0; v < values; v++)
        ts->leaf_sums[v] = td_tree_fold_doubles(ts->all_leaves + v, (size_t)values, leaves);
    return TD_OK;
}

td_status td_treesum_wait(td_treesum *ts)
{
    int64_t begin = td_clock_ns(), moved = ts->times.move_ns;
    ts->comm->operation = "tree sum";
    ts->comm->sequence++;
    td_status status = td_comm_wait(ts->comm, -1, test_all, missing_rank, ts);
    if (status == TD_OK) status = collect_leaves(ts);
    ts->before += (uint64_t)ts->posted;
    if (status == TD_OK) ts->posted = ts->finished = 0;
    ts->step++;
    ts->times.wait_ns += td_clock_ns() - begin - (ts->times.move_ns - moved);
    return status;
}
