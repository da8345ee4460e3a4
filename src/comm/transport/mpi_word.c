/* What ranks of an MPI job tell each other beside their messages.
 *
 * A rank that fails tells all others by a message with a tag of its own, which their waits look
 * for; peers on the same host are also watched by their process ids. Cards (header.h) go by the
 * same tag: a rank asks with its own, and another that waits, or has left and waits for the job's
 * end, answers with its own. A rank that computes answers nothing, so one question to each is under
 * way at most. */
#include "comm/transport/mpi_group.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { SENTENCE = 1000, LOOKS = 64, NAMED = 8 };
enum { DEAD_NS = 20000000 }; /* from one look for gone processes to the next */
enum { BYE_NS = 500000000, BYE_TURNS = 100, TURN_NS = 20000000, TURNS = 16 };
static const int64_t LONG_BYE_NS = 10000000000;
enum { ASK_AGAIN_NS = 2000000000, STALE_NS = 200000000, LEFT_NS = 100000000 };

struct td_mpi_notice {
    int rank, status;
    char sentence[SENTENCE];
};

typedef struct letter { /* a card on its way */
    int32_t asks, unused;
    td_card card;
} letter;

struct td_mpi_known {
    td_card card;              /* group 0: none came */
    int64_t came_ns, asked_ns; /* asked: and not answered yet, else 0 */
    letter out[2];             /* an answer, a question */
    MPI_Request sends[2];
};

const char *td_mpi_operation(const td_comm *comm)
{
    return comm->operation ? comm->operation : "a message";
}

int td_mpi_in_run(const td_comm *comm, int rank)
{
    return comm->world && rank >= 0 ? comm->world[rank] : rank;
}

td_status td_mpi_error(int code, const td_comm *comm, int peer)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int length, class = 0, me = td_mpi_in_run(comm, comm->rank), other = td_mpi_in_run(comm, peer);
    MPI_Error_string(code, text, &length);
    MPI_Error_class(code, &class);
#ifdef MPIX_ERR_PROC_FAILED
    if (class == MPIX_ERR_PROC_FAILED || class == MPIX_ERR_REVOKED) {
        if (other < 0)
            return td_mpi_library->fail(TD_ERR_PEER, "a rank has died, seen by rank %d in %s", me,
                                        td_mpi_operation(comm));
        return td_mpi_library->fail(TD_ERR_PEER, "rank %d has died, seen by rank %d in %s", other,
                                    me, td_mpi_operation(comm));
    }
#endif
    return td_mpi_library->fail(TD_ERR_PEER, "MPI failed between ranks %d and %d in %s: %s", me,
                                other, td_mpi_operation(comm), text);
}

/* --- failures, and cards --- */

bool td_mpi_word_begin(td_mpi_group *w)
{
    w->dead = calloc((size_t)w->size, sizeof *w->dead);
    w->known = calloc((size_t)w->size, sizeof *w->known);
    for (int r = 0; w->known && r < w->size; r++)
        w->known[r].sends[0] = w->known[r].sends[1] = MPI_REQUEST_NULL;
    return w->known && w->dead;
}

void td_mpi_word_end(td_mpi_group *w)
{
    td_mpi_muster_end(w);
    free(w->dead);
    free(w->failed);
    /* w->sent stays: it may still be on its way. */
    free(w->known);
}

int64_t td_mpi_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static bool begin_looking(td_mpi_group *w)
{
    return !__atomic_exchange_n(&w->looking, 1, __ATOMIC_ACQUIRE);
}

void td_mpi_begin_looking(td_mpi_group *w)
{
    while (!begin_looking(w)) sched_yield();
}

void td_mpi_end_looking(td_mpi_group *w)
{
    __atomic_store_n(&w->looking, 0, __ATOMIC_RELEASE);
}

