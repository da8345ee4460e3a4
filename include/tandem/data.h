/* Tandem: data sets, how they are cut over workers, and the loader that turns them into batches.
 *
 * A data set is read-only once open: any number of threads may read it. Handles are opaque;
 * configurations are open structs in which zero means the documented default. */
#ifndef TANDEM_DATA_H
#define TANDEM_DATA_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- data sets ------------------------------------------------------------------------------ */

typedef struct td_dataset td_dataset;

/* How feature values are kept in memory: the file's natural type, pixels stay bytes. */
typedef enum td_dtype { TD_DTYPE_F32, TD_DTYPE_U8, TD_DTYPE_I32 } td_dtype;

typedef enum td_split { TD_SPLIT_TRAIN, TD_SPLIT_TEST } td_split;

/* TD_FORMAT_AUTO decides by the name (a trailing .gz is looked through), then by the first bytes.
 */
typedef enum td_format {
    TD_FORMAT_AUTO,
    TD_FORMAT_IDX,
    TD_FORMAT_CSV,
    TD_FORMAT_TSV,
    TD_FORMAT_LIBSVM,
    TD_FORMAT_LIBFFM,
    TD_FORMAT_NPY
} td_format;

/* What the label column holds. AUTO: text is a class, and so are integers when all lie in 0..999 or
 * all are -1 or 1; other numbers are values to predict. Class numbers count from 0, but for 1 and 2
 * alone, which are two. CLASS: integers beyond 65,535, negative or fractional numbers become named
 * classes in numeric order. VALUE: text is an error. */
typedef enum td_label_kind { TD_LABEL_AUTO, TD_LABEL_CLASS, TD_LABEL_VALUE } td_label_kind;

/* Names of the enumerators above and below, in their order, NULL behind the last; for options. */
TD_API extern const char *const td_split_names[];      /* train test */
TD_API extern const char *const td_format_names[];     /* auto idx csv tsv libsvm libffm npy */
TD_API extern const char *const td_label_kind_names[]; /* auto class value */

#define TD_DATA_MISSING "?,NA,NaN"

typedef struct td_data_config {
    /* A file, or a folder holding the files of both splits: {train,t10k,test}-images-idx3-ubyte
     * with their labels ('.' may stand before idx), {train,test}.{csv,tsv,svm,libsvm,ffm,
     * libffm,npz}, or {train,test}_x.npy and _y.npy (also x_train.npy). Any of them may end in .gz.
     * An images or x file brings its labels or y file along. */
    const char *path;
    td_split split;   /* of a folder, or of an npz that holds both; default train */
    td_format format; /* default: auto */
    /* CSV and TSV: the label column, by name, by number from 0, or from the end by -1, -2, ...;
     * "none": there is none. Default: the column named "label" (any case), else the first. */
    const char *label;
    td_label_kind label_kind;
    bool counts;               /* labels that are values are counts: a negative one is an error */
    int header;                /* 1: the first line names the columns; -1: it does not; 0: it does
                                  when none of its fields is a number and a field below is one,
                                  or no text of it occurs again in the 1,000 lines below; with
                                  `like` also when it holds a name of the training set's columns,
                                  and never when those have none */
    const char *delimiter;     /* one character or "tab"; default: ',' or, for TSV, the tab. Other
                                  blanks around fields are ignored; two delimiters in a row have
                                  an empty field between them, blanks too */
    const char *weight_column; /* CSV and TSV: as `label`; default none */
    /* CSV and TSV: columns that hold categories, names or numbers with commas between, or "none".
     * Default "auto": those where at least half of the values in the first 1,000 rows are text.
     * Text elsewhere is an error. Categories become codes 0, 1, ... in the order of their bytes. */
    const char *categorical;
    const char *missing; /* texts that stand for a missing value, commas between; the empty field
                            always does. Default TD_DATA_MISSING. Missing features read as NaN. */
    bool one_hot;        /* a column with k categories reads as k features of 0 and 1 */
    /* Of categories only a hash of their column and text is kept, under this seed: for features
     * under keys, of any number of categories. Their columns read as 0; `like` says so, too. */
    bool hash_categories;
    uint64_t hash_seed;
    int index_base;  /* libsvm, libffm: 1 or -1 (zero-based); 0: zero-based when an index 0
                        occurs */
    size_t features; /* of libsvm and libffm; default: as the largest index asks */
    /* The training set that a test set must fit: same features, categories (new ones read as
     * missing, and so do new indices of libffm) and classes (new ones are an error). Used during
     * open only. */
    const td_dataset *like;
    /* Labels are not wanted: a file without them will do, whatever `label` says, and those that it
     * has need not be known and are not read. Weights may be missing, too. */
    bool no_labels;
    int threads; /* that parse; default: one per core, at most 16. Results do not depend on it */
    /* Keep the parsed data in `path`.tdcache beside the file and map it next time. A cache that is
     * damaged or out of date is ignored and written again; one that cannot be written is not
     * missed. */
    bool cache;
} td_data_config;

