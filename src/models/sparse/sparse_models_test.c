/* Sparse models against a reference in double that knows nothing but the definitions in
 * sparse_models.h: scores by all pairs, totals, and gradients by finite differences. */
#include "models/sparse/sparse_models.h"

#include "base/error.h"
#include "base/rng.h"
#include "base/test.h"

#include <math.h>
#include <stdlib.h>

enum { KEYS = 11, SKIP = 3 /* entries before the first sample's */ };

/* A leaf of random samples and a model for it. */
typedef struct problem {
    td_sparse_model_config config;
    td_sparse_model *model;
    td_sparse_oracle oracle;
    size_t rows, entries;
    size_t *start;
    uint32_t *place, *sum;
    float *value, *numbers, *target, *weight, *table, *params;
    uint16_t *field;
} problem;

static void *make(size_t count, size_t bytes)
{
    void *memory = calloc(count ? count : 1, bytes);
    assert_non_null(memory);
    return memory;
}

static float within(td_rng *rng, float most)
{
    return (2 * td_rng_unit(rng) - 1) * most;
}

/* Samples have 0 to `most` entries; keys and fields repeat. */
static problem make_problem(td_sparse_model_config config, size_t rows, size_t most, uint64_t seed)
{
    problem p = {.config = config, .rows = rows};
    assert_ok(td_sparse_model_create(&config, &p.model));
    p.oracle = td_sparse_model_oracle(p.model);
    td_rng rng;
    td_rng_init(&rng, seed, TD_RNG_TEST, 0, 0);
    p.start = make(rows + 1, sizeof *p.start);
    p.start[0] = SKIP;
    for (size_t r = 0; r < rows; r++)
        p.start[r + 1] = p.start[r] + (r % 5 == 3 ? 0 : td_rng_below(&rng, (uint32_t)most + 1));
    p.entries = p.start[rows];
    p.place = make(p.entries, sizeof *p.place);
    p.sum = make(p.entries, sizeof *p.sum);
    p.value = make(p.entries, sizeof *p.value);
    p.field = make(p.entries, sizeof *p.field);
    for (size_t e = 0; e < p.entries; e++) {
        p.place[e] = td_rng_below(&rng, KEYS);
        p.sum[e] = (p.place[e] * 7 + 3) % KEYS;
        p.value[e] = td_rng_below(&rng, 3) ? 1 : within(&rng, 2);
        p.field[e] = (uint16_t)td_rng_below(&rng, (uint32_t)(config.fields ? config.fields : 9));
    }
    p.table = make(KEYS * p.oracle.width, sizeof *p.table);
    for (size_t i = 0; i < KEYS * p.oracle.width; i++) p.table[i] = within(&rng, 0.7f);
    p.numbers = make(rows * p.oracle.numbers, sizeof *p.numbers);
    for (size_t i = 0; i < rows * p.oracle.numbers; i++) p.numbers[i] = within(&rng, 1);
    p.params = make(p.oracle.params, sizeof *p.params);
    td_sparse_model_init(p.model, seed, p.params);
    p.target = make(rows, sizeof *p.target);
    p.weight = make(rows, sizeof *p.weight);
    for (size_t r = 0; r < rows; r++) {
        uint32_t class = td_rng_below(&rng, config.loss == TD_LOSS_SOFTMAX   ? 3
                                            : config.loss == TD_LOSS_POISSON ? 5
                                                                             : 2);
        p.target[r] = config.loss == TD_LOSS_SQUARED ? within(&rng, 2) : (float)class;
        p.weight[r] = (float)td_rng_below(&rng, 4) / 2;
    }
    return p;
}

static void free_problem(problem *p)
{
    td_sparse_model_destroy(p->model);
    free(p->start), free(p->place), free(p->sum), free(p->value), free(p->field);
    free(p->table), free(p->numbers), free(p->params), free(p->target), free(p->weight);
}

