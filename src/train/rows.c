/* The life of a run whose parameters live in tables. See rows.h; rows_step.c makes its steps. */
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

enum { SENTENCE = 1024, EVALUATE_ROWS = 2048, MOST_ALARMS = 2 };

/* --- intervals --- */

static void begin_interval(loop *l)
{
    l->interval_begin = td_clock_ns();
    l->loss = l->weight = l->correct = 0;
    l->samples_then = l->state.samples_seen;
    l->input_ns = l->pull_ns = l->compute_ns = l->push_ns = 0;
    l->since = 0;
}

static void tell_interval(loop *l)
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

/* At all ranks, told or not: any may have to go on as rank 0. */
static void end_interval(loop *l)
{
    if (l->since && l->weight > 0) {
        l->interval = (td_rows_interval){.step = l->state.step,
                                         .steps = l->since,
                                         .samples = l->state.samples_seen - l->samples_then,
                                         .loss = l->loss,
                                         .weight = l->weight,
                                         .correct = l->correct};
        tell_interval(l);
    }
    begin_interval(l);
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

static td_status look_up(void *self, const uint64_t *keys, size_t count, float *out)
{
    loop *l = self;
    if (!l->looked && l->tables.has[TD_ROWS_DENSE])
        TD_TRY(td_rows_look(&l->tables, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows,
                            l->tables.dense));
    l->looked = true;
    return td_rows_look(&l->tables, TD_ROWS_KEYED, keys, count, out);
}

static td_status evaluate_pass(void *self, const td_net_pass *pass)
{
    loop *l = self;
    if (!l->task->oracle.width && !l->looked) {
        TD_TRY(td_rows_look(&l->tables, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows,
                            l->tables.dense));
        l->looked = true;
    }
    return td_rows_score(&l->scorer, pass);
}

static void tell_evaluation(loop *l)
{
    const td_train_state *s = &l->state;
    if (!l->progress) return;
    td_evaluation e = {.epoch = (s->step + l->per_epoch - 1) / l->per_epoch,
                       .step = s->step,
                       .on = l->data->held_name,
                       .loss = l->score.loss,
                       .accuracy = l->score.accuracy,
                       .auc = l->score.auc,
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
    tell_evaluation(l);
    return TD_OK;
}

/* --- what is kept --- */

static td_status write_checkpoint(loop *l)
{
    char path[TD_PATH_MAX], folder[TD_PATH_MAX];
    TD_TRY(td_checkpoint_path(l->job, l->state.step, path));
    json_t *state = l->first ? td_checkpoint_state(l->job, &l->as_task, &l->state) : NULL;
    td_rows_bundle b = {.folder = path,
                        .kind = "checkpoint",
                        .file = TD_CHECKPOINT_FILE,
                        .state = state,
                        .states = true};
    td_status status = l->first && !state ? td_fail(TD_ERR_NOMEM, "no memory for a checkpoint")
                                          : TD_OK;
    status = td_comm_agree(l->comm, status);
    if (status == TD_OK) status = td_rows_collect(&l->tables);
    if (status == TD_OK) status = td_rows_write(&l->tables, &b);
    json_decref(state);
    if (status == TD_ERR_IO) { /* all alike; a full disk, say: older ones are whole */
        if (l->first) td_warn("%s; the run goes on without this checkpoint", td_last_error());
        return TD_OK;
    }
    TD_TRY(status);
    if (!l->first) return TD_OK;
    const td_train_hooks *hooks = l->data->hooks;
    if (!l->kept && hooks && hooks->kept) hooks->kept(hooks->user);
    l->kept = true;
    if (td_path_join(folder, l->job->run, "checkpoints") != TD_OK ||
        td_bundle_prune(folder, "step", l->job->keep_checkpoints) != TD_OK)
        td_warn("%s; older checkpoints stay", td_last_error());
    return TD_OK;
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
    if (status == TD_OK) status = td_rows_write(&l->tables, &b);
    json_decref(b.state);
    json_decref(metrics);
    return status;
}

/* The step at which all meet next. */
static uint64_t next_meeting(const loop *l)
{
    uint64_t epoch = (l->state.step / l->per_epoch + 1) * l->per_epoch, end = epoch;
    uint64_t every = l->job->checkpoint_every.steps;
    if (every && (l->state.step / every + 1) * every < end)
        end = (l->state.step / every + 1) * every;
    return end < l->last ? end : l->last;
}

/* --- the beginning --- */

static td_status choose_schedule(loop *l)
{
    const td_job *job = l->job;
    l->schedule = (td_optim_config){
        .rule = job->rule,
        .lr = job->lr,
        .schedule = td_optim_schedule_names[job->schedule],
        .warmup = (uint64_t)llround(job->warmup * (double)l->per_epoch),
        .every = (uint64_t)fmax(1, round(job->step_epochs * (double)l->per_epoch)),
        .gamma = job->gamma,
        .total = l->last,
        .final_lr = job->final_lr,
    };
    return td_schedule_check(&l->schedule);
}

/* The rate is the schedule's, by td_table_step.rate_factor. */
static td_table_config keyed_config(const loop *l)
{
    const td_job *job = l->job;
    td_table_config t = l->task->keyed;
    bool momentum = !strcmp(job->rule, "sgd") && job->momentum > 0;
    t.width = l->task->oracle.width;
    t.rule = momentum ? "momentum" : job->rule;
    if (job->strategy == TD_STRATEGY_EASGD) t.rule = "sgd"; /* of the centre */
    t.lr = 1;
    t.momentum = (float)job->momentum;
    t.beta1 = (float)job->beta1, t.beta2 = (float)job->beta2;
    t.epsilon = (float)job->epsilon;
    t.weight_decay = (float)job->weight_decay;
    t.l1 = (float)job->l1, t.l2 = (float)job->l2, t.beta = (float)job->beta;
    t.seed = job->seed;
    t.admit = (uint32_t)job->admit;
    t.memory_bytes = (size_t)job->table_memory;
    return t;
}

static td_status check_options(const loop *l, int size)
{
    const td_job *job = l->job;
    int servers = td_job_servers(job);
    if (servers && size - servers < 1)
        return td_fail(TD_ERR_ARG, "--servers %d leaves no worker of the job's %d ranks", servers,
                       size);
    if (size > job->leaves)
        return td_fail(TD_ERR_ARG,
                       "%d ranks, workers and servers, are more than the %d leaves of a batch; give "
                       "more --leaves",
                       size, job->leaves);
    if (job->replicas && (servers ? servers : size) < 2)
        return td_fail(TD_ERR_ARG, "--replicas 1 needs two servers or more, and there is one");
    if (job->clip > 0)
        return td_fail(TD_ERR_ARG,
                       "--clip: no rank knows the norm of all gradients where parameters live in "
                       "tables");
    if (job->accumulate > 1)
        return td_fail(TD_ERR_ARG, "--accumulate is not for parameters in tables; give a larger "
                                   "--batch");
    if (l->mode == TD_ROWS_SHARED && l->task->oracle.width && (job->bits < 1 || job->bits > 30))
        return td_fail(TD_ERR_ARG, "--strategy hogwild keeps 2^bits rows: give --bits 1 to 30");
    if (l->mode == TD_ROWS_SHARED && (job->replicas || job->table_memory))
        return td_fail(TD_ERR_ARG, "--strategy hogwild has one copy of its rows, in memory: leave out "
                                   "--replicas and --table-memory");
    if (job->keep == 2)
        return td_fail(TD_ERR_ARG, "--keep best: of parameters in tables only the last are kept");
    if (job->l1 > 0 && strcmp(job->rule, "ftrl") != 0)
        return td_fail(TD_ERR_ARG, "--l1 is for --optimizer ftrl");
    return TD_OK;
}

static void make_task(loop *l)
{
    const td_rows_task *t = l->task;
    l->as_task = (td_task){.oracle = {.self = l, .slots = t->oracle.slots},
                           .classes = t->classes,
                           .two = t->two,
                           .sparse = t->features != NULL,
                           .arch = t->arch,
                           .evaluate = evaluate_pass};
    l->scorer = (td_rows_scorer){.oracle = &t->oracle,
                                 .shape = {.features = t->features,
                                           .data = l->data->held,
                                           .width = t->oracle.width,
                                           .numbers = t->oracle.numbers,
                                           .by_leaf = true,
                                           .pool = l->pool},
                                 .source = {l, look_up, l->tables.dense}};
}

/* joined: into a run under way, of which the others tell the rest. */
static td_status open_all(loop *l, bool joined)
{
    const td_job *job = l->job;
    int size = td_comm_size(l->comm), servers = td_job_servers(job);
    td_rows_tables_config config = {.job = job,
                                    .clock = l->clock,
                                    .mode = l->mode,
                                    .keyed = keyed_config(l),
                                    .params = l->task->oracle.params,
                                    .workers = joined ? l->workers : size - servers,
                                    .servers = servers};
    l->workers = config.workers;
    td_status status = td_pool_create(job->threads, &l->pool);
    if (!joined && status == TD_OK) status = check_options(l, size);
    if (!joined && status == TD_OK && !l->exact) status = td_clock_check(&l->clock, l->workers);
    if (!joined) status = td_comm_agree(l->comm, status);
    TD_TRY(status);
    TD_TRY(td_rows_tables_open(l->comm, &config, joined, &l->tables));
    l->shape = (td_rows_shape){.features = l->task->features,
                               .data = l->data->train,
                               .width = l->task->oracle.width,
                               .numbers = l->task->oracle.numbers,
                               .by_leaf = l->exact,
                               .pool = l->pool};
    make_task(l);
    return TD_OK;
}

static td_status restore(loop *l)
{
    int64_t found = TD_CHECKPOINT_NONE;
    char path[TD_PATH_MAX];
    td_bundle b = {0};
    const td_train_state here = l->state;
    td_status status = l->first ? td_checkpoint_find(l->job, &l->as_task, &found) : TD_OK;
    TD_TRY(td_comm_agree(l->comm, status));
    TD_TRY(td_comm_broadcast(l->comm, &found, sizeof found, 0));
    if (found == TD_CHECKPOINT_NONE) {
        TD_TRY(td_rows_put_dense(&l->tables, l->task->params));
        return TD_OK;
    }
    status = td_checkpoint_path(l->job, (uint64_t)found, path);
    if (status == TD_OK) status = td_checkpoint_open(path, l->job, &l->as_task, &b, &l->state);
    if (status == TD_OK) status = td_rows_read(&l->tables, &b);
    td_bundle_close(&b);
    if (status == TD_OK) status = td_train_check_data(&l->state, &here, l->data->train);
    l->state.samples = here.samples, l->state.per_epoch = here.per_epoch;
    l->state.data = here.data;
    if (status == TD_OK && l->last < l->state.step)
        status = td_fail(TD_ERR_ARG, "the run has done %llu steps, more than the %llu that are asked "
                                     "for; give more --epochs",
                         (unsigned long long)l->state.step, (unsigned long long)l->last);
    l->first_step = l->state.step;
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) td_sharded_start_at(l->tables.sharded[k], l->state.step);
    return status;
}

static td_status create_progress(loop *l)
{
    char metrics[TD_PATH_MAX];
    bool terminal = strcmp(td_comm_transport(l->comm), "mpi") != 0;
    if (!l->first || l->progress) return TD_OK;
    TD_TRY(td_path_join(metrics, l->job->run, "metrics.jsonl"));
    return td_progress_create(metrics, l->job->quiet, l->job->json, terminal, &l->progress);
}

static td_status begin_run(loop *l)
{
    const td_train_hooks *hooks = l->data->hooks;
    char path[TD_PATH_MAX];
    td_status status = TD_OK;
    if (l->first && hooks && hooks->begin) status = hooks->begin(hooks->user);
    if (l->first && status == TD_OK) status = td_path_join(path, l->job->run, "metrics.jsonl");
    if (l->first && status == TD_OK && l->job->resume) {
        status = td_checkpoint_tidy(l->job, (int64_t)l->state.step);
        if (status == TD_OK) status = td_progress_rewind(path, l->state.step, false);
    }
    if (status == TD_OK) status = create_progress(l);
    TD_TRY(td_comm_agree(l->comm, status));
    if (l->first && l->job->replicas && td_comm_can_recover(l->comm) != TD_OK) {
        td_warn("--replicas 1 keeps second copies, but this job cannot go on without a rank that dies, "
                "which takes Open MPI 5 and mpiexec --with-ft ulfm: it would have to be resumed from its "
                "newest checkpoint");
        td_error_clear();
    }
    if (l->progress && l->job->resume)
        td_progress_say(l->progress, "resumed at step %llu", (unsigned long long)l->state.step);
    td_train_record(l->comm, l->job, &l->recorded);
    begin_interval(l);
    l->end = next_meeting(l);
    l->done = l->state.step >= l->last;
    l->begun = true;
    return TD_OK;
}

static td_status start(loop *l)
{
    TD_TRY(open_all(l, false));
    td_status status = td_rows_make_ready(l);
    if (status == TD_OK) status = choose_schedule(l);
    l->state.samples = td_dataset_info(l->data->train)->samples;
    l->state.data = td_dataset_fingerprint(l->data->train);
    l->state.per_epoch = l->per_epoch;
    TD_TRY(td_comm_agree(l->comm, status));
    TD_TRY(td_train_compare_data(l->comm, &l->state, l->data->train));
    status = l->job->resume ? restore(l)
             : l->tables.has[TD_ROWS_DENSE] ? td_rows_put_dense(&l->tables, l->task->params)
                                            : TD_OK;
    l->state.total = l->last;
    TD_TRY(td_comm_agree(l->comm, status));
    TD_TRY(td_rows_spread(&l->tables));
    return begin_run(l);
}

/* --- another group --- */

static td_status settle(loop *l, bool joined, uint64_t *made)
{
    uint64_t mine = 0;
    for (int k = 0; k < TD_ROWS_TABLES && l->exact; k++)
        if (l->tables.bulk[k] && td_bulk_made(l->tables.bulk[k]) > mine)
            mine = td_bulk_made(l->tables.bulk[k]);
    TD_TRY(td_comm_allreduce(l->comm, &mine, made, 1, TD_I64, TD_MAX));
    if (joined || !l->exact) return TD_OK;
    if (mine < *made) td_rows_forget(l);
    td_table_step step = {.step = *made ? *made - 1 + l->first_step : 0,
                          .scale = (float)l->scale};
    step.rate_factor = (float)td_schedule_rate(&l->schedule, step.step);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.bulk[k]) TD_TRY(td_bulk_settle(l->tables.bulk[k], *made, step));
    return TD_OK;
}

