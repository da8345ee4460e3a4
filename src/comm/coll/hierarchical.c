/* Reductions and broadcast over several hosts, whose ranks first work together in shared memory.
 *
 * All-reduce of a block, which is cut into one slice for each channel (the equal-numbered ranks of
 * the hosts), and a slice into one piece for each host:
 *
 *   stage     every rank copies its block into shared memory
 *   scatter   channel j adds up its host's nodes of slice j, and sends of each the piece of host i
 *             to channel j there
 *   sum       when the nodes of its own piece are there, it finishes the tree over them and sends
 *             the result to channel j of all hosts
 *   finish    when the results of the other pieces are there, the slice is complete
 *   copy      every rank copies the block out
 *
 * Reduce sends the results to the root's host alone. Broadcast goes down a chain of hosts: the root
 * stages, channel j passes slice j on. Up to SLOTS blocks are under way at once, so that memory and
 * network work at the same time; each stage takes the blocks in order, so that messages need no
 * number. Ahead of the first block's go headers (header.h), to each peer; short pieces of a host's
 * first node go in the header's message.
 *
 * All-reduce of a short vector leaves out the results: each slice of the nodes goes to all hosts
 * whole, and each adds them up itself: more bytes, and half the messages.
 *
 * Cost: with h hosts that hold k nodes each (hosts.h), a host sends (k + 1)(h - 1)/h of the vector
 * for all-reduce (of a short vector k (h - 1)), the least possible for k = 1; for reduce
 * (h - 1)/h of it k times, and 1/h to the root's host; each host of a broadcast but the last sends
 * it once. Messages of a host, for each block and channel: (k + 1)(h - 1), of a short vector k (h -
 * 1); of reduce k (h - 1) and 1; of broadcast 1; besides, a header to each peer. Half types are
 * rounded once, so of them every rank's part is sent, as if k were the host's ranks. Source: the
 * exchange is Rabenseifner's, "Optimization of collective reduction operations", 2004. */
#include "comm/coll/stages.h"

#include "base/error.h"
#include "math/kernels.h"

#include <string.h>

enum { SLOTS = TD_HOSTS_SLOTS, LEAST_BLOCK = 256 << 10, WHOLE_SLICE = 16 << 10 };

static size_t elements(const td_stages *j, size_t block)
{
    size_t rest = j->call->bytes / j->width - block * j->most;
    return rest < j->most ? rest : j->most;
}

static td_span own_slice(const td_stages *j, size_t block)
{
    return td_stages_slice(j, 0, elements(j, block));
}

static td_span piece_of(const td_stages *j, size_t block, int host)
{
    td_span s = own_slice(j, block);
    size_t lo = td_stages_cut(j, s.hi - s.lo, j->h->count, host),
           hi = td_stages_cut(j, s.hi - s.lo, j->h->count, host + 1);
    return (td_span){s.lo + lo, s.lo + hi};
}

static const char *own_block(const td_stages *j, size_t block)
{
    return (const char *)j->call->in + block * j->most * j->width;
}

/* --- reductions --- */

/* The channel's own slice is read from where it is. */
static void stage_reduction(td_stages *j, size_t block)
{
    td_span own = own_slice(j, block);
    size_t lo = own.lo * j->width, hi = own.hi * j->width, all = elements(j, block) * j->width;
    const char *in = own_block(j, block);
    char *to = td_hosts_staged(j->h, block, j->h->local);
    td_kernels_best()->copy(lo, in, to);
    td_kernels_best()->copy(all - hi, in + hi, to + hi);
}

/* Whether host i gets the results. */
static bool wants_results(const td_stages *j, int host)
{
    return j->call->pattern == TD_ALLREDUCE || host == j->comm->host[j->call->root];
}

static bool is_first_of_host(const td_stages *j, int k)
{
    for (int before = 0; before < k; before++)
        if (j->node[before].host == j->node[k].host) return false;
    return true;
}

/* Whether that part of the node travels behind the header, which saves a message. */
static bool goes_along(const td_stages *j, size_t block, int k, td_span s)
{
    return block == 0 && (s.hi - s.lo) * j->width <= TD_HELLO_INLINE && is_first_of_host(j, k);
}

