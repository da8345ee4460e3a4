/* The loader: ranks together equal one, seeking equals running, augmentation, no allocation. */
#include "data/data_test.h"

enum { SAMPLES = 203, CHANNELS = 2, ROWS = 5, COLUMNS = 4, FEATURES = CHANNELS * ROWS * COLUMNS };

static uint8_t pixels[SAMPLES][FEATURES];
static int32_t labels[SAMPLES];
static float weights[SAMPLES];

static td_dataset *make_data(void)
{
    for (int i = 0; i < SAMPLES; i++) {
        labels[i] = i % 7;
        weights[i] = (float)i * .5f;
        for (int k = 0; k < FEATURES; k++) pixels[i][k] = (uint8_t)(i * 31 + k * 7);
    }
    td_arrays arrays = {.samples = SAMPLES,
                        .rank = 3,
                        .shape = {CHANNELS, ROWS, COLUMNS},
                        .dtype = TD_DTYPE_U8,
                        .x = pixels,
                        .label = labels,
                        .classes = 7,
                        .weight = weights};
    td_dataset *data;
    assert_ok(td_dataset_from_arrays(&arrays, &data));
    return data;
}

static void assert_same_rows(const td_batch *part, const td_batch *whole, size_t offset)
{
    assert_memory_equal(part->x, whole->x + offset * FEATURES,
                        part->rows * FEATURES * sizeof(float));
    assert_memory_equal(part->label, whole->label + offset, part->rows * sizeof(int32_t));
    assert_memory_equal(part->target, whole->target + offset, part->rows * sizeof(float));
    assert_memory_equal(part->weight, whole->weight + offset, part->rows * sizeof(float));
    assert_memory_equal(part->sample, whole->sample + offset, part->rows * sizeof(uint64_t));
}

static void test_ranks_together_are_one(void **state)
{
    (void)state;
    static const int sizes[] = {1, 2, 3, 5, 8};
    td_dataset *data = make_data();
    td_normalise normalise;
    assert_ok(td_normalise_fit(data, TD_NORMALISE_STANDARD, &normalise));
    for (int mode = 0; mode < 3; mode++)
        for (int s = 0; s < 5; s++) {
            int ranks = sizes[s];
            td_loader_config config = {.data = data,
                                       .batch = 37,
                                       .leaves = 16,
                                       .seed = 9,
                                       .shuffle = (td_shuffle)mode,
                                       .normalise = &normalise,
                                       .augment = {.shift = 1, .flip = true},
                                       .epochs = 2};
            td_loader *whole, *rank[8];
            assert_ok(td_loader_create(&config, &whole));
            for (int r = 0; r < ranks; r++) {
                config.leaf_begin = (int)td_cut(16, (uint64_t)ranks, (uint64_t)r);
                config.leaf_end = (int)td_cut(16, (uint64_t)ranks, (uint64_t)r + 1);
                config.ahead = r % 3 == 0 ? -1 : r % 3;
                assert_ok(td_loader_create(&config, &rank[r]));
            }
            uint64_t steps = 0;
            for (;; steps++) {
                const td_batch *all, *part;
                assert_ok(td_loader_next(whole, &all));
                size_t offset = 0;
                int leaf = 0;
                for (int r = 0; r < ranks; r++) {
                    assert_ok(td_loader_next(rank[r], &part));
                    assert_int_equal(part != NULL, all != NULL);
                    if (!all) continue;
                    assert_same_rows(part, all, offset);
                    for (int l = 0; l <= part->leaves; l++)
                        assert_int_equal(part->leaf_row[l] + offset, all->leaf_row[leaf + l]);
                    assert_int_equal(part->global_rows, all->rows);
                    assert_int_equal((uintptr_t)part->x % 64, 0);
                    offset += part->rows;
                    leaf += part->leaves;
                }
                if (!all) break;
                assert_int_equal(offset, all->rows);
                assert_int_equal(all->rows, all->global_rows);
            }
            assert_int_equal(steps, 2 * td_loader_steps_per_epoch(whole));
            for (int r = 0; r < ranks; r++) td_loader_destroy(rank[r]);
            td_loader_destroy(whole);
        }
    td_normalise_fini(&normalise);
    td_dataset_close(data);
}

