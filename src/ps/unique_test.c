/* A batch's keys once each: against a search through all keys. */
#include "ps/unique.h"

#include "base/rng.h"
#include "base/test.h"

static void batches_hold_each_key_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 17, 3000, 100, 4096};
    td_unique b = {0};
    td_rng rng;
    td_rng_init(&rng, 2, TD_RNG_TEST, 0, 0);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k], found = 0;
        uint64_t *keys = td_calloc(n + 1, sizeof *keys);
        float *value = td_calloc(2 * n + 1, sizeof *value),
              *row = td_calloc(2 * n + 1, sizeof *row), *out = td_calloc(2 * n + 1, sizeof *out);
        for (size_t i = 0; i < n; i++) {
            keys[i] = td_rng_below(&rng, 1500) * (k % 2 ? UINT64_MAX / 1499 : 1);
            value[2 * i] = (float)i, value[2 * i + 1] = 1;
        }
        assert_ok(td_unique_fill(&b, keys, n));
        assert_int_equal(b.asked, n);
        for (size_t i = 0; i < n; i++) {
            assert_true(b.place[i] <= found && b.keys[b.place[i]] == keys[i]);
            found += b.place[i] == found;
        }
        assert_int_equal(b.count, found);
        for (size_t i = 0; i < found; i++)
            for (size_t j = 0; j < i; j++) assert_true(b.keys[i] != b.keys[j]);
        td_unique_gather(&b, 2, value, row);
        td_unique_spread(&b, 2, row, out);
        for (size_t i = 0; i < n; i++) {
            float sum = 0, count = 0;
            for (size_t j = 0; j < n; j++)
                if (keys[j] == keys[i]) sum += value[2 * j], count++;
            assert_true(out[2 * i] == sum && out[2 * i + 1] == count);
        }
        td_free(keys), td_free(value), td_free(row), td_free(out);
    }
    td_unique_free(&b);
}

static void batches_are_split_by_the_one_before(void **state)
{
    (void)state;
    enum { MOST = 900 };
    td_unique before = {0}, b = {0};
    td_rng rng;
    uint64_t keys[MOST];
    uint32_t place[MOST];
    td_rng_init(&rng, 3, TD_RNG_TEST, 0, 0);
    for (int round = 0; round < 60; round++) {
        size_t n = td_rng_below(&rng, round % 3 ? MOST : 3), m = td_rng_below(&rng, MOST);
        for (size_t i = 0; i < n; i++) keys[i] = (uint64_t)td_rng_below(&rng, 700) << 33;
        if (round) assert_ok(td_unique_fill(&before, keys, n)); /* else it was never filled */
        for (size_t i = 0; i < m; i++) keys[i] = (uint64_t)td_rng_below(&rng, 700) << 33;
        assert_ok(td_unique_fill(&b, keys, m));
        size_t apart = td_unique_split(&before, &b, place), seen[MOST] = {0};
        for (size_t k = 0; k < b.count; k++) {
            bool there = false;
            for (size_t j = 0; j < before.count; j++)
                there = there || before.keys[j] == b.keys[place[k]];
            assert_true(there == (k >= apart) && !seen[place[k]]++);
        }
    }
    td_unique_free(&before), td_unique_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(batches_hold_each_key_once),
                                       cmocka_unit_test(batches_are_split_by_the_one_before)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
