/* The state of a run on disk: RUN/checkpoints/step-NUMBER, a bundle (ckpt/bundle.h) of parameters,
 * optimizer state, the best parameters, and where the run is. Random streams are functions of the
 * seed and the position, so the position is all their state. */
#ifndef TD_TRAIN_CHECKPOINT_H
#define TD_TRAIN_CHECKPOINT_H

#include "train/train.h"

typedef struct td_train_state {
    uint64_t step;               /* done */
    uint64_t samples_seen;       /* rows of those steps */
    uint64_t samples, per_epoch; /* of the training set; steps of an epoch. 0: not known */
    uint64_t total;              /* steps that the run was to have. 0: not known */
    bool finished;
    bool has_best;
    double best_loss, best_accuracy;
    uint64_t best_step;
    double loss, accuracy; /* of the last evaluation, at step `scored` */
    uint64_t scored;
} td_train_state;

/* best: [params] or NULL. Old checkpoints beyond job->keep_checkpoints go. */
TD_MUST_CHECK td_status td_checkpoint_write(const td_job *job, const td_task *task, td_optim *optim,
                                            const td_train_state *state, const float *best);
/* Whether there is one to read. */
bool td_checkpoint_exists(const td_job *job);
/* Fills the task's params, the optimizer's state and `state` from the newest checkpoint.
 * TD_ERR_CORRUPT, with the option's name, when an option that decides the result is another now. */
TD_MUST_CHECK td_status td_checkpoint_read(const td_job *job, const td_task *task, td_optim *optim,
                                           td_train_state *state, float *best);

#endif
