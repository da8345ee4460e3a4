/* Every layer's gradient against finite differences, and the promise that leaves make: the same
 * node sums whether they are computed together or one by one. */
#include "nn/net.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "base/test.h"
#include "nn/reference_test.h"

#include <math.h>
#include <stdlib.h>

enum { LEAVES = 3, MAX_ROWS = 9 };

typedef struct fixture {
    td_net *net;
    td_net_lane *lane;
    float *params, *gradient, *x, *target, *weight;
    int32_t *label;
    uint64_t *sample;
    size_t leaf_row[LEAVES + 1];
    int merges[LEAVES];
    float *nodes[2];
    double values[LEAVES * TD_LEAF_VALUES];
} fixture;

static void make(fixture *f, const char *arch, size_t c, size_t h, size_t w, td_loss loss)
{
    memset(f, 0, sizeof *f);
    td_net_config config = {arch, c, h, w, 0, loss};
    assert_ok(td_net_create(&config, &f->net));
    assert_ok(td_net_lane_create(f->net, MAX_ROWS, true, &f->lane));
    size_t n = td_net_params(f->net), features = c * h * w;
    f->params = td_calloc(n, 4), f->gradient = td_calloc(2 * n, 4);
    f->nodes[0] = f->gradient, f->nodes[1] = f->gradient + n;
    f->x = td_calloc(MAX_ROWS * features, 4), f->target = td_calloc(MAX_ROWS, 4);
    f->weight = td_calloc(MAX_ROWS, 4), f->label = td_calloc(MAX_ROWS, 4);
    f->sample = td_calloc(MAX_ROWS, 8);
    td_rng rng;
    td_rng_init(&rng, 5, TD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < MAX_ROWS * features; i++) f->x[i] = td_rng_normal(&rng);
    for (size_t r = 0; r < MAX_ROWS; r++) {
        f->target[r] = td_rng_normal(&rng);
        f->weight[r] = 0.5f + td_rng_unit(&rng);
        f->label[r] = (int32_t)td_rng_below(&rng, (uint32_t)td_net_outputs(f->net));
        if (loss == TD_LOSS_BINARY || loss == TD_LOSS_HINGE) f->label[r] = (int32_t)(r & 1);
        f->sample[r] = 100 + r;
    }
    assert_ok(td_net_init(f->net, "he", 3, f->params));
    for (size_t i = 0; i < n; i++) f->params[i] += 0.05f * td_rng_normal(&rng);
    static const size_t rows[] = {0, 4, 6, MAX_ROWS};
    static const int merges[] = {0, 1, 0};
    memcpy(f->leaf_row, rows, sizeof rows);
    memcpy(f->merges, merges, sizeof merges);
}

static void clear(fixture *f)
{
    td_net_lane_destroy(f->lane), td_net_destroy(f->net);
    td_free(f->params), td_free(f->gradient), td_free(f->x), td_free(f->target);
    td_free(f->weight), td_free(f->label), td_free(f->sample);
}

static td_net_pass pass_of(fixture *f, td_loss loss)
{
    return (td_net_pass){
        .params = f->params,
        .rows = MAX_ROWS,
        .x = f->x,
        .label = td_loss_has_classes(loss) ? f->label : NULL,
        .target = td_loss_has_classes(loss) ? NULL : f->target,
        .weight = f->weight,
        .sample = f->sample,
        .seed = 1,
        .epoch = 2,
        .leaves = LEAVES,
        .leaf_row = f->leaf_row,
        .merges = f->merges,
        .nodes = f->nodes,
        .leaf_values = f->values,
    };
}

/* The training loss, dropout and leaf statistics included. */
static double loss_of(fixture *f, const td_net_pass *pass)
{
    td_net_gradient(f->net, f->lane, pass);
    double sum = 0;
    for (int l = 0; l < LEAVES; l++) sum += f->values[l * TD_LEAF_VALUES + TD_LEAF_LOSS];
    return sum;
}

