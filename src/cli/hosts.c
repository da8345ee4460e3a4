/* See hosts.h. */
#include "cli/hosts.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static td_status parse_one(const char *item, td_host *out)
{
    size_t n = strcspn(item, ":");
    char *end;
    long slots = 1;
    bool good = n > 0 && n < TD_HOST_TEXT && item[0] != '-' && !strpbrk(item, " \t\"'$`\\;&|<>()");
    if (item[n]) {
        slots = strtol(item + n + 1, &end, 10);
        good = good && end != item + n + 1 && !*end && slots >= 1 && slots <= 1000000;
    }
    if (!good)
        return td_fail(TD_ERR_ARG,
                       "--hosts: \"%s\" is not a host; write NAME or NAME:SLOTS, as in a:4,b:4",
                       item);
    snprintf(out->name, TD_HOST_TEXT, "%.*s", (int)n, item);
    out->slots = (int)slots;
    out->answers = true;
    return TD_OK;
}

td_status td_hosts_parse(const char *text, td_host **out, int *count)
{
    char *copy = td_strdup(text);
    td_host *hosts = td_calloc(TD_HOSTS_MOST, sizeof *hosts);
    td_status status = TD_OK;
    int n = 0;
    if (!copy || !hosts) status = td_fail(TD_ERR_NOMEM, "no memory for the hosts");
    for (char *at = copy, *item; status == TD_OK && (item = strsep(&at, ","));) {
        if (n == TD_HOSTS_MOST)
            status = td_fail(TD_ERR_ARG, "--hosts names more than %d", TD_HOSTS_MOST);
        else
            status = parse_one(item, &hosts[n]);
        for (int i = 0; i < n && status == TD_OK; i++)
            if (!strcmp(hosts[i].name, hosts[n].name))
                status =
                    td_fail(TD_ERR_ARG, "--hosts names %s twice; add up its slots", hosts[n].name);
        n++;
    }
    td_free(copy);
    if (status != TD_OK) {
        td_free(hosts);
        return status;
    }
    *out = hosts;
    *count = n;
    return TD_OK;
}

bool td_host_is_here(const char *name)
{
    char here[TD_HOST_TEXT] = "";
    if (!strcmp(name, "localhost") || !strncmp(name, "127.", 4)) return true;
    if (gethostname(here, sizeof here - 1) != 0) return false;
    if (!strcmp(name, here)) return true;
    size_t n = strcspn(name, "."), m = strcspn(here, ".");
    return n == m && !strncmp(name, here, n) && (!name[n] || !here[m]);
}

/* The question to one host, in a group of its own. */
static pid_t ask(const char *command, const char *name, const char *rest)
{
    char line[4096];
    if (snprintf(line, sizeof line, "%s %s %s", command, name, rest) >= (int)sizeof line) return -1;
    pid_t pid = fork();
    if (pid != 0) return pid;
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setpgid(0, 0);
    int nothing = open("/dev/null", O_RDWR);
    for (int fd = 0; fd < 3 && nothing >= 0; fd++) dup2(nothing, fd);
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
}

td_status td_hosts_probe(td_host *hosts, int count, const char *command, const char *rest,
                         int seconds)
{
    pid_t *asked = td_calloc((size_t)count, sizeof *asked);
    int open = 0, code;
    if (!asked) return td_fail(TD_ERR_NOMEM, "no memory to ask %d hosts", count);
    for (int i = 0; i < count; i++) {
        hosts[i].answers = td_host_is_here(hosts[i].name);
        if (!hosts[i].answers) asked[i] = ask(command, hosts[i].name, rest);
        open += asked[i] > 0;
    }
    int64_t end = td_clock_ns() + seconds * 1000000000LL;
    while (open) {
        bool late = td_clock_ns() > end;
        for (int i = 0; i < count; i++) {
            if (asked[i] <= 0) continue;
            if (late) kill(-asked[i], SIGKILL), kill(asked[i], SIGKILL);
            pid_t ended = waitpid(asked[i], &code, late ? 0 : WNOHANG);
            if (ended == 0 || (ended < 0 && errno == EINTR)) continue;
            hosts[i].answers = !late && ended > 0 && WIFEXITED(code) && WEXITSTATUS(code) == 0;
            asked[i] = 0;
            open--;
        }
        struct timespec pause = {.tv_nsec = 20000000};
        if (open) nanosleep(&pause, NULL);
    }
    td_free(asked);
    return TD_OK;
}

int td_hosts_text(const td_host *hosts, int count, bool answering, bool slots, char *text,
                  size_t room)
{
    int found = 0;
    text[0] = 0;
    for (int i = 0; i < count; i++) {
        if (hosts[i].answers != answering) continue;
        size_t n = strlen(text);
        const char *comma = found++ ? slots ? "," : ", " : "";
        if (slots)
            snprintf(text + n, room - n, "%s%s:%d", comma, hosts[i].name, hosts[i].slots);
        else
            snprintf(text + n, room - n, "%s%s", comma, hosts[i].name);
    }
    return found;
}

int td_hosts_slots(const td_host *hosts, int count)
{
    int slots = 0;
    for (int i = 0; i < count; i++)
        if (hosts[i].answers && slots < 1000000) slots += hosts[i].slots;
    return slots;
}
