/* A bundle: a folder with manifest.json and safetensors files, written as a whole or not at all.
 * Checkpoints and models are bundles.
 *
 *   manifest.json  {"tandem": 1, "kind": ..., "state": {...}, "files": [{name, bytes, xxh64}],
 *                  "xxh64": ...}
 *
 * The manifest names every file's length and checksum, and that of itself (of its compact form with
 * keys in order, without the checksum; earlier versions wrote none); a bundle is whole when they
 * agree.
 *
 * Invariant: whatever is interrupted, a bundle once written can be opened, the older or the newer.
 * The new one is written as NAME.part and synced; then the two names are exchanged in one step, or,
 * on file systems that cannot, NAME moves to NAME.old and NAME.part to NAME. Who finds no NAME
 * takes NAME.old. One writer and any number of readers at once; a reader whose bundle is replaced
 * under its hands begins again. */
#ifndef TD_CKPT_BUNDLE_H
#define TD_CKPT_BUNDLE_H

#include "ckpt/safetensors.h"

#include <jansson.h>

/* `state` is borrowed. The tensors go into one file, `file` ("model.safetensors"). */
TD_MUST_CHECK td_status td_bundle_write(const char *folder, const char *kind, json_t *state,
                                        const char *file, const td_tensor *tensors, size_t n);

/* The last step of a write: `fresh`, finished and synced, comes to lie under the name `folder`, and
 * what lay there is removed. exchange false: as where names cannot be exchanged. */
TD_MUST_CHECK td_status td_bundle_replace(const char *fresh, const char *folder, bool exchange);

/* Whether there is a folder to open. */
bool td_bundle_exists(const char *folder);

typedef struct td_bundle {
    json_t *state; /* owned */
    td_safetensors *tensors;
} td_bundle;
/* Opens a bundle of that kind and checks it against its manifest. TD_ERR_CORRUPT, TD_ERR_IO. */
TD_MUST_CHECK td_status td_bundle_open(const char *folder, const char *kind, const char *file,
                                       td_bundle *out);
void td_bundle_close(td_bundle *bundle); /* a zeroed one is fine */

/* Parses a manifest; *out_state is a new reference. For td_bundle_open and fuzzing. */
TD_MUST_CHECK td_status td_manifest_parse(const char *path, const char *text, size_t size,
                                          const char *kind, const char *file, json_t **out_state,
                                          uint64_t *out_hash, uint64_t *out_bytes);

/* The bundle with the highest number among folder/PREFIX-NUMBER; TD_ERR_DATA when there is none. */
TD_MUST_CHECK td_status td_bundle_newest(const char *folder, const char *prefix,
                                         char out[TD_PATH_MAX]);
/* Removes all but the `keep` highest-numbered ones and what unfinished writes have left. */
TD_MUST_CHECK td_status td_bundle_prune(const char *folder, const char *prefix, int keep);

#endif
