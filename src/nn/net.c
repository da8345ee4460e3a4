/* Networks: creation, memory plans, and the two passes.
 *
 * A lane's memory, in floats, for R rows: activations [value][R][size] (layers in place share their
 * input's), keeps [layer], gradient buffers [number][R][largest], one scratch for all layers.
 * Gradient buffers are given out going backward and taken back when their value's producer is
 * done, so a chain of layers needs two or three of them. */
#include "nn/net.h"

#include "nn/internal.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

/* Makes room for one more element of an array that grows by doubling. */
static bool grow(void **array, size_t count, size_t *room, size_t size)
{
    if (count < *room) return true;
    size_t more = *room ? *room * 2 : 16;
    void *larger = td_reallocarray(*array, more, size);
    if (!larger) return false;
    *array = larger;
    *room = more;
    return true;
}

static bool add_value(td_net *net, td_shape shape, int producer)
{
    size_t room = (size_t)net->value_room;
    void *values = net->values;
    if (!grow(&values, (size_t)net->value_count, &room, sizeof *net->values)) return false;
    net->values = values;
    net->value_room = (int)room;
    net->values[net->value_count++] =
        (td_value){.shape = shape, .producer = producer, .gradient = -1};
    return true;
}

int td_net_add_slot(td_net *net, td_layer *layer, const td_slot *wanted)
{
    void *slots = net->slots;
    if (!grow(&slots, net->slot_count, &net->slot_room, sizeof *net->slots)) return -1;
    net->slots = slots;
    td_slot *slot = &net->slots[net->slot_count];
    *slot = *wanted;
    /* "3.dense" and "weight" make "3.weight"; a block's "3.conv1" makes "3.conv1.weight". */
    char prefix[TD_SLOT_NAME];
    snprintf(prefix, sizeof prefix, "%s", layer->name);
    char *dot = strchr(prefix, '.');
    if (dot && !strcmp(dot + 1, layer->ops->name)) *dot = 0;
    snprintf(slot->name, sizeof slot->name, "%.40s.%.20s", prefix, wanted->name);
    slot->count = 1;
    for (int i = 0; i < slot->rank; i++)
        if (!td_mul(slot->count, slot->shape[i], &slot->count)) return -1;
    if (slot->count > (size_t)1 << 40) return -1;
    slot->offset = net->params;
    net->params += (slot->count + 15) & ~(size_t)15;
    if (layer->slots++ == 0) layer->slot = (int)net->slot_count;
    return (int)net->slot_count++;
}

td_status td_net_append(td_net *net, const td_layer *wanted, int in, int in2, int *out)
{
    void *layers = net->layers;
    size_t room = (size_t)net->layer_room;
    if (!grow(&layers, (size_t)net->layer_count, &room, sizeof *net->layers))
        return td_fail(TD_ERR_NOMEM, "no memory for layer %s", wanted->name);
    net->layers = layers;
    net->layer_room = (int)room;
    td_layer *layer = &net->layers[net->layer_count];
    *layer = *wanted;
    layer->index = net->layer_count;
    layer->in = in, layer->in2 = in2;
    layer->input = net->values[in].shape;
    if (in2 >= 0) layer->input2 = net->values[in2].shape;
    TD_TRY(layer->ops->setup(net, layer));
    if (!add_value(net, layer->shape, net->layer_count))
        return td_fail(TD_ERR_NOMEM, "no memory for layer %s", layer->name);
    layer->out = net->value_count - 1;
    td_value *value = &net->values[layer->out];
    value->trained = layer->slots > 0 || net->values[in].trained;
    net->values[in].readers++;
    if (in2 >= 0) {
        value->trained |= net->values[in2].trained;
        net->values[in2].readers++;
    }
    net->layer_count++;
    *out = layer->out;
    return TD_OK;
}

