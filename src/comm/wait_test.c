/* Waits on a machine whose cores others want too: there a yield takes long, which this program's
 * own sched_yield plays. */
#include "comm/ranks_test.h"

#include "base/clock.h"

#include <sched.h>
#include <stdatomic.h>

enum { BARRIERS = 200, AWAY_NS = 20000000 };

static _Thread_local int64_t came_back; /* from this rank's last yield; 0: none yet */
static atomic_int yields, too_soon;

int sched_yield(void)
{
    int64_t now = td_clock_ns();
    yields++;
    too_soon += came_back && now - came_back < 10 * AWAY_NS;
    nanosleep(&(struct timespec){.tv_nsec = AWAY_NS}, NULL);
    came_back = td_clock_ns();
    return 0;
}

static td_status meet_often(td_comm *c, void *arg)
{
    (void)arg;
    for (int k = 0; k < BARRIERS; k++) {
        if (k == 0 && td_comm_rank(c) == 0) /* the others wait for long */
            nanosleep(&(struct timespec){.tv_nsec = AWAY_NS}, NULL);
        TD_TRY(td_comm_barrier(c));
    }
    return TD_OK;
}

/* Who has given its core to others for long sleeps in its waits for a while. */
static void test_long_yields_are_seldom(void **state)
{
    (void)state;
    assert_ok(td_comm_run_local(3, NULL, meet_often, NULL));
    assert_true(yields > 0);
    assert_int_equal(too_soon, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_long_yields_are_seldom)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
