/* The training loop's own state: begin.c makes all that a step needs, train.c makes steps and what
 * follows them, score.c evaluates, recover.c goes on in another group. */
#ifndef TD_TRAIN_LOOP_H
#define TD_TRAIN_LOOP_H

#include "monitor/progress.h"
#include "train/pace.h"
#include "train/revive.h"
#include "train/saver.h"

/* What the loop knows when a step has been made, before anything that follows it: evaluation,
 * metrics, checkpoint. All that may be done again from here, with the same effect. The same at all
 * ranks but for times. */
typedef struct td_mark {
    td_train_state state;
    td_totals totals;
    double loss, weight, correct; /* of the interval under way, as the next two */
    uint64_t since, samples_then;
    int64_t interval_begin;
    int64_t checkpoint; /* step of the newest that was begun, or TD_CHECKPOINT_NONE */
    int most;           /* ranks that the run can have */
    int alarms;         /* recoveries at this step without a loss */
    bool made;          /* false: no step has been made yet */
} td_mark;

typedef struct td_loop {
    td_comm *comm, *made; /* made: comm, where it is this loop's to close */
    td_comm *dealt;       /* that leaves were dealt in last */
    td_comm *stale;       /* dealt, while it waits to be closed */
    const td_job *job;
    const td_train_data *data;
    const td_task *task;
    const volatile int *stop;
    const char *mishaps;
    bool first;    /* rank 0: the one that speaks and writes */
    bool kept;     /* a checkpoint is on disk, and the caller knows */
    int64_t found; /* the step of the checkpoint to resume from, or TD_CHECKPOINT_NONE */
    td_strategy *strategy;
    td_loader *loader;
    td_saver *saver;
    td_paces *paces;
    td_progress *progress; /* rank 0 */
    td_train_state state;
    uint64_t per_epoch, last; /* steps */
    float *best;              /* parameters of the best evaluation, or NULL */
    td_score score;           /* of the evaluation at step `measured` */
    uint64_t measured;
    int64_t checkpointed_at; /* when the newest was begun */
    int64_t held_ns;         /* since the last step, by checkpoints */
    /* of the interval under way */
    int64_t interval_begin, input_ns, checkpoint_ns;
    double loss, weight, correct;
    uint64_t since, samples_then; /* since: steps */
    td_step_times times_then;
    double forward_then, backward_then;
    uint64_t bytes_then;
    double seconds_a_step; /* smoothed */
    double *waits;         /* [ranks] */
    /* of recovery */
    td_mark mark;
    bool whole;         /* mark, parameters and the optimizer's state are of one step */
    bool redo;          /* what follows the mark's step is to be done (again) */
    bool few;           /* fewer ranks are left than --min-workers: the run ends */
    bool over;          /* a lost rank is no reason to recover any more */
    bool away;          /* this rank has gone back to the spares */
    bool ended;         /* the run has, as another rank has found that did not wait for the rest */
    bool recorded;      /* its operations are */
    td_news news;       /* not told yet */
    int64_t noticed;    /* when the first of it was; 0: nothing */
    int64_t checkpoint; /* see td_mark */
    int64_t on_disk;    /* step of the newest checkpoint there when the group was made */
    bool owes;          /* a checkpoint was lost on its way */
    int64_t looked_at;  /* for a request for another number of ranks */
} td_loop;

static inline bool td_is_loss(td_status status)
{
    return status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
}

static inline td_status td_loop_diverged(const td_loop *t, const char *what)
{
    return td_train_diverged(t->job, &t->state, what);
}

/* begin.c */

/* A run's beginning, or where a former job has left it. */
TD_MUST_CHECK td_status td_loop_start(td_loop *t);
TD_MUST_CHECK td_status td_loop_create_loader(td_loop *t);
TD_MUST_CHECK td_status td_loop_create_strategy(td_loop *t, bool joins);
TD_MUST_CHECK td_status td_loop_create_best(td_loop *t);
TD_MUST_CHECK td_status td_loop_create_waits(td_loop *t);
TD_MUST_CHECK td_status td_loop_create_progress(td_loop *t);
TD_MUST_CHECK td_status td_loop_seek(td_loop *t);
void td_loop_start_recorder(td_loop *t);

/* train.c */
void td_loop_begin_interval(td_loop *t);
void td_loop_measure_from_here(td_loop *t); /* what has been counted so far is of no interest */
void td_loop_tell_kept(td_loop *t);

/* score.c: see there which evaluations count. */
bool td_loop_evaluation_due(const td_loop *t);
bool td_loop_owes_evaluation(const td_loop *t);
bool td_loop_owes_last_evaluation(const td_loop *t);
/* TD_ERR_INTERRUPTED, at all ranks alike: a rank was asked to stop. */
TD_MUST_CHECK td_status td_loop_evaluate(td_loop *t);
/* What the last step is worth, if no evaluation has told it. */
TD_MUST_CHECK td_status td_loop_score_the_end(td_loop *t);
/* The last evaluation that counted has waited too long for a better loss. */
bool td_loop_out_of_patience(const td_loop *t);
void td_loop_say_out_of_patience(const td_loop *t, const char *more);
/* RUN/model: the best parameters or the last. */
TD_MUST_CHECK td_status td_loop_save_model(td_loop *t);

/* recover.c */

/* A step has been made. */
void td_loop_take_mark(td_loop *t, const td_totals *totals);
/* A call has failed with `why`, a loss: makes the next group. A failure is the run's end. */
TD_MUST_CHECK td_status td_loop_recover(td_loop *t, td_status why);
/* In a group just made, whether by recovery or resize: all that a step needs, at the newest state
 * that there is. Collective; also for a rank that comes without any state. */
TD_MUST_CHECK td_status td_loop_go_on(td_loop *t);
/* After a mark where some rank was asked for another number of ranks; collective. The group is
 * another one, or t->away is true. */
TD_MUST_CHECK td_status td_loop_resize(td_loop *t);
/* Whether rank 0 has been asked. */
bool td_loop_resize_asked(td_loop *t);
/* Why the run stops here, with too few ranks. */
TD_MUST_CHECK td_status td_loop_too_few(td_loop *t);

#endif
