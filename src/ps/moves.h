/* Moves slices of a table between servers.
 *
 * Cost: of each slice that has a new place, its rows (with the update rule's state and 16 bytes a
 * key) and sightings to there, from one that had it, and one look at each of a giver's rows. They
 * go in portions of 16 MiB of each giver (more where 1/64 of its rows in memory is more), two
 * exchanges of all with all a portion: that, once more, and what comes of a portion is the memory
 * that it takes. */
#ifndef TD_PS_MOVES_H
#define TD_PS_MOVES_H

#include "ps/items.h"
#include "ps/slices.h"
#include "tandem/comm.h"

/* Collective. A slice comes from its primary of before, or from its backup where that is not in the
 * group. table: NULL where a rank has none. Servers keep the rows that they are to have no longer,
 * until td_slices_drop. A failure of one rank is one of all; all have then what they had. */
TD_MUST_CHECK td_status td_slices_move(td_comm *comm, const td_slices *before,
                                       const td_slices *after, td_table *table);
/* What that is made of: items for each rank, which all exchange. The table is borrowed, NULL where
 * a rank has none. After a failure: fit to be closed. */
typedef struct td_moves td_moves;
TD_MUST_CHECK td_status td_moves_open(td_comm *comm, td_table *table, td_moves **out);
td_items *td_moves_items(
    td_moves *moves); /* [size] to be filled, by rank; empty after an exchange */
/* Collective: items come to their ranks' tables. A failure of one rank, as mine, is one of all.
 * *more: some rank has said so here. */
TD_MUST_CHECK td_status td_moves_exchange(td_moves *moves, td_status mine, bool more_here,
                                          bool *more);
void td_moves_close(td_moves *moves); /* NULL is fine */
/* Takes out what this rank does not have by that map. Local; table: NULL is fine. */
void td_slices_drop(const td_comm *comm, const td_slices *slices, td_table *table);
/* A server's rank in the group, -1: it is not there. */
int td_slices_rank(const td_comm *comm, int server);
/* The rank of the group that gives a slice. */
int td_slices_giver(const td_comm *comm, const td_slices *before, int slice);

#endif
