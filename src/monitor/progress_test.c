/* metrics.jsonl: on a full disk (a limit on the file's size), and when a run goes back. */
#include "monitor/progress.h"

#include "base/fs.h"
#include "base/test.h"

#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

static char path[64];

static td_status interval(td_progress *p, uint64_t step)
{
    return td_progress_interval(p, &(td_interval){.step = step, .steps = 9, .workers = 1});
}

static td_status evaluation(td_progress *p, uint64_t step)
{
    td_evaluation e = {1, step, "held-out", 1, 1, .auc = NAN, .classes = true};
    return td_progress_evaluation(p, &e);
}

static td_progress *begin(void)
{
    td_progress *p;
    unlink(path);
    assert_ok(td_progress_create(path, true, false, false, &p));
    return p;
}

/* The steps of the file's lines: "1 2 e2 !2" with evaluations and events. */
static void assert_lines(const char *wanted)
{
    char *text, got[256] = "";
    size_t size, at = 0;
    assert_ok(td_read_file(path, &text, &size));
    for (char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        *end = 0;
        assert_int_equal(end[-1], '}');
        const char *kind = strstr(line, "\"event\"") ? "!" : strstr(line, "\"eval\"") ? "e" : "";
        at += (size_t)snprintf(got + at, sizeof got - at, "%s%s%d", at ? " " : "", kind,
                               atoi(line + strlen("{\"step\":")));
    }
    td_free(text);
    assert_string_equal(got, wanted);
}

/* JSON has neither NaN nor an accuracy of what has no classes. */
static void what_is_no_number_is_null(void **state)
{
    (void)state;
    char *text;
    size_t size;
    td_progress *p = begin();
    td_interval i = {.step = 1, .steps = 9, .workers = 1, .classes = true};
    td_evaluation e = {.epoch = 1, .step = 1, .on = "test", .loss = 2, .auc = NAN};
    i.loss = i.accuracy = NAN; /* no sample had a weight */
    assert_ok(td_progress_interval(p, &i));
    assert_ok(td_progress_evaluation(p, &e));
    td_progress_destroy(p);
    assert_ok(td_read_file(path, &text, &size));
    assert_non_null(strstr(text, "\"loss\":null,\"accuracy\":null,\"lr\""));
    assert_non_null(strstr(text, "\"loss\":2,\"accuracy\":null}"));
    assert_null(strstr(text, "nan"));
    td_free(text);
}

static void limit_file(off_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes < 0 ? limit.rlim_max : (rlim_t)bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static off_t size_of_file(void)
{
    char *text;
    size_t size;
    assert_ok(td_read_file(path, &text, &size));
    td_free(text);
    return (off_t)size;
}

static void lines_are_held_while_the_disk_is_full(void **state)
{
    (void)state;
    for (int room = 0; room < 200; room += 50) { /* for a part of a line */
        td_progress *p = begin();
        assert_ok(interval(p, 1));
        limit_file(size_of_file() + room);
        assert_fails(TD_ERR_IO, "cannot write metrics.jsonl", interval(p, 2));
        assert_ok(interval(p, 3)); /* said once */
        assert_lines("1");
        limit_file(-1);
        assert_ok(interval(p, 4));
        assert_lines("1 2 3 4");
        td_progress_destroy(p);
    }
}

static void a_run_goes_back(void **state)
{
    (void)state;
    td_progress *p = begin();
    for (uint64_t step = 1; step <= 5; step++) {
        assert_ok(interval(p, step));
        if (step % 2 == 0) assert_ok(evaluation(p, step));
        if (step == 3) assert_ok(td_progress_event(p, step, "slow", "\"rank\":1"));
    }
    assert_lines("1 2 e2 3 !3 4 e4 5");
    assert_ok(td_progress_go_back(p, path, 4, true));
    assert_lines("1 2 e2 3 !3 4");
    assert_ok(td_progress_go_back(p, path, 2, false)); /* an event stays behind what goes */
    assert_lines("1 2 e2 !3");
    assert_ok(interval(p, 3));
    td_progress_destroy(p);
    assert_lines("1 2 e2 !3 3");
    assert_ok(td_write_file(path, "{\"step\":1,\"x\":0}\n{\"step\":2,\"x", 28));
    assert_ok(td_progress_rewind(path, 9, false));
    assert_lines("1");
}

/* What is held goes back as well, and the file can be shortened all the same. */
static void a_run_goes_back_while_the_disk_is_full(void **state)
{
    (void)state;
    td_progress *p = begin();
    for (uint64_t step = 1; step <= 3; step++) assert_ok(interval(p, step));
    limit_file(size_of_file());
    assert_fails(TD_ERR_IO, "cannot write", interval(p, 4));
    assert_ok(td_progress_event(p, 4, "recovered", "\"died\":[1]"));
    assert_ok(interval(p, 5));
    assert_ok(td_progress_go_back(p, path, 4, false));
    assert_lines("1 2 3");
    assert_ok(interval(p, 5));
    limit_file(-1);
    assert_ok(interval(p, 6));
    assert_lines("1 2 3 4 !4 5 6");
    limit_file(size_of_file());
    assert_fails(TD_ERR_IO, "cannot write", interval(p, 7));
    assert_ok(td_progress_go_back(p, path, 5, false));
    assert_lines("1 2 3 4 !4 5");
    limit_file(-1);
    td_progress_destroy(p);
    assert_lines("1 2 3 4 !4 5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_no_number_is_null),
        cmocka_unit_test(lines_are_held_while_the_disk_is_full),
        cmocka_unit_test(a_run_goes_back),
        cmocka_unit_test(a_run_goes_back_while_the_disk_is_full),
    };
    signal(SIGXFSZ, SIG_IGN);
    snprintf(path, sizeof path, "/tmp/td-progress-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
