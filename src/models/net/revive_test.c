/* A run whose ranks, threads here, are lost at every point of a step and of what follows it, alone,
 * together and one after the other, or whose number changes: model, newest checkpoint and metrics
 * are to the bit those of a run that nothing happened to. */
#include "models/net/net_model.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"
#include "tandem/recover.h"
#include "train/checkpoint.h"
#include "train/resize.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

enum { SAMPLES = 150, HELD = 40, SIDE = 8, TEXT = 65536, STEPS_PER_EPOCH = 5, EPOCHS = 3 };

typedef struct fixture {
    td_job job;
    td_dataset *data, *held;
    td_dataset *other; /* a label is another */
    td_net_model model;
    /* of a run: */
    char folder[64];
    int lead_taken; /* times */
    int64_t deadline_ms;
    size_t refuse; /* that allocation, 0: none */
    int astray;    /* the rank that has the other data; 0: none; -1: those that come as spares */
    volatile int stop;
} fixture;

static fixture f;
static char wanted_metrics[TEXT], wanted_model[TEXT], wanted_manifest[TEXT], wanted_state[TEXT];

/* --- a run --- */

static td_status take_over(void *user)
{
    __atomic_add_fetch(&((fixture *)user)->lead_taken, 1, __ATOMIC_SEQ_CST);
    return TD_OK;
}

static td_status begin(void *user)
{
    (void)user;
    return TD_OK;
}

/* From the first checkpoint on. */
static void kept(void *user)
{
    fixture *x = user;
    if (x->refuse) td_alloc_fail_at(x->refuse);
    x->refuse = 0;
}

static td_status rank_main(td_comm *comm, void *arg)
{
    fixture *x = arg;
    td_train_hooks hooks = {x, begin, kept, take_over};
    bool astray = x->astray < 0 ? td_comm_joined(comm, td_comm_rank(comm))
                                : x->astray && td_comm_rank(comm) == x->astray;
    td_train_data data = {.train = astray ? x->other : x->data,
                          .held = x->held,
                          .held_name = "held-out",
                          .normalise = &x->model.normalise,
                          .hooks = &hooks};
    return td_net_model_train(comm, &x->job, &data, &x->model, &x->stop);
}

static td_status run(const char *deaths, int workers, int spares)
{
    td_comm_config config = {.deadline_ms = f.deadline_ms, .spares = spares};
    f.lead_taken = 0;
    f.job.spares = spares;
    if (!f.job.resume) {
        assert_ok(td_remove_tree(f.folder));
        assert_ok(td_make_dirs(f.folder));
    }
    setenv("TANDEM_FAKE_DEATH", deaths, 1);
    td_status status = td_comm_run_local(workers + spares, &config, rank_main, &f);
    unsetenv("TANDEM_FAKE_DEATH");
    return status;
}

/* --- what it has left --- */

static void read_text(const char *name, char text[TEXT])
{
    char path[TD_PATH_MAX], *all;
    size_t size;
    assert_ok(td_path_join(path, f.folder, name));
    assert_ok(td_read_file(path, &all, &size));
    assert_true(size < TEXT);
    memcpy(text, all, size);
    memset(text + size, 0, TEXT - size);
    td_free(all);
}

/* Lines but events, each up to its times. Returns the number of recoveries and changes of size. */
static int read_metrics(char text[TEXT])
{
    static char all[TEXT];
    int events = 0;
    size_t at = 0;
    read_text("metrics.jsonl", all);
    for (char *line = all, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        if (strstr(line, "\"event\"")) {
            events += strstr(line, "\"recovered\"") || strstr(line, "\"resized\"");
            continue;
        }
        char *times = strstr(line, ",\"seconds\"");
        if (times) *times = 0;
        at += (size_t)snprintf(text + at, TEXT - at, "%s\n", line);
    }
    text[at] = 0;
    return events;
}

static void read_newest(char text[TEXT])
{
    char name[128];
    int64_t step;
    td_task task = {.arch = td_net_arch(f.model.net)};
    assert_ok(td_checkpoint_find(&f.job, &task, &step));
    snprintf(name, sizeof name, "checkpoints/step-%09lld/manifest.json", (long long)step);
    read_text(name, text);
}

static int check_model(const char *what, int workers, int spares)
{
    static char text[TEXT];
    read_text("model/model.safetensors", text);
    if (memcmp(text, wanted_model, TEXT) != 0)
        fail_msg("%s with %d + %d: another model", what, workers, spares);
    read_text("model/manifest.json", text);
    if (memcmp(text, wanted_manifest, TEXT) != 0)
        fail_msg("%s with %d + %d: another model's manifest", what, workers, spares);
    int events = read_metrics(text);
    if (strcmp(text, wanted_metrics) != 0)
        fail_msg("%s with %d + %d: metrics\n%s, not\n%s", what, workers, spares, text,
                 wanted_metrics);
    return events;
}

