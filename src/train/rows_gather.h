/* Rows of a run's table on their way to files: the rows of a run of slices, its *group*, come
 * together at one server, the group's writer, which then sorts them. */
#ifndef TD_TRAIN_ROWS_GATHER_H
#define TD_TRAIN_ROWS_GATHER_H

#include "train/rows_tables.h"

/* What a table's rows are made of: weights, then the rule's states, [width] each. */
enum { TD_ROWS_NAME = 96, TD_ROWS_COLUMNS = 4 };
typedef struct td_rows_columns {
    char name[TD_ROWS_COLUMNS][TD_ROWS_NAME];
    size_t count, width;
} td_rows_columns;
TD_MUST_CHECK td_status td_rows_columns_of(const td_table_config *config, int which, bool states,
                                           td_rows_columns *out);

typedef struct td_rows_gather {
    td_rows_tables *t;
    int which, groups;
    bool marks;               /* when keys were used, and keys that were seen and have no row yet */
    size_t item, floats;      /* of a row: bytes on the way, floats that are written */
    int *writer;              /* [groups] ranks */
    size_t *give, *take, *at; /* [size] bytes */
    char *out, *in;
    size_t in_bytes;
} td_rows_gather;

/* Collective. The gather is to be closed whatever comes of it. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_rows_gather_open(td_rows_tables *tables, int which, int groups,
                                            const td_rows_columns *columns, bool marks,
                                            td_rows_gather *gather);
void td_rows_gather_close(td_rows_gather *gather);

/* A group's rows by columns, in ascending order of keys. */
typedef struct td_rows_sorted {
    size_t rows;
    uint64_t *keys, *used;                                /* [rows]; used: NULL without marks */
    float *column[TD_ROWS_COLUMNS];                       /* [rows][width] each */
    size_t sighted;                                       /* keys without a row */
    uint64_t *sighted_keys, *sighted_used, *sighted_seen; /* [sighted] */
} td_rows_sorted;
/* At the group's writer. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_rows_gather_sort(const td_rows_gather *gather, int group,
                                            const td_rows_columns *columns, td_rows_sorted *out);
void td_rows_sorted_free(td_rows_sorted *sorted); /* zeroed is fine */

#endif
