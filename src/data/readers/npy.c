/* NumPy arrays: .npy files of versions 1 to 3, in pairs of x and y, and .npz files of both.
 *
 *     93 N U M P Y  major minor  length[2 or 4]  {'descr': '<f4', 'fortran_order': False,
 *                                                 'shape': (60000, 28, 28), }   values
 *
 * x of 1 or 2 dimensions is a table, of 3 images of one channel; of 4 it is [n][channel][row]
 * [column], or [n][row][column][channel] when only the last size is 1, 3 or 4, and is rearranged.
 * Bytes stay bytes, integers become i32 (an error where one does not fit), floats f32; NaN is a
 * missing value. */
#include "data/readers/labels.h"
#include "data/readers/zip.h"

#include "base/alloc.h"
#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 4, HEADER_MOST = 1 << 20 };

typedef struct array {
    const char *name;
    char kind; /* u i f; b is read as u */
    size_t width;
    bool fortran;
    int rank;
    size_t size[MAX_RANK];
    size_t values;
    const unsigned char *data;
} array;

static bool looks_like(const unsigned char *data, size_t size)
{
    return td_is_zip(data, size) || (size >= 6 && memcmp(data, "\x93NUMPY", 6) == 0);
}

/* ---- the header ---- */

/* Behind 'key': in the header's text, or NULL. */
static const char *find_key(const char *text, const char *end, const char *key)
{
    size_t n = strlen(key);
    for (const char *at = text; at + n + 2 < end; at++) {
        if ((*at != '\'' && *at != '"') || memcmp(at + 1, key, n) != 0 || at[n + 1] != *at)
            continue;
        at += n + 2;
        while (at < end && *at == ' ') at++;
        if (at == end || *at++ != ':') return NULL;
        while (at < end && *at == ' ') at++;
        return at < end ? at : NULL;
    }
    return NULL;
}

static td_status parse_type(array *a, const char *text, const char *end)
{
    const char *at = find_key(text, end, "descr");
    if (!at || end - at < 5 || (*at != '\'' && *at != '"') || at[4] != *at)
        return td_fail(TD_ERR_DATA,
                       "%s: the array's type is not one of bool, u1-u8, i1-i8, f4, f8 (a plain "
                       "'descr')",
                       a->name);
    char order = at[1];
    a->kind = at[2] == 'b' ? 'u' : at[2];
    a->width = (size_t)(at[3] - '0');
    bool integer = (a->kind == 'u' || a->kind == 'i') &&
                   (a->width == 1 || a->width == 2 || a->width == 4 || a->width == 8);
    bool real = a->kind == 'f' && (a->width == 4 || a->width == 8);
    if (!integer && !real)
        return td_fail(TD_ERR_DATA,
                       "%s: type %.3s cannot be read; save bool, u1-u8, i1-i8, f4 or f8", a->name,
                       at + 1);
    if (order == '>' && a->width > 1)
        return td_fail(TD_ERR_DATA, "%s: type %.3s is big-endian; save it little-endian", a->name,
                       at + 1);
    return TD_OK;
}

static td_status parse_shape(array *a, const char *text, const char *end)
{
    const char *at = find_key(text, end, "fortran_order");
    if (!at || (*at != 'T' && *at != 'F'))
        return td_fail(TD_ERR_DATA, "%s: its header has no 'fortran_order'", a->name);
    a->fortran = *at == 'T';
    at = find_key(text, end, "shape");
    if (!at || *at++ != '(') return td_fail(TD_ERR_DATA, "%s: its header has no 'shape'", a->name);
    a->values = 1;
    for (a->rank = 0; at < end && *at != ')';) {
        if (*at == ' ' || *at == ',') {
            at++;
            continue;
        }
        size_t size = 0, digits = 0;
        for (; at < end && (unsigned)(*at - '0') < 10 && digits < 18; at++, digits++)
            size = size * 10 + (unsigned)(*at - '0');
        if (digits == 0 || a->rank == MAX_RANK)
            return td_fail(TD_ERR_DATA, "%s: its 'shape' is not a list of 1 to %d sizes", a->name,
                           MAX_RANK);
        if (!td_mul(a->values, size, &a->values))
            return td_fail(TD_ERR_DATA, "%s: its 'shape' is too large", a->name);
        a->size[a->rank++] = size;
    }
    if (a->rank == 0 || a->values == 0) return td_fail(TD_ERR_DATA, "%s holds no values", a->name);
    return TD_OK;
}

