/* What the files of the transport over threads share: local.c has messages, failures, groups and
 * memory; local_recover.c has recovery; local_run.c runs ranks. */
#ifndef TD_COMM_TRANSPORT_LOCAL_H
#define TD_COMM_TRANSPORT_LOCAL_H

#include "comm/recover.h"
#include "comm/transport.h"

#include <pthread.h>
#include <stdatomic.h>

enum { TD_LOCAL_SENTENCE = 1024 };

typedef struct td_local_inbox {
    pthread_mutex_t lock;
    td_request *sends;    /* guarded by lock; to this rank, unmatched, oldest first */
    td_request *receives; /* guarded by lock; by this rank, unmatched, oldest first */
    td_bell bell;         /* rung when a request of this rank has ended */
    atomic_bool left;
    char pad[32];
} td_local_inbox;

typedef struct td_local_shared {
    struct td_local_shared *next;
    atomic_int users;
    void *data, *memory; /* in that allocation */
} td_local_shared;

typedef struct td_local_rank { /* of the run; guarded by its lock */
    td_role role;
    bool told;    /* the newest plan, or verdict, is for it */
    td_card card; /* group 0: none shown */
    td_given_up gave_up;
    td_muster wish; /* while it recovers */
} td_local_rank;

/* What all groups have in common. */
typedef struct td_local_run {
    int size;
    pthread_mutex_t lock; /* guards all that is not atomic */
    pthread_cond_t changed;
    atomic_int failed; /* rank + 1 of the first failure, 0: none */
    td_status failure;
    char sentence[TD_LOCAL_SENTENCE];
    td_local_shared *shared; /* memory not let go of yet */
    pthread_mutex_t groups_lock;
    struct td_local_group
        *groups;         /* guarded by groups_lock; that not all members have closed yet */
    atomic_int alone;    /* groups that there are of td_comm_self, and go with the last; else 0 */
    td_local_rank *rank; /* [size] */
    atomic_bool *left;   /* [size] */
    /* the generation: */
    uint64_t generation;
    int member_count, *member;   /* [size] its ranks */
    atomic_int lost;             /* rank + 1 of one of it that has died, 0: none */
    _Atomic int64_t revoked;     /* the newest generation that is, -1: none */
    char why[TD_LOCAL_SENTENCE]; /* it is */
    /* what has been agreed on last: */
    td_plan plan;
    td_status verdict; /* TD_OK: the plan */
    char judgement[TD_LOCAL_SENTENCE];
} td_local_run;

typedef struct td_local_group {
    struct td_local_group *next;
    int size;
    atomic_int members;    /* that have not closed */
    td_local_inbox *boxes; /* [size] */
    td_local_run *run;
} td_local_group;

extern const td_transport_ops td_local_ops;

/* NULL: no memory, or no run. The run's end destroys those that are left: a rank that died may have
 * been about to take one. */
td_local_group *td_local_group_create(int size, td_local_run *run);
void td_local_group_destroy(td_local_group *group);
/* active: ranks that are no spares. NULL: no memory. */
td_local_run *td_local_run_create(int size, int active);
void td_local_run_destroy(td_local_run *run);

void td_local_ring_all(td_local_group *group);
void td_local_fail(td_comm *comm, td_status status);
/* This rank's function has returned. */
void td_local_leave(td_comm *comm);

/* As in td_transport_ops; local_recover.c. */
td_status td_local_muster(td_comm *comm, const td_muster *mine, td_plan *plan);
void td_local_die(td_comm *comm);
/* For tests: a spare of the run dies. */
void td_local_lose(td_comm *comm, int rank);

#endif
