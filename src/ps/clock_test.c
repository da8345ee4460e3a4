/* Clocks and slices: what may be read is checked against the definitions on random histories. */
#include "ps/clock.h"

#include "base/rng.h"
#include "base/test.h"
#include "ps/slices.h"

#include <string.h>

enum { WORKERS = 6 };

static td_clock parsed(const char *text)
{
    td_clock c;
    assert_ok(td_clock_parse(text, &c));
    return c;
}

static void clocks_are_read_and_written(void **state)
{
    (void)state;
    static const char *const good[] = {"bsp",      "ssp:0",          "ssp:7",       "asp",
                                       "backup:3", "backup:2:apply", "groups:2:1:4"};
    static const char *const bad[] = {"",           "BSP",          "bsp:1",         "ssp",
                                      "ssp:",       "ssp:-1",       "ssp:1x",        "asp:2",
                                      "backup",     "backup:0",     "backup:2:drop", "groups:2",
                                      "groups:2:1", "groups:0:1:2", "groups:2:4:1",  "ssp:99999999",
                                      "bspx"};
    for (size_t k = 0; k < sizeof good / sizeof *good; k++) {
        char text[TD_CLOCK_TEXT];
        td_clock c = parsed(good[k]);
        td_clock_text(&c, text);
        assert_string_equal(text, good[k]);
    }
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        td_clock c;
        if (td_clock_parse(bad[k], &c) != TD_ERR_ARG) fail_msg("\"%s\" is taken", bad[k]);
    }
    td_clock backup = parsed("backup:5"), exact = parsed("ssp:0"), loose = parsed("ssp:1");
    assert_int_equal(td_clock_check(&backup, 4), TD_ERR_ARG);
    assert_int_equal(td_clock_check(&backup, 5), TD_OK);
    assert_true(td_clock_is_exact(&exact) && !td_clock_is_exact(&loose));
}

/* The definitions, word by word. */
static bool allowed(const td_clocks *k, int worker, uint64_t clock)
{
    int there = 0, left = 0;
    bool all = true, own = true;
    for (int w = 0; w < WORKERS; w++) {
        if (k->gone[w]) continue;
        left++;
        there += k->pushed[w] >= clock;
        uint64_t loose = k->clock.kind == TD_CLOCK_GROUPS ? k->clock.between : k->clock.bound;
        all = all && k->pushed[w] + loose >= clock;
        if (k->group[w] == k->group[worker]) own = own && k->pushed[w] + k->clock.bound >= clock;
    }
    switch (k->clock.kind) {
    case TD_CLOCK_ASP: return true;
    case TD_CLOCK_BACKUP: return there >= (k->clock.count < left ? k->clock.count : left);
    case TD_CLOCK_GROUPS: return all && own;
    case TD_CLOCK_BSP:
    case TD_CLOCK_SSP: break;
    }
    return all;
}

static void pulls_wait_as_their_clock_says(void **state)
{
    (void)state;
    static const char *const clocks[] = {"bsp",      "ssp:0",          "ssp:3",       "asp",
                                         "backup:4", "backup:6:apply", "groups:2:1:3"};
    for (size_t c = 0; c < sizeof clocks / sizeof *clocks; c++) {
        td_clock clock = parsed(clocks[c]);
        td_clocks k;
        td_rng rng;
        uint64_t waited = 0;
        assert_ok(td_clocks_init(&k, &clock, WORKERS));
        td_rng_init(&rng, 3, TD_RNG_TEST, c, 0);
        for (int w = 0; w < WORKERS && clock.kind == TD_CLOCK_GROUPS; w++) k.group[w] = w % 2;
        for (int event = 0; event < 4000; event++) {
            int w = (int)td_rng_below(&rng, WORKERS);
            if (event == 3000) k.gone[2] = true;
            if (k.gone[w]) continue;
            bool may = td_clocks_may_pull(&k, w, k.pushed[w]);
            assert_int_equal(may, allowed(&k, w, k.pushed[w]));
            if (!may) {
                waited++;
                continue;
            }
            uint64_t was = k.pushed[w], slowest = td_clocks_slowest(&k);
            if (clock.kind == TD_CLOCK_SSP)
                assert_true(td_clocks_staleness(&k, was) <= clock.bound);
            td_clocks_push(&k, w, was, 0);
            td_clocks_push(&k, w, was, 0); /* repeated */
            assert_int_equal(k.pushed[w], was + 1);
            assert_true(td_clocks_slowest(&k) >= slowest);
        }
        assert_int_equal(waited > 0, clock.kind != TD_CLOCK_ASP);
        td_clocks_fini(&k);
    }
}

