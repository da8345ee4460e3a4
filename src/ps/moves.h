/* Moves slices of a table between servers.
 *
 * Cost: of each slice that has a new place, its rows (with the update rule's state and 16 bytes a
 * key) and sightings to there, from one that had it, and one look at each of a giver's rows. They
 * go in portions of 16 MiB of each giver (more where 1/64 of its rows in memory is more), two
 * exchanges of all with all a portion: that, once more, and what comes of a portion is the memory
 * that it takes. */
#ifndef TD_PS_MOVES_H
#define TD_PS_MOVES_H

#include "ps/slices.h"
#include "ps/table.h"
#include "tandem/comm.h"

/* Collective. A slice comes from its primary of before, or from its backup where that is not in the
 * group. table: NULL where a rank has none. Servers keep the rows that they are to have no longer,
 * until td_slices_drop. A failure of one rank is one of all; all have then what they had. */
TD_MUST_CHECK td_status td_slices_move(td_comm *comm, const td_slices *before,
                                       const td_slices *after, td_table *table);
/* Takes out what this rank does not have by that map. Local; table: NULL is fine. */
void td_slices_drop(const td_comm *comm, const td_slices *slices, td_table *table);
/* A server's rank in the group, -1: it is not there. */
int td_slices_rank(const td_comm *comm, int server);
/* The rank of the group that gives a slice. */
int td_slices_giver(const td_comm *comm, const td_slices *before, int slice);

#endif
