/* A sparse table over the servers of a group: each key's row lies at one of them (table.h). Workers
 * pull and push rows whenever they like; a server serves from a thread of its own (tandem/keyed.h),
 * so a rank may be both.
 *
 * Asynchronous (Dean et al., "Large scale distributed deep networks", NIPS 2012, section 4): a push
 * moves its rows when it arrives, and a pull gives what is there. */
#ifndef TD_PS_SHARDED_H
#define TD_PS_SHARDED_H

#include "ps/servers.h"

typedef struct td_sharded_config {
    td_table_config table; /* the same at all ranks */
    td_servers servers;
} td_sharded_config;

typedef struct td_sharded td_sharded;

/* Collective. What td_table_create and td_keyed_open fail with; TD_ERR_ARG at all ranks where
 * tables differ. */
TD_MUST_CHECK td_status td_sharded_open(td_comm *comm, const td_sharded_config *config,
                                        td_sharded **out);

/* Rows of `count` keys, which may repeat, to out [count][width]. */
TD_MUST_CHECK td_status td_sharded_pull(td_sharded *sharded, const uint64_t *keys, size_t count,
                                        float *out);
/* The same in two halves, for the next batch's rows to come while this one is computed with. `out`
 * may not be used, and no other fetch begun, until the wait. */
TD_MUST_CHECK td_status td_sharded_fetch(td_sharded *sharded, const uint64_t *keys, size_t count);
TD_MUST_CHECK td_status td_sharded_fetched(td_sharded *sharded, float *out);
/* Moves rows by gradients [count][width]: those of one key are added up first. Returns when the
 * servers have moved them. A server counts Adam's steps by pushes of all workers / workers. */
TD_MUST_CHECK td_status td_sharded_push(td_sharded *sharded, const uint64_t *keys, size_t count,
                                        const float *gradients);

/* This rank's own rows; NULL: it is no server. Only behind td_sharded_finish. */
td_table *td_sharded_table(td_sharded *sharded);
/* Collective: all pushes of all ranks are done behind it; nothing can be asked for any more. */
TD_MUST_CHECK td_status td_sharded_finish(td_sharded *sharded);
void td_sharded_destroy(td_sharded *sharded);

#endif
