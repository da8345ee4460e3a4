/* See rows_feed.h. */
#include "train/rows_feed.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/recorder.h"
#include "tandem/recover.h"
#include "train/rows_feed_impl.h"

#include <assert.h>
#include <string.h>
#include <time.h>

/* OWED: its worker died with it, perhaps in the midst of the push, which is to be made again;
 * REPAID: leased for that. */
enum { FREE, OWED, LEASED, REPAID, DONE };
enum { MOST_SERVERS = 64, WINDOW = 8 /* steps, for each server */ };

typedef struct ask { /* note of a request */
    uint64_t epoch, clock;
    uint64_t done;        /* shard + 1 that is; 0: none */
    td_feed_tally learnt; /* by this worker in this epoch, that shard among it */
    int32_t worker, rank;
    uint64_t want;  /* shard + 1: that one, or none */
    uint64_t limit; /* of shards below */
} ask;

typedef struct told { /* note of an answer */
    uint64_t shard;   /* + 1; 0: none */
    uint64_t bytes;
    uint64_t left;   /* not 0: a shard of this server, below the limit, is not done */
    uint64_t clock;  /* owed: of the push that is to be made again, */
    uint64_t worker; /* + 1, and whose; 0: a step of the asker's own */
    uint64_t first;  /* no shard of this server below waits */
    char rest[TD_KEYED_NOTE - 48];
} told;
_Static_assert(sizeof(ask) == TD_KEYED_NOTE && sizeof(told) == TD_KEYED_NOTE, "a note each");

/* Who pushes, and at which clock; 0: nobody. */
static uint64_t name_of(int worker, uint64_t clock)
{
    return (uint64_t)(worker + 1) << 48 | clock;
}

static int worker_of(uint64_t name)
{
    return (int)(name >> 48) - 1;
}

static uint64_t clock_of(uint64_t name)
{
    return name & (((uint64_t)1 << 48) - 1);
}

/* --- a server --- */

static int owner_of(const td_feed *f, uint64_t shard)
{
    return (int)(shard % (uint64_t)f->config.server_count);
}

static bool is_mine(const td_feed *f, uint64_t shard)
{
    return owner_of(f, shard) == f->number;
}

/* Shards of an epoch below run-wide shard `at`. */
static uint64_t below(const td_feed *f, uint64_t epoch, uint64_t at)
{
    uint64_t begin = epoch * f->shards;
    if (at <= begin) return 0;
    return at - begin < f->shards ? at - begin : f->shards;
}

static uint64_t window_of(const td_feed *f)
{
    return WINDOW * (uint64_t)f->config.server_count * (uint64_t)f->config.parts;
}

static void begin_epoch(td_feed *f, uint64_t epoch)
{
    memset(f->state, FREE, f->shards);
    memset(f->state, DONE, below(f, epoch, f->start));
    f->window = below(f, epoch, f->start) + window_of(f);
    memset(f->learnt, 0, f->ranks * sizeof *f->learnt);
    f->epoch = epoch, f->first = f->settled = 0, f->finished = 0, f->owed = f->shards;
    f->unknown = false;
}

static uint64_t repay(td_feed *f, uint64_t shard, const ask *a, told *t)
{
    t->worker = (uint64_t)worker_of(f->name[shard]) + 1;
    t->clock = clock_of(f->name[shard]);
    f->state[shard] = REPAID;
    f->holder[shard] = a->rank;
    return shard;
}

/* That one, if it waits. */
static uint64_t lease_wanted(td_feed *f, const ask *a, told *t)
{
    uint64_t shard = a->want - 1;
    t->left = f->state[shard] != DONE;
    return f->state[shard] == OWED ? repay(f, shard, a, t) : UINT64_MAX;
}

