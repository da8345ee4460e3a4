#include "comm/coll/meet.h"

#include "comm/coll/meet_impl.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "math/kernels.h"

#include <sched.h>
#include <sys/statvfs.h>

/* Short blocks have slots of their own, TD_MEET_SHOWN of them in turn, whose heads nothing else is
 * ever written to; not a power of two long, as those would share one set of a cache. */
enum { SHORT = TD_MEET_SLOT + 128, LOOKS = 128, FAR_LOOKS = 50 };
enum { NEAR_EVERY = 64, MOVE_NS = 1000000, ASIDE_NS = 200000 };
enum { AHEAD = 3, EVEN_EVERY = 512, CORE_EVERY = 16, NEAR_LOOKS = 64 };
enum { CATCH_UP = 16, CATCH_UP_PAUSES = 16 };
/* For rings of a group of two: a container has 64 MiB if nobody asked for more, and a run may have
 * some hundred such groups. */
enum { PLENTY = 1 << 30 };
enum { TRIED_FROM = 16 << 10, TRIED_EVERY = 32, FIRST_TRY = 8 };

/* Ahead of a short block. The round comes last: who sees it sees the block. The first bytes of the
 * block lie in the same cache line. */
typedef struct head {
    td_header runs;
    uint64_t round;
} head;
_Static_assert(sizeof(head) == 48 && sizeof(head) <= TD_MEET_HEAD,
               "a head goes ahead of what is staged");

uint64_t td_meet_memory(const td_comm *comm)
{
    struct statvfs s;
    bool known = !comm->ops->one_memory && statvfs("/dev/shm", &s) == 0 && s.f_blocks;
    return known ? (uint64_t)s.f_blocks * s.f_frsize : UINT64_MAX;
}

/* Two ranks' rings are together longer than a core's own cache: what a rank has read there has left
 * it before it is written again, and a line that is still in another's cache takes several times as
 * long to write. (With rings of 0.5 MiB an all-reduce of 64 KiB took 2.3 times as long. Of four
 * ranks on two cores, which share these caches, none gained.) */
static size_t ring_of(const td_comm *comm)
{
    bool longer = comm->size == 2 && comm->cores >= 2 && td_meet_memory(comm) >= PLENTY;
    return longer ? TD_MEET_SLOTS_OF_TWO : TD_MEET_SLOTS;
}

void td_meet_destroy(td_comm *comm)
{
    if (!comm->meet) return;
    td_comm_shared_destroy(comm, &comm->meet->region);
    td_meet_forget(comm->meet);
    td_free(comm->meet->draft);
    td_free(comm->meet->used);
    td_free(comm->meet);
    comm->meet = NULL;
}

td_status td_meet_of(td_comm *comm, td_meet **out)
{
    *out = comm->meet;
    if (comm->meet) return TD_OK;
    size_t n = (size_t)comm->size;
    size_t headers = (n + 1) * sizeof(td_meet_line);
    size_t opens = headers + n * TD_MEET_SHOWN * sizeof(td_header);
    size_t lines = opens + n * TD_MEET_SHOWN * sizeof(td_meet_open);
    size_t shorts = (lines + TD_MEET_SLOT - 1) / TD_MEET_SLOT * TD_MEET_SLOT;
    size_t slots =
        (shorts + n * TD_MEET_SHOWN * SHORT + TD_MEET_SLOT - 1) / TD_MEET_SLOT * TD_MEET_SLOT;
    size_t ring = ring_of(comm);
    td_meet *m = td_calloc(1, sizeof *m);
    uint64_t *used = td_calloc(ring, sizeof *used);
    td_status status =
        m && used ? comm->ops->shared_create(comm, slots + n * ring * TD_MEET_SLOT, &m->region)
                  : td_fail(TD_ERR_NOMEM, "no memory for a group's meeting place");
    if (status != TD_OK) {
        td_free(used);
        td_free(m);
        return status;
    }
    m->comm = comm;
    m->ring = ring, m->used = used;
    m->lines = m->region.data;
    m->bell = (td_bell *)(void *)(m->lines + n);
    m->headers = (td_header *)(void *)((char *)m->region.data + headers);
    m->opens = (td_meet_open *)(void *)((char *)m->region.data + opens);
    m->shorts = (char *)m->region.data + shorts;
    m->slots = (char *)m->region.data + slots;
    *out = comm->meet = m;
    return TD_OK;
}

