/* Rows of a table over servers in ascending order of their keys, see sharded.h. Who asks has a
 * *page* of each server's keys, the lowest that are to come, and the rows of some of them, a
 * *chunk*; it gives the lowest row of all next.
 *
 * Keys and rows are asked for apart, as a server walks through its whole index for a page, whatever
 * the page's length: a page has a 16th of its keys, so the walk is made 16 times, however wide the
 * rows are; a chunk's rows are found by their keys. A key whose row is gone by then is left out.
 *
 *     page: a pull of one part, under a key that means nothing
 *         keys u64 [most]           the answer's note says how many are meant
 *     chunk: a pull of a part for each key
 *         weights f32 [width] | is there u32
 *
 * A server looks at `most` of its keys and leaves out those of which it is the backup. */
#include "ps/sharded_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { CHUNK_ROWS = 4096, CHUNK_BYTES = 1 << 20, PAGES = 16, MOST_KEYS = 1 << 26 };

/* --- a server --- */

typedef struct packing {
    const td_sharded *s;
    char *keys;
    size_t seen, count;
    uint64_t reached;
} packing;

static td_status pack(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    packing *p = arg;
    (void)mark, (void)row;
    p->seen++, p->reached = key;
    if (td_place_primary(&p->s->place, key) != p->s->rank) return TD_OK;
    memcpy(p->keys + p->count++ * sizeof key, &key, sizeof key);
    return TD_OK;
}

td_status td_sharded_serve_keys(const td_sharded *s, const td_ask *ask, void *out, td_told *told)
{
    size_t most = ask->range.most;
    packing p = {.s = s, .keys = out};
    TD_TRY(td_table_range_some(s->store.table, ask->range.first, ask->range.last, most, pack, &p));
    told->rows = p.count, told->reached = p.reached;
    bool more = p.seen == most && p.reached < ask->range.last;
    told->more = more ? td_table_rows(s->store.table) : 0;
    return TD_OK;
}

td_status td_sharded_serve_rows(const td_sharded *s, const td_keyed_request *q)
{
    return td_table_find(s->store.table, q->keys, q->count, q->out);
}

/* --- who asks --- */

typedef struct server {
    uint64_t *keys;            /* [room] of the page */
    size_t count, room, asked; /* keys; those of them, from the first on, whose rows have come */
    bool more;                 /* the server may have others, */
    uint64_t next;             /* from this key on */
    char *chunk;               /* [most] rows, of the keys before `asked` */
    size_t rows, at;           /* at: the next to be given */
    uint64_t ticket;
} server;

typedef struct query {
    td_sharded *s;
    uint64_t last;
    size_t most, item; /* of a chunk: rows, and bytes of each */
    size_t *sizes;     /* [most] of a chunk's parts */
    int *owner;        /* [most] */
    server *of;        /* [server_count] */
    char *chunks;
    td_told *told; /* [server_count] */
} query;

static td_status make(query *q)
{
    size_t n = (size_t)q->s->server_count;
    q->item = q->s->row_bytes + sizeof(uint32_t);
    q->most = CHUNK_BYTES / q->item < CHUNK_ROWS ? CHUNK_BYTES / q->item : CHUNK_ROWS;
    q->of = td_calloc(n, sizeof *q->of);
    q->chunks = td_alloc_aligned(n * q->most * q->item);
    q->told = td_calloc(n, sizeof *q->told);
    q->sizes = td_calloc(q->most, sizeof *q->sizes);
    q->owner = td_calloc(q->most, sizeof *q->owner);
    if (!q->of || !q->chunks || !q->told || !q->sizes || !q->owner)
        return td_fail(TD_ERR_NOMEM, "no memory for rows of %zu servers", n);
    for (size_t i = 0; i < q->most; i++) q->sizes[i] = q->item;
    for (size_t k = 0; k < n; k++) {
        server *v = &q->of[k];
        v->chunk = q->chunks + k * q->most * q->item;
        v->keys = td_calloc(CHUNK_ROWS, sizeof *v->keys);
        if (!v->keys) return td_fail(TD_ERR_NOMEM, "no memory for keys of %zu servers", n);
        v->room = CHUNK_ROWS;
    }
    return TD_OK;
}

