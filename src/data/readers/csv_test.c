/* CSV and TSV: hand-written tables, a strtof oracle, threads, bad files, failing memory. */
#include "base/rng.h"
#include "data/data_test.h"

#define N NAN

static td_dataset *csv(const char *text, const td_data_config *config)
{
    td_dataset *data = NULL;
    assert_ok(read_text(TD_FORMAT_CSV, text, config, &data));
    assert_threads_agree(TD_FORMAT_CSV, text, strlen(text), config);
    return data;
}

static void test_plain(void **state)
{
    (void)state;
    td_dataset *d = csv("1, 2.5,-3\r\n0,4e1,.5\r\n\r\n2, 6 ,7", NULL);
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->samples, 3);
    assert_int_equal(info->features, 2);
    assert_int_equal(info->classes, 3);
    assert_null(info->class_names);
    assert_null(info->feature_names);
    assert_row(d, 0, (float[]){2.5f, -3});
    assert_row(d, 1, (float[]){40, .5f});
    assert_row(d, 2, (float[]){6, 7});
    assert_int_equal(td_dataset_label(d, 0), 1);
    assert_int_equal(td_dataset_label(d, 2), 2);
    assert_true(td_dataset_target(d, 2) == 2 && td_dataset_weight(d, 2) == 1);
    td_dataset_close(d);
}

static void test_header_and_columns(void **state)
{
    (void)state;
    const char *text = "a,Label,w,b\n1,0,2,5\n2,1,0.5,6\n";
    td_dataset *d = csv(text, &(td_data_config){.weight_column = "w"});
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->features, 2);
    assert_string_equal(info->feature_names[0], "a");
    assert_string_equal(info->feature_names[1], "b");
    assert_true(info->has_weights && td_dataset_weight(d, 1) == 0.5f);
    assert_row(d, 1, (float[]){2, 6});
    td_dataset_close(d);

    d = csv(text, &(td_data_config){.label = "-1", .label_kind = TD_LABEL_VALUE});
    assert_int_equal(td_dataset_info(d)->classes, 0);
    assert_true(td_dataset_target(d, 1) == 6 && td_dataset_label(d, 1) == -1);
    assert_row(d, 0, (float[]){1, 0, 2});
    td_dataset_close(d);

    d = csv(text, &(td_data_config){.label = "none"});
    assert_int_equal(td_dataset_info(d)->features, 4);
    td_dataset_close(d);

    d = csv("1,2\n3,4\n", &(td_data_config){.header = 1, .label = "2"});
    assert_int_equal(td_dataset_info(d)->samples, 1);
    assert_string_equal(td_dataset_info(d)->feature_names[0], "1");
    td_dataset_close(d);
}

static void test_header_guess(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t samples;
    } cases[] = {
        {"y,x\n1,2\n", 1},      {"1,2\n3,4\n", 2}, {"a,b\nc,d\ne,f\n", 2},
        {"a,b\na,d\nc,b\n", 3}, {"a,1\nb,2\n", 2}, {"\"y\",\"x\"\n\"1\",2\n", 1},
        {",x\n0,1\n1,2\n", 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_dataset *d = csv(cases[i].text, NULL);
        if (td_dataset_info(d)->samples != cases[i].samples)
            fail_msg("%s: %d rows", cases[i].text, (int)td_dataset_info(d)->samples);
        td_dataset_close(d);
    }
}

static void test_quotes(void **state)
{
    (void)state;
    td_dataset *d = csv("label,name,v\n\"no\",\"a \"\"b\"\", c\",\"1\"\nyes,\"two\nlines\" , 2\r\n"
                        "no,plain,3\n\"yes\",\"\",\"\"\n",
                        NULL);
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->samples, 4);
    assert_int_equal(info->classes, 2);
    assert_string_equal(info->class_names[0], "no");
    const char *const *names;
    assert_int_equal(td_dataset_categories(d, 0, &names), 3);
    assert_string_equal(names[0], "a \"b\", c");
    assert_string_equal(names[1], "plain");
    assert_string_equal(names[2], "two\nlines");
    assert_int_equal(td_dataset_categories(d, 1, NULL), 0);
    assert_row(d, 0, (float[]){0, 1});
    assert_row(d, 1, (float[]){2, 2});
    assert_row(d, 3, (float[]){N, N});
    td_dataset_close(d);
}

static void test_missing(void **state)
{
    (void)state;
    td_dataset *d = csv("1,?,NA\n0, ,3\n1,NaN,-9\n", NULL);
    assert_row(d, 0, (float[]){N, N});
    assert_row(d, 1, (float[]){N, 3});
    assert_row(d, 2, (float[]){N, -9});
    td_dataset_close(d);
    d = csv("1,4,-9\n0,5,3\n", &(td_data_config){.missing = "-9,null"});
    assert_row(d, 0, (float[]){4, N});
    td_dataset_close(d);
}

