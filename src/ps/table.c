/* See table.h, table_impl.h. */
#include "ps/table.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "ps/table_impl.h"

#include <string.h>

enum { PARTS = TD_TABLE_PARTS, AHEAD = TD_TABLE_AHEAD, SLAB_BYTES = 4 << 20 };

/* --- beginning and end --- */

td_status td_table_create(const td_table_config *config, td_table **out)
{
    td_table *t = td_calloc(1, sizeof *t);
    if (!t) return td_fail(TD_ERR_NOMEM, "no memory for a table");
    t->config = *config;
    td_status status = td_rule_config(&t->config, &t->rule);
    if (status != TD_OK) {
        td_free(t);
        return status;
    }
    size_t floats = td_table_row_floats(t), align = floats > 16 ? 16 : 4;
    t->stride = (floats + align - 1) / align * align;
    while (((size_t)2 << t->slab_bits) * t->stride * sizeof(float) <= SLAB_BYTES) t->slab_bits++;
    bool made = true;
    for (int k = 0; k < PARTS && made; k++)
        made = td_part_make(&t->parts[k], TD_TABLE_LEAST_ENTRIES);
    status = made ? td_tier_open(t) : td_fail(TD_ERR_NOMEM, "no memory for a table");
    t->config.rule = td_table_rule_names[t->rule], t->config.folder = NULL; /* were borrowed */
    if (status == TD_OK)
        *out = t;
    else
        td_table_destroy(t);
    return status;
}

void td_table_destroy(td_table *t)
{
    if (!t) return;
    td_tier_close(t);
    for (int k = 0; k < PARTS; k++) td_free(t->parts[k].entries);
    for (size_t k = 0; k < t->slab_count; k++) td_free(t->slabs[k]);
    td_free(t->slabs), td_free(t->spare), td_free(t->found);
    td_free(t);
}

size_t td_table_rows(const td_table *t)
{
    return t->rows + t->tier.rows;
}

size_t td_table_row_floats(const td_table *t)
{
    return t->config.width * (1 + td_rule_state_count(t->rule));
}

size_t td_table_bytes(const td_table *t)
{
    size_t bytes = sizeof *t + t->spare_room * sizeof *t->spare + t->found_room * sizeof *t->found;
    for (int k = 0; k < PARTS; k++) bytes += (t->parts[k].mask + 1) * sizeof(td_entry);
    if (t->tier.cold)
        bytes += t->spare_room * sizeof *t->tier.marks +
                 t->tier.absent_room * sizeof *t->tier.absent + td_cold_memory_bytes(t->tier.cold);
    return bytes + t->slab_count * ((size_t)1 << t->slab_bits) * t->stride * sizeof(float);
}

void td_table_measure(const td_table *t, td_table_stats *out)
{
    *out = (td_table_stats){.rows = td_table_rows(t),
                            .hot_rows = t->rows,
                            .bytes = td_table_bytes(t),
                            .hits = t->read - t->missed,
                            .misses = t->missed,
                            .cold_reads = t->tier.reads,
                            .cold_writes = t->tier.writes,
                            .disk_bytes = t->tier.cold ? td_cold_disk_bytes(t->tier.cold) : 0};
}

const td_table_config *td_table_config_of(const td_table *t)
{
    return &t->config;
}

void td_table_set_clock(td_table *t, uint32_t now)
{
    t->clock = now;
}

/* --- batches --- */

/* Finds the batch's rows, which are t->found then: NULL where they are not admitted. */
static td_status find(td_table *t, const uint64_t *keys, size_t count, bool moves)
{
    uint64_t hash[AHEAD];
    if (count > t->found_room) {
        float **found = td_reallocarray(t->found, count, sizeof *found);
        if (!found) return td_fail(TD_ERR_NOMEM, "no memory for a batch of %zu rows", count);
        t->found = found, t->found_room = count;
    }
    uint64_t absent = t->tier.reads + t->rowless;
    TD_TRY(td_tier_warm(t, keys, count));
    for (size_t i = 0; i < count + AHEAD; i++) {
        if (i >= AHEAD) {
            size_t k = i - AHEAD;
            TD_TRY(td_table_see(t, keys[k], hash[k % AHEAD], moves, &t->found[k]));
        }
        if (i >= count) continue;
        hash[i % AHEAD] = td_table_mixed(keys[i]);
        td_table_prefetch(t, hash[i % AHEAD]);
    }
    if (!moves) t->read += count, t->missed += t->tier.reads + t->rowless - absent;
    return TD_OK;
}

