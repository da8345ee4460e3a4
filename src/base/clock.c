#include "base/clock.h"

#include <time.h>

static int64_t ns_of(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int64_t td_clock_ns(void)
{
    return ns_of(CLOCK_MONOTONIC);
}

int64_t td_clock_thread_ns(void)
{
    return ns_of(CLOCK_THREAD_CPUTIME_ID);
}
