/* DLRM (Naumov et al. 2019), a row of the table being an embedding [d]:
 *
 *     z_0        = bottom(numbers)                 where samples have numbers
 *     z_1 ..     = sum over the entries of a field of value * embedding, 0 where there are none
 *     t          = [z_0, <z_1, z_0>, <z_2, z_0>, <z_2, z_1>, <z_3, z_0>, ...]
 *     score      = top(t)
 *
 * A sample's dot products are one small matrix product, Z Z', of which the part below the diagonal
 * is taken; and their gradient is another, S Z, where S is symmetric and holds the gradients at the
 * products. Z has rows of zeros up to a whole number of vectors. Additions: entries in their
 * order, then as math/kernels.h says of its products. */
#include "models/sparse/kind.h"
#include "models/sparse/mlp.h"
#include "models/sparse/vector.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

enum { DEFAULT_WIDTH = 16, VECTOR = 16 /* floats, that vectors are padded to */ };

struct td_dlrm {
    td_mlp bottom, top;
    size_t first;   /* the first field's vector: 1, or 0 without numbers */
    size_t vectors; /* of a sample */
    size_t padded;  /* with those of zeros */
    size_t inputs;  /* of the top */
    /* places in the scratch */
    size_t z;       /* [block][padded][d] */
    size_t t;       /* [block][inputs] */
    size_t dt;      /* the same */
    size_t dbottom; /* [block][d] */
    size_t square;  /* [padded][padded] products, then their gradients */
    size_t dz;      /* [padded][d] of a sample */
    size_t bottom_kept, top_kept, networks;
};

/* ---- creation ---- */

static void place_scratch(td_sparse_model *model, td_dlrm *m)
{
    const size_t rows = TD_SPARSE_BLOCK, d = model->factors;
    const struct {
        size_t *at, floats;
    } parts[] = {
        {&m->z, rows * m->padded * d},
        {&m->t, rows * m->inputs + VECTOR},
        {&m->dt, rows * m->inputs},
        {&m->dbottom, rows * d},
        {&m->square, m->padded * m->padded},
        {&m->dz, m->padded * d},
        {&m->bottom_kept, td_mlp_kept(&m->bottom, rows)},
        {&m->top_kept, td_mlp_kept(&m->top, rows)},
        {&m->networks,
         td_sparse_max(td_mlp_scratch(&m->bottom, rows), td_mlp_scratch(&m->top, rows))},
    };
    size_t at = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = at;
        at += (parts[i].floats + VECTOR - 1) / VECTOR * VECTOR;
    }
    model->scratch = at;
}

static td_status parse_networks(td_sparse_model *model, const td_sparse_model_config *config,
                                td_dlrm *m)
{
    char bottom[32];
    snprintf(bottom, sizeof bottom, "64-%zu", model->factors);
    if (m->first) {
        const char *text = config->bottom ? config->bottom : bottom;
        TD_TRY(td_mlp_parse("bottom", text, config->numbers, &m->bottom));
        if (m->bottom.units[m->bottom.layers] != model->factors)
            return td_fail(TD_ERR_ARG,
                           "the bottom network \"%.60s\" must end in %zu units, as an embedding "
                           "is wide",
                           text, model->factors);
    }
    const char *text = config->top ? config->top : "128-64-1";
    TD_TRY(td_mlp_parse("top", text, m->inputs, &m->top));
    m->top.ends_linear = true;
    if (m->top.units[m->top.layers] != 1)
        return td_fail(TD_ERR_ARG, "the top network \"%.60s\" must end in 1 unit", text);
    return TD_OK;
}

static td_status setup(td_sparse_model *model, const td_sparse_model_config *config)
{
    model->factors = config->factors ? config->factors : DEFAULT_WIDTH;
    model->width = model->factors;
    model->numbers = config->numbers;
    td_dlrm *m = model->dlrm = td_calloc(1, sizeof *m);
    if (!m) return td_fail(TD_ERR_NOMEM, "no memory for a model");
    m->first = config->numbers > 0;
    m->vectors = m->first + config->fields;
    if (m->vectors > 4096)
        return td_fail(TD_ERR_ARG, "dlrm multiplies each field with each other: %zu are too many",
                       config->fields);
    m->padded = (m->vectors + VECTOR - 1) / VECTOR * VECTOR;
    m->inputs = m->first * model->factors + m->vectors * (m->vectors - (m->vectors > 0)) / 2;
    if (m->inputs == 0) return td_fail(TD_ERR_ARG, "dlrm needs dense numbers or two fields");
    TD_TRY(parse_networks(model, config, m));
    size_t layers = (size_t)(m->bottom.layers + m->top.layers);
    model->slots = td_calloc(2 * layers, sizeof *model->slots);
    if (!model->slots) return td_fail(TD_ERR_NOMEM, "no memory for %zu slots", 2 * layers);
    td_mlp_place(&m->bottom, model->slots, &model->slot_count, &model->params);
    td_mlp_place(&m->top, model->slots, &model->slot_count, &model->params);
    place_scratch(model, m);
    return TD_OK;
}

