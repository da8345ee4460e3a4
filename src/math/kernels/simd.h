/* One vector of floats, whatever this file is being compiled for.
 *
 * The files of this folder are compiled once per instruction set, with TD_ISA naming the set and
 * the compiler's flags enabling it. Every kernel is written as chains of fused multiply-adds in
 * one fixed order, so that all sets give the same bits: the width of a vector decides which
 * elements are computed at once, never the order in which one element is summed. */
#ifndef TD_MATH_KERNELS_SIMD_H
#define TD_MATH_KERNELS_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define TD_JOIN2(a, b) a##_##b
#define TD_JOIN(a, b) TD_JOIN2(a, b)
#define TD_K(name) TD_JOIN(name, TD_ISA) /* name_avx2, ... */

#define TD_INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)
#include <immintrin.h>
enum { V_W = 16, MR = 12 };
typedef __m512 vf;
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, v) _mm512_storeu_ps(p, v)
#define v_set1(s) _mm512_set1_ps(s)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_max(a, b) _mm512_max_ps(a, b)
TD_INLINE vf v_load_part(const float *p, int n)
{
    return _mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), p);
}
TD_INLINE void v_store_part(float *p, vf v, int n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), v);
}
TD_INLINE unsigned v_nonzero(vf v) /* bit i: element i is not 0 (or is NaN) */
{
    return _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);
}
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
enum { V_W = 8, MR = 6 };
typedef __m256 vf;
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, v) _mm256_storeu_ps(p, v)
#define v_set1(s) _mm256_set1_ps(s)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_max(a, b) _mm256_max_ps(a, b)
TD_INLINE __m256i v_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TD_INLINE vf v_load_part(const float *p, int n)
{
    return _mm256_maskload_ps(p, v_mask(n));
}
TD_INLINE void v_store_part(float *p, vf v, int n)
{
    _mm256_maskstore_ps(p, v_mask(n), v);
}
TD_INLINE unsigned v_nonzero(vf v)
{
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}
#else
enum { V_W = 4, MR = 4 };
typedef float vf __attribute__((vector_size(16)));
TD_INLINE vf v_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
TD_INLINE void v_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}
TD_INLINE vf v_set1(float s)
{
    return (vf){s, s, s, s};
}
TD_INLINE vf v_fma(vf a, vf b, vf c)
{
    for (int i = 0; i < V_W; i++) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
}
TD_INLINE vf v_add(vf a, vf b)
{
    return a + b;
}
TD_INLINE vf v_mul(vf a, vf b)
{
    return a * b;
}
TD_INLINE vf v_max(vf a, vf b) /* b where either is NaN, as x86 has it */
{
    for (int i = 0; i < V_W; i++) a[i] = a[i] > b[i] ? a[i] : b[i];
    return a;
}
TD_INLINE vf v_load_part(const float *p, int n)
{
    vf v = {0, 0, 0, 0};
    for (int i = 0; i < n; i++) v[i] = p[i];
    return v;
}
TD_INLINE void v_store_part(float *p, vf v, int n)
{
    for (int i = 0; i < n; i++) p[i] = v[i];
}
TD_INLINE unsigned v_nonzero(vf v)
{
    unsigned bits = 0;
    for (int i = 0; i < V_W; i++) bits |= (unsigned)(v[i] != 0) << i;
    return bits;
}
#endif

enum { NR = 2 * V_W }; /* columns of a register tile: two vectors */

/* As v_load and v_store of n floats, n in 1..V_W. */
TD_INLINE vf v_load_n(const float *p, int n)
{
    return n == V_W ? v_load(p) : v_load_part(p, n);
}
TD_INLINE void v_store_n(float *p, vf v, int n)
{
    if (n == V_W)
        v_store(p, v);
    else
        v_store_part(p, v, n);
}

#endif