static int check_run(const char *what, int workers, int spares)
{
    static char text[TEXT];
    read_newest(text);
    if (memcmp(text, wanted_state, TEXT) != 0)
        fail_msg("%s with %d + %d: another checkpoint: %s", what, workers, spares, text);
    return check_model(what, workers, spares);
}

static int open_fixture(void **state)
{
    (void)state;
    static uint8_t pixels[SAMPLES + HELD][SIDE * SIDE];
    static int32_t labels[SAMPLES + HELD], others[SAMPLES];
    strcpy(f.folder, "/tmp/td-revive-XXXXXX");
    f.deadline_ms = 20000;
    if (!mkdtemp(f.folder)) return -1;
    for (int i = 0; i < SAMPLES + HELD; i++) {
        labels[i] = i % 3;
        for (int k = 0; k < SIDE * SIDE; k++)
            pixels[i][k] = (uint8_t)(i * i * 31 + k * (labels[i] + 1) + i * k % 7);
    }
    td_arrays arrays = {.samples = SAMPLES,
                        .rank = 3,
                        .shape = {1, SIDE, SIDE},
                        .dtype = TD_DTYPE_U8,
                        .x = pixels,
                        .label = labels,
                        .classes = 3};
    assert_ok(td_job_init(&f.job));
    td_job *job = &f.job;
    td_free(job->model);
    td_free(job->rule);
    job->model = td_strdup("dense:24 relu dropout:0.1 dense:8 bn relu dense:0");
    job->rule = td_strdup("adam");
    job->run = td_strdup(f.folder);
    job->batch = 30, job->leaves = 8, job->accumulate = 2, job->epochs = EPOCHS;
    job->quiet = true, job->metrics_every = 2, job->keep = 2, job->bucket_kb = 1;
    job->checkpoint_every.steps = 2, job->keep_checkpoints = 3;
    assert_ok(td_dataset_from_arrays(&arrays, &f.data));
    memcpy(others, labels, sizeof others);
    others[SAMPLES - 2] = !others[SAMPLES - 2];
    arrays.label = others;
    assert_ok(td_dataset_from_arrays(&arrays, &f.other));
    arrays.samples = HELD, arrays.x = pixels + SAMPLES, arrays.label = labels + SAMPLES;
    assert_ok(td_dataset_from_arrays(&arrays, &f.held));
    assert_ok(td_net_model_create(job, f.data, &f.model));
    assert_ok(run("", 1, 0));
    assert_int_equal(read_metrics(wanted_metrics), 0);
    read_text("model/model.safetensors", wanted_model);
    read_text("model/manifest.json", wanted_manifest);
    read_newest(wanted_state);
    return strstr(wanted_state, "\"samples_seen\":450") ||
                   strstr(wanted_state, "\"samples_seen\": 450")
               ? 0
               : -1;
}

static int close_fixture(void **state)
{
    (void)state;
    td_net_model_close(&f.model);
    td_dataset_close(f.held);
    td_dataset_close(f.other);
    td_dataset_close(f.data);
    td_options_fini(td_job_rows, &f.job);
    return td_remove_tree(f.folder) == TD_OK ? 0 : -1;
}

/* --- losses --- */

/* A run with losses that may be too many for its shards: then it says so, and is resumed. Returns
 * the number of recoveries, or -1. */
static int endure(const char *plan, int workers, int spares)
{
    td_status status = run(plan, workers, spares);
    bool lost = status == TD_ERR_PEER && f.job.shard_optimizer &&
                strstr(td_last_error(), "have died; \"tandem train --run");
    if (lost) {
        f.job.resume = true;
        status = run("", workers, 0);
        f.job.resume = false;
    }
    assert_ok(status);
    int events = check_run(plan, workers, spares);
    return lost ? -1 : events;
}

static void a_run_with_nothing_is_the_same_on_any_number(void **state)
{
    (void)state;
    for (int workers = 2; workers <= 5; workers++) {
        assert_ok(run("", workers, workers % 2));
        assert_int_equal(check_run("nothing", workers, workers % 2), 0);
    }
}

