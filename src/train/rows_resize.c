/* A run whose parameters live in tables, with other numbers of workers, servers and data servers:
 * what "tandem resize" asks for. See rows.h, rows_loop.h.
 *
 * Between two steps (in step) or at a meeting (at their own pace), so that no push and no lease is
 * under way, ranks do one thing after the other, and after each look at the request again: spares
 * come, as far as there are any and ranks are lacking; parts are dealt anew (rows_roles.h), and
 * rows move; who has no part then goes back to the spares; the request is answered. What is to be
 * done follows from the request and from what the ranks are, so that those who have just come, and
 * those who have lost one on the way, go on from wherever they are. */
#include "train/rows_loop.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "tandem/recover.h"
#include "train/resize.h"

#include <stdio.h>
#include <string.h>

typedef td_rows_loop loop;

enum { MOST_FEEDERS = 64 };
enum { NOT_BEGUN, BEGUN, GROWN }; /* loop.midway */

bool td_rows_resize_asked(loop *l)
{
    return l->first && td_resize_is_asked_anew(l->job->run, &l->looked_at);
}

/* --- what is asked for --- */

typedef struct request { /* as rank 0 has it */
    td_resize asked;
    uint64_t step;
    bool anew; /* it is another than rank 0 saw last: ranks may come for it yet */
} request;

typedef struct deal {
    td_role_counts want, counts;
    td_role *role; /* [size] that ranks are to be */
    int total;     /* ranks wanted */
    int coming;    /* so many more are, at first */
    int serving;   /* of role */
    bool same;     /* as they are */
} deal;

/* What is not named stays as it is, whatever was wanted once and could not be had; where the number
 * of ranks is named, the rest work. */
static td_role_counts wanted(const loop *l, const td_resize *asked)
{
    const td_roles *roles = &l->tables.roles;
    td_role_counts c = roles->now.counts;
    if (!*asked->token) return c; /* taken back meanwhile */
    if (c.servers) c.servers = roles->server_count;
    if (c.feeders) c.feeders = roles->feeder_count;
    if (asked->servers >= 0) c.servers = asked->servers;
    if (asked->data_servers >= 0) c.feeders = asked->data_servers;
    if (asked->ranks) c.workers = asked->ranks - c.servers - c.feeders;
    return c;
}

static td_status make_deal(const loop *l, const td_resize *asked, deal *out)
{
    const td_roles *roles = &l->tables.roles;
    int size = td_comm_size(l->comm), feeding = 0;
    deal d = {.want = wanted(l, asked)};
    d.role = td_calloc((size_t)size, sizeof *d.role);
    if (!d.role) return td_fail(TD_ERR_NOMEM, "no memory for the parts of %d ranks", size);
    td_roles_plan(roles->role, size, &d.want, d.role, &d.counts);
    d.same = !memcmp(&d.counts, &roles->now.counts, sizeof d.counts) &&
             !memcmp(d.role, roles->role, (size_t)size * sizeof *d.role);
    for (int r = 0; r < size; r++) feeding += d.role[r].feeds, d.serving += d.role[r].serves;
    d.total = d.want.workers + d.want.servers + d.want.feeders;
    d.coming = d.total - size;
    /* Ranks that have heard of their data cannot read them: spares can. */
    if (d.coming < d.want.feeders - feeding) d.coming = d.want.feeders - feeding;
    *out = d;
    return TD_OK;
}

/* --- what cannot be --- */

static void judge_data_servers(const td_role_counts *now, int asked, char sentence[TD_RESIZE_TEXT])
{
    if (asked > 0 && !now->feeders)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "the workers of this job read for themselves, to its end; leave --data-servers "
                 "out");
    else if (asked == 0 && now->feeders)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "the workers of this job read nothing themselves; ask for --data-servers 1 or "
                 "more");
    else if (asked > MOST_FEEDERS)
        snprintf(sentence, TD_RESIZE_TEXT, "--data-servers must be 1 to %d, not %d", MOST_FEEDERS,
                 asked);
}

static void judge_numbers(const loop *l, const td_role_counts *want, char sentence[TD_RESIZE_TEXT])
{
    int beyond = want->servers + want->feeders, ranks = want->workers + beyond;
    int least = l->job->min_workers > 1 ? l->job->min_workers : 1, leaves = l->job->leaves;
    int holders = want->servers ? want->servers : want->workers;
    if (!want->servers && l->job->replicas && least < 2) least = 2;
    if (want->workers < least && !beyond)
        snprintf(sentence, TD_RESIZE_TEXT, "%d rank%s too few for this job; ask for %d or more",
                 ranks, ranks == 1 ? " is" : "s are", least);
    else if (want->workers < least)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "%d rank%s %d worker%s beside %d that serve or read, and this job needs %d; "
                 "ask for %d ranks or more",
                 ranks, ranks == 1 ? " leaves" : "s leave", want->workers < 0 ? 0 : want->workers,
                 want->workers == 1 ? "" : "s", beyond, least, beyond + least);
    else if (l->job->replicas && holders < 2)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "--replicas 1 needs two servers or more; ask for --servers 2 at least");
    else if (ranks > leaves)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "%d ranks are more than the %d leaves of a batch; ask for at most %d", ranks,
                 leaves, leaves);
}

