/* tandem run: starts a training job under mpiexec and watches over it.
 *
 * A job that dies is started again from its newest checkpoint, on the hosts that still answer. It
 * ends with its success, a signal, a mistake (which a restart would repeat), or after
 * --max-restarts in turn that brought no newer checkpoint.
 *
 * A host that loses its power or its network closes no connection, and mpiexec does not notice. So
 * the hosts are asked every --watch seconds whether they answer; when one does not, MISSES times in
 * turn, and the job makes no step meanwhile, the job is ended and starts again. A job that stands
 * still on hosts that answer is left to itself: a rank that waits for another longer than
 * --deadline ends it. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/log.h"
#include "ckpt/bundle.h"
#include "cli/hosts.h"
#include "cli/launch.h"
#include "cli/run_lock.h"
#include "comm/recorder.h"
#include "comm/transport.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PROBE_S = 10, LONGEST_PAUSE_S = 60, LOCK_PATIENCE_S = 30, TEXT = 4096 };
enum { MISSES = 3 };

typedef struct watch {
    td_job run, train; /* what was said before the "--", and behind it */
    int argc;          /* behind it, with "train" */
    char **argv;
    td_host *hosts; /* [host_count], or NULL: this machine */
    int host_count;
    char program[TD_PATH_MAX], launcher[TD_PATH_MAX]; /* this one; MPI's where it is found */
    char *mpiexec;                                    /* run.mpiexec, cut into words */
    char ranks[16], spares[16], least[16], host_list[TEXT];
    bool ulfm;              /* MPI recovers: spares wait, and workers may die */
    int wanted;             /* workers */
    struct stat job_before; /* the job.yaml of an older run; all zero: none */
    int misses;             /* looks in turn at which a host did not answer, and no step was made */
    uint64_t made;          /* progress at the last look */
    int failures;           /* in turn, without a newer checkpoint */
    int interrupted;        /* the signal, or 0 */
} watch;

/* --- options --- */

static td_status check_words(int argc, char **argv, int *out_split)
{
    int split = 0;
    while (split < argc && strcmp(argv[split], "--") != 0) split++;
    if (split >= argc - 1)
        return td_fail(TD_ERR_ARG, "the job is missing: write it behind \"--\", as in \"tandem run "
                                   "--workers 4 -- train --data PATH --run FOLDER\"");
    if (strcmp(argv[split + 1], "train") != 0)
        return td_fail(TD_ERR_ARG,
                       "tandem run watches over \"train\", not \"%s\"; start that by itself or "
                       "under mpiexec",
                       argv[split + 1]);
    *out_split = split;
    return TD_OK;
}

static int slots_now(const watch *w)
{
    if (w->hosts) return td_hosts_slots(w->hosts, w->host_count);
    return w->run.workers + w->run.spares;
}

static td_status check_counts(const watch *w, const bool *given)
{
    const td_job *run = &w->run;
    int slots = slots_now(w);
    for (int i = 0; td_job_rows[i].name; i++)
        if (w->hosts && given[i] && !strcmp(td_job_rows[i].name, "workers"))
            return td_fail(TD_ERR_ARG, "--workers is for this machine alone; with --hosts write "
                                       "their places, as in a:4,b:4");
    if (!w->hosts && run->workers > w->train.leaves)
        return td_fail(TD_ERR_ARG,
                       "--workers %d is more than the %d leaves of a batch; use at most %d workers "
                       "or give more --leaves behind the \"--\"",
                       run->workers, w->train.leaves, w->train.leaves);
    if (run->spares >= slots)
        return td_fail(TD_ERR_ARG, "--spares %d leaves no worker of the %d places in --hosts",
                       run->spares, slots);
    if (run->min_workers > slots - run->spares)
        return td_fail(TD_ERR_ARG, "--min-workers %d is more than the %d worker%s of the job",
                       run->min_workers, slots - run->spares, run->spares + 1 == slots ? "" : "s");
    return TD_OK;
}

static td_status read_watch(watch *w, int argc, char **argv)
{
    bool given[256] = {false};
    const char *none[1];
    int split = 0;
    td_arguments before = {.where = TD_JOB_RUN, .rest = none, .rest_room = 0, .given = given};
    TD_TRY(td_job_init(&w->run));
    TD_TRY(td_job_init(&w->train));
    TD_TRY(check_words(argc, argv, &split));
    TD_TRY(td_options_parse(td_job_rows, &w->run, split, argv, &before));
    w->argc = argc - split - 1, w->argv = argv + split + 1;
    td_options_fini(td_job_rows, &w->train);
    TD_TRY(td_cli_read_train(w->argc - 1, w->argv + 1, &w->train));
    if (w->run.hosts) TD_TRY(td_hosts_parse(w->run.hosts, &w->hosts, &w->host_count));
    /* Written behind the "--": */
    if (w->run.workers == 1 && !w->hosts) w->run.workers = w->train.workers;
    if (!w->run.spares) w->run.spares = w->train.spares;
    if (w->run.min_workers == 1) w->run.min_workers = w->train.min_workers;
    TD_TRY(check_counts(w, given));
    w->wanted = slots_now(w) - w->run.spares;
    return TD_OK;
}

