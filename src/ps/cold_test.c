/* Tables with a memory limit against tables without one, bit for bit; full disks, folders in use,
 * and memory that runs out. */
#include "ps/table.h"

#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { KEYS = 40000, MOST = 600, LIMIT = 1 << 20 };
static char root[] = "/tmp/td-cold-XXXXXX", folder[TD_PATH_MAX];

static const td_table_step plain = {.scale = 1, .rate_factor = 1, .decay = 1};

static td_table_config limited(td_table_config c)
{
    c.memory_bytes = LIMIT, c.folder = folder;
    if (c.lr == 0) c.lr = 0.1f;
    return c;
}

/* A table with a limit; where there is no RocksDB the test ends here. */
static td_table *make(td_table_config c)
{
    td_table *t;
    c = limited(c);
    td_status status = td_table_create(&c, &t);
#if !__has_include(<ps/td_rocksdb.h>) /* built without */
    assert_fails(TD_ERR_UNSUPPORTED, "needs RocksDB", status);
    skip();
#endif
    assert_ok(status);
    return t;
}

static td_table_stats stats_of(const td_table *t)
{
    td_table_stats s;
    td_table_measure(t, &s);
    assert_true(s.hot_rows <= s.rows && s.rows == td_table_rows(t));
    return s;
}

/* --- the same as without a limit --- */

typedef struct pair {
    td_table *free, *limited;
    size_t floats; /* of a row */
    td_rng rng;
    uint64_t keys[MOST];
    uint32_t count;
    float *values, *others; /* [MOST][floats] */
} pair;

/* Few keys are asked for often, most now and then; neighbours differ in all bits, or in few. */
static uint64_t key_of(uint32_t k)
{
    return k == 0 ? UINT64_MAX : k % 2 ? k : (uint64_t)k * 0x9e3779b97f4a7c15;
}

static void draw(pair *p)
{
    p->count = td_rng_below(&p->rng, MOST);
    for (uint32_t i = 0; i < p->count; i++)
        p->keys[i] = key_of(td_rng_below(&p->rng, td_rng_below(&p->rng, 3) ? KEYS / 20 : KEYS));
    for (size_t i = 0; i < p->count * p->floats; i++)
        p->values[i] = (float)td_rng_below(&p->rng, 1001) / 500 - 1;
}

static void pull(pair *p, size_t width)
{
    float *x = p->values, *y = p->others;
    assert_ok(td_table_pull(p->free, p->keys, p->count, x));
    assert_ok(td_table_pull(p->limited, p->keys, p->count, y));
    assert_memory_equal(x, y, p->count * width * sizeof *x);
}

static void peek(pair *p, size_t width)
{
    float *x = p->values, *y = p->others;
    uint32_t places[MOST], n = p->count; /* of a batch that has them the other way round */
    for (uint32_t i = 0; i < n; i++) places[i] = n - 1 - i;
    assert_ok(td_table_peek(p->free, p->keys, n, x));
    assert_ok(td_table_peek(p->limited, p->keys, n, y));
    assert_memory_equal(x, y, n * width * sizeof *x);
    assert_ok(td_table_peek_at(p->limited, p->keys, places, n, y));
    for (uint32_t i = 0; i < n; i++)
        assert_memory_equal(x + i * width, y + (n - 1 - i) * width, width * sizeof *x);
}

static void push(pair *p, uint64_t step)
{
    td_table_step s = {.step = step, .scale = .5f, .rate_factor = 1, .decay = 1};
    assert_ok(td_table_push(p->free, p->keys, p->count, p->values, s));
    assert_ok(td_table_push(p->limited, p->keys, p->count, p->values, s));
}

static void put(pair *p)
{
    for (uint32_t i = 0; i < p->count; i++) {
        assert_ok(td_table_put(p->free, p->keys[i], p->values + i * p->floats));
        assert_ok(td_table_put(p->limited, p->keys[i], p->values + i * p->floats));
    }
}

static td_status halve(void *arg, uint64_t key, float *row)
{
    row[0] = row[0] / 2 + (float)(key % 7);
    ++*(size_t *)arg;
    return TD_OK;
}