static td_feed_part part_of(const td_feed *f, uint64_t shard)
{
    uint64_t parts = (uint64_t)f->config.parts, leaves = (uint64_t)f->config.plan.leaves;
    td_feed_part part = {.epoch = f->epoch, .step = shard / parts, .of = shard + 1};
    part.leaf_begin = (int)td_cut(leaves, parts, shard % parts);
    part.leaf_end = (int)td_cut(leaves, parts, shard % parts + 1);
    return part;
}

/* A small batch may have none. */
static bool has_samples(const td_feed *f, uint64_t shard)
{
    td_feed_part part = part_of(f, shard);
    size_t rows = 0;
    for (int leaf = part.leaf_begin; leaf < part.leaf_end && !rows; leaf++)
        rows = td_shard_leaf_rows(&f->config.plan, part.step, leaf);
    return rows > 0;
}

static bool waits(td_feed *f, uint64_t shard)
{
    if (!is_mine(f, shard) || f->state[shard] > OWED) return false;
    if (f->state[shard] == FREE && !has_samples(f, shard)) f->state[shard] = DONE;
    return f->state[shard] != DONE;
}

/* The next that waits. */
static uint64_t lease(td_feed *f, const ask *a, told *t)
{
    uint64_t found = f->first;
    while (found < a->limit && !waits(f, found)) found++;
    f->first = found;
    if (found >= a->limit) return UINT64_MAX;
    f->first++;
    if (f->state[found] == OWED) return repay(f, found, a, t);
    f->holder[found] = a->rank;
    f->state[found] = LEASED;
    f->name[found] = name_of(a->worker, a->clock);
    return found;
}

/* What a worker has learnt from grows, so the larger count is the newer. */
static void newer(void *into, const void *from, size_t count, void *user)
{
    (void)user;
    for (size_t k = 0; k < count; k++)
        if (((const td_feed_tally *)from)[k].samples > ((td_feed_tally *)into)[k].samples)
            ((td_feed_tally *)into)[k] = ((const td_feed_tally *)from)[k];
}

static bool all_done(td_feed *f, uint64_t limit)
{
    while (f->settled < limit && (!is_mine(f, f->settled) || f->state[f->settled] == DONE))
        f->settled++;
    return f->settled >= limit;
}

static td_status serve(void *user, const td_keyed_request *q)
{
    td_feed *f = user;
    const ask *a = q->note;
    told *t = q->answer;
    if (q->count) return td_feed_give(f, q);
    if (f->config.in_step) return td_feed_serve_steps(f, q);
    if (a->epoch > f->epoch || f->epoch == UINT64_MAX) begin_epoch(f, a->epoch);
    if (a->done) f->state[a->done - 1] = DONE;
    if (a->epoch == f->epoch) newer(&f->learnt[a->rank], &a->learnt, 1, NULL);
    uint64_t shard = a->want ? lease_wanted(f, a, t) : lease(f, a, t);
    if (!a->want) t->left = shard != UINT64_MAX || !all_done(f, a->limit);
    t->first = f->first;
    if (shard == UINT64_MAX) return TD_OK;
    td_feed_part part = part_of(f, shard);
    TD_TRY(td_feed_pack(f, &part, &f->kept[q->from]));
    t->shard = shard + 1, t->bytes = f->kept[q->from].bytes;
    return TD_OK;
}

/* --- a worker --- */

/* One server, in the epoch under way: is there a shard below the limit? want: that one + 1, or any.
 */
static td_status ask_one(td_feed *f, int server, uint64_t limit, uint64_t clock, uint64_t want,
                         told *out)
{
    told all[MOST_SERVERS];
    uint64_t ticket;
    ask a = {.epoch = f->epoch,
             .clock = clock,
             .worker = f->config.worker,
             .rank = f->rank,
             .want = want,
             .limit = limit};
    a.learnt = f->learnt[f->rank];
    if (f->finished && owner_of(f, f->finished - 1) == server) a.done = f->finished;
    td_parts parts = {.everywhere = true, .note = &a, .answers = all, .only = server + 1};
    TD_TRY(td_keyed_start(f->keyed, TD_PULL, &parts, &ticket));
    TD_TRY(td_keyed_wait(f->keyed, ticket));
    if (a.done) f->finished = 0;
    *out = all[server];
    return TD_OK;
}

