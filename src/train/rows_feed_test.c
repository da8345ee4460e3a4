/* Who learns from what a worker has left unfinished, and when its successor goes on; up to where
 * shards are dealt out. */
#include "train/rows_feed.h"

#include "base/alloc.h"
#include "comm/ranks_test.h"
#include "data/data_test.h"
#include "tandem/recover.h"

enum { WORKERS = 2, SERVER = 2, RANKS = 3, SPARE = 3, SAMPLES = 60, SHARD = 7, CLOCK = 5 };
enum { STEPS = (SAMPLES + SHARD - 1) / SHARD };

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
    return td_feed_next(p->feed, 0, STEPS, clock, &p->batch, &p->lease);
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

/* --- up to where --- */

enum { LEAVES = 8 };

typedef struct cut { /* of the stage's samples */
    const stage *s;
    uint64_t batch, start; /* start: a step within the epoch at which the run begins */
    int parts, servers;
    td_shuffle shuffle;
} cut;

typedef struct learnt { /* samples of the epoch, how often each, by one worker */
    int of[SAMPLES];
    uint64_t shards;
} learnt;

static td_feed_config config_of_cut(const cut *k, td_comm *c, int *ranks)
{
    int rank = td_comm_rank(c);
    for (int r = 0; r < td_comm_size(c); r++) ranks[r] = r;
    return (td_feed_config){.features = k->s->features,
                            .data = k->s->data,
                            .plan = {.samples = SAMPLES,
                                     .batch = k->batch,
                                     .leaves = LEAVES,
                                     .shuffle = k->shuffle,
                                     .seed = 3},
                            .parts = k->parts,
                            .worker = rank < WORKERS ? rank : -1,
                            .workers = WORKERS,
                            .worker_rank = ranks,
                            .by_name = true,
                            .server = ranks + WORKERS,
                            .server_count = k->servers};
}

static void count(part *p, learnt *l)
{
    for (size_t r = 0; r < p->batch.rows; r++) l->of[p->batch.sample[r]]++;
    l->shards++;
    td_feed_done(p->feed, &p->batch);
}

/* All that is dealt out before the step. */
static td_status learn_up_to(part *p, uint64_t epoch, uint64_t end, learnt *l)
{
    td_comm *c = p->c;
    if (p->worker < 0) return TD_OK;
    for (;;) {
        TD_TRY(td_feed_next(p->feed, epoch, end, CLOCK, &p->batch, &p->lease));
        if (p->lease.none) return TD_OK;
        if (p->lease.wait) continue;
        CHECK(p->batch.rows > 0);
        count(p, l);
    }
}

/* All workers have learnt once from the samples of steps [begin, end) of the epoch, and from no
 * other. */
static td_status check_learnt(td_comm *c, const td_shard_plan *plan, uint64_t begin, uint64_t end,
                              const learnt *l)
{
    int32_t all[SAMPLES], want[SAMPLES] = {0};
    uint64_t epoch = begin / td_shard_steps(plan);
    TD_TRY(td_comm_allreduce(c, l->of, all, SAMPLES, TD_I32, TD_SUM));
    for (uint64_t step = begin; step < end; step++)
        for (int leaf = 0; leaf < LEAVES; leaf++) {
            uint64_t sample[SAMPLES];
            td_shard_leaf(plan, epoch, step % td_shard_steps(plan), leaf, sample);
            for (size_t i = 0; i < td_shard_leaf_rows(plan, step % td_shard_steps(plan), leaf); i++)
                want[sample[i]]++;
        }
    CHECK(!memcmp(all, want, sizeof want));
    return TD_OK;
}

/* Two epochs, the first from within, with meetings at every third step. */
static td_status meet_within(td_comm *c, void *arg)
{
    const cut *k = arg;
    part p = {.c = c};
    int ranks[RANKS + 1];
    learnt l = {0};
    td_feed_config config = config_of_cut(k, c, ranks);
    uint64_t per_epoch = td_shard_steps(&config.plan), step = k->start, begin = step;
    p.worker = config.worker;
    td_status status = td_feed_open(c, &config, &p.feed);
    if (status == TD_OK) td_feed_start_at(p.feed, step);
    while (status == TD_OK && step < 2 * per_epoch) {
        uint64_t epoch = step / per_epoch, last = (epoch + 1) * per_epoch;
        uint64_t end = step + 3 < last ? step + 3 : last, reach;
        status = td_comm_barrier(c);
        if (status == TD_OK) status = learn_up_to(&p, epoch, end, &l);
        if (status == TD_OK) status = check_learnt(c, &config.plan, begin, end, &l);
        reach = td_feed_reach(p.feed, epoch);
        if (status == TD_OK) status = td_comm_allreduce(c, &reach, &reach, 1, TD_I64, TD_MAX);
        if (status == TD_OK && reach != end) status = td_fail(TD_ERR_INTERNAL, "a wrong reach");
        td_feed_start_at(p.feed, end);
        if (end == last) l = (learnt){0}, begin = end;
        step = end;
    }
    td_feed_close(p.feed);
    td_rows_batch_free(&p.batch);
    return status;
}

