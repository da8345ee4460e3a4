/* Features under keys, against the definition in features.h, computed sample by sample from what
 * the data set says of itself. */
#include "data/features.h"

#include "data/data_test.h"
#include "data/schema.h"

#include <xxhash.h>

enum { ROOM = 64 };

typedef struct sample {
    size_t n;
    uint64_t key[ROOM];
    float value[ROOM], numbers[ROOM];
    uint16_t field[ROOM];
} sample;

static td_dataset *from_text(td_format format, const char *text, td_data_config config)
{
    td_dataset *data;
    assert_ok(read_text(format, text, &config, &data));
    return data;
}

static td_features *plan(const td_dataset *data, td_features_config config)
{
    td_features *f;
    assert_ok(td_features_create(data, &config, &f));
    return f;
}

static sample row_of(const td_features *f, const td_dataset *data, uint64_t index)
{
    sample s = {0};
    assert_true(td_features_most_of(f, data) <= ROOM && td_features_numbers(f) <= ROOM);
    s.n = td_features_row(f, data, index, s.key, s.value, s.field,
                          td_features_numbers(f) ? s.numbers : NULL);
    assert_true(s.n <= td_features_most_of(f, data));
    for (size_t e = 0; e < s.n; e++) {
        assert_true(s.key[e] != UINT64_MAX);
        assert_true(s.field[e] < td_features_fields(f));
    }
    return s;
}

static uint64_t of_text(const char *text, uint64_t seed)
{
    return XXH3_64bits_withSeed(text, strlen(text), seed);
}

static uint64_t of_number(uint64_t number, uint64_t seed)
{
    return XXH3_64bits_withSeed(&number, sizeof number, seed);
}

static void assert_entry(const sample *s, size_t e, uint64_t key, float value, uint16_t field)
{
    assert_true(e < s->n);
    assert_true(s->key[e] == key);
    assert_true(s->value[e] == value);
    assert_int_equal(s->field[e], field);
}

static const char table[] = "label,size,colour,weight,shape\n"
                            "1,2,red,0,round\n0,?,blue,4,\n1,6,?,8,square\n";

static void test_table(void **state)
{
    (void)state;
    td_dataset *data = from_text(TD_FORMAT_CSV, table, (td_data_config){0});
    td_normalise normalise;
    assert_ok(td_normalise_fit(data, TD_NORMALISE_STANDARD, &normalise));
    td_features *f = plan(data, (td_features_config){.seed = 5, .normalise = &normalise});
    assert_int_equal(td_features_most(f), 4);
    assert_int_equal(td_features_fields(f), 4);
    assert_int_equal(td_features_numbers(f), 0);
    float x[4];
    td_dataset_row(data, 0, x);
    td_normalise_apply(&normalise, 4, x);
    sample s = row_of(f, data, 0);
    assert_int_equal(s.n, 4);
    assert_entry(&s, 0, of_text("size", 5), x[0], 0);
    assert_entry(&s, 1, of_text("red", of_text("colour", 5)), 1, 1);
    assert_entry(&s, 2, of_text("weight", 5), x[2], 2);
    assert_entry(&s, 3, of_text("round", of_text("shape", 5)), 1, 3);
    s = row_of(f, data, 1); /* size becomes the mean, which is 0; weight is the mean, too */
    assert_int_equal(s.n, 1);
    assert_entry(&s, 0, of_text("blue", of_text("colour", 5)), 1, 1);
    s = row_of(f, data, 2);
    assert_int_equal(s.n, 3);
    assert_entry(&s, 2, of_text("square", of_text("shape", 5)), 1, 3);
    td_features_destroy(f);
    td_normalise_fini(&normalise);
    td_dataset_close(data);
}

