/* See rows_view.h. */
#include "train/rows_view.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ps/rule.h"
#include "ps/slices.h"

#include <string.h>

/* --- a file --- */

static td_status view_column(const td_safetensors *f, const char *name, size_t rows, size_t width,
                             td_rows_column *out)
{
    td_tensor_view v;
    TD_TRY(td_safetensors_view(f, name, &v));
    if (strcmp(v.type, "F32") != 0 || v.rank != 2 || v.shape[0] != rows || v.shape[1] != width)
        return td_fail(TD_ERR_CORRUPT,
                       "tensor %s of a table has not %zu rows of %zu: it belongs to another model",
                       name, rows, width);
    out->bytes = v.bytes;
    return TD_OK;
}

td_status td_rows_view_numbers(const td_safetensors *f, const char *name, size_t count,
                               td_rows_column *out)
{
    td_tensor_view v;
    TD_TRY(td_safetensors_view(f, name, &v));
    if (!strcmp(v.type, "F32") || v.rank != 1 || v.shape[0] != count)
        return td_fail(TD_ERR_CORRUPT, "tensor %s of a table is not %zu whole numbers", name,
                       count);
    out->bytes = v.bytes;
    return TD_OK;
}

/* A column of a state that is missing reads as 0. */
td_status td_rows_view_table(const td_table_config *config, int which, const td_safetensors *f,
                             td_rows_view *v)
{
    td_tensor_view keys;
    const char *name = which == TD_ROWS_DENSE ? "dense.keys" : "keys";
    *v = (td_rows_view){0};
    if (!td_safetensors_has(f, name)) return TD_OK;
    TD_TRY(td_safetensors_view(f, name, &keys));
    TD_TRY(td_rows_columns_of(config, which, true, &v->c));
    v->rows = keys.shape[0];
    TD_TRY(td_rows_view_numbers(f, name, v->rows, &v->key));
    if (which == TD_ROWS_KEYED && td_safetensors_has(f, "used"))
        TD_TRY(td_rows_view_numbers(f, "used", v->rows, &v->used));
    for (size_t k = 0; k < v->c.count; k++)
        if (k == 0 || td_safetensors_has(f, v->c.name[k]))
            TD_TRY(view_column(f, v->c.name[k], v->rows, v->c.width, &v->column[k]));
    return TD_OK;
}

/* --- all files --- */

enum { STRIDE = 256 };

typedef struct file {
    td_rows_view v;
    uint64_t *fence;              /* [rows / STRIDE + 1] of the keys every STRIDE-th */
    uint8_t holds[TD_SLICES / 8]; /* a bit for each slice that keys of the file fall into */
} file;

struct td_rows_mapped {
    td_bundle bundle;
    td_table_config config;
    size_t floats, rows;
    file *file; /* [count] */
    size_t count;
};

static int slice_of(uint64_t key)
{
    static const td_slices sparse;
    return td_slice_of(&sparse, key);
}

/* One look at all keys. */
static td_status note_keys(file *f)
{
    size_t rows = f->v.rows;
    f->fence = td_calloc(rows / STRIDE + 1, sizeof *f->fence);
    if (!f->fence) return td_fail(TD_ERR_NOMEM, "no memory for the keys of %zu rows", rows);
    for (size_t i = 0; i < rows; i++) {
        uint64_t key = td_rows_number(f->v.key, i);
        int slice = slice_of(key);
        if (i && key <= td_rows_number(f->v.key, i - 1))
            return td_fail(TD_ERR_CORRUPT, "keys of a table do not ascend: %llu is no row's place",
                           (unsigned long long)i);
        if (i % STRIDE == 0) f->fence[i / STRIDE] = key;
        f->holds[slice / 8] |= (uint8_t)(1 << slice % 8);
    }
    return TD_OK;
}

td_status td_rows_map(td_bundle *bundle, const td_table_config *config, td_rows_mapped **out)
{
    td_rows_mapped *m = td_calloc(1, sizeof *m);
    td_rows_columns c;
    td_rule rule;
    td_status status = m ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a model");
    TD_GOTO(status);
    m->config = *config;
    TD_GOTO(td_rule_find(config->rule ? config->rule : "sgd", &rule));
    m->config.rule = td_table_rule_names[rule]; /* was borrowed */
    TD_GOTO(td_rows_columns_of(config, TD_ROWS_KEYED, true, &c));
    m->floats = c.count * c.width;
    m->file = td_calloc(bundle->count + 1, sizeof *m->file);
    if (!m->file) TD_GOTO(td_fail(TD_ERR_NOMEM, "no memory for a model"));
    for (size_t k = 0; k < bundle->count; k++) {
        file *f = &m->file[m->count];
        TD_GOTO(td_rows_view_table(config, TD_ROWS_KEYED, bundle->file[k], &f->v));
        if (!f->v.rows) continue;
        m->count++, m->rows += f->v.rows;
        TD_GOTO(note_keys(f));
    }
    m->bundle = *bundle;
    *bundle = (td_bundle){0};
    *out = m;
    return TD_OK;
out:
    td_rows_unmap(m);
    return status;
}

