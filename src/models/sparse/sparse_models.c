/* Sparse models: their creation, and the walk over a leaf. */
#include "models/sparse/sparse_models.h"

#include "models/sparse/kind.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "nn/loss.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MOST_WIDTH = 1 << 16 /* a table's */, LINE = 16 /* floats */ };

const char *const td_sparse_model_kinds[] = {"linear", "fm", "ffm", "dlrm", NULL};
static const td_sparse_kind *const kinds[] = {&td_sparse_linear, &td_sparse_fm, &td_sparse_ffm,
                                              &td_sparse_dlrm};

/* ---- creation ---- */

static td_status find_kind(const char *name, const td_sparse_kind **out)
{
    for (size_t i = 0; name && i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(name, kinds[i]->name)) {
            *out = kinds[i];
            return TD_OK;
        }
    return td_fail(TD_ERR_ARG,
                   "no model of features is called \"%s\"; there are linear, fm, ffm and dlrm",
                   name ? name : "");
}

static td_status choose_outputs(td_sparse_model *model, const td_sparse_model_config *config)
{
    model->outputs = 1;
    if (model->loss != TD_LOSS_SOFTMAX) return TD_OK;
    if (!model->kind->many_outputs)
        return td_fail(TD_ERR_ARG,
                       "%s has one output, so its loss cannot be softmax: binary and hinge are for "
                       "two classes",
                       model->kind->name);
    if (config->classes < 2)
        return td_fail(TD_ERR_ARG, "softmax needs two classes or more, not %d", config->classes);
    model->outputs = (size_t)config->classes;
    return TD_OK;
}

/* Scratch of the kind, then scores and their gradients of a block. */
static td_status take_lanes(td_sparse_model *model)
{
    size_t block = TD_SPARSE_BLOCK, scores, floats, bytes;
    if (!td_mul(2 * block, model->outputs, &scores) ||
        !td_add(model->scratch, scores + 2 * LINE, &floats) ||
        !td_mul(floats, model->lanes * sizeof(float), &bytes))
        return td_fail(TD_ERR_ARG, "a model of %zu outputs over %zu lanes does not fit in memory",
                       model->outputs, model->lanes);
    model->scratch = (model->scratch + LINE - 1) / LINE * LINE;
    model->lane_floats = (model->scratch + scores + LINE - 1) / LINE * LINE;
    bytes = model->lanes * model->lane_floats * sizeof(float);
    model->lane = td_alloc_aligned(bytes);
    if (!model->lane)
        return td_fail(TD_ERR_NOMEM, "no memory for %zu lanes of %zu floats", model->lanes,
                       model->lane_floats);
    memset(model->lane, 0, bytes);
    return TD_OK;
}

td_status td_sparse_model_create(const td_sparse_model_config *config, td_sparse_model **out)
{
    const td_sparse_kind *kind = NULL;
    TD_TRY(find_kind(config->kind, &kind));
    if ((unsigned)config->loss > TD_LOSS_POISSON)
        return td_fail(TD_ERR_ARG, "loss %d does not exist", (int)config->loss);
    if (config->factors > 4096 || config->fields > 65536 || config->numbers > 65536 ||
        config->lanes > 4096)
        return td_fail(TD_ERR_ARG,
                       "at most 4096 factors, 65536 fields, 65536 numbers and 4096 lanes, not "
                       "%zu, %zu, %zu and %zu",
                       config->factors, config->fields, config->numbers, config->lanes);
    td_sparse_model *model = td_calloc(1, sizeof *model);
    if (!model) return td_fail(TD_ERR_NOMEM, "no memory for a model");
    td_status status = TD_OK;
    model->kind = kind;
    model->loss = config->loss;
    model->factors = config->factors;
    model->fields = config->fields;
    model->lanes = config->lanes ? config->lanes : 1;
    TD_GOTO(choose_outputs(model, config));
    TD_GOTO(kind->setup(model, config));
    if (model->width > MOST_WIDTH) {
        status = td_fail(TD_ERR_ARG,
                         "%s of %zu fields, %zu factors and %zu outputs has %zu weights a key, "
                         "where a row has at most %d",
                         kind->name, model->fields, model->factors, model->outputs, model->width,
                         MOST_WIDTH);
        goto out;
    }
    TD_GOTO(take_lanes(model));
    *out = model;
    model = NULL;
out:
    td_sparse_model_destroy(model);
    return status;
}

void td_sparse_model_destroy(td_sparse_model *model)
{
    if (!model) return;
    td_free(model->lane);
    td_free(model->slots);
    td_dlrm_destroy(model->dlrm);
    td_free(model);
}

void td_sparse_model_init(const td_sparse_model *model, uint64_t seed, float *params)
{
    memset(params, 0, model->params * sizeof *params);
    for (size_t s = 0; s < model->slot_count; s++) {
        const td_slot *slot = &model->slots[s];
        float spread = (float)sqrt(1 / (double)slot->fan_in);
        td_rng rng;
        td_rng_init(&rng, seed, TD_RNG_INIT, s, 0);
        for (size_t i = 0; i < slot->count; i++)
            params[slot->offset + i] = (2 * td_rng_unit(&rng) - 1) * spread;
    }
}

/* ---- a leaf ---- */

static void block(const td_sparse_model *model, float *scratch, const td_sparse_leaf *leaf,
                  size_t begin, size_t end)
{
    size_t outputs = model->outputs, rows = end - begin;
    float *score = scratch + model->scratch, *dscore = score + TD_SPARSE_BLOCK * outputs;
    double values[TD_LEAF_VALUES];
    model->kind->forward(model, scratch, leaf, begin, end, score);
    if (leaf->score) memcpy(leaf->score + begin * outputs, score, rows * outputs * sizeof *score);
    if (!leaf->target) return;
    td_net_pass pass = {.target = leaf->target + begin,
                        .weight = leaf->weight ? leaf->weight + begin : NULL};
    td_loss_rows(model->loss, outputs, &pass, 0, rows, score, leaf->gradient ? dscore : NULL,
                 values);
    for (int v = 0; v < TD_LEAF_VALUES; v++) leaf->totals[v] += values[v];
    if (leaf->gradient) model->kind->backward(model, scratch, leaf, begin, end, dscore);
}

static td_status leaf_of(void *self, int lane, const td_sparse_leaf *leaf)
{
    td_sparse_model *model = self;
    assert(lane >= 0 && (size_t)lane < model->lanes);
    assert(leaf->target || !leaf->gradient);
    assert(!model->params || (leaf->params && (!leaf->gradient || leaf->dense_gradient)));
    memset(leaf->totals, 0, TD_LEAF_VALUES * sizeof *leaf->totals);
    for (size_t begin = 0; begin < leaf->rows; begin += TD_SPARSE_BLOCK) {
        size_t left = leaf->rows - begin;
        block(model, model->lane + (size_t)lane * model->lane_floats, leaf, begin,
              begin + (left < TD_SPARSE_BLOCK ? left : TD_SPARSE_BLOCK));
    }
    return TD_OK;
}

td_sparse_oracle td_sparse_model_oracle(td_sparse_model *model)
{
    return (td_sparse_oracle){
        .self = model,
        .width = model->width,
        .outputs = model->outputs,
        .numbers = model->numbers,
        .params = model->params,
        .slots = model->slots,
        .slot_count = model->slot_count,
        .lanes = model->lanes,
        .leaf = leaf_of,
    };
}
