/* See sharded.h. This file: a worker's requests, and a server's answers; sharded_group.c opens the
 * table, and takes it to other groups. */
#include "ps/sharded.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "ps/sharded_impl.h"

#include <string.h>
#include <time.h>

/* --- a server --- */

bool td_sharded_ready(void *user, const td_keyed_request *q)
{
    const td_sharded *s = user;
    const td_ask *ask = q->note;
    if (q->does != TD_PULL || ask->worker < 0 || s->store.stops) return true;
    return td_store_may_pull(&s->store, ask->worker, ask->clock);
}

typedef struct called {
    td_sharded_function function;
    const void *argument;
} called;

static td_status call(void *arg, uint64_t key, float *row)
{
    const called *c = arg;
    return c->function.fn(c->function.user, c->argument, key, row);
}

/* What is neither push nor pull of rows. */
static td_status serve_other(td_sharded *s, const td_keyed_request *q)
{
    const td_ask *ask = q->note;
    switch ((td_asks)ask->asks) {
    case TD_ASKS_PARTS: break;
    case TD_ASKS_STOP: s->store.stops = true; break;
    case TD_RETIRES: s->store.clocks.gone[ask->worker] = true; break;
    case TD_ASKS_KEYS: return td_sharded_serve_keys(s, ask, q->out, q->answer);
    case TD_ASKS_ROWS: return td_sharded_serve_rows(s, q);
    case TD_APPLIES:
        return td_table_apply(s->store.table, q->keys, q->count, call,
                              &(called){s->functions[ask->function], ask->argument});
    case TD_ASKS_COPIES: break; /* told without the lock */
    }
    return TD_OK;
}

/* In pieces that its worker takes while others are made. Rows that a push brings back, to be kept,
 * have not been read. */
static td_status serve_pull(td_sharded *s, const td_ask *ask, const td_keyed_request *q)
{
    enum { PIECE_BYTES = 256 << 10 };
    bool cut = q->progress && s->row_bytes < PIECE_BYTES;
    size_t piece = cut ? PIECE_BYTES / s->row_bytes : q->count;
    for (size_t at = 0; at < q->count; at += piece) {
        size_t n = q->count - at < piece ? q->count - at : piece;
        const uint64_t *k = q->keys + at;
        const uint32_t *places = q->places ? q->places + at : NULL;
        float *out = (float *)q->out + (places ? 0 : at * s->width);
        TD_TRY(q->does == TD_PULL
                   ? td_store_pull(&s->store, &s->place.slices, ask->clock, k, places, n, out)
                   : td_table_peek_at(s->store.table, k, places, n, out));
        if (at + n < q->count) td_keyed_wrote(q, (at + n) * s->row_bytes);
    }
    return TD_OK;
}

/* The keys of a request that are of one kind of part. */
static td_status serve_parts(td_sharded *s, const td_keyed_request *q)
{
    const td_ask *ask = q->note;
    td_told *told = q->answer;
    if (q->does & TD_PUSH) {
        td_store_push push = {.worker = ask->worker,
                              .clock = ask->clock,
                              .ticks = ask->role == TD_AS_PRIMARY,
                              .again = ask->again,
                              .read = ask->read,
                              .seconds = (double)ask->seconds,
                              .factor = ask->factor,
                              .scale = ask->scale,
                              .rate = ask->rate,
                              .decay = ask->decay,
                              .keys = q->keys,
                              .count = q->count,
                              .values = q->in,
                              .places = q->places};
        td_store_taken taken;
        TD_TRY(td_store_take_push(&s->store, &s->place.slices, &push, &taken));
        told->applied = taken.applied, told->factor = taken.factor;
    }
    if (q->does & TD_PULL && ask->worker < 0)
        TD_TRY(td_table_read_at(s->store.table, q->keys, q->places, q->count, q->out));
    else if (q->does == TD_PULL)
        s->store.clocks.gone[ask->worker] = false;
    return q->does & TD_PULL && ask->worker >= 0 ? serve_pull(s, ask, q) : TD_OK;
}

