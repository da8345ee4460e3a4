/* Scores of samples, for evaluation and prediction. See rows.h. */
#include "train/rows.h"

#include "base/error.h"

#include <string.h>

static td_status pull(td_rows_scorer *s)
{
    td_rows_batch *b = &s->batch;
    if (!s->oracle->width) return TD_OK;
    return s->source.rows(s->source.self, b->unique.keys, b->unique.count, b->table);
}

/* score: [rows][outputs], or NULL. */
static td_status score_units(td_rows_scorer *s, float *score, double *totals, bool labelled)
{
    const td_sparse_oracle *o = s->oracle;
    double unread[TD_LEAF_VALUES];
    for (int u = 0; u < s->batch.unit_count; u++) {
        td_sparse_leaf leaf;
        td_rows_batch_leaf(&s->batch, &s->shape, u, &leaf);
        leaf.gradient = NULL;
        leaf.params = s->source.params;
        leaf.score = score ? score + s->batch.units[u].row_begin * o->outputs : NULL;
        leaf.totals = totals ? totals + u * TD_LEAF_VALUES : unread;
        if (!labelled) leaf.target = NULL;
        TD_TRY(o->leaf(o->self, 0, &leaf));
    }
    return TD_OK;
}

td_status td_rows_score(void *scorer, const td_net_pass *pass)
{
    td_rows_scorer *s = scorer;
    td_batch b = {.rows = pass->rows,
                  .x = pass->x,
                  .label = pass->label,
                  .target = pass->target,
                  .weight = pass->weight,
                  .sample = pass->sample,
                  .leaves = pass->leaves,
                  .leaf_row = pass->leaf_row};
    TD_TRY(td_rows_batch_fill(&s->batch, &s->shape, &b, 0));
    TD_TRY(pull(s));
    return score_units(s, pass->score, pass->leaf_values, true);
}

td_status td_rows_predict(td_rows_scorer *s, uint64_t begin, size_t n, float *x, float *out)
{
    enum { MOST = 4096 };
    uint64_t sample[MOST];
    float target[MOST] = {0};
    size_t leaf_row[2] = {0, n};
    if (n > MOST) return td_fail(TD_ERR_ARG, "at most %d samples at a time", MOST);
    for (size_t i = 0; i < n; i++) sample[i] = begin + i;
    td_batch b = {.rows = n, .x = x, .target = target, .sample = sample, .leaves = 1};
    b.leaf_row = leaf_row;
    TD_TRY(td_rows_batch_fill(&s->batch, &s->shape, &b, 0));
    TD_TRY(pull(s));
    return score_units(s, out, NULL, false);
}
