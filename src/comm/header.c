#include "comm/header.h"

#include "base/error.h"
#include "comm/coll/coll.h"
#include "comm/recorder.h"

#include <stdio.h>
#include <string.h>

enum { WORDS = sizeof(td_header) / 8 };

const char *const td_type_names[] = {"f32", "f64", "i32", "i64", "u8", "f16", "bf16", NULL};
const char *const td_op_names[] = {"sum", "min", "max", "product", NULL};

static bool rooted(int does)
{
    return does == TD_BROADCAST || does == TD_SCATTER || does == TD_GATHER || does == TD_REDUCE;
}

static uint32_t hash_parts(const size_t *parts, int n)
{
    uint64_t h = 0x9e3779b97f4a7c15;
    for (int r = 0; r < n; r++) {
        h = (h ^ parts[r]) * 0xff51afd7ed558ccd;
        h ^= h >> 32;
    }
    return (uint32_t)h | 1;
}

void td_header_of_call(td_comm *comm, const td_call *call, int algorithm)
{
    td_header *h = &comm->card.runs;
    bool deals = call->pattern == TD_ALLTOALL && call->parts; /* sizes differ by right */
    h->bytes = deals ? 0 : call->bytes;
    h->parts = deals ? 1 : call->parts ? hash_parts(call->parts, comm->size) : 0;
    h->root = rooted(call->pattern) ? call->root : -1;
    h->width = call->pattern >= TD_REDUCE && call->how.combine ? (uint16_t)call->how.width : 0;
    h->algorithm = (uint8_t)(algorithm + 1);
    h->history = comm->history;
    if (comm->record && !comm->within) { /* of this call */
        comm->record->bytes = h->bytes, comm->record->parts = h->parts;
        comm->record->width = h->width, comm->record->algorithm = h->algorithm;
        comm->record->root = h->root < 0 ? -1 : comm->world[h->root];
    }
    uint64_t w[WORDS];
    memcpy(w, h, sizeof w);
    uint64_t mixed = w[0] * 0x9e3779b97f4a7c15 + w[1] * 0xff51afd7ed558ccd +
                     w[2] * 0xc4ceb9fe1a85ec53 + w[3] * 0xbf58476d1ce4e5b9 +
                     w[4] * 0x94d049bb133111eb;
    comm->history = mixed ^ mixed >> 32;
}

bool td_does_alone(int does)
{
    return does == TD_DOES_SEND || does == TD_DOES_RECV ||
           (does >= TD_DOES_PUSH && does <= TD_DOES_SERVE);
}

bool td_header_is_message(const td_header *h)
{
    return h->does == TD_DOES_SEND || h->does == TD_DOES_RECV;
}

bool td_header_same(const td_header *a, const td_header *b)
{
    uint64_t x[WORDS], y[WORDS], differ = 0; /* no call: this is in every operation's way */
    memcpy(x, a, sizeof x), memcpy(y, b, sizeof y);
    for (int k = 0; k < WORDS; k++) differ |= x[k] ^ y[k];
    return differ == 0;
}

static const char *name_of(const td_header *h)
{
    int does = h->within ? h->within : h->does;
    return does < TD_DOES_END ? td_does_names[does] : "?";
}

/* Of the run, where that rank is one of the group. */
static int in_run(const td_comm *comm, int rank)
{
    return rank >= 0 && rank < comm->size ? comm->world[rank] : rank;
}

void td_header_describe(const td_comm *comm, const td_header *h, char *text, size_t room)
{
    unsigned long long bytes = h->bytes;
    int n = snprintf(text, room, "%s", name_of(h));
    if (h->within || h->does == TD_BARRIER || (size_t)n >= room) return;
    text += n, room -= (size_t)n;
    if (td_header_is_message(h))
        n = snprintf(text, room, " of %llu bytes %s rank %d under tag %u", bytes,
                     h->does == TD_DOES_SEND ? "to" : "from", in_run(comm, h->root), h->parts);
    else if (h->width)
        n = snprintf(text, room, " (own operation of %llu bytes of items of %d)", bytes, h->width);
    else if (h->type <= TD_BF16 && h->op <= TD_PROD)
        n = snprintf(text, room, " (%s of %llu bytes of %s)", td_op_names[h->op], bytes,
                     td_type_names[h->type]);
    else if (h->does == TD_ALLTOALL && h->parts)
        n = snprintf(text, room, " of parts that differ");
    else if (bytes || h->does < TD_PATTERNS)
        n = snprintf(text, room, " of %llu bytes", bytes);
    else
        n = 0;
    if (rooted(h->does) && (size_t)n < room)
        snprintf(text + n, room - (size_t)n, " with root %d", in_run(comm, h->root));
}

static void give_up(td_comm *comm, td_given_up why)
{
    why.group = comm->card.group;
    why.runs = comm->card.runs;
    comm->card.gave_up = why;
    if (comm->ops->give_up) comm->ops->give_up(comm);
}

static bool gave_up(const td_comm *comm, const td_given_up *g)
{
    return g->group == comm->card.group && g->runs.sequence == comm->card.runs.sequence;
}

