/* See servers.h. */
#include "ps/servers.h"

#include "base/error.h"
#include "ps/moves.h"
#include "tandem/recover.h"

#include <string.h>

/* --- what all must agree on --- */

static bool is_server(const td_comm *comm, const td_servers *s)
{
    for (int k = 0; s->rank && k < s->count; k++)
        if (s->rank[k] == td_comm_rank(comm)) return true;
    return !s->rank;
}

static td_status check(const td_comm *comm, const td_servers *s)
{
    int size = td_comm_size(comm), count = s->rank ? s->count : size;
    if (count < 1 || count > size || count > TD_MOST_SERVERS)
        return td_fail(TD_ERR_ARG, "servers must be 1 to %d, not %d",
                       size < TD_MOST_SERVERS ? size : TD_MOST_SERVERS, count);
    for (int k = 0; s->rank && k < count; k++) {
        if (s->rank[k] < 0 || s->rank[k] >= size)
            return td_fail(TD_ERR_ARG, "server %d is not one of the ranks 0..%d", s->rank[k],
                           size - 1);
        for (int j = 0; j < k; j++)
            if (s->rank[j] == s->rank[k])
                return td_fail(TD_ERR_ARG, "rank %d is named as a server twice", s->rank[k]);
    }
    if (s->replicas < 0 || s->replicas > 1)
        return td_fail(TD_ERR_ARG, "a table has 0 or 1 replicas, not %d", s->replicas);
    return TD_OK;
}

/* What decides a row, to be compared. */
static td_status same_everywhere(td_comm *comm, const td_servers *servers, const td_table_config *t)
{
    td_table_config own = *t;
    char rule[16] = "sgd";
    if (t->rule) strncpy(rule, t->rule, sizeof rule - 1);
    struct said {
        td_table_config table;
        char rule[16];
        int servers, replicas;
        uint64_t ranks, rows; /* ranks: a hash of theirs */
    } mine, first;
    memset(&mine, 0, sizeof mine);
    mine.servers = servers->rank ? servers->count : 0;
    mine.replicas = servers->replicas, mine.rows = servers->rows;
    for (int k = 0; k < mine.servers; k++)
        mine.ranks = (mine.ranks ^ (uint64_t)servers->rank[k]) * 0xff51afd7ed558ccd + 1;
    own.rule = NULL;
    memcpy(&mine.table, &own, sizeof own);
    memcpy(mine.rule, rule, sizeof rule);
    first = mine;
    TD_TRY(td_comm_broadcast(comm, &first, sizeof first, 0));
    const td_table_config *f = &first.table;
    bool same = first.servers == mine.servers && first.ranks == mine.ranks &&
                first.replicas == mine.replicas && first.rows == mine.rows &&
                f->width == own.width && !strcmp(first.rule, rule) && f->lr == own.lr &&
                f->momentum == own.momentum && f->beta1 == own.beta1 && f->beta2 == own.beta2 &&
                f->epsilon == own.epsilon && f->weight_decay == own.weight_decay &&
                f->l1 == own.l1 && f->l2 == own.l2 && f->beta == own.beta && f->init == own.init &&
                f->scale == own.scale && f->seed == own.seed && f->number == own.number &&
                f->admit == own.admit;
    return td_comm_agree(comm, same ? TD_OK
                                    : td_fail(TD_ERR_ARG,
                                              "rank %d describes another table, or other servers, "
                                              "than rank 0",
                                              td_comm_rank(comm)));
}

/* --- maps --- */

/* The servers' ranks in the run; returns how many. */
static int in_run(const td_comm *comm, const td_servers *s, int *server)
{
    int count = s->rank ? s->count : td_comm_size(comm);
    for (int k = 0; k < count; k++) server[k] = td_comm_rank_in_run(comm, s->rank ? s->rank[k] : k);
    return count;
}

static int self_of(const td_comm *comm)
{
    return td_comm_rank_in_run(comm, td_comm_rank(comm));
}