static void a_rank_may_be_lost_anywhere(void **state)
{
    (void)state;
    /* Step 1, one within an epoch, one with a checkpoint, an epoch's end, the last. */
    static const struct {
        const char *point;
        int step[4];
    } points[] = {{"backward", {1, 3, 10, 15}},   {"reduce", {1, 3, 10, 15}},
                  {"update", {1, 4, 10, 15}},     {"evaluate", {5, 10, 15, 0}},
                  {"checkpoint", {2, 4, 10, 15}}, {"rename", {2, 10, 15, 0}}};
    bool some = getenv("TANDEM_TEST_SHORT") != NULL, half = f.job.shard_optimizer || some;
    for (size_t p = 0; p < sizeof points / sizeof *points; p++)
        for (int k = 0; k < 4 && points[p].step[k]; k++)
            for (int who = 0; who < 3; who++)
                for (int spares = 0; spares < 2; spares++) {
                    int workers = 3 + (k + who) % 2;
                    int victim = who == 0 ? 0 : who == 1 ? workers / 2 : workers - 1;
                    char plan[64];
                    if (!strcmp(points[p].point, "rename") && victim) continue;
                    if (half && (k + who + (int)p) % 2 == spares) continue;
                    if (some && (k + (int)p) % 2) continue;
                    snprintf(plan, sizeof plan, "%d:%d:%s", victim, points[p].step[k],
                             points[p].point);
                    assert_ok(run(plan, workers, spares));
                    check_run(plan, workers, spares);
                    if (f.lead_taken) assert_int_equal(victim, 0);
                }
}

/* The others have left, with a run that is whole. */
static void who_is_last_may_lose_the_others(void **state)
{
    (void)state;
    static const char *const plans[] = {"2:15:end:alarm", "0:15:end:alarm",
                                        "0:15:end,1:15:end:alarm"};
    for (size_t k = 0; k < sizeof plans / sizeof *plans; k++)
        for (int spares = 0; spares < 2; spares++) {
            assert_ok(run(plans[k], 3, spares));
            assert_int_equal(check_run(plans[k], 3, spares), 0);
        }
}

static void who_lacks_memory_leaves(void **state)
{
    (void)state;
    static const char *const plans[] = {"1:3:backward:memory", "0:10:reduce:memory",
                                        "2:15:update:memory", "0:5:evaluate:memory",
                                        "0:3:update,1:3:handover:memory"};
    for (size_t k = 0; k < sizeof plans / sizeof *plans; k++)
        for (int spares = 0; spares < 2; spares++) {
            assert_true(endure(plans[k], 3, spares) != 0);
        }
    /* In the first step it is likely to be all. */
    assert_fails(TD_ERR_NOMEM, "no memory in \"backward\"", run("1:1:backward:memory", 3, 0));
}

/* Each allocation in turn, but only one: the run goes on, though perhaps without a checkpoint, or
 * without a rank. */
static void any_memory_may_be_refused(void **state)
{
    (void)state;
    int recovered = 0;
    bool some = getenv("TANDEM_TEST_SHORT") != NULL;
    for (size_t k = 1;; k += some ? 31 : 1 + k / 40) {
        char what[64];
        snprintf(what, sizeof what, "allocation %zu refused", k);
        f.refuse = k;
        td_status status = run("", 3, 0);
        size_t count = td_alloc_count();
        td_alloc_fail_at(0);
        if (status != TD_OK) fail_msg("%s: %s", what, td_last_error());
        recovered += check_model(what, 3, 0);
        if (k > count) break;
    }
    assert_true(recovered > 0);
}

static void several_may_be_lost(void **state)
{
    (void)state;
    static const char *const plans[] = {
        "1:3:reduce,2:3:reduce",                   /* together */
        "0:3:update,1:3:update",                   /* both ahead, or not */
        "0:3:reduce,3:3:update",                   /* one behind, one ahead */
        "1:4:update,0:4:recover",                  /* one while it recovers from the other */
        "2:4:reduce,0:3:handover",                 /* the donor */
        "2:4:reduce,1:3:handover,3:3:handover",    /* two others then */
        "0:2:update,1:5:evaluate,2:10:checkpoint", /* down to one, without spares */
        "3:2:backward,2:6:reduce,1:11:update",     /* so that rank 0 is left */
        "0:5:evaluate,1:5:evaluate,2:15:update",   /* the last step, by the last but one */
    };
    int resumed = 0;
    for (size_t p = 0; p < sizeof plans / sizeof *plans; p++)
        for (int spares = 0; spares < 4; spares += spares ? 2 : 1) {
            int events = endure(plans[p], 4, spares);
            if (events == 0) fail_msg("%s: nobody was told", plans[p]);
            if (events < 0) resumed++;
        }
    assert_true(f.job.shard_optimizer ? resumed > 0 && resumed < 20 : resumed == 0);
}

