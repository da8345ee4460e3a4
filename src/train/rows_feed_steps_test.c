/* Leaves from data servers are those that a worker reads for itself. See ranks_test.h. */
#include "train/rows_feed.h"

#include "base/alloc.h"
#include "comm/ranks_test.h"
#include "data/data_test.h"

enum { SAMPLES = 61, BATCH = 14, LEAVES = 8, WIDTH = 2 };

typedef struct stage {
    td_dataset *data;
    td_features *features; /* NULL: samples are dense */
    td_normalise normalise;
    int servers;
} stage;

static void open_dense(stage *s)
{
    static char text[SAMPLES * 32 + 32];
    td_data_config config = {.label = "y", .label_kind = TD_LABEL_CLASS};
    size_t n = (size_t)sprintf(text, "a,b,y\n");
    for (int i = 0; i < SAMPLES; i++)
        n += (size_t)sprintf(text + n, i % 7 ? "%d.25,%d,%d\n" : "%d,,%d\n", i,
                             i % 7 ? i * i : i % 3, i % 3);
    assert_ok(read_text(TD_FORMAT_CSV, text, &config, &s->data));
    assert_ok(td_normalise_fit(s->data, TD_NORMALISE_STANDARD, &s->normalise));
}

static void open_sparse(stage *s)
{
    static char text[SAMPLES * 32];
    td_data_config config = {.label_kind = TD_LABEL_CLASS};
    size_t n = 0;
    for (int i = 0; i < SAMPLES; i++) {
        n += (size_t)sprintf(text + n, "%d %d:1", i % 2, 1 + i % 9);
        n += (size_t)sprintf(text + n, i % 3 ? " %d:0.5\n" : "\n", 11 + i % 5);
    }
    assert_ok(read_text(TD_FORMAT_LIBSVM, text, &config, &s->data));
    assert_ok(td_features_create(s->data, &(td_features_config){.bias = true}, &s->features));
}

static void close_stage(stage *s)
{
    td_normalise_fini(&s->normalise);
    td_features_destroy(s->features);
    td_dataset_close(s->data);
}

#define SAME(a, b, count) CHECK((count) == 0 || !memcmp((a), (b), (count) * sizeof *(a)))

static td_status compare(td_comm *c, const td_rows_batch *a, const td_rows_batch *b, size_t numbers)
{
    CHECK(a->rows == b->rows && a->entries == b->entries && a->global_rows == b->global_rows);
    CHECK(a->epoch == b->epoch && a->step_in_epoch == b->step_in_epoch);
    CHECK(a->last_in_epoch == b->last_in_epoch && a->sums == b->sums);
    CHECK(a->has_label == b->has_label && a->has_weight == b->has_weight);
    CHECK(a->unit_count == b->unit_count);
    SAME(a->sample, b->sample, a->rows);
    SAME(a->target, b->target, a->rows);
    SAME(a->label, b->label, a->rows);
    SAME(a->numbers, b->numbers, a->rows * numbers);
    SAME(a->start, b->start, a->rows + 1);
    SAME(a->key, b->key, a->entries);
    SAME(a->value, b->value, a->entries);
    SAME(a->field, b->field, a->entries);
    SAME(a->units, b->units, (size_t)a->unit_count);
    return TD_OK;
}

typedef struct worker {
    td_feed *feed;
    td_loader *loader;
    td_rows_shape shape;
    td_rows_batch fed, own;
    int leaf_begin, leaf_end;
} worker;

static td_status one_step(td_comm *c, worker *w, uint64_t step, bool ahead)
{
    const td_batch *from;
    uint64_t per_epoch = td_loader_steps_per_epoch(w->loader);
    TD_TRY(td_feed_leaves(w->feed, step, w->leaf_begin, w->leaf_end, ahead, &w->shape, &w->fed));
    TD_TRY(td_loader_seek(w->loader, step / per_epoch, step % per_epoch));
    TD_TRY(td_loader_next(w->loader, &from));
    td_batch none = *from;
    if (w->leaf_begin == w->leaf_end) none.rows = 0, none.leaves = 0, from = &none;
    TD_TRY(td_rows_batch_fill(&w->own, &w->shape, from, w->leaf_begin));
    return compare(c, &w->fed, &w->own, w->shape.numbers);
}

static td_status all_steps(td_comm *c, worker *w)
{
    uint64_t steps = 2 * td_loader_steps_per_epoch(w->loader);
    for (uint64_t step = 0; step < steps; step++) TD_TRY(one_step(c, w, step, step + 1 < steps));
    TD_TRY(one_step(c, w, 1, true)); /* which asks for one that nobody takes */
    return one_step(c, w, 3, false);
}

static td_status feed(td_comm *c, void *arg)
{
    const stage *s = arg;
    int size = td_comm_size(c), me = td_comm_rank(c), workers = size - s->servers, server[2];
    int ranks[8];
    if (workers < 1) return TD_OK;
    for (int k = 0; k < workers; k++) ranks[k] = k;
    for (int k = 0; k < s->servers; k++) server[k] = workers + k;
    worker w = {.shape = {.features = s->features,
                          .data = s->data,
                          .width = s->features ? WIDTH : 0,
                          .numbers = s->features ? 0 : td_dataset_info(s->data)->features,
                          .by_leaf = true}};
    if (me < workers)
        w.leaf_begin = LEAVES * me / workers, w.leaf_end = LEAVES * (me + 1) / workers;
    td_feed_config config =
        {.features = s->features,
         .data = s->data,
         .normalise = &s->normalise,
         .in_step = true,
         .plan = {.samples = SAMPLES, .batch = BATCH, .leaves = LEAVES, .seed = 3},
         .numbers = w.shape.numbers,
         .worker = me < workers ? me : -1,
         .workers = workers,
         .worker_rank = ranks,
         .server = server,
         .server_count = s->servers};
    td_loader_config read = {.data = s->data,
                             .batch = BATCH,
                             .leaves = LEAVES,
                             .leaf_begin = w.leaf_begin,
                             .leaf_end = w.leaf_begin < w.leaf_end ? w.leaf_end : 1,
                             .seed = 3,
                             .ahead = -1,
                             .normalise = s->features ? NULL : &s->normalise,
                             .sparse = s->features != NULL};
    td_status status = td_pool_create(1, &w.shape.pool);
    if (status == TD_OK) status = td_loader_create(&read, &w.loader);
    if (status == TD_OK) status = td_feed_open(c, &config, &w.feed);
    if (status == TD_OK) status = all_steps(c, &w);
    if (status == TD_OK) status = td_comm_barrier(c);
    td_feed_close(w.feed);
    td_loader_destroy(w.loader);
    td_rows_batch_free(&w.fed), td_rows_batch_free(&w.own);
    td_pool_destroy(w.shape.pool);
    return status;
}

static void leaves_are_those_of_the_loader(void **state)
{
    (void)state;
    for (int k = 0; k < 4; k++) {
        stage s = {.servers = 1 + k / 2};
        k % 2 ? open_sparse(&s) : open_dense(&s);
        on_all_sizes(feed, &s);
        close_stage(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(leaves_are_those_of_the_loader)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
