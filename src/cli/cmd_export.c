/* tandem export: the rows of a model over features under keys to a file for other tools, or for
 * another run to begin with (tandem train --rows-from). */
#include "cli/cli.h"

#include "base/error.h"
#include "base/fs.h"
#include "models/net/net_model.h"
#include "ps/transfer.h"

#include <stdio.h>

static td_status check(const td_job *job)
{
    if (!job->run || !*job->run)
        return td_fail(TD_ERR_ARG, "--run is missing: name the folder of a trained run");
    if (!job->out || !*job->out)
        return td_fail(TD_ERR_ARG, "--out is missing: the file to write, .tsv or .safetensors");
    TD_TRY(td_transfer_check(job->out));
    if (job->from_key > job->to_key)
        return td_fail(TD_ERR_ARG, "--from %llu is above --to %llu: no key would be written",
                       (unsigned long long)job->from_key, (unsigned long long)job->to_key);
    if (td_path_exists(job->out) && !job->overwrite)
        return td_fail(TD_ERR_ARG, "%s exists already; --overwrite replaces it", job->out);
    return TD_OK;
}

td_status td_cmd_export(int argc, char **argv)
{
    td_job job;
    td_net_model model = {0};
    td_status status;
    size_t rows = 0;
    td_arguments arguments = {.where = TD_JOB_EXPORT};
    TD_TRY(td_job_init(&job));
    TD_GOTO(td_options_parse(td_job_rows, &job, argc, argv, &arguments));
    TD_GOTO(check(&job));
    TD_GOTO(td_net_model_open(job.run, &model));
    TD_GOTO(td_net_model_export(&model, &job, &rows));
    if (!job.quiet)
        printf("%s: %zu rows of %zu weights%s\n", job.out, rows, td_net_model_width(&model),
               job.states ? ", and their states" : "");
out:
    td_net_model_close(&model);
    td_options_fini(td_job_rows, &job);
    return status;
}
