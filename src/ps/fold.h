/* Sums of gradients of one key along the tree of a batch's leaves (math/tree.h), in which leaves
 * without the key are left out: a sum is that of a smallest node which holds two others. */
#ifndef TD_PS_FOLD_H
#define TD_PS_FOLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TD_FOLD_DEPTH = 33 }; /* of the tree over 32-bit leaves */

typedef struct td_fold {
    float *stack; /* [TD_FOLD_DEPTH][width], borrowed */
    size_t width;
    int above[TD_FOLD_DEPTH], top;
} td_fold;

/* Where the next leaf's (or node's) sum goes. */
static inline float *td_fold_next(td_fold *f)
{
    return f->stack + (size_t)f->top * f->width;
}

/* That sum is whole. `leaf` is its first leaf, `next` the first of the sum that follows; last: none
 * does, or none that it may be added to here. Then the stack's lowest is the sum of all. */
void td_fold_push(td_fold *f, uint32_t leaf, uint32_t next, bool last);

/* Level of the smallest node that holds both leaves, which differ. */
static inline int td_fold_level(uint32_t a, uint32_t b)
{
    return 32 - __builtin_clz(a ^ b);
}

void td_fold_add(size_t width, float *to, const float *from);

#endif
