/* Two-dimensional convolution with stride, padding and groups.
 *
 * Slots: weight [out][in / groups][kh][kw], bias [out] unless bias=0. The input is copied once
 * into an image with its zeros around it, which serves forward and backward (math/kernels.h). */
#include "nn/layers/layers.h"

#include "base/error.h"

#include <string.h>

enum { OUT, KERNEL, STRIDE, PAD, GROUPS, BIAS };

static td_status shape_of(td_layer *layer, td_conv *s)
{
    const double *a = layer->arg;
    const char *name = layer->name;
    td_shape in = layer->input;
    if (in.flat)
        return td_fail(TD_ERR_ARG, "%s: the input is a vector, a convolution needs an image", name);
    if (!layer->given[OUT] || !layer->given[KERNEL] || a[OUT] < 1 || a[KERNEL] < 1)
        return td_fail(TD_ERR_ARG, "%s: write conv:CHANNELS,KERNEL with both 1 or more", name);
    *s = (td_conv){
        .in_h = (int)in.h,
        .in_w = (int)in.w,
        .in_c = (int)in.c,
        .out_c = (int)a[OUT],
        .kernel_h = (int)a[KERNEL],
        .kernel_w = (int)a[KERNEL],
        .stride = layer->given[STRIDE] ? (int)a[STRIDE] : 1,
        .pad = layer->given[PAD] ? (int)a[PAD] : ((int)a[KERNEL] - 1) / 2,
        .groups = layer->given[GROUPS] ? (int)a[GROUPS] : 1,
    };
    if (a[OUT] > 65536 || a[KERNEL] > 255)
        return td_fail(TD_ERR_ARG, "%s: at most 65536 channels and a kernel of 255 are possible",
                       name);
    if (s->stride < 1 || s->pad < 0 || s->groups < 1)
        return td_fail(TD_ERR_ARG, "%s: stride and groups must be 1 or more, pad 0 or more", name);
    if (s->in_c % s->groups || s->out_c % s->groups)
        return td_fail(TD_ERR_ARG, "%s: %d groups do not divide %d input and %d output channels",
                       name, s->groups, s->in_c, s->out_c);
    int h = s->in_h + 2 * s->pad - s->kernel_h, w = s->in_w + 2 * s->pad - s->kernel_w;
    if (h < 0 || w < 0)
        return td_fail(TD_ERR_ARG, "%s: a %dx%d kernel does not fit an image of %dx%d with pad %d",
                       name, s->kernel_h, s->kernel_w, s->in_h, s->in_w, s->pad);
    s->out_h = h / s->stride + 1;
    s->out_w = w / s->stride + 1;
    return TD_OK;
}

static td_status setup(td_net *net, td_layer *layer)
{
    td_conv *s = &layer->conv;
    TD_TRY(shape_of(layer, s));
    size_t out = (size_t)s->out_c, k = (size_t)s->kernel_h, taps = td_conv_taps(s);
    layer->shape = (td_shape){(size_t)s->out_h, (size_t)s->out_w, out, false};
    td_slot weight = {.name = "weight",
                      .kind = TD_SLOT_WEIGHT,
                      .rank = 4,
                      .shape = {out, (size_t)(s->in_c / s->groups), k, k},
                      .fan_in = taps,
                      .fan_out = out / (size_t)s->groups * k * k};
    td_slot bias = {.name = "bias",
                    .kind = TD_SLOT_BIAS,
                    .rank = 1,
                    .shape = {out},
                    .fan_in = taps,
                    .fan_out = out};
    bool biased = !layer->given[BIAS] || layer->arg[BIAS] != 0;
    if (td_net_add_slot(net, layer, &weight) < 0 ||
        (biased && td_net_add_slot(net, layer, &bias) < 0))
        return td_fail(TD_ERR_NOMEM, "no memory for layer %s", layer->name);
    return TD_OK;
}

static size_t weights_of(const td_layer *layer)
{
    return (size_t)layer->conv.out_c * td_conv_taps(&layer->conv);
}

static size_t keep(const td_layer *layer, size_t rows) /* padded images */
{
    return rows * td_conv_padded(&layer->conv) + TD_CONV_SLACK;
}

