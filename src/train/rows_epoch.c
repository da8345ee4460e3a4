/* What an epoch of td_train_rows has come to: its loss before learning, and the proof that each of
 * its samples was learnt from once. See rows_loop.h. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"

#include <stdio.h>
#include <string.h>

typedef td_rows_loop loop;

typedef struct counted { /* samples */
    uint64_t samples, marks;
} counted;
_Static_assert(sizeof(counted) == (TD_ROWS_TOTALS - TD_LEAF_VALUES) * sizeof(double),
               "behind totals");

static counted count(const uint64_t *sample, size_t n)
{
    counted c = {.samples = n};
    for (size_t k = 0; k < n; k++) c.marks += td_feed_mark(sample[k]);
    return c;
}

void td_rows_count_unit(const td_rows_batch *b, const td_rows_unit *unit,
                        double totals[TD_ROWS_TOTALS])
{
    counted c = count(b->sample + unit->row_begin, unit->row_end - unit->row_begin);
    memcpy(totals + TD_LEAF_VALUES, &c, sizeof c);
}

static void add(loop *l, counted c)
{
    l->epoch_samples += c.samples, l->epoch_marks += c.marks;
}

void td_rows_count_samples(loop *l)
{
    const td_rows_batch *b = &l->batch;
    for (int leaf = 0; leaf < l->job->leaves && l->exact; leaf++) {
        counted c;
        memcpy(&c, l->all_totals + leaf * TD_ROWS_TOTALS + TD_LEAF_VALUES, sizeof c);
        add(l, c);
    }
    if (!l->exact) add(l, count(b->sample, b->rows));
    l->state.samples_seen += td_rows_leases(l) ? b->rows : b->global_rows;
    if (td_rows_leases(l)) td_feed_done(l->feed, b);
}

/* Of each sample that the epoch has, once. */
static td_status expect(const loop *l, uint64_t epoch, counted *out)
{
    td_shard_plan plan = td_rows_feed_config(l).plan;
    *out = (counted){.samples = plan.samples};
    for (uint64_t s = 0; s < plan.samples && !plan.drop_last; s++) out->marks += td_feed_mark(s);
    if (!plan.drop_last) return TD_OK;
    uint64_t *sample = td_calloc(plan.batch, sizeof *sample);
    *out = (counted){0};
    if (!sample) return td_fail(TD_ERR_NOMEM, "no memory to count samples");
    for (uint64_t step = 0; step < td_shard_steps(&plan); step++)
        for (int leaf = 0; leaf < plan.leaves; leaf++) {
            td_shard_leaf(&plan, epoch, step, leaf, sample);
            counted c = count(sample, td_shard_leaf_rows(&plan, step, leaf));
            out->samples += c.samples, out->marks += c.marks;
        }
    td_free(sample);
    return TD_OK;
}

/* Of an epoch in which so many samples were learnt from: those that slow workers skipped. */
static uint64_t left_out(const loop *l, uint64_t learnt, uint64_t gives)
{
    bool skip = l->clock.kind == TD_CLOCK_BACKUP && !l->clock.apply;
    return skip && learnt < gives ? gives - learnt : 0;
}

/* All of the epoch has been learnt from in one go: what was learnt before a resumption, or is still
 * to come, is not among its counts. */
static bool is_whole(const loop *l)
{
    uint64_t step = l->state.step;
    return step % l->per_epoch == 0 && step - l->per_epoch >= l->first_step;
}

/* What all ranks have learnt from in the epoch; *known: false where some of it died with a rank. In
 * step all know it. */
static td_status learnt(const loop *l, counted *out, bool *known)
{
    uint64_t mine[3] = {l->epoch_samples, l->epoch_marks, l->recounted}, all[3];
    uint64_t epoch = (l->state.step - 1) / l->per_epoch;
    *out = (counted){l->epoch_samples, l->epoch_marks}, *known = true;
    if (l->exact) return TD_OK;
    TD_TRY(td_comm_allreduce(l->comm, mine, all, 3, TD_I64, TD_SUM));
    *out = (counted){all[0], all[1]}, *known = all[2] == 0;
    if (!td_rows_leases(l) || (!*known && l->job->strategy != TD_STRATEGY_PS)) return TD_OK;
    return td_feed_learnt(l->feed, l->comm, epoch, &out->samples, &out->marks, known);
}

/* Progressive validation: over all workers. Counts outlive deaths in step, and where data servers
 * keep them and no worker moves a copy of its own, whose last steps would die with it or be made
 * twice. */
td_status td_rows_tell_epoch(loop *l)
{
    double mine[3] = {l->epoch_loss, l->epoch_weight, l->epoch_correct}, all[3];
    counted is, want;
    bool known, whole = is_whole(l);
    char fields[400], accuracy[64] = "", left[64] = "";
    memcpy(all, mine, sizeof all);
    TD_TRY(learnt(l, &is, &known));
    if (!l->exact) TD_TRY(td_comm_allreduce(l->comm, mine, all, 3, TD_F64, TD_SUM));
    l->epoch_samples = l->epoch_marks = 0;
    l->recounted = false;
    l->epoch_loss = l->epoch_weight = l->epoch_correct = 0;
    if (!l->progress || !(all[1] > 0)) return TD_OK;
    TD_TRY(expect(l, (l->state.step - 1) / l->per_epoch, &want));
    bool once = is.samples == want.samples && is.marks == want.marks;
    unsigned long long epoch = (l->state.step + l->per_epoch - 1) / l->per_epoch;
    if (l->task->classes)
        snprintf(accuracy, sizeof accuracy, "\"progressive_accuracy\":%.9g,", all[2] / all[1]);
    snprintf(fields, sizeof fields,
             "\"epoch\":%llu,\"progressive_loss\":%.9g,%s\"weight\":%.9g,\"samples\":%llu,"
             "\"checksum\":\"%016llx\",\"each_once\":%s",
             epoch, all[0] / all[1], accuracy, all[1], (unsigned long long)is.samples,
             (unsigned long long)is.marks,
             !known || !whole ? "null"
             : once           ? "true"
                              : "false");
    if (td_progress_event(l->progress, l->state.step, "epoch", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    uint64_t skipped = known && whole ? left_out(l, is.samples, want.samples) : 0;
    if (skipped)
        snprintf(left, sizeof left, "; %llu samples of slow workers were left out",
                 (unsigned long long)skipped);
    td_progress_say(l->progress, "epoch %llu: progressive loss %.6f%s", epoch, all[0] / all[1],
                    left);
    return TD_OK;
}
