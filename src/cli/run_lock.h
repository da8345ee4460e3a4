/* One job at a time in a run's folder: RUN/lock, held by the process that writes there.
 *
 * The kernel's lock on the file decides, on one host and, through NFS, over several; it ends with
 * the process, however that dies, so a lock file that was left is taken over. Where a file system
 * has no locks its text decides, "tandem HOST PID START": a process of this host that no longer
 * lives holds nothing. No clock is compared. Not handled: NFS mounted so that locks stay local. */
#ifndef TD_CLI_RUN_LOCK_H
#define TD_CLI_RUN_LOCK_H

#include "base/fs.h"

typedef struct td_run_lock {
    int fd; /* 0: not held */
    char path[TD_PATH_MAX];
} td_run_lock;

/* Takes the lock of a folder that exists; fine when it is held already. TD_ERR_ARG: another job has
 * it, with the sentence that names it; TD_ERR_IO. */
TD_MUST_CHECK td_status td_run_lock_take(const char *run, td_run_lock *lock);
/* Gives it back and removes the file; a zeroed one is fine. */
void td_run_lock_release(td_run_lock *lock);
/* Whether a job that lives holds it. Looks only, as often as one likes. */
bool td_run_lock_is_held(const char *run);
/* Who holds it, or held it last; false when nobody. */
bool td_run_lock_holder(const char *run, char host[256], int *pid);

#endif
