/* See rows_feed.h. */
#include "train/rows_feed.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { FREE, LEASED, DONE };
enum { MOST_SERVERS = 64 };

typedef struct ask { /* note of a request */
    uint64_t epoch, clock;
    uint64_t done; /* shard + 1 that is; 0: none */
    int32_t worker, rest[9];
} ask;

typedef struct told { /* note of an answer */
    uint64_t shard;   /* + 1; 0: none */
    uint64_t bytes;
    char rest[TD_KEYED_NOTE - 16];
} told;
_Static_assert(sizeof(ask) == TD_KEYED_NOTE && sizeof(told) == TD_KEYED_NOTE, "a note each");

struct td_feed {
    td_feed_config config;
    td_keyed *keyed;
    int number; /* of this rank among the servers, -1: none */
    uint64_t shards, epoch;
    uint8_t *state;  /* [shards] */
    int32_t *holder; /* [shards] worker */
    uint64_t *clock; /* [shards] of the lease */
    uint64_t first;  /* no shard below is free */
    /* a server: */
    char *payload;
    size_t bytes, room;
    uint64_t *key, *sample;
    float *value, *numbers;
    uint16_t *field;
    size_t most;
    /* a worker: */
    uint64_t held;                   /* shard + 1 that it has */
    uint64_t finished[MOST_SERVERS]; /* shard + 1 that each is to be told is done */
    char *in;
    size_t in_room;
    int next; /* server to be asked first */
};

/* --- a shard's samples as bytes --- */

static td_status put(td_feed *f, const void *data, size_t bytes)
{
    if (f->bytes + bytes > f->room) {
        size_t room = 2 * (f->bytes + bytes);
        char *more = td_realloc(f->payload, room);
        if (!more) return td_fail(TD_ERR_NOMEM, "no memory for a shard of %zu bytes", room);
        f->payload = more, f->room = room;
    }
    memcpy(f->payload + f->bytes, data, bytes);
    f->bytes += bytes;
    return TD_OK;
}

static uint64_t rows_of(const td_feed *f, uint64_t shard)
{
    return td_shard_leaf_rows(&f->config.plan, shard, 0);
}

/* rows, entries of each | entries | numbers, target, label, weight | samples, each array in turn.
 */
static td_status pack(td_feed *f, uint64_t shard)
{
    const td_feed_config *c = &f->config;
    size_t rows = rows_of(f, shard), at = 0;
    const td_data_info *info = td_dataset_info(c->data);
    uint64_t *count = f->sample + c->plan.batch;
    td_shard_leaf(&c->plan, f->epoch, shard, 0, f->sample);
    for (size_t r = 0; r < rows; r++) {
        float *numbers = c->numbers ? f->numbers + r * c->numbers : NULL;
        count[r] = td_features_row(c->features, c->data, f->sample[r], f->key + at, f->value + at,
                                   f->field + at, numbers);
        at += count[r];
    }
    uint64_t head[4] = {rows, at, info->has_weights, info->classes > 0};
    f->bytes = 0;
    TD_TRY(put(f, head, sizeof head));
    TD_TRY(put(f, count, rows * sizeof *count));
    TD_TRY(put(f, f->sample, rows * sizeof *f->sample));
    TD_TRY(put(f, f->key, at * sizeof *f->key));
    TD_TRY(put(f, f->value, at * sizeof *f->value));
    TD_TRY(put(f, f->numbers, rows * c->numbers * sizeof *f->numbers));
    for (size_t r = 0; r < rows; r++) {
        float target = td_dataset_target(c->data, f->sample[r]);
        TD_TRY(put(f, &target, sizeof target));
    }
    for (size_t r = 0; r < rows && info->has_weights; r++) {
        float weight = td_dataset_weight(c->data, f->sample[r]);
        TD_TRY(put(f, &weight, sizeof weight));
    }
    for (size_t r = 0; r < rows && info->classes; r++) {
        int32_t label = td_dataset_label(c->data, f->sample[r]);
        TD_TRY(put(f, &label, sizeof label));
    }
    return put(f, f->field, at * sizeof *f->field);
}

static void get(const char **from, void *to, size_t bytes)
{
    if (bytes) memcpy(to, *from, bytes);
    *from += bytes;
}

static td_status unpack(td_feed *f, td_rows_batch *b)
{
    uint64_t head[4];
    const char *from = f->in;
    get(&from, head, sizeof head);
    size_t rows = head[0], entries = head[1], numbers = f->config.numbers;
    TD_TRY(td_rows_batch_room(b, rows, entries, numbers));
    b->rows = rows, b->entries = entries;
    b->has_weight = head[2], b->has_label = head[3];
    const char *counts = from;
    from += rows * sizeof(uint64_t);
    b->start[0] = 0;
    for (size_t r = 0; r < rows; r++) {
        uint64_t n;
        get(&counts, &n, sizeof n);
        b->start[r + 1] = b->start[r] + n;
    }
    get(&from, b->sample, rows * sizeof *b->sample);
    get(&from, b->key, entries * sizeof *b->key);
    get(&from, b->value, entries * sizeof *b->value);
    get(&from, b->numbers, rows * numbers * sizeof *b->numbers);
    get(&from, b->target, rows * sizeof *b->target);
    if (b->has_weight) get(&from, b->weight, rows * sizeof *b->weight);
    if (b->has_label) get(&from, b->label, rows * sizeof *b->label);
    get(&from, b->field, entries * sizeof *b->field);
    return TD_OK;
}