/* Opens a data set. *out is the caller's, to close. TD_ERR_ARG (option), TD_ERR_DATA (content of a
 * file, named with line or byte), TD_ERR_IO, TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_dataset_open(const td_data_config *config, td_dataset **out);

/* A data set over the caller's arrays, which are borrowed until it is closed. */
typedef struct td_arrays {
    uint64_t samples;
    int rank;        /* 1..4 */
    size_t shape[4]; /* of a sample; images are [channel][row][column] */
    td_dtype dtype;
    const void *x;        /* [samples][shape...] */
    const int32_t *label; /* [samples] in 0..classes-1; or NULL and */
    int classes;
    const float *target; /* [samples] values to predict */
    const float *weight; /* [samples] or NULL */
} td_arrays;
TD_API TD_MUST_CHECK td_status td_dataset_from_arrays(const td_arrays *arrays, td_dataset **out);

TD_API void td_dataset_close(td_dataset *dataset); /* NULL is fine */

typedef struct td_data_info {
    uint64_t samples;
    int rank;                         /* 1 for tables, 3 for images */
    size_t shape[4];                  /* of a sample: features, or channels, rows, columns */
    size_t features;                  /* the product of shape */
    int classes;                      /* 0: the targets are numbers to predict */
    const char *const *class_names;   /* [classes], or NULL: the ids are the names */
    const char *const *feature_names; /* [features] or NULL */
    bool sparse;                      /* td_dataset_sparse_row works */
    bool has_weights;
    bool has_groups; /* query ids, for ranking */
    size_t bytes;    /* of memory or mapping that hold the samples */
    const char *path;
} td_data_info;

/* Borrowed from the data set. */
TD_API const td_data_info *td_dataset_info(const td_dataset *dataset);

/* One sample, index < samples. Labels: the class, -1 where the targets are numbers. Targets: the
 * number, or the class as a number. Weight: 1 without weights. Group: 0 without groups. */
TD_API int32_t td_dataset_label(const td_dataset *dataset, uint64_t index);
TD_API float td_dataset_target(const td_dataset *dataset, uint64_t index);
TD_API float td_dataset_weight(const td_dataset *dataset, uint64_t index);
TD_API int64_t td_dataset_group(const td_dataset *dataset, uint64_t index);

/* The sample's features as they are in the file, in x [features]; missing ones are NaN. Dense also
 * for sparse data, where one that a sample has more than once is the sum. */
TD_API void td_dataset_row(const td_dataset *dataset, uint64_t index, float *x);

/* The stored entries of a sparse sample: their number, features in ascending order and values.
 * libffm's samples may have a feature more than once. Borrowed. Only where info.sparse. */
TD_API size_t td_dataset_sparse_row(const td_dataset *dataset, uint64_t index,
                                    const uint32_t **feature, const float **value);
