/* Evaluations of the training loop, the best parameters, and the model that a run leaves. */
#include "train/loop.h"

#include "base/error.h"
#include "base/log.h"
#include "strategy/mishap.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef td_loop loop;

/* --- evaluations ---
 * One that --eval-every asks for counts: it is compared with the best, and patience waits for it.
 * One that is made only because the run ends here chooses the model, but no checkpoint knows it: a
 * run that goes on is then the longer run to the bit, which would not have evaluated here. */

bool td_loop_evaluation_due(const loop *t)
{
    uint64_t every = (uint64_t)t->job->eval_every * t->per_epoch;
    return every && t->state.step % every == 0;
}

/* The last update may have spoiled parameters that no loss has seen, or rectifiers hide. Before a
 * checkpoint the saver looks. */
static td_status check_params(const loop *t)
{
    if (td_all_finite(t->task->params, t->task->oracle.params)) return TD_OK;
    return td_loop_diverged(t, "a parameter is");
}

static td_status measure(loop *t)
{
    TD_TRY(td_mishap(t->mishaps, t->comm, t->state.step, "evaluate"));
    td_task task = *t->task;
    task.stop =
        t->stop && !*t->stop ? t->stop : NULL; /* else a job asked at once would stand still */
    TD_TRY(td_evaluate(t->comm, t->data->held, t->data->normalise, 512, t->job->leaves, &task,
                       t->task->params, &t->score));
    TD_TRY(check_params(t));
    if (t->score.weight > 0 && !isfinite(t->score.loss)) {
        char what[64];
        snprintf(what, sizeof what, "the %.40s loss is", t->data->held_name);
        return td_loop_diverged(t, what);
    }
    t->measured = t->state.step;
    return TD_OK;
}

/* What no checkpoint will know leaves the best parameters alone: save_model has the newest. */
static void take_score(loop *t)
{
    td_train_state *s = &t->state;
    s->loss = t->score.loss, s->accuracy = t->score.accuracy, s->scored = s->step;
    if (!isfinite(s->loss) || (s->has_best && s->loss >= s->best_loss)) return;
    s->has_best = true;
    s->best_loss = s->loss, s->best_accuracy = s->accuracy, s->best_step = s->step;
    if (t->best && td_loop_evaluation_due(t))
        memcpy(t->best, t->task->params, t->task->oracle.params * sizeof *t->best);
}

bool td_loop_out_of_patience(const loop *t)
{
    const td_train_state *s = &t->state;
    uint64_t waited = (s->step - s->best_step + t->per_epoch - 1) / t->per_epoch;
    return t->job->patience && s->scored == s->step && waited >= (uint64_t)t->job->patience;
}

void td_loop_say_out_of_patience(const loop *t, const char *more)
{
    td_progress_say(t->progress, "stopped: no better %s loss for %d epochs%s", t->data->held_name,
                    t->job->patience, more);
}

/* A run that was asked to stop has left without one that was due. */
bool td_loop_owes_evaluation(const loop *t)
{
    return t->data->held && t->state.step > 0 && td_loop_evaluation_due(t) &&
           t->state.scored != t->state.step;
}

/* As has one that was asked to stop inside the evaluation of its last step. */
bool td_loop_owes_last_evaluation(const loop *t)
{
    return t->data->held && t->state.step > 0 && t->state.step == t->last && !t->state.finished &&
           !td_loop_evaluation_due(t);
}

td_status td_loop_evaluate(loop *t)
{
    TD_TRY(measure(t));
    if (td_loop_evaluation_due(t)) take_score(t);
    if (!t->first) return TD_OK;
    uint64_t epoch = (t->state.step + t->per_epoch - 1) / t->per_epoch;
    td_evaluation e = {.epoch = epoch,
                       .step = t->state.step,
                       .on = t->data->held_name,
                       .loss = t->score.loss,
                       .accuracy = t->score.accuracy,
                       .auc = t->score.auc,
                       .calibration = t->score.calibration,
                       .classes = t->task->classes};
    td_status status = td_progress_evaluation(t->progress, &e);
    if (status != TD_OK) td_warn("%s; the run goes on", td_last_error());
    if (td_loop_out_of_patience(t)) td_loop_say_out_of_patience(t, "");
    return TD_OK;
}

td_status td_loop_score_the_end(loop *t)
{
    if (!t->data->held || t->state.scored == t->state.step) return TD_OK;
    if (t->measured != t->state.step) TD_TRY(measure(t));
    take_score(t);
    return TD_OK;
}

td_status td_loop_save_model(loop *t)
{
    td_status status = TD_OK;
    char folder[TD_PATH_MAX];
    if (t->first) {
        const td_train_state *s = &t->state;
        bool best = t->best && s->has_best;
        json_t *metrics =
            json_pack("{s:I, s:s}", "step", (json_int_t)(best ? s->best_step : s->step), "kept",
                      best ? "best" : "last");
        if (s->has_best) {
            json_object_set_new(metrics, "evaluated_on", json_string(t->data->held_name));
            json_object_set_new(metrics, "loss", json_real(best ? s->best_loss : s->loss));
            if (t->task->classes)
                json_object_set_new(metrics, "accuracy",
                                    json_real(best ? s->best_accuracy : s->accuracy));
        }
        status = td_path_join(folder, t->job->run, "model");
        if (status == TD_OK)
            status = t->task->save(t->task->oracle.self,
                                   best && s->best_step != s->step ? t->best : t->task->params,
                                   folder, metrics);
        json_decref(metrics);
    }
    return td_comm_agree(t->comm, status);
}