/* --- a server --- */

static bool is_mine(const td_feed *f, uint64_t shard)
{
    return (int)(shard % (uint64_t)f->config.server_count) == f->number;
}

static void begin_epoch(td_feed *f, uint64_t epoch)
{
    memset(f->state, FREE, f->shards);
    f->epoch = epoch, f->first = 0;
}

/* What the worker has already, or the next that is free. */
static uint64_t lease(td_feed *f, const ask *a)
{
    uint64_t found = UINT64_MAX;
    for (uint64_t k = f->first; k < f->shards && found == UINT64_MAX; k++) {
        if (!is_mine(f, k) || f->state[k] != FREE) continue;
        found = k;
    }
    f->first = found == UINT64_MAX ? f->shards : found + 1;
    if (found == UINT64_MAX) return found;
    f->state[found] = LEASED, f->holder[found] = a->worker, f->clock[found] = a->clock;
    return found;
}

static td_status serve(void *user, const td_keyed_request *q)
{
    td_feed *f = user;
    const ask *a = q->note;
    told *t = q->answer;
    if (q->count) { /* fetch */
        TD_TRY(pack(f, q->keys[0]));
        if (f->bytes != q->bytes) return td_fail(TD_ERR_INTERNAL, "a shard has changed its length");
        memcpy(q->out, f->payload, f->bytes);
        return TD_OK;
    }
    if (a->epoch > f->epoch || f->epoch == UINT64_MAX) begin_epoch(f, a->epoch);
    if (a->done) f->state[a->done - 1] = DONE;
    uint64_t shard = lease(f, a);
    if (shard == UINT64_MAX) return TD_OK;
    TD_TRY(pack(f, shard));
    t->shard = shard + 1, t->bytes = f->bytes;
    return TD_OK;
}

/* --- a worker --- */

/* One server: is there a shard? */
static td_status ask_one(td_feed *f, int server, uint64_t epoch, uint64_t clock, told *out)
{
    told all[MOST_SERVERS];
    uint64_t ticket;
    ask a = {.epoch = epoch, .clock = clock, .worker = f->config.worker};
    a.done = f->finished[server];
    td_parts parts = {.everywhere = true, .note = &a, .answers = all, .only = server + 1};
    TD_TRY(td_keyed_start(f->keyed, TD_PULL, &parts, &ticket));
    TD_TRY(td_keyed_wait(f->keyed, ticket));
    f->finished[server] = 0;
    *out = all[server];
    return TD_OK;
}

static td_status fetch(td_feed *f, uint64_t shard, uint64_t bytes, td_rows_batch *batch)
{
    size_t size = bytes;
    int owner = (int)(shard % (uint64_t)f->config.server_count);
    uint64_t ticket;
    if (bytes > f->in_room) {
        td_free(f->in);
        f->in_room = 0;
        f->in = td_alloc_aligned(bytes + bytes / 4);
        if (!f->in) return td_fail(TD_ERR_NOMEM, "no memory for a shard of %zu bytes", size);
        f->in_room = bytes + bytes / 4;
    }
    td_parts parts = {.keys = &shard, .count = 1, .sizes = &size, .out = f->in, .owner = &owner};
    TD_TRY(td_keyed_start(f->keyed, TD_PULL, &parts, &ticket));
    TD_TRY(td_keyed_wait(f->keyed, ticket));
    return unpack(f, batch);
}

td_status td_feed_next(td_feed *f, uint64_t epoch, uint64_t clock, td_rows_batch *batch, bool *none)
{
    if (epoch != f->epoch || f->epoch == UINT64_MAX) begin_epoch(f, epoch);
    *none = false;
    for (int k = 0; k < f->config.server_count; k++) {
        int server = (f->next + k) % f->config.server_count;
        told t;
        TD_TRY(ask_one(f, server, epoch, clock, &t));
        if (!t.shard) continue;
        f->next = (server + 1) % f->config.server_count;
        f->held = t.shard;
        return fetch(f, t.shard - 1, t.bytes, batch);
    }
    *none = true;
    return TD_OK;
}

void td_feed_done(td_feed *f)
{
    if (!f->held) return;
    f->state[f->held - 1] = DONE;
    f->finished[(f->held - 1) % (uint64_t)f->config.server_count] = f->held;
    f->held = 0;
}

void td_feed_give_back(td_feed *f)
{
    if (f) f->held = 0;
}

/* --- opening --- */

