/* Tables to files and back: to the bit, the same bytes whatever made the table, and a sentence for
 * each way in which a file can be wrong. */
#include "ps/transfer.h"

#include "base/fs.h"
#include "base/rng.h"
#include "base/test.h"
#include "ckpt/safetensors.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

static char folder[] = "/tmp/td-transfer-XXXXXX";
static char path[TD_PATH_MAX], other[TD_PATH_MAX]; /* of the ending under test */

static const char *const endings[] = {".safetensors", ".tsv"};

static void choose(const char *ending)
{
    char name[64];
    snprintf(name, sizeof name, "table%s", ending);
    assert_ok(td_path_join(path, folder, name));
    snprintf(name, sizeof name, "other%s", ending);
    assert_ok(td_path_join(other, folder, name));
}

static td_table *make(const char *rule, size_t width)
{
    td_table *t;
    td_table_config c = {.width = width, .rule = rule, .lr = 1};
    assert_ok(td_table_create(&c, &t));
    return t;
}

static uint64_t key_of(uint64_t i)
{
    return i == 0 ? UINT64_MAX : i * 0x9e3779b97f4a7c15;
}

static float odd_float(uint64_t i)
{
    static const float odd[] = {-0.f,      1e-45f, -1.17549421e-38f, 3.40282347e38f, INFINITY,
                                -INFINITY, 0.1f,   16777217.f};
    return i % 9 < 8 ? odd[i % 9] : (float)i / 7;
}

/* Rows first, first + step ... below count. */
static void put_rows(td_table *t, uint64_t first, uint64_t step, uint64_t count)
{
    size_t floats = td_table_row_floats(t);
    float *row = malloc(floats * sizeof *row);
    for (uint64_t i = first; i < count; i += step) {
        for (size_t k = 0; k < floats; k++) row[k] = odd_float(i * 31 + k);
        assert_ok(td_table_put(t, key_of(i), row));
    }
    free(row);
}

static void assert_same_files(const char *a, const char *b)
{
    char *x, *y;
    size_t n, m;
    assert_ok(td_read_file(a, &x, &n));
    assert_ok(td_read_file(b, &y, &m));
    assert_int_equal(n, m);
    assert_memory_equal(x, y, n);
    td_free(x), td_free(y);
}

static void what_is_written_reads_back_to_the_bit(void **state)
{
    (void)state;
    static const uint64_t counts[] = {1000, 0, 1, 11, 9000};
    for (int e = 0; e < 2; e++)
        for (int r = 0; td_table_rule_names[r]; r++) {
            size_t width = (size_t)(1 + 4 * r);
            td_table *a = make(td_table_rule_names[r], width),
                     *b = make(td_table_rule_names[r], width);
            td_transfer_taken taken;
            choose(endings[e]);
            put_rows(a, 0, 1, counts[r]);
            assert_ok(td_transfer_export(a, path, NULL));
            assert_ok(td_transfer_import(b, path, NULL, &taken));
            assert_int_equal(taken.rows, counts[r]);
            assert_int_equal(td_table_rows(b), counts[r]);
            assert_ok(td_transfer_export(b, other, NULL));
            assert_same_files(path, other);
            for (uint64_t i = 0; i < counts[r]; i++) {
                float x[32], y[32];
                uint64_t key = key_of(i);
                assert_ok(td_table_peek(a, &key, 1, x));
                assert_ok(td_table_peek(b, &key, 1, y));
                assert_memory_equal(x, y, width * sizeof *x);
                assert_true(x[0] == odd_float(i * 31));
            }
            td_table_destroy(a), td_table_destroy(b);
        }
}

/* Rows come in another order, or lie cold on disk: the file is the same. */
static void the_same_rows_are_the_same_bytes(void **state)
{
    (void)state;
    enum { ROWS = 30000 };
    char cold[TD_PATH_MAX];
    assert_ok(td_path_join(cold, folder, "cold"));
    for (int e = 0; e < 2; e++) {
        td_table *a = make("adagrad", 5), *b = make("adagrad", 5), *limited;
        choose(endings[e]);
        put_rows(a, 0, 1, ROWS);
        for (uint64_t k = 7; k-- > 0;) put_rows(b, k, 7, ROWS);
        assert_ok(td_transfer_export(a, path, NULL));
        assert_ok(td_transfer_export(b, other, NULL));
        assert_same_files(path, other);
        td_table_config c = {.width = 5, .rule = "adagrad", .lr = 1, .memory_bytes = 1 << 20};
        c.folder = cold;
        td_status status = td_table_create(&c, &limited);
        if (status != TD_ERR_UNSUPPORTED) {
            assert_ok(status);
            assert_ok(td_transfer_import(limited, path, NULL, NULL));
            assert_int_equal(td_table_rows(limited), ROWS);
            assert_ok(td_transfer_export(limited, other, NULL));
            assert_same_files(path, other);
            td_table_destroy(limited);
        }
        td_table_destroy(a), td_table_destroy(b);
    }
}

