/* Mishaps for tests: a rank that is lost at a stated point of a run, as a killed process is.
 *
 * TANDEM_FAKE_DEATH="RANK:STEP:POINT[,...]": rank RANK of the run is lost in its step STEP, counted
 * from 1, at
 *
 *   begin       before it has read the checkpoint that the run goes on from (STEP 1; tables)
 *   backward    while gradients are computed
 *   reduce      when all of its gradient has been posted to the sum
 *   update      when the step has been made, before anything that follows it
 *   meet        when it knows that all have made that step (tables, not in step)
 *   leave       when it goes on from that step, where all have met (tables, not in step)
 *   evaluate    when the evaluation after that step begins
 *   checkpoint  when it has written the first of its files of that step's checkpoint
 *   rename      rank 0 of a group: when that step's checkpoint lacks nothing but its name
 *   recover     when it has noticed, with that step as its newest, that another is lost
 *   handover    when it has agreed with the others to go on from that step
 *   end         when the run has ended for it
 *
 * by td_comm_die. With ":stop" behind the point the process stops itself there (SIGSTOP), once, and
 * goes on when it is continued; with ":memory" the rank is refused memory there, with
 * ":alarm" it believes that another is lost, with ":mistake" it finds data that it cannot use. */
#ifndef TD_STRATEGY_MISHAP_H
#define TD_STRATEGY_MISHAP_H

#include "tandem/comm.h"

/* The plan, NULL where there is none: to be asked for when a run begins. */
const char *td_mishaps(void);
/* TD_ERR_PEER when this rank, a thread, is lost here; TD_ERR_NOMEM, TD_ERR_DATA. Costs nothing
 * without a plan.
 */
TD_MUST_CHECK td_status td_mishap(const char *plan, td_comm *comm, uint64_t step,
                                  const char *point);

#endif
