/* A model's rows to a file for other tools: see net_model.h. */
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
    td_table *table = NULL;
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
    if (status == TD_OK) status = td_table_create(&config, &table);
    if (status == TD_OK) status = td_rows_read_all(table, &b);
    td_bundle_close(&b);
    if (status != TD_OK) {
        td_table_destroy(table);
        return status;
    }
    td_table_destroy(p->rows);
    p->rows = table;
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

static bool is_left_out(void *arg, uint64_t key)
{
    const td_job *job = arg;
    return key < job->from_key || key > job->to_key;
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
    td_table_drop(m->sparse->rows, is_left_out, (void *)(uintptr_t)job);
    TD_TRY(td_transfer_export(m->sparse->rows, job->out, m->sparse->meaning));
    *out_rows = td_table_rows(m->sparse->rows);
    return TD_OK;
}
