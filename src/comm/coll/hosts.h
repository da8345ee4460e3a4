/* A group over several hosts: who is where, what each host holds of the tree of ranks, and memory
 * in which the ranks of a host work together.
 *
 * The tree's leaves are ranks. A host's *nodes* are the largest subtrees that lie whole in its
 * ranks: one where its ranks are a power of two and begin at a multiple of it, up to one for each
 * rank where ranks are dealt round robin.
 *
 * A long operation goes in blocks. Block b works in slot b % SLOTS of the ring that a host shares:
 *
 *   lines of rank 0, 1, ... | slot 0: block of rank 0, 1, ..., result | slot 1: ...
 *
 * Lines say how many blocks, counted through the life of the group, a rank has staged, its part of
 * which it has finished, and which it has copied out. */
#ifndef TD_COMM_COLL_HOSTS_H
#define TD_COMM_COLL_HOSTS_H

#include "comm/coll/coll.h"

enum {
    TD_HOSTS_SLOTS = 8,
    TD_HOSTS_LINE = 448,
    TD_HOSTS_MESSAGE = 48 << 10, /* the longest: under 64 KiB, Open MPI's TCP sends at once */
    TD_HOSTS_PIECE = 8 << 10     /* shorter ones are not cut further */
};

typedef struct td_host_node {
    int host, begin, leaves; /* ranks [begin, begin + leaves) */
} td_host_node;

typedef enum td_host_stage { TD_STAGED, TD_FINISHED, TD_COPIED, TD_HOST_STAGES } td_host_stage;

typedef struct td_host_line { /* written by its rank alone; stages are atomic */
    uint64_t stage[TD_HOST_STAGES];
    char pad[128 - 8 * TD_HOST_STAGES];
    td_header shown[TD_HOSTS_SLOTS]; /* what runs; in the slot of its first block */
} td_host_line;
_Static_assert(sizeof(td_host_line) == TD_HOSTS_LINE, "a line of counters");

typedef struct td_hosts {
    td_comm *comm;
    int count, host;     /* of hosts; mine */
    int size, local;     /* ranks of my host; my place */
    int channels;        /* ranks of the smallest host */
    int *ranks, *first;  /* host h's ranks: ranks[first[h]] to ranks[first[h + 1] - 1] */
    int *place;          /* [comm->size] each rank's among those of its host */
    td_host_node *nodes; /* in order of leaves */
    int node_count;
    td_host_node *ranks_alone; /* [comm->size] every rank as a node */
    size_t block;              /* most bytes of a block */
    size_t piece_room;         /* most bytes of a piece, see td_hosts_channels */
    td_region region;
    bool shares; /* region is the host's, else this rank's own */
    td_host_line *lines;
    char *slots;
    char *received;       /* [SLOTS][comm->size][piece_room] */
    td_request *requests; /* [SLOTS][request_room] */
    int request_room;
    char (*hello)[TD_HELLO_ROOM]; /* [2 * count] from each host, then to each */
    const void **parts;           /* [comm->size] scratch */
    int *leaves;
    uint64_t before; /* blocks of earlier operations */
} td_hosts;

/* The group's, made on first use (collective). */
TD_MUST_CHECK td_status td_hosts_of(td_comm *comm, td_hosts **out);
void td_hosts_destroy(td_comm *comm);

/* How many equal-numbered ranks of the hosts exchange slices of a block of so many bytes. */
int td_hosts_channels(const td_hosts *hosts, size_t bytes);

static inline char *td_hosts_staged(const td_hosts *h, uint64_t block, int local)
{
    size_t slot = (size_t)((h->before + block) % TD_HOSTS_SLOTS);
    return h->slots + (slot * ((size_t)h->size + 1) + (size_t)local) * h->block;
}
static inline char *td_hosts_result(const td_hosts *h, uint64_t block)
{
    return td_hosts_staged(h, block, h->size);
}
static inline char *td_hosts_received(const td_hosts *h, uint64_t block, int node)
{
    size_t slot = (size_t)((h->before + block) % TD_HOSTS_SLOTS);
    return h->received + (slot * (size_t)h->comm->size + (size_t)node) * h->piece_room;
}

#endif