static td_status parse_array(td_source source, array *out)
{
    const unsigned char *data = source.data;
    *out = (array){.name = source.name};
    if (source.size == 0) return td_fail(TD_ERR_DATA, "%s is empty", source.name);
    if (source.size < 10 || memcmp(data, "\x93NUMPY", 6) != 0)
        return td_fail(TD_ERR_DATA, "%s is not an npy file: it does not begin with 93 NUMPY",
                       source.name);
    if (data[6] < 1 || data[6] > 3)
        return td_fail(TD_ERR_DATA, "%s: npy version %d; 1 to 3 can be read", source.name, data[6]);
    size_t head = data[6] == 1 ? 10 : 12, length = data[8] | (size_t)data[9] << 8;
    if (data[6] > 1 && source.size >= head)
        length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    if (source.size < head || length > HEADER_MOST || source.size - head < length)
        return td_fail(TD_ERR_DATA, "%s is cut off in its header", source.name);
    const char *text = (const char *)data + head, *end = text + length;
    TD_TRY(parse_type(out, text, end));
    TD_TRY(parse_shape(out, text, end));
    size_t bytes = 0, there = source.size - head - length;
    if (!td_mul(out->values, out->width, &bytes) || bytes > there)
        return td_fail(TD_ERR_DATA,
                       "%s is cut off: its header promises %zu values of %zu bytes, %zu "
                       "bytes are there",
                       source.name, out->values, out->width, there);
    if (bytes < there)
        return td_fail(TD_ERR_DATA, "%s: %zu bytes behind its last value", source.name,
                       there - bytes);
    out->data = data + head + length;
    return TD_OK;
}

/* ---- values ---- */

static double load(const array *a, size_t i)
{
    const unsigned char *at = a->data + i * a->width;
    if (a->kind == 'f') {
        float f;
        double d;
        if (a->width == 8) return memcpy(&d, at, 8), d;
        return memcpy(&f, at, 4), (double)f;
    }
    uint64_t bits = 0;
    for (size_t b = 0; b < a->width; b++) bits |= (uint64_t)at[b] << (8 * b);
    if (a->kind == 'u') return (double)bits;
    unsigned shift = (unsigned)(64 - 8 * a->width);
    return (double)((int64_t)(bits << shift) >> shift);
}

/* How the samples of x are laid out, and what they are. */
typedef struct layout {
    size_t samples, features;
    bool channels_last;
    size_t channels, pixels;
} layout;

static td_status lay_out(const array *a, layout *l, td_data_info *info)
{
    *l = (layout){.samples = a->size[0], .features = a->values / a->size[0]};
    if (a->fortran && a->rank > 2)
        return td_fail(TD_ERR_DATA, "%s: %d dimensions in Fortran order; save it in C order",
                       a->name, a->rank);
    info->rank = a->rank <= 2 ? 1 : 3;
    info->shape[0] = a->rank <= 2 ? l->features : 1;
    if (a->rank == 3) info->shape[1] = a->size[1], info->shape[2] = a->size[2];
    if (a->rank == 4) {
        size_t first = a->size[1], last = a->size[3];
        l->channels_last =
            (last == 1 || last == 3 || last == 4) && first != 1 && first != 3 && first != 4;
        l->channels = l->channels_last ? last : first;
        l->pixels = l->features / l->channels;
        info->shape[0] = l->channels;
        info->shape[1] = l->channels_last ? a->size[1] : a->size[2];
        info->shape[2] = l->channels_last ? a->size[2] : a->size[3];
    }
    return TD_OK;
}

/* Where value j of sample i lies in the file. */
static size_t position(const array *a, const layout *l, size_t i, size_t j)
{
    if (a->fortran) return j * l->samples + i;
    if (l->channels_last) j = j % l->pixels * l->channels + j / l->pixels;
    return i * l->features + j;
}

static td_status bad_value(const array *a, size_t i, double x)
{
    return td_fail(TD_ERR_DATA, "%s: value %g of sample %zu %s", a->name, x, i,
                   a->kind == 'f' ? "is not a finite float" : "does not fit in 32 bits");
}

static td_status take_values(const array *a, const layout *l, td_dtype dtype, void *to)
{
    bool plain = !a->fortran && !l->channels_last;
    if (plain && dtype == TD_DTYPE_U8) {
        memcpy(to, a->data, a->values);
        return TD_OK;
    }
    for (size_t i = 0, n = 0; i < l->samples; i++)
        for (size_t j = 0; j < l->features; j++, n++) {
            double x = load(a, plain ? n : position(a, l, i, j));
            switch (dtype) {
            case TD_DTYPE_U8: ((uint8_t *)to)[n] = (uint8_t)x; break;
            case TD_DTYPE_I32:
                if (x < INT32_MIN || x > INT32_MAX) return bad_value(a, i, x);
                ((int32_t *)to)[n] = (int32_t)x;
                break;
            case TD_DTYPE_F32:
                ((float *)to)[n] = (float)x;
                if (isinf((float)x)) return bad_value(a, i, x);
                break;
            }
        }
    return TD_OK;
}

static td_status set_features(const array *a, td_dataset *out)
{
    layout l;
    TD_TRY(lay_out(a, &l, &out->info));
    out->dtype = a->kind == 'f'                    ? TD_DTYPE_F32
                 : a->kind == 'u' && a->width == 1 ? TD_DTYPE_U8
                                                   : TD_DTYPE_I32;
    size_t width = out->dtype == TD_DTYPE_U8 ? 1 : 4;
    void *values = NULL;
    TD_TRY(td_dataset_take(out, a->values, width, "values", &values));
    TD_TRY(take_values(a, &l, out->dtype, values));
    out->dense = values;
    out->columns = out->info.features = l.features;
    out->info.samples = l.samples;
    out->info.bytes = a->values * width;
    return TD_OK;
}

