/* Who works, serves and reads: dealt anew for every mixture of parts and every wish, and beside
 * ranks that are lost and come while parts change. */
#include "train/rows_roles.h"

#include "comm/ranks_test.h"
#include "comm/transport.h"
#include "tandem/recover.h"

/* --- as a function --- */

/* A letter for each rank: 0-9 works under that number, as b to k do that serve, too; S(erves),
 * D: reads, x: has come, without a part; ': the one before has the training data. */
static int read_roles(const char *text, td_role *role)
{
    int n = 0;
    for (; *text; text++) {
        if (*text == '\'') {
            role[n - 1].reads = true;
            continue;
        }
        bool both = *text >= 'b' && *text <= 'k';
        role[n] = (td_role){.slot = both ? *text - 'b' : -1, .known = true};
        if (*text >= '0' && *text <= '9') role[n].slot = *text - '0';
        role[n].serves = both || *text == 'S';
        role[n++].feeds = *text == 'D';
    }
    return n;
}

static void assert_deal(const char *now, td_role_counts want, const char *then, int workers)
{
    td_role role[16], out[16], right[16];
    td_role_counts counts;
    int n = read_roles(now, role);
    assert_int_equal(read_roles(then, right), n);
    td_roles_plan(role, n, &want, out, &counts);
    for (int r = 0; r < n; r++) {
        right[r].reads = role[r].reads;
        assert_memory_equal(&out[r], &right[r], sizeof out[r]);
    }
    assert_int_equal(counts.workers, workers);
}

static void parts_stay_where_they_can(void **state)
{
    (void)state;
    assert_deal("01SS", (td_role_counts){2, 2, 0}, "01SS", 2);
    assert_deal("01SSx", (td_role_counts){2, 3, 0}, "01SSS", 2);
    assert_deal("01SSx", (td_role_counts){3, 2, 0}, "01SS2", 3);
    assert_deal("012SS", (td_role_counts){2, 2, 0}, "01xSS", 2);
    assert_deal("01SSS", (td_role_counts){2, 2, 0}, "01SSx", 2);
    assert_deal("012SS", (td_role_counts){2, 3, 0}, "01SSS", 2);
    assert_deal("01SSS", (td_role_counts){4, 1, 0}, "01S23", 4);
    /* Numbers close up, whoever has died; rank 0 stays. */
    assert_deal("42S1", (td_role_counts){3, 1, 0}, "21S0", 3);
    assert_deal("42S1", (td_role_counts){2, 1, 0}, "1xS0", 2);
    assert_deal("x0S", (td_role_counts){1, 1, 0}, "0xS", 1);
    assert_deal("SS01", (td_role_counts){2, 1, 0}, "Sx01", 2);
    /* All serve, or some alone. */
    assert_deal("bcde", (td_role_counts){2, 2, 0}, "01SS", 2);
    assert_deal("01SS", (td_role_counts){4, 0, 0}, "bcde", 4);
    assert_deal("01SS", (td_role_counts){2, 0, 0}, "bcxx", 2);
    assert_deal("S01", (td_role_counts){2, 0, 0}, "cbx", 2);
    /* Who has not the data cannot read, and works. */
    assert_deal("01SD'x'", (td_role_counts){2, 1, 2}, "01SDD", 2);
    assert_deal("01SD'x'", (td_role_counts){1, 1, 2}, "0xSDD", 1);
    assert_deal("01SD'", (td_role_counts){1, 1, 2}, "01SD", 2);
    assert_deal("0'1'SD'", (td_role_counts){1, 1, 2}, "0DSD", 1);
    assert_deal("01SD'D'", (td_role_counts){3, 1, 1}, "01SD2", 3);
    /* Too few ranks: what there is of each part stays. */
    assert_deal("01SS", (td_role_counts){4, 3, 0}, "01SS", 2);
    assert_deal("01SSx", (td_role_counts){4, 3, 1}, "01SSS", 2);
    assert_deal("b", (td_role_counts){1, 1, 0}, "b", 1);
}

/* What holds of every deal: as many as wanted where there are enough, numbers from 0 without gaps,
 * rank 0 with a part, nobody with two (but where all serve), and a second deal changes nothing. */
