#include "base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>

static atomic_int current = TD_LOG_WARN;

void td_log_set_level(td_log_level level)
{
    atomic_store(&current, (int)level);
}

td_log_level td_log_get_level(void)
{
    return (td_log_level)atomic_load(&current);
}

void td_log(td_log_level level, const char *format, ...)
{
    if ((int)level > atomic_load(&current)) return;
    char line[1200]; /* written at once, so that lines of several ranks do not mix */
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fprintf(stderr, "tandem: %s%s\n", level == TD_LOG_WARN ? "warning: " : "", line);
}
