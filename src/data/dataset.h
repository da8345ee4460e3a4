/* The data set as the readers build it and the accessors read it.
 *
 * Invariant: every array is [info.samples] or as its comment says and is never written after open.
 * Everything a data set owns hangs on `blocks`, so close is one walk, and so is the way out of a
 * reader that failed half-way. A view has `base` and `rows` and no arrays of its own. */
#ifndef TD_DATA_DATASET_H
#define TD_DATA_DATASET_H

#include "tandem/data.h"

#include "base/fs.h"

typedef struct td_block {
    struct td_block *next;
} td_block;

struct td_dataset {
    td_data_info info;
    td_dtype dtype;
    size_t columns;                  /* stored: info.features, fewer with one_hot */
    const void *dense;               /* dtype [samples][columns]; or NULL and the next three */
    const uint64_t *row_start;       /* [samples + 1] */
    const uint32_t *index;           /* [row_start[samples]] ascending in a row */
    const float *value;              /* the same */
    const uint16_t *field;           /* the same; NULL but for libffm */
    const int32_t *label;            /* or NULL */
    const float *target;             /* or NULL */
    const float *weight;             /* or NULL */
    const int64_t *group;            /* or NULL */
    const char *const *column_names; /* [columns] or NULL */
    const int *category_count;       /* [columns] 0: numeric; or NULL */
    const char *const *const *category_names; /* [columns][category_count]; or NULL */
    const int32_t *hashed_at;  /* [columns] -1: no hashed category; else its place in: ; or NULL */
    const uint64_t *hashed;    /* [samples][hashed_columns] td_hash_category; or NULL */
    size_t hashed_columns;     /* places */
    uint64_t hash_seed;        /* of them */
    const size_t *feature_at;  /* [columns + 1] first feature of a column; NULL without one_hot */
    const double *class_value; /* [classes] numbers the class names stand for; NULL: not numbers */
    int index_base;            /* libsvm, libffm: 0 or 1, as decided; -1 otherwise */
    const td_dataset *base;    /* of a view */
    const uint64_t *rows;      /* [samples] of a view: indices in base */
    uint64_t elsewhere;        /* its fingerprint, where its samples are not here; 0: they are */
    td_mapping cache;
    td_block *blocks;
    char *text; /* room for short texts: [text_room] */
    size_t text_room;
};

/* A zeroed data set; NULL when out of memory. */
td_dataset *td_dataset_new(void);

/* Memory that lives as long as the data set, 64-byte aligned, not cleared; NULL when out of memory.
 * count * bytes is checked. */
void *td_dataset_alloc(td_dataset *dataset, size_t count, size_t bytes);
/* The same with the failure's sentence. */
TD_MUST_CHECK td_status td_dataset_take(td_dataset *dataset, size_t count, size_t bytes,
                                        const char *what, void *out_pointer);
/* A copy of `length` bytes of text, ended by 0. Not aligned: short ones lie side by side. */
char *td_dataset_text(td_dataset *dataset, const char *text, size_t length);

/* Sets features, feature_at and feature_names from columns, categories and one_hot. */
TD_MUST_CHECK td_status td_dataset_set_columns(td_dataset *dataset, bool one_hot);

/* A sample's features [columns] before one_hot expansion is applied to them. */
void td_dataset_stored_row(const td_dataset *dataset, uint64_t index, float *x);

/* Fails unless the data set fits `like`: features, shape, names, kind of targets. */
TD_MUST_CHECK td_status td_dataset_check_like(const td_dataset *dataset, const td_dataset *like);

/* Tells data sets of one shape apart: number of samples, shape, classes and categories, all labels,
 * targets, weights and groups, and the stored bytes of up to 1,024 samples that lie evenly over all
 * (fewer where that is more than 32 MiB, but 16). The same for a cache as for what it was made
 * from, wherever either lies, and for a view as for a copy of its samples. Never 0. Costs about a
 * millisecond for 60,000 images. */
uint64_t td_dataset_fingerprint(const td_dataset *dataset);

/* Sets hashed_columns from hashed_at. */
void td_dataset_count_hashed(td_dataset *dataset);

/* Whether the column holds categories of which hashes alone are kept; of no view. */
static inline bool td_dataset_hashes(const td_dataset *dataset, size_t column)
{
    return dataset->hashed_at && dataset->hashed_at[column] >= 0;
}

/* The data set behind a view, and the index there. */
static inline const td_dataset *td_dataset_resolve(const td_dataset *dataset, uint64_t *index)
{
    if (!dataset->base) return dataset;
    *index = dataset->rows[*index];
    return dataset->base;
}

/* A sample [features] as networks read it: normalised, where there is what to (n). */
void td_dataset_row_as(const td_dataset *dataset, const td_normalise *normalise, uint64_t index,
                       float *x);

#endif
