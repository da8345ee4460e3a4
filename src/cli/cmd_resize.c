/* tandem resize: asks a run that is under way to go on with another number of workers. */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/error.h"
#include "cli/run_lock.h"
#include "train/resize.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { WAIT_S = 10, LOOK_NS = 20000000 };

static td_status read_words(int argc, char **argv, const char **run, int *workers)
{
    char *end;
    if (argc != 2 || argv[0][0] == '-')
        return td_fail(TD_ERR_ARG, "say which run and how many workers: tandem resize RUN N");
    long n = strtol(argv[1], &end, 10);
    if (*end || end == argv[1] || n < 1 || n > 1024)
        return td_fail(TD_ERR_ARG, "\"%s\" is no number of workers; write 1 to 1024", argv[1]);
    *run = argv[0], *workers = (int)n;
    return TD_OK;
}

td_status td_cmd_resize(int argc, char **argv)
{
    const char *run = NULL;
    char path[TD_PATH_MAX], sentence[TD_RESIZE_TEXT];
    td_resize asked;
    td_run_lock lock = {0};
    int workers = 0;
    bool there = false, done = false;
    TD_TRY(read_words(argc, argv, &run, &workers));
    TD_TRY(td_path_join(path, run, "job.yaml"));
    if (!td_path_exists(path)) return td_fail(TD_ERR_ARG, "%s holds no run (no job.yaml)", run);
    if (td_run_lock_take(run, &lock) == TD_OK) { /* nobody is at work there */
        td_run_lock_release(&lock);
        return td_fail(TD_ERR_ARG,
                       "no job is at work in %s; \"tandem train --run %s --resume\" goes on with "
                       "it, "
                       "with any number of workers",
                       run, run);
    }
    TD_TRY(td_resize_ask(run, workers, &asked));
    int64_t end = td_clock_ns() + (int64_t)WAIT_S * 1000000000;
    while (!there && td_clock_ns() < end) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        TD_TRY(td_resize_answered(run, &asked, &there, &done, sentence));
    }
    if (!there) {
        td_resize_take_back(run);
        return td_fail(TD_ERR_TIMEOUT,
                       "the job in %s has not answered within %d s: it is at its end, hangs "
                       "(\"tandem "
                       "diagnose %s\"), or its steps take longer; ask again",
                       run, WAIT_S, run);
    }
    if (!done) return td_fail(TD_ERR_ARG, "%s", sentence);
    puts(sentence);
    return TD_OK;
}
