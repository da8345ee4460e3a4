/* See treesum_impl.h: who holds what, and where it lies. */
#include "comm/treesum.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/treesum_impl.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static int cut(int n, int parts, int part)
{
    return (int)((long long)n * part / parts);
}

size_t td_treesum_cut(size_t lo, size_t hi, int parts, int part)
{
    if (part == 0) return lo;
    size_t n = hi - lo, p = (size_t)part, q = (size_t)parts, rest = n % q;
    size_t at = td_treesum_up(lo + n / q * p + (p < rest ? p : rest), 16);
    return at < hi ? at : hi;
}

static void lane_leaves(const td_treesum *ts, int rank, int lane, int *begin, int *end)
{
    int first = ts->bounds[rank], n = ts->bounds[rank + 1] - first;
    *begin = first + cut(n, ts->config.lanes, lane);
    *end = first + cut(n, ts->config.lanes, lane + 1);
}

/* The nodes of a rank's lanes, in order; returns how many. */
static int rank_nodes(const td_treesum *ts, int rank, td_tree_node *nodes)
{
    int n = 0;
    for (int lane = 0; lane < ts->config.lanes; lane++) {
        int begin, end;
        lane_leaves(ts, rank, lane, &begin, &end);
        n += td_tree_nodes(ts->config.leaves, begin, end, nodes ? nodes + n : NULL);
    }
    return n;
}

/* --- plans --- */

static td_status no_memory(void)
{
    return td_fail(TD_ERR_NOMEM, "no memory for a tree sum");
}

static td_status find_islands(td_treesum *ts)
{
    const td_comm *c = ts->comm;
    bool whole = true; /* hosts' ranks are adjacent: host numbers, which follow ranks, only rise */
    for (int r = 1; r < c->size; r++) whole = whole && c->host[r] >= c->host[r - 1];
    ts->islands = whole ? c->hosts : c->size;
    ts->island = whole ? c->host[c->rank] : c->rank;
    ts->first = td_calloc((size_t)ts->islands + 1, sizeof *ts->first);
    if (!ts->first) return no_memory();
    for (int r = 0; r < c->size; r++) ts->first[(whole ? c->host[r] : r) + 1] = r + 1;
    ts->channels = c->size;
    for (int i = 0; i < ts->islands; i++) {
        int size = ts->first[i + 1] - ts->first[i];
        if (size < ts->channels) ts->channels = size;
    }
    ts->size = ts->first[ts->island + 1] - ts->first[ts->island];
    ts->local = c->rank - ts->first[ts->island];
    ts->shares = ts->size > 1;
    return TD_OK;
}

static td_status plan_island(td_treesum *ts)
{
    int leaves = ts->config.leaves, lanes = ts->config.lanes, n = 0;
    int begin = ts->first[ts->island], end = ts->first[ts->island + 1];
    for (int r = begin; r < end; r++) n += rank_nodes(ts, r, NULL);
    ts->part_count = n;
    ts->parts = td_calloc((size_t)n + 1, sizeof *ts->parts);
    ts->merges = td_calloc((size_t)n + 1, sizeof *ts->merges);
    ts->lane_node = td_calloc((size_t)lanes + 1, sizeof *ts->lane_node);
    td_tree_node *nodes = td_calloc((size_t)n + TD_TREE_MAX_NODES, sizeof *nodes);
    if (!ts->parts || !ts->merges || !ts->lane_node || !nodes) {
        td_free(nodes);
        return no_memory();
    }
    for (int r = begin, at = 0; r < end; r++) at += rank_nodes(ts, r, nodes + at);
    ts->left_count = td_tree_merge_nodes(leaves, nodes, n, ts->merges, NULL);
    td_free(nodes);
    for (int lane = 0; lane < lanes; lane++) {
        int first, last;
        lane_leaves(ts, ts->comm->rank, lane, &first, &last);
        ts->lane_node[lane + 1] = ts->lane_node[lane] + td_tree_nodes(leaves, first, last, NULL);
    }
    return TD_OK;
}

