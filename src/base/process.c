#include "base/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

char td_process_state(int64_t pid)
{
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    FILE *f = fopen(path, "re");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *end = strrchr(text, ')'); /* of the program's name, which may hold anything */
    return end && end[1] ? end[2] : 0;
}

bool td_process_has_ended(int64_t pid)
{
    if (kill((pid_t)pid, 0) != 0 && errno == ESRCH) return true;
    char state = td_process_state(pid);
    return state == 'Z' || state == 'X';
}
