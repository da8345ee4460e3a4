/* Tables over servers that go on when ranks die and come: every counter is what was acknowledged,
 * and at most what was tried. */
#include "ps/sums_test.h"

#include "base/log.h"
#include "base/rng.h"
#include "tandem/recover.h"

#include <math.h>
#include <pthread.h>

enum { RANKS = 5, COUNTERS = 40, LONG = 300 };

typedef struct life {
    td_comm *world, *comm;
    td_sharded *s;
    int rank;    /* in the run */
    int servers; /* the first ranks; 0: all */
    int worker[RANKS], serving[RANKS];
    bool over;
    killing late; /* after it has come to a hand-over; ns 0: no */
    pthread_t killer;
    bool killed; /* the killer has begun */
} life;

typedef struct losses {
    int rank[2], step[2], servers;
    const char *clock;
    int late;     /* of the run: it dies in the midst of the first hand-over, */
    long late_ns; /* so long after its beginning; 0: none does */
    /* what ranks of the run had acknowledged, and had under way when they died */
    /* By worker and clock: who takes a dead worker's place may make its last push again. */
    unsigned char acknowledged[RANKS][LONG], tried[RANKS][LONG];
} losses;

static void counted_keys(int rank, uint64_t step, uint64_t keys[4])
{
    td_rng rng;
    td_rng_init(&rng, 12, TD_RNG_TEST, (uint64_t)rank, step);
    uint64_t first = td_rng_below(&rng, COUNTERS);
    for (uint64_t k = 0; k < 4; k++) keys[k] = (first + k * 7) % COUNTERS;
}

static void mark(unsigned char pushes[RANKS][LONG], int worker, uint64_t clock)
{
    __atomic_store_n(&pushes[worker][clock], 1, __ATOMIC_RELAXED);
}

/* Of the pushes that are marked, those that move the key. */
static int count_of(unsigned char pushes[RANKS][LONG], uint64_t key)
{
    int count = 0;
    uint64_t keys[4];
    for (int w = 0; w < RANKS; w++)
        for (uint64_t at = 0; at < LONG; at++) {
            if (!__atomic_load_n(&pushes[w][at], __ATOMIC_RELAXED)) continue;
            counted_keys(w, at, keys);
            for (int k = 0; k < 4; k++) count += keys[k] == key;
        }
    return count;
}

static td_servers servers_of(life *l)
{
    int n = l->servers ? l->servers : td_comm_size(l->comm);
    if (n > td_comm_size(l->comm)) n = td_comm_size(l->comm);
    for (int k = 0; k < n; k++) l->serving[k] = k;
    return (td_servers){.rank = l->serving, .count = n, .replicas = 1};
}

/* Worker w is rank w of the run, or a spare that has come in its place. */
static void workers_of(life *l)
{
    int size = td_comm_size(l->comm), next = 0;
    bool there[RANKS] = {false};
    for (int w = 0; w < RANKS; w++) l->worker[w] = -1;
    for (int r = 0; r < size; r++)
        if (td_comm_rank_in_run(l->comm, r) < RANKS) {
            l->worker[td_comm_rank_in_run(l->comm, r)] = r;
            there[td_comm_rank_in_run(l->comm, r)] = true;
        }
    for (int r = 0; r < size; r++)
        if (td_comm_rank_in_run(l->comm, r) >= RANKS) {
            while (next < RANKS && there[next]) next++;
            if (next < RANKS) l->worker[next] = r, there[next] = true;
        }
}

static td_status to_next(life *l, bool joined)
{
    td_comm *next;
    if (!joined) {
        TD_TRY(td_comm_recover(l->comm, NULL, &next, NULL));
        if (l->comm != l->world) td_comm_close(l->comm);
        l->comm = next;
    }
    td_servers servers = servers_of(l);
    workers_of(l);
    l->late.comm = l->comm;
    if (l->late.ns && !l->killed)
        l->killed = !pthread_create(&l->killer, NULL, kill_late, &l->late);
    return td_sharded_move(l->s, l->comm, &servers, l->worker, joined, &l->over);
}

