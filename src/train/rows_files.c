/* See rows_files.h. */
#include "train/rows_files.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ps/rule.h"
#include "ps/transfer.h"
#include "tandem/recover.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = 16, NAME = 96, COLUMNS = 4 };
enum { FEW_BYTES = 256 << 20 }; /* of rows: one file */

/* --- columns of a table --- */

typedef struct columns { /* weights, then states */
    char name[COLUMNS][NAME];
    size_t count, width;
} columns;

static td_status columns_of(const td_table_config *config, int which, bool states, columns *out)
{
    td_rule rule;
    const char *prefix = which == TD_ROWS_DENSE ? "dense." : "";
    const char *name = config->rule ? config->rule : "sgd";
    TD_TRY(td_rule_find(name, &rule));
    *out = (columns){.count = 1, .width = config->width};
    snprintf(out->name[0], NAME, "%sweights", prefix);
    for (size_t k = 0; states && k < td_rule_state_count(rule); k++)
        snprintf(out->name[out->count++], NAME, "%s%s.%s", prefix, name, td_rule_states(rule)[k]);
    return TD_OK;
}

/* --- gathering a group of slices at its writer --- */

typedef struct gather {
    td_rows_tables *t;
    int which, groups;
    size_t row_floats, item, keep; /* keep: floats of a row that are written */
    int *writer;                   /* [groups] ranks */
    size_t *give, *take, *at;      /* [size] bytes */
    char *out, *in;
    size_t in_bytes;
} gather;

static int group_of(const gather *g, uint64_t key)
{
    return td_slice_of(&td_rows_place(g->t, g->which)->slices, key) * g->groups / TD_SLICES;
}

static td_status count_row(void *arg, uint64_t key, const float *row)
{
    gather *g = arg;
    (void)row;
    if (td_rows_speaks(g->t, g->which, key)) g->give[g->writer[group_of(g, key)]] += g->item;
    return TD_OK;
}

static td_status pack_row(void *arg, uint64_t key, const float *row)
{
    gather *g = arg;
    if (!td_rows_speaks(g->t, g->which, key)) return TD_OK;
    size_t *at = &g->at[g->writer[group_of(g, key)]];
    memcpy(g->out + *at, &key, sizeof key);
    memcpy(g->out + *at + sizeof key, row, g->keep * sizeof *row);
    *at += g->item;
    return TD_OK;
}

static void gather_free(gather *g)
{
    td_free(g->writer), td_free(g->give), td_free(g->out), td_free(g->in);
    *g = (gather){0};
}

static td_status exchange(gather *g)
{
    td_rows_tables *t = g->t;
    td_table *table = td_rows_table(t, g->which);
    td_status status = table ? td_table_each(table, count_row, g) : TD_OK;
    int size = td_comm_size(t->comm);
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_alltoall(t->comm, g->give, sizeof *g->give, g->take));
    size_t out = 0;
    for (int r = 0; r < size; r++) {
        g->at[r] = out;
        out += g->give[r];
        g->in_bytes += g->take[r];
    }
    g->out = td_alloc_aligned(out + 1);
    g->in = td_alloc_aligned(g->in_bytes + 1);
    if (!g->out || !g->in)
        status = td_fail(TD_ERR_NOMEM, "no memory to save %zu bytes of a table", out + g->in_bytes);
    else if (table)
        status = td_table_each(table, pack_row, g);
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_alltoallv(t->comm, g->out, g->give, g->in, g->take));
    td_free(g->out);
    g->out = NULL;
    return TD_OK;
}