/* False: the last one of its kind to that rank has not gone out yet. */
static bool send_card(td_mpi_group *w, int rank, const td_card *card, bool asks)
{
    td_mpi_known *a = &w->known[rank];
    MPI_Request *sends = &a->sends[asks];
    int gone = 1;
    if (*sends != MPI_REQUEST_NULL && MPI_Test(sends, &gone, MPI_STATUS_IGNORE) != MPI_SUCCESS)
        gone = 1; /* that rank has */
    if (!gone) return false;
    a->out[asks] = (letter){.asks = asks, .card = *card};
    a->out[asks].card.gave_up = w->gave_up;
    return MPI_Isend(&a->out[asks], sizeof(letter), MPI_BYTE, rank, TD_TAG_FAILED, w->comm,
                     sends) == MPI_SUCCESS;
}

static void take_card(td_mpi_group *w, td_mpi_parcel *p, const td_card *own)
{
    letter l;
    int rank = p->from;
    if (MPI_Mrecv(&l, sizeof l, MPI_BYTE, &p->message, MPI_STATUS_IGNORE) != MPI_SUCCESS) return;
    td_mpi_known *a = &w->known[rank];
    a->card = l.card;
    a->came_ns = td_mpi_now_ns();
    if (l.asks)
        send_card(w, rank, own, false);
    else
        a->asked_ns = 0;
}

static void nap_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)ms * 1000000}, NULL);
}

/* --- the dead --- */

void td_mpi_note_dead(td_mpi_group *w, int rank)
{
    if (w->dead[rank]) return;
    __atomic_store_n(&w->dead[rank], 1, __ATOMIC_RELEASE);
    int none = 0;
    w->lossy = true;
    if (td_mpi_muster_watches(w, rank))
        __atomic_compare_exchange_n(&w->lost, &none, rank + 1, false, __ATOMIC_ACQ_REL,
                                    __ATOMIC_ACQUIRE);
}

void td_mpi_find_dead(td_mpi_group *w, bool all, int64_t now)
{
    if (now - w->last_look_ns < DEAD_NS) return;
    w->last_look_ns = now;
    for (int r = 0; r < w->size; r++) {
        if (r == w->rank || !w->pid[r] || w->dead[r]) continue;
        if (!all && !td_mpi_muster_watches(w, r)) continue;
        if (kill((pid_t)w->pid[r], 0) != 0 && errno == ESRCH) td_mpi_note_dead(w, r);
    }
}

/* A probe for anybody's message fails until those that MPI knows to have died are acknowledged. */
static void acknowledge_dead(td_mpi_group *w)
{
#if defined(OMPI_HAVE_MPIX_COMM_GET_FAILED)
    MPI_Group all, gone;
    int count = 0, acknowledged;
    if (!w->mitigates || MPIX_Comm_get_failed(w->comm, &gone) != MPI_SUCCESS) return;
    MPI_Comm_group(w->comm, &all);
    MPI_Group_size(gone, &count);
    for (int k = 0; k < count; k++) {
        int rank = -1;
        MPI_Group_translate_ranks(gone, 1, &k, all, &rank);
        if (rank >= 0 && rank < w->size) td_mpi_note_dead(w, rank);
    }
    MPIX_Comm_ack_failed(w->comm, count, &acknowledged);
    MPI_Group_free(&gone);
    MPI_Group_free(&all);
#else
    (void)w;
#endif
}

/* --- looking --- */

bool td_mpi_next(td_mpi_group *w, int tag, td_mpi_parcel *out)
{
    int flag = 0;
    MPI_Status status;
    if (MPI_Improbe(MPI_ANY_SOURCE, tag, w->comm, &flag, &out->message, &status) != MPI_SUCCESS) {
        acknowledge_dead(w);
        return false;
    }
    if (!flag) return false;
    out->from = status.MPI_SOURCE;
    MPI_Get_count(&status, MPI_BYTE, &out->bytes);
    return true;
}

