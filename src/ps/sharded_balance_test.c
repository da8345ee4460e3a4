/* Meetings at which hot slices are shared out, and workers that go on at once behind them. */
#include "ps/sums_test.h"

#include <stdlib.h>

/* Slices of a long table move, and it is asked at once, while its server takes out what has gone.
 */
static td_status is_asked_at_once(td_comm *c, void *arg)
{
    (void)arg;
    enum { MANY = 30000, HOT = 64 };
    int size = td_comm_size(c), server[] = {0, 1, 2, 3, 4, 5, 6, 7};
    td_sharded *s;
    td_slices map;
    td_balanced b;
    uint64_t *keys = calloc(MANY, sizeof *keys), key = 0;
    float *rows = calloc(MANY, sizeof *rows), *g = calloc(MANY, sizeof *g);
    TD_TRY(open_sums(c, "asp", 0, &s));
    td_slices_deal(&map, 0, server, size, 0);
    for (size_t n = 0; n < MANY; key++) /* all at rank 0 */
        if (map.primary[td_slice_of(&map, key)] == 0) g[n] = -(float)(n % 99), keys[n++] = key;
    if (td_comm_rank(c) == size - 1) TD_TRY(td_sharded_push_all(s, keys, MANY, g));
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_pull(s, keys, HOT, rows));
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_balance(s, true, &b));
    for (int k = 0; k < 50; k++) TD_TRY(td_sharded_pull(s, keys, HOT, rows));
    TD_TRY(td_sharded_pull(s, keys, MANY, rows));
    for (size_t k = 0; k < MANY; k++) CHECK(rows[k] == -g[k]);
    CHECK(!b.moved == (size == 1));
    free(keys), free(rows), free(g);
    return close_table(s);
}

static void slices_have_gone_before_any_is_asked_for(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) on_all_sizes(is_asked_at_once, NULL);
}

/* By the same loads at all ranks: the first to go on asks a server that still adds up. */
static td_status shares_out_alike(td_comm *c, void *arg)
{
    (void)arg;
    enum { ROUNDS = 60, MANY = 500 };
    td_sharded *s;
    td_balanced b;
    uint64_t keys[MANY];
    float rows[MANY];
    double hot[2], least[2], most[2];
    for (uint64_t k = 0; k < MANY; k++) keys[k] = k * 0x9e3779b97f4a7c15;
    TD_TRY(open_sums(c, "asp", 0, &s));
    for (int round = 0; round < ROUNDS; round++) {
        size_t some = 1 + (size_t)(round * 37 + td_comm_rank(c) * 11) % (MANY - 1);
        TD_TRY(td_sharded_pull(s, keys, some, rows));
        TD_TRY(td_sharded_meet(s));
        TD_TRY(td_sharded_balance(s, true, &b));
        TD_TRY(td_sharded_pull(s, keys, MANY, rows));
        hot[0] = b.before, hot[1] = b.after;
        TD_TRY(td_comm_allreduce(c, hot, least, 2, TD_F64, TD_MIN));
        TD_TRY(td_comm_allreduce(c, hot, most, 2, TD_F64, TD_MAX));
        CHECK(least[0] == most[0] && least[1] == most[1]);
    }
    return close_table(s);
}

static void all_share_out_alike(void **state)
{
    (void)state;
    on_all_sizes(shares_out_alike, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(slices_have_gone_before_any_is_asked_for),
        cmocka_unit_test(all_share_out_alike),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
