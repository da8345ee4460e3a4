/* Tables over servers: what workers read, each at its clock's pace, and what their pushes come to.
 * sharded_recover_test.c has their deaths, sharded_range_test.c the rest. */
#include "ps/sums_test.h"

#include "base/rng.h"

#include <math.h>

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
    if (arg) config.servers = (td_servers){.rank = last, .count = 1};
    td_sharded *s;
    uint32_t k[ASKED];
    uint64_t keys[ASKED], rows = 0;
    float g[ASKED * WIDTH], want[KEYS][WIDTH] = {{0}};
    TD_TRY(td_sharded_open(c, &config, &s));
    for (int round = 0; round < ROUNDS; round++) {
        make_push(me, round, k, keys, g);
        TD_TRY(td_sharded_push_all(s, keys, ASKED, g));
    }
    TD_TRY(td_sharded_meet(s));
    for (int r = 0; r < size; r++)
        for (int round = 0; round < ROUNDS; round++) {
            make_push(r, round, k, keys, g);
            for (size_t i = 0; i < ASKED * WIDTH; i++) want[k[i / WIDTH]][i % WIDTH] -= g[i];
        }
    TD_TRY(weights_are(c, s, want));
    TD_TRY(td_sharded_finish(s));
    CHECK(!td_sharded_table(s) == (arg && me != size - 1));
    TD_TRY(count_rows(c, s, &rows));
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
    uint64_t keys[] = {4, 5, 6}, mine = 100 + (uint64_t)td_comm_rank(c), twice[] = {4, 5, 4};
    float rows[3 * WIDTH], same[3 * WIDTH], alone[WIDTH], again[WIDTH], g[WIDTH] = {1, 2, 3};
    TD_TRY(td_sharded_open(c, &config, &s));
    CHECK(td_sharded_fetched(s) == TD_ERR_ARG);
    TD_TRY(td_sharded_fetch(s, keys, 3, 1, rows));
    CHECK(td_sharded_fetch(s, keys, 3, 0, rows) == TD_ERR_ARG);
    TD_TRY(td_sharded_push_all(s, &mine, 1, g));
    TD_TRY(td_sharded_fetched(s));
    TD_TRY(td_sharded_pull(s, twice, 3, same));
    CHECK(!memcmp(same, same + 2 * WIDTH, sizeof alone) && !memcmp(rows, same, 2 * sizeof alone) &&
          memcmp(rows, rows + WIDTH, sizeof alone));
    td_table *oracle;
    TD_TRY(td_table_create(&config.table, &oracle));
    TD_TRY(td_table_push(oracle, &mine, 1, g,
                         (td_table_step){.scale = 1, .rate_factor = 1, .decay = 1}));
    TD_TRY(td_table_pull(oracle, &mine, 1, alone));
    TD_TRY(td_sharded_pull(s, &mine, 1, again));
    CHECK(!memcmp(alone, again, sizeof alone));
    td_table_destroy(oracle);
    return close_table(s);
}

static void rows_are_fetched_ahead(void **state)
{
    (void)state;
    on_all_sizes(fetches_ahead, NULL);
}

/* --- clocks --- */

typedef struct pace {
    const char *clock;
    uint64_t most; /* staleness of a read, at most */
    bool kept;     /* some rows are read from what is kept */
} pace;

/* Each worker moves a row of its own by one a step, and one row that all share. What it sees of the
 * others' rows is as old as its clock allows, and of its own never. */
