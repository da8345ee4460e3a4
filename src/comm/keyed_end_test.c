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

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_that_nobody_awaits_reaches_no_later_channel),
        cmocka_unit_test(a_goodbye_that_nobody_hears_ends_no_later_channel),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
