/* The serving side of push and pull: a thread that takes requests as they arrive, in rooms and as
 * messages.
 *
 * Of each other rank one request is in hand at a time: its head, then the rest of it, then the
 * answer on its way back. Rooms grow to the largest request seen and are kept.
 *
 * What is asked in rooms the rank itself may answer, too, while it waits (td_keyed_serve_some). */
#include "comm/keyed_room.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <string.h>
#include <unistd.h>

typedef enum client_state { AT_HEAD, AT_BODY, PUT_OFF, ANSWERING, GONE } client_state;

typedef struct room {
    char *data;
    size_t bytes;
} room;

typedef struct client {
    int rank;
    td_keyed_pair *pair; /* it asks here; NULL: by messages */
    client_state state;
    td_keyed_head head;
    td_keyed_answer answer;
    room body, in, out;
    td_request request[2];
    int requests;
} client;

struct td_keyed_service {
    td_keyed *keyed;
    td_comm comm; /* the serving thread's handle */
    pthread_t thread;
    client *clients; /* [count] */
    int count;
    pthread_mutex_t lock; /* held while clients are looked at */
    atomic_int ending;    /* 1: when all clients are gone, 2: at once */
    int64_t ending_ns;
    td_status status;
    char sentence[512];
    bool moved, put_off;  /* in this look */
    td_mappings mappings; /* of askers' memory */
};

static td_status make_room(room *r, size_t bytes)
{
    if (bytes <= r->bytes) return TD_OK;
    td_free(r->data);
    r->bytes = 0;
    r->data = td_alloc_aligned(bytes);
    if (!r->data) return td_fail(TD_ERR_NOMEM, "no memory for a request of %zu bytes", bytes);
    r->bytes = bytes;
    return TD_OK;
}

/* --- one client --- */

static td_status receive(td_keyed_service *s, client *c, void *data, size_t bytes, int tag)
{
    td_request *r = &c->request[c->requests];
    *r = (td_request){.data = data, .bytes = bytes, .peer = c->rank, .tag = tag};
    TD_TRY(s->comm.ops->irecv(&s->comm, r));
    c->requests++;
    return TD_OK;
}

static td_status send(td_keyed_service *s, client *c, void *data, size_t bytes, int tag)
{
    td_request *r = &c->request[c->requests];
    *r = (td_request){.data = data, .bytes = bytes, .peer = c->rank, .tag = tag};
    TD_TRY(s->comm.ops->isend(&s->comm, r));
    c->requests++;
    return TD_OK;
}

static td_status await_head(td_keyed_service *s, client *c)
{
    c->state = AT_HEAD;
    c->requests = 0;
    return receive(s, c, &c->head, sizeof c->head, TD_TAG_KEYED);
}

static td_status await_body(td_keyed_service *s, client *c)
{
    const td_keyed_head *h = &c->head;
    c->requests = 0;
    if (!h->does) {
        c->state = GONE;
        return TD_OK;
    }
    c->state = AT_BODY;
    TD_TRY(make_room(&c->body, td_keyed_body(h)));
    TD_TRY(make_room(&c->in, h->apart || h->in_bytes ? h->in_bytes : 0));
    TD_TRY(make_room(&c->out, h->out_bytes));
    if (td_keyed_body(h)) TD_TRY(receive(s, c, c->body.data, td_keyed_body(h), TD_TAG_KEYED + 1));
    return h->apart ? receive(s, c, c->in.data, h->in_bytes, TD_TAG_KEYED + 2) : TD_OK;
}

/* *served: it was ready. */
static td_status answer(td_keyed_service *s, client *c, bool *served)
{
    const td_keyed_head *h = &c->head;
    if (h->in_bytes && !h->apart) /* behind the keys: to where it is aligned */
        memcpy(c->in.data, c->body.data + td_keyed_body(h) - h->in_bytes, h->in_bytes);
    td_keyed_request request =
        td_keyed_request_of(h, c->rank, c->body.data, c->in.data, c->out.data);
    c->requests = 0;
    *served = td_keyed_call(s->keyed->own, true, &request, &c->answer) == TD_KEYED_SERVED;
    c->state = *served ? ANSWERING : PUT_OFF;
    s->put_off = s->put_off || !*served;
    if (!*served) return TD_OK;
    TD_TRY(send(s, c, &c->answer, sizeof c->answer, TD_TAG_KEYED + 3));
    return h->out_bytes ? send(s, c, c->out.data, h->out_bytes, TD_TAG_KEYED + 4) : TD_OK;
}

