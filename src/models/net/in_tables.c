/* Networks whose parameters live in tables (--strategy ps): the dense table's leaves are the
 * network's. See models/sparse/sparse_part.h, train/rows.h. */
#include "models/sparse/sparse_part.h"

#include "base/alloc.h"
#include "base/error.h"
#include "models/net/save.h"
#include "tandem/recover.h"

#include <string.h>

typedef struct lanes {
    const td_net *net;
    td_net_lane **lane;
    float **nodes; /* [count] a gradient each, as the network lays it out */
    int count;
    uint64_t seed;
} lanes;

static void lanes_free(lanes *l)
{
    for (int k = 0; k < l->count; k++) {
        if (l->lane) td_net_lane_destroy(l->lane[k]);
        if (l->nodes) td_free(l->nodes[k]);
    }
    td_free(l->lane), td_free(l->nodes);
}

static td_status lanes_make(const td_net *net, const td_job *job, size_t rows, lanes *out)
{
    size_t n = td_net_params(net);
    *out = (lanes){.net = net, .count = job->threads, .seed = job->seed};
    out->lane = td_calloc((size_t)job->threads, sizeof *out->lane);
    out->nodes = td_calloc((size_t)job->threads, sizeof *out->nodes);
    if (!out->lane || !out->nodes)
        return td_fail(TD_ERR_NOMEM, "no memory for %d threads", out->count);
    for (int k = 0; k < out->count; k++) {
        TD_TRY(td_net_lane_create(net, rows, true, &out->lane[k]));
        if (!(out->nodes[k] = td_alloc_aligned(n * sizeof(float))))
            return td_fail(TD_ERR_NOMEM, "no memory for %zu parameters", n);
    }
    return TD_OK;
}

/* The network's own leaf; samples are its numbers. */
static td_status leaf_of(void *self, int lane, const td_sparse_leaf *leaf)
{
    const lanes *l = self;
    size_t range[2] = {0, leaf->rows}, n = td_net_params(l->net);
    const int merges[1] = {0};
    td_net_pass pass = {.params = leaf->params,
                        .rows = leaf->rows,
                        .x = leaf->numbers,
                        .target = leaf->target,
                        .label = leaf->label,
                        .weight = leaf->weight,
                        .sample = leaf->sample,
                        .seed = l->seed,
                        .epoch = leaf->epoch,
                        .leaves = 1,
                        .leaf_row = range,
                        .merges = merges,
                        .nodes = &l->nodes[lane],
                        .leaf_values = leaf->totals};
    if (!leaf->dense_gradient) {
        const float *logits = td_net_evaluate(l->net, l->lane[lane], &pass);
        bool pairs = td_net_outputs(l->net) == 2;
        for (size_t r = 0; leaf->score && r < leaf->rows; r++)
            leaf->score[r] = pairs ? logits[2 * r + 1] - logits[2 * r] : logits[r];
        return TD_OK;
    }
    td_net_gradient(l->net, l->lane[lane], &pass);
    memcpy(leaf->dense_gradient, l->nodes[lane], n * sizeof(float));
    return TD_OK;
}

/* Batch norm keeps running averages of what it sees in a step. */
static td_status check_statistics(const td_net *net, const td_job *job)
{
    bool averages = td_net_averages(net);
    if (averages && (job->strategy == TD_STRATEGY_DOWNPOUR || job->strategy == TD_STRATEGY_EASGD))
        return td_fail(TD_ERR_ARG,
                       "--strategy %s: batch norm's running statistics cannot be pushed as a sum "
                       "of "
                       "several steps; use layer norm, or --strategy ps or allreduce",
                       job->strategy == TD_STRATEGY_EASGD ? "easgd" : "downpour");
    if (averages && job->compensation > 0)
        return td_fail(TD_ERR_ARG, "--compensation: batch norm's running statistics are no "
                                   "gradients; leave it out, or use layer norm");
    return TD_OK;
}

static void warn(const td_comm *comm, const td_job *job, const td_net *net, bool exact)
{
    int workers = td_comm_size(comm) - td_job_servers(job);
    if (td_comm_rank(comm) != 0 || workers < 1) return;
    if (exact)
        td_net_warn_of_small_leaves(net, job->batch / job->leaves);
    else
        td_net_warn_of_small_shares(net, job->batch / workers / job->threads);
}

static json_t *manifest(void *self, json_t *metrics)
{
    return td_net_model_manifest(self, metrics);
}

td_status td_net_train_in_tables(td_comm *comm, const td_job *job, const td_train_data *data,
                                 const td_net_model *m, const volatile int *stop)
{
    lanes l = {0};
    size_t n = td_net_params(m->net), features = td_dataset_info(data->train)->features;
    size_t leaf = ((size_t)job->batch + (size_t)job->leaves - 1) / (size_t)job->leaves;
    td_clock clock;
    td_status status = td_rows_clock(job, &clock);
    bool exact = status == TD_OK && td_clock_is_exact(&clock) && job->strategy == TD_STRATEGY_PS;
    size_t rows = exact ? leaf : (size_t)job->batch;
    bool joined = td_comm_joined(comm, td_comm_rank(comm));
    float *params = td_alloc_aligned(n * sizeof *params);
    if (status == TD_OK && !params)
        status = td_fail(TD_ERR_NOMEM, "no memory for %zu parameters", n);
    if (status == TD_OK) status = check_statistics(m->net, job);
    if (status == TD_OK) status = lanes_make(m->net, job, rows < 512 ? 512 : rows, &l);
    if (status == TD_OK) status = td_net_init(m->net, job->init, job->seed, params);
    status = joined ? td_train_give_way(comm, status) : td_comm_agree(comm, status);
    if (!joined && status == TD_OK) status = td_comm_broadcast(comm, params, n * sizeof *params, 0);
    if (!joined && status == TD_OK) warn(comm, job, m->net, exact);
    td_rows_task task = {.params = params,
                         .classes = td_loss_has_classes(m->loss),
                         .two = td_loss_has_classes(m->loss) && m->classes == 2,
                         .arch = td_net_arch(m->net),
                         .file = "model.safetensors",
                         .self = (void *)(uintptr_t)m,
                         .manifest = manifest};
    task.oracle = (td_sparse_oracle){.self = &l,
                                     .outputs = 1,
                                     .numbers = features,
                                     .params = n,
                                     .lanes = (size_t)job->threads,
                                     .leaf = leaf_of};
    task.oracle.slots = td_net_slots(m->net, &task.oracle.slot_count);
    if (status == TD_OK) status = td_train_rows(comm, job, data, &task, stop);
    lanes_free(&l);
    td_free(params);
    return status;
}
