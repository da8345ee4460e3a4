/* Groups, waits with their deadline, messages; collective.c has the collectives. */
#include "comm/transport.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/coll/coll.h"
#include "comm/recorder.h"
#include "comm/recover.h"

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
    return comm ? comm->rank : -1;
}

int td_comm_size(const td_comm *comm)
{
    return comm ? comm->size : 0;
}

const char *td_comm_transport(const td_comm *comm)
{
    return comm ? comm->ops->name : "none";
}

int td_comm_hosts(const td_comm *comm)
{
    return comm ? comm->hosts : 0;
}

int td_comm_host_of(const td_comm *comm, int rank)
{
    return !comm || comm->closed || rank < 0 || rank >= comm->size ? -1 : comm->host[rank];
}

uint64_t td_comm_bytes_sent(const td_comm *comm)
{
    return comm ? comm->bytes_sent : 0;
}

int td_comm_local_rank(const td_comm *comm)
{
    return comm ? comm->local_rank : -1;
}

int td_comm_local_size(const td_comm *comm)
{
    return comm ? comm->local_size : 0;
}

/* What processes of this host have told each other; 0: nothing. */
static int cores_told(const td_comm *comm)
{
    int count = 0;
    for (size_t k = 0; k < sizeof *comm->seat->cores; k++) {
        unsigned any = 0;
        for (int r = 0; r < comm->size; r++)
            if (comm->host[r] == comm->host[comm->rank])
                any |= comm->seat->cores[comm->world[r]][k];
        count += __builtin_popcount(any);
    }
    return count;
}

/* Threads have those that their process may run on. */
static int cores_of(const td_comm *comm)
{
    int told = comm->seat && comm->seat->cores ? cores_told(comm) : 0;
    if (told) return told;
    int online = (int)sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t allowed;
    bool all = comm->ops->one_memory && sched_getaffinity(0, sizeof allowed, &allowed) == 0;
    if (all && CPU_COUNT(&allowed) < online) return CPU_COUNT(&allowed);
#endif
    return online;
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
    comm->cores = cores_of(comm);
    comm->crowded = comm->cores < comm->local_size;
    comm->meets = td_shared_may_meet(comm);
    comm->card = (td_card){.group = 1, .ranks = comm->size, .missing = -1};
    return TD_OK;
}

static int first_here(const td_comm *comm)
{
    int first = 0;
    while (comm->host[first] != comm->host[comm->rank]) first++;
    return first;
}

