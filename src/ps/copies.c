/* See copies.h. */
#include "ps/copies.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ps/giver.h"
#include "tandem/recover.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { PIECE_BYTES = 4 << 20, LOOK_NS = 100000, MEET_NS = 1000000 };
enum { ROWS = -1 }; /* instead of a slice: rows, of any */

typedef struct note {
    int32_t slice;
    char rest[TD_KEYED_NOTE - 4];
} note;
_Static_assert(sizeof(note) == TD_KEYED_NOTE, "a note");

struct td_copies {
    td_copies_config config;
    td_comm *comm;
    td_keyed *keyed;
    td_giver *giver;       /* NULL: nothing to give */
    int32_t to[TD_SLICES]; /* ranks */
    td_items *items;       /* [size] on their way, by rank */
    uint64_t *newest;      /* [workers] of the slice on its way */
    pthread_t thread;
    bool threaded;
    atomic_bool stop, given;
    td_status status; /* of the thread, once it has given all */
    char sentence[512];
};

/* --- who takes --- */

static td_status take(void *user, const td_keyed_request *q)
{
    td_copies *c = user;
    const note *n = q->note;
    td_store *store = c->config.store;
    td_status status;
    pthread_mutex_lock(c->config.lock);
    if (n->slice == ROWS) {
        status = td_items_adopt(q->in, q->bytes, store->table);
    } else {
        status = td_store_arrived(store, &c->config.place->slices, n->slice, q->in);
        if (status == TD_OK) c->config.place->here[n->slice] = true;
    }
    pthread_mutex_unlock(c->config.lock);
    return status;
}

/* --- who gives --- */

