/* The training loop in another group: after ranks have been lost, or when their number changes. See
 * loop.h and revive.h.
 *
 * Invariant: what follows a step (interval, evaluation, best, checkpoint) is a function of the mark
 * and the state, and may be done again: so it does not matter who had come how far in it. A rank
 * that is lost at any point of what is done here leads to the next group, and all of it again. */
#include "train/loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/transport.h"
#include "data/dataset.h"
#include "strategy/mishap.h"
#include "train/resize.h"

#include <stdio.h>
#include <string.h>

enum { SENTENCE = 1024, MOST_ALARMS = 2 };

void td_loop_take_mark(td_loop *t, const td_totals *totals)
{
    t->mark.state = t->state;
    t->mark.totals = *totals;
    t->mark.loss = t->loss, t->mark.weight = t->weight, t->mark.correct = t->correct;
    t->mark.since = t->since, t->mark.samples_then = t->samples_then;
    t->mark.interval_begin = t->interval_begin;
    t->mark.checkpoint = t->checkpoint;
    t->mark.alarms = 0;
    t->mark.made = t->since > 0;
    t->whole = true;
}

static void return_to_mark(td_loop *t, bool own)
{
    const td_mark *m = &t->mark;
    t->state = m->state;
    t->loss = m->loss, t->weight = m->weight, t->correct = m->correct;
    t->since = m->since, t->samples_then = m->samples_then;
    t->interval_begin = own ? m->interval_begin : td_clock_ns();
    t->checkpoint = m->checkpoint;
    t->measured = UINT64_MAX;
    t->redo = m->made;
}

/* --- another group --- */

/* The strategy's sum lies in the group in which leaves were dealt last: that closes after it. */
static void take_group(td_loop *t, td_comm *next)
{
    if (t->made && t->made == t->dealt)
        t->stale = t->made;
    else
        td_comm_close(t->made);
    t->comm = t->made = next;
    t->away = !next;
}

/* As where MPI was started without its failure mitigation. */
static td_status cannot_recover(const td_loop *t, td_status why, const char *sentence)
{
    return td_fail(why,
                   "%.750s; \"tandem train --run %.200s --resume\" goes on from the newest "
                   "checkpoint",
                   sentence, t->job->run);
}

td_status td_loop_recover(td_loop *t, td_status why)
{
    char sentence[SENTENCE];
    td_recovery report;
    td_comm *next = NULL;
    td_recover_config config = {.on_hang = (td_on_hang)t->job->on_hang};
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    if (!t->noticed) t->noticed = td_clock_ns();
    /* Who it is, before anybody waits any longer for it. Who hears of it from another has lost it.
     */
    if (why == TD_ERR_TIMEOUT) td_warn("%s", sentence);
    TD_TRY(td_mishap(t->mishaps, t->comm, t->mark.state.step, "recover"));
    td_status status = td_comm_recover(t->comm, &config, &next, &report);
    if (status == TD_ERR_UNSUPPORTED) return cannot_recover(t, why, sentence);
    if (status == TD_ERR_TIMEOUT && t->job->on_hang == TD_HANG_ABORT) {
        snprintf(sentence, sizeof sentence, "%.800s", td_last_error());
        return td_fail(status,
                       "%s; with --on-hang kill the others would end it and go on; now --resume "
                       "goes on from the newest checkpoint",
                       sentence);
    }
    TD_TRY(status);
    if (next) td_news_add(&t->news, &report);
    t->ended = next && report.left;
    t->mark.alarms = next && !report.died_count ? t->mark.alarms + 1 : 0;
    take_group(t, next);
    if (t->mark.alarms <= MOST_ALARMS) return TD_OK;
    t->over = true; /* the same at all ranks */
    return td_fail_again(why, sentence);
}

/* --- all that a step needs --- */