typedef struct position { /* how far a rank is */
    uint64_t phase, step;
} position;

typedef struct memory { /* what is the same at all that are at one position */
    td_train_state state;
    double loss, weight, correct, epoch_loss, epoch_weight, epoch_correct;
    uint64_t since, samples_then;
    td_rows_interval interval;
    td_score score;
} memory;

/* From the lowest of those that are furthest: scores, and in step the sums of metrics. Others' are
 * older, or empty. */
static td_status share_memory(loop *l, uint64_t phase)
{
    int size = td_comm_size(l->comm), from = 0;
    position own = {phase, phase ? l->state.step : 0};
    position *all = td_calloc((size_t)size, sizeof *all);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %d ranks", size);
    status = td_comm_agree(l->comm, status);
    if (status == TD_OK) status = td_comm_allgather(l->comm, &own, sizeof own, all);
    for (int r = 1; r < size && status == TD_OK; r++)
        if (all[r].phase > all[from].phase ||
            (all[r].phase == all[from].phase && all[r].step > all[from].step))
            from = r;
    td_free(all);
    TD_TRY(status);
    memory m = {l->state, l->loss, l->weight, l->correct, l->epoch_loss, l->epoch_weight,
                l->epoch_correct, l->since, l->samples_then, l->interval, l->score};
    TD_TRY(td_comm_broadcast(l->comm, &m, sizeof m, from));
    uint64_t step = l->state.step;
    l->state = m.state;
    l->state.step = step;
    l->score = m.score;
    if (!l->exact) return TD_OK;
    l->interval = m.interval;
    l->loss = m.loss, l->weight = m.weight, l->correct = m.correct;
    l->epoch_loss = m.epoch_loss, l->epoch_weight = m.epoch_weight;
    l->epoch_correct = m.epoch_correct;
    l->since = m.since, l->samples_then = m.samples_then;
    return TD_OK;
}

