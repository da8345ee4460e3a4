/* Tables as safetensors files, see transfer.h. A row's parts go to as many places of the file at
 * once, each through a buffer: where they lie is known from the number of rows. */
#include "ps/transfer_impl.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "ckpt/json.h"
#include "ckpt/safetensors.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

enum { BUFFER_BYTES = 256 << 10, STREAMS = 2 + TD_TRANSFER_COLUMNS };
static const char MEANING[] = "rows_of"; /* in __metadata__ */

/* --- out --- */

typedef struct stream {
    uint64_t at; /* in the file, of the buffer's first byte */
    size_t used;
    char *bytes; /* [BUFFER_BYTES] */
} stream;

typedef struct writing {
    td_transfer_mine_fn *mine; /* NULL: all rows */
    void *arg;
    const char *meaning; /* or NULL */
    td_columns columns;
    td_writer file;
    stream streams[STREAMS]; /* keys, the columns, and, where asked for, when rows were used */
    bool used;
    char *buffers;
    size_t rows;
} writing;

static td_status flush(writing *w, stream *s)
{
    for (size_t done = 0; done < s->used;) {
        ssize_t n = pwrite(w->file.fd, s->bytes + done, s->used - done, (off_t)(s->at + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return td_fail_errno("cannot write %s", w->file.path);
        done += (size_t)n;
    }
    s->at += s->used, s->used = 0;
    return TD_OK;
}

static td_status append(writing *w, stream *s, const void *bytes, size_t size)
{
    for (const char *from = bytes; size;) {
        size_t part = BUFFER_BYTES - s->used < size ? BUFFER_BYTES - s->used : size;
        memcpy(s->bytes + s->used, from, part);
        s->used += part, from += part, size -= part;
        if (s->used == BUFFER_BYTES) TD_TRY(flush(w, s));
    }
    return TD_OK;
}

static td_status write_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    writing *w = arg;
    size_t width = w->columns.width;
    if (w->mine && !w->mine(w->arg, key)) return TD_OK;
    w->rows++;
    TD_TRY(append(w, &w->streams[0], &key, sizeof key));
    for (size_t k = 0; k < w->columns.count; k++)
        TD_TRY(append(w, &w->streams[1 + k], row + k * width, width * sizeof *row));
    uint64_t used = mark.used;
    return w->used ? append(w, &w->streams[1 + w->columns.count], &used, sizeof used) : TD_OK;
}

/* The header's text, and where each tensor lies behind it. */
static td_status describe(writing *w, size_t rows, char **out)
{
    json_int_t n = (json_int_t)rows, width = (json_int_t)w->columns.width, at = 8 * n;
    json_t *root = json_pack("{s:{s:s, s:s*}, s:{s:s, s:[I], s:[I, I]}}", "__metadata__", "format",
                             "pt", MEANING, w->meaning, "keys", "dtype", "I64", "shape", n,
                             "data_offsets", (json_int_t)0, at);
    bool failed = !root;
    for (size_t k = 0; k < w->columns.count && !failed; k++) {
        w->streams[1 + k].at = (uint64_t)at;
        json_t *tensor = json_pack("{s:s, s:[I, I], s:[I, I]}", "dtype", "F32", "shape", n, width,
                                   "data_offsets", at, at + 4 * n * width);
        failed = json_object_set_new(root, w->columns.name[k], tensor) != 0;
        at += 4 * n * width;
    }
    if (w->used && !failed) {
        w->streams[1 + w->columns.count].at = (uint64_t)at;
        json_t *tensor = json_pack("{s:s, s:[I], s:[I, I]}", "dtype", "I64", "shape", n,
                                   "data_offsets", at, at + 8 * n);
        failed = json_object_set_new(root, "used", tensor) != 0;
    }
    td_status status = td_json_text(failed ? NULL : root, JSON_COMPACT, out);
    json_decref(root);
    return status;
}

static td_status write_header(writing *w, size_t rows)
{
    static const char blanks[8] = "       ";
    char *text = NULL;
    TD_TRY(describe(w, rows, &text));
    uint64_t length = strlen(text), padded = (length + 7) & ~(uint64_t)7;
    td_status status = td_writer_put(&w->file, &padded, sizeof padded);
    if (status == TD_OK) status = td_writer_put(&w->file, text, length);
    if (status == TD_OK) status = td_writer_put(&w->file, blanks, padded - length);
    for (size_t k = 0; k < STREAMS; k++) {
        w->streams[k].at += sizeof padded + padded;
        w->streams[k].bytes = w->buffers + k * BUFFER_BYTES;
    }
    td_free(text);
    return status;
}

static td_status count_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    writing *w = arg;
    (void)mark, (void)row;
    w->rows += w->mine(w->arg, key);
    return TD_OK;
}

static td_status write_rows(writing *w, const td_transfer_rows *rows, const char *path)
{
    td_status status = TD_OK;
    td_columns_of(rows->config, rows->states, &w->columns);
    w->file.fd = -1;
    w->buffers = td_malloc(STREAMS * BUFFER_BYTES);
    if (!w->buffers) return td_fail(TD_ERR_NOMEM, "no memory to write %s", path);
    TD_GOTO(td_writer_open(&w->file, path));
    TD_GOTO(write_header(w, rows->count));
    TD_GOTO(rows->walk(rows->self, write_row, w));
    for (size_t k = 0; k < STREAMS; k++) TD_GOTO(flush(w, &w->streams[k]));
    status = w->rows == rows->count ? td_writer_commit(&w->file)
                                    : td_fail(TD_ERR_INTERNAL, "a table of %zu rows has given %zu",
                                              rows->count, w->rows);
out:
    td_writer_abandon(&w->file);
    td_free(w->buffers);
    return status;
}