static td_status keeps_pace(td_comm *c, void *arg)
{
    const pace *p = arg;
    enum { STEPS = 60 };
    int size = td_comm_size(c), me = td_comm_rank(c);
    td_sharded_config config = {.table = {.width = 1, .lr = 1}};
    td_sharded *s;
    td_sharded_stats stats;
    uint64_t keys[9];
    float rows[9], g[2] = {-1, -1};
    TD_TRY(td_clock_parse(p->clock, &config.clock));
    TD_TRY(td_sharded_open(c, &config, &s));
    for (int k = 0; k <= size; k++) keys[k] = (uint64_t)k;
    while (td_sharded_clock(s) < STEPS) {
        uint64_t clock = td_sharded_clock(s), pair[] = {(uint64_t)me, (uint64_t)size};
        TD_TRY(td_sharded_pull(s, keys, (size_t)size + 1, rows));
        if (config.clock.kind != TD_CLOCK_BACKUP) {
            CHECK(rows[me] == (float)clock);
            for (int r = 0; r < size; r++) CHECK(rows[r] + (float)p->most >= (float)clock);
            CHECK(rows[size] + (float)p->most * (float)size >= (float)(clock * (uint64_t)size));
        }
        if (me == 0 && clock % 8 == 0) nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
        td_sharded_step step =
            {.keys = pair, .count = 2, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
        TD_TRY(td_sharded_push(s, &step));
    }
    TD_TRY(td_sharded_meet(s));
    if (config.clock.kind != TD_CLOCK_BACKUP) {
        TD_TRY(td_sharded_pull(s, keys, (size_t)size + 1, rows));
        for (int r = 0; r < size; r++)
            CHECK(rows[r] + (float)p->most >= STEPS); /* kept rows may be as old */
    }
    TD_TRY(td_sharded_finish(s));
    td_sharded_stats_of(s, &stats);
    for (uint64_t k = p->most + 1; k < TD_STALENESS_BINS; k++) CHECK(stats.reads.reads[k] == 0);
    CHECK(stats.cached == 0 || p->kept);
    td_sharded_destroy(s);
    return TD_OK;
}

static void no_read_is_staler_than_its_clock_allows(void **state)
{
    (void)state;
    static pace paces[] = {{"bsp", 0, false},  {"ssp:0", 0, false},       {"ssp:1", 1, true},
                           {"ssp:4", 4, true}, {"groups:1:2:5", 2, true}, {"backup:1", 60, false}};
    for (size_t k = 0; k < sizeof paces / sizeof *paces; k++) on_all_sizes(keeps_pace, &paces[k]);
}

/* Late pushes are dropped, all others counted. */
static td_status leaves_stragglers(td_comm *c, void *arg)
{
    (void)arg;
    int size = td_comm_size(c), me = td_comm_rank(c);
    td_sharded_config config = {.table = {.width = 1, .lr = 1}};
    config.clock = (td_clock){.kind = TD_CLOCK_BACKUP, .count = size > 1 ? size - 1 : 1};
    td_sharded *s;
    td_sharded_stats stats;
    uint64_t key = 1, sums[3], all[3];
    float row, g = -1;
    TD_TRY(td_sharded_open(c, &config, &s));
    for (int n = 0; td_sharded_clock(s) < 40; n++) {
        TD_TRY(td_sharded_pull(s, &key, 1, &row));
        if (me == size - 1 && size > 1) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        td_sharded_step step =
            {.keys = &key, .count = 1, .gradients = &g, .scale = 1, .rate = 1, .decay = 1};
        TD_TRY(td_sharded_push(s, &step));
    }
    TD_TRY(td_sharded_finish(s));
    td_sharded_stats_of(s, &stats);
    bool mine = (td_place_primary(td_sharded_place(s), key) == me);
    sums[0] = mine ? stats.pushes : 0, sums[1] = mine ? stats.dropped : 0, sums[2] = 0;
    if (mine) {
        td_table_peek(td_sharded_table(s), &key, 1, &row);
        sums[2] = (uint64_t)row;
    }
    TD_TRY(td_comm_allreduce(c, sums, all, 3, TD_I64, TD_SUM));
    CHECK(all[2] == all[0] && all[0] >= 40 * (uint64_t)(size > 1 ? size - 1 : 1));
    td_sharded_destroy(s);
    return TD_OK;
}

static void stragglers_are_left_behind(void **state)
{
    (void)state;
    on_all_sizes(leaves_stragglers, NULL);
}

/* g + lambda g g (w - w_then), by hand: between the pull and the push another worker moves w. */
static td_status compensates(td_comm *c, void *arg)
{
    (void)arg;
    int size = td_comm_size(c), me = td_comm_rank(c);
    td_sharded_config config = {.table = {.width = 1, .lr = 0.5f}, .compensation = 0.25f};
    td_sharded *s;
    uint64_t key = 77;
    float row = 0, g = 2, w = 0;
    TD_TRY(td_sharded_open(c, &config, &s));
    TD_TRY(td_sharded_pull(s, &key, 1, &row));
    for (int turn = 0; turn < size; turn++) {
        TD_TRY(td_sharded_meet(s));
        td_sharded_step step = {.keys = &key, .count = 1, .gradients = &g, .rows = &row};
        step.scale = 1, step.rate = 1;
        if (me == turn) TD_TRY(td_sharded_push(s, &step));
        w -= 0.5f * (g + 0.25f * g * g * (w - 0));
    }
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_pull(s, &key, 1, &row));
    CHECK(fabsf(row - w) < 1e-5f);
    return close_table(s);
}

