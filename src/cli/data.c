/* From a job's options to data sets. */
#include "base/error.h"
#include "base/fs.h"
#include "cli/cli.h"

#include <dirent.h>
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
    *out = (td_data_config){
        .path = job->data,
        .split = split,
        .format = (td_format)format,
        .label = job->label,
        .label_kind = (td_label_kind)kind,
        .header = job->header,
        .delimiter = job->delimiter,
        .weight_column = job->weights,
        .categorical = job->categorical,
        .missing = job->missing,
        .one_hot = job->one_hot,
        .index_base = job->index_base,
        .like = like,
        .cache = job->cache,
    };
    return TD_OK;
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
