/* See alloc.h. The injection counter is one relaxed atomic; when off it costs one add. */
#include "base/alloc.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE = 2 << 20, HUGE_LEAST = 2 * HUGE_PAGE };

static atomic_size_t asked;   /* since the last td_alloc_fail_at */
static atomic_size_t fail_at; /* 0: off */

static bool refuse(void)
{
    size_t at = atomic_fetch_add_explicit(&asked, 1, memory_order_relaxed) + 1;
    return at == atomic_load_explicit(&fail_at, memory_order_relaxed);
}

void td_alloc_fail_at(size_t k)
{
    atomic_store(&asked, 0);
    atomic_store(&fail_at, k);
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

void *td_realloc(void *old, size_t bytes)
{
    return refuse() ? NULL : realloc(old, bytes ? bytes : 1);
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
    free(memory);
}