static td_sparse_leaf leaf_of(const problem *p)
{
    return (td_sparse_leaf){
        .rows = p->rows,
        .start = p->start,
        .place = p->place,
        .sum = p->sum,
        .value = p->value,
        .field = p->field,
        .numbers = p->numbers,
        .target = p->target,
        .weight = p->weight,
        .table = p->table,
        .params = p->params,
    };
}

/* ---- the reference ---- */

static void linear_score(const problem *p, size_t row, const double *table, double *score)
{
    for (size_t o = 0; o < p->oracle.outputs; o++) score[o] = 0;
    for (size_t e = p->start[row]; e < p->start[row + 1]; e++)
        for (size_t o = 0; o < p->oracle.outputs; o++)
            score[o] += table[p->place[e] * p->oracle.width + o] * p->value[e];
}

static double pairs_score(const problem *p, size_t row, const double *table, bool fields)
{
    size_t width = p->oracle.width, k = p->config.factors;
    double score = 0;
    for (size_t i = p->start[row]; i < p->start[row + 1]; i++) {
        const double *a = table + p->place[i] * width;
        score += a[0] * p->value[i];
        for (size_t j = p->start[row]; j < i; j++) {
            const double *b = table + p->place[j] * width;
            size_t in_a = fields ? p->field[j] * k : 0, in_b = fields ? p->field[i] * k : 0;
            for (size_t f = 0; f < k; f++)
                score += a[1 + in_a + f] * b[1 + in_b + f] * p->value[i] * p->value[j];
        }
    }
    return score;
}

static const td_slot *slot_of(const problem *p, const char *network, int layer, const char *what)
{
    char name[TD_SLOT_NAME];
    snprintf(name, sizeof name, "%s.%d.%s", network, layer, what);
    for (size_t s = 0; s < p->oracle.slot_count; s++)
        if (!strcmp(p->oracle.slots[s].name, name)) return &p->oracle.slots[s];
    return NULL;
}

/* x becomes the network's output. */
static void network(const problem *p, const char *name, const double *params, double *x)
{
    const td_slot *w, *b;
    for (int l = 0; (w = slot_of(p, name, l, "weight")); l++) {
        double y[512];
        b = slot_of(p, name, l, "bias");
        bool linear = !strcmp(name, "top") && !slot_of(p, name, l + 1, "weight");
        for (size_t o = 0; o < w->shape[0]; o++) {
            y[o] = params[b->offset + o];
            for (size_t i = 0; i < w->shape[1]; i++)
                y[o] += params[w->offset + o * w->shape[1] + i] * x[i];
            if (!linear && y[o] < 0) y[o] = 0;
        }
        memcpy(x, y, w->shape[0] * sizeof *x);
    }
}

static double dlrm_score(const problem *p, size_t row, const double *table, const double *params)
{
    size_t d = p->config.factors, numbers = p->config.numbers, vectors = 0, n = 0;
    double z[32][16], t[512] = {0}; /* d <= 16 */
    if (numbers) {
        for (size_t i = 0; i < numbers; i++) t[i] = p->numbers[row * numbers + i];
        network(p, "bottom", params, t);
        memcpy(z[vectors++], t, d * sizeof *t);
        n = d;
    }
    for (size_t f = 0; f < p->config.fields; f++, vectors++) {
        memset(z[vectors], 0, sizeof z[vectors]);
        for (size_t e = p->start[row]; e < p->start[row + 1]; e++)
            for (size_t i = 0; p->field[e] == f && i < d; i++)
                z[vectors][i] += table[p->place[e] * d + i] * p->value[e];
    }
    for (size_t a = 0; a < vectors; a++)
        for (size_t b = 0; b < a; b++) {
            t[n] = 0;
            for (size_t i = 0; i < d; i++) t[n] += z[a][i] * z[b][i];
            n++;
        }
    network(p, "top", params, t);
    return t[0];
}

static void reference_score(const problem *p, size_t row, const double *table, const double *params,
                            double *score)
{
    const char *kind = p->config.kind;
    if (!strcmp(kind, "linear"))
        linear_score(p, row, table, score);
    else if (!strcmp(kind, "dlrm"))
        *score = dlrm_score(p, row, table, params);
    else
        *score = pairs_score(p, row, table, !strcmp(kind, "ffm"));
}