static td_status allocate_exchange(td_treesum *ts, int nodes)
{
    size_t n = (size_t)nodes, ranges = (size_t)ts->config.most_ranges + 1, bytes;
    size_t left = (size_t)ts->left_count;
    ts->request_room = nodes + ts->left_count * ts->islands + 2 * ts->islands;
    ts->piece_room = ts->config.count / (size_t)ts->channels / (size_t)ts->islands + 48 * ranges;
    ts->piece_room = td_treesum_up(ts->piece_room, 16);
    ts->all_parts = td_calloc(n, sizeof *ts->all_parts);
    ts->all_merges = td_calloc(n, sizeof *ts->all_merges);
    ts->left_data = td_calloc(left, sizeof *ts->left_data);
    ts->requests = td_calloc((size_t)ts->request_room * ranges, sizeof *ts->requests);
    if (!ts->all_parts || !ts->all_merges || !ts->left_data || !ts->requests) return no_memory();
    for (size_t i = 0; i < ranges; i++)
        ts->ranges[i].requests = ts->requests + i * (size_t)ts->request_room;
    if (ts->local >= ts->channels) return TD_OK; /* others receive and add */
    if (td_mul(n * sizeof(float), ts->piece_room, &bytes)) ts->received = td_alloc_aligned(bytes);
    if (td_mul(left * sizeof(float), ts->stride, &bytes)) ts->left_memory = td_alloc_aligned(bytes);
    if (!ts->received || !ts->left_memory) return no_memory();
    for (size_t k = 0; k < left; k++) ts->left_data[k] = (float *)ts->left_memory + k * ts->stride;
    return TD_OK;
}

/* Several islands: everyone's nodes, and room to receive them. */
static td_status plan_exchange(td_treesum *ts)
{
    int leaves = ts->config.leaves, n = 0;
    ts->island_nodes = td_calloc((size_t)ts->islands, sizeof *ts->island_nodes);
    td_tree_node *nodes = td_calloc((size_t)ts->islands * TD_TREE_MAX_NODES, sizeof *nodes);
    td_status status = ts->island_nodes && nodes ? TD_OK : no_memory();
    for (int i = 0; i < ts->islands && status == TD_OK; i++) {
        int begin = ts->bounds[ts->first[i]], end = ts->bounds[ts->first[i + 1]];
        ts->island_nodes[i] = td_tree_nodes(leaves, begin, end, nodes + n);
        n += ts->island_nodes[i];
    }
    ts->all_count = n;
    if (status == TD_OK) status = allocate_exchange(ts, n);
    if (status == TD_OK) td_tree_merge_nodes(leaves, nodes, n, ts->all_merges, NULL);
    td_free(nodes);
    return status;
}

/* Lays the shared memory out; with base NULL, only measures it. */
static size_t lay_out(td_treesum *ts, char *base)
{
    size_t at = 0, node = ts->stride * sizeof(float);
    size_t values = (size_t)ts->config.leaves * (size_t)ts->config.leaf_values * sizeof(double);
    bool alone = ts->part_count == 1 && ts->islands == 1;
    if (base) ts->counter = (td_treesum_counters *)(void *)base;
    at += (size_t)ts->size * sizeof *ts->counter;
    if (base) ts->bell = (td_bell *)(void *)(base + at);
    at += TD_TREESUM_LINE;
    for (int k = 0; k < 2; k++, at += td_treesum_up(values, 64))
        if (base) ts->leaf[k] = (double *)(void *)(base + at);
    for (int r = 0, part = 0; r < ts->size; r++) {
        int nodes = rank_nodes(ts, ts->first[ts->island] + r, NULL);
        if (base && r == ts->local) ts->own_nodes = (float *)(void *)(base + at);
        for (int k = 0; k < nodes; k++, part++, at += node)
            if (base) ts->parts[part] = (const float *)(const void *)(base + at);
    }
    if (base) ts->sum = alone ? ts->own_nodes : (float *)(void *)(base + at);
    return at + (alone ? 0 : node);
}