static void apply(pair *p)
{
    size_t a = 0, b = 0;
    assert_ok(td_table_apply(p->free, p->keys, p->count, halve, &a));
    assert_ok(td_table_apply(p->limited, p->keys, p->count, halve, &b));
    assert_true(a == p->count && b == p->count);
}

typedef struct listing {
    uint64_t *keys;
    float *rows;
    size_t count, floats;
} listing;

static td_status list(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    listing *l = arg;
    assert_int_equal(mark.seen, 0);
    assert_true(l->count < KEYS);
    l->keys[l->count] = key;
    memcpy(l->rows + l->count++ * l->floats, row, l->floats * sizeof *row);
    return TD_OK;
}

static listing list_of(const td_table *t, uint64_t first, uint64_t last)
{
    listing l = {.floats = td_table_row_floats(t), .keys = malloc(KEYS * sizeof *l.keys)};
    l.rows = malloc(KEYS * (l.floats + 1) * sizeof *l.rows);
    assert_ok(td_table_range(t, first, last, list, &l));
    for (size_t i = 0; i < l.count; i++) {
        assert_true(l.keys[i] >= first && l.keys[i] <= last);
        assert_true(!i || l.keys[i - 1] < l.keys[i]);
    }
    return l;
}

/* The same by a few rows at a time. */
static void compare_some(const td_table *t, uint64_t first, uint64_t last, size_t most)
{
    listing whole = list_of(t, first, last), l = whole;
    l.keys = malloc(KEYS * sizeof *l.keys), l.rows = malloc(KEYS * l.floats * sizeof *l.rows);
    l.count = 0;
    for (size_t got = most; got == most && first <= last && (!l.count || first);) {
        size_t before = l.count;
        assert_ok(td_table_range_some(t, first, last, most, list, &l));
        got = l.count - before;
        assert_true(got <= most);
        if (l.count) first = l.keys[l.count - 1] + 1;
    }
    assert_int_equal(l.count, whole.count);
    assert_memory_equal(l.keys, whole.keys, l.count * sizeof *l.keys);
    assert_memory_equal(l.rows, whole.rows, l.count * l.floats * sizeof *l.rows);
    free(l.keys), free(l.rows), free(whole.keys), free(whole.rows);
}

static void compare_range(pair *p, uint64_t first, uint64_t last)
{
    listing a = list_of(p->free, first, last), b = list_of(p->limited, first, last);
    assert_int_equal(a.count, b.count);
    assert_memory_equal(a.keys, b.keys, a.count * sizeof *a.keys);
    assert_memory_equal(a.rows, b.rows, a.count * a.floats * sizeof *a.rows);
    if (first == 0 && last == UINT64_MAX) assert_int_equal(a.count, td_table_rows(p->free));
    assert_ok(td_table_find(p->free, a.keys, a.count, a.rows)); /* weights, and a number for each */
    assert_ok(td_table_find(p->limited, a.keys, a.count, b.rows));
    assert_memory_equal(a.rows, b.rows, a.count * (td_table_config_of(p->free)->width + 1) * 4);
    free(a.keys), free(a.rows), free(b.keys), free(b.rows);
}

static td_status put_into(void *arg, uint64_t key, const float *row)
{
    return td_table_put(arg, key, row);
}

/* td_table_each gives the same rows, in whatever order. */
static void compare_each(pair *p, td_table_config c)
{
    pair copies = *p;
    c.lr = .1f;
    assert_ok(td_table_create(&c, &copies.free));
    assert_ok(td_table_create(&c, &copies.limited));
    assert_ok(td_table_each(p->free, put_into, copies.free));
    assert_ok(td_table_each(p->limited, put_into, copies.limited));
    compare_range(&copies, 0, UINT64_MAX);
    compare_some(p->free, 0, UINT64_MAX, 1000);
    compare_some(p->limited, 0, UINT64_MAX, 1000);
    compare_some(p->limited, key_of(3), key_of(3) + ((uint64_t)1 << 61), 37);
    td_table_destroy(copies.free), td_table_destroy(copies.limited);
}

