/* Messages under way: as many requests of the transport as the message has pieces, all begun at
 * once. The transport moves them; whoever asks or waits only looks. */
#include "comm/message.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <string.h>

enum { LOOK_NS = 1000000 };

struct td_message {
    td_comm *comm;
    char *data;
    size_t bytes;
    int peer, tag, pieces;
    bool sends, started;
    td_message *next, **place; /* among the group's that are started */
    int64_t looked_at;         /* ns: after its peer, by td_message_done; 0: not yet */
    td_status failed;          /* as td_message_done saw it, for the wait */
    char sentence[512];
    td_request request[]; /* [pieces] */
};

const char *td_message_name(const td_message *m)
{
    return td_does_names[m->sends ? TD_DOES_SEND : TD_DOES_RECV];
}

td_status td_message_create(td_comm *comm, bool sends, void *data, size_t bytes, int peer, int tag,
                            td_message **out)
{
    TD_TRY(td_comm_check_peer(comm, data, bytes, peer, tag, sends ? "send" : "recv"));
    size_t pieces = bytes ? (bytes - 1) / TD_COMM_PIECE + 1 : 1;
    td_message *m = td_calloc(1, sizeof *m + pieces * sizeof m->request[0]);
    if (!m) return td_fail(TD_ERR_NOMEM, "no memory for a message");
    *m = (td_message){.comm = comm,
                      .data = data,
                      .bytes = bytes,
                      .peer = peer,
                      .tag = tag,
                      .pieces = (int)pieces,
                      .sends = sends};
    td_comm_hold(comm);
    *out = m;
    return TD_OK;
}

void td_message_destroy(td_message *m)
{
    if (m) td_comm_let_go(m->comm);
    td_free(m);
}

bool td_message_is_orphan(const td_message *m)
{
    return m->comm->closed;
}

static void cancel(td_message *m, int pieces)
{
    for (int k = 0; k < pieces; k++) m->comm->ops->cancel(m->comm, &m->request[k]);
}

static void begin(td_message *m)
{
    td_message **first = &m->comm->messages;
    m->next = *first, m->place = first;
    if (m->next) m->next->place = &m->next;
    *first = m;
    m->started = true;
    m->looked_at = 0;
    m->failed = TD_OK;
}

static void end(td_message *m)
{
    m->started = false;
    if (!m->place) return;
    *m->place = m->next;
    if (m->next) m->next->place = m->place;
    m->place = NULL;
}

td_status td_message_start(td_message *m)
{
    td_status (*post)(td_comm *, td_request *) =
        m->sends ? m->comm->ops->isend : m->comm->ops->irecv;
    size_t at = 0;
    for (int k = 0; k < m->pieces; k++) {
        size_t left = m->bytes - at, bytes = left < TD_COMM_PIECE ? left : TD_COMM_PIECE;
        m->request[k] = (td_request){.data = m->data ? m->data + at : NULL,
                                     .bytes = bytes,
                                     .peer = m->peer,
                                     .tag = m->tag};
        td_status status = post(m->comm, &m->request[k]);
        if (status != TD_OK) {
            cancel(m, k);
            return status;
        }
        at += bytes;
    }
    begin(m);
    if (m->sends) m->comm->bytes_sent += m->bytes;
    return TD_OK;
}

bool td_message_under_way(const td_message *m)
{
    return m->started;
}

static td_status test_pieces(void *arg, bool *done)
{
    td_message *m = arg;
    *done = true;
    for (int k = 0; k < m->pieces; k++) {
        bool one = false;
        TD_TRY(m->comm->ops->test(m->comm, &m->request[k], &one));
        *done = *done && one;
    }
    return TD_OK;
}

/* Who asks again and again waits as well: it is to hear of a peer that will not answer. */
static td_status look(td_message *m, bool *done)
{
    *done = true;
    TD_TRY(test_pieces(m, done));
    int64_t now = *done ? 0 : td_clock_ns();
    if (*done || now - m->looked_at < LOOK_NS) return TD_OK;
    m->looked_at = now;
    td_status status = m->comm->ops->check(m->comm, m->peer);
    if (status == TD_OK) return TD_OK;
    TD_TRY(test_pieces(m, done)); /* it may have come before the failure */
    return *done ? TD_OK : status;
}

bool td_message_done(td_message *m)
{
    bool done = true;
    const char *before = m->comm->operation;
    if (!m->started || m->comm->closed) return true;
    m->comm->operation = td_message_name(m);
    if (m->failed == TD_OK && (m->failed = look(m, &done)) != TD_OK) {
        m->comm->spoiled = true;
        strncpy(m->sentence, td_last_error(), sizeof m->sentence - 1);
        td_error_clear();
    }
    done = done || m->failed != TD_OK;
    m->comm->operation = before;
    return done;
}

td_status td_message_wait(td_message *m)
{
    if (!m->started) return TD_OK;
    if (m->comm->closed) end(m);
    TD_TRY(td_comm_check_open(m->comm, td_message_name(m)));
    td_note note =
        {m->sends ? TD_DOES_SEND : TD_DOES_RECV, m->bytes, -1, -1, m->peer, (unsigned)m->tag};
    struct td_record *record = td_comm_begin(m->comm, &note);
    td_status status =
        m->failed != TD_OK
            ? td_fail_again(m->failed, m->sentence)
            : td_comm_wait(m->comm, m->peer, m->comm->ops->bell(m->comm), test_pieces, NULL, m);
    if (status != TD_OK) cancel(m, m->pieces);
    end(m);
    return td_comm_end(record, status);
}

void td_messages_withdraw(td_comm *comm)
{
    for (td_message *m = comm->messages; m; m = comm->messages) {
        bool done = false;
        td_status status = test_pieces(m, &done);
        if (status != TD_OK) td_error_clear();
        comm->spoiled = comm->spoiled || !done || status != TD_OK;
        cancel(m, m->pieces);
        comm->messages = m->next, m->place = NULL;
        if (m->next) m->next->place = &comm->messages;
    }
}
