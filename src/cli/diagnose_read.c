/* Reading records, and what single entries say. See diagnose.h. */
#include "cli/diagnose.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/fs.h"
#include "base/process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PAUSE_NS = 100000000 };

/* --- files --- */

static td_status read_one(const char *folder, int rank, char **out)
{
    char name[32], path[TD_PATH_MAX];
    size_t size;
    snprintf(name, sizeof name, "rank-%d", rank);
    TD_TRY(td_path_join(path, folder, name));
    if (!td_path_exists(path)) return TD_OK;
    TD_TRY(td_read_file(path, out, &size));
    const td_recorder_head *h = (const td_recorder_head *)(const void *)*out;
    if (size < sizeof *h || memcmp(h->magic, TD_RECORDER_MAGIC, sizeof h->magic) != 0)
        return td_fail(TD_ERR_CORRUPT, "%s is not a record of rank %d's operations", path, rank);
    if (h->version != TD_RECORDER_VERSION)
        return td_fail(TD_ERR_CORRUPT,
                       "%s was written by another version of tandem (record %u, not %d); diagnose "
                       "the run with that one",
                       path, h->version, TD_RECORDER_VERSION);
    if (size != td_recorder_bytes() || h->record_bytes != sizeof(td_record) || h->rank != rank ||
        h->size < 1 || h->size > TD_PAST_RANKS || (h->generation == 0 && h->size <= rank))
        return td_fail(TD_ERR_CORRUPT, "%s is not a record of rank %d's operations", path, rank);
    return TD_OK;
}

static const td_recorder_group *places(const char *bytes)
{
    return (const td_recorder_group *)(const void *)(bytes + TD_RECORDER_HEAD_BYTES);
}

static td_status check_entries(const char *bytes, int rank)
{
    for (int k = 0; k < TD_RECORDER_GROUPS; k++) {
        const td_recorder_group *g = &places(bytes)[k];
        bool good = g->kind < TD_GROUP_KINDS && g->ranks <= TD_PAST_RANKS && g->rank >= 0;
        for (int e = 0; e < TD_RECORDS; e++) good = good && g->collective[e].does < TD_DOES_END;
        for (int e = 0; e < TD_RECORDS_ALONE; e++)
            good = good && g->by_itself[e].does < TD_DOES_END;
        if (!good)
            return td_fail(TD_ERR_CORRUPT, "the record of rank %d: group %d of it is none", rank,
                           k);
    }
    return TD_OK;
}

static bool here(const td_recorder_head *h)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    return strcmp(host, h->host) == 0;
}

static td_past_life life_of(const td_recorder_head *h)
{
    if (h->closed_ns) return TD_ENDED;
    if (!here(h)) return TD_LIVES; /* who knows */
    if (kill((pid_t)h->pid, 0) != 0 && errno != EPERM) return TD_DIED;
    return td_process_is_stopped(h->pid) ? TD_STOPPED : TD_LIVES;
}

/* A host's own clock where its process lives here; else the calendar, which hosts share. */
static void set_clock(td_past *p)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    int64_t wall = (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
    p->wall = p->head->opened_wall - p->head->opened_ns;
    bool own = here(p->head) && (p->life == TD_LIVES || p->life == TD_STOPPED);
    p->now = own ? td_clock_ns() : wall - p->wall;
}

/* Ranks of a host have one clock, whose place in the calendar each read for itself. */
static void join_clocks(td_diagnosis *d)
{
    for (int r = 0; r < d->size; r++)
        for (int q = 0; q < r && d->rank[r].bytes; q++)
            if (d->rank[q].bytes && !strcmp(d->rank[q].head->host, d->rank[r].head->host)) {
                int64_t differ = d->rank[q].wall - d->rank[r].wall;
                if (differ < 1000000000 && differ > -1000000000) d->rank[r].wall = d->rank[q].wall;
                break;
            }
}

/* --- groups --- */