static void work(pair *p, uint32_t now, size_t width)
{
    draw(p);
    td_table_set_clock(p->free, now), td_table_set_clock(p->limited, now);
    switch (td_rng_below(&p->rng, 8)) {
    case 0:
    case 1: pull(p, width); break;
    case 2: peek(p, width); break;
    case 3: put(p); break;
    case 4: apply(p); break;
    default: push(p, now); break;
    }
    if (now % 233 == 0) {
        uint32_t least = now - td_rng_below(&p->rng, 200);
        size_t gone = td_table_evict(p->free, least);
        assert_int_equal(td_table_evict(p->limited, least), gone);
    }
    assert_int_equal(td_table_rows(p->free), td_table_rows(p->limited));
    if (now % 40 == 0) compare_range(p, key_of(now), key_of(now) + ((uint64_t)1 << 62));
}

static void a_limit_changes_no_bit(void **state)
{
    (void)state;
    static const size_t widths[] = {1, 5, 16, 7, 31};
    uint32_t some = getenv("TANDEM_TEST_SHORT") != NULL, rounds = some ? 250 : 600;
    for (uint32_t r = some; td_table_rule_names[r]; r += some ? 2 : 1) {
        td_table_config c = {.rule = td_table_rule_names[r],
                             .width = widths[r],
                             .init = r % 2 ? TD_TABLE_NORMAL : TD_TABLE_UNIFORM,
                             .scale = 1,
                             .seed = 3};
        pair p = {.limited = make(c)};
        c.lr = .1f;
        assert_ok(td_table_create(&c, &p.free));
        p.floats = td_table_row_floats(p.free);
        p.values = malloc(MOST * p.floats * sizeof *p.values);
        p.others = malloc(MOST * p.floats * sizeof *p.others);
        td_rng_init(&p.rng, 5, TD_RNG_TEST, r, 0);
        for (uint32_t now = 1; now < rounds; now++) work(&p, now, c.width);
        compare_range(&p, 0, UINT64_MAX);
        compare_each(&p, c);
        td_table_stats s = stats_of(p.limited);
        if (r) assert_true(s.cold_reads > 0 && s.cold_writes > 0 && s.hot_rows < s.rows);
        assert_int_equal(td_table_evict(p.limited, UINT32_MAX), td_table_rows(p.free));
        assert_int_equal(td_table_rows(p.limited), 0);
        compare_range(&(pair){.free = p.limited, .limited = p.limited}, 0, UINT64_MAX);
        td_table_destroy(p.free), td_table_destroy(p.limited);
        free(p.values), free(p.others);
    }
}

/* --- single properties --- */

/* Keys first to first + count, one push of 1 each. */
static td_status push_keys(td_table *t, uint64_t first, size_t count)
{
    uint64_t keys[500];
    float ones[500 * 8];
    assert_true(td_table_row_floats(t) == 8);
    for (size_t i = 0; i < 500 * 8; i++) ones[i] = 1;
    for (size_t at = 0; at < count; at += 500) {
        size_t n = count - at < 500 ? count - at : 500;
        for (size_t i = 0; i < n; i++) keys[i] = first + at + i;
        td_status status = td_table_push(t, keys, n, ones, plain);
        if (status != TD_OK) return status;
    }
    return TD_OK;
}

static const td_table_config eights = {.width = 8, .lr = 1};

static void memory_stays_within_its_share(void **state)
{
    (void)state;
    td_table *t = make(eights);
    size_t idle = stats_of(t).bytes;
    for (int round = 0; round < 3; round++) assert_ok(push_keys(t, 1000, 90000));
    td_table_stats s = stats_of(t);
    assert_int_equal(s.rows, 90000);
    assert_true(s.hot_rows > 10000 && s.hot_rows < 24000);
    assert_int_equal(s.hits + s.misses, 0); /* they were pushes */
    assert_true(s.cold_reads > 100000 && s.cold_writes > 200000 && s.disk_bytes > 1000000);
    assert_true(s.bytes < LIMIT + LIMIT / 2 && s.bytes > idle);
    td_table_destroy(t);
}

