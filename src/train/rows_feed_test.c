/* Who learns from what a worker has left unfinished, and when its successor goes on. */
#include "train/rows_feed.h"

#include "base/alloc.h"
#include "comm/ranks_test.h"
#include "data/data_test.h"
#include "tandem/recover.h"

enum { WORKERS = 2, SERVER = 2, RANKS = 3, SPARE = 3, SAMPLES = 60, SHARD = 7, CLOCK = 5 };

typedef struct stage {
    td_dataset *data;
    td_features *features;
    td_pool *pool;
    bool successor_first; /* it asks before the other worker does */
} stage;

static void open_stage(stage *s)
{
    static char text[SAMPLES * 16];
    td_data_config config = {.label_kind = TD_LABEL_CLASS};
    size_t n = 0;
    for (int i = 0; i < SAMPLES; i++) n += (size_t)sprintf(text + n, "%d %d:1\n", i % 2, 1 + i % 9);
    assert_ok(read_text(TD_FORMAT_LIBSVM, text, &config, &s->data));
    assert_ok(td_features_create(s->data, &(td_features_config){.bias = true}, &s->features));
    assert_ok(td_pool_create(1, &s->pool));
}

static void close_stage(stage *s)
{
    td_pool_destroy(s->pool);
    td_features_destroy(s->features);
    td_dataset_close(s->data);
}

typedef struct part { /* of a rank */
    td_comm *c;
    td_feed *feed;
    td_rows_batch batch;
    td_feed_lease lease;
    int worker, ranks[WORKERS], server;
} part;

/* Worker 1 is `second` of the run. */
static td_feed_config config_of(const stage *s, part *p, int second)
{
    const int in_run[] = {0, second};
    p->worker = -1;
    for (int r = 0; r < td_comm_size(p->c); r++) {
        int self = td_comm_rank_in_run(p->c, r);
        if (self == SERVER) p->server = r;
        for (int w = 0; w < WORKERS; w++)
            if (self == in_run[w]) p->ranks[w] = r;
    }
    for (int w = 0; w < WORKERS; w++)
        if (p->ranks[w] == td_comm_rank(p->c)) p->worker = w;
    return (td_feed_config){.features = s->features,
                            .data = s->data,
                            .plan = {.samples = SAMPLES, .batch = SHARD, .leaves = 1},
                            .worker = p->worker,
                            .workers = WORKERS,
                            .worker_rank = p->ranks,
                            .by_name = true,
                            .server = &p->server,
                            .server_count = 1};
}

static td_status ask(part *p, uint64_t clock)
{
    return td_feed_next(p->feed, 0, clock, &p->batch, &p->lease);
}

/* The other worker meets the owed shard among others; until its push is made, the successor waits.
 */
static td_status the_other_repays(part *p)
{
    td_comm *c = p->c;
    while (p->worker == 0 && !p->lease.owed) {
        td_feed_done(p->feed, &p->batch);
        TD_TRY(ask(p, CLOCK));
        CHECK(!p->lease.none && !p->lease.wait);
    }
    if (p->worker == 0) CHECK(p->lease.worker == 1 && p->lease.clock == CLOCK);
    TD_TRY(td_comm_barrier(c));
    for (int k = 0; k < 3 && p->worker == 1; k++) {
        TD_TRY(ask(p, CLOCK + 1));
        CHECK(p->lease.wait);
    }
    TD_TRY(td_comm_barrier(c));
    if (p->worker == 0) {
        td_feed_done(p->feed, &p->batch);
        TD_TRY(ask(p, CLOCK + 1));
        CHECK(!p->lease.owed && !p->lease.wait);
    }
    TD_TRY(td_comm_barrier(c));
    if (p->worker == 1) {
        TD_TRY(ask(p, CLOCK + 1));
        CHECK(!p->lease.wait && !p->lease.owed && !p->lease.none);
    }
    return TD_OK;
}

static td_status the_successor_repays(part *p)
{
    td_comm *c = p->c;
    if (p->worker == 1) {
        TD_TRY(ask(p, CLOCK + 1));
        CHECK(p->lease.owed && p->lease.worker == 1 && p->lease.clock == CLOCK);
        td_feed_done(p->feed, &p->batch);
        TD_TRY(ask(p, CLOCK + 1));
        CHECK(!p->lease.owed && !p->lease.wait && !p->lease.none);
    }
    TD_TRY(td_comm_barrier(c));
    if (p->worker != 0) return TD_OK;
    do {
        td_feed_done(p->feed, &p->batch);
        TD_TRY(ask(p, CLOCK));
        CHECK(!p->lease.owed);
    } while (!p->lease.wait && !p->lease.none);
    return TD_OK;
}

static td_status until_the_death(const stage *s, part *p, td_comm **next)
{
    td_feed_config config = config_of(s, p, 1);
    td_status status = TD_OK;
    TD_TRY(td_feed_open(p->c, &config, &p->feed));
    if (p->worker >= 0) TD_TRY(ask(p, CLOCK));
    TD_TRY(td_comm_barrier(p->c));
    if (p->worker == 1) {
        td_comm_die(p->c);
        return td_fail(TD_ERR_PEER, "rank 1 has died");
    }
    while (status == TD_OK) status = td_comm_barrier(p->c);
    td_feed_give_back(p->feed);
    return td_comm_recover(p->c, NULL, next, NULL);
}

static td_status live(td_comm *first, void *arg)
{
    const stage *s = arg;
    part p = {.c = first};
    td_comm *next = first, *c = first;
    bool joined = td_comm_joined(first, td_comm_rank(first));
    td_status status = joined ? TD_OK : until_the_death(s, &p, &next);
    if (status == TD_OK) {
        p.c = c = next;
        p.lease = (td_feed_lease){0};
        td_feed_config config = config_of(s, &p, SPARE);
        status = td_feed_move(p.feed, c, &config, &p.feed);
    }
    if (status == TD_OK && p.worker == 1 && td_feed_names(p.feed, 1) != CLOCK + 1)
        status = td_fail(TD_ERR_INTERNAL, "a wrong clock");
    if (status == TD_OK)
        status = s->successor_first ? the_successor_repays(&p) : the_other_repays(&p);
    if (status == TD_OK) status = td_comm_barrier(c);
    td_feed_close(p.feed);
    td_rows_batch_free(&p.batch);
    if (next != first) td_comm_close(next);
    return status;
}

static void what_is_owed_comes_first(void **state)
{
    (void)state;
    td_comm_config config = {.spares = 1};
    stage s = {0};
    open_stage(&s);
    td_log_set_level(TD_LOG_QUIET);
    for (int k = 0; k < 2; k++) {
        s.successor_first = k;
        assert_ok(td_comm_run_local(RANKS + 1, &config, live, &s));
    }
    td_log_set_level(TD_LOG_WARN);
    close_stage(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_owed_comes_first)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
