#include "comm/coll/meet.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "math/kernels.h"

#include <sched.h>
#include <sys/uio.h>
#include <unistd.h>

enum { ARRIVED, REDUCED, DONE, STAGES };
enum { SLOT = 4096, HEAD = 64, MOST_SLOTS = TD_MEET_BLOCK / SLOT + 1, SHOWN = 64 };
enum { SLOTS = 2 * MOST_SLOTS + 2, CHECKED = TD_MEET_RANKS / 64 };
/* Short blocks have slots of their own, SHOWN of them in turn, whose heads nothing else is ever
 * written to; not a power of two long, as those would share one set of a cache. */
enum { SHORT = SLOT + 128, LOOKS = 16, FAR_LOOKS = 50 };
enum { NEAR_EVERY = 64, MOVE_NS = 1000000, ASIDE_NS = 200000 };
enum { TRIED_FROM = 16 << 10, TRIED_EVERY = 32, FIRST_TRY = 8 };

/* Ahead of a short block. The round comes last: who sees it sees the block. The first bytes of the
 * block lie in the same cache line. */
typedef struct head {
    td_header runs;
    uint64_t round;
} head;
_Static_assert(sizeof(head) == 48 && sizeof(head) <= HEAD, "a head goes ahead of what is staged");

/* Written by its rank alone. Two cache lines: neighbours are fetched in pairs. */
typedef struct line {
    uint64_t stage[STAGES]; /* newest round that has come so far */
    const void *in;
    void *out;
    int32_t looking, withdrawn;
    int32_t more; /* ns that 64 KiB cost it more when they were staged past the caches */
    int32_t core; /* it arrived on last */
    int32_t pid, reaches;
    char pad[128 - 8 * STAGES - 40];
} line;
_Static_assert(sizeof(line) == 128, "a line of counters");

/* Rounds of at least TRIED_FROM bytes, in which the two ways of staging are tried in turn: each
 * rank times what it does itself, without its waits. */
typedef struct trying {
    uint64_t rounds;
    bool through; /* this round stages past the caches */
    bool better;  /* through, for all ranks together */
    bool timed;   /* this round is */
    size_t bytes; /* of this round */
    int64_t since, spent;
    int64_t first;      /* spent by the first of the two, */
    size_t first_bytes; /* which had so many bytes */
} trying;

struct td_meet {
    td_comm *comm;
    /* lines | bell | shown [size][SHOWN] | shorts [size][SHOWN] | slots [size][SLOTS]; a block is
     * head | what is staged */
    td_region region;
    line *lines;
    td_bell *bell;
    td_header *headers; /* [size][SHOWN] what a rank runs in a round */
    char *shorts, *slots;
    uint64_t round;
    uint64_t short_rounds;
    bool is_short;        /* this round's block */
    unsigned looks;       /* at heads of short blocks that were not there yet */
    size_t first, next;   /* slots: of this round, behind it */
    uint64_t used[SLOTS]; /* the round that took a slot last */
    uint64_t done_with;   /* all are, with rounds up to this one, as far as this rank has looked */
    uint64_t checked[CHECKED]; /* ranks whose operation has been compared, a bit each */
    int stage, only;           /* waited for */
    unsigned tests;            /* of waits */
    int64_t moved_at;          /* to another core */
    uint64_t wanted;
    trying trying;
    char *draft; /* [TD_MEET_BLOCK / 2] or NULL */
    char *scratch;
    size_t scratch_bytes;
    uint64_t mark; /* that others find at this address, if they can */
    bool tried, reaches;
};

void td_meet_destroy(td_comm *comm)
{
    if (!comm->meet) return;
    td_comm_shared_destroy(comm, &comm->meet->region);
    td_free(comm->meet->draft), td_free(comm->meet->scratch);
    td_free(comm->meet);
    comm->meet = NULL;
}

td_status td_meet_of(td_comm *comm, td_meet **out)
{
    *out = comm->meet;
    if (comm->meet) return TD_OK;
    size_t n = (size_t)comm->size;
    size_t lines = (n + 1) * sizeof(line) + n * SHOWN * sizeof(td_header);
    size_t shorts = (lines + SLOT - 1) / SLOT * SLOT;
    size_t slots = (shorts + n * SHOWN * SHORT + SLOT - 1) / SLOT * SLOT;
    td_meet *m = td_calloc(1, sizeof *m);
    if (!m) return td_fail(TD_ERR_NOMEM, "no memory for a group's meeting place");
    td_status status = comm->ops->shared_create(comm, slots + n * SLOTS * SLOT, &m->region);
    if (status != TD_OK) {
        td_free(m);
        return status;
    }
    m->comm = comm;
    m->lines = m->region.data;
    m->bell = (td_bell *)(void *)(m->lines + n);
    m->headers = (td_header *)(void *)(m->lines + n + 1);
    m->shorts = (char *)m->region.data + shorts;
    m->slots = (char *)m->region.data + slots;
    *out = comm->meet = m;
    return TD_OK;
}

