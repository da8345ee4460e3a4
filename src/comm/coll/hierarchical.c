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
 * number. Ahead of the first block's go headers (header.h), to each peer.
 *
 * Cost: with h hosts that hold k nodes each (hosts.h), a host sends (k + 1)(h - 1)/h of the vector
 * for all-reduce, the least possible for k = 1; each host of a broadcast but the last sends it
 * once. Half types are rounded once, so of them every rank's part is sent, as if k were the host's
 * ranks. Source: the exchange is Rabenseifner's, "Optimization of collective reduction operations",
 * 2004. */
#include "comm/coll/hosts.h"

#include "base/error.h"
#include "math/kernels.h"

#include <string.h>

enum { SLOTS = TD_HOSTS_SLOTS, LINE = 64, LEAST_BLOCK = 256 << 10 };

typedef struct job job;

typedef struct pattern { /* what differs; NULL: nothing */
    void (*stage)(job *j, size_t block);
    td_status (*receive)(job *j, size_t block); /* sets `awaited` */
    bool (*ready)(const job *j, size_t block);  /* to scatter */
    td_status (*scatter)(job *j, size_t block);
    td_status (*sum)(job *j, size_t block); /* the awaited messages are there */
} pattern;

struct job {
    td_hosts *h;
    td_comm *comm;
    const td_call *call;
    const pattern *does;
    const td_host_node *node;
    int nodes, channels;
    bool reads;                 /* wants the result */
    size_t width, most, blocks; /* bytes of an element; elements of a block; blocks */
    /* how many blocks this rank has brought so far: */
    size_t staged, scattered, summed, finished, copied;
    int used[SLOTS];    /* requests begun */
    int awaited[SLOTS]; /* the first so many are needed to sum */
    int done[SLOTS];    /* the first so many are done */
};

typedef struct span {
    size_t lo, hi; /* elements of the block */
} span;

static size_t cut(const job *j, size_t count, int parts, int k)
{
    size_t unit = j->width < LINE ? LINE / j->width : 1, units = (count + unit - 1) / unit;
    size_t at = units * (size_t)k / (size_t)parts * unit;
    return at < count ? at : count;
}

static size_t elements(const job *j, size_t block)
{
    size_t rest = j->call->bytes / j->width - block * j->most;
    return rest < j->most ? rest : j->most;
}

static span slice_of(const job *j, size_t block, int channel)
{
    size_t count = elements(j, block);
    return (span){cut(j, count, j->channels, channel), cut(j, count, j->channels, channel + 1)};
}

static span own_slice(const job *j, size_t block)
{
    return j->h->local < j->channels ? slice_of(j, block, j->h->local) : (span){0, 0};
}

static span piece_of(const job *j, size_t block, int host)
{
    span s = own_slice(j, block);
    size_t lo = cut(j, s.hi - s.lo, j->h->count, host),
           hi = cut(j, s.hi - s.lo, j->h->count, host + 1);
    return (span){s.lo + lo, s.lo + hi};
}

static int peer_at(const job *j, int host)
{
    return j->h->ranks[j->h->first[host] + j->h->local];
}

static const char *own_block(const job *j, size_t block)
{
    return (const char *)j->call->in + block * j->most * j->width;
}

/* --- what ranks of the host tell each other --- */

static bool all_at(const job *j, td_host_stage stage, int ranks, uint64_t blocks)
{
    for (int r = 0; r < ranks; r++)
        if (__atomic_load_n(&j->h->lines[r].stage[stage], __ATOMIC_ACQUIRE) < blocks) return false;
    return true;
}

static void reach(job *j, td_host_stage stage, size_t blocks)
{
    __atomic_store_n(&j->h->lines[j->h->local].stage[stage], j->h->before + blocks,
                     __ATOMIC_RELEASE);
}

/* Of this rank, or another, in the operation under way. */
static td_header *shown(const job *j, int local)
{
    return &j->h->lines[local].shown[j->h->before % SLOTS];
}

/* Once that rank has staged the operation's first block. */
static td_status compare(const job *j, int local)
{
    int rank = j->h->ranks[j->h->first[j->h->host] + local];
    return local == j->h->local ? TD_OK : td_header_compare(j->comm, rank, shown(j, local));
}

/* --- messages --- */

static td_status start(job *j, size_t block, bool sends, void *data, size_t count, int host,
                       int tag)
{
    int slot = (int)(block % SLOTS);
    td_request *q = &j->h->requests[slot * j->h->request_room + j->used[slot]];
    if (count == 0) return TD_OK;
    *q =
        (td_request){.data = data, .bytes = count * j->width, .peer = peer_at(j, host), .tag = tag};
    TD_TRY((sends ? j->comm->ops->isend : j->comm->ops->irecv)(j->comm, q));
    j->used[slot]++;
    if (sends) j->comm->bytes_sent += q->bytes;
    return TD_OK;
}

