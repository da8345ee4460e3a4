/* Tables that go on at once when a server dies, and are copied again behind: every push counts once
 * at both servers of its row, also where more die as soon as all has been copied; and in step, each
 * row is that of a table that nobody left. See ranks_test.h. */
#include "ps/bulk.h"
#include "ps/sharded_impl.h"

#include "base/alloc.h"
#include "base/fs.h"
#include "base/rng.h"
#include "comm/ranks_test.h"

/* Rows of 1 KiB and more, so that it takes a while. */
enum { RANKS = 4, ROWS = 12000, WIDTH = 256, AT_ONCE = 500, MOST = 6 };

static uint64_t key_of(uint64_t k)
{
    return k * 0x9e3779b97f4a7c15 + 3;
}

typedef struct life {
    const void *trial;
    td_comm *world, *comm; /* of the beginning; now */
    int rank;              /* in the run */
    int servers;           /* ranks below serve; 0: all */
    int serving[RANKS + 1], worker[RANKS];
    bool over;
} life;

static td_servers servers_of(life *l)
{
    int n = 0;
    for (int r = 0; r < td_comm_size(l->comm); r++)
        if (!l->servers || td_comm_rank_in_run(l->comm, r) < l->servers) l->serving[n++] = r;
    return (td_servers){.rank = l->serving, .count = n, .replicas = 1};
}

static td_status next_group(life *l)
{
    td_comm *next;
    TD_TRY(td_comm_recover(l->comm, NULL, &next, NULL));
    if (l->comm != l->world) td_comm_close(l->comm);
    l->comm = next;
    return TD_OK;
}

static bool is_loss(td_status status)
{
    return status == TD_ERR_PEER || status == TD_ERR_TIMEOUT;
}

/* --- at workers' own pace --- */

enum { LONG = 900, FIRST = 100, APPLIED = 110, MET = 400, SECOND = 500 };

typedef struct losses {
    const char *clock;
    int first, second, spares; /* who dies, -1: nobody */
    _Atomic int copied;        /* ranks that were to copy */
} losses;

/* Function 0: all weights and 1. */
static td_status add_one(void *user, const void *argument, uint64_t key, float *row)
{
    (void)user, (void)argument, (void)key;
    for (int i = 0; i < WIDTH; i++) row[i] += 1;
    return TD_OK;
}

static const td_sharded_function functions[] = {{add_one, NULL}};

/* Numbers of its rows, */
static void step_rows_of(int worker, uint64_t step, uint64_t rows[MOST])
{
    td_rng rng;
    td_rng_init(&rng, 41, TD_RNG_TEST, (uint64_t)worker, step);
    uint64_t first = td_rng_below(&rng, ROWS);
    for (uint64_t k = 0; k < MOST; k++) rows[k] = (first + k * 977) % ROWS;
}

/* and their keys. */
static void step_keys(int worker, uint64_t step, uint64_t keys[MOST])
{
    step_rows_of(worker, step, keys);
    for (int k = 0; k < MOST; k++) keys[k] = key_of(keys[k]);
}

static bool ends_at(const losses *x, int worker, uint64_t step)
{
    return (worker == x->first && step >= FIRST && x->spares < 1) ||
           (worker == x->second && step >= SECOND && x->spares < 2);
}

/* Rows by the steps that were made: none is lost or made twice. */
static void count_all(const losses *x, float count[ROWS])
{
    uint64_t rows[MOST];
    memset(count, 0, ROWS * sizeof *count);
    for (int w = 0; w < RANKS; w++)
        for (uint64_t at = 0; at < LONG && !ends_at(x, w, at); at++) {
            step_rows_of(w, at, rows);
            for (int k = 0; k < MOST; k++) count[rows[k]]++;
        }
    for (uint64_t k = 0; k < MOST; k++) count[k * 1999]++; /* by the function */
}

