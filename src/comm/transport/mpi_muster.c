/* Every rank's part of a recovery under MPI: see mpi_muster.h. */
#include "comm/transport/mpi_muster.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NAP_NS = 100000, IDLE_NAP_NS = 4000000, PASS_ON = 4 };

/* --- letters --- */

static size_t bytes_of(const td_mpi_letter *l)
{
    return sizeof *l + (size_t)(l->size + l->parted) * sizeof *l->list;
}

td_mpi_letter *td_mpi_letter_create(int kind, int list)
{
    td_mpi_letter *l = calloc(1, sizeof *l + (size_t)list * sizeof *l->list);
    if (l) l->kind = kind;
    return l;
}

td_mpi_letter *td_mpi_letter_copy(const td_mpi_letter *letter)
{
    td_mpi_letter *l = malloc(bytes_of(letter));
    if (l) memcpy(l, letter, bytes_of(letter));
    return l;
}

/* Frees those that have gone out. */
static void reap(td_mpi_muster *m)
{
    for (td_mpi_post **at = &m->posts; *at;) {
        td_mpi_post *p = *at;
        int gone = 0;
        if (MPI_Test(&p->request, &gone, MPI_STATUS_IGNORE) != MPI_SUCCESS) gone = 1;
        if (!gone) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        free(p->letter), free(p);
    }
}

void td_mpi_send_letter(td_mpi_group *w, int to, const td_mpi_letter *letter)
{
    td_mpi_post *p = calloc(1, sizeof *p);
    td_mpi_letter *copy = td_mpi_letter_copy(letter);
    if (!p || !copy ||
        MPI_Isend(copy, (int)bytes_of(copy), MPI_BYTE, to, TD_TAG_MUSTER, w->comm, &p->request) !=
            MPI_SUCCESS) {
        free(p), free(copy);
        return;
    }
    p->letter = copy;
    p->next = w->muster->posts;
    w->muster->posts = p;
}

void td_mpi_send_all(td_mpi_group *w, const td_mpi_letter *letter)
{
    for (int r = 0; r < w->size; r++)
        if (r != w->rank && !w->dead[r]) td_mpi_send_letter(w, r, letter);
}

td_mpi_letter *td_mpi_describe(td_mpi_group *w)
{
    td_mpi_muster *m = w->muster;
    td_mpi_letter *l = td_mpi_letter_create(TD_MPI_ANSWER, m->formed_size);
    if (!l) return NULL;
    l->role = (int32_t)m->role;
    l->generation = m->accepted, l->formed = m->formed;
    l->want = m->wish.want, l->least = m->wish.least, l->leaves = m->wish.leaves;
    l->on_hang = (int32_t)m->wish.on_hang, l->deadline_ms = m->wish.deadline_ms;
    for (int k = 0; k < TD_GROUP_WORDS; k++)
        l->numbers[k] = ~__atomic_load_n(&w->taken[k], __ATOMIC_ACQUIRE);
    l->size = m->formed_size;
    for (int k = 0; k < m->formed_size; k++) l->list[k] = m->formed_member[k];
    return l;
}

int td_mpi_lowest(const td_mpi_group *w)
{
    int r = 0;
    while (r < w->rank && w->dead[r]) r++;
    return r;
}

/* --- what comes --- */

static void end_generation(td_mpi_group *w, int64_t generation, const char *why)
{
    if (generation <= w->revoked) return;
    snprintf(w->muster->why, TD_MPI_WHY, "%s", why);
    __atomic_store_n(&w->revoked, generation, __ATOMIC_RELEASE);
}

static void tell(td_mpi_muster *m, const td_mpi_letter *letter)
{
    td_mpi_letter *copy = td_mpi_letter_copy(letter);
    if (!copy) return;
    free(m->told);
    m->told = copy;
}

void td_mpi_accept(td_mpi_group *w, const td_mpi_letter *l)
{
    td_mpi_muster *m = w->muster;
    bool concerns = m->role == TD_ROLE_RECOVERING;
    m->accepted = l->generation;
    memset(m->watched, 0, (size_t)w->size * sizeof *m->watched);
    memset(m->waits, 0, (size_t)w->size * sizeof *m->waits);
    for (int k = 0; k < l->size + l->parted; k++) {
        int rank = l->list[k] & ~TD_MPI_CAME;
        m->known[rank] = k < l->size ? TD_ROLE_ACTIVE : TD_ROLE_PARTING;
        m->watched[rank] = k < l->size;
        concerns = concerns || rank == w->rank;
        if (k >= l->size && rank == w->rank) m->role = TD_ROLE_PARTING; /* whatever follows */
    }
    int lost = 0;
    for (int r = w->size - 1; r >= 0; r--)
        if (m->watched[r] && w->dead[r]) lost = r + 1;
    __atomic_store_n(&w->lost, lost, __ATOMIC_RELEASE);
    if (concerns && m->role != TD_ROLE_LEFT) tell(m, l);
}

