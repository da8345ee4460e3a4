/* The life of a run whose parameters live in tables. See rows.h; rows_begin.c has its beginning,
 * rows_step.c its steps, rows_group.c its life in another group. */
#include "train/rows.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "data/dataset.h"
#include "optim/schedule.h"
#include "strategy/mishap.h"
#include "train/rows_loop.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef td_rows_loop loop;

enum { SENTENCE = 1024, EVALUATE_ROWS = 2048 };

/* --- intervals --- */

void td_rows_begin_interval(loop *l)
{
    l->interval_begin = td_clock_ns();
    l->loss = l->weight = l->correct = 0;
    l->samples_then = l->state.samples_seen;
    l->input_ns = l->pull_ns = l->compute_ns = l->push_ns = 0;
    l->since = 0;
}

void td_rows_tell_interval(loop *l)
{
    const td_rows_interval *of = &l->interval;
    if (!l->progress) return;
    double seconds = td_seconds(td_clock_ns() - l->interval_begin), score = 1;
    td_interval i = {.step = of->step,
                     .steps = l->last,
                     .epoch = (of->step + l->per_epoch - 1) / l->per_epoch,
                     .epochs = (l->last + l->per_epoch - 1) / l->per_epoch,
                     .loss = of->loss / of->weight,
                     .accuracy = of->correct / of->weight,
                     .classes = l->task->classes,
                     .samples = of->samples,
                     .bytes_sent = td_comm_bytes_sent(l->comm),
                     .seconds = seconds,
                     .input = td_seconds(l->input_ns),
                     .forward = td_seconds(l->compute_ns),
                     .move = td_seconds(l->pull_ns),
                     .wait = td_seconds(l->push_ns),
                     .lr = td_schedule_rate(&l->schedule, of->step),
                     .workers = 1,
                     .scores = &score};
    i.eta = seconds / (double)of->steps * (double)(l->last - of->step);
    if (td_progress_interval(l->progress, &i) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
}

/* At all ranks, told or not: any may have to go on as rank 0. A worker that shards are dealt to may
 * make more steps of its own than there are to the next meeting. */
static void end_interval(loop *l)
{
    uint64_t step = l->state.step, most = td_rows_goal(l);
    if (l->since && l->weight > 0) {
        l->interval = (td_rows_interval){.step = step < most ? step : most,
                                         .steps = l->since,
                                         .samples = l->state.samples_seen - l->samples_then,
                                         .loss = l->loss,
                                         .weight = l->weight,
                                         .correct = l->correct};
        td_rows_tell_interval(l);
    }
    td_rows_begin_interval(l);
}

td_status td_rows_after_step(loop *l, const double totals[TD_LEAF_VALUES])
{
    td_comm_record_step(l->comm, l->state.step);
    l->loss += totals[TD_LEAF_LOSS], l->weight += totals[TD_LEAF_WEIGHT];
    l->correct += totals[TD_LEAF_CORRECT];
    l->epoch_loss += totals[TD_LEAF_LOSS], l->epoch_weight += totals[TD_LEAF_WEIGHT];
    l->epoch_correct += totals[TD_LEAF_CORRECT];
    if (!isfinite(totals[TD_LEAF_LOSS])) return td_train_diverged(l->job, &l->state, "the loss is");
    if (++l->since == l->job->metrics_every) end_interval(l);
    return TD_OK;
}

/* --- evaluation --- */

td_status td_rows_look_up(void *self, const uint64_t *keys, size_t count, float *out)
{
    loop *l = self;
    if (!l->looked && l->tables.has[TD_ROWS_DENSE])
        TD_TRY(td_rows_look(&l->tables, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows,
                            l->tables.dense));
    l->looked = true;
    return td_rows_look(&l->tables, TD_ROWS_KEYED, keys, count, out);
}

td_status td_rows_evaluate_pass(void *self, const td_net_pass *pass)
{
    loop *l = self;
    if (!l->task->oracle.width && !l->looked) {
        TD_TRY(td_rows_look(&l->tables, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows,
                            l->tables.dense));
        l->looked = true;
    }
    return td_rows_score(&l->scorer, pass);
}

void td_rows_tell_evaluation(loop *l)
{
    const td_train_state *s = &l->state;
    if (!l->progress) return;
    td_evaluation e = {.epoch = (s->step + l->per_epoch - 1) / l->per_epoch,
                       .step = s->step,
                       .on = l->data->held_name,
                       .loss = l->score.loss,
                       .accuracy = l->score.accuracy,
                       .auc = l->score.auc,
                       .calibration = l->score.calibration,
                       .classes = l->task->classes};
    if (td_progress_evaluation(l->progress, &e) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
}

static td_status evaluate(loop *l)
{
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "evaluate"));
    l->looked = false;
    TD_TRY(td_evaluate(l->comm, l->data->held, l->task->features ? NULL : l->data->normalise,
                       EVALUATE_ROWS, l->job->leaves, &l->as_task, NULL, &l->score));
    td_train_state *s = &l->state;
    s->loss = l->score.loss, s->accuracy = l->score.accuracy, s->scored = s->step;
    if (!isfinite(s->loss)) return td_train_diverged(l->job, s, "the held-out loss is");
    if (!s->has_best || s->loss < s->best_loss) {
        s->has_best = true;
        s->best_loss = s->loss, s->best_accuracy = s->accuracy, s->best_step = s->step;
    }
    td_rows_tell_evaluation(l);
    return TD_OK;
}

