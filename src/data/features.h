/* A data set's samples as features under 64-bit keys, for models that keep a row of a table for
 * each key (strategy/sparse.h): the hashing trick (Weinberger et al., "Feature hashing for large
 * scale multitask learning", ICML 2009), but unsigned, and with room for whole hashes.
 *
 * What a key is of (XXH3 under the seed, then the lowest `bits` of it):
 *
 *     a category of a table      the column and the text; value 1; a missing one is no entry
 *     a number of a table,       the column; value normalised; 0 is no entry
 *     a pixel or other number
 *     an index of libsvm, libffm the index, counted from 0; with bits 0 it is the key itself
 *     the bias                   value 1, the sample's last entry
 *
 * A column is known by its name, or else by its number from 0, so that a test set opened `like` the
 * training set has the training set's keys. No key is UINT64_MAX. Of two features with one key
 * each has its entry. */
#ifndef TD_DATA_FEATURES_H
#define TD_DATA_FEATURES_H

#include "tandem/data.h"

#define TD_FEATURES_BIAS (UINT64_MAX - 1) /* the bias' key where keys are whole */

typedef struct td_features_config {
    int bits; /* of a key, 1..63; 0: keys are whole */
    uint64_t seed;
    bool numbers_apart; /* numeric columns have no keys but are dense numbers (dlrm) */
    /* Of numbers; copied. NULL: none, and a missing number is 0. Sparse data may be scaled but not
     * moved: means must be 0. */
    const td_normalise *normalise;
    bool bias;     /* each sample also has the bias' key; its field is one of its own, the last */
    size_t fields; /* libffm: of the training set, where `data` is not that; 0: as in data */
} td_features_config;

typedef struct td_features td_features;

/* Plans the features of `data` and of data sets that were opened `like` it; `data` may be closed
 * then. Categories must be codes (one_hot off). TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_features_create(const td_dataset *data, const td_features_config *config,
                                           td_features **out);
void td_features_destroy(td_features *features); /* NULL is fine */

/* Entries of a sample, at most, of the data set that they were planned for, and of another. */
size_t td_features_most(const td_features *features);
size_t td_features_most_of(const td_features *features, const td_dataset *data);
/* The same of one sample. most_of looks at all samples, this at none. */
size_t td_features_room(const td_features *features, const td_dataset *data, uint64_t index);
/* Different fields: of libffm one more than the largest, of a table its columns that have keys,
 * 65,536 at most (further columns share the last), else 1; one more with the bias. */
size_t td_features_fields(const td_features *features);
size_t td_features_numbers(const td_features *features); /* dense ones of a sample */

/* The entries of sample `index`, in the order of columns or indices: key, value and field have room
 * for td_features_most_of(features, data), numbers for td_features_numbers (else NULL). Returns how
 * many. libffm's entries of fields that the training set does not have are left out. Allocates
 * nothing; any number of threads may call. */
size_t td_features_row(const td_features *features, const td_dataset *data, uint64_t index,
                       uint64_t *key, float *value, uint16_t *field, float *numbers);

#endif
