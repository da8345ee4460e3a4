/* Evaluation: leaves of batches in the order of the file, dealt to ranks as in training, and loss
 * totals added along the same tree; so the figures do not depend on the number of workers. Whether
 * to stop is added as well, so that all ranks leave behind the same batch. */
#include "train/train.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "comm/treesum.h"
#include "math/auc.h"

#include <math.h>

enum {
    STOP = TD_LEAF_VALUES,
    EXPECTED,
    POSITIVE,
    VALUES
}; /* of clicks, say; and that there were */

/* Scores of this rank's samples, NULL where nobody asks for the area under the curve. */
typedef struct curve {
    td_auc *auc;
    float *score; /* [batch] */
} curve;

static td_status curve_begin(curve *c, bool wanted, size_t batch)
{
    if (!wanted) return TD_OK;
    c->auc = td_calloc(1, sizeof *c->auc);
    c->score = td_calloc(batch, sizeof *c->score);
    return c->auc && c->score ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for the ROC curve");
}

static float weight_of(const td_batch *b, size_t i)
{
    return b->weight ? b->weight[i] : 1;
}

static void curve_add(curve *c, const td_batch *b)
{
    for (size_t i = 0; c->auc && i < b->rows; i++)
        td_auc_add(c->auc, c->score[i], b->label[i] == 1, weight_of(b, i));
}

/* What scores promise of a leaf's samples, and what came. */
static void calibrate_leaf(const curve *c, const td_batch *b, int leaf, double *values)
{
    values[EXPECTED] = values[POSITIVE] = 0;
    for (size_t r = b->leaf_row[leaf]; c->auc && r < b->leaf_row[leaf + 1]; r++) {
        double weight = (double)weight_of(b, r);
        values[EXPECTED] += weight / (1 + exp(-(double)c->score[r]));
        values[POSITIVE] += b->label[r] == 1 ? weight : 0;
    }
}

static td_status curve_end(curve *c, td_comm *comm, double *out)
{
    *out = NAN;
    if (!c->auc) return TD_OK;
    uint8_t *used = c->auc->used;
    TD_TRY(td_comm_allreduce(comm, used, used, TD_AUC_BLOCKS, TD_U8, TD_MAX));
    size_t numbers = td_auc_pack(c->auc);
    uint64_t(*counts)[2][TD_AUC_BLOCK] = c->auc->counts;
    TD_TRY(td_comm_allreduce(comm, counts, counts, numbers, TD_I64, TD_SUM));
    *out = td_auc_value(c->auc);
    return TD_OK;
}

td_status td_evaluate(td_comm *comm, const td_dataset *data, const td_normalise *normalise,
                      size_t batch, int leaves, const td_task *task, const float *params,
                      td_score *out)
{
    double totals[VALUES] = {0}, values[TD_TREE_MAX_LEAVES * TD_LEAF_VALUES];
    td_treesum *sum = NULL;
    td_loader *loader = NULL;
    curve roc = {0};
    td_status status = TD_OK;
    td_treesum_config config = {.leaves = leaves, .lanes = 1, .count = 1, .leaf_values = VALUES};
    TD_TRY(td_treesum_create(comm, &config, &sum));
    int begin, end;
    td_treesum_lane_leaves(sum, 0, &begin, &end);
    td_loader_config lc = {.data = data,
                           .batch = batch,
                           .leaves = leaves,
                           .leaf_begin = begin,
                           .leaf_end = end,
                           .shuffle = TD_SHUFFLE_NONE,
                           .normalise = normalise,
                           .epochs = 1,
                           .ahead = 1,
                           .sparse = task->sparse};
    status = td_loader_create(&lc, &loader);
    if (status == TD_OK) status = curve_begin(&roc, task->two, batch);
    TD_GOTO(td_comm_agree(comm, status));
    for (;;) {
        const td_batch *b;
        TD_GOTO(td_loader_next(loader, &b));
        if (!b) break;
        td_net_pass pass = {.params = params,
                            .rows = b->rows,
                            .x = b->x,
                            .label = b->label,
                            .target = b->target,
                            .weight = b->weight,
                            .sample = b->sample,
                            .leaves = b->leaves,
                            .leaf_row = b->leaf_row,
                            .leaf_values = values,
                            .score = roc.score};
        TD_GOTO(task->evaluate(task->oracle.self, &pass));
        curve_add(&roc, b);
        for (int l = 0; l < b->leaves; l++) {
            double *leaf = td_treesum_leaf(sum, begin + l);
            for (int v = 0; v < TD_LEAF_VALUES; v++) leaf[v] = values[l * TD_LEAF_VALUES + v];
            leaf[STOP] = task->stop && *task->stop;
            calibrate_leaf(&roc, b, l, leaf);
        }
        TD_GOTO(td_treesum_post(sum, 0, 0));
        TD_GOTO(td_treesum_wait(sum));
        const double *sums = td_treesum_leaf_sums(sum);
        if (sums[STOP] > 0) {
            status = td_fail(TD_ERR_INTERRUPTED, "the evaluation was stopped");
            goto out;
        }
        for (int v = 0; v < VALUES; v++) totals[v] += sums[v];
    }
    TD_GOTO(curve_end(&roc, comm, &out->auc));
    out->weight = totals[TD_LEAF_WEIGHT];
    out->loss = totals[TD_LEAF_LOSS] / totals[TD_LEAF_WEIGHT];
    out->accuracy = totals[TD_LEAF_CORRECT] / totals[TD_LEAF_WEIGHT];
    out->calibration = roc.auc ? totals[EXPECTED] / totals[POSITIVE] : NAN;
out:
    td_free(roc.auc);
    td_free(roc.score);
    td_loader_destroy(loader);
    td_treesum_destroy(sum);
    return status;
}
