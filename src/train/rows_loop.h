/* What the files of td_train_rows share: rows.c has a run's life, rows_step.c its steps. */
#ifndef TD_TRAIN_ROWS_LOOP_H
#define TD_TRAIN_ROWS_LOOP_H

#include "monitor/progress.h"
#include "ps/transfer.h"
#include "strategy/slow.h"
#include "train/checkpoint.h"
#include "train/revive.h"
#include "train/rows.h"
#include "train/rows_feed.h"

/* Of a unit's totals: behind those of its model how many samples it has, and their checksum. */
enum { TD_ROWS_TOTALS = TD_LEAF_VALUES + 2 };

typedef struct td_rows_interval {  /* between lines of metrics */
    uint64_t step, steps, samples; /* it ended with; of it */
    double loss, weight, correct;
} td_rows_interval;

/* paced: of the next batch, whose rows come while this one computes */
typedef struct td_rows_ahead {
    bool there;      /* the next batch has been read, */
    bool fetching;   /* and its rows are on their way */
    bool taken;      /* it is this one now; some of its rows are still to be fetched */
    uint64_t step;   /* whose batch it is */
    uint32_t *place; /* [count] of its keys: first those that the step before did not move */
    uint64_t *keys;  /* [count] in that order */
    float *rows;     /* [count][width] */
    size_t apart, count, room;
} td_rows_ahead;

typedef struct td_rows_loop {
    td_comm *comm, *made; /* made: comm, where it is this loop's to close */
    const td_job *job;
    const td_train_data *data;
    const td_rows_task *task;
    const volatile int *stop;
    const char *mishaps;
    bool first; /* rank 0 of the group */
    int workers;
    td_clock clock, net_clock;
    td_rows_mode mode;
    bool exact; /* mode is TD_ROWS_EXACT */
    td_optim_config schedule;
    td_rows_tables tables;
    td_pool *pool;
    td_rows_shape shape;
    td_rows_batch batch, next;
    td_rows_ahead ahead;
    td_loader *loader;
    td_feed *feed; /* NULL: each worker reads its own samples */
    td_feed_lease lease;
    td_rows_scorer scorer;
    td_task as_task; /* for evaluation and checkpoints */
    bool looked;     /* dense parameters have been looked up for this evaluation */
    td_train_state state;
    uint64_t end;            /* the step at which all meet next, */
    uint64_t stop_at;        /* or this one - 1 (paced), where they stop; 0: none is agreed on */
    bool met;                /* and have met, but not done yet what follows */
    bool done;               /* that was the last, or patience is out */
    bool asked;              /* the clock has asked for a meeting behind this step (exact) */
    uint64_t to_meeting;     /* steps to the next meeting, as rank 0's clock has them */
    uint64_t left_step;      /* the last meeting was at, */
    int64_t left_at;         /* and was over then */
    int64_t checkpointed_at; /* the last checkpoint, or the run's beginning */
    uint64_t per_epoch, last, next_in_loader; /* steps; that the loader gives next */
    /* of a step */
    double *totals;        /* [leaves or lanes][TD_ROWS_TOTALS] of this rank's units */
    double *all_totals;    /* exact: [leaves][TD_ROWS_TOTALS] */
    float *dense_gradient; /* [units][dense_rows][width] */
    uint64_t *dense_keys;  /* [units][dense_rows] */
    uint32_t *dense_leaf;
    size_t dense_room;       /* rows that the last three have room for */
    struct td_rows_own *own; /* of rows_own.c, NULL before its first step */
    float *summed;           /* paced: [unique][width] */
    size_t summed_room;
    uint64_t *sum_keys; /* [sum_room] of rows of gradients */
    size_t sum_room;
    double scale;           /* of the step that is on its way */
    bool pushing;           /* paced: a step's pushes have begun and not ended */
    uint64_t pushing_at;    /* the step, which a recovery between two of them must not change */
    bool stopping;          /* all are to stop */
    td_rows_saving *saving; /* a checkpoint that is being written, or NULL */
    bool saved;             /* nobody writes one any more (exact) */
    bool resizing;          /* another number of ranks is asked for (exact) */
    int midway;             /* of rows_resize.c: what of a request has been done; 0: nothing */
    int64_t looked_at;      /* for such a request */
    int64_t heard_at;       /* shared: looked for losses */
    char token[64];         /* of the newest that this rank has read as rank 0 */
    td_slow slow;
    /* progress */
    td_progress *progress;
    double loss, weight, correct; /* of the interval; of the epoch: */
    double epoch_loss, epoch_weight, epoch_correct;
    uint64_t epoch_samples, epoch_marks; /* learnt from, by this rank; exact: by all */
    uint64_t told_at;                    /* the step of the last epoch's event; 0: none */
    bool recounted; /* ranks have died in this epoch, and perhaps their counts with them */
    bool told_hot;  /* of a hot server */
    td_rows_interval interval; /* the last */
    uint64_t since, samples_then;
    int64_t interval_begin, input_ns, pull_ns, compute_ns, push_ns;
    td_score score;
    bool kept, recorded;
    bool over;  /* rows are lost, or too few workers left: no recovery helps */
    bool few;   /* fewer workers are left than --min-workers: the run ends */
    bool away;  /* this rank is not needed any more */
    bool ended; /* the run has, as others have found that did not wait for the rest */
    bool begun;
    bool ready;              /* its tables hold what the run begins with, or goes on from */
    bool filled;             /* this rank has read --rows-from: */
    td_transfer_taken taken; /* of it */
    bool empty;              /* this rank has come into the run, and has nothing of it yet */
    int alarms;              /* recoveries without a loss */
    td_comm *former;         /* the group before this one, until the tables have left it */
    uint64_t first_step;     /* at which the tables were opened: they count pushes from there */
    td_news news;
    int64_t noticed;
} td_rows_loop;

