/* Ranks of a command: threads of this process, or the processes that mpiexec started. Under MPI a
 * failure that all ranks know is told by rank 0, before the others end: mpiexec ends a job with its
 * first process. What a rank alone knows it tells itself. */
#include "cli/cli.h"

#include "base/error.h"
#include "comm/transport.h"
#include "tandem/recover.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_MS = 2000, HEARD = 850 /* bytes of a sentence that ranks tell each other */ };

typedef struct launch {
    td_rank_fn *fn;
    void *arg;
    td_status prepared;
    char sentence[1024];
} launch;

/* What a launcher says under the first of these names; 0: nothing. */
static int said_by_launcher(const char *const *names)
{
    for (; td_comm_launched_by_mpi() && *names; names++)
        if (getenv(*names)) return atoi(getenv(*names));
    return 0;
}

int td_cli_rank(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", NULL};
    return said_by_launcher(names);
}

int td_cli_rank_count(void)
{
    static const char *const names[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", NULL};
    return said_by_launcher(names);
}

void td_cli_answer(void)
{
    if (td_comm_print_on_signal(SIGUSR1) != TD_OK) td_error_clear();
}

void td_cli_record(td_comm *comm)
{
    if (td_comm_record(comm, NULL) != TD_OK) td_error_clear(); /* it can do without */
}

/* All ranks have failed alike, and know it. */
static td_status tell(const td_comm *comm, td_status status)
{
    if (td_comm_rank(comm) == 0 && *td_last_error()) {
        fprintf(stderr, "tandem: %s\n", td_last_error());
        fflush(stderr);
    }
    td_error_clear();
    return status;
}

void td_cli_tell_here(td_comm *comm, td_status status)
{
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    fprintf(stderr, "tandem: %s\n", sentence);
    fflush(stderr);
    td_comm_fail(comm, status, sentence);
    td_error_clear();
}

/* What went wrong, without where it was met ("pull at rank 2: "). */
static const char *cause(const char *sentence)
{
    const char *at = strstr(sentence, ": ");
    return at ? at + 2 : sentence;
}

/* What all ranks are likely to have met alike, or some of them alone, such as a user's mistake. Who
 * is not rank 0 waits a moment for another to have said the same. */
static td_status tell_once(td_comm *comm, td_status status)
{
    char own[1024];
    snprintf(own, sizeof own, "%s", td_last_error());
    if (!*own) return status; /* told already */
    bool others = td_comm_rank(comm) != 0 && td_comm_hears_failure(comm, PATIENCE_MS);
    bool made_elsewhere = status == TD_ERR_PEER && td_comm_failure(comm) != TD_OK;
    own[HEARD] = 0; /* as much as others hear */
    if (others && (made_elsewhere || strstr(td_last_error(), cause(own))))
        td_error_clear();
    else
        td_cli_tell_here(comm, td_fail_again(status, own));
    return status;
}

static td_status run_launched(td_comm *comm, void *arg)
{
    launch *l = arg;
    td_status status = l->prepared;
    if (status != TD_OK) status = td_fail_again(status, l->sentence);
    if (td_comm_joined(comm, td_comm_rank(comm))) /* the others have agreed long ago */
        return status == TD_OK ? l->fn(comm, l->arg) : status;
    status = td_comm_agree(comm, status);
    if (status != TD_OK)
        return td_comm_agreement(comm).alike ? tell(comm, status) : tell_once(comm, status);
    status = l->fn(comm, l->arg);
    td_status theirs = td_exit_code(status) == 1 ? td_comm_failure(comm) : TD_OK;
    if (td_exit_code(theirs) == 2) { /* who made the mistake tells it */
        td_error_clear();
        return theirs;
    }
    return td_exit_code(status) == 2 ? tell_once(comm, status) : status;
}

td_status td_cli_run(int workers, const td_comm_config *config, td_status prepared, td_rank_fn *fn,
                     void *arg)
{
    launch l = {.fn = fn, .arg = arg, .prepared = prepared};
    td_cli_answer();
    if (!td_comm_launched_by_mpi()) {
        TD_TRY(prepared);
        return td_comm_run_local(workers, config, fn, arg);
    }
    if (prepared != TD_OK) snprintf(l.sentence, sizeof l.sentence, "%s", td_last_error());
    bool anothers = false;
    td_status status = td_comm_run_mpi_told(config, run_launched, &l, &anothers);
    if (anothers) td_error_clear(); /* who failed tells it */
    return status;
}