/* Where the values of a request lie that are not in its slot. */
static td_status find_values(td_keyed_service *s, const td_keyed_slot *slot, td_keyed_request *r)
{
    int most = 4 * s->count + 16;
    void *at;
    if (r->in && slot->in.number) {
        TD_TRY(td_mappings_find(&s->mappings, &slot->in, most, &at));
        r->in = at;
    }
    if (r->out && slot->out.number) {
        TD_TRY(td_mappings_find(&s->mappings, &slot->out, most, &at));
        r->out = at;
        r->progress = NULL; /* nobody takes them from here */
    }
    return TD_OK;
}

static void fail_in_room(td_keyed_slot *slot, td_status status)
{
    slot->answer = (td_keyed_answer){.status = (int32_t)status};
    strncpy(slot->answer.sentence, td_last_error(), TD_KEYED_SENTENCE - 1);
    td_error_clear();
}

static void answer_in_room(td_keyed_service *s, client *c)
{
    bool gone = atomic_load(&c->pair->gone); /* before the look at what it has asked */
    td_keyed_slot *slot = td_keyed_asked(c->pair);
    if (!slot) {
        if (gone) c->state = GONE, s->moved = true;
        return;
    }
    td_keyed_progress progress = {s->keyed, c->rank, slot};
    td_keyed_request request =
        td_keyed_request_of(&slot->head, c->rank, td_keyed_keys_in(c->pair, slot),
                            td_keyed_values_in(c->pair, slot), td_keyed_out_in(c->pair, slot));
    request.progress = &progress;
    td_status found = find_values(s, slot, &request);
    if (found != TD_OK) {
        fail_in_room(slot, found);
    } else if (td_keyed_call(s->keyed->own, true, &request, &slot->answer) != TD_KEYED_SERVED) {
        td_keyed_put_off(slot);
        s->put_off = true;
        return;
    }
    td_keyed_reply(s->keyed, c->rank, slot);
    s->moved = true;
}

static td_status advance(td_keyed_service *s, client *c)
{
    if (c->pair) {
        answer_in_room(s, c);
        return TD_OK;
    }
    for (int k = 0; k < c->requests; k++) {
        bool done = false;
        TD_TRY(s->comm.ops->test(&s->comm, &c->request[k], &done));
        if (!done) return TD_OK;
    }
    bool moved = true;
    td_status status = TD_OK;
    switch (c->state) {
    case AT_HEAD: status = await_body(s, c); break;
    case AT_BODY:
    case PUT_OFF: status = answer(s, c, &moved); break;
    case ANSWERING: status = await_head(s, c); break;
    case GONE: break;
    }
    s->moved = s->moved || moved;
    return status;
}

/* --- the thread --- */

/* One round; *left: clients that may ask yet, the last of whom is *waited_for. */
static td_status look_at_clients(td_keyed_service *s, int *left, int *waited_for)
{
    td_status status = TD_OK;
    s->moved = s->put_off = false;
    for (int k = 0; k < s->count && status == TD_OK; k++) {
        client *c = &s->clients[k];
        if (c->state != GONE) status = advance(s, c);
        if (c->state != GONE) ++*left, *waited_for = c->rank;
    }
    atomic_store(&s->keyed->own->put_off, s->put_off);
    return status;
}

void td_keyed_serve_some(td_keyed *k)
{
    td_keyed_service *s = k->service;
    if (pthread_mutex_trylock(&s->lock) != 0) return;
    for (int c = 0; c < s->count; c++)
        if (s->clients[c].pair && s->clients[c].state != GONE) answer_in_room(s, &s->clients[c]);
    pthread_mutex_unlock(&s->lock);
}

/* *done: something has moved, or there is nothing left to do. */
static td_status test_clients(void *arg, bool *done)
{
    td_keyed_service *s = arg;
    int ending = atomic_load(&s->ending), left = 0, waited_for = -1;
    bool moved = false;
    if (ending < 2) {
        pthread_mutex_lock(&s->lock);
        td_status status = look_at_clients(s, &left, &waited_for);
        moved = s->moved;
        pthread_mutex_unlock(&s->lock);
        TD_TRY(status);
    }
    *done = moved || ending == 2 || (ending && !left);
    if (!ending || *done) return TD_OK;
    int64_t now = td_clock_ns();
    if (!s->ending_ns) s->ending_ns = now;
    if (now - s->ending_ns > s->keyed->comm->deadline_ms * 1000000)
        return td_fail(TD_ERR_TIMEOUT,
                       "rank %d waited more than %lld ms for rank %d to finish its pushes and "
                       "pulls",
                       s->comm.world[s->comm.rank], (long long)s->keyed->comm->deadline_ms,
                       s->comm.world[waited_for]);
    return TD_OK;
}