static td_past_group *find(td_diagnosis *d, uint64_t number)
{
    for (int k = 0; k < d->groups; k++)
        if (d->group[k].number == number) return &d->group[k];
    return NULL;
}

static td_status add_group(td_diagnosis *d, const td_recorder_group *of)
{
    td_past_group *g = find(d, of->number);
    if (!g) {
        td_past_group *more = td_calloc((size_t)d->groups + 1, sizeof *more);
        if (!more) return td_fail(TD_ERR_NOMEM, "no memory for the records");
        if (d->groups) memcpy(more, d->group, (size_t)d->groups * sizeof *more);
        td_free(d->group);
        d->group = more;
        g = &d->group[d->groups++];
        *g = (td_past_group){.number = of->number, .kind = (int)of->kind, .ranks = of->ranks};
    }
    g->members++;
    return TD_OK;
}

static uint64_t parent_of(const td_diagnosis *d, const td_past_group *g)
{
    for (int r = 0; r < d->size; r++) {
        const td_recorder_group *of = td_past_of(d, r, g);
        if (of) return of->parent;
    }
    return 0;
}

static void name_groups(td_diagnosis *d)
{
    int split = 0;
    bool main = false;
    for (int k = 0; k < d->groups; k++) { /* who has them as parents comes behind them */
        td_past_group *g = &d->group[k];
        if (g->kind == TD_GROUP_RECORDED && !main)
            main = true;
        else if (g->kind != TD_GROUP_WORKS && g->kind != TD_GROUP_KEYED)
            snprintf(g->name, sizeof g->name, "group %d", ++split);
    }
    for (int k = 0; k < d->groups; k++) {
        td_past_group *g = &d->group[k];
        if (g->kind != TD_GROUP_WORKS && g->kind != TD_GROUP_KEYED) continue;
        const td_past_group *parent = find(d, parent_of(d, g));
        snprintf(g->name, sizeof g->name, "%s%s%.20s",
                 g->kind == TD_GROUP_WORKS ? "the works" : "keyed parts",
                 parent && *parent->name ? " of " : "", parent ? parent->name : "");
    }
}

/* The rank's place that was taken next after number `made` of them, NULL: none. */
static const td_recorder_group *next_place(const td_past *p, uint32_t made)
{
    const td_recorder_group *g = places(p->bytes), *next = NULL;
    for (int k = 0; k < TD_RECORDER_GROUPS; k++)
        if (g[k].number && g[k].made > made && (!next || g[k].made < next->made)) next = &g[k];
    return next;
}

static td_status find_groups(td_diagnosis *d)
{
    for (int r = 0; r < d->size; r++) {
        if (!d->rank[r].bytes || d->rank[r].left) continue;
        const td_recorder_group *g = next_place(&d->rank[r], 0);
        for (; g; g = next_place(&d->rank[r], g->made))
            if (g->generation == d->generation) TD_TRY(add_group(d, g));
    }
    name_groups(d);
    return TD_OK;
}

/* --- both readings --- */

static td_status first_reading(const char *folder, td_diagnosis *d)
{
    for (int r = 0; r < TD_PAST_RANKS; r++) {
        td_past *p = &d->rank[r];
        TD_TRY(read_one(folder, r, &p->before));
        if (!p->before) continue;
        const td_recorder_head *h = (const td_recorder_head *)(const void *)p->before;
        int least = h->generation ? r + 1 : h->size;
        if (least > d->size) d->size = least;
    }
    if (d->size) return TD_OK;
    return td_fail(TD_ERR_ARG, "%s holds no record of a run's operations", folder);
}

static bool goes_on(const td_diagnosis *d)
{
    for (int r = 0; r < d->size; r++) {
        if (!d->rank[r].before) continue;
        td_past_life life = life_of((const td_recorder_head *)(const void *)d->rank[r].before);
        if (life == TD_LIVES || life == TD_STOPPED) return true;
    }
    return false;
}