static const struct {
    const char *arch;
    size_t c, h, w;
    td_loss loss;
} cases[] = {
    {"dense:4", 5, 1, 1, TD_LOSS_SOFTMAX},
    {"dense:7 tanh dense:1", 5, 1, 1, TD_LOSS_SQUARED},
    {"dense:7 sigmoid dense:1", 5, 1, 1, TD_LOSS_BINARY},
    {"dense:7 tanh dense:1", 5, 1, 1, TD_LOSS_HINGE},
    {"dense:7 tanh dense:1", 5, 1, 1, TD_LOSS_POISSON},
    {"dense:6 gelu dense:6 tanh dense:3", 4, 1, 1, TD_LOSS_SOFTMAX},
    {"dense:8 dropout:0.4 tanh dense:3", 4, 1, 1, TD_LOSS_SOFTMAX},
    {"dense:6 ln gelu dense:3", 4, 1, 1, TD_LOSS_SOFTMAX},
    {"dense:6 bn tanh dense:3", 4, 1, 1, TD_LOSS_SOFTMAX},
    {"conv:3,3 tanh conv:4,3 tanh dense:3", 1, 5, 6, TD_LOSS_SOFTMAX},
    {"conv:4,3,stride=2,pad=0 tanh conv:6,2,groups=2 gelu dense:3", 2, 7, 6, TD_LOSS_SOFTMAX},
    {"conv:4,1,bias=0 bn tanh avgpool:2 conv:5,3 gap dense:3", 3, 6, 6, TD_LOSS_SOFTMAX},
    {"conv:3,3 gelu pool:3,2 conv:3,2 tanh flatten dense:3", 2, 7, 7, TD_LOSS_SOFTMAX},
    {"conv:4,3 tanh res:4 tanh dense:2", 1, 4, 4, TD_LOSS_SOFTMAX},
    {"conv:4,3 tanh res:6,2 gap dense:2", 1, 4, 4, TD_LOSS_SOFTMAX},
    {"conv:4,3,bias=0 bn relu res:4 res:6,2 gap dense:2", 1, 6, 6, TD_LOSS_SOFTMAX},
    {"conv:4,3 relu pool:2 conv:5,3 relu pool:2 dense:6 relu dense:3", 2, 8, 8, TD_LOSS_SOFTMAX},
    {"conv:4,3 pool:2 bn relu dense:3", 1, 6, 6, TD_LOSS_SOFTMAX},
    {"dense:9 relu dense:8 relu dense:3", 6, 1, 1, TD_LOSS_SOFTMAX},
};
enum { CASES = sizeof cases / sizeof *cases };

/* A slot of the gradient against differences of the reference. */
static void check_slot(const fixture *f, const td_net_pass *pass, const td_slot *slot,
                       double *params, const char *what)
{
    const double step = 1e-6;
    double error = 0, size = 0.2, margin;                /* some gradients are 0 */
    size_t stride = getenv("TANDEM_TEST_SHORT") ? 5 : 1; /* sanitizers look at the code */
    for (size_t i = slot->offset; i < slot->offset + slot->count; i += stride) {
        double keep = params[i];
        params[i] = keep + step;
        double up = reference_loss(f->net, pass, params, &margin);
        params[i] = keep - step;
        double down = reference_loss(f->net, pass, params, &margin);
        params[i] = keep;
        double want = (up - down) / (2 * step);
        error += fabs(want - ((double)f->nodes[0][i] + f->nodes[1][i])), size += fabs(want);
    }
    if (!(error <= 1e-4 * size)) fail_msg("%s: %s: off by %g of %g", what, slot->name, error, size);
}

static void check_gradient(fixture *f, const td_net_pass *pass, const char *what)
{
    size_t n = td_net_params(f->net), slots;
    double margin, loss = loss_of(f, pass), *params = td_calloc(n, sizeof *params);
    const td_slot *slot = td_net_slots(f->net, &slots);
    for (size_t i = 0; i < n; i++) params[i] = f->params[i];
    double want = reference_loss(f->net, pass, params, &margin);
    if (!(fabs(loss - want) <= 1e-5 * fabs(want)))
        fail_msg("%s: loss %g, expected %g", what, loss, want);
    if (!(margin > 2e-5)) fail_msg("%s: a kink is near, by %g: draw other values", what, margin);
    for (size_t s = 0; s < slots; s++)
        if (slot[s].kind != TD_SLOT_STAT) check_slot(f, pass, &slot[s], params, what);
    td_free(params);
}

static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        fixture f;
        make(&f, cases[c].arch, cases[c].c, cases[c].h, cases[c].w, cases[c].loss);
        td_net_pass pass = pass_of(&f, cases[c].loss);
        check_gradient(&f, &pass, cases[c].arch);
        clear(&f);
    }
}

/* An image of one value makes every window a tie, for any parameters: the loss stays smooth, and
 * its gradient is right only when one element of a window gets it, and gets all of it. */
