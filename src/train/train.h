/* The one training loop: batches, steps, evaluations, checkpoints, and stopping in order.
 *
 * Each rank calls td_train with its own task; data are shared where ranks are threads. */
#ifndef TD_TRAIN_TRAIN_H
#define TD_TRAIN_TRAIN_H

#include "ckpt/bundle.h"
#include "strategy/strategy.h"
#include "tandem/data.h"
#include "train/job.h"

/* What is trained. */
typedef struct td_task {
    td_oracle oracle;
    float *params;    /* [oracle.params], this rank's; initial values, or those to go on from */
    bool classes;     /* accuracy means something */
    bool two;         /* there are two: so does the area under the ROC curve */
    bool sparse;      /* evaluate reads samples itself, by their numbers */
    const char *arch; /* what a checkpoint must agree with */
    const volatile int *stop; /* set in any rank: evaluations are left; NULL: never */
    /* Loss totals of the pass's leaves, and scores where asked for, without training's randomness.
     */
    td_status (*evaluate)(void *self, const td_net_pass *pass);
    /* Writes the model to `folder`; rank 0 only. metrics is borrowed. */
    td_status (*save)(void *self, const float *params, const char *folder, json_t *metrics);
    void (*times)(void *self, double *forward, double *backward); /* of lane 0 */
    /* Makes room for passes of that many leaves of a batch in each lane, more than so far or not;
     * NULL: there always is. TD_ERR_NOMEM. */
    td_status (*room)(void *self, int leaves);
} td_task;

/* What the caller does about the run's folder; rank 0 alone calls it. */
typedef struct td_train_hooks {
    void *user;
    td_status (*begin)(void *user); /* all has been checked, nothing has been written */
    void (*kept)(void *user);       /* the first checkpoint is on disk */
    /* A rank that was not rank 0 is now; what the former one did is its to do, too. */
    td_status (*take_over)(void *user);
} td_train_hooks;

typedef struct td_train_data {
    const td_dataset *train;
    const td_dataset *held; /* NULL: no evaluation */
    const char *held_name;  /* "test", "held-out" */
    const td_normalise *normalise;
    const td_train_hooks *hooks; /* or NULL */
} td_train_data;

/* Writes nothing before everything that can be checked has been. Mistakes (exit code 2) are the
 * same at all ranks. TD_ERR_DIVERGED when a loss or a parameter is no longer finite, before a
 * checkpoint or a model would hold it; TD_ERR_INTERRUPTED when *stop was set (by a
 * signal handler, on any rank), after a checkpoint.
 *
 * Goes on in another group when ranks have died (tandem/recover.h), and when a number of ranks is
 * asked for in the run's folder (resize.h); the model is the same. TD_ERR_PEER when that cannot be,
 * or fewer than job->min_workers are left. A rank that came as a spare gets all from the others. A
 * rank that is not needed returns TD_OK, with its function. */
TD_MUST_CHECK td_status td_train(td_comm *comm, const td_job *job, const td_train_data *data,
                                 const td_task *task, const volatile int *stop);

/* This rank has failed by itself with `status`. Where that is TD_ERR_NOMEM and the others can go on
 * without it, it is lost to them: a process does not return, a thread gets TD_ERR_PEER. Else
 * `status`, with its sentence. */
TD_MUST_CHECK td_status td_train_give_way(td_comm *comm, td_status status);

/* What the parameters are worth over a data set; collective, the same at every rank.
 * TD_ERR_INTERRUPTED, at all ranks alike, where task->stop has been set at one. */
typedef struct td_score {
    double loss, accuracy, weight;
    double calibration; /* mean predicted probability of the second class / its share; NaN as auc */
    double auc;         /* math/auc.h, every sample as one; NaN where there are not two classes */
} td_score;
TD_MUST_CHECK td_status td_evaluate(td_comm *comm, const td_dataset *data,
                                    const td_normalise *normalise, size_t batch, int leaves,
                                    const td_task *task, const float *params, td_score *out);

#endif
