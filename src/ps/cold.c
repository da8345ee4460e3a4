/* See cold.h. */
#include "ps/cold.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/log.h"
#include "ps/rocks.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { BATCH = 128, LOOKAHEAD_BYTES = 2 << 20 };
/* The log's own failure on a full disk would end the process. */
enum { LOGS_NOTHING = 5 };                       /* but headers, of which there are none */
static const char marker[] = "tandem-cold-rows"; /* a file that says whose the folder is */

struct td_cold {
    const td_rocks *rocks;
    char *folder;
    size_t row_floats;
    size_t spare_bytes, file_bytes; /* that must be free on the disk; of a file, at most */
    rocksdb_t *db;
    rocksdb_column_family_handle_t *family;
    rocksdb_options_t *options;
    rocksdb_cache_t *cache;
    rocksdb_readoptions_t *get, *scan;
    rocksdb_writeoptions_t *put;
    rocksdb_writebatch_t *batch;
};

typedef struct written_key {
    char bytes[8];
} written_key;

static written_key write_key(uint64_t key)
{
    written_key out;
    key = __builtin_bswap64(key);
    memcpy(out.bytes, &key, sizeof key);
    return out;
}

static uint64_t read_key(const char *bytes)
{
    uint64_t key;
    memcpy(&key, bytes, sizeof key);
    return __builtin_bswap64(key);
}

static size_t value_bytes(const td_cold *c)
{
    return sizeof(uint32_t) + c->row_floats * sizeof(float);
}

/* --- beginning and end --- */

static size_t within(size_t least, size_t bytes, size_t most)
{
    return bytes < least ? least : bytes > most ? most : bytes;
}

/* Half of the memory caches blocks, among them filters and indices, which are cut into parts so
 * that they need not all be there; a quarter is two buffers of rows that are being written. The
 * rest is left to compaction. */
static void set_options(td_cold *c, size_t memory_bytes)
{
    size_t buffer = within(64 << 10, memory_bytes / 8, 64 << 20);
    rocksdb_options_t *o = c->options;
    c->spare_bytes = 16 * buffer;
    c->file_bytes = 2 * within(2 << 20, buffer, 64 << 20);
    rocksdb_block_based_table_options_t *table = c->rocks->block_based_options_create();
    c->cache = c->rocks->cache_create_lru(memory_bytes / 2);
    c->rocks->block_based_options_set_block_cache(table, c->cache);
    c->rocks->block_based_options_set_filter_policy(table,
                                                    c->rocks->filterpolicy_create_bloom_full(10));
    c->rocks->block_based_options_set_index_type(
        table, rocksdb_block_based_table_index_type_two_level_index_search);
    c->rocks->block_based_options_set_partition_filters(table, 1);
    c->rocks->block_based_options_set_cache_index_and_filter_blocks(table, 1);
    c->rocks->block_based_options_set_cache_index_and_filter_blocks_with_high_priority(table, 1);
    c->rocks->block_based_options_set_pin_l0_filter_and_index_blocks_in_cache(table, 1);
    c->rocks->block_based_options_set_pin_top_level_index_and_filter(table, 1);
    c->rocks->block_based_options_set_format_version(table, 5);
    c->rocks->options_set_block_based_table_factory(o, table);
    c->rocks->block_based_options_destroy(table);
    c->rocks->options_set_create_if_missing(o, 1);
    c->rocks->options_set_compression(o, rocksdb_no_compression); /* floats hardly shrink */
    c->rocks->options_set_write_buffer_size(o, buffer);
    c->rocks->options_set_max_write_buffer_number(o, 2);
    c->rocks->options_set_memtable_whole_key_filtering(o, 1);
    c->rocks->options_set_memtable_prefix_bloom_size_ratio(o, 0.05);
    c->rocks->options_set_max_bytes_for_level_base(o, 8 * buffer);
    c->rocks->options_set_level_compaction_dynamic_level_bytes(o, 1);
    c->rocks->options_set_target_file_size_base(o, within(2 << 20, buffer, 64 << 20));
    c->rocks->options_set_max_background_jobs(o, 2);
    c->rocks->options_set_max_open_files(o, 512);
    c->rocks->options_set_info_log_level(o, LOGS_NOTHING);
    c->rocks->options_set_keep_log_file_num(o, 1);
    c->rocks->options_set_stats_dump_period_sec(o, 0);
    c->rocks->options_set_stats_persist_period_sec(o, 0);
    c->rocks->options_set_skip_stats_update_on_db_open(o, 1);
}

