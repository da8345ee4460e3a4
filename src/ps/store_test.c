/* A server's store, and what a worker keeps: exactly once, whatever is repeated, against a table
 * that gets each push once. */
#include "ps/store.h"

#include "base/rng.h"
#include "base/test.h"
#include "ps/cache.h"

enum { WORKERS = 3, KEYS = 700, WIDTH = 2, STEPS = 120, MOST = 40 };

static size_t make_push(int worker, uint64_t step, uint64_t *keys, float *g)
{
    td_rng rng;
    td_rng_init(&rng, 4, TD_RNG_TEST, (uint64_t)worker, step);
    size_t n = 1 + td_rng_below(&rng, MOST - 1);
    uint64_t first = td_rng_below(&rng, KEYS);
    for (size_t i = 0; i < n; i++) {
        keys[i] = (first + i * 11) % KEYS * 0x9e3779b97f4a7c15;
        for (size_t k = 0; k < WIDTH; k++) g[i * WIDTH + k] = (float)td_rng_below(&rng, 9);
    }
    return n;
}

static td_table *new_table(void)
{
    td_table *t;
    td_table_config config = {.width = WIDTH, .lr = 1, .rule = "momentum", .momentum = 0.5f};
    assert_ok(td_table_create(&config, &t));
    return t;
}

typedef struct bed {
    td_store store;
    td_slices slices;
    td_table *oracle;
} bed;

static void open_bed(bed *b, td_clock clock)
{
    int server = 0;
    td_store_config config = {.clock = clock, .workers = WORKERS, .width = WIDTH};
    *b = (bed){.oracle = new_table()};
    td_slices_deal(&b->slices, 0, &server, 1, 0);
    assert_ok(td_store_init(&b->store, &config, new_table()));
}

static void close_bed(bed *b)
{
    td_store_fini(&b->store);
    td_table_destroy(b->oracle);
}

static void compare(const bed *b)
{
    for (uint64_t k = 0; k < KEYS; k++) {
        float got[WIDTH], want[WIDTH];
        uint64_t key = k * 0x9e3779b97f4a7c15;
        assert_ok(td_table_peek(b->store.table, &key, 1, got));
        assert_ok(td_table_peek(b->oracle, &key, 1, want));
        assert_memory_equal(got, want, sizeof got);
    }
}

/* Of each odd step the gradients are every third of a longer batch's, the last first. */
static void push(bed *b, int worker, uint64_t step)
{
    uint64_t keys[MOST];
    float g[MOST * WIDTH], longer[3 * MOST * WIDTH];
    uint32_t places[MOST];
    size_t n = make_push(worker, step, keys, g);
    td_store_taken taken;
    for (size_t i = 0; i < 3 * MOST * WIDTH; i++) longer[i] = -1000;
    for (size_t i = 0; i < n; i++) {
        places[i] = (uint32_t)(3 * (n - i) - 1);
        memcpy(longer + places[i] * WIDTH, g + i * WIDTH, WIDTH * sizeof *g);
    }
    td_store_push p = {worker, step, true, 1, 1, 1, keys, n, g};
    if (step % 2) p.values = longer, p.places = places;
    assert_ok(td_store_take_push(&b->store, &b->slices, &p, &taken));
    assert_true(taken.applied);
}

static void once(bed *b, int worker, uint64_t step)
{
    uint64_t keys[MOST];
    float g[MOST * WIDTH];
    size_t n = make_push(worker, step, keys, g);
    td_table_step s = {.step = step, .scale = 1, .rate_factor = 1, .decay = 1};
    assert_ok(td_table_push(b->oracle, keys, n, g, s));
}

/* Those of a push whose slices have that remainder by 2. */
static size_t cut(const bed *b, int worker, uint64_t step, uint64_t *keys, float *g, int remainder)
{
    uint64_t all[MOST];
    float of_all[MOST * WIDTH];
    size_t n = make_push(worker, step, all, of_all), m = 0;
    for (size_t i = 0; i < n; i++) {
        if (td_slice_of(&b->slices, all[i]) % 2 != remainder) continue;
        keys[m] = all[i];
        memcpy(g + m++ * WIDTH, of_all + i * WIDTH, WIDTH * sizeof *g);
    }
    return m;
}

