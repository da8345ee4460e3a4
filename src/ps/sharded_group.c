/* See sharded.h. This file: a table in its group, from its opening to its end, and in the groups
 * that follow it. */
#include "ps/sharded_impl.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/recorder.h"
#include "ps/moves.h"
#include "tandem/recover.h"

#include <string.h>

enum { CACHE_ROWS = 65536 };

/* --- what all must agree on --- */

static td_status same_clocks(td_comm *comm, const td_sharded_config *c)
{
    struct said {
        char clock[TD_CLOCK_TEXT];
        int workers, functions;
        bool by_staleness;
        float compensation;
    } mine, first;
    memset(&mine, 0, sizeof mine);
    td_clock_text(&c->clock, mine.clock);
    mine.workers = c->worker ? c->worker_count : 0, mine.functions = c->function_count;
    mine.by_staleness = c->by_staleness, mine.compensation = c->compensation;
    first = mine;
    TD_TRY(td_comm_broadcast(comm, &first, sizeof first, 0));
    if (!memcmp(&first, &mine, sizeof mine)) return td_comm_agree(comm, TD_OK);
    if (first.functions != mine.functions)
        return td_comm_agree(comm, td_fail(TD_ERR_ARG,
                                           "rank %d has %d functions on rows where rank 0 has %d",
                                           td_comm_rank(comm), mine.functions, first.functions));
    return td_comm_agree(comm, td_fail(TD_ERR_ARG,
                                       "rank %d has %d workers at clock %s where rank 0 has %d "
                                       "at %s",
                                       td_comm_rank(comm), mine.workers, mine.clock, first.workers,
                                       first.clock));
}

/* --- in a group --- */

static td_status copy_functions(td_sharded *s, const td_sharded_config *config)
{
    size_t n = (size_t)config->function_count;
    if (!n) return TD_OK;
    s->functions = td_calloc(n, sizeof *s->functions);
    if (!s->functions) return td_fail(TD_ERR_NOMEM, "no memory for %zu functions", n);
    memcpy(s->functions, config->functions, n * sizeof *s->functions);
    return TD_OK;
}

static td_status create(const td_sharded_config *config, int workers, td_sharded **out)
{
    td_sharded *s = td_calloc(1, sizeof *s);
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for a sharded table");
    pthread_mutex_init(&s->lock, NULL);
    s->config = *config;
    s->config.worker = NULL, s->config.worker_count = workers;
    s->config.servers = (td_servers){0}; /* the caller's arrays may go */
    s->config.functions = NULL;
    s->width = config->table.width, s->row_bytes = s->width * sizeof(float);
    bool bounded = config->clock.kind == TD_CLOCK_SSP || config->clock.kind == TD_CLOCK_GROUPS;
    s->bound = config->clock.bound;
    s->of_worker = td_calloc((size_t)workers, sizeof *s->of_worker);
    td_status status =
        s->of_worker ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %d workers", workers);
    if (status == TD_OK) status = copy_functions(s, config);
    size_t keep = config->cache_rows ? config->cache_rows : CACHE_ROWS;
    if (status == TD_OK && bounded && s->bound && config->compensation == 0)
        status = td_cache_init(&s->cache, keep, s->width);
    if (status != TD_OK) {
        td_sharded_destroy(s);
        return status;
    }
    *out = s;
    return TD_OK;
}

/* Ranks of workers (-1: gone) and of servers. Local. */
static td_status take_places(td_sharded *s, td_comm *comm, const td_servers *servers,
                             const int *worker)
{
    int size = td_comm_size(comm), count = servers->rank ? servers->count : size;
    int *server_of = td_calloc((size_t)size, sizeof *server_of);
    td_told *told = td_calloc((size_t)count, sizeof *told);
    int *serving = td_calloc((size_t)count, sizeof *serving);
    if (!server_of || !told || !serving) {
        td_free(server_of), td_free(told), td_free(serving);
        return td_fail(TD_ERR_NOMEM, "no memory for %d servers", count);
    }
    td_free(s->server_of), td_free(s->told), td_free(s->serving);
    s->server_of = server_of, s->told = told, s->serving = serving;
    s->server_count = count;
    s->comm = comm;
    s->rank = td_comm_rank(comm);
    s->worker = -1;
    for (int r = 0; r < size; r++) server_of[r] = servers->rank ? -1 : r;
    for (int k = 0; k < count; k++) serving[k] = servers->rank ? servers->rank[k] : k;
    for (int k = 0; servers->rank && k < count; k++) server_of[serving[k]] = k;
    for (int w = 0; w < s->config.worker_count; w++) {
        int r = worker ? worker[w] : w;
        s->of_worker[w] = r >= 0 ? td_comm_rank_in_run(comm, r) : -1;
        if (r == s->rank) s->worker = w;
    }
    return TD_OK;
}