static td_status refused(const td_cold *c, const char *what, char *why)
{
    td_status status = strstr(why, "No space left") ? TD_ERR_FULL : TD_ERR_IO;
    if (strstr(why, "While lock file") || strstr(why, "lock hold by current process"))
        status = td_fail(TD_ERR_ARG,
                         "another run keeps its cold rows in %s; give each run a folder of its own",
                         c->folder);
    else
        td_fail(status, "cannot %s cold rows in %s: %s", what, c->folder, why);
    c->rocks->free(why);
    return status;
}

/* Empties the folder, if it is a table's. */
static td_status claim(td_cold *c)
{
    char path[TD_PATH_MAX], *why = NULL;
    TD_TRY(td_path_join(path, c->folder, "CURRENT"));
    bool holds = td_path_exists(path);
    TD_TRY(td_path_join(path, c->folder, marker));
    if (holds && !td_path_exists(path))
        return td_fail(TD_ERR_ARG, "%s holds a database; give cold rows a folder of their own",
                       c->folder);
    if (td_path_is_dir(c->folder)) c->rocks->destroy_db(c->options, c->folder, &why);
    if (why) return refused(c, "remove", why);
    TD_TRY(td_make_dirs(c->folder));
    return td_write_file(path, "", 0);
}

static rocksdb_readoptions_t *scan_options(const td_cold *c)
{
    rocksdb_readoptions_t *o = c->rocks->readoptions_create();
    c->rocks->readoptions_set_fill_cache(o, 0);
    c->rocks->readoptions_set_readahead_size(o, LOOKAHEAD_BYTES);
    return o;
}

static td_status open_folder(td_cold *c, size_t memory_bytes)
{
    static const char *const family = "default";
    char *why = NULL;
    TD_TRY(td_rocks_load(&c->rocks));
    c->options = c->rocks->options_create();
    set_options(c, memory_bytes);
    TD_TRY(claim(c));
    const rocksdb_options_t *options = c->options;
    c->db =
        c->rocks->open_column_families(options, c->folder, 1, &family, &options, &c->family, &why);
    if (why) return refused(c, "open", why);
    c->get = c->rocks->readoptions_create();
    c->scan = scan_options(c);
    c->put = c->rocks->writeoptions_create();
    c->rocks->writeoptions_disable_WAL(c->put, 1);
    c->batch = c->rocks->writebatch_create();
    return TD_OK;
}

td_status td_cold_open(const char *folder, size_t row_floats, size_t memory_bytes, td_cold **out)
{
    td_cold *c = td_calloc(1, sizeof *c);
    char *name = c ? td_strdup(folder) : NULL;
    if (!name) {
        td_free(c);
        return td_fail(TD_ERR_NOMEM, "no memory for cold rows");
    }
    c->folder = name, c->row_floats = row_floats;
    td_status status = open_folder(c, memory_bytes);
    if (status == TD_OK)
        *out = c;
    else
        td_cold_close(c);
    return status;
}

/* What a folder holds besides stays, and the folder with it. */
static void remove_folder(td_cold *c)
{
    char path[TD_PATH_MAX], *why = NULL;
    c->rocks->destroy_db(c->options, c->folder, &why);
    if (why) td_warn("cannot remove cold rows from %s: %s", c->folder, why);
    c->rocks->free(why);
    if (td_path_join(path, c->folder, marker) == TD_OK) unlink(path);
    rmdir(c->folder);
}

