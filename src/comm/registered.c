/* See registered.h. */
#include "comm/registered.h"

#include "base/alloc.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

typedef struct piece {
    struct piece *next;
    char *at;
    size_t bytes;
    uint64_t number, device, inode;
    int file;
} piece;

struct td_mapping {
    td_registered piece; /* its offset is 0 */
    void *at;
    uint64_t used;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static piece *pieces; /* of this process; guarded, as are: */
static uint64_t numbers;
static int pieces_there; /* atomic */
static bool keeps;       /* atomic: the addresses of freed pieces */

/* --- this process's --- */

static td_status make_piece(size_t bytes, piece *out)
{
    struct stat s;
    out->bytes = bytes;
    out->file = memfd_create("tandem", MFD_CLOEXEC);
    if (out->file < 0) return td_fail(TD_ERR_IO, "memfd_create: %s", strerror(errno));
    bool sized = ftruncate(out->file, (off_t)bytes) == 0 && fstat(out->file, &s) == 0;
    void *at =
        sized ? mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, out->file, 0) : MAP_FAILED;
    if (at == MAP_FAILED) {
        int error = errno;
        close(out->file);
        return td_fail(TD_ERR_NOMEM, "no memory for %zu bytes that others may read: %s", bytes,
                       strerror(error));
    }
    out->at = at;
    out->device = s.st_dev, out->inode = s.st_ino;
    return TD_OK;
}

td_status td_comm_alloc(size_t bytes, void **out)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole;
    if (!out)
        return td_fail(TD_ERR_ARG, "%zu bytes that others may read: no place for them", bytes);
    *out = NULL;
    if (!td_add(bytes ? bytes : 1, page - 1, &whole) || whole > INT64_MAX)
        return td_fail(TD_ERR_ARG, "%zu bytes are more than there can be", bytes);
    piece *p = td_calloc(1, sizeof *p);
    if (!p) return td_fail(TD_ERR_NOMEM, "no memory for %zu bytes that others may read", bytes);
    td_status status = make_piece(whole / page * page, p);
    if (status != TD_OK) {
        td_free(p);
        return status;
    }
    pthread_mutex_lock(&lock);
    p->number = ++numbers;
    p->next = pieces;
    pieces = p;
    __atomic_add_fetch(&pieces_there, 1, __ATOMIC_RELAXED);
    pthread_mutex_unlock(&lock);
    *out = p->at;
    return TD_OK;
}

td_status td_comm_free(void *memory)
{
    if (!memory) return TD_OK;
    pthread_mutex_lock(&lock);
    piece **link = &pieces;
    while (*link && (*link)->at != memory) link = &(*link)->next;
    piece *p = *link;
    if (p) {
        *link = p->next;
        __atomic_sub_fetch(&pieces_there, 1, __ATOMIC_RELAXED);
    }
    pthread_mutex_unlock(&lock);
    if (!p) return td_fail(TD_ERR_ARG, "the memory to free is none that td_comm_alloc gave");
    /* Others' mappings go with what maps them; their memory goes now. Not by a shorter file, which
     * would end a process that still reads. */
    int there = fallocate(p->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)p->bytes);
    (void)there; /* cannot fail on such a file, and would only keep the memory longer */
    if (!__atomic_load_n(&keeps, __ATOMIC_RELAXED)) munmap(p->at, p->bytes);
    close(p->file);
    td_free(p);
    return TD_OK;
}

void td_registered_adrift(const void *at, size_t bytes)
{
    __atomic_store_n(&keeps, true, __ATOMIC_RELAXED);
    td_alloc_keep(at, bytes);
}

bool td_registered_any(void)
{
    return __atomic_load_n(&pieces_there, __ATOMIC_RELAXED) > 0;
}

