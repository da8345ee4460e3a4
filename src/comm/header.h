/* What an operation is, small enough to travel with it; and what a rank says of itself.
 *
 * A *header* goes ahead of the first message between two ranks in a collective operation
 * (exchange.c), stands beside the counters of ranks that share memory (coll/meet.c,
 * coll/hierarchical.c), and so tells at once that another rank runs something else.
 *
 * A *card* is what a rank that has waited for long shows to whom it waits for, who answers with its
 * own when it waits as well (wait.c). So two ranks learn that they run different operations where
 * no message flows between them, and a deadline's sentence says what the missing rank is doing. */
#ifndef TD_COMM_HEADER_H
#define TD_COMM_HEADER_H

#include "tandem/comm.h"

struct td_call;

typedef struct td_header {
    uint64_t sequence; /* of its group */
    uint64_t bytes;
    uint64_t history;     /* a hash of the collectives before it: nobody may look at a rank that
                           * only gives, so later operations tell */
    uint32_t parts;       /* a hash of the sizes of its parts, 0: they are equal; or a tag */
    int32_t root;         /* or peer, in its group; -1: none */
    uint16_t width;       /* of elements that are the user's, else 0 */
    uint8_t does, within; /* within: what it is a part of, such as split, or 0 */
    uint8_t step;         /* its number among those parts */
    uint8_t type, op;     /* TD_NONE: none */
    uint8_t algorithm;    /* of coll.c's table, + 1; 0: it has none */
} td_header;
_Static_assert(sizeof(td_header) == 40, "a header without holes");
enum { TD_NONE = 255 };

typedef enum td_waits { TD_WAITED, TD_WAITS, TD_LEFT } td_waits;

/* The operation that a rank gave up last, so that no other need wait for it there. */
typedef struct td_given_up {
    uint64_t group; /* 0: none */
    td_header runs;
    int32_t other;    /* the rank of the run that ran something else, or was missing; -1: unknown */
    int32_t mismatch; /* 1: it ran `theirs` */
    td_header theirs;
} td_given_up;

typedef struct td_card {
    uint64_t group;  /* number of the group, the same at all its ranks */
    td_header runs;  /* under way, or last */
    int32_t ranks;   /* of the group */
    int32_t missing; /* the rank of the run that it waits for, -1: unknown */
    int32_t waits;   /* td_waits */
    int32_t unused;
    td_given_up gave_up; /* here; of a card that was shown: anywhere */
} td_card;

/* The header of a collective call, which this rank is to run by an algorithm of coll.c's table. The
 * header of the operation under way (comm->card.runs) becomes it. */
void td_header_of_call(td_comm *comm, const struct td_call *call, int algorithm);
/* "all-reduce (sum of 400 bytes of f32)"; the root as a rank of the run. */
void td_header_describe(const td_comm *comm, const td_header *header, char *text, size_t room);
bool td_header_same(const td_header *a, const td_header *b);
/* Whether a rank does it without the others of its group, so that it has no number there: messages
 * of two ranks, and keyed parts. */
bool td_does_alone(int does);
bool td_header_is_message(const td_header *header); /* of two ranks */
/* TD_ERR_ARG with both, when that rank of the group runs something else than this one does, who
 * then gives the operation up. */
TD_MUST_CHECK td_status td_header_compare(td_comm *comm, int rank, const td_header *theirs);

/* This rank gives the operation under way up, unless it has or does it alone: `missing` (a rank of
 * the group, -1: unknown) has not come. From here on its cards say so. */
void td_comm_give_up(td_comm *comm, int missing);
/* TD_ERR_ARG when the card of a rank of the run shows another operation of this group under the
 * number of the one that is under way here, or one that it gave up because of such a rank;
 * TD_ERR_PEER when it is the rank that is waited for, and gave that operation up. */
TD_MUST_CHECK td_status td_card_judge(td_comm *comm, int world, const td_card *card,
                                      bool waited_for);
/* What is known of a rank that has not come, in words that follow "rank 3 ": from its card (NULL:
 * none), else from what was heard of it last (NULL: nothing). */
void td_card_describe(const td_comm *comm, const td_card *card, const td_header *last, char *text,
                      size_t room);

#endif
