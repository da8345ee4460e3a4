/* See train.h. The loop's steps and what follows them; begin.c and score.c have its beginning and
 * its evaluations, recover.c its life in another group. */
#include "train/train.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "strategy/mishap.h"
#include "train/loop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef td_loop loop;

/* --- intervals --- */

void td_loop_measure_from_here(loop *t)
{
    t->input_ns = 0;
    t->times_then = td_strategy_times(t->strategy);
    t->bytes_then = td_comm_bytes_sent(t->comm);
    if (t->task->times) t->task->times(t->task->oracle.self, &t->forward_then, &t->backward_then);
}

void td_loop_begin_interval(loop *t)
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
        .lr = td_shards_rate(td_strategy_shards(t->strategy), t->state.step - 1),
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
    td_loop_begin_interval(t);
    t->since = 0;
    t->checkpoint_ns = 0; /* what falls between two intervals counts in the later one */
    return status;
}

/* --- steps --- */

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
    TD_TRY(td_strategy_share(t->strategy, t->task->params));
    return isfinite(out->loss) ? TD_OK : td_loop_diverged(t, "the loss is");
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

static bool is_over(const loop *t)
{
    return t->state.step >= t->last || td_loop_out_of_patience(t);
}

/* *left: asked to stop meanwhile; the run is one that was stopped before it. */
static td_status evaluate(loop *t, bool *left)
{
    td_status status = td_loop_evaluate(t);
    *left = status == TD_ERR_INTERRUPTED;
    return *left ? TD_OK : status;
}

/* What follows a step. From the mark on, it can be done again. */
static td_status after_step(loop *t)
{
    const td_totals *totals = &t->mark.totals;
    bool end_of_epoch = t->state.step % t->per_epoch == 0, end = t->state.step == t->last;
    if (t->since == t->job->metrics_every || end_of_epoch || end || totals->any.stop)
        TD_TRY(end_interval(t));
    bool stopped = totals->any.stop && !end, left = false;
    if (t->data->held && !stopped && (end || td_loop_evaluation_due(t))) TD_TRY(evaluate(t, &left));
    bool finished = t->state.finished = !left && is_over(t);
    TD_TRY(checkpoint(t, totals, stopped || left || finished || t->few));
    if ((stopped || left) && !finished) return stopped_by_signal(t);
    if (!finished && t->data->held && end_of_epoch) td_loop_begin_interval(t);
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
    td_status status = td_loop_score_the_end(t);
    if (status == TD_ERR_INTERRUPTED) return stopped_by_signal(t);
    TD_TRY(status);
    TD_TRY(td_loop_save_model(t)); /* what counts now */
    return td_mishap(t->mishaps, t->comm, t->state.step, "end");
}

static td_status run(loop *t)
{
    bool left = false;
    if (t->redo)
        TD_TRY(after_step(t));
    else if (td_loop_owes_evaluation(t) || td_loop_owes_last_evaluation(t))
        TD_TRY(evaluate(t, &left));
    if (left) return stopped_by_signal(t);
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

/* All ranks fail alike: the checkpoint under way is an earlier step's, and is completed. */
static td_status after_divergence(loop *t)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (finish_checkpoints(t) != TD_OK) td_error_clear();
    return td_fail_again(TD_ERR_DIVERGED, sentence);
}

td_status td_train_give_way(td_comm *comm, td_status status)
{
    char sentence[1024];
    int rank = td_comm_rank_in_run(comm, td_comm_rank(comm));
    if (status != TD_ERR_NOMEM || td_comm_size(comm) < 2) return status;
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (td_comm_can_recover(comm) != TD_OK) return td_fail_again(status, sentence);
    td_warn("rank %d leaves the run: %s", rank, sentence);
    fflush(stdout);
    td_comm_die(comm);
    return td_fail(TD_ERR_PEER, "rank %d has left the run: %s", rank, sentence);
}

/* A call of this rank's own has failed. In the first step all are likely to lack memory, each by
 * itself: that is a job that is too large. What this rank still writes is written before the others
 * notice. */
static td_status give_way(loop *t, td_status status)
{
    bool begun = t->mark.made || td_comm_joined(t->comm, td_comm_rank(t->comm));
    if (status != TD_ERR_NOMEM || !begun || t->over) return status;
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (td_comm_size(t->comm) > 1 && td_comm_can_recover(t->comm) == TD_OK) {
        td_saver_destroy(t->saver);
        td_progress_destroy(t->progress);
        t->saver = NULL, t->progress = NULL;
    }
    return td_train_give_way(t->comm, td_fail_again(status, sentence));
}

/* The same where all may have agreed on the failure: who brought it gives way to the others. */
static td_status agreed_or_own(loop *t, td_status status)
{
    if (status != TD_ERR_NOMEM && !td_is_loss(status)) return status;
    td_agreement agreed = td_comm_agreement(t->comm);
    char sentence[1024];
    if (!agreed.alike || agreed.status != status) return give_way(t, status);
    if (status == TD_ERR_NOMEM && agreed.alike == td_comm_size(t->comm)) return status;
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (agreed.mine == TD_ERR_NOMEM) return give_way(t, td_fail_again(TD_ERR_NOMEM, sentence));
    if (status != TD_ERR_NOMEM || td_comm_can_recover(t->comm) != TD_OK || !t->mark.made)
        return td_fail_again(status, sentence);
    return td_fail(TD_ERR_PEER, "a rank lacks memory: %.1000s", sentence);
}

/* Until the run has ended, or this rank is not needed in it. */
static td_status live(loop *t)
{
    bool joined = td_comm_joined(t->comm, td_comm_rank(t->comm));
    td_status status = joined ? td_loop_go_on(t) : td_loop_start(t);
    if (status == TD_OK) status = run(t);
    if (!t->away) status = agreed_or_own(t, status);
    while (td_is_loss(status) && !t->over) {
        TD_TRY(give_way(t, td_loop_recover(t, status)));
        if (t->away || t->ended) return TD_OK;
        status = td_loop_go_on(t);
        if (status == TD_OK) status = run(t);
        if (!t->away) status = agreed_or_own(t, status);
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
