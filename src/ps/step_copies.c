/* See step_copies.h. */
#include "ps/step_copies.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ps/giver.h"
#include "ps/moves.h"
#include "tandem/recover.h"

enum { PORTION = 4 << 20 };

struct td_step_copies {
    td_comm *comm;
    td_slices so_far, after;   /* maps: of what there is, and in the end */
    int32_t backup[TD_SLICES]; /* to be, by rank in the run */
    td_giver *giver;           /* NULL: nothing to give */
    bool cold;                 /* rows that were cold go first */
    td_moves *moves;
    uint8_t gone[TD_SLICES]; /* slices that are whole behind the portion */
};

static td_status prepare(td_step_copies *c, td_table *table, td_place *place, const td_route *route)
{
    int32_t to[TD_SLICES];
    bool gives = false;
    c->so_far = route->first, c->after = route->after;
    for (int k = 0; k < TD_SLICES; k++) {
        bool goes = route->first.backup[k] != route->now.backup[k];
        bool mine = place->primary[k] == td_comm_rank(c->comm);
        c->backup[k] = route->now.backup[k];
        to[k] = goes && mine ? td_slices_rank(c->comm, c->backup[k]) : -1;
        gives = gives || to[k] >= 0;
    }
    td_servers_expect(c->comm, &route->now, place);
    TD_TRY(td_moves_open(c->comm, table, &c->moves));
    if (!gives) return TD_OK;
    c->cold = true;
    return td_giver_open(table, &route->now, to, &c->giver);
}

td_status td_step_copies_open(td_comm *comm, td_table *table, td_place *place,
                              const td_route *route, td_step_copies **out)
{
    td_step_copies *c = td_calloc(1, sizeof *c);
    if (c) c->comm = comm;
    td_status status =
        c ? prepare(c, table, place, route) : td_fail(TD_ERR_NOMEM, "no memory to copy a table");
    status = td_comm_agree(comm, status);
    if (status == TD_OK)
        *out = c;
    else
        td_step_copies_close(c);
    return status;
}

static size_t packed(const td_step_copies *c)
{
    size_t bytes = 0;
    const td_items *items = td_moves_items(c->moves);
    for (int r = 0; r < td_comm_size(c->comm); r++) bytes += items[r].bytes;
    return bytes;
}

static td_status pack(td_step_copies *c)
{
    bool cold = c->cold; /* a key is in a portion once */
    for (int k = 0; k < TD_SLICES; k++) c->gone[k] = 0;
    while (c->cold && packed(c) < PORTION)
        TD_TRY(td_giver_cold(c->giver, td_moves_items(c->moves), &c->cold));
    while (c->giver && !cold && td_giver_next(c->giver) >= 0 && packed(c) < PORTION) {
        int slice = td_giver_next(c->giver);
        TD_TRY(td_giver_slice(c->giver, td_moves_items(c->moves)));
        c->gone[slice] = 1;
    }
    return TD_OK;
}

td_status td_step_copies_on(td_step_copies *c, td_place *place, bool *more)
{
    uint8_t come[TD_SLICES];
    int self = td_comm_rank_in_run(c->comm, td_comm_rank(c->comm));
    td_status status = pack(c);
    bool has_more = c->giver && td_giver_next(c->giver) >= 0;
    TD_TRY(td_moves_exchange(c->moves, status, has_more, more));
    TD_TRY(td_comm_allreduce(c->comm, c->gone, come, TD_SLICES, TD_U8, TD_MAX));
    for (int k = 0; k < TD_SLICES; k++) {
        if (!come[k]) continue;
        c->so_far.backup[k] = c->backup[k];
        place->here[k] = place->here[k] || c->backup[k] == self;
    }
    td_servers_follow(c->comm, *more ? &c->so_far : &c->after, place);
    return TD_OK;
}

void td_step_copies_close(td_step_copies *c)
{
    if (!c) return;
    td_giver_close(c->giver);
    td_moves_close(c->moves);
    td_free(c);
}
