/* Operations under way beside their rank: collectives are carried out one after the other by a
 * thread of the rank's, with a group of its own; messages (message.c) by the transport.
 *
 * A group's first work makes both (so it is collective); the group's close ends them. The thread
 * runs the same algorithms as a blocking call, with the same deadlines; what it waits for it sleeps
 * for, as the rank needs the core. */
#include "comm/coll/coll.h"
#include "comm/message.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/recorder.h"

#include <pthread.h>
#include <string.h>

enum { SENTENCE = 512, FUSE_EACH = 32 << 10, FUSE_ALL = 1 << 20 };
enum { IDLE, UNDER_WAY, ENDED };

typedef struct td_worker {
    td_comm *comm; /* the group's shadow: the same ranks */
    pthread_t thread;
    bool started;
    char *room; /* [FUSE_ALL] of the thread */
    pthread_mutex_t lock;
    pthread_cond_t wanted, ended;
    td_work *first, **last; /* guarded by lock; the queue */
    bool closing;           /* guarded by lock */
    int works;              /* that there are */
    td_status failed;       /* of the thread: of the first operation that did, for all behind it */
    char sentence[SENTENCE];
} td_worker;

struct td_work {
    td_message *message; /* NULL: a collective */
    td_worker *worker;
    td_call call;
    td_tuning *tuning; /* that its group had when it was made; the group's */
    td_work *next;     /* in the queue */
    td_work *with;     /* the next one of those that run as one operation */
    int state;         /* guarded by the worker's lock */
    td_status status;
    char sentence[SENTENCE];
};

/* --- the thread --- */

/* Several operations as one: their vectors one behind the other in the thread's room. */
static td_status run_fused(td_worker *w, td_work *head)
{
    td_call call = head->call;
    bool at_root = w->comm->rank == call.root, broadcast = call.pattern == TD_BROADCAST;
    bool gives = !broadcast || at_root;
    bool takes = broadcast ? !at_root : call.pattern != TD_REDUCE || at_root;
    char *at = w->room;
    for (td_work *k = head; k; at += k->call.bytes, k = k->with)
        if (gives && k->call.bytes) memcpy(at, k->call.in, k->call.bytes);
    call.in = gives ? w->room : NULL, call.out = takes ? w->room : NULL;
    call.bytes = (size_t)(at - w->room);
    if (!broadcast) call.count = call.bytes / call.how.width;
    TD_TRY(td_call_run(w->comm, &call));
    at = w->room;
    for (td_work *k = head; k; at += k->call.bytes, k = k->with)
        if (takes && k->call.bytes) memcpy(k->call.out, at, k->call.bytes);
    return TD_OK;
}

/* A group whose operation has failed runs no other: ranks may have failed in different ones. */
static td_status run_next(td_worker *w, td_work *head)
{
    if (w->failed != TD_OK) return td_fail_again(w->failed, w->sentence);
    w->comm->tuning = head->tuning;
    w->failed = head->with ? run_fused(w, head) : td_call_run(w->comm, &head->call);
    if (w->failed != TD_OK) strncpy(w->sentence, td_last_error(), SENTENCE - 1);
    return w->failed;
}

static void run_one(td_worker *w, td_work *head)
{
    td_status status = run_next(w, head);
    pthread_mutex_lock(&w->lock);
    for (td_work *k = head, *next; k; k = next) {
        next = k->with;
        k->status = status;
        if (status != TD_OK) strncpy(k->sentence, td_last_error(), SENTENCE - 1);
        k->with = NULL;
        k->state = ENDED;
    }
    pthread_cond_broadcast(&w->ended);
    pthread_mutex_unlock(&w->lock);
}

static void *worker_main(void *arg)
{
    td_worker *w = arg;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        td_work *head = w->first;
        if (!head) {
            if (w->closing) break;
            pthread_cond_wait(&w->wanted, &w->lock);
            continue;
        }
        w->first = head->next;
        if (!w->first) w->last = &w->first;
        pthread_mutex_unlock(&w->lock);
        run_one(w, head);
        pthread_mutex_lock(&w->lock);
    }
    pthread_mutex_unlock(&w->lock);
    return NULL;
}

/* When the group has been closed, and its last work destroyed. */
static void worker_free(td_worker *w)
{
    if (w->comm || w->works) return;
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->wanted);
    pthread_cond_destroy(&w->ended);
    td_free(w->room);
    td_free(w);
}