/* Takes the messages of failures and cards that have come; answers with the own card. */
void td_mpi_look(td_mpi_group *w, const td_card *own)
{
    if (w->muster) td_mpi_muster_take(w);
    for (int k = 0; k < LOOKS && !w->failed; k++) {
        td_mpi_parcel p;
        if (!td_mpi_next(w, TD_TAG_FAILED, &p)) return;
        if (p.bytes == (int)sizeof(letter)) {
            take_card(w, &p, own);
            continue;
        }
        td_mpi_notice *n = calloc(1, sizeof *n);
        MPI_Mrecv(n, n ? sizeof *n : 0, MPI_BYTE, &p.message, MPI_STATUS_IGNORE);
        if (!n) return;
        n->sentence[SENTENCE - 1] = 0;
        __atomic_store_n(&w->failed, n, __ATOMIC_RELEASE);
    }
}

void td_mpi_show(td_comm *comm, int world)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    if (world < 0 || world == w->rank || !begin_looking(w)) return;
    td_mpi_known *a = &w->known[world];
    int64_t now = td_mpi_now_ns();
    if ((!a->asked_ns || now - a->asked_ns > ASK_AGAIN_NS) &&
        send_card(w, world, &comm->card, true))
        a->asked_ns = now;
    td_mpi_end_looking(w);
}

/* A rank that does not answer is not where its card says. */
bool td_mpi_card(td_comm *comm, int world, td_card *out)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    if (!begin_looking(w)) return false;
    const td_mpi_known *a = &w->known[world];
    bool there = a->card.group != 0;
    *out = a->card;
    if (out->waits == TD_WAITS && a->asked_ns && td_mpi_now_ns() - a->asked_ns > STALE_NS)
        out->waits = TD_WAITED;
    td_mpi_end_looking(w);
    return there;
}

void td_mpi_give_up(td_comm *comm)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    td_mpi_begin_looking(w);
    w->gave_up = comm->card.gave_up;
    td_mpi_end_looking(w);
}

td_status td_mpi_failed(const td_mpi_group *w)
{
    const td_mpi_notice *n = __atomic_load_n(&w->failed, __ATOMIC_ACQUIRE);
    if (!n) return TD_OK;
    return td_mpi_library->fail(TD_ERR_PEER, "rank %d failed: %.900s", n->rank, n->sentence);
}

td_status td_mpi_failure(td_comm *comm)
{
    const td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    const td_mpi_notice *n = __atomic_load_n(&w->failed, __ATOMIC_ACQUIRE);
    return n ? (td_status)n->status : TD_OK;
}

td_status td_mpi_check(td_comm *comm, int peer)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    bool left = false;
    if (begin_looking(w)) { /* else another thread looks */
        int64_t now = td_mpi_now_ns();
        const td_mpi_known *a = peer >= 0 ? &w->known[td_mpi_in_run(comm, peer)] : NULL;
        td_mpi_look(w, &comm->card);
        /* Not at once: what it sent before may still be on its way. */
        left = a && a->card.waits == TD_LEFT && now - a->came_ns > LEFT_NS;
        td_mpi_find_dead(w, false, now);
        td_mpi_end_looking(w);
    }
    td_status status = td_mpi_failed(w);
    if (status == TD_OK && w->muster) status = td_mpi_muster_check(comm);
    if (status != TD_OK) return status;
    int lost = __atomic_load_n(&w->lost, __ATOMIC_ACQUIRE);
    if (lost)
        return td_mpi_library->fail(TD_ERR_PEER, "rank %d has died, seen by rank %d in %s",
                                    lost - 1, w->rank, td_mpi_operation(comm));
    if (left)
        return td_mpi_library->fail(TD_ERR_PEER, "rank %d left while rank %d waited for it in %s",
                                    td_mpi_in_run(comm, peer), w->rank, td_mpi_operation(comm));
    return TD_OK;
}

