/* Reductions work on pieces that stay in L1, so that partial results never reach memory. */
#include "comm/coll/reduction.h"

#include "comm/transport.h"
#include "math/kernels.h"

#include <string.h>

enum { PIECE = 2048, MOST_DEPTH = 11 }; /* bytes of a piece; levels for TD_COMM_RANKS parts */
_Static_assert(1 << (MOST_DEPTH - 1) >= TD_COMM_RANKS, "a tree of all ranks fits");

/* --- half types: IEEE 754-2008 binary16, and the upper half of binary32 --- */

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

float td_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13); /* inf, NaN */
    /* As a float whose exponent is 112 too small; subnormals come out right as well. */
    return float_of(sign | bits_of(float_of(rest << 13) * 0x1p112f));
}

uint16_t td_f32_to_f16(float x)
{
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (size >= 0x477ff000) return (uint16_t)(sign | 0x7c00); /* from 65520 on: infinity */
    if (size < 0x38800000) /* subnormal: adding 0.5 leaves units of 2^-24 in the lowest bits */
        return (uint16_t)(sign | (bits_of(float_of(size) + 0.5f) - bits_of(0.5f)));
    uint32_t round = 0xfff + (size >> 13 & 1);
    return (uint16_t)(sign | (size - 0x38000000 + round) >> 13);
}

float td_bf16_to_f32(uint16_t half)
{
    return float_of((uint32_t)half << 16);
}