/* Backward: weights in kernel order, the kernel's own, then the fold's stack. */
static size_t scratch(const td_layer *layer, size_t rows)
{
    (void)rows;
    size_t weights = weights_of(layer), out = (size_t)layer->conv.out_c;
    size_t packed = td_kernels_best()->conv_packed(&layer->conv);
    size_t back =
        weights + TD_CONV_SLACK + td_conv_scratch(&layer->conv) + td_fold_scratch(weights + out);
    return packed > back ? packed : back;
}

static void forward(td_layer_run *run)
{
    const td_layer *layer = run->layer;
    const td_conv *s = &layer->conv;
    size_t line = layer->input.w * layer->input.c, image = td_conv_padded(s);
    size_t padded_line = line + 2 * (size_t)(s->pad * s->in_c);
    for (size_t r = 0; r < run->pass->rows; r++)
        for (size_t y = 0; y < layer->input.h; y++)
            memcpy(run->keep + r * image + (y + (size_t)s->pad) * padded_line +
                       (size_t)(s->pad * s->in_c),
                   run->x + (r * layer->input.h + y) * line, line * sizeof *run->x);
    run->k->conv_pack(s, td_layer_param(run, 0), run->scratch);
    run->k->conv_forward(s, run->pass->rows, run->keep, run->scratch,
                         layer->slots > 1 ? td_layer_param(run, 1) : NULL, run->y);
}

static void gradient_of_leaf(td_layer_run *run, int leaf, float *g)
{
    const td_layer *layer = run->layer;
    const td_conv *s = &layer->conv;
    size_t begin = run->pass->leaf_row[leaf], weights = weights_of(layer);
    td_conv_backward b = {
        .shape = s,
        .rows = run->pass->leaf_row[leaf + 1] - begin,
        .x = run->keep + begin * td_conv_padded(s),
        .dy = run->dy + begin * td_shape_size(layer->shape),
        .weights = run->scratch,
        .dweights = g,
        .dbias = layer->slots > 1 ? g + weights : NULL,
        .dx = run->dx ? run->dx + begin * td_shape_size(layer->input) : NULL,
        .scratch = run->scratch + weights + TD_CONV_SLACK,
    };
    run->k->conv_backward(&b);
}

/* [out][ky][kx][c] to the slot's [out][c][ky][kx]. */
static void write_gradient(td_layer_run *run, const float *g, float *node)
{
    const td_layer *layer = run->layer;
    size_t taps = td_conv_taps(&layer->conv), out = (size_t)layer->conv.out_c;
    size_t channels = (size_t)(layer->conv.in_c / layer->conv.groups), window = taps / channels;
    float *to = node + td_layer_slot(run, 0)->offset;
    for (size_t o = 0; o < out; o++)
        for (size_t w = 0; w < window; w++)
            for (size_t c = 0; c < channels; c++)
                to[(o * channels + c) * window + w] = g[(o * window + w) * channels + c];
    if (layer->slots > 1)
        memcpy(node + td_layer_slot(run, 1)->offset, g + out * taps, out * sizeof *g);
}

static void backward(td_layer_run *run)
{
    const td_layer *layer = run->layer;
    size_t taps = td_conv_taps(&layer->conv), out = (size_t)layer->conv.out_c;
    size_t channels = (size_t)(layer->conv.in_c / layer->conv.groups), window = taps / channels;
    const float *weights = td_layer_param(run, 0);
    if (run->dx)
        for (size_t o = 0; o < out; o++)
            for (size_t w = 0; w < window; w++)
                for (size_t c = 0; c < channels; c++)
                    run->scratch[(o * window + w) * channels + c] =
                        weights[(o * channels + c) * window + w];
    float *fold = run->scratch + weights_of(layer) + TD_CONV_SLACK + td_conv_scratch(&layer->conv);
    td_fold_leaves(run, weights_of(layer) + (layer->slots > 1 ? out : 0), fold, gradient_of_leaf,
                   write_gradient);
}

const td_layer_ops td_layer_conv = {
    .name = "conv",
    .usage = "conv:CHANNELS,KERNEL[,stride=1][,pad=(KERNEL-1)/2][,groups=1][,bias=1]",
    .setup = setup,
    .keep = keep,
    .scratch = scratch,
    .forward = forward,
    .backward = backward,
};