/* --- what is run --- */

/* A rank's short block, `ahead` rounds of such from here. */
static char *short_of(const td_meet *m, int rank, unsigned ahead)
{
    size_t k = (m->short_rounds + ahead) % TD_MEET_SHOWN;
    return m->shorts + ((size_t)rank * TD_MEET_SHOWN + k) * SHORT;
}

static head *head_of(const td_meet *m, int rank)
{
    char *slot = m->slots + ((size_t)rank * m->ring + m->first) * TD_MEET_SLOT;
    return (head *)(void *)(m->is_short ? short_of(m, rank, 0) : slot);
}

/* The first operation in which that rank ran something else, if it has a round here still. */
static td_status compare_past(const td_meet *m, int rank)
{
    td_comm *c = m->comm;
    td_header now = c->card.runs;
    uint64_t round = m->round > TD_MEET_SHOWN / 2 ? m->round - TD_MEET_SHOWN / 2 : 1;
    while (round < m->round &&
           td_header_same(td_meet_header(m, c->rank, round), td_meet_header(m, rank, round)))
        round++;
    c->card.runs = *td_meet_header(m, c->rank, round);
    td_status status = td_header_compare(c, rank, td_meet_header(m, rank, round));
    c->card.runs = now;
    c->card.gave_up.runs = now; /* it is what this rank does not go on with */
    c->ops->give_up(c);
    return status;
}

static td_status compare(td_meet *m, int rank)
{
    uint64_t bit = (uint64_t)1 << rank % 64, *checked = &m->checked[rank / 64];
    if (*checked & bit) return TD_OK;
    *checked |= bit;
    if (m->opens_up) td_meet_has_opened(m, td_meet_open_of(m, rank, m->round));
    const td_header *theirs = td_meet_header(m, rank, m->round), *own = &m->comm->card.runs;
    if (td_header_same(own, &head_of(m, rank)->runs)) return TD_OK;
    return theirs->history == own->history ? td_header_compare(m->comm, rank, theirs)
                                           : compare_past(m, rank);
}

void td_meet_begin(td_meet *m)
{
    for (int k = 0; k <= (m->comm->size - 1) / 64; k++) m->checked[k] = 0;
    m->checked[m->comm->rank / 64] = (uint64_t)1 << m->comm->rank % 64;
    m->opens_up = m->sees = false;
}

bool td_meet_last(const td_meet *m, int rank, td_header *out)
{
    uint64_t round = __atomic_load_n(&m->lines[rank].stage[TD_MEET_ARRIVED], __ATOMIC_ACQUIRE);
    *out = *td_meet_header(m, rank, round);
    return round > 0;
}

/* --- ways of staging --- */

static void begin_trying(td_meet *m, size_t bytes)
{
    td_meet_trying *t = &m->trying;
    t->timed = t->through = false;
    if (bytes < TRIED_FROM) return;
    uint64_t k = t->rounds++, pair = k / TRIED_EVERY % 2, turn = k % TRIED_EVERY - FIRST_TRY;
    t->timed = turn < 2;
    t->through = t->timed ? turn != pair : t->better;
    t->bytes = bytes;
    t->spent = 0;
    if (t->timed) t->since = td_clock_ns();
}

static void stop_clock(td_meet *m)
{
    if (m->trying.timed) m->trying.spent += td_clock_ns() - m->trying.since;
}

static void go_on_clock(td_meet *m)
{
    if (m->trying.timed) m->trying.since = td_clock_ns();
}

