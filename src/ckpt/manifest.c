/* See manifest.h. */
#include "ckpt/manifest.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ckpt/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void td_bundle_file_name(const char *file, size_t i, size_t n, char name[TD_BUNDLE_NAME])
{
    const char *dot = strrchr(file, '.');
    int stem = dot ? (int)(dot - file) : (int)strlen(file);
    if (n == 1)
        snprintf(name, TD_BUNDLE_NAME, "%s", file);
    else
        snprintf(name, TD_BUNDLE_NAME, "%.*s-%05zu-of-%05zu%s", stem, file, i + 1, n,
                 dot ? dot : "");
}

/* XXH64, in hexadecimal, of a manifest that does not hold it yet: compact, keys in order. */
static td_status manifest_digest(const json_t *root, char digest[20])
{
    char *text = NULL;
    TD_TRY(td_json_text(root, JSON_COMPACT | JSON_SORT_KEYS | JSON_REAL_PRECISION(17), &text));
    snprintf(digest, 20, "%016" PRIx64, (uint64_t)XXH64(text, strlen(text), 0));
    td_free(text);
    return TD_OK;
}

static json_t *files_json(const char *file, const td_bundle_file *files, size_t n)
{
    json_t *list = json_array();
    for (size_t i = 0; i < n && list; i++) {
        char name[TD_BUNDLE_NAME], digest[20];
        td_bundle_file_name(file, i, n, name);
        snprintf(digest, sizeof digest, "%016" PRIx64, files[i].hash);
        json_t *row = json_pack("{s:s, s:I, s:s}", "name", name, "bytes",
                                (json_int_t)files[i].bytes, "xxh64", digest);
        if (json_array_append_new(list, row) == 0) continue;
        json_decref(list);
        list = NULL;
    }
    return list;
}

td_status td_manifest_write(const char *folder, const char *kind, json_t *state, const char *file,
                            const td_bundle_file *files, size_t n)
{
    char path[TD_PATH_MAX], digest[20];
    TD_TRY(td_path_join(path, folder, "manifest.json"));
    json_t *root = json_pack("{s:i, s:s, s:O, s:o}", "tandem", 1, "kind", kind, "state", state,
                             "files", files_json(file, files, n));
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

/* files: [n], filled. TD_ERR_CORRUPT without a sentence for rows that cannot be read. */
static td_status read_files(const char *path, const char *kind, const json_t *list,
                            const char *file, td_bundle_file *files)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++) {
        const char *name, *digest;
        char want[TD_BUNDLE_NAME];
        json_int_t bytes;
        td_bundle_file_name(file, i, n, want);
        if (json_unpack(json_array_get(list, i), "{s:s, s:I, s:s}", "name", &name, "bytes", &bytes,
                        "xxh64", &digest) != 0)
            return td_fail(TD_ERR_CORRUPT, "%s is not a manifest of Tandem, or is damaged", path);
        if (strcmp(name, want) != 0)
            return td_fail(TD_ERR_CORRUPT, "%s describes a %.40s, not a bundle with %s", path, kind,
                           want);
        files[i] = (td_bundle_file){(uint64_t)bytes, strtoull(digest, NULL, 16)};
    }
    return TD_OK;
}

static td_status parse_root(const char *path, json_t *root, const char *kind, const char *file,
                            td_manifest *m)
{
    int version;
    const char *kind_there;
    json_t *state, *list;
    if (json_unpack(root, "{s:i, s:s, s:o, s:o}", "tandem", &version, "kind", &kind_there, "state",
                    &state, "files", &list) != 0 ||
        !json_is_object(state) || !json_is_array(list) || json_array_size(list) < 1 ||
        json_array_size(list) > TD_BUNDLE_FILES)
        return td_fail(TD_ERR_CORRUPT, "%s is not a manifest of Tandem, or is damaged", path);
    if (version != 1)
        return td_fail(TD_ERR_CORRUPT, "%s is of format %d; this Tandem reads format 1", path,
                       version);
    if (strcmp(kind_there, kind) != 0)
        return td_fail(TD_ERR_CORRUPT, "%s describes a %.40s, not a %s", path, kind_there, kind);
    m->count = json_array_size(list);
    m->files = td_calloc(m->count, sizeof *m->files);
    if (!m->files) return td_fail(TD_ERR_NOMEM, "no memory for %s", path);
    m->state = json_incref(state);
    TD_TRY(read_files(path, kind, list, file, m->files));
    return check_digest(path, root);
}

td_status td_manifest_parse(const char *path, const char *text, size_t size, const char *kind,
                            const char *file, td_manifest *out)
{
    json_error_t error;
    td_manifest m = {0};
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
    if (!root)
        return td_fail(TD_ERR_CORRUPT, "%s:%d: not a manifest: %s", path, error.line, error.text);
    td_status status = parse_root(path, root, kind, file, &m);
    json_decref(root);
    if (status == TD_OK)
        *out = m;
    else
        td_manifest_free(&m);
    return status;
}

void td_manifest_free(td_manifest *m)
{
    json_decref(m->state);
    td_free(m->files);
    *m = (td_manifest){0};
}
