/* Collectives: what is asked (td_call), who can do it (the table of coll.c), and the algorithms,
 * one to a file.
 *
 * Algorithms over messages are written once and run on every transport; those of shared.c use
 * memory that a host's ranks share. Arguments have been checked. */
#ifndef TD_COMM_COLL_COLL_H
#define TD_COMM_COLL_COLL_H

#include "comm/coll/reduction.h"
#include "comm/transport.h"

/* One collective operation as a rank sees it. Parts lie one behind the other, in rank order. */
typedef struct td_call {
    td_pattern pattern;
    const void *in; /* NULL where this rank gives nothing */
    void *out;      /* NULL where it gets nothing */
    size_t bytes;   /* broadcast, reductions: of the vector; others: of each part if equal, or else
                     * of all parts together */
    const size_t *parts; /* [size] the ranks' parts in `unit` bytes; NULL: equal. All-to-all: what
                          * is given to each rank; elsewhere the same at all ranks. */
    size_t unit;         /* of parts: 1, or an element's */
    const size_t *takes; /* all-to-all with parts: [size] bytes that each rank gives to this one */
    int root;
    td_reduction how;
    size_t count; /* elements of the vector, where elements count */
} td_call;

static inline size_t td_call_part(const td_call *call, int rank)
{
    return call->parts ? call->parts[rank] * call->unit : call->bytes;
}
/* Where a rank's part begins among all. */
static inline size_t td_call_offset(const td_call *call, int rank)
{
    if (!call->parts) return (size_t)rank * call->bytes;
    size_t at = 0;
    for (int r = 0; r < rank; r++) at += call->parts[r];
    return at * call->unit;
}

/* A reduction of whole numbers, whose result does not depend on its order. */
bool td_call_is_whole(const td_call *call);
/* What is asked as a call, its arguments checked for this rank. Borrows the arrays. */
TD_MUST_CHECK td_status td_call_make(const td_comm *comm, const td_collective *what, td_call *out);
/* Runs it as an operation of the group. */
TD_MUST_CHECK td_status td_call_run(td_comm *comm, const td_call *call);
/* Chooses an algorithm and runs it. */
TD_MUST_CHECK td_status td_coll_run(td_comm *comm, const td_call *call);
/* The algorithms of a pattern that can serve this group; whole: also those that reduce whole
 * numbers alone. Names, at most `room`; how many. */
int td_coll_algorithms(const td_comm *comm, td_pattern pattern, bool whole, const char **names,
                       int room);
/* The one that serves the call; "none" where a rank is alone. */
const char *td_coll_serving(const td_comm *comm, const td_call *call);
/* The algorithm of a place in the table, "?": there is none. */
const char *td_coll_name(int place);
/* The table's row of an algorithm, for td_tuning_row; -1: none. */
int td_coll_row(const td_comm *comm, td_pattern pattern, bool whole, int algorithm);
/* Has the pattern served by that algorithm, whatever the size, until told otherwise (NULL), but for
 * calls that it cannot serve. The same at all ranks. TD_ERR_ARG: there is none of that name, or it
 * cannot serve this group. */
TD_MUST_CHECK td_status td_coll_force(td_comm *comm, td_pattern pattern, const char *name);

/* What a measurement found best: from so many bytes on, that algorithm. tuning.c */
enum { TD_TUNING_ROWS = 256 };
typedef struct td_tuning_row {
    td_pattern pattern;
    bool whole; /* of reductions of whole numbers, where they were measured apart */
    uint64_t from_bytes;
    int algorithm; /* of td_coll_algorithms; of a group that uses it: the table's row */
} td_tuning_row;
typedef struct td_tuning {
    struct td_tuning *older; /* of a group: the one before it, by which works may still go */
    char *text;              /* of the file, in which groups of other shapes find their rows */
    int count;               /* 0: the file has none for this group */
    td_tuning_row row[TD_TUNING_ROWS]; /* sizes ascend within a pattern */
} td_tuning;
/* As a text file that names the machine, and the shape of the group, it was measured for. What the
 * file has of other shapes, and of patterns that have no rows here, stays; written whole or not.
 * Errors of td_tuning_can_add. */
