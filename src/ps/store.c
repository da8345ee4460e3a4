/* See store.h. */
#include "ps/store.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_store_init(td_store *s, const td_store_config *config, td_table *table)
{
    size_t n = (size_t)config->workers;
    *s = (td_store){.config = *config, .table = table};
    TD_TRY(td_clocks_init(&s->clocks, &config->clock, config->workers));
    s->newest = td_calloc(TD_SLICES * n, sizeof *s->newest);
    s->chosen = td_calloc(n, sizeof *s->chosen);
    if (s->newest && s->chosen) return TD_OK;
    td_free(s->newest);
    s->newest = NULL;
    return td_fail(TD_ERR_NOMEM, "no memory for the pushes of %d workers", config->workers);
}

void td_store_fini(td_store *s)
{
    td_store_expect_none(s);
    td_clocks_fini(&s->clocks);
    td_table_destroy(s->table);
    td_free(s->newest), td_free(s->chosen), td_free(s->scratch), td_free(s->some_keys);
    *s = (td_store){0};
}

/* --- pulls --- */

bool td_store_may_pull(const td_store *s, int worker, uint64_t clock)
{
    return td_clocks_may_pull(&s->clocks, worker, clock);
}

td_status td_store_pull(td_store *s, const td_slices *slices, uint64_t clock, const uint64_t *keys,
                        const uint32_t *places, size_t count, float *out)
{
    td_staleness_add(&s->reads, td_clocks_staleness(&s->clocks, clock), count);
    for (size_t i = s->turn++ % 8; i < count; i += 8) /* another eighth of the keys each time */
        s->load[td_slice_of(slices, keys[i])]++;
    return td_table_pull_at(s->table, keys, places, count, out);
}

/* --- pushes --- */

/* Steps of the others since its rows were read: their pushes by workers. */
static uint64_t steps_behind(const td_store *s, const td_store_push *p)
{
    uint64_t now = td_clocks_others(&s->clocks, p->worker),
             since = now > p->read ? now - p->read : 0;
    return (since + (uint64_t)s->config.workers / 2) / (uint64_t)s->config.workers;
}

static uint64_t *newest(const td_store *s, int slice, int worker)
{
    return &s->newest[(size_t)slice * (size_t)s->config.workers + (size_t)worker];
}

static td_status make_room(td_store *s, size_t floats, size_t keys)
{
    if (floats > s->scratch_room) {
        td_free(s->scratch);
        s->scratch_room = 0;
        s->scratch = td_alloc_aligned(floats * sizeof *s->scratch);
        if (!s->scratch) return td_fail(TD_ERR_NOMEM, "no memory for a push of %zu keys", keys);
        s->scratch_room = floats;
    }
    if (keys > s->keys_room) {
        td_free(s->some_keys);
        s->keys_room = 0;
        s->some_keys = td_alloc_aligned(keys * sizeof *s->some_keys);
        if (!s->some_keys) return td_fail(TD_ERR_NOMEM, "no memory for a push of %zu keys", keys);
        s->keys_room = keys;
    }
    return TD_OK;
}

/* g + lambda g g (w - w_then), into scratch. */
static td_status compensate(td_store *s, const td_store_push *p, size_t width)
{
    float lambda = s->config.compensation, *now = s->scratch;
    TD_TRY(td_table_peek(s->table, p->keys, p->count, now));
    for (size_t i = 0; i < p->count; i++)
        for (size_t k = 0; k < width; k++) {
            float g = p->values[2 * i * width + k] * p->scale;
            float then = p->values[(2 * i + 1) * width + k];
            now[i * width + k] = g + lambda * g * g * (now[i * width + k] - then);
        }
    return TD_OK;
}

/* The slice is not to be moved by it: it has it already, or will when it comes. */
static bool is_done_with(const td_store *s, int slice, const td_store_push *p)
{
    return s->comes[slice] || *newest(s, slice, p->worker) > p->clock;
}

/* The keys and values that are left, to the front of scratch. */
static size_t pick_missing(td_store *s, const td_slices *slices, const td_store_push *p,
                           const float *values, const uint32_t *places, size_t width)
{
    size_t n = 0;
    for (size_t i = 0; i < p->count; i++) {
        if (is_done_with(s, td_slice_of(slices, p->keys[i]), p)) continue;
        const float *from = values + td_table_place(places, i) * width;
        s->some_keys[n] = p->keys[i];
        memmove(s->scratch + n++ * width, from, width * sizeof *values);
    }
    return n;
}

