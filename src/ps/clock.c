/* See clock.h. */
#include "ps/clock.h"

#include "base/alloc.h"
#include "base/error.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST = 1000000, MOST_WORKERS = TD_CLOCK_WORKERS };
enum { REGROUP = 16 }; /* steps between two */

/* --- as text --- */

static td_status refused(const char *text)
{
    return td_fail(TD_ERR_ARG,
                   "clock %s is no clock; there are bsp, ssp:BOUND, asp, backup:WORKERS[:apply] "
                   "and groups:GROUPS:INSIDE:BETWEEN, with numbers up to %d",
                   *text ? text : "\"\"", MOST);
}

/* ":NUMBER" at *at, which moves behind it. */
static bool number(const char **at, uint64_t *out)
{
    char *end;
    if (**at != ':' || !isdigit((unsigned char)(*at)[1])) return false;
    *out = strtoull(*at + 1, &end, 10);
    *at = end;
    return *out <= MOST;
}

static bool begins(const char **at, const char *word)
{
    size_t n = strlen(word);
    if (strncmp(*at, word, n) != 0 || isalnum((unsigned char)(*at)[n])) return false;
    *at += n;
    return true;
}

td_status td_clock_parse(const char *text, td_clock *out)
{
    td_clock c = {0};
    const char *at = text;
    uint64_t count = 0;
    bool good = true;
    if (begins(&at, "bsp")) {
        c.kind = TD_CLOCK_BSP;
    } else if (begins(&at, "ssp")) {
        c.kind = TD_CLOCK_SSP;
        good = number(&at, &c.bound);
    } else if (begins(&at, "asp")) {
        c.kind = TD_CLOCK_ASP;
    } else if (begins(&at, "backup")) {
        c.kind = TD_CLOCK_BACKUP;
        good = number(&at, &count) && count > 0;
        if (good && !strcmp(at, ":apply")) c.apply = true, at += strlen(at);
    } else if (begins(&at, "groups")) {
        c.kind = TD_CLOCK_GROUPS;
        good = number(&at, &count) && count > 0 && number(&at, &c.bound) && number(&at, &c.between);
    } else {
        good = false;
    }
    if (!good || *at) return refused(text);
    if (c.kind == TD_CLOCK_GROUPS && c.between < c.bound)
        return td_fail(TD_ERR_ARG,
                       "clock %s: workers of other groups would be waited for more closely than "
                       "those of the own; the last number must be the largest",
                       text);
    c.count = (int)count;
    *out = c;
    return TD_OK;
}

void td_clock_text(const td_clock *c, char text[TD_CLOCK_TEXT])
{
    unsigned long long bound = c->bound, between = c->between;
    switch (c->kind) {
    case TD_CLOCK_BSP: snprintf(text, TD_CLOCK_TEXT, "bsp"); break;
    case TD_CLOCK_SSP: snprintf(text, TD_CLOCK_TEXT, "ssp:%llu", bound); break;
    case TD_CLOCK_ASP: snprintf(text, TD_CLOCK_TEXT, "asp"); break;
    case TD_CLOCK_BACKUP:
        snprintf(text, TD_CLOCK_TEXT, "backup:%d%s", c->count, c->apply ? ":apply" : "");
        break;
    case TD_CLOCK_GROUPS:
        snprintf(text, TD_CLOCK_TEXT, "groups:%d:%llu:%llu", c->count, bound, between);
        break;
    }
}

td_status td_clock_check(const td_clock *c, int workers)
{
    if (c->count <= workers) return TD_OK;
    return td_fail(TD_ERR_ARG, "clock %s: %d %s of %d worker%s",
                   c->kind == TD_CLOCK_BACKUP ? "backup" : "groups", c->count,
                   c->kind == TD_CLOCK_BACKUP ? "would be waited for" : "groups", workers,
                   workers == 1 ? "" : "s");
}

bool td_clock_may_run_ahead(const td_clock *c)
{
    bool bounded = c->kind == TD_CLOCK_SSP || c->kind == TD_CLOCK_GROUPS;
    return c->kind == TD_CLOCK_ASP || (bounded && c->bound > 0);
}

bool td_clock_is_exact(const td_clock *c)
{
    return c->kind == TD_CLOCK_BSP || (c->kind == TD_CLOCK_SSP && c->bound == 0);
}

/* --- a server's view --- */

td_status td_clocks_init(td_clocks *k, const td_clock *clock, int workers)
{
    size_t n = (size_t)workers;
    if (workers > MOST_WORKERS)
        return td_fail(TD_ERR_ARG, "parameter servers have at most %d workers", MOST_WORKERS);
    *k = (td_clocks){.clock = *clock, .workers = workers};
    k->pushed = td_calloc(n, sizeof *k->pushed);
    k->gone = td_calloc(n, sizeof *k->gone);
    k->group = td_calloc(n, sizeof *k->group);
    k->pace = td_calloc(n, sizeof *k->pace);
    if (k->pushed && k->gone && k->group && k->pace) return TD_OK;
    td_clocks_fini(k);
    return td_fail(TD_ERR_NOMEM, "no memory for the clocks of %d workers", workers);
}

void td_clocks_fini(td_clocks *k)
{
    td_free(k->pushed), td_free(k->gone), td_free(k->group), td_free(k->pace);
    *k = (td_clocks){0};
}

