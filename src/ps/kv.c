/* Tables for programs in C, see tandem/kv.h: a td_sharded whose ranks have their parts by number.
 */
#include "tandem/kv.h"

#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"
#include "ps/sharded.h"
#include "ps/transfer.h"
#include "ps/unique.h"
#include "tandem/recover.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

_Static_assert((int)TD_KV_ARGUMENT == (int)TD_SHARDED_ARGUMENT, "one kind of argument");
_Static_assert((int)TD_KV_STALENESS == (int)TD_STALENESS_BINS, "the same bins");

enum { SAID = 768 };

struct td_kv {
    td_sharded *sharded;
    td_comm *comm;
    td_sharded_config config;
    char *rule, *folder, *meaning;
    char said[SAID]; /* all that must be alike at all ranks */
    bool finished;
    bool empty; /* it has come into the run, and has nothing of it yet */
    td_sharded_function *functions;
    bool apart;               /* servers do not work */
    int workers, servers;     /* servers 0: all ranks are both */
    int *worker, *server;     /* [workers], [servers] ranks of the run, -1: gone */
    int *worker_at, *serving; /* the same as ranks of the group; servers: those that there are */
    td_unique ahead;          /* keys that are fetched, and their rows [ahead_room] floats */
    float *ahead_rows;
    size_t ahead_room;
    bool fetches;
};

/* --- making --- */

static td_status copy(const char *text, char **out)
{
    *out = text ? td_strdup(text) : NULL;
    return text && !*out ? td_fail(TD_ERR_NOMEM, "no memory for a table") : TD_OK;
}

static td_table_config table_of(const td_kv *kv, const td_kv_config *c)
{
    return (td_table_config){.width = c->width,
                             .rule = kv->rule,
                             .lr = c->lr,
                             .momentum = c->momentum,
                             .beta1 = c->beta1,
                             .beta2 = c->beta2,
                             .epsilon = c->epsilon,
                             .weight_decay = c->weight_decay,
                             .l1 = c->l1,
                             .l2 = c->l2,
                             .beta = c->beta,
                             .init = c->scale > 0 ? TD_TABLE_UNIFORM : TD_TABLE_ZERO,
                             .scale = c->scale,
                             .seed = c->seed,
                             .admit = c->admit,
                             .memory_bytes = c->memory_bytes,
                             .folder = kv->folder};
}

static td_status check(const td_kv_config *c, td_kv *const *out)
{
    TD_TRY(td_comm_check_given(c, "a table", "configuration"));
    TD_TRY(td_comm_check_given(out, "a table", "place for it"));
    const float all[] = {c->lr,           c->momentum, c->beta1, c->beta2, c->epsilon,
                         c->weight_decay, c->l1,       c->l2,    c->beta,  c->scale};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++)
        if (!isfinite(all[k])) return td_fail(TD_ERR_ARG, "a table's rates must be finite numbers");
    if (c->function_count < 0 || (c->function_count > 0 && !c->functions))
        return td_fail(TD_ERR_ARG, "a table with %d functions at %p", c->function_count,
                       (const void *)c->functions);
    for (int k = 0; k < c->function_count; k++)
        if (!c->functions[k].fn) return td_fail(TD_ERR_ARG, "function %d of a table is NULL", k);
    if (c->evict_after && c->replicas)
        return td_fail(TD_ERR_ARG,
                       "a table with evict_after has no replicas: the two copies of a row "
                       "would be forgotten at different times");
    if (c->meaning && (strchr(c->meaning, '\n') || strlen(c->meaning) > 200))
        return td_fail(TD_ERR_ARG, "a table's meaning is one line of up to 200 bytes");
    return TD_OK;
}

static void say(const td_kv_config *c, char said[SAID])
{
    snprintf(said, SAID,
             "width %zu rule %s lr %g momentum %g beta1 %g beta2 %g epsilon %g decay %g l1 %g l2 "
             "%g "
             "beta %g scale %g seed %llu admit %u evict %llu servers %d replicas %d rows %llu "
             "clock %s%s functions %d meaning %s",
             c->width, c->rule ? c->rule : "sgd", (double)c->lr, (double)c->momentum,
             (double)c->beta1, (double)c->beta2, (double)c->epsilon, (double)c->weight_decay,
             (double)c->l1, (double)c->l2, (double)c->beta, (double)c->scale,
             (unsigned long long)c->seed, c->admit, (unsigned long long)c->evict_after, c->servers,
             c->replicas, (unsigned long long)c->rows, c->clock ? c->clock : "asp",
             c->by_staleness ? " by staleness" : "", c->function_count,
             c->meaning ? c->meaning : "");
}

