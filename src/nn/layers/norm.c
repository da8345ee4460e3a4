/* Batch norm and layer norm.
 *
 * Batch norm (Ioffe and Szegedy 2015) takes its statistics from one leaf at a time: a leaf is
 * computed by one thread from its own samples, so the statistics do not know how many workers
 * there are. Sample weights count in them as they do in the loss: mean and variance are weighted,
 * with weights that only matter relative to each other, so a row of weight 2 stands for two rows. A
 * row of weight 0 takes no part: it leaves as the shift, and no gradient passes it. Running
 * statistics travel with the gradient: each leaf hands in its mean and unbiased variance, times
 * what its rows weigh together, and the update divides by what the batch weighs (nn/layer.h,
 * TD_SLOT_STAT).
 *
 * Layer norm (Ba et al. 2016) normalises each row over all its features. */
#include "nn/layers/layers.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

enum { MOMENTUM, EPSILON };

static const float default_epsilon = 1e-5f;

static td_status add_slots(td_net *net, td_layer *layer, size_t count, bool running)
{
    float momentum = layer->given[MOMENTUM] ? (float)layer->arg[MOMENTUM] : 0.1f;
    const td_slot slots[] = {
        {.name = "weight", .kind = TD_SLOT_NORM, .rank = 1, .shape = {count}, .initial = 1},
        {.name = "bias", .kind = TD_SLOT_NORM, .rank = 1, .shape = {count}},
        {.name = "running_mean",
         .kind = TD_SLOT_STAT,
         .rank = 1,
         .shape = {count},
         .momentum = momentum},
        {.name = "running_var",
         .kind = TD_SLOT_STAT,
         .rank = 1,
         .shape = {count},
         .initial = 1,
         .momentum = momentum},
    };
    for (int i = 0; i < (running ? 4 : 2); i++)
        if (td_net_add_slot(net, layer, &slots[i]) < 0)
            return td_fail(TD_ERR_NOMEM, "no memory for layer %s", layer->name);
    return TD_OK;
}

static float epsilon_of(const td_layer *layer)
{
    return layer->given[EPSILON] ? (float)layer->arg[EPSILON] : default_epsilon;
}

/* --- batch norm; keep: x^ [rows][in], then the leaf's mean, variance and 1/deviation per row ---
 */

static td_status batch_setup(td_net *net, td_layer *layer)
{
    layer->shape = layer->input;
    return add_slots(net, layer, layer->input.c, true);
}

static size_t batch_keep(const td_layer *layer, size_t rows)
{
    return rows * (td_shape_size(layer->input) + 3 * layer->input.c);
}

static size_t batch_scratch(const td_layer *layer, size_t rows)
{
    (void)rows;
    return td_fold_scratch(4 * layer->input.c);
}

static float *statistics(td_layer_run *run, int leaf) /* mean, variance, 1/deviation: [c] each */
{
    size_t size = td_shape_size(run->layer->input), c = run->layer->input.c;
    return run->keep + run->pass->rows * size + run->pass->leaf_row[leaf] * 3 * c;
}

/* The rows of a leaf, and how they count. */
typedef struct part {
    const float *weight; /* of its rows, or NULL: 1 each */
    size_t begin, rows;
    double total; /* of the weights */
    double alike; /* rows of equal weight that would tell as much: total^2 / sum of squares (Kish
                     1965) */
} part;

static part part_of(const td_net_pass *pass, int leaf)
{
    size_t begin = pass->leaf_row[leaf], rows = pass->leaf_row[leaf + 1] - begin;
    double total = 0, squares = 0;
    const float *weight = pass->weight ? pass->weight + begin : NULL;
    for (size_t r = 0; r < rows; r++) {
        double w = weight ? (double)weight[r] : 1;
        total += w, squares += w * w;
    }
    return (part){weight, begin, rows, total, squares > 0 ? total * total / squares : 0};
}

/* A row's weight where the leaf's mean weight is 1. Weights that are all equal give 1. */
static float relative_weight(const part *p, size_t row)
{
    if (!p->weight) return 1;
    return p->weight[row] > 0 ? (float)(p->weight[row] * ((double)p->rows / p->total)) : 0;
}