static void where(const void *arg, uint64_t row, char *text, size_t room)
{
    const array *a = arg;
    snprintf(text, room, "%.500s: sample %llu", a->name, (unsigned long long)row);
}

static td_status set_labels(const td_read_job *job, const array *y, td_dataset *out)
{
    if (y->values != y->size[0] || y->size[0] != out->info.samples)
        return td_fail(TD_ERR_DATA,
                       "%s holds %zu x %zu labels for %llu samples, which need one each", y->name,
                       y->size[0], y->values / y->size[0], (unsigned long long)out->info.samples);
    float *number = td_reallocarray(NULL, y->values, sizeof *number);
    if (!number) return td_fail(TD_ERR_NOMEM, "no memory for %zu labels", y->values);
    td_status status = TD_OK;
    for (size_t i = 0; i < y->values; i++) {
        double x = load(y, i);
        number[i] = (float)x;
        if (isnan(x) || isinf(number[i])) {
            status = td_fail(TD_ERR_DATA, "%s: label %g of sample %zu is not a finite float",
                             y->name, x, i);
            goto out;
        }
    }
    status = td_labels_from_numbers(job, number, where, y, out);
out:
    td_free(number);
    return status;
}

static bool wants_no_label(const td_read_job *job)
{
    return job->config->no_labels || (job->config->label && !strcmp(job->config->label, "none"));
}

static td_status read_pair(const td_read_job *job, td_source x, td_source y, td_dataset *out)
{
    array a, b;
    TD_TRY(parse_array(x, &a));
    TD_TRY(set_features(&a, out));
    if (wants_no_label(job)) return TD_OK;
    if (!y.name)
        return td_fail(TD_ERR_DATA,
                       "%s has no labels beside it: x.npy goes with y.npy, train_x.npy "
                       "with train_y.npy; or set label to none",
                       x.name);
    TD_TRY(parse_array(y, &b));
    return set_labels(job, &b, out);
}

/* ---- npz ---- */

typedef struct keys {
    const char *x, *y;
} keys;
static const keys train_keys[] = {{"x_train", "y_train"},
                                  {"X_train", "y_train"},
                                  {"train_x", "train_y"},
                                  {"train_images", "train_labels"},
                                  {"x", "y"},
                                  {"X", "y"},
                                  {"data", "label"},
                                  {"data", "target"},
                                  {"images", "labels"},
                                  {NULL, NULL}};
static const keys test_keys[] = {{"x_test", "y_test"}, {"X_test", "y_test"},
                                 {"test_x", "test_y"}, {"test_images", "test_labels"},
                                 {"x", "y"},           {"X", "y"},
                                 {"data", "label"},    {"data", "target"},
                                 {"images", "labels"}, {NULL, NULL}};

static td_status find_array(td_source zip, const char *key, bool *found, td_source *out,
                            void **owned)
{
    char name[64];
    snprintf(name, sizeof name, "%s.npy", key);
    TD_TRY(td_zip_find(zip, name, found, out, owned));
    out->name = key; /* outlives this call */
    return TD_OK;
}

static td_status read_npz(const td_read_job *job, td_dataset *out)
{
    td_status status = TD_OK;
    void *x_owned = NULL, *y_owned = NULL;
    const keys *pair = job->config->split == TD_SPLIT_TEST ? test_keys : train_keys;
    td_source x = {0}, y = {0};
    for (bool both = false; pair->x; pair++) {
        td_free(x_owned);
        x_owned = NULL;
        TD_GOTO(find_array(job->main, pair->x, &both, &x, &x_owned));
        if (both && !wants_no_label(job))
            TD_GOTO(find_array(job->main, pair->y, &both, &y, &y_owned));
        if (both) break;
    }
    if (!pair->x) {
        char names[300];
        td_zip_names(job->main, names, sizeof names);
        status = td_fail(TD_ERR_DATA,
                         "%s holds %s; looked for %s.npy and %s.npy, x.npy and y.npy and "
                         "the like",
                         job->main.name, *names ? names : "nothing",
                         job->config->split == TD_SPLIT_TEST ? "x_test" : "x_train",
                         job->config->split == TD_SPLIT_TEST ? "y_test" : "y_train");
        goto out;
    }
    status = read_pair(job, x, y, out);
    if (status == TD_ERR_DATA) status = td_fail_within(status, "%s: ", job->main.name);
out:
    td_free(x_owned);
    td_free(y_owned);
    return status;
}

static td_status read_npy(const td_read_job *job, td_dataset *out)
{
    if (td_is_zip(job->main.data, job->main.size)) return read_npz(job, out);
    return read_pair(job, job->main, job->label, out);
}

static const char *const extensions[] = {".npy", ".npz", NULL};

const td_reader td_reader_npy = {
    .format = TD_FORMAT_NPY,
    .extensions = extensions,
    .looks_like = looks_like,
    .read = read_npy,
    .inflate = true,
};