uint16_t td_f32_to_bf16(float x)
{
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static bool is_half(const td_reduction *how)
{
    return !how->combine && (how->type == TD_F16 || how->type == TD_BF16);
}

static void widen(td_type type, const void *from, size_t count, float *to)
{
    const uint16_t *half = from;
    for (size_t i = 0; i < count; i++)
        to[i] = type == TD_F16 ? td_f16_to_f32(half[i]) : td_bf16_to_f32(half[i]);
}

static void narrow(td_type type, const float *from, size_t count, void *to)
{
    uint16_t *half = to;
    for (size_t i = 0; i < count; i++)
        half[i] = type == TD_F16 ? td_f32_to_f16(from[i]) : td_f32_to_bf16(from[i]);
}

/* --- one operation --- */

#define EACH(T, EXPRESSION)                                                                        \
    do {                                                                                           \
        const T *x = a, *y = b;                                                                    \
        T *z = out;                                                                                \
        for (size_t i = 0; i < count; i++) z[i] = (T)(EXPRESSION);                                 \
    } while (0)
#define EACH_OF(T)                                                                                 \
    switch (op) {                                                                                  \
    case TD_SUM: EACH(T, x[i] + y[i]); break;                                                      \
    case TD_MIN: EACH(T, y[i] < x[i] ? y[i] : x[i]); break;                                        \
    case TD_MAX: EACH(T, y[i] > x[i] ? y[i] : x[i]); break;                                        \
    case TD_PROD: EACH(T, x[i] * y[i]); break;                                                     \
    }                                                                                              \
    break
/* Integer sums and products wrap round, as unsigned ones do. */
#define EACH_OF_INTEGER(T, U)                                                                      \
    switch (op) {                                                                                  \
    case TD_SUM: EACH(T, (U)x[i] + (U)y[i]); break;                                                \
    case TD_MIN: EACH(T, y[i] < x[i] ? y[i] : x[i]); break;                                        \
    case TD_MAX: EACH(T, y[i] > x[i] ? y[i] : x[i]); break;                                        \
    case TD_PROD: EACH(T, (U)x[i] * (U)y[i]); break;                                               \
    }                                                                                              \
    break

static void combine_as(td_type type, td_op op, const void *a, const void *b, size_t count,
                       void *out)
{
    switch (type) {
    case TD_F16:
    case TD_BF16: /* widened */
    case TD_F32:
        if (op == TD_SUM) {
            td_kernels_best()->add(count, a, b, out);
            break;
        }
        EACH_OF(float);
    case TD_F64: EACH_OF(double);
    case TD_I32: EACH_OF_INTEGER(int32_t, uint32_t);
    case TD_I64: EACH_OF_INTEGER(int64_t, uint64_t);
    case TD_U8: EACH_OF_INTEGER(uint8_t, unsigned);
    }
}

/* Of wide elements where the type is half. */
static void combine_wide(const td_reduction *how, const void *a, const void *b, size_t count,
                         void *out)
{
    if (!how->combine) {
        combine_as(how->type, how->op, a, b, count, out);
        return;
    }
    if (out != a) memcpy(out, a, count * how->width);
    how->combine(out, b, count, how->user);
}

void td_reduction_combine(const td_reduction *how, const void *a, const void *b, size_t count,
                          void *out)
{
    td_reduction_fold(how, (const void *[]){a, b}, 2, count, out);
}

bool td_reduction_in_parts(const td_reduction *how)
{
    return !is_half(how);
}

/* --- many parts --- */

typedef struct folder {
    const td_reduction *how;
    const void *const *part;
    const int *leaves;  /* of each part; NULL: one */
    size_t from, count; /* elements of the piece */
    _Alignas(64) char room[2 * MOST_DEPTH][2 * PIECE];
} folder;

static const void *leaf(folder *f, int k, void *room)
{
    const char *at = (const char *)f->part[k] + f->from * f->how->width;
    if (!is_half(f->how)) return at;
    widen(f->how->type, at, f->count, room);
    return room;
}

/* Parts [lo, hi), which stand for n leaves: the larger power of two left, the rest right. Written
 * to `to`. */
static const void *fold(folder *f, int lo, int hi, int n, int depth, void *to)
{
    if (hi - lo == 1) return leaf(f, lo, to);
    int left = 1, middle = lo;
    while (2 * left < n) left *= 2;
    if (!f->leaves) middle = lo + left;
    for (int k = 0; k < left && f->leaves; k += f->leaves[middle++]) {
    }
    const void *a = fold(f, lo, middle, left, depth + 1, f->room[2 * depth]);
    const void *b = fold(f, middle, hi, n - left, depth + 1, f->room[2 * depth + 1]);
    if (f->how->combine && b == to) { /* the user's function works in place */
        memcpy(f->room[2 * depth + 1], b, f->count * f->how->width);
        b = f->room[2 * depth + 1];
    }
    combine_wide(f->how, a, b, f->count, to);
    return to;
}

static void in_pieces(const td_reduction *how, const void *const *part, const int *leaves, int n,
                      size_t count, void *out, bool chain)
{
    folder f; /* its room is large, and needs no beginning */
    f.how = how, f.part = part, f.leaves = leaves;
    int all = n;
    for (int k = 0; k < n && leaves; k++) all += leaves[k] - 1;
    size_t most = how->width < PIECE ? PIECE / how->width : 1;
    bool half = is_half(how);
    _Alignas(64) char wide[2 * PIECE];
    for (size_t at = 0; at < count; at += f.count) {
        f.from = at, f.count = count - at < most ? count - at : most;
        char *to = (char *)out + at * how->width;
        const void *got;
        if (chain) {
            got = leaf(&f, 0, wide);
            for (int k = 1; k < n; k++) {
                void *sum = k == n - 1 && !half ? (void *)to : wide;
                combine_wide(how, got, leaf(&f, k, f.room[0]), f.count, sum);
                got = sum;
            }
        } else {
            got = fold(&f, 0, n, all, 0, half ? (void *)wide : to);
        }
        if (half)
            narrow(how->type, got, f.count, to);
        else if (got != to)
            td_kernels_best()->copy(f.count * how->width, got, to);
    }
}

void td_reduction_fold_nodes(const td_reduction *how, const void *const *part, const int *leaves,
                             int n, size_t count, void *out)
{
    bool plain = !how->combine && !is_half(how);
    if (n == 2 && plain)
        combine_as(how->type, how->op, part[0], part[1], count, out);
    else if (how->width <= PIECE)
        in_pieces(how, part, leaves, n, count, out, false);
}

void td_reduction_fold(const td_reduction *how, const void *const *part, int n, size_t count,
                       void *out)
{
    td_reduction_fold_nodes(how, part, NULL, n, count, out);
}

void td_reduction_chain(const td_reduction *how, const void *const *part, int n, size_t count,
                        void *out)
{
    if (how->width <= PIECE) in_pieces(how, part, NULL, n, count, out, true);
}