static void check_deal(const td_role *now, int n, td_role_counts want)
{
    td_role out[8], again[8];
    td_role_counts counts, twice;
    int works = 0, serves = 0, feeds = 0, numbers = 0, kept = 0;
    td_roles_plan(now, n, &want, out, &counts);
    for (int r = 0; r < n; r++) {
        works += out[r].slot >= 0, serves += out[r].serves, feeds += out[r].feeds;
        if (out[r].slot >= 0) numbers |= 1 << out[r].slot;
        if (counts.servers) assert_true((out[r].slot >= 0) + out[r].serves + out[r].feeds <= 1);
        if (!counts.servers) assert_true(out[r].serves == (out[r].slot >= 0));
        kept += now[r].slot >= 0 && out[r].slot >= 0;
    }
    assert_int_equal(works, counts.workers);
    assert_int_equal(numbers, (1 << works) - 1);
    assert_false(td_role_is_idle(&out[0]));
    assert_true(works >= 1 && serves >= 1);
    if (want.workers + want.servers + want.feeders <= n) {
        assert_int_equal(works, want.workers);
        assert_int_equal(feeds, want.feeders);
        if (want.servers) assert_int_equal(serves, want.servers);
    }
    int had = 0;
    for (int r = 0; r < n; r++) had += now[r].slot >= 0;
    assert_true(kept >= (had < want.workers ? had : want.workers) - 1); /* rank 0 may come ahead */
    td_roles_plan(out, n, &want, again, &twice);
    assert_memory_equal(again, out, (size_t)n * sizeof *out);
    assert_memory_equal(&twice, &counts, sizeof counts);
}

static void every_deal_is_sound(void **state)
{
    enum { KINDS = 4, MOST = 6 };
    (void)state;
    for (int n = 1; n <= MOST; n++) {
        int mixtures = 1;
        for (int r = 0; r < n; r++) mixtures *= KINDS;
        for (int m = 0; m < mixtures; m++) {
            td_role role[MOST];
            int at = m, slot = 0, servers = 0;
            for (int r = 0; r < n; r++, at /= KINDS) {
                role[r] = (td_role){.slot = -1, .known = true, .reads = true};
                if (at % KINDS == 0)
                    role[r].slot = 7 - slot, slot += 2 - (slot > 4); /* with gaps */
                role[r].serves = at % KINDS == 1, role[r].feeds = at % KINDS == 2;
                servers += role[r].serves;
            }
            if (!slot) continue; /* no run goes on so */
            for (int r = 0; r < n && !servers; r++) role[r].serves = role[r].slot >= 0;
            for (int w = 1; w <= n; w++)
                for (int s = 0; s <= 2; s++)
                    for (int f = 0; f <= 2; f++) check_deal(role, n, (td_role_counts){w, s, f});
        }
    }
}

/* --- in a group --- */

/* Some have gone over to the next deal when a rank is lost, others have just learnt of it: all are
 * of it in the next group, and the spare that comes takes the part that is missing by it. */
static td_status some_have_gone_over(td_comm *c, void *arg)
{
    static const td_role_counts first = {2, 2, 0}, want = {1, 3, 0};
    const int *victim = arg;
    bool joined = td_comm_joined(c, td_comm_rank(c));
    td_roles roles = {.now = {.counts = first, .own = {.slot = -1, .reads = true}}};
    td_comm *next = NULL;
    td_status status = TD_OK;
    if (!joined) {
        td_role out[4];
        td_role_counts counts;
        status = td_roles_take(&roles, c, false);
        if (status == TD_OK) {
            td_roles_plan(roles.role, 4, &want, out, &counts);
            td_roles_learn(&roles, out, &counts, 77);
            status = td_comm_agree(c, TD_OK);
        }
        if (status == TD_OK && td_comm_rank(c) % 2) td_roles_go_over(&roles);
        if (status == TD_OK && td_comm_rank(c) == *victim) {
            td_comm_die(c);
            td_roles_free(&roles);
            return TD_ERR_PEER;
        }
        while (status == TD_OK) status = td_comm_barrier(c);
        status = status == TD_ERR_PEER ? td_comm_recover(c, NULL, &next, NULL) : status;
    }
    td_comm *now = joined ? c : next;
    if (status == TD_OK) status = td_roles_take(&roles, now, joined);
    if (status == TD_OK && (roles.working != 1 || roles.server_count != 3 || roles.now.era != 1 ||
                            roles.now.step != 77 || roles.now.counts.servers != 3))
        status = td_fail(TD_ERR_INTERNAL, "rank %d: %d workers, %d servers, era %d",
                         td_comm_rank(now), roles.working, roles.server_count, roles.now.era);
    td_roles_free(&roles);
    td_comm_close(next);
    return status;
}

static void all_are_of_one_era(void **state)
{
    (void)state;
    for (int victim = 0; victim < 4; victim++)
        assert_ok(
            td_comm_run_local(5, &(td_comm_config){.spares = 1}, some_have_gone_over, &victim));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_stay_where_they_can),
        cmocka_unit_test(every_deal_is_sound),
        cmocka_unit_test(all_are_of_one_era),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