static td_status second_reading(const char *folder, td_diagnosis *d)
{
    for (int r = 0; r < d->size; r++) {
        td_past *p = &d->rank[r];
        if (!p->before) continue;
        TD_TRY(read_one(folder, r, &p->bytes));
        if (!p->bytes) continue;
        TD_TRY(check_entries(p->bytes, r));
        p->head = (const td_recorder_head *)(const void *)p->bytes;
        p->life = life_of(p->head);
        set_clock(p);
        if (p->head->generation > d->generation) d->generation = p->head->generation;
    }
    for (int r = 0; r < d->size; r++) /* spares that nobody needed have no record, either */
        d->rank[r].left = d->rank[r].bytes && d->rank[r].head->generation < d->generation;
    return TD_OK;
}

td_status td_diagnosis_read(const char *folder, td_diagnosis *d)
{
    *d = (td_diagnosis){.rank = td_calloc(TD_PAST_RANKS, sizeof *d->rank)};
    if (!d->rank) return td_fail(TD_ERR_NOMEM, "no memory for the records");
    td_status status;
    TD_GOTO(first_reading(folder, d));
    int64_t begin = td_clock_ns();
    if (goes_on(d)) nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    TD_GOTO(second_reading(folder, d));
    d->between_ns = td_clock_ns() - begin;
    join_clocks(d);
    TD_GOTO(find_groups(d));
out:
    if (status != TD_OK) td_diagnosis_free(d);
    return status;
}

void td_diagnosis_free(td_diagnosis *d)
{
    for (int r = 0; d->rank && r < TD_PAST_RANKS; r++) {
        td_free(d->rank[r].bytes);
        td_free(d->rank[r].before);
    }
    td_free(d->rank);
    td_free(d->group);
    *d = (td_diagnosis){.size = 0};
}

/* --- entries --- */

const td_recorder_group *td_past_of(const td_diagnosis *d, int rank, const td_past_group *g)
{
    if (!d->rank[rank].bytes) return NULL;
    for (int k = 0; k < TD_RECORDER_GROUPS; k++) {
        const td_recorder_group *of = &places(d->rank[rank].bytes)[k];
        if (of->number == g->number) return of;
    }
    return NULL;
}

/* The same place of the file at the first reading. */
static const td_record *before(const td_past *p, const td_record *e)
{
    return (const td_record *)(const void *)(p->before + ((const char *)e - p->bytes));
}

static bool unchanged(const td_past *p, const td_record *e)
{
    const td_record *a = before(p, e);
    return a->state && e->state && a->number == e->number && a->sequence == e->sequence &&
           a->does == e->does && a->bytes == e->bytes && a->parts == e->parts &&
           a->root == e->root && a->type == e->type && a->op == e->op && a->width == e->width &&
           a->algorithm == e->algorithm;
}

const td_record *td_past_entry(const td_diagnosis *d, int rank, const td_past_group *g,
                               uint64_t sequence)
{
    const td_recorder_group *of = td_past_of(d, rank, g);
    if (!of || !sequence || sequence > of->collectives) return NULL;
    const td_record *e = &of->collective[sequence % TD_RECORDS];
    return e->sequence == sequence && unchanged(&d->rank[rank], e) ? e : NULL;
}

static const td_record *newest_of(const td_recorder_group *of, bool alone)
{
    uint64_t n = alone ? of->alone : of->collectives;
    const td_record *e =
        alone ? &of->by_itself[n % TD_RECORDS_ALONE] : &of->collective[n % TD_RECORDS];
    return n && e->state && e->sequence == n ? e : NULL;
}

const td_record *td_past_newest(const td_diagnosis *d, int rank, const td_past_group *g, bool alone)
{
    const td_recorder_group *of = td_past_of(d, rank, g);
    return of ? newest_of(of, alone) : NULL;
}

