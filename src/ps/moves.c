/* See moves.h. Keys travel as KEY u64 | USED u32 | SEEN u32 | ROW f32 [row floats] (anything where
 * there is no row yet), one behind the other, in no order. */
#include "ps/moves.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "tandem/recover.h"

#include <string.h>

enum { HEAD = sizeof(uint64_t) + sizeof(td_table_mark), PORTION = 16 << 20, AT_ONCE = 512 };

typedef struct amount { /* from a rank to another, in a portion */
    uint64_t bytes;
    uint64_t more; /* there are other portions to come, from that rank */
} amount;

typedef struct move {
    td_comm *comm;
    const td_slices *before, *after;
    td_table *table;
    size_t row_bytes, item;
    int32_t to[TD_SLICES][2]; /* ranks of the group that get this rank's slice, -1: nobody */
    td_table_walk *walk;      /* NULL: this rank has given all */
    char *items;              /* [room] the portion's, and to whom each goes */
    int32_t *goes;
    size_t count, room;
    amount *gives, *takes;    /* [size] */
    size_t *give, *take, *at; /* [size] bytes; at: where the next goes */
    char *out, *in;
    size_t out_room, in_room;
    uint64_t *keys; /* [AT_ONCE] of what is taken, with: */
    td_table_mark *marks;
    float *rows;
    bool has_taken;
} move;

int td_slices_rank(const td_comm *comm, int server)
{
    for (int r = 0; server >= 0 && r < td_comm_size(comm); r++)
        if (td_comm_rank_in_run(comm, r) == server) return r;
    return -1;
}

int td_slices_giver(const td_comm *comm, const td_slices *before, int slice)
{
    int primary = td_slices_rank(comm, before->primary[slice]);
    return primary >= 0 ? primary : td_slices_rank(comm, before->backup[slice]);
}

static void plan(move *m)
{
    for (int k = 0; k < TD_SLICES; k++) {
        const int32_t next[2] = {m->after->primary[k], m->after->backup[k]};
        for (int i = 0; i < 2; i++) {
            bool needs = next[i] >= 0 && !td_slices_has(m->before, k, next[i]);
            bool gives = td_slices_giver(m->comm, m->before, k) == td_comm_rank(m->comm);
            m->to[k][i] = needs && gives ? td_slices_rank(m->comm, next[i]) : -1;
        }
    }
}

/* --- what is given --- */

static td_status make_items(move *m)
{
    size_t room = m->room ? 2 * m->room : PORTION / m->item + 2;
    char *items = td_reallocarray(m->items, room, m->item);
    if (items) m->items = items;
    int32_t *goes = items ? td_reallocarray(m->goes, room, sizeof *goes) : NULL;
    if (!goes) return td_fail(TD_ERR_NOMEM, "no memory to move %zu rows of a table", room);
    m->goes = goes, m->room = room;
    return TD_OK;
}

static td_status pack_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    move *m = arg;
    int slice = td_slice_of(m->before, key);
    for (int i = 0; i < 2; i++) {
        int r = m->to[slice][i];
        if (r < 0) continue;
        if (m->count == m->room) TD_TRY(make_items(m));
        char *to = m->items + m->count * m->item;
        m->goes[m->count++] = r;
        memcpy(to, &key, sizeof key);
        memcpy(to + sizeof key, &mark, sizeof mark);
        if (row) memcpy(to + HEAD, row, m->row_bytes);
        m->gives[r].bytes += m->item;
    }
    return TD_OK;
}

/* The next portion. */
static td_status pack(move *m)
{
    bool more = m->walk != NULL;
    m->count = 0;
    memset(m->gives, 0, (size_t)td_comm_size(m->comm) * sizeof *m->gives);
    while (more && m->count * m->item < PORTION)
        TD_TRY(td_table_walk_on(m->walk, pack_row, m, &more));
    if (!more) td_table_walk_end(m->walk), m->walk = NULL;
    for (int r = 0; r < td_comm_size(m->comm); r++) m->gives[r].more = more;
    return TD_OK;
}

/* --- what is taken --- */

static td_status unpack(move *m, size_t bytes)
{
    size_t floats = m->row_bytes / sizeof(float), n = 0;
    m->has_taken = m->has_taken || bytes;
    for (size_t at = 0; at < bytes; at += m->item) {
        memcpy(&m->keys[n], m->in + at, sizeof *m->keys);
        memcpy(&m->marks[n], m->in + at + sizeof *m->keys, sizeof *m->marks);
        memcpy(m->rows + n++ * floats, m->in + at + HEAD, m->row_bytes);
        if (n < AT_ONCE && at + m->item < bytes) continue;
        TD_TRY(td_table_adopt(m->table, m->keys, m->marks, m->rows, n));
        n = 0;
    }
    return TD_OK;
}

