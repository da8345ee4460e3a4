/* Workers that move a copy of their own, and meet the servers now and then.
 *
 *   downpour  the copy moves by this worker's gradients, which are summed up and pushed every
 *             --push-every steps; every --fetch-every steps it is dropped, and rows are fetched
 *             again (Dean et al., "Large scale distributed deep networks", NIPS 2012, section 4.1)
 *   easgd     every --push-every steps the rows that have moved and the servers' (the centre) are
 *             drawn to each other: with d = alpha (x - centre), x -= d and centre += d (Zhang,
 *             Choromanska, LeCun, "Deep learning with elastic averaging SGD", NIPS 2015, section 2)
 *
 * The copy moves by plain SGD, with --weight-decay; easgd's centre does not decay by itself. A copy
 * of rows under keys that outgrows KEEP rows is dropped: easgd's when it has been drawn to the
 * centre; what downpour has still to push is kept apart from it. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/error.h"
#include "optim/schedule.h"
#include "ps/cache.h"

#include <string.h>

enum { KEEP = 1 << 20 };

struct td_rows_own {
    td_cache view;     /* rows under keys, as this worker has them */
    td_table *pending; /* sums of gradients, of rows that have moved since the last push */
    bool has_dense;
    float *dense, *dense_pending;
    float pending_share; /* of a batch, that dense_pending is of: 1 makes a step of all workers */
    bool pends;          /* something has not been pushed yet */
    uint64_t *keys;      /* [room] of the last push */
    float *rows, *centre;
    size_t room, count;
};

typedef td_rows_loop loop;
typedef struct td_rows_own own;

static td_status new_pending(const loop *l, own *o)
{
    td_table_config c = {.width = l->task->oracle.width, .lr = 1};
    td_table_destroy(o->pending);
    o->pending = NULL;
    return c.width ? td_table_create(&c, &o->pending) : TD_OK;
}

static td_status make(loop *l)
{
    own *o = td_calloc(1, sizeof *o);
    size_t n = l->tables.dense_rows * l->tables.config[TD_ROWS_DENSE].width;
    if (!o) return td_fail(TD_ERR_NOMEM, "no memory for a copy of the model");
    l->own = o;
    if (l->task->oracle.width) TD_TRY(td_cache_init(&o->view, KEEP, l->task->oracle.width));
    TD_TRY(new_pending(l, o));
    if (!n) return TD_OK;
    o->dense = td_alloc_aligned(n * sizeof *o->dense);
    o->dense_pending = td_calloc(n, sizeof *o->dense_pending);
    return o->dense && o->dense_pending
               ? TD_OK
               : td_fail(TD_ERR_NOMEM, "no memory for a copy of the model");
}

void td_rows_own_free(struct td_rows_own *o)
{
    if (!o) return;
    td_cache_fini(&o->view);
    td_table_destroy(o->pending);
    td_free(o->dense), td_free(o->dense_pending), td_free(o->keys), td_free(o->rows);
    td_free(o->centre);
    td_free(o);
}

static size_t dense_floats(const loop *l)
{
    return l->tables.dense_rows * l->tables.config[TD_ROWS_DENSE].width;
}

static td_status make_room(own *o, size_t rows, size_t width)
{
    if (rows <= o->room) return TD_OK;
    td_free(o->keys), td_free(o->rows), td_free(o->centre);
    o->room = 0;
    o->keys = td_reallocarray(NULL, rows, sizeof *o->keys);
    o->rows = td_reallocarray(NULL, rows * width, sizeof *o->rows);
    o->centre = td_reallocarray(NULL, rows * width, sizeof *o->centre);
    if (!o->keys || !o->rows || !o->centre)
        return td_fail(TD_ERR_NOMEM, "no memory for a push of %zu rows", rows);
    o->room = rows;
    return TD_OK;
}

/* --- reading --- */

/* There is room in the copy for all of the batch's rows: so none goes that is still to be pushed.
 */
static td_status make_way(loop *l)
{
    own *o = l->own;
    size_t count = l->batch.unique.count;
    if (o->view.count + count <= o->view.rows) return TD_OK;
    if (l->job->strategy == TD_STRATEGY_EASGD) TD_TRY(td_rows_own_flush(l));
    td_cache_clear(&o->view);
    if (count <= o->view.rows) return TD_OK;
    td_cache_fini(&o->view);
    return td_cache_init(&o->view, count, l->task->oracle.width);
}

