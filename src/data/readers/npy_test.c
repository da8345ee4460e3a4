/* npy and npz files made in memory: types, orders, versions, zips, cut bytes, failing memory. */
#include "data/data_test.h"

static size_t make_npy(unsigned char *to, int version, const char *type, const char *order,
                       const char *shape, const void *values, size_t bytes)
{
    char head[200];
    int n = snprintf(head, sizeof head, "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }\n",
                     type, order, shape);
    size_t fixed = version == 1 ? 10 : 12;
    memcpy(to, "\x93NUMPY", 6);
    to[6] = (unsigned char)version, to[7] = 0;
    to[8] = (unsigned char)n, to[9] = (unsigned char)(n >> 8), to[10] = 0, to[11] = 0;
    memcpy(to + fixed, head, (size_t)n);
    memcpy(to + fixed + n, values, bytes);
    return fixed + (size_t)n + bytes;
}

static td_status read_pair(const void *x, size_t x_size, const void *y, size_t y_size,
                           const td_data_config *config, td_dataset **out)
{
    static const td_data_config defaults;
    td_read_job job = {.config = config ? config : &defaults, .main = source_of("x", x, x_size)};
    if (y) job.label = source_of("y", y, y_size);
    return td_reader_run(TD_FORMAT_NPY, &job, out);
}

static const td_data_config no_label = {.label = "none"};
static const float floats[6] = {1, 2, 3, 4, 5, NAN};
static const int64_t wide[2] = {1, 0};
static unsigned char x[400], y[400];
static size_t x_size, y_size;

static int make_files(void **state)
{
    (void)state;
    x_size = make_npy(x, 1, "<f4", "False", "(2, 3)", floats, sizeof floats);
    y_size = make_npy(y, 2, "<i8", "False", "(2,)", wide, sizeof wide);
    return 0;
}

static void test_tables(void **state)
{
    (void)state;
    td_dataset *d;
    unsigned char file[400];
    assert_ok(read_pair(x, x_size, y, y_size, NULL, &d));
    assert_int_equal(td_dataset_info(d)->classes, 2);
    assert_row(d, 1, (float[]){4, 5, NAN});
    assert_int_equal(td_dataset_label(d, 0), 1);
    td_dataset_close(d);
    size_t n = make_npy(file, 3, "<f4", "True", "(2, 3)", floats, sizeof floats);
    assert_ok(read_pair(file, n, NULL, 0, &no_label, &d));
    assert_row(d, 0, (float[]){1, 3, 5});
    td_dataset_close(d);
    n = make_npy(file, 1, "<f8", "False", "(1, 2)", (double[]){0.1, -2}, 16);
    assert_ok(read_pair(file, n, NULL, 0, &no_label, &d));
    assert_row(d, 0, (float[]){.1f, -2});
    td_dataset_close(d);
    n = make_npy(file, 1, "<i4", "False", "(2,)", (int32_t[]){-7, 1 << 20}, 8);
    assert_ok(read_pair(file, n, NULL, 0, &no_label, &d));
    assert_row(d, 0, (float[]){-7});
    td_dataset_close(d);
}