static void delays_are_compensated(void **state)
{
    (void)state;
    on_all_sizes(compensates, NULL);
}

/* Rates fall by how old rows are, also where a worker reads what it keeps: alone not at all, and
 * never below what the bound allows. */
static td_status rates_fall(td_comm *c, void *arg)
{
    (void)arg;
    enum { STEPS = 60 };
    int size = td_comm_size(c);
    td_sharded_config config = {.table = {.width = 1, .lr = 1}, .by_staleness = true};
    td_sharded *s;
    td_sharded_stats stats;
    uint64_t key = 3;
    float row, g = -1;
    TD_TRY(td_clock_parse("ssp:4", &config.clock));
    TD_TRY(td_sharded_open(c, &config, &s));
    for (int k = 0; k < STEPS; k++) {
        TD_TRY(td_sharded_pull(s, &key, 1, &row));
        TD_TRY(td_sharded_push_all(s, &key, 1, &g));
    }
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_look(s, &key, 1, &row));
    TD_TRY(td_sharded_finish(s));
    td_sharded_stats_of(s, &stats);
    if (size == 1) CHECK(row == STEPS && stats.cached > 0);
    CHECK(row <= (float)(STEPS * size) && row > (float)(STEPS * size) / 7);
    td_sharded_destroy(s);
    return TD_OK;
}

static void rates_fall_with_staleness(void **state)
{
    (void)state;
    on_all_sizes(rates_fall, NULL);
}

/* What a primary makes of a push by its staleness, the copy makes of it, too. */
static td_status copies_agree(td_comm *c, void *arg)
{
    (void)arg;
    enum { STEPS = 50, ALL = 40 };
    int size = td_comm_size(c), me = td_comm_rank(c);
    td_sharded_config config = {.table = {.width = 1, .lr = 1},
                                .servers = {.replicas = size > 1},
                                .by_staleness = true};
    td_sharded *s;
    uint64_t keys[ALL], held = 0;
    float rows[ALL], g[ALL];
    double least[ALL], most[ALL];
    TD_TRY(td_sharded_open(c, &config, &s));
    for (int k = 0; k < ALL; k++) keys[k] = (uint64_t)k * 0x9e3779b97f4a7c15, g[k] = -1;
    for (int k = 0; k < STEPS; k++) {
        TD_TRY(td_sharded_pull(s, keys, ALL, rows));
        if (k % 4 == me % 4) nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
        TD_TRY(td_sharded_push_all(s, keys, ALL, g));
    }
    TD_TRY(td_sharded_finish(s));
    TD_TRY(td_table_peek(td_sharded_table(s), keys, ALL, rows));
    for (int k = 0; k < ALL; k++) {
        bool has = td_place_has(td_sharded_place(s), keys[k], me);
        least[k] = has ? (double)rows[k] : 1e9, most[k] = has ? (double)rows[k] : -1e9;
        held += has;
    }
    TD_TRY(td_comm_allreduce(c, least, least, ALL, TD_F64, TD_MIN));
    TD_TRY(td_comm_allreduce(c, most, most, ALL, TD_F64, TD_MAX));
    TD_TRY(td_comm_allreduce(c, &held, &held, 1, TD_I64, TD_SUM));
    CHECK(held == ALL * (uint64_t)(size > 1 ? 2 : 1));
    for (int k = 0; k < ALL; k++) CHECK(most[k] - least[k] < 1e-3 && most[k] <= STEPS * size);
    td_sharded_destroy(s);
    return TD_OK;
}

static void copies_fall_alike(void **state)
{
    (void)state;
    on_all_sizes(copies_agree, NULL);
}

