/* Tables for programs in C: rows are those of one table that all pushes went to, whoever serves,
 * sparse or dense, pulled or fetched ahead; files and functions; exactly once through a death. See
 * ranks_test.h. */
#include "comm/ranks_test.h"

#include "tandem/kv.h"
#include "tandem/recover.h"

#include "base/fs.h"
#include "base/log.h"
#include "base/rng.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

enum { WIDTH = 3, KEYS = 50, STEPS = 20 };

static _Thread_local char path[TD_PATH_MAX];

static uint64_t key_of(uint64_t i)
{
    return i * 0x9e3779b97f4a7c15;
}

/* Every worker's pushes as one table: the rule is sgd at rate 1, so that sums tell. */
typedef struct seen {
    td_comm *c;
    double want[KEYS];
    double may_lack[KEYS]; /* of a dead worker's push that was not acknowledged: servers may have
                              it, a part of it, or none */
    size_t rows;
    uint64_t last;
} seen;

static td_status compare(void *arg, uint64_t key, const float *weights)
{
    seen *s = arg;
    td_comm *c = s->c;
    uint64_t i = 0;
    while (i < KEYS && key_of(i) != key) i++;
    CHECK(i < KEYS && (s->rows == 0 || key > s->last));
    double lacks = s->want[i] - (double)weights[0];
    if (lacks < 0 || lacks > s->may_lack[i])
        return td_fail(TD_ERR_DATA, "key %d has %g of %g pushes, and may lack %g", (int)i,
                       (double)weights[0], s->want[i], s->may_lack[i]);
    for (int k = 0; k < WIDTH; k++) CHECK(weights[k] == (s->want[i] - lacks) * (k + 1));
    s->last = key, s->rows++;
    return TD_OK;
}

static td_status add(void *user, const void *argument, uint64_t key, float *row)
{
    (void)key;
    const float *more = argument;
    for (int k = 0; k < WIDTH; k++) row[k] += *(const int *)user * *more * (float)(k + 1);
    return TD_OK;
}

/* Of the four keys of a step, twice each. */
static uint64_t step_key(int worker, uint64_t clock, uint64_t i)
{
    return (clock * 7 + (uint64_t)worker * 3 + i / 2 * 11) % KEYS;
}

static void step_of(int worker, uint64_t clock, uint64_t keys[4], float gradients[4 * WIDTH])
{
    for (uint64_t i = 0; i < 4; i++) {
        keys[i] = key_of(step_key(worker, clock, i));
        for (int k = 0; k < WIDTH; k++) gradients[i * WIDTH + (uint64_t)k] = -(float)(k + 1);
    }
}

static void want_steps(seen *s, int workers)
{
    for (int w = 0; w < workers; w++)
        for (uint64_t clock = 0; clock < STEPS; clock++)
            for (uint64_t i = 0; i < 4; i++) s->want[step_key(w, clock, i)]++;
}

static size_t rows_of(const seen *s)
{
    size_t n = 0;
    for (int i = 0; i < KEYS; i++) n += s->want[i] != 0;
    return n;
}

static td_status push_steps(td_kv *kv)
{
    uint64_t keys[4];
    float gradients[4 * WIDTH], rows[4 * WIDTH];
    while (td_kv_worker(kv) >= 0 && td_kv_clock(kv) < STEPS) {
        step_of(td_kv_worker(kv), td_kv_clock(kv), keys, gradients);
        TD_TRY(td_kv_pull(kv, keys, 4, rows));
        TD_TRY(td_kv_push(kv, keys, 4, gradients));
    }
    return td_kv_worker(kv) >= 0 ? td_kv_retire(kv) : TD_OK;
}

