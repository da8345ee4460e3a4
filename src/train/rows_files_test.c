/* Tables written by some servers and read by others: the same bytes, the same rows. */
#include "train/rows_files.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEYS = 500, WIDTH = 3, PARAMS = 77, LEAVES = 8 };
#define FILE_NAME "state.safetensors"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return td_fail(TD_ERR_INTERNAL, "line %d: %s (%s)", __LINE__, #condition,              \
                           td_last_error());                                                       \
    } while (0)

static char top[64];

static uint64_t key_of(uint64_t k)
{
    return k ? k * 0x9e3779b97f4a7c15 : UINT64_MAX;
}

/* Weights and states of a row. */
static void make_row(uint64_t key, size_t floats, float *row)
{
    td_rng rng;
    td_rng_init(&rng, 5, TD_RNG_TEST, key, 0);
    for (size_t i = 0; i < floats; i++) row[i] = td_rng_normal(&rng);
}

typedef struct place {
    const char *folder, *rule;
    int ranks, servers, replicas;
    td_rows_mode mode;
    bool states, reads;
    size_t memory_bytes;
    bool turned; /* in a group whose ranks are not those of the run */
} place;

static td_status fill(td_rows_tables *t, float more)
{
    float row[WIDTH * 3], params[PARAMS];
    td_table *keyed = td_rows_table(t, TD_ROWS_KEYED);
    for (uint64_t k = 0; keyed && k < KEYS; k++) {
        make_row(key_of(k), td_table_row_floats(keyed), row);
        for (size_t i = 0; i < td_table_row_floats(keyed); i++) row[i] += more;
        if (td_rows_holds(t, TD_ROWS_KEYED, key_of(k))) TD_TRY(td_table_put(keyed, key_of(k), row));
    }
    for (int i = 0; i < PARAMS; i++) params[i] = (float)i + 0.5f + more;
    return td_rows_put_dense(t, params);
}

/* What is written is the version of the beginning, though all rows move before it has ended. */
static td_status write_beside(td_rows_tables *t, const td_rows_bundle *b)
{
    td_rows_saving *saving = NULL;
    TD_TRY(td_rows_save_begin(t, b, &saving));
    td_status status = fill(t, 1);
    TD_TRY(td_rows_save_end(saving, t->comm));
    TD_TRY(status);
    return fill(t, 0);
}

static td_status compare(td_rows_tables *t, bool states)
{
    float want[WIDTH * 3];
    td_table *keyed = td_rows_table(t, TD_ROWS_KEYED);
    td_comm *c = t->comm;
    size_t floats = keyed ? td_table_row_floats(keyed) : 0;
    uint64_t rows = 0, all, copies = t->replicas && t->roles.server_count > 1 ? 2 : 1;
    for (uint64_t k = 0; keyed && k < KEYS; k++) {
        uint64_t key = key_of(k);
        float got[WIDTH * 3];
        if (!td_rows_holds(t, TD_ROWS_KEYED, key)) continue;
        make_row(key, floats, want);
        CHECK(td_table_peek(keyed, &key, 1, got) == TD_OK);
        CHECK(!memcmp(got, want, WIDTH * sizeof *got));
        rows++;
    }
    CHECK(!keyed || td_table_rows(keyed) == rows);
    TD_TRY(td_comm_allreduce(c, &rows, &all, 1, TD_I64, TD_SUM));
    CHECK(all == KEYS * copies);
    if (states) {
        TD_TRY(td_rows_look(t, TD_ROWS_DENSE, t->dense_keys, t->dense_rows, t->dense));
        for (int i = 0; i < PARAMS; i++) CHECK(t->dense[i] == (float)i + 0.5f);
    }
    return TD_OK;
}

