/* The system's own collectives (MPI's), behind the same deadlines as ours. Cost and order are the
 * system's. Its messages carry no headers of ours, and it moves bytes for ranks that disagree: so a
 * dissemination barrier goes first, by which neighbours of every distance compare what they run. */
#include "comm/coll/coll.h"

#include "base/error.h"

bool td_own_fits(const td_comm *comm)
{
    return comm->ops->own != NULL;
}

td_status td_own_run(td_comm *comm, const td_call *call)
{
    td_request request = {.peer = -1};
    TD_TRY(td_dissemination_barrier(comm, call));
    td_status status = comm->ops->own(comm, call, &request);
    return status == TD_OK ? td_comm_wait_request(comm, &request) : status;
}
