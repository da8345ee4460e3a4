/* Models over features under keys as models that one can train, keep, open and ask: what a
 * td_net_model has in place of a network. Its parameters are rows of a table, and dense ones in the
 * model's `params` where there are any (dlrm). */
#ifndef TD_MODELS_SPARSE_SPARSE_PART_H
#define TD_MODELS_SPARSE_SPARSE_PART_H

#include "data/features.h"
#include "models/net/net_model.h"
#include "models/sparse/sparse_models.h"
#include "ps/table.h"
#include "train/rows.h"
#include "train/rows_view.h"

struct td_sparse_part {
    char kind[16];
    char *bottom, *top; /* NULL: the defaults */
    size_t factors, fields, numbers, outputs;
    int bits;
    uint64_t hash_seed;
    char *arch;    /* all of that in a line: what a checkpoint must agree with */
    char *meaning; /* those of it that say what a key and its row mean */
    td_features *features;
    td_sparse_model *math; /* of one lane, for scores */
    td_rows_mapped *files; /* of an opened model, else NULL: its rows, */
    td_table *rows;        /* or, where they are held, they in memory */
};

/* A new model's part for a data set; the model's loss and classes are chosen, and it is scaled. */
TD_MUST_CHECK td_status td_sparse_part_create(const td_job *job, const td_dataset *data,
                                              td_net_model *model);
void td_sparse_part_destroy(td_sparse_part *part); /* NULL is fine */

/* Its members of the model's manifest, and back. `like`: what new data must fit. NULL: no memory.
 */
json_t *td_sparse_part_json(const td_sparse_part *part);
TD_MUST_CHECK td_status td_sparse_part_from_json(const char *folder, json_t *json,
                                                 td_net_model *model);
/* Features of a model that is to be trained. */
TD_MUST_CHECK td_status td_sparse_part_plan(td_net_model *model, const td_dataset *data);
/* An opened model's rows, where they lie, and dense parameters. Takes the bundle. */
TD_MUST_CHECK td_status td_sparse_part_open(td_net_model *model, td_bundle *bundle);

TD_MUST_CHECK td_status td_sparse_part_train(td_comm *comm, const td_job *job,
                                             const td_train_data *data, const td_net_model *model,
                                             const volatile int *stop);
/* Scores data by the opened model's own rows; serial but for leaves of a batch over ranks. */
TD_MUST_CHECK td_status td_sparse_part_score(td_comm *comm, const td_job *job,
                                             const td_dataset *data, const td_net_model *model,
                                             td_score *out);
/* A scorer over the opened model's rows, for one thread: it has lanes and features of its own. The
 * data set is its shape's; oracle stays the caller's, until the close. */
TD_MUST_CHECK td_status td_sparse_part_scorer(const td_net_model *model, const td_dataset *data,
                                              td_sparse_oracle *oracle, td_rows_scorer *out);
void td_sparse_part_scorer_close(td_rows_scorer *scorer); /* zeroed is fine */

/* Networks whose parameters live in tables: --strategy ps. */
TD_MUST_CHECK td_status td_net_train_in_tables(td_comm *comm, const td_job *job,
                                               const td_train_data *data, const td_net_model *model,
                                               const volatile int *stop);

#endif