void td_comm_give_up(td_comm *comm, int missing)
{
    if (td_does_alone(comm->card.runs.does) || !comm->card.runs.sequence) return;
    if (gave_up(comm, &comm->card.gave_up)) return;
    give_up(comm, (td_given_up){.other = missing < 0 ? -1 : comm->world[missing]});
}

td_status td_header_compare(td_comm *comm, int rank, const td_header *theirs)
{
    const td_header *own = &comm->card.runs;
    if (td_header_same(own, theirs)) return TD_OK;
    give_up(comm, (td_given_up){.other = comm->world[rank], .mismatch = 1, .theirs = *theirs});
    char mine[160], other[160], number[32] = "", how[96] = "";
    td_header_describe(comm, own, mine, sizeof mine);
    td_header_describe(comm, theirs, other, sizeof other);
    td_header past = *theirs;
    past.history = own->history;
    if (td_header_same(own, &past))
        return td_fail(TD_ERR_ARG,
                       "rank %d ran other operations than rank %d before %s (operation "
                       "%llu)",
                       comm->world[rank], comm->world[comm->rank], mine,
                       (unsigned long long)own->sequence);
    if (theirs->sequence != own->sequence)
        snprintf(number, sizeof number, " (operation %llu)", (unsigned long long)theirs->sequence);
    else if (strcmp(mine, other) == 0 && theirs->parts != own->parts)
        snprintf(how, sizeof how, ": the sizes of their parts differ");
    else if (strcmp(mine, other) == 0)
        snprintf(how, sizeof how, ": by %s and by %s", td_coll_name(theirs->algorithm - 1),
                 td_coll_name(own->algorithm - 1));
    return td_fail(TD_ERR_ARG, "rank %d runs %s%s where rank %d runs %s (operation %llu)%s",
                   comm->world[rank], other, number, comm->world[comm->rank], mine,
                   (unsigned long long)own->sequence, how);
}

/* --- cards --- */

/* What that rank of the run ran in this group. */
static td_status judge(td_comm *comm, int world, const td_header *theirs)
{
    const td_header *own = &comm->card.runs;
    bool alone = td_does_alone(own->does) || td_does_alone(theirs->does) ||
                 own->does == TD_DOES_RECOVER || theirs->does == TD_DOES_RECOVER;
    if (own->sequence != theirs->sequence || alone) return TD_OK;
    if (own->within && own->within == theirs->within && own->step != theirs->step)
        return TD_OK; /* one is ahead */
    for (int r = 0; r < comm->size; r++) {
        if (comm->world[r] != world || r == comm->rank) continue;
        bool hosts_own = own->does == TD_DOES_SHARE && theirs->does == TD_DOES_SHARE &&
                         comm->host[r] != comm->host[comm->rank]; /* each host its own size */
        return hosts_own ? TD_OK : td_header_compare(comm, r, theirs);
    }
    return TD_OK;
}

td_status td_card_judge(td_comm *comm, int world, const td_card *card, bool waited_for)
{
    const td_given_up *g = &card->gave_up;
    if (card->group == comm->card.group) TD_TRY(judge(comm, world, &card->runs));
    if (td_does_alone(comm->card.runs.does) || !gave_up(comm, g)) return TD_OK;
    TD_TRY(judge(comm, world, &g->runs));
    if (g->mismatch) TD_TRY(judge(comm, g->other, &g->theirs));
    if (!waited_for) return TD_OK;
    char what[160], why[64] = "";
    td_header_describe(comm, &g->runs, what, sizeof what);
    if (g->other >= 0 && g->other != comm->world[comm->rank])
        snprintf(why, sizeof why,
                 g->mismatch ? ", because of rank %d," : ", having waited for rank %d,", g->other);
    return td_fail(TD_ERR_PEER, "rank %d gave up %s (operation %llu)%s while rank %d waited for it",
                   world, what, (unsigned long long)g->runs.sequence, why, comm->world[comm->rank]);
}

void td_card_describe(const td_comm *comm, const td_card *card, const td_header *last, char *text,
                      size_t room)
{
    char what[200], number[96] = "";
    if (card && card->waits == TD_LEFT) {
        snprintf(text, room, "has left");
    } else if (card) {
        unsigned long long operation = card->runs.sequence;
        if (card->group != comm->card.group) { /* whose ranks are not known here */
            snprintf(what, sizeof what, "%s", name_of(&card->runs));
            snprintf(number, sizeof number, " (operation %llu of another group, of %d ranks)",
                     operation, card->ranks);
        } else {
            td_header_describe(comm, &card->runs, what, sizeof what);
            if (!td_does_alone(card->runs.does))
                snprintf(number, sizeof number, " (operation %llu)", operation);
        }
        snprintf(text, room, "%s in %s%s", card->waits == TD_WAITS ? "is" : "was last seen", what,
                 number);
    } else if (last) {
        td_header_describe(comm, last, what, sizeof what);
        snprintf(text, room, "was last heard of in %s (operation %llu)", what,
                 (unsigned long long)last->sequence);
    } else {
        snprintf(text, room, "has not answered");
    }
}
