/* Four floats at a time, for rows of factors: what every x86-64 and ARMv8 has, so that sums stay in
 * registers without a file for each instruction set. Each element is computed as a scalar is. */
#ifndef TD_MODELS_SPARSE_VECTOR_H
#define TD_MODELS_SPARSE_VECTOR_H

#include <stddef.h>
#include <string.h>

typedef float td_v4 __attribute__((vector_size(16)));

/* Of functions whose constant arguments make straight code. */
#define TD_STRAIGHT static inline __attribute__((always_inline))

static inline td_v4 td_v4_load(const float *p)
{
    td_v4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void td_v4_store(float *p, td_v4 v)
{
    memcpy(p, &v, sizeof v);
}

/* y[i] += c * x[i], for arrays that do not overlap. */
TD_STRAIGHT void td_axpy(size_t n, float c, const float *x, float *y)
{
    size_t i = 0;
    for (; i + 4 <= n; i += 4) td_v4_store(y + i, td_v4_load(y + i) + c * td_v4_load(x + i));
    for (; i < n; i++) y[i] += c * x[i];
}

#endif
