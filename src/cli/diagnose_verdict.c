/* What records tell of a run: who has not come to which operation, who runs another one than the
 * others, who waits for whom, who comes last. Groups are looked at one by one: their ranks, and no
 * others, run the same collectives under the same numbers. */
#include "cli/diagnose.h"

#include "comm/coll/coll.h"

#include <stdio.h>
#include <string.h>

enum { SKEW_NS = 1000000, LEAST_SAMPLES = 3 };

/* Whether its newest collective there holds others up, or held them up: under way or failed. */
static const td_record *holds(const td_diagnosis *d, int r, const td_past_group *g, bool alone)
{
    const td_record *e = d->rank[r].left ? NULL : td_past_newest(d, r, g, alone);
    if (!e || (e->state != TD_RECORD_FAILED && !td_past_stuck(d, r, e))) return NULL;
    return e;
}

static double lasted(const td_record *e)
{
    return (double)(e->end_ns - e->begin_ns) * 1e-9;
}

/* How long it has been in it, or was until it failed; of a rank that has died only the beginning is
 * known. */
static void print_span(const td_diagnosis *d, td_deed deed)
{
    const td_record *e = deed.entry;
    if (!e->begin_ns) return;
    double since = td_past_since(d, deed.rank, e->begin_ns);
    if (e->state == TD_RECORD_FAILED)
        printf(" after %.3f s", lasted(e));
    else if (d->rank[deed.rank].life == TD_DIED)
        printf(", begun %.3f s ago", since);
    else
        printf(" for %.3f s", since);
}

/* --- who has not come --- */

static int tell_absent(const td_diagnosis *d, td_deed front, int r)
{
    char what[TD_PAST_TEXT], where[TD_PAST_TEXT], now[2 * TD_PAST_TEXT];
    const td_recorder_group *of = td_past_of(d, r, front.group);
    const td_record *last = td_past_newest(d, r, front.group, false);
    unsigned long long n = front.entry->sequence;
    bool main = !*front.group->name;
    td_deed_describe(front.entry, what);
    printf("rank %d has not come to operation %llu%s%s (%s), which rank %d ", r, n,
           main ? "" : " of ", front.group->name, what, front.rank);
    bool died = d->rank[front.rank].life == TD_DIED;
    fputs(front.entry->state == TD_RECORD_FAILED ? "has failed in"
          : died                                 ? "died in"
          : front.entry->begin_ns                ? "has been in"
                                                 : "is in",
          stdout);
    print_span(d, front);
    if (!of->collectives) {
        printf(": it has run none%s", main ? "" : " there");
    } else if (last) {
        td_deed_describe(last, what);
        td_deed_place((td_deed){front.group, last, r}, where);
        printf(": its last is operation %llu (%s)", (unsigned long long)of->collectives, what);
    } else {
        printf(": its last is operation %llu", (unsigned long long)of->collectives);
    }
    td_past_tell(d, r, now);
    printf("; it %s%s\n", now,
           of->closed && d->rank[r].life != TD_ENDED ? "; it has closed the group" : "");
    return 1;
}

static bool has_come(const td_diagnosis *d, td_deed front, int r)
{
    const td_recorder_group *of = td_past_of(d, r, front.group);
    return !of || of->collectives >= front.entry->sequence;
}

/* Others wait at a meeting while it works: that is as it should be, until it goes on no more; and
 * if it waits for its servers then, that is told by its wait. */
static bool may_be_late(const td_diagnosis *d, td_deed front, int r)
{
    td_deed deed = td_past_doing(d, r);
    bool waits = deed.entry && td_does_alone(deed.entry->does) && td_past_stuck(d, r, deed.entry);
    return front.group->kind == TD_GROUP_MEETING && (waits || td_past_goes_on(d, r));
}

/* Ranks of the group whose record is not known to be: they may have died, or not have made it yet.
 */
static int tell_unknown(td_deed front)
{
    int missing = front.group->ranks - front.group->members;
    if (missing <= 0 || !*front.group->name) return 0;
    printf("%d of the %d ranks of %s have no record of it, in which rank %d is\n", missing,
           front.group->ranks, front.group->name, front.rank);
    return 1;
}

/* One that had come to an operation, which failed there: if it waited, that is told by its wait. */
static int tell_failed(td_deed failed, td_deed front)
{
    if (failed.entry->missing >= 0) return 0;
    printf("rank %d failed in operation %llu%s%s (%s), and did not come to the next\n", failed.rank,
           (unsigned long long)failed.entry->sequence, *front.group->name ? " of " : "",
           front.group->name, td_does_names[failed.entry->does]);
    return 1;
}

