/* Channels of keyed parts that end before all has been answered: see ranks_test.h. */
#include "comm/ranks_test.h"

#include "tandem/keyed.h"

/* The last rank serves: a key's part is the key. */
static td_status serve(void *user, const td_keyed_request *q)
{
    const long *ns = user;
    uint64_t *out = q->out;
    nanosleep(&(struct timespec){.tv_nsec = *ns}, NULL);
    for (size_t i = 0; i < q->count && out; i++) out[i] = q->keys[i];
    return TD_OK;
}

static td_status open_channel(td_comm *c, long *ns, td_keyed **out)
{
    int last = td_comm_size(c) - 1;
    td_keyed_config config = {.servers = &last, .server_count = 1, .width = 8};
    config.serve = serve, config.user = ns;
    return td_keyed_open(c, &config, out);
}

/* A later channel, in which nothing of earlier ones may arrive. */
static td_status later_channel(td_comm *c, uint64_t key)
{
    td_keyed *keyed;
    long ns = 0;
    uint64_t got = 0;
    td_parts parts = {.keys = &key, .count = 1, .out = &got};
    TD_TRY(open_channel(c, &ns, &keyed));
    if (td_comm_rank(c) == 0) {
        TD_TRY(td_keyed_pull(keyed, &parts));
        CHECK(got == key);
    }
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    return TD_OK;
}

/* Rank 0 has gone when the server answers. */
static td_status given_up(td_comm *c, void *arg)
{
    (void)arg;
    for (uint64_t round = 0; round < 3; round++) {
        td_keyed *keyed;
        long slow = 20000000;
        uint64_t key = round, got, ticket;
        td_parts parts = {.keys = &key, .count = 1, .out = &got};
        TD_TRY(open_channel(c, &slow, &keyed));
        if (td_comm_rank(c) == 0) {
            TD_TRY(td_keyed_start(keyed, TD_PULL, &parts, &ticket));
            td_keyed_destroy(keyed);
        }
        TD_TRY(td_comm_barrier(c));
        nanosleep(&(struct timespec){.tv_nsec = 3 * slow}, NULL);
        if (td_comm_rank(c) != 0) td_keyed_destroy(keyed);
        TD_TRY(later_channel(c, 100 + round));
    }
    return TD_OK;
}

static void an_answer_that_nobody_awaits_reaches_no_later_channel(void **state)
{
    (void)state;
    on_all_sizes(given_up, NULL);
}

/* The server has gone when the others say that they ask no more. */
static td_status gone_early(td_comm *c, void *arg)
{
    (void)arg;
    bool serves = td_comm_rank(c) == td_comm_size(c) - 1;
    td_comm *quick;
    td_keyed *keyed;
    long ns = 0;
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &quick));
    quick->deadline_ms = 5000;
    TD_TRY(open_channel(quick, &ns, &keyed));
    if (serves) td_keyed_destroy(keyed);
    TD_TRY(td_comm_barrier(quick));
    if (!serves) {
        if (td_keyed_finish(keyed) != TD_OK) td_error_clear();
        td_keyed_destroy(keyed);
    }
    TD_TRY(later_channel(quick, 7));
    td_comm_close(quick);
    return TD_OK;
}

static void a_goodbye_that_nobody_hears_ends_no_later_channel(void **state)
{
    (void)state;
    on_all_sizes(gone_early, NULL);
}

typedef struct loss {
    long server_ns; /* of an answer; 0: the server fails */
    bool told;      /* what is right: rank 0 */
} loss;

/* Rank 1, the server, is too slow, or fails and leaves, while rank 0 waits for it. */
static td_status lost(td_comm *c, void *arg)
{
    loss *l = arg;
    td_keyed *keyed;
    uint64_t key = 1, in = 0;
    td_parts parts = {.keys = &key, .count = 1, .in = &in};
    td_status status = TD_OK, waited = TD_OK;
    bool slow = l->server_ns > 0;
    TD_TRY(open_channel(c, &l->server_ns, &keyed));
    if (td_comm_rank(c) == 1) {
        if (!slow) status = td_fail(TD_ERR_IO, "the disk is full");
    } else {
        while (waited == TD_OK) waited = td_keyed_push(keyed, &parts); /* a few may be answered */
        l->told = slow ? waited == TD_ERR_TIMEOUT && strstr(td_last_error(), "for rank 1 in push")
                       : waited == TD_ERR_PEER && (strstr(td_last_error(), "rank 1 failed: the") ||
                                                   strstr(td_last_error(), "rank 1 left while"));
        if (td_keyed_push(keyed, &parts) != TD_ERR_PEER) l->told = false;
        td_error_clear();
    }
    if (slow && td_comm_rank(c) == 1) nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
    td_keyed_destroy(keyed);
    return status;
}

static void a_lost_server_ends_the_wait(void **state)
{
    (void)state;
    td_comm_config patient = {.deadline_ms = 20000}, hasty = {.deadline_ms = 300};
    loss l = {0, false}, slow = {900000000, false};
    if (mpi_world) return;
    assert_int_equal(td_comm_run_local(2, &patient, lost, &l), TD_ERR_IO);
    assert_true(l.told);
    l.told = false;
    setenv("TANDEM_FAKE_HOSTS", "0,1", 1); /* at hand, who asks runs the slow function itself */
    assert_int_equal(td_comm_run_local(2, &patient, lost, &l), TD_ERR_IO);
    assert_true(l.told);
    assert_ok(td_comm_run_local(2, &hasty, lost, &slow));
    assert_true(slow.told);
    unsetenv("TANDEM_FAKE_HOSTS");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_that_nobody_awaits_reaches_no_later_channel),
        cmocka_unit_test(a_goodbye_that_nobody_hears_ends_no_later_channel),
        cmocka_unit_test(a_lost_server_ends_the_wait),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
