/* Checkpoints: the whole state of a run comes back, by whatever number of ranks it was written and
 * is read; memory or a disk that runs out leaves neither half a checkpoint nor a dead run; a
 * damaged newest one gives way to the one before it. */
#include "train/saver.h"

#include "base/error.h"
#include "base/log.h"
#include "base/test.h"

#include <dirent.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>

static char folder[] = "/tmp/td-checkpoint-XXXXXX";

/* One tensor is larger than a file, one is cut within its rows' range, offsets have gaps. */
enum { ROWS = 300, WIDTH = 700, BIAS = 5, SMALL = 16, PARAMS = ROWS * WIDTH + 16 + 4 * SMALL };

typedef struct fixture {
    td_slot slots[3];
    td_job job;
    td_task task;
    td_shards *shards;
    float *params, *best;
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

/* small: of a few floats. */
static td_status make_fixture(fixture *f, float first, bool small)
{
    size_t rows = small ? 2 : ROWS, width = small ? 2 : WIDTH, n = (rows * width + 15) / 16 * 16;
    *f = (fixture){
        .slots = {{.name = "1.weight", .rank = 2, .shape = {rows, width}, .count = rows * width},
                  {.name = "1.bias", .rank = 1, .shape = {BIAS}, .offset = n, .count = BIAS},
                  {.name = "2.weight",
                   .rank = 3,
                   .shape = {4, 2, SMALL / 2},
                   .offset = n + 16,
                   .count = 4 * SMALL}},
        .job = {.run = folder, .rule = "adam", .seed = 3, .keep_checkpoints = 2, .leaves = 16},
    };
    size_t params = n + 16 + 4 * SMALL;
    f->params = td_calloc(params, sizeof(float));
    f->best = td_calloc(params, sizeof(float));
    f->task = (td_task){.oracle = {.params = params, .slots = f->slots, .slot_count = 3},
                        .params = f->params,
                        .arch = "dense:1"};
    if (!f->params || !f->best) return td_fail(TD_ERR_NOMEM, "no memory for a test");
    td_shards_config config = {.optim = {.rule = "adam"},
                               .slots = f->slots,
                               .slot_count = 3,
                               .params = params,
                               .size = 1};
    TD_TRY(td_shards_create(&config, &f->shards));
    for (size_t s = 0; s < 3; s++)
        for (size_t i = 0; i < f->slots[s].count; i++) {
            size_t at = f->slots[s].offset + i;
            f->params[at] = first + (float)at;
            f->best[at] = 2 * first + (float)at;
            td_shards_state(f->shards, 0)[at] = 3 * first + (float)at;
            td_shards_state(f->shards, 1)[at] = 4 * first + (float)at;
        }
    return TD_OK;
}

static void open_fixture(fixture *f, float first)
{
    assert_ok(make_fixture(f, first, true));
}

static void close_fixture(fixture *f)
{
    td_shards_destroy(f->shards);
    td_free(f->params);
    td_free(f->best);
}

static bool same(const fixture *f, const fixture *g, const td_train_state *s)
{
    size_t bytes = f->task.oracle.params * sizeof(float);
    return !memcmp(f->params, g->params, bytes) && !memcmp(f->best, g->best, bytes) &&
           !memcmp(td_shards_state(f->shards, 0), td_shards_state(g->shards, 0), bytes) &&
           !memcmp(td_shards_state(f->shards, 1), td_shards_state(g->shards, 1), bytes) &&
           s->step == there.step && s->finished && s->has_best && s->best_loss == there.best_loss &&
           s->best_accuracy == there.best_accuracy && s->loss == there.loss &&
           s->accuracy == there.accuracy && s->best_step == there.best_step &&
           s->scored == there.scored;
}

static td_status write_on(td_comm *comm, fixture *f, const td_train_state *state)
{
    td_saver *saver = NULL;
    td_status status = td_saver_create(comm, &f->job, &f->task, f->shards, f->best, &saver);
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_saver_begin(saver, state));
    status = td_saver_finish(saver);
out:
    td_saver_destroy(saver);
    return status;
}

/* As a job of one rank. */
static td_status write_one(fixture *f, const td_train_state *state)
{
    td_comm *comm = NULL;
    TD_TRY(td_comm_self(NULL, &comm));
    td_status status = write_on(comm, f, state);
    td_comm_close(comm);
    return status;
}

