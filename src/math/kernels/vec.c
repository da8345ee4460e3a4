/* Elementwise functions and update rules: plain loops that the compiler turns into vectors.
 *
 * exp, tanh and the logistic function are our own polynomials (coefficients of the Cephes
 * library, S. Moshier), because the C library's differ in their last bits between versions and
 * processors. Everything is written with explicit fused multiply-adds, and the build forbids the
 * compiler to make others. */
#include "math/kernels/table.h"

#define fma_(a, b, c) __builtin_fmaf(a, b, c)

TD_INLINE float exp_(float x)
{
    x = x < -87.3f ? -87.3f : x; /* a NaN stays one */
    x = x > 88.3f ? 88.3f : x;
    float shifted = fma_(x, 1.44269504f, 12582912.f); /* rounds to an integer in the low bits */
    float n = shifted - 12582912.f;
    float r = fma_(n, -0.693359375f, x);
    r = fma_(n, 2.12194440e-4f, r);
    float y = 1.9875691500e-4f;
    y = fma_(y, r, 1.3981999507e-3f);
    y = fma_(y, r, 8.3334519073e-3f);
    y = fma_(y, r, 4.1665795894e-2f);
    y = fma_(y, r, 1.6666665459e-1f);
    y = fma_(y, r, 5.0000001201e-1f);
    y = fma_(y, r * r, r + 1.f);
    uint32_t bits, power;
    memcpy(&bits, &shifted, sizeof bits);
    power = (bits + 127u) << 23; /* 2^n: the low bits of `shifted` hold n */
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return y * scale;
}

TD_INLINE float sigmoid_(float x)
{
    return 1.f / (1.f + exp_(-x));
}

TD_INLINE float tanh1_(float x)
{
    float a = x < 0 ? -x : x, z = x * x;
    float p = -5.70498872745e-3f;
    p = fma_(p, z, 2.06390887954e-2f);
    p = fma_(p, z, -5.37397155531e-2f);
    p = fma_(p, z, 1.33314422036e-1f);
    p = fma_(p, z, -3.33332819422e-1f);
    float small = fma_(p * z, x, x);
    float big = 1.f - 2.f / (exp_(2.f * a) + 1.f);
    big = x < 0 ? -big : big;
    return a < 0.625f ? small : big;
}

/* No restrict: else the compiler would call memcpy. */
void TD_K(copy)(size_t bytes, const void *from, void *to)
{
    enum { V = sizeof(vf) };
    const char *a = from;
    char *b = to;
    size_t i = 0;
    if (bytes < V) {
        memcpy(to, from, bytes);
        return;
    }
    for (; i + 4 * V <= bytes; i += 4 * V) {
        vf v0 = v_load((const float *)(const void *)(a + i));
        vf v1 = v_load((const float *)(const void *)(a + i + V));
        vf v2 = v_load((const float *)(const void *)(a + i + 2 * V));
        vf v3 = v_load((const float *)(const void *)(a + i + 3 * V));
        v_store((float *)(void *)(b + i), v0);
        v_store((float *)(void *)(b + i + V), v1);
        v_store((float *)(void *)(b + i + 2 * V), v2);
        v_store((float *)(void *)(b + i + 3 * V), v3);
    }
    for (; i + V <= bytes; i += V)
        v_store((float *)(void *)(b + i), v_load((const float *)(const void *)(a + i)));
    if (i < bytes) /* the last vector, which overlaps the one before */
        v_store((float *)(void *)(b + bytes - V),
                v_load((const float *)(const void *)(a + bytes - V)));
}

