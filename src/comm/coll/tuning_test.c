/* Tuning files. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/test.h"
#include "comm/recorder.h"
#include "tandem/recover.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
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
    td_tuning *back;
    if (td_comm_rank(c) == 0) TD_TRY(td_tuning_write(c, &tuning, path));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_tuning_read(c, path, &back));
    CHECK(back->count == 4);
    for (int k = 0; k < 4; k++)
        CHECK(back->row[k].pattern == tuning.row[k].pattern &&
              back->row[k].whole == tuning.row[k].whole &&
              back->row[k].from_bytes == tuning.row[k].from_bytes &&
              back->row[k].algorithm == tuning.row[k].algorithm);
    td_tuning_free(back);
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
    td_tuning *back;
    CHECK(td_tuning_read(c, path, &back) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "ranks 3") && strstr(td_last_error(), "ranks 2"));
    CHECK(td_comm_tune(c, path) == TD_ERR_ARG);
    return TD_OK;
}

/* What is measured for another group, or of another pattern, is added to a file. */
static td_status add(td_comm *c, void *arg)
{
    (void)arg;
    td_tuning of_reduce = {.count = 1, .row = {{TD_REDUCE, false, 0, 1}}},
              of_scan = {.count = 1, .row = {{TD_SCAN, false, 16, 0}}};
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_tuning_can_add(path));
    TD_TRY(td_tuning_write(c, &of_reduce, path));
    return td_tuning_write(c, &of_scan, path);
}

/* Rows of a group of `ranks` that rank 0 finds in the file. */
static td_status count_rows(td_comm *c, int *rows)
{
    td_tuning *back;
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_tuning_read(c, path, &back));
    *rows = back->count;
    td_tuning_free(back);
    return TD_OK;
}

/* Groups of another shape go by their own part, whichever group read the file. */
static td_status both_shapes(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *two, *all;
    int rows = 0, me = td_comm_rank(c);
    TD_TRY(count_rows(c, &rows));
    CHECK(rows == (me ? 0 : 4));
    TD_TRY(td_comm_tune(c, path));
    TD_TRY(td_comm_split(c, me == 0, 0, &two)); /* rank 0 is alone */
    TD_TRY(td_comm_split(two, 0, 0, &all));
    CHECK(all->tuning->count == (me ? 2 : 0) && c->tuning->count == 4);
    if (me) CHECK(all->tuning->row[0].pattern == TD_REDUCE && all->tuning->row[1].from_bytes == 16);
    td_comm_close(all), td_comm_close(two);
    return TD_OK;
}

/* Another group's part that names what there is not does not matter to who is not that group. */
static td_status spoil_other(td_comm *c, void *arg)
{
    (void)arg;
    char *text, made[4096];
    size_t size;
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_read_file(path, &text, &size));
    char *part = strstr(text, " ranks 2 "), *row = part ? strstr(part, "\nreduce ") : NULL;
    CHECK(row);
    int n = snprintf(made, sizeof made, "%.*s\nreduce 0 renamed%.*s\n", (int)(row - text), text,
                     (int)(strstr(row, "\nend ") - strchr(row + 1, '\n')), strchr(row + 1, '\n'));
    n += snprintf(made + n, sizeof made - (size_t)n, "end %016llx\n",
                  (unsigned long long)XXH64(made, (size_t)n, 0));
    td_free(text);
    return td_write_file(path, made, (size_t)n);
}

static td_status splits_and_shrinks(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *two, *next;
    TD_TRY(td_comm_tune(c, path));
    TD_TRY(td_comm_split(c, td_comm_rank(c) == 0, 0, &two));
    CHECK(two->tuning && two->tuning->count == 0);
    td_comm_close(two);
    TD_TRY(td_comm_resize(c, 2, &next));
    if (!next) return TD_OK;
    CHECK(next->tuning->count == 0);
    td_status status = td_comm_barrier(next);
    td_comm_close(next);
    return status;
}

/* 2 -> 3 -> 2 -> 3 ranks: who comes has what the others go by. */
static td_status goes_on(td_comm *first, void *arg)
{
    td_comm *c = first, *next = NULL;
    bool came = td_comm_joined(c, td_comm_rank(c));
    int32_t turn = came ? -1 : 0, all;
    td_status status = came ? TD_OK : td_comm_tune(c, path);
    (void)arg;
    for (bool owned = false; c && status == TD_OK; owned = true, c = next, next = NULL, turn++) {
        status = td_comm_allreduce(c, &turn, &all, 1, TD_I32, TD_MAX);
        turn = all;
        if (status == TD_OK && (!c->tuning || c->tuning->count != (turn % 2 ? 4 : 2)))
            status = td_fail(TD_ERR_INTERNAL, "turn %d of %d ranks", turn, td_comm_size(c));
        if (status == TD_OK && turn < 3) status = td_comm_resize(c, turn % 2 ? 2 : 3, &next);
        if (owned) td_comm_close(c);
    }
    return status;
}

