/* The master's part of a recovery under MPI: see mpi_muster.h. */
#include "comm/transport/mpi_muster.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PATIENCE_NS = 1000000000, BEAT_NS = 100000000 };

/* --- asking --- */

static void ask(td_mpi_group *w, int64_t now)
{
    td_mpi_muster *m = w->muster;
    td_mpi_letter l = {.kind = TD_MPI_QUERY, .revoked = w->revoked, .query = ++m->queries};
    memcpy(l.why, m->why, sizeof l.why);
    for (int r = 0; r < w->size; r++) {
        free(m->answer[r]);
        m->answer[r] = NULL;
    }
    m->collecting = true;
    m->begun_ns = m->beat_ns = now;
    m->asker = w->rank; /* follows nobody */
    m->asked = false;
    td_mpi_send_all(w, &l);
}

static void send_answered(td_mpi_group *w, td_mpi_letter *l)
{
    l->query = w->muster->queries;
    for (int r = 0; r < w->size; r++)
        if (r != w->rank && !w->dead[r] && w->muster->answer[r]) td_mpi_send_letter(w, r, l);
}

static bool recovers(const td_mpi_group *w, int r)
{
    const td_mpi_letter *l = w->muster->answer[r];
    return l && !w->dead[r] && l->role == TD_ROLE_RECOVERING;
}

/* The first living rank that has not answered, -1: none. */
static int missing(const td_mpi_group *w)
{
    const td_mpi_muster *m = w->muster;
    for (int r = 0; r < w->size; r++)
        if (!w->dead[r] && !m->answer[r] && m->known[r] != TD_ROLE_PARTING) return r;
    return -1;
}

/* --- deciding --- */

static void give_up(td_mpi_group *w, td_status status)
{
    td_mpi_muster *m = w->muster;
    td_mpi_letter *l = status == TD_ERR_NOMEM ? NULL : td_mpi_letter_create(TD_MPI_VERDICT, 0);
    if (!l) { /* the next lowest rank may have more */
        td_mpi_library->log(TD_LOG_WARN, "rank %d leaves the run: no memory to recover", w->rank);
        raise(SIGKILL);
        return;
    }
    m->collecting = false;
    memset(m->waits, 0, (size_t)w->size * sizeof *m->waits);
    l->status = (int32_t)status;
    snprintf(l->why, sizeof l->why, "%s", td_mpi_library->last_error());
    send_answered(w, l);
    if (m->role == TD_ROLE_RECOVERING) {
        free(m->told);
        m->told = l;
        return;
    }
    free(l);
}

/* The newest of what answers know, by plan (or by group met in). */
static const td_mpi_letter *newest(const td_mpi_group *w, bool formed)
{
    const td_mpi_muster *m = w->muster;
    const td_mpi_letter *best = NULL;
    for (int r = 0; r < w->size; r++) {
        const td_mpi_letter *l = m->answer[r];
        if (!l || (formed && l->role != TD_ROLE_RECOVERING && l->role != TD_ROLE_ACTIVE)) continue;
        uint64_t its = formed ? l->formed : l->generation;
        uint64_t most = !best ? 0 : formed ? best->formed : best->generation;
        /* Of equals, one that recovers: what it knows has ended. */
        if (!best || its > most || (its == most && l->role == TD_ROLE_RECOVERING)) best = l;
    }
    return best;
}

static int free_number(const td_mpi_group *w)
{
    for (int k = 1; k < 64 * TD_GROUP_WORDS; k++) {
        bool everywhere = true;
        for (int r = 0; r < w->size && everywhere; r++) {
            const td_mpi_letter *l = w->muster->answer[r];
            if (l && l->role != TD_ROLE_LEFT) everywhere = l->numbers[k / 64] >> (k % 64) & 1;
        }
        if (everywhere) return k;
    }
    return -1;
}

