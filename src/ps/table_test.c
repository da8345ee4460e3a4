/* Tables against plain arrays, and update rules against their formulas. */
#include "ps/table.h"

#include "base/error.h"
#include "base/rng.h"
#include "base/test.h"

#include <math.h>
#include <stdlib.h>

static td_table *make(td_table_config c)
{
    td_table *t;
    if (c.lr == 0) c.lr = 0.1f;
    if (c.width == 0) c.width = 3;
    assert_ok(td_table_create(&c, &t));
    return t;
}

static const td_table_step plain = {.scale = 1, .rate_factor = 1, .decay = 1};

static void rows_begin_alike_wherever_they_are_made(void **state)
{
    (void)state;
    enum { N = 5000, W = 7 };
    td_table_config c = {.width = W,
                         .init = TD_TABLE_UNIFORM,
                         .scale = .5f,
                         .seed = 9,
                         .number = 2};
    td_table *a = make(c), *b = make(c);
    c.number = 3;
    td_table *other = make(c);
    uint64_t *key = malloc(N * sizeof *key), *back = malloc(N * sizeof *back);
    float *x = malloc(N * W * sizeof *x), *y = malloc(N * W * sizeof *y);
    for (uint64_t i = 0; i < N; i++) key[i] = back[N - 1 - i] = i * i * 0x9e3779b97f4a7c15;
    key[7] = back[N - 8] = UINT64_MAX;
    assert_ok(td_table_pull(a, key, N, x));
    for (size_t at = 0; at < N; at += 13)
        assert_ok(td_table_pull(b, back + at, N - at < 13 ? N - at : 13, y + at * W));
    for (size_t i = 0; i < N; i++)
        assert_memory_equal(x + i * W, y + (N - 1 - i) * W, W * sizeof *x);
    assert_int_equal(td_table_rows(a), N);
    float least = 1, most = -1;
    for (size_t i = 0; i < N * W; i++) least = fminf(least, x[i]), most = fmaxf(most, x[i]);
    assert_true(least >= -.5f && least < -.49f && most < .5f && most > .49f);
    assert_ok(td_table_pull(other, key, N, y));
    assert_true(memcmp(x, y, N * W * sizeof *x) != 0);
    td_table_destroy(a), td_table_destroy(b), td_table_destroy(other);
    free(key), free(back), free(x), free(y);
}

static void rows_that_are_there_are_found(void **state)
{
    (void)state;
    enum { N = 300 };
    td_table *t = make((td_table_config){.width = 2, .lr = 1, .admit = 2, .rule = "momentum"});
    uint64_t keys[N];
    struct {
        float weights[2];
        uint32_t there;
    } found[N];
    for (uint64_t k = 0; k < N; k++) {
        float g[2] = {-(float)k, 1};
        keys[k] = k;
        for (int turn = 0; turn < 1 + (k % 2 == 0); turn++)
            if (k % 5) assert_ok(td_table_push(t, &k, 1, g, plain));
    }
    assert_ok(td_table_find(t, keys, N, found));
    for (uint64_t k = 0; k < N; k++) { /* odd ones were seen once, fifth ones never */
        bool there = k % 2 == 0 && k % 5;
        assert_int_equal(found[k].there, there);
        assert_true(found[k].weights[0] == (there ? (float)k : 0));
    }
    assert_int_equal(td_table_rows(t), N / 2 - N / 10);
    td_table_destroy(t);
}