static void take_query(td_mpi_group *w, int from, const td_mpi_letter *l)
{
    td_mpi_muster *m = w->muster;
    if (from < m->asker) return; /* dead by now */
    m->asker = from, m->query = l->query;
    m->asked = true;
    m->heard_ns = td_mpi_now_ns();
    if (m->told && m->told->kind == TD_MPI_DECISION && m->role != TD_ROLE_PARTING) { /* it failed */
        free(m->told);
        m->told = NULL;
    }
    end_generation(w, l->revoked, l->why);
}

static void take(td_mpi_group *w, int from, const td_mpi_letter *l)
{
    td_mpi_muster *m = w->muster;
    bool current = from == m->asker && l->query == m->answered;
    if (from == m->master) m->heard_ns = td_mpi_now_ns();
    switch (l->kind) {
    case TD_MPI_RECOVERS:
        end_generation(w, l->revoked, l->why);
        if (l->who == w->rank) m->waits[from] = true;
        break;
    case TD_MPI_IDLE: m->known[from] = (td_role)l->role; break;
    case TD_MPI_QUERY: take_query(w, from, l); break;
    case TD_MPI_ANSWER:
        if (!m->collecting || l->query != m->queries) break;
        free(m->answer[from]);
        m->answer[from] = td_mpi_letter_copy(l);
        break;
    case TD_MPI_DECISION:
        if (current && l->generation > m->accepted) td_mpi_accept(w, l);
        break;
    case TD_MPI_VERDICT:
        if (current && m->role == TD_ROLE_RECOVERING) tell(m, l);
        break;
    case TD_MPI_KILL:
        if (current && w->pid[l->who] && !w->dead[l->who]) kill((pid_t)w->pid[l->who], SIGKILL);
        break;
    case TD_MPI_END:
        m->ended = true;
        m->end = (td_status)l->status;
        w->lossy = w->lossy || l->who;
        break;
    default: break;
    }
}

void td_mpi_muster_take(td_mpi_group *w)
{
    for (;;) {
        td_mpi_parcel p;
        if (!td_mpi_next(w, TD_TAG_MUSTER, &p)) return;
        td_mpi_letter *l = malloc((size_t)p.bytes);
        if (MPI_Mrecv(l, l ? p.bytes : 0, MPI_BYTE, &p.message, MPI_STATUS_IGNORE) == MPI_SUCCESS &&
            l)
            take(w, p.from, l);
        free(l);
    }
}

/* --- following --- */

static void answer(td_mpi_group *w)
{
    td_mpi_muster *m = w->muster;
    td_mpi_letter *l = m->asker < 0 || m->asker == w->rank ? NULL : td_mpi_describe(w);
    m->asked = false;
    if (!l) return;
    l->query = m->answered = m->query;
    td_mpi_send_letter(w, m->asker, l);
    free(l);
}

/* Says to the master, and first to all, that this rank recovers; that it is idle, to the master. */
static void report(td_mpi_group *w, int to, bool all)
{
    td_mpi_muster *m = w->muster;
    bool recovers = m->role == TD_ROLE_RECOVERING;
    td_mpi_letter l = {.kind = recovers ? TD_MPI_RECOVERS : TD_MPI_IDLE,
                       .who = to,
                       .revoked = w->revoked,
                       .role = (int32_t)m->role};
    memcpy(l.why, m->why, sizeof l.why);
    m->master = to;
    m->heard_ns = td_mpi_now_ns();
    if (all)
        td_mpi_send_all(w, &l);
    else if (to != w->rank)
        td_mpi_send_letter(w, to, &l);
}

/* While looking, as often as a rank that recovers, waits as a spare or has left looks. */
static void step(td_mpi_group *w, const td_card *own)
{
    td_mpi_muster *m = w->muster;
    int64_t now = td_mpi_now_ns();
    td_mpi_look(w, own);
    td_mpi_find_dead(w, true, now);
    td_mpi_muster_take(w); /* what the dead told before counts: that the run is over, say */
    reap(m);
    int master = td_mpi_lowest(w);
    if (master != m->master) report(w, master, false);
    if (master == w->rank)
        td_mpi_lead(w, now);
    else if (m->asked && !m->told)
        answer(w);
}

