#include "comm/coll/hosts.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/tree.h"

#include <string.h>

enum { MOST_BLOCK = 1 << 20, HOST_BLOCKS = 16 << 20, WIDEST = 2048 };

int td_hosts_channels(const td_hosts *h, size_t bytes)
{
    size_t worth = bytes / (size_t)h->count / TD_HOSTS_PIECE;
    return worth < 1 ? 1 : worth < (size_t)h->channels ? (int)worth : h->channels;
}

static td_status no_memory(const td_comm *comm)
{
    return td_fail(TD_ERR_NOMEM, "no memory for the hosts of %d ranks", comm->size);
}

static td_status find_hosts(td_hosts *h)
{
    const td_comm *c = h->comm;
    size_t n = (size_t)c->size;
    h->count = c->hosts, h->host = c->host[c->rank];
    h->size = c->local_size, h->local = c->local_rank;
    h->ranks = td_calloc(n, sizeof *h->ranks);
    h->place = td_calloc(n, sizeof *h->place);
    h->first = td_calloc((size_t)h->count + 1, sizeof *h->first);
    if (!h->ranks || !h->place || !h->first) return no_memory(c);
    h->channels = c->size;
    for (int host = 0, at = 0; host < h->count; host++) {
        for (int r = 0; r < c->size; r++) {
            if (c->host[r] != host) continue;
            h->place[r] = at - h->first[host];
            h->ranks[at++] = r;
        }
        h->first[host + 1] = at;
        if (at - h->first[host] < h->channels) h->channels = at - h->first[host];
    }
    return TD_OK;
}

/* The largest nodes of each run of ranks on one host. */
static td_status find_nodes(td_hosts *h)
{
    const td_comm *c = h->comm;
    h->nodes = td_calloc(2 * (size_t)c->size, sizeof *h->nodes);
    if (!h->nodes) return no_memory(c);
    h->ranks_alone = h->nodes + c->size;
    for (int r = 0; r < c->size; r++)
        h->ranks_alone[r] = (td_host_node){.host = c->host[r], .begin = r, .leaves = 1};
    for (int begin = 0, end; begin < c->size; begin = end) {
        td_tree_node found[TD_TREE_MAX_NODES];
        for (end = begin + 1; end < c->size && c->host[end] == c->host[begin];) end++;
        int n = td_tree_nodes(c->size, begin, end, found);
        for (int k = 0; k < n; k++) {
            int from = found[k].index << found[k].level, to = from + (1 << found[k].level);
            if (to > c->size) to = c->size;
            h->nodes[h->node_count++] =
                (td_host_node){.host = c->host[begin], .begin = from, .leaves = to - from};
        }
    }
    return TD_OK;
}

static td_status get_memory(td_hosts *h)
{
    td_comm *c = h->comm;
    size_t head = (size_t)h->size * sizeof(td_host_line);
    size_t bytes = head + TD_HOSTS_SLOTS * ((size_t)h->size + 1) * h->block;
    if (c->size > h->count) { /* some host shares: all take part */
        td_region region = {0};
        h->shares = h->size > 1;
        TD_TRY(c->ops->shared_create(c, h->shares ? bytes : 1, &region));
        if (h->shares)
            h->region = region;
        else
            td_comm_shared_destroy(c, &region);
    }
    if (!h->shares) {
        h->region.data = td_alloc_aligned(bytes);
        if (!h->region.data) return no_memory(c);
        memset(h->region.data, 0, head);
    }
    h->lines = h->region.data;
    h->slots = (char *)h->region.data + head;
    return TD_OK;
}

td_status td_hosts_of(td_comm *comm, td_hosts **out)
{
    *out = comm->over;
    if (comm->over) return TD_OK;
    td_hosts *h = td_calloc(1, sizeof *h);
    if (!h) return no_memory(comm);
    size_t n = (size_t)comm->size;
    td_status status = TD_OK;
    h->comm = comm;
    comm->over = h; /* to be destroyed below */
    TD_GOTO(find_hosts(h));
    TD_GOTO(find_nodes(h));
    int most = 0; /* the same everywhere: ranks of the largest host */
    for (int i = 0; i < h->count; i++)
        if (h->first[i + 1] - h->first[i] > most) most = h->first[i + 1] - h->first[i];
    size_t pieces = (size_t)h->count * (size_t)h->channels;
    h->block = HOST_BLOCKS / (size_t)most & ~(size_t)4095;
    if (h->block > MOST_BLOCK) h->block = MOST_BLOCK;
    if (h->block > pieces * TD_HOSTS_MESSAGE) h->block = pieces * TD_HOSTS_MESSAGE;
    h->piece_room = h->block / pieces > 2 * TD_HOSTS_PIECE ? h->block / pieces : 2 * TD_HOSTS_PIECE;
    h->piece_room = (h->piece_room + 2 * WIDEST + 4095) & ~(size_t)4095;
    h->request_room = comm->size * h->count + comm->size + 4 * h->count;
    h->received = td_alloc_aligned(TD_HOSTS_SLOTS * n * h->piece_room);
    h->requests = td_calloc(TD_HOSTS_SLOTS * (size_t)h->request_room, sizeof *h->requests);
    h->hello = td_calloc(2 * (size_t)h->count, sizeof *h->hello);
    h->parts = td_calloc(n, sizeof *h->parts);
    h->leaves = td_calloc(n, sizeof *h->leaves);
    if (!h->received || !h->requests || !h->hello || !h->parts || !h->leaves) {
        status = no_memory(comm);
        goto out;
    }
    TD_GOTO(get_memory(h));
    *out = h;
    return TD_OK;
out:
    td_hosts_destroy(comm);
    return status;
}

void td_hosts_destroy(td_comm *comm)
{
    td_hosts *h = comm->over;
    if (!h) return;
    if (h->shares)
        td_comm_shared_destroy(comm, &h->region);
    else
        td_free(h->region.data);
    td_free(h->ranks), td_free(h->place), td_free(h->first), td_free(h->nodes);
    td_free(h->received), td_free(h->requests), td_free(h->parts), td_free(h->leaves);
    td_free(h->hello);
    td_free(h);
    comm->over = NULL;
}
