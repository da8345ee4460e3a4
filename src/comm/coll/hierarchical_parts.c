/* All-gather and reduce-scatter over several hosts, whose ranks first work together in shared
 * memory; see stages.h.
 *
 * A block takes the next `most` elements of every rank's part. They lie as columns, in the order of
 * hosts and, within one, of its ranks, so that a host's columns are one piece, cut into a slice for
 * each channel:
 *
 *   all-gather       every rank stages its column; channel j sends its slice of its host's columns
 *                    to channel j of the others; every rank copies all columns out
 *   reduce-scatter   every rank stages all columns; channel j adds its host's nodes (hosts.h) of
 * its slice of host i's columns and sends them to channel j there, which finishes the tree over
 * them; every rank copies its column out
 *
 * Cost: a host of s ranks sends its s parts h - 1 times for all-gather; for reduce-scatter the
 * other hosts' parts once for each of the nodes that it holds, the least possible where that is
 * one. With every rank by itself it would be s times as much. Messages of a host, for each block
 * and channel: h - 1 for all-gather, k (h - 1) for reduce-scatter of k nodes; besides, a header to
 * each peer. Half types are rounded once, so of them every rank's values are sent. Where parts
 * differ much (their columns would be mostly empty), ring.c and pairwise.c serve. Source of
 * channels: Traff, Hunold, "Decomposing MPI collectives for exploiting multi-lane communication",
 * CLUSTER 2020. */
#include "comm/coll/stages.h"

#include "base/error.h"
#include "math/kernels.h"

#include <string.h>

static int column_of(const td_hosts *h, int rank)
{
    return h->first[h->comm->host[rank]] + h->place[rank];
}

/* Elements of the rank's part that are in the block. */
static size_t height(const td_stages *j, size_t block, int rank)
{
    size_t all = td_call_part(j->call, rank) / j->width, before = block * j->most;
    size_t rest = all > before ? all - before : 0;
    return rest < j->most ? rest : j->most;
}

static char *column(const td_stages *j, char *block, int column)
{
    return block + (size_t)column * j->most * j->width;
}

/* This channel's slice of a host's columns. */
static td_span slice_of(const td_stages *j, int host)
{
    return td_stages_slice(j, (size_t)j->h->first[host] * j->most,
                           (size_t)j->h->first[host + 1] * j->most);
}

static size_t length(td_span s)
{
    return s.hi - s.lo;
}

/* --- all-gather --- */

static void stage_column(td_stages *j, size_t block)
{
    int me = j->comm->rank;
    td_kernels_best()->copy(height(j, block, me) * j->width,
                            (const char *)j->call->in + block * j->most * j->width,
                            column(j, td_hosts_result(j->h, block), column_of(j->h, me)));
}

static td_status receive_columns(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + h->count - step) % h->count;
        td_span s = slice_of(j, i);
        TD_TRY(td_stages_hello(j, block, false, i));
        TD_TRY(td_stages_start(j, block, false, td_hosts_result(h, block) + s.lo * j->width,
                               length(s), i, TD_TAG_NODES));
    }
    j->awaited[block % TD_HOSTS_SLOTS] = j->used[block % TD_HOSTS_SLOTS];
    return TD_OK;
}

static td_status send_columns(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span s = slice_of(j, h->host);
    TD_TRY(td_stages_compare_all(j, block));
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + step) % h->count;
        TD_TRY(td_stages_hello(j, block, true, i));
        TD_TRY(td_stages_start(j, block, true, td_hosts_result(h, block) + s.lo * j->width,
                               length(s), i, TD_TAG_NODES));
    }
    return TD_OK;
}

static void copy_columns(td_stages *j, size_t block)
{
    for (int r = 0; r < j->comm->size; r++)
        td_kernels_best()->copy(height(j, block, r) * j->width,
                                column(j, td_hosts_result(j->h, block), column_of(j->h, r)),
                                (char *)j->call->out + td_call_offset(j->call, r) +
                                    block * j->most * j->width);
}