/* Mean and variance [c] of a leaf's elements x [rows][plane][c]. */
static void leaf_statistics(const part *p, size_t plane, size_t c, const float *x, float *mean,
                            float *variance)
{
    float share = 1.f / (float)(p->rows * plane);
    memset(mean, 0, c * sizeof *mean);
    memset(variance, 0, c * sizeof *variance);
    for (size_t r = 0; r < p->rows; r++) {
        float w = relative_weight(p, r);
        for (size_t i = r * plane; w > 0 && i < (r + 1) * plane; i++)
            for (size_t k = 0; k < c; k++) mean[k] += w * x[i * c + k];
    }
    for (size_t k = 0; k < c; k++) mean[k] *= share;
    for (size_t r = 0; r < p->rows; r++) {
        float w = relative_weight(p, r);
        for (size_t i = r * plane; w > 0 && i < (r + 1) * plane; i++)
            for (size_t k = 0; k < c; k++) {
                float d = x[i * c + k] - mean[k];
                variance[k] += w * (d * d);
            }
    }
    for (size_t k = 0; k < c; k++) variance[k] *= share;
}

static void normalise_leaf(td_layer_run *run, int leaf)
{
    const td_layer *layer = run->layer;
    size_t c = layer->input.c, size = td_shape_size(layer->input), plane = size / c;
    part p = part_of(run->pass, leaf);
    const float *x = run->x + p.begin * size;
    float *hat = run->keep + p.begin * size, *y = run->y + p.begin * size;
    float *mean = statistics(run, leaf), *variance = mean + c, *inverse = variance + c;
    const float *scale = td_layer_param(run, 0), *shift = td_layer_param(run, 1);
    float epsilon = epsilon_of(layer);
    if (p.rows == 0) return;
    leaf_statistics(&p, plane, c, x, mean, variance);
    for (size_t k = 0; k < c; k++) inverse[k] = 1.f / sqrtf(variance[k] + epsilon);
    for (size_t r = 0; r < p.rows; r++) {
        bool counts = relative_weight(&p, r) > 0;
        for (size_t i = r * plane; i < (r + 1) * plane; i++)
            for (size_t k = 0; k < c; k++) {
                float h = counts ? (x[i * c + k] - mean[k]) * inverse[k] : 0;
                hat[i * c + k] = h;
                y[i * c + k] = h * scale[k] + shift[k];
            }
    }
}

static void batch_forward(td_layer_run *run)
{
    size_t c = run->layer->input.c, n = run->pass->rows * (td_shape_size(run->layer->input) / c);
    if (run->training) {
        for (int leaf = 0; leaf < run->pass->leaves; leaf++) normalise_leaf(run, leaf);
        return;
    }
    const float *scale = td_layer_param(run, 0), *shift = td_layer_param(run, 1);
    const float *mean = td_layer_param(run, 2), *variance = td_layer_param(run, 3);
    float epsilon = epsilon_of(run->layer);
    for (size_t k = 0; k < c; k++) {
        float factor = scale[k] / sqrtf(variance[k] + epsilon);
        for (size_t i = 0; i < n; i++)
            run->y[i * c + k] = (run->x[i * c + k] - mean[k]) * factor + shift[k];
    }
}

/* g: scale, shift, mean and variance, [c] each. */
static void batch_gradient(td_layer_run *run, int leaf, float *g)
{
    const td_layer *layer = run->layer;
    size_t c = layer->input.c, size = td_shape_size(layer->input), plane = size / c;
    part p = part_of(run->pass, leaf);
    const float *dy = run->dy + p.begin * size, *hat = run->keep + p.begin * size;
    const float *mean = statistics(run, leaf), *variance = mean + c, *inverse = variance + c;
    const float *scale = td_layer_param(run, 0);
    float *dscale = g, *dshift = g + c;
    if (p.rows == 0) return;
    for (size_t i = 0; i < p.rows * plane; i++)
        for (size_t k = 0; k < c; k++) {
            dscale[k] += dy[i * c + k] * hat[i * c + k];
            dshift[k] += dy[i * c + k];
        }
    /* Below two elements' worth there is little to correct: 1 for one, 2 for two. */
    double n = p.alike * (double)plane;
    float unbiased = n < 2 ? (float)n : (float)n / (float)(n - 1), weight = (float)p.total;
    for (size_t k = 0; k < c; k++) {
        g[2 * c + k] = mean[k] * weight;
        g[3 * c + k] = variance[k] * unbiased * weight;
    }
    if (!run->dx) return;
    float *dx = run->dx + p.begin * size, share = 1.f / (float)(p.rows * plane);
    for (size_t r = 0; r < p.rows; r++) {
        float part_of_mean = share * relative_weight(&p, r);
        for (size_t i = r * plane; i < (r + 1) * plane; i++)
            for (size_t k = 0; k < c; k++) {
                float d = dy[i * c + k] - part_of_mean * (dshift[k] + hat[i * c + k] * dscale[k]);
                dx[i * c + k] = scale[k] * inverse[k] * d;
            }
    }
}

