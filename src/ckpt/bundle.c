/* See bundle.h. */
#include "ckpt/bundle.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ckpt/json.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

/* XXH64, in hexadecimal, of a manifest that does not hold it yet: compact, keys in order. */
static td_status manifest_digest(const json_t *root, char digest[20])
{
    char *text = NULL;
    TD_TRY(td_json_text(root, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17), &text));
    snprintf(digest, 20, "%016" PRIx64, (uint64_t)XXH64(text, strlen(text), 0));
    td_free(text);
    return TD_OK;
}

static td_status write_manifest(const char *folder, const char *kind, json_t *state,
                                const char *file, uint64_t hash, uint64_t bytes)
{
    char path[TD_PATH_MAX], digest[20];
    TD_TRY(td_path_join(path, folder, "manifest.json"));
    snprintf(digest, sizeof digest, "%016" PRIx64, hash);
    json_t *root =
        json_pack("{s:i, s:s, s:O, s:[{s:s, s:I, s:s}]}", "tandem", 1, "kind", kind, "state", state,
                  "files", "name", file, "bytes", (json_int_t)bytes, "xxh64", digest);
    char *text = NULL;
    td_status status = manifest_digest(root, digest);
    if (status == TD_OK && json_object_set_new(root, "xxh64", json_string(digest)) != 0)
        status = td_fail(TD_ERR_NOMEM, "no memory for %s", path);
    if (status == TD_OK)
        status = td_json_text(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17), &text);
    if (status == TD_OK) status = td_write_file(path, text, strlen(text));
    td_free(text);
    json_decref(root);
    return status;
}

/* path = folder with suffix behind. */
static td_status beside(char path[TD_PATH_MAX], const char *folder, const char *suffix)
{
    if (snprintf(path, TD_PATH_MAX, "%s%s", folder, suffix) < TD_PATH_MAX) return TD_OK;
    return td_fail(TD_ERR_ARG, "path too long: %.200s...", folder);
}

static td_status sync_parent(const char *folder)
{
    char parent[TD_PATH_MAX];
    snprintf(parent, sizeof parent, "%s", folder);
    char *slash = strrchr(parent, '/');
    if (slash && slash > parent) *slash = 0;
    return td_sync_dir(slash ? parent : ".");
}

td_status td_bundle_replace(const char *fresh, const char *folder, bool exchange)
{
    char old[TD_PATH_MAX];
    const char *behind = old; /* what is left to remove */
    bool there = td_path_exists(folder);
    td_status status = TD_ERR_UNSUPPORTED;
    TD_TRY(beside(old, folder, ".old"));
    if (there && exchange) status = td_exchange_paths(fresh, folder);
    if (status == TD_OK) {
        behind = fresh;
    } else if (status != TD_ERR_UNSUPPORTED) {
        return status;
    } else {
        if (there) TD_TRY(td_remove_tree(old)); /* else it may be all there is */
        if (there && rename(folder, old) != 0) return td_fail_errno("cannot move %s away", folder);
        if (rename(fresh, folder) != 0) {
            status = td_fail_errno("cannot rename to %s", folder);
            if (there && rename(old, folder) != 0) return status; /* found as .old */
            return status;
        }
    }
    TD_TRY(sync_parent(folder));
    return td_remove_tree(behind);
}

td_status td_bundle_write(const char *folder, const char *kind, json_t *state, const char *file,
                          const td_tensor *tensors, size_t n)
{
    char temporary[TD_PATH_MAX], path[TD_PATH_MAX];
    uint64_t hash, bytes;
    td_status status;
    TD_TRY(beside(temporary, folder, ".part"));
    TD_TRY(td_remove_tree(temporary));
    TD_TRY(td_make_dirs(temporary));
    TD_GOTO(td_path_join(path, temporary, file));
    TD_GOTO(td_safetensors_write(path, tensors, n, &hash, &bytes));
    TD_GOTO(write_manifest(temporary, kind, state, file, hash, bytes));
    TD_GOTO(td_sync_dir(temporary));
    status = td_bundle_replace(temporary, folder, true);
out:
    if (status != TD_OK && td_remove_tree(temporary) != TD_OK) return status;
    return status;
}

/* Takes the checksum out of the manifest and compares it. One without it is of an earlier version,
 * but then it holds nothing else that is not known. */
static td_status check_digest(const char *path, json_t *root)
{
    char there[20], digest[20];
    const json_t *held = json_object_get(root, "xxh64");
    if (held && json_is_string(held)) {
        snprintf(there, sizeof there, "%s", json_string_value(held));
        if (json_object_del(root, "xxh64") != 0) return TD_ERR_INTERNAL;
        TD_TRY(manifest_digest(root, digest));
        if (strcmp(there, digest) != 0)
            return td_fail(TD_ERR_CORRUPT,
                           "%s is damaged: its checksum is %s where it says %s itself", path,
                           digest, there);
    }
    if (json_object_size(root) != 4)
        return td_fail(TD_ERR_CORRUPT, "%s is not a manifest of Tandem, or is damaged", path);
    return TD_OK;
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
                    &digest) != 0 ||
        !json_is_object(state))
        status = td_fail(TD_ERR_CORRUPT, "%s is not a manifest of Tandem, or is damaged", path);
    else if (version != 1)
        status = td_fail(TD_ERR_CORRUPT, "%s is of format %d; this Tandem reads format 1", path,
                         version);
    else if (strcmp(kind_there, kind) != 0 || strcmp(name, file) != 0)
        status = td_fail(TD_ERR_CORRUPT, "%s describes a %.40s, not a %s", path, kind_there, kind);
    else
        status = check_digest(path, root);
    if (status == TD_OK) {
        *out_state = json_incref(state);
        *out_hash = strtoull(digest, NULL, 16);
        *out_bytes = (uint64_t)bytes;
    }
    json_decref(root);
    return status;
}

