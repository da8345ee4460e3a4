/* See rows_tables.h. */
#include "train/rows_tables.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "tandem/recover.h"

#include <stdio.h>
#include <string.h>

/* --- opening --- */

enum { LEAST_WIDTH = 16, MOST_WIDTH = 1024 };

/* A few hundred rows at least, so that they spread over slices. */
static size_t dense_width(size_t params)
{
    size_t width = LEAST_WIDTH;
    while (width < MOST_WIDTH && params / (2 * width) >= TD_SLICES) width *= 2;
    return width;
}

static td_table_config dense_config(const td_rows_tables_config *c)
{
    td_table_config t = c->keyed;
    t.width = dense_width(c->params);
    t.rule = c->net_rule;
    if (c->job->net_lr > 0) t.lr = (float)(c->job->net_lr / c->job->lr);
    t.init = TD_TABLE_ZERO;
    t.number = TD_ROWS_DENSE;
    t.admit = 0;
    t.memory_bytes = 0, t.folder = NULL;
    return t;
}

static td_servers servers_of(const td_rows_tables *t, int which)
{
    return (td_servers){.rank = t->roles.server,
                        .count = t->roles.server_count,
                        .replicas = t->replicas,
                        .rows = which == TD_ROWS_DENSE ? t->dense_rows : 0};
}

static td_status cold_folder(td_rows_tables *t, const td_job *job)
{
    char name[64];
    td_table_config *c = &t->config[TD_ROWS_KEYED];
    if (!c->memory_bytes) return TD_OK;
    snprintf(name, sizeof name, "cold/rank-%d",
             td_comm_rank_in_run(t->comm, td_comm_rank(t->comm)));
    TD_TRY(td_path_join(t->folder[TD_ROWS_KEYED], job->run, name));
    c->folder = t->folder[TD_ROWS_KEYED];
    return TD_OK;
}

static td_status open_exact(td_rows_tables *t, int which, bool joined)
{
    td_bulk_config c = {.table = t->config[which], .leaves = t->leaves};
    c.servers = servers_of(t, which);
    return joined ? td_bulk_join(&c, &t->bulk[which]) : td_bulk_open(t->comm, &c, &t->bulk[which]);
}

static td_status open_paced(td_rows_tables *t, int which, bool joined)
{
    td_sharded_config c = {.table = t->config[which],
                           .servers = servers_of(t, which),
                           .worker = t->roles.worker,
                           .worker_count = t->roles.now.counts.workers,
                           .clock = t->clock[which],
                           .by_staleness = t->by_staleness,
                           .evict_after = which == TD_ROWS_KEYED ? t->evict_after : 0,
                           .compensation = t->compensation};
    return joined ? td_sharded_join(&c, &t->sharded[which])
                  : td_sharded_open(t->comm, &c, &t->sharded[which]);
}

/* What files are written from and read to, at rank 0: empty between. */
static td_status open_desk(td_rows_tables *t, int which)
{
    static const int first[] = {0};
    td_bulk_config c = {.table = t->config[which], .leaves = t->leaves};
    c.servers = servers_of(t, which);
    c.servers.rank = first, c.servers.count = 1, c.servers.replicas = 0;
    td_bulk_destroy(t->bulk[which]);
    t->bulk[which] = NULL;
    return td_bulk_open(t->comm, &c, &t->bulk[which]);
}

static td_status open_shared(td_rows_tables *t, int which, bool joined)
{
    td_shared_config c = {.table = &t->config[which], .workers = t->roles.now.counts.workers};
    c.rows = which == TD_ROWS_DENSE ? t->dense_rows : (size_t)1 << t->bits;
    if (joined) return td_shared_rows_join(&c, &t->shared[which]);
    TD_TRY(open_desk(t, which));
    return td_shared_rows_open(t->comm, &c, &t->shared[which]);
}

static td_status open_one(td_rows_tables *t, int which, bool joined)
{
    switch (t->mode) {
    case TD_ROWS_EXACT: return open_exact(t, which, joined);
    case TD_ROWS_PACED: return open_paced(t, which, joined);
    case TD_ROWS_SHARED: break;
    }
    return open_shared(t, which, joined);
}