/* --- a portion --- */

static td_status make_room(char **data, size_t *room, size_t bytes)
{
    if (bytes <= *room) return TD_OK;
    td_free(*data);
    *room = 0;
    *data = td_alloc_aligned(bytes);
    if (!*data) return td_fail(TD_ERR_NOMEM, "no memory to move %zu bytes of a table", bytes);
    *room = bytes;
    return TD_OK;
}

/* Items to their ranks' places, and room for what comes. */
static td_status sort_out(move *m, size_t *in)
{
    size_t out = 0;
    *in = 0;
    for (int r = 0; r < td_comm_size(m->comm); r++) {
        m->give[r] = m->gives[r].bytes, m->take[r] = m->takes[r].bytes;
        m->at[r] = out;
        out += m->give[r], *in += m->take[r];
    }
    TD_TRY(make_room(&m->out, &m->out_room, out + 1));
    TD_TRY(make_room(&m->in, &m->in_room, *in + 1));
    for (size_t k = 0; k < m->count; k++) {
        memcpy(m->out + m->at[m->goes[k]], m->items + k * m->item, m->item);
        m->at[m->goes[k]] += m->item;
    }
    return TD_OK;
}

/* *more: some rank has another. */
static td_status move_portion(move *m, bool *more)
{
    size_t in;
    *more = false;
    TD_TRY(td_comm_agree(m->comm, pack(m)));
    TD_TRY(td_comm_alltoall(m->comm, m->gives, sizeof *m->gives, m->takes));
    for (int r = 0; r < td_comm_size(m->comm); r++) *more = *more || m->takes[r].more;
    TD_TRY(td_comm_agree(m->comm, sort_out(m, &in)));
    TD_TRY(td_comm_alltoallv(m->comm, m->out, m->give, m->in, m->take));
    return td_comm_agree(m->comm, unpack(m, in));
}

static td_status begin(move *m)
{
    size_t n = (size_t)td_comm_size(m->comm);
    m->gives = td_calloc(2 * n, sizeof *m->gives);
    m->give = td_calloc(3 * n, sizeof *m->give);
    m->keys = td_calloc(AT_ONCE, sizeof *m->keys);
    m->marks = td_calloc(AT_ONCE, sizeof *m->marks);
    m->rows = td_alloc_aligned(AT_ONCE * m->row_bytes + 1);
    if (!m->gives || !m->give || !m->keys || !m->marks || !m->rows)
        return td_fail(TD_ERR_NOMEM, "no memory to move a table");
    m->takes = m->gives + n, m->take = m->give + n, m->at = m->give + 2 * n;
    plan(m);
    return m->table ? td_table_walk_begin(m->table, &m->walk) : TD_OK;
}

static void end(move *m)
{
    td_table_walk_end(m->walk);
    td_free(m->items), td_free(m->goes), td_free(m->gives), td_free(m->give);
    td_free(m->out), td_free(m->in), td_free(m->keys), td_free(m->marks), td_free(m->rows);
}

td_status td_slices_move(td_comm *comm, const td_slices *before, const td_slices *after,
                         td_table *table)
{
    size_t floats = table ? td_table_row_floats(table) : 0, most = 0;
    move m = {.comm = comm, .before = before, .after = after, .table = table};
    TD_TRY(td_comm_allreduce(comm, &floats, &most, 1, TD_I64, TD_MAX));
    m.row_bytes = most * sizeof(float);
    m.item = m.row_bytes + HEAD;
    td_status status = td_comm_agree(comm, begin(&m));
    for (bool more = true; more && status == TD_OK;) status = move_portion(&m, &more);
    end(&m);
    if (status != TD_OK && m.has_taken) td_slices_drop(comm, before, table);
    return status;
}

typedef struct holder {
    const td_slices *slices;
    int self; /* in the run */
} holder;

static bool is_not_here(void *arg, uint64_t key)
{
    const holder *h = arg;
    return !td_slices_has(h->slices, td_slice_of(h->slices, key), h->self);
}

void td_slices_drop(const td_comm *comm, const td_slices *slices, td_table *table)
{
    holder h = {slices, td_comm_rank_in_run(comm, td_comm_rank(comm))};
    if (table) td_table_drop(table, is_not_here, &h);
}