static void other_tools_find_tensors_by_name(void **state)
{
    (void)state;
    td_table *t = make("adam", 2);
    const float rows[2][6] = {{1, 2, 3, 4, 5, 6}, {7, 8, 9, 10, 11, 12}};
    const uint64_t keys[2] = {4, UINT64_MAX};
    const float want[3][4] = {{1, 2, 7, 8}, {3, 4, 9, 10}, {5, 6, 11, 12}};
    static const char *const names[] = {"weights", "adam.exp_avg", "adam.exp_avg_sq"};
    td_safetensors *file;
    td_tensor_view view;
    choose(".safetensors");
    for (int k = 1; k >= 0; k--) assert_ok(td_table_put(t, keys[k], rows[k]));
    assert_ok(td_transfer_export(t, path, NULL));
    assert_ok(td_safetensors_open(path, &file));
    assert_ok(td_safetensors_view(file, "keys", &view));
    assert_string_equal(view.type, "I64");
    assert_true(view.rank == 1 && view.shape[0] == 2);
    assert_memory_equal(view.bytes, keys, sizeof keys);
    for (int k = 0; k < 3; k++) {
        float got[4];
        assert_ok(td_safetensors_view(file, names[k], &view));
        assert_true(view.rank == 2 && view.shape[0] == 2 && view.shape[1] == 2);
        assert_ok(td_safetensors_read(file, names[k], 4, got));
        assert_memory_equal(got, want[k], sizeof got);
    }
    float none[4];
    assert_fails(TD_ERR_CORRUPT, "type I64, not F32", td_safetensors_read(file, "keys", 4, none));
    td_safetensors_close(file);
    td_table_destroy(t);
}

static void text_is_as_described(void **state)
{
    (void)state;
    static const char want[] = "key\tweights.0\tweights.1\tadagrad.sum.0\tadagrad.sum.1\n"
                               "4\t0.100000001\t-0\t3\t1.40129846e-45\n"
                               "18446744073709551615\tinf\t-2.5\t0\t1.00000002e+30\n"
                               "# 2 rows\n";
    td_table *t = make("adagrad", 2);
    char *text;
    size_t size;
    choose(".tsv");
    assert_ok(td_table_put(t, UINT64_MAX, (const float[]){INFINITY, -2.5f, 0, 1e30f}));
    assert_ok(td_table_put(t, 4, (const float[]){.1f, -0.f, 3, 1e-45f}));
    assert_ok(td_transfer_export(t, path, NULL));
    assert_ok(td_read_file(path, &text, &size));
    assert_string_equal(text, want);
    td_free(text);
    td_table_destroy(t);
}

static bool mine(void *arg, uint64_t key)
{
    return key % 3 == *(uint64_t *)arg;
}

/* Files that say what their rows mean go to tables of the same alone, others to any. */
static void files_say_what_they_mean(void **state)
{
    (void)state;
    static const td_transfer_want nothing = {0}, same = {.meaning = "fm bits=9"},
                                  other_bits = {.meaning = "fm bits=8"}, few_bits = {.bits = 9},
                                  fewer_bits = {.bits = 8};
    for (int e = 0; e < 2; e++) {
        td_table *t = make("sgd", 2), *into = make("sgd", 2);
        float row[2] = {1, -2};
        td_transfer_taken taken[2];
        assert_ok(td_table_put(t, 300, row));
        choose(endings[e]);
        assert_ok(td_transfer_export(t, path, NULL));
        assert_ok(td_transfer_import(into, path, &same, NULL));
        assert_ok(td_transfer_import(into, path, &few_bits, &taken[0]));
        assert_fails(TD_ERR_DATA, ": key 300 has more bits than the 8 that keys are hashed to",
                     td_transfer_import(into, path, &fewer_bits, NULL));
        assert_ok(td_transfer_export(t, path, "fm bits=9"));
        assert_ok(td_transfer_import(into, path, &same, NULL));
        assert_ok(td_transfer_import(into, path, &nothing, &taken[1]));
        assert_fails(TD_ERR_DATA, " has rows of \"fm bits=9\", and they are to be of \"fm bits=8\"",
                     td_transfer_import(into, path, &other_bits, NULL));
        assert_true(taken[0].hash == taken[1].hash);
        row[1] = 2;
        assert_ok(td_table_put(t, 300, row));
        assert_ok(td_transfer_export(t, path, NULL));
        assert_ok(td_transfer_import(into, path, NULL, &taken[1]));
        assert_true(taken[0].hash != taken[1].hash);
        td_table_destroy(t), td_table_destroy(into);
    }
}

