/* The asking side of push and pull. See tandem/keyed.h and keyed_impl.h. */
#include "comm/keyed_ticket.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <string.h>

enum { LOOK_NS = 1000000, IN_HAND_NS = 2000000000 /* of what is given up, all together */ };

/* --- sending it --- */

static td_status post(td_keyed *k, td_share *h, bool sends, void *data, size_t bytes, int kind)
{
    const td_transport_ops *ops = k->comm->ops;
    td_request *r = &h->request[h->requests];
    *r = (td_request){.data = data,
                      .bytes = bytes,
                      .peer = k->servers[h->server],
                      .tag = TD_TAG_KEYED + kind};
    TD_TRY(sends ? ops->isend(k->comm, r) : ops->irecv(k->comm, r));
    h->requests++;
    if (sends) k->comm->bytes_sent += bytes;
    return TD_OK;
}

/* See keyed_impl.h for the messages. */
static td_status send_share(td_keyed *k, const td_ticket *t, td_share *h)
{
    const td_keyed_head *head = &h->head;
    TD_TRY(post(k, h, false, &h->answer, sizeof h->answer, 3));
    if (head->out_bytes) TD_TRY(post(k, h, false, h->out, head->out_bytes, 4));
    TD_TRY(post(k, h, true, &h->head, sizeof h->head, 0));
    if (td_keyed_body(head)) TD_TRY(post(k, h, true, h->body, td_keyed_body(head), 1));
    if (!head->apart) return TD_OK;
    const char *user = (const char *)t->parts.in + h->offset;
    char *values = h->together ? (char *)(uintptr_t)user : h->values;
    return post(k, h, true, values, head->in_bytes, 2);
}

/* At the desk of a rank at hand. */
static td_keyed_turn go_to_desk(td_keyed *k, const td_ticket *t, td_share *h, bool waits)
{
    const char *user = (const char *)t->parts.in + (t->parts.in ? h->offset : 0);
    const char *in = td_share_copies_in(h) ? h->values : user;
    td_keyed_request request = td_keyed_request_of(&h->head, k->comm->rank, h->body, in, h->out);
    return td_keyed_call(k->desk_of[h->server], waits, &request, &h->answer);
}

/* Pulled values to the user's memory, the first `upto` bytes, as far as they lie together; scatter
 * does the rest. */
static void take_values(const td_ticket *t, td_share *h, size_t upto)
{
    if (!h->together || h->to.number || upto <= h->taken) return;
    memcpy((char *)t->parts.out + h->offset + h->taken, h->out + h->taken, upto - h->taken);
    h->taken = upto;
}

static void take_written(const td_ticket *t, td_share *h)
{
    if (h->head.out_bytes)
        take_values(t, h, atomic_load_explicit(&h->slot->written, memory_order_acquire));
}

/* Nothing has been pulled to where the server was to write. */
static void clear_pulled(const td_ticket *t, const td_share *h)
{
    char *out = (char *)t->parts.out + h->offset;
    td_keyed_request request = td_keyed_request_of(&h->head, -1, h->body, NULL, out);
    td_keyed_clear(&request);
}

static void collect(const td_ticket *t, td_share *h)
{
    h->answer = h->slot->answer;
    if (h->answer.status != TD_OK) h->taken = 0; /* all are 0 */
    if (h->answer.status != TD_OK && h->to.number) clear_pulled(t, h);
    take_values(t, h, h->head.out_bytes);
}

/* What has been answered of requests that nobody waits for yet makes room: false, there is none. */
static bool clear_a_slot(td_keyed *k, const td_keyed_pair *pair)
{
    for (td_ticket *t = k->first; t; t = t->next)
        for (int s = 0; s < t->share_count; s++) {
            td_share *h = &t->shares[s];
            if (h->pair != pair || !h->slot || !td_keyed_answered(h->slot)) continue;
            size_t bytes = td_share_scatters(h) ? h->head.out_bytes : 0;
            char *out = bytes ? td_alloc_aligned(bytes) : NULL;
            if (bytes && !out) continue;
            if (bytes) memcpy(out, h->out, bytes);
            collect(t, h);
            td_keyed_release(h->slot);
            h->slot = NULL, h->body = NULL;
            h->out = out, h->own_out = out != NULL;
            return true;
        }
    return false;
}

/* Into a slot that has become free; false: none has. */
static bool go_to_room(td_keyed *k, td_share *h)
{
    char *body = h->body, *values = h->values;
    h->slot = td_keyed_take(h->pair);
    if (!h->slot && clear_a_slot(k, h->pair)) h->slot = td_keyed_take(h->pair);
    if (!h->slot) return false;
    td_share_lie_in_slot(h);
    memcpy(h->body, body, td_keyed_key_bytes(&h->head));
    if (td_share_copies_in(h)) memcpy(h->values, values, h->head.in_bytes);
    td_free(body);
    h->own_body = false;
    td_keyed_ask(k, h->server, h->slot);
    return true;
}

