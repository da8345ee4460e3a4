/* Live recovery, on any transport. See tandem/recover.h and comm/recover.h.
 *
 * Invariant: a rank returns from here with a new group only when all ranks of it have met in it
 * once, so all of them hold the same plan. Who meets a failure there (a rank of the plan has died,
 * or another one musters again) leaves the half-made group and musters again, with which the rest
 * follows: so a failure at any step leads to another generation, or to an error at all ranks.
 *
 * Cost: what the transport's muster costs, and the meeting: log n messages a rank, an agreement and
 * an all-gather of 8 bytes; where a tuning is passed on, its text and two agreements more. */
#include "comm/recover.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/coll/coll.h"
#include "comm/recorder.h"

#include <stdio.h>
#include <string.h>

enum { DEADLINE_MS = 30000, SENTENCE = 1024 };

uint64_t td_comm_generation(const td_comm *comm)
{
    return comm ? comm->generation : 0;
}

bool td_comm_joined(const td_comm *comm, int rank)
{
    return comm && comm->reborn && rank >= 0 && rank < comm->size && comm->reborn->joined[rank];
}

int td_comm_rank_in_run(const td_comm *comm, int rank)
{
    return !comm || comm->closed || rank < 0 || rank >= comm->size ? -1 : comm->world[rank];
}

void td_comm_die(td_comm *comm)
{
    if (comm && comm->ops->die) comm->ops->die(comm);
}

td_status td_comm_check_ranks(int ranks, int spares)
{
    if (ranks < 1 || ranks > TD_COMM_RANKS)
        return td_fail(TD_ERR_ARG, "the number of workers must be 1 to %d, not %d", TD_COMM_RANKS,
                       ranks);
    if (spares >= 0 && spares < ranks) return TD_OK;
    return td_fail(TD_ERR_ARG, "%d of %d ranks are to be spares: 0 to %d are possible", spares,
                   ranks, ranks - 1);
}

/* --- the new group --- */

static bool among(const int *world, int size, int rank)
{
    for (int k = 0; k < size; k++)
        if (world[k] == rank) return true;
    return false;
}

/* Who came and who is gone, against the group before (NULL: this rank was in none). */
static td_reborn *compare(const td_comm *before, const td_plan *plan)
{
    size_t was = before ? (size_t)before->size : 0, is = (size_t)plan->size;
    size_t lists = (is * sizeof(bool) + 15) / 16 * 16;
    td_reborn *r = td_calloc(1, sizeof *r + lists + (was + is) * sizeof(int));
    if (!r) return NULL;
    r->died = (int *)(void *)((char *)r + sizeof *r + lists);
    r->came = r->died + was;
    r->size_before = (int)was;
    r->left = plan->left;
    const td_seat *seat = before ? before->seat : NULL;
    for (int rank = 0; seat && rank < seat->ranks; rank++)
        if (among(before->world, before->size, rank) && !plan->parted[rank] &&
            !among(plan->world, plan->size, rank))
            r->died[r->died_count++] = rank;
    for (int k = 0; k < plan->size; k++) {
        r->joined[k] = plan->came[k];
        if (!plan->came[k]) continue;
        int at = r->came_count++;
        for (; at > 0 && r->came[at - 1] > plan->world[k]; at--) r->came[at] = r->came[at - 1];
        r->came[at] = plan->world[k];
    }
    return r;
}

static td_status build(td_comm *from, const td_comm *before, const td_plan *plan, td_comm **out)
{
    td_comm *c = td_calloc(1, sizeof *c);
    int *host = td_calloc((size_t)plan->size, sizeof *host);
    td_reborn *reborn = compare(before, plan);
    td_status status = TD_OK;
    if (!c || !host || !reborn) {
        status = td_fail(TD_ERR_NOMEM, "no memory for a group of %d ranks", plan->size);
        goto out;
    }
    c->ops = from->ops, c->impl = plan->impl, c->size = plan->size;
    c->deadline_ms = from->deadline_ms, c->one_thread = from->one_thread;
    c->generation = plan->generation, c->seat = from->seat, c->reborn = reborn;
    for (int k = 0; k < plan->size; k++) {
        host[k] = from->seat->host[plan->world[k]];
        if (plan->world[k] == from->seat->rank) c->rank = k;
    }
    status = td_comm_set_hosts(c, host, plan->world);
    c->card.group = td_comm_group_number(1, plan->generation, 0);
out:
    td_free(host);
    *out = status == TD_OK ? c : NULL;
    if (status == TD_OK) return TD_OK;
    /* The others wait for this rank, until it leaves, or its status ends the run. */
    td_comm gone = {.ops = from->ops, .impl = plan->impl, .size = plan->size, .spoiled = true};
    while (plan->world[gone.rank] != from->seat->rank) gone.rank++;
    from->ops->close(&gone);
    td_free(reborn);
    td_free(c);
    return status;
}

