/* The steps of td_train_rows. See rows.h, rows_loop.h. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "comm/transport.h"
#include "math/tree.h"
#include "optim/schedule.h"
#include "strategy/mishap.h"
#include "strategy/slow.h"

#include <math.h>
#include <string.h>

typedef td_rows_loop loop;

/* --- getting ready --- */

static td_status grow(void *pointer, size_t items, size_t bytes)
{
    void *more = td_alloc_aligned((items + 1) * bytes);
    void *old;
    memcpy(&old, pointer, sizeof old);
    if (!more) return td_fail(TD_ERR_NOMEM, "no memory for a step");
    td_free(old);
    memcpy(pointer, &more, sizeof more);
    return TD_OK;
}

/* Keys and leaves of the dense rows of each unit. Gradients stay where there is room for them: a
 * step whose push a loss has ended is still to push them. */
static td_status lay_out_dense(loop *l, size_t units)
{
    size_t rows = l->tables.dense_rows, n = units * rows;
    size_t width = l->tables.config[TD_ROWS_DENSE].width;
    int begin, end;
    if (!rows) return TD_OK;
    if (n > l->dense_room) {
        l->dense_room = 0;
        TD_TRY(grow(&l->dense_gradient, n * width, sizeof(float)));
        TD_TRY(grow(&l->dense_keys, n, sizeof *l->dense_keys));
        TD_TRY(grow(&l->dense_leaf, n, sizeof *l->dense_leaf));
        l->dense_room = n;
    }
    td_rows_tables_leaves(&l->tables, l->job->leaves, &begin, &end);
    for (size_t u = 0; u < units; u++)
        for (size_t k = 0; k < rows; k++) {
            l->dense_keys[u * rows + k] = k;
            l->dense_leaf[u * rows + k] = (uint32_t)begin + (uint32_t)u;
        }
    return TD_OK;
}

td_status td_rows_make_ready(loop *l)
{
    int begin, end;
    td_rows_tables_leaves(&l->tables, l->job->leaves, &begin, &end);
    size_t units = l->exact ? (size_t)(end - begin) : (size_t)l->job->threads;
    TD_TRY(td_rows_open_loader(l));
    TD_TRY(grow(&l->totals, units * TD_ROWS_TOTALS, sizeof *l->totals));
    TD_TRY(grow(&l->all_totals, (size_t)l->job->leaves * TD_ROWS_TOTALS, sizeof *l->all_totals));
    return lay_out_dense(l, units);
}

/* --- computing --- */

static size_t dense_floats(const loop *l)
{
    return l->tables.dense_rows * l->tables.config[TD_ROWS_DENSE].width;
}

static td_status compute_units(void *arg, int lane)
{
    loop *l = arg;
    td_rows_batch *b = &l->batch;
    const td_sparse_oracle *o = &l->task->oracle;
    int lanes = td_pool_lanes(l->pool);
    for (int u = b->unit_count * lane / lanes; u < b->unit_count * (lane + 1) / lanes; u++) {
        const td_rows_unit *unit = &b->units[u];
        td_sparse_leaf leaf;
        td_rows_batch_leaf(b, &l->shape, u, &leaf);
        leaf.params = l->tables.dense;
        leaf.totals = l->totals + u * TD_ROWS_TOTALS;
        if (l->exact) td_rows_count_unit(b, unit, leaf.totals);
        if (o->width)
            memset(b->gradient + unit->sum_begin * o->width, 0,
                   (unit->sum_end - unit->sum_begin) * o->width * sizeof(float));
        if (l->tables.dense_rows) {
            leaf.dense_gradient = l->dense_gradient + (size_t)u * dense_floats(l);
            memset(leaf.dense_gradient, 0, dense_floats(l) * sizeof(float));
        }
        TD_TRY(o->leaf(o->self, lane, &leaf));
    }
    return TD_OK;
}