/* Collective. */
static td_status gather_rows(td_rows_tables *t, int which, int groups, size_t keep, gather *g)
{
    size_t n = (size_t)td_comm_size(t->comm);
    *g = (gather){.t = t, .which = which, .groups = groups, .keep = keep};
    g->item = sizeof(uint64_t) + keep * sizeof(float);
    g->writer = td_calloc((size_t)groups, sizeof *g->writer);
    g->give = td_calloc(3 * n, sizeof *g->give);
    td_status status = g->writer && g->give ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to save");
    TD_TRY(td_comm_agree(t->comm, status));
    g->take = g->give + n, g->at = g->give + 2 * n;
    for (int k = 0; k < groups; k++)
        g->writer[k] = td_rows_place(t, which)->primary[(k * TD_SLICES + groups - 1) / groups];
    return exchange(g);
}

/* --- writing --- */

typedef struct place { /* of a row in what has come */
    uint64_t key;
    size_t at;
} place;

static int ascending(const void *a, const void *b)
{
    uint64_t x = ((const place *)a)->key, y = ((const place *)b)->key;
    return (x > y) - (x < y);
}

typedef struct sorted { /* a file's rows */
    uint64_t *keys;
    float *column[COLUMNS]; /* [rows][width] each */
    size_t rows;
} sorted;

static void sorted_free(sorted *s)
{
    td_free(s->keys);
    for (int k = 0; k < COLUMNS; k++) td_free(s->column[k]);
    *s = (sorted){0};
}

static td_status sort_group(const gather *g, int group, const columns *c, sorted *out)
{
    size_t n = 0, all = g->in_bytes / g->item;
    place *order = td_reallocarray(NULL, all + 1, sizeof *order);
    if (!order) return td_fail(TD_ERR_NOMEM, "no memory to save %zu rows", all);
    for (size_t i = 0; i < all; i++) {
        uint64_t key;
        memcpy(&key, g->in + i * g->item, sizeof key);
        if (group_of(g, key) == group) order[n++] = (place){key, i * g->item + sizeof key};
    }
    qsort(order, n, sizeof *order, ascending);
    td_status status = TD_OK;
    out->rows = n;
    out->keys = td_reallocarray(NULL, n + 1, sizeof *out->keys);
    bool made = out->keys != NULL;
    for (size_t k = 0; k < c->count; k++) {
        out->column[k] = td_reallocarray(NULL, n * c->width + 1, sizeof(float));
        made = made && out->column[k];
    }
    if (!made) status = td_fail(TD_ERR_NOMEM, "no memory to save %zu rows", n);
    for (size_t i = 0; i < n && made; i++) {
        out->keys[i] = order[i].key;
        for (size_t k = 0; k < c->count; k++)
            memcpy(out->column[k] + i * c->width,
                   g->in + order[i].at + k * c->width * sizeof(float), c->width * sizeof(float));
    }
    td_free(order);
    return status;
}

/* A file whose rows have been copied. */
typedef struct copied {
    size_t file;
    columns c;
    sorted s;
    char keys[NAME];
} copied;

struct td_rows_saving {
    td_rows_tables *t; /* while it begins */
    const td_rows_bundle *b;
    char folder[TD_PATH_MAX], part[TD_PATH_MAX], kind[32], name[TD_BUNDLE_NAME];
    json_t *state;
    td_bundle_file *files; /* [count] that this rank has written; bytes 0: another's */
    size_t count;
    copied *copy; /* [copies] to be written behind the run */
    size_t copies, room;
    pthread_t thread;
    bool threaded;
    atomic_bool done;
    td_status status;
    char sentence[512];
};

typedef td_rows_saving writing;

static td_status file_path(const writing *w, size_t file, char path[TD_PATH_MAX])
{
    char name[TD_BUNDLE_NAME];
    td_bundle_file_name(w->name, file, w->count, name);
    return td_path_join(path, w->part, name);
}