void td_mpi_fail(td_comm *comm, td_status status)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    if (w->sent || w->failed) return; /* told already, or only passing on */
    w->sent = calloc(1, sizeof *w->sent);
    if (!w->sent) return;
    w->sent->rank = w->rank;
    w->sent->status = (int)status;
    snprintf(w->sent->sentence, SENTENCE, "%s", td_mpi_library->last_error());
    for (int r = 0; r < w->size; r++) {
        MPI_Request request; /* not freed: an error of it would then end the process */
        if (r == w->rank) continue;
        if (MPI_Isend(w->sent, sizeof *w->sent, MPI_BYTE, r, TD_TAG_FAILED, w->comm, &request) !=
            MPI_SUCCESS)
            continue; /* who has died need not be told */
    }
}

/* --- the end --- */

/* Ranks that have not ended, of those that count: how many, the first few as text. */
static int not_ended(const td_mpi_group *w, char *text, size_t room)
{
    int n = 0;
    size_t at = 0;
    for (int r = 0; r < w->size; r++) {
        if (r == w->rank || w->dead[r] || !td_mpi_muster_watches(w, r)) continue;
        if (w->known[r].card.waits == TD_LEFT) continue;
        if (n++ < NAMED) at += (size_t)snprintf(text + at, room - at, "%s%d", at ? ", " : "", r);
    }
    if (n > NAMED) snprintf(text + at, room - at, " and %d others", n - NAMED);
    return n;
}

/* The lowest of those who wait for the others' end speaks for all. */
static bool speaks(const td_mpi_group *w)
{
    for (int r = 0; r < w->rank; r++)
        if (w->known[r].card.waits == TD_LEFT && !w->dead[r]) return false;
    return true;
}

void td_mpi_wait_on(td_mpi_group *w, const td_card *own, td_mpi_patience *p)
{
    int64_t now = td_mpi_now_ns();
    if (!p->since_ns) p->since_ns = now;
    if (p->told || now - p->since_ns < p->deadline_ms * 1000000) return;
    for (int r = 0; r < w->size && !p->asked_ns; r++)
        if (r != w->rank && !w->dead[r]) send_card(w, r, own, true);
    if (!p->asked_ns) p->asked_ns = now;
    if (now - p->asked_ns < STALE_NS) return;
    char ranks[16 * NAMED];
    int n = not_ended(w, ranks, sizeof ranks);
    p->told = true;
    if (n && speaks(w))
        td_mpi_library->log(TD_LOG_WARN,
                            "rank %d has ended, and has waited more than %lld ms for rank%s %s to "
                            "end; it goes on waiting",
                            w->rank, (long long)p->deadline_ms, n > 1 ? "s" : "", ranks);
}

