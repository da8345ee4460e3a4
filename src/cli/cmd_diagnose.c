/* tandem diagnose: the ranks' records of operations side by side, and what they tell: who is
 * missing, who runs something else. Works on running, ended and killed runs alike. */
#include "cli/cli.h"

#include "base/error.h"
#include "base/fs.h"
#include "cli/diagnose.h"

#include <stdio.h>
#include <string.h>

enum { SHOWN = 4 };

/* --- what each rank does --- */

static const char *state_of(const td_diagnosis *d, int r, td_deed doing)
{
    const td_past *p = &d->rank[r];
    const td_record *e = doing.entry;
    if (e && e->state == TD_RECORD_FAILED) return "failed";
    switch (p->life) {
    case TD_ENDED: return "ended";
    case TD_DIED: return "DIED";
    case TD_STOPPED: return "STOPPED";
    default: break;
    }
    if (e && e->state == TD_RECORD_BEGUN) return "inside";
    return td_past_awaits(d, r) ? "waiting" : "computing";
}

/* Since when, how long, how much of that for others. */
static void print_times(const td_diagnosis *d, td_deed deed)
{
    const td_record *e = deed.entry;
    double waited = (double)e->waited_ns * 1e-9, took = (double)(e->end_ns - e->begin_ns) * 1e-9;
    bool exactly;
    if (e->state == TD_RECORD_BEGUN && d->rank[deed.rank].life == TD_DIED) {
        if (e->begin_ns) printf(", begun %.3f s ago", td_past_since(d, deed.rank, e->begin_ns));
        return;
    }
    if (e->state == TD_RECORD_BEGUN) {
        if (e->begin_ns) printf(" for %.3f s", td_past_since(d, deed.rank, e->begin_ns));
        if (e->end_ns && e->missing >= 0)
            printf(", waiting for rank %d for %.3f s", e->missing,
                   td_past_since(d, deed.rank, e->end_ns));
        else if (e->end_ns)
            printf(", waiting for %.3f s", td_past_since(d, deed.rank, e->end_ns));
        if (waited > 0.001) printf(", %.3f s before that", waited);
        return;
    }
    double ago = td_past_idle(d, deed, &exactly);
    printf(" %s%.3f s ago", exactly ? "" : "at most ", ago);
    if (e->begin_ns && e->end_ns && took > 0.001) printf(", took %.3f s", took);
    if (waited > 0.001) printf(", %.3f s of it waiting", waited);
    if (e->state == TD_RECORD_FAILED && e->missing >= 0) printf(", for rank %d", e->missing);
}

static void print_deed(const td_diagnosis *d, td_deed deed, const char *ahead)
{
    char what[TD_PAST_TEXT], where[TD_PAST_TEXT];
    td_deed_describe(deed.entry, what);
    td_deed_place(deed, where);
    printf("%s%s%s", ahead, what, where);
    print_times(d, deed);
}

/* Of a rank that is in none of the groups that the others are in now. */
static void print_last(const td_record *e)
{
    char what[TD_PAST_TEXT];
    if (!e) {
        printf("no operation yet");
        return;
    }
    td_deed_describe(e, what);
    printf("%s %s (operation %llu), before the others went on",
           e->state == TD_RECORD_BEGUN ? "inside" : "after", what, (unsigned long long)e->sequence);
}

static void print_rank(const td_diagnosis *d, int r)
{
    const td_past *p = &d->rank[r];
    if (!p->bytes) {
        printf("%5d  no record\n", r);
        return;
    }
    td_deed doing = td_past_doing(d, r);
    bool after = doing.entry && doing.entry->state == TD_RECORD_DONE;
    printf("%5d  %-10s %8llu  ", r, state_of(d, r, doing), (unsigned long long)p->head->step);
    if (doing.entry)
        print_deed(d, doing, after ? "after " : "");
    else
        print_last(td_past_last(d, r));
    printf("  (%s, process %lld)\n", p->head->host, (long long)p->head->pid);
    for (int k = 0; k < d->groups; k++) {
        const td_past_group *g = &d->group[k];
        const td_record *e = g->kind == TD_GROUP_WORKS ? td_past_newest(d, r, g, false) : NULL;
        if (!e || e->state == TD_RECORD_DONE) continue;
        print_deed(d, (td_deed){g, e, r}, "                             beside it: ");
        printf(e->state == TD_RECORD_FAILED ? ", failed\n" : "\n");
    }
}

/* --- newest operations --- */

static void print_cell(const td_diagnosis *d, int r, const td_past_group *g, uint64_t sequence)
{
    char what[TD_PAST_TEXT] = "-";
    const td_record *e = td_past_entry(d, r, g, sequence);
    const char *mark = " ";
    if (e) td_deed_describe(e, what);
    if (e && e->state == TD_RECORD_BEGUN) mark = ">";
    if (e && e->state == TD_RECORD_FAILED) mark = "!";
    printf(" %s%-23.23s", mark, what);
}

/* Whether something is under way in it, or failed. */
static bool is_open(const td_diagnosis *d, const td_past_group *g)
{
    for (int r = 0; r < d->size; r++) {
        const td_record *e = td_past_newest(d, r, g, false);
        if (e && e->state != TD_RECORD_DONE) return true;
    }
    return false;
}

/* The newest operations of a group, one line for each, a column for each of its ranks. */
static void print_side_by_side(const td_diagnosis *d, const td_past_group *g)
{
    uint64_t last = 0;
    for (int r = 0; r < d->size; r++) {
        const td_recorder_group *of = td_past_of(d, r, g);
        if (of && of->collectives > last) last = of->collectives;
    }
    if (!last) return;
    printf("\nnewest operations of %s (>: inside, !: failed)\noperation",
           *g->name ? g->name : "all ranks");
    for (int r = 0; r < d->size; r++)
        if (td_past_of(d, r, g)) printf("  rank %-18d", r);
    printf("\n");
    for (uint64_t s = last > SHOWN ? last - SHOWN + 1 : 1; s <= last; s++) {
        printf("%9llu", (unsigned long long)s);
        for (int r = 0; r < d->size; r++)
            if (td_past_of(d, r, g)) print_cell(d, r, g, s);
        printf("\n");
    }
}

td_status td_cmd_diagnose(int argc, char **argv)
{
    char folder[TD_PATH_MAX];
    td_diagnosis d;
    if (argc != 1 || argv[0][0] == '-')
        return td_fail(TD_ERR_ARG, "say which run: tandem diagnose RUN");
    TD_TRY(td_path_join(folder, argv[0], "recorder"));
    TD_TRY(td_diagnosis_read(folder, &d));
    printf(" rank  state          step  what\n");
    for (int r = 0; r < d.size; r++) print_rank(&d, r);
    for (int k = 0; k < d.groups; k++)
        if (!*d.group[k].name || is_open(&d, &d.group[k])) print_side_by_side(&d, &d.group[k]);
    printf("\n");
    td_diagnosis_verdict(&d);
    td_diagnosis_free(&d);
    return TD_OK;
}
