/* Ranges of tables over servers, and functions on their rows. */
#include "ps/sums_test.h"

enum { KEYS = 20000, WIDTH = 3 };

typedef struct layout {
    bool last_serves; /* alone, and is no worker */
    int replicas;
    const char *clock;
} layout;

static void on_all_layouts(td_rank_fn *fn)
{
    static layout layouts[] = {{false, 0, "bsp"}, {false, 1, "asp"}, {true, 0, "ssp:3"}};
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++) on_all_sizes(fn, &layouts[k]);
}

/* Ascending in k, from 0 to UINT64_MAX. */
static uint64_t key_of(uint64_t k)
{
    return k == KEYS - 1 ? UINT64_MAX : k * (UINT64_MAX / KEYS) + k % 5;
}

static float weight_of(uint64_t k, size_t w)
{
    return -(float)(k % 1000 + w);
}

static td_status open_table(td_comm *c, const layout *l, td_sharded_config *config, td_sharded **s)
{
    static const int ranks[] = {0, 1, 2, 3, 4, 5, 6, 7};
    int size = td_comm_size(c);
    config->worker = ranks, config->worker_count = size > 1 ? size - l->last_serves : 1;
    TD_TRY(td_clock_parse(l->clock, &config->clock));
    if (l->last_serves) config->servers = (td_servers){.rank = ranks + size - 1, .count = 1};
    config->servers.replicas = size > 1 && l->replicas;
    return td_sharded_open(c, config, s);
}

/* Every worker some of the first `count` keys, in an order of its own. */
static td_status push_share(td_sharded *s, const td_sharded_config *config, uint64_t count)
{
    enum { PART = 997 };
    uint64_t keys[PART], of = (uint64_t)config->worker_count, n = 0;
    float g[PART * WIDTH];
    if (td_sharded_worker(s) < 0) return TD_OK;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t k = i * 7 % count; /* 7 does not divide it */
        if (k % of == (uint64_t)td_sharded_worker(s)) {
            for (size_t w = 0; w < WIDTH; w++) g[n * WIDTH + w] = -weight_of(k, w);
            keys[n++] = key_of(k);
        }
        if (n == PART || i + 1 == count) {
            TD_TRY(td_sharded_push_all(s, keys, n, g));
            n = 0;
        }
    }
    return TD_OK;
}

/* --- ranges --- */

typedef struct seen {
    td_comm *c;
    uint64_t next, end; /* keys that are to come, by number */
    uint64_t stop;
} seen;

static td_status is_next(void *arg, uint64_t key, const float *row)
{
    seen *x = arg;
    td_comm *c = x->c;
    if (x->next == x->stop) return TD_ERR_INTERRUPTED;
    CHECK(x->next < x->end && key == key_of(x->next));
    for (size_t w = 0; w < WIDTH; w++) CHECK(row[w] == weight_of(x->next, w));
    x->next++;
    return TD_OK;
}

static td_status range_is(td_comm *c, td_sharded *s, uint64_t first, uint64_t last, uint64_t begin,
                          uint64_t end)
{
    seen x = {c, begin, end, UINT64_MAX};
    TD_TRY(td_sharded_range(s, first, last, is_next, &x));
    CHECK(x.next == end);
    return TD_OK;
}

