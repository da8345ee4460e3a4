/* tandem train: from options to a run. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "cli/run_folder.h"
#include "comm/transport.h"
#include "models/net/net_model.h"
#include "tandem/recover.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct session {
    td_job job;
    td_dataset *whole, *train, *held; /* train and held may be views of whole */
    const char *held_name;
    td_net_model model;
    td_run_folder folder;
    bool leads; /* this process is rank 0, or has become it; all of them where ranks are threads */
    bool fed;   /* data servers read for it */
} session;

static volatile int stop_signal; /* written by the handler alone */

static void on_signal(int number)
{
    if (stop_signal) _Exit(128 + number); /* asked twice: at once */
    stop_signal = number;
}

/* --- options --- */

static bool is_same(const td_option *row, const td_job *a, const td_job *b)
{
    char x[64], y[64];
    if (row->type == TD_OPT_TEXT) {
        const char *p = *(char *const *)((const char *)a + row->offset);
        const char *q = *(char *const *)((const char *)b + row->offset);
        return !strcmp(p ? p : "", q ? q : "");
    }
    td_option_text(row, a, x, sizeof x);
    td_option_text(row, b, y, sizeof y);
    return !strcmp(x, y);
}

/* Only options of TD_JOB_PLACE and TD_JOB_LENGTH may be given other values than the run has. */
static td_status check_changes(const td_job *run, const td_job *now, const char *file)
{
    for (int i = 0; td_job_rows[i].name; i++) {
        const td_option *row = &td_job_rows[i];
        if (row->where & (TD_JOB_PLACE | TD_JOB_LENGTH) || is_same(row, run, now)) continue;
        return td_fail(TD_ERR_ARG, "--%s cannot be changed when a run is resumed%s%s",
                       row->flag ? row->flag : row->name, file ? ", by a flag or in " : "",
                       file ? file : "");
    }
    return TD_OK;
}

/* The job file, if there is one, then the flags over it. */
static td_status read_words(const char *file, int argc, char **argv, td_job *job)
{
    const char *rest[1];
    td_arguments words = {.where = TD_JOB_TRAIN, .rest = rest, .rest_room = 1};
    if (file) TD_TRY(td_job_read_file(file, job));
    return td_options_parse(td_job_rows, job, argc, argv, &words);
}

static td_status read_kept(const char *path, td_job *job)
{
    TD_TRY(td_job_init(job));
    return td_job_read_file(path, job);
}

/* A resumed run's job comes from its folder; what is given besides has to agree with it. */
static td_status resume_job(td_job *job, const char *file, int argc, char **argv)
{
    char path[TD_PATH_MAX];
    td_job run = {0}, now = {0};
    if (!job->run || !*job->run)
        return td_fail(TD_ERR_ARG, "--resume needs --run: name the run's folder");
    TD_TRY(td_path_join(path, job->run, "job.yaml"));
    if (!td_path_exists(path))
        return td_fail(TD_ERR_ARG, "--run %s holds no run to resume (no job.yaml)", job->run);
    td_status status = read_kept(path, &run);
    if (status == TD_OK) status = read_kept(path, &now);
    if (status == TD_OK) status = read_words(file, argc, argv, &now);
    if (status == TD_OK && td_net_model_is_sparse(run.model))
        now.one_hot = run.one_hot; /* whatever was given, the run did without */
    if (status == TD_OK) status = check_changes(&run, &now, file);
    td_options_fini(td_job_rows, &run);
    td_options_fini(td_job_rows, status == TD_OK ? job : &now);
    if (status == TD_OK) *job = now;
    return status;
}

td_status td_cli_read_train(int argc, char **argv, td_job *job)
{
    const char *file[1] = {NULL};
    td_arguments first = {.where = TD_JOB_TRAIN, .rest = file, .rest_room = 1};
    TD_TRY(td_job_init(job));
    TD_TRY(td_options_parse(td_job_rows, job, argc, argv, &first));
    if (job->resume) {
        TD_TRY(resume_job(job, file[0], argc, argv));
    } else if (file[0]) {
        td_options_fini(td_job_rows, job);
        TD_TRY(td_job_init(job));
        TD_TRY(read_words(file[0], argc, argv, job));
    }
    if (td_net_model_is_sparse(job->model)) job->one_hot = false; /* categories are hashed */
    TD_TRY(td_cli_check_effects(job));
    return td_job_check(job);
}

/* --- data and model --- */

/* Options that would do nothing where no data are held out. */
static td_status check_held(const td_job *job)
{
    if (job->resume || !(job->patience || job->keep == 2)) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "%s needs data held out: give --holdout, or a folder with test files as --data",
                   job->patience ? "--patience" : "--keep best");
}

static td_status open_test(session *s)
{
    td_data_config config;
    if (!td_cli_has_test(s->job.data)) return check_held(&s->job);
    TD_TRY(td_cli_data_config(&s->job, TD_SPLIT_TEST, s->whole, &config));
    s->held_name = "test";
    return td_dataset_open(&config, &s->held);
}

/* Where data servers read: the data that they have. Collective. */
static td_status hear_data(session *s, td_comm *comm)
{
    TD_TRY(td_cli_agree_on_test(comm, s->job.data));
    TD_TRY(td_cli_hear_data(comm, &s->job, s->fed, &s->whole, &s->model));
    s->train = s->whole;
    return td_comm_agree(comm, s->fed ? open_test(s) : TD_OK);
}