/* Slots lie in order. Biases do not decay. */
static td_status make_spans(td_rows_tables *t, const td_rows_tables_config *c)
{
    td_table_config *dense = &t->config[TD_ROWS_DENSE];
    bool alike = !(c->job->weight_decay > 0); /* of a centre only copies decay */
    for (size_t s = 0; s < c->slot_count; s++) alike = alike && c->slots[s].kind != TD_SLOT_STAT;
    if (alike) return TD_OK;
    t->spans = td_calloc(c->slot_count + 1, sizeof *t->spans);
    if (!t->spans) return td_fail(TD_ERR_NOMEM, "no memory for %zu slots", c->slot_count);
    dense->spans = t->spans;
    for (size_t s = 0; s < c->slot_count; s++) {
        const td_slot *slot = &c->slots[s];
        bool averages = slot->kind == TD_SLOT_STAT;
        if (averages || slot->kind == TD_SLOT_WEIGHT)
            t->spans[dense->span_count++] =
                (td_table_span){slot->offset, slot->offset + slot->count, averages, slot->momentum};
    }
    return TD_OK;
}

static td_status make_dense(td_rows_tables *t, size_t params)
{
    size_t width = t->config[TD_ROWS_DENSE].width;
    t->params = params;
    t->dense_rows = (params + width - 1) / width;
    t->dense_keys = td_calloc(t->dense_rows, sizeof *t->dense_keys);
    t->dense = td_alloc_aligned(t->dense_rows * width * sizeof *t->dense);
    if (!t->dense_keys || !t->dense)
        return td_fail(TD_ERR_NOMEM, "no memory for %zu dense parameters", params);
    for (size_t k = 0; k < t->dense_rows; k++) t->dense_keys[k] = k;
    return TD_OK;
}

td_status td_rows_tables_open(td_comm *comm, const td_rows_tables_config *c, bool joined,
                              td_rows_tables *t)
{
    *t = (td_rows_tables){.comm = comm,
                          .mode = c->mode,
                          .bits = c->job->bits,
                          .clock = {c->clock, c->net_clock},
                          .leaves = c->job->leaves,
                          .replicas = c->job->replicas,
                          .by_staleness = c->job->staleness_rate,
                          .evict_after = (uint64_t)c->job->evict_after,
                          .compensation = (float)c->job->compensation,
                          .remembers = c->keyed.admit > 1 || c->job->evict_after > 0};
    t->roles.now.counts = c->counts;
    t->roles.now.own = (td_role){.slot = -1, .reads = c->reads};
    t->has[TD_ROWS_KEYED] = c->keyed.width > 0;
    t->has[TD_ROWS_DENSE] = c->params > 0;
    t->config[TD_ROWS_KEYED] = c->keyed;
    t->config[TD_ROWS_DENSE] = dense_config(c);
    td_status status = c->params ? make_dense(t, c->params) : TD_OK;
    if (status == TD_OK && c->slots) status = make_spans(t, c);
    if (status == TD_OK) status = cold_folder(t, c->job);
    if (!joined) status = td_comm_agree(comm, status);
    if (!joined && status == TD_OK) status = td_roles_take(&t->roles, comm, false);
    for (int k = 0; k < TD_ROWS_TABLES && status == TD_OK; k++)
        if (t->has[k]) status = open_one(t, k, joined);
    if (status == TD_OK && t->mode == TD_ROWS_SHARED && !joined)
        status = td_comm_open_meeting(t->comm, &t->meeting);
    return status;
}

void td_rows_tables_close(td_rows_tables *t)
{
    for (int k = 0; k < TD_ROWS_TABLES; k++) {
        td_bulk_destroy(t->bulk[k]);
        td_sharded_destroy(t->sharded[k]);
        td_shared_rows_close(&t->shared[k], t->comm);
        if (t->folder[k][0] && td_remove_tree(t->folder[k]) != TD_OK) td_error_clear();
    }
    td_rows_leave_group(t);
    td_roles_free(&t->roles);
    td_free(t->dense_keys), td_free(t->dense), td_free(t->spans);
    *t = (td_rows_tables){0};
}

/* --- what is where --- */