static void test_one_hot(void **state)
{
    (void)state;
    td_dataset *d = csv("label,c,v\n1,b,5\n0,a,6\n0,?,7\n", &(td_data_config){.one_hot = true});
    const td_data_info *info = td_dataset_info(d);
    assert_int_equal(info->features, 3);
    assert_string_equal(info->feature_names[0], "c=a");
    assert_string_equal(info->feature_names[2], "v");
    assert_row(d, 0, (float[]){0, 1, 5});
    assert_row(d, 1, (float[]){1, 0, 6});
    assert_row(d, 2, (float[]){0, 0, 7});
    td_dataset_close(d);
    /* numbers as categories, by name and by number */
    d = csv("label,c,v\n1,10,5\n0,9,6\n", &(td_data_config){.categorical = "c"});
    assert_row(d, 0, (float[]){0, 5}); /* "10" before "9" */
    td_dataset_close(d);
    d = csv("label,c,v\n1,10,5\n0,9,6\n", &(td_data_config){.categorical = "1,2"});
    assert_row(d, 0, (float[]){0, 0});
    td_dataset_close(d);
}

static void test_labels(void **state)
{
    (void)state;
    td_dataset *d = csv("-1,5\n1,6\n-1,7\n", NULL);
    assert_int_equal(td_dataset_info(d)->classes, 2);
    assert_string_equal(td_dataset_info(d)->class_names[0], "-1");
    assert_int_equal(td_dataset_label(d, 1), 1);
    td_dataset_close(d);
    d = csv("1.5,5\n2,6\n", NULL);
    assert_int_equal(td_dataset_info(d)->classes, 0);
    assert_true(td_dataset_target(d, 0) == 1.5f);
    td_dataset_close(d);
    d = csv("1000,5\n2,6\n", NULL);
    assert_int_equal(td_dataset_info(d)->classes, 0);
    td_dataset_close(d);
    d = csv("1000,5\n2,6\n", &(td_data_config){.label_kind = TD_LABEL_CLASS});
    assert_int_equal(td_dataset_info(d)->classes, 1001);
    td_dataset_close(d);
    d = csv("2.5,5\n-70000,6\n2.5,7\n", &(td_data_config){.label_kind = TD_LABEL_CLASS});
    assert_int_equal(td_dataset_info(d)->classes, 2);
    assert_string_equal(td_dataset_info(d)->class_names[0], "-70000");
    assert_int_equal(td_dataset_label(d, 0), 1);
    td_dataset_close(d);
}

