/* A run whose parameters live in tables, in another group, or with other parts in the same: after a
 * loss, or when others are asked for (rows_resize.c). See rows.h, rows_loop.h. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "data/dataset.h"
#include "optim/schedule.h"
#include "strategy/mishap.h"
#include "tandem/recover.h"

#include <stdio.h>
#include <string.h>

typedef td_rows_loop loop;

enum { SENTENCE = 1024, MOST_ALARMS = 2 };

static td_status move_feed(loop *l)
{
    const td_roles *roles = &l->tables.roles;
    if (!roles->now.counts.feeders) return TD_OK;
    if (roles->feeder_count == 0) {
        l->over = true;
        return td_fail(TD_ERR_PEER,
                       "no data server is left; \"tandem train --run %.200s --resume\" goes on "
                       "from "
                       "the newest checkpoint",
                       l->job->run);
    }
    td_feed_config config = td_rows_feed_config(l);
    if (!l->pushing) td_feed_give_back(l->feed); /* else its push is made again */
    TD_TRY(td_feed_move(l->feed, l->comm, &config, &l->feed));
    int slot = roles->now.own.slot;
    if (slot < 0 || l->exact) return TD_OK;
    uint64_t begin = td_feed_names(l->feed, slot);
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k]) td_sharded_skip_to(l->tables.sharded[k], begin);
    if (begin > l->state.step) l->state.step = begin;
    return TD_OK;
}

static td_status settle(loop *l, bool joined, uint64_t *made)
{
    uint64_t mine = 0;
    for (int k = 0; k < TD_ROWS_TABLES && l->exact; k++)
        if (l->tables.bulk[k] && td_bulk_made(l->tables.bulk[k]) > mine)
            mine = td_bulk_made(l->tables.bulk[k]);
    TD_TRY(td_comm_allreduce(l->comm, &mine, made, 1, TD_I64, TD_MAX));
    if (joined || !l->exact) return TD_OK;
    if (mine < *made) td_rows_forget(l);
    td_table_step step = {.step = *made ? *made - 1 + l->first_step : 0, .scale = (float)l->scale};
    step.rate_factor = (float)td_schedule_rate(&l->schedule, step.step), step.decay = 1;
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.bulk[k]) TD_TRY(td_bulk_settle(l->tables.bulk[k], *made, step));
    return TD_OK;
}

typedef struct position { /* how far a rank is */
    uint64_t phase, step;
} position;

typedef struct memory { /* what is the same at all that are at one position */
    td_train_state state;
    double loss, weight, correct, epoch_loss, epoch_weight, epoch_correct;
    uint64_t epoch_samples, epoch_marks;
    uint64_t since, samples_then;
    td_rows_interval interval;
    td_score score;
} memory;

/* In step the step counts: a meeting may have come nearer for those that have made it, which makes
 * their phase the lower one. */
static bool is_further(const loop *l, const position *a, const position *b)
{
    if (l->exact && a->step != b->step) return a->step > b->step;
    return a->phase != b->phase ? a->phase > b->phase : a->step > b->step;
}

/* From the lowest of those that are furthest: scores, and in step the sums of metrics. Others' are
 * older, or empty. */
static td_status share_memory(loop *l, uint64_t phase)
{
    int size = td_comm_size(l->comm), from = 0;
    position own = {phase, phase ? l->state.step : 0};
    position *all = td_calloc((size_t)size, sizeof *all);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %d ranks", size);
    status = td_comm_agree(l->comm, status);
    if (status == TD_OK) status = td_comm_allgather(l->comm, &own, sizeof own, all);
    for (int r = 1; r < size && status == TD_OK; r++)
        if (is_further(l, &all[r], &all[from])) from = r;
    td_free(all);
    TD_TRY(status);
    memory m = {l->state,        l->loss,          l->weight,        l->correct,     l->epoch_loss,
                l->epoch_weight, l->epoch_correct, l->epoch_samples, l->epoch_marks, l->since,
                l->samples_then, l->interval,      l->score};
    TD_TRY(td_comm_broadcast(l->comm, &m, sizeof m, from));
    uint64_t step = l->state.step;
    l->state = m.state;
    l->state.step = step;
    l->score = m.score;
    if (!l->exact) return TD_OK;
    l->interval = m.interval;
    l->loss = m.loss, l->weight = m.weight, l->correct = m.correct;
    l->epoch_loss = m.epoch_loss, l->epoch_weight = m.epoch_weight;
    l->epoch_correct = m.epoch_correct;
    l->epoch_samples = m.epoch_samples, l->epoch_marks = m.epoch_marks;
    l->since = m.since, l->samples_then = m.samples_then;
    return TD_OK;
}