void td_servers_follow(td_comm *comm, const td_slices *slices, td_place *place)
{
    place->slices = *slices;
    place->replicas = false;
    for (int k = 0; k < TD_SLICES; k++) {
        place->primary[k] = td_slices_rank(comm, slices->primary[k]);
        place->backup[k] = td_slices_rank(comm, slices->backup[k]);
        place->replicas = place->replicas || place->backup[k] >= 0;
    }
}

void td_servers_expect(td_comm *comm, const td_slices *slices, td_place *place)
{
    for (int k = 0; k < TD_SLICES; k++)
        place->maybe[k] = place->maybe[k] || td_slices_has(slices, k, self_of(comm));
}

/* Takes out what this rank does not have by the map, if there may be any. */
static void tidy(td_comm *comm, td_place *place, td_table *table)
{
    bool left = false;
    for (int k = 0; k < TD_SLICES; k++) {
        bool has = td_slices_has(&place->slices, k, self_of(comm));
        left = left || (place->maybe[k] && !has);
        place->maybe[k] = place->maybe[k] && has;
        place->here[k] = place->here[k] && has;
    }
    if (left) td_slices_drop(comm, &place->slices, table);
}

static void has_all(td_comm *comm, td_place *place)
{
    for (int k = 0; k < TD_SLICES; k++)
        place->here[k] = td_slices_has(&place->slices, k, self_of(comm));
    td_servers_expect(comm, &place->slices, place);
}

td_status td_servers_open(td_comm *comm, const td_servers *servers, const td_table_config *config,
                          td_place *place, td_table **out)
{
    int server[TD_MOST_SERVERS];
    *out = NULL;
    TD_TRY(td_comm_agree(comm, check(comm, servers)));
    TD_TRY(same_everywhere(comm, servers, config));
    int count = in_run(comm, servers, server);
    td_slices slices;
    td_slices_deal(&slices, servers->rows, server, count, servers->replicas);
    td_servers_follow(comm, &slices, place);
    has_all(comm, place);
    return td_comm_agree(comm, is_server(comm, servers) ? td_table_create(config, out) : TD_OK);
}

/* --- in another group --- */

static bool serves(const int *server, int count, int32_t world)
{
    for (int k = 0; k < count; k++)
        if (server[k] == world) return true;
    return false;
}

/* Backups that do not have all of their slices are none. Collective. */
static td_status leave_out(td_comm *comm, td_place *place)
{
    td_slices *slices = &place->slices;
    uint8_t mine[TD_SLICES], some[TD_SLICES];
    for (int k = 0; k < TD_SLICES; k++)
        mine[k] = place->here[k] && slices->backup[k] == self_of(comm);
    TD_TRY(td_comm_allreduce(comm, mine, some, TD_SLICES, TD_U8, TD_MAX));
    for (int k = 0; k < TD_SLICES; k++)
        if (!some[k] && td_slices_rank(comm, slices->backup[k]) >= 0) slices->backup[k] = -1;
    return TD_OK;
}

td_status td_servers_know(td_comm *comm, bool knows, td_place *place, bool *lost)
{
    int size = td_comm_size(comm), mine = knows ? td_comm_rank(comm) : size, first;
    td_slices before = place->slices;
    TD_TRY(td_comm_allreduce(comm, &mine, &first, 1, TD_I32, TD_MIN));
    *lost = first == size;
    if (*lost) return td_fail(TD_ERR_PEER, "no rank that is left knows where a table is");
    TD_TRY(td_comm_broadcast(comm, &before, sizeof before, first));
    place->slices = before;
    return leave_out(comm, place);
}

td_status td_servers_copy(td_comm *comm, const td_slices *after, td_place *place, td_table *table)
{
    td_servers_expect(comm, after, place);
    TD_TRY(td_slices_move(comm, &place->slices, after, table));
    for (int k = 0; k < TD_SLICES; k++) /* by either map */
        place->here[k] = place->here[k] || td_slices_has(after, k, self_of(comm));
    return TD_OK;
}

