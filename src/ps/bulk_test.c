/* Tables that all ranks use at once: see comm/ranks_test.h. The oracle is one table, moved by sums
 * over all leaves along their tree, zeros where a leaf lacks a row: what an all-reduce of whole
 * vectors gives. Gradients are random, so an order that differs shows. */
#include "ps/bulk.h"

#include "base/rng.h"
#include "comm/ranks_test.h"
#include "math/tree.h"
#include "tandem/recover.h"

#include <pthread.h>

enum { KEYS = 90, WIDTH = 5, MOST_LEAVES = 16, MOST = 700, STEPS = 4 };

typedef struct sample_set { /* a batch */
    size_t count;
    uint64_t keys[MOST];
    uint32_t leaf[MOST];
    float gradient[MOST * WIDTH];
} sample_set;

typedef struct trial {
    int leaves;
    const char *rule;
    bool one_server, uneven;
    uint32_t admit;
    int replicas;
} trial;

static uint64_t key_of(uint32_t k)
{
    return k == 0 ? UINT64_MAX : (uint64_t)k * k * 0x10001;
}

/* Some keys are in nearly all leaves, most in a few; a leaf may be empty. */
static void make_batch(const trial *t, int step, sample_set *b)
{
    td_rng rng;
    td_rng_init(&rng, 5, TD_RNG_TEST, (uint64_t)step, (uint64_t)t->leaves);
    b->count = 0;
    for (int leaf = 0; leaf < t->leaves; leaf++)
        for (uint32_t n = td_rng_below(&rng, 40); n > 0; n--, b->count++) {
            uint32_t k = td_rng_below(&rng, n % 3 ? KEYS : 4);
            b->keys[b->count] = key_of(k);
            b->leaf[b->count] = (uint32_t)leaf;
            for (int w = 0; w < WIDTH; w++)
                b->gradient[b->count * WIDTH + (size_t)w] = td_rng_normal(&rng);
        }
}

static td_table_config table_of(const trial *t)
{
    return (td_table_config){.width = WIDTH,
                             .rule = t->rule,
                             .lr = 0.1f,
                             .l1 = 0.01f,
                             .init = TD_TABLE_NORMAL,
                             .scale = 1,
                             .seed = 11,
                             .admit = t->admit};
}

/* One push of all keys that the batch holds. */
static td_status move_oracle(td_table *table, const trial *t, const sample_set *b, int step)
{
    static _Thread_local float leaf[MOST_LEAVES][KEYS * WIDTH], sum[KEYS * WIDTH];
    const float *parts[MOST_LEAVES];
    int merges[MOST_LEAVES];
    uint64_t keys[KEYS];
    size_t n = 0;
    bool seen[KEYS] = {false};
    memset(leaf, 0, sizeof leaf);
    for (size_t i = 0; i < b->count; i++) {
        uint32_t k = 0;
        while (key_of(k) != b->keys[i]) k++;
        for (size_t w = 0; w < WIDTH; w++)
            leaf[b->leaf[i]][k * WIDTH + w] += b->gradient[i * WIDTH + w];
        seen[k] = true;
    }
    for (int l = 0; l < t->leaves; l++) parts[l] = leaf[l];
    td_tree_merges(t->leaves, 0, t->leaves, merges);
    td_tree_fold(parts, merges, t->leaves, 0, KEYS * WIDTH, sum);
    for (uint32_t k = 0; k < KEYS; k++)
        if (seen[k]) {
            memmove(sum + n * WIDTH, sum + k * WIDTH, WIDTH * sizeof *sum);
            keys[n++] = key_of(k);
        }
    td_table_step s = {.step = (uint64_t)step, .scale = 0.5f, .rate_factor = 1, .decay = 1};
    return td_table_push(table, keys, n, sum, s);
}

/* Rank r's leaves: evenly, or most at the last ones and perhaps none at the first. */
static int leaf_begin(const trial *t, int rank, int size)
{
    return t->uneven ? t->leaves * rank * rank / (size * size) : t->leaves * rank / size;
}

