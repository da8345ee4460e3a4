/* Training-data servers: ranks that read samples and batch them for the workers.
 *
 * In step, each worker gets its leaves of every step, and those of the next are read while it
 * computes: which samples they are does not depend on who reads them, and nothing is dealt out.
 *
 *   ask     note: step, leaves      answer: bytes
 *   fetch   key: step, as below
 *
 * At their own pace, each of an epoch's steps is cut into shards: its leaves, among as many workers
 * as the run began with. A worker leases the next one, gets its samples, learns from them, and says
 * that it is done when it asks for the next: so fast workers get more. Each names the step up to
 * which shards are dealt out, which is where all meet: what is learnt from by then are the samples
 * of the steps before it, whoever had them, and a run can go on from there, with any number of
 * workers.
 *
 * A dead worker's lease is dealt out again, and as its push may have reached some servers, it is
 * made again under the dead one's name and clock: whatever slice has it already leaves it out
 * (store.h). Who takes the dead one's place begins behind that. What a dead data server knew, the
 * others know from the workers, and what a dead worker had learnt from, its data servers; each
 * group that follows another begins by telling all. So a shard is learnt from once an epoch, which
 * counts prove, unless a worker and a data server die at once: what the one had done of the other's
 * shards nobody knows then, they are dealt out again, and the run says that it does not know.
 *
 *   lease   note: worker, epoch, up to where,     answer: shard, bytes; whose push is to be made
 *           what is done                          again; or that none is left, or to wait
 *   fetch   key: shard, `bytes` to be filled      rows u64, entries u64, then the arrays of
 *                                                 rows_batch.h
 *
 * Source: parameter servers' "workload pool" (Li et al., OSDI 2014, section 4). */
#ifndef TD_TRAIN_ROWS_FEED_H
#define TD_TRAIN_ROWS_FEED_H

#include "tandem/keyed.h"
#include "train/rows_batch.h"

typedef struct td_feed td_feed;

typedef struct td_feed_config {
    const td_features *features; /* NULL: samples are dense */
    const td_dataset *data;
    const td_normalise *normalise; /* of dense ones */
    bool in_step;
    td_shard_plan plan; /* of the run */
    int parts;          /* not in step: shards of a step, up to plan.leaves; 0: 1 */
    size_t numbers;
    int worker; /* this rank's number among the workers, -1: none */
    int workers;
    const int *worker_rank; /* [workers] -1: gone for good; borrowed while it opens */
    bool by_name; /* pushes can be made under a dead worker's name; else its shards begin anew */
    const int *server; /* [server_count] ranks; borrowed while it opens */
    int server_count;
} td_feed_config;

/* Collective. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_feed_open(td_comm *comm, const td_feed_config *config, td_feed **out);
/* What its ranks do in its channel is recorded where that group's operations are. */
void td_feed_record(td_feed *feed, const td_comm *comm);
void td_feed_close(td_feed *feed); /* NULL is fine */

/* In step, a worker: leaves [leaf_begin, leaf_end) of a step of the run, cut into units; ahead:
 * those of the next step will be asked for, too. No leaves: an empty batch, and nobody is asked. */
TD_MUST_CHECK td_status td_feed_leaves(td_feed *feed, uint64_t step, int leaf_begin, int leaf_end,
                                       bool ahead, const td_rows_shape *shape,
                                       td_rows_batch *batch);

typedef struct td_feed_lease {
    bool none; /* all shards that are to be dealt out are done */
    bool wait; /* others have those that are not, which may come back: ask again */
    bool owed; /* the push is one that another began: of worker `worker` at `clock` */
    int worker;
    uint64_t clock;
} td_feed_lease;

/* A worker: the next shard of the epoch, before step `end` of the run, to `batch` (its units still
 * to be cut: td_rows_batch_index). `clock`: of the step that it will be. */
TD_MUST_CHECK td_status td_feed_next(td_feed *feed, uint64_t epoch, uint64_t end, uint64_t clock,
                                     td_rows_batch *batch, td_feed_lease *out);
/* The shard is learnt from: its push has been acknowledged. Its server hears of it with the next
 * question, or when it is told now, by a worker that asks for no more. */
void td_feed_done(td_feed *feed, const td_rows_batch *batch);
TD_MUST_CHECK td_status td_feed_tell(td_feed *feed);
/* All samples before that step of the run are learnt from. Local, at all ranks, while nobody asks.
 */
void td_feed_start_at(td_feed *feed, uint64_t step);
/* The first step of the run, from the epoch's first on, behind all shards of it that are dealt out,
 * as far as this rank knows: the highest of all ranks' is that of the run. Local, while nobody
 * asks. */
uint64_t td_feed_reach(const td_feed *feed, uint64_t epoch);

/* The shard is given back: its step has come to nothing. NULL is fine. */
void td_feed_give_back(td_feed *feed);

/* In another group, from what is known there of the epoch under way. Collective. */
TD_MUST_CHECK td_status td_feed_move(td_feed *feed, td_comm *comm, const td_feed_config *config,
                                     td_feed **out);
/* The clock at which a worker's own pushes may begin: behind those that are owed under its name. */
uint64_t td_feed_names(const td_feed *feed, int worker);

/* A count and a checksum of that epoch's samples, as all ranks have learnt from them, the dead too;
 * *known: false: some that died may have learnt from more. Collective. */
TD_MUST_CHECK td_status td_feed_learnt(const td_feed *feed, td_comm *comm, uint64_t epoch,
                                       uint64_t *samples, uint64_t *marks, bool *known);

/* What a sample adds to an epoch's checksum. */
static inline uint64_t td_feed_mark(uint64_t sample)
{
    sample = (sample + 0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9; /* splitmix64's */
    sample = (sample ^ sample >> 27) * 0x94d049bb133111eb;
    return sample ^ sample >> 31;
}

#endif