static td_status get_memory(td_treesum *ts)
{
    size_t bytes = lay_out(ts, NULL);
    if (ts->comm->size > ts->islands) { /* some host shares: all take part */
        td_region region;
        TD_TRY(td_comm_shared_create(ts->comm, ts->shares ? bytes : 1, &region));
        if (ts->shares)
            ts->region = region;
        else
            td_comm_shared_destroy(ts->comm, &region);
    }
    if (!ts->shares) {
        ts->region.data = td_alloc_aligned(bytes);
        if (ts->region.data) memset(ts->region.data, 0, bytes);
    }
    td_status status = ts->region.data ? TD_OK : no_memory();
    return td_comm_agree(ts->comm, status);
}

/* --- creation --- */

static td_status check_config(const td_comm *comm, const td_treesum_config *config)
{
    size_t all;
    if (config->leaves < 1 || config->leaves > TD_TREE_MAX_LEAVES)
        return td_fail(TD_ERR_ARG, "leaves must be 1 to %d, not %d", TD_TREE_MAX_LEAVES,
                       config->leaves);
    if (comm->size > config->leaves)
        return td_fail(TD_ERR_ARG,
                       "%d workers are more than the %d leaves of a batch; use at "
                       "most %d workers or more leaves",
                       comm->size, config->leaves, config->leaves);
    if (config->lanes < 1 || config->lanes > 1024)
        return td_fail(TD_ERR_ARG, "a rank has 1 to 1024 lanes, not %d", config->lanes);
    if (config->leaf_values < 0 || config->leaf_values > 4096)
        return td_fail(TD_ERR_ARG, "a leaf adds 0 to 4096 values, not %d", config->leaf_values);
    if (config->most_ranges < 0 || config->most_ranges > 4096)
        return td_fail(TD_ERR_ARG, "a step has 0 to 4096 ranges, not %d", config->most_ranges);
    if (!td_mul(config->count, 8192 * sizeof(float), &all))
        return td_fail(TD_ERR_ARG, "%zu floats are more than memory holds", config->count);
    const int *b = config->bounds;
    for (int r = 0; b && r < comm->size; r++)
        if (b[r] >= b[r + 1] || b[0] != 0 || b[comm->size] != config->leaves)
            return td_fail(TD_ERR_ARG,
                           "rank %d gets leaves %d to %d of %d; each must get some, and all be "
                           "dealt",
                           comm->world[r], b[r], b[r + 1], config->leaves);
    return TD_OK;
}

typedef struct shape {
    int64_t count, leaves, lanes, leaf_values, ranges, dealt; /* a hash of the bounds */
} shape;

static void describe(char *text, size_t room, const shape *s)
{
    snprintf(text, room,
             "%lld floats (%lld leaves of %lld values, %lld lanes, at most %lld ranges)",
             (long long)s->count, (long long)s->leaves, (long long)s->leaf_values,
             (long long)s->lanes, (long long)s->ranges);
}

/* All ranks must ask for the same one. */
static td_status compare_configs(td_comm *comm, const td_treesum_config *config)
{
    shape own = {(int64_t)config->count, config->leaves,      config->lanes,
                 config->leaf_values,    config->most_ranges, 0};
    for (int r = 0; config->bounds && r <= comm->size; r++)
        own.dealt = (int64_t)((uint64_t)own.dealt * 31 + (uint64_t)config->bounds[r] + 1);
    shape *all = td_calloc((size_t)comm->size, sizeof *all);
    if (!all) return no_memory();
    td_status status = td_comm_allgather(comm, &own, sizeof own, all);
    for (int r = 0; r < comm->size && status == TD_OK; r++) {
        char theirs[200], mine[200];
        if (memcmp(&all[r], &own, sizeof own) == 0) continue;
        bool same = memcmp(&all[r], &own, offsetof(shape, dealt)) == 0;
        describe(theirs, sizeof theirs, &all[r]), describe(mine, sizeof mine, &own);
        status = td_fail(TD_ERR_ARG, "rank %d makes a tree sum of %s where rank %d %s %s",
                         comm->world[r], theirs, comm->world[comm->rank],
                         same ? "deals other leaves to the ranks of" : "makes one of", mine);
    }
    td_free(all);
    return status;
}

