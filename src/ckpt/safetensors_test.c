/* The safetensors format: what is written byte by byte, what is read back, and files that are cut,
 * altered or made to mislead. */
#include "ckpt/safetensors.h"

#include "base/test.h"

#include <jansson.h>
#include <stdlib.h>
#include <xxhash.h>

static char folder[] = "/tmp/td-safetensors-XXXXXX";
static char path[TD_PATH_MAX];

static const float matrix[6] = {1, -2, 0.5f, 3e38f, 1e-45f, -0.f}, scalar[1] = {7};
static const td_tensor tensors[] = {
    {.name = "1.weight", .rank = 2, .shape = {2, 3}, .data = matrix, .count = 6},
    {.name = "momentum/1.bias \"x\" \xc3\xa9", .rank = 1, .shape = {1}, .data = scalar, .count = 1},
    {.name = "scalar", .rank = 0, .data = scalar, .count = 1},
    {.name = "nothing", .rank = 1, .shape = {0}, .data = scalar, .count = 0},
    {.name = "image", .rank = 4, .shape = {1, 2, 1, 3}, .data = matrix, .count = 6},
};
enum { TENSORS = sizeof tensors / sizeof *tensors };

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) && td_path_join(path, folder, "file") == TD_OK ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    return td_remove_tree(folder) == TD_OK ? 0 : -1;
}

/* The bytes of a file with `header` and four bytes of data, in memory of exactly that size. */
static unsigned char *make(const char *header, uint64_t length, size_t *size)
{
    size_t n = strlen(header);
    unsigned char *bytes = malloc(8 + n + 4);
    assert_non_null(bytes);
    memcpy(bytes, &length, 8);
    memcpy(bytes + 8, header, n);
    memset(bytes + 8 + n, 0, 4);
    *size = 8 + n + 4;
    return bytes;
}

static td_status try_header(const char *header)
{
    size_t size;
    unsigned char *bytes = make(header, strlen(header), &size);
    td_safetensors *file;
    td_status status = td_safetensors_parse("mem", bytes, size, &file);
    if (status == TD_OK) td_safetensors_close(file);
    free(bytes);
    return status;
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    uint64_t hash, bytes;
    td_safetensors *file;
    assert_ok(td_safetensors_write(path, tensors, TENSORS, &hash, &bytes));
    assert_ok(td_safetensors_open(path, &file));
    assert_true(td_safetensors_hash(file) == hash);
    assert_true(td_safetensors_bytes(file) == bytes);
    for (int i = 0; i < TENSORS; i++) {
        float out[7] = {[6] = 42};
        assert_ok(td_safetensors_read(file, tensors[i].name, tensors[i].count, out));
        assert_memory_equal(out, tensors[i].data, tensors[i].count * sizeof *out);
        assert_true(out[6] == 42);
    }
    td_safetensors_close(file);
    td_safetensors_close(NULL);
}

/* As the format's description has it: the length, JSON padded by blanks to 8, the floats. */
static void the_bytes_are_those_of_the_format(void **state)
{
    (void)state;
    static const char header[] =
        "{\"1.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}";
    uint64_t hash, bytes, length;
    char *file;
    size_t size, n = strlen(header), padded = (n + 7) / 8 * 8;
    assert_ok(td_safetensors_write(path, tensors, 1, &hash, &bytes));
    assert_ok(td_read_file(path, &file, &size));
    assert_int_equal(size, bytes);
    assert_int_equal(size, 8 + padded + sizeof matrix);
    memcpy(&length, file, 8);
    assert_int_equal(length, padded);
    assert_memory_equal(file + 8, header, n);
    for (size_t i = n; i < padded; i++) assert_int_equal(file[8 + i], ' ');
    assert_memory_equal(file + 8 + padded, matrix, sizeof matrix);
    assert_true(hash == XXH64(file, size, 0));
    td_free(file);
}

static void no_tensors_are_a_file_too(void **state)
{
    (void)state;
    uint64_t hash, bytes;
    td_safetensors *file;
    float out;
    assert_ok(td_safetensors_write(path, NULL, 0, &hash, &bytes));
    assert_int_equal(bytes, 16);
    assert_ok(td_safetensors_open(path, &file));
    assert_fails(TD_ERR_CORRUPT, "has no tensor w", td_safetensors_read(file, "w", 1, &out));
    td_safetensors_close(file);
}

static void a_tensor_is_asked_for_as_it_is(void **state)
{
    (void)state;
    uint64_t hash, bytes;
    td_safetensors *file;
    float out[7];
    assert_ok(td_safetensors_write(path, tensors, TENSORS, &hash, &bytes));
    assert_ok(td_safetensors_open(path, &file));
    assert_fails(TD_ERR_CORRUPT, "has no tensor 2.weight",
                 td_safetensors_read(file, "2.weight", 6, out));
    assert_fails(TD_ERR_CORRUPT, "tensor 1.weight has 6 elements where the architecture has 7",
                 td_safetensors_read(file, "1.weight", 7, out));
    assert_fails(TD_ERR_CORRUPT, "has 6 elements", td_safetensors_read(file, "1.weight", 5, out));
    td_safetensors_close(file);
}

static void a_name_is_written_once(void **state)
{
    (void)state;
    const td_tensor twice[] = {tensors[0], tensors[2], tensors[0]};
    uint64_t hash, bytes;
    assert_ok(td_remove_tree(path));
    assert_fails(TD_ERR_ARG, "two tensors are called 1.weight",
                 td_safetensors_write(path, twice, 3, &hash, &bytes));
    assert_false(td_path_exists(path));
}

