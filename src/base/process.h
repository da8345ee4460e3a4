/* What the system says of processes. */
#ifndef TD_BASE_PROCESS_H
#define TD_BASE_PROCESS_H

#include <stdbool.h>
#include <stdint.h>

/* The letter of proc(5): R, S and D go on, T and t are stopped, Z and X have ended; 0: there is no
 * such process, or the system does not tell. */
char td_process_state(int64_t pid);

static inline bool td_process_is_stopped(int64_t pid)
{
    char state = td_process_state(pid);
    return state == 'T' || state == 't';
}

/* It runs no more, though its parent may not have heard of it. */
bool td_process_has_ended(int64_t pid);

#endif