static td_status create(td_comm *comm, const td_treesum_config *config, td_treesum **out)
{
    if (comm->size > 1) TD_TRY(compare_configs(comm, config));
    TD_TRY(check_config(comm, config)); /* the same everywhere */
    td_treesum *ts = td_calloc(1, sizeof *ts);
    if (!ts) return td_comm_agree(comm, no_memory());
    td_status status = TD_OK;
    ts->comm = comm;
    ts->config = *config;
    ts->stride = td_treesum_up(config->count, 16);
    if (ts->config.most_ranges == 0) ts->config.most_ranges = 64;
    ts->ranges = td_calloc((size_t)ts->config.most_ranges + 1, sizeof *ts->ranges);
    ts->leaf_sums = td_calloc((size_t)config->leaf_values + 1, sizeof *ts->leaf_sums);
    ts->bounds = td_calloc((size_t)comm->size + 1, sizeof *ts->bounds);
    if (!ts->ranges || !ts->leaf_sums || !ts->bounds) status = no_memory();
    for (int r = 0; r <= comm->size && status == TD_OK; r++)
        ts->bounds[r] = config->bounds ? config->bounds[r] : cut(config->leaves, comm->size, r);
    ts->config.bounds = NULL;
    if (status == TD_OK) status = find_islands(ts);
    if (status == TD_OK) status = plan_island(ts);
    if (status == TD_OK && ts->islands > 1) status = plan_exchange(ts);
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(get_memory(ts));
    lay_out(ts, ts->region.data);
    *out = ts;
    return TD_OK;
out:
    td_treesum_destroy(ts);
    return status;
}

td_status td_treesum_create(td_comm *comm, const td_treesum_config *config, td_treesum **out)
{
    TD_TRY(td_comm_check_open(comm, "tree sum"));
    struct td_record *record = td_comm_begin(comm, &(td_note){TD_DOES_TREESUM, 0, -1, -1, -1});
    int entered = td_comm_enter(comm, TD_DOES_TREESUM);
    td_status status = create(comm, config, out);
    td_comm_leave(comm, entered);
    return td_comm_end(record, status);
}

void td_treesum_destroy(td_treesum *ts)
{
    if (!ts) return;
    if (ts->posted) ts->comm->spoiled = true; /* the others' messages may come yet */
    for (int i = 0; ts->ranges && i < ts->posted; i++)
        for (int k = 0; k < ts->ranges[i].request_count; k++)
            if (__atomic_load_n(&ts->ranges[i].requests[k].done, __ATOMIC_ACQUIRE) != 1)
                ts->comm->ops->cancel(ts->comm, &ts->ranges[i].requests[k]);
    if (ts->shares)
        td_comm_shared_destroy(ts->comm, &ts->region);
    else
        td_free(ts->region.data);
    td_free(ts->bounds), td_free(ts->first), td_free(ts->lane_node), td_free(ts->parts),
        td_free(ts->merges);
    td_free(ts->left_data), td_free(ts->left_memory), td_free(ts->island_nodes);
    td_free(ts->all_parts), td_free(ts->all_merges), td_free(ts->received);
    td_free(ts->ranges), td_free(ts->requests), td_free(ts->leaf_sums);
    td_free(ts);
}

/* --- what lanes use --- */

void td_treesum_lane_leaves(const td_treesum *ts, int lane, int *begin, int *end)
{
    lane_leaves(ts, ts->comm->rank, lane, begin, end);
}

int td_treesum_nodes(const td_treesum *ts, int lane)
{
    return ts->lane_node[lane + 1] - ts->lane_node[lane];
}

td_tree_node td_treesum_node_id(const td_treesum *ts, int lane, int k)
{
    td_tree_node nodes[64];
    int begin, end;
    lane_leaves(ts, ts->comm->rank, lane, &begin, &end);
    td_tree_nodes(ts->config.leaves, begin, end, nodes);
    return nodes[k];
}

float *td_treesum_node(const td_treesum *ts, int lane, int k)
{
    return ts->own_nodes + (size_t)(ts->lane_node[lane] + k) * ts->stride;
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
