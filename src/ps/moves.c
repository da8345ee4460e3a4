/* See moves.h. */
#include "ps/moves.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "ps/items.h"
#include "tandem/recover.h"

#include <string.h>

enum { PORTION = 16 << 20 };

typedef struct amount { /* from a rank to another, in a portion */
    uint64_t bytes;
    uint64_t more; /* there are other portions to come, from that rank */
} amount;

/* An exchange of items of all with all. */
struct td_moves {
    td_comm *comm;
    td_table *table;
    size_t floats;        /* of a row */
    td_items *gives;      /* [size] the portion's */
    amount *tells, *told; /* [size] */
    size_t *give, *take;  /* [size] bytes */
    char *out, *in;
    size_t out_room, in_room;
    bool has_taken;
};

typedef struct move {
    td_moves *moves;
    const td_slices *before, *after;
    int32_t to[TD_SLICES][2]; /* ranks of the group that get this rank's slice, -1: nobody */
    bool gives;
    td_table_walk *walk; /* NULL: this rank has given all */
    size_t bytes;        /* of the portion */
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

/* --- a portion --- */

td_status td_moves_open(td_comm *comm, td_table *table, td_moves **out)
{
    size_t n = (size_t)td_comm_size(comm), floats = table ? td_table_row_floats(table) : 0;
    td_moves *m = td_calloc(1, sizeof *m);
    *out = m;
    if (!m) return td_fail(TD_ERR_NOMEM, "no memory to move a table");
    m->comm = comm, m->table = table, m->floats = floats;
    m->gives = td_calloc(n, sizeof *m->gives);
    m->tells = td_calloc(2 * n, sizeof *m->tells);
    m->give = td_calloc(2 * n, sizeof *m->give);
    if (!m->gives || !m->tells || !m->give)
        return td_fail(TD_ERR_NOMEM, "no memory to move a table");
    m->told = m->tells + n, m->take = m->give + n;
    return TD_OK;
}

void td_moves_close(td_moves *m)
{
    if (!m) return;
    for (int r = 0; m->gives && r < td_comm_size(m->comm); r++) td_free(m->gives[r].data);
    td_free(m->gives), td_free(m->tells), td_free(m->give), td_free(m->out), td_free(m->in);
    td_free(m);
}

td_items *td_moves_items(td_moves *m)
{
    return m->gives;
}

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

/* One rank's items behind the other's, and room for what comes. */
static td_status lay_out(td_moves *m, size_t *in)
{
    size_t out = 0, at = 0;
    *in = 0;
    for (int r = 0; r < td_comm_size(m->comm); r++) {
        m->give[r] = m->gives[r].bytes, m->take[r] = m->told[r].bytes;
        out += m->give[r], *in += m->take[r];
    }
    TD_TRY(make_room(&m->out, &m->out_room, out + 1));
    TD_TRY(make_room(&m->in, &m->in_room, *in + 1));
    for (int r = 0; r < td_comm_size(m->comm); r++) {
        if (m->give[r]) memcpy(m->out + at, m->gives[r].data, m->give[r]);
        at += m->give[r];
        m->gives[r].bytes = 0;
    }
    return TD_OK;
}

td_status td_moves_exchange(td_moves *m, td_status mine, bool more_here, bool *more)
{
    size_t in;
    *more = false;
    for (int r = 0; r < td_comm_size(m->comm); r++)
        m->tells[r] = (amount){m->gives[r].bytes, more_here};
    TD_TRY(td_comm_agree(m->comm, mine));
    TD_TRY(td_comm_alltoall(m->comm, m->tells, sizeof *m->tells, m->told));
    for (int r = 0; r < td_comm_size(m->comm); r++) *more = *more || m->told[r].more;
    TD_TRY(td_comm_agree(m->comm, lay_out(m, &in)));
    TD_TRY(td_comm_alltoallv(m->comm, m->out, m->give, m->in, m->take));
    m->has_taken = m->has_taken || in;
    return td_comm_agree(m->comm, in ? td_items_adopt(m->in, in, m->table) : TD_OK);
}

/* --- whole slices --- */

static void plan(move *m)
{
    const td_comm *comm = m->moves->comm;
    for (int k = 0; k < TD_SLICES; k++) {
        const int32_t next[2] = {m->after->primary[k], m->after->backup[k]};
        for (int i = 0; i < 2; i++) {
            bool needs = next[i] >= 0 && !td_slices_has(m->before, k, next[i]);
            bool gives = td_slices_giver(comm, m->before, k) == td_comm_rank(comm);
            m->to[k][i] = needs && gives ? td_slices_rank(comm, next[i]) : -1;
            m->gives = m->gives || m->to[k][i] >= 0;
        }
    }
}

static td_status pack_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    move *m = arg;
    int slice = td_slice_of(m->before, key);
    for (int i = 0; i < 2; i++) {
        int r = m->to[slice][i];
        if (r < 0) continue;
        TD_TRY(td_items_add(&m->moves->gives[r], m->moves->floats, key, mark, row));
        m->bytes += td_item_bytes(m->moves->floats);
    }
    return TD_OK;
}

/* The next portion. */
static td_status pack(move *m)
{
    bool more = m->walk != NULL;
    m->bytes = 0;
    while (more && m->bytes < PORTION) TD_TRY(td_table_walk_on(m->walk, pack_row, m, &more));
    if (!more) td_table_walk_end(m->walk), m->walk = NULL;
    return TD_OK;
}

static td_status begin(td_comm *comm, move *m, td_table *table)
{
    TD_TRY(td_moves_open(comm, table, &m->moves));
    plan(m);
    return table && m->gives ? td_table_walk_begin(table, &m->walk) : TD_OK;
}

td_status td_slices_move(td_comm *comm, const td_slices *before, const td_slices *after,
                         td_table *table)
{
    move m = {.before = before, .after = after};
    td_status status = td_comm_agree(comm, begin(comm, &m, table));
    for (bool more = true; more && status == TD_OK;) {
        td_status packed = pack(&m);
        status = td_moves_exchange(m.moves, packed, m.walk != NULL, &more);
    }
    if (status != TD_OK && m.moves && m.moves->has_taken) td_slices_drop(comm, before, table);
    td_table_walk_end(m.walk);
    td_moves_close(m.moves);
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
