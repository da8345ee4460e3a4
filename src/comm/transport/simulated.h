/* Ranks that are simulated: coroutines of one thread, taken in turn, so that a schedule runs in the
 * same way every time, on as many ranks as wanted, and its cost is exact.
 *
 * A message takes `latency` and `per_byte` on the port out of its sender and on the port into its
 * receiver, which both carry one message at a time, in both directions at once. Waits for memory
 * that ranks share, and arithmetic, take no time. Source of the model: Hockney, "The communication
 * challenge for MPP: Intel Paragon and Meiko CS-2", 1994, with one port. */
#ifndef TD_COMM_TRANSPORT_SIMULATED_H
#define TD_COMM_TRANSPORT_SIMULATED_H

#include "comm/transport.h"

typedef struct td_simulation {
    const int *host;          /* [ranks] who is on which host; NULL: each on its own */
    double latency, per_byte; /* of a message */
    uint64_t messages, bytes; /* out: all that were sent */
    double time;              /* out: when the last rank was done */
} td_simulation;

/* Runs `fn` as each of `ranks` ranks (1..1024). The first failure, as of td_comm_run_local; when no
 * rank can go on, TD_ERR_TIMEOUT says who waits. Groups cannot be split. */
TD_MUST_CHECK td_status td_comm_simulate(int ranks, td_simulation *simulation, td_rank_fn *fn,
                                         void *arg);

#endif