/* --- the command line --- */

static td_status find_programs(watch *w)
{
    const td_mpi_module *module = NULL;
    ssize_t n = readlink("/proc/self/exe", w->program, sizeof w->program - 1);
    if (n < 0) return td_fail_errno("cannot find this program");
    if (td_mpi_load(&module) == TD_OK) module->launcher(w->launcher);
    char version[256];
    if (td_comm_mpi_version(version, &w->ulfm) != TD_OK) w->ulfm = false;
    td_error_clear();
    w->mpiexec = td_strdup(w->run.mpiexec);
    return w->mpiexec ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a command line");
}

/* Of so many places, at most one a leaf. Where MPI cannot recover, spares work like the others. */
static int workers_to_start(const watch *w, int slots)
{
    int most = w->ulfm && w->run.spares && w->wanted < slots ? w->wanted : slots;
    return most < w->train.leaves ? most : w->train.leaves;
}

static int spares_to_start(const watch *w, int slots)
{
    int left = slots - workers_to_start(w, slots);
    if (!w->ulfm) return 0;
    return left < w->run.spares ? left : w->run.spares;
}

static bool on_path(const char *program)
{
    char path[TD_PATH_MAX];
    const char *folders = getenv("PATH");
    for (const char *at = folders; at && *at; at += strcspn(at, ":"), at += *at == ':') {
        snprintf(path, sizeof path, "%.*s/%s", (int)strcspn(at, ":"), at, program);
        if (access(path, X_OK) == 0) return true;
    }
    return false;
}

static td_status add_launcher(watch *w, td_line *line)
{
    char *at = strcpy(w->mpiexec, w->run.mpiexec);
    bool default_one = !strcmp(w->run.mpiexec, "mpiexec");
    if (default_one && !on_path("mpiexec") && *w->launcher) return td_line_add(line, w->launcher);
    for (char *word; (word = strsep(&at, " "));)
        if (*word) TD_TRY(td_line_add(line, word));
    if (line->count == 0) return td_fail(TD_ERR_ARG, "--mpiexec is empty; name MPI's launcher");
    return TD_OK;
}

/* What the job must know of this command's options, also where its own say otherwise. */
static td_status add_counts(watch *w, int spares, td_line *line)
{
    snprintf(w->spares, sizeof w->spares, "%d", spares);
    snprintf(w->least, sizeof w->least, "%d", w->run.min_workers);
    const char *const words[] = {"--spares", w->spares, "--min-workers", w->least};
    for (int i = w->run.spares ? 0 : 2; i < (w->run.min_workers > 1 ? 4 : 2); i++)
        TD_TRY(td_line_add(line, words[i]));
    return TD_OK;
}

/* mpiexec ... -n N tandem train ..., on the hosts that answer. */
static td_status make_line(watch *w, bool again, td_line *line)
{
    int slots = slots_now(w), spares = spares_to_start(w, slots);
    line->count = 0;
    TD_TRY(add_launcher(w, line));
    const char *const recovery[] = {"--with-ft", "ulfm"};
    for (int i = 0; w->ulfm && i < 2; i++) TD_TRY(td_line_add(line, recovery[i]));
    if (w->hosts) {
        td_hosts_text(w->hosts, w->host_count, true, true, w->host_list, sizeof w->host_list);
        const char *const where[] = {"--prtemca", "plm_ssh_agent", w->run.agent, "--host",
                                     w->host_list};
        for (int i = strcmp(w->run.agent, "ssh") ? 0 : 3; i < 5; i++)
            TD_TRY(td_line_add(line, where[i]));
    }
    snprintf(w->ranks, sizeof w->ranks, "%d", workers_to_start(w, slots) + spares);
    const char *const rest[] = {"--map-by", ":OVERSUBSCRIBE", "--bind-to", "none",
                                "-n",       w->ranks,         w->program};
    for (size_t i = 0; i < sizeof rest / sizeof *rest; i++) TD_TRY(td_line_add(line, rest[i]));
    if (!again || w->train.resume) {
        for (int i = 0; i < w->argc; i++) TD_TRY(td_line_add(line, w->argv[i]));
        return add_counts(w, spares, line);
    }
    const char *const resume[] = {"train", "--run", w->train.run, "--resume"};
    for (int i = 0; i < 4; i++) TD_TRY(td_line_add(line, resume[i]));
    if (w->train.quiet) TD_TRY(td_line_add(line, "--quiet"));
    if (w->train.json) TD_TRY(td_line_add(line, "--json"));
    return add_counts(w, spares, line);
}