void td_rows_tables_leaves(const td_rows_tables *t, int leaves, int *begin, int *end)
{
    const td_roles *r = &t->roles;
    *begin = *end = 0;
    if (r->number < 0) return;
    *begin = leaves * r->number / r->working;
    *end = leaves * (r->number + 1) / r->working;
}

td_table *td_rows_table(td_rows_tables *t, int which)
{
    if (t->bulk[which]) return td_bulk_table(t->bulk[which]);
    return t->sharded[which] ? td_sharded_table(t->sharded[which]) : NULL;
}

const td_place *td_rows_place(const td_rows_tables *t, int which)
{
    return t->mode == TD_ROWS_PACED ? td_sharded_place(t->sharded[which])
                                    : td_bulk_place(t->bulk[which]);
}

bool td_rows_holds(const td_rows_tables *t, int which, uint64_t key)
{
    return td_place_has(td_rows_place(t, which), key, t->roles.self);
}

bool td_rows_speaks(const td_rows_tables *t, int which, uint64_t key)
{
    return td_place_primary(td_rows_place(t, which), key) == t->roles.self;
}

/* --- dense parameters --- */

td_status td_rows_put_dense(td_rows_tables *t, const float *params)
{
    td_table *table = td_rows_table(t, TD_ROWS_DENSE);
    size_t width = t->config[TD_ROWS_DENSE].width;
    if (!table) return TD_OK;
    float *row = td_calloc(td_table_row_floats(table), sizeof *row);
    td_status status = row ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a row");
    for (size_t k = 0; k < t->dense_rows && status == TD_OK; k++) {
        if (!td_rows_holds(t, TD_ROWS_DENSE, k)) continue;
        size_t left = t->params - k * width;
        memset(row, 0, width * sizeof *row);
        memcpy(row, params + k * width, (left < width ? left : width) * sizeof *row);
        status = td_table_put(table, k, row);
    }
    td_free(row);
    return status;
}

td_status td_rows_pull_dense(td_rows_tables *t, int ahead)
{
    if (!t->has[TD_ROWS_DENSE]) return TD_OK;
    if (t->mode == TD_ROWS_EXACT)
        return td_bulk_pull(t->bulk[TD_ROWS_DENSE], t->dense_keys, t->dense_rows, t->dense);
    if (t->mode == TD_ROWS_SHARED) {
        td_shared_rows_read(&t->shared[TD_ROWS_DENSE], t->dense_keys, t->dense_rows, t->dense);
        return TD_OK;
    }
    td_sharded *s = t->sharded[TD_ROWS_DENSE];
    TD_TRY(td_sharded_fetch(s, t->dense_keys, t->dense_rows, ahead, t->dense));
    return td_sharded_fetched(s);
}

td_status td_rows_look(td_rows_tables *t, int which, const uint64_t *keys, size_t count, float *out)
{
    if (t->mode == TD_ROWS_EXACT) return td_bulk_pull(t->bulk[which], keys, count, out);
    if (t->mode == TD_ROWS_PACED) return td_sharded_look(t->sharded[which], keys, count, out);
    td_shared_rows_read(&t->shared[which], keys, count, out);
    return TD_OK;
}

td_status td_rows_balance(td_rows_tables *t, int which, bool move, td_balanced *out)
{
    td_servers servers = servers_of(t, which);
    *out = (td_balanced){0};
    if (t->sharded[which]) return td_sharded_balance(t->sharded[which], move, out);
    if (t->mode == TD_ROWS_SHARED || !t->bulk[which]) return TD_OK;
    return td_bulk_balance(t->bulk[which], &servers, move, out);
}

/* --- shared memory --- */

/* Whose memory also says which steps have been made. */
static td_shared_rows *shared_of(td_rows_tables *t)
{
    return &t->shared[t->has[TD_ROWS_KEYED] ? TD_ROWS_KEYED : TD_ROWS_DENSE];
}

td_status td_rows_collect(td_rows_tables *t)
{
    td_status status = TD_OK;
    for (int k = 0; k < TD_ROWS_TABLES && t->mode == TD_ROWS_SHARED && status == TD_OK; k++)
        if (t->has[k] && td_bulk_table(t->bulk[k]))
            status = td_shared_rows_to_table(&t->shared[k], td_bulk_table(t->bulk[k]));
    return t->mode == TD_ROWS_SHARED ? td_comm_agree(t->comm, status) : TD_OK;
}

