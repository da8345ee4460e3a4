/* Groups, waits with their deadline, messages; collective.c has the collectives. */
#include "comm/transport.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/coll/coll.h"
#include "comm/recorder.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

size_t td_type_size(td_type type)
{
    static const size_t bytes[] = {[TD_F32] = 4, [TD_F64] = 8, [TD_I32] = 4, [TD_I64] = 8,
                                   [TD_U8] = 1,  [TD_F16] = 2, [TD_BF16] = 2};
    return (unsigned)type < sizeof bytes / sizeof *bytes ? bytes[type] : 0;
}

int td_comm_rank(const td_comm *comm)
{
    return comm->rank;
}

int td_comm_size(const td_comm *comm)
{
    return comm->size;
}

const char *td_comm_transport(const td_comm *comm)
{
    return comm->ops->name;
}

int td_comm_hosts(const td_comm *comm)
{
    return comm->hosts;
}

int td_comm_host_of(const td_comm *comm, int rank)
{
    return comm->host[rank];
}

uint64_t td_comm_bytes_sent(const td_comm *comm)
{
    return comm->bytes_sent;
}

int td_comm_local_rank(const td_comm *comm)
{
    return comm->local_rank;
}

int td_comm_local_size(const td_comm *comm)
{
    return comm->local_size;
}

td_status td_comm_set_hosts(td_comm *comm, const int *host, const int *world)
{
    comm->host = td_calloc((size_t)comm->size * 2, sizeof *comm->host);
    if (!comm->host) return td_fail(TD_ERR_NOMEM, "no memory for a group of %d ranks", comm->size);
    comm->world = comm->host + comm->size;
    comm->hosts = comm->local_rank = comm->local_size = 0;
    for (int r = 0; r < comm->size; r++) {
        int first = 0;
        while (host[first] != host[r]) first++;
        comm->host[r] = first == r ? comm->hosts++ : comm->host[first];
        comm->world[r] = world ? world[r] : r;
    }
    for (int r = 0; r < comm->size; r++) {
        if (comm->host[r] != comm->host[comm->rank]) continue;
        comm->local_rank += r < comm->rank;
        comm->local_size++;
    }
    comm->crowded = sysconf(_SC_NPROCESSORS_ONLN) < comm->local_size;
    return TD_OK;
}

void td_comm_fake_hosts(int *host, int size)
{
    const char *at = getenv("TANDEM_FAKE_HOSTS");
    for (int r = 0; at && *at && r < size; r++) {
        host[r] = atoi(at);
        const char *comma = strchr(at, ',');
        if (comma) at = comma + 1;
    }
}

/* --- waiting --- */

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static td_status too_late(td_comm *comm, int who)
{
    const char *what = comm->operation ? comm->operation : "a wait";
    long long ms = comm->deadline_ms;
    unsigned long long number = comm->sequence;
    int me = comm->world[comm->rank];
    if (who < 0)
        return td_fail(TD_ERR_TIMEOUT, "rank %d waited more than %lld ms in %s (operation %llu)",
                       me, ms, what, number);
    return td_fail(TD_ERR_TIMEOUT,
                   "rank %d waited more than %lld ms for rank %d in %s (operation "
                   "%llu)",
                   me, ms, comm->world[who], what, number);
}

/* One sleep: until the bell rings, but not for long, because a rank that dies rings nothing. */
static td_status doze(td_bell *bell, td_wait_test *test, void *arg, bool *done)
{
    if (!bell) {
        nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
        return TD_OK;
    }
    uint32_t number = td_bell_listen(bell);
    td_status status = test(arg, done);
    if (status == TD_OK && !*done) td_bell_sleep(bell, number, 2000000);
    td_bell_leave(bell);
    return status;
}

/* *since: when it became a long wait, 0: it did not. */
static td_status wait_for(td_comm *comm, int peer, td_bell *bell, td_wait_test *test,
                          td_wait_blame *blame, void *arg, int64_t *since)
{
    enum { SPINS = 200, YIELD_NS = 200000, CHECK_NS = 1000000 };
    int64_t begin = 0, checked = 0;
    for (int round = 0;; round++) {
        bool done = false;
        TD_TRY(test(arg, &done));
        if (done) return TD_OK;
        if (comm->ops->pause) {
            TD_TRY(comm->ops->check(comm, peer));
            TD_TRY(comm->ops->pause(comm));
            continue;
        }
        if (!comm->crowded && round < SPINS) {
            relax();
            continue;
        }
        int64_t now = td_clock_ns();
        if (begin == 0) {
            *since = begin = checked = now;
            if (comm->record && !comm->record->begin_ns) comm->record->begin_ns = now;
        }
        if (now - checked > CHECK_NS) {
            int who = peer >= 0 ? peer : blame ? blame(arg) : -1;
            if (comm->record) comm->record->missing = who < 0 ? -1 : comm->world[who];
            td_status status = comm->ops->check(comm, who);
            if (status != TD_OK) { /* what was awaited may have come before the failure */
                TD_TRY(test(arg, &done));
                return done ? TD_OK : status;
            }
            if (now - begin > comm->deadline_ms * 1000000) return too_late(comm, who);
            checked = now;
        }
        if (now - begin < YIELD_NS)
            sched_yield();
        else
            TD_TRY(doze(bell, test, arg, &done));
        if (done) return TD_OK;
    }
}

