/* Bundles: whole or not at all, whatever is cut, altered or interrupted. */
#include "ckpt/bundle.h"

#include "base/error.h"
#include "base/pool.h"
#include "base/test.h"

#include <dirent.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char folder[] = "/tmp/td-bundle-XXXXXX";
static char path[TD_PATH_MAX]; /* folder/step-1 */

static const float weight[4] = {1, 2, 3, 4}, other[4] = {5, 6, 7, 8};
static const char file_name[] = "state.safetensors";

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) && td_path_join(path, folder, "step-1") == TD_OK ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    return td_remove_tree(folder) == TD_OK ? 0 : -1;
}

static int empty(void **state)
{
    return clear(state) || td_make_dirs(folder) != TD_OK;
}

static const char *in(const char *bundle, const char *name)
{
    static char inner[TD_PATH_MAX];
    return td_path_join(inner, bundle, name) == TD_OK ? inner : "";
}

static td_status write_bundle(const char *where, int step, const float *data)
{
    json_t *state = json_pack("{s:i, s:s, s:f}", "step", step, "arch", "dense:4", "loss", 0.1);
    if (!state) return TD_ERR_NOMEM;
    td_tensor tensor = {.name = "w", .rank = 2, .shape = {2, 2}, .data = data, .count = 4};
    td_status status = td_bundle_write(where, "checkpoint", state, file_name, &tensor, 1);
    json_decref(state);
    return status;
}

static td_status open_bundle(const char *where, td_bundle *b)
{
    return td_bundle_open(where, "checkpoint", file_name, b);
}

static void assert_holds(const char *where, int step, const float *data)
{
    td_bundle b;
    float out[4];
    assert_ok(open_bundle(where, &b));
    assert_int_equal(json_integer_value(json_object_get(b.state, "step")), step);
    assert_true(json_real_value(json_object_get(b.state, "loss")) == 0.1);
    assert_ok(td_bundle_read(&b, "w", 2, 4, out));
    assert_memory_equal(out, data, sizeof out);
    td_bundle_close(&b);
}

static int entries(const char *where)
{
    DIR *dir = opendir(where);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    assert_ok(write_bundle(path, 1, weight));
    assert_holds(path, 1, weight);
    assert_int_equal(entries(folder), 1);
    assert_int_equal(entries(path), 2);
    td_bundle nothing = {0};
    td_bundle_close(&nothing);
}

static void a_newer_one_replaces_it(void **state)
{
    (void)state;
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(write_bundle(path, 2, other));
    assert_holds(path, 2, other);
    assert_int_equal(entries(folder), 1);
}

static void another_kind_is_not_opened(void **state)
{
    (void)state;
    td_bundle b;
    assert_fails(TD_ERR_IO, "step-1", open_bundle(path, &b));
    assert_ok(write_bundle(path, 1, weight));
    assert_fails(TD_ERR_CORRUPT, "describes a checkpoint, not a model",
                 td_bundle_open(path, "model", file_name, &b));
    assert_fails(TD_ERR_CORRUPT, "describes a checkpoint",
                 td_bundle_open(path, "checkpoint", "model.safetensors", &b));
}

static void a_missing_file_is_named(void **state)
{
    (void)state;
    td_bundle b;
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(td_remove_tree(in(path, file_name)));
    assert_fails(TD_ERR_IO, file_name, open_bundle(path, &b));
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(td_remove_tree(in(path, "manifest.json")));
    assert_fails(TD_ERR_IO, "manifest.json", open_bundle(path, &b));
}

static void put(const char *name, const char *bytes, size_t size)
{
    assert_ok(td_write_file(in(path, name), bytes, size));
}

static void no_cut_and_no_flip_of_the_tensors_passes(void **state)
{
    (void)state;
    char *whole;
    size_t size;
    td_bundle b;
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(td_read_file(in(path, file_name), &whole, &size));
    for (size_t n = 0; n < size; n++) {
        put(file_name, whole, n);
        assert_fails(TD_ERR_CORRUPT, "cut off", open_bundle(path, &b));
    }
    for (size_t i = 0; i < size; i++) {
        whole[i] ^= 0x20;
        put(file_name, whole, size);
        assert_fails(TD_ERR_CORRUPT, file_name, open_bundle(path, &b));
        whole[i] ^= 0x20;
    }
    put(file_name, whole, size);
    assert_holds(path, 1, weight);
    td_free(whole);
}