static td_status open_channel(td_sharded *s, const td_servers *servers)
{
    td_keyed_config keyed = {.servers = servers->rank,
                             .server_count = servers->count,
                             .width = s->row_bytes,
                             .serve = td_sharded_serve,
                             .ready = td_sharded_ready,
                             .user = s};
    s->replicas = s->place.replicas;
    TD_TRY(td_comm_open_meeting(s->comm, &s->meeting));
    return td_keyed_open(s->comm, &keyed, &s->keyed);
}

static td_status init_store(td_sharded *s, td_table *table)
{
    td_store_config config = {.clock = s->config.clock,
                              .workers = s->config.worker_count,
                              .width = s->width,
                              .by_staleness = s->config.by_staleness,
                              .evict_after = s->config.evict_after,
                              .compensation = s->config.compensation};
    return td_store_init(&s->store, &config, table);
}

td_status td_sharded_open(td_comm *comm, const td_sharded_config *config, td_sharded **out)
{
    int workers = config->worker ? config->worker_count : td_comm_size(comm);
    td_sharded *s = NULL;
    td_table *table = NULL;
    td_status status = td_clock_check(&config->clock, workers);
    if (workers < 1 || workers > td_comm_size(comm))
        status = td_fail(TD_ERR_ARG, "%d workers of %d ranks", workers, td_comm_size(comm));
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(same_clocks(comm, config));
    status = create(config, workers, &s);
    if (status == TD_OK) status = take_places(s, comm, &config->servers, config->worker);
    status = td_comm_agree(comm, status);
    if (status == TD_OK)
        status = td_servers_open(comm, &config->servers, &config->table, &s->place, &table);
    if (status == TD_OK) status = td_comm_agree(comm, init_store(s, table));
    if (status == TD_OK) status = open_channel(s, &config->servers);
    if (status != TD_OK) {
        if (s && !s->store.table) td_table_destroy(table);
        td_sharded_destroy(s);
        return status;
    }
    *out = s;
    return TD_OK;
}

td_status td_sharded_join(const td_sharded_config *config, td_sharded **out)
{
    return create(config, config->worker_count, out);
}

static void asked_free(td_asked *a)
{
    td_free(a->owner), td_free(a->keys), td_free(a->place), td_free(a->rows), td_free(a->sizes);
    *a = (td_asked){0};
}

void td_sharded_destroy(td_sharded *s)
{
    if (!s) return;
    td_keyed_destroy(s->keyed);
    td_comm_close(s->meeting);
    td_copies_close(s->copies);
    td_store_fini(&s->store);
    pthread_mutex_destroy(&s->lock);
    td_cache_fini(&s->cache);
    asked_free(&s->fetch), asked_free(&s->push), asked_free(&s->copy);
    td_free(s->kept.keys), td_free(s->kept.values);
    td_unique_free(&s->batch);
    td_free(s->unique), td_free(s->of_worker), td_free(s->server_of), td_free(s->told);
    td_free(s->serving), td_free(s->functions);
    td_free(s);
}

td_status td_sharded_meet(td_sharded *s)
{
    TD_TRY(td_comm_barrier(s->meeting));
    if (!s->copies) return TD_OK;
    TD_TRY(td_copies_finish(s->copies, s->meeting));
    td_copies_close(s->copies);
    s->copies = NULL;
    return td_comm_barrier(s->meeting);
}

void td_sharded_end_stop(td_sharded *s)
{
    s->store.stops = false;
}

td_status td_sharded_finish(td_sharded *s)
{
    TD_TRY(td_sharded_meet(s));
    return td_keyed_finish(s->keyed);
}

/* --- slices that move --- */

/* Of each rank of a group: which pushes its slices have, and whether it has joined. */
typedef struct memory {
    size_t each;   /* numbers of a rank */
    uint64_t *all; /* [size][each]: as store.newest, and 1 if it has joined */
} memory;