static void test_like(void **state)
{
    (void)state;
    td_dataset *train = csv("b,x,1\na,y,2\nc,x,3\n", NULL), *test = NULL;
    td_data_config like = {.like = train};
    test = csv("c,y,5\na,z,6\n", &like);
    assert_int_equal(td_dataset_info(test)->classes, 3);
    assert_int_equal(td_dataset_label(test, 0), 2);
    assert_row(test, 0, (float[]){1, 5});
    assert_row(test, 1, (float[]){N, 6});
    td_dataset_close(test);
    assert_fails(TD_ERR_DATA,
                 "mem:3: class \"d\" is not one of the training set's 3 classes (a, b, c)",
                 read_text(TD_FORMAT_CSV, "a,x,1\n\nd,x,1\n", &like, &test));
    assert_fails(TD_ERR_DATA, "1 feature columns where the training set mem has 2",
                 read_text(TD_FORMAT_CSV, "a,x\nb,x\n", &like, &test));
    td_dataset_close(train);
    train = csv("0,5\n2,6\n", NULL);
    like.like = train;
    test = csv("1,5\n", &like);
    assert_int_equal(td_dataset_info(test)->classes, 3);
    td_dataset_close(test);
    assert_fails(TD_ERR_DATA, "mem:2: class \"3\"",
                 read_text(TD_FORMAT_CSV, "1,5\n3,5\n", &like, &test));
    td_dataset_close(train);
    train = csv("label,p,q\n0,5,5\n2,6,6\n", NULL);
    like.like = train;
    assert_fails(TD_ERR_DATA, "feature 1 is \"r\" where the training set has \"q\"",
                 read_text(TD_FORMAT_CSV, "label,p,r\n0,5,5\n", &like, &test));
    td_dataset_close(train);
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
        {"\n \n\r\n", "mem is empty", {0}, TD_ERR_DATA},
        {"a,b\n", "a header but no rows", {.header = 1}, TD_ERR_DATA},
        {"1,2,3\n4,5\n", "mem:2: 2 fields where the first line has 3", {0}, TD_ERR_DATA},
        {"y,a,b\n1,2,3\n4,5,6,7\n", "mem:3: 4 fields where the header has 3", {0}, TD_ERR_DATA},
        {"1,2\n2,3\n3,4x\n", "mem:3: column 1: \"4x\" is not a finite number", {0}, TD_ERR_DATA},
        {"y,age\n1,2\n2,3\n3,four\n", "mem:4: column 1 (age): \"four\"", {0}, TD_ERR_DATA},
        {"1,2\n2,3\n3,inf\n", "\"inf\" is not a finite number", {0}, TD_ERR_DATA},
        {"1,2\n2,3\n3,nan\n", "\"nan\" is not a finite number", {0}, TD_ERR_DATA},
        {"1,2\n2,3\n3,1e39\n", "\"1e39\" is not a finite number", {0}, TD_ERR_DATA},
        {"1,2\n?,3\n", "mem:2: column 0: the label is missing", {0}, TD_ERR_DATA},
        {"1,2\n2,3\nx,3\n", "mem:3: column 0: \"x\" is not a finite number", {0}, TD_ERR_DATA},
        {"1,2,3\n1,2,-1\n", "\"-1\" is not a finite weight", {.weight_column = "2"}, TD_ERR_DATA},
        {"1,\"a\n", "mem:1: a quoted field is not closed", {0}, TD_ERR_DATA},
        {"1,2\n1,\"a\"b\n", "mem:2: a quoted field", {0}, TD_ERR_DATA},
        {"1\n2\n", "no feature columns", {0}, TD_ERR_DATA},
        {"a,b\n1,2\n", "label \"c\" is not a column", {.label = "c"}, TD_ERR_ARG},
        {"1,2\n", "label \"2\" is not a column", {.label = "2"}, TD_ERR_ARG},
        {"y,a,y\n1,2,3\n",
         "label \"y\" is the name of columns 0 and 2 of mem; give the number",
         {.label = "y"},
         TD_ERR_ARG},
        {"a,label,Label\n1,2,3\n", "is the name of columns 1 and 2", {0}, TD_ERR_ARG},
        {"1,2\n", "categorical \"x\" is not a column", {.categorical = "x"}, TD_ERR_ARG},
        {"1,2\n", "the label or weight", {.categorical = "0"}, TD_ERR_ARG},
        {"1,2\n", "both label and weight", {.weight_column = "0"}, TD_ERR_ARG},
        {"1,2\n", "delimiter", {.delimiter = "ab"}, TD_ERR_ARG},
        {"a,2\nb,3\n", "\"a\" is not a finite number", {.label_kind = TD_LABEL_VALUE}, TD_ERR_DATA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_dataset *d = NULL;
        assert_fails(cases[i].status, cases[i].sentence,
                     read_text(TD_FORMAT_CSV, cases[i].text, &cases[i].config, &d));
        assert_null(d);
        assert_threads_agree(TD_FORMAT_CSV, cases[i].text, strlen(cases[i].text), &cases[i].config);
    }
}

/* A table of many chunks against strtof, then with one error late and one early. */
static void test_large(void **state)
{
    (void)state;
    enum { ROWS = 4001, COLUMNS = 5 };
    static const char *const colours[] = {"red", "green", "\"dark, \"\"blue\"\"\"", "?"};
    static const float codes[] = {2, 1, 0, NAN}; /* dark, green, red */
    char *text = malloc(ROWS * 100), *at = text;
    float (*want)[COLUMNS] = malloc(ROWS * sizeof *want);
    assert_true(text && want);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, 0, 0);
    char *late = NULL, *early = NULL;
    for (int r = 0; r < ROWS; r++) {
        at += sprintf(at, "%u", td_rng_below(&rng, 7));
        if (r == 100) early = at;
        if (r == 3900) late = at;
        for (int k = 0; k < COLUMNS - 1; k++) {
            char number[40];
            snprintf(number, sizeof number, "%.*g", 1 + (int)td_rng_below(&rng, 12),
                     (double)td_rng_normal(&rng));
            want[r][k] = strtof(number, NULL);
            at += sprintf(at, ",%s", number);
        }
        uint32_t c = td_rng_below(&rng, 4);
        want[r][COLUMNS - 1] = codes[c];
        at += sprintf(at, ",%s%s", colours[c], r % 3 ? "\n" : "\r\n");
        if (r % 50 == 0) at += sprintf(at, "\n");
    }
    size_t size = (size_t)(at - text);
    td_dataset *d = NULL;
    assert_ok(read_memory(TD_FORMAT_CSV, text, size, NULL, 3, &d));
    assert_int_equal(td_dataset_info(d)->samples, ROWS);
    assert_int_equal(td_dataset_info(d)->classes, 7);
    for (int r = 0; r < ROWS; r++) assert_row(d, (uint64_t)r, want[r]);
    td_dataset_close(d);
    assert_threads_agree(TD_FORMAT_CSV, text, size, &(td_data_config){.hash_categories = true});
    assert_threads_agree(TD_FORMAT_CSV, text, size, NULL);
    *late = 'x';
    assert_threads_agree(TD_FORMAT_CSV, text, size, NULL);
    assert_int_equal(read_memory(TD_FORMAT_CSV, text, size, NULL, 5, &d), TD_ERR_DATA);
    *early = 'y';
    assert_threads_agree(TD_FORMAT_CSV, text, size, NULL);
    assert_fails(TD_ERR_DATA, "mem:103:", read_memory(TD_FORMAT_CSV, text, size, NULL, 5, &d));
    free(text);
    free(want);
}

