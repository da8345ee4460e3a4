/* Slices of a server's table, to be copied to others while it goes on. First rows that were cold at
 * the beginning, whatever becomes of them; then one slice after the other, of which all else is
 * taken at one moment: with what is there of its cold rows then, and without those that both tables
 * evict meanwhile, that is the slice as it was at that moment.
 *
 * Cost: a look at each of the table's keys in memory when it is opened, and 8 bytes a key of the
 * slices given until their turn comes; a slice takes the time to copy its rows out, during which
 * the table must rest. A row that comes into memory after the opening, is given once more. */
#ifndef TD_PS_GIVER_H
#define TD_PS_GIVER_H

#include "ps/items.h"
#include "ps/slices.h"

typedef struct td_giver td_giver;

/* to: of each slice the number of the items that its rows go to, -1: it stays. The table is
 * borrowed, and rests during the call. TD_ERR_NOMEM, TD_ERR_IO. */
TD_MUST_CHECK td_status td_giver_open(td_table *table, const td_slices *slices,
                                      const int32_t to[TD_SLICES], td_giver **out);
/* Adds some hundred of the rows that were cold to out [highest number + 1]; the table may be used
 * meanwhile. *more: false behind the last, and then slices may go. Failures are for good. */
TD_MUST_CHECK td_status td_giver_cold(td_giver *giver, td_items *out, bool *more);
/* The slice whose turn it is, -1: all have gone; and adds all of it, but cold rows that have not
 * changed, while the table rests. */
int td_giver_next(const td_giver *giver);
TD_MUST_CHECK td_status td_giver_slice(td_giver *giver, td_items *out);
void td_giver_close(td_giver *giver); /* NULL is fine; before the table is destroyed */

#endif
