/* Training with a caller's own gradient: leaf sums are folded along the tree into node buffers.
 * The caller knows no weights: rows are handed over in runs of one weight. */
#include "tandem/train.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"
#include "strategy/strategy.h"

#include <math.h>
#include <string.h>

enum { DEPTH = 14 }; /* partial sums that may wait: leaves are at most 4,096 */

typedef struct fit {
    const td_fit_config *config;
    size_t count, features;
    float **stack; /* [threads]: [DEPTH][count], and one of a run where samples have weights */
} fit;

/* Rows [begin, end) of the pass. */
static td_leaf rows_of(const fit *f, const td_net_pass *pass, size_t begin, size_t end)
{
    return (td_leaf){
        .rows = end - begin,
        .features = f->features,
        .x = pass->x + begin * f->features,
        .label = pass->label ? pass->label + begin : NULL,
        .target = pass->target ? pass->target + begin : NULL,
        .sample = pass->sample + begin,
    };
}

/* The gradient of a leaf in g [count], given as zeros, and its totals. A run of weight 1 that comes
 * first needs no copy: weights of 1 give the bits of no weights. */
static void gradient_of_leaf(const fit *f, int lane, const td_net_pass *pass, int l, float *g,
                             double *values)
{
    double loss = 0, weights = 0;
    bool untouched = true;
    float *run = f->stack[lane] + DEPTH * f->count;
    for (size_t r = pass->leaf_row[l], next, end = pass->leaf_row[l + 1]; r < end; r = next) {
        float w = pass->weight ? pass->weight[r] : 1;
        for (next = r + 1; next < end && (!pass->weight || pass->weight[next] == w);) next++;
        weights += w * (double)(next - r);
        if (w == 0) continue;
        td_leaf leaf = rows_of(f, pass, r, next);
        bool direct = untouched && w == 1;
        if (!direct) memset(run, 0, f->count * sizeof *run);
        loss += w * f->config->gradient(f->config->user, &leaf, pass->params, direct ? g : run);
        for (size_t i = 0; !direct && i < f->count; i++) g[i] += w * run[i];
        untouched = false;
    }
    values[TD_LEAF_LOSS] = loss, values[TD_LEAF_WEIGHT] = weights, values[TD_LEAF_CORRECT] = 0;
}

static td_status gradient(void *self, int lane, const td_net_pass *pass)
{
    fit *f = self;
    size_t depth = 0, n = f->count;
    for (int l = 0; l < pass->leaves; l++) {
        float *g = f->stack[lane] + depth++ * n;
        memset(g, 0, n * sizeof *g);
        gradient_of_leaf(f, lane, pass, l, g, pass->leaf_values + (size_t)l * TD_LEAF_VALUES);
        for (int m = 0; m < pass->merges[l]; m++) {
            float *newer = f->stack[lane] + --depth * n, *older = newer - n;
            td_kernels_best()->add(n, older, newer, older);
        }
    }
    for (size_t k = 0; k < depth; k++)
        memcpy(pass->nodes[k], f->stack[lane] + k * n, n * sizeof(float));
    return TD_OK;
}

static td_status steps(const td_fit_config *c, td_strategy *strategy, td_loader *loader,
                       size_t features, float *params)
{
    double loss = 0, weight = 0;
    for (uint64_t step = 0;; step++) {
        const td_batch *b;
        td_totals totals;
        TD_TRY(td_loader_next(loader, &b));
        if (!b) return TD_OK;
        td_rows rows = {b->rows,   b->x,        b->label, b->target, b->weight,
                        b->sample, b->leaf_row, b->epoch, step + 1,  features};
        TD_TRY(td_strategy_add(strategy, params, &rows, (td_notes){0}));
        TD_TRY(td_strategy_update(strategy, step, params, &totals));
        TD_TRY(td_strategy_share(strategy, params));
        if (!isfinite(totals.loss))
            return td_fail(TD_ERR_DIVERGED,
                           "the loss is no longer a number at step %llu; use a "
                           "smaller learning rate",
                           (unsigned long long)step + 1);
        loss += totals.loss, weight += totals.weight;
        if (!b->last_in_epoch) continue;
        if (c->epoch) c->epoch(c->user, b->epoch, weight > 0 ? loss / weight : 0);
        loss = weight = 0;
    }
}

td_status td_fit(td_comm *comm, const td_fit_config *config, size_t count, float *params)
{
    td_fit_config c = *config;
    td_strategy *strategy = NULL;
    td_loader *loader = NULL;
    td_status status = TD_OK;
    if (!c.data || !c.gradient || !count)
        return td_fail(TD_ERR_ARG,
                       "td_fit: data, a gradient and at least one parameter are needed");
    if (c.leaves == 0) c.leaves = 16;
    if (c.threads == 0) c.threads = 1;
    fit f = {.config = &c, .count = count, .features = td_dataset_info(c.data)->features};
    td_slot slot = {.name = "params",
                    .kind = TD_SLOT_WEIGHT,
                    .rank = 1,
                    .shape = {count},
                    .count = count};
    size_t depth = td_dataset_info(c.data)->has_weights ? DEPTH + 1 : DEPTH;
    f.stack = td_calloc((size_t)c.threads, sizeof *f.stack);
    for (int t = 0; f.stack && t < c.threads; t++)
        if (!(f.stack[t] = td_calloc(depth * count, sizeof(float)))) status = TD_ERR_NOMEM;
    if (!f.stack || status != TD_OK) status = td_fail(TD_ERR_NOMEM, "no memory for gradients");
    TD_GOTO(td_comm_agree(comm, status));
    td_oracle oracle = {&f, count, &slot, 1, gradient};
    td_strategy_config sc = {.leaves = c.leaves,
                             .lanes = c.threads,
                             .seed = c.seed,
                             .optim = c.optim};
    TD_GOTO(td_allreduce_create(comm, &oracle, &sc, &strategy));
    td_loader_config lc = {.data = c.data,
                           .batch = c.batch,
                           .leaves = c.leaves,
                           .seed = c.seed,
                           .normalise = c.normalise,
                           .epochs = c.epochs ? c.epochs : 1};
    td_strategy_leaves(strategy, &lc.leaf_begin, &lc.leaf_end);
    TD_GOTO(td_comm_agree(comm, td_loader_create(&lc, &loader)));
    status = steps(&c, strategy, loader, f.features, params);
out:
    td_loader_destroy(loader);
    td_strategy_destroy(strategy);
    for (int t = 0; f.stack && t < c.threads; t++) td_free(f.stack[t]);
    td_free(f.stack);
    return status;
}
