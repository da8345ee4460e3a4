/* Tables' rows where a bundle's files are mapped (rows_files.h has what lies there). A model that
 * does not fit into memory is asked here: nothing is copied, pages come from the files as they are
 * looked at and may go again.
 *
 * Each file has its keys in ascending order, and those of some slices; which, is noted in one look
 * at all keys, with every 256th of them. So a key is sought in one file, by halving in memory first
 * and within two pages of the file then. Memory: 1/32 of a byte a row. */
#ifndef TD_TRAIN_ROWS_VIEW_H
#define TD_TRAIN_ROWS_VIEW_H

#include "ckpt/bundle.h"
#include "train/rows_files.h"
#include "train/rows_gather.h"

#include <string.h>

typedef struct td_rows_column { /* or numbers; NULL: all are 0 */
    const unsigned char *bytes;
} td_rows_column;

typedef struct td_rows_view { /* of a table in a file */
    size_t rows;
    td_rows_column key, used, column[TD_ROWS_COLUMNS];
    td_rows_columns c;
} td_rows_view;

/* No rows where the file has none of the table. A column of a state that is missing reads as 0. */
TD_MUST_CHECK td_status td_rows_view_table(const td_table_config *config, int which,
                                           const td_safetensors *file, td_rows_view *out);
TD_MUST_CHECK td_status td_rows_view_numbers(const td_safetensors *file, const char *name,
                                             size_t count, td_rows_column *out);

static inline uint64_t td_rows_number(td_rows_column of, size_t i)
{
    uint64_t number = 0;
    if (of.bytes) memcpy(&number, of.bytes + i * sizeof number, sizeof number);
    return number;
}

/* The keyed table of a whole bundle, of config's width and rule. By any number of threads. */
typedef struct td_rows_mapped td_rows_mapped;
/* Takes the bundle, unless it fails. TD_ERR_CORRUPT: the table is another, or keys do not ascend;
 * TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_rows_map(td_bundle *bundle, const td_table_config *config,
                                    td_rows_mapped **out);
void td_rows_unmap(td_rows_mapped *mapped); /* NULL is fine */

const td_table_config *td_rows_mapped_config(const td_rows_mapped *mapped);
/* Rows there are; those of keys first to last, both among them. */
size_t td_rows_mapped_count(const td_rows_mapped *mapped);
size_t td_rows_mapped_between(const td_rows_mapped *mapped, uint64_t first, uint64_t last);
/* Weights of `count` rows to out [count][width]; 0 where there is no row. */
void td_rows_mapped_peek(const td_rows_mapped *mapped, const uint64_t *keys, size_t count,
                         float *out);
/* As td_table_range. */
TD_MUST_CHECK td_status td_rows_mapped_range(const td_rows_mapped *mapped, uint64_t first,
                                             uint64_t last, td_table_each_key_fn *each, void *arg);
/* All of them into a table. */
TD_MUST_CHECK td_status td_rows_mapped_copy(const td_rows_mapped *mapped, td_table *table);

#endif
