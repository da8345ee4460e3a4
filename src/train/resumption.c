/* What both training loops ask where a run begins or goes on: of its data, its group, its schedule,
 * and what an earlier job has left in its folder. See train.h, checkpoint.h. */
#include "train/train.h"

#include "base/error.h"
#include "base/log.h"
#include "data/dataset.h"
#include "optim/schedule.h"
#include "train/checkpoint.h"
#include "train/resize.h"
#include "tandem/recover.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

void td_train_record(td_comm *comm, const td_job *job, bool *recorded)
{
    char folder[TD_PATH_MAX], name[32], path[TD_PATH_MAX];
    if (*recorded) return; /* goes on in other groups */
    *recorded = true;
    snprintf(name, sizeof name, "rank-%d", td_comm_rank_in_run(comm, td_comm_rank(comm)));
    if (td_path_join(folder, job->run, "recorder") != TD_OK || td_make_dirs(folder) != TD_OK ||
        td_path_join(path, folder, name) != TD_OK || td_comm_record(comm, path) != TD_OK)
        td_error_clear();
}

td_status td_train_tune(td_comm *comm, const td_job *job)
{
    if (!job->tuning || !*job->tuning) return TD_OK;
    td_status status = td_comm_tune(comm, job->tuning);
    if (!job->resume || (status != TD_ERR_ARG && status != TD_ERR_IO)) return status;
    if (td_comm_rank(comm) == 0) td_warn("%s; the run goes on without it", td_last_error());
    td_error_clear();
    return TD_OK;
}

/* Its records may be of more ranks. */
td_status td_train_forget_earlier(const td_job *job)
{
    char recorder[TD_PATH_MAX];
    td_resize_take_back(job->run);
    TD_TRY(td_path_join(recorder, job->run, "recorder"));
    if (td_remove_tree(recorder) != TD_OK) td_error_clear(); /* it can do without */
    return TD_OK;
}

td_status td_train_check_length(const td_job *job, const td_train_state *state, uint64_t last)
{
    const char *schedule = td_optim_schedule_names[job->schedule];
    bool by_steps = job->steps && last == job->steps;
    unsigned long long done = state->step, total = state->total, n = state->per_epoch;
    unsigned long long asked = by_steps ? job->steps : (uint64_t)job->epochs;
    const char *flag = by_steps ? "steps" : "epochs";
    if (last < done)
        return td_fail(TD_ERR_ARG,
                       "--%s %llu is less than the %llu that the run has done; give more, or begin "
                       "another run",
                       flag, asked, by_steps ? done : (done + n - 1) / n);
    if (total && total != last && td_schedule_needs_total(schedule))
        return td_fail(TD_ERR_ARG,
                       "--%s %llu cannot be changed: --schedule %s was laid out over %llu steps "
                       "(%g epochs) when the run began; begin another run for another length",
                       flag, asked, schedule, total, (double)total / (double)n);
    return TD_OK;
}

td_status td_train_check_data(const td_train_state *then, const td_train_state *here,
                              const td_dataset *train)
{
    const char *path = td_dataset_info(train)->path;
    if (then->samples && (then->samples != here->samples || then->per_epoch != here->per_epoch))
        return td_fail(TD_ERR_DATA,
                       "--data has %llu training samples, %llu steps an epoch, where the run began "
                       "with %llu and %llu; a run goes on with the data that it began with",
                       (unsigned long long)here->samples, (unsigned long long)here->per_epoch,
                       (unsigned long long)then->samples, (unsigned long long)then->per_epoch);
    if (then->data && then->data != here->data)
        return td_fail(TD_ERR_DATA,
                       "--data %.300s has as many training samples as the run began with, but "
                       "others (fingerprint %016" PRIx64 ", not %016" PRIx64
                       "); give the data that it began with, or begin another run",
                       path, here->data, then->data);
    return TD_OK;
}

/* With the first rank that reads for itself. */
td_status td_train_compare_data(td_comm *comm, const td_train_state *state, const td_dataset *train)
{
    uint64_t own[2] = {state->samples, state->data}, first[2] = {own[0], own[1]};
    int mine = train->elsewhere ? INT32_MAX : td_comm_rank(comm), reader;
    TD_TRY(td_comm_allreduce(comm, &mine, &reader, 1, TD_I32, TD_MIN));
    if (reader == INT32_MAX) reader = 0;
    TD_TRY(td_comm_broadcast(comm, first, sizeof first, reader));
    td_status status = TD_OK;
    if (memcmp(own, first, sizeof own) != 0)
        status =
            td_fail(TD_ERR_DATA,
                    "rank %d reads other training data in %.300s than rank %d: %llu samples "
                    "(fingerprint %016" PRIx64 "), not %llu (%016" PRIx64 "); give all the same",
                    td_comm_rank(comm), td_dataset_info(train)->path, reader,
                    (unsigned long long)own[0], own[1], (unsigned long long)first[0], first[1]);
    return td_comm_agree(comm, status);
}

void td_train_warn_of_data(int rank, const td_dataset *train, uint64_t wanted)
{
    td_warn("rank %d leaves the run: it reads other training data in %.300s (fingerprint "
            "%016" PRIx64 ", not %016" PRIx64 "); give all the same",
            rank, td_dataset_info(train)->path, td_dataset_fingerprint(train), wanted);
}
