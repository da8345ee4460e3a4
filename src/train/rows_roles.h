/* The parts of a run's ranks where parameters live in tables: workers, servers, data servers.
 *
 * With servers of their own a rank has one part; without, every worker serves, too. A rank keeps
 * its part when the group changes. Who comes takes the part that is missing: servers first, then
 * data servers, then workers; where none is, it has none, until parts are dealt anew.
 *
 * Parts are dealt anew (td_roles_plan) where all ranks are at one step, as a function of what all
 * are, and each deal has a number, its *era*. A rank that knows a deal and then hears that another
 * has gone over to it goes over, too: so the parts of a group are of one era, whoever dies on the
 * way. Ranks that come hear from the others how many of each there are to be. */
#ifndef TD_TRAIN_ROWS_ROLES_H
#define TD_TRAIN_ROWS_ROLES_H

#include "tandem/comm.h"

typedef struct td_role_counts {
    int workers, servers, feeders; /* servers 0: workers are both; feeders read for the workers */
} td_role_counts;

typedef struct td_role { /* as ranks tell each other */
    int32_t slot;        /* number of the worker that the rank is, -1: none */
    int32_t serves, feeds;
    int32_t known; /* 0: it has just come */
    int32_t reads; /* it has the training data, so that it may read for others */
} td_role;

typedef struct td_roles_deal {
    int era;
    uint64_t step; /* that all workers had made */
    td_role_counts counts;
    td_role own;
} td_roles_deal;

typedef struct td_roles {
    td_roles_deal now, next; /* next: of a higher era, where this rank knows one */
    td_role *role;           /* [size] */
    int *worker;             /* [workers] the rank that is each worker, -1: gone for good */
    int *server;             /* [server_count] ranks */
    int *feeder;             /* [feeder_count] ranks */
    int server_count, feeder_count, working; /* working: workers that there are */
    int self, number;                        /* this rank; its number among the working, -1: none */
} td_roles;

/* The parts of a group. At the run's beginning, where no rank has any, ranks are workers | servers
 * | data servers by now.counts; joined: this rank has come into a run under way. Collective. */
TD_MUST_CHECK td_status td_roles_take(td_roles *roles, td_comm *comm, bool joined);
void td_roles_free(td_roles *roles);

static inline bool td_role_is_idle(const td_role *role)
{
    return role->slot < 0 && !role->serves && !role->feeds;
}

/* Deals parts anew: those that have a part that is still wanted keep it, workers in the order of
 * their numbers, which close up; others, lowest first, get what is missing, if they can; who is not
 * needed has no part. Rank 0 has one. Where ranks are too few, each part keeps what it has of what
 * is wanted. now, out: [size]; *counts: as many workers as there then are; servers and data servers
 * as wanted, whom those that come later will be. */
void td_roles_plan(const td_role *now, int size, const td_role_counts *want, td_role *out,
                   td_role_counts *counts);

/* This rank knows of that deal; then it goes over to it, and td_roles_take follows. Between the two
 * all agree. Local. */
void td_roles_learn(td_roles *roles, const td_role *out, const td_role_counts *counts,
                    uint64_t step);
void td_roles_go_over(td_roles *roles);

#endif
