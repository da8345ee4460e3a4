/* How the gradients of several workers become one update.
 *
 * A strategy asks an oracle for gradients and moves the parameters. It owns the optimizer's state
 * and hands it to whoever writes checkpoints. */
#ifndef TD_STRATEGY_STRATEGY_H
#define TD_STRATEGY_STRATEGY_H

#include "nn/net.h"
#include "strategy/shards.h"

/* Where gradients come from: a network, or a user's own function. Each lane is used by one thread
 * at a time. The pass's fields mean what nn/net.h says. */
typedef struct td_oracle {
    void *self;
    size_t params;
    const td_slot *slots;
    size_t slot_count;
    td_status (*gradient)(void *self, int lane, const td_net_pass *pass);
} td_oracle;

typedef struct td_strategy_config {
    int leaves, lanes;
    size_t bucket_bytes; /* of gradient reduced together; 0: 1 MiB */
    uint64_t seed;
    td_optim_config optim;
    bool shard_optimizer, empty; /* see shards.h: `sharded`, `empty` */
} td_strategy_config;

/* What a global batch, or one of the parts it is accumulated over, gives each rank. */
typedef struct td_rows {
    size_t rows;
    const float *x;
    const int32_t *label;
    const float *target, *weight;
    const uint64_t *sample;
    const size_t *leaf_row; /* of this rank's leaves, [leaves + 1] */
    uint64_t epoch, step;   /* of the run: the one under way, from 1 */
    size_t features;
} td_rows;

/* What ranks tell each other along with a gradient: whether any of them says so. */
typedef struct td_notes {
    bool stop;       /* it was asked to stop */
    bool checkpoint; /* its clock asks for a checkpoint */
    bool writing;    /* its part of a checkpoint is still being written */
    bool resize;     /* it was asked for another number of ranks */
} td_notes;

/* Totals over the whole batch, the same at every rank. */
typedef struct td_totals {
    double loss, weight, correct;
    td_notes any;
} td_totals;

typedef struct td_step_times {
    double compute, wait, move, update; /* seconds since creation */
} td_step_times;

typedef struct td_strategy td_strategy;

TD_MUST_CHECK td_status td_allreduce_create(td_comm *comm, const td_oracle *oracle,
                                            const td_strategy_config *config, td_strategy **out);
void td_strategy_destroy(td_strategy *strategy);

/* Goes on over `comm`, whose rank r gets leaves [bounds[r], bounds[r + 1]) of a batch (NULL: equal
 * shares, as at the creation). The optimizer's state stays; what has been added of a step under way
 * is dropped. The former group may have failed, and may be closed afterwards. Collective. After a
 * failure it is fit to be dealt again or destroyed. */
TD_MUST_CHECK td_status td_strategy_deal(td_strategy *strategy, td_comm *comm, const int *bounds);

/* This rank's leaves of a global batch. */
void td_strategy_leaves(const td_strategy *strategy, int *begin, int *end);

/* Ranks are made slow for tests by slow.h, and lost by mishap.h. */

/* Adds one part of a batch. */
TD_MUST_CHECK td_status td_strategy_add(td_strategy *strategy, const float *params,
                                        const td_rows *rows, td_notes notes);
/* Ends the step: updates params, and gives the totals of all parts. Speaks to nobody. */
TD_MUST_CHECK td_status td_strategy_update(td_strategy *strategy, uint64_t step, float *params,
                                           td_totals *out);
/* After each update: where the optimizer is in shards, all ranks give each other what they have
 * updated. Collective. */
TD_MUST_CHECK td_status td_strategy_share(td_strategy *strategy, float *params);

/* After a loss, in the next group `comm` and before the strategy is dealt there; collective. Where
 * the optimizer is in shards, a rank that has made a step cannot go back to the one before: who is
 * one step behind gets the step's gradient from one that has made it, and makes it too. `mark`
 * (`bytes`, what the caller must know of that step) comes along, and is replaced exactly when the
 * step is made. strategy: NULL at a rank that has no state of the run. TD_ERR_NOMEM, at all. */
TD_MUST_CHECK td_status td_strategy_catch_up(td_strategy *strategy, td_comm *comm, float *params,
                                             void *mark, size_t bytes);

td_shards *td_strategy_shards(td_strategy *strategy);
td_step_times td_strategy_times(const td_strategy *strategy);

#endif