static void test_tsv(void **state)
{
    (void)state;
    td_dataset *d = NULL;
    assert_ok(read_text(TD_FORMAT_TSV, "1\t2\t\n0\t\t4\n", NULL, &d));
    assert_row(d, 0, (float[]){2, N});
    assert_row(d, 1, (float[]){N, 4});
    td_dataset_close(d);
    assert_ok(read_text(TD_FORMAT_CSV, "1;2\n", &(td_data_config){.delimiter = ";"}, &d));
    assert_row(d, 0, (float[]){2});
    td_dataset_close(d);
}

/* Blanks between fields are delimiters like others: what two of them enclose is empty. */
static void test_space_between_fields(void **state)
{
    (void)state;
    td_data_config config = {.delimiter = " "};
    td_dataset *d = csv("y a b\n1 2 \n0  4\r\n1 5 \r\n0 \t7\t 8\n \n\t\n1  ", &config);
    assert_int_equal(td_dataset_info(d)->samples, 5);
    assert_string_equal(td_dataset_info(d)->feature_names[1], "b");
    assert_row(d, 0, (float[]){2, N});
    assert_row(d, 1, (float[]){N, 4});
    assert_row(d, 2, (float[]){5, N});
    assert_row(d, 3, (float[]){7, 8});
    assert_row(d, 4, (float[]){N, N});
    td_dataset_close(d);
    config.one_hot = true;
    d = csv("y \"a b\" c\n1 \"r s\" \n0  4\n1 \"t\" 5\n0 \"r s\" 6\n", &config);
    assert_string_equal(td_dataset_info(d)->feature_names[0], "a b=r s");
    assert_row(d, 0, (float[]){1, 0, N});
    assert_row(d, 1, (float[]){0, 0, 4});
    assert_row(d, 2, (float[]){0, 1, 5});
    td_dataset_close(d);
    assert_fails(TD_ERR_DATA, "mem:2: 2 fields where the first line has 3",
                 read_text(TD_FORMAT_CSV, "1 2 3\n1 2\n", &config, &d));
    assert_fails(TD_ERR_DATA, "mem:2: 4 fields where the first line has 3",
                 read_text(TD_FORMAT_CSV, "1 2 3\n1 2  \n", &config, &d));
    /* A line of tabs is blank, unless tabs are the delimiters. */
    d = csv("1,2\n\t\n0,3\n", NULL);
    assert_int_equal(td_dataset_info(d)->samples, 2);
    td_dataset_close(d);
    assert_ok(read_text(TD_FORMAT_TSV, "1\t2\n\t\n", &(td_data_config){.label = "none"}, &d));
    assert_int_equal(td_dataset_info(d)->samples, 2);
    assert_row(d, 1, (float[]){N, N});
    td_dataset_close(d);
}

static void test_no_memory(void **state)
{
    (void)state;
    static const char text[] = "label,a,b,w\nx,\"q\"\"q\",1,1\ny,r,2,1\nx,s,3,1\n";
    td_data_config config = {.one_hot = true, .weight_column = "w"};
    read_attempt a = {TD_FORMAT_CSV, text, sizeof text - 1, &config};
    assert_survives_no_memory(attempt_read, &a);
    td_dataset *train = csv(text, &config);
    config.like = train;
    assert_survives_no_memory(attempt_read, &a);
    td_dataset_close(train);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),        cmocka_unit_test(test_header_and_columns),
        cmocka_unit_test(test_header_guess), cmocka_unit_test(test_quotes),
        cmocka_unit_test(test_missing),      cmocka_unit_test(test_one_hot),
        cmocka_unit_test(test_labels),       cmocka_unit_test(test_like),
        cmocka_unit_test(test_bad_files),    cmocka_unit_test(test_large),
        cmocka_unit_test(test_tsv),          cmocka_unit_test(test_space_between_fields),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("csv", tests, NULL, NULL);
}