static double reference_loss(td_loss loss, size_t outputs, const double *x, double target)
{
    double sum = 0, sign = target > 0.5 ? 1 : -1;
    switch (loss) {
    case TD_LOSS_SOFTMAX:
        for (size_t o = 0; o < outputs; o++) sum += exp(x[o]);
        return log(sum) - x[(size_t)target];
    case TD_LOSS_SQUARED: return (*x - target) * (*x - target);
    case TD_LOSS_BINARY: return log1p(exp(-sign * *x));
    case TD_LOSS_HINGE: return fmax(0, 1 - sign * *x);
    case TD_LOSS_POISSON: return exp(*x) - target * *x;
    }
    return NAN;
}

static double reference_total(const problem *p, const double *table, const double *params)
{
    double total = 0;
    for (size_t r = 0; r < p->rows; r++) {
        double score[8];
        reference_score(p, r, table, params, score);
        total +=
            p->weight[r] * reference_loss(p->config.loss, p->oracle.outputs, score, p->target[r]);
    }
    return total;
}

/* d total / d *x by central differences. */
static double slope(const problem *p, const double *table, const double *params, double *x)
{
    const double h = 1e-6, was = *x;
    *x = was + h;
    double up = reference_total(p, table, params);
    *x = was - h;
    double down = reference_total(p, table, params);
    *x = was;
    return (up - down) / (2 * h);
}

static double *doubles(size_t n, const float *from)
{
    double *to = make(n, sizeof *to);
    for (size_t i = 0; i < n; i++) to[i] = (double)from[i];
    return to;
}

static void assert_near(double is, double want, const char *what, size_t i)
{
    if (!(fabs(is - want) <= 2e-5 * (1 + fabs(want))))
        fail_msg("%s %zu: %.9g, expected %.9g", what, i, is, want);
}

/* Scores, totals and, of every `stride`-th parameter, the gradient. */
static void check(const problem *p, size_t stride)
{
    size_t width = p->oracle.width, outputs = p->oracle.outputs;
    float *gradient = make(KEYS * width, sizeof *gradient),
          *dense = make(p->oracle.params, sizeof *dense),
          *score = make(p->rows * outputs, sizeof *score);
    double totals[TD_LEAF_VALUES], weights = 0, right = 0;
    double *table = doubles(KEYS * width, p->table), *params = doubles(p->oracle.params, p->params);
    td_sparse_leaf leaf = leaf_of(p);
    leaf.gradient = gradient, leaf.dense_gradient = dense, leaf.score = score, leaf.totals = totals;
    assert_ok(p->oracle.leaf(p->oracle.self, 0, &leaf));
    if (getenv("TANDEM_TEST_SHORT")) stride *= 7; /* sanitizers look at the code, not the answer */
    for (size_t r = 0; r < p->rows; r++) {
        double want[8];
        size_t best = 0;
        reference_score(p, r, table, params, want);
        for (size_t o = 0; o < outputs; o++) {
            assert_near((double)score[r * outputs + o], want[o], "score", r * outputs + o);
            if (want[o] > want[best]) best = o;
        }
        weights += p->weight[r];
        bool correct = p->config.loss == TD_LOSS_SOFTMAX ? (float)best == p->target[r]
                                                         : (want[0] > 0) == (p->target[r] > 0.5f);
        if (correct) right += p->weight[r];
    }
    assert_near(totals[TD_LEAF_LOSS], reference_total(p, table, params), "loss", 0);
    assert_true(totals[TD_LEAF_WEIGHT] == weights);
    if (td_loss_has_classes(p->config.loss)) assert_true(totals[TD_LEAF_CORRECT] == right);
    for (size_t i = 0; i < KEYS * width; i += stride) {
        size_t sum = (i / width * 7 + 3) % KEYS;
        assert_near((double)gradient[sum * width + i % width], slope(p, table, params, &table[i]),
                    "gradient", i);
    }
    for (size_t i = 0; i < p->oracle.params; i += stride)
        assert_near((double)dense[i], slope(p, table, params, &params[i]), "dense gradient", i);
    free(gradient), free(dense), free(score), free(table), free(params);
}

