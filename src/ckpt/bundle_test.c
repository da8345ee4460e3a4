/* Bundles read back as written, or are refused, whatever is cut or altered. */
#include "ckpt/bundle_test.h"

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
    assert_fails(TD_ERR_CORRUPT, file_name, open_bundle(path, &b));
    assert_ok(write_bundle(path, 1, weight));
    assert_ok(td_remove_tree(in(path, "manifest.json")));
    assert_fails(TD_ERR_CORRUPT, "manifest.json", open_bundle(path, &b));
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
        assert_fails(TD_ERR_CORRUPT, name, open_bundle(path, &b));
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
        cmocka_unit_test_setup(memory_may_run_out_in_reading, empty),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
