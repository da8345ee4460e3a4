/* A sparse table over the servers of a group, used by all ranks at once: every step pulls rows,
 * computes, and pushes gradients, which move each of their rows once (bulk-synchronous; Valiant, "A
 * bridging model for parallel computation", 1990).
 *
 * A row's gradients are added in the order of the samples within a leaf, and leaves along their
 * tree (math/tree.h), in which those without the row are left out. Rows are made by pushes alone,
 * and a push of any number of ranks is one sighting. So weights are to the bit a function of the
 * steps, on any number of ranks and servers, and however leaves are dealt.
 *
 * A push has two halves. The first brings the sums to their servers, where they wait; the second
 * moves the rows, and speaks to nobody. Ranks agree between the two: so when one dies, either all
 * that are left have the step's sums or none has moved by them, and no step is lost or made twice.
 * With a replica each slice's rows are moved at two servers, by the same sums.
 *
 * Cost of a step for each rank: three exchanges of all with all in a pull, three in a push (six
 * with a replica), and three all-reduces of a byte. In a pull a row and its key travel once; in a
 * push a key goes with a sum for each node of the tree that its rank has whole, one where leaves
 * are dealt in powers of two, and at most 2 log2(leaves). */
#ifndef TD_PS_BULK_H
#define TD_PS_BULK_H

#include "ps/servers.h"

typedef struct td_bulk_config {
    td_table_config table; /* the same at all ranks; its strings and spans are borrowed */
    td_servers servers;
    int leaves; /* of a batch, 1 to 4096; the same at all ranks */
} td_bulk_config;

typedef struct td_bulk td_bulk;

/* Collective, as pull and push are; a failure of one rank is one of all. TD_ERR_ARG, TD_ERR_NOMEM,
 * and what collectives fail with. */
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
    bool each_once; /* no key repeats, as where there is one leaf */
} td_bulk_part;

/* The two halves of a push. Collective: behind it the sums are at their servers. TD_ERR_ARG, at
 * all: a mistake in a part. Another failure may be this rank's alone: agree. */
TD_MUST_CHECK td_status td_bulk_offer(td_bulk *bulk, const td_bulk_part *part);
/* Local, behind an agreement on the offer: rows move. TD_ERR_NOMEM, TD_ERR_IO: this rank can go on
 * no more. */
TD_MUST_CHECK td_status td_bulk_apply(td_bulk *bulk, td_table_step step);

/* Offers, agrees and applies. Collective; a failure of one rank is one of all. */
TD_MUST_CHECK td_status td_bulk_push(td_bulk *bulk, const td_bulk_part *part, td_table_step step);

/* As td_sharded_balance; a step lies before it and behind it. Collective. */
TD_MUST_CHECK td_status td_bulk_balance(td_bulk *bulk, const td_servers *servers, bool move,
                                        td_balanced *out);

/* --- in another group, when ranks have died or come (tandem/recover.h) --- */

/* A table of a rank that comes into a run under way: fit only to be moved. Local. */
TD_MUST_CHECK td_status td_bulk_join(const td_bulk_config *config, td_bulk **out);
/* Pushes applied so far; 0 at one that has joined. */
uint64_t td_bulk_made(const td_bulk *bulk);
/* The run has made `made` pushes, the most that any rank has: one that waits here is applied if it
 * is among them, else dropped. Local. */
TD_MUST_CHECK td_status td_bulk_settle(td_bulk *bulk, uint64_t made, td_table_step step);
/* Goes on in the group, settled: rows go to where they now belong. Collective. *lost: TD_ERR_PEER
 * because some rows are at no rank that is left. After another failure: fit to be moved again. */
TD_MUST_CHECK td_status td_bulk_move(td_bulk *bulk, td_comm *comm, const td_servers *servers,
                                     bool joined, uint64_t made, bool *lost);

/* Where a table's slices are: rows at a backup are copies. Borrowed. */
const td_place *td_bulk_place(const td_bulk *bulk);
/* This rank's own rows; NULL: it is no server. */
td_table *td_bulk_table(td_bulk *bulk);
void td_bulk_destroy(td_bulk *bulk); /* NULL is fine */

#endif
