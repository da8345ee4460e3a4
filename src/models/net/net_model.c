/* See net_model.h. This file: making, keeping and opening models; run.c computes with them. */
#include "models/net/net_model.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "data/schema.h"
#include "models/net/save.h"
#include "models/sparse/sparse_part.h"

#include <string.h>

static const char file_name[] = "model.safetensors";

static const char *path_of(const td_data_info *info)
{
    return info->path ? info->path : "the data";
}

/* Models of features whose score is one number take no softmax, also where nobody asked for it. */
static td_status check_one_output(const td_job *job, const td_data_info *info, td_loss loss)
{
    bool one = td_net_model_is_sparse(job->model) && strcmp(job->model, "linear") != 0;
    if (loss != TD_LOSS_SOFTMAX || !one) return TD_OK;
    const char *name = job->model;
    if (info->classes == 2)
        return td_fail(TD_ERR_ARG,
                       "--loss softmax is not for --model %s, which has one output; for the two "
                       "classes of %s use binary or hinge",
                       name, path_of(info));
    if (info->classes == 1)
        return td_fail(TD_ERR_ARG,
                       "--model %s tells two classes apart, and all samples of %s are of one; give "
                       "it data of two",
                       name, path_of(info));
    return td_fail(TD_ERR_ARG,
                   "--model %s tells two classes apart, and %s has %d; use --model linear for "
                   "them, "
                   "or, where labels are numbers to predict, --loss squared",
                   name, path_of(info), info->classes);
}

static td_status choose_loss(const td_job *job, const td_dataset *data, td_net_model *m)
{
    const td_data_info *info = td_dataset_info(data);
    m->classes = info->classes;
    m->loss = info->classes ? TD_LOSS_SOFTMAX : TD_LOSS_SQUARED;
    if (m->loss == TD_LOSS_SOFTMAX && info->classes == 2 && td_net_model_is_sparse(job->model))
        m->loss = TD_LOSS_BINARY;
    if (job->loss) m->loss = (td_loss)(job->loss - 1);
    if (m->loss == TD_LOSS_SOFTMAX && !info->classes)
        return td_fail(TD_ERR_ARG,
                       "--loss softmax needs classes, and %s has numbers to predict; "
                       "use squared, or --label-kind class",
                       path_of(info));
    if ((m->loss == TD_LOSS_BINARY || m->loss == TD_LOSS_HINGE) && info->classes != 2)
        return td_fail(TD_ERR_ARG,
                       info->classes
                           ? "--loss %s needs two classes, and %s has %d"
                           : "--loss %s needs two classes, and %s has numbers to predict; "
                             "use squared, or --label-kind class",
                       td_loss_names[m->loss], path_of(info), info->classes);
    if (m->loss == TD_LOSS_POISSON && info->class_names)
        return td_fail(TD_ERR_ARG,
                       "--loss poisson predicts counts, and of %s, whose labels are %d classes "
                       "(%s, ...), it would learn their numbers from 0 on; leave out --label-kind "
                       "class, or --loss",
                       path_of(info), info->classes, info->class_names[0]);
    TD_TRY(check_one_output(job, info, m->loss));
    return td_net_model_check_targets(m, data);
}

td_status td_net_model_check_targets(const td_net_model *m, const td_dataset *data)
{
    const td_data_info *info = td_dataset_info(data);
    const char *path = path_of(info);
    for (uint64_t i = 0; i < info->samples; i++) {
        int32_t label = td_dataset_label(data, i);
        if (m->loss == TD_LOSS_SOFTMAX && (label < 0 || label >= m->classes))
            return td_fail(TD_ERR_DATA, "%s: sample %llu is of class %d; the model knows 0 to %d",
                           path, (unsigned long long)i, label, m->classes - 1);
        if (m->loss == TD_LOSS_POISSON && td_dataset_target(data, i) < 0)
            return td_fail(TD_ERR_DATA,
                           "%s: sample %llu has %g, where --loss poisson needs 0 or more; use "
                           "squared for labels below 0",
                           path, (unsigned long long)i, (double)td_dataset_target(data, i));
    }
    return TD_OK;
}

bool td_net_model_is_sparse(const char *name)
{
    for (int k = 0; td_sparse_model_kinds[k]; k++)
        if (!strcmp(td_sparse_model_kinds[k], name)) return true;
    return false;
}

size_t td_net_model_outputs(const td_net_model *m)
{
    return m->sparse ? m->sparse->outputs : td_net_outputs(m->net);
}

const char *td_net_model_arch(const td_net_model *m)
{
    return m->sparse ? m->sparse->arch : td_net_arch(m->net);
}