static void plan_activations(td_net *net)
{
    size_t at = 0;
    for (int i = 0; i < net->layer_count; i++) {
        td_layer *layer = &net->layers[i];
        td_value *in = &net->values[layer->in], *out = &net->values[layer->out];
        layer->slots_of_net = net->slots;
        td_layer *producer = in->producer >= 0 ? &net->layers[in->producer] : NULL;
        layer->overwrites =
            layer->ops->in_place && producer && in->readers == 1 && !producer->ops->needs_output;
        if (layer->overwrites) {
            out->at = in->at;
            if (!strcmp(layer->ops->name, "relu") && !strcmp(producer->ops->name, "dense"))
                producer->relu = layer->fused = true;
        } else {
            out->at = at;
            at += td_shape_size(out->shape);
        }
    }
    net->activations = at;
}

enum { MOST_BUFFERS = 64, MOST_VALUES = 1024 };

static int take_buffer(td_net *net, bool busy[MOST_BUFFERS])
{
    for (int b = 0; b < MOST_BUFFERS; b++) {
        if (busy[b]) continue;
        busy[b] = true;
        if (b >= net->gradients) net->gradients = b + 1;
        return b;
    }
    return -1;
}

/* Buffer 0 stays free: it takes gradients that must be added to another reader's. */
static td_status plan_gradients(td_net *net)
{
    bool busy[MOST_BUFFERS] = {true};
    if (net->value_count > MOST_VALUES)
        return td_fail(TD_ERR_ARG, "the architecture has %d layers; at most %d are possible",
                       net->layer_count, MOST_VALUES - 1);
    net->gradients = 1;
    for (int v = 1; v < net->value_count; v++) {
        size_t size = td_shape_size(net->values[v].shape);
        if (size > net->gradient_floats) net->gradient_floats = size;
    }
    net->values[net->value_count - 1].gradient = take_buffer(net, busy);
    for (int i = net->layer_count - 1; i >= 0; i--) {
        td_layer *layer = &net->layers[i];
        int inputs[2] = {layer->in, layer->in2}, own = net->values[layer->out].gradient;
        bool handed_on = false;
        if (own < 0) continue;
        for (int k = 0; k < 2; k++) {
            if (inputs[k] < 0 || !net->values[inputs[k]].trained) continue;
            td_value *in = &net->values[inputs[k]];
            if (in->gradient >= 0) continue;
            if (layer->overwrites) {
                in->gradient = own;
                handed_on = true;
            } else {
                in->gradient = take_buffer(net, busy);
            }
            if (in->gradient < 0)
                return td_fail(TD_ERR_ARG, "the architecture nests too deeply at %s", layer->name);
        }
        if (!handed_on) busy[own] = false;
    }
    return TD_OK;
}

td_status td_net_create(const td_net_config *config, td_net **out)
{
    td_status status;
    const char *preset = config->arch ? td_net_preset(config->arch) : NULL;
    const char *arch = preset ? preset : config->arch;
    if (!arch) return td_fail(TD_ERR_ARG, "no architecture given");
    if (!config->channels || !config->height || !config->width)
        return td_fail(TD_ERR_ARG, "samples without features: %zux%zux%zu", config->channels,
                       config->height, config->width);
    td_net *net = td_calloc(1, sizeof *net);
    if (!net) return td_fail(TD_ERR_NOMEM, "no memory for a network");
    net->loss = config->loss;
    net->arch = td_strdup(arch);
    td_shape in = {config->height, config->width, config->channels,
                   config->height == 1 && config->width == 1};
    if (!net->arch || !add_value(net, in, -1)) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a network");
        goto out;
    }
    TD_GOTO(td_arch_build(net, config));
    plan_activations(net);
    TD_GOTO(plan_gradients(net));
    *out = net;
    return TD_OK;
out:
    td_net_destroy(net);
    return status;
}

void td_net_destroy(td_net *net)
{
    if (!net) return;
    td_free(net->layers);
    td_free(net->values);
    td_free(net->slots);
    td_free(net->arch);
    td_free(net);
}

size_t td_net_params(const td_net *net)
{
    return net->params;
}

