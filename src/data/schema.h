/* What a test set must fit, without a sample of the training set: shape, columns, categories,
 * classes. A model keeps it, so that new data can be read when the training data are gone.
 *
 *   {"path": "train.csv", "shape": [4], "one_hot": true, "index_base": -1,
 *    "columns": [{"name": "size"}, {"name": "colour", "categories": ["blue", "green", "red"]}],
 *    "classes": 2, "class_names": ["no", "yes"], "class_values": [-1.0, 1.0]}
 *
 * "columns" only where they have names or categories (of which only hashes are kept: "hashed":
 * true, and beside "columns" the "hash_seed"); "class_names" and "class_values" only where the data
 * set has them. */
#ifndef TD_DATA_SCHEMA_H
#define TD_DATA_SCHEMA_H

#include "data/dataset.h"

#include <jansson.h>

/* The schema of a data set or a view; *out is a new reference. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_schema_make(const td_dataset *dataset, json_t **out);

/* A data set of no samples that can be td_data_config.like, as the one it was made from. `name` is
 * for messages. TD_ERR_CORRUPT, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_schema_open(const json_t *schema, const char *name, td_dataset **out);

/* Text as JSON: a string or, where its bytes are not UTF-8, {"hex": "e9"}. NULL without memory. */
json_t *td_text_to_json(const char *text);
/* The text in new memory (td_free). TD_ERR_CORRUPT, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_text_from_json(const json_t *json, char **out);

#endif
