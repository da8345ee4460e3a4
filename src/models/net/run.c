/* Networks at work: the oracle that the training loop asks, evaluation and prediction. */
#include "models/net/net_model.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "data/dataset.h"
#include "models/net/save.h"
#include "models/sparse/sparse_part.h"
#include "nn/loss.h"
#include "tandem/recover.h"

#include <string.h>
#include <unistd.h>

struct td_net_place {
    const td_net_model *model;
    int lanes;
    bool training;
    size_t rows;      /* of each lane */
    size_t leaf_rows; /* of a leaf of a batch, at most */
    td_net_lane **lane;
    double forward, backward; /* seconds of lanes that have gone, lane 0's */
    td_sparse_oracle oracle;  /* of a model over features */
    td_rows_scorer scorer;
};

td_status td_net_place_create(const td_net_model *model, int lanes, size_t rows, bool training,
                              td_net_place **out)
{
    td_net_place *p = td_calloc(1, sizeof *p);
    td_status status = TD_OK;
    if (!p || !(p->lane = td_calloc((size_t)lanes, sizeof *p->lane))) {
        td_free(p);
        return td_fail(TD_ERR_NOMEM, "no memory for %d threads", lanes);
    }
    p->model = model, p->lanes = lanes, p->rows = rows, p->training = training;
    for (int i = 0; i < lanes && status == TD_OK && model->net; i++)
        status = td_net_lane_create(model->net, rows, training, &p->lane[i]);
    if (status == TD_OK)
        *out = p;
    else
        td_net_place_destroy(p);
    return status;
}

void td_net_place_destroy(td_net_place *p)
{
    if (!p) return;
    for (int i = 0; i < p->lanes; i++) td_net_lane_destroy(p->lane[i]);
    td_sparse_part_scorer_close(&p->scorer);
    td_free(p->lane);
    td_free(p);
}

static td_status gradient(void *self, int lane, const td_net_pass *pass)
{
    td_net_place *p = self;
    td_net_gradient(p->model->net, p->lane[lane], pass);
    return TD_OK;
}

/* Leaf by leaf, in pieces that fit a lane. Totals of pieces are added in order. */
static td_status evaluate(void *self, const td_net_pass *whole)
{
    td_net_place *p = self;
    size_t features = 1;
    for (int d = 0; d < p->model->rank; d++) features *= p->model->shape[d];
    for (int l = 0; l < whole->leaves; l++) {
        double *to = whole->leaf_values + (size_t)l * TD_LEAF_VALUES;
        memset(to, 0, TD_LEAF_VALUES * sizeof *to);
        for (size_t at = whole->leaf_row[l]; at < whole->leaf_row[l + 1];) {
            size_t rows = whole->leaf_row[l + 1] - at, range[2] = {0, 0};
            double values[TD_LEAF_VALUES];
            td_net_pass pass = *whole;
            range[1] = pass.rows = rows < p->rows ? rows : p->rows;
            pass.x += at * features;
            if (pass.label) pass.label += at;
            if (pass.target) pass.target += at;
            if (pass.weight) pass.weight += at;
            pass.sample = NULL;
            pass.leaves = 1, pass.leaf_row = range, pass.leaf_values = values;
            const float *logits = td_net_evaluate(p->model->net, p->lane[0], &pass);
            bool one = p->model->loss != TD_LOSS_SOFTMAX;
            for (size_t r = 0; whole->score && r < pass.rows; r++)
                whole->score[at + r] = one ? logits[r] : logits[2 * r + 1] - logits[2 * r];
            for (int v = 0; v < TD_LEAF_VALUES; v++) to[v] += values[v];
            at += pass.rows;
        }
    }
    return TD_OK;
}

static td_status save(void *self, const float *params, const char *folder, json_t *metrics)
{
    return td_net_model_save(((td_net_place *)self)->model, params, folder, metrics);
}

static void times(void *self, double *forward, double *backward)
{
    const td_net_place *p = self;
    td_net_lane_times(p->lane[0], forward, backward);
    *forward += p->forward, *backward += p->backward;
}

/* Larger lanes in the place of those that there are. */
static td_status room(void *self, int leaves)
{
    td_net_place *p = self;
    size_t rows = (size_t)leaves * p->leaf_rows;
    double forward, backward;
    if (rows <= p->rows) return TD_OK;
    times(p, &forward, &backward);
    p->forward = forward, p->backward = backward;
    for (int i = 0; i < p->lanes; i++) {
        td_net_lane *larger;
        TD_TRY(td_net_lane_create(p->model->net, rows, p->training, &larger));
        td_net_lane_destroy(p->lane[i]);
        p->lane[i] = larger;
    }
    p->rows = rows;
    return TD_OK;
}

static td_task task_of(td_net_place *place, float *params)
{
    const td_net_model *m = place->model;
    td_task task = {
        .oracle = {.self = place, .params = td_net_params(m->net), .gradient = gradient},
        .params = params,
        .classes = td_loss_has_classes(m->loss),
        .two = td_loss_has_classes(m->loss) && m->classes == 2,
        .arch = td_net_arch(m->net),
        .evaluate = evaluate,
        .save = save,
        .times = times,
        .room = room,
    };
    task.oracle.slots = td_net_slots(m->net, &task.oracle.slot_count);
    return task;
}