/* A row's first line comes first, with its page's translation, which the others then find. */
static void fetch_ahead(const td_table *t, size_t i, size_t count, size_t bytes)
{
    const char *row = i + AHEAD < count ? (const char *)t->found[i + AHEAD] : NULL;
    if (row) __builtin_prefetch(row, 1);
    row = i + AHEAD / 2 < count ? (const char *)t->found[i + AHEAD / 2] : NULL;
    for (size_t at = 64; row && at < bytes; at += 64) __builtin_prefetch(row + at, 1);
}

td_status td_table_pull_at(td_table *t, const uint64_t *keys, const uint32_t *places, size_t count,
                           float *out)
{
    size_t width = t->config.width, bytes = width * sizeof *out;
    TD_TRY(find(t, keys, count, false));
    for (size_t i = 0; i < count; i++) {
        float *to = out + td_table_place(places, i) * width;
        fetch_ahead(t, i, count, bytes);
        if (t->found[i])
            memcpy(to, t->found[i], bytes);
        else
            td_rule_first_weights(&t->config, keys[i], to);
    }
    return TD_OK;
}

td_status td_table_pull(td_table *t, const uint64_t *keys, size_t count, float *out)
{
    return td_table_pull_at(t, keys, NULL, count, out);
}

/* *hot: how many were in memory. */
static td_status look(const td_table *t, const uint64_t *keys, const uint32_t *places, size_t count,
                      float *out, size_t *hot)
{
    size_t width = t->config.width;
    uint64_t hash[AHEAD];
    const float *row[AHEAD]; /* found, and on its way */
    for (size_t i = 0; i < count + 2 * AHEAD; i++) {
        if (i >= 2 * AHEAD) {
            size_t k = i - 2 * AHEAD;
            float *to = out + td_table_place(places, k) * width;
            if (row[k % AHEAD])
                memcpy(to, row[k % AHEAD], width * sizeof *out);
            else
                td_rule_first_weights(&t->config, keys[k], to);
        }
        if (i >= AHEAD && i - AHEAD < count) {
            size_t k = i - AHEAD;
            const td_entry *e = td_table_probe(t, keys[k], hash[k % AHEAD]);
            row[k % AHEAD] = e->row < TD_TABLE_SIGHTED ? td_table_row(t, e->row) : NULL;
            *hot += row[k % AHEAD] != NULL;
            for (size_t at = 0; row[k % AHEAD] && at < width; at += 16)
                __builtin_prefetch(row[k % AHEAD] + at);
        }
        if (i >= count) continue;
        hash[i % AHEAD] = td_table_mixed(keys[i]);
        td_table_prefetch(t, hash[i % AHEAD]);
    }
    return td_tier_peek(t, keys, places, count, out);
}

td_status td_table_peek_at(const td_table *t, const uint64_t *keys, const uint32_t *places,
                           size_t count, float *out)
{
    size_t hot = 0;
    return look(t, keys, places, count, out, &hot);
}

td_status td_table_peek(const td_table *t, const uint64_t *keys, size_t count, float *out)
{
    return td_table_peek_at(t, keys, NULL, count, out);
}

td_status td_table_read_at(td_table *t, const uint64_t *keys, const uint32_t *places, size_t count,
                           float *out)
{
    size_t hot = 0;
    td_status status = look(t, keys, places, count, out, &hot);
    t->read += count, t->missed += count - hot;
    return status;
}

td_status td_table_read(td_table *t, const uint64_t *keys, size_t count, float *out)
{
    return td_table_read_at(t, keys, NULL, count, out);
}

