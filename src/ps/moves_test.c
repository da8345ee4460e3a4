/* Rows that move between hosts, and a rank that comes late to it. See ranks_test.h. */
#include "ps/moves.h"

#include "comm/ranks_test.h"
#include "comm/transport.h"

enum { ROWS = 20000, WIDTH = 64 };

/* Rank 0 gives up moving rows away while rank 1, step by step as td_slices_move, is late. */
static td_status moved_late(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *g;
    td_table *table = NULL;
    td_table_config config = {.width = WIDTH, .lr = 1};
    td_slices before, after;
    int me = td_comm_rank(c);
    td_slices_deal(&before, 0, (int[]){0}, 1, 0);
    td_slices_deal(&after, 0, (int[]){1}, 1, 0);
    TD_TRY(td_comm_split(c, 0, me, &g));
    if (me == 0) {
        float row[4 * WIDTH] = {0};
        TD_TRY(td_table_create(&config, &table));
        for (uint64_t k = 0; k < ROWS; k++) TD_TRY(td_table_put(table, k, row));
        g->deadline_ms = 200;
        CHECK(td_slices_move(g, &before, &after, table) == TD_ERR_TIMEOUT);
        td_error_clear();
    } else {
        size_t mine = 0, most, give[2] = {0}, take[2];
        TD_TRY(td_comm_allreduce(g, &mine, &most, 1, TD_I64, TD_MAX));
        for (int k = 0; k < 2; k++) TD_TRY(td_comm_agree(g, TD_OK));
        TD_TRY(td_comm_alltoall(g, give, sizeof *give, take));
        TD_TRY(td_comm_agree(g, TD_OK));
        char *in = td_malloc(take[0] + 1);
        nanosleep(&(struct timespec){.tv_nsec = 800000000}, NULL);
        g->deadline_ms = 300;
        td_status status = td_comm_alltoallv(g, in, give, in, take); /* it may come, or not */
        if (status != TD_OK) td_error_clear();
        td_comm_free_room(g, in);
    }
    if (me == 0) nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 500000000}, NULL);
    TD_TRY(td_comm_barrier(c));
    td_table_destroy(table);
    td_comm_close(g);
    return td_comm_barrier(c);
}

static void what_is_given_up_may_be_fetched_late(void **state)
{
    (void)state;
    if (!mpi_world || mpi_world->hosts != 2) skip(); /* else nothing is sent */
    assert_ok(td_comm_agree(mpi_world, moved_late(mpi_world, NULL)));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_given_up_may_be_fetched_late),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
