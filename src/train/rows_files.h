/* Tables of a run to the files of a bundle, and back.
 *
 * A file holds the rows of a run of slices, in ascending order of keys:
 *
 *     keys I64 [n] | weights F32 [n][width] | each state F32 [n][width]
 *
 * ("dense.keys" and so on for the table of dense parameters). With --admit or --evict-after a
 * checkpoint also has when each row was last used, and keys that were seen and have no row yet:
 *
 *     used I64 [n] | sighted.keys I64 [m] | sighted.used I64 [m] | sighted.seen I64 [m]
 *
 * How many files there are follows from the number of rows alone, so the bytes do not depend on
 * ranks or servers; each is written by the server that has its first slice, the others send it what
 * they have of it. Rows of a table with a limit to its memory are written where they are, a file a
 * server, without what was only sighted: those in memory that have none or an older copy on disk
 * are copied there, and all are read from there as they were then.
 *
 * Memory: a server holds a copy of the rows of its files (not with a limit). */
#ifndef TD_TRAIN_ROWS_FILES_H
#define TD_TRAIN_ROWS_FILES_H

#include "ckpt/bundle.h"
#include "train/rows_tables.h"

typedef struct td_rows_bundle {
    const char *folder, *kind, *file; /* as td_bundle_write's */
    json_t *state;                    /* rank 0's; NULL elsewhere */
    bool states;                      /* those of update rules, too, and the table of dense ones */
    const td_slot *slots;             /* else: dense parameters as tensors of these names, */
    size_t slot_count;                /* in a file of their own if there are any */
    const float *params;              /* [params] of rank 0 */
} td_rows_bundle;

/* Writes a bundle in two parts. The first copies one version of all tables, states with weights; it
 * is collective, while nobody moves rows, and behind it they may be moved: files are written by a
 * thread of their own. The second waits for that, and seals the bundle; collective. `state` is
 * taken; texts are copied. */
typedef struct td_rows_saving td_rows_saving;
TD_MUST_CHECK td_status td_rows_save_begin(td_rows_tables *tables, const td_rows_bundle *bundle,
                                           td_rows_saving **out);
/* Whether this rank's files are written. */
bool td_rows_save_done(const td_rows_saving *saving);
TD_MUST_CHECK td_status td_rows_save_end(td_rows_saving *saving, td_comm *comm);
/* Without an end: nothing is sealed, and what is not written yet is left. NULL is fine. */
void td_rows_save_drop(td_rows_saving *saving);
/* Both. */
TD_MUST_CHECK td_status td_rows_write(td_rows_tables *tables, const td_rows_bundle *bundle);

/* Puts the rows that this rank holds into its tables. Local. TD_ERR_CORRUPT. */
TD_MUST_CHECK td_status td_rows_read(td_rows_tables *tables, const td_bundle *bundle);

/* Puts all rows of a bundle's keyed table into `table`. */
TD_MUST_CHECK td_status td_rows_read_all(td_table *table, const td_bundle *bundle);

#endif