static td_status fill(td_sharded *s, int self)
{
    td_table *t = td_sharded_table(s);
    float row[2 * WIDTH] = {0};
    for (uint64_t k = 0; k < ROWS; k++)
        if (td_place_has(td_sharded_place(s), key_of(k), self))
            TD_TRY(td_table_put(t, key_of(k), row));
    return TD_OK;
}

static void workers_of(life *l)
{
    for (int w = 0; w < RANKS; w++) l->worker[w] = -1;
    for (int r = 0; r < td_comm_size(l->comm); r++)
        if (td_comm_rank_in_run(l->comm, r) < RANKS) l->worker[td_comm_rank_in_run(l->comm, r)] = r;
    for (int r = 0, w = 0; r < td_comm_size(l->comm); r++) {
        if (td_comm_rank_in_run(l->comm, r) < RANKS) continue;
        while (w < RANKS && l->worker[w] >= 0) w++;
        if (w < RANKS) l->worker[w] = r;
    }
}

static td_status move(life *l, td_sharded *s, bool joined)
{
    td_servers servers = servers_of(l);
    workers_of(l);
    TD_TRY(td_sharded_move(s, l->comm, &servers, l->worker, joined, &l->over));
    ((losses *)(uintptr_t)l->trial)->copied += s->copies != NULL;
    return TD_OK;
}

static td_status step_once(life *l, td_sharded *s)
{
    const losses *x = l->trial;
    uint64_t keys[MOST], clock = td_sharded_clock(s);
    float rows[MOST * WIDTH], g[MOST * WIDTH];
    int w = td_sharded_worker(s);
    if ((l->rank == x->first && clock == FIRST) || (l->rank == x->second && clock == SECOND)) {
        td_comm_die(l->comm);
        l->over = true;
        return TD_ERR_PEER;
    }
    if (clock == MET || clock == LONG) TD_TRY(td_sharded_meet(s));
    if (clock == LONG) return TD_OK;
    step_keys(w, clock, keys);
    TD_TRY(td_sharded_pull(s, keys, MOST, rows));
    for (int k = 0; k < MOST * WIDTH; k++) g[k] = -1;
    td_sharded_step step = {.keys = keys,
                            .count = MOST,
                            .gradients = g,
                            .rows = rows,
                            .scale = 1,
                            .rate = 1,
                            .decay = 1};
    TD_TRY(td_sharded_push(s, &step));
    if (w == 0 && clock == APPLIED) {
        for (uint64_t k = 0; k < MOST; k++) keys[k] = key_of(k * 1999);
        TD_TRY(td_sharded_apply(s, 0, keys, MOST, NULL, 0));
    }
    return TD_OK;
}

/* Both servers of each row have the same of it, which is right. */
static td_status check_rows(life *l, td_sharded *s)
{
    td_comm *c = l->comm;
    static _Thread_local float count[ROWS];
    float row[WIDTH];
    uint64_t mine = 0, all, copies = td_comm_size(c) > 1 ? 2 : 1;
    int self = td_comm_rank(c);
    CHECK(!s->copies);
    count_all(l->trial, count);
    for (uint64_t k = 0; k < ROWS; k++) {
        uint64_t key = key_of(k);
        if (!td_place_has(td_sharded_place(s), key, self)) continue;
        td_table_peek(td_sharded_table(s), &key, 1, row);
        for (int i = 0; i < WIDTH; i++) CHECK(row[i] == count[k]);
        mine++;
    }
    CHECK(mine == td_table_rows(td_sharded_table(s)));
    TD_TRY(td_comm_allreduce(c, &mine, &all, 1, TD_I64, TD_SUM));
    CHECK(all == copies * ROWS);
    return TD_OK;
}

/* Its arrays are of the life. */
static td_status describe(life *l, td_sharded_config *config)
{
    const losses *x = l->trial;
    l->rank = td_comm_rank_in_run(l->comm, td_comm_rank(l->comm));
    workers_of(l);
    *config = (td_sharded_config){.table = {.width = WIDTH, .lr = 1},
                                  .servers = servers_of(l),
                                  .worker = l->worker,
                                  .worker_count = RANKS,
                                  .functions = functions,
                                  .function_count = 1};
    return td_clock_parse(x->clock, &config->clock);
}