static td_status count_on(losses *x, life *l, bool *dead)
{
    uint64_t keys[4], clock = td_sharded_clock(l->s);
    float g[4] = {-1, -1, -1, -1}, rows[4];
    int w = td_sharded_worker(l->s);
    if (clock >= LONG || w < 0) return td_sharded_meet(l->s);
    counted_keys(w, clock, keys);
    for (int k = 0; k < 2; k++)
        if (x->rank[k] == l->rank && (uint64_t)x->step[k] <= clock &&
            td_comm_generation(l->comm) >= (uint64_t)k) { /* one after the other */
            td_comm_die(l->comm);
            *dead = true;
            return TD_ERR_PEER;
        }
    TD_TRY(td_sharded_pull(l->s, keys, 4, rows));
    td_sharded_step step =
        {.keys = keys, .count = 4, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
    mark(x->tried, w, clock);
    TD_TRY(td_sharded_push(l->s, &step));
    mark(x->acknowledged, w, clock);
    return TD_OK;
}

/* At least what was acknowledged, at most what was tried. */
static td_status is_counted(td_comm *c, losses *x, uint64_t key, float row)
{
    int least = count_of(x->acknowledged, key), most = count_of(x->tried, key);
    CHECK(row >= (float)least && row <= (float)most);
    return TD_OK;
}

/* And both servers of a counter have the same of it, whatever dead workers have tried. */
static td_status check_counters(losses *x, life *l)
{
    td_comm *c = l->comm;
    td_table *t = td_sharded_table(l->s);
    float least[COUNTERS], most[COUNTERS];
    uint64_t rows;
    for (uint64_t key = 0; key < COUNTERS; key++) {
        float row;
        least[key] = INFINITY, most[key] = -INFINITY;
        if (!t || !td_place_has(td_sharded_place(l->s), key, td_comm_rank(c))) continue;
        td_table_peek(t, &key, 1, &row);
        least[key] = most[key] = row;
        TD_TRY(is_counted(c, x, key, row));
    }
    TD_TRY(td_comm_allreduce(c, least, least, COUNTERS, TD_F32, TD_MIN));
    TD_TRY(td_comm_allreduce(c, most, most, COUNTERS, TD_F32, TD_MAX));
    for (int k = 0; k < COUNTERS; k++) CHECK(least[k] == most[k]);
    TD_TRY(count_rows(c, l->s, &rows));
    CHECK(rows == 2 * COUNTERS);
    return TD_OK;
}

typedef struct ranged {
    losses *x;
    td_comm *c;
    uint64_t rows, next;
} ranged;

static td_status counts(void *arg, uint64_t key, const float *row)
{
    ranged *q = arg;
    td_comm *c = q->c;
    CHECK(key >= q->next && key < COUNTERS);
    q->next = key + 1, q->rows++;
    return is_counted(c, q->x, key, *row);
}

/* All rows are there, whoever has them now. */
static td_status check_range(losses *x, life *l)
{
    ranged q = {.x = x, .c = l->comm};
    uint64_t keys = 0;
    td_comm *c = l->comm;
    TD_TRY(td_sharded_range(l->s, 0, UINT64_MAX, counts, &q));
    for (int key = 0; key < COUNTERS; key++) {
        keys += count_of(x->acknowledged, (uint64_t)key) > 0;
    }
    CHECK(q.rows >= keys);
    return TD_OK;
}

static td_status live(td_comm *c, void *arg)
{
    losses *x = arg;
    life l = {.world = c, .comm = c, .servers = x->servers};
    l.rank = td_comm_rank_in_run(c, td_comm_rank(c));
    l.late.ns = l.rank == x->late ? x->late_ns : 0;
    td_sharded_config config = {.table = {.width = 1, .lr = 1}, .worker_count = RANKS};
    bool joined = td_comm_joined(c, td_comm_rank(c)), dead = false;
    TD_TRY(td_clock_parse(x->clock, &config.clock));
    config.servers = servers_of(&l);
    td_status status = joined ? td_sharded_join(&config, &l.s) : td_sharded_open(c, &config, &l.s);
    if (status == TD_OK && joined) status = to_next(&l, true);
    for (;;) {
        while (!dead && !l.over && (status == TD_ERR_PEER || status == TD_ERR_TIMEOUT)) {
            uint64_t clock = td_sharded_clock(l.s);
            int w = td_sharded_worker(l.s);
            bool kept = w >= 0 && clock < LONG && status != TD_OK;
            status = to_next(&l, false);
            dead = l.killed && !pthread_join(l.killer, NULL);
            if (dead) status = td_fail(TD_ERR_PEER, "it is dead");
            if (status == TD_OK && kept && td_sharded_clock(l.s) > clock) /* made again */
                mark(x->acknowledged, w, clock);
        }
        if (status != TD_OK) break;
        bool ends = td_sharded_clock(l.s) >= LONG || td_sharded_worker(l.s) < 0;
        status = count_on(x, &l, &dead);
        if (status == TD_OK && ends) break;
    }
    if (status == TD_OK) status = check_range(x, &l);
    if (status == TD_OK) status = td_sharded_finish(l.s);
    if (status == TD_OK) status = td_comm_barrier(l.comm);
    if (status == TD_OK) status = check_counters(x, &l);
    td_sharded_destroy(l.s);
    if (l.comm != l.world) td_comm_close(l.comm);
    return status;
}

static void nothing_acknowledged_is_lost(void **state)
{
    (void)state;
    static const losses trials[] =
        {{.rank = {2, -1}, .step = {30, 0}, .clock = "asp"},
         {.rank = {0, 1}, .step = {50, 120}, .clock = "asp"},
         {.rank = {4, 0}, .step = {80, 81}, .clock = "ssp:2"},
         {.rank = {1, 3}, .step = {20, 140}, .clock = "bsp"},
         {.rank = {1, -1}, .step = {70, 0}, .clock = "ssp:3", .servers = 3},
         {.rank = {3, 0}, .step = {60, 200}, .clock = "backup:3:apply", .servers = 3}};
    if (mpi_world) skip();
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++)
        for (int spares = 0; spares <= 2; spares += 2) {
            losses x = trials[k];
            td_comm_config config = {.deadline_ms = 60000, .spares = spares};
            assert_ok(td_comm_run_local(RANKS + spares, &config, live, &x));
        }
}

