/* Rows looked up where a bundle's files are mapped, beside a table of the same rows. */
#include "train/rows_view.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"
#include "ps/slices.h"
#include "ps/transfer.h"

#include <stdlib.h>
#include <unistd.h>

enum { KEYS = 5000, WIDTH = 3, FLOATS = 2 * WIDTH, FILES = 3 };
#define FILE_NAME "model.safetensors"

static char top[64], folder[TD_PATH_MAX];
static const td_table_config config = {.width = WIDTH, .lr = 1, .rule = "adagrad"};
static td_table *table;

/* Even numbers on a grid, the lowest and the highest among them. */
static uint64_t key_of(uint64_t k)
{
    return k == KEYS - 1 ? UINT64_MAX : k * (UINT64_MAX / KEYS / 2 * 2);
}

static bool is_in_file(void *arg, uint64_t key)
{
    static const td_slices sparse;
    return td_slice_of(&sparse, key) * FILES / TD_SLICES == *(const int *)arg;
}

static int write_bundle(void **state)
{
    (void)state;
    char part[TD_PATH_MAX], path[TD_PATH_MAX], name[TD_BUNDLE_NAME];
    td_bundle_file files[FILES] = {0};
    td_transfer_rows rows;
    float row[FLOATS];
    strcpy(top, "/tmp/tandem-view-XXXXXX");
    if (!mkdtemp(top) || td_table_create(&config, &table) != TD_OK) return -1;
    for (uint64_t k = 0; k < KEYS; k++) {
        for (size_t i = 0; i < FLOATS; i++) row[i] = (float)(k * FLOATS + i);
        if (td_table_put(table, key_of(k), row) != TD_OK) return -1;
    }
    if (td_path_join(folder, top, "model") != TD_OK || td_bundle_part(folder, part) != TD_OK)
        return -1;
    rows = td_transfer_table(table);
    for (int f = 0; f < FILES; f++) {
        td_bundle_file_name(FILE_NAME, (size_t)f, FILES, name);
        if (td_path_join(path, part, name) != TD_OK ||
            td_transfer_write_some(&rows, path, is_in_file, &f, false, &files[f].hash,
                                   &files[f].bytes) != TD_OK)
            return -1;
    }
    json_t *about = json_pack("{s:i}", "step", 3);
    td_status status = td_bundle_seal(folder, "model", about, FILE_NAME, files, FILES);
    json_decref(about);
    return status == TD_OK ? 0 : -1;
}

static int remove_all(void **state)
{
    (void)state;
    td_table_destroy(table);
    return td_remove_tree(top) == TD_OK ? 0 : -1;
}

static td_rows_mapped *map(void)
{
    td_bundle b;
    td_rows_mapped *m = NULL;
    assert_ok(td_bundle_open(folder, "model", FILE_NAME, &b));
    assert_ok(td_rows_map(&b, &config, &m));
    assert_int_equal(b.count, 0);
    assert_int_equal(td_rows_mapped_count(m), KEYS);
    return m;
}

static void rows_are_found_by_key(void **state)
{
    (void)state;
    td_rows_mapped *m = map();
    uint64_t *keys = malloc(2 * KEYS * sizeof *keys);
    float *got = malloc(2 * KEYS * WIDTH * sizeof *got), *want = malloc(2 * KEYS * WIDTH * 4);
    for (uint64_t k = 0; k < KEYS; k++) keys[2 * k] = key_of(k), keys[2 * k + 1] = key_of(k) ^ 1;
    td_rows_mapped_peek(m, keys, 2 * KEYS, got);
    assert_ok(td_table_peek(table, keys, 2 * KEYS, want));
    assert_memory_equal(got, want, 2 * KEYS * WIDTH * sizeof *got);
    free(keys), free(got), free(want);
    td_rows_unmap(m);
}

typedef struct list {
    uint64_t keys[KEYS];
    float rows[KEYS * FLOATS];
    size_t count;
} list;

static td_status note(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    list *l = arg;
    (void)mark;
    l->keys[l->count] = key;
    memcpy(l->rows + l->count++ * FLOATS, row, FLOATS * sizeof *row);
    return TD_OK;
}