/* --- what is kept --- */

/* A failure of the disk costs this checkpoint, at all ranks alike; older ones are whole. */
static td_status without_it(const loop *l, td_status status)
{
    if (status != TD_ERR_IO && status != TD_ERR_FULL) return status;
    if (l->first) td_warn("%s; the run goes on without this checkpoint", td_last_error());
    return TD_OK;
}

static td_status end_checkpoint(loop *l)
{
    char folder[TD_PATH_MAX];
    td_rows_saving *saving = l->saving;
    l->saving = NULL;
    if (!saving) return TD_OK;
    td_status status = td_rows_save_end(saving, l->comm);
    if (status != TD_OK) return without_it(l, status);
    if (!l->first) return TD_OK;
    const td_train_hooks *hooks = l->data->hooks;
    if (!l->kept && hooks && hooks->kept) hooks->kept(hooks->user);
    l->kept = true;
    if (td_path_join(folder, l->job->run, "checkpoints") != TD_OK ||
        td_bundle_prune(folder, "step", l->job->keep_checkpoints) != TD_OK)
        td_warn("%s; older checkpoints stay", td_last_error());
    return TD_OK;
}

/* Copies the tables; files are written while the run goes on. */
static td_status begin_checkpoint(loop *l)
{
    char path[TD_PATH_MAX];
    TD_TRY(end_checkpoint(l));
    l->checkpointed_at = td_clock_ns();
    TD_TRY(td_checkpoint_path(l->job, l->state.step, path));
    td_train_state now = l->state;
    TD_TRY(td_rows_epoch_so_far(l, &now.part));
    json_t *state = l->first ? td_checkpoint_state(l->job, &l->as_task, &now) : NULL;
    td_rows_bundle b = {.folder = path,
                        .kind = "checkpoint",
                        .file = TD_CHECKPOINT_FILE,
                        .state = state,
                        .states = true};
    td_status status =
        l->first && !state ? td_fail(TD_ERR_NOMEM, "no memory for a checkpoint") : TD_OK;
    status = td_comm_agree(l->comm, status);
    if (status == TD_OK) status = td_rows_collect(&l->tables);
    if (status != TD_OK) {
        json_decref(state);
        return status;
    }
    return without_it(l, td_rows_save_begin(&l->tables, &b, &l->saving));
}

bool td_rows_saving_now(const loop *l)
{
    return l->saving && !td_rows_save_done(l->saving);
}

td_status td_rows_all_saved(loop *l)
{
    return end_checkpoint(l);
}

static json_t *metrics_of(const loop *l)
{
    const td_train_state *s = &l->state;
    json_t *m = json_pack("{s:I, s:s}", "step", (json_int_t)s->step, "kept", "last");
    if (!m || !s->has_best) return m;
    json_object_set_new(m, "evaluated_on", json_string(l->data->held_name));
    json_object_set_new(m, "loss", json_real(s->loss));
    if (l->task->classes) json_object_set_new(m, "accuracy", json_real(s->accuracy));
    return m;
}