static td_status live(td_comm *c, void *arg)
{
    life l = {.trial = arg, .world = c, .comm = c};
    td_sharded *s = NULL;
    td_sharded_config config;
    bool joined = td_comm_joined(c, td_comm_rank(c));
    TD_TRY(describe(&l, &config));
    td_status status = joined ? td_sharded_join(&config, &s) : td_sharded_open(c, &config, &s);
    if (status == TD_OK && joined)
        status = move(&l, s, true);
    else if (status == TD_OK)
        status = td_comm_agree(c, fill(s, td_comm_rank(c)));
    for (bool ended = false; !ended && !l.over && (status == TD_OK || is_loss(status));) {
        if (is_loss(status)) status = next_group(&l);
        if (status == TD_OK && l.comm != c && s->comm != l.comm) status = move(&l, s, false);
        while (status == TD_OK && !ended) {
            ended = td_sharded_clock(s) == LONG;
            status = step_once(&l, s);
        }
    }
    if (status == TD_OK) status = check_rows(&l, s);
    if (status == TD_OK) status = td_sharded_finish(s);
    td_sharded_destroy(s);
    if (l.comm != c) td_comm_close(l.comm);
    return status;
}

static void pushes_count_once_while_slices_are_copied(void **state)
{
    (void)state;
    if (mpi_world) skip();
    losses trials[] = {{"ssp:2", 2, -1, 0},         {"ssp:2", 1, 3, 0}, {"ssp:3", 3, 1, 2},
                       {"backup:3:apply", 2, 0, 0}, {"ssp:2", 0, 1, 1}, {"groups:2:1:3", 1, 2, 0}};
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k += some ? 2 : 1) {
        td_comm_config config = {.deadline_ms = 60000, .spares = trials[k].spares};
        assert_ok(td_comm_run_local(RANKS + trials[k].spares, &config, live, &trials[k]));
        assert_true(trials[k].copied >= RANKS - 1);
    }
}

/* --- copying that fails --- */

/* Copying stands still while this rank has the lock, and the next allocation of any thread is made
 * to fail: of one that packs rows, or of one that takes them. Who waits for copies hears of it, and
 * so do all that meet. */
static td_status without_memory(td_comm *c, td_sharded *s)
{
    uint64_t keys[2] = {key_of(1), key_of(2)};
    TD_TRY(td_comm_barrier(s->comm));
    if (s->rank == 0) td_alloc_fail_at(1);
    TD_TRY(td_comm_barrier(s->comm));
    pthread_mutex_unlock(&s->lock);
    while (td_alloc_count() < 1) usleep(100);
    if (s->rank == 0) {
        CHECK(td_sharded_apply(s, 0, keys, 2, NULL, 0) == TD_ERR_NOMEM);
        CHECK(strstr(td_last_error(), "push at rank "));
        td_error_clear();
    }
    CHECK(td_sharded_meet(s) == TD_ERR_NOMEM);
    td_error_clear();
    return TD_OK;
}

static td_status live_without_memory(td_comm *c, void *arg)
{
    const losses *x = arg;
    life l = {.trial = x, .world = c, .comm = c};
    td_sharded *s = NULL;
    td_sharded_config config;
    TD_TRY(describe(&l, &config));
    TD_TRY(td_sharded_open(c, &config, &s));
    td_status status = td_comm_agree(c, fill(s, td_comm_rank(c)));
    if (status == TD_OK && l.rank == x->first) {
        td_comm_die(c);
        td_sharded_destroy(s);
        return TD_ERR_PEER;
    }
    if (status == TD_OK) status = td_comm_barrier(c);
    if (is_loss(status)) status = next_group(&l);
    if (status == TD_OK) {
        pthread_mutex_lock(&s->lock);
        status = move(&l, s, false);
        if (status == TD_OK)
            status = without_memory(l.comm, s);
        else
            pthread_mutex_unlock(&s->lock);
    }
    td_sharded_destroy(s);
    if (l.comm != c) td_comm_close(l.comm);
    return status;
}

