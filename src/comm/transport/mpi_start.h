/* While MPI starts, its ranks wait for each other inside the library, without a deadline and deaf
 * to the death of one of them. A thread looks meanwhile, and ends this process when the wait has
 * become longer than the deadline (a minute, where that is shorter: MPI itself takes its time), or
 * another process of the job on this host has gone. */
#ifndef TD_COMM_TRANSPORT_MPI_START_H
#define TD_COMM_TRANSPORT_MPI_START_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct td_start {
    int64_t begin_ns, deadline_ms;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t ended;
    bool over, watched; /* over: guarded by lock */
} td_start;

/* Where the thread cannot be had nothing is watched. */
void td_start_begin(td_start *start, int64_t deadline_ms);
void td_start_end(td_start *start);

#endif