/* First to those where nobody is: two that want the same ones would else meet at each. */
static void go_to_desks(td_keyed *k, td_ticket *t)
{
    int busy = 0;
    for (int waits = 0; waits < 2; waits++) {
        for (int s = 0; s < t->share_count; s++) {
            td_share *h = &t->shares[s];
            if (!k->desk_of[h->server] || (waits && !h->busy)) continue;
            td_keyed_turn turn = td_ticket_is_behind(k, NULL, h->server)
                                     ? TD_KEYED_PUT_OFF
                                     : go_to_desk(k, t, h, waits);
            h->busy = turn == TD_KEYED_BUSY;
            busy += h->busy;
            h->put_off = !h->busy && turn != TD_KEYED_SERVED;
            k->put_off += h->put_off;
        }
        if (!busy) return;
    }
}

static void try_desks(td_keyed *k)
{
    for (td_ticket *t = k->first; t && k->put_off; t = t->next)
        for (int s = 0; s < t->share_count; s++) {
            td_share *h = &t->shares[s];
            if (!h->put_off || td_ticket_is_behind(k, t, h->server)) continue;
            if (h->pair ? !go_to_room(k, h) : go_to_desk(k, t, h, true) != TD_KEYED_SERVED)
                continue;
            h->put_off = false;
            k->put_off--;
        }
}

/* Its answers may come, though nobody takes them. */
static void cancel(td_keyed *k, td_ticket *t)
{
    for (int s = 0; s < t->share_count; s++) {
        k->comm->spoiled = k->comm->spoiled || t->shares[s].requests;
        for (int r = 0; r < t->shares[s].requests; r++)
            k->comm->ops->cancel(k->comm, &t->shares[s].request[r]);
        k->put_off -= t->shares[s].put_off;
        t->shares[s].put_off = false;
    }
}

/* Takes back what has been asked of servers that share memory with this rank. */
static void withdraw_all(td_keyed *k, int64_t until)
{
    for (td_ticket *t = k->first; t; t = t->next)
        for (int s = 0; s < t->share_count; s++) {
            td_share *h = &t->shares[s];
            if (!h->slot || h->withdrawn) continue;
            bool names = h->from.number || h->to.number; /* memory of this rank's */
            h->withdrawn = td_keyed_withdraw(k, h->server, h->slot, names ? until : 0);
        }
}

/* The channel serves no more, and who asks gets back the memory that requests name, also of those
 * that nobody will wait for: first of those that no server has in hand, lest it goes on to them. */
static void break_off(td_keyed *k)
{
    k->broken = true;
    withdraw_all(k, 0);
    withdraw_all(k, td_clock_ns() + IN_HAND_NS);
}

void td_keyed_give_up(td_keyed *k)
{
    if (k->first) break_off(k);
    for (td_ticket *t = k->first, *next; t; t = next) {
        next = t->next;
        cancel(k, t);
        td_ticket_free(t);
    }
    k->first = NULL;
    k->last = &k->first;
}

static bool has_values(const td_keyed *k, const td_parts *p)
{
    if (!p->sizes) return p->count && k->config.width;
    for (size_t i = 0; i < p->count; i++)
        if (p->sizes[i]) return true;
    return false;
}

static td_status lost_a_rank(td_keyed_does does)
{
    return td_fail(TD_ERR_PEER, "%s: the channel lost a rank before", td_keyed_name(does));
}

td_status td_keyed_check(const td_keyed *k, td_keyed_does does, const td_parts *p)
{
    TD_TRY(td_comm_check_given(k, "keyed parts", "channel"));
    TD_TRY(td_comm_check_given(p, "keyed parts", "parts"));
    if (does < TD_PUSH || does > TD_PUSH_PULL)
        return td_fail(TD_ERR_ARG, "keyed parts: %d is neither push nor pull", (int)does);
    if (k->finished)
        return td_fail(TD_ERR_ARG, "%s: the channel has been finished", td_keyed_name(does));
    if (k->broken) return lost_a_rank(does);
    if (p->count > PTRDIFF_MAX / sizeof *p->keys)
        return td_fail(TD_ERR_ARG, "%s: %zu keys are more than memory holds", td_keyed_name(does),
                       p->count);
    if (p->only < 0 || p->only > k->config.server_count)
        return td_fail(TD_ERR_ARG, "%s: only %d is none of 1..%d, servers' numbers plus 1, nor 0",
                       td_keyed_name(does), p->only, k->config.server_count);
    if (p->count && !p->keys)
        return td_fail(TD_ERR_ARG, "%s: no keys for %zu parts", td_keyed_name(does), p->count);
    if (has_values(k, p) && ((does & TD_PUSH && !p->in) || (does & TD_PULL && !p->out)))
        return td_fail(TD_ERR_ARG, "%s: no buffer for %zu parts", td_keyed_name(does), p->count);
    return TD_OK;
}

