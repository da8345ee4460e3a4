/* Ranks of a table take other parts in turn, as servers, workers or both, more or fewer of each:
 * behind it every counter is the number of pushes that were made, at both servers that have it;
 * also where ranks die in a turn, or while parts change. */
#include "ps/sums_test.h"

#include "base/log.h"
#include "base/rng.h"
#include "tandem/recover.h"

#include <pthread.h>

enum { RANKS = 6, COUNTERS = 60, KEYS = 5, STEPS = 40, TURNS = 6 };

typedef struct turn {
    int workers, worker[RANKS], servers, server[RANKS];
} turn;

/* More and fewer of each; the same ranks under other numbers; all as both. */
static const turn turns[TURNS] = {{2, {0, 1}, 2, {4, 5}},
                                  {4, {3, 0, 1, 2}, 2, {4, 5}},
                                  {4, {0, 1, 2, 3}, 3, {5, 4, 3}},
                                  {1, {5}, 4, {0, 1, 2, 3}},
                                  {6, {0, 1, 2, 3, 4, 5}, 6, {0, 1, 2, 3, 4, 5}},
                                  {3, {4, 0, 2}, 2, {3, 1}}};

static void counted_keys(int at, int worker, int step, uint64_t keys[KEYS])
{
    td_rng rng;
    td_rng_init(&rng, (uint64_t)at, TD_RNG_TEST, (uint64_t)worker, (uint64_t)step);
    uint64_t first = td_rng_below(&rng, COUNTERS);
    for (uint64_t k = 0; k < KEYS; k++) keys[k] = (first + k * 7) % COUNTERS;
}

/* Before it makes that step of the turn; who does not work then dies as it begins. */
typedef struct death {
    int rank, turn, step;
} death;

typedef struct trial {
    const char *clock;
    int replicas, deaths;
    death death[2];
    int late_turn; /* 0: no; into whose parts it dies while all move, so long after it has begun */
    int late;
    long late_ns;
} trial;

typedef struct life {
    const trial *x;
    td_comm *world, *comm;
    td_sharded *s;
    int rank, turn;                   /* rank: in the run */
    bool over;                        /* it has died, or cannot go on */
    int worker[RANKS], server[RANKS]; /* ranks of the group; workers that have died: -1 */
} life;

static int rank_of(td_comm *c, int in_run)
{
    int r = td_comm_size(c) - 1;
    while (r >= 0 && td_comm_rank_in_run(c, r) != in_run) r--;
    return r;
}

/* The turn's, as far as they live. */
static td_servers places(life *l)
{
    const turn *t = &turns[l->turn];
    td_servers servers = {.rank = l->server, .replicas = l->x->replicas};
    for (int w = 0; w < t->workers; w++) l->worker[w] = rank_of(l->comm, t->worker[w]);
    for (int k = 0; k < t->servers; k++) {
        l->server[servers.count] = rank_of(l->comm, t->server[k]);
        servers.count += l->server[servers.count] >= 0;
    }
    return servers;
}

/* --- a turn --- */

/* Steps that a worker of a turn makes. */
static uint64_t steps_of(const trial *x, int number, int rank)
{
    uint64_t steps = STEPS;
    if (x->late_turn && number >= x->late_turn && rank == x->late) steps = 0;
    for (int k = 0; k < x->deaths; k++)
        if (x->death[k].rank == rank && number >= x->death[k].turn)
            steps = number == x->death[k].turn ? (uint64_t)x->death[k].step : 0;
    return steps;
}

