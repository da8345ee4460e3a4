/* See items.h. */
#include "ps/items.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { HEAD = sizeof(uint64_t) + sizeof(td_table_mark), AT_ONCE = 512, LEAST_BYTES = 64 << 10 };

static td_status grow(td_items *s, size_t bytes)
{
    size_t room = s->room ? s->room + s->room / 2 : LEAST_BYTES;
    while (room < bytes) room *= 2;
    char *data = td_realloc(s->data, room);
    if (!data) return td_fail(TD_ERR_NOMEM, "no memory to move %zu bytes of a table", room);
    s->data = data, s->room = room;
    return TD_OK;
}

td_status td_items_add(td_items *s, size_t row_floats, uint64_t key, td_table_mark mark,
                       const float *row)
{
    size_t item = td_item_bytes(row_floats);
    if (s->bytes + item > s->room) TD_TRY(grow(s, s->bytes + item));
    char *to = s->data + s->bytes;
    memcpy(to, &key, sizeof key);
    memcpy(to + sizeof key, &mark, sizeof mark);
    if (row) memcpy(to + HEAD, row, item - HEAD);
    s->bytes += item;
    return TD_OK;
}

/* `most` at once. */
static td_status adopt(const char *items, size_t bytes, td_table *t, size_t most, uint64_t *keys,
                       td_table_mark *marks, float *rows)
{
    size_t floats = td_table_row_floats(t), item = td_item_bytes(floats), n = 0;
    for (size_t at = 0; at < bytes; at += item) {
        memcpy(&keys[n], items + at, sizeof *keys);
        memcpy(&marks[n], items + at + sizeof *keys, sizeof *marks);
        memcpy(rows + n++ * floats, items + at + HEAD, item - HEAD);
        if (n < most && at + item < bytes) continue;
        TD_TRY(td_table_adopt(t, keys, marks, rows, n));
        n = 0;
    }
    return TD_OK;
}

td_status td_items_adopt(const char *items, size_t bytes, td_table *t)
{
    if (!bytes) return TD_OK;
    size_t floats = td_table_row_floats(t), count = bytes / td_item_bytes(floats);
    size_t most = count < AT_ONCE ? count : AT_ONCE;
    uint64_t *keys = td_calloc(most, sizeof *keys);
    td_table_mark *marks = td_calloc(most, sizeof *marks);
    float *rows = td_alloc_aligned(most * floats * sizeof *rows);
    td_status status = keys && marks && rows
                           ? adopt(items, bytes, t, most, keys, marks, rows)
                           : td_fail(TD_ERR_NOMEM, "no memory to take rows of a table in");
    td_free(keys), td_free(marks), td_free(rows);
    return status;
}
