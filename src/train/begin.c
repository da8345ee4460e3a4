/* The training loop's beginning: all that a step needs, where the run is, and the first writing. */
#include "train/loop.h"

#include "base/alloc.h"
#include "base/error.h"
#include "data/dataset.h"
#include "optim/schedule.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

typedef td_loop loop;

/* joins: into a run under way. */
td_status td_loop_create_strategy(loop *t, bool joins)
{
    const td_job *job = t->job;
    td_strategy_config config = {
        .leaves = job->leaves,
        .lanes = job->threads,
        .bucket_bytes = (size_t)job->bucket_kb * 1024,
        .seed = job->seed,
        .shard_optimizer = job->shard_optimizer,
        .empty = joins,
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

void td_loop_start_recorder(loop *t)
{
    td_train_record(t->comm, t->job, &t->recorded);
}

/* Goes to the newest whole checkpoint; a run that was killed before its first one begins anew. */
static td_status restore(loop *t)
{
    const td_train_state here = t->state;
    td_status status = t->first ? td_checkpoint_find(t->job, t->task, &t->found) : TD_OK;
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_broadcast(t->comm, &t->found, sizeof t->found, 0));
    if (t->found == TD_CHECKPOINT_NONE) return TD_OK;
    TD_TRY(td_checkpoint_read(t->job, t->task, td_strategy_shards(t->strategy), (uint64_t)t->found,
                              &t->state, t->best));
    TD_TRY(td_train_check_data(&t->state, &here, t->data->train));
    t->state.samples = here.samples, t->state.per_epoch = here.per_epoch;
    t->state.data = here.data;
    return td_train_check_length(t->job, &t->state, t->last);
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
    TD_TRY(td_train_tune(t->comm, job));
    TD_TRY(td_loop_create_strategy(t, false));
    status = td_loop_create_best(t);
    if (status == TD_OK)
        status = td_saver_create(t->comm, job, t->task, td_strategy_shards(t->strategy), t->best,
                                 &t->saver);
    TD_TRY(td_comm_agree(t->comm, status));
    t->state.samples = td_dataset_info(t->data->train)->samples;
    t->state.data = td_dataset_fingerprint(t->data->train);
    t->state.per_epoch = t->per_epoch;
    TD_TRY(td_train_compare_data(t->comm, &t->state, t->data->train));
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
    else if (td_loop_out_of_patience(t))
        td_loop_say_out_of_patience(t, "; nothing is left to do");
    else if (td_loop_owes_evaluation(t) || td_loop_owes_last_evaluation(t))
        td_progress_say(t->progress, "resumed at step %llu, before its evaluation", step);
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
        if (status == TD_OK && job->resume)
            status = td_progress_rewind(metrics, t->state.step, td_loop_owes_evaluation(t));
        if (status == TD_OK) status = td_train_forget_earlier(job);
        if (status == TD_OK) status = td_loop_create_progress(t);
    }
    TD_TRY(td_comm_agree(t->comm, status));
    td_loop_start_recorder(t);
    if (t->first && job->resume) say_where(t);
    td_loop_begin_interval(t);
    td_loop_take_mark(t, &(td_totals){.loss = 0});
    return TD_OK;
}

td_status td_loop_start(loop *t)
{
    TD_TRY(make_ready(t));
    return begin_run(t);
}