static void late_pushes_are_dropped_or_applied(void **state)
{
    (void)state;
    td_clock drop = parsed("backup:2"), apply = parsed("backup:2:apply");
    td_clocks k;
    assert_ok(td_clocks_init(&k, &drop, 3));
    assert_true(td_clocks_may_push(&k, 0));
    td_clocks_push(&k, 0, 0, 0);
    assert_true(td_clocks_may_push(&k, 0));
    td_clocks_push(&k, 2, 0, 0); /* two have come: step 0 is over */
    assert_int_equal(td_clocks_over(&k), 1);
    assert_false(td_clocks_may_push(&k, 0));
    assert_true(td_clocks_may_push(&k, 1));
    k.clock = apply;
    assert_true(td_clocks_may_push(&k, 0));
    td_clocks_fini(&k);
}

/* Who holds the last shard of an epoch goes on without those who got none, and its push counts. */
static void who_has_gone_is_not_waited_for(void **state)
{
    (void)state;
    const char *const clocks[] = {"ssp:1", "backup:2", "groups:2:1:3"};
    for (size_t c = 0; c < sizeof clocks / sizeof *clocks; c++) {
        td_clock clock = parsed(clocks[c]);
        td_clocks k;
        assert_ok(td_clocks_init(&k, &clock, 4));
        for (uint64_t at = 0; at < 5; at++) td_clocks_push(&k, 2, at, 0);
        assert_false(td_clocks_may_pull(&k, 2, 5));
        k.gone[0] = k.gone[1] = k.gone[3] = true;
        assert_true(td_clocks_may_pull(&k, 2, 5));
        assert_true(td_clocks_may_push(&k, 5));
        assert_int_equal(td_clocks_over(&k), 5);
        td_clocks_fini(&k);
    }
    /* What was over stays over for one that is late: it may have gone on by that. */
    td_clock clock = parsed("backup:2");
    td_clocks k;
    assert_ok(td_clocks_init(&k, &clock, 4));
    for (int w = 1; w < 4; w++) td_clocks_push(&k, w, 8, 0);
    assert_int_equal(td_clocks_over(&k), 9);
    k.gone[1] = k.gone[2] = true;
    assert_int_equal(td_clocks_over(&k), 9);
    assert_true(td_clocks_may_pull(&k, 0, 9));
    td_clocks_fini(&k);
}

static void workers_are_grouped_by_pace(void **state)
{
    (void)state;
    const double pace[] = {1.0, 4.0, 1.1, 9.0, 4.2, 0.9};
    int group[6];
    td_clock_group(pace, 6, 3, group);
    const int want[] = {0, 1, 0, 2, 1, 0};
    assert_memory_equal(group, want, sizeof want);
    td_clock_group(pace, 6, 1, group);
    for (int w = 0; w < 6; w++) assert_int_equal(group[w], 0);
    const double same[] = {2, 2, 2};
    td_clock_group(same, 3, 3, group); /* one each */
    assert_true(group[0] != group[1] && group[1] != group[2] && group[0] != group[2]);
}

/* --- slices --- */

static void check_map(const td_slices *s, const int *server, int count, int replicas)
{
    int primaries[8] = {0}, least = TD_SLICES, most = 0;
    for (int k = 0; k < TD_SLICES; k++) {
        int p = -1, b = -1;
        for (int v = 0; v < count; v++) {
            if (server[v] == s->primary[k]) p = v;
            if (server[v] == s->backup[k]) b = v;
        }
        assert_true(p >= 0);
        assert_int_equal(b >= 0, replicas && count > 1);
        assert_int_not_equal(p, b);
        primaries[p]++;
    }
    for (int v = 0; v < count; v++) {
        if (primaries[v] < least) least = primaries[v];
        if (primaries[v] > most) most = primaries[v];
    }
    assert_true(most - least <= 1);
}

