/* See bulk.h. Both ways a rank groups what it has by server, in rank order, tells each how much
 * will come, makes room for all, and only then moves it: so that no rank fails where others wait.
 */
#include "ps/bulk.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/tree.h"
#include "ps/batch.h"
#include "tandem/keyed.h"

#include <stdio.h>
#include <string.h>

enum { DEPTH = 33, NEVER = 32 }; /* of the tree over 32-bit leaves; above all of them */

typedef struct space { /* memory that stays, and grows */
    void *data;
    size_t bytes;
} space;

typedef struct head { /* ahead of a sum of gradients */
    uint64_t key;
    uint32_t leaf, unused; /* the first that it holds */
} head;

typedef struct count { /* what a rank tells another ahead of a push or pull */
    uint64_t keys;
    int32_t leaf_begin, leaf_end;
} count;

struct td_bulk {
    td_comm *comm;
    td_table *table; /* NULL: no server */
    size_t width, row_bytes;
    int leaves, rank, size;
    int *server; /* [servers] ranks */
    int servers;
    count *gives, *takes;          /* [size] of this rank, of others */
    size_t *out_bytes, *in_bytes;  /* [size] of an exchange */
    td_batch batch, served;        /* of this rank; of all, at a server */
    space order, owner, at;        /* of the batch's keys by server */
    space begin, samples;          /* of td_batch.place, sorted */
    space out_keys, in_keys, rows; /* of an exchange: rows of this rank, */
    space in_rows, sums;           /* of others; of a server */
    float *stack;                  /* [DEPTH][width] */
};

static td_status reserve(space *s, size_t items, size_t bytes)
{
    size_t needed;
    if (!td_mul(items, bytes, &needed)) needed = SIZE_MAX;
    if (needed <= s->bytes) return TD_OK;
    void *data = needed < SIZE_MAX ? td_alloc_aligned(needed + needed / 4) : NULL;
    if (!data) return td_fail(TD_ERR_NOMEM, "no memory for %zu rows of a batch", items);
    td_free(s->data);
    *s = (space){data, needed + needed / 4};
    return TD_OK;
}

/* A failure of any rank is one of all. */
static td_status all_well(const td_bulk *b, td_status mine)
{
    uint8_t failed = mine != TD_OK, some = 0;
    if (b->size == 1) return mine;
    char sentence[1024];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    TD_TRY(td_comm_allreduce(b->comm, &failed, &some, 1, TD_U8, TD_MAX));
    if (failed) td_fail_again(mine, sentence);
    return some ? td_comm_agree(b->comm, mine) : TD_OK;
}

/* --- beginning and end --- */

static td_status begin(td_bulk *b, const td_bulk_config *c)
{
    size_t n = (size_t)b->size;
    b->servers = c->servers.rank ? c->servers.count : b->size;
    b->server = td_calloc((size_t)b->servers, sizeof *b->server);
    b->gives = td_calloc(2 * n, sizeof *b->gives);
    b->out_bytes = td_calloc(2 * n, sizeof *b->out_bytes);
    b->stack = td_alloc_aligned(DEPTH * b->row_bytes);
    if (!b->server || !b->gives || !b->out_bytes || !b->stack)
        return td_fail(TD_ERR_NOMEM, "no memory for a table");
    b->takes = b->gives + n;
    b->in_bytes = b->out_bytes + n;
    for (int k = 0; k < b->servers; k++) {
        b->server[k] = c->servers.rank ? c->servers.rank[k] : k;
        if (b->server[k] < 0 || b->server[k] >= b->size)
            return td_fail(TD_ERR_ARG, "server %d is not one of the ranks 0..%d", b->server[k],
                           b->size - 1);
        for (int j = 0; j < k; j++)
            if (b->server[j] == b->server[k])
                return td_fail(TD_ERR_ARG, "rank %d is named as a server twice", b->server[k]);
    }
    return TD_OK;
}

static td_status check_config(td_comm *comm, const td_bulk_config *c)
{
    int first = c->leaves;
    td_status status = TD_OK;
    if (c->leaves < 1 || c->leaves > TD_TREE_MAX_LEAVES)
        status =
            td_fail(TD_ERR_ARG, "leaves must be 1 to %d, not %d", TD_TREE_MAX_LEAVES, c->leaves);
    else if (c->servers.rank && (c->servers.count < 1 || c->servers.count > td_comm_size(comm)))
        status = td_fail(TD_ERR_ARG, "servers must be 1 to %d, not %d", td_comm_size(comm),
                         c->servers.count);
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(td_comm_broadcast(comm, &first, sizeof first, 0));
    if (first != c->leaves)
        status = td_fail(TD_ERR_ARG, "rank %d deals %d leaves where rank 0 deals %d",
                         td_comm_rank(comm), c->leaves, first);
    return td_comm_agree(comm, status);
}

