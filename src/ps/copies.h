/* Copies of slices that a table has lost with a server, made again behind those who use it: who has
 * a slice gives it to its new backup from a thread of its own, one slice after the other, while
 * both serve. Pushes go to both servers of a slice all the while; the new one sets them aside until
 * the slice is there (store.h), so that a push is acknowledged when both have it, as ever.
 *
 * Source: live migration of what changes meanwhile (Clark et al., "Live migration of virtual
 * machines", NSDI 2005), but that changes are sent to both places rather than copied again.
 *
 * Cost: a channel of its own (tandem/keyed.h) while there is something to copy; a slice's pushes
 * wait for the time that it takes to copy it out. Who pushes faster than copies come waits for them
 * where a backup has 64 MiB set aside. */
#ifndef TD_PS_COPIES_H
#define TD_PS_COPIES_H

#include "ps/servers.h"
#include "ps/store.h"
#include "tandem/keyed.h"

#include <pthread.h>

typedef struct td_copies td_copies;

typedef struct td_copies_config {
    td_servers servers;   /* of the table; borrowed while it opens */
    const int *server_of; /* [size] a rank's number among them; borrowed */
    td_place *place;      /* borrowed, as the next two; by route.now */
    td_store *store;
    pthread_mutex_t *lock; /* of them, held by whoever serves */
    td_route route;
} td_copies_config;

/* Collective, when all ranks' stores expect what comes by the route. TD_ERR_NOMEM, TD_ERR_IO (of
 * cold rows), and as td_keyed_open. */
TD_MUST_CHECK td_status td_copies_open(td_comm *comm, const td_copies_config *config,
                                       td_copies **out);
/* Waits until all copies are there; roles of servers are then those of the route's end. Collective
 * in `meeting`, while nobody uses the table: not before all have closed it, either. What copying
 * has failed with anywhere. */
TD_MUST_CHECK td_status td_copies_finish(td_copies *copies, td_comm *meeting);
/* *done: this rank has neither to give any more nor to take. What its giving has failed with: who
 * was to take it waits for ever then. */
TD_MUST_CHECK td_status td_copies_look(const td_copies *copies, bool *done);
/* At once, with what is not there yet. NULL is fine. */
void td_copies_close(td_copies *copies);

#endif