static void servers_take_what_is_theirs(void **state)
{
    (void)state;
    for (int e = 0; e < 2; e++) {
        uint64_t hash = 0;
        size_t all = 0;
        td_table *whole = make("ftrl", 3), *again = make("ftrl", 3);
        choose(endings[e]);
        put_rows(whole, 0, 1, 2000);
        assert_ok(td_transfer_export(whole, path, NULL));
        for (uint64_t server = 0; server < 3; server++) {
            td_table *share = make("ftrl", 3);
            td_transfer_want want = {.mine = mine, .arg = &server};
            td_transfer_taken taken;
            assert_ok(td_transfer_import(share, path, &want, &taken));
            assert_true(taken.rows == td_table_rows(share) && taken.rows > 500);
            assert_true(server == 0 || taken.hash == hash); /* whatever is theirs */
            all += taken.rows, hash = taken.hash;
            assert_ok(td_transfer_export(share, other, NULL));
            assert_ok(td_transfer_import(again, other, NULL, NULL));
            td_table_destroy(share);
        }
        assert_int_equal(all, 2000);
        assert_ok(td_transfer_export(again, other, NULL));
        assert_same_files(path, other);
        td_table_destroy(whole), td_table_destroy(again);
    }
}

static td_status is_bare(void *arg, uint64_t key, const float *row)
{
    (void)arg, (void)key;
    assert_true(row[3] == 0 && row[4] == 0 && row[8] == 0);
    return TD_OK;
}

static void weights_alone_will_do(void **state)
{
    (void)state;
    for (int e = 0; e < 2; e++) {
        td_table *plain = make("sgd", 3), *t = make("adam", 3);
        choose(endings[e]);
        put_rows(plain, 0, 1, 100);
        put_rows(t, 0, 1, 50); /* to be replaced */
        assert_ok(td_transfer_export(plain, path, NULL));
        assert_ok(td_transfer_import(t, path, NULL, NULL));
        assert_int_equal(td_table_rows(t), 100);
        assert_ok(td_table_each(t, is_bare, NULL));
        td_table_destroy(t);
        t = make("ftrl", 3);
        assert_fails(TD_ERR_DATA, "under ftrl these are a function of ftrl.z and ftrl.n",
                     td_transfer_import(t, path, NULL, NULL));
        td_table_destroy(plain), td_table_destroy(t);
    }
}

/* --- files that are wrong --- */

