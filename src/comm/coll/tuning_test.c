/* Tuning files. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/test.h"
#include "comm/recorder.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static char path[64];

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return td_fail(TD_ERR_INTERNAL, "line %d: %s (%s)", __LINE__, #condition,              \
                           td_last_error());                                                       \
    } while (0)

static td_status serving(td_comm *c, td_type type, size_t count, const char *want)
{
    float x[2000] = {0}, y[2000];
    td_call call;
    TD_TRY(td_call_make(c,
                        &(td_collective){.pattern = TD_ALLREDUCE,
                                         .in = x,
                                         .out = y,
                                         .count = count,
                                         .type = type},
                        &call));
    CHECK(!strcmp(td_coll_serving(c, &call), want));
    return TD_OK;
}

/* What is measured decides, in groups of the same shape that are made of it too. */
static td_status serves(td_comm *c)
{
    td_comm *same, *less;
    const char *names[16];
    int me = td_comm_rank(c), n = td_coll_algorithms(c, TD_ALLREDUCE, true, names, 16);
    CHECK(n > 3 && !strcmp(names[0], "pairwise") && !strcmp(names[1], "binomial"));
    TD_TRY(td_comm_split(c, 0, -me, &same));
    TD_TRY(td_comm_split(c, me == 0, 0, &less));
    for (td_comm *g = c; g; g = g == c ? same : NULL) {
        TD_TRY(serving(g, TD_F32, 8, "binomial"));
        TD_TRY(serving(g, TD_F32, 1024, "pairwise"));
        TD_TRY(serving(g, TD_I32, 8, "binomial"));
        TD_TRY(serving(g, TD_I32, 16, names[3]));
    }
    if (td_comm_size(less) > 1) TD_TRY(serving(less, TD_F32, 8, "shared"));
    td_comm_close(same), td_comm_close(less);
    return TD_OK;
}

/* Of the newest operation that the group's works have run. */
static const char *work_went_by(const td_comm *c)
{
    const td_recorder_group *g = NULL;
    for (int k = 0; k < TD_RECORDER_GROUPS; k++)
        if (c->recorder->group[k].number && c->recorder->group[k].kind == TD_GROUP_WORKS)
            g = &c->recorder->group[k];
    return g ? td_coll_name(g->collective[g->collectives % TD_RECORDS].algorithm - 1) : "none";
}

/* Works go by what served their group when they were made. */
static td_status serves_works(td_comm *c)
{
    td_comm *g;
    float x[1024] = {0}, y[1024];
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = x, .out = y, .count = 1024};
    td_work *before, *after;
    TD_TRY(td_comm_split(c, 0, 0, &g));
    td_tuning_free(g->tuning);
    g->tuning = NULL;
    TD_TRY(td_comm_record(g, NULL));
    TD_TRY(td_work_create(g, &sum, &before));
    TD_TRY(td_comm_tune(g, path));
    TD_TRY(td_work_create(g, &sum, &after));
    for (int round = 0; round < 2; round++) {
        TD_TRY(td_work_start(before));
        TD_TRY(td_work_wait(before));
        CHECK(!strcmp(work_went_by(g), "shared"));
        TD_TRY(td_work_start(after));
        TD_TRY(td_work_wait(after));
        CHECK(!strcmp(work_went_by(g), "pairwise"));
        if (round == 0) TD_TRY(td_comm_tune(g, path));
    }
    td_work_destroy(before), td_work_destroy(after);
    td_comm_close(g);
    return TD_OK;
}

static td_status round_trip(td_comm *c, void *arg)
{
    (void)arg;
    td_tuning tuning = {.count = 4,
                        .row = {{TD_ALLREDUCE, false, 0, 1},
                                {TD_ALLREDUCE, false, 4096, 0},
                                {TD_ALLREDUCE, true, 64, 3},
                                {TD_SCAN, false, 7, 1}}};
    td_tuning back = {0};
    if (td_comm_rank(c) == 0) TD_TRY(td_tuning_write(c, &tuning, path));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_tuning_read(c, path, &back));
    CHECK(back.count == 4);
    for (int k = 0; k < 4; k++)
        CHECK(back.row[k].pattern == tuning.row[k].pattern &&
              back.row[k].whole == tuning.row[k].whole &&
              back.row[k].from_bytes == tuning.row[k].from_bytes &&
              back.row[k].algorithm == tuning.row[k].algorithm);
    TD_TRY(td_comm_tune(c, path));
    float x[2000] = {1}, y[2000];
    TD_TRY(td_comm_allreduce(c, x, y, 2000, TD_F32, TD_SUM));
    CHECK(y[0] == (float)td_comm_size(c));
    TD_TRY(serves(c));
    TD_TRY(serves_works(c));
    uint16_t half = 0x3c00, sum; /* an algorithm that sends partial sums gives way */
    TD_TRY(td_comm_allreduce(c, &half, &sum, 1, TD_F16, TD_SUM));
    CHECK(sum == (td_comm_size(c) == 3 ? 0x4200 : 0x4000));
    return TD_OK;
}

static td_status other_group(td_comm *c, void *arg)
{
    (void)arg;
    td_tuning back;
    CHECK(td_tuning_read(c, path, &back) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "ranks 3") && strstr(td_last_error(), "ranks 2"));
    CHECK(td_comm_tune(c, path) == TD_ERR_ARG);
    return TD_OK;
}

/* Each byte changed, and each length, is noticed. */
static td_status damaged(td_comm *c, void *arg)
{
    (void)arg;
    char *text;
    size_t size;
    td_tuning back;
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_read_file(path, &text, &size));
    for (size_t i = 0; i < size - 1; i++) { /* the last line end is not needed */
        text[i] ^= 4;
        TD_TRY(td_write_file(path, text, size));
        text[i] ^= 4;
        CHECK(td_tuning_read(c, path, &back) != TD_OK);
        TD_TRY(td_write_file(path, text, i));
        CHECK(td_tuning_read(c, path, &back) != TD_OK);
    }
    td_free(text);
    CHECK(td_tuning_read(c, "/nowhere/tuning", &back) == TD_ERR_IO);
    return TD_OK;
}

/* Lines that are missing, where the hash is of those that are there. */
static td_status made_by_hand(td_comm *c, void *arg)
{
    (void)arg;
    char *text, made[4096];
    size_t size;
    td_tuning back;
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_read_file(path, &text, &size));
    int whole = 0;
    for (size_t i = 1; i < size && strncmp(text + i, "end ", 4) != 0; i++) {
        if (text[i - 1] != '\n') continue;
        int length = snprintf(made, sizeof made, "%.*send %016llx\n", (int)i, text,
                              (unsigned long long)XXH64(text, i, 0));
        TD_TRY(td_write_file(path, made, (size_t)length));
        td_status status = td_tuning_read(c, path, &back);
        CHECK(status == (i == 16 ? TD_ERR_CORRUPT : TD_OK));
        whole += status == TD_OK;
    }
    CHECK(whole == 4); /* rows may be fewer */
    td_free(text);
    return TD_OK;
}

static void tuning_files(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/tandem-tuning-%ld", (long)getpid());
    assert_ok(td_comm_run_local(3, NULL, round_trip, NULL));
    assert_ok(td_comm_run_local(2, NULL, other_group, NULL));
    assert_ok(td_comm_run_local(3, NULL, made_by_hand, NULL));
    assert_ok(td_comm_run_local(3, NULL, round_trip, NULL));
    assert_ok(td_comm_run_local(3, NULL, damaged, NULL));
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tuning_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