/* --- what is run --- */

static td_header *shown(const td_meet *m, int rank, uint64_t round)
{
    return &m->headers[rank * SHOWN + (int)(round % SHOWN)];
}

static head *head_of(const td_meet *m, int rank)
{
    size_t k = m->short_rounds % SHOWN;
    return (head *)(void *)(m->is_short ? m->shorts + ((size_t)rank * SHOWN + k) * SHORT
                                        : m->slots + ((size_t)rank * SLOTS + m->first) * SLOT);
}

/* The first operation in which that rank ran something else, if it has a round here still. */
static td_status compare_past(const td_meet *m, int rank)
{
    td_comm *c = m->comm;
    td_header now = c->card.runs;
    uint64_t round = m->round > SHOWN / 2 ? m->round - SHOWN / 2 : 1;
    while (round < m->round && td_header_same(shown(m, c->rank, round), shown(m, rank, round)))
        round++;
    c->card.runs = *shown(m, c->rank, round);
    td_status status = td_header_compare(c, rank, shown(m, rank, round));
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
    const td_header *theirs = shown(m, rank, m->round), *own = &m->comm->card.runs;
    if (td_header_same(own, &head_of(m, rank)->runs)) return TD_OK;
    return theirs->history == own->history ? td_header_compare(m->comm, rank, theirs)
                                           : compare_past(m, rank);
}

void td_meet_begin(td_meet *m)
{
    for (int k = 0; k <= (m->comm->size - 1) / 64; k++) m->checked[k] = 0;
    m->checked[m->comm->rank / 64] = (uint64_t)1 << m->comm->rank % 64;
}

bool td_meet_last(const td_meet *m, int rank, td_header *out)
{
    uint64_t round = __atomic_load_n(&m->lines[rank].stage[ARRIVED], __ATOMIC_ACQUIRE);
    *out = *shown(m, rank, round);
    return round > 0;
}

/* --- ways of staging --- */

static void begin_trying(td_meet *m, size_t bytes)
{
    trying *t = &m->trying;
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
    trying *t = &m->trying;
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
    if (!m->trying.through || bytes > TD_MEET_BLOCK / 2) return TD_OK;
    if (!m->draft) m->draft = td_alloc_aligned(TD_MEET_BLOCK / 2);
    *out = m->draft;
    return *out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a part of a reduction");
}

/* --- rounds --- */

char *td_meet_block(td_meet *m, int rank)
{
    return (char *)head_of(m, rank) + (m->is_short ? sizeof(head) : HEAD);
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
    if (m->stage == ARRIVED && m->is_short) {
        if (__atomic_load_n(&head_of(m, rank)->round, __ATOMIC_ACQUIRE) == m->round) return true;
        if (++m->looks % LOOKS) return false; /* now and then: one that has a long block there */
    }
    return stage_of(m, rank, m->stage) >= m->wanted ||
           (m->stage == DONE && stage_of(m, rank, ARRIVED) > m->wanted);
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

static td_status wait_for(td_meet *m, int stage, int only, uint64_t round)
{
    m->stage = stage, m->only = only, m->wanted = round;
    if (missing(m) < 0) return TD_OK;
    stop_clock(m);
    td_status status = td_comm_wait(m->comm, -1, m->bell, test, missing, m);
    go_on_clock(m);
    return status;
}

/* Looks further than is needed now: a look costs a cache line of every rank. */
static td_status wait_until_free(td_meet *m, uint64_t last)
{
    TD_TRY(wait_for(m, DONE, -1, last));
    uint64_t all = m->round;
    for (int r = 0; r < m->comm->size; r++) {
        uint64_t done = stage_of(m, r, DONE), arrived = stage_of(m, r, ARRIVED);
        uint64_t with = arrived && arrived - 1 > done ? arrived - 1 : done;
        if (with < all) all = with;
    }
    m->done_with = all;
    return TD_OK;
}

td_status td_meet_round(td_meet *m, size_t bytes)
{
    size_t slots = (HEAD + bytes + SLOT - 1) / SLOT;
    uint64_t last = ++m->round < SHOWN ? 0 : m->round - SHOWN; /* to be done with */
    m->is_short = sizeof(head) + bytes <= SHORT;
    if (m->is_short) {
        m->short_rounds++;
        slots = 0;
    }
    m->first = m->next + slots > SLOTS ? 0 : m->next;
    m->next = m->first + slots;
    for (size_t k = m->first; k < m->next; k++) {
        if (m->used[k] > last) last = m->used[k];
        m->used[k] = m->round;
    }
    if (last > m->done_with) TD_TRY(wait_until_free(m, last));
    begin_trying(m, bytes);
    return TD_OK;
}

void td_meet_arrive(td_meet *m, const void *in, void *out)
{
    line *own = &m->lines[m->comm->rank];
    own->in = in, own->out = out;
    __atomic_store_n(&own->core, sched_getcpu(), __ATOMIC_RELAXED);
    head *h = head_of(m, m->comm->rank);
    h->runs = *shown(m, m->comm->rank, m->round) = m->comm->card.runs;
    if (m->is_short) __atomic_store_n(&h->round, m->round, __ATOMIC_RELEASE);
    reach(m, ARRIVED);
}

td_status td_meet_arrived(td_meet *m, int rank)
{
    TD_TRY(wait_for(m, ARRIVED, rank, m->round));
    if (rank >= 0) return compare(m, rank);
    for (int r = 0; r < m->comm->size; r++) TD_TRY(compare(m, r));
    return TD_OK;
}

void td_meet_reduce(td_meet *m)
{
    reach(m, REDUCED);
}

td_status td_meet_reduced(td_meet *m)
{
    return wait_for(m, REDUCED, -1, m->round);
}

void td_meet_done(td_meet *m)
{
    reach(m, DONE);
}

/* Who waits for the memory of a short block waits for rounds that somebody has gone on from. */
void td_meet_leave(td_meet *m)
{
    end_trying(m);
    if (!m->is_short) reach(m, DONE);
}

td_status td_meet_all_done(td_meet *m)
{
    return wait_for(m, DONE, -1, m->round);
}

/* --- memory of other processes --- */

static bool read_there(const td_meet *m, int rank, const void *from, void *to, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        struct iovec here = {(char *)to + at, bytes - at};
        struct iovec there = {(char *)(uintptr_t)from + at, bytes - at};
        ssize_t n = process_vm_readv(m->lines[rank].pid, &here, 1, &there, 1, 0);
        if (n <= 0) return false;
        at += (size_t)n;
    }
    return true;
}