TD_MUST_CHECK td_status td_tuning_write(const td_comm *comm, const td_tuning *tuning,
                                        const char *path);
/* Whether it would be written: TD_ERR_ARG: the file is of another machine; TD_ERR_CORRUPT: it is
 * damaged, or something else. */
TD_MUST_CHECK td_status td_tuning_can_add(const char *path);
/* Its rows for a group of this shape, for td_tuning_free. TD_ERR_ARG: of another machine, or of
 * groups of other shapes alone; TD_ERR_CORRUPT: cut short or changed; TD_ERR_IO. */
TD_MUST_CHECK td_status td_tuning_read(const td_comm *comm, const char *path, td_tuning **out);

void td_tuning_free(td_tuning *tuning); /* and all older ones; NULL is fine */
/* The file that `from` goes by serves `to` too, by its rows for that one's shape, if it has some
 * and they name what serves it. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_tuning_inherit(const td_comm *from, td_comm *to);
/* The same where some ranks of `after` (NULL: this one) were not in `before`. Collective. */
TD_MUST_CHECK td_status td_tuning_pass_on(const td_comm *before, td_comm *after);

/* Lets go of what operations keep with the group. */
void td_coll_release(td_comm *comm);
void td_worker_destroy(td_comm *comm); /* work.c */

/* --- the algorithms; each file says what it costs --- */

typedef td_status td_algorithm(td_comm *comm, const td_call *call);

td_algorithm td_dissemination_barrier; /* barrier.c */
/* A barrier behind which *any is set at all ranks if it was at one. */
TD_MUST_CHECK td_status td_disseminate(td_comm *comm, int tag, char *any);
td_algorithm td_binomial_broadcast; /* binomial.c */
td_algorithm td_binomial_reduce;
td_algorithm td_binomial_allreduce;
td_algorithm td_binomial_gather; /* binomial_parts.c: equal parts */
td_algorithm td_binomial_scatter;
td_algorithm td_ring_allgather; /* ring.c */
td_algorithm td_ring_allreduce;
td_algorithm td_linear_gather; /* linear.c */
td_algorithm td_linear_scatter;
td_algorithm td_chain_scan;
td_algorithm td_bruck_alltoall;
td_algorithm td_double_tree_broadcast; /* double_tree.c */
td_algorithm td_double_tree_allreduce; /* whole numbers alone: not in the tree's order */
td_algorithm td_own_run;               /* own.c: the transport's */
bool td_own_fits(const td_comm *comm);
bool td_own_counts(const td_comm *comm, const td_call *call); /* it is not too long for it */
td_algorithm td_pairwise_alltoall;                            /* pairwise.c */
td_algorithm td_pairwise_reduce_scatter;
td_algorithm td_pairwise_reduce;
td_algorithm td_pairwise_allreduce;
td_algorithm td_bruck_allgather;    /* bruck.c */
td_algorithm td_recursive_doubling; /* recursive.c: all-reduce */
td_algorithm td_recursive_halving;
td_algorithm td_doubling_scan;                /* whole numbers alone: not in the chain's order */
bool td_recursive_fits(const td_comm *comm);  /* a power of two of ranks: the tree's order */
bool td_recursive_folds(const td_comm *comm); /* another number: another order */
/* For groups over several hosts: long vectors. */
td_algorithm td_hierarchical_reduce;   /* hierarchical.c: reduce, all-reduce */
td_algorithm td_hierarchical_exchange; /* all-reduce of a short vector */
td_algorithm td_hierarchical_broadcast;
td_algorithm td_hierarchical_allgather; /* hierarchical_parts.c */
td_algorithm td_hierarchical_reduce_scatter;
/* For groups on one host, over memory that they share: any pattern. */
bool td_shared_fits(const td_comm *comm);
bool td_shared_suits(int ranks, uint64_t memory); /* bytes in all that a host's ranks could share */
bool td_shared_may_meet(const td_comm *comm); /* the same of the group and its host, asked once */
td_algorithm td_shared_run;

#endif
