/* See features.h. Keys of columns and categories are hashed once; a row of a table is then a walk
 * over its columns, and a sparse row one hash an entry. */
#include "data/features.h"

#include "data/hashing.h"

#include "data/dataset.h"

#include "base/alloc.h"
#include "base/error.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { PIECE = 256, MOST_FIELDS = 65536 };

typedef struct column {
    uint64_t key;
    const uint64_t *codes; /* [count] keys of categories; NULL: numbers */
    size_t count;
    int32_t hashed; /* place of its categories' hashes; -1: it has none */
    float mean, scale, fill;
    uint16_t field;
} column;

struct td_features {
    uint64_t seed, mask, bias_key;
    bool numbers_apart, bias;
    bool whole; /* keys of indices are the indices */
    size_t most, fields, numbers;
    size_t known_fields; /* without the bias' */
    uint16_t bias_field;
    size_t columns;  /* of a table; 0: sparse */
    column *column;  /* [columns] */
    uint64_t *codes; /* of all columns */
    float *scale;    /* [features] of sparse data; NULL: */
    float one_scale; /* for all */
};

/* ---- keys ---- */

static uint64_t cut(const td_features *f, uint64_t hash)
{
    uint64_t key = hash & f->mask;
    return key < TD_FEATURES_BIAS ? key : key - 2;
}

static uint64_t hash_column(const td_features *f, const td_dataset *d, size_t c)
{
    const char *name = d->column_names ? d->column_names[c] : NULL;
    return td_hash_column(name, name ? strlen(name) : 0, c, f->seed);
}

/* ---- planning ---- */

/* A data set that was described by a schema has no samples to tell. */
static bool is_sparse(const td_dataset *d)
{
    return d->info.sparse || d->index_base >= 0;
}

static td_status check(const td_dataset *d, const td_features_config *config)
{
    const td_normalise *normalise = config->normalise;
    if (config->bits < 0 || config->bits > 63)
        return td_fail(TD_ERR_ARG, "a key has 1 to 63 bits, or 0 for whole keys, not %d",
                       config->bits);
    if (d->feature_at)
        return td_fail(TD_ERR_ARG,
                       "%s: features under keys are made of categories, not of their 0-1 columns",
                       d->info.path);
    if (d->hashed_at && d->hash_seed != config->seed)
        return td_fail(TD_ERR_ARG, "%s: its categories are hashed under seed %llu, not %llu",
                       d->info.path, (unsigned long long)d->hash_seed,
                       (unsigned long long)config->seed);
    if (config->fields > MOST_FIELDS)
        return td_fail(TD_ERR_ARG, "at most %d fields, not %zu", MOST_FIELDS, config->fields);
    if (!normalise) return TD_OK;
    if (normalise->n == 0 || d->info.features % normalise->n != 0)
        return td_fail(TD_ERR_ARG, "normalisation of %zu features does not fit the %zu of %s",
                       normalise->n, d->info.features, d->info.path);
    for (size_t k = 0; is_sparse(d) && k < normalise->n; k++)
        if (normalise->mean[k] != 0)
            return td_fail(TD_ERR_ARG,
                           "%s: sparse data cannot be moved, only scaled, but feature %zu has "
                           "mean %g",
                           d->info.path, k, (double)normalise->mean[k]);
    return TD_OK;
}

static size_t categories(const td_dataset *d, size_t c)
{
    return d->category_count ? (size_t)d->category_count[c] : 0;
}

static void plan_column(td_features *f, const td_dataset *d, const td_normalise *normalise,
                        size_t c, uint64_t **codes)
{
    column *to = &f->column[c];
    uint64_t hash = hash_column(f, d, c);
    *to = (column){.key = cut(f, hash), .count = categories(d, c), .hashed = -1, .scale = 1};
    if (td_dataset_hashes(d, c)) to->hashed = d->hashed_at[c];
    if (normalise) {
        size_t k = c / (d->info.features / normalise->n);
        to->mean = normalise->mean[k];
        to->scale = normalise->scale[k];
        to->fill = normalise->fill[k];
    }
    if (to->count) {
        uint64_t *code = *codes;
        for (size_t k = 0; k < to->count; k++) {
            const char *text = d->category_names[c][k];
            code[k] = cut(f, td_hash_category(text, strlen(text), hash));
        }
        to->codes = code;
        *codes += to->count;
    } else if (f->numbers_apart && to->hashed < 0) {
        f->numbers++;
        return;
    }
    to->field = (uint16_t)(f->fields < MOST_FIELDS ? f->fields++ : MOST_FIELDS - 1);
    f->most++;
}