/* --- what there is --- */

static td_status probe(watch *w)
{
    char command[TEXT];
    bool own = w->run.probe && *w->run.probe, ssh = !strcmp(w->run.agent, "ssh");
    if (!w->hosts) return TD_OK;
    snprintf(command, sizeof command, "%s%s", own ? w->run.probe : w->run.agent,
             !own && ssh ? " -o BatchMode=yes -o ConnectTimeout=5" : "");
    return td_hosts_probe(w->hosts, w->host_count, command, own ? "" : "true", PROBE_S);
}

static td_status probe_first(watch *w)
{
    char text[TEXT];
    TD_TRY(probe(w));
    int lost = td_hosts_text(w->hosts, w->host_count, false, false, text, sizeof text);
    if (lost == 0) return TD_OK;
    return td_fail(TD_ERR_ARG, "--hosts: %s %s not answer (\"%s %s ...\" fails); mend or leave out",
                   text, lost > 1 ? "do" : "does",
                   w->run.probe && *w->run.probe ? w->run.probe : w->run.agent,
                   lost > 1 ? "HOST" : text);
}

/* The newest checkpoint's step, or -1. */
static long long newest_step(const watch *w)
{
    char folder[TD_PATH_MAX], path[TD_PATH_MAX];
    uint64_t step;
    bool found = td_path_join(folder, w->train.run, "checkpoints") == TD_OK &&
                 td_bundle_newest(folder, "step", UINT64_MAX, &step, path) == TD_OK;
    if (!found) td_error_clear();
    return found ? (long long)step : -1;
}

static void stat_job(const watch *w, struct stat *out)
{
    char path[TD_PATH_MAX];
    memset(out, 0, sizeof *out);
    if (td_path_join(path, w->train.run, "job.yaml") != TD_OK || stat(path, out) != 0)
        memset(out, 0, sizeof *out);
}

/* Whether the job has come so far that it can be resumed: its folder is no longer an older run's.
 */
static bool has_begun(const watch *w)
{
    struct stat now;
    const struct stat *then = &w->job_before;
    stat_job(w, &now);
    return now.st_ino &&
           (now.st_ino != then->st_ino || now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != then->st_mtim.tv_nsec);
}

/* Changes with every step of the job, as far as its folder tells. */
static uint64_t progress_made(const watch *w)
{
    char path[TD_PATH_MAX], folder[TD_PATH_MAX], name[32];
    struct stat file;
    uint64_t made = 0;
    if (td_path_join(path, w->train.run, "metrics.jsonl") == TD_OK && stat(path, &file) == 0)
        made += (uint64_t)file.st_size;
    for (int r = 0, ranks = atoi(w->ranks); r < ranks; r++) {
        td_recorder_head head;
        snprintf(name, sizeof name, "rank-%d", r);
        FILE *f = td_path_join(folder, w->train.run, "recorder") == TD_OK &&
                          td_path_join(path, folder, name) == TD_OK
                      ? fopen(path, "rb")
                      : NULL;
        if (f && fread(&head, sizeof head, 1, f) == 1) made += head.step;
        if (f) fclose(f);
    }
    td_error_clear();
    return made;
}

/* While the job runs, every --watch seconds. */
static bool is_stuck(void *user)
{
    watch *w = user;
    char text[TEXT];
    uint64_t made = progress_made(w);
    bool all = probe(w) != TD_OK ||
               !td_hosts_text(w->hosts, w->host_count, false, false, text, sizeof text);
    w->misses = all ? 0 : made != w->made ? 1 : w->misses + 1;
    w->made = made;
    return w->misses >= MISSES;
}

/* Waits until the dead job's last process has gone. The lock of one on a host that does not answer
 * is taken away: a file system may hold it for minutes. */
static td_status wait_for_lock(watch *w)
{
    char host[256];
    td_run_lock lock = {0};
    int pid;
    if (!td_path_is_dir(w->train.run)) return TD_OK;
    for (int i = 0;; i++) {
        td_status status = td_run_lock_take(w->train.run, &lock);
        td_run_lock_release(&lock);
        if (status != TD_ERR_ARG || i == 2 * LOCK_PATIENCE_S) return status;
        bool lost = td_run_lock_holder(w->train.run, host, &pid) && !td_host_is_here(host);
        for (int k = 0; k < w->host_count && lost; k++)
            lost = strcmp(w->hosts[k].name, host) != 0 || !w->hosts[k].answers;
        char path[TD_PATH_MAX];
        if (lost && i >= 4 && td_path_join(path, w->train.run, "lock") == TD_OK) unlink(path);
        if (td_launch_sleep(0.5, &w->interrupted)) return TD_ERR_INTERRUPTED;
    }
}

/* --- the watch --- */

