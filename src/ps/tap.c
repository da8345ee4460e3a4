/* A table's keys while it goes on, and what there is of some of them: see table.h. */
#include "ps/table_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

struct td_table_tap {
    td_table *table;
    td_cold_view *view; /* NULL: nothing was cold */
    td_cold_cursor cursor;
    bool listed; /* the keys that were in memory at the beginning */
    float *row;
};

/* --- beginning and end --- */

static td_status view_cold(td_table_tap *tap)
{
    const td_table *t = tap->table;
    size_t bytes = td_table_row_floats(t) * sizeof(float);
    if (!t->tier.rows) return TD_OK;
    tap->row = td_malloc(bytes);
    if (!tap->row) return td_fail(TD_ERR_NOMEM, "no memory for a row of %zu bytes", bytes);
    TD_TRY(td_cold_look(t->tier.cold, &tap->view));
    return td_cold_view_seek(tap->view, 0, &tap->cursor);
}

td_status td_table_tap_begin(td_table *t, td_table_tap **out)
{
    td_table_tap *tap = td_calloc(1, sizeof *tap);
    if (!tap) return td_fail(TD_ERR_NOMEM, "no memory to list a table's keys");
    tap->table = t;
    td_status status = view_cold(tap);
    if (status != TD_OK) {
        td_table_tap_end(tap);
        return status;
    }
    t->notes = (td_table_notes){.on = true};
    *out = tap;
    return TD_OK;
}

void td_table_tap_end(td_table_tap *tap)
{
    if (!tap) return;
    td_cold_leave(&tap->cursor);
    td_cold_view_free(tap->view);
    td_free(tap->table->notes.keys);
    tap->table->notes = (td_table_notes){0};
    td_free(tap->row);
    td_free(tap);
}

/* --- keys --- */

void td_table_note(td_table *t, uint64_t key)
{
    td_table_notes *n = &t->notes;
    if (n->count == n->room) {
        size_t room = n->room ? 2 * n->room : 1024;
        uint64_t *keys = n->lost ? NULL : td_reallocarray(n->keys, room, sizeof *keys);
        n->lost = !keys;
        if (n->lost) return;
        n->keys = keys, n->room = room;
    }
    n->keys[n->count++] = key;
}

static td_status list_all(const td_table *t, td_table_key_fn *each, void *arg)
{
    for (int k = 0; k < TD_TABLE_PARTS; k++) {
        const td_part *p = &t->parts[k];
        for (size_t at = 0; at <= p->mask; at++)
            if (p->entries[at].row != TD_TABLE_NONE) TD_TRY(each(arg, p->entries[at].key));
    }
    return TD_OK;
}

td_status td_table_tap_keys(td_table_tap *tap, td_table_key_fn *each, void *arg)
{
    td_table_notes *n = &tap->table->notes;
    if (!tap->listed) TD_TRY(list_all(tap->table, each, arg));
    tap->listed = true;
    if (n->lost) return td_fail(TD_ERR_NOMEM, "no memory to list a table's keys");
    for (size_t k = 0; k < n->count; k++) TD_TRY(each(arg, n->keys[k]));
    n->count = 0;
    return TD_OK;
}

td_status td_table_tap_cold(td_table_tap *tap, td_table_each_key_fn *each, void *arg, bool *more)
{
    enum { AT_ONCE = 256 };
    td_cold_cursor *c = &tap->cursor;
    for (int k = 0; k < AT_ONCE && c->there; k++) {
        memcpy(tap->row, c->row, td_table_row_floats(tap->table) * sizeof(float));
        TD_TRY(each(arg, c->key, (td_table_mark){.used = c->used}, tap->row));
        TD_TRY(td_cold_next(c));
    }
    *more = c->there;
    return TD_OK;
}

/* --- what there is of them --- */

typedef struct looking {
    td_table_each_key_fn *each;
    void *arg;
    const uint64_t *keys; /* those that have no entry */
    float *row;
    size_t bytes;
} looking;

static td_status give_cold(void *arg, size_t i, uint32_t used, const void *row)
{
    const looking *l = arg;
    memcpy(l->row, row, l->bytes); /* which may lie anywhere */
    return l->each(l->arg, l->keys[i], (td_table_mark){.used = used}, l->row);
}

static td_status give_hot(const td_table *t, const uint64_t *keys, size_t count, looking *l,
                          uint64_t *rest, size_t *left)
{
    for (size_t i = 0; i < count; i++) {
        if (i + TD_TABLE_AHEAD < count)
            td_table_prefetch(t, td_table_mixed(keys[i + TD_TABLE_AHEAD]));
        const td_entry *e = td_table_probe(t, keys[i], td_table_mixed(keys[i]));
        if (e->row == TD_TABLE_NONE) {
            rest[(*left)++] = keys[i];
            continue;
        }
        bool has = e->row < TD_TABLE_SIGHTED;
        td_table_mark mark = {e->used, has ? 0 : e->row & ~TD_TABLE_SIGHTED};
        if (has || mark.seen)
            TD_TRY(l->each(l->arg, keys[i], mark, has ? td_table_row(t, e->row) : NULL));
    }
    return TD_OK;
}

td_status td_table_look_up(const td_table *t, const uint64_t *keys, size_t count,
                           td_table_each_key_fn *each, void *arg)
{
    size_t left = 0, bytes = td_table_row_floats(t) * sizeof(float);
    uint64_t *rest = td_reallocarray(NULL, count + 1, sizeof *rest);
    looking l = {.each = each, .arg = arg, .keys = rest, .row = td_malloc(bytes), .bytes = bytes};
    td_status status =
        rest && l.row ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to look %zu keys up", count);
    if (status == TD_OK) status = give_hot(t, keys, count, &l, rest, &left);
    if (status == TD_OK && left && t->tier.rows)
        status = td_cold_get(t->tier.cold, rest, left, give_cold, &l);
    td_free(rest), td_free(l.row);
    return status;
}
