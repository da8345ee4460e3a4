/* The ranks' paces, compared every few steps: who is slow is told, and leaves may be dealt for it.
 * See balance.h for what is compared. */
#ifndef TD_TRAIN_PACE_H
#define TD_TRAIN_PACE_H

#include "tandem/comm.h"
#include "train/balance.h"

#include <stdint.h>

/* A rank counts as slow after SLOW_LOOKS looks, each PACE_STEPS steps after the other, in which it
 * took half as long again as the median (see balance.h), and noticeably longer: within 20 steps. Of
 * several that become slow together each look names one. */
enum { TD_PACE_STEPS = 8, TD_PACE_SLOW_LOOKS = 2 };

typedef struct td_paces td_paces;

/* What a look finds; the same at all ranks. */
typedef struct td_pace_look {
    int slow; /* a rank that has become slow and was not named since, -1: none */
    int phase;
    double score, behind; /* the rank's; seconds a step behind the median in that phase */
    bool deal;            /* leaves should lie as td_paces_bounds says from now on */
} td_pace_look;

/* balance: leaves may be dealt anew. Not collective. */
TD_MUST_CHECK td_status td_paces_create(td_comm *comm, int leaves, bool balance, td_paces **out);
void td_paces_destroy(td_paces *paces);

/* What this rank's step took, and what of it each phase (TD_PHASE_OTHER: what is left of the step
 * when the other phases and `moved`, the time in collectives, are taken off). */
void td_paces_step(td_paces *paces, double seconds, double moved, td_pace pace);
/* Every TD_PACE_STEPS steps a collective, else nothing: *look says what it found. */
TD_MUST_CHECK td_status td_paces_look(td_paces *paces, td_pace_look *look);

/* [ranks + 1] where ranks' leaves begin. */
const int *td_paces_bounds(const td_paces *paces);
/* [ranks], of the newest look; 1 before it. */
const double *td_paces_scores(const td_paces *paces);

#endif
