/* The state of a run on disk: RUN/checkpoints/step-NUMBER, a bundle (ckpt/bundle.h) of parameters,
 * optimizer state, the best parameters, and where the run is. Random streams are functions of the
 * seed and the position, so the position is all their state. saver.h writes it. */
#ifndef TD_TRAIN_CHECKPOINT_H
#define TD_TRAIN_CHECKPOINT_H

#include "train/layout.h"
#include "train/train.h"

#define TD_CHECKPOINT_FILE "state.safetensors"

/* What the run has learnt from, of an epoch's samples, up to a step within it. */
typedef struct td_train_part {
    bool known; /* else an earlier version's, or ranks have died with what they knew */
    uint64_t epoch, samples, marks;
    double loss, weight, correct; /* before learning */
} td_train_part;

typedef struct td_train_state {
    uint64_t step;               /* done */
    uint64_t samples_seen;       /* rows of those steps */
    uint64_t samples, per_epoch; /* of the training set; steps of an epoch. 0: not known */
    uint64_t data;               /* td_dataset_fingerprint of the training set. 0: not known */
    uint64_t total;              /* steps that the run was to have. 0: not known */
    bool finished;
    bool has_best;
    double best_loss, best_accuracy;
    uint64_t best_step;
    double loss, accuracy; /* of the last evaluation, at step `scored` */
    uint64_t scored;
    td_train_part part; /* of a run over tables, where its step is within an epoch */
} td_train_state;

/* TD_ERR_DIVERGED: "what ... no longer a number at step", and what to do. */
td_status td_train_diverged(const td_job *job, const td_train_state *state, const char *what);
bool td_all_finite(const float *x, size_t n);

/* Whether the run goes on with the data that it began with; `here` knows this rank's. What an
 * earlier version has not kept is not compared. TD_ERR_DATA. */
TD_MUST_CHECK td_status td_train_check_data(const td_train_state *then, const td_train_state *here,
                                            const td_dataset *train);
/* Whether what is done so far can be the beginning of a run of `last` steps. TD_ERR_ARG. */
TD_MUST_CHECK td_status td_train_check_length(const td_job *job, const td_train_state *state,
                                              uint64_t last);
/* What an earlier job was asked for, and the records of its ranks, go from the run's folder. Rank
 * 0, before any rank is recorded. */
TD_MUST_CHECK td_status td_train_forget_earlier(const td_job *job);
/* Whether this rank has the data that rank 0 has; collective. */
TD_MUST_CHECK td_status td_train_compare_data(td_comm *comm, const td_train_state *state,
                                              const td_dataset *train);
/* That a rank which has come into a run reads other data than those with that fingerprint. */
void td_train_warn_of_data(int rank, const td_dataset *train, uint64_t wanted);
/* From here on, unless it is already, this rank's operations are recorded in the run's folder; a
 * run goes on without where that cannot be. */
void td_train_record(td_comm *comm, const td_job *job, bool *recorded);
/* Collectives of the run go by what --tuning names, if anything; collective, and errors of it are.
 */
TD_MUST_CHECK td_status td_train_tune(td_comm *comm, const td_job *job);

/* The arrays of a checkpoint and how they are cut; best: [params] or NULL. */
void td_checkpoint_layout(const td_job *job, const td_task *task, td_shards *shards, float *best,
                          td_layout *out);
/* What its manifest says, new; NULL without memory. */
json_t *td_checkpoint_state(const td_job *job, const td_task *task, const td_train_state *state);
/* RUN/checkpoints/step-NUMBER. */
TD_MUST_CHECK td_status td_checkpoint_path(const td_job *job, uint64_t step,
                                           char path[TD_PATH_MAX]);

enum { TD_CHECKPOINT_NONE = -1 };
/* The step of the newest whole checkpoint, or TD_CHECKPOINT_NONE where there is none at all.
 * Damaged newer ones are named in warnings; TD_ERR_CORRUPT, naming the newest, when all are.
 * TD_ERR_ARG when it is another job's: it names the option that decides the result and is another
 * now. */
TD_MUST_CHECK td_status td_checkpoint_find(const td_job *job, const td_task *task,
                                           int64_t *out_step);
/* Opens a checkpoint and checks that it is this job's; *state is the run's. TD_ERR_ARG,
 * TD_ERR_CORRUPT. */
TD_MUST_CHECK td_status td_checkpoint_open(const char *path, const td_job *job, const td_task *task,
                                           td_bundle *bundle, td_train_state *state);
/* Fills the task's params, the optimizer's state and `state` from that of `step`. */
TD_MUST_CHECK td_status td_checkpoint_read(const td_job *job, const td_task *task,
                                           td_shards *shards, uint64_t step, td_train_state *state,
                                           float *best);
/* Before a run that goes on from `step` (or TD_CHECKPOINT_NONE) writes: what unfinished writes have
 * left goes, and newer, damaged ones become step-NUMBER.damaged. */
TD_MUST_CHECK td_status td_checkpoint_tidy(const td_job *job, int64_t step);

#endif
