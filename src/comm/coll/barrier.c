/* Barrier by dissemination: in round k each rank tells the one 2^k above it.
 * Cost: ceil(log2 n) messages of 1 byte a rank. Source: Hensgen, Finkel, Manber, "Two algorithms
 * for barrier synchronization", 1988. */
#include "comm/coll/coll.h"

#include "base/error.h"

td_status td_disseminate(td_comm *comm, int tag, char *any)
{
    int n = comm->size;
    for (int far = 1; far < n; far *= 2) {
        char out = *any, in = 0;
        int to = (comm->rank + far) % n, from = (comm->rank - far + n) % n;
        TD_TRY(td_comm_exchange(comm, &out, 1, to, &in, 1, from, tag));
        *any |= in;
    }
    return TD_OK;
}

td_status td_dissemination_barrier(td_comm *comm, const td_call *call)
{
    char any = 0;
    (void)call;
    return td_disseminate(comm, TD_TAG_COLLECTIVE, &any);
}