static void no_cut_of_the_manifest_passes(void **state)
{
    (void)state;
    char *whole;
    size_t size;
    td_bundle b, written;
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(open_bundle(path, &written));
    assert_ok(td_read_file(in(path, "manifest.json"), &whole, &size));
    for (size_t n = 0; n < size; n++) {
        put("manifest.json", whole, n);
        assert_fails(TD_ERR_CORRUPT, "manifest.json", open_bundle(path, &b));
    }
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit++) {
            char was = whole[i];
            whole[i] = (char)(was ^ 1 << bit);
            put("manifest.json", whole, size);
            td_status status = open_bundle(path, &b);
            if (status == TD_OK) { /* another blank, or the last of too many digits */
                assert_true(json_equal(b.state, written.state));
                td_bundle_close(&b);
            } else {
                assert_int_equal(status, TD_ERR_CORRUPT);
            }
            whole[i] = was;
        }
    td_bundle_close(&written);
    td_free(whole);
}

/* Manifests of earlier versions hold no checksum of themselves. */
static void one_without_a_checksum_opens(void **state)
{
    (void)state;
    json_error_t error;
    assert_ok(write_bundle(path, 1, weight));
    json_t *root = json_load_file(in(path, "manifest.json"), 0, &error);
    assert_int_equal(json_object_del(root, "xxh64"), 0);
    assert_int_equal(json_dump_file(root, in(path, "manifest.json"), 0), 0);
    json_decref(root);
    assert_holds(path, 1, weight);
}

/* --- bundles of several files --- */

enum { ROWS = 5, WIDTH = 3, FILES = 3 };
static const size_t cut[FILES + 1] = {0, 1, 3, 5}; /* rows of "w" in each file */

/* Also "b", whole, in the last file. */
static td_status write_files(const char *where, const float *w, size_t until)
{
    char part[TD_PATH_MAX], name[TD_BUNDLE_NAME], slice[32];
    td_bundle_file files[FILES];
    TD_TRY(td_bundle_part(where, part));
    for (size_t f = 0; f < until; f++) {
        snprintf(slice, sizeof slice, "w[%zu:%zu]", cut[f], cut[f + 1]);
        size_t rows = cut[f + 1] - cut[f];
        td_tensor t[2] = {{.name = slice,
                           .rank = 2,
                           .shape = {rows, WIDTH},
                           .data = w + cut[f] * WIDTH,
                           .count = rows * WIDTH},
                          {.name = "b", .rank = 1, .shape = {2}, .data = other, .count = 2}};
        td_bundle_file_name(file_name, f, FILES, name);
        TD_TRY(td_safetensors_write(in(part, name), t, f + 1 == FILES ? 2 : 1, &files[f].hash,
                                    &files[f].bytes));
    }
    if (until < FILES) return TD_OK;
    json_t *state = json_pack("{s:i}", "step", 3);
    if (!state) return TD_ERR_NOMEM;
    td_status status = td_bundle_seal(where, "checkpoint", state, file_name, files, FILES);
    json_decref(state);
    return status;
}

static void several_files_read_as_one(void **state)
{
    (void)state;
    float w[ROWS * WIDTH], out[ROWS * WIDTH], b[2];
    td_bundle bundle;
    for (int i = 0; i < ROWS * WIDTH; i++) w[i] = (float)i;
    assert_ok(write_files(path, w, 2)); /* a writer died: what is there is none */
    assert_false(td_bundle_exists(path));
    assert_ok(td_write_file(in(folder, "step-1.part/state.safetensors.Xy"), "torn", 4));
    assert_ok(write_files(path, w, FILES));
    assert_int_equal(entries(path), FILES + 1);
    assert_int_equal(entries(folder), 1);
    assert_ok(open_bundle(path, &bundle));
    assert_ok(td_bundle_read(&bundle, "w", ROWS, ROWS * WIDTH, out));
    assert_memory_equal(out, w, sizeof w);
    assert_ok(td_bundle_read(&bundle, "b", 2, 2, b));
    assert_memory_equal(b, other, sizeof b);
    assert_fails(TD_ERR_CORRUPT, "has no tensor w",
                 td_bundle_read(&bundle, "w", ROWS + 1, (ROWS + 1) * WIDTH, out));
    assert_fails(TD_ERR_CORRUPT, "has no tensor x", td_bundle_read(&bundle, "x", 1, 1, out));
    assert_fails(TD_ERR_CORRUPT, "elements where", td_bundle_read(&bundle, "w", ROWS, ROWS, out));
    td_bundle_close(&bundle);
}