static td_status take(td_feed *f, const told *t, uint64_t clock, td_rows_batch *batch,
                      td_feed_lease *out)
{
    f->next = owner_of(f, t->shard - 1); /* what is done is told before anything else is begun */
    *out = (td_feed_lease){.owed = t->worker > 0, .clock = t->clock};
    out->worker = (int)t->worker - 1;
    f->held = t->shard;
    f->held_owed = out->owed;
    f->held_name = out->owed ? name_of(out->worker, t->clock) : name_of(f->config.worker, clock);
    return td_feed_fetch(f, f->next, t->shard - 1, t->bytes, batch);
}

/* A shard + 1 whose push is still owed under this worker's name; 0: none. */
static uint64_t owed_here(td_feed *f)
{
    for (; f->owed < f->shards; f->owed++) {
        uint8_t state = f->state[f->owed];
        bool owed = state == OWED || state == REPAID;
        if (owed && worker_of(f->name[f->owed]) == f->config.worker) return f->owed + 1;
    }
    return 0;
}

/* The next shard below the limit of any server, or t->left of all. Each server deals out its own in
 * ascending order, this one's first; that all get on alike, which matters to those that are to stop
 * behind a step, workers ask for none beyond the window while others are waiting in it. */
static td_status ask_all(td_feed *f, uint64_t limit, uint64_t clock, told *t)
{
    int servers = f->config.server_count, begin = f->next;
    uint64_t up_to, left, first;
    do {
        up_to = f->window < limit && servers > 1 ? f->window : limit;
        left = 0, first = UINT64_MAX;
        for (int k = 0; k < servers; k++) {
            TD_TRY(ask_one(f, (begin + k) % servers, up_to, clock, 0, t));
            if (t->shard) return TD_OK;
            left += t->left;
            if (t->first < first) first = t->first;
        }
        if (up_to < limit) f->window = (first > up_to ? first : up_to) + window_of(f);
    } while (up_to < limit);
    t->left = left;
    return TD_OK;
}

/* What this worker's predecessor owes goes before what it does itself: slices remember of a name
 * only its newest push, and would leave out an older one. */
td_status td_feed_next(td_feed *f, uint64_t epoch, uint64_t end, uint64_t clock,
                       td_rows_batch *batch, td_feed_lease *out)
{
    struct timespec moment = {.tv_nsec = 500000};
    if (epoch != f->epoch || f->epoch == UINT64_MAX) begin_epoch(f, epoch);
    *out = (td_feed_lease){0};
    uint64_t limit = below(f, epoch, end * (uint64_t)f->config.parts);
    uint64_t owed;
    told t = {0};
    while (!t.left && (owed = owed_here(f)) != 0) {
        TD_TRY(ask_one(f, owner_of(f, owed - 1), limit, clock, owed, &t));
        if (t.shard) return take(f, &t, clock, batch, out);
        if (!t.left) f->state[owed - 1] = DONE;
    }
    if (!t.left) TD_TRY(ask_all(f, limit, clock, &t));
    if (t.shard) return take(f, &t, clock, batch, out);
    out->none = t.left == 0, out->wait = t.left > 0;
    if (out->wait) nanosleep(&moment, NULL);
    return TD_OK;
}

void td_feed_done(td_feed *f, const td_rows_batch *batch)
{
    if (!f->held) return;
    td_feed_tally *mine = &f->learnt[f->rank];
    mine->samples += batch->rows;
    for (size_t r = 0; r < batch->rows; r++) mine->marks += td_feed_mark(batch->sample[r]);
    f->state[f->held - 1] = DONE;
    f->finished = f->held;
    f->held = 0;
}

td_status td_feed_tell(td_feed *f)
{
    told t;
    return f->finished ? ask_one(f, owner_of(f, f->finished - 1), 0, 0, 0, &t) : TD_OK;
}

