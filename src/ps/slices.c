/* See slices.h. */
#include "ps/slices.h"

#include "base/error.h"

static int index_of(const int *server, int count, int32_t wanted)
{
    for (int k = 0; k < count; k++)
        if (server[k] == wanted) return k;
    return -1;
}

void td_slices_deal(td_slices *s, uint64_t rows, const int *server, int count, int replicas)
{
    s->rows = rows;
    for (int k = 0; k < TD_SLICES; k++) {
        int at = k * count / TD_SLICES;
        s->primary[k] = server[at];
        s->backup[k] = replicas && count > 1 ? server[(at + 1 + k % (count - 1)) % count] : -1;
    }
}

/* --- after a loss --- */

typedef struct tally {
    int primaries[TD_MOST_SERVERS], copies[TD_MOST_SERVERS]; /* of each server; copies: backups */
} tally;

static void count_all(const td_slices *s, const int *server, int count, tally *t)
{
    *t = (tally){{0}, {0}};
    for (int k = 0; k < TD_SLICES; k++) {
        int p = index_of(server, count, s->primary[k]), b = index_of(server, count, s->backup[k]);
        if (p >= 0) t->primaries[p]++;
        if (b >= 0) t->copies[b]++;
    }
}

/* The server with the fewest, other than `not`; -1: there is none. */
static int fewest(const int *numbers, int count, int not )
{
    int best = -1;
    for (int k = 0; k < count; k++)
        if (k != not &&(best < 0 || numbers[k] < numbers[best])) best = k;
    return best;
}

static int most(const int *numbers, int count)
{
    int best = 0;
    for (int k = 1; k < count; k++)
        if (numbers[k] > numbers[best]) best = k;
    return best;
}

/* Primaries from who has most to who has fewest; the backup takes over where it is that one. Best
 * of slices that are still to get a second server: who had it stays that. */
static void even_primaries(td_slices *s, const int *server, int count, int replicas)
{
    tally t;
    for (;;) {
        count_all(s, server, count, &t);
        int from = most(t.primaries, count), to = fewest(t.primaries, count, -1), slice = -1;
        if (t.primaries[from] - t.primaries[to] < 2) return;
        for (int k = 0, best = -1; k < TD_SLICES; k++) {
            int fits = s->backup[k] == server[to] ? 2 : s->backup[k] < 0;
            if (s->primary[k] == server[from] && fits > best) slice = k, best = fits;
        }
        if (s->backup[slice] == server[to] || (replicas && s->backup[slice] < 0))
            s->backup[slice] = server[from];
        s->primary[slice] = server[to];
    }
}

static void fill_backups(td_slices *s, const int *server, int count)
{
    tally t;
    count_all(s, server, count, &t);
    for (int k = 0; k < TD_SLICES; k++) {
        if (index_of(server, count, s->backup[k]) >= 0) continue;
        int to = fewest(t.copies, count, index_of(server, count, s->primary[k]));
        s->backup[k] = to >= 0 ? server[to] : -1;
        if (to >= 0) t.copies[to]++;
    }
}

td_status td_slices_repair(const td_slices *before, const int *server, int count, int replicas,
                           td_slices *after)
{
    td_slices s = *before;
    for (int k = 0; k < TD_SLICES; k++) {
        bool primary = index_of(server, count, s.primary[k]) >= 0;
        bool backup = index_of(server, count, s.backup[k]) >= 0;
        if (!primary && !backup)
            return td_fail(TD_ERR_PEER,
                           "part %d of %d of a table is lost: it was at rank %d%s, and no other "
                           "rank has it",
                           k, TD_SLICES, (int)s.primary[k],
                           s.backup[k] >= 0 ? " and its copy, too, at one that is gone" : "");
        if (!primary) s.primary[k] = s.backup[k];
        if (!primary || !backup) s.backup[k] = -1;
    }
    even_primaries(&s, server, count, replicas);
    if (replicas) fill_backups(&s, server, count);
    *after = s;
    return TD_OK;
}

void td_slices_serve_first(const td_slices *before, const td_slices *after, td_slices *first,
                           td_slices *now)
{
    *first = *now = *after;
    for (int k = 0; k < TD_SLICES; k++) {
        int32_t one = before->primary[k] >= 0 ? before->primary[k] : before->backup[k];
        bool alone = before->primary[k] < 0 || before->backup[k] < 0;
        if (!alone || after->backup[k] < 0 || !td_slices_has(after, k, one)) continue;
        first->primary[k] = now->primary[k] = one;
        first->backup[k] = -1;
        now->backup[k] = after->primary[k] == one ? after->backup[k] : after->primary[k];
    }
}

/* --- hot slices --- */

int td_slices_balance(const td_slices *before, const double load[TD_SLICES], const int *server,
                      int count, td_slices *after)
{
    double has[TD_MOST_SERVERS] = {0};
    int moved = 0;
    *after = *before;
    for (int k = 0; k < TD_SLICES; k++) {
        int at = index_of(server, count, after->primary[k]);
        if (at >= 0) has[at] += load[k];
    }
    for (int round = 0; round < TD_SLICES; round++) {
        int from = 0, to = 0, best = -1;
        for (int k = 1; k < count; k++) {
            if (has[k] > has[from]) from = k;
            if (has[k] < has[to]) to = k;
        }
        double gap = has[from] - has[to];
        if (gap <= 0.1 * has[from]) break;
        for (int k = 0; k < TD_SLICES; k++) /* the largest that fits half of the gap */
            if (after->primary[k] == server[from] && load[k] > 0 && load[k] < gap &&
                (best < 0 || (load[k] <= gap / 2) > (load[best] <= gap / 2) ||
                 (load[k] <= gap / 2 && load[k] > load[best])))
                best = k;
        if (best < 0) break;
        if (after->backup[best] == server[to]) after->backup[best] = server[from];
        after->primary[best] = server[to];
        has[from] -= load[best], has[to] += load[best];
        moved++;
    }
    return moved;
}

double td_slices_hottest(const td_slices *s, const double load[TD_SLICES], int *out_which)
{
    double all = 0, most = 0;
    int which = s->primary[0];
    for (int k = 0; k < TD_SLICES; k++) {
        double has = 0;
        bool seen = false; /* its server has been looked at; neighbours are mostly of one */
        for (int j = k - 1; j >= 0 && !seen; j--) seen = s->primary[j] == s->primary[k];
        all += load[k];
        for (int j = k; j < TD_SLICES && !seen; j++)
            has += s->primary[j] == s->primary[k] ? load[j] : 0;
        if (has > most) most = has, which = s->primary[k];
    }
    if (out_which) *out_which = which;
    return all > 0 ? most / all : 0;
}