static td_status receive_reduction(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span mine = piece_of(j, block, h->host);
    for (int i = 0; i < h->count; i++)
        if (i != h->host) TD_TRY(td_stages_hello(j, block, false, i));
    for (int k = 0; k < j->nodes; k++)
        if (j->node[k].host != h->host && !goes_along(j, block, k, mine))
            TD_TRY(td_stages_start(j, block, false, td_hosts_received(h, block, k),
                                   mine.hi - mine.lo, j->node[k].host, TD_TAG_NODES));
    j->awaited[block % SLOTS] = j->used[block % SLOTS];
    if (!wants_results(j, h->host)) return TD_OK;
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + h->count - step) % h->count;
        td_span theirs = piece_of(j, block, i);
        TD_TRY(td_stages_start(j, block, false, td_hosts_result(h, block) + theirs.lo * j->width,
                               theirs.hi - theirs.lo, i, TD_TAG_RESULTS));
    }
    return TD_OK;
}

static const char *part_of(const td_stages *j, size_t block, int rank)
{
    return rank == j->comm->rank ? own_block(j, block)
                                 : td_hosts_staged(j->h, block, j->h->place[rank]);
}

/* Where a node of this host lies: a rank's block, or where the first of its ranks staged. */
static char *node_data(const td_stages *j, size_t block, const td_host_node *node)
{
    if (node->leaves == 1) return (char *)(uintptr_t)part_of(j, block, node->begin);
    return td_hosts_staged(j->h, block, j->h->place[node->begin]);
}

static void add_node(td_stages *j, size_t block, const td_host_node *node, td_span s, char *to)
{
    for (int l = 0; l < node->leaves; l++)
        j->h->parts[l] = part_of(j, block, node->begin + l) + s.lo * j->width;
    td_reduction_fold(&j->call->how, j->h->parts, node->leaves, s.hi - s.lo, to);
}

/* What host i sums of this host's nodes: to it, unless it is this one. */
static td_status give_piece(td_stages *j, size_t block, int i)
{
    td_span theirs = piece_of(j, block, i);
    size_t along = 0, count = theirs.hi - theirs.lo;
    bool own = i == j->h->host;
    for (int k = 0; k < j->nodes; k++) {
        const td_host_node *node = &j->node[k];
        bool first = !own && goes_along(j, block, k, theirs);
        if (node->host != j->h->host || (node->leaves == 1 && !first)) continue;
        if (first) along = count * j->width;
        add_node(j, block, node, theirs,
                 first ? td_stages_goes(j, i) : node_data(j, block, node) + theirs.lo * j->width);
    }
    if (own) return TD_OK;
    if (block == 0) TD_TRY(td_stages_hello_with(j, i, i, along));
    for (int k = 0; k < j->nodes; k++)
        if (j->node[k].host == j->h->host && !goes_along(j, block, k, theirs))
            TD_TRY(td_stages_start(j, block, true,
                                   node_data(j, block, &j->node[k]) + theirs.lo * j->width, count,
                                   i, TD_TAG_NODES));
    return TD_OK;
}

static td_status scatter_nodes(td_stages *j, size_t block)
{
    TD_TRY(td_stages_compare_all(j, block));
    for (int step = 1; step <= j->h->count; step++)
        TD_TRY(give_piece(j, block, (j->h->host + step) % j->h->count));
    return TD_OK;
}

static td_status sum_nodes(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span mine = piece_of(j, block, h->host);
    char *to = td_hosts_result(h, block) + mine.lo * j->width;
    for (int k = 0; k < j->nodes; k++) {
        int from = j->node[k].host;
        h->parts[k] = from == h->host ? node_data(j, block, &j->node[k]) + mine.lo * j->width
                      : goes_along(j, block, k, mine) ? td_stages_came(j, from)
                                                      : td_hosts_received(h, block, k);
        h->leaves[k] = j->node[k].leaves;
    }
    td_reduction_fold_nodes(&j->call->how, h->parts, h->leaves, j->nodes, mine.hi - mine.lo, to);
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + step) % h->count;
        if (wants_results(j, i))
            TD_TRY(td_stages_start(j, block, true, to, mine.hi - mine.lo, i, TD_TAG_RESULTS));
    }
    return TD_OK;
}

