/* The synchronous strategy: the same parameters, to the bit, however leaves are dealt, and however
 * often they are dealt anew. */
#include "strategy/strategy.h"

#include "base/error.h"
#include "base/test.h"
#include "math/tree.h"

#include <string.h>

enum { LEAVES = 12, ROWS = 24, FEATURES = 33, STEPS = 9 };

static float inputs[ROWS][FEATURES], targets[ROWS];

/* The gradient of the squared error of a linear model. */
static td_status gradient(void *self, int lane, const td_net_pass *pass)
{
    (void)self, (void)lane;
    static _Thread_local float leaf[LEAVES][FEATURES];
    const float *parts[LEAVES];
    memset(leaf, 0, sizeof leaf);
    for (int l = 0; l < pass->leaves; l++) {
        double loss = 0, weight = 0;
        for (size_t r = pass->leaf_row[l]; r < pass->leaf_row[l + 1]; r++) {
            const float *x = pass->x + r * FEATURES;
            float error = -pass->target[r];
            for (int i = 0; i < FEATURES; i++) error += x[i] * pass->params[i];
            for (int i = 0; i < FEATURES; i++) leaf[l][i] += error * x[i];
            loss += (double)error * error / 2, weight++;
        }
        double *values = pass->leaf_values + l * TD_LEAF_VALUES;
        values[TD_LEAF_LOSS] = loss, values[TD_LEAF_WEIGHT] = weight, values[TD_LEAF_CORRECT] = 0;
        parts[l] = leaf[l];
    }
    td_tree_fold_to(parts, pass->merges, pass->leaves, 0, FEATURES, pass->nodes);
    return TD_OK;
}

static void deal_unevenly(int ranks, int seed, int *bounds)
{
    bounds[0] = 0;
    for (int r = 0; r < ranks; r++) bounds[r + 1] = bounds[r] + 1;
    for (int l = ranks; l < LEAVES; l++)
        for (int r = (l * seed + l) % ranks; r < ranks; r++) bounds[r + 1]++;
}

static td_status one_step(td_strategy *s, uint64_t step, float *params, td_totals *totals)
{
    int begin, end;
    size_t leaf_row[LEAVES + 1];
    td_strategy_leaves(s, &begin, &end);
    for (int l = begin; l <= end; l++) leaf_row[l - begin] = (size_t)(l - begin) * ROWS / LEAVES;
    td_rows rows = {.rows = leaf_row[end - begin],
                    .x = inputs[begin * ROWS / LEAVES],
                    .target = targets + begin * ROWS / LEAVES,
                    .leaf_row = leaf_row,
                    .features = FEATURES};
    TD_TRY(td_strategy_add(s, params, &rows, (td_notes){0}));
    return totals ? td_strategy_update(s, step, params, totals) : TD_OK; /* NULL: it comes so far */
}

typedef struct trial {
    int lanes;
    bool deals;
    float params[FEATURES]; /* of rank 0 */
} trial;

static td_status train(td_comm *comm, void *arg)
{
    trial *t = arg;
    td_slot slot = {.name = "w", .count = FEATURES, .rank = 1, .shape = {FEATURES}};
    td_oracle oracle = {.params = FEATURES, .slots = &slot, .slot_count = 1, .gradient = gradient};
    td_strategy_config config = {.leaves = LEAVES,
                                 .lanes = t->lanes,
                                 .optim = {.rule = "adam", .lr = 0.01}};
    td_strategy *s;
    td_totals totals, first = {0};
    float params[FEATURES] = {0};
    int bounds[LEAVES + 1];
    TD_TRY(td_allreduce_create(comm, &oracle, &config, &s));
    td_status status = TD_OK;
    for (uint64_t step = 0; step < STEPS && status == TD_OK; step++) {
        if (t->deals && step % 2) {
            deal_unevenly(td_comm_size(comm), (int)step, bounds);
            status = td_strategy_deal(s, comm, step == 5 ? NULL : bounds);
        }
        if (status == TD_OK) status = one_step(s, step, params, &totals);
        if (step == 0) first = totals;
    }
    if (status == TD_OK && !(totals.loss < first.loss && totals.weight == ROWS))
        status = td_fail(TD_ERR_INTERNAL, "the loss went from %g to %g", first.loss, totals.loss);
    if (td_comm_rank(comm) == 0) memcpy(t->params, params, sizeof params);
    td_strategy_destroy(s);
    return status;
}

/* Step 2 is made by ranks 0 and 2 of three, and known to rank 1 when it has caught up; then all go
 * on in the order 2, 0, 1, as after a loss. */
static td_status fall_behind(td_comm *comm, void *arg)
{
    trial *t = arg;
    td_slot slot = {.name = "w", .count = FEATURES, .rank = 1, .shape = {FEATURES}};
    td_oracle oracle = {.params = FEATURES, .slots = &slot, .slot_count = 1, .gradient = gradient};
    td_strategy_config config = {.leaves = LEAVES,
                                 .lanes = t->lanes,
                                 .optim = {.rule = "adam", .lr = 0.01},
                                 .shard_optimizer = true};
    td_strategy *s;
    td_totals totals;
    td_comm *next = NULL;
    float params[FEATURES] = {0};
    int rank = td_comm_rank(comm), mark = rank;
    bool lost;
    TD_TRY(td_allreduce_create(comm, &oracle, &config, &s));
    td_status status = TD_OK;
    for (uint64_t step = 0; step < STEPS && status == TD_OK; step++) {
        status = one_step(s, step, params, step == 2 && rank == 1 ? NULL : &totals);
        if (status == TD_OK && step != 2) status = td_strategy_share(s, params);
        if (status != TD_OK || step != 2) continue;
        status = td_comm_split(comm, 0, (rank + 1) % 3, &next);
        if (status == TD_OK) status = td_strategy_catch_up(s, next, params, &mark, sizeof mark);
        if (status == TD_OK && mark != (rank == 1 ? 2 : rank))
            status = td_fail(TD_ERR_INTERNAL, "rank %d has mark %d", rank, mark);
        if (status == TD_OK) status = td_strategy_deal(s, next, NULL);
        if (status == TD_OK) status = td_shards_deal(td_strategy_shards(s), next, 3, params, &lost);
        if (status == TD_OK) status = td_strategy_share(s, params);
    }
    if (rank == 0) memcpy(t->params, params, sizeof params);
    td_strategy_destroy(s);
    td_comm_close(next);
    return status;
}

static void the_deal_of_leaves_changes_nothing(void **state)
{
    (void)state;
    trial want = {.lanes = 1};
    for (int r = 0; r < ROWS; r++) {
        targets[r] = (float)((r * 5) % 7) - 3;
        for (int i = 0; i < FEATURES; i++)
            inputs[r][i] = (float)((r * 31 + i * 17) % 19) / 7 - 1.2F;
    }
    assert_ok(td_comm_run_local(1, NULL, train, &want));
    for (int ranks = 1; ranks <= 5; ranks += 2)
        for (int lanes = 1; lanes <= 3; lanes++) {
            trial got = {.lanes = lanes, .deals = true};
            assert_ok(td_comm_run_local(ranks, NULL, train, &got));
            assert_memory_equal(got.params, want.params, sizeof want.params);
        }
    for (int lanes = 1; lanes <= 2; lanes++) {
        trial got = {.lanes = lanes};
        assert_ok(td_comm_run_local(3, NULL, fall_behind, &got));
        assert_memory_equal(got.params, want.params, sizeof want.params);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(the_deal_of_leaves_changes_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