static void test_each_sample_once(void **state)
{
    (void)state;
    td_dataset *data = make_data();
    td_loader *loader;
    td_loader_config config = {.data = data, .batch = 32};
    assert_ok(td_loader_create(&config, &loader));
    for (uint64_t epoch = 0; epoch < 3; epoch++) {
        int seen[SAMPLES] = {0};
        const td_batch *batch;
        uint64_t step = 0;
        do {
            assert_ok(td_loader_next(loader, &batch));
            assert_int_equal(batch->epoch, epoch);
            assert_int_equal(batch->step_in_epoch, step++);
            for (size_t i = 0; i < batch->rows; i++) {
                uint64_t s = batch->sample[i];
                seen[s]++;
                assert_int_equal(batch->label[i], labels[s]);
                assert_true(batch->x[i * FEATURES + 3] == pixels[s][3]);
            }
        } while (!batch->last_in_epoch);
        for (int i = 0; i < SAMPLES; i++) assert_int_equal(seen[i], 1);
    }
    td_loader_destroy(loader);
    td_dataset_close(data);
}

static void test_seek_is_running(void **state)
{
    (void)state;
    td_dataset *data = make_data();
    td_loader_config config = {.data = data, .batch = 50, .augment = {.crop_pad = 2}, .seed = 5};
    td_loader *runs, *seeks;
    assert_ok(td_loader_create(&config, &runs));
    assert_ok(td_loader_create(&config, &seeks));
    const td_batch *a, *b;
    for (int i = 0; i < 23; i++) {
        assert_ok(td_loader_next(runs, &a));
        assert_ok(td_loader_seek(seeks, a->epoch, a->step_in_epoch));
        assert_ok(td_loader_next(seeks, &b));
        assert_int_equal(a->epoch, b->epoch);
        assert_int_equal(a->rows, b->rows);
        assert_same_rows(b, a, 0);
        if (i % 3 == 0) assert_ok(td_loader_next(seeks, &b)); /* leave it elsewhere */
    }
    assert_fails(TD_ERR_ARG, "an epoch has 5 steps", td_loader_seek(seeks, 0, 5));
    td_loader_destroy(runs);
    td_loader_destroy(seeks);
    td_dataset_close(data);
}

/* Every moved image is the old one somewhere, with the colour of 0 outside. */
static void test_augmentation(void **state)
{
    (void)state;
    td_dataset *data = make_data();
    td_normalise n;
    assert_ok(td_normalise_fit(data, TD_NORMALISE_STANDARD, &n));
    assert_int_equal(n.n, CHANNELS);
    td_loader_config config = {.data = data,
                               .batch = SAMPLES,
                               .normalise = &n,
                               .augment = {.shift = 2, .flip = true}};
    td_loader *loader;
    assert_ok(td_loader_create(&config, &loader));
    const td_batch *batch;
    assert_ok(td_loader_next(loader, &batch));
    int kinds[2][5][5] = {0};
    for (size_t i = 0; i < batch->rows; i++) {
        const float *x = batch->x + i * FEATURES;
        int found = 0;
        for (int move = 0; move < 50; move++) {
            int down = move / 5 % 5 - 2, right = move % 5 - 2, same = 1;
            for (int k = 0; k < FEATURES; k++) {
                int c = k / (ROWS * COLUMNS), r = k / COLUMNS % ROWS - down, q = k % COLUMNS;
                int from = (move >= 25 ? COLUMNS - 1 - q : q) - right;
                bool in = r >= 0 && r < ROWS && from >= 0 && from < COLUMNS;
                float raw = in ? pixels[batch->sample[i]][(c * ROWS + r) * COLUMNS + from] : 0;
                same = same && x[k] == (raw - n.mean[c]) * n.scale[c];
            }
            if (same) kinds[move / 25][down + 2][right + 2]++;
            found += same;
        }
        assert_true(found >= 1);
    }
    for (int k = 0; k < 50; k++) assert_true(kinds[k / 25][k / 5 % 5][k % 5] > 0 || k % 7);
    td_loader_destroy(loader);
    td_normalise_fini(&n);
    td_dataset_close(data);
}

