/* The tree sum: the same bits for every number of ranks, lanes and (pretended) hosts. */
#include "comm/ranks_test.h"

#include "base/rng.h"
#include "comm/treesum_impl.h"

enum { FLOATS = 4099, STEPS = 3, MOST_LEAVES = 33 };

static float table[STEPS][MOST_LEAVES][FLOATS]; /* filled before any rank runs */

static void fill_table(void)
{
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < sizeof table / sizeof(float); i++)
        (&table[0][0][0])[i] = td_rng_normal(&rng);
}

static const float *leaf_array(int step, int leaf)
{
    return table[step][leaf];
}

static void serial(int step, int leaves, float *out)
{
    int *merges = td_calloc((size_t)leaves, sizeof *merges);
    const float *g[64];
    for (int l = 0; l < leaves; l++) g[l] = leaf_array(step, l);
    td_tree_merges(leaves, 0, leaves, merges);
    td_tree_fold(g, merges, leaves, 0, FLOATS, out);
    td_free(merges);
}

static void fill_lane(td_treesum *ts, int lane, int step, int leaves)
{
    int begin, end, merges[64];
    float *outs[64];
    const float *g[64];
    td_treesum_lane_leaves(ts, lane, &begin, &end);
    for (int l = begin; l < end; l++) {
        g[l - begin] = leaf_array(step, l);
        td_treesum_leaf(ts, l)[0] = l + step;
        td_treesum_leaf(ts, l)[1] = 1;
    }
    for (int k = 0; k < td_treesum_nodes(ts, lane); k++) outs[k] = td_treesum_node(ts, lane, k);
    td_tree_merges(leaves, begin, end, merges);
    if (end > begin) td_tree_fold_to(g, merges, end - begin, 0, FLOATS, outs);
}

/* Posts the step's ranges: a few large ones, or many of any size. */
static td_status post_ranges(td_treesum *ts, bool many)
{
    if (many) {
        size_t lo = 0;
        for (size_t k = 1; lo < FLOATS; k++) {
            size_t hi = lo + 17 * k < FLOATS ? lo + 17 * k : FLOATS;
            TD_TRY(td_treesum_post(ts, lo, hi));
            if (k % 3 == 0) TD_TRY(td_treesum_progress(ts));
            lo = hi;
        }
        return TD_OK;
    }
    TD_TRY(td_treesum_post(ts, 2000, FLOATS));
    TD_TRY(td_treesum_progress(ts));
    TD_TRY(td_treesum_post(ts, 1999, 2000));
    return td_treesum_post(ts, 0, 1999);
}

/* Each rank one leaf, and the rest where the seed says. */
static void deal_unevenly(int leaves, int ranks, int seed, int *bounds)
{
    int more[MOST_LEAVES] = {0};
    for (int l = ranks; l < leaves; l++) more[(l * 7 + seed) * seed % ranks]++;
    bounds[0] = 0;
    for (int r = 0; r < ranks; r++) bounds[r + 1] = bounds[r] + 1 + more[r];
}

static td_status treesum_of(td_comm *c, int leaves, int lanes, int seed)
{
    td_treesum *ts;
    int bounds[MOST_LEAVES + 1];
    td_treesum_config config = {.leaves = leaves,
                                .lanes = lanes,
                                .count = FLOATS,
                                .leaf_values = 2,
                                .bounds = seed ? bounds : NULL};
    deal_unevenly(leaves, td_comm_size(c), seed, bounds);
    TD_TRY(td_treesum_create(c, &config, &ts));
    float *want = td_malloc(FLOATS * sizeof *want);
    for (int step = 0; step < STEPS; step++) {
        for (int lane = 0; lane < lanes; lane++) fill_lane(ts, lane, step, leaves);
        TD_TRY(post_ranges(ts, step == 1));
        TD_TRY(td_treesum_wait(ts));
        serial(step, leaves, want);
        CHECK(!memcmp(td_treesum_sum(ts), want, FLOATS * sizeof *want));
        CHECK(td_treesum_leaf_sums(ts)[0] == leaves * (leaves - 1) / 2 + leaves * step);
        CHECK(td_treesum_leaf_sums(ts)[1] == leaves);
    }
    CHECK(td_treesum_post(ts, 0, FLOATS + 1) == TD_ERR_ARG);
    CHECK(td_treesum_node_id(ts, lanes - 1, 0).level >= 0);
    CHECK((td_treesum_get_times(ts).bytes_sent > 0) <= (td_comm_hosts(c) > 1));
    td_free(want);
    td_treesum_destroy(ts);
    return TD_OK;
}

