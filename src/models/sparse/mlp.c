/* See mlp.h. */
#include "models/sparse/mlp.h"

#include "base/error.h"
#include "math/kernels.h"

#include <stdio.h>

enum { LINE = 16, MOST_UNITS = 65536 };

static size_t max(size_t a, size_t b)
{
    return a > b ? a : b;
}

td_status td_mlp_parse(const char *name, const char *text, size_t inputs, td_mlp *out)
{
    *out = (td_mlp){.name = name, .units = {inputs}};
    for (const char *at = text;; at++) {
        size_t units = 0;
        const char *digits = at;
        for (; *at >= '0' && *at <= '9' && units <= MOST_UNITS; at++)
            units = units * 10 + (size_t)(*at - '0');
        if (at == digits || units == 0 || units > MOST_UNITS || (*at && *at != '-'))
            return td_fail(TD_ERR_ARG,
                           "%s network \"%.60s\": layers are their units, 1 to %d, with dashes "
                           "between",
                           name, text, MOST_UNITS);
        if (out->layers == TD_MLP_LAYERS)
            return td_fail(TD_ERR_ARG, "%s network \"%.60s\" has more than %d layers", name, text,
                           TD_MLP_LAYERS);
        out->units[++out->layers] = units;
        if (!*at) return TD_OK;
    }
}

static size_t place(const td_mlp *mlp, int layer, td_slot_kind kind, td_slot *slot, size_t *params)
{
    size_t in = mlp->units[layer], out = mlp->units[layer + 1];
    bool weight = kind == TD_SLOT_WEIGHT;
    *slot = (td_slot){.kind = kind,
                      .rank = weight ? 2 : 1,
                      .shape = {out, weight ? in : 0},
                      .offset = *params,
                      .count = weight ? out * in : out,
                      .fan_in = in,
                      .fan_out = out};
    snprintf(slot->name, sizeof slot->name, "%s.%d.%s", mlp->name, layer,
             weight ? "weight" : "bias");
    *params += (slot->count + LINE - 1) / LINE * LINE;
    return slot->offset;
}

void td_mlp_place(td_mlp *mlp, td_slot *slots, size_t *count, size_t *params)
{
    for (int l = 0; l < mlp->layers; l++) {
        mlp->weight[l] = place(mlp, l, TD_SLOT_WEIGHT, &slots[(*count)++], params);
        mlp->bias[l] = place(mlp, l, TD_SLOT_BIAS, &slots[(*count)++], params);
    }
}

/* ---- memory: outputs of all layers but the last are kept, one behind the other ---- */

size_t td_mlp_kept(const td_mlp *mlp, size_t rows)
{
    size_t floats = 0;
    for (int l = 1; l < mlp->layers; l++) floats += rows * mlp->units[l];
    return floats;
}

/* Of the gradients at layers' outputs: two, as one is made from the other. */
static size_t widest(const td_mlp *mlp)
{
    size_t units = 0;
    for (int l = 1; l < mlp->layers; l++) units = max(units, mlp->units[l]);
    return units;
}

size_t td_mlp_scratch(const td_mlp *mlp, size_t rows)
{
    size_t weights = 0, packing = 0;
    for (int l = 0; l < mlp->layers; l++) {
        weights = max(weights, mlp->units[l] * mlp->units[l + 1]);
        packing = max(packing, td_dense_grad_scratch(rows, mlp->units[l + 1]));
    }
    return 2 * rows * widest(mlp) + weights + packing;
}

/* ---- passes ---- */

void td_mlp_forward(const td_mlp *mlp, const td_mlp_block *block, float *y, size_t y_row)
{
    const td_kernels *k = td_kernels_best();
    const float *x = block->x;
    float *kept = block->kept;
    for (int l = 0; l < mlp->layers; l++) {
        bool last = l == mlp->layers - 1;
        size_t in = mlp->units[l], out = mlp->units[l + 1];
        td_gemm g = {
            .m = out,
            .n = block->rows,
            .k = in,
            .a = block->params + mlp->weight[l],
            .a_row = in,
            .a_col = 1,
            .b = x,
            .b_row = 1,
            .b_col = in,
            .c = last ? y : kept,
            .c_row = 1,
            .c_col = last ? y_row : out,
            .bias_row = block->params + mlp->bias[l],
            .relu = !(last && mlp->ends_linear),
        };
        k->gemm(&g);
        x = kept;
        kept += block->rows * out;
    }
}

/* Of layer l's weights and bias, from dy [rows][out] and its inputs x [rows][in]. */
static void add_gradient(const td_mlp *mlp, const td_mlp_block *block, int l, const float *x,
                         const float *dy, float *gradient, float *scratch)
{
    const td_kernels *k = td_kernels_best();
    size_t in = mlp->units[l], out = mlp->units[l + 1];
    size_t leaf_row[2] = {0, block->rows};
    int merges[1] = {0};
    float *nodes[1] = {scratch}, *weight = gradient + mlp->weight[l],
          *bias = gradient + mlp->bias[l];
    td_dense_grad d = {
        .in = in,
        .out = out,
        .leaves = 1,
        .leaf_row = leaf_row,
        .merges = merges,
        .x = x,
        .dy = dy,
        .nodes = nodes,
        .scratch = scratch + in * out,
    };
    k->dense_grad(&d);
    k->add(in * out, weight, scratch, weight);
    for (size_t r = 0; r < block->rows; r++) k->add(out, bias, dy + r * out, bias);
}

void td_mlp_backward(const td_mlp *mlp, const td_mlp_block *block, const float *dy, float *dx,
                     float *gradient, float *scratch)
{
    const td_kernels *k = td_kernels_best();
    size_t rows = block->rows;
    float *flow[2] = {scratch, scratch + rows * widest(mlp)};
    const float *y = block->kept + td_mlp_kept(mlp, rows); /* behind those of the layers below */
    for (int l = mlp->layers - 1; l >= 0; l--) {
        size_t in = mlp->units[l], out = mlp->units[l + 1];
        const float *x = l ? y - rows * in : block->x;
        add_gradient(mlp, block, l, x, dy, gradient, scratch + 2 * rows * widest(mlp));
        float *to = l ? flow[l % 2] : dx;
        if (!to) return;
        td_gemm g = {
            .m = rows,
            .n = in,
            .k = out,
            .a = dy,
            .a_row = out,
            .a_col = 1,
            .b = block->params + mlp->weight[l],
            .b_row = in,
            .b_col = 1,
            .c = to,
            .c_row = in,
            .c_col = 1,
        };
        k->gemm(&g);
        if (l) k->relu_grad(rows * in, x, to, to);
        dy = to;
        y = x;
    }
}
