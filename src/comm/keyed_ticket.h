/* A request under way, and its parts at servers: made in keyed_ticket.c, sent and waited for in
 * keyed.c. */
#ifndef TD_COMM_KEYED_TICKET_H
#define TD_COMM_KEYED_TICKET_H

#include "comm/keyed_room.h"

/* A request's part at one server. Values that lie together in the user's memory are sent from
 * there, others from a copy; what comes by message comes into memory of the request, and a desk of
 * this process writes to the user's. In a room all are copied there and from there, but those of
 * some length that the server can map. In-place ones stay in the user's memory in both. */
typedef struct td_share {
    int server;
    size_t first, last; /* of its keys in the request */
    size_t offset;      /* of its first part in the user's memory */
    bool together;
    td_keyed_head head; /* placed: they are left in the user's memory, offset is 0 */
    td_keyed_answer answer;
    td_keyed_pair *pair;    /* NULL: no room */
    td_keyed_slot *slot;    /* of the pair, while it has one */
    td_registered from, to; /* number 0: values to push, pulled ones go through the slot */
    char *body;             /* keys, sizes or places, and values that are copied behind them */
    char *values;           /* those that are copied */
    char *out;              /* where pulled values arrive */
    bool own_body, own_out;
    size_t put, filled; /* keys and bytes, so far */
    size_t taken;       /* bytes of pulled values that are in the user's memory already */
    td_request request[5];
    int requests;
    bool put_off; /* by its desk, or for want of a slot */
    bool busy;    /* its desk, at the first try */
    bool withdrawn;
} td_share;

typedef struct td_ticket { /* its arrays are of the same allocation */
    struct td_ticket *next;
    uint64_t number;
    td_keyed_does does;
    td_parts parts;
    int *owner;       /* [count] */
    size_t *sizes;    /* a copy where parts differ: the user's may go */
    td_share *shares; /* [share_count] */
    int *share_of;    /* [server_count] */
    int share_count;
    size_t bytes;
} td_ticket;

/* Checks, deals out to servers, and copies what must be copied. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_ticket_make(td_keyed *k, td_keyed_does does, const td_parts *parts,
                                       td_ticket **out);
void td_ticket_free(td_ticket *ticket); /* NULL is fine */
/* Whether an older request waits at the same desk or room, and so comes first; NULL: any. */
bool td_ticket_is_behind(const td_keyed *k, const td_ticket *ticket, int server);
/* Its places become those of its slot. */
void td_share_lie_in_slot(td_share *share);

static inline const char *td_keyed_name(td_keyed_does does)
{
    return td_does_names[TD_DOES_PUSH + (int)does - 1];
}

static inline bool td_share_copies_in(const td_share *h)
{
    if (h->pair) return h->head.in_bytes && !h->from.number;
    return h->head.in_bytes && !h->head.placed && !(h->together && h->head.apart);
}

/* Whether pulled values have to be picked from h->out for their places. */
static inline bool td_share_scatters(const td_share *h)
{
    return h->head.out_bytes && !h->together && !h->head.placed;
}

/* Bytes of the part of a key. */
static inline size_t td_ticket_size_of(const td_keyed *k, const td_ticket *t, size_t i)
{
    return t->sizes ? t->sizes[i] : k->config.width;
}

#endif