static void check_losses(td_sparse_model_config config, size_t most, size_t stride)
{
    static const td_loss losses[] = {TD_LOSS_SQUARED, TD_LOSS_BINARY, TD_LOSS_HINGE,
                                     TD_LOSS_POISSON};
    for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
        config.loss = losses[i];
        problem p = make_problem(config, 13, most, 5 + i);
        check(&p, stride);
        free_problem(&p);
    }
}

static void test_linear(void **state)
{
    (void)state;
    check_losses((td_sparse_model_config){.kind = "linear"}, 7, 1);
    problem p = make_problem((td_sparse_model_config){.kind = "linear",
                                                      .loss = TD_LOSS_SOFTMAX,
                                                      .classes = 3},
                             13, 7, 2);
    assert_int_equal(p.oracle.width, 3);
    check(&p, 1);
    free_problem(&p);
}

static void test_fm(void **state)
{
    (void)state;
    for (size_t k = 1; k <= 16; k += k < 5 ? 1 : 3)
        check_losses((td_sparse_model_config){.kind = "fm", .factors = k}, 7, 1);
}

static void test_ffm(void **state)
{
    (void)state;
    for (size_t k = 1; k <= 16; k += k < 5 ? 1 : 3)
        check_losses((td_sparse_model_config){.kind = "ffm", .factors = k, .fields = 3}, 7, 2);
}

static void test_dlrm(void **state)
{
    (void)state;
    check_losses((td_sparse_model_config){.kind = "dlrm",
                                          .factors = 5,
                                          .fields = 3,
                                          .numbers = 4,
                                          .bottom = "7-5",
                                          .top = "6-3-1"},
                 7, 1);
    check_losses((td_sparse_model_config){.kind = "dlrm", .factors = 3, .fields = 4, .top = "5-1"},
                 7, 1); /* without numbers */
    check_losses((td_sparse_model_config){.kind = "dlrm",
                                          .factors = 4,
                                          .numbers = 6,
                                          .fields = 1,
                                          .bottom = "4",
                                          .top = "1"},
                 2, 1);
    check_losses((td_sparse_model_config){.kind = "dlrm",
                                          .factors = 16,
                                          .fields = 26,
                                          .numbers = 13},
                 30, 97);
}

/* A long leaf is the sum of its samples, each a leaf of its own; a lane does not matter, and scores
 * alone are the same scores. */
