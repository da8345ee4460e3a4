/* The layers there are; each lives in the file of its name. */
#ifndef TD_NN_LAYERS_LAYERS_H
#define TD_NN_LAYERS_LAYERS_H

#include "nn/layer.h"

extern const td_layer_ops td_layer_dense, td_layer_conv, td_layer_maxpool, td_layer_avgpool,
    td_layer_gap, td_layer_bn, td_layer_ln, td_layer_dropout, td_layer_relu, td_layer_gelu,
    td_layer_tanh, td_layer_sigmoid, td_layer_flatten, td_layer_sum, td_layer_input;

#endif