td_status td_table_push_at(td_table *t, const uint64_t *keys, const uint32_t *places, size_t count,
                           const float *gradients, td_table_step step)
{
    size_t width = t->config.width, bytes = td_table_row_floats(t) * sizeof(float);
    td_mover mover = td_rule_mover(t->rule, &t->config, step);
    TD_TRY(find(t, keys, count, true));
    for (size_t i = 0; i < count; i++) {
        fetch_ahead(t, i, count, bytes);
        const float *gradient = gradients + td_table_place(places, i) * width;
        if (t->found[i]) td_rule_move(&mover, keys[i], t->found[i], gradient);
    }
    return TD_OK;
}

td_status td_table_push(td_table *t, const uint64_t *keys, size_t count, const float *gradients,
                        td_table_step step)
{
    return td_table_push_at(t, keys, NULL, count, gradients, step);
}

td_status td_table_apply(td_table *t, const uint64_t *keys, size_t count, td_table_apply_fn *fn,
                         void *arg)
{
    TD_TRY(find(t, keys, count, true));
    for (size_t i = 0; i < count; i++) {
        fetch_ahead(t, i, count, td_table_row_floats(t) * sizeof(float));
        if (t->found[i]) TD_TRY(fn(arg, keys[i], t->found[i]));
    }
    return TD_OK;
}

/* --- all rows --- */

static void fetch_row(const float *row, size_t bytes)
{
    enum { MOST = 512 }; /* the rest the processor fetches by itself */
    for (size_t at = 0; at < bytes && at < MOST; at += 64)
        __builtin_prefetch((const char *)row + at);
}

/* Entries move while others are taken out: a place is looked at until what lies there stays. */
size_t td_table_evict(td_table *t, uint32_t least)
{
    size_t gone = 0;
    if (least > t->least) t->least = least;
    if (td_tier_evict(t, least, &gone) != TD_OK) {
        td_warn("a table keeps rows that were not used for long: %s", td_last_error());
        return gone;
    }
    for (int k = 0; k < PARTS; k++) {
        td_part *p = &t->parts[k];
        for (size_t at = 0; at <= p->mask;) {
            const td_entry *e = &p->entries[at];
            if (e->row == TD_TABLE_NONE || e->used >= least) {
                at++;
                continue;
            }
            gone += e->row < TD_TABLE_SIGHTED;
            td_table_take_out(t, p, at);
        }
    }
    return gone;
}

size_t td_table_drop(td_table *t, td_table_gone_fn *gone, void *arg)
{
    size_t rows = 0;
    if (td_tier_drop(t, gone, arg, &rows) != TD_OK)
        td_warn("a table keeps rows that have moved away: %s", td_last_error());
    for (int k = 0; k < PARTS; k++) {
        td_part *p = &t->parts[k];
        for (size_t at = 0; at <= p->mask;) {
            const td_entry *e = &p->entries[at];
            if (e->row == TD_TABLE_NONE || !gone(arg, e->key)) {
                at++;
                continue;
            }
            rows += e->row < TD_TABLE_SIGHTED;
            td_table_take_out(t, p, at);
        }
    }
    return rows;
}

/* Entries move when a part changes, so one is gone through at once; rows do not leave memory. */
struct td_table_walk {
    const td_table *table;
    size_t part; /* PARTS and more: at cold rows */
    td_cold_cursor cursor;
    float *row;
};

static td_status each_of_part(const td_table *t, const td_part *p, td_table_each_key_fn *each,
                              void *arg)
{
    size_t bytes = td_table_row_floats(t) * sizeof(float);
    for (size_t at = 0; at <= p->mask; at++) {
        const td_entry *e = &p->entries[at], *later = e + AHEAD / 2;
        if (at + AHEAD / 2 <= p->mask && later->row < TD_TABLE_SIGHTED)
            fetch_row(td_table_row(t, later->row), bytes);
        if (e->row == TD_TABLE_NONE) continue;
        bool has = e->row < TD_TABLE_SIGHTED;
        td_table_mark mark = {e->used, has ? 0 : e->row & ~TD_TABLE_SIGHTED};
        if (has || mark.seen) TD_TRY(each(arg, e->key, mark, has ? td_table_row(t, e->row) : NULL));
    }
    return TD_OK;
}

static td_status begin_cold(td_table_walk *w)
{
    size_t bytes = td_table_row_floats(w->table) * sizeof(float);
    w->part++;
    w->row = td_malloc(bytes);
    if (!w->row) return td_fail(TD_ERR_NOMEM, "no memory for a row of %zu bytes", bytes);
    return td_tier_seek(w->table, 0, &w->cursor);
}