/* Collective: teller knows. */
static td_status compare(const td_kv *kv, td_comm *comm, int teller)
{
    char first[SAID];
    memcpy(first, kv->said, SAID);
    td_status status = td_comm_broadcast(comm, first, SAID, teller);
    if (status == TD_OK && strcmp(first, kv->said) != 0)
        status =
            td_fail(TD_ERR_ARG, "rank %d describes the table as \"%.400s\", rank %d as \"%.400s\"",
                    td_comm_rank(comm), kv->said, teller, first);
    return td_comm_agree(comm, status);
}

/* Local. */
static td_status create(const td_kv_config *c, td_kv **out)
{
    td_kv *kv = td_calloc(1, sizeof *kv);
    td_status status = TD_OK;
    if (!kv) return td_fail(TD_ERR_NOMEM, "no memory for a table");
    *out = kv;
    say(c, kv->said);
    TD_TRY(copy(c->rule, &kv->rule));
    TD_TRY(copy(c->folder, &kv->folder));
    TD_TRY(copy(c->meaning, &kv->meaning));
    kv->functions = td_calloc((size_t)c->function_count + 1, sizeof *kv->functions);
    if (!kv->functions) return td_fail(TD_ERR_NOMEM, "no memory for a table's functions");
    for (int k = 0; k < c->function_count; k++)
        kv->functions[k] = (td_sharded_function){c->functions[k].fn, c->functions[k].user};
    kv->config = (td_sharded_config){.table = table_of(kv, c),
                                     .evict_after = c->evict_after,
                                     .by_staleness = c->by_staleness,
                                     .functions = kv->functions,
                                     .function_count = c->function_count};
    kv->config.servers.replicas = c->replicas, kv->config.servers.rows = c->rows;
    kv->apart = c->servers > 0;
    status = td_clock_parse(c->clock ? c->clock : "asp", &kv->config.clock);
    if (status == TD_OK && kv->config.clock.kind == TD_CLOCK_BSP)
        status = td_fail(TD_ERR_ARG, "clock bsp: workers of this table go at their own pace; ssp:0 "
                                     "is the tightest");
    return status;
}

static td_status take_room(td_kv *kv, int workers, int servers)
{
    size_t n = (size_t)workers, m = (size_t)servers;
    kv->workers = workers, kv->servers = servers;
    kv->worker = td_calloc(2 * (n + m) + 1, sizeof *kv->worker);
    if (!kv->worker) return td_fail(TD_ERR_NOMEM, "no memory for a table of %zu ranks", n + m);
    kv->server = kv->worker + n, kv->worker_at = kv->server + m, kv->serving = kv->worker_at + n;
    return TD_OK;
}

static td_status take_parts(td_kv *kv, td_comm *comm, int servers)
{
    int size = td_comm_size(comm);
    if (servers < 0 || servers >= size)
        return td_fail(TD_ERR_ARG, "%d servers of a group of %d ranks leave no worker", servers,
                       size);
    TD_TRY(take_room(kv, size - servers, servers));
    for (int r = 0; r < size; r++) {
        int *part = r < kv->workers ? &kv->worker[r] : &kv->server[r - kv->workers];
        *part = td_comm_rank_in_run(comm, r);
    }
    return TD_OK;
}

/* Ranks of the group with their parts; returns how many servers there are, 0: all ranks are. */
static int find_parts(td_kv *kv, td_comm *comm)
{
    int size = td_comm_size(comm), serving = 0;
    kv->comm = comm;
    for (int w = 0; w < kv->workers; w++) kv->worker_at[w] = -1;
    for (int r = 0; r < size; r++) {
        int self = td_comm_rank_in_run(comm, r);
        for (int w = 0; w < kv->workers; w++)
            if (kv->worker[w] == self) kv->worker_at[w] = r;
        for (int s = 0; s < kv->servers; s++)
            if (kv->server[s] == self) kv->serving[serving++] = r;
    }
    return serving;
}

static td_servers servers_of(const td_kv *kv, int serving)
{
    return (td_servers){.rank = kv->apart ? kv->serving : NULL,
                        .count = serving,
                        .replicas = kv->config.servers.replicas,
                        .rows = kv->config.servers.rows};
}