void td_comm_spread_out(const td_comm *comm)
{
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (!comm->seat || sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    int cpu = 0, left = comm->seat->place, count = CPU_COUNT(&allowed);
    if (count < comm->seat->places && count < comm->cores) return;
    if (count < comm->seat->places)
        left = (comm->world[first_here(comm)] + comm->local_rank) % count;
    for (; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &allowed) && left-- == 0) break;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    if (sched_setaffinity(0, sizeof one, &one) == 0) sched_setaffinity(0, sizeof allowed, &allowed);
#else
    (void)comm;
#endif
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

/* --- point to point --- */

td_status td_comm_check_peer(const td_comm *comm, const void *data, size_t bytes, int peer, int tag,
                             const char *what)
{
    TD_TRY(td_comm_check_open(comm, what));
    if (peer < 0 || peer >= comm->size)
        return td_fail(TD_ERR_ARG, "%s: rank %d is not one of 0..%d", what, peer, comm->size - 1);
    if (peer == comm->rank) return td_fail(TD_ERR_ARG, "%s: rank %d is this rank", what, peer);
    if (bytes > (size_t)PTRDIFF_MAX)
        return td_fail(TD_ERR_ARG, "%s: %zu bytes are more than memory holds", what, bytes);
    if (!data && bytes) return td_fail(TD_ERR_ARG, "%s: no buffer for %zu bytes", what, bytes);
    if (tag < 0 || tag > 1000000)
        return td_fail(TD_ERR_ARG, "%s: tag %d is not in 0..1000000", what, tag);
    return TD_OK;
}

td_status td_comm_send(td_comm *comm, const void *data, size_t bytes, int to, int tag)
{
    TD_TRY(td_comm_check_peer(comm, data, bytes, to, tag, "send"));
    struct td_record *record =
        td_comm_begin(comm, &(td_note){TD_DOES_SEND, bytes, -1, -1, to, (unsigned)tag});
    return td_comm_end(record, td_comm_exchange(comm, data, bytes, to, NULL, 0, -1, tag));
}

td_status td_comm_recv(td_comm *comm, void *data, size_t bytes, int from, int tag)
{
    TD_TRY(td_comm_check_peer(comm, data, bytes, from, tag, "recv"));
    struct td_record *record =
        td_comm_begin(comm, &(td_note){TD_DOES_RECV, bytes, -1, -1, from, (unsigned)tag});
    return td_comm_end(record, td_comm_exchange(comm, NULL, 0, -1, data, bytes, from, tag));
}

/* --- agreement --- */

td_status td_comm_agree(td_comm *comm, td_status mine)
{
    enum { SENTENCE = 512 };
    typedef struct verdict {
        int32_t status;
        char text[SENTENCE];
    } verdict;
    TD_TRY(td_comm_check_open(comm, "agree"));
    if (comm->size == 1) return mine;
    comm->agreed = (td_agreement){.alike = 0};
    /* It stays: who lacks memory later is to be able to say so. */
    if (!comm->verdicts) comm->verdicts = td_calloc((size_t)comm->size + 1, sizeof(verdict));
    if (!comm->verdicts) return td_fail(TD_ERR_NOMEM, "no memory to agree in");
    verdict *all = comm->verdicts, *own = &all[comm->size];
    *own = (verdict){.status = mine};
    if (mine != TD_OK) strncpy(own->text, td_last_error(), SENTENCE - 1);
    struct td_record *record = td_comm_begin(comm, &(td_note){TD_DOES_AGREE, 0, -1, -1, -1});
    int entered = td_comm_enter(comm, TD_DOES_AGREE);
    td_status status = td_comm_allgather(comm, own, sizeof *own, all);
    td_comm_leave(comm, entered);
    bool heard = status == TD_OK;
    for (int r = 0; r < comm->size && status == TD_OK; r++)
        if (all[r].status != TD_OK) status = td_fail_again((td_status)all[r].status, all[r].text);
    if (heard && status != TD_OK) {
        comm->agreed = (td_agreement){.status = status, .mine = mine};
        for (int r = 0; r < comm->size; r++) comm->agreed.alike += all[r].status == (int)status;
        comm->agreed_at = comm->sequence;
    }
    if (!heard) td_free(all), comm->verdicts = NULL; /* a late rank may still use it */
    td_status ran =
        td_comm_end(record, heard ? TD_OK : status); /* that all know of a failure is none */
    return heard ? status : ran;
}

td_agreement td_comm_agreement(const td_comm *comm)
{
    bool newest = comm && comm->agreed_at == comm->sequence;
    return newest ? comm->agreed : (td_agreement){.alike = 0};
}

/* --- groups and memory --- */

typedef struct ticket { /* what a rank says in a split */
    uint64_t numbers[TD_GROUP_WORDS];
    int color, key, host, unused;
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

/* The lowest number that all ranks have free, or behind as many as `skip` others that they have;
 * -1: none. */
static int choose_number(const ticket *all, int size, int skip)
{
    int found = -1;
    for (int k = 0; k < 64 * TD_GROUP_WORDS; k++) {
        int r = 0;
        while (r < size && all[r].numbers[k / 64] >> (k % 64) & 1) r++;
        if (r < size) continue;
        found = k;
        if (skip-- == 0) break;
    }
    return found;
}

uint64_t td_comm_group_number(uint64_t parent, uint64_t of, int color)
{
    uint64_t h = parent * 0x9e3779b97f4a7c15 + of;
    h = (h ^ h >> 32) * 0xff51afd7ed558ccd + (uint64_t)(unsigned)color;
    h = (h ^ h >> 29) * 0xc4ceb9fe1a85ec53;
    return h ^ h >> 32;
}

/* One that all ranks have free and each member has taken, as a rank's other threads may look for
 * one at the same time. *out -1: there is none, or none is needed. */
static td_status find_number(td_comm *comm, ticket *mine, ticket *all, int *out)
{
    enum { TRIES = 100, SPREAD = 16 }; /* groups look in different places when they have met */
    for (int k = 0; k < TRIES; k++) {
        int skip = k ? (int)(td_comm_group_number(comm->card.group, (uint64_t)k, 0) % SPREAD) : 0;
        *out = choose_number(all, comm->size, skip);
        if (*out < 0) return TD_OK;
        int32_t took = mine->color < 0 || comm->ops->take(comm, *out), have = 0;
        td_status status = td_comm_allreduce(comm, &took, &have, 1, TD_I32, TD_MIN);
        if (status == TD_OK && have) return TD_OK;
        TD_TRY(status); /* others may use it: it stays taken */
        if (took && mine->color >= 0) comm->ops->give_back(comm, *out);
        comm->ops->numbers(comm, mine->numbers);
        TD_TRY(td_comm_allgather(comm, mine, sizeof *mine, all));
    }
    return td_fail(TD_ERR_PEER,
                   "split: other threads of the ranks took %d numbers for groups first", TRIES);
}

td_status td_comm_split(td_comm *comm, int color, int key, td_comm **out)
{
    TD_TRY(td_comm_check_open(comm, "split"));
    TD_TRY(td_comm_check_given(out, "split", "place for the group"));
    size_t n = (size_t)comm->size;
    struct td_record *record = td_comm_begin(comm, &(td_note){TD_DOES_SPLIT, 0, -1, -1, -1});
    uint64_t of = comm->sequence;
    int entered = td_comm_enter(comm, TD_DOES_SPLIT);
    td_comm *child = td_calloc(1, sizeof *child);
    ticket *all = td_calloc(n, sizeof *all);
    ticket mine = {.color = color, .key = key, .host = comm->host[comm->rank]};
    int *members = td_calloc(3 * n, sizeof *members), *host = members + n, *world = host + n;
    td_status status = TD_OK;
    if (!child || !all || !members) status = td_fail(TD_ERR_NOMEM, "no memory for a group");
    TD_GOTO(td_comm_agree(comm, status));
    if (comm->ops->numbers) comm->ops->numbers(comm, mine.numbers);
    TD_GOTO(td_comm_allgather(comm, &mine, sizeof mine, all));
    child->ops = comm->ops;
    child->deadline_ms = comm->deadline_ms;
    child->one_thread = comm->one_thread;
    child->generation = comm->generation;
    child->seat = comm->seat;
    if (color >= 0) {
        child->size = choose_members(all, comm->size, color, members);
        for (int k = 0; k < child->size; k++) {
            host[k] = all[members[k]].host;
            world[k] = comm->world[members[k]];
            if (members[k] == comm->rank) child->rank = k;
        }
        status = td_comm_set_hosts(child, host, world);
        child->card.group = td_comm_group_number(comm->card.group, of, color);
        if (status == TD_OK) status = td_tuning_inherit(comm, child);
    }
    TD_GOTO(td_comm_agree(comm, status));
    int number = -1;
    TD_GOTO(find_number(comm, &mine, all, &number));
    TD_GOTO(comm->ops->split(comm, color, key, color < 0 ? NULL : members, number, child));
    *out = color < 0 ? NULL : child;
    if (color >= 0) td_recorder_join(child, comm), child = NULL;
out:
    if (child) td_free(child->host), td_tuning_free(child->tuning);
    td_free(child);
    td_free(members);
    td_free(all);
    td_comm_leave(comm, entered);
    return td_comm_end(record, status);
}

td_status td_comm_open_meeting(td_comm *comm, td_comm **out)
{
    TD_TRY(td_comm_split(comm, 0, comm->rank, out));
    (*out)->deadline_ms = INT64_MAX / 2000000;
    td_recorder_call(*out, TD_GROUP_MEETING);
    return TD_OK;
}

void td_comm_close(td_comm *comm)
{
    if (!comm) return;
    if (comm->closed || comm->the_runs) {
        td_warn(comm->closed ? "close: this group, of %d ranks, was closed already"
                             : "close: this group, of %d ranks, is the run's, and ends with it",
                comm->size);
        return;
    }
    td_comm *ends = comm->ends;
    td_coll_release(comm);
    comm->ops->close(comm);
    td_recorder_close(comm);
    td_free(comm->reborn);
    if (comm->owns_seat) td_free(comm->seat->host), td_free(comm->seat->cores), td_free(comm->seat);
    td_free(comm->host);
    comm->closed = true;
    td_comm_retire(comm);
    td_comm_close(ends);
}

void td_comm_fail(td_comm *comm, td_status status, const char *sentence)
{
    if (status == TD_OK || !comm || comm->closed) return;
    comm->ops->fail(comm, td_fail_again(status, sentence ? sentence : td_status_name(status)));
}

td_status td_comm_failure(td_comm *comm)
{
    return comm->ops->failure ? comm->ops->failure(comm) : TD_OK;
}

bool td_comm_hears_failure(td_comm *comm, int64_t ms)
{
    int64_t until = td_clock_ns() + ms * 1000000;
    comm->operation = "its end";
    while (comm->ops->check(comm, -1) == TD_OK) {
        if (td_clock_ns() >= until) return false;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return true;
}

td_status td_comm_hear(td_comm *comm, const char *doing)
{
    comm->operation = doing;
    return comm->ops->check(comm, -1);
}

td_status td_comm_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    TD_TRY(td_comm_check_given(out, "shared memory", "place for it"));
    *out = (td_region){0};
    TD_TRY(td_comm_check_open(comm, "shared memory"));
    struct td_record *record = td_comm_begin(comm, &(td_note){TD_DOES_SHARE, bytes, -1, -1, -1});
    td_status status = comm->ops->shared_create(comm, bytes ? bytes : 1, out);
    if (status != TD_OK) td_comm_give_up(comm, -1);
    return td_comm_end(record, status);
}

void td_comm_shared_destroy(td_comm *comm, td_region *region)
{
    if (!comm || !region) return;
    if (region->handle || region->data) comm->ops->shared_destroy(comm, region);
    *region = (td_region){0};
}

/* --- how a run is started --- */

enum { USUAL_DEADLINE_MS = 300000 };
static const int64_t most_deadline_ms = 1000000000000;

td_status td_comm_check_config(const td_comm_config *config)
{
    if (!config || (config->deadline_ms >= 0 && config->deadline_ms <= most_deadline_ms))
        return TD_OK;
    return td_fail(TD_ERR_ARG, "a deadline of %lld ms; 1 to %lld are possible, and 0 for %d",
                   (long long)config->deadline_ms, (long long)most_deadline_ms,
                   (int)USUAL_DEADLINE_MS);
}

int64_t td_comm_deadline(const td_comm_config *config)
{
    return config && config->deadline_ms ? config->deadline_ms : USUAL_DEADLINE_MS;
}

bool td_comm_launched_by_mpi(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK");
}
