#include "comm/recorder.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

const char *const td_does_names[TD_DOES_END] = {
    [TD_BARRIER] = "barrier",
    [TD_BROADCAST] = "broadcast",
    [TD_SCATTER] = "scatter",
    [TD_GATHER] = "gather",
    [TD_ALLGATHER] = "all-gather",
    [TD_ALLTOALL] = "all-to-all",
    [TD_REDUCE] = "reduce",
    [TD_ALLREDUCE] = "all-reduce",
    [TD_REDUCE_SCATTER] = "reduce-scatter",
    [TD_SCAN] = "scan",
    [TD_DOES_SEND] = "send",
    [TD_DOES_RECV] = "recv",
    [TD_DOES_AGREE] = "agree",
    [TD_DOES_SPLIT] = "split",
    [TD_DOES_SHARE] = "shared memory",
    [TD_DOES_TREESUM] = "tree sum",
    [TD_DOES_KEYED] = "keyed parts",
    [TD_DOES_PUSH] = "push",
    [TD_DOES_PULL] = "pull",
    [TD_DOES_PUSH_PULL] = "push and pull",
    [TD_DOES_SERVE] = "serving keyed parts",
    [TD_DOES_RECOVER] = "recover",
};

enum { MOST = 1024 };
_Static_assert(sizeof(td_recorder_head) <= TD_RECORDER_HEAD_BYTES, "the head has a page");

/* Of this process, for the signal handler. Slots are emptied, never moved; none is unmapped while
 * a handler reads. */
static td_recorder *all[MOST];
static int readers;

/* --- its groups --- */

/* One that no group has had, else the one that was closed first; NULL: there is none. */
static td_recorder_group *place(const td_recorder *r)
{
    td_recorder_group *found = NULL;
    for (int k = 0; k < TD_RECORDER_GROUPS; k++) {
        td_recorder_group *g = &r->group[k];
        if (!g->number) return g;
        if (g->closed && (!found || g->made < found->made)) found = g;
    }
    return found;
}

/* Groups of one rank may be made and closed by several threads. Under the lock. */
static void take_place(td_recorder *r, td_comm *comm, uint64_t parent)
{
    td_recorder_group *g = place(r);
    comm->recorder = r;
    r->groups++;
    r->head->groups++;
    if (!g) {
        r->head->lost++;
        return;
    }
    *g = (td_recorder_group){.parent = parent,
                             .generation = comm->generation,
                             .collectives = comm->sequence,
                             .ranks = comm->size,
                             .rank = comm->rank,
                             .kind = parent ? TD_GROUP_SPLIT : TD_GROUP_RECORDED,
                             .made = r->head->groups};
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    g->number = comm->card.group;
    comm->recorded = g;
}

static void join(td_recorder *r, td_comm *comm, uint64_t parent)
{
    pthread_mutex_lock(&r->lock);
    take_place(r, comm, parent);
    pthread_mutex_unlock(&r->lock);
}

/* Returns whether none has it open any more. */
static bool leave(td_comm *comm)
{
    td_recorder *r = comm->recorder;
    pthread_mutex_lock(&r->lock);
    if (comm->recorded) comm->recorded->closed = 1;
    bool last = --r->groups == 0;
    pthread_mutex_unlock(&r->lock);
    comm->recorder = NULL, comm->recorded = NULL, comm->record = NULL;
    comm->owns_recorder = false;
    return last;
}

void td_recorder_join(td_comm *comm, const td_comm *from)
{
    if (from->recorder && !comm->recorder) join(from->recorder, comm, from->card.group);
}

void td_recorder_join_meeting(td_comm *meeting, const td_comm *from)
{
    td_recorder_join(meeting, from);
    td_recorder_call(meeting, TD_GROUP_MEETING);
}

void td_recorder_call(td_comm *comm, int kind)
{
    if (comm->recorded) comm->recorded->kind = (uint32_t)kind;
    if (comm->recorder && kind == TD_GROUP_WORKS)
        __atomic_store_n(&comm->recorder->several, true, __ATOMIC_RELAXED);
}

void td_recorder_wait_for(td_comm *works, bool waits)
{
    if (works && works->recorded) works->recorded->waited_for = waits;
}

void td_recorder_move(td_comm *from, td_comm *to)
{
    td_recorder *r = from->recorder;
    if (!r) return;
    to->owns_recorder = from->owns_recorder;
    join(r, to, 0);
    if (to->owns_recorder) r->head->size = to->size, r->head->generation = to->generation;
    leave(from);
}

/* --- the record --- */

