/* A table's memory limit: rows that were not used for longest lie in cold.h's files, see
 * table_impl.h.
 *
 * An eighth of the limit is the cold store's; the index, at most 3/4 full, and the rows share the
 * rest. Each part of the index has an equal quota of entries. A request first brings in those of
 * its rows that are cold. A part that has not enough free entries for it puts out a 16th of its
 * quota at once, chosen by a hand that goes round the entries and gives a second chance to those
 * used since it last came by (Corbato, "A paging experiment with the Multics system", 1968).
 *
 * Invariant: a row leaves memory when its copy is written, not before. Copies stay when their row
 * comes back, so that one that does not change then is put out for nothing. Sightings of keys that
 * have no row yet are put out, too, and forgotten. */
#include "ps/table_impl.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>

enum { PARTS = TD_TABLE_PARTS, AHEAD = TD_TABLE_AHEAD };
enum { CHUNK = 2048, CHUNK_BYTES = 4 << 20, LEAST_QUOTA = 16 };

/* --- beginning and end --- */

static size_t slab_bytes(const td_table *t)
{
    return ((size_t)1 << t->slab_bits) * t->stride * sizeof(float);
}

/* The largest quota of a part for which index and rows fit into `bytes`. */
static size_t quota_of(const td_table *t, size_t bytes, size_t row_bytes)
{
    size_t best = 0;
    for (size_t entries = TD_TABLE_LEAST_ENTRIES;; entries *= 2) {
        size_t taken = PARTS * entries * sizeof(td_entry) + slab_bytes(t); /* one is half full */
        if (taken >= bytes) return best;
        size_t fits = (bytes - taken) / row_bytes / PARTS, holds = entries / 4 * 3;
        size_t quota = fits < holds ? fits : holds;
        if (quota > best) best = quota;
    }
}

td_status td_tier_open(td_table *t)
{
    size_t limit = t->config.memory_bytes, cold = limit / 8;
    size_t row_bytes = t->stride * sizeof(float) + sizeof *t->spare + sizeof *t->tier.marks;
    if (!limit) return TD_OK;
    if (!t->config.folder)
        return td_fail(TD_ERR_ARG, "a table with a memory limit needs a folder for its cold rows");
    while (t->slab_bits && slab_bytes(t) > limit / 64) t->slab_bits--;
    t->tier.quota = limit - cold > sizeof *t ? quota_of(t, limit - cold - sizeof *t, row_bytes) : 0;
    if (t->tier.quota < LEAST_QUOTA)
        return td_fail(TD_ERR_ARG,
                       "a memory limit of %zu bytes is too small for rows of %zu bytes; give it at "
                       "least %zu",
                       limit, row_bytes,
                       ((LEAST_QUOTA + 1) * PARTS * (row_bytes + sizeof(td_entry)) +
                        PARTS * TD_TABLE_LEAST_ENTRIES * sizeof(td_entry) + sizeof *t) /
                           7 * 8);
    t->tier.oldest = UINT32_MAX;
    return td_cold_open(t->config.folder, td_table_row_floats(t), cold, &t->tier.cold);
}

void td_tier_close(td_table *t)
{
    td_cold_close(t->tier.cold);
    td_free(t->tier.marks), td_free(t->tier.absent);
}

/* --- rows that go --- */

typedef struct leaving {
    uint64_t keys[CHUNK];
    size_t count;
    td_cold_row rows[CHUNK]; /* those that must be written first */
    size_t written;
} leaving;

static void choose(leaving *l, const td_table *t, const td_entry *e)
{
    l->keys[l->count++] = e->key;
    if (e->row < TD_TABLE_SIGHTED && t->tier.marks[e->row] & TD_ROW_MOVED)
        l->rows[l->written++] =
            (td_cold_row){.key = e->key, .used = e->used, .row = td_table_row(t, e->row)};
}

/* Where the hand points at its n-th step: lines of four entries, scattered, for entries that leave
 * one behind the other would leave the rest of the part so full that probes grow long. */
static td_entry *pointed(const td_part *p, size_t n)
{
    return &p->entries[((n / 4 * 0x9e3779b1 * 4) | n % 4) & p->mask];
}

/* Once round the part at most; whether some have lost their second chance. */
static bool go_round(const td_table *t, td_part *p, size_t most, leaving *l)
{
    bool again = false;
    l->count = l->written = 0;
    for (size_t steps = 0; steps <= p->mask && l->count < most; steps++) {
        __builtin_prefetch(pointed(p, p->hand + 4 * AHEAD));
        const td_entry *e = pointed(p, p->hand++);
        if (e->row == TD_TABLE_NONE) continue;
        uint8_t *mark = e->row < TD_TABLE_SIGHTED ? &t->tier.marks[e->row] : NULL;
        if (mark && *mark & TD_ROW_HELD) continue;
        if (mark && *mark & TD_ROW_USED)
            *mark &= (uint8_t)~TD_ROW_USED, again = true;
        else
            choose(l, t, e);
    }
    return again;
}

