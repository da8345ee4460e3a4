/* Training of models whose parameters live in tables: rows under keys (hashed features,
 * embeddings), dense parameters, or both. The other loop (train.h) keeps all parameters at every
 * rank.
 *
 * In step (the clock is bsp, or strategy allreduce): every step all ranks pull, compute their
 * leaves and push, and results do not depend on how many there are. At their own pace: workers go
 * on as their clock lets them, and meet where an epoch, or the run, ends or a checkpoint is due.
 *
 * The training loss of an epoch is progressive validation: every batch is scored before it is
 * learnt from. */
#ifndef TD_TRAIN_ROWS_H
#define TD_TRAIN_ROWS_H

#include "data/features.h"
#include "strategy/sparse.h"
#include "train/rows_batch.h"
#include "train/rows_files.h"
#include "train/train.h"

typedef struct td_rows_task {
    td_sparse_oracle oracle;
    const td_features *features; /* NULL: samples are dense, oracle.numbers of them */
    td_table_config keyed;       /* of rows under keys: init and scale; the job says the rest */
    const float *params;         /* [oracle.params] first dense parameters */
    bool classes, two;
    const char *arch;    /* what a checkpoint must agree with */
    const char *meaning; /* of rows under keys, which --rows-from must agree with; NULL: none */
    const char *file;    /* of the model: "model.safetensors" */
    void *self;
    /* What the model's manifest says; rank 0 only. NULL: no memory. metrics is borrowed. */
    json_t *(*manifest)(void *self, json_t *metrics);
} td_rows_task;

/* As td_train. `workers` of the group's ranks work, the last job->servers serve. TD_ERR_PEER when
 * rows are lost with the ranks that had them (--replicas 1 keeps a second copy). */
TD_MUST_CHECK td_status td_train_rows(td_comm *comm, const td_job *job, const td_train_data *data,
                                      const td_rows_task *task, const volatile int *stop);

/* The job's --clock. TD_ERR_ARG. */
TD_MUST_CHECK td_status td_rows_clock(const td_job *job, td_clock *out);
/* The update rule of a job's tables, by its name there. */
const char *td_rows_rule(const td_job *job);
const char *td_rows_net_rule(const td_job *job); /* of the dense ones beside them */

/* Where rows come from when a model is scored. `rows` may be collective. */
typedef struct td_rows_source {
    void *self;
    td_status (*rows)(void *self, const uint64_t *keys, size_t count, float *out);
    const float *params; /* dense, or NULL */
} td_rows_source;

/* Scores samples of a data set: what td_evaluate asks of a task. */
typedef struct td_rows_scorer {
    const td_sparse_oracle *oracle;
    td_rows_shape shape;
    td_rows_batch batch;
    td_rows_source source;
} td_rows_scorer;
TD_MUST_CHECK td_status td_rows_score(void *scorer, const td_net_pass *pass);
/* Scores [n][outputs] of samples [begin, begin + n). */
TD_MUST_CHECK td_status td_rows_predict(td_rows_scorer *scorer, uint64_t begin, size_t n, float *x,
                                        float *out);

#endif
