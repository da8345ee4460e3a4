/* Parameters in memory that all workers of one machine share, read and moved without locks (Recht
 * et al., "Hogwild!", NIPS 2011): workers may lose each other's updates where they move one row at
 * the same moment, and results differ from run to run.
 *
 * Rows under keys lie in an array of 2^bits, at their key: there is nothing to look up or to make
 * room for. Memory: 2^bits rows of weights and the update rule's state, and a byte each; dense
 * parameters besides. All of it is taken when it is made, whether rows come to be used or not:
 * between processes from /dev/shm, so that none of them meets the end of it in the midst of a step.
 *
 * No rank owns the memory: it stays while any has it mapped, and those that are left when one dies
 * go on with it. Others cannot map it any more, though: where a rank comes, all go over to new
 * memory, into which one of those that have the newest copies the rows. */
#ifndef TD_TRAIN_ROWS_SHARED_H
#define TD_TRAIN_ROWS_SHARED_H

#include "ps/rule.h"
#include "tandem/comm.h"

typedef struct td_shared_rows {
    td_table_config config;
    td_rule rule;
    size_t rows, floats, stride; /* floats of a row, and from row to row */
    int workers;
    td_region region;
    int64_t version; /* of the memory: 1, 2, ...; 0: this rank has none yet */
    uint64_t *made;  /* [workers] steps that each has made: whoever follows it goes on there */
    float *row;      /* [rows][stride] */
    uint8_t *moved;  /* [rows] it has been made */
} td_shared_rows;

typedef struct td_shared_config {
    const td_table_config *table;
    size_t rows;
    int workers;
} td_shared_config;

/* Collective; all ranks must be on one host. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_shared_rows_open(td_comm *comm, const td_shared_config *config,
                                            td_shared_rows *out);
/* Of a rank that comes into a run under way: fit to be moved. Local. */
TD_MUST_CHECK td_status td_shared_rows_join(const td_shared_config *config, td_shared_rows *out);
/* In another group. Collective. A rank that has come and lies on another host, or for which memory
 * does not suffice, leaves: a loss to the others. *lost: TD_ERR_PEER because no rank that is left
 * has the memory, or because some have another than the others, and there is none for a third.
 * After another failure: fit to be moved again. */
TD_MUST_CHECK td_status td_shared_rows_move(td_comm *comm, td_shared_rows *shared, bool *lost);
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
