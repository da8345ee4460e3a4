/* Copies of slices that a table has lost with a server, made again while ranks go on in step: at
 * each step's beginning, when no table moves, some slices come to their new backups, which from
 * then on move with their primaries. See copies.h for tables that are used at workers' own pace.
 *
 * Cost: while there is something to copy, a step is longer by the time that 4 MiB of each giver
 * take (or a slice, where that is more), and six collectives. */
#ifndef TD_PS_STEP_COPIES_H
#define TD_PS_STEP_COPIES_H

#include "ps/servers.h"

typedef struct td_step_copies td_step_copies;

/* Collective, behind td_servers_settle on the first of the route. The table (NULL: this rank has
 * none) is borrowed. TD_ERR_NOMEM, TD_ERR_IO, at all. */
TD_MUST_CHECK td_status td_step_copies_open(td_comm *comm, td_table *table, td_place *place,
                                            const td_route *route, td_step_copies **out);
/* Some slices more, which the place then knows. Collective; a failure of one rank is one of all.
 * *more: false: all are there, and servers have the roles of the route's end. */
TD_MUST_CHECK td_status td_step_copies_on(td_step_copies *copies, td_place *place, bool *more);
void td_step_copies_close(td_step_copies *copies); /* NULL is fine; before the table is destroyed */

#endif
