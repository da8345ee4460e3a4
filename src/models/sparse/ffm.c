/* Field-aware factorisation machine, a row of the table being [w, v[fields][k]]:
 *
 *     score = sum of w x  +  sum over pairs (i < j) of <v_i[field_j], v_j[field_i]> x_i x_j
 *
 * O(k n^2) for n entries. Pairs are added in the order of i, then j, factor by factor, then over
 * factors. Samples are not scaled to length 1, as libffm does by default. */
#include "models/sparse/kind.h"

#include "base/error.h"

#include <assert.h>
#include <string.h>

enum { DEFAULT_FACTORS = 4 };

static td_status setup(td_sparse_model *model, const td_sparse_model_config *config)
{
    model->factors = config->factors ? config->factors : DEFAULT_FACTORS;
    if (config->fields == 0)
        return td_fail(TD_ERR_ARG, "ffm needs data with fields: libffm or a table");
    model->width = 1 + config->fields * model->factors;
    model->scratch = model->factors;
    return TD_OK;
}

static inline const float *row_of(const td_sparse_model *model, const td_sparse_leaf *leaf,
                                  size_t entry)
{
    return leaf->table + leaf->place[entry] * model->width;
}

static inline __attribute__((always_inline)) float score_row(const size_t k,
                                                             const td_sparse_model *model,
                                                             const td_sparse_leaf *leaf, size_t row,
                                                             float *restrict sum)
{
    size_t begin = leaf->start[row], end = leaf->start[row + 1];
    float score = 0;
    memset(sum, 0, k * sizeof *sum);
    for (size_t i = begin; i < end; i++) {
        const float *w = row_of(model, leaf, i);
        float x = leaf->value[i];
        assert(leaf->field[i] < model->fields);
        score += x * w[0];
        for (size_t j = i + 1; j < end; j++) {
            const float *restrict a = w + 1 + leaf->field[j] * k;
            const float *restrict b = row_of(model, leaf, j) + 1 + leaf->field[i] * k;
            float c = x * leaf->value[j];
            for (size_t f = 0; f < k; f++) sum[f] += c * (a[f] * b[f]);
        }
    }
    for (size_t f = 0; f < k; f++) score += sum[f];
    return score;
}

/* The two sums of a pair may be one place, where a sample has a key twice: one after the other. */
static inline __attribute__((always_inline)) void add_row(const size_t k,
                                                          const td_sparse_model *model,
                                                          const td_sparse_leaf *leaf, size_t row,
                                                          float dscore)
{
    size_t begin = leaf->start[row], end = leaf->start[row + 1];
    for (size_t i = begin; i < end; i++) {
        const float *w = row_of(model, leaf, i);
        float *g = leaf->gradient + leaf->sum[i] * model->width;
        float x = leaf->value[i] * dscore;
        g[0] += x;
        for (size_t j = i + 1; j < end; j++) {
            size_t of_i = 1 + leaf->field[j] * k, of_j = 1 + leaf->field[i] * k;
            float c = x * leaf->value[j];
            td_sparse_axpy(k, c, row_of(model, leaf, j) + of_j, g + of_i);
            td_sparse_axpy(k, c, w + of_i, leaf->gradient + leaf->sum[j] * model->width + of_j);
        }
    }
}

static void forward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score)
{
    const size_t k = model->factors;
    for (size_t r = begin; r < end; r++, score++) switch (k) {
        case 4: *score = score_row(4, model, leaf, r, scratch); break;
        case 8: *score = score_row(8, model, leaf, r, scratch); break;
        case 16: *score = score_row(16, model, leaf, r, scratch); break;
        default: *score = score_row(k, model, leaf, r, scratch); break;
        }
}

static void backward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore)
{
    (void)scratch;
    const size_t k = model->factors;
    for (size_t r = begin; r < end; r++, dscore++) switch (k) {
        case 4: add_row(4, model, leaf, r, *dscore); break;
        case 8: add_row(8, model, leaf, r, *dscore); break;
        case 16: add_row(16, model, leaf, r, *dscore); break;
        default: add_row(k, model, leaf, r, *dscore); break;
        }
}

const td_sparse_kind td_sparse_ffm = {
    .name = "ffm",
    .setup = setup,
    .forward = forward,
    .backward = backward,
};