static td_status push_part(td_bulk *bulk, const trial *t, const sample_set *b, td_comm *c, int step)
{
    int me = td_comm_rank(c), size = td_comm_size(c);
    int begin = leaf_begin(t, me, size), end = leaf_begin(t, me + 1, size);
    size_t first = 0, last = 0;
    while (first < b->count && b->leaf[first] < (uint32_t)begin) first++;
    for (last = first; last < b->count && b->leaf[last] < (uint32_t)end;) last++;
    td_bulk_part part =
        {begin,        end, b->keys + first, b->leaf + first, b->gradient + first * WIDTH,
         last - first, true};
    for (size_t i = first; i < last; i++)
        for (size_t k = first; k < i; k++)
            part.each_once = part.each_once && b->keys[i] != b->keys[k];
    td_table_step s = {.step = (uint64_t)step, .scale = 0.5f, .rate_factor = 1, .decay = 1};
    return td_bulk_push(bulk, &part, s);
}

static td_status steps(td_comm *c, void *arg)
{
    const trial *t = arg;
    static _Thread_local sample_set b;
    int last[] = {td_comm_size(c) - 1};
    td_bulk_config config = {.table = table_of(t), .leaves = t->leaves};
    if (t->one_server) config.servers = (td_servers){.rank = last, .count = 1};
    config.servers.replicas = t->replicas;
    td_bulk *bulk;
    td_table *oracle;
    uint64_t keys[KEYS + 20];
    float got[(KEYS + 20) * WIDTH], want[(KEYS + 20) * WIDTH];
    TD_TRY(td_bulk_open(c, &config, &bulk));
    TD_TRY(td_table_create(&config.table, &oracle));
    for (int step = 0; step < STEPS; step++) {
        size_t n = (size_t)td_comm_rank(c) * 7 % (KEYS + 20); /* each asks for its own */
        if (step + 1 == STEPS) n = KEYS + 20;
        for (uint32_t i = 0; i < n; i++) keys[i] = key_of((i * 13 + (uint32_t)step) % KEYS);
        TD_TRY(td_bulk_pull(bulk, keys, n, got));
        td_table_peek(oracle, keys, n, want);
        CHECK(!memcmp(got, want, n * WIDTH * sizeof *got));
        make_batch(t, step, &b);
        TD_TRY(push_part(bulk, t, &b, c, step));
        TD_TRY(move_oracle(oracle, t, &b, step));
    }
    TD_TRY(td_bulk_pull(bulk, keys, KEYS + 20, got));
    td_table_peek(oracle, keys, KEYS + 20, want);
    CHECK(!memcmp(got, want, sizeof got));
    uint64_t mine = td_bulk_table(bulk) ? td_table_rows(td_bulk_table(bulk)) : 0, all;
    TD_TRY(td_comm_allreduce(c, &mine, &all, 1, TD_I64, TD_SUM));
    bool twice = t->replicas && !t->one_server && td_comm_size(c) > 1;
    CHECK(all == td_table_rows(oracle) * (twice ? 2 : 1));
    td_bulk_destroy(bulk);
    td_table_destroy(oracle);
    return TD_OK;
}

static void weights_are_those_of_one_table(void **state)
{
    (void)state;
    static trial trials[] = {{16, "sgd", false, false, 1},     {16, "adagrad", true, true, 1},
                             {13, "adam", false, true, 1},     {7, "ftrl", true, false, 1},
                             {1, "momentum", false, false, 1}, {16, "adagrad", false, false, 3},
                             {16, "adam", false, true, 1, 1},  {16, "sgd", true, false, 1, 1}};
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) on_all_sizes(steps, &trials[k]);
}