static td_status all_rows(td_comm *c, void *arg)
{
    static const char *const clocks[] = {NULL, "ssp:0", "ssp:2"}, *const endings[] =
                                                                      {"tsv", "safetensors"};
    int twice = 2, me = td_comm_rank(c), size = td_comm_size(c);
    td_kv_function functions[1] = {{add, &twice}};
    (void)arg;
    for (int servers = 0; servers < size && servers < 3; servers++)
        for (int k = 0; k < 3; k++) {
            td_kv *kv, *other;
            td_kv_stats stats;
            seen s = {.c = c};
            td_kv_config config = {.width = WIDTH,
                                   .lr = 1,
                                   .servers = servers,
                                   .replicas = servers != 1 && size > 1,
                                   .clock = clocks[k],
                                   .meaning = "counters",
                                   .functions = functions,
                                   .function_count = 1};
            TD_TRY(td_kv_open(c, &config, &kv));
            CHECK((td_kv_worker(kv) >= 0) == (me < size - servers));
            TD_TRY(push_steps(kv));
            TD_TRY(td_comm_barrier(c));
            want_steps(&s, size - servers);
            TD_TRY(td_kv_range(kv, 0, UINT64_MAX, compare, &s));
            CHECK(s.rows == rows_of(&s));
            TD_TRY(td_comm_barrier(c));
            float five = 5;
            uint64_t some[3] = {key_of(1), key_of(2), key_of(1)};
            if (me == 0) TD_TRY(td_kv_apply(kv, 0, some, 3, &five, sizeof five));
            TD_TRY(td_comm_barrier(c));
            s.want[1] += 20, s.want[2] += 10, s.rows = 0;
            TD_TRY(td_kv_range(kv, 0, UINT64_MAX, compare, &s));
            td_kv_measure(kv, &stats);
            CHECK(me < size - servers || stats.rows > 0);
            /* to a file, and into another table */
            long job = mpi_world ? (long)getppid() : (long)getpid(); /* the same at all ranks */
            snprintf(path, sizeof path, "/tmp/tandem-kv-%ld-%d.%s", job, size, endings[k % 2]);
            if (me == size - 1) TD_TRY(td_kv_export(kv, path));
            TD_TRY(td_kv_finish(kv));
            td_kv_destroy(kv);
            config.clock = "asp", config.servers = 0, config.replicas = 0;
            TD_TRY(td_kv_open(c, &config, &other));
            TD_TRY(td_kv_import(other, path));
            s.rows = 0;
            TD_TRY(td_kv_range(other, 0, UINT64_MAX, compare, &s));
            CHECK(s.rows == rows_of(&s));
            TD_TRY(td_comm_barrier(c)); /* a pull makes a row */
            float row[WIDTH];
            uint64_t none = key_of(77);
            TD_TRY(td_kv_pull(other, &none, 1, row));
            CHECK(row[0] == 0 && row[WIDTH - 1] == 0);
            TD_TRY(td_kv_finish(other));
            td_kv_destroy(other);
            config.meaning = "something else";
            TD_TRY(td_kv_open(c, &config, &other));
            CHECK(td_kv_import(other, path) == TD_ERR_DATA);
            CHECK(strstr(td_last_error(), "has rows of \"counters\", and they are to be of"));
            TD_TRY(td_kv_finish(other));
            td_kv_destroy(other);
            TD_TRY(td_comm_barrier(c));
            if (me == 0) unlink(path);
        }
    return TD_OK;
}

static void rows_are_those_of_one_table(void **state)
{
    (void)state;
    on_all_sizes(all_rows, NULL);
}

#define NAMED(call, text) CHECK((call) == TD_ERR_ARG && strstr(td_last_error(), text))