void TD_K(copy_through)(size_t bytes, const void *from, void *to)
{
#if defined(__AVX2__)
    enum { V = 32 };
    size_t head = (V - (uintptr_t)to % V) % V;
    if (bytes >= 16 * V) {
        const char *a = (const char *)from + head;
        char *b = (char *)to + head;
        size_t n = (bytes - head) / (4 * V) * (4 * V);
        TD_K(copy)(head, from, to);
        for (size_t i = 0; i < n; i += 4 * V)
            for (size_t k = 0; k < 4 * V; k += V)
                _mm256_stream_si256((__m256i *)(void *)(b + i + k),
                                    _mm256_loadu_si256((const __m256i *)(const void *)(a + i + k)));
        TD_K(copy)(bytes - head - n, a + n, b + n);
        _mm_sfence();
        return;
    }
#endif
    TD_K(copy)(bytes, from, to);
}

void TD_K(bytes_to_floats)(size_t n, const uint8_t *restrict from, float mean, float scale,
                           float *restrict to)
{
    for (size_t i = 0; i < n; i++) to[i] = ((float)from[i] - mean) * scale;
}

void TD_K(relu)(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = 0 > x[i] ? 0 : x[i];
}

void TD_K(relu_grad)(size_t n, const float *y, const float *dy, float *dx)
{
    for (size_t i = 0; i < n; i++) dx[i] = y[i] > 0 ? dy[i] : 0;
}

void TD_K(sigmoid)(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = sigmoid_(x[i]);
}

void TD_K(tanh_)(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) y[i] = tanh1_(x[i]);
}

static const float GELU_A = 0.7978845608f, GELU_B = 0.044715f; /* sqrt(2 / pi) */

void TD_K(gelu)(size_t n, const float *x, float *y)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i], inner = GELU_A * fma_(GELU_B * v, v * v, v);
        y[i] = 0.5f * v * (1.f + tanh1_(inner));
    }
}

void TD_K(gelu_grad)(size_t n, const float *x, const float *dy, float *dx)
{
    for (size_t i = 0; i < n; i++) {
        float v = x[i], inner = GELU_A * fma_(GELU_B * v, v * v, v);
        float t = tanh1_(inner), slope = GELU_A * fma_(3.f * GELU_B * v, v, 1.f);
        dx[i] = dy[i] * fma_(0.5f * v * fma_(-t, t, 1.f), slope, 0.5f * (1.f + t));
    }
}

void TD_K(softmax)(size_t rows, size_t classes, const float *x, float *p)
{
    for (size_t r = 0; r < rows; r++, x += classes, p += classes) {
        float top = x[0];
        for (size_t c = 1; c < classes; c++) top = x[c] > top ? x[c] : top;
        for (size_t c = 0; c < classes; c++) p[c] = exp_(x[c] - top);
        float sum = 0; /* in order: the compiler may not reassociate */
        for (size_t c = 0; c < classes; c++) sum += p[c];
        float scale = 1.f / sum;
        for (size_t c = 0; c < classes; c++) p[c] *= scale;
    }
}

void TD_K(add)(size_t n, const float *a, const float *b, float *out)
{
    for (size_t i = 0; i < n; i++) out[i] = a[i] + b[i];
}

void TD_K(maxpool)(size_t out_h, size_t out_w, size_t channels, size_t in_row, size_t k,
                   size_t stride, const float *x, float *y, int32_t *from)
{
    for (size_t oy = 0; oy < out_h; oy++)
        for (size_t ox = 0; ox < out_w; ox++) {
            const float *window = x + oy * stride * in_row + ox * stride * channels;
            float *restrict best = y + (oy * out_w + ox) * channels;
            int32_t *restrict where = from + (oy * out_w + ox) * channels;
            for (size_t c = 0; c < channels; c++) best[c] = window[c], where[c] = (int32_t)c;
            for (size_t at = 1; at < k * k; at++) {
                size_t offset = at / k * in_row + at % k * channels;
                const float *candidate = window + offset;
                for (size_t c = 0; c < channels; c++) {
                    /* a NaN wins, so that it is not lost on the way to the loss */
                    int better = !(candidate[c] <= best[c]);
                    best[c] = better ? candidate[c] : best[c];
                    where[c] = better ? (int32_t)(offset + c) : where[c];
                }
            }
        }
}

/* --- update rules: see src/optim/rule.c for what they mean --- */