static td_status make_plan(td_mpi_group *w, const td_mpi_letter *former, const td_mpi_letter *wish,
                           td_plan *plan)
{
    td_mpi_muster *m = w->muster;
    size_t n = (size_t)w->size;
    td_role *role = calloc(n, sizeof *role);
    int *before = calloc(n, sizeof *before);
    bool *leaves = calloc(n, sizeof *leaves);
    td_status status = role && before && leaves
                           ? TD_OK
                           : td_mpi_library->fail(TD_ERR_NOMEM, "no memory for %d ranks", w->size);
    *plan = (td_plan){.world = m->world, .came = m->came, .parted = m->parted};
    for (int r = 0; r < w->size && status == TD_OK; r++)
        role[r] = w->dead[r]     ? TD_ROLE_DEAD
                  : m->answer[r] ? (td_role)m->answer[r]->role
                                 : TD_ROLE_PARTING;
    for (int r = 0; r < w->size && status == TD_OK; r++)
        leaves[r] = m->answer[r] && m->answer[r]->leaves;
    for (int k = 0; k < former->size && status == TD_OK; k++) before[k] = former->list[k];
    if (status == TD_OK)
        status = td_mpi_library->plan(&(td_roster){.ranks = w->size,
                                                   .role = role,
                                                   .leaves = leaves,
                                                   .former_size = former->size,
                                                   .former = before,
                                                   .want = wish->want,
                                                   .least = wish->least},
                                      plan);
    free(role), free(before), free(leaves);
    return status;
}

/* A group that has met without those who still wait: they are not in it. */
static void tell_again(td_mpi_group *w, const td_mpi_letter *met)
{
    td_mpi_muster *m = w->muster;
    td_mpi_letter *l = td_mpi_letter_copy(met);
    m->collecting = false;
    if (!l) return;
    l->kind = TD_MPI_DECISION;
    l->generation = met->formed;
    send_answered(w, l);
    td_mpi_accept(w, l);
    free(l);
}

static void decide(td_mpi_group *w)
{
    td_mpi_muster *m = w->muster;
    const td_mpi_letter *former = newest(w, true), *wish = NULL, *last = newest(w, false);
    td_plan plan;
    for (int r = w->size - 1; r >= 0; r--)
        if (recovers(w, r)) wish = m->answer[r];
    if (m->role == TD_ROLE_RECOVERING) wish = m->answer[w->rank];
    if (!wish) { /* they have died meanwhile */
        m->collecting = false;
        memset(m->waits, 0, (size_t)w->size * sizeof *m->waits);
        return;
    }
    if (former->role == TD_ROLE_ACTIVE && last->role != TD_ROLE_RECOVERING) {
        tell_again(w, former);
        return;
    }
    for (int r = 0; r < w->size; r++) /* it has been told, and comes */
        if (m->answer[r] && !w->dead[r] && m->answer[r]->role == TD_ROLE_ACTIVE) {
            m->collecting = false;
            return;
        }
    td_status status = make_plan(w, former, wish, &plan);
    int number = free_number(w), parted = 0;
    if (status == TD_OK && number < 0)
        status = td_mpi_library->fail(TD_ERR_PEER, "recover: no number for a group is free at all "
                                                   "ranks; close those that are broken");
    for (int r = 0; r < w->size && status == TD_OK; r++) parted += plan.parted[r];
    td_mpi_letter *l =
        status == TD_OK ? td_mpi_letter_create(TD_MPI_DECISION, plan.size + parted) : NULL;
    if (status == TD_OK && !l) status = td_mpi_library->fail(TD_ERR_NOMEM, "no memory for a plan");
    if (status != TD_OK) {
        give_up(w, status);
        return;
    }
    l->generation = (last->generation > former->formed ? last->generation : former->formed) + 1;
    l->number = number;
    l->size = plan.size;
    l->left = plan.left;
    for (int k = 0; k < plan.size; k++)
        l->list[k] = plan.world[k] | (plan.came[k] ? TD_MPI_CAME : 0);
    for (int r = 0; r < w->size; r++)
        if (plan.parted[r]) l->list[l->size + l->parted++] = r;
    m->collecting = false;
    send_answered(w, l);
    td_mpi_accept(w, l);
    free(l);
}

/* --- those who do not come --- */

