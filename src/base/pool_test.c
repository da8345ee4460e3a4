#include "base/pool.h"

#include "base/error.h"
#include "base/test.h"

#include <stdatomic.h>

typedef struct tally {
    atomic_int calls[8];
    int failing;
} tally;

static td_status count(void *arg, int lane)
{
    tally *t = arg;
    atomic_fetch_add(&t->calls[lane], 1);
    return lane >= t->failing ? td_fail(TD_ERR_DATA, "lane %d failed", lane) : TD_OK;
}

static void every_lane_runs_once(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 5, 8};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        td_pool *pool;
        assert_ok(td_pool_create(sizes[s], &pool));
        tally t = {.failing = 99};
        for (int i = 0; i < 200; i++) assert_ok(td_pool_run(pool, count, &t));
        for (int lane = 0; lane < sizes[s]; lane++) assert_int_equal(t.calls[lane], 200);
        td_pool_destroy(pool);
    }
}

static void the_lowest_failure_comes_back_with_its_sentence(void **state)
{
    (void)state;
    td_pool *pool;
    assert_ok(td_pool_create(5, &pool));
    tally t = {.failing = 2};
    assert_fails(TD_ERR_DATA, "lane 2 failed", td_pool_run(pool, count, &t));
    t.failing = 99;
    assert_ok(td_pool_run(pool, count, &t));
    td_pool_destroy(pool);
    assert_fails(TD_ERR_ARG, "not 0", td_pool_create(0, &pool));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_lane_runs_once),
        cmocka_unit_test(the_lowest_failure_comes_back_with_its_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