/* explained: by operations that differ. */
static int find_absent(const td_diagnosis *d, td_deed front, bool explained)
{
    int told = 0;
    for (int r = 0; r < d->size; r++) {
        if (d->rank[r].left || has_come(d, front, r) || may_be_late(d, front, r)) continue;
        const td_record *last = td_past_newest(d, r, front.group, false);
        if (!last || last->state != TD_RECORD_FAILED)
            told += tell_absent(d, front, r);
        else if (!explained)
            told += tell_failed((td_deed){front.group, last, r}, front);
    }
    return told || explained ? told : tell_unknown(front);
}

/* --- who runs another one --- */

static bool same(const td_diagnosis *d, td_deed a, td_deed b)
{
    const td_record *x = a.entry, *y = b.entry;
    if (x->does == TD_DOES_RECOVER || y->does == TD_DOES_RECOVER) return true; /* begun anywhere */
    if (x->does != y->does) return false;
    if (x->does == TD_DOES_SHARE && /* each host its own size */
        strcmp(d->rank[a.rank].head->host, d->rank[b.rank].head->host) != 0)
        return true;
    return x->bytes == y->bytes && x->type == y->type && x->op == y->op && x->root == y->root &&
           x->width == y->width && x->parts == y->parts && x->algorithm == y->algorithm;
}

static td_deed deed_at(const td_diagnosis *d, int r, const td_past_group *g, uint64_t sequence)
{
    const td_record *e = d->rank[r].left ? NULL : td_past_entry(d, r, g, sequence);
    return (td_deed){g, e, r};
}

/* The one that most run; of several the lowest rank's. */
static td_deed usual(const td_diagnosis *d, const td_past_group *g, uint64_t sequence)
{
    td_deed best = {.group = g};
    int most = 0;
    for (int r = 0; r < d->size; r++) {
        td_deed mine = deed_at(d, r, g, sequence);
        int like = 0;
        for (int q = 0; mine.entry && q < d->size; q++) {
            td_deed other = deed_at(d, q, g, sequence);
            like += other.entry && same(d, mine, other);
        }
        if (like > most) most = like, best = mine;
    }
    return best;
}

static void tell_different(td_deed a, td_deed b)
{
    char mine[TD_PAST_TEXT], theirs[TD_PAST_TEXT], where[TD_PAST_TEXT];
    td_deed_describe(a.entry, mine);
    td_deed_describe(b.entry, theirs);
    td_deed_place(a, where);
    printf("rank %d runs %s where rank %d runs %s%s", a.rank, mine, b.rank, theirs, where);
    if (strcmp(mine, theirs) == 0 && a.entry->parts != b.entry->parts)
        printf(": the sizes of their parts differ");
    else if (strcmp(mine, theirs) == 0 && a.entry->algorithm && b.entry->algorithm)
        printf(": by %s and by %s", td_coll_name(a.entry->algorithm - 1),
               td_coll_name(b.entry->algorithm - 1));
    printf("\n");
}

/* Of the first operation that is not the same at all. */
static int find_different(const td_diagnosis *d, const td_past_group *g)
{
    uint64_t newest = 0;
    for (int r = 0; r < d->size; r++) {
        const td_recorder_group *of = td_past_of(d, r, g);
        if (of && of->collectives > newest) newest = of->collectives;
    }
    uint64_t from = newest > TD_RECORDS ? newest - TD_RECORDS + 1 : 1;
    for (uint64_t s = from; s <= newest; s++) {
        td_deed first = {.entry = NULL};
        bool differ = false;
        for (int r = 0; r < d->size && !differ; r++) {
            td_deed mine = deed_at(d, r, g, s);
            differ = mine.entry && first.entry && !same(d, mine, first);
            if (mine.entry && !first.entry) first = mine;
        }
        if (!differ) continue;
        int told = 0;
        td_deed most = usual(d, g, s);
        for (int r = 0; r < d->size; r++) {
            td_deed mine = deed_at(d, r, g, s);
            if (mine.entry && !same(d, mine, most)) tell_different(mine, most), told++;
        }
        return told;
    }
    return 0;
}

/* --- who waits for whom --- */

