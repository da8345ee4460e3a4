/* See rows_shared.h. */
#include "train/rows_shared.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "tandem/recover.h"

#include <string.h>

enum { AHEAD = 16 };

/* --- the memory --- */

/*  made u64 [workers], 64-byte aligned | rows float [rows][stride] | moved u8 [rows]  */
static size_t head_bytes(const td_shared_rows *s)
{
    return ((size_t)s->workers * sizeof *s->made + 63) / 64 * 64;
}

static void lay_out(td_shared_rows *s)
{
    s->made = s->region.data;
    s->row = (float *)((char *)s->region.data + head_bytes(s));
    s->moved = (uint8_t *)(s->row + s->rows * s->stride);
}

static size_t bytes_of(const td_shared_rows *s)
{
    return head_bytes(s) + s->rows * (s->stride * sizeof(float) + 1);
}

td_status td_shared_rows_join(const td_shared_config *config, td_shared_rows *out)
{
    td_shared_rows s = {.config = *config->table, .rows = config->rows, .workers = config->workers};
    size_t bytes;
    TD_TRY(td_rule_config(&s.config, &s.rule));
    s.floats = s.config.width * (1 + td_rule_state_count(s.rule));
    size_t align = s.floats > 16 ? 16 : 4;
    s.stride = s.floats < 4 ? s.floats : (s.floats + align - 1) / align * align;
    if (!td_mul(s.rows, s.stride * sizeof(float) + 1, &bytes))
        return td_fail(TD_ERR_ARG, "%zu rows of %zu floats are more than memory holds", s.rows,
                       s.stride);
    *out = s;
    return TD_OK;
}

td_status td_shared_rows_open(td_comm *comm, const td_shared_config *config, td_shared_rows *out)
{
    td_shared_rows s;
    td_status status = td_shared_rows_join(config, &s);
    if (status == TD_OK && td_comm_hosts(comm) > 1)
        status = td_fail(TD_ERR_ARG, "--strategy hogwild is for the workers of one machine; over "
                                     "several use --strategy ps --clock asp");
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(td_comm_shared_create(comm, bytes_of(&s), &s.region));
    s.version = 1;
    lay_out(&s);
    *out = s;
    return TD_OK;
}

void td_shared_rows_close(td_shared_rows *s, td_comm *comm)
{
    if (s->region.data) td_comm_shared_destroy(comm, &s->region);
    *s = (td_shared_rows){0};
}

static inline float *row_of(const td_shared_rows *s, uint64_t key)
{
    return s->row + key * s->stride;
}

/* --- in another group --- */

static void copy(const td_shared_rows *from, td_shared_rows *to)
{
    memcpy(to->made, from->made, (size_t)from->workers * sizeof *from->made);
    for (size_t k = 0; k < from->rows; k++) { /* the others are zero there, too */
        if (!from->moved[k]) continue;
        memcpy(row_of(to, k), row_of(from, k), from->floats * sizeof(float));
        to->moved[k] = 1;
    }
}

/* Nobody moves a row before all have come here, and have agreed that the copy is whole: so
 * whichever of the two a rank has when that fails, both hold the same. */
static td_status renew(td_comm *comm, td_shared_rows *s, int64_t newest, bool copies)
{
    td_shared_rows next = *s;
    next.region = (td_region){0};
    td_status status = td_comm_shared_create(comm, bytes_of(s), &next.region);
    if (status == TD_OK) lay_out(&next);
    if (status == TD_OK && copies) copy(s, &next);
    status = td_comm_agree(comm, status);
    if (status != TD_OK) {
        td_comm_shared_destroy(comm, &next.region);
        return status;
    }
    td_comm_shared_destroy(comm, &s->region);
    next.version = newest + 1;
    *s = next;
    return TD_OK;
}

/* Whether there is memory for all rows once more, which one rank tries: where the making of it for
 * all fails, nobody knows whether a rank has died. */
