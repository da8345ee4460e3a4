/* The tables of a run whose parameters live in them: rows under keys, and the dense parameters as
 * rows of a table of their own. In step, so that all ranks move them together and to the bit
 * (ps/bulk.h), or each worker at its pace (ps/sharded.h), as the clock says.
 *
 * Ranks are workers, servers, or both (rows_roles.h). */
#ifndef TD_TRAIN_ROWS_TABLES_H
#define TD_TRAIN_ROWS_TABLES_H

#include "base/fs.h"
#include "ps/bulk.h"
#include "ps/sharded.h"
#include "strategy/sparse.h"
#include "train/job.h"
#include "train/rows_roles.h"
#include "train/rows_shared.h"

enum { TD_ROWS_KEYED, TD_ROWS_DENSE, TD_ROWS_TABLES };

typedef enum td_rows_mode {
    TD_ROWS_EXACT, /* in step */
    TD_ROWS_PACED, /* each worker at its pace */
    TD_ROWS_SHARED /* in memory of all, without locks */
} td_rows_mode;

typedef struct td_rows_tables {
    td_comm *comm, *meeting; /* meeting: its own group, without deadline; shared */
    td_roles roles;
    int era; /* of the roles that the tables have been told */
    td_rows_mode mode;
    td_clock clock[TD_ROWS_TABLES];
    bool has[TD_ROWS_TABLES];
    size_t dense_rows, params; /* dense parameters: rows of the table, floats */
    td_table_config config[TD_ROWS_TABLES];
    char folder[TD_ROWS_TABLES][TD_PATH_MAX];
    td_bulk *bulk[TD_ROWS_TABLES];
    td_sharded *sharded[TD_ROWS_TABLES];
    td_shared_rows
        shared[TD_ROWS_TABLES]; /* `bulk` then holds rows that are saved or read, at rank 0 */
    int bits;
    uint64_t *dense_keys; /* [dense_rows] */
    float *dense;         /* [dense_rows][width], pulled */
    td_table_span *spans; /* of the dense table's weights */
    int replicas, leaves;
    bool by_staleness;
    uint64_t evict_after;
    bool remembers; /* of keys: when they were used, how often they were seen without a row */
    float compensation;
} td_rows_tables;

typedef struct td_rows_tables_config {
    const td_job *job;
    td_clock clock, net_clock; /* net: of the dense ones */
    const char *net_rule;      /* as keyed.rule */
    td_rows_mode mode;
    td_table_config keyed; /* width 0: none */
    size_t params;         /* dense ones, */
    const td_slot *slots;  /* [slot_count] of them */
    size_t slot_count;
    td_role_counts counts;
    bool reads; /* this rank has the training data */
} td_rows_tables_config;

/* Opens them, or, where this rank has joined a run under way, makes them fit to be moved.
 * Collective unless joined. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_rows_tables_open(td_comm *comm, const td_rows_tables_config *config,
                                            bool joined, td_rows_tables *out);
void td_rows_tables_close(td_rows_tables *tables); /* zeroed is fine */

/* This rank's leaves of a batch. */
void td_rows_tables_leaves(const td_rows_tables *tables, int leaves, int *begin, int *end);

td_table *td_rows_table(td_rows_tables *tables, int which);
const td_place *td_rows_place(const td_rows_tables *tables, int which); /* borrowed */
/* Whether this rank has the row, and whether it speaks for it. */
bool td_rows_holds(const td_rows_tables *tables, int which, uint64_t key);
bool td_rows_speaks(const td_rows_tables *tables, int which, uint64_t key);

/* Sets all dense parameters, states 0. Local: each rank puts what it has. */
TD_MUST_CHECK td_status td_rows_put_dense(td_rows_tables *tables, const float *params);
/* Pulls all dense parameters to tables->dense: in step (collective), or at this worker's clock, or
 * `ahead` of it (sharded.h). */
TD_MUST_CHECK td_status td_rows_pull_dense(td_rows_tables *tables, int ahead);
/* The hot server of a table, behind a meeting; move: it gives slices away. Collective. */
TD_MUST_CHECK td_status td_rows_balance(td_rows_tables *tables, int which, bool move,
                                        td_balanced *out);
/* What there is, whatever the clock; collective where exact. */
TD_MUST_CHECK td_status td_rows_look(td_rows_tables *tables, int which, const uint64_t *keys,
                                     size_t count, float *out);

/* shared: rows of the shared memory to the tables that files are written from, and back, before the
 * run's first step: behind `step`, where whoever follows a worker that has made none yet goes on.
 * Collective. */
TD_MUST_CHECK td_status td_rows_collect(td_rows_tables *tables);
TD_MUST_CHECK td_status td_rows_spread(td_rows_tables *tables, uint64_t step);
/* shared: for whoever may follow this worker: steps that it has made. Local. And how many those
 * that have come go on behind: their predecessors', where each of the run's workers is there and
 * reads for itself, else as many as the others, who have the missing one's part. *step: as those
 * have them. Collective. */
void td_rows_has_made(td_rows_tables *tables, uint64_t step);
TD_MUST_CHECK td_status td_rows_made(td_rows_tables *tables, bool joined, uint64_t *step);
/* Until all ranks have come, however long they take (paced, shared). */
TD_MUST_CHECK td_status td_rows_meet(td_rows_tables *tables);

/* Before the group that they are in closes, where they are to move to another. Local. */
void td_rows_leave_group(td_rows_tables *tables);
/* In another group: rows go to where they now belong. made: the steps that the run has made
 * (exact). *lost: TD_ERR_PEER because some are at no rank that is left. Collective. */
TD_MUST_CHECK td_status td_rows_tables_move(td_rows_tables *tables, td_comm *comm, bool joined,
                                            uint64_t made, bool *lost);

#endif
