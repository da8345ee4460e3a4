/* The program's subcommands: one file each, one row each in main.c. */
#ifndef TD_CLI_CLI_H
#define TD_CLI_CLI_H

#include "tandem/data.h"
#include "train/job.h"

typedef struct td_command {
    const char *name;
    unsigned where; /* bit of td_option.where for its flags; 0: none */
    const char *usage, *help;
    td_status (*run)(int argc, char **argv);
} td_command;

extern const td_command td_commands[]; /* ends with a row without name */

td_status td_cmd_train(int argc, char **argv);
td_status td_cmd_eval(int argc, char **argv);
td_status td_cmd_predict(int argc, char **argv);
td_status td_cmd_inspect(int argc, char **argv);
td_status td_cmd_diagnose(int argc, char **argv);
td_status td_cmd_bench(int argc, char **argv);
/* tandem bench --comm, of options that have been read. */
td_status td_bench_comm(const td_job *job);
td_status td_cmd_doctor(int argc, char **argv);
td_status td_cmd_help(int argc, char **argv);

/* The job's data options as a data configuration; borrows the job's texts. */
TD_MUST_CHECK td_status td_cli_data_config(const td_job *job, td_split split,
                                           const td_dataset *like, td_data_config *out);
/* Whether `path` is a folder with test files. */
bool td_cli_has_test(const char *path);

#endif