static td_status plan_table(td_features *f, const td_dataset *d, const td_normalise *normalise)
{
    size_t codes = 0;
    for (size_t c = 0; c < d->columns; c++) codes += categories(d, c);
    f->columns = d->columns;
    f->column = td_reallocarray(NULL, d->columns, sizeof *f->column);
    f->codes = td_reallocarray(NULL, codes, sizeof *f->codes);
    if (!f->column || !f->codes)
        return td_fail(TD_ERR_NOMEM, "no memory for the keys of %zu columns and %zu categories",
                       d->columns, codes);
    uint64_t *at = f->codes;
    for (size_t c = 0; c < d->columns; c++) plan_column(f, d, normalise, c, &at);
    return TD_OK;
}

static td_status plan_sparse(td_features *f, const td_dataset *stored,
                             const td_features_config *config)
{
    const td_normalise *normalise = config->normalise;
    uint64_t entries = stored->field ? stored->row_start[stored->info.samples] : 0;
    f->one_scale = 1;
    f->fields = config->fields ? config->fields : 1;
    for (uint64_t e = 0; !config->fields && e < entries; e++)
        if (stored->field[e] >= f->fields) f->fields = stored->field[e] + (size_t)1;
    if (!normalise) return TD_OK;
    f->one_scale = normalise->scale[0];
    if (normalise->n == 1) return TD_OK;
    size_t features = stored->info.features, plane = features / normalise->n;
    f->scale = td_reallocarray(NULL, features, sizeof *f->scale);
    if (!f->scale) return td_fail(TD_ERR_NOMEM, "no memory for %zu scales", features);
    for (size_t i = 0; i < features; i++) f->scale[i] = normalise->scale[i / plane];
    return TD_OK;
}

td_status td_features_create(const td_dataset *data, const td_features_config *config,
                             td_features **out)
{
    const td_dataset *stored = data->base ? data->base : data;
    TD_TRY(check(stored, config));
    td_features *f = td_calloc(1, sizeof *f);
    if (!f) return td_fail(TD_ERR_NOMEM, "no memory for features");
    td_status status = TD_OK;
    f->seed = config->seed;
    f->mask = config->bits ? ((uint64_t)1 << config->bits) - 1 : UINT64_MAX;
    f->whole = config->bits == 0;
    f->numbers_apart = config->numbers_apart;
    TD_GOTO(is_sparse(stored) ? plan_sparse(f, stored, config)
                              : plan_table(f, stored, config->normalise));
    f->bias = config->bias;
    f->known_fields = f->fields;
    /* With its final 0, which no name of a column has. */
    f->bias_key = f->whole ? TD_FEATURES_BIAS : cut(f, XXH3_64bits_withSeed("bias", 5, f->seed));
    f->bias_field = (uint16_t)(f->fields < MOST_FIELDS ? f->fields : MOST_FIELDS - 1);
    if (f->bias) f->fields = f->bias_field + (size_t)1;
    f->most = td_features_most_of(f, data);
    *out = f;
    f = NULL;
out:
    td_features_destroy(f);
    return status;
}

void td_features_destroy(td_features *features)
{
    if (!features) return;
    td_free(features->scale);
    td_free(features->codes);
    td_free(features->column);
    td_free(features);
}

/* ---- asking ---- */

size_t td_features_room(const td_features *f, const td_dataset *data, uint64_t index)
{
    if (f->columns) return f->columns - f->numbers + f->bias;
    const td_dataset *d = td_dataset_resolve(data, &index);
    return (size_t)(d->row_start[index + 1] - d->row_start[index]) + f->bias;
}