static td_status compute(loop *l)
{
    int64_t began = td_clock_ns();
    const td_rows_batch *b = &l->batch;
    bool much = l->tables.dense_rows || b->entries * l->task->oracle.width >= TD_ROWS_WORTH_SHARING;
    td_status status = td_pool_run_if(l->pool, much && b->unit_count > 1, compute_units, l);
    int64_t took = td_clock_ns() - began;
    td_slow_down(&l->slow, took);
    l->compute_ns += td_clock_ns() - began;
    return status;
}

static td_table_step table_step(const loop *l, double scale)
{
    return (td_table_step){.step = l->state.step,
                           .scale = (float)scale,
                           .rate_factor = (float)td_schedule_rate(&l->schedule, l->state.step),
                           .decay = 1};
}

/* --- in step --- */

/* Totals of all leaves along their tree, the same at all ranks. */
static td_status sum_totals(loop *l, double sums[TD_LEAF_VALUES])
{
    const td_roles *roles = &l->tables.roles;
    int size = td_comm_size(l->comm), leaves = l->job->leaves, at = 0;
    size_t bytes[1024];
    for (int r = 0; r < size; r++) { /* working ranks in order have leaves in order */
        int begin = at * leaves / roles->working;
        bytes[r] = 0;
        if (roles->role[r].slot < 0) continue;
        at++;
        bytes[r] = (size_t)(at * leaves / roles->working - begin) * TD_ROWS_TOTALS * sizeof(double);
    }
    if (size == 1) memcpy(l->all_totals, l->totals, bytes[0]);
    td_status status =
        size > 1 ? td_comm_allgatherv(l->comm, l->totals, bytes, l->all_totals) : TD_OK;
    if (status != TD_OK) { /* the next group has its own */
        td_free(l->totals), td_free(l->all_totals);
        l->totals = l->all_totals = NULL;
        return status;
    }
    for (int v = 0; v < TD_LEAF_VALUES; v++)
        sums[v] = td_tree_fold_doubles(l->all_totals + v, TD_ROWS_TOTALS, leaves);
    return TD_OK;
}

static td_status offer(loop *l, int which)
{
    int begin, end;
    const td_rows_batch *b = &l->batch;
    td_rows_tables_leaves(&l->tables, l->job->leaves, &begin, &end);
    td_bulk_part part = {.leaf_begin = begin, .leaf_end = end, .each_once = b->unit_count <= 1};
    if (which == TD_ROWS_KEYED) {
        part.keys = l->sum_keys, part.leaf = b->leaf_of_sum, part.gradient = b->gradient;
        part.count = b->sums;
    } else {
        part.keys = l->dense_keys, part.leaf = l->dense_leaf, part.gradient = l->dense_gradient;
        part.count = (size_t)(end - begin) * l->tables.dense_rows;
    }
    return td_bulk_offer(l->tables.bulk[which], &part);
}

/* The keys of rows of gradients. */
static td_status name_sums(loop *l)
{
    const td_rows_batch *b = &l->batch;
    if (b->sums > l->sum_room) {
        TD_TRY(grow(&l->sum_keys, b->sums + b->sums / 4, sizeof *l->sum_keys));
        l->sum_room = b->sums + b->sums / 4;
    }
    for (size_t i = 0; i < b->sums; i++) l->sum_keys[i] = b->unique.keys[b->of_sum[i]];
    return TD_OK;
}

static td_status pull_exact(loop *l)
{
    td_rows_batch *b = &l->batch;
    td_rows_tables *t = &l->tables;
    int64_t began = td_clock_ns();
    if (t->has[TD_ROWS_KEYED])
        TD_TRY(td_bulk_pull(t->bulk[TD_ROWS_KEYED], b->unique.keys, b->unique.count, b->table));
    TD_TRY(td_rows_pull_dense(t, 0));
    l->pull_ns += td_clock_ns() - began;
    return TD_OK;
}

