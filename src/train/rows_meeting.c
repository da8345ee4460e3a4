/* When the ranks of a run over tables meet, and whether a checkpoint is due there. See rows_loop.h.
 *
 * All know the step of the next meeting: an epoch's or the run's end, with --checkpoint-every N a
 * multiple of N, with --balance some in the first epoch, so that hot servers are not found when it
 * is over. With a time, --checkpoint-every 5m, rank 0's clock decides. In step it asks
 * beside a step's agreement, and all meet behind that step. At their own pace nobody hears of the
 * clock between two meetings: at each, rank 0 turns the time that is left into steps, by how long
 * the last ones took, and tells all. Of a pace that is not known well yet it takes GROWTH times as
 * many steps at most, and behind a checkpoint an eighth of the time, where it is sealed. A run that
 * slows down meets late, by as much. Costs a broadcast of 16 bytes a meeting. */
#include "train/rows_loop.h"

#include "base/clock.h"
#include "base/error.h"

#include <math.h>

typedef td_rows_loop loop;

enum { GROWTH = 8, SEALED = 8, EARLY = 16 };
enum { FIRST_LOOK = 16, LEAST_LOOK = 16 }; /* at a 16th of the epoch, of so many steps */

static double since_checkpoint(const loop *l)
{
    return td_seconds(td_clock_ns() - l->checkpointed_at);
}

bool td_rows_clock_asks(const loop *l)
{
    uint64_t seconds = l->job->checkpoint_every.seconds;
    return l->first && seconds && since_checkpoint(l) >= (double)seconds;
}

/* How many steps take so long, at the pace since the last meeting. */
static uint64_t steps_in(const loop *l, double seconds)
{
    double took = td_seconds(td_clock_ns() - l->left_at);
    if (l->state.step <= l->left_step || !(took > 0)) return 1;
    double steps = (double)(l->state.step - l->left_step);
    return (uint64_t)fmax(1, fmin(GROWTH * steps, floor(seconds / took * steps)));
}

td_status td_rows_plan(loop *l, bool *due)
{
    const td_period *every = &l->job->checkpoint_every;
    uint64_t plan[2] = {0, 1}; /* due, steps to the next meeting */
    *due = l->state.step % (every->steps ? every->steps : l->per_epoch) == 0;
    if (!every->seconds) return TD_OK;
    if (l->first) {
        double period = (double)every->seconds, left = period - since_checkpoint(l);
        plan[0] = left <= period / EARLY;
        plan[1] = steps_in(l, plan[0] ? period / SEALED : left);
    }
    TD_TRY(td_comm_broadcast(l->comm, plan, sizeof plan, 0));
    *due = plan[0] != 0;
    l->to_meeting = plan[1];
    return TD_OK;
}

/* Behind a 16th, an eighth, a quarter and half of the first epoch servers are looked at. */
static uint64_t next_look(const loop *l, uint64_t step, uint64_t end)
{
    uint64_t look = l->per_epoch / FIRST_LOOK;
    bool looks = l->job->balance && look >= LEAST_LOOK;
    while (looks && look <= step) look *= 2;
    return looks && look < end ? look : end;
}

void td_rows_leave_meeting(loop *l)
{
    uint64_t step = l->state.step, end = (step / l->per_epoch + 1) * l->per_epoch, asked = end;
    const td_period *every = &l->job->checkpoint_every;
    if (every->steps) asked = (step / every->steps + 1) * every->steps;
    if (every->seconds && !l->exact) asked = step + (l->to_meeting ? l->to_meeting : 1);
    end = next_look(l, step, asked < end ? asked : end);
    l->end = end < l->last ? end : l->last;
    l->left_at = td_clock_ns(), l->left_step = step;
}