static td_status nothing_given(td_comm *c, td_kv *kv, const td_kv_config *config)
{
    td_kv *none = NULL;
    const uint64_t keys[2] = {7, 9};
    float rows[4] = {1, 2, 3, 4};
    td_kv_stats stats = {.rows = 1};
    NAMED(td_kv_open(c, NULL, &none), "a table: no configuration");
    NAMED(td_kv_open(c, config, NULL), "a table: no place for it");
    NAMED(td_kv_open(NULL, config, &none), "a table: there is no group");
    NAMED(td_kv_join(c, NULL, &none), "a table: no configuration");
    NAMED(td_kv_join(c, config, NULL), "a table: no place for it");
    NAMED(td_kv_pull(kv, keys, 2, NULL), "pull: no buffer for 2 rows");
    NAMED(td_kv_pull(kv, NULL, 2, rows), "pull: no keys for 2 rows");
    NAMED(td_kv_push(kv, keys, 2, NULL), "push: no buffer for 2 rows");
    NAMED(td_kv_push(kv, NULL, 2, rows), "push: no keys for 2 rows");
    CHECK(td_kv_clock(kv) == 0);
    TD_TRY(td_kv_pull(kv, NULL, 0, NULL));
    NAMED(td_kv_range(kv, 0, 9, NULL, NULL), "range: no function for its rows");
    NAMED(td_kv_apply(kv, 0, NULL, 2, NULL, 0), "apply: no keys for 2 rows");
    NAMED(td_kv_apply(kv, 0, keys, 2, NULL, 4), "apply: no buffer for an argument of 4 bytes");
    NAMED(td_kv_export(kv, NULL), "export: no path of a file");
    NAMED(td_kv_import(kv, NULL), "import: no path of a file");
    NAMED(td_kv_pull(NULL, keys, 2, rows), "pull: no table");
    NAMED(td_kv_fetch(NULL, keys, 2), "fetch: no table");
    NAMED(td_kv_fetched(NULL, rows), "fetched: no table");
    NAMED(td_kv_fetched(kv, rows), "fetched: no fetch has been begun");
    if (td_kv_worker(kv) >= 0) NAMED(td_kv_fetch(kv, NULL, 2), "fetch: no keys for 2 rows");
    NAMED(td_kv_push(NULL, keys, 2, rows), "push: no table");
    NAMED(td_kv_retire(NULL), "retire: no table");
    NAMED(td_kv_finish(NULL), "finish: no table");
    NAMED(td_kv_move(NULL, c), "move: no table");
    td_kv_measure(NULL, &stats), td_kv_measure(kv, NULL);
    CHECK(stats.rows == 0 && td_kv_worker(NULL) == -1 && td_kv_clock(NULL) == 0);
    return td_comm_barrier(c);
}

static td_status mistakes(td_comm *c, void *arg)
{
    (void)arg;
    td_kv *kv;
    int size = td_comm_size(c);
    td_kv_config good = {.width = 1, .lr = 1}, bad = good;
    bad.clock = "bsp";
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "clock bsp: workers of this table go at their own pace"));
    bad.clock = "sometimes";
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    CHECK(!strncmp(td_last_error(), "clock sometimes is no clock", 27));
    bad.clock = "groups:1:5:2";
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    CHECK(!strncmp(td_last_error(), "clock groups:1:5:2: ", 20));
    bad.clock = "backup:99";
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    CHECK(!strncmp(td_last_error(), "clock backup: 99 would be waited for", 36));
    bad = good, bad.servers = size;
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "leave no worker"));
    bad = good, bad.rule = "adamw";
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    bad = good, bad.width = td_comm_rank(c) == 0 ? 1 : 2;
    if (size > 1) CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    if (size > 1) CHECK(strstr(td_last_error(), "describes the table as \"width 2 rule sgd"));
    bad = good, bad.meaning = td_comm_rank(c) == 0 ? "a" : "b";
    if (size > 1) CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    bad = good, bad.replicas = 1, bad.evict_after = 9;
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "would be forgotten at different times"));
    bad = good, bad.lr = NAN;
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    bad = good, bad.function_count = 1;
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    bad.function_count = -1;
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    td_kv_function none = {NULL, NULL};
    bad.function_count = 1, bad.functions = &none;
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    bad = good, bad.meaning = "two\nlines";
    CHECK(td_kv_open(c, &bad, &kv) == TD_ERR_ARG);
    good.width = 2;
    TD_TRY(td_kv_open(c, &good, &kv));
    const uint64_t keys[2] = {7, 9};
    const float gradients[4] = {1, 2, 3, NAN};
    CHECK(td_kv_push(kv, keys, 2, gradients) == TD_ERR_ARG && td_kv_clock(kv) == 0);
    CHECK(strstr(td_last_error(), "value 1 of the gradient of key 9 is"));
    CHECK(td_kv_apply(kv, 0, NULL, 0, NULL, 0) == TD_ERR_ARG);
    CHECK(td_kv_export(kv, "/tmp/rows.csv") == TD_ERR_ARG);
    CHECK(td_kv_import(kv, "/no/such.tsv") == TD_ERR_IO);
    TD_TRY(nothing_given(c, kv, &good));
    TD_TRY(td_kv_finish(kv));
    CHECK(td_kv_finish(kv) == TD_ERR_ARG && td_kv_import(kv, "/no/such.tsv") == TD_ERR_ARG);
    td_kv_destroy(kv);
    return TD_OK;
}