/* Differences count as far as the shorter time: a rank that lost its core says little. */
static void end_trying(td_meet *m)
{
    td_meet_trying *t = &m->trying;
    int32_t *own = &m->lines[m->comm->rank].more;
    stop_clock(m);
    if (!t->timed) return;
    t->timed = false;
    if ((t->rounds - 1) % TRIED_EVERY == FIRST_TRY) {
        t->first = t->spent, t->first_bytes = t->bytes;
        return;
    }
    if (t->first_bytes != t->bytes) return;
    int64_t through = t->through ? t->spent : t->first, by = t->through ? t->first : t->spent;
    int64_t more = through - by, most = through < by ? through : by, all = 0;
    more = more > most ? most : more < -most ? -most : more;
    more = more * 65536 / (int64_t)t->bytes;
    __atomic_store_n(own, (int32_t)((3 * *own + more) / 4), __ATOMIC_RELAXED);
    for (int r = 0; r < m->comm->size; r++)
        all += __atomic_load_n(&m->lines[r].more, __ATOMIC_RELAXED);
    t->better = all < 0;
}

void td_meet_stage(const td_meet *m, void *to, const void *from, size_t bytes)
{
    if (m->trying.through)
        td_kernels_best()->copy_through(bytes, from, to);
    else
        td_kernels_best()->copy(bytes, from, to);
}

td_status td_meet_draft(td_meet *m, char *place, size_t bytes, char **out)
{
    *out = place;
    if (!m->trying.through || bytes > TD_MEET_BLOCK) return TD_OK;
    if (!m->draft) m->draft = td_alloc_aligned(TD_MEET_BLOCK);
    *out = m->draft;
    return *out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a part of a reduction");
}

/* --- rounds --- */

char *td_meet_block(td_meet *m, int rank)
{
    return (char *)head_of(m, rank) + (m->is_short ? sizeof(head) : TD_MEET_HEAD);
}

static void reach(td_meet *m, int stage)
{
    __atomic_store_n(&m->lines[m->comm->rank].stage[stage], m->round, __ATOMIC_RELEASE);
    td_bell_ring(m->bell);
}

static uint64_t stage_of(const td_meet *m, int rank, int stage)
{
    return __atomic_load_n(&m->lines[rank].stage[stage], __ATOMIC_ACQUIRE);
}

/* Who has arrived in a later round is done. */
static bool has_come(td_meet *m, int rank)
{
    if (m->stage == TD_MEET_ARRIVED && m->is_short) {
        if (__atomic_load_n(&head_of(m, rank)->round, __ATOMIC_ACQUIRE) == m->round) return true;
        if (++m->looks % LOOKS) return false; /* now and then: one that has a long block there */
    }
    return stage_of(m, rank, m->stage) >= m->wanted ||
           (m->stage == TD_MEET_DONE && stage_of(m, rank, TD_MEET_ARRIVED) > m->wanted);
}

static int missing(void *arg)
{
    td_meet *m = arg;
    int from = m->only < 0 ? 0 : m->only, to = m->only < 0 ? m->comm->size : m->only + 1;
    for (int r = from; r < to; r++)
        if (!has_come(m, r)) return r;
    return -1;
}

/* Whether some rank that has not come so far, awaited or not, may be waiting for this one's core.
 */
static bool holds_one_up(td_meet *m)
{
    int32_t core = sched_getcpu();
    for (int r = 0; r < m->comm->size; r++)
        if (!has_come(m, r) && __atomic_load_n(&m->lines[r].core, __ATOMIC_RELAXED) == core)
            return true;
    return false;
}

/* Out of another's way: to a core of its own, or asleep. A yield would not do: the system remembers
 * them, and lets the other run on for as long. */