/* Whether data servers deal out the epoch's samples to whoever is free. */
static inline bool td_rows_leases(const td_rows_loop *l)
{
    return l->feed && !l->exact;
}

/* Where all meet next. */
static inline uint64_t td_rows_goal(const td_rows_loop *l)
{
    return l->stop_at && l->stop_at - 1 < l->end ? l->stop_at - 1 : l->end;
}

static inline bool td_rows_is_loss(td_status status)
{
    return status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
}

/* rows_begin.c */
TD_MUST_CHECK td_status td_rows_start(td_rows_loop *l);
/* joined: into a run under way, of which the others tell the rest. */
TD_MUST_CHECK td_status td_rows_open_all(td_rows_loop *l, bool joined);
TD_MUST_CHECK td_status td_rows_choose_schedule(td_rows_loop *l);
/* Whether the clocks fit so many workers. Local. TD_ERR_ARG. */
TD_MUST_CHECK td_status td_rows_check_clocks(const td_rows_loop *l, int workers);
TD_MUST_CHECK td_status td_rows_create_progress(td_rows_loop *l); /* rank 0's */
td_feed_config td_rows_feed_config(const td_rows_loop *l);

/* rows_group.c: makes the next group; and goes on there, also a rank that has come into it. */
TD_MUST_CHECK td_status td_rows_recover(td_rows_loop *l, td_status why);
TD_MUST_CHECK td_status td_rows_go_on(td_rows_loop *l);
void td_rows_record(td_rows_loop *l);    /* operations of this group, and of its tables' channels */
void td_rows_tell_news(td_rows_loop *l); /* rank 0: what has happened to the group since */
/* rows_resize.c: does one thing of what is asked for; more is left while l->midway, which those
 * that come hear in td_rows_go_on; look_for: at a meeting, where it is asked for. Collective. */
