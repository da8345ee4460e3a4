/* Tandem: training with a gradient of your own.
 *
 * You write the gradient of one leaf (a few samples of a batch); Tandem deals leaves to ranks and
 * threads, adds them along a fixed tree, and updates. The result does not depend on how many ranks
 * or threads there are. */
#ifndef TANDEM_TRAIN_H
#define TANDEM_TRAIN_H

#include "tandem/comm.h"
#include "tandem/data.h"
#include "tandem/optim.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Rows of one leaf, or of a part of it where samples have weights; borrowed for the length of the
 * call. */
typedef struct td_leaf {
    size_t rows, features;
    const float *x;         /* [rows][features] */
    const int32_t *label;   /* [rows] or NULL */
    const float *target;    /* [rows] */
    const uint64_t *sample; /* [rows], to key random streams */
} td_leaf;

/* Adds the gradient of the rows' summed loss to gradient [params] (given as zeros) and returns the
 * summed loss. Must be a function of its arguments alone, and add up: rows together make what they
 * make one by one. Called from several threads at once.
 *
 * Sample weights are td_fit's to apply: where a data set has them, it asks for each run of rows of
 * the same weight, multiplies what comes back, and leaves out rows of weight 0; each run costs a
 * pass over the gradient. A sample of weight 2 counts as two. */
typedef double td_gradient_fn(void *user, const td_leaf *leaf, const float *params,
                              float *gradient);

/* Called on every rank at the end of an epoch, with the mean training loss (weighted, as samples
 * are); may be NULL. */
typedef void td_epoch_fn(void *user, uint64_t epoch, double loss);

typedef struct td_fit_config {
    const td_dataset *data;
    const td_normalise *normalise; /* or NULL */
    size_t batch;                  /* default 128 */
    int leaves;                    /* default 16 */
    int threads;                   /* of this rank; default 1 */
    uint64_t epochs;               /* default 1 */
    uint64_t seed;
    td_optim_config optim; /* `every`, `warmup` and `total` count steps */
    td_gradient_fn *gradient;
    td_epoch_fn *epoch;
    void *user;
} td_fit_config;

/* Trains params [count] in place; collective. TD_ERR_DIVERGED when the loss is no number. */
TD_API TD_MUST_CHECK td_status td_fit(td_comm *comm, const td_fit_config *config, size_t count,
                                      float *params);

#ifdef __cplusplus
}
#endif
#endif
