/* See bundle.h. */
#include "ckpt/bundle.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ckpt/json.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static td_status write_manifest(const char *folder, const char *kind, json_t *state,
                                const char *file, uint64_t hash, uint64_t bytes)
{
    char path[TD_PATH_MAX], digest[20];
    TD_TRY(td_path_join(path, folder, "manifest.json"));
    snprintf(digest, sizeof digest, "%016" PRIx64, hash);
    json_t *root = json_pack("{s:i, s:s, s:O, s:[{s:s, s:I, s:s}]}", "tandem", 1, "kind", kind,
                             "state", state, "files", "name", file, "bytes", (json_int_t)bytes,
                             "xxh64", digest);
    char *text = NULL;
    td_status status = td_json_text(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17), &text);
    if (status == TD_OK) status = td_write_file(path, text, strlen(text));
    td_free(text);
    json_decref(root);
    return status;
}

td_status td_bundle_write(const char *folder, const char *kind, json_t *state, const char *file,
                          const td_tensor *tensors, size_t n)
{
    char temporary[TD_PATH_MAX], path[TD_PATH_MAX], parent[TD_PATH_MAX], old[TD_PATH_MAX];
    uint64_t hash, bytes;
    td_status status;
    if (snprintf(temporary, sizeof temporary, "%s.part", folder) >= TD_PATH_MAX ||
        snprintf(old, sizeof old, "%s.old", folder) >= TD_PATH_MAX)
        return td_fail(TD_ERR_ARG, "path too long: %.200s...", folder);
    TD_TRY(td_remove_tree(temporary));
    TD_TRY(td_make_dirs(temporary));
    TD_GOTO(td_path_join(path, temporary, file));
    TD_GOTO(td_safetensors_write(path, tensors, n, &hash, &bytes));
    TD_GOTO(write_manifest(temporary, kind, state, file, hash, bytes));
    TD_GOTO(td_sync_dir(temporary));
    TD_GOTO(td_remove_tree(old));
    if (td_path_exists(folder) && rename(folder, old) != 0) {
        status = td_fail_errno("cannot move %s away", folder);
        goto out;
    }
    if (rename(temporary, folder) != 0) {
        status = td_fail_errno("cannot rename to %s", folder);
        goto out;
    }
    snprintf(parent, sizeof parent, "%s", folder);
    char *slash = strrchr(parent, '/');
    if (slash && slash > parent) *slash = 0;
    status = td_sync_dir(slash ? parent : ".");
    if (status == TD_OK) status = td_remove_tree(old);
    return status;
out:
    if (td_remove_tree(temporary) != TD_OK) return status; /* the first failure is told */
    return status;
}

td_status td_manifest_parse(const char *path, const char *text, size_t size, const char *kind,
                            const char *file, json_t **out_state, uint64_t *out_hash,
                            uint64_t *out_bytes)
{
    json_error_t error;
    int version;
    const char *kind_there, *name, *digest;
    json_t *state;
    json_int_t bytes;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return td_fail(TD_ERR_CORRUPT, "%s:%d: not a manifest: %s", path, error.line, error.text);
    td_status status = TD_OK;
    if (json_unpack(root, "{s:i, s:s, s:o, s:[{s:s, s:I, s:s}]}", "tandem", &version, "kind",
                    &kind_there, "state", &state, "files", "name", &name, "bytes", &bytes, "xxh64",
                    &digest) != 0 || !json_is_object(state))
        status = td_fail(TD_ERR_CORRUPT, "%s is not a manifest of Tandem, or is damaged", path);
    else if (version != 1)
        status = td_fail(TD_ERR_CORRUPT, "%s is of format %d; this Tandem reads format 1", path,
                         version);
    else if (strcmp(kind_there, kind) != 0 || strcmp(name, file) != 0)
        status = td_fail(TD_ERR_CORRUPT, "%s describes a %.40s, not a %s", path, kind_there, kind);
    if (status == TD_OK) {
        *out_state = json_incref(state);
        *out_hash = strtoull(digest, NULL, 16);
        *out_bytes = (uint64_t)bytes;
    }
    json_decref(root);
    return status;
}

