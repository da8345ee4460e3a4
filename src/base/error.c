/* The last error of each thread: one sentence in thread-local storage, no heap. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { SENTENCE = 1024 };

static _Thread_local char last[SENTENCE];

const char *td_status_name(td_status status)
{
    static const char *const names[] = {
        [TD_OK] = "TD_OK",
        [TD_ERR_ARG] = "TD_ERR_ARG",
        [TD_ERR_DATA] = "TD_ERR_DATA",
        [TD_ERR_CORRUPT] = "TD_ERR_CORRUPT",
        [TD_ERR_DIVERGED] = "TD_ERR_DIVERGED",
        [TD_ERR_IO] = "TD_ERR_IO",
        [TD_ERR_NOMEM] = "TD_ERR_NOMEM",
        [TD_ERR_PEER] = "TD_ERR_PEER",
        [TD_ERR_TIMEOUT] = "TD_ERR_TIMEOUT",
        [TD_ERR_UNSUPPORTED] = "TD_ERR_UNSUPPORTED",
        [TD_ERR_INTERRUPTED] = "TD_ERR_INTERRUPTED",
        [TD_ERR_INTERNAL] = "TD_ERR_INTERNAL",
        [TD_ERR_FULL] = "TD_ERR_FULL",
    };
    unsigned at = (unsigned)status;
    return at < sizeof names / sizeof *names ? names[at] : "TD_ERR_?";
}

const char *td_last_error(void)
{
    return last;
}

int td_exit_code(td_status status)
{
    switch (status) {
    case TD_OK: return 0;
    case TD_ERR_ARG:
    case TD_ERR_DATA:
    case TD_ERR_CORRUPT:
    case TD_ERR_DIVERGED:
    case TD_ERR_FULL:
    case TD_ERR_UNSUPPORTED: return 2;
    default: return 1;
    }
}

td_status td_fail(td_status status, const char *format, ...)
{
    char text[SENTENCE]; /* the arguments may point into `last` */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(last, text, sizeof last);
    return status;
}

td_status td_fail_errno(const char *format, ...)
{
    int cause = errno;
    char text[SENTENCE], why[128];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
#if defined(__GLIBC__) && defined(_GNU_SOURCE)
    const char *reason = strerror_r(cause, why, sizeof why);
#else
    const char *reason = strerror_r(cause, why, sizeof why) == 0 ? why : "unknown error";
#endif
    snprintf(last, sizeof last, "%.800s: %s", text, reason);
    return TD_ERR_IO;
}

td_status td_fail_again(td_status status, const char *sentence)
{
    if (sentence != last) snprintf(last, sizeof last, "%s", sentence);
    return status;
}

td_status td_fail_within(td_status status, const char *format, ...)
{
    char text[SENTENCE], inner[SENTENCE];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    memcpy(inner, last, sizeof inner);
    snprintf(last, sizeof last, "%.500s%.500s", text, inner);
    return status;
}

void td_error_clear(void)
{
    last[0] = 0;
}
