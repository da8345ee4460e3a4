/* Lists of requests that wait for their counterpart, linked into the requests themselves. */
#ifndef TD_COMM_TRANSPORT_REQUESTS_H
#define TD_COMM_TRANSPORT_REQUESTS_H

#include "comm/transport.h"

/* Finds and unlinks the oldest request of the list that fits; NULL: none. */
static inline td_request *td_requests_take(td_request **list, int self, int peer, int tag)
{
    for (; *list; list = &(*list)->next) {
        td_request *r = *list;
        if (r->self != self || r->peer != peer || r->tag != tag) continue;
        *list = r->next;
        return r;
    }
    return NULL;
}

static inline void td_requests_append(td_request **list, td_request *request)
{
    while (*list) list = &(*list)->next;
    request->next = NULL;
    *list = request;
}

static inline void td_requests_remove(td_request **list, const td_request *request)
{
    while (*list && *list != request) list = &(*list)->next;
    if (*list) *list = request->next;
}

/* Whether the receive can take what is sent; says how much comes. */
static inline bool td_requests_fit(const td_request *send, td_request *receive)
{
    receive->got = send->bytes;
    return send->bytes == receive->bytes || (receive->at_most && send->bytes < receive->bytes);
}

#endif