static void test_images(void **state)
{
    (void)state;
    static const unsigned char bytes[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};
    td_dataset *d;
    unsigned char file[400];
    size_t n = make_npy(file, 1, "|u1", "False", "(1, 3, 4)", bytes, 12);
    assert_ok(read_pair(file, n, NULL, 0, &no_label, &d));
    const td_data_info *info = td_dataset_info(d);
    assert_true(info->rank == 3 && info->shape[0] == 1 && info->shape[1] == 3 &&
                info->shape[2] == 4);
    td_dataset_close(d);
    n = make_npy(file, 1, "|u1", "False", "(1, 2, 2, 3)", bytes, 12); /* channels last */
    assert_ok(read_pair(file, n, NULL, 0, &no_label, &d));
    info = td_dataset_info(d);
    assert_true(info->shape[0] == 3 && info->shape[1] == 2 && info->shape[2] == 2);
    assert_row(d, 0, (float[]){0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11});
    td_dataset_close(d);
    n = make_npy(file, 1, "|b1", "False", "(1, 3, 2, 2)", bytes, 12); /* channels first */
    assert_ok(read_pair(file, n, NULL, 0, &no_label, &d));
    assert_row(d, 0, (float[]){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
    td_dataset_close(d);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *type, *order, *shape, *sentence;
    } cases[] = {
        {"<c8", "False", "(2, 3)", "type <c8 cannot be read"},
        {">f4", "False", "(2, 3)", "big-endian"},
        {"<f4", "Maybe", "(2, 3)", "no 'fortran_order'"},
        {"<f4", "False", "2", "no 'shape'"},
        {"<f4", "False", "(2, -3)", "not a list of 1 to 4 sizes"},
        {"<f4", "False", "(1, 1, 1, 2, 3)", "not a list of 1 to 4 sizes"},
        {"<f4", "False", "(2, 0)", "holds no values"},
        {"<f4", "False", "(2, 4)", "promises 8 values of 4 bytes, 24 bytes are there"},
        {"<f4", "False", "(2, 2)", "8 bytes behind its last value"},
        {"<f4", "False", "(999999999999, 999999999999)", "too large"},
        {"<f4", "True", "(1, 2, 3)", "Fortran order"},
    };
    td_dataset *d = NULL;
    unsigned char file[400];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = make_npy(file, 1, cases[i].type, cases[i].order, cases[i].shape, floats, 24);
        assert_fails(TD_ERR_DATA, cases[i].sentence, read_pair(file, n, NULL, 0, &no_label, &d));
    }
    for (size_t n = 0; n < x_size; n++)
        assert_fails(TD_ERR_DATA, "x", read_pair(x, n, NULL, 0, &no_label, &d));
    size_t n = make_npy(file, 1, "<i8", "False", "(1, 1)", (int64_t[]){INT64_MAX}, 8);
    assert_fails(TD_ERR_DATA, "does not fit in 32 bits",
                 read_pair(file, n, NULL, 0, &no_label, &d));
    n = make_npy(file, 1, "<f8", "False", "(1, 1)", (double[]){1e300}, 8);
    assert_fails(TD_ERR_DATA, "not a finite float", read_pair(file, n, NULL, 0, &no_label, &d));
    n = make_npy(file, 1, "<f8", "True", "(2, 2)", (double[]){1, 2, 3, -4e38}, 32);
    assert_fails(TD_ERR_DATA, "x: value -4e+38 of sample 1 is not a finite float",
                 read_pair(file, n, NULL, 0, &no_label, &d));
    n = make_npy(file, 1, "<f8", "False", "(2,)", (double[]){0, 1e39}, 16);
    assert_fails(TD_ERR_DATA, "y: label 1e+39 of sample 1 is not a finite float",
                 read_pair(x, x_size, file, n, NULL, &d));
    assert_fails(TD_ERR_DATA, "no labels beside it", read_pair(x, x_size, NULL, 0, NULL, &d));
    n = make_npy(file, 1, "<i8", "False", "(1,)", wide, 8);
    assert_fails(TD_ERR_DATA, "labels for 2 samples", read_pair(x, x_size, file, n, NULL, &d));
    n = make_npy(file, 1, "<f4", "False", "(2,)", (float[]){NAN, 1}, 8);
    assert_fails(TD_ERR_DATA, "label nan of sample 0", read_pair(x, x_size, file, n, NULL, &d));
    assert_null(d);
}

/* ---- zips ---- */

static void put16(unsigned char *to, size_t v)
{
    to[0] = (unsigned char)v, to[1] = (unsigned char)(v >> 8);
}
static void put32(unsigned char *to, size_t v)
{
    put16(to, v & 0xffff);
    put16(to + 2, v >> 16);
}

typedef struct zip {
    unsigned char bytes[4096], directory[1024];
    size_t used, directory_used, members;
} zip;