/* What has no need of others. */
static td_status prepare(td_loop *t)
{
    int size = td_comm_size(t->comm), threads = t->job->threads;
    int leaves = (t->job->leaves + size - 1) / size;
    td_saver_destroy(t->saver);
    td_loader_destroy(t->loader);
    if (!t->first) {
        td_progress_destroy(t->progress);
        t->progress = NULL;
    }
    td_paces_destroy(t->paces);
    t->paces = NULL, t->saver = NULL, t->loader = NULL;
    TD_TRY(td_loop_create_waits(t));
    if (t->task->room)
        TD_TRY(t->task->room(t->task->oracle.self, (leaves + threads - 1) / threads));
    TD_TRY(td_paces_create(t->comm, t->job->leaves, t->job->balance, &t->paces));
    TD_TRY(td_loop_create_loader(t));
    return td_loop_create_best(t);
}

static td_status deal(td_loop *t)
{
    td_status status = t->strategy ? td_strategy_deal(t->strategy, t->comm, NULL)
                                   : td_loop_create_strategy(t, true);
    td_comm_close(t->stale);
    t->stale = NULL;
    t->dealt = t->comm;
    return status;
}

/* The optimizer's shards and their parameters, for this group. */
static td_status deal_shards(td_loop *t, int size)
{
    char sentence[SENTENCE];
    td_shards *shards = td_strategy_shards(t->strategy);
    td_status status = td_shards_deal(shards, t->comm, size, t->task->params, &t->over);
    if (!t->over) return status;
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    return cannot_recover(t, status, sentence);
}

static td_status fetch(td_loop *t)
{
    td_shards *shards = td_strategy_shards(t->strategy);
    size_t bytes = t->task->oracle.params * sizeof(float);
    td_span spans[TD_LAYOUT_ARRAYS + 1] = {{&t->mark, sizeof t->mark}};
    int64_t step = t->whole ? (int64_t)t->mark.state.step : -1;
    bool sharded = td_shards_sharded(shards);
    int n = 1;
    if (!sharded) spans[n++] = (td_span){t->task->params, bytes};
    for (int i = 0; i < td_shards_states(shards) && !sharded; i++)
        spans[n++] = (td_span){td_shards_state(shards, i), bytes};
    if (t->best) spans[n++] = (td_span){t->best, bytes};
    TD_TRY(td_news_fetch(t->comm, &t->news, step, spans, n));
    if (sharded) {
        TD_TRY(deal_shards(t, td_comm_size(t->comm)));
        TD_TRY(td_strategy_share(t->strategy, t->task->params));
    }
    return_to_mark(t, step == t->news.step);
    t->whole = true;
    return TD_OK;
}

/* A rank that has just come and reads other data than the run: it is lost to the others, which go
 * on without it. */
static td_status check_data(td_loop *t)
{
    int rank = td_comm_rank_in_run(t->comm, td_comm_rank(t->comm));
    uint64_t own = td_dataset_fingerprint(t->data->train);
    if (!t->state.data || own == t->state.data) return TD_OK;
    td_train_warn_of_data(rank, t->data->train, t->state.data);
    td_comm_die(t->comm);
    return td_fail(TD_ERR_PEER, "rank %d has left the run: it reads other data", rank);
}

