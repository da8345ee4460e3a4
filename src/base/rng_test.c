/* Known answers of Philox4x32-10 (Random123's kat_vectors), and what the streams promise. */
#include "base/rng.h"

#include "base/test.h"

#include <math.h>
#include <stdlib.h>

static void philox_gives_the_published_vectors(void **state)
{
    (void)state;
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint32_t out[4];
        td_philox(rows[i].key, rows[i].counter, out);
        assert_memory_equal(out, rows[i].want, sizeof out);
    }
}

static void streams_depend_on_their_name_alone(void **state)
{
    (void)state;
    td_rng a, b;
    td_rng_init(&a, 1, TD_RNG_TEST, 2, 3);
    td_rng_init(&b, 1, TD_RNG_TEST, 2, 3);
    for (int i = 0; i < 9; i++) assert_int_equal(td_rng_u32(&a), td_rng_u32(&b));
    td_rng_init(&b, 1, TD_RNG_TEST, 2, 4);
    assert_int_not_equal(td_rng_u64(&a), td_rng_u64(&b));
}

static void normals_have_mean_0_and_variance_1(void **state)
{
    (void)state;
    td_rng rng;
    td_rng_init(&rng, 7, TD_RNG_TEST, 0, 0);
    double sum = 0, squares = 0;
    enum { N = 100000 };
    for (int i = 0; i < N; i++) {
        double x = td_rng_normal(&rng);
        sum += x, squares += x * x;
    }
    assert_true(fabs(sum / N) < 0.02);
    assert_true(fabs(squares / N - 1) < 0.02);
}

static void permutations_visit_everything_once(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 5, 8, 17, 64, 1000, 60000};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint64_t n = sizes[s];
        td_permutation p;
        td_permutation_init(&p, n, 1, 0, 0);
        char *seen = calloc(n, 1);
        uint64_t fixed = 0;
        for (uint64_t i = 0; i < n; i++) {
            uint64_t at = td_permutation_at(&p, i);
            assert_true(at < n);
            assert_int_equal(seen[at], 0);
            seen[at] = 1;
            fixed += at == i;
        }
        if (n >= 64) assert_true(fixed < 12); /* a random permutation has one fixed point */
        free(seen);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(philox_gives_the_published_vectors),
        cmocka_unit_test(streams_depend_on_their_name_alone),
        cmocka_unit_test(normals_have_mean_0_and_variance_1),
        cmocka_unit_test(permutations_visit_everything_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
