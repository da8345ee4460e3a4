/* Rows of a table over servers in ascending order of their keys, see sharded.h. Who asks keeps a
 * *chunk* of each server's rows, as they come in order, and gives the lowest row of all next; a
 * chunk that has been given away is asked for anew, behind the last key that the server looked at.
 *
 * A request is a pull of one part from one server, under a key that means nothing:
 *
 *     keys u64 [most] | weights f32 [most][width]
 *
 * of which the answer's note says how many rows are meant. A server looks at `most` of its rows and
 * leaves out those of which it is the backup. */
#include "ps/sharded_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { CHUNK_ROWS = 4096, CHUNK_BYTES = 1 << 20 };

/* --- a server --- */

typedef struct packing {
    const td_sharded *s;
    char *keys, *weights;
    size_t seen, rows;
    uint64_t reached;
} packing;

static td_status pack(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    packing *p = arg;
    (void)mark;
    p->seen++, p->reached = key;
    if (td_place_primary(&p->s->place, key) != p->s->rank) return TD_OK;
    memcpy(p->keys + p->rows * sizeof key, &key, sizeof key);
    memcpy(p->weights + p->rows * p->s->row_bytes, row, p->s->row_bytes);
    p->rows++;
    return TD_OK;
}

td_status td_sharded_serve_range(const td_sharded *s, const td_ask *ask, void *out, td_told *told)
{
    size_t most = ask->range.most;
    packing p = {.s = s, .keys = out, .weights = (char *)out + most * sizeof(uint64_t)};
    TD_TRY(td_table_range_some(s->store.table, ask->range.first, ask->range.last, most, pack, &p));
    told->rows = p.rows, told->reached = p.reached;
    told->more = p.seen == most && p.reached < ask->range.last;
    return TD_OK;
}

/* --- who asks --- */

typedef struct chunk {
    char *part;      /* as it arrives */
    size_t rows, at; /* at: the next to be given */
    bool more;       /* the server may have others, */
    uint64_t next;   /* from this key on */
    uint64_t ticket;
} chunk;

typedef struct query {
    td_sharded *s;
    uint64_t last;
    size_t most, bytes; /* of a chunk: rows, and room */
    chunk *of;          /* [server_count] */
    char *parts;        /* [server_count][bytes] */
    td_told *told;      /* [server_count] */
} query;

static td_status make(query *q)
{
    size_t n = (size_t)q->s->server_count, item = sizeof(uint64_t) + q->s->row_bytes;
    q->most = CHUNK_BYTES / item < CHUNK_ROWS ? CHUNK_BYTES / item : CHUNK_ROWS;
    q->bytes = (q->most * item + 63) / 64 * 64;
    q->of = td_calloc(n, sizeof *q->of);
    q->parts = td_alloc_aligned(n * q->bytes);
    q->told = td_calloc(n, sizeof *q->told);
    if (!q->of || !q->parts || !q->told)
        return td_fail(TD_ERR_NOMEM, "no memory for rows of %zu servers", n);
    for (size_t k = 0; k < n; k++) q->of[k].part = q->parts + k * q->bytes;
    return TD_OK;
}

static void unmake(query *q)
{
    td_free(q->of), td_free(q->parts), td_free(q->told);
}

static td_status ask_for(query *q, int server)
{
    chunk *c = &q->of[server];
    td_ask ask = {.worker = -1, .asks = TD_ASKS_RANGE};
    ask.range.first = c->next, ask.range.last = q->last, ask.range.most = q->most;
    td_parts parts = {.keys = &c->next,
                      .count = 1,
                      .sizes = &q->bytes,
                      .out = c->part,
                      .owner = &server,
                      .note = &ask,
                      .answers = q->told};
    return td_keyed_start(q->s->keyed, TD_PULL, &parts, &c->ticket);
}

static td_status take(query *q, int server)
{
    chunk *c = &q->of[server];
    const td_told *told = &q->told[server];
    uint64_t ticket = c->ticket;
    c->ticket = 0;
    TD_TRY(td_keyed_wait(q->s->keyed, ticket));
    c->rows = told->rows, c->at = 0;
    c->more = told->more, c->next = told->reached + 1;
    return TD_OK;
}

/* Until there is a row of the server, or no other. */
static td_status refill(query *q, int server)
{
    chunk *c = &q->of[server];
    while (c->at == c->rows && c->more) {
        TD_TRY(ask_for(q, server));
        TD_TRY(take(q, server));
    }
    return TD_OK;
}

/* The first chunks, of all servers at once. */
static td_status begin(query *q, uint64_t first)
{
    td_status status = TD_OK, one;
    char sentence[512] = "";
    int asked = 0;
    for (; asked < q->s->server_count && status == TD_OK; asked++) {
        q->of[asked].next = first;
        status = ask_for(q, asked);
    }
    if (status != TD_OK) strncpy(sentence, td_last_error(), sizeof sentence - 1);
    for (int k = 0; k < asked; k++) {
        if (!q->of[k].ticket) continue;
        one = take(q, k);
        if (one == TD_OK || status != TD_OK) continue;
        status = one;
        strncpy(sentence, td_last_error(), sizeof sentence - 1);
    }
    return status == TD_OK ? TD_OK : td_fail_again(status, sentence);
}

static uint64_t key_of(const chunk *c)
{
    uint64_t key;
    memcpy(&key, c->part + c->at * sizeof key, sizeof key);
    return key;
}

static td_status merge(query *q, td_table_each_fn *each, void *arg)
{
    int servers = q->s->server_count;
    for (int k = 0; k < servers; k++) TD_TRY(refill(q, k));
    for (;;) {
        int lowest = -1;
        for (int k = 0; k < servers; k++)
            if (q->of[k].at < q->of[k].rows &&
                (lowest < 0 || key_of(&q->of[k]) < key_of(&q->of[lowest])))
                lowest = k;
        if (lowest < 0) return TD_OK;
        chunk *c = &q->of[lowest];
        char *weights = c->part + q->most * sizeof(uint64_t) + c->at * q->s->row_bytes;
        TD_TRY(each(arg, key_of(c), (const float *)(const void *)weights));
        c->at++;
        TD_TRY(refill(q, lowest));
    }
}

td_status td_sharded_range(td_sharded *s, uint64_t first, uint64_t last, td_table_each_fn *each,
                           void *arg)
{
    query q = {.s = s, .last = last};
    if (first > last) return TD_OK;
    td_status status = make(&q);
    if (status == TD_OK) status = begin(&q, first);
    if (status == TD_OK) status = merge(&q, each, arg);
    unmake(&q);
    return status;
}
