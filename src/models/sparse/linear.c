/* Linear: score[o] = sum over entries, in their order, of w[o] x. */
#include "models/sparse/kind.h"
#include "models/sparse/vector.h"

#include <string.h>

static td_status setup(td_sparse_model *model, const td_sparse_model_config *config)
{
    (void)config;
    model->width = model->outputs;
    return TD_OK;
}

static float score_one(const td_sparse_leaf *leaf, size_t begin, size_t end)
{
    float sum = 0;
    for (size_t e = begin; e < end; e++) sum += leaf->value[e] * leaf->table[leaf->place[e]];
    return sum;
}

static void forward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                    size_t begin, size_t end, float *score)
{
    (void)scratch;
    size_t n = model->outputs;
    for (size_t r = begin; r < end; r++, score += n) {
        if (n == 1) {
            *score = score_one(leaf, leaf->start[r], leaf->start[r + 1]);
            continue;
        }
        memset(score, 0, n * sizeof *score);
        for (size_t e = leaf->start[r]; e < leaf->start[r + 1]; e++)
            td_axpy(n, leaf->value[e], leaf->table + leaf->place[e] * n, score);
    }
}

static void backward(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                     size_t begin, size_t end, const float *dscore)
{
    (void)scratch;
    size_t n = model->outputs;
    for (size_t r = begin; r < end; r++, dscore += n)
        for (size_t e = leaf->start[r]; e < leaf->start[r + 1]; e++)
            if (n == 1)
                leaf->gradient[leaf->sum[e]] += leaf->value[e] * *dscore;
            else
                td_axpy(n, leaf->value[e], dscore, leaf->gradient + leaf->sum[e] * n);
}

const td_sparse_kind td_sparse_linear = {
    .name = "linear",
    .setup = setup,
    .forward = forward,
    .backward = backward,
    .many_outputs = true,
};
