/* A folder with a bundle "step-1" in it, for the tests of bundles. */
#ifndef TD_CKPT_BUNDLE_TEST_H
#define TD_CKPT_BUNDLE_TEST_H

#include "ckpt/bundle.h"

#include "base/error.h"
#include "base/test.h"

#include <dirent.h>
#include <stdlib.h>

static char folder[] = "/tmp/td-bundle-XXXXXX";
static char path[TD_PATH_MAX]; /* folder/step-1 */

static const float weight[4] = {1, 2, 3, 4}, other[4] = {5, 6, 7, 8};
static const char file_name[] = "state.safetensors";

static inline int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) && td_path_join(path, folder, "step-1") == TD_OK ? 0 : -1;
}

static inline int clear(void **state)
{
    (void)state;
    return td_remove_tree(folder) == TD_OK ? 0 : -1;
}

static inline int empty(void **state)
{
    return clear(state) || td_make_dirs(folder) != TD_OK;
}

static inline const char *in(const char *bundle, const char *name)
{
    static char inner[TD_PATH_MAX];
    return td_path_join(inner, bundle, name) == TD_OK ? inner : "";
}

static inline td_status write_bundle(const char *where, int step, const float *data)
{
    json_t *state = json_pack("{s:i, s:s, s:f}", "step", step, "arch", "dense:4", "loss", 0.1);
    if (!state) return TD_ERR_NOMEM;
    td_tensor tensor = {.name = "w", .rank = 2, .shape = {2, 2}, .data = data, .count = 4};
    td_status status = td_bundle_write(where, "checkpoint", state, file_name, &tensor, 1);
    json_decref(state);
    return status;
}

static inline td_status open_bundle(const char *where, td_bundle *b)
{
    return td_bundle_open(where, "checkpoint", file_name, b);
}

static inline void assert_holds(const char *where, int step, const float *data)
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

static inline int entries(const char *where)
{
    DIR *dir = opendir(where);
    int n = 0;
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

#endif