static void doze(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

/* Until it has arrived, or nobody waits for it any more: the channel then ends with it. */
static td_status push(td_copies *c, int rank, int32_t slice, const void *in, size_t bytes)
{
    uint64_t key = 0, ticket;
    note n = {.slice = slice};
    td_parts parts = {.keys = &key,
                      .count = 1,
                      .sizes = &bytes,
                      .in = in,
                      .owner = &c->config.server_of[rank],
                      .note = &n};
    TD_TRY(td_keyed_start(c->keyed, TD_PUSH, &parts, &ticket));
    while (!td_keyed_done(c->keyed, ticket)) {
        if (atomic_load(&c->stop)) return td_fail(TD_ERR_INTERRUPTED, "copying has ended");
        doze(LOOK_NS);
    }
    return td_keyed_wait(c->keyed, ticket);
}

static td_status send_items(td_copies *c, int rank)
{
    td_items *s = &c->items[rank];
    size_t item = td_item_bytes(td_table_row_floats(c->config.store->table));
    size_t most = PIECE_BYTES < item ? item : PIECE_BYTES / item * item;
    for (size_t at = 0; at < s->bytes; at += most)
        TD_TRY(push(c, rank, ROWS, s->data + at, s->bytes - at < most ? s->bytes - at : most));
    s->bytes = 0;
    return TD_OK;
}

static td_status give_cold(td_copies *c)
{
    bool more = true;
    int size = td_comm_size(c->comm);
    while (more && !atomic_load(&c->stop)) {
        TD_TRY(td_giver_cold(c->giver, c->items, &more));
        for (int r = 0; r < size; r++)
            if (c->items[r].bytes >= PIECE_BYTES || !more) TD_TRY(send_items(c, r));
    }
    return TD_OK;
}

static td_status give_slice(td_copies *c, int slice)
{
    const td_store *store = c->config.store;
    size_t workers = (size_t)store->config.workers, bytes = workers * sizeof *c->newest;
    pthread_mutex_lock(c->config.lock);
    td_status status = td_giver_slice(c->giver, c->items);
    memcpy(c->newest, &store->newest[(size_t)slice * workers], bytes);
    pthread_mutex_unlock(c->config.lock);
    TD_TRY(status);
    TD_TRY(send_items(c, c->to[slice]));
    return push(c, c->to[slice], slice, c->newest, bytes);
}

static td_status give_all(td_copies *c)
{
    TD_TRY(give_cold(c));
    for (int k; (k = td_giver_next(c->giver)) >= 0 && !atomic_load(&c->stop);)
        TD_TRY(give_slice(c, k));
    return TD_OK;
}

static void *give(void *arg)
{
    td_copies *c = arg;
    c->status = give_all(c);
    if (c->status != TD_OK) snprintf(c->sentence, sizeof c->sentence, "%s", td_last_error());
    atomic_store(&c->given, true);
    return NULL;
}

/* --- beginning and end --- */

/* What this rank gives, before anybody uses the table. */
static td_status prepare(td_copies *c)
{
    const td_route *route = &c->config.route;
    int self = td_comm_rank(c->comm);
    bool gives = false;
    for (int k = 0; k < TD_SLICES; k++) {
        bool goes = route->first.backup[k] != route->now.backup[k];
        c->to[k] = goes && c->config.place->primary[k] == self ? c->config.place->backup[k] : -1;
        gives = gives || c->to[k] >= 0;
    }
    c->items = td_calloc((size_t)td_comm_size(c->comm), sizeof *c->items);
    c->newest = td_calloc((size_t)c->config.store->config.workers, sizeof *c->newest);
    if (!c->items || !c->newest) return td_fail(TD_ERR_NOMEM, "no memory to copy a table");
    if (!gives) return TD_OK;
    return td_giver_open(c->config.store->table, &route->now, c->to, &c->giver);
}

static td_status open_channel(td_copies *c)
{
    const td_servers *servers = &c->config.servers;
    td_keyed_config keyed = {.servers = servers->rank,
                             .server_count = servers->count,
                             .serve = take,
                             .user = c};
    TD_TRY(td_keyed_open(c->comm, &keyed, &c->keyed));
    c->config.servers = (td_servers){0};
    return TD_OK;
}

/* The failure is told when all meet. */
static void start_thread(td_copies *c)
{
    c->threaded = pthread_create(&c->thread, NULL, give, c) == 0;
    if (c->threaded) return;
    c->status = TD_ERR_NOMEM;
    snprintf(c->sentence, sizeof c->sentence, "cannot start a thread to copy a table");
    atomic_store(&c->given, true);
}

td_status td_copies_open(td_comm *comm, const td_copies_config *config, td_copies **out)
{
    td_copies *c = td_calloc(1, sizeof *c);
    if (c) c->config = *config, c->comm = comm;
    if (c) atomic_init(&c->stop, false), atomic_init(&c->given, false);
    td_status status = c ? prepare(c) : td_fail(TD_ERR_NOMEM, "no memory to copy a table");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = open_channel(c);
    if (status != TD_OK) {
        td_copies_close(c);
        return status;
    }
    if (c->giver) start_thread(c);
    *out = c;
    return TD_OK;
}

td_status td_copies_look(const td_copies *c, bool *done)
{
    bool given = !c->giver || atomic_load(&c->given);
    pthread_mutex_lock(c->config.lock);
    *done = given && c->config.store->coming == 0;
    pthread_mutex_unlock(c->config.lock);
    return given && c->status != TD_OK ? td_fail_again(c->status, c->sentence) : TD_OK;
}

td_status td_copies_finish(td_copies *c, td_comm *meeting)
{
    enum { DONE, COPYING, FAILED };
    for (;;) {
        bool done;
        td_status status = td_copies_look(c, &done);
        uint8_t mine = status != TD_OK ? FAILED : done ? DONE : COPYING, most;
        TD_TRY(td_comm_allreduce(meeting, &mine, &most, 1, TD_U8, TD_MAX));
        if (most == FAILED) return td_comm_agree(meeting, status);
        if (most == DONE) break;
        doze(MEET_NS);
    }
    pthread_mutex_lock(c->config.lock);
    td_servers_follow(c->comm, &c->config.route.after, c->config.place);
    pthread_mutex_unlock(c->config.lock);
    return td_keyed_finish(c->keyed);
}

void td_copies_close(td_copies *c)
{
    if (!c) return;
    atomic_store(&c->stop, true);
    if (c->threaded) pthread_join(c->thread, NULL);
    td_keyed_destroy(c->keyed);
    td_giver_close(c->giver);
    for (int r = 0; c->items && r < td_comm_size(c->comm); r++) td_free(c->items[r].data);
    td_free(c->items), td_free(c->newest);
    td_store_expect_none(c->config.store);
    td_free(c);
}
