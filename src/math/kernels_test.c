/* Every instruction set against plain loops that state the definition, byte for byte. */
#include "math/kernels.h"

#include "base/alloc.h"
#include "base/rng.h"
#include "base/test.h"

#include <math.h>

static float *randoms(size_t n, uint64_t stream, float keep)
{
    float *x = td_alloc_aligned((n + TD_CONV_SLACK) * sizeof *x);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, stream, n);
    for (size_t i = 0; i < n + TD_CONV_SLACK; i++) {
        float v = td_rng_unit(&rng) * 2 - 1;
        x[i] = td_rng_unit(&rng) < keep ? v : 0;
    }
    return x;
}

static void gemm_is_the_chain_of_its_definition(void **state)
{
    (void)state;
    static const size_t sizes[][3] = {{1, 1, 1},   {5, 7, 3},     {10, 64, 128}, {13, 33, 300},
                                      {300, 5, 7}, {64, 17, 813}, {2, 100, 31}};
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; t++)
        for (int form = 0; form < 16; form++) {
            size_t m = sizes[t][0], n = sizes[t][1], k = sizes[t][2];
            int ta = form & 1, tb = form & 2, tc = form & 4, extra = form & 8;
            float *a = randoms(m * k, 1, 1), *b = randoms(k * n, 2, 1), *bias = randoms(m, 3, 1);
            float *want = randoms(m * n, 4, 1), *got = randoms(m * n, 5, 1);
            td_gemm g = {
                .m = m,
                .n = n,
                .k = k,
                .a = a,
                .b = b,
                .c = got,
                .a_row = ta ? 1 : k,
                .a_col = ta ? m : 1,
                .b_row = tb ? 1 : n,
                .b_col = tb ? k : 1,
                .c_row = tc ? 1 : n,
                .c_col = tc ? m : 1,
                .bias_row = extra ? bias : NULL,
                .relu = extra,
            };
            for (size_t i = 0; i < m; i++)
                for (size_t j = 0; j < n; j++) {
                    float s = extra ? bias[i] : 0;
                    for (size_t p = 0; p < k; p++)
                        s = fmaf(a[i * g.a_row + p * g.a_col], b[p * g.b_row + j * g.b_col], s);
                    want[i * g.c_row + j * g.c_col] = extra && s < 0 ? 0 : s;
                }
            for (const td_kernels *const *set = td_kernels_all(); *set; set++) {
                memset(got, 255, m * n * sizeof *got);
                (*set)->gemm(&g);
                assert_memory_equal(got, want, m * n * sizeof *got);
            }
            td_free(a), td_free(b), td_free(bias), td_free(want), td_free(got);
        }
}

static void check_dense_grad(const size_t *leaf_row)
{
    enum { IN = 37, OUT = 23, LEAVES = 5, ROWS = 40 };
    static const int merges[LEAVES] = {0, 1, 0, 2, 0}; /* ((0+1)+(2+3)), 4 */
    float *x = randoms(ROWS * IN, 1, 1), *dy = randoms(ROWS * OUT, 2, 0.7f);
    static float leaf[LEAVES][OUT * IN], want[2][OUT * IN], got[2][OUT * IN];
    for (int l = 0; l < LEAVES; l++)
        for (int o = 0; o < OUT; o++)
            for (int i = 0; i < IN; i++) {
                float s = 0;
                for (size_t r = leaf_row[l]; r < leaf_row[l + 1]; r++) {
                    float d = dy[r * OUT + (size_t)o], v = x[r * IN + (size_t)i];
                    s = r == leaf_row[l] ? d * v : fmaf(d, v, s);
                }
                leaf[l][o * IN + i] = s;
            }
    for (int e = 0; e < OUT * IN; e++) {
        want[0][e] = (leaf[0][e] + leaf[1][e]) + (leaf[2][e] + leaf[3][e]);
        want[1][e] = leaf[4][e];
    }
    float *scratch = td_alloc_aligned(td_dense_grad_scratch(ROWS, OUT) * sizeof *scratch);
    float *nodes[] = {got[0], got[1]};
    td_dense_grad g = {IN, OUT, LEAVES, leaf_row, merges, x, dy, nodes, scratch};
    for (const td_kernels *const *set = td_kernels_all(); *set; set++) {
        memset(got, 255, sizeof got);
        (*set)->dense_grad(&g);
        assert_memory_equal(got, want, sizeof got);
    }
    td_free(x), td_free(dy), td_free(scratch);
}

