/* Wrong use, kind by kind: each ends in an error that names the rank and the operation, within the
 * deadline, on every transport and layout; none hangs.
 *
 *     misuse_test             threads, on one host and on several pretended ones
 *     misuse_test mpi [WORD]  the ranks that mpiexec started, four at least; kinds with that word
 *     misuse_test alone KIND [RUN]    one kind whose failure ends the job; ranks print what they
 *                                     were told, and record what they do for "tandem diagnose RUN";
 *                                     on threads where no mpiexec started it
 *     misuse_test kinds               names those that threads can do
 *
 * Four ranks take part, of which rank 1 does wrong. Who comes through goes on to a barrier, which
 * cannot succeed. On threads a rank that fails ends the others' waits, as in a run; under mpiexec,
 * where a run's failure is for good, kinds have groups of their own with a short deadline, and what
 * ranks were told is gathered. */
#include "comm/misuse_kinds_test.h"

#include "base/clock.h"
#include "base/test.h"

#include <stdlib.h>
#include <unistd.h>

/* --- running a kind --- */

enum { MARGIN_MS = 10000 /* of a busy machine, beyond the deadline */ };

typedef struct told { /* by a rank */
    int32_t status, took_ms;
    char sentence[SENTENCE];
} told;

static void run_kind(const kind *k, td_comm *c, told *out)
{
    hand h = {.c = c, .me = td_comm_rank(c), .wrong = td_comm_rank(c) == 1};
    h.x = td_calloc(2 * ROOM, sizeof *h.x), h.y = h.x + ROOM;
    int64_t begin = td_clock_ns();
    td_status status = k->act ? k->act(&h) : run_collective(&h, h.wrong ? k->wrong : k->right);
    if (status == TD_OK && !k->leaves) status = td_comm_barrier(c);
    out->took_ms = (int32_t)((td_clock_ns() - begin) / 1000000);
    out->status = (int32_t)status;
    snprintf(out->sentence, SENTENCE, "%s", status == TD_OK ? "" : td_last_error());
    td_free(h.x);
}

static bool has_all(const char *const says[SAYS], const char *sentence)
{
    for (int i = 0; i < SAYS && says[i]; i++)
        if (!strstr(sentence, says[i])) return false;
    return true;
}

static bool says_all(const kind *k, const char *sentence)
{
    return has_all(k->says, sentence);
}

static bool names_an_operation(const char *sentence)
{
    for (int i = 0; i < TD_DOES_END; i++)
        if (strstr(sentence, td_does_names[i])) return true;
    return false;
}

/* All who must have failed have, with an operation in the sentence, within the deadline; one says
 * all, and not only by the deadline where that is not needed. */
static bool verdict(const kind *k, const told *of, int deadline_ms, bool says_why)
{
    bool said = false, good = true;
    for (int r = 0; r < RANKS; r++) {
        bool may_pass = (k->only_1 && r != 1) || (k->leaves && !k->only_1 && r == 1);
        if (of[r].status == TD_OK && !may_pass) good = false;
        if (of[r].took_ms > deadline_ms + MARGIN_MS) good = false;
        if (of[r].status == TD_OK) continue;
        if (!names_an_operation(of[r].sentence) && !says_all(k, of[r].sentence)) good = false;
        bool by_deadline = of[r].status == TD_ERR_TIMEOUT && !k->late;
        said = said || (says_all(k, of[r].sentence) && !by_deadline);
    }
    if ((good && said) || !says_why) return good && said;
    print_error("%s:\n", k->name);
    for (int r = 0; r < RANKS; r++)
        print_error("  rank %d: %s after %d ms of %d: %s\n", r,
                    td_status_name((td_status)of[r].status), of[r].took_ms, deadline_ms,
                    of[r].sentence);
    return false;
}

/* --- on threads --- */

typedef struct trial {
    const kind *kind;
    told of[RANKS];
} trial;

static td_status rank_of_trial(td_comm *c, void *arg)
{
    trial *t = arg;
    told *own = &t->of[td_comm_rank(c)];
    run_kind(t->kind, c, own);
    return own->status == TD_OK ? TD_OK : td_fail_again((td_status)own->status, own->sentence);
}

static void on_threads(const char *hosts)
{
    int bad = 0;
    setenv("TANDEM_FAKE_HOSTS", hosts, 1);
    for (int k = 0; k < KINDS; k++) {
        trial t = {.kind = &kinds[k]};
        int deadline_ms = kinds[k].late ? QUICK_MS : PATIENT_MS;
        td_comm_config config = {.deadline_ms = deadline_ms};
        td_status status = td_comm_run_local(RANKS, &config, rank_of_trial, &t);
        if (!verdict(&kinds[k], t.of, deadline_ms, true) || status == TD_OK) bad++;
        bool other = kinds[k].run_says[0] && has_all(kinds[k].run_says, td_last_error());
        if (!says_all(&kinds[k], td_last_error()) && !other) {
            print_error("%s: the run says: %s\n", kinds[k].name, td_last_error());
            bad++;
        }
    }
    unsetenv("TANDEM_FAKE_HOSTS");
    assert_int_equal(bad, 0);
}