static td_status read_newest(fixture *f, td_train_state *s)
{
    int64_t step;
    TD_TRY(td_checkpoint_find(&f->job, &f->task, &step));
    if (step == TD_CHECKPOINT_NONE) return td_fail(TD_ERR_DATA, "no checkpoint");
    return td_checkpoint_read(&f->job, &f->task, f->shards, (uint64_t)step, s, f->best);
}

static const char *at_step(int step)
{
    static char path[TD_PATH_MAX];
    snprintf(path, sizeof path, "%s/checkpoints/step-%09d", folder, step);
    return path;
}

static const char *in_step(int step, const char *name)
{
    static char path[TD_PATH_MAX];
    return td_path_join(path, at_step(step), name) == TD_OK ? path : "";
}

static int entries(const char *where)
{
    DIR *dir = opendir(where);
    int n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) n += e->d_name[0] != '.';
    if (dir) closedir(dir);
    return n;
}

static int checkpoints(void)
{
    char path[TD_PATH_MAX];
    return td_path_join(path, folder, "checkpoints") == TD_OK ? entries(path) : -1;
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    fixture f, g;
    td_train_state s;
    open_fixture(&f, 10);
    open_fixture(&g, 0);
    assert_ok(write_one(&f, &there));
    assert_int_equal(entries(at_step(7)), 2); /* a small state is one file */
    assert_ok(read_newest(&g, &s));
    assert_true(same(&f, &g, &s));
    close_fixture(&f);
    close_fixture(&g);
}

/* Every rank has its own copy of the state, as in training. */
static td_status write_rank(td_comm *comm, void *arg)
{
    (void)arg;
    fixture f;
    td_status status = make_fixture(&f, 10, false);
    if (status == TD_OK) status = write_on(comm, &f, &there);
    close_fixture(&f);
    return status;
}

static td_status read_rank(td_comm *comm, void *arg)
{
    (void)comm, (void)arg;
    fixture f, g;
    td_train_state s;
    td_status status;
    TD_GOTO(make_fixture(&f, 10, false));
    TD_GOTO(make_fixture(&g, 0, false));
    TD_GOTO(read_newest(&g, &s));
    if (!same(&f, &g, &s)) status = td_fail(TD_ERR_CORRUPT, "another state came back");
out:
    close_fixture(&f);
    close_fixture(&g);
    return status;
}

/* The files, too, are the same whoever wrote them. */
static void any_number_reads_what_any_number_wrote(void **state)
{
    (void)state;
    static const int ranks[] = {1, 2, 3, 5, 16};
    char *manifest[2];
    size_t size[2];
    for (size_t w = 0; w < sizeof ranks / sizeof *ranks; w++) {
        assert_ok(td_comm_run_local(ranks[w], NULL, write_rank, NULL));
        assert_int_equal(entries(at_step(7)), 12 + 1); /* 3.4 MB */
        assert_ok(td_read_file(in_step(7, "manifest.json"), &manifest[w > 0], &size[w > 0]));
        if (w) assert_string_equal(manifest[0], manifest[1]);
        if (w) td_free(manifest[1]);
        for (size_t r = 0; r < 4; r++)
            assert_ok(td_comm_run_local(ranks[r], NULL, read_rank, NULL));
    }
    td_free(manifest[0]);
}

/* As earlier versions wrote them: all tensors whole, in one file. */
static void one_file_of_whole_tensors_reads(void **state)
{
    (void)state;
    fixture f, g;
    td_train_state s;
    td_layout l;
    td_tensor t[12];
    char names[12][TD_LAYOUT_NAME];
    assert_ok(make_fixture(&f, 10, false));
    assert_ok(make_fixture(&g, 0, false));
    td_checkpoint_layout(&f.job, &f.task, f.shards, f.best, &l);
    assert_true(l.files > 1);
    for (int k = 0; k < 12; k++) {
        const td_slot *slot = &f.slots[k % 3];
        td_layout_name(&l.array[k / 3], slot, names[k]);
        t[k] = (td_tensor){.name = names[k],
                           .rank = slot->rank,
                           .data = l.array[k / 3].data + slot->offset,
                           .count = slot->count};
        memcpy(t[k].shape, slot->shape, sizeof slot->shape);
    }
    json_t *json = td_checkpoint_state(&f.job, &f.task, &there);
    assert_ok(td_bundle_write(at_step(7), "checkpoint", json, TD_CHECKPOINT_FILE, t, 12));
    json_decref(json);
    assert_ok(read_newest(&g, &s));
    assert_true(same(&f, &g, &s));
    close_fixture(&f);
    close_fixture(&g);
}