/* The batch's rows from the copy; those that it lacks are fetched into it. */
static td_status read_keyed(loop *l)
{
    own *o = l->own;
    td_rows_batch *b = &l->batch;
    size_t width = l->task->oracle.width, missing = 0;
    TD_TRY(make_way(l));
    TD_TRY(make_room(o, b->unique.count, width));
    for (size_t i = 0; i < b->unique.count; i++) {
        td_age of;
        const float *row = td_cache_get(&o->view, b->unique.keys[i], 0, &of);
        if (row)
            memcpy(b->table + i * width, row, width * sizeof *row);
        else
            o->keys[missing++] = b->unique.keys[i];
    }
    if (!missing) return TD_OK;
    TD_TRY(td_sharded_fetch(l->tables.sharded[TD_ROWS_KEYED], o->keys, missing, 0, o->rows));
    TD_TRY(td_sharded_fetched(l->tables.sharded[TD_ROWS_KEYED]));
    for (size_t k = 0, i = 0; k < missing; k++) { /* in the batch's order */
        while (b->unique.keys[i] != o->keys[k]) i++;
        memcpy(b->table + i * width, o->rows + k * width, width * sizeof(float));
        td_cache_put(&o->view, o->keys[k], (td_age){0}, o->rows + k * width);
    }
    return TD_OK;
}

static td_status read_dense(loop *l)
{
    own *o = l->own;
    if (!l->tables.dense_rows) return TD_OK;
    if (!o->has_dense) {
        TD_TRY(td_rows_pull_dense(&l->tables, 0));
        memcpy(o->dense, l->tables.dense, dense_floats(l) * sizeof(float));
    }
    o->has_dense = true;
    memcpy(l->tables.dense, o->dense, dense_floats(l) * sizeof(float));
    return TD_OK;
}

/* --- moving the copy --- */

/* By gradients at that rate, and decay at the schedule's; a network at its own (--net-lr), and so
 * much of a step. */
static td_status move_copy(loop *l, const float *gradient, float rate, float decay, float share)
{
    own *o = l->own;
    td_rows_batch *b = &l->batch;
    size_t width = l->task->oracle.width, n = dense_floats(l);
    float net = l->tables.config[TD_ROWS_DENSE].lr; /* keyed rows have 1 */
    for (size_t i = 0; i < b->unique.count && width; i++) {
        float *row = b->table + i * width;
        for (size_t k = 0; k < width; k++)
            row[k] -= rate * gradient[i * width + k] + decay * row[k];
        td_cache_put(&o->view, b->unique.keys[i], (td_age){0}, row);
    }
    /* Sums are of gradients of a whole batch's mean: those of a smaller one weigh more. */
    float weighs = b->global_rows ? (float)l->job->batch / (float)b->global_rows : 1;
    td_table_step sum = {.scale = -weighs, .rate_factor = 1, .decay = 0};
    if (width) TD_TRY(td_table_push(o->pending, b->unique.keys, b->unique.count, gradient, sum));
    const td_table_config *c = &l->tables.config[TD_ROWS_DENSE];
    for (size_t i = 0, s = 0; i < n; i++) {
        while (s < c->span_count && c->spans[s].end <= i) s++;
        bool decays = s < c->span_count && c->spans[s].begin <= i;
        float less = decays ? share * decay * o->dense[i] : 0;
        o->dense[i] -= net * (rate * l->dense_gradient[i] + less);
        o->dense_pending[i] += weighs * l->dense_gradient[i];
    }
    o->pending_share += td_rows_batch_share(b);
    o->pends = true;
    return TD_OK;
}

/* --- meeting the servers --- */

static td_status collect(void *arg, uint64_t key, const float *row)
{
    loop *l = arg;
    own *o = l->own;
    size_t width = l->task->oracle.width;
    o->keys[o->count] = key;
    memcpy(o->rows + o->count++ * width, row, width * sizeof *row);
    return TD_OK;
}

static td_status push_one(loop *l, int which, const uint64_t *keys, size_t count, const float *g,
                          td_table_step s)
{
    td_sharded_step step = {.keys = keys, .count = count, .gradients = g, .scale = s.scale};
    step.rate = s.rate_factor, step.decay = s.decay;
    return l->tables.has[which] ? td_sharded_push(l->tables.sharded[which], &step) : TD_OK;
}

/* Rows that have moved, in o->keys and o->rows (sums of gradients). */
static td_status take_pending(loop *l)
{
    own *o = l->own;
    o->count = 0;
    if (!o->pending) return TD_OK;
    TD_TRY(make_room(o, td_table_rows(o->pending) + 1, l->task->oracle.width));
    TD_TRY(td_table_each(o->pending, collect, l));
    return new_pending(l, o);
}

