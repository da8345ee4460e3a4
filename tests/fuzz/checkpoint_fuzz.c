/* Any bytes as the two files of a checkpoint, tensors and the manifest, and as a model's
 * description of its data. */
#include "ckpt/bundle.h"
#include "data/schema.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    td_safetensors *file;
    td_manifest manifest;
    float out[4];
    /* In memory of exactly this size, so that a read beyond it is seen. */
    unsigned char *copy = malloc(size ? size : 1);
    if (!copy) return 0;
    memcpy(copy, bytes, size);
    if (td_safetensors_parse("state.safetensors", copy, size, &file) == TD_OK) {
        if (td_safetensors_read(file, "w", 4, out) == TD_OK && size < 24) abort();
        td_bundle one = {.file = &file, .count = 1}; /* also as rows of a tensor, "w[0:1]" */
        if (td_bundle_read(&one, "w", 2, 4, out) == TD_OK && size < 24) abort();
        td_safetensors_close(file);
    }
    if (td_manifest_parse("manifest.json", (const char *)copy, size, "checkpoint",
                          "state.safetensors", &manifest) == TD_OK) {
        if (manifest.count < 1 || manifest.count > TD_BUNDLE_FILES) abort();
        td_manifest_free(&manifest);
    }
    json_t *schema = json_loadb((const char *)copy, size, 0, NULL), *again;
    td_dataset *like;
    if (schema && td_schema_open(schema, "manifest.json", &like) == TD_OK) {
        if (td_schema_make(like, &again) != TD_OK) abort();
        json_decref(again);
        td_dataset_close(like);
    }
    json_decref(schema);
    free(copy);
    return 0;
}