static td_status open_folder(const char *folder, const char *kind, const char *file, td_bundle *out)
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
        status = td_fail(TD_ERR_CORRUPT,
                         "%s is cut off or damaged: it has %" PRIu64 " bytes where "
                         "its manifest says %" PRIu64,
                         path, there, bytes);
        goto out;
    }
    TD_GOTO(td_safetensors_open(path, &b.tensors));
    if (td_safetensors_hash(b.tensors) != hash)
        status = td_fail(TD_ERR_CORRUPT,
                         "%s is damaged: its checksum is %016" PRIx64 " where its "
                         "manifest says %016" PRIx64,
                         path, td_safetensors_hash(b.tensors), hash);
out:
    td_free(text);
    if (status == TD_OK)
        *out = b;
    else
        td_bundle_close(&b);
    return status;
}

bool td_bundle_exists(const char *folder)
{
    char old[TD_PATH_MAX];
    return td_path_is_dir(folder) || (beside(old, folder, ".old") == TD_OK && td_path_is_dir(old));
}

/* Whether `folder` is no longer what `held` has open. */
static bool was_replaced(const char *folder, int held)
{
    struct stat now, then;
    if (held < 0) return td_bundle_exists(folder);
    return stat(folder, &now) != 0 || fstat(held, &then) != 0 || now.st_ino != then.st_ino ||
           now.st_dev != then.st_dev;
}

td_status td_bundle_open(const char *folder, const char *kind, const char *file, td_bundle *out)
{
    enum { TRIES = 20 };
    char old[TD_PATH_MAX];
    TD_TRY(beside(old, folder, ".old"));
    for (int i = 1;; i++) {
        const char *where = !td_path_exists(folder) && td_path_is_dir(old) ? old : folder;
        int held =
            open(where, O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* keeps its number from reuse */
        td_status status = open_folder(where, kind, file, out);
        bool again = status != TD_OK && i < TRIES && was_replaced(where, held);
        if (held >= 0) close(held);
        if (!again) return status;
    }
}

void td_bundle_close(td_bundle *b)
{
    td_safetensors_close(b->tensors);
    json_decref(b->state);
    *b = (td_bundle){0};
}

/* The number between PREFIX- and `suffix`, or -1. */
static long long number_of(const char *name, const char *prefix, const char *suffix)
{
    size_t n = strlen(prefix);
    if (strncmp(name, prefix, n) != 0 || name[n] != '-') return -1;
    char *end;
    long long number = strtoll(name + n + 1, &end, 10);
    return end != name + n + 1 && !strcmp(end, suffix) && number >= 0 ? number : -1;
}

/* The highest number below `limit`, and its folder; -1 when there is none. */
static td_status highest(const char *folder, const char *prefix, long long limit,
                         long long *out_number, char out[TD_PATH_MAX])
{
    DIR *dir = opendir(folder);
    long long best = -1;
    char name[256] = "";
    for (struct dirent *e; dir && (e = readdir(dir));) {
        bool old = number_of(e->d_name, prefix, ".old") >= 0;
        long long number = number_of(e->d_name, prefix, old ? ".old" : "");
        if (number <= best || number >= limit) continue;
        best = number;
        snprintf(name, sizeof name, "%.*s", (int)strlen(e->d_name) - (old ? 4 : 0), e->d_name);
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

static td_status prune_parts(const char *folder, const char *prefix)
{
    char path[TD_PATH_MAX];
    DIR *dir = opendir(folder);
    td_status status = TD_OK;
    for (struct dirent *e; status == TD_OK && dir && (e = readdir(dir));) {
        if (number_of(e->d_name, prefix, ".part") < 0) continue;
        status = td_path_join(path, folder, e->d_name);
        if (status == TD_OK) status = td_remove_tree(path);
    }
    if (dir) closedir(dir);
    return status;
}

td_status td_bundle_prune(const char *folder, const char *prefix, int keep)
{
    char path[TD_PATH_MAX], old[TD_PATH_MAX];
    long long limit = INT64_MAX;
    TD_TRY(prune_parts(folder, prefix));
    for (int kept = 0;; kept++) {
        long long number;
        TD_TRY(highest(folder, prefix, limit, &number, path));
        if (number < 0) return TD_OK;
        TD_TRY(beside(old, path, ".old"));
        if (kept >= keep || td_path_exists(path)) TD_TRY(td_remove_tree(old));
        if (kept >= keep) TD_TRY(td_remove_tree(path));
        limit = number;
    }
}