/* Some slices get a step before it is lost; then all of it comes, once or more. */
static void repeated_pushes_count_once(void **state)
{
    (void)state;
    bed b;
    td_rng rng;
    td_rng_init(&rng, 6, TD_RNG_TEST, 0, 0);
    open_bed(&b, (td_clock){0});
    for (uint64_t step = 0; step < STEPS; step++)
        for (int w = 0; w < WORKERS; w++) {
            uint64_t keys[MOST];
            float g[MOST * WIDTH];
            td_store_taken taken;
            once(&b, w, step);
            if (td_rng_below(&rng, 2)) {
                size_t n = cut(&b, w, step, keys, g, (int)td_rng_below(&rng, 2));
                td_store_push part = {w, step, false, 1, 1, 1, keys, n, g};
                assert_ok(td_store_take_push(&b.store, &b.slices, &part, &taken));
            }
            for (uint32_t again = 0; again <= td_rng_below(&rng, 3); again++) push(&b, w, step);
            assert_int_equal(b.store.clocks.pushed[w], step + 1);
        }
    compare(&b);
    for (uint64_t step = 0; step < STEPS; step += 7) push(&b, 1, step);
    compare(&b);
    assert_int_equal(b.store.pushes, STEPS * WORKERS);
    assert_int_equal(b.store.dropped, 0);
    close_bed(&b);
}

/* Late ones of backup workers are dropped, and stay dropped when they are repeated. */
static void dropped_pushes_stay_dropped(void **state)
{
    (void)state;
    bed b;
    uint64_t keys[MOST];
    float g[MOST * WIDTH];
    td_store_taken taken;
    open_bed(&b, (td_clock){.kind = TD_CLOCK_BACKUP, .count = 2});
    for (uint64_t step = 0; step < 9; step++)
        for (int w = 0; w < WORKERS; w++) {
            td_store_push p = {w, step, true, 1, 1, 1, keys, 0, g};
            p.count = make_push(w, step, keys, g);
            for (int again = 0; again < 2 && w == 2; again++) {
                assert_ok(td_store_take_push(&b.store, &b.slices, &p, &taken));
                assert_false(taken.applied);
            }
            if (w == 2) continue;
            once(&b, w, step);
            assert_ok(td_store_take_push(&b.store, &b.slices, &p, &taken));
            assert_true(taken.applied);
        }
    assert_int_equal(b.store.pushes, 18);
    assert_int_equal(b.store.dropped, 9);
    compare(&b);
    close_bed(&b);
}

/* A push moves by less the more the others have pushed since its rows were read. */
static void rates_fall_with_staleness(void **state)
{
    (void)state;
    bed b;
    const uint64_t key = 5;
    const float g[WIDTH] = {1, 1};
    td_store_taken taken;
    open_bed(&b, (td_clock){0});
    b.store.config.by_staleness = true;
    for (uint64_t others = 0; others < 12; others++) {
        td_store_push p = {0, others, true, 1, 1, 1, &key, 1, g};
        p.read = td_clocks_others(&b.store.clocks, 0);
        for (uint64_t k = 0; k < others; k++)
            push(&b, 1 + (int)(k % 2), b.store.clocks.pushed[1 + k % 2]);
        assert_ok(td_store_take_push(&b.store, &b.slices, &p, &taken));
        uint64_t behind = (others + 1) / 3;
        assert_true(taken.factor == (behind > 1 ? 1 / (float)behind : 1));
        float first = taken.factor;
        for (int k = 0; k < 6; k++) push(&b, 1, b.store.clocks.pushed[1]);
        p.again = true; /* as if it had not been answered: by the same rate, however late */
        assert_ok(td_store_take_push(&b.store, &b.slices, &p, &taken));
        assert_true(taken.factor == first);
        p.factor = .25f, p.ticks = false, p.worker = 2; /* as another server has chosen it */
        assert_ok(td_store_take_push(&b.store, &b.slices, &p, &taken));
        assert_true(taken.factor == .25f);
    }
    close_bed(&b);
}

/* --- rows that nobody moves --- */

enum { AFTER = 20, SEEN = 60 };

typedef struct remembered {
    bed b;
    uint64_t pushes;
    uint64_t moved[SEEN]; /* which push moved the row last; one that a pull has made, the next */
    bool there[SEEN];
} remembered;

static uint64_t seen_key(uint64_t k)
{
    return (k + 1) * 0x9e3779b97f4a7c15;
}

/* Steps, by the mean of all workers' clocks, since a row was moved: its mark has those that were
 * known behind the push before. */
static uint64_t unmoved_for(const remembered *r, uint64_t k)
{
    uint64_t then = r->moved[k] > 2 ? (r->moved[k] - 2) / WORKERS : 0;
    return (r->pushes - 1) / WORKERS - then;
}

static bool is_forgotten(void *arg, uint64_t key)
{
    remembered *r = arg;
    for (uint64_t k = 0; k < SEEN; k++)
        if (seen_key(k) == key && unmoved_for(r, k) > AFTER) return !(r->there[k] = false);
    return false;
}