/* A spare that took the place of one may be lost in turn. */
static void spares_may_be_lost(void **state)
{
    (void)state;
    int events = endure("1:3:reduce,3:2:handover,4:6:reduce,0:8:backward", 3, 4);
    assert_true(events < 0 || events >= 3);
    /* Spares come lowest first, of those that have started by then: mostly all. */
    events = 0;
    for (int tries = 0; tries < 5 && events != 4; tries++) {
        events = endure("0:3:update,2:4:update,3:5:update,4:6:update", 2, 4);
        assert_in_range(events, 1, 4);
    }
    assert_int_equal(events, 4);
    assert_true(f.lead_taken >= 1);
}

static void too_few_stop_with_a_checkpoint(void **state)
{
    (void)state;
    f.job.min_workers = 3;
    assert_fails(TD_ERR_PEER,
                 "2 workers are left, fewer than --min-workers 3: stopped after step 7",
                 run("0:7:update", 3, 0));
    assert_int_equal(f.lead_taken, 1);
    f.job.resume = true;
    assert_ok(run("", 4, 0));
    check_run("resumed", 3, 0);
    f.job.resume = false;
    f.job.min_workers = 1;
    assert_fails(TD_ERR_PEER, "all ranks that were active have died", run("0:7:update", 1, 0));
}

/* Whichever rank it is that has other data than rank 0, all say so and nothing has changed. */
static void all_ranks_need_the_data_that_the_run_began_with(void **state)
{
    (void)state;
    for (f.astray = 1; f.astray < 3; f.astray++)
        assert_fails(TD_ERR_DATA, "reads other training data in memory than rank 0", run("", 3, 0));
    f.astray = -1; /* it leaves, and the others go on */
    assert_ok(run("1:4:update", 3, 1));
    check_run("a spare astray", 3, 1);
    f.astray = 0;
    assert_ok(run("", 2, 0));
    f.job.resume = true;
    for (f.astray = 1; f.astray < 3; f.astray++)
        assert_fails(TD_ERR_DATA, "reads other training data in memory than rank 0", run("", 3, 0));
    f.astray = 0;
    assert_ok(run("", 3, 0));
    check_run("resumed", 3, 0);
    f.job.resume = false;
}

/* One that is too slow for the deadline has not died: the run goes on, unless it stays so. */
static void a_false_alarm_costs_nothing(void **state)
{
    (void)state;
    f.deadline_ms = 250;
    f.job.on_hang = TD_HANG_WAIT;
    setenv("TANDEM_FAKE_SLOW", "1:100", 1); /* hardly a wait is that long */
    assert_ok(run("", 2, 0));
    check_run("slow", 2, 0);
    setenv("TANDEM_FAKE_SLOW", "1:400", 1); /* each is */
    td_status status = run("", 2, 0);
    assert_true(status == TD_ERR_TIMEOUT || status == TD_ERR_PEER);
    unsetenv("TANDEM_FAKE_SLOW");
    f.deadline_ms = 20000;
    f.job.on_hang = TD_HANG_ABORT;
}

/* Evaluations alone: intervals end where a run is stopped. */
static void keep_evaluations(char text[TEXT])
{
    size_t at = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        size_t length = (size_t)(end - line) + 1;
        *end = 0;
        bool keep = strstr(line, "\"eval\"") != NULL;
        *end = '\n';
        if (keep) memmove(text + at, line, length), at += length;
    }
    text[at] = 0;
}

/* Also at the end of epochs, where an evaluation is then due, which may choose the model. */
static void a_run_may_be_stopped_after_every_step(void **state)
{
    (void)state;
    static char text[TEXT], evaluations[TEXT];
    int stops = 0;
    f.stop = 1;
    for (td_status status; (status = run("", 1 + stops % 3, 0)) != TD_OK; stops++) {
        assert_int_equal(status, TD_ERR_INTERRUPTED);
        f.job.resume = true;
    }
    f.stop = 0, f.job.resume = false;
    assert_int_equal(stops, STEPS_PER_EPOCH * EPOCHS - 1);
    read_text("model/model.safetensors", text);
    assert_memory_equal(text, wanted_model, TEXT);
    read_text("model/manifest.json", text);
    assert_memory_equal(text, wanted_manifest, TEXT);
    read_metrics(text);
    keep_evaluations(text);
    memcpy(evaluations, wanted_metrics, TEXT);
    keep_evaluations(evaluations);
    assert_string_equal(text, evaluations);
}

/* --- another number of ranks --- */