static void dense_grad_folds_its_leaves_along_the_tree(void **state)
{
    (void)state;
    static const size_t leaf_row[][6] = {{0, 3, 5, 8, 8, 13},
                                         {0, 3, 6, 9, 12, 15},
                                         {0, 4, 8, 12, 16, 20},
                                         {0, 8, 16, 24, 32, 40},
                                         {0, 8, 16, 16, 16, 16}};
    for (size_t t = 0; t < sizeof leaf_row / sizeof *leaf_row; t++) check_dense_grad(leaf_row[t]);
}

static const td_conv shapes[] = {
    /* in_h in_w in_c out_h out_w out_c kh kw stride pad groups */
    {6, 7, 1, 6, 7, 5, 5, 5, 1, 2, 1},   {9, 8, 3, 7, 6, 20, 3, 3, 1, 0, 1},
    {7, 7, 16, 4, 4, 33, 3, 3, 2, 1, 1}, {5, 6, 8, 5, 6, 12, 3, 3, 1, 1, 4},
    {5, 5, 32, 5, 5, 64, 5, 5, 1, 2, 1}, {6, 6, 4, 3, 3, 4, 2, 2, 2, 0, 4},
    {4, 4, 40, 4, 4, 3, 1, 1, 1, 0, 1},  {8, 8, 6, 2, 2, 10, 7, 7, 1, 0, 2},
};

