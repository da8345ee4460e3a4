/* The optimizer of a run: in whole at every rank, or in shards.
 *
 * In shards (ZeRO-1: Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion
 * Parameter Models", section 5.1) a rank keeps the optimizer's state of its part of the parameters,
 * moves that part, and the ranks exchange the parts that they have moved. It also keeps, and moves,
 * the part of its buddy (comm/buddy.h), from the same gradient, so that the mirror costs arithmetic
 * and no traffic: the state takes 2 / ranks of what it takes in whole.
 *
 * Every element is moved by the same operations as in whole, so the bits are the same. */
#ifndef TD_STRATEGY_SHARDS_H
#define TD_STRATEGY_SHARDS_H

#include "tandem/comm.h"
#include "tandem/optim.h"

typedef struct td_shards td_shards;

typedef struct td_shards_config {
    td_optim_config optim; /* its strings are borrowed, as slots are */
    const td_slot *slots;
    size_t slot_count, params;
    bool sharded;
    bool
        empty; /* sharded: this rank comes to a run under way, and its state is not yet the run's */
    int size, rank; /* of the group */
} td_shards_config;

/* TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_shards_create(const td_shards_config *config, td_shards **out);
void td_shards_destroy(td_shards *shards); /* NULL is fine */

bool td_shards_sharded(const td_shards *shards);
/* Steps that have been made; -1: none of the run's state is here. */
int64_t td_shards_made(const td_shards *shards);
double td_shards_rate(const td_shards *shards, uint64_t step);

/* Makes step number `step` (from 0): moves this rank's and its buddy's parts of params. Local. */
void td_shards_step(td_shards *shards, uint64_t step, const float *gradient, float scale,
                    float *params);
/* Gives all ranks all of params after a step; collective, nothing when in whole. */
TD_MUST_CHECK td_status td_shards_share(td_shards *shards, td_comm *comm, float *params);

/* Shards only, in a group where all that have a state have made the same steps: deals it, and the
 * parts of params, anew as for the first `size` ranks of comm; collective. When it fails, the ranks
 * still have what they had, some of them in its new place: deal again. *lost: TD_ERR_PEER because
 * both ranks that had some part have died. */
TD_MUST_CHECK td_status td_shards_deal(td_shards *shards, td_comm *comm, int size, float *params,
                                       bool *lost);

/* The arrays of the state: how many, their names. */
int td_shards_states(const td_shards *shards);
const char *td_shards_state_name(const td_shards *shards, int index);
/* [params]; NULL when it is in shards. */
float *td_shards_state(td_shards *shards, int index);
/* Elements [begin, end) of array `index`, which differ from rank to rank. Collective in shards. */
TD_MUST_CHECK td_status td_shards_gather(td_shards *shards, td_comm *comm, int index, size_t begin,
                                         size_t end, float *out);
/* Sets elements [begin, begin + count) of an array where this rank has them. */
void td_shards_put(td_shards *shards, int index, size_t begin, size_t count, const float *values);
/* What was put is the state after so many steps. */
void td_shards_restored(td_shards *shards, uint64_t made);

#endif