static void mistakes_are_told_at_all_ranks(void **state)
{
    (void)state;
    on_all_sizes(mistakes, NULL);
}

/* --- rows under numbers, fetched ahead --- */

static td_status numbered(void *arg, uint64_t key, const float *weights)
{
    uint64_t *next = arg;
    return key == (*next)++ && weights[0] != 0 ? TD_OK : TD_ERR_INTERNAL;
}

/* What is fetched is what a pull would give; between the two there may be a push. */
static td_status fetch_ahead(td_comm *c, td_kv *kv, const uint64_t *keys, size_t count)
{
    float ahead[KEYS * WIDTH], now[KEYS * WIDTH];
    TD_TRY(td_kv_fetch(kv, keys, count));
    CHECK(td_kv_fetch(kv, keys, count) == TD_ERR_ARG);
    CHECK(td_kv_pull(kv, keys, count, now) == TD_ERR_ARG);
    TD_TRY(td_kv_fetched(kv, ahead));
    CHECK(td_kv_fetched(kv, ahead) == TD_ERR_ARG);
    TD_TRY(td_kv_pull(kv, keys, count, now));
    CHECK(!memcmp(ahead, now, count * WIDTH * sizeof *now));
    return TD_OK;
}

static td_status refuses_rows_beyond(td_comm *c, td_kv *kv)
{
    char file[64] = "";
    if (td_comm_rank(c) == 0) {
        static const char text[] = "key\tweights.0\tweights.1\tweights.2\n51\t1\t2\t3\n# 1 rows\n";
        snprintf(file, sizeof file, "/tmp/tandem-kv-%ld.tsv", (long)getpid());
        TD_TRY(td_write_file(file, text, sizeof text - 1));
    }
    TD_TRY(td_comm_broadcast(c, file, sizeof file, 0));
    CHECK(td_kv_import(kv, file) == TD_ERR_DATA);
    CHECK(strstr(td_last_error(), "has a row of key 51, and the table 50 rows"));
    TD_TRY(td_comm_barrier(c));
    if (td_comm_rank(c) == 0) unlink(file);
    return TD_OK;
}

