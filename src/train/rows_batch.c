/* See rows_batch.h. */
#include "train/rows_batch.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

static td_status grow(void *pointer, size_t *room, size_t items, size_t bytes)
{
    void *old;
    memcpy(&old, pointer, sizeof old);
    void *more = td_reallocarray(old, items, bytes);
    if (!more) return td_fail(TD_ERR_NOMEM, "no memory for %zu entries of a batch", items);
    memcpy(pointer, &more, sizeof more);
    if (room) *room = items;
    return TD_OK;
}

/* Floats, 64-byte aligned; what was there is gone where there is not room. */
static td_status take(float **pointer, size_t *room, size_t rows, size_t width)
{
    size_t floats;
    if (!td_mul(rows + rows / 8 + 1, width, &floats)) floats = SIZE_MAX / sizeof(float);
    if (rows * width <= *room && *pointer) return TD_OK;
    td_free(*pointer);
    *room = 0;
    *pointer = td_alloc_aligned(floats * sizeof **pointer);
    if (!*pointer) return td_fail(TD_ERR_NOMEM, "no memory for %zu rows of a batch", rows);
    *room = floats;
    return TD_OK;
}

void td_rows_batch_free(td_rows_batch *b)
{
    td_free(b->sample), td_free(b->target), td_free(b->weight), td_free(b->start);
    td_free(b->label);
    td_free(b->key), td_free(b->value), td_free(b->field), td_free(b->numbers);
    td_free(b->sum), td_free(b->of_sum), td_free(b->leaf_of_sum), td_free(b->units);
    td_free(b->table), td_free(b->gradient), td_free(b->seen_unit), td_free(b->seen_sum);
    td_unique_free(&b->unique);
    *b = (td_rows_batch){0};
}

/* --- samples --- */

static td_status room_for_entries(td_rows_batch *b, size_t entries)
{
    if (entries <= b->entries_room && b->key) return TD_OK;
    entries += entries / 8 + 1;
    TD_TRY(grow(&b->key, NULL, entries, sizeof *b->key));
    TD_TRY(grow(&b->value, NULL, entries, sizeof *b->value));
    TD_TRY(grow(&b->field, NULL, entries, sizeof *b->field));
    return grow(&b->sum, &b->entries_room, entries, sizeof *b->sum);
}

td_status td_rows_batch_room(td_rows_batch *b, size_t rows, size_t entries, size_t numbers)
{
    if (rows + 1 > b->rows_room) {
        size_t n = rows + 1;
        TD_TRY(grow(&b->sample, NULL, n, sizeof *b->sample));
        TD_TRY(grow(&b->target, NULL, n, sizeof *b->target));
        TD_TRY(grow(&b->weight, NULL, n, sizeof *b->weight));
        TD_TRY(grow(&b->label, NULL, n, sizeof *b->label));
        TD_TRY(grow(&b->start, &b->rows_room, n, sizeof *b->start));
    }
    TD_TRY(take(&b->numbers, &b->numbers_room, rows, numbers));
    return room_for_entries(b, entries);
}

/* start: where each sample's entries have room. Returns how many that is. */
static size_t lay_out_entries(td_rows_batch *b, const td_rows_shape *s)
{
    size_t at = 0;
    for (size_t k = 0; k < b->rows; k++) {
        b->start[k] = at;
        at += td_features_room(s->features, s->data, b->sample[k]);
    }
    return at;
}

typedef struct reading {
    td_rows_batch *b;
    const td_rows_shape *s;
} reading;

/* A lane's samples, each to its room; start[k] is then how many entries it has. */
static td_status read_samples(void *arg, int lane)
{
    const reading *r = arg;
    td_rows_batch *b = r->b;
    size_t lanes = (size_t)td_pool_lanes(r->s->pool), rows = b->rows;
    size_t end = rows * ((size_t)lane + 1) / lanes;
    for (size_t k = rows * (size_t)lane / lanes; k < end; k++) {
        float *numbers = r->s->numbers ? b->numbers + k * r->s->numbers : NULL;
        size_t at = b->start[k];
        b->start[k] = td_features_row(r->s->features, r->s->data, b->sample[k], b->key + at,
                                      b->value + at, b->field + at, numbers);
    }
    return TD_OK;
}

/* Entries close up. */
static void close_up(td_rows_batch *b, const td_rows_shape *s)
{
    size_t at = 0, from = 0;
    for (size_t k = 0; k < b->rows; k++) {
        size_t n = b->start[k];
        if (from != at) {
            memmove(b->key + at, b->key + from, n * sizeof *b->key);
            memmove(b->value + at, b->value + from, n * sizeof *b->value);
            memmove(b->field + at, b->field + from, n * sizeof *b->field);
        }
        b->start[k] = at;
        at += n;
        from += td_features_room(s->features, s->data, b->sample[k]);
    }
    b->start[b->rows] = b->entries = at;
}

/* --- units --- */

static td_status cut_units(td_rows_batch *b, const td_rows_shape *s, const td_rows_leaves *leaves)
{
    bool by_leaf = leaves && s->by_leaf;
    int count = by_leaf ? leaves->count : td_pool_lanes(s->pool);
    td_rows_unit *units = td_reallocarray(b->units, (size_t)count + 1, sizeof *units);
    if (!units) return td_fail(TD_ERR_NOMEM, "no memory for %d leaves", count);
    b->units = units, b->unit_count = count;
    for (int u = 0; u < count; u++) {
        size_t n = (size_t)count, k = (size_t)u;
        units[u] = by_leaf ? (td_rows_unit){.row_begin = leaves->row[u],
                                            .row_end = leaves->row[u + 1],
                                            .leaf = leaves->first + u}
                           : (td_rows_unit){.row_begin = b->rows * k / n,
                                            .row_end = b->rows * (k + 1) / n};
    }
    return TD_OK;
}

