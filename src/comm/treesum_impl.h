/* What the two files of the tree sum share: treesum.c plans and creates, treesum_step.c runs.
 *
 * Ranks of a host form an *island* where every host's ranks are adjacent; otherwise each rank is an
 * island alone. The first C ranks of each island, C the size of the smallest, are its *channels*
 * (with one island: all ranks). Of every posted range, channel j owns slice j:
 *
 *   1. when all ranks of the island have posted, it adds their nodes over the slice
 *      (one island: that is the sum, done);
 *   2. it cuts the slice into one piece per island, sends each island's piece of its island's
 *      nodes to channel j there, and receives its own piece of theirs;
 *   3. adds those nodes in tree order, and sends the summed piece to channel j of the others.
 *
 * A step's last range is empty and begins in wait: with it go the leaf values, from channel 0 to
 * channel 0.
 *
 * Cost beyond the host: 2 (I - 1) messages a channel and node, 2 (I - 1) / I of the slice's bytes
 * where islands make one node each (a power of two), as the best all-reduce does.
 * Inside: every node is read once, the sum written once, by one of the ranks.
 *
 * Shared memory of an island:
 *   counters of rank 0, 1, ... | bell | leaf values [L][V], twice
 *   | nodes of rank 0, 1, ... [count] each | sum [count]
 * Counters only grow. Leaf values have two copies that take turns, because a fast rank may begin
 * the next step while a slow one still reads. */
#ifndef TD_COMM_TREESUM_IMPL_H
#define TD_COMM_TREESUM_IMPL_H

#include "comm/transport.h"
#include "comm/treesum.h"

enum { TD_TREESUM_LINE = 128 };

typedef struct td_treesum_counters { /* of one rank, written by that rank alone */
    uint64_t posted, done;           /* ranges since creation; atomic */
    char pad[TD_TREESUM_LINE - 16];
} td_treesum_counters;

typedef enum td_range_state {
    TD_RANGE_WAITING,   /* for ranks of the island to post */
    TD_RANGE_SCATTERED, /* pieces of nodes are under way between islands */
    TD_RANGE_GATHERING, /* summed pieces are */
    TD_RANGE_DONE
} td_range_state;

typedef struct td_range {
    size_t lo, hi;
    size_t room; /* where in each row of `received` its piece lies */
    td_range_state state;
    bool last;            /* the step's: carries the leaf values */
    td_request *requests; /* [request_room] */
    int request_count;
} td_range;

struct td_treesum {
    td_comm *comm;
    td_treesum_config config;
    int *bounds;               /* [ranks + 1] where the ranks' leaves begin */
    size_t stride;             /* floats from node to node */
    int islands, island;       /* number, mine */
    int *first;                /* [islands + 1] ranks of the islands begin here */
    int size, local, channels; /* of my island: ranks, my place */
    td_region region;
    bool shares;                  /* region is the host's, else this rank's own */
    td_treesum_counters *counter; /* [size] */
    td_bell *bell;                /* rung when a counter of the island has risen */
    double *leaf[2];              /* [leaves][leaf_values] */
    float *sum;                   /* own_nodes where there is nothing to add */
    float *own_nodes;             /* first of this rank's */
    int *lane_node;               /* [lanes + 1] each lane's first of them */
    const float **parts;          /* nodes of the island, in order */
    int *merges, part_count;
    int left_count;    /* nodes that they make */
    float **left_data; /* [left_count] where several islands */
    /* several islands: */
    void *left_memory;
    int *island_nodes;       /* [islands] */
    const float **all_parts; /* nodes of all islands, in order */
    int *all_merges, all_count;
    float *received; /* [all_count][piece_room] */
    size_t piece_room, piece_used;
    td_request *requests;
    int request_room;     /* for each range */
    td_range *ranges;     /* [most_ranges + 1] */
    int posted, finished; /* of this step */
    bool waiting;         /* the last range has been posted */
    uint64_t before;      /* ranges of earlier steps */
    uint64_t step;
    double *leaf_sums; /* [leaf_values] */
    td_treesum_times times;
};

static inline size_t td_treesum_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Where part `part` of [lo, hi) begins: on a line of 16 floats, so that no two ranks write one.
 * A part is at most (hi - lo) / parts + 16 long. */
size_t td_treesum_cut(size_t lo, size_t hi, int parts, int part);
#endif
