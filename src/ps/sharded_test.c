/* Tables over servers: see comm/ranks_test.h. Gradients are whole numbers and the rate is 1, so
 * that weights are sums that do not depend on their order. */
#include "ps/sharded.h"

#include "base/rng.h"
#include "comm/ranks_test.h"
#include "ps/batch.h"

enum { KEYS = 500, WIDTH = 3, ROUNDS = 6, ASKED = 200 };

static uint64_t key_of(uint32_t k)
{
    return k == 0 ? UINT64_MAX : (uint64_t)k * 0x10001;
}

/* What rank r pushes in a round; keys repeat. */
static void make_push(int r, int round, uint32_t *k, uint64_t *keys, float *g)
{
    td_rng rng;
    td_rng_init(&rng, 8, TD_RNG_TEST, (uint64_t)r, (uint64_t)round);
    for (size_t i = 0; i < ASKED; i++) {
        k[i] = td_rng_below(&rng, round % 2 ? KEYS : 20), keys[i] = key_of(k[i]);
        for (int w = 0; w < WIDTH; w++) g[i * WIDTH + (size_t)w] = (float)td_rng_below(&rng, 5);
    }
}

static td_status weights_are(td_comm *c, td_sharded *s, float (*want)[WIDTH])
{
    static const int order = 7; /* every key once, and some again */
    uint64_t keys[KEYS + 9];
    float got[(KEYS + 9) * WIDTH];
    for (uint32_t i = 0; i < KEYS + 9; i++) keys[i] = key_of(i * (uint32_t)order % KEYS);
    TD_TRY(td_sharded_pull(s, keys, KEYS + 9, got));
    for (uint32_t i = 0; i < KEYS + 9; i++)
        CHECK(!memcmp(got + i * WIDTH, want[i * (uint32_t)order % KEYS], sizeof *want));
    return TD_OK;
}

static td_status pushes_add_up(td_comm *c, void *arg)
{
    int size = td_comm_size(c), me = td_comm_rank(c), last[] = {size - 1};
    td_sharded_config config = {.table = {.width = WIDTH, .lr = 1}};
    if (arg) config.servers = (td_servers){last, 1};
    td_sharded *s;
    uint32_t k[ASKED];
    uint64_t keys[ASKED], distinct = 0, rows = 0;
    float g[ASKED * WIDTH], want[KEYS][WIDTH] = {{0}};
    TD_TRY(td_sharded_open(c, &config, &s));
    for (int round = 0; round < ROUNDS; round++) {
        make_push(me, round, k, keys, g);
        TD_TRY(td_sharded_push(s, keys, ASKED, g));
    }
    TD_TRY(td_comm_barrier(c));
    for (int r = 0; r < size; r++)
        for (int round = 0; round < ROUNDS; round++) {
            make_push(r, round, k, keys, g);
            for (size_t i = 0; i < ASKED * WIDTH; i++) want[k[i / WIDTH]][i % WIDTH] -= g[i];
        }
    TD_TRY(weights_are(c, s, want));
    TD_TRY(td_sharded_finish(s));
    if (td_sharded_table(s)) distinct = td_table_rows(td_sharded_table(s));
    CHECK(!td_sharded_table(s) == (arg && me != size - 1));
    TD_TRY(td_comm_allreduce(c, &distinct, &rows, 1, TD_I64, TD_SUM));
    CHECK(rows == KEYS); /* each at one server */
    td_sharded_destroy(s);
    return TD_OK;
}

static void every_push_counts_once(void **state)
{
    (void)state;
    on_all_sizes(pushes_add_up, NULL);
    on_all_sizes(pushes_add_up, "one server");
}

