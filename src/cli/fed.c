/* Ranks that data servers read for: they hear what the training data are, and have no sample of
 * them. Their data and their model begin where the ranks have met. See cli.h. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "data/elsewhere.h"
#include "models/net/save.h"

#include <stdlib.h>
#include <string.h>

static const char name[] = "the data servers";

/* Ranks under MPI: workers | servers | data servers | spares. */
bool td_cli_is_fed(const td_job *job)
{
    int ranks = td_cli_rank_count();
    if (!td_cli_has_fed(job) || !ranks) return false;
    return td_cli_rank() < ranks - job->spares - td_job_readers(job);
}

/* Where part of the data is held out, workers need it. */
bool td_cli_has_fed(const td_job *job)
{
    return td_comm_launched_by_mpi() && td_job_readers(job) && job->holdout == 0;
}

static td_status describe(const td_dataset *train, const td_net_model *model, char **out)
{
    json_t *data = NULL, *none = json_null(), *manifest = td_net_model_manifest(model, none);
    td_status status = td_elsewhere_make(train, &data);
    json_t *all = status == TD_OK && manifest
                      ? json_pack("{s:O, s:O}", "data", data, "model", manifest)
                      : NULL;
    *out = all ? json_dumps(all, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(data), json_decref(manifest), json_decref(all);
    return *out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to describe the training data");
}

static td_status understand(const char *text, td_dataset **train, td_net_model *model)
{
    json_error_t error;
    json_t *all = json_loads(text, 0, &error);
    td_status status = all ? TD_OK : td_fail(TD_ERR_CORRUPT, "%s: %s", name, error.text);
    if (status == TD_OK) status = td_elsewhere_open(json_object_get(all, "data"), name, train);
    if (status == TD_OK)
        status = td_net_model_begin(json_object_get(all, "model"), name, *train, model);
    json_decref(all);
    return status;
}

td_status td_cli_hear_data(td_comm *comm, const td_job *job, bool fed, td_dataset **train,
                           td_net_model *model)
{
    int teller = td_comm_size(comm) - td_job_readers(job);
    bool tells = td_comm_rank(comm) == teller;
    char *text = NULL;
    td_status status = tells ? describe(*train, model, &text) : TD_OK;
    uint64_t bytes = text ? strlen(text) + 1 : 0;
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(td_comm_broadcast(comm, &bytes, sizeof bytes, teller));
    if (!tells) text = malloc(bytes); /* as jansson's */
    status = text ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to hear of the training data");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = td_comm_broadcast(comm, text, bytes, teller);
    if (status == TD_OK) status = td_comm_agree(comm, fed ? understand(text, train, model) : TD_OK);
    free(text);
    return status;
}

td_status td_cli_agree_on_test(td_comm *comm, const char *path)
{
    int mine = td_cli_has_test(path), any = 0;
    TD_TRY(td_comm_allreduce(comm, &mine, &any, 1, TD_I32, TD_MAX));
    return td_comm_agree(comm, mine == any ? TD_OK
                                           : td_fail(TD_ERR_DATA,
                                                     "rank %d finds no test files in %s, where "
                                                     "others do: each rank scores a part of them",
                                                     td_comm_rank(comm), path));
}
