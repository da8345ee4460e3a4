/* Requests between processes of one host, through memory that both have mapped: who asks writes
 * keys and values where the server reads them, and reads the answer where it was written.
 *
 * Each rank that asks has a file in memory (memfd_create(2)) with a *pair* for each server of its
 * host, and each of those maps that part of it. A pair has SLOTS places for requests, as large as a
 * request may be: addresses alone, until something is written there. The slot that is free and has
 * the lowest number is taken, so that as few as can be hold memory; its pages stay until the
 * channel goes. Each rank has two bells: one that its requests are answered by, and one that its
 * service is asked by. Where ranks outnumber cores a server's rank answers others itself while it
 * waits for what it has asked, so that no core changes hands: then it is asked by the first, too.
 *
 * Values that lie together in memory of td_comm_alloc, and in-place ones, are read, and written,
 * where they lie.
 *
 * Where one cannot open another's file (process numbers of another container, say) its host's ranks
 * send messages instead. */
#ifndef TD_COMM_KEYED_ROOM_H
#define TD_COMM_KEYED_ROOM_H

#include "comm/keyed_impl.h"
#include "comm/registered.h"

enum { TD_KEYED_SLOTS = 4 };

typedef enum td_slot_state {
    TD_SLOT_FREE,
    TD_SLOT_TAKEN,
    TD_SLOT_ASKED,
    TD_SLOT_IN_HAND,
    TD_SLOT_ANSWERED
} td_slot_state;

typedef struct td_keyed_slot {
    atomic_int state;
    atomic_size_t written; /* bytes of the pulled values that are final, before the answer */
    uint64_t number;       /* of the pair's requests, from 1, which are served in turn */
    td_keyed_head head;
    td_keyed_answer answer;
    td_registered in, out; /* where values lie instead, and are to be put, in the asker's memory */
} td_keyed_slot;

/* At the head of a pair's memory. */
typedef struct td_keyed_pair {
    uint64_t mark;   /* whose file it is */
    atomic_int gone; /* asks no more */
    uint64_t asked;  /* requests, by who asks; */
    uint64_t served; /* by who answers */
    td_keyed_slot slot[TD_KEYED_SLOTS];
} td_keyed_pair;

/* Collective. k->rooms stays NULL where no two ranks share a host, or are threads; and no pair is
 * found (below) on hosts where files cannot be shared. */
TD_MUST_CHECK td_status td_keyed_rooms_open(td_keyed *k);
void td_keyed_rooms_close(td_keyed *k); /* NULL is fine */

/* Of this rank with that server (a number), to ask; of that rank with this server, to answer. NULL:
 * by messages. */
td_keyed_pair *td_keyed_pair_with(const td_keyed *k, int server);
td_keyed_pair *td_keyed_pair_of(const td_keyed *k, int rank);

/* --- who asks --- */

td_keyed_slot *td_keyed_take(td_keyed_pair *pair); /* NULL: all are in use */
/* slot->head is filled in, and what lies there. */
void td_keyed_ask(td_keyed *k, int server, td_keyed_slot *slot);
static inline bool td_keyed_answered(td_keyed_slot *slot)
{
    return atomic_load_explicit(&slot->state, memory_order_acquire) == TD_SLOT_ANSWERED;
}
/* One that was asked and not answered stays in use. */
void td_keyed_release(td_keyed_slot *slot);
/* Takes back what was asked, so that the server leaves alone what it names in this rank's memory:
 * at once, or when a server that has it in hand is done, or dead, which is waited for until then
 * (td_clock_ns; 0: not, and false says that it has). The pair serves no more behind it. */
bool td_keyed_withdraw(const td_keyed *k, int server, td_keyed_slot *slot, int64_t until);
/* Its rank asks no more of any server that it has a pair with. */
void td_keyed_rooms_goodbye(td_keyed *k);
/* This rank's bell for answers, and for what is asked of it; NULL: no rooms. */
td_bell *td_keyed_room_bell(const td_keyed *k);
td_bell *td_keyed_asked_bell(const td_keyed *k);

/* --- who answers --- */

/* The next request in turn, in hand until one of the other two; NULL: it has not come. */
td_keyed_slot *td_keyed_asked(td_keyed_pair *pair);
void td_keyed_put_off(td_keyed_slot *slot);
void td_keyed_reply(td_keyed *k, int rank, td_keyed_slot *slot);
/* Between the two this rank's own thread answers, and its service is not woken. */
void td_keyed_answers_itself(td_keyed *k);
void td_keyed_answers_no_more(td_keyed *k);
/* What td_keyed_wrote is told of. */
typedef struct td_keyed_progress {
    td_keyed *keyed;
    int rank;
    td_keyed_slot *slot;
} td_keyed_progress;

/* --- what lies in a slot: keys, sizes or places if there are any | values | pulled values --- */

char *td_keyed_keys_in(td_keyed_pair *pair, const td_keyed_slot *slot);
char *td_keyed_values_in(td_keyed_pair *pair, const td_keyed_slot *slot);
char *td_keyed_out_in(td_keyed_pair *pair, const td_keyed_slot *slot);

#endif
