/* What a layer is. A new one is a file in layers/, a row in layers/layers.c and a test.
 *
 * A layer reads value `in` (and `in2`: residual sums) and writes value `out`; values are the
 * activations between layers, numbered, with one buffer each in a lane. A layer that says
 * `in_place` writes over its input, where nobody else needs that.
 *
 * Rows are independent except in batch norm, which sees one leaf at a time. */
#ifndef TD_NN_LAYER_H
#define TD_NN_LAYER_H

#include "math/kernels.h"
#include "nn/net.h"

typedef struct td_shape {
    size_t h, w, c;
    bool flat; /* a vector in c; images are [h][w][c] */
} td_shape;

static inline size_t td_shape_size(td_shape s)
{
    return s.h * s.w * s.c;
}

typedef struct td_layer td_layer;

/* What a layer is given in a pass. */
typedef struct td_layer_run {
    const td_net_pass *pass;
    const td_layer *layer;
    bool training;
    const float *x, *x2; /* inputs [rows][in] */
    float *y;            /* output [rows][out] */
    float *dy;           /* gradient at the output; may be written over */
    float *dx, *dx2;     /* gradients to write, NULL where not needed; dx is dy when in place */
    float *keep;         /* layer's own memory between forward and backward, zeroed at creation */
    float *scratch;      /* shared by all layers, for the length of the call */
    const td_kernels *k;
} td_layer_run;

typedef struct td_layer_ops {
    const char *name;
    const char *usage; /* "dense:UNITS" */
    /* Checks the arguments against layer->in, sets layer->shape (output) and adds slots. */
    td_status (*setup)(td_net *net, td_layer *layer);
    size_t (*keep)(const td_layer *layer, size_t rows);    /* floats; NULL: none */
    size_t (*scratch)(const td_layer *layer, size_t rows); /* floats; NULL: none */
    void (*forward)(td_layer_run *run);
    void (*backward)(td_layer_run *run);
    bool in_place;     /* y may be x, dx may be dy */
    bool needs_input;  /* backward reads x */
    bool needs_output; /* backward reads y */
} td_layer_ops;

enum { TD_LAYER_ARGS = 8 };

struct td_layer {
    const td_layer_ops *ops;
    int index; /* in the list of layers, names its random streams */
    char name[48];
    int in, in2, out; /* values; in2 -1 where there is one input */
    td_shape input, input2, shape;
    double arg[TD_LAYER_ARGS];
    bool given[TD_LAYER_ARGS];
    int slot, slots;             /* first of the net's slots, number */
    const td_slot *slots_of_net; /* set when the net is complete */
    bool relu;                   /* the ReLU behind is done in here (dense) */
    bool fused;                  /* this ReLU is done by the layer before */
    bool overwrites;             /* works in place */
    td_conv conv;
    size_t keep_at; /* offset in a lane's keep */
};

/* Adds a slot and returns its number, -1 without memory. */
int td_net_add_slot(td_net *net, td_layer *layer, const td_slot *slot);
const td_slot *td_layer_slot(const td_layer_run *run, int which);
const float *td_layer_param(const td_layer_run *run, int which);

/* Sums leaf gradients along the tree, for gradients small enough to be written: `leaf` adds the
 * gradient of one leaf to g [count] (given as zeros); `write` moves a finished sum to a node's
 * gradient array. Scratch: td_fold_scratch(count) floats. */
typedef void td_leaf_gradient(td_layer_run *run, int leaf, float *g);
typedef void td_leaf_write(td_layer_run *run, const float *g, float *node);
size_t td_fold_scratch(size_t count);
void td_fold_leaves(td_layer_run *run, size_t count, float *scratch, td_leaf_gradient *leaf,
                    td_leaf_write *write);

extern const td_layer_ops *const td_layer_table[]; /* NULL at the end */

#endif
