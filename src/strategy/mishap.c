/* See mishap.h. */
#include "strategy/mishap.h"

#include "base/error.h"
#include "tandem/recover.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

const char *td_mishaps(void)
{
    const char *plan = getenv("TANDEM_FAKE_DEATH");
    return plan && *plan ? plan : NULL;
}

/* Whether "RANK:STEP:POINT", at the beginning of the text, is this. */
static bool is_here(const char *text, int rank, uint64_t step, const char *point)
{
    char *at;
    size_t n = strlen(point);
    if (strtol(text, &at, 10) != rank || *at != ':') return false;
    if (strtoull(at + 1, &at, 10) != step || *at != ':') return false;
    return !strncmp(at + 1, point, n) && (at[n + 1] == ',' || at[n + 1] == 0);
}

td_status td_mishap(const char *plan, td_comm *comm, uint64_t step, const char *point)
{
    if (!plan) return TD_OK;
    int rank = td_comm_rank_in_run(comm, td_comm_rank(comm));
    while (!is_here(plan, rank, step, point)) {
        plan = strchr(plan, ',');
        if (!plan++) return TD_OK;
    }
    if (!strcmp(td_comm_transport(comm), "mpi")) raise(SIGKILL);
    td_comm_die(comm);
    return td_fail(TD_ERR_PEER, "rank %d has died", rank);
}
