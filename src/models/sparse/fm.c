/* Factorisation machine, a row of the table being [w, v[k]]:
 *
 *     score = sum of w x  +  sum over pairs (i < j) of <v_i, v_j> x_i x_j
 *           = sum of w x  +  1/2 sum over f of (s_f^2 - q_f),
 *                            s_f = sum of v_f x, q_f = sum of (v_f x)^2
 *     d score / d v_f = x (s_f - v_f x)
 *
 * O(k n) for n entries (Rendle 2010, lemma 3.1). Sums run over entries in their order, then over
 * factors in theirs. s waits in the scratch, [block][k], for the backward pass. */
#include "models/sparse/kind.h"

#include <string.h>

enum { DEFAULT_FACTORS = 4 };

static td_status setup(td_sparse_model *model, const td_sparse_model_config *config)
{
    model->factors = config->factors ? config->factors : DEFAULT_FACTORS;
    model->width = 1 + model->factors;
    model->scratch = (TD_SPARSE_BLOCK + 1) * model->factors; /* s of each, q of one */
    return TD_OK;
}

/* k is a constant where it is a usual number, so that loops over it are straight. */
static inline __attribute__((always_inline)) float score_row(const size_t k,
                                                             const td_sparse_leaf *leaf, size_t row,
                                                             float *restrict s, float *restrict q)
{
    float linear = 0, pairs = 0;
    memset(s, 0, k * sizeof *s);
    memset(q, 0, k * sizeof *q);
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++) {
        const float *restrict w = leaf->table + leaf->place[e] * (1 + k);
        float x = leaf->value[e];
        linear += x * w[0];
        for (size_t f = 0; f < k; f++) {
            float vx = w[1 + f] * x;
            s[f] += vx;
            q[f] += vx * vx;
        }
    }
    for (size_t f = 0; f < k; f++) pairs += s[f] * s[f] - q[f];
    return linear + pairs * 0.5f;
}

static inline __attribute__((always_inline)) void add_row(const size_t k,
                                                          const td_sparse_leaf *leaf, size_t row,
                                                          const float *restrict s, float dscore)
{
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++) {
        const float *restrict w = leaf->table + leaf->place[e] * (1 + k);
        float *restrict g = leaf->gradient + leaf->sum[e] * (1 + k);
        float x = leaf->value[e], dx = dscore * x;
        g[0] += dx;
        for (size_t f = 0; f < k; f++) g[1 + f] += dx * (s[f] - w[1 + f] * x);
    }
}

static void forward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score)
{
    const size_t k = model->factors;
    float *s = scratch, *q = scratch + TD_SPARSE_BLOCK * k;
    for (size_t r = begin; r < end; r++, s += k, score++) switch (k) {
        case 4: *score = score_row(4, leaf, r, s, q); break;
        case 8: *score = score_row(8, leaf, r, s, q); break;
        case 16: *score = score_row(16, leaf, r, s, q); break;
        default: *score = score_row(k, leaf, r, s, q); break;
        }
}

static void backward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore)
{
    const size_t k = model->factors;
    const float *s = scratch;
    for (size_t r = begin; r < end; r++, s += k, dscore++) switch (k) {
        case 4: add_row(4, leaf, r, s, *dscore); break;
        case 8: add_row(8, leaf, r, s, *dscore); break;
        case 16: add_row(16, leaf, r, s, *dscore); break;
        default: add_row(k, leaf, r, s, *dscore); break;
        }
}

const td_sparse_kind td_sparse_fm = {
    .name = "fm",
    .setup = setup,
    .forward = forward,
    .backward = backward,
};
