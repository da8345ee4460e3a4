/* libsvm: hand-written files, an oracle, threads, bad files, failing memory. */
#include "base/rng.h"
#include "data/data_test.h"

static td_dataset *svm(const char *text, const td_data_config *config)
{
    td_dataset *data = NULL;
    assert_ok(read_text(TD_FORMAT_LIBSVM, text, config, &data));
    assert_threads_agree(TD_FORMAT_LIBSVM, text, strlen(text), config);
    return data;
}

static void test_plain(void **state)
{
    (void)state;
    td_dataset *d = svm("# a comment: 1:2\n+1 1:2.5 3:-1 # q:1\r\n\n-1\n  1 2:7\t4:1e-1 \n", NULL);
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->samples, 3);
    assert_int_equal(info->features, 4);
    assert_true(info->sparse && !info->has_groups && !info->has_weights);
    assert_int_equal(info->classes, 2);
    assert_string_equal(info->class_names[0], "-1");
    assert_row(d, 0, (float[]){2.5f, 0, -1, 0});
    assert_row(d, 1, (float[]){0, 0, 0, 0});
    assert_row(d, 2, (float[]){0, 7, 0, .1f});
    const uint32_t *feature;
    const float *value;
    assert_int_equal(td_dataset_sparse_row(d, 1, &feature, &value), 0);
    assert_int_equal(td_dataset_sparse_row(d, 2, &feature, &value), 2);
    assert_true(feature[0] == 1 && feature[1] == 3 && value[0] == 7);
    assert_int_equal(td_dataset_label(d, 1), 0);
    td_dataset_close(d);
}

/* Two classes are often numbered so; one of three that nobody has is a class. */
static void test_classes_one_and_two(void **state)
{
    (void)state;
    td_dataset *d = svm("1 1:5\n2 2:6\n1 3:1\n", NULL), *test = NULL;
    assert_int_equal(td_dataset_info(d)->classes, 2);
    assert_string_equal(td_dataset_info(d)->class_names[0], "1");
    assert_string_equal(td_dataset_info(d)->class_names[1], "2");
    assert_int_equal(td_dataset_label(d, 0), 0);
    assert_int_equal(td_dataset_label(d, 1), 1);
    test = svm("2 1:5\n", &(td_data_config){.like = d});
    assert_int_equal(td_dataset_label(test, 0), 1);
    td_dataset_close(test);
    assert_fails(TD_ERR_DATA, "class \"0\" is not one of the training set's 2 classes (1, 2)",
                 read_text(TD_FORMAT_LIBSVM, "0 1:1\n", &(td_data_config){.like = d}, &test));
    td_dataset_close(d);
    d = svm("1 1:5\n3 2:6\n", NULL);
    assert_int_equal(td_dataset_info(d)->classes, 4);
    td_dataset_close(d);
}

static void test_bases(void **state)
{
    (void)state;
    td_dataset *d = svm("1 1:5\n0 0:6 2:7\n", NULL), *test = NULL;
    assert_int_equal(td_dataset_info(d)->features, 3);
    assert_row(d, 0, (float[]){0, 5, 0});
    assert_row(d, 1, (float[]){6, 0, 7});
    test = svm("1 1:5\n", &(td_data_config){.like = d}); /* zero-based as the training set */
    assert_row(test, 0, (float[]){0, 5, 0});
    td_dataset_close(test);
    assert_fails(TD_ERR_DATA, "index 3 is beyond the 3 features",
                 read_text(TD_FORMAT_LIBSVM, "1 3:1\n", &(td_data_config){.like = d}, &test));
    td_dataset_close(d);
    d = svm("1 1:5\n", &(td_data_config){.index_base = -1, .features = 4});
    assert_row(d, 0, (float[]){0, 5, 0, 0});
    td_dataset_close(d);
}

