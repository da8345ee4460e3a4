/* What tells two data sets apart, beyond their shape: a chain of XXH64, each with the one before as
 * its seed, over what td_dataset_fingerprint names. Columns of numbers are taken in pieces of
 * PIECE, so that a view, whose samples lie apart, gives what a copy of them gives. */
#include "data/dataset.h"

#include <string.h>
#include <xxhash.h>

enum { PIECE = 1024, SAMPLES = 1024, LEAST = 16, BYTES = 32 << 20 };

static uint64_t mix_number(uint64_t hash, uint64_t number)
{
    return XXH64(&number, sizeof number, hash);
}

static uint64_t mix_text(uint64_t hash, const char *text)
{
    return XXH64(text, strlen(text) + 1, hash);
}

/* column: [samples of what is stored] of `width` bytes each, at most 8; or NULL. */
static uint64_t mix_column(uint64_t hash, const td_dataset *d, const void *column, size_t width)
{
    unsigned char piece[PIECE * 8];
    const unsigned char *stored = column;
    uint64_t n = d->info.samples;
    hash = mix_number(hash, column != NULL);
    for (uint64_t begin = 0; stored && begin < n; begin += PIECE) {
        uint64_t count = n - begin < PIECE ? n - begin : PIECE;
        for (uint64_t i = 0; d->base && i < count; i++)
            memcpy(piece + i * width, stored + d->rows[begin + i] * width, width);
        hash = XXH64(d->base ? piece : stored + begin * width, count * width, hash);
    }
    return hash;
}

static uint64_t mix_sample(uint64_t hash, const td_dataset *d, uint64_t index)
{
    d = td_dataset_resolve(d, &index);
    if (d->dense) {
        size_t bytes = d->columns * (d->dtype == TD_DTYPE_U8 ? 1 : 4);
        hash = XXH64((const unsigned char *)d->dense + index * bytes, bytes, hash);
        if (!d->hashed) return hash;
        return XXH64(d->hashed + index * d->hashed_columns, d->hashed_columns * sizeof *d->hashed,
                     hash);
    }
    uint64_t begin = d->row_start[index], count = d->row_start[index + 1] - begin;
    if (!count) return mix_number(hash, 0);
    hash = XXH64(d->index + begin, count * sizeof *d->index, hash);
    if (d->field) hash = XXH64(d->field + begin, count * sizeof *d->field, hash);
    return XXH64(d->value + begin, count * sizeof *d->value, hash);
}

/* Labels and categories are numbers; what they stand for. */
static uint64_t mix_names(uint64_t hash, const td_dataset *stored)
{
    const td_data_info *info = &stored->info;
    for (int k = 0; info->class_names && k < info->classes; k++)
        hash = mix_text(hash, info->class_names[k]);
    for (size_t c = 0; stored->category_count && c < stored->columns; c++)
        for (int k = 0; k < stored->category_count[c]; k++)
            hash = mix_text(mix_number(hash, c), stored->category_names[c][k]);
    if (stored->hashed_at) hash = mix_number(hash, stored->hash_seed);
    return hash;
}

/* So many samples are looked at; of long ones fewer. */
static uint64_t samples_of(const td_dataset *d)
{
    uint64_t n = d->info.samples, most = BYTES / ((uint64_t)d->info.features * 4 + 1);
    if (d->info.sparse || most > SAMPLES) most = SAMPLES;
    if (most < LEAST) most = LEAST;
    return n < most ? n : most;
}

uint64_t td_dataset_fingerprint(const td_dataset *dataset)
{
    const td_data_info *info = &dataset->info;
    const td_dataset *stored = dataset->base ? dataset->base : dataset;
    if (dataset->elsewhere) return dataset->elsewhere;
    uint64_t hash = mix_number(0, info->samples), looked_at = samples_of(dataset);
    for (int d = 0; d < info->rank; d++) hash = mix_number(hash, info->shape[d]);
    hash = mix_number(hash, (uint64_t)info->classes);
    hash = mix_number(hash, info->sparse ? TD_DTYPE_F32 : (uint64_t)stored->dtype);
    hash = mix_names(hash, stored);
    hash = mix_column(hash, dataset, stored->label, sizeof *stored->label);
    hash = mix_column(hash, dataset, stored->target, sizeof *stored->target);
    hash = mix_column(hash, dataset, stored->weight, sizeof *stored->weight);
    hash = mix_column(hash, dataset, stored->group, sizeof *stored->group);
    for (uint64_t k = 0; k < looked_at; k++)
        hash = mix_sample(hash, dataset, td_cut(info->samples, looked_at, k));
    return hash ? hash : 1;
}