void TD_K(sgd)(const td_update *u)
{
    float *restrict p = u->p, *restrict m = u->s1;
    const float *restrict g = u->g;
    float scale = u->scale, lr = u->lr, mu = u->momentum, wd = u->weight_decay;
    if (!m) {
        for (size_t i = 0; i < u->n; i++) {
            float d = fma_(wd, p[i], scale * g[i]);
            p[i] = fma_(-lr, d, p[i]);
        }
    } else if (u->nesterov) {
        for (size_t i = 0; i < u->n; i++) {
            float d = fma_(wd, p[i], scale * g[i]);
            m[i] = fma_(mu, m[i], d);
            p[i] = fma_(-lr, fma_(mu, m[i], d), p[i]);
        }
    } else {
        for (size_t i = 0; i < u->n; i++) {
            float d = fma_(wd, p[i], scale * g[i]);
            m[i] = fma_(mu, m[i], d);
            p[i] = fma_(-lr, m[i], p[i]);
        }
    }
}

void TD_K(adam)(const td_update *u)
{
    float *restrict p = u->p, *restrict m = u->s1, *restrict v = u->s2;
    const float *restrict g = u->g;
    float b1 = u->beta1, b2 = u->beta2, scale = u->scale, lr = u->lr;
    float coupled = u->decoupled ? 0 : u->weight_decay;
    float keep = u->decoupled ? 1.f - lr * u->weight_decay : 1.f;
    float c1 = u->correct1, c2 = u->correct2, epsilon = u->epsilon;
    for (size_t i = 0; i < u->n; i++) {
        float d = fma_(coupled, p[i], scale * g[i]);
        m[i] = fma_(b1, m[i], (1.f - b1) * d);
        v[i] = fma_(b2, v[i], (1.f - b2) * d * d);
        float step = m[i] * c1 / (__builtin_sqrtf(v[i] * c2) + epsilon);
        p[i] = fma_(-lr, step, keep * p[i]);
    }
}

void TD_K(adagrad)(const td_update *u)
{
    float *restrict p = u->p, *restrict s = u->s1;
    const float *restrict g = u->g;
    float scale = u->scale, lr = u->lr, wd = u->weight_decay, epsilon = u->epsilon;
    for (size_t i = 0; i < u->n; i++) {
        float d = fma_(wd, p[i], scale * g[i]);
        s[i] = fma_(d, d, s[i]);
        p[i] -= lr * d / (__builtin_sqrtf(s[i]) + epsilon);
    }
}

void TD_K(ftrl)(const td_update *u)
{
    float *restrict p = u->p, *restrict z = u->s1, *restrict n = u->s2;
    const float *restrict g = u->g;
    float scale = u->scale, rate = 1 / u->lr, l1 = u->l1, l2 = u->l2, beta = u->beta;
    for (size_t i = 0; i < u->n; i++) {
        float d = scale * g[i], root = __builtin_sqrtf(n[i]);
        n[i] = fma_(d, d, n[i]);
        float now = __builtin_sqrtf(n[i]);
        z[i] += fma_(-(now - root) * rate, p[i], d);
        float over = __builtin_fabsf(z[i]) - l1, down = fma_(beta + now, rate, l2);
        p[i] = over <= 0 ? 0 : __builtin_copysignf(over, -z[i]) / down;
    }
}

void TD_K(rmsprop)(const td_update *u)
{
    float *restrict p = u->p, *restrict s = u->s1, *restrict m = u->s2;
    const float *restrict g = u->g;
    float scale = u->scale, lr = u->lr, wd = u->weight_decay, epsilon = u->epsilon;
    float alpha = u->beta2, mu = u->momentum;
    for (size_t i = 0; i < u->n; i++) {
        float d = fma_(wd, p[i], scale * g[i]);
        s[i] = fma_(alpha, s[i], (1.f - alpha) * d * d);
        m[i] = fma_(mu, m[i], d / (__builtin_sqrtf(s[i]) + epsilon));
        p[i] = fma_(-lr, m[i], p[i]);
    }
}
