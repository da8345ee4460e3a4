/* The system's own collectives (MPI's; source: MPI 4.1, chapter 6), behind the same deadlines as
 * ours. Its messages carry no headers of ours, and it moves bytes for ranks that disagree: so a
 * dissemination barrier goes first, by which neighbours of every distance compare what they run.
 * Cost: its ceil(log2 n) messages of 1 byte a rank, and the system's, whose order it is, too.
 *
 * MPI counts in ints. What all ranks see alike decides beforehand whether it can serve; the bytes
 * of an all-to-all of parts that differ are each rank's own, so there the barrier carries whether
 * any rank has too many, and all exchange pairwise then. */
#include "comm/coll/coll.h"

#include "base/error.h"

bool td_own_fits(const td_comm *comm)
{
    return comm->ops->own != NULL;
}

bool td_own_counts(const td_comm *comm, const td_call *call)
{
    bool laid_out = call->pattern == TD_SCATTER || call->pattern == TD_GATHER;
    size_t most = laid_out && !call->parts ? INT32_MAX / (size_t)comm->size : INT32_MAX;
    return (call->pattern == TD_ALLTOALL && call->parts) || call->bytes <= most;
}

static bool has_too_many(const td_comm *comm, const td_call *call)
{
    size_t gives = 0, takes = 0;
    if (call->pattern != TD_ALLTOALL || !call->parts) return false;
    for (int r = 0; r < comm->size; r++) {
        gives += td_call_part(call, r);
        takes += call->takes ? call->takes[r] : 0;
    }
    return gives > INT32_MAX || takes > INT32_MAX;
}

td_status td_own_run(td_comm *comm, const td_call *call)
{
    td_request request = {.peer = -1};
    char too_many = has_too_many(comm, call);
    TD_TRY(td_disseminate(comm, TD_TAG_COLLECTIVE, &too_many));
    if (too_many) return td_pairwise_alltoall(comm, call);
    td_status status = comm->ops->own(comm, call, &request);
    return status == TD_OK ? td_comm_wait_request(comm, &request) : status;
}
