/* See sparse_part.h. */
#include "models/sparse/sparse_part.h"

#include "base/alloc.h"
#include "base/error.h"
#include "models/net/save.h"
#include "tandem/recover.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- making --- */

static td_status copy_text(const char *text, char **out)
{
    *out = text && *text ? td_strdup(text) : NULL;
    if (text && *text && !*out) return td_fail(TD_ERR_NOMEM, "no memory for the model");
    return TD_OK;
}

static td_status make_math(const td_sparse_part *p, const td_net_model *m, size_t lanes,
                           td_sparse_model **out)
{
    td_sparse_model_config config = {.kind = p->kind,
                                     .loss = m->loss,
                                     .classes = m->classes,
                                     .factors = p->factors,
                                     .fields = p->fields,
                                     .numbers = p->numbers,
                                     .lanes = lanes,
                                     .bottom = p->bottom,
                                     .top = p->top};
    return td_sparse_model_create(&config, out);
}

static td_status describe(td_sparse_part *p)
{
    char text[512];
    snprintf(text, sizeof text,
             "%s factors=%zu fields=%zu numbers=%zu bits=%d hash-seed=%llu bottom=%.100s "
             "top=%.100s",
             p->kind, p->factors, p->fields, p->numbers, p->bits, (unsigned long long)p->hash_seed,
             p->bottom ? p->bottom : "", p->top ? p->top : "");
    return copy_text(text, &p->arch);
}

/* Of rows that two models could share: what decides over a key, and how a row is laid out. */
static td_status say_meaning(td_sparse_part *p)
{
    char text[160], factors[32] = "", fields[32] = "";
    if (strcmp(p->kind, "linear") != 0)
        snprintf(factors, sizeof factors, " factors=%zu", p->factors);
    if (!strcmp(p->kind, "ffm")) snprintf(fields, sizeof fields, " fields=%zu", p->fields);
    snprintf(text, sizeof text, "%s%s%s bits=%d hash-seed=%llu", p->kind, factors, fields, p->bits,
             (unsigned long long)p->hash_seed);
    return copy_text(text, &p->meaning);
}

static td_status plan_features(const td_sparse_part *p, const td_net_model *m,
                               const td_dataset *data, td_features **out)
{
    bool bias = strcmp(p->kind, "dlrm") != 0,
         has_fields = td_dataset_sparse_fields(data, 0) != NULL;
    if (!strcmp(p->kind, "ffm") && td_dataset_info(data)->sparse && !has_fields)
        return td_fail(TD_ERR_ARG, "%s: ffm needs data with fields: libffm or a table",
                       td_dataset_info(data)->path);
    td_features_config config = {.bits = p->bits,
                                 .seed = p->hash_seed,
                                 .numbers_apart = !strcmp(p->kind, "dlrm"),
                                 .normalise = &m->normalise,
                                 .bias = bias,
                                 .fields = p->fields ? p->fields - bias : 0};
    if (m->normalise.mode == TD_NORMALISE_NONE) config.normalise = NULL;
    return td_features_create(data, &config, out);
}

td_status td_sparse_part_plan(td_net_model *m, const td_dataset *data)
{
    return plan_features(m->sparse, m, data, &m->sparse->features);
}

td_status td_sparse_part_create(const td_job *job, const td_dataset *data, td_net_model *m)
{
    td_sparse_part *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(TD_ERR_NOMEM, "no memory for the model");
    m->sparse = p;
    snprintf(p->kind, sizeof p->kind, "%s", job->model);
    p->bits = job->bits, p->hash_seed = job->hash_seed;
    p->factors = (size_t)job->factors;
    if (!p->factors) p->factors = !strcmp(p->kind, "dlrm") ? 16 : 4;
    TD_TRY(copy_text(job->bottom, &p->bottom));
    TD_TRY(copy_text(job->top, &p->top));
    TD_TRY(plan_features(p, m, data, &p->features));
    p->fields = td_features_fields(p->features);
    p->numbers = td_features_numbers(p->features);
    TD_TRY(make_math(p, m, 1, &p->math));
    p->outputs = td_sparse_model_oracle(p->math).outputs;
    TD_TRY(say_meaning(p));
    return describe(p);
}

void td_sparse_part_destroy(td_sparse_part *p)
{
    if (!p) return;
    td_features_destroy(p->features);
    td_sparse_model_destroy(p->math);
    td_rows_unmap(p->files);
    td_table_destroy(p->rows);
    td_free(p->bottom), td_free(p->top), td_free(p->arch), td_free(p->meaning);
    td_free(p);
}