static td_status try_room(td_comm *comm, const td_shared_rows *s, int first, bool *fits)
{
    td_comm *alone = NULL;
    td_region region = {0};
    bool mine = td_comm_rank(comm) == first;
    *fits = true;
    TD_TRY(td_comm_split(comm, mine ? 0 : -1, 0, &alone));
    if (mine) *fits = td_comm_shared_create(alone, bytes_of(s), &region) == TD_OK;
    if (mine) td_comm_shared_destroy(alone, &region);
    td_comm_close(alone);
    return td_comm_broadcast(comm, fits, sizeof *fits, first);
}

/* Who has just come: it is lost to the others, which go on without it. */
static td_status leave(td_comm *comm, const char *why)
{
    int rank = td_comm_rank_in_run(comm, td_comm_rank(comm));
    td_warn("rank %d leaves the run: %s", rank, why);
    td_comm_die(comm);
    return td_fail(TD_ERR_PEER, "rank %d has left the run: %s", rank, why);
}

td_status td_shared_rows_move(td_comm *comm, td_shared_rows *s, bool *lost)
{
    int me = td_comm_rank(comm), first;
    bool fits;
    int64_t version[3] = {s->version, -s->version, !s->version}, most[3];
    TD_TRY(td_comm_allreduce(comm, version, most, 3, TD_I64, TD_MAX));
    int64_t newest = most[0], oldest = -most[1];
    bool anybody_new = most[2];
    if (!newest) {
        *lost = true;
        return td_fail(TD_ERR_PEER, "all ranks that shared the model's memory have died");
    }
    if (newest == oldest) return TD_OK; /* all have it */
    int mine = s->version == newest ? me : td_comm_size(comm);
    TD_TRY(td_comm_allreduce(comm, &mine, &first, 1, TD_I32, TD_MIN));
    if (td_comm_host_of(comm, me) != td_comm_host_of(comm, first))
        return leave(comm, "--strategy hogwild is for the workers of one machine, and it is on "
                           "another");
    TD_TRY(try_room(comm, s, first, &fits));
    if (!fits && !s->version)
        return leave(comm, "there is no memory into which --strategy hogwild could copy its rows, "
                           "to share them with it");
    if (!fits && anybody_new)
        return td_fail(TD_ERR_PEER, "a rank that has come leaves: no memory to share");
    if (!fits) {
        *lost = true;
        return td_fail(TD_ERR_PEER, "a rank died while --strategy hogwild went over to other "
                                    "memory, and there is none left to begin again");
    }
    return renew(comm, s, newest, me == first);
}

/* --- rows --- */

void td_shared_rows_read(const td_shared_rows *s, const uint64_t *keys, size_t count, float *out)
{
    size_t width = s->config.width;
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) __builtin_prefetch(row_of(s, keys[i + AHEAD]));
        if (s->moved[keys[i]])
            memcpy(out + i * width, row_of(s, keys[i]), width * sizeof *out);
        else
            td_rule_first_weights(&s->config, keys[i], out + i * width);
    }
}

void td_shared_rows_push(td_shared_rows *s, const uint64_t *keys, size_t count,
                         const float *gradients, td_table_step step)
{
    size_t width = s->config.width;
    td_mover mover = td_rule_mover(s->rule, &s->config, step);
    for (size_t i = 0; i < count; i++) {
        float *row = row_of(s, keys[i]);
        if (i + AHEAD < count) __builtin_prefetch(row_of(s, keys[i + AHEAD]), 1);
        if (!s->moved[keys[i]]) {
            td_rule_first_weights(&s->config, keys[i], row);
            s->moved[keys[i]] = 1;
        }
        td_rule_move(&mover, keys[i], row, gradients + i * width);
    }
}

td_status td_shared_rows_to_table(const td_shared_rows *s, td_table *table)
{
    for (size_t k = 0; k < s->rows; k++)
        if (s->moved[k]) TD_TRY(td_table_put(table, k, row_of(s, k)));
    return TD_OK;
}

static td_status take(void *arg, uint64_t key, const float *row)
{
    td_shared_rows *s = arg;
    if (key >= s->rows) return td_fail(TD_ERR_CORRUPT, "a row's key lies beyond --bits");
    memcpy(row_of(s, key), row, s->floats * sizeof *row);
    s->moved[key] = 1;
    return TD_OK;
}

td_status td_shared_rows_from_table(td_shared_rows *s, const td_table *table)
{
    return td_table_each(table, take, s);
}
