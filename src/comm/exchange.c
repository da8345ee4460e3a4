/* Messages inside operations, and the headers that go with them.
 *
 * The first message of a collective operation from one rank to another begins with a *hello*:
 *
 *   header (40 bytes) | length of the payload (8) | magic (8) | payload, if it has at most INLINE
 *
 * A longer payload follows as a message of its own. A receiver takes the hello whatever its length,
 * and compares before it looks at any payload: a rank that runs another operation, by another
 * algorithm or with another length is told, although its messages are others. Further messages
 * of the operation are bare: both sides run the same schedule by then.
 *
 * The hellos of two ranks cannot get out of step: a receiver takes all messages of an operation
 * that it agrees on, so the next one that it finds is a hello, of that rank's next operation with
 * it.
 *
 * Cost, per peer and operation: a copy of the payload at both ends, which up to INLINE costs less
 * than another message; for longer ones a message of 56 bytes.
 * Not seen here: that two ranks disagree of which neither awaits a message of the other (such as
 * two roots). Their next operation tells, or the cards of those who wait (wait.c). */
#include "comm/transport.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { INLINE = TD_HELLO_INLINE, MAGIC = 0x7d3a11ce };
#define MOST TD_COMM_PIECE

typedef struct hello {
    td_header header;
    uint64_t payload; /* bytes, of all its pieces */
    uint32_t magic, unused;
} hello;
_Static_assert(sizeof(hello) == TD_HELLO_BYTES, "a hello without holes");

typedef struct acquaintance {
    uint64_t told, heard; /* number of the operation in which a hello went last, each way */
    td_header last;       /* that came */
} acquaintance;

typedef struct td_greeting {
    uint64_t number; /* of operations with hellos */
    acquaintance *peer;
    char in[TD_HELLO_ROOM], out[TD_HELLO_ROOM];
} td_greeting;

static td_status greeting_of(td_comm *comm, td_greeting **out)
{
    *out = comm->greeting;
    if (comm->greeting) return TD_OK;
    td_greeting *g = td_calloc(1, sizeof *g);
    acquaintance *peer = td_calloc((size_t)comm->size, sizeof *peer);
    if (!g || !peer) {
        td_free(g);
        td_free(peer);
        return td_fail(TD_ERR_NOMEM, "no memory for the messages of %d ranks", comm->size);
    }
    g->peer = peer;
    *out = comm->greeting = g;
    return TD_OK;
}

void td_greeting_destroy(td_comm *comm)
{
    if (comm->greeting) td_free(comm->greeting->peer);
    td_free(comm->greeting);
    comm->greeting = NULL;
}

td_status td_greeting_begin(td_comm *comm)
{
    td_greeting *g;
    TD_TRY(greeting_of(comm, &g));
    g->number++;
    comm->greets = true;
    return TD_OK;
}

const td_header *td_greeting_last(const td_comm *comm, int rank)
{
    const td_greeting *g = comm->greeting;
    return g && g->peer[rank].last.sequence ? &g->peer[rank].last : NULL;
}

/* --- hellos --- */

static void write_hello(const td_comm *comm, size_t payload, char *to)
{
    hello h = {.header = comm->card.runs, .payload = payload, .magic = MAGIC};
    if (memcmp(to, &h, sizeof h) != 0) memcpy(to, &h, sizeof h); /* else it may be on its way */
}

static td_status judge(td_comm *comm, const td_request *q, hello *h)
{
    int me = comm->world[comm->rank], other = comm->world[q->peer];
    if (q->got >= sizeof *h) memcpy(h, q->data, sizeof *h);
    if (q->got < sizeof *h || h->magic != MAGIC)
        return td_fail(TD_ERR_INTERNAL, "rank %d sent rank %d a message without a header in %s",
                       other, me, comm->operation);
    comm->greeting->peer[q->peer].last = h->header;
    /* Memory that an operation gets for itself: its own rounds will tell all ranks. */
    if (q->tag == TD_TAG_SHARED && h->header.does != TD_DOES_SHARE &&
        comm->card.runs.does != TD_DOES_SHARE)
        return TD_OK;
    return td_header_compare(comm, q->peer, &h->header);
}

td_status td_hello_send(td_comm *comm, td_request *q, int peer, char *text, size_t with)
{
    write_hello(comm, with, text);
    *q = (td_request){.data = text,
                      .bytes = TD_HELLO_BYTES + with,
                      .peer = peer,
                      .tag = TD_TAG_COLLECTIVE};
    return comm->ops->isend(comm, q);
}

td_status td_hello_receive(td_comm *comm, td_request *q, int peer, char text[TD_HELLO_ROOM])
{
    *q = (td_request){.data = text,
                      .bytes = TD_HELLO_ROOM,
                      .peer = peer,
                      .tag = TD_TAG_COLLECTIVE,
                      .at_most = true};
    return comm->ops->irecv(comm, q);
}

td_status td_hello_compare(td_comm *comm, const td_request *received)
{
    hello h;
    return judge(comm, received, &h);
}

/* --- one exchange: up to two messages each way, all under way at once --- */

enum { HELLO_IN, DATA_IN, HELLO_OUT, DATA_OUT, MESSAGES };

typedef struct exchange {
    td_comm *comm;
    td_request request[MESSAGES];
    bool open[MESSAGES];
    char *in;
    size_t in_bytes; /* of all pieces */
    int turn;
} exchange;

static bool greets(const td_comm *comm, int tag)
{
    return (tag == TD_TAG_COLLECTIVE && comm->greets) || tag == TD_TAG_SHARED ||
           tag == TD_TAG_SPLIT;
}