static td_status dense(td_comm *c, void *arg)
{
    int size = td_comm_size(c);
    (void)arg;
    for (int servers = 0; servers < size && servers < 3; servers++) {
        td_kv_config config = {.width = WIDTH, .lr = 1, .rows = KEYS, .servers = servers};
        config.by_staleness = servers == 1;
        uint64_t keys[KEYS], far = KEYS, next = 0, counted[2] = {0}, all[2];
        float ones[KEYS * WIDTH], row[WIDTH];
        td_kv *kv;
        td_kv_stats stats;
        for (uint64_t k = 0; k < KEYS; k++) keys[k] = (k * 7 + 3) % KEYS;
        for (int k = 0; k < KEYS * WIDTH; k++) ones[k] = 1;
        TD_TRY(td_kv_open(c, &config, &kv));
        if (td_kv_worker(kv) >= 0) TD_TRY(td_kv_push(kv, keys, KEYS, ones));
        TD_TRY(td_comm_barrier(c));
        CHECK(td_kv_pull(kv, &far, 1, row) == TD_ERR_ARG);
        CHECK(strstr(td_last_error(), "key 50 of a table of 50 rows"));
        if (td_kv_worker(kv) >= 0) TD_TRY(fetch_ahead(c, kv, keys, KEYS));
        TD_TRY(td_kv_range(kv, 0, UINT64_MAX, numbered, &next));
        CHECK(next == KEYS);
        TD_TRY(td_comm_barrier(c)); /* all have read */
        td_kv_measure(kv, &stats);
        for (int k = 0; k < TD_KV_STALENESS; k++) counted[0] += stats.staleness[k];
        counted[1] = stats.asked + stats.cached;
        CHECK(stats.rows <= KEYS / (uint64_t)(servers ? servers : size) + 1);
        TD_TRY(td_comm_allreduce(c, counted, all, 2, TD_I64, TD_SUM));
        CHECK(all[0] == all[1] && all[0] >= 2 * KEYS * (uint64_t)(size - servers));
        TD_TRY(refuses_rows_beyond(c, kv));
        TD_TRY(td_kv_finish(kv));
        td_kv_destroy(kv);
    }
    return TD_OK;
}

static void rows_under_numbers_are_fetched_ahead(void **state)
{
    (void)state;
    on_all_sizes(dense, NULL);
}

/* --- rows that nobody moves --- */

enum { HOT = 1, APPLIED, EARLY, LATE, NAMES, AFTER = 12, FIRST = 5, LONG = 110 };

static td_status note_row(void *arg, uint64_t key, const float *weights)
{
    float *found = arg;
    found[key] = weights[0];
    return TD_OK;
}

/* What rows there are, by their names; 0: none. */
static td_status rows_are(td_comm *c, td_kv *kv, float hot, float applied, float early, float late)
{
    const float want[NAMES] = {0, hot, applied, early, late};
    float found[NAMES] = {0};
    TD_TRY(td_kv_range(kv, 0, UINT64_MAX, note_row, found));
    for (int k = HOT; k < NAMES; k++) CHECK(found[k] == want[k]);
    return td_comm_barrier(c);
}

/* Workers push to a row that stays in use and to a second one (0: none), step by step; rank 0 has a
 * function called on a third. */
static td_status push_steps_of(td_comm *c, td_kv *kv, int steps, uint64_t second)
{
    const uint64_t keys[2] = {HOT, second}, third = APPLIED;
    const float gradients[2 * WIDTH] = {-1, -1, -1, -1, -1, -1}, half = 0.5f;
    for (int step = 0; step < steps; step++) {
        if (td_kv_worker(kv) >= 0) TD_TRY(td_kv_push(kv, keys, second ? 2 : 1, gradients));
        if (td_comm_rank(c) == 0) TD_TRY(td_kv_apply(kv, 0, &third, 1, &half, sizeof half));
        TD_TRY(td_comm_barrier(c));
    }
    return TD_OK;
}

static td_status forgets(td_comm *c, void *arg)
{
    int twice = 2, size = td_comm_size(c), servers = size > 2 ? 2 : 0;
    td_kv_function functions[1] = {{add, &twice}};
    td_kv_config config = {.width = WIDTH,
                           .lr = 1,
                           .evict_after = AFTER,
                           .servers = servers,
                           .functions = functions,
                           .function_count = 1};
    float all = (float)(size - servers);
    td_kv *kv;
    (void)arg;
    TD_TRY(td_kv_open(c, &config, &kv));
    TD_TRY(push_steps_of(c, kv, FIRST, EARLY));
    TD_TRY(push_steps_of(c, kv, AFTER - FIRST, 0));
    TD_TRY(rows_are(c, kv, AFTER * all, AFTER, FIRST * all, 0));
    TD_TRY(push_steps_of(c, kv, LONG - AFTER, 0)); /* servers look every 64 pushes */
    TD_TRY(rows_are(c, kv, LONG * all, LONG, 0, 0));
    TD_TRY(push_steps_of(c, kv, 1, LATE));
    TD_TRY(push_steps_of(c, kv, AFTER - 2, EARLY)); /* which begins anew */
    TD_TRY(rows_are(c, kv, (LONG + AFTER - 1) * all, LONG + AFTER - 1, (AFTER - 2) * all, all));
    TD_TRY(td_kv_finish(kv));
    td_kv_destroy(kv);
    return TD_OK;
}

