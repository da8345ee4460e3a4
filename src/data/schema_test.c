/* A test set read against a schema is the one read against the training set itself. */
#include "data/schema.h"

#include "data/data_test.h"

#define LATIN "caf\xe9"

typedef struct sample {
    td_format format;
    const char *train, *test, *mistake, *says; /* mistake: a test set that does not fit */
    td_data_config config;
} sample;

static const sample samples[] = {
    {TD_FORMAT_CSV,
     "label,colour,size,w\nyes,red,1,1\nno,blue,2,1\nyes,green,?,2\nno,\"a,b\",4,1\n",
     "label,colour,size,w\nno,green,3,1\nyes,purple,,2\n",
     "label,colour,size,w\nmaybe,red,1,1\n",
     "class \"maybe\" is not one of the training set's 2 classes (no, yes)",
     {.one_hot = true, .weight_column = "w"}},
    {TD_FORMAT_CSV,
     "label,colour,size\nyes,red,1\nno,blue,2\n",
     "label,colour,size\nno,red,3\n",
     "label,color,size\nno,red,3\n",
     "feature 0 is \"color\" where the training set has \"colour\"",
     {0}},
    {TD_FORMAT_CSV,
     "yes,red,7\nno,blue,2\n",
     "no,blue,7\nyes,pink,6\n",
     "no,blue\n",
     "1 feature columns where the training set mem has 2",
     {.one_hot = true}},
    {TD_FORMAT_CSV, "1,red\n-1,blue\n", "-1,red\n", "0,red\n", "class \"0\"", {0}},
    {TD_FORMAT_CSV,
     "100000,5\n2.5,6\n-7,6\n",
     "2.5,1\n100000,2\n",
     "3,1\n",
     "(-7, 2.5, 100000)",
     {.label_kind = TD_LABEL_CLASS}},
    {TD_FORMAT_CSV, "0,5\n2,6\n", "1,1\n0,3\n", "3,1\n", "class \"3\"", {0}},
    {TD_FORMAT_CSV, "0.5,x\n2,y\n", "1e3,y\n0,x\n", "a,x\n", "\"a\" is not a finite number", {0}},
    {TD_FORMAT_CSV, "1,2,3\n4,5,6\n", "9,9,9\n", "1,2\n", "2 feature columns", {.label = "none"}},
    {TD_FORMAT_CSV,
     LATIN "\xff,5\n" LATIN ",6\nz,6\n",
     LATIN ",1\nz,2\n",
     "y,1\n",
     "class \"y\"",
     {0}},
    {TD_FORMAT_CSV,
     "label,\xe9\n1," LATIN "\n0,q\n",
     "label,\xe9\n0,q\n1," LATIN "\n1,r\n",
     "label,e\n0,q\n",
     "feature 0 is \"e=",
     {.one_hot = true}},
    {TD_FORMAT_LIBSVM,
     "1 0:1 5:1\n-1 2:1\n",
     "-1 1:1\n1 5:2\n",
     "1 6:1\n",
     "beyond the 6 features",
     {0}},
    {TD_FORMAT_LIBFFM, "1 7:5:1\n-1 0:2:1\n", "-1 3:1:1\n", "0 7:5:1\n", "class \"0\"", {0}},
    {TD_FORMAT_LIBSVM, "3 1:1 5:1\n0 2:1\n", "2 1:1\n", "0 6:1\n", "beyond the 5 features", {0}},
};
enum { SAMPLES = sizeof samples / sizeof *samples };

static td_dataset *reopen(const td_dataset *dataset)
{
    json_t *schema;
    td_dataset *like;
    assert_ok(td_schema_make(dataset, &schema));
    /* As a manifest has it: through text. */
    char *text = json_dumps(schema, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    assert_non_null(text);
    json_t *again = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    assert_true(json_equal(schema, again));
    assert_ok(td_schema_open(again, "manifest.json", &like));
    free(text);
    json_decref(again);
    json_decref(schema);
    return like;
}

static void a_schema_stands_for_its_data_set(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        const sample *s = &samples[i];
        td_data_config config = s->config;
        td_dataset *train, *by_train, *by_schema;
        assert_ok(read_text(s->format, s->train, &config, &train));
        td_dataset *like = reopen(train);
        config.like = train;
        assert_ok(read_text(s->format, s->test, &config, &by_train));
        config.like = like;
        assert_ok(read_text(s->format, s->test, &config, &by_schema));
        assert_same_data(by_train, by_schema);
        td_dataset *other = NULL;
        assert_fails(TD_ERR_DATA, s->says, read_text(s->format, s->mistake, &config, &other));
        td_dataset *again = reopen(like); /* a schema of a schema */
        config.like = again;
        td_dataset_close(by_schema);
        assert_ok(read_text(s->format, s->test, &config, &by_schema));
        assert_same_data(by_train, by_schema);
        td_dataset_close(again);
        td_dataset_close(by_schema);
        td_dataset_close(by_train);
        td_dataset_close(like);
        td_dataset_close(train);
    }
}

