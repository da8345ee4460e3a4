/* tandem diagnose: the ranks' records of operations side by side, and what they tell: who is
 * missing, who runs something else. Works on running, ended and killed runs alike. */
#include "cli/cli.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"
#include "comm/recorder.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MOST_RANKS = 1024, HEAD = 4096, SHOWN = 4 };

typedef struct rank_record {
    char *bytes; /* the file; NULL: none */
    const td_recorder_head *head;
    const td_record *newest; /* collective of the whole run, NULL: none */
    bool left;               /* the others have made a group without it since */
} rank_record;

static const td_record *record_at(const rank_record *r, uint64_t number)
{
    return (const td_record *)(const void *)(r->bytes + HEAD) + number % TD_RECORDS;
}

/* The newest entry of the whole run's group that comes before entry `number`. */
static const td_record *newest_before(const rank_record *r, uint64_t *number)
{
    uint64_t oldest = r->head->next > TD_RECORDS ? r->head->next - TD_RECORDS : 0;
    while (*number > oldest) {
        const td_record *e = record_at(r, --*number);
        if (e->group == (uint32_t)r->head->size && e->does != TD_DOES_SEND &&
            e->does != TD_DOES_RECV && e->state)
            return e;
    }
    return NULL;
}

static td_status read_rank(const char *folder, int rank, rank_record *out)
{
    char name[32], path[TD_PATH_MAX];
    size_t size;
    snprintf(name, sizeof name, "rank-%d", rank);
    TD_TRY(td_path_join(path, folder, name));
    if (!td_path_exists(path)) return TD_OK;
    TD_TRY(td_read_file(path, &out->bytes, &size));
    out->head = (const td_recorder_head *)(const void *)out->bytes;
    if (size != HEAD + TD_RECORDS * sizeof(td_record) ||
        memcmp(out->head->magic, TD_RECORDER_MAGIC, sizeof out->head->magic) != 0 ||
        out->head->version != TD_RECORDER_VERSION || out->head->record_bytes != sizeof(td_record) ||
        out->head->rank != rank || out->head->size < 1 || out->head->size > MOST_RANKS ||
        (out->head->generation == 0 && out->head->size <= rank))
        return td_fail(TD_ERR_CORRUPT, "%s is not a record of rank %d's operations", path, rank);
    for (int k = 0; k < TD_RECORDS; k++)
        if (record_at(out, (uint64_t)k)->does >= TD_DOES_END)
            return td_fail(TD_ERR_CORRUPT, "%s: entry %d is none of an operation", path, k);
    uint64_t number = out->head->next;
    out->newest = newest_before(out, &number);
    return TD_OK;
}

static void describe(const td_record *e, char *text, size_t room)
{
    static const char *const types[] = {"f32", "f64", "i32", "i64", "u8", "f16", "bf16"};
    static const char *const ops[] = {"sum", "min", "max", "product"};
    int n = snprintf(text, room, "%s", td_does_names[e->does]);
    if (e->bytes)
        n += snprintf(text + n, room - (size_t)n, " %llu B", (unsigned long long)e->bytes);
    if (e->type <= TD_BF16 && e->op <= TD_PROD)
        n += snprintf(text + n, room - (size_t)n, " %s %s", types[e->type], ops[e->op]);
    if (e->root > 0 || (e->root == 0 && (e->does == TD_BROADCAST || e->does == TD_REDUCE)))
        snprintf(text + n, room - (size_t)n, " root %d", e->root);
}

static bool alive(const td_recorder_head *h)
{
    char host[64] = "";
    gethostname(host, sizeof host - 1);
    if (strcmp(host, h->host) != 0) return true; /* who knows */
    return kill((pid_t)h->pid, 0) == 0 || errno == EPERM;
}

static void print_rank(const rank_record *r, int rank)
{
    if (!r->bytes) {
        printf("%5d  no record\n", rank);
        return;
    }
    const td_recorder_head *h = r->head;
    char what[96] = "no operation yet";
    const char *state = h->closed_ns ? "ended" : !alive(h) ? "DIED" : "computing";
    if (r->newest) {
        describe(r->newest, what, sizeof what);
        if (!h->closed_ns && r->newest->state == TD_RECORD_BEGUN && alive(h)) state = "inside";
        if (r->newest->state == TD_RECORD_FAILED) state = "failed";
    }
    printf("%5d  %-10s %8llu %10llu  %-42s", rank, state, (unsigned long long)h->step,
           r->newest ? (unsigned long long)r->newest->sequence : 0ull, what);
    if (r->newest && r->newest->begin_ns)
        printf("  at %.3f s", (double)(r->newest->begin_ns - h->opened_ns) * 1e-9);
    if (r->newest && r->newest->waited_ns > 1000000)
        printf(", waited %.3f s", (double)r->newest->waited_ns * 1e-9);
    if (r->newest && r->newest->missing >= 0) printf(", for rank %d", r->newest->missing);
    printf("  (%s, process %lld)\n", h->host, (long long)h->pid);
}

/* The newest operations, one line for each, a column for each rank. */
static void print_side_by_side(const rank_record *ranks, int size, uint64_t last)
{
    printf("\nnewest operations of all ranks (>: inside, !: failed)\noperation");
    for (int r = 0; r < size; r++) printf("  rank %-19d", r);
    printf("\n");
    for (uint64_t s = last > SHOWN ? last - SHOWN + 1 : 1; s <= last; s++) {
        printf("%9llu", (unsigned long long)s);
        for (int r = 0; r < size; r++) {
            char what[96] = "-";
            const char *mark = " ";
            uint64_t number = ranks[r].bytes ? ranks[r].head->next : 0;
            for (const td_record *e; number && (e = newest_before(&ranks[r], &number));) {
                if (e->sequence != s) continue;
                describe(e, what, sizeof what);
                if (e->state == TD_RECORD_BEGUN) mark = ">";
                if (e->state == TD_RECORD_FAILED) mark = "!";
                break;
            }
            printf(" %s%-23.23s", mark, what);
        }
        printf("\n");
    }
}

