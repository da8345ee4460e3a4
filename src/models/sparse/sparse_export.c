/* A model's rows to a file for other tools: see net_model.h. They go from where they are mapped to
 * the file's buffers, so it takes no memory to speak of, however many they are. */
#include "base/error.h"
#include "models/sparse/sparse_part.h"
#include "ps/transfer.h"
#include "train/checkpoint.h"

/* Rows with states, from the job's newest checkpoint, in the place of the model's. */
static td_status take_states(td_net_model *m, const td_job *job)
{
    td_sparse_part *p = m->sparse;
    td_task task = {.arch = p->arch};
    td_train_state state;
    td_bundle b = {0};
    td_rows_mapped *files = NULL;
    td_table_config config = {.width = td_net_model_width(m), .rule = td_rows_rule(job), .lr = 1};
    char path[TD_PATH_MAX];
    int64_t found = TD_CHECKPOINT_NONE,
            made = json_integer_value(json_object_get(m->metrics, "step"));
    TD_TRY(td_checkpoint_find(job, &task, &found));
    if (found != made)
        return td_fail(TD_ERR_ARG,
                       "--states: %s has no checkpoint of step %lld, of which its model is",
                       job->run, (long long)made);
    TD_TRY(td_checkpoint_path(job, (uint64_t)found, path));
    td_status status = td_checkpoint_open(path, job, &task, &b, &state);
    if (status == TD_OK) status = td_rows_map(&b, &config, &files);
    td_bundle_close(&b);
    TD_TRY(status);
    td_rows_unmap(p->files);
    p->files = files;
    return TD_OK;
}

/* The options that the run was trained with, in its folder as it is called now. */
static td_status with_states(td_net_model *m, const td_job *job)
{
    td_job trained;
    char path[TD_PATH_MAX];
    td_status status;
    TD_TRY(td_path_join(path, job->run, "job.yaml"));
    TD_GOTO(td_job_init(&trained));
    TD_GOTO(td_job_read_file(path, &trained));
    TD_GOTO(td_option_set(td_option_by_name(td_job_rows, "run"), &trained, "run", job->run));
    status = take_states(m, &trained);
out:
    td_options_fini(td_job_rows, &trained);
    return status;
}

typedef struct window {
    const td_rows_mapped *files;
    uint64_t first, last;
} window;

static td_status walk(void *self, td_table_each_key_fn *each, void *arg)
{
    const window *w = self;
    return td_rows_mapped_range(w->files, w->first, w->last, each, arg);
}

td_status td_net_model_export(td_net_model *m, const td_job *job, size_t *out_rows)
{
    if (!m->sparse)
        return td_fail(TD_ERR_ARG,
                       "%s holds a network; export is for models whose rows lie under keys: "
                       "linear, "
                       "fm, ffm, dlrm",
                       job->run);
    if (job->states) TD_TRY(with_states(m, job));
    const td_rows_mapped *files = m->sparse->files;
    window w = {files, job->from_key, job->to_key};
    td_transfer_rows rows = {.config = td_rows_mapped_config(files),
                             .states = true,
                             .count = td_rows_mapped_between(files, w.first, w.last),
                             .walk = walk,
                             .self = &w};
    TD_TRY(td_transfer_write(&rows, job->out, m->sparse->meaning));
    *out_rows = rows.count;
    return TD_OK;
}
