/* Models over features under keys (data/features.h): what they compute, behind strategy/sparse.h.
 *
 *     linear  score_o = sum over entries of w_o x            row of a key: [outputs]
 *     fm      sum of w x + sum over pairs of <v, v'> x x'     row: [w, v[factors]]
 *             Rendle, "Factorization machines", ICDM 2010, equation 1
 *     ffm     the same with <v[field'], v'[field]>            row: [w, v[fields][factors]]
 *             Juan et al., "Field-aware factorization machines for CTR prediction", RecSys 2016
 *     dlrm    an embedding a field, numbers through a bottom network to one more vector, all dot
 *             products of two vectors through a top network   row: [factors]
 *             Naumov et al., "Deep learning recommendation model", arXiv:1906.00091, 2019
 *
 * Pairs are of entries: two entries of one key are a pair, too. A bias is a feature like others.
 *
 * Scores of fm, ffm and dlrm are one number a sample, so softmax is for linear models alone; each
 * of the other losses (nn/loss.h) goes with all of them. */
#ifndef TD_MODELS_SPARSE_SPARSE_MODELS_H
#define TD_MODELS_SPARSE_SPARSE_MODELS_H

#include "strategy/sparse.h"

typedef struct td_sparse_model_config {
    const char *kind; /* one of td_sparse_model_kinds */
    td_loss loss;
    int classes;    /* softmax: 2 or more outputs */
    size_t factors; /* fm, ffm: of a vector; default 4. dlrm: width of an embedding; default 16 */
    size_t fields;  /* ffm, dlrm: entries' fields are below it; 1 or more for ffm */
    size_t numbers; /* dlrm: dense numbers of a sample; 0: there is no bottom network */
    size_t lanes;   /* threads that may ask at once; default 1 */
    /* dlrm: units of each layer with dashes between. The bottom, rectified throughout, ends in
     * `factors`, default 64-factors; the top, rectified but for the last, in 1, default 128-64-1.
     */
    const char *bottom, *top;
} td_sparse_model_config;

extern const char *const td_sparse_model_kinds[]; /* linear fm ffm dlrm, NULL at the end */

typedef struct td_sparse_model td_sparse_model;

/* Takes all the memory that leaves of any length need. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_sparse_model_create(const td_sparse_model_config *config,
                                               td_sparse_model **out);
void td_sparse_model_destroy(td_sparse_model *model); /* NULL is fine */

/* Borrows the model. Its leaf never fails. */
td_sparse_oracle td_sparse_model_oracle(td_sparse_model *model);

/* The first dense parameters, in params [oracle.params], from the seed alone: weights and biases
 * uniform within 1 / sqrt(fan in), as td_net_init's "fan-in". */
void td_sparse_model_init(const td_sparse_model *model, uint64_t seed, float *params);

#endif