td_status td_comm_wait(td_comm *comm, int peer, td_bell *bell, td_wait_test *test,
                       td_wait_blame *blame, void *arg)
{
    int64_t since = 0;
    td_status status = wait_for(comm, peer, bell, test, blame, arg, &since);
    if (since && comm->record && status == TD_OK) {
        comm->record->waited_ns += td_clock_ns() - since;
        comm->record->missing = -1;
    }
    return status;
}

typedef struct pending {
    td_comm *comm;
    td_request *request;
} pending;

static td_status test_request(void *arg, bool *done)
{
    pending *p = arg;
    return p->comm->ops->test(p->comm, p->request, done);
}

td_status td_comm_wait_request(td_comm *comm, td_request *request)
{
    pending p = {comm, request};
    td_status status =
        td_comm_wait(comm, request->peer, comm->ops->bell(comm), test_request, NULL, &p);
    if (status != TD_OK) comm->ops->cancel(comm, request);
    return status;
}

static td_status exchange_piece(td_comm *comm, const void *out, size_t out_bytes, int to, void *in,
                                size_t in_bytes, int from, int tag)
{
    td_request send = {.data = (void *)(uintptr_t)out, .bytes = out_bytes, .peer = to, .tag = tag};
    td_request recv = {.data = in, .bytes = in_bytes, .peer = from, .tag = tag};
    td_status status = TD_OK;
    if (from >= 0) TD_TRY(comm->ops->irecv(comm, &recv));
    if (to >= 0) {
        status = comm->ops->isend(comm, &send);
        if (status == TD_OK) status = td_comm_wait_request(comm, &send);
        if (status == TD_OK) comm->bytes_sent += out_bytes, comm->messages_sent++;
    }
    if (from < 0) return status;
    if (status != TD_OK) {
        comm->ops->cancel(comm, &recv);
        return status;
    }
    return td_comm_wait_request(comm, &recv);
}

td_status td_comm_exchange(td_comm *comm, const void *out, size_t out_bytes, int to, void *in,
                           size_t in_bytes, int from, int tag)
{
    const size_t most = TD_COMM_PIECE;
    const char *give = out;
    char *take = in;
    while ((to >= 0 && out_bytes > most) || (from >= 0 && in_bytes > most)) {
        bool sends = to >= 0 && out_bytes > most, receives = from >= 0 && in_bytes > most;
        TD_TRY(exchange_piece(comm, give, most, sends ? to : -1, take, most, receives ? from : -1,
                              tag));
        if (sends) give += most, out_bytes -= most;
        if (receives) take += most, in_bytes -= most;
    }
    return exchange_piece(comm, give, out_bytes, to, take, in_bytes, from, tag);
}

/* --- point to point --- */

td_status td_comm_check_peer(const td_comm *comm, const void *data, size_t bytes, int peer, int tag,
                             const char *what)
{
    if (peer < 0 || peer >= comm->size)
        return td_fail(TD_ERR_ARG, "%s: rank %d is not one of 0..%d", what, peer, comm->size - 1);
    if (peer == comm->rank) return td_fail(TD_ERR_ARG, "%s: rank %d is this rank", what, peer);
    if (!data && bytes) return td_fail(TD_ERR_ARG, "%s: no buffer for %zu bytes", what, bytes);
    if (tag < 0 || tag > 1000000)
        return td_fail(TD_ERR_ARG, "%s: tag %d is not in 0..1000000", what, tag);
    return TD_OK;
}

td_status td_comm_send(td_comm *comm, const void *data, size_t bytes, int to, int tag)
{
    TD_TRY(td_comm_check_peer(comm, data, bytes, to, tag, "send"));
    struct td_record *record = td_comm_begin(comm, (td_note){TD_DOES_SEND, bytes, -1, -1, to});
    return td_comm_end(record, td_comm_exchange(comm, data, bytes, to, NULL, 0, -1, tag));
}

