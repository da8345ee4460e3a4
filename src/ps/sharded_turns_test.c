/* Workers of a table that move one at a time, in an order that all ranks know: what each reads,
 * from servers or from what it keeps, and how stale that is, against the clocks' definitions. A
 * worker that has to wait is answered when the push has come that it waits for, and sees it. */
#include "ps/sums_test.h"

#include "base/clock.h"
#include "base/rng.h"
#include "ps/sharded_impl.h"

enum { MOST = 8, KEYS = 40, SOME = 6, BURST = 60, REGROUP = 16 }; /* REGROUP: as in clock.c */

typedef struct trial {
    const char *clock;
    int servers; /* the last ranks; 0: all */
    int replicas;
} trial;

typedef struct kept {
    bool there;
    uint64_t clock, others;
    float row;
} kept;

/* What all ranks know of all. */
typedef struct script {
    td_comm *c;
    td_sharded *s;
    td_clock clock;
    td_rng rng;
    int size, me, servers;
    int group[MOST];
    uint64_t pushed[MOST], pushes;
    uint64_t most[2]; /* that a worker was ahead of one of its own group, of another one */
    float row[KEYS];
    kept kept[MOST][KEYS];
    uint64_t reads[TD_STALENESS_BINS], writes[TD_STALENESS_BINS];
    uint64_t cached, asked, waited;
} script;

typedef struct reading {
    uint64_t keys[SOME];
    float got[SOME], want[SOME];
    bool fresh[SOME]; /* among what is kept */
    int missing;
    double others; /* the sum of their ages' */
} reading;

static uint64_t slowest(const script *x)
{
    uint64_t least = x->pushed[0];
    for (int w = 1; w < x->size; w++)
        if (x->pushed[w] < least) least = x->pushed[w];
    return least;
}

static uint64_t others(const script *x, int worker)
{
    uint64_t sum = 0;
    for (int w = 0; w < x->size; w++) sum += w == worker ? 0 : x->pushed[w];
    return sum;
}

/* Whether the other has pushed often enough for the worker to go on. */
static bool suffices(const script *x, int worker, int other)
{
    bool apart = x->group[worker] != x->group[other];
    uint64_t may = apart ? x->clock.between : x->clock.bound;
    return x->clock.kind == TD_CLOCK_ASP || x->pushed[other] + may >= x->pushed[worker];
}

/* The slowest that the worker has to wait for; -1: none. */
static int waits_for(const script *x, int worker)
{
    int least = -1;
    for (int w = 0; w < x->size; w++)
        if (!suffices(x, worker, w) && (least < 0 || x->pushed[w] < x->pushed[least])) least = w;
    return least;
}

static uint64_t lag(uint64_t clock, uint64_t of)
{
    return clock > of ? clock - of : 0;
}

static void count(uint64_t bins[TD_STALENESS_BINS], uint64_t clocks, uint64_t reads)
{
    uint64_t last = TD_STALENESS_BINS - 1; /* and all beyond */
    bins[clocks > last ? last : clocks] += reads;
}

/* Different ones. */
static void some_keys(script *x, uint64_t keys[SOME])
{
    uint64_t first = td_rng_below(&x->rng, KEYS), by = 1 + 2 * td_rng_below(&x->rng, 2);
    for (uint64_t k = 0; k < SOME; k++) keys[k] = (first + k * by) % KEYS;
}

/* --- reading --- */

static td_status begin(script *x, int worker, reading *r)
{
    uint64_t clock = x->pushed[worker];
    *r = (reading){0};
    some_keys(x, r->keys);
    for (int k = 0; k < SOME; k++) {
        const kept *had = &x->kept[worker][r->keys[k]];
        r->fresh[k] = had->there && had->clock + x->clock.bound >= clock;
        r->missing += !r->fresh[k];
        if (!r->fresh[k]) continue;
        r->want[k] = had->row, r->others += (double)had->others;
        count(x->reads, lag(clock, had->clock), 1);
        x->cached++;
    }
    return worker == x->me ? td_sharded_fetch(x->s, r->keys, SOME, 0, r->got) : TD_OK;
}

static td_status end(script *x, int worker, reading *r)
{
    td_comm *c = x->c;
    for (int k = 0; k < SOME; k++) {
        uint64_t key = r->keys[k];
        if (r->fresh[k]) continue;
        r->want[k] = x->row[key], r->others += (double)others(x, worker);
        x->kept[worker][key] =
            (kept){x->clock.bound > 0, slowest(x), others(x, worker), x->row[key]};
        count(x->reads, lag(x->pushed[worker], slowest(x)), 1);
        x->asked++;
    }
    for (int w = 0; w < x->size; w++) {
        uint64_t *most = &x->most[x->group[w] != x->group[worker]];
        uint64_t ahead = lag(x->pushed[worker], x->pushed[w]);
        if (ahead > *most) *most = ahead;
    }
    if (worker != x->me) return TD_OK;
    TD_TRY(td_sharded_fetched(x->s));
    for (int k = 0; k < SOME; k++) CHECK(r->got[k] == r->want[k]);
    return TD_OK;
}