static void test_steady_state_allocates_nothing(void **state)
{
    (void)state;
    td_dataset *data = make_data();
    td_loader *loader;
    td_loader_config config = {.data = data, .augment = {.flip = true}};
    assert_ok(td_loader_create(&config, &loader));
    const td_batch *batch;
    assert_ok(td_loader_next(loader, &batch));
    td_alloc_fail_at(0);
    for (int i = 0; i < 20; i++) assert_ok(td_loader_next(loader, &batch));
    assert_ok(td_loader_seek(loader, 7, 1));
    assert_ok(td_loader_next(loader, &batch));
    assert_int_equal(td_alloc_count(), 0);
    td_loader_destroy(loader);
    td_dataset_close(data);
}

static void test_bad_options(void **state)
{
    (void)state;
    td_dataset *data = make_data(), *table;
    td_loader *loader = NULL;
    td_arrays arrays = {.samples = 3, .rank = 1, .shape = {2}, .x = weights, .target = weights};
    assert_ok(td_dataset_from_arrays(&arrays, &table));
    td_normalise three;
    assert_ok(td_normalise_make(TD_NORMALISE_STANDARD, 3, weights, weights, NULL, &three));
    const struct {
        td_loader_config config;
        const char *sentence;
    } cases[] = {
        {{0}, "needs a data set"},
        {{.data = data, .leaf_begin = 3, .leaf_end = 3}, "leaves 3 to 3"},
        {{.data = data, .leaf_end = 17}, "leaves 0 to 17"},
        {{.data = data, .ahead = -2}, "not -2"},
        {{.data = data, .augment = {.shift = 4}}, "moved by 0 to 3"},
        {{.data = table, .augment = {.flip = true}}, "need images"},
        {{.data = data, .normalise = &three}, "do not fit the 40 features"},
        {{.data = data, .batch = 300, .drop_last = true}, "no full batch"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(TD_ERR_ARG, cases[i].sentence, td_loader_create(&cases[i].config, &loader));
    assert_null(loader);
    td_normalise_fini(&three);
    td_dataset_close(table);
    td_dataset_close(data);
}

static td_status try_loader(void *arg)
{
    td_loader *loader;
    td_normalise n;
    TD_TRY(td_normalise_fit(arg, TD_NORMALISE_STANDARD, &n));
    td_loader_config config = {.data = arg, .normalise = &n};
    td_status status = td_loader_create(&config, &loader);
    td_normalise_fini(&n);
    if (status == TD_OK) td_loader_destroy(loader);
    return status;
}

static void test_no_memory(void **state)
{
    (void)state;
    td_dataset *data = make_data();
    assert_survives_no_memory(try_loader, data);
    td_dataset_close(data);
}

static void test_normalise(void **state)
{
    (void)state;
    static const float x[4][3] = {{1, 5, NAN}, {2, 5, 4}, {3, 5, 8}, {6, 5, NAN}};
    static const float target[4] = {1, 2, 3, 4};
    td_arrays arrays = {.samples = 4, .rank = 1, .shape = {3}, .x = x, .target = target};
    td_dataset *data;
    td_normalise n;
    assert_ok(td_dataset_from_arrays(&arrays, &data));
    assert_ok(td_normalise_fit(data, TD_NORMALISE_AUTO, &n));
    assert_int_equal(n.mode, TD_NORMALISE_STANDARD);
    assert_true(n.mean[0] == 3 && n.mean[1] == 5 && n.mean[2] == 6 && n.fill[2] == 6);
    assert_true(n.scale[1] == 1 && n.scale[2] == .5f && n.scale[0] == (float)(1 / sqrt(3.5)));
    float row[3] = {6, 5, NAN};
    td_normalise_apply(&n, 3, row);
    assert_true(row[0] == 3 * n.scale[0] && row[1] == 0 && row[2] == 0);
    td_normalise_fini(&n);
    assert_ok(td_normalise_fit(data, TD_NORMALISE_MINMAX, &n));
    assert_true(n.mean[0] == 1 && n.scale[0] == (float)(1 / 5.0) && n.fill[0] == 3);
    td_normalise_fini(&n);
    assert_ok(td_normalise_fit(data, TD_NORMALISE_NONE, &n));
    float raw[3] = {6, 5, NAN};
    td_normalise_apply(&n, 3, raw);
    assert_true(raw[0] == 6 && raw[2] == 6);
    td_normalise_fini(&n);
    td_dataset_close(data);

    data = make_data();
    assert_ok(td_normalise_fit(data, TD_NORMALISE_AUTO, &n));
    assert_true(n.n == 1 && n.scale[0] == (float)(1 / 255.0) && n.mode == TD_NORMALISE_UNIT);
    td_normalise_fini(&n);
    td_dataset_close(data);

    /* zeros of sparse rows count */
    assert_ok(read_text(TD_FORMAT_LIBSVM, "1 1:4\n0 2:2\n0 1:4\n1 2:2\n", NULL, &data));
    assert_ok(td_normalise_fit(data, TD_NORMALISE_STANDARD, &n));
    assert_true(n.mean[0] == 2 && n.scale[0] == .5f && n.mean[1] == 1 && n.scale[1] == 1);
    td_normalise_fini(&n);
    assert_ok(td_normalise_fit(data, TD_NORMALISE_AUTO, &n));
    assert_int_equal(n.mode, TD_NORMALISE_NONE);
    td_normalise_fini(&n);
    td_dataset_close(data);

    /* codes and one-hot columns are left alone */
    for (int hot = 0; hot < 2; hot++) {
        td_data_config config = {.one_hot = hot};
        assert_ok(read_text(TD_FORMAT_CSV, "1,a,1\n0,b,3\n0,b,5\n", &config, &data));
        assert_ok(td_normalise_fit(data, TD_NORMALISE_STANDARD, &n));
        assert_true(n.n == (size_t)(2 + hot) && n.mean[0] == 0 && n.scale[0] == 1);
        assert_true(n.mean[1 + hot] == 3);
        td_normalise_fini(&n);
        td_dataset_close(data);
    }
}

static void test_split(void **state)
{
    (void)state;
    td_dataset *data = make_data(), *train, *held, *other_train, *other_held;
    assert_ok(td_dataset_split(data, 0.25, 3, &train, &held));
    uint64_t n = td_dataset_info(held)->samples;
    assert_int_equal(n, 51);
    assert_int_equal(td_dataset_info(train)->samples, SAMPLES - n);
    /* Together they are the whole, in order. */
    uint64_t t = 0, h = 0;
    float x[FEATURES];
    for (int i = 0; i < SAMPLES; i++) {
        bool in_held = h < n && td_dataset_weight(held, h) == weights[i];
        const td_dataset *side = in_held ? held : train;
        uint64_t at = in_held ? h++ : t++;
        assert_true(td_dataset_weight(side, at) == weights[i]);
        td_dataset_row(side, at, x);
        assert_true(x[5] == pixels[i][5]);
    }
    assert_ok(td_dataset_split(train, 0.5, 3, &other_train, &other_held)); /* a view of a view */
    assert_int_equal(td_dataset_info(other_train)->samples + td_dataset_info(other_held)->samples,
                     SAMPLES - n);
    td_loader *loader;
    const td_batch *batch;
    td_loader_config config = {.data = held, .batch = 51, .shuffle = TD_SHUFFLE_NONE};
    assert_ok(td_loader_create(&config, &loader));
    assert_ok(td_loader_next(loader, &batch));
    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(batch->sample[i], i);
        assert_int_equal(batch->label[i], td_dataset_label(held, i));
    }
    td_loader_destroy(loader);
    assert_fails(TD_ERR_ARG, "between 0 and 1", td_dataset_split(data, 1, 3, &train, &held));
    assert_fails(TD_ERR_ARG, "leaves one side empty",
                 td_dataset_split(data, .001, 3, &train, &held));
    td_dataset_close(other_train);
    td_dataset_close(other_held);
    td_dataset_close(train);
    td_dataset_close(held);
    td_dataset_close(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ranks_together_are_one),
        cmocka_unit_test(test_each_sample_once),
        cmocka_unit_test(test_seek_is_running),
        cmocka_unit_test(test_augmentation),
        cmocka_unit_test(test_steady_state_allocates_nothing),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_normalise),
        cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests_name("loader", tests, NULL, NULL);
}
