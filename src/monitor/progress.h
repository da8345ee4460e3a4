/* What a run shows: one line that is rewritten on a terminal, plain lines elsewhere, and a line of
 * JSON per interval in metrics.jsonl. */
#ifndef TD_MONITOR_PROGRESS_H
#define TD_MONITOR_PROGRESS_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/* An interval of steps. Times are this rank's seconds within the interval. */
typedef struct td_interval {
    uint64_t step, steps, epoch, epochs; /* done, of */
    double loss, accuracy;
    bool classes; /* accuracy means something */
    uint64_t samples, bytes_sent;
    double seconds, input, forward, backward, wait, move, update;
    double checkpoint; /* that steps were held up for checkpoints */
    double lr, eta;
    int workers;
    const double *scores; /* [workers] median pace / own: below 1 is slower than most; see
                              train/balance.h for what the median of an even number is */
    double slowest_wait, fastest_wait; /* over ranks: the one that waited least was waited for */
} td_interval;

/* Of all steps so far, on data that are not trained on. */
typedef struct td_evaluation {
    uint64_t epoch, step;
    const char *on; /* which data */
    double loss, accuracy;
    double auc, calibration; /* NaN: there is none */
    bool classes;            /* accuracy means something */
} td_evaluation;

typedef struct td_progress td_progress;

/* metrics: path to append to, or NULL. terminal: whether standard output, where it looks like one,
 * may be the user's terminal. */
TD_MUST_CHECK td_status td_progress_create(const char *metrics, bool quiet, bool json,
                                           bool terminal, td_progress **out);
/* Takes the lines of later steps than `step` out of the file, also that step's evaluation where it
 * is owed, and a half-written last one: a run that goes on from there writes them again. Events
 * stay: they have happened. Fine when there is no file. */
TD_MUST_CHECK td_status td_progress_rewind(const char *metrics, uint64_t step,
                                           bool owes_evaluation);
/* The same for a run under way, whose file that is: also what is held. */
TD_MUST_CHECK td_status td_progress_go_back(td_progress *progress, const char *metrics,
                                            uint64_t step, bool owes_evaluation);
void td_progress_destroy(td_progress *progress);
/* TD_ERR_IO when metrics.jsonl cannot be written: the line is held and comes with a later one, and
 * until then nothing is said again. */
TD_MUST_CHECK td_status td_progress_interval(td_progress *progress, const td_interval *interval);
TD_MUST_CHECK td_status td_progress_evaluation(td_progress *progress,
                                               const td_evaluation *evaluation);
/* Something that happened at a step: {"step":STEP,"event":"NAME",FIELDS}; fields: JSON members. */
TD_MUST_CHECK td_status td_progress_event(td_progress *progress, uint64_t step, const char *name,
                                          const char *fields);
/* A line of its own, unless quiet. */
void td_progress_say(td_progress *progress, const char *format, ...) TD_PRINTF(2, 3);

#endif
