/* See table.h. */
#include "ps/table.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/rng.h"
#include "math/kernels.h"

#include <math.h>
#include <string.h>

enum { PARTS = 64, LEAST_ENTRIES = 64, SLAB_BYTES = 4 << 20 };
enum { AHEAD = 32 }; /* places in memory that are asked for before they are used */
#define NONE UINT32_MAX
#define SIGHTED                                                                                    \
    0x80000000u /* an entry without a row: how often its key was seen, in the other bits */

enum { SGD, MOMENTUM, ADAGRAD, ADAM, FTRL, RULES };
const char *const td_table_rule_names[] = {"sgd", "momentum", "adagrad", "adam", "ftrl", NULL};
static const int states_of[RULES] = {0, 1, 1, 2, 2};

typedef struct entry {
    uint64_t key;
    uint32_t row;  /* NONE: free; SIGHTED | n: none yet */
    uint32_t used; /* clock */
} entry;

typedef struct part {
    entry *entries; /* [mask + 1] */
    size_t mask, taken;
} part;

struct td_table {
    td_table_config config;
    int rule;
    size_t stride; /* floats from row to row */
    part parts[PARTS];
    float **slabs;
    size_t slab_count;
    uint32_t slab_bits;             /* rows of a slab: 1 << slab_bits */
    uint32_t made;                  /* rows ever */
    uint32_t *spare;                /* rows that were evicted */
    size_t spare_count, spare_room; /* room for all rows */
    size_t rows;
    uint32_t clock;
    float **found; /* [found_room] rows of the batch under way */
    size_t found_room;
};

/* --- beginning and end --- */

static td_status find_rule(const char *name, int *out)
{
    for (*out = 0; *out < RULES; ++*out)
        if (!strcmp(td_table_rule_names[*out], name)) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "no update rule of tables is called \"%s\"; there are sgd, momentum, adagrad, "
                   "adam "
                   "and ftrl",
                   name);
}

static td_status check(td_table_config *c, int *rule)
{
    if (c->width < 1 || c->width > 65536)
        return td_fail(TD_ERR_ARG, "a table's rows have 1 to 65536 weights, not %zu", c->width);
    TD_TRY(find_rule(c->rule ? c->rule : "sgd", rule));
    if (c->momentum == 0) c->momentum = 0.9f;
    if (c->beta1 == 0) c->beta1 = 0.9f;
    if (c->beta2 == 0) c->beta2 = 0.999f;
    if (c->epsilon == 0) c->epsilon = *rule == ADAM ? 1e-8f : 1e-10f;
    if (c->beta == 0) c->beta = 1;
    if (c->admit == 0) c->admit = 1;
    if (!(c->lr > 0 && c->lr < 1e6f))
        return td_fail(TD_ERR_ARG, "lr must be above 0, not %g", (double)c->lr);
    if (!(c->momentum > 0 && c->momentum < 1) || !(c->beta1 > 0 && c->beta1 < 1) ||
        !(c->beta2 > 0 && c->beta2 < 1))
        return td_fail(TD_ERR_ARG, "momentum, beta1 and beta2 must be between 0 and 1");
    if (!(c->l1 >= 0) || !(c->l2 >= 0) || !(c->beta > 0) || !(c->epsilon > 0) ||
        !(c->weight_decay >= 0) || !(c->scale >= 0))
        return td_fail(TD_ERR_ARG,
                       "l1, l2, beta, epsilon, weight decay and the scale of new rows must not "
                       "be negative");
    if (c->admit >= SIGHTED)
        return td_fail(TD_ERR_ARG, "rows are admitted after less than 2^31 sightings");
    return TD_OK;
}

static bool make_part(part *p, size_t entries)
{
    p->entries = td_alloc_aligned(entries * sizeof(entry));
    if (!p->entries) return false;
    p->mask = entries - 1;
    memset(p->entries, 0xff, entries * sizeof(entry)); /* all NONE */
    return true;
}

td_status td_table_create(const td_table_config *config, td_table **out)
{
    td_table *t = td_calloc(1, sizeof *t);
    if (!t) return td_fail(TD_ERR_NOMEM, "no memory for a table");
    t->config = *config;
    td_status status = check(&t->config, &t->rule);
    if (status != TD_OK) {
        td_free(t);
        return status;
    }
    size_t floats = td_table_row_floats(t), align = floats > 16 ? 16 : 4;
    t->stride = (floats + align - 1) / align * align;
    while (((size_t)2 << t->slab_bits) * t->stride * sizeof(float) <= SLAB_BYTES) t->slab_bits++;
    bool made = true;
    for (int k = 0; k < PARTS && made; k++) made = make_part(&t->parts[k], LEAST_ENTRIES);
    if (!made) {
        td_table_destroy(t);
        return td_fail(TD_ERR_NOMEM, "no memory for a table");
    }
    *out = t;
    return TD_OK;
}

