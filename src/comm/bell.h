/* A bell that ranks sleep by, in memory that they share (threads or processes of a host).
 *
 * Whoever waits for shared state to change listens, looks at the state once more, and sleeps;
 * whoever has changed it rings. No ring is lost: the listener has been counted before it looks, and
 * the ringer's change is seen by all before it looks for listeners, so one of the two sees the
 * other; and the ringer raises the bell's number, which the listener has noted before it looked,
 * before it wakes those who sleep on it. Where nobody sleeps a ring writes nothing that is shared.
 *
 * Source: Drepper, "Futexes are tricky", 2011. */
#ifndef TD_COMM_BELL_H
#define TD_COMM_BELL_H

#include <linux/futex.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

typedef struct td_bell {
    uint32_t number, listeners; /* both atomic */
} td_bell;

/* Between two looks at shared state. */
static inline void td_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static inline void td_bell_ring(td_bell *bell)
{
#ifdef __SANITIZE_THREAD__ /* which knows no fences */
    __atomic_add_fetch(&bell->listeners, 0, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
    if (!__atomic_load_n(&bell->listeners, __ATOMIC_SEQ_CST)) return;
    __atomic_add_fetch(&bell->number, 1, __ATOMIC_SEQ_CST);
    syscall(SYS_futex, &bell->number, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static inline uint32_t td_bell_listen(td_bell *bell)
{
    __atomic_add_fetch(&bell->listeners, 1, __ATOMIC_SEQ_CST);
    return __atomic_load_n(&bell->number, __ATOMIC_SEQ_CST);
}

/* Until a ring after the listen that gave `number`, or for `ns` (below a second). */
static inline void td_bell_sleep(td_bell *bell, uint32_t number, long ns)
{
    struct timespec most = {.tv_nsec = ns};
    syscall(SYS_futex, &bell->number, FUTEX_WAIT, number, &most, NULL, 0);
}

static inline void td_bell_leave(td_bell *bell)
{
    __atomic_sub_fetch(&bell->listeners, 1, __ATOMIC_SEQ_CST);
}

#endif