/* Slices that a push has keys of. */
typedef struct some_slices {
    int count, at[TD_SLICES];
} some_slices;

static void list_slices(const td_slices *slices, const td_store_push *p, some_slices *out)
{
    bool has[TD_SLICES] = {false};
    out->count = 0;
    for (size_t i = 0; i < p->count; i++) {
        int slice = td_slice_of(slices, p->keys[i]);
        if (!has[slice]) out->at[out->count++] = slice;
        has[slice] = true;
    }
}

static td_status apply(td_store *s, const td_slices *slices, const td_store_push *p,
                       const some_slices *touched, float rate)
{
    size_t width = s->config.width, count = p->count;
    const uint64_t *keys = p->keys;
    const float *values = p->values;
    const uint32_t *places = p->places;
    bool compensated = s->config.compensation > 0, repeated = false;
    for (int k = 0; k < touched->count && !repeated; k++)
        repeated = is_done_with(s, touched->at[k], p);
    if (compensated || repeated) TD_TRY(make_room(s, count * width, count));
    if (compensated) {
        TD_TRY(compensate(s, p, width));
        values = s->scratch, places = NULL;
    }
    if (repeated) {
        count = pick_missing(s, slices, p, values, places, width);
        keys = s->some_keys, values = s->scratch, places = NULL;
    }
    td_table_step step = {.step = p->clock,
                          .scale = compensated ? 1 : p->scale,
                          .rate_factor = p->rate * rate,
                          .decay = p->decay};
    return td_table_push_at(s->table, keys, places, count, values, step);
}

/* By the mean of the workers' clocks, which resumptions and moves keep. */
static void forget_old_rows(td_store *s)
{
    uint64_t after = s->config.evict_after, now = 0;
    if (!after) return;
    for (int w = 0; w < s->config.workers; w++) now += s->clocks.pushed[w];
    now /= (uint64_t)s->config.workers;
    td_table_set_clock(s->table, (uint32_t)(now + 1));
    if (s->pushes % 64 == 0 && now > after) td_table_evict(s->table, (uint32_t)(now + 1 - after));
}

/* And marks that its slices have it. */
static td_status take(td_store *s, const td_slices *slices, const td_store_push *p, float rate)
{
    some_slices touched;
    list_slices(slices, p, &touched);
    TD_TRY(apply(s, slices, p, &touched, rate));
    for (int k = 0; k < touched.count; k++) {
        uint64_t *has = newest(s, touched.at[k], p->worker);
        if (!s->comes[touched.at[k]] && *has <= p->clock) *has = p->clock + 1;
    }
    return TD_OK;
}

/* --- slices that are to come --- */

struct td_aside {
    td_aside *next;
    td_store_push push; /* its keys, */
    float rate;
    size_t bytes;   /* of it all */
    float values[]; /* [count][floats_of], and behind them keys [count] */
};

static size_t floats_of(const td_store *s)
{
    return s->config.width * (s->config.compensation > 0 ? 2 : 1);
}

static void forget_aside(td_store *s, int slice)
{
    for (td_aside *a = s->aside[slice], *next; a; a = next) {
        next = a->next;
        s->aside_bytes -= a->bytes;
        td_free(a);
    }
    s->aside[slice] = s->aside_last[slice] = NULL;
}

void td_store_expect(td_store *s, const bool comes[TD_SLICES])
{
    td_store_expect_none(s);
    memcpy(s->comes, comes, sizeof s->comes);
    for (int k = 0; k < TD_SLICES; k++) s->coming += comes[k];
}

void td_store_expect_none(td_store *s)
{
    for (int k = 0; k < TD_SLICES; k++) forget_aside(s, k);
    memset(s->comes, 0, sizeof s->comes);
    s->coming = 0;
}

/* For the slice, with room for `count` keys of the push, and none yet. */
static td_status begin_aside(td_store *s, int slice, const td_store_push *p, float rate,
                             size_t count)
{
    size_t each = floats_of(s) * sizeof(float) + sizeof(uint64_t), bytes;
    bool fits = td_mul(count, each, &bytes) && bytes < SIZE_MAX / 2;
    bytes += sizeof(td_aside) + sizeof(uint64_t);
    td_aside *a = fits ? td_malloc(bytes) : NULL;
    if (!a) return td_fail(TD_ERR_NOMEM, "no memory to set a push of %zu keys aside", count);
    *a = (td_aside){.push = *p, .rate = rate, .bytes = bytes};
    size_t values = count * floats_of(s), pad = values % 2; /* keys are 8 bytes */
    a->push.keys = (const uint64_t *)(const void *)(a->values + values + pad);
    a->push.values = a->values, a->push.places = NULL, a->push.count = 0;
    if (s->aside_last[slice])
        s->aside_last[slice]->next = a;
    else
        s->aside[slice] = a;
    s->aside_last[slice] = a;
    s->aside_bytes += bytes;
    return TD_OK;
}

