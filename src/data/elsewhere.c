/* See elsewhere.h. */
#include "data/elsewhere.h"

#include "base/error.h"

#include <inttypes.h>
#include <stdio.h>

td_status td_elsewhere_make(const td_dataset *dataset, json_t **out)
{
    char fingerprint[17];
    json_t *schema = NULL;
    TD_TRY(td_schema_make(dataset, &schema));
    snprintf(fingerprint, sizeof fingerprint, "%016" PRIx64, td_dataset_fingerprint(dataset));
    *out = json_pack("{s:o, s:I, s:s}", "schema", schema, "samples",
                     (json_int_t)dataset->info.samples, "fingerprint", fingerprint);
    return *out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to describe %s", dataset->info.path);
}

td_status td_elsewhere_open(const json_t *described, const char *name, td_dataset **out)
{
    const char *text = json_string_value(json_object_get(described, "fingerprint"));
    json_int_t samples = json_integer_value(json_object_get(described, "samples"));
    uint64_t fingerprint;
    td_dataset *d;
    if (samples < 1 || !text || sscanf(text, "%16" SCNx64, &fingerprint) != 1 || !fingerprint)
        return td_fail(TD_ERR_CORRUPT, "%s: its description of the training data is damaged", name);
    TD_TRY(td_schema_open(json_object_get(described, "schema"), name, &d));
    d->info.samples = (uint64_t)samples;
    d->elsewhere = fingerprint;
    *out = d;
    return TD_OK;
}
