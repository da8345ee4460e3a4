/* Evaluation: leaves of batches in the order of the file, dealt to ranks as in training, and loss
 * totals added along the same tree; so the figures do not depend on the number of workers. */
#include "train/train.h"

#include "comm/treesum.h"

#include "base/error.h"

td_status td_evaluate(td_comm *comm, const td_dataset *data, const td_normalise *normalise,
                      size_t batch, int leaves, const td_task *task, const float *params,
                      td_score *out)
{
    double totals[TD_LEAF_VALUES] = {0}, values[TD_TREE_MAX_LEAVES * TD_LEAF_VALUES];
    td_treesum *sum = NULL;
    td_loader *loader = NULL;
    td_status status = TD_OK;
    td_treesum_config config = {.leaves = leaves,
                                .lanes = 1,
                                .count = 1,
                                .leaf_values = TD_LEAF_VALUES};
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
                           .ahead = 1};
    TD_GOTO(td_comm_agree(comm, td_loader_create(&lc, &loader)));
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
                            .leaf_values = values};
        TD_GOTO(task->evaluate(task->oracle.self, &pass));
        for (int l = 0; l < b->leaves; l++)
            for (int v = 0; v < TD_LEAF_VALUES; v++)
                td_treesum_leaf(sum, begin + l)[v] = values[l * TD_LEAF_VALUES + v];
        TD_GOTO(td_treesum_post(sum, 0, 0));
        TD_GOTO(td_treesum_wait(sum));
        for (int v = 0; v < TD_LEAF_VALUES; v++) totals[v] += td_treesum_leaf_sums(sum)[v];
    }
    out->weight = totals[TD_LEAF_WEIGHT];
    out->loss = totals[TD_LEAF_LOSS] / totals[TD_LEAF_WEIGHT];
    out->accuracy = totals[TD_LEAF_CORRECT] / totals[TD_LEAF_WEIGHT];
out:
    td_loader_destroy(loader);
    td_treesum_destroy(sum);
    return status;
}
