/* IDX files in memory: every type and rank, gzip, cut and altered bytes, failing memory. */
#include "data/data_test.h"

#include <float.h>

/* A header of `rank` sizes and then the bytes. */
static size_t make_idx(unsigned char *to, int type, int rank, const uint32_t *size,
                       const void *values, size_t bytes)
{
    unsigned char *at = to;
    *at++ = 0, *at++ = 0, *at++ = (unsigned char)type, *at++ = (unsigned char)rank;
    for (int d = 0; d < rank; d++)
        for (int s = 24; s >= 0; s -= 8) *at++ = (unsigned char)(size[d] >> s);
    memcpy(at, values, bytes);
    return (size_t)(at - to) + bytes;
}

static td_status read_pair(const void *images, size_t images_size, const void *labels,
                           size_t labels_size, const td_data_config *config, td_dataset **out)
{
    static const td_data_config defaults;
    td_read_job job = {.config = config ? config : &defaults,
                       .main = source_of("images", images, images_size)};
    if (labels) job.label = source_of("labels", labels, labels_size);
    return td_reader_run(TD_FORMAT_IDX, &job, out);
}

static const unsigned char pixels[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 255};
static const unsigned char classes[3] = {2, 0, 1};
static unsigned char images[64], labels[64];
static size_t images_size, labels_size;

static int make_files(void **state)
{
    (void)state;
    images_size = make_idx(images, 8, 3, (uint32_t[]){3, 2, 2}, pixels, sizeof pixels);
    labels_size = make_idx(labels, 8, 1, (uint32_t[]){3}, classes, sizeof classes);
    return 0;
}

static void test_images(void **state)
{
    (void)state;
    td_dataset *d, *packed;
    assert_ok(read_pair(images, images_size, labels, labels_size, NULL, &d));
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->samples, 3);
    assert_int_equal(info->rank, 3);
    assert_true(info->shape[0] == 1 && info->shape[1] == 2 && info->shape[2] == 2);
    assert_int_equal(info->classes, 3);
    assert_int_equal(info->bytes, 12);
    assert_row(d, 2, (float[]){8, 9, 10, 255});
    assert_int_equal(td_dataset_label(d, 0), 2);
    unsigned char *a, *b;
    size_t a_size = make_gz(images, images_size, &a), b_size = make_gz(labels, labels_size, &b);
    assert_ok(read_pair(a, a_size, b, b_size, NULL, &packed));
    assert_same_data(d, packed);
    td_dataset_close(packed);
    free(a);
    free(b);
    td_dataset_close(d);
}

static void test_types(void **state)
{
    (void)state;
    unsigned char file[100];
    td_dataset *d;
    size_t n = make_idx(file, 0x0B, 2, (uint32_t[]){2, 2}, "\x01\x00\xff\xff\x7f\xff\x00\x05", 8);
    assert_ok(read_pair(file, n, NULL, 0, NULL, &d));
    assert_int_equal(td_dataset_info(d)->rank, 1);
    assert_row(d, 0, (float[]){256, -1});
    assert_row(d, 1, (float[]){32767, 5});
    td_dataset_close(d);
    n = make_idx(file, 0x0D, 2, (uint32_t[]){1, 2}, "\x3f\xc0\x00\x00\xc0\x00\x00\x00", 8);
    assert_ok(read_pair(file, n, NULL, 0, NULL, &d));
    assert_row(d, 0, (float[]){1.5f, -2});
    td_dataset_close(d);
    n = make_idx(file, 0x0E, 2, (uint32_t[]){1, 1}, "\x3f\xf8\x00\x00\x00\x00\x00\x00", 8);
    assert_ok(read_pair(file, n, NULL, 0, NULL, &d));
    assert_row(d, 0, (float[]){1.5f});
    td_dataset_close(d);
    n = make_idx(file, 0x09, 4, (uint32_t[]){1, 2, 1, 2}, "\x80\x7f\x00\x01", 4);
    assert_ok(read_pair(file, n, NULL, 0, NULL, &d));
    assert_int_equal(td_dataset_info(d)->shape[0], 2);
    assert_row(d, 0, (float[]){-128, 127, 0, 1});
    td_dataset_close(d);
    n = make_idx(file, 0x0D, 2, (uint32_t[]){1, 1}, "\x7f\xc0\x00\x00", 4);
    assert_fails(TD_ERR_DATA, "images: value 0, nan, is not a finite float",
                 read_pair(file, n, NULL, 0, NULL, &d));
    n = make_idx(file, 0x0D, 2, (uint32_t[]){1, 1}, "\xff\x80\x00\x00", 4);
    assert_fails(TD_ERR_DATA, "value 0, -inf", read_pair(file, n, NULL, 0, NULL, &d));
}

static void test_doubles_beyond_floats(void **state)
{
    (void)state;
    unsigned char file[100];
    td_dataset *d;
    /* 1, then 1e300; then the largest double that is still a float, -FLT_MAX, and the first not */
    size_t n = make_idx(file, 0x0E, 2, (uint32_t[]){1, 2},
                        "\x3f\xf0\x00\x00\x00\x00\x00\x00\x7e\x37\xe4\x3c\x88\x00\x75\x9c", 16);
    assert_fails(TD_ERR_DATA, "images: value 1, 1e+300, is not a finite float",
                 read_pair(file, n, NULL, 0, NULL, &d));
    n = make_idx(file, 0x0E, 2, (uint32_t[]){1, 1}, "\xc7\xef\xff\xff\xe0\x00\x00\x00", 8);
    assert_ok(read_pair(file, n, NULL, 0, NULL, &d));
    assert_row(d, 0, (float[]){-FLT_MAX});
    td_dataset_close(d);
    n = make_idx(file, 0x0E, 2, (uint32_t[]){1, 1}, "\xc7\xef\xff\xff\xf0\x00\x00\x00", 8);
    assert_fails(TD_ERR_DATA, "value 0, -3.40282e+38", read_pair(file, n, NULL, 0, NULL, &d));
}