void td_table_destroy(td_table *t)
{
    if (!t) return;
    for (int k = 0; k < PARTS; k++) td_free(t->parts[k].entries);
    for (size_t k = 0; k < t->slab_count; k++) td_free(t->slabs[k]);
    td_free(t->slabs), td_free(t->spare), td_free(t->found);
    td_free(t);
}

size_t td_table_rows(const td_table *t)
{
    return t->rows;
}

size_t td_table_row_floats(const td_table *t)
{
    return t->config.width * (size_t)(1 + states_of[t->rule]);
}

size_t td_table_bytes(const td_table *t)
{
    size_t bytes = sizeof *t + t->spare_room * sizeof *t->spare + t->found_room * sizeof *t->found;
    for (int k = 0; k < PARTS; k++) bytes += (t->parts[k].mask + 1) * sizeof(entry);
    return bytes + t->slab_count * ((size_t)1 << t->slab_bits) * t->stride * sizeof(float);
}

void td_table_set_clock(td_table *t, uint32_t now)
{
    t->clock = now;
}

/* --- rows --- */

static float *row_at(const td_table *t, uint32_t row)
{
    return t->slabs[row >> t->slab_bits] + (row & ((1u << t->slab_bits) - 1)) * t->stride;
}

static void begin_weights(const td_table *t, uint64_t key, float *w)
{
    const td_table_config *c = &t->config;
    td_rng rng;
    if (c->init == TD_TABLE_ZERO) {
        memset(w, 0, c->width * sizeof *w);
        return;
    }
    td_rng_init(&rng, c->seed, TD_RNG_TABLE, c->number, key);
    for (size_t i = 0; i < c->width; i++)
        w[i] = c->scale *
               (c->init == TD_TABLE_UNIFORM ? 2 * td_rng_unit(&rng) - 1 : td_rng_normal(&rng));
}

static td_status add_slab(td_table *t)
{
    size_t count = t->slab_count + 1, room = count << t->slab_bits;
    float **slabs = td_reallocarray(t->slabs, count, sizeof *slabs);
    if (slabs) t->slabs = slabs;
    uint32_t *spare = slabs ? td_reallocarray(t->spare, room, sizeof *spare) : NULL;
    if (spare) t->spare = spare, t->spare_room = room;
    float *slab =
        spare ? td_alloc_aligned(((size_t)1 << t->slab_bits) * t->stride * sizeof *slab) : NULL;
    if (!slab) return td_fail(TD_ERR_NOMEM, "no memory for more than %zu rows of a table", t->rows);
    t->slabs[t->slab_count++] = slab;
    return TD_OK;
}

static td_status take_row(td_table *t, uint32_t *out)
{
    if (t->spare_count) {
        *out = t->spare[--t->spare_count];
    } else {
        if (t->made == SIGHTED - 1)
            return td_fail(TD_ERR_UNSUPPORTED, "a table has at most %u rows on a server",
                           SIGHTED - 1);
        if (t->made >> t->slab_bits == t->slab_count) TD_TRY(add_slab(t));
        *out = t->made++;
    }
    t->rows++;
    return TD_OK;
}

/* --- the index: linear probing (Knuth, vol. 3, 6.4 L) --- */

/* Stafford's 13th mixer; other bits than those that choose the server. */
static uint64_t mixed(uint64_t key)
{
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9;
    key = (key ^ key >> 27) * 0x94d049bb133111eb;
    return key ^ key >> 31;
}

static part *part_of(td_table *t, uint64_t hash)
{
    return &t->parts[hash >> 58];
}

/* The key's entry, or the free one where it goes. */
static entry *probe(const part *p, uint64_t key, uint64_t hash)
{
    size_t at = hash & p->mask;
    while (p->entries[at].row != NONE && p->entries[at].key != key) at = (at + 1) & p->mask;
    return &p->entries[at];
}

