/* Heap memory: every allocation of the library passes here, so that a test can make the k-th one
 * fail and see that nothing leaks and nothing half-built stays behind. */
#ifndef TD_BASE_ALLOC_H
#define TD_BASE_ALLOC_H

#include <stdbool.h>
#include <stddef.h>

/* NULL when out of memory. Sizes of 0 give a valid pointer. */
void *td_malloc(size_t bytes) __attribute__((malloc));
void *td_calloc(size_t count, size_t bytes) __attribute__((malloc)); /* checks the product */
void *td_realloc(void *old, size_t bytes);
void *td_reallocarray(void *old, size_t count, size_t bytes); /* checks the product */
/* 64-byte aligned, size rounded up to 64, not cleared; free with td_free. From 4 MiB on it lies on
 * huge pages where the kernel has them: a first touch of 4 KiB pages costs a sixth of reading a
 * file. */
void *td_alloc_aligned(size_t bytes) __attribute__((malloc));
char *td_strdup(const char *text);
void td_free(void *memory); /* NULL is fine */

/* [at, at + bytes) may be written, or read, by what cannot be stopped (a message that could not be
 * withdrawn), for as long as the process lives. The allocation that it lies in, if it lies in one,
 * is kept on purpose when it is freed, or moved. */
void td_alloc_keep(const void *at, size_t bytes);

/* Makes the k-th allocation of any thread from now on (k >= 1), and only that one, fail; 0 turns
 * injection off. For tests. */
void td_alloc_fail_at(size_t k);
/* Allocations asked for since td_alloc_fail_at was last called with any value; 0 before its first
 * call. */
size_t td_alloc_count(void);

/* *out = a * b (a + b); false on overflow, with *out untouched. */
static inline bool td_mul(size_t a, size_t b, size_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool td_add(size_t a, size_t b, size_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

#endif