/* Whether any rank was asked to stop, behind the agreement that all have the step's sums. */
static td_status agree_on_offer(loop *l, td_status status)
{
    uint8_t mine[5] = {status != TD_OK, l->stop && *l->stop, td_rows_resize_asked(l),
                       td_rows_saving_now(l), td_rows_clock_asks(l)},
            all[5];
    if (td_rows_is_loss(status)) return status;
    memcpy(all, mine, sizeof all);
    if (td_comm_size(l->comm) > 1) TD_TRY(td_comm_allreduce(l->comm, mine, all, 5, TD_U8, TD_MAX));
    l->stopping = l->stopping || all[1];
    l->resizing = all[2];
    l->saved = !all[3];
    l->asked = all[4];
    return all[0] ? td_comm_agree(l->comm, status) : TD_OK;
}

void td_rows_forget(loop *l)
{
    td_table *t = td_rows_table(&l->tables, TD_ROWS_KEYED);
    uint64_t after = (uint64_t)l->job->evict_after, step = l->state.step;
    if (!after || !t) return;
    td_table_set_clock(t, (uint32_t)(step + 1));
    if (step % 64 == 0 && step > after) td_table_evict(t, (uint32_t)(step + 1 - after));
}

td_status td_rows_apply(loop *l)
{
    td_table_step step = table_step(l, l->scale);
    td_rows_forget(l);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.has[k]) TD_TRY(td_bulk_apply(l->tables.bulk[k], step));
    return TD_OK;
}

static td_status step_exact(loop *l)
{
    double sums[TD_LEAF_VALUES];
    td_rows_tables *t = &l->tables;
    uint64_t number = l->state.step + 1;
    td_status status = td_rows_next_batch(l);
    if (status == TD_OK) status = name_sums(l);
    TD_TRY(td_comm_size(l->comm) > 1 ? td_comm_agree(l->comm, status) : status);
    TD_TRY(pull_exact(l));
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "backward"));
    TD_TRY(compute(l));
    int64_t began = td_clock_ns();
    TD_TRY(sum_totals(l, sums));
    l->scale = sums[TD_LEAF_WEIGHT] > 0 ? 1 / sums[TD_LEAF_WEIGHT] : 0;
    for (int k = 0; k < TD_ROWS_TABLES && status == TD_OK; k++)
        if (t->has[k]) status = offer(l, k);
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "reduce"));
    TD_TRY(agree_on_offer(l, status));
    TD_TRY(td_rows_apply(l));
    l->push_ns += td_clock_ns() - began;
    l->state.step++;
    if (l->asked) l->end = l->state.step;
    td_rows_count_samples(l);
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "update"));
    status = td_rows_after_step(l, sums); /* before anything that a death may end */
    if (l->saving && l->saved) TD_TRY(td_rows_all_saved(l));
    return status;
}

/* --- at its own pace --- */

/* Totals of this rank's units. */
static void add_up(const loop *l, double sums[TD_LEAF_VALUES])
{
    for (int u = 0; u < l->batch.unit_count; u++)
        for (int v = 0; v < TD_LEAF_VALUES; v++) sums[v] += l->totals[u * TD_ROWS_TOTALS + v];
}

/* One row for each key, from the units' sums. */
static td_status join_units(loop *l, const float **out)
{
    td_rows_batch *b = &l->batch;
    size_t width = l->task->oracle.width, floats = b->unique.count * width;
    *out = b->gradient;
    if (b->unit_count == 1) return TD_OK; /* its sums are in the order of the keys */
    if (floats > l->summed_room) {
        TD_TRY(grow(&l->summed, floats + floats / 4, sizeof(float)));
        l->summed_room = floats + floats / 4;
    }
    memset(l->summed, 0, floats * sizeof(float));
    for (size_t i = 0; i < b->sums; i++) {
        float *to = l->summed + b->of_sum[i] * width;
        for (size_t k = 0; k < width; k++) to[k] += b->gradient[i * width + k];
    }
    *out = l->summed;
    return TD_OK;
}