td_status td_bulk_open(td_comm *comm, const td_bulk_config *config, td_bulk **out)
{
    TD_TRY(check_config(comm, config));
    td_bulk *b = td_calloc(1, sizeof *b);
    td_status status = b ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a table");
    status = td_comm_agree(comm, status);
    if (status != TD_OK) {
        td_free(b);
        return status;
    }
    b->comm = comm;
    b->rank = td_comm_rank(comm), b->size = td_comm_size(comm);
    b->width = config->table.width, b->row_bytes = b->width * sizeof(float);
    b->leaves = config->leaves;
    status = td_servers_create_table(comm, &config->servers, &config->table, &b->table);
    if (status == TD_OK) status = td_comm_agree(comm, begin(b, config));
    if (status == TD_OK)
        *out = b;
    else
        td_bulk_destroy(b);
    return status;
}

void td_bulk_destroy(td_bulk *b)
{
    if (!b) return;
    space *spaces[] = {&b->order,    &b->owner,   &b->at,   &b->begin,   &b->samples,
                       &b->out_keys, &b->in_keys, &b->rows, &b->in_rows, &b->sums};
    for (size_t k = 0; k < sizeof spaces / sizeof *spaces; k++) td_free(spaces[k]->data);
    td_batch_free(&b->batch), td_batch_free(&b->served);
    td_table_destroy(b->table);
    td_free(b->server), td_free(b->gives), td_free(b->out_bytes), td_free(b->stack);
    td_free(b);
}

td_table *td_bulk_table(td_bulk *b)
{
    return b->table;
}

/* --- order --- */

/* Fills the batch, and orders its keys by their servers' ranks: order[k] is the k-th one's place in
 * the batch, at[place] where it is in the order. b->gives[r].keys: how many are rank r's. */
static td_status group(td_bulk *b, const uint64_t *keys, size_t n)
{
    TD_TRY(td_batch_fill(&b->batch, keys, n));
    TD_TRY(reserve(&b->order, b->batch.count, sizeof(uint32_t)));
    TD_TRY(reserve(&b->at, b->batch.count, sizeof(uint32_t)));
    TD_TRY(reserve(&b->owner, b->batch.count, sizeof(int32_t)));
    uint32_t *order = b->order.data, *at = b->at.data;
    int32_t *owner = b->owner.data;
    for (size_t k = 0; k < b->batch.count; k++) {
        owner[k] = b->server[td_keyed_owner(b->batch.keys[k], b->servers)];
        b->gives[owner[k]].keys++;
    }
    for (size_t r = 0, next = 0; r < (size_t)b->size; r++) { /* where each begins, for now */
        b->out_bytes[r] = next;
        next += b->gives[r].keys;
    }
    for (size_t k = 0; k < b->batch.count; k++) {
        at[k] = (uint32_t)b->out_bytes[owner[k]]++;
        order[at[k]] = (uint32_t)k;
    }
    return TD_OK;
}

/* The samples of each place of a batch, in order: samples[begin[p] .. begin[p + 1]). */
static td_status sort_by_place(td_bulk *b, const td_batch *batch)
{
    TD_TRY(reserve(&b->begin, batch->count + 1, sizeof(uint32_t)));
    TD_TRY(reserve(&b->samples, batch->asked, sizeof(uint32_t)));
    uint32_t *begin = b->begin.data, *samples = b->samples.data;
    memset(begin, 0, (batch->count + 1) * sizeof *begin);
    for (size_t i = 0; i < batch->asked; i++) begin[batch->place[i]]++;
    for (size_t p = 0, next = 0; p <= batch->count; p++) {
        size_t here = p < batch->count ? begin[p] : 0;
        begin[p] = (uint32_t)(next += here); /* its end, for now */
    }
    for (size_t i = batch->asked; i-- > 0;) samples[--begin[batch->place[i]]] = (uint32_t)i;
    return TD_OK;
}

/* --- exchanges --- */

/* Tells all ranks how much comes from this one. */
static td_status tell(td_bulk *b)
{
    return td_comm_alltoall(b->comm, b->gives, sizeof *b->gives, b->takes);
}

static size_t sum_of(const td_bulk *b, const count *counts)
{
    size_t sum = 0;
    for (int r = 0; r < b->size; r++) sum += counts[r].keys;
    return sum;
}

/* Items of so many bytes, as told; or, back, as they came. */
static td_status exchange(td_bulk *b, size_t bytes, bool back, const void *out, void *in)
{
    const count *give = back ? b->takes : b->gives, *take = back ? b->gives : b->takes;
    for (int r = 0; r < b->size; r++) {
        b->out_bytes[r] = give[r].keys * bytes;
        b->in_bytes[r] = take[r].keys * bytes;
    }
    return td_comm_alltoallv(b->comm, out, b->out_bytes, in, b->in_bytes);
}

