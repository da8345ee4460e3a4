/* What ranks read of each other outside their blocks: see meet.h. */
#include "comm/coll/meet_impl.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <sched.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WAYS_EVERY = 128, WAYS_SHARE = 24, WAYS_FIRST = 4, WAYS_TRIES = 5 };
enum { PUT_AT_ONCE = 1 << 20, GONE_NS = 10000000 };

static td_status failed(const td_meet *m, int rank)
{
    return td_fail(TD_ERR_PEER, "rank %d failed while rank %d was in %s", m->comm->world[rank],
                   m->comm->world[m->comm->rank], m->comm->operation);
}

/* --- memory of other processes, wherever it lies --- */

typedef ssize_t moves_fn(pid_t pid, const struct iovec *here, unsigned long heres,
                         const struct iovec *there, unsigned long theres, unsigned long flags);

static bool move(const td_meet *m, int rank, moves_fn *moves, const void *here, const void *there,
                 size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        struct iovec own = {(char *)(uintptr_t)here + at, bytes - at};
        struct iovec its = {(char *)(uintptr_t)there + at, bytes - at};
        ssize_t n = moves(m->lines[rank].pid, &own, 1, &its, 1, 0);
        if (n <= 0) return false;
        at += (size_t)n;
    }
    return true;
}

static bool read_there(const td_meet *m, int rank, const void *from, void *to, size_t bytes)
{
    return move(m, rank, process_vm_readv, to, from, bytes);
}

/* Where there can be none, others do not find it. */
static void make_mark(td_meet *m)
{
    m->marks[0] = (uint64_t)td_clock_ns() * 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 32;
    if (td_comm_alloc(sizeof *m->marks, &m->piece) == TD_OK)
        memcpy(m->piece, m->marks, sizeof *m->marks);
    else
        td_error_clear();
    m->lines[m->comm->rank].mark = td_registered_find(m->piece, sizeof *m->marks);
}

static void drop_mark(td_meet *m)
{
    if (td_comm_free(m->piece) != TD_OK) td_error_clear();
    m->piece = NULL;
}

static bool maps_mark(td_meet *m, int rank, uint64_t mark)
{
    const td_registered *there = &m->lines[rank].mark;
    void *at;
    if (!there->number) return false;
    if (td_mappings_find(&m->mappings, there, m->comm->size, &at) == TD_OK)
        return memcmp(at, &mark, sizeof mark) == 0;
    td_error_clear();
    return false;
}

/* Each rank reads each other's mark, as where process numbers are another container's they may be
 * those of somebody else, and writes beside it. */
static td_status try_memory(td_meet *m)
{
    td_meet_line *own = &m->lines[m->comm->rank];
    if (m->tried) return TD_OK;
    make_mark(m);
    own->pid = (int32_t)getpid();
    TD_TRY(td_meet_round(m, 0));
    td_meet_arrive(m, m->marks, (void *)(uintptr_t)m->marks[0]);
    TD_TRY(td_meet_arrived(m, -1));
    own->reaches = own->maps = 1;
    for (int r = 0; r < m->comm->size; r++) {
        uint64_t fetched = 0, there = (uint64_t)(uintptr_t)m->lines[r].out;
        const uint64_t *its = m->lines[r].in;
        if (!read_there(m, r, its, &fetched, sizeof fetched) || fetched != there ||
            !move(m, r, process_vm_writev, m->marks, its + 1 + m->comm->rank, sizeof *m->marks))
            own->reaches = 0;
        if (!maps_mark(m, r, there)) own->maps = 0;
    }
    td_meet_done(m);
    TD_TRY(td_meet_all_done(m));
    m->tried = m->reaches = m->maps = true;
    for (int r = 0; r < m->comm->size; r++) {
        m->reaches = m->reaches && m->lines[r].reaches;
        m->maps = m->maps && m->lines[r].maps;
    }
    td_mappings_free(&m->mappings); /* of marks */
    drop_mark(m);
    return TD_OK;
}

td_status td_meet_reaches(td_meet *m, bool *out)
{
    TD_TRY(try_memory(m));
    *out = m->reaches;
    return TD_OK;
}

void td_meet_forget(td_meet *m)
{
    td_mappings_free(&m->mappings);
    td_free(m->scratch);
    drop_mark(m);
}

/* --- memory that all map --- */

