/* Channels of keyed parts from their opening to their end, and the desks at which servers'
 * functions are called. See keyed_impl.h. */
#include "comm/keyed_room.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/recorder.h"

#include <string.h>

/* --- desks --- */

bool td_keyed_at_hand(const td_keyed *k, int rank)
{
    const td_comm *c = k->comm;
    return rank == c->rank || (c->ops->one_memory && c->host[rank] == c->host[c->rank]);
}

void td_keyed_clear(const td_keyed_request *r)
{
    size_t width = r->count ? r->bytes / r->count : 0; /* of parts that have places */
    if (!r->out) return;
    if (!r->places) memset(r->out, 0, r->bytes);
    for (size_t i = 0; i < r->count && r->places; i++)
        memset((char *)r->out + r->places[i] * width, 0, width);
}

td_keyed_turn td_keyed_call(td_keyed_desk *desk, bool waits, td_keyed_request *request,
                            td_keyed_answer *answer)
{
    td_keyed_turn turn = TD_KEYED_GONE;
    td_status status = TD_OK;
    *answer = (td_keyed_answer){0};
    request->answer = answer->note;
    if (pthread_mutex_trylock(&desk->lock) != 0) {
        if (!waits) return TD_KEYED_BUSY;
        pthread_mutex_lock(&desk->lock);
    }
    td_keyed *k = desk->keyed;
    if (k) {
        td_keyed_ready_fn *ready = k->config.ready;
        turn = !ready || ready(k->config.user, request) ? TD_KEYED_SERVED : TD_KEYED_PUT_OFF;
    }
    if (turn == TD_KEYED_SERVED) {
        status = k->config.serve(k->config.user, request);
        if (status != TD_OK) td_keyed_clear(request);
        if (desk->bell && atomic_load(&desk->put_off)) td_bell_ring(desk->bell);
    }
    pthread_mutex_unlock(&desk->lock);
    answer->status = (int32_t)status;
    if (status != TD_OK) {
        strncpy(answer->sentence, td_last_error(), TD_KEYED_SENTENCE - 1);
        td_error_clear();
    }
    return turn;
}

static td_keyed_desk *desk_at_hand(const td_keyed *k, int rank)
{
    const td_comm *c = k->comm;
    int number = 0;
    if (!td_keyed_at_hand(k, rank)) return NULL;
    if (k->desk_count == 1) return k->desks;
    for (int r = 0; r < rank; r++) number += c->host[r] == c->host[rank];
    return &k->desks[number];
}

/* Who finds it taken spins a little, since most requests take less than going to sleep and waking.
 */
static void init_lock(pthread_mutex_t *lock)
{
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
#ifdef PTHREAD_ADAPTIVE_MUTEX_INITIALIZER_NP
    pthread_mutexattr_settype(&kind, PTHREAD_MUTEX_ADAPTIVE_NP);
#endif
    pthread_mutex_init(lock, &kind);
    pthread_mutexattr_destroy(&kind);
}

