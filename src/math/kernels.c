/* Which table of kernels this processor runs, and the sizes of their scratch. */
#include "math/kernels.h"

extern const td_kernels td_kernels_portable;
#ifdef TD_HAVE_X86
extern const td_kernels td_kernels_avx2;
extern const td_kernels td_kernels_avx512;
#endif

size_t td_dense_grad_scratch(size_t rows, size_t out)
{
    return rows * (out + TD_DENSE_GRAD_BLOCK);
}

static size_t up16(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

size_t td_conv_scratch(const td_conv *s)
{
    size_t pixels = td_conv_pixels(s), channels = (size_t)s->out_c;
    return up16(channels) + up16(pixels + 1) + 4 * up16(pixels * channels) + td_conv_padded(s) +
           TD_CONV_SLACK;
}

const td_kernels *const *td_kernels_all(void)
{
#ifdef TD_HAVE_X86
    static const td_kernels *const wide[] = {&td_kernels_portable, &td_kernels_avx2,
                                             &td_kernels_avx512, NULL};
    static const td_kernels *const middle[] = {&td_kernels_portable, &td_kernels_avx2, NULL};
#endif
    static const td_kernels *const plain[] = {&td_kernels_portable, NULL};
#ifdef TD_HAVE_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return __builtin_cpu_supports("avx512f") ? wide : middle;
#endif
    return plain;
}

const td_kernels *td_kernels_best(void)
{
    const td_kernels *const *all = td_kernels_all();
    while (all[1]) all++;
    return *all;
}