/* What this rank is to tell in the call's first round; until it hears of others, all are alike. */
static void show(td_meet *m, td_meet_open own)
{
    m->open = own;
    m->all_open = own.open, m->all_apart = own.apart, m->all_gain = 0;
    m->opens_up = true, m->told = false;
}

void td_meet_open_up(td_meet *m, const void *in, size_t in_bytes, const void *out, size_t out_bytes)
{
    td_meet_open own = {.open = 1, .apart = in != out};
    if (!m->comm->ops->one_memory) {
        if (in) own.in = td_registered_find(in, in_bytes);
        if (out) own.out = td_registered_find(out, out_bytes);
        own.open = (!in || own.in.number) && (!out || own.out.number);
    }
    show(m, own);
}

void td_meet_keep_shut(td_meet *m)
{
    show(m, (td_meet_open){.open = 0});
}

bool td_meet_expects(const td_meet *m, td_pattern pattern)
{
    return m->comm->ops->one_memory || m->expects[pattern];
}

void td_meet_learn(td_meet *m, td_pattern pattern)
{
    if (m->opens_up) m->expects[pattern] = m->all_open;
}

td_status td_meet_see(td_meet *m, td_pattern pattern, int from, const void *in, void *out,
                      bool *sees)
{
    *sees = false;
    if (!m->comm->ops->one_memory) {
        if (!m->expects[pattern]) return TD_OK;
        TD_TRY(try_memory(m));
        if (!m->maps) return TD_OK;
    }
    m->told = false; /* in this round, in which others look for it */
    TD_TRY(td_meet_round(m, 0));
    td_meet_arrive(m, in, out);
    if (from != m->comm->rank) TD_TRY(td_meet_arrived(m, from));
    *sees = m->sees = m->all_open;
    if (!m->sees) td_meet_leave(m);
    return TD_OK;
}

bool td_meet_sees(const td_meet *m)
{
    return m->sees || m->comm->ops->one_memory;
}

bool td_meet_apart(const td_meet *m)
{
    return m->all_apart;
}

void td_meet_two_ways(td_meet *m, td_pattern pattern, size_t bytes, bool times)
{
    int k = 63 - __builtin_clzll((unsigned long long)bytes | 1);
    bool expects = td_meet_expects(m, pattern); /* else the second stages */
    m->way = &m->ways[expects][pattern][k];
    m->way->times = times;
    m->way->warm = expects ? 0 : (unsigned)((m->ring * TD_MEET_SLOT) >> k);
    m->open.gain = m->all_gain = times ? m->way->gain : 0;
}

/* How many calls a turn takes: three times those that it tries at first, when pages are made and
 * merged; then so many that few are tries. */
static uint64_t turn_of(const td_meet_ways *w)
{
    if (w->turns < WAYS_FIRST) return 3 * (2 * WAYS_TRIES + w->warm);
    return WAYS_EVERY + (uint64_t)WAYS_SHARE * w->warm;
}

/* The first try of each finds the caches as the other has left them: it does not count. Nor do
 * staged ones until they have gone round the ring once, whose lines would be found where calls that
 * do not stage have left them. */
td_status td_meet_second_way(td_meet *m, bool *out)
{
    td_meet_ways *w = m->way;
    uint64_t k = w->calls++, from = WAYS_TRIES + w->warm, to = from + WAYS_TRIES;
    if (k == 0) memset(w->tries, 0, sizeof w->tries);
    w->second = k < to ? k >= WAYS_TRIES : m->all_gain > 0;
    w->timed = k < WAYS_TRIES ? k > 0 : k > from && k < to;
    w->last = k == to - 1;
    if (w->calls == turn_of(w)) w->calls = 0, w->turns++;
    *out = w->second;
    if (!w->timed) return TD_OK;
    TD_TRY(td_meet_arrived(m, -1));
    w->since = td_clock_ns();
    return TD_OK;
}

/* Until all are done, whichever way it was. The longest try of each may have lost its core. */
td_status td_meet_way_ends(td_meet *m)
{
    td_meet_ways *w = m->way;
    if (!w->timed) return TD_OK;
    td_meet_done(m);
    if (!w->times) return TD_OK;
    TD_TRY(td_meet_all_done(m));
    td_meet_tries *t = &w->tries[w->second];
    int64_t spent = td_clock_ns() - w->since;
    t->count++;
    t->spent += spent;
    if (spent > t->most) t->most = spent;
    if (w->last && w->tries[0].count == t->count) { /* as its rank has timed all */
        int64_t first = w->tries[0].spent - w->tries[0].most, second = t->spent - t->most;
        w->gain = first - second - (m->sees ? 0 : second / 8); /* staging leaves the caches less */
    }
    return TD_OK;
}