static void unmake(query *q)
{
    for (int k = 0; q->of && k < q->s->server_count; k++) td_free(q->of[k].keys);
    td_free(q->of), td_free(q->chunks), td_free(q->told), td_free(q->sizes), td_free(q->owner);
}

static td_status ask_for_keys(query *q, int number)
{
    server *v = &q->of[number];
    size_t bytes = v->room * sizeof *v->keys;
    td_ask ask = {.worker = -1, .asks = TD_ASKS_KEYS};
    ask.range.first = v->next, ask.range.last = q->last, ask.range.most = v->room;
    td_parts parts = {.keys = &v->next,
                      .count = 1,
                      .sizes = &bytes,
                      .out = v->keys,
                      .owner = &number,
                      .note = &ask,
                      .answers = q->told};
    return td_keyed_start(q->s->keyed, TD_PULL, &parts, &v->ticket);
}

/* Room for pages as long as the server's table asks for; where there is none, they stay short. */
static void lengthen(server *v, uint64_t held)
{
    uint64_t room = held / PAGES < MOST_KEYS ? held / PAGES : MOST_KEYS;
    uint64_t *more = room > v->room + v->room / 4 ? td_reallocarray(v->keys, room, 8) : NULL;
    if (more) v->keys = more, v->room = room;
}

static td_status take_keys(query *q, int number)
{
    server *v = &q->of[number];
    const td_told *told = &q->told[number];
    uint64_t ticket = v->ticket;
    v->ticket = 0;
    TD_TRY(td_keyed_wait(q->s->keyed, ticket));
    v->count = told->rows, v->asked = 0;
    v->more = told->more > 0, v->next = told->reached + 1;
    return TD_OK;
}

static td_status next_page(query *q, int number)
{
    lengthen(&q->of[number], q->told[number].more);
    TD_TRY(ask_for_keys(q, number));
    return take_keys(q, number);
}

/* The rows of the page's next keys. */
static td_status next_chunk(query *q, int number)
{
    server *v = &q->of[number];
    size_t left = v->count - v->asked, rows = left < q->most ? left : q->most;
    td_ask ask = {.worker = -1, .asks = TD_ASKS_ROWS};
    for (size_t i = 0; i < rows; i++) q->owner[i] = number;
    td_parts parts = {.keys = v->keys + v->asked,
                      .count = rows,
                      .sizes = q->sizes,
                      .out = v->chunk,
                      .owner = q->owner,
                      .note = &ask};
    TD_TRY(td_keyed_pull(q->s->keyed, &parts));
    v->asked += rows, v->rows = rows, v->at = 0;
    return TD_OK;
}

static bool is_there(const query *q, const server *v)
{
    uint32_t there;
    memcpy(&there, v->chunk + v->at * q->item + q->s->row_bytes, sizeof there);
    return there;
}

/* Until the next row of the server is there, or it has no other. */
static td_status refill(query *q, int number)
{
    server *v = &q->of[number];
    for (;;) {
        while (v->at < v->rows && !is_there(q, v)) v->at++;
        if (v->at < v->rows || (v->asked == v->count && !v->more)) return TD_OK;
        TD_TRY(v->asked < v->count ? next_chunk(q, number) : next_page(q, number));
    }
}

/* The first pages, of all servers at once. */
static td_status begin(query *q, uint64_t first)
{
    td_status status = TD_OK, one;
    char sentence[512] = "";
    int asked = 0;
    for (; asked < q->s->server_count && status == TD_OK; asked++) {
        q->of[asked].next = first;
        status = ask_for_keys(q, asked);
    }
    if (status != TD_OK) strncpy(sentence, td_last_error(), sizeof sentence - 1);
    for (int k = 0; k < asked; k++) {
        if (!q->of[k].ticket) continue;
        one = take_keys(q, k);
        if (one == TD_OK || status != TD_OK) continue;
        status = one;
        strncpy(sentence, td_last_error(), sizeof sentence - 1);
    }
    return status == TD_OK ? TD_OK : td_fail_again(status, sentence);
}

static uint64_t key_of(const server *v)
{
    return v->keys[v->asked - v->rows + v->at];
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
        server *v = &q->of[lowest];
        TD_TRY(each(arg, key_of(v), (const float *)(const void *)(v->chunk + v->at * q->item)));
        v->at++;
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
