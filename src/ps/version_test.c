/* A table with a memory limit as it was, while it goes on: against rows copied one by one. */
#include "base/error.h"
#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"
#include "ps/table.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/resource.h>

enum { KEYS = 30000, WIDTH = 5, FLOATS = 2 * WIDTH, BATCH = 300, LIMIT = 1 << 20 };
static char root[] = "/tmp/td-version-XXXXXX", folder[TD_PATH_MAX];

static uint64_t key_of(uint32_t k)
{
    return k == 0 ? UINT64_MAX : (uint64_t)k * 0x9e3779b97f4a7c15;
}

static td_table *make(size_t limit)
{
    td_table *t;
    td_table_config c = {.width = WIDTH,
                         .rule = "adagrad",
                         .lr = 0.1f,
                         .init = TD_TABLE_NORMAL,
                         .scale = 1,
                         .seed = 3,
                         .memory_bytes = limit,
                         .folder = folder};
    td_status status = td_table_create(&c, &t);
    if (status == TD_ERR_UNSUPPORTED) skip();
    assert_ok(status);
    return t;
}

static void push(td_table *t, td_rng *rng, uint32_t among)
{
    uint64_t keys[BATCH];
    float g[BATCH * WIDTH];
    for (int i = 0; i < BATCH; i++) keys[i] = key_of(td_rng_below(rng, among));
    for (int i = 0; i < BATCH * WIDTH; i++) g[i] = (float)td_rng_below(rng, 101) / 50 - 1;
    assert_ok(td_table_push(t, keys, BATCH, g,
                            (td_table_step){.scale = 1, .rate_factor = 1, .decay = 1}));
}

typedef struct listed {
    uint64_t key;
    uint32_t used;
    float row[FLOATS];
} listed;

typedef struct list {
    listed *of; /* [room] */
    size_t count;
} list;

static td_status add(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    list *l = arg;
    if (l->count == KEYS) return td_fail(TD_ERR_INTERNAL, "more rows than keys");
    l->of[l->count] = (listed){.key = key, .used = mark.used};
    memcpy(l->of[l->count++].row, row, sizeof l->of->row);
    return TD_OK;
}

static list empty_list(void)
{
    return (list){.of = calloc(KEYS, sizeof(listed))};
}

static void assert_same(const list *a, const list *b)
{
    assert_int_equal(a->count, b->count);
    assert_memory_equal(a->of, b->of, a->count * sizeof *a->of);
}

static bool is_even(void *arg, uint64_t key)
{
    (void)arg;
    return key % 2 == 0;
}

/* Whatever happens behind it: pushes, rows that come and go, evictions, a later version. */
static void a_version_stays(void **state)
{
    (void)state;
    td_table *t = make(LIMIT);
    td_rng rng = {0};
    td_table_version *version, *later;
    list then = empty_list(), seen = empty_list(), later_then = empty_list(), again = empty_list();
    for (int round = 0; round < 150; round++) {
        td_table_set_clock(t, (uint32_t)round);
        push(t, &rng, round % 3 ? KEYS : KEYS / 30);
    }
    td_table_stats s;
    td_table_measure(t, &s);
    assert_true(s.hot_rows < s.rows); /* some are cold */
    assert_ok(td_table_range(t, 0, UINT64_MAX, add, &then));
    assert_ok(td_table_freeze(t, &version));
    for (int round = 150; round < 250; round++) {
        td_table_set_clock(t, (uint32_t)round);
        push(t, &rng, round % 3 ? KEYS : KEYS / 30);
        if (round == 200) td_table_evict(t, 40), td_table_drop(t, is_even, NULL);
    }
    assert_ok(td_table_range(t, 0, UINT64_MAX, add, &later_then));
    assert_ok(td_table_freeze(t, &later));
    push(t, &rng, KEYS);
    assert_ok(td_table_version_each(version, add, &seen));
    assert_same(&then, &seen);
    seen.count = 0;
    assert_ok(td_table_version_each(version, add, &seen));
    assert_same(&then, &seen);
    td_table_version_free(version);
    assert_ok(td_table_version_each(later, add, &again));
    assert_same(&later_then, &again);
    td_table_version_free(later), td_table_version_free(NULL);
    td_table_destroy(t);
    free(then.of), free(seen.of), free(later_then.of), free(again.of);
}