void td_cold_close(td_cold *c)
{
    if (!c) return;
    if (c->batch) c->rocks->writebatch_destroy(c->batch);
    if (c->put) c->rocks->writeoptions_destroy(c->put);
    if (c->scan) c->rocks->readoptions_destroy(c->scan);
    if (c->get) c->rocks->readoptions_destroy(c->get);
    if (c->family) c->rocks->column_family_handle_destroy(c->family);
    if (c->db) {
        c->rocks->close(c->db);
        remove_folder(c);
    }
    if (c->options) c->rocks->options_destroy(c->options);
    if (c->cache) c->rocks->cache_destroy(c->cache);
    td_free(c->folder);
    td_free(c);
}

/* --- rows --- */

/* RocksDB may end the process where a disk fills under its own files (7.8 with assertions, as
 * Debian builds it, at the manifest), so a disk that is nearly full is not written to. */
td_status td_cold_check_room(const td_cold *c, size_t bytes)
{
    struct statvfs disk;
    struct rlimit file;
    if (statvfs(c->folder, &disk) == 0 &&
        (uint64_t)disk.f_bavail * disk.f_frsize < c->spare_bytes + bytes)
        return td_fail(TD_ERR_FULL,
                       "cannot write cold rows in %s: No space left on device (%zu MB "
                       "are kept free for reorganising them)",
                       c->folder, c->spare_bytes >> 20);
    if (getrlimit(RLIMIT_FSIZE, &file) == 0 && file.rlim_cur != RLIM_INFINITY &&
        file.rlim_cur < c->file_bytes)
        return td_fail(TD_ERR_FULL,
                       "cannot write cold rows in %s: files may have %llu bytes (ulimit -f), and "
                       "%zu "
                       "are needed",
                       c->folder, (unsigned long long)file.rlim_cur, c->file_bytes);
    return TD_OK;
}

td_status td_cold_put(td_cold *c, const td_cold_row *rows, size_t count)
{
    char *why = NULL;
    TD_TRY(td_cold_check_room(c, 0));
    c->rocks->writebatch_clear(c->batch);
    for (size_t i = 0; i < count; i++) {
        written_key key = write_key(rows[i].key);
        const char *name = key.bytes,
                   *parts[] = {(const char *)&rows[i].used, (const char *)rows[i].row};
        size_t name_bytes = sizeof key;
        const size_t bytes[] = {sizeof rows[i].used, c->row_floats * sizeof(float)};
        if (rows[i].row)
            c->rocks->writebatch_putv(c->batch, 1, &name, &name_bytes, 2, parts, bytes);
        else
            c->rocks->writebatch_delete(c->batch, name, name_bytes);
    }
    c->rocks->write(c->db, c->put, c->batch, &why);
    return why ? refused(c, "write", why) : TD_OK;
}

/* `value` as it was written: its time, and where its floats begin. */
static td_status take_apart(const td_cold *c, const char *value, size_t bytes, uint32_t *used,
                            const void **row)
{
    if (bytes != value_bytes(c))
        return td_fail(TD_ERR_CORRUPT,
                       "the cold rows in %s are damaged: one has %zu bytes, not %zu", c->folder,
                       bytes, value_bytes(c));
    memcpy(used, value, sizeof *used);
    *row = value + sizeof *used;
    return TD_OK;
}

static td_status get_batch(const td_cold *c, const uint64_t *keys, size_t at, size_t count,
                           td_cold_found_fn *found, void *arg)
{
    written_key written[BATCH];
    const char *names[BATCH] = {0};
    size_t name_bytes[BATCH] = {0};
    rocksdb_pinnableslice_t *values[BATCH];
    char *why[BATCH];
    td_status status = TD_OK;
    for (size_t i = 0; i < count; i++) {
        written[i] = write_key(keys[at + i]);
        names[i] = written[i].bytes, name_bytes[i] = sizeof written[i];
    }
    c->rocks->batched_multi_get_cf(c->db, c->get, c->family, count, names, name_bytes, values, why,
                                   true);
    for (size_t i = 0; i < count; i++) {
        size_t bytes;
        uint32_t used = 0;
        const void *row = NULL;
        if (why[i] && status == TD_OK)
            status = refused(c, "read", why[i]);
        else
            c->rocks->free(why[i]);
        if (!values[i]) continue;
        const char *value = c->rocks->pinnableslice_value(values[i], &bytes);
        if (status == TD_OK) status = take_apart(c, value, bytes, &used, &row);
        if (status == TD_OK) status = found(arg, at + i, used, row);
        c->rocks->pinnableslice_destroy(values[i]);
    }
    return status;
}