static void a_flip_or_a_loss_in_any_file_is_noticed(void **state)
{
    (void)state;
    float w[ROWS * WIDTH] = {0};
    char name[TD_BUNDLE_NAME], *whole;
    size_t size;
    td_bundle b;
    for (size_t f = 0; f < FILES; f++) {
        assert_ok(write_files(path, w, FILES));
        td_bundle_file_name(file_name, f, FILES, name);
        assert_ok(td_read_file(in(path, name), &whole, &size));
        for (size_t i = 0; i < size; i++) {
            whole[i] ^= 0x10;
            put(name, whole, size);
            assert_fails(TD_ERR_CORRUPT, name, open_bundle(path, &b));
            whole[i] ^= 0x10;
        }
        put(name, whole, size - 1);
        assert_fails(TD_ERR_CORRUPT, "cut off", open_bundle(path, &b));
        td_free(whole);
        assert_ok(td_remove_tree(in(path, name)));
        assert_fails(TD_ERR_IO, name, open_bundle(path, &b));
    }
}

static td_status try_files(void *arg)
{
    float out[ROWS * WIDTH];
    td_bundle b;
    TD_TRY(td_bundle_drop(path));
    td_status status = write_files(path, arg, FILES);
    if (status == TD_OK) status = open_bundle(path, &b);
    if (status != TD_OK) return status;
    status = td_bundle_read(&b, "w", ROWS, ROWS * WIDTH, out);
    td_bundle_close(&b);
    return status;
}

static void memory_may_run_out_over_several_files(void **state)
{
    (void)state;
    float w[ROWS * WIDTH] = {0};
    assert_survives_no_memory(try_files, w);
}

static void misleading_manifests_are_refused(void **state)
{
    (void)state;
#define FILES "\"files\":[{\"name\":\"state.safetensors\",\"bytes\":8,\"xxh64\":\"00\"}]"
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"[1]", "not a manifest"},
        {"{}", "not a manifest"},
        {"{\"tandem\":1,\"kind\":\"checkpoint\",\"state\":{}}", "not a manifest"},
        {"{\"tandem\":1,\"kind\":\"checkpoint\",\"state\":3," FILES "}", "not a manifest"},
        {"{\"tandem\":1,\"kind\":\"checkpoint\",\"state\":{},\"files\":[]}", "not a manifest"},
        {"{\"tandem\":1,\"kind\":\"checkpoint\",\"state\":{},\"files\":[7]}", "not a manifest"},
        {"{\"tandem\":1,\"kind\":\"checkpoint\",\"state\":{},\"files\":[{\"name\":"
         "\"../state.safetensors\",\"bytes\":8,\"xxh64\":\"00\"}]}",
         "not a bundle with state.safetensors"},
        {"{\"tandem\":2,\"kind\":\"checkpoint\",\"state\":{}," FILES "}", "format 2"},
        {"{\"tandem\":1,\"kind\":\"model\",\"state\":{}," FILES "}", "describes a model"},
        {"{\"tandem\":1,\"tandem\":1,\"kind\":\"checkpoint\",\"state\":{}," FILES "}", "duplicate"},
    };
    td_manifest out;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(TD_ERR_CORRUPT, cases[i].says,
                     td_manifest_parse("mem", cases[i].text, strlen(cases[i].text), "checkpoint",
                                       file_name, &out));
#undef FILES
}