const td_slot *td_net_slots(const td_net *net, size_t *out_count)
{
    *out_count = net->slot_count;
    return net->slots;
}

size_t td_net_outputs(const td_net *net)
{
    return td_shape_size(net->values[net->value_count - 1].shape);
}

const char *td_net_arch(const td_net *net)
{
    return net->arch;
}

/* --- lanes --- */

struct td_net_lane {
    size_t max_rows;
    bool training;
    size_t floats;
    void *block; /* all of the below */
    float *activations, *keeps, *gradients, *scratch;
    size_t *keep_at; /* [layers] */
    int64_t forward_ns, backward_ns;
};

static size_t up16(size_t n)
{
    return (n + 15) & ~(size_t)15;
}

td_status td_net_lane_create(const td_net *net, size_t max_rows, bool training, td_net_lane **out)
{
    td_net_lane *lane = td_calloc(1, sizeof *lane);
    size_t *keep_at = td_calloc((size_t)net->layer_count, sizeof *keep_at);
    if (!lane || !keep_at) goto nomem;
    lane->max_rows = max_rows;
    lane->training = training;
    lane->keep_at = keep_at;
    size_t keeps = 0, scratch = 0;
    for (int i = 0; i < net->layer_count; i++) {
        const td_layer *layer = &net->layers[i];
        keep_at[i] = keeps;
        if (layer->ops->keep) keeps += up16(layer->ops->keep(layer, max_rows));
        size_t s = layer->ops->scratch ? layer->ops->scratch(layer, max_rows) : 0;
        if (s > scratch) scratch = s;
    }
    size_t activations, gradients;
    if (!td_mul(net->activations, max_rows, &activations) ||
        !td_mul(net->gradient_floats * (size_t)net->gradients, max_rows, &gradients))
        goto nomem;
    /* Kernels may read a little beyond what they use: 64 floats behind each part. */
    activations = up16(activations + TD_CONV_SLACK), keeps = up16(keeps + TD_CONV_SLACK);
    gradients = training ? up16(gradients + TD_CONV_SLACK) : 0;
    scratch = up16(scratch + TD_CONV_SLACK);
    lane->floats = activations + keeps + gradients + scratch + 16;
    lane->block = td_calloc(lane->floats, sizeof(float)); /* zero pages cost nothing until used */
    if (!lane->block) goto nomem;
    float *at = (float *)(((uintptr_t)lane->block + 63) & ~(uintptr_t)63);
    lane->activations = at, at += activations;
    lane->keeps = at, at += keeps;
    lane->gradients = at, at += gradients;
    lane->scratch = at;
    *out = lane;
    return TD_OK;
nomem:
    td_free(keep_at);
    td_free(lane);
    return td_fail(TD_ERR_NOMEM, "no memory for the activations of %zu samples", max_rows);
}

void td_net_lane_destroy(td_net_lane *lane)
{
    if (!lane) return;
    td_free(lane->block);
    td_free(lane->keep_at);
    td_free(lane);
}

size_t td_net_lane_bytes(const td_net_lane *lane)
{
    return lane->floats * sizeof(float);
}

void td_net_lane_times(const td_net_lane *lane, double *forward, double *backward)
{
    *forward = td_seconds(lane->forward_ns);
    *backward = td_seconds(lane->backward_ns);
}

/* --- passes --- */

static float *value_of(const td_net *net, const td_net_lane *lane, const td_net_pass *pass, int v)
{
    if (v == 0) return (float *)(uintptr_t)pass->x; /* never written: no layer is in place on it */
    return lane->activations + net->values[v].at * lane->max_rows;
}

static float *gradient_buffer(const td_net *net, const td_net_lane *lane, int buffer)
{
    return lane->gradients + (size_t)buffer * net->gradient_floats * lane->max_rows;
}