static td_status meet(td_comm *c, int64_t deadline_ms)
{
    char any = 0;
    int64_t before = c->deadline_ms;
    c->operation = td_does_names[TD_DOES_RECOVER];
    c->deadline_ms = deadline_ms;
    td_status status = td_disseminate(c, TD_TAG_FORM, &any);
    c->deadline_ms = before;
    return status;
}

static td_status at_step(td_comm *comm, int step)
{
    return comm->seat->at_step ? comm->seat->at_step(comm, step, comm->seat->arg) : TD_OK;
}

/* A measured choice of algorithms is in no spare. */
static td_status pass_tuning_on(const td_comm *before, td_comm *c, int64_t deadline_ms)
{
    int64_t own = c->deadline_ms;
    c->deadline_ms = deadline_ms;
    td_status status = td_tuning_pass_on(before, c);
    c->deadline_ms = own;
    return status;
}

/* Until a group has met. `before`: the one that is left, NULL for a spare. *out NULL: this rank is
 * not in it. */
static td_status regroup(td_comm *comm, const td_comm *before, td_muster *mine, td_plan *plan,
                         td_comm **out)
{
    bool active = mine->role == TD_ROLE_RECOVERING;
    td_status status = TD_ERR_PEER;
    *out = NULL;
    for (int attempt = 0; attempt < comm->seat->ranks + 8; attempt++) {
        td_comm *c = NULL;
        if (active) TD_TRY(at_step(comm, 0));
        TD_TRY(comm->ops->muster(comm, mine, plan));
        if (plan->ended) return TD_OK;
        if (!among(plan->world, plan->size, comm->seat->rank)) {
            comm->seat->idle = true;
            return TD_OK;
        }
        TD_TRY(build(comm, before, plan, &c));
        bool lost = at_step(c, 1) != TD_OK;
        status = lost ? TD_ERR_PEER : meet(c, mine->deadline_ms);
        if (status == TD_OK && c->ops->formed) c->ops->formed(c);
        if (status == TD_OK) status = pass_tuning_on(before, c, mine->deadline_ms);
        if (status == TD_OK) lost = at_step(c, 2) != TD_OK;
        if (status == TD_OK && !lost) {
            *out = c;
            return TD_OK;
        }
        snprintf(mine->why, sizeof mine->why, "%s", td_last_error());
        c->spoiled = true;
        td_comm_close(c);
        if (lost) return td_fail(TD_ERR_PEER, "rank %d has died", comm->seat->rank);
    }
    return td_fail_within(status,
                          "recover: %d new groups failed, the last one: ", comm->seat->ranks + 8);
}

static void free_plan(td_plan *plan)
{
    td_free(plan->world), td_free(plan->came), td_free(plan->parted);
}

static td_status make_plan(const td_comm *comm, td_plan *plan)
{
    size_t n = (size_t)comm->seat->ranks;
    *plan = (td_plan){.world = td_calloc(n, sizeof *plan->world),
                      .came = td_calloc(n, sizeof *plan->came),
                      .parted = td_calloc(n, sizeof *plan->parted)};
    if (plan->world && plan->came && plan->parted) return TD_OK;
    free_plan(plan);
    return td_fail(TD_ERR_NOMEM, "no memory for a group of %d ranks", comm->seat->ranks);
}

static td_status in_a_run(const td_comm *comm)
{
    TD_TRY(td_comm_check_open(comm, "recover"));
    if (comm->seat && comm->ops->muster) return TD_OK;
    return td_fail(TD_ERR_UNSUPPORTED,
                   "recover: rank %d of transport \"%s\" is in no run that could recover",
                   comm->rank, comm->ops->name);
}

static td_status check_call(const td_comm *comm, td_comm *const *out)
{
    TD_TRY(in_a_run(comm));
    return td_comm_check_given(out, "recover", "place for the new group");
}

static td_status run(td_comm *comm, td_muster *mine, td_comm **out)
{
    td_plan plan;
    td_comm *made = NULL;
    TD_TRY(make_plan(comm, &plan));
    struct td_record *record = td_comm_begin(comm, &(td_note){TD_DOES_RECOVER, 0, -1, -1, -1});
    comm->spoiled = true; /* nobody will use it any more */
    td_status status = td_comm_end(record, regroup(comm, comm, mine, &plan, &made));
    free_plan(&plan);
    if (status != TD_OK) return status;
    /* The record goes on in it. */
    if (made) td_recorder_move(comm, made);
    *out = made;
    return TD_OK;
}

/* --- the calls --- */

static int64_t deadline_of(const td_comm *comm, const td_recover_config *config)
{
    if (config && config->deadline_ms > 0) return config->deadline_ms;
    return comm->deadline_ms < DEADLINE_MS ? comm->deadline_ms : DEADLINE_MS;
}