static void of_equal_values_one_gets_the_gradient(void **state)
{
    (void)state;
    static const char *const archs[] = {"conv:3,1 pool:2 dense:3", "conv:3,1 tanh pool:3,2 dense:3",
                                        "conv:4,1 pool:2 conv:3,1 relu pool:2 dense:3"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++) {
        enum { C = 2, PLANE = 25 };
        fixture f;
        make(&f, archs[a], C, 5, 5, TD_LOSS_SOFTMAX);
        for (size_t i = 0; i < (size_t)MAX_ROWS * C * PLANE; i++) f.x[i] = f.x[i - i % PLANE];
        td_net_pass pass = pass_of(&f, TD_LOSS_SOFTMAX);
        check_gradient(&f, &pass, archs[a]);
        clear(&f);
    }
}

static void leaves_together_or_alone_make_the_same_bits(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        fixture f;
        make(&f, cases[c].arch, cases[c].c, cases[c].h, cases[c].w, cases[c].loss);
        size_t n = td_net_params(f.net), features = cases[c].c * cases[c].h * cases[c].w;
        td_net_pass pass = pass_of(&f, cases[c].loss);
        loss_of(&f, &pass);
        double values[LEAVES * TD_LEAF_VALUES];
        memcpy(values, f.values, sizeof values);
        float *leaf = td_calloc(LEAVES * n, 4);
        td_net_lane *lane;
        assert_ok(td_net_lane_create(f.net, 4, true, &lane));
        for (int l = 0; l < LEAVES; l++) {
            size_t begin = f.leaf_row[l], rows = f.leaf_row[l + 1] - begin;
            td_net_pass one = pass;
            float *node = leaf + (size_t)l * n;
            one.rows = rows, one.x = f.x + begin * features;
            if (one.label) one.label += begin;
            if (one.target) one.target += begin;
            one.weight += begin, one.sample += begin, one.leaves = 1;
            one.leaf_row = (size_t[]){0, rows}, one.merges = (int[]){0}, one.nodes = &node;
            one.leaf_values = f.values + l * TD_LEAF_VALUES;
            td_net_gradient(f.net, lane, &one);
        }
        assert_memory_equal(values, f.values, sizeof values);
        for (size_t i = 0; i < n; i++) leaf[i] += leaf[n + i];
        assert_memory_equal(leaf, f.nodes[0], n * 4);
        assert_memory_equal(leaf + 2 * n, f.nodes[1], n * 4);
        td_net_lane_destroy(lane);
        td_free(leaf);
        clear(&f);
    }
}

static const float weights[][MAX_ROWS] = {
    {1, 1, 1, 1, 1, 1, 1, 1, 1},
    {.125f, .125f, .125f, .125f, .125f, .125f, .125f, .125f, .125f},
    {1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000},
    {3e-30f, 3e-30f, 3e-30f, 3e-30f, 3e-30f, 3e-30f, 3e-30f, 3e-30f, 3e-30f},
    {3, 0, .5f, 2, 1, 1, 0, 0, 0},
    {1, .25f, 0, 0, 0, 0, 2, 1, .001f},
};
enum { WEIGHTS = sizeof weights / sizeof *weights, EQUAL = 4 };

/* Rows and whole leaves of weight 0 too. */
static void gradients_of_weighted_batch_norm(void **state)
{
    (void)state;
    static const char *const archs[] = {"conv:4,3,bias=0 bn tanh gap dense:3",
                                        "bn conv:3,3 bn dense:3",
                                        "dense:6 bn tanh dense:5 bn tanh dense:3",
                                        "conv:4,3,bias=0 bn relu res:4 res:6,2 gap dense:3"};
    for (size_t a = 0; a < sizeof archs / sizeof *archs; a++)
        for (size_t w = 0; w < WEIGHTS; w++) {
            fixture f;
            if (w > 0 && w < EQUAL) continue;
            make(&f, archs[a], 1, 4, 4, TD_LOSS_SOFTMAX);
            td_net_pass pass = pass_of(&f, TD_LOSS_SOFTMAX);
            pass.weight = weights[w];
            check_gradient(&f, &pass, archs[a]);
            clear(&f);
        }
}

/* Gradient and statistics [2 nodes][params] of the fixture's rows under some weights. */
static float *weighted_pass(const char *arch, const float *weight,
                            double values[LEAVES * TD_LEAF_VALUES], size_t *count)
{
    fixture f;
    make(&f, arch, 2, 4, 3, TD_LOSS_SOFTMAX);
    td_net_pass pass = pass_of(&f, TD_LOSS_SOFTMAX);
    pass.weight = weight;
    loss_of(&f, &pass);
    float *g = f.gradient;
    f.gradient = NULL;
    memcpy(values, f.values, sizeof f.values);
    *count = 2 * td_net_params(f.net);
    clear(&f);
    return g;
}