static void cuts_lie_between_rows(void **state)
{
    (void)state;
    fixture f;
    td_layout l;
    assert_ok(make_fixture(&f, 0, false));
    td_checkpoint_layout(&f.job, &f.task, f.shards, NULL, &l);
    size_t last = 0, whole = 3 * l.params;
    assert_int_equal(td_layout_cut(&l, 0), 0);
    assert_int_equal(td_layout_cut(&l, l.files), whole);
    for (size_t k = 1; k <= l.files; k++) {
        size_t cut = td_layout_cut(&l, k), in_array = cut % l.params;
        assert_true(cut > last && cut - last <= whole / l.files + 2 * WIDTH);
        if (in_array < ROWS * WIDTH) assert_int_equal(in_array % WIDTH, 0);
        last = cut;
    }
    close_fixture(&f);
}

static void another_job_is_refused(void **state)
{
    (void)state;
    fixture f;
    td_train_state s;
    open_fixture(&f, 10);
    assert_ok(write_one(&f, &there));
    f.job.seed = 4;
    assert_fails(TD_ERR_ARG, "with seed 3, not 4", read_newest(&f, &s));
    f.job.rule = "sgd";
    assert_fails(TD_ERR_ARG, "with the optimizer adam, not sgd", read_newest(&f, &s));
    f.task.arch = "dense:2";
    assert_fails(TD_ERR_ARG, "of the architecture \"dense:1\"", read_newest(&f, &s));
    close_fixture(&f);
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

static int empty(void **state)
{
    return clear(state) || td_make_dirs(folder) != TD_OK;
}

/* Steps 7, 8, 9 with the params of `first` 7, 8, 9; all are kept. */
static void write_three(void)
{
    for (int step = 7; step < 10; step++) {
        fixture f;
        td_train_state s = there;
        s.step = (uint64_t)step;
        open_fixture(&f, (float)step);
        f.job.keep_checkpoints = 3;
        assert_ok(write_one(&f, &s));
        close_fixture(&f);
    }
    assert_int_equal(checkpoints(), 3);
}

static void flip(const char *path, bool cut)
{
    char *bytes;
    size_t size;
    assert_ok(td_read_file(path, &bytes, &size));
    bytes[size - 9] ^= 1;
    assert_ok(td_write_file(path, bytes, cut ? size / 2 : size));
    td_free(bytes);
}

static void a_damaged_newest_gives_way(void **state)
{
    (void)state;
    fixture f;
    td_train_state s;
    td_log_set_level(TD_LOG_QUIET);
    open_fixture(&f, 0);
    write_three();
    for (int step = 9; step > 7; step--) {
        flip(in_step(step, "state.safetensors"), step == 8); /* a flipped byte; torn */
        assert_ok(read_newest(&f, &s));
        assert_int_equal(s.step, step - 1);
        assert_true(f.params[3] == (float)(step - 1 + 3));
    }
    assert_ok(td_remove_tree(in_step(8, "manifest.json"))); /* nor need it be there */
    assert_ok(read_newest(&f, &s));
    assert_int_equal(s.step, 7);
    assert_ok(td_checkpoint_tidy(&f.job, 7)); /* out of the way of those to come */
    assert_int_equal(checkpoints(), 3);
    assert_true(td_path_exists(in_step(7, "manifest.json")));
    assert_false(td_path_exists(at_step(8)));
    f.job.keep_checkpoints = 1;
    s.step = 8;
    assert_ok(write_one(&f, &s));
    assert_true(td_path_exists(at_step(8)));
    assert_false(td_path_exists(at_step(7)));
    flip(in_step(8, "manifest.json"), true);
    assert_fails(TD_ERR_CORRUPT, "step-000000008/manifest.json", read_newest(&f, &s));
    assert_int_equal(empty(NULL), 0);
    write_three();
    for (int step = 7; step < 10; step++) flip(in_step(step, "state.safetensors"), false);
    assert_fails(TD_ERR_CORRUPT, "step-000000007/state.safetensors is damaged",
                 read_newest(&f, &s));
    td_log_set_level(TD_LOG_WARN);
    close_fixture(&f);
}

/* The run is told at its end, is alive, and has what it had; then there is room again. */
static td_status fill_the_disk(td_comm *comm, void *arg)
{
    struct rlimit *limits = arg; /* as it is, and small */
    fixture f;
    td_saver *saver = NULL;
    td_train_state s = there;
    td_status status = make_fixture(&f, 10, false);
    if (status == TD_OK) status = td_saver_create(comm, &f.job, &f.task, f.shards, f.best, &saver);
    TD_GOTO(td_comm_agree(comm, status));
    s.step = 8;
    if (td_comm_rank(comm) == 0 && setrlimit(RLIMIT_FSIZE, &limits[1]) != 0) status = TD_ERR_IO;
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_saver_begin(saver, &s));
    if (td_saver_finish(saver) != TD_ERR_IO || !strstr(td_last_error(), "cannot write"))
        status = td_fail(TD_ERR_INTERNAL, "a full disk was not told");
    if (td_comm_rank(comm) == 0 && setrlimit(RLIMIT_FSIZE, &limits[0]) != 0) status = TD_ERR_IO;
    TD_GOTO(td_comm_agree(comm, status));
    if (td_comm_rank(comm) == 0 && checkpoints() != 1)
        status = td_fail(TD_ERR_INTERNAL, "something half-written is left");
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(td_saver_begin(saver, &s));
    status = td_saver_finish(saver);
out:
    td_saver_destroy(saver);
    close_fixture(&f);
    return status;
}

