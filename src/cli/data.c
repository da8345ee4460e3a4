/* From a job's options to data sets. */
#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/log.h"
#include "cli/cli.h"
#include "tandem/net.h"

#include <dirent.h>
#include <math.h>
#include <string.h>

static td_status by_name(const char *what, const char *word, const char *const *names, int *out)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], word)) {
            *out = i;
            return TD_OK;
        }
    return td_fail(TD_ERR_ARG, "%s: \"%s\" is not known; see \"tandem help train\"", what, word);
}

td_status td_cli_data_config(const td_job *job, td_split split, const td_dataset *like,
                             td_data_config *out)
{
    int format = 0, kind = 0;
    if (job->data_format) TD_TRY(by_name("--format", job->data_format, td_format_names, &format));
    if (job->label_kind)
        TD_TRY(by_name("--label-kind", job->label_kind, td_label_kind_names, &kind));
    bool of_values = job->loss == TD_LOSS_SQUARED + 1 || job->loss == TD_LOSS_POISSON + 1;
    if (kind == TD_LABEL_AUTO && of_values) kind = TD_LABEL_VALUE; /* also small whole numbers */
    *out = (td_data_config){
        .path = job->data,
        .split = split,
        .format = (td_format)format,
        .label = job->label,
        .label_kind = (td_label_kind)kind,
        .counts = job->loss == TD_LOSS_POISSON + 1,
        .header = job->header,
        .delimiter = job->delimiter,
        .weight_column = job->weights,
        .categorical = job->categorical,
        .missing = job->missing,
        .one_hot = job->one_hot,
        .hash_categories = td_net_model_is_sparse(job->model),
        .hash_seed = job->hash_seed,
        .index_base = job->index_base,
        .like = like,
        .cache = job->cache,
    };
    return TD_OK;
}

static void warn_of_gaps(const char *path, const td_dataset *data, int classes)
{
    uint64_t samples = td_dataset_info(data)->samples;
    bool *seen = td_calloc((size_t)classes, sizeof *seen);
    int missing = classes;
    for (uint64_t i = 0; seen && i < samples; i++) {
        int32_t label = td_dataset_label(data, i);
        missing -= !seen[label];
        seen[label] = true;
    }
    if (seen && missing > 0)
        td_warn("%s: labels run from 0 to %d, but %d of these %d classes have no sample", path,
                classes - 1, missing, classes);
    td_free(seen);
}

static void warn_of_numbers(const char *path, const td_dataset *data)
{
    enum { MOST = 100 };
    float seen[MOST], low = INFINITY, high = -INFINITY;
    uint64_t samples = td_dataset_info(data)->samples;
    int count = 0;
    for (uint64_t i = 0; i < samples; i++) {
        float x = td_dataset_target(data, i);
        int k = 0;
        while (k < count && seen[k] != x) k++;
        if (x != truncf(x) || k == MOST) return;
        if (k == count) seen[count++] = x;
        low = fminf(low, x), high = fmaxf(high, x);
    }
    td_warn("%s: labels are whole numbers from %g to %g and are taken for values to predict; "
            "--label-kind class makes them classes, --label-kind value says that this is right",
            path, (double)low, (double)high);
}

void td_cli_warn_of_labels(const td_job *job, const td_dataset *train)
{
    const td_data_info *info = td_dataset_info(train);
    bool decided = job->loss || (job->label_kind && strcmp(job->label_kind, "auto") != 0);
    if (info->classes == 1)
        td_warn("%s: all samples are of one class; there is nothing to learn", job->data);
    else if (info->classes && !info->class_names)
        warn_of_gaps(job->data, train, info->classes);
    else if (!info->classes && !decided)
        warn_of_numbers(job->data, train);
}

bool td_cli_has_test(const char *path)
{
    DIR *dir = opendir(path);
    bool found = false;
    for (struct dirent *e; dir && !found && (e = readdir(dir));)
        found = !strncmp(e->d_name, "t10k", 4) || !strncmp(e->d_name, "test", 4) ||
                strstr(e->d_name, "_test.") != NULL;
    if (dir) closedir(dir);
    return found;
}