static void weights_of_one_are_no_weights(void **state)
{
    (void)state;
    for (int c = 0; c < 2; c++) {
        const char *arch = c ? "dense:5 bn relu dense:3" : "conv:4,3 bn relu res:4 gap dense:3";
        double a[LEAVES * TD_LEAF_VALUES], b[LEAVES * TD_LEAF_VALUES];
        size_t n;
        float *with = weighted_pass(arch, weights[0], a, &n);
        float *without = weighted_pass(arch, NULL, b, &n);
        assert_memory_equal(with, without, n * sizeof *with);
        assert_memory_equal(a, b, sizeof a);
        td_free(with);
        td_free(without);
    }
}

/* A plain row of weight 2 is two rows of weight 1, as far as its leaf's mean and variance go. */
static void a_weight_of_two_is_the_row_twice(void **state)
{
    (void)state;
    fixture f, g;
    make(&f, "dense:4 bn tanh dense:3", 5, 1, 1, TD_LOSS_SOFTMAX);
    make(&g, "dense:4 bn tanh dense:3", 5, 1, 1, TD_LOSS_SOFTMAX);
    td_net_pass pass = pass_of(&f, TD_LOSS_SOFTMAX), twice = pass_of(&g, TD_LOSS_SOFTMAX);
    static const size_t row[] = {0, 1, 1, 2, 4, 5, 5, 6, 8};
    pass.weight = (const float[]){1, 2, 1, 0, 1, 2, 1, 0, 1};
    twice.weight = NULL;
    memcpy(g.leaf_row, (const size_t[]){0, 4, 7, 9}, sizeof g.leaf_row);
    for (size_t r = 0; r < MAX_ROWS; r++) {
        memcpy(g.x + r * 5, f.x + row[r] * 5, 5 * sizeof *g.x);
        g.label[r] = f.label[row[r]];
    }
    loss_of(&f, &pass);
    loss_of(&g, &twice);
    size_t slots;
    const td_slot *slot = td_net_slots(f.net, &slots);
    for (size_t s = 0; s < slots; s++)
        for (size_t i = slot[s].offset; i < slot[s].offset + slot[s].count; i++)
            for (int node = 0; node < 2; node++)
                if (slot[s].kind != TD_SLOT_STAT &&
                    !(fabsf(f.nodes[node][i] - g.nodes[node][i]) < 1e-4f))
                    fail_msg("%s: %g, expected %g", slot[s].name, (double)f.nodes[node][i],
                             (double)g.nodes[node][i]);
    clear(&f);
    clear(&g);
}

/* What the leaf's weighted mean and unbiased variance of channel k add to the batch's. */
static void add_leaf(const fixture *f, const float *weight, int leaf, size_t k, double sums[2])
{
    enum { C = 2, PLANE = 6 };
    size_t begin = f->leaf_row[leaf], end = f->leaf_row[leaf + 1];
    double total = 0, squares = 0, mean = 0, variance = 0;
    for (size_t r = begin; r < end; r++) total += weight[r], squares += pow(weight[r], 2);
    if (total == 0) return;
    for (size_t i = begin * PLANE; i < end * PLANE; i++)
        mean += weight[i / PLANE] / total * f->x[(i / PLANE * C + k) * PLANE + i % PLANE] / PLANE;
    for (size_t i = begin * PLANE; i < end * PLANE; i++)
        variance += weight[i / PLANE] / total *
                    pow(f->x[(i / PLANE * C + k) * PLANE + i % PLANE] - mean, 2) / PLANE;
    double n = total * total / squares * PLANE;
    sums[0] += total * mean, sums[1] += total * variance * n / (n - 1);
}

/* Running statistics as the update averages them (sums over the batch's weight), against a plain
 * reference in double. Weights that are all equal, whatever they are, change nothing. */
