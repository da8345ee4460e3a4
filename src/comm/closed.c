/* Arguments that are none. Groups that have been closed. Who uses one is told so, instead of
 * reading memory that is another object's by now: handles stay as long as works hold them, and the
 * newest KEPT of the others. */
#include "comm/transport.h"

#include "base/alloc.h"
#include "base/error.h"

#include <pthread.h>

enum { KEPT = 256 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static td_comm *kept[KEPT]; /* guarded by lock, as `next` */
static size_t next;

void td_comm_retire(td_comm *comm)
{
    if (comm->holders > 0) return;
    pthread_mutex_lock(&lock);
    td_comm *oldest = kept[next];
    kept[next] = comm;
    next = (next + 1) % KEPT;
    pthread_mutex_unlock(&lock);
    td_free(oldest);
}

void td_comm_hold(td_comm *comm)
{
    comm->holders++;
}

void td_comm_let_go(td_comm *comm)
{
    if (--comm->holders == 0 && comm->closed) td_comm_retire(comm);
}

td_status td_comm_check_open(const td_comm *comm, const char *what)
{
    if (!comm) return td_fail(TD_ERR_ARG, "%s: there is no group", what);
    if (!comm->closed) return TD_OK;
    return td_fail(TD_ERR_ARG, "%s: this group, in which this rank was rank %d of %d, was closed",
                   what, comm->rank, comm->size);
}

td_status td_comm_check_given(const void *given, const char *what, const char *thing)
{
    return given ? TD_OK : td_fail(TD_ERR_ARG, "%s: no %s", what, thing);
}