static td_layer_run run_of(const td_net *net, const td_net_lane *lane, const td_net_pass *pass,
                           int i, bool training)
{
    const td_layer *layer = &net->layers[i];
    return (td_layer_run){
        .pass = pass,
        .layer = layer,
        .training = training,
        .x = value_of(net, lane, pass, layer->in),
        .x2 = layer->in2 >= 0 ? value_of(net, lane, pass, layer->in2) : NULL,
        .y = value_of(net, lane, pass, layer->out),
        .keep = lane->keeps + lane->keep_at[i],
        .scratch = lane->scratch,
        .k = td_kernels_best(),
    };
}

static const float *forward(const td_net *net, td_net_lane *lane, const td_net_pass *pass,
                            bool training)
{
    int64_t begin = td_clock_ns();
    for (int i = 0; i < net->layer_count; i++) {
        td_layer_run run = run_of(net, lane, pass, i, training);
        net->layers[i].ops->forward(&run);
    }
    lane->forward_ns += td_clock_ns() - begin;
    return value_of(net, lane, pass, net->value_count - 1);
}

static void loss_of_leaves(const td_net *net, const td_net_pass *pass, const float *logits,
                           float *dlogits)
{
    for (int l = 0; l < pass->leaves; l++)
        td_loss_rows(net->loss, td_net_outputs(net), pass, pass->leaf_row[l], pass->leaf_row[l + 1],
                     logits, dlogits, pass->leaf_values + (size_t)l * TD_LEAF_VALUES);
}

/* Where this layer's gradient for an input goes: its buffer, or buffer 0 when another reader has
 * written there already (`written`), to be added afterwards. */
static float *destination(const td_net *net, const td_net_lane *lane, int v, const bool *written)
{
    if (v < 0 || !net->values[v].trained) return NULL;
    return gradient_buffer(net, lane, written[v] ? 0 : net->values[v].gradient);
}

static void backward_layer(const td_net *net, td_net_lane *lane, const td_net_pass *pass, int i,
                           bool *written)
{
    const td_layer *layer = &net->layers[i];
    if (net->values[layer->out].gradient < 0) return; /* nothing below has parameters */
    td_layer_run run = run_of(net, lane, pass, i, true);
    run.dy = gradient_buffer(net, lane, net->values[layer->out].gradient);
    run.dx = destination(net, lane, layer->in, written);
    run.dx2 = layer->in2 >= 0 ? destination(net, lane, layer->in2, written) : NULL;
    layer->ops->backward(&run);
    int inputs[2] = {layer->in, layer->in2};
    for (int k = 0; k < 2; k++) {
        int v = inputs[k];
        if (v < 0 || !net->values[v].trained) continue;
        float *own = gradient_buffer(net, lane, net->values[v].gradient);
        if (written[v])
            run.k->add(pass->rows * td_shape_size(net->values[v].shape), own,
                       gradient_buffer(net, lane, 0), own);
        written[v] = true;
    }
}

void td_net_gradient(const td_net *net, td_net_lane *lane, const td_net_pass *pass)
{
    bool written[MOST_VALUES] = {false};
    const float *logits = forward(net, lane, pass, true);
    int64_t begin = td_clock_ns();
    float *dlogits = gradient_buffer(net, lane, net->values[net->value_count - 1].gradient);
    loss_of_leaves(net, pass, logits, dlogits);
    size_t ready = net->params;
    for (int i = net->layer_count - 1; i >= 0; i--) {
        const td_layer *layer = &net->layers[i];
        backward_layer(net, lane, pass, i, written);
        if (!layer->slots || !pass->ready) continue;
        size_t lo = net->slots[layer->slot].offset;
        pass->ready(pass->user, lo, ready);
        ready = lo;
    }
    lane->backward_ns += td_clock_ns() - begin;
}

const float *td_net_evaluate(const td_net *net, td_net_lane *lane, const td_net_pass *pass)
{
    const float *logits = forward(net, lane, pass, false);
    if (pass->leaf_values) loss_of_leaves(net, pass, logits, NULL);
    return logits;
}