TD_MUST_CHECK td_status td_rows_resize(td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_look_for_resize(td_rows_loop *l);
/* Whether somebody asks for other numbers of ranks; rank 0 looks, now and then. */
bool td_rows_resize_asked(td_rows_loop *l);
/* " (2 workers, 1 server)", "" where all ranks work. */
enum { TD_ROWS_PARTS = 96 };
void td_rows_parts(const td_rows_loop *l, char text[TD_ROWS_PARTS]);

/* Why the run stops here, with too few workers. */
TD_MUST_CHECK td_status td_rows_too_few(td_rows_loop *l);

/* rows.c */
void td_rows_begin_interval(td_rows_loop *l);
void td_rows_tell_interval(td_rows_loop *l); /* the last */
void td_rows_tell_evaluation(td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_evaluate_pass(void *loop, const td_net_pass *pass);
TD_MUST_CHECK td_status td_rows_look_up(void *loop, const uint64_t *keys, size_t count, float *out);

/* rows_meeting.c: whether rank 0's clock asks for a checkpoint; at a meeting, whether one is due
 * there (collective); and, behind it, at which step all meet next. */
bool td_rows_clock_asks(const td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_plan(td_rows_loop *l, bool *due);
void td_rows_leave_meeting(td_rows_loop *l);

/* rows_step.c: steps up to `end`, which is l->end and may come nearer meanwhile (exact), or until
 * all are to stop; then all workers are at the same step.
 */
TD_MUST_CHECK td_status td_rows_steps(td_rows_loop *l, uint64_t end);
/* exact: moves rows by what waits, at l->scale. Local. */
TD_MUST_CHECK td_status td_rows_apply(td_rows_loop *l);
/* exact: takes out rows that are too old for this step, before it is applied. Local. */
void td_rows_forget(td_rows_loop *l);
/* paced: pushes what is missing of the step under way. */
TD_MUST_CHECK td_status td_rows_push_paced(td_rows_loop *l);
/* rows.c: whether this rank still writes a checkpoint; and what is to be done when nobody does. */
bool td_rows_saving_now(const td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_all_saved(td_rows_loop *l);
/* What a step needs of this rank's share of the leaves. */
TD_MUST_CHECK td_status td_rows_make_ready(td_rows_loop *l);

/* rows_read.c: the loader of this rank's share of the leaves, which also knows the run's length. */
TD_MUST_CHECK td_status td_rows_open_loader(td_rows_loop *l);
/* The batch of that step, which this rank reads for itself; l->batch of the next step, whoever
 * reads it. */
TD_MUST_CHECK td_status td_rows_read_batch(td_rows_loop *l, uint64_t step, td_rows_batch *out);
TD_MUST_CHECK td_status td_rows_next_batch(td_rows_loop *l);
/* td_rows_leases: the next shard, or l->lease.none. */
TD_MUST_CHECK td_status td_rows_next_shard(td_rows_loop *l);
/* No other worker need wait for this one. */
TD_MUST_CHECK td_status td_rows_retire(td_rows_loop *l);

/* rows_epoch.c: exact: counts a unit's samples, behind its totals; counts those of a step that has
 * been learnt from. At an epoch's end: tells what it has come to. Collective. */
void td_rows_count_unit(const td_rows_batch *batch, const td_rows_unit *unit,
                        double totals[TD_ROWS_TOTALS]);
void td_rows_count_samples(td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_tell_epoch(td_rows_loop *l);
/* What the epoch under way has come to so far, in all runs of it; nothing at an epoch's end:
 * collective. take_part: in step, goes on from what a checkpoint says of it. */
TD_MUST_CHECK td_status td_rows_epoch_so_far(td_rows_loop *l, td_train_part *out);
void td_rows_take_part(td_rows_loop *l);
/* rows_ahead.c: reads the next batch and begins to fetch, if that may be; waits for it. */
TD_MUST_CHECK td_status td_rows_ahead_begin(td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_ahead_end(td_rows_loop *l);
/* Whether the step's batch had been read ahead, and is l->batch now; begins to fetch its other
 * rows; puts all of them into their places. */
bool td_rows_ahead_take(td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_ahead_fetch(td_rows_loop *l);
void td_rows_ahead_spread(td_rows_loop *l);
void td_rows_ahead_free(td_rows_ahead *ahead);
/* rows_own.c (downpour, easgd): what the batch's step is computed at; moves by its gradients, one
 * row for each key and the dense ones. last: all meet behind it, so nothing may be left over.
 * flush: pushes what is, where no step is known to be the last: the clock goes on by one. */
TD_MUST_CHECK td_status td_rows_own_read(td_rows_loop *l);
TD_MUST_CHECK td_status td_rows_own_move(td_rows_loop *l, const float *gradient, bool last);
TD_MUST_CHECK td_status td_rows_own_flush(td_rows_loop *l);
void td_rows_own_free(struct td_rows_own *own);
/* rows.c: after a step of this rank. */
TD_MUST_CHECK td_status td_rows_after_step(td_rows_loop *l, const double totals[TD_LEAF_VALUES]);

#endif