static void step_aside(td_meet *m)
{
    int64_t now = td_clock_ns();
    if (now - m->moved_at > MOVE_NS) {
        m->moved_at = now;
        td_comm_spread_out(m->comm);
        return;
    }
    uint32_t number = td_bell_listen(m->bell);
    if (missing(m) >= 0) td_bell_sleep(m->bell, number, ASIDE_NS);
    td_bell_leave(m->bell);
}

/* Where each rank could have a core, one that is on another's gets out of its way. Where ranks
 * outnumber cores, those that run on other cores are waited for here a little, because giving up
 * the core to one that has come, and waits as well, costs two switches. */
static td_status test(void *arg, bool *done)
{
    td_meet *m = arg;
    *done = missing(m) < 0;
    if (m->comm->beside) return TD_OK;
    if (!m->comm->crowded && !*done && ++m->tests % NEAR_EVERY == 0 && holds_one_up(m))
        step_aside(m);
    for (int k = 0; k < FAR_LOOKS && !*done && m->comm->crowded && !holds_one_up(m); k++) {
        for (int pause = 0; pause < 4; pause++) td_relax();
        *done = missing(m) < 0;
    }
    return TD_OK;
}

/* Who gives in such an operation need not wait for who takes. */
static bool gives_alone(const td_meet *m)
{
    int does = m->comm->card.runs.does;
    return does == TD_BROADCAST || does == TD_REDUCE;
}

/* This rank is behind those who only give to it: their next blocks may be there, too. */
static void expect_next(const td_meet *m)
{
    if (!gives_alone(m)) return;
    for (int r = m->only < 0 ? 0 : m->only; r < (m->only < 0 ? m->comm->size : m->only + 1); r++)
        __builtin_prefetch(short_of(m, r, 1));
}

static td_status wait_for(td_meet *m, int stage, int only, uint64_t round)
{
    m->stage = stage, m->only = only, m->wanted = round;
    if (missing(m) < 0) {
        if (stage == TD_MEET_ARRIVED && m->is_short) expect_next(m);
        return TD_OK;
    }
    for (int k = 0; k < NEAR_LOOKS && !m->comm->crowded && !m->comm->beside; k++) {
        td_relax();
        if (missing(m) < 0) return TD_OK;
    }
    stop_clock(m);
    td_status status = td_comm_wait(m->comm, -1, m->bell, test, missing, m);
    go_on_clock(m);
    return status;
}

static uint64_t all_done_with(const td_meet *m)
{
    uint64_t all = m->round;
    for (int r = 0; r < m->comm->size; r++) {
        uint64_t done = stage_of(m, r, TD_MEET_DONE), arrived = stage_of(m, r, TD_MEET_ARRIVED);
        uint64_t with = arrived && arrived - 1 > done ? arrived - 1 : done;
        if (with < all) all = with;
    }
    return all;
}

/* Looks further than is needed now: a look costs a cache line of every rank. And one that only
 * gives, and so runs ahead, lets the others catch up a little, lest it meet them here in every
 * round. */
static td_status wait_until_free(td_meet *m, uint64_t last)
{
    TD_TRY(wait_for(m, TD_MEET_DONE, -1, last));
    m->done_with = all_done_with(m);
    if (!m->is_short || m->comm->crowded || m->comm->beside) return TD_OK;
    for (int k = 0; k < CATCH_UP && m->done_with < last + TD_MEET_SHOWN / 2; k++) {
        for (int pause = 0; pause < CATCH_UP_PAUSES; pause++) td_relax();
        m->done_with = all_done_with(m);
    }
    return TD_OK;
}

td_status td_meet_round(td_meet *m, size_t bytes)
{
    size_t slots = (TD_MEET_HEAD + bytes + TD_MEET_SLOT - 1) / TD_MEET_SLOT;
    uint64_t last = ++m->round < TD_MEET_SHOWN ? 0 : m->round - TD_MEET_SHOWN; /* to be done with */
    m->is_short = sizeof(head) + bytes <= SHORT;
    if (m->is_short) {
        m->short_rounds++;
        m->short_bytes = sizeof(head) + bytes;
        slots = 0;
    }
    m->first = m->next + slots > m->ring ? 0 : m->next;
    m->next = m->first + slots;
    for (size_t k = m->first; k < m->next; k++) {
        if (m->used[k] > last) last = m->used[k];
        m->used[k] = m->round;
    }
    if (last > m->done_with) TD_TRY(wait_until_free(m, last));
    begin_trying(m, bytes);
    return TD_OK;
}

