/* The next batch while this one computes: its samples are read, and those of its rows fetched that
 * this step's push will not move; the rest is fetched behind that push, so that a worker always
 * reads what it has pushed. Between processes: a thread calls its servers, so that nothing would
 * come meanwhile, and rows that lie about leave the caches. See rows_loop.h. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <string.h>

typedef td_rows_loop loop;

static td_status make_room(td_rows_ahead *a, size_t rows, size_t width)
{
    if (rows <= a->room) return TD_OK;
    td_rows_ahead_free(a);
    rows += rows / 8;
    a->place = td_reallocarray(NULL, rows, sizeof *a->place);
    a->keys = td_reallocarray(NULL, rows, sizeof *a->keys);
    a->rows = td_reallocarray(NULL, rows * width, sizeof *a->rows);
    if (!a->place || !a->keys || !a->rows) {
        td_rows_ahead_free(a);
        return td_fail(TD_ERR_NOMEM, "no memory for %zu rows of the next batch", rows);
    }
    a->room = rows;
    return TD_OK;
}

void td_rows_ahead_free(td_rows_ahead *a)
{
    td_free(a->place), td_free(a->keys), td_free(a->rows);
    *a = (td_rows_ahead){0};
}

/* Up to the next meeting, and where clocks let a worker read before it has pushed. */
static bool may_begin(const loop *l)
{
    bool processes = !strcmp(td_comm_transport(l->comm), "mpi");
    return processes && l->tables.sharded[TD_ROWS_KEYED] && !l->feed &&
           td_clock_may_run_ahead(&l->clock) && l->state.step + 1 < l->end && !l->stopping;
}

td_status td_rows_ahead_begin(loop *l)
{
    td_rows_ahead *a = &l->ahead;
    const td_unique *next = &l->next.unique;
    a->there = a->fetching = false;
    if (!may_begin(l)) return TD_OK;
    TD_TRY(td_rows_read_batch(l, l->state.step + 1, &l->next));
    TD_TRY(make_room(a, next->count + 1, l->task->oracle.width));
    a->apart = td_unique_split(&l->batch.unique, next, a->place);
    a->count = next->count;
    for (size_t k = 0; k < a->count; k++) a->keys[k] = next->keys[a->place[k]];
    TD_TRY(td_sharded_fetch(l->tables.sharded[TD_ROWS_KEYED], a->keys, a->apart, 1, a->rows));
    a->step = l->state.step + 1;
    a->there = a->fetching = true;
    return TD_OK;
}

td_status td_rows_ahead_end(loop *l)
{
    int64_t began = td_clock_ns();
    if (!l->ahead.fetching) return TD_OK;
    l->ahead.fetching = false;
    td_status status = td_sharded_fetched(l->tables.sharded[TD_ROWS_KEYED]);
    l->pull_ns += td_clock_ns() - began;
    return status;
}

bool td_rows_ahead_take(loop *l)
{
    bool there = l->ahead.there && l->ahead.step == l->state.step;
    l->ahead.there = false;
    if (!there) return false;
    td_rows_batch batch = l->batch;
    l->batch = l->next;
    l->next = batch;
    l->ahead.taken = true;
    return true;
}

td_status td_rows_ahead_fetch(loop *l)
{
    td_rows_ahead *a = &l->ahead;
    size_t width = l->task->oracle.width;
    return td_sharded_fetch(l->tables.sharded[TD_ROWS_KEYED], a->keys + a->apart,
                            a->count - a->apart, 0, a->rows + a->apart * width);
}

void td_rows_ahead_spread(loop *l)
{
    td_rows_ahead *a = &l->ahead;
    size_t width = l->task->oracle.width;
    for (size_t k = 0; k < a->count; k++)
        memcpy(l->batch.table + a->place[k] * width, a->rows + k * width, width * sizeof(float));
    a->taken = false;
}
