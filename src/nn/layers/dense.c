/* Dense: y[r][o] = bias[o] + sum over i of w[o][i] x[r][i].
 *
 * Slots: weight [out][in], bias [out]. The weight gradient adds the leaves inside the register
 * tile (math/kernels.h), so sixteen leaves cost little more than one. */
#include "nn/layers/layers.h"

#include "base/error.h"

#include <string.h>

enum { UNITS, NO_BIAS };

static td_status setup(td_net *net, td_layer *layer)
{
    double units = layer->arg[UNITS];
    if (!layer->given[UNITS] || !(units >= 1 && units <= 1e8) || units != (double)(size_t)units)
        return td_fail(TD_ERR_ARG, "%s: the number of units must be a whole number, 1 to 100000000",
                       layer->name);
    if (!layer->input.flat)
        return td_fail(TD_ERR_ARG, "%s: the input is an image; put flatten before it", layer->name);
    size_t in = layer->input.c, out = (size_t)layer->arg[UNITS];
    layer->shape = (td_shape){1, 1, out, true};
    td_slot weight = {.name = "weight",
                      .kind = TD_SLOT_WEIGHT,
                      .rank = 2,
                      .shape = {out, in},
                      .fan_in = in,
                      .fan_out = out};
    td_slot bias = {.name = "bias",
                    .kind = TD_SLOT_BIAS,
                    .rank = 1,
                    .shape = {out},
                    .fan_in = in,
                    .fan_out = out};
    if (td_net_add_slot(net, layer, &weight) < 0 || td_net_add_slot(net, layer, &bias) < 0)
        return td_fail(TD_ERR_NOMEM, "no memory for layer %s", layer->name);
    return TD_OK;
}

static size_t scratch(const td_layer *layer, size_t rows)
{
    size_t grad = td_dense_grad_scratch(rows, layer->shape.c),
           fold = td_fold_scratch(layer->shape.c);
    return grad > fold ? grad : fold;
}

static void forward(td_layer_run *run)
{
    size_t in = run->layer->input.c, out = run->layer->shape.c;
    td_gemm g = {
        .m = out,
        .n = run->pass->rows,
        .k = in,
        .a = td_layer_param(run, 0),
        .a_row = in,
        .a_col = 1,
        .b = run->x,
        .b_row = 1,
        .b_col = in,
        .c = run->y,
        .c_row = 1,
        .c_col = out,
        .bias_row = td_layer_param(run, 1),
        .relu = run->layer->relu,
    };
    run->k->gemm(&g);
}

static void bias_of_leaf(td_layer_run *run, int leaf, float *g)
{
    size_t out = run->layer->shape.c;
    const size_t *row = run->pass->leaf_row;
    for (size_t r = row[leaf]; r < row[leaf + 1]; r++) run->k->add(out, g, run->dy + r * out, g);
}

static void write_bias(td_layer_run *run, const float *g, float *node)
{
    memcpy(node + td_layer_slot(run, 1)->offset, g, run->layer->shape.c * sizeof *g);
}

static void backward(td_layer_run *run)
{
    const td_net_pass *pass = run->pass;
    size_t in = run->layer->input.c, out = run->layer->shape.c;
    float *nodes[TD_DENSE_GRAD_DEPTH];
    int left = 0;
    for (int l = 0; l < pass->leaves; l++) left += 1 - pass->merges[l];
    for (int k = 0; k < left; k++) nodes[k] = pass->nodes[k] + td_layer_slot(run, 0)->offset;
    td_dense_grad d = {in,     out,     pass->leaves, pass->leaf_row, pass->merges,
                       run->x, run->dy, nodes,        run->scratch};
    run->k->dense_grad(&d);
    td_fold_leaves(run, out, run->scratch, bias_of_leaf, write_bias);
    if (!run->dx) return;
    td_gemm g = {
        .m = pass->rows,
        .n = in,
        .k = out,
        .a = run->dy,
        .a_row = out,
        .a_col = 1,
        .b = td_layer_param(run, 0),
        .b_row = in,
        .b_col = 1,
        .c = run->dx,
        .c_row = in,
        .c_col = 1,
    };
    run->k->gemm(&g);
}

const td_layer_ops td_layer_dense = {
    .name = "dense",
    .usage = "dense:UNITS",
    .setup = setup,
    .scratch = scratch,
    .forward = forward,
    .backward = backward,
    .needs_input = true,
};