/* Inside an operation to which all have come, or that failed. */
static int tell_waits(const td_diagnosis *d, td_deed deed, bool explained)
{
    char where[TD_PAST_TEXT];
    const td_record *e = deed.entry;
    bool failed = e->state == TD_RECORD_FAILED;
    bool died = d->rank[deed.rank].life == TD_DIED || d->rank[deed.rank].life == TD_STOPPED;
    if (e->missing < 0 || (explained && !failed)) return 0;
    snprintf(where, sizeof where, "operation %llu%s%s (%s)", (unsigned long long)e->sequence,
             *deed.group->name ? " of " : "", deed.group->name, td_does_names[e->does]);
    if (failed)
        printf("rank %d waited for rank %d when %s failed", deed.rank, e->missing, where);
    else
        printf("rank %d %s for rank %d inside %s", deed.rank, died ? "waited" : "waits", e->missing,
               where);
    if (failed && e->begin_ns)
        printf(", after %.3f s", lasted(e));
    else if (!died && e->end_ns)
        printf(", for %.3f s", td_past_since(d, deed.rank, e->end_ns));
    printf("\n");
    return 1;
}

/* A message or a request. */
static int tell_alone(const td_diagnosis *d, td_deed deed)
{
    char what[TD_PAST_TEXT], where[TD_PAST_TEXT], now[2 * TD_PAST_TEXT];
    const td_record *e = deed.entry;
    bool failed = e->state == TD_RECORD_FAILED;
    int peer = e->missing >= 0 ? e->missing : e->root;
    td_deed_describe(e, what);
    td_deed_place(deed, where);
    printf("rank %d %s %s%s", deed.rank,
           failed                               ? "failed in"
           : d->rank[deed.rank].life == TD_DIED ? "died in"
                                                : "waits in",
           what, where);
    print_span(d, deed);
    if (peer >= 0 && peer < d->size) {
        td_past_tell(d, peer, now);
        printf(e->root < 0 ? ", for rank %d, which %s" : "; rank %d %s", peer, now);
    }
    printf("\n");
    return 1;
}

/* Its wait has an end that it has not seen: it is stopped, or whom it waits for is further. */
static bool is_over(const td_diagnosis *d, td_deed deed)
{
    const td_record *e = deed.entry;
    const td_recorder_group *of = td_past_of(d, e->missing, deed.group);
    if (d->rank[deed.rank].life == TD_STOPPED) return true;
    return !td_does_alone(e->does) && e->state == TD_RECORD_BEGUN && of &&
           of->collectives > e->sequence;
}

/* For whom the rank itself waits, or waited until it failed; NULL: for nobody. Keyed parts are
 * answered by another thread than the one that waits. */
static td_deed wait_of(const td_diagnosis *d, int r)
{
    td_deed deed = d->rank[r].bytes && !d->rank[r].left ? td_past_doing(d, r) : (td_deed){0};
    const td_record *e = deed.entry;
    bool message = e && (e->does == TD_DOES_SEND || e->does == TD_DOES_RECV);
    bool counts = e && holds(d, r, deed.group, td_does_alone(e->does)) == e && e->missing >= 0 &&
                  e->missing < d->size && e->begin_ns;
    if (!counts || (td_does_alone(e->does) && !message) || is_over(d, deed)) deed.entry = NULL;
    return deed;
}

static bool at_once(const td_diagnosis *d, td_deed a, td_deed b)
{
    int64_t end_a = a.entry->state == TD_RECORD_FAILED ? a.entry->end_ns : INT64_MAX;
    int64_t end_b = b.entry->state == TD_RECORD_FAILED ? b.entry->end_ns : INT64_MAX;
    int64_t far = INT64_MAX / 2;
    int64_t a_begin = td_past_wall(d, a.rank, a.entry->begin_ns),
            b_begin = td_past_wall(d, b.rank, b.entry->begin_ns);
    int64_t a_end = end_a == INT64_MAX ? far + far : td_past_wall(d, a.rank, end_a);
    int64_t b_end = end_b == INT64_MAX ? far + far : td_past_wall(d, b.rank, end_b);
    return a_begin < b_end && b_begin < a_end;
}

/* Two of it are in one and the same operation: that is for its own waits to say. */
static bool together(td_deed a, td_deed b)
{
    return !td_does_alone(a.entry->does) && !td_does_alone(b.entry->does) && a.group == b.group &&
           a.entry->sequence == b.entry->sequence;
}