td_status td_kv_open(td_comm *comm, const td_kv_config *config, td_kv **out)
{
    td_kv *kv = NULL;
    TD_TRY(td_comm_check_open(comm, "a table"));
    td_status status = check(config, out);
    if (status == TD_OK) status = create(config, &kv);
    if (status == TD_OK) status = take_parts(kv, comm, config->servers);
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = compare(kv, comm, 0);
    if (status == TD_OK) {
        kv->config.servers = servers_of(kv, find_parts(kv, comm));
        td_sharded_config c = kv->config;
        c.worker = kv->worker_at, c.worker_count = kv->workers;
        status = td_sharded_open(comm, &c, &kv->sharded);
    }
    if (status != TD_OK) {
        td_kv_destroy(kv);
        return status;
    }
    *out = kv;
    return TD_OK;
}

void td_kv_destroy(td_kv *kv)
{
    if (!kv) return;
    td_sharded_destroy(kv->sharded);
    td_free(kv->rule), td_free(kv->folder), td_free(kv->meaning), td_free(kv->functions);
    td_free(kv->worker), td_free(kv->ahead_rows);
    td_unique_free(&kv->ahead);
    td_free(kv);
}

/* --- what there is to ask --- */

static td_status check_table(const td_kv *kv, const char *what)
{
    return td_comm_check_given(kv, what, "table");
}

static td_status check_keys(const td_kv *kv, const char *what, const uint64_t *keys, size_t count)
{
    TD_TRY(check_table(kv, what));
    if (count && !keys) return td_fail(TD_ERR_ARG, "%s: no keys for %zu rows", what, count);
    uint64_t rows = kv->config.servers.rows;
    for (size_t i = 0; i < count && rows; i++)
        if (keys[i] >= rows)
            return td_fail(TD_ERR_ARG, "%s: key %llu of a table of %llu rows", what,
                           (unsigned long long)keys[i], (unsigned long long)rows);
    return TD_OK;
}

static td_status check_rows(const td_kv *kv, const char *what, const uint64_t *keys, size_t count,
                            const float *rows)
{
    TD_TRY(check_keys(kv, what, keys, count));
    if (count && !rows) return td_fail(TD_ERR_ARG, "%s: no buffer for %zu rows", what, count);
    return TD_OK;
}

int td_kv_worker(const td_kv *kv)
{
    return kv ? td_sharded_worker(kv->sharded) : -1;
}

uint64_t td_kv_clock(const td_kv *kv)
{
    return kv ? td_sharded_clock(kv->sharded) : 0;
}

td_status td_kv_pull(td_kv *kv, const uint64_t *keys, size_t count, float *out)
{
    TD_TRY(check_rows(kv, "pull", keys, count, out));
    if (td_kv_worker(kv) < 0) return td_sharded_look(kv->sharded, keys, count, out);
    return td_sharded_pull(kv->sharded, keys, count, out);
}

td_status td_kv_fetch(td_kv *kv, const uint64_t *keys, size_t count)
{
    TD_TRY(check_keys(kv, "fetch", keys, count));
    if (td_kv_worker(kv) < 0)
        return td_fail(TD_ERR_ARG, "fetch: rank %d is no worker", td_comm_rank(kv->comm));
    if (kv->fetches) return td_fail(TD_ERR_ARG, "fetch: the one before has not been waited for");
    TD_TRY(td_unique_fill(&kv->ahead, keys, count));
    size_t floats = kv->ahead.count * kv->config.table.width;
    if (floats > kv->ahead_room) {
        td_free(kv->ahead_rows);
        kv->ahead_rows = td_alloc_aligned(floats * sizeof *kv->ahead_rows);
        kv->ahead_room = kv->ahead_rows ? floats : 0;
        if (!kv->ahead_rows) return td_fail(TD_ERR_NOMEM, "fetch: no memory for %zu rows", count);
    }
    TD_TRY(td_sharded_fetch(kv->sharded, kv->ahead.keys, kv->ahead.count, 0, kv->ahead_rows));
    kv->fetches = true;
    return TD_OK;
}

td_status td_kv_fetched(td_kv *kv, float *out)
{
    TD_TRY(check_table(kv, "fetched"));
    if (!kv->fetches) return td_fail(TD_ERR_ARG, "fetched: no fetch has been begun");
    if (kv->ahead.asked && !out)
        return td_fail(TD_ERR_ARG, "fetched: no buffer for %zu rows", kv->ahead.asked);
    kv->fetches = false;
    TD_TRY(td_sharded_fetched(kv->sharded));
    td_unique_spread(&kv->ahead, kv->config.table.width, kv->ahead_rows, out);
    return TD_OK;
}