static td_status start(exchange *e, int k, void *data, size_t bytes, int peer, int tag)
{
    td_request *q = &e->request[k];
    const td_transport_ops *ops = e->comm->ops;
    *q = (td_request){.data = data,
                      .bytes = bytes,
                      .peer = peer,
                      .tag = tag,
                      .at_most = k == HELLO_IN};
    TD_TRY((k == HELLO_IN || k == DATA_IN ? ops->irecv : ops->isend)(e->comm, q));
    e->open[k] = true;
    return TD_OK;
}

static td_status start_receive(exchange *e, int from, int tag, bool first)
{
    td_comm *comm = e->comm;
    size_t bytes = e->in_bytes < MOST ? e->in_bytes : MOST;
    if (first && greets(comm, tag)) {
        td_greeting *g;
        TD_TRY(greeting_of(comm, &g));
        bool known = tag == TD_TAG_COLLECTIVE && g->peer[from].heard == g->number;
        if (!known) {
            g->peer[from].heard = g->number;
            TD_TRY(start(e, HELLO_IN, g->in, sizeof g->in, from, tag));
            if (e->in_bytes <= INLINE) return TD_OK;
        }
    }
    return start(e, DATA_IN, e->in, bytes, from, tag);
}

static td_status start_send(exchange *e, const char *out, size_t all, int to, int tag, bool first)
{
    td_comm *comm = e->comm;
    size_t bytes = all < MOST ? all : MOST;
    if (first && greets(comm, tag)) {
        td_greeting *g;
        TD_TRY(greeting_of(comm, &g));
        bool known = tag == TD_TAG_COLLECTIVE && g->peer[to].told == g->number;
        if (!known) {
            size_t with = all <= INLINE ? all : 0;
            g->peer[to].told = g->number;
            write_hello(comm, all, g->out);
            if (with) memcpy(g->out + TD_HELLO_BYTES, out, with);
            TD_TRY(start(e, HELLO_OUT, g->out, TD_HELLO_BYTES + with, to, tag));
            if (all <= INLINE) return TD_OK;
        }
    }
    return start(e, DATA_OUT, (void *)(uintptr_t)out, bytes, to, tag);
}

/* The hello is there. */
static td_status greet(exchange *e)
{
    const td_request *q = &e->request[HELLO_IN];
    td_comm *comm = e->comm;
    hello h;
    TD_TRY(judge(comm, q, &h));
    if (h.payload != e->in_bytes)
        return td_fail(TD_ERR_ARG,
                       "rank %d gives %llu bytes where rank %d takes %zu in %s "
                       "(operation %llu)",
                       comm->world[q->peer], (unsigned long long)h.payload, comm->world[comm->rank],
                       e->in_bytes, comm->operation, (unsigned long long)comm->sequence);
    if (h.payload && h.payload <= INLINE)
        memcpy(e->in, (const char *)q->data + TD_HELLO_BYTES, h.payload);
    return TD_OK;
}

static td_status test(void *arg, bool *done)
{
    exchange *e = arg;
    *done = true;
    for (int k = 0; k < MESSAGES; k++) {
        bool ended;
        if (!e->open[k]) continue;
        TD_TRY(e->comm->ops->test(e->comm, &e->request[k], &ended));
        if (!ended) {
            *done = false;
            if (k == HELLO_IN) k = DATA_IN; /* not before its hello */
            continue;
        }
        e->open[k] = false;
        if (k == HELLO_IN) TD_TRY(greet(e));
    }
    return TD_OK;
}

/* Where both ways wait, each is looked after in turn, so that none's peer may leave unseen. */
static int missing(void *arg)
{
    exchange *e = arg;
    int found[MESSAGES], n = 0;
    for (int k = 0; k < MESSAGES; k++)
        if (e->open[k]) found[n++] = e->request[k].peer;
    return n ? found[e->turn++ % n] : -1;
}

static td_status finish(exchange *e)
{
    return td_comm_wait(e->comm, -1, e->comm->ops->bell(e->comm), test, missing, e);
}

td_status td_comm_exchange(td_comm *comm, const void *out, size_t out_bytes, int to, void *in,
                           size_t in_bytes, int from, int tag)
{
    const char *give = out;
    bool first = true, sends = to >= 0, receives = from >= 0;
    exchange e = {.comm = comm, .in = in, .in_bytes = in_bytes};
    td_status status = TD_OK;
    for (; sends || receives; first = false) {
        if (receives) TD_GOTO(start_receive(&e, from, tag, first));
        if (sends) TD_GOTO(start_send(&e, give, out_bytes, to, tag, first));
        TD_GOTO(finish(&e));
        size_t sent = sends && out_bytes > MOST ? MOST : out_bytes;
        size_t received = receives && e.in_bytes > MOST ? MOST : e.in_bytes;
        if (sends) comm->bytes_sent += sent;
        sends = sends && out_bytes > MOST, receives = receives && e.in_bytes > MOST;
        if (sends) give += sent, out_bytes -= sent;
        if (receives) e.in += received, e.in_bytes -= received;
    }
out:
    for (int k = 0; k < MESSAGES; k++)
        if (e.open[k]) comm->ops->cancel(comm, &e.request[k]);
    return status;
}

/* --- single requests --- */

typedef struct pending {
    td_comm *comm;
    td_request *request;
} pending;

static td_status test_request(void *arg, bool *done)
{
    pending *p = arg;
    return p->comm->ops->test(p->comm, p->request, done);
}

td_status td_comm_wait_request(td_comm *comm, td_request *request)
{
    pending p = {comm, request};
    td_status status =
        td_comm_wait(comm, request->peer, comm->ops->bell(comm), test_request, NULL, &p);
    if (status != TD_OK) comm->ops->cancel(comm, request);
    return status;
}
