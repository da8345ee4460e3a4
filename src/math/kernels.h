/* The arithmetic that is worth writing for each instruction set, behind one table.
 *
 * Bits: every result below is defined by a chain of fused multiply-adds (or adds) in the stated
 * order, so each instruction set, thread count and batch cut gives the same bits. A test compares
 * the sets byte for byte against the portable one. No function allocates; all are pure but for
 * what they are told to write. */
#ifndef TD_MATH_KERNELS_H
#define TD_MATH_KERNELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* c[i][j] = chain over p of a[i][p] * b[p][j], p ascending, begun at bias_row[i] + bias_col[j]
 * (each where not NULL, else 0); then max(0, .) where relu is set.
 * Element [i][p] of a lies at a[i * a_row + p * a_col], and so on. */
typedef struct td_gemm {
    size_t m, n, k;
    const float *a; /* [m][k] */
    size_t a_row, a_col;
    const float *b; /* [k][n] */
    size_t b_row, b_col;
    float *c; /* [m][n] */
    size_t c_row, c_col;
    const float *bias_row; /* [m] or NULL */
    bool relu;
} td_gemm;

/* Gradient of a dense layer's weights, leaves added along the tree inside the register tile
 * (so that no leaf's gradient is ever written to memory).
 * For leaf l: g_l[o][i] = chain over its rows r ascending of dy[r][o] * x[r][i], begun with the
 * first row's product (0 where there is none). After leaf l,
 * merges[l] pairs of the newest partial sums are added, older + newer. What is left at the end,
 * oldest first, is written to nodes[0..]. */
typedef struct td_dense_grad {
    size_t in, out;
    int leaves;
    const size_t *leaf_row; /* [leaves + 1] */
    const int *merges;      /* [leaves] */
    const float *x;         /* [rows][in] */
    const float *dy;        /* [rows][out] */
    float *const *nodes;    /* each [out][in] */
    float *scratch;         /* td_dense_grad_scratch(rows, out) floats */
} td_dense_grad;
enum {
    TD_DENSE_GRAD_DEPTH = 16, /* deepest stack of partial sums */
    TD_DENSE_GRAD_BLOCK = 64  /* columns that are packed at once */
};
size_t td_dense_grad_scratch(size_t rows, size_t out);

/* Convolution in channel-last layout over an image that is already padded with zeros.
 * A filter row (ky) is one contiguous run of kw * in_channels floats of the image when groups is
 * 1, so nothing is ever unrolled into columns. */
typedef struct td_conv {
    int in_h, in_w, in_c;    /* before padding */
    int out_h, out_w, out_c; /* out = (in + 2 pad - kernel) / stride + 1 */
    int kernel_h, kernel_w, stride, pad, groups;
} td_conv;

static inline size_t td_conv_padded(const td_conv *s) /* floats of one padded image */
{
    return (size_t)(s->in_h + 2 * s->pad) * (size_t)(s->in_w + 2 * s->pad) * (size_t)s->in_c;
}
static inline size_t td_conv_taps(const td_conv *s) /* weights of one output channel */
{
    return (size_t)s->kernel_h * (size_t)s->kernel_w * (size_t)(s->in_c / s->groups);
}
static inline size_t td_conv_pixels(const td_conv *s)
{
    return (size_t)s->out_h * (size_t)s->out_w;
}

/* Floats behind the last image, weight or gradient that kernels may read (never use). */
enum { TD_CONV_SLACK = 64 };

typedef struct td_conv_backward {
    const td_conv *shape;
    size_t rows;
    const float *x;       /* [rows] padded images, TD_CONV_SLACK floats behind */
    const float *dy;      /* [rows][out_h][out_w][out_c] */
    const float *weights; /* [out_c][taps] in (ky, kx, channel) order, TD_CONV_SLACK behind */
    float *dweights;      /* [out_c][taps], added to: chain over rows and pixels ascending */
    float *dbias;         /* [out_c], added to, or NULL */
    float *dx;            /* [rows][in_h][in_w][in_c], or NULL where nobody needs it */
    float *scratch;       /* td_conv_scratch(shape) floats */
} td_conv_backward;
size_t td_conv_scratch(const td_conv *s);

/* An update rule's constants, for one step. */
typedef struct td_update {
    size_t n;
    float *p;       /* parameters */
    const float *g; /* gradient */
    float scale;    /* the gradient is multiplied by this first (1 / samples, clipping) */
    float lr, momentum, beta1, beta2, epsilon, weight_decay;
    float correct1, correct2; /* Adam: 1 / (1 - beta^t) */
    bool nesterov, decoupled;
    float l1, l2, beta; /* FTRL */
    float *s1, *s2;     /* state of the rule, each [n] or NULL */
} td_update;

typedef struct td_kernels {
    const char *isa;
    void (*gemm)(const td_gemm *g);
    void (*dense_grad)(const td_dense_grad *g);
    /* Floats of the packed weights, and the packing: weights [out_c][in_c / groups][kh][kw]. */
    size_t (*conv_packed)(const td_conv *s);
    void (*conv_pack)(const td_conv *s, const float *weights, float *packed);
    /* y[r][pixel][o] = chain over taps begun at bias[o] (0 where NULL); y is
     * [rows][out_h][out_w][out_c]. */
    void (*conv_forward)(const td_conv *s, size_t rows, const float *x, const float *packed,
                         const float *bias, float *y);
    void (*conv_backward)(const td_conv_backward *b);
    /* Elementwise, n floats; in and out may be the same. */
    void (*relu)(size_t n, const float *x, float *y);
    void (*relu_grad)(size_t n, const float *y, const float *dy, float *dx); /* y > 0 ? dy : 0 */
    void (*sigmoid)(size_t n, const float *x, float *y);
    void (*tanh_)(size_t n, const float *x, float *y);
    void (*gelu)(size_t n, const float *x, float *y); /* tanh form, Hendrycks and Gimpel 2016 */
    void (*gelu_grad)(size_t n, const float *x, const float *dy, float *dx);
    void (*softmax)(size_t rows, size_t classes, const float *x, float *p); /* p: [rows][classes] */
    void (*add)(size_t n, const float *a, const float *b, float *out);
    /* memcpy by vectors: the C library's may use "rep movsb", which some processors run at a
     * quarter of the speed where the two addresses are close modulo 4096. */
    void (*copy)(size_t bytes, const void *from, void *to);
    /* The same past the caches, for what is larger than they are and not read again soon. */
    void (*copy_through)(size_t bytes, const void *from, void *to);
    /* to[i] = (from[i] - mean) * scale, each step rounded. */
    void (*bytes_to_floats)(size_t n, const uint8_t *from, float mean, float scale, float *to);
    /* Pooling windows of k x k, channel-last; picks the first maximum of a window. `from` holds
     * the place of the maximum, as an offset in floats from the window's first. */
    void (*maxpool)(size_t out_h, size_t out_w, size_t channels, size_t in_row, size_t k,
                    size_t stride, const float *x, float *y, int32_t *from);
    void (*sgd)(const td_update *u);
    void (*adam)(const td_update *u);
    void (*adagrad)(const td_update *u);
    void (*rmsprop)(const td_update *u);
    /* FTRL-proximal (McMahan et al., "Ad click prediction", KDD 2013, algorithm 1): s1 is z, s2 n;
     * parameters are a function of the two. No weight decay. */
    void (*ftrl)(const td_update *u);
} td_kernels;

/* The best table for this processor; the same one for the life of the process. */
const td_kernels *td_kernels_best(void);
/* Every table that this build has and this processor can run, NULL at the end; the portable one
 * first. */
const td_kernels *const *td_kernels_all(void);

#endif
