/* See train.h. */
#include "train/train.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "optim/schedule.h"
#include "strategy/mishap.h"
#include "train/loop.h"
#include "train/resize.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef td_loop loop;

td_status td_loop_create_strategy(loop *t)
{
    const td_job *job = t->job;
    td_strategy_config config = {
        .leaves = job->leaves,
        .lanes = job->threads,
        .bucket_bytes = (size_t)job->bucket_kb * 1024,
        .seed = job->seed,
        .optim =
            {
                .rule = job->rule,
                .lr = job->lr,
                .momentum = job->momentum,
                .beta1 = job->beta1,
                .beta2 = job->beta2,
                .epsilon = job->epsilon,
                .weight_decay = job->weight_decay,
                .clip_norm = job->clip,
                .schedule = td_optim_schedule_names[job->schedule],
                .warmup = (uint64_t)llround(job->warmup * (double)t->per_epoch),
                .every = (uint64_t)fmax(1, round(job->step_epochs * (double)t->per_epoch)),
                .gamma = job->gamma,
                .total = t->last,
                .final_lr = job->final_lr,
            },
    };
    return td_allreduce_create(t->comm, &t->task->oracle, &config, &t->strategy);
}

/* A global batch of job->batch rows comes as `accumulate` batches of the loader. */
td_status td_loop_create_loader(loop *t)
{
    const td_job *job = t->job;
    const int *bounds = td_paces_bounds(t->paces) + td_comm_rank(t->comm);
    td_loader_config config = {
        .data = t->data->train,
        .batch = (size_t)(job->batch / job->accumulate),
        .leaves = job->leaves,
        .leaf_begin = bounds[0],
        .leaf_end = bounds[1],
        .seed = job->seed,
        .shuffle = (td_shuffle)job->shuffle,
        .drop_last = job->drop_last,
        .normalise = t->data->normalise,
        .augment = {job->shift, job->flip, job->crop},
    };
    TD_TRY(td_loader_create(&config, &t->loader));
    uint64_t parts = td_loader_steps_per_epoch(t->loader), n = (uint64_t)job->accumulate;
    t->per_epoch = (parts + n - 1) / n; /* an epoch's last step may have fewer parts */
    t->last = t->per_epoch * (uint64_t)job->epochs;
    if (job->steps && job->steps < t->last) t->last = job->steps;
    return TD_OK;
}

/* To the step that comes next. */
td_status td_loop_seek(loop *t)
{
    uint64_t part = t->state.step % t->per_epoch * (uint64_t)t->job->accumulate;
    return td_loader_seek(t->loader, t->state.step / t->per_epoch, part);
}

static bool keeps_best(const loop *t)
{
    const td_job *job = t->job;
    return t->data->held &&
           (job->keep == 2 || (job->keep == 0 && (job->holdout > 0 || job->patience)));
}

td_status td_loop_create_best(loop *t)
{
    if (t->best || !keeps_best(t)) return TD_OK;
    t->best = td_alloc_aligned(t->task->oracle.params * sizeof *t->best);
    return t->best ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to keep the best model");
}

td_status td_loop_create_waits(loop *t)
{
    td_free(t->waits);
    t->waits = td_calloc((size_t)td_comm_size(t->comm), sizeof *t->waits);
    return t->waits ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for the training loop");
}

/* --- intervals --- */

void td_loop_measure_from_here(loop *t)
{
    t->input_ns = 0;
    t->times_then = td_strategy_times(t->strategy);
    t->bytes_then = td_comm_bytes_sent(t->comm);
    if (t->task->times) t->task->times(t->task->oracle.self, &t->forward_then, &t->backward_then);
}

static void begin_interval(loop *t)
{
    t->interval_begin = td_clock_ns();
    t->loss = t->weight = t->correct = 0;
    t->samples_then = t->state.samples_seen;
    td_loop_measure_from_here(t);
}