void td_feed_start_at(td_feed *f, uint64_t step)
{
    f->start = step * (uint64_t)f->config.parts;
    if (f->epoch != UINT64_MAX) memset(f->state, DONE, below(f, f->epoch, f->start));
}

uint64_t td_feed_reach(const td_feed *f, uint64_t epoch)
{
    uint64_t least = below(f, epoch, f->start), k = f->epoch == epoch ? f->shards : least;
    uint64_t parts = (uint64_t)f->config.parts;
    while (k > least && f->state[k - 1] == FREE) k--;
    return epoch * f->steps + (k + parts - 1) / parts;
}

void td_feed_give_back(td_feed *f)
{
    if (f) f->held = 0;
}

/* --- opening --- */

static size_t ranks_of(td_comm *comm)
{
    int most = 0;
    for (int r = 0; r < td_comm_size(comm); r++)
        if (td_comm_rank_in_run(comm, r) > most) most = td_comm_rank_in_run(comm, r);
    return (size_t)most + 1;
}

/* ranks: that the run has had so far. */
static td_status create(td_comm *comm, const td_feed_config *c, size_t ranks, td_feed **out)
{
    if (c->server_count < 1 || c->server_count > MOST_SERVERS)
        return td_fail(TD_ERR_ARG, "--data-servers must be 1 to %d", MOST_SERVERS);
    assert(c->parts <= c->plan.leaves);
    td_feed *f = td_calloc(1, sizeof *f);
    if (!f) return td_fail(TD_ERR_NOMEM, "no memory to feed workers");
    f->config = *c;
    if (f->config.in_step || !c->parts) f->config.parts = 1;
    f->number = -1;
    for (int k = 0; k < c->server_count; k++)
        if (c->server[k] == td_comm_rank(comm)) f->number = k;
    f->steps = td_shard_steps(&c->plan);
    f->shards = f->steps * (uint64_t)f->config.parts;
    f->epoch = UINT64_MAX;
    f->next = c->worker >= 0 ? c->worker % c->server_count : 0;
    f->rank = td_comm_rank_in_run(comm, td_comm_rank(comm));
    f->ranks = ranks;
    f->most = c->features ? td_features_most_of(c->features, c->data) : 0;
    f->group = td_comm_size(comm);
    size_t rows = c->plan.batch, entries;
    bool fits = td_mul(rows, f->most, &entries);
    f->state = td_calloc(f->shards, 1);
    f->holder = td_calloc(f->shards, sizeof *f->holder);
    f->name = td_calloc(f->shards, sizeof *f->name);
    f->learnt = td_calloc(ranks, sizeof *f->learnt);
    f->workers = td_calloc((size_t)c->workers, sizeof *f->workers);
    f->servers = td_calloc((size_t)c->server_count, sizeof *f->servers);
    f->answers = td_calloc((size_t)c->server_count, TD_KEYED_NOTE);
    f->leaf_row = td_calloc((size_t)c->plan.leaves + 1, sizeof *f->leaf_row);
    bool made = f->state && f->holder && f->name && f->learnt && f->workers && f->servers &&
                f->answers && f->leaf_row;
    for (int k = 0; k < c->server_count && made; k++)
        f->servers[k] = td_comm_rank_in_run(comm, c->server[k]);
    for (int w = 0; w < c->workers && made; w++)
        f->workers[w] = c->worker_rank[w] < 0 ? -1 : td_comm_rank_in_run(comm, c->worker_rank[w]);
    if (made && fits && f->number >= 0) {
        f->sample = td_calloc(2 * rows, sizeof *f->sample);
        f->key = td_calloc(entries + 1, sizeof *f->key);
        f->value = td_calloc(entries + 1, sizeof *f->value);
        f->field = td_calloc(entries + 1, sizeof *f->field);
        f->numbers = td_calloc(rows * c->numbers + 1, sizeof *f->numbers);
        f->kept = td_calloc((size_t)f->group, sizeof *f->kept);
        made = f->sample && f->key && f->value && f->field && f->numbers && f->kept;
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
    f->config.server = f->config.worker_rank = NULL;
    return td_keyed_open(comm, &keyed, &f->keyed);
}

td_status td_feed_open(td_comm *comm, const td_feed_config *config, td_feed **out)
{
    td_feed *f = NULL;
    td_status status = td_comm_agree(comm, create(comm, config, ranks_of(comm), &f));
    if (status == TD_OK) status = open_channel(comm, config, f);
    if (status != TD_OK) {
        td_feed_close(f);
        return status;
    }
    *out = f;
    return TD_OK;
}

void td_feed_record(td_feed *f, const td_comm *comm)
{
    td_recorder_join_keyed(f->keyed, comm);
}

void td_feed_close(td_feed *f)
{
    if (!f) return;
    td_keyed_destroy(f->keyed);
    for (int r = 0; f->kept && r < f->group; r++) td_free(f->kept[r].data);
    td_free(f->kept), td_free(f->answers), td_free(f->leaf_row);
    td_free(f->state), td_free(f->holder), td_free(f->name);
    td_free(f->learnt), td_free(f->workers), td_free(f->servers);
    td_free(f->key), td_free(f->sample), td_free(f->value), td_free(f->numbers), td_free(f->field);
    td_free(f->in);
    td_free(f);
}

/* --- in another group --- */

static bool is_here(td_comm *comm, int rank)
{
    for (int r = 0; r < td_comm_size(comm); r++)
        if (td_comm_rank_in_run(comm, r) == rank) return true;
    return false;
}

static bool all_here(td_comm *comm, const int *ranks, int count)
{
    for (int k = 0; k < count; k++)
        if (ranks[k] >= 0 && !is_here(comm, ranks[k])) return false;
    return true;
}

static const uint64_t is_done = (uint64_t)1 << 62; /* above all names */

/* What this rank knows of a shard: is_done, the name of the push that is owed, or 0. Only its
 * server knows of a lease; one that comes to nothing at a living worker is free again. */
static uint64_t knows(const td_feed *old, td_comm *comm, uint64_t shard)
{
    bool mine = old->number >= 0 && is_mine(old, shard);
    switch (old->state[shard]) {
    case DONE: return is_done;
    case OWED: return old->name[shard];
    case REPAID: return mine ? old->name[shard] : 0;
    case LEASED:
        if (!mine || !old->config.by_name || is_here(comm, old->holder[shard])) return 0;
        return old->name[shard];
    default: return 0;
    }
}

/* Shards and counts of the epoch, from all that know of them. */
static td_status share(td_feed *f, const td_feed *old, td_comm *comm)
{
    uint64_t *known = td_calloc(f->shards, sizeof *known);
    td_status status = known ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to feed workers");
    status = td_comm_agree(comm, status);
    for (uint64_t k = 0; k < f->shards && status == TD_OK && old; k++)
        known[k] = knows(old, comm, k);
    if (old) memcpy(f->learnt, old->learnt, old->ranks * sizeof *f->learnt);
    if (status == TD_OK) status = td_comm_allreduce(comm, known, known, f->shards, TD_I64, TD_MAX);
    if (status == TD_OK) {
        status = td_comm_allreduce_by(comm, f->learnt, f->learnt, f->ranks, sizeof *f->learnt,
                                      newer, NULL);
        if (status != TD_OK) td_free(f->learnt), f->learnt = NULL;
    }
    for (uint64_t k = below(f, f->epoch, f->start); k < f->shards && status == TD_OK; k++) {
        f->state[k] = known[k] == is_done ? DONE : known[k] ? OWED : FREE;
        f->name[k] = known[k] == is_done ? 0 : known[k];
    }
    f->owed = 0;
    td_free(known);
    return status;
}

/* A worker in the middle of a push goes on with it: nobody else may get the shard. */
static td_status keep_held(td_feed *f, const td_feed *old, td_comm *comm)
{
    typedef struct holding {
        uint64_t shard, name; /* + 1 */
        int32_t rank, owed;
    } holding;
    holding own = {.rank = f->rank};
    size_t n = (size_t)td_comm_size(comm);
    holding *all = td_calloc(n, sizeof *all);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to feed workers");
    status = td_comm_agree(comm, status);
    if (old) own.shard = old->held, own.name = old->held_name, own.owed = old->held_owed;
    if (status == TD_OK) status = td_comm_allgather(comm, &own, sizeof own, all);
    for (size_t r = 0; r < n && status == TD_OK; r++) {
        uint64_t k = all[r].shard - 1;
        if (!all[r].shard || f->state[k] == DONE) continue;
        f->state[k] = all[r].owed ? REPAID : LEASED;
        f->name[k] = all[r].name, f->holder[k] = all[r].rank;
    }
    f->held = own.shard, f->held_name = own.name, f->held_owed = own.owed;
    if (f->held) f->next = owner_of(f, f->held - 1); /* as td_feed_next has it */
    td_free(all);
    return status;
}

td_status td_feed_move(td_feed *old, td_comm *comm, const td_feed_config *config, td_feed **out)
{
    td_feed *f = NULL;
    uint64_t mine[4] = {0, ranks_of(comm), 0, old ? old->start : 0}, all[4];
    bool begun = old && old->epoch != UINT64_MAX;
    if (begun) mine[0] = old->epoch + 1;
    if (old && old->ranks > mine[1]) mine[1] = old->ranks;
    if (old) /* what a server knew of a worker's shards, or the worker itself */
        mine[2] = old->unknown || (!all_here(comm, old->workers, old->config.workers) &&
                                   !all_here(comm, old->servers, old->config.server_count));
    TD_TRY(td_comm_allreduce(comm, mine, all, 4, TD_I64, TD_MAX));
    td_status status = td_comm_agree(comm, create(comm, config, all[1], &f));
    if (status == TD_OK) f->start = all[3];
    if (status == TD_OK && all[0]) begin_epoch(f, all[0] - 1);
    if (old && old->keyed) {
        td_keyed_destroy(old->keyed);
        old->keyed = NULL;
    }
    const td_feed *current = begun && old->epoch + 1 == all[0] ? old : NULL;
    if (status == TD_OK) f->unknown = all[2];
    if (status == TD_OK && all[0]) status = share(f, current, comm);
    if (status == TD_OK && all[0]) status = keep_held(f, current, comm);
    if (status == TD_OK) status = open_channel(comm, config, f);
    if (status != TD_OK) {
        td_feed_close(f);
        return status;
    }
    td_feed_close(old);
    *out = f;
    return TD_OK;
}

uint64_t td_feed_names(const td_feed *f, int worker)
{
    uint64_t most = 0;
    for (uint64_t k = 0; k < f->shards; k++) {
        bool owed = f->state[k] == OWED || f->state[k] == REPAID;
        if (owed && worker_of(f->name[k]) == worker && clock_of(f->name[k]) + 1 > most)
            most = clock_of(f->name[k]) + 1;
    }
    return most;
}

td_status td_feed_learnt(const td_feed *f, td_comm *comm, uint64_t epoch, uint64_t *samples,
                         uint64_t *marks, bool *known)
{
    td_feed_tally *all = td_calloc(f->ranks, sizeof *all);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to count samples");
    status = td_comm_agree(comm, status);
    if (status == TD_OK)
        if (f->epoch == epoch) memcpy(all, f->learnt, f->ranks * sizeof *all);
    if (status == TD_OK)
        status = td_comm_allreduce_by(comm, all, all, f->ranks, sizeof *all, newer, NULL);
    if (status == TD_OK) *samples = *marks = 0, *known = !f->unknown;
    for (size_t r = 0; r < f->ranks && status == TD_OK; r++)
        *samples += all[r].samples, *marks += all[r].marks;
    td_free(all);
    return status;
}