static const td_stage_ops gather =
    {stage_column, receive_columns, td_stages_all_staged, send_columns, NULL, copy_columns};

/* --- reduce-scatter --- */

static void stage_columns(td_stages *j, size_t block)
{
    char *to = td_hosts_staged(j->h, block, j->h->local);
    for (int r = 0; r < j->comm->size; r++)
        td_kernels_best()->copy(height(j, block, r) * j->width,
                                (const char *)j->call->in + td_call_offset(j->call, r) +
                                    block * j->most * j->width,
                                column(j, to, column_of(j->h, r)));
}

static char *staged_by(const td_stages *j, size_t block, int rank)
{
    return td_hosts_staged(j->h, block, j->h->place[rank]);
}

/* The part of the slice that lies in the column and is not empty. */
static td_span within(const td_stages *j, size_t block, td_span s, int col)
{
    size_t lo = (size_t)col * j->most, hi = lo + height(j, block, j->h->ranks[col]);
    td_span both = {s.lo > lo ? s.lo : lo, s.hi < hi ? s.hi : hi};
    return both.lo < both.hi ? both : (td_span){0, 0};
}

/* Adds the ranks of this host's nodes over its slice of that host's columns, in place of the node's
 * first rank's. */
static void add_nodes(td_stages *j, size_t block, int host)
{
    td_hosts *h = j->h;
    td_span s = slice_of(j, host);
    for (int k = 0; k < j->nodes; k++) {
        const td_host_node *node = &j->node[k];
        if (node->host != h->host || node->leaves == 1) continue;
        for (int col = h->first[host]; col < h->first[host + 1]; col++) {
            td_span c = within(j, block, s, col);
            for (int l = 0; l < node->leaves; l++)
                h->parts[l] = staged_by(j, block, node->begin + l) + c.lo * j->width;
            if (length(c))
                td_reduction_fold(&j->call->how, h->parts, node->leaves, length(c),
                                  staged_by(j, block, node->begin) + c.lo * j->width);
        }
    }
}

static td_status receive_nodes(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span own = slice_of(j, h->host);
    for (int i = 0; i < h->count; i++)
        if (i != h->host) TD_TRY(td_stages_hello(j, block, false, i));
    for (int k = 0; k < j->nodes; k++)
        if (j->node[k].host != h->host)
            TD_TRY(td_stages_start(j, block, false, td_hosts_received(h, block, k), length(own),
                                   j->node[k].host, TD_TAG_NODES));
    j->awaited[block % TD_HOSTS_SLOTS] = j->used[block % TD_HOSTS_SLOTS];
    return TD_OK;
}

static td_status send_nodes(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    TD_TRY(td_stages_compare_all(j, block));
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + step) % h->count;
        td_span theirs = slice_of(j, i);
        TD_TRY(td_stages_hello(j, block, true, i));
        add_nodes(j, block, i);
        for (int k = 0; k < j->nodes; k++)
            if (j->node[k].host == h->host)
                TD_TRY(td_stages_start(j, block, true,
                                       staged_by(j, block, j->node[k].begin) + theirs.lo * j->width,
                                       length(theirs), i, TD_TAG_NODES));
    }
    add_nodes(j, block, h->host);
    return TD_OK;
}

static td_status finish_nodes(td_stages *j, size_t block)
{
    td_hosts *h = j->h;
    td_span own = slice_of(j, h->host);
    for (int col = h->first[h->host]; col < h->first[h->host + 1]; col++) {
        td_span c = within(j, block, own, col);
        for (int k = 0; k < j->nodes; k++) {
            bool mine = j->node[k].host == h->host;
            h->parts[k] = mine ? staged_by(j, block, j->node[k].begin) + c.lo * j->width
                               : td_hosts_received(h, block, k) + (c.lo - own.lo) * j->width;
            h->leaves[k] = j->node[k].leaves;
        }
        if (length(c))
            td_reduction_fold_nodes(&j->call->how, h->parts, h->leaves, j->nodes, length(c),
                                    td_hosts_result(h, block) + c.lo * j->width);
    }
    return TD_OK;
}

