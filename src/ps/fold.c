/* See fold.h. Sums wait on a stack, each with the level of the node in which it meets the next;
 * those get smaller upwards, as of three leaves no two pairs meet at one level. */
#include "ps/fold.h"

enum { NEVER = 32 }; /* above all nodes */

void td_fold_add(size_t width, float *restrict to, const float *restrict from)
{
    for (size_t i = 0; i < width; i++) to[i] += from[i];
}

void td_fold_push(td_fold *f, uint32_t leaf, uint32_t next, bool last)
{
    int above = last ? NEVER : td_fold_level(leaf, next);
    for (; f->top > 0 && f->above[f->top - 1] < above; f->top--)
        td_fold_add(f->width, td_fold_next(f) - f->width, td_fold_next(f));
    f->above[f->top++] = above;
}