void td_dlrm_destroy(td_dlrm *dlrm)
{
    td_free(dlrm);
}

/* ---- forward ---- */

/* The vectors of a sample's fields. */
static void gather(const td_sparse_model *model, const td_sparse_leaf *leaf, size_t row, float *z)
{
    const size_t d = model->factors;
    memset(z, 0, model->fields * d * sizeof *z);
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++) {
        assert(leaf->field[e] < model->fields);
        td_axpy(d, leaf->value[e], leaf->table + leaf->place[e] * d, z + leaf->field[e] * d);
    }
}

/* t from z. Rows are copied by whole vectors; what is too much, the next row writes over. */
static void interact(const td_dlrm *m, size_t d, const float *z, float *square, float *t)
{
    td_gemm g = {
        .m = m->vectors,
        .n = m->padded,
        .k = d,
        .a = z,
        .a_row = d,
        .a_col = 1,
        .b = z,
        .b_row = 1,
        .b_col = d,
        .c = square,
        .c_row = m->padded,
        .c_col = 1,
    };
    td_kernels_best()->gemm(&g);
    if (m->first) {
        memcpy(t, z, d * sizeof *t);
        t += d;
    }
    for (size_t i = 1; i < m->vectors; t += i++)
        for (size_t j = 0; j < i; j += VECTOR)
            memcpy(t + j, square + i * m->padded + j, VECTOR * sizeof *t);
}

static void forward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score)
{
    const td_dlrm *m = model->dlrm;
    const size_t d = model->factors, rows = end - begin;
    float *z = scratch + m->z, *t = scratch + m->t;
    if (m->first) {
        td_mlp_block bottom = {rows, leaf->params, leaf->numbers + begin * model->numbers,
                               scratch + m->bottom_kept};
        td_mlp_forward(&m->bottom, &bottom, z, m->padded * d);
    }
    for (size_t r = 0; r < rows; r++, z += m->padded * d) {
        gather(model, leaf, begin + r, z + m->first * d);
        interact(m, d, z, scratch + m->square, t + r * m->inputs);
    }
    td_mlp_block top = {rows, leaf->params, t, scratch + m->top_kept};
    td_mlp_forward(&m->top, &top, score, 1);
}

/* ---- backward ---- */

/* dz from dt: the products' gradients, both ways, times the vectors. */
static void interact_back(const td_dlrm *m, size_t d, const float *z, const float *dt,
                          float *square, float *dz)
{
    const float *product = dt + m->first * d;
    for (size_t i = 0; i < m->vectors; product += i++) {
        float *row = square + i * m->padded, *column = square + i;
        for (size_t j = 0; j < i; j++) column[j * m->padded] = row[j] = product[j];
        row[i] = 0;
    }
    td_gemm g = {
        .m = d,
        .n = m->padded,
        .k = m->vectors,
        .a = z,
        .a_row = 1,
        .a_col = d,
        .b = square,
        .b_row = m->padded,
        .b_col = 1,
        .c = dz,
        .c_row = 1,
        .c_col = d,
    };
    td_kernels_best()->gemm(&g);
}

static void backward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore)
{
    const td_dlrm *m = model->dlrm;
    const size_t d = model->factors, rows = end - begin;
    const float *z = scratch + m->z, *dt = scratch + m->dt;
    float *dz = scratch + m->dz, *dbottom = scratch + m->dbottom;
    td_mlp_block top = {rows, leaf->params, scratch + m->t, scratch + m->top_kept};
    td_mlp_backward(&m->top, &top, dscore, scratch + m->dt, leaf->dense_gradient,
                    scratch + m->networks);
    for (size_t r = 0; r < rows; r++, z += m->padded * d, dt += m->inputs, dbottom += d) {
        interact_back(m, d, z, dt, scratch + m->square, dz);
        for (size_t i = 0; m->first && i < d; i++) dbottom[i] = z[i] > 0 ? dz[i] + dt[i] : 0;
        for (size_t e = leaf->start[begin + r]; e < leaf->start[begin + r + 1]; e++)
            td_axpy(d, leaf->value[e], dz + (m->first + leaf->field[e]) * d,
                    leaf->gradient + leaf->sum[e] * d);
    }
    if (!m->first) return;
    td_mlp_block bottom = {rows, leaf->params, leaf->numbers + begin * model->numbers,
                           scratch + m->bottom_kept};
    td_mlp_backward(&m->bottom, &bottom, scratch + m->dbottom, NULL, leaf->dense_gradient,
                    scratch + m->networks);
}

const td_sparse_kind td_sparse_dlrm = {
    .name = "dlrm",
    .setup = setup,
    .forward = forward,
    .backward = backward,
};