/* Every third row of a longer batch: the others stay as they are. */
static void some_of_a_batch_have_their_places(void **state)
{
    (void)state;
    enum { N = 1003, W = 5, ALL = 3 * N };
    td_table_config c = {.width = W, .init = TD_TABLE_UNIFORM, .scale = 1, .rule = "adagrad"};
    td_table *a = make(c), *b = make(c);
    uint64_t *key = malloc(N * sizeof *key);
    uint32_t *place = malloc(N * sizeof *place);
    float *x = malloc(N * W * sizeof *x), *y = malloc(ALL * W * sizeof *y);
    for (uint32_t i = 0; i < N; i++) key[i] = i * 0x9e3779b97f4a7c15, place[i] = 3 * i + i % 3;
    for (int turn = 0; turn < 6; turn++) {
        for (size_t k = 0; k < ALL * W; k++) y[k] = 1000;
        for (size_t i = 0; i < N * W; i++)
            x[i] = y[place[i / W] * W + i % W] = (float)((i * 7 + (size_t)turn) % 11) - 5;
        if (turn % 3 == 0) { /* rows that are not there, and rows that are */
            assert_ok(td_table_push(a, key, N, x, plain));
            assert_ok(td_table_push_at(b, key, place, N, y, plain));
        }
        assert_ok(turn % 3 == 1 ? td_table_peek(a, key, N, x) : td_table_pull(a, key, N, x));
        td_status status = turn % 3 == 0   ? td_table_pull_at(b, key, place, N, y)
                           : turn % 3 == 1 ? td_table_peek_at(b, key, place, N, y)
                                           : td_table_read_at(b, key, place, N, y);
        assert_ok(status);
        size_t same = 0;
        for (size_t k = 0; k < ALL; k++) {
            bool its = place[k / 3] == k;
            for (size_t w = 0; w < W && !its; w++) assert_true(y[k * W + w] == 1000);
            if (its) assert_memory_equal(x + k / 3 * W, y + k * W, W * sizeof *x);
            same += its;
        }
        assert_int_equal(same, N);
    }
    td_table_destroy(a), td_table_destroy(b);
    free(key), free(place), free(x), free(y);
}

static void reads_alone_are_hits_or_misses(void **state)
{
    (void)state;
    enum { N = 100 };
    td_table *t = make((td_table_config){.width = 2, .lr = 1});
    uint64_t keys[N];
    float x[2 * N] = {0};
    td_table_stats s;
    for (uint64_t k = 0; k < N; k++) keys[k] = k * k;
    assert_ok(td_table_read(t, keys, N, x));            /* none is there */
    assert_ok(td_table_pull(t, keys, N / 2, x));        /* nor here: half are made, */
    assert_ok(td_table_push(t, keys, N / 2, x, plain)); /* moved, */
    assert_ok(td_table_peek(t, keys, N, x));
    assert_ok(td_table_pull(t, keys, N / 2, x)); /* and found, */
    assert_ok(td_table_read(t, keys, N, x));     /* of all, too */
    td_table_measure(t, &s);
    assert_int_equal(s.hits, N / 2 + N / 2);
    assert_int_equal(s.misses, N + N / 2 + N / 2);
    td_table_destroy(t);
}

/* A weight after gradients g[0..n), in double precision. */
static double after(const char *rule, const td_table_config *c, const float *g, int n)
{
    double p = 0, s = 0, z = 0;
    for (int k = 0; k < n; k++) {
        double d = g[k] * 0.5 + (strcmp(rule, "ftrl") ? c->weight_decay * p : 0), lr = c->lr;
        if (!strcmp(rule, "sgd")) p -= lr * d;
        if (!strcmp(rule, "momentum")) s = .8 * s + d, p -= lr * s;
        if (!strcmp(rule, "adagrad")) s += d * d, p -= lr * d / (sqrt(s) + 1e-10);
        if (!strcmp(rule, "adam")) {
            z = .9 * z + .1 * d, s = .999 * s + .001 * d * d;
            p -= lr * z / (1 - pow(.9, k + 1)) / (sqrt(s / (1 - pow(.999, k + 1))) + 1e-8);
        }
        if (!strcmp(rule, "ftrl")) {
            z += d - (sqrt(s + d * d) - sqrt(s)) / lr * p, s += d * d;
            p = fabs(z) <= c->l1 ? 0 : -(z - copysign(c->l1, z)) / ((1 + sqrt(s)) / lr + c->l2);
        }
    }
    return p;
}

