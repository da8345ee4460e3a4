/* The beginning of a run whose parameters live in tables. See rows.h, rows_loop.h. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "data/dataset.h"
#include "optim/schedule.h"
#include "strategy/mishap.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef td_rows_loop loop;

td_status td_rows_choose_schedule(loop *l)
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

static const char *rule_named(const td_job *job, const char *name)
{
    if (job->strategy == TD_STRATEGY_EASGD) return "sgd"; /* of the centre */
    return !strcmp(name, "sgd") && job->momentum > 0 ? "momentum" : name;
}

const char *td_rows_rule(const td_job *job)
{
    return rule_named(job, job->rule);
}

const char *td_rows_net_rule(const td_job *job)
{
    return rule_named(job, job->net_rule && *job->net_rule ? job->net_rule : job->rule);
}

/* The rate is the schedule's, by td_table_step.rate_factor. */
static td_table_config keyed_config(const loop *l)
{
    const td_job *job = l->job;
    td_table_config t = l->task->keyed;
    t.width = l->task->oracle.width;
    t.rule = td_rows_rule(job);
    t.lr = 1;
    t.momentum = (float)job->momentum;
    t.beta1 = (float)job->beta1, t.beta2 = (float)job->beta2;
    t.epsilon = (float)job->epsilon;
    /* A centre moves by what draws it to the copies, and these decay. */
    t.weight_decay = job->strategy == TD_STRATEGY_EASGD ? 0 : (float)job->weight_decay;
    t.l1 = (float)job->l1, t.l2 = (float)job->l2, t.beta = (float)job->beta;
    t.seed = job->seed;
    t.admit = (uint32_t)job->admit;
    t.memory_bytes = (size_t)job->table_memory;
    return t;
}

static bool has_rule(const char *name)
{
    const char *const *rule = td_table_rule_names;
    while (*rule && strcmp(*rule, name) != 0) rule++;
    return *rule != NULL;
}

static td_status check_options(const loop *l, int size)
{
    const td_job *job = l->job;
    int servers = td_job_servers(job);
    TD_TRY(td_job_check_ranks(job, size));
    int readers = td_job_readers(job), holders = servers - readers;
    if (job->replicas && (holders > 0 ? holders : size - readers) < 2)
        return td_fail(TD_ERR_ARG, "--replicas 1 needs two servers or more, and there is one; give "
                                   "--servers 2");
    if (job->replicas && td_comm_can_recover(l->comm) != TD_OK)
        return td_fail(TD_ERR_UNSUPPORTED,
                       "--replicas 1 is for jobs that go on when a rank dies, and this one cannot: "
                       "start it with tandem run, or mpiexec --with-ft ulfm of Open MPI 5, or "
                       "leave --replicas out");
    if (job->replicas && job->evict_after && !l->exact)
        return td_fail(TD_ERR_ARG, "--evict-after with --replicas 1 is for --clock bsp: at their "
                                   "own pace the two "
                                   "copies of a row would be forgotten at different times");
    if (job->clip > 0)
        return td_fail(TD_ERR_ARG,
                       "--clip: no rank knows the norm of all gradients where parameters live in "
                       "tables");
    if (job->accumulate > 1)
        return td_fail(TD_ERR_ARG, "--accumulate is not for parameters in tables; give a larger "
                                   "--batch");
    bool has = has_rule(td_rows_rule(job));
    if (!has || !has_rule(td_rows_net_rule(job)))
        return td_fail(TD_ERR_ARG,
                       "--%soptimizer %s is for networks whose parameters are not in tables; these "
                       "have sgd (with --momentum or without), adagrad, adam and ftrl",
                       has ? "net-" : "", has ? job->net_rule : job->rule);
    if (l->mode == TD_ROWS_SHARED && l->task->oracle.width && (job->bits < 1 || job->bits > 30))
        return td_fail(TD_ERR_ARG, "--strategy hogwild keeps 2^bits rows: give --bits 1 to 30");
    if (l->mode == TD_ROWS_SHARED && (job->replicas || job->table_memory))
        return td_fail(TD_ERR_ARG,
                       "--strategy hogwild has one copy of its rows, in memory: leave out "
                       "--replicas and --table-memory");
    if (job->keep == 2)
        return td_fail(TD_ERR_ARG, "--keep best: of parameters in tables only the last are kept");
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
                           .evaluate = td_rows_evaluate_pass};
    l->scorer = (td_rows_scorer){.oracle = &t->oracle,
                                 .shape = {.features = t->features,
                                           .data = l->data->held,
                                           .width = t->oracle.width,
                                           .numbers = t->oracle.numbers,
                                           .by_leaf = true,
                                           .pool = l->pool},
                                 .source = {l, td_rows_look_up, l->tables.dense}};
}

td_feed_config td_rows_feed_config(const loop *l)
{
    const td_roles *roles = &l->tables.roles;
    return (td_feed_config){.features = l->task->features,
                            .data = l->data->train,
                            .normalise = l->data->normalise,
                            .in_step = l->exact,
                            .plan = {.samples = td_dataset_info(l->data->train)->samples,
                                     .batch = (uint64_t)l->job->batch,
                                     .leaves = l->job->leaves,
                                     .shuffle = (td_shuffle)l->job->shuffle,
                                     .drop_last = l->job->drop_last,
                                     .seed = l->job->seed},
                            .parts = l->workers,
                            .numbers = l->task->oracle.numbers,
                            .worker = roles->now.own.slot,
                            .workers = roles->now.counts.workers,
                            .worker_rank = roles->worker,
                            .by_name = l->job->strategy == TD_STRATEGY_PS,
                            .server = roles->feeder,
                            .server_count = roles->feeder_count};
}

