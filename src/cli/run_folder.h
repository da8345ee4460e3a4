/* The folder of a new run: nothing is touched until all of the job has been checked, and a mistake
 * that shows only in the first steps leaves the folder as it was.
 *
 * What an older run left there moves to RUN/replaced until the new run has its first checkpoint. */
#ifndef TD_CLI_RUN_FOLDER_H
#define TD_CLI_RUN_FOLDER_H

#include "cli/run_lock.h"
#include "train/job.h"

typedef struct td_run_folder {
    const td_job *job; /* borrowed */
    size_t there;      /* length of the part of the path that was there before */
    bool begun, kept;
    td_run_lock lock;
} td_run_folder;

/* TD_ERR_ARG when another job is at work in the folder, or when it holds what a new run would
 * replace and the job does not say so. A folder that exists is this job's from here on, to
 * td_run_folder_close.
 */
TD_MUST_CHECK td_status td_run_folder_check(td_run_folder *folder);
void td_run_folder_close(td_run_folder *folder); /* a zeroed one is fine */

/* For td_train_hooks; `folder` is a td_run_folder. Begin makes the folder and writes job.yaml; in a
 * resumed run's, how long it lasts may change. */
TD_MUST_CHECK td_status td_run_folder_begin(void *folder);
void td_run_folder_kept(void *folder);
/* From the process that wrote there and has died: its lock is free as soon as it is gone. */
TD_MUST_CHECK td_status td_run_folder_take_over(td_run_folder *folder);

/* Passes `why`, the run's result, on. A run that fails before its first checkpoint, by a mistake or
 * in place of another, leaves the folder as it was. */
TD_MUST_CHECK td_status td_run_folder_failed(td_run_folder *folder, td_status why);

#endif