td_status td_rows_spread(td_rows_tables *t, uint64_t step)
{
    td_status status = TD_OK;
    bool begins = t->mode == TD_ROWS_SHARED && t->roles.self == 0;
    for (int w = 0; begins && w < t->roles.now.counts.workers; w++) shared_of(t)->made[w] = step;
    for (int k = 0; k < TD_ROWS_TABLES && t->mode == TD_ROWS_SHARED && status == TD_OK; k++)
        if (t->has[k] && td_bulk_table(t->bulk[k]))
            status = td_shared_rows_from_table(&t->shared[k], td_bulk_table(t->bulk[k]));
    return t->mode == TD_ROWS_SHARED ? td_comm_agree(t->comm, status) : TD_OK;
}

void td_rows_has_made(td_rows_tables *t, uint64_t step)
{
    shared_of(t)->made[t->roles.now.own.slot] = step;
}

/* Of a worker that nobody followed: the others have had its part. */
#define NOBODYS UINT64_MAX

td_status td_rows_made(td_rows_tables *t, bool joined, uint64_t *step)
{
    const td_roles *r = &t->roles;
    uint64_t *made = shared_of(t)->made, mine = joined ? 0 : *step, most;
    TD_TRY(td_comm_allreduce(t->comm, &mine, &most, 1, TD_I64, TD_MAX));
    bool whole = r->working == r->now.counts.workers && !r->now.counts.feeders;
    bool follows = whole && r->now.own.slot >= 0 && made[r->now.own.slot] != NOBODYS;
    if (joined) *step = follows ? made[r->now.own.slot] : most;
    TD_TRY(td_comm_barrier(t->comm));
    for (int w = 0; w < r->now.counts.workers && r->self == 0; w++)
        if (r->worker[w] < 0) made[w] = NOBODYS;
    return TD_OK;
}

td_status td_rows_meet(td_rows_tables *t)
{
    if (t->mode == TD_ROWS_SHARED) return td_comm_barrier(t->meeting);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (t->sharded[k]) TD_TRY(td_sharded_meet(t->sharded[k]));
    return TD_OK;
}

/* --- in another group --- */

void td_rows_leave_group(td_rows_tables *t)
{
    td_comm_close(t->meeting);
    t->meeting = NULL;
}

static td_status move_shared(td_rows_tables *t, bool *lost)
{
    for (int k = 0; k < TD_ROWS_TABLES; k++) {
        if (!t->has[k]) continue;
        TD_TRY(td_shared_rows_move(t->comm, &t->shared[k], lost));
        TD_TRY(open_desk(t, k));
    }
    return td_comm_open_meeting(t->comm, &t->meeting);
}

/* Workers have other numbers than the tables know. */
static td_status renumber(td_rows_tables *t)
{
    const td_roles_deal *now = &t->roles.now;
    if (t->era == now->era) return TD_OK;
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (t->sharded[k])
            TD_TRY(td_sharded_renumber(t->sharded[k], now->counts.workers, now->step));
    t->era = now->era;
    return TD_OK;
}

td_status td_rows_tables_move(td_rows_tables *t, td_comm *comm, bool joined, uint64_t made,
                              bool *lost)
{
    *lost = false;
    t->comm = comm;
    TD_TRY(td_roles_take(&t->roles, comm, joined));
    if (!t->roles.working || !t->roles.server_count) {
        *lost = true;
        return td_fail(TD_ERR_PEER, "all %s have died", t->roles.working ? "servers" : "workers");
    }
    if (t->mode == TD_ROWS_SHARED) return move_shared(t, lost);
    TD_TRY(td_comm_agree(comm, renumber(t)));
    for (int k = 0; k < TD_ROWS_TABLES; k++) {
        if (!t->has[k]) continue;
        td_servers servers = servers_of(t, k);
        if (t->mode == TD_ROWS_EXACT)
            TD_TRY(td_bulk_move(t->bulk[k], comm, &servers, joined, made, lost));
        else
            TD_TRY(td_sharded_move(t->sharded[k], comm, &servers, t->roles.worker, joined, lost));
    }
    return TD_OK;
}