/* Whether rank r waits for itself in the end; all of the circle are higher. Its length. */
static int circle(const td_diagnosis *d, int r)
{
    td_deed at = wait_of(d, r);
    bool apart = false;
    for (int n = 1; n <= d->size && at.entry; n++) {
        td_deed next = wait_of(d, at.entry->missing);
        if (!next.entry || next.rank < r || !at_once(d, at, next)) return 0;
        apart = apart || !together(at, next);
        if (next.rank == r) return apart ? n : 0;
        at = next;
    }
    return 0;
}

static int find_circles(const td_diagnosis *d)
{
    int told = 0;
    for (int r = 0; r < d->size; r++) {
        int n = circle(d, r);
        td_deed at = wait_of(d, r);
        for (int k = 0; k < n; k++, at = wait_of(d, at.entry->missing)) {
            char what[TD_PAST_TEXT], where[TD_PAST_TEXT];
            td_deed_describe(at.entry, what);
            td_deed_place(at, where);
            bool over = at.entry->state == TD_RECORD_FAILED;
            if (k == 0) printf("ranks %s for each other: ", over ? "waited" : "wait");
            printf("%srank %d in %s%s for rank %d", k ? ", " : "", at.rank, what, where,
                   at.entry->missing);
        }
        if (n) printf("\n"), told++;
    }
    return told;
}

/* --- a group --- */

/* The furthest operation in which a rank of the group is, or failed. */
static td_deed front_of(const td_diagnosis *d, const td_past_group *g)
{
    td_deed front = {.group = g};
    for (int r = 0; r < d->size; r++) {
        const td_record *e = holds(d, r, g, false);
        if (!e || e->does == TD_DOES_RECOVER) continue;
        if (!front.entry || e->sequence > front.entry->sequence) front.entry = e, front.rank = r;
    }
    return front;
}

static int look_at(const td_diagnosis *d, const td_past_group *g, bool *waits, bool *differ)
{
    td_deed front = front_of(d, g);
    int told = find_different(d, g);
    *differ = *differ || told;
    bool explained = told > 0;
    if (front.entry) {
        int absent = find_absent(d, front, explained);
        explained = explained || absent;
        told += absent;
    }
    for (int r = 0; r < d->size; r++) {
        const td_record *e = holds(d, r, g, false), *alone = holds(d, r, g, true);
        if (e) told += tell_waits(d, (td_deed){g, e, r}, explained);
        if (alone) told += tell_alone(d, (td_deed){g, alone, r});
        *waits = *waits || e || alone;
    }
    return told;
}

/* --- who comes last --- */

typedef struct lateness {
    int samples, last[TD_PAST_RANKS]; /* how often that rank came last */
    double apart_s, took_s;           /* sums: first to last; the first one's whole time */
} lateness;

/* An operation of which all ranks have the time: one that is timed whoever waits in it. */
static void add_sample(const td_diagnosis *d, const td_past_group *g, uint64_t s, lateness *l)
{
    int64_t first = INT64_MAX, last = INT64_MIN;
    int who = -1;
    double took = 0;
    for (int r = 0, seen = 0; r < d->size; r++) {
        const td_record *e = td_past_entry(d, r, g, s);
        if (!e) continue;
        if (!e->begin_ns || e->state != TD_RECORD_DONE || !e->end_ns) return;
        int64_t at = td_past_wall(d, r, e->begin_ns);
        if (at < first) first = at, took = lasted(e);
        if (at > last) last = at, who = r;
        if (++seen == g->ranks && seen > 1) {
            l->samples++;
            l->last[who]++;
            l->apart_s += (double)(last - first) * 1e-9;
            l->took_s += took;
        }
    }
}

static void tell_latest(const td_diagnosis *d, const td_past_group *g)
{
    static lateness l; /* too large for the stack */
    uint64_t newest = 0;
    int who = 0;
    l = (lateness){.samples = 0};
    for (int r = 0; r < d->size; r++) {
        const td_recorder_group *of = td_past_of(d, r, g);
        if (of && of->collectives > newest) newest = of->collectives;
    }
    uint64_t from = newest > TD_RECORDS ? newest - TD_RECORDS + 1 : 1;
    for (uint64_t s = from; s <= newest; s++)
        if (s % TD_RECORDS_TIMED == 0) add_sample(d, g, s, &l);
    for (int r = 1; r < d->size; r++)
        if (l.last[r] > l.last[who]) who = r;
    if (l.samples < LEAST_SAMPLES || 2 * l.last[who] <= l.samples ||
        l.apart_s * 1e9 / l.samples < SKEW_NS)
        return;
    printf("rank %d came last to %d of %d timed operations%s%s: %.3f ms after the first, who spent "
           "%.3f ms in them (both on average)\n",
           who, l.last[who], l.samples, *g->name ? " of " : "", g->name,
           l.apart_s * 1e3 / l.samples, l.took_s * 1e3 / l.samples);
}