static void nap(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

td_status td_mpi_silent(int rank, int64_t deadline_ms, int on_hang)
{
    return td_mpi_library->fail(TD_ERR_TIMEOUT,
                                "recover: rank %d lives but did not come within %lld ms%s", rank,
                                (long long)deadline_ms,
                                on_hang == TD_HANG_KILL
                                    ? ", and no rank of its host was there to kill it"
                                    : "");
}

/* The master itself is silent; the others see the same. TD_OK: not yet. */
static td_status check_master(td_mpi_group *w, const td_muster *mine)
{
    td_mpi_muster *m = w->muster;
    int64_t silent = td_mpi_now_ns() - m->heard_ns;
    if (m->master == w->rank || mine->on_hang == TD_HANG_WAIT) return TD_OK;
    if (silent < mine->deadline_ms * 1000000) return TD_OK;
    if (mine->on_hang == TD_HANG_KILL && silent < 2 * mine->deadline_ms * 1000000) {
        if (w->pid[m->master]) kill((pid_t)w->pid[m->master], SIGKILL);
        return TD_OK;
    }
    return td_mpi_silent(m->master, mine->deadline_ms, mine->on_hang);
}

/* Until this rank is told. */
static td_status wait_told(td_mpi_group *w, td_comm *comm, const td_muster *mine)
{
    td_mpi_muster *m = w->muster;
    bool spare = mine->role == TD_ROLE_SPARE;
    for (;;) {
        td_mpi_begin_looking(w);
        step(w, &comm->card);
        td_status status = td_mpi_failed(w);
        if (status != TD_OK) td_mpi_muster_take(w); /* what was told before counts */
        if (m->told) status = TD_OK;
        bool done = m->told || m->ended || status != TD_OK;
        if (!done && !spare) status = check_master(w, mine);
        if (status != TD_OK) m->role = TD_ROLE_ACTIVE;
        td_mpi_end_looking(w);
        if (done || status != TD_OK) return status;
        nap(spare ? IDLE_NAP_NS : NAP_NS);
    }
}

/* The letter as a plan; for its ranks with the group. */
static td_status adopt(td_mpi_group *w, td_plan *plan)
{
    td_mpi_muster *m = w->muster;
    td_mpi_letter *l = m->told;
    td_status status = TD_OK;
    m->told = NULL;
    m->role = TD_ROLE_PARTING;
    if (l->kind == TD_MPI_VERDICT) {
        m->role = TD_ROLE_ACTIVE;
        status = td_mpi_library->fail((td_status)l->status, "%s", l->why);
        free(l);
        return status;
    }
    plan->generation = l->generation;
    plan->size = l->size;
    plan->left = l->left;
    for (int k = 0; k < l->size; k++) {
        plan->world[k] = l->list[k] & ~TD_MPI_CAME;
        plan->came[k] = l->list[k] & TD_MPI_CAME;
        if (plan->world[k] == w->rank) m->role = TD_ROLE_ACTIVE;
    }
    for (int r = 0; r < w->size; r++) plan->parted[r] = false;
    for (int k = l->size; k < l->size + l->parted; k++) plan->parted[l->list[k]] = true;
    if (m->role == TD_ROLE_ACTIVE) {
        m->forming = true;
        plan->impl = td_mpi_group_create(w, l->number, plan->world, l->size);
        if (!plan->impl) status = td_mpi_library->fail(TD_ERR_NOMEM, "no memory for a group");
    }
    free(l);
    return status;
}

td_status td_mpi_can_resize(td_comm *comm)
{
    if (((td_mpi_group *)comm->impl)->world->muster) return TD_OK;
    return td_mpi_library->fail(TD_ERR_UNSUPPORTED,
                                "resize: the run has no spares to take; start it with some");
}

td_status td_mpi_bring_together(td_comm *comm, const td_muster *mine, td_plan *plan)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    td_mpi_muster *m = w->muster;
    if (!m) return td_mpi_can_resize(comm);
    td_mpi_begin_looking(w);
    m->role = mine->role;
    m->wish = *mine;
    m->forming = false;
    m->master = -1;
    free(m->told);
    m->told = NULL;
    if (mine->role == TD_ROLE_RECOVERING) {
        char why[TD_MPI_WHY];
        snprintf(why, sizeof why, "rank %d recovers: %.300s", w->rank, mine->why);
        end_generation(w, (int64_t)m->accepted, why);
        report(w, td_mpi_lowest(w), true);
    }
    td_mpi_end_looking(w);
    td_status status = wait_told(w, comm, mine);
    if (status != TD_OK) return status;
    td_mpi_begin_looking(w);
    plan->ended = !m->told;
    if (m->told)
        status = adopt(w, plan);
    else if (m->end != TD_OK)
        status = td_mpi_library->fail(m->end, "all ranks that were active have died");
    td_mpi_end_looking(w);
    return status;
}

void td_mpi_formed(td_comm *comm)
{
    td_mpi_group *g = comm->impl, *w = g->world;
    td_mpi_muster *m = w->muster;
    td_mpi_begin_looking(w);
    m->forming = false;
    m->formed = comm->generation;
    m->formed_size = comm->size;
    memcpy(m->formed_member, g->member, (size_t)comm->size * sizeof *g->member);
    td_mpi_end_looking(w);
}

