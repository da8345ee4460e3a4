/* What the tests of data sets share: reading from memory, comparing, failing allocations. */
#ifndef TD_DATA_DATA_TEST_H
#define TD_DATA_DATA_TEST_H

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"
#include "data/dataset.h"
#include "data/readers/reader.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static inline td_source source_of(const char *name, const void *bytes, size_t size)
{
    return (td_source){.name = name, .data = bytes, .size = size};
}

/* As the reader would see a file called "mem" with this content. */
static inline td_status read_memory(td_format format, const void *bytes, size_t size,
                                    const td_data_config *config, int threads, td_dataset **out)
{
    static const td_data_config defaults;
    td_read_job job = {.config = config ? config : &defaults,
                       .main = source_of("mem", bytes, size)};
    td_pool *pool;
    TD_TRY(td_pool_create(threads, &pool));
    job.pool = pool;
    td_status status = td_reader_run(format, &job, out);
    td_pool_destroy(pool);
    return status;
}

static inline td_status read_text(td_format format, const char *text, const td_data_config *config,
                                  td_dataset **out)
{
    return read_memory(format, text, strlen(text), config, 1, out);
}

static inline void assert_row(const td_dataset *data, uint64_t row, const float *want)
{
    size_t features = td_dataset_info(data)->features;
    float x[64];
    assert_true(features <= 64);
    td_dataset_row(data, row, x);
    for (size_t k = 0; k < features; k++)
        if (!(x[k] == want[k] || (isnan(x[k]) && isnan(want[k]))))
            fail_msg("row %llu, feature %zu: %g, expected %g", (unsigned long long)row, k,
                     (double)x[k], (double)want[k]);
}

static inline void assert_same_entries(const td_dataset *a, const td_dataset *b, uint64_t row)
{
    const uint32_t *feature[2];
    const float *value[2];
    const uint16_t *field[2] = {td_dataset_sparse_fields(a, row), td_dataset_sparse_fields(b, row)};
    size_t n = td_dataset_sparse_row(a, row, &feature[0], &value[0]);
    assert_int_equal(td_dataset_sparse_row(b, row, &feature[1], &value[1]), n);
    assert_int_equal(field[0] != NULL, field[1] != NULL);
    assert_memory_equal(feature[0], feature[1], n * sizeof **feature);
    assert_memory_equal(value[0], value[1], n * sizeof **value);
    if (field[0]) assert_memory_equal(field[0], field[1], n * sizeof **field);
}

/* Everything a user can see of the two is the same. */
static inline void assert_same_data(const td_dataset *a, const td_dataset *b)
{
    const td_data_info *x = td_dataset_info(a), *y = td_dataset_info(b);
    assert_int_equal(x->samples, y->samples);
    assert_int_equal(x->features, y->features);
    assert_int_equal(x->rank, y->rank);
    assert_memory_equal(x->shape, y->shape, sizeof x->shape);
    assert_int_equal(x->classes, y->classes);
    assert_int_equal(x->sparse, y->sparse);
    assert_int_equal(x->class_names != NULL, y->class_names != NULL);
    for (int k = 0; x->class_names && k < x->classes; k++)
        assert_string_equal(x->class_names[k], y->class_names[k]);
    assert_int_equal(x->feature_names != NULL, y->feature_names != NULL);
    for (size_t k = 0; x->feature_names && k < x->features; k++)
        assert_string_equal(x->feature_names[k], y->feature_names[k]);
    assert_int_equal(a->hashed != NULL, b->hashed != NULL);
    assert_int_equal(a->hashed_columns, b->hashed_columns);
    if (a->hashed)
        assert_memory_equal(a->hashed, b->hashed,
                            x->samples * a->hashed_columns * sizeof *a->hashed);
    float *p = malloc(x->features * sizeof *p), *q = malloc(x->features * sizeof *q);
    assert_true(p && q);
    for (uint64_t i = 0; i < x->samples; i++) {
        td_dataset_row(a, i, p);
        td_dataset_row(b, i, q);
        for (size_t k = 0; k < x->features; k++)
            assert_true(memcmp(&p[k], &q[k], 4) == 0 || (isnan(p[k]) && isnan(q[k])));
        assert_int_equal(td_dataset_label(a, i), td_dataset_label(b, i));
        assert_true(td_dataset_target(a, i) == td_dataset_target(b, i));
        assert_true(td_dataset_weight(a, i) == td_dataset_weight(b, i));
        assert_int_equal(td_dataset_group(a, i), td_dataset_group(b, i));
        if (x->sparse) assert_same_entries(a, b, i);
    }
    free(p);
    free(q);
}

/* The same data and the same error for 1, 2, 3 and 5 threads. */
static inline void assert_threads_agree(td_format format, const void *bytes, size_t size,
                                        const td_data_config *config)
{
    static const int threads[] = {2, 3, 5};
    td_dataset *one = NULL, *many = NULL;
    char sentence[1024];
    td_status first = read_memory(format, bytes, size, config, 1, &one);
    snprintf(sentence, sizeof sentence, "%s", first == TD_OK ? "" : td_last_error());
    for (size_t t = 0; t < 3; t++) {
        td_status status = read_memory(format, bytes, size, config, threads[t], &many);
        assert_int_equal(status, first);
        if (status == TD_OK) {
            assert_same_data(one, many);
            td_dataset_close(many);
        } else {
            assert_string_equal(td_last_error(), sentence);
        }
    }
    if (first == TD_OK) td_dataset_close(one);
}

typedef struct read_attempt {
    td_format format;
    const void *bytes;
    size_t size;
    const td_data_config *config;
} read_attempt;
static inline td_status attempt_read(void *arg)
{
    read_attempt *a = arg;
    td_dataset *data;
    TD_TRY(read_memory(a->format, a->bytes, a->size, a->config, 2, &data));
    td_dataset_close(data);
    return TD_OK;
}

/* A folder of its own, removed by the caller. */
static inline void make_folder(char path[TD_PATH_MAX])
{
    const char *base = getenv("TMPDIR");
    snprintf(path, TD_PATH_MAX, "%s/tandem-data-XXXXXX", base && *base ? base : "/tmp");
    assert_non_null(mkdtemp(path));
}

static inline void put_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[TD_PATH_MAX];
    assert_ok(td_path_join(path, folder, name));
    assert_ok(td_write_file(path, bytes, size));
}

/* gzip of bytes; *out is the caller's to free. */
static inline size_t make_gz(const void *bytes, size_t size, unsigned char **out)
{
    z_stream z = {0};
    size_t room = size + size / 10 + 100;
    *out = malloc(room);
    assert_non_null(*out);
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)bytes;
    z.avail_in = (uInt)size;
    z.next_out = *out;
    z.avail_out = (uInt)room;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    size_t made = z.total_out;
    deflateEnd(&z);
    return made;
}

/* Where the data sets for development are; NULL skips the test with a message. */
static inline const char *development_data(const char *name, char path[TD_PATH_MAX])
{
    static const char *const places[] = {"../shared/data", "../../shared/data",
                                         "../../../shared/data"};
    const char *base = getenv("TANDEM_DATA");
    if (base && td_path_join(path, base, name) == TD_OK && td_path_exists(path)) return path;
    for (size_t i = 0; !base && i < sizeof places / sizeof *places; i++)
        if (td_path_join(path, places[i], name) == TD_OK && td_path_exists(path)) return path;
    print_message("%s is not there (set TANDEM_DATA): skipped\n", name);
    return NULL;
}

#endif