td_status td_comm_recv(td_comm *comm, void *data, size_t bytes, int from, int tag)
{
    TD_TRY(td_comm_check_peer(comm, data, bytes, from, tag, "recv"));
    struct td_record *record = td_comm_begin(comm, (td_note){TD_DOES_RECV, bytes, -1, -1, from});
    return td_comm_end(record, td_comm_exchange(comm, NULL, 0, -1, data, bytes, from, tag));
}

/* --- agreement --- */

td_status td_comm_agree(td_comm *comm, td_status mine)
{
    enum { SENTENCE = 512 };
    struct verdict {
        int32_t status;
        char text[SENTENCE];
    };
    if (comm->size == 1) return mine;
    struct verdict *all = td_calloc((size_t)comm->size + 1, sizeof *all);
    if (!all) return td_fail(TD_ERR_NOMEM, "no memory to agree in");
    struct verdict *own = &all[comm->size];
    own->status = mine;
    if (mine != TD_OK) strncpy(own->text, td_last_error(), SENTENCE - 1);
    struct td_record *record = td_comm_begin(comm, (td_note){TD_DOES_AGREE, 0, -1, -1, -1});
    td_status status = td_comm_allgather(comm, own, sizeof *own, all);
    for (int r = 0; r < comm->size && status == TD_OK; r++)
        if (all[r].status != TD_OK) status = td_fail_again((td_status)all[r].status, all[r].text);
    td_free(all);
    return td_comm_end(record, status);
}

/* --- groups and memory --- */

typedef struct ticket { /* what a rank says in a split */
    int color, key, host;
} ticket;

/* The ranks of a colour, ordered by key and then by rank; returns how many. */
static int choose_members(const ticket *all, int size, int color, int *members)
{
    int n = 0;
    for (int r = 0; r < size; r++) {
        if (all[r].color != color) continue;
        int at = n++;
        for (; at > 0 && all[members[at - 1]].key > all[r].key; at--) members[at] = members[at - 1];
        members[at] = r;
    }
    return n;
}

td_status td_comm_split(td_comm *comm, int color, int key, td_comm **out)
{
    size_t n = (size_t)comm->size;
    struct td_record *record = td_comm_begin(comm, (td_note){TD_DOES_SPLIT, 0, -1, -1, -1});
    td_comm *child = td_calloc(1, sizeof *child);
    ticket *all = td_calloc(n, sizeof *all), mine = {color, key, comm->host[comm->rank]};
    int *members = td_calloc(3 * n, sizeof *members), *host = members + n, *world = host + n;
    td_status status = TD_OK;
    if (!child || !all || !members) status = td_fail(TD_ERR_NOMEM, "no memory for a group");
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_comm_allgather(comm, &mine, sizeof mine, all));
    child->ops = comm->ops;
    child->deadline_ms = comm->deadline_ms;
    child->one_thread = comm->one_thread;
    child->recorder = comm->recorder;
    if (color >= 0) {
        child->size = choose_members(all, comm->size, color, members);
        for (int k = 0; k < child->size; k++) {
            host[k] = all[members[k]].host;
            world[k] = comm->world[members[k]];
            if (members[k] == comm->rank) child->rank = k;
        }
        status = td_comm_set_hosts(child, host, world);
    }
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(comm->ops->split(comm, color, key, color < 0 ? NULL : members, child));
    *out = color < 0 ? NULL : child;
    if (color >= 0) child = NULL;
out:
    if (child) td_free(child->host);
    td_free(child);
    td_free(members);
    td_free(all);
    return td_comm_end(record, status);
}

void td_comm_close(td_comm *comm)
{
    if (!comm) return;
    td_coll_release(comm);
    comm->ops->close(comm);
    td_free(comm->host);
    td_free(comm);
}

void td_comm_fail(td_comm *comm, td_status status, const char *sentence)
{
    if (status == TD_OK) return;
    comm->ops->fail(comm, td_fail_again(status, sentence));
}

td_status td_comm_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    struct td_record *record = td_comm_begin(comm, (td_note){TD_DOES_SHARE, bytes, -1, -1, -1});
    *out = (td_region){0};
    return td_comm_end(record, comm->ops->shared_create(comm, bytes ? bytes : 1, out));
}

void td_comm_shared_destroy(td_comm *comm, td_region *region)
{
    if (region->handle || region->data) comm->ops->shared_destroy(comm, region);
    *region = (td_region){0};
}

bool td_comm_launched_by_mpi(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
}
