/* What every group must be able to do, whatever it was made of: for the tests of recovery and of
 * groups that change size. */
#ifndef TD_COMM_RECOVER_WORKS_TEST_H
#define TD_COMM_RECOVER_WORKS_TEST_H

#include "comm/ranks_test.h"

#include "comm/recover.h"
#include "comm/treesum.h"

static td_status adds_exactly(td_comm *c)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    enum { COUNT = 20000 };
    int32_t *x = td_calloc(COUNT, sizeof *x);
    for (int i = 0; i < COUNT; i++) x[i] = i + me;
    td_status status = td_comm_allreduce(c, x, x, COUNT, TD_I32, TD_SUM);
    int wrong = 0;
    for (int i = 0; i < COUNT && status == TD_OK; i++) wrong += x[i] != n * i + n * (n - 1) / 2;
    td_free(x);
    TD_TRY(status);
    CHECK(wrong == 0);
    return TD_OK;
}

/* Leaf l adds l + 1 to every element; a sum in a float that has no rounding. */
static td_status sums_leaves_exactly(td_comm *c)
{
    enum { LEAVES = 16, COUNT = 4000 };
    td_treesum_config config = {.leaves = LEAVES, .lanes = 1, .count = COUNT};
    td_treesum *ts = NULL;
    TD_TRY(td_treesum_create(c, &config, &ts));
    for (int k = 0; k < td_treesum_nodes(ts, 0); k++) {
        td_tree_node id = td_treesum_node_id(ts, 0, k);
        int from = id.index << id.level, to = from + (1 << id.level), sum = 0;
        for (int l = from; l < to && l < LEAVES; l++) sum += l + 1;
        for (int i = 0; i < COUNT; i++) td_treesum_node(ts, 0, k)[i] = (float)sum;
    }
    td_status status = td_treesum_post(ts, 0, COUNT);
    if (status == TD_OK) status = td_treesum_wait(ts);
    int wrong = 0;
    for (int i = 0; i < COUNT && status == TD_OK; i++) wrong += td_treesum_sum(ts)[i] != 136.0F;
    if (status == TD_OK) status = td_comm_barrier(c);
    td_treesum_destroy(ts);
    TD_TRY(status);
    CHECK(wrong == 0);
    return TD_OK;
}

static td_status works(td_comm *c)
{
    td_comm *part = NULL;
    if (c->deadline_ms < 10000) c->deadline_ms = 10000; /* all are there, but may be slow */
    TD_TRY(adds_exactly(c));
    if (td_comm_size(c) <= 16) TD_TRY(sums_leaves_exactly(c));
    TD_TRY(td_comm_split(c, td_comm_rank(c) % 2, 0, &part));
    td_status status = td_comm_barrier(part);
    td_comm_close(part);
    return status == TD_OK ? td_comm_barrier(c) : status; /* so that all have come as far */
}

/* All ranks know the round, also those that have come without. */
static td_status agree_on_round(td_comm *c, int32_t *round)
{
    return td_comm_allreduce(c, round, round, 1, TD_I32, TD_MAX);
}

#endif