static td_status write_copy(writing *w, const copied *k)
{
    char path[TD_PATH_MAX];
    td_tensor tensors[1 + COLUMNS];
    tensors[0] = (td_tensor){.name = k->keys, .rank = 1, .shape = {k->s.rows}, .keys = k->s.keys};
    tensors[0].count = k->s.rows;
    for (size_t i = 0; i < k->c.count; i++)
        tensors[1 + i] = (td_tensor){.name = k->c.name[i],
                                     .rank = 2,
                                     .shape = {k->s.rows, k->c.width},
                                     .data = k->s.column[i],
                                     .count = k->s.rows * k->c.width};
    TD_TRY(file_path(w, k->file, path));
    return td_safetensors_write(path, tensors, 1 + k->c.count, &w->files[k->file].hash,
                                &w->files[k->file].bytes);
}

static td_status copy_group(writing *w, size_t file, const gather *g, int group, const columns *c)
{
    if (w->copies == w->room) {
        size_t room = 2 * w->room + 4;
        copied *more = td_reallocarray(w->copy, room, sizeof *more);
        if (!more) return td_fail(TD_ERR_NOMEM, "no memory to save tables");
        w->copy = more, w->room = room;
    }
    copied *k = &w->copy[w->copies++];
    *k = (copied){.file = file, .c = *c};
    snprintf(k->keys, sizeof k->keys, "%skeys", g->which == TD_ROWS_DENSE ? "dense." : "");
    return sort_group(g, group, c, &k->s);
}

/* Collective: groups of a table to files from `first` on. */
static td_status copy_table(writing *w, int which, int groups, size_t first)
{
    columns c;
    gather g;
    td_rows_tables *t = w->t;
    TD_TRY(columns_of(&t->config[which], which, w->b->states, &c));
    td_status status = gather_rows(t, which, groups, c.count * c.width, &g);
    for (int k = 0; k < groups && status == TD_OK; k++)
        if (g.writer[k] == t->roles.self) status = copy_group(w, first + (size_t)k, &g, k, &c);
    gather_free(&g);
    return td_comm_agree(t->comm, status);
}

static bool speaks(void *arg, uint64_t key)
{
    return td_rows_speaks(arg, TD_ROWS_KEYED, key);
}

/* Each server its own rows, in place. */
static td_status write_in_place(writing *w, size_t first)
{
    char path[TD_PATH_MAX];
    td_rows_tables *t = w->t;
    td_status status = TD_OK;
    for (int k = 0; k < t->roles.server_count && status == TD_OK; k++) {
        td_bundle_file *f = &w->files[first + (size_t)k];
        if (t->roles.server[k] != t->roles.self) continue;
        status = file_path(w, first + (size_t)k, path);
        if (status == TD_OK)
            status = td_transfer_export_some(td_rows_table(t, TD_ROWS_KEYED), path, speaks, t,
                                             w->b->states, &f->hash, &f->bytes);
    }
    return td_comm_agree(t->comm, status);
}

static td_status write_slots(writing *w)
{
    char path[TD_PATH_MAX];
    const td_rows_bundle *b = w->b;
    td_tensor *tensors = td_calloc(b->slot_count + 1, sizeof *tensors);
    if (!tensors) return td_fail(TD_ERR_NOMEM, "no memory to save the model");
    for (size_t s = 0; s < b->slot_count; s++) {
        tensors[s] = (td_tensor){.name = b->slots[s].name,
                                 .rank = b->slots[s].rank,
                                 .data = b->params + b->slots[s].offset,
                                 .count = b->slots[s].count};
        memcpy(tensors[s].shape, b->slots[s].shape, sizeof b->slots[s].shape);
    }
    td_status status = file_path(w, 0, path);
    if (status == TD_OK)
        status = td_safetensors_write(path, tensors, b->slot_count, &w->files[0].hash,
                                      &w->files[0].bytes);
    td_free(tensors);
    return status;
}

