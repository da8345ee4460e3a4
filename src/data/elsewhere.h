/* A data set that lies elsewhere, for ranks that others read for: what it is, without its samples.
 *
 *   {"schema": as schema.h has it, "samples": 1000, "fingerprint": "0123456789abcdef"} */
#ifndef TD_DATA_ELSEWHERE_H
#define TD_DATA_ELSEWHERE_H

#include "data/schema.h"

/* *out: a new reference. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_elsewhere_make(const td_dataset *dataset, json_t **out);
/* Has the number of samples and the fingerprint of the one that was described, and may be `like`
 * for others; no sample may be asked for. `name` is for messages. TD_ERR_CORRUPT, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_elsewhere_open(const json_t *described, const char *name,
                                          td_dataset **out);

#endif