/* --- a step --- */

/* Every worker of a kind takes about the same time for a step, ten times that of the kind before.
 */
static int64_t ns_of(const script *x, int worker)
{
    int64_t ns = 10000000000 + 10000000 * worker;
    for (int k = worker % x->clock.count; k > 0; k--) ns *= 10;
    return ns;
}

/* All have told their pace: each kind is a group, the fastest the first. */
static void regroup(script *x)
{
    for (int w = 0; w < x->size; w++) x->group[w] = w % x->clock.count;
}

static td_status push(script *x, int worker, const reading *r)
{
    uint64_t keys[SOME], size = (uint64_t)x->size;
    uint64_t since = lag(others(x, worker), (uint64_t)(r->others / SOME));
    const float g[SOME] = {-1, -1, -1, -1, -1, -1};
    td_sharded_step step =
        {.keys = keys, .count = SOME, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
    some_keys(x, keys);
    bool groups = x->clock.kind == TD_CLOCK_GROUPS;
    if (groups) x->s->began = td_clock_ns() - ns_of(x, worker);
    if (worker == x->me) TD_TRY(td_sharded_push(x->s, &step));
    if (groups && ++x->pushes == REGROUP * size) regroup(x);
    x->pushed[worker]++;
    for (int k = 0; k < SOME; k++) {
        float row = ++x->row[keys[k]];
        x->kept[worker][keys[k]] = (kept){x->clock.bound > 0, slowest(x), others(x, worker), row};
    }
    count(x->writes, (since + size / 2) / size, (uint64_t)x->servers);
    return TD_OK;
}

/* Those that it waits for go first, each behind those that it waits for itself. */
static td_status go(script *x, int worker)
{
    td_comm *c = x->c;
    reading r;
    TD_TRY(begin(x, worker, &r));
    for (int first; (first = waits_for(x, worker)) >= 0; x->waited++) {
        CHECK(r.missing == SOME);
        TD_TRY(td_sharded_meet(x->s));
        CHECK(worker != x->me || !td_keyed_done(x->s->keyed, x->s->fetch.ticket));
        TD_TRY(td_sharded_meet(x->s));
        TD_TRY(go(x, first));
    }
    TD_TRY(end(x, worker, &r));
    TD_TRY(push(x, worker, &r));
    return td_sharded_meet(x->s);
}

/* --- what it has come to --- */

static td_status staleness_is(script *x)
{
    td_comm *c = x->c;
    td_sharded_stats mine;
    uint64_t *all = (uint64_t *)&mine;
    td_sharded_stats_of(x->s, &mine);
    TD_TRY(td_comm_allreduce(c, &mine, &mine, sizeof mine / sizeof *all, TD_I64, TD_SUM));
    for (int k = 0; k < TD_STALENESS_BINS; k++) {
        CHECK(mine.reads.reads[k] == x->reads[k]);
        CHECK(mine.writes.reads[k] == x->writes[k]);
    }
    CHECK(mine.cached == x->cached && mine.asked == x->asked);
    bool alone = x->size == 1, asp = x->clock.kind == TD_CLOCK_ASP;
    CHECK((x->waited > 0) == (!alone && !asp));
    CHECK((x->reads[TD_STALENESS_BINS - 1] > 0) == (!alone && asp));
    return TD_OK;
}

/* At every server. */
static td_status groups_are(script *x)
{
    td_comm *c = x->c;
    for (int w = 0; w < x->size && td_sharded_table(x->s); w++)
        CHECK(x->s->store.clocks.group[w] == x->group[w]);
    return TD_OK;
}

/* As far ahead as the clock lets them be. */
static td_status groups_are_apart(script *x)
{
    td_comm *c = x->c;
    if (x->clock.kind != TD_CLOCK_GROUPS) return TD_OK;
    CHECK(x->most[0] == (x->size > x->clock.count ? x->clock.bound : 0));
    CHECK(x->most[1] == (x->clock.count > 1 ? x->clock.between : 0));
    return TD_OK;
}

static td_status in_turns(td_comm *c, void *arg)
{
    static const int ranks[MOST] = {0, 1, 2, 3, 4, 5, 6, 7};
    const trial *t = arg;
    script x = {.c = c, .size = td_comm_size(c), .me = td_comm_rank(c)};
    td_sharded_config config = {.table = {.width = 1, .lr = 1}};
    x.servers = t->servers && t->servers < x.size ? t->servers : x.size;
    config.servers = (td_servers){.rank = ranks + x.size - x.servers, .count = x.servers};
    config.servers.replicas = x.servers > 1 && t->replicas;
    TD_TRY(td_clock_parse(t->clock, &config.clock));
    if (config.clock.count > x.size) config.clock.count = x.size;
    x.clock = config.clock;
    td_rng_init(&x.rng, 15, TD_RNG_TEST, (uint64_t)x.size, 0);
    TD_TRY(td_sharded_open(c, &config, &x.s));
    for (int turn = 0; turn < REGROUP * x.size; turn++) TD_TRY(go(&x, turn % x.size));
    TD_TRY(groups_are(&x));
    for (int turn = 0; turn < (x.size + 1) * BURST; turn++) {
        int any = (int)td_rng_below(&x.rng, (uint32_t)x.size), in_burst = turn / BURST % x.size;
        TD_TRY(go(&x, td_rng_below(&x.rng, 4) ? in_burst : any));
    }
    TD_TRY(td_sharded_finish(x.s));
    TD_TRY(staleness_is(&x));
    TD_TRY(groups_are_apart(&x));
    TD_TRY(groups_are(&x));
    td_sharded_destroy(x.s);
    return TD_OK;
}

static void what_is_read_is_as_stale_as_told(void **state)
{
    static trial trials[] = {{"bsp", 0, 0},
                             {"ssp:1", 2, 0},
                             {"ssp:4", 0, 1},
                             {"asp", 0, 0},
                             {"asp", 2, 1}};
    (void)state;
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) on_all_sizes(in_turns, &trials[k]);
}

