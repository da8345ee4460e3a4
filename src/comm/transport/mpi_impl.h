/* What the two files of the MPI module share. */
#ifndef TD_COMM_TRANSPORT_MPI_IMPL_H
#define TD_COMM_TRANSPORT_MPI_IMPL_H

#include "comm/transport.h"

#include <mpi.h>

/* Who a request is: td_request.self. */
enum { TD_MPI_SENDS, TD_MPI_RECEIVES, TD_MPI_OWN };

/* The library's, in mpi.c. */
const td_mpi_services *td_mpi_library(void);
MPI_Comm td_mpi_handle(const td_comm *comm);
td_status td_mpi_error(int code, const td_comm *comm, int peer);

/* An MPI_Request is kept in the request's first word; the second holds memory that one of MPI's own
 * collectives reads while it is under way. */
static inline MPI_Request *td_mpi_native(td_request *request)
{
    _Static_assert(sizeof(MPI_Request) <= sizeof request->native[0], "room for an MPI request");
    return (MPI_Request *)(void *)request->native;
}

td_status td_mpi_own(td_comm *comm, const struct td_call *call,
                     td_request *request); /* mpi_own.c */

#endif
