/* The tree-ordered sum: adds the gradients of a batch's leaves so that the bits do not depend on
 * how many ranks, threads or hosts hold them (math/tree.h).
 *
 * A rank holds adjacent leaves, [rank L / R, (rank + 1) L / R) unless they are dealt otherwise, and
 * deals them evenly to its lanes (threads). Each lane writes the sums of its own tree nodes
 * straight into node buffers, which lie in memory that the ranks of a host share. Ranges of the
 * array are posted as they become complete and reduced while the rest is still being computed.
 *
 * One step: lanes fill nodes and leaf values; lane 0 calls post for each range, progress now and
 * then, and wait; then the sum may be read until the next step's first post. */
#ifndef TD_COMM_TREESUM_H
#define TD_COMM_TREESUM_H

#include "math/tree.h"
#include "tandem/comm.h"

typedef struct td_treesum td_treesum;

typedef struct td_treesum_config {
    int leaves;        /* L, 1..TD_TREE_MAX_LEAVES, at least as many as ranks */
    int lanes;         /* of each rank; the same everywhere */
    size_t count;      /* floats */
    int leaf_values;   /* doubles that each leaf adds besides, summed along the tree as well */
    int most_ranges;   /* posted in one step, at most (4096); default 64 */
    const int *bounds; /* [ranks + 1] rank r holds leaves [bounds[r], bounds[r + 1]), one at least;
                        * borrowed for the call. NULL: equal shares */
} td_treesum_config;

/* Collective. TD_ERR_ARG when ranks outnumber leaves, or ask for different sums. A group of several
 * hosts runs the steps of one tree sum at a time. */
TD_MUST_CHECK td_status td_treesum_create(td_comm *comm, const td_treesum_config *config,
                                          td_treesum **out);
void td_treesum_destroy(td_treesum *ts); /* NULL is fine; every rank, before its group ends */

/* The leaves of a rank's lane: [*begin, *end), maybe empty. */
void td_treesum_lane_leaves(const td_treesum *ts, int lane, int *begin, int *end);
int td_treesum_nodes(const td_treesum *ts, int lane);
td_tree_node td_treesum_node_id(const td_treesum *ts, int lane, int k);
float *td_treesum_node(const td_treesum *ts, int lane, int k); /* [count], 64-byte aligned */
/* [leaf_values] of one of this rank's leaves, by its number in the batch; of the step under way: to
 * be asked for in each step anew, and written before wait. */
double *td_treesum_leaf(const td_treesum *ts, int leaf);

/* This rank's nodes hold elements [lo, hi). All ranks post the same ranges in the same order; they
 * do not overlap. TD_ERR_ARG for a range out of bounds, and for too many. */
TD_MUST_CHECK td_status td_treesum_post(td_treesum *ts, size_t lo, size_t hi);
/* Does what has become possible, without waiting. */
TD_MUST_CHECK td_status td_treesum_progress(td_treesum *ts);
/* Until all posted ranges and the leaf values are summed everywhere; nodes may be written again
 * afterwards. TD_ERR_PEER, TD_ERR_TIMEOUT: the sum is then fit only to be destroyed. */
TD_MUST_CHECK td_status td_treesum_wait(td_treesum *ts);

/* [count], shared by the ranks of a host: to be read until this rank's next post. One rank with one
 * node has nothing to add: there the sum is the node itself, and goes when it is written again. */
const float *td_treesum_sum(const td_treesum *ts);
const double *td_treesum_leaf_sums(const td_treesum *ts); /* [leaf_values], until the next wait */

/* Since creation: time waiting for peers, and adding and moving; bytes sent to other hosts. */
typedef struct td_treesum_times {
    int64_t wait_ns, move_ns;
    uint64_t bytes_sent;
} td_treesum_times;
td_treesum_times td_treesum_get_times(const td_treesum *ts);

#endif