/* Where the run is: of who knows, the furthest. */
static td_status agree_on_step(loop *l, bool joined, uint64_t made)
{
    /* Who is in the phase after a meeting knows that all have done what follows it. */
    uint64_t phase = joined ? 0 : 4 * l->end + 2 * l->done + l->met;
    TD_TRY(share_memory(l, phase));
    uint64_t mine[5] = {phase, l->first_step, l->state.samples_seen, l->stopping, 0}, most[5];
    if (joined) memset(mine, 0, sizeof mine);
    TD_TRY(td_comm_allreduce(l->comm, mine, most, 5, TD_I64, TD_MAX));
    bool behind = phase < most[0];
    if (behind && !l->exact && !joined && l->end > l->state.step) l->state.step = l->end;
    l->end = most[0] / 4, l->done = most[0] / 2 % 2, l->met = most[0] % 2;
    if (l->met && !l->exact) l->state.step = l->end;
    l->first_step = most[1];
    l->state.samples_seen = most[2];
    l->stopping = most[3];
    if (l->exact) l->state.step = l->first_step + made;
    for (int k = 0; k < TD_ROWS_TABLES && !l->exact; k++)
        if (l->tables.has[k] && td_sharded_clock(l->tables.sharded[k]) > l->state.step)
            l->state.step = td_sharded_clock(l->tables.sharded[k]);
    return TD_OK;
}

