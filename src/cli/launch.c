/* See launch.h. */
#include "cli/launch.h"

#include "base/clock.h"
#include "base/error.h"
#include "base/process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { ORPHAN_ROUNDS = 300, ROUND_MS = 10 };

static bool outlives_terminal; /* as nohup says, by ignoring HUP; written once */

static void our_signals(sigset_t *set)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGCHLD, SIGHUP};
    sigemptyset(set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaddset(set, numbers[i]);
}

/* A HUP that is to be ignored is taken as well, and then nothing is done: MPI's libraries have been
 * seen to put a handler in its place. */
void td_launch_init(void)
{
    sigset_t set;
    struct sigaction hup;
    outlives_terminal = sigaction(SIGHUP, NULL, &hup) == 0 && hup.sa_handler == SIG_IGN;
    our_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
}

td_status td_line_add(td_line *line, const char *word)
{
    if (line->count == TD_LAUNCH_WORDS)
        return td_fail(TD_ERR_ARG, "the job has more than %d words", TD_LAUNCH_WORDS);
    line->word[line->count++] = word;
    line->word[line->count] = NULL;
    return TD_OK;
}

void td_line_print(const td_line *line)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_./:=,@%+-";
    for (int i = 0; i < line->count; i++) {
        const char *w = line->word[i];
        if (i) putchar(' ');
        if (*w && strspn(w, plain) == strlen(w)) {
            fputs(w, stdout);
            continue;
        }
        putchar('\'');
        for (; *w; w++)
            if (*w == '\'')
                fputs("'\\''", stdout);
            else
                putchar(*w);
        putchar('\'');
    }
    putchar('\n');
    fflush(stdout);
}

/* The new process tells through the pipe why it could not become the program. */
static void become(const td_line *line, pid_t parent, int tell)
{
    sigset_t none;
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* nothing is left behind a watcher that was killed */
    if (getppid() != parent) _exit(127);
    setpgid(0, 0); /* Ctrl-C is for the watcher */
    if (outlives_terminal) signal(SIGHUP, SIG_IGN);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    int nothing = open("/dev/null", O_RDONLY);
    if (nothing >= 0) dup2(nothing, STDIN_FILENO);
    execvp(line->word[0], (char *const *)(const void *)line->word);
    int why = errno;
    if (write(tell, &why, sizeof why) < 0) _exit(126);
    _exit(127);
}

static td_status start(const td_line *line, pid_t *out)
{
    int ends[2], why = 0;
    pid_t parent = getpid();
    if (pipe2(ends, O_CLOEXEC) != 0) return td_fail_errno("cannot start %s", line->word[0]);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) become(line, parent, ends[1]);
    close(ends[1]);
    bool failed = pid < 0 || read(ends[0], &why, sizeof why) > 0;
    close(ends[0]);
    if (pid < 0) return td_fail_errno("cannot start %s", line->word[0]);
    if (failed) {
        waitpid(pid, NULL, 0);
        return td_fail(TD_ERR_ARG, "cannot start \"%s\": %s; name MPI's launcher with --mpiexec",
                       line->word[0], strerror(why));
    }
    *out = pid;
    return TD_OK;
}

static bool stops(int number)
{
    return number == SIGINT || number == SIGTERM || number == SIGUSR2 ||
           (number == SIGHUP && !outlives_terminal);
}

/* Whether it runs this program. */
static bool is_rank(long pid)
{
    char path[64];
    struct stat own, its;
    snprintf(path, sizeof path, "/proc/%ld/exe", pid);
    return stat(path, &its) == 0 && stat("/proc/self/exe", &own) == 0 && its.st_ino == own.st_ino &&
           its.st_dev == own.st_dev;
}

/* Kills this process's children: all, or ranks that are stopped. How many are left of those that it
 * looks at, 0 also where the kernel does not tell. */
static int kill_children(bool all, bool ranks)
{
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    int some = 0;
    if (f) fclose(f);
    text[n] = 0;
    for (char *at = text, *end; (end = strchr(at, ' ')); at = end + 1) {
        long pid = strtol(at, NULL, 10); /* each ends with a blank */
        if (pid <= 0 || (!all && !is_rank(pid))) continue;
        some++;
        if (all || ranks || td_process_is_stopped(pid)) kill((pid_t)pid, SIGKILL);
    }
    return some;
}

/* Ends what the launcher has left, which has become children of this process. A launcher that was
 * killed (`all`) may leave connections to hosts that do not answer, which hold its output open. One
 * that ended by itself may leave ranks: those that are stopped hold the run's folder for ever,
 * others get a while to end what they do. */
static void end_orphans(bool all)
{
    struct timespec pause = {.tv_nsec = ROUND_MS * 1000000};
    for (int round = 0; round < 2 * ORPHAN_ROUNDS; round++) {
        if (!kill_children(all, round >= ORPHAN_ROUNDS)) return;
        nanosleep(&pause, NULL);
        while (waitpid(-1, NULL, WNOHANG) > 0) continue;
    }
}

/* The next signal, or 0 at the time `until` (0: never). */
static int next_signal(const sigset_t *set, int64_t until)
{
    int64_t left = until - td_clock_ns();
    if (!until) return sigwaitinfo(set, NULL);
    if (left <= 0) return 0;
    struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    int number = sigtimedwait(set, NULL, &pause);
    return number < 0 ? 0 : number;
}

td_status td_launch_run(const td_line *line, const td_launch_look *look, int *interrupted,
                        int *out_code)
{
    sigset_t set;
    pid_t pid = 0;
    int code, asked = 0;
    bool stuck = false;
    int64_t period = (int64_t)(look->every * 1e9), until = 0;
    our_signals(&set);
    TD_TRY(start(line, &pid));
    if (period) until = td_clock_ns() + period;
    while (waitpid(pid, &code, WNOHANG) != pid) {
        int number = next_signal(&set, until);
        if (number == SIGUSR1) kill(pid, SIGUSR1);
        if (stops(number)) {
            if (!*interrupted) *interrupted = number;
            kill(pid, asked == 0 ? SIGUSR2 : asked == 1 ? SIGTERM : SIGKILL);
            asked++;
        }
        if (!until || td_clock_ns() < until) continue;
        if (stuck) {
            kill(pid, SIGKILL);
        } else if (look->stuck(look->user)) {
            if (waitpid(pid, &code, WNOHANG) == pid) break; /* meanwhile it has ended by itself */
            stuck = true;
            kill(pid, SIGTERM);
            period = (int64_t)TD_LAUNCH_GRACE_S * 1000000000;
        }
        until = td_clock_ns() + period;
    }
    end_orphans(stuck);
    *out_code = stuck               ? TD_LAUNCH_STUCK
                : WIFSIGNALED(code) ? 128 + WTERMSIG(code)
                                    : WEXITSTATUS(code);
    return TD_OK;
}

bool td_launch_sleep(double seconds, int *interrupted)
{
    sigset_t set;
    our_signals(&set);
    int64_t end = td_clock_ns() + (int64_t)(seconds * 1e9);
    for (;;) { /* at least once: a signal may have come before */
        int64_t left = end - td_clock_ns();
        if (left < 0) left = 0;
        struct timespec pause = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        int number = sigtimedwait(&set, NULL, &pause);
        if (number < 0 && left == 0) return false;
        if (number < 0 || !stops(number)) continue;
        *interrupted = number;
        return true;
    }
}
