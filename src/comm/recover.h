/* Live recovery inside the library: what ranks say when they come together (td_muster), what they
 * agree on (td_plan), and how the one follows from the other (recover_plan.c).
 *
 * Transports bring ranks together (td_transport_ops.muster); recover.c makes the new group of the
 * plan, in which all its ranks then meet once: a rank returns only when all have come so far. Who
 * meets another failure there musters again. */
#ifndef TD_COMM_RECOVER_H
#define TD_COMM_RECOVER_H

#include "comm/transport.h"
#include "tandem/recover.h"

typedef enum td_role {
    TD_ROLE_ACTIVE,     /* in the generation, and elsewhere just now */
    TD_ROLE_RECOVERING, /* in the generation, and here */
    TD_ROLE_SPARE,      /* here, without state */
    TD_ROLE_PARTING,    /* on its way to the spares: begins as one, or was sent back */
    TD_ROLE_LEFT,       /* its function has returned */
    TD_ROLE_DEAD
} td_role;

typedef struct td_muster {
    td_role role; /* RECOVERING or SPARE */
    int want, least;
    int64_t deadline_ms;
    td_on_hang on_hang;
    bool leaves;   /* recovering: to be in the new group no more */
    char why[240]; /* what this rank met */
} td_muster;

typedef struct td_plan {
    uint64_t generation;
    int size;
    int *world;   /* [run's size] the new group's ranks in the run */
    bool *came;   /* [run's size] whether they were spares, in the same order */
    bool *parted; /* [run's size] by rank of the run: came to it, and are not needed */
    int left;     /* of the former group: whose function has returned */
    void *impl;   /* the transport's group */
    bool ended;   /* there is none: all others have left */
} td_plan;

/* The former group, and what every rank of the run is. */
typedef struct td_roster {
    int ranks;
    const td_role *role; /* [ranks] */
    const bool *leaves;  /* [ranks] of those that recover: it goes back to the spares */
    int former_size;
    const int *former; /* [former_size] ranks of the run */
    int want, least;
} td_roster;

/* Fills size, world, came, parted and left. TD_ERR_PEER: fewer than `least`. */
TD_MUST_CHECK td_status td_recover_plan(const td_roster *roster, td_plan *plan);

/* What a rank is in the run; all its groups share it. */
typedef struct td_seat {
    int rank, ranks;                     /* in the run */
    int *host;                           /* [ranks] */
    int place, places;                   /* among the run's ranks on this machine */
    uint8_t (*cores)[TD_HOST_CORES / 8]; /* [ranks] as td_mpi_host has them; NULL: threads */
    bool idle;                           /* was sent back to the spares */
    bool waited_in_vain;                 /* its last wait there failed */
    /* For tests: called by this rank before it says that it recovers (step 0), when all have agreed
     * (1), and when the new group has met (2). A failure: it has lost itself there. */
    td_status (*at_step)(td_comm *comm, int step, void *arg);
    void *arg;
} td_seat;

/* What became of a group when it was made: of td_comm. */
typedef struct td_reborn {
    int size_before, died_count, came_count, left;
    int *died, *came; /* ranks of the run */
    bool joined[];    /* [size] */
} td_reborn;

/* Sleeps until a recovery or a resize takes this rank; *out NULL: the run has ended without. `idle`
 * is any handle of the rank. Fails with what another rank has failed with. */
TD_MUST_CHECK td_status td_comm_wait_taken(td_comm *idle, td_comm **out);
/* A rank's life: fn on its first group, or when it is taken; and again, as often as it is. */
TD_MUST_CHECK td_status td_comm_run_rank(td_comm *first, bool spare, td_rank_fn *fn, void *arg);
/* TD_ERR_ARG: more than TD_COMM_RANKS, or none would be active. */
TD_MUST_CHECK td_status td_comm_check_ranks(int ranks, int spares);

#endif
