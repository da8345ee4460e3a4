/* See keyed_ticket.h. */
#include "comm/keyed_ticket.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

/* Bytes. SHORT: what threads' own caches of freed memory hold, which aligned memory passes by. */
enum { REGISTERED_FROM = 16 << 10, LINE = 64, SHORT = 1024 };
enum { PLACED_FROM = 16 /* a part: with less a place costs about what a copy does */ };

void td_ticket_free(td_ticket *t)
{
    if (!t) return;
    for (int s = 0; s < t->share_count; s++) {
        td_share *h = &t->shares[s];
        if (h->own_body) td_free(h->body);
        if (h->own_out) td_free(h->out);
        if (h->slot) td_keyed_release(h->slot);
    }
    td_free(t); /* with the answers */
}

/* Which server holds which key, and how much of the request each has. */
static int owner_of(const td_keyed *k, const td_ticket *t, size_t i)
{
    int servers = k->config.server_count;
    uint64_t key = t->parts.keys[i];
    if (t->parts.owner) return t->parts.owner[i];
    if (servers == 1) return 0;
    return k->config.owner ? k->config.owner(k->config.user, key, servers)
                           : td_keyed_owner(key, servers);
}

/* One server, and parts all of one width: nothing has to be looked at. */
static bool is_one_block(const td_keyed *k, const td_ticket *t)
{
    return k->config.server_count == 1 && !t->parts.owner && !t->sizes && t->parts.count;
}

static td_status deal_block(const td_keyed *k, td_ticket *t)
{
    size_t n = t->parts.count;
    if (!td_mul(n, k->config.width, &t->bytes) || t->bytes > PTRDIFF_MAX)
        return td_fail(TD_ERR_ARG, "%s: the parts are more than memory holds",
                       td_keyed_name(t->does));
    t->share_of[0] = t->share_count = 1;
    t->shares[0] = (td_share){.last = n - 1, .head.count = n, .head.in_bytes = t->bytes};
    return TD_OK;
}

static td_status deal(td_keyed *k, td_ticket *t)
{
    size_t n = t->parts.count, at = 0;
    int servers = k->config.server_count;
    if (is_one_block(k, t)) return deal_block(k, t);
    for (size_t i = 0; i < n; i++) {
        uint64_t key = t->parts.keys[i];
        int s = owner_of(k, t, i);
        if (s < 0 || s >= servers)
            return td_fail(TD_ERR_ARG, "%s: key %llu belongs to server %d, not one of 0..%d",
                           td_keyed_name(t->does), (unsigned long long)key, s, servers - 1);
        if (t->share_of[s] == 0) {
            t->share_of[s] = ++t->share_count;
            t->shares[t->share_count - 1] = (td_share){.server = s, .first = i, .offset = at};
        }
        t->owner[i] = t->share_of[s] - 1;
        td_share *mine = &t->shares[t->owner[i]];
        size_t bytes = td_ticket_size_of(k, t, i);
        mine->last = i;
        mine->head.count++;
        if (!td_add(at, bytes, &at) || at > PTRDIFF_MAX)
            return td_fail(TD_ERR_ARG, "%s: the parts are more than memory holds",
                           td_keyed_name(t->does));
        mine->head.in_bytes += bytes; /* of either direction, until seal */
    }
    t->bytes = at;
    for (int s = 0; s < servers && t->parts.everywhere; s++) {
        if (t->share_of[s] || (t->parts.only && t->parts.only != s + 1)) continue;
        t->share_of[s] = ++t->share_count;
        t->shares[t->share_count - 1] = (td_share){.server = s, .last = SIZE_MAX};
    }
    return TD_OK;
}

void td_share_lie_in_slot(td_share *h)
{
    h->slot->head = h->head;
    h->slot->in = h->from, h->slot->out = h->to;
    h->body = td_keyed_keys_in(h->pair, h->slot);
    h->values = td_keyed_values_in(h->pair, h->slot);
    if (h->head.out_bytes && !h->to.number) h->out = td_keyed_out_in(h->pair, h->slot);
}