/* What goes to slices that are to come. */
static td_status set_aside(td_store *s, const td_slices *slices, const td_store_push *p, float rate)
{
    size_t count[TD_SLICES] = {0}, each = floats_of(s);
    for (size_t i = 0; i < p->count; i++) count[td_slice_of(slices, p->keys[i])]++;
    for (int k = 0; k < TD_SLICES; k++)
        if (s->comes[k] && count[k]) TD_TRY(begin_aside(s, k, p, rate, count[k]));
    for (size_t i = 0; i < p->count; i++) {
        int slice = td_slice_of(slices, p->keys[i]);
        if (!s->comes[slice]) continue;
        td_aside *a = s->aside_last[slice];
        size_t at = a->push.count++;
        memcpy((uint64_t *)(uintptr_t)a->push.keys + at, &p->keys[i], sizeof *p->keys);
        const float *from = p->values + td_table_place(p->places, i) * each;
        memcpy(a->values + at * each, from, each * sizeof *a->values);
    }
    return TD_OK;
}

td_status td_store_arrived(td_store *s, const td_slices *slices, int slice, const uint64_t *had)
{
    size_t workers = (size_t)s->config.workers;
    memcpy(newest(s, slice, 0), had, workers * sizeof *had);
    s->coming -= s->comes[slice];
    s->comes[slice] = false;
    td_status status = TD_OK;
    for (const td_aside *a = s->aside[slice]; a && status == TD_OK; a = a->next)
        status = take(s, slices, &a->push, a->rate);
    forget_aside(s, slice);
    return status;
}

/* --- a push --- */

/* Of a push's rate. One that is made again keeps what was chosen for it: of its two copies one may
 * have it already. */
static float factor_of(const td_store *s, const td_store_push *p, uint64_t behind)
{
    const td_store_chosen *chosen = &s->chosen[p->worker];
    if (p->factor > 0) return p->factor;
    if (p->again && chosen->clock == p->clock + 1) return chosen->factor;
    return s->config.by_staleness && behind > 1 ? 1 / (float)behind : 1;
}

td_status td_store_take_push(td_store *s, const td_slices *slices, const td_store_push *p,
                             td_store_taken *out)
{
    uint64_t behind = steps_behind(s, p);
    /* A copy takes what its primary has taken, whatever it knows of the clocks by now. */
    bool applied = !p->ticks || p->again || td_clocks_may_push(&s->clocks, p->clock);
    float factor = factor_of(s, p, behind);
    *out = (td_store_taken){applied, factor};
    if (applied && p->count && s->coming) TD_TRY(set_aside(s, slices, p, factor));
    if (applied && p->count) TD_TRY(take(s, slices, p, factor));
    if (applied && p->ticks) s->chosen[p->worker] = (td_store_chosen){p->clock + 1, factor};
    if (!p->ticks || p->clock < s->clocks.pushed[p->worker]) return TD_OK;
    s->pushes += applied, s->dropped += !applied;
    if (applied) td_staleness_add(&s->writes, behind, 1);
    forget_old_rows(s);
    td_clocks_push(&s->clocks, p->worker, p->clock, p->seconds);
    return TD_OK;
}

void td_store_start_at(td_store *s, uint64_t clock)
{
    size_t n = (size_t)s->config.workers;
    for (size_t w = 0; w < n; w++) s->clocks.pushed[w] = clock;
    for (size_t i = 0; i < TD_SLICES * n; i++)
        if (s->newest[i] > clock) s->newest[i] = clock;
    memset(s->chosen, 0, n * sizeof *s->chosen);
}

td_status td_store_renumber(td_store *s, int workers, uint64_t clock)
{
    td_store_config config = s->config;
    td_store other;
    config.workers = workers;
    td_status status = td_store_init(&other, &config, NULL);
    if (status == TD_OK) {
        td_store was = *s;
        s->config = config, s->clocks = other.clocks;
        s->newest = other.newest, s->chosen = other.chosen;
        other.clocks = was.clocks, other.newest = was.newest, other.chosen = was.chosen;
        td_store_start_at(s, clock);
    }
    td_store_fini(&other);
    return status;
}
