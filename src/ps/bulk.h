/* A sparse table over the servers of a group, used by all ranks at once: every step pulls rows,
 * computes, and pushes gradients, which move each of their rows once (bulk-synchronous; Valiant, "A
 * bridging model for parallel computation", 1990).
 *
 * A row's gradients are added in the order of the samples within a leaf, and leaves along their
 * tree (math/tree.h), in which those without the row are left out. Rows are made by pushes alone,
 * and a push of any number of ranks is one sighting. So weights are to the bit a function of the
 * steps, on any number of ranks and servers, and however leaves are dealt.
 *
 * Cost of a step for each rank: three exchanges of all with all in a pull, three in a push, and
 * three all-reduces of a byte. In a pull a row and its key travel once; in a push a key goes with a
 * sum for each node of the tree that its rank has whole, one where leaves are dealt in powers of
 * two, and at most 2 log2(leaves). */
#ifndef TD_PS_BULK_H
#define TD_PS_BULK_H

#include "ps/servers.h"

typedef struct td_bulk_config {
    td_table_config table; /* the same at all ranks */
    td_servers servers;
    int leaves; /* of a batch, 1 to 4096; the same at all ranks */
} td_bulk_config;

typedef struct td_bulk td_bulk;

/* All functions but td_bulk_table and td_bulk_destroy are collective; a failure of one rank is one
 * of all. TD_ERR_ARG, TD_ERR_NOMEM, and what collectives fail with. */
TD_MUST_CHECK td_status td_bulk_open(td_comm *comm, const td_bulk_config *config, td_bulk **out);

/* Rows of `count` keys, which may repeat, to out [count][width]. */
TD_MUST_CHECK td_status td_bulk_pull(td_bulk *bulk, const uint64_t *keys, size_t count, float *out);

/* This rank's part of a batch. Its leaves lie behind those of the ranks before it. */
typedef struct td_bulk_part {
    int leaf_begin, leaf_end;
    const uint64_t *keys;  /* [count] may repeat */
    const uint32_t *leaf;  /* [count] in [leaf_begin, leaf_end), ascending */
    const float *gradient; /* [count][width] */
    size_t count;
} td_bulk_part;

/* Moves the rows of all parts. Behind a failure other than a mistake in a part (TD_ERR_ARG, nothing
 * has moved) some servers may have moved theirs: the table is of no more use. */
TD_MUST_CHECK td_status td_bulk_push(td_bulk *bulk, const td_bulk_part *part, td_table_step step);

/* This rank's own rows; NULL: it is no server. */
td_table *td_bulk_table(td_bulk *bulk);
void td_bulk_destroy(td_bulk *bulk); /* NULL is fine */

#endif