static void leave(td_table *t, td_part *p, const leaving *l)
{
    t->tier.writes += l->written;
    for (size_t i = 0; i < l->written; i++)
        if (l->rows[i].used < t->tier.oldest) t->tier.oldest = l->rows[i].used;
    for (size_t i = 0; i < l->count; i++) {
        if (i + AHEAD < l->count) td_table_prefetch(t, td_table_mixed(l->keys[i + AHEAD]));
        td_entry *e = td_table_probe(t, l->keys[i], td_table_mixed(l->keys[i]));
        t->tier.rows += e->row < TD_TABLE_SIGHTED;
        td_table_take_out(t, p, (size_t)(e - p->entries));
    }
}

/* Puts entries out until there are `need` free ones. */
static td_status put_out(td_table *t, td_part *p, size_t need, leaving *l)
{
    size_t quota = t->tier.quota, want = p->taken + need > quota ? p->taken + need - quota : 0;
    size_t chunk = CHUNK_BYTES / (t->stride * sizeof(float));
    chunk = chunk < 1 ? 1 : chunk > CHUNK ? CHUNK : chunk;
    if (!want) return TD_OK;
    if (want < quota / 16) want = quota / 16;
    while (want) {
        bool again = go_round(t, p, want < chunk ? want : chunk, l);
        if (!l->count && !again) break;
        if (l->written) TD_TRY(td_cold_put(t->tier.cold, l->rows, l->written));
        leave(t, p, l);
        want -= l->count;
    }
    if (p->taken + need <= quota) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "a request's rows do not fit into a table's memory limit of %zu bytes; make "
                   "requests smaller or the limit larger",
                   t->config.memory_bytes);
}

/* The request's rows stay while others go. */
static void hold(td_table *t, const uint64_t *keys, size_t count, bool held)
{
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) td_table_prefetch(t, td_table_mixed(keys[i + AHEAD]));
        const td_entry *e = td_table_probe(t, keys[i], td_table_mixed(keys[i]));
        if (e->row >= TD_TABLE_SIGHTED) continue;
        uint8_t *mark = &t->tier.marks[e->row];
        *mark = (uint8_t)(held ? *mark | TD_ROW_HELD : *mark & ~TD_ROW_HELD);
    }
}

static td_status make_room(td_table *t, const uint64_t *keys, size_t count, size_t absent)
{
    size_t need[PARTS] = {0};
    bool full = false;
    td_status status = TD_OK;
    for (size_t i = 0; i < absent; i++) need[td_table_part(td_table_mixed(t->tier.absent[i]))]++;
    for (int k = 0; k < PARTS; k++) full |= t->parts[k].taken + need[k] > t->tier.quota;
    if (!full) return TD_OK;
    leaving *l = td_malloc(sizeof *l);
    if (!l) return td_fail(TD_ERR_NOMEM, "no memory to put rows out");
    hold(t, keys, count, true);
    for (int k = 0; k < PARTS && status == TD_OK; k++)
        status = put_out(t, &t->parts[k], need[k], l);
    hold(t, keys, count, false);
    td_free(l);
    return status;
}

/* --- rows that come --- */