static void the_newest_is_that_of_the_highest_number(void **state)
{
    (void)state;
    static const char *const names[] = {"step-9",   "step-000000010", "step-2",  "step-x", "step-",
                                        "steps-99", "step-11.part",   "step--5", "other"};
    char newest[TD_PATH_MAX], where[TD_PATH_MAX];
    uint64_t number;
    assert_fails(TD_ERR_DATA, "holds no step",
                 td_bundle_newest(folder, "step", UINT64_MAX, &number, newest));
    assert_fails(TD_ERR_DATA, "/no/such",
                 td_bundle_newest("/no/such", "step", UINT64_MAX, &number, newest));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_ok(td_path_join(where, folder, names[i]));
        assert_ok(write_bundle(where, (int)i, weight));
    }
    assert_ok(td_bundle_newest(folder, "step", UINT64_MAX, &number, newest));
    assert_string_equal(newest, in(folder, "step-000000010"));
    assert_int_equal(number, 10);
    assert_ok(td_bundle_newest(folder, "step", 9, &number, newest));
    assert_string_equal(newest, in(folder, "step-2"));
    assert_fails(TD_ERR_DATA, "holds no step",
                 td_bundle_newest(folder, "step", 2, &number, newest));
    assert_ok(td_bundle_newest(folder, "step", UINT64_MAX, &number, newest));
    assert_ok(td_bundle_prune(folder, "step", 2));
    assert_true(td_path_exists(in(folder, "step-9")));
    assert_true(td_path_exists(in(folder, "step-000000010")));
    assert_false(td_path_exists(in(folder, "step-2")));
    assert_true(td_path_exists(in(folder, "other")));
    assert_true(td_path_exists(in(folder, "steps-99")));
}

/* A process that dies leaves a .part, which nobody takes for a bundle; a newest whose bytes are
 * torn all the same is said to be so. */
static void a_torn_newest_is_told(void **state)
{
    (void)state;
    char newest[TD_PATH_MAX], part[TD_PATH_MAX];
    uint64_t number;
    td_bundle b;
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(td_path_join(part, folder, "step-2.part"));
    assert_ok(td_make_dirs(part));
    assert_ok(td_write_file(in(part, file_name), "torn", 4));
    assert_ok(td_bundle_newest(folder, "step", UINT64_MAX, &number, newest));
    assert_string_equal(newest, path);
    assert_ok(td_path_join(newest, folder, "step-2"));
    assert_ok(write_bundle(newest, 2, other)); /* over what was left */
    assert_holds(newest, 2, other);
    assert_int_equal(entries(folder), 2);
    assert_int_equal(truncate(in(newest, file_name), 20), 0);
    assert_fails(TD_ERR_CORRUPT, "step-2/state.safetensors is cut off", open_bundle(newest, &b));
    assert_holds(path, 1, weight);
}

static void what_unfinished_writes_left_is_pruned(void **state)
{
    (void)state;
    char part[TD_PATH_MAX];
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(td_path_join(part, folder, "step-7.part"));
    assert_ok(td_make_dirs(part));
    assert_ok(td_write_file(in(part, file_name), "torn", 4));
    assert_ok(td_bundle_prune(folder, "step", 2)); /* somebody may be writing it */
    assert_int_equal(entries(folder), 2);
    assert_ok(td_bundle_prune_parts(folder, "step"));
    assert_int_equal(entries(folder), 1);
    assert_holds(path, 1, weight);
}

/* The two ways of coming to lie under the final name. */
static td_status write_by(bool exchange, int step, const float *data)
{
    char fresh[TD_PATH_MAX];
    TD_TRY(td_path_join(fresh, folder, "step-1.part"));
    TD_TRY(td_remove_tree(fresh));
    TD_TRY(write_bundle(fresh, step, data));
    return td_bundle_replace(fresh, path, exchange);
}

static void both_ways_replace(void **state)
{
    (void)state;
    for (int exchange = 0; exchange < 2; exchange++) {
        assert_ok(write_by(exchange, 1, weight)); /* nothing there yet, the first time */
        assert_holds(path, 1, weight);
        assert_ok(write_by(exchange, 2, other));
        assert_holds(path, 2, other);
        assert_int_equal(entries(folder), 1);
    }
    assert_fails(TD_ERR_IO, "cannot", td_bundle_replace(in(folder, "none"), path, true));
    assert_holds(path, 2, other);
    assert_fails(TD_ERR_IO, "cannot", td_bundle_replace(in(folder, "none"), path, false));
    assert_holds(path, 2, other); /* brought back */
}

