/* tandem bench: training speed of a network on random images in memory, and the loss after the
 * last step, by which another program can be held against ours. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "models/net/net_model.h"

#include <stdio.h>

enum { SAMPLES = 8192, SIDE = 28, CLASSES = 10, WARM_UP = 10 };

typedef struct bench {
    td_job job;
    td_dataset *data;
    td_net_model model;
    double rate, loss, wait, move;
} bench;

static td_status make_data(uint8_t **pixels, int32_t **labels, td_dataset **out)
{
    size_t n = (size_t)SAMPLES * SIDE * SIDE;
    *pixels = td_malloc(n);
    *labels = td_malloc(SAMPLES * sizeof **labels);
    if (!*pixels || !*labels) return td_fail(TD_ERR_NOMEM, "no memory for the samples");
    td_rng rng;
    td_rng_init(&rng, 1, TD_RNG_TEST, 0, 0);
    for (size_t i = 0; i < n; i++) (*pixels)[i] = (uint8_t)td_rng_u32(&rng);
    for (int i = 0; i < SAMPLES; i++) (*labels)[i] = (int32_t)td_rng_below(&rng, CLASSES);
    td_arrays arrays = {.samples = SAMPLES,
                        .rank = 3,
                        .shape = {1, SIDE, SIDE},
                        .dtype = TD_DTYPE_U8,
                        .x = *pixels,
                        .label = *labels,
                        .classes = CLASSES};
    return td_dataset_from_arrays(&arrays, out);
}

typedef struct worker {
    const td_net_model *model;
    td_net_lane **lane;
} worker;

static td_status gradient(void *self, int lane, const td_net_pass *pass)
{
    worker *w = self;
    td_net_gradient(w->model->net, w->lane[lane], pass);
    return TD_OK;
}

static td_status measure(td_comm *comm, bench *b, td_strategy *strategy, td_loader *loader,
                         float *params)
{
    uint64_t steps = b->job.steps ? b->job.steps : 200;
    int64_t begin = 0;
    td_step_times then = {0};
    td_totals totals = {0};
    for (uint64_t step = 0; step < WARM_UP + steps; step++) {
        if (step == WARM_UP) {
            TD_TRY(td_comm_barrier(comm));
            begin = td_clock_ns(), then = td_strategy_times(strategy);
        }
        const td_batch *batch;
        TD_TRY(td_loader_next(loader, &batch));
        td_rows rows = {.rows = batch->rows,
                        .x = batch->x,
                        .label = batch->label,
                        .target = batch->target,
                        .weight = batch->weight,
                        .sample = batch->sample,
                        .leaf_row = batch->leaf_row,
                        .epoch = batch->epoch,
                        .step = step + 1,
                        .features = SIDE * SIDE};
        TD_TRY(td_strategy_add(strategy, params, &rows, (td_notes){0}));
        TD_TRY(td_strategy_update(strategy, step, params, &totals));
        TD_TRY(td_strategy_share(strategy, params));
    }
    if (td_comm_rank(comm) != 0) return TD_OK;
    double seconds = td_seconds(td_clock_ns() - begin);
    td_step_times now = td_strategy_times(strategy);
    b->rate = (double)steps * b->job.batch / seconds;
    b->loss = totals.loss / totals.weight;
    b->wait = (now.wait - then.wait) / seconds, b->move = (now.move - then.move) / seconds;
    return TD_OK;
}

static td_status run_rank(td_comm *comm, void *arg)
{
    bench *b = arg;
    const td_job *job = &b->job;
    worker w = {.model = &b->model};
    td_strategy *strategy = NULL;
    td_loader *loader = NULL;
    td_cli_record(comm);
    td_status status = TD_OK;
    size_t n = td_net_params(b->model.net);
    float *params = td_alloc_aligned(n * sizeof *params);
    w.lane = td_calloc((size_t)job->threads, sizeof *w.lane);
    if (!params || !w.lane) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a worker");
        goto out;
    }
    for (int i = 0; i < job->threads; i++)
        TD_GOTO(td_net_lane_create(b->model.net, (size_t)job->batch, true, &w.lane[i]));
    TD_GOTO(td_net_init(b->model.net, NULL, 1, params));
    td_oracle oracle = {.self = &w, .params = n, .gradient = gradient};
    oracle.slots = td_net_slots(b->model.net, &oracle.slot_count);
    td_strategy_config config = {.leaves = job->leaves,
                                 .lanes = job->threads,
                                 .seed = 1,
                                 .optim = {.lr = 0.05, .momentum = 0.9}};
    TD_GOTO(td_allreduce_create(comm, &oracle, &config, &strategy));
    td_loader_config lc = {.data = b->data,
                           .batch = (size_t)job->batch,
                           .leaves = job->leaves,
                           .seed = 1,
                           .normalise = &b->model.normalise};
    td_strategy_leaves(strategy, &lc.leaf_begin, &lc.leaf_end);
    TD_GOTO(td_loader_create(&lc, &loader));
    status = measure(comm, b, strategy, loader, params);
out:
    td_loader_destroy(loader);
    td_strategy_destroy(strategy);
    for (int i = 0; w.lane && i < job->threads; i++) td_net_lane_destroy(w.lane[i]);
    td_free(w.lane);
    td_free(params);
    return status;
}

/* Options of one kind of measurement do nothing in the other. */
static td_status check_options(const td_job *job, const bool *given)
{
    static const char *const of_comm[] = {"tune",       "comm.tuning", "min-bytes", "max-bytes",
                                          "algorithm",  "type",        "op",        "factor",
                                          "registered", NULL},
                             *const of_training[] = {"model.arch",   "train.steps", "train.batch",
                                                     "train.leaves", "threads",     NULL};
    const char *const *others = job->bench_comm ? of_training : of_comm;
    for (; *others; others++) {
        const td_option *row = td_option_by_name(td_job_rows, *others);
        if (!given[row - td_job_rows]) continue;
        return td_fail(TD_ERR_ARG, "--%s does nothing %s --comm", row->flag ? row->flag : row->name,
                       job->bench_comm ? "with" : "without");
    }
    return job->bench_comm ? td_job_check_tuning(job) : TD_OK;
}

