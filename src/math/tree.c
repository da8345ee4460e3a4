/* See tree.h. */
#include "math/tree.h"

#include <string.h>

/* Lifts a node to its parent while it is a left child without right sibling. */
static td_tree_node lift(int leaves, td_tree_node n)
{
    while (n.index > 0 && (n.index & 1) == 0 && ((long)(n.index + 1) << n.level) >= leaves) {
        n.level++;
        n.index >>= 1;
    }
    return n;
}

int td_tree_merge_nodes(int leaves, const td_tree_node *nodes, int count, int *merges,
                        td_tree_node *left)
{
    td_tree_node stack[64];
    int depth = 0;
    for (int k = 0; k < count; k++) {
        td_tree_node n = lift(leaves, nodes[k]);
        int merged = 0;
        while (depth && (n.index & 1) && stack[depth - 1].level == n.level &&
               stack[depth - 1].index == n.index - 1) {
            depth--;
            merged++;
            n = lift(leaves, (td_tree_node){n.level + 1, n.index >> 1});
        }
        stack[depth++] = n;
        if (merges) merges[k] = merged;
    }
    if (left) memcpy(left, stack, (size_t)depth * sizeof *left);
    return depth;
}

static int walk(int leaves, int begin, int end, int *merges, td_tree_node *nodes)
{
    td_tree_node leaf[TD_TREE_MAX_LEAVES];
    for (int l = begin; l < end; l++) leaf[l - begin] = (td_tree_node){0, l};
    return td_tree_merge_nodes(leaves, leaf, end - begin, merges, nodes);
}

int td_tree_nodes(int leaves, int begin, int end, td_tree_node *nodes)
{
    return walk(leaves, begin, end, NULL, nodes);
}

void td_tree_merges(int leaves, int begin, int end, int *merges)
{
    walk(leaves, begin, end, merges, NULL);
}

enum { BLOCK = 1024 };

static void add_block(const float *restrict a, const float *restrict b, size_t n,
                      float *restrict out)
{
    for (size_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

static void add_into(float *restrict a, const float *restrict b, size_t n)
{
    for (size_t i = 0; i < n; i++) a[i] += b[i];
}

/* One block: parts stay where they are until they are first added; partial sums live in `room`. */
static int fold_block(const float *const *parts, const int *merges, int count, size_t at, size_t n,
                      float room[][BLOCK], const float **stack)
{
    int depth = 0;
    for (int k = 0; k < count; k++) {
        const float *top = parts[k] + at;
        for (int m = 0; m < merges[k]; m++) {
            depth--;
            const float *older = stack[depth];
            if (older == room[depth])
                add_into(room[depth], top, n);
            else
                add_block(older, top, n, room[depth]);
            top = room[depth];
        }
        stack[depth++] = top;
    }
    return depth;
}

void td_tree_fold_to(const float *const *parts, const int *merges, int count, size_t lo, size_t hi,
                     float *const *outs)
{
    float room[64][BLOCK];
    const float *stack[64];
    for (size_t at = lo; at < hi; at += BLOCK) {
        size_t n = hi - at < BLOCK ? hi - at : BLOCK;
        int depth = fold_block(parts, merges, count, at, n, room, stack);
        for (int k = 0; k < depth; k++)
            if (stack[k] != outs[k] + at) memcpy(outs[k] + at, stack[k], n * sizeof(float));
    }
}

void td_tree_fold(const float *const *parts, const int *merges, int count, size_t lo, size_t hi,
                  float *out)
{
    if (count == 2 && merges[1] == 1) { /* the common case, without a copy */
        add_block(parts[0] + lo, parts[1] + lo, hi - lo, out + lo);
        return;
    }
    if (count == 4 && merges[1] == 1 && merges[2] == 0 && merges[3] == 2) {
        const float *a = parts[0], *b = parts[1], *c = parts[2], *d = parts[3];
        for (size_t i = lo; i < hi; i++) out[i] = (a[i] + b[i]) + (c[i] + d[i]);
        return;
    }
    td_tree_fold_to(parts, merges, count, lo, hi, &out);
}

double td_tree_fold_doubles(const double *values, size_t stride, int leaves)
{
    if (leaves == 1) return values[0];
    int half = 1;
    while (half * 2 < leaves) half *= 2;
    return td_tree_fold_doubles(values, stride, half) +
           td_tree_fold_doubles(values + (size_t)half * stride, stride, leaves - half);
}
