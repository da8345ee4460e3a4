/* What the files of the MPI module share: mpi.c has messages and memory; mpi_groups.c groups, the
 * beginning and the end; mpi_word.c word of failures, cards, and the wait for all to leave;
 * mpi_muster.c and mpi_master.c recovery; mpi_own.c MPI's own collectives.
 *
 * All groups use one communicator, each with tags of its own: so a group needs no collective call
 * of MPI's to be made, which could wait for a rank that has died, and one that has lost ranks
 * serves the others all the same. Where an MPI has few tags, groups are communicators, and cannot
 * recover. */
#ifndef TD_COMM_TRANSPORT_MPI_GROUP_H
#define TD_COMM_TRANSPORT_MPI_GROUP_H

#include "comm/recover.h"
#include "comm/transport.h"

#include <mpi.h>
#if __has_include(<mpi-ext.h>)
#include <mpi-ext.h>
#endif

typedef struct td_mpi_known td_mpi_known;   /* of a rank of the run */
typedef struct td_mpi_notice td_mpi_notice; /* a failed rank's message */

typedef struct td_mpi_muster td_mpi_muster; /* of mpi_muster.c */

typedef struct td_mpi_group {
    MPI_Comm comm;
    int number;   /* tags begin at number TD_TAG_END; -1: of a communicator of its own */
    int *member;  /* [the group's size] ranks in comm; NULL: the same */
    MPI_Comm own; /* for MPI's own collectives, MPI_COMM_NULL before their first */
    struct td_mpi_group *world; /* itself in the world: where failures are told */
    /* of the world: */
    int size, rank;
    bool many_tags, mitigates;      /* enough for groups; MPI goes on when ranks die */
    uint64_t taken[TD_GROUP_WORDS]; /* numbers of groups; atomic */
    char *dead;                     /* [size] atomic: known to be */
    bool lossy;                     /* some rank has died */
    int lost;                       /* atomic: rank + 1 of the generation's that is dead, 0: none */
    int64_t revoked;                /* atomic: the newest generation that is, -1: none */
    td_mpi_muster *muster;          /* NULL: ranks that die end the job, and it has no spares */
    long *pid;                      /* [size], 0: on another host */
    td_mpi_notice *failed;          /* NULL: none known */
    td_mpi_notice *sent;            /* kept while its sends may be under way */
    int looking;                    /* atomic: some thread looks, and may use what follows */
    td_mpi_known *known;            /* [size] */
    td_given_up gave_up;
    int64_t last_look_ns;
    int serial; /* of the next shared memory */
} td_mpi_group;

static inline int td_mpi_peer(const td_mpi_group *g, int rank)
{
    return g->member ? g->member[rank] : rank;
}

static inline int td_mpi_tag(const td_mpi_group *g, int tag)
{
    return g->number > 0 ? g->number * TD_TAG_END + tag : tag;
}

/* Who a request is: td_request.self. */
enum { TD_MPI_SENDS, TD_MPI_RECEIVES, TD_MPI_OWN };

/* What one of MPI's own collectives reads and writes while it is under way. */
typedef struct td_mpi_own_memory {
    const void *in;
    void *out;
    size_t in_bytes, out_bytes; /* at most */
    int parts[];
} td_mpi_own_memory;

/* An MPI_Request is kept in the request's first word; the second holds the memory of TD_MPI_OWN. */
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
td_status td_mpi_failed(
    const td_mpi_group *world); /* TD_ERR_PEER: some rank has told that it did */
void td_mpi_fail(td_comm *comm, td_status status);
td_status td_mpi_failure(td_comm *comm);
void td_mpi_show(td_comm *comm, int world);
bool td_mpi_card(td_comm *comm, int world, td_card *out);
void td_mpi_give_up(td_comm *comm);

/* What a thread that may use `known` and the muster holds. */
void td_mpi_begin_looking(td_mpi_group *world);
void td_mpi_end_looking(td_mpi_group *world);