static td_status stop(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    (void)key, (void)mark, (void)row;
    return ++*(int *)arg == 7 ? TD_ERR_INTERRUPTED : TD_OK;
}

static void ranges_come_in_order(void **state)
{
    (void)state;
    td_rows_mapped *m = map();
    list *got = malloc(sizeof *got), *want = malloc(sizeof *want);
    td_rng rng;
    td_rng_init(&rng, 1, TD_RNG_TEST, 0, 0);
    for (int turn = 0; turn < 40; turn++) {
        uint64_t first = turn ? key_of(td_rng_u64(&rng) % KEYS) + turn % 3 : 0;
        uint64_t last = turn ? key_of(td_rng_u64(&rng) % KEYS) - turn % 2 : UINT64_MAX;
        got->count = want->count = 0;
        assert_ok(td_rows_mapped_range(m, first, last, note, got));
        assert_ok(td_table_range(table, first, last, note, want));
        assert_int_equal(got->count, want->count);
        assert_int_equal(td_rows_mapped_between(m, first, last), want->count);
        assert_memory_equal(got->keys, want->keys, want->count * sizeof *want->keys);
        assert_memory_equal(got->rows, want->rows, want->count * FLOATS * sizeof(float));
    }
    int calls = 0;
    assert_int_equal(td_rows_mapped_range(m, 0, UINT64_MAX, stop, &calls), TD_ERR_INTERRUPTED);
    assert_int_equal(calls, 7);
    free(got), free(want);
    td_rows_unmap(m);
}

static void other_tables_are_refused(void **state)
{
    (void)state;
    td_bundle b;
    td_rows_mapped *m = NULL;
    td_table_config wider = {.width = WIDTH + 1};
    assert_ok(td_bundle_open(folder, "model", FILE_NAME, &b));
    assert_fails(TD_ERR_CORRUPT, "it belongs to another model", td_rows_map(&b, &wider, &m));
    assert_null(m);
    td_bundle_close(&b);
}

static void write_keys(const char *name, const uint64_t *keys, size_t count)
{
    float weights[4 * WIDTH] = {0};
    uint64_t hash, bytes;
    const td_tensor tensors[] =
        {{.name = "keys", .rank = 1, .shape = {count}, .keys = keys, .count = count},
         {.name = "weights",
          .rank = 2,
          .shape = {count, WIDTH},
          .data = weights,
          .count = count * WIDTH}};
    assert_ok(td_safetensors_write(name, tensors, 2, &hash, &bytes));
}

static void keys_must_ascend(void **state)
{
    (void)state;
    static const uint64_t orders[][3] = {{1, 2, 3}, {1, 3, 2}, {1, 1, 2}};
    char path[TD_PATH_MAX];
    td_rows_mapped *m = NULL;
    assert_ok(td_path_join(path, top, "keys.safetensors"));
    for (int k = 0; k < 3; k++) {
        td_bundle b = {.file = td_calloc(1, sizeof *b.file), .count = 1};
        write_keys(path, orders[k], 3);
        assert_ok(td_safetensors_open(path, &b.file[0]));
        if (k == 0) {
            assert_ok(td_rows_map(&b, &config, &m));
            td_rows_unmap(m);
        } else {
            assert_fails(TD_ERR_CORRUPT, "do not ascend", td_rows_map(&b, &config, &m));
        }
        td_bundle_close(&b);
    }
}

static td_status try_map(void *arg)
{
    td_bundle b;
    td_rows_mapped *m = NULL;
    (void)arg;
    TD_TRY(td_bundle_open(folder, "model", FILE_NAME, &b));
    td_status status = td_rows_map(&b, &config, &m);
    td_bundle_close(&b);
    td_rows_unmap(m);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    assert_survives_no_memory(try_map, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_found_by_key),    cmocka_unit_test(ranges_come_in_order),
        cmocka_unit_test(other_tables_are_refused), cmocka_unit_test(keys_must_ascend),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, write_bundle, remove_all);
}