static void check_sum(td_sparse_model_config config)
{
    config.loss = TD_LOSS_BINARY;
    config.lanes = 2;
    problem p = make_problem(config, 300, 6, 7);
    size_t n = KEYS * p.oracle.width;
    float *whole = make(n, sizeof *whole), *again = make(n, sizeof *again),
          *parts = make(n, sizeof *parts), *score = make(p.rows, sizeof *score),
          *one = make(p.rows, sizeof *one);
    float *dense[3];
    double totals[3][TD_LEAF_VALUES], sum[TD_LEAF_VALUES] = {0};
    for (int i = 0; i < 3; i++) dense[i] = make(p.oracle.params, sizeof **dense);
    td_sparse_leaf leaf = leaf_of(&p);
    leaf.gradient = whole, leaf.dense_gradient = dense[0], leaf.totals = totals[0];
    leaf.score = score;
    assert_ok(p.oracle.leaf(p.oracle.self, 0, &leaf));
    leaf.gradient = again, leaf.dense_gradient = dense[1], leaf.totals = totals[1];
    assert_ok(p.oracle.leaf(p.oracle.self, 1, &leaf));
    assert_memory_equal(whole, again, n * sizeof *whole);
    assert_memory_equal(dense[0], dense[1], p.oracle.params * sizeof **dense);
    assert_memory_equal(totals[0], totals[1], sizeof totals[0]);
    for (size_t r = 0; r < p.rows; r++) {
        td_sparse_leaf single = leaf_of(&p);
        single.rows = 1;
        single.start += r, single.target += r, single.weight += r;
        single.numbers += r * p.oracle.numbers;
        single.gradient = parts, single.dense_gradient = dense[2], single.totals = totals[2];
        assert_ok(p.oracle.leaf(p.oracle.self, 1, &single));
        for (int v = 0; v < TD_LEAF_VALUES; v++) sum[v] += totals[2][v];
    }
    for (size_t i = 0; i < n; i++) assert_near((double)whole[i], (double)parts[i], "sum", i);
    for (size_t i = 0; i < p.oracle.params; i++)
        assert_near((double)dense[0][i], (double)dense[2][i], "dense sum", i);
    for (int v = 0; v < TD_LEAF_VALUES; v++) assert_near(totals[0][v], sum[v], "total", (size_t)v);
    leaf = leaf_of(&p);
    leaf.score = one, leaf.totals = totals[1], leaf.sum = NULL;
    assert_ok(p.oracle.leaf(p.oracle.self, 0, &leaf));
    assert_memory_equal(score, one, p.rows * sizeof *score);
    assert_memory_equal(totals[0], totals[1], sizeof totals[0]);
    memset(one, 0, p.rows * sizeof *one);
    leaf.target = NULL;
    assert_ok(p.oracle.leaf(p.oracle.self, 0, &leaf));
    assert_memory_equal(score, one, p.rows * sizeof *score);
    assert_true(totals[1][TD_LEAF_LOSS] == 0 && totals[1][TD_LEAF_WEIGHT] == 0);
    for (int i = 0; i < 3; i++) free(dense[i]);
    free(whole), free(again), free(parts), free(score), free(one);
    free_problem(&p);
}

static void test_sums(void **state)
{
    (void)state;
    check_sum((td_sparse_model_config){.kind = "linear"});
    check_sum((td_sparse_model_config){.kind = "fm", .factors = 8});
    check_sum((td_sparse_model_config){.kind = "ffm", .factors = 4, .fields = 5});
    check_sum((td_sparse_model_config){.kind = "dlrm",
                                       .factors = 16,
                                       .fields = 5,
                                       .numbers = 3,
                                       .bottom = "9-16",
                                       .top = "8-1"});
}

/* A key that a sample has twice is two entries: for a linear model as good as their sum. */
static void test_repeated_keys(void **state)
{
    (void)state;
    td_sparse_model *model;
    td_sparse_model_config config = {.kind = "fm", .loss = TD_LOSS_SQUARED, .factors = 1};
    assert_ok(td_sparse_model_create(&config, &model));
    td_sparse_oracle oracle = td_sparse_model_oracle(model);
    float table[] = {3, 5}, gradient[2] = {0}, score, target[] = {0};
    double totals[TD_LEAF_VALUES];
    td_sparse_leaf leaf = {.rows = 1,
                           .start = (size_t[]){0, 2},
                           .place = (uint32_t[]){0, 0},
                           .sum = (uint32_t[]){0, 0},
                           .value = (float[]){1, 2},
                           .target = target,
                           .table = table,
                           .gradient = gradient,
                           .score = &score,
                           .totals = totals};
    assert_ok(oracle.leaf(oracle.self, 0, &leaf));
    assert_true(score == 3 * 3 + 25 * 2);
    assert_true(gradient[0] == 2 * score * 3); /* d/dw */
    assert_true(gradient[1] == 2 * score * 2 * 5 * 2);
    td_sparse_model_destroy(model);
}

