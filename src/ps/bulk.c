/* See bulk.h. Both ways a rank groups what it has by server, in rank order, tells each how much
 * will come, makes room for all, and only then moves it: so that no rank fails where others wait.
 */
#include "ps/bulk.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "math/tree.h"
#include "ps/unique.h"
#include "ps/fold.h"
#include "ps/moves.h"
#include "ps/step_copies.h"

#include <stdio.h>
#include <string.h>

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

typedef struct arrived { /* at a server: sums of all ranks, one of each key */
    td_unique batch;     /* their keys */
    space sums;
} arrived;

enum { AS_PRIMARY, AS_BACKUP, ROLES };

struct td_bulk {
    td_comm *comm;
    td_bulk_config config;
    td_place place;
    td_table *table;        /* NULL: no server */
    td_step_copies *copies; /* NULL: all slices are where they belong */
    size_t width, row_bytes;
    int leaves, rank, size;
    count *gives, *takes;          /* [size] of this rank, of others */
    size_t *out_bytes, *in_bytes;  /* [size] of an exchange */
    td_unique batch;               /* of this rank */
    space order, owner, at;        /* of the batch's keys by server */
    space begin, samples;          /* of td_unique.place, sorted */
    space heads, sums;             /* this rank's, in the batch's order */
    space out_keys, in_keys, rows; /* of an exchange: rows of this rank, */
    space in_rows;                 /* of others */
    arrived role[ROLES];           /* what waits to be applied */
    bool waits;
    uint64_t made;
    double load[TD_SLICES]; /* an eighth of the rows asked for since the last look */
    uint64_t turn;          /* pulls */
    float *stack;           /* [TD_FOLD_DEPTH][width] */
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

/* What depends on the group. */
static td_status enter(td_bulk *b, td_comm *comm)
{
    size_t n = (size_t)td_comm_size(comm);
    count *gives = td_calloc(2 * n, sizeof *gives);
    size_t *bytes = td_calloc(2 * n, sizeof *bytes);
    if (!gives || !bytes) {
        td_free(gives), td_free(bytes);
        return td_fail(TD_ERR_NOMEM, "no memory for a table");
    }
    td_free(b->gives), td_free(b->out_bytes);
    b->comm = comm;
    b->rank = td_comm_rank(comm), b->size = td_comm_size(comm);
    b->gives = gives, b->takes = gives + n;
    b->out_bytes = bytes, b->in_bytes = bytes + n;
    return TD_OK;
}

static td_status create(const td_bulk_config *config, td_bulk **out)
{
    td_bulk *b = td_calloc(1, sizeof *b);
    if (!b) return td_fail(TD_ERR_NOMEM, "no memory for a table");
    b->config = *config;
    b->config.servers = (td_servers){0}; /* the caller's array may go */
    b->width = config->table.width, b->row_bytes = b->width * sizeof(float);
    b->leaves = config->leaves;
    b->stack = td_alloc_aligned(TD_FOLD_DEPTH * b->row_bytes + 1);
    if (!b->stack) {
        td_bulk_destroy(b);
        return td_fail(TD_ERR_NOMEM, "no memory for a table");
    }
    *out = b;
    return TD_OK;
}

static td_status check_leaves(td_comm *comm, int leaves)
{
    int first = leaves;
    td_status status = TD_OK;
    if (leaves < 1 || leaves > TD_TREE_MAX_LEAVES)
        status = td_fail(TD_ERR_ARG, "leaves must be 1 to %d, not %d", TD_TREE_MAX_LEAVES, leaves);
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(td_comm_broadcast(comm, &first, sizeof first, 0));
    if (first != leaves)
        status = td_fail(TD_ERR_ARG, "rank %d deals %d leaves where rank 0 deals %d",
                         td_comm_rank(comm), leaves, first);
    return td_comm_agree(comm, status);
}

td_status td_bulk_open(td_comm *comm, const td_bulk_config *config, td_bulk **out)
{
    td_bulk *b = NULL;
    TD_TRY(check_leaves(comm, config->leaves));
    td_status status = create(config, &b);
    if (status == TD_OK) status = enter(b, comm);
    status = td_comm_agree(comm, status);
    if (status == TD_OK)
        status = td_servers_open(comm, &config->servers, &config->table, &b->place, &b->table);
    if (status == TD_OK)
        *out = b;
    else
        td_bulk_destroy(b);
    return status;
}

td_status td_bulk_join(const td_bulk_config *config, td_bulk **out)
{
    return create(config, out);
}

void td_bulk_destroy(td_bulk *b)
{
    if (!b) return;
    space *spaces[] = {&b->order, &b->owner,    &b->at,      &b->begin, &b->samples, &b->heads,
                       &b->sums,  &b->out_keys, &b->in_keys, &b->rows,  &b->in_rows};
    for (size_t k = 0; k < sizeof spaces / sizeof *spaces; k++) td_free(spaces[k]->data);
    for (int k = 0; k < ROLES; k++) {
        td_unique_free(&b->role[k].batch);
        td_free(b->role[k].sums.data);
    }
    td_unique_free(&b->batch);
    td_step_copies_close(b->copies);
    td_table_destroy(b->table);
    td_free(b->gives), td_free(b->out_bytes), td_free(b->stack);
    td_free(b);
}

td_table *td_bulk_table(td_bulk *b)
{
    return b->table;
}

const td_place *td_bulk_place(const td_bulk *b)
{
    return &b->place;
}

/* --- order --- */

/* Fills the batch, and orders its keys by their servers' ranks: order[k] is the k-th one's place in
 * the batch, at[place] where it is in the order. b->gives[r].keys: how many are rank r's. */
static td_status group(td_bulk *b, const uint64_t *keys, size_t n)
{
    TD_TRY(td_unique_fill(&b->batch, keys, n));
    TD_TRY(reserve(&b->order, b->batch.count, sizeof(uint32_t)));
    TD_TRY(reserve(&b->at, b->batch.count, sizeof(uint32_t)));
    TD_TRY(reserve(&b->owner, b->batch.count, sizeof(int32_t)));
    uint32_t *order = b->order.data, *at = b->at.data;
    int32_t *owner = b->owner.data;
    for (size_t k = 0; k < b->batch.count; k++) {
        owner[k] = b->place.primary[td_slice_of(&b->place.slices, b->batch.keys[k])];
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
static td_status sort_by_place(td_bulk *b, const td_unique *batch)
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

/* A message of an exchange that failed may still come there, or be fetched, in the midst of a later
 * step: its rooms are never used again. */
static void leave_rooms(td_bulk *b)
{
    space *rooms[] = {&b->out_keys, &b->in_keys, &b->rows, &b->in_rows};
    for (size_t k = 0; k < sizeof rooms / sizeof *rooms; k++) {
        td_free(rooms[k]->data);
        *rooms[k] = (space){0};
    }
}

/* Items of so many bytes, as told; or, back, as they came. */
static td_status exchange(td_bulk *b, size_t bytes, bool back, const void *out, void *in)
{
    const count *give = back ? b->takes : b->gives, *take = back ? b->gives : b->takes;
    for (int r = 0; r < b->size; r++) {
        b->out_bytes[r] = give[r].keys * bytes;
        b->in_bytes[r] = take[r].keys * bytes;
    }
    td_status status = td_comm_alltoallv(b->comm, out, b->out_bytes, in, b->in_bytes);
    if (status != TD_OK) leave_rooms(b);
    return status;
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

/* Another eighth of the keys each time. */
static void count_load(td_bulk *b, const uint64_t *keys, size_t n)
{
    for (size_t i = b->turn++ % 8; i < n; i += 8) b->load[td_slice_of(&b->place.slices, keys[i])]++;
}

/* Where slices are still to be copied: some more. */
static td_status copy_on(td_bulk *b)
{
    bool more = b->copies != NULL;
    if (!more) return TD_OK;
    TD_TRY(td_step_copies_on(b->copies, &b->place, &more));
    if (more) return TD_OK;
    td_step_copies_close(b->copies);
    b->copies = NULL;
    return TD_OK;
}

td_status td_bulk_pull(td_bulk *b, const uint64_t *keys, size_t n, float *out)
{
    TD_TRY(copy_on(b));
    if (b->size == 1) return td_table_read(b->table, keys, n, out);
    forget(b);
    td_status status = group(b, keys, n);
    if (status != TD_OK) forget(b);
    TD_TRY(tell(b));
    TD_TRY(all_well(b, status == TD_OK ? room_to_pull(b) : status));
    uint64_t *ask = b->out_keys.data;
    const uint32_t *order = b->order.data, *at = b->at.data;
    for (size_t k = 0; k < b->batch.count; k++) ask[k] = b->batch.keys[order[k]];
    TD_TRY(exchange(b, sizeof *ask, false, ask, b->in_keys.data));
    size_t asked = sum_of(b, b->takes);
    if (b->table) count_load(b, b->in_keys.data, asked);
    if (b->table) TD_TRY(td_table_read(b->table, b->in_keys.data, asked, b->in_rows.data));
    TD_TRY(exchange(b, b->row_bytes, true, b->in_rows.data, b->rows.data));
    const float *rows = b->rows.data;
    for (size_t i = 0; i < n; i++)
        memcpy(out + i * b->width, rows + at[b->batch.place[i]] * b->width, b->row_bytes);
    return TD_OK;
}

/* --- push: this rank's sums --- */

/* Whether the node that holds both leaves lies in this rank's. */
static bool is_whole(const td_bulk *b, const td_bulk_part *part, uint32_t leaf, uint32_t next)
{
    int level = td_fold_level(leaf, next);
    uint64_t first = (uint64_t)leaf >> level << level, last = first + ((uint64_t)1 << level);
    if (last > (uint64_t)b->leaves) last = (uint64_t)b->leaves;
    return first >= (uint64_t)part->leaf_begin && last <= (uint64_t)part->leaf_end;
}

/* A key's gradients, by node of this rank's leaves; returns how many sums they make. */
static size_t fold_key(const td_bulk *b, const td_bulk_part *p, uint64_t key,
                       const uint32_t *sample, size_t n, head *heads, float *sums)
{
    td_fold f = {.stack = b->stack, .width = b->width};
    size_t made = 0;
    head h = {.key = key};
    for (size_t i = 0; i < n;) {
        uint32_t leaf = p->leaf[sample[i]];
        float *sum = td_fold_next(&f);
        if (f.top == 0) h.leaf = leaf;
        memcpy(sum, p->gradient + sample[i] * b->width, b->row_bytes);
        for (i++; i < n && p->leaf[sample[i]] == leaf; i++)
            td_fold_add(b->width, sum, p->gradient + sample[i] * b->width);
        uint32_t next = i < n ? p->leaf[sample[i]] : leaf;
        bool ends = i == n || !is_whole(b, p, leaf, next);
        td_fold_push(&f, leaf, next, ends);
        if (!ends) continue;
        heads[made] = h;
        memcpy(sums + made++ * b->width, f.stack, b->row_bytes);
        f.top = 0;
    }
    return made;
}

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

/* The part's sums, *made of them, in the order of the batch. */
static td_status fold_part(td_bulk *b, const td_bulk_part *p, size_t *made)
{
    TD_TRY(check_part(b, p));
    TD_TRY(td_unique_fill(&b->batch, p->keys, p->count));
    TD_TRY(sort_by_place(b, &b->batch));
    TD_TRY(reserve(&b->heads, p->count, sizeof(head)));
    TD_TRY(reserve(&b->sums, p->count, b->row_bytes));
    TD_TRY(reserve(&b->out_keys, p->count, sizeof(head)));
    TD_TRY(reserve(&b->rows, p->count, b->row_bytes));
    const uint32_t *begin = b->begin.data, *samples = b->samples.data;
    *made = 0;
    for (size_t k = 0; k < b->batch.count; k++)
        *made += fold_key(b, p, b->batch.keys[k], samples + begin[k], begin[k + 1] - begin[k],
                          (head *)b->heads.data + *made, (float *)b->sums.data + *made * b->width);
    return TD_OK;
}

/* --- push: to the servers --- */

static int32_t server_of(const td_bulk *b, int role, uint64_t key)
{
    int slice = td_slice_of(&b->place.slices, key);
    return role == AS_PRIMARY ? b->place.primary[slice] : b->place.backup[slice];
}

static void count_sums(td_bulk *b, int role, size_t made)
{
    const head *heads = b->heads.data;
    for (size_t i = 0; i < made; i++) {
        int32_t r = server_of(b, role, heads[i].key);
        if (r >= 0) b->gives[r].keys++;
    }
}

/* By rank, in the order that they have. */
static void lay_out(td_bulk *b, int role, size_t made)
{
    const head *heads = b->heads.data;
    const float *sums = b->sums.data;
    head *out = b->out_keys.data;
    float *rows = b->rows.data;
    for (size_t r = 0, next = 0; r < (size_t)b->size; r++) { /* where each begins, for now */
        b->out_bytes[r] = next;
        next += b->gives[r].keys;
    }
    for (size_t i = 0; i < made; i++) {
        int32_t r = server_of(b, role, heads[i].key);
        if (r < 0) continue;
        size_t to = b->out_bytes[r]++;
        out[to] = heads[i];
        memcpy(rows + to * b->width, sums + i * b->width, b->row_bytes);
    }
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

static td_status room_to_push(td_bulk *b, arrived *a)
{
    size_t others = sum_of(b, b->takes);
    TD_TRY(check_parts(b));
    TD_TRY(reserve(&b->in_keys, others, sizeof(head)));
    TD_TRY(reserve(&a->sums, others, b->row_bytes));
    return reserve(&b->in_rows, others, b->row_bytes);
}

/* A server: one sum of each key. Ranks come in order, so a key's leaves ascend. */
static td_status fold_arrived(td_bulk *b, arrived *a)
{
    size_t n = sum_of(b, b->takes);
    const head *heads = b->in_keys.data;
    const float *rows = b->in_rows.data;
    TD_TRY(reserve(&b->out_keys, n, sizeof(uint64_t)));
    uint64_t *keys = b->out_keys.data;
    for (size_t i = 0; i < n; i++) keys[i] = heads[i].key;
    TD_TRY(td_unique_fill(&a->batch, keys, n));
    TD_TRY(sort_by_place(b, &a->batch));
    const uint32_t *begin = b->begin.data, *samples = b->samples.data;
    float *sums = a->sums.data;
    for (size_t p = 0; p < a->batch.count; p++) {
        td_fold f = {.stack = b->stack, .width = b->width};
        for (uint32_t i = begin[p]; i < begin[p + 1]; i++) {
            uint32_t s = samples[i];
            bool last = i + 1 == begin[p + 1];
            memcpy(td_fold_next(&f), rows + s * b->width, b->row_bytes);
            td_fold_push(&f, heads[s].leaf, last ? 0 : heads[samples[i + 1]].leaf, last);
        }
        memcpy(sums + p * b->width, f.stack, b->row_bytes);
    }
    return TD_OK;
}

static td_status offer_as(td_bulk *b, const td_bulk_part *part, int role, size_t made,
                          td_status status)
{
    arrived *a = &b->role[role];
    forget(b);
    if (status == TD_OK) count_sums(b, role, made);
    for (int r = 0; r < b->size && status == TD_OK; r++)
        b->gives[r].leaf_begin = part->leaf_begin, b->gives[r].leaf_end = part->leaf_end;
    TD_TRY(tell(b));
    TD_TRY(all_well(b, status == TD_OK ? room_to_push(b, a) : status));
    lay_out(b, role, made);
    TD_TRY(exchange(b, sizeof(head), false, b->out_keys.data, b->in_keys.data));
    TD_TRY(exchange(b, b->row_bytes, false, b->rows.data, b->in_rows.data));
    return fold_arrived(b, a);
}

/* A rank alone: what arrives is its part as it is, */
static td_status arrive_as_is(td_bulk *b, const td_bulk_part *p)
{
    arrived *a = &b->role[AS_PRIMARY];
    TD_TRY(check_part(b, p));
    TD_TRY(reserve(&a->sums, p->count, b->row_bytes));
    TD_TRY(td_unique_copy(&a->batch, p->keys, p->count));
    if (p->count) memcpy(a->sums.data, p->gradient, p->count * b->row_bytes);
    return TD_OK;
}

/* or its sums, one of each key. */
static void arrive_alone(td_bulk *b)
{
    arrived *a = &b->role[AS_PRIMARY], was = *a;
    *a = (arrived){b->batch, b->sums};
    b->batch = was.batch, b->sums = was.sums;
}

static td_status offer(td_bulk *b, const td_bulk_part *part)
{
    size_t made = 0;
    if (b->size == 1 && part->each_once) return arrive_as_is(b, part);
    td_status status = fold_part(b, part, &made);
    if (status == TD_OK && b->size == 1 && made == b->batch.count) {
        arrive_alone(b);
        return TD_OK;
    }
    status = offer_as(b, part, AS_PRIMARY, made, status);
    /* Another failure than a loss goes along: the others wait for this rank. */
    bool lost = status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
    return b->place.replicas && !lost ? offer_as(b, part, AS_BACKUP, made, status) : status;
}

td_status td_bulk_offer(td_bulk *b, const td_bulk_part *part)
{
    b->waits = false;
    for (int k = 0; k < ROLES; k++) b->role[k].batch.count = 0;
    td_status status = offer(b, part);
    b->waits = status == TD_OK;
    return status;
}

td_status td_bulk_apply(td_bulk *b, td_table_step step)
{
    for (int k = 0; k < ROLES && b->table; k++) {
        const arrived *a = &b->role[k];
        TD_TRY(td_table_push(b->table, a->batch.keys, a->batch.count, a->sums.data, step));
    }
    b->waits = false;
    b->made++;
    return TD_OK;
}

td_status td_bulk_push(td_bulk *b, const td_bulk_part *part, td_table_step step)
{
    td_status status = td_bulk_offer(b, part);
    TD_TRY(all_well(b, status));
    return all_well(b, td_bulk_apply(b, step));
}

/* --- hot servers --- */

td_status td_bulk_balance(td_bulk *b, const td_servers *servers, bool move, td_balanced *out)
{
    while (b->copies) TD_TRY(copy_on(b));
    td_slices after;
    TD_TRY(td_servers_find_hot(b->comm, servers, b->load, &b->place, &after, out));
    if (!move) out->moved = 0;
    if (!out->moved) return TD_OK;
    TD_TRY(td_servers_copy(b->comm, &after, &b->place, b->table));
    return td_servers_settle(b->comm, &after, &b->place, b->table);
}

/* --- in another group --- */

uint64_t td_bulk_made(const td_bulk *b)
{
    return b->made;
}

td_status td_bulk_settle(td_bulk *b, uint64_t made, td_table_step step)
{
    if (b->made < made && b->waits) TD_TRY(td_bulk_apply(b, step));
    b->waits = false;
    return TD_OK;
}

td_status td_bulk_move(td_bulk *b, td_comm *comm, const td_servers *servers, bool joined,
                       uint64_t made, bool *lost)
{
    *lost = false;
    TD_TRY(td_comm_agree(comm, enter(b, comm)));
    if (joined) b->made = made;
    td_route route;
    td_step_copies_close(b->copies);
    b->copies = NULL;
    TD_TRY(td_servers_know(comm, !joined, &b->place, lost));
    TD_TRY(td_servers_move(comm, servers, &b->config.table, &b->place, &b->table, &route, lost));
    TD_TRY(td_servers_settle(comm, &route.first, &b->place, b->table));
    if (!route.copies) return TD_OK;
    return td_step_copies_open(comm, b->table, &b->place, &route, &b->copies);
}