/* parts: some weights of the row decay, with those at its end and others before and behind it. */
static void assert_formulas(bool parts)
{
    enum { STEPS = 9, W = 19, KEY = 77, AT = KEY * W };
    static const td_table_span spans[] = {{3, 40},
                                          {AT - 5, AT - 1},
                                          {AT + 2, AT + 3},
                                          {AT + 7, AT + 12},
                                          {AT + 18, AT + 50}};
    for (int r = 0; td_table_rule_names[r]; r++) {
        td_table_config c = {.width = W,
                             .rule = td_table_rule_names[r],
                             .lr = .2f,
                             .momentum = .8f,
                             .l1 = .3f,
                             .l2 = .1f,
                             .weight_decay = .01f,
                             .spans = parts ? spans : NULL,
                             .span_count = sizeof spans / sizeof *spans};
        td_table *t = make(c);
        float g[STEPS][W], out[W], column[STEPS];
        uint64_t key = KEY;
        int zeros = 0;
        for (int k = 0; k < STEPS; k++) {
            for (int i = 0; i < W; i++) g[k][i] = (float)((i * 7 + k * 5) % 11 - 5) / 8;
            assert_ok(td_table_push(t, &key, 1, g[k],
                                    (td_table_step){.step = (uint64_t)k,
                                                    .scale = .5f,
                                                    .rate_factor = 1,
                                                    .decay = 1}));
        }
        assert_ok(td_table_pull(t, &key, 1, out));
        for (int i = 0; i < W; i++) {
            for (int k = 0; k < STEPS; k++) column[k] = g[k][i];
            bool decays = !parts || i == 2 || (i >= 7 && i < 12) || i == 18;
            c.weight_decay = decays ? .01f : 0;
            double want = after(c.rule, &c, column, STEPS);
            zeros += out[i] == 0;
            if (fabs(out[i] - want) > 2e-6)
                fail_msg("%s: weight %d: %g, %g wanted", c.rule, i, (double)out[i], want);
        }
        assert_true(!strcmp(c.rule, "ftrl") ? zeros > 0 && zeros < W : zeros < 3);
        td_table_destroy(t);
    }
}

static void rules_are_their_formulas(void **state)
{
    (void)state;
    assert_formulas(false);
    assert_formulas(true);
}

static void keys_that_are_alike_are_moved_in_turn(void **state)
{
    (void)state;
    td_table *a = make((td_table_config){.rule = "adagrad"}),
             *b = make((td_table_config){.rule = "adagrad"});
    const uint64_t keys[] = {5, 6, 5, 5};
    const float g[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, -1, -2, -3};
    float x[6], y[6];
    assert_ok(td_table_push(a, keys, 4, g, plain));
    for (int k = 0; k < 4; k++) assert_ok(td_table_push(b, keys + k, 1, g + 3 * k, plain));
    assert_ok(td_table_pull(a, keys, 2, x));
    assert_ok(td_table_pull(b, keys, 2, y));
    assert_memory_equal(x, y, sizeof x);
    td_table_destroy(a), td_table_destroy(b);
}

/* --- random pushes, pulls, evictions, beside plain arrays --- */

enum { KEYS = 900, ADMIT = 3 };

typedef struct mirror {
    int seen[KEYS];
    uint32_t used[KEYS];
    float weight[KEYS];
    size_t rows;
} mirror;

static uint64_t key_of(uint32_t k)
{
    return k == 0 ? 0 : k == 1 ? UINT64_MAX : (uint64_t)k << 40;
}

static bool sees(mirror *m, uint32_t k, uint32_t now)
{
    m->used[k] = now;
    if (++m->seen[k] == ADMIT) m->rows++;
    return m->seen[k] >= ADMIT;
}

static td_status compare_row(void *arg, uint64_t key, const float *row)
{
    const mirror *m = arg;
    uint32_t k = 0;
    while (key_of(k) != key) k++;
    assert_true(m->seen[k] >= ADMIT && m->weight[k] == row[0]);
    return TD_OK;
}

static void evict(td_table *t, mirror *m, uint32_t least)
{
    size_t gone = 0;
    for (int k = 0; k < KEYS; k++) {
        if (m->used[k] >= least) continue;
        gone += m->seen[k] >= ADMIT;
        m->seen[k] = 0, m->weight[k] = 0;
    }
    m->rows -= gone;
    assert_int_equal(td_table_evict(t, least), gone);
}

static void admission_and_eviction_against_arrays(void **state)
{
    (void)state;
    static mirror m;
    memset(&m, 0, sizeof m);
    td_table *t = make((td_table_config){.width = 1, .lr = 1, .admit = ADMIT});
    td_rng rng;
    td_rng_init(&rng, 4, TD_RNG_TEST, 0, 0);
    for (uint32_t now = 1; now < 4000; now++) {
        uint64_t keys[40];
        uint32_t k[40], n = td_rng_below(&rng, 40), range = now % 700 < 350 ? KEYS : 60;
        float g[40], got[40];
        td_table_set_clock(t, now);
        for (uint32_t i = 0; i < n; i++) {
            k[i] = td_rng_below(&rng, range), keys[i] = key_of(k[i]);
            g[i] = (float)td_rng_below(&rng, 9);
        }
        if (now % 2) {
            assert_ok(td_table_push(t, keys, n, g, plain));
            for (uint32_t i = 0; i < n; i++)
                if (sees(&m, k[i], now)) m.weight[k[i]] -= g[i];
        } else {
            assert_ok(td_table_pull(t, keys, n, got));
            for (uint32_t i = 0; i < n; i++) assert_true(got[i] == m.weight[k[i]]);
        }
        if (now % 97 == 0) evict(t, &m, now - 50);
        if (now % 977 == 0) evict(t, &m, now + 1);
        assert_int_equal(td_table_rows(t), m.rows);
    }
    assert_true(m.rows > 10);
    assert_ok(td_table_each(t, compare_row, &m));
    td_table_destroy(t);
}