/* Ahead of the first block: the header of the operation to that host, or from it. */
static td_status hello(job *j, size_t block, bool sends, int host)
{
    if (block > 0) return TD_OK;
    int slot = 0;
    td_request *q = &j->h->requests[slot * j->h->request_room + j->used[slot]];
    if (sends)
        TD_TRY(td_hello_send(j->comm, q, peer_at(j, host), j->h->hello[j->h->count]));
    else
        TD_TRY(td_hello_receive(j->comm, q, peer_at(j, host), j->h->hello[host]));
    j->used[slot]++;
    return TD_OK;
}

/* Whether the block's first `wanted` requests are done. */
static td_status requests_done(job *j, size_t block, int wanted, bool *all)
{
    int slot = (int)(block % SLOTS);
    td_request *q = &j->h->requests[slot * j->h->request_room];
    *all = false;
    for (; j->done[slot] < wanted; j->done[slot]++) {
        const td_request *next = &q[j->done[slot]];
        bool done;
        TD_TRY(j->comm->ops->test(j->comm, &q[j->done[slot]], &done));
        if (!done) return TD_OK;
        if (next->at_most) TD_TRY(td_hello_compare(j->comm, next));
    }
    *all = true;
    return TD_OK;
}

static void withdraw(job *j)
{
    for (int slot = 0; slot < SLOTS; slot++)
        for (int k = j->done[slot]; k < j->used[slot]; k++)
            j->comm->ops->cancel(j->comm, &j->h->requests[slot * j->h->request_room + k]);
}

/* --- reductions --- */

/* The channel's own slice is read from where it is. */
static void stage_reduction(job *j, size_t block)
{
    span own = own_slice(j, block);
    size_t lo = own.lo * j->width, hi = own.hi * j->width, all = elements(j, block) * j->width;
    const char *in = own_block(j, block);
    char *to = td_hosts_staged(j->h, block, j->h->local);
    td_kernels_best()->copy(lo, in, to);
    td_kernels_best()->copy(all - hi, in + hi, to + hi);
}

/* Whether host i gets the results. */
static bool wants_results(const job *j, int host)
{
    return j->call->pattern == TD_ALLREDUCE || host == j->comm->host[j->call->root];
}

static td_status receive_reduction(job *j, size_t block)
{
    td_hosts *h = j->h;
    span mine = piece_of(j, block, h->host);
    for (int i = 0; i < h->count; i++)
        if (i != h->host) TD_TRY(hello(j, block, false, i));
    for (int k = 0; k < j->nodes; k++)
        if (j->node[k].host != h->host)
            TD_TRY(start(j, block, false, td_hosts_received(h, block, k), mine.hi - mine.lo,
                         j->node[k].host, TD_TAG_NODES));
    j->awaited[block % SLOTS] = j->used[block % SLOTS];
    if (!wants_results(j, h->host)) return TD_OK;
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + h->count - step) % h->count;
        span theirs = piece_of(j, block, i);
        TD_TRY(start(j, block, false, td_hosts_result(h, block) + theirs.lo * j->width,
                     theirs.hi - theirs.lo, i, TD_TAG_RESULTS));
    }
    return TD_OK;
}

static bool all_staged(const job *j, size_t block)
{
    return all_at(j, TD_STAGED, j->h->size, j->h->before + block + 1);
}

static const char *part_of(const job *j, size_t block, int rank)
{
    return rank == j->comm->rank ? own_block(j, block)
                                 : td_hosts_staged(j->h, block, j->h->place[rank]);
}

/* Where a node of this host lies: a rank's block, or where the first of its ranks staged. */
static char *node_data(const job *j, size_t block, const td_host_node *node)
{
    if (node->leaves == 1) return (char *)(uintptr_t)part_of(j, block, node->begin);
    return td_hosts_staged(j->h, block, j->h->place[node->begin]);
}

static void add_nodes(job *j, size_t block, span s)
{
    for (int k = 0; k < j->nodes; k++) {
        const td_host_node *node = &j->node[k];
        if (node->host != j->h->host || node->leaves == 1) continue;
        for (int l = 0; l < node->leaves; l++)
            j->h->parts[l] = part_of(j, block, node->begin + l) + s.lo * j->width;
        td_reduction_fold(&j->call->how, j->h->parts, node->leaves, s.hi - s.lo,
                          node_data(j, block, node) + s.lo * j->width);
    }
}