static void test_groups_and_weights(void **state)
{
    (void)state;
    td_dataset *d = svm("2:0.5 qid:7 1:1\n0:2 qid:7 2:1\n1:1 qid:9 1:1\n", NULL);
    assert_true(td_dataset_info(d)->has_groups && td_dataset_info(d)->has_weights);
    assert_int_equal(td_dataset_info(d)->features, 2);
    assert_int_equal(td_dataset_group(d, 1), 7);
    assert_int_equal(td_dataset_group(d, 2), 9);
    assert_true(td_dataset_weight(d, 0) == .5f);
    assert_row(d, 1, (float[]){0, 1});
    assert_row(d, 2, (float[]){1, 0});
    td_dataset *train, *held;
    assert_ok(td_dataset_split(d, 0.5, 1, &train, &held)); /* groups stay whole */
    assert_int_equal(td_dataset_info(train)->samples + td_dataset_info(held)->samples, 3);
    uint64_t two = td_dataset_info(train)->samples == 2 ? 0 : 1;
    assert_int_equal(td_dataset_group(two ? held : train, 0), 7);
    assert_int_equal(td_dataset_group(two ? held : train, 1), 7);
    td_dataset_close(train);
    td_dataset_close(held);
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
        {"# only\n", "mem is empty", {0}, TD_ERR_DATA},
        {"1\n0\n", "no line has a feature", {0}, TD_ERR_DATA},
        {"x 1:2\n", "mem:1: \"x\" is not a label", {0}, TD_ERR_DATA},
        {"nan 1:2\n", "\"nan\" is not a label", {0}, TD_ERR_DATA},
        {"1 1:2\n1 2\n", "mem:2: \"2\" is not index:value", {0}, TD_ERR_DATA},
        {"1 1:2\n1 a:2\n", "\"a:2\" is not index:value", {0}, TD_ERR_DATA},
        {"1 1:x\n", "\"1:x\" is not index:value with a finite number", {0}, TD_ERR_DATA},
        {"1 1:inf\n", "\"1:inf\"", {0}, TD_ERR_DATA},
        {"1 1:2 1:3\n", "indices must ascend", {0}, TD_ERR_DATA},
        {"1 5:2 3:3\n", "\"3:3\" comes behind", {0}, TD_ERR_DATA},
        {"1 2147483648:1\n",
         "mem:1: \"2147483648:1\" has an index beyond 2147483647",
         {0},
         TD_ERR_DATA},
        {"1 99999999999999999999:1\n", "has an index beyond", {0}, TD_ERR_DATA},
        {"1 -1:1\n", "\"-1:1\" is not index:value", {0}, TD_ERR_DATA},
        {"1 0:1\n", "index 0 where indices count from 1", {.index_base = 1}, TD_ERR_DATA},
        {"1 5:1\n",
         "index 5 is beyond the 4 features of the options",
         {.features = 4},
         TD_ERR_DATA},
        {"1 1:1\n", "not 7", {.index_base = 7}, TD_ERR_ARG},
        {"1:2 1:1\n1 1:1\n", "mem:2: \"1\" has no weight", {0}, TD_ERR_DATA},
        {"1 1:1\n1:2 1:1\n", "mem:2: \"1:2\" has a weight", {0}, TD_ERR_DATA},
        {"1:-2 1:1\n", "weight of at least 0", {0}, TD_ERR_DATA},
        {"1 qid:1 1:1\n1 1:1\n", "mem:2: no qid", {0}, TD_ERR_DATA},
        {"1 qid:x 1:1\n", "\"qid:x\" is not qid:number", {0}, TD_ERR_DATA},
        {"1 1:1\r2 1:1\n", "carriage return", {0}, TD_ERR_DATA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_dataset *d = NULL;
        assert_fails(cases[i].status, cases[i].sentence,
                     read_text(TD_FORMAT_LIBSVM, cases[i].text, &cases[i].config, &d));
        assert_null(d);
        assert_threads_agree(TD_FORMAT_LIBSVM, cases[i].text, strlen(cases[i].text),
                             &cases[i].config);
    }
}

static void test_large(void **state)
{
    (void)state;
    enum { ROWS = 3001, FEATURES = 40 };
    char *text = malloc(ROWS * FEATURES * 20), *at = text;
    float(*want)[FEATURES] = calloc(ROWS, sizeof *want);
    assert_true(text && want);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, 0, 0);
    for (int r = 0; r < ROWS; r++) {
        at += sprintf(at, "%u:%u qid:%d", td_rng_below(&rng, 3), 1 + td_rng_below(&rng, 4), r / 7);
        for (int k = 0; k < FEATURES; k++) {
            char number[40];
            if (td_rng_below(&rng, 4) && k + 1 < FEATURES) continue;
            snprintf(number, sizeof number, "%.*g", 1 + (int)td_rng_below(&rng, 9),
                     (double)td_rng_normal(&rng));
            want[r][k] = strtof(number, NULL);
            at += sprintf(at, " %d:%s", k + 1, number);
        }
        at += sprintf(at, r % 5 ? "\n" : " # a:b\r\n\n");
    }
    td_dataset *d = NULL;
    size_t size = (size_t)(at - text);
    assert_ok(read_memory(TD_FORMAT_LIBSVM, text, size, NULL, 3, &d));
    assert_int_equal(td_dataset_info(d)->samples, ROWS);
    assert_int_equal(td_dataset_info(d)->features, FEATURES);
    for (int r = 0; r < ROWS; r++) {
        assert_row(d, (uint64_t)r, want[r]);
        assert_int_equal(td_dataset_group(d, (uint64_t)r), r / 7);
    }
    td_dataset_close(d);
    assert_threads_agree(TD_FORMAT_LIBSVM, text, size, NULL);
    free(text);
    free(want);
}

static void test_no_memory(void **state)
{
    (void)state;
    static const char text[] = "2:1 qid:1 1:3\n-4:1 qid:2 2:3\n";
    td_data_config config = {.label_kind = TD_LABEL_CLASS};
    read_attempt a = {TD_FORMAT_LIBSVM, text, sizeof text - 1, &config};
    assert_survives_no_memory(attempt_read, &a);
    td_dataset *train = svm(text, &config);
    config.like = train;
    assert_survives_no_memory(attempt_read, &a);
    td_dataset_close(train);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),     cmocka_unit_test(test_classes_one_and_two),
        cmocka_unit_test(test_bases),     cmocka_unit_test(test_groups_and_weights),
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_large),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("libsvm", tests, NULL, NULL);
}