/* joined: into a run under way, of which the others tell the rest. */
td_status td_rows_open_all(loop *l, bool joined)
{
    const td_job *job = l->job;
    int size = td_comm_size(l->comm), beyond = td_job_servers(job);
    int feeders = td_job_readers(job), servers = beyond - feeders;
    td_rows_tables_config config = {.job = job,
                                    .clock = l->clock,
                                    .net_clock = l->net_clock,
                                    .net_rule = td_rows_net_rule(job),
                                    .mode = l->mode,
                                    .keyed = keyed_config(l),
                                    .params = l->task->oracle.params,
                                    .slots = l->task->oracle.slots,
                                    .slot_count = l->task->oracle.slot_count,
                                    .counts = {.workers = joined ? l->workers : size - beyond,
                                               .servers = servers,
                                               .feeders = feeders},
                                    .reads = !l->data->train->elsewhere};
    l->workers = config.counts.workers;
    td_status status = td_pool_create(job->threads, &l->pool);
    if (!joined && status == TD_OK) status = check_options(l, size);
    if (!joined && status == TD_OK && !l->exact) status = td_rows_check_clocks(l, l->workers);
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
    td_feed_config feed = td_rows_feed_config(l);
    return feeders && !joined ? td_feed_open(l->comm, &feed, &l->feed) : TD_OK;
}

static bool is_held(void *tables, uint64_t key)
{
    return td_rows_holds(tables, TD_ROWS_KEYED, key);
}

/* What tables hold before the first step. Local: each server reads what is its own. */
static td_status fill_tables(loop *l)
{
    const char *path = l->job->rows_from;
    td_table *keyed =
        l->tables.has[TD_ROWS_KEYED] ? td_rows_table(&l->tables, TD_ROWS_KEYED) : NULL;
    if (l->tables.has[TD_ROWS_DENSE]) TD_TRY(td_rows_put_dense(&l->tables, l->task->params));
    if (!path || !*path || !keyed) return TD_OK;
    TD_TRY(td_transfer_check(path));
    if (!td_path_exists(path)) return td_fail(TD_ERR_ARG, "--rows-from: there is no file %s", path);
    td_transfer_want want = {.mine = is_held,
                             .arg = &l->tables,
                             .meaning = l->task->meaning,
                             .bits = l->job->bits};
    l->filled = true;
    return td_transfer_import(keyed, path, &want, &l->taken);
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
    if (found == TD_CHECKPOINT_NONE) return fill_tables(l);
    status = td_checkpoint_path(l->job, (uint64_t)found, path);
    if (status == TD_OK) status = td_checkpoint_open(path, l->job, &l->as_task, &b, &l->state);
    if (status == TD_OK && td_rows_table(&l->tables, TD_ROWS_KEYED))
        td_table_set_clock(td_rows_table(&l->tables, TD_ROWS_KEYED), (uint32_t)l->state.step);
    if (status == TD_OK) status = td_rows_read(&l->tables, &b);
    td_bundle_close(&b);
    if (status == TD_OK) status = td_train_check_data(&l->state, &here, l->data->train);
    l->state.samples = here.samples, l->state.per_epoch = here.per_epoch;
    l->state.data = here.data;
    if (status == TD_OK) status = td_train_check_length(l->job, &l->state, l->last);
    l->first_step = l->state.step;
    td_rows_take_part(l);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) td_sharded_start_at(l->tables.sharded[k], l->state.step);
    if (td_rows_leases(l)) td_feed_start_at(l->feed, l->state.step);
    return status;
}

td_status td_rows_create_progress(loop *l)
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
    if (l->first && status == TD_OK) status = td_train_forget_earlier(l->job);
    if (status == TD_OK) status = td_rows_create_progress(l);
    TD_TRY(td_comm_agree(l->comm, status));
    if (l->progress && l->job->resume)
        td_progress_say(l->progress, "resumed at step %llu", (unsigned long long)l->state.step);
    td_rows_record(l);
    td_rows_begin_interval(l);
    l->checkpointed_at = td_clock_ns();
    td_rows_leave_meeting(l);
    l->done = l->state.step >= l->last;
    l->begun = true;
    return TD_OK;
}

td_status td_rows_start(loop *l)
{
    TD_TRY(td_train_tune(l->comm, l->job));
    TD_TRY(td_rows_open_all(l, false));
    td_status status = td_rows_make_ready(l);
    if (status == TD_OK) status = td_rows_choose_schedule(l);
    l->state.samples = td_dataset_info(l->data->train)->samples;
    l->state.data = td_dataset_fingerprint(l->data->train);
    l->state.per_epoch = l->per_epoch;
    TD_TRY(td_comm_agree(l->comm, status));
    TD_TRY(td_train_compare_data(l->comm, &l->state, l->data->train));
    TD_TRY(td_mishap(l->mishaps, l->comm, 1, "begin"));
    status = l->job->resume ? restore(l) : fill_tables(l);
    l->state.total = l->last;
    TD_TRY(td_comm_agree(l->comm, status));
    if (l->job->rows_from && *l->job->rows_from)
        TD_TRY(td_transfer_compare(l->comm, l->job->rows_from, l->filled, l->taken.hash));
    TD_TRY(td_rows_spread(&l->tables, l->state.step));
    l->ready = true;
    return begin_run(l);
}