/* The keys of one server are hot: some of its slices go to others, and nothing is lost. */
static td_status cools_down(td_comm *c, void *arg)
{
    (void)arg;
    int size = td_comm_size(c);
    td_balanced b;
    enum { HOT = 64 };
    td_sharded_config config = {.table = {.width = 2, .lr = 1, .rule = "momentum"}};
    config.servers.replicas = size > 1;
    td_sharded *s;
    uint64_t keys[HOT];
    float rows[2 * HOT], again[2 * HOT], g[2 * HOT];
    TD_TRY(td_sharded_open(c, &config, &s));
    size_t n = 0;
    td_slices map;
    int server[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    td_slices_deal(&map, 0, server, size, 0);
    for (uint64_t key = 0; n < HOT; key++) /* all at rank 0 */
        if (map.primary[td_slice_of(&map, key)] == 0) keys[n++] = key;
    for (int k = 0; k < 2 * HOT; k++) g[k] = (float)(k % 5);
    for (int round = 0; round < 5; round++) {
        TD_TRY(td_sharded_pull(s, keys, HOT, rows));
        TD_TRY(td_sharded_push_all(s, keys, HOT, g));
    }
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_pull(s, keys, HOT, rows));
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_balance(s, true, &b));
    CHECK(!b.moved == (size == 1));
    CHECK(b.before == 1 && (size == 1 || b.after < 0.8));
    TD_TRY(td_sharded_pull(s, keys, HOT, again));
    CHECK(!memcmp(rows, again, sizeof rows));
    int mine = 0;
    for (int k = 0; k < HOT; k++)
        mine += td_place_primary(td_sharded_place(s), keys[k]) == td_comm_rank(c);
    CHECK(size == 1 || mine < HOT);
    return close_table(s);
}

static void hot_slices_are_shared_out(void **state)
{
    (void)state;
    on_all_sizes(cools_down, NULL);
}

/* The first worker has gone further than the others when all start again: what it pushes then is
 * new. */
static td_status starts_again(td_comm *c, void *arg)
{
    (void)arg;
    td_sharded *s;
    uint64_t key = 5;
    float row, g = -1;
    int size = td_comm_size(c), first = td_comm_rank(c) == 0;
    TD_TRY(open_sums(c, "asp", 0, &s));
    for (int round = 0; round < 3; round++) {
        for (int k = 0; k < (first ? 7 : 2); k++) TD_TRY(td_sharded_push_all(s, &key, 1, &g));
        TD_TRY(td_sharded_meet(s));
        td_sharded_start_at(s, 3 * (uint64_t)round + 3);
        TD_TRY(td_sharded_meet(s));
    }
    TD_TRY(td_sharded_pull(s, &key, 1, &row));
    CHECK(row == (float)(3 * (7 + 2 * (size - 1))));
    return close_table(s);
}

static void clocks_start_again(void **state)
{
    (void)state;
    on_all_sizes(starts_again, NULL);
}

/* Rank 0's push has come to some slices only, and the last rank makes it again in its name. */
static td_status makes_again(td_comm *c, void *arg)
{
    (void)arg;
    enum { ALL = 64, SOME = 20 };
    int size = td_comm_size(c), me = td_comm_rank(c);
    td_sharded *s;
    uint64_t keys[ALL];
    float g[ALL], rows[ALL];
    size_t n = 0;
    bool taken[TD_SLICES] = {false};
    TD_TRY(open_sums(c, "asp", size > 1, &s));
    const td_slices *map = &td_sharded_place(s)->slices;
    for (uint64_t key = 0; n < ALL; key++) /* of as many slices */
        if (!taken[td_slice_of(map, key)]) taken[td_slice_of(map, key)] = true, keys[n++] = key;
    for (int k = 0; k < ALL; k++) g[k] = -1;
    if (me == 0) TD_TRY(td_sharded_push_all(s, keys, SOME, g));
    TD_TRY(td_sharded_meet(s));
    td_sharded_step step =
        {.keys = keys, .count = ALL, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
    step.again = true; /* worker 0's first */
    for (int turn = 0; turn < 2 && me == size - 1; turn++) {
        uint64_t before = td_sharded_clock(s);
        TD_TRY(td_sharded_push(s, &step));
        CHECK(td_sharded_clock(s) == before);
    }
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_pull(s, keys, ALL, rows));
    for (int k = 0; k < ALL; k++) CHECK(rows[k] == 1);
    return close_table(s);
}

static void pushes_are_completed_by_others(void **state)
{
    (void)state;
    on_all_sizes(makes_again, NULL);
}

static td_status count_to_nine(td_sharded *s, uint64_t key)
{
    float row, g = -1;
    for (int round = 0; round < 9; round++) {
        TD_TRY(td_sharded_pull(s, &key, 1, &row));
        TD_TRY(td_sharded_push_all(s, &key, 1, &g));
    }
    return TD_OK;
}