/* One row is no header, and names are none because no number is below them. */
static void a_header_is_expected_as_in_training(void **state)
{
    (void)state;
    td_dataset *train, *d;
    td_data_config config = {0};
    assert_ok(read_text(TD_FORMAT_CSV, "yes,red\nno,blue\nno,red\n", &config, &train));
    td_dataset *like = reopen(train);
    config.like = like;
    assert_ok(read_text(TD_FORMAT_CSV, "no,red\n", &config, &d));
    assert_row(d, 0, (float[]){1});
    td_dataset_close(d);
    td_dataset_close(like);
    td_dataset_close(train);
    config.like = NULL;
    assert_ok(read_text(TD_FORMAT_CSV, "label,c,d\n1,red,2\n0,blue,3\n", &config, &train));
    config.like = like = reopen(train);
    assert_ok(read_text(TD_FORMAT_CSV, "label,c,d\n1,blue,?\n", &config, &d)); /* nothing below */
    assert_int_equal(td_dataset_info(d)->samples, 1);
    td_dataset_close(d);
    assert_ok(read_text(TD_FORMAT_CSV, "0,blue,5\n", &config, &d));
    assert_row(d, 0, (float[]){0, 5});
    td_dataset_close(d);
    td_dataset_close(like);
    td_dataset_close(train);
}

static void a_view_has_its_base_s_schema(void **state)
{
    (void)state;
    td_dataset *whole, *train, *held;
    json_t *a, *b;
    assert_ok(read_text(TD_FORMAT_CSV, samples[0].train, &samples[0].config, &whole));
    assert_ok(td_dataset_split(whole, 0.5, 1, &train, &held));
    assert_ok(td_schema_make(whole, &a));
    assert_ok(td_schema_make(held, &b));
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    td_dataset_close(train);
    td_dataset_close(held);
    td_dataset_close(whole);
}

static void images_have_a_shape(void **state)
{
    (void)state;
    static const uint8_t pixels[2][12] = {{0}};
    static const int32_t label[2] = {0, 4};
    td_arrays arrays = {.samples = 2,
                        .rank = 3,
                        .shape = {3, 2, 2},
                        .dtype = TD_DTYPE_U8,
                        .x = pixels,
                        .label = label,
                        .classes = 5};
    td_dataset *d, *other, *like;
    assert_ok(td_dataset_from_arrays(&arrays, &d));
    like = reopen(d);
    assert_ok(td_dataset_check_like(d, like));
    assert_int_equal(td_dataset_info(like)->classes, 5);
    assert_int_equal(td_dataset_info(like)->samples, 0);
    memcpy(arrays.shape, (size_t[]){2, 3, 2}, 3 * sizeof *arrays.shape);
    assert_ok(td_dataset_from_arrays(&arrays, &other));
    assert_fails(TD_ERR_DATA, "another shape", td_dataset_check_like(other, like));
    td_dataset_close(other);
    td_dataset_close(like);
    td_dataset_close(d);
}

