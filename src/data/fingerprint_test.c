/* Fingerprints: the same for the same content, however it came; another for any other label, weight
 * or value that is looked at. */
#include "data/data_test.h"

#include "base/clock.h"

enum { N = 300, SIDE = 6, PIXELS = SIDE * SIDE };

static uint8_t pixels[N][PIXELS];
static int32_t labels[N];
static float weights[N];

static td_arrays images(void)
{
    for (int i = 0; i < N; i++) {
        labels[i] = i % 3, weights[i] = 1 + (float)(i % 5);
        for (int k = 0; k < PIXELS; k++) pixels[i][k] = (uint8_t)(i * i * 31 + k * 7);
    }
    return (td_arrays){.samples = N,
                       .rank = 3,
                       .shape = {1, SIDE, SIDE},
                       .dtype = TD_DTYPE_U8,
                       .x = pixels,
                       .label = labels,
                       .classes = 3,
                       .weight = weights};
}

static uint64_t of_arrays(const td_arrays *arrays)
{
    td_dataset *data;
    assert_ok(td_dataset_from_arrays(arrays, &data));
    uint64_t found = td_dataset_fingerprint(data);
    td_dataset_close(data);
    return found;
}

static void anything_else_has_another(void **state)
{
    (void)state;
    td_arrays a = images(), b = a;
    uint64_t first = of_arrays(&a);
    assert_true(first != 0 && of_arrays(&a) == first);
    pixels[N - 1][PIXELS - 1] ^= 1;
    assert_true(of_arrays(&a) != first);
    (void)images();
    labels[7] = 0;
    assert_true(of_arrays(&a) != first);
    (void)images();
    weights[N / 2] += 1;
    assert_true(of_arrays(&a) != first);
    (void)images();
    b.classes = 4;
    assert_true(of_arrays(&b) != first);
    b = a, b.shape[1] = SIDE / 2, b.shape[2] = SIDE * 2;
    assert_true(of_arrays(&b) != first);
    b = a, b.samples = N - 1;
    assert_true(of_arrays(&b) != first);
    b = a, b.weight = NULL;
    assert_true(of_arrays(&b) != first);
    b = a, b.label = NULL, b.target = weights;
    assert_true(of_arrays(&b) != first);
    assert_true(of_arrays(&a) == first);
}

/* A side of a split as arrays of its own. */
static void check_view(const td_dataset *view)
{
    static uint8_t x[N][PIXELS];
    static int32_t label[N];
    static float weight[N];
    const td_data_info *info = td_dataset_info(view);
    td_arrays a = images();
    for (uint64_t i = 0; i < info->samples; i++) {
        float row[PIXELS];
        td_dataset_row(view, i, row);
        for (int k = 0; k < PIXELS; k++) x[i][k] = (uint8_t)row[k];
        label[i] = td_dataset_label(view, i), weight[i] = td_dataset_weight(view, i);
    }
    a.samples = info->samples, a.x = x, a.label = label, a.weight = weight;
    assert_true(of_arrays(&a) == td_dataset_fingerprint(view));
}

static void views_have_that_of_a_copy(void **state)
{
    (void)state;
    td_arrays a = images();
    td_dataset *data, *train[2], *held[2];
    assert_ok(td_dataset_from_arrays(&a, &data));
    for (int k = 0; k < 2; k++) {
        assert_ok(td_dataset_split(data, 0.3, (uint64_t)k + 1, &train[k], &held[k]));
        check_view(train[k]);
        check_view(held[k]);
    }
    assert_true(td_dataset_fingerprint(train[0]) != td_dataset_fingerprint(train[1]));
    for (int k = 0; k < 2; k++) td_dataset_close(train[k]), td_dataset_close(held[k]);
    td_dataset_close(data);
}