/* Ranks of one memory have theirs in a common place, which outlives each of them. Collective. */
static td_status open_desks(td_keyed *k)
{
    td_comm *c = k->comm;
    if (c->ops->one_memory && c->size > 1) {
        size_t bytes = (size_t)c->local_size * sizeof *k->desks;
        TD_TRY(td_comm_shared_create(c, bytes, &k->memory));
        k->desks = k->memory.data;
        k->desk_count = c->local_size;
    } else {
        k->desks = td_calloc(1, sizeof *k->desks);
        k->desk_count = 1;
        TD_TRY(td_comm_agree(c, k->desks ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a desk")));
    }
    k->own = desk_at_hand(k, c->rank);
    init_lock(&k->own->lock);
    atomic_init(&k->own->finished, false);
    atomic_init(&k->own->put_off, false);
    k->own->keyed = k;
    for (int s = 0; s < k->config.server_count; s++) k->desk_of[s] = desk_at_hand(k, k->servers[s]);
    return TD_OK;
}

static void leave_desks(td_keyed *k)
{
    if (k->own) {
        pthread_mutex_lock(&k->own->lock);
        k->own->keyed = NULL;
        pthread_mutex_unlock(&k->own->lock);
        atomic_store(&k->own->finished, true);
    }
    if (k->memory.data)
        td_comm_shared_destroy(k->comm, &k->memory);
    else
        td_free(k->desks);
}

/* --- opening --- */

int td_keyed_owner(uint64_t key, int servers) /* the finaliser of splitmix64 */
{
    key = (key ^ (key >> 30)) * 0xbf58476d1ce4e5b9u;
    key = (key ^ (key >> 27)) * 0x94d049bb133111ebu;
    key ^= key >> 31;
    return (int)(((key >> 32) * (uint64_t)servers) >> 32);
}

static td_status check_config(const td_comm *comm, const td_keyed_config *c)
{
    if (comm->one_thread)
        return td_fail(TD_ERR_UNSUPPORTED, "this MPI may be called by one thread only: keyed parts "
                                           "cannot be served beside their rank");
    int n = c->servers ? c->server_count : comm->size, self = c->servers ? -1 : comm->rank;
    if (n < 1 || n > comm->size)
        return td_fail(TD_ERR_ARG, "keyed parts: %d servers in a group of %d ranks", n, comm->size);
    for (int s = 0; c->servers && s < n; s++) {
        int rank = c->servers[s];
        if (rank < 0 || rank >= comm->size)
            return td_fail(TD_ERR_ARG, "keyed parts: server %d is rank %d, not one of 0..%d", s,
                           rank, comm->size - 1);
        for (int t = 0; t < s; t++)
            if (c->servers[t] == rank)
                return td_fail(TD_ERR_ARG, "keyed parts: rank %d is server %d and server %d", rank,
                               t, s);
        if (rank == comm->rank) self = s;
    }
    if (self >= 0 && !c->serve)
        return td_fail(TD_ERR_ARG, "keyed parts: rank %d is a server without a function to serve",
                       comm->world[comm->rank]);
    return TD_OK;
}

static td_status create(td_comm *comm, const td_keyed_config *config, td_keyed **out)
{
    TD_TRY(td_comm_check_given(config, "keyed parts", "configuration"));
    TD_TRY(check_config(comm, config));
    int n = config->servers ? config->server_count : comm->size;
    td_keyed *k = td_calloc(1, sizeof *k);
    int *servers = td_calloc((size_t)n, sizeof *servers);
    td_keyed_desk **desk_of = td_calloc((size_t)n, sizeof *desk_of);
    if (!k || !servers || !desk_of) {
        td_free(k), td_free(servers), td_free(desk_of);
        return td_fail(TD_ERR_NOMEM, "no memory for keyed parts");
    }
    k->config = *config;
    k->config.server_count = n;
    k->servers = servers;
    k->desk_of = desk_of;
    k->self = -1;
    for (int s = 0; s < n; s++) {
        servers[s] = config->servers ? config->servers[s] : s;
        if (servers[s] == comm->rank) k->self = s;
    }
    k->last = &k->first;
    *out = k;
    return TD_OK;
}

/* What all ranks must have alike: where keys lie, and how large their parts are. */
typedef struct terms {
    uint64_t width, servers; /* a hash of their ranks */
    int32_t server_count, own_owner;
} terms;

static terms terms_of(const td_keyed *k)
{
    uint64_t h = 0;
    for (int s = 0; s < k->config.server_count; s++) {
        h = (h ^ (uint64_t)k->servers[s]) * 0xff51afd7ed558ccd + 1;
        h ^= h >> 32;
    }
    return (terms){k->config.width, h, k->config.server_count, k->config.owner != NULL};
}

static td_status compare(const td_comm *c, const terms *first, const terms *t, int rank)
{
    int other = c->world[0], who = c->world[rank];
    if (t->width != first->width)
        return td_fail(TD_ERR_ARG,
                       "keyed parts: rank %d has parts of %llu bytes where rank %d has "
                       "parts of %llu",
                       who, (unsigned long long)t->width, other, (unsigned long long)first->width);
    if (t->server_count != first->server_count)
        return td_fail(TD_ERR_ARG, "keyed parts: servers of rank %d: %d, of rank %d: %d", who,
                       t->server_count, other, first->server_count);
    if (t->servers != first->servers)
        return td_fail(TD_ERR_ARG, "keyed parts: rank %d has other ranks as servers than rank %d",
                       who, other);
    if (t->own_owner != first->own_owner)
        return td_fail(TD_ERR_ARG,
                       "keyed parts: rank %d has a function that says where keys are, "
                       "and rank %d has none",
                       t->own_owner ? who : other, t->own_owner ? other : who);
    return TD_OK;
}

/* All see all terms, and so come to the same verdict. Collective. */
static td_status agree_on_terms(td_comm *c, const td_keyed *k)
{
    if (c->size == 1) return TD_OK;
    terms own = terms_of(k), *all = td_calloc((size_t)c->size, sizeof *all);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for keyed parts");
    status = td_comm_agree(c, status);
    if (status == TD_OK) status = td_comm_allgather(c, &own, sizeof own, all);
    for (int r = 1; r < c->size && status == TD_OK; r++) status = compare(c, all, &all[r], r);
    td_free(all);
    return status;
}

/* All desks are open behind it. */
static td_status begin(td_keyed *k)
{
    td_comm *c = k->comm;
    c->beside = true;
    /* Where some ranks serve, they ask little; where all do, each has two threads that work. */
    int each = k->config.server_count < c->size ? 1 : 2;
    c->crowded = c->cores < each * c->local_size;
    k->ranks_crowd = c->cores < c->local_size;
    TD_TRY(open_desks(k));
    TD_TRY(td_keyed_rooms_open(k));
    td_status status = TD_OK;
    if (k->self >= 0 && c->size > k->desk_count) {
        status = td_keyed_serve_begin(k);
        if (status == TD_OK && k->config.ready) k->own->bell = td_keyed_service_bell(k);
    }
    return td_comm_agree(c, status);
}

static td_status open_channel(td_comm *comm, const td_keyed_config *config, td_keyed **out)
{
    td_keyed *k = NULL;
    td_status status = td_comm_agree(comm, create(comm, config, &k));
    if (status == TD_OK) status = agree_on_terms(comm, k);
    if (status == TD_OK) status = td_comm_split(comm, 0, comm->rank, &k->comm);
    if (status == TD_OK) td_recorder_call(k->comm, TD_GROUP_KEYED), status = begin(k);
    if (status != TD_OK) {
        td_keyed_destroy(k);
        return status;
    }
    *out = k;
    return TD_OK;
}

void td_recorder_join_keyed(td_keyed *k, const td_comm *from)
{
    td_recorder_join(k->comm, from);
    td_recorder_call(k->comm, TD_GROUP_KEYED);
}

td_status td_keyed_open(td_comm *comm, const td_keyed_config *config, td_keyed **out)
{
    TD_TRY(td_comm_check_open(comm, "keyed parts"));
    TD_TRY(td_comm_check_given(out, "keyed parts", "place for the channel"));
    struct td_record *record = td_comm_begin(comm, &(td_note){TD_DOES_KEYED, 0, -1, -1, -1});
    int entered = td_comm_enter(comm, TD_DOES_KEYED);
    td_status status = open_channel(comm, config, out);
    td_comm_leave(comm, entered);
    return td_comm_end(record, status);
}

/* --- closing --- */

static td_status say_goodbye(td_keyed *k)
{
    td_keyed_head head = {0};
    td_keyed_rooms_goodbye(k);
    for (int s = 0; s < k->config.server_count; s++)
        if (!k->desk_of[s] && !td_keyed_pair_with(k, s))
            TD_TRY(td_comm_exchange(k->comm, &head, sizeof head, k->servers[s], NULL, 0, -1,
                                    TD_TAG_KEYED));
    return TD_OK;
}

typedef struct leaving {
    td_keyed *keyed;
    int missing;
} leaving;

static td_status all_have_finished(void *arg, bool *done)
{
    leaving *l = arg;
    const td_comm *c = l->keyed->comm;
    l->missing = -1;
    for (int r = 0; r < c->size && l->missing < 0; r++) {
        const td_keyed_desk *desk = desk_at_hand(l->keyed, r);
        if (desk && !atomic_load(&desk->finished)) l->missing = r;
    }
    *done = l->missing < 0;
    return TD_OK;
}

static int who_has_not(void *arg)
{
    return ((leaving *)arg)->missing;
}

/* Until those who call this rank's function ask no more. */
static td_status wait_at_desk(td_keyed *k)
{
    leaving l = {k, -1};
    atomic_store(&k->own->finished, true);
    if (k->self < 0 || k->desk_count == 1) return TD_OK;
    return td_comm_wait(k->comm, -1, NULL, all_have_finished, who_has_not, &l);
}

td_status td_keyed_finish(td_keyed *k)
{
    TD_TRY(td_comm_check_given(k, "finish", "channel"));
    if (k->finished) return TD_OK;
    td_status status = td_keyed_wait(k, 0);
    bool whole = !k->broken;
    k->finished = true;
    td_record *record = td_comm_begin(k->comm, &(td_note){TD_DOES_SERVE, 0, -1, -1, -1});
    if (whole) {
        td_status said = say_goodbye(k);
        if (said == TD_OK) said = wait_at_desk(k);
        whole = said == TD_OK;
        if (status == TD_OK) status = said;
    }
    td_status served = td_keyed_serve_end(k, whole);
    return td_comm_end(record, status != TD_OK ? status : served);
}

void td_keyed_destroy(td_keyed *k)
{
    if (!k) return;
    td_keyed_give_up(k);
    if (td_keyed_serve_end(k, false) != TD_OK) td_error_clear();
    leave_desks(k);
    td_keyed_rooms_close(k);
    td_comm_close(k->comm);
    td_free(k->servers), td_free(k->desk_of);
    td_free(k);
}
