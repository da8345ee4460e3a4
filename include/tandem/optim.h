/* Tandem: update rules and learning-rate schedules over spans of parameters. */
#ifndef TANDEM_OPTIM_H
#define TANDEM_OPTIM_H

#include "tandem/slot.h"
#include "tandem/status.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_optim td_optim;

/* Zero (NULL) means the default in brackets. For a true zero of beta1, beta2 give a negative. */
typedef struct td_optim_config {
    const char *rule;     /* sgd, nesterov, adam, adamw, adagrad, rmsprop [sgd] */
    double lr;            /* [0.01] */
    double momentum;      /* sgd, nesterov, rmsprop [0] */
    double beta1, beta2;  /* adam, adamw [0.9, 0.999]; beta2 is rmsprop's decay [0.99] */
    double epsilon;       /* [1e-8; adagrad 1e-10] */
    double weight_decay;  /* of weights, not of biases and normalisations [0] */
    double clip_norm;     /* the gradient is scaled down to this norm [0: never] */
    const char *schedule; /* constant, step, cosine, linear [constant] */
    uint64_t warmup;      /* steps over which the rate rises linearly from 0 [0] */
    uint64_t total;       /* steps of the whole run, for cosine and linear */
    uint64_t every;       /* step: the rate is multiplied by gamma each so many steps */
    double gamma;         /* [0.1] */
    double final_lr;      /* cosine and linear end here [0] */
} td_optim_config;

/* slots: borrowed for the life of the object, as are the strings. TD_ERR_ARG. */
TD_API TD_MUST_CHECK td_status td_optim_create(const td_optim_config *config, const td_slot *slots,
                                               size_t slot_count, size_t params, td_optim **out);
TD_API void td_optim_destroy(td_optim *optim); /* NULL is fine */

/* The rate of step number `step` (from 0). */
TD_API double td_optim_rate(const td_optim *optim, uint64_t step);

/* One step: params are moved against gradient * scale [params]; stat slots are averaged in, unless
 * scale is 0. The same bits whoever calls it. Allocates nothing. */
TD_API void td_optim_step(td_optim *optim, uint64_t step, const float *gradient, float scale,
                          float *params);

/* State arrays of `params` floats each: how many, their names, and where they are. */
TD_API int td_optim_states(const td_optim *optim);
TD_API const char *td_optim_state_name(const td_optim *optim, int index);
TD_API float *td_optim_state(td_optim *optim, int index);

/* Names of rules and schedules, NULL at the end. */
TD_API extern const char *const td_optim_rule_names[];
TD_API extern const char *const td_optim_schedule_names[];

#ifdef __cplusplus
}
#endif
#endif