static td_status grow(part *p)
{
    part larger = {.taken = p->taken};
    if (!make_part(&larger, 2 * (p->mask + 1)))
        return td_fail(TD_ERR_NOMEM, "no memory for a table's index of %zu keys",
                       2 * (p->mask + 1));
    for (size_t k = 0; k <= p->mask; k++)
        if (p->entries[k].row != NONE)
            *probe(&larger, p->entries[k].key, mixed(p->entries[k].key)) = p->entries[k];
    td_free(p->entries);
    *p = larger;
    return TD_OK;
}

/* A new key's entry. */
static td_status enter(td_table *t, uint64_t key, uint64_t hash, entry **out)
{
    part *p = part_of(t, hash);
    if (4 * (p->taken + 1) > 3 * (p->mask + 1)) TD_TRY(grow(p));
    *out = probe(p, key, hash);
    **out = (entry){.key = key, .row = SIGHTED};
    p->taken++;
    return TD_OK;
}

/* Frees an entry, and moves those behind it that it kept from their places (Knuth, 6.4 R). */
static void take_out(part *p, size_t hole)
{
    for (size_t at = (hole + 1) & p->mask; p->entries[at].row != NONE; at = (at + 1) & p->mask) {
        size_t home = mixed(p->entries[at].key) & p->mask;
        if (((at - home) & p->mask) < ((at - hole) & p->mask)) continue;
        p->entries[hole] = p->entries[at];
        hole = at;
    }
    p->entries[hole].row = NONE;
    p->taken--;
}

/* One more sighting; *row: NULL, or the key's, made if it is time. */
static td_status see(td_table *t, uint64_t key, uint64_t hash, float **row)
{
    entry *e = probe(part_of(t, hash), key, hash);
    *row = NULL;
    if (e->row == NONE) TD_TRY(enter(t, key, hash, &e));
    if (e->used != t->clock) e->used = t->clock; /* lines that stay clean are not written back */
    if (e->row < SIGHTED) {
        *row = row_at(t, e->row);
        return TD_OK;
    }
    if (++e->row - SIGHTED < t->config.admit) return TD_OK;
    uint32_t sighted = e->row - 1;
    td_status status = take_row(t, &e->row);
    if (status != TD_OK) {
        e->row = sighted;
        return status;
    }
    *row = row_at(t, e->row);
    memset(*row, 0, t->stride * sizeof **row);
    begin_weights(t, key, *row);
    return TD_OK;
}

/* --- batches --- */

