/* What the two files of push and pull share: keyed.c asks, keyed_serve.c answers.
 *
 * A request to another rank is
 *
 *   td_keyed_head | keys [count] u64, sizes [count] u64 if sized, values if at most INLINE | values
 *
 * as 2 or 3 messages, its answer td_keyed_answer and the pulled values, if any. Kinds of message
 * have tags of their own, and each kind keeps its order between two ranks: so all receives of an
 * answer can be posted before the request goes out, and nothing of it waits in the transport. A
 * head with count 0 says that the rank will ask no more.
 *
 * The asking thread and the serving one use one group through a handle each. */
#ifndef TD_COMM_KEYED_IMPL_H
#define TD_COMM_KEYED_IMPL_H

#include "comm/transport.h"
#include "tandem/keyed.h"

#include <pthread.h>
#include <stdatomic.h>

enum { TD_KEYED_INLINE = 16 << 10, TD_KEYED_SENTENCE = 240 };

typedef struct td_keyed_head {
    uint64_t count, in_bytes, out_bytes;
    uint32_t does;
    uint8_t sized, apart, pad[2]; /* values are a message of their own */
} td_keyed_head;

typedef struct td_keyed_answer {
    int32_t status;
    char sentence[TD_KEYED_SENTENCE];
} td_keyed_answer;

typedef struct td_keyed_service td_keyed_service; /* of keyed_serve.c */

struct td_keyed {
    td_comm *comm; /* its own group */
    td_keyed_config config;
    int *servers; /* [server_count] ranks */
    int self;     /* this rank's number among them, -1: none */
    td_keyed_service *service;
    pthread_mutex_t serving;         /* held while config.serve runs */
    struct td_ticket *first, **last; /* requests under way, oldest first */
    uint64_t tickets;
    bool broken, finished;
};

static inline size_t td_keyed_body(const td_keyed_head *head)
{
    return head->count * (head->sized ? 16 : 8) + (head->apart ? 0 : head->in_bytes);
}

/* Calls the server's function, in whatever thread; the status goes into the answer. */
void td_keyed_call(td_keyed *k, const td_keyed_request *request, td_keyed_answer *answer);

/* Begins to serve this rank's keys. */
TD_MUST_CHECK td_status td_keyed_serve_begin(td_keyed *k);
/* `patiently`: when all other ranks have said that they will ask no more; else at once. */
TD_MUST_CHECK td_status td_keyed_serve_end(td_keyed *k, bool patiently);

#endif