static td_registered find_lined_up(const void *base, size_t offset, size_t bytes)
{
    const char *at = (const char *)base + offset;
    bool fits = bytes >= REGISTERED_FROM && (uintptr_t)at % LINE == 0;
    return fits ? td_registered_find(at, bytes) : (td_registered){0};
}

/* What the server may read and write where it lies, lined up as a slot's values are: not through
 * one place, as it would see what it has written. Of in-place parts all of the request's. */
static void find_registered(const td_ticket *t, td_share *h)
{
    size_t in = h->head.in_bytes, out = h->head.out_bytes;
    if (!h->together) in = in ? t->bytes : 0, out = out ? t->bytes : 0;
    if (in) h->from = find_lined_up(t->parts.in, h->offset, in);
    if (out && !h->from.number) h->to = find_lined_up(t->parts.out, h->offset, out);
}

/* Whether the share's parts, which do not lie together, may be left where they are. */
static bool may_stay(const td_keyed *k, const td_ticket *t, const td_share *h)
{
    bool told = t->parts.in_place && !t->sizes && k->config.width >= PLACED_FROM;
    if (!told || h->together || !h->head.count || t->parts.count > UINT32_MAX) return false;
    return k->desk_of[h->server] || (h->pair && t->does != TD_PUSH_PULL);
}

/* Which of its values are not copied. */
static void leave_in_place(const td_keyed *k, const td_ticket *t, td_share *h)
{
    size_t offset = h->offset;
    bool stays = may_stay(k, t, h);
    if (stays) h->offset = 0;
    if (h->pair && (h->together || stays)) find_registered(t, h);
    h->head.placed = stays && (!h->pair || h->from.number || h->to.number);
    if (!h->head.placed) h->offset = offset;
}

/* Where the share's parts lie until they are sent or fetched, and where pulled ones arrive: a
 * message that comes when the request has been given up must not find memory of the caller's. */
static bool make_places(td_keyed *k, const td_ticket *t, td_share *h)
{
    size_t bytes = h->head.in_bytes + h->head.out_bytes;
    h->pair = td_keyed_pair_with(k, h->server);
    leave_in_place(k, t, h);
    size_t keys = td_keyed_key_bytes(&h->head);
    if (h->pair && !td_ticket_is_behind(k, NULL, h->server)) h->slot = td_keyed_take(h->pair);
    if (h->slot) {
        td_share_lie_in_slot(h);
        return true;
    }
    size_t body = keys + (td_share_copies_in(h) ? h->head.in_bytes : 0);
    h->body = body <= SHORT ? td_malloc(body) : td_alloc_aligned(body);
    h->own_body = true;
    h->values = h->body ? h->body + keys : NULL;
    if (!h->head.out_bytes || h->pair) return h->body != NULL;
    h->own_out = td_share_scatters(h) || !k->desk_of[h->server];
    h->out = !h->own_out ? (char *)t->parts.out + h->offset : td_alloc_aligned(bytes);
    return h->body && h->out;
}

/* Heads and places. */
static td_status seal(td_keyed *k, td_ticket *t)
{
    const size_t most = (size_t)1 << 30;
    for (int s = 0; s < t->share_count; s++) {
        td_share *h = &t->shares[s];
        size_t bytes = h->head.in_bytes;
        if (bytes > most || h->head.count > most / 16)
            return td_fail(TD_ERR_ARG,
                           "%s: %zu bytes of %zu keys go to rank %d; one request may move 1 GiB "
                           "and 67,108,864 keys to a server",
                           td_keyed_name(t->does), bytes, (size_t)h->head.count,
                           k->comm->world[k->servers[h->server]]);
        h->together = h->last - h->first + 1 == h->head.count;
        h->head.does = t->does;
        if (t->parts.note) memcpy(h->head.note, t->parts.note, TD_KEYED_NOTE);
        h->head.sized = t->sizes != NULL;
        h->head.in_bytes = t->does & TD_PUSH ? bytes : 0;
        h->head.out_bytes = t->does & TD_PULL ? bytes : 0;
        h->head.apart = h->head.in_bytes > TD_KEYED_INLINE;
        if (!make_places(k, t, h))
            return td_fail(TD_ERR_NOMEM, "no memory for a %s of %zu bytes", td_keyed_name(t->does),
                           bytes);
    }
    return TD_OK;
}