/* A message that has come, to be taken by MPI_Mrecv. */
typedef struct td_mpi_parcel {
    MPI_Message message;
    int from, bytes;
} td_mpi_parcel;
/* While looking: the next with this tag, from anybody. It is this rank's from here on: one that was
 * only probed for may be gone when it is received, because its sender died in between. */
bool td_mpi_next(td_mpi_group *world, int tag, td_mpi_parcel *out);
/* The next three while looking. Takes what has come beside messages; answers with the own card. */
void td_mpi_look(td_mpi_group *world, const td_card *own);
/* Looks for processes of this host that are gone: of the generation, or of the run. */
void td_mpi_find_dead(td_mpi_group *world, bool all, int64_t now_ns);
void td_mpi_note_dead(td_mpi_group *world, int rank);
int64_t td_mpi_now_ns(void);

/* As in td_transport_ops; mpi_groups.c. */
void td_mpi_numbers(td_comm *comm, uint64_t free[TD_GROUP_WORDS]);
bool td_mpi_take(td_comm *comm, int number);
void td_mpi_give_back(td_comm *comm, int number);
td_status td_mpi_split(td_comm *comm, int color, int key, const int *members, int number,
                       td_comm *out);
void td_mpi_close(td_comm *comm);
/* A group of ranks of the world, by their numbers there; NULL: no memory. */
td_mpi_group *td_mpi_group_create(td_mpi_group *world, int number, const int *member, int size);
td_status td_mpi_open(const td_mpi_services *given, const td_comm_config *config, td_comm *world,
                      td_mpi_host **hosts);

/* As in td_transport_ops; mpi_muster.c. */
td_status td_mpi_bring_together(td_comm *comm, const td_muster *mine, td_plan *plan);
td_status td_mpi_can_recover(td_comm *comm);
td_status td_mpi_can_resize(td_comm *comm);
void td_mpi_formed(td_comm *comm);
/* active: of the ranks of the world. False: no memory. */
bool td_mpi_muster_begin(td_mpi_group *world, int active);
void td_mpi_muster_end(td_mpi_group *world);
/* While looking: takes the letters that have come. */
void td_mpi_muster_take(td_mpi_group *world);
/* While looking: whether that rank of the run counts for this one's waits. */
bool td_mpi_muster_watches(const td_mpi_group *world, int rank);
/* TD_ERR_PEER with a sentence: the generation of the group has ended, or lost a rank. */
td_status td_mpi_muster_check(td_comm *comm);
/* As td_mpi_leave; answers those who recover meanwhile. */
bool td_mpi_muster_leave(td_mpi_group *world, const td_card *own, int64_t deadline_ms);

/* As in td_transport_ops; mpi_own.c. */
td_status td_mpi_own(td_comm *comm, const struct td_call *call, td_request *request);

/* Until all ranks are about to end, as MPI_Finalize would wait, but answering those who still wait
 * for this one. Has no end of its own, as others may have much to do yet: behind the deadline it
 * says for whom it waits. False: some rank has failed; see td_mpi_say_goodbye. */
bool td_mpi_leave(td_mpi_group *world, const td_card *own, int64_t deadline_ms);
typedef struct td_mpi_patience {
    int64_t deadline_ms, since_ns, asked_ns; /* 0: not yet */
    bool told;
} td_mpi_patience;
/* In such a wait, while looking: behind the deadline asks all whether they have ended, and says
 * once who has not. */
void td_mpi_wait_on(td_mpi_group *world, const td_card *own, td_mpi_patience *patience);
/* After a failure, MPI_Finalize would wait for ranks that may be gone. So all say goodbye, and who
 * has heard it from everybody within half a second (true) ends in order; else the process is left
 * to exit without, and mpiexec ends the rest. Where ranks may die mpiexec may not, and those in
 * MPI_Finalize would wait for one that exits without: there all who live wait ten seconds for each
 * other, unless a death is known or a rank has waited for another in vain; who gives up says so,
 * and whoever hears that (but in the very moment) ends without MPI_Finalize too. Meanwhile this
 * rank's notices go out. */
bool td_mpi_say_goodbye(td_mpi_group *world, const td_card *own);

#endif
