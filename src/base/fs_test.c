#include "base/fs.h"

#include "base/alloc.h"
#include "base/test.h"

#include <stdlib.h>
#include <unistd.h>

static char root[] = "/tmp/td-fs-XXXXXX";

static void a_written_file_reads_back(void **state)
{
    (void)state;
    char path[TD_PATH_MAX];
    assert_ok(td_path_join(path, root, "a/b/c"));
    assert_ok(td_make_dirs(path));
    assert_ok(td_path_join(path, path, "file"));
    assert_ok(td_write_file(path, "hello", 5));
    char *bytes;
    size_t size;
    assert_ok(td_read_file(path, &bytes, &size));
    assert_int_equal(size, 5);
    assert_string_equal(bytes, "hello");
    td_free(bytes);
    td_mapping map;
    assert_ok(td_map_file(path, &map));
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    td_unmap(&map);
}

static void an_abandoned_file_leaves_nothing(void **state)
{
    (void)state;
    char path[TD_PATH_MAX];
    assert_ok(td_path_join(path, root, "kept"));
    assert_ok(td_write_file(path, "old", 3));
    td_writer w;
    assert_ok(td_writer_open(&w, path));
    assert_ok(td_writer_put(&w, "new", 3));
    td_writer_abandon(&w);
    assert_false(td_path_exists(w.temporary));
    char *bytes;
    size_t size;
    assert_ok(td_read_file(path, &bytes, &size));
    assert_string_equal(bytes, "old");
    td_free(bytes);
}

static void failures_name_the_path(void **state)
{
    (void)state;
    char *bytes;
    size_t size;
    td_mapping map;
    assert_fails(TD_ERR_IO, "/no/such", td_read_file("/no/such", &bytes, &size));
    assert_fails(TD_ERR_CORRUPT, "folder", td_read_file(root, &bytes, &size));
    assert_fails(TD_ERR_IO, "/no/such", td_map_file("/no/such", &map));
    assert_fails(TD_ERR_IO, "/dev/null", td_make_dirs("/dev/null/x"));
}

static void two_names_change_places(void **state)
{
    (void)state;
    char file[TD_PATH_MAX], dir[TD_PATH_MAX];
    assert_ok(td_path_join(file, root, "x"));
    assert_ok(td_path_join(dir, root, "y"));
    assert_ok(td_write_file(file, "x", 1));
    assert_ok(td_make_dirs(dir));
    td_status status = td_exchange_paths(file, dir);
    if (status == TD_ERR_UNSUPPORTED) skip();
    assert_ok(status);
    assert_true(td_path_is_dir(file));
    assert_true(td_path_exists(dir) && !td_path_is_dir(dir));
    assert_ok(td_remove_tree(file));
    assert_fails(TD_ERR_IO, file, td_exchange_paths(file, dir));
    assert_fails(TD_ERR_IO, dir, td_exchange_paths(dir, file));
    assert_true(td_path_exists(dir));
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(root) ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    return td_remove_tree(root) == TD_OK && !td_path_exists(root) ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_written_file_reads_back),
        cmocka_unit_test(an_abandoned_file_leaves_nothing),
        cmocka_unit_test(failures_name_the_path),
        cmocka_unit_test(two_names_change_places),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