td_status td_comm_can_recover(td_comm *comm)
{
    TD_TRY(in_a_run(comm));
    return comm->ops->can_recover ? comm->ops->can_recover(comm) : TD_OK;
}

td_status td_comm_recover(td_comm *broken, const td_recover_config *config, td_comm **out,
                          td_recovery *report)
{
    TD_TRY(check_call(broken, out));
    td_recover_config c = config ? *config : (td_recover_config){0};
    td_muster mine = {.role = TD_ROLE_RECOVERING,
                      .want = c.want > 0 ? c.want : 0,
                      .least = c.least > 1 ? c.least : 1,
                      .deadline_ms = deadline_of(broken, config),
                      .on_hang = c.on_hang};
    const char *met = td_last_error();
    snprintf(mine.why, sizeof mine.why, "%s", *met ? met : "its caller asks for it");
    if (c.deadline_ms < 0)
        return td_fail(TD_ERR_ARG,
                       "recover: a deadline of %lld ms; 1 or more are possible, and 0 for the "
                       "group's, but %d at most",
                       (long long)c.deadline_ms, (int)DEADLINE_MS);
    if (c.want < -1 || c.least < 0 || (unsigned)c.on_hang > TD_HANG_KILL)
        return td_fail(TD_ERR_ARG, "recover: %d ranks wanted, at least %d, on_hang %d", c.want,
                       c.least, (int)c.on_hang);
    TD_TRY(td_comm_can_recover(broken));
    TD_TRY(run(broken, &mine, out));
    if (!report) return TD_OK;
    *report = (td_recovery){.size_before = broken->size};
    if (!*out) return TD_OK;
    const td_reborn *r = (*out)->reborn;
    report->generation = (*out)->generation;
    report->size = (*out)->size;
    report->died_count = r->died_count, report->died = r->died;
    report->left = r->left;
    report->came_count = r->came_count, report->came = r->came;
    return TD_OK;
}

td_status td_comm_can_resize(td_comm *comm)
{
    TD_TRY(in_a_run(comm));
    return comm->ops->can_resize ? comm->ops->can_resize(comm) : TD_OK;
}

td_status td_comm_resize(td_comm *comm, int ranks, td_comm **out)
{
    return td_comm_resize_keeping(comm, ranks, NULL, out);
}

td_status td_comm_resize_keeping(td_comm *comm, int ranks, const bool *stays, td_comm **out)
{
    int staying = 0;
    TD_TRY(check_call(comm, out));
    for (int r = 0; stays && r < comm->size; r++) staying += stays[r];
    if (ranks < 1) return td_fail(TD_ERR_ARG, "resize: %d ranks; 1 or more are possible", ranks);
    if (stays && !staying)
        return td_fail(TD_ERR_ARG, "resize: none of %d ranks would stay", comm->size);
    td_muster mine = {.role = TD_ROLE_RECOVERING,
                      .want = ranks,
                      .least = 1,
                      .deadline_ms = deadline_of(comm, NULL),
                      .leaves = stays && !stays[comm->rank],
                      .why = "the group is being resized"};
    /* What ranks are in must have ended before a rank says that the group ends. Who fails in the
     * barrier has come as well: a rank is gone, or ahead. */
    td_status status = td_comm_barrier(comm);
    if (status != TD_OK && status != TD_ERR_PEER) return status;
    return run(comm, &mine, out);
}

/* --- the life of a rank --- */

td_status td_comm_wait_taken(td_comm *idle, td_comm **out)
{
    td_plan plan;
    td_muster mine = {.role = TD_ROLE_SPARE, .deadline_ms = deadline_of(idle, NULL)};
    *out = NULL;
    TD_TRY(make_plan(idle, &plan));
    td_status status = regroup(idle, NULL, &mine, &plan, out);
    free_plan(&plan);
    if (idle->seat) idle->seat->waited_in_vain = status != TD_OK;
    if (status != TD_ERR_PEER || td_comm_failure(idle) == TD_OK) return status;
    char sentence[SENTENCE];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    return td_fail_again(td_comm_failure(idle), sentence);
}

td_status td_comm_run_rank(td_comm *first, bool spare, td_rank_fn *fn, void *arg)
{
    char sentence[SENTENCE];
    td_status status = spare ? TD_OK : fn(first, arg);
    while (status == TD_OK && first->seat && (spare || first->seat->idle)) {
        td_comm *taken = NULL;
        spare = first->seat->idle = false;
        TD_TRY(td_comm_wait_taken(first, &taken));
        if (!taken) break;
        status = fn(taken, arg);
        snprintf(sentence, sizeof sentence, "%s", td_last_error());
        td_comm_close(taken);
        if (status != TD_OK) td_fail_again(status, sentence);
    }
    return status;
}
