/* See run_folder.h. */
#include "cli/run_folder.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LOCK_TRIES = 500, LOCK_PAUSE_NS = 10000000 }; /* five seconds */

static const char *const ours[] = {"job.yaml",  "checkpoints", "model",    "metrics.jsonl",
                                   "model.old", "model.part",  "recorder", "resize",
                                   "resized",   NULL};
static const char aside[] = "replaced";

/* A folder that cannot be written to says so when the run begins. */
static td_status lock_existing(td_run_folder *f)
{
    if (td_path_exists(f->job->run) && !td_path_is_dir(f->job->run))
        return td_fail(TD_ERR_ARG, "--run %s is no folder; name another", f->job->run);
    if (!td_path_is_dir(f->job->run)) return TD_OK;
    td_status status = td_run_lock_take(f->job->run, &f->lock);
    return status == TD_ERR_IO ? TD_OK : status;
}

void td_run_folder_close(td_run_folder *f)
{
    td_run_lock_release(&f->lock);
}

td_status td_run_folder_check(td_run_folder *f)
{
    const td_job *job = f->job;
    char path[TD_PATH_MAX];
    TD_TRY(lock_existing(f));
    if (job->resume || job->overwrite) return TD_OK;
    for (int i = 0; ours[i]; i++) {
        TD_TRY(td_path_join(path, job->run, ours[i]));
        if (!td_path_exists(path)) continue;
        if (i == 0)
            return td_fail(TD_ERR_ARG,
                           "--run %s already holds a run; add --resume to go on with it, "
                           "--overwrite to replace it, or name another folder",
                           job->run);
        return td_fail(TD_ERR_ARG,
                       "--run %s holds \"%s\" but no run to go on with; name another folder, or "
                       "add --overwrite to replace it",
                       job->run, ours[i]);
    }
    return TD_OK;
}

static td_status remove_ours(const char *run)
{
    char path[TD_PATH_MAX];
    for (int i = 0; ours[i]; i++) {
        TD_TRY(td_path_join(path, run, ours[i]));
        TD_TRY(td_remove_tree(path));
    }
    return TD_OK;
}

/* Moves what is ours from one folder to another; makes that when there is something to move. */
static td_status move_ours(const char *from, const char *to)
{
    char a[TD_PATH_MAX], b[TD_PATH_MAX];
    for (int i = 0; ours[i]; i++) {
        TD_TRY(td_path_join(a, from, ours[i]));
        TD_TRY(td_path_join(b, to, ours[i]));
        if (!td_path_exists(a)) continue;
        TD_TRY(td_make_dirs(to));
        if (rename(a, b) != 0) return td_fail_errno("cannot move %s to %s", a, b);
    }
    return TD_OK;
}

/* What lies aside already is an older run whose replacement was killed: that is the one to keep. */
static td_status set_aside(const char *run)
{
    char old[TD_PATH_MAX];
    TD_TRY(td_path_join(old, run, aside));
    return td_path_exists(old) ? remove_ours(run) : move_ours(run, old);
}

/* The length of the longest beginning of the path, up to a '/', that exists. */
static size_t existing_length(const char *run)
{
    char path[TD_PATH_MAX];
    snprintf(path, sizeof path, "%s", run);
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') path[--n] = 0;
    while (n && !td_path_exists(path)) {
        while (n && path[n - 1] != '/') n--;
        while (n > 1 && path[n - 1] == '/') n--;
        path[n] = 0;
    }
    return n;
}

static void remove_made(td_run_folder *f)
{
    td_run_lock_release(&f->lock);
    char path[TD_PATH_MAX];
    snprintf(path, sizeof path, "%s", f->job->run);
    for (size_t n = strlen(path); n > f->there;) {
        while (n > f->there && path[n - 1] == '/') path[--n] = 0;
        if (n <= f->there || rmdir(path) != 0) return; /* the user's own files are in it */
        while (n > f->there && path[n - 1] != '/') path[--n] = 0;
    }
}

static td_status undo(td_run_folder *f)
{
    char old[TD_PATH_MAX];
    TD_TRY(td_path_join(old, f->job->run, aside));
    TD_TRY(remove_ours(f->job->run));
    if (td_path_exists(old)) {
        TD_TRY(move_ours(old, f->job->run));
        TD_TRY(td_remove_tree(old));
    }
    remove_made(f);
    return TD_OK;
}

static td_status write_job(const td_job *job)
{
    char path[TD_PATH_MAX], *yaml = NULL;
    TD_TRY(td_path_join(path, job->run, "job.yaml"));
    TD_TRY(td_options_write_yaml(td_job_rows, job, TD_JOB_FILE, &yaml));
    td_status status = td_write_file(path, yaml, strlen(yaml));
    td_free(yaml);
    return status;
}

/* A resumed run that is to last longer, or less long, says so in its job.yaml from now on; where it
 * runs, this time, does not. */
static td_status keep_length(const td_job *job)
{
    td_job kept;
    char path[TD_PATH_MAX];
    TD_TRY(td_path_join(path, job->run, ours[0]));
    td_status status;
    TD_GOTO(td_job_init(&kept));
    TD_GOTO(td_job_read_file(path, &kept));
    if (kept.epochs == job->epochs && kept.steps == job->steps) goto out;
    kept.epochs = job->epochs, kept.steps = job->steps;
    td_free(kept.run);
    kept.run = td_strdup(job->run);
    status = kept.run ? write_job(&kept) : td_fail(TD_ERR_NOMEM, "no memory for %s", path);
out:
    td_options_fini(td_job_rows, &kept);
    return status;
}

/* As it was, without losing the sentence of what went wrong. */
static td_status undo_for(td_run_folder *f, td_status why)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (undo(f) != TD_OK) td_warn("%s", td_last_error());
    return td_fail_again(why, sentence);
}

td_status td_run_folder_begin(void *folder)
{
    td_run_folder *f = folder;
    const td_job *job = f->job;
    TD_TRY(td_run_folder_check(f));
    if (job->resume) return keep_length(job);
    f->there = existing_length(job->run);
    td_status status = td_make_dirs(job->run);
    if (status == TD_OK) status = td_run_lock_take(job->run, &f->lock);
    if (status != TD_OK) {
        remove_made(f);
        return status;
    }
    if (job->overwrite) status = set_aside(job->run);
    if (status == TD_OK) status = write_job(job);
    if (status != TD_OK) return undo_for(f, status);
    f->begun = true;
    return TD_OK;
}

td_status td_run_folder_take_over(td_run_folder *f)
{
    td_status status = TD_OK;
    for (int i = 0; i < LOCK_TRIES; i++) {
        status = td_run_lock_take(f->job->run, &f->lock);
        if (status == TD_OK) return TD_OK;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_PAUSE_NS}, NULL);
    }
    td_warn("%s; this job was at work there before and goes on", td_last_error());
    td_error_clear();
    return TD_OK;
}

void td_run_folder_kept(void *folder)
{
    td_run_folder *f = folder;
    char old[TD_PATH_MAX];
    f->kept = true;
    if (td_path_join(old, f->job->run, aside) != TD_OK || td_remove_tree(old) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
}

td_status td_run_folder_failed(td_run_folder *f, td_status why)
{
    char old[TD_PATH_MAX];
    if (!f->begun || f->kept || why == TD_OK) return why;
    bool replaces = td_path_join(old, f->job->run, aside) == TD_OK && td_path_exists(old);
    return td_exit_code(why) == 2 || replaces ? undo_for(f, why) : why;
}