td_status td_cold_get(const td_cold *c, const uint64_t *keys, size_t count, td_cold_found_fn *found,
                      void *arg)
{
    for (size_t at = 0; at < count; at += BATCH)
        TD_TRY(get_batch(c, keys, at, count - at < BATCH ? count - at : BATCH, found, arg));
    return TD_OK;
}

/* --- walks --- */

static td_status look(td_cold_cursor *cursor)
{
    const td_cold *c = cursor->cold;
    char *why = NULL;
    size_t bytes;
    cursor->there = c->rocks->iter_valid(cursor->iterator);
    if (!cursor->there) {
        c->rocks->iter_get_error(cursor->iterator, &why);
        return why ? refused(c, "read", why) : TD_OK;
    }
    cursor->key = read_key(c->rocks->iter_key(cursor->iterator, &bytes));
    const char *value = c->rocks->iter_value(cursor->iterator, &bytes);
    return take_apart(c, value, bytes, &cursor->used, &cursor->row);
}

static td_status seek(const td_cold *c, const rocksdb_readoptions_t *how, uint64_t first,
                      td_cold_cursor *cursor)
{
    written_key key = write_key(first);
    *cursor = (td_cold_cursor){.cold = c, .iterator = c->rocks->create_iterator(c->db, how)};
    c->rocks->iter_seek(cursor->iterator, key.bytes, sizeof key);
    return look(cursor);
}

td_status td_cold_seek(const td_cold *c, uint64_t first, td_cold_cursor *cursor)
{
    return seek(c, c->scan, first, cursor);
}

td_status td_cold_next(td_cold_cursor *cursor)
{
    cursor->cold->rocks->iter_next(cursor->iterator);
    return look(cursor);
}

void td_cold_leave(td_cold_cursor *cursor)
{
    if (cursor->iterator) cursor->cold->rocks->iter_destroy(cursor->iterator);
    *cursor = (td_cold_cursor){0};
}

struct td_cold_view {
    td_cold *cold;
    const rocksdb_snapshot_t *snapshot;
    rocksdb_readoptions_t *scan;
};

td_status td_cold_look(td_cold *c, td_cold_view **out)
{
    td_cold_view *v = td_calloc(1, sizeof *v);
    if (!v) return td_fail(TD_ERR_NOMEM, "no memory for a view of cold rows");
    *v = (td_cold_view){c, c->rocks->create_snapshot(c->db), scan_options(c)};
    c->rocks->readoptions_set_snapshot(v->scan, v->snapshot);
    *out = v;
    return TD_OK;
}

td_status td_cold_view_seek(const td_cold_view *v, uint64_t first, td_cold_cursor *cursor)
{
    return seek(v->cold, v->scan, first, cursor);
}

void td_cold_view_free(td_cold_view *v)
{
    if (!v) return;
    const td_cold *c = v->cold;
    c->rocks->readoptions_destroy(v->scan);
    c->rocks->release_snapshot(c->db, v->snapshot);
    td_free(v);
}

td_status td_cold_scratch(const td_cold *c, int *out_fd)
{
    char path[TD_PATH_MAX];
    TD_TRY(td_path_join(path, c->folder, "version-XXXXXX"));
    int fd = mkostemp(path, O_CLOEXEC);
    if (fd < 0) return td_fail_errno("cannot make a file in %s", c->folder);
    unlink(path);
    *out_fd = fd;
    return TD_OK;
}

/* --- sizes --- */

static uint64_t property(const td_cold *c, const char *name)
{
    uint64_t value = 0;
    return c->rocks->property_int(c->db, name, &value) == 0 ? value : 0;
}

size_t td_cold_memory_bytes(const td_cold *c)
{
    return c->rocks->cache_get_usage(c->cache) + property(c, "rocksdb.size-all-mem-tables") +
           property(c, "rocksdb.estimate-table-readers-mem");
}

uint64_t td_cold_disk_bytes(const td_cold *c)
{
    return property(c, "rocksdb.total-sst-files-size");
}
