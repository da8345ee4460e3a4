/* tandem eval and tandem predict: a trained model on new data. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ckpt/json.h"
#include "data/schema.h"
#include "models/net/net_model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct session {
    td_job job;
    td_net_model model;
    td_dataset *like, *data;
} session;

/* The options that the training data were read with. */
static td_status take_options(const td_net_model *model, td_job *job)
{
    const char *name;
    json_t *value;
    json_object_foreach(model->data, name, value)
    {
        const td_option *row = td_option_by_name(td_job_rows, name);
        char *text = NULL;
        if (!row) continue;
        td_status status = td_text_from_json(value, &text);
        if (status == TD_OK) status = td_option_set(row, job, name, text);
        td_free(text);
        if (status != TD_OK) return td_fail_within(status, "the model's option %s: ", name);
    }
    return TD_OK;
}

/* What new data must fit. Models of earlier versions do not hold it: their training data, where
 * they are still there, are read again. */
static td_status open_like(session *s, char *trained_on)
{
    char manifest[TD_PATH_MAX];
    td_data_config config;
    if (s->model.schema) {
        TD_TRY(td_path_join(manifest, s->job.run, "model/manifest.json"));
        return td_schema_open(s->model.schema, manifest, &s->like);
    }
    if (!trained_on || s->model.rank != 1 || !(s->model.class_names || s->job.one_hot))
        return TD_OK;
    char *wanted = s->job.data;
    s->job.data = trained_on;
    td_status status = td_cli_data_config(&s->job, TD_SPLIT_TRAIN, NULL, &config);
    if (status == TD_OK && td_dataset_open(&config, &s->like) != TD_OK) s->like = NULL;
    s->job.data = wanted;
    return status;
}

/* What the training's servers had, where the run's folder still says so. */
static uint64_t trained_memory(const char *run)
{
    td_job trained;
    char path[TD_PATH_MAX];
    uint64_t bytes = 0;
    td_status status = td_job_init(&trained);
    if (status == TD_OK) status = td_path_join(path, run, "job.yaml");
    if (status == TD_OK) status = td_job_read_file(path, &trained);
    if (status == TD_OK) bytes = trained.table_memory;
    td_options_fini(td_job_rows, &trained);
    td_error_clear();
    return bytes;
}

/* The options of the training, then the flags over them. */
static td_status read_options(unsigned where, int argc, char **argv, session *s)
{
    td_arguments arguments = {.where = where};
    TD_TRY(td_job_init(&s->job));
    TD_TRY(td_options_parse(td_job_rows, &s->job, argc, argv, &arguments));
    if (!s->job.run)
        return td_fail(TD_ERR_ARG, "--run is missing: name the folder of a trained run");
    TD_TRY(td_net_model_open(s->job.run, &s->model));
    uint64_t memory = trained_memory(s->job.run);
    td_options_fini(td_job_rows, &s->job);
    TD_TRY(td_job_init(&s->job));
    s->job.table_memory = memory;
    TD_TRY(take_options(&s->model, &s->job));
    char *trained_on = s->job.data;
    s->job.data = NULL;
    td_status status = td_options_parse(td_job_rows, &s->job, argc, argv, &arguments);
    if (status == TD_OK && !s->job.data)
        status = td_fail(TD_ERR_ARG, "--data is missing: name a file or folder");
    if (status == TD_OK) status = open_like(s, trained_on);
    if (status == TD_OK) status = td_net_model_hold(&s->model, s->job.table_memory);
    td_free(trained_on);
    return status;
}

static td_status open_data(bool labels, session *s)
{
    td_data_config config;
    td_split split = td_cli_has_test(s->job.data) ? (td_split)s->job.split : TD_SPLIT_TRAIN;
    TD_TRY(td_cli_data_config(&s->job, split, s->like, &config));
    config.no_labels = !labels;
    if (s->model.rank == 1 && !s->like) {
        config.features = 1;
        for (int d = 0; d < s->model.rank; d++) config.features *= s->model.shape[d];
    }
    TD_TRY(td_dataset_open(&config, &s->data));
    return td_net_model_fits(&s->model, s->data);
}

static void close_session(session *s)
{
    td_dataset_close(s->data);
    td_dataset_close(s->like);
    td_net_model_close(&s->model);
    td_options_fini(td_job_rows, &s->job);
}

static td_status open_eval(int argc, char **argv, session *s)
{
    TD_TRY(read_options(TD_JOB_EVAL, argc, argv, s));
    TD_TRY(open_data(true, s));
    return td_net_model_check_targets(&s->model, s->data);
}

static td_status score_rank(td_comm *comm, void *arg)
{
    session *s = arg;
    td_cli_record(comm);
    td_score score;
    char loss[32] = "null", auc[80] = ""; /* JSON has no NaN */
    bool proba = s->model.loss != TD_LOSS_HINGE;
    bool classes = td_loss_has_classes(s->model.loss);
    TD_TRY(td_net_model_score(comm, &s->job, s->data, &s->model, &score));
    if (td_comm_rank(comm) != 0) return TD_OK;
    if (isfinite(score.loss)) snprintf(loss, sizeof loss, "%.9g", score.loss);
    if (!isnan(score.auc)) {
        int n = snprintf(auc, sizeof auc, s->job.json ? ",\"auc\":%.6f" : "auc %.6f\n", score.auc);
        if (proba && isfinite(score.calibration))
            snprintf(auc + n, sizeof auc - (size_t)n,
                     s->job.json ? ",\"calibration\":%.6f" : "calibration %.6f\n",
                     score.calibration);
    }
    if (s->job.json && classes)
        printf("{\"accuracy\":%.6f,\"loss\":%s,\"samples\":%.0f%s}\n", score.accuracy, loss,
               score.weight, auc);
    else if (s->job.json)
        printf("{\"loss\":%s,\"samples\":%.0f}\n", loss, score.weight);
    else if (classes)
        printf("%saccuracy %.4f loss %.6f\n", auc, score.accuracy, score.loss);
    else
        printf("loss %.6f\n", score.loss);
    return fflush(stdout) == 0 ? TD_OK : td_fail_errno("cannot write the result");
}