size_t td_features_most_of(const td_features *f, const td_dataset *data)
{
    size_t most = f->columns ? td_features_room(f, data, 0) : f->bias;
    for (uint64_t i = 0; !f->columns && !data->elsewhere && i < data->info.samples; i++) {
        size_t room = td_features_room(f, data, i);
        if (room > most) most = room;
    }
    return most;
}

size_t td_features_most(const td_features *f)
{
    return f->most;
}

size_t td_features_fields(const td_features *f)
{
    return f->fields;
}

size_t td_features_numbers(const td_features *f)
{
    return f->numbers;
}

/* ---- rows ---- */

/* Columns [begin, end) of a stored row. */
static void load(const td_dataset *d, uint64_t row, size_t begin, size_t end, float *restrict x)
{
    size_t at = (size_t)row * d->columns + begin, n = end - begin;
    switch (d->dtype) {
    case TD_DTYPE_F32: memcpy(x, (const float *)d->dense + at, n * sizeof *x); break;
    case TD_DTYPE_U8: {
        const uint8_t *from = (const uint8_t *)d->dense + at;
        for (size_t i = 0; i < n; i++) x[i] = from[i];
        break;
    }
    case TD_DTYPE_I32: {
        const int32_t *from = (const int32_t *)d->dense + at;
        for (size_t i = 0; i < n; i++) x[i] = (float)from[i];
        break;
    }
    }
}

static size_t table_row(const td_features *f, const td_dataset *d, uint64_t row, uint64_t *key,
                        float *value, uint16_t *field, float *numbers)
{
    size_t n = 0, apart = 0;
    float x[PIECE];
    for (size_t begin = 0; begin < f->columns; begin += PIECE) {
        size_t end = f->columns - begin < PIECE ? f->columns : begin + PIECE;
        load(d, row, begin, end, x);
        for (size_t c = begin; c < end; c++) {
            const column *from = &f->column[c];
            float number = x[c - begin];
            if (from->hashed >= 0) {
                uint64_t hash = d->hashed[row * d->hashed_columns + (size_t)from->hashed];
                if (hash == TD_HASHED_MISSING) continue;
                key[n] = cut(f, hash);
                value[n] = 1;
                field[n++] = from->field;
                continue;
            }
            if (from->codes) {
                if (!(number < (float)from->count)) continue; /* missing */
                key[n] = from->codes[(size_t)number];
                value[n] = 1;
                field[n++] = from->field;
                continue;
            }
            number = ((isnan(number) ? from->fill : number) - from->mean) * from->scale;
            if (f->numbers_apart) {
                numbers[apart++] = number;
            } else if (number != 0) {
                key[n] = from->key;
                value[n] = number;
                field[n++] = from->field;
            }
        }
    }
    return n;
}

static size_t sparse_row(const td_features *f, const td_dataset *d, uint64_t row, uint64_t *key,
                         float *value, uint16_t *field)
{
    size_t n = 0;
    for (uint64_t e = d->row_start[row]; e < d->row_start[row + 1]; e++) {
        uint32_t index = d->index[e];
        uint16_t of = d->field ? d->field[e] : 0;
        if (of >= f->known_fields) continue;
        key[n] = f->whole ? index : cut(f, td_hash_number(index, f->seed));
        value[n] = d->value[e] * (f->scale ? f->scale[index] : f->one_scale);
        field[n++] = of;
    }
    return n;
}

size_t td_features_row(const td_features *f, const td_dataset *data, uint64_t index, uint64_t *key,
                       float *value, uint16_t *field, float *numbers)
{
    const td_dataset *d = td_dataset_resolve(data, &index);
    assert(f->columns == (d->row_start ? 0 : d->columns));
    size_t n = f->columns ? table_row(f, d, index, key, value, field, numbers)
                          : sparse_row(f, d, index, key, value, field);
    if (f->bias) {
        key[n] = f->bias_key;
        value[n] = 1;
        field[n++] = f->bias_field;
    }
    return n;
}