static void join_dense(loop *l)
{
    size_t n = dense_floats(l);
    for (int u = 1; u < l->batch.unit_count; u++)
        for (size_t i = 0; i < n; i++) l->dense_gradient[i] += l->dense_gradient[(size_t)u * n + i];
}

/* Running averages of this worker's samples alone: all workers' pushes of a step are to count as
 * one of all samples, so each draws them to what it has seen by its share, and else to what they
 * were. In units of the batch, by which a push is divided. */
static void average_dense(loop *l, double weight)
{
    const td_table_config *c = &l->tables.config[TD_ROWS_DENSE];
    const td_rows_batch *b = &l->batch;
    float whole = (float)(b->global_rows ? b->global_rows : 1), share = td_rows_batch_share(b);
    for (size_t s = 0; s < c->span_count; s++)
        for (size_t i = c->spans[s].begin; c->spans[s].averages && i < c->spans[s].end; i++) {
            float was = l->tables.dense[i], *g = &l->dense_gradient[i];
            float seen = weight > 0 ? (float)((double)*g / weight) : was;
            *g = whole * ((1 - share) * was + share * seen);
        }
}

/* Rows are read at the step's clock: of a push that is made again that may lie behind this
 * worker's, and where the push goes under its own name, its clock would wait for it. */
static int steps_ahead(const loop *l)
{
    bool behind = l->feed && l->lease.owed && l->lease.clock < l->state.step;
    return behind ? -(int)(l->state.step - l->lease.clock) : 0;
}

static td_status pull_paced(loop *l)
{
    td_rows_tables *t = &l->tables;
    td_rows_batch *b = &l->batch;
    int64_t began = td_clock_ns();
    td_sharded *keyed = t->sharded[TD_ROWS_KEYED];
    bool ahead = l->ahead.taken;
    int at = steps_ahead(l);
    if (keyed)
        TD_TRY(ahead ? td_rows_ahead_fetch(l)
                     : td_sharded_fetch(keyed, b->unique.keys, b->unique.count, at, b->table));
    TD_TRY(td_rows_pull_dense(t, at));
    if (keyed) TD_TRY(td_sharded_fetched(keyed));
    if (ahead) td_rows_ahead_spread(l);
    l->pull_ns += td_clock_ns() - began;
    return TD_OK;
}

/* Pushes what each table does not have of the step yet. */
td_status td_rows_push_paced(loop *l)
{
    td_rows_tables *t = &l->tables;
    td_rows_batch *b = &l->batch;
    uint64_t number = l->pushing_at, clock = 0;
    bool owed = l->feed && l->lease.owed; /* what servers have of it they leave out */
    l->state.step = number;               /* which clocks that have gone on may have moved */
    td_table_step s = table_step(l, 1 / (double)(b->global_rows ? b->global_rows : 1));
    td_sharded_step step = {.scale = s.scale, .rate = s.rate_factor, .decay = 1};
    if (owed) step.again = true, step.worker = l->lease.worker, step.clock = l->lease.clock;
    if (t->has[TD_ROWS_KEYED] && (owed || td_sharded_clock(t->sharded[TD_ROWS_KEYED]) == number)) {
        step.keys = b->unique.keys, step.count = b->unique.count, step.rows = b->table;
        TD_TRY(join_units(l, &step.gradients));
        TD_TRY(td_sharded_push(t->sharded[TD_ROWS_KEYED], &step));
    }
    if (t->has[TD_ROWS_DENSE] && (owed || td_sharded_clock(t->sharded[TD_ROWS_DENSE]) == number)) {
        step.keys = t->dense_keys, step.count = t->dense_rows, step.rows = t->dense;
        step.gradients = l->dense_gradient, step.decay = td_rows_batch_share(b);
        TD_TRY(td_sharded_push(t->sharded[TD_ROWS_DENSE], &step));
    }
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (t->has[k] && td_sharded_clock(t->sharded[k]) > clock)
            clock = td_sharded_clock(t->sharded[k]);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (t->has[k]) td_sharded_skip_to(t->sharded[k], clock);
    l->pushing = false;
    l->state.step = clock;
    td_rows_count_samples(l);
    return TD_OK;
}

