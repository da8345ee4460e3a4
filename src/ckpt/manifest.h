/* A bundle's manifest.json:
 *
 *   {"tandem": 1, "kind": ..., "state": {...}, "files": [{name, bytes, xxh64}, ...], "xxh64": ...}
 *
 * It names every file's length and checksum, and that of itself (of its compact form with keys in
 * order, without the checksum; earlier versions wrote none). */
#ifndef TD_CKPT_MANIFEST_H
#define TD_CKPT_MANIFEST_H

#include "base/fs.h"

#include <jansson.h>

enum { TD_BUNDLE_NAME = 64, TD_BUNDLE_FILES = 4096 };

/* A file of a bundle, as its manifest has it. */
typedef struct td_bundle_file {
    uint64_t bytes, hash; /* XXH64 of all its bytes */
} td_bundle_file;

/* The name of file i of n: `file` itself where it is the only one, else "state-00002-of-00016" with
 * its ending. */
void td_bundle_file_name(const char *file, size_t i, size_t n, char name[TD_BUNDLE_NAME]);

/* Writes folder/manifest.json; `state` is borrowed. TD_ERR_IO, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_manifest_write(const char *folder, const char *kind, json_t *state,
                                          const char *file, const td_bundle_file *files, size_t n);

typedef struct td_manifest {
    json_t *state;         /* owned */
    td_bundle_file *files; /* [count], owned */
    size_t count;
} td_manifest;
/* `path` is for sentences. TD_ERR_CORRUPT; TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_manifest_parse(const char *path, const char *text, size_t size,
                                          const char *kind, const char *file, td_manifest *out);
void td_manifest_free(td_manifest *manifest); /* a zeroed one is fine */

#endif