const td_slot *td_net_model_slots(const td_net_model *m, size_t *count)
{
    if (!m->sparse) return td_net_slots(m->net, count);
    td_sparse_oracle o = td_sparse_model_oracle(m->sparse->math);
    *count = o.slot_count;
    return o.slots;
}

size_t td_net_model_rows(const td_net_model *m)
{
    const td_sparse_part *p = m->sparse;
    return p->rows ? td_table_rows(p->rows) : td_rows_mapped_count(p->files);
}

size_t td_net_model_width(const td_net_model *m)
{
    return td_sparse_model_oracle(m->sparse->math).width;
}

static td_status make_net(td_net_model *m, const char *arch)
{
    bool image = m->rank > 1;
    td_net_config config = {
        .arch = arch,
        .channels = m->shape[0],
        .height = image ? m->shape[1] : 1,
        .width = image ? m->shape[2] : 1,
        .outputs = m->loss == TD_LOSS_SOFTMAX ? (size_t)m->classes : 1,
        .loss = m->loss,
    };
    return td_net_create(&config, &m->net);
}

/* The data options that eval and predict must read new files with. What the program takes for
 * missing by itself is written out: it may change. */
static td_status data_options(const td_job *job, json_t **out)
{
    json_t *options = json_object();
    int failed = !options;
    for (const td_option *row = td_job_rows; row->name && !failed; row++) {
        char text[64];
        const char *value = text;
        if (strncmp(row->name, "data.", 5) != 0 || !(row->where & TD_JOB_FILE)) continue;
        if (row->type == TD_OPT_TEXT)
            value = *(char *const *)((const char *)job + row->offset);
        else
            td_option_text(row, job, text, sizeof text);
        if (!value && !strcmp(row->name, "data.missing")) value = TD_DATA_MISSING;
        if (value) failed = json_object_set_new(options, row->name, td_text_to_json(value));
    }
    if (failed) {
        json_decref(options);
        return td_fail(TD_ERR_NOMEM, "no memory for the data options");
    }
    *out = options;
    return TD_OK;
}

static td_status copy_names(td_net_model *m, const char *const *names)
{
    if (!names) return TD_OK;
    m->class_names = td_calloc((size_t)m->classes, sizeof *m->class_names);
    for (int c = 0; m->class_names && c < m->classes; c++)
        if (!(m->class_names[c] = td_strdup(names[c])))
            return td_fail(TD_ERR_NOMEM, "no memory for %d classes", m->classes);
    return m->class_names ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %d classes", m->classes);
}

td_status td_net_model_create(const td_job *job, const td_dataset *data, td_net_model *out)
{
    const td_data_info *info = td_dataset_info(data);
    td_net_model m = {.rank = info->rank};
    td_status status;
    memcpy(m.shape, info->shape, sizeof m.shape);
    TD_GOTO(choose_loss(job, data, &m));
    if (!td_net_model_is_sparse(job->model)) TD_GOTO(make_net(&m, job->model));
    TD_GOTO(copy_names(&m, info->class_names));
    TD_GOTO(td_normalise_fit(data, (td_normalise_mode)job->normalise, &m.normalise));
    if (!m.net) TD_GOTO(td_sparse_part_create(job, data, &m));
    TD_GOTO(data_options(job, &m.data));
    TD_GOTO(td_schema_make(data, &m.schema));
    *out = m;
    return TD_OK;
out:
    td_net_model_close(&m);
    return status;
}

void td_net_model_close(td_net_model *m)
{
    td_net_destroy(m->net);
    td_sparse_part_destroy(m->sparse);
    for (int c = 0; m->class_names && c < m->classes; c++) td_free(m->class_names[c]);
    td_free(m->class_names);
    td_normalise_fini(&m->normalise);
    td_free(m->params);
    json_decref(m->data);
    json_decref(m->schema);
    json_decref(m->metrics);
    memset(m, 0, sizeof *m);
}

/* --- files --- */

