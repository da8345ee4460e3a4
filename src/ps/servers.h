/* Which ranks of a group serve a table, and which of its keys each has. */
#ifndef TD_PS_SERVERS_H
#define TD_PS_SERVERS_H

#include "ps/slices.h"
#include "ps/table.h"
#include "tandem/comm.h"

/* The same at all ranks. */
typedef struct td_servers { /* up to TD_MOST_SERVERS */
    const int *rank;        /* [count] of the group, all different; NULL: all ranks */
    int count;              /* with `rank` */
    int replicas;  /* 1: each slice is at a second server, too (with two servers or more) */
    uint64_t rows; /* a dense table: its keys are 0..rows - 1, cut by range; 0: sparse */
} td_servers;

/* A map of slices in a group. */
typedef struct td_place {
    td_slices slices;                              /* by ranks in the run */
    int32_t primary[TD_SLICES], backup[TD_SLICES]; /* by ranks of the group, -1: none */
    bool replicas;                                 /* some slice has a backup */
    bool here[TD_SLICES];  /* this rank has all of that slice; not so where it is still being copied
                              to a backup */
    bool maybe[TD_SLICES]; /* it may have rows of it, all or some */
} td_place;

/* The rank of the group that speaks for a key, and whether `rank` has it, as either. */
static inline int td_place_primary(const td_place *p, uint64_t key)
{
    return p->primary[td_slice_of(&p->slices, key)];
}
static inline bool td_place_has(const td_place *p, uint64_t key, int rank)
{
    int slice = td_slice_of(&p->slices, key);
    return p->primary[slice] == rank || p->backup[slice] == rank;
}

/* Collective: a new table's map, and this rank's share of it, *out NULL where it is no server.
 * TD_ERR_ARG at all ranks: they describe different tables, or it is none that could be. */
TD_MUST_CHECK td_status td_servers_open(td_comm *comm, const td_servers *servers,
                                        const td_table_config *config, td_place *place,
                                        td_table **out);

/* The map of before becomes that of one rank that `knows`, at all, without backups that do not have
 * all of their slices. Collective. *lost: TD_ERR_PEER because no rank knows. */
TD_MUST_CHECK td_status td_servers_know(td_comm *comm, bool knows, td_place *place, bool *lost);

/* From a map to another, as td_slices_serve_first; all ahead where no rank has more than 1 MiB to
 * copy. */
typedef struct td_route {
    td_slices first, now, after;
    bool copies; /* first and now differ */
} td_route;

/* The same slices in another group, or at other ranks of this one. Collective. route->after is what
 * is left of the map with `servers` (slices.h); rows are copied to where they belong by
 * route->first, behind what is left of copies that have come to nothing, which goes; `table` (NULL:
 * this rank has none yet) is made at ranks that become servers.
 * place->slices is the map of before, the same at all (td_servers_know). *lost: TD_ERR_PEER because
 * some slice is at no rank that is left. To be followed by td_servers_settle on the first of the
 * route, and where it copies by copies (copies.h, step_copies.h), which end in its last. */
TD_MUST_CHECK td_status td_servers_move(td_comm *comm, const td_servers *servers,
                                        const td_table_config *config, td_place *place,
                                        td_table **table, td_route *route, bool *lost);
/* Rows come to where they belong by `after`, too, of two maps of one group's ranks, as
 * td_slices_move. Collective; to be followed by td_servers_settle. */
TD_MUST_CHECK td_status td_servers_copy(td_comm *comm, const td_slices *after, td_place *place,
                                        td_table *table);
/* From now on rows come of the slices that this rank has by that map. Local. */
void td_servers_expect(td_comm *comm, const td_slices *slices, td_place *place);
/* All slices are asked for by that map from now on; what ranks have does not change. Local. */
void td_servers_follow(td_comm *comm, const td_slices *slices, td_place *place);

typedef struct td_balanced {
    int moved; /* slices */
    int servers;
    int hottest;          /* the server's rank in the run that had most */
    double before, after; /* its share of all that was asked for; the largest when slices move */
} td_balanced;

/* Finds the hot server, and the map where primaries of hot slices have moved (td_slices_balance).
 * load: what this rank's slices were asked for since the last call, zeros then. out->moved: how
 * many move if the map is taken. Collective. */
TD_MUST_CHECK td_status td_servers_find_hot(td_comm *comm, const td_servers *servers,
                                            double load[TD_SLICES], const td_place *place,
                                            td_slices *after, td_balanced *out);
/* The map is `after` from now on, and rows that a rank does not have by it are taken out: when all
 * know that all have that map. Whoever fails meanwhile, ranks that have either map can go on from
 * it: until then rows are at the places of both. Behind it no rank takes out rows any more.
 * Collective. */
TD_MUST_CHECK td_status td_servers_settle(td_comm *comm, const td_slices *after, td_place *place,
                                          td_table *table);

#endif