static void test_numbers_apart(void **state)
{
    (void)state;
    td_dataset *data = from_text(TD_FORMAT_CSV, table, (td_data_config){0});
    td_features *f =
        plan(data,
             (td_features_config){.bits = 20, .seed = 5, .numbers_apart = true, .bias = true});
    assert_int_equal(td_features_numbers(f), 2);
    assert_int_equal(td_features_most(f), 3);
    assert_int_equal(td_features_fields(f), 3); /* colour, shape, bias */
    uint64_t mask = (1 << 20) - 1;
    sample s = row_of(f, data, 2);
    assert_int_equal(s.n, 2);
    assert_true(s.numbers[0] == 6 && s.numbers[1] == 8);
    assert_entry(&s, 0, of_text("square", of_text("shape", 5)) & mask, 1, 1);
    assert_true(s.key[1] <= mask && s.value[1] == 1 && s.field[1] == 2);
    s = row_of(f, data, 1); /* nothing says what a missing number is */
    assert_true(s.numbers[0] == 0 && s.numbers[1] == 4);
    td_features_destroy(f);
    td_dataset_close(data);
}

/* A test set has the training set's keys, whatever order or number its categories come in. */
static void test_like(void **state)
{
    (void)state;
    td_dataset *data = from_text(TD_FORMAT_CSV, table, (td_data_config){0});
    td_dataset *test = from_text(TD_FORMAT_CSV,
                                 "label,size,colour,weight,shape\n0,1,green,1,square\n"
                                 "1,1,blue,0,round\n",
                                 (td_data_config){.like = data});
    td_features *f = plan(data, (td_features_config){.bits = 30, .seed = 1});
    td_features *g = plan(test, (td_features_config){.bits = 30, .seed = 1});
    json_t *schema;
    td_dataset *described;
    assert_ok(td_schema_make(data, &schema));
    assert_ok(td_schema_open(schema, "model", &described));
    td_features *h = plan(described, (td_features_config){.bits = 30, .seed = 1});
    for (uint64_t i = 0; i < 2; i++) {
        sample a = row_of(f, test, i), b = row_of(g, test, i), c = row_of(h, test, i);
        assert_memory_equal(&a, &b, sizeof a);
        assert_memory_equal(&a, &c, sizeof a);
    }
    sample was = row_of(f, data, 2), now = row_of(f, test, 0); /* green is missing */
    assert_int_equal(now.n, 3);
    assert_true(now.key[2] == was.key[2]);
    json_decref(schema);
    td_features_destroy(h);
    td_features_destroy(g);
    td_features_destroy(f);
    td_dataset_close(described);
    td_dataset_close(test);
    td_dataset_close(data);
}

static void test_sparse(void **state)
{
    (void)state;
    td_dataset *data =
        from_text(TD_FORMAT_LIBSVM, "1 1:2 7:3\n0\n1 2:1 3:1 4:1\n", (td_data_config){0});
    td_features *f = plan(data, (td_features_config){.bias = true});
    assert_int_equal(td_features_most(f), 4);
    assert_int_equal(td_features_fields(f), 2);
    sample s = row_of(f, data, 0);
    assert_int_equal(s.n, 3);
    assert_entry(&s, 0, 0, 2, 0);
    assert_entry(&s, 1, 6, 3, 0);
    assert_entry(&s, 2, TD_FEATURES_BIAS, 1, 1);
    assert_int_equal(row_of(f, data, 1).n, 1);
    td_features_destroy(f);
    td_normalise normalise;
    assert_ok(td_normalise_fit(data, TD_NORMALISE_MINMAX, &normalise));
    f = plan(data, (td_features_config){.bits = 9, .seed = 3, .normalise = &normalise});
    s = row_of(f, data, 0);
    assert_entry(&s, 0, of_number(0, 3) & 511, 1, 0);
    assert_entry(&s, 1, of_number(6, 3) & 511, 1, 0);
    td_features_destroy(f);
    td_normalise_fini(&normalise);
    assert_ok(td_normalise_fit(data, TD_NORMALISE_STANDARD, &normalise));
    assert_fails(TD_ERR_ARG, "sparse data cannot be moved",
                 td_features_create(data, &(td_features_config){.normalise = &normalise}, &f));
    td_normalise_fini(&normalise);
    td_dataset_close(data);
}