static void tell(loop *l)
{
    char sentence[SENTENCE], fields[SENTENCE], recorder[TD_PATH_MAX];
    int ranks = td_comm_size(l->comm);
    l->news.step = (int64_t)l->state.step;
    l->noticed = 0;
    if (!l->progress) goto out;
    if (td_path_join(recorder, l->job->run, "recorder") != TD_OK) *recorder = 0;
    td_news_fields(&l->news, td_comm_generation(l->comm), ranks, fields, sizeof fields);
    if (td_progress_event(l->progress, l->state.step, "recovered", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    td_news_sentence(&l->news, ranks, recorder, sentence, sizeof sentence);
    td_progress_say(l->progress, "%s", sentence);
out:
    l->news = (td_news){.step = -1};
}

/* Rank 0, new or not: metrics as they are at this step. Of its lines the one before may have written
 * some, or none. */
static td_status go_back(loop *l)
{
    char path[TD_PATH_MAX];
    uint64_t step = l->state.step;
    bool evaluated = l->state.scored == step && step && !l->met;
    bool owes = evaluated || l->met;
    if (l->exact && step) step--, owes = false;
    TD_TRY(td_path_join(path, l->job->run, "metrics.jsonl"));
    td_status status = l->progress ? td_progress_go_back(l->progress, path, step, owes)
                                   : td_progress_rewind(path, step, owes);
    if (status != TD_OK) td_warn("%s; the run goes on", td_last_error());
    td_error_clear();
    TD_TRY(create_progress(l));
    if (l->exact && l->interval.step == l->state.step && l->state.step) tell_interval(l);
    if (evaluated) tell_evaluation(l);
    return TD_OK;
}

/* Joined: behind open_all. Else behind a recovery. */
static td_status go_on(loop *l)
{
    bool lost = false, was_first = l->first, joined = l->empty;
    uint64_t made;
    l->first = td_comm_rank(l->comm) == 0;
    td_status status = settle(l, joined, &made);
    if (status == TD_OK) status = td_rows_tables_move(&l->tables, l->comm, joined, made, &lost);
    l->over = lost;
    if (lost) {
        char sentence[SENTENCE];
        snprintf(sentence, sizeof sentence, "%s", td_last_error());
        return td_fail(status,
                       "%.600s; \"tandem train --run %.200s --resume\" goes on from the newest "
                       "checkpoint",
                       sentence, l->job->run);
    }
    TD_TRY(status);
    l->scorer.source.params = l->tables.dense;
    TD_TRY(td_comm_agree(l->comm, agree_on_step(l, joined, made)));
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "handover"));
    TD_TRY(td_comm_agree(l->comm, td_rows_make_ready(l)));
    if (joined) TD_TRY(choose_schedule(l));
    l->empty = false;
    td_rows_own_free(l->own); /* a copy begins anew */
    l->own = NULL;
    const td_train_hooks *hooks = l->data->hooks;
    if (l->first && !was_first && hooks && hooks->take_over) TD_TRY(hooks->take_over(hooks->user));
    TD_TRY(td_comm_agree(l->comm, l->first ? go_back(l) : TD_OK));
    if (!l->first) {
        td_progress_destroy(l->progress);
        l->progress = NULL;
    }
    td_train_record(l->comm, l->job, &l->recorded);
    if (l->noticed) l->news.seconds = td_seconds(td_clock_ns() - l->noticed);
    TD_TRY(td_news_agree(l->comm, joined ? -1 : (int64_t)l->state.step, &l->news));
    tell(l);
    if (!l->exact) begin_interval(l);
    if (l->pushing && !joined) TD_TRY(td_rows_push_paced(l));
    return TD_OK;
}

