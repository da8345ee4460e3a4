/* Layers that treat each element by itself: activations and dropout. */
#include "nn/layers/layers.h"

#include "base/error.h"
#include "base/rng.h"

#include <string.h>

static td_status same_shape(td_net *net, td_layer *layer)
{
    (void)net;
    layer->shape = layer->input;
    return TD_OK;
}

static size_t size_of(const td_layer_run *run)
{
    return run->pass->rows * td_shape_size(run->layer->shape);
}

/* --- ReLU: max(x, 0) --- */

static void relu_forward(td_layer_run *run)
{
    if (!run->layer->fused) run->k->relu(size_of(run), run->x, run->y);
}

static void relu_backward(td_layer_run *run)
{
    if (run->dx) run->k->relu_grad(size_of(run), run->y, run->dy, run->dx);
}

const td_layer_ops td_layer_relu = {
    .name = "relu",
    .usage = "relu",
    .setup = same_shape,
    .forward = relu_forward,
    .backward = relu_backward,
    .in_place = true,
    .needs_output = true,
};

/* --- GELU, tanh form --- */

static void gelu_forward(td_layer_run *run)
{
    run->k->gelu(size_of(run), run->x, run->y);
}

static void gelu_backward(td_layer_run *run)
{
    if (run->dx) run->k->gelu_grad(size_of(run), run->x, run->dy, run->dx);
}

const td_layer_ops td_layer_gelu = {
    .name = "gelu",
    .usage = "gelu",
    .setup = same_shape,
    .forward = gelu_forward,
    .backward = gelu_backward,
    .needs_input = true,
};

/* --- tanh --- */

static void tanh_forward(td_layer_run *run)
{
    run->k->tanh_(size_of(run), run->x, run->y);
}

static void tanh_backward(td_layer_run *run)
{
    if (!run->dx) return;
    for (size_t i = 0, n = size_of(run); i < n; i++)
        run->dx[i] = run->dy[i] * (1.f - run->y[i] * run->y[i]);
}

const td_layer_ops td_layer_tanh = {
    .name = "tanh",
    .usage = "tanh",
    .setup = same_shape,
    .forward = tanh_forward,
    .backward = tanh_backward,
    .in_place = true,
    .needs_output = true,
};

/* --- logistic function --- */

static void sigmoid_forward(td_layer_run *run)
{
    run->k->sigmoid(size_of(run), run->x, run->y);
}

static void sigmoid_backward(td_layer_run *run)
{
    if (!run->dx) return;
    for (size_t i = 0, n = size_of(run); i < n; i++)
        run->dx[i] = run->dy[i] * run->y[i] * (1.f - run->y[i]);
}

const td_layer_ops td_layer_sigmoid = {
    .name = "sigmoid",
    .usage = "sigmoid",
    .setup = same_shape,
    .forward = sigmoid_forward,
    .backward = sigmoid_backward,
    .in_place = true,
    .needs_output = true,
};

/* --- dropout (Srivastava et al. 2014), scaled up in training ---
 * Which elements go is a function of seed, layer, epoch and sample. keep: the factors. */

enum { RATE };

static td_status dropout_setup(td_net *net, td_layer *layer)
{
    if (!layer->given[RATE] || !(layer->arg[RATE] >= 0 && layer->arg[RATE] < 1))
        return td_fail(TD_ERR_ARG, "%s: the rate must be at least 0 and below 1", layer->name);
    return same_shape(net, layer);
}

static size_t dropout_keep(const td_layer *layer, size_t rows)
{
    return rows * td_shape_size(layer->shape);
}

static void dropout_forward(td_layer_run *run)
{
    const td_net_pass *pass = run->pass;
    size_t n = td_shape_size(run->layer->shape);
    float rate = (float)run->layer->arg[RATE], up = 1.f / (1.f - rate);
    if (!run->training) {
        if (run->y != run->x) memcpy(run->y, run->x, size_of(run) * sizeof *run->y);
        return;
    }
    for (size_t r = 0; r < pass->rows; r++) {
        td_rng rng;
        uint64_t stream = pass->epoch * 4096 + (uint64_t)run->layer->index;
        td_rng_init(&rng, pass->seed, TD_RNG_DROPOUT, stream, pass->sample ? pass->sample[r] : r);
        for (size_t i = 0; i < n; i++) {
            float factor = td_rng_unit(&rng) < rate ? 0 : up;
            run->keep[r * n + i] = factor;
            run->y[r * n + i] = run->x[r * n + i] * factor;
        }
    }
}

static void dropout_backward(td_layer_run *run)
{
    if (!run->dx) return;
    for (size_t i = 0, n = size_of(run); i < n; i++) run->dx[i] = run->dy[i] * run->keep[i];
}

const td_layer_ops td_layer_dropout = {
    .name = "dropout",
    .usage = "dropout:RATE",
    .setup = dropout_setup,
    .keep = dropout_keep,
    .forward = dropout_forward,
    .backward = dropout_backward,
    .in_place = true,
};
