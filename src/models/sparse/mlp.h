/* A stack of dense layers over blocks of rows, its parameters part of a flat array.
 *
 *     layer l: y = W x + b, then max(0, y) but for the last layer of a stack that ends linear
 *
 * Slots "NAME.l.weight" [out][in] and "NAME.l.bias" [out], as PyTorch has them. All is done by the
 * kernels of math, which fix the order of additions: inputs in theirs, rows in theirs. */
#ifndef TD_MODELS_SPARSE_MLP_H
#define TD_MODELS_SPARSE_MLP_H

#include "tandem/slot.h"
#include "tandem/status.h"

#include <stdbool.h>

enum { TD_MLP_LAYERS = 16 };

typedef struct td_mlp {
    const char *name;
    int layers;
    bool ends_linear;
    size_t units[TD_MLP_LAYERS + 1]; /* [0]: inputs */
    size_t weight[TD_MLP_LAYERS];    /* offsets in the parameters */
    size_t bias[TD_MLP_LAYERS];
} td_mlp;

/* Layers from "128-64-1". TD_ERR_ARG. */
TD_MUST_CHECK td_status td_mlp_parse(const char *name, const char *text, size_t inputs,
                                     td_mlp *out);
/* Appends 2 * layers slots to slots[*count], whose parameters begin at *params; both move on. */
void td_mlp_place(td_mlp *mlp, td_slot *slots, size_t *count, size_t *params);

/* Floats for blocks of up to `rows` rows: of what forward leaves for backward, and of backward's
 * scratch. */
size_t td_mlp_kept(const td_mlp *mlp, size_t rows);
size_t td_mlp_scratch(const td_mlp *mlp, size_t rows);

typedef struct td_mlp_block {
    size_t rows;
    const float *params; /* the whole array */
    const float *x;      /* [rows][units[0]] */
    float *kept;
} td_mlp_block;

/* y: row r's outputs from y + r * y_row on. */
void td_mlp_forward(const td_mlp *mlp, const td_mlp_block *block, float *y, size_t y_row);
/* dy: [rows][outputs], the gradient before the last layer's max(0, .). dx: [rows][inputs], or NULL.
 * gradient: the whole array's, added to. */
void td_mlp_backward(const td_mlp *mlp, const td_mlp_block *block, const float *dy, float *dx,
                     float *gradient, float *scratch);

#endif
