/* See rows_files.h. */
#include "train/rows_files.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "ps/transfer.h"
#include "tandem/recover.h"
#include "train/rows_view.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUPS = 16 };
enum { FEW_BYTES = 256 << 20 }; /* of rows: one file */

/* --- writing --- */

/* A file whose rows have been copied. */
typedef struct copied {
    size_t file;
    td_rows_columns c;
    td_rows_sorted s;
    char keys[TD_ROWS_NAME];
} copied;

/* Of a table with a memory limit: this server's rows as they were. */
typedef struct frozen {
    td_table_version *rows; /* NULL: none to write */
    td_table_config config;
    td_slices slices; /* of then: some may move while they are written */
    int self;         /* this rank in the run, as the slices name it */
    bool states, marks;
    size_t file;
} frozen;

struct td_rows_saving {
    td_rows_tables *t; /* while it begins */
    const td_rows_bundle *b;
    char folder[TD_PATH_MAX], part[TD_PATH_MAX], kind[32], name[TD_BUNDLE_NAME];
    json_t *state;
    td_bundle_file *files; /* [count] that this rank has written; bytes 0: another's */
    size_t count;
    copied *copy; /* [copies] to be written behind the run */
    size_t copies, room;
    frozen own;
    pthread_t thread;
    bool threaded;
    atomic_bool done, dropped; /* dropped: nobody wants it any more */
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

static td_tensor numbers(const char *name, const uint64_t *of, size_t count)
{
    return (td_tensor){.name = name, .rank = 1, .shape = {count}, .keys = of, .count = count};
}

static td_status write_copy(writing *w, const copied *k)
{
    char path[TD_PATH_MAX];
    const td_rows_sorted *s = &k->s;
    td_tensor tensors[5 + TD_ROWS_COLUMNS];
    size_t n = 0;
    tensors[n++] = numbers(k->keys, s->keys, s->rows);
    if (s->used) {
        tensors[n++] = numbers("used", s->used, s->rows);
        tensors[n++] = numbers("sighted.keys", s->sighted_keys, s->sighted);
        tensors[n++] = numbers("sighted.used", s->sighted_used, s->sighted);
        tensors[n++] = numbers("sighted.seen", s->sighted_seen, s->sighted);
    }
    for (size_t i = 0; i < k->c.count; i++)
        tensors[n++] = (td_tensor){.name = k->c.name[i],
                                   .rank = 2,
                                   .shape = {s->rows, k->c.width},
                                   .data = s->column[i],
                                   .count = s->rows * k->c.width};
    TD_TRY(file_path(w, k->file, path));
    return td_safetensors_write(path, tensors, n, &w->files[k->file].hash,
                                &w->files[k->file].bytes);
}

static td_status copy_group(writing *w, size_t file, const td_rows_gather *g, int group,
                            const td_rows_columns *c)
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
    return td_rows_gather_sort(g, group, c, &k->s);
}

/* Model files have no use for what a table remembers of its keys. */
static bool marks_of(const writing *w, int which)
{
    return which == TD_ROWS_KEYED && w->b->states && w->t->remembers;
}

/* Collective: groups of a table to files from `first` on. */
static td_status copy_table(writing *w, int which, int groups, size_t first)
{
    td_rows_columns c;
    td_rows_gather g;
    td_rows_tables *t = w->t;
    TD_TRY(td_rows_columns_of(&t->config[which], which, w->b->states, &c));
    td_status status = td_rows_gather_open(t, which, groups, &c, marks_of(w, which), &g);
    bool open = status == TD_OK; /* else all know, or the group is broken: no more to agree on */
    for (int k = 0; k < groups && status == TD_OK; k++)
        if (g.writer[k] == t->roles.self) status = copy_group(w, first + (size_t)k, &g, k, &c);
    td_rows_gather_close(&g);
    return open ? td_comm_agree(t->comm, status) : status;
}

/* Each server its own rows, where they are. Collective. */
static td_status freeze_table(writing *w, size_t first)
{
    td_rows_tables *t = w->t;
    td_status status = TD_OK;
    for (int k = 0; k < t->roles.server_count; k++) {
        if (t->roles.server[k] != t->roles.self) continue;
        w->own = (frozen){.config = t->config[TD_ROWS_KEYED],
                          .slices = td_rows_place(t, TD_ROWS_KEYED)->slices,
                          .self = td_comm_rank_in_run(t->comm, t->roles.self),
                          .states = w->b->states,
                          .marks = marks_of(w, TD_ROWS_KEYED),
                          .file = first + (size_t)k};
        status = td_table_freeze(td_rows_table(t, TD_ROWS_KEYED), &w->own.rows);
    }
    return td_comm_agree(t->comm, status);
}

static bool speaks(void *arg, uint64_t key)
{
    const frozen *own = arg;
    return own->slices.primary[td_slice_of(&own->slices, key)] == own->self;
}