static td_status step_paced(loop *l)
{
    double sums[TD_LEAF_VALUES] = {0};
    uint64_t number = l->state.step + 1;
    TD_TRY(td_rows_next_batch(l));
    TD_TRY(pull_paced(l));
    TD_TRY(td_rows_ahead_begin(l));
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "backward"));
    TD_TRY(compute(l));
    add_up(l, sums);
    if (l->tables.has[TD_ROWS_DENSE]) join_dense(l), average_dense(l, sums[TD_LEAF_WEIGHT]);
    int64_t began = td_clock_ns();
    l->pushing = true;
    l->pushing_at = l->state.step;
    TD_TRY(td_rows_push_paced(l));
    l->push_ns += td_clock_ns() - began;
    TD_TRY(td_rows_ahead_end(l));
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "update"));
    return td_rows_after_step(l, sums);
}

/* --- in shared memory --- */

/* Workers that speak to nobody between two meetings look whether all are alive, now and then. */
static td_status hear_of_losses(loop *l)
{
    enum { EVERY_NS = 20000000 };
    int64_t now = td_clock_ns();
    if (now - l->heard_at < EVERY_NS) return TD_OK;
    l->heard_at = now;
    return td_comm_hear(l->comm, "a step");
}

static td_status step_shared(loop *l)
{
    double sums[TD_LEAF_VALUES] = {0};
    td_rows_tables *t = &l->tables;
    td_rows_batch *b = &l->batch;
    td_shared_rows *keyed = &t->shared[TD_ROWS_KEYED], *dense = &t->shared[TD_ROWS_DENSE];
    const float *gradient;
    uint64_t number = l->state.step + 1;
    TD_TRY(hear_of_losses(l));
    TD_TRY(td_rows_next_batch(l));
    if (t->has[TD_ROWS_KEYED])
        td_shared_rows_read(keyed, b->unique.keys, b->unique.count, b->table);
    TD_TRY(td_rows_pull_dense(t, 0));
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "backward"));
    TD_TRY(compute(l));
    add_up(l, sums);
    td_table_step step = table_step(l, 1 / (double)(b->global_rows ? b->global_rows : 1));
    TD_TRY(join_units(l, &gradient));
    td_rows_has_made(t, number); /* before its rows move: whoever follows makes no step twice */
    if (t->has[TD_ROWS_KEYED])
        td_shared_rows_push(keyed, b->unique.keys, b->unique.count, gradient, step);
    if (t->has[TD_ROWS_DENSE]) {
        join_dense(l), average_dense(l, sums[TD_LEAF_WEIGHT]);
        step.decay = td_rows_batch_share(b);
        td_shared_rows_push(dense, t->dense_keys, t->dense_rows, l->dense_gradient, step);
    }
    l->state.step++;
    td_rows_count_samples(l);
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "update"));
    l->stopping = l->stopping || (l->stop && *l->stop);
    return td_rows_after_step(l, sums);
}

/* With a copy of its own. */
static td_status step_own(loop *l)
{
    double sums[TD_LEAF_VALUES] = {0};
    const float *gradient;
    uint64_t number = l->state.step + 1;
    TD_TRY(td_rows_next_batch(l));
    TD_TRY(td_rows_own_read(l));
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "backward"));
    TD_TRY(compute(l));
    add_up(l, sums);
    if (l->tables.has[TD_ROWS_DENSE]) join_dense(l);
    TD_TRY(join_units(l, &gradient));
    bool last = number == l->end || (l->stop && *l->stop) || l->stopping;
    TD_TRY(td_rows_own_move(l, gradient, last));
    td_rows_count_samples(l);
    TD_TRY(td_mishap(l->mishaps, l->comm, number, "update"));
    return td_rows_after_step(l, sums);
}