td_status td_bundle_open(const char *folder, const char *kind, const char *file, td_bundle *out)
{
    char path[TD_PATH_MAX], *text = NULL;
    size_t size;
    uint64_t hash, bytes;
    td_bundle b = {0};
    td_status status;
    TD_GOTO(td_path_join(path, folder, "manifest.json"));
    TD_GOTO(td_read_file(path, &text, &size));
    TD_GOTO(td_manifest_parse(path, text, size, kind, file, &b.state, &hash, &bytes));
    TD_GOTO(td_path_join(path, folder, file));
    td_mapping map;
    TD_GOTO(td_map_file(path, &map));
    uint64_t there = map.size;
    td_unmap(&map);
    if (there != bytes) {
        status = td_fail(TD_ERR_CORRUPT, "%s is cut off or damaged: it has %" PRIu64 " bytes where "
                         "its manifest says %" PRIu64, path, there, bytes);
        goto out;
    }
    TD_GOTO(td_safetensors_open(path, &b.tensors));
    if (td_safetensors_hash(b.tensors) != hash)
        status = td_fail(TD_ERR_CORRUPT, "%s is damaged: its checksum is %016" PRIx64 " where its "
                         "manifest says %016" PRIx64, path, td_safetensors_hash(b.tensors), hash);
out:
    td_free(text);
    if (status == TD_OK)
        *out = b;
    else
        td_bundle_close(&b);
    return status;
}

void td_bundle_close(td_bundle *b)
{
    td_safetensors_close(b->tensors);
    json_decref(b->state);
    *b = (td_bundle){0};
}

/* The number behind PREFIX-, or -1. */
static long long number_of(const char *name, const char *prefix)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] != '-') return -1;
    char *end;
    long long number = strtoll(name + n + 1, &end, 10);
    return end != name + n + 1 && *end == 0 && number >= 0 ? number : -1;
}

/* The highest number below `limit`, and how many there are below it. */
static td_status highest(const char *folder, const char *prefix, long long limit,
                         long long *out_number, char out[TD_PATH_MAX])
{
    DIR *dir = opendir(folder);
    long long best = -1;
    char name[256] = "";
    for (struct dirent *e; dir && (e = readdir(dir));) {
        long long number = number_of(e->d_name, prefix);
        if (number <= best || number >= limit) continue;
        best = number;
        snprintf(name, sizeof name, "%s", e->d_name);
    }
    if (dir) closedir(dir);
    *out_number = best;
    return best < 0 ? TD_OK : td_path_join(out, folder, name);
}

td_status td_bundle_newest(const char *folder, const char *prefix, char out[TD_PATH_MAX])
{
    long long number;
    TD_TRY(highest(folder, prefix, INT64_MAX, &number, out));
    if (number >= 0) return TD_OK;
    return td_fail(TD_ERR_DATA, "%s holds no %s to go on from", folder, prefix);
}

/* Folders that writes have left unfinished: PREFIX-NUMBER.part. */
static td_status prune_parts(const char *folder, const char *prefix)
{
    char path[TD_PATH_MAX], name[256];
    DIR *dir = opendir(folder);
    td_status status = TD_OK;
    for (struct dirent *e; status == TD_OK && dir && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        if (n <= 5 || strcmp(e->d_name + n - 5, ".part") != 0) continue;
        snprintf(name, sizeof name, "%.*s", (int)(n - 5), e->d_name);
        if (number_of(name, prefix) < 0) continue;
        status = td_path_join(path, folder, e->d_name);
        if (status == TD_OK) status = td_remove_tree(path);
    }
    if (dir) closedir(dir);
    return status;
}

td_status td_bundle_prune(const char *folder, const char *prefix, int keep)
{
    char path[TD_PATH_MAX];
    long long limit = INT64_MAX;
    TD_TRY(prune_parts(folder, prefix));
    for (int kept = 0;; kept++) {
        long long number;
        TD_TRY(highest(folder, prefix, limit, &number, path));
        if (number < 0) return TD_OK;
        if (kept >= keep) TD_TRY(td_remove_tree(path));
        limit = number;
    }
}