static td_status mistaken(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c), size = td_comm_size(c), twice[] = {0, 0}, beyond[] = {size};
    td_bulk_config config = {.table = {.width = 1, .lr = 1}, .leaves = 4};
    uint64_t key = 3;
    uint32_t leaf = 0;
    float g = 1, w;
    td_bulk *b = NULL;
    config.leaves = me == size - 1 ? 8 : 4;
    if (size > 1) CHECK(td_bulk_open(c, &config, &b) == TD_ERR_ARG);
    config.leaves = 0;
    CHECK(td_bulk_open(c, &config, &b) == TD_ERR_ARG && strstr(td_last_error(), "leaves must be"));
    config.leaves = 4;
    config.servers = (td_servers){.rank = beyond, .count = 1};
    CHECK(td_bulk_open(c, &config, &b) == TD_ERR_ARG);
    config.servers = (td_servers){.rank = twice, .count = 2};
    CHECK(td_bulk_open(c, &config, &b) == TD_ERR_ARG);
    config.servers = (td_servers){0};
    TD_TRY(td_bulk_open(c, &config, &b));
    td_table_step step = {.scale = 1, .rate_factor = 1, .decay = 1};
    td_bulk_part part = {0, 4, &key, &leaf, &g, 1}; /* all ranks have the same leaves */
    if (size > 1)
        CHECK(td_bulk_push(b, &part, step) == TD_ERR_ARG &&
              strstr(td_last_error(), "rank 1 has leaf 0"));
    leaf = 4; /* one rank's mistake is told to all */
    if (me) part.leaf_begin = part.leaf_end = 4, part.count = 0;
    CHECK(td_bulk_push(b, &part, step) == TD_ERR_ARG && strstr(td_last_error(), "of leaf 4"));
    leaf = 0; /* and nothing has moved */
    TD_TRY(td_bulk_push(b, &part, step));
    TD_TRY(td_bulk_pull(b, &key, 1, &w));
    CHECK(w == -1);
    td_bulk_destroy(b);
    return TD_OK;
}

static void mistakes_are_told_to_all(void **state)
{
    (void)state;
    on_all_sizes(mistaken, NULL);
}

/* --- ranks die --- */

enum { RANKS = 5, LONG = 12, POINTS = 4 };

typedef struct loss {
    int step[2], point[2], rank[2]; /* who dies where; step -1: nobody */
    int ranks, servers;             /* the first ranks serve; 0: all */
    _Atomic int *moved;             /* slices, of all ranks */
    long late_ns; /* > 0: slices move after every third step, and rank[0] dies in that of step[0] */
} loss;

typedef struct life {
    const loss *loss;
    const trial *trial;
    td_comm *world, *comm; /* of the beginning; now */
    td_bulk *bulk;
    int rank; /* in the run */
    uint64_t step;
    bool over; /* rows are lost */
    int serving[RANKS];
} life;

static bool dies(life *l, int point)
{
    for (int k = 0; k < 2; k++)
        if (l->rank == l->loss->rank[k] && l->step == (uint64_t)l->loss->step[k] &&
            point == l->loss->point[k]) {
            td_comm_die(l->comm);
            return true;
        }
    return false;
}

/* The first `servers` ranks that there are now. */
static td_servers servers_of(life *l)
{
    int n = l->loss->servers ? l->loss->servers : td_comm_size(l->comm);
    if (n > td_comm_size(l->comm)) n = td_comm_size(l->comm);
    for (int k = 0; k < n; k++) l->serving[k] = k;
    return (td_servers){.rank = l->serving, .count = n, .replicas = 1};
}

/* Slices of hot servers move, while one dies or has died. */
static td_status balance(life *l)
{
    killing k = {l->comm, l->loss->late_ns};
    bool victim = l->rank == l->loss->rank[0] && l->step == (uint64_t)l->loss->step[0];
    td_servers servers = servers_of(l);
    td_balanced out = {0};
    pthread_t killer;
    if (victim && pthread_create(&killer, NULL, kill_late, &k)) return TD_ERR_NOMEM;
    td_status status = td_bulk_balance(l->bulk, &servers, true, &out);
    if (status == TD_OK) *l->loss->moved += out.moved;
    if (victim) pthread_join(killer, NULL);
    return victim ? td_fail(TD_ERR_PEER, "it is dead") : status;
}