/* x[y + ky][x + kx] of the padded image, and OIHW and (ky, kx, channel) weights. */
static void convolutions_are_the_chains_of_their_definition(void **state)
{
    (void)state;
    for (size_t t = 0; t < sizeof shapes / sizeof *shapes; t++) {
        const td_conv *s = &shapes[t];
        enum { ROWS = 3 };
        size_t taps = td_conv_taps(s), pixels = td_conv_pixels(s), image = td_conv_padded(s);
        size_t icg = (size_t)(s->in_c / s->groups), ocg = (size_t)(s->out_c / s->groups);
        size_t oc = (size_t)s->out_c, kw = (size_t)s->kernel_w, window = taps / icg;
        size_t pw = (size_t)(s->in_w + 2 * s->pad), ic = (size_t)s->in_c;
        float *x = randoms(ROWS * image, 1, 1), *w = randoms(oc * taps, 2, 1);
        float *bias = randoms(oc, 3, 1), *dy = randoms(ROWS * pixels * oc, 4, 0.3f);
        float *y = randoms(ROWS * pixels * oc, 5, 1), *got = randoms(ROWS * pixels * oc, 6, 1);
        float *perm = randoms(oc * taps, 7, 1), *dw = td_calloc(oc * taps, 4);
        float *dimage = td_calloc(ROWS * image, 4), *db = td_calloc(oc, 4);
        size_t flat = (size_t)s->in_h * (size_t)s->in_w * ic;
        float *dx = td_calloc(ROWS * flat, 4), *dw2 = td_calloc(oc * taps, 4),
              *db2 = td_calloc(oc, 4);
        for (size_t o = 0; o < oc; o++)
            for (size_t k = 0; k < taps; k++)
                perm[o * taps + k] = w[(o * icg + k % icg) * window + k / icg];
#define IMAGE(r, p, k, g)                                                                          \
    ((r)*image + ((p) / (size_t)s->out_w * (size_t)s->stride + (k) / icg / kw) * pw * ic +         \
     ((p) % (size_t)s->out_w * (size_t)s->stride + (k) / icg % kw) * ic + (g)*icg + (k) % icg)
        for (size_t r = 0; r < ROWS; r++)
            for (size_t p = 0; p < pixels; p++)
                for (size_t o = 0; o < oc; o++) {
                    float sum = bias[o], d = dy[(r * pixels + p) * oc + o];
                    for (size_t k = 0; k < taps; k++) {
                        size_t at = IMAGE(r, p, k, o / ocg);
                        sum = fmaf(x[at], perm[o * taps + k], sum);
                        dw[o * taps + k] = fmaf(d, x[at], dw[o * taps + k]);
                    }
                    y[(r * pixels + p) * oc + o] = sum;
                    db[o] += d;
                }
        /* The image gradient in the order of the kernel's pieces is checked to rounding; that the
         * sets agree on it is checked below to the bit. */
        for (size_t r = 0; r < ROWS; r++)
            for (size_t p = 0; p < pixels; p++)
                for (size_t o = 0; o < oc; o++)
                    for (size_t k = 0; k < taps; k++)
                        dimage[IMAGE(r, p, k, o / ocg)] +=
                            dy[(r * pixels + p) * oc + o] * perm[o * taps + k];
        float *first_dx = NULL;
        for (const td_kernels *const *set = td_kernels_all(); *set; set++) {
            float *packed = td_alloc_aligned((*set)->conv_packed(s) * 4);
            float *scratch = td_alloc_aligned(td_conv_scratch(s) * 4);
            (*set)->conv_pack(s, w, packed);
            (*set)->conv_forward(s, ROWS, x, packed, bias, got);
            assert_memory_equal(got, y, ROWS * pixels * oc * 4);
            memset(dw2, 0, oc * taps * 4), memset(db2, 0, oc * 4);
            td_conv_backward b = {s, ROWS, x, dy, perm, dw2, db2, dx, scratch};
            (*set)->conv_backward(&b);
            assert_memory_equal(dw2, dw, oc * taps * 4);
            assert_memory_equal(db2, db, oc * 4);
            for (size_t i = 0; i < ROWS * flat; i++) {
                size_t r = i / flat, yy = i % flat / ((size_t)s->in_w * ic),
                       xx = i % ((size_t)s->in_w * ic);
                float want =
                    dimage[r * image + (yy + (size_t)s->pad) * pw * ic + (size_t)s->pad * ic + xx];
                assert_true(fabsf(dx[i] - want) < 1e-4f);
            }
            if (!first_dx) {
                first_dx = td_malloc(ROWS * flat * 4);
                memcpy(first_dx, dx, ROWS * flat * 4);
            }
            assert_memory_equal(dx, first_dx, ROWS * flat * 4);
            td_free(packed), td_free(scratch);
        }
        td_free(x), td_free(w), td_free(bias), td_free(dy), td_free(y), td_free(got), td_free(perm);
        td_free(dw), td_free(dimage), td_free(db), td_free(dx), td_free(dw2), td_free(db2);
        td_free(first_dx);
    }
}

static void elementwise_functions_agree_with_libm_and_each_other(void **state)
{
    (void)state;
    enum { N = 4001 };
    static float x[N], first[N], y[N], dy[N];
    for (int i = 0; i < N; i++) x[i] = (float)(i - N / 2) * 0.02f, dy[i] = 1;
    for (int f = 0; f < 4; f++)
        for (const td_kernels *const *set = td_kernels_all(); *set; set++) {
            const td_kernels *k = *set;
            if (f == 0) k->sigmoid(N, x, y);
            if (f == 1) k->tanh_(N, x, y);
            if (f == 2) k->gelu(N, x, y);
            if (f == 3) k->gelu_grad(N, x, dy, y);
            if (set == td_kernels_all()) memcpy(first, y, sizeof y);
            assert_memory_equal(y, first, sizeof y);
        }
    const td_kernels *k = td_kernels_best();
    k->sigmoid(N, x, y);
    for (int i = 0; i < N; i++) assert_true(fabs(y[i] - 1 / (1 + exp(-(double)x[i]))) < 2e-7);
    k->tanh_(N, x, y);
    for (int i = 0; i < N; i++) assert_true(fabs(y[i] - tanh((double)x[i])) < 3e-7);
    float p[6], logits[6] = {1, 2, 3, -50, 0, 1000};
    k->softmax(2, 3, logits, p);
    assert_true(fabs(p[2] - 0.66524096) < 1e-6 && fabs(p[5] - 1) < 1e-6);
}

