/* Data sets: life, access to samples, views. See dataset.h and include/tandem/data.h. */
#include "data/dataset.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

const char *const td_split_names[] = {"train", "test", NULL};
const char *const td_format_names[] = {"auto",   "idx",    "csv", "tsv",
                                       "libsvm", "libffm", "npy", NULL};
const char *const td_label_kind_names[] = {"auto", "class", "value", NULL};

enum { BLOCK_HEAD = 64 /* keeps what follows aligned */, TEXTS = 1 << 16 };

td_dataset *td_dataset_new(void)
{
    td_dataset *dataset = td_calloc(1, sizeof *dataset);
    if (dataset) dataset->index_base = -1;
    return dataset;
}

void td_dataset_close(td_dataset *dataset)
{
    if (!dataset) return;
    for (td_block *block = dataset->blocks, *next; block; block = next) {
        next = block->next;
        td_free(block);
    }
    td_unmap(&dataset->cache);
    td_free(dataset);
}

void *td_dataset_alloc(td_dataset *dataset, size_t count, size_t bytes)
{
    size_t total;
    if (!td_mul(count, bytes, &total) || !td_add(total, BLOCK_HEAD, &total)) return NULL;
    td_block *block = td_alloc_aligned(total);
    if (!block) return NULL;
    block->next = dataset->blocks;
    dataset->blocks = block;
    return (char *)block + BLOCK_HEAD;
}

td_status td_dataset_take(td_dataset *dataset, size_t count, size_t bytes, const char *what,
                          void *out_pointer)
{
    void *memory = td_dataset_alloc(dataset, count, bytes);
    if (!memory)
        return td_fail(TD_ERR_NOMEM, "no memory for %zu %s of %zu bytes", count, what, bytes);
    memcpy(out_pointer, &memory, sizeof memory);
    return TD_OK;
}

char *td_dataset_text(td_dataset *dataset, const char *text, size_t length)
{
    bool is_short = length < TEXTS / 16;
    if (is_short && length >= dataset->text_room) {
        char *more = td_dataset_alloc(dataset, TEXTS - BLOCK_HEAD, 1);
        if (!more) return NULL;
        dataset->text = more, dataset->text_room = TEXTS - BLOCK_HEAD;
    }
    char *copy = is_short ? dataset->text : td_dataset_alloc(dataset, length + 1, 1);
    if (!copy) return NULL;
    if (is_short) dataset->text += length + 1, dataset->text_room -= length + 1;
    memcpy(copy, text, length);
    copy[length] = 0;
    return copy;
}

const td_data_info *td_dataset_info(const td_dataset *dataset)
{
    return &dataset->info;
}

/* ---- columns and features ---- */

static int categories_of(const td_dataset *dataset, size_t column)
{
    return dataset->category_count ? dataset->category_count[column] : 0;
}

void td_dataset_count_hashed(td_dataset *dataset)
{
    dataset->hashed_columns = 0;
    for (size_t c = 0; c < dataset->columns; c++)
        dataset->hashed_columns += td_dataset_hashes(dataset, c);
}

static td_status name_features(td_dataset *dataset)
{
    const char **names = NULL;
    TD_TRY(
        td_dataset_take(dataset, dataset->info.features, sizeof *names, "feature names", &names));
    size_t feature = 0;
    for (size_t c = 0; c < dataset->columns; c++) {
        int count = categories_of(dataset, c);
        if (count == 0) names[feature++] = dataset->column_names[c];
        for (int k = 0; k < count; k++) {
            const char *column = dataset->column_names[c], *text = dataset->category_names[c][k];
            size_t room = strlen(column) + strlen(text) + 2;
            char *name = td_dataset_alloc(dataset, room, 1);
            if (!name) return td_fail(TD_ERR_NOMEM, "no memory for %zu bytes of a name", room);
            snprintf(name, room, "%s=%s", column, text);
            names[feature++] = name;
        }
    }
    dataset->info.feature_names = names;
    return TD_OK;
}

td_status td_dataset_set_columns(td_dataset *dataset, bool one_hot)
{
    td_data_info *info = &dataset->info;
    info->rank = 1;
    info->features = dataset->columns;
    info->feature_names = dataset->column_names;
    if (one_hot && dataset->category_count) {
        size_t *at = NULL;
        TD_TRY(td_dataset_take(dataset, dataset->columns + 1, sizeof *at, "column offsets", &at));
        at[0] = 0;
        for (size_t c = 0; c < dataset->columns; c++) {
            int count = categories_of(dataset, c);
            at[c + 1] = at[c] + (count ? (size_t)count : 1);
        }
        info->features = at[dataset->columns];
        dataset->feature_at = at;
        if (dataset->column_names) TD_TRY(name_features(dataset));
    }
    info->shape[0] = info->features;
    return TD_OK;
}

int td_dataset_categories(const td_dataset *dataset, size_t feature, const char *const **names)
{
    if (dataset->base) dataset = dataset->base;
    if (dataset->feature_at || !dataset->category_count || feature >= dataset->columns) return 0;
    if (names && dataset->category_count[feature]) *names = dataset->category_names[feature];
    return dataset->category_count[feature];
}