td_status td_mpi_can_recover(td_comm *comm)
{
    const td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    if (w->mitigates && w->muster) return TD_OK;
    return td_mpi_library->fail(TD_ERR_UNSUPPORTED,
                                "recover: this job cannot go on without a rank that has died: it "
                                "takes Open MPI 5, and mpiexec --with-ft ulfm");
}

bool td_mpi_muster_watches(const td_mpi_group *w, int rank)
{
    return !w->muster || w->muster->watched[rank];
}

td_status td_mpi_muster_check(td_comm *comm)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    td_mpi_muster *m = w->muster;
    bool over = (int64_t)comm->generation <= __atomic_load_n(&w->revoked, __ATOMIC_ACQUIRE);
    if (!over && !__atomic_load_n(&m->asked, __ATOMIC_ACQUIRE)) return TD_OK;
    char why[TD_MPI_WHY];
    td_mpi_begin_looking(w);
    over = (int64_t)comm->generation <= w->revoked;
    bool again = !over && m->asked && m->forming;
    /* A master that does not know of this group asks, for one that is not in it. */
    if (!over && m->asked && !m->forming) answer(w);
    memcpy(why, m->why, sizeof why);
    td_mpi_end_looking(w);
    if (!over && !again) return TD_OK;
    return td_mpi_library->fail(TD_ERR_PEER, "rank %d's %s ends, as %s", w->rank,
                                td_mpi_operation(comm), again ? "others recover" : why);
}

/* --- beginning and end --- */

bool td_mpi_muster_begin(td_mpi_group *w, int active)
{
    size_t n = (size_t)w->size;
    td_mpi_muster *m = w->muster = calloc(1, sizeof *m);
    if (!m) return false;
    m->formed_member = calloc(n, sizeof *m->formed_member);
    m->watched = calloc(n, sizeof *m->watched);
    m->waits = calloc(n, sizeof *m->waits);
    m->known = calloc(n, sizeof *m->known);
    m->answer = calloc(n, sizeof *m->answer);
    m->world = calloc(n, sizeof *m->world);
    m->came = calloc(n, sizeof *m->came);
    m->parted = calloc(n, sizeof *m->parted);
    if (!m->formed_member || !m->watched || !m->waits || !m->known || !m->answer || !m->world ||
        !m->came || !m->parted)
        return false;
    m->master = m->asker = -1;
    if (active < 1 || active > w->size) active = w->size; /* is refused in a moment */
    m->role = w->rank < active ? TD_ROLE_ACTIVE : TD_ROLE_PARTING;
    m->formed_size = active;
    for (int r = 0; r < w->size; r++) {
        m->known[r] = r < active ? TD_ROLE_ACTIVE : TD_ROLE_PARTING;
        m->watched[r] = r < active;
        m->formed_member[r] = r;
    }
    return true;
}

void td_mpi_muster_end(td_mpi_group *w)
{
    td_mpi_muster *m = w->muster;
    if (!m) return;
    for (int r = 0; m->answer && r < w->size; r++) free(m->answer[r]);
    while (m->posts) {
        td_mpi_post *next = m->posts->next;
        free(m->posts->letter);
        free(m->posts);
        m->posts = next;
    }
    free(m->formed_member), free(m->watched), free(m->waits), free(m->known), free(m->answer);
    free(m->world), free(m->came), free(m->parted), free(m->told);
    free(m);
    w->muster = NULL;
}

bool td_mpi_muster_leave(td_mpi_group *w, const td_card *own, int64_t deadline_ms)
{
    td_mpi_muster *m = w->muster;
    td_mpi_patience p = {.deadline_ms = deadline_ms};
    td_mpi_begin_looking(w);
    m->role = TD_ROLE_LEFT;
    m->master = -1;
    for (;;) {
        step(w, own);
        if (m->ended || w->failed) break;
        td_mpi_wait_on(w, own, &p);
        td_mpi_end_looking(w);
        nap(NAP_NS);
        td_mpi_begin_looking(w);
    }
    td_mpi_letter l = {.kind = TD_MPI_END, .who = w->lossy, .status = (int32_t)m->end};
    for (int far = 1; far <= PASS_ON && far < w->size && m->ended; far++)
        if (!w->dead[(w->rank + far) % w->size])
            td_mpi_send_letter(w, (w->rank + far) % w->size, &l);
    for (int k = 0; k < 100 && m->posts; k++) {
        reap(m);
        if (m->posts) nap(NAP_NS);
    }
    bool left = m->ended;
    td_mpi_end_looking(w);
    return left;
}