static void a_full_disk_leaves_the_older_ones_and_the_run(void **state)
{
    (void)state;
    struct rlimit limits[2];
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, limits), 0);
    td_log_set_level(TD_LOG_QUIET);
    for (rlim_t bytes = 0; bytes < 400000;
         bytes += bytes ? 150000 : 1000) { /* mostly: in the middle */
        assert_ok(td_remove_tree(at_step(8)));
        assert_ok(td_comm_run_local(2, NULL, write_rank, NULL));
        assert_int_equal(checkpoints(), 1);
        limits[1] = limits[0], limits[1].rlim_cur = bytes;
        if (bytes > 262144 + 20000) break; /* more than a file */
        assert_ok(td_comm_run_local(2, NULL, fill_the_disk, limits));
        assert_int_equal(checkpoints(), 2);
    }
    td_log_set_level(TD_LOG_WARN);
}

/* Nor does a step allocate memory, whatever the thread is at. */
static td_status count_allocations(td_comm *comm, void *arg)
{
    (void)arg;
    fixture f;
    td_saver *saver = NULL;
    td_status status = make_fixture(&f, 10, false);
    if (status == TD_OK) status = td_saver_create(comm, &f.job, &f.task, f.shards, f.best, &saver);
    if (status == TD_OK) status = td_saver_begin(saver, &there);
    while (status == TD_OK && (td_saver_writing(saver) || !td_saver_count(saver)))
        status = td_saver_step(saver, td_saver_writing(saver));
    td_alloc_fail_at(0);
    for (int i = 0; i < 100 && status == TD_OK; i++)
        status = td_saver_step(saver, td_saver_writing(saver));
    if (status == TD_OK && td_alloc_count() != 0)
        status = td_fail(TD_ERR_INTERNAL, "%d allocations", (int)td_alloc_count());
    td_saver_destroy(saver);
    close_fixture(&f);
    return status;
}

static void warm_steps_allocate_nothing(void **state)
{
    (void)state;
    assert_ok(td_comm_run_local(1, NULL, count_allocations, NULL));
}

/* A spoiled parameter is found behind the step, and told to all. */
static td_status write_spoiled(td_comm *comm, void *arg)
{
    (void)arg;
    fixture f;
    td_saver *saver = NULL;
    td_train_state s = there;
    s.step = 8, s.per_epoch = 4;
    td_status status = make_fixture(&f, 10, false);
    if (status == TD_OK) status = td_saver_create(comm, &f.job, &f.task, f.shards, f.best, &saver);
    TD_GOTO(td_comm_agree(comm, status));
    f.params[ROWS * WIDTH + 17] = __builtin_nanf("");
    TD_GOTO(td_saver_begin(saver, &s));
    status = td_saver_finish(saver);
out:
    td_saver_destroy(saver);
    close_fixture(&f);
    return status;
}

