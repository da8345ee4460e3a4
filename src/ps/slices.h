/* Which server has which keys. A table's keys fall into slices, by a hash (sparse tables) or by
 * range (dense ones); a slice lies at one server, its *primary*, and, where replicas are kept, at a
 * second one, its *backup*. When servers die or come, and when one has more to do than others,
 * slices move: everything here is a pure function, so that ranks which know the same come to the
 * same map.
 *
 * Servers are named by their ranks in the whole run, which stay when groups change. */
#ifndef TD_PS_SLICES_H
#define TD_PS_SLICES_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { TD_SLICES = 256, TD_MOST_SERVERS = 1024 };

typedef struct td_slices {
    uint64_t rows; /* of a dense table, whose keys are 0..rows - 1; 0: sparse */
    int32_t primary[TD_SLICES], backup[TD_SLICES]; /* -1: none */
} td_slices;

/* The slice of a key. */
static inline int td_slice_of(const td_slices *s, uint64_t key)
{
    if (s->rows) /* a key beyond goes to the last; TD_SLICES * rows < 2^64 */
        return key < s->rows ? (int)(key * TD_SLICES / s->rows) : TD_SLICES - 1;
    key =
        (key ^ key >> 33) * 0xff51afd7ed558ccd; /* MurmurHash3's finaliser: other bits than index */
    key = (key ^ key >> 33) * 0xc4ceb9fe1a85ec53;
    return (int)(key >> 56);
}

/* Deals slices in runs to `count` servers; replicas 0 or 1 (1 needs two servers). */
void td_slices_deal(td_slices *slices, uint64_t rows, const int *server, int count, int replicas);

/* The map when only `server` [count] are left, or have come: slices whose primary is gone go to
 * their backup, backups that are gone are replaced, and slices move until all servers have about
 * the same (new ones get their share). Keeps what can stay. TD_ERR_PEER: some slice is at neither,
 * it is lost. */
TD_MUST_CHECK td_status td_slices_repair(const td_slices *before, const int *server, int count,
                                         int replicas, td_slices *after);

/* The way to the map `after` on which slices can be used soonest, and none has fewer copies than it
 * had. `before` names only servers that are there. *first: what must be in place before anybody
 * asks. *now: who is asked then: a slice that only one server had has that one as primary, if it
 * keeps it, and the other, which has still to get it, as backup: there first->backup is -1 and
 * now->backup is not, and rows go from primary to backup. All other slices are as `after` has them.
 */
void td_slices_serve_first(const td_slices *before, const td_slices *after, td_slices *first,
                           td_slices *now);

/* The map when slices carry such loads: moves primaries of hot slices to the servers that have
 * least, as long as the busiest gets less by it; a slice that moves to its backup swaps with it.
 * Returns how many have moved. */
int td_slices_balance(const td_slices *before, const double load[TD_SLICES], const int *server,
                      int count, td_slices *after);

/* Of all loads, what the server has that has most: from 1 / servers to 1; 0 without any. out_which:
 * that server; NULL: not asked for. */
double td_slices_hottest(const td_slices *slices, const double load[TD_SLICES], int *out_which);

/* Whether the server has the slice, as either. */
static inline bool td_slices_has(const td_slices *s, int slice, int server)
{
    return s->primary[slice] == server || s->backup[slice] == server;
}

#endif