static void copying_that_fails_is_told(void **state)
{
    (void)state;
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    if (mpi_world) skip();
    for (int k = 0; k < RANKS; k += some ? 4 : 2) {
        losses x = {"asp", k, -1, 0};
        td_comm_config config = {.deadline_ms = 60000};
        assert_ok(td_comm_run_local(RANKS, &config, live_without_memory, &x));
        td_alloc_fail_at(0);
        assert_int_equal(x.copied, RANKS - 1);
    }
}

/* --- in step --- */

enum { STEPS = 40 };

typedef struct deaths {
    int rank[2], step[2], spares;
    uint64_t memory; /* of a table */
    bool evicts;
    int servers;        /* ranks below serve; 0: all */
    _Atomic int partly; /* steps that some slices were not copied at yet */
} deaths;

static char root[] = "/tmp/td-copies-XXXXXX";

static td_table_config table_of(const deaths *x, int rank, char folder[64])
{
    td_table_config t = {.width = WIDTH, .rule = "adam", .lr = .1f};
    snprintf(folder, 64, "%s/%d", root, rank);
    if (rank >= 0 && x->memory) t.memory_bytes = x->memory, t.folder = folder;
    return t;
}

/* The first steps make all rows; later ones move some. */
static size_t step_rows(uint64_t step, int leaf, uint64_t keys[AT_ONCE])
{
    enum { MAKE = ROWS / AT_ONCE / RANKS };
    td_rng rng;
    td_rng_init(&rng, 42, TD_RNG_TEST, step, (uint64_t)leaf);
    size_t n = step < MAKE ? AT_ONCE : 20;
    uint64_t first = (step * RANKS + (uint64_t)leaf) * AT_ONCE;
    for (size_t k = 0; k < n; k++)
        keys[k] = key_of(step < MAKE ? first + k : td_rng_below(&rng, ROWS));
    return n;
}

static void gradient_of(uint64_t step, int leaf, size_t floats, float *g)
{
    td_rng rng;
    td_rng_init(&rng, 43, TD_RNG_TEST, step, (uint64_t)leaf);
    for (size_t k = 0; k < floats; k++) g[k] = (float)td_rng_below(&rng, 1000) / 500 - 1;
}

static void forget(const deaths *x, td_table *t, uint64_t step)
{
    if (!x->evicts || !t) return;
    td_table_set_clock(t, (uint32_t)(step + 1));
    if (step % 4 == 3 && step > 12) td_table_evict(t, (uint32_t)(step + 1 - 12));
}

/* Leaves of this rank's in one part: one leaf a rank of the beginning. */
static td_status push_step(life *l, td_bulk *b, td_table *alone, uint64_t step)
{
    enum { ALL = RANKS * AT_ONCE };
    int size = alone ? 1 : td_comm_size(l->comm), me = alone ? 0 : td_comm_rank(l->comm);
    int begin = RANKS * me / size, end = RANKS * (me + 1) / size;
    uint64_t *keys = td_calloc(ALL, sizeof *keys);
    uint32_t *leaf = td_calloc(ALL, sizeof *leaf);
    float *g = td_calloc((size_t)ALL * WIDTH, sizeof *g);
    size_t n = 0;
    td_table_step how = {.step = step, .scale = 1, .rate_factor = 1, .decay = 1};
    for (int k = begin; k < end; k++) {
        size_t here = step_rows(step, k, keys + n);
        gradient_of(step, k, here * WIDTH, g + n * WIDTH);
        for (size_t i = 0; i < here; i++) leaf[n + i] = (uint32_t)k;
        n += here;
    }
    td_bulk_part part = {begin, end, keys, leaf, g, n};
    td_status status = td_bulk_offer(b, &part);
    if (!alone) status = is_loss(status) ? status : td_comm_agree(l->comm, status);
    if (status == TD_OK) {
        forget(l->trial, td_bulk_table(b), step);
        status = td_bulk_apply(b, how);
    }
    td_free(keys), td_free(leaf), td_free(g);
    return status;
}