void td_rows_unmap(td_rows_mapped *m)
{
    if (!m) return;
    for (size_t k = 0; m->file && k < m->count; k++) td_free(m->file[k].fence);
    td_bundle_close(&m->bundle);
    td_free(m->file);
    td_free(m);
}

const td_table_config *td_rows_mapped_config(const td_rows_mapped *m)
{
    return &m->config;
}

size_t td_rows_mapped_count(const td_rows_mapped *m)
{
    return m->rows;
}

td_status td_rows_mapped_copy(const td_rows_mapped *m, td_table *table)
{
    return td_rows_read_all(table, &m->bundle);
}

/* The first of the file's rows whose key is not below. */
static size_t find(const file *f, uint64_t key)
{
    size_t low = 0, high = (f->v.rows - 1) / STRIDE + 1; /* of the fence */
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (f->fence[middle] <= key)
            low = middle + 1;
        else
            high = middle;
    }
    size_t begin = low ? (low - 1) * STRIDE : 0, end = low ? low * STRIDE : 0;
    if (end > f->v.rows) end = f->v.rows;
    while (begin < end) {
        size_t middle = (begin + end) / 2;
        if (td_rows_number(f->v.key, middle) < key)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

static bool has(const file *f, uint64_t key, int slice, size_t *at)
{
    if (!(f->holds[slice / 8] >> slice % 8 & 1)) return false;
    *at = find(f, key);
    return *at < f->v.rows && td_rows_number(f->v.key, *at) == key;
}

void td_rows_mapped_peek(const td_rows_mapped *m, const uint64_t *keys, size_t count, float *out)
{
    size_t width = m->config.width, bytes = width * sizeof *out, at;
    for (size_t i = 0; i < count; i++) {
        int slice = slice_of(keys[i]);
        size_t k = 0;
        while (k < m->count && !has(&m->file[k], keys[i], slice, &at)) k++;
        if (k < m->count)
            memcpy(out + i * width, m->file[k].v.column[0].bytes + at * bytes, bytes);
        else
            memset(out + i * width, 0, bytes);
    }
}

/* A file's rows of the range are [begin, end). */
static void bounds(const file *f, uint64_t first, uint64_t last, size_t *begin, size_t *end)
{
    *begin = find(f, first);
    *end = last == UINT64_MAX ? f->v.rows : find(f, last + 1);
}

size_t td_rows_mapped_between(const td_rows_mapped *m, uint64_t first, uint64_t last)
{
    size_t rows = 0, begin, end;
    for (size_t k = 0; k < m->count && first <= last; k++) {
        bounds(&m->file[k], first, last, &begin, &end);
        rows += end - begin;
    }
    return rows;
}

static td_status give(const td_rows_mapped *m, const file *f, size_t at, float *row,
                      td_table_each_key_fn *each, void *arg)
{
    size_t width = m->config.width, bytes = width * sizeof *row;
    td_table_mark mark = {.used = (uint32_t)td_rows_number(f->v.used, at)};
    for (size_t c = 0; c < f->v.c.count; c++)
        if (f->v.column[c].bytes)
            memcpy(row + c * width, f->v.column[c].bytes + at * bytes, bytes);
        else
            memset(row + c * width, 0, bytes);
    return each(arg, td_rows_number(f->v.key, at), mark, row);
}

/* The lowest row of all files next. */
td_status td_rows_mapped_range(const td_rows_mapped *m, uint64_t first, uint64_t last,
                               td_table_each_key_fn *each, void *arg)
{
    if (first > last || !m->count) return TD_OK;
    size_t *at = td_calloc(2 * m->count, sizeof *at), *end = at + m->count;
    uint64_t *key = td_calloc(m->count, sizeof *key);
    float *row = td_calloc(m->floats, sizeof *row);
    td_status status = TD_OK;
    if (!at || !key || !row) TD_GOTO(td_fail(TD_ERR_NOMEM, "no memory to read rows in order"));
    for (size_t k = 0; k < m->count; k++) {
        bounds(&m->file[k], first, last, &at[k], &end[k]);
        if (at[k] < end[k]) key[k] = td_rows_number(m->file[k].v.key, at[k]);
    }
    for (;;) {
        size_t lowest = m->count;
        for (size_t k = 0; k < m->count; k++)
            if (at[k] < end[k] && (lowest == m->count || key[k] < key[lowest])) lowest = k;
        if (lowest == m->count) break;
        TD_GOTO(give(m, &m->file[lowest], at[lowest], row, each, arg));
        if (++at[lowest] < end[lowest])
            key[lowest] = td_rows_number(m->file[lowest].v.key, at[lowest]);
    }
out:
    td_free(at), td_free(key), td_free(row);
    return status;
}
