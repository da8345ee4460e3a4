/* Any bytes as a job file, and what it says written and read back. */
#include "base/alloc.h"
#include "train/job.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    td_job job, again;
    char *text = NULL;
    if (td_job_init(&job) != TD_OK) return 0;
    if (td_job_init(&again) == TD_OK &&
        td_options_read_yaml(td_job_rows, &job, TD_JOB_FILE, "job.yaml", (const char *)bytes,
                             size) == TD_OK &&
        td_options_write_yaml(td_job_rows, &job, TD_JOB_FILE, &text) == TD_OK)
        if (td_options_read_yaml(td_job_rows, &again, TD_JOB_FILE, "again", text, strlen(text)) ==
                TD_OK &&
            again.lr != job.lr)
            abort();
    td_free(text);
    td_options_fini(td_job_rows, &job);
    td_options_fini(td_job_rows, &again);
    return 0;
}