/* What a rank would copy behind, about. */
static uint64_t bytes_to_copy(const td_comm *comm, const td_slices *before, td_table *table,
                              const td_route *route)
{
    uint64_t has = 0, gives = 0;
    for (int k = 0; k < TD_SLICES && table; k++) {
        has += td_slices_has(before, k, self_of(comm));
        gives += route->first.backup[k] != route->now.backup[k] &&
                 route->now.primary[k] == self_of(comm);
    }
    if (!gives) return 0;
    return td_table_rows(table) * td_table_row_floats(table) * sizeof(float) * gives / has;
}

/* What takes no time to be copied is copied ahead: with two copies nobody's death matters. */
static td_status choose_way(td_comm *comm, const td_slices *before, td_table *table,
                            td_route *route)
{
    enum { SMALL = 1 << 20 };
    td_slices_serve_first(before, &route->after, &route->first, &route->now);
    uint64_t mine = bytes_to_copy(comm, before, table, route), most;
    TD_TRY(td_comm_allreduce(comm, &mine, &most, 1, TD_I64, TD_MAX));
    if (most <= SMALL) route->first = route->now = route->after;
    route->copies = memcmp(&route->first, &route->now, sizeof route->now) != 0;
    return TD_OK;
}

td_status td_servers_move(td_comm *comm, const td_servers *servers, const td_table_config *config,
                          td_place *place, td_table **table, td_route *route, bool *lost)
{
    int server[TD_MOST_SERVERS];
    td_slices before = place->slices;
    TD_TRY(td_comm_agree(comm, check(comm, servers)));
    int count = in_run(comm, servers, server);
    td_slices kept = before;
    for (int k = 0; k < TD_SLICES; k++) { /* at ranks that are here, and are to serve no more */
        bool here = td_slices_rank(comm, before.primary[k]) >= 0 ||
                    td_slices_rank(comm, before.backup[k]) >= 0;
        if (here && !serves(server, count, before.primary[k]) &&
            !serves(server, count, before.backup[k]))
            kept.primary[k] = server[k * count / TD_SLICES], kept.backup[k] = -1;
    }
    td_status status = td_slices_repair(&kept, server, count, servers->replicas, &route->after);
    *lost = status != TD_OK; /* all alike */
    TD_TRY(status);
    for (int k = 0; k < TD_SLICES; k++) { /* of those that are there */
        if (td_slices_rank(comm, kept.primary[k] = before.primary[k]) < 0) kept.primary[k] = -1;
        if (td_slices_rank(comm, kept.backup[k] = before.backup[k]) < 0) kept.backup[k] = -1;
    }
    if (!*table && is_server(comm, servers)) status = td_table_create(config, table);
    TD_TRY(td_comm_agree(comm, status));
    tidy(comm, place, *table); /* else old rows would be among those that come */
    TD_TRY(choose_way(comm, &kept, *table, route));
    return td_servers_copy(comm, &route->first, place, *table);
}

td_status td_servers_find_hot(td_comm *comm, const td_servers *servers, double load[TD_SLICES],
                              const td_place *place, td_slices *after, td_balanced *out)
{
    double mine[TD_SLICES], all[TD_SLICES];
    int server[TD_MOST_SERVERS];
    int count = in_run(comm, servers, server);
    *out = (td_balanced){.servers = count};
    memcpy(mine, load, sizeof mine); /* who is the first to go on asks at once */
    memset(load, 0, sizeof mine);
    TD_TRY(td_comm_allreduce(comm, mine, all, TD_SLICES, TD_F64, TD_SUM));
    out->moved = td_slices_balance(&place->slices, all, server, count, after);
    out->before = td_slices_hottest(&place->slices, all, &out->hottest);
    out->after = td_slices_hottest(after, all, NULL);
    return TD_OK;
}

td_status td_servers_settle(td_comm *comm, const td_slices *after, td_place *place, td_table *table)
{
    TD_TRY(td_comm_agree(comm, TD_OK)); /* all have the rows, and what goes with them */
    td_servers_follow(comm, after, place);
    TD_TRY(td_comm_agree(comm, TD_OK)); /* all have the map */
    tidy(comm, place, table);
    has_all(comm, place);
    return TD_OK;
}
