/* See moves.h. Keys travel as KEY u64 | USED u32 | SEEN u32 | ROW f32 [row floats] (zeros where
 * there is no row yet), one behind the other, in no order. */
#include "ps/moves.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "tandem/recover.h"

#include <string.h>

enum { HEAD = sizeof(uint64_t) + sizeof(td_table_mark) };

typedef struct move {
    td_comm *comm;
    const td_slices *before, *after;
    td_table *table;
    size_t row_bytes, item;
    int32_t to[TD_SLICES][2]; /* ranks of the group that get this rank's slice, -1: nobody */
    size_t *give, *take, *at; /* [size] bytes; at: where the next goes */
    char *out, *in;
} move;

static int in_group(const td_comm *comm, int world)
{
    for (int r = 0; world >= 0 && r < td_comm_size(comm); r++)
        if (td_comm_rank_in_run(comm, r) == world) return r;
    return -1;
}

int td_slices_giver(const td_comm *comm, const td_slices *before, int slice)
{
    int primary = in_group(comm, before->primary[slice]);
    return primary >= 0 ? primary : in_group(comm, before->backup[slice]);
}

static void plan(move *m)
{
    for (int k = 0; k < TD_SLICES; k++) {
        const int32_t next[2] = {m->after->primary[k], m->after->backup[k]};
        for (int i = 0; i < 2; i++) {
            bool needs = next[i] >= 0 && !td_slices_has(m->before, k, next[i]);
            bool gives = td_slices_giver(m->comm, m->before, k) == td_comm_rank(m->comm);
            m->to[k][i] = needs && gives ? in_group(m->comm, next[i]) : -1;
        }
    }
}

static td_status count_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    move *m = arg;
    (void)mark, (void)row;
    int slice = td_slice_of(m->before, key);
    for (int i = 0; i < 2; i++)
        if (m->to[slice][i] >= 0) m->give[m->to[slice][i]] += m->item;
    return TD_OK;
}

static td_status pack_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    move *m = arg;
    int slice = td_slice_of(m->before, key);
    for (int i = 0; i < 2; i++) {
        int r = m->to[slice][i];
        if (r < 0) continue;
        char *to = m->out + m->at[r];
        memcpy(to, &key, sizeof key);
        memcpy(to + sizeof key, &mark, sizeof mark);
        if (row)
            memcpy(to + HEAD, row, m->row_bytes);
        else
            memset(to + HEAD, 0, m->row_bytes);
        m->at[r] += m->item;
    }
    return TD_OK;
}

static size_t sum_of(const move *m, const size_t *bytes)
{
    size_t sum = 0;
    for (int r = 0; r < td_comm_size(m->comm); r++) sum += bytes[r];
    return sum;
}

static td_status unpack(move *m)
{
    size_t n = sum_of(m, m->take);
    for (size_t at = 0; at < n; at += m->item) {
        uint64_t key;
        td_table_mark mark;
        memcpy(&key, m->in + at, sizeof key);
        memcpy(&mark, m->in + at + sizeof key, sizeof mark);
        memcpy(m->out, m->in + at + HEAD, m->row_bytes); /* aligned */
        const float *row = (const float *)(const void *)m->out;
        TD_TRY(td_table_put_key(m->table, key, mark, mark.seen ? NULL : row));
    }
    return TD_OK;
}

static td_status exchange(move *m)
{
    td_status status = TD_OK;
    if (m->table) status = td_table_each_key(m->table, count_row, m);
    TD_TRY(td_comm_agree(m->comm, status));
    TD_TRY(td_comm_alltoall(m->comm, m->give, sizeof *m->give, m->take));
    size_t out = sum_of(m, m->give), in = sum_of(m, m->take);
    m->out = td_alloc_aligned(out > m->item ? out : m->item);
    m->in = td_alloc_aligned(in + 1);
    for (int r = 0, end = td_comm_size(m->comm); r + 1 < end; r++)
        m->at[r + 1] = m->at[r] + m->give[r];
    if (!m->out || !m->in)
        status = td_fail(TD_ERR_NOMEM, "no memory to move %zu bytes of a table", out + in);
    else if (m->table)
        status = td_table_each_key(m->table, pack_row, m);
    TD_TRY(td_comm_agree(m->comm, status));
    TD_TRY(td_comm_alltoallv(m->comm, m->out, m->give, m->in, m->take));
    return td_comm_agree(m->comm, m->table ? unpack(m) : TD_OK);
}

td_status td_slices_move(td_comm *comm, const td_slices *before, const td_slices *after,
                         td_table *table)
{
    size_t n = (size_t)td_comm_size(comm), floats = table ? td_table_row_floats(table) : 0,
           most = 0;
    move m = {.comm = comm, .before = before, .after = after, .table = table};
    TD_TRY(td_comm_allreduce(comm, &floats, &most, 1, TD_I64, TD_MAX));
    m.row_bytes = most * sizeof(float);
    m.item = m.row_bytes + HEAD;
    m.give = td_calloc(3 * n, sizeof *m.give);
    m.take = m.give ? m.give + n : NULL, m.at = m.give ? m.give + 2 * n : NULL;
    td_status status = m.give ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to move a table");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) {
        plan(&m);
        status = exchange(&m);
    }
    td_free(m.out), td_free(m.in);
    td_free(m.give);
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
