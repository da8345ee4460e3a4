/* See slow.h. */
#include "strategy/slow.h"

#include "base/clock.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

td_slow td_slow_read(int rank, int leaves)
{
    td_slow s = {0};
    const char *text = getenv("TANDEM_FAKE_SLOW");
    for (const char *colon; text && (colon = strchr(text, ':')); text = strchr(colon, ',')) {
        text += *text == ',';
        if (atoi(text) != rank) continue;
        char *unit;
        double number = strtod(colon + 1 + (colon[1] == 'x'), &unit);
        if (colon[1] == 'x')
            s.times = number - 1;
        else
            s.sleep_s = number / 1000 * (*unit == 'l' ? leaves : 1);
    }
    return s;
}

void td_slow_down(const td_slow *s, int64_t ns)
{
    double seconds = s->sleep_s + s->times * td_seconds(ns);
    if (seconds <= 0) return;
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}