static td_status push_sums(loop *l)
{
    own *o = l->own;
    td_table_step step = {.scale = 1 / (float)l->job->batch, .decay = 1};
    step.rate_factor = (float)td_schedule_rate(&l->schedule, l->state.step);
    TD_TRY(take_pending(l));
    TD_TRY(push_one(l, TD_ROWS_KEYED, o->keys, o->count, o->rows, step));
    step.decay = o->pending_share;
    TD_TRY(push_one(l, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows, o->dense_pending,
                    step));
    if (o->dense_pending) memset(o->dense_pending, 0, dense_floats(l) * sizeof(float));
    o->pending_share = 0;
    return TD_OK;
}

/* x -= d; d to where x was. */
static void draw_nearer(float *x, const float *centre, size_t n, float alpha, float *out)
{
    for (size_t i = 0; i < n; i++) {
        float d = alpha * (x[i] - centre[i]);
        x[i] -= d;
        out[i] = -d; /* as a gradient of the centre */
    }
}

static td_status draw_to_centre(loop *l)
{
    own *o = l->own;
    size_t width = l->task->oracle.width, n = dense_floats(l);
    float alpha = (float)l->job->elastic;
    const td_table_step step = {.scale = 1, .rate_factor = 1}; /* a centre does not decay */
    if (alpha == 0) alpha = 0.9f / (float)l->tables.roles.now.counts.workers;
    TD_TRY(take_pending(l));
    if (o->count) {
        td_sharded *s = l->tables.sharded[TD_ROWS_KEYED];
        TD_TRY(td_sharded_fetch(s, o->keys, o->count, 0, o->centre));
        TD_TRY(td_sharded_fetched(s));
    }
    for (size_t i = 0; i < o->count; i++) {
        td_age of;
        float *to = o->rows + i * width, moved[65536];
        memcpy(moved, td_cache_get(&o->view, o->keys[i], 0, &of), width * sizeof *to);
        draw_nearer(moved, o->centre + i * width, width, alpha, to);
        td_cache_put(&o->view, o->keys[i], (td_age){0}, moved);
    }
    TD_TRY(push_one(l, TD_ROWS_KEYED, o->keys, o->count, o->rows, step));
    if (!n) return TD_OK;
    TD_TRY(td_rows_pull_dense(&l->tables, 0));
    draw_nearer(o->dense, l->tables.dense, n, alpha, o->dense_pending);
    TD_TRY(push_one(l, TD_ROWS_DENSE, l->tables.dense_keys, l->tables.dense_rows, o->dense_pending,
                    step));
    memset(o->dense_pending, 0, n * sizeof(float));
    return TD_OK;
}

/* --- a step --- */

td_status td_rows_own_read(loop *l)
{
    if (!l->own) TD_TRY(make(l));
    bool downpour = l->job->strategy == TD_STRATEGY_DOWNPOUR;
    if (downpour && l->state.step % (uint64_t)l->job->fetch_every == 0) {
        td_cache_clear(&l->own->view);
        l->own->has_dense = false;
    }
    if (l->task->oracle.width) TD_TRY(read_keyed(l));
    return read_dense(l);
}

td_status td_rows_own_flush(loop *l)
{
    if (!l->own || !l->own->pends) return TD_OK;
    TD_TRY(l->job->strategy == TD_STRATEGY_EASGD ? draw_to_centre(l) : push_sums(l));
    l->own->pends = false;
    return TD_OK;
}

td_status td_rows_own_move(loop *l, const float *gradient, bool last)
{
    float scale = 1 / (float)(l->batch.global_rows ? l->batch.global_rows : 1);
    float rate = (float)td_schedule_rate(&l->schedule, l->state.step);
    /* A copy is alone with its gradients, so it moves by the mean of its own samples. */
    float mine = l->batch.rows ? rate / (float)l->batch.rows : 0;
    bool due = last || (l->state.step + 1) % (uint64_t)l->job->push_every == 0;
    float share = 1;
    if (l->job->strategy == TD_STRATEGY_DOWNPOUR)
        mine = rate * scale, share = td_rows_batch_share(&l->batch); /* as the servers do */
    TD_TRY(move_copy(l, gradient, mine, rate * (float)l->job->weight_decay, share));
    if (due) TD_TRY(td_rows_own_flush(l));
    l->state.step++;
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.has[k]) td_sharded_skip_to(l->tables.sharded[k], l->state.step);
    return TD_OK;
}
