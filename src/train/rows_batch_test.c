/* Batches against a naive reading of td_features_row. */
#include "train/rows_batch.h"

#include "base/rng.h"
#include "data/data_test.h"

enum { SAMPLES = 61, WIDTH = 3, ROOM = 64 };

static td_dataset *some_data(bool table)
{
    static char text[SAMPLES * 120];
    td_rng rng;
    size_t n = 0;
    td_dataset *data;
    td_data_config config = {.label_kind = TD_LABEL_CLASS};
    td_rng_init(&rng, 1, TD_RNG_TEST, table, 0);
    if (table) n += (size_t)sprintf(text, "label,a,b,c,d\n");
    for (int i = 0; i < SAMPLES; i++) {
        if (table)
            n += (size_t)sprintf(text + n, "%d,%u,%c,k%u,%u\n", i % 2, td_rng_below(&rng, 5),
                                 'p' + (char)td_rng_below(&rng, 4), td_rng_below(&rng, 9),
                                 td_rng_below(&rng, 3));
        else {
            n += (size_t)sprintf(text + n, "%d", i % 2);
            for (uint32_t k = 0, of = td_rng_below(&rng, 6); k < of; k++)
                n += (size_t)sprintf(text + n, " %u:%u", 10 * k + td_rng_below(&rng, 9) + 1,
                                     1 + td_rng_below(&rng, 7));
            n += (size_t)sprintf(text + n, "\n");
        }
    }
    assert_true(n < sizeof text);
    assert_ok(read_text(table ? TD_FORMAT_CSV : TD_FORMAT_LIBSVM, text, &config, &data));
    return data;
}

static td_batch make_batch(size_t rows, int leaves, uint64_t *sample, float *target,
                           size_t *leaf_row)
{
    for (size_t r = 0; r < rows; r++) sample[r] = r * 37 % SAMPLES, target[r] = (float)(r % 5);
    for (int l = 0; l <= leaves; l++) leaf_row[l] = rows * (size_t)l / (size_t)leaves;
    return (td_batch){.rows = rows,
                      .sample = sample,
                      .target = target,
                      .leaves = leaves,
                      .leaf_row = leaf_row,
                      .global_rows = rows + 7,
                      .epoch = 3,
                      .step_in_epoch = 2};
}

/* Each entry, in order, has the key of its place, and a row of gradients of its unit and that key;
 * no unit has two of one key. */
static void check(const td_rows_batch *b, const td_rows_shape *s, int leaf_begin)
{
    uint64_t key[ROOM];
    float value[ROOM], numbers[ROOM];
    uint16_t field[ROOM];
    size_t at = 0, row = 0, sums = 0;
    for (int u = 0; u < b->unit_count; u++) {
        const td_rows_unit *unit = &b->units[u];
        td_sparse_leaf leaf;
        td_rows_batch_leaf(b, s, u, &leaf);
        assert_true(unit->row_begin == row && unit->sum_begin == sums);
        assert_true(leaf.rows == unit->row_end - row && leaf.epoch == 3);
        for (size_t r = 0; row < unit->row_end; row++, r++) {
            size_t n = td_features_row(s->features, s->data, b->sample[row], key, value, field,
                                       s->numbers ? numbers : NULL);
            assert_true(leaf.start[r] == at && leaf.start[r + 1] == at + n);
            assert_true(leaf.sample[r] == b->sample[row] && leaf.target[r] == (float)(row % 5));
            if (s->numbers)
                assert_memory_equal(leaf.numbers + r * s->numbers, numbers,
                                    s->numbers * sizeof *numbers);
            for (size_t e = 0; e < n; e++, at++) {
                uint32_t sum = leaf.sum[at];
                assert_true(b->unique.keys[leaf.place[at]] == key[e]);
                assert_true(leaf.value[at] == value[e] && leaf.field[at] == field[e]);
                assert_true(sum >= unit->sum_begin && sum < unit->sum_end);
                assert_true(b->of_sum[sum] == leaf.place[at]);
                if (s->by_leaf) assert_int_equal(b->leaf_of_sum[sum], leaf_begin + u);
            }
        }
        for (size_t i = unit->sum_begin; i < unit->sum_end; i++)
            for (size_t j = unit->sum_begin; j < i; j++) assert_true(b->of_sum[i] != b->of_sum[j]);
        sums = unit->sum_end;
    }
    assert_true(row == b->rows && at == b->entries && sums == b->sums);
    for (size_t i = 0; i < b->unique.count; i++)
        for (size_t j = 0; j < i; j++) assert_true(b->unique.keys[i] != b->unique.keys[j]);
}

/* Larger and smaller ones with the same memory, by leaves and by lanes. */
static void batches_are_what_samples_say(void **state)
{
    (void)state;
    static const struct {
        size_t rows;
        int leaves;
    } sizes[] = {{7, 3}, {61, 16}, {1, 4}, {0, 2}, {200, 5}, {3, 1}};
    for (int kind = 0; kind < 4; kind++) {
        bool table = kind < 2, apart = kind == 1;
        td_dataset *data = some_data(table);
        td_features *f;
        td_pool *pool;
        td_features_config config = {.bits = kind == 2 ? 3 : 0,
                                     .numbers_apart = apart,
                                     .bias = !apart};
        assert_ok(td_features_create(data, &config, &f));
        for (int lanes = 1; lanes <= 3; lanes += 2) {
            td_rows_batch b = {0};
            assert_ok(td_pool_create(lanes, &pool));
            td_rows_shape s = {.features = f, .data = data, .width = WIDTH, .pool = pool};
            s.numbers = td_features_numbers(f);
            for (size_t k = 0; k < 2 * sizeof sizes / sizeof *sizes; k++) {
                uint64_t sample[200];
                float target[200];
                size_t leaf_row[17], n = k / 2;
                td_batch from =
                    make_batch(sizes[n].rows, sizes[n].leaves, sample, target, leaf_row);
                s.by_leaf = k % 2;
                assert_ok(td_rows_batch_fill(&b, &s, &from, 5));
                memset(sample, 0xff, sizeof sample); /* the loader's memory is needed no more */
                assert_int_equal(b.unit_count, s.by_leaf ? sizes[n].leaves : lanes);
                assert_int_equal(b.global_rows, sizes[n].rows + 7);
                check(&b, &s, 5);
            }
            td_rows_batch_free(&b);
            td_pool_destroy(pool);
        }
        td_features_destroy(f);
        td_dataset_close(data);
    }
}

static td_status try_fill(void *arg)
{
    td_rows_batch b = {0};
    uint64_t sample[200];
    float target[200];
    size_t leaf_row[17];
    td_batch from = make_batch(200, 4, sample, target, leaf_row);
    td_status status = td_rows_batch_fill(&b, arg, &from, 0);
    td_rows_batch_free(&b);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    td_dataset *data = some_data(true);
    td_features *f;
    td_pool *pool;
    assert_ok(td_features_create(data, &(td_features_config){.bias = true}, &f));
    assert_ok(td_pool_create(1, &pool));
    td_rows_shape s = {.features = f, .data = data, .width = WIDTH, .by_leaf = true, .pool = pool};
    assert_survives_no_memory(try_fill, &s);
    td_pool_destroy(pool);
    td_features_destroy(f);
    td_dataset_close(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_are_what_samples_say),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