static void copy_column(td_stages *j, size_t block)
{
    int me = j->comm->rank;
    td_kernels_best()->copy(height(j, block, me) * j->width,
                            column(j, td_hosts_result(j->h, block), column_of(j->h, me)),
                            (char *)j->call->out + block * j->most * j->width);
}

static const td_stage_ops scatter = {stage_columns, receive_nodes, td_stages_all_staged,
                                     send_nodes,    finish_nodes,  copy_column};

/* --- running them --- */

static size_t largest_host(const td_hosts *h)
{
    int ranks = 0;
    for (int i = 0; i < h->count; i++)
        if (h->first[i + 1] - h->first[i] > ranks) ranks = h->first[i + 1] - h->first[i];
    return (size_t)ranks;
}

/* Bytes of the longest slice: wide elements are not cut, so that slices differ by one. */
static size_t longest_slice(const td_stages *j)
{
    size_t columns = largest_host(j->h) * j->most, longest = 0;
    for (int k = 0; k < j->channels; k++) {
        size_t lo = td_stages_cut(j, columns, j->channels, k);
        size_t hi = td_stages_cut(j, columns, j->channels, k + 1);
        if (hi - lo > longest) longest = hi - lo;
    }
    return longest * j->width;
}

/* Elements of a column: a host's columns of a block, cut for its channels, fit a message, and a
 * block its slot; unless a single one of each column is too much. */
static size_t column_height(const td_stages *j, size_t longest)
{
    const td_hosts *h = j->h;
    size_t ranks = largest_host(h), all = (size_t)h->comm->size, line = 64;
    size_t message = h->piece_room < TD_HOSTS_MESSAGE ? h->piece_room : TD_HOSTS_MESSAGE;
    size_t bytes = (message - 2 * line) * (size_t)j->channels / ranks;
    if (bytes > h->block / all) bytes = h->block / all;
    if (bytes > longest) bytes = longest;
    return bytes / j->width ? bytes / j->width : 1;
}

static td_status run(td_comm *comm, const td_call *call, const td_stage_ops *does, bool reduces,
                     td_algorithm *uneven)
{
    size_t longest = 0, all = 0;
    for (int r = 0; r < comm->size; r++) {
        size_t part = td_call_part(call, r);
        all += part;
        if (part > longest) longest = part;
    }
    if (longest / 2 > all / (size_t)comm->size) return uneven(comm, call);
    td_stages j = {.comm = comm, .call = call, .does = does};
    TD_TRY(td_hosts_of(comm, &j.h));
    bool partial = reduces && td_reduction_in_parts(&call->how);
    j.node = partial ? j.h->nodes : j.h->ranks_alone;
    j.nodes = partial ? j.h->node_count : comm->size;
    j.width = reduces ? call->how.width : 1;
    j.channels = td_hosts_channels(j.h, all);
    j.most = column_height(&j, longest);
    while (j.most > 1 && longest_slice(&j) > j.h->piece_room) j.most--;
    if (longest_slice(&j) > j.h->piece_room) return uneven(comm, call);
    j.blocks = (longest / j.width + j.most - 1) / j.most;
    if (j.most * j.width * (size_t)comm->size > j.h->block) return uneven(comm, call);
    return td_stages_run(&j);
}

td_status td_hierarchical_allgather(td_comm *comm, const td_call *call)
{
    return run(comm, call, &gather, false, td_ring_allgather);
}

td_status td_hierarchical_reduce_scatter(td_comm *comm, const td_call *call)
{
    return run(comm, call, &scatter, true, td_pairwise_reduce_scatter);
}
