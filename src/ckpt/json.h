/* Writing JSON so that memory that runs out is noticed. */
#ifndef TD_CKPT_JSON_H
#define TD_CKPT_JSON_H

#include "tandem/status.h"

#include <jansson.h>

/* `json` as text in new memory (td_free); flags are those of json_dumps. TD_ERR_NOMEM, also where
 * json is NULL: what could not be made. */
TD_MUST_CHECK td_status td_json_text(const json_t *json, size_t flags, char **out);

#endif