/* The file's bytes, or as many of memory (path NULL). */
static td_status map(const char *path, const char *made, void **out)
{
    int fd = -1, flags = MAP_SHARED, why = 0;
    void *at = MAP_FAILED;
    if (path) fd = open(made, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (!path) flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (fd >= 0) why = posix_fallocate(fd, 0, (off_t)td_recorder_bytes()); /* sets no errno */
    if (!path || (fd >= 0 && !why))
        at = mmap(NULL, td_recorder_bytes(), PROT_READ | PROT_WRITE, flags, fd, 0);
    if (why) errno = why;
    td_status status = TD_OK;
    if (at == MAP_FAILED && path)
        status = td_fail_errno("%s: the record of operations cannot be written", path);
    else if (at == MAP_FAILED)
        status = td_fail(TD_ERR_NOMEM, "no memory for a record of operations");
    if (fd >= 0) close(fd);
    if (fd >= 0 && status != TD_OK) unlink(made);
    *out = at;
    return status;
}

static int64_t wall_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void fill_head(td_recorder_head *head, const td_comm *comm)
{
    *head = (td_recorder_head){
        .version = TD_RECORDER_VERSION,
        .record_bytes = sizeof(td_record),
        .rank = comm->world[comm->rank],
        .generation = comm->generation,
        .size = comm->size,
        .pid = getpid(),
        .opened_ns = td_clock_ns(),
        .opened_wall = wall_ns(),
    };
    gethostname(head->host, sizeof head->host - 1);
    strncpy(head->transport, comm->ops->name, sizeof head->transport - 1);
    memcpy(head->magic, TD_RECORDER_MAGIC, sizeof head->magic);
}

td_status td_comm_record(td_comm *comm, const char *path)
{
    char made[TD_PATH_MAX]; /* until its head is whole: who reads a record finds all or none */
    void *at;
    TD_TRY(td_comm_check_open(comm, path ? path : "record"));
    if (comm->recorder)
        return td_fail(TD_ERR_ARG, "%s: this group is recorded already", path ? path : "record");
    if ((size_t)snprintf(made, sizeof made, "%s.new", path ? path : "") >= sizeof made)
        return td_fail(TD_ERR_ARG, "%s: this path is too long", path);
    td_recorder *r = td_calloc(1, sizeof *r);
    if (!r) return td_fail(TD_ERR_NOMEM, "no memory for a recorder");
    td_status status = map(path, made, &at);
    if (status != TD_OK) {
        td_free(r);
        return status;
    }
    r->head = at;
    r->group = (td_recorder_group *)(void *)((char *)at + TD_RECORDER_HEAD_BYTES);
    fill_head(r->head, comm);
    if (path && rename(made, path) != 0) {
        status = td_fail_errno("%s: the record of operations cannot be written", path);
        munmap(at, td_recorder_bytes());
        unlink(made);
        td_free(r);
        return status;
    }
    comm->owns_recorder = true;
    pthread_mutex_init(&r->lock, NULL);
    join(r, comm, 0);
    for (int k = 0; k < MOST; k++) {
        td_recorder *none = NULL;
        if (__atomic_compare_exchange_n(&all[k], &none, r, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            break;
    }
    return TD_OK;
}

/* No operation writes to it any more; groups that were split from its own may be left. */
static void end(td_recorder *r)
{
    for (int k = 0; k < MOST; k++) {
        td_recorder *own = r;
        __atomic_compare_exchange_n(&all[k], &own, NULL, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    while (__atomic_load_n(&readers, __ATOMIC_SEQ_CST)) sched_yield();
}

void td_recorder_rest(td_comm *comm)
{
    if (comm->recorder && comm->owns_recorder) comm->recorder->head->closed_ns = td_clock_ns();
}

void td_recorder_close(td_comm *comm)
{
    td_recorder *r = comm->recorder;
    if (!r) return;
    if (comm->owns_recorder) end(r);
    if (!leave(comm)) return;
    munmap(r->head, td_recorder_bytes());
    pthread_mutex_destroy(&r->lock);
    td_free(r);
}

void td_comm_record_step(td_comm *comm, uint64_t step)
{
    if (comm && comm->recorder) comm->recorder->head->step = step;
}

/* --- entries --- */

/* Beside works none is counted twice. Threads of the user's, each with a group of its own, may
 * count two operations as one: to be exact would cost as much as the rest of an entry. */
static uint64_t next_number(td_recorder *r)
{
    uint64_t *next = &r->head->next;
    if (__atomic_load_n(&r->several, __ATOMIC_RELAXED))
        return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED);
    uint64_t number = __atomic_load_n(next, __ATOMIC_RELAXED);
    __atomic_store_n(next, number + 1, __ATOMIC_RELAXED);
    return number;
}

/* From `parts` on an entry is laid out as a header is; what an operation is within, and its step
 * there, are 0 in those that are recorded, as the state is of an entry that is being written. */
enum { LIKE_A_HEADER = sizeof(td_header) - offsetof(td_header, parts) };
_Static_assert(offsetof(td_record, parts) + LIKE_A_HEADER == sizeof(td_record) &&
                   offsetof(td_record, state) - offsetof(td_record, parts) ==
                       offsetof(td_header, within) - offsetof(td_header, parts) &&
                   offsetof(td_record, algorithm) - offsetof(td_record, parts) ==
                       offsetof(td_header, algorithm) - offsetof(td_header, parts),
               "an entry ends as a header does");

/* As the operation's header is now; begin_ns is set. */
static void write_entry(td_comm *comm, td_record *e, bool alone, uint64_t sequence)
{
    const td_header *h = &comm->card.runs;
    td_recorder_group *g = comm->recorded;
    e->state = 0; /* while it is being written */
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    e->sequence = sequence;
    e->bytes = h->bytes;
    e->end_ns = e->waited_ns = 0;
    e->number = (uint32_t)next_number(comm->recorder);
    e->missing = -1;
    memcpy(&e->parts, &h->parts, LIKE_A_HEADER);
    if (h->root >= 0) e->root = comm->world[h->root];
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    e->state = TD_RECORD_BEGUN;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    *(alone ? &g->alone : &g->collectives) = sequence;
}

td_record *td_comm_begin(td_comm *comm, const td_note *note)
{
    bool alone = td_does_alone(note->does);
    comm->operation = td_does_names[comm->within ? comm->within : note->does];
    if (comm->within)
        comm->step++;
    else
        comm->sequence += !alone;
    comm->card.runs = (td_header){.sequence = comm->sequence,
                                  .bytes = note->bytes,
                                  .parts = note->tag,
                                  .root = note->root,
                                  .does = (uint8_t)note->does,
                                  .within = (uint8_t)comm->within,
                                  .step = (uint8_t)comm->step,
                                  .type = (uint8_t)note->type,
                                  .op = (uint8_t)note->op};
    td_recorder *r = comm->recorder;
    td_recorder_group *g = comm->recorded;
    if (!r || !g || comm->within) return NULL;
    uint64_t sequence = alone ? g->alone + 1 : comm->sequence;
    td_record *e =
        alone ? &g->by_itself[sequence % TD_RECORDS_ALONE] : &g->collective[sequence % TD_RECORDS];
    bool timed = sequence % TD_RECORDS_TIMED == 0;
    comm->due = NULL;
    if (note->does < TD_PATTERNS && note->bytes <= TD_RECORD_PUT_OFF && !timed) {
        comm->record = NULL;
        __builtin_prefetch(e, 1); /* what write_entry writes to: others may have run here since */
        __builtin_prefetch(&g->collectives, 1);
        __builtin_prefetch(&r->head->next, 1);
        return comm->due = e;
    }
    comm->record = e;
    e->begin_ns = timed ? td_clock_ns() : 0;
    write_entry(comm, e, alone, sequence);
    return e;
}

void td_comm_write_due(td_comm *comm)
{
    td_record *e = comm->due;
    comm->due = NULL;
    comm->record = e;
    e->begin_ns = 0;
    write_entry(comm, e, false, comm->sequence);
    e->put_off = true;
}

td_status td_comm_end(td_record *record, td_status status)
{
    if (!record) return status;
    if (status == TD_OK && record->put_off && record->waited_ns) /* all that took it long */
        record->end_ns = record->begin_ns + record->waited_ns;
    else if (record->begin_ns || status != TD_OK)
        record->end_ns = td_clock_ns();
    record->state = status == TD_OK ? TD_RECORD_DONE : TD_RECORD_FAILED;
    return status;
}

int td_comm_enter(td_comm *comm, int does)
{
    if (comm->within) return 0; /* that is a part itself */
    comm->within = does;
    return does;
}

void td_comm_leave(td_comm *comm, int entered)
{
    if (entered) comm->within = comm->step = 0;
}

/* --- one line for a person, in a signal handler: no stdio --- */

typedef struct line {
    char text[512];
    size_t n;
} line;

static void put(line *l, const char *text)
{
    while (*text && l->n < sizeof l->text - 1) l->text[l->n++] = *text++;
}

static void put_number(line *l, uint64_t x)
{
    char digits[24];
    int n = 0;
    do digits[n++] = (char)('0' + x % 10);
    while (x /= 10);
    while (n > 0 && l->n < sizeof l->text - 1) l->text[l->n++] = digits[--n];
}

static void put_ms(line *l, int64_t ns)
{
    put_number(l, (uint64_t)(ns > 0 ? ns : 0) / 1000000);
    put(l, " ms");
}

/* The newest of a place, NULL: it has none. */
static const td_record *newest_of(const td_recorder_group *g, bool alone)
{
    const td_record *e = alone ? &g->by_itself[g->alone % TD_RECORDS_ALONE]
                               : &g->collective[g->collectives % TD_RECORDS];
    return g->number && e->state && e->sequence ? e : NULL;
}

static void put_operation(line *l, const td_recorder_group *g, const td_record *e)
{
    static const char *const of[TD_GROUP_KINDS] = {"", "", ", of the works", ", of keyed parts",
                                                   ""};
    put(l, td_does_names[e->does]);
    put(l, " (");
    if (!td_does_alone(e->does)) {
        put(l, "operation ");
        put_number(l, e->sequence);
        if (g->kind == TD_GROUP_SPLIT || g->kind == TD_GROUP_MEETING) {
            put(l, " of a group of ");
            put_number(l, (uint64_t)g->ranks);
        }
        put(l, of[g->kind % TD_GROUP_KINDS]);
        put(l, ", ");
    }
    put_number(l, e->bytes);
    put(l, " bytes");
    if (e->root >= 0 && (e->does == TD_DOES_SEND || e->does == TD_DOES_RECV)) {
        put(l, e->does == TD_DOES_SEND ? " to rank " : " from rank ");
        put_number(l, (uint64_t)e->root);
    }
    put(l, ")");
}

static void put_wait(line *l, const td_record *e)
{
    if (e->begin_ns) {
        put(l, " for ");
        put_ms(l, td_clock_ns() - e->begin_ns);
    }
    if (e->missing < 0) return;
    put(l, ", waiting for rank ");
    put_number(l, (uint64_t)e->missing);
}

/* All that is under way, else what was last. */
static void put_doing(line *l, const td_recorder *r)
{
    const td_recorder_group *of = NULL;
    const td_record *last = NULL;
    int under_way = 0;
    if (r->head->closed_ns) {
        put(l, ": has ended, waiting for the other ranks to");
        return;
    }
    for (int k = 0; k < 2 * TD_RECORDER_GROUPS; k++) {
        const td_recorder_group *g = &r->group[k / 2];
        const td_record *e = newest_of(g, k % 2);
        if (!e) continue;
        if (e->state == TD_RECORD_BEGUN) {
            put(l, under_way++ ? "; and in " : ": in ");
            put_operation(l, g, e);
            put_wait(l, e);
        }
        if (!last || (int32_t)(e->number - last->number) > 0) last = e, of = g;
    }
    if (under_way) return;
    put(l, last ? ": computing, after " : ": no operation yet");
    if (last) put_operation(l, of, last);
}

static void print_one(const td_recorder *r, int fd)
{
    const td_recorder_head *h = r->head;
    line l = {.n = 0};
    put(&l, "rank ");
    put_number(&l, (uint64_t)h->rank);
    put(&l, " of ");
    put_number(&l, (uint64_t)h->size);
    put(&l, ", step ");
    put_number(&l, h->step);
    put_doing(&l, r);
    l.text[l.n++] = '\n';
    if (write(fd, l.text, l.n) < 0) return; /* nobody to tell */
}

void td_recorder_print_all(int fd)
{
    int shown = 0;
    __atomic_fetch_add(&readers, 1, __ATOMIC_SEQ_CST);
    for (int k = 0; k < MOST; k++) {
        const td_recorder *r = __atomic_load_n(&all[k], __ATOMIC_SEQ_CST);
        if (r) print_one(r, fd), shown++;
    }
    __atomic_fetch_sub(&readers, 1, __ATOMIC_SEQ_CST);
    static const char none[] = "no rank of this process records its operations now\n";
    if (!shown && write(fd, none, sizeof none - 1) < 0) return;
}

/* --- by a signal --- */

static void on_question(int number)
{
    (void)number;
    int before = errno;
    td_recorder_print_all(STDERR_FILENO);
    errno = before;
}

td_status td_comm_print_on_signal(int number)
{
    struct sigaction now, ours = {.sa_handler = on_question, .sa_flags = SA_RESTART};
    if (sigaction(number, NULL, &now) != 0)
        return td_fail(TD_ERR_ARG, "signal %d cannot be waited for", number);
    bool informs = now.sa_flags & SA_SIGINFO;
    if (!informs && now.sa_handler == on_question) return TD_OK;
    if (informs || now.sa_handler != SIG_DFL)
        return td_fail(TD_ERR_ARG, "signal %d is handled or ignored already, which stays so",
                       number);
    sigemptyset(&ours.sa_mask);
    if (sigaction(number, &ours, NULL) == 0) return TD_OK;
    return td_fail(TD_ERR_ARG, "signal %d cannot be caught", number);
}