typedef struct reader {
    const td_table_version *version;
    list seen;
    td_status status;
} reader;

static void *read_all(void *arg)
{
    reader *r = arg;
    r->status = td_table_version_each(r->version, add, &r->seen);
    return NULL;
}

/* A thread reads it while the table goes on, and the table is none the worse: its rows are those of
 * one without a limit. */
static void a_version_is_read_beside_pushes(void **state)
{
    (void)state;
    td_table *t = make(LIMIT), *unlimited = make(0);
    td_rng rng = {0}, same = {0};
    reader r = {.seen = empty_list()};
    list then = empty_list(), want = empty_list(), have = empty_list();
    pthread_t thread;
    td_table_version *version;
    for (int round = 0; round < 150; round++) push(t, &rng, KEYS), push(unlimited, &same, KEYS);
    assert_ok(td_table_range(unlimited, 0, UINT64_MAX, add, &then));
    assert_ok(td_table_freeze(t, &version));
    r.version = version;
    assert_int_equal(pthread_create(&thread, NULL, read_all, &r), 0);
    for (int round = 0; round < 100; round++) push(t, &rng, KEYS), push(unlimited, &same, KEYS);
    pthread_join(thread, NULL);
    assert_ok(r.status);
    assert_same(&then, &r.seen);
    td_table_version_free(version);
    assert_ok(td_table_range(unlimited, 0, UINT64_MAX, add, &want));
    assert_ok(td_table_range(t, 0, UINT64_MAX, add, &have));
    assert_same(&want, &have);
    td_table_destroy(t), td_table_destroy(unlimited);
    free(r.seen.of), free(then.of), free(want.of), free(have.of);
}

/* A version leaves cold rows the room that they keep for themselves, else the table might not live
 * on. What limits files is looked at together with the disk, and needs none. */
static void a_version_leaves_room_for_cold_rows(void **state)
{
    (void)state;
    struct rlimit before, small;
    td_table *t = make(LIMIT);
    td_rng rng = {0};
    td_table_version *version;
    list want = empty_list(), have = empty_list();
    for (int round = 0; round < 20; round++) push(t, &rng, KEYS);
    assert_ok(td_table_range(t, 0, UINT64_MAX, add, &want));
    getrlimit(RLIMIT_FSIZE, &before);
    small = before, small.rlim_cur = 2 << 20; /* more than the version takes */
    setrlimit(RLIMIT_FSIZE, &small);
    td_status status = td_table_freeze(t, &version);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(status, TD_ERR_FULL);
    assert_non_null(strstr(td_last_error(), folder));
    assert_ok(td_table_freeze(t, &version));
    assert_ok(td_table_version_each(version, add, &have));
    assert_same(&want, &have);
    td_table_version_free(version);
    td_table_destroy(t);
    free(want.of), free(have.of);
}

static void a_table_without_a_limit_is_refused(void **state)
{
    (void)state;
    td_table *t = make(0);
    td_table_version *version;
    assert_int_equal(td_table_freeze(t, &version), TD_ERR_ARG);
    td_table_destroy(t);
}

static int make_root(void **state)
{
    (void)state;
    if (!mkdtemp(root)) return -1;
    return td_path_join(folder, root, "cold") == TD_OK ? 0 : -1;
}

static int remove_root(void **state)
{
    (void)state;
    return td_remove_tree(root) == TD_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_version_stays),
                                       cmocka_unit_test(a_version_is_read_beside_pushes),
                                       cmocka_unit_test(a_version_leaves_room_for_cold_rows),
                                       cmocka_unit_test(a_table_without_a_limit_is_refused)};
    return cmocka_run_group_tests(tests, make_root, remove_root);
}
