/* Slices copied from a table that goes on: what has arrived is each slice as it was at one moment,
 * whatever was cold then, came, or was forgotten meanwhile; and pushes set aside make up for what
 * came later, to the bit. */
#include "ps/giver.h"
#include "ps/store.h"

#include "base/alloc.h"
#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"

#include <stdlib.h>

enum { KEYS = 6000, WIDTH = 32, TAKERS = 2, MOST = 60, LIMIT = 640 << 10 };

static char root[] = "/tmp/td-giver-XXXXXX";

typedef struct trial {
    bool giver_limited, taker_limited, evicts;
    uint32_t admit;
} trial;

typedef struct bed {
    const trial *t;
    td_table *giver, *taker[TAKERS];
    td_slices slices;
    int32_t to[TD_SLICES];
    td_rng rng;
    uint32_t now;
} bed;

static td_table *new_table(const trial *t, bool limited, int number)
{
    char folder[64];
    td_table *out = NULL;
    snprintf(folder, sizeof folder, "%s/%d", root, number);
    td_table_config c = {.width = WIDTH, .rule = "adagrad", .lr = .1f, .admit = t->admit};
    if (limited) c.memory_bytes = LIMIT, c.folder = folder;
    td_status status = td_table_create(&c, &out);
    if (status != TD_ERR_UNSUPPORTED) assert_ok(status);
    return out;
}

static uint64_t key_of(uint64_t k)
{
    return k * 0x9e3779b97f4a7c15 + 1;
}

static size_t draw(bed *b, uint64_t keys[MOST], float g[MOST * WIDTH])
{
    size_t n = 1 + td_rng_below(&b->rng, MOST - 1);
    uint64_t first = td_rng_below(&b->rng, KEYS);
    for (size_t i = 0; i < n; i++) keys[i] = key_of((first + i * i * 7) % KEYS);
    for (size_t i = 0; i < n * WIDTH; i++) g[i] = (float)td_rng_below(&b->rng, 64) - 31.5f;
    return n;
}

/* As runs do: pushes, pulls, now and then what was not used for long is forgotten, by all. */
static void use(bed *b)
{
    uint64_t keys[MOST];
    float g[MOST * WIDTH], out[MOST * WIDTH];
    for (uint64_t times = td_rng_below(&b->rng, 6); times > 0; times--) {
        size_t n = draw(b, keys, g);
        td_table_step step = {.step = b->now, .scale = 1, .rate_factor = 1, .decay = 1};
        td_table_set_clock(b->giver, ++b->now);
        if (td_rng_below(&b->rng, 3))
            assert_ok(td_table_push(b->giver, keys, n, g, step));
        else
            assert_ok(td_table_pull(b->giver, keys, n, out));
        if (!b->t->evicts || b->now % 16 || b->now < 400) continue;
        td_table_evict(b->giver, b->now - 300);
        for (int k = 0; k < TAKERS; k++) td_table_evict(b->taker[k], b->now - 300);
    }
}

/* --- comparing a slice of two tables --- */

typedef struct part {
    const bed *b;
    int slice;
    size_t floats; /* of a row */
    td_items items;
} part;

static td_status if_in_slice(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    part *p = arg;
    if (td_slice_of(&p->b->slices, key) != p->slice) return TD_OK;
    return td_items_add(&p->items, p->floats, key, mark, row);
}

static int by_key(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof x), memcpy(&y, b, sizeof y);
    return (x > y) - (x < y);
}

/* Of a table with a limit sightings may be forgotten. */
static td_items all_of(const bed *b, const td_table *table, int slice, bool rows_only)
{
    part p = {.b = b, .slice = slice, .floats = td_table_row_floats(table)};
    size_t item = td_item_bytes(p.floats), n = 0;
    assert_ok(td_table_each_key(table, if_in_slice, &p));
    for (size_t at = 0; at < p.items.bytes; at += item) {
        td_table_mark mark;
        memcpy(&mark, p.items.data + at + 8, sizeof mark);
        if (mark.seen && rows_only) continue;
        if (mark.seen) memset(p.items.data + at + 16, 0, item - 16);
        memmove(p.items.data + n++ * item, p.items.data + at, item);
    }
    p.items.bytes = n * item;
    if (n) qsort(p.items.data, n, item, by_key);
    return p.items;
}