static td_status create(td_comm *comm, const td_feed_config *c, td_feed **out)
{
    if (c->server_count < 1 || c->server_count > MOST_SERVERS)
        return td_fail(TD_ERR_ARG, "--data-servers must be 1 to %d", MOST_SERVERS);
    td_feed *f = td_calloc(1, sizeof *f);
    if (!f) return td_fail(TD_ERR_NOMEM, "no memory to feed workers");
    f->config = *c;
    f->number = -1;
    for (int k = 0; k < c->server_count; k++)
        if (c->server[k] == td_comm_rank(comm)) f->number = k;
    f->shards = td_shard_steps(&c->plan);
    f->epoch = UINT64_MAX;
    f->next = c->worker >= 0 ? c->worker % c->server_count : 0;
    f->most = td_features_most_of(c->features, c->data);
    size_t rows = c->plan.batch, entries;
    bool fits = td_mul(rows, f->most, &entries);
    f->state = td_calloc(f->shards, 1);
    f->holder = td_calloc(f->shards, sizeof *f->holder);
    f->clock = td_calloc(f->shards, sizeof *f->clock);
    bool made = f->state && f->holder && f->clock;
    if (made && fits && f->number >= 0) {
        f->sample = td_calloc(2 * rows, sizeof *f->sample);
        f->key = td_calloc(entries + 1, sizeof *f->key);
        f->value = td_calloc(entries + 1, sizeof *f->value);
        f->field = td_calloc(entries + 1, sizeof *f->field);
        f->numbers = td_calloc(rows * c->numbers + 1, sizeof *f->numbers);
        made = f->sample && f->key && f->value && f->field && f->numbers;
    }
    *out = f;
    return made && fits ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to feed workers");
}

static td_status open_channel(td_comm *comm, const td_feed_config *c, td_feed *f)
{
    td_keyed_config keyed = {.servers = c->server,
                             .server_count = c->server_count,
                             .serve = serve,
                             .user = f};
    f->config.server = NULL;
    return td_keyed_open(comm, &keyed, &f->keyed);
}

td_status td_feed_open(td_comm *comm, const td_feed_config *config, td_feed **out)
{
    td_feed *f = NULL;
    td_status status = td_comm_agree(comm, create(comm, config, &f));
    if (status == TD_OK) status = open_channel(comm, config, f);
    if (status != TD_OK) {
        td_feed_close(f);
        return status;
    }
    *out = f;
    return TD_OK;
}

void td_feed_close(td_feed *f)
{
    if (!f) return;
    td_keyed_destroy(f->keyed);
    td_free(f->state), td_free(f->holder), td_free(f->clock), td_free(f->payload);
    td_free(f->key), td_free(f->sample), td_free(f->value), td_free(f->numbers), td_free(f->field);
    td_free(f->in);
    td_free(f);
}

/* --- in another group --- */

td_status td_feed_move(td_feed *old, td_comm *comm, const td_feed_config *config,
                       const uint64_t *pushed, const bool *gone, td_feed **out)
{
    td_feed *f = NULL;
    td_status status = create(comm, config, &f);
    uint64_t mine = old && old->epoch != UINT64_MAX ? old->epoch + 1 : 0, epoch = 0;
    TD_TRY(td_comm_allreduce(comm, &mine, &epoch, 1, TD_I64, TD_MAX));
    status = td_comm_agree(comm, status);
    if (status == TD_OK && epoch) begin_epoch(f, epoch - 1);
    if (old && old->keyed) {
        td_keyed_destroy(old->keyed);
        old->keyed = NULL;
    }
    for (uint64_t k = 0; status == TD_OK && old && old->epoch + 1 == epoch && k < f->shards; k++) {
        bool leased = old->state[k] == LEASED && old->number >= 0;
        bool was_pushed = leased && gone[old->holder[k]] && pushed[old->holder[k]] > old->clock[k];
        if (old->state[k] == DONE || was_pushed) f->state[k] = DONE;
    }
    if (status == TD_OK && epoch)
        status = td_comm_allreduce(comm, f->state, f->state, f->shards, TD_U8, TD_MAX);
    /* A worker in the middle of a shard goes on with it: nobody else may get it. */
    uint64_t held = old ? old->held : 0, own[2] = {held, (uint64_t)config->worker};
    size_t n = (size_t)td_comm_size(comm);
    uint64_t *all = td_calloc(2 * n, sizeof *all);
    if (status == TD_OK) status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to feed workers");
    if (status == TD_OK) status = td_comm_allgather(comm, own, sizeof own, all);
    for (size_t r = 0; r < n && status == TD_OK; r++)
        if (all[2 * r] && f->state[all[2 * r] - 1] != DONE) {
            f->state[all[2 * r] - 1] = LEASED;
            f->holder[all[2 * r] - 1] = (int32_t)all[2 * r + 1];
        }
    td_free(all);
    if (status == TD_OK) f->held = held;
    if (status == TD_OK) status = open_channel(comm, config, f);
    if (status != TD_OK) {
        td_feed_close(f);
        return status;
    }
    td_feed_close(old);
    *out = f;
    return TD_OK;
}