const td_record *td_past_last(const td_diagnosis *d, int rank)
{
    const td_past *p = &d->rank[rank];
    const td_record *last = NULL;
    for (const td_recorder_group *g = next_place(p, 0); g; g = next_place(p, g->made))
        for (int alone = 0; alone < 2 && g->kind != TD_GROUP_WORKS; alone++) {
            const td_record *e = newest_of(g, alone);
            if (e && (!last || (int32_t)(e->number - last->number) > 0)) last = e;
        }
    return last;
}

bool td_past_goes_on(const td_diagnosis *d, int rank)
{
    const td_past *p = &d->rank[rank];
    bool differs = false;
    for (int k = 0; k < TD_RECORDER_GROUPS && p->bytes && p->before; k++) {
        const td_recorder_group *now = &places(p->bytes)[k], *then = &places(p->before)[k];
        differs = differs || now->number != then->number || now->alone != then->alone ||
                  now->collectives != then->collectives;
    }
    return differs;
}

bool td_past_stuck(const td_diagnosis *d, int rank, const td_record *e)
{
    const td_past *p = &d->rank[rank];
    return e && e->state == TD_RECORD_BEGUN && unchanged(p, e) &&
           before(p, e)->state == TD_RECORD_BEGUN;
}

td_deed td_past_doing(const td_diagnosis *d, int rank)
{
    td_deed found = {.rank = rank};
    for (int k = 0; k < 2 * d->groups; k++) {
        const td_past_group *g = &d->group[k / 2];
        const td_record *e = td_past_newest(d, rank, g, k % 2);
        if (!e || g->kind == TD_GROUP_WORKS) continue;
        const td_record *old = found.entry;
        bool later = old && (int32_t)(e->number - old->number) > 0;
        bool begun = e->state == TD_RECORD_BEGUN;
        bool old_begun = old && old->state == TD_RECORD_BEGUN;
        if (!old || (begun && !old_begun) || (later && begun == old_begun))
            found.group = g, found.entry = e;
    }
    return found;
}

const td_past_group *td_past_awaits(const td_diagnosis *d, int rank)
{
    for (int k = 0; k < d->groups; k++) {
        const td_recorder_group *of = td_past_of(d, rank, &d->group[k]);
        if (of && of->kind == TD_GROUP_WORKS && of->waited_for && !of->closed) return &d->group[k];
    }
    return NULL;
}

/* --- times --- */

double td_past_since(const td_diagnosis *d, int rank, int64_t ns)
{
    double s = (double)(d->rank[rank].now - ns) * 1e-9;
    return s > 0 ? s : 0;
}

int64_t td_past_wall(const td_diagnosis *d, int rank, int64_t ns)
{
    return ns + d->rank[rank].wall;
}

double td_past_idle(const td_diagnosis *d, td_deed last, bool *exactly)
{
    const td_past *p = &d->rank[last.rank];
    int64_t newest = p->head->opened_ns;
    *exactly = last.entry && last.entry->end_ns;
    if (*exactly) return td_past_since(d, last.rank, last.entry->end_ns);
    for (int k = 0; last.entry && k < TD_RECORDER_GROUPS; k++) {
        const td_recorder_group *g = &places(p->bytes)[k];
        for (int e = 0; e < TD_RECORDS + TD_RECORDS_ALONE && g->number; e++) {
            const td_record *x = e < TD_RECORDS ? &g->collective[e] : &g->by_itself[e - TD_RECORDS];
            if (!x->state || (int32_t)(last.entry->number - x->number) < 0) continue;
            if (x->begin_ns > newest) newest = x->begin_ns;
            if (x->state != TD_RECORD_BEGUN && x->end_ns > newest) newest = x->end_ns;
        }
    }
    return td_past_since(d, last.rank, newest);
}

/* --- words --- */