/* out->all is the caller's. Collective. */
static td_status gather_memory(const td_sharded *s, td_comm *comm, bool joined, memory *out)
{
    size_t pushes = TD_SLICES * (size_t)s->config.worker_count, size = (size_t)td_comm_size(comm);
    out->each = pushes + 1;
    out->all = td_calloc(out->each * (size + 1), sizeof *out->all);
    uint64_t *own = out->all ? out->all + out->each * size : NULL;
    td_status status = own ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for the pushes of workers");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) {
        memcpy(own, s->store.newest, pushes * sizeof *own);
        own[pushes] = joined;
        status = td_comm_allgather(comm, own, out->each * sizeof *own, out->all);
    }
    if (status != TD_OK) td_free(out->all);
    return status;
}

/* What a rank has had of a worker in a slice. */
static uint64_t had(const td_sharded *s, const memory *m, int rank, int slice, int worker)
{
    size_t at = (size_t)slice * (size_t)s->config.worker_count + (size_t)worker;
    return m->all[(size_t)rank * m->each + at];
}

static bool has_died(const td_sharded *s, td_comm *comm, const memory *m, int worker)
{
    int rank = td_slices_rank(comm, s->of_worker[worker]);
    return rank < 0 || m->all[(size_t)rank * m->each + m->each - 1];
}

/* A worker that has died may have pushed to one of a slice's two servers alone, and nobody makes
 * that push again: who has it is the slice's only one then, and gives it to another. All know that
 * before any row moves. Collective. */
static td_status reconcile(td_sharded *s, td_comm *comm, const memory *m)
{
    td_slices *slices = &s->place.slices;
    bool died[TD_CLOCK_WORKERS];
    for (int w = 0; w < s->config.worker_count; w++) died[w] = has_died(s, comm, m, w);
    for (int k = 0; k < TD_SLICES; k++) {
        int first = td_slices_rank(comm, slices->primary[k]);
        int second = td_slices_rank(comm, slices->backup[k]);
        bool more = false, less = false;
        for (int w = 0; w < s->config.worker_count && first >= 0 && second >= 0; w++) {
            if (!died[w]) continue;
            more = more || had(s, m, first, k, w) > had(s, m, second, k, w);
            less = less || had(s, m, first, k, w) < had(s, m, second, k, w);
        }
        if (less && !more) slices->primary[k] = slices->backup[k];
        if (less || more) slices->backup[k] = -1;
    }
    return td_comm_agree(comm, TD_OK);
}

/* Which pushes each slice has goes along with it. Ahead of td_servers_settle. */
static void carry_memory(td_sharded *s, td_comm *comm, const memory *m, const td_slices *after)
{
    const td_slices *before = &s->place.slices;
    int self = td_comm_rank_in_run(comm, td_comm_rank(comm));
    size_t workers = (size_t)s->config.worker_count;
    for (int k = 0; k < TD_SLICES; k++) {
        if (td_slices_has(before, k, self) || !td_slices_has(after, k, self)) continue;
        size_t giver = (size_t)td_slices_giver(comm, before, k);
        memcpy(s->store.newest + (size_t)k * workers,
               m->all + giver * m->each + (size_t)k * workers, workers * sizeof *m->all);
    }
}

td_status td_sharded_balance(td_sharded *s, bool move, td_balanced *out)
{
    td_slices after;
    td_servers servers = {.rank = s->serving, .count = s->server_count, .replicas = s->replicas};
    TD_TRY(td_servers_find_hot(s->comm, &servers, s->store.load, &s->place, &after, out));
    if (!move) out->moved = 0;
    if (!out->moved) return TD_OK;
    memory m;
    TD_TRY(td_servers_copy(s->comm, &after, &s->place, s->store.table));
    TD_TRY(gather_memory(s, s->comm, false, &m));
    carry_memory(s, s->comm, &m, &after);
    td_free(m.all);
    TD_TRY(td_servers_settle(s->comm, &after, &s->place, s->store.table));
    return td_comm_agree(s->comm, TD_OK); /* before its thread answers others */
}

/* Workers' clocks as they know them; of one that has joined, what servers know of its predecessor.
 */