td_registered td_registered_find(const void *at, size_t bytes)
{
    td_registered found = {0};
    uintptr_t from = (uintptr_t)at;
    if (!td_registered_any()) return found;
    pthread_mutex_lock(&lock);
    for (const piece *p = pieces; p && !found.number; p = p->next) {
        uintptr_t begin = (uintptr_t)p->at;
        if (from < begin || from - begin > p->bytes || bytes > p->bytes - (from - begin)) continue;
        found = (td_registered){.number = p->number,
                                .device = p->device,
                                .inode = p->inode,
                                .offset = from - begin,
                                .bytes = p->bytes,
                                .pid = (int32_t)getpid(),
                                .file = p->file};
    }
    pthread_mutex_unlock(&lock);
    return found;
}

/* --- others' --- */

static td_status map_piece(const td_registered *there, bool writable, void **out)
{
    char path[64];
    struct stat s;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)there->pid, (int)there->file);
    int file = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    if (file < 0) {
        bool gone = errno != EMFILE && errno != ENFILE && errno != ENOMEM;
        return td_fail(gone ? TD_ERR_IO : TD_ERR_NOMEM,
                       "memory of process %d cannot be read: %s: %s", (int)there->pid, path,
                       strerror(errno));
    }
    /* Where process numbers are another container's, they may be those of somebody else. */
    bool same = fstat(file, &s) == 0 && s.st_dev == there->device && s.st_ino == there->inode &&
                (uint64_t)s.st_size == there->bytes;
    int may = PROT_READ | (writable ? PROT_WRITE : 0);
    *out = same ? mmap(NULL, there->bytes, may, MAP_SHARED, file, 0) : MAP_FAILED;
    int error = errno;
    close(file);
    if (!same)
        return td_fail(TD_ERR_IO, "memory of process %d cannot be read: %s is another file",
                       (int)there->pid, path);
    if (*out == MAP_FAILED)
        return td_fail(TD_ERR_NOMEM, "memory of process %d cannot be mapped: %s", (int)there->pid,
                       strerror(error));
    return TD_OK;
}

static bool is_of(const struct td_mapping *m, const td_registered *there)
{
    const td_registered *p = &m->piece;
    return p->number == there->number && p->pid == there->pid && p->inode == there->inode &&
           p->device == there->device && p->bytes == there->bytes;
}

/* A place for one more: a new one, or that of the one that was asked for the longest ago. */
static struct td_mapping *place_for(td_mappings *m, int most)
{
    if (m->count >= most) {
        struct td_mapping *oldest = m->each;
        for (int k = 1; k < m->count; k++)
            if (m->each[k].used < oldest->used) oldest = &m->each[k];
        munmap(oldest->at, oldest->piece.bytes);
        return oldest;
    }
    if (m->count == m->room) {
        int room = m->room ? 2 * m->room : 8;
        struct td_mapping *more = td_reallocarray(m->each, (size_t)room, sizeof *more);
        if (!more) return NULL;
        m->each = more, m->room = room;
    }
    return &m->each[m->count++];
}

td_status td_mappings_find(td_mappings *m, const td_registered *there, int most, void **out)
{
    void *at;
    for (int k = 0; k < m->count; k++)
        if (is_of(&m->each[k], there)) {
            m->each[k].used = ++m->now;
            *out = (char *)m->each[k].at + there->offset;
            return TD_OK;
        }
    TD_TRY(map_piece(there, m->writable, &at));
    struct td_mapping *place = place_for(m, most);
    if (!place) {
        munmap(at, there->bytes);
        return td_fail(TD_ERR_NOMEM, "no memory for a mapping of another process's");
    }
    *place = (struct td_mapping){.piece = *there, .at = at, .used = ++m->now};
    *out = (char *)at + there->offset;
    return TD_OK;
}

void td_mappings_free(td_mappings *m)
{
    for (int k = 0; k < m->count; k++) munmap(m->each[k].at, m->each[k].piece.bytes);
    td_free(m->each);
    *m = (td_mappings){.writable = m->writable};
}
