/* The samples of a step of td_train_rows, from this rank's data or a data server. See rows_loop.h.
 */
#include "train/rows_loop.h"

#include "base/clock.h"
#include "base/error.h"

typedef td_rows_loop loop;

td_status td_rows_open_loader(loop *l)
{
    const td_job *job = l->job;
    int begin, end;
    td_loader_destroy(l->loader);
    l->loader = NULL;
    td_rows_tables_leaves(&l->tables, job->leaves, &begin, &end);
    td_loader_config config = {.data = l->data->train,
                               .batch = (size_t)job->batch,
                               .leaves = job->leaves,
                               .leaf_begin = begin,
                               .leaf_end = end,
                               .seed = job->seed,
                               .shuffle = (td_shuffle)job->shuffle,
                               .drop_last = job->drop_last,
                               .ahead = l->task->features ? -1 : 0, /* it gives numbers only */
                               .sparse = l->task->features != NULL};
    if (begin == end)
        config.leaf_begin = 0, config.leaf_end = 1;            /* it knows how long an epoch is */
    if (l->tables.roles.now.counts.feeders) config.ahead = -1; /* and is asked for nothing else */
    if (!l->task->features) config.normalise = l->data->normalise;
    TD_TRY(td_loader_create(&config, &l->loader));
    l->per_epoch = td_loader_steps_per_epoch(l->loader);
    l->last = l->per_epoch * (uint64_t)job->epochs;
    if (job->steps && job->steps < l->last) l->last = job->steps;
    l->next_in_loader = 0;
    return TD_OK;
}

/* No other worker need wait for this one. */
td_status td_rows_retire(loop *l)
{
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) TD_TRY(td_sharded_retire(l->tables.sharded[k]));
    return TD_OK;
}

/* From whoever reads for this worker. One that waits whether others' shards come back is not waited
 * for: those others may be ahead of it, and the clock would stop them. */
td_status td_rows_next_shard(loop *l)
{
    int64_t began = td_clock_ns();
    uint64_t epoch = (l->end - 1) / l->per_epoch, end = td_rows_goal(l);
    bool retired = false;
    do {
        TD_TRY(td_feed_next(l->feed, epoch, end, l->state.step, &l->batch, &l->lease));
        if (l->lease.wait && !retired) TD_TRY(td_rows_retire(l));
        retired = l->lease.wait;
    } while (l->lease.wait);
    td_status status = TD_OK;
    if (!l->lease.none) status = td_rows_batch_index(&l->batch, &l->shape, NULL);
    l->batch.global_rows = (size_t)l->job->batch;
    l->batch.epoch = epoch;
    l->input_ns += td_clock_ns() - began;
    return status;
}

/* In step, from a data server. */
static td_status read_fed(loop *l)
{
    int begin, end;
    uint64_t step = l->state.step;
    int64_t began = td_clock_ns();
    td_rows_tables_leaves(&l->tables, l->job->leaves, &begin, &end);
    td_status status =
        td_feed_leaves(l->feed, step, begin, end, step + 1 < l->end, &l->shape, &l->batch);
    l->input_ns += td_clock_ns() - began;
    return status;
}

td_status td_rows_read_batch(loop *l, uint64_t step, td_rows_batch *out)
{
    const td_batch *b;
    int begin, end;
    int64_t began = td_clock_ns();
    if (l->next_in_loader != step)
        TD_TRY(td_loader_seek(l->loader, step / l->per_epoch, step % l->per_epoch));
    TD_TRY(td_loader_next(l->loader, &b));
    l->next_in_loader = step + 1;
    td_rows_tables_leaves(&l->tables, l->job->leaves, &begin, &end);
    td_batch none = *b;
    if (begin == end) { /* this rank only serves */
        none.rows = 0, none.leaves = 0;
        b = &none;
    }
    td_status status = td_rows_batch_fill(out, &l->shape, b, begin);
    l->input_ns += td_clock_ns() - began;
    return status;
}

td_status td_rows_next_batch(loop *l)
{
    if (td_rows_leases(l) || td_rows_ahead_take(l)) return TD_OK; /* it is there */
    if (l->feed) return read_fed(l);
    return td_rows_read_batch(l, l->state.step, &l->batch);
}