td_status td_kv_push(td_kv *kv, const uint64_t *keys, size_t count, const float *gradients)
{
    TD_TRY(check_rows(kv, "push", keys, count, gradients));
    size_t width = kv->config.table.width;
    for (size_t k = 0; k < count * width; k++)
        if (!isfinite(gradients[k]))
            return td_fail(TD_ERR_ARG, "value %zu of the gradient of key %llu is %g", k % width,
                           (unsigned long long)keys[k / width], (double)gradients[k]);
    return td_sharded_push_all(kv->sharded, keys, count, gradients);
}

td_status td_kv_retire(td_kv *kv)
{
    TD_TRY(check_table(kv, "retire"));
    return td_sharded_retire(kv->sharded);
}

td_status td_kv_range(td_kv *kv, uint64_t first, uint64_t last, td_kv_each_fn *each, void *arg)
{
    TD_TRY(check_table(kv, "range"));
    if (!each) return td_fail(TD_ERR_ARG, "range: no function for its rows");
    return td_sharded_range(kv->sharded, first, last, each, arg);
}

td_status td_kv_apply(td_kv *kv, int function, const uint64_t *keys, size_t count,
                      const void *argument, size_t argument_bytes)
{
    TD_TRY(check_keys(kv, "apply", keys, count));
    if (argument_bytes && !argument)
        return td_fail(TD_ERR_ARG, "apply: no buffer for an argument of %zu bytes", argument_bytes);
    return td_sharded_apply(kv->sharded, function, keys, count, argument, argument_bytes);
}

void td_kv_measure(const td_kv *kv, td_kv_stats *out)
{
    if (!out) return;
    *out = (td_kv_stats){0};
    if (!kv) return;
    td_sharded_stats s;
    td_table *own = td_sharded_table(kv->sharded);
    td_sharded_stats_of(kv->sharded, &s);
    *out = (td_kv_stats){.rows = own ? td_table_rows(own) : 0,
                         .pushes = s.pushes,
                         .dropped = s.dropped,
                         .asked = s.asked,
                         .cached = s.cached};
    memcpy(out->staleness, s.reads.reads, sizeof out->staleness);
}

static td_status check_open(const td_kv *kv, const char *what)
{
    TD_TRY(check_table(kv, what));
    return kv->finished ? td_fail(TD_ERR_ARG, "%s: the table has been finished", what) : TD_OK;
}

td_status td_kv_finish(td_kv *kv)
{
    TD_TRY(check_open(kv, "finish"));
    TD_TRY(td_sharded_finish(kv->sharded));
    kv->finished = true;
    return TD_OK;
}

/* --- files --- */

static td_status put(void *arg, uint64_t key, const float *weights)
{
    return td_table_put(arg, key, weights);
}

td_status td_kv_export(td_kv *kv, const char *path)
{
    td_table *all = NULL;
    TD_TRY(check_table(kv, "export"));
    TD_TRY(td_comm_check_given(path, "export", "path of a file"));
    TD_TRY(td_transfer_check(path));
    td_table_config plain = {.width = kv->config.table.width, .lr = 1};
    TD_TRY(td_table_create(&plain, &all));
    td_status status = td_sharded_range(kv->sharded, 0, UINT64_MAX, put, all);
    if (status == TD_OK) status = td_transfer_export(all, path, kv->meaning);
    td_table_destroy(all);
    return status;
}

typedef struct importing {
    const td_kv *kv;
    bool beyond;
    uint64_t key; /* the first one beyond the rows that there are */
} importing;

static bool is_held(void *arg, uint64_t key)
{
    importing *i = arg;
    uint64_t rows = i->kv->config.servers.rows;
    if (!rows || key < rows)
        return td_place_has(td_sharded_place(i->kv->sharded), key, td_comm_rank(i->kv->comm));
    if (!i->beyond) i->beyond = true, i->key = key;
    return false;
}

td_status td_kv_import(td_kv *kv, const char *path)
{
    TD_TRY(check_open(kv, "import"));
    td_table *own = td_sharded_table(kv->sharded);
    importing i = {.kv = kv};
    td_transfer_want want = {.mine = is_held, .arg = &i, .meaning = kv->meaning};
    td_transfer_taken taken = {0};
    TD_TRY(td_sharded_meet(kv->sharded));
    td_status status = td_comm_check_given(path, "import", "path of a file");
    if (status == TD_OK && own) status = td_transfer_import(own, path, &want, &taken);
    if (status == TD_OK && i.beyond)
        status = td_fail(TD_ERR_DATA, "%s has a row of key %llu, and the table %llu rows", path,
                         (unsigned long long)i.key, (unsigned long long)kv->config.servers.rows);
    td_sharded_forget(kv->sharded);
    TD_TRY(td_comm_agree(kv->comm, status));
    return td_transfer_compare(kv->comm, path, own != NULL, taken.hash);
}

