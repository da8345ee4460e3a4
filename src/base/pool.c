/* See pool.h. One generation counter starts a run, one counter ends it; both are waited for by a
 * short spin (only where every lane has a core of its own) and then under the lock. */
#include "base/pool.h"

#include "base/alloc.h"
#include "base/error.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <unistd.h>

enum { SPINS = 4000, SENTENCE = 1024 };

typedef struct lane_state {
    td_pool *pool;
    int lane;
    pthread_t thread;
    td_status status;
    char sentence[SENTENCE];
} lane_state;

struct td_pool {
    int lanes;
    int spins;
    td_pool_fn *work; /* of the current generation; written before `generation` */
    void *arg;
    atomic_uint generation;
    atomic_int running; /* helper lanes still in this generation */
    atomic_bool closing;
    pthread_mutex_t lock; /* guards the two conditions only */
    pthread_cond_t begin;
    pthread_cond_t end;
    lane_state *state; /* [lanes], 0 unused */
    int started;       /* helper threads that exist */
};

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static unsigned await_generation(td_pool *pool, unsigned seen)
{
    for (int i = 0; i < pool->spins; i++) {
        unsigned now = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (now != seen) return now;
        relax();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->begin, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    return atomic_load(&pool->generation);
}

static void *lane_main(void *arg)
{
    lane_state *self = arg;
    td_pool *pool = self->pool;
    unsigned seen = 0;
    for (;;) {
        seen = await_generation(pool, seen);
        if (atomic_load(&pool->closing)) return NULL;
        self->status = pool->work(pool->arg, self->lane);
        if (self->status != TD_OK)
            snprintf(self->sentence, sizeof self->sentence, "%s", td_last_error());
        if (atomic_fetch_sub(&pool->running, 1) == 1) {
            pthread_mutex_lock(&pool->lock);
            pthread_cond_signal(&pool->end);
            pthread_mutex_unlock(&pool->lock);
        }
    }
}

static void start_generation(td_pool *pool)
{
    pthread_mutex_lock(&pool->lock);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
}

td_status td_pool_create(int lanes, td_pool **out)
{
    if (lanes < 1 || lanes > 1024)
        return td_fail(TD_ERR_ARG, "a pool has 1 to 1024 threads, not %d", lanes);
    td_pool *pool = td_calloc(1, sizeof *pool);
    lane_state *state = td_calloc((size_t)lanes, sizeof *state);
    if (!pool || !state) {
        td_free(pool);
        td_free(state);
        return td_fail(TD_ERR_NOMEM, "no memory for a pool of %d threads", lanes);
    }
    pool->lanes = lanes;
    pool->spins = sysconf(_SC_NPROCESSORS_ONLN) >= lanes ? SPINS : 0;
    pool->state = state;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    for (int lane = 1; lane < lanes; lane++) {
        state[lane] = (lane_state){.pool = pool, .lane = lane};
        if (pthread_create(&state[lane].thread, NULL, lane_main, &state[lane]) != 0) {
            td_pool_destroy(pool);
            return td_fail(TD_ERR_NOMEM, "thread %d of %d could not be started", lane, lanes);
        }
        pool->started++;
    }
    *out = pool;
    return TD_OK;
}

void td_pool_destroy(td_pool *pool)
{
    if (!pool) return;
    atomic_store(&pool->closing, true);
    start_generation(pool);
    for (int lane = 1; lane <= pool->started; lane++) pthread_join(pool->state[lane].thread, NULL);
    pthread_cond_destroy(&pool->end);
    pthread_cond_destroy(&pool->begin);
    pthread_mutex_destroy(&pool->lock);
    td_free(pool->state);
    td_free(pool);
}

int td_pool_lanes(const td_pool *pool)
{
    return pool->lanes;
}

td_status td_pool_run(td_pool *pool, td_pool_fn *work, void *arg)
{
    if (pool->lanes == 1) return work(arg, 0);
    pool->work = work;
    pool->arg = arg;
    atomic_store(&pool->running, pool->lanes - 1);
    start_generation(pool);
    td_status status = work(arg, 0);
    for (int i = 0; i < pool->spins && atomic_load(&pool->running) > 0; i++) relax();
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->running) > 0) pthread_cond_wait(&pool->end, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
    if (status != TD_OK) return status;
    for (int lane = 1; lane < pool->lanes; lane++)
        if (pool->state[lane].status != TD_OK)
            return td_fail_again(pool->state[lane].status, pool->state[lane].sentence);
    return TD_OK;
}

td_status td_pool_run_if(td_pool *pool, bool shared, td_pool_fn *work, void *arg)
{
    if (shared) return td_pool_run(pool, work, arg);
    for (int lane = 0; lane < pool->lanes; lane++) TD_TRY(work(arg, lane));
    return TD_OK;
}
