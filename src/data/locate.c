/* Which files a path means. Tables of names are tried in order; each name also with .gz. */
#include "data/locate.h"

#include "base/error.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

typedef struct file_pair {
    td_format format;
    const char *main, *label;
} file_pair;

/* The files of a folder, by split. */
static const file_pair train_files[] = {
    {TD_FORMAT_IDX, "train-images-idx3-ubyte", "train-labels-idx1-ubyte"},
    {TD_FORMAT_IDX, "train-images.idx3-ubyte", "train-labels.idx1-ubyte"},
    {TD_FORMAT_CSV, "train.csv", NULL},
    {TD_FORMAT_TSV, "train.tsv", NULL},
    {TD_FORMAT_LIBSVM, "train.svm", NULL},
    {TD_FORMAT_LIBSVM, "train.libsvm", NULL},
    {TD_FORMAT_LIBFFM, "train.ffm", NULL},
    {TD_FORMAT_LIBFFM, "train.libffm", NULL},
    {TD_FORMAT_NPY, "train.npz", NULL},
    {TD_FORMAT_NPY, "train_x.npy", "train_y.npy"},
    {TD_FORMAT_NPY, "x_train.npy", "y_train.npy"},
    {0},
};
static const file_pair test_files[] = {
    {TD_FORMAT_IDX, "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"},
    {TD_FORMAT_IDX, "t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"},
    {TD_FORMAT_IDX, "test-images-idx3-ubyte", "test-labels-idx1-ubyte"},
    {TD_FORMAT_IDX, "test-images.idx3-ubyte", "test-labels.idx1-ubyte"},
    {TD_FORMAT_CSV, "test.csv", NULL},
    {TD_FORMAT_TSV, "test.tsv", NULL},
    {TD_FORMAT_LIBSVM, "test.svm", NULL},
    {TD_FORMAT_LIBSVM, "test.libsvm", NULL},
    {TD_FORMAT_LIBFFM, "test.ffm", NULL},
    {TD_FORMAT_LIBFFM, "test.libffm", NULL},
    {TD_FORMAT_NPY, "test.npz", NULL},
    {TD_FORMAT_NPY, "test_x.npy", "test_y.npy"},
    {TD_FORMAT_NPY, "x_test.npy", "y_test.npy"},
    {0},
};

/* path, or path.gz where only that exists. */
static td_status find_plain_or_gz(const char *dir, const char *name, char out[TD_PATH_MAX],
                                  bool *found)
{
    char path[TD_PATH_MAX];
    TD_TRY(td_path_join(path, dir, name));
    *found = td_path_exists(path);
    if (!*found && strlen(path) + 4 < sizeof path) {
        strcat(path, ".gz");
        *found = td_path_exists(path);
    }
    if (*found) memcpy(out, path, strlen(path) + 1);
    return TD_OK;
}

static bool wants_no_label(const td_data_config *config)
{
    return config->no_labels || (config->label && !strcmp(config->label, "none"));
}

static td_status locate_in_folder(const td_data_config *config, td_location *out)
{
    const char *dir = config->path;
    const file_pair *files = config->split == TD_SPLIT_TEST ? test_files : train_files;
    for (const file_pair *f = files; f->main; f++) {
        bool found;
        if (config->format != TD_FORMAT_AUTO && config->format != f->format) continue;
        TD_TRY(find_plain_or_gz(dir, f->main, out->main, &found));
        if (!found) continue;
        out->reader = td_reader_find(f->format);
        if (!f->label || wants_no_label(config)) return TD_OK;
        TD_TRY(find_plain_or_gz(dir, f->label, out->label, &found));
        if (!found)
            return td_fail(TD_ERR_DATA, "%s holds %s but not its labels, %s or %s.gz", dir, f->main,
                           f->label, f->label);
        return TD_OK;
    }
    char looked_for[600] = "";
    size_t used = 0;
    for (const file_pair *f = files; f->main && used < sizeof looked_for; f++) {
        if (config->format != TD_FORMAT_AUTO && config->format != f->format) continue;
        int n = snprintf(looked_for + used, sizeof looked_for - used, "%s%s", used ? ", " : "",
                         f->main);
        used += n > 0 ? (size_t)n : 0;
    }
    return td_fail(TD_ERR_DATA, "folder %s holds no %s data: looked for %s, each also with .gz",
                   dir, td_split_names[config->split], looked_for);
}

/* The length of `path` without a trailing .gz. */
static size_t stem_length(const char *path)
{
    size_t length = strlen(path);
    return length > 3 && !strcasecmp(path + length - 3, ".gz") ? length - 3 : length;
}

