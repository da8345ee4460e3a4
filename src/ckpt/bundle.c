/* See bundle.h. */
#include "ckpt/bundle.h"

#include "base/alloc.h"
#include "base/error.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

td_status td_bundle_part(const char *folder, char part[TD_PATH_MAX])
{
    TD_TRY(beside(part, folder, ".part"));
    return td_make_dirs(part);
}

td_status td_bundle_drop(const char *folder)
{
    char part[TD_PATH_MAX];
    TD_TRY(beside(part, folder, ".part"));
    return td_remove_tree(part);
}

/* As td_bundle_drop, without losing the sentence of what went wrong. */
static td_status drop_for(const char *folder, td_status why)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (td_bundle_drop(folder) != TD_OK) td_error_clear();
    return td_fail_again(why, sentence);
}

/* Removes what is none of the bundle's files: of writers that died. */
static td_status remove_strangers(const char *part, const char *file, size_t n)
{
    char path[TD_PATH_MAX], name[TD_BUNDLE_NAME];
    td_status status = TD_OK;
    DIR *dir = opendir(part);
    if (!dir) return td_fail_errno("cannot open folder %s", part);
    for (struct dirent *e; status == TD_OK && (e = readdir(dir));) {
        bool ours = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
        for (size_t i = 0; i < n && !ours; i++) {
            td_bundle_file_name(file, i, n, name);
            ours = !strcmp(name, e->d_name);
        }
        if (!ours) status = td_path_join(path, part, e->d_name);
        if (!ours && status == TD_OK) status = td_remove_tree(path);
    }
    closedir(dir);
    return status;
}

td_status td_bundle_seal(const char *folder, const char *kind, json_t *state, const char *file,
                         const td_bundle_file *files, size_t n)
{
    char part[TD_PATH_MAX];
    TD_TRY(beside(part, folder, ".part"));
    td_status status;
    TD_GOTO(remove_strangers(part, file, n));
    TD_GOTO(td_manifest_write(part, kind, state, file, files, n));
    TD_GOTO(td_sync_dir(part));
    status = td_bundle_replace(part, folder, true);
out:
    return status == TD_OK ? TD_OK : drop_for(folder, status);
}

td_status td_bundle_write(const char *folder, const char *kind, json_t *state, const char *file,
                          const td_tensor *tensors, size_t n)
{
    char part[TD_PATH_MAX], path[TD_PATH_MAX];
    td_bundle_file one;
    td_status status;
    TD_TRY(td_bundle_drop(folder));
    TD_GOTO(td_bundle_part(folder, part));
    TD_GOTO(td_path_join(path, part, file));
    TD_GOTO(td_safetensors_write(path, tensors, n, &one.hash, &one.bytes));
    return td_bundle_seal(folder, kind, state, file, &one, 1);
out:
    return drop_for(folder, status);
}

static td_status open_file(const char *path, const td_bundle_file *told, td_safetensors **out)
{
    td_mapping map;
    TD_TRY(td_map_file(path, &map));
    uint64_t there = map.size;
    td_unmap(&map);
    if (there != told->bytes)
        return td_fail(TD_ERR_CORRUPT,
                       "%s is cut off or damaged: it has %" PRIu64 " bytes where "
                       "its manifest says %" PRIu64,
                       path, there, told->bytes);
    TD_TRY(td_safetensors_open(path, out));
    if (td_safetensors_hash(*out) != told->hash)
        return td_fail(TD_ERR_CORRUPT,
                       "%s is damaged: its checksum is %016" PRIx64 " where its "
                       "manifest says %016" PRIx64,
                       path, td_safetensors_hash(*out), told->hash);
    return TD_OK;
}

/* A folder that exists holds all of its files, or is damaged. */
static td_status check_there(const char *folder, const char *path)
{
    if (td_path_exists(path) || !td_path_is_dir(folder)) return TD_OK;
    return td_fail(TD_ERR_CORRUPT, "%s is missing: %s is not whole", path, folder);
}

