/* See rows_roles.h. */
#include "train/rows_roles.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

/* --- dealing anew --- */

typedef enum part { WORKS, SERVES, FEEDS, PARTS, NONE = PARTS } part;

/* What the rank is, of what there is still to be. Rank 0 works where it is nothing. */
static part part_of(const td_role *role, int rank, const td_role_counts *want)
{
    if (role->feeds && want->feeders) return FEEDS;
    if (role->serves && role->slot < 0 && want->servers) return SERVES;
    return role->slot >= 0 || rank == 0 ? WORKS : NONE;
}

/* By numbers of workers, those that have none behind, then by rank. */
static bool is_before(const td_role *now, int a, int b)
{
    uint32_t first = (uint32_t)now[a].slot, second = (uint32_t)now[b].slot;
    return first != second ? first < second : a < b;
}

/* How many of its part are kept rather than it. */
static int ahead_of(const td_role *now, int size, const td_role_counts *want, int rank)
{
    int n = 0;
    part own = part_of(&now[rank], rank, want);
    for (int r = 0; r < size && rank; r++)
        n += r != rank && part_of(&now[r], r, want) == own && (!r || is_before(now, r, rank));
    return n;
}

static void number_workers(const td_role *now, int size, const part *parts, td_role *out)
{
    for (int r = 0; r < size; r++) {
        if (parts[r] != WORKS) continue;
        out[r].slot = 0;
        for (int s = 0; s < size; s++)
            out[r].slot += s != r && parts[s] == WORKS && is_before(now, s, r);
    }
}

void td_roles_plan(const td_role *now, int size, const td_role_counts *want, td_role *out,
                   td_role_counts *counts)
{
    enum { MOST = 1024 };
    static const part order[] = {SERVES, FEEDS, WORKS};
    part parts[MOST];
    int have[PARTS] = {0}, wanted[PARTS];
    wanted[WORKS] = want->workers, wanted[SERVES] = want->servers, wanted[FEEDS] = want->feeders;
    for (int r = 0; r < size; r++) {
        part own = part_of(&now[r], r, want);
        parts[r] = own != NONE && ahead_of(now, size, want, r) < wanted[own] ? own : NONE;
        if (parts[r] != NONE) have[own]++;
    }
    for (int k = 0; k < PARTS; k++) {
        part p = order[k];
        for (int r = 0; r < size && have[p] < wanted[p]; r++)
            if (parts[r] == NONE && (p != FEEDS || now[r].reads)) parts[r] = p, have[p]++;
        if (p == FEEDS) wanted[WORKS] += wanted[FEEDS] - have[FEEDS]; /* who cannot read works */
    }
    *counts = (td_role_counts){have[WORKS], have[SERVES] ? want->servers : 0, want->feeders};
    for (int r = 0; r < size; r++)
        out[r] = (td_role){.slot = -1,
                           .serves = parts[r] == (have[SERVES] ? SERVES : WORKS),
                           .feeds = parts[r] == FEEDS,
                           .known = true,
                           .reads = now[r].reads};
    number_workers(now, size, parts, out);
}

void td_roles_learn(td_roles *roles, const td_role *out, const td_role_counts *counts,
                    uint64_t step)
{
    roles->next = (td_roles_deal){.era = roles->now.era + 1, .step = step, .counts = *counts};
    roles->next.own = out[roles->self];
}

void td_roles_go_over(td_roles *roles)
{
    roles->now = roles->next;
}

/* --- in a group --- */

static bool is_taken(const td_role *all, int size, int slot)
{
    for (int r = 0; r < size; r++)
        if (all[r].known && all[r].slot == slot) return true;
    return false;
}

