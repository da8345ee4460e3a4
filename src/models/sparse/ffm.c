/* Field-aware factorisation machine, a row of the table being [w, v[fields][k]]:
 *
 *     score = sum of w x  +  sum over pairs (i < j) of <v_i[field_j], v_j[field_i]> x_i x_j
 *
 * O(k n^2) for n entries. A factor's products are added in the order of i, then j, those of every
 * other j apart (two chains keep an adder busy); then the two sums of each factor in theirs. Pairs
 * are walked over once for up to 8 factors. Samples are not scaled to length 1, as libffm does by
 * default. */
#include "models/sparse/kind.h"
#include "models/sparse/vector.h"

#include "base/error.h"

#include <assert.h>

enum { DEFAULT_FACTORS = 4, MOST_VECTORS = 2 };

static td_status setup(td_sparse_model *model, const td_sparse_model_config *config)
{
    model->factors = config->factors ? config->factors : DEFAULT_FACTORS;
    if (config->fields == 0)
        return td_fail(TD_ERR_ARG, "ffm needs data with fields: libffm or a table");
    model->width = 1 + config->fields * model->factors;
    return TD_OK;
}

/* ---- forward ---- */

/* A sample's entries, and the columns that are walked over: `at` is the first of field 0's. */
typedef struct walk {
    const float *table, *value; /* from the first entry on, as the next two */
    const uint32_t *place;
    const uint16_t *field;
    size_t entries, width, k, at;
} walk;

TD_STRAIGHT void add_pair(const int vectors, const walk *w, const float *row, size_t in_other,
                          float x, size_t j, td_v4 *sum)
{
    const float *a = row + w->field[j] * w->k;
    const float *b = w->table + w->place[j] * w->width + in_other;
    float c = x * w->value[j];
    for (int v = 0; v < vectors; v++) sum[v] += c * (td_v4_load(a + 4 * v) * td_v4_load(b + 4 * v));
}

TD_STRAIGHT float sum_vectors(const int vectors, const walk *w, float score)
{
    td_v4 even[MOST_VECTORS], odd[MOST_VECTORS];
    for (int v = 0; v < vectors; v++) even[v] = odd[v] = (td_v4){0};
    for (size_t i = 0; i < w->entries; i++) {
        const float *row = w->table + w->place[i] * w->width + w->at;
        size_t in_other = w->at + w->field[i] * w->k, j = i + 1;
        for (; j + 1 < w->entries; j += 2) {
            add_pair(vectors, w, row, in_other, w->value[i], j, even);
            add_pair(vectors, w, row, in_other, w->value[i], j + 1, odd);
        }
        if (j < w->entries) add_pair(vectors, w, row, in_other, w->value[i], j, even);
    }
    for (int v = 0; v < vectors; v++)
        for (int i = 0; i < 4; i++) score += even[v][i] + odd[v][i];
    return score;
}

static float sum_one(const walk *w, float score)
{
    float sum[2] = {0, 0};
    for (size_t i = 0; i < w->entries; i++) {
        const float *row = w->table + w->place[i] * w->width + w->at;
        size_t in_other = w->at + w->field[i] * w->k;
        for (size_t j = i + 1; j < w->entries; j++)
            sum[(j - i - 1) % 2] +=
                w->value[i] * w->value[j] *
                (row[w->field[j] * w->k] * w->table[w->place[j] * w->width + in_other]);
    }
    return score + (sum[0] + sum[1]);
}

static float score_row(const td_sparse_model *model, const td_sparse_leaf *leaf, size_t row)
{
    const size_t begin = leaf->start[row], k = model->factors;
    walk w = {leaf->table,
              leaf->value + begin,
              leaf->place + begin,
              leaf->field + begin,
              leaf->start[row + 1] - begin,
              model->width,
              k,
              1};
    float score = 0;
    size_t f = 0;
    for (size_t e = 0; e < w.entries; e++) {
        assert(w.field[e] < model->fields);
        score += w.value[e] * w.table[w.place[e] * w.width];
    }
    for (; f + 8 <= k; f += 8, w.at += 8) score = sum_vectors(2, &w, score);
    for (; f + 4 <= k; f += 4, w.at += 4) score = sum_vectors(1, &w, score);
    for (; f < k; f++, w.at++) score = sum_one(&w, score);
    return score;
}

static void forward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score)
{
    (void)scratch;
    for (size_t r = begin; r < end; r++) *score++ = score_row(model, leaf, r);
}

/* ---- backward ---- */

/* The two sums of a pair may be one place, where a sample has a key twice: one after the other. */
TD_STRAIGHT void add_row(const size_t k, const td_sparse_model *model, const td_sparse_leaf *leaf,
                         size_t row, float dscore)
{
    const size_t begin = leaf->start[row], end = leaf->start[row + 1], width = model->width;
    const uint32_t *place = leaf->place, *sum = leaf->sum;
    const uint16_t *field = leaf->field;
    for (size_t i = begin; i < end; i++) {
        const float *v = leaf->table + place[i] * width + 1;
        float *g = leaf->gradient + sum[i] * width + 1;
        const size_t in_other = 1 + field[i] * k;
        float x = leaf->value[i] * dscore;
        g[-1] += x;
        for (size_t j = i + 1; j < end; j++) {
            float c = x * leaf->value[j];
            size_t here = field[j] * k;
            td_axpy(k, c, leaf->table + place[j] * width + in_other, g + here);
            td_axpy(k, c, v + here, leaf->gradient + sum[j] * width + in_other);
        }
    }
}

static void backward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore)
{
    (void)scratch;
    const size_t k = model->factors;
    for (size_t r = begin; r < end; r++, dscore++)
        if (k == 4)
            add_row(4, model, leaf, r, *dscore);
        else if (k == 8)
            add_row(8, model, leaf, r, *dscore);
        else if (k == 16)
            add_row(16, model, leaf, r, *dscore);
        else
            add_row(k, model, leaf, r, *dscore);
}

const td_sparse_kind td_sparse_ffm = {
    .name = "ffm",
    .setup = setup,
    .forward = forward,
    .backward = backward,
};
