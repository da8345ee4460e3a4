/* Against all pairs. */
#include "math/auc.h"

#include "base/rng.h"
#include "base/test.h"

#include <math.h>

enum { N = 700 };

static td_auc auc;

static void the_area_is_that_of_all_pairs(void **state)
{
    (void)state;
    static float score[N];
    static int label[N];
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, 0, 0);
    memset(&auc, 0, sizeof auc);
    double pairs = 0, higher = 0;
    for (int i = 0; i < N; i++) { /* of both signs, with ties; each exactly a bin's */
        score[i] = (float)((int)td_rng_below(&rng, 300) - 150) / 256;
        if (i % 2 && score[i] == 0) score[i] = -0.0f;
        label[i] = td_rng_unit(&rng) < 0.5f + score[i] / 2;
        td_auc_add(&auc, score[i], label[i], 1);
    }
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++)
            if (label[i] && !label[j]) {
                pairs++;
                higher += score[i] > score[j] ? 1 : score[i] == score[j] ? 0.5 : 0;
            }
    assert_true(fabs(td_auc_value(&auc) - higher / pairs) < 1e-12);
}

/* A sample of weight k is k of them; halves of all weights change nothing. */
static void weights_are_so_many_samples(void **state)
{
    static td_auc other, halves;
    td_rng rng;
    (void)state;
    td_rng_init(&rng, 4, TD_RNG_TEST, 0, 0);
    memset(&auc, 0, sizeof auc), memset(&other, 0, sizeof other);
    memset(&halves, 0, sizeof halves);
    for (int i = 0; i < N; i++) {
        float score = (float)td_rng_unit(&rng);
        int positive = (int)td_rng_below(&rng, 2), weight = (int)td_rng_below(&rng, 5);
        td_auc_add(&auc, score, positive, (float)weight);
        td_auc_add(&halves, score, positive, (float)weight / 2);
        for (int k = 0; k < weight; k++) td_auc_add(&other, score, positive, 1);
    }
    assert_true(td_auc_value(&auc) == td_auc_value(&other));
    assert_true(td_auc_value(&auc) == td_auc_value(&halves));
}

/* Ranks that have different blocks: their packed counts add up to those of all. */
static void parts_add_up(void **state)
{
    enum { PARTS = 3 };
    static td_auc part[PARTS];
    size_t numbers[PARTS];
    td_rng rng;
    (void)state;
    td_rng_init(&rng, 5, TD_RNG_TEST, 0, 0);
    memset(&auc, 0, sizeof auc), memset(part, 0, sizeof part);
    for (int i = 0; i < 3 * N; i++) { /* part 0 has none */
        float score = ldexpf((float)td_rng_unit(&rng) - 0.5f, (int)td_rng_below(&rng, 40) - 30);
        int positive = (int)td_rng_below(&rng, 2);
        td_auc_add(&auc, score, positive, 1);
        td_auc_add(&part[score < 0.01f ? 1 : 2], score, positive, 1);
    }
    for (int k = 0; k < PARTS; k++) memcpy(part[k].used, auc.used, sizeof auc.used);
    for (int k = 0; k < PARTS; k++) numbers[k] = td_auc_pack(&part[k]);
    assert_true(numbers[0] == numbers[1] && numbers[1] == numbers[2]);
    assert_true(numbers[0] < sizeof auc.counts / sizeof(uint64_t) / 2);
    uint64_t *sum = (uint64_t *)(void *)part[0].counts;
    for (int k = 1; k < PARTS; k++)
        for (size_t i = 0; i < numbers[0]; i++) sum[i] += ((uint64_t *)(void *)part[k].counts)[i];
    assert_true(td_auc_value(&part[0]) == td_auc_value(&auc));
}

static void limits(void **state)
{
    (void)state;
    memset(&auc, 0, sizeof auc);
    td_auc_add(&auc, 0.5f, 1, 1);
    assert_true(isnan(td_auc_value(&auc)));
    td_auc_add(&auc, -INFINITY, 0, 1);
    assert_true(td_auc_value(&auc) == 1);
    td_auc_add(&auc, INFINITY, 0, 1);
    assert_true(td_auc_value(&auc) == 0.5);
    td_auc_add(&auc, NAN, 1, 1); /* below all */
    assert_true(td_auc_value(&auc) == 0.25);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_area_is_that_of_all_pairs),
        cmocka_unit_test(weights_are_so_many_samples),
        cmocka_unit_test(parts_add_up),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