static void slices_survive_servers(void **state)
{
    (void)state;
    const int all[] = {3, 5, 6, 9}, left[] = {3, 6, 9}, other[] = {3, 6, 9, 12}, two[] = {6, 12};
    td_slices s, t;
    td_slices_deal(&s, 0, all, 4, 1);
    check_map(&s, all, 4, 1);
    assert_ok(td_slices_repair(&s, left, 3, 1, &t));
    check_map(&t, left, 3, 1);
    for (int k = 0; k < TD_SLICES;
         k++) /* who has a slice now had it, or gets it from one who had */
        assert_true(s.primary[k] != 5 || s.backup[k] >= 0);
    assert_ok(td_slices_repair(&t, other, 4, 1, &s));
    check_map(&s, other, 4, 1);
    assert_int_equal(td_slices_repair(&s, two, 1, 1, &t), TD_ERR_PEER); /* 6 alone */
    td_slices_deal(&s, 0, all, 4, 0);
    check_map(&s, all, 4, 0);
    assert_int_equal(td_slices_repair(&s, left, 3, 0, &t), TD_ERR_PEER);
    assert_ok(td_slices_repair(&s, all, 4, 1, &t)); /* replicas are asked for later */
    check_map(&t, all, 4, 1);
}

/* Who is asked first has all of a slice, nobody has fewer copies of one than before, and in the end
 * all is as the map has it. */
static void check_way(const td_slices *before, const td_slices *after, int *copied)
{
    td_slices first, now;
    td_slices_serve_first(before, after, &first, &now);
    for (int k = 0; k < TD_SLICES; k++) {
        int had = (before->primary[k] >= 0) + (before->backup[k] >= 0);
        int has = (first.primary[k] >= 0) + (first.backup[k] >= 0);
        bool behind = first.backup[k] != now.backup[k];
        assert_true(has >= had || has == 1 + (after->backup[k] >= 0));
        assert_int_equal(first.primary[k], now.primary[k]);
        assert_true(td_slices_has(after, k, now.primary[k]));
        assert_true(after->backup[k] < 0 || td_slices_has(after, k, now.backup[k]));
        assert_true(now.primary[k] != now.backup[k]);
        if (behind) assert_true(td_slices_has(before, k, now.primary[k]) && had == 1);
        if (!behind) assert_true(first.primary[k] == after->primary[k]);
        *copied += behind;
    }
}

static void slices_serve_before_they_are_copied(void **state)
{
    (void)state;
    const int all[] = {3, 5, 6, 9}, left[] = {3, 6, 9}, other[] = {3, 6, 9, 12};
    td_slices s, t, there;
    int copied = 0, of_five = 0;
    td_slices_deal(&s, 0, all, 4, 1);
    there = s;
    for (int k = 0; k < TD_SLICES; k++) {
        if (s.primary[k] == 5) there.primary[k] = -1;
        if (s.backup[k] == 5) there.backup[k] = -1;
        of_five += td_slices_has(&s, k, 5);
    }
    assert_ok(td_slices_repair(&s, left, 3, 1, &t));
    check_way(&there, &t, &copied);
    assert_int_equal(copied, of_five);
    copied = 0;
    assert_ok(td_slices_repair(&s, other, 4, 1, &t));
    check_map(&t, other, 4, 1);
    check_way(&there, &t, &copied);
    assert_int_equal(copied, of_five);
    td_slices_deal(&s, 0, left, 3, 1); /* nobody has died: all moves ahead */
    copied = 0;
    assert_ok(td_slices_repair(&s, other, 4, 1, &t));
    check_way(&s, &t, &copied);
    assert_int_equal(copied, 0);
    td_slices_deal(&s, 0, left, 3, 0); /* copies are asked for later */
    assert_ok(td_slices_repair(&s, left, 3, 1, &t));
    check_way(&s, &t, &copied);
    assert_int_equal(copied, TD_SLICES);
    td_slices_deal(&t, 0, (int[]){12}, 1, 0); /* to who had none of it */
    copied = 0;
    check_way(&s, &t, &copied);
    assert_int_equal(copied, 0);
}