static td_status end_interval(loop *t)
{
    td_step_times now = td_strategy_times(t->strategy);
    double forward = 0, backward = 0, wait = now.wait - t->times_then.wait;
    if (t->task->times) t->task->times(t->task->oracle.self, &forward, &backward);
    td_interval i = {
        .step = t->state.step,
        .steps = t->last,
        .epoch = (t->state.step + t->per_epoch - 1) / t->per_epoch,
        .epochs = (t->last + t->per_epoch - 1) / t->per_epoch,
        .loss = t->loss / t->weight,
        .accuracy = t->correct / t->weight,
        .classes = t->task->classes,
        .samples = t->state.samples_seen - t->samples_then,
        .bytes_sent = td_comm_bytes_sent(t->comm) - t->bytes_then,
        .seconds = td_seconds(td_clock_ns() - t->interval_begin),
        .input = td_seconds(t->input_ns),
        .forward = forward - t->forward_then,
        .backward = backward - t->backward_then,
        .wait = wait,
        .move = now.move - t->times_then.move,
        .update = now.update - t->times_then.update,
        .checkpoint = td_seconds(t->checkpoint_ns),
        .lr = td_optim_rate(td_strategy_optim(t->strategy), t->state.step - 1),
        .workers = td_comm_size(t->comm),
        .scores = td_paces_scores(t->paces),
    };
    TD_TRY(td_comm_gather(t->comm, &wait, sizeof wait, t->waits, 0));
    td_status status = TD_OK;
    if (t->first) {
        i.fastest_wait = i.slowest_wait = t->waits[0];
        for (int r = 1; r < i.workers; r++) {
            i.fastest_wait = fmin(i.fastest_wait, t->waits[r]);
            i.slowest_wait = fmax(i.slowest_wait, t->waits[r]);
        }
        double each = i.seconds / (double)t->since;
        t->seconds_a_step = t->seconds_a_step > 0 ? 0.7 * t->seconds_a_step + 0.3 * each : each;
        i.eta = t->seconds_a_step * (double)(t->last - t->state.step);
        status = td_progress_interval(t->progress, &i);
        if (status != TD_OK) { /* the run is worth more than its log */
            td_warn("%s; the run goes on", td_last_error());
            status = TD_OK;
        }
    }
    begin_interval(t);
    t->since = 0;
    t->checkpoint_ns = 0; /* what falls between two intervals counts in the later one */
    return status;
}

/* --- steps --- */

static td_status diverged(const loop *t, const char *what)
{
    return td_train_diverged(t->job, &t->state, what);
}

/* By rank 0's clock, which all ranks follow: --checkpoint-every 5m. */
static bool clock_asks(const loop *t)
{
    uint64_t seconds = t->job->checkpoint_every.seconds;
    return t->first && seconds && td_seconds(td_clock_ns() - t->checkpointed_at) >= (double)seconds;
}

static void note_pace(loop *t, int64_t began, int64_t input_ns, const td_step_times *then)
{
    td_step_times now = td_strategy_times(t->strategy);
    td_pace pace = {0};
    pace.seconds[TD_PHASE_INPUT] = td_seconds(input_ns);
    pace.seconds[TD_PHASE_COMPUTE] = now.compute - then->compute;
    pace.seconds[TD_PHASE_UPDATE] = now.update - then->update;
    pace.seconds[TD_PHASE_CHECKPOINT] = td_seconds(t->held_ns);
    td_paces_step(t->paces, td_seconds(td_clock_ns() - began + t->held_ns),
                  now.wait - then->wait + now.move - then->move, pace);
    t->held_ns = 0;
}

