/* A table over the servers of a group, used by each worker at its own pace: a worker pulls rows,
 * computes, and pushes its step's gradients, which move their rows when they arrive; how far
 * workers may drift apart is the clock's matter (clock.h). Servers serve beside what their rank
 * does (tandem/keyed.h), so a rank may be both.
 *
 * Source: Dean et al., "Large scale distributed deep networks", NIPS 2012, section 4; Li et al.,
 * "Scaling distributed machine learning with the parameter server", OSDI 2014.
 *
 * Under a clock with a bound a worker keeps the rows that it has pulled and reads them again while
 * they are fresh enough; a push brings its rows back, as they then are, so that a worker always
 * sees its own pushes.
 *
 * With a replica a push goes to both servers of a slice, and has been acknowledged when both have
 * it: whatever was acknowledged survives one of them. What was not is pushed again, and applied
 * where it is missing (store.h). */
#ifndef TD_PS_SHARDED_H
#define TD_PS_SHARDED_H

#include "ps/clock.h"
#include "ps/servers.h"

/* A function of the user's on a row [td_table_row_floats]: its weights, then each state of the
 * rule, to be changed. Servers call it for td_sharded_apply, one row at a time, perhaps in a thread
 * other than their rank's; it may not ask the table for anything. */
enum { TD_SHARDED_ARGUMENT = 32 };
typedef td_status td_sharded_fn(void *user, const void *argument, uint64_t key, float *row);
typedef struct td_sharded_function {
    td_sharded_fn *fn;
    void *user;
} td_sharded_function;

typedef struct td_sharded_config {
    td_table_config table; /* the same at all ranks; its strings and spans are borrowed */
    td_servers servers;
    const int *worker; /* [worker_count] ranks that push; NULL: all. Borrowed while it opens */
    int worker_count;
    td_clock clock;
    bool by_staleness;    /* see store.h, as the next */
    float compensation;   /* 0: none */
    uint64_t evict_after; /* see store.h */
    size_t cache_rows;    /* a worker keeps, where the clock has a bound; 0: 65536 */
    const td_sharded_function *functions; /* [function_count] the same at all ranks; read while it
                                             opens */
    int function_count;
} td_sharded_config;

typedef struct td_sharded td_sharded;

/* Collective. What td_table_create and td_keyed_open fail with; TD_ERR_ARG at all ranks where
 * tables or clocks differ. */
TD_MUST_CHECK td_status td_sharded_open(td_comm *comm, const td_sharded_config *config,
                                        td_sharded **out);

/* This rank's number among the workers, -1: none; and how many steps it has pushed. */
int td_sharded_worker(const td_sharded *sharded);
uint64_t td_sharded_clock(const td_sharded *sharded);

/* Rows of `count` keys, which may repeat, to out [count][width], as this worker's clock allows;
 * ranks that are no worker get what there is. Not collective, as the next four. */
TD_MUST_CHECK td_status td_sharded_pull(td_sharded *sharded, const uint64_t *keys, size_t count,
                                        float *out);
/* The same in two halves, for the next batch's rows to come while this one is computed with:
 * `ahead` steps from now (1 where td_clock_may_run_ahead, else 0) they will be read; below 0: for a
 * step so far behind that is made again. `out` may not be used, and no other fetch begun, until the
 * wait. Keys each once, borrowed until the wait. */
TD_MUST_CHECK td_status td_sharded_fetch(td_sharded *sharded, const uint64_t *keys, size_t count,
                                         int ahead, float *out);
TD_MUST_CHECK td_status td_sharded_fetched(td_sharded *sharded);

/* As a pull by a rank that is no worker, of keys that may repeat: what there is, and no row is
 * made. */
TD_MUST_CHECK td_status td_sharded_look(td_sharded *sharded, const uint64_t *keys, size_t count,
                                        float *out);
/* This worker goes on at that clock, which is not below its own: it leaves steps out. */
void td_sharded_skip_to(td_sharded *sharded, uint64_t clock);

/* What this worker keeps of rows it fetches anew: servers' rows have been changed otherwise. */
void td_sharded_forget(td_sharded *sharded);

/* A worker's step. */
typedef struct td_sharded_step {
    const uint64_t *keys; /* [count] each once */
    size_t count;
    const float *gradients; /* [count][width] */
    const float *rows;      /* the same: what they were computed at, for compensation; else NULL */
    float scale, rate;      /* moves rows by gradient * scale, at the table's rate times `rate`; */
    float decay;            /* by the table's weight decay times this */
    /* The step that a worker which has died pushed at its clock `clock`, perhaps to some servers
     * only, is made again in its name, with the same keys: slices that have it leave it out. This
     * worker's own clock stays. */
    bool again;
    int worker;
    uint64_t clock;
} td_sharded_step;
/* Returns when all servers concerned have it. The worker's clock goes on by one, or, where the
 * others have not waited for it, to theirs. After TD_ERR_PEER or TD_ERR_TIMEOUT the step is kept,
 * to be made again by td_sharded_move, which is when the clock goes on. */
TD_MUST_CHECK td_status td_sharded_push(td_sharded *sharded, const td_sharded_step *step);
/* The same with keys that may repeat: gradients of one are added up. Scale and rate 1. */
TD_MUST_CHECK td_status td_sharded_push_all(td_sharded *sharded, const uint64_t *keys, size_t count,
                                            const float *gradients);

