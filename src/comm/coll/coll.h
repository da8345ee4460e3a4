/* Collectives over point-to-point messages: schedules written once, run on every transport.
 *
 * One file holds one algorithm; where several can serve a pattern, coll.c's table chooses by size.
 * Arguments have been checked. */
#ifndef TD_COMM_COLL_COLL_H
#define TD_COMM_COLL_COLL_H

#include "comm/transport.h"

TD_MUST_CHECK td_status td_coll_barrier(td_comm *comm);
TD_MUST_CHECK td_status td_coll_broadcast(td_comm *comm, void *data, size_t bytes, int root);
TD_MUST_CHECK td_status td_coll_gather(td_comm *comm, const void *in, size_t bytes, void *out,
                                       int root);
TD_MUST_CHECK td_status td_coll_allgatherv(td_comm *comm, const void *in, const size_t *bytes,
                                           void *out);
TD_MUST_CHECK td_status td_coll_reduce(td_comm *comm, const void *in, void *out, size_t count,
                                       td_type type, td_op op, int root);
TD_MUST_CHECK td_status td_coll_reduce_scatter(td_comm *comm, const void *in, void *out,
                                               const size_t *counts, td_type type, td_op op);
TD_MUST_CHECK td_status td_coll_allreduce(td_comm *comm, const void *in, void *out, size_t count,
                                          td_type type, td_op op);

/* For groups on one host, over memory that they share. */
bool td_coll_shared_fits(const td_comm *comm);
TD_MUST_CHECK td_status td_coll_shared_allreduce(td_comm *comm, const void *in, void *out,
                                                 size_t count, td_type type, td_op op);
/* Lets go of what collectives keep with the group. */
void td_coll_release(td_comm *comm);

/* into[i] = into[i] op from[i] */
void td_coll_combine(void *into, const void *from, size_t count, td_type type, td_op op);

#endif
