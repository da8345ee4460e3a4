/* Recovery over messages: what mpi_muster.c (every rank) and mpi_master.c (the one that leads)
 * share.
 *
 * The *master* is the lowest rank of the run that lives, whatever else it does. Ranks learn of a
 * death at different times, but never of one that did not happen, so of two that both think they
 * lead, the higher is right: who has answered a master follows no lower one any more.
 *
 *   RECOVERS  a rank begins to recover: to all. Ends the generation; names the master it waits for
 *   IDLE      a rank waits as a spare, or has left: to the master
 *   QUERY     the master begins: to all
 *   ANSWER    what a rank is, and what it knows of plans and groups
 *   DECISION  the plan, made from all answers: to all
 *   WAITING   the master lives, and waits for others
 *   VERDICT   there is no plan: to those who recover
 *   KILL      a silent rank, to those who have answered: who shares its host ends it
 *   END       all have left, or are spares: to all, who pass it on
 *
 * A master that dies is followed by the next, which asks anew. What the dead one had decided may be
 * known to some: they answer with it, or have met in its group already; the next plan has a higher
 * number than all that are known. Cost of a recovery without further failures: 4 letters a rank to
 * or from the master, and one from each that recovers to each. */
#ifndef TD_COMM_TRANSPORT_MPI_MUSTER_H
#define TD_COMM_TRANSPORT_MPI_MUSTER_H

#include "comm/transport/mpi_group.h"

enum {
    TD_MPI_RECOVERS,
    TD_MPI_IDLE,
    TD_MPI_QUERY,
    TD_MPI_ANSWER,
    TD_MPI_DECISION,
    TD_MPI_WAITING,
    TD_MPI_VERDICT,
    TD_MPI_KILL,
    TD_MPI_END
};
enum { TD_MPI_CAME = 1 << 30, TD_MPI_WHY = 400 };

typedef struct td_mpi_letter {
    int32_t kind, who; /* RECOVERS: the master waited for; KILL: the rank; END: whether one died */
    int64_t revoked;   /* RECOVERS, QUERY: the newest generation that has ended, -1: none */
    uint64_t query;    /* QUERY to VERDICT: which one of the master's */
    uint64_t generation; /* ANSWER: of the newest plan known; DECISION: of the plan */
    uint64_t formed;     /* ANSWER: of the newest group that the rank has met in */
    int32_t role, want, least, on_hang;
    int64_t deadline_ms;
    uint64_t numbers[TD_GROUP_WORDS]; /* ANSWER: free ones */
    int32_t number, status;           /* DECISION; VERDICT, END */
    int32_t size, parted;             /* DECISION: in list; ANSWER: size of the group formed */
    int32_t left, leaves; /* DECISION: of the former group; ANSWER: whether it is to leave */
    char why[TD_MPI_WHY];
    int32_t list[]; /* [size + parted] ranks of the run, CAME beside those who were spares */
} td_mpi_letter;

typedef struct td_mpi_post { /* a letter on its way */
    struct td_mpi_post *next;
    MPI_Request request;
    td_mpi_letter *letter;
} td_mpi_post;

struct td_mpi_muster {
    /* of this rank */
    td_role role;
    td_muster wish;
    char why[TD_MPI_WHY];            /* the newest generation has ended */
    uint64_t accepted;               /* generation of the newest plan known */
    uint64_t formed;                 /* of the newest group that this rank has met in: */
    int formed_size, *formed_member; /* [run's size] */
    bool *watched;                   /* [run's size] the newest plan's ranks */
    bool forming;                    /* its group has not met yet */
    /* as one who follows */
    int master, asker; /* last reported to, answered to; -1: nobody */
    int64_t heard_ns;  /* of the master */
    bool asked;        /* and not answered yet */
    uint64_t query, answered;
    td_mpi_letter *told; /* a plan that concerns this rank, or a verdict */
    bool ended;
    td_status end;
    /* as the master */
    uint64_t queries;
    bool collecting;
    int64_t begun_ns, beat_ns;
    bool *waits;            /* [run's size] for this master */
    td_role *known;         /* [run's size] as last heard */
    td_mpi_letter **answer; /* [run's size] to the newest query */
    int *world;             /* [run's size] rooms for a plan */
    bool *came, *parted;    /* [run's size] */
    td_mpi_post *posts;
};

/* With td_mpi_begin_looking held, all of them. */

/* TD_ERR_TIMEOUT: a rank that lives did not come, and what was tried. */
td_status td_mpi_silent(int rank, int64_t deadline_ms, int on_hang);

/* Copies it; lost where memory is. */
void td_mpi_send_letter(td_mpi_group *world, int to, const td_mpi_letter *letter);
void td_mpi_send_all(td_mpi_group *world, const td_mpi_letter *letter);
td_mpi_letter *td_mpi_letter_create(int kind, int list);
td_mpi_letter *td_mpi_letter_copy(const td_mpi_letter *letter);
/* What this rank would say of itself; NULL: no memory. */
td_mpi_letter *td_mpi_describe(td_mpi_group *world);
/* A plan becomes the newest known. */
void td_mpi_accept(td_mpi_group *world, const td_mpi_letter *decision);
int td_mpi_lowest(const td_mpi_group *world);
/* The master's part, as often as it looks. */
void td_mpi_lead(td_mpi_group *world, int64_t now_ns);

#endif