/* Calls `each` with the weights [width] of the rows of keys first to last, both among them, in
 * ascending order, each key once, wherever its row lies; ends with what `each` fails with. Any rank
 * may ask, whatever the clocks; a fetch that it has begun goes first. Not collective.
 *
 * Every push that was acknowledged before the call is in what it gives. A row is whole, as it was
 * at one moment of the call; of pushes made meanwhile some rows may have their part and others not,
 * and a row that is made or forgotten meanwhile may come or not.
 *
 * Cost: a server walks through its index 16 times, each time for a 16th of its keys, and serves
 * nobody else meanwhile; it sorts 16 bytes a key of these, and they are in memory here. Rows come
 * by 4096 (wide ones: by 1 MiB) by their keys, which go to the server and back: 24 bytes a row
 * besides its weights.
 * TD_ERR_NOMEM, and what td_keyed_wait fails with. */
TD_MUST_CHECK td_status td_sharded_range(td_sharded *sharded, uint64_t first, uint64_t last,
                                         td_table_each_fn *each, void *arg);

/* Servers call the function of that number with the rows of `count` keys, in the order of the keys
 * at each server, as often as a key is there; rows are made as by a push. argument: up to
 * TD_SHARDED_ARGUMENT bytes, which it gets with zeros behind them, 8-byte aligned. Any rank may
 * ask, whatever the clocks. Not collective; returns when all servers concerned are done.
 *
 * With a replica, behind a move, it waits until all slices are copied. Both servers of a row call
 * it: it must do the same at both, from its arguments and the row alone. Where others push to the
 * same rows meanwhile, the two may have it and a push in different order. Workers that keep rows
 * read them as they were until they fetch them again; this rank forgets those it keeps.
 *
 * What fn fails with: rows before that one have been changed. After TD_ERR_PEER or TD_ERR_TIMEOUT
 * it has been called for some rows perhaps, at one server or both, and is not called again: only
 * pushes are made exactly once. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_sharded_apply(td_sharded *sharded, int number, const uint64_t *keys,
                                         size_t count, const void *argument, size_t argument_bytes);

/* All workers have pushed so often, now. Local, at all ranks, behind a meet and while nobody pulls
 * or pushes. */
void td_sharded_start_at(td_sharded *sharded, uint64_t clock);
/* This worker pushes no more: nobody waits for it, until it pulls again or the clocks start
 * again. */
TD_MUST_CHECK td_status td_sharded_retire(td_sharded *sharded);
/* Asks all workers to stop at their next step: their pulls wait no more, so that all can come to
 * the same clock. For good, as for this table. */
TD_MUST_CHECK td_status td_sharded_stop(td_sharded *sharded);
/* Whether one has, as servers have told this rank. */
bool td_sharded_stops(const td_sharded *sharded);

/* What there was to see: of this rank's reads, and of its server. */
typedef struct td_sharded_stats {
    td_staleness reads, writes;
    uint64_t cached;          /* rows read from what was kept */
    uint64_t asked;           /* rows that servers were asked for */
    uint64_t pushes, dropped; /* that this server applied, or dropped as late */
} td_sharded_stats;
void td_sharded_stats_of(const td_sharded *sharded, td_sharded_stats *out);

/* This rank's own rows; NULL: it is no server. Only behind a meet, while nobody pulls or pushes:
 * before, rows may still be copied here. */
td_table *td_sharded_table(td_sharded *sharded);
const td_place *td_sharded_place(const td_sharded *sharded); /* borrowed */
/* What this rank does in the table's own groups is recorded where its group's operations are, if a
 * record has begun since the table was opened. */
void td_sharded_record(td_sharded *sharded);
/* All ranks' pulls and pushes so far are done behind it, and slices that were copied anew are at
 * both their servers, in their roles of the end. Waits for the others however long they take.
 * Collective. What copying has failed with anywhere. */
TD_MUST_CHECK td_status td_sharded_meet(td_sharded *sharded);
/* All have heard of the stop, and what they do yet goes by the clock again. Local, at all ranks,
 * behind a meet and what they have agreed on there. */
void td_sharded_end_stop(td_sharded *sharded);
/* Finds the hot server, by what has been asked for since the last call; move: gives slices of hot
 * ones away. Collective, behind a meet. */
TD_MUST_CHECK td_status td_sharded_balance(td_sharded *sharded, bool move, td_balanced *out);
/* Collective: all pushes of all ranks are done behind it; nothing can be asked for any more. */
TD_MUST_CHECK td_status td_sharded_finish(td_sharded *sharded);
void td_sharded_destroy(td_sharded *sharded);

/* --- in another group, when ranks have died or come (tandem/recover.h) --- */

/* The table of a rank that comes into a run under way: fit only to be moved. Local. */
TD_MUST_CHECK td_status td_sharded_join(const td_sharded_config *config, td_sharded **out);
/* Other workers from now on, so many: all have pushed `clock` times, and none has a push under way,
 * nor any other request. Local, at all ranks that are in the group by then, ahead of a move that
 * says which ranks they are. TD_ERR_NOMEM: fit to be destroyed. */
TD_MUST_CHECK td_status td_sharded_renumber(td_sharded *sharded, int workers, uint64_t clock);
/* Goes on in the group. worker: [worker_count] its rank that is each worker now, -1: that one has
 * gone for good. Workers' clocks stay; one that has joined goes on at its predecessor's. A push
 * that was not acknowledged is made again. Collective. *lost: TD_ERR_PEER because some rows are at
 * no rank that is left. After another failure: fit to be moved again or destroyed. */
TD_MUST_CHECK td_status td_sharded_move(td_sharded *sharded, td_comm *comm,
                                        const td_servers *servers, const int *worker, bool joined,
                                        bool *lost);

#endif