/* Of one group, -1: of all. UINT64_MAX: nobody is left in it. */
static uint64_t slowest_of(const td_clocks *k, int group)
{
    uint64_t least = UINT64_MAX;
    for (int w = 0; w < k->workers; w++)
        if (!k->gone[w] && (group < 0 || k->group[w] == group) && k->pushed[w] < least)
            least = k->pushed[w];
    return least;
}

uint64_t td_clocks_slowest(const td_clocks *k)
{
    uint64_t least = slowest_of(k, -1);
    return least == UINT64_MAX ? 0 : least;
}

/* The largest clock that `count` workers have reached, of all or of those that are left. */
static uint64_t reached_of(const td_clocks *k, int count, bool all)
{
    uint64_t best = 0;
    for (int w = 0; w < k->workers; w++) {
        int there = 0;
        if ((k->gone[w] && !all) || k->pushed[w] <= best) continue;
        for (int v = 0; v < k->workers; v++)
            there += (all || !k->gone[v]) && k->pushed[v] >= k->pushed[w];
        if (there >= count) best = k->pushed[w];
    }
    return best;
}

/* The same, or that all have reached that are left: it does not fall when one goes, as others may
 * have gone on by it. */
static uint64_t reached_by(const td_clocks *k, int count)
{
    int left = 0;
    for (int w = 0; w < k->workers; w++) left += !k->gone[w];
    uint64_t of_all = reached_of(k, count, true);
    uint64_t of_left = reached_of(k, count < left ? count : left, false);
    return of_all > of_left ? of_all : of_left;
}

uint64_t td_clocks_over(const td_clocks *k)
{
    return k->clock.kind == TD_CLOCK_BACKUP ? reached_by(k, k->clock.count) : td_clocks_slowest(k);
}

bool td_clocks_may_pull(const td_clocks *k, int worker, uint64_t clock)
{
    switch (k->clock.kind) {
    case TD_CLOCK_ASP: return true;
    case TD_CLOCK_BACKUP: return reached_by(k, k->clock.count) >= clock;
    case TD_CLOCK_GROUPS:
        if (slowest_of(k, -1) < clock && clock - slowest_of(k, -1) > k->clock.between) return false;
        return slowest_of(k, k->group[worker]) >= clock ||
               clock - slowest_of(k, k->group[worker]) <= k->clock.bound;
    case TD_CLOCK_BSP:
    case TD_CLOCK_SSP: break;
    }
    uint64_t slowest = slowest_of(k, -1);
    return slowest >= clock || clock - slowest <= k->clock.bound;
}

bool td_clocks_may_push(const td_clocks *k, uint64_t clock)
{
    return k->clock.kind != TD_CLOCK_BACKUP || k->clock.apply || clock >= td_clocks_over(k);
}

/* Of those that have not gone, however slow the others were. */
static void regroup(td_clocks *k)
{
    double pace[MOST_WORKERS];
    int worker[MOST_WORKERS], group[MOST_WORKERS], left = 0;
    for (int w = 0; w < k->workers; w++)
        if (!k->gone[w]) worker[left] = w, pace[left++] = k->pace[w];
    if (!left) return;
    td_clock_group(pace, left, k->clock.count, group);
    for (int i = 0; i < left; i++) k->group[worker[i]] = group[i];
}

void td_clocks_push(td_clocks *k, int worker, uint64_t clock, double seconds)
{
    double *pace = &k->pace[worker];
    if (clock < k->pushed[worker]) return;
    if (seconds > 0) *pace = *pace > 0 ? 0.8 * *pace + 0.2 * seconds : seconds;
    k->pushed[worker] = clock + 1;
    if (k->clock.kind != TD_CLOCK_GROUPS || ++k->turn < REGROUP * (uint64_t)k->workers) return;
    k->turn = 0;
    regroup(k);
}

uint64_t td_clocks_others(const td_clocks *k, int worker)
{
    uint64_t sum = 0;
    for (int w = 0; w < k->workers; w++) sum += w == worker ? 0 : k->pushed[w];
    return sum;
}

uint64_t td_clocks_staleness(const td_clocks *k, uint64_t clock)
{
    uint64_t slowest = td_clocks_slowest(k);
    return slowest < clock ? clock - slowest : 0;
}

/* --- groups --- */

void td_clock_group(const double *pace, int workers, int groups, int *group)
{
    int order[MOST_WORKERS];
    bool cut[MOST_WORKERS] = {false}; /* behind the k-th in order */
    for (int w = 0; w < workers; w++) {
        int at = w;
        for (; at > 0 && pace[order[at - 1]] > pace[w]; at--) order[at] = order[at - 1];
        order[at] = w;
    }
    for (int g = 1; g < groups; g++) { /* the widest gap that is not cut yet */
        int widest = -1;
        double width = 0;
        for (int k = 0; k + 1 < workers; k++) {
            double gap = pace[order[k + 1]] - pace[order[k]];
            if (!cut[k] && (widest < 0 || gap > width)) widest = k, width = gap;
        }
        if (widest >= 0) cut[widest] = true;
    }
    for (int k = 0, g = 0; k < workers; g += cut[k++]) group[order[k]] = g;
}

double td_staleness_mean(const td_staleness *s)
{
    double sum = 0, n = 0;
    for (int k = 0; k < TD_STALENESS_BINS; k++) {
        sum += (double)k * (double)s->reads[k];
        n += (double)s->reads[k];
    }
    return n > 0 ? sum / n : 0;
}