static void damaged_schemas_are_refused(void **state)
{
    (void)state;
#define HEAD "{\"path\":\"p\",\"index_base\":-1,\"one_hot\":true,"
    static const char *const cases[] = {
        "[]",
        "{}",
        HEAD "\"classes\":0}",
        HEAD "\"shape\":[],\"classes\":0}",
        HEAD "\"shape\":[1,1,1,1,1],\"classes\":0}",
        HEAD "\"shape\":[0],\"classes\":0}",
        HEAD "\"shape\":[-1],\"classes\":0}",
        HEAD "\"shape\":[\"1\"],\"classes\":0}",
        HEAD "\"shape\":[9223372036854775807,2],\"classes\":0}",
        HEAD "\"shape\":[9223372036854775807],\"classes\":0}",
        HEAD "\"shape\":[1],\"classes\":-1}",
        HEAD "\"shape\":[1],\"classes\":99999999999}",
        HEAD "\"shape\":[1],\"classes\":2,\"class_names\":[\"a\"]}",
        HEAD "\"shape\":[1],\"classes\":2,\"class_names\":[\"b\",\"a\"]}",
        HEAD "\"shape\":[1],\"classes\":2,\"class_names\":[\"a\",\"a\"]}",
        HEAD "\"shape\":[1],\"classes\":2,\"class_names\":[\"a\",1]}",
        HEAD "\"shape\":[1],\"classes\":2,\"class_values\":[1.0,2.0]}",
        HEAD
        "\"shape\":[1],\"classes\":2,\"class_names\":[\"1\",\"2\"],\"class_values\":[2.0,1.0]}",
        HEAD
        "\"shape\":[1],\"classes\":2,\"class_names\":[\"1\",\"2\"],\"class_values\":[1.0,\"x\"]}",
        HEAD "\"shape\":[1],\"classes\":0,\"columns\":[]}",
        HEAD "\"shape\":[1],\"classes\":0,\"columns\":[1]}",
        HEAD "\"shape\":[1],\"classes\":0,\"columns\":[{\"name\":1}]}",
        HEAD "\"shape\":[2],\"classes\":0,\"columns\":[{\"name\":\"a\"},{}]}",
        HEAD "\"shape\":[1],\"classes\":0,\"columns\":[{},{}]}",
        HEAD "\"shape\":[2,1],\"classes\":0,\"columns\":[{},{}]}",
        HEAD "\"shape\":[1],\"classes\":0,\"columns\":[{\"categories\":[\"a\",\"b\"]}]}",
        HEAD "\"shape\":[2],\"classes\":0,\"columns\":[{\"categories\":[\"b\",\"a\"]}]}",
        HEAD "\"shape\":[2],\"classes\":0,\"columns\":[{\"categories\":[\"a\",{\"hex\":\"6\"}]}]}",
        HEAD "\"shape\":[2],\"classes\":0,\"columns\":[{\"categories\":[\"a\",{\"hex\":\"6x\"}]}]}",
        HEAD
        "\"shape\":[2],\"classes\":0,\"columns\":[{\"categories\":[\"a\",{\"hex\":\"6200\"}]}]}",
        "{\"path\":\"p\",\"index_base\":2,\"shape\":[1],\"classes\":0}",
        "{\"path\":3,\"index_base\":1,\"shape\":[1],\"classes\":0}",
    };
    td_dataset *d;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json = json_loads(cases[i], 0, NULL);
        assert_non_null(json);
        assert_fails(TD_ERR_CORRUPT, "RUN: its description of the training data is damaged: ",
                     td_schema_open(json, "RUN", &d));
        json_decref(json);
    }
    json_t *json = json_loads(HEAD "\"shape\":[2],\"classes\":0,"
                                   "\"columns\":[{\"categories\":[\"a\",{\"hex\":\"62ff\"}]}]}",
                              0, NULL);
    assert_ok(td_schema_open(json, "RUN", &d));
    assert_string_equal(d->category_names[0][1], "b\xff");
    td_dataset_close(d);
    json_decref(json);
#undef HEAD
}

static td_status there_and_back(void *arg)
{
    json_t *schema;
    td_dataset *like;
    TD_TRY(td_schema_make(arg, &schema));
    td_status status = td_schema_open(schema, "mem", &like);
    json_decref(schema);
    if (status == TD_OK) td_dataset_close(like);
    return status;
}

/* A training set may have millions of categories, so a short text takes few bytes beside its own.
 */
static void texts_lie_side_by_side(void **state)
{
    (void)state;
    enum { TEXTS = 20000, MOST = 9000 };
    td_dataset *d = td_dataset_new();
    static char text[MOST];
    static const char *kept[TEXTS];
    size_t apart = 0;
    memset(text, 'x', MOST);
    for (size_t i = 0; i < TEXTS; i++) {
        size_t length = i % 1000 ? i % 17 : MOST - i / 1000;
        text[0] = (char)('a' + i % 26);
        kept[i] = td_dataset_text(d, text, length);
        assert_non_null(kept[i]);
        apart += i && kept[i] != kept[i - 1] + strlen(kept[i - 1]) + 1;
    }
    for (size_t i = 0; i < TEXTS; i++) {
        assert_int_equal(strlen(kept[i]), i % 1000 ? i % 17 : MOST - i / 1000);
        if (*kept[i]) assert_int_equal(*kept[i], 'a' + i % 26);
    }
    assert_true(apart < TEXTS / 100);
    td_dataset_close(d);
}

static void memory_may_run_out(void **state)
{
    (void)state;
    for (size_t i = 0; i < SAMPLES; i++) {
        td_dataset *d;
        assert_ok(read_text(samples[i].format, samples[i].train, &samples[i].config, &d));
        json_set_alloc_funcs(td_malloc, td_free); /* its allocations fail in their turn, too */
        assert_survives_no_memory(there_and_back, d);
        json_set_alloc_funcs(malloc, free);
        td_dataset_close(d);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_schema_stands_for_its_data_set),
        cmocka_unit_test(a_header_is_expected_as_in_training),
        cmocka_unit_test(a_view_has_its_base_s_schema),
        cmocka_unit_test(images_have_a_shape),
        cmocka_unit_test(damaged_schemas_are_refused),
        cmocka_unit_test(texts_lie_side_by_side),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