/* How many files the keyed table takes: the same at all ranks. */
static td_status count_groups(td_rows_tables *t, int *out)
{
    td_table *table = td_rows_table(t, TD_ROWS_KEYED);
    uint64_t mine = table ? td_table_rows(table) : 0, all;
    TD_TRY(td_comm_allreduce(t->comm, &mine, &all, 1, TD_I64, TD_SUM));
    if (td_rows_place(t, TD_ROWS_KEYED)->slices.backup[0] >= 0) all /= 2;
    *out = all * t->config[TD_ROWS_KEYED].width * sizeof(float) > FEW_BYTES ? GROUPS : 1;
    if (t->config[TD_ROWS_KEYED].memory_bytes) *out = t->roles.server_count;
    return TD_OK;
}

static td_status copy_all(writing *w, int groups)
{
    td_rows_tables *t = w->t;
    const td_rows_bundle *b = w->b;
    bool limited = t->config[TD_ROWS_KEYED].memory_bytes > 0;
    size_t next = 0;
    td_status status = TD_OK;
    if (b->slot_count) {
        if (t->roles.self == 0) status = write_slots(w);
        TD_TRY(td_comm_agree(t->comm, status));
        next = 1;
    }
    if (t->has[TD_ROWS_KEYED]) {
        TD_TRY(limited ? write_in_place(w, next) : copy_table(w, TD_ROWS_KEYED, groups, next));
        next += (size_t)groups;
    }
    if (t->has[TD_ROWS_DENSE] && b->states) TD_TRY(copy_table(w, TD_ROWS_DENSE, 1, next));
    return TD_OK;
}

static void *write_behind(void *arg)
{
    writing *w = arg;
    td_status status = TD_OK;
    for (size_t k = 0; k < w->copies && status == TD_OK; k++) status = write_copy(w, &w->copy[k]);
    w->status = status;
    if (status != TD_OK) snprintf(w->sentence, sizeof w->sentence, "%s", td_last_error());
    atomic_store(&w->done, true);
    return NULL;
}

static td_status begin(writing *w)
{
    int groups = 0;
    td_rows_tables *t = w->t;
    const td_rows_bundle *b = w->b;
    if (t->has[TD_ROWS_KEYED]) TD_TRY(count_groups(t, &groups));
    w->count = (b->slot_count > 0) + (size_t)groups + (t->has[TD_ROWS_DENSE] && b->states);
    w->files = td_calloc(w->count + 1, sizeof *w->files);
    td_status status = w->files ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to save tables");
    if (status == TD_OK && t->roles.self == 0) status = td_bundle_drop(b->folder);
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_agree(t->comm, td_bundle_part(b->folder, w->part)));
    return copy_all(w, groups);
}

td_status td_rows_save_begin(td_rows_tables *t, const td_rows_bundle *b, td_rows_saving **out)
{
    writing *w = td_calloc(1, sizeof *w);
    td_status status = w ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to save tables");
    status = td_comm_agree(t->comm, status);
    if (status != TD_OK) {
        json_decref(b->state);
        td_free(w);
        return status;
    }
    w->t = t, w->b = b, w->state = b->state;
    snprintf(w->folder, sizeof w->folder, "%s", b->folder);
    snprintf(w->kind, sizeof w->kind, "%s", b->kind);
    snprintf(w->name, sizeof w->name, "%s", b->file);
    atomic_init(&w->done, false);
    status = begin(w);
    w->t = NULL, w->b = NULL;
    if (status != TD_OK) {
        td_rows_save_drop(w);
        return status;
    }
    w->threaded = w->copies && pthread_create(&w->thread, NULL, write_behind, w) == 0;
    if (!w->threaded) write_behind(w);
    *out = w;
    return TD_OK;
}

bool td_rows_save_done(const td_rows_saving *w)
{
    return atomic_load(&w->done);
}

void td_rows_save_drop(td_rows_saving *w)
{
    if (!w) return;
    if (w->threaded) pthread_join(w->thread, NULL);
    for (size_t k = 0; k < w->copies; k++) sorted_free(&w->copy[k].s);
    json_decref(w->state);
    td_free(w->copy), td_free(w->files);
    td_free(w);
}