/* The sentence of a request that cannot be granted, or "". grows: more ranks may come yet. */
static void judge(loop *l, const td_resize *asked, const deal *d, bool grows,
                  char sentence[TD_RESIZE_TEXT])
{
    const td_role_counts *now = &l->tables.roles.now.counts;
    bool moves = d->coming > 0 || d->total < td_comm_size(l->comm);
    *sentence = 0;
    if (l->mode == TD_ROWS_SHARED)
        snprintf(sentence, TD_RESIZE_TEXT, "--strategy hogwild keeps its workers");
    if (!*sentence) judge_data_servers(now, asked->data_servers, sentence);
    if (!*sentence) judge_numbers(l, &d->want, sentence);
    if (!*sentence && !grows && l->job->replicas && d->serving < 2 &&
        l->tables.roles.server_count > 1)
        snprintf(sentence, TD_RESIZE_TEXT,
                 "--replicas 1 needs two servers or more, and there is no rank for a second; ask "
                 "for fewer workers");
    if (*sentence) return;
    td_status status = td_rows_check_clocks(l, d->want.workers);
    if (status == TD_OK && moves) status = td_comm_can_resize(l->comm);
    if (status != TD_OK) snprintf(sentence, TD_RESIZE_TEXT, "%s", td_last_error());
    td_error_clear();
}

/* --- what is done --- */

/* A group of so many ranks, of those that stay; on to it, but where this rank is not in it. */
static td_status regroup(loop *l, int ranks, const bool *stays)
{
    td_comm *next = NULL;
    TD_TRY(td_comm_resize_keeping(l->comm, ranks, stays, &next));
    for (int r = 0; next && r < td_comm_size(next); r++)
        if (td_comm_joined(next, r)) {
            int rank = td_comm_rank_in_run(next, r);
            td_news_add(&l->news, &(td_recovery){.came_count = 1, .came = &rank});
        }
    td_comm_close(l->former);
    l->former = l->made;
    l->made = next;
    l->away = !next;
    if (l->away) return TD_OK;
    l->comm = next;
    td_status status = td_rows_go_on(l);
    td_comm_close(l->former);
    l->former = NULL;
    return status;
}

/* All know of it before any goes over to it. */
static td_status deal_anew(loop *l, const deal *d, uint64_t step)
{
    td_roles_learn(&l->tables.roles, d->role, &d->counts, step);
    TD_TRY(td_comm_agree(l->comm, TD_OK));
    td_roles_go_over(&l->tables.roles);
    return td_rows_go_on(l);
}

/* What those that go have counted in this epoch, rank 0 has counted from now on. In step all have
 * counted the same. */
static td_status hand_over_counts(loop *l, bool goes)
{
    if (l->exact) return TD_OK;
    uint64_t samples[2] = {0}, all_samples[2];
    double scores[3] = {0}, all_scores[3];
    if (goes) {
        samples[0] = l->epoch_samples, samples[1] = l->epoch_marks;
        scores[0] = l->epoch_loss, scores[1] = l->epoch_weight, scores[2] = l->epoch_correct;
    }
    TD_TRY(td_comm_allreduce(l->comm, samples, all_samples, 2, TD_I64, TD_SUM));
    TD_TRY(td_comm_allreduce(l->comm, scores, all_scores, 3, TD_F64, TD_SUM));
    if (goes) {
        l->epoch_samples = l->epoch_marks = 0;
        l->epoch_loss = l->epoch_weight = l->epoch_correct = 0;
    }
    if (!l->first) return TD_OK;
    l->epoch_samples += all_samples[0], l->epoch_marks += all_samples[1];
    l->epoch_loss += all_scores[0], l->epoch_weight += all_scores[1];
    l->epoch_correct += all_scores[2];
    return TD_OK;
}

/* Those without a part go. */
static td_status send_away(loop *l, const deal *d, int idle)
{
    int size = td_comm_size(l->comm);
    bool *stays = td_calloc((size_t)size, sizeof *stays);
    td_status status = stays ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %d ranks", size);
    status = td_comm_agree(l->comm, status);
    for (int r = 0; r < size && status == TD_OK; r++) stays[r] = !td_role_is_idle(&d->role[r]);
    if (status == TD_OK) status = hand_over_counts(l, !stays[td_comm_rank(l->comm)]);
    if (status == TD_OK) status = regroup(l, size - idle, stays);
    td_free(stays);
    return status;
}