static bool same(const td_record *a, const td_record *b)
{
    return a->does == b->does && a->bytes == b->bytes && a->type == b->type && a->op == b->op &&
           a->root == b->root;
}

static bool has_failed(const rank_record *r)
{
    return r->newest && r->newest->state == TD_RECORD_FAILED;
}

/* A rank beside the first of those that came furthest; what is told, is counted. */
static int compare_to_first(const rank_record *ranks, int r, int first)
{
    const td_record *e = ranks[r].newest, *furthest = ranks[first].newest;
    char mine[96], theirs[96];
    describe(furthest, theirs, sizeof theirs);
    if (e) describe(e, mine, sizeof mine);
    if (e && e->sequence == furthest->sequence) {
        if (same(e, furthest)) return 0;
        printf("rank %d runs %s where rank %d runs %s (operation %llu)\n", r, mine, first, theirs,
               (unsigned long long)e->sequence);
        return 1;
    }
    if (has_failed(&ranks[r])) return 0; /* it had come, to another one */
    printf("rank %d has not come to operation %llu (%s), which rank %d is in or has ended: ", r,
           (unsigned long long)furthest->sequence, theirs, first);
    if (e)
        printf("its last is operation %llu (%s)\n", (unsigned long long)e->sequence, mine);
    else
        printf("it has run none\n");
    return 1;
}

/* failed: some rank's newest operation has failed, so what ranks that have ended ran last tells
 * why.
 */
static int verdict(const rank_record *ranks, int size, uint64_t last, bool failed)
{
    int told = 0, first = -1;
    for (int r = 0; r < size; r++) {
        const rank_record *k = &ranks[r];
        if (k->left) {
            if (!k->head->closed_ns)
                printf("rank %d (process %lld on %s) has died in step %llu; the others went on\n",
                       r, (long long)k->head->pid, k->head->host,
                       (unsigned long long)k->head->step);
            continue;
        }
        if (!k->bytes) {
            printf("rank %d has left no record\n", r);
            told++;
        } else if (!k->head->closed_ns && !alive(k->head)) {
            printf("rank %d (process %lld on %s) has died in step %llu\n", r,
                   (long long)k->head->pid, k->head->host, (unsigned long long)k->head->step);
            told++;
        }
        if (k->newest && k->newest->sequence == last && first < 0) first = r;
    }
    for (int r = 0; r < size && first >= 0; r++)
        if (ranks[r].bytes && !ranks[r].left && (!ranks[r].head->closed_ns || failed))
            told += compare_to_first(ranks, r, first);
    for (int r = 0; r < size; r++) { /* who was, or is, waited for? */
        if (ranks[r].left) continue;
        const td_record *e = ranks[r].newest;
        bool waits = !told && e && e->state == TD_RECORD_BEGUN;
        if (!e || e->missing < 0 || !(waits || has_failed(&ranks[r]))) continue;
        printf(waits ? "rank %d waits for rank %d inside operation %llu (%s)\n"
                     : "rank %d waited for rank %d when operation %llu (%s) failed\n",
               r, e->missing, (unsigned long long)e->sequence, td_does_names[e->does]);
    }
    return told;
}

td_status td_cmd_diagnose(int argc, char **argv)
{
    char folder[TD_PATH_MAX];
    td_status status = TD_OK;
    int size = 0, ended = 0;
    bool failed = false;
    uint64_t last = 0;
    if (argc != 1 || argv[0][0] == '-')
        return td_fail(TD_ERR_ARG, "say which run: tandem diagnose RUN");
    TD_TRY(td_path_join(folder, argv[0], "recorder"));
    rank_record *ranks = td_calloc(MOST_RANKS, sizeof *ranks);
    if (!ranks) return td_fail(TD_ERR_NOMEM, "no memory for the records");
    uint64_t generation = 0;
    for (int r = 0; r < MOST_RANKS; r++) {
        TD_GOTO(read_rank(folder, r, &ranks[r]));
        if (!ranks[r].bytes) continue;
        int least = ranks[r].head->generation ? r + 1 : ranks[r].head->size;
        if (least > size) size = least;
        if (ranks[r].head->generation > generation) generation = ranks[r].head->generation;
    }
    for (int r = 0; r < size; r++) /* spares that nobody needed have no record, either */
        ranks[r].left = ranks[r].bytes && ranks[r].head->generation < generation;
    if (size == 0) {
        status = td_fail(TD_ERR_ARG, "%s holds no record of a run's operations", folder);
        goto out;
    }
    printf(" rank  state          step  operation  what\n");
    for (int r = 0; r < size; r++) {
        print_rank(&ranks[r], r);
        ended += ranks[r].left || (ranks[r].bytes && ranks[r].head->closed_ns != 0);
        if (ranks[r].left) continue;
        if (ranks[r].newest && ranks[r].newest->sequence > last) last = ranks[r].newest->sequence;
        failed = failed || has_failed(&ranks[r]);
    }
    if (last) print_side_by_side(ranks, size, last);
    printf("\n");
    if (ended == size)
        puts(generation ? "all ranks that were left have ended" : "all ranks have ended");
    bool open = ended < size || failed;
    if ((open || generation) && !verdict(ranks, size, last, failed) && open)
        puts("all ranks are at the same operation");
out:
    for (int r = 0; r < MOST_RANKS; r++) td_free(ranks[r].bytes);
    td_free(ranks);
    return status;
}