void td_worker_destroy(td_comm *comm)
{
    td_worker *w = comm->worker;
    if (!w) return;
    comm->worker = NULL;
    if (w->started) {
        pthread_mutex_lock(&w->lock);
        w->closing = true;
        pthread_cond_signal(&w->wanted);
        pthread_mutex_unlock(&w->lock);
        pthread_join(w->thread, NULL);
    }
    w->comm->tuning = NULL;
    td_comm_close(w->comm);
    w->comm = NULL;
    worker_free(w);
}

static td_status worker_of(td_comm *comm, td_worker **out)
{
    *out = comm->worker;
    if (comm->worker) return TD_OK;
    if (comm->one_thread)
        return td_fail(TD_ERR_UNSUPPORTED, "this MPI may be called by one thread only: operations "
                                           "cannot run beside their rank");
    td_worker *w = td_calloc(1, sizeof *w);
    td_status status = TD_OK;
    if (!w || !(w->room = td_malloc(FUSE_ALL)))
        status = td_fail(TD_ERR_NOMEM, "no memory for a group's thread");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = td_comm_split(comm, 0, comm->rank, &w->comm);
    if (status != TD_OK) {
        if (w) td_free(w->room);
        td_free(w);
        return status;
    }
    w->comm->beside = true;
    td_tuning_free(w->comm->tuning); /* each work has its own */
    w->comm->tuning = NULL;
    w->comm->crowded = comm->cores < 2 * comm->local_size;
    w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->wanted, NULL);
    pthread_cond_init(&w->ended, NULL);
    comm->worker = w;
    td_recorder_call(w->comm, TD_GROUP_WORKS);
    if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
        status = td_fail(TD_ERR_NOMEM, "the group's thread could not be started");
    else
        w->started = true;
    status = td_comm_agree(comm, status);
    if (status != TD_OK)
        td_worker_destroy(comm); /* at all ranks, so that they may try again */
    else
        *out = w;
    return status;
}

/* --- works --- */

td_status td_work_create(td_comm *comm, const td_collective *what, td_work **out)
{
    td_call call;
    td_worker *worker;
    TD_TRY(td_call_make(comm, what, &call));
    TD_TRY(td_comm_check_given(out, td_does_names[call.pattern], "place for the operation"));
    TD_TRY(worker_of(comm, &worker));
    td_work *work = td_calloc(1, sizeof *work);
    if (!work) return td_fail(TD_ERR_NOMEM, "no memory for an operation");
    work->worker = worker;
    worker->works++;
    work->call = call;
    work->tuning = comm->tuning;
    *out = work;
    return TD_OK;
}

/* Whether b may run in one operation with a, before which there are `bytes` bytes. */
static bool fuses(const td_work *a, const td_work *b, size_t bytes)
{
    const td_call *x = &a->call, *y = &b->call;
    if (b->message || a->worker != b->worker || a->tuning != b->tuning) return false;
    if (x->pattern != y->pattern || x->root != y->root || x->bytes > FUSE_EACH ||
        y->bytes > FUSE_EACH || bytes + y->bytes > FUSE_ALL)
        return false;
    if (x->pattern == TD_BROADCAST) return true;
    bool adds = x->pattern == TD_ALLREDUCE || x->pattern == TD_REDUCE || x->pattern == TD_SCAN;
    return adds && !x->how.combine && !y->how.combine && x->how.type == y->how.type &&
           x->how.op == y->how.op;
}

static bool under_way(td_work *work)
{
    if (work->message) return td_message_under_way(work->message);
    pthread_mutex_lock(&work->worker->lock);
    bool is = work->state == UNDER_WAY;
    pthread_mutex_unlock(&work->worker->lock);
    return is;
}

static bool work_is_orphan(const td_work *work)
{
    return work->message ? td_message_is_orphan(work->message) : !work->worker->comm;
}

static const char *name_of(const td_work *work)
{
    return work->message ? td_message_name(work->message) : td_does_names[work->call.pattern];
}

static td_status check_idle(td_work *const *works, int k)
{
    if (!works[k]) return td_fail(TD_ERR_ARG, "an operation to be started is NULL");
    if (work_is_orphan(works[k]))
        return td_fail(TD_ERR_ARG, "%s: the operation's group was closed", name_of(works[k]));
    if (under_way(works[k]))
        return td_fail(TD_ERR_ARG, "%s: the operation is under way already", name_of(works[k]));
    for (int earlier = 0; earlier < k; earlier++)
        if (works[earlier] == works[k])
            return td_fail(TD_ERR_ARG, "%s: the operation is started twice at once",
                           name_of(works[k]));
    return TD_OK;
}

