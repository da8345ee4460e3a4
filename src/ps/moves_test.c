/* Rows that go between hosts, and a rank that comes late to it. See ranks_test.h. */
#include "ps/bulk.h"
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
        td_free(in);
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

/* What a rank tells another ahead of a push, and of each sum; see bulk.c. */
typedef struct count {
    uint64_t keys;
    int32_t leaf_begin, leaf_end;
} count;
typedef struct head {
    uint64_t key;
    uint32_t leaf, unused;
} head;

static td_status push_all(td_bulk *bulk, float value)
{
    static uint64_t keys[ROWS];
    static uint32_t leaf[ROWS];
    static float gradient[ROWS * WIDTH];
    for (size_t k = 0; k < ROWS; k++) keys[k] = k;
    for (size_t k = 0; k < (size_t)ROWS * WIDTH; k++) gradient[k] = value;
    td_bulk_part part = {0, 1, keys, leaf, gradient, ROWS};
    return td_bulk_push(bulk, &part, (td_table_step){.scale = 1, .rate_factor = 1, .decay = 1});
}

/* The server's side of a push, step by step as td_bulk_offer, and late to the rows. */
static td_status take_late(td_comm *c)
{
    count gives[2] = {{.leaf_begin = 1, .leaf_end = 2}, {.leaf_begin = 1, .leaf_end = 2}}, takes[2];
    uint8_t failed = 0, some;
    size_t none[2] = {0}, bytes[2] = {0};
    TD_TRY(td_comm_alltoall(c, gives, sizeof *gives, takes));
    TD_TRY(td_comm_allreduce(c, &failed, &some, 1, TD_U8, TD_MAX));
    size_t n = takes[0].keys, floats = n * WIDTH;
    CHECK(n > ROWS / 4);
    char *heads = td_malloc(n * sizeof(head));
    float *rows = td_malloc(floats * sizeof *rows);
    bytes[0] = n * sizeof(head);
    TD_TRY(td_comm_alltoallv(c, heads, none, heads, bytes));
    nanosleep(&(struct timespec){.tv_nsec = 800000000}, NULL);
    c->deadline_ms = 300;
    bytes[0] = floats * sizeof *rows;
    td_status status = td_comm_alltoallv(c, rows, none, rows, bytes); /* it may come, or not */
    if (status != TD_OK) td_error_clear();
    for (size_t k = 0; status == TD_OK && k < floats; k++) CHECK(rows[k] == 1);
    td_free(heads), td_free(rows);
    return TD_OK;
}

/* Rank 0 gives up a push, and has pushed others, in a group of its own, when rank 1 takes it. */
static td_status pushed_late(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *g, *alone;
    td_bulk *bulk = NULL;
    int me = td_comm_rank(c);
    td_bulk_config config = {.table = {.width = WIDTH, .lr = 1}, .leaves = 2};
    config.servers.replicas = 1;
    bool lost;
    TD_TRY(td_comm_split(c, 0, me, &g));
    TD_TRY(td_comm_split(c, me, 0, &alone));
    TD_TRY(td_bulk_open(g, &config, &bulk));
    if (me == 0) {
        g->deadline_ms = 200;
        CHECK(push_all(bulk, 1) == TD_ERR_TIMEOUT);
        td_error_clear();
        TD_TRY(td_bulk_move(bulk, alone, &(td_servers){.count = 0}, false, 0, &lost));
        TD_TRY(push_all(bulk, 2));
        td_bulk_destroy(bulk);
        nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 500000000}, NULL);
    } else {
        TD_TRY(take_late(g));
        td_bulk_destroy(bulk);
    }
    TD_TRY(td_comm_barrier(c));
    td_comm_close(g), td_comm_close(alone);
    return td_comm_barrier(c);
}

static void a_push_that_is_given_up_may_be_fetched_late(void **state)
{
    (void)state;
    if (!mpi_world || mpi_world->hosts != 2) skip(); /* else nothing is sent */
    assert_ok(td_comm_agree(mpi_world, pushed_late(mpi_world, NULL)));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_given_up_may_be_fetched_late),
        cmocka_unit_test(a_push_that_is_given_up_may_be_fetched_late),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
