/* tandem resize: asks a run that is under way to go on with other numbers of ranks.
 *
 * N ranks in all; with --servers S so many of them only serve, with --data-servers D so many read.
 * What is not named stays, and the rest work: without N workers stay, and N follows.
 *
 * A run answers at the end of a step, which may take as long as it likes, with an evaluation before
 * it: so the answer is waited for as long as a job lives. A job may seem dead for a while, where
 * rank 0 has died and another takes the lead; and its answer lies there a moment after the request
 * has gone. */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/error.h"
#include "cli/run_lock.h"
#include "train/resize.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_RANKS = 1024 };
#define LOOK_NS 20000000       /* for the answer */
#define PROBE_NS 500000000     /* whether there is somebody to answer */
#define PATIENCE_NS 3000000000 /* then it says what it waits for */
#define GONE_NS 10000000000    /* so long nobody was there to answer */

static volatile sig_atomic_t stop_signal; /* written by the handler alone */

static void on_signal(int number)
{
    stop_signal = number;
}

typedef struct asker {
    const char *run;
    td_resize asked;
    int64_t began, probed;
    int64_t held, pending; /* when a job, and the request, were seen last */
    bool told;
} asker;

static td_status read_number(const char *word, const char *of, int least, int *out)
{
    char *end;
    long n = word ? strtol(word, &end, 10) : -1;
    if (!word || *end || end == word || n < least || n > MOST_RANKS)
        return td_fail(TD_ERR_ARG, "\"%s\" is no number of %s; write %d to %d", word ? word : "",
                       of, least, MOST_RANKS);
    *out = (int)n;
    return TD_OK;
}

/* "--servers S" or "--servers=S" at argv[*at], which moves on to the number. */
static bool takes(const char *flag, char **argv, int argc, int *at, const char **number)
{
    size_t n = strlen(flag);
    if (strncmp(argv[*at], flag, n) != 0 || (argv[*at][n] && argv[*at][n] != '=')) return false;
    *number = argv[*at][n] ? argv[*at] + n + 1 : NULL;
    if (!*number && *at + 1 < argc) *number = argv[++*at];
    return true;
}

static td_status read_words(int argc, char **argv, const char **run, td_resize *out)
{
    td_resize r = {.servers = -1, .data_servers = -1};
    const char *number;
    *run = NULL;
    for (int i = 0; i < argc; i++) {
        if (takes("--servers", argv, argc, &i, &number))
            TD_TRY(read_number(number, "servers", 0, &r.servers));
        else if (takes("--data-servers", argv, argc, &i, &number))
            TD_TRY(read_number(number, "data servers", 0, &r.data_servers));
        else if (argv[i][0] == '-' && argv[i][1] == '-')
            return td_fail(TD_ERR_ARG,
                           "resize: %s is no option; there are --servers and "
                           "--data-servers",
                           argv[i]);
        else if (!*run)
            *run = argv[i];
        else if (!r.ranks)
            TD_TRY(read_number(argv[i], "ranks", 1, &r.ranks));
        else
            return td_fail(TD_ERR_ARG, "resize: \"%s\" is one word too many", argv[i]);
    }
    if (!*run || (!r.ranks && r.servers < 0 && r.data_servers < 0))
        return td_fail(TD_ERR_ARG, "say which run and how many ranks: tandem resize RUN N, or "
                                   "how many servers: --servers S, --data-servers D");
    *out = r;
    return TD_OK;
}

static td_status check_run(const char *run)
{
    char path[TD_PATH_MAX];
    TD_TRY(td_path_join(path, run, "job.yaml"));
    if (!td_path_exists(path)) return td_fail(TD_ERR_ARG, "%s holds no run (no job.yaml)", run);
    if (td_run_lock_is_held(run)) return TD_OK;
    return td_fail(TD_ERR_ARG,
                   "no job is at work in %s; \"tandem train --run %s --resume\" goes on with it, "
                   "with any number of workers",
                   run, run);
}

/* Whether the request still lies there, and is no other's. */
static bool is_pending(const asker *w)
{
    td_resize there;
    bool mine = td_resize_is_asked(w->run) && td_resize_read(w->run, &there) == TD_OK &&
                !strcmp(there.token, w->asked.token);
    td_error_clear();
    return mine;
}

static void take_back(const asker *w)
{
    if (is_pending(w)) td_resize_take_back(w->run);
}

static void stop_by_signal(const asker *w)
{
    int number = stop_signal;
    take_back(w);
    fprintf(stderr, "tandem: the request to the job in %s is taken back\n", w->run);
    exit(128 + number);
}

/* Whether there is still an answer to wait for. */
static td_status probe(asker *w)
{
    int64_t now = td_clock_ns();
    if (now - w->probed < PROBE_NS) return TD_OK;
    w->probed = now;
    if (td_run_lock_is_held(w->run)) w->held = now;
    if (is_pending(w)) w->pending = now;
    if (now - w->held > GONE_NS) {
        take_back(w);
        return td_fail(TD_ERR_PEER,
                       "the job in %s has ended before it could answer; \"tandem train --run %s "
                       "--resume\" goes on with it, with any number of workers",
                       w->run, w->run);
    }
    if (now - w->pending > GONE_NS)
        return td_fail(TD_ERR_PEER,
                       "the job in %s has begun anew, or was asked for something else since; ask "
                       "again",
                       w->run);
    if (w->told || now - w->began < PATIENCE_NS) return TD_OK;
    fprintf(stderr,
            "tandem: the job in %s answers between two steps, or where its workers meet if they go "
            "at their own pace (at an epoch's end): waiting for it (Ctrl-C takes the "
            "request back; \"tandem diagnose %s\" says what the job is doing)\n",
            w->run, w->run);
    w->told = true;
    return TD_OK;
}

static td_status wait_for_answer(asker *w, bool *done, char sentence[TD_RESIZE_TEXT])
{
    for (bool there = false;;) {
        nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
        TD_TRY(td_resize_answered(w->run, &w->asked, &there, done, sentence));
        if (there) return TD_OK;
        if (stop_signal) stop_by_signal(w);
        TD_TRY(probe(w));
    }
}

td_status td_cmd_resize(int argc, char **argv)
{
    char sentence[TD_RESIZE_TEXT];
    struct sigaction action = {.sa_handler = on_signal};
    int64_t now = td_clock_ns();
    asker w = {.began = now, .held = now, .pending = now};
    bool done = false;
    TD_TRY(read_words(argc, argv, &w.run, &w.asked));
    TD_TRY(check_run(w.run));
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    TD_TRY(td_resize_ask(w.run, &w.asked));
    TD_TRY(wait_for_answer(&w, &done, sentence));
    if (!done) return td_fail(TD_ERR_ARG, "%s", sentence);
    puts(sentence);
    return TD_OK;
}