static void are_alike(const bed *b, int slice, const td_table *taker)
{
    bool limited = b->t->giver_limited || b->t->taker_limited;
    td_items want = all_of(b, b->giver, slice, limited), got = all_of(b, taker, slice, limited);
    assert_int_equal(got.bytes, want.bytes);
    if (got.bytes) assert_memory_equal(got.data, want.data, got.bytes);
    td_free(want.data), td_free(got.data);
}

/* --- from beginning to end --- */

static void adopt(bed *b, td_items out[TAKERS])
{
    for (int k = 0; k < TAKERS; k++) {
        if (out[k].bytes) assert_ok(td_items_adopt(out[k].data, out[k].bytes, b->taker[k]));
        out[k].bytes = 0;
    }
}

static void give_all(bed *b)
{
    td_giver *giver;
    td_items out[TAKERS] = {{0}};
    int given = 0, last = -1;
    bool more = true;
    assert_ok(td_giver_open(b->giver, &b->slices, b->to, &giver));
    while (more) {
        use(b);
        assert_ok(td_giver_cold(giver, out, &more));
        use(b);
        adopt(b, out);
    }
    for (int slice; (slice = td_giver_next(giver)) >= 0; given++) {
        assert_true(slice > last && b->to[slice] >= 0);
        use(b);
        assert_ok(td_giver_slice(giver, out));
        adopt(b, out);
        are_alike(b, slice, b->taker[b->to[slice]]);
        last = slice;
    }
    for (int k = 0; k < TD_SLICES; k++) given -= b->to[k] >= 0;
    assert_int_equal(given, 0);
    td_giver_close(giver);
    for (int k = 0; k < TAKERS; k++) td_free(out[k].data);
}

static void a_slice_comes_as_it_was_at_one_moment(void **state)
{
    (void)state;
    static const trial trials[] = {{false, false, false, 1}, {false, false, true, 3},
                                   {true, false, false, 1},  {true, true, false, 2},
                                   {false, true, true, 1},   {true, true, true, 1}};
    assert_non_null(mkdtemp(root));
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) {
        bed b = {.t = &trials[k]};
        td_rng_init(&b.rng, 31, TD_RNG_TEST, k, 0);
        td_slices_deal(&b.slices, 0, (int[]){0}, 1, 0);
        for (int s = 0; s < TD_SLICES; s++) b.to[s] = s % 5 < TAKERS ? s % 5 : -1;
        b.giver = new_table(b.t, b.t->giver_limited, 0);
        for (int i = 0; i < TAKERS; i++) b.taker[i] = new_table(b.t, b.t->taker_limited, 1 + i);
        bool has = b.giver && b.taker[0] && b.taker[1];
        for (int i = 0; i < 300 && has; i++) use(&b);
        td_table_stats stats = {0};
        if (has) td_table_measure(b.giver, &stats);
        assert_true(!has || (stats.hot_rows < stats.rows) == b.t->giver_limited);
        if (has) give_all(&b); /* else built without RocksDB */
        td_table_destroy(b.giver);
        for (int i = 0; i < TAKERS; i++) td_table_destroy(b.taker[i]);
    }
    assert_ok(td_remove_tree(root));
}

/* --- pushes set aside --- */

enum { WORKERS = 3 };

static bool all_go(void *arg, uint64_t key)
{
    (void)arg, (void)key;
    return true;
}

typedef struct pair {
    td_store store[2]; /* who has all, and who is to have it */
    uint64_t clock[WORKERS];
    bool has[WORKERS][2]; /* the worker's push of that clock */
} pair;

static void open_store(td_store *s)
{
    td_table *table;
    td_table_config c = {.width = WIDTH, .lr = 1};
    td_store_config config = {.workers = WORKERS, .width = WIDTH};
    assert_ok(td_table_create(&c, &table));
    assert_ok(td_store_init(s, &config, table));
}

/* A worker's push comes to one of the two, whichever is first, perhaps twice; when both have it, it
 * is acknowledged, and the worker goes on. Gradients are whole numbers: sums do not depend on
 * order.
 */
