/* Waits. Each has a deadline, looks now and then whether a rank has failed, and after a while asks
 * whom it waits for what that rank is doing:
 *
 *   at once      spin, then yield for longer than it takes to wake a thread (two that sleep in turn
 *                would do so for good), then sleep; for a while behind a long yield, only sleep
 *   1 ms         ask the transport, every millisecond, for ranks that have failed or left
 *   20 ms        show this rank's card (header.h) to whom it waits for, and to whom that rank waits
 *                for, ...; judge the cards that came. Again after 20, 40, ... 1,280 ms
 *   deadline     say who is missing, and what its card shows or was heard of it last
 *
 * The fast path knows nothing of this: a wait that ends within a millisecond reads the clock at
 * most. */
#include "comm/transport.h"

#include "base/clock.h"
#include "base/error.h"
#include "comm/coll/meet.h"
#include "comm/recorder.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>

enum {
    SPINS = 1000,
    YIELD_NS = 1000000,
    YIELD_CROWDED_NS = 200000,
    CHECK_NS = 1000000,
    ASK_NS = 20000000,
    LONG_YIELD_NS = 16000000,
    YIELD_PAUSE = 32
};
enum { LEAST_NAP_NS = 10000, MOST_NAP_NS = 200000 };
enum { MOST_ASK_NS = 64 * ASK_NS, HOPS = 8 };

typedef struct waiting {
    td_comm *comm;
    int peer;
    td_bell *bell;
    td_wait_test *test;
    td_wait_blame *blame;
    void *arg;
    int64_t begin, checked;     /* 0: it is no long wait yet */
    int64_t ended;              /* the last yield did; 0: something else came last */
    int64_t ask_at, ask_period; /* 0: not asked yet */
} waiting;

/* The entry of the operation that waits, NULL: a wait between operations, or no record. */
static td_record *under_way(const td_comm *comm)
{
    td_record *r = comm->record;
    return r && r->state == TD_RECORD_BEGUN ? r : NULL;
}

/* --- what missing ranks are doing --- */

/* That rank of the run's card, while it waits for a rank that is not this one; -1: none. */
static int waits_for(td_comm *comm, int world)
{
    td_card card;
    if (!comm->ops->card(comm, world, &card) || card.waits != TD_WAITS) return -1;
    return card.missing == comm->world[comm->rank] ? -1 : card.missing;
}

static td_status ask(waiting *w, int who)
{
    td_comm *comm = w->comm;
    td_card card;
    comm->ops->show(comm, who < 0 ? -1 : comm->world[who]);
    int world = who < 0 ? -1 : waits_for(comm, comm->world[who]);
    for (int hop = 0; hop < HOPS && world >= 0; hop++, world = waits_for(comm, world))
        comm->ops->show(comm, world);
    for (int r = 0; r < comm->size; r++)
        if (r != comm->rank && comm->ops->card(comm, comm->world[r], &card))
            TD_TRY(td_card_judge(comm, comm->world[r], &card, r == who));
    return TD_OK;
}

/* What that rank of the group showed last, wherever; false: nothing. */
static bool last_of(td_comm *comm, int rank, td_header *out)
{
    const td_header *heard = td_greeting_last(comm, rank);
    bool met = comm->meet && td_meet_last(comm->meet, rank, out);
    if (heard && (!met || heard->sequence > out->sequence)) *out = *heard;
    return heard || met;
}

static int in_group(const td_comm *comm, int world)
{
    for (int r = 0; r < comm->size; r++)
        if (comm->world[r] == world) return r;
    return -1;
}

/* What is known of the missing rank, and of the one that it waits for, ... */
static void tell_missing(td_comm *comm, int who, char *text, size_t room)
{
    int told[HOPS], hops = 0, world = comm->world[who];
    for (size_t n = 0; world >= 0 && world != comm->world[comm->rank] && hops < HOPS;) {
        td_card card;
        td_header last;
        char what[300];
        for (int k = 0; k < hops; k++)
            if (told[k] == world) return; /* they wait for each other */
        told[hops++] = world;
        int rank = in_group(comm, world);
        bool there = comm->ops->card(comm, world, &card);
        bool known = rank >= 0 && last_of(comm, rank, &last);
        td_card_describe(comm, there ? &card : NULL, known ? &last : NULL, what, sizeof what);
        n += (size_t)snprintf(text + n, room - n, "; rank %d %s", world, what);
        if (n >= room) return;
        world = there && card.waits == TD_WAITS ? card.missing : -1;
        if (world >= 0) n += (size_t)snprintf(text + n, room - n, ", waiting for rank %d", world);
        if (n >= room) return;
    }
}

static td_status too_late(td_comm *comm, int who)
{
    long long ms = comm->deadline_ms;
    int me = comm->world[comm->rank];
    char what[200], known[600] = "";
    if (comm->operation && td_does_alone(comm->card.runs.does))
        td_header_describe(comm, &comm->card.runs, what, sizeof what);
    else
        snprintf(what, sizeof what, "%s (operation %llu)",
                 comm->operation ? comm->operation : "a wait", (unsigned long long)comm->sequence);
    if (who < 0)
        return td_fail(TD_ERR_TIMEOUT, "rank %d waited more than %lld ms in %s", me, ms, what);
    tell_missing(comm, who, known, sizeof known);
    return td_fail(TD_ERR_TIMEOUT, "rank %d waited more than %lld ms for rank %d in %s%s", me, ms,
                   comm->world[who], what, known);
}

