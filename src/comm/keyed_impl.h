/* What the files of push and pull share: keyed.c asks, keyed_serve.c answers, keyed_room.c is where
 * processes of one host do both, keyed_desk.c opens and closes channels, and calls servers'
 * functions.
 *
 * A request to another host's rank is
 *
 *   td_keyed_head | keys [count] u64, sizes [count] u64 if sized, values if at most INLINE | values
 *
 * as 2 or 3 messages, its answer td_keyed_answer and the pulled values, if any. Kinds of message
 * have tags of their own, and each kind keeps its order between two ranks: so all receives of an
 * answer can be posted before the request goes out, and nothing of it waits in the transport. A
 * head that does nothing says that the rank will ask no more.
 *
 * The asking thread and the serving one use one group through a handle each.
 *
 * A rank's *desk* is where its function is called, by whatever thread has the request: ranks of one
 * memory go to each other's. It stays when its rank has gone. */
#ifndef TD_COMM_KEYED_IMPL_H
#define TD_COMM_KEYED_IMPL_H

#include "comm/transport.h"
#include "tandem/keyed.h"

#include <pthread.h>
#include <stdatomic.h>

enum { TD_KEYED_INLINE = 16 << 10, TD_KEYED_SENTENCE = 240 };

typedef struct td_keyed_head {
    uint64_t count, in_bytes, out_bytes;
    uint64_t note[TD_KEYED_NOTE / 8];
    uint32_t does;
    uint8_t sized;
    uint8_t apart;  /* values are a message of their own */
    uint8_t placed; /* behind the keys are their places [count] u32; never in a message */
    uint8_t pad;
} td_keyed_head;

typedef struct td_keyed_answer {
    uint64_t note[TD_KEYED_NOTE / 8];
    int32_t status;
    char sentence[TD_KEYED_SENTENCE];
} td_keyed_answer;

typedef struct td_keyed_desk {
    pthread_mutex_t lock; /* held while the function runs */
    td_keyed *keyed;      /* guarded by lock; NULL: its rank has gone */
    td_bell *bell; /* rung when something has been served while requests are put off, or NULL */
    atomic_bool put_off;  /* some are */
    atomic_bool finished; /* its rank asks no more */
    char pad[64];
} td_keyed_desk;

typedef struct td_keyed_service td_keyed_service; /* of keyed_serve.c */

struct td_keyed {
    td_comm *comm; /* its own group */
    td_keyed_config config;
    int *servers;              /* [server_count] ranks */
    int self;                  /* this rank's number among them, -1: none */
    td_keyed_service *service; /* NULL: nobody asks by messages */
    td_region memory;          /* of the desks, where they are those of several ranks */
    td_keyed_desk *desks;      /* [desk_count] of this rank and of those in one memory with it */
    int desk_count;
    td_keyed_desk *own;
    td_keyed_desk **desk_of;         /* [server_count] NULL: asked in a room, or by messages */
    struct td_keyed_rooms *rooms;    /* NULL: none */
    int put_off;                     /* requests at desks that were not ready, or without a slot */
    struct td_ticket *first, **last; /* requests under way, oldest first */
    uint64_t tickets;
    int64_t looked_at; /* ns: after the group, whether all of it lives */
    int64_t asked_at;  /* ns: after who was missing, by td_keyed_done */
    bool broken, finished;
    bool ranks_crowd; /* there are more ranks than cores, threads that serve aside */
};

/* Bytes of keys, and sizes or places. */
static inline size_t td_keyed_key_bytes(const td_keyed_head *head)
{
    return head->count * (head->sized ? 16 : 8) + (head->placed ? (head->count + 1) / 2 * 8 : 0);
}

static inline size_t td_keyed_body(const td_keyed_head *head)
{
    return td_keyed_key_bytes(head) + (head->apart ? 0 : head->in_bytes);
}

/* Of a request: its keys, with what lies behind them, and where its values lie. */
static inline td_keyed_request td_keyed_request_of(const td_keyed_head *h, int from,
                                                   const void *keys, const void *in, void *out)
{
    const uint64_t *k = (const uint64_t *)keys;
    _Static_assert(sizeof(size_t) == sizeof(uint64_t), "sizes travel as they lie in memory");
    return (td_keyed_request){
        .from = from,
        .note = h->note,
        .does = (td_keyed_does)h->does,
        .keys = k,
        .count = h->count,
        .sizes = h->sized ? (const size_t *)(k + h->count) : NULL,
        .places = h->placed ? (const uint32_t *)(const void *)(k + h->count) : NULL,
        .in = h->does & TD_PUSH ? in : NULL,
        .out = h->does & TD_PULL ? out : NULL,
        .bytes = h->does & TD_PUSH ? h->in_bytes : h->out_bytes,
    };
}

/* Zeroes what a request that failed was to pull, if anything. */
void td_keyed_clear(const td_keyed_request *request);

typedef enum td_keyed_turn {
    TD_KEYED_SERVED,
    TD_KEYED_PUT_OFF,
    TD_KEYED_GONE,
    TD_KEYED_BUSY
} td_keyed_turn;
/* Calls the server's function, in whatever thread; the status goes into the answer, which is
 * zeroed. TD_KEYED_BUSY, unless `waits`: another is at the desk. */
td_keyed_turn td_keyed_call(td_keyed_desk *desk, bool waits, td_keyed_request *request,
                            td_keyed_answer *answer);
/* Whether the rank is asked by calls. */
bool td_keyed_at_hand(const td_keyed *k, int rank);

/* What a caller asks for. TD_ERR_ARG; TD_ERR_PEER: the channel is broken. */
TD_MUST_CHECK td_status td_keyed_check(const td_keyed *k, td_keyed_does does,
                                       const td_parts *parts);

/* Drops all requests under way. */
void td_keyed_give_up(td_keyed *k);

/* What wakes this rank's service, NULL: it looks now and then. */
td_bell *td_keyed_service_bell(const td_keyed *k);
/* Begins to serve this rank's keys. */
TD_MUST_CHECK td_status td_keyed_serve_begin(td_keyed *k);
/* Answers what has been asked in rooms, unless the service does so just now. By the rank's own
 * thread. */
void td_keyed_serve_some(td_keyed *k);
/* `patiently`: when all other ranks have said that they will ask no more; else at once. */
TD_MUST_CHECK td_status td_keyed_serve_end(td_keyed *k, bool patiently);

#endif