static const td_reader *reader_by_name(const char *path)
{
    size_t length = stem_length(path);
    for (int i = 0; td_readers[i]; i++)
        for (const char *const *e = td_readers[i]->extensions; *e; e++) {
            size_t n = strlen(*e);
            if (length >= n && !strncasecmp(path + length - n, *e, n)) return td_readers[i];
        }
    return NULL;
}

/* out = the path with the last `from` in its file name put as `to`; false when it has none or the
 * result does not fit. */
static bool replaced(const char *path, const char *from, const char *to, char out[TD_PATH_MAX])
{
    const char *name = strrchr(path, '/'), *at = NULL;
    name = name ? name + 1 : path;
    for (const char *next = name; (next = strstr(next, from)); next++) at = next;
    if (!at) return false;
    int n = snprintf(out, TD_PATH_MAX, "%.*s%s%s", (int)(at - path), path, to, at + strlen(from));
    return n > 0 && n < TD_PATH_MAX;
}

/* The file as named, or with .gz put behind or taken away; `path` says which. */
static bool exists_either_way(char path[TD_PATH_MAX])
{
    if (td_path_exists(path)) return true;
    size_t stem = stem_length(path), length = strlen(path);
    if (stem == length && length + 4 >= TD_PATH_MAX) return false;
    memcpy(path + stem, stem < length ? "" : ".gz", stem < length ? 1 : 4);
    if (td_path_exists(path)) return true;
    memcpy(path + stem, stem < length ? ".gz" : "", stem < length ? 4 : 1);
    return false;
}

static td_status locate_labels(td_location *out)
{
    char guess[TD_PATH_MAX], more[TD_PATH_MAX];
    if (out->reader->format == TD_FORMAT_IDX) {
        if (!replaced(out->main, "images", "labels", guess))
            return td_fail(TD_ERR_DATA,
                           "%s: an IDX file of images has \"images\" in its name, that of its "
                           "labels \"labels\" in its place",
                           out->main);
        for (char d = '3'; d >= '2'; d--)
            if (replaced(guess, d == '3' ? "idx3" : "idx2", "idx1", more))
                memcpy(guess, more, strlen(more) + 1);
    } else if (!replaced(out->main, "_x.npy", "_y.npy", guess) &&
               !replaced(out->main, "x_", "y_", guess) && !replaced(out->main, "X_", "y_", guess) &&
               !replaced(out->main, "x.npy", "y.npy", guess) &&
               !replaced(out->main, "X.npy", "y.npy", guess)) {
        return TD_OK; /* not a pair: the npy reader decides what to do without labels */
    }
    if (!exists_either_way(guess))
        return td_fail(TD_ERR_DATA, "%s: its labels were looked for in %s, which is not there",
                       out->main, guess);
    memcpy(out->label, guess, strlen(guess) + 1);
    return TD_OK;
}

static void locate_side_files(td_location *out)
{
    size_t stem = stem_length(out->main);
    if (stem + 8 >= TD_PATH_MAX) return;
    for (int i = 0; i < 2; i++) {
        char *to = i ? out->group : out->weight;
        snprintf(to, TD_PATH_MAX, "%.*s%s", (int)stem, out->main, i ? ".query" : ".weight");
        if (!td_path_exists(to)) to[0] = 0;
    }
}

td_status td_locate(const td_data_config *config, td_location *out)
{
    memset(out, 0, sizeof *out);
    if (!config->path || !*config->path) return td_fail(TD_ERR_ARG, "a data set needs a path");
    if ((unsigned)config->split > TD_SPLIT_TEST || (unsigned)config->format > TD_FORMAT_NPY)
        return td_fail(TD_ERR_ARG, "split %d or format %d does not exist", (int)config->split,
                       (int)config->format);
    if (td_path_is_dir(config->path)) {
        TD_TRY(locate_in_folder(config, out));
    } else {
        size_t length = strlen(config->path);
        if (length >= TD_PATH_MAX - 16)
            return td_fail(TD_ERR_ARG, "path too long: %.200s...", config->path);
        memcpy(out->main, config->path, length + 1);
        if (!td_path_exists(out->main))
            return td_fail(TD_ERR_DATA, "there is no file or folder %s", out->main);
        out->reader = config->format == TD_FORMAT_AUTO ? reader_by_name(out->main)
                                                       : td_reader_find(config->format);
        bool pairs = out->reader && !wants_no_label(config) &&
                     (out->reader->format == TD_FORMAT_IDX ||
                      (out->reader->format == TD_FORMAT_NPY && !strstr(out->main, ".npz")));
        if (pairs) TD_TRY(locate_labels(out));
    }
    locate_side_files(out);
    return TD_OK;
}