/* --- the run --- */

static int find_dead(const td_diagnosis *d)
{
    int told = 0;
    for (int r = 0; r < d->size; r++) {
        const td_past *p = &d->rank[r];
        if (p->life == TD_NO_RECORD && !p->left && !d->generation) {
            printf("rank %d has left no record\n", r);
            told++;
        } else if (p->life == TD_DIED || (p->left && p->life != TD_ENDED)) {
            printf("rank %d (process %lld on %s) has died in step %llu%s\n", r,
                   (long long)p->head->pid, p->head->host, (unsigned long long)p->head->step,
                   p->left ? "; the others went on" : "");
            told += !p->left;
        } else if (p->life == TD_STOPPED && !p->left) {
            printf("rank %d (process %lld on %s) is stopped, by a signal or a debugger\n", r,
                   (long long)p->head->pid, p->head->host);
            told++;
        }
    }
    return told;
}

static bool moved(const td_diagnosis *d)
{
    for (int r = 0; r < d->size; r++) {
        const td_past *p = &d->rank[r];
        if (!p->bytes || !p->before) continue;
        if (((const td_recorder_head *)(const void *)p->before)->next != p->head->next) return true;
    }
    return false;
}

/* In every group, and nobody is in a message or a request. */
static bool all_alike(const td_diagnosis *d)
{
    for (int k = 0; k < d->groups; k++) {
        const td_past_group *g = &d->group[k];
        uint64_t at = 0;
        bool first = true;
        for (int r = 0; r < d->size; r++) {
            const td_recorder_group *of = d->rank[r].left ? NULL : td_past_of(d, r, g);
            if (!of || of->closed) continue;
            if (!first && of->collectives != at) return false;
            const td_record *alone = td_past_newest(d, r, g, true);
            if (alone && alone->state == TD_RECORD_BEGUN) return false;
            first = false, at = of->collectives;
        }
        if (g->members < g->ranks) return false;
    }
    return true;
}

/* Only what is true of all groups. */
static void close_verdict(const td_diagnosis *d, int told, bool waits)
{
    int ended = 0, failed = 0;
    for (int r = 0; r < d->size; r++) {
        bool any = false;
        ended += d->rank[r].left || d->rank[r].life == TD_ENDED ||
                 (d->generation && d->rank[r].life == TD_NO_RECORD);
        for (int k = 0; k < 2 * d->groups; k++) {
            const td_record *e =
                d->rank[r].left ? NULL : td_past_newest(d, r, &d->group[k / 2], k % 2);
            any = any || (e && e->state == TD_RECORD_FAILED);
        }
        failed += any;
    }
    if (ended == d->size && failed)
        printf("all ranks%s have ended, %d of them after an operation that failed\n",
               d->generation ? " that were left" : "", failed);
    else if (ended == d->size)
        puts(d->generation ? "all ranks that were left have ended" : "all ranks have ended");
    else if (!told && !waits && all_alike(d))
        puts("all ranks are at the same operation");
    else if (!told && !waits && moved(d))
        printf("ranks went on within the %.1f s in which this was read\n",
               (double)d->between_ns * 1e-9);
    else if (!told && !waits)
        puts("no rank waits for another");
}

void td_diagnosis_verdict(const td_diagnosis *d)
{
    bool waits = false, differ = false;
    int told = find_dead(d);
    for (int k = 0; k < d->groups; k++) told += look_at(d, &d->group[k], &waits, &differ);
    if (!differ) told += find_circles(d);
    for (int k = 0; k < d->groups; k++) tell_latest(d, &d->group[k]);
    for (int r = 0; r < d->size; r++)
        if (d->rank[r].bytes && d->rank[r].head->lost)
            printf("rank %d had more than %d groups open at once; %u of them are not recorded\n", r,
                   TD_RECORDER_GROUPS, d->rank[r].head->lost);
    close_verdict(d, told, waits);
}