static void test_fields(void **state)
{
    (void)state;
    td_dataset *data = from_text(TD_FORMAT_LIBFFM, "1 2:0:2 0:7:3\n0 4:1:1\n", (td_data_config){0});
    td_dataset *test = from_text(TD_FORMAT_LIBFFM, "1 5:0:2 0:3:3 4:2:1 9:1:1 1:7:1\n",
                                 (td_data_config){.like = data});
    td_features *f = plan(data, (td_features_config){.bias = true});
    assert_int_equal(td_features_fields(f), 6);
    assert_int_equal(td_features_most(f), 3);
    assert_int_equal(td_features_most_of(f, test), 6);
    sample s = row_of(f, data, 0);
    assert_entry(&s, 0, 0, 2, 2);
    assert_entry(&s, 1, 7, 3, 0);
    s = row_of(f, test, 0); /* fields 5 and 9 are new */
    assert_int_equal(s.n, 4);
    assert_entry(&s, 0, 2, 1, 4);
    assert_entry(&s, 1, 3, 3, 0);
    assert_entry(&s, 2, 7, 1, 1);
    assert_entry(&s, 3, TD_FEATURES_BIAS, 1, 5);
    td_features *g = plan(test, (td_features_config){.bias = true, .fields = 5});
    sample t = row_of(g, test, 0);
    assert_memory_equal(&s, &t, sizeof s);
    td_features_destroy(g);
    td_features_destroy(f);
    td_dataset_close(test);
    td_dataset_close(data);
}

/* Columns without names, more than are loaded at once, of each type. */
static void test_dense(void **state)
{
    (void)state;
    enum { COLUMNS = 601 };
    static uint8_t bytes[2][COLUMNS];
    static int32_t ints[2][COLUMNS];
    static float floats[2][COLUMNS], value[COLUMNS];
    static uint64_t key[COLUMNS];
    static uint16_t field[COLUMNS];
    for (int r = 0; r < 2; r++)
        for (int c = 0; c < COLUMNS; c++) {
            bytes[r][c] = (uint8_t)(c % 3 ? c + r : 0);
            ints[r][c] = bytes[r][c];
            floats[r][c] = bytes[r][c];
        }
    const void *x[] = {floats, bytes, ints}; /* as td_dtype counts */
    const int32_t label[] = {0, 1};
    for (int type = 0; type < 3; type++) {
        td_arrays arrays = {.samples = 2, .rank = 1, .shape = {COLUMNS}, .classes = 2};
        arrays.dtype = (td_dtype)type, arrays.x = x[type], arrays.label = label;
        td_dataset *data;
        assert_ok(td_dataset_from_arrays(&arrays, &data));
        td_normalise normalise;
        assert_ok(td_normalise_fit(data, TD_NORMALISE_UNIT, &normalise));
        td_features *f = plan(data, (td_features_config){.seed = 8, .normalise = &normalise});
        td_normalise_fini(&normalise); /* was copied */
        size_t n = td_features_row(f, data, 1, key, value, field, NULL), e = 0;
        for (size_t c = 0; c < COLUMNS; c++) {
            if (bytes[1][c] == 0) continue;
            assert_true(key[e] == of_number(c, 8));
            assert_int_equal(field[e], c);
            assert_true(value[e++] == (float)bytes[1][c] * (float)(1 / 255.0));
        }
        assert_int_equal(e, n);
        td_features_destroy(f);
        td_dataset_close(data);
    }
}

static void test_views(void **state)
{
    (void)state;
    td_dataset *data =
        from_text(TD_FORMAT_LIBSVM, "1 1:1\n0 2:1 3:1\n1 3:1\n0 4:1\n1 1:1\n", (td_data_config){0});
    td_dataset *train, *held;
    assert_ok(td_dataset_split(data, 0.4, 2, &train, &held));
    td_features *f = plan(train, (td_features_config){.bits = 0});
    for (uint64_t i = 0; i < td_dataset_info(train)->samples; i++) {
        sample a = row_of(f, train, i), b = row_of(f, data, train->rows[i]);
        assert_memory_equal(&a, &b, sizeof a);
    }
    td_features_destroy(f);
    td_dataset_close(held);
    td_dataset_close(train);
    td_dataset_close(data);
}

static td_status attempt_plan(void *arg)
{
    td_features *f;
    float mean[4] = {0}, scale[4] = {1, 1, 1, 1};
    td_normalise normalise = {TD_NORMALISE_MINMAX, 4, mean, scale, mean};
    td_features_config config = {.bits = 8, .normalise = &normalise};
    TD_TRY(td_features_create(arg, &config, &f));
    td_features_destroy(f);
    return TD_OK;
}