static void running_statistics_do_not_scale_with_weights(void **state)
{
    (void)state;
    enum { C = 2 };
    float ones[2 * C] = {0};
    for (size_t w = 0; w < WEIGHTS; w++) {
        fixture f;
        make(&f, "bn flatten dense:3", C, 2, 3, TD_LOSS_SOFTMAX);
        td_net_pass pass = pass_of(&f, TD_LOSS_SOFTMAX);
        pass.weight = weights[w];
        loss_of(&f, &pass);
        double total = 0;
        for (size_t r = 0; r < MAX_ROWS; r++) total += weights[w][r];
        size_t slots;
        const td_slot *slot = td_net_slots(f.net, &slots);
        assert_int_equal(slot[2].kind, TD_SLOT_STAT);
        for (size_t k = 0; k < C; k++) {
            double want[2] = {0};
            for (int l = 0; l < LEAVES; l++) add_leaf(&f, weights[w], l, k, want);
            for (size_t s = 0; s < 2; s++) {
                size_t at = slot[2 + s].offset + k;
                float average = (f.nodes[0][at] + f.nodes[1][at]) * (float)(1 / total);
                if (!(fabs(average - want[s] / total) <= 1e-5))
                    fail_msg("weights %zu, %s: %g, expected %g", w, slot[2 + s].name,
                             (double)average, want[s] / total);
                if (w == 0) ones[s * C + k] = average;
                if (w < EQUAL) assert_true(fabsf(average - ones[s * C + k]) < 1e-6f);
            }
        }
        clear(&f);
    }
}

static void ready_ranges_cover_the_array_from_its_end(void *user, size_t lo, size_t hi)
{
    size_t *edge = user;
    assert_int_equal(hi, *edge);
    assert_true(lo < hi);
    *edge = lo;
}

static void every_part_becomes_ready_once(void **state)
{
    (void)state;
    for (int c = 0; c < CASES; c++) {
        fixture f;
        make(&f, cases[c].arch, cases[c].c, cases[c].h, cases[c].w, cases[c].loss);
        td_net_pass pass = pass_of(&f, cases[c].loss);
        size_t edge = td_net_params(f.net);
        pass.ready = ready_ranges_cover_the_array_from_its_end;
        pass.user = &edge;
        td_net_gradient(f.net, f.lane, &pass);
        assert_int_equal(edge, 0);
        clear(&f);
    }
}

static void presets_have_the_known_numbers_of_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t params;
    } want[] = {{"softmax", 7850}, {"mlp", 235146}, {"lenet", 1663370}};
    for (size_t i = 0; i < 3; i++) {
        td_net *net;
        td_net_config config = {want[i].name, 1, 28, 28, 10, TD_LOSS_SOFTMAX};
        assert_ok(td_net_create(&config, &net));
        size_t slots, sum = 0;
        const td_slot *slot = td_net_slots(net, &slots);
        for (size_t s = 0; s < slots; s++) sum += slot[s].count;
        assert_int_equal(sum, want[i].params);
        td_net_destroy(net);
    }
    td_net *net;
    td_net_config config = {"lenet", 1, 28, 28, 10, TD_LOSS_SOFTMAX};
    assert_ok(td_net_create(&config, &net));
    size_t slots;
    const td_slot *slot = td_net_slots(net, &slots);
    assert_string_equal(slot[0].name, "0.weight");
    assert_string_equal(slot[2].name, "3.weight");
    assert_string_equal(slot[4].name, "7.weight");
    assert_int_equal(slot[4].shape[1], 3136);
    td_net_destroy(net);
}

static void shapes_that_do_not_fit_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *arch, *says;
    } rows[] = {
        {"conv:8,9,pad=0 dense:10", "0.conv: a 9x9 kernel does not fit an image of 6x6"},
        {"conv:8,3", "ends in an image"},
        {"dense:12", "12 outputs where the data asks for 10"},
        {"dens:10", "no layer is called \"dens:10\""},
        {"dense:x", "write dense:UNITS"},
        {"dense:0 dense:-3", "units must be a whole number, 1 to"},
        {"pool:7 dense:10", "window of 7 does not fit"},
        {"conv:8,3,groups=3 dense:10", "3 groups do not divide"},
        {"dense:4 conv:3,3 dense:10", "needs an image"},
        {"dropout:1.5 dense:10", "below 1"},
        {"", "names no layer"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        td_net *net;
        td_net_config config = {rows[i].arch, 1, 6, 6, 10, TD_LOSS_SOFTMAX};
        assert_fails(TD_ERR_ARG, rows[i].says, td_net_create(&config, &net));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(of_equal_values_one_gets_the_gradient),
        cmocka_unit_test(leaves_together_or_alone_make_the_same_bits),
        cmocka_unit_test(gradients_of_weighted_batch_norm),
        cmocka_unit_test(weights_of_one_are_no_weights),
        cmocka_unit_test(a_weight_of_two_is_the_row_twice),
        cmocka_unit_test(running_statistics_do_not_scale_with_weights),
        cmocka_unit_test(every_part_becomes_ready_once),
        cmocka_unit_test(presets_have_the_known_numbers_of_parameters),
        cmocka_unit_test(shapes_that_do_not_fit_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