static td_status write_file(const td_transfer_rows *rows, const char *path, const char *meaning)
{
    writing w = {.meaning = meaning};
    return write_rows(&w, rows, path);
}

td_status td_transfer_write_some(const td_transfer_rows *rows, const char *path,
                                 td_transfer_mine_fn *mine, void *arg, bool used,
                                 uint64_t *out_hash, uint64_t *out_bytes)
{
    td_mapping map;
    td_transfer_rows counted = *rows;
    writing w = {.mine = mine, .arg = arg, .used = used};
    TD_TRY(rows->walk(rows->self, count_row, &w));
    counted.count = w.rows, w.rows = 0;
    TD_TRY(write_rows(&w, &counted, path));
    TD_TRY(td_map_file(path, &map));
    *out_hash = td_mapping_hash(&map);
    *out_bytes = map.size;
    td_unmap(&map);
    return TD_OK;
}

/* --- in --- */

typedef struct reading {
    td_intake *in;
    td_safetensors *file;
    td_tensor_view keys, column[TD_TRANSFER_COLUMNS];
    size_t columns; /* that the file has */
} reading;

static uint64_t key_at(const reading *r, size_t i)
{
    uint64_t key;
    memcpy(&key, r->keys.bytes + i * sizeof key, sizeof key);
    return key;
}

/* No tensors besides those of the table's rule. */
static td_status check_names(const reading *r)
{
    const td_columns *c = &r->in->columns;
    void *at = NULL;
    for (const char *name; (name = td_safetensors_next(r->file, &at));) {
        bool known = !strcmp(name, "keys") || !strcmp(name, "__metadata__");
        for (size_t k = 0; k < c->count; k++) known |= !strcmp(name, c->name[k]);
        if (!known)
            return td_fail(TD_ERR_DATA, "%s: tensor %s does not belong to a table under %s",
                           r->in->path, name, td_table_config_of(r->in->table)->rule);
    }
    return TD_OK;
}

static td_status find_tensors(reading *r)
{
    const td_columns *c = &r->in->columns;
    TD_TRY(td_safetensors_view(r->file, "keys", &r->keys));
    if (!strcmp(r->keys.type, "F32") || r->keys.rank != 1)
        return td_fail(TD_ERR_DATA, "%s: keys must be I64 or U64, one of each row", r->in->path);
    bool states = c->count > 1 && td_safetensors_has(r->file, c->name[1]);
    r->columns = states ? c->count : 1;
    for (size_t k = 0; k < r->columns; k++) {
        td_tensor_view *v = &r->column[k];
        TD_TRY(td_safetensors_view(r->file, c->name[k], v));
        if (strcmp(v->type, "F32") != 0 || v->rank != 2 || v->shape[0] != r->keys.shape[0])
            return td_fail(TD_ERR_DATA, "%s: tensor %s must be F32, a row for each of %zu keys",
                           r->in->path, c->name[k], r->keys.shape[0]);
        if (v->shape[1] != c->width)
            return td_fail(TD_ERR_DATA, "%s: rows of tensor %s have %zu floats, the table's %zu",
                           r->in->path, c->name[k], v->shape[1], c->width);
    }
    TD_TRY(check_names(r));
    TD_TRY(td_intake_means(r->in, td_safetensors_metadata(r->file, MEANING)));
    return states || c->count == 1 ? TD_OK : td_intake_lacks_states(r->in);
}

static td_status check_order(const reading *r)
{
    for (size_t i = 1; i < r->keys.shape[0]; i++)
        if (key_at(r, i) <= key_at(r, i - 1))
            return td_fail(TD_ERR_DATA,
                           "%s: at byte %llu key %llu comes after %llu; keys must ascend, taken "
                           "without a sign",
                           r->in->path,
                           (unsigned long long)td_safetensors_offset(r->file,
                                                                     r->keys.bytes + 8 * i),
                           (unsigned long long)key_at(r, i), (unsigned long long)key_at(r, i - 1));
    return TD_OK;
}

static td_status take_rows(reading *r)
{
    size_t width = r->in->columns.width, bytes = width * sizeof(float);
    TD_TRY(find_tensors(r));
    TD_TRY(check_order(r));
    for (size_t i = 0; i < r->keys.shape[0]; i++) {
        for (size_t k = 0; k < r->columns; k++)
            memcpy(r->in->row + k * width, r->column[k].bytes + i * bytes, bytes);
        TD_TRY(td_intake_put(r->in, key_at(r, i)));
    }
    return TD_OK;
}

static td_status read_file(td_intake *in)
{
    reading r = {.in = in};
    TD_TRY(td_safetensors_open(in->path, &r.file));
    td_status status = take_rows(&r);
    td_safetensors_close(r.file);
    return status;
}

const td_format td_format_safetensors = {".safetensors", write_file, read_file};