static td_status live_in(td_comm *c, const place *p)
{
    td_job job = {.leaves = LEAVES, .replicas = p->replicas, .run = top};
    td_rows_tables_config config =
        {.job = &job,
         .mode = p->mode,
         .keyed = {.width = WIDTH, .lr = 1, .rule = p->rule, .memory_bytes = p->memory_bytes},
         .params = PARAMS,
         .counts = {.workers = td_comm_size(c) - p->servers, .servers = p->servers}};
    static const td_slot slot = {.name = "all", .shape = {PARAMS}, .rank = 1, .count = PARAMS};
    td_rows_bundle b = {.folder = p->folder,
                        .kind = "checkpoint",
                        .file = FILE_NAME,
                        .states = p->states};
    td_bundle bundle = {0};
    float params[PARAMS];
    td_rows_tables t;
    for (int i = 0; i < PARAMS; i++) params[i] = (float)i;
    if (!p->states) b.slots = &slot, b.slot_count = 1, b.params = params;
    td_status status = td_rows_tables_open(c, &config, false, &t);
    if (status == TD_OK && !p->reads) {
        status = fill(&t, 0);
        if (status == TD_OK && td_comm_rank(c) == 0) b.state = json_pack("{s:i}", "step", 3);
        if (status == TD_OK) status = write_beside(&t, &b);
    } else if (status == TD_OK) {
        status = td_bundle_open(p->folder, "checkpoint", FILE_NAME, &bundle);
        if (status == TD_OK) status = td_rows_read(&t, &bundle);
        td_bundle_close(&bundle);
        status = td_comm_agree(c, status);
    }
    if (status == TD_OK) status = compare(&t, p->states);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (status == TD_OK && t.sharded[k]) status = td_sharded_finish(t.sharded[k]);
    td_rows_tables_close(&t);
    return status;
}

static td_status live(td_comm *c, void *arg)
{
    const place *p = arg;
    td_comm *turned = NULL;
    if (p->turned) TD_TRY(td_comm_split(c, 0, -td_comm_rank(c), &turned));
    td_status status = live_in(turned ? turned : c, p);
    td_comm_close(turned);
    return status;
}

static void path_of(const char *name, char path[TD_PATH_MAX])
{
    assert_ok(td_path_join(path, top, name));
}

static size_t read_file(const char *folder, const char *name, char **out)
{
    char path[TD_PATH_MAX];
    assert_ok(td_path_join(path, folder, name));
    FILE *f = fopen(path, "rb");
    if (!f) return *out = NULL, 0;
    *out = malloc(1 << 20);
    size_t n = fread(*out, 1, 1 << 20, f);
    fclose(f);
    return n;
}

static void assert_same_files(const char *a, const char *b)
{
    static const char *const names[] = {"state-00001-of-00002.safetensors",
                                        "state-00002-of-00002.safetensors", "manifest.json"};
    for (int k = 0; k < 3; k++) {
        char *one, *other;
        size_t n = read_file(a, names[k], &one);
        assert_true(n > 100);
        assert_int_equal(read_file(b, names[k], &other), n);
        assert_memory_equal(one, other, n);
        free(one), free(other);
    }
}

static const struct {
    int ranks, servers, replicas;
} places[] = {{1, 0, 0}, {3, 0, 1}, {3, 1, 0}, {4, 2, 1}, {5, 3, 1}, {2, 0, 0}};
enum { PLACES = sizeof places / sizeof *places };

static place place_of(int k, const char *folder, const char *rule, bool states, bool reads)
{
    return (place){folder,
                   rule,
                   places[k].ranks,
                   places[k].servers,
                   places[k].replicas,
                   k % 2 ? TD_ROWS_EXACT : TD_ROWS_PACED,
                   states,
                   reads};
}

static void any_servers_write_and_read_the_same(void **state)
{
    (void)state;
    static const char *const rules[] = {"sgd", "adagrad", "adam", "ftrl"};
    char first[TD_PATH_MAX], again[TD_PATH_MAX];
    for (int r = 0; r < 4; r++)
        for (int states = 0; states < 2; states++) {
            path_of("first", first), path_of("again", again);
            for (int k = 0; k < PLACES; k++) {
                place p = place_of(k, k ? again : first, rules[r], states, false);
                assert_ok(td_comm_run_local(p.ranks, NULL, live, &p));
                if (k) assert_same_files(first, again);
                p = place_of((k + 1) % PLACES, again, rules[r], states, true);
                p.folder = first;
                assert_ok(td_comm_run_local(p.ranks, NULL, live, &p));
            }
        }
}