static td_status move_steps(life *l, td_bulk *b, bool joined, uint64_t *step)
{
    uint64_t made = joined ? 0 : td_bulk_made(b), most;
    TD_TRY(td_comm_allreduce(l->comm, &made, &most, 1, TD_I64, TD_MAX));
    td_table_step how = {.step = most - 1, .scale = 1, .rate_factor = 1, .decay = 1};
    if (!joined && made < most) forget(l->trial, td_bulk_table(b), most - 1);
    if (!joined) TD_TRY(td_bulk_settle(b, most, how));
    td_servers servers = servers_of(l);
    TD_TRY(td_bulk_move(b, l->comm, &servers, joined, most, &l->over));
    *step = most;
    return TD_OK;
}

static td_status is_known(void *arg, uint64_t key, const float *row)
{
    (void)row;
    const td_place *p = arg;
    if (p->maybe[td_slice_of(&p->slices, key)]) return TD_OK;
    return td_fail(TD_ERR_INTERNAL, "a row of a slice that is not known to be here");
}

static td_status one_step(life *l, td_bulk *b, uint64_t step)
{
    deaths *x = (deaths *)(uintptr_t)l->trial;
    uint64_t keys[AT_ONCE];
    static _Thread_local float out[AT_ONCE * WIDTH];
    for (int k = 0; k < 2; k++)
        if (x->rank[k] == l->rank && x->step[k] == (int)step) {
            td_comm_die(l->comm);
            l->over = true;
            return TD_ERR_PEER;
        }
    size_t n = step_rows(step, 0, keys);
    TD_TRY(td_bulk_pull(b, keys, n, out));
    bool all = true;
    for (int k = 0; k < TD_SLICES; k++) all = all && td_bulk_place(b)->backup[k] >= 0;
    x->partly += !all && td_comm_size(l->comm) > 1;
    if (!all && td_bulk_table(b) && !x->memory)
        TD_TRY(td_table_each(td_bulk_table(b), is_known, (void *)(uintptr_t)td_bulk_place(b)));
    return push_step(l, b, NULL, step);
}

/* As one table that nobody left has it: rows and state. */
static td_status check_steps(life *l, td_bulk *b)
{
    td_comm *c = l->comm, *self;
    const deaths *x = l->trial;
    char folder[64];
    td_bulk *oracle;
    td_table *t = td_bulk_table(b);
    td_bulk_config config = {.table = table_of(x, -1, folder), .leaves = RANKS};
    float got[WIDTH], want[WIDTH];
    TD_TRY(td_comm_self(NULL, &self));
    TD_TRY(td_bulk_open(self, &config, &oracle));
    for (uint64_t step = 0; step < STEPS; step++)
        TD_TRY(push_step(l, oracle, td_bulk_table(oracle), step));
    uint64_t rows = td_table_rows(td_bulk_table(oracle)), mine = td_table_rows(t), all;
    for (uint64_t k = 0; k < ROWS; k++) {
        uint64_t key = key_of(k);
        if (!td_place_has(td_bulk_place(b), key, td_comm_rank(c))) continue;
        TD_TRY(td_table_peek(t, &key, 1, got));
        TD_TRY(td_table_peek(td_bulk_table(oracle), &key, 1, want));
        CHECK(!memcmp(got, want, sizeof got));
    }
    td_bulk_destroy(oracle);
    td_comm_close(self);
    TD_TRY(td_comm_allreduce(c, &mine, &all, 1, TD_I64, TD_SUM));
    CHECK(all == rows * (td_comm_size(c) > 1 ? 2 : 1));
    return TD_OK;
}

