/* Rows of a table in ascending order of their keys, see table.h: the hot ones from the index in
 * passes, each of which takes the lowest that are left through a heap of bounded size; the cold
 * ones, which lie in order, are merged in. A pass reads the whole index: there are at most 16, so
 * that memory stays within a byte per row. */
#include "ps/table_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

enum { PASSES = 16, LEAST_ROOM = 4096 };

typedef struct place {
    uint64_t key;
    uint32_t row, used;
} place;

typedef struct walk {
    const td_table *table;
    uint64_t first, last; /* keys that are to come */
    td_table_each_key_fn *each;
    void *arg;
    place *lowest; /* [room], a heap with the highest key on top while it is filled */
    size_t count, room;
    bool moved;  /* only rows that have, since their copy was written */
    bool more;   /* keys that had no room */
    size_t left; /* rows that may still be given */
    td_cold_cursor cold;
    float *row;
} walk;

static void sift_up(place *heap, size_t at)
{
    for (size_t up; at && heap[up = (at - 1) / 2].key < heap[at].key; at = up) {
        place lower = heap[up];
        heap[up] = heap[at], heap[at] = lower;
    }
}

static void sift_down(place *heap, size_t count)
{
    place moved = heap[0];
    size_t at = 0;
    for (size_t down; (down = 2 * at + 1) < count; at = down) {
        if (down + 1 < count && heap[down + 1].key > heap[down].key) down++;
        if (heap[down].key <= moved.key) break;
        heap[at] = heap[down];
    }
    heap[at] = moved;
}

static void offer(walk *w, place p)
{
    if (w->count < w->room) {
        w->lowest[w->count] = p;
        sift_up(w->lowest, w->count++);
        return;
    }
    w->more = true;
    if (p.key > w->lowest[0].key) return;
    w->lowest[0] = p;
    sift_down(w->lowest, w->count);
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = ((const place *)a)->key, y = ((const place *)b)->key;
    return (x > y) - (x < y);
}

static bool is_wanted(const walk *w, const td_entry *e)
{
    if (e->row >= TD_TABLE_SIGHTED || e->key < w->first || e->key > w->last) return false;
    return !w->moved || w->table->tier.marks[e->row] & TD_ROW_MOVED;
}

static void take_lowest(walk *w)
{
    w->count = 0, w->more = false;
    for (int k = 0; k < TD_TABLE_PARTS; k++) {
        const td_part *p = &w->table->parts[k];
        for (size_t at = 0; at <= p->mask; at++) {
            const td_entry *e = &p->entries[at];
            if (is_wanted(w, e)) offer(w, (place){e->key, e->row, e->used});
        }
    }
    if (w->count) qsort(w->lowest, w->count, sizeof *w->lowest, ascending);
}

static td_status give(walk *w, uint64_t key, uint32_t used, const float *row)
{
    w->left--;
    return w->each(w->arg, key, (td_table_mark){.used = used}, row);
}

static td_status emit_cold(walk *w, uint64_t last)
{
    while (w->left && w->cold.there && w->cold.key <= last) {
        memcpy(w->row, w->cold.row, td_table_row_floats(w->table) * sizeof(float));
        TD_TRY(give(w, w->cold.key, w->cold.used, w->row));
        TD_TRY(td_tier_next(w->table, &w->cold));
    }
    return TD_OK;
}

static td_status go(walk *w)
{
    if (!w->moved) TD_TRY(td_tier_seek(w->table, w->first, &w->cold));
    do {
        take_lowest(w);
        for (size_t i = 0; i < w->count; i++) {
            place p = w->lowest[i];
            TD_TRY(emit_cold(w, p.key));
            if (!w->left) return TD_OK;
            TD_TRY(give(w, p.key, p.used, td_table_row(w->table, p.row)));
            w->first = p.key + 1;
        }
    } while (w->left && w->more);
    return emit_cold(w, w->last);
}

static td_status begin(walk *w)
{
    const td_table *t = w->table;
    w->room = t->rows / PASSES + LEAST_ROOM;
    if (w->room > w->left) w->room = w->left;
    w->lowest = td_reallocarray(NULL, w->room, sizeof *w->lowest);
    w->row = td_reallocarray(NULL, td_table_row_floats(t), sizeof *w->row);
    td_status status = w->lowest && w->row
                           ? go(w)
                           : td_fail(TD_ERR_NOMEM, "no memory to walk through %zu rows", t->rows);
    td_cold_leave(&w->cold);
    td_free(w->lowest), td_free(w->row);
    return status;
}

td_status td_table_range_some(const td_table *t, uint64_t first, uint64_t last, size_t most,
                              td_table_each_key_fn *each, void *arg)
{
    if (first > last || !most) return TD_OK;
    walk w = {.table = t, .first = first, .last = last, .each = each, .arg = arg, .left = most};
    return begin(&w);
}

td_status td_table_each_moved(const td_table *t, td_table_each_key_fn *each, void *arg)
{
    walk w = {.table = t, .last = UINT64_MAX, .each = each, .arg = arg, .left = SIZE_MAX};
    w.moved = true;
    return begin(&w);
}

td_status td_table_range(const td_table *t, uint64_t first, uint64_t last,
                         td_table_each_key_fn *each, void *arg)
{
    return td_table_range_some(t, first, last, SIZE_MAX, each, arg);
}

/* --- rows of keys --- */

typedef struct finding {
    const uint32_t *number; /* [] of keys that have no entry */
    char *out;
    size_t bytes, item;
} finding;

static void put_found(const finding *f, size_t i, const void *row)
{
    const uint32_t there = 1;
    memcpy(f->out + i * f->item, row, f->bytes);
    memcpy(f->out + i * f->item + f->bytes, &there, sizeof there);
}

static td_status take_cold(void *arg, size_t i, uint32_t used, const void *row)
{
    const finding *f = arg;
    (void)used;
    put_found(f, f->number[i], row);
    return TD_OK;
}

td_status td_table_find(const td_table *t, const uint64_t *keys, size_t count, void *out)
{
    finding f = {.out = out, .bytes = t->config.width * sizeof(float)};
    f.item = f.bytes + sizeof(uint32_t);
    bool cold = t->tier.rows > 0;
    uint64_t *absent = cold ? td_reallocarray(NULL, count, sizeof *absent) : NULL;
    uint32_t *number = cold ? td_reallocarray(NULL, count, sizeof *number) : NULL;
    td_status status = TD_OK;
    size_t n = 0;
    if (cold && (!absent || !number))
        TD_GOTO(td_fail(TD_ERR_NOMEM, "no memory for a batch of %zu rows", count));
    memset(out, 0, count * f.item);
    for (size_t i = 0; i < count; i++) {
        if (i + TD_TABLE_AHEAD < count)
            td_table_prefetch(t, td_table_mixed(keys[i + TD_TABLE_AHEAD]));
        const td_entry *e = td_table_probe(t, keys[i], td_table_mixed(keys[i]));
        if (e->row < TD_TABLE_SIGHTED)
            put_found(&f, i, td_table_row(t, e->row));
        else if (e->row == TD_TABLE_NONE && cold)
            absent[n] = keys[i], number[n++] = (uint32_t)i;
    }
    f.number = number;
    if (n) status = td_cold_get(t->tier.cold, absent, n, take_cold, &f);
out:
    td_free(absent), td_free(number);
    return status;
}
