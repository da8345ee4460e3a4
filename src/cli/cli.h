/* The program's subcommands: one file each, one row each in main.c. */
#ifndef TD_CLI_CLI_H
#define TD_CLI_CLI_H

#include "models/net/net_model.h"
#include "tandem/comm.h"
#include "tandem/data.h"
#include "train/job.h"

typedef struct td_command {
    const char *name;
    unsigned where; /* bit of td_option.where for its flags; 0: none */
    const char *usage, *help;
    td_status (*run)(int argc, char **argv);
    bool ranks; /* uses those that mpiexec started; else one of them runs it */
} td_command;

extern const td_command td_commands[]; /* ends with a row without name */

td_status td_cmd_train(int argc, char **argv);
td_status td_cmd_run(int argc, char **argv);
td_status td_cmd_eval(int argc, char **argv);
td_status td_cmd_predict(int argc, char **argv);
td_status td_cmd_export(int argc, char **argv);
td_status td_cmd_inspect(int argc, char **argv);
td_status td_cmd_diagnose(int argc, char **argv);
td_status td_cmd_resize(int argc, char **argv);
td_status td_cmd_bench(int argc, char **argv);
/* tandem bench --comm, of options that have been read with the result `prepared`. */
td_status td_bench_comm(const td_job *job, td_status prepared);
td_status td_cmd_synth(int argc, char **argv);
td_status td_cmd_doctor(int argc, char **argv);
td_status td_cmd_help(int argc, char **argv);

/* The options of "tandem train": job file, flags, the job of a run that is resumed. Release with
 * td_options_fini(td_job_rows, job), also after a failure. */
TD_MUST_CHECK td_status td_cli_read_train(int argc, char **argv, td_job *job);
/* TD_ERR_ARG: an option has been given that would do nothing in this job. */
TD_MUST_CHECK td_status td_cli_check_effects(const td_job *job);
TD_MUST_CHECK td_status td_cli_check_data_effects(const td_job *job, const td_dataset *data);
/* The job's data options as a data configuration; borrows the job's texts. */
TD_MUST_CHECK td_status td_cli_data_config(const td_job *job, td_split split,
                                           const td_dataset *like, td_data_config *out);
/* Labels that were read by themselves as something that they are perhaps not. */
void td_cli_warn_of_labels(const td_job *job, const td_dataset *train);
/* From now on SIGUSR1 prints what the ranks of this process do, unless it is ignored. */
void td_cli_answer(void);
/* For that, where no run's folder has a record of the rank: one in memory. */
void td_cli_record(td_comm *comm);
/* Runs `fn` on the ranks that mpiexec started, or on `workers` threads. `prepared` is the result of
 * what this process has done for it before: where it failed on a rank, none runs. Under MPI
 * mistakes (exit code 2) of fn, at all ranks or at some, are told here and leave no last error. */
TD_MUST_CHECK td_status td_cli_run(int workers, const td_comm_config *config, td_status prepared,
                                   td_rank_fn *fn, void *arg);
/* The last error, by this rank, and to the others, whose fn ends by it; clears it. */
void td_cli_tell_here(td_comm *comm, td_status status);
/* This process's number among those that mpiexec started; 0 without it. */
int td_cli_rank(void);
/* How many those are; 0 without it, and where the launcher does not say. */
int td_cli_rank_count(void);

/* Whether the job has ranks that data servers read for (under MPI), and whether this process is
 * one: it opens no training data. */
bool td_cli_has_fed(const td_job *job);
bool td_cli_is_fed(const td_job *job);
/* Collective, in such a job: fed ranks hear from a data server what the data are, and which model.
 */
TD_MUST_CHECK td_status td_cli_hear_data(td_comm *comm, const td_job *job, bool fed,
                                         td_dataset **train, td_net_model *model);
/* Collective: TD_ERR_DATA where some ranks find test files and others do not. */
TD_MUST_CHECK td_status td_cli_agree_on_test(td_comm *comm, const char *path);

/* Whether `path` is a folder with test files. */
bool td_cli_has_test(const char *path);

#endif
