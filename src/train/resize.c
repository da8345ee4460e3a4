/* See resize.h. RUN/resize: "RANKS SERVERS DATA_SERVERS TOKEN\n"; RUN/resized: "TOKEN done|refused
 * SENTENCE\n". */
#include "train/resize.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { LOOK_NS = 100000000 };

static const char request[] = "resize", reply[] = "resized";

static void forget(const char *run, const char *name)
{
    char path[TD_PATH_MAX];
    if (td_path_join(path, run, name) == TD_OK) unlink(path);
}

td_status td_resize_ask(const char *run, td_resize *ask)
{
    char path[TD_PATH_MAX], text[128];
    td_resize r = *ask;
    snprintf(r.token, sizeof r.token, "%ld-%lld", (long)getpid(), (long long)td_clock_ns());
    TD_TRY(td_path_join(path, run, request));
    forget(run, reply);
    int n =
        snprintf(text, sizeof text, "%d %d %d %s\n", r.ranks, r.servers, r.data_servers, r.token);
    TD_TRY(td_write_file(path, text, (size_t)n));
    *ask = r;
    return TD_OK;
}

td_status td_resize_answered(const char *run, const td_resize *asked, bool *there, bool *done,
                             char sentence[TD_RESIZE_TEXT])
{
    char path[TD_PATH_MAX], token[64], verdict[16], *text = NULL;
    size_t size;
    int at = 0;
    *there = false;
    TD_TRY(td_path_join(path, run, reply));
    if (!td_path_exists(path)) return TD_OK;
    TD_TRY(td_read_file(path, &text, &size));
    if (sscanf(text, "%63s %15s %n", token, verdict, &at) == 2 && at &&
        !strcmp(token, asked->token)) {
        *there = true;
        *done = !strcmp(verdict, "done");
        snprintf(sentence, TD_RESIZE_TEXT, "%.*s", (int)strcspn(text + at, "\n"), text + at);
        forget(run, reply);
    }
    td_free(text);
    return TD_OK;
}

void td_resize_take_back(const char *run)
{
    forget(run, request);
}

bool td_resize_is_asked(const char *run)
{
    char path[TD_PATH_MAX];
    return td_path_join(path, run, request) == TD_OK && access(path, F_OK) == 0;
}

bool td_resize_is_asked_anew(const char *run, int64_t *looked_at)
{
    int64_t now = td_clock_ns();
    if (now - *looked_at < LOOK_NS) return false;
    *looked_at = now;
    return td_resize_is_asked(run);
}

td_status td_resize_read(const char *run, td_resize *out)
{
    char path[TD_PATH_MAX], *text = NULL;
    size_t size;
    td_resize r = {0};
    TD_TRY(td_path_join(path, run, request));
    TD_TRY(td_read_file(path, &text, &size));
    int found = sscanf(text, "%d %d %d %63s", &r.ranks, &r.servers, &r.data_servers, r.token);
    td_free(text);
    if (found != 4) return td_fail(TD_ERR_CORRUPT, "%s is no request", path);
    *out = r;
    return TD_OK;
}

td_status td_resize_answer(const char *run, const td_resize *asked, bool done, const char *sentence)
{
    char path[TD_PATH_MAX], text[TD_RESIZE_TEXT + 128];
    forget(run, request);
    TD_TRY(td_path_join(path, run, reply));
    int n = snprintf(text, sizeof text, "%s %s %s\n", asked->token, done ? "done" : "refused",
                     sentence);
    return td_write_file(path, text, (size_t)n);
}
