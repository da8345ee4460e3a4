/* libffm: hand-written files, an oracle for the order of entries, threads, bad files, failing
 * memory. What it shares with libsvm is tested there. */
#include "base/rng.h"
#include "data/data_test.h"

static td_dataset *ffm(const char *text, const td_data_config *config)
{
    td_dataset *data = NULL;
    assert_ok(read_text(TD_FORMAT_LIBFFM, text, config, &data));
    assert_threads_agree(TD_FORMAT_LIBFFM, text, strlen(text), config);
    return data;
}

typedef struct entry {
    uint32_t feature;
    uint16_t field;
    float value;
} entry;

static void assert_entries(const td_dataset *d, uint64_t row, size_t n, const entry *want)
{
    const uint32_t *feature;
    const float *value;
    const uint16_t *field = td_dataset_sparse_fields(d, row);
    assert_int_equal(td_dataset_sparse_row(d, row, &feature, &value), n);
    for (size_t e = 0; e < n; e++) {
        assert_int_equal(feature[e], want[e].feature);
        assert_int_equal(field[e], want[e].field);
        assert_true(value[e] == want[e].value);
    }
}

static void test_plain(void **state)
{
    (void)state;
    td_dataset *d =
        ffm("# 1:2:3\n+1 0:1:2.5 65535:3:-1 # q:1\r\n\n-1\n  1 2:2:7\t4:4:1e-1 \n", NULL);
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->samples, 3);
    assert_int_equal(info->features, 4);
    assert_true(info->sparse && !info->has_groups && !info->has_weights);
    assert_string_equal(info->class_names[0], "-1");
    assert_entries(d, 0, 2, (entry[]){{0, 0, 2.5f}, {2, 65535, -1}});
    assert_entries(d, 1, 0, NULL);
    assert_entries(d, 2, 2, (entry[]){{1, 2, 7}, {3, 4, .1f}});
    assert_row(d, 0, (float[]){2.5f, 0, -1, 0});
    td_dataset *train, *held;
    assert_ok(td_dataset_split(d, 0.4, 1, &train, &held));
    for (uint64_t i = 0; i < td_dataset_info(train)->samples; i++)
        assert_ptr_equal(td_dataset_sparse_fields(train, i),
                         td_dataset_sparse_fields(d, train->rows[i]));
    td_dataset_close(train);
    td_dataset_close(held);
    td_dataset_close(d);
    assert_ok(read_text(TD_FORMAT_LIBSVM, "1 1:1\n", NULL, &d));
    assert_null(td_dataset_sparse_fields(d, 0));
    td_dataset_close(d);
}

/* Any order, and features again: in order of feature and field. */
static void test_order(void **state)
{
    (void)state;
    td_dataset *d = ffm("1 3:9:1 1:4:2 2:0:1 0:4:8 1:4:16\n0 0:9:1 1:2:1\n", NULL);
    const uint32_t *feature;
    const float *value;
    assert_int_equal(td_dataset_sparse_row(d, 0, &feature, &value), 5);
    const uint16_t *field = td_dataset_sparse_fields(d, 0);
    assert_memory_equal(feature, ((uint32_t[]){0, 4, 4, 4, 9}), 5 * sizeof *feature);
    assert_memory_equal(field, ((uint16_t[]){2, 0, 1, 1, 3}), 5 * sizeof *field);
    assert_true(value[1] == 8 && value[2] + value[3] == 18);
    assert_row(d, 0, (float[]){1, 0, 0, 0, 26, 0, 0, 0, 0, 1});
    assert_entries(d, 1, 2, (entry[]){{2, 1, 1}, {9, 0, 1}});
    td_dataset_close(d);
}

static void test_heads(void **state)
{
    (void)state;
    td_dataset *d = ffm("2:0.5 qid:7 0:1:1\n0:2 qid:7 0:2:1\n", NULL);
    assert_true(td_dataset_info(d)->has_groups && td_dataset_info(d)->has_weights);
    assert_true(td_dataset_weight(d, 0) == .5f);
    td_dataset_close(d);
    td_data_config bare = {.no_labels = true};
    d = ffm("0:1:1 2:3:1\n1:2:4\n", &bare); /* two colons: an entry */
    assert_entries(d, 0, 2, (entry[]){{0, 0, 1}, {2, 2, 1}});
    assert_entries(d, 1, 1, (entry[]){{1, 1, 4}});
    td_dataset_close(d);
    d = ffm("1 0:1:1 2:3:1\n0 1:2:4\n", &bare);
    assert_entries(d, 1, 1, (entry[]){{1, 1, 4}});
    td_dataset_close(d);
}

/* A test set keeps the base of the training set and leaves out the features that are new. */
static void test_like(void **state)
{
    (void)state;
    td_dataset *d = ffm("1 0:0:5 1:3:1\n0 0:1:1\n", NULL);
    td_dataset *test = ffm("1 0:7:1 3:1:5\n0 0:4:1\n1 5:3:2 1:9:9\n", &(td_data_config){.like = d});
    assert_int_equal(td_dataset_info(test)->features, 4);
    assert_entries(test, 0, 1, (entry[]){{1, 3, 5}});
    assert_entries(test, 1, 0, NULL);
    assert_entries(test, 2, 1, (entry[]){{3, 5, 2}});
    td_dataset_close(test);
    td_dataset_close(d);
}

