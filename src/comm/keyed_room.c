/* See keyed_room.h. A host's ranks meet in a small region: process, file and bell of each. */
#include "comm/keyed_room.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

enum { PAGE = 4096, LINE = 64 };
enum { LOOK_NS = 100000 }; /* at a request that is given up */
/* The most that a request has (keyed.c): keys and sizes or places, values, pulled values. */
#define AREA (((size_t)3 << 30) + PAGE)
#define PAIR (PAGE + TD_KEYED_SLOTS * AREA)
_Static_assert(sizeof(td_keyed_pair) <= PAGE, "a pair's head is a page");

typedef struct td_keyed_rooms rooms;

typedef struct line { /* of a rank of the host */
    int32_t pid, fd, works;
    atomic_int answers_itself;
    uint64_t mark;
    td_bell answered, asked;
    char pad[128 - 24 - 2 * sizeof(td_bell)];
} line;
_Static_assert(sizeof(line) == 128, "lines do not share a pair of cache lines");

struct td_keyed_rooms {
    td_region region;
    line *lines;     /* [local_size] */
    int *number;     /* [size] a rank's among those of its host; -1: on another */
    int *servers_of; /* [local_size] the server that it is, -1: none */
    bool works;
    char *mine; /* pairs with the host's servers, in the order of their ranks */
    size_t bytes;
    td_keyed_pair **with; /* [server_count] */
    td_keyed_pair **of;   /* [local_size] */
};
static int own(const td_keyed *k)
{
    return k->rooms->number[k->comm->rank];
}

/* Servers of the host before that rank of it, its own left out or not: the pair's place. */
static size_t place_of(const rooms *r, int local)
{
    size_t n = 0;
    for (int l = 0; l < local; l++) n += r->servers_of[l] >= 0;
    return n;
}

/* --- files --- */