static td_status one_step(loop *t, td_totals *out)
{
    int64_t began = td_clock_ns(), input = t->input_ns;
    td_step_times then = td_strategy_times(t->strategy);
    td_notes notes = {.stop = t->stop && *t->stop,
                      .checkpoint = clock_asks(t),
                      .resize = td_loop_resize_asked(t),
                      .writing = td_saver_writing(t->saver)};
    for (int part = 0; part < t->job->accumulate; part++) {
        const td_batch *b;
        int64_t begin = td_clock_ns();
        TD_TRY(td_loader_next(t->loader, &b));
        t->input_ns += td_clock_ns() - begin;
        td_rows rows = {
            .rows = b->rows,
            .x = b->x,
            .label = b->label,
            .target = b->target,
            .weight = b->weight,
            .sample = b->sample,
            .leaf_row = b->leaf_row,
            .epoch = b->epoch,
            .step = t->state.step + 1,
            .features = td_dataset_info(t->data->train)->features,
        };
        TD_TRY(td_strategy_add(t->strategy, t->task->params, &rows, notes));
        t->state.samples_seen += b->global_rows;
        if (b->last_in_epoch) break;
    }
    TD_TRY(td_strategy_update(t->strategy, t->state.step, t->task->params, out));
    td_comm_record_step(t->comm, t->state.step + 1);
    t->state.step++;
    t->since++;
    t->loss += out->loss, t->weight += out->weight, t->correct += out->correct;
    note_pace(t, began, t->input_ns - input, &then);
    td_loop_take_mark(t, out);
    TD_TRY(td_mishap(t->mishaps, t->comm, t->state.step, "update"));
    return isfinite(out->loss) ? TD_OK : diverged(t, "the loss is");
}

/* The last update may have spoiled parameters that no loss has seen, or rectifiers hide. Before a
 * checkpoint the saver looks. */
static td_status check_params(const loop *t)
{
    if (td_all_finite(t->task->params, t->task->oracle.params)) return TD_OK;
    return diverged(t, "a parameter is");
}

/* --- checkpoints: see saver.h --- */

/* The caller learns of the first one. */
void td_loop_tell_kept(loop *t)
{
    const td_train_hooks *hooks = t->data->hooks;
    if (t->kept || !t->first || !td_saver_count(t->saver)) return;
    t->kept = true;
    if (hooks && hooks->kept) hooks->kept(hooks->user);
}

static bool checkpoint_due(const loop *t, const td_totals *totals)
{
    const td_period *every = &t->job->checkpoint_every;
    if (every->seconds) return totals->any.checkpoint;
    return t->state.step % (every->steps ? every->steps : t->per_epoch) == 0;
}

/* After a step: goes on with the checkpoint under way, and begins one that is due. */
static td_status checkpoint(loop *t, const td_totals *totals, bool last)
{
    int64_t begin = td_clock_ns();
    TD_TRY(td_saver_step(t->saver, totals->any.writing));
    td_loop_tell_kept(t);
    bool due = last || t->owes || checkpoint_due(t, totals);
    if (due && t->on_disk != (int64_t)t->state.step) {
        TD_TRY(td_saver_begin(t->saver, &t->state));
        t->checkpointed_at = begin;
        t->checkpoint = (int64_t)t->state.step;
    }
    t->owes = false;
    t->held_ns += td_clock_ns() - begin;
    t->checkpoint_ns += td_clock_ns() - begin;
    return TD_OK;
}

/* Completes the last one. */
static td_status finish_checkpoints(loop *t)
{
    td_status status = td_saver_finish(t->saver);
    td_loop_tell_kept(t);
    return status;
}

static td_status stopped_by_signal(loop *t)
{
    unsigned long long step = t->state.step;
    td_status status = finish_checkpoints(t);
    if (status == TD_ERR_DIVERGED) return status;
    if (status != TD_OK)
        return td_fail(status, "stopped after step %llu, which has no checkpoint: %s", step,
                       td_last_error());
    return td_fail(TD_ERR_INTERRUPTED,
                   "stopped after step %llu; \"tandem train --run %s --resume\" goes on", step,
                   t->job->run);
}

/* --- paces: see pace.h --- */

