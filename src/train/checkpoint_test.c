/* Checkpoints: the whole state of a run comes back, and memory that runs out at any point leaves
 * neither half a checkpoint nor one that lacks something. */
#include "train/checkpoint.h"

#include "base/test.h"
#include "tandem/optim.h"

#include <stdlib.h>

static char folder[] = "/tmp/td-checkpoint-XXXXXX";

enum { PARAMS = 5 };

typedef struct fixture {
    td_slot slots[2];
    td_job job;
    td_task task;
    td_optim *optim;
    float params[PARAMS], best[PARAMS];
} fixture;

static const td_train_state there = {.step = 7,
                                     .finished = true,
                                     .has_best = true,
                                     .best_loss = 0.1,
                                     .best_accuracy = 0.9,
                                     .best_step = 5,
                                     .loss = 0.3,
                                     .accuracy = 0.7,
                                     .scored = 7};

static void open_fixture(fixture *f, float first)
{
    *f = (fixture){
        .slots = {{.name = "1.weight", .rank = 2, .shape = {2, 2}, .count = 4},
                  {.name = "1.bias", .rank = 1, .shape = {1}, .offset = 4, .count = 1}},
        .job = {.run = folder, .rule = "adam", .seed = 3, .keep_checkpoints = 2},
    };
    td_optim_config config = {.rule = "adam"};
    f->task = (td_task){.oracle = {.params = PARAMS, .slots = f->slots, .slot_count = 2},
                        .params = f->params,
                        .arch = "dense:1"};
    assert_ok(td_optim_create(&config, f->slots, 2, PARAMS, &f->optim));
    assert_int_equal(td_optim_states(f->optim), 2);
    for (int i = 0; i < PARAMS; i++) {
        f->params[i] = first + (float)i;
        f->best[i] = 2 * first + (float)i;
        td_optim_state(f->optim, 0)[i] = 3 * first + (float)i;
        td_optim_state(f->optim, 1)[i] = 4 * first + (float)i;
    }
}

static void assert_same_state(const fixture *f, const fixture *g, const td_train_state *s)
{
    assert_memory_equal(f->params, g->params, sizeof f->params);
    assert_memory_equal(f->best, g->best, sizeof f->best);
    for (int k = 0; k < 2; k++)
        assert_memory_equal(td_optim_state(f->optim, k), td_optim_state(g->optim, k),
                            sizeof f->params);
    assert_int_equal(s->step, there.step);
    assert_true(s->finished && s->has_best);
    assert_true(s->best_loss == there.best_loss && s->best_accuracy == there.best_accuracy);
    assert_true(s->loss == there.loss && s->accuracy == there.accuracy);
    assert_int_equal(s->best_step, there.best_step);
    assert_int_equal(s->scored, there.scored);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    fixture f, g;
    td_train_state s;
    open_fixture(&f, 10);
    open_fixture(&g, 0);
    assert_ok(td_checkpoint_write(&f.job, &f.task, f.optim, &there, f.best));
    assert_ok(td_checkpoint_read(&g.job, &g.task, g.optim, &s, g.best));
    assert_same_state(&f, &g, &s);
    td_optim_destroy(f.optim);
    td_optim_destroy(g.optim);
}

static void another_job_is_refused(void **state)
{
    (void)state;
    fixture f;
    td_train_state s;
    open_fixture(&f, 10);
    assert_ok(td_checkpoint_write(&f.job, &f.task, f.optim, &there, f.best));
    f.job.seed = 4;
    assert_fails(TD_ERR_CORRUPT, "with seed 3, not 4",
                 td_checkpoint_read(&f.job, &f.task, f.optim, &s, f.best));
    f.job.rule = "sgd";
    assert_fails(TD_ERR_CORRUPT, "with the optimizer adam, not sgd",
                 td_checkpoint_read(&f.job, &f.task, f.optim, &s, f.best));
    f.task.arch = "dense:2";
    assert_fails(TD_ERR_CORRUPT, "of the architecture \"dense:1\"",
                 td_checkpoint_read(&f.job, &f.task, f.optim, &s, f.best));
    td_optim_destroy(f.optim);
}

static td_status read_checkpoint(void *arg)
{
    fixture *f = arg;
    td_train_state s;
    return td_checkpoint_read(&f->job, &f->task, f->optim, &s, f->best);
}

/* Writing says that it failed, or has written everything. */
static void memory_may_run_out(void **state)
{
    (void)state;
    fixture f, g;
    td_train_state s;
    char path[TD_PATH_MAX];
    open_fixture(&f, 10);
    open_fixture(&g, 0);
    assert_ok(td_path_join(path, folder, "checkpoints/step-000000007"));
    size_t k = 0;
    for (size_t asked = 0; asked >= k;) {
        assert_ok(td_remove_tree(path));
        json_set_alloc_funcs(td_malloc, td_free); /* its allocations fail in their turn, too */
        td_alloc_fail_at(++k);
        td_status status = td_checkpoint_write(&f.job, &f.task, f.optim, &there, f.best);
        asked = td_alloc_count();
        td_alloc_fail_at(0);
        json_set_alloc_funcs(malloc, free);
        if (status == TD_OK) {
            memset(g.best, 0, sizeof g.best);
            assert_ok(td_checkpoint_read(&g.job, &g.task, g.optim, &s, g.best));
            assert_same_state(&f, &g, &s);
        } else {
            assert_int_equal(status, TD_ERR_NOMEM);
            assert_false(td_path_exists(path));
        }
    }
    assert_true(k > 10);
    assert_survives_no_memory(read_checkpoint, &g);
    td_optim_destroy(f.optim);
    td_optim_destroy(g.optim);
}

static int set_up(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int clear(void **state)
{
    (void)state;
    return td_remove_tree(folder) == TD_OK ? 0 : -1;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(another_job_is_refused),
        cmocka_unit_test(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