/* --- a run --- */

/* Progressive validation: over all workers. */
static td_status tell_epoch(loop *l)
{
    double mine[3] = {l->epoch_loss, l->epoch_weight, l->epoch_correct}, all[3];
    char fields[200];
    memcpy(all, mine, sizeof all);
    if (!l->exact) TD_TRY(td_comm_allreduce(l->comm, mine, all, 3, TD_F64, TD_SUM));
    l->epoch_loss = l->epoch_weight = l->epoch_correct = 0;
    if (!l->progress || !(all[1] > 0)) return TD_OK;
    unsigned long long epoch = (l->state.step + l->per_epoch - 1) / l->per_epoch;
    snprintf(fields, sizeof fields, "\"epoch\":%llu,\"progressive_loss\":%.9g,\"samples\":%.0f", epoch,
             all[0] / all[1], all[1]);
    if (td_progress_event(l->progress, l->state.step, "epoch", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    td_progress_say(l->progress, "epoch %llu: progressive loss %.6f", epoch, all[0] / all[1]);
    return TD_OK;
}

static td_status after_meeting(loop *l)
{
    bool end_of_epoch = l->state.step % l->per_epoch == 0, end = l->state.step == l->last;
    bool stopped = l->stopping && !end;
    uint64_t every = (uint64_t)l->job->eval_every * l->per_epoch;
    end_interval(l);
    if (end_of_epoch || end) TD_TRY(tell_epoch(l));
    if (l->data->held && !stopped && (end || (every && l->state.step % every == 0)))
        TD_TRY(evaluate(l));
    l->state.finished = end;
    uint64_t steps = l->job->checkpoint_every.steps;
    bool due = steps ? l->state.step % steps == 0 : end_of_epoch;
    if (due || end || stopped) TD_TRY(write_checkpoint(l));
    begin_interval(l);
    if (!stopped) return TD_OK;
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
    td_sharded *paced = l->tables.sharded[l->tables.has[TD_ROWS_KEYED] ? TD_ROWS_KEYED : TD_ROWS_DENSE];
    td_table_stats own = {0};
    td_sharded_stats stats = {0};
    uint64_t mine[8 + TD_STALENESS_BINS], all[8 + TD_STALENESS_BINS];
    if (t) td_table_measure(t, &own);
    if (paced) td_sharded_stats_of(paced, &stats);
    const uint64_t some[8] = {own.rows,   own.hits,        own.misses,   own.disk_bytes,
                              own.bytes,  stats.pushes,    stats.dropped, stats.cached};
    memcpy(mine, some, sizeof some);
    memcpy(mine + 8, stats.reads.reads, sizeof stats.reads.reads);
    TD_TRY(td_comm_allreduce(l->comm, mine, all, 8 + TD_STALENESS_BINS, TD_I64, TD_SUM));
    if (!l->progress) return TD_OK;
    char fields[2048];
    size_t n = (size_t)snprintf(
        fields, sizeof fields,
        "\"rows\":%llu,\"hits\":%llu,\"misses\":%llu,\"disk_bytes\":%llu,\"memory_bytes\":%llu,"
        "\"pushes\":%llu,\"dropped\":%llu,\"cached\":%llu,\"staleness\":[",
        (unsigned long long)all[0], (unsigned long long)all[1], (unsigned long long)all[2],
        (unsigned long long)all[3], (unsigned long long)all[4], (unsigned long long)all[5],
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
        td_progress_say(l->progress, "tables: %llu rows, %.1f %% of reads from memory, %.1f MB on disk",
                        (unsigned long long)all[0],
                        100.0 * (double)all[1] / (double)(all[1] + all[2] + !(all[1] + all[2])),
                        (double)all[3] * 1e-6);
    return TD_OK;
}

/* What follows a meeting may be done again: it is a function of the tables. */
static td_status run(loop *l)
{
    while (!l->done) {
        if (!l->met) TD_TRY(td_rows_steps(l, l->end));
        l->met = true;
        TD_TRY(after_meeting(l));
        l->done = l->state.step == l->last || out_of_patience(l);
        l->met = false;
        l->end = next_meeting(l);
    }
    TD_TRY(save_model(l));
    TD_TRY(tell_tables(l));
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) TD_TRY(td_sharded_finish(l->tables.sharded[k]));
    return td_mishap(l->mishaps, l->comm, l->state.step, "end");
}

static td_status recover(loop *l, td_status why)
{
    char sentence[SENTENCE];
    td_recovery report;
    td_comm *next = NULL;
    td_recover_config config = {.on_hang = (td_on_hang)l->job->on_hang};
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (!l->noticed) l->noticed = td_clock_ns();
    if (why == TD_ERR_TIMEOUT) td_warn("%s", sentence);
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "recover"));
    td_status status = td_comm_recover(l->comm, &config, &next, &report);
    if (status == TD_ERR_UNSUPPORTED)
        return td_fail(why,
                       "%.600s; \"tandem train --run %.200s --resume\" goes on from the newest "
                       "checkpoint",
                       sentence, l->job->run);
    TD_TRY(status);
    if (!next) { /* not needed any more */
        l->away = true;
        return TD_OK;
    }
    td_news_add(&l->news, &report);
    if (!l->news.size_before) l->news.size_before = report.size_before;
    l->ended = report.left;
    l->alarms = report.died_count ? 0 : l->alarms + 1;
    td_comm_close(l->former);
    l->former = l->made; /* tables are of it until they have moved */
    l->comm = l->made = next;
    if (l->alarms <= MOST_ALARMS) return TD_OK;
    l->over = true; /* the same at all ranks */
    return td_fail_again(why, sentence);
}

