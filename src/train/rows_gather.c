/* See rows_gather.h. An item on the way: key | mark, if asked for | the row's floats. */
#include "train/rows_gather.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "ps/rule.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef td_rows_gather gather;

td_status td_rows_columns_of(const td_table_config *config, int which, bool states,
                             td_rows_columns *out)
{
    td_rule rule;
    const char *prefix = which == TD_ROWS_DENSE ? "dense." : "";
    const char *name = config->rule ? config->rule : "sgd";
    TD_TRY(td_rule_find(name, &rule));
    *out = (td_rows_columns){.count = 1, .width = config->width};
    snprintf(out->name[0], TD_ROWS_NAME, "%sweights", prefix);
    for (size_t k = 0; states && k < td_rule_state_count(rule); k++)
        snprintf(out->name[out->count++], TD_ROWS_NAME, "%s%s.%s", prefix, name,
                 td_rule_states(rule)[k]);
    return TD_OK;
}

/* --- to the writers --- */

static int group_of(const gather *g, uint64_t key)
{
    return td_slice_of(&td_rows_place(g->t, g->which)->slices, key) * g->groups / TD_SLICES;
}

static bool is_meant(const gather *g, uint64_t key, const float *row)
{
    return (row || g->marks) && td_rows_speaks(g->t, g->which, key);
}

static td_status count_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    gather *g = arg;
    (void)mark;
    if (is_meant(g, key, row)) g->give[g->writer[group_of(g, key)]] += g->item;
    return TD_OK;
}

static td_status pack_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    gather *g = arg;
    if (!is_meant(g, key, row)) return TD_OK;
    size_t *at = &g->at[g->writer[group_of(g, key)]];
    char *to = g->out + *at;
    memcpy(to, &key, sizeof key);
    to += sizeof key;
    if (g->marks) {
        memcpy(to, &mark, sizeof mark);
        to += sizeof mark;
    }
    if (row)
        memcpy(to, row, g->floats * sizeof *row);
    else
        memset(to, 0, g->floats * sizeof *row);
    *at += g->item;
    return TD_OK;
}

static td_status exchange(gather *g)
{
    td_rows_tables *t = g->t;
    td_table *table = td_rows_table(t, g->which);
    td_status status = table ? td_table_each_key(table, count_row, g) : TD_OK;
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
        status = td_table_each_key(table, pack_row, g);
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_alltoallv(t->comm, g->out, g->give, g->in, g->take));
    td_free(g->out);
    g->out = NULL;
    return TD_OK;
}

td_status td_rows_gather_open(td_rows_tables *t, int which, int groups, const td_rows_columns *c,
                              bool marks, gather *g)
{
    size_t n = (size_t)td_comm_size(t->comm);
    *g = (gather){.t = t, .which = which, .groups = groups, .marks = marks};
    g->floats = c->count * c->width;
    g->item = sizeof(uint64_t) + (marks ? sizeof(td_table_mark) : 0) + g->floats * sizeof(float);
    g->writer = td_calloc((size_t)groups, sizeof *g->writer);
    g->give = td_calloc(3 * n, sizeof *g->give);
    td_status status = g->writer && g->give ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to save");
    TD_TRY(td_comm_agree(t->comm, status));
    g->take = g->give + n, g->at = g->give + 2 * n;
    for (int k = 0; k < groups; k++)
        g->writer[k] = td_rows_place(t, which)->primary[(k * TD_SLICES + groups - 1) / groups];
    return exchange(g);
}

void td_rows_gather_close(gather *g)
{
    if (g->t) td_free(g->out), td_free(g->in);
    td_free(g->writer), td_free(g->give);
    *g = (gather){0};
}

/* --- a group in order --- */

typedef struct place { /* of an item in what has come */
    uint64_t key;
    size_t at;
} place;

static int ascending(const void *a, const void *b)
{
    uint64_t x = ((const place *)a)->key, y = ((const place *)b)->key;
    return (x > y) - (x < y);
}

void td_rows_sorted_free(td_rows_sorted *s)
{
    td_free(s->keys), td_free(s->used);
    td_free(s->sighted_keys), td_free(s->sighted_used), td_free(s->sighted_seen);
    for (int k = 0; k < TD_ROWS_COLUMNS; k++) td_free(s->column[k]);
    *s = (td_rows_sorted){0};
}

static td_table_mark mark_at(const gather *g, size_t at)
{
    td_table_mark mark = {0};
    if (g->marks) memcpy(&mark, g->in + at + sizeof(uint64_t), sizeof mark);
    return mark;
}

static bool numbers(uint64_t **out, size_t n)
{
    return (*out = td_reallocarray(NULL, n + 1, sizeof **out)) != NULL;
}

static td_status make_room(const gather *g, const td_rows_columns *c, td_rows_sorted *s)
{
    bool made = numbers(&s->keys, s->rows);
    if (g->marks)
        made = made && numbers(&s->used, s->rows) && numbers(&s->sighted_keys, s->sighted) &&
               numbers(&s->sighted_used, s->sighted) && numbers(&s->sighted_seen, s->sighted);
    for (size_t k = 0; k < c->count && made; k++) {
        s->column[k] = td_reallocarray(NULL, s->rows * c->width + 1, sizeof(float));
        made = s->column[k] != NULL;
    }
    return made ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to save %zu rows", s->rows);
}

static void lay_out(const gather *g, const td_rows_columns *c, const place *order, size_t n,
                    td_rows_sorted *s)
{
    size_t bytes = c->width * sizeof(float), row = 0, sighted = 0;
    for (size_t i = 0; i < n; i++) {
        td_table_mark mark = mark_at(g, order[i].at);
        if (mark.seen) {
            s->sighted_keys[sighted] = order[i].key;
            s->sighted_used[sighted] = mark.used, s->sighted_seen[sighted++] = mark.seen;
            continue;
        }
        const char *floats = g->in + order[i].at + g->item - g->floats * sizeof(float);
        s->keys[row] = order[i].key;
        if (s->used) s->used[row] = mark.used;
        for (size_t k = 0; k < c->count; k++)
            memcpy(s->column[k] + row * c->width, floats + k * bytes, bytes);
        row++;
    }
}

td_status td_rows_gather_sort(const gather *g, int group, const td_rows_columns *c,
                              td_rows_sorted *out)
{
    size_t n = 0, all = g->in_bytes / g->item;
    place *order = td_reallocarray(NULL, all + 1, sizeof *order);
    if (!order) return td_fail(TD_ERR_NOMEM, "no memory to save %zu rows", all);
    for (size_t at = 0; at < g->in_bytes; at += g->item) {
        uint64_t key;
        memcpy(&key, g->in + at, sizeof key);
        if (group_of(g, key) != group) continue;
        order[n++] = (place){key, at};
        out->sighted += mark_at(g, at).seen > 0;
    }
    out->rows = n - out->sighted;
    qsort(order, n, sizeof *order, ascending);
    td_status status = make_room(g, c, out);
    if (status == TD_OK) lay_out(g, c, order, n, out);
    td_free(order);
    return status;
}
