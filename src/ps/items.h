/* Keys on their way from one table to another, with their marks and rows:
 *
 *   KEY u64 | USED u32 | SEEN u32 | ROW f32 [row floats] (anything where there is no row yet)
 *
 * one behind the other, in no order. */
#ifndef TD_PS_ITEMS_H
#define TD_PS_ITEMS_H

#include "ps/table.h"

typedef struct td_items {
    char *data; /* [bytes], room for [room]; freed by who has it */
    size_t bytes, room;
} td_items;

static inline size_t td_item_bytes(size_t row_floats)
{
    return sizeof(uint64_t) + sizeof(td_table_mark) + row_floats * sizeof(float);
}

/* row: NULL: none yet. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_items_add(td_items *items, size_t row_floats, uint64_t key,
                                     td_table_mark mark, const float *row);
/* Into the table, instead of what is there of those keys. As td_table_adopt. */
TD_MUST_CHECK td_status td_items_adopt(const char *items, size_t bytes, td_table *table);

#endif
