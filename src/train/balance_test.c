/* Slow ranks are found and get fewer leaves. */
#include "train/balance.h"

#include "base/test.h"

#include <math.h>
#include <string.h>

static td_pace pace(double input, double compute, double update, double other)
{
    return (td_pace){{input, compute, update, 0, other}};
}

static void a_slow_rank_is_named_with_its_phase(void **state)
{
    (void)state;
    td_pace p[5] = {pace(1, 10, 2, 1), pace(1, 11, 2, 1), pace(9, 10, 2, 1), pace(1, 9, 2, 1),
                    pace(1, 10, 2, 1)};
    double scores[5], behind;
    td_balance_scores(p, 5, scores);
    for (int r = 0; r < 5; r++)
        assert_true(r == 2 ? fabs(scores[r] - 14. / 22) < 1e-12 : scores[r] > 0.9);
    assert_int_equal(td_balance_phase(p, 5, 2, &behind), TD_PHASE_INPUT);
    assert_true(behind == 8);
    p[2] = pace(1, 10, 2, 201);
    assert_int_equal(td_balance_phase(p, 5, 2, &behind), TD_PHASE_OTHER);
    assert_string_equal(td_phase_names[TD_PHASE_OTHER], "other");
    p[0] = pace(1, 20, 2, 1), p[1] = pace(1, 10, 2, 1); /* of two, against the other */
    td_balance_scores(p, 2, scores);
    assert_true(fabs(scores[0] - 14. / 24) < 1e-12 && scores[1] == 1);
    assert_int_equal(td_balance_phase(p, 2, 0, &behind), TD_PHASE_COMPUTE);
    assert_true(behind == 10);
    p[0] = p[1] = pace(0, 0, 0, 0);
    td_balance_scores(p, 2, scores);
    assert_true(scores[0] == 1 && scores[1] == 1);
}

/* Against every deal of 9 leaves to 3 ranks. */
static void no_other_deal_is_faster(void **state)
{
    (void)state;
    const int now[4] = {0, 3, 6, 9};
    for (int seed = 1; seed < 200; seed++) {
        td_pace p[3];
        td_cost costs[3];
        int bounds[4];
        for (int r = 0; r < 3; r++) {
            p[r] = pace(seed * (r + 3) % 7, 1 + seed * (r + 1) % 11, r, seed % (r + 2));
            costs[r] = td_balance_cost(&p[r], 3);
        }
        bool better = td_balance_deal(costs, 3, now, bounds);
        assert_true(bounds[0] == 0 && bounds[3] == 9);
        double dealt = 0, best = 1e9, as_is = 0;
        for (int a = 1; a <= 7; a++)
            for (int b = 1; a + b <= 8; b++) {
                int n[3] = {a, b, 9 - a - b};
                double most = 0;
                for (int r = 0; r < 3; r++) {
                    double each = (p[r].seconds[0] + p[r].seconds[1]) / 3;
                    most = fmax(most, each * n[r] + p[r].seconds[2] + p[r].seconds[4]);
                }
                if (a == bounds[1] && a + b == bounds[2]) dealt = most;
                if (a == 3 && b == 3) as_is = most;
                best = fmin(best, most);
            }
        assert_true(fabs(dealt - (better ? best : as_is)) < 1e-12);
        assert_true(better == (best < 0.9 * as_is));
    }
}

static void one_of_four_at_half_speed_costs_a_fifth(void **state)
{
    (void)state;
    td_cost costs[4] = {{1, 0}, {1, 0}, {2, 0}, {1, 0}};
    const int now[5] = {0, 4, 8, 12, 16};
    int bounds[5];
    assert_true(td_balance_deal(costs, 4, now, bounds));
    assert_int_equal(bounds[3] - bounds[2], 2);
    for (int r = 0; r < 4; r++) assert_true(bounds[r + 1] - bounds[r] <= 5);
    costs[2] = costs[0];
    assert_false(td_balance_deal(costs, 4, now, bounds));
    assert_memory_equal(bounds, now, sizeof bounds);
}

/* Of five costs two may say anything; of an even number the two in the middle are halved. */
static void odd_costs_do_not_count(void **state)
{
    (void)state;
    td_cost costs[5] = {{900, .2}, {2, .1}, {1, -7}, {3, .3}, {0, 44}};
    td_cost usual = td_balance_usual(costs, 5);
    assert_true(usual.leaf == 2 && usual.fixed == .2);
    usual = td_balance_usual(costs + 1, 4);
    assert_true(usual.leaf == 1.5 && usual.fixed == .2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_slow_rank_is_named_with_its_phase),
        cmocka_unit_test(no_other_deal_is_faster),
        cmocka_unit_test(odd_costs_do_not_count),
        cmocka_unit_test(one_of_four_at_half_speed_costs_a_fifth),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