static void rows_that_do_not_change_are_written_once(void **state)
{
    (void)state;
    td_table *t = make(eights);
    uint64_t keys[500];
    float out[500 * 8];
    assert_ok(push_keys(t, 0, 50000));
    for (uint64_t round = 0; round < 2; round++) {
        td_table_stats before = stats_of(t);
        for (uint64_t at = 0; at < 50000; at += 500) {
            for (uint64_t i = 0; i < 500; i++) keys[i] = at + i;
            assert_ok(td_table_pull(t, keys, 500, out));
            for (int i = 0; i < 500 * 8; i++) assert_true(out[i] == -1);
        }
        td_table_stats s = stats_of(t);
        assert_true(s.cold_reads > before.cold_reads + 30000);
        if (round) assert_true(s.cold_writes == before.cold_writes);
    }
    td_table_destroy(t);
}

static void a_row_taken_out_does_not_come_back_from_its_copy(void **state)
{
    (void)state;
    td_table *t = make(eights);
    uint64_t key = 7;
    float out[8];
    td_table_set_clock(t, 1);
    assert_ok(push_keys(t, 0, 50000));
    td_table_set_clock(t, 2);
    assert_ok(push_keys(t, key, 1)); /* hot, with a copy of 1 */
    td_table_set_clock(t, 3);
    assert_ok(push_keys(t, 100000, 500));
    assert_int_equal(td_table_evict(t, 2), 49999);
    assert_ok(td_table_peek(t, &key, 1, out));
    assert_true(out[0] == -2);
    assert_int_equal(td_table_evict(t, 3), 1);
    assert_ok(td_table_pull(t, &key, 1, out));
    assert_true(out[0] == 0);
    assert_int_equal(td_table_rows(t), 501);
    td_table_destroy(t);
}

static void sightings_count_while_there_is_room(void **state)
{
    (void)state;
    td_table_config c = eights;
    c.admit = 3;
    td_table *t = make(c);
    for (int k = 1; k <= 4; k++) {
        assert_ok(push_keys(t, 0, 3000));
        assert_int_equal(td_table_rows(t), k < 3 ? 0 : 3000);
    }
    assert_ok(push_keys(t, 10000, 100000)); /* seen once, and forgotten */
    assert_int_equal(td_table_rows(t), 3000);
    uint64_t key = 2999;
    float out[8];
    assert_ok(td_table_peek(t, &key, 1, out));
    assert_true(out[0] == -2);
    td_table_destroy(t);
}

static void a_request_beyond_the_limit_moves_nothing(void **state)
{
    (void)state;
    enum { MANY = 60000 };
    td_table *t = make(eights);
    uint64_t *keys = malloc(MANY * sizeof *keys);
    float *values = calloc(MANY * 8, sizeof *values), out[8];
    for (uint64_t i = 0; i < MANY; i++) keys[i] = i, values[8 * i] = 1;
    assert_ok(push_keys(t, 0, 50000));
    assert_fails(TD_ERR_ARG, "do not fit into a table's memory limit of 1048576 bytes",
                 td_table_push(t, keys, MANY, values, plain));
    for (uint64_t i = 0; i < MANY; i += 999) {
        assert_ok(td_table_peek(t, keys + i, 1, out));
        assert_true(out[0] == (i < 50000 ? -1 : 0));
    }
    for (uint64_t i = 0; i < MANY; i++) keys[i] = i % 3000; /* many of few rows fit */
    assert_ok(td_table_push(t, keys, MANY, values, plain));
    assert_ok(td_table_peek(t, keys, 1, out));
    assert_true(out[0] == -1 - MANY / 3000);
    td_table_destroy(t);
    free(keys), free(values);
}

/* --- faults --- */

static td_status attempt(void *arg)
{
    td_table *t = NULL;
    td_table_config c = limited(eights);
    float out[8];
    uint64_t key = 5;
    (void)arg;
    td_status status = td_table_create(&c, &t);
    if (status != TD_OK) return status;
    status = push_keys(t, 0, 40000);
    for (int k = 0; k < 3 && status == TD_OK; k++) status = push_keys(t, 0, 500);
    if (status == TD_OK) status = td_table_peek(t, &key, 1, out);
    if (status == TD_OK) assert_true(out[0] == -4);
    td_table_destroy(t);
    return status;
}

