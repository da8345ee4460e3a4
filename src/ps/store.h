/* A server's side of a table that workers push to and pull from at their own pace: rows, clocks,
 * and which pushes have been applied. Knows nothing of messages: sharded.c carries requests here.
 *
 * Exactly once: a worker's push is named by its clock, and each slice remembers the newest that it
 * has of each worker. So a push that is repeated, because its answer was lost with a server, moves
 * just the slices that lack it; slices carry that memory with them when they move.
 *
 * A slice that is still to come, as a copy of its primary's, has its pushes set aside until it is
 * there: it brings that memory, which tells those that it has from those that it has not. */
#ifndef TD_PS_STORE_H
#define TD_PS_STORE_H

#include "ps/clock.h"
#include "ps/servers.h"

typedef struct td_store_config {
    td_clock clock;
    int workers;
    size_t width;         /* of the table */
    bool by_staleness;    /* the rate of a push is divided by its staleness (Zhang et al.,
                             "Staleness-aware async-SGD", IJCAI 2016) */
    uint64_t evict_after; /* steps after which rows that nobody uses are forgotten; 0: never */
    float compensation; /* lambda of delay compensation (Zheng et al., "Asynchronous SGD with delay
                           compensation", ICML 2017, equation 10): a push brings the rows that its
                           gradients were computed at, too; 0: none */
} td_store_config;

typedef struct td_store_chosen {
    uint64_t clock; /* of the push, + 1; 0: none */
    float factor;
} td_store_chosen;

typedef struct td_aside td_aside; /* a push's keys of a slice that is to come */

typedef struct td_store {
    td_store_config config;
    td_table *table; /* NULL: this rank is no server */
    td_clocks clocks;
    uint64_t *newest;         /* [TD_SLICES][workers] pushes that the slice has of each worker */
    td_store_chosen *chosen;  /* [workers] for the newest push: what is made again has it, too */
    uint64_t pushes, dropped; /* applied, of all workers; late ones that were not */
    td_staleness reads,
        writes;             /* clocks behind of rows pulled; of pushes, others' since their rows */
    double load[TD_SLICES]; /* an eighth of the rows asked for, of late */
    uint64_t turn;          /* pulls */
    bool stops;             /* a worker has asked all to stop: no pull waits any more */
    float *scratch;         /* [scratch_room] compensated gradients */
    uint64_t *some_keys;    /* [keys_room] of a push that is applied in part */
    size_t scratch_room, keys_room;
    bool comes[TD_SLICES]; /* slices that are to come, `coming` of them, */
    int coming;
    td_aside *aside[TD_SLICES], *aside_last[TD_SLICES]; /* pushes to each, as they came, */
    size_t aside_bytes;                                 /* which take so much memory */
} td_store;

/* TD_ERR_NOMEM. The table is taken. */
TD_MUST_CHECK td_status td_store_init(td_store *store, const td_store_config *config,
                                      td_table *table);
void td_store_fini(td_store *store); /* zeroed is fine */

bool td_store_may_pull(const td_store *store, int worker, uint64_t clock);
/* places: as td_table_pull_at has them. */
TD_MUST_CHECK td_status td_store_pull(td_store *store, const td_slices *slices, uint64_t clock,
                                      const uint64_t *keys, const uint32_t *places, size_t count,
                                      float *out);

typedef struct td_store_push {
    int worker;
    uint64_t clock; /* the step's, from 0 */
    bool ticks;     /* at the slices' primary: the worker's clock goes on */
    float scale, rate, decay;
    const uint64_t *keys;
    size_t count;
    const float *values;    /* [count][width] gradients; compensated: [count][2][width] with rows */
    const uint32_t *places; /* as td_table_push_at has them; compensated: NULL */
    bool again;             /* sent before: clocks may count it already, so it is not late */
    uint64_t read;          /* td_clocks_others of its rows, in the mean; TD_STORE_UNREAD: none */
    double seconds;         /* it took, as td_clocks_push has it */
    float factor; /* of the rate, by_staleness, as another server has chosen it; 0: to be chosen */
} td_store_push;
#define TD_STORE_UNREAD UINT64_MAX

typedef struct td_store_taken {
    bool applied; /* false: it came too late, and was dropped */
    float factor; /* of the rate, by_staleness */
} td_store_taken;

/* All workers have pushed so often: steps from there on are new, also where a worker had gone on
 * beyond. */
void td_store_start_at(td_store *store, uint64_t clock);
/* The same of other workers, so many: what each slice had of the former ones is behind that clock.
 * TD_ERR_NOMEM, TD_ERR_ARG: nothing has changed. */
TD_MUST_CHECK td_status td_store_renumber(td_store *store, int workers, uint64_t clock);
/* These slices are to come: pushes to them, as to backups, are set aside. Nothing comes any more:
 * what was set aside goes. */
void td_store_expect(td_store *store, const bool comes[TD_SLICES]);
void td_store_expect_none(td_store *store);
/* A slice's rows are in the table; had [workers]: the pushes that they have, as `newest`. Those
 * that were set aside move them. */
TD_MUST_CHECK td_status td_store_arrived(td_store *store, const td_slices *slices, int slice,
                                         const uint64_t *had);
TD_MUST_CHECK td_status td_store_take_push(td_store *store, const td_slices *slices,
                                           const td_store_push *push, td_store_taken *out);

#endif