/* Where the run is: of who knows, the furthest. */
static td_status agree_on_step(loop *l, bool joined, uint64_t made)
{
    /* Who is in the phase after a meeting knows that all have done what follows it. */
    uint64_t phase = joined ? 0 : 4 * l->end + 2 * l->done + l->met;
    TD_TRY(share_memory(l, phase));
    uint64_t mine[6] = {phase,       l->first_step,       l->state.samples_seen,
                        l->stopping, (uint64_t)l->midway, l->stop_at},
             most[6];
    if (joined) memset(mine, 0, sizeof mine);
    TD_TRY(td_comm_allreduce(l->comm, mine, most, 6, TD_I64, TD_MAX));
    bool behind = phase < most[0];
    l->stop_at = most[5];
    if (behind && !l->exact && !joined && td_rows_goal(l) > l->state.step)
        l->state.step = td_rows_goal(l);
    l->end = most[0] / 4, l->done = most[0] / 2 % 2, l->met = most[0] % 2;
    if (l->mode == TD_ROWS_SHARED) TD_TRY(td_rows_made(&l->tables, joined, &l->state.step));
    if (l->met && !l->exact) l->state.step = td_rows_goal(l);
    l->first_step = most[1];
    l->state.samples_seen = most[2];
    l->stopping = most[3];
    l->midway = (int)most[4];
    if (l->exact) l->state.step = l->first_step + made;
    for (int k = 0; k < TD_ROWS_TABLES; k++)
        if (l->tables.sharded[k] && td_sharded_clock(l->tables.sharded[k]) > l->state.step)
            l->state.step = td_sharded_clock(l->tables.sharded[k]);
    return TD_OK;
}

void td_rows_tell_news(loop *l)
{
    char sentence[SENTENCE], fields[SENTENCE], recorder[TD_PATH_MAX], parts[TD_ROWS_PARTS];
    const td_roles *roles = &l->tables.roles;
    int ranks = td_comm_size(l->comm);
    l->news.step = (int64_t)l->state.step;
    l->noticed = 0;
    if (!l->progress) goto out;
    if (td_path_join(recorder, l->job->run, "recorder") != TD_OK) *recorder = 0;
    td_rows_parts(l, parts);
    td_news_fields(&l->news, td_comm_generation(l->comm), ranks, fields, sizeof fields);
    if (l->news.was_resized) { /* servers 0: all workers serve */
        size_t n = strlen(fields);
        snprintf(fields + n, sizeof fields - n, ",\"servers\":%d,\"data_servers\":%d",
                 roles->now.counts.servers ? roles->server_count : 0, roles->feeder_count);
    }
    if (td_progress_event(l->progress, l->state.step, l->news.was_resized ? "resized" : "recovered",
                          fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    if (l->news.was_resized) {
        td_progress_say(l->progress, "the run goes on with %d rank%s%s from step %llu", ranks,
                        ranks == 1 ? "" : "s", parts, (unsigned long long)l->state.step);
        goto out;
    }
    const char *what = roles->now.counts.servers || roles->feeder_count ? "rank" : "worker";
    td_news_sentence(&l->news, ranks, what, recorder, sentence, sizeof sentence);
    td_progress_say(l->progress, "%s", sentence);
out:
    l->news = (td_news){.step = -1};
}

/* Rank 0, new or not: metrics as they are at this step. Of its lines the one before may have
 * written some, or none. */
static td_status go_back(loop *l)
{
    char path[TD_PATH_MAX];
    uint64_t step = l->state.step;
    bool evaluated = l->state.scored == step && step && !l->met;
    bool owes = evaluated || l->met;
    if (l->exact && step) step--, owes = false;
    TD_TRY(td_path_join(path, l->job->run, "metrics.jsonl"));
    td_status status = l->progress ? td_progress_go_back(l->progress, path, step, owes)
                                   : td_progress_rewind(path, step, owes);
    if (status != TD_OK) td_warn("%s; the run goes on", td_last_error());
    td_error_clear();
    TD_TRY(td_rows_create_progress(l));
    if (l->exact && l->interval.step == l->state.step && l->state.step) td_rows_tell_interval(l);
    if (evaluated) td_rows_tell_evaluation(l);
    return TD_OK;
}

/* A rank that has just come and reads other data than the run: it is lost to the others, which go
 * on without it, before it gets any rows. */
static td_status check_data(loop *l, bool joined)
{
    const td_dataset *data = l->data->train;
    int64_t mine = joined ? INT64_MIN : (int64_t)l->state.data, run;
    TD_TRY(td_comm_allreduce(l->comm, &mine, &run, 1, TD_I64, TD_MAX));
    if (!joined || run == INT64_MIN || !run || (uint64_t)run == td_dataset_fingerprint(data))
        return TD_OK;
    int rank = td_comm_rank_in_run(l->comm, td_comm_rank(l->comm));
    td_train_warn_of_data(rank, data, (uint64_t)run);
    td_comm_die(l->comm);
    return td_fail(TD_ERR_PEER, "rank %d has left the run: it reads other data", rank);
}

void td_rows_record(loop *l)
{
    td_train_record(l->comm, l->job, &l->recorded);
    for (int k = 0; k < TD_ROWS_TABLES; k++) /* they were opened before */
        if (l->tables.sharded[k]) td_sharded_record(l->tables.sharded[k]);
    if (l->feed) td_feed_record(l->feed, l->comm);
}

/* Joined: behind open_all. Else behind a recovery. */
static td_status take_up(loop *l)
{
    bool lost = false, was_first = l->first, joined = l->empty;
    uint64_t made;
    l->first = td_comm_rank(l->comm) == 0;
    td_rows_save_drop(l->saving); /* its ranks may be gone; before its tables move */
    l->saving = NULL;
    TD_TRY(check_data(l, joined));
    td_status status = settle(l, joined, &made);
    if (status == TD_OK) status = td_rows_tables_move(&l->tables, l->comm, joined, made, &lost);
    l->over = lost;
    if (lost) {
        char sentence[SENTENCE];
        snprintf(sentence, sizeof sentence, "%s", td_last_error());
        return td_fail(status,
                       "%.600s; \"tandem train --run %.200s --resume\" goes on from the newest "
                       "checkpoint",
                       sentence, l->job->run);
    }
    TD_TRY(status);
    l->scorer.source.params = l->tables.dense;
    TD_TRY(agree_on_step(l, joined, made));
    l->few = l->tables.roles.working < l->job->min_workers;
    l->stopping = l->stopping || l->few;
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "handover"));
    TD_TRY(td_comm_agree(l->comm, td_rows_make_ready(l)));
    l->ahead.there = l->ahead.fetching = l->ahead.taken = false;
    if (joined) TD_TRY(td_rows_choose_schedule(l));
    l->empty = l->resizing = false; /* whoever asks still does */
    l->ready = true;
    td_rows_own_free(l->own); /* a copy begins anew */
    l->own = NULL;
    const td_train_hooks *hooks = l->data->hooks;
    if (l->first && !was_first && hooks && hooks->take_over) TD_TRY(hooks->take_over(hooks->user));
    TD_TRY(td_comm_agree(l->comm, l->first ? go_back(l) : TD_OK));
    if (!l->first) {
        td_progress_destroy(l->progress);
        l->progress = NULL;
    }
    TD_TRY(move_feed(l));
    td_rows_record(l);
    if (l->noticed) l->news.seconds = td_seconds(td_clock_ns() - l->noticed);
    TD_TRY(td_news_agree(l->comm, joined ? -1 : (int64_t)l->state.step, &l->news));
    if (!l->midway || !l->news.was_resized) td_rows_tell_news(l); /* else at its end */
    if (!l->exact) td_rows_begin_interval(l);
    if (l->pushing && !joined) TD_TRY(td_rows_push_paced(l));
    return TD_OK;
}

