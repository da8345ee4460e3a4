/* Checkpoints written behind the steps: a step is held up by a copy alone.
 *
 * Each rank copies its part of the state (layout.h) into memory of its own, and a thread of its own
 * writes it. When all ranks' parts are there, which they tell each other along with a step's
 * gradient (strategy.h: `writing`), they exchange the files' checksums, and rank 0's thread writes
 * the manifest and gives the checkpoint its name. At most one is under way.
 *
 * A checkpoint that cannot be written leaves the older ones whole and the run alive: rank 0 warns,
 * at most once a minute. Threads never speak to other ranks. Costs: memory for a rank's part of the
 * state, two short collectives a checkpoint, no allocation in a step. */
#ifndef TD_TRAIN_SAVER_H
#define TD_TRAIN_SAVER_H

#include "tandem/comm.h"
#include "train/checkpoint.h"

typedef struct td_saver td_saver;

/* All is borrowed; best: [params] or NULL. Not collective. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_saver_create(td_comm *comm, const td_job *job, const td_task *task,
                                        td_shards *shards, float *best, td_saver **out);
/* Waits for what this rank writes; a checkpoint under way is given up. NULL is fine. */
void td_saver_destroy(td_saver *saver);

/* Whether this rank's part is still being written: to be told to all with the next gradient. */
bool td_saver_writing(td_saver *saver);
/* Takes a checkpoint of this state; collective. Waits for the former one. This and td_saver_step
 * fail as a collective does, not because a checkpoint could not be written, and with
 * TD_ERR_DIVERGED, at all ranks, when the former one's parameters are not all finite: it is not
 * kept. */
TD_MUST_CHECK td_status td_saver_begin(td_saver *saver, const td_train_state *state);
/* After each step, with what all ranks know: `writing`, whether some rank's part was not there.
 * Collective when it was. */
TD_MUST_CHECK td_status td_saver_step(td_saver *saver, bool writing);
/* Completes what is under way; collective. The newest checkpoint's fate, the same at all ranks. */
TD_MUST_CHECK td_status td_saver_finish(td_saver *saver);
/* Checkpoints that have come to lie under their names; at rank 0. */
uint64_t td_saver_count(const td_saver *saver);

#endif