static td_status gives_ranges(td_comm *c, void *arg)
{
    td_sharded_config config = {.table = {.width = WIDTH, .lr = 1, .rule = "momentum"}};
    td_sharded *s;
    TD_TRY(open_table(c, arg, &config, &s));
    TD_TRY(range_is(c, s, 0, UINT64_MAX, 0, 0));
    TD_TRY(td_sharded_meet(s));
    TD_TRY(push_share(s, &config, KEYS));
    TD_TRY(td_sharded_meet(s));
    TD_TRY(range_is(c, s, 0, UINT64_MAX, 0, KEYS));
    TD_TRY(range_is(c, s, key_of(100), key_of(9000) - 1, 100, 9000));
    TD_TRY(range_is(c, s, key_of(100) + 1, key_of(9000), 101, 9001));
    TD_TRY(range_is(c, s, key_of(4095), UINT64_MAX, 4095, KEYS));
    TD_TRY(range_is(c, s, UINT64_MAX, UINT64_MAX, KEYS - 1, KEYS));
    TD_TRY(range_is(c, s, 0, 0, 0, 1));
    TD_TRY(range_is(c, s, key_of(7) + 1, key_of(8) - 1, 8, 8));
    TD_TRY(range_is(c, s, 9, 8, 0, 0));
    seen x = {c, 0, KEYS, 5000};
    CHECK(td_sharded_range(s, 0, UINT64_MAX, is_next, &x) == TD_ERR_INTERRUPTED && x.next == 5000);
    return close_table(s);
}

static void every_row_comes_once_in_order(void **state)
{
    (void)state;
    on_all_layouts(gives_ranges);
}

/* --- of servers that have many --- */

enum { MANY = 120000 }; /* at one server: a page has more keys than a chunk rows */

typedef struct counted {
    td_comm *c;
    uint64_t next, step; /* the keys that are to come */
    td_table *drops;     /* when the first key comes, of all but every step-th; NULL: not */
} counted;

static bool is_gone(void *arg, uint64_t key)
{
    return key % *(const uint64_t *)arg != 0;
}

static td_status count(void *arg, uint64_t key, const float *row)
{
    counted *x = arg;
    td_comm *c = x->c;
    uint64_t dropping = 3;
    CHECK(key == x->next && row[0] == -(float)(key % 1000));
    if (x->drops && key == 4096) td_table_drop(x->drops, is_gone, &dropping);
    if (x->drops && key >= 8191) x->step = 3; /* those before were there already */
    x->next = (key + x->step) / x->step * x->step;
    return TD_OK;
}

static td_status gives_many(td_comm *c, void *arg)
{
    enum { PART = 1000 };
    layout l = {true, 0, "asp"};
    td_sharded_config config = {.table = {.width = 1, .lr = 1}};
    td_sharded *s;
    uint64_t keys[PART];
    float g[PART];
    TD_TRY(open_table(c, &l, &config, &s));
    for (uint64_t at = 0; at < MANY && td_comm_rank(c) == 0; at += PART) {
        for (uint64_t i = 0; i < PART; i++) keys[i] = at + i, g[i] = (float)((at + i) % 1000);
        TD_TRY(td_sharded_push_all(s, keys, PART, g));
    }
    TD_TRY(td_sharded_meet(s));
    counted x = {.c = c, .step = 1};
    TD_TRY(td_sharded_range(s, 0, UINT64_MAX, count, &x));
    CHECK(x.next == MANY);
    TD_TRY(td_sharded_meet(s));
    if (arg) { /* one rank: rows go while it asks for them */
        x = (counted){.c = c, .step = 1, .drops = td_sharded_table(s)};
        TD_TRY(td_sharded_range(s, 0, UINT64_MAX, count, &x));
        CHECK(x.next == MANY && x.step == 3);
    }
    return close_table(s);
}

static void long_tables_come_by_pages(void **state)
{
    (void)state;
    bool alone = true;
    if (mpi_world) {
        assert_ok(td_comm_agree(mpi_world, gives_many(mpi_world, NULL)));
        return;
    }
    assert_ok(td_comm_run_local(3, NULL, gives_many, NULL));
    assert_ok(td_comm_run_local(1, NULL, gives_many, &alone));
}

/* --- beside pushes --- */

enum { ROUNDS = 6, EACH = 900 }; /* keys of a worker a round */

static uint64_t own_key(int worker, uint64_t n)
{
    return n << 8 | (uint64_t)worker;
}

typedef struct watch {
    td_comm *c;
    int worker;
    uint64_t own, before, rows; /* of this worker, in order; the key before; of all */
} watch;