/* Who has come. */
static void assign(const td_role_counts *counts, td_role *all, int size)
{
    int serving = 0, feeding = 0;
    for (int r = 0; r < size; r++) {
        serving += all[r].known && all[r].serves;
        feeding += all[r].known && all[r].feeds;
    }
    for (int r = 0; r < size; r++) {
        if (all[r].known) continue;
        bool lacking = counts->servers && serving < counts->servers;
        int slot = 0;
        all[r].known = true;
        all[r].slot = -1;
        all[r].feeds = !lacking && all[r].reads && feeding < counts->feeders;
        all[r].serves = lacking || (!counts->servers && !all[r].feeds);
        serving += all[r].serves, feeding += all[r].feeds;
        if (all[r].feeds || lacking) continue;
        while (slot < counts->workers && is_taken(all, size, slot)) slot++;
        if (slot < counts->workers) all[r].slot = slot;
    }
}

static td_status make_room(td_roles *roles, int size)
{
    size_t n = (size_t)size;
    td_role *role = td_calloc(n, sizeof *role);
    int *server = td_calloc(2 * n, sizeof *server);
    int *worker = td_calloc((size_t)roles->now.counts.workers, sizeof *worker);
    if (!role || !server || !worker) {
        td_free(role), td_free(server), td_free(worker);
        return td_fail(TD_ERR_NOMEM, "no memory for %d ranks", size);
    }
    td_roles_free(roles);
    roles->role = role, roles->server = server, roles->worker = worker;
    roles->feeder = server + n;
    return TD_OK;
}

static void begin(td_roles *roles, int me)
{
    const td_role_counts *c = &roles->now.counts;
    td_role *own = &roles->now.own;
    own->slot = me < c->workers ? me : -1;
    own->feeds = me >= c->workers + c->servers;
    own->serves = c->servers ? own->slot < 0 && !own->feeds : own->slot >= 0;
    own->known = true;
}

/* All are of the newest era that any is of; who has come hears of it. */
static td_status agree_on_era(td_roles *roles, td_comm *comm)
{
    td_roles_deal own = roles->now, newest;
    int mine[2] = {own.own.known ? own.era : -1, 0}, most[2];
    TD_TRY(td_comm_allreduce(comm, mine, most, 1, TD_I32, TD_MAX));
    if (own.era < most[0] && roles->next.era == most[0]) td_roles_go_over(roles);
    own = roles->now;
    bool knows = own.own.known && own.era == most[0];
    mine[1] = knows ? td_comm_rank(comm) : td_comm_size(comm);
    TD_TRY(td_comm_allreduce(comm, &mine[1], &most[1], 1, TD_I32, TD_MIN));
    newest = own;
    if (most[1] < td_comm_size(comm))
        TD_TRY(td_comm_broadcast(comm, &newest, sizeof newest, most[1]));
    newest.own = own.own;
    roles->now = newest;
    return TD_OK;
}

static void fill(td_roles *roles, int size, int me)
{
    roles->self = me, roles->number = -1;
    roles->server_count = roles->feeder_count = roles->working = 0;
    for (int w = 0; w < roles->now.counts.workers; w++) roles->worker[w] = -1;
    for (int r = 0; r < size; r++) {
        const td_role *role = &roles->role[r];
        if (role->serves) roles->server[roles->server_count++] = r;
        if (role->feeds) roles->feeder[roles->feeder_count++] = r;
        if (role->slot < 0) continue;
        roles->worker[role->slot] = r;
        if (r == me) roles->number = roles->working;
        roles->working++;
    }
    roles->now.own = roles->role[me];
}

td_status td_roles_take(td_roles *roles, td_comm *comm, bool joined)
{
    int size = td_comm_size(comm), me = td_comm_rank(comm);
    if (!roles->now.own.known && !joined) begin(roles, me);
    TD_TRY(agree_on_era(roles, comm));
    TD_TRY(td_comm_agree(comm, make_room(roles, size)));
    TD_TRY(td_comm_allgather(comm, &roles->now.own, sizeof roles->now.own, roles->role));
    assign(&roles->now.counts, roles->role, size);
    fill(roles, size, me);
    return TD_OK;
}

void td_roles_free(td_roles *roles)
{
    td_free(roles->role), td_free(roles->server), td_free(roles->worker);
    roles->role = NULL;
    roles->server = roles->feeder = roles->worker = NULL;
}