/* Desks answer at once, also when a rank has died and the others have given the group up: who asks
 * nothing but desks never waits, and would not hear of it. */
static td_status look_after_group(td_keyed *k, const char *operation)
{
    int64_t now = td_clock_ns();
    if (now - k->looked_at < LOOK_NS) return TD_OK;
    k->looked_at = now;
    k->comm->operation = operation;
    td_status status = k->comm->ops->check(k->comm, -1);
    if (status != TD_OK) break_off(k);
    return status;
}

td_status td_keyed_start(td_keyed *k, td_keyed_does does, const td_parts *parts, uint64_t *ticket)
{
    td_ticket *t = NULL;
    TD_TRY(td_keyed_check(k, does, parts));
    TD_TRY(td_comm_check_given(ticket, td_keyed_name(does), "place for the ticket"));
    TD_TRY(look_after_group(k, td_keyed_name(does)));
    TD_TRY(td_ticket_make(k, does, parts, &t));
    td_status status = TD_OK;
    for (int s = 0; s < t->share_count && status == TD_OK; s++)
        if (!k->desk_of[t->shares[s].server] && !t->shares[s].pair)
            status = send_share(k, t, &t->shares[s]);
    if (status != TD_OK) {
        cancel(k, t);
        td_ticket_free(t);
        break_off(k);
        return status;
    }
    for (int s = 0; s < t->share_count; s++) {
        td_share *h = &t->shares[s];
        h->put_off = h->pair && !h->slot;
        k->put_off += h->put_off;
        if (h->slot) td_keyed_ask(k, h->server, h->slot);
    }
    go_to_desks(k, t); /* while messages travel */
    t->number = *ticket = ++k->tickets;
    *k->last = t;
    k->last = &t->next;
    return TD_OK;
}

/* --- its end --- */

typedef struct waiting {
    td_keyed *keyed;
    td_ticket *ticket;
    int missing; /* rank, or -1 */
    bool serves; /* others meanwhile */
} waiting;

static td_status test_ticket(void *arg, bool *done)
{
    waiting *w = arg;
    w->missing = -1;
    *done = true;
    if (w->serves) td_keyed_serve_some(w->keyed);
    try_desks(w->keyed);
    for (int s = 0; s < w->ticket->share_count; s++) {
        td_share *h = &w->ticket->shares[s];
        bool answered = h->slot && td_keyed_answered(h->slot);
        if (h->withdrawn && h->slot && !answered) return lost_a_rank(w->ticket->does);
        if (h->put_off || (h->slot && !answered)) {
            if (!h->put_off) take_written(w->ticket, h);
            w->missing = w->keyed->servers[h->server];
            *done = false;
        }
        for (int r = 0; r < w->ticket->shares[s].requests; r++) {
            td_request *request = &w->ticket->shares[s].request[r];
            bool one = false;
            TD_TRY(w->keyed->comm->ops->test(w->keyed->comm, request, &one));
            if (!one && *done) w->missing = request->peer;
            *done = *done && one;
        }
    }
    return TD_OK;
}

static int missing_server(void *arg)
{
    return ((waiting *)arg)->missing;
}

/* Pulled parts go to their places, but for those that are there. */
static void scatter(const td_keyed *k, td_ticket *t)
{
    char *out = t->parts.out;
    bool scatters = false;
    for (int s = 0; s < t->share_count; s++) {
        td_share *h = &t->shares[s];
        h->filled = 0;
        scatters = scatters || td_share_scatters(h);
        if (h->together && h->own_out) memcpy(out + h->offset, h->out, h->head.out_bytes);
    }
    if (!scatters) return;
    for (size_t i = 0, at = 0; i < t->parts.count; i++) {
        td_share *h = &t->shares[t->owner[i]];
        size_t bytes = td_ticket_size_of(k, t, i);
        if (td_share_scatters(h) && bytes) memcpy(out + at, h->out + h->filled, bytes);
        h->filled += bytes;
        at += bytes;
    }
}

/* What rings when the ticket's servers have answered; NULL: nothing does. */
static td_bell *bell_of(const td_keyed *k, const td_ticket *t)
{
    if (k->put_off) return NULL; /* desks ring no one's */
    bool messages = false, rooms = false;
    for (int s = 0; s < t->share_count; s++) {
        messages = messages || t->shares[s].requests;
        rooms = rooms || t->shares[s].slot;
    }
    if (messages && rooms) return NULL;
    return rooms ? td_keyed_room_bell(k) : k->comm->ops->bell(k->comm);
}