static void deliver_to(bed *b, pair *p, int w, int k)
{
    uint64_t keys[MOST];
    float g[MOST * WIDTH];
    td_rng rng;
    td_store_taken taken;
    td_rng_init(&rng, 33, TD_RNG_TEST, (uint64_t)w, p->clock[w]);
    size_t n = 1 + td_rng_below(&rng, MOST - 1);
    uint64_t first = td_rng_below(&rng, KEYS);
    for (size_t i = 0; i < n; i++) keys[i] = key_of((first + i * 7) % KEYS);
    for (size_t i = 0; i < n * WIDTH; i++) g[i] = (float)td_rng_below(&rng, 9) - 4;
    td_store_push push = {w, p->clock[w], k == 0, 1, 1, 1, keys, n, g};
    push.again = p->has[w][k];
    assert_ok(td_store_take_push(&p->store[k], &b->slices, &push, &taken));
    assert_true(taken.applied);
    p->has[w][k] = true;
    if (!p->has[w][0] || !p->has[w][1]) return;
    p->has[w][0] = p->has[w][1] = false;
    p->clock[w]++;
}

static void deliver(bed *b, pair *p)
{
    int w = (int)td_rng_below(&b->rng, WORKERS);
    deliver_to(b, p, w, (int)td_rng_below(&b->rng, 2));
}

static void deliver_some(bed *b, pair *p)
{
    for (uint64_t k = td_rng_below(&b->rng, 8); k > 0; k--) deliver(b, p);
}

static void give_slices(bed *b, pair *p)
{
    td_giver *giver;
    td_items out = {0};
    bool more;
    assert_ok(td_giver_open(p->store[0].table, &b->slices, b->to, &giver));
    deliver_some(b, p);
    assert_ok(td_giver_cold(giver, &out, &more));
    assert_true(!more && !out.bytes);
    for (int slice; (slice = td_giver_next(giver)) >= 0;) {
        uint64_t had[WORKERS];
        deliver_some(b, p);
        memcpy(had, p->store[0].newest + slice * WORKERS, sizeof had);
        assert_ok(td_giver_slice(giver, &out));
        deliver_some(b, p);
        assert_ok(td_items_adopt(out.data, out.bytes, p->store[1].table));
        out.bytes = 0;
        deliver_some(b, p);
        assert_ok(td_store_arrived(&p->store[1], &b->slices, slice, had));
        assert_false(p->store[1].comes[slice]);
    }
    td_giver_close(giver);
    td_free(out.data);
}

static void pushes_set_aside_are_made_up_for(void **state)
{
    (void)state;
    static const trial plain = {.admit = 1};
    for (uint64_t seed = 0; seed < 5; seed++) {
        bed b = {.t = &plain};
        pair p = {0};
        bool comes[TD_SLICES];
        td_rng_init(&b.rng, 34, TD_RNG_TEST, seed, 0);
        td_slices_deal(&b.slices, 0, (int[]){0}, 1, 0);
        for (int s = 0; s < TD_SLICES; s++) b.to[s] = 0, comes[s] = true;
        open_store(&p.store[0]), open_store(&p.store[1]);
        while (p.clock[0] < 60) deliver(&b, &p);
        td_table_drop(p.store[1].table, all_go, NULL); /* it is new from here on */
        for (int w = 0; w < WORKERS; w++) p.has[w][1] = false;
        td_store_expect(&p.store[1], comes);
        give_slices(&b, &p);
        assert_true(p.store[1].coming == 0 && p.store[1].aside_bytes == 0);
        for (int w = 0; w < WORKERS; w++) /* what is on its way */
            while (p.has[w][0] || p.has[w][1]) deliver_to(&b, &p, w, p.has[w][0]);
        b.giver = p.store[0].table;
        for (int s = 0; s < TD_SLICES; s++) are_alike(&b, s, p.store[1].table);
        td_store_fini(&p.store[0]), td_store_fini(&p.store[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_slice_comes_as_it_was_at_one_moment),
                                       cmocka_unit_test(pushes_set_aside_are_made_up_for)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