static void an_old_one_is_found_when_its_writer_died(void **state)
{
    (void)state;
    char old[TD_PATH_MAX], newest[TD_PATH_MAX];
    uint64_t number;
    assert_ok(td_path_join(old, folder, "step-1.old"));
    for (int again = 0; again < 2; again++) {
        assert_ok(td_remove_tree(path));
        assert_false(td_bundle_exists(path));
        assert_ok(write_bundle(path, 1, weight));
        assert_int_equal(rename(path, old), 0);
        assert_true(td_bundle_exists(path));
        assert_holds(path, 1, weight);
        assert_ok(td_bundle_newest(folder, "step", UINT64_MAX, &number, newest));
        assert_string_equal(newest, path);
        assert_ok(td_bundle_prune(folder, "step", 1));
        assert_holds(path, 1, weight);
        assert_ok(write_by(again, 2, other));
        assert_holds(path, 2, other);
        assert_int_equal(entries(folder), 1);
    }
    assert_ok(write_bundle(old, 1, weight)); /* died a moment later: the newer one is in place */
    assert_holds(path, 2, other);
    assert_ok(td_bundle_prune(folder, "step", 1));
    assert_holds(path, 2, other);
    assert_int_equal(entries(folder), 1);
    assert_int_equal(rename(path, old), 0);
    assert_ok(td_bundle_prune(folder, "step", 0));
    assert_int_equal(entries(folder), 0);
}

/* Killed at any moment, a writer leaves one or the other. */
static void a_killed_writer_leaves_a_whole_one(void **state)
{
    (void)state;
    assert_ok(write_bundle(path, 1, weight));
    for (int i = 0; i < 24; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            for (int step = 1;; step = 3 - step)
                if (write_by(i % 2, step, step == 1 ? weight : other) != TD_OK) _exit(1);
        struct timespec pause = {.tv_nsec = 400000L * (i + 1)};
        nanosleep(&pause, NULL);
        kill(child, SIGKILL);
        int code;
        assert_int_equal(waitpid(child, &code, 0), child);
        assert_true(WIFSIGNALED(code));
        td_bundle b;
        assert_ok(open_bundle(path, &b));
        int step = (int)json_integer_value(json_object_get(b.state, "step"));
        td_bundle_close(&b);
        assert_true(step == 1 || step == 2);
        assert_holds(path, step, step == 1 ? weight : other);
    }
}

typedef struct watch {
    bool exchange;
    atomic_bool done;
    int missing, opened;
} watch;

/* Lane 0 writes; lane 1 opens all the while, and never finds nothing. */
static td_status write_or_watch(void *arg, int lane)
{
    watch *w = arg;
    td_status status = TD_OK;
    if (lane == 0) {
        for (int i = 0; i < 60 && status == TD_OK; i++)
            status = write_by(w->exchange, 1 + i % 2, i % 2 ? other : weight);
        atomic_store(&w->done, true);
        return status;
    }
    while (!atomic_load(&w->done) && status == TD_OK) {
        td_bundle b;
        float first, out[4];
        w->missing += !td_path_exists(path);
        TD_TRY(open_bundle(path, &b));
        first = json_integer_value(json_object_get(b.state, "step")) == 1 ? weight[0] : other[0];
        status = td_bundle_read(&b, "w", 2, 4, out);
        td_bundle_close(&b);
        if (status == TD_OK && out[0] != first) return td_fail(TD_ERR_CORRUPT, "two bundles mixed");
        w->opened++;
    }
    return status;
}

static void readers_never_find_nothing(void **state)
{
    (void)state;
    td_pool *pool;
    assert_ok(td_pool_create(2, &pool));
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(write_bundle(in(folder, "x"), 1, weight));
    td_status status = td_exchange_paths(path, in(folder, "x"));
    for (int exchange = 0; exchange < 2; exchange++) {
        watch w = {.exchange = exchange};
        assert_ok(td_pool_run(pool, write_or_watch, &w));
        assert_true(w.opened > 0);
        if (exchange && status == TD_OK) assert_int_equal(w.missing, 0);
    }
    td_pool_destroy(pool);
}