static td_status scatter_nodes(job *j, size_t block)
{
    for (int r = 0; r < j->h->size && block == 0; r++) TD_TRY(compare(j, r));
    for (int step = 1; step < j->h->count; step++) {
        int i = (j->h->host + step) % j->h->count;
        span theirs = piece_of(j, block, i);
        TD_TRY(hello(j, block, true, i));
        add_nodes(j, block, theirs);
        for (int k = 0; k < j->nodes; k++)
            if (j->node[k].host == j->h->host)
                TD_TRY(start(j, block, true,
                             node_data(j, block, &j->node[k]) + theirs.lo * j->width,
                             theirs.hi - theirs.lo, i, TD_TAG_NODES));
    }
    add_nodes(j, block, piece_of(j, block, j->h->host));
    return TD_OK;
}

static td_status sum_nodes(job *j, size_t block)
{
    td_hosts *h = j->h;
    span mine = piece_of(j, block, h->host);
    char *to = td_hosts_result(h, block) + mine.lo * j->width;
    for (int k = 0; k < j->nodes; k++) {
        bool own = j->node[k].host == h->host;
        h->parts[k] = own ? node_data(j, block, &j->node[k]) + mine.lo * j->width
                          : td_hosts_received(h, block, k);
        h->leaves[k] = j->node[k].leaves;
    }
    td_reduction_fold_nodes(&j->call->how, h->parts, h->leaves, j->nodes, mine.hi - mine.lo, to);
    for (int step = 1; step < h->count; step++) {
        int i = (h->host + step) % h->count;
        if (wants_results(j, i))
            TD_TRY(start(j, block, true, to, mine.hi - mine.lo, i, TD_TAG_RESULTS));
    }
    return TD_OK;
}

static const pattern reduction = {stage_reduction, receive_reduction, all_staged, scatter_nodes,
                                  sum_nodes};

/* --- broadcast --- */

/* Places in the chain: the root's host is 0. */
static int link_of(const job *j)
{
    int n = j->h->count;
    return (j->h->host - j->comm->host[j->call->root] + n) % n;
}

static void stage_broadcast(job *j, size_t block)
{
    if (j->comm->rank == j->call->root)
        td_kernels_best()->copy(elements(j, block) * j->width, own_block(j, block),
                                td_hosts_result(j->h, block));
}

static td_status receive_broadcast(job *j, size_t block)
{
    span s = own_slice(j, block);
    int n = j->h->count;
    if (link_of(j) > 0) {
        TD_TRY(hello(j, block, false, (j->h->host + n - 1) % n));
        TD_TRY(start(j, block, false, td_hosts_result(j->h, block) + s.lo * j->width, s.hi - s.lo,
                     (j->h->host + n - 1) % n, TD_TAG_NODES));
    }
    j->awaited[block % SLOTS] = j->used[block % SLOTS];
    return TD_OK;
}

/* The root has staged; elsewhere the message itself is waited for. */
static bool root_staged(const job *j, size_t block)
{
    uint64_t want = j->h->before + block + 1;
    if (link_of(j) > 0) return true;
    const td_host_line *root = &j->h->lines[j->h->place[j->call->root]];
    return __atomic_load_n(&root->stage[TD_STAGED], __ATOMIC_ACQUIRE) >= want;
}

static td_status pass_on(job *j, size_t block)
{
    span s = own_slice(j, block);
    int n = j->h->count;
    if (link_of(j) == 0 && block == 0) TD_TRY(compare(j, j->h->place[j->call->root]));
    if (link_of(j) == n - 1) return TD_OK;
    TD_TRY(hello(j, block, true, (j->h->host + 1) % n));
    return start(j, block, true, td_hosts_result(j->h, block) + s.lo * j->width, s.hi - s.lo,
                 (j->h->host + 1) % n, TD_TAG_NODES);
}

static const pattern broadcast = {stage_broadcast, receive_broadcast, root_staged, NULL, pass_on};

/* --- the stages --- */

static bool slot_free(const job *j, size_t block)
{
    uint64_t number = j->h->before + block;
    return number < SLOTS || all_at(j, TD_COPIED, j->h->size, number + 1 - SLOTS);
}

static td_status stage_next(job *j)
{
    size_t block = j->staged;
    int slot = (int)(block % SLOTS);
    j->used[slot] = j->awaited[slot] = j->done[slot] = 0;
    if (block == 0) *shown(j, j->h->local) = j->comm->card.runs;
    if (j->h->local < j->channels) TD_TRY(j->does->receive(j, block));
    j->does->stage(j, block);
    reach(j, TD_STAGED, ++j->staged);
    return TD_OK;
}

