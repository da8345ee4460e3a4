/* What a kind of sparse model is. A new one is a file, a row in sparse_models.c and a case in the
 * test's reference.
 *
 * sparse_models.c walks over a leaf in blocks of samples and knows the losses; a kind makes the
 * scores of a block, then, from the loss' gradient at them, what it adds to the gradients. Between
 * the two nobody touches the lane's scratch. */
#ifndef TD_MODELS_SPARSE_KIND_H
#define TD_MODELS_SPARSE_KIND_H

#include "models/sparse/sparse_models.h"

enum { TD_SPARSE_BLOCK = 128 }; /* samples; bounds the scratch and keeps it in the cache */

typedef struct td_dlrm td_dlrm;

typedef struct td_sparse_kind {
    const char *name;
    /* Sets width, scratch and what else differs; outputs is 1 (softmax: the classes) already. */
    td_status (*setup)(td_sparse_model *model, const td_sparse_model_config *config);
    /* score: [end - begin][outputs] of samples [begin, end) */
    void (*forward)(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score);
    /* Adds to leaf->gradient and dense_gradient; dscore is as score. */
    void (*backward)(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore);
    bool many_outputs;
} td_sparse_kind;

struct td_sparse_model {
    const td_sparse_kind *kind;
    td_loss loss;
    size_t width, outputs, factors, fields, numbers, lanes;
    size_t params;
    td_slot *slots; /* [slot_count] */
    size_t slot_count;
    size_t scratch;     /* floats of a lane that the kind wants, zeroed at first */
    size_t lane_floats; /* all of a lane */
    float *lane;        /* [lanes][lane_floats] */
    td_dlrm *dlrm;
};

extern const td_sparse_kind td_sparse_linear, td_sparse_fm, td_sparse_ffm, td_sparse_dlrm;

void td_dlrm_destroy(td_dlrm *dlrm);

static inline size_t td_sparse_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
