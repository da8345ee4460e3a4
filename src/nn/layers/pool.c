/* Pooling: max and average over K x K windows, and the average over the whole image. */
#include "nn/layers/layers.h"

#include "base/error.h"

#include <string.h>

enum { KERNEL, STRIDE };

static td_status setup(td_net *net, td_layer *layer)
{
    (void)net;
    td_shape in = layer->input;
    double k = layer->arg[KERNEL], stride = layer->given[STRIDE] ? layer->arg[STRIDE] : k;
    if (in.flat)
        return td_fail(TD_ERR_ARG, "%s: pooling needs an image, not a vector", layer->name);
    if (!layer->given[KERNEL] || k < 1 || stride < 1)
        return td_fail(TD_ERR_ARG, "%s: kernel and stride must be 1 or more", layer->name);
    if (k > (double)in.h || k > (double)in.w)
        return td_fail(TD_ERR_ARG, "%s: a window of %g does not fit an image of %zux%zu",
                       layer->name, k, in.h, in.w);
    layer->arg[STRIDE] = stride;
    layer->shape = (td_shape){(in.h - (size_t)k) / (size_t)stride + 1,
                              (in.w - (size_t)k) / (size_t)stride + 1, in.c, false};
    return TD_OK;
}

static size_t keep_places(const td_layer *layer, size_t rows)
{
    return rows * td_shape_size(layer->shape);
}

static void max_forward(td_layer_run *run)
{
    const td_layer *layer = run->layer;
    size_t in = td_shape_size(layer->input), out = td_shape_size(layer->shape);
    for (size_t r = 0; r < run->pass->rows; r++)
        run->k->maxpool(layer->shape.h, layer->shape.w, layer->shape.c,
                        layer->input.w * layer->input.c, (size_t)layer->arg[KERNEL],
                        (size_t)layer->arg[STRIDE], run->x + r * in, run->y + r * out,
                        (int32_t *)run->keep + r * out);
}

static void max_backward(td_layer_run *run)
{
    const td_layer *layer = run->layer;
    if (!run->dx) return;
    size_t in = td_shape_size(layer->input), channels = layer->shape.c;
    size_t stride = (size_t)layer->arg[STRIDE];
    memset(run->dx, 0, run->pass->rows * in * sizeof *run->dx);
    const int32_t *from = (const int32_t *)run->keep;
    const float *dy = run->dy;
    for (size_t r = 0; r < run->pass->rows; r++)
        for (size_t y = 0; y < layer->shape.h; y++)
            for (size_t x = 0; x < layer->shape.w; x++) {
                float *window = run->dx + r * in + (y * layer->input.w + x) * stride * channels;
                for (size_t c = 0; c < channels; c++) window[*from++] += *dy++;
            }
}

static void average_forward(td_layer_run *run)
{
    const td_layer *layer = run->layer;
    size_t in = td_shape_size(layer->input), channels = layer->shape.c;
    size_t k = (size_t)layer->arg[KERNEL], stride = (size_t)layer->arg[STRIDE];
    float scale = 1.f / (float)(k * k), *to = run->y;
    for (size_t r = 0; r < run->pass->rows; r++)
        for (size_t y = 0; y < layer->shape.h; y++)
            for (size_t x = 0; x < layer->shape.w; x++, to += channels) {
                memset(to, 0, channels * sizeof *to);
                for (size_t at = 0; at < k * k; at++) {
                    const float *from =
                        run->x + r * in +
                        ((y * stride + at / k) * layer->input.w + x * stride + at % k) * channels;
                    for (size_t c = 0; c < channels; c++) to[c] += from[c];
                }
                for (size_t c = 0; c < channels; c++) to[c] *= scale;
            }
}

static void average_backward(td_layer_run *run)
{
    const td_layer *layer = run->layer;
    if (!run->dx) return;
    size_t in = td_shape_size(layer->input), channels = layer->shape.c;
    size_t k = (size_t)layer->arg[KERNEL], stride = (size_t)layer->arg[STRIDE];
    float scale = 1.f / (float)(k * k);
    const float *dy = run->dy;
    memset(run->dx, 0, run->pass->rows * in * sizeof *run->dx);
    for (size_t r = 0; r < run->pass->rows; r++)
        for (size_t y = 0; y < layer->shape.h; y++)
            for (size_t x = 0; x < layer->shape.w; x++, dy += channels)
                for (size_t at = 0; at < k * k; at++) {
                    float *to =
                        run->dx + r * in +
                        ((y * stride + at / k) * layer->input.w + x * stride + at % k) * channels;
                    for (size_t c = 0; c < channels; c++) to[c] += scale * dy[c];
                }
}

/* The whole image is one window. */
static td_status global_setup(td_net *net, td_layer *layer)
{
    (void)net;
    if (layer->input.flat)
        return td_fail(TD_ERR_ARG, "%s: pooling needs an image, not a vector", layer->name);
    layer->shape = (td_shape){1, 1, layer->input.c, true};
    return TD_OK;
}

static void global_forward(td_layer_run *run)
{
    size_t channels = run->layer->shape.c, pixels = run->layer->input.h * run->layer->input.w;
    float scale = 1.f / (float)pixels;
    const float *x = run->x;
    for (size_t r = 0; r < run->pass->rows; r++) {
        float *to = run->y + r * channels;
        memset(to, 0, channels * sizeof *to);
        for (size_t p = 0; p < pixels; p++, x += channels)
            for (size_t c = 0; c < channels; c++) to[c] += x[c];
        for (size_t c = 0; c < channels; c++) to[c] *= scale;
    }
}

static void global_backward(td_layer_run *run)
{
    if (!run->dx) return;
    size_t channels = run->layer->shape.c, pixels = run->layer->input.h * run->layer->input.w;
    float scale = 1.f / (float)pixels, *to = run->dx;
    for (size_t r = 0; r < run->pass->rows; r++)
        for (size_t p = 0; p < pixels; p++, to += channels)
            for (size_t c = 0; c < channels; c++) to[c] = scale * run->dy[r * channels + c];
}

const td_layer_ops td_layer_maxpool = {
    .name = "pool",
    .usage = "pool:K[,stride=K]",
    .setup = setup,
    .keep = keep_places,
    .forward = max_forward,
    .backward = max_backward,
};

const td_layer_ops td_layer_avgpool = {
    .name = "avgpool",
    .usage = "avgpool:K[,stride=K]",
    .setup = setup,
    .forward = average_forward,
    .backward = average_backward,
};

const td_layer_ops td_layer_gap = {
    .name = "gap",
    .usage = "gap",
    .setup = global_setup,
    .forward = global_forward,
    .backward = global_backward,
};
