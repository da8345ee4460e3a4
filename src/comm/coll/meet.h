/* Where the ranks of a host meet: counters and a ring of slots for each.
 *
 * An operation is made of rounds, numbered through the life of the group; all ranks go through the
 * same rounds. In a round a rank may stage bytes in its block, says that it has arrived, looks at
 * what others have staged, and says that it is done. The round's block is taken from a ring, so
 * that a rank may go on to later rounds while others still read: it waits only for those who are
 * not done with the rounds whose memory comes round again.
 *
 * A rank that arrives shows what it runs; who sees another operation than its own tells both. */
#ifndef TD_COMM_COLL_MEET_H
#define TD_COMM_COLL_MEET_H

#include "comm/coll/coll.h"

enum {
    TD_MEET_BLOCK = 256 << 10, /* most bytes that a rank stages in a round */
    TD_MEET_RANKS = 128,       /* each looks at all others */
    TD_MEET_FEW = 64,          /* more only where memory is plenty */
    TD_MEET_BYTES = 800 << 10  /* of the memory for each of more than two, about */
};

typedef struct td_meet td_meet;

/* Bytes of memory that processes of the host may share, all of it, not what is free now: ranks that
 * ask at different times must be told the same. UINT64_MAX: ranks are threads, or it is unknown. */
uint64_t td_meet_memory(const td_comm *comm);
/* The group's meeting place, made on first use (collective). */
TD_MUST_CHECK td_status td_meet_of(td_comm *comm, td_meet **out);
void td_meet_destroy(td_comm *comm);

/* The next rounds belong to the operation under way (comm->card.runs). */
void td_meet_begin(td_meet *meet);
/* What a rank showed last; false: nothing. */
bool td_meet_last(const td_meet *meet, int rank, td_header *out);
/* Begins a round with blocks of `bytes` (the same at all ranks), once this rank's is free. */
TD_MUST_CHECK td_status td_meet_round(td_meet *meet, size_t bytes);
/* A rank's block of this round. */
char *td_meet_block(td_meet *meet, int rank);
/* Copies to this rank's block: through the caches, or past them to memory where the ranks' cores
 * share no cache and others read it sooner from there. Which is so, rounds of some length that end
 * by td_meet_leave find out now and then. */
void td_meet_stage(const td_meet *meet, void *to, const void *from, size_t bytes);
/* Where to make what is to be staged at that place of the block: there, or in memory of this rank's
 * own (TD_MEET_BLOCK at most) that td_meet_stage then copies; compare the two. */
TD_MUST_CHECK td_status td_meet_draft(td_meet *meet, char *place, size_t bytes, char **out);
/* This rank has staged, or shows its own memory to the threads of its process. */
void td_meet_arrive(td_meet *meet, const void *in, void *out);
/* The wait for one rank, or for all (-1), to have come so far in this round. */
TD_MUST_CHECK td_status td_meet_arrived(td_meet *meet, int rank);
/* A stage between: what this rank reduces is reduced. */
void td_meet_reduce(td_meet *meet);
TD_MUST_CHECK td_status td_meet_reduced(td_meet *meet);
void td_meet_done(td_meet *meet);
/* The same where nobody waits for it in this round: need not be said of short blocks, because who
 * arrives in the next round is done with this one. */
void td_meet_leave(td_meet *meet);
TD_MUST_CHECK td_status td_meet_all_done(td_meet *meet);

/* --- what ranks read of each other outside their blocks: meet_memory.c --- */

/* Whether processes can read and write each other's memory where it lies (process_vm_readv(2)),
 * which the system may forbid; the same at all ranks. Behind td_meet_begin; its first call is a
 * round. */
TD_MUST_CHECK td_status td_meet_reaches(td_meet *meet, bool *out);
/* Memory of this rank's own, kept for later calls. NULL: there is none. */
char *td_meet_scratch(td_meet *meet, size_t bytes);
/* Copies from what that rank has shown, `from` being an address there; td_meet_put: to it.
 * TD_ERR_PEER: it has failed or died meanwhile. */
TD_MUST_CHECK td_status td_meet_fetch(td_meet *meet, int rank, const void *from, void *to,
                                      size_t bytes);
TD_MUST_CHECK td_status td_meet_put(td_meet *meet, int rank, void *to, const void *from,
                                    size_t bytes);

/* Processes map what lies in memory of td_comm_alloc (comm/registered.h), and read it as threads
 * do. Whether a call's vectors lie there at all ranks is known when all have arrived, too late to
 * choose how to go about it: so a call shows it beside its header, and what the last one of its
 * pattern showed says whether the next tries.
 *
 * Behind td_meet_begin: this call's vectors that others would read, NULL: none. */
void td_meet_open_up(td_meet *meet, const void *in, size_t in_bytes, const void *out,
                     size_t out_bytes);
/* The same of a call whose vectors others never map, wherever they lie. */
void td_meet_keep_shut(td_meet *meet);
/* Whether the last call of the pattern showed that they lie so. */
bool td_meet_expects(const td_meet *meet, td_pattern pattern);
/* Behind a call that has gone well, in which this rank has seen all whose vectors it might read. */
void td_meet_learn(td_meet *meet, td_pattern pattern);
/* Whether they can be read, which all ranks find alike: then the round is begun, this rank has
 * arrived, and so has the rank that it reads from (-1: all). */
TD_MUST_CHECK td_status td_meet_see(td_meet *meet, td_pattern pattern, int from, const void *in,
                                    void *out, bool *sees);
/* Of a call whose ranks have opened up and arrived: whether all ranks' in and out are two vectors.
 */
bool td_meet_apart(const td_meet *meet);
/* Such a call may be made in either of two ways. Which takes less time, calls of its kind and about
 * its length find out as they go on, all ranks alike: behind the above, who times calls of
 * `bytes`; when all those whose word counts have arrived, whether this one goes the second way; and
 * its end. */
void td_meet_two_ways(td_meet *meet, td_pattern pattern, size_t bytes, bool times);
TD_MUST_CHECK td_status td_meet_second_way(td_meet *meet, bool *out);
TD_MUST_CHECK td_status td_meet_way_ends(td_meet *meet);
/* Whether this rank reads the others' vectors where they lie: those of threads, or seen ones. */
bool td_meet_sees(const td_meet *meet);

/* What a rank shows (addresses there, but where this rank sees them), to be used between
 * td_meet_look and td_meet_look_away. Who fails meanwhile withdraws what it has shown, and waits
 * for those who look: a thread until they look away, a process for a little while, as they may have
 * died, or been stopped. True: one of them may still be writing to what was shown, or write when it
 * goes on. Of a process that withdraws, what was read is worthless. TD_ERR_PEER: some rank has
 * withdrawn, or died with what it showed. TD_ERR_NOMEM: it cannot be mapped. */
TD_MUST_CHECK td_status td_meet_look(td_meet *meet);
TD_MUST_CHECK td_status td_meet_look_away(td_meet *meet);
bool td_meet_withdraw(td_meet *meet);
TD_MUST_CHECK td_status td_meet_in(td_meet *meet, int rank, const void **out);
TD_MUST_CHECK td_status td_meet_out(td_meet *meet, int rank, const void **out);
void *td_meet_theirs(const td_meet *meet, int rank); /* its out, to write to; an address there */
void td_meet_forget(td_meet *meet);                  /* what was mapped and kept */

#endif