/* Each rank reads each other's mark: where process numbers are another container's, they may be
 * those of somebody else. */
td_status td_meet_reaches(td_meet *m, bool *out)
{
    line *own = &m->lines[m->comm->rank];
    *out = m->reaches;
    if (m->tried) return TD_OK;
    m->mark = (uint64_t)td_clock_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 32;
    own->pid = (int32_t)getpid();
    TD_TRY(td_meet_round(m, 0));
    td_meet_arrive(m, &m->mark, (void *)(uintptr_t)m->mark);
    TD_TRY(td_meet_arrived(m, -1));
    own->reaches = 1;
    for (int r = 0; r < m->comm->size; r++) {
        uint64_t got = 0;
        if (!read_there(m, r, m->lines[r].in, &got, sizeof got) ||
            got != (uint64_t)(uintptr_t)m->lines[r].out)
            own->reaches = 0;
    }
    td_meet_done(m);
    TD_TRY(td_meet_all_done(m));
    m->tried = m->reaches = true;
    for (int r = 0; r < m->comm->size; r++) m->reaches = m->reaches && m->lines[r].reaches;
    *out = m->reaches;
    return TD_OK;
}

char *td_meet_scratch(td_meet *m, size_t bytes)
{
    if (bytes <= m->scratch_bytes) return m->scratch;
    td_free(m->scratch);
    m->scratch = td_alloc_aligned(bytes);
    m->scratch_bytes = m->scratch ? bytes : 0;
    return m->scratch;
}

td_status td_meet_fetch(td_meet *m, int rank, const void *from, void *to, size_t bytes)
{
    bool got = read_there(m, rank, from, to, bytes);
    if (got && !__atomic_load_n(&m->lines[rank].withdrawn, __ATOMIC_SEQ_CST)) return TD_OK;
    return td_fail(TD_ERR_PEER, "rank %d failed while rank %d was in %s", m->comm->world[rank],
                   m->comm->world[m->comm->rank], m->comm->operation);
}

td_status td_meet_look(td_meet *m)
{
    __atomic_store_n(&m->lines[m->comm->rank].looking, 1, __ATOMIC_SEQ_CST);
    for (int r = 0; r < m->comm->size; r++)
        if (__atomic_load_n(&m->lines[r].withdrawn, __ATOMIC_SEQ_CST)) {
            td_meet_look_away(m);
            return td_fail(TD_ERR_PEER, "rank %d failed while rank %d was in %s", m->comm->world[r],
                           m->comm->world[m->comm->rank], m->comm->operation);
        }
    return TD_OK;
}

void td_meet_look_away(td_meet *m)
{
    __atomic_store_n(&m->lines[m->comm->rank].looking, 0, __ATOMIC_RELEASE);
}

void td_meet_withdraw(td_meet *m)
{
    __atomic_store_n(&m->lines[m->comm->rank].withdrawn, 1, __ATOMIC_SEQ_CST);
    if (!m->comm->ops->one_memory) return;
    for (int r = 0; r < m->comm->size; r++)
        while (r != m->comm->rank && __atomic_load_n(&m->lines[r].looking, __ATOMIC_SEQ_CST))
            sched_yield();
}

const void *td_meet_in(const td_meet *m, int rank)
{
    return m->lines[rank].in;
}

void *td_meet_out(const td_meet *m, int rank)
{
    return m->lines[rank].out;
}
