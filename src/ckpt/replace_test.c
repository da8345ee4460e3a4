/* A bundle that comes after another: the newest is found, the older one replaced or left whole,
 * whatever is killed, cut or refused on the way. */
#include "ckpt/bundle_test.h"

#include "base/pool.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
        cmocka_unit_test_setup(the_newest_is_that_of_the_highest_number, empty),
        cmocka_unit_test_setup(a_torn_newest_is_told, empty),
        cmocka_unit_test_setup(what_unfinished_writes_left_is_pruned, empty),
        cmocka_unit_test_setup(both_ways_replace, empty),
        cmocka_unit_test_setup(an_old_one_is_found_when_its_writer_died, empty),
        cmocka_unit_test_setup(a_killed_writer_leaves_a_whole_one, empty),
        cmocka_unit_test_setup(readers_never_find_nothing, empty),
        cmocka_unit_test_setup(memory_may_run_out_in_writing, empty),
        cmocka_unit_test_setup(a_full_disk_leaves_the_older_one, empty),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