/* Who has come hears how many workers the run began with. Rows that a rank has not been filled with
 * would be those of new keys. */
td_status td_rows_go_on(loop *l)
{
    int mine[2] = {l->workers, !l->empty && !l->ready}, most[2];
    TD_TRY(td_comm_allreduce(l->comm, mine, most, 2, TD_I32, TD_MAX));
    l->workers = most[0];
    if (most[1]) {
        l->over = true;
        return td_fail(TD_ERR_PEER, "ranks died before the first step; start the run again");
    }
    if (l->empty && !l->shape.pool) TD_TRY(td_rows_open_all(l, true));
    return take_up(l);
}

td_status td_rows_too_few(loop *l)
{
    int workers = l->tables.roles.working;
    l->over = true;
    return td_fail(TD_ERR_PEER,
                   "%d worker%s left, fewer than --min-workers %d: stopped after step %llu; "
                   "\"tandem train --run %s --resume\" goes on",
                   workers, workers == 1 ? " is" : "s are", l->job->min_workers,
                   (unsigned long long)l->state.step, l->job->run);
}

/* --- after a loss --- */

td_status td_rows_recover(loop *l, td_status why)
{
    char sentence[SENTENCE];
    td_recovery report;
    td_comm *next = NULL;
    td_recover_config config = {.on_hang = (td_on_hang)l->job->on_hang};
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (!l->noticed) l->noticed = td_clock_ns();
    l->news.was_resized = false; /* not only */
    if (why == TD_ERR_TIMEOUT) td_warn("%s", sentence);
    TD_TRY(td_mishap(l->mishaps, l->comm, l->state.step, "recover"));
    td_status status = td_comm_recover(l->comm, &config, &next, &report);
    if (status == TD_ERR_UNSUPPORTED)
        return td_fail(why,
                       "%.600s; \"tandem train --run %.200s --resume\" goes on from the newest "
                       "checkpoint",
                       sentence, l->job->run);
    TD_TRY(status);
    if (!next) { /* not needed any more */
        l->away = true;
        return TD_OK;
    }
    td_rows_leave_group(&l->tables);
    td_news_add(&l->news, &report);
    if (!l->news.size_before) l->news.size_before = report.size_before;
    l->ended = report.left;
    l->recounted = true;
    l->alarms = report.died_count ? 0 : l->alarms + 1;
    td_comm_close(l->former);
    l->former = l->made; /* tables are of it until they have moved */
    l->comm = l->made = next;
    if (l->alarms <= MOST_ALARMS) return TD_OK;
    l->over = true; /* the same at all ranks */
    return td_fail_again(why, sentence);
}
