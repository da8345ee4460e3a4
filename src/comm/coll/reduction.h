/* The arithmetic of reductions. */
#ifndef TD_COMM_COLL_REDUCTION_H
#define TD_COMM_COLL_REDUCTION_H

#include "tandem/comm.h"

/* How elements are combined: `op` on `type`, or else the user's function on `width` bytes. */
typedef struct td_reduction {
    td_type type;
    td_op op;
    size_t width;           /* bytes of an element */
    td_combine_fn *combine; /* NULL: op */
    void *user;
} td_reduction;

/* out = the parts combined along the tree of math/tree.h with parts as leaves, n >= 1; out may be
 * one of them. Half types are widened first and rounded once, at the end. */
void td_reduction_fold(const td_reduction *how, const void *const *part, int n, size_t count,
                       void *out);
/* The same where part k is a node of that tree, the result of leaves[k] leaves: all parts together
 * are the tree. Not for half types, unless each part is a leaf. */
void td_reduction_fold_nodes(const td_reduction *how, const void *const *part, const int *leaves,
                             int n, size_t count, void *out);
/* out = part 0, then 1, ... one after the other. */
void td_reduction_chain(const td_reduction *how, const void *const *part, int n, size_t count,
                        void *out);
/* out = a op b, rounded to the type; out may be a or b. */
void td_reduction_combine(const td_reduction *how, const void *a, const void *b, size_t count,
                          void *out);
/* Whether partial results may be kept in the type itself without another answer: all but half. */
bool td_reduction_in_parts(const td_reduction *how);

float td_f16_to_f32(uint16_t half);
uint16_t td_f32_to_f16(float x); /* to nearest, ties to even */
float td_bf16_to_f32(uint16_t half);
uint16_t td_f32_to_bf16(float x); /* to nearest, ties to even */

#endif