/* --- the wait --- */

/* A 16th of the time waited so far, within bounds. The system rounds sleeps up by a thread's slack,
 * 50 us if nobody asks for less. */
static void nap(int64_t waited)
{
    int64_t ns = waited / 16;
    ns = ns < LEAST_NAP_NS ? LEAST_NAP_NS : ns > MOST_NAP_NS ? MOST_NAP_NS : ns;
    int slack = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
    if (slack > 0) prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
}

/* Where others want the core as well, of this job or not, a yield may last for as many of their
 * slices as there are, and systems count it as if this thread had run: who yields in every wait
 * gets next to nothing of a busy machine. Who sleeps is woken soon. */
static void give_way(waiting *w, int64_t now)
{
    sched_yield();
    w->ended = td_clock_ns();
    int64_t took = w->ended - now;
    if (took > LONG_YIELD_NS) w->comm->yields_from = w->ended + YIELD_PAUSE * took;
}

/* One sleep: until the bell rings, but not for long, because a rank that dies rings nothing. */
static td_status doze(td_bell *bell, int64_t waited, td_wait_test *test, void *arg, bool *done)
{
    if (!bell) {
        nap(waited);
        return TD_OK;
    }
    uint32_t number = td_bell_listen(bell);
    td_status status = test(arg, done);
    if (status == TD_OK && !*done) td_bell_sleep(bell, number, 2000000);
    td_bell_leave(bell);
    return status;
}

/* Every millisecond of a long wait. */
static td_status check(waiting *w, int64_t now)
{
    td_comm *comm = w->comm;
    int who = w->peer >= 0 ? w->peer : w->blame ? w->blame(w->arg) : -1;
    comm->card.missing = who < 0 ? -1 : comm->world[who];
    comm->card.waits = TD_WAITS;
    td_record *record = under_way(comm);
    if (record) record->missing = comm->card.missing, record->end_ns = w->begin;
    TD_TRY(comm->ops->check(comm, who));
    bool late = now - w->begin > comm->deadline_ms * 1000000;
    if (now >= w->ask_at || late) {
        w->ask_period = w->ask_period == 0            ? ASK_NS
                        : w->ask_period < MOST_ASK_NS ? 2 * w->ask_period
                                                      : MOST_ASK_NS;
        w->ask_at = now + w->ask_period;
        TD_TRY(ask(w, who));
    }
    return late ? too_late(comm, who) : TD_OK;
}

static td_status wait_for(waiting *w)
{
    td_comm *comm = w->comm;
    for (int round = 0;; round++) {
        bool done = false;
        TD_TRY(w->test(w->arg, &done));
        if (done) return TD_OK;
        if (comm->ops->pause) {
            TD_TRY(comm->ops->check(comm, w->peer));
            TD_TRY(comm->ops->pause(comm));
            continue;
        }
        if (!comm->crowded && round < SPINS) {
            td_relax();
            continue;
        }
        int64_t now = td_clock_ns();
        if (w->begin == 0) {
            w->begin = w->checked = now;
            w->ask_at = now + ASK_NS;
            td_record *record = under_way(comm);
            if (record && !record->begin_ns) record->begin_ns = now;
        }
        if (now - w->checked > CHECK_NS) {
            td_status status = check(w, now);
            if (status != TD_OK) { /* what was awaited may have come before the failure */
                TD_TRY(w->test(w->arg, &done));
                return done ? TD_OK : status;
            }
            w->checked = now;
        }
        int64_t most = comm->crowded || comm->beside ? YIELD_CROWDED_NS : YIELD_NS;
        if (now - w->begin < most && now >= comm->yields_from)
            give_way(w, now);
        else {
            w->ended = 0;
            TD_TRY(doze(w->bell, now - w->begin, w->test, w->arg, &done));
        }
        if (done) return TD_OK;
    }
}

td_status td_comm_wait(td_comm *comm, int peer, td_bell *bell, td_wait_test *test,
                       td_wait_blame *blame, void *arg)
{
    td_comm_record_due(comm);
    waiting w =
        {.comm = comm, .peer = peer, .bell = bell, .test = test, .blame = blame, .arg = arg};
    td_status status = wait_for(&w);
    td_record *record = under_way(comm);
    if (w.begin && record) {
        record->waited_ns += (w.ended ? w.ended : td_clock_ns()) - w.begin;
        record->end_ns = 0;
        if (status == TD_OK) record->missing = -1;
    }
    if (w.begin) comm->card.waits = TD_WAITED;
    if (status != TD_OK) {
        comm->spoiled = true;
        td_comm_give_up(comm, peer >= 0 ? peer : blame ? blame(arg) : -1);
    }
    if (w.ask_period) comm->ops->show(comm, -1); /* no longer */
    return status;
}