/* Who has come hears how many workers the run began with. */
static td_status join_and_go_on(loop *l)
{
    int mine = l->workers;
    TD_TRY(td_comm_allreduce(l->comm, &mine, &l->workers, 1, TD_I32, TD_MAX));
    if (l->empty && !l->shape.pool) TD_TRY(open_all(l, true));
    return go_on(l);
}

/* A loss in what is done here leads through it again. */
static td_status move_and_run(loop *l)
{
    td_status status = join_and_go_on(l);
    td_comm_close(l->former);
    l->former = NULL;
    return status == TD_OK ? run(l) : status;
}

/* This rank lacks memory, and the others can go on without it. */
static td_status give_way(loop *l, td_status status)
{
    if (status != TD_ERR_NOMEM || !l->tables.roles.known || !l->begun) return status;
    return td_train_give_way(l->comm, status);
}

static td_status live(loop *l)
{
    l->empty = td_comm_joined(l->comm, td_comm_rank(l->comm));
    td_status status = l->empty ? join_and_go_on(l) : start(l);
    if (status == TD_OK) status = run(l);
    status = give_way(l, status);
    while (td_rows_is_loss(status) && !l->over) {
        TD_TRY(recover(l, status));
        if (l->away || l->ended) return TD_OK;
        status = give_way(l, move_and_run(l));
    }
    return status;
}