/* Finds the batch's rows, which are t->found then: NULL where they are not admitted. */
static td_status find(td_table *t, const uint64_t *keys, size_t count)
{
    uint64_t hash[AHEAD];
    if (count > t->found_room) {
        float **found = td_reallocarray(t->found, count, sizeof *found);
        if (!found) return td_fail(TD_ERR_NOMEM, "no memory for a batch of %zu rows", count);
        t->found = found, t->found_room = count;
    }
    for (size_t i = 0; i < count + AHEAD; i++) {
        if (i >= AHEAD) {
            size_t k = i - AHEAD;
            TD_TRY(see(t, keys[k], hash[k % AHEAD], &t->found[k]));
        }
        if (i >= count) continue;
        uint64_t h = hash[i % AHEAD] = mixed(keys[i]);
        const part *p = part_of(t, h);
        __builtin_prefetch(&p->entries[h & p->mask]);
    }
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

td_status td_table_pull(td_table *t, const uint64_t *keys, size_t count, float *out)
{
    size_t width = t->config.width, bytes = width * sizeof *out;
    TD_TRY(find(t, keys, count));
    for (size_t i = 0; i < count; i++) {
        fetch_ahead(t, i, count, bytes);
        if (t->found[i])
            memcpy(out + i * width, t->found[i], bytes);
        else
            begin_weights(t, keys[i], out + i * width);
    }
    return TD_OK;
}

void td_table_peek(const td_table *t, const uint64_t *keys, size_t count, float *out)
{
    size_t width = t->config.width;
    uint64_t hash[AHEAD];
    const float *row[AHEAD]; /* found, and on its way */
    for (size_t i = 0; i < count + 2 * AHEAD; i++) {
        if (i >= 2 * AHEAD) {
            size_t k = i - 2 * AHEAD;
            if (row[k % AHEAD])
                memcpy(out + k * width, row[k % AHEAD], width * sizeof *out);
            else
                begin_weights(t, keys[k], out + k * width);
        }
        if (i >= AHEAD && i - AHEAD < count) {
            size_t k = i - AHEAD;
            const entry *e = probe(&t->parts[hash[k % AHEAD] >> 58], keys[k], hash[k % AHEAD]);
            row[k % AHEAD] = e->row < SIGHTED ? row_at(t, e->row) : NULL;
            for (size_t at = 0; e->row < SIGHTED && at < width; at += 16)
                __builtin_prefetch(row[k % AHEAD] + at);
        }
        if (i >= count) continue;
        uint64_t h = hash[i % AHEAD] = mixed(keys[i]);
        const part *p = &t->parts[h >> 58];
        __builtin_prefetch(&p->entries[h & p->mask]);
    }
}

static td_update update_of(const td_table *t, td_table_step step)
{
    const td_table_config *c = &t->config;
    td_update u = {.n = c->width,
                   .scale = step.scale,
                   .lr = c->lr * step.rate_factor,
                   .momentum = t->rule == MOMENTUM ? c->momentum : 0,
                   .beta1 = c->beta1,
                   .beta2 = c->beta2,
                   .epsilon = c->epsilon,
                   .weight_decay = c->weight_decay,
                   .l1 = c->l1,
                   .l2 = c->l2,
                   .beta = c->beta};
    if (t->rule == ADAM) {
        u.correct1 = (float)(1 / (1 - pow((double)c->beta1, (double)step.step + 1)));
        u.correct2 = (float)(1 / (1 - pow((double)c->beta2, (double)step.step + 1)));
    }
    return u;
}

static void move_row(const td_table *t, td_update *u, float *row, const float *gradient)
{
    const td_kernels *k = td_kernels_best();
    u->p = row, u->g = gradient;
    u->s1 = states_of[t->rule] > 0 ? row + u->n : NULL;
    u->s2 = states_of[t->rule] > 1 ? row + 2 * u->n : NULL;
    switch (t->rule) {
    case ADAGRAD: k->adagrad(u); break;
    case ADAM: k->adam(u); break;
    case FTRL: k->ftrl(u); break;
    default: k->sgd(u); break;
    }
}

td_status td_table_push(td_table *t, const uint64_t *keys, size_t count, const float *gradients,
                        td_table_step step)
{
    size_t width = t->config.width, bytes = td_table_row_floats(t) * sizeof(float);
    td_update u = update_of(t, step);
    TD_TRY(find(t, keys, count));
    for (size_t i = 0; i < count; i++) {
        fetch_ahead(t, i, count, bytes);
        if (t->found[i]) move_row(t, &u, t->found[i], gradients + i * width);
    }
    return TD_OK;
}

/* --- all rows --- */

/* Entries move while others are taken out: a place is looked at until what lies there stays. */
size_t td_table_evict(td_table *t, uint32_t least)
{
    size_t gone = 0;
    for (int k = 0; k < PARTS; k++) {
        part *p = &t->parts[k];
        for (size_t at = 0; at <= p->mask;) {
            entry *e = &p->entries[at];
            if (e->row == NONE || e->used >= least) {
                at++;
                continue;
            }
            if (e->row < SIGHTED) {
                t->spare[t->spare_count++] = e->row;
                t->rows--, gone++;
            }
            take_out(p, at);
        }
    }
    return gone;
}

size_t td_table_drop(td_table *t, td_table_gone_fn *gone, void *arg)
{
    size_t rows = 0;
    for (int k = 0; k < PARTS; k++) {
        part *p = &t->parts[k];
        for (size_t at = 0; at <= p->mask;) {
            const entry *e = &p->entries[at];
            if (e->row == NONE || !gone(arg, e->key)) {
                at++;
                continue;
            }
            if (e->row < SIGHTED) {
                t->spare[t->spare_count++] = e->row;
                t->rows--, rows++;
            }
            take_out(p, at);
        }
    }
    return rows;
}

td_status td_table_each(const td_table *t, td_table_each_fn *each, void *arg)
{
    for (int k = 0; k < PARTS; k++)
        for (size_t at = 0; at <= t->parts[k].mask; at++) {
            const entry *e = &t->parts[k].entries[at];
            if (e->row < SIGHTED) TD_TRY(each(arg, e->key, row_at(t, e->row)));
        }
    return TD_OK;
}

td_status td_table_put(td_table *t, uint64_t key, const float *row)
{
    uint64_t hash = mixed(key);
    entry *e = probe(part_of(t, hash), key, hash);
    if (e->row == NONE) TD_TRY(enter(t, key, hash, &e));
    if (e->row >= SIGHTED) {
        uint32_t made;
        TD_TRY(take_row(t, &made));
        e->row = made;
    }
    e->used = t->clock;
    memcpy(row_at(t, e->row), row, td_table_row_floats(t) * sizeof *row);
    return TD_OK;
}
