/* Tandem: live recovery. When a rank dies (its process is killed, crashes, runs out of memory), the
 * others go on in a new group, into which ranks that waited as spares are taken.
 *
 * A run keeps spares where td_comm_config.spares asks for them: its last ranks wait, asleep, and
 * their function is not called until a recovery or a resize takes them.
 *
 * A *generation* is a group of all active ranks: the first is 0. When any call on it, or on a group
 * made of it by split, returns TD_ERR_PEER or TD_ERR_TIMEOUT, every rank calls td_comm_recover on
 * the generation; those that have noticed nothing yet are told, and their waits end in TD_ERR_PEER.
 * A rank that has *failed* (its function returned a failure, or td_comm_fail) is not a dead one: it
 * ends the run.
 *
 * Under MPI the job has to be started with "mpiexec --with-ft ulfm". A rank has up to 1,024 numbers
 * there by which its groups are told apart; those that are open when a generation ends, or in which
 * something failed, keep theirs: enough for some 500 recoveries of ranks that have works. */
#ifndef TANDEM_RECOVER_H
#define TANDEM_RECOVER_H

#include "tandem/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to do with a rank that lives but does not come to the recovery within its deadline. */
typedef enum td_on_hang {
    TD_HANG_ABORT, /* all others get TD_ERR_TIMEOUT with a sentence that names it */
    TD_HANG_WAIT,  /* wait for it, however long */
    TD_HANG_KILL   /* end its process (SIGKILL) and go on without it; not where ranks are threads */
} td_on_hang;

/* The same at all ranks. */
typedef struct td_recover_config {
    int want;            /* ranks of the new group; 0 or -1: as many as the group had. Where there
                          * are fewer, all that there are */
    int least;           /* fewer are not enough: TD_ERR_PEER; default 1 */
    int64_t deadline_ms; /* for the others to come, 1 or more; 0: the group's, but 30,000 at most */
    td_on_hang on_hang;
} td_recover_config;

/* What happened. Ranks are numbered in the whole run, in ascending order; the arrays are the new
 * group's, valid until its close. */
typedef struct td_recovery {
    uint64_t generation; /* of the new group: 1 or more, higher each time */
    int size_before, size;
    int died_count, came_count;
    int left; /* so many of those that are gone have not died: their function returned TD_OK */
    const int *died; /* of the former group: gone */
    const int *came; /* into the new one: former spares, without any state */
} td_recovery;

/* Makes a new group of those who are left, with spares in the places of those who are gone, as far
 * as there are any; the others keep their order, and their rank while nobody before them is
 * missing. Collective over the generation's living ranks. `broken` is a group of all active ranks
 * (as td_comm_run_* gave it, or recover or resize), with or without a failure. Before the call the
 * rank waits for or destroys nothing: works, tree sums, keyed parts and groups made of the broken
 * one are destroyed when it suits, before or after, but before it is closed, and none waits. Memory
 * that its failed operations used must stay until recover has returned. *out is the caller's, to
 * close with td_comm_close; `broken` stays to be closed by whoever would have closed it. config
 * NULL: the defaults; report may be NULL. *out is NULL where fewer ranks are wanted than there are
 * and this one is no longer needed: its function cleans up and returns TD_OK, and is called anew if
 * it is taken again. Errors: TD_ERR_PEER: fewer than `least` are left, this rank itself counts as
 * dead, or a rank has failed. TD_ERR_TIMEOUT: a rank that lives did not come (the same one is named
 * at all ranks). TD_ERR_UNSUPPORTED: this MPI cannot, or was started without its failure
 * mitigation; a thread cannot be killed. TD_ERR_ARG: the run should end.
 * TD_ERR_NOMEM: of this rank alone, which should leave by td_comm_die. */
TD_API TD_MUST_CHECK td_status td_comm_recover(td_comm *broken, const td_recover_config *config,
                                               td_comm **out, td_recovery *report);

/* A new group of `ranks` ranks (or of all that there are), when nothing has failed: spares are
 * taken behind the present ranks, or the last of those go back to wait as spares (*out NULL there,
 * as above). Collective; the rest as td_comm_recover, but that any MPI will do. */
TD_API TD_MUST_CHECK td_status td_comm_resize(td_comm *comm, int ranks, td_comm **out);
/* The same where the caller chooses who goes: stays: [size of comm], the same at all ranks. Those
 * that do not stay go back to wait as spares, whatever `ranks` is: for them come spares that waited
 * before, as far as there are any. Beyond `ranks` the last of those that stay go, too. TD_ERR_ARG,
 * too: nobody would stay. */
TD_API TD_MUST_CHECK td_status td_comm_resize_keeping(td_comm *comm, int ranks, const bool *stays,
                                                      td_comm **out);
/* TD_ERR_UNSUPPORTED where resize would say so, before anything has changed. Local. */
TD_API TD_MUST_CHECK td_status td_comm_can_resize(td_comm *comm);

/* Of the generation that the group is, or was split from. */
TD_API uint64_t td_comm_generation(const td_comm *comm);
/* Whether that rank of a group made by recover or resize came into it as a spare, so that it needs
 * state from one that did not. False in groups made otherwise. */
TD_API bool td_comm_joined(const td_comm *comm, int rank);
/* A rank's number in the whole run. */
TD_API int td_comm_rank_in_run(const td_comm *comm, int rank);

/* TD_ERR_UNSUPPORTED where a rank's death ends the run, because this MPI cannot recover, or was
 * started without its failure mitigation. */
TD_API TD_MUST_CHECK td_status td_comm_can_recover(td_comm *comm);

/* This rank is lost to the others, as one must be that cannot do its part any more (it is out of
 * memory, say): it tells nobody; its peers notice. A process ends here, by SIGKILL. A thread's own
 * calls end in TD_ERR_PEER from here on, memory that it shares stays; its function frees what it
 * holds and returns soon, with whatever status. */
TD_API void td_comm_die(td_comm *comm);

#ifdef __cplusplus
}
#endif
#endif