static td_status one_step(life *l)
{
    static _Thread_local sample_set b;
    td_comm *c = l->comm;
    int me = td_comm_rank(c), size = td_comm_size(c);
    int begin = l->trial->leaves * me / size, end = l->trial->leaves * (me + 1) / size;
    size_t first = 0, last;
    float got[KEYS * WIDTH];
    uint64_t keys[KEYS];
    for (uint32_t k = 0; k < KEYS; k++) keys[k] = key_of(k);
    make_batch(l->trial, (int)l->step, &b);
    while (first < b.count && b.leaf[first] < (uint32_t)begin) first++;
    for (last = first; last < b.count && b.leaf[last] < (uint32_t)end;) last++;
    td_bulk_part part =
        {begin, end, b.keys + first, b.leaf + first, b.gradient + first * WIDTH, last - first};
    if (dies(l, 0)) return TD_ERR_PEER;
    TD_TRY(td_bulk_pull(l->bulk, keys, KEYS, got));
    if (dies(l, 1)) return TD_ERR_PEER;
    td_status status = td_bulk_offer(l->bulk, &part);
    if (dies(l, 2)) return TD_ERR_PEER;
    TD_TRY(td_comm_agree(c, status));
    if (dies(l, 3)) return TD_ERR_PEER;
    TD_TRY(td_bulk_apply(l->bulk, (td_table_step){l->step, 0.5f, 1, 1}));
    l->step++;
    return l->loss->late_ns && l->step % 3 == 0 ? balance(l) : TD_OK;
}

static td_status move_to_next(life *l, bool joined)
{
    td_comm *next;
    if (!joined) {
        TD_TRY(td_comm_recover(l->comm, NULL, &next, NULL));
        if (l->comm != l->world) td_comm_close(l->comm);
        l->comm = next;
    }
    uint64_t made = joined ? 0 : td_bulk_made(l->bulk), most;
    TD_TRY(td_comm_allreduce(l->comm, &made, &most, 1, TD_I64, TD_MAX));
    td_table_step step = {most - 1, 0.5f, 1, 1};
    if (!joined) TD_TRY(td_bulk_settle(l->bulk, most, step));
    td_servers servers = servers_of(l);
    TD_TRY(td_bulk_move(l->bulk, l->comm, &servers, joined, most, &l->over));
    l->step = most;
    return TD_OK;
}

static td_status live(td_comm *c, void *arg)
{
    life l = {.loss = arg, .world = c, .comm = c};
    static const trial adam = {16, "adam", false, false, 1, 1};
    l.trial = &adam, l.rank = td_comm_rank_in_run(c, td_comm_rank(c));
    td_bulk_config config = {.table = table_of(&adam), .leaves = 16};
    bool joined = td_comm_joined(c, td_comm_rank(c));
    config.servers = servers_of(&l);
    td_status status = joined ? td_bulk_join(&config, &l.bulk) : td_bulk_open(c, &config, &l.bulk);
    if (status == TD_OK && joined) status = move_to_next(&l, true);
    bool dead = false;
    while (status == TD_OK && l.step < LONG) {
        status = one_step(&l);
        for (int k = 0; k < 2; k++)
            dead = dead || (l.rank == l.loss->rank[k] && status != TD_OK &&
                            l.step == (uint64_t)l.loss->step[k]);
        while (!dead && !l.over && (status == TD_ERR_PEER || status == TD_ERR_TIMEOUT))
            status = move_to_next(&l, false);
    }
    if (status == TD_OK) { /* each row is that of a table that nobody left */
        td_table *oracle;
        static _Thread_local sample_set b;
        uint64_t keys[KEYS];
        float got[KEYS * WIDTH], want[KEYS * WIDTH];
        TD_TRY(td_table_create(&config.table, &oracle));
        for (int step = 0; step < LONG; step++) {
            make_batch(&adam, step, &b);
            TD_TRY(move_oracle(oracle, &adam, &b, step));
        }
        for (uint32_t k = 0; k < KEYS; k++) keys[k] = key_of(k);
        c = l.comm;
        TD_TRY(td_bulk_pull(l.bulk, keys, KEYS, got));
        td_table_peek(oracle, keys, KEYS, want);
        CHECK(!memcmp(got, want, sizeof got));
        td_table_destroy(oracle);
    }
    td_bulk_destroy(l.bulk);
    if (l.comm != l.world && l.comm) td_comm_close(l.comm);
    return status;
}