static td_status open_data(session *s)
{
    td_data_config config;
    if (s->job.label && !strcmp(s->job.label, "none"))
        return td_fail(TD_ERR_ARG, "--label none leaves nothing to learn; name the label column");
    TD_TRY(td_cli_data_config(&s->job, TD_SPLIT_TRAIN, NULL, &config));
    TD_TRY(td_dataset_open(&config, &s->whole));
    s->train = s->whole;
    if (s->job.holdout > 0) {
        s->held_name = "held-out";
        return td_dataset_split(s->whole, s->job.holdout, s->job.seed, &s->train, &s->held);
    }
    return open_test(s);
}

static void close_session(session *s)
{
    td_run_folder_close(&s->folder);
    td_net_model_close(&s->model);
    td_dataset_close(s->held);
    if (s->train != s->whole) td_dataset_close(s->train);
    td_dataset_close(s->whole);
    td_options_fini(td_job_rows, &s->job);
}

/* Under MPI, where no rank would be left to make a group. */
static bool all_are_spares(const td_job *job)
{
    int ranks = td_cli_rank_count();
    return ranks && job->spares >= ranks;
}

static td_status check_ranks(const td_job *job)
{
    int ranks = td_cli_rank_count(), servers = td_job_servers(job);
    int threads = job->workers + servers + job->spares;
    if (all_are_spares(job))
        return td_fail(TD_ERR_ARG,
                       "--spares %d leaves no worker of the job's %d rank%s; give at most %d",
                       job->spares, ranks, ranks == 1 ? "" : "s", ranks - 1);
    if (td_comm_launched_by_mpi() || threads <= TD_COMM_RANKS) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "--workers %d, %d servers and --spares %d are %d ranks; a job has at most %d",
                   job->workers, servers, job->spares, threads, TD_COMM_RANKS);
}

static td_status open_session(session *s, int argc, char **argv)
{
    TD_TRY(td_cli_read_train(argc, argv, &s->job));
    TD_TRY(check_ranks(&s->job));
    s->leads = td_cli_rank() == 0;
    if (s->leads) TD_TRY(td_run_folder_check(&s->folder));
    s->fed = td_cli_is_fed(&s->job);
    if (s->fed) return TD_OK; /* it hears of them */
    TD_TRY(open_data(s));
    if (!s->job.resume) TD_TRY(td_cli_check_data_effects(&s->job, s->train));
    return td_net_model_create(&s->job, s->train, &s->model);
}

static td_status begin(void *arg)
{
    return td_run_folder_begin(&((session *)arg)->folder);
}

static void kept(void *arg)
{
    td_run_folder_kept(&((session *)arg)->folder);
}

static td_status take_over(void *arg)
{
    session *s = arg;
    s->leads = true;
    return td_run_folder_take_over(&s->folder);
}

/* Under MPI one process tells what all know: td_cli_run leaves a mistake to rank 0 of the
 * beginning, which may have died. */
static td_status told_once(const session *s, td_comm *comm, td_status status)
{
    if (!td_comm_launched_by_mpi() || td_comm_rank(comm) == 0) return status;
    if (s->leads && td_exit_code(status) == 2) td_cli_tell_here(comm, status);
    if (!s->leads && status == TD_ERR_INTERRUPTED) td_error_clear();
    return status;
}

static td_status run_rank(td_comm *comm, void *arg)
{
    session *s = arg;
    td_train_hooks hooks = {s, begin, kept, take_over};
    bool joined = td_comm_joined(comm, td_comm_rank(comm));
    td_status status = joined ? TD_OK : td_job_check_ranks(&s->job, td_comm_size(comm));
    if (status == TD_OK && !joined && td_cli_has_fed(&s->job)) status = hear_data(s, comm);
    td_train_data data = {.train = s->train,
                          .held = s->held,
                          .held_name = s->held_name,
                          .normalise = &s->model.normalise,
                          .hooks = &hooks};
    int reader = td_cli_has_fed(&s->job) ? td_comm_size(comm) - td_job_readers(&s->job) : 0;
    if (status == TD_OK && td_comm_rank(comm) == reader && !joined && !s->job.resume)
        td_cli_warn_of_labels(&s->job, s->train);
    if (status == TD_OK) status = td_net_model_train(comm, &s->job, &data, &s->model, &stop_signal);
    /* mpiexec ends a job with its first process; threads end together. */
    if (td_comm_launched_by_mpi()) {
        status = td_run_folder_failed(&s->folder, status);
        if (status != TD_OK) td_run_folder_close(&s->folder);
    }
    return told_once(s, comm, status);
}

td_status td_cmd_train(int argc, char **argv)
{
    session s = {0};
    td_comm_config comm = {0};
    struct sigaction action = {.sa_handler = on_signal};
    td_cli_answer();
    s.folder.job = &s.job;
    td_status status = open_session(&s, argc, argv);
    if (status != TD_OK) td_run_folder_close(&s.folder); /* before others end, see run_rank */
    bool quiet = s.job.quiet;
    comm.deadline_ms = (int64_t)s.job.deadline_s * 1000;
    comm.spares = all_are_spares(&s.job) ? 0 : s.job.spares; /* so that one of them tells it */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGUSR2, &action, NULL); /* mpiexec passes it on and waits */
    status = td_cli_run(s.job.workers + td_job_servers(&s.job) + s.job.spares, &comm, status,
                        run_rank, &s);
    if (!td_comm_launched_by_mpi()) status = td_run_folder_failed(&s.folder, status);
    bool stopped = status == TD_ERR_INTERRUPTED;
    if (stopped && !quiet && *td_last_error()) { /* before mpiexec ends all with the first */
        fprintf(stderr, "tandem: %s\n", td_last_error());
        fflush(stderr);
    }
    close_session(&s);
    if (!stopped) return status;
    exit(128 + (stop_signal == SIGINT ? SIGINT : SIGTERM));
}