/* The fields of these entries, NULL where the data have none. Borrowed. */
TD_API const uint16_t *td_dataset_sparse_fields(const td_dataset *dataset, uint64_t index);

/* Categories of a feature: their number (0: numeric or one-hot) and, where names is not NULL, their
 * texts by code. Borrowed. */
TD_API int td_dataset_categories(const td_dataset *dataset, size_t feature,
                                 const char *const **names);

/* Two views of the data set that share its memory: about `fraction` (0 < fraction < 1) of the
 * samples held out, the others for training; which is a function of the seed and the number of
 * samples alone. Groups stay whole. The views keep the order of the samples; close both before the
 * data set. TD_ERR_ARG when a side would be empty. */
TD_API TD_MUST_CHECK td_status td_dataset_split(const td_dataset *dataset, double fraction,
                                                uint64_t seed, td_dataset **out_train,
                                                td_dataset **out_held);

/* ---- normalisation -------------------------------------------------------------------------- */

typedef enum td_normalise_mode {
    TD_NORMALISE_AUTO, /* unit for bytes, none for sparse data, standard for other tables */
    TD_NORMALISE_NONE,
    TD_NORMALISE_UNIT,     /* x / 255 */
    TD_NORMALISE_STANDARD, /* (x - mean) / standard deviation, of each feature or image channel */
    TD_NORMALISE_MINMAX    /* (x - min) / (max - min), of each feature or image channel */
} td_normalise_mode;
TD_API extern const char *const td_normalise_names[]; /* auto none unit standard minmax */

/* x becomes (x - mean[k]) * scale[k], a missing x first becomes fill[k] (the feature's mean). k is
 * the feature's index divided by features / n. Constant, categorical and one-hot features keep
 * scale 1, the latter two mean 0 as well. The arrays are what a model file must hold. */
typedef struct td_normalise {
    td_normalise_mode mode; /* never AUTO after fit or make */
    size_t n;               /* 1, the channels or the features */
    float *mean;            /* [n] */
    float *scale;           /* [n] */
    float *fill;            /* [n] */
} td_normalise;

/* Statistics of the training set, summed in one fixed order. Release with td_normalise_fini.
 * TD_ERR_ARG, TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_normalise_fit(const td_dataset *train, td_normalise_mode mode,
                                                td_normalise *out);
/* From arrays that are copied; fill NULL: mean. */
TD_API TD_MUST_CHECK td_status td_normalise_make(td_normalise_mode mode, size_t n,
                                                 const float *mean, const float *scale,
                                                 const float *fill, td_normalise *out);
TD_API void td_normalise_fini(td_normalise *normalise); /* a zeroed struct is fine */
/* One sample in place, x [features]; n divides features. */
TD_API void td_normalise_apply(const td_normalise *normalise, size_t features, float *x);

/* ---- the shard plan: pure functions --------------------------------------------------------- */

/* Where part `part` of n things begins when they are cut into `parts`; td_cut(n, parts, parts) is
 * n. Exact for n * parts < 2^64. Rows of a batch are cut into leaves so, leaves into ranks. */
static inline uint64_t td_cut(uint64_t n, uint64_t parts, uint64_t part)
{
    return n * part / parts;
}

/* The order of an epoch. */
typedef enum td_shuffle {
    TD_SHUFFLE_GLOBAL, /* one permutation of all samples, new in each epoch */
    TD_SHUFFLE_LEAF,   /* leaf l permutes the l-th part of the data set, so that a rank touches
                          only the parts of its leaves */
    TD_SHUFFLE_NONE    /* as in the file */
} td_shuffle;
TD_API extern const char *const td_shuffle_names[]; /* global leaf none */

/* What decides which sample is where: nothing about ranks. */
typedef struct td_shard_plan {
    uint64_t samples; /* >= 1 */
    uint64_t batch;   /* rows of a global batch, >= 1; with TD_SHUFFLE_LEAF at least leaves */
    int leaves;       /* >= 1 */
    td_shuffle shuffle;
    bool drop_last; /* leave out the last, partial batch of an epoch */
    uint64_t seed;
} td_shard_plan;