/* A block of the result, in one piece. */
static void copy_out(td_stages *j, size_t block)
{
    td_kernels_best()->copy(elements(j, block) * j->width, td_hosts_result(j->h, block),
                            (char *)j->call->out + block * j->most * j->width);
}

static const td_stage_ops reduction = {stage_reduction, receive_reduction, td_stages_all_staged,
                                       scatter_nodes,   sum_nodes,         copy_out};
static const td_stage_ops reduction_elsewhere =
    {/* at ranks that do not get the result */
     stage_reduction, receive_reduction, td_stages_all_staged, scatter_nodes, sum_nodes, NULL};

/* --- all-reduce of a short vector, in one block --- */

static td_status receive_whole(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span s = own_slice(j, block);
    for (int i = 0; i < h->count; i++)
        if (i != h->host) TD_TRY(td_stages_hello(j, block, false, i));
    for (int k = 0; k < j->nodes; k++)
        if (j->node[k].host != h->host && !is_first_of_host(j, k))
            TD_TRY(td_stages_start(j, block, false, td_hosts_received(h, block, k), s.hi - s.lo,
                                   j->node[k].host, TD_TAG_NODES));
    j->awaited[block % SLOTS] = j->used[block % SLOTS];
    return TD_OK;
}

/* Where this rank's slice of a node lies. */
static char *slice_of(const td_stages *j, size_t block, int k)
{
    const td_host_node *node = &j->node[k];
    bool own = node->host == j->h->host;
    if (is_first_of_host(j, k))
        return own ? td_stages_goes(j, node->host) : td_stages_came(j, node->host);
    if (!own) return td_hosts_received(j->h, block, k);
    return node_data(j, block, node) + own_slice(j, block).lo * j->width;
}

static td_status scatter_whole(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span s = own_slice(j, block);
    TD_TRY(td_stages_compare_all(j, block));
    for (int k = 0; k < j->nodes; k++)
        if (j->node[k].host == h->host && (j->node[k].leaves > 1 || is_first_of_host(j, k)))
            add_node(j, block, &j->node[k], s, slice_of(j, block, k));
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + step) % h->count;
        TD_TRY(td_stages_hello_with(j, i, h->host, (s.hi - s.lo) * j->width));
        for (int k = 0; k < j->nodes; k++)
            if (j->node[k].host == h->host && !is_first_of_host(j, k))
                TD_TRY(td_stages_start(j, block, true, slice_of(j, block, k), s.hi - s.lo, i,
                                       TD_TAG_NODES));
    }
    return TD_OK;
}

static td_status sum_whole(td_stages *j, size_t block)
{
    td_span s = own_slice(j, block);
    for (int k = 0; k < j->nodes; k++)
        j->h->parts[k] = slice_of(j, block, k), j->h->leaves[k] = j->node[k].leaves;
    td_reduction_fold_nodes(&j->call->how, j->h->parts, j->h->leaves, j->nodes, s.hi - s.lo,
                            td_hosts_result(j->h, block) + s.lo * j->width);
    return TD_OK;
}

static const td_stage_ops whole = {stage_reduction, receive_whole, td_stages_all_staged,
                                   scatter_whole,   sum_whole,     copy_out};

/* --- broadcast --- */

/* Places in the chain: the root's host is 0. */
static int link_of(const td_stages *j)
{
    int n = j->h->count;
    return (j->h->host - j->comm->host[j->call->root] + n) % n;
}

static void stage_broadcast(td_stages *j, size_t block)
{
    if (j->comm->rank == j->call->root)
        td_kernels_best()->copy(elements(j, block) * j->width, own_block(j, block),
                                td_hosts_result(j->h, block));
}

static td_status receive_broadcast(td_stages *j, size_t block)
{
    td_span s = own_slice(j, block);
    int n = j->h->count;
    if (link_of(j) > 0) {
        TD_TRY(td_stages_hello(j, block, false, (j->h->host + n - 1) % n));
        TD_TRY(td_stages_start(j, block, false, td_hosts_result(j->h, block) + s.lo * j->width,
                               s.hi - s.lo, (j->h->host + n - 1) % n, TD_TAG_NODES));
    }
    j->awaited[block % SLOTS] = j->used[block % SLOTS];
    return TD_OK;
}