static void test_bad_files(void **state)
{
    (void)state;
    td_dataset *d = NULL;
    unsigned char file[100];
    for (size_t n = 0; n < images_size; n++) /* cut anywhere */
        assert_fails(TD_ERR_DATA, "images", read_pair(images, n, labels, labels_size, NULL, &d));
    for (size_t n = 0; n < labels_size; n++)
        assert_fails(TD_ERR_DATA, "labels", read_pair(images, images_size, labels, n, NULL, &d));
    assert_fails(TD_ERR_DATA, "images is empty", read_pair(images, 0, NULL, 0, NULL, &d));
    assert_fails(TD_ERR_DATA, "goes on behind",
                 read_pair(images, images_size + 1, labels, labels_size, NULL, &d));
    memcpy(file, images, images_size);
    file[0] = 1;
    assert_fails(TD_ERR_DATA, "not an IDX file: it begins with 01 00 08 03",
                 read_pair(file, images_size, NULL, 0, NULL, &d));
    size_t n = make_idx(file, 8, 3, (uint32_t[]){0xffffffff, 0xffffffff, 0xffffffff}, pixels, 12);
    assert_fails(TD_ERR_DATA, "too large", read_pair(file, n, NULL, 0, NULL, &d));
    n = make_idx(file, 8, 3, (uint32_t[]){0x100000, 1000, 1000}, pixels, 12);
    assert_fails(TD_ERR_DATA, "is cut off", read_pair(file, n, NULL, 0, NULL, &d));
    n = make_idx(file, 8, 3, (uint32_t[]){3, 0, 2}, pixels, 12);
    assert_fails(TD_ERR_DATA, "dimension 1 (byte 8) is 0", read_pair(file, n, NULL, 0, NULL, &d));
    n = make_idx(file, 8, 1, (uint32_t[]){3}, classes, 3);
    assert_fails(TD_ERR_DATA, "images need 3", read_pair(file, n, labels, labels_size, NULL, &d));
    n = make_idx(file, 8, 1, (uint32_t[]){2}, classes, 2);
    assert_fails(TD_ERR_DATA, "holds 2 labels for the 3 samples of images",
                 read_pair(images, images_size, file, n, NULL, &d));
    n = make_idx(file, 9, 1, (uint32_t[]){3}, "\x01\xff\x01", 3);
    assert_fails(TD_ERR_DATA, "label -1 of sample 1",
                 read_pair(images, images_size, file, n, NULL, &d));
    td_dataset *train;
    assert_ok(read_pair(images, images_size, labels, labels_size, NULL, &train));
    td_data_config like = {.like = train};
    n = make_idx(file, 8, 1, (uint32_t[]){3}, "\x01\x03\x01", 3);
    assert_fails(TD_ERR_DATA, "label 3 of sample 1 is not in 0..2, the classes of the training set",
                 read_pair(images, images_size, file, n, &like, &d));
    n = make_idx(file, 8, 3, (uint32_t[]){3, 1, 4}, pixels, 12);
    assert_fails(TD_ERR_DATA, "another shape", read_pair(file, n, labels, labels_size, &like, &d));
    td_dataset_close(train);
}

static void test_bad_gzip(void **state)
{
    (void)state;
    td_dataset *d = NULL;
    unsigned char *gz;
    size_t size = make_gz(images, images_size, &gz);
    for (size_t n = 2; n < size; n++)
        assert_fails(TD_ERR_DATA, "images", read_pair(gz, n, labels, labels_size, NULL, &d));
    gz[size - 6] ^= 1; /* the checksum */
    assert_fails(TD_ERR_DATA, "the gzip data is damaged",
                 read_pair(gz, size, labels, labels_size, NULL, &d));
    gz[size - 6] ^= 1;
    unsigned char *more = calloc(2, size);
    assert_non_null(more);
    memcpy(more, gz, size); /* zeros behind are padding, other bytes are not */
    assert_ok(read_pair(more, 2 * size, labels, labels_size, NULL, &d));
    td_dataset_close(d);
    more[size + 3] = 1;
    assert_fails(TD_ERR_DATA, "behind the end of the gzip data",
                 read_pair(more, 2 * size, labels, labels_size, NULL, &d));
    free(more);
    free(gz);
}

typedef struct attempt {
    const unsigned char *bytes;
    size_t size;
} attempt;
static td_status try_pair(void *arg)
{
    attempt *a = arg;
    td_dataset *d;
    td_data_config config = {.label_kind = TD_LABEL_VALUE};
    TD_TRY(read_pair(a->bytes, a->size, labels, labels_size, &config, &d));
    td_dataset_close(d);
    return TD_OK;
}

static void test_no_memory(void **state)
{
    (void)state;
    unsigned char *gz;
    size_t size = make_gz(images, images_size, &gz);
    assert_survives_no_memory(try_pair, &(attempt){gz, size});
    assert_survives_no_memory(try_pair, &(attempt){images, images_size});
    free(gz);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_images),    cmocka_unit_test(test_types),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_doubles_beyond_floats),
        cmocka_unit_test(test_bad_gzip),  cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("idx", tests, make_files, NULL);
}
