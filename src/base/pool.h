/* A pool of threads that run the same function at once, each with its own lane number.
 *
 * Invariant: the caller is lane 0, so a pool of one lane owns no thread and costs nothing. Between
 * runs the threads spin briefly, then sleep. */
#ifndef TD_BASE_POOL_H
#define TD_BASE_POOL_H

#include "tandem/status.h"

#include <stdbool.h>

typedef struct td_pool td_pool;

/* lanes in 1..1024. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_pool_create(int lanes, td_pool **out);
void td_pool_destroy(td_pool *pool); /* NULL is fine */
int td_pool_lanes(const td_pool *pool);

/* Calls work(arg, lane) for every lane and returns when all are done: the status (with its
 * sentence) of the lowest failing lane. Allocates nothing. Not reentrant; one caller at a time. */
typedef td_status td_pool_fn(void *arg, int lane);
TD_MUST_CHECK td_status td_pool_run(td_pool *pool, td_pool_fn *work, void *arg);
/* The same lane by lane in the caller, for work that is not worth a thread's wake (some
 * microseconds); `shared`: it is. */
TD_MUST_CHECK td_status td_pool_run_if(td_pool *pool, bool shared, td_pool_fn *work, void *arg);

#endif
