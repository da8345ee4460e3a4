/* Losses and their gradients at a model's outputs, for whatever model made these. */
#ifndef TD_NN_LOSS_H
#define TD_NN_LOSS_H

#include "nn/net.h"

/* Loss of rows [begin, end) and, where dlogits is given, its gradient at the logits, each times the
 * row's weight; logits and dlogits are [rows][outputs]. Of the pass, label (or target, a class as a
 * number), and weight (or NULL) are looked at. values are written: sums over the rows in order. */
void td_loss_rows(td_loss loss, size_t outputs, const td_net_pass *pass, size_t begin, size_t end,
                  const float *logits, float *dlogits, double values[TD_LEAF_VALUES]);

/* Logits to probabilities (softmax, binary), rates (poisson), or as they are. In place. */
void td_loss_probabilities(td_loss loss, size_t outputs, size_t rows, float *logits);

#endif