/* --- keeping --- */

json_t *td_sparse_part_json(const td_sparse_part *p)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:i, s:s, s:s, s:s}", "kind", p->kind, "factors",
                     (json_int_t)p->factors, "fields", (json_int_t)p->fields, "numbers",
                     (json_int_t)p->numbers, "bits", p->bits, "bottom", p->bottom ? p->bottom : "",
                     "top", p->top ? p->top : "", "arch", p->arch);
}

td_status td_sparse_part_from_json(const char *folder, json_t *json, td_net_model *m)
{
    const char *kind, *bottom, *top, *arch, *seed;
    json_int_t factors, fields, numbers;
    td_sparse_part *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(TD_ERR_NOMEM, "no memory for the model");
    m->sparse = p;
    if (json_unpack(json, "{s:s, s:I, s:I, s:I, s:i, s:s, s:s, s:s}", "kind", &kind, "factors",
                    &factors, "fields", &fields, "numbers", &numbers, "bits", &p->bits, "bottom",
                    &bottom, "top", &top, "arch", &arch) != 0 ||
        strlen(kind) >= sizeof p->kind || factors < 0 || fields < 0 || numbers < 0 ||
        !(seed = strstr(arch, "hash-seed=")))
        return td_fail(TD_ERR_CORRUPT, "%s/manifest.json does not describe a model over features",
                       folder);
    snprintf(p->kind, sizeof p->kind, "%s", kind);
    p->factors = (size_t)factors, p->fields = (size_t)fields, p->numbers = (size_t)numbers;
    p->hash_seed = strtoull(seed + strlen("hash-seed="), NULL, 10);
    TD_TRY(copy_text(bottom, &p->bottom));
    TD_TRY(copy_text(top, &p->top));
    TD_TRY(copy_text(arch, &p->arch));
    TD_TRY(make_math(p, m, 1, &p->math));
    p->outputs = td_sparse_model_oracle(p->math).outputs;
    return say_meaning(p);
}

static td_table_config opened_config(const td_sparse_part *p)
{
    td_table_config t = {.width = td_sparse_model_oracle(p->math).width, .lr = 1};
    return t; /* keys that no training has seen have no weight */
}

static td_status read_dense(td_net_model *m, const td_bundle *b)
{
    td_sparse_oracle o = td_sparse_model_oracle(m->sparse->math);
    if (!o.params) return TD_OK;
    m->params = td_alloc_aligned(o.params * sizeof *m->params);
    if (!m->params) return td_fail(TD_ERR_NOMEM, "no memory for the model");
    memset(m->params, 0, o.params * sizeof *m->params);
    for (size_t s = 0; s < o.slot_count; s++)
        TD_TRY(td_bundle_read(b, o.slots[s].name, o.slots[s].shape[0], o.slots[s].count,
                              m->params + o.slots[s].offset));
    return TD_OK;
}

td_status td_sparse_part_open(td_net_model *m, td_bundle *b)
{
    td_table_config config = opened_config(m->sparse);
    TD_TRY(read_dense(m, b));
    return td_rows_map(b, &config, &m->sparse->files);
}

/* Of memory that a table of so many rows takes, at most: see ps/table.h. */
static double table_bytes(size_t rows, size_t width)
{
    size_t align = width > 16 ? 16 : 4, floats = (width + align - 1) / align * align;
    return (double)rows * ((double)(floats * sizeof(float)) + 16 / 0.375);
}

td_status td_net_model_hold(td_net_model *m, uint64_t memory_bytes)
{
    td_sparse_part *p = m->sparse;
    if (!p || p->rows) return TD_OK;
    td_table_config config = opened_config(p);
    td_table *rows = NULL;
    size_t count = td_rows_mapped_count(p->files);
    if (memory_bytes && table_bytes(count, config.width) > (double)memory_bytes) return TD_OK;
    td_status status = td_table_create(&config, &rows);
    if (status == TD_OK) status = td_rows_mapped_copy(p->files, rows);
    if (status != TD_OK) {
        td_table_destroy(rows);
        return status;
    }
    p->rows = rows;
    td_rows_unmap(p->files);
    p->files = NULL;
    return TD_OK;
}

/* --- training --- */

static json_t *manifest(void *self, json_t *metrics)
{
    return td_net_model_manifest(self, metrics);
}