/* Rank 0 gets what the others have written, and seals the bundle. */
td_status td_rows_save_end(td_rows_saving *w, td_comm *comm)
{
    if (w->threaded) pthread_join(w->thread, NULL);
    w->threaded = false;
    td_status status = w->status == TD_OK ? TD_OK : td_fail_again(w->status, w->sentence);
    status = td_comm_agree(comm, status);
    if (status == TD_OK)
        status = td_comm_allreduce(comm, w->files, w->files, 2 * w->count, TD_I64, TD_SUM);
    if (status == TD_ERR_PEER || status == TD_ERR_TIMEOUT) { /* no more to agree on here */
        td_rows_save_drop(w);
        return status;
    }
    if (status == TD_OK && td_comm_rank(comm) == 0)
        status = td_bundle_seal(w->folder, w->kind, w->state, w->name, w->files, w->count);
    td_rows_save_drop(w);
    return td_comm_agree(comm, status);
}

td_status td_rows_write(td_rows_tables *t, const td_rows_bundle *b)
{
    td_rows_saving *w;
    TD_TRY(td_rows_save_begin(t, b, &w));
    return td_rows_save_end(w, t->comm);
}

/* --- reading --- */

typedef struct column_view {
    const unsigned char *bytes;
} column_view;

typedef bool wanted_fn(const void *arg, int which, uint64_t key);

static td_status view_column(const td_safetensors *f, const char *name, size_t rows, size_t width,
                             column_view *out)
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

/* A file's rows of one table; a column of a state that is missing reads as 0. */
static td_status read_table(td_table *table, const td_table_config *config, int which,
                            const td_safetensors *f, wanted_fn *wanted, const void *arg)
{
    columns c;
    column_view view[COLUMNS] = {{0}};
    td_tensor_view keys;
    char name[NAME];
    td_status status = TD_OK;
    snprintf(name, sizeof name, "%skeys", which == TD_ROWS_DENSE ? "dense." : "");
    if (!td_safetensors_has(f, name)) return TD_OK;
    TD_TRY(td_safetensors_view(f, name, &keys));
    TD_TRY(columns_of(config, which, true, &c));
    size_t rows = keys.shape[0], bytes = c.width * sizeof(float);
    for (size_t k = 0; k < c.count; k++)
        if (k == 0 || td_safetensors_has(f, c.name[k]))
            TD_TRY(view_column(f, c.name[k], rows, c.width, &view[k]));
    float *row = td_calloc(td_table_row_floats(table), sizeof *row);
    if (!row) return td_fail(TD_ERR_NOMEM, "no memory for a row");
    for (size_t i = 0; i < rows && status == TD_OK; i++) {
        uint64_t key;
        memcpy(&key, keys.bytes + i * sizeof key, sizeof key);
        if (wanted && !wanted(arg, which, key)) continue;
        for (size_t k = 0; k < c.count; k++)
            if (view[k].bytes) memcpy(row + k * c.width, view[k].bytes + i * bytes, bytes);
        status = td_table_put(table, key, row);
    }
    td_free(row);
    return status;
}

static bool is_held(const void *arg, int which, uint64_t key)
{
    return td_rows_holds(arg, which, key);
}

td_status td_rows_read(td_rows_tables *t, const td_bundle *b)
{
    for (size_t f = 0; f < b->count; f++)
        for (int k = 0; k < TD_ROWS_TABLES; k++)
            if (t->has[k] && td_rows_table(t, k))
                TD_TRY(read_table(td_rows_table(t, k), &t->config[k], k, b->file[f], is_held, t));
    return TD_OK;
}

td_status td_rows_read_all(td_table *table, const td_bundle *b)
{
    for (size_t f = 0; f < b->count; f++)
        TD_TRY(read_table(table, td_table_config_of(table), TD_ROWS_KEYED, b->file[f], NULL, NULL));
    return TD_OK;
}