static td_status live_in_step(td_comm *c, void *arg)
{
    life l = {.trial = arg, .world = c, .comm = c};
    char folder[64];
    td_bulk *b = NULL;
    uint64_t step = 0;
    l.rank = td_comm_rank_in_run(c, td_comm_rank(c));
    l.servers = ((const deaths *)arg)->servers;
    td_bulk_config config = {.table = table_of(arg, l.rank, folder), .leaves = RANKS};
    config.servers = servers_of(&l);
    bool joined = td_comm_joined(c, td_comm_rank(c));
    td_status status = joined ? td_bulk_join(&config, &b) : td_bulk_open(c, &config, &b);
    if (status == TD_OK && joined) status = move_steps(&l, b, true, &step);
    for (; !l.over && step < STEPS && (status == TD_OK || is_loss(status));) {
        if (is_loss(status)) {
            status = next_group(&l);
            if (status == TD_OK) status = move_steps(&l, b, false, &step);
        }
        if (status == TD_OK) status = one_step(&l, b, step);
        if (status == TD_OK) step++;
    }
    if (status == TD_OK) status = check_steps(&l, b);
    td_bulk_destroy(b);
    if (l.comm != c) td_comm_close(l.comm);
    return status;
}

static void in_step_no_bit_is_lost_while_slices_are_copied(void **state)
{
    (void)state;
    if (mpi_world) skip();
    deaths trials[] = {{{1, -1}, {8, 0}, 0},          {{0, 2}, {8, 30}, 0},
                       {{3, 1}, {9, 25}, 1},          {{2, -1}, {10, 0}, 0, .evicts = true},
                       {{1, 3}, {8, 30}, 2, 8 << 20}, {{3, -1}, {14, 0}, 0, 8 << 20, true}};
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    assert_non_null(mkdtemp(root));
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k += some ? 2 : 1) {
        td_comm_config config = {.deadline_ms = 60000, .spares = trials[k].spares};
        td_status status =
            td_comm_run_local(RANKS + trials[k].spares, &config, live_in_step, &trials[k]);
        if (status == TD_ERR_UNSUPPORTED) continue; /* built without RocksDB */
        assert_ok(status);
        assert_true(trials[k].partly > 0);
    }
    assert_ok(td_remove_tree(root));
}

/* A rank that serves nothing dies while slices are copied: what has come of them is known, in case
 * that another server has them in the end, and nothing is there twice. */
static void copying_begins_anew(void **state)
{
    (void)state;
    if (mpi_world) skip();
    snprintf(root, sizeof root, "/tmp/td-copies-XXXXXX");
    assert_non_null(mkdtemp(root));
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    for (int k = 0; k < 4; k += some ? 3 : 1) {
        deaths x = {{k, RANKS}, {8, 9 + k / 2}, 0, k % 2 ? 8 << 20 : 0, .servers = RANKS};
        td_comm_config config = {.deadline_ms = 60000};
        td_status status = td_comm_run_local(RANKS + 1, &config, live_in_step, &x);
        if (status == TD_ERR_UNSUPPORTED) continue; /* built without RocksDB */
        assert_ok(status);
        assert_true(x.partly > 0);
    }
    assert_ok(td_remove_tree(root));
}

/* Who dies before a slice has been copied again takes it along, and that is said. */
static void a_second_death_may_come_too_soon(void **state)
{
    (void)state;
    if (mpi_world) skip();
    deaths x = {{1, 2}, {8, 9}, 0};
    td_comm_config config = {.deadline_ms = 60000};
    assert_int_equal(td_comm_run_local(RANKS, &config, live_in_step, &x), TD_ERR_PEER);
    assert_non_null(strstr(td_last_error(), "of a table is lost"));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pushes_count_once_while_slices_are_copied),
        cmocka_unit_test(copying_that_fails_is_told),
        cmocka_unit_test(in_step_no_bit_is_lost_while_slices_are_copied),
        cmocka_unit_test(copying_begins_anew),
        cmocka_unit_test(a_second_death_may_come_too_soon),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
