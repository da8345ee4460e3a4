/* The shard plan: cuts, every sample once an epoch, independence from everything but the plan. */
#include "base/test.h"
#include "tandem/data.h"

#include <stdlib.h>

static void test_cut(void **state)
{
    (void)state;
    for (uint64_t n = 0; n < 40; n++)
        for (uint64_t parts = 1; parts < 20; parts++) {
            assert_int_equal(td_cut(n, parts, 0), 0);
            assert_int_equal(td_cut(n, parts, parts), n);
            for (uint64_t p = 0; p < parts; p++) {
                uint64_t size = td_cut(n, parts, p + 1) - td_cut(n, parts, p);
                assert_true(size == n / parts || size == n / parts + 1);
            }
        }
}

/* Walks an epoch and counts how often each sample comes. */
static void check_epoch(const td_shard_plan *plan, uint64_t epoch, uint64_t *order, size_t *length)
{
    size_t *seen = calloc(plan->samples, sizeof *seen), total = 0;
    assert_non_null(seen);
    for (uint64_t step = 0; step < td_shard_steps(plan); step++) {
        size_t rows = 0;
        for (int l = 0; l < plan->leaves; l++) {
            size_t mine = td_shard_leaf_rows(plan, step, l);
            td_shard_leaf(plan, epoch, step, l, order + total);
            for (size_t i = 0; i < mine; i++) {
                uint64_t sample = order[total + i];
                assert_true(sample < plan->samples);
                seen[sample]++;
                if (plan->shuffle == TD_SHUFFLE_LEAF) {
                    uint64_t leaves = (uint64_t)plan->leaves, leaf = (uint64_t)l;
                    assert_true(sample >= td_cut(plan->samples, leaves, leaf));
                    assert_true(sample < td_cut(plan->samples, leaves, leaf + 1));
                }
            }
            total += mine;
            rows += mine;
        }
        assert_int_equal(rows, td_shard_batch_rows(plan, step));
        assert_true(rows >= 1 && rows <= plan->batch);
        if (plan->drop_last) assert_int_equal(rows, plan->batch);
    }
    for (uint64_t i = 0; i < plan->samples; i++) assert_true(seen[i] <= 1);
    if (!plan->drop_last) assert_int_equal(total, plan->samples);
    *length = total;
    free(seen);
}

static void test_epochs(void **state)
{
    (void)state;
    static const uint64_t samples[] = {1, 7, 16, 100, 997}, batches[] = {1, 5, 16, 33, 128};
    static const int leaves[] = {1, 3, 8, 16};
    static uint64_t first[1000], second[1000], again[1000];
    for (int s = 0; s < 5; s++)
        for (int b = 0; b < 5; b++)
            for (int l = 0; l < 4; l++)
                for (int mode = 0; mode < 6; mode++) {
                    td_shard_plan plan = {samples[s], batches[b], leaves[l], (td_shuffle)(mode % 3),
                                          mode >= 3,  42};
                    if (td_shard_check(&plan) != TD_OK) continue;
                    size_t n, m, k;
                    check_epoch(&plan, 0, first, &n);
                    check_epoch(&plan, 1, second, &m);
                    check_epoch(&plan, 0, again, &k);
                    assert_int_equal(n, k);
                    assert_memory_equal(first, again, n * sizeof *first);
                    if (plan.shuffle == TD_SHUFFLE_GLOBAL && samples[s] >= 100)
                        assert_memory_not_equal(first, second, n * sizeof *first);
                    if (plan.shuffle == TD_SHUFFLE_NONE)
                        for (size_t i = 0; i < n; i++) assert_int_equal(first[i], i);
                }
}

static void test_checks(void **state)
{
    (void)state;
    td_shard_plan plan = {100, 128, 16, TD_SHUFFLE_GLOBAL, true, 0};
    assert_fails(TD_ERR_ARG, "100 samples give no full batch of 128", td_shard_check(&plan));
    plan = (td_shard_plan){100, 8, 16, TD_SHUFFLE_LEAF, false, 0};
    assert_fails(TD_ERR_ARG, "at least 16 rows", td_shard_check(&plan));
    plan = (td_shard_plan){0, 8, 16, TD_SHUFFLE_NONE, false, 0};
    assert_fails(TD_ERR_ARG, "without samples", td_shard_check(&plan));
    plan = (td_shard_plan){1, 0, 16, TD_SHUFFLE_NONE, false, 0};
    assert_fails(TD_ERR_ARG, "at least 1 row", td_shard_check(&plan));
    plan = (td_shard_plan){1, 1, 0, TD_SHUFFLE_NONE, false, 0};
    assert_fails(TD_ERR_ARG, "not 0", td_shard_check(&plan));
    plan = (td_shard_plan){1, 1, 1, (td_shuffle)9, false, 0};
    assert_fails(TD_ERR_ARG, "shuffle mode 9", td_shard_check(&plan));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_checks),
    };
    return cmocka_run_group_tests_name("shard", tests, NULL, NULL);
}