static td_status open_folder(const char *folder, const char *kind, const char *file, td_bundle *out)
{
    char path[TD_PATH_MAX], name[TD_BUNDLE_NAME], *text = NULL;
    size_t size;
    td_manifest m = {0};
    td_bundle b = {0};
    td_status status;
    TD_GOTO(td_path_join(path, folder, "manifest.json"));
    TD_GOTO(check_there(folder, path));
    TD_GOTO(td_read_file(path, &text, &size));
    TD_GOTO(td_manifest_parse(path, text, size, kind, file, &m));
    b.state = json_incref(m.state);
    b.file = td_calloc(m.count, sizeof *b.file);
    if (!b.file) {
        status = td_fail(TD_ERR_NOMEM, "no memory to read %s", folder);
        goto out;
    }
    for (b.count = 0; b.count < m.count;) {
        td_bundle_file_name(file, b.count, m.count, name);
        TD_GOTO(td_path_join(path, folder, name));
        TD_GOTO(check_there(folder, path));
        size_t i = b.count++; /* closed with the others, where it was opened but is damaged */
        TD_GOTO(open_file(path, &m.files[i], &b.file[i]));
    }
out:
    td_free(text);
    td_manifest_free(&m);
    if (status == TD_OK)
        *out = b;
    else
        td_bundle_close(&b);
    return status;
}

/* Whether `entry` is "NAME[begin:end]". */
static bool is_slice(const char *entry, const char *name, size_t *begin, size_t *end)
{
    size_t n = strlen(name);
    unsigned long long from, to;
    int length = 0;
    if (strncmp(entry, name, n) != 0 || entry[n] != '[') return false;
    if (sscanf(entry + n, "[%llu:%llu]%n", &from, &to, &length) != 2 || entry[n + (size_t)length])
        return false;
    *begin = from, *end = to;
    return length > 0;
}

td_status td_bundle_read(const td_bundle *b, const char *name, size_t rows, size_t count,
                         float *out)
{
    size_t done = 0, begin, end, width = rows ? count / rows : 0;
    for (size_t f = 0; f < b->count; f++)
        if (td_safetensors_has(b->file[f], name))
            return td_safetensors_read(b->file[f], name, count, out);
    for (size_t f = 0; f < b->count; f++) {
        const char *entry = NULL;
        for (void *at = NULL; (entry = td_safetensors_next(b->file[f], &at));) {
            if (!is_slice(entry, name, &begin, &end) || begin != done || end < begin || end > rows)
                continue;
            TD_TRY(
                td_safetensors_read(b->file[f], entry, (end - begin) * width, out + begin * width));
            done = end;
        }
    }
    if (rows && done == rows) return TD_OK;
    return td_safetensors_read(b->file[0], name, count, out); /* it is not there: the sentence */
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
        /* The older one is emptied, and for a while still there, once the newer has its name. */
        bool emptied = where == old && td_path_exists(folder);
        bool again = status != TD_OK && i < TRIES && (emptied || was_replaced(where, held));
        if (held >= 0) close(held);
        if (!again) return status;
    }
}

void td_bundle_close(td_bundle *b)
{
    for (size_t i = 0; i < b->count; i++) td_safetensors_close(b->file[i]);
    td_free(b->file);
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

/* The highest number below `below`, and its folder; `found` false when there is none. */
static td_status highest(const char *folder, const char *prefix, uint64_t below, bool *found,
                         uint64_t *out_number, char out[TD_PATH_MAX])
{
    DIR *dir = opendir(folder);
    long long best = -1;
    char name[256] = "";
    for (struct dirent *e; dir && (e = readdir(dir));) {
        bool old = number_of(e->d_name, prefix, ".old") >= 0;
        long long number = number_of(e->d_name, prefix, old ? ".old" : "");
        if (number <= best || (uint64_t)number >= below) continue;
        best = number;
        snprintf(name, sizeof name, "%.*s", (int)strlen(e->d_name) - (old ? 4 : 0), e->d_name);
    }
    if (dir) closedir(dir);
    *found = best >= 0;
    if (!*found) return TD_OK;
    *out_number = (uint64_t)best;
    return td_path_join(out, folder, name);
}

td_status td_bundle_newest(const char *folder, const char *prefix, uint64_t below,
                           uint64_t *out_number, char out[TD_PATH_MAX])
{
    bool found;
    TD_TRY(highest(folder, prefix, below, &found, out_number, out));
    if (found) return TD_OK;
    return td_fail(TD_ERR_DATA, "%s holds no %s to go on from", folder, prefix);
}

td_status td_bundle_prune_parts(const char *folder, const char *prefix)
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
    uint64_t number = UINT64_MAX;
    for (int kept = 0;; kept++) {
        bool found;
        TD_TRY(highest(folder, prefix, number, &found, &number, path));
        if (!found) return TD_OK;
        TD_TRY(beside(old, path, ".old"));
        if (kept >= keep || td_path_exists(path)) TD_TRY(td_remove_tree(old));
        if (kept >= keep) TD_TRY(td_remove_tree(path));
    }
}