void td_deed_describe(const td_record *e, char text[TD_PAST_TEXT])
{
    static const char *const types[] = {"f32", "f64", "i32", "i64", "u8", "f16", "bf16"};
    static const char *const ops[] = {"sum", "min", "max", "product"};
    size_t room = TD_PAST_TEXT;
    bool rooted = e->does == TD_BROADCAST || e->does == TD_SCATTER || e->does == TD_GATHER ||
                  e->does == TD_REDUCE;
    size_t n = (size_t)snprintf(text, room, "%s", td_does_names[e->does]);
    if (e->bytes)
        n += (size_t)snprintf(text + n, room - n, " %llu B", (unsigned long long)e->bytes);
    if (e->width) n += (size_t)snprintf(text + n, room - n, " own items of %d", e->width);
    if (!e->width && e->type <= TD_BF16 && e->op <= TD_PROD)
        n += (size_t)snprintf(text + n, room - n, " %s %s", types[e->type], ops[e->op]);
    if (rooted && e->root >= 0) snprintf(text + n, room - n, " root %d", e->root);
    if (e->does == TD_DOES_SEND || e->does == TD_DOES_RECV)
        snprintf(text + n, room - n, " %s rank %d under tag %u",
                 e->does == TD_DOES_SEND ? "to" : "from", e->root, e->parts);
}

void td_deed_place(td_deed deed, char text[TD_PAST_TEXT])
{
    const char *name = deed.group->name;
    *text = 0;
    if (td_does_alone(deed.entry->does) && deed.group->kind == TD_GROUP_SPLIT)
        snprintf(text, TD_PAST_TEXT, " (in %s)", name);
    else if (!td_does_alone(deed.entry->does))
        snprintf(text, TD_PAST_TEXT, " (operation %llu%s%s)",
                 (unsigned long long)deed.entry->sequence, *name ? " of " : "", name);
}

static int tell_works(const td_diagnosis *d, int rank, const td_past_group *works, char *text,
                      size_t room)
{
    const td_record *e = td_past_newest(d, rank, works, false);
    if (!e) return snprintf(text, room, "waits for its works");
    return snprintf(text, room, "waits for its works, of which operation %llu (%s) %s",
                    (unsigned long long)e->sequence, td_does_names[e->does],
                    e->state == TD_RECORD_BEGUN ? "is under way" : "was the last");
}

void td_past_tell(const td_diagnosis *d, int rank, char text[2 * TD_PAST_TEXT])
{
    char what[TD_PAST_TEXT] = "", where[TD_PAST_TEXT] = "";
    size_t room = 2 * TD_PAST_TEXT;
    const td_past *p = &d->rank[rank];
    td_deed doing = p->bytes ? td_past_doing(d, rank) : (td_deed){.rank = rank};
    if (doing.entry) td_deed_describe(doing.entry, what), td_deed_place(doing, where);
    bool in = doing.entry && doing.entry->state == TD_RECORD_BEGUN;
    bool exactly;
    if (p->life == TD_NO_RECORD)
        snprintf(text, room, "has left no record");
    else if (p->life == TD_ENDED && doing.entry && doing.entry->state == TD_RECORD_FAILED)
        snprintf(text, room, "failed in %s%s and has ended %.3f s ago", what, where,
                 td_past_since(d, rank, p->head->closed_ns));
    else if (p->life == TD_ENDED)
        snprintf(text, room, "has ended %.3f s ago", td_past_since(d, rank, p->head->closed_ns));
    else if (p->life == TD_DIED)
        snprintf(text, room, "has died");
    else if (in && doing.entry->begin_ns)
        snprintf(text, room, "has been in %s%s for %.3f s", what, where,
                 td_past_since(d, rank, doing.entry->begin_ns));
    else if (in)
        snprintf(text, room, "is in %s%s", what, where);
    else if (td_past_awaits(d, rank))
        tell_works(d, rank, td_past_awaits(d, rank), text, room);
    else {
        double idle = td_past_idle(d, doing, &exactly);
        snprintf(text, room, "has been in no operation for %s%.3f s%s%s%s",
                 exactly ? "" : "at most ", idle, doing.entry ? ", after " : "", what, where);
    }
    size_t n = strlen(text);
    if (p->life == TD_STOPPED) snprintf(text + n, room - n, "; its process is stopped");
}
