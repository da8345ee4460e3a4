/* Between the files of this folder. */
#ifndef TD_MODELS_NET_SAVE_H
#define TD_MODELS_NET_SAVE_H

#include "models/net/net_model.h"

TD_MUST_CHECK td_status td_net_model_save(const td_net_model *model, const float *params,
                                          const char *folder, json_t *metrics);

/* What the model's manifest says; NULL without memory. metrics is borrowed. */
json_t *td_net_model_manifest(const td_net_model *model, json_t *metrics);

#endif