static void it_says_when_there_is_no_memory(void **state)
{
    (void)state;
    td_table_destroy(make(eights));
    assert_survives_no_memory(attempt, NULL);
}

/* Rows that a failed push has brought in or made are as they were. */
static void assert_whole(td_table *t, uint64_t pushed)
{
    float out[8];
    for (uint64_t key = 0; key < pushed + 1000; key++) {
        assert_ok(td_table_peek(t, &key, 1, out));
        assert_true(out[0] == (key < pushed ? -1 : 0) && out[7] == out[0]);
    }
}

/* Fills the disk, and then makes room: no row is lost, and work goes on. */
static void fill(td_table *t, uint64_t *pushed)
{
    td_status status = TD_OK;
    for (*pushed = 0; *pushed < 2000000 && status == TD_OK; *pushed += 500)
        status = push_keys(t, *pushed, 500);
    *pushed -= 500;
    if (status != TD_ERR_FULL) fail_msg("%s: %s", td_status_name(status), td_last_error());
    if (!strstr(td_last_error(), folder)) fail_msg("%s", td_last_error());
    assert_fails(TD_ERR_FULL, folder, push_keys(t, *pushed, 500));
    assert_whole(t, *pushed);
}

/* A write beyond a file's largest size fails as one on a full disk does, but needs no disk. */
static void a_disk_that_refuses_costs_no_row(void **state)
{
    (void)state;
    struct rlimit before, small;
    td_table *t = make(eights);
    uint64_t pushed;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before, small.rlim_cur = 1 << 20;
    setrlimit(RLIMIT_FSIZE, &small);
    fill(t, &pushed);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_whole(t, pushed);
    td_table_destroy(t);
    assert_false(td_path_exists(folder));
}

static void a_full_disk_costs_no_row(void **state)
{
    (void)state;
    char disk[TD_PATH_MAX], ballast[TD_PATH_MAX], was[TD_PATH_MAX];
    td_table_destroy(make(eights));
    assert_ok(td_path_join(disk, root, "disk"));
    assert_ok(td_make_dirs(disk));
    if (mount("tmpfs", disk, "tmpfs", 0, "size=24m") != 0) skip();
    memcpy(was, folder, sizeof was);
    assert_ok(td_path_join(folder, disk, "cold"));
    assert_ok(td_path_join(ballast, disk, "ballast"));
    char *bytes = calloc(1, 16 << 20);
    assert_ok(td_write_file(ballast, bytes, 16 << 20));
    free(bytes);
    td_table *t = make(eights);
    uint64_t pushed;
    fill(t, &pushed);
    assert_ok(td_remove_tree(ballast));
    for (uint64_t more = 0; more < 5500; more += 500) {
        td_status status = TD_ERR_FULL; /* RocksDB looks every few seconds whether there is room */
        for (int k = 0; k < 300 && status == TD_ERR_FULL; k++) {
            status = push_keys(t, pushed + more, 500);
            if (status == TD_ERR_FULL) usleep(100000);
        }
        assert_ok(status);
    }
    assert_whole(t, pushed + 5500);
    td_table_destroy(t);
    memcpy(folder, was, sizeof was);
    assert_int_equal(umount(disk), 0);
}

/* --- folders --- */

/* This program in another process, which does `what` with the folder. */
static int run_again(const char *what)
{
    int result = -1;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "cold_test", what, folder, (char *)NULL);
        _exit(1);
    }
    assert_true(waitpid(child, &result, 0) == child);
    return result;
}

static int other_run(const char *what)
{
    td_table_config c = limited(eights);
    td_table *t;
    td_status status = td_table_create(&c, &t);
    if (!strcmp(what, "refused"))
        return status == TD_ERR_ARG && strstr(td_last_error(), "another run keeps") ? 0 : 1;
    if (status == TD_OK && push_keys(t, 0, 60000) == TD_OK) raise(SIGKILL);
    return 1;
}