/* ---- samples ---- */

int32_t td_dataset_label(const td_dataset *dataset, uint64_t index)
{
    dataset = td_dataset_resolve(dataset, &index);
    return dataset->label ? dataset->label[index] : -1;
}

float td_dataset_target(const td_dataset *dataset, uint64_t index)
{
    dataset = td_dataset_resolve(dataset, &index);
    if (dataset->target) return dataset->target[index];
    return dataset->label ? (float)dataset->label[index] : 0;
}

float td_dataset_weight(const td_dataset *dataset, uint64_t index)
{
    dataset = td_dataset_resolve(dataset, &index);
    return dataset->weight ? dataset->weight[index] : 1;
}

int64_t td_dataset_group(const td_dataset *dataset, uint64_t index)
{
    dataset = td_dataset_resolve(dataset, &index);
    return dataset->group ? dataset->group[index] : 0;
}

size_t td_dataset_sparse_row(const td_dataset *dataset, uint64_t index, const uint32_t **feature,
                             const float **value)
{
    dataset = td_dataset_resolve(dataset, &index);
    uint64_t begin = dataset->row_start[index];
    *feature = dataset->index + begin;
    *value = dataset->value + begin;
    return (size_t)(dataset->row_start[index + 1] - begin);
}

const uint16_t *td_dataset_sparse_fields(const td_dataset *dataset, uint64_t index)
{
    dataset = td_dataset_resolve(dataset, &index);
    return dataset->field ? dataset->field + dataset->row_start[index] : NULL;
}

void td_dataset_stored_row(const td_dataset *dataset, uint64_t index, float *x)
{
    dataset = td_dataset_resolve(dataset, &index);
    size_t columns = dataset->columns;
    if (!dataset->dense) {
        memset(x, 0, columns * sizeof *x);
        for (uint64_t k = dataset->row_start[index]; k < dataset->row_start[index + 1]; k++)
            x[dataset->index[k]] += dataset->value[k];
        return;
    }
    switch (dataset->dtype) {
    case TD_DTYPE_F32:
        memcpy(x, (const float *)dataset->dense + index * columns, columns * sizeof *x);
        break;
    case TD_DTYPE_U8: {
        const uint8_t *row = (const uint8_t *)dataset->dense + index * columns;
        for (size_t c = 0; c < columns; c++) x[c] = row[c];
        break;
    }
    case TD_DTYPE_I32: {
        const int32_t *row = (const int32_t *)dataset->dense + index * columns;
        for (size_t c = 0; c < columns; c++) x[c] = (float)row[c];
        break;
    }
    }
}

/* Only tables of floats have categories. */
static void one_hot_row(const td_dataset *dataset, uint64_t index, float *x)
{
    dataset = td_dataset_resolve(dataset, &index);
    const float *row = (const float *)dataset->dense + index * dataset->columns;
    for (size_t c = 0; c < dataset->columns; c++) {
        float *to = x + dataset->feature_at[c];
        int count = categories_of(dataset, c);
        if (count == 0) {
            *to = row[c];
            continue;
        }
        memset(to, 0, (size_t)count * sizeof *to);
        if (!isnan(row[c])) to[(size_t)row[c]] = 1;
    }
}

void td_dataset_row(const td_dataset *dataset, uint64_t index, float *x)
{
    const td_dataset *stored = dataset->base ? dataset->base : dataset;
    if (stored->feature_at)
        one_hot_row(dataset, index, x);
    else
        td_dataset_stored_row(dataset, index, x);
}

/* ---- like ---- */

td_status td_dataset_check_like(const td_dataset *dataset, const td_dataset *like)
{
    const td_data_info *is = &dataset->info, *want = &like->info;
    if (is->features != want->features)
        return td_fail(TD_ERR_DATA, "%s has %zu features where the training set %s has %zu",
                       is->path, is->features, want->path, want->features);
    if (is->rank != want->rank || memcmp(is->shape, want->shape, sizeof is->shape) != 0)
        return td_fail(TD_ERR_DATA, "%s has samples of another shape than the training set %s",
                       is->path, want->path);
    for (size_t i = 0; is->feature_names && want->feature_names && i < is->features; i++)
        if (strcmp(is->feature_names[i], want->feature_names[i]) != 0)
            return td_fail(TD_ERR_DATA,
                           "%s: feature %zu is \"%.100s\" where the training set has \"%.100s\"",
                           is->path, i, is->feature_names[i], want->feature_names[i]);
    return TD_OK;
}

/* ---- a caller's arrays ---- */