/* A channel's part; the other ranks of the host wait for it. */
static td_status move_slices(job *j, bool *moved)
{
    bool all;
    if (j->finished < j->summed) {
        TD_TRY(requests_done(j, j->finished, j->used[j->finished % SLOTS], &all));
        if (all) reach(j, TD_FINISHED, ++j->finished), *moved = true;
    }
    if (j->summed < j->scattered) {
        TD_TRY(requests_done(j, j->summed, j->awaited[j->summed % SLOTS], &all));
        if (all) {
            TD_TRY(j->does->sum(j, j->summed));
            j->summed++, *moved = true;
        }
    }
    if (j->scattered < j->staged && j->does->ready(j, j->scattered)) {
        if (j->does->scatter) TD_TRY(j->does->scatter(j, j->scattered));
        j->scattered++, *moved = true;
    }
    return TD_OK;
}

static td_status copy_next(job *j)
{
    if (j->copied == 0) TD_TRY(compare(j, 0)); /* which has finished it */
    size_t at = j->copied * j->most * j->width, bytes = elements(j, j->copied) * j->width;
    if (j->reads)
        td_kernels_best()->copy(bytes, td_hosts_result(j->h, j->copied), (char *)j->call->out + at);
    reach(j, TD_COPIED, ++j->copied);
    return TD_OK;
}

/* *done: something has moved. */
static td_status advance(void *arg, bool *done)
{
    job *j = arg;
    bool moved = false;
    if (j->h->local < j->channels) TD_TRY(move_slices(j, &moved));
    if (j->copied < j->staged &&
        all_at(j, TD_FINISHED, j->channels, j->h->before + j->copied + 1)) {
        TD_TRY(copy_next(j));
        moved = true;
    }
    if (j->staged < j->blocks && slot_free(j, j->staged)) {
        TD_TRY(stage_next(j));
        moved = true;
    }
    *done = moved;
    return TD_OK;
}

/* Whom the oldest block waits for. */
static int missing(void *arg)
{
    const job *j = arg;
    const td_hosts *h = j->h;
    const int *ranks = h->ranks + h->first[h->host];
    if (j->scattered == j->copied && j->does == &reduction)
        for (int r = 0; r < h->size; r++)
            if (__atomic_load_n(&h->lines[r].stage[TD_STAGED], __ATOMIC_ACQUIRE) <=
                h->before + j->copied)
                return ranks[r];
    int slot = (int)(j->copied % SLOTS);
    if (h->local < j->channels && j->done[slot] < j->used[slot])
        return h->requests[slot * h->request_room + j->done[slot]].peer;
    for (int r = 0; r < j->channels; r++)
        if (__atomic_load_n(&h->lines[r].stage[TD_FINISHED], __ATOMIC_ACQUIRE) <=
            h->before + j->copied)
            return ranks[r];
    return -1;
}

static td_status run(job *j)
{
    while (j->copied < j->blocks) TD_TRY(td_comm_wait(j->comm, -1, NULL, advance, missing, j));
    return TD_OK;
}

/* Long vectors: messages as long as is good; shorter ones still in several blocks. */
static size_t block_bytes(const job *j)
{
    const td_hosts *h = j->h;
    size_t slice = (size_t)h->channels * TD_HOSTS_MESSAGE, block = j->call->bytes / 4;
    size_t most = j->does == &broadcast && slice < h->block ? slice : h->block;
    if (block < LEAST_BLOCK) block = LEAST_BLOCK;
    return block < most ? block : most;
}

static td_status begin(td_comm *comm, const td_call *call, const pattern *does, bool reads)
{
    job j = {.comm = comm, .call = call, .does = does, .reads = reads};
    TD_TRY(td_hosts_of(comm, &j.h));
    bool partial = does == &reduction && td_reduction_in_parts(&call->how);
    j.node = partial ? j.h->nodes : j.h->ranks_alone;
    j.nodes = partial ? j.h->node_count : comm->size;
    j.width = does == &reduction ? call->how.width : 1;
    j.most = block_bytes(&j) / j.width;
    j.blocks = (call->bytes / j.width + j.most - 1) / j.most;
    j.channels =
        td_hosts_channels(j.h, j.most * j.width < call->bytes ? j.most * j.width : call->bytes);
    td_status status = run(&j);
    if (status != TD_OK) withdraw(&j);
    j.h->before += j.blocks;
    return status;
}

td_status td_hierarchical_reduce(td_comm *comm, const td_call *call)
{
    bool reads = call->pattern == TD_ALLREDUCE || comm->rank == call->root;
    return begin(comm, call, &reduction, reads);
}

td_status td_hierarchical_broadcast(td_comm *comm, const td_call *call)
{
    return begin(comm, call, &broadcast, comm->rank != call->root);
}