/* As behind a death or with a spare, where a rank of the group has another number in the run. */
static void ranks_of_any_number_write_all(void **state)
{
    (void)state;
    char folder[TD_PATH_MAX];
    path_of("turned", folder);
    for (int limited = 0; limited < 2; limited++)
        for (int k = 0; k < PLACES; k++) {
            place p = place_of(k, folder, "adagrad", true, false);
            p.turned = true, p.memory_bytes = limited ? 1 << 20 : 0;
            td_status status = td_comm_run_local(p.ranks, NULL, live, &p);
            if (limited && status == TD_ERR_UNSUPPORTED) skip();
            assert_ok(status);
            p.reads = true, p.turned = false;
            assert_ok(td_comm_run_local(p.ranks, NULL, live, &p));
        }
}

static void models_of_others_are_refused(void **state)
{
    (void)state;
    char folder[TD_PATH_MAX];
    path_of("other", folder);
    place p = place_of(0, folder, "adagrad", true, false);
    assert_ok(td_comm_run_local(p.ranks, NULL, live, &p));
    td_bundle b;
    td_table *table;
    td_table_config config = {.width = WIDTH + 1, .lr = 1};
    assert_ok(td_table_create(&config, &table));
    assert_ok(td_bundle_open(folder, "checkpoint", FILE_NAME, &b));
    assert_fails(TD_ERR_CORRUPT, "it belongs to another model", td_rows_read_all(table, &b));
    td_table_destroy(table);
    config.width = WIDTH;
    assert_ok(td_table_create(&config, &table));
    assert_ok(td_rows_read_all(table, &b));
    assert_int_equal(td_table_rows(table), KEYS);
    td_table_destroy(table);
    td_bundle_close(&b);
}

static void a_flipped_byte_is_found(void **state)
{
    (void)state;
    char folder[TD_PATH_MAX], path[TD_PATH_MAX];
    path_of("flipped", folder);
    place p = place_of(3, folder, "adam", true, false);
    assert_ok(td_comm_run_local(p.ranks, NULL, live, &p));
    assert_ok(td_path_join(path, folder, "state-00001-of-00002.safetensors"));
    struct stat s;
    assert_int_equal(stat(path, &s), 0);
    for (long at = 9; at < s.st_size; at += s.st_size / 7) {
        FILE *f = fopen(path, "r+b");
        for (int turn = 0; turn < 2; turn++) {
            td_bundle b;
            assert_int_equal(fseek(f, at, SEEK_SET), 0);
            int byte = fgetc(f);
            assert_int_equal(fseek(f, at, SEEK_SET), 0);
            fputc(byte ^ 4, f);
            fflush(f);
            if (turn)
                assert_ok(td_bundle_open(folder, "checkpoint", FILE_NAME, &b));
            else
                assert_fails(TD_ERR_CORRUPT, "state-00001",
                             td_bundle_open(folder, "checkpoint", FILE_NAME, &b));
            if (turn) td_bundle_close(&b);
        }
        fclose(f);
    }
}

static td_status try_write(void *arg)
{
    return td_comm_run_local(1, NULL, live, arg);
}

static void memory_may_run_out(void **state)
{
    (void)state;
    char folder[TD_PATH_MAX];
    path_of("little", folder);
    place p = place_of(0, folder, "sgd", true, false);
    assert_survives_no_memory(try_write, &p);
}

static int make_top(void **state)
{
    (void)state;
    strcpy(top, "/tmp/tandem-rows-XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int remove_top(void **state)
{
    (void)state;
    return td_remove_tree(top) == TD_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_servers_write_and_read_the_same),
        cmocka_unit_test(ranks_of_any_number_write_all),
        cmocka_unit_test(models_of_others_are_refused),
        cmocka_unit_test(a_flipped_byte_is_found),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, make_top, remove_top);
}