void td_rows_parts(const loop *l, char text[TD_ROWS_PARTS])
{
    const td_roles *r = &l->tables.roles;
    const td_role_counts *c = &r->now.counts;
    int n = 0;
    *text = 0;
    if (!c->servers && !c->feeders) return;
    n += snprintf(text, TD_ROWS_PARTS, " (%d worker%s", r->working, r->working == 1 ? "" : "s");
    if (c->servers)
        n += snprintf(text + n, TD_ROWS_PARTS - (size_t)n, ", %d server%s", r->server_count,
                      r->server_count == 1 ? "" : "s");
    if (c->feeders)
        n += snprintf(text + n, TD_ROWS_PARTS - (size_t)n, ", %d data server%s", r->feeder_count,
                      r->feeder_count == 1 ? "" : "s");
    snprintf(text + n, TD_ROWS_PARTS - (size_t)n, ")");
}

static void answer(const loop *l, const td_resize *asked, bool done, const char *sentence)
{
    if (!l->first || !*asked->token) return;
    if (td_resize_answer(l->job->run, asked, done, sentence) != TD_OK)
        td_warn("%s; the run goes on", td_last_error());
}

/* All that could be done has been. */
static void end(loop *l, const td_resize *asked, const deal *d)
{
    char sentence[TD_RESIZE_TEXT], parts[TD_ROWS_PARTS];
    int size = td_comm_size(l->comm);
    bool lacking = size < d->total || l->tables.roles.feeder_count < d->want.feeders;
    if (l->midway) { /* even if a loss on the way has been told */
        l->midway = NOT_BEGUN;
        l->news.was_resized = true;
        td_rows_tell_news(l);
    }
    td_rows_parts(l, parts);
    snprintf(sentence, sizeof sentence, "the run goes on with %d rank%s%s from step %llu%s", size,
             size == 1 ? "" : "s", parts, (unsigned long long)l->state.step,
             lacking ? ": there are no more" : "");
    answer(l, asked, true, sentence);
}

/* The next thing of those that are to be done. */
static td_status do_next(loop *l, const request *q, const deal *d)
{
    char refused[TD_RESIZE_TEXT] = "";
    int size = td_comm_size(l->comm), idle = 0;
    bool grows = d->coming > 0 && l->midway != GROWN;
    if (*q->asked.token) judge(l, &q->asked, d, grows, refused);
    if (*refused) {
        answer(l, &q->asked, false, refused);
        return TD_OK; /* midway: of another request, which is cleared up behind now */
    }
    for (int r = 0; r < size; r++) idle += td_role_is_idle(&d->role[r]);
    if (d->same && !idle && !grows) {
        end(l, &q->asked, d);
        return TD_OK;
    }
    if (!l->news.was_resized) l->news.size_before = size;
    if (!l->noticed) l->noticed = td_clock_ns();
    l->news.was_resized = true;
    if (grows) {
        l->midway = GROWN;
        return regroup(l, size + d->coming, NULL);
    }
    if (!l->midway) l->midway = BEGUN;
    return d->same ? send_away(l, d, idle) : deal_anew(l, d, q->step);
}

td_status td_rows_resize(loop *l)
{
    request q = {.step = l->state.step};
    deal d = {0};
    l->resizing = false;
    if (l->first && td_resize_read(l->job->run, &q.asked) != TD_OK) {
        td_resize_take_back(l->job->run);
        td_error_clear();
    }
    if (l->first && *q.asked.token) {
        q.anew = strcmp(q.asked.token, l->token) != 0;
        snprintf(l->token, sizeof l->token, "%s", q.asked.token);
    }
    TD_TRY(td_comm_broadcast(l->comm, &q, sizeof q, 0));
    if (!*q.asked.token && !l->midway) return TD_OK; /* taken back */
    if (q.anew && l->midway == GROWN) l->midway = BEGUN;
    td_status status = td_comm_agree(l->comm, make_deal(l, &q.asked, &d));
    if (status == TD_OK) status = do_next(l, &q, &d);
    td_free(d.role);
    return status;
}

/* At a meeting. */
td_status td_rows_look_for_resize(loop *l)
{
    uint8_t asked = l->first && td_resize_is_asked(l->job->run);
    TD_TRY(td_comm_broadcast(l->comm, &asked, sizeof asked, 0));
    return asked ? td_rows_resize(l) : TD_OK;
}