static td_status make_file(td_keyed *k, int *out_fd)
{
    rooms *r = k->rooms;
    line *l = &r->lines[own(k)];
    size_t pairs = place_of(r, k->comm->local_size);
    r->bytes = pairs * PAIR;
    int fd = memfd_create("tandem-keyed", MFD_CLOEXEC);
    *out_fd = fd;
    if (fd < 0 || ftruncate(fd, (off_t)r->bytes) != 0)
        return td_fail_errno("memory for requests cannot be made");
    void *at = mmap(NULL, r->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (at == MAP_FAILED) return td_fail_errno("memory for requests cannot be mapped");
    madvise(at, r->bytes, MADV_DONTDUMP);
    r->mine = at;
    l->pid = (int32_t)getpid(), l->fd = fd;
    l->mark = (uint64_t)td_clock_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 32;
    for (size_t p = 0; p < pairs; p++)
        ((td_keyed_pair *)(void *)(r->mine + p * PAIR))->mark = l->mark;
    for (int s = 0; s < k->config.server_count; s++) {
        int local = r->number[k->servers[s]];
        if (local >= 0 && local != own(k))
            r->with[s] = (td_keyed_pair *)(void *)(r->mine + place_of(r, local) * PAIR);
    }
    return TD_OK;
}

/* What that rank asks this server. It must be the very file: another process may have the number
 * where this one cannot see those of the other. */
static td_status open_file(td_keyed *k, int local)
{
    rooms *r = k->rooms;
    const line *l = &r->lines[local];
    char path[64];
    struct stat s;
    size_t bytes = place_of(r, k->comm->local_size) * PAIR;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", l->pid, l->fd);
    if (stat(path, &s) != 0 || !S_ISREG(s.st_mode) || (size_t)s.st_size != bytes)
        return td_fail(TD_ERR_IO, "%s is not there", path);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return td_fail_errno("%s cannot be opened", path);
    void *at = mmap(NULL, PAIR, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
                    (off_t)(place_of(r, own(k)) * PAIR));
    close(fd);
    if (at == MAP_FAILED) return td_fail_errno("%s cannot be mapped", path);
    madvise(at, PAIR, MADV_DONTDUMP);
    r->of[local] = at;
    return r->of[local]->mark == l->mark ? TD_OK : td_fail(TD_ERR_IO, "%s is another's", path);
}

static td_status open_files(td_keyed *k)
{
    for (int l = 0; l < k->comm->local_size && k->self >= 0; l++)
        if (l != own(k)) TD_TRY(open_file(k, l));
    return TD_OK;
}

/* --- beginning and end --- */

static td_status make_rooms(td_keyed *k)
{
    const td_comm *c = k->comm;
    size_t local = (size_t)c->local_size;
    rooms *r = k->rooms = td_calloc(1, sizeof *r);
    if (!r) return td_fail(TD_ERR_NOMEM, "no memory for requests");
    r->number = td_calloc((size_t)c->size, sizeof *r->number);
    r->servers_of = td_calloc(local, sizeof *r->servers_of);
    r->with = td_calloc((size_t)k->config.server_count, sizeof(td_keyed_pair *));
    r->of = td_calloc(local, sizeof(td_keyed_pair *));
    if (!r->number || !r->servers_of || !r->with || !r->of)
        return td_fail(TD_ERR_NOMEM, "no memory for requests");
    for (int rank = 0, n = 0; rank < c->size; rank++)
        r->number[rank] = c->host[rank] == c->host[c->rank] ? n++ : -1;
    for (int l = 0; l < c->local_size; l++) r->servers_of[l] = -1;
    for (int s = 0; s < k->config.server_count; s++)
        if (r->number[k->servers[s]] >= 0) r->servers_of[r->number[k->servers[s]]] = s;
    return TD_OK;
}

/* Between the steps all agree, so that the others' lines are there. */
static td_status share(td_keyed *k, int *fd)
{
    td_comm *c = k->comm;
    rooms *r = k->rooms;
    bool works = c->local_size > 1 && place_of(r, c->local_size) > 0;
    if (works) works = make_file(k, fd) == TD_OK;
    r->lines[own(k)].works = works;
    TD_TRY(td_comm_agree(c, TD_OK));
    for (int l = 0; l < c->local_size; l++) works = works && r->lines[l].works;
    bool opened = works && open_files(k) == TD_OK;
    TD_TRY(td_comm_agree(c, TD_OK)); /* all have looked at the lines */
    r->lines[own(k)].works = opened;
    TD_TRY(td_comm_agree(c, TD_OK));
    r->works = true;
    for (int l = 0; l < c->local_size; l++) r->works = r->works && r->lines[l].works;
    td_error_clear();
    return TD_OK;
}

td_status td_keyed_rooms_open(td_keyed *k)
{
    td_comm *c = k->comm;
    int fd = -1;
    if (c->ops->one_memory || c->size == c->hosts) return TD_OK;
    TD_TRY(td_comm_agree(c, make_rooms(k)));
    TD_TRY(td_comm_shared_create(c, (size_t)c->local_size * sizeof(line), &k->rooms->region));
    k->rooms->lines = k->rooms->region.data;
    td_status status = share(k, &fd);
    if (fd >= 0) close(fd);
    return status;
}

void td_keyed_rooms_close(td_keyed *k)
{
    rooms *r = k->rooms;
    if (!r) return;
    if (r->mine) munmap(r->mine, r->bytes);
    for (int l = 0; r->of && l < k->comm->local_size; l++)
        if (r->of[l]) munmap(r->of[l], PAIR);
    if (r->region.data) td_comm_shared_destroy(k->comm, &r->region);
    td_free(r->number), td_free(r->servers_of), td_free(r->with), td_free(r->of);
    td_free(r);
    k->rooms = NULL;
}

td_keyed_pair *td_keyed_pair_with(const td_keyed *k, int server)
{
    return k->rooms && k->rooms->works ? k->rooms->with[server] : NULL;
}

td_keyed_pair *td_keyed_pair_of(const td_keyed *k, int rank)
{
    int local = k->rooms && k->rooms->works ? k->rooms->number[rank] : -1;
    return local >= 0 ? k->rooms->of[local] : NULL;
}

td_bell *td_keyed_room_bell(const td_keyed *k)
{
    return k->rooms && k->rooms->works ? &k->rooms->lines[own(k)].answered : NULL;
}

td_bell *td_keyed_asked_bell(const td_keyed *k)
{
    return k->rooms && k->rooms->works ? &k->rooms->lines[own(k)].asked : NULL;
}

/* --- who asks --- */

td_keyed_slot *td_keyed_take(td_keyed_pair *pair)
{
    for (int s = 0; s < TD_KEYED_SLOTS; s++) {
        td_keyed_slot *slot = &pair->slot[s];
        if (atomic_load_explicit(&slot->state, memory_order_acquire) != TD_SLOT_FREE) continue;
        atomic_store_explicit(&slot->state, TD_SLOT_TAKEN, memory_order_relaxed);
        return slot;
    }
    return NULL;
}

void td_keyed_ask(td_keyed *k, int server, td_keyed_slot *slot)
{
    slot->number = ++td_keyed_pair_with(k, server)->asked;
    line *its = &k->rooms->lines[k->rooms->number[k->servers[server]]];
    atomic_store_explicit(&slot->written, 0, memory_order_relaxed);
    atomic_store(&slot->state, TD_SLOT_ASKED); /* before the look at who answers */
    td_bell_ring(atomic_load(&its->answers_itself) ? &its->answered : &its->asked);
}

void td_keyed_release(td_keyed_slot *slot)
{
    int state = atomic_load_explicit(&slot->state, memory_order_acquire);
    if (state != TD_SLOT_ASKED && state != TD_SLOT_IN_HAND)
        atomic_store_explicit(&slot->state, TD_SLOT_FREE, memory_order_release);
}

bool td_keyed_withdraw(const td_keyed *k, int server, td_keyed_slot *slot, int64_t until)
{
    int pid = k->rooms->lines[k->rooms->number[k->servers[server]]].pid;
    for (;;) {
        int state = TD_SLOT_ASKED;
        if (atomic_compare_exchange_strong(&slot->state, &state, TD_SLOT_TAKEN)) return true;
        if (state != TD_SLOT_IN_HAND) return true;
        if (until == 0 || td_clock_ns() > until || td_process_has_ended(pid)) return until != 0;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
    }
}

void td_keyed_rooms_goodbye(td_keyed *k)
{
    for (int s = 0; s < k->config.server_count; s++) {
        td_keyed_pair *pair = td_keyed_pair_with(k, s);
        if (!pair) continue;
        atomic_store(&pair->gone, 1);
        td_bell_ring(&k->rooms->lines[k->rooms->number[k->servers[s]]].asked);
    }
}

/* --- who answers --- */

td_keyed_slot *td_keyed_asked(td_keyed_pair *pair)
{
    for (int s = 0; s < TD_KEYED_SLOTS; s++) {
        td_keyed_slot *slot = &pair->slot[s];
        int state = atomic_load_explicit(&slot->state, memory_order_acquire);
        if (state == TD_SLOT_ASKED && slot->number == pair->served + 1 &&
            atomic_compare_exchange_strong(&slot->state, &state, TD_SLOT_IN_HAND))
            return slot;
    }
    return NULL;
}

void td_keyed_answers_itself(td_keyed *k)
{
    atomic_store(&k->rooms->lines[own(k)].answers_itself, 1);
}

/* Who asks behind this store rings for the service, and what was asked before is seen here. */
void td_keyed_answers_no_more(td_keyed *k)
{
    bool asked = false;
    atomic_store(&k->rooms->lines[own(k)].answers_itself, 0);
    for (int l = 0; l < k->comm->local_size; l++)
        for (int s = 0; s < TD_KEYED_SLOTS && k->rooms->of[l]; s++)
            asked = asked || atomic_load(&k->rooms->of[l]->slot[s].state) == TD_SLOT_ASKED;
    if (asked) td_bell_ring(td_keyed_asked_bell(k));
}

void td_keyed_put_off(td_keyed_slot *slot)
{
    atomic_store_explicit(&slot->state, TD_SLOT_ASKED, memory_order_release);
}

void td_keyed_reply(td_keyed *k, int rank, td_keyed_slot *slot)
{
    td_keyed_pair_of(k, rank)->served++;
    atomic_store_explicit(&slot->state, TD_SLOT_ANSWERED, memory_order_release);
    td_bell_ring(&k->rooms->lines[k->rooms->number[rank]].answered);
}

void td_keyed_wrote(const td_keyed_request *request, size_t bytes)
{
    const td_keyed_progress *p = request->progress;
    if (!p) return;
    if (bytes > request->bytes) bytes = request->bytes; /* no more are copied than there are */
    atomic_store_explicit(&p->slot->written, bytes, memory_order_release);
    td_bell_ring(&p->keyed->rooms->lines[p->keyed->rooms->number[p->rank]].answered);
}

/* --- what lies in a slot --- */

static size_t lined_up(size_t at)
{
    return (at + LINE - 1) & ~(size_t)(LINE - 1);
}

char *td_keyed_keys_in(td_keyed_pair *pair, const td_keyed_slot *slot)
{
    return (char *)pair + PAGE + (size_t)(slot - pair->slot) * AREA;
}

char *td_keyed_values_in(td_keyed_pair *pair, const td_keyed_slot *slot)
{
    return td_keyed_keys_in(pair, slot) + lined_up(td_keyed_key_bytes(&slot->head));
}

char *td_keyed_out_in(td_keyed_pair *pair, const td_keyed_slot *slot)
{
    return td_keyed_values_in(pair, slot) + lined_up(slot->head.in_bytes);
}