/* Keys, sizes or places, and values to where they are sent from. */
static void fill(td_keyed *k, td_ticket *t)
{
    const char *in = t->parts.in;
    bool block = is_one_block(k, t);
    if (block) memcpy(t->shares->body, t->parts.keys, t->parts.count * sizeof *t->parts.keys);
    for (size_t i = 0, at = 0; i < t->parts.count && !block; i++) {
        td_share *h = &t->shares[t->owner[i]];
        size_t bytes = td_ticket_size_of(k, t, i);
        uint64_t *keys = (uint64_t *)(void *)h->body;
        keys[h->put] = t->parts.keys[i];
        if (h->head.sized) keys[h->head.count + h->put] = bytes;
        if (h->head.placed) ((uint32_t *)(keys + h->head.count))[h->put] = (uint32_t)i;
        if (td_share_copies_in(h) && !h->together) memcpy(h->values + h->filled, in + at, bytes);
        h->put++;
        h->filled += bytes;
        at += bytes;
    }
    for (int s = 0; s < t->share_count; s++) {
        td_share *h = &t->shares[s];
        if (td_share_copies_in(h) && h->together)
            memcpy(h->values, in + h->offset, h->head.in_bytes);
    }
}

/* With all its arrays in one allocation: short requests would take as long to find memory for as to
 * be served. */
static td_ticket *create(const td_parts *parts, size_t servers)
{
    size_t n = parts->count, most = servers < n || parts->everywhere ? servers : n + 1;
    size_t sizes = parts->sizes ? n * sizeof *parts->sizes : 0, owner = n * sizeof *parts->owner;
    size_t shares = most * sizeof(td_share), share_of = servers * sizeof *parts->owner;
    size_t bytes = sizeof(td_ticket) + shares + share_of;
    bool fits = td_add(bytes, owner, &bytes) && td_add(bytes, sizes, &bytes);
    char *at = fits ? td_malloc(bytes) : NULL;
    if (!at) return NULL;
    td_ticket *t = (td_ticket *)(void *)at;
    *t = (td_ticket){.parts = *parts, .shares = (td_share *)(void *)(at + sizeof *t)};
    at += sizeof *t + shares;
    if (parts->sizes) t->sizes = memcpy(at, parts->sizes, sizes);
    t->share_of = memset(at + sizes, 0, share_of);
    t->owner = t->share_of + servers;
    return t;
}

td_status td_ticket_make(td_keyed *k, td_keyed_does does, const td_parts *parts, td_ticket **out)
{
    td_ticket *t = create(parts, (size_t)k->config.server_count);
    if (!t) return td_fail(TD_ERR_NOMEM, "no memory for a request of %zu keys", parts->count);
    t->does = does;
    td_status status = deal(k, t);
    if (status == TD_OK) status = seal(k, t);
    if (status == TD_OK) fill(k, t);
    if (status != TD_OK) {
        td_ticket_free(t);
        return status;
    }
    *out = t;
    return TD_OK;
}

static bool waits_at(const td_ticket *t, int server)
{
    int s = t->share_of[server];
    return s > 0 && t->shares[s - 1].put_off;
}

/* An older request that waits at the same desk comes first. */
bool td_ticket_is_behind(const td_keyed *k, const td_ticket *t, int server)
{
    for (const td_ticket *older = k->first; older && older != t; older = older->next)
        if (waits_at(older, server)) return true;
    return false;
}