/* A second one dies at any moment of the hand-over from the first: rows and what is known of pushes
 * are at the places of before or of behind it. */
static void deaths_in_a_hand_over_lose_nothing(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_rng rng;
    td_rng_init(&rng, 13, TD_RNG_TEST, 0, 0);
    td_log_set_level(TD_LOG_QUIET);
    int trials = getenv("TANDEM_TEST_SHORT") ? 20 : 120;
    for (int k = 0; k < trials; k++) {
        losses x = {.rank = {2, -1}, .step = {3 + k % 30, 0}, .clock = k % 2 ? "asp" : "ssp:2"};
        td_comm_config config = {.deadline_ms = 60000, .spares = k % 3 ? 2 : 0};
        x.late = (3 + k % 4) % RANKS; /* not the first */
        x.late_ns = 1 + (long)(td_rng_below(&rng, 3000000) >> td_rng_below(&rng, 6));
        td_status status = td_comm_run_local(RANKS + config.spares, &config, live, &x);
        /* Both may have had the two copies of a slice. */
        if (status != TD_OK && !strstr(td_last_error(), "part "))
            fail_msg("trial %d: %s", k, td_last_error());
    }
    td_log_set_level(TD_LOG_WARN);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_acknowledged_is_lost),
                                       cmocka_unit_test(deaths_in_a_hand_over_lose_nothing)};
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
