#include "comm/recorder.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fs.h"

#include <fcntl.h>
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
    [TD_DOES_PUSH] = "push",
    [TD_DOES_PULL] = "pull",
    [TD_DOES_PUSH_PULL] = "push and pull",
    [TD_DOES_RECOVER] = "recover",
};

enum { HEAD = 4096, TIMED = 16, MOST = 1024 };
_Static_assert(sizeof(td_recorder_head) <= HEAD, "the head has a page");

/* Of this process, for the signal handler. Slots are emptied, never moved. */
static td_recorder *all[MOST];

static size_t file_bytes(void)
{
    return HEAD + TD_RECORDS * sizeof(td_record);
}

td_status td_comm_record(td_comm *comm, const char *path)
{
    TD_TRY(td_comm_check_open(comm, path));
    if (comm->recorder) return td_fail(TD_ERR_ARG, "%s: this group is recorded already", path);
    char made[TD_PATH_MAX]; /* until its head is whole: who reads a record finds all or none */
    if ((size_t)snprintf(made, sizeof made, "%s.new", path) >= sizeof made)
        return td_fail(TD_ERR_ARG, "%s: this path is too long", path);
    td_recorder *r = td_calloc(1, sizeof *r);
    if (!r) return td_fail(TD_ERR_NOMEM, "no memory for a recorder");
    int fd = open(made, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    void *at = MAP_FAILED;
    if (fd >= 0 && posix_fallocate(fd, 0, (off_t)file_bytes()) == 0)
        at = mmap(NULL, file_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    td_status status = TD_OK;
    if (at == MAP_FAILED)
        status = td_fail_errno("%s: the record of operations cannot be written", path);
    if (fd >= 0) close(fd);
    if (status != TD_OK) {
        td_free(r);
        return status;
    }
    r->head = at;
    r->ring = (td_record *)(void *)((char *)at + HEAD);
    *r->head = (td_recorder_head){
        .version = TD_RECORDER_VERSION,
        .record_bytes = sizeof(td_record),
        .rank = comm->world[comm->rank],
        .generation = comm->generation,
        .size = comm->size,
        .pid = getpid(),
        .opened_ns = td_clock_ns(),
        .opened_wall = time(NULL),
    };
    gethostname(r->head->host, sizeof r->head->host - 1);
    strncpy(r->head->transport, comm->ops->name, sizeof r->head->transport - 1);
    memcpy(r->head->magic, TD_RECORDER_MAGIC, sizeof r->head->magic);
    if (rename(made, path) != 0) {
        status = td_fail_errno("%s: the record of operations cannot be written", path);
        munmap(at, file_bytes());
        td_free(r);
        return status;
    }
    comm->recorder = r;
    comm->owns_recorder = true;
    for (int k = 0; k < MOST; k++) {
        td_recorder *none = NULL;
        if (__atomic_compare_exchange_n(&all[k], &none, r, false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_SEQ_CST))
            break;
    }
    return TD_OK;
}

void td_recorder_close(td_comm *comm)
{
    td_recorder *r = comm->owns_recorder ? comm->recorder : NULL;
    comm->recorder = NULL;
    comm->record = NULL;
    for (int k = 0; k < MOST && r; k++) {
        td_recorder *own = r;
        __atomic_compare_exchange_n(&all[k], &own, NULL, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    if (!r) return;
    r->head->closed_ns = td_clock_ns();
    munmap(r->head, file_bytes());
    td_free(r);
}

void td_comm_record_step(td_comm *comm, uint64_t step)
{
    if (comm->recorder) comm->recorder->head->step = step;
}

/* --- entries --- */

td_record *td_comm_begin(td_comm *comm, td_note note)
{
    comm->operation = td_does_names[comm->within ? comm->within : note.does];
    if (comm->within)
        comm->step++;
    else
        comm->sequence += !td_does_alone(note.does);
    comm->card.runs = (td_header){.sequence = comm->sequence,
                                  .bytes = note.bytes,
                                  .root = note.root,
                                  .does = (uint8_t)note.does,
                                  .within = (uint8_t)comm->within,
                                  .step = (uint8_t)comm->step,
                                  .type = (uint8_t)note.type,
                                  .op = (uint8_t)note.op};
    td_recorder *r = comm->recorder;
    if (!r || comm->within) return NULL;
    uint64_t number =
        r->several ? __atomic_fetch_add(&r->head->next, 1, __ATOMIC_RELAXED) : r->head->next++;
    td_record *e = &r->ring[number % TD_RECORDS];
    e->state = 0; /* while it is being written */
    e->sequence = comm->sequence;
    e->bytes = note.bytes;
    e->begin_ns = number % TIMED ? 0 : td_clock_ns();
    e->waited_ns = 0;
    e->root = note.root;
    e->missing = -1;
    e->does = (uint8_t)note.does;
    e->type = (uint8_t)note.type;
    e->op = (uint8_t)note.op;
    e->group = (uint32_t)comm->size;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    e->state = TD_RECORD_BEGUN;
    return comm->record = e;
}

td_status td_comm_end(td_record *record, td_status status)
{
    if (record) record->state = status == TD_OK ? TD_RECORD_DONE : TD_RECORD_FAILED;
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
    char text[256];
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

static void print_one(const td_recorder *r, int fd)
{
    const td_recorder_head *h = r->head;
    const td_record *e = &r->ring[(h->next - 1) % TD_RECORDS];
    line l = {.n = 0};
    put(&l, "rank ");
    put_number(&l, (uint64_t)h->rank);
    put(&l, " of ");
    put_number(&l, (uint64_t)h->size);
    put(&l, ", step ");
    put_number(&l, h->step);
    if (h->next == 0) {
        put(&l, ": no operation yet");
    } else {
        put(&l, e->state == TD_RECORD_BEGUN ? ": in " : ": computing, after ");
        put(&l, td_does_names[e->does]);
        put(&l, " (operation ");
        put_number(&l, e->sequence);
        put(&l, ", ");
        put_number(&l, e->bytes);
        put(&l, " bytes)");
    }
    if (h->next && e->state == TD_RECORD_BEGUN && e->begin_ns) {
        put(&l, " for ");
        put_ms(&l, td_clock_ns() - e->begin_ns);
        if (e->missing >= 0) {
            put(&l, ", waiting for rank ");
            put_number(&l, (uint64_t)e->missing);
        }
    }
    put(&l, "\n");
    if (write(fd, l.text, l.n) < 0) return; /* nobody to tell */
}

void td_recorder_print_all(int fd)
{
    for (int k = 0; k < MOST; k++) {
        const td_recorder *r = __atomic_load_n(&all[k], __ATOMIC_SEQ_CST);
        if (r) print_one(r, fd);
    }
}
