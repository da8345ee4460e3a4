/* The table of readers. A new format is a file with a td_reader, and a row here. */
#include "data/readers/reader.h"

#include "base/error.h"

#include <string.h>

const td_reader *const td_readers[] = {
    &td_reader_idx, &td_reader_npy, &td_reader_libffm, &td_reader_libsvm, &td_reader_tsv,
    &td_reader_csv, NULL,
};

const td_reader *td_reader_find(td_format format)
{
    for (int i = 0; td_readers[i]; i++)
        if (td_readers[i]->format == format) return td_readers[i];
    return NULL;
}

td_status td_reader_run(td_format format, const td_read_job *job, td_dataset **out)
{
    const td_reader *reader = td_reader_find(format);
    if (!reader) return td_fail(TD_ERR_ARG, "data format %d does not exist", (int)format);
    td_dataset *dataset = td_dataset_new();
    if (!dataset) return td_fail(TD_ERR_NOMEM, "no memory for a data set");
    td_status status = TD_OK;
    dataset->info.path = td_dataset_text(dataset, job->main.name, strlen(job->main.name));
    if (!dataset->info.path) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a name");
        goto out;
    }
    TD_GOTO(reader->read(job, dataset));
    if (job->config->like) TD_GOTO(td_dataset_check_like(dataset, job->config->like));
    *out = dataset;
    dataset = NULL;
out:
    td_dataset_close(dataset);
    return status;
}
