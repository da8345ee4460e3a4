/* Rows that do not fit into memory, on disk: a map from 64-bit keys to rows of floats and the time
 * of their last use. What lies there is scratch of the process that runs: it is emptied when
 * opened, removed when closed, never synced, and no other process may have it open.
 *
 * Underneath is RocksDB, a log-structured merge tree (O'Neil et al., 1996): rows are written in
 * large runs, and a key that is not there costs a look at Bloom filters, not at the disk. Its block
 * cache, filters and buffers stay within memory_bytes, but for some 16 MiB of its own.
 *
 *   key: 8 bytes, highest first, so that keys lie in ascending order
 *   row: used, 4 bytes | floats [row_floats]
 *
 * td_cold_get may be called by several threads at once, and beside cursors; the cursors of a view
 * beside anything; nothing else. */
#ifndef TD_PS_COLD_H
#define TD_PS_COLD_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct td_cold td_cold;

/* Makes the folder. TD_ERR_ARG: another run uses it, or it holds someone's database;
 * TD_ERR_UNSUPPORTED: built without RocksDB, or it is not there; TD_ERR_IO, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_cold_open(const char *folder, size_t row_floats, size_t memory_bytes,
                                     td_cold **out);
void td_cold_close(td_cold *cold); /* NULL is fine */

typedef struct td_cold_row {
    uint64_t key;
    uint32_t used;
    const float *row; /* [row_floats], borrowed; NULL: takes the key's row out */
} td_cold_row;

/* All of the rows or, failing, none. TD_ERR_FULL, TD_ERR_IO, with the folder. */
TD_MUST_CHECK td_status td_cold_put(td_cold *cold, const td_cold_row *rows, size_t count);

/* Calls `found` for those of the keys, which ascend, that there are: `i` is the key's place among
 * them, row is [row_floats] but need not be aligned. Ends with what `found` fails with. TD_ERR_IO,
 * TD_ERR_CORRUPT. */
typedef td_status td_cold_found_fn(void *arg, size_t i, uint32_t used, const void *row);
TD_MUST_CHECK td_status td_cold_get(const td_cold *cold, const uint64_t *keys, size_t count,
                                    td_cold_found_fn *found, void *arg);

/* A walk through the rows in ascending order of keys, as they were at its beginning. */
typedef struct td_cold_cursor {
    const td_cold *cold;
    void *iterator;
    bool there; /* false behind the last */
    uint64_t key;
    uint32_t used;
    const void *row; /* [row_floats], not aligned; until the next step */
} td_cold_cursor;
/* At the first key that is not below `first`. Left with td_cold_leave, whatever it returns. */
TD_MUST_CHECK td_status td_cold_seek(const td_cold *cold, uint64_t first, td_cold_cursor *cursor);
TD_MUST_CHECK td_status td_cold_next(td_cold_cursor *cursor);
void td_cold_leave(td_cold_cursor *cursor); /* a zeroed one is fine */

/* The rows as they are now, for any number of walks while others change. What they were takes disk
 * as long as the view is there; it must be gone before the rows are closed. TD_ERR_NOMEM. */
typedef struct td_cold_view td_cold_view;
TD_MUST_CHECK td_status td_cold_look(td_cold *cold, td_cold_view **out);
/* As td_cold_seek. */
TD_MUST_CHECK td_status td_cold_view_seek(const td_cold_view *view, uint64_t first,
                                          td_cold_cursor *cursor);
void td_cold_view_free(td_cold_view *view); /* NULL is fine */

/* A file without a name beside the rows, to be closed. TD_ERR_IO. */
TD_MUST_CHECK td_status td_cold_scratch(const td_cold *cold, int *out_fd);
/* Whether so many bytes may be written beside the rows, and leave them room to be reorganised.
 * TD_ERR_FULL. */
TD_MUST_CHECK td_status td_cold_check_room(const td_cold *cold, size_t bytes);

size_t td_cold_memory_bytes(const td_cold *cold);
uint64_t td_cold_disk_bytes(const td_cold *cold);

#endif