static void forget(td_bulk *b)
{
    memset(b->gives, 0, 2 * (size_t)b->size * sizeof *b->gives);
}

/* --- pull --- */

static td_status room_to_pull(td_bulk *b)
{
    size_t own = b->batch.count, others = sum_of(b, b->takes);
    TD_TRY(reserve(&b->out_keys, own, sizeof(uint64_t)));
    TD_TRY(reserve(&b->in_keys, others, sizeof(uint64_t)));
    TD_TRY(reserve(&b->rows, own, b->row_bytes));
    return reserve(&b->in_rows, others, b->row_bytes);
}

td_status td_bulk_pull(td_bulk *b, const uint64_t *keys, size_t n, float *out)
{
    forget(b);
    td_status status = group(b, keys, n);
    if (status != TD_OK) forget(b);
    TD_TRY(tell(b));
    TD_TRY(all_well(b, status == TD_OK ? room_to_pull(b) : status));
    uint64_t *ask = b->out_keys.data;
    const uint32_t *order = b->order.data, *at = b->at.data;
    for (size_t k = 0; k < b->batch.count; k++) ask[k] = b->batch.keys[order[k]];
    TD_TRY(exchange(b, sizeof *ask, false, ask, b->in_keys.data));
    if (b->table) td_table_peek(b->table, b->in_keys.data, sum_of(b, b->takes), b->in_rows.data);
    TD_TRY(exchange(b, b->row_bytes, true, b->in_rows.data, b->rows.data));
    const float *rows = b->rows.data;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * b->width, rows + at[b->batch.place[i]] * b->width, b->row_bytes);
    return TD_OK;
}

/* --- sums along the tree --- */

/* Sums that wait on the stack for the one behind them; `above`: the level of the node in which a
 * sum meets the next. Those get smaller upwards: of three leaves no two pairs meet at one level. */
typedef struct fold {
    float *stack; /* [DEPTH][width] */
    size_t width;
    int above[DEPTH], top;
} fold;

/* The level of the smallest node that holds both. */
static int level_of(uint32_t a, uint32_t b)
{
    return 32 - __builtin_clz(a ^ b);
}

static float *next_sum(fold *f)
{
    return f->stack + (size_t)f->top * f->width;
}

static void add(size_t width, float *to, const float *from)
{
    for (size_t i = 0; i < width; i++) to[i] += from[i];
}

/* The sum that next_sum gave is whole, and meets the next one at that level. */
static void push_sum(fold *f, int above)
{
    for (; f->top > 0 && f->above[f->top - 1] < above; f->top--)
        add(f->width, next_sum(f) - f->width, next_sum(f));
    f->above[f->top++] = above;
}

/* Whether the node at that level above the leaf lies in this rank's leaves. */
static bool is_whole(const td_bulk *b, const td_bulk_part *part, uint32_t leaf, int level)
{
    uint64_t first = (uint64_t)leaf >> level << level, last = first + ((uint64_t)1 << level);
    if (last > (uint64_t)b->leaves) last = (uint64_t)b->leaves;
    return first >= (uint64_t)part->leaf_begin && last <= (uint64_t)part->leaf_end;
}

/* A key's gradients, by node of this rank's leaves; returns how many sums they make. */
static size_t fold_key(const td_bulk *b, const td_bulk_part *p, uint64_t key,
                       const uint32_t *sample, size_t n, head *heads, float *sums)
{
    fold f = {.stack = b->stack, .width = b->width};
    size_t made = 0;
    head h = {.key = key};
    for (size_t i = 0; i < n;) {
        uint32_t leaf = p->leaf[sample[i]];
        float *sum = next_sum(&f);
        if (f.top == 0) h.leaf = leaf;
        memcpy(sum, p->gradient + sample[i] * b->width, b->row_bytes);
        for (i++; i < n && p->leaf[sample[i]] == leaf; i++)
            add(b->width, sum, p->gradient + sample[i] * b->width);
        int above = i < n ? level_of(leaf, p->leaf[sample[i]]) : NEVER;
        bool ends = above == NEVER || !is_whole(b, p, leaf, above);
        push_sum(&f, ends ? NEVER : above);
        if (!ends) continue;
        heads[made] = h;
        memcpy(sums + made++ * b->width, f.stack, b->row_bytes);
        f.top = 0;
    }
    return made;
}

/* --- push --- */