static td_status treesums(td_comm *c, void *arg)
{
    (void)arg;
    static const int leaves[] = {1, 2, 3, 5, 7, 16, 33};
    int seeds = getenv("TANDEM_TEST_SHORT") ? 2 : 4;
    for (size_t k = 0; k < sizeof leaves / sizeof *leaves; k++)
        for (int lanes = 1; lanes <= 3; lanes++)
            for (int seed = 0; seed < seeds && leaves[k] >= td_comm_size(c); seed++)
                TD_TRY(treesum_of(c, leaves[k], lanes, seed));
    td_treesum *ts;
    td_treesum_config config = {.leaves = 1, .lanes = 1, .count = 1};
    if (td_comm_size(c) > 1) {
        CHECK(td_treesum_create(c, &config, &ts) == TD_ERR_ARG);
        CHECK(strstr(td_last_error(), "more than the 1 leaves"));
        int bounds[MOST_LEAVES] = {0};
        config.leaves = td_comm_size(c), config.bounds = bounds;
        CHECK(td_treesum_create(c, &config, &ts) == TD_ERR_ARG);
        CHECK(strstr(td_last_error(), "gets leaves 0 to 0"));
        for (int r = 0; r <= td_comm_size(c); r++) bounds[r] = r;
        if (td_comm_rank(c) == 0) config.bounds = NULL;
        CHECK(td_treesum_create(c, &config, &ts) == TD_ERR_ARG);
        CHECK(strstr(td_last_error(), "deals other leaves"));
    }
    return TD_OK;
}

static td_status one_fails_in_treesum(td_comm *c, void *arg)
{
    (void)arg;
    td_treesum *ts;
    td_treesum_config config = {.leaves = 8, .lanes = 1, .count = 100};
    TD_TRY(td_treesum_create(c, &config, &ts));
    td_status status = TD_OK;
    if (td_comm_rank(c) == 2) {
        status = td_fail(TD_ERR_NOMEM, "no memory left");
    } else {
        CHECK(td_treesum_post(ts, 0, 100) == TD_OK);
        status = td_treesum_wait(ts);
        CHECK(status == TD_ERR_PEER);
    }
    td_treesum_destroy(ts);
    return status;
}

static td_status one_sleeps_in_treesum(td_comm *c, void *arg)
{
    (void)arg;
    td_treesum *ts;
    td_treesum_config config = {.leaves = 8, .lanes = 1, .count = 100};
    TD_TRY(td_treesum_create(c, &config, &ts));
    td_status status = TD_OK;
    if (td_comm_rank(c) == 1) nanosleep(&(struct timespec){.tv_nsec = 600000000}, NULL);
    if (td_comm_rank(c) == 0) {
        status = td_treesum_post(ts, 0, 100);
        if (status == TD_OK) status = td_treesum_wait(ts);
    }
    td_treesum_destroy(ts);
    return status;
}

/* Warm steps allocate nothing. */
static td_status counted(td_comm *c, void *arg)
{
    (void)arg;
    td_treesum *ts;
    td_treesum_config config = {.leaves = 11, .lanes = 2, .count = 5000, .leaf_values = 1};
    TD_TRY(td_treesum_create(c, &config, &ts));
    for (int step = 0; step < 20; step++) {
        if (step == 5) {
            TD_TRY(td_comm_barrier(c));
            td_alloc_fail_at(0);
            TD_TRY(td_comm_barrier(c));
        }
        TD_TRY(td_treesum_post(ts, 0, 3000));
        TD_TRY(td_treesum_post(ts, 3000, 5000));
        TD_TRY(td_treesum_wait(ts));
    }
    CHECK(td_alloc_count() == 0);
    TD_TRY(td_comm_barrier(c));
    td_treesum_destroy(ts);
    return TD_OK;
}

/* A rank fails, the others see it, nobody hangs; a rank is late and is named. */
static void failures_end_the_wait(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_comm_config quick = {.deadline_ms = 200};
    const char *hosts[] = {NULL, "0,0,1", "0,1,2"};
    for (int k = 0; k < 3; k++) {
        if (hosts[k]) setenv("TANDEM_FAKE_HOSTS", hosts[k], 1);
        assert_fails(TD_ERR_NOMEM, "no memory left",
                     td_comm_run_local(3, NULL, one_fails_in_treesum, NULL));
        assert_fails(TD_ERR_TIMEOUT, "200 ms for rank 1 in tree sum (operation ",
                     td_comm_run_local(2, &quick, one_sleeps_in_treesum, NULL));
    }
    unsetenv("TANDEM_FAKE_HOSTS");
}

static td_status make_sum(td_comm *c, int step, td_treesum **out)
{
    td_treesum_config config = {.leaves = 16, .lanes = 1, .count = FLOATS, .leaf_values = 2};
    TD_TRY(td_treesum_create(c, &config, out));
    fill_lane(*out, 0, step, 16);
    return TD_OK;
}

