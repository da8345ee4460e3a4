/* Tandem: neural networks as a list of layers over flat arrays of floats.
 *
 * All parameters of a network are one array, cut into named slots; its gradient has the same cut.
 * Activations are [rows][height][width][channels] inside, while slots have the shapes and the
 * order that PyTorch's modules use (dense: [out][in]; conv: [out][in / groups][kh][kw]).
 *
 * A global batch is cut into leaves; a network computes the gradient sums of the tree nodes that
 * its leaves make (see tandem/comm.h), each leaf from its own samples alone.
 *
 * Sample weights multiply a sample's loss and gradient, and the batch's sums are divided by the sum
 * of its weights. Batch norm weighs likewise: a leaf's mean and variance are those of its samples
 * under their weights (relative to each other), running statistics the mean of the leaves' under
 * what each leaf weighs. So a sample of weight 2 counts as two, one of weight 0 as none, and
 * weights that are all equal as none at all. The unbiased variance takes the samples for (sum w)^2
 * / sum w^2 equal ones (Kish 1965). */
#ifndef TANDEM_NET_H
#define TANDEM_NET_H

#include "tandem/slot.h"
#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Binary (the logistic loss) and hinge: two classes, one output. Poisson: the output is the
 * logarithm of a rate, the target a count. */
typedef enum td_loss {
    TD_LOSS_SOFTMAX,
    TD_LOSS_SQUARED,
    TD_LOSS_BINARY,
    TD_LOSS_HINGE,
    TD_LOSS_POISSON
} td_loss;
TD_API extern const char *const td_loss_names[]; /* softmax squared binary hinge poisson */

static inline bool td_loss_has_classes(td_loss loss)
{
    return loss != TD_LOSS_SQUARED && loss != TD_LOSS_POISSON;
}

typedef struct td_net td_net;

typedef struct td_net_config {
    const char *arch; /* layers in a line, or a preset: softmax, mlp, lenet, resnet20 */
    size_t channels, height, width; /* of a sample; a table has height and width 1 */
    size_t outputs; /* wanted of the last layer; 0 in arch ("dense:0") takes this number */
    td_loss loss;
} td_net_config;

/* Builds the layers and the slots. TD_ERR_ARG names the layer whose shape does not fit. */
TD_API TD_MUST_CHECK td_status td_net_create(const td_net_config *config, td_net **out);
TD_API void td_net_destroy(td_net *net); /* NULL is fine */

TD_API size_t td_net_params(const td_net *net); /* floats of the parameter array */
TD_API const td_slot *td_net_slots(const td_net *net, size_t *out_count);
TD_API size_t td_net_outputs(const td_net *net);
/* The arch line with presets written out. */
TD_API const char *td_net_arch(const td_net *net);

/* Initial values from the seed alone. `how`: "fan-in" (uniform +-1/sqrt(fan in), weights and
 * biases: PyTorch's default), "he", "he-normal" (He et al. 2015), "xavier", "xavier-normal" (Glorot
 * and Bengio 2010), the last four with zero biases. NULL means "fan-in". */
TD_API TD_MUST_CHECK td_status td_net_init(const td_net *net, const char *how, uint64_t seed,
                                           float *params);
/* What `how` may be, NULL at the end. */
TD_API extern const char *const td_net_init_names[];

/* A preset's arch line, or NULL; presets by number, NULL behind the last. */
TD_API const char *td_net_preset(const char *name);
TD_API const char *td_net_preset_name(int index);

#ifdef __cplusplus
}
#endif
#endif
