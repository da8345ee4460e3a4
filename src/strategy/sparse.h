/* Models whose parameters are rows of a table under 64-bit keys (weights of hashed features,
 * embeddings), a flat array of dense parameters, or both: how they are asked for gradients.
 *
 * The unit is a leaf of a batch: its gradient depends on its samples alone, and is added in an
 * order that they alone decide (sample by sample; of long leaves, blocks of samples), so that
 * leaves may be dealt to any ranks (math/tree.h). */
#ifndef TD_STRATEGY_SPARSE_H
#define TD_STRATEGY_SPARSE_H

#include "nn/net.h"

/* The samples of one leaf. Entries start[r] .. start[r + 1] of the four arrays are sample r's
 * (start need not begin at 0). A key that a sample has twice counts twice. */
typedef struct td_sparse_leaf {
    size_t rows;
    const size_t *start;   /* [rows + 1] */
    const uint32_t *place; /* which row of `table` the entry's key has */
    const uint32_t *sum;   /* which row of `gradient` it has; not looked at where that is NULL */
    const float *value;
    const uint16_t *field;  /* what kind of feature it is (ffm, dlrm); from 0 */
    const float *numbers;   /* [rows][numbers] features that have no key (dlrm), or NULL */
    const float *target;    /* [rows] the number to predict, or the class; NULL: only scores */
    const int32_t *label;   /* [rows] the class, or NULL */
    const float *weight;    /* [rows] or NULL: all 1 */
    const uint64_t *sample; /* [rows] names each sample's random stream */
    uint64_t epoch;
    const float *table;  /* [...][width] */
    const float *params; /* [params] dense ones, or NULL */
    /* to be written */
    float *gradient; /* [...][width] of the summed loss, added to; NULL: only scores, totals */
    float *dense_gradient; /* [params], added to; NULL with gradient */
    float *score;          /* [rows][outputs] before any logistic function, or NULL */
    double *totals;        /* [TD_LEAF_VALUES]; all 0 without targets */
} td_sparse_leaf;

typedef struct td_sparse_oracle {
    void *self;
    size_t width;         /* floats of a row of the table; 0: there is none */
    size_t outputs;       /* of a sample */
    size_t numbers;       /* of a sample */
    size_t params;        /* dense ones */
    const td_slot *slots; /* [slot_count] of them */
    size_t slot_count;
    size_t lanes; /* threads that may ask at once, a lane each */
    /* Allocates nothing. Lanes are apart: each may be used by one thread at a time. */
    td_status (*leaf)(void *self, int lane, const td_sparse_leaf *leaf);
} td_sparse_oracle;

#endif