static void test_mistakes(void **state)
{
    (void)state;
    td_features *f;
    td_dataset *data = from_text(TD_FORMAT_CSV, table, (td_data_config){0});
    assert_fails(TD_ERR_ARG, "not 64",
                 td_features_create(data, &(td_features_config){.bits = 64}, &f));
    assert_fails(TD_ERR_ARG, "at most 65536 fields",
                 td_features_create(data, &(td_features_config){.fields = 70000}, &f));
    td_normalise three = {.mode = TD_NORMALISE_NONE, .n = 3};
    assert_fails(TD_ERR_ARG, "does not fit the 4",
                 td_features_create(data, &(td_features_config){.normalise = &three}, &f));
    assert_survives_no_memory(attempt_plan, data);
    td_dataset_close(data);
    data = from_text(TD_FORMAT_CSV, table, (td_data_config){.one_hot = true});
    assert_fails(TD_ERR_ARG, "not of their 0-1 columns",
                 td_features_create(data, &(td_features_config){0}, &f));
    td_dataset_close(data);
}

/* Hashes instead of dictionaries: the same keys, and those of categories that a test set alone has;
 * by the training set's names of columns, and from its description. */
static void test_hashed(void **state)
{
    (void)state;
    static const char quoted[] =
        "label,size,colour,weight,shape\n1,2,\"r\"\"ed\",0,round\n0,?,blue,4,\n"
        "1,6,?,8,\"a,b\"\n0,1, blue ,2,round\n";
    td_data_config hashes = {.hash_categories = true, .hash_seed = 5};
    td_dataset *codes = from_text(TD_FORMAT_CSV, quoted, (td_data_config){0}),
               *data = from_text(TD_FORMAT_CSV, quoted, hashes), *described;
    assert_int_equal(td_dataset_categories(data, 1, NULL), 0);
    for (int apart = 0; apart < 2; apart++) {
        td_features_config config = {.bits = apart ? 20 : 0, .seed = 5, .numbers_apart = apart};
        td_features *f = plan(codes, config), *g = plan(data, config);
        assert_int_equal(td_features_fields(f), td_features_fields(g));
        for (uint64_t i = 0; i < 4; i++) {
            sample a = row_of(f, codes, i), b = row_of(g, data, i);
            assert_memory_equal(&a, &b, sizeof a);
        }
        td_features_destroy(f);
        td_features_destroy(g);
    }
    json_t *schema;
    assert_ok(td_schema_make(data, &schema));
    char *text = json_dumps(schema, 0);
    assert_null(strstr(text, "blue"));
    free(text);
    assert_ok(td_schema_open(schema, "model", &described));
    const td_dataset *like[] = {data, described};
    for (size_t k = 0; k < 2; k++) {
        td_dataset *test = from_text(TD_FORMAT_CSV, "1,3,green,5,?\n0,3,blue,5,7\n",
                                     (td_data_config){.like = like[k], .label = "0"});
        td_features *f = plan(like[k], (td_features_config){.seed = 5});
        sample s = row_of(f, test, 0);
        assert_int_equal(s.n, 3);
        assert_entry(&s, 1, of_text("green", of_text("colour", 5)), 1, 1);
        s = row_of(f, test, 1);
        assert_entry(&s, 3, of_text("7", of_text("shape", 5)), 1, 3);
        td_features_destroy(f);
        td_dataset_close(test);
    }
    td_features *f;
    assert_int_equal(td_features_create(data, &(td_features_config){.seed = 6}, &f), TD_ERR_ARG);
    assert_non_null(strstr(td_last_error(), "hashed under seed 5, not 6"));
    assert_true(td_dataset_fingerprint(data) != td_dataset_fingerprint(codes));
    json_decref(schema);
    td_dataset_close(described);
    td_dataset_close(codes);
    td_dataset_close(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),  cmocka_unit_test(test_numbers_apart),
        cmocka_unit_test(test_like),   cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_fields), cmocka_unit_test(test_dense),
        cmocka_unit_test(test_views),  cmocka_unit_test(test_mistakes),
        cmocka_unit_test(test_hashed),
    };
    return cmocka_run_group_tests_name("features", tests, NULL, NULL);
}