static td_status check_part(const td_bulk *b, const td_bulk_part *p)
{
    if (p->leaf_begin < 0 || p->leaf_begin > p->leaf_end || p->leaf_end > b->leaves)
        return td_fail(TD_ERR_ARG, "leaves %d to %d are not among the %d of a batch", p->leaf_begin,
                       p->leaf_end, b->leaves);
    for (size_t i = 0; i < p->count; i++)
        if (p->leaf[i] < (uint32_t)p->leaf_begin || p->leaf[i] >= (uint32_t)p->leaf_end ||
            (i && p->leaf[i] < p->leaf[i - 1]))
            return td_fail(TD_ERR_ARG,
                           "gradient %zu is of leaf %u: leaves must ascend from %d, and be below "
                           "%d",
                           i, p->leaf[i], p->leaf_begin, p->leaf_end);
    return TD_OK;
}

/* The part's sums, by server. */
static td_status fold_part(td_bulk *b, const td_bulk_part *p)
{
    TD_TRY(check_part(b, p));
    TD_TRY(group(b, p->keys, p->count));
    TD_TRY(sort_by_place(b, &b->batch));
    TD_TRY(reserve(&b->out_keys, p->count, sizeof(head)));
    TD_TRY(reserve(&b->rows, p->count, b->row_bytes));
    const uint32_t *order = b->order.data, *begin = b->begin.data, *samples = b->samples.data;
    const int32_t *owner = b->owner.data;
    size_t made = 0;
    for (int r = 0; r < b->size; r++) b->gives[r].keys = 0;
    for (size_t k = 0; k < b->batch.count; k++) {
        uint32_t place = order[k];
        size_t sums = fold_key(b, p, b->batch.keys[place], samples + begin[place],
                               begin[place + 1] - begin[place], (head *)b->out_keys.data + made,
                               (float *)b->rows.data + made * b->width);
        b->gives[owner[place]].keys += sums;
        made += sums;
    }
    return TD_OK;
}

/* All ranks see all parts' leaves, so all fail alike. */
static td_status check_parts(const td_bulk *b)
{
    for (int r = 0, end = 0, last = -1; r < b->size; r++) {
        const count *t = &b->takes[r];
        if (t->leaf_begin == t->leaf_end) continue;
        if (t->leaf_begin < end)
            return td_fail(TD_ERR_ARG,
                           "rank %d has leaf %d, which does not lie behind those of rank %d", r,
                           t->leaf_begin, last);
        end = t->leaf_end, last = r;
    }
    return TD_OK;
}

/* What servers need has room before anything moves. */
static td_status room_to_push(td_bulk *b)
{
    size_t others = sum_of(b, b->takes);
    TD_TRY(check_parts(b));
    TD_TRY(reserve(&b->in_keys, others, sizeof(head)));
    return reserve(&b->in_rows, others, b->row_bytes);
}

/* A server: sums of all ranks, one of each key, and the rows moved by them. Ranks come in order, so
 * a key's leaves ascend. */
static td_status move_rows(td_bulk *b, td_table_step step)
{
    size_t n = sum_of(b, b->takes);
    const head *heads = b->in_keys.data;
    const float *rows = b->in_rows.data;
    TD_TRY(reserve(&b->out_keys, n, sizeof(uint64_t)));
    uint64_t *keys = b->out_keys.data;
    for (size_t i = 0; i < n; i++) keys[i] = heads[i].key;
    TD_TRY(td_batch_fill(&b->served, keys, n));
    TD_TRY(sort_by_place(b, &b->served));
    TD_TRY(reserve(&b->sums, b->served.count, b->row_bytes));
    const uint32_t *begin = b->begin.data, *samples = b->samples.data;
    float *sums = b->sums.data;
    for (size_t p = 0; p < b->served.count; p++) {
        fold f = {.stack = b->stack, .width = b->width};
        for (uint32_t i = begin[p]; i < begin[p + 1]; i++) {
            uint32_t s = samples[i];
            memcpy(next_sum(&f), rows + s * b->width, b->row_bytes);
            push_sum(&f, i + 1 < begin[p + 1] ? level_of(heads[s].leaf, heads[samples[i + 1]].leaf)
                                              : NEVER);
        }
        memcpy(sums + p * b->width, f.stack, b->row_bytes);
    }
    return td_table_push(b->table, b->served.keys, b->served.count, sums, step);
}

td_status td_bulk_push(td_bulk *b, const td_bulk_part *part, td_table_step step)
{
    forget(b);
    td_status status = fold_part(b, part);
    if (status != TD_OK) forget(b);
    for (int r = 0; r < b->size && status == TD_OK; r++)
        b->gives[r].leaf_begin = part->leaf_begin, b->gives[r].leaf_end = part->leaf_end;
    TD_TRY(tell(b));
    TD_TRY(all_well(b, status == TD_OK ? room_to_push(b) : status));
    TD_TRY(exchange(b, sizeof(head), false, b->out_keys.data, b->in_keys.data));
    TD_TRY(exchange(b, b->row_bytes, false, b->rows.data, b->in_rows.data));
    return all_well(b, b->table ? move_rows(b, step) : TD_OK);
}
