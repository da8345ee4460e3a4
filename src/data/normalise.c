/* Normalisation: statistics of a training set, and their use.
 *
 * Sums run over the samples in order, in double, by one thread: the same bits whatever the machine
 * has. Bytes are counted into histograms first, so their sums are exact. */
#include "data/dataset.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"

#include <float.h>
#include <math.h>
#include <string.h>

const char *const td_normalise_names[] = {"auto", "none", "unit", "standard", "minmax", NULL};

/* [n] each, in one allocation that begins at `count`. */
typedef struct moments {
    size_t n, plane;
    double *count, *mean, *square, *low, *high;
} moments;

static td_status moments_init(moments *m, size_t n, size_t plane)
{
    m->n = n;
    m->plane = plane;
    double *all = td_calloc(n, 5 * sizeof *all);
    if (!all) return td_fail(TD_ERR_NOMEM, "no memory for statistics of %zu features", n);
    m->count = all;
    m->mean = all + n;
    m->square = all + 2 * n;
    m->low = all + 3 * n;
    m->high = all + 4 * n;
    for (size_t k = 0; k < n; k++) m->low[k] = DBL_MAX, m->high[k] = -DBL_MAX;
    return TD_OK;
}

/* Pass 0 sums values into mean, pass 1 squared distances from the mean into square. */
static void moments_add(moments *m, int pass, size_t k, double x, double times)
{
    if (pass == 0) {
        m->count[k] += times;
        m->mean[k] += x * times;
        if (x < m->low[k]) m->low[k] = x;
        if (x > m->high[k]) m->high[k] = x;
    } else {
        m->square[k] += (x - m->mean[k]) * (x - m->mean[k]) * times;
    }
}

static void moments_end_pass(moments *m, int pass)
{
    for (size_t k = 0; k < m->n; k++) {
        double *sum = pass == 0 ? &m->mean[k] : &m->square[k];
        *sum = m->count[k] > 0 ? *sum / m->count[k] : 0;
    }
}

static td_status moments_of_bytes(const td_dataset *data, moments *m)
{
    uint64_t(*histogram)[256] = td_calloc(m->n, sizeof *histogram);
    if (!histogram) return td_fail(TD_ERR_NOMEM, "no memory for histograms of %zu features", m->n);
    for (uint64_t i = 0; i < data->info.samples; i++) {
        uint64_t row = i;
        const td_dataset *stored = td_dataset_resolve(data, &row);
        const uint8_t *x = (const uint8_t *)stored->dense + row * stored->columns;
        for (size_t k = 0; k < m->n; k++)
            for (size_t j = 0; j < m->plane; j++) histogram[k][x[k * m->plane + j]]++;
    }
    for (int pass = 0; pass < 2; pass++) {
        for (size_t k = 0; k < m->n; k++)
            for (int v = 0; v < 256; v++)
                if (histogram[k][v]) moments_add(m, pass, k, v, (double)histogram[k][v]);
        moments_end_pass(m, pass);
    }
    td_free(histogram);
    return TD_OK;
}

static td_status moments_of_rows(const td_dataset *data, moments *m)
{
    size_t features = data->info.features;
    float *x = td_alloc_aligned(features * sizeof *x);
    if (!x) return td_fail(TD_ERR_NOMEM, "no memory for a sample of %zu features", features);
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < data->info.samples; i++) {
            td_dataset_row(data, i, x);
            for (size_t k = 0; k < m->n; k++)
                for (size_t j = 0; j < m->plane; j++)
                    if (!isnan(x[k * m->plane + j]))
                        moments_add(m, pass, k, x[k * m->plane + j], 1);
        }
        moments_end_pass(m, pass);
    }
    td_free(x);
    return TD_OK;
}

/* The entries that are not stored are zeros. */
static td_status moments_of_sparse(const td_dataset *data, moments *m)
{
    double *zeros = td_calloc(m->n, sizeof *zeros);
    if (!zeros) return td_fail(TD_ERR_NOMEM, "no memory for statistics of %zu features", m->n);
    for (int pass = 0; pass < 2; pass++) {
        for (uint64_t i = 0; i < data->info.samples; i++) {
            const uint32_t *feature;
            const float *value;
            size_t entries = td_dataset_sparse_row(data, i, &feature, &value);
            for (size_t e = 0; e < entries; e++)
                moments_add(m, pass, feature[e] / m->plane, value[e], 1);
        }
        for (size_t k = 0; k < m->n; k++) {
            if (pass == 0) zeros[k] = (double)data->info.samples * (double)m->plane - m->count[k];
            if (zeros[k] > 0) moments_add(m, pass, k, 0, zeros[k]);
        }
        moments_end_pass(m, pass);
    }
    td_free(zeros);
    return TD_OK;
}

static td_normalise_mode automatic(const td_dataset *data)
{
    if (data->info.sparse) return TD_NORMALISE_NONE;
    const td_dataset *stored = data->base ? data->base : data;
    return stored->dtype == TD_DTYPE_U8 ? TD_NORMALISE_UNIT : TD_NORMALISE_STANDARD;
}

/* Whether a feature is a code or a 0-1 column made from one. */
static bool categorical(const td_dataset *data, size_t feature)
{
    const td_dataset *stored = data->base ? data->base : data;
    if (stored->hashed_at) return td_dataset_hashes(stored, feature);
    if (!stored->category_count) return false;
    if (!stored->feature_at) return stored->category_count[feature] > 0;
    size_t column = 0;
    while (stored->feature_at[column + 1] <= feature) column++;
    return stored->category_count[column] > 0;
}