static td_status put_into(void *arg, uint64_t key, const float *row)
{
    return td_table_put(arg, key, row);
}

static void whole_rows_move_to_another_table(void **state)
{
    (void)state;
    td_table_config c = {.rule = "adam",
                         .width = 5,
                         .init = TD_TABLE_NORMAL,
                         .scale = 1,
                         .seed = 1};
    td_table *a = make(c), *b = make(c);
    assert_int_equal(td_table_row_floats(a), 15);
    uint64_t keys[100];
    float g[500], x[500], y[500];
    for (int i = 0; i < 100; i++) keys[i] = (uint64_t)i * 3;
    for (int i = 0; i < 500; i++) g[i] = (float)(i % 17) - 8;
    assert_ok(td_table_push(a, keys, 100, g, plain));
    assert_ok(td_table_push(b, keys + 40, 2, g, plain)); /* to be replaced */
    assert_ok(td_table_each(a, put_into, b));
    for (uint64_t step = 1; step < 3; step++) {
        td_table_step s = {.step = step, .scale = 1, .rate_factor = .5f, .decay = 1};
        assert_ok(td_table_push(a, keys, 100, g, s));
        assert_ok(td_table_push(b, keys, 100, g, s));
    }
    assert_ok(td_table_pull(a, keys, 100, x));
    assert_ok(td_table_pull(b, keys, 100, y));
    assert_memory_equal(x, y, sizeof x);
    assert_int_equal(td_table_rows(b), 100);
    assert_true(td_table_bytes(b) >= 100 * 15 * sizeof(float));
    td_table_destroy(a), td_table_destroy(b);
}

static td_status attempt(void *arg)
{
    td_table *t = NULL;
    td_table_config c = {.width = 30000, .lr = 1};
    float *room = arg;
    uint64_t keys[80];
    TD_TRY(td_table_create(&c, &t));
    for (uint64_t i = 0; i < 80; i++) keys[i] = i;
    td_status status = td_table_pull(t, keys, 80, room);
    td_table_destroy(t);
    return status;
}

static void it_says_when_there_is_no_memory(void **state)
{
    (void)state;
    float *room = malloc(80 * 30000 * sizeof *room);
    assert_survives_no_memory(attempt, room);
    free(room);
}

static void mistakes_have_a_sentence(void **state)
{
    (void)state;
    td_table *t;
    const struct {
        td_table_config c;
        const char *says;
    } wrong[] = {
        {{.width = 0, .lr = 1}, "1 to 65536 weights, not 0"},
        {{.width = 70000, .lr = 1}, "1 to 65536 weights, not 70000"},
        {{.width = 1}, "lr must be above 0, not 0"},
        {{.width = 1, .lr = NAN}, "lr must be above 0"},
        {{.width = 1, .lr = 1, .rule = "ada"}, "no update rule of tables is called \"ada\""},
        {{.width = 1, .lr = 1, .l1 = -1}, "must not be negative"},
        {{.width = 1, .lr = 1, .beta2 = 1}, "between 0 and 1"},
        {{.width = 1, .lr = 1, .admit = 1u << 31}, "less than 2^31"},
    };
    for (size_t k = 0; k < sizeof wrong / sizeof *wrong; k++)
        assert_fails(TD_ERR_ARG, wrong[k].says, td_table_create(&wrong[k].c, &t));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_begin_alike_wherever_they_are_made),
        cmocka_unit_test(rows_that_are_there_are_found),
        cmocka_unit_test(some_of_a_batch_have_their_places),
        cmocka_unit_test(reads_alone_are_hits_or_misses),
        cmocka_unit_test(rules_are_their_formulas),
        cmocka_unit_test(keys_that_are_alike_are_moved_in_turn),
        cmocka_unit_test(admission_and_eviction_against_arrays),
        cmocka_unit_test(whole_rows_move_to_another_table),
        cmocka_unit_test(it_says_when_there_is_no_memory),
        cmocka_unit_test(mistakes_have_a_sentence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