static bool all_gone(const td_keyed_service *s)
{
    for (int k = 0; k < s->count; k++)
        if (s->clients[k].state != GONE) return false;
    return true;
}

td_bell *td_keyed_service_bell(const td_keyed *k)
{
    bool messages = false, rooms = false;
    for (int r = 0; r < k->comm->size; r++) {
        bool at_hand = td_keyed_at_hand(k, r), pair = !at_hand && td_keyed_pair_of(k, r);
        messages = messages || (!at_hand && !pair);
        rooms = rooms || pair;
    }
    if (messages && rooms) return NULL;
    return rooms ? td_keyed_asked_bell(k) : k->comm->ops->bell(k->comm);
}

static void *serve_main(void *arg)
{
    td_keyed_service *s = arg;
    td_status status = TD_OK;
    td_bell *bell = td_keyed_service_bell(s->keyed);
    for (int k = 0; k < s->count && status == TD_OK; k++)
        if (!s->clients[k].pair) status = await_head(s, &s->clients[k]);
    while (status == TD_OK) {
        int ending = atomic_load(&s->ending);
        if (ending == 2 || (ending && all_gone(s))) break;
        status = td_comm_wait(&s->comm, -1, bell, test_clients, NULL, s);
    }
    for (int k = 0; k < s->count; k++)
        for (int r = 0; r < s->clients[k].requests; r++)
            s->comm.ops->cancel(&s->comm, &s->clients[k].request[r]);
    if (status != TD_OK && status != TD_ERR_PEER) s->comm.ops->fail(&s->comm, status);
    s->status = status;
    if (status != TD_OK) strncpy(s->sentence, td_last_error(), sizeof s->sentence - 1);
    return NULL;
}

td_status td_keyed_serve_begin(td_keyed *k)
{
    td_keyed_service *s = td_calloc(1, sizeof *s);
    client *clients = td_calloc((size_t)k->comm->size, sizeof *clients);
    if (!s || !clients) {
        td_free(s), td_free(clients);
        return td_fail(TD_ERR_NOMEM, "no memory to serve keyed parts");
    }
    s->keyed = k;
    s->clients = clients;
    s->mappings.writable = true;
    for (int r = 0; r < k->comm->size; r++)
        if (!td_keyed_at_hand(k, r))
            clients[s->count++] = (client){.rank = r, .pair = td_keyed_pair_of(k, r)};
    s->comm = *k->comm;
    s->comm.operation = "serving keyed parts";
    s->comm.record = NULL;
    s->comm.recorder = NULL;
    s->comm.deadline_ms = INT64_MAX / 2000000; /* a server may be idle for long */
    atomic_init(&s->ending, 0);
    pthread_mutex_init(&s->lock, NULL);
    if (pthread_create(&s->thread, NULL, serve_main, s) != 0) {
        pthread_mutex_destroy(&s->lock);
        td_free(s), td_free(clients);
        return td_fail(TD_ERR_NOMEM, "the thread that serves keyed parts could not be started");
    }
    k->service = s;
    return TD_OK;
}

td_status td_keyed_serve_end(td_keyed *k, bool patiently)
{
    td_keyed_service *s = k->service;
    if (!s) return TD_OK;
    k->service = NULL;
    atomic_store(&s->ending, patiently ? 1 : 2);
    if (td_keyed_service_bell(k)) td_bell_ring(td_keyed_service_bell(k));
    pthread_join(s->thread, NULL);
    td_status status = s->status == TD_OK ? TD_OK : td_fail_again(s->status, s->sentence);
    for (int c = 0; c < s->count; c++) {
        const client *its = &s->clients[c];
        if (!its->pair && its->state != GONE) k->comm->spoiled = true; /* it may ask yet */
        td_free(s->clients[c].body.data);
        td_free(s->clients[c].in.data);
        td_free(s->clients[c].out.data);
    }
    td_mappings_free(&s->mappings);
    pthread_mutex_destroy(&s->lock);
    td_free(s->clients); /* with the heads */
    td_free(s);
    return status;
}