static void close_loop(loop *l)
{
    td_rows_tables_close(&l->tables);
    td_rows_batch_free(&l->batch), td_rows_batch_free(&l->scorer.batch);
    td_loader_destroy(l->loader);
    td_pool_destroy(l->pool);
    td_progress_destroy(l->progress);
    td_rows_own_free(l->own);
    td_free(l->totals), td_free(l->all_totals), td_free(l->dense_gradient);
    td_free(l->dense_keys), td_free(l->dense_leaf), td_free(l->summed), td_free(l->sum_keys);
    td_comm_close(l->former);
    td_comm_close(l->made);
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
              .news = {.step = -1}};
    td_status status = TD_OK;
    if (job->strategy == TD_STRATEGY_PS)
        status = td_clock_parse(job->clock ? job->clock : "bsp", &l.clock);
    else
        l.clock.kind = TD_CLOCK_BSP;
    l.mode = job->strategy == TD_STRATEGY_HOGWILD  ? TD_ROWS_SHARED
             : job->strategy == TD_STRATEGY_DOWNPOUR ||
                     job->strategy == TD_STRATEGY_EASGD || !td_clock_is_exact(&l.clock)
                 ? TD_ROWS_PACED
                 : TD_ROWS_EXACT;
    l.exact = l.mode == TD_ROWS_EXACT;
    if (l.mode == TD_ROWS_PACED && td_clock_is_exact(&l.clock)) l.clock.kind = TD_CLOCK_ASP;
    l.slow = td_slow_read(td_comm_rank(comm), job->leaves / td_comm_size(comm));
    if (status == TD_OK) status = live(&l);
    char sentence[SENTENCE];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    close_loop(&l);
    return status == TD_OK ? TD_OK : td_fail_again(status, sentence);
}