/* Kills it, by a rank of its host. */
static void have_killed(td_mpi_group *w, int rank)
{
    td_mpi_letter l = {.kind = TD_MPI_KILL, .who = rank};
    if (w->pid[rank]) kill((pid_t)w->pid[rank], SIGKILL);
    send_answered(w, &l);
}

static void judge_silent(td_mpi_group *w, int rank, int64_t now)
{
    td_mpi_muster *m = w->muster;
    const td_mpi_letter *wish = NULL;
    for (int r = w->size - 1; r >= 0; r--)
        if (recovers(w, r)) wish = m->answer[r];
    if (!wish || now - m->begun_ns < wish->deadline_ms * 1000000) return;
    if (m->known[rank] == TD_ROLE_SPARE || m->known[rank] == TD_ROLE_LEFT) {
        m->known[rank] = TD_ROLE_PARTING; /* goes on without it */
        return;
    }
    if (wish->on_hang == TD_HANG_WAIT) return;
    if (wish->on_hang == TD_HANG_KILL && now - m->begun_ns < 2 * wish->deadline_ms * 1000000) {
        if (now - m->beat_ns > BEAT_NS) have_killed(w, rank);
        return;
    }
    give_up(w, td_mpi_silent(rank, wish->deadline_ms, wish->on_hang));
}

/* Whether more are wanted than there are, and some may still come back to the spares. */
static bool wants_parting(const td_mpi_group *w)
{
    const td_mpi_muster *m = w->muster;
    const td_mpi_letter *former = newest(w, true), *wish = NULL;
    int there = 0, coming = 0;
    for (int r = 0; r < w->size; r++) {
        const td_mpi_letter *l = m->answer[r];
        if (w->dead[r]) continue;
        if (recovers(w, r)) wish = l;
        there += l && (l->role == TD_ROLE_SPARE || (l->role == TD_ROLE_RECOVERING && !l->leaves));
        coming += !l && m->known[r] == TD_ROLE_PARTING;
    }
    if (!wish || !former || !coming) return false;
    return there < (wish->want > 0 ? wish->want : former->size);
}

/* --- the end of the run --- */

static void end_if_all_are_idle(td_mpi_group *w)
{
    td_mpi_muster *m = w->muster;
    bool left = m->role == TD_ROLE_LEFT;
    for (int r = 0; r < w->size; r++) {
        if (r == w->rank || w->dead[r]) continue;
        if (m->known[r] != TD_ROLE_LEFT && m->known[r] != TD_ROLE_SPARE) return;
        left = left || m->known[r] == TD_ROLE_LEFT;
    }
    td_mpi_letter l = {.kind = TD_MPI_END, .who = w->lossy, .status = left ? TD_OK : TD_ERR_PEER};
    td_mpi_send_all(w, &l);
    m->ended = true;
    m->end = (td_status)l.status;
}

void td_mpi_lead(td_mpi_group *w, int64_t now)
{
    td_mpi_muster *m = w->muster;
    bool wanted = m->role == TD_ROLE_RECOVERING && !m->told;
    for (int r = 0; r < w->size; r++) wanted = wanted || (m->waits[r] && !w->dead[r]);
    if (!m->collecting && wanted) ask(w, now);
    if (!m->collecting) {
        if (!wanted && !m->ended && (m->role == TD_ROLE_LEFT || m->role == TD_ROLE_SPARE))
            end_if_all_are_idle(w);
        return;
    }
    free(m->answer[w->rank]);
    m->answer[w->rank] = td_mpi_describe(w);
    if (!m->answer[w->rank]) return;
    int who = missing(w);
    if (who >= 0) {
        judge_silent(w, who, now);
    } else if (!wants_parting(w) || now - m->begun_ns > PATIENCE_NS) {
        decide(w);
        return;
    }
    if (m->collecting && now - m->beat_ns > BEAT_NS) { /* all who follow hear of it */
        td_mpi_letter l = {.kind = TD_MPI_WAITING};
        m->beat_ns = now;
        send_answered(w, &l);
    }
}
