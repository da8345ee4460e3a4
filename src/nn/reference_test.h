/* A network's training loss by plain loops in double precision: what a gradient is held against.
 *
 * Doubles let a difference be taken over a step of 1e-6, so that kinks (ReLU, max pooling) can be
 * kept out of its reach: `margin` is the least distance of any of them. Windows whose largest
 * values are equal to the bit count as no kink; they are on purpose, or all zeros behind a ReLU. */
#ifndef TD_NN_REFERENCE_TEST_H
#define TD_NN_REFERENCE_TEST_H

#include "base/alloc.h"
#include "base/rng.h"
#include "nn/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct reference_run {
    const td_layer *layer;
    const td_net_pass *pass;
    const double *param[4];
    const double *x, *x2; /* [rows][in] */
    double *y;            /* [rows][out] */
    double margin;
} reference_run;

static void reference_dense(reference_run *r)
{
    size_t in = r->layer->input.c, out = r->layer->shape.c;
    for (size_t i = 0; i < r->pass->rows; i++)
        for (size_t o = 0; o < out; o++) {
            double sum = r->param[1][o];
            for (size_t k = 0; k < in; k++) sum += r->param[0][o * in + k] * r->x[i * in + k];
            r->y[i * out + o] = sum;
        }
}

/* One output: channel o at (oy, ox) of an image [h][w][c]. */
static double reference_filter(const reference_run *r, const double *image, int oy, int ox, int o)
{
    const td_conv *s = &r->layer->conv;
    int in = s->in_c / s->groups, first = o / (s->out_c / s->groups) * in;
    double sum = r->layer->slots > 1 ? r->param[1][o] : 0;
    for (int c = 0; c < in; c++)
        for (int ky = 0; ky < s->kernel_h; ky++)
            for (int kx = 0; kx < s->kernel_w; kx++) {
                int y = oy * s->stride + ky - s->pad, x = ox * s->stride + kx - s->pad;
                if (y < 0 || x < 0 || y >= s->in_h || x >= s->in_w) continue;
                sum += r->param[0][((o * in + c) * s->kernel_h + ky) * s->kernel_w + kx] *
                       image[(y * s->in_w + x) * s->in_c + first + c];
            }
    return sum;
}

static void reference_conv(reference_run *r)
{
    const td_conv *s = &r->layer->conv;
    double *y = r->y;
    for (size_t i = 0; i < r->pass->rows; i++)
        for (int oy = 0; oy < s->out_h; oy++)
            for (int ox = 0; ox < s->out_w; ox++)
                for (int o = 0; o < s->out_c; o++)
                    *y++ =
                        reference_filter(r, r->x + i * td_shape_size(r->layer->input), oy, ox, o);
}

/* Maximum or mean over a window of k x k whose first element is at `x`. */
static double reference_window(reference_run *r, const double *x, size_t k, bool largest)
{
    td_shape in = r->layer->input;
    double top = -INFINITY, second = -INFINITY, sum = 0;
    for (size_t at = 0; at < k * k; at++) {
        double v = x[(at / k * in.w + at % k) * in.c];
        sum += v;
        if (v > top)
            second = top, top = v;
        else if (v > second && v < top)
            second = v;
    }
    if (!largest) return sum / (double)(k * k);
    r->margin = fmin(r->margin, top - second);
    return top;
}

static void reference_pool(reference_run *r)
{
    td_shape in = r->layer->input, out = r->layer->shape;
    size_t k = (size_t)r->layer->arg[0], stride = (size_t)r->layer->arg[1];
    bool largest = !strcmp(r->layer->ops->name, "pool");
    double *to = r->y;
    for (size_t i = 0; i < r->pass->rows; i++)
        for (size_t y = 0; y < out.h; y++)
            for (size_t x = 0; x < out.w; x++)
                for (size_t c = 0; c < out.c; c++) {
                    size_t first = (y * in.w + x) * stride * in.c + c;
                    *to++ = reference_window(r, r->x + i * td_shape_size(in) + first, k, largest);
                }
}