static td_status count_on(life *l)
{
    const float g[KEYS] = {-1, -1, -1, -1, -1};
    float rows[KEYS];
    td_comm *c = l->comm;
    int worker = td_sharded_worker(l->s);
    uint64_t begin = (uint64_t)l->turn * STEPS, may = steps_of(l->x, l->turn, l->rank);
    for (;;) {
        uint64_t keys[KEYS], step = worker >= 0 ? td_sharded_clock(l->s) - begin : may;
        CHECK(step <= STEPS);
        if (step == may && may < STEPS) {
            td_comm_die(c);
            l->over = true;
            return TD_ERR_PEER;
        }
        if (step == may) return td_sharded_meet(l->s);
        counted_keys(l->turn, worker, (int)step, keys);
        TD_TRY(td_sharded_pull(l->s, keys, KEYS, rows));
        td_sharded_step push =
            {.keys = keys, .count = KEYS, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
        TD_TRY(td_sharded_push(l->s, &push));
    }
}

static td_status check_counters(life *l)
{
    td_comm *c = l->comm;
    int count[COUNTERS] = {0};
    td_table *t = td_sharded_table(l->s);
    for (int at = 0; at <= l->turn; at++)
        for (int w = 0; w < turns[at].workers; w++)
            for (uint64_t k = 0; k < steps_of(l->x, at, turns[at].worker[w]); k++) {
                uint64_t keys[KEYS];
                counted_keys(at, w, (int)k, keys);
                for (int i = 0; i < KEYS; i++) count[keys[i]]++;
            }
    for (uint64_t key = 0; key < COUNTERS && t; key++) {
        float row = 0;
        if (!td_place_has(td_sharded_place(l->s), key, td_comm_rank(c))) continue;
        td_table_peek(t, &key, 1, &row);
        CHECK(row == (float)count[key]);
    }
    uint64_t rows, keys = 0, copies = l->x->replicas && places(l).count > 1 ? 2 : 1;
    for (int key = 0; key < COUNTERS; key++) keys += count[key] > 0;
    TD_TRY(count_rows(c, l->s, &rows));
    CHECK(rows == keys * copies);
    return TD_OK;
}

/* --- from turn to turn --- */

static td_status move(life *l)
{
    killing kill = {l->comm, l->x->late_ns};
    pthread_t killer;
    bool lost, late = l->turn && l->turn == l->x->late_turn && l->rank == l->x->late;
    td_servers servers = places(l);
    if (late && pthread_create(&killer, NULL, kill_late, &kill)) return TD_ERR_NOMEM;
    td_status status = td_sharded_move(l->s, l->comm, &servers, l->worker, false, &lost);
    if (!late) return status;
    pthread_join(killer, NULL);
    l->over = true;
    return td_fail(TD_ERR_PEER, "it is dead");
}

static td_status begin_turn(life *l, int number)
{
    l->turn = number;
    return td_sharded_renumber(l->s, turns[number].workers, (uint64_t)(number * STEPS));
}

static td_status take_turns(life *l)
{
    for (;;) {
        TD_TRY(count_on(l));
        TD_TRY(check_counters(l));
        TD_TRY(td_comm_barrier(l->comm));
        if (l->turn + 1 == TURNS) return TD_OK;
        TD_TRY(td_comm_agree(l->comm, begin_turn(l, l->turn + 1)));
        TD_TRY(move(l));
    }
}

/* In the group of those that are left. Some may have begun the next turn when others hear of a
 * death at the end of this one. */
static td_status go_on(life *l)
{
    td_comm *next;
    l->over = true;
    TD_TRY(td_comm_recover(l->comm, NULL, &next, NULL));
    l->over = false;
    if (l->comm != l->world) td_comm_close(l->comm);
    l->comm = next;
    int32_t mine = l->turn, most;
    TD_TRY(td_comm_allreduce(next, &mine, &most, 1, TD_I32, TD_MAX));
    if (most > mine) TD_TRY(begin_turn(l, most));
    return move(l);
}

static td_status live(td_comm *c, void *arg)
{
    const trial *x = arg;
    life l = {.x = x, .world = c, .comm = c, .rank = td_comm_rank(c)};
    td_sharded_config config = {.table = {.width = 1, .lr = 1}};
    config.servers = places(&l);
    config.worker = l.worker, config.worker_count = turns[0].workers;
    TD_TRY(td_clock_parse(x->clock, &config.clock));
    td_status status = td_sharded_open(c, &config, &l.s);
    if (status == TD_OK) status = take_turns(&l);
    bool dies = x->deaths || x->late_turn;
    while (dies && !l.over && (status == TD_ERR_PEER || status == TD_ERR_TIMEOUT)) {
        status = go_on(&l);
        if (status == TD_OK) status = take_turns(&l);
    }
    if (status == TD_OK) status = td_sharded_finish(l.s);
    td_sharded_destroy(l.s);
    if (l.comm != c) td_comm_close(l.comm);
    return status;
}

static void on_six(const trial *x)
{
    void *arg = (void *)(uintptr_t)x;
    td_comm_config config = {.deadline_ms = 60000};
    assert_ok(mpi_world ? td_comm_agree(mpi_world, live(mpi_world, arg))
                        : td_comm_run_local(RANKS, &config, live, arg));
}

static void every_push_is_counted(void **state)
{
    static const trial trials[] = {{.clock = "asp"},
                                   {.clock = "asp", .replicas = 1},
                                   {.clock = "ssp:0", .replicas = 1},
                                   {.clock = "ssp:3", .replicas = 1},
                                   {.clock = "groups:1:1:3"}};
    (void)state;
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) on_six(&trials[k]);
}

/* Of a worker, a server, or one that is both; or of two, each under other parts. */
static void deaths_in_a_turn_cost_no_push(void **state)
{
    static const death two[][2] = {{{0, 2, 11}, {2, 4, 8}}, {{1, 0, 20}, {4, 2, 0}}};
    (void)state;
    td_rng rng;
    if (mpi_world) skip();
    td_rng_init(&rng, 18, TD_RNG_TEST, 0, 0);
    int trials = getenv("TANDEM_TEST_SHORT") ? 8 : 50;
    for (int k = 0; k < trials; k++) {
        trial x = {.clock = k % 4 ? "asp" : "ssp:2", .replicas = 1, .deaths = 1};
        x.death[0] = (death){k % RANKS, k / RANKS % TURNS, (int)td_rng_below(&rng, STEPS)};
        if (k < 2) memcpy(x.death, two[k], sizeof x.death), x.deaths = 2;
        on_six(&x);
    }
}

/* At any moment of the change: rows are at the places of before or of behind it. */
static void deaths_while_parts_change_cost_no_push(void **state)
{
    (void)state;
    td_rng rng;
    if (mpi_world) skip();
    td_rng_init(&rng, 17, TD_RNG_TEST, 0, 0);
    td_log_set_level(TD_LOG_QUIET);
    int trials = getenv("TANDEM_TEST_SHORT") ? 10 : 60;
    for (int k = 0; k < trials; k++) {
        trial x = {.clock = k % 4 ? "asp" : "ssp:2", .replicas = 1};
        x.late = k % RANKS, x.late_turn = 1 + k % (TURNS - 1);
        x.late_ns = 1 + (long)(td_rng_below(&rng, 3000000) >> td_rng_below(&rng, 6));
        on_six(&x);
    }
    td_log_set_level(TD_LOG_WARN);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_push_is_counted),
                                       cmocka_unit_test(deaths_in_a_turn_cost_no_push),
                                       cmocka_unit_test(deaths_while_parts_change_cost_no_push)};
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