td_status td_cmd_bench(int argc, char **argv)
{
    bench b = {0};
    uint8_t *pixels = NULL;
    int32_t *labels = NULL;
    td_status status;
    bool given[128] = {false};
    td_arguments arguments = {.where = TD_JOB_BENCH, .given = given};
    td_cli_answer();
    TD_TRY(td_job_init(&b.job));
    status = td_options_parse(td_job_rows, &b.job, argc, argv, &arguments);
    if (status == TD_OK) status = check_options(&b.job, given);
    if (status != TD_OK || b.job.bench_comm) { /* all ranks that mpiexec started; else one trains */
        status = td_bench_comm(&b.job, status);
        goto out;
    }
    if (td_cli_rank() != 0) goto out;
    TD_GOTO(make_data(&pixels, &labels, &b.data));
    TD_GOTO(td_net_model_create(&b.job, b.data, &b.model));
    TD_GOTO(td_comm_run_local(b.job.workers, NULL, run_rank, &b));
    if (b.job.json)
        printf("{\"samples_per_s\":%.1f,\"wait_share\":%.4f,\"move_share\":%.4f,\"loss\":%.9g}\n",
               b.rate, b.wait, b.move, b.loss);
    else
        printf("%.0f samples/s, %.1f%% waiting, %.1f%% moving, loss %.6f\n", b.rate, 100 * b.wait,
               100 * b.move, b.loss);
out:
    td_net_model_close(&b.model);
    td_dataset_close(b.data);
    td_free(pixels);
    td_free(labels);
    td_options_fini(td_job_rows, &b.job);
    return status;
}