static void say_restart(const watch *w, const char *why, int pause, long long step)
{
    char left[TEXT] = "this machine is", lost[TEXT] = "", from[64] = "the beginning";
    if (w->hosts) {
        td_hosts_text(w->hosts, w->host_count, true, true, left, sizeof left - 8);
        strcat(left, " left");
        int n = td_hosts_text(w->hosts, w->host_count, false, false, lost, sizeof lost - 32);
        if (n) strcat(lost, n > 1 ? " do not answer" : " does not answer");
    } else {
        snprintf(left, sizeof left, "%d here", workers_to_start(w, slots_now(w)));
    }
    if (step >= 0) snprintf(from, sizeof from, "step %lld", step);
    fprintf(stderr, "tandem: %s; restart %d of %d in %d s on %s%s%s%s, from %s\n", why, w->failures,
            w->run.max_restarts, pause, left, *lost ? " (" : "", lost, *lost ? ")" : "", from);
}

/* Decides about a job that has died; TD_OK when it is to be started again, after the pause. */
static td_status after_death(watch *w, int code, long long step_before)
{
    char why[64], lost[TEXT];
    long long step = newest_step(w);
    if (code == TD_LAUNCH_STUCK)
        snprintf(why, sizeof why, "the job stood still and was ended");
    else if (code > 128 && code < 160)
        snprintf(why, sizeof why, "the job was ended by signal %d (status %d)", code - 128, code);
    else if (code == 0)
        snprintf(why, sizeof why, "the job ended without a model");
    else
        snprintf(why, sizeof why, "the job failed with status %d", code);
    if (step > step_before) w->failures = 0;
    if (w->failures++ >= w->run.max_restarts)
        return td_fail(TD_ERR_PEER, "%s; given up after %d restarts without a newer checkpoint",
                       why, w->run.max_restarts);
    TD_TRY(probe(w));
    int workers = workers_to_start(w, slots_now(w));
    if (workers < w->run.min_workers) {
        td_hosts_text(w->hosts, w->host_count, false, false, lost, sizeof lost);
        return td_fail(TD_ERR_PEER,
                       "%s; given up: %.300s do not answer, and %d workers are fewer than "
                       "--min-workers %d",
                       why, lost, workers, w->run.min_workers);
    }
    if (workers == 0) return td_fail(TD_ERR_PEER, "%s; given up: no host answers", why);
    int pause = w->failures > 6 ? LONGEST_PAUSE_S : 1 << (w->failures - 1);
    say_restart(w, why, pause, step);
    if (td_launch_sleep(pause, &w->interrupted)) return TD_ERR_INTERRUPTED;
    return wait_for_lock(w);
}

/* A rank may have died where the others ended well: a job is done when it has left its model. */
static bool is_done(const watch *w, int code)
{
    char model[TD_PATH_MAX];
    return code == 0 && td_path_join(model, w->train.run, "model") == TD_OK &&
           td_bundle_exists(model);
}

static td_status watch_over(watch *w)
{
    td_line line = {.count = 0};
    td_launch_look look = {w->hosts ? w->run.watch_s : 0, is_stuck, w};
    int code = 0;
    for (bool again = false;; again = has_begun(w)) {
        long long step = newest_step(w);
        w->misses = 0;
        TD_TRY(make_line(w, again, &line));
        TD_TRY(td_launch_run(&line, &look, &w->interrupted, &code));
        if (is_done(w, code)) return TD_OK;
        if (w->interrupted) return TD_ERR_INTERRUPTED;
        if (code == 128 + SIGINT || code == 128 + SIGTERM) exit(code); /* stopped by someone else */
        if (code == 2)
            return td_fail(TD_ERR_ARG, "given up: the job ended by a mistake, which is told above");
        TD_TRY(after_death(w, code, step));
    }
}

td_status td_cmd_run(int argc, char **argv)
{
    watch w = {.failures = 0};
    td_line line = {.count = 0};
    td_status status;
    td_launch_init();
    TD_GOTO(read_watch(&w, argc, argv));
    TD_GOTO(find_programs(&w));
    if (w.run.dry_run) {
        TD_GOTO(make_line(&w, false, &line));
        td_line_print(&line);
        goto out;
    }
    stat_job(&w, &w.job_before);
    if (w.run.spares && !w.ulfm)
        td_warn("this MPI cannot go on when a rank is lost: --spares %d work like the others, and "
                "recovery is a restart from the newest checkpoint",
                w.run.spares);
    TD_GOTO(probe_first(&w));
    status = watch_over(&w);
out:
    td_options_fini(td_job_rows, &w.run);
    td_options_fini(td_job_rows, &w.train);
    td_free(w.mpiexec);
    td_free(w.hosts);
    if (status == TD_ERR_INTERRUPTED) exit(128 + (w.interrupted == SIGINT ? SIGINT : SIGTERM));
    return status;
}
