/* See sharded.h. */
#include "ps/sharded.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ps/batch.h"
#include "tandem/keyed.h"

#include <string.h>

typedef struct request { /* of this rank; its memory stays */
    td_batch batch;
    float *rows; /* [batch.count][width] */
    size_t room; /* floats */
    uint64_t ticket;
} request;

struct td_sharded {
    td_table *table; /* NULL: no server */
    td_keyed *keyed;
    size_t width;
    uint64_t pushes, workers;
    request fetch, push;
};

/* --- a server --- */

static td_status serve(void *user, const td_keyed_request *q)
{
    td_sharded *s = user;
    if (q->does & TD_PUSH) {
        td_table_step step = {.step = s->pushes / s->workers, .scale = 1, .rate_factor = 1};
        TD_TRY(td_table_push(s->table, q->keys, q->count, q->in, step));
        s->pushes++;
    }
    return q->does & TD_PULL ? td_table_pull(s->table, q->keys, q->count, q->out) : TD_OK;
}

/* --- beginning and end --- */

static td_status begin(td_comm *comm, const td_sharded_config *c, td_sharded *s)
{
    td_place place;
    TD_TRY(td_servers_open(comm, &c->servers, &c->table, &place, &s->table));
    s->width = c->table.width;
    s->workers = (uint64_t)td_comm_size(comm);
    td_keyed_config keyed = {.servers = c->servers.rank,
                             .server_count = c->servers.count,
                             .width = s->width * sizeof(float),
                             .serve = serve,
                             .user = s};
    return td_keyed_open(comm, &keyed, &s->keyed);
}

td_status td_sharded_open(td_comm *comm, const td_sharded_config *config, td_sharded **out)
{
    td_sharded *s = td_calloc(1, sizeof *s);
    td_status status = s ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a sharded table");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = begin(comm, config, s);
    if (status != TD_OK) {
        td_sharded_destroy(s);
        return status;
    }
    *out = s;
    return TD_OK;
}

td_status td_sharded_finish(td_sharded *s)
{
    return td_keyed_finish(s->keyed);
}

void td_sharded_destroy(td_sharded *s)
{
    if (!s) return;
    td_keyed_destroy(s->keyed);
    td_table_destroy(s->table);
    td_batch_free(&s->fetch.batch), td_batch_free(&s->push.batch);
    td_free(s->fetch.rows), td_free(s->push.rows);
    td_free(s);
}

td_table *td_sharded_table(td_sharded *s)
{
    return s->table;
}

/* --- a worker --- */

static td_status prepare(const td_sharded *s, request *r, const uint64_t *keys, size_t count)
{
    size_t floats;
    TD_TRY(td_batch_fill(&r->batch, keys, count));
    if (!td_mul(r->batch.count, s->width, &floats)) floats = SIZE_MAX / sizeof(float);
    if (floats <= r->room) return TD_OK;
    float *rows = td_alloc_aligned(floats * sizeof *rows);
    if (!rows) return td_fail(TD_ERR_NOMEM, "no memory for %zu rows", r->batch.count);
    td_free(r->rows);
    r->rows = rows, r->room = floats;
    return TD_OK;
}

static td_parts parts_of(const request *r, td_keyed_does does)
{
    return (td_parts){.keys = r->batch.keys,
                      .count = r->batch.count,
                      .in = does == TD_PUSH ? r->rows : NULL,
                      .out = does == TD_PULL ? r->rows : NULL};
}

td_status td_sharded_fetch(td_sharded *s, const uint64_t *keys, size_t count)
{
    request *r = &s->fetch;
    if (r->ticket) return td_fail(TD_ERR_ARG, "fetch: the one before has not been waited for");
    TD_TRY(prepare(s, r, keys, count));
    td_parts parts = parts_of(r, TD_PULL);
    return td_keyed_start(s->keyed, TD_PULL, &parts, &r->ticket);
}

td_status td_sharded_fetched(td_sharded *s, float *out)
{
    request *r = &s->fetch;
    if (!r->ticket) return td_fail(TD_ERR_ARG, "fetched: no fetch has been begun");
    td_status status = td_keyed_wait(s->keyed, r->ticket);
    r->ticket = 0;
    if (status == TD_OK) td_batch_spread(&r->batch, s->width, r->rows, out);
    return status;
}

td_status td_sharded_pull(td_sharded *s, const uint64_t *keys, size_t count, float *out)
{
    TD_TRY(td_sharded_fetch(s, keys, count));
    return td_sharded_fetched(s, out);
}

td_status td_sharded_push(td_sharded *s, const uint64_t *keys, size_t count, const float *gradients)
{
    request *r = &s->push;
    TD_TRY(prepare(s, r, keys, count));
    td_batch_gather(&r->batch, s->width, gradients, r->rows);
    td_parts parts = parts_of(r, TD_PUSH);
    return td_keyed_push(s->keyed, &parts);
}