static void rows_that_nobody_moves_are_forgotten(void **state)
{
    (void)state;
    on_all_sizes(forgets, NULL);
}

/* --- a death --- */

enum { RANKS = 4 };

typedef struct plan {
    int servers, dies;
    bool strange; /* the spare describes another table */
    int late;     /* it dies in the hand-over from the first death, so long after its beginning */
    long late_ns; /* 0: none does */
    _Atomic int worker;            /* that the late one was, -1: none, */
    _Atomic uint64_t acknowledged; /* and how many of its pushes have been */
} plan;

static td_status move(td_kv *kv, td_comm *next, plan *p)
{
    killing k = {next, p->late_ns};
    pthread_t killer;
    if (!p->late_ns || td_comm_rank_in_run(next, td_comm_rank(next)) != p->late)
        return td_kv_move(kv, next);
    p->worker = td_kv_worker(kv);
    p->acknowledged = td_kv_clock(kv);
    if (pthread_create(&killer, NULL, kill_late, &k)) return TD_ERR_NOMEM;
    td_status status = td_kv_move(kv, next);
    pthread_join(killer, NULL);
    if (td_kv_worker(kv) >= 0) p->acknowledged = td_kv_clock(kv); /* made again, perhaps */
    return status == TD_OK ? td_fail(TD_ERR_PEER, "it is dead") : status;
}

static td_status until_done(td_comm **c, td_comm *first, td_kv *kv, plan *p, td_status status)
{
    uint64_t keys[4];
    float gradients[4 * WIDTH], rows[4 * WIDTH];
    for (;; status = TD_OK) {
        while (status == TD_OK && td_kv_worker(kv) >= 0 && td_kv_clock(kv) < STEPS) {
            if (td_comm_rank_in_run(*c, td_comm_rank(*c)) == p->dies && td_kv_clock(kv) == 10) {
                td_comm_die(*c);
                return TD_ERR_PEER;
            }
            step_of(td_kv_worker(kv), td_kv_clock(kv), keys, gradients);
            status = td_kv_pull(kv, keys, 4, rows);
            if (status == TD_OK) status = td_kv_push(kv, keys, 4, gradients);
        }
        if (status == TD_OK && td_kv_worker(kv) >= 0) status = td_kv_retire(kv);
        if (status == TD_OK) status = td_comm_barrier(*c);
        if (status != TD_ERR_PEER && status != TD_ERR_TIMEOUT) return status;
        td_comm *next;
        TD_TRY(td_comm_recover(*c, NULL, &next, NULL));
        status = move(kv, next, p);
        if (*c != first) td_comm_close(*c);
        *c = next;
        bool dead = p->late_ns && td_comm_rank_in_run(next, td_comm_rank(next)) == p->late;
        if (dead || (status != TD_OK && strstr(td_last_error(), "part "))) return status;
        while (status == TD_ERR_PEER || status == TD_ERR_TIMEOUT) {
            TD_TRY(td_comm_recover(*c, NULL, &next, NULL));
            status = td_kv_move(kv, next);
            if (*c != first) td_comm_close(*c);
            *c = next;
            if (status != TD_OK && strstr(td_last_error(), "part ")) return status;
        }
        TD_TRY(status);
    }
}