static void test_slots(void **state)
{
    (void)state;
    td_sparse_model *model;
    td_sparse_model_config config = {.kind = "dlrm",
                                     .fields = 26,
                                     .numbers = 13,
                                     .loss = TD_LOSS_BINARY};
    assert_ok(td_sparse_model_create(&config, &model));
    td_sparse_oracle oracle = td_sparse_model_oracle(model);
    static const struct {
        const char *name;
        size_t rows, columns;
    } want[] = {
        {"bottom.0.weight", 64, 13}, {"bottom.0.bias", 64, 0},   {"bottom.1.weight", 16, 64},
        {"bottom.1.bias", 16, 0},    {"top.0.weight", 128, 367}, {"top.0.bias", 128, 0},
        {"top.1.weight", 64, 128},   {"top.1.bias", 64, 0},      {"top.2.weight", 1, 64},
        {"top.2.bias", 1, 0},
    };
    assert_int_equal(oracle.slot_count, 10);
    size_t end = 0;
    float *params = make(oracle.params, sizeof *params),
          *other = make(oracle.params, sizeof *other);
    td_sparse_model_init(model, 3, params);
    td_sparse_model_init(model, 4, other);
    for (size_t s = 0; s < 10; s++) {
        const td_slot *slot = &oracle.slots[s];
        assert_string_equal(slot->name, want[s].name);
        assert_int_equal(slot->shape[0], want[s].rows);
        assert_int_equal(slot->rank == 2 ? slot->shape[1] : 0, want[s].columns);
        assert_true(slot->offset % 16 == 0 && slot->offset >= end);
        end = slot->offset + slot->count;
        float most = 0, spread = 1 / sqrtf((float)slot->fan_in);
        for (size_t i = 0; i < slot->count; i++)
            most = fmaxf(most, fabsf(params[slot->offset + i]));
        assert_true(most <= spread && (slot->count < 64 || most > 0.9f * spread));
        assert_true(params[slot->offset] != other[slot->offset]);
    }
    assert_true(end <= oracle.params);
    free(params), free(other);
    td_sparse_model_destroy(model);
}

static td_status attempt_create(void *arg)
{
    td_sparse_model *model;
    TD_TRY(td_sparse_model_create(arg, &model));
    td_sparse_model_destroy(model);
    return TD_OK;
}

static void test_mistakes(void **state)
{
    (void)state;
    static const struct {
        td_sparse_model_config config;
        const char *says;
    } cases[] = {
        {{.kind = "gbdt"}, "there are linear, fm, ffm and dlrm"},
        {{.kind = "fm", .loss = TD_LOSS_SOFTMAX, .classes = 3}, "cannot be softmax"},
        {{.kind = "linear", .loss = TD_LOSS_SOFTMAX, .classes = 1}, "two classes or more, not 1"},
        {{.kind = "ffm", .loss = TD_LOSS_BINARY}, "ffm needs data with fields"},
        {{.kind = "fm", .loss = TD_LOSS_BINARY, .factors = 5000}, "at most 4096 factors"},
        {{.kind = "ffm", .loss = TD_LOSS_BINARY, .factors = 4, .fields = 65535},
         "ffm of 65535 fields, 4 factors and 1 outputs has 262141 weights a key"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .fields = 1}, "dense numbers or two fields"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .fields = 5000}, "5000 are too many"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .numbers = 2, .bottom = "8-8"},
         "must end in 16 units"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .numbers = 2, .top = "8-2"}, "end in 1 unit"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .numbers = 2, .top = "8,1"}, "with dashes"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .numbers = 2, .top = "0-1"}, "with dashes"},
        {{.kind = "dlrm", .loss = TD_LOSS_BINARY, .numbers = 2, .top = "8-"}, "with dashes"},
        {{.kind = "dlrm",
          .loss = TD_LOSS_BINARY,
          .numbers = 2,
          .top = "1-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1-1"},
         "more than 16 layers"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        td_sparse_model *model;
        assert_fails(TD_ERR_ARG, cases[i].says, td_sparse_model_create(&cases[i].config, &model));
    }
    td_sparse_model_config config = {.kind = "dlrm", .loss = TD_LOSS_BINARY, .fields = 2};
    assert_survives_no_memory(attempt_create, &config);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear), cmocka_unit_test(test_fm),
        cmocka_unit_test(test_ffm),    cmocka_unit_test(test_dlrm),
        cmocka_unit_test(test_sums),   cmocka_unit_test(test_repeated_keys),
        cmocka_unit_test(test_slots),  cmocka_unit_test(test_mistakes),
    };
    return cmocka_run_group_tests_name("sparse models", tests, NULL, NULL);
}
