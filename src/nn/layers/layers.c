/* Every kind of layer, and what several of them share. */
#include "nn/layers/layers.h"

#include <string.h>

const td_layer_ops *const td_layer_table[] = {
    &td_layer_dense,   &td_layer_conv, &td_layer_maxpool, &td_layer_avgpool,
    &td_layer_gap,     &td_layer_bn,   &td_layer_ln,      &td_layer_dropout,
    &td_layer_relu,    &td_layer_gelu, &td_layer_tanh,    &td_layer_sigmoid,
    &td_layer_flatten, &td_layer_sum,  &td_layer_input,   NULL,
};

const td_slot *td_layer_slot(const td_layer_run *run, int which)
{
    return &run->layer->slots_of_net[run->layer->slot + which];
}

const float *td_layer_param(const td_layer_run *run, int which)
{
    return run->pass->params + td_layer_slot(run, which)->offset;
}

/* A lane holds at most 4,096 leaves: a stack of 13 partial sums and one being made. */
enum { FOLD_DEPTH = 14 };

size_t td_fold_scratch(size_t count)
{
    return FOLD_DEPTH * count;
}

void td_fold_leaves(td_layer_run *run, size_t count, float *scratch, td_leaf_gradient *leaf,
                    td_leaf_write *write)
{
    const td_net_pass *pass = run->pass;
    size_t depth = 0;
    for (int l = 0; l < pass->leaves; l++) {
        float *g = scratch + depth++ * count;
        memset(g, 0, count * sizeof *g);
        leaf(run, l, g);
        for (int merge = 0; merge < pass->merges[l]; merge++) {
            float *newer = scratch + --depth * count, *older = newer - count;
            run->k->add(count, older, newer, older);
        }
    }
    for (size_t node = 0; node < depth; node++)
        write(run, scratch + node * count, pass->nodes[node]);
}
