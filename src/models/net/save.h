/* Between the files of this folder. */
#ifndef TD_MODELS_NET_SAVE_H
#define TD_MODELS_NET_SAVE_H

#include "models/net/net_model.h"

TD_MUST_CHECK td_status td_net_model_save(const td_net_model *model, const float *params,
                                          const char *folder, json_t *metrics);

/* What the model's manifest says; NULL without memory. metrics is borrowed. */
json_t *td_net_model_manifest(const td_net_model *model, json_t *metrics);

/* Whether it keeps running averages (batch norm). */
bool td_net_averages(const td_net *net);
/* Statistics of one sample are that sample, and what is learnt by them is nothing. least: rows of
 * the smallest leaf; or of the smallest share of a thread. */
void td_net_warn_of_small_leaves(const td_net *net, int least);
void td_net_warn_of_small_shares(const td_net *net, int least);

#endif