static td_status save_model(loop *l)
{
    char folder[TD_PATH_MAX];
    TD_TRY(end_checkpoint(l));
    const td_sparse_oracle *o = &l->task->oracle;
    TD_TRY(td_path_join(folder, l->job->run, "model"));
    if (l->tables.has[TD_ROWS_DENSE])
        TD_TRY(td_rows_look(&l->tables, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows,
                            l->tables.dense));
    json_t *metrics = l->first ? metrics_of(l) : NULL;
    td_rows_bundle b = {.folder = folder,
                        .kind = "model",
                        .file = l->task->file,
                        .slots = o->slots,
                        .slot_count = o->slot_count,
                        .params = l->tables.dense};
    if (l->first && metrics) b.state = l->task->manifest(l->task->self, metrics);
    td_status status =
        l->first && !b.state ? td_fail(TD_ERR_NOMEM, "no memory to save the model") : TD_OK;
    status = td_comm_agree(l->comm, status);
    if (status == TD_OK) status = td_rows_collect(&l->tables);
    if (status != TD_OK)
        json_decref(b.state);
    else
        status = td_rows_write(&l->tables, &b);
    json_decref(metrics);
    return status;
}

/* --- a run --- */

/* A server that is asked for a quarter more than its share, and could be for less, once a run. */
static void tell_hot(loop *l, const td_balanced *b)
{
    char fields[128];
    bool hot = b->before * b->servers >= 1.25 && b->after < b->before;
    if (!l->progress || l->told_hot || !hot) return;
    l->told_hot = true;
    snprintf(fields, sizeof fields, "\"rank\":%d,\"hottest\":%.4f,\"balanced\":%.4f,\"servers\":%d",
             b->hottest, b->before, b->after, b->servers);
    if (td_progress_event(l->progress, l->state.step, "hot", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    td_progress_say(l->progress,
                    "rank %d is hot: it answers %.0f %% of what %d servers are asked for; with "
                    "--balance none would answer more than %.0f %%",
                    b->hottest, 100 * b->before, b->servers, 100 * b->after);
}

/* Finds servers that are asked for more than others; with --balance they give slices away, unless
 * nothing follows. */
static td_status cool_down(loop *l, bool end)
{
    int all = 0;
    td_balanced b, hot = {0}; /* of the first table that had a hot server */
    char fields[128];
    for (int k = 0; k < TD_ROWS_TABLES; k++) {
        TD_TRY(td_rows_balance(&l->tables, k, l->job->balance && !end, &b));
        if (!l->job->balance) tell_hot(l, &b);
        if (!hot.moved) hot = b;
        all += b.moved;
    }
    if (!l->progress || !all) return TD_OK;
    snprintf(fields, sizeof fields, "\"slices\":%d,\"hottest\":[%.4f,%.4f]", all, hot.before,
             hot.after);
    if (td_progress_event(l->progress, l->state.step, "balanced", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    td_progress_say(l->progress, "%d slice%s of hot servers %s moved", all, all == 1 ? "" : "s",
                    all == 1 ? "has" : "have");
    return TD_OK;
}

static td_status after_meeting(loop *l)
{
    bool end_of_epoch = l->state.step % l->per_epoch == 0, end = l->state.step == l->last;
    bool stopped = l->stopping && !end, due;
    TD_TRY(td_rows_plan(l, &due));
    if (!due && !end_of_epoch && !end && !stopped) {
        if (l->job->balance) TD_TRY(cool_down(l, false));
        return end_checkpoint(l);
    }
    uint64_t every = (uint64_t)l->job->eval_every * l->per_epoch;
    end_interval(l);
    if (end_of_epoch || end) TD_TRY(td_rows_tell_epoch(l));
    if (l->data->held && !stopped && (end || (every && l->state.step % every == 0)))
        TD_TRY(evaluate(l));
    l->state.finished = end;
    TD_TRY(cool_down(l, end));
    if (due || end || stopped) TD_TRY(begin_checkpoint(l));
    if (end || stopped) TD_TRY(end_checkpoint(l));
    td_rows_begin_interval(l);
    if (!stopped) return TD_OK;
    if (l->few) return td_rows_too_few(l);
    return td_fail(TD_ERR_INTERRUPTED,
                   "stopped after step %llu; \"tandem train --run %s --resume\" goes on",
                   (unsigned long long)l->state.step, l->job->run);
}

static bool out_of_patience(const loop *l)
{
    const td_train_state *s = &l->state;
    uint64_t waited = (s->step - s->best_step + l->per_epoch - 1) / l->per_epoch;
    return l->job->patience && s->scored == s->step && waited >= (uint64_t)l->job->patience;
}

static td_status tell_tables(loop *l)
{
    td_table *t = td_rows_table(&l->tables, TD_ROWS_KEYED);
    td_sharded *paced =
        l->tables.sharded[l->tables.has[TD_ROWS_KEYED] ? TD_ROWS_KEYED : TD_ROWS_DENSE];
    td_table_stats own = {0};
    td_sharded_stats stats = {0};
    uint64_t mine[8 + TD_STALENESS_BINS], all[8 + TD_STALENESS_BINS];
    if (t) td_table_measure(t, &own);
    if (paced) td_sharded_stats_of(paced, &stats);
    const uint64_t some[8] = {own.rows,  own.hits,     own.misses,    own.disk_bytes,
                              own.bytes, stats.pushes, stats.dropped, stats.cached};
    memcpy(mine, some, sizeof some);
    memcpy(mine + 8, stats.reads.reads, sizeof stats.reads.reads);
    TD_TRY(td_comm_allreduce(l->comm, mine, all, 8 + TD_STALENESS_BINS, TD_I64, TD_SUM));
    if (!l->progress) return TD_OK;
    char fields[2048];
    size_t n = (size_t)snprintf(fields, sizeof fields,
                                "\"rows\":%llu,\"hits\":%llu,\"misses\":%llu,\"disk_bytes\":%llu,"
                                "\"memory_bytes\":%llu,"
                                "\"pushes\":%llu,\"dropped\":%llu,\"cached\":%llu,\"staleness\":[",
                                (unsigned long long)all[0], (unsigned long long)all[1],
                                (unsigned long long)all[2], (unsigned long long)all[3],
                                (unsigned long long)all[4], (unsigned long long)all[5],
                                (unsigned long long)all[6], (unsigned long long)all[7]);
    int last = TD_STALENESS_BINS - 1;
    while (last > 0 && !all[8 + last]) last--;
    for (int k = 0; k <= last && paced; k++)
        n += (size_t)snprintf(fields + n, sizeof fields - n, "%s%llu", k ? "," : "",
                              (unsigned long long)all[8 + k]);
    snprintf(fields + n, sizeof fields - n, "]");
    if (td_progress_event(l->progress, l->state.step, "tables", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    if (l->job->table_memory)
        td_progress_say(l->progress,
                        "tables: %llu rows, %.1f %% of reads from memory, %.1f MB on disk",
                        (unsigned long long)all[0],
                        100.0 * (double)all[1] / (double)(all[1] + all[2] + !(all[1] + all[2])),
                        (double)all[3] * 1e-6);
    return TD_OK;
}

/* What follows a meeting may be done again: it is a function of the tables. */
static td_status run(loop *l)
{
    while (!l->done) {
        if (l->midway) {
            TD_TRY(td_rows_resize(l));
            if (l->away) return TD_OK;
            continue;
        }
        if (!l->met) TD_TRY(td_rows_steps(l, l->end));
        if (l->resizing && l->state.step < l->end) {
            TD_TRY(td_rows_resize(l));
            if (l->away) return TD_OK;
            continue;
        }
        l->met = true;
        TD_TRY(after_meeting(l));
        l->done = l->state.step == l->last || out_of_patience(l);
        l->met = false;
        td_rows_leave_meeting(l);
        if (!l->done) TD_TRY(td_rows_look_for_resize(l));
        if (l->away) return TD_OK;
    }
    TD_TRY(save_model(l));
    TD_TRY(tell_tables(l));
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) TD_TRY(td_sharded_finish(l->tables.sharded[k]));
    return td_mishap(l->mishaps, l->comm, l->state.step, "end");
}

/* A loss in what is done here leads through it again. */
static td_status move_and_run(loop *l)
{
    td_status status = td_rows_go_on(l);
    td_comm_close(l->former);
    l->former = NULL;
    return status == TD_OK ? run(l) : status;
}

/* This rank lacks memory, and the others can go on without it. */
static td_status give_way(loop *l, td_status status)
{
    if (status != TD_ERR_NOMEM || !l->tables.roles.now.own.known || !l->begun) return status;
    return td_train_give_way(l->comm, status);
}

static td_status live(loop *l)
{
    l->empty = td_comm_joined(l->comm, td_comm_rank(l->comm));
    td_status status = l->empty ? td_rows_go_on(l) : td_rows_start(l);
    if (status == TD_OK) status = run(l);
    status = give_way(l, status);
    while (td_rows_is_loss(status) && !l->over) {
        TD_TRY(td_rows_recover(l, status));
        if (l->away || l->ended) return TD_OK;
        status = give_way(l, move_and_run(l));
    }
    return status;
}

static void close_loop(loop *l)
{
    td_rows_save_drop(l->saving);
    td_rows_tables_close(&l->tables);
    td_rows_batch_free(&l->batch), td_rows_batch_free(&l->scorer.batch);
    td_rows_batch_free(&l->next), td_rows_ahead_free(&l->ahead);
    td_loader_destroy(l->loader);
    td_feed_close(l->feed);
    td_pool_destroy(l->pool);
    td_progress_destroy(l->progress);
    td_rows_own_free(l->own);
    td_free(l->totals), td_free(l->all_totals), td_free(l->dense_gradient);
    td_free(l->dense_keys), td_free(l->dense_leaf), td_free(l->summed), td_free(l->sum_keys);
    td_comm_close(l->former);
    td_comm_close(l->made);
}

td_status td_rows_clock(const td_job *job, td_clock *out)
{
    td_status status = td_clock_parse(job->clock ? job->clock : "bsp", out);
    return status == TD_OK ? TD_OK : td_fail_within(status, "--");
}

td_status td_rows_check_clocks(const loop *l, int workers)
{
    td_status status = td_clock_check(&l->clock, workers);
    if (status == TD_OK) status = td_clock_check(&l->net_clock, workers);
    return status == TD_OK ? TD_OK : td_fail_within(status, "--");
}

/* In step both tables are; and one that skips late workers' steps would leave the other behind. */
static td_status choose_net_clock(loop *l)
{
    const char *text = l->job->net_clock;
    td_clock *net = &l->net_clock;
    *net = l->clock;
    if (!text || !*text || l->mode != TD_ROWS_PACED) return TD_OK;
    if (td_clock_parse(text, net) != TD_OK)
        return td_fail(TD_ERR_ARG,
                       "--net-clock %s is no clock; there are asp, ssp:BOUND and "
                       "groups:GROUPS:INSIDE:BETWEEN",
                       text);
    if (td_clock_is_exact(net) || net->kind == TD_CLOCK_BACKUP || l->clock.kind == TD_CLOCK_BACKUP)
        return td_fail(TD_ERR_ARG,
                       "--net-clock %s beside --clock %s: two tables may differ among asp, ssp:1 "
                       "and "
                       "up, and groups",
                       text, l->job->clock);
    return TD_OK;
}

td_status td_train_rows(td_comm *comm, const td_job *job, const td_train_data *data,
                        const td_rows_task *task, const volatile int *stop)
{
    loop l = {.comm = comm,
              .job = job,
              .data = data,
              .task = task,
              .stop = stop,
              .mishaps = td_mishaps(),
              .first = td_comm_rank(comm) == 0,
              .checkpointed_at = td_clock_ns(),
              .news = {.step = -1}};
    td_status status = TD_OK;
    if (job->strategy == TD_STRATEGY_PS)
        status = td_rows_clock(job, &l.clock);
    else
        l.clock.kind = TD_CLOCK_BSP;
    l.mode = job->strategy == TD_STRATEGY_HOGWILD ? TD_ROWS_SHARED
             : job->strategy == TD_STRATEGY_DOWNPOUR || job->strategy == TD_STRATEGY_EASGD ||
                     !td_clock_is_exact(&l.clock)
                 ? TD_ROWS_PACED
                 : TD_ROWS_EXACT;
    l.exact = l.mode == TD_ROWS_EXACT;
    if (l.mode == TD_ROWS_PACED && td_clock_is_exact(&l.clock)) l.clock.kind = TD_CLOCK_ASP;
    if (status == TD_OK) status = choose_net_clock(&l);
    l.slow = td_slow_read(td_comm_rank(comm), job->leaves / td_comm_size(comm));
    if (status == TD_OK) status = live(&l);
    char sentence[SENTENCE];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    close_loop(&l);
    return status == TD_OK ? TD_OK : td_fail_again(status, sentence);
}
