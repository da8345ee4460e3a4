/* Update rules against the formulas in double precision, schedules at their ends. */
#include "tandem/optim.h"

#include "base/test.h"

#include <math.h>

enum { N = 48, STEPS = 7 };

static const td_slot slots[] = {
    {.name = "w", .kind = TD_SLOT_WEIGHT, .offset = 0, .count = 19},
    {.name = "b", .kind = TD_SLOT_BIAS, .offset = 32, .count = 5},
    {.name = "s", .kind = TD_SLOT_STAT, .offset = 40, .count = 3, .momentum = 0.25f},
};

static float gradient_of(int step, int i)
{
    return (float)sin(1 + i * 0.7 + step * 1.3);
}

static void reference(const char *rule, const td_optim_config *c, int step, bool decay, double g,
                      double *p, double *s1, double *s2)
{
    double wd = decay ? c->weight_decay : 0, lr = c->lr;
    if (!strcmp(rule, "adamw")) *p -= lr * wd * *p, wd = 0;
    double d = g + wd * *p;
    if (!strcmp(rule, "sgd") || !strcmp(rule, "nesterov")) {
        *s1 = c->momentum * *s1 + d;
        *p -= lr * (rule[0] == 's' ? *s1 : d + c->momentum * *s1);
    } else if (rule[0] == 'a' && rule[2] == 'a' && rule[3] == 'm') {
        *s1 = 0.9 * *s1 + 0.1 * d, *s2 = 0.999 * *s2 + 0.001 * d * d;
        *p -=
            lr * (*s1 / (1 - pow(0.9, step + 1))) / (sqrt(*s2 / (1 - pow(0.999, step + 1))) + 1e-8);
    } else if (!strcmp(rule, "adagrad")) {
        *s1 += d * d;
        *p -= lr * d / (sqrt(*s1) + 1e-10);
    } else {
        *s1 = 0.99 * *s1 + 0.01 * d * d;
        *s2 = c->momentum * *s2 + d / (sqrt(*s1) + 1e-8);
        *p -= lr * *s2;
    }
}

static void rules_follow_their_formulas(void **state)
{
    (void)state;
    for (const char *const *rule = td_optim_rule_names; *rule; rule++) {
        td_optim_config c = {.rule = *rule, .lr = 0.05, .momentum = 0.8, .weight_decay = 0.02};
        td_optim *optim;
        assert_ok(td_optim_create(&c, slots, 3, N, &optim));
        float p[N], g[N];
        double want[N], s1[N] = {0}, s2[N] = {0};
        for (int i = 0; i < N; i++) want[i] = p[i] = (float)cos(i);
        for (int step = 0; step < STEPS; step++) {
            for (int i = 0; i < N; i++) g[i] = 4 * gradient_of(step, i);
            td_optim_step(optim, (uint64_t)step, g, 0.25f, p);
            for (size_t s = 0; s < 2; s++)
                for (size_t i = slots[s].offset; i < slots[s].offset + slots[s].count; i++)
                    reference(*rule, &c, step, s == 0, gradient_of(step, (int)i), &want[i], &s1[i],
                              &s2[i]);
            for (size_t i = 40; i < 43; i++)
                want[i] = 0.75 * want[i] + 0.25 * gradient_of(step, (int)i);
        }
        for (int i = 0; i < 43; i++)
            if (fabs(want[i] - p[i]) > 2e-4) fail_msg("%s: %g is not %g", *rule, p[i], want[i]);
        td_optim_destroy(optim);
    }
}

static void clipping_scales_the_whole_gradient(void **state)
{
    (void)state;
    td_optim_config c = {.rule = "sgd", .lr = 1, .clip_norm = 2};
    td_optim *optim;
    assert_ok(td_optim_create(&c, slots, 3, N, &optim));
    float p[N] = {0}, g[N] = {0};
    g[0] = 30, g[33] = 40, g[41] = 1000; /* statistics do not count */
    td_optim_step(optim, 0, g, 0.1f, p); /* norm 5 */
    assert_true(fabsf(p[0] + 1.2f) < 1e-6f && fabsf(p[33] + 1.6f) < 1e-6f);
    td_optim_destroy(optim);
}

static double rate(td_optim_config c, uint64_t step)
{
    td_optim *optim;
    assert_ok(td_optim_create(&c, slots, 3, N, &optim));
    double r = td_optim_rate(optim, step);
    td_optim_destroy(optim);
    return r;
}

static void schedules_pass_through_their_known_points(void **state)
{
    (void)state;
    td_optim_config c = {.lr = 0.8, .warmup = 10, .total = 110, .final_lr = 0.2, .every = 30};
    assert_true(fabs(rate(c, 0) - 0.08) < 1e-12 && fabs(rate(c, 10) - 0.8) < 1e-12);
    c.schedule = "cosine";
    assert_true(fabs(rate(c, 10) - 0.8) < 1e-12 && fabs(rate(c, 60) - 0.5) < 1e-12);
    assert_true(fabs(rate(c, 110) - 0.2) < 1e-12 && fabs(rate(c, 500) - 0.2) < 1e-12);
    c.schedule = "linear";
    assert_true(fabs(rate(c, 60) - 0.5) < 1e-12 && fabs(rate(c, 85) - 0.35) < 1e-12);
    c.schedule = "step";
    assert_true(fabs(rate(c, 29) - 0.8) < 1e-12 && fabs(rate(c, 61) - 0.008) < 1e-12);
}

static void wrong_settings_are_named(void **state)
{
    (void)state;
    td_optim *o;
    assert_fails(TD_ERR_ARG, "no update rule is called \"sdg\"",
                 td_optim_create(&(td_optim_config){.rule = "sdg"}, slots, 3, N, &o));
    assert_fails(TD_ERR_ARG, "lr must be above 0",
                 td_optim_create(&(td_optim_config){.lr = -1}, slots, 3, N, &o));
    assert_fails(TD_ERR_ARG, "momentum",
                 td_optim_create(&(td_optim_config){.momentum = 1.5}, slots, 3, N, &o));
    assert_fails(TD_ERR_ARG, "needs the number of steps",
                 td_optim_create(&(td_optim_config){.schedule = "cosine"}, slots, 3, N, &o));
}

/* A batch whose samples all weigh nothing has no statistics to average in. */
static void a_step_of_no_weight_leaves_statistics_alone(void **state)
{
    (void)state;
    td_optim_config c = {0};
    td_optim *optim;
    float p[N], g[N] = {0};
    for (int i = 0; i < N; i++) p[i] = (float)i;
    assert_ok(td_optim_create(&c, slots, 3, N, &optim));
    td_optim_step(optim, 0, g, 0, p);
    for (int i = 0; i < N; i++) assert_true(p[i] == (float)i);
    td_optim_destroy(optim);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_follow_their_formulas),
        cmocka_unit_test(clipping_scales_the_whole_gradient),
        cmocka_unit_test(schedules_pass_through_their_known_points),
        cmocka_unit_test(wrong_settings_are_named),
        cmocka_unit_test(a_step_of_no_weight_leaves_statistics_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