/* Whatever fails, the final name holds the older bundle or the newer one, whole. jansson's memory
 * fails in its turn, too. */
static void memory_may_run_out_in_writing(void **state)
{
    (void)state;
    size_t k = 0;
    for (size_t asked = 0; asked >= k;) {
        assert_ok(write_bundle(path, 1, weight));
        json_set_alloc_funcs(td_malloc, td_free);
        td_alloc_fail_at(++k);
        td_status status = write_bundle(path, 2, other);
        asked = td_alloc_count();
        td_alloc_fail_at(0);
        json_set_alloc_funcs(malloc, free);
        if (status == TD_OK) {
            assert_holds(path, 2, other);
        } else {
            assert_int_equal(status, TD_ERR_NOMEM);
            assert_holds(path, 1, weight);
        }
        assert_int_equal(entries(folder), 1);
    }
    assert_true(k > 10);
}

static td_status try_open(void *arg)
{
    (void)arg;
    td_bundle b;
    td_status status = open_bundle(path, &b);
    if (status == TD_OK) td_bundle_close(&b);
    return status;
}

/* jansson's parser takes its own lack of memory for mistakes in the text. */
static void memory_may_run_out_in_reading(void **state)
{
    (void)state;
    assert_ok(write_bundle(path, 1, weight));
    assert_survives_no_memory(try_open, NULL);
    json_set_alloc_funcs(td_malloc, td_free);
    size_t k = 0;
    for (size_t asked = 0; asked >= k;) {
        td_alloc_fail_at(++k);
        td_status status = try_open(NULL);
        asked = td_alloc_count();
        td_alloc_fail_at(0);
        assert_true(status == TD_OK || status == TD_ERR_NOMEM || status == TD_ERR_CORRUPT);
    }
    json_set_alloc_funcs(malloc, free);
    assert_true(k > 10);
}

static void a_full_disk_leaves_the_older_one(void **state)
{
    (void)state;
    struct rlimit limit, small;
    assert_ok(write_bundle(path, 1, weight));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t bytes = 0; bytes < 500; bytes += 7) { /* in the tensors, then in the manifest */
        small = limit;
        small.rlim_cur = bytes;
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        td_status status = write_bundle(path, 2, other);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
        if (status == TD_OK) break;
        assert_int_equal(status, TD_ERR_IO);
        assert_true(strstr(td_last_error(), "cannot write") != NULL);
        assert_holds(path, 1, weight);
        assert_int_equal(entries(folder), 1);
    }
    assert_holds(path, 2, other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_is_written_reads_back, empty),
        cmocka_unit_test_setup(a_newer_one_replaces_it, empty),
        cmocka_unit_test_setup(another_kind_is_not_opened, empty),
        cmocka_unit_test_setup(a_missing_file_is_named, empty),
        cmocka_unit_test_setup(no_cut_and_no_flip_of_the_tensors_passes, empty),
        cmocka_unit_test_setup(no_cut_of_the_manifest_passes, empty),
        cmocka_unit_test_setup(one_without_a_checksum_opens, empty),
        cmocka_unit_test_setup(several_files_read_as_one, empty),
        cmocka_unit_test_setup(a_flip_or_a_loss_in_any_file_is_noticed, empty),
        cmocka_unit_test_setup(memory_may_run_out_over_several_files, empty),
        cmocka_unit_test_setup(misleading_manifests_are_refused, empty),
        cmocka_unit_test_setup(the_newest_is_that_of_the_highest_number, empty),
        cmocka_unit_test_setup(a_torn_newest_is_told, empty),
        cmocka_unit_test_setup(what_unfinished_writes_left_is_pruned, empty),
        cmocka_unit_test_setup(both_ways_replace, empty),
        cmocka_unit_test_setup(an_old_one_is_found_when_its_writer_died, empty),
        cmocka_unit_test_setup(a_killed_writer_leaves_a_whole_one, empty),
        cmocka_unit_test_setup(readers_never_find_nothing, empty),
        cmocka_unit_test_setup(memory_may_run_out_in_writing, empty),
        cmocka_unit_test_setup(memory_may_run_out_in_reading, empty),
        cmocka_unit_test_setup(a_full_disk_leaves_the_older_one, empty),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
