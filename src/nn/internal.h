/* The inside of a network, shared by arch.c (which builds it) and net.c (which runs it). */
#ifndef TD_NN_INTERNAL_H
#define TD_NN_INTERNAL_H

#include "nn/layer.h"
#include "nn/loss.h"

typedef struct td_value {
    td_shape shape;
    int producer; /* layer, -1: the network's input */
    int readers;
    size_t at;    /* offset in a lane's activations per row of the lane; see net.c */
    bool trained; /* depends on parameters, so that its gradient is needed */
    int gradient; /* buffer number, -1: none */
} td_value;

struct td_net {
    td_layer *layers;
    int layer_count, layer_room;
    td_value *values; /* [value_count]; 0 is the input */
    int value_count, value_room;
    td_slot *slots;
    size_t slot_count, slot_room;
    size_t params;
    td_loss loss;
    char *arch;
    size_t activations;     /* floats per row */
    size_t gradient_floats; /* of each gradient buffer, per row */
    int gradients;          /* buffers */
};

/* Parses the line and appends layers. */
TD_MUST_CHECK td_status td_arch_build(td_net *net, const td_net_config *config);

/* Appends a layer that reads value `in` (and in2, or -1) and returns its output value in *out. */
TD_MUST_CHECK td_status td_net_append(td_net *net, const td_layer *wanted, int in, int in2,
                                      int *out);

#endif
