/* The fixed binary tree along which leaves are added.
 *
 * Node (level k, index i) covers leaves [i 2^k, (i + 1) 2^k), as far as there are leaves; its sum
 * is left + right, or left alone where the right child covers nothing. The sum at the root is a
 * function of the leaves alone, however they are dealt to workers: a worker adds the nodes that lie
 * whole in its range, and whoever holds all nodes finishes the same additions. */
#ifndef TD_MATH_TREE_H
#define TD_MATH_TREE_H

#include <stddef.h>

enum { TD_TREE_MAX_LEAVES = 4096, TD_TREE_MAX_NODES = 26 }; /* of one range */

typedef struct td_tree_node {
    int level, index;
} td_tree_node;

/* The largest nodes that lie whole in leaves [begin, end) of `leaves`, in order; returns how many.
 * nodes: [TD_TREE_MAX_NODES], may be NULL. A node without right sibling counts as its parent. */
int td_tree_nodes(int leaves, int begin, int end, td_tree_node *nodes);

/* merges[l - begin]: how many times, when leaf l's sum has been pushed on a stack, the two topmost
 * sums are added (older + newer). What is left on the stack are td_tree_nodes's. */
void td_tree_merges(int leaves, int begin, int end, int *merges);

/* The same for a list of nodes in order that together cover a range: merges[k] after node k;
 * returns how many are left, and which in `left` (may be NULL; may be `nodes`). */
int td_tree_merge_nodes(int leaves, const td_tree_node *nodes, int count, int *merges,
                        td_tree_node *left);

/* Adds `count` parts along such a list of merges: out[i] = ... parts[k][i] ..., for i in [lo, hi).
 * One sum must be left over. */
void td_tree_fold(const float *const *parts, const int *merges, int count, size_t lo, size_t hi,
                  float *out);
/* The same where several are left: outs[k] for each. */
void td_tree_fold_to(const float *const *parts, const int *merges, int count, size_t lo, size_t hi,
                     float *const *outs);
double td_tree_fold_doubles(const double *values, size_t stride, int leaves);

#endif