/* Rank 0, new or not: the folder as the state is, and what is in it. */
static td_status take_lead(td_loop *t, bool was_first)
{
    char path[TD_PATH_MAX];
    uint64_t number, step = t->mark.state.step;
    const td_train_hooks *hooks = t->data->hooks;
    if (!was_first && hooks && hooks->take_over) TD_TRY(hooks->take_over(hooks->user));
    if (td_checkpoint_tidy(t->job, (int64_t)step) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    t->on_disk = TD_CHECKPOINT_NONE;
    TD_TRY(td_path_join(path, t->job->run, "checkpoints"));
    if (td_bundle_newest(path, "step", UINT64_MAX, &number, path) == TD_OK)
        t->on_disk = (int64_t)number;
    if (t->on_disk >= 0 && !t->kept && hooks && hooks->kept) hooks->kept(hooks->user);
    t->kept |= t->on_disk >= 0;
    TD_TRY(td_path_join(path, t->job->run, "metrics.jsonl"));
    if (t->mark.made) step--;
    bool owes = td_loop_owes_evaluation(t);
    if ((t->progress ? td_progress_go_back(t->progress, path, step, owes)
                     : td_progress_rewind(path, step, owes)) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    td_error_clear();
    return t->progress ? TD_OK : td_loop_create_progress(t);
}

static void tell(td_loop *t, int64_t agreed_at)
{
    char sentence[SENTENCE], fields[SENTENCE], recorder[TD_PATH_MAX];
    int workers = td_comm_size(t->comm);
    t->news.seconds += td_seconds(td_clock_ns() - agreed_at);
    td_news_fields(&t->news, td_comm_generation(t->comm), workers, fields, sizeof fields);
    if (td_progress_event(t->progress, t->mark.state.step,
                          t->news.was_resized ? "resized" : "recovered", fields) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
    if (t->news.was_resized) {
        td_progress_say(t->progress, "the run goes on with %d worker%s from step %llu", workers,
                        workers == 1 ? "" : "s", (unsigned long long)t->mark.state.step);
        return;
    }
    if (td_path_join(recorder, t->job->run, "recorder") != TD_OK) *recorder = 0;
    td_news_sentence(&t->news, workers, "worker", recorder, sentence, sizeof sentence);
    td_progress_say(t->progress, "%s", sentence);
}

static td_status catch_up(td_loop *t)
{
    uint64_t before = t->mark.state.step;
    td_strategy *strategy = t->whole ? t->strategy : NULL;
    TD_TRY(td_strategy_catch_up(strategy, t->comm, t->task->params, &t->mark, sizeof t->mark));
    if (t->mark.state.step != before) t->mark.interval_begin = td_clock_ns(); /* another's clock */
    return TD_OK;
}

td_status td_loop_go_on(td_loop *t)
{
    bool was_first = t->first, had_state = t->whole;
    td_status status;
    if (t->noticed) t->news.seconds = td_seconds(td_clock_ns() - t->noticed);
    if (t->job->shard_optimizer) TD_TRY(catch_up(t));
    TD_TRY(td_news_agree(t->comm, t->whole ? (int64_t)t->mark.state.step : -1, &t->news));
    int64_t agreed_at = td_clock_ns();
    if (t->news.step >= 0)
        TD_TRY(td_mishap(t->mishaps, t->comm, (uint64_t)t->news.step, "handover"));
    if (t->news.step < 0) {
        t->over = true;
        return td_fail(TD_ERR_PEER, "ranks died before the first step; start the run again");
    }
    t->first = td_comm_rank(t->comm) == 0;
    t->few = td_comm_size(t->comm) < t->job->min_workers;
    TD_TRY(td_comm_agree(t->comm, prepare(t)));
    TD_TRY(deal(t));
    TD_TRY(fetch(t));
    if (!had_state) TD_TRY(check_data(t));
    status = t->first ? take_lead(t, was_first) : TD_OK;
    if (status == TD_OK)
        status = td_saver_create(t->comm, t->job, t->task, td_strategy_shards(t->strategy), t->best,
                                 &t->saver);
    if (status == TD_OK && t->state.step < t->last) status = td_loop_seek(t);
    TD_TRY(td_comm_agree(t->comm, status));
    TD_TRY(td_comm_broadcast(t->comm, &t->on_disk, sizeof t->on_disk, 0));
    t->owes = t->checkpoint > t->on_disk;
    td_loop_measure_from_here(t);
    td_loop_start_recorder(t);
    td_comm_record_step(t->comm, t->state.step);
    if (t->first) tell(t, agreed_at);
    t->news = (td_news){0};
    t->noticed = 0;
    return TD_OK;
}

td_status td_loop_too_few(td_loop *t)
{
    t->over = true;
    int workers = td_comm_size(t->comm);
    return td_fail(TD_ERR_PEER,
                   "%d worker%s left, fewer than --min-workers %d: stopped after step %llu; "
                   "\"tandem train --run %s --resume\" goes on",
                   workers, workers == 1 ? " is" : "s are", t->job->min_workers,
                   (unsigned long long)t->state.step, t->job->run);
}

/* --- another number of ranks --- */

bool td_loop_resize_asked(td_loop *t)
{
    return t->first && td_resize_is_asked_anew(t->job->run, &t->looked_at);
}

static void answer(td_loop *t, const td_resize *asked, const char *sentence, bool done)
{
    if (!t->first) return;
    if (td_resize_answer(t->job->run, asked, done, sentence) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
}

/* The sentence of a request that cannot be granted, or "". */
static void judge(const td_loop *t, const td_resize *asked, char sentence[TD_RESIZE_TEXT])
{
    int workers = asked->ranks, most = t->mark.most, leaves = t->job->leaves;
    *sentence = 0;
    if (asked->servers >= 0 || asked->data_servers >= 0)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "all ranks of this job are workers; ask for their number alone, without --servers "
                 "and --data-servers");
    else if (workers < 1)
        snprintf(sentence, TD_RESIZE_TEXT, "%d workers are not possible; ask for 1 or more",
                 workers);
    else if (workers < t->job->min_workers)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "%d worker%s fewer than --min-workers %d, with which the job was started", workers,
                 workers == 1 ? " is" : "s are", t->job->min_workers);
    else if (workers > leaves)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "%d workers are more than the %d leaves of a batch; ask for at most %d", workers,
                 leaves, leaves);
    else if (workers > most)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "%d workers are more than the %d that the job was started with, spares included; "
                 "ask for at most %d",
                 workers, most, most);
}

