/* A table with a memory limit as it once was: its rows in memory are copied to disk, and a view of
 * the cold rows has them all then (RocksDB's snapshot: rows that change behind it are written
 * elsewhere, as everything in a log-structured merge tree). See table.h. */
#include "ps/table_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

struct td_table_version {
    td_cold_view *view;
    float *row; /* [floats], where the walk stands */
    size_t floats;
};

td_status td_table_freeze(td_table *t, td_table_version **out)
{
    if (!t->tier.cold)
        return td_fail(TD_ERR_ARG, "a table without a memory limit is copied, not frozen");
    td_table_version *v = td_calloc(1, sizeof *v);
    float *row = td_calloc(td_table_row_floats(t), sizeof *row);
    td_status status = v && row ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a row");
    if (status == TD_OK) *v = (td_table_version){.row = row, .floats = td_table_row_floats(t)};
    if (status == TD_OK) status = td_tier_copy(t);
    if (status == TD_OK) status = td_cold_look(t->tier.cold, &v->view);
    if (status == TD_OK) {
        *out = v;
        return TD_OK;
    }
    td_free(row), td_free(v);
    return status;
}

td_status td_table_version_each(const td_table_version *v, td_table_each_key_fn *each, void *arg)
{
    td_cold_cursor cursor;
    td_status status = td_cold_view_seek(v->view, 0, &cursor);
    while (status == TD_OK && cursor.there) {
        memcpy(v->row, cursor.row, v->floats * sizeof *v->row);
        status = each(arg, cursor.key, (td_table_mark){.used = cursor.used}, v->row);
        if (status == TD_OK) status = td_cold_next(&cursor);
    }
    td_cold_leave(&cursor);
    return status;
}

void td_table_version_free(td_table_version *v)
{
    if (!v) return;
    td_cold_view_free(v->view);
    td_free(v->row), td_free(v);
}
