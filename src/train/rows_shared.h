/* Parameters in memory that all workers of one machine share, read and moved without locks (Recht
 * et al., "Hogwild!", NIPS 2011): workers may lose each other's updates where they move one row at
 * the same moment, and results differ from run to run.
 *
 * Rows under keys lie in an array of 2^bits, at their key: there is nothing to look up or to make
 * room for. Memory: 2^bits rows of weights and the update rule's state, and a byte each; dense
 * parameters besides. Pages that nobody touches cost nothing. */
#ifndef TD_TRAIN_ROWS_SHARED_H
#define TD_TRAIN_ROWS_SHARED_H

#include "ps/rule.h"
#include "tandem/comm.h"

typedef struct td_shared_rows {
    td_table_config config;
    td_rule rule;
    size_t rows, floats, stride; /* floats of a row, and from row to row */
    td_region region;
    float *row;     /* [rows][stride] */
    uint8_t *moved; /* [rows] it has been made */
} td_shared_rows;

/* Collective; all ranks must be on one host. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_shared_rows_open(td_comm *comm, const td_table_config *config,
                                            size_t rows, td_shared_rows *out);
void td_shared_rows_close(td_shared_rows *shared, td_comm *comm); /* zeroed is fine */

/* As td_table_peek and td_table_push; keys are below `rows`. Any number of ranks at once. */
void td_shared_rows_read(const td_shared_rows *shared, const uint64_t *keys, size_t count,
                         float *out);
void td_shared_rows_push(td_shared_rows *shared, const uint64_t *keys, size_t count,
                         const float *gradients, td_table_step step);

/* All rows that have been made into a table, and a table's into these. */
TD_MUST_CHECK td_status td_shared_rows_to_table(const td_shared_rows *shared, td_table *table);
TD_MUST_CHECK td_status td_shared_rows_from_table(td_shared_rows *shared, const td_table *table);

#endif