typedef struct walk {
    const writing *w;
    td_table_each_key_fn *each;
    void *arg;
} walk;

static td_status unless_dropped(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    const walk *to = arg;
    if (atomic_load_explicit(&to->w->dropped, memory_order_relaxed))
        return td_fail(TD_ERR_INTERRUPTED, "a checkpoint was given up");
    return to->each(to->arg, key, mark, row);
}

static td_status walk_frozen(void *self, td_table_each_key_fn *each, void *arg)
{
    const writing *w = self;
    walk to = {w, each, arg};
    return td_table_version_each(w->own.rows, unless_dropped, &to);
}

static td_status write_frozen(writing *w)
{
    char path[TD_PATH_MAX];
    frozen *own = &w->own;
    td_bundle_file *f = &w->files[own->file];
    td_transfer_rows rows = {.config = &own->config,
                             .states = own->states,
                             .walk = walk_frozen,
                             .self = w};
    TD_TRY(file_path(w, own->file, path));
    return td_transfer_write_some(&rows, path, speaks, own, own->marks, &f->hash, &f->bytes);
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
    if (td_rows_place(t, TD_ROWS_KEYED)->replicas) all /= 2;
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
        TD_TRY(limited ? freeze_table(w, next) : copy_table(w, TD_ROWS_KEYED, groups, next));
        next += (size_t)groups;
    }
    if (t->has[TD_ROWS_DENSE] && b->states) TD_TRY(copy_table(w, TD_ROWS_DENSE, 1, next));
    return TD_OK;
}

static void *write_behind(void *arg)
{
    writing *w = arg;
    td_status status = TD_OK;
    if (w->own.rows) status = write_frozen(w);
    for (size_t k = 0; k < w->copies && status == TD_OK && !atomic_load(&w->dropped); k++)
        status = write_copy(w, &w->copy[k]);
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
    atomic_init(&w->dropped, false);
    status = begin(w);
    w->t = NULL, w->b = NULL;
    if (status != TD_OK) {
        td_rows_save_drop(w);
        return status;
    }
    w->threaded =
        (w->copies || w->own.rows) && pthread_create(&w->thread, NULL, write_behind, w) == 0;
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
    atomic_store(&w->dropped, true);
    if (w->threaded) pthread_join(w->thread, NULL);
    td_table_version_free(w->own.rows);
    for (size_t k = 0; k < w->copies; k++) td_rows_sorted_free(&w->copy[k].s);
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
        td_free(w->files);
        w->files = NULL;
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

typedef bool wanted_fn(const void *arg, int which, uint64_t key);

/* Keys that were seen and have no row yet. */
static td_status read_sighted(td_table *table, const td_safetensors *f, int which,
                              wanted_fn *wanted, const void *arg)
{
    td_tensor_view keys;
    td_rows_column key = {0}, used = {0}, seen = {0};
    if (which != TD_ROWS_KEYED || !td_safetensors_has(f, "sighted.keys")) return TD_OK;
    TD_TRY(td_safetensors_view(f, "sighted.keys", &keys));
    TD_TRY(td_rows_view_numbers(f, "sighted.keys", keys.shape[0], &key));
    TD_TRY(td_rows_view_numbers(f, "sighted.used", keys.shape[0], &used));
    TD_TRY(td_rows_view_numbers(f, "sighted.seen", keys.shape[0], &seen));
    for (size_t i = 0; i < keys.shape[0]; i++) {
        td_table_mark mark = {(uint32_t)td_rows_number(used, i), (uint32_t)td_rows_number(seen, i)};
        if (!wanted || wanted(arg, which, td_rows_number(key, i)))
            TD_TRY(td_table_put_key(table, td_rows_number(key, i), mark, NULL));
    }
    return TD_OK;
}

/* A file's rows of one table. */
static td_status read_table(td_table *table, const td_table_config *config, int which,
                            const td_safetensors *f, wanted_fn *wanted, const void *arg)
{
    td_rows_view v;
    TD_TRY(td_rows_view_table(config, which, f, &v));
    td_status status = TD_OK;
    size_t width = v.c.width, bytes = width * sizeof(float);
    float *row = td_calloc(td_table_row_floats(table), sizeof *row);
    if (!row) return td_fail(TD_ERR_NOMEM, "no memory for a row");
    for (size_t i = 0; i < v.rows && status == TD_OK; i++) {
        uint64_t key = td_rows_number(v.key, i);
        td_table_mark mark = {.used = (uint32_t)td_rows_number(v.used, i)};
        if (wanted && !wanted(arg, which, key)) continue;
        for (size_t k = 0; k < v.c.count; k++)
            if (v.column[k].bytes) memcpy(row + k * width, v.column[k].bytes + i * bytes, bytes);
        status =
            v.used.bytes ? td_table_put_key(table, key, mark, row) : td_table_put(table, key, row);
    }
    td_free(row);
    return status == TD_OK ? read_sighted(table, f, which, wanted, arg) : status;
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
