/* The functions that each instruction set compiles; table.c gathers them. */
#ifndef TD_MATH_KERNELS_TABLE_H
#define TD_MATH_KERNELS_TABLE_H

#include "math/kernels.h"
#include "math/kernels/simd.h"

void TD_K(gemm)(const td_gemm *g);
void TD_K(dense_grad)(const td_dense_grad *g);
size_t TD_K(conv_packed)(const td_conv *s);
void TD_K(conv_pack)(const td_conv *s, const float *weights, float *packed);
void TD_K(conv_forward)(const td_conv *s, size_t rows, const float *x, const float *packed,
                        const float *bias, float *y);
void TD_K(conv_backward)(const td_conv_backward *b);
void TD_K(copy)(size_t bytes, const void *from, void *to);
void TD_K(copy_through)(size_t bytes, const void *from, void *to);
void TD_K(bytes_to_floats)(size_t n, const uint8_t *from, float mean, float scale, float *to);
void TD_K(relu)(size_t n, const float *x, float *y);
void TD_K(relu_grad)(size_t n, const float *y, const float *dy, float *dx);
void TD_K(sigmoid)(size_t n, const float *x, float *y);
void TD_K(tanh_)(size_t n, const float *x, float *y);
void TD_K(gelu)(size_t n, const float *x, float *y);
void TD_K(gelu_grad)(size_t n, const float *x, const float *dy, float *dx);
void TD_K(softmax)(size_t rows, size_t classes, const float *x, float *p);
void TD_K(add)(size_t n, const float *a, const float *b, float *out);
void TD_K(maxpool)(size_t out_h, size_t out_w, size_t channels, size_t in_row, size_t k,
                   size_t stride, const float *x, float *y, int32_t *from);
void TD_K(sgd)(const td_update *u);
void TD_K(adam)(const td_update *u);
void TD_K(adagrad)(const td_update *u);
void TD_K(ftrl)(const td_update *u);
void TD_K(rmsprop)(const td_update *u);

#endif
