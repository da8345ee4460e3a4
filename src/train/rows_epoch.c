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

/* What was learnt before a resumption within the epoch is known, if there has been one. */
static bool begins_whole(const loop *l, uint64_t epoch)
{
    const td_train_part *p = &l->state.part;
    return epoch * l->per_epoch >= l->first_step || (p->known && p->epoch == epoch);
}

/* What all ranks have learnt from in the epoch since the run began; false: some of it died with a
 * rank. In step all know it. */
static td_status learnt(const loop *l, td_train_part *out)
{
    uint64_t mine[3] = {l->epoch_samples, l->epoch_marks, l->recounted}, all[3];
    double score[3] = {l->epoch_loss, l->epoch_weight, l->epoch_correct}, scores[3];
    uint64_t epoch = (l->state.step - 1) / l->per_epoch;
    *out = (td_train_part){true, epoch, mine[0], mine[1], score[0], score[1], score[2]};
    if (l->exact) return TD_OK;
    TD_TRY(td_comm_allreduce(l->comm, mine, all, 3, TD_I64, TD_SUM));
    TD_TRY(td_comm_allreduce(l->comm, score, scores, 3, TD_F64, TD_SUM));
    *out = (td_train_part){!all[2], epoch, all[0], all[1], scores[0], scores[1], scores[2]};
    if (!td_rows_leases(l) || (!out->known && l->job->strategy != TD_STRATEGY_PS)) return TD_OK;
    return td_feed_learnt(l->feed, l->comm, epoch, &out->samples, &out->marks, &out->known);
}

/* And before, as far as is known. */
static td_status learnt_in_all(const loop *l, td_train_part *out)
{
    const td_train_part *before = &l->state.part;
    TD_TRY(learnt(l, out));
    if (!before->known || before->epoch != out->epoch || l->exact) return TD_OK;
    out->samples += before->samples, out->marks += before->marks;
    out->loss += before->loss, out->weight += before->weight, out->correct += before->correct;
    return TD_OK;
}

td_status td_rows_epoch_so_far(loop *l, td_train_part *out)
{
    *out = (td_train_part){0};
    if (l->state.step % l->per_epoch == 0) return TD_OK;
    TD_TRY(learnt_in_all(l, out));
    out->known = out->known && begins_whole(l, out->epoch);
    return TD_OK;
}

/* Sums go on as they would have. */
void td_rows_take_part(loop *l)
{
    const td_train_part *p = &l->state.part;
    if (!l->exact || !p->known) return;
    l->epoch_samples = p->samples, l->epoch_marks = p->marks;
    l->epoch_loss = p->loss, l->epoch_weight = p->weight, l->epoch_correct = p->correct;
}

static void begin_epoch(loop *l)
{
    l->epoch_samples = l->epoch_marks = 0;
    l->recounted = false;
    l->epoch_loss = l->epoch_weight = l->epoch_correct = 0;
}

/* Progressive validation: over all workers. Counts outlive deaths in step, and where data servers
 * keep them and no worker moves a copy of its own, whose last steps would die with it or be made
 * twice. */
td_status td_rows_tell_epoch(td_rows_loop *l)
{
    td_train_part is;
    counted want;
    char fields[400], accuracy[64] = "", left[64] = "";
    bool over = l->state.step % l->per_epoch == 0; /* else the run is, and may be gone on with */
    TD_TRY(learnt_in_all(l, &is));
    bool told = l->told_at == l->state.step; /* what follows a meeting may be done again */
    l->told_at = l->state.step;
    if (over) begin_epoch(l);
    if (told || !l->progress || !(is.weight > 0)) return TD_OK;
    TD_TRY(expect(l, is.epoch, &want));
    bool known = is.known && over && begins_whole(l, is.epoch);
    bool once = is.samples == want.samples && is.marks == want.marks;
    unsigned long long epoch = is.epoch + 1;
    if (l->task->classes)
        snprintf(accuracy, sizeof accuracy, "\"progressive_accuracy\":%.9g,",
                 is.correct / is.weight);
    snprintf(fields, sizeof fields,
             "\"epoch\":%llu,\"progressive_loss\":%.9g,%s\"weight\":%.9g,\"samples\":%llu,"
             "\"checksum\":\"%016llx\",\"each_once\":%s",
             epoch, is.loss / is.weight, accuracy, is.weight, (unsigned long long)is.samples,
             (unsigned long long)is.marks,
             !known ? "null"
             : once ? "true"
                    : "false");
    if (td_progress_event(l->progress, l->state.step, "epoch", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    uint64_t skipped = known ? left_out(l, is.samples, want.samples) : 0;
    if (skipped)
        snprintf(left, sizeof left, "; %llu samples of slow workers were left out",
                 (unsigned long long)skipped);
    td_progress_say(l->progress, "epoch %llu: progressive loss %.6f%s", epoch, is.loss / is.weight,
                    left);
    return TD_OK;
}
