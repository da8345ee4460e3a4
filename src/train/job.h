/* A training job: every option that decides the result, and a few that do not. The rows drive the
 * command line, job files, help, completion and the manual page. */
#ifndef TD_TRAIN_JOB_H
#define TD_TRAIN_JOB_H

#include "base/options.h"

#include <stdint.h>

typedef struct td_job {
    char *data, *data_format, *label, *weights, *categorical, *missing, *label_kind, *delimiter;
    int header;
    bool one_hot, cache;
    int index_base;
    char *bench_comm; /* of bench: a pattern */
    char *algorithm;  /* of bench: its name, or "all" */
    int bench_type, bench_op, factor;
    char *tune, *tuning; /* files: to be measured, to be used */
    uint64_t min_bytes, max_bytes;
    bool registered;
    double holdout;
    int shuffle;
    bool drop_last;
    int normalise;
    int shift, crop;
    bool flip;

    char *model, *init;
    int loss; /* td_loss + 1; 0: by the data */

    char *rule;
    double lr, momentum, beta1, beta2, epsilon, weight_decay, clip;
    int schedule;
    double warmup, step_epochs, gamma, final_lr; /* warmup and step_epochs in epochs */

    int epochs, batch, leaves, accumulate;
    uint64_t steps; /* 0: epochs decide */
    uint64_t seed;
    int patience;
    int keep; /* 0 by holdout or patience, 1 last, 2 best */

    int workers, threads;
    char *run;
    bool resume, overwrite, quiet, json;
    int eval_every;             /* epochs */
    td_period checkpoint_every; /* neither: at the end of epochs */
    bool balance, shard_optimizer;
    int keep_checkpoints;
    uint64_t metrics_every; /* steps; 0: by itself */
    int deadline_s, bucket_kb;

    char *hosts, *agent, *probe, *mpiexec; /* of run */
    int max_restarts, watch_s;
    bool dry_run;
    int spares, min_workers, on_hang; /* on_hang: a td_on_hang */

    int strategy; /* a td_job_strategy */
    int servers, replicas, data_servers;
    char *clock;
    char *net_rule, *net_clock; /* of a network beside rows under keys; NULL: as theirs */
    double net_lr;              /* 0: theirs */
    bool staleness_rate;
    double compensation;
    int push_every, fetch_every; /* steps; of downpour, and easgd */
    double elastic;
    uint64_t table_memory;  /* bytes of a server's rows in memory; 0: all */
    int admit, evict_after; /* sightings; steps, 0: never */
    int bits;               /* of hashed keys; 0: whole */
    uint64_t hash_seed;
    int factors; /* 0: the model's default */
    char *bottom, *top;
    double l1, l2, beta;

    char *rows_from; /* file of the rows that a run over tables begins with, or NULL */

    char *out; /* of synth and export */
    uint64_t synth_rows;
    int synth_categories, synth_format;
    double synth_zipf;
    bool states; /* of export, as the next */
    uint64_t from_key, to_key;

    bool proba;
    int split; /* predict and eval: which part of a folder */
} td_job;

/* Bits of td_option.where. */
enum {
    TD_JOB_FILE = 1,  /* part of a job file */
    TD_JOB_TRAIN = 2, /* flags of the commands */
    TD_JOB_EVAL = 4,
    TD_JOB_PREDICT = 8,
    TD_JOB_INSPECT = 16,
    TD_JOB_BENCH = 32,
    TD_JOB_PLACE = 64,   /* may differ when a run is resumed: changes nothing of the result */
    TD_JOB_LENGTH = 128, /* may differ then, too: how long the run lasts */
    TD_JOB_RUN = 256,
    TD_JOB_SYNTH = 512,
    TD_JOB_EXPORT = 1024
};

typedef enum td_job_strategy {
    TD_STRATEGY_ALLREDUCE,
    TD_STRATEGY_PS,
    TD_STRATEGY_DOWNPOUR,
    TD_STRATEGY_EASGD,
    TD_STRATEGY_HOGWILD
} td_job_strategy;

extern const td_option td_job_rows[];
extern const char *const td_job_patterns[];

/* Defaults. Release with td_options_fini(td_job_rows, job). */
TD_MUST_CHECK td_status td_job_init(td_job *job);
/* Sets what the job file says. */
TD_MUST_CHECK td_status td_job_read_file(const char *path, td_job *job);
/* Ranks that serve parameters or data, beyond the workers; and those of them that read. */
int td_job_servers(const td_job *job);
int td_job_readers(const td_job *job);
/* Whether so many ranks (without spares) have a worker among them, enough of them, and a leaf
 * each. TD_ERR_ARG. */
TD_MUST_CHECK td_status td_job_check_ranks(const td_job *job, int ranks);
/* Rules between options. */
TD_MUST_CHECK td_status td_job_check(const td_job *job);
/* The one about --tuning alone. */
TD_MUST_CHECK td_status td_job_check_tuning(const td_job *job);

#endif
