/* See giver.h. */
#include "ps/giver.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdlib.h>

typedef struct list { /* keys of a slice, in any order, which may repeat */
    uint64_t *keys;
    size_t count, room;
} list;

struct td_giver {
    td_table *table;
    td_slices slices;
    int32_t to[TD_SLICES];
    td_table_tap *tap;
    list of[TD_SLICES];
    size_t floats;
    int next;
    td_items *out; /* of the call under way */
};

static td_status add_key(void *arg, uint64_t key)
{
    td_giver *g = arg;
    int slice = td_slice_of(&g->slices, key);
    list *l = &g->of[slice];
    if (g->to[slice] < 0 || slice < g->next) return TD_OK;
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        uint64_t *keys = td_reallocarray(l->keys, room, sizeof *keys);
        if (!keys) return td_fail(TD_ERR_NOMEM, "no memory to list a table's keys");
        l->keys = keys, l->room = room;
    }
    l->keys[l->count++] = key;
    return TD_OK;
}

static td_status add_item(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    td_giver *g = arg;
    int32_t to = g->to[td_slice_of(&g->slices, key)];
    return to < 0 ? TD_OK : td_items_add(&g->out[to], g->floats, key, mark, row);
}

static void go_to_next(td_giver *g)
{
    while (g->next < TD_SLICES && g->to[g->next] < 0) g->next++;
}

td_status td_giver_open(td_table *table, const td_slices *slices, const int32_t to[TD_SLICES],
                        td_giver **out)
{
    td_giver *g = td_calloc(1, sizeof *g);
    if (!g) return td_fail(TD_ERR_NOMEM, "no memory to give slices of a table");
    g->table = table, g->slices = *slices;
    g->floats = td_table_row_floats(table);
    for (int k = 0; k < TD_SLICES; k++) g->to[k] = to[k];
    go_to_next(g);
    td_status status = td_table_tap_begin(table, &g->tap);
    if (status == TD_OK) status = td_table_tap_keys(g->tap, add_key, g);
    if (status == TD_OK)
        *out = g;
    else
        td_giver_close(g);
    return status;
}

td_status td_giver_cold(td_giver *g, td_items *out, bool *more)
{
    g->out = out;
    return td_table_tap_cold(g->tap, add_item, g, more);
}

int td_giver_next(const td_giver *g)
{
    return g->next < TD_SLICES ? g->next : -1;
}

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

td_status td_giver_slice(td_giver *g, td_items *out)
{
    list *l = &g->of[g->next];
    size_t distinct = 0;
    g->out = out;
    TD_TRY(td_table_tap_keys(g->tap, add_key, g));
    if (l->count) qsort(l->keys, l->count, sizeof *l->keys, ascending);
    for (size_t k = 0; k < l->count; k++)
        if (!k || l->keys[k] != l->keys[k - 1]) l->keys[distinct++] = l->keys[k];
    TD_TRY(td_table_look_up(g->table, l->keys, distinct, add_item, g));
    td_free(l->keys);
    *l = (list){0};
    g->next++;
    go_to_next(g);
    return TD_OK;
}

void td_giver_close(td_giver *g)
{
    if (!g) return;
    td_table_tap_end(g->tap);
    for (int k = 0; k < TD_SLICES; k++) td_free(g->of[k].keys);
    td_free(g);
}