/* NULL without memory, as the next two: json_pack then fails, too. */
static json_t *floats(const float *x, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(array, json_real((double)x[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *shape_json(const td_net_model *m)
{
    json_t *array = json_array();
    for (int d = 0; d < m->rank; d++)
        if (json_array_append_new(array, json_integer((json_int_t)m->shape[d])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *names_json(const td_net_model *m)
{
    json_t *array = json_array();
    for (int c = 0; m->class_names && c < m->classes; c++)
        if (json_array_append_new(array, td_text_to_json(m->class_names[c])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

json_t *td_net_model_manifest(const td_net_model *m, json_t *metrics)
{
    const td_normalise *n = &m->normalise;
    json_t *all =
        json_pack("{s:s, s:s, s:s, s:o, s:i, s:o, s:{s:s, s:o, s:o, s:o}, s:O, s:O, s:O}", "model",
                  m->sparse ? "sparse" : "net", "arch",
                  m->sparse ? m->sparse->arch : td_net_arch(m->net), "loss", td_loss_names[m->loss],
                  "shape", shape_json(m), "classes", m->classes, "class_names", names_json(m),
                  "normalise", "mode", td_normalise_names[n->mode], "mean", floats(n->mean, n->n),
                  "scale", floats(n->scale, n->n), "fill", floats(n->fill, n->n), "data", m->data,
                  "schema", m->schema, "metrics", metrics);
    if (all && m->sparse &&
        json_object_set_new(all, "sparse", td_sparse_part_json(m->sparse)) != 0) {
        json_decref(all);
        all = NULL;
    }
    return all;
}

td_status td_net_model_save(const td_net_model *m, const float *params, const char *folder,
                            json_t *metrics)
{
    size_t n;
    const td_slot *slots = td_net_slots(m->net, &n);
    td_tensor *tensors = td_calloc(n ? n : 1, sizeof *tensors);
    json_t *manifest = td_net_model_manifest(m, metrics);
    td_status status = TD_ERR_NOMEM;
    if (!tensors || !manifest) {
        status = td_fail(TD_ERR_NOMEM, "no memory to save the model");
        goto out;
    }
    for (size_t s = 0; s < n; s++) {
        tensors[s] = (td_tensor){.name = slots[s].name,
                                 .rank = slots[s].rank,
                                 .data = params + slots[s].offset,
                                 .count = slots[s].count};
        memcpy(tensors[s].shape, slots[s].shape, sizeof slots[s].shape);
    }
    status = td_bundle_write(folder, "model", manifest, file_name, tensors, n);
out:
    json_decref(manifest);
    td_free(tensors);
    return status;
}

static td_status read_floats(json_t *array, size_t n, float *out)
{
    if (json_array_size(array) != n) return TD_ERR_CORRUPT;
    for (size_t i = 0; i < n; i++) out[i] = (float)json_number_value(json_array_get(array, i));
    return TD_OK;
}

static td_status read_normalise(json_t *json, td_normalise *out)
{
    const char *mode_name;
    json_t *mean, *scale, *fill;
    int mode = 0;
    if (json_unpack(json, "{s:s, s:o, s:o, s:o}", "mode", &mode_name, "mean", &mean, "scale",
                    &scale, "fill", &fill) != 0)
        return TD_ERR_CORRUPT;
    while (td_normalise_names[mode] && strcmp(td_normalise_names[mode], mode_name) != 0) mode++;
    size_t n = json_array_size(mean);
    float *all = td_calloc(3 * n + 1, sizeof *all);
    if (!td_normalise_names[mode] || !all || read_floats(mean, n, all) != TD_OK ||
        read_floats(scale, n, all + n) != TD_OK || read_floats(fill, n, all + 2 * n) != TD_OK) {
        td_free(all);
        return TD_ERR_CORRUPT;
    }
    td_status status =
        td_normalise_make((td_normalise_mode)mode, n, all, all + n, all + 2 * n, out);
    td_free(all);
    return status;
}

static td_status read_names(const char *folder, const json_t *names, td_net_model *m)
{
    td_status status = TD_OK;
    m->class_names = td_calloc((size_t)m->classes, sizeof *m->class_names);
    if (!m->class_names) return td_fail(TD_ERR_NOMEM, "no memory for %d classes", m->classes);
    for (int c = 0; c < m->classes && status == TD_OK; c++)
        status = td_text_from_json(json_array_get(names, (size_t)c), &m->class_names[c]);
    if (status == TD_ERR_CORRUPT)
        return td_fail_within(status, "%s/manifest.json: the names of classes: ", folder);
    return status;
}

static td_status read_manifest(const char *folder, json_t *state, td_net_model *m)
{
    const char *kind, *arch, *loss;
    json_t *shape, *names, *normalise, *data, *metrics;
    if (json_unpack(state, "{s:s, s:s, s:s, s:o, s:i, s:o, s:o, s:o, s:o}", "model", &kind, "arch",
                    &arch, "loss", &loss, "shape", &shape, "classes", &m->classes, "class_names",
                    &names, "normalise", &normalise, "data", &data, "metrics", &metrics) != 0 ||
        (strcmp(kind, "net") != 0 && strcmp(kind, "sparse") != 0) || json_array_size(shape) < 1 ||
        json_array_size(shape) > 4 || m->classes < 0)
        return td_fail(TD_ERR_CORRUPT, "%s/manifest.json does not describe a network", folder);
    m->rank = (int)json_array_size(shape);
    for (int d = 0; d < m->rank; d++)
        m->shape[d] = (size_t)json_integer_value(json_array_get(shape, (size_t)d));
    int l = 0;
    while (td_loss_names[l] && strcmp(td_loss_names[l], loss) != 0) l++;
    if (!td_loss_names[l])
        return td_fail(TD_ERR_CORRUPT, "%s/manifest.json: unknown loss \"%s\"", folder, loss);
    m->loss = (td_loss)l;
    m->data = json_incref(data), m->metrics = json_incref(metrics);
    m->schema = json_incref(json_object_get(state, "schema"));
    if (json_array_size(names) == (size_t)m->classes && m->classes)
        TD_TRY(read_names(folder, names, m));
    if (read_normalise(normalise, &m->normalise) != TD_OK)
        return td_fail(TD_ERR_CORRUPT, "%s/manifest.json: the scaling of features is damaged",
                       folder);
    if (!strcmp(kind, "sparse"))
        return td_sparse_part_from_json(folder, json_object_get(state, "sparse"), m);
    return make_net(m, arch);
}

td_status td_net_model_begin(json_t *manifest, const char *name, const td_dataset *data,
                             td_net_model *out)
{
    td_net_model m = {0};
    td_status status = read_manifest(name, manifest, &m);
    if (status == TD_OK && m.sparse) status = td_sparse_part_plan(&m, data);
    if (status == TD_OK)
        *out = m;
    else
        td_net_model_close(&m);
    return status;
}

td_status td_net_model_open(const char *run, td_net_model *out)
{
    char folder[TD_PATH_MAX];
    td_bundle b = {0};
    td_net_model m = {0};
    td_status status;
    TD_GOTO(td_path_join(folder, run, "model"));
    if (!td_bundle_exists(folder)) {
        status = td_fail(TD_ERR_DATA, "%s holds no model yet (no folder \"model\")", run);
        goto out;
    }
    TD_GOTO(td_bundle_open(folder, "model", file_name, &b));
    TD_GOTO(read_manifest(folder, b.state, &m));
    if (m.sparse) {
        status = td_sparse_part_open(&m, &b);
        goto out;
    }
    m.params = td_alloc_aligned(td_net_params(m.net) * sizeof *m.params);
    if (!m.params) {
        status = td_fail(TD_ERR_NOMEM, "no memory for the model");
        goto out;
    }
    memset(m.params, 0, td_net_params(m.net) * sizeof *m.params);
    size_t n;
    const td_slot *slots = td_net_slots(m.net, &n);
    for (size_t s = 0; s < n; s++)
        TD_GOTO(td_bundle_read(&b, slots[s].name, slots[s].shape[0], slots[s].count,
                               m.params + slots[s].offset));
out:
    td_bundle_close(&b);
    if (status == TD_OK)
        *out = m;
    else
        td_net_model_close(&m);
    return status;
}

td_status td_net_model_fits(const td_net_model *m, const td_dataset *data)
{
    const td_data_info *info = td_dataset_info(data);
    size_t features = 1;
    for (int d = 0; d < m->rank; d++) features *= m->shape[d];
    int base = (int)json_integer_value(json_object_get(m->schema, "index_base"));
    if (m->sparse && m->schema && info->sparse != (base >= 0))
        return td_fail(TD_ERR_DATA, "%s %s, so none of its features is one of the model's",
                       info->path ? info->path : "the data",
                       info->sparse ? "has features by number and the training set had columns"
                                    : "has columns and the training set had features by number");
    if (m->sparse && info->sparse) return TD_OK; /* keys are whatever they are */
    if (features != info->features)
        return td_fail(TD_ERR_DATA, "%s has %zu features a sample where the model has %zu",
                       info->path ? info->path : "the data", info->features, features);
    return TD_OK;
}

/* --- batch norm --- */

bool td_net_averages(const td_net *net)
{
    size_t n;
    const td_slot *slots = td_net_slots(net, &n);
    bool averages = false;
    for (size_t s = 0; s < n; s++) averages = averages || slots[s].kind == TD_SLOT_STAT;
    return averages;
}

void td_net_warn_of_small_leaves(const td_net *net, int least)
{
    if (td_net_averages(net) && least < 2)
        td_warn("batch norm takes its statistics from each leaf of a batch, and some leaves have "
                "one sample; give a larger --batch or fewer --leaves");
}

void td_net_warn_of_small_shares(const td_net *net, int least)
{
    if (td_net_averages(net) && least < 2)
        td_warn("batch norm takes its statistics from each thread's share of a batch, and some "
                "have one sample; give a larger --batch, or fewer --workers or --threads");
}