/* That all can map each other's memory has been seen: what is there no more went with its rank. */
static td_status mapped(td_meet *m, int rank, const td_registered *there, const void **out)
{
    void *at;
    td_status status = td_mappings_find(&m->mappings, there, 4 * m->comm->size + 16, &at);
    if (status == TD_OK) *out = at;
    return status == TD_ERR_IO ? failed(m, rank) : status;
}

td_status td_meet_in(td_meet *m, int rank, const void **out)
{
    if (m->sees && !m->comm->ops->one_memory && rank != m->comm->rank)
        return mapped(m, rank, &td_meet_open_of(m, rank, m->round)->in, out);
    *out = m->lines[rank].in;
    return TD_OK;
}

td_status td_meet_out(td_meet *m, int rank, const void **out)
{
    if (m->sees && !m->comm->ops->one_memory && rank != m->comm->rank)
        return mapped(m, rank, &td_meet_open_of(m, rank, m->round)->out, out);
    *out = m->lines[rank].out;
    return TD_OK;
}

void *td_meet_theirs(const td_meet *m, int rank)
{
    return m->lines[rank].out;
}

/* --- while others may withdraw --- */

char *td_meet_scratch(td_meet *m, size_t bytes)
{
    if (bytes <= m->scratch_bytes) return m->scratch;
    td_free(m->scratch);
    m->scratch = td_alloc_aligned(bytes);
    m->scratch_bytes = m->scratch ? bytes : 0;
    return m->scratch;
}

static bool has_withdrawn(const td_meet *m, int rank)
{
    return __atomic_load_n(&m->lines[rank].withdrawn, __ATOMIC_SEQ_CST);
}

td_status td_meet_fetch(td_meet *m, int rank, const void *from, void *to, size_t bytes)
{
    bool got = read_there(m, rank, from, to, bytes);
    return got && !has_withdrawn(m, rank) ? TD_OK : failed(m, rank);
}

static td_status check_withdrawn(const td_meet *m)
{
    for (int r = 0; r < m->comm->size; r++)
        if (has_withdrawn(m, r)) return failed(m, r);
    return TD_OK;
}

static void stop_looking(td_meet *m)
{
    /* behind all that was read, ahead of another look at the flags */
    __atomic_exchange_n(&m->lines[m->comm->rank].looking, 0, __ATOMIC_SEQ_CST);
}

static td_status look(td_meet *m, int how)
{
    __atomic_store_n(&m->lines[m->comm->rank].looking, how, __ATOMIC_SEQ_CST);
    td_status status = check_withdrawn(m);
    if (status != TD_OK) stop_looking(m);
    return status;
}

td_status td_meet_look(td_meet *m)
{
    return look(m, TD_MEET_READS);
}

td_status td_meet_look_away(td_meet *m)
{
    stop_looking(m);
    return m->comm->ops->one_memory ? TD_OK : check_withdrawn(m);
}

td_status td_meet_put(td_meet *m, int rank, void *to, const void *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += PUT_AT_ONCE) {
        size_t n = bytes - at < PUT_AT_ONCE ? bytes - at : PUT_AT_ONCE;
        TD_TRY(look(m, TD_MEET_WRITES));
        bool put = move(m, rank, process_vm_writev, (const char *)from + at, (char *)to + at, n);
        TD_TRY(td_meet_look_away(m));
        if (!put) return failed(m, rank);
    }
    return TD_OK;
}

bool td_meet_withdraw(td_meet *m)
{
    bool writes = false;
    int how;
    __atomic_store_n(&m->lines[m->comm->rank].withdrawn, 1, __ATOMIC_SEQ_CST);
    bool gone = !m->comm->ops->one_memory; /* a process may be, or may have been stopped */
    int64_t until = td_clock_ns() + GONE_NS;
    for (int r = 0; r < m->comm->size; r++)
        while (r != m->comm->rank &&
               (how = __atomic_load_n(&m->lines[r].looking, __ATOMIC_SEQ_CST)) != 0) {
            if (gone && td_clock_ns() > until) {
                writes = writes || how == TD_MEET_WRITES;
                break;
            }
            sched_yield();
        }
    return writes;
}
