/* Ranks of a table take other parts in turn, as servers, workers or both, more or fewer of each:
 * behind it every counter is the number of pushes that were made, at both servers that have it. */
#include "ps/sums_test.h"

#include "base/rng.h"

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

static td_servers servers_of(const turn *t, int replicas)
{
    return (td_servers){.rank = t->server, .count = t->servers, .replicas = replicas};
}

static td_status count_on(td_sharded *s, td_comm *c, int at)
{
    const float g[KEYS] = {-1, -1, -1, -1, -1};
    float rows[KEYS];
    int worker = td_sharded_worker(s);
    for (int k = 0; k < STEPS && worker >= 0; k++) {
        uint64_t keys[KEYS];
        counted_keys(at, worker, k, keys);
        CHECK(td_sharded_clock(s) == (uint64_t)(at * STEPS + k));
        TD_TRY(td_sharded_pull(s, keys, KEYS, rows));
        td_sharded_step step =
            {.keys = keys, .count = KEYS, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
        TD_TRY(td_sharded_push(s, &step));
    }
    return td_sharded_meet(s);
}

static td_status check_counters(td_sharded *s, td_comm *c, int made, int replicas)
{
    static const int none[COUNTERS];
    int count[COUNTERS];
    td_table *t = td_sharded_table(s);
    memcpy(count, none, sizeof count);
    for (int at = 0; at < made; at++)
        for (int w = 0; w < turns[at].workers; w++)
            for (int k = 0; k < STEPS; k++) {
                uint64_t keys[KEYS];
                counted_keys(at, w, k, keys);
                for (int i = 0; i < KEYS; i++) count[keys[i]]++;
            }
    for (uint64_t key = 0; key < COUNTERS && t; key++) {
        float row = 0;
        if (!td_place_has(td_sharded_place(s), key, td_comm_rank(c))) continue;
        td_table_peek(t, &key, 1, &row);
        CHECK(row == (float)count[key]);
    }
    uint64_t rows, keys = 0;
    for (int key = 0; key < COUNTERS; key++) keys += count[key] > 0;
    TD_TRY(count_rows(c, s, &rows));
    CHECK(rows == keys * (uint64_t)(1 + replicas));
    return TD_OK;
}

typedef struct trial {
    const char *clock;
    int replicas;
} trial;

static td_status in_turn(td_comm *c, void *arg)
{
    const trial *x = arg;
    td_sharded *s = NULL;
    td_sharded_config config = {.table = {.width = 1, .lr = 1},
                                .servers = servers_of(&turns[0], x->replicas),
                                .worker = turns[0].worker,
                                .worker_count = turns[0].workers};
    bool lost;
    TD_TRY(td_clock_parse(x->clock, &config.clock));
    td_status status = td_sharded_open(c, &config, &s);
    for (int at = 0; at < TURNS && status == TD_OK; at++) {
        td_servers servers = servers_of(&turns[at], x->replicas);
        if (at > 0) status = td_sharded_renumber(s, turns[at].workers, (uint64_t)(at * STEPS));
        status = td_comm_agree(c, status);
        if (at > 0 && status == TD_OK)
            status = td_sharded_move(s, c, &servers, turns[at].worker, false, &lost);
        if (status == TD_OK) status = count_on(s, c, at);
        if (status == TD_OK) status = check_counters(s, c, at + 1, x->replicas);
        if (status == TD_OK) status = td_comm_barrier(c);
    }
    if (status == TD_OK) return close_table(s);
    td_sharded_destroy(s);
    return status;
}

static void on_six(const trial *x)
{
    void *arg = (void *)(uintptr_t)x;
    assert_ok(mpi_world ? td_comm_agree(mpi_world, in_turn(mpi_world, arg))
                        : td_comm_run_local(RANKS, NULL, in_turn, arg));
}

static void every_push_is_counted(void **state)
{
    static const trial trials[] = {{"asp", 0},
                                   {"asp", 1},
                                   {"ssp:0", 1},
                                   {"ssp:3", 1},
                                   {"groups:1:1:3", 0}};
    (void)state;
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) on_six(&trials[k]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_push_is_counted)};
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
