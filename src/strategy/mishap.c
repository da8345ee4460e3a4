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

typedef enum kind { IS_LOST, STOPS, LACKS_MEMORY, ALARMED, MISTAKEN, KINDS } kind;

/* Whether "RANK:STEP:POINT", at the beginning of the text, is this. */
static bool is_here(const char *text, int rank, uint64_t step, const char *point, kind *what)
{
    static const char *const behind[] = {[STOPS] = ":stop",
                                         [LACKS_MEMORY] = ":memory",
                                         [ALARMED] = ":alarm",
                                         [MISTAKEN] = ":mistake"};
    char *at;
    size_t n = strlen(point);
    if (strtol(text, &at, 10) != rank || *at != ':') return false;
    if (strtoull(at + 1, &at, 10) != step || *at != ':') return false;
    if (strncmp(at + 1, point, n) != 0) return false;
    at += 1 + n;
    *what = IS_LOST;
    for (int k = STOPS; k < KINDS; k++)
        if (!strncmp(at, behind[k], strlen(behind[k]))) *what = (kind)k;
    if (*what) at += strlen(behind[*what]);
    return *at == ',' || *at == 0;
}

/* Once for each such item: a step may pass its point again. */
static void stop_once(int item)
{
    static uint64_t done; /* atomic; a bit for each */
    uint64_t bit = (uint64_t)1 << item % 64;
    if (!(__atomic_fetch_or(&done, bit, __ATOMIC_SEQ_CST) & bit)) raise(SIGSTOP);
}

td_status td_mishap(const char *plan, td_comm *comm, uint64_t step, const char *point)
{
    if (!plan) return TD_OK;
    int rank = td_comm_rank_in_run(comm, td_comm_rank(comm)), item = 0;
    kind what = IS_LOST;
    for (; !is_here(plan, rank, step, point, &what); item++) {
        plan = strchr(plan, ',');
        if (!plan++) return TD_OK;
    }
    if (what == STOPS) {
        stop_once(item);
        return TD_OK;
    }
    if (what == LACKS_MEMORY)
        return td_fail(TD_ERR_NOMEM, "no memory in \"%s\", as TANDEM_FAKE_DEATH asks", point);
    if (what == ALARMED) return td_fail(TD_ERR_PEER, "a false alarm in \"%s\"", point);
    if (what == MISTAKEN)
        return td_fail(TD_ERR_DATA, "a mistake in \"%s\" of rank %d", point, rank);
    td_comm_die(comm);
    return td_fail(TD_ERR_PEER, "rank %d has died", rank);
}