static void mistakes_in_text_have_a_line(void **state)
{
    (void)state;
    static const char head[] = "key\tweights.0\tweights.1\tadagrad.sum.0\tadagrad.sum.1\n";
    static const struct {
        const char *head, *text, *says; /* head NULL: as it should be */
    } cases[] = {
        {"", "", ":1: the file is cut off"},
        {"keys\tweights.0\n", "", ":1: the first column must be called key"},
        {"key\tweights.0\n", "", ":1: column 3 must be called weights.1, as of a table with 2"},
        {"key\tweights.0\tweights.1\tadam.exp_avg.0\n", "", ":1: column 4 must be called adagrad."},
        {"key\tweights.0\tweights.1\tweights.2\n", "", ":1: column 4 must be called adagrad.sum.0"},
        {"key\tweights.0\tweights.1\tadagrad.sum.0\tadagrad.sum.1\tx\n", "",
         ":1: columns from x on are more"},
        {NULL, "", ":2: the file is cut off: it must end with"},
        {NULL, "1\t1\t2\t3\t4\n2\t1\t2\t", ":3: the file is cut off within this line"},
        {NULL, "1\t1\t2\t3\t4\n", ":3: the file is cut off"},
        {NULL, "1\t1\t2\t3\t4\n# 2 rows\n", ":3: the file has 1 rows, but says \"# 2 rows\""},
        {NULL, "# 0 rows\nx", ":3: nothing may come behind"},
        {NULL, "x\t1\t2\t3\t4\n", ":2: a key must be a number below 2^64"},
        {NULL, "-1\t1\t2\t3\t4\n", ":2: a key must be"},
        {NULL, "\n", ":2: a key must be"},
        {NULL, "18446744073709551616\t1\t2\t3\t4\n", ":2: a key must be"},
        {NULL, "5\t1\t2\t3\t4\n5\t1\t2\t3\t4\n", ":3: key 5 comes after 5; keys must ascend"},
        {NULL, "5\t1\t2\t3\t4\n4\t1\t2\t3\t4\n", ":3: key 4 comes after 5; keys must ascend"},
        {NULL, "5\t1\tx\t3\t4\n", ":2: column 3 is not a number: x"},
        {NULL, "5\t1\t\t3\t4\n", ":2: column 3 is not a number"},
        {NULL, "5\t1\t2 \t3\t4\n", ":2: column 3 is not a number"},
        {NULL, "5\t1\t1e39\t3\t4\n", ":2: column 3 is beyond a float: 1e39"},
        {NULL, "5\t1\t2\t3\n", ":2: a row has 4 numbers behind its key, this line fewer"},
        {NULL, "5\t1\t2\t3\t4\t5\n", ":2: a row has 4 numbers behind its key, this line more"},
    };
    choose(".tsv");
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char text[512];
        td_table *t = make("adagrad", 2);
        int n = snprintf(text, sizeof text, "%s%s", cases[k].head ? cases[k].head : head,
                         cases[k].text);
        assert_ok(td_write_file(path, text, (size_t)n));
        assert_fails(TD_ERR_DATA, cases[k].says, td_transfer_import(t, path, NULL, NULL));
        assert_non_null(strstr(td_last_error(), path));
        td_table_destroy(t);
    }
    td_table *t = make("adagrad", 2);
    assert_ok(td_write_file(path, "key\tweights.0\tweights.1\n5\t0\0\t1\n", 31));
    assert_fails(TD_ERR_DATA, ":2: there is a 0 byte", td_transfer_import(t, path, NULL, NULL));
    td_table_destroy(t);
}

/* A file by hand: `keys` as I64, and tensors of the floats 0 to rows * width. */
static void write_tensors(const char *header, const void *bytes, size_t size)
{
    char file[1024];
    uint64_t length = strlen(header);
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    memcpy(file + 8 + length, bytes, size);
    assert_ok(td_write_file(path, file, 8 + length + size));
}

static void mistakes_in_tensors_have_a_name_or_a_byte(void **state)
{
    (void)state;
#define KEYS "{\"keys\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[0,16]}"
#define WEIGHTS ",\"weights\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[16,32]}"
    static const struct {
        const char *header, *says;
        uint64_t keys[2];
    } cases[] = {
        {KEYS WEIGHTS "}", "key 3 comes after 3", {3, 3}},
        {KEYS WEIGHTS "}",
         "key 3 comes after 18446744073709551615; keys must ascend",
         {UINT64_MAX, 3}},
        {KEYS "}", "has no tensor weights", {1, 2}},
        {"{\"weights\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[16,32]}}",
         "has no tensor keys",
         {1, 2}},
        {"{\"keys\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}" WEIGHTS "}",
         "keys must be I64 or U64",
         {1, 2}},
        {"{\"keys\":{\"dtype\":\"U64\",\"shape\":[1,2],\"data_offsets\":[0,16]}" WEIGHTS "}",
         "keys must be I64 or U64",
         {1, 2}},
        {KEYS ",\"weights\":{\"dtype\":\"F32\",\"shape\":[1,4],\"data_offsets\":[16,32]}}",
         "tensor weights must be F32, a row for each of 2 keys",
         {1, 2}},
        {KEYS ",\"weights\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[16,24]}}",
         "rows of tensor weights have 1 floats, the table's 2",
         {1, 2}},
        {KEYS WEIGHTS
         ",\"adam.exp_avg\":{\"dtype\":\"F32\",\"shape\":[2,2],\"data_offsets\":[16,32]}}",
         "tensor adam.exp_avg does not belong to a table under adagrad",
         {1, 2}},
        {KEYS WEIGHTS
         ",\"adagrad.sum\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[16,24]}}",
         "rows of tensor adagrad.sum have 1 floats",
         {1, 2}},
    };
    choose(".safetensors");
    td_table *t = make("adagrad", 2);
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        char bytes[32] = {0};
        memcpy(bytes, cases[k].keys, 16);
        write_tensors(cases[k].header, bytes, sizeof bytes);
        td_status status = td_transfer_import(t, path, NULL, NULL);
        assert_true(status == TD_ERR_DATA || status == TD_ERR_CORRUPT);
        if (!strstr(td_last_error(), cases[k].says) || !strstr(td_last_error(), path))
            fail_msg("\"%s\" does not say \"%s\"", td_last_error(), cases[k].says);
        assert_int_equal(td_table_rows(t), 0);
    }
    char bytes[32] = {0};
    memcpy(bytes, (const uint64_t[]){1, UINT64_MAX}, 16);
    write_tensors(KEYS WEIGHTS "}", bytes, sizeof bytes);
    assert_ok(td_transfer_import(t, path, NULL, NULL));
    assert_int_equal(td_table_rows(t), 2);
    td_table_destroy(t);
}

