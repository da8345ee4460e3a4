/* What the files of the MPI module share: mpi.c has messages, groups and memory; mpi_word.c has
 * word of failures, cards, and the wait for all to leave; mpi_own.c has MPI's own collectives. */
#ifndef TD_COMM_TRANSPORT_MPI_GROUP_H
#define TD_COMM_TRANSPORT_MPI_GROUP_H

#include "comm/transport.h"

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

typedef struct td_mpi_known td_mpi_known;   /* of a rank of the run */
typedef struct td_mpi_notice td_mpi_notice; /* a failed rank's message */

typedef struct td_mpi_group {
    MPI_Comm comm;
    struct td_mpi_group *world; /* itself in the world: where failures are told */
    /* of the world: */
    int size, rank;
    long *pid;             /* [size], 0: on another host */
    td_mpi_notice *failed; /* NULL: none known */
    td_mpi_notice *sent;   /* kept while its sends may be under way */
    int looking;           /* atomic: some thread looks, and may use what follows */
    td_mpi_known *known;   /* [size] */
    int64_t last_look_ns;
    int serial; /* of the next shared memory */
} td_mpi_group;

/* Who a request is: td_request.self. */
enum { TD_MPI_SENDS, TD_MPI_RECEIVES, TD_MPI_OWN };

/* An MPI_Request is kept in the request's first word; the second holds memory that one of MPI's own
 * collectives reads while it is under way. */
static inline MPI_Request *td_mpi_native(td_request *request)
{
    _Static_assert(sizeof(MPI_Request) <= sizeof request->native[0], "room for an MPI request");
    return (MPI_Request *)(void *)request->native;
}

/* The library's, given when MPI is opened. */
extern const td_mpi_services *td_mpi_library;

/* Of the operation under way, for sentences; of a rank of the group, in the run. */
const char *td_mpi_operation(const td_comm *comm);
int td_mpi_in_run(const td_comm *comm, int rank);
td_status td_mpi_error(int code, const td_comm *comm, int peer);

/* False: no memory. */
bool td_mpi_word_begin(td_mpi_group *world);
void td_mpi_word_end(td_mpi_group *world);
/* As in td_transport_ops. */
td_status td_mpi_check(td_comm *comm, int peer);
void td_mpi_fail(td_comm *comm, td_status status);
void td_mpi_show(td_comm *comm, int world);
bool td_mpi_card(td_comm *comm, int world, td_card *out);

/* As in td_transport_ops; mpi_own.c. */
td_status td_mpi_own(td_comm *comm, const struct td_call *call, td_request *request);

/* Until all ranks are about to end, as MPI_Finalize would wait, but answering those who still wait
 * for this one. False: some rank has failed; see td_mpi_say_goodbye. */
bool td_mpi_leave(td_mpi_group *world, const td_card *own);
/* After a failure, MPI_Finalize would wait for ranks that may be gone. So all say goodbye, and who
 * has heard it from everybody within half a second (true) ends in order; else the process is left
 * to exit without, and mpiexec ends the rest. Meanwhile this rank's notices go out. */
bool td_mpi_say_goodbye(td_mpi_group *world, const td_card *own);

#endif
