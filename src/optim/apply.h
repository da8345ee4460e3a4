/* The two halves of td_optim_step, for whoever holds a part of the optimizer's state: the norm is
 * of the whole gradient. */
#ifndef TD_OPTIM_APPLY_H
#define TD_OPTIM_APPLY_H

#include "tandem/optim.h"

/* scale, times the factor that brings the norm of gradient * scale down to `most` (0: never). Sums
 * are made in a fixed order. */
float td_optim_clip(double most, const td_slot *slots, size_t slot_count, const float *gradient,
                    float scale);
/* Moves params; stat slots are averaged in by `scale`, which is not clipped. */
void td_optim_apply(td_optim *optim, uint64_t step, const float *gradient, float scale,
                    float clipped, float *params);

/* params = (1 - momentum) params + momentum (scale gradient), for a TD_SLOT_STAT; scale 0: nothing
 * was seen. */
void td_optim_average(size_t n, float momentum, const float *gradient, float scale, float *params);

#endif