static void keys_spread_over_slices(void **state)
{
    (void)state;
    const int one[] = {0};
    td_slices sparse, dense;
    int seen[TD_SLICES] = {0};
    td_slices_deal(&sparse, 0, one, 1, 0);
    td_slices_deal(&dense, 1000, one, 1, 0);
    for (uint64_t key = 0; key < 256000; key++) seen[td_slice_of(&sparse, key * 64)]++;
    for (int k = 0; k < TD_SLICES; k++) assert_in_range(seen[k], 800, 1200);
    for (uint64_t key = 1; key < 1000; key++)
        assert_true(td_slice_of(&dense, key) >= td_slice_of(&dense, key - 1));
    assert_int_equal(td_slice_of(&dense, 999), TD_SLICES - 1);
}

static void hot_slices_are_moved(void **state)
{
    (void)state;
    const int all[] = {0, 1, 2};
    double load[TD_SLICES], has[3] = {0};
    td_slices s, t;
    td_slices_deal(&s, 0, all, 3, 1);
    for (int k = 0; k < TD_SLICES; k++) load[k] = s.primary[k] == 1 ? 10 : 1;
    assert_true(td_slices_balance(&s, load, all, 3, &t) > 0);
    for (int k = 0; k < TD_SLICES; k++) {
        has[t.primary[k]] += load[k];
        assert_int_not_equal(t.primary[k], t.backup[k]);
    }
    double mean = (has[0] + has[1] + has[2]) / 3;
    for (int v = 0; v < 3; v++) assert_true(has[v] < 1.15 * mean);
    memset(load, 0, sizeof load);
    load[7] = 100; /* one slice cannot be cut: it stays where it is */
    assert_int_equal(td_slices_balance(&s, load, all, 3, &t), 0);
}

/* By what workers say that steps take them, not by how long they have waited for each other; also
 * when the first has gone, and of those that are left when the slowest has. */
static void the_slow_worker_gets_a_group(void **state)
{
    (void)state;
    td_clock clock = parsed("groups:2:1:8");
    td_clocks k;
    assert_ok(td_clocks_init(&k, &clock, 4));
    for (uint64_t at = 0; at < 20; at++)
        for (int w = 0; w < 4; w++) td_clocks_push(&k, w, at, w == 3 ? .02 : .005 + .0001 * w);
    for (int w = 0; w < 4; w++) assert_int_equal(k.group[w], w == 3);
    k.gone[0] = true;
    for (uint64_t at = 20; at < 90; at++)
        for (int w = 1; w < 4; w++) td_clocks_push(&k, w, at, w == 2 ? .05 : .005);
    for (int w = 1; w < 4; w++) assert_int_equal(k.group[w], w == 2);
    k.gone[2] = true;
    for (uint64_t at = 90; at < 140; at++)
        for (int w = 1; w < 4; w += 2) td_clocks_push(&k, w, at, w == 3 ? .01 : .005);
    assert_int_equal(k.group[1], 0);
    assert_int_equal(k.group[3], 1);
    td_clocks_fini(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(clocks_are_read_and_written),
        cmocka_unit_test(pulls_wait_as_their_clock_says),
        cmocka_unit_test(late_pushes_are_dropped_or_applied),
        cmocka_unit_test(who_has_gone_is_not_waited_for),
        cmocka_unit_test(workers_are_grouped_by_pace),
        cmocka_unit_test(the_slow_worker_gets_a_group),
        cmocka_unit_test(slices_survive_servers),
        cmocka_unit_test(slices_serve_before_they_are_copied),
        cmocka_unit_test(keys_spread_over_slices),
        cmocka_unit_test(hot_slices_are_moved),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