static void move_one(remembered *r, int worker, uint64_t k)
{
    const uint64_t key = seen_key(k), clock = r->b.store.clocks.pushed[worker];
    const float g[WIDTH] = {1, (float)k};
    td_store_taken taken;
    td_store_push p = {worker, clock, true, 1, 1, 1, &key, 1, g};
    td_table_step s = {.step = clock, .scale = 1, .rate_factor = 1, .decay = 1};
    assert_ok(td_store_take_push(&r->b.store, &r->b.slices, &p, &taken));
    assert_ok(td_table_push(r->b.oracle, &key, 1, g, s));
    r->moved[k] = ++r->pushes, r->there[k] = true;
    if (r->pushes % 64 == 0) td_table_drop(r->b.oracle, is_forgotten, r);
}

/* Reads make rows, but keep none. */
static void read_one(remembered *r, uint64_t k)
{
    const uint64_t key = seen_key(k);
    float got[WIDTH], want[WIDTH];
    assert_ok(td_store_pull(&r->b.store, &r->b.slices, 0, &key, NULL, 1, got));
    assert_ok(td_table_pull(r->b.oracle, &key, 1, want));
    assert_memory_equal(got, want, sizeof got);
    if (!r->there[k]) r->moved[k] = r->pushes + 1;
    r->there[k] = true;
}

/* Whoever pushes, and however far workers are apart; what is forgotten begins anew. */
static void rows_that_nobody_moves_are_forgotten(void **state)
{
    (void)state;
    remembered r = {0};
    td_rng rng;
    uint64_t forgotten = 0;
    td_rng_init(&rng, 16, TD_RNG_TEST, 0, 0);
    open_bed(&r.b, (td_clock){0});
    r.b.store.config.evict_after = AFTER;
    while (r.pushes < 6400) {
        uint32_t k = td_rng_below(&rng, td_rng_below(&rng, 2) ? SEEN : 3);
        size_t had = td_table_rows(r.b.oracle);
        move_one(&r, (int)td_rng_below(&rng, td_rng_below(&rng, 2) ? WORKERS : 1), k);
        if (td_rng_below(&rng, 4) == 0) read_one(&r, td_rng_below(&rng, SEEN));
        size_t has = td_table_rows(r.b.oracle);
        forgotten += has < had ? had - has : 0;
        assert_int_equal(td_table_rows(r.b.store.table), has);
        for (uint64_t i = 0; i < 3 && r.pushes > 640; i++) assert_true(r.there[i]); /* in use */
    }
    assert_true(forgotten > 200 && r.b.store.clocks.pushed[0] > r.b.store.clocks.pushed[1] + AFTER);
    for (uint64_t k = 0; k < SEEN; k++) read_one(&r, k);
    close_bed(&r.b);
}

/* A row that is kept is the newest that was put, unless all were emptied; never one too old. */
static void kept_rows_are_fresh_enough(void **state)
{
    (void)state;
    enum { ROOM = 32, TRIED = 90 };
    td_cache c;
    td_rng rng;
    float last[TRIED] = {0};
    uint64_t of[TRIED] = {0}, hits = 0;
    td_rng_init(&rng, 7, TD_RNG_TEST, 0, 0);
    assert_ok(td_cache_init(&c, ROOM, 1));
    for (uint64_t step = 1; step < 20000; step++) {
        uint64_t k = td_rng_below(&rng, td_rng_below(&rng, 2) ? TRIED : 20), key = k << 40 | k;
        td_age age;
        uint64_t least = step > 50 ? step - td_rng_below(&rng, 50) : 0;
        const float *row = td_cache_get(&c, key, least, &age);
        if (row) {
            assert_true(age.clock >= least && age.clock == of[k] && *row == last[k] && of[k]);
            hits++;
            continue;
        }
        last[k] = (float)step, of[k] = step;
        td_cache_put(&c, key, (td_age){step, 0}, &last[k]);
        assert_true(c.count <= c.rows);
        row = td_cache_get(&c, key, step, &age);
        assert_true(row && *row == last[k] && age.clock == step);
        assert_null(td_cache_get(&c, key, step + 1, &age));
        if (step % 1000) continue;
        td_cache_clear(&c);
        assert_null(td_cache_get(&c, key, 0, &age));
        memset(of, 0, sizeof of);
    }
    assert_true(hits > 1000);
    td_cache_fini(&c);
}

static td_status try_store(void *arg)
{
    (void)arg;
    td_cache cache = {0};
    td_store store = {0};
    td_store_config config = {.workers = WORKERS, .width = WIDTH};
    td_status status = td_store_init(&store, &config, NULL);
    if (status == TD_OK) status = td_cache_init(&cache, 20, 2);
    td_cache_fini(&cache);
    td_store_fini(&store);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    assert_survives_no_memory(try_store, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(repeated_pushes_count_once),
        cmocka_unit_test(dropped_pushes_stay_dropped),
        cmocka_unit_test(rates_fall_with_staleness),
        cmocka_unit_test(kept_rows_are_fresh_enough),
        cmocka_unit_test(rows_that_nobody_moves_are_forgotten),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