static void test_bad_files(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
        td_data_config config;
        td_status status;
    } cases[] = {
        {"", "mem is empty", {0}, TD_ERR_DATA},
        {"1\n0\n", "no line has a feature", {0}, TD_ERR_DATA},
        {"x 0:1:2\n", "mem:1: \"x\" is not a label", {0}, TD_ERR_DATA},
        {"0:1:2 1:1:1\n", "mem:1: \"0:1:2\" is not a label", {0}, TD_ERR_DATA},
        {"1 0:1:2\n1 2\n", "mem:2: \"2\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 0:1:2\n1 2:3\n", "mem:2: \"2:3\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 a:1:2\n", "\"a:1:2\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 0:b:2\n", "\"0:b:2\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 :1:2\n", "\":1:2\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 0::2\n", "\"0::2\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 -1:1:1\n", "\"-1:1:1\" is not field:index:value", {0}, TD_ERR_DATA},
        {"1 0:1:\n", "\"0:1:\" is not field:index:value with a finite", {0}, TD_ERR_DATA},
        {"1 0:1:x\n", "with a finite number", {0}, TD_ERR_DATA},
        {"1 0:1:2:3\n", "with a finite number", {0}, TD_ERR_DATA},
        {"1 0:1:inf\n", "with a finite number", {0}, TD_ERR_DATA},
        {"1 65536:1:1\n", "mem:1: \"65536:1:1\" has a field beyond 65535", {0}, TD_ERR_DATA},
        {"1 99999999999999999999:1:1\n", "has a field beyond 65535", {0}, TD_ERR_DATA},
        {"1 1:2147483648:1\n", "has an index beyond 2147483647", {0}, TD_ERR_DATA},
        {"1 1:0:1\n", "index 0 where indices count from 1", {.index_base = 1}, TD_ERR_DATA},
        {"1 1:5:1\n", "index 5 is beyond the 4 features", {.features = 4}, TD_ERR_DATA},
        {"1:2 0:1:1\n1 0:1:1\n", "mem:2: \"1\" has no weight", {0}, TD_ERR_DATA},
        {"1 0:1:1\r2 0:1:1\n", "carriage return", {0}, TD_ERR_DATA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_dataset *d = NULL;
        assert_fails(cases[i].status, cases[i].sentence,
                     read_text(TD_FORMAT_LIBFFM, cases[i].text, &cases[i].config, &d));
        assert_null(d);
        assert_threads_agree(TD_FORMAT_LIBFFM, cases[i].text, strlen(cases[i].text),
                             &cases[i].config);
    }
}

static int by_feature_and_field(const void *a, const void *b)
{
    const entry *x = a, *y = b;
    if (x->feature != y->feature) return x->feature < y->feature ? -1 : 1;
    return x->field - y->field;
}

/* Rows of up to 200 entries in any order, against the C library's sort. */
static void test_large(void **state)
{
    (void)state;
    enum { ROWS = 1501, MOST = 200 };
    char *text = malloc((size_t)ROWS * MOST * 24), *at = text;
    entry(*want)[MOST] = calloc(ROWS, sizeof *want);
    size_t length[ROWS];
    assert_true(text && want);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, 0, 0);
    for (int r = 0; r < ROWS; r++) {
        at += sprintf(at, "%u", td_rng_below(&rng, 2));
        length[r] = td_rng_below(&rng, r % 50 ? 40 : MOST);
        for (size_t k = 0; k < length[r]; k++) { /* pairs of index and field are all different */
            uint16_t field = (uint16_t)(td_rng_below(&rng, 300) * MOST + k);
            want[r][k] = (entry){td_rng_below(&rng, 60), field, (float)td_rng_below(&rng, 9)};
            at += sprintf(at, " %d:%u:%g", field, want[r][k].feature, (double)want[r][k].value);
        }
        qsort(want[r], length[r], sizeof **want, by_feature_and_field);
        at += sprintf(at, r % 5 ? "\n" : " # a:b\r\n\n");
    }
    td_dataset *d = NULL;
    td_data_config config = {.index_base = -1};
    assert_ok(read_memory(TD_FORMAT_LIBFFM, text, (size_t)(at - text), &config, 3, &d));
    assert_int_equal(td_dataset_info(d)->samples, ROWS);
    for (uint64_t r = 0; r < ROWS; r++) assert_entries(d, r, length[r], want[r]);
    td_dataset_close(d);
    assert_threads_agree(TD_FORMAT_LIBFFM, text, (size_t)(at - text), &config);
    free(text);
    free(want);
}

/* Fields are part of the fingerprint, the order in the file is not. */
static void test_fingerprint(void **state)
{
    (void)state;
    td_dataset *a = ffm("1 0:1:1 1:2:1\n", NULL), *b = ffm("1 0:1:1 3:2:1\n", NULL);
    assert_true(td_dataset_fingerprint(a) != td_dataset_fingerprint(b));
    td_dataset_close(b);
    b = ffm("1 1:2:1 0:1:1\n", NULL);
    assert_true(td_dataset_fingerprint(a) == td_dataset_fingerprint(b));
    td_dataset_close(b);
    td_dataset_close(a);
}

static void test_no_memory(void **state)
{
    (void)state;
    static const char text[] = "2:1 qid:1 0:1:3\n-4:1 qid:2 1:2:3\n";
    td_data_config config = {.label_kind = TD_LABEL_CLASS};
    read_attempt a = {TD_FORMAT_LIBFFM, text, sizeof text - 1, &config};
    assert_survives_no_memory(attempt_read, &a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),       cmocka_unit_test(test_order),
        cmocka_unit_test(test_heads),       cmocka_unit_test(test_like),
        cmocka_unit_test(test_bad_files),   cmocka_unit_test(test_large),
        cmocka_unit_test(test_fingerprint), cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("libffm", tests, NULL, NULL);
}