td_status td_cmd_eval(int argc, char **argv)
{
    session s = {0};
    td_status status = open_eval(argc, argv, &s);
    status = td_cli_run(s.job.workers, NULL, status, score_rank, &s);
    close_session(&s);
    return status;
}

/* --- predictions --- */

static void print_values(const float *p, size_t n, bool json)
{
    for (size_t c = 0; c < n; c++)
        if (json && !isfinite(p[c]))
            printf("%snull", c ? "," : "");
        else
            printf("%s%.6g", !c ? "" : json ? "," : "\t", (double)p[c]);
}

/* The class as JSON: its name, or its number where it has none. */
static td_status print_class(const session *s, size_t class)
{
    char *text = NULL;
    if (!s->model.class_names) {
        printf("{\"class\":%zu", class);
        return TD_OK;
    }
    json_t *name = td_text_to_json(s->model.class_names[class]);
    td_status status = td_json_text(name, JSON_ENCODE_ANY | JSON_COMPACT, &text);
    if (status == TD_OK) printf("{\"class\":%s", text);
    td_free(text);
    json_decref(name);
    return status;
}

static td_status print_row(const session *s, const float *p, size_t outputs)
{
    bool json = s->job.json;
    size_t best = 0;
    if (!td_loss_has_classes(s->model.loss)) {
        if (json && !isfinite(p[0]))
            puts("{\"value\":null}");
        else
            printf(json ? "{\"value\":%.9g}\n" : "%.9g\n", (double)p[0]);
        return TD_OK;
    }
    if (s->model.loss != TD_LOSS_SOFTMAX)
        best = p[0] > (s->model.loss == TD_LOSS_HINGE ? 0 : 0.5f);
    else
        for (size_t c = 1; c < outputs; c++)
            if (p[c] > p[best]) best = c;
    if (json) {
        TD_TRY(print_class(s, best));
        if (s->job.proba) fputs(",\"proba\":[", stdout), print_values(p, outputs, true);
        puts(s->job.proba ? "]}" : "}");
    } else if (s->job.proba) {
        print_values(p, outputs, false);
        putchar('\n');
    } else if (s->model.class_names) {
        puts(s->model.class_names[best]);
    } else {
        printf("%zu\n", best);
    }
    return TD_OK;
}

enum { CHUNK = 64 };

/* Rank 0 prints a round of chunks, [ranks][CHUNK][outputs], from sample `at` on. */
static td_status print_round(const session *s, const float *all, int ranks, uint64_t at)
{
    uint64_t samples = td_dataset_info(s->data)->samples;
    size_t outputs = td_net_model_outputs(&s->model);
    for (size_t r = 0; r < (size_t)ranks * CHUNK && at + r < samples; r++)
        TD_TRY(print_row(s, all + r * outputs, outputs));
    return TD_OK;
}

/* Round by round each rank takes the next chunk of samples. */
static td_status predict_rank(td_comm *comm, void *arg)
{
    const session *s = arg;
    td_cli_record(comm);
    const td_data_info *info = td_dataset_info(s->data);
    size_t values = CHUNK * td_net_model_outputs(&s->model);
    uint64_t rank = (uint64_t)td_comm_rank(comm), size = (uint64_t)td_comm_size(comm);
    td_net_place *place = NULL;
    float *x = td_alloc_aligned(CHUNK * info->features * sizeof *x);
    float *p = td_calloc(values, sizeof *p);
    float *all = td_calloc(values * (rank ? 1 : size), sizeof *all); /* only rank 0's is used */
    td_status status = td_net_place_create(&s->model, 1, CHUNK, false, &place);
    if (status == TD_OK && (!x || !p || !all))
        status = td_fail(TD_ERR_NOMEM, "no memory to predict");
    TD_GOTO(td_comm_agree(comm, status));
    for (uint64_t at = 0; at < info->samples; at += size * CHUNK) {
        uint64_t begin = at + rank * CHUNK;
        uint64_t left = begin < info->samples ? info->samples - begin : 0;
        size_t n = left < CHUNK ? (size_t)left : CHUNK;
        if (n) TD_GOTO(td_net_model_predict(&s->model, place, s->data, begin, n, x, p));
        TD_GOTO(td_comm_gather(comm, p, values * sizeof *p, all, 0));
        if (rank == 0) TD_GOTO(print_round(s, all, (int)size, at));
    }
    if (rank == 0 && fflush(stdout) != 0) status = td_fail_errno("cannot write the predictions");
out:
    td_free(x);
    td_free(p);
    td_free(all);
    td_net_place_destroy(place);
    return status;
}

td_status td_cmd_predict(int argc, char **argv)
{
    session s = {0};
    td_status status = read_options(TD_JOB_PREDICT, argc, argv, &s);
    if (status == TD_OK) status = open_data(false, &s);
    status = td_cli_run(s.job.workers, NULL, status, predict_rank, &s);
    close_session(&s);
    return status;
}