static td_status note(void *arg, uint64_t key, const float *row)
{
    watch *x = arg;
    td_comm *c = x->c;
    CHECK(!x->rows || key > x->before);
    CHECK(row[0] == 1 && row[1] == 2 && row[2] == 3); /* whole */
    x->own += (key & 255) == (uint64_t)x->worker && key == own_key(x->worker, x->own);
    x->before = key, x->rows++;
    return TD_OK;
}

static td_status sees_what_it_has_pushed(td_comm *c, void *arg)
{
    td_sharded_config config = {.table = {.width = WIDTH, .lr = 1}};
    td_sharded *s;
    uint64_t keys[EACH];
    float g[EACH * WIDTH];
    TD_TRY(open_table(c, arg, &config, &s));
    int me = td_sharded_worker(s);
    for (int i = 0; i < EACH * WIDTH; i++) g[i] = -(float)(i % WIDTH + 1);
    uint64_t rounds = getenv("TANDEM_TEST_SHORT") ? 3 : ROUNDS; /* under sanitizers */
    for (uint64_t round = 0; round < rounds; round++) {
        watch x = {.c = c, .worker = me};
        for (uint64_t i = 0; i < EACH; i++) keys[i] = own_key(me, round * EACH + i);
        if (me >= 0) TD_TRY(td_sharded_push_all(s, keys, EACH, g));
        TD_TRY(td_sharded_range(s, 0, UINT64_MAX, note, &x));
        CHECK(me < 0 || x.own == (round + 1) * EACH);
    }
    TD_TRY(td_sharded_meet(s));
    watch x = {.c = c, .worker = 0};
    TD_TRY(td_sharded_range(s, 0, UINT64_MAX, note, &x));
    CHECK(x.rows == (uint64_t)config.worker_count * rounds * EACH);
    return close_table(s);
}

static void what_was_acknowledged_is_seen(void **state)
{
    (void)state;
    on_all_layouts(sees_what_it_has_pushed);
}

/* --- functions --- */

enum { ROWS = 300, FACTOR = 10 };

typedef struct amounts {
    float weight, state;
    uint64_t zeros[3];
} amounts;

/* To weights and state what the argument says, times the user's factor. */
static td_status add(void *user, const void *argument, uint64_t key, float *row)
{
    const amounts *a = argument;
    float factor = *(const float *)user;
    if (a->zeros[0] || a->zeros[1] || a->zeros[2]) return td_fail(TD_ERR_ARG, "no zeros behind it");
    if (key == UINT64_MAX) return td_fail(TD_ERR_DATA, "not that key");
    for (size_t w = 0; w < WIDTH; w++) row[w] += factor * a->weight, row[WIDTH + w] += a->state;
    return TD_OK;
}

static td_status negate(void *user, const void *argument, uint64_t key, float *row)
{
    (void)user, (void)argument, (void)key;
    for (size_t w = 0; w < WIDTH; w++) row[w] = -row[w];
    return TD_OK;
}

/* Rows of this server, as primary or backup, are what all ranks' calls make of them. */
static td_status is_added(void *arg, uint64_t key, const float *row)
{
    td_comm *c = arg;
    float calls = (float)(td_comm_size(c) * (key % 3 == 0 ? 2 : 1));
    for (size_t w = 0; w < WIDTH; w++) {
        CHECK(row[w] == -(calls * FACTOR * 3 - (key % 2 ? 1 : 0)));
        CHECK(row[WIDTH + w] == calls * 5 + (key % 2 ? 1 : 0));
    }
    return TD_OK;
}

