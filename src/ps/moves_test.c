/* Rows that go between hosts, and a rank that comes late to it. See ranks_test.h. */
#include "ps/bulk.h"
#include "ps/moves.h"
#include "ps/servers.h"

#include "base/fs.h"
#include "comm/ranks_test.h"
#include "comm/transport.h"

enum { ROWS = 20000, WIDTH = 64 };

typedef struct amount { /* of moves.c */
    uint64_t bytes, more;
} amount;

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
        size_t give[2] = {0}, take[2] = {0};
        amount gives[2] = {0}, takes[2];
        for (int k = 0; k < 2; k++) TD_TRY(td_comm_agree(g, TD_OK));
        TD_TRY(td_comm_alltoall(g, gives, sizeof *gives, takes));
        TD_TRY(td_comm_agree(g, TD_OK));
        take[0] = takes[0].bytes;
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

/* --- all of a table, in portions --- */

enum { MANY = 60000, NARROW = 48, LIMIT = 4 << 20 }; /* rows of 48 weights and as many states */
static uint64_t key_count = MANY;

static char root[] = "/tmp/td-moves-XXXXXX";

static td_table_config many(bool limited, int rank, char folder[64])
{
    td_table_config c = {.width = NARROW, .rule = "adagrad", .lr = 1, .admit = 3};
    snprintf(folder, 64, "%s/%d", root, rank);
    if (limited) c.memory_bytes = LIMIT, c.folder = folder;
    return c;
}

static void row_of(uint64_t key, float row[2 * NARROW])
{
    for (int i = 0; i < 2 * NARROW; i++) row[i] = (float)(key % 4096) + (float)i / 128;
}

/* Every seventh key has only been seen. */
static td_table_mark mark_of(uint64_t key)
{
    return (td_table_mark){.used = (uint32_t)(key % 1000), .seen = key % 7 ? 0 : 1 + key % 2};
}

typedef struct seen {
    const td_slices *slices;
    int self;
    size_t rows, sighted;
} seen;

static td_status look_at(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    seen *s = arg;
    float want[2 * NARROW];
    td_table_mark wanted = mark_of(key);
    row_of(key, want);
    bool here = td_slices_has(s->slices, td_slice_of(s->slices, key), s->self);
    bool same = mark.used == wanted.used && mark.seen == wanted.seen && !row == (wanted.seen > 0);
    if (!here || key >= key_count || !same || (row && memcmp(row, want, sizeof want) != 0))
        return td_fail(TD_ERR_INTERNAL, "key %llu is not as it was", (unsigned long long)key);
    s->rows += row != NULL, s->sighted += row == NULL;
    return TD_OK;
}

/* A table has all that the map gives it, and nothing else; of one with a limit sightings may be
 * forgotten. */
static td_status has_all(td_comm *c, const td_slices *slices, td_table *table, bool limited)
{
    seen s = {slices, td_comm_rank(c), 0, 0};
    size_t rows = 0, sighted = 0;
    for (uint64_t k = 0; k < key_count; k++)
        if (td_slices_has(slices, td_slice_of(slices, k), s.self))
            rows += !mark_of(k).seen, sighted += mark_of(k).seen > 0;
    TD_TRY(td_table_each_key(table, look_at, &s));
    CHECK(s.rows == rows && td_table_rows(table) == rows);
    CHECK(limited ? s.sighted <= sighted : s.sighted == sighted);
    CHECK(!limited || td_table_bytes(table) < LIMIT + LIMIT / 4);
    return TD_OK;
}

static td_status fill(td_comm *c, td_table *table, const td_slices *slices)
{
    float row[2 * NARROW];
    for (uint64_t k = 0; k < key_count; k++) {
        if (!td_slices_has(slices, td_slice_of(slices, k), td_comm_rank(c))) continue;
        row_of(k, row);
        TD_TRY(td_table_put_key(table, k, mark_of(k), mark_of(k).seen ? NULL : row));
    }
    return TD_OK;
}

/* From one server to three with a copy of each, and back to two: what is there of other keys of
 * theirs, as from a move whose end was not heard of, is overwritten. */
static td_status moved(td_comm *c, void *arg)
{
    bool limited = *(const bool *)arg;
    char folder[64];
    td_table *table = NULL;
    td_slices one, three, two;
    td_table_config config = many(limited, td_comm_rank(c), folder);
    td_slices_deal(&one, 0, (int[]){0}, 1, 0);
    td_slices_deal(&three, 0, (int[]){0, 1, 2}, 3, 1);
    TD_TRY(td_slices_repair(&three, (int[]){1, 2}, 2, 1, &two));
    td_status status = td_comm_agree(c, td_table_create(&config, &table));
    if (status == TD_OK) status = fill(c, table, &one);
    float stale[2 * NARROW] = {0};
    for (uint64_t k = 1; k < 600 && status == TD_OK && td_comm_rank(c); k += 7)
        if (td_slices_has(&three, td_slice_of(&three, k), td_comm_rank(c)))
            status = td_table_put(table, k, stale);
    if (status == TD_OK) status = td_slices_move(c, &one, &three, table);
    if (status == TD_OK) td_slices_drop(c, &three, table);
    if (status == TD_OK) status = has_all(c, &three, table, limited);
    if (status == TD_OK) status = td_slices_move(c, &three, &two, table);
    if (status == TD_OK) td_slices_drop(c, &two, table);
    if (status == TD_OK) status = has_all(c, &two, table, limited);
    td_table_destroy(table);
    return status;
}

