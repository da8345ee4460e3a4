/* See rows_shared.h. */
#include "train/rows_shared.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { AHEAD = 16 };

td_status td_shared_rows_open(td_comm *comm, const td_table_config *config, size_t rows,
                              td_shared_rows *out)
{
    td_shared_rows s = {.config = *config, .rows = rows};
    size_t bytes = 0;
    td_status status = td_rule_config(&s.config, &s.rule);
    if (status == TD_OK && td_comm_hosts(comm) > 1)
        status = td_fail(TD_ERR_ARG, "--strategy hogwild is for the workers of one machine; over "
                                     "several use --strategy ps --clock asp");
    s.floats = config->width * (1 + td_rule_state_count(s.rule));
    size_t align = s.floats > 16 ? 16 : 4;
    s.stride = s.floats < 4 ? s.floats : (s.floats + align - 1) / align * align;
    if (status == TD_OK && (!td_mul(rows, s.stride * sizeof(float) + 1, &bytes)))
        status = td_fail(TD_ERR_ARG, "%zu rows of %zu floats are more than memory holds", rows,
                         s.stride);
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(td_comm_shared_create(comm, bytes, &s.region));
    s.row = s.region.data;
    s.moved = (uint8_t *)(s.row + rows * s.stride);
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
        td_rule_move(&mover, row, gradients + i * width);
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