static void groups_wait_for_each_other_less(void **state)
{
    static trial trials[] = {{"groups:1:2:5", 0, 0},
                             {"groups:2:1:4", 2, 0},
                             {"groups:3:2:9", 0, 1},
                             {"groups:2:0:3", 3, 0}};
    (void)state;
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) on_all_sizes(in_turns, &trials[k]);
}

/* Of a batch whose keys repeat a server is asked once, if any is its own, and for each of them
 * once; a push is one request to each. */
static td_status asked_once(td_comm *c, void *arg)
{
    enum { ASKED = 900, DISTINCT = 35 };
    uint64_t keys[ASKED];
    float rows[ASKED];
    td_sharded *s;
    td_sharded_stats stats;
    (void)arg;
    TD_TRY(open_sums(c, "asp", 0, &s));
    bool has = false;
    for (uint64_t k = 0; k < ASKED; k++) {
        keys[k] = k % DISTINCT * 0x9e3779b97f4a7c15;
        rows[k] = 1;
        has = has || td_place_primary(td_sharded_place(s), keys[k]) == td_comm_rank(c);
    }
    for (int batch = 1; batch <= 3; batch++) {
        if (td_comm_rank(c) == 0) {
            TD_TRY(td_sharded_pull(s, keys, ASKED, rows));
            TD_TRY(td_sharded_push_all(s, keys, ASKED, rows));
        }
        TD_TRY(td_sharded_meet(s));
        CHECK(s->store.turn == (uint64_t)(has ? batch : 0));
        td_sharded_stats_of(s, &stats);
        CHECK(stats.pushes == (uint64_t)batch);
        CHECK(stats.asked == (td_comm_rank(c) ? 0 : (uint64_t)batch * DISTINCT));
        TD_TRY(td_sharded_meet(s)); /* before the next */
    }
    return close_table(s);
}

static void a_batch_asks_each_server_once(void **state)
{
    (void)state;
    on_all_sizes(asked_once, NULL);
}

/* While a stop is on, a worker runs ahead of the clock; behind it, it waits for the others again,
 * and sees all of their pushes. */
static td_status stops_for_a_while(td_comm *c, void *arg)
{
    enum { STEPS = 3, NAP_NS = 5000000 };
    uint64_t keys[KEYS];
    float ones[KEYS], got[KEYS];
    td_sharded *s;
    int size = td_comm_size(c), me = td_comm_rank(c);
    TD_TRY(open_sums(c, arg, 0, &s));
    for (uint64_t k = 0; k < KEYS; k++) keys[k] = k * 0x9e3779b97f4a7c15, ones[k] = 1;
    if (me == 0) TD_TRY(td_sharded_stop(s));
    for (int step = 0; step < STEPS && me == 0; step++) {
        TD_TRY(td_sharded_pull(s, keys, KEYS, got));
        for (int k = 0; k < KEYS; k++) CHECK(got[k] == (float)-step);
        TD_TRY(td_sharded_push_all(s, keys, KEYS, ones));
        CHECK(td_sharded_stops(s));
    }
    TD_TRY(td_sharded_meet(s));
    td_sharded_end_stop(s);
    TD_TRY(td_sharded_meet(s));
    if (me) nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
    for (int step = 0; step < STEPS && me; step++) TD_TRY(td_sharded_push_all(s, keys, KEYS, ones));
    TD_TRY(td_sharded_pull(s, keys, KEYS, got));
    for (int k = 0; k < KEYS; k++) CHECK(got[k] == (float)(-STEPS * size));
    CHECK(!td_sharded_stops(s));
    return close_table(s);
}

static void behind_a_stop_the_clock_goes_on(void **state)
{
    (void)state;
    on_all_sizes(stops_for_a_while, "bsp");
    on_all_sizes(stops_for_a_while, "ssp:0");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_batch_asks_each_server_once),
                                       cmocka_unit_test(behind_a_stop_the_clock_goes_on),
                                       cmocka_unit_test(what_is_read_is_as_stale_as_told),
                                       cmocka_unit_test(groups_wait_for_each_other_less)};
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