static void tell_event(loop *t, const char *name, const char *fields)
{
    if (td_progress_event(t->progress, t->state.step, name, fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
}

static void tell_slow(loop *t, const td_pace_look *look)
{
    char fields[256];
    const char *phase = td_phase_names[look->phase];
    snprintf(fields, sizeof fields, "\"rank\":%d,\"phase\":\"%s\",\"score\":%.3g,\"behind_s\":%.3g",
             look->slow, phase, look->score, look->behind);
    tell_event(t, "slow", fields);
    td_warn("rank %d is slow: its steps take %.1f times the median, %.0f ms more in %s%s",
            look->slow, 1 / look->score, look->behind * 1e3, phase,
            t->job->balance ? "" : "; --balance deals its work to others");
}

static void tell_deal(loop *t)
{
    char fields[2048];
    int ranks = td_comm_size(t->comm);
    const int *bounds = td_paces_bounds(t->paces);
    size_t at = (size_t)snprintf(fields, sizeof fields, "\"leaves\":[");
    for (int r = 0; r < ranks && at + 16 < sizeof fields; r++)
        at += (size_t)snprintf(fields + at, sizeof fields - at, "%s%d", r ? "," : "",
                               bounds[r + 1] - bounds[r]);
    snprintf(fields + at, sizeof fields - at, "]");
    tell_event(t, "balanced", fields);
    td_progress_say(t->progress, "leaves of a batch dealt anew at step %llu: %s",
                    (unsigned long long)t->state.step, strchr(fields, '['));
}

/* Work is dealt by td_paces_bounds from here on. */
static td_status deal_leaves(loop *t)
{
    const int *bounds = td_paces_bounds(t->paces) + td_comm_rank(t->comm);
    int threads = t->job->threads, leaves = bounds[1] - bounds[0];
    td_status status = TD_OK;
    td_loader_destroy(t->loader);
    t->loader = NULL;
    if (t->task->room)
        status = t->task->room(t->task->oracle.self, (leaves + threads - 1) / threads);
    if (status == TD_OK) status = td_loop_create_loader(t);
    if (status == TD_OK) status = td_loop_seek(t);
    TD_TRY(td_comm_agree(t->comm, status));
    return td_strategy_deal(t->strategy, t->comm, td_paces_bounds(t->paces));
}

static td_status look_at_paces(loop *t)
{
    td_pace_look look;
    TD_TRY(td_paces_look(t->paces, &look));
    if (look.slow >= 0 && t->first) tell_slow(t, &look);
    if (!look.deal) return TD_OK;
    TD_TRY(deal_leaves(t));
    if (t->first) tell_deal(t);
    return TD_OK;
}

/* --- evaluations ---
 * One that --eval-every asks for counts: it is compared with the best, and patience waits for it.
 * One that is made only because the run ends here chooses the model, but no checkpoint knows it: a
 * run that goes on is then the longer run to the bit, which would not have evaluated here. */

static bool evaluation_due(const loop *t)
{
    uint64_t every = (uint64_t)t->job->eval_every * t->per_epoch;
    return every && t->state.step % every == 0;
}

static td_status measure(loop *t)
{
    TD_TRY(td_mishap(t->mishaps, t->comm, t->state.step, "evaluate"));
    TD_TRY(td_evaluate(t->comm, t->data->held, t->data->normalise, 512, t->job->leaves, t->task,
                       t->task->params, &t->score));
    TD_TRY(check_params(t));
    if (t->score.weight > 0 && !isfinite(t->score.loss)) {
        char what[64];
        snprintf(what, sizeof what, "the %.40s loss is", t->data->held_name);
        return diverged(t, what);
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
    if (t->best && evaluation_due(t))
        memcpy(t->best, t->task->params, t->task->oracle.params * sizeof *t->best);
}

/* The last evaluation that counted has waited too long for a better loss. */
static bool out_of_patience(const loop *t)
{
    const td_train_state *s = &t->state;
    uint64_t waited = (s->step - s->best_step + t->per_epoch - 1) / t->per_epoch;
    return t->job->patience && s->scored == s->step && waited >= (uint64_t)t->job->patience;
}

static void say_out_of_patience(const loop *t, const char *more)
{
    td_progress_say(t->progress, "stopped: no better %s loss for %d epochs%s", t->data->held_name,
                    t->job->patience, more);
}

static td_status evaluate(loop *t)
{
    TD_TRY(measure(t));
    if (evaluation_due(t)) take_score(t);
    if (!t->first) return TD_OK;
    uint64_t epoch = (t->state.step + t->per_epoch - 1) / t->per_epoch;
    td_status status = td_progress_evaluation(t->progress, epoch, t->state.step, t->data->held_name,
                                              t->score.loss, t->score.accuracy, t->task->classes);
    if (status != TD_OK) td_warn("%s; the run goes on", td_last_error());
    if (out_of_patience(t)) say_out_of_patience(t, "");
    return TD_OK;
}

static td_status save_model(loop *t)
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

static bool is_over(const loop *t)
{
    return t->state.step >= t->last || out_of_patience(t);
}

/* What follows a step. From the mark on, it can be done again. */
static td_status after_step(loop *t)
{
    const td_totals *totals = &t->mark.totals;
    bool end_of_epoch = t->state.step % t->per_epoch == 0, end = t->state.step == t->last;
    if (t->since == t->job->metrics_every || end_of_epoch || end || totals->any.stop)
        TD_TRY(end_interval(t));
    bool stopped = totals->any.stop && !end;
    if (t->data->held && !stopped && (end || evaluation_due(t))) TD_TRY(evaluate(t));
    bool finished = t->state.finished = is_over(t);
    TD_TRY(checkpoint(t, totals, stopped || finished || t->few));
    if (stopped && !finished) return stopped_by_signal(t);
    if (!finished && t->data->held && end_of_epoch) begin_interval(t);
    return TD_OK;
}

/* Says why it is not. */
static td_status has_checkpoint(loop *t)
{
    td_status status = finish_checkpoints(t);
    if (status == TD_ERR_DIVERGED || td_is_loss(status)) return status;
    if (status != TD_OK && t->first)
        td_warn("%s; the run's last step has no checkpoint", td_last_error());
    td_error_clear();
    return TD_OK;
}

static td_status end_run(loop *t)
{
    TD_TRY(has_checkpoint(t));
    if (t->data->held && t->state.scored != t->state.step) {
        if (t->measured != t->state.step) TD_TRY(measure(t));
        take_score(t);
    }
    return save_model(t); /* what counts now */
}

static td_status run(loop *t)
{
    if (t->redo) TD_TRY(after_step(t));
    t->redo = false;
    while (!is_over(t) && !t->few) {
        td_totals totals;
        TD_TRY(one_step(t, &totals));
        if (totals.any.resize && t->state.step < t->last) TD_TRY(td_loop_resize(t));
        if (t->away) return TD_OK;
        TD_TRY(after_step(t));
        if (!is_over(t) && !t->few) TD_TRY(look_at_paces(t));
    }
    if (is_over(t)) return end_run(t);
    TD_TRY(has_checkpoint(t));
    return td_loop_too_few(t);
}

/* A run goes on without a record of its operations where it cannot be written. */
void td_loop_start_recorder(loop *t)
{
    char folder[TD_PATH_MAX], name[32], path[TD_PATH_MAX];
    if (t->recorded) return; /* goes on in other groups */
    t->recorded = true;
    snprintf(name, sizeof name, "rank-%d", td_comm_rank_in_run(t->comm, td_comm_rank(t->comm)));
    if (td_path_join(folder, t->job->run, "recorder") != TD_OK || td_make_dirs(folder) != TD_OK ||
        td_path_join(path, folder, name) != TD_OK || td_comm_record(t->comm, path) != TD_OK)
        td_error_clear();
}

/* Whether what is done so far can be the beginning of a run of this length. */
static td_status check_length(const loop *t)
{
    const td_job *job = t->job;
    const char *schedule = td_optim_schedule_names[job->schedule];
    bool by_steps = job->steps && t->last == job->steps;
    unsigned long long done = t->state.step, total = t->state.total, n = t->per_epoch;
    unsigned long long asked = by_steps ? job->steps : (uint64_t)job->epochs;
    const char *flag = by_steps ? "steps" : "epochs";
    if (t->last < done)
        return td_fail(TD_ERR_ARG,
                       "--%s %llu is less than the %llu that the run has done; give more, or begin "
                       "another run",
                       flag, asked, by_steps ? done : (done + n - 1) / n);
    if (total && total != t->last && td_schedule_needs_total(schedule))
        return td_fail(TD_ERR_ARG,
                       "--%s %llu cannot be changed: --schedule %s was laid out over %llu steps "
                       "(%g epochs) when the run began; begin another run for another length",
                       flag, asked, schedule, total, (double)total / (double)n);
    return TD_OK;
}

/* Goes to the newest whole checkpoint; a run that was killed before its first one begins anew. */
static td_status restore(loop *t)
{
    const uint64_t samples = t->state.samples, per_epoch = t->per_epoch;
    td_status status = t->first ? td_checkpoint_find(t->job, t->task, &t->found) : TD_OK;
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_broadcast(t->comm, &t->found, sizeof t->found, 0));
    if (t->found == TD_CHECKPOINT_NONE) return TD_OK;
    TD_TRY(td_checkpoint_read(t->job, t->task, td_strategy_optim(t->strategy), (uint64_t)t->found,
                              &t->state, t->best));
    if (t->state.samples && (t->state.samples != samples || t->state.per_epoch != per_epoch))
        return td_fail(TD_ERR_DATA,
                       "--data has %llu training samples, %llu steps an epoch, where the run began "
                       "with %llu and %llu; a run goes on with the data that it began with",
                       (unsigned long long)samples, (unsigned long long)per_epoch,
                       (unsigned long long)t->state.samples,
                       (unsigned long long)t->state.per_epoch);
    t->state.samples = samples, t->state.per_epoch = per_epoch;
    return check_length(t);
}

/* All that a step needs, and where the run is. Writes nothing. */
static td_status make_ready(loop *t)
{
    const td_job *job = t->job;
    td_status status = TD_OK;
    status = td_loop_create_waits(t);
    if (status == TD_OK) status = td_paces_create(t->comm, job->leaves, job->balance, &t->paces);
    if (status == TD_OK) status = td_loop_create_loader(t);
    TD_TRY(td_comm_agree(t->comm, status));
    if (job->tuning && *job->tuning) TD_TRY(td_comm_tune(t->comm, job->tuning));
    TD_TRY(td_loop_create_strategy(t));
    status = td_loop_create_best(t);
    if (status == TD_OK)
        status = td_saver_create(t->comm, job, t->task, td_strategy_optim(t->strategy), t->best,
                                 &t->saver);
    TD_TRY(td_comm_agree(t->comm, status));
    t->state.samples = td_dataset_info(t->data->train)->samples;
    t->state.per_epoch = t->per_epoch;
    if (job->resume) status = restore(t);
    t->state.total = t->last;
    if (status == TD_OK && t->state.step < t->last) status = td_loop_seek(t);
    return td_comm_agree(t->comm, status);
}

/* Where a resumed run is. */
static void say_where(const loop *t)
{
    unsigned long long step = t->state.step;
    if (t->found == TD_CHECKPOINT_NONE)
        td_progress_say(t->progress, "no checkpoint yet: the run begins anew at step 0");
    else if (out_of_patience(t))
        say_out_of_patience(t, "; nothing is left to do");
    else if (t->state.step == t->last)
        td_progress_say(t->progress,
                        "the run has finished its %llu steps (%g epochs); nothing is left to do",
                        step, (double)step / (double)t->per_epoch);
    else
        td_progress_say(t->progress, "resumed at step %llu", step);
}

td_status td_loop_create_progress(loop *t)
{
    char metrics[TD_PATH_MAX];
    bool terminal = strcmp(td_comm_transport(t->comm), "mpi") != 0; /* else a launcher's */
    TD_TRY(td_path_join(metrics, t->job->run, "metrics.jsonl"));
    return td_progress_create(metrics, t->job->quiet, t->job->json, terminal, &t->progress);
}

/* Its records, which may be of more ranks, and what it was asked for. */
static td_status forget_earlier_job(const td_job *job)
{
    char recorder[TD_PATH_MAX];
    td_resize_take_back(job->run);
    TD_TRY(td_path_join(recorder, job->run, "recorder"));
    if (td_remove_tree(recorder) != TD_OK) td_error_clear(); /* it can do without */
    return TD_OK;
}

/* The first writing. */
static td_status begin_run(loop *t)
{
    const td_job *job = t->job;
    const td_train_hooks *hooks = t->data->hooks;
    char metrics[TD_PATH_MAX];
    td_status status = TD_OK;
    if (t->first) {
        if (hooks && hooks->begin) status = hooks->begin(hooks->user);
        if (status == TD_OK) status = td_path_join(metrics, job->run, "metrics.jsonl");
        if (status == TD_OK && job->resume) status = td_checkpoint_tidy(job, t->found);
        if (status == TD_OK && job->resume) status = td_progress_rewind(metrics, t->state.step);
        if (status == TD_OK) status = forget_earlier_job(job);
        if (status == TD_OK) status = td_loop_create_progress(t);
    }
    TD_TRY(td_comm_agree(t->comm, status));
    td_loop_start_recorder(t);
    if (t->first && job->resume) say_where(t);
    begin_interval(t);
    td_loop_take_mark(t, &(td_totals){.loss = 0});
    return TD_OK;
}

/* All ranks fail alike: the checkpoint under way is an earlier step's, and is completed. */
static td_status after_divergence(loop *t)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (finish_checkpoints(t) != TD_OK) td_error_clear();
    return td_fail_again(TD_ERR_DIVERGED, sentence);
}

static td_status start(loop *t)
{
    TD_TRY(make_ready(t));
    return begin_run(t);
}

/* Until the run has ended, or this rank is not needed in it. */
static td_status live(loop *t)
{
    bool joined = td_comm_joined(t->comm, td_comm_rank(t->comm));
    td_status status = joined ? td_loop_go_on(t) : start(t);
    if (status == TD_OK) status = run(t);
    while (td_is_loss(status) && !t->over) {
        TD_TRY(td_loop_recover(t, status));
        if (t->away) return TD_OK;
        status = td_loop_go_on(t);
        if (status == TD_OK) status = run(t);
    }
    return status;
}

td_status td_train(td_comm *comm, const td_job *job, const td_train_data *data, const td_task *task,
                   const volatile int *stop)
{
    loop t = {.comm = comm,
              .job = job,
              .data = data,
              .task = task,
              .stop = stop,
              .mishaps = td_mishaps(),
              .first = td_comm_rank(comm) == 0 && !td_comm_joined(comm, 0),
              .found = TD_CHECKPOINT_NONE,
              .checkpoint = TD_CHECKPOINT_NONE,
              .on_disk = TD_CHECKPOINT_NONE,
              .mark = {.most = td_comm_size(comm) + job->spares},
              .checkpointed_at = td_clock_ns()};
    td_status status = live(&t);
    if (status == TD_ERR_DIVERGED) status = after_divergence(&t);
    td_saver_destroy(t.saver);
    td_paces_destroy(t.paces);
    td_progress_destroy(t.progress);
    td_strategy_destroy(t.strategy);
    td_loader_destroy(t.loader);
    td_comm_close(t.stale);
    td_comm_close(t.made);
    td_free(t.best);
    td_free(t.waits);
    return status;
}