static void write_batch(td_layer_run *run, const float *g, float *node)
{
    size_t c = run->layer->input.c;
    for (int i = 0; i < 4; i++)
        memcpy(node + td_layer_slot(run, i)->offset, g + (size_t)i * c, c * sizeof *g);
}

static void batch_backward(td_layer_run *run)
{
    td_fold_leaves(run, 4 * run->layer->input.c, run->scratch, batch_gradient, write_batch);
}

const td_layer_ops td_layer_bn = {
    .name = "bn",
    .usage = "bn[:momentum=0.1][,epsilon=1e-5]",
    .setup = batch_setup,
    .keep = batch_keep,
    .scratch = batch_scratch,
    .forward = batch_forward,
    .backward = batch_backward,
};

/* --- layer norm; keep: x^ [rows][in], then 1/deviation [rows] --- */

static td_status layer_setup(td_net *net, td_layer *layer)
{
    layer->shape = layer->input;
    return add_slots(net, layer, td_shape_size(layer->input), false);
}

static size_t layer_keep(const td_layer *layer, size_t rows)
{
    return rows * (td_shape_size(layer->input) + 1);
}

static size_t layer_scratch(const td_layer *layer, size_t rows)
{
    (void)rows;
    return td_fold_scratch(2 * td_shape_size(layer->input));
}

static void layer_forward(td_layer_run *run)
{
    size_t n = td_shape_size(run->layer->input), rows = run->pass->rows;
    const float *scale = td_layer_param(run, 0), *shift = td_layer_param(run, 1);
    float epsilon = epsilon_of(run->layer), share = 1.f / (float)n;
    for (size_t r = 0; r < rows; r++) {
        const float *x = run->x + r * n;
        float *hat = run->keep + r * n, *y = run->y + r * n, sum = 0, squares = 0;
        for (size_t i = 0; i < n; i++) sum += x[i];
        float mean = sum * share;
        for (size_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
        float inverse = 1.f / sqrtf(squares * share + epsilon);
        run->keep[rows * n + r] = inverse;
        for (size_t i = 0; i < n; i++) {
            hat[i] = (x[i] - mean) * inverse;
            y[i] = hat[i] * scale[i] + shift[i];
        }
    }
}

static void layer_gradient(td_layer_run *run, int leaf, float *g)
{
    size_t n = td_shape_size(run->layer->input);
    const size_t *row = run->pass->leaf_row;
    const float *scale = td_layer_param(run, 0);
    float share = 1.f / (float)n;
    for (size_t r = row[leaf]; r < row[leaf + 1]; r++) {
        const float *dy = run->dy + r * n, *hat = run->keep + r * n;
        float sum = 0, dot = 0, inverse = run->keep[run->pass->rows * n + r];
        for (size_t i = 0; i < n; i++) {
            g[i] += dy[i] * hat[i];
            g[n + i] += dy[i];
            float d = dy[i] * scale[i];
            sum += d, dot += d * hat[i];
        }
        if (!run->dx) continue;
        float *dx = run->dx + r * n;
        for (size_t i = 0; i < n; i++)
            dx[i] = inverse * (dy[i] * scale[i] - share * (sum + hat[i] * dot));
    }
}

static void write_layer(td_layer_run *run, const float *g, float *node)
{
    size_t n = td_shape_size(run->layer->input);
    for (int i = 0; i < 2; i++)
        memcpy(node + td_layer_slot(run, i)->offset, g + (size_t)i * n, n * sizeof *g);
}

static void layer_backward(td_layer_run *run)
{
    td_fold_leaves(run, 2 * td_shape_size(run->layer->input), run->scratch, layer_gradient,
                   write_layer);
}

const td_layer_ops td_layer_ln = {
    .name = "ln",
    .usage = "ln[:epsilon=1e-5]",
    .setup = layer_setup,
    .keep = layer_keep,
    .scratch = layer_scratch,
    .forward = layer_forward,
    .backward = layer_backward,
};