static td_status verdict(const td_keyed *k, const td_ticket *t)
{
    for (int s = 0; s < t->share_count; s++) {
        const td_share *h = &t->shares[s];
        if (h->answer.status == TD_OK) continue;
        td_status status = td_fail_again((td_status)h->answer.status, h->answer.sentence);
        return td_fail_within(status, "%s at rank %d: ", td_keyed_name(t->does),
                              k->comm->world[k->servers[h->server]]);
    }
    return TD_OK;
}

static td_status wait_only(td_keyed *k, waiting *w)
{
    return td_comm_wait(k->comm, -1, bell_of(k, w->ticket), test_ticket, missing_server, w);
}

/* The service sleeps meanwhile: this thread takes its core. */
static td_status wait_and_serve(td_keyed *k, waiting *w)
{
    k->comm->crowded = k->ranks_crowd;
    td_keyed_answers_itself(k);
    td_status status = wait_only(k, w);
    td_keyed_answers_no_more(k);
    k->comm->crowded = true;
    return status;
}

static td_status wait_ticket(td_keyed *k, td_ticket **place)
{
    td_ticket *t = *place;
    waiting w = {k, t, -1, k->service && k->comm->crowded && td_keyed_asked_bell(k)};
    td_note note = {TD_DOES_PUSH + (int)t->does - 1, t->bytes, -1, -1, -1};
    struct td_record *record = td_comm_begin(k->comm, &note);
    td_status status = w.serves ? wait_and_serve(k, &w) : wait_only(k, &w);
    if (status != TD_OK) {
        break_off(k);
        cancel(k, t);
    } else {
        for (int s = 0; s < t->share_count; s++)
            if (t->shares[s].slot) collect(t, &t->shares[s]);
        if (t->does & TD_PULL) scatter(k, t);
        for (int s = 0; s < t->share_count && t->parts.answers; s++)
            memcpy((char *)t->parts.answers + t->shares[s].server * TD_KEYED_NOTE,
                   t->shares[s].answer.note, TD_KEYED_NOTE);
        status = verdict(k, t);
    }
    *place = t->next;
    if (k->last == &t->next) k->last = place;
    td_ticket_free(t);
    return td_comm_end(record, status);
}

static td_ticket **find(td_keyed *k, uint64_t number)
{
    td_ticket **at = &k->first;
    while (*at && (*at)->number != number) at = &(*at)->next;
    return at;
}

bool td_keyed_done(td_keyed *k, uint64_t ticket)
{
    bool done = true;
    waiting w = {k, k ? *find(k, ticket) : NULL, -1, false};
    if (!w.ticket) return true;
    td_status status = test_ticket(&w, &done);
    int64_t now = done ? 0 : td_clock_ns();
    if (status == TD_OK && !done && now - k->asked_at >= LOOK_NS) {
        k->asked_at = now;
        k->comm->operation = td_keyed_name(w.ticket->does);
        status = k->comm->ops->check(k->comm, w.missing);
    }
    if (status != TD_OK) td_error_clear(); /* the wait meets it again */
    return done || status != TD_OK;
}

td_status td_keyed_wait(td_keyed *k, uint64_t ticket)
{
    TD_TRY(td_comm_check_given(k, "keyed parts", "channel"));
    if (ticket) {
        td_ticket **at = find(k, ticket);
        if (*at) return wait_ticket(k, at);
        return td_fail(TD_ERR_ARG, "keyed parts: no request %llu is under way",
                       (unsigned long long)ticket);
    }
    td_status worst = TD_OK;
    char sentence[512] = "";
    while (k->first) {
        td_status status = wait_ticket(k, &k->first);
        if (status != TD_OK && worst == TD_OK) {
            worst = status;
            strncpy(sentence, td_last_error(), sizeof sentence - 1);
        }
        if (status != TD_OK && k->broken) td_keyed_give_up(k); /* who is silent stays so */
    }
    return worst == TD_OK ? TD_OK : td_fail_again(worst, sentence);
}

static td_status start_and_wait(td_keyed *k, td_keyed_does does, const td_parts *parts)
{
    uint64_t ticket;
    TD_TRY(td_keyed_start(k, does, parts, &ticket));
    return td_keyed_wait(k, ticket);
}

td_status td_keyed_push(td_keyed *k, const td_parts *parts)
{
    return start_and_wait(k, TD_PUSH, parts);
}

td_status td_keyed_pull(td_keyed *k, const td_parts *parts)
{
    return start_and_wait(k, TD_PULL, parts);
}