static void reference_gap(reference_run *r)
{
    td_shape in = r->layer->input;
    size_t pixels = in.h * in.w;
    for (size_t i = 0; i < r->pass->rows; i++)
        for (size_t c = 0; c < in.c; c++) {
            double sum = 0;
            for (size_t p = 0; p < pixels; p++) sum += r->x[(i * pixels + p) * in.c + c];
            r->y[i * in.c + c] = sum / (double)pixels;
        }
}

/* Weighted mean and variance over rows [begin, end) of channel k; rows of weight 0 give the shift.
 */
static void reference_bn_channel(reference_run *r, size_t begin, size_t end, size_t k)
{
    size_t c = r->layer->input.c, plane = td_shape_size(r->layer->input) / c;
    double epsilon = r->layer->given[1] ? r->layer->arg[1] : 1e-5;
    double total = 0, mean = 0, variance = 0;
    const double *x = r->x + k;
    const float *weight = r->pass->weight;
    for (size_t i = begin * plane; i < end * plane; i++) {
        double w = weight ? weight[i / plane] : 1;
        total += w, mean += w * x[i * c];
    }
    mean /= total;
    for (size_t i = begin * plane; i < end * plane; i++)
        variance += (weight ? weight[i / plane] : 1) * pow(x[i * c] - mean, 2) / total;
    for (size_t i = begin * plane; i < end * plane; i++) {
        bool counts = !weight || weight[i / plane] > 0;
        double hat = counts ? (x[i * c] - mean) / sqrt(variance + epsilon) : 0;
        r->y[i * c + k] = hat * r->param[0][k] + r->param[1][k];
    }
}

static void reference_bn(reference_run *r)
{
    for (int l = 0; l < r->pass->leaves; l++)
        for (size_t k = 0; k < r->layer->input.c; k++)
            reference_bn_channel(r, r->pass->leaf_row[l], r->pass->leaf_row[l + 1], k);
}

static void reference_ln(reference_run *r)
{
    size_t n = td_shape_size(r->layer->input);
    for (size_t i = 0; i < r->pass->rows; i++) {
        const double *x = r->x + i * n;
        double mean = 0, variance = 0;
        for (size_t k = 0; k < n; k++) mean += x[k] / (double)n;
        for (size_t k = 0; k < n; k++) variance += pow(x[k] - mean, 2) / (double)n;
        for (size_t k = 0; k < n; k++)
            r->y[i * n + k] =
                (x[k] - mean) / sqrt(variance + 1e-5) * r->param[0][k] + r->param[1][k];
    }
}

static size_t reference_size(const reference_run *r)
{
    return r->pass->rows * td_shape_size(r->layer->shape);
}

static void reference_relu(reference_run *r)
{
    for (size_t i = 0; i < reference_size(r); i++) {
        if (r->x[i] != 0) r->margin = fmin(r->margin, fabs(r->x[i]));
        r->y[i] = fmax(0, r->x[i]);
    }
}

static void reference_gelu(reference_run *r)
{
    for (size_t i = 0; i < reference_size(r); i++) {
        double x = r->x[i];
        r->y[i] = 0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x)));
    }
}

static void reference_tanh(reference_run *r)
{
    for (size_t i = 0; i < reference_size(r); i++) r->y[i] = tanh(r->x[i]);
}

static void reference_sigmoid(reference_run *r)
{
    for (size_t i = 0; i < reference_size(r); i++) r->y[i] = 1 / (1 + exp(-r->x[i]));
}

static void reference_dropout(reference_run *r)
{
    size_t n = td_shape_size(r->layer->shape);
    float rate = (float)r->layer->arg[0];
    for (size_t i = 0; i < r->pass->rows; i++) {
        td_rng rng;
        td_rng_init(&rng, r->pass->seed, TD_RNG_DROPOUT,
                    r->pass->epoch * 4096 + (uint64_t)r->layer->index, r->pass->sample[i]);
        for (size_t k = 0; k < n; k++)
            r->y[i * n + k] = td_rng_unit(&rng) < rate ? 0 : r->x[i * n + k] / (1 - (double)rate);
    }
}