/* The root has staged; elsewhere the message itself is waited for. */
static bool root_staged(const td_stages *j, size_t block)
{
    uint64_t want = j->h->before + block + 1;
    if (link_of(j) > 0) return true;
    const td_host_line *root = &j->h->lines[j->h->place[j->call->root]];
    return __atomic_load_n(&root->stage[TD_STAGED], __ATOMIC_ACQUIRE) >= want;
}

static td_status pass_on(td_stages *j, size_t block)
{
    td_span s = own_slice(j, block);
    int n = j->h->count;
    if (link_of(j) == 0 && block == 0) TD_TRY(td_stages_compare(j, j->h->place[j->call->root]));
    if (link_of(j) == n - 1) return TD_OK;
    TD_TRY(td_stages_hello(j, block, true, (j->h->host + 1) % n));
    return td_stages_start(j, block, true, td_hosts_result(j->h, block) + s.lo * j->width,
                           s.hi - s.lo, (j->h->host + 1) % n, TD_TAG_NODES);
}

static const td_stage_ops broadcast = {stage_broadcast, receive_broadcast, root_staged, NULL,
                                       pass_on,         copy_out};
static const td_stage_ops broadcast_at_root = {stage_broadcast, receive_broadcast,
                                               root_staged,     NULL,
                                               pass_on,         NULL};

/* --- running them --- */

/* Long vectors: messages as long as is good; shorter ones still in several blocks. */
static size_t block_bytes(const td_stages *j)
{
    const td_hosts *h = j->h;
    size_t slice = (size_t)h->channels * TD_HOSTS_MESSAGE, block = j->call->bytes / 4;
    size_t most = j->call->pattern == TD_BROADCAST && slice < h->block ? slice : h->block;
    if (block < LEAST_BLOCK) block = LEAST_BLOCK;
    return block < most ? block : most;
}

static td_status make(td_comm *comm, const td_call *call, const td_stage_ops *does, td_stages *j)
{
    *j = (td_stages){.comm = comm, .call = call, .does = does};
    TD_TRY(td_hosts_of(comm, &j->h));
    bool reduces = call->pattern != TD_BROADCAST;
    bool partial = reduces && td_reduction_in_parts(&call->how);
    j->node = partial ? j->h->nodes : j->h->ranks_alone;
    j->nodes = partial ? j->h->node_count : comm->size;
    j->width = reduces ? call->how.width : 1;
    return TD_OK;
}

static td_status run(td_comm *comm, const td_call *call, const td_stage_ops *does)
{
    td_stages j;
    TD_TRY(make(comm, call, does, &j));
    j.most = block_bytes(&j) / j.width;
    j.blocks = (call->bytes / j.width + j.most - 1) / j.most;
    j.channels =
        td_hosts_channels(j.h, j.most * j.width < call->bytes ? j.most * j.width : call->bytes);
    return td_stages_run(&j);
}

td_status td_hierarchical_reduce(td_comm *comm, const td_call *call)
{
    bool reads = call->pattern == TD_ALLREDUCE || comm->rank == call->root;
    return run(comm, call, reads ? &reduction : &reduction_elsewhere);
}

td_status td_hierarchical_broadcast(td_comm *comm, const td_call *call)
{
    return run(comm, call, comm->rank == call->root ? &broadcast_at_root : &broadcast);
}

/* Slices of a message each, as many as are worth one; false: the vector is too long for that. */
static bool cut_whole(td_stages *j)
{
    size_t message = TD_HELLO_INLINE < j->h->piece_room ? TD_HELLO_INLINE : j->h->piece_room;
    size_t most = message / j->width, count = j->call->bytes / j->width;
    size_t worth = (j->call->bytes + WHOLE_SLICE - 1) / WHOLE_SLICE;
    j->channels = worth < (size_t)j->h->channels ? (int)worth : j->h->channels;
    j->blocks = count > 0, j->most = count;
    if (j->call->bytes > j->h->block) return false;
    for (int k = 0; k < j->channels; k++)
        if (td_stages_cut(j, count, j->channels, k + 1) - td_stages_cut(j, count, j->channels, k) >
            most)
            return false;
    return true;
}

td_status td_hierarchical_exchange(td_comm *comm, const td_call *call)
{
    td_stages j;
    TD_TRY(make(comm, call, &whole, &j));
    return cut_whole(&j) ? td_stages_run(&j) : td_hierarchical_reduce(comm, call);
}
