/* See cold.h: of builds without RocksDB. */
#include "ps/cold.h"

#include "base/error.h"

td_status td_cold_open(const char *folder, size_t row_floats, size_t memory_bytes, td_cold **out)
{
    (void)folder, (void)row_floats, (void)memory_bytes, (void)out;
    return td_fail(TD_ERR_UNSUPPORTED,
                   "a table with a memory limit needs RocksDB, and this build of Tandem has none");
}

void td_cold_close(td_cold *c)
{
    (void)c;
}

static td_status none(void)
{
    return td_fail(TD_ERR_INTERNAL, "cold rows without RocksDB");
}

td_status td_cold_put(td_cold *c, const td_cold_row *rows, size_t count)
{
    (void)c, (void)rows, (void)count;
    return none();
}

td_status td_cold_get(const td_cold *c, const uint64_t *keys, size_t count, td_cold_found_fn *found,
                      void *arg)
{
    (void)c, (void)keys, (void)count, (void)found, (void)arg;
    return none();
}

td_status td_cold_seek(const td_cold *c, uint64_t first, td_cold_cursor *cursor)
{
    (void)c, (void)first, (void)cursor;
    return none();
}

td_status td_cold_next(td_cold_cursor *cursor)
{
    (void)cursor;
    return none();
}

void td_cold_leave(td_cold_cursor *cursor)
{
    (void)cursor;
}

td_status td_cold_look(td_cold *c, td_cold_view **out)
{
    (void)c, (void)out;
    return none();
}

td_status td_cold_view_seek(const td_cold_view *v, uint64_t first, td_cold_cursor *cursor)
{
    (void)v, (void)first, (void)cursor;
    return none();
}

void td_cold_view_free(td_cold_view *v)
{
    (void)v;
}

td_status td_cold_scratch(const td_cold *c, int *out_fd)
{
    (void)c, (void)out_fd;
    return none();
}

td_status td_cold_check_room(const td_cold *c, size_t bytes)
{
    (void)c, (void)bytes;
    return none();
}

size_t td_cold_memory_bytes(const td_cold *c)
{
    (void)c;
    return 0;
}

uint64_t td_cold_disk_bytes(const td_cold *c)
{
    (void)c;
    return 0;
}