static td_status step_alone(loop *l)
{
    bool copies = l->job->strategy == TD_STRATEGY_DOWNPOUR || l->job->strategy == TD_STRATEGY_EASGD;
    if (copies) return step_own(l);
    return l->mode == TD_ROWS_SHARED ? step_shared(l) : step_paced(l);
}

/* Whether all are to stop, as this worker or others were asked to. */
static td_status hear_of_stop(loop *l)
{
    bool asked = l->stop && *l->stop, tell = asked && !l->stopping;
    for (int k = 0; k < TD_ROWS_TABLES; k++) {
        if (!l->tables.sharded[k]) continue;
        if (tell) TD_TRY(td_sharded_stop(l->tables.sharded[k]));
        l->stopping = l->stopping || asked || td_sharded_stops(l->tables.sharded[k]);
    }
    return TD_OK;
}

static td_status up_to(loop *l, uint64_t end)
{
    while (l->state.step < end && !l->stopping) {
        TD_TRY(step_alone(l));
        TD_TRY(hear_of_stop(l));
    }
    return TD_OK;
}

/* The shards that are dealt out up to where all meet, or until all are to stop somewhere that they
 * have still to agree on. */
static td_status deal_out(loop *l)
{
    while (!l->stopping || l->stop_at) {
        TD_TRY(td_rows_next_shard(l));
        if (l->lease.none) {
            TD_TRY(td_rows_own_flush(l));
            return td_rows_retire(l);
        }
        TD_TRY(step_alone(l));
        TD_TRY(hear_of_stop(l));
    }
    return td_feed_tell(l->feed); /* others wait for what this worker has done */
}

/* All workers, which are to stop, to the furthest step that any has made. */
static td_status stop_behind(loop *l, uint64_t furthest)
{
    l->stopping = false;
    while (l->tables.roles.number >= 0 && l->state.step < furthest) TD_TRY(step_alone(l));
    TD_TRY(td_rows_own_flush(l));
    TD_TRY(td_rows_meet(&l->tables));
    l->stopping = true;
    l->stop_at = furthest + 1;
    return TD_OK;
}

/* All workers, which are to stop, behind all steps of which a shard is dealt out. */
static td_status stop_dealing(loop *l)
{
    uint64_t reach = td_feed_reach(l->feed, (l->end - 1) / l->per_epoch), most;
    if (l->stop_at) return TD_OK; /* that is where they are */
    TD_TRY(td_comm_allreduce(l->comm, &reach, &most, 1, TD_I64, TD_MAX));
    for (int k = 0; k < TD_ROWS_TABLES; k++) /* else nobody would wait for the slowest */
        if (l->tables.sharded[k]) td_sharded_end_stop(l->tables.sharded[k]);
    TD_TRY(td_comm_barrier(l->comm));
    l->stopping = true;
    l->stop_at = most + 1;
    if (l->tables.roles.number >= 0) TD_TRY(deal_out(l));
    return td_rows_meet(&l->tables);
}

/* All workers at the same step. */
static td_status meet(loop *l)
{
    uint64_t mine[2] = {l->state.step, l->stopping}, most[2];
    TD_TRY(td_rows_meet(&l->tables));
    TD_TRY(td_comm_allreduce(l->comm, mine, most, 2, TD_I64, TD_MAX));
    if (most[1]) TD_TRY(l->feed ? stop_dealing(l) : stop_behind(l, most[0]));
    l->state.step = td_rows_goal(l);
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "meet"));
    if (!l->feed) return TD_OK;
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) td_sharded_start_at(l->tables.sharded[k], l->state.step);
    td_feed_start_at(l->feed, l->state.step);
    return td_comm_barrier(l->comm); /* nobody asks those that are not there yet */
}

td_status td_rows_steps(loop *l, uint64_t end)
{
    if (l->exact) {
        while (l->state.step < l->end && !l->stopping && !l->resizing) TD_TRY(step_exact(l));
        return TD_OK;
    }
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "leave"));
    if (l->tables.roles.number >= 0) TD_TRY(l->feed ? deal_out(l) : up_to(l, end));
    return meet(l);
}