static void a_folder_is_one_runs(void **state)
{
    (void)state;
    td_table *t = make(eights), *other;
    td_table_config c = limited(eights);
    assert_ok(push_keys(t, 0, 40000));
    assert_fails(TD_ERR_ARG, "another run keeps its cold rows in", td_table_create(&c, &other));
    assert_non_null(strstr(td_last_error(), folder));
    int result = run_again("refused"); /* another process is refused as well */
    assert_true(WIFEXITED(result) && WEXITSTATUS(result) == 0);
    assert_whole(t, 40000);
    td_table_destroy(t);
    assert_false(td_path_exists(folder));
}

/* A run that was killed leaves its rows: the next one begins with none. */
static void what_a_killed_run_left_is_gone(void **state)
{
    (void)state;
    td_table_destroy(make(eights));
    assert_true(WIFSIGNALED(run_again("killed")));
    char path[TD_PATH_MAX];
    assert_ok(td_path_join(path, folder, "mine"));
    assert_ok(td_write_file(path, "x", 1));
    td_table *t = make(eights);
    assert_int_equal(td_table_rows(t), 0);
    assert_whole(t, 0);
    assert_true(stats_of(t).disk_bytes == 0);
    td_table_destroy(t);
    assert_true(td_path_exists(path)); /* what is not ours stays */
    assert_ok(td_remove_tree(folder));
}

static void mistakes_have_a_sentence(void **state)
{
    (void)state;
    td_table *t = make(eights);
    td_table_destroy(t);
    td_table_config c = limited(eights);
    char path[TD_PATH_MAX];
    c.folder = NULL;
    assert_fails(TD_ERR_ARG, "needs a folder", td_table_create(&c, &t));
    c = limited(eights), c.memory_bytes = 50000;
    assert_fails(TD_ERR_ARG, "50000 bytes is too small for rows of 37 bytes; give it at least",
                 td_table_create(&c, &t));
    c.memory_bytes = strtoul(strstr(td_last_error(), "at least ") + 9, NULL, 10);
    assert_ok(td_table_create(&c, &t));
    td_table_destroy(t);
    c = limited(eights), c.folder = "/dev/null/x";
    assert_fails(TD_ERR_IO, "/dev/null", td_table_create(&c, &t));
    c = limited(eights);
    assert_ok(td_make_dirs(folder));
    assert_ok(td_path_join(path, folder, "CURRENT"));
    assert_ok(td_write_file(path, "MANIFEST-000001\n", 16));
    assert_fails(TD_ERR_ARG, "holds a database", td_table_create(&c, &t));
    assert_true(td_path_exists(path));
    assert_ok(td_remove_tree(folder));
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(root) && td_path_join(folder, root, "cold") == TD_OK ? 0 : -1;
}

static int clear(void **state)
{
    char disk[TD_PATH_MAX];
    (void)state;
    if (td_path_join(disk, root, "disk") == TD_OK) umount2(disk, MNT_DETACH); /* of a failure */
    return td_remove_tree(root) == TD_OK ? 0 : -1;
}

int main(int argc, char **argv)
{
    if (argc == 3) {
        snprintf(folder, sizeof folder, "%s", argv[2]);
        return other_run(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_limit_changes_no_bit),
        cmocka_unit_test(memory_stays_within_its_share),
        cmocka_unit_test(rows_that_do_not_change_are_written_once),
        cmocka_unit_test(a_row_taken_out_does_not_come_back_from_its_copy),
        cmocka_unit_test(sightings_count_while_there_is_room),
        cmocka_unit_test(a_request_beyond_the_limit_moves_nothing),
        cmocka_unit_test(it_says_when_there_is_no_memory),
        cmocka_unit_test(a_disk_that_refuses_costs_no_row),
        cmocka_unit_test(a_full_disk_costs_no_row),
        cmocka_unit_test(a_folder_is_one_runs),
        cmocka_unit_test(what_a_killed_run_left_is_gone),
        cmocka_unit_test(mistakes_have_a_sentence),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