/* TD_ERR_ARG when the plan breaks a rule above or has no full batch to keep. */
TD_API TD_MUST_CHECK td_status td_shard_check(const td_shard_plan *plan);
TD_API uint64_t td_shard_steps(const td_shard_plan *plan); /* per epoch */
/* Rows of a leaf in a step, and of all leaves together. */
TD_API size_t td_shard_leaf_rows(const td_shard_plan *plan, uint64_t step, int leaf);
TD_API size_t td_shard_batch_rows(const td_shard_plan *plan, uint64_t step);
/* The samples of a leaf in a step, in sample [td_shard_leaf_rows]. */
TD_API void td_shard_leaf(const td_shard_plan *plan, uint64_t epoch, uint64_t step, int leaf,
                          uint64_t *sample);

/* ---- the loader ----------------------------------------------------------------------------- */

typedef struct td_loader td_loader;

/* Random changes to images, keyed by seed, epoch and sample. Pixels from outside are 0 before
 * normalisation. */
typedef struct td_augment {
    int shift;    /* move by up to so many pixels in each direction */
    bool flip;    /* mirror left and right, half of the time */
    int crop_pad; /* pad by so many pixels on each side, cut the old size out anywhere */
} td_augment;

typedef struct td_batch {
    size_t rows;            /* of this loader's leaves */
    const float *x;         /* [rows][features], normalised and augmented; 64-byte aligned */
    const int32_t *label;   /* [rows]; NULL where classes is 0 */
    const float *target;    /* [rows]; the class as a number where there are classes */
    const float *weight;    /* [rows] or NULL */
    const uint64_t *sample; /* [rows] index in the data set; keys the random streams */
    int leaves;             /* in this loader's range */
    const size_t *leaf_row; /* [leaves + 1] where each leaf's rows begin */
    size_t global_rows;     /* of the whole batch, over all ranks */
    uint64_t epoch;
    uint64_t step_in_epoch;
    bool last_in_epoch;
} td_batch;

typedef struct td_loader_config {
    const td_dataset *data; /* borrowed until the loader is destroyed */
    size_t batch;           /* rows of a global batch; default 128 */
    int leaves;             /* the batch is cut into; default 16 */
    int leaf_begin;         /* this rank's leaves; both 0: all */
    int leaf_end;
    uint64_t seed;
    td_shuffle shuffle; /* default: global */
    bool drop_last;
    const td_normalise *normalise; /* copied; NULL: none, and missing values stay NaN */
    td_augment augment;            /* default: none; TD_ERR_ARG unless samples are images */
    int ahead;                     /* batches prepared by a thread; default 2; -1: no thread */
    uint64_t epochs;               /* before the end; default 0: endless */
    bool sparse; /* leave x out (NULL): the caller reads the samples itself, by `sample` */
} td_loader_config;

/* Allocates all it will ever need. A loader is used by one thread at a time. TD_ERR_ARG,
 * TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_loader_create(const td_loader_config *config, td_loader **out);
TD_API void td_loader_destroy(td_loader *loader); /* NULL is fine */

/* The next batch, valid until the next call on the loader; steps on into the next epoch by itself.
 * Behind the last epoch *out is NULL. */
TD_API TD_MUST_CHECK td_status td_loader_next(td_loader *loader, const td_batch **out);

/* The next batch will be step `step_in_epoch` of `epoch`; O(1). TD_ERR_ARG beyond the epoch's
 * steps. */
TD_API TD_MUST_CHECK td_status td_loader_seek(td_loader *loader, uint64_t epoch,
                                              uint64_t step_in_epoch);
TD_API uint64_t td_loader_steps_per_epoch(const td_loader *loader);

#ifdef __cplusplus
}
#endif
#endif
