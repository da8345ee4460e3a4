/* Neural networks as models: trained by the one loop, kept as a bundle that PyTorch's users can
 * load (model.safetensors), evaluated and asked for predictions.
 *
 * What a model file holds besides its parameters: the architecture, the loss, the shape of a
 * sample, the classes' names, how features were scaled, and what new data must fit: columns,
 * categories, classes (data/schema.h). New data are read by it alone. */
#ifndef TD_MODELS_NET_NET_MODEL_H
#define TD_MODELS_NET_NET_MODEL_H

#include "train/train.h"

typedef struct td_sparse_part td_sparse_part;

/* Shared by the ranks of a process; read-only while they run. */
typedef struct td_net_model {
    td_net *net;            /* NULL where there is `sparse` */
    td_sparse_part *sparse; /* a model over features under keys (models/sparse/sparse_part.h) */
    td_loss loss;
    int classes; /* 0: numbers */
    size_t shape[4];
    int rank;           /* of shape */
    char **class_names; /* [classes] or NULL */
    td_normalise normalise;
    float *params;   /* of an opened model, else NULL */
    json_t *data;    /* how the training data were read: the job's data options */
    json_t *schema;  /* data/schema.h; NULL in models of earlier versions */
    json_t *metrics; /* of an opened model */
} td_net_model;

/* Whether a model of that name is one over features under keys. */
bool td_net_model_is_sparse(const char *name);
/* A new model for a data set. */
TD_MUST_CHECK td_status td_net_model_create(const td_job *job, const td_dataset *data,
                                            td_net_model *out);
/* From another's manifest, without parameters, for a run that begins; data: as that one was made
 * for, but it may lie elsewhere. `name` is for messages. */
TD_MUST_CHECK td_status td_net_model_begin(json_t *manifest, const char *name,
                                           const td_dataset *data, td_net_model *out);
/* From RUN/model. Rows under keys stay in its files, which are looked into. */
TD_MUST_CHECK td_status td_net_model_open(const char *run, td_net_model *out);
void td_net_model_close(td_net_model *model); /* a zeroed one is fine */
/* Takes an opened model's rows into memory, where looks are faster, if they take no more than that
 * (0: whatever they take). TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_net_model_hold(td_net_model *model, uint64_t memory_bytes);

/* TD_ERR_DATA when the data's samples are not what the model was made for. */
TD_MUST_CHECK td_status td_net_model_fits(const td_net_model *model, const td_dataset *data);
/* TD_ERR_DATA when a label is outside of the loss's domain. */
TD_MUST_CHECK td_status td_net_model_check_targets(const td_net_model *model,
                                                   const td_dataset *data);

size_t td_net_model_outputs(const td_net_model *model);
const char *td_net_model_arch(const td_net_model *model);
/* Dense parameters by name. */
const td_slot *td_net_model_slots(const td_net_model *model, size_t *out_count);
/* Of an opened model over features: rows that it has, and floats of each. */
size_t td_net_model_rows(const td_net_model *model);
size_t td_net_model_width(const td_net_model *model);

/* Writes an opened model's rows under keys job->from_key to job->to_key to job->out, for other
 * tools (ps/transfer.h), from file to file: it must not be held. job->states: with the update
 * rule's states, from the newest checkpoint of job->run, which must be of the model's step.
 * TD_ERR_ARG: it is a network, or there are no such states. */
TD_MUST_CHECK td_status td_net_model_export(td_net_model *model, const td_job *job,
                                            size_t *out_rows);

/* A rank's place to compute in: lanes for `leaves` of batches of `batch` samples. */
typedef struct td_net_place td_net_place;
TD_MUST_CHECK td_status td_net_place_create(const td_net_model *model, int lanes, size_t rows,
                                            bool training, td_net_place **out);
void td_net_place_destroy(td_net_place *place);

/* Trains on this rank; collective. */
TD_MUST_CHECK td_status td_net_model_train(td_comm *comm, const td_job *job,
                                           const td_train_data *data, const td_net_model *model,
                                           const volatile int *stop);
TD_MUST_CHECK td_status td_net_model_score(td_comm *comm, const td_job *job, const td_dataset *data,
                                           const td_net_model *model, td_score *out);
/* Probabilities (or values) of rows [begin, begin + n) in out [n][outputs]. Serial. */
TD_MUST_CHECK td_status td_net_model_predict(const td_net_model *model, td_net_place *place,
                                             const td_dataset *data, uint64_t begin, size_t n,
                                             float *x, float *out);

#endif
