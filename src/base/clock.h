/* Time. Monotonic: never steps back, unrelated to the calendar. */
#ifndef TD_BASE_CLOCK_H
#define TD_BASE_CLOCK_H

#include <stdint.h>

int64_t td_clock_ns(void);
/* Processor time of the calling thread: what it computed, without what others held it up. */
int64_t td_clock_thread_ns(void);
static inline double td_seconds(int64_t ns)
{
    return (double)ns * 1e-9;
}

#endif