static void no_cut_passes(void **state)
{
    (void)state;
    for (int e = 0; e < 2; e++) {
        td_table *t = make("momentum", 3);
        char *whole;
        size_t size;
        choose(endings[e]);
        put_rows(t, 0, 1, 9);
        assert_ok(td_transfer_export(t, path, NULL));
        assert_ok(td_read_file(path, &whole, &size));
        for (size_t n = 0; n < size; n++) {
            td_table *into = make("momentum", 3);
            assert_ok(td_write_file(other, whole, n));
            td_status status = td_transfer_import(into, other, NULL, NULL);
            assert_true(status == TD_ERR_CORRUPT || status == TD_ERR_DATA);
            assert_non_null(strstr(td_last_error(), other));
            td_table_destroy(into);
        }
        td_free(whole);
        td_table_destroy(t);
    }
}

/* --- the world --- */

static td_status there_and_back(void *arg)
{
    td_table *t = arg, *into = NULL;
    td_table_config c = {.width = 3, .rule = "adagrad", .lr = 1};
    td_status status = td_transfer_export(t, other, NULL);
    if (status == TD_OK) status = td_table_create(&c, &into);
    if (status == TD_OK) status = td_transfer_import(into, other, NULL, NULL);
    td_table_destroy(into);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    for (int e = 0; e < 2; e++) {
        td_table *t = make("adagrad", 3);
        choose(endings[e]);
        put_rows(t, 0, 1, 300);
        assert_survives_no_memory(there_and_back, t);
        td_table_destroy(t);
    }
}

static void a_disk_that_refuses_leaves_the_older_file(void **state)
{
    (void)state;
    struct rlimit before, small;
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before, small.rlim_cur = 300000;
    for (int e = 0; e < 2; e++) {
        td_table *t = make("adagrad", 3);
        choose(endings[e]);
        put_rows(t, 0, 1, 300);
        assert_ok(td_transfer_export(t, path, NULL));
        assert_ok(td_transfer_export(t, other, NULL));
        put_rows(t, 0, 1, 30000);
        setrlimit(RLIMIT_FSIZE, &small);
        assert_fails(TD_ERR_IO, path, td_transfer_export(t, path, NULL));
        setrlimit(RLIMIT_FSIZE, &before);
        assert_same_files(path, other);
        td_table_destroy(t);
    }
}

static void the_ending_says_how(void **state)
{
    (void)state;
    td_table *t = make("sgd", 1);
    assert_fails(TD_ERR_ARG, "x.csv: a table's file ends in", td_transfer_export(t, "x.csv", NULL));
    assert_fails(TD_ERR_ARG, "ends in .safetensors or .tsv",
                 td_transfer_import(t, "tsv", NULL, NULL));
    assert_fails(TD_ERR_IO, "/no/such", td_transfer_export(t, "/no/such/x.tsv", NULL));
    assert_fails(TD_ERR_IO, "/no/such", td_transfer_import(t, "/no/such/x.tsv", NULL, NULL));
    assert_fails(TD_ERR_IO, "/no/such", td_transfer_export(t, "/no/such/x.safetensors", NULL));
    td_table_destroy(t);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    return td_remove_tree(folder) == TD_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back_to_the_bit),
        cmocka_unit_test(the_same_rows_are_the_same_bytes),
        cmocka_unit_test(other_tools_find_tensors_by_name),
        cmocka_unit_test(text_is_as_described),
        cmocka_unit_test(files_say_what_they_mean),
        cmocka_unit_test(servers_take_what_is_theirs),
        cmocka_unit_test(weights_alone_will_do),
        cmocka_unit_test(mistakes_in_text_have_a_line),
        cmocka_unit_test(mistakes_in_tensors_have_a_name_or_a_byte),
        cmocka_unit_test(no_cut_passes),
        cmocka_unit_test(memory_may_run_out),
        cmocka_unit_test(a_disk_that_refuses_leaves_the_older_file),
        cmocka_unit_test(the_ending_says_how),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