td_status td_loop_resize(td_loop *t)
{
    td_resize asked = {0};
    char sentence[TD_RESIZE_TEXT] = "";
    td_comm *next = NULL;
    int size = td_comm_size(t->comm);
    if (t->first && td_resize_read(t->job->run, &asked) != TD_OK) td_resize_take_back(t->job->run);
    TD_TRY(td_comm_broadcast(t->comm, &asked, sizeof asked, 0));
    if (!*asked.token) return TD_OK; /* taken back */
    judge(t, &asked, sentence);
    if (*sentence) {
        answer(t, &asked, sentence, false);
        return TD_OK;
    }
    if (asked.ranks != size) {
        td_status status = td_saver_finish(t->saver);
        if (td_is_loss(status) || status == TD_ERR_DIVERGED) return status;
        td_loop_tell_kept(t);
        t->noticed = td_clock_ns();
        if (t->job->shard_optimizer && asked.ranks < size) TD_TRY(deal_shards(t, asked.ranks));
        status = td_comm_resize(t->comm, asked.ranks, &next);
        if (status == TD_ERR_UNSUPPORTED) { /* at all ranks alike, and nothing has changed */
            snprintf(sentence, sizeof sentence, "%s", td_last_error());
            answer(t, &asked, sentence, false);
            t->noticed = 0;
            return t->job->shard_optimizer ? deal_shards(t, size) : TD_OK;
        }
        TD_TRY(status);
        t->news.was_resized = true;
        t->news.size_before = size;
        for (int r = 0; next && r < td_comm_size(next); r++)
            if (td_comm_joined(next, r)) {
                int rank = td_comm_rank_in_run(next, r);
                td_news_add(&t->news, &(td_recovery){.came_count = 1, .came = &rank});
            }
        take_group(t, next);
        if (t->away) return TD_OK;
        TD_TRY(td_loop_go_on(t));
    }
    size = td_comm_size(t->comm);
    snprintf(sentence, sizeof sentence, "the run goes on with %d worker%s from step %llu%s", size,
             size == 1 ? "" : "s", (unsigned long long)t->state.step,
             size < asked.ranks ? ": there are no more" : "");
    answer(t, &asked, sentence, true);
    return TD_OK;
}