td_status td_work_start_all(td_work *const *works, int count)
{
    if (count < 0 || (count && !works))
        return td_fail(TD_ERR_ARG, "%d operations at %p cannot be started", count,
                       (const void *)works);
    for (int k = 0; k < count; k++) TD_TRY(check_idle(works, k));
    for (int k = 0; k < count;) {
        td_work *head = works[k], *end = head;
        if (head->message) {
            TD_TRY(td_message_start(head->message));
            k++;
            continue;
        }
        td_worker *w = head->worker;
        size_t bytes = head->call.bytes;
        for (k++; k < count && fuses(head, works[k], bytes); k++) {
            bytes += works[k]->call.bytes;
            end = end->with = works[k];
        }
        end->with = NULL;
        pthread_mutex_lock(&w->lock);
        for (td_work *each = head; each; each = each->with) each->state = UNDER_WAY;
        head->next = NULL;
        *w->last = head;
        w->last = &head->next;
        pthread_cond_signal(&w->wanted);
        pthread_mutex_unlock(&w->lock);
    }
    return TD_OK;
}

td_status td_work_start(td_work *work)
{
    return td_work_start_all(&work, 1);
}

bool td_work_done(td_work *work)
{
    if (!work) return true;
    return work->message ? td_message_done(work->message) : !under_way(work);
}

td_status td_work_wait(td_work *work)
{
    if (!work) return td_fail(TD_ERR_ARG, "an operation to be waited for is NULL");
    if (work->message) return td_message_wait(work->message);
    td_worker *w = work->worker;
    pthread_mutex_lock(&w->lock);
    td_recorder_wait_for(w->comm, work->state == UNDER_WAY);
    while (work->state == UNDER_WAY) pthread_cond_wait(&w->ended, &w->lock);
    td_recorder_wait_for(w->comm, false);
    td_status status = work->state == ENDED ? work->status : TD_OK;
    work->state = IDLE;
    pthread_mutex_unlock(&w->lock);
    return status == TD_OK ? TD_OK : td_fail_again(status, work->sentence);
}

static void forget(td_work *work)
{
    td_worker *w = work->worker;
    td_message_destroy(work->message);
    td_free(work);
    if (!w) return;
    w->works--;
    worker_free(w);
}

void td_work_destroy(td_work *work)
{
    if (!work) return;
    if (td_work_wait(work) != TD_OK) td_error_clear();
    forget(work);
}

/* --- messages --- */

static td_status create_message(td_comm *comm, bool sends, void *data, size_t bytes, int peer,
                                int tag, td_work **out)
{
    TD_TRY(td_comm_check_given(out, sends ? "send" : "recv", "place for the operation"));
    td_work *work = td_calloc(1, sizeof *work);
    if (!work) return td_fail(TD_ERR_NOMEM, "no memory for an operation");
    td_status status = td_message_create(comm, sends, data, bytes, peer, tag, &work->message);
    if (status != TD_OK) {
        td_free(work);
        return status;
    }
    *out = work;
    return TD_OK;
}

td_status td_work_create_send(td_comm *comm, const void *data, size_t bytes, int to, int tag,
                              td_work **out)
{
    return create_message(comm, true, (void *)(uintptr_t)data, bytes, to, tag, out);
}

td_status td_work_create_recv(td_comm *comm, void *data, size_t bytes, int from, int tag,
                              td_work **out)
{
    return create_message(comm, false, data, bytes, from, tag, out);
}

/* A work that could not be started is not handed out. */
static td_status start_new(td_status created, td_work **out)
{
    TD_TRY(created);
    td_status status = td_work_start(*out);
    if (status == TD_OK) return TD_OK;
    forget(*out);
    *out = NULL;
    return status;
}

td_status td_comm_start_send(td_comm *comm, const void *data, size_t bytes, int to, int tag,
                             td_work **out)
{
    return start_new(td_work_create_send(comm, data, bytes, to, tag, out), out);
}

td_status td_comm_start_recv(td_comm *comm, void *data, size_t bytes, int from, int tag,
                             td_work **out)
{
    return start_new(td_work_create_recv(comm, data, bytes, from, tag, out), out);
}

td_status td_comm_start(td_comm *comm, const td_collective *what, td_work **out)
{
    return start_new(td_work_create(comm, what, out), out);
}