/* y[row][b][a] = x[row][a][b] */
static void reference_transpose(const reference_run *r, size_t a, size_t b)
{
    for (size_t i = 0; i < r->pass->rows; i++)
        for (size_t j = 0; j < a; j++)
            for (size_t k = 0; k < b; k++) r->y[(i * b + k) * a + j] = r->x[(i * a + j) * b + k];
}

static void reference_input(reference_run *r)
{
    reference_transpose(r, r->layer->input.c, r->layer->input.h * r->layer->input.w);
}

static void reference_flatten(reference_run *r)
{
    reference_transpose(r, r->layer->input.h * r->layer->input.w, r->layer->input.c);
}

static void reference_sum(reference_run *r)
{
    for (size_t i = 0; i < reference_size(r); i++) r->y[i] = r->x[i] + r->x2[i];
}

static const struct {
    const char *name;
    void (*forward)(reference_run *r);
} reference_layers[] = {
    {"dense", reference_dense},     {"conv", reference_conv},       {"pool", reference_pool},
    {"avgpool", reference_pool},    {"gap", reference_gap},         {"bn", reference_bn},
    {"ln", reference_ln},           {"relu", reference_relu},       {"gelu", reference_gelu},
    {"tanh", reference_tanh},       {"sigmoid", reference_sigmoid}, {"dropout", reference_dropout},
    {"flatten", reference_flatten}, {"input", reference_input},     {"sum", reference_sum},
};

static double reference_row_loss(const td_net *net, const td_net_pass *pass, size_t row,
                                 const double *x)
{
    size_t n = td_net_outputs(net);
    double sum = 0;
    switch (net->loss) {
    case TD_LOSS_SOFTMAX:
        for (size_t o = 0; o < n; o++) sum += exp(x[o] - x[pass->label[row]]);
        return log(sum);
    case TD_LOSS_BINARY: return log1p(exp(pass->label[row] ? -*x : *x));
    case TD_LOSS_HINGE: return fmax(0, 1 - (pass->label[row] ? *x : -*x));
    case TD_LOSS_POISSON: return exp(*x) - pass->target[row] * *x;
    case TD_LOSS_SQUARED:
        for (size_t o = 0; o < n; o++) sum += pow(x[o] - pass->target[row], 2);
    }
    return sum;
}

/* The weighted loss of all rows, in the training pass. *margin: see above. */
static double reference_loss(const td_net *net, const td_net_pass *pass, const double *params,
                             double *margin)
{
    double **value = calloc((size_t)net->value_count, sizeof *value), loss = 0;
    *margin = INFINITY;
    for (int v = 0; v < net->value_count; v++)
        value[v] = calloc(pass->rows * td_shape_size(net->values[v].shape), sizeof **value);
    for (size_t i = 0; i < pass->rows * td_shape_size(net->values[0].shape); i++)
        value[0][i] = pass->x[i];
    for (int i = 0; i < net->layer_count; i++) {
        const td_layer *layer = &net->layers[i];
        reference_run run = {.layer = layer,
                             .pass = pass,
                             .x = value[layer->in],
                             .x2 = layer->in2 >= 0 ? value[layer->in2] : NULL,
                             .y = value[layer->out],
                             .margin = *margin};
        for (int s = 0; s < layer->slots; s++)
            run.param[s] = params + net->slots[layer->slot + s].offset;
        for (size_t k = 0; k < sizeof reference_layers / sizeof *reference_layers; k++)
            if (!strcmp(reference_layers[k].name, layer->ops->name))
                reference_layers[k].forward(&run);
        *margin = run.margin;
    }
    for (size_t r = 0; r < pass->rows; r++)
        loss +=
            (pass->weight ? pass->weight[r] : 1) *
            reference_row_loss(net, pass, r, value[net->value_count - 1] + r * td_net_outputs(net));
    for (int v = 0; v < net->value_count; v++) free(value[v]);
    free(value);
    return loss;
}

#endif
