/* A bundle: a folder with manifest.json (manifest.h) and safetensors files, written as a whole or
 * not at all. Checkpoints and models are bundles. One is whole when all lengths and checksums
 * agree.
 *
 *   model/manifest.json, model.safetensors
 *   step-000000120/manifest.json, state-00001-of-00002.safetensors,
 * state-00002-of-00002.safetensors
 *
 * A tensor may be spread over the files: rows [a, b) of it are called "NAME[a:b]".
 *
 * Invariant: whatever is interrupted, a bundle once written can be opened, the older or the newer.
 * The new one is written as NAME.part and synced; then the two names are exchanged in one step, or,
 * on file systems that cannot, NAME moves to NAME.old and NAME.part to NAME. Who finds no NAME
 * takes NAME.old. One writer and any number of readers at once; a reader whose bundle is replaced
 * under its hands begins again. */
#ifndef TD_CKPT_BUNDLE_H
#define TD_CKPT_BUNDLE_H

#include "ckpt/manifest.h"
#include "ckpt/safetensors.h"

/* `state` is borrowed. The tensors go into one file, `file` ("model.safetensors"). */
TD_MUST_CHECK td_status td_bundle_write(const char *folder, const char *kind, json_t *state,
                                        const char *file, const td_tensor *tensors, size_t n);

/* The same by several writers: each calls td_bundle_part, which makes the folder (none minds the
 * others), and puts its files there, synced; when all are there one of them seals the bundle, and
 * on failure removes the part. part holds TD_PATH_MAX bytes. */
TD_MUST_CHECK td_status td_bundle_part(const char *folder, char part[TD_PATH_MAX]);
TD_MUST_CHECK td_status td_bundle_seal(const char *folder, const char *kind, json_t *state,
                                       const char *file, const td_bundle_file *files, size_t n);
/* Removes what writers have put there. */
TD_MUST_CHECK td_status td_bundle_drop(const char *folder);

/* The last step of a write: `fresh`, finished and synced, comes to lie under the name `folder`, and
 * what lay there is removed. exchange false: as where names cannot be exchanged. */
TD_MUST_CHECK td_status td_bundle_replace(const char *fresh, const char *folder, bool exchange);

/* Whether there is a folder to open. */
bool td_bundle_exists(const char *folder);

typedef struct td_bundle {
    json_t *state;         /* owned */
    td_safetensors **file; /* [count], owned */
    size_t count;
} td_bundle;
/* Opens a bundle of that kind and checks it against its manifest. TD_ERR_CORRUPT, TD_ERR_IO. */
TD_MUST_CHECK td_status td_bundle_open(const char *folder, const char *kind, const char *file,
                                       td_bundle *out);
void td_bundle_close(td_bundle *bundle); /* a zeroed one is fine */

/* Copies a tensor of `rows` rows, `count` floats in all, from wherever its rows lie. TD_ERR_CORRUPT
 * when some are missing: the sentence names a file and the tensor. */
TD_MUST_CHECK td_status td_bundle_read(const td_bundle *bundle, const char *name, size_t rows,
                                       size_t count, float *out);

/* The bundle with the highest number below `below` (UINT64_MAX: any) among folder/PREFIX-NUMBER;
 * TD_ERR_DATA when there is none. */
TD_MUST_CHECK td_status td_bundle_newest(const char *folder, const char *prefix, uint64_t below,
                                         uint64_t *out_number, char out[TD_PATH_MAX]);
/* Removes all but the `keep` highest-numbered ones. */
TD_MUST_CHECK td_status td_bundle_prune(const char *folder, const char *prefix, int keep);
/* Removes what unfinished writes have left; nobody may be writing. */
TD_MUST_CHECK td_status td_bundle_prune_parts(const char *folder, const char *prefix);

#endif
