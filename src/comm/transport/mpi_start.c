/* See mpi_start.h. */
#include "comm/transport/mpi_start.h"

#include "base/clock.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* A process that has not been seen may not have been started yet: for so many looks. */
enum { LOOK_MS = 250, LOOKS_GONE = 2, LOOKS_UNSEEN = 40, LEAST_MS = 60000 };

/* Processes that the launcher's thread has started and not yet buried. */
static int children_of(int launcher, const char *thread)
{
    char path[300], text[8192];
    int count = 0;
    snprintf(path, sizeof path, "/proc/%d/task/%s/children", launcher, thread);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(text, 1, sizeof text, f) : 0;
    if (f) fclose(f);
    for (size_t i = 0; i < n; i++) count += text[i] == ' '; /* behind each */
    return count;
}

/* Another program may stand between: it has started one process, and says nothing of the rest. */
static bool is_launcher(int pid)
{
    static const char *const names[] = {"prte", "prun", "orte", "mpiexec", "mpirun"};
    char path[64], name[32] = "";
    snprintf(path, sizeof path, "/proc/%d/comm", pid);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(name, 1, sizeof name - 1, f) : 0;
    if (f) fclose(f);
    name[n] = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strncmp(name, names[i], strlen(names[i]))) return true;
    return false;
}

/* -1: the system does not tell. */
static int processes_here(void)
{
    char path[64];
    int launcher = (int)getppid(), count = 0;
    if (!is_launcher(launcher)) return -1;
    snprintf(path, sizeof path, "/proc/%d/task", launcher);
    DIR *dir = opendir(path);
    if (!dir) return -1;
    for (struct dirent *e; (e = readdir(dir));)
        if (e->d_name[0] != '.') count += children_of(launcher, e->d_name);
    closedir(dir);
    return count > 0 ? count : -1;
}

static void end_process(const char *why)
{
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    fprintf(stderr, "tandem: rank %s ends, as %s while the job started\n", rank ? rank : "?", why);
    _exit(1);
}

/* Until the start is over or it is time for a look; false: it is over. */
static bool pause_between(td_start *s)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&s->lock);
    if (!s->over) pthread_cond_timedwait(&s->ended, &s->lock, &until);
    bool over = s->over;
    pthread_mutex_unlock(&s->lock);
    return !over;
}

static void *watch(void *arg)
{
    td_start *s = arg;
    const char *text = getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
    int wanted = text ? atoi(text) : 0, fewer = 0;
    bool seen = false;
    while (pause_between(s)) {
        int here = wanted > 1 ? processes_here() : -1;
        fewer = here >= 0 && here < wanted ? fewer + 1 : 0;
        seen = seen || here >= wanted;
        if (fewer >= (seen ? LOOKS_GONE : LOOKS_UNSEEN)) end_process("another process has died");
        if (td_clock_ns() - s->begin_ns > s->deadline_ms * 1000000) {
            char why[100];
            snprintf(why, sizeof why, "it has waited more than %lld ms for the others",
                     (long long)s->deadline_ms);
            end_process(why);
        }
    }
    return NULL;
}

void td_start_begin(td_start *s, int64_t deadline_ms)
{
    *s = (td_start){.begin_ns = td_clock_ns(),
                    .deadline_ms = deadline_ms > LEAST_MS ? deadline_ms : LEAST_MS};
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->ended, NULL);
    s->watched = pthread_create(&s->thread, NULL, watch, s) == 0;
}

void td_start_end(td_start *s)
{
    pthread_mutex_lock(&s->lock);
    s->over = true;
    pthread_cond_signal(&s->ended);
    pthread_mutex_unlock(&s->lock);
    if (s->watched) pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->ended);
    pthread_mutex_destroy(&s->lock);
}
