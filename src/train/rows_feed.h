/* Training-data servers: ranks that read samples and batch them for the workers.
 *
 * An epoch's order is cut into shards. A worker leases the next one, gets its samples as entries,
 * learns from them, and says that it is done when it asks for the next: so fast workers get more. A
 * dead worker's leases are dealt out again; what a dead data server knew, the others know from the
 * workers. So a shard is learnt from once an epoch, but for one whose worker died between its last
 * push and the word of it.
 *
 *   lease   note: worker, epoch, what is done     answer: shard, bytes; or that none is left, or to
 * wait fetch   key: shard, `bytes` to be filled      rows u64, entries u64, then the arrays of
 * rows_batch.h
 *
 * Source: parameter servers' "workload pool" (Li et al., OSDI 2014, section 4). */
#ifndef TD_TRAIN_ROWS_FEED_H
#define TD_TRAIN_ROWS_FEED_H

#include "tandem/keyed.h"
#include "train/rows_batch.h"

typedef struct td_feed td_feed;

typedef struct td_feed_config {
    const td_features *features;
    const td_dataset *data;
    td_shard_plan plan; /* batch: rows of a shard; leaves 1 */
    size_t numbers;
    int worker; /* this rank's number among the workers, -1: none */
    int workers;
    const int *server; /* [server_count] ranks; borrowed while it opens */
    int server_count;
} td_feed_config;

/* Collective. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_feed_open(td_comm *comm, const td_feed_config *config, td_feed **out);
void td_feed_close(td_feed *feed); /* NULL is fine */

/* A worker: the next shard to `batch` (its units still to be cut: td_rows_batch_index), or *none:
 * none of the epoch's is free. Who holds one may wait, with it, for the clocks of those who hold
 * none: so they wait for none here, but retire. What a dead worker held is free in the next group.
 * `clock`: of the step that it will be. */
TD_MUST_CHECK td_status td_feed_next(td_feed *feed, uint64_t epoch, uint64_t clock,
                                     td_rows_batch *batch, bool *none);
/* The shard is learnt from: its push has been acknowledged. */
void td_feed_done(td_feed *feed);

/* The shard is given back: its step has come to nothing. NULL is fine. */
void td_feed_give_back(td_feed *feed);

/* In another group, from what is known there of the epoch under way. pushed: [workers] steps of
 * each that servers have; gone: [workers] whose rank is another now. Collective. */
TD_MUST_CHECK td_status td_feed_move(td_feed *feed, td_comm *comm, const td_feed_config *config,
                                     const uint64_t *pushed, const bool *gone, td_feed **out);

/* What a sample adds to an epoch's checksum. */
static inline uint64_t td_feed_mark(uint64_t sample)
{
    sample = (sample + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9; /* splitmix64's */
    sample = (sample ^ sample >> 27) * 0x94d049bb133111eb;
    return sample ^ sample >> 31;
}

#endif