static void on_one_host(void **state)
{
    (void)state;
    on_threads("0");
}

static void on_two_hosts(void **state)
{
    (void)state;
    on_threads("0,0,1,1");
}

static void on_four_hosts(void **state)
{
    (void)state;
    on_threads("0,1,2,3");
}

/* --- under mpiexec --- */

static td_status kind_in_a_group(td_comm *world, const kind *k, int deadline_ms, int *good)
{
    static told all[1024]; /* of rank 0 */
    told own = {0};
    td_comm *group;
    int me = td_comm_rank(world);
    TD_TRY(td_comm_split(world, me < RANKS ? 0 : -1, me, &group));
    if (group) {
        group->deadline_ms = deadline_ms;
        run_kind(k, group, &own);
    }
    TD_TRY(td_comm_gather(world, &own, sizeof own, all, 0));
    if (me == 0) *good = verdict(k, all, deadline_ms, deadline_ms > HASTY_MS);
    td_comm_close(group);
    return td_comm_broadcast(world, good, sizeof *good, 0);
}

static td_status on_processes(td_comm *world, void *arg)
{
    const char *word = arg;
    int bad = 0, ran = 0;
    if (td_comm_size(world) < RANKS) return td_fail(TD_ERR_ARG, "%d ranks are needed", RANKS);
    for (int k = 0; k < KINDS; k++) {
        if (!strstr(kinds[k].name, word)) continue;
        int good; /* with a deadline that may be too short on a busy machine, or else again */
        TD_TRY(kind_in_a_group(world, &kinds[k], HASTY_MS, &good));
        if (!good) TD_TRY(kind_in_a_group(world, &kinds[k], SLOW_MS, &good));
        bad += !good, ran++;
    }
    if (td_comm_rank(world) == 0) {
        printf("[  PASSED  ] %d test(s).\n", ran - bad);
        if (bad) printf("[  FAILED  ] %d test(s).\n", bad);
    }
    return bad ? td_fail(TD_ERR_INTERNAL, "%d kinds of misuse are not told as they should", bad)
               : TD_OK;
}

typedef struct lone {
    const kind *kind;
    const char *run; /* NULL: no record */
} lone;

static td_status one_for_good(td_comm *world, void *arg)
{
    const lone *l = arg;
    told own;
    char path[1024];
    if (l->run) {
        snprintf(path, sizeof path, "%s/recorder/rank-%d", l->run, td_comm_rank(world));
        TD_TRY(td_comm_record(world, path));
    }
    run_kind(l->kind, world, &own);
    printf("rank %d: %s: %s\n", td_comm_rank(world), td_status_name((td_status)own.status),
           own.sentence);
    fflush(stdout);
    return own.status == TD_OK ? TD_OK : td_fail_again((td_status)own.status, own.sentence);
}

static int alone(const char *name, const char *run)
{
    const kind *found = NULL;
    for (int k = 0; k < KINDS; k++)
        if (!strcmp(kinds[k].name, name)) found = &kinds[k];
    for (size_t k = 0; k < sizeof deadly / sizeof *deadly; k++)
        if (!strcmp(deadly[k].name, name)) found = &deadly[k];
    if (!found) return 2;
    td_comm_config config = {.deadline_ms = found->late ? 2 * QUICK_MS : PATIENT_MS};
    lone l = {found, run};
    td_status status = td_comm_launched_by_mpi()
                           ? td_comm_run_mpi(&config, one_for_good, &l)
                           : td_comm_run_local(RANKS, &config, one_for_good, &l);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}

int main(int argc, char **argv)
{
    alarm(240); /* none hangs */
    for (int k = 0; k < KINDS && argc == 2 && !strcmp(argv[1], "kinds"); k++) puts(kinds[k].name);
    if (argc == 2 && !strcmp(argv[1], "kinds")) return 0;
    if (argc > 2 && !strcmp(argv[1], "alone")) return alone(argv[2], argv[3]);
    if (argc > 1 && !strcmp(argv[1], "mpi")) {
        td_comm_config patient = {.deadline_ms = 60000};
        td_status status = td_comm_run_mpi(&patient, on_processes, argc > 2 ? argv[2] : "");
        if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
        return status != TD_OK;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_one_host),
        cmocka_unit_test(on_two_hosts),
        cmocka_unit_test(on_four_hosts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
