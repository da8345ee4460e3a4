/* Layers that only move values: from the data set's order to channel-last, from images to vectors
 * in PyTorch's order, and the sum at the end of a residual block. */
#include "nn/layers/layers.h"

#include "base/error.h"

#include <string.h>

/* to[r][b][a] = from[r][a][b] */
static void transpose(size_t rows, size_t a, size_t b, const float *from, float *to)
{
    if (a == 1 || b == 1) {
        memcpy(to, from, rows * a * b * sizeof *to);
        return;
    }
    for (size_t r = 0; r < rows; r++, from += a * b, to += a * b)
        for (size_t i = 0; i < b; i++)
            for (size_t j = 0; j < a; j++) to[i * a + j] = from[j * b + i];
}

/* --- input: [c][h][w] of the data to [h][w][c] --- */

static td_status input_setup(td_net *net, td_layer *layer)
{
    (void)net;
    layer->shape = layer->input;
    return TD_OK;
}

static void input_forward(td_layer_run *run)
{
    td_shape s = run->layer->input;
    transpose(run->pass->rows, s.c, s.h * s.w, run->x, run->y);
}

static void input_backward(td_layer_run *run)
{
    (void)run; /* the data needs no gradient */
}

const td_layer_ops td_layer_input = {
    .name = "input",
    .usage = NULL, /* put in by the network where images have several channels */
    .setup = input_setup,
    .forward = input_forward,
    .backward = input_backward,
};

/* --- flatten: [h][w][c] to a vector in (c, h, w) order --- */

static td_status flatten_setup(td_net *net, td_layer *layer)
{
    (void)net;
    layer->shape = (td_shape){1, 1, td_shape_size(layer->input), true};
    return TD_OK;
}

static void flatten_forward(td_layer_run *run)
{
    td_shape s = run->layer->input;
    transpose(run->pass->rows, s.h * s.w, s.c, run->x, run->y);
}

static void flatten_backward(td_layer_run *run)
{
    td_shape s = run->layer->input;
    if (run->dx) transpose(run->pass->rows, s.c, s.h * s.w, run->dy, run->dx);
}

const td_layer_ops td_layer_flatten = {
    .name = "flatten",
    .usage = "flatten",
    .setup = flatten_setup,
    .forward = flatten_forward,
    .backward = flatten_backward,
};

/* --- sum of a residual block's two ways (He et al. 2016) --- */

static td_status sum_setup(td_net *net, td_layer *layer)
{
    (void)net;
    td_shape a = layer->input, b = layer->input2;
    if (a.h != b.h || a.w != b.w || a.c != b.c)
        return td_fail(TD_ERR_ARG, "%s: %zux%zux%zu cannot be added to %zux%zux%zu", layer->name,
                       a.h, a.w, a.c, b.h, b.w, b.c);
    layer->shape = a;
    return TD_OK;
}

static void sum_forward(td_layer_run *run)
{
    run->k->add(run->pass->rows * td_shape_size(run->layer->shape), run->x, run->x2, run->y);
}

static void sum_backward(td_layer_run *run)
{
    size_t bytes = run->pass->rows * td_shape_size(run->layer->shape) * sizeof *run->dy;
    if (run->dx) memcpy(run->dx, run->dy, bytes);
    if (run->dx2) memcpy(run->dx2, run->dy, bytes);
}

const td_layer_ops td_layer_sum = {
    .name = "sum",
    .usage = NULL, /* ends a res block */
    .setup = sum_setup,
    .forward = sum_forward,
    .backward = sum_backward,
};