static void max_pooling_takes_the_first_maximum(void **state)
{
    (void)state;
    static const float x[] = {1, 5, 2, 5, /* row of two pixels, two channels */ 2, 0, 2, 9};
    for (const td_kernels *const *set = td_kernels_all(); *set; set++) {
        float y[2];
        int32_t from[2];
        (*set)->maxpool(1, 1, 2, 4, 2, 2, x, y, from);
        assert_true(y[0] == 2 && y[1] == 9);
        assert_int_equal(from[0], 2);
        assert_int_equal(from[1], 7);
    }
}

static void update_rules_agree_between_sets(void **state)
{
    (void)state;
    enum { N = 1003 };
    for (int rule = 0; rule < 7; rule++) {
        float *first = NULL;
        for (const td_kernels *const *set = td_kernels_all(); *set; set++) {
            float *p = randoms(N, 1, 1), *g = randoms(N, 2, 1), *m = td_calloc(N, 4),
                  *v = td_calloc(N, 4);
            td_update u = {.n = N,
                           .p = p,
                           .g = g,
                           .scale = 0.125f,
                           .lr = 0.01f,
                           .momentum = 0.9f,
                           .beta1 = 0.9f,
                           .beta2 = 0.999f,
                           .epsilon = 1e-8f,
                           .weight_decay = 0.01f,
                           .correct1 = 10,
                           .correct2 = 1000,
                           .nesterov = rule == 1,
                           .decoupled = rule == 3,
                           .l1 = .1f,
                           .l2 = .2f,
                           .beta = 1,
                           .s1 = m,
                           .s2 = v};
            for (int step = 0; step < 3; step++) {
                if (rule <= 1) (*set)->sgd(&u);
                if (rule == 2 || rule == 3) (*set)->adam(&u);
                if (rule == 4) (*set)->adagrad(&u);
                if (rule == 5) (*set)->rmsprop(&u);
                if (rule == 6) (*set)->ftrl(&u);
            }
            if (!first) first = p;
            assert_memory_equal(first, p, N * 4);
            if (p != first) td_free(p);
            td_free(g), td_free(m), td_free(v);
        }
        td_free(first);
    }
}

static void copies_bring_every_byte_and_no_more(void **state)
{
    (void)state;
    static uint8_t from[5000], to[5000];
    for (size_t i = 0; i < sizeof from; i++) from[i] = (uint8_t)(i * 7 + i / 251);
    for (const td_kernels *const *set = td_kernels_all(); *set; set++)
        for (size_t bytes = 0; bytes < 4200; bytes += 1 + bytes / 5)
            for (size_t a = 0; a < 70; a += 23)
                for (size_t b = 0; b < 70; b += 17)
                    for (int through = 0; through < 2; through++) {
                        memset(to, 0xee, sizeof to);
                        (through ? (*set)->copy_through : (*set)->copy)(bytes, from + a, to + b);
                        assert_memory_equal(to + b, from + a, bytes);
                        for (size_t i = 0; i < b; i++) assert_int_equal(to[i], 0xee);
                        for (size_t i = b + bytes; i < b + bytes + 80; i++)
                            assert_int_equal(to[i], 0xee);
                    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm_is_the_chain_of_its_definition),
        cmocka_unit_test(dense_grad_folds_its_leaves_along_the_tree),
        cmocka_unit_test(convolutions_are_the_chains_of_their_definition),
        cmocka_unit_test(elementwise_functions_agree_with_libm_and_each_other),
        cmocka_unit_test(max_pooling_takes_the_first_maximum),
        cmocka_unit_test(update_rules_agree_between_sets),
        cmocka_unit_test(copies_bring_every_byte_and_no_more),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