/* Rank 0 has nothing to do for a while: the others go on without it, and it comes back. */
static td_status retires(td_comm *c, void *arg)
{
    (void)arg;
    td_sharded *s;
    uint64_t key = 5;
    float row;
    int size = td_comm_size(c), first = td_comm_rank(c) == 0;
    TD_TRY(open_sums(c, "ssp:1", 0, &s));
    TD_TRY(first ? td_sharded_retire(s) : count_to_nine(s, key));
    TD_TRY(td_sharded_meet(s));
    if (first) TD_TRY(count_to_nine(s, key));
    TD_TRY(td_sharded_meet(s));
    td_sharded_start_at(s, 9);
    TD_TRY(td_sharded_meet(s));
    TD_TRY(td_sharded_pull(s, &key, 1, &row));
    CHECK(row == (float)(9 * size));
    return close_table(s);
}

static void nobody_waits_for_who_has_nothing_to_do(void **state)
{
    (void)state;
    on_all_sizes(retires, NULL);
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

/* What a primary drops as late its copy drops, too, and nothing else. */
static td_status copies_are_alike(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c);
    td_sharded *s;
    uint32_t k[ASKED];
    uint64_t keys[ASKED];
    float g[ASKED * WIDTH];
    if (td_comm_size(c) < 2) return TD_OK;
    TD_TRY(open_sums(c, "backup:1", 1, &s));
    for (int round = 0; round < 4 * ROUNDS; round++) {
        make_push(me, round, k, keys, g);
        if (me == round % 3) nanosleep(&(struct timespec){.tv_nsec = 300000}, NULL);
        TD_TRY(td_sharded_push_all(s, keys, ASKED, g));
    }
    TD_TRY(td_sharded_meet(s));
    for (uint32_t i = 0; i < KEYS; i++) {
        uint64_t key = key_of(i);
        float row = 0, most, least;
        bool has = td_place_has(td_sharded_place(s), key, me);
        if (has) TD_TRY(td_table_peek(td_sharded_table(s), &key, 1, &row));
        float high = has ? row : -INFINITY, low = has ? row : INFINITY;
        TD_TRY(td_comm_allreduce(c, &high, &most, 1, TD_F32, TD_MAX));
        TD_TRY(td_comm_allreduce(c, &low, &least, 1, TD_F32, TD_MIN));
        CHECK(most == least);
    }
    return close_table(s);
}

static void a_copy_takes_what_its_primary_takes(void **state)
{
    (void)state;
    on_all_sizes(copies_are_alike, NULL);
}

/* Who serves alone has no clock of its own to retire. */
static td_status a_server_retires(td_comm *c, void *arg)
{
    (void)arg;
    int size = td_comm_size(c), first = 0;
    td_sharded_config config = {.table = {.width = 1, .lr = 1},
                                .worker = &first,
                                .worker_count = 1};
    td_sharded *s;
    TD_TRY(td_clock_parse("asp", &config.clock));
    TD_TRY(td_sharded_open(c, &config, &s));
    if (td_comm_rank(c) == size - 1 && size > 1) {
        CHECK(td_sharded_retire(s) == TD_ERR_ARG);
        CHECK(strstr(td_last_error(), "is no worker"));
    }
    return close_table(s);
}

static void a_server_does_not_retire(void **state)
{
    (void)state;
    on_all_sizes(a_server_retires, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_push_counts_once),
        cmocka_unit_test(rows_are_fetched_ahead),
        cmocka_unit_test(no_read_is_staler_than_its_clock_allows),
        cmocka_unit_test(stragglers_are_left_behind),
        cmocka_unit_test(delays_are_compensated),
        cmocka_unit_test(rates_fall_with_staleness),
        cmocka_unit_test(copies_fall_alike),
        cmocka_unit_test(hot_slices_are_shared_out),
        cmocka_unit_test(clocks_start_again),
        cmocka_unit_test(nobody_waits_for_who_has_nothing_to_do),
        cmocka_unit_test(pushes_are_completed_by_others),
        cmocka_unit_test(mistakes_are_told_to_all),
        cmocka_unit_test(a_copy_takes_what_its_primary_takes),
        cmocka_unit_test(a_server_does_not_retire),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