static void no_step_is_lost_with_its_ranks(void **state)
{
    (void)state;
    static loss losses[] = {{{3, -1}, {0, 0}, {2, -1}, 5, 0}, {{3, 6}, {1, 3}, {0, 1}, 5, 0},
                            {{4, 7}, {2, 2}, {4, 0}, 5, 0},   {{5, 8}, {3, 1}, {1, 2}, 5, 3},
                            {{2, 9}, {2, 3}, {0, 4}, 5, 2},   {{4, 4}, {2, 2}, {1, 4}, 5, 0}};
    td_comm_config spare = {.deadline_ms = 60000, .spares = 2}, none = {.deadline_ms = 60000};
    if (mpi_world) skip();
    for (size_t k = 0; k + 1 < sizeof losses / sizeof *losses; k++) {
        assert_ok(td_comm_run_local(RANKS, &none, live, &losses[k]));
        assert_ok(td_comm_run_local(RANKS + 2, &spare, live, &losses[k]));
    }
    /* two at once that have each other's slices: some are lost, and it is said */
    assert_int_equal(td_comm_run_local(RANKS, &none, live, &losses[5]), TD_ERR_PEER);
    assert_non_null(strstr(td_last_error(), "of a table is lost"));
}

/* In the midst of slices that move: at some moment or other. */
static void none_is_lost_while_slices_move(void **state)
{
    (void)state;
    td_comm_config spare = {.deadline_ms = 60000, .spares = 1}, none = {.deadline_ms = 60000};
    if (mpi_world) skip();
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    _Atomic int moved = 0;
    int turn = 0;
    for (long ns = 1; ns < 1000000; ns += ns / (some ? 1 : 4) + 1, turn++) {
        loss l = {{3, -1}, {-1, -1}, {turn % RANKS, -1}, RANKS, 0, &moved, ns};
        bool replaced = turn % 2;
        assert_ok(td_comm_run_local(RANKS + replaced, replaced ? &spare : &none, live, &l));
    }
    assert_true(moved > 0);
}

static td_status attempt(void *arg)
{
    td_comm *comm = arg;
    td_bulk_config config = {.table = {.width = 2, .lr = 1}, .leaves = 2};
    uint64_t keys[] = {1, 2, 1};
    uint32_t leaf[] = {0, 0, 1};
    float g[6] = {1, 2, 3, 4, 5, 6}, w[6];
    td_bulk_part part = {0, 2, keys, leaf, g, 3};
    td_bulk *b = NULL;
    td_status status = td_bulk_open(comm, &config, &b);
    if (status == TD_OK) status = td_bulk_push(b, &part, (td_table_step){0, 1, 1, 1});
    if (status == TD_OK) status = td_bulk_pull(b, keys, 3, w);
    if (status == TD_OK) assert_true(w[0] == -6 && w[3] == -4 && w[5] == -8);
    part = (td_bulk_part){0, 1, keys, leaf, g, 2, true};
    if (status == TD_OK) status = td_bulk_push(b, &part, (td_table_step){1, 1, 1, 1});
    if (status == TD_OK) status = td_bulk_pull(b, keys, 3, w);
    if (status == TD_OK) assert_true(w[0] == -7 && w[3] == -8 && w[5] == -10);
    td_bulk_destroy(b);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    td_comm *comm;
    if (mpi_world) skip();
    assert_ok(td_comm_self(NULL, &comm));
    assert_survives_no_memory(attempt, comm);
    td_comm_close(comm);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_are_those_of_one_table),
        cmocka_unit_test(mistakes_are_told_to_all),
        cmocka_unit_test(no_step_is_lost_with_its_ranks),
        cmocka_unit_test(none_is_lost_while_slices_move),
        cmocka_unit_test(memory_may_run_out),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
