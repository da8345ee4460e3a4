/* See shards.h. A part is an optimizer over the pieces of slots that lie in it. */
#include "strategy/shards.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/buddy.h"
#include "optim/apply.h"

#include <string.h>

enum { PARTS = TD_BUDDY_WANT };
_Static_assert((int)TD_BUDDY_HAVE == 2 * (int)PARTS, "former parts are offered");
_Static_assert(TD_BUDDY_VECTORS >= 3, "parameters and two arrays of state are dealt at once");

typedef struct part {
    size_t begin, end;
    td_slot *slots; /* offsets count from begin */
    td_optim *optim;
} part;

struct td_shards {
    td_shards_config config; /* size, rank: that parts are of */
    part part[PARTS];        /* the rank's own, its buddy's; in whole: [0, params) and nothing */
    part former[PARTS];      /* of the deal before, while some rank may not have its new ones */
    int64_t made;
    size_t *bytes; /* [size] of ranks' own parts */
};

/* --- parts --- */

static void destroy_part(part *p)
{
    td_optim_destroy(p->optim);
    td_free(p->slots);
    *p = (part){0};
}

static td_status create_part(const td_shards_config *c, size_t begin, size_t end, part *out)
{
    size_t n = 0;
    part p = {.begin = begin, .end = end};
    p.slots = td_calloc(c->slot_count, sizeof *p.slots);
    if (!p.slots) return td_fail(TD_ERR_NOMEM, "no memory for the optimizer");
    for (size_t i = 0; i < c->slot_count; i++) {
        const td_slot *s = &c->slots[i];
        size_t lo = s->offset > begin ? s->offset : begin, hi = s->offset + s->count;
        if (hi > end) hi = end;
        if (lo >= hi) continue;
        p.slots[n] = *s;
        p.slots[n].offset = lo - begin;
        p.slots[n++].count = hi - lo;
    }
    td_status status = td_optim_create(&c->optim, p.slots, n, end - begin, &p.optim);
    if (status != TD_OK) {
        td_free(p.slots);
        return status;
    }
    *out = p;
    return TD_OK;
}

/* Those of rank `rank` of `size`; a rank beyond has none. */
static td_status create_parts(const td_shards_config *c, int size, int rank, part out[PARTS])
{
    td_range range[PARTS] = {{.end = c->params}, {0}};
    if (c->sharded) {
        range[0] = rank < size ? td_buddy_own(c->params, size, rank) : (td_range){0};
        range[1] = rank < size ? td_buddy_mirror(c->params, size, rank) : (td_range){0};
    }
    TD_TRY(create_part(c, range[0].begin, range[0].end, &out[0]));
    td_status status = create_part(c, range[1].begin, range[1].end, &out[1]);
    if (status != TD_OK) destroy_part(&out[0]);
    return status;
}

/* How the group's ranks divide params. */
static td_status count_bytes(td_shards *s, int size)
{
    size_t *bytes = td_calloc((size_t)size, sizeof *bytes);
    if (!bytes) return td_fail(TD_ERR_NOMEM, "no memory for the optimizer");
    for (int r = 0; r < size; r++) {
        td_range own = td_buddy_own(s->config.params, size, r);
        bytes[r] = (own.end - own.begin) * sizeof(float);
    }
    td_free(s->bytes);
    s->bytes = bytes;
    return TD_OK;
}

td_status td_shards_create(const td_shards_config *config, td_shards **out)
{
    td_shards *s = td_calloc(1, sizeof *s);
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for the optimizer");
    s->config = *config;
    s->made = config->sharded && config->empty ? -1 : 0;
    td_status status = count_bytes(s, config->size);
    if (status == TD_OK) status = create_parts(config, config->size, config->rank, s->part);
    if (status == TD_OK)
        *out = s;
    else
        td_shards_destroy(s);
    return status;
}

static void drop(part parts[PARTS])
{
    for (int p = 0; p < PARTS; p++) destroy_part(&parts[p]);
}

void td_shards_destroy(td_shards *s)
{
    if (!s) return;
    drop(s->part);
    drop(s->former);
    td_free(s->bytes);
    td_free(s);
}

bool td_shards_sharded(const td_shards *s)
{
    return s->config.sharded;
}

int64_t td_shards_made(const td_shards *s)
{
    return s->made;
}

double td_shards_rate(const td_shards *s, uint64_t step)
{
    return td_optim_rate(s->part[0].optim, step);
}

/* --- steps --- */

void td_shards_step(td_shards *s, uint64_t step, const float *gradient, float scale, float *params)
{
    const td_shards_config *c = &s->config;
    drop(s->former);
    float clipped = td_optim_clip(c->optim.clip_norm, c->slots, c->slot_count, gradient, scale);
    for (int p = 0; p < PARTS; p++) {
        size_t begin = s->part[p].begin;
        td_optim_apply(s->part[p].optim, step, gradient + begin, scale, clipped, params + begin);
    }
    s->made = (int64_t)step + 1;
}