static td_status check_arrays(const td_arrays *arrays, size_t *out_features)
{
    size_t features = 1, total;
    if (!arrays->x || arrays->samples == 0)
        return td_fail(TD_ERR_ARG, "a data set needs at least one sample and its x");
    if (arrays->rank < 1 || arrays->rank > 4)
        return td_fail(TD_ERR_ARG, "a sample has 1 to 4 dimensions, not %d", arrays->rank);
    for (int d = 0; d < arrays->rank; d++)
        if (arrays->shape[d] == 0 || !td_mul(features, arrays->shape[d], &features))
            return td_fail(TD_ERR_ARG, "dimension %d of a sample cannot be %zu", d,
                           arrays->shape[d]);
    if (!td_mul(features, arrays->samples, &total) || !td_mul(total, sizeof(float), &total))
        return td_fail(TD_ERR_ARG, "%llu samples of %zu features do not fit in memory",
                       (unsigned long long)arrays->samples, features);
    if (arrays->label && arrays->target)
        return td_fail(TD_ERR_ARG, "a data set has classes (label) or numbers (target), not both");
    for (uint64_t i = 0; arrays->label && i < arrays->samples; i++)
        if (arrays->label[i] < 0 || arrays->label[i] >= arrays->classes)
            return td_fail(TD_ERR_DATA, "label %d of sample %llu is not in 0..%d", arrays->label[i],
                           (unsigned long long)i, arrays->classes - 1);
    *out_features = features;
    return TD_OK;
}

td_status td_dataset_from_arrays(const td_arrays *arrays, td_dataset **out)
{
    size_t features = 0;
    TD_TRY(check_arrays(arrays, &features));
    td_dataset *dataset = td_dataset_new();
    if (!dataset) return td_fail(TD_ERR_NOMEM, "no memory for a data set");
    static const size_t width[] = {[TD_DTYPE_F32] = 4, [TD_DTYPE_U8] = 1, [TD_DTYPE_I32] = 4};
    dataset->dtype = arrays->dtype;
    dataset->columns = features;
    dataset->dense = arrays->x;
    dataset->label = arrays->label;
    dataset->target = arrays->target;
    dataset->weight = arrays->weight;
    dataset->info = (td_data_info){
        .samples = arrays->samples,
        .rank = arrays->rank,
        .features = features,
        .classes = arrays->label ? arrays->classes : 0,
        .has_weights = arrays->weight != NULL,
        .bytes = arrays->samples * features * width[arrays->dtype],
        .path = "memory",
    };
    memcpy(dataset->info.shape, arrays->shape, (size_t)arrays->rank * sizeof *arrays->shape);
    *out = dataset;
    return TD_OK;
}

/* ---- views ---- */

static td_status make_view(const td_dataset *base, uint64_t room, td_dataset **out, uint64_t **rows)
{
    td_dataset *view = td_dataset_new();
    if (!view) return td_fail(TD_ERR_NOMEM, "no memory for a data set");
    td_status status = td_dataset_take(view, room, sizeof **rows, "sample numbers", rows);
    if (status != TD_OK) {
        td_dataset_close(view);
        return status;
    }
    view->info = base->info;
    view->info.samples = 0;
    view->info.bytes = room * sizeof **rows;
    view->rows = *rows;
    view->base = base;
    *out = view;
    return TD_OK;
}

/* Numbers groups by the runs of equal ids; group NULL: every sample is its own. */
static uint64_t count_groups(const td_dataset *dataset)
{
    uint64_t n = dataset->info.samples, groups = 0;
    if (!dataset->info.has_groups) return n;
    for (uint64_t i = 0; i < n; i++)
        groups += i == 0 || td_dataset_group(dataset, i) != td_dataset_group(dataset, i - 1);
    return groups;
}

td_status td_dataset_split(const td_dataset *dataset, double fraction, uint64_t seed,
                           td_dataset **out_train, td_dataset **out_held)
{
    if (!(fraction > 0 && fraction < 1))
        return td_fail(TD_ERR_ARG, "the held-out fraction must lie between 0 and 1, not %g",
                       fraction);
    uint64_t n = dataset->info.samples, groups = count_groups(dataset);
    uint64_t held_groups = (uint64_t)llround(fraction * (double)groups);
    if (held_groups == 0 || held_groups >= groups)
        return td_fail(TD_ERR_ARG, "holding out %g of %llu %s leaves one side empty", fraction,
                       (unsigned long long)groups, groups == n ? "samples" : "groups");
    td_rng rng;
    td_rng_init(&rng, seed, TD_RNG_SPLIT, 0, 0);
    td_permutation permutation;
    td_permutation_init(&permutation, groups, td_rng_u64(&rng), 0, 0);

    td_dataset *train = NULL, *held = NULL;
    uint64_t *train_rows, *held_rows;
    const td_dataset *base = dataset->base ? dataset->base : dataset;
    TD_TRY(make_view(base, n, &train, &train_rows));
    td_status status = make_view(base, n, &held, &held_rows);
    if (status != TD_OK) {
        td_dataset_close(train);
        return status;
    }
    uint64_t group = 0;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t row = i;
        bool same = i > 0 && dataset->info.has_groups &&
                    td_dataset_group(dataset, i) == td_dataset_group(dataset, i - 1);
        if (i > 0 && !same) group++;
        td_dataset_resolve(dataset, &row);
        if (td_permutation_at(&permutation, group) < held_groups)
            held_rows[held->info.samples++] = row;
        else
            train_rows[train->info.samples++] = row;
    }
    *out_train = train;
    *out_held = held;
    return TD_OK;
}