/* One round of the wait for all to leave: this rank tells one and hears of another. */
static bool leave_with(td_mpi_group *w, int to, int from, const td_card *own, td_mpi_patience *p)
{
    MPI_Request requests[2];
    int done = 0;
    if (MPI_Irecv(NULL, 0, MPI_BYTE, from, TD_TAG_LEAVE, w->comm, &requests[0]) != MPI_SUCCESS)
        return false;
    if (MPI_Isend(NULL, 0, MPI_BYTE, to, TD_TAG_LEAVE, w->comm, &requests[1]) != MPI_SUCCESS)
        return false;
    for (int64_t begin = td_mpi_now_ns();;) {
        if (MPI_Testall(2, requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) return false;
        if (done) return true;
        int64_t now = td_mpi_now_ns();
        if (now - begin < 1000000) {
            sched_yield();
            continue;
        }
        td_mpi_look(w, own);
        if (w->failed) return false;
        td_mpi_find_dead(w, true, now);
        if (w->lost) return false;
        td_mpi_wait_on(w, own, p);
        nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    }
}

/* A barrier by dissemination. */
bool td_mpi_leave(td_mpi_group *w, const td_card *own, int64_t deadline_ms)
{
    bool left = true;
    td_mpi_patience p = {.deadline_ms = deadline_ms};
    for (int far = 1; far < w->size && left; far *= 2)
        left =
            leave_with(w, (w->rank + far) % w->size, (w->rank - far + w->size) % w->size, own, &p);
    return left;
}

/* --- leaving behind a failure --- */

typedef struct goodbyes {
    bool *heard;    /* [size] */
    bool abandoned; /* some rank leaves without MPI_Finalize */
} goodbyes;

static const char abandons = 1;

/* Says goodbye, or (`bytes` 1) that this rank leaves without MPI_Finalize. */
static void say(td_mpi_group *w, int bytes)
{
    for (int r = 0; r < w->size; r++) {
        MPI_Request request; /* not freed, as above */
        if (r == w->rank || w->dead[r]) continue;
        if (MPI_Isend(&abandons, bytes, MPI_BYTE, r, TD_TAG_BYE, w->comm, &request) != MPI_SUCCESS)
            continue;
    }
}

/* Takes what has come. How many of the living have not said goodbye. */
static int hear(td_mpi_group *w, const td_card *own, goodbyes *g)
{
    td_mpi_parcel p;
    char byte;
    int missing = 0;
    td_mpi_begin_looking(w);
    while (td_mpi_next(w, TD_TAG_BYE, &p)) {
        MPI_Mrecv(&byte, p.bytes, MPI_BYTE, &p.message, MPI_STATUS_IGNORE);
        g->heard[p.from] = true;
        g->abandoned = g->abandoned || p.bytes > 0;
    }
    td_mpi_look(w, own);
    if (w->mitigates) td_mpi_find_dead(w, true, td_mpi_now_ns());
    td_mpi_end_looking(w);
    for (int r = 0; r < w->size; r++) missing += r != w->rank && !g->heard[r] && !w->dead[r];
    return missing;
}

/* Behind a death, or where some rank waited for another in vain, who is missing may never come. */
static bool some_may_never_come(const td_mpi_group *w)
{
    const td_mpi_notice *theirs = __atomic_load_n(&w->failed, __ATOMIC_ACQUIRE), *own = w->sent;
    return !w->mitigates || w->lossy || (theirs && theirs->status == (int)TD_ERR_TIMEOUT) ||
           (own && own->status == (int)TD_ERR_TIMEOUT);
}

/* Open MPI 5.0's launcher, told to let ranks die, was seen to hang where several exit with a
 * failure at the same time (it releases the job's data twice): so they do not, the first ranks at
 * least. */
static void leave_in_turn(td_mpi_group *w, const td_card *own, goodbyes *g)
{
    int64_t turn = TURN_NS * (int64_t)(1 + (w->rank < TURNS ? w->rank : TURNS));
    say(w, 1);
    for (int64_t begin = td_mpi_now_ns(); td_mpi_now_ns() - begin < turn;) {
        hear(w, own, g);
        nap_ms(2);
    }
}

bool td_mpi_say_goodbye(td_mpi_group *w, const td_card *own)
{
    goodbyes g = {.heard = calloc((size_t)w->size, sizeof *g.heard)};
    if (!g.heard) return false;
    say(w, 0);
    int missing, turns = 0;
    for (int64_t begin = td_mpi_now_ns();; turns++) {
        int64_t waited = td_mpi_now_ns() - begin; /* before what has come meanwhile is taken */
        missing = hear(w, own, &g);
        if (!missing || g.abandoned) break;
        /* Turns, too: a process that got no processor has not waited. */
        if (turns >= BYE_TURNS && waited > (some_may_never_come(w) ? BYE_NS : LONG_BYE_NS)) break;
        nap_ms(2);
    }
    w->last_look_ns = 0; /* who has died behind its goodbye, or leaves without MPI's end */
    missing = hear(w, own, &g);
    bool all = missing == 0 && !g.abandoned;
    if (w->mitigates && (!all || w->lossy)) leave_in_turn(w, own, &g);
    free(g.heard);
    return all;
}
