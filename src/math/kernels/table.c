/* The table of this instruction set. */
#include "math/kernels/table.h"

#define TD_TEXT2(x) #x
#define TD_TEXT(x) TD_TEXT2(x)

extern const td_kernels TD_K(td_kernels);
const td_kernels TD_K(td_kernels) = {
    .isa = TD_TEXT(TD_ISA),
    .gemm = TD_K(gemm),
    .dense_grad = TD_K(dense_grad),
    .conv_packed = TD_K(conv_packed),
    .conv_pack = TD_K(conv_pack),
    .conv_forward = TD_K(conv_forward),
    .conv_backward = TD_K(conv_backward),
    .copy = TD_K(copy),
    .copy_through = TD_K(copy_through),
    .bytes_to_floats = TD_K(bytes_to_floats),
    .relu = TD_K(relu),
    .relu_grad = TD_K(relu_grad),
    .sigmoid = TD_K(sigmoid),
    .tanh_ = TD_K(tanh_),
    .gelu = TD_K(gelu),
    .gelu_grad = TD_K(gelu_grad),
    .softmax = TD_K(softmax),
    .add = TD_K(add),
    .maxpool = TD_K(maxpool),
    .sgd = TD_K(sgd),
    .adam = TD_K(adam),
    .adagrad = TD_K(adagrad),
    .ftrl = TD_K(ftrl),
    .rmsprop = TD_K(rmsprop),
};
