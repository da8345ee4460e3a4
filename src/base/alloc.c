/* See alloc.h. Allocations are counted from the first td_alloc_fail_at on: a counter that all
 * threads write would go from core to core with each of them. */
#include "base/alloc.h"

#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, HUGE_LEAST = 2 * HUGE_PAGE };

static atomic_bool counts;
static atomic_size_t asked;   /* since the last td_alloc_fail_at */
static atomic_size_t fail_at; /* 0: off */

static bool refuse(void)
{
    if (!atomic_load_explicit(&counts, memory_order_relaxed)) return false;
    size_t at = atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed) + 1;
    return at == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

void td_alloc_fail_at(size_t k)
{
    atomic_store(&asked, 0);
    atomic_store(&fail_at, k);
    atomic_store(&counts, true);
}

size_t td_alloc_count(void)
{
    return atomic_load(&asked);
}

void *td_malloc(size_t bytes)
{
    return refuse() ? NULL : malloc(bytes ? bytes : 1);
}

void *td_calloc(size_t count, size_t bytes)
{
    size_t total;
    if (!td_mul(count, bytes, &total) || refuse()) return NULL;
    return calloc(total ? total : 1, 1);
}

/* --- memory that is kept --- */

typedef struct span {
    uintptr_t begin, end;
} span;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static span *spans; /* guarded, as is their room */
static size_t room;
static atomic_size_t kept;                             /* spans that there are, */
static atomic_uintptr_t lowest = UINTPTR_MAX, highest; /* and between what they lie */
static atomic_bool keeps_all;                          /* one was not noted for want of memory */

void td_alloc_keep(const void *at, size_t bytes)
{
    if (!bytes) return;
    pthread_mutex_lock(&lock);
    size_t n = atomic_load(&kept);
    if (n == room) {
        size_t more = room ? 2 * room : 64;
        span *grown = realloc(spans, more * sizeof *spans);
        if (grown) spans = grown, room = more;
    }
    span s = {(uintptr_t)at, (uintptr_t)at + bytes};
    if (s.begin < atomic_load(&lowest)) atomic_store(&lowest, s.begin);
    if (s.end > atomic_load(&highest)) atomic_store(&highest, s.end);
    if (n < room)
        spans[n++] = s;
    else
        atomic_store(&keeps_all, true);
    atomic_store(&kept, n);
    pthread_mutex_unlock(&lock);
}

static bool is_kept(void *memory)
{
    if (!memory || atomic_load_explicit(&kept, memory_order_relaxed) == 0) return false;
    uintptr_t begin = (uintptr_t)memory, end = begin + malloc_usable_size(memory);
    bool found = atomic_load(&keeps_all);
    if (!found && (end <= atomic_load(&lowest) || begin >= atomic_load(&highest))) return false;
    pthread_mutex_lock(&lock);
    for (size_t k = 0; k < atomic_load(&kept) && !found; k++)
        found = spans[k].begin < end && begin < spans[k].end;
    pthread_mutex_unlock(&lock);
    return found;
}

void *td_realloc(void *old, size_t bytes)
{
    if (refuse()) return NULL;
    if (!is_kept(old)) return realloc(old, bytes ? bytes : 1);
    size_t had = malloc_usable_size(old);
    void *moved = malloc(bytes ? bytes : 1);
    if (moved) memcpy(moved, old, had < bytes ? had : bytes);
    return moved;
}

void *td_reallocarray(void *old, size_t count, size_t bytes)
{
    size_t total;
    return td_mul(count, bytes, &total) ? td_realloc(old, total) : NULL;
}

void *td_alloc_aligned(size_t bytes)
{
    size_t rounded;
    if (!td_add(bytes, 63, &rounded) || refuse()) return NULL;
    rounded &= ~(size_t)63;
    if (rounded < HUGE_LEAST) return aligned_alloc(64, rounded ? rounded : 64);
    void *memory = NULL;
    if (posix_memalign(&memory, HUGE_PAGE, rounded) != 0) return NULL;
    madvise(memory, rounded & ~(size_t)(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return memory;
}

char *td_strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = td_malloc(bytes);
    if (copy) memcpy(copy, text, bytes);
    return copy;
}

void td_free(void *memory)
{
    if (!is_kept(memory)) free(memory);
}