static td_status room_for_sums(td_rows_batch *b)
{
    if (b->unique.count > b->keys_room) {
        TD_TRY(grow(&b->seen_unit, NULL, b->unique.count, sizeof *b->seen_unit));
        TD_TRY(grow(&b->seen_sum, &b->keys_room, b->unique.count, sizeof *b->seen_sum));
    }
    if (b->entries > b->sums_room) { /* as many as entries, at most */
        TD_TRY(grow(&b->of_sum, NULL, b->entries, sizeof *b->of_sum));
        TD_TRY(grow(&b->leaf_of_sum, &b->sums_room, b->entries, sizeof *b->leaf_of_sum));
    }
    return TD_OK;
}

/* Each unit's keys get rows of gradients in the order in which they appear. */
static void number_sums(td_rows_batch *b)
{
    if (b->unique.count) memset(b->seen_unit, 0, b->unique.count * sizeof *b->seen_unit);
    b->sums = 0;
    for (int u = 0; u < b->unit_count; u++) {
        td_rows_unit *unit = &b->units[u];
        unit->sum_begin = b->sums;
        for (size_t e = b->start[unit->row_begin]; e < b->start[unit->row_end]; e++) {
            uint32_t place = b->unique.place[e];
            if (b->seen_unit[place] != (uint32_t)u + 1) {
                b->seen_unit[place] = (uint32_t)u + 1;
                b->seen_sum[place] = (uint32_t)b->sums;
                b->of_sum[b->sums] = place;
                b->leaf_of_sum[b->sums++] = (uint32_t)unit->leaf;
            }
            b->sum[e] = b->seen_sum[place];
        }
        unit->sum_end = b->sums;
    }
}

static td_status index_keys(td_rows_batch *b, const td_rows_shape *s)
{
    TD_TRY(td_unique_fill(&b->unique, b->key, b->entries));
    TD_TRY(room_for_sums(b));
    number_sums(b);
    TD_TRY(take(&b->table, &b->table_room, b->unique.count, s->width));
    return take(&b->gradient, &b->gradient_room, b->sums, s->width);
}

td_status td_rows_batch_index(td_rows_batch *b, const td_rows_shape *s,
                              const td_rows_leaves *leaves)
{
    TD_TRY(cut_units(b, s, leaves));
    b->sums = 0;
    return s->features ? index_keys(b, s) : TD_OK;
}

static td_status fill_keys(td_rows_batch *b, const td_rows_shape *s)
{
    reading r = {b, s};
    size_t most = lay_out_entries(b, s);
    TD_TRY(room_for_entries(b, most));
    TD_TRY(td_pool_run_if(s->pool, most >= TD_ROWS_WORTH_SHARING, read_samples, &r));
    close_up(b, s);
    return index_keys(b, s);
}

td_status td_rows_batch_fill(td_rows_batch *b, const td_rows_shape *s, const td_batch *from,
                             int leaf_begin)
{
    b->rows = from->rows, b->global_rows = from->global_rows;
    b->epoch = from->epoch, b->step_in_epoch = from->step_in_epoch;
    b->last_in_epoch = from->last_in_epoch;
    b->has_weight = from->weight != NULL, b->has_label = from->label != NULL;
    b->entries = b->sums = 0;
    TD_TRY(td_rows_batch_room(b, from->rows, 0, s->numbers));
    if (from->rows) {
        if (from->sample) memcpy(b->sample, from->sample, b->rows * sizeof *b->sample);
        if (from->target) memcpy(b->target, from->target, b->rows * sizeof *b->target);
        if (from->label) memcpy(b->label, from->label, b->rows * sizeof *b->label);
        if (from->weight) memcpy(b->weight, from->weight, b->rows * sizeof *b->weight);
    }
    td_rows_leaves leaves = {leaf_begin, from->leaves, from->leaf_row};
    TD_TRY(cut_units(b, s, &leaves));
    if (s->features) return fill_keys(b, s);
    memset(b->start, 0, (b->rows + 1) * sizeof *b->start);
    if (b->rows) memcpy(b->numbers, from->x, b->rows * s->numbers * sizeof *b->numbers);
    return TD_OK;
}

void td_rows_batch_leaf(const td_rows_batch *b, const td_rows_shape *s, int unit,
                        td_sparse_leaf *out)
{
    const td_rows_unit *u = &b->units[unit];
    *out = (td_sparse_leaf){.rows = u->row_end - u->row_begin,
                            .start = b->start + u->row_begin,
                            .place = b->unique.place,
                            .sum = b->sum,
                            .value = b->value,
                            .field = b->field,
                            .numbers = s->numbers ? b->numbers + u->row_begin * s->numbers : NULL,
                            .target = b->target + u->row_begin,
                            .label = b->has_label ? b->label + u->row_begin : NULL,
                            .weight = b->has_weight ? b->weight + u->row_begin : NULL,
                            .sample = b->sample + u->row_begin,
                            .epoch = b->epoch,
                            .table = b->table,
                            .gradient = b->gradient};
}