td_status td_shards_share(td_shards *s, td_comm *comm, float *params)
{
    if (!s->config.sharded) return TD_OK;
    TD_TRY(td_comm_allgatherv(comm, params + s->part[0].begin, s->bytes, params));
    drop(s->former); /* who has given its part has it */
    return TD_OK;
}

/* --- other groups --- */

/* Of params, where that is not NULL, and the state's arrays from `first` to `last`. */
static td_range range_of(const part *p, float *params, int first, int last)
{
    int v = 0;
    td_range range = {.begin = p->begin, .end = p->end};
    if (params) range.data[v++] = (char *)(params + p->begin);
    for (int k = first; k < last; k++) range.data[v++] = (char *)td_optim_state(p->optim, k);
    return range;
}

static void take_parts(td_shards *s, part parts[PARTS], int size, int rank, int64_t made)
{
    drop(s->former);
    for (int p = 0; p < PARTS; p++) {
        if (s->made >= 0)
            s->former[p] = s->part[p];
        else
            destroy_part(&s->part[p]);
        s->part[p] = parts[p];
        parts[p] = (part){0};
    }
    s->config.size = size, s->config.rank = rank;
    s->made = made;
}

/* The steps that all who have a state have made. */
static td_status agree_on_made(td_shards *s, td_comm *comm, int64_t *made)
{
    return td_comm_allreduce(comm, &s->made, made, 1, TD_I64, TD_MAX);
}

td_status td_shards_deal(td_shards *s, td_comm *comm, int size, float *params, bool *lost)
{
    int rank = td_comm_rank(comm), states = td_shards_states(s);
    part parts[PARTS] = {{0}};
    td_range have[2 * PARTS] = {{0}}, want[PARTS] = {{0}};
    int64_t made;
    *lost = false;
    td_status status = create_parts(&s->config, size, rank, parts);
    if (status == TD_OK) status = count_bytes(s, size);
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = agree_on_made(s, comm, &made);
    if (status == TD_OK) {
        for (int p = 0; p < PARTS; p++) {
            if (s->made >= 0) have[p] = range_of(&s->part[p], params, 0, states);
            if (s->former[p].optim) have[PARTS + p] = range_of(&s->former[p], params, 0, states);
            want[p] = range_of(&parts[p], params, 0, states);
        }
        status = td_buddy_deal(comm, sizeof(float), 1 + states, have, want, lost);
    }
    /* Who had nothing has nothing to lose. The others change when all have got theirs; as not all
     * may learn that, they keep the former parts until the next exchange of params. */
    if (status == TD_OK && s->made < 0) take_parts(s, parts, size, rank, made);
    if (status == TD_OK) status = td_comm_agree(comm, TD_OK);
    if (status == TD_OK && parts[0].optim) take_parts(s, parts, size, rank, made);
    drop(parts);
    return status;
}

/* --- the state's arrays --- */

int td_shards_states(const td_shards *s)
{
    return td_optim_states(s->part[0].optim);
}

const char *td_shards_state_name(const td_shards *s, int index)
{
    return td_optim_state_name(s->part[0].optim, index);
}

float *td_shards_state(td_shards *s, int index)
{
    return s->config.sharded ? NULL : td_optim_state(s->part[0].optim, index);
}

td_status td_shards_gather(td_shards *s, td_comm *comm, int index, size_t begin, size_t end,
                           float *out)
{
    bool lost;
    td_range have[2 * PARTS] = {{0}}, want[PARTS] = {{begin, end, {(char *)out}}, {0}};
    if (!s->config.sharded) {
        if (begin < end)
            memcpy(out, td_optim_state(s->part[0].optim, index) + begin,
                   (end - begin) * sizeof *out);
        return TD_OK;
    }
    for (int p = 0; p < PARTS; p++) have[p] = range_of(&s->part[p], NULL, index, index + 1);
    return td_buddy_deal(comm, sizeof(float), 1, have, want, &lost);
}

void td_shards_put(td_shards *s, int index, size_t begin, size_t count, const float *values)
{
    for (int p = 0; p < PARTS; p++) {
        const part *own = &s->part[p];
        size_t lo = begin > own->begin ? begin : own->begin, hi = begin + count;
        if (hi > own->end) hi = own->end;
        if (lo < hi)
            memcpy(td_optim_state(own->optim, index) + (lo - own->begin), values + (lo - begin),
                   (hi - lo) * sizeof *values);
    }
}

void td_shards_restored(td_shards *s, uint64_t made)
{
    s->made = (int64_t)made;
}
