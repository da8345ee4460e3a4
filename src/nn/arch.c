/* An architecture in a line: "conv:32,5 relu pool:2 dense:10".
 *
 * Words are layers in order; behind the colon stand the arguments, by place or by name
 * ("conv:64,3,stride=2"). "res:CHANNELS[,STRIDE]" is a residual block of two 3x3 convolutions with
 * batch norm (He et al. 2016), its way around a 1x1 convolution where the shape changes. A flatten
 * is put before the first dense layer behind an image. Layers are numbered as the modules of a
 * PyTorch Sequential would be. */
#include "nn/internal.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/options.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name, *arch;
} presets[] = {
    {"softmax", "dense:0"},
    {"mlp", "dense:256 relu dense:128 relu dense:0"},
    {"lenet", "conv:32,5 relu pool:2 conv:64,5 relu pool:2 dense:512 relu dense:0"},
    {"resnet20", "conv:16,3,bias=0 bn relu res:16 res:16 res:16 res:32,2 res:32 res:32 res:64,2 "
                 "res:64 res:64 gap dense:0"},
};
enum { PRESETS = sizeof presets / sizeof *presets };

const char *td_net_preset(const char *name)
{
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(presets[i].name, name)) return presets[i].arch;
    return NULL;
}

const char *td_net_preset_name(int index)
{
    return index >= 0 && index < PRESETS ? presets[index].name : NULL;
}

/* A word of the line, cut into name and arguments. */
typedef struct word {
    char name[16];
    char text[48]; /* whole, for messages */
    const char *args;
    size_t args_length;
} word;

static td_status read_word(const char **at, word *w)
{
    const char *p = *at;
    while (isspace((unsigned char)*p)) p++;
    const char *begin = p;
    while (*p && !isspace((unsigned char)*p)) p++;
    size_t length = (size_t)(p - begin);
    *at = p;
    snprintf(w->text, sizeof w->text, "%.*s", (int)(length < 47 ? length : 47), begin);
    const char *colon = memchr(begin, ':', length);
    size_t name = colon ? (size_t)(colon - begin) : length;
    if (name >= sizeof w->name) return td_fail(TD_ERR_ARG, "no layer is called \"%s\"", w->text);
    memcpy(w->name, begin, name);
    w->name[name] = 0;
    w->args = colon ? colon + 1 : p;
    w->args_length = colon ? length - name - 1 : 0;
    return TD_OK;
}

/* The names of an op's arguments, read from its usage line: "conv:CHANNELS,KERNEL[,stride=1]". */
static int argument_by_name(const char *usage, const char *name, size_t length)
{
    const char *p = strchr(usage, ':');
    for (int index = 0; p; index++, p = strchr(p, ',')) {
        p++;
        while (*p == '[' || *p == ',') p++;
        size_t n = strcspn(p, "=,[]");
        if (n == length && !strncasecmp(p, name, n)) return index;
    }
    return -1;
}

static int arguments_of(const char *usage)
{
    const char *p = strchr(usage, ':');
    int n = 0;
    for (; p; p = strchr(p + 1, ',')) n++;
    return n;
}

static td_status read_args(const word *w, const char *usage, td_layer *layer)
{
    const char *p = w->args, *end = p + w->args_length;
    int known = arguments_of(usage);
    if (known > TD_LAYER_ARGS) known = TD_LAYER_ARGS;
    for (int place = 0; p < end; place++) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        const char *equals = memchr(p, '=', (size_t)(stop - p));
        int index = place;
        if (equals) {
            index = argument_by_name(usage, p, (size_t)(equals - p));
            p = equals + 1;
        }
        char *rest, number[32];
        snprintf(number, sizeof number, "%.*s", (int)(stop - p < 31 ? stop - p : 31), p);
        double value = strtod(number, &rest);
        bool is_number = rest != number && !*rest && value == value;
        if (is_number && (value > 1e9 || value < -1e9))
            return td_fail(TD_ERR_ARG, "\"%s\" in the architecture: %s is too large", w->text,
                           number);
        if (index < 0 || index >= known || !is_number)
            return td_fail(TD_ERR_ARG, "\"%s\" in the architecture: write %s", w->text, usage);
        layer->arg[index] = value;
        layer->given[index] = true;
        p = comma ? comma + 1 : end;
    }
    return TD_OK;
}

static const td_layer_ops *ops_by_name(const char *name)
{
    if (!strcmp(name, "maxpool")) name = "pool";
    for (const td_layer_ops *const *ops = td_layer_table; *ops; ops++)
        if ((*ops)->usage && !strcmp((*ops)->name, name)) return *ops;
    return NULL;
}

static td_layer make(const td_layer_ops *ops, const char *format, int number)
{
    td_layer layer = {.ops = ops};
    snprintf(layer.name, sizeof layer.name, format, number); /* format is a literal of this file */
    return layer;
}

/* conv-bn, both without bias; *value goes in and comes out. */
static td_status append_conv_bn(td_net *net, int number, const char *conv, const char *bn,
                                const double args[4], int *value)
{
    td_layer layer = {.ops = &*ops_by_name("conv")};
    snprintf(layer.name, sizeof layer.name, "%d.%s", number, conv);
    for (int i = 0; i < 4; i++) layer.arg[i] = args[i], layer.given[i] = true;
    layer.given[5] = true; /* bias=0 */
    TD_TRY(td_net_append(net, &layer, *value, -1, value));
    td_layer norm = {.ops = ops_by_name("bn")};
    snprintf(norm.name, sizeof norm.name, "%d.%s", number, bn);
    return td_net_append(net, &norm, *value, -1, value);
}