/* The next rows come while others are pushed; two fetches at once are refused. */
static td_status fetches_ahead(td_comm *c, void *arg)
{
    (void)arg;
    td_sharded_config config = {.table = {.width = WIDTH,
                                          .lr = 1,
                                          .rule = "adagrad",
                                          .init = TD_TABLE_UNIFORM,
                                          .scale = 1,
                                          .seed = 3}};
    td_sharded *s;
    uint64_t keys[] = {4, 5, 4, 6}, mine = 100 + (uint64_t)td_comm_rank(c);
    float rows[4 * WIDTH], alone[WIDTH], again[WIDTH], g[WIDTH] = {1, 2, 3};
    TD_TRY(td_sharded_open(c, &config, &s));
    CHECK(td_sharded_fetched(s, rows) == TD_ERR_ARG);
    TD_TRY(td_sharded_fetch(s, keys, 4));
    CHECK(td_sharded_fetch(s, keys, 4) == TD_ERR_ARG);
    TD_TRY(td_sharded_push(s, &mine, 1, g));
    TD_TRY(td_sharded_fetched(s, rows));
    CHECK(!memcmp(rows, rows + 2 * WIDTH, sizeof alone) &&
          memcmp(rows, rows + WIDTH, sizeof alone));
    td_table *oracle;
    TD_TRY(td_table_create(&config.table, &oracle));
    TD_TRY(td_table_push(oracle, &mine, 1, g, (td_table_step){.scale = 1, .rate_factor = 1}));
    TD_TRY(td_table_pull(oracle, &mine, 1, alone));
    TD_TRY(td_sharded_pull(s, &mine, 1, again));
    CHECK(!memcmp(alone, again, sizeof alone));
    td_table_destroy(oracle);
    TD_TRY(td_sharded_finish(s));
    td_sharded_destroy(s);
    return TD_OK;
}

static void rows_are_fetched_ahead(void **state)
{
    (void)state;
    on_all_sizes(fetches_ahead, NULL);
}

static td_status mistaken(td_comm *c, void *arg)
{
    (void)arg;
    td_sharded_config config = {.table = {.width = WIDTH, .lr = 1}};
    td_sharded *s = NULL;
    if (td_comm_rank(c) == td_comm_size(c) - 1) config.table.seed = 5;
    td_status status = td_sharded_open(c, &config, &s);
    if (td_comm_size(c) > 1)
        CHECK(status == TD_ERR_ARG && strstr(td_last_error(), "describes another table"));
    td_sharded_destroy(status == TD_OK ? s : NULL);
    config.table.seed = 0, config.table.lr = 0;
    CHECK(td_sharded_open(c, &config, &s) == TD_ERR_ARG &&
          strstr(td_last_error(), "lr must be above 0"));
    return TD_OK;
}

static void mistakes_are_told_to_all(void **state)
{
    (void)state;
    on_all_sizes(mistaken, NULL);
}

/* Against a search through all keys. */
static void batches_hold_each_key_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 17, 3000, 100, 4096};
    td_batch b = {0};
    td_rng rng;
    td_rng_init(&rng, 2, TD_RNG_TEST, 0, 0);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k], found = 0;
        uint64_t *keys = td_calloc(n + 1, sizeof *keys);
        float *value = td_calloc(2 * n + 1, sizeof *value),
              *row = td_calloc(2 * n + 1, sizeof *row), *out = td_calloc(2 * n + 1, sizeof *out);
        for (size_t i = 0; i < n; i++) {
            keys[i] = td_rng_below(&rng, 1500) * (k % 2 ? UINT64_MAX / 1499 : 1);
            value[2 * i] = (float)i, value[2 * i + 1] = 1;
        }
        assert_ok(td_batch_fill(&b, keys, n));
        assert_int_equal(b.asked, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(b.place[i] <= found && b.keys[b.place[i]] == keys[i]);
            found += b.place[i] == found;
        }
        assert_int_equal(b.count, found);
        for (size_t i = 0; i < found; i++)
            for (size_t j = 0; j < i; j++) assert_true(b.keys[i] != b.keys[j]);
        td_batch_gather(&b, 2, value, row);
        td_batch_spread(&b, 2, row, out);
        for (size_t i = 0; i < n; i++) {
            float sum = 0, count = 0;
            for (size_t j = 0; j < n; j++)
                if (keys[j] == keys[i]) sum += value[2 * j], count++;
            assert_true(out[2 * i] == sum && out[2 * i + 1] == count);
        }
        td_free(keys), td_free(value), td_free(row), td_free(out);
    }
    td_batch_free(&b);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_push_counts_once),
        cmocka_unit_test(rows_are_fetched_ahead),
        cmocka_unit_test(mistakes_are_told_to_all),
        cmocka_unit_test(batches_hold_each_key_once),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