static int ascending(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The request's keys that have no row in memory, each once, in ascending order. */
static td_status list_absent(td_table *t, const uint64_t *keys, size_t count, size_t *out)
{
    uint64_t hash[AHEAD];
    size_t listed = 0, distinct = 0;
    if (count > t->tier.absent_room) {
        uint64_t *absent = td_reallocarray(t->tier.absent, count, sizeof *absent);
        if (!absent) return td_fail(TD_ERR_NOMEM, "no memory for a batch of %zu rows", count);
        t->tier.absent = absent, t->tier.absent_room = count;
    }
    uint64_t *absent = t->tier.absent;
    for (size_t i = 0; i < count + AHEAD; i++) {
        if (i >= AHEAD) {
            uint64_t key = keys[i - AHEAD];
            if (td_table_probe(t, key, hash[i % AHEAD])->row >= TD_TABLE_SIGHTED)
                absent[listed++] = key;
        }
        if (i >= count) continue;
        hash[i % AHEAD] = td_table_mixed(keys[i]);
        td_table_prefetch(t, hash[i % AHEAD]);
    }
    if (listed) qsort(absent, listed, sizeof *absent, ascending);
    for (size_t i = 0; i < listed; i++)
        if (!i || absent[i] != absent[i - 1]) absent[distinct++] = absent[i];
    *out = distinct;
    return TD_OK;
}

static td_status take_in(void *arg, size_t i, uint32_t used, const void *row)
{
    td_table *t = arg;
    uint64_t key = t->tier.absent[i], hash = td_table_mixed(key);
    td_part *p = &t->parts[td_table_part(hash)];
    td_entry *e;
    TD_TRY(td_table_enter(t, key, hash, &e));
    td_status status = td_table_give_row(t, e);
    if (status != TD_OK) {
        td_table_take_out(t, p, (size_t)(e - p->entries));
        return status;
    }
    e->used = used;
    t->tier.marks[e->row] = TD_ROW_COPIED;
    memcpy(td_table_row(t, e->row), row, td_table_row_floats(t) * sizeof(float));
    t->tier.rows--, t->tier.reads++;
    return TD_OK;
}

td_status td_tier_warm(td_table *t, const uint64_t *keys, size_t count)
{
    size_t absent = 0;
    if (!t->tier.cold) return TD_OK;
    TD_TRY(list_absent(t, keys, count, &absent));
    if (!absent) return TD_OK;
    TD_TRY(make_room(t, keys, count, absent));
    return t->tier.rows ? td_cold_get(t->tier.cold, t->tier.absent, absent, take_in, t) : TD_OK;
}

/* --- from another table --- */

/* What is in memory of a key is the truth: true, it is there, and its row is this now; or it was
 * seen only, and this is what is kept of that. */
static bool adopt_hot(td_table *t, uint64_t key, td_table_mark mark, const float *row)
{
    uint64_t hash = td_table_mixed(key);
    td_part *p = &t->parts[td_table_part(hash)];
    td_entry *e = td_table_probe(t, key, hash);
    if (e->row < TD_TABLE_SIGHTED) {
        if (mark.seen) return true;
        memcpy(td_table_row(t, e->row), row, td_table_row_floats(t) * sizeof *row);
        t->tier.marks[e->row] |= TD_ROW_MOVED;
        e->used = mark.used;
        return true;
    }
    if (e->row != TD_TABLE_NONE) td_table_take_out(t, p, (size_t)(e - p->entries));
    if (!mark.seen) return false;
    if (p->taken >= t->tier.quota) return true;
    if (td_table_enter(t, key, hash, &e) == TD_OK)
        *e = (td_entry){key, TD_TABLE_SIGHTED | mark.seen, mark.used};
    else
        td_error_clear();
    return true;
}

static td_status count_found(void *arg, size_t i, uint32_t used, const void *row)
{
    (void)i, (void)used, (void)row;
    ++*(size_t *)arg;
    return TD_OK;
}

static td_status adopt_cold(td_table *t, const td_cold_row *rows, size_t count)
{
    uint64_t keys[CHUNK / 4];
    size_t there = 0;
    for (size_t i = 0; i < count; i++) {
        keys[i] = rows[i].key;
        if (rows[i].used < t->tier.oldest) t->tier.oldest = rows[i].used;
    }
    if (count) qsort(keys, count, sizeof *keys, ascending);
    if (count && t->tier.rows) TD_TRY(td_cold_get(t->tier.cold, keys, count, count_found, &there));
    if (count) TD_TRY(td_cold_put(t->tier.cold, rows, count));
    t->tier.writes += count, t->tier.rows += count - there;
    return TD_OK;
}

td_status td_tier_adopt(td_table *t, const uint64_t *keys, const td_table_mark *marks,
                        const float *rows, size_t count)
{
    td_cold_row cold[CHUNK / 4];
    size_t floats = td_table_row_floats(t), n = 0;
    for (size_t i = 0; i < count; i++) {
        const float *row = rows + i * floats;
        if (marks[i].used < t->least) continue;
        if (!adopt_hot(t, keys[i], marks[i], row))
            cold[n++] = (td_cold_row){.key = keys[i], .used = marks[i].used, .row = row};
        if (n < CHUNK / 4) continue;
        TD_TRY(adopt_cold(t, cold, n));
        n = 0;
    }
    return adopt_cold(t, cold, n);
}

/* --- without bringing them in --- */

typedef struct wanted {
    uint64_t key;
    size_t at; /* in the request */
} wanted;

typedef struct peeking {
    const wanted *of; /* [count], by key */
    size_t count, width;
    const uint64_t *keys; /* as `of`, each once */
    size_t next;          /* of `of` */
    float *out;
} peeking;

static td_status copy_out(void *arg, size_t i, uint32_t used, const void *row)
{
    peeking *p = arg;
    (void)used;
    while (p->of[p->next].key < p->keys[i]) p->next++;
    for (; p->next < p->count && p->of[p->next].key == p->keys[i]; p->next++)
        memcpy(p->out + p->of[p->next].at * p->width, row, p->width * sizeof(float));
    return TD_OK;
}

td_status td_tier_peek(const td_table *t, const uint64_t *keys, const uint32_t *places,
                       size_t count, float *out)
{
    if (!t->tier.rows) return TD_OK;
    wanted *of = td_reallocarray(NULL, count, sizeof *of);
    uint64_t *distinct = td_reallocarray(NULL, count, sizeof *distinct);
    peeking p = {.of = of, .width = t->config.width, .keys = distinct, .out = out};
    size_t n = 0;
    td_status status = TD_ERR_NOMEM;
    if (!of || !distinct) {
        td_fail(status, "no memory for a batch of %zu rows", count);
        goto out;
    }
    for (size_t i = 0; i < count; i++)
        if (td_table_probe(t, keys[i], td_table_mixed(keys[i]))->row == TD_TABLE_NONE)
            of[p.count++] = (wanted){keys[i], td_table_place(places, i)};
    if (p.count) qsort(of, p.count, sizeof *of, ascending);
    for (size_t i = 0; i < p.count; i++)
        if (!i || of[i].key != of[i - 1].key) distinct[n++] = of[i].key;
    status = td_cold_get(t->tier.cold, distinct, n, copy_out, &p);
out:
    td_free(distinct), td_free(of);
    return status;
}

/* --- all cold rows --- */

static bool is_hot(const td_table *t, uint64_t key)
{
    return td_table_probe(t, key, td_table_mixed(key))->row < TD_TABLE_SIGHTED;
}

static td_status skip_copies(const td_table *t, td_cold_cursor *cursor)
{
    while (cursor->there && is_hot(t, cursor->key)) TD_TRY(td_cold_next(cursor));
    return TD_OK;
}

td_status td_tier_seek(const td_table *t, uint64_t first, td_cold_cursor *cursor)
{
    *cursor = (td_cold_cursor){0};
    if (!t->tier.rows) return TD_OK;
    TD_TRY(td_cold_seek(t->tier.cold, first, cursor));
    return skip_copies(t, cursor);
}

td_status td_tier_next(const td_table *t, td_cold_cursor *cursor)
{
    TD_TRY(td_cold_next(cursor));
    return skip_copies(t, cursor);
}

static td_status drop(td_table *t, const td_cold_row *rows, size_t count, size_t *gone)
{
    if (count) TD_TRY(td_cold_put(t->tier.cold, rows, count));
    for (size_t i = 0; i < count; i++) {
        const td_entry *e = td_table_probe(t, rows[i].key, td_table_mixed(rows[i].key));
        if (e->row >= TD_TABLE_SIGHTED) {
            t->tier.rows--, ++*gone;
            continue;
        }
        uint8_t *mark = &t->tier.marks[e->row];
        *mark = (uint8_t)((*mark & ~TD_ROW_COPIED) | TD_ROW_MOVED);
    }
    return TD_OK;
}

td_status td_tier_evict(td_table *t, uint32_t least, size_t *gone)
{
    if (!t->tier.cold || least <= t->tier.oldest) return TD_OK;
    td_cold_row rows[CHUNK / 4];
    size_t count = 0;
    uint32_t oldest = UINT32_MAX;
    td_cold_cursor cursor;
    td_status status = td_cold_seek(t->tier.cold, 0, &cursor);
    while (status == TD_OK && cursor.there) {
        if (cursor.used < least)
            rows[count++] = (td_cold_row){.key = cursor.key};
        else if (cursor.used < oldest)
            oldest = cursor.used;
        if (count == CHUNK / 4) status = drop(t, rows, count, gone), count = 0;
        if (status == TD_OK) status = td_cold_next(&cursor);
    }
    if (status == TD_OK) status = drop(t, rows, count, gone);
    if (status == TD_OK) t->tier.oldest = oldest;
    td_cold_leave(&cursor);
    return status;
}

td_status td_tier_drop(td_table *t, td_table_gone_fn *gone, void *arg, size_t *rows)
{
    if (!t->tier.cold) return TD_OK;
    td_cold_row chunk[CHUNK / 4];
    size_t count = 0;
    td_cold_cursor cursor;
    td_status status = td_cold_seek(t->tier.cold, 0, &cursor);
    while (status == TD_OK && cursor.there) {
        if (gone(arg, cursor.key)) chunk[count++] = (td_cold_row){.key = cursor.key};
        if (count == CHUNK / 4) status = drop(t, chunk, count, rows), count = 0;
        if (status == TD_OK) status = td_cold_next(&cursor);
    }
    if (status == TD_OK) status = drop(t, chunk, count, rows);
    td_cold_leave(&cursor);
    return status;
}