#define CHECK_JOIN(is)                                                                             \
    if (!(is)) return td_fail(TD_ERR_INTERNAL, "a strange spare: %s", td_last_error())

static td_status live(td_comm *first, void *arg)
{
    plan *p = arg;
    td_comm *c = first;
    td_kv *kv = NULL;
    seen s = {0};
    td_kv_config config = {.width = WIDTH,
                           .lr = 1,
                           .servers = p->servers,
                           .replicas = 1,
                           .clock = "ssp:3"};
    bool joined = td_comm_joined(first, td_comm_rank(first));
    if (joined && p->strange) {
        config.width = WIDTH + 2;
        CHECK_JOIN(td_kv_join(first, &config, &kv) == TD_ERR_ARG);
        return TD_OK;
    }
    td_status status = joined ? td_kv_join(first, &config, &kv) : td_kv_open(first, &config, &kv);
    if (status != TD_OK && !kv) return status;
    if (status == TD_OK || !strstr(td_last_error(), "part "))
        status = until_done(&c, first, kv, p, status);
    int self = td_comm_rank_in_run(first, td_comm_rank(first));
    bool dead = self == p->dies || (p->late_ns && self == p->late);
    if (status == TD_OK && !dead) {
        s.c = c;
        want_steps(&s, RANKS - p->servers);
        for (uint64_t i = 0; i < 4 && p->late_ns && p->worker >= 0; i++)
            s.may_lack[step_key(p->worker, p->acknowledged, i)]++;
        status = td_kv_range(kv, 0, UINT64_MAX, compare, &s);
        if (status == TD_OK && s.rows != rows_of(&s)) status = td_fail(TD_ERR_DATA, "rows lack");
        if (status == TD_OK) status = td_kv_finish(kv);
    }
    td_kv_destroy(kv);
    if (c != first) td_comm_close(c);
    return status;
}

/* Each push once, through the death of a worker, a server, or one that is both; a spare takes over.
 */
static void a_death_costs_no_push(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_comm_config config = {.spares = 1};
    td_log_set_level(TD_LOG_QUIET);
    for (int k = 0; k < 3; k++) {
        plan p = {.servers = k == 0 ? 0 : 2, .dies = k == 2 ? 1 : 0};
        assert_ok(td_comm_run_local(RANKS + 1, &config, live, &p));
    }
    plan p = {.strange = true};
    assert_fails(TD_ERR_ARG, "describes the table as",
                 td_comm_run_local(RANKS + 1, &config, live, &p));
    td_log_set_level(TD_LOG_WARN);
}

/* A second death while the first one's parts are handed over, and a spare joins. */
static void a_death_in_a_hand_over_costs_none(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_comm_config config = {.spares = 2, .deadline_ms = 60000};
    td_rng rng;
    td_rng_init(&rng, 14, TD_RNG_TEST, 0, 0);
    td_log_set_level(TD_LOG_QUIET);
    int trials = getenv("TANDEM_TEST_SHORT") ? 10 : 60;
    for (int k = 0; k < trials; k++) {
        plan p = {.servers = k % 2 ? 0 : 2, .dies = 0, .late = 1 + k % 3, .worker = -1};
        p.late_ns = 1 + (long)(td_rng_below(&rng, 2000000) >> td_rng_below(&rng, 6));
        td_status status = td_comm_run_local(RANKS + 2, &config, live, &p);
        /* They may have had the two copies of a slice. */
        if (status != TD_OK && !strstr(td_last_error(), "part "))
            fail_msg("trial %d: %s", k, td_last_error());
    }
    td_log_set_level(TD_LOG_WARN);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_those_of_one_table),
        cmocka_unit_test(mistakes_are_told_at_all_ranks),
        cmocka_unit_test(rows_under_numbers_are_fetched_ahead),
        cmocka_unit_test(rows_that_nobody_moves_are_forgotten),
        cmocka_unit_test(a_death_costs_no_push),
        cmocka_unit_test(a_death_in_a_hand_over_costs_none),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