static void zip_add(zip *z, const char *name, const void *data, size_t size, bool deflated)
{
    unsigned char packed[1024];
    size_t packed_size = size, n = strlen(name);
    memcpy(packed, data, size);
    if (deflated) {
        z_stream s = {0};
        assert_int_equal(deflateInit2(&s, 6, Z_DEFLATED, -15, 8, Z_DEFAULT_STRATEGY), Z_OK);
        s.next_in = (Bytef *)(uintptr_t)data, s.avail_in = (uInt)size;
        s.next_out = packed, s.avail_out = sizeof packed;
        assert_int_equal(deflate(&s, Z_FINISH), Z_STREAM_END);
        packed_size = s.total_out;
        deflateEnd(&s);
    }
    unsigned char local[30] = "PK\3\4", central[46] = "PK\1\2";
    put16(local + 8, deflated ? 8 : 0);
    put16(local + 26, n);
    put16(central + 10, deflated ? 8 : 0);
    put32(central + 16, crc32(0, data, (uInt)size));
    put32(central + 20, packed_size);
    put32(central + 24, size);
    put16(central + 28, n);
    put32(central + 42, z->used);
    memcpy(z->bytes + z->used, local, 30);
    memcpy(z->bytes + z->used + 30, name, n);
    memcpy(z->bytes + z->used + 30 + n, packed, packed_size);
    z->used += 30 + n + packed_size;
    memcpy(z->directory + z->directory_used, central, 46);
    memcpy(z->directory + z->directory_used + 46, name, n);
    z->directory_used += 46 + n;
    z->members++;
}

static void zip_end(zip *z)
{
    unsigned char end[22] = "PK\5\6";
    put16(end + 8, z->members);
    put16(end + 10, z->members);
    put32(end + 12, z->directory_used);
    put32(end + 16, z->used);
    memcpy(z->bytes + z->used, z->directory, z->directory_used);
    z->used += z->directory_used;
    memcpy(z->bytes + z->used, end, 22);
    z->used += 22;
}

static void make_zip(zip *z)
{
    memset(z, 0, sizeof *z);
    zip_add(z, "other.npy", y, y_size, false);
    zip_add(z, "x_train.npy", x, x_size, true);
    zip_add(z, "y_train.npy", y, y_size, false);
    zip_add(z, "x_test.npy", x, x_size, false);
    zip_add(z, "y_test.npy", y, y_size, true);
    zip_end(z);
}

static void test_npz(void **state)
{
    (void)state;
    static zip z;
    td_dataset *pair, *d;
    make_zip(&z);
    assert_ok(read_pair(x, x_size, y, y_size, NULL, &pair));
    for (int split = 0; split < 2; split++) {
        td_data_config config = {.split = (td_split)split};
        assert_ok(read_memory(TD_FORMAT_NPY, z.bytes, z.used, &config, 1, &d));
        assert_same_data(pair, d);
        td_dataset_close(d);
    }
    td_dataset_close(pair);
    for (size_t n = 4; n < z.used; n += 3)
        assert_fails(TD_ERR_DATA, "mem", read_memory(TD_FORMAT_NPY, z.bytes, n, NULL, 1, &d));
    for (size_t i = 0; i < z.used;
         i++) { /* any altered byte: an error or the same, never a crash */
        z.bytes[i] ^= 0x55;
        td_dataset *altered = NULL;
        if (read_memory(TD_FORMAT_NPY, z.bytes, z.used, NULL, 1, &altered) == TD_OK)
            td_dataset_close(altered);
        z.bytes[i] ^= 0x55;
    }
    memset(&z, 0, sizeof z);
    zip_add(&z, "weights.npy", y, y_size, false);
    zip_end(&z);
    assert_fails(TD_ERR_DATA, "mem holds weights.npy; looked for x_train.npy",
                 read_memory(TD_FORMAT_NPY, z.bytes, z.used, NULL, 1, &d));
}

static void test_no_memory(void **state)
{
    (void)state;
    static zip z;
    make_zip(&z);
    read_attempt a = {TD_FORMAT_NPY, z.bytes, z.used, NULL};
    assert_survives_no_memory(attempt_read, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),    cmocka_unit_test(test_images),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_npz),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("npy", tests, make_files, NULL);
}