static void shards_up_to_a_step(void **state)
{
    (void)state;
    stage s = {0};
    open_stage(&s);
    const cut cuts[] = {{&s, 7, 0, 1, 1, TD_SHUFFLE_GLOBAL},  {&s, 7, 4, 3, 2, TD_SHUFFLE_GLOBAL},
                        {&s, 11, 1, 5, 2, TD_SHUFFLE_NONE},   {&s, 9, 2, 8, 1, TD_SHUFFLE_LEAF},
                        {&s, 2, 29, 3, 2, TD_SHUFFLE_GLOBAL}, {&s, 1, 59, 8, 2, TD_SHUFFLE_GLOBAL},
                        {&s, 60, 0, 3, 2, TD_SHUFFLE_LEAF}};
    for (size_t k = 0; k < sizeof cuts / sizeof *cuts; k++)
        assert_ok(td_comm_run_local(WORKERS + cuts[k].servers, NULL, meet_within,
                                    (void *)(uintptr_t)&cuts[k]));
    close_stage(&s);
}

/* Shards are dealt out of steps 0 and 1 of three parts each when all are to stop: of step 2 and
 * what follows nothing is dealt any more, and of step 1 the rest. */
static td_status stop_within(td_comm *c, void *arg)
{
    part p = {.c = c};
    int ranks[RANKS + 1];
    learnt l = {0};
    td_feed_config config = config_of_cut(arg, c, ranks);
    uint64_t reach;
    p.worker = config.worker;
    TD_TRY(td_feed_open(c, &config, &p.feed));
    for (int turn = 0; turn < 4; turn++) { /* four shards, of which the last is not done */
        TD_TRY(td_comm_barrier(c));
        if (p.worker != turn % WORKERS) continue;
        TD_TRY(td_feed_next(p.feed, 0, STEPS, CLOCK, &p.batch, &p.lease));
        CHECK(!p.lease.none && !p.lease.wait);
        if (turn < 3) count(&p, &l);
    }
    TD_TRY(td_comm_barrier(c));
    if (p.worker == 0) {
        TD_TRY(td_feed_next(p.feed, 0, 1, CLOCK, &p.batch, &p.lease)); /* and tells of its last */
        CHECK(p.lease.none && l.shards == 2);
        TD_TRY(td_feed_next(p.feed, 0, 0, CLOCK, &p.batch, &p.lease));
        CHECK(p.lease.none);
    }
    TD_TRY(td_comm_barrier(c));
    reach = td_feed_reach(p.feed, 0);
    TD_TRY(td_comm_allreduce(c, &reach, &reach, 1, TD_I64, TD_MAX));
    CHECK(reach == 2 && td_feed_reach(p.feed, 1) == STEPS);
    if (p.worker == 1) { /* others hear that it is done, and only then that nothing is left */
        TD_TRY(td_comm_barrier(c));
        count(&p, &l);
        TD_TRY(td_feed_tell(p.feed));
        TD_TRY(td_comm_barrier(c));
    } else {
        for (int turn = 0; turn < 3 && p.worker == 0; turn++) {
            TD_TRY(td_feed_next(p.feed, 0, reach, CLOCK, &p.batch, &p.lease));
            CHECK(!p.lease.none && p.lease.wait == (turn == 2));
            if (turn < 2) count(&p, &l);
        }
        TD_TRY(td_comm_barrier(c));
        TD_TRY(td_comm_barrier(c));
    }
    TD_TRY(learn_up_to(&p, 0, reach, &l));
    TD_TRY(check_learnt(c, &config.plan, 0, reach, &l));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(learn_up_to(&p, 0, STEPS, &l));
    TD_TRY(check_learnt(c, &config.plan, 0, STEPS, &l));
    td_feed_close(p.feed);
    td_rows_batch_free(&p.batch);
    return TD_OK;
}

static void all_stop_behind_a_step(void **state)
{
    (void)state;
    stage s = {0};
    open_stage(&s);
    for (int servers = 1; servers <= 2; servers++) {
        cut k = {&s, SHARD, 0, 3, servers, TD_SHUFFLE_GLOBAL};
        assert_ok(td_comm_run_local(WORKERS + servers, NULL, stop_within, &k));
    }
    close_stage(&s);
}

/* A worker that is alone takes shards of both servers, though it asks one first. */
static td_status deal_in_near_order(td_comm *c, void *arg)
{
    enum { WINDOW = 2 * 8 }; /* steps */
    part p = {.c = c};
    int ranks[RANKS + 1];
    learnt l = {0};
    td_feed_config config = config_of_cut(arg, c, ranks);
    td_status status = td_feed_open(c, &config, &p.feed);
    for (uint64_t k = 0; k < SAMPLES && status == TD_OK; k++) {
        uint64_t reach;
        if (config.worker == 0)
            status = td_feed_next(p.feed, 0, SAMPLES, CLOCK, &p.batch, &p.lease);
        if (config.worker == 0) count(&p, &l);
        if (status == TD_OK) status = td_comm_barrier(c);
        reach = td_feed_reach(p.feed, 0);
        if (status == TD_OK) status = td_comm_allreduce(c, &reach, &reach, 1, TD_I64, TD_MAX);
        if (status == TD_OK && (reach < k + 1 || reach > k + WINDOW))
            status = td_fail(TD_ERR_INTERNAL, "%d shards reach to step %d", (int)k + 1, (int)reach);
    }
    td_feed_close(p.feed);
    td_rows_batch_free(&p.batch);
    return status;
}

static void servers_deal_in_near_order(void **state)
{
    (void)state;
    stage s = {0};
    open_stage(&s);
    cut k = {&s, 1, 0, 1, 2, TD_SHUFFLE_GLOBAL};
    assert_ok(td_comm_run_local(WORKERS + 2, NULL, deal_in_near_order, &k));
    close_stage(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_owed_comes_first),
                                       cmocka_unit_test(shards_up_to_a_step),
                                       cmocka_unit_test(all_stop_behind_a_step),
                                       cmocka_unit_test(servers_deal_in_near_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