/* --- another group --- */

/* Who has which part, as the lowest rank that is not empty knows it. */
static td_status hear_parts(td_kv *kv, td_comm *comm, const uint8_t *empty)
{
    int counts[2] = {kv->workers, kv->servers}, teller = 0;
    while (teller < td_comm_size(comm) && empty[teller]) teller++;
    if (teller == td_comm_size(comm))
        return td_fail(TD_ERR_PEER, "no rank is left that has a part of the table");
    TD_TRY(compare(kv, comm, teller));
    TD_TRY(td_comm_broadcast(comm, counts, sizeof counts, teller));
    td_status status = kv->empty && !kv->worker ? take_room(kv, counts[0], counts[1]) : TD_OK;
    TD_TRY(td_comm_agree(comm, status));
    size_t parts = (size_t)(kv->workers + kv->servers);
    return td_comm_broadcast(comm, kv->worker, parts * sizeof *kv->worker, teller);
}

static bool is_here(td_comm *comm, int of_run)
{
    for (int r = 0; r < td_comm_size(comm); r++)
        if (td_comm_rank_in_run(comm, r) == of_run) return true;
    return false;
}

/* The next part that nobody has any more, servers' first; NULL: none. */
static int *missing_part(td_kv *kv)
{
    for (int s = 0; s < kv->servers; s++)
        if (kv->server[s] < 0) return &kv->server[s];
    for (int w = 0; w < kv->workers; w++)
        if (kv->worker[w] < 0) return &kv->worker[w];
    return NULL;
}

static void fill_parts(td_kv *kv, td_comm *comm, const uint8_t *empty)
{
    for (int k = 0; k < kv->workers + kv->servers; k++)
        if (!is_here(comm, kv->worker[k])) kv->worker[k] = -1;
    for (int r = 0; r < td_comm_size(comm); r++) {
        int self = td_comm_rank_in_run(comm, r), *part = NULL;
        bool has = false;
        for (int k = 0; k < kv->workers + kv->servers; k++) has = has || kv->worker[k] == self;
        if (!has && empty[r]) part = missing_part(kv);
        if (part) *part = self;
    }
}

static td_status take_up_parts(td_kv *kv, td_comm *comm)
{
    uint8_t own = kv->empty, *empty = td_calloc((size_t)td_comm_size(comm), 1);
    td_status status = empty ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a table's ranks");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = td_comm_allgather(comm, &own, 1, empty);
    if (status == TD_OK) status = hear_parts(kv, comm, empty);
    if (status == TD_OK) fill_parts(kv, comm, empty);
    td_free(empty);
    return status;
}

static td_status go_on(td_kv *kv, td_comm *comm)
{
    bool lost = false;
    kv->fetches = false; /* what was asked of the former group goes with it */
    TD_TRY(take_up_parts(kv, comm));
    int serving = find_parts(kv, comm);
    td_servers servers = servers_of(kv, serving);
    if (kv->apart && serving == 0)
        return td_fail(TD_ERR_PEER, "none of the table's %d servers is left", kv->servers);
    td_status status = TD_OK;
    if (!kv->sharded) {
        td_sharded_config c = kv->config;
        c.worker_count = kv->workers;
        status = td_sharded_join(&c, &kv->sharded);
    }
    TD_TRY(td_comm_agree(comm, status));
    TD_TRY(td_sharded_move(kv->sharded, comm, &servers, kv->worker_at, kv->empty, &lost));
    kv->empty = false;
    return TD_OK;
}

td_status td_kv_move(td_kv *kv, td_comm *comm)
{
    TD_TRY(check_table(kv, "move"));
    TD_TRY(td_comm_agree(comm, TD_OK)); /* with who has joined */
    return go_on(kv, comm);
}

td_status td_kv_join(td_comm *comm, const td_kv_config *config, td_kv **out)
{
    td_kv *kv = NULL;
    TD_TRY(td_comm_check_open(comm, "a table"));
    td_status made = check(config, out), status;
    if (made == TD_OK) *out = NULL, made = create(config, &kv);
    if (kv) kv->empty = true;
    status = td_comm_agree(comm, made);
    if (status == TD_OK) status = go_on(kv, comm);
    bool lost = status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
    if (made == TD_OK && (status == TD_OK || lost))
        *out = kv;
    else
        td_kv_destroy(kv);
    return status;
}