static td_status serve(td_sharded *s, const td_keyed_request *q)
{
    const td_ask *ask = q->note;
    td_told *told = q->answer;
    TD_TRY(ask->asks == TD_ASKS_PARTS ? serve_parts(s, q) : serve_other(s, q));
    told->slowest = td_clocks_slowest(&s->store.clocks);
    told->over = td_clocks_over(&s->store.clocks);
    told->others = td_clocks_others(&s->store.clocks, ask->worker);
    told->stops = s->store.stops;
    return TD_OK;
}

/* Who pushes faster than copies come waits for some of them; not for long, for they may never come.
 */
static void wait_for_room(td_sharded *s)
{
    enum { MOST_BYTES = 64 << 20, LOOKS = 50 };
    for (int k = 0; k < LOOKS; k++) {
        pthread_mutex_lock(&s->lock);
        bool has = s->store.aside_bytes <= MOST_BYTES;
        pthread_mutex_unlock(&s->lock);
        if (has) return;
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
}

static td_status tell_of_copies(td_sharded *s, td_told *told)
{
    bool done = true;
    if (s->copies) TD_TRY(td_copies_look(s->copies, &done));
    told->copying = !done;
    pthread_mutex_lock(&s->lock);
    told->stops = s->store.stops;
    pthread_mutex_unlock(&s->lock);
    return TD_OK;
}

td_status td_sharded_serve(void *user, const td_keyed_request *q)
{
    td_sharded *s = user;
    const td_ask *ask = q->note;
    if (ask->asks == TD_ASKS_COPIES) return tell_of_copies(s, q->answer);
    bool copied = q->does & TD_PUSH && ask->role == TD_AS_BACKUP;
    if (copied && s->copies) wait_for_room(s); /* all meet before it changes */
    pthread_mutex_lock(&s->lock);
    td_status status = serve(s, q);
    pthread_mutex_unlock(&s->lock);
    return status;
}

/* --- what both kinds of request need --- */

static td_status reserve(void **data, size_t *room, size_t items, size_t bytes)
{
    size_t needed;
    if (items <= *room) return TD_OK;
    if (!td_mul(items + items / 4, bytes, &needed)) needed = SIZE_MAX;
    void *more = needed < SIZE_MAX ? td_alloc_aligned(needed) : NULL;
    if (!more) return td_fail(TD_ERR_NOMEM, "no memory for a request of %zu rows", items);
    td_free(*data);
    *data = more;
    *room = items + items / 4;
    return TD_OK;
}

/* Which server has each key; role: TD_AS_PRIMARY or TD_AS_BACKUP. *out: NULL, there is one. */
static td_status find_owners(td_sharded *s, td_asked *a, int role, const uint64_t *keys,
                             size_t count, const int **out)
{
    const int32_t *rank = role == TD_AS_PRIMARY ? s->place.primary : s->place.backup;
    *out = NULL;
    if (s->server_count == 1) return TD_OK;
    TD_TRY(reserve((void **)&a->owner, &a->owner_room, count, sizeof *a->owner));
    for (size_t i = 0; i < count; i++)
        a->owner[i] = s->server_of[rank[td_slice_of(&s->place.slices, keys[i])]];
    *out = a->owner;
    return TD_OK;
}

static td_ask ask_of(const td_sharded *s, uint64_t clock, int role)
{
    return (td_ask){.worker = s->worker, .role = role, .clock = clock, .scale = 1, .rate = 1};
}

/* The least that the servers asked say of all workers' pushes, and of the others'. */
static td_age age_told(const td_sharded *s, const td_asked *a, size_t count)
{
    td_age least = {UINT64_MAX, UINT64_MAX};
    bool asked[TD_MOST_SERVERS] = {count && s->server_count == 1};
    for (size_t i = 0; i < count && s->server_count > 1; i++) asked[a->owner[i]] = true;
    for (int k = 0; k < s->server_count; k++) {
        const td_told *told = &s->told[k];
        if (!asked[k]) continue;
        if (told->slowest < least.clock) least.clock = told->slowest;
        if (told->others < least.others) least.others = told->others;
    }
    return least;
}

/* --- pulls --- */

/* Rows that are kept go to their places; the others' keys and places to the front of a->keys,
 * place. */
static td_status read_kept(td_sharded *s, const uint64_t *keys, size_t count, uint64_t clock,
                           float *out)
{
    td_asked *a = &s->fetch;
    uint64_t least = clock > s->bound ? clock - s->bound : 0;
    TD_TRY(reserve((void **)&a->keys, &a->keys_room, count, sizeof *a->keys));
    TD_TRY(reserve((void **)&a->place, &a->place_room, count, sizeof *a->place));
    TD_TRY(reserve((void **)&a->rows, &a->rows_room, count, s->row_bytes));
    for (size_t i = 0; i < count; i++) {
        td_age of;
        const float *row = td_cache_get(&s->cache, keys[i], least, &of);
        if (row) {
            memcpy(out + i * s->width, row, s->row_bytes);
            td_staleness_add(&s->reads, clock > of.clock ? clock - of.clock : 0, 1);
            a->kept_others += (double)of.others, a->kept++;
            s->cached++;
        } else {
            a->keys[a->count] = keys[i];
            a->place[a->count++] = (uint32_t)i;
        }
    }
    return TD_OK;
}

td_status td_sharded_fetch(td_sharded *s, const uint64_t *keys, size_t count, int ahead, float *out)
{
    td_asked *a = &s->fetch;
    uint64_t clock = s->clock + (uint64_t)ahead;
    if (a->ticket) return td_fail(TD_ERR_ARG, "fetch: the one before has not been waited for");
    a->out = out, a->count = count;
    a->kept = 0, a->kept_others = 0;
    a->ask = ask_of(s, clock, TD_AS_PRIMARY);
    td_parts parts = {.keys = keys, .count = count, .out = out, .in_place = true};
    if (s->cache.rows) {
        a->count = 0;
        TD_TRY(read_kept(s, keys, count, clock, out));
        parts.keys = a->keys, parts.count = a->count, parts.out = a->rows;
    }
    TD_TRY(find_owners(s, a, TD_AS_PRIMARY, parts.keys, parts.count, &parts.owner));
    parts.note = &a->ask, parts.answers = s->told;
    parts.everywhere = s->retired; /* all wait for it again */
    s->retired = false;
    s->asked += parts.count;
    return td_keyed_start(s->keyed, TD_PULL, &parts, &a->ticket);
}

/* What a step's rows had of the others' pushes, in one fetch or more. */
static void note_ages(td_sharded *s, const td_asked *a, td_age fetched)
{
    if (s->read_at != a->ask.clock) s->read_others = 0, s->read_rows = 0;
    s->read_at = a->ask.clock;
    s->read_others += a->kept_others + (a->count ? (double)fetched.others * (double)a->count : 0);
    s->read_rows += a->kept + a->count;
}

td_status td_sharded_fetched(td_sharded *s)
{
    td_asked *a = &s->fetch;
    if (!a->ticket) return td_fail(TD_ERR_ARG, "fetched: no fetch has been begun");
    td_status status = td_keyed_wait(s->keyed, a->ticket);
    a->ticket = 0;
    if (status != TD_OK) return status;
    td_age of = age_told(s, a, a->count);
    note_ages(s, a, of);
    s->began = td_clock_ns();
    if (!s->cache.rows) return TD_OK;
    for (size_t i = 0; i < a->count; i++) {
        const float *row = a->rows + i * s->width;
        memcpy(a->out + a->place[i] * s->width, row, s->row_bytes);
        td_cache_put(&s->cache, a->keys[i], of, row);
    }
    return TD_OK;
}

td_status td_sharded_look(td_sharded *s, const uint64_t *keys, size_t count, float *out)
{
    td_asked *a = &s->push; /* its memory: no push is under way */
    td_ask ask = ask_of(s, s->clock, TD_AS_PRIMARY);
    uint64_t ticket;
    ask.worker = -1;
    TD_TRY(td_unique_fill(&s->batch, keys, count));
    TD_TRY(reserve((void **)&s->unique, &s->unique_room, s->batch.count, s->row_bytes));
    td_parts parts = {.keys = s->batch.keys, .count = s->batch.count, .in_place = true};
    TD_TRY(find_owners(s, a, TD_AS_PRIMARY, parts.keys, parts.count, &parts.owner));
    parts.out = s->unique, parts.note = &ask;
    TD_TRY(td_keyed_start(s->keyed, TD_PULL, &parts, &ticket));
    TD_TRY(td_keyed_wait(s->keyed, ticket));
    td_unique_spread(&s->batch, s->width, s->unique, out);
    return TD_OK;
}

td_status td_sharded_pull(td_sharded *s, const uint64_t *keys, size_t count, float *out)
{
    TD_TRY(td_unique_fill(&s->batch, keys, count));
    TD_TRY(reserve((void **)&s->unique, &s->unique_room, s->batch.count, s->row_bytes));
    TD_TRY(td_sharded_fetch(s, s->batch.keys, s->batch.count, 0, s->unique));
    TD_TRY(td_sharded_fetched(s));
    td_unique_spread(&s->batch, s->width, s->unique, out);
    return TD_OK;
}

/* --- pushes --- */

/* Gradients and the rows that they were computed at, side by side. */
static td_status pair_up(td_sharded *s, const td_sharded_step *step)
{
    td_asked *a = &s->push;
    size_t w = s->width;
    if (!step->rows) return td_fail(TD_ERR_ARG, "push: compensation needs the rows of the pull");
    TD_TRY(reserve((void **)&a->rows, &a->rows_room, 2 * step->count, s->row_bytes));
    TD_TRY(reserve((void **)&a->sizes, &a->sizes_room, step->count, sizeof *a->sizes));
    for (size_t i = 0; i < step->count; i++) {
        memcpy(a->rows + 2 * i * w, step->gradients + i * w, s->row_bytes);
        memcpy(a->rows + (2 * i + 1) * w, step->rows + i * w, s->row_bytes);
        a->sizes[i] = 2 * s->row_bytes;
    }
    return TD_OK;
}

/* What that primary has taken of a push, for the copies. */
static td_status copy_of(td_sharded *s, const td_parts *all, int server, td_ask ask)
{
    td_asked *a = &s->copy;
    size_t each = all->sizes ? 2 * s->width : s->width, n = 0;
    uint64_t ticket;
    td_parts parts = {.sizes = all->sizes, .owner = a->owner, .note = &ask};
    if (!s->told[server].applied) return TD_OK;
    TD_TRY(reserve((void **)&a->keys, &a->keys_room, all->count, sizeof *a->keys));
    TD_TRY(reserve((void **)&a->rows, &a->rows_room, all->count, each * sizeof *a->rows));
    TD_TRY(reserve((void **)&a->owner, &a->owner_room, all->count, sizeof *a->owner));
    for (size_t i = 0; i < all->count; i++) {
        if (s->push.owner[i] != server) continue;
        a->keys[n] = all->keys[i];
        a->owner[n] = s->server_of[s->place.backup[td_slice_of(&s->place.slices, all->keys[i])]];
        memcpy(a->rows + n++ * each, (const float *)all->in + i * each, each * sizeof *a->rows);
    }
    if (!n) return TD_OK;
    parts.keys = a->keys, parts.in = a->rows, parts.count = n, parts.owner = a->owner;
    ask.factor = s->told[server].factor;
    TD_TRY(td_keyed_start(s->keyed, TD_PUSH, &parts, &ticket));
    return td_keyed_wait(s->keyed, ticket);
}

/* To primaries, and to backups where there are any; in: gradients, or those and rows. */
static td_status send(td_sharded *s, const uint64_t *keys, size_t count, const size_t *sizes,
                      const float *in, td_ask ask)
{
    td_asked *first = &s->push, *second = &s->copy;
    td_keyed_does does = s->cache.rows ? TD_PUSH_PULL : TD_PUSH;
    uint64_t tickets[2] = {0};
    td_parts parts = {.keys = keys, .count = count, .sizes = sizes, .in = in, .in_place = true};
    const int *backups = NULL;
    TD_TRY(find_owners(s, first, TD_AS_PRIMARY, keys, count, &parts.owner));
    if (s->replicas) TD_TRY(find_owners(s, second, TD_AS_BACKUP, keys, count, &backups));
    if (s->cache.rows)
        TD_TRY(reserve((void **)&first->rows, &first->rows_room, count, s->row_bytes));
    parts.everywhere = true, parts.answers = s->told;
    parts.out = first->rows;
    ask.role = TD_AS_PRIMARY;
    parts.note = &ask;
    TD_TRY(td_keyed_start(s->keyed, does, &parts, &tickets[0]));
    /* Primaries decide what is too late, and by how much of its rate a push moves. */
    bool late = s->config.clock.kind == TD_CLOCK_BACKUP && !s->config.clock.apply;
    bool decided = late || s->config.by_staleness;
    if (decided || !s->replicas) TD_TRY(td_keyed_wait(s->keyed, tickets[0]));
    if (!s->replicas) return TD_OK;
    ask.role = TD_AS_BACKUP;
    for (int k = 0; k < s->server_count && decided; k++) TD_TRY(copy_of(s, &parts, k, ask));
    if (decided) return TD_OK;
    parts.owner = backups, parts.everywhere = false, parts.answers = NULL, parts.out = NULL;
    TD_TRY(td_keyed_start(s->keyed, TD_PUSH, &parts, &tickets[1]));
    TD_TRY(td_keyed_wait(s->keyed, tickets[1]));
    return td_keyed_wait(s->keyed, tickets[0]);
}

/* What servers have told of a step that is over. */
static void go_on(td_sharded *s, const td_ask *ask, const uint64_t *keys, size_t count)
{
    bool own = ask->worker == s->worker && ask->clock == s->clock;
    /* To a step whose push would not be late: what lies between would all be dropped. */
    bool skips = s->config.clock.kind == TD_CLOCK_BACKUP && !s->config.clock.apply;
    s->clock += own;
    for (int k = 0; k < s->server_count && own; k++) {
        if (skips && s->told[k].over > s->clock) s->clock = s->told[k].over;
        s->late += !s->told[k].applied && s->config.clock.kind == TD_CLOCK_BACKUP;
    }
    s->began = td_clock_ns();
    if (!s->cache.rows) return;
    td_age of = age_told(s, &s->push, count);
    for (size_t i = 0; i < count; i++)
        td_cache_put(&s->cache, keys[i], of, s->push.rows + i * s->width);
}

/* The step is to be made again in another group. */
static td_status keep(td_sharded *s, const uint64_t *keys, size_t count, const size_t *sizes,
                      const float *in, td_ask ask)
{
    td_kept *k = &s->kept;
    size_t floats = count * s->width * (sizes ? 2 : 1);
    uint64_t *own = td_alloc_aligned((count + 1) * sizeof *own);
    float *values = td_alloc_aligned((floats + 1) * sizeof *values);
    td_free(k->keys), td_free(k->values);
    *k = (td_kept){0};
    if (!own || !values) {
        td_free(own), td_free(values);
        return td_fail(TD_ERR_NOMEM, "no memory to keep a push of %zu rows", count);
    }
    memcpy(own, keys, count * sizeof *own);
    memcpy(values, in, floats * sizeof *values);
    *k = (td_kept){own, values, count, ask, true, sizes != NULL};
    return TD_OK;
}

static bool is_loss(td_status status)
{
    return status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
}

td_status td_sharded_push(td_sharded *s, const td_sharded_step *step)
{
    char sentence[512];
    bool pairs = s->config.compensation > 0;
    if (s->worker < 0) return td_fail(TD_ERR_ARG, "push: rank %d is no worker", s->rank);
    if (pairs) TD_TRY(pair_up(s, step));
    const size_t *sizes = pairs ? s->push.sizes : NULL;
    const float *in = pairs ? s->push.rows : step->gradients;
    td_ask ask = ask_of(s, s->clock, TD_AS_PRIMARY);
    ask.scale = step->scale, ask.rate = step->rate, ask.decay = step->decay;
    ask.read = s->read_rows ? (uint64_t)(s->read_others / (double)s->read_rows) : TD_STORE_UNREAD;
    ask.seconds = s->began ? (float)td_seconds(td_clock_ns() - s->began) : 0;
    if (step->again) ask.worker = step->worker, ask.clock = step->clock, ask.again = 1;
    td_status status = send(s, step->keys, step->count, sizes, in, ask);
    if (status == TD_OK) go_on(s, &ask, step->keys, step->count);
    if (!is_loss(status)) return status;
    strncpy(sentence, td_last_error(), sizeof sentence - 1);
    sentence[sizeof sentence - 1] = 0;
    TD_TRY(keep(s, step->keys, step->count, sizes, in, ask));
    return td_fail_again(status, sentence);
}

td_status td_sharded_push_again(td_sharded *s)
{
    td_kept *k = &s->kept;
    if (!k->waits) return TD_OK;
    size_t *sizes = NULL;
    if (k->pairs) {
        TD_TRY(reserve((void **)&s->push.sizes, &s->push.sizes_room, k->count, sizeof *sizes));
        sizes = s->push.sizes;
        for (size_t i = 0; i < k->count; i++) sizes[i] = 2 * s->row_bytes;
    }
    k->ask.again = 1;
    TD_TRY(send(s, k->keys, k->count, sizes, k->values, k->ask));
    k->waits = false;
    go_on(s, &k->ask, k->keys, k->count);
    return TD_OK;
}

td_status td_sharded_push_all(td_sharded *s, const uint64_t *keys, size_t count,
                              const float *gradients)
{
    TD_TRY(td_unique_fill(&s->batch, keys, count));
    TD_TRY(reserve((void **)&s->unique, &s->unique_room, s->batch.count, s->row_bytes));
    td_unique_gather(&s->batch, s->width, gradients, s->unique);
    td_sharded_step step = {.keys = s->batch.keys,
                            .count = s->batch.count,
                            .gradients = s->unique,
                            .scale = 1,
                            .rate = 1,
                            .decay = 1};
    return td_sharded_push(s, &step);
}

/* --- functions --- */

/* Whether a slice that is being copied has what a function did to it, nobody could tell. */
static td_status wait_for_copies(td_sharded *s)
{
    td_ask ask = {.worker = -1, .asks = TD_ASKS_COPIES};
    td_parts parts = {.everywhere = true, .note = &ask, .answers = s->told};
    for (bool copying = s->copies != NULL; copying;) {
        TD_TRY(td_keyed_push(s->keyed, &parts));
        copying = false;
        for (int k = 0; k < s->server_count; k++) copying = copying || s->told[k].copying;
        if (copying) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return TD_OK;
}

td_status td_sharded_apply(td_sharded *s, int number, const uint64_t *keys, size_t count,
                           const void *argument, size_t argument_bytes)
{
    td_asked *a = &s->push; /* its memory: no push is under way */
    td_ask ask = {.worker = -1, .asks = TD_APPLIES, .function = number};
    uint64_t tickets[2] = {0};
    if (number < 0 || number >= s->config.function_count)
        return td_fail(TD_ERR_ARG, "apply: there is no function %d among %d", number,
                       s->config.function_count);
    if (argument_bytes > TD_SHARDED_ARGUMENT)
        return td_fail(TD_ERR_ARG, "apply: an argument has up to %d bytes, not %zu",
                       TD_SHARDED_ARGUMENT, argument_bytes);
    if (argument_bytes) memcpy(ask.argument, argument, argument_bytes);
    TD_TRY(reserve((void **)&a->sizes, &a->sizes_room, count, sizeof *a->sizes));
    if (count) memset(a->sizes, 0, count * sizeof *a->sizes);
    td_parts parts = {.keys = keys, .count = count, .sizes = a->sizes, .note = &ask};
    td_cache_clear(&s->cache);
    TD_TRY(wait_for_copies(s));
    for (int role = 0; role <= (int)s->replicas; role++) {
        TD_TRY(find_owners(s, a, role, keys, count, &parts.owner));
        TD_TRY(td_keyed_start(s->keyed, TD_PUSH, &parts, &tickets[role]));
    }
    td_status second = s->replicas ? td_keyed_wait(s->keyed, tickets[1]) : TD_OK;
    TD_TRY(td_keyed_wait(s->keyed, tickets[0]));
    return second;
}

void td_sharded_forget(td_sharded *s)
{
    td_cache_clear(&s->cache);
}

void td_sharded_start_at(td_sharded *s, uint64_t clock)
{
    s->clock = clock;
    s->read_others = 0, s->read_rows = 0; /* of that clock's, before */
    td_store_start_at(&s->store, clock);
    td_cache_clear(&s->cache); /* of clocks that may be higher, and without who had retired */
    for (int w = 0; w < s->config.worker_count; w++) s->store.clocks.gone[w] = s->of_worker[w] < 0;
}

/* --- stopping --- */

static td_status tell_servers(td_sharded *s, td_asks what)
{
    td_ask ask = ask_of(s, s->clock, TD_AS_BACKUP);
    td_parts parts = {.everywhere = true, .note = &ask, .answers = s->told};
    ask.asks = what;
    return td_keyed_push(s->keyed, &parts);
}

td_status td_sharded_stop(td_sharded *s)
{
    return tell_servers(s, TD_ASKS_STOP);
}

td_status td_sharded_retire(td_sharded *s)
{
    if (s->worker < 0) return td_fail(TD_ERR_ARG, "retire: rank %d is no worker", s->rank);
    s->retired = true;
    return tell_servers(s, TD_RETIRES);
}

bool td_sharded_stops(const td_sharded *s)
{
    for (int k = 0; k < s->server_count; k++)
        if (s->told[k].stops) return true;
    return false;
}

/* --- what there is to see --- */

int td_sharded_worker(const td_sharded *s)
{
    return s->worker;
}

uint64_t td_sharded_clock(const td_sharded *s)
{
    return s->clock;
}

td_table *td_sharded_table(td_sharded *s)
{
    return s->store.table;
}

const td_place *td_sharded_place(const td_sharded *s)
{
    return &s->place;
}

void td_sharded_skip_to(td_sharded *s, uint64_t clock)
{
    if (clock > s->clock) s->clock = clock;
}

void td_sharded_stats_of(const td_sharded *s, td_sharded_stats *out)
{
    *out = (td_sharded_stats){.reads = s->store.reads,
                              .writes = s->store.writes,
                              .cached = s->cached,
                              .asked = s->asked,
                              .pushes = s->store.pushes,
                              .dropped = s->store.dropped};
    for (int k = 0; k < TD_STALENESS_BINS; k++) out->reads.reads[k] += s->reads.reads[k];
}