td_status td_table_walk_on(td_table_walk *w, td_table_each_key_fn *each, void *arg, bool *more)
{
    enum { COLD_AT_ONCE = 256 };
    const td_table *t = w->table;
    *more = true;
    if (w->part < PARTS) return each_of_part(t, &t->parts[w->part++], each, arg);
    if (w->part == PARTS) TD_TRY(begin_cold(w));
    for (int k = 0; k < COLD_AT_ONCE && w->cursor.there; k++) {
        memcpy(w->row, w->cursor.row, td_table_row_floats(t) * sizeof(float));
        TD_TRY(each(arg, w->cursor.key, (td_table_mark){.used = w->cursor.used}, w->row));
        TD_TRY(td_tier_next(t, &w->cursor));
    }
    *more = w->cursor.there;
    return TD_OK;
}

static void leave(td_table_walk *w)
{
    td_cold_leave(&w->cursor);
    td_free(w->row);
}

td_status td_table_walk_begin(const td_table *t, td_table_walk **out)
{
    *out = td_calloc(1, sizeof **out);
    if (!*out) return td_fail(TD_ERR_NOMEM, "no memory to go through a table");
    (*out)->table = t;
    return TD_OK;
}

void td_table_walk_end(td_table_walk *w)
{
    if (w) leave(w);
    td_free(w);
}

td_status td_table_each_key(const td_table *t, td_table_each_key_fn *each, void *arg)
{
    td_table_walk w = {.table = t};
    td_status status = TD_OK;
    for (bool more = true; more && status == TD_OK;)
        status = td_table_walk_on(&w, each, arg, &more);
    leave(&w);
    return status;
}

typedef struct rows_only {
    td_table_each_fn *each;
    void *arg;
} rows_only;

static td_status if_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    const rows_only *r = arg;
    (void)mark;
    return row ? r->each(r->arg, key, row) : TD_OK;
}

td_status td_table_each(const td_table *t, td_table_each_fn *each, void *arg)
{
    rows_only r = {each, arg};
    return td_table_each_key(t, if_row, &r);
}

td_status td_table_put(td_table *t, uint64_t key, const float *row)
{
    uint64_t hash = td_table_mixed(key);
    TD_TRY(td_tier_warm(t, &key, 1));
    td_entry *e = td_table_probe(t, key, hash);
    if (e->row == TD_TABLE_NONE) TD_TRY(td_table_enter(t, key, hash, &e));
    if (e->row >= TD_TABLE_SIGHTED) TD_TRY(td_table_give_row(t, e));
    if (t->tier.marks) t->tier.marks[e->row] |= TD_ROW_USED | TD_ROW_MOVED;
    e->used = t->clock;
    memcpy(td_table_row(t, e->row), row, td_table_row_floats(t) * sizeof *row);
    return TD_OK;
}

td_status td_table_put_key(td_table *t, uint64_t key, td_table_mark mark, const float *row)
{
    uint64_t hash = td_table_mixed(key);
    if (row) {
        TD_TRY(td_table_put(t, key, row));
    } else {
        td_entry *e;
        TD_TRY(td_tier_warm(t, &key, 1));
        e = td_table_probe(t, key, hash);
        if (e->row == TD_TABLE_NONE) TD_TRY(td_table_enter(t, key, hash, &e));
        if (e->row >= TD_TABLE_SIGHTED) e->row = TD_TABLE_SIGHTED | mark.seen;
    }
    td_table_probe(t, key, hash)->used = mark.used;
    return TD_OK;
}

td_status td_table_adopt(td_table *t, const uint64_t *keys, const td_table_mark *marks,
                         const float *rows, size_t count)
{
    size_t floats = td_table_row_floats(t);
    if (t->tier.cold) return td_tier_adopt(t, keys, marks, rows, count);
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) td_table_prefetch(t, td_table_mixed(keys[i + AHEAD]));
        if (marks[i].used < t->least) continue;
        TD_TRY(td_table_put_key(t, keys[i], marks[i], marks[i].seen ? NULL : rows + i * floats));
    }
    return TD_OK;
}