static void rows_and_sightings_move_in_portions(void **state)
{
    (void)state;
    if (mpi_world) skip();
    assert_non_null(mkdtemp(root));
    bool limited = false;
    assert_ok(td_comm_run_local(3, NULL, moved, &limited));
    limited = true;
    td_status status = td_comm_run_local(3, NULL, moved, &limited);
    if (status != TD_ERR_UNSUPPORTED) assert_ok(status); /* built without RocksDB */
    assert_ok(td_remove_tree(root));
}

/* Memory runs out at some rank: the move has failed at all, and who took rows has none of them. */
static td_status moved_without_memory(td_comm *c, void *arg)
{
    char folder[64];
    td_table *table = NULL;
    td_slices before, after;
    td_table_config config = many(false, td_comm_rank(c), folder);
    td_slices_deal(&before, 0, (int[]){0}, 1, 0);
    td_slices_deal(&after, 0, (int[]){1}, 1, 0);
    TD_TRY(td_comm_agree(c, td_table_create(&config, &table)));
    TD_TRY(fill(c, table, &before));
    TD_TRY(td_comm_barrier(c));
    size_t *at = arg;
    if (td_comm_rank(c) == 0) td_alloc_fail_at(*at);
    TD_TRY(td_comm_barrier(c));
    td_status status = td_slices_move(c, &before, &after, table);
    if (td_comm_rank(c) == 0 && !*at) *at = td_alloc_count();
    td_alloc_fail_at(0);
    CHECK(status == TD_OK || status == TD_ERR_NOMEM);
    td_error_clear();
    if (td_comm_rank(c) == 1 && status != TD_OK) CHECK(td_table_rows(table) == 0);
    if (status == TD_OK) td_slices_drop(c, &after, table);
    TD_TRY(has_all(c, status == TD_OK ? &after : &before, table, false));
    td_table_destroy(table);
    return TD_OK;
}

static void a_move_that_fails_leaves_all_as_it_was(void **state)
{
    (void)state;
    if (mpi_world) skip();
    size_t all = 0;
    assert_ok(td_comm_run_local(2, NULL, moved_without_memory, &all));
    for (size_t k = 1; k < 12; k++)
        assert_ok(td_comm_run_local(2, NULL, moved_without_memory, &(size_t){all * k / 12}));
}

/* Rank 1 has rows of slices that are not its own: of copies that came to nothing, keys that are not
 * there any more among them; or it had slices that another has newer pushes of, and the map says
 * so. None is left, whoever gets the slices. */
static td_status left_over(td_comm *c, void *arg)
{
    bool older = *(bool *)arg, lost;
    int me = td_comm_rank(c);
    char folder[64];
    float row[2 * NARROW] = {7};
    td_place place = {0};
    td_table *table;
    td_route route;
    td_servers servers = {.replicas = 1};
    td_table_config config = many(false, me, folder);
    td_slices all;
    TD_TRY(td_servers_open(c, &servers, &config, &place, &table));
    TD_TRY(fill(c, table, &place.slices));
    for (int k = 0; k < TD_SLICES && older; k++)
        if (place.slices.backup[k] == 1) place.slices.backup[k] = -1;
    td_slices_deal(&all, 0, (int[]){1}, 1, 0);
    td_servers_expect(c, &all, &place);
    for (uint64_t k = 0; k < 2 * key_count && me == 1; k++)
        if (!td_slices_has(&place.slices, td_slice_of(&place.slices, k), me))
            TD_TRY(td_table_put(table, k, row));
    TD_TRY(td_servers_know(c, true, &place, &lost));
    TD_TRY(td_servers_move(c, &servers, &config, &place, &table, &route, &lost));
    TD_TRY(td_servers_settle(c, &route.first, &place, table));
    TD_TRY(has_all(c, &route.first, table, false));
    td_table_destroy(table);
    return TD_OK;
}

static void what_is_left_of_copies_goes(void **state)
{
    (void)state;
    if (mpi_world) skip();
    for (int k = 0; k < 4; k++) { /* of many the slices themselves are copied behind */
        key_count = k / 2 ? MANY : 1500;
        assert_ok(td_comm_run_local(3, NULL, left_over, &(bool){k % 2}));
    }
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
        cmocka_unit_test(rows_and_sightings_move_in_portions),
        cmocka_unit_test(what_is_left_of_copies_goes),
        cmocka_unit_test(a_move_that_fails_leaves_all_as_it_was),
        cmocka_unit_test(what_is_given_up_may_be_fetched_late),
        cmocka_unit_test(a_push_that_is_given_up_may_be_fetched_late),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