/* The line is to be written: others have read it. */
static void own_soon(const void *line)
{
#if defined(__x86_64__)
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)line));
#else
    __builtin_prefetch(line, 1);
#endif
}

/* The lines of a short block that comes soon, which others have read, while they are awaited here;
 * but the first alone of one that some may still have to read. */
static void own_next(const td_meet *m, unsigned ahead)
{
    const char *next = short_of(m, m->comm->rank, ahead);
    bool read = m->round + ahead <= TD_MEET_SHOWN + m->done_with;
    for (size_t at = 0; at < (read ? m->short_bytes : 1); at += 64) own_soon(next + at);
}

/* Where ranks outnumber cores, a system may leave nearly all of them on one core for a second and
 * more. (Of four on two cores it had three or four there; a short all-gather took 5.8 us, and 2.1
 * with two on each.) Who is one too many goes to the core that it is dealt. Seldom: a thread that
 * is moved is late, and all wait for it. */
static void even_out(td_meet *m)
{
    td_comm *c = m->comm;
    int32_t core = sched_getcpu();
    int here = 0;
    for (int r = 0; r < c->size; r++)
        here += r == c->rank || __atomic_load_n(&m->lines[r].core, __ATOMIC_RELAXED) == core;
    if (here > (c->local_size + c->cores - 1) / c->cores) td_comm_spread_out(c);
}

void td_meet_arrive(td_meet *m, const void *in, void *out)
{
    td_meet_line *own = &m->lines[m->comm->rank];
    bool looks = m->comm->crowded && !m->comm->beside && m->round % EVEN_EVERY == 0;
    if (looks) even_out(m);
    own->in = in, own->out = out;
    if (m->opens_up && !m->told) {
        *td_meet_open_of(m, m->comm->rank, m->round) = m->open;
        m->told = true;
    }
    if (m->comm->crowded || m->round < CORE_EVERY || m->round % CORE_EVERY == 0)
        __atomic_store_n(&own->core, sched_getcpu(), __ATOMIC_RELAXED);
    head *h = head_of(m, m->comm->rank);
    h->runs = *td_meet_header(m, m->comm->rank, m->round) = m->comm->card.runs;
    if (m->is_short) __atomic_store_n(&h->round, m->round, __ATOMIC_RELEASE);
    reach(m, TD_MEET_ARRIVED);
    td_comm_record_due(m->comm);
    if (m->is_short) own_next(m, gives_alone(m) ? AHEAD : 1);
}

td_status td_meet_arrived(td_meet *m, int rank)
{
    TD_TRY(wait_for(m, TD_MEET_ARRIVED, rank, m->round));
    if (rank >= 0) return compare(m, rank);
    for (int r = 0; r < m->comm->size; r++) TD_TRY(compare(m, r));
    return TD_OK;
}

void td_meet_reduce(td_meet *m)
{
    reach(m, TD_MEET_REDUCED);
}

td_status td_meet_reduced(td_meet *m)
{
    return wait_for(m, TD_MEET_REDUCED, -1, m->round);
}

void td_meet_done(td_meet *m)
{
    reach(m, TD_MEET_DONE);
}

/* Who waits for the memory of a short block waits for rounds that somebody has gone on from. */
void td_meet_leave(td_meet *m)
{
    end_trying(m);
    if (!m->is_short) reach(m, TD_MEET_DONE);
}

td_status td_meet_all_done(td_meet *m)
{
    return wait_for(m, TD_MEET_DONE, -1, m->round);
}
