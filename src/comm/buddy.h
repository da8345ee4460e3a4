/* State that no rank holds in whole: each rank has its part of some vectors, and the part of its
 * buddy, the rank before it, so that the loss of a rank loses nothing. The optimizer's state of
 * strategy/shards.h is kept so, and parts of parameter servers.
 *
 * What is here knows nothing of who was whose buddy: ranks say which elements they have and which
 * they want, and get them from whoever has them. So the same call deals parts anew after a loss,
 * for another number of ranks, after another such call was cut short by one more loss, and gathers
 * parts for a checkpoint.
 *
 * Cost: an all-gather of 96 bytes a rank, and every element that a rank lacks moves once, to it
 * alone. */
#ifndef TD_COMM_BUDDY_H
#define TD_COMM_BUDDY_H

#include "tandem/comm.h"

enum { TD_BUDDY_HAVE = 4, TD_BUDDY_WANT = 2, TD_BUDDY_VECTORS = 4 };

/* Elements [begin, end) of each vector: data[v] points to element `begin` of vector v. */
typedef struct td_range {
    size_t begin, end;
    char *data[TD_BUDDY_VECTORS];
} td_range;

/* The elements, of `count`, that are rank's own when there are `size` ranks: as equal as multiples
 * of 16 allow. Its data are NULL. */
td_range td_buddy_own(size_t count, int size, int rank);
/* Its buddy's; empty where it is its own. */
td_range td_buddy_mirror(size_t count, int size, int rank);

/* Fills `want` at every rank from what the ranks `have`; collective. `vectors` vectors of elements
 * of `width` bytes, the same at all ranks; ranges may be empty, differ from rank to rank and
 * overlap. An element's places in have and in want are one or apart. What several ranks have must
 * be the same at all. TD_ERR_PEER with *lost, alike at all ranks, when nobody has what somebody
 * wants; after a failure `want` may be partly filled. */
TD_MUST_CHECK td_status td_buddy_deal(td_comm *comm, size_t width, int vectors,
                                      const td_range have[TD_BUDDY_HAVE],
                                      const td_range want[TD_BUDDY_WANT], bool *lost);

#endif