/* How new rows begin. */
static td_table_config first_rows(const td_sparse_part *p)
{
    if (!strcmp(p->kind, "linear")) return (td_table_config){.init = TD_TABLE_ZERO};
    float scale = 0.1f / sqrtf((float)p->factors);
    return (td_table_config){.init = TD_TABLE_UNIFORM, .scale = scale};
}

td_status td_sparse_part_train(td_comm *comm, const td_job *job, const td_train_data *data,
                               const td_net_model *m, const volatile int *stop)
{
    const td_sparse_part *p = m->sparse;
    td_sparse_model *math = NULL;
    float *params = NULL;
    bool joined = td_comm_joined(comm, td_comm_rank(comm));
    td_status status = make_math(p, m, (size_t)job->threads, &math);
    td_sparse_oracle o = status == TD_OK ? td_sparse_model_oracle(math) : (td_sparse_oracle){0};
    if (o.params) {
        params = td_alloc_aligned(o.params * sizeof *params);
        if (!params) status = td_fail(TD_ERR_NOMEM, "no memory for %zu parameters", o.params);
        if (params) td_sparse_model_init(math, job->seed, params);
    }
    status = joined ? td_train_give_way(comm, status) : td_comm_agree(comm, status);
    td_rows_task task = {.oracle = o,
                         .features = p->features,
                         .keyed = first_rows(p),
                         .params = params,
                         .classes = td_loss_has_classes(m->loss),
                         .two = td_loss_has_classes(m->loss) && m->classes == 2 && o.outputs == 1,
                         .arch = p->arch,
                         .meaning = p->meaning,
                         .file = "model.safetensors",
                         .self = (void *)(uintptr_t)m,
                         .manifest = manifest};
    if (status == TD_OK) status = td_train_rows(comm, job, data, &task, stop);
    td_sparse_model_destroy(math);
    td_free(params);
    return status;
}

/* --- scoring --- */

static td_status own_rows(void *self, const uint64_t *keys, size_t count, float *out)
{
    const td_sparse_part *p = self;
    if (p->rows) return td_table_peek(p->rows, keys, count, out);
    td_rows_mapped_peek(p->files, keys, count, out);
    return TD_OK;
}

td_status td_sparse_part_scorer(const td_net_model *m, const td_dataset *data,
                                td_sparse_oracle *oracle, td_rows_scorer *out)
{
    td_sparse_part *p = m->sparse;
    td_sparse_model *math = NULL;
    td_features *features = NULL;
    td_pool *pool = NULL;
    td_status status = make_math(p, m, 1, &math);
    if (status == TD_OK) status = plan_features(p, m, data, &features);
    if (status == TD_OK) status = td_pool_create(1, &pool);
    if (status != TD_OK) {
        td_features_destroy(features);
        td_sparse_model_destroy(math);
        return status;
    }
    *oracle = td_sparse_model_oracle(math);
    *out = (td_rows_scorer){.oracle = oracle,
                            .shape = {.features = features,
                                      .data = data,
                                      .width = oracle->width,
                                      .numbers = oracle->numbers,
                                      .by_leaf = true,
                                      .pool = pool},
                            .source = {p, own_rows, m->params}};
    return TD_OK;
}

void td_sparse_part_scorer_close(td_rows_scorer *s)
{
    if (!s->oracle) return;
    td_rows_batch_free(&s->batch);
    td_pool_destroy(s->shape.pool);
    td_features_destroy((td_features *)(uintptr_t)s->shape.features);
    td_sparse_model_destroy(s->oracle->self);
    *s = (td_rows_scorer){0};
}

td_status td_sparse_part_score(td_comm *comm, const td_job *job, const td_dataset *data,
                               const td_net_model *m, td_score *out)
{
    td_sparse_oracle oracle;
    td_rows_scorer scorer = {0};
    bool one = td_sparse_model_oracle(m->sparse->math).outputs == 1;
    td_status status = td_comm_agree(comm, td_sparse_part_scorer(m, data, &oracle, &scorer));
    td_task task = {.oracle = {.self = &scorer},
                    .classes = td_loss_has_classes(m->loss),
                    .two = td_loss_has_classes(m->loss) && m->classes == 2 && one,
                    .sparse = true,
                    .evaluate = td_rows_score};
    if (status == TD_OK)
        status = td_evaluate(comm, data, NULL, 2048, job->leaves, &task, NULL, out);
    td_sparse_part_scorer_close(&scorer);
    return status;
}
