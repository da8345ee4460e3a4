/* Factorisation machine, a row of the table being [w, v[k]]:
 *
 *     score = sum of w x  +  sum over pairs (i < j) of <v_i, v_j> x_i x_j
 *           = sum of w x  +  1/2 sum over f of (s_f^2 - q_f),
 *                            s_f = sum of v_f x, q_f = sum of (v_f x)^2
 *     d score / d v_f = x (s_f - v_f x)
 *
 * O(k n) for n entries (Rendle 2010, lemma 3.1). Sums run over entries in their order, then over
 * factors in theirs: a sample is walked over once for up to 16 factors, whose sums are registers.
 * s waits in the scratch, [block][k], for the backward pass. */
#include "models/sparse/kind.h"
#include "models/sparse/vector.h"

enum { DEFAULT_FACTORS = 4, MOST_VECTORS = 4 };

static td_status setup(td_sparse_model *model, const td_sparse_model_config *config)
{
    model->factors = config->factors ? config->factors : DEFAULT_FACTORS;
    model->width = 1 + model->factors;
    model->scratch = TD_SPARSE_BLOCK * model->factors;
    return TD_OK;
}

/* `vectors` of four factors each from column `at` of the rows: s, and their pairs' sum on `pairs`.
 */
TD_STRAIGHT float sum_vectors(const int vectors, const td_sparse_leaf *leaf, size_t row,
                              size_t width, size_t at, float *s, float pairs)
{
    td_v4 sum[MOST_VECTORS], square[MOST_VECTORS];
    for (int v = 0; v < vectors; v++) sum[v] = square[v] = (td_v4){0};
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++) {
        const float *from = leaf->table + leaf->place[e] * width + at;
        float x = leaf->value[e];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++) {
            td_v4 vx = td_v4_load(from + 4 * v) * x;
            sum[v] += vx;
            square[v] += vx * vx;
        }
    }
    for (int v = 0; v < vectors; v++) {
        td_v4_store(s + 4 * v, sum[v]);
        for (int i = 0; i < 4; i++) pairs += sum[v][i] * sum[v][i] - square[v][i];
    }
    return pairs;
}

static float sum_one(const td_sparse_leaf *leaf, size_t row, size_t width, size_t at, float *s,
                     float pairs)
{
    float sum = 0, square = 0;
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++) {
        float vx = leaf->table[leaf->place[e] * width + at] * leaf->value[e];
        sum += vx;
        square += vx * vx;
    }
    *s = sum;
    return pairs + (sum * sum - square);
}

static float score_row(const td_sparse_leaf *leaf, size_t row, size_t k, float *s)
{
    const size_t width = 1 + k;
    float linear = 0, pairs = 0;
    size_t f = 0;
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++)
        linear += leaf->value[e] * leaf->table[leaf->place[e] * width];
    for (; f + 16 <= k; f += 16) pairs = sum_vectors(4, leaf, row, width, 1 + f, s + f, pairs);
    for (; f + 8 <= k; f += 8) pairs = sum_vectors(2, leaf, row, width, 1 + f, s + f, pairs);
    for (; f + 4 <= k; f += 4) pairs = sum_vectors(1, leaf, row, width, 1 + f, s + f, pairs);
    for (; f < k; f++) pairs = sum_one(leaf, row, width, 1 + f, s + f, pairs);
    return linear + pairs * 0.5f;
}

TD_STRAIGHT void add_row(const size_t k, const td_sparse_leaf *leaf, size_t row, const float *s,
                         float dscore)
{
    for (size_t e = leaf->start[row]; e < leaf->start[row + 1]; e++) {
        const float *w = leaf->table + leaf->place[e] * (1 + k);
        float *g = leaf->gradient + leaf->sum[e] * (1 + k);
        float x = leaf->value[e], dx = dscore * x;
        size_t f = 1;
        g[0] += dx;
        for (; f + 4 <= 1 + k; f += 4)
            td_v4_store(g + f,
                        td_v4_load(g + f) + dx * (td_v4_load(s + f - 1) - td_v4_load(w + f) * x));
        for (; f < 1 + k; f++) g[f] += dx * (s[f - 1] - w[f] * x);
    }
}

static void forward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score)
{
    const size_t k = model->factors;
    for (size_t r = begin; r < end; r++, scratch += k)
        score[r - begin] = score_row(leaf, r, k, scratch);
}

static void backward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore)
{
    const size_t k = model->factors;
    for (size_t r = begin; r < end; r++, scratch += k, dscore++)
        if (k == 4)
            add_row(4, leaf, r, scratch, *dscore);
        else if (k == 8)
            add_row(8, leaf, r, scratch, *dscore);
        else if (k == 16)
            add_row(16, leaf, r, scratch, *dscore);
        else
            add_row(k, leaf, r, scratch, *dscore);
}

const td_sparse_kind td_sparse_fm = {
    .name = "fm",
    .setup = setup,
    .forward = forward,
    .backward = backward,
};
