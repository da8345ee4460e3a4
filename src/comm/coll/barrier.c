/* Barrier by dissemination: in round k each rank tells the one 2^k above it.
 * Cost: ceil(log2 n) messages of 1 byte a rank. Source: Hensgen, Finkel, Manber, "Two algorithms
 * for barrier synchronization", 1988. */
#include "comm/coll/coll.h"

td_status td_dissemination_barrier(td_comm *comm, const td_call *call)
{
    (void)call;
    int n = comm->size;
    for (int far = 1; far < n; far *= 2) {
        char out = 0, in;
        int to = (comm->rank + far) % n, from = (comm->rank - far + n) % n;
        td_status status = td_comm_exchange(comm, &out, 1, to, &in, 1, from, TD_TAG_COLLECTIVE);
        if (status != TD_OK) return status;
    }
    return TD_OK;
}