static uint64_t of_file(const char *folder, const char *name, const char *text, bool cache,
                        bool one_hot)
{
    char path[TD_PATH_MAX];
    td_dataset *data;
    assert_ok(td_path_join(path, folder, name));
    if (!td_path_exists(path)) put_file(folder, name, text, strlen(text));
    td_data_config config = {.path = path, .cache = cache, .one_hot = one_hot};
    assert_ok(td_dataset_open(&config, &data));
    uint64_t found = td_dataset_fingerprint(data);
    td_dataset_close(data);
    return found;
}

static void files_have_it_by_their_content(void **state)
{
    (void)state;
    static const struct {
        const char *text, *others[4];
        bool one_hot;
    } cases[] = {
        {"label,c,d\nx,b,1\ny,a,2\nx,?,3\n", /* a value, a label, a class, a category */
         {"label,c,d\nx,b,1\ny,a,2\nx,?,4\n", "label,c,d\nx,b,1\ny,a,2\ny,?,3\n",
          "label,c,d\nx,b,1\nz,a,2\nx,?,3\n", "label,c,d\nx,b,1\ny,o,2\nx,?,3\n"},
         true},
        {"1.5,2\n-3,4\n", {"1.5,2\n-3,5\n", "1.25,2\n-3,4\n"}, false},
        {"1:2 qid:1 1:2 5:1\n-1:1 qid:2 2:1\n1:1 qid:2\n",
         {"1:2 qid:1 1:2 5:1\n-1:1 qid:2 3:1\n1:1 qid:2\n", /* index, value, weight, group */
          "1:2 qid:1 1:2 5:1\n-1:1 qid:2 2:3\n1:1 qid:2\n",
          "1:2 qid:1 1:2 5:1\n-1:3 qid:2 2:1\n1:1 qid:2\n",
          "1:2 qid:1 1:2 5:1\n-1:1 qid:2 2:1\n1:1 qid:3\n"},
         false},
    };
    char folder[TD_PATH_MAX], name[32];
    make_folder(folder);
    for (int c = 0; c < 3; c++) {
        const char *end = c < 2 ? "csv" : "svm";
        bool hot = cases[c].one_hot;
        snprintf(name, sizeof name, "%d.%s", c, end);
        uint64_t first = of_file(folder, name, cases[c].text, false, hot);
        assert_true(of_file(folder, name, NULL, true, hot) == first);
        assert_true(of_file(folder, name, NULL, true, hot) == first); /* mapped */
        snprintf(name, sizeof name, "copy-%d.%s", c, end);
        assert_true(of_file(folder, name, cases[c].text, false, hot) == first);
        for (int k = 0; k < 4 && cases[c].others[k]; k++) {
            snprintf(name, sizeof name, "%d-%d.%s", c, k, end);
            assert_true(of_file(folder, name, cases[c].others[k], false, hot) != first);
        }
    }
    assert_ok(td_remove_tree(folder));
}

/* The last sample is not among those whose bytes are looked at; its label is. */
static void it_costs_little(void **state)
{
    (void)state;
    enum { MANY = 60000, WIDE = 784 };
    uint8_t *x = calloc(MANY, WIDE);
    int32_t *label = calloc(MANY, sizeof *label);
    assert_true(x && label);
    td_arrays a = {.samples = MANY,
                   .rank = 1,
                   .shape = {WIDE},
                   .dtype = TD_DTYPE_U8,
                   .x = x,
                   .label = label,
                   .classes = 10};
    uint64_t first = of_arrays(&a);
    int64_t best = INT64_MAX;
    for (int i = 0; i < 5; i++) {
        int64_t begin = td_clock_ns();
        assert_true(of_arrays(&a) == first);
        int64_t took = td_clock_ns() - begin;
        if (took < best) best = took;
    }
    print_message("%.2f ms\n", (double)best / 1e6);
    if (!getenv("TANDEM_TEST_SHORT")) assert_true(best < 10000000);
    label[MANY - 1] = 1;
    assert_true(of_arrays(&a) != first);
    free(x);
    free(label);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(anything_else_has_another),
        cmocka_unit_test(views_have_that_of_a_copy),
        cmocka_unit_test(files_have_it_by_their_content),
        cmocka_unit_test(it_costs_little),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
