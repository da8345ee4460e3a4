/* See revive.h. */
#include "train/revive.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "comm/recorder.h"
#include "comm/transport.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* --- agreeing --- */

static void append(td_news_list *list, const int *ranks, int count)
{
    for (int k = 0; k < count; k++, list->count++)
        if (list->count < TD_NEWS_RANKS) list->rank[list->count] = ranks[k];
}

void td_news_add(td_news *news, const td_recovery *report)
{
    if (!news->size_before) news->size_before = report->size_before;
    append(&news->died, report->died, report->died_count);
    append(&news->came, report->came, report->came_count);
}

td_status td_news_agree(td_comm *comm, int64_t step, td_news *news)
{
    int size = td_comm_size(comm);
    int64_t *steps = td_calloc((size_t)size, sizeof *steps), newest = -1;
    td_status status = TD_OK;
    if (!steps) return td_fail(TD_ERR_NOMEM, "no memory to recover");
    TD_GOTO(td_comm_allgather(comm, &step, sizeof step, steps));
    int donor = 0, needy = 0;
    for (int r = size - 1; r >= 0; r--)
        if (steps[r] >= newest) newest = steps[r], donor = r;
    for (int r = 0; r < size; r++) needy += steps[r] < newest;
    news->step = newest, news->donor = donor, news->needy = needy;
    TD_GOTO(td_comm_broadcast(comm, news, sizeof *news, donor));
out:
    td_free(steps);
    return status;
}

/* --- handing over --- */

static td_status fetch(td_comm *pair, const td_span *spans, int count)
{
    for (int k = 0; k < count; k++)
        TD_TRY(td_comm_broadcast(pair, spans[k].data, spans[k].bytes, 0));
    return TD_OK;
}

static td_status fetch_beside(td_comm *pair, const td_span *spans, int count)
{
    size_t bytes = 0, at = 0;
    for (int k = 0; k < count; k++) bytes += (spans[k].bytes + 63) / 64 * 64;
    char *beside = td_alloc_aligned(bytes);
    if (!beside) return td_fail(TD_ERR_NOMEM, "no memory for %zu bytes of a newer state", bytes);
    td_status status = TD_OK;
    for (int k = 0; k < count && status == TD_OK; k++) {
        status = td_comm_broadcast(pair, beside + at, spans[k].bytes, 0);
        at += (spans[k].bytes + 63) / 64 * 64;
    }
    at = 0;
    for (int k = 0; k < count && status == TD_OK; k++) {
        memcpy(spans[k].data, beside + at, spans[k].bytes);
        at += (spans[k].bytes + 63) / 64 * 64;
    }
    td_free(beside);
    return status;
}

td_status td_news_fetch(td_comm *comm, const td_news *news, int64_t step, const td_span *spans,
                        int count)
{
    td_comm *few = NULL;
    bool donor = td_comm_rank(comm) == news->donor, needs = step != news->step;
    if (!news->needy) return TD_OK;
    TD_TRY(td_comm_split(comm, donor || needs ? 0 : -1, donor ? 0 : 1, &few));
    if (!few) return TD_OK;
    td_status status =
        donor || step < 0 ? fetch(few, spans, count) : fetch_beside(few, spans, count);
    td_comm_close(few);
    return status;
}

/* --- telling --- */

typedef struct writer {
    char *text;
    size_t at, room;
} writer;

static void TD_PRINTF(2, 3) add(writer *w, const char *format, ...)
{
    va_list args;
    if (w->at >= w->room) return;
    va_start(args, format);
    int n = vsnprintf(w->text + w->at, w->room - w->at, format, args);
    va_end(args);
    if (n > 0) w->at += (size_t)n;
}

/* As its record says; false where that cannot be read. */
static bool host_of(const char *recorder, int rank, char host[64])
{
    td_recorder_head head;
    char path[TD_PATH_MAX], name[32];
    snprintf(name, sizeof name, "rank-%d", rank);
    if (td_path_join(path, recorder, name) != TD_OK) return false;
    FILE *f = fopen(path, "rb");
    bool known = f && fread(&head, sizeof head, 1, f) == 1 &&
                 !memcmp(head.magic, TD_RECORDER_MAGIC, sizeof head.magic) &&
                 !strncmp(head.transport, "mpi", sizeof head.transport);
    if (f) fclose(f);
    if (known) snprintf(host, 64, "%.63s", head.host);
    return known;
}

/* "rank 2 (host b)", "ranks 2 (host b) and 3 (host b)". */
static void add_ranks(writer *w, const td_news_list *list, const char *recorder)
{
    int shown = list->count < TD_NEWS_RANKS ? list->count : TD_NEWS_RANKS;
    add(w, list->count > 1 ? "ranks " : "rank ");
    for (int k = 0; k < shown; k++) {
        char host[64];
        const char *between = k == 0 ? "" : k + 1 < list->count ? ", " : " and ";
        add(w, "%s%d", between, list->rank[k]);
        if (recorder && host_of(recorder, list->rank[k], host)) add(w, " (host %s)", host);
    }
    if (list->count > shown) add(w, " and %d more", list->count - shown);
}

void td_news_sentence(const td_news *news, int size, const char *what, const char *recorder,
                      char *text, size_t room)
{
    writer w = {text, 0, room};
    bool several = news->came.count > 1;
    if (news->died.count) {
        add_ranks(&w, &news->died, recorder);
        add(&w, " died at step %lld", (long long)news->step);
    } else {
        add(&w, "a wait ended at step %lld, though nobody had died", (long long)news->step);
    }
    if (news->came.count) {
        add(&w, "; ");
        add_ranks(&w, &news->came, NULL);
        add(&w, ", %s, took %s place", several ? "spares" : "a spare",
            news->died.count > 1 ? "their" : "its");
    }
    if (size < news->size_before)
        add(&w, "; %d %s%s left", size, what, size == 1 ? " is" : "s are");
    add(&w, "; went on at step %lld after %.2f s", (long long)news->step, news->seconds);
}

static void add_list(writer *w, const char *name, const td_news_list *list)
{
    add(w, "\"%s\":[", name);
    for (int k = 0; k < list->count && k < TD_NEWS_RANKS; k++)
        add(w, "%s%d", k ? "," : "", list->rank[k]);
    add(w, "],");
}

void td_news_fields(const td_news *news, uint64_t generation, int workers, char *text, size_t room)
{
    writer w = {text, 0, room};
    add(&w, "\"generation\":%llu,", (unsigned long long)generation);
    if (!news->was_resized) add_list(&w, "died", &news->died);
    add_list(&w, "came", &news->came);
    add(&w, "\"workers\":%d,\"seconds\":%.3g", workers, news->seconds);
}