static void what_diverged_is_not_kept(void **state)
{
    (void)state;
    for (int ranks = 1; ranks < 5; ranks++) {
        assert_ok(td_comm_run_local(ranks, NULL, write_rank, NULL));
        assert_fails(TD_ERR_DIVERGED, "a parameter is no longer a number at step 8 (epoch 2)",
                     td_comm_run_local(ranks, NULL, write_spoiled, NULL));
        assert_int_equal(checkpoints(), 1);
    }
}

/* Many in a row, each waiting for the one before; the last is whole. */
static td_status write_many(td_comm *comm, void *arg)
{
    (void)arg;
    fixture f;
    td_saver *saver = NULL;
    td_train_state s = there;
    td_status status = make_fixture(&f, 10, false);
    if (status == TD_OK) status = td_saver_create(comm, &f.job, &f.task, f.shards, f.best, &saver);
    TD_GOTO(td_comm_agree(comm, status));
    for (s.step = 1; s.step <= 12; s.step++) {
        f.params[5] = (float)s.step;
        s.has_best = s.step % 2; /* the cut changes */
        TD_GOTO(td_saver_begin(saver, &s));
        f.params[5] = -1; /* steps go on while it is written */
        bool mine = td_saver_writing(saver), any;
        TD_GOTO(td_comm_allreduce(comm, &mine, &any, 1, TD_U8, TD_MAX));
        TD_GOTO(td_saver_step(saver, any));
    }
    TD_GOTO(td_saver_finish(saver));
    if (td_comm_rank(comm) == 0 && td_saver_count(saver) != 12)
        status = td_fail(TD_ERR_INTERNAL, "%d were written", (int)td_saver_count(saver));
    TD_GOTO(td_comm_agree(comm, status));
    TD_GOTO(read_newest(&f, &s));
    if (s.step != 12 || f.params[5] != 12) status = td_fail(TD_ERR_CORRUPT, "mixed with a step");
out:
    td_saver_destroy(saver);
    close_fixture(&f);
    return status;
}

static void one_after_the_other(void **state)
{
    (void)state;
    for (int ranks = 1; ranks < 5; ranks += ranks)
        assert_ok(td_comm_run_local(ranks, NULL, write_many, NULL));
    assert_int_equal(checkpoints(), 2);
}

static td_status read_checkpoint(void *arg)
{
    td_train_state s;
    return read_newest(arg, &s);
}

/* Writing says that it failed, or has written everything. */
static void memory_may_run_out(void **state)
{
    (void)state;
    fixture f, g;
    td_train_state s;
    open_fixture(&f, 10);
    open_fixture(&g, 0);
    td_log_set_level(TD_LOG_QUIET);
    size_t k = 0;
    for (size_t asked = 0; asked >= k;) {
        assert_ok(td_remove_tree(at_step(7)));
        json_set_alloc_funcs(td_malloc, td_free); /* its allocations fail in their turn, too */
        td_alloc_fail_at(++k);
        td_status status = write_one(&f, &there);
        asked = td_alloc_count();
        td_alloc_fail_at(0);
        json_set_alloc_funcs(malloc, free);
        if (status == TD_OK) {
            memset(g.best, 0, g.task.oracle.params * sizeof *g.best);
            assert_ok(read_newest(&g, &s));
            assert_true(same(&f, &g, &s));
        } else {
            assert_int_equal(status, TD_ERR_NOMEM);
            assert_false(td_path_exists(at_step(7)));
            assert_true(checkpoints() <= 0);
        }
    }
    assert_true(k > 10);
    assert_survives_no_memory(read_checkpoint, &g);
    td_log_set_level(TD_LOG_WARN);
    close_fixture(&f);
    close_fixture(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_is_written_reads_back, empty),
        cmocka_unit_test_setup(any_number_reads_what_any_number_wrote, empty),
        cmocka_unit_test_setup(one_file_of_whole_tensors_reads, empty),
        cmocka_unit_test_setup(cuts_lie_between_rows, empty),
        cmocka_unit_test_setup(another_job_is_refused, empty),
        cmocka_unit_test_setup(a_damaged_newest_gives_way, empty),
        cmocka_unit_test_setup(a_full_disk_leaves_the_older_ones_and_the_run, empty),
        cmocka_unit_test_setup(warm_steps_allocate_nothing, empty),
        cmocka_unit_test_setup(what_diverged_is_not_kept, empty),
        cmocka_unit_test_setup(one_after_the_other, empty),
        cmocka_unit_test_setup(memory_may_run_out, empty),
    };
    return cmocka_run_group_tests(tests, set_up, clear);
}