static td_status agree_on_clocks(td_sharded *s, bool joined)
{
    size_t n = (size_t)s->config.worker_count;
    uint64_t *mine = td_calloc(2 * n, sizeof *mine), *all = mine ? mine + n : NULL;
    td_status status = mine ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for %zu workers", n);
    status = td_comm_agree(s->comm, status);
    for (size_t w = 0; w < n && status == TD_OK; w++)
        if (!joined) mine[w] = s->store.clocks.pushed[w];
    if (status == TD_OK && s->worker >= 0 && !joined && s->clock > mine[s->worker])
        mine[s->worker] = s->clock;
    if (status == TD_OK) status = td_comm_allreduce(s->comm, mine, all, n, TD_I64, TD_MAX);
    for (size_t w = 0; w < n && status == TD_OK; w++) {
        s->store.clocks.gone[w] = s->of_worker[w] < 0;
        s->store.clocks.pushed[w] = all[w];
    }
    /* A push that was not acknowledged at all servers counts when it has been made again. */
    if (status == TD_OK && s->worker >= 0 && joined) s->clock = all[s->worker];
    td_free(mine);
    return status;
}

void td_sharded_record(td_sharded *s)
{
    td_recorder_join_meeting(s->meeting, s->comm);
    td_recorder_join_keyed(s->keyed, s->comm);
}

static void close_channel(td_sharded *s)
{
    td_keyed_destroy(s->keyed);
    td_copies_close(s->copies);
    s->copies = NULL;
    td_store_expect_none(&s->store); /* of copies that could not be opened */
    td_comm_close(s->meeting);
    s->keyed = NULL, s->meeting = NULL;
    s->fetch.ticket = 0;
    td_cache_clear(&s->cache);
}

td_status td_sharded_renumber(td_sharded *s, int workers, uint64_t clock)
{
    close_channel(s); /* nobody is answered by clocks that change */
    int *of_worker = td_calloc((size_t)workers, sizeof *of_worker);
    if (!of_worker) return td_fail(TD_ERR_NOMEM, "no memory for %d workers", workers);
    td_free(s->of_worker);
    s->of_worker = of_worker;
    s->config.worker_count = workers;
    s->clock = clock;
    s->worker = -1;
    return s->store.newest ? td_store_renumber(&s->store, workers, clock) : TD_OK;
}

static td_status move_rows(td_sharded *s, td_comm *comm, const td_servers *servers, bool joined,
                           td_route *route, bool *lost)
{
    memory m;
    TD_TRY(td_servers_know(comm, !joined, &s->place, lost));
    TD_TRY(gather_memory(s, comm, joined, &m));
    td_status status = reconcile(s, comm, &m);
    if (status == TD_OK)
        status = td_servers_move(comm, servers, &s->config.table, &s->place, &s->store.table, route,
                                 lost);
    if (status == TD_OK) carry_memory(s, comm, &m, &route->first);
    td_free(m.all);
    return status;
}

/* Servers are asked by the route from now on, and rows follow behind. */
static td_status begin_copies(td_sharded *s, const td_servers *servers, const td_route *route)
{
    bool comes[TD_SLICES];
    td_copies_config config = {.servers = *servers,
                               .server_of = s->server_of,
                               .place = &s->place,
                               .store = &s->store,
                               .lock = &s->lock,
                               .route = *route};
    if (!route->copies) return TD_OK;
    td_servers_follow(s->comm, &route->now, &s->place);
    td_servers_expect(s->comm, &route->now, &s->place);
    for (int k = 0; k < TD_SLICES; k++)
        comes[k] = s->place.backup[k] == s->rank && !s->place.here[k];
    td_store_expect(&s->store, comes);
    return td_copies_open(s->comm, &config, &s->copies);
}

td_status td_sharded_move(td_sharded *s, td_comm *comm, const td_servers *servers,
                          const int *worker, bool joined, bool *lost)
{
    *lost = false;
    td_route route;
    close_channel(s);
    td_status status = take_places(s, comm, servers, worker);
    if (status == TD_OK && !s->store.newest) status = init_store(s, NULL);
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(move_rows(s, comm, servers, joined, &route, lost));
    TD_TRY(td_servers_settle(comm, &route.first, &s->place, s->store.table));
    TD_TRY(agree_on_clocks(s, joined));
    TD_TRY(begin_copies(s, servers, &route));
    TD_TRY(open_channel(s, servers));
    return td_sharded_push_again(s);
}