static void scale_of(const moments *m, td_normalise_mode mode, size_t k, td_normalise *out)
{
    double mean = 0, scale = 1;
    if (mode == TD_NORMALISE_UNIT) {
        scale = 1 / 255.0;
    } else if (mode == TD_NORMALISE_STANDARD && m->count[k] > 0) {
        mean = m->mean[k];
        if (m->square[k] > 0) scale = 1 / sqrt(m->square[k]);
    } else if (mode == TD_NORMALISE_MINMAX && m->count[k] > 0) {
        mean = m->low[k];
        if (m->high[k] > m->low[k]) scale = 1 / (m->high[k] - m->low[k]);
    }
    if (!isfinite((float)scale)) scale = 1; /* a spread below what a float can divide by */
    out->mean[k] = (float)mean;
    out->scale[k] = (float)scale;
    out->fill[k] = (float)m->mean[k];
}

static td_status allocate(td_normalise *out, td_normalise_mode mode, size_t n)
{
    float *all = td_calloc(n, 3 * sizeof *all);
    if (!all) return td_fail(TD_ERR_NOMEM, "no memory to normalise %zu features", n);
    *out = (td_normalise){mode, n, all, all + n, all + 2 * n};
    return TD_OK;
}

void td_normalise_fini(td_normalise *normalise)
{
    td_free(normalise->mean);
    *normalise = (td_normalise){0};
}

td_status td_normalise_make(td_normalise_mode mode, size_t n, const float *mean, const float *scale,
                            const float *fill, td_normalise *out)
{
    if (n == 0 || (unsigned)mode > TD_NORMALISE_MINMAX || mode == TD_NORMALISE_AUTO)
        return td_fail(TD_ERR_ARG, "normalisation mode %d of %zu features does not exist",
                       (int)mode, n);
    td_normalise made;
    TD_TRY(allocate(&made, mode, n));
    memcpy(made.mean, mean, n * sizeof *mean);
    memcpy(made.scale, scale, n * sizeof *scale);
    memcpy(made.fill, fill ? fill : mean, n * sizeof *mean);
    *out = made;
    return TD_OK;
}

td_status td_normalise_fit(const td_dataset *train, td_normalise_mode mode, td_normalise *out)
{
    if ((unsigned)mode > TD_NORMALISE_MINMAX)
        return td_fail(TD_ERR_ARG, "normalisation mode %d does not exist", (int)mode);
    const td_data_info *info = &train->info;
    const td_dataset *stored = train->base ? train->base : train;
    bool bytes = stored->dense && stored->dtype == TD_DTYPE_U8;
    if (mode == TD_NORMALISE_AUTO) mode = automatic(train);
    bool simple = mode == TD_NORMALISE_NONE || mode == TD_NORMALISE_UNIT;
    if (simple && (bytes || info->sparse)) { /* nothing can be missing, nothing to count */
        float mean = 0, scale = mode == TD_NORMALISE_UNIT ? (float)(1 / 255.0) : 1;
        return td_normalise_make(mode, 1, &mean, &scale, NULL, out);
    }
    size_t n = info->rank == 3 ? info->shape[0] : info->features;
    moments m = {0};
    td_normalise made = {0};
    TD_TRY(moments_init(&m, n, info->features / n));
    td_status status = TD_OK;
    TD_GOTO(bytes          ? moments_of_bytes(train, &m)
            : info->sparse ? moments_of_sparse(train, &m)
                           : moments_of_rows(train, &m));
    TD_GOTO(allocate(&made, mode, n));
    for (size_t k = 0; k < n; k++)
        scale_of(&m, n == info->features && categorical(train, k) ? TD_NORMALISE_NONE : mode, k,
                 &made);
    *out = made;
out:
    td_free(m.count);
    return status;
}

void td_normalise_apply(const td_normalise *normalise, size_t features, float *x)
{
    size_t plane = features / normalise->n;
    for (size_t k = 0; k < normalise->n; k++) {
        float mean = normalise->mean[k], scale = normalise->scale[k], fill = normalise->fill[k];
        float *restrict at = x + k * plane;
        for (size_t j = 0; j < plane; j++) at[j] = ((isnan(at[j]) ? fill : at[j]) - mean) * scale;
    }
}

static void bytes_to_floats(const td_normalise *normalise, const uint8_t *from, size_t features,
                            float *x)
{
    const td_kernels *k = td_kernels_best();
    if (normalise->n == 0) k->bytes_to_floats(features, from, 0, 1, x);
    size_t plane = normalise->n ? features / normalise->n : 0;
    for (size_t c = 0; c < normalise->n; c++)
        k->bytes_to_floats(plane, from + c * plane, normalise->mean[c], normalise->scale[c],
                           x + c * plane);
}

void td_dataset_row_as(const td_dataset *data, const td_normalise *normalise, uint64_t index,
                       float *x)
{
    uint64_t row = index;
    const td_dataset *stored = td_dataset_resolve(data, &row);
    if (stored->dense && stored->dtype == TD_DTYPE_U8) {
        bytes_to_floats(normalise, (const uint8_t *)stored->dense + row * stored->columns,
                        stored->columns, x);
        return;
    }
    td_dataset_row(data, index, x);
    if (normalise->n) td_normalise_apply(normalise, data->info.features, x);
}