/* A file that is something else is left as it is. */
static td_status add_to_others(td_comm *c, void *arg)
{
    (void)arg;
    td_tuning none = {0};
    char *text;
    size_t size;
    static const char *const texts[] = {"tandem tuning 1\nhost x\nend 0\n", "other\n",
                                        "tandem tuning 2\nmachine y cores 2 kernels z\ngroup a\n"};
    for (size_t k = 0; k < 3; k++) {
        TD_TRY(td_write_file(path, texts[k], strlen(texts[k])));
        CHECK(td_tuning_can_add(path) == TD_ERR_CORRUPT);
        CHECK(td_tuning_write(c, &none, path) == TD_ERR_CORRUPT);
        TD_TRY(td_read_file(path, &text, &size));
        CHECK(size == strlen(texts[k]) && !memcmp(text, texts[k], size));
        td_free(text);
    }
    unlink(path);
    CHECK(mkfifo(path, 0600) == 0);
    CHECK(td_tuning_can_add(path) == TD_ERR_ARG && td_tuning_write(c, &none, path) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "is no file that a tuning could be written to"));
    unlink(path);
    TD_TRY(td_write_file(path, "", 0));
    TD_TRY(td_tuning_can_add(path));
    char made[256];
    int n = snprintf(made, sizeof made, "tandem tuning 2\nmachine y cores 2 kernels z\n");
    snprintf(made + n, sizeof made - (size_t)n, "end %016llx\n",
             (unsigned long long)XXH64(made, (size_t)n, 0));
    TD_TRY(td_write_file(path, made, strlen(made)));
    CHECK(td_tuning_can_add(path) == TD_ERR_ARG && strstr(td_last_error(), "machine y cores 2"));
    CHECK(td_comm_tune(c, path) == TD_ERR_ARG && !c->tuning);
    CHECK(strstr(td_last_error(), "was measured on \"machine y cores 2 kernels z\"; this is \""));
    unlink(path);
    return TD_OK;
}

/* Each byte changed, and each length, is noticed. */
static td_status damaged(td_comm *c, void *arg)
{
    (void)arg;
    char *text;
    size_t size;
    td_tuning *back;
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
    td_tuning *back;
    if (td_comm_rank(c)) return TD_OK;
    TD_TRY(td_read_file(path, &text, &size));
    int rows = 0;
    for (size_t i = 1; i < size && strncmp(text + i, "end ", 4) != 0; i++) {
        if (text[i - 1] != '\n') continue;
        int length = snprintf(made, sizeof made, "%.*send %016llx\n", (int)i, text,
                              (unsigned long long)XXH64(text, i, 0));
        TD_TRY(td_write_file(path, made, (size_t)length));
        td_status status = td_tuning_read(c, path, &back);
        /* no machine; no group; rows may be fewer */
        CHECK(status == (strncmp(text + i, "all-reduce", 10) && rows == 0 ? TD_ERR_ARG : TD_OK));
        if (status != TD_OK) continue;
        CHECK(back->count == rows);
        rows++;
        td_tuning_free(back);
    }
    CHECK(rows == 4);
    td_free(text);
    return TD_OK;
}

static void tuning_files(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "/tmp/tandem-tuning-%ld", (long)getpid());
    assert_ok(td_comm_run_local(3, NULL, round_trip, NULL));
    assert_ok(td_comm_run_local(2, NULL, other_group, NULL));
    assert_ok(td_comm_run_local(2, NULL, add, NULL));
    assert_ok(td_comm_run_local(3, NULL, both_shapes, NULL));
    assert_ok(td_comm_run_local(3, &(td_comm_config){.spares = 1}, goes_on, NULL));
    assert_ok(td_comm_run_local(1, NULL, spoil_other, NULL));
    assert_ok(td_comm_run_local(3, NULL, splits_and_shrinks, NULL));
    assert_ok(td_comm_run_local(1, NULL, add_to_others, NULL));
    assert_ok(td_comm_run_local(3, NULL, round_trip, NULL));
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