/* Some ranks have begun a sum when it is given up: nothing of it reaches another group's. */
static td_status given_up(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *g;
    td_treesum *ts;
    float *want = td_calloc(FLOATS, sizeof *want);
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &g));
    TD_TRY(make_sum(g, 0, &ts));
    if (td_comm_rank(c) % 2 == 0) TD_TRY(td_treesum_post(ts, 0, 64));
    for (int k = 0; k < 100; k++) TD_TRY(td_treesum_progress(ts));
    TD_TRY(td_comm_barrier(c));
    td_treesum_destroy(ts);
    td_comm_close(g);
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &g));
    TD_TRY(make_sum(g, 1, &ts));
    TD_TRY(td_treesum_post(ts, 0, 64));
    TD_TRY(td_treesum_post(ts, 64, FLOATS));
    TD_TRY(td_treesum_wait(ts));
    serial(1, 16, want);
    CHECK(!memcmp(want, td_treesum_sum(ts), FLOATS * sizeof *want));
    td_treesum_destroy(ts);
    td_comm_close(g);
    td_free(want);
    return TD_OK;
}

static void what_is_given_up_reaches_no_later_sum(void **state)
{
    (void)state;
    on_all_sizes(given_up, NULL);
}

/* Rank 0 gives up a long sum that it has sent its part of, and the others take that all the same.
 */
static td_status fetched_late(td_comm *c, void *arg)
{
    enum { LONG = 1 << 22 };
    (void)arg;
    td_treesum_config config = {.leaves = 16, .lanes = 1, .count = LONG};
    td_comm *g;
    td_treesum *ts;
    bool first = td_comm_rank(c) == 0;
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &g));
    TD_TRY(td_treesum_create(g, &config, &ts));
    for (int k = 0; k < td_treesum_nodes(ts, 0); k++)
        memset(td_treesum_node(ts, 0, k), 0, LONG * sizeof(float));
    if (first) TD_TRY(td_treesum_post(ts, 0, LONG));
    for (int k = 0; k < 100 && first; k++) TD_TRY(td_treesum_progress(ts));
    if (first) td_treesum_destroy(ts);
    TD_TRY(td_comm_barrier(c));
    if (!first) TD_TRY(td_treesum_post(ts, 0, LONG));
    td_status status = TD_OK;
    for (int k = 0; k < 300; k++) {
        if (!first && status == TD_OK) status = td_treesum_progress(ts);
        TD_TRY(td_comm_barrier(c)); /* rank 0's messages move on meanwhile */
    }
    if (!first) td_treesum_destroy(ts);
    td_comm_close(g);
    TD_TRY(td_comm_barrier(c));
    return status;
}

static void what_is_given_up_may_be_fetched_late(void **state)
{
    (void)state;
    if (!mpi_world || mpi_world->hosts < 2 || td_comm_size(mpi_world) != mpi_world->hosts)
        skip(); /* threads withdraw; within a host nothing is sent */
    assert_ok(td_comm_agree(mpi_world, fetched_late(mpi_world, NULL)));
}

static void sums_do_not_know_the_number_of_ranks(void **state)
{
    (void)state;
    on_all_sizes(treesums, NULL);
}

static void sums_do_not_know_the_hosts(void **state)
{
    (void)state;
    if (mpi_world) skip(); /* the environment says it there */
    static const char *const hosts[] = {"0,0,1,1", "0,0,0,1", "0,1,1,1,2,2", "0,1,0,1",
                                        "0,1,2,3,4,5,6,7"};
    size_t step = getenv("TANDEM_TEST_SHORT") ? 2 : 1; /* under sanitizers */
    for (size_t k = 0; k < sizeof hosts / sizeof *hosts; k += step) {
        setenv("TANDEM_FAKE_HOSTS", hosts[k], 1);
        on_all_sizes(treesums, NULL);
    }
    unsetenv("TANDEM_FAKE_HOSTS");
}

static void warm_steps_allocate_nothing(void **state)
{
    (void)state;
    on_all_sizes(counted, NULL);
}

/* What is cut for many ranks fits the room that is kept for it. */
static void cuts_are_even(void **state)
{
    (void)state;
    for (size_t n = 0; n < 5000; n += 37)
        for (int parts = 1; parts < 300; parts += 7) {
            assert_int_equal(td_treesum_cut(3, 3 + n, parts, 0), 3);
            for (int p = 0; p < parts; p++) {
                size_t lo = td_treesum_cut(3, 3 + n, parts, p);
                size_t hi = td_treesum_cut(3, 3 + n, parts, p + 1);
                assert_true(lo <= hi && hi - lo <= n / (size_t)parts + 16);
            }
            assert_int_equal(td_treesum_cut(3, 3 + n, parts, parts), 3 + n);
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cuts_are_even),
        cmocka_unit_test(sums_do_not_know_the_number_of_ranks),
        cmocka_unit_test(sums_do_not_know_the_hosts),
        cmocka_unit_test(warm_steps_allocate_nothing),
        cmocka_unit_test(failures_end_the_wait),
        cmocka_unit_test(what_is_given_up_reaches_no_later_sum),
        cmocka_unit_test(what_is_given_up_may_be_fetched_late),
    };
    fill_table();
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