static td_status applies(td_comm *c, void *arg)
{
    static float factor = FACTOR, unused = 0;
    td_sharded_function functions[] = {{negate, NULL}, {add, &factor}};
    td_sharded_config config = {.table = {.width = WIDTH, .lr = 1, .rule = "momentum"},
                                .functions = functions,
                                .function_count = 2};
    td_sharded *s;
    uint64_t keys[ROWS + ROWS / 3], odd[ROWS / 2], n = 0, bad = UINT64_MAX, all;
    float g[WIDTH * ROWS / 2], before[WIDTH], after[WIDTH];
    float amount[] = {3, 5};
    TD_TRY(open_table(c, arg, &config, &s));
    functions[1].user = &unused; /* it has copied them */
    for (uint64_t k = 0; k < ROWS; k++) {
        keys[n++] = k;
        if (k % 3 == 0) keys[n++] = k;
        odd[k / 2] = k;
    }
    for (int i = 0; i < WIDTH * ROWS / 2; i++) g[i] = 1;
    if (td_sharded_worker(s) >= 0) /* a step each, so that no clock waits */
        TD_TRY(td_sharded_push_all(s, odd, td_sharded_worker(s) == 0 ? ROWS / 2 : 0, g));
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_pull(s, odd, 1, before));
    TD_TRY(td_sharded_apply(s, 1, keys, n, amount, sizeof amount));
    TD_TRY(td_sharded_pull(s, odd, 1, after));
    CHECK(after[0] >= before[0] + FACTOR * 3); /* of this rank's own, though it may keep rows */
    TD_TRY(td_sharded_meet(s));
    if (td_comm_rank(c) == 0) TD_TRY(td_sharded_apply(s, 0, keys, 0, NULL, 0));
    for (uint64_t k = 0; k < ROWS && td_comm_rank(c) == td_comm_size(c) - 1; k++)
        TD_TRY(td_sharded_apply(s, 0, &k, 1, NULL, 0));
    TD_TRY(td_sharded_meet(s));
    if (td_sharded_table(s)) TD_TRY(td_table_each(td_sharded_table(s), is_added, c));
    TD_TRY(count_rows(c, s, &all));
    CHECK(all == (uint64_t)ROWS * (config.servers.replicas ? 2 : 1));
    CHECK(td_sharded_apply(s, 1, &bad, 1, amount, sizeof amount) == TD_ERR_DATA &&
          strstr(td_last_error(), "not that key"));
    CHECK(td_sharded_apply(s, 2, keys, 1, NULL, 0) == TD_ERR_ARG &&
          strstr(td_last_error(), "no function 2 among 2"));
    CHECK(td_sharded_apply(s, -1, keys, 1, NULL, 0) == TD_ERR_ARG);
    CHECK(td_sharded_apply(s, 0, keys, 1, keys, 33) == TD_ERR_ARG &&
          strstr(td_last_error(), "up to 32 bytes, not 33"));
    return close_table(s);
}

static void functions_reach_every_copy_of_a_row(void **state)
{
    (void)state;
    on_all_layouts(applies);
}

static td_status differs(td_comm *c, void *arg)
{
    (void)arg;
    td_sharded_function functions[] = {{negate, NULL}, {negate, NULL}};
    td_sharded_config config = {.table = {.width = WIDTH, .lr = 1}, .functions = functions};
    td_sharded *s = NULL;
    config.function_count = td_comm_rank(c) == td_comm_size(c) - 1 ? 1 : 2;
    td_status status = td_sharded_open(c, &config, &s);
    CHECK(td_comm_size(c) == 1
              ? status == TD_OK
              : status == TD_ERR_ARG &&
                    strstr(td_last_error(), "has 1 functions on rows where rank 0"));
    td_sharded_destroy(status == TD_OK ? s : NULL);
    return TD_OK;
}

static void all_have_the_same_functions(void **state)
{
    (void)state;
    on_all_sizes(differs, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_row_comes_once_in_order),
        cmocka_unit_test(long_tables_come_by_pages),
        cmocka_unit_test(what_was_acknowledged_is_seen),
        cmocka_unit_test(functions_reach_every_copy_of_a_row),
        cmocka_unit_test(all_have_the_same_functions),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