/* Rows of the largest leaf of what is computed at once. */
static size_t leaf_rows(const td_job *job)
{
    size_t leaves = (size_t)job->leaves, batch = (size_t)(job->batch / job->accumulate);
    return (batch + leaves - 1) / leaves;
}

/* Rows of the largest share of a batch that one lane of this rank computes. */
static size_t lane_rows(const td_job *job, int size)
{
    size_t leaves = (size_t)job->leaves;
    size_t most_leaves = (leaves + (size_t)size - 1) / (size_t)size;
    if (job->threads > 1)
        most_leaves = (most_leaves + (size_t)job->threads - 1) / (size_t)job->threads;
    return most_leaves * leaf_rows(job);
}

/* What the system would promise and not have: parameters, their nodes, the sum, the rule's state
 * (two at most) and a checkpoint's copy, and four batches, of all ranks of this machine. */
static td_status check_memory(const td_comm *comm, const td_job *job, const td_net *net,
                              size_t rows, const td_data_info *data)
{
    double ranks = td_comm_local_size(comm), lanes = job->threads;
    double params = (double)td_net_params(net) * sizeof(float);
    double most = (double)rows * lanes, samples = (double)data->samples; /* of a batch */
    double batch = (most < samples ? most : samples) * (double)data->features * sizeof(float);
    double need = ranks * (params * (lanes + 3) + 4 * batch) + 4 * params;
    double have = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    if (need <= have || have <= 0) return TD_OK;
    return td_fail(TD_ERR_NOMEM,
                   "a model of %zu parameters on %zu inputs needs %.1f GB with %d workers on this "
                   "machine, which has %.1f GB",
                   td_net_params(net), data->features, need * 1e-9, (int)ranks, have * 1e-9);
}

td_status td_net_model_train(td_comm *comm, const td_job *job, const td_train_data *data,
                             const td_net_model *model, const volatile int *stop)
{
    if (model->sparse) return td_sparse_part_train(comm, job, data, model, stop);
    if (job->strategy != TD_STRATEGY_ALLREDUCE)
        return td_net_train_in_tables(comm, job, data, model, stop);
    td_net_place *place = NULL;
    size_t n = td_net_params(model->net), rows = lane_rows(job, td_comm_size(comm));
    bool joined = td_comm_joined(comm, td_comm_rank(comm)); /* the others are on their way */
    td_status status = check_memory(comm, job, model->net, rows, td_dataset_info(data->train));
    TD_TRY(joined ? td_train_give_way(comm, status) : td_comm_agree(comm, status));
    if (!joined && td_comm_rank(comm) == 0)
        td_net_warn_of_small_leaves(model->net, job->batch / job->accumulate / job->leaves);
    float *params = td_alloc_aligned(n * sizeof *params);
    if (!params) status = td_fail(TD_ERR_NOMEM, "no memory for %zu parameters", n);
    if (status == TD_OK) status = td_net_place_create(model, job->threads, rows, true, &place);
    if (status == TD_OK) place->leaf_rows = leaf_rows(job);
    if (status == TD_OK) status = td_net_init(model->net, job->init, job->seed, params);
    status = joined ? td_train_give_way(comm, status) : td_comm_agree(comm, status);
    /* The C library's logarithm and cosine decide normal initial values: one rank's for all. */
    if (!joined && status == TD_OK) status = td_comm_broadcast(comm, params, n * sizeof *params, 0);
    if (status != TD_OK) goto out;
    td_task task = task_of(place, params);
    status = td_train(comm, job, data, &task, stop);
out:
    td_net_place_destroy(place);
    td_free(params);
    return status;
}

td_status td_net_model_score(td_comm *comm, const td_job *job, const td_dataset *data,
                             const td_net_model *model, td_score *out)
{
    if (model->sparse) return td_sparse_part_score(comm, job, data, model, out);
    td_net_place *place = NULL;
    td_status status = td_net_place_create(model, 1, 32, false, &place);
    TD_GOTO(td_comm_agree(comm, status));
    td_task task = task_of(place, model->params);
    status =
        td_evaluate(comm, data, &model->normalise, 512, job->leaves, &task, model->params, out);
out:
    td_net_place_destroy(place);
    return status;
}

td_status td_net_model_predict(const td_net_model *model, td_net_place *place,
                               const td_dataset *data, uint64_t begin, size_t n, float *x,
                               float *out)
{
    size_t features = td_dataset_info(data)->features, outputs = td_net_model_outputs(model);
    if (model->sparse) {
        if (!place->scorer.oracle)
            TD_TRY(td_sparse_part_scorer(model, data, &place->oracle, &place->scorer));
        TD_TRY(td_rows_predict(&place->scorer, begin, n, x, out));
        td_loss_probabilities(model->loss, outputs, n, out);
        return TD_OK;
    }
    for (size_t r = 0; r < n; r++)
        td_dataset_row_as(data, &model->normalise, begin + r, x + r * features);
    td_net_pass pass = {.params = model->params, .rows = n, .x = x};
    memcpy(out, td_net_evaluate(model->net, place->lane[0], &pass), n * outputs * sizeof *out);
    td_net_probabilities(model->net, n, out);
    return TD_OK;
}
