/* A rank's part of a batch, as models under keys read it (strategy/sparse.h): samples as entries,
 * each key once, and where each entry's gradient goes.
 *
 * The part is cut into *units*, each computed by one thread: leaves, where results must not depend
 * on how many ranks there are, or one share for each thread. Within a unit each key has one row of
 * gradients; the units' rows lie one behind the other. */
#ifndef TD_TRAIN_ROWS_BATCH_H
#define TD_TRAIN_ROWS_BATCH_H

#include "base/pool.h"
#include "data/features.h"
#include "ps/unique.h"
#include "strategy/sparse.h"

enum { TD_ROWS_WORTH_SHARING = 2048 }; /* entries (or their floats) that are worth other threads */

typedef struct td_rows_unit {
    size_t row_begin, row_end; /* samples */
    size_t sum_begin, sum_end; /* rows of gradients */
    int leaf;                  /* of the batch, where units are leaves */
} td_rows_unit;

typedef struct td_rows_batch {
    size_t rows, entries, global_rows;
    uint64_t epoch, step_in_epoch;
    bool last_in_epoch;
    uint64_t *sample;       /* [rows] */
    float *target, *weight; /* [rows]; weight is used where has_weight, label where has_label */
    int32_t *label;
    bool has_weight, has_label;
    size_t *start;         /* [rows + 1] */
    uint64_t *key;         /* [entries] */
    float *value;          /* [entries] */
    uint16_t *field;       /* [entries] */
    float *numbers;        /* [rows][numbers] */
    td_unique unique;      /* keys, each once; place: [entries] */
    uint32_t *sum;         /* [entries] row of gradients */
    uint32_t *of_sum;      /* [sums] which unique key a row of gradients is of */
    uint32_t *leaf_of_sum; /* [sums] its unit's leaf */
    size_t sums;
    td_rows_unit *units; /* [unit_count] */
    int unit_count;
    float *table;                                         /* [unique.count][width] pulled */
    float *gradient;                                      /* [sums][width] */
    size_t rows_room, entries_room, keys_room, sums_room; /* of the arrays, in items */
    size_t numbers_room, table_room, gradient_room;       /* in floats */
    uint32_t *seen_unit, *seen_sum; /* [keys_room] of a unique key: the newest unit, and its row */
} td_rows_batch;

/* Which part of the whole batch these samples are. */
static inline float td_rows_batch_share(const td_rows_batch *b)
{
    return b->global_rows ? (float)b->rows / (float)b->global_rows : 0;
}

typedef struct td_rows_shape {
    const td_features *features; /* NULL: no keys, samples are dense */
    const td_dataset *data;
    size_t width, numbers; /* of a row of the table; of a sample */
    bool by_leaf;          /* units are leaves; else one for each lane */
    td_pool *pool;         /* its lanes read samples */
} td_rows_shape;

typedef struct td_rows_leaves { /* of a batch, one behind the other */
    int first, count;
    const size_t *row; /* [count + 1] where each begins */
} td_rows_leaves;

/* From a batch of the loader (made with `sparse`, or dense where there are no features).
 * leaf_begin: number of its first leaf. Keeps its memory, and needs the loader's no more.
 * TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_rows_batch_fill(td_rows_batch *batch, const td_rows_shape *shape,
                                           const td_batch *from, int leaf_begin);
/* The same in two parts, for samples that come otherwise: room for the arrays of samples and
 * entries, to be filled in by the caller with rows, entries and start; then units (those leaves
 * where units are leaves, else one for each lane: leaves may be NULL) and keys.
 */
TD_MUST_CHECK td_status td_rows_batch_room(td_rows_batch *batch, size_t rows, size_t entries,
                                           size_t numbers);
TD_MUST_CHECK td_status td_rows_batch_index(td_rows_batch *batch, const td_rows_shape *shape,
                                            const td_rows_leaves *leaves);
void td_rows_batch_free(td_rows_batch *batch); /* zeroed is fine */

/* Unit `unit` as a leaf, to be computed in any lane. params, dense_gradient: of that unit. */
void td_rows_batch_leaf(const td_rows_batch *batch, const td_rows_shape *shape, int unit,
                        td_sparse_leaf *out);

#endif