/* Cut off anywhere, the file is refused; only its checksum can tell when a byte of data differs. */
static void no_cut_and_no_flip_passes(void **state)
{
    (void)state;
    uint64_t hash, bytes;
    char *whole;
    size_t size;
    td_safetensors *file;
    assert_ok(td_safetensors_write(path, tensors, TENSORS, &hash, &bytes));
    assert_ok(td_read_file(path, &whole, &size));
    for (size_t n = 0; n < size; n++) {
        unsigned char *cut = malloc(n + !n);
        assert_non_null(cut);
        memcpy(cut, whole, n);
        assert_fails(TD_ERR_CORRUPT, "mem", td_safetensors_parse("mem", cut, n, &file));
        free(cut);
        assert_ok(td_write_file(path, whole, n));
        assert_fails(TD_ERR_CORRUPT, path, td_safetensors_open(path, &file));
    }
    for (size_t i = 0; i < size; i++)
        for (int bit = 0; bit < 8; bit++) {
            whole[i] = (char)(whole[i] ^ 1 << bit);
            td_status status = td_safetensors_parse("mem", (unsigned char *)whole, size, &file);
            if (status == TD_OK) {
                float out[6];
                assert_false(td_safetensors_hash(file) == hash);
                for (int t = 0; t < TENSORS; t++) { /* whatever it says, it stays inside */
                    status = td_safetensors_read(file, tensors[t].name, tensors[t].count, out);
                    assert_true(status == TD_OK || status == TD_ERR_CORRUPT);
                }
                td_safetensors_close(file);
            } else {
                assert_int_equal(status, TD_ERR_CORRUPT);
            }
            whole[i] = (char)(whole[i] ^ 1 << bit);
        }
    td_free(whole);
}

static void absurd_lengths_are_refused(void **state)
{
    (void)state;
    static const uint64_t lengths[] = {3,          7,
                                       UINT32_MAX, (uint64_t)1 << 63,
                                       UINT64_MAX, UINT64_MAX - 7};
    td_safetensors *file;
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        size_t size;
        unsigned char *bytes = make("{}", lengths[i], &size);
        assert_fails(TD_ERR_CORRUPT, i < 1 ? "JSON" : "shorter than its header",
                     td_safetensors_parse("mem", bytes, size, &file));
        free(bytes);
    }
}

static void misleading_headers_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *header, *says;
    } cases[] = {
        {"[]", "JSON"},
        {"", "JSON"},
        {"{\"w\":1}", "description"},
        {"{\"w\":{}}", "description"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1]}}", "description"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":1,\"data_offsets\":[0,4]}}", "description"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[\"1\"],\"data_offsets\":[0,4]}}", "description"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,0]}}", "description"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", "description"},
        {"{\"w\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,4]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"U64\",\"shape\":[1],\"data_offsets\":[0,8]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F64\",\"shape\":[1],\"data_offsets\":[0,4]}}", "type F64, not F32"},
        {"{\"w\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}", "type BF16"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,5]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,4]}}", "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", "larger"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,4]}}",
         "larger"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
         "larger"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],"
         "\"data_offsets\":[9223372036854775804,9223372036854775807]}}",
         "beyond"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,18446744073709551616]}}",
         "JSON"},
        {"{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
         "duplicate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(TD_ERR_CORRUPT, cases[i].says, try_header(cases[i].header));
    assert_ok(try_header("{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"));
    assert_ok(
        try_header("{\"__metadata__\":{\"format\":\"pt\"},\"w\":{\"dtype\":\"F32\",\"shape\":[],"
                   "\"data_offsets\":[0,4]}}  "));
}

static td_status try_open(void *arg)
{
    (void)arg;
    td_safetensors *file;
    td_status status = td_safetensors_open(path, &file);
    if (status == TD_OK) td_safetensors_close(file);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    size_t k = 0;
    for (size_t asked = 0; asked >= k;) {
        uint64_t hash, bytes;
        assert_ok(td_remove_tree(path));
        json_set_alloc_funcs(td_malloc, td_free); /* its allocations fail in their turn, too */
        td_alloc_fail_at(++k);
        td_status status = td_safetensors_write(path, tensors, TENSORS, &hash, &bytes);
        asked = td_alloc_count();
        td_alloc_fail_at(0);
        json_set_alloc_funcs(malloc, free);
        assert_true(status == TD_OK || status == TD_ERR_NOMEM);
        assert_true(td_path_exists(path) == (status == TD_OK));
        if (status == TD_OK) assert_ok(try_open(NULL));
    }
    assert_true(k > 20);
    assert_survives_no_memory(try_open, NULL);
}

/* Longer than a piece, and read again where pages were let go of. */
static void a_long_file_is_hashed_in_pieces(void **state)
{
    (void)state;
    size_t size = ((size_t)33 << 20) + 5;
    unsigned char *bytes = malloc(size);
    td_mapping map;
    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(i * i >> 7);
    assert_ok(td_write_file(path, bytes, size));
    assert_ok(td_map_file(path, &map));
    assert_true(td_mapping_hash(&map) == XXH64(bytes, size, 0));
    assert_memory_equal(map.data, bytes, size);
    td_unmap(&map);
    free(bytes);
    assert_ok(td_remove_tree(path));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(the_bytes_are_those_of_the_format),
        cmocka_unit_test(no_tensors_are_a_file_too),
        cmocka_unit_test(a_tensor_is_asked_for_as_it_is),
        cmocka_unit_test(a_name_is_written_once),
        cmocka_unit_test(no_cut_and_no_flip_passes),
        cmocka_unit_test(absurd_lengths_are_refused),
        cmocka_unit_test(misleading_headers_are_refused),
        cmocka_unit_test(a_long_file_is_hashed_in_pieces),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