typedef struct asker {
    const int *wishes; /* one after the other, 0 at the end */
    int answered, granted;
    int ended; /* the run has; atomic */
} asker;

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void *ask(void *arg)
{
    asker *a = arg;
    char sentence[TD_RESIZE_TEXT];
    for (const int *wish = a->wishes; *wish; wish++) {
        td_resize asked;
        bool there = false, done = false;
        char path[TD_PATH_MAX];
        if (td_path_join(path, f.folder, "metrics.jsonl") != TD_OK) return NULL;
        while (!td_path_exists(path) && !__atomic_load_n(&a->ended, __ATOMIC_SEQ_CST)) nap();
        asked = (td_resize){.ranks = *wish, .servers = -1, .data_servers = -1};
        if (td_resize_ask(f.folder, &asked) != TD_OK) return NULL;
        while (!there && !__atomic_load_n(&a->ended, __ATOMIC_SEQ_CST)) {
            if (td_resize_answered(f.folder, &asked, &there, &done, sentence) != TD_OK) return NULL;
            nap();
        }
        a->answered += there;
        a->granted += there && done;
    }
    return NULL;
}

static int resize(const int *wishes, const char *deaths, int workers, int spares, asker *a)
{
    pthread_t thread;
    *a = (asker){.wishes = wishes};
    assert_ok(td_remove_tree(f.folder));
    setenv("TANDEM_FAKE_SLOW", "0:15", 1); /* milliseconds; a run looks ten times a second */
    assert_int_equal(pthread_create(&thread, NULL, ask, a), 0);
    td_status status = run(deaths, workers, spares);
    __atomic_store_n(&a->ended, 1, __ATOMIC_SEQ_CST);
    pthread_join(thread, NULL);
    unsetenv("TANDEM_FAKE_SLOW");
    assert_ok(status);
    td_resize_take_back(f.folder);
    return check_run("resized", workers, spares);
}

static void the_number_of_ranks_may_change(void **state)
{
    (void)state;
    asker a;
    static const int up_and_down[] = {5, 2, 4, 0}, refused[] = {6, 9, 3, 0}, same[] = {3, 0};
    int events = resize(up_and_down, "", 3, 2, &a);
    assert_true(a.granted >= 2);
    assert_true(events >= a.granted);
    resize(refused, "", 3, 2, &a);
    assert_true(a.answered >= 2 && a.granted <= 1);
    assert_int_equal(resize(same, "", 3, 0, &a), 0);
    assert_int_equal(a.granted, 1);
}

/* Who went back to the spares takes the place of one who is lost. */
static void ranks_may_be_lost_in_between(void **state)
{
    (void)state;
    asker a;
    static const int down[] = {2, 0}, up[] = {4, 0};
    assert_true(resize(down, "1:12:reduce", 4, 0, &a) >= 1);
    assert_true(resize(down, "0:12:update", 4, 0, &a) >= 1);
    assert_true(resize(up, "3:12:reduce,1:13:update", 2, 2, &a) >= 1);
}

/* What follows is done once more with the optimizer in shards. */
static int shard(void **state)
{
    (void)state;
    f.job.shard_optimizer = true;
    return 0;
}

static int shard_no_more(void **state)
{
    (void)state;
    f.job.shard_optimizer = false;
    return 0;
}

#define SHARDED(test) cmocka_unit_test_setup_teardown(test, shard, shard_no_more)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_with_nothing_is_the_same_on_any_number),
        cmocka_unit_test(a_rank_may_be_lost_anywhere),
        cmocka_unit_test(who_is_last_may_lose_the_others),
        cmocka_unit_test(who_lacks_memory_leaves),
        cmocka_unit_test(any_memory_may_be_refused),
        cmocka_unit_test(several_may_be_lost),
        cmocka_unit_test(spares_may_be_lost),
        cmocka_unit_test(too_few_stop_with_a_checkpoint),
        cmocka_unit_test(all_ranks_need_the_data_that_the_run_began_with),
        cmocka_unit_test(a_false_alarm_costs_nothing),
        cmocka_unit_test(a_run_may_be_stopped_after_every_step),
        cmocka_unit_test(the_number_of_ranks_may_change),
        cmocka_unit_test(ranks_may_be_lost_in_between),
        SHARDED(a_run_with_nothing_is_the_same_on_any_number),
        SHARDED(a_rank_may_be_lost_anywhere),
        SHARDED(who_is_last_may_lose_the_others),
        SHARDED(who_lacks_memory_leaves),
        SHARDED(several_may_be_lost),
        SHARDED(spares_may_be_lost),
        SHARDED(the_number_of_ranks_may_change),
        SHARDED(ranks_may_be_lost_in_between),
    };
    return cmocka_run_group_tests(tests, open_fixture, close_fixture);
}