static td_status append_residual(td_net *net, const td_layer *parsed, int number, int *value)
{
    double channels = parsed->arg[0], stride = parsed->given[1] ? parsed->arg[1] : 1;
    int in = *value, way = in;
    td_shape shape = net->values[in].shape;
    if (!parsed->given[0] || channels < 1 || stride < 1)
        return td_fail(TD_ERR_ARG, "%d.res: channels and stride must be 1 or more", number);
    TD_TRY(append_conv_bn(net, number, "conv1", "bn1", (double[]){channels, 3, stride, 1}, value));
    td_layer relu = make(ops_by_name("relu"), "%d.relu1", number);
    TD_TRY(td_net_append(net, &relu, *value, -1, value));
    TD_TRY(append_conv_bn(net, number, "conv2", "bn2", (double[]){channels, 3, 1, 1}, value));
    if (stride != 1 || (double)shape.c != channels)
        TD_TRY(append_conv_bn(net, number, "down.0", "down.1", (double[]){channels, 1, stride, 0},
                              &way));
    const td_layer_ops *const *sum = td_layer_table;
    while (strcmp((*sum)->name, "sum") != 0) sum++;
    td_layer add = make(*sum, "%d.sum", number);
    TD_TRY(td_net_append(net, &add, *value, way, value));
    td_layer last = make(ops_by_name("relu"), "%d.relu2", number);
    return td_net_append(net, &last, *value, -1, value);
}

static td_status unknown_layer(const char *text, const char *layer)
{
    char names[256];
    const char *words[64] = {"res"};
    size_t n = 0, count = 1;
    for (int i = 0; i < PRESETS; i++) words[count++] = presets[i].name;
    for (const td_layer_ops *const *ops = td_layer_table; *ops; ops++) {
        if (!(*ops)->usage) continue;
        n += (size_t)snprintf(names + n, sizeof names - n, "%s ", (*ops)->name);
        words[count++] = (*ops)->name;
    }
    for (int i = 0; i < PRESETS; i++)
        if (!strcmp(presets[i].name, layer))
            return td_fail(TD_ERR_ARG, "\"%s\" is a whole network, not a layer: it stands alone",
                           layer);
    const char *near = td_nearest(layer, words);
    return td_fail(TD_ERR_ARG,
                   "no layer is called \"%s\"; %s%s%shere are %sres, and the presets "
                   "softmax, mlp, lenet and resnet20",
                   text, near ? "did you mean " : "", near ? near : "", near ? "? T" : "t", names);
}

/* A flatten that moves nothing, on the network's input, only gives it another shape. */
static td_status append_flatten(td_net *net, int number, int *value)
{
    td_value *in = &net->values[*value];
    if (*value == 0 && in->readers == 0 && (in->shape.c == 1 || in->shape.h * in->shape.w == 1)) {
        in->shape = (td_shape){1, 1, td_shape_size(in->shape), true};
        return TD_OK;
    }
    td_layer flat = make(ops_by_name("flatten"), "%d.flatten", number);
    return td_net_append(net, &flat, *value, -1, value);
}

static td_status append_word(td_net *net, const td_net_config *config, const word *w, int *number,
                             int *value)
{
    static const char res_usage[] = "res:CHANNELS[,stride=1]";
    td_layer layer = {0};
    bool residual = !strcmp(w->name, "res");
    layer.ops = residual ? NULL : ops_by_name(w->name);
    if (!residual && !layer.ops) return unknown_layer(w->text, w->name);
    TD_TRY(read_args(w, residual ? res_usage : layer.ops->usage, &layer));
    if (residual) return append_residual(net, &layer, (*number)++, value);
    if (!strcmp(w->name, "flatten")) return append_flatten(net, (*number)++, value);
    if (!strcmp(w->name, "dense")) {
        if (!net->values[*value].shape.flat) TD_TRY(append_flatten(net, (*number)++, value));
        if (layer.given[0] && layer.arg[0] == 0) layer.arg[0] = (double)config->outputs;
    }
    snprintf(layer.name, sizeof layer.name, "%d.%s", (*number)++, layer.ops->name);
    return td_net_append(net, &layer, *value, -1, value);
}

td_status td_arch_build(td_net *net, const td_net_config *config)
{
    int value = 0, number = 0;
    td_shape in = net->values[0].shape;
    if (!in.flat && in.c > 1) {
        const td_layer_ops *const *input = td_layer_table;
        while (strcmp((*input)->name, "input") != 0) input++;
        td_layer layer = make(*input, "input", 0);
        TD_TRY(td_net_append(net, &layer, 0, -1, &value));
    }
    for (const char *at = net->arch;;) {
        while (isspace((unsigned char)*at)) at++;
        if (!*at) break;
        word w;
        TD_TRY(read_word(&at, &w));
        TD_TRY(append_word(net, config, &w, &number, &value));
    }
    if (number == 0) return td_fail(TD_ERR_ARG, "the architecture names no layer");
    td_shape out = net->values[value].shape;
    if (value != net->value_count - 1 || !out.flat)
        return td_fail(TD_ERR_ARG,
                       "the architecture ends in an image of %zux%zux%zu; end it with "
                       "a dense layer",
                       out.c, out.h, out.w);
    if (config->outputs && out.c != config->outputs)
        return td_fail(TD_ERR_ARG,
                       "the architecture ends in %zu outputs where the data asks for "
                       "%zu; write dense:%zu last",
                       out.c, config->outputs, config->outputs);
    return TD_OK;
}
