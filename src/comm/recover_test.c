/* Recovery: ranks are lost in every operation, in recovery itself and several at once; the others
 * go on, with spares where there are any, and add exactly. See ranks_test.h; under MPI the program
 * runs one test, as a rank that is lost is a process: "recover_test mpi-TEST". */
#include "comm/recover_kinds_test.h"
#include "comm/recover_works_test.h"

#include "base/clock.h"
#include "comm/recorder.h"
#include "comm/transport/local.h"

/* --- one loss after the other --- */

typedef struct chain {
    int seed;
    int lost; /* ranks, so far; atomic */
} chain;

static int victim_of(td_comm *c, int round, int seed)
{
    int n = td_comm_size(c), choice = (round + seed) % 3;
    return choice == 0 ? 0 : choice == 1 ? n / 2 : n - 1;
}

static td_status after_loss(td_comm *broken, bool owned, td_comm **c)
{
    td_recovery report;
    td_comm *next = NULL;
    TD_TRY(td_comm_recover(broken, &(td_recover_config){.deadline_ms = 20000}, &next, &report));
    td_status status = TD_OK;
    if (!next || report.generation <= td_comm_generation(broken) ||
        report.size != td_comm_size(next) || report.size_before != td_comm_size(broken))
        status = td_fail(TD_ERR_INTERNAL, "the report of the recovery is wrong");
    for (int k = 0; k < report.came_count && status == TD_OK; k++)
        if (td_comm_size(next) > td_comm_size(broken))
            status = td_fail(TD_ERR_INTERNAL, "more came than were wanted");
    if (owned) td_comm_close(broken);
    *c = next;
    return status;
}

/* Of a thread. */
static bool is_lost(td_comm *c)
{
    if (strcmp(td_comm_transport(c), "local") != 0) return false;
    td_local_run *run = ((td_local_group *)c->impl)->run;
    pthread_mutex_lock(&run->lock);
    bool lost = run->rank[c->seat->rank].role == TD_ROLE_DEAD;
    pthread_mutex_unlock(&run->lock);
    return lost;
}

static bool fits(td_comm *c, const kind *k)
{
    return td_comm_size(c) > k->losses;
}

static td_status lose_one_after_the_other(td_comm *first, void *arg)
{
    chain *plan = arg;
    td_comm *c = first;
    bool owned = false;
    second s = {0, false};
    int32_t round = td_comm_joined(c, td_comm_rank(c)) ? -1 : 0;
    td_status status = TD_OK;
    while (status == TD_OK) {
        status = agree_on_round(c, &round);
        if (status == TD_OK) status = works(c);
        const kind *k = status == TD_OK && round < KINDS ? &kinds[round] : NULL;
        if (status == TD_OK && !k) break;
        if (k && fits(c, k)) {
            int victim = victim_of(c, round, plan->seed);
            bool lost = is(c, victim) ||
                        (k->losses > 1 && k->step < 0 && is(c, (victim + 1) % td_comm_size(c)));
            status = k->step < 0 ? k->run(c, victim) : and_in_recovery(c, victim, k->step, &s);
            if (lost) break;
            if (status == TD_OK) status = td_comm_barrier(c);
            if (status == TD_OK)
                status = td_fail(TD_ERR_INTERNAL, "rank %d did not notice the loss: %s",
                                 td_comm_rank_in_run(c, td_comm_rank(c)), k->name);
            round++;
        } else if (k) {
            round++;
            continue;
        }
        if (status != TD_ERR_PEER) break;
        status = after_loss(c, owned, &c);
        owned = status == TD_OK ? true : owned;
    }
    if (is_lost(c)) __atomic_add_fetch(&plan->lost, 1, __ATOMIC_SEQ_CST);
    c->seat->at_step = NULL;
    if (owned) td_comm_close(c);
    return status;
}

static void run_chain(int active, int spares, int seed, int lost)
{
    chain c = {.seed = seed};
    td_comm_config config = {.deadline_ms = 20000, .spares = spares};
    assert_ok(td_comm_run_local(active + spares, &config, lose_one_after_the_other, &c));
    assert_int_equal(c.lost, lost);
}

static void spares_replace_the_lost(void **state)
{
    static const int sizes[] = {2, 3, 5, 8};
    (void)state;
    for (int k = 0; k < 4; k++) run_chain(sizes[k], 30, k, sizes[k] > 2 ? 25 : 17);
}

static void groups_shrink_without_spares(void **state)
{
    (void)state;
    for (int seed = 0; seed < 3; seed++) run_chain(8, 0, seed, 7);
    run_chain(12, 4, 1, 15);
}

/* --- who gets which place --- */

/* roles: a letter for each rank of the run: r(ecovering), R: and to leave, s(pare), d(ead), l(eft),
 * p(arting). */
static void assert_plan(const char *roles, int former, int want, const int *world, int size)
{
    static const char letters[] = "arspld";
    td_role role[16];
    int members[16], place[16], n = (int)strlen(roles);
    bool came[16], parted[16], leaves[16];
    for (int r = 0; r < n; r++) {
        leaves[r] = roles[r] == 'R';
        role[r] = leaves[r] ? TD_ROLE_RECOVERING : (td_role)(strchr(letters, roles[r]) - letters);
        members[r] = r;
    }
    td_plan plan = {.world = place, .came = came, .parted = parted};
    assert_ok(td_recover_plan(&(td_roster){.ranks = n,
                                           .role = role,
                                           .leaves = leaves,
                                           .former_size = former,
                                           .former = members,
                                           .want = want,
                                           .least = 1},
                              &plan));
    assert_int_equal(plan.size, size);
    assert_memory_equal(place, world, (size_t)size * sizeof *world);
    for (int k = 0; k < size; k++) assert_int_equal(came[k], role[world[k]] == TD_ROLE_SPARE);
    for (int r = 0, in = 0; r < n; r++, in = 0) {
        for (int k = 0; k < size; k++) in += world[k] == r;
        assert_int_equal(parted[r], role[r] == TD_ROLE_RECOVERING && !in);
    }
}

static void places_stay_where_they_can(void **state)
{
    (void)state;
    assert_plan("rrrr", 4, 0, (int[]){0, 1, 2, 3}, 4);
    assert_plan("rdrrss", 4, 0, (int[]){0, 4, 2, 3}, 4);
    assert_plan("drdrs", 4, 0, (int[]){4, 1, 3}, 3);
    assert_plan("rdlr", 4, 0, (int[]){0, 3}, 2);
    assert_plan("rdrrsd", 4, 3, (int[]){0, 2, 3}, 3);
    assert_plan("rdrrsd", 4, 2, (int[]){0, 2}, 2);
    assert_plan("rrsss", 2, 4, (int[]){0, 1, 2, 3}, 4);
    assert_plan("rdsps", 2, 9, (int[]){0, 2, 4}, 3);
    assert_plan("drrs", 2, 0, (int[]){2, 1}, 2); /* 2 was to join in a recovery that failed */
    assert_plan("rRrr", 4, 3, (int[]){0, 2, 3}, 3);
    assert_plan("rRrrs", 4, 4, (int[]){0, 4, 2, 3}, 4); /* one comes for the one that goes */
    assert_plan("rRRrsss", 4, 5, (int[]){0, 4, 5, 3, 6}, 5);
    assert_plan("rRdr", 4, 3, (int[]){0, 3}, 2);
    assert_plan("rrRR", 4, 1, (int[]){0}, 1);
    assert_plan("dRrs", 2, 0, (int[]){2, 3}, 2); /* who leaves takes no place of the dead */
}

/* --- nobody died --- */

static td_status one_is_late(td_comm *c, void *arg)
{
    td_comm *next = NULL;
    td_recovery report;
    int me = td_comm_rank(c);
    td_recover_config config = {.deadline_ms = 10000};
    if (me == 0 && arg) TD_TRY(td_comm_record(c, arg)); /* goes on in the new group */
    if (me == 1) nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
    td_status status = td_comm_barrier(c);
    if (status == TD_OK) status = td_comm_barrier(c); /* the late one had all that it waits for */
    CHECK(status == TD_ERR_TIMEOUT || status == TD_ERR_PEER);
    TD_TRY(td_comm_recover(c, &config, &next, &report));
    CHECK(report.died_count == 0 && report.came_count == 0 && report.size == td_comm_size(c));
    CHECK(td_comm_rank(next) == me && td_comm_generation(next) == 1);
    if (me == 0 && arg) CHECK(next->recorder && !c->recorder && next->recorder->head->next >= 2);
    status = works(next);
    td_comm_close(next);
    return status;
}

static void a_false_alarm_loses_nobody(void **state)
{
    (void)state;
    td_comm_config quick = {.deadline_ms = 100};
    char path[] = "/tmp/recover-record-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_ok(td_comm_run_local(4, &quick, one_is_late, path));
    close(fd);
    unlink(path);
}

typedef struct hang {
    td_on_hang on_hang;
    td_status want;
    int named;
} hang;

/* The last rank stays away; all others name it. */
static td_status one_stays_away(td_comm *c, void *arg)
{
    hang *h = arg;
    td_comm *next = NULL;
    int last = td_comm_size(c) - 1;
    char text[64];
    if (is(c, last)) {
        nanosleep(&(struct timespec){.tv_nsec = 700000000}, NULL);
        return TD_OK;
    }
    td_recover_config config = {.deadline_ms = 200, .on_hang = h->on_hang};
    CHECK(td_comm_barrier(c) != TD_OK);
    CHECK(td_comm_recover(c, &config, &next, NULL) == h->want);
    snprintf(text, sizeof text, "rank %d lives but did not come", last);
    CHECK(strstr(td_last_error(), text));
    __atomic_add_fetch(&h->named, 1, __ATOMIC_SEQ_CST);
    return TD_OK;
}

static void a_silent_rank_is_named_by_all(void **state)
{
    (void)state;
    td_comm_config quick = {.deadline_ms = 100};
    hang abort = {TD_HANG_ABORT, TD_ERR_TIMEOUT, 0}, end = {TD_HANG_KILL, TD_ERR_UNSUPPORTED, 0};
    assert_ok(td_comm_run_local(5, &quick, one_stays_away, &abort));
    assert_int_equal(abort.named, 4);
    assert_ok(td_comm_run_local(3, &quick, one_stays_away, &end));
    assert_int_equal(end.named, 2);
}

/* --- limits --- */

static td_status too_few(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *next = NULL;
    if (is(c, 0)) {
        lose(c);
        return TD_OK;
    }
    CHECK(td_comm_barrier(c) == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 0 has died") || strstr(td_last_error(), "recovers"));
    CHECK(td_comm_recover(c, &(td_recover_config){.least = 3}, &next, NULL) == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "of 3 ranks 2 are left, where at least 3 are wanted"));
    return TD_OK;
}

static td_status one_fails(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *next = NULL;
    if (is(c, 1)) return td_fail(TD_ERR_DATA, "line 7 is torn");
    CHECK(td_comm_barrier(c) == TD_ERR_PEER);
    CHECK(td_comm_recover(c, NULL, &next, NULL) == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1 failed: line 7 is torn"));
    return TD_OK;
}

static td_status nothing(td_comm *c, void *arg)
{
    (void)c;
    __atomic_add_fetch((int *)arg, 1, __ATOMIC_SEQ_CST);
    return TD_OK;
}

static td_status dies(td_comm *c, void *arg)
{
    (void)arg;
    td_comm_die(c);
    return TD_OK;
}

static void what_cannot_be_recovered_is_said(void **state)
{
    (void)state;
    int called = 0;
    td_comm *alone, *next;
    assert_ok(td_comm_run_local(3, NULL, too_few, NULL));
    assert_fails(TD_ERR_DATA, "line 7 is torn",
                 td_comm_run_local(5, &(td_comm_config){.spares = 2}, one_fails, NULL));
    assert_ok(td_comm_run_local(5, &(td_comm_config){.spares = 2}, nothing, &called));
    assert_int_equal(called, 3);
    assert_fails(TD_ERR_ARG, "3 of 3 ranks are to be spares",
                 td_comm_run_local(3, &(td_comm_config){.spares = 3}, nothing, &called));
    assert_fails(TD_ERR_PEER, "have died",
                 td_comm_run_local(5, &(td_comm_config){.spares = 2}, dies, NULL));
    assert_ok(td_comm_self(NULL, &alone));
    assert_fails(TD_ERR_UNSUPPORTED, "no run", td_comm_recover(alone, NULL, &next, NULL));
    td_comm_close(alone);
}

/* --- spares that die --- */

static td_status spare_is_gone(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *next = NULL;
    td_recovery report;
    if (td_comm_generation(c) > 0) { /* the other spare, in the place of rank 1 */
        CHECK(td_comm_rank(c) == 1 && td_comm_rank_in_run(c, 1) == 4 && td_comm_joined(c, 1));
        return works(c);
    }
    if (is(c, 0)) td_local_lose(c, 3);
    TD_TRY(works(c)); /* an idle spare's death disturbs nobody */
    if (is(c, 1)) {
        lose(c);
        return TD_OK;
    }
    CHECK(td_comm_barrier(c) == TD_ERR_PEER);
    TD_TRY(td_comm_recover(c, NULL, &next, &report));
    CHECK(report.died_count == 1 && report.died[0] == 1);
    CHECK(report.came_count == 1 && report.came[0] == 4);
    CHECK(td_comm_rank(next) == td_comm_rank(c) && !td_comm_joined(next, td_comm_rank(next)));
    td_status status = works(next);
    td_comm_close(next);
    return status;
}

static void spares_may_die(void **state)
{
    (void)state;
    assert_ok(td_comm_run_local(5, &(td_comm_config){.spares = 2}, spare_is_gone, NULL));
}

/* --- under MPI --- */

/* The last active rank's process is stopped: all others name it; then they go on without it. */
static td_status one_is_stopped(td_comm *c, void *arg)
{
    td_comm *next = NULL;
    td_recovery report;
    td_recover_config config = {.deadline_ms = 300};
    int last = td_comm_size(c) - 1;
    char text[64];
    (void)arg;
    if (is(c, last)) kill(getpid(), SIGSTOP);
    CHECK(td_comm_barrier(c) != TD_OK);
    CHECK(td_comm_recover(c, &config, &next, NULL) == TD_ERR_TIMEOUT);
    snprintf(text, sizeof text, "rank %d lives but did not come", last);
    CHECK(strstr(td_last_error(), text));
    config.on_hang = TD_HANG_KILL;
    TD_TRY(td_comm_recover(c, &config, &next, &report));
    CHECK(report.died_count == 1 && report.died[0] == last && report.size == last);
    td_status status = works(next);
    td_comm_close(next);
    return status;
}

/* Rank 0 lives, but never comes: who would lead is the one that is missing. */
static td_status the_lowest_is_stopped(td_comm *c, void *arg)
{
    td_comm *next = NULL;
    td_recover_config config = {.deadline_ms = 300, .on_hang = TD_HANG_KILL};
    (void)arg;
    if (is(c, 0)) kill(getpid(), SIGSTOP);
    CHECK(td_comm_barrier(c) != TD_OK);
    TD_TRY(td_comm_recover(c, &config, &next, NULL));
    CHECK(td_comm_rank(next) == td_comm_rank(c) - 1);
    td_status status = works(next);
    td_comm_close(next);
    return status;
}

/* Spares are not called: they tell nobody who they are, but in a file beside the job's. */
static td_status an_idle_spare_dies(td_comm *c, void *arg)
{
    const char *path = arg;
    td_comm *next = NULL;
    td_recovery report;
    if (td_comm_generation(c) > 0) return works(c);
    int first = td_comm_size(c), me = td_comm_rank(c);
    if (me == 0) {
        char name[300];
        long pid = 0;
        snprintf(name, sizeof name, "%s.%d", path, first);
        FILE *f = fopen(name, "r");
        CHECK(f && fscanf(f, "%ld", &pid) == 1);
        fclose(f);
        sleep(1); /* a death while others still begin would end the job */
        CHECK(kill((pid_t)pid, SIGKILL) == 0);
    }
    for (int k = 0; k < 3; k++) TD_TRY(works(c));
    if (me == 1) lose(c);
    CHECK(td_comm_barrier(c) == TD_ERR_PEER);
    TD_TRY(td_comm_recover(c, NULL, &next, &report));
    CHECK(report.died_count == 1 && report.died[0] == 1 && report.size == first);
    CHECK(report.came_count == 1 && report.came[0] == first + 1);
    td_status status = works(next);
    td_comm_close(next);
    return status;
}

static void linger(void)
{
    sleep(1);
}

/* Behind a failure all who live leave together: rank 0, which then does something else before its
 * process ends, would by itself leave long before the others, and these wait for it for ever. With
 * a seed it has waited for a rank in vain, and does leave: the others hear of it. */
static td_status the_others_end_late(td_comm *c, void *arg)
{
    td_status status = ((const chain *)arg)->seed ? TD_ERR_TIMEOUT : TD_ERR_DATA;
    if (is(c, 0)) {
        CHECK(atexit(linger) == 0);
        td_comm_fail(c, status, "line 5 is torn");
    } else
        usleep(700000);
    return TD_OK;
}

/* Nobody needs the spares; `arg`: nor does anything. */
static td_status quiet(td_comm *c, void *arg)
{
    return arg ? TD_OK : works(c);
}

static td_status it_cannot(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *next = NULL;
    CHECK(td_comm_recover(c, NULL, &next, NULL) == TD_ERR_UNSUPPORTED);
    CHECK(strstr(td_last_error(), "--with-ft ulfm"));
    return TD_OK;
}

static void write_pid(const char *path)
{
    char name[300];
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    snprintf(name, sizeof name, "%s.%s", path, rank ? rank : "0");
    FILE *f = fopen(name, "w");
    if (!f) return;
    fprintf(f, "%ld\n", (long)getpid());
    fclose(f);
}

/* recover_test mpi-TEST SPARES SEED [FILE] */
static td_status on_mpi(int argc, char **argv, bool *known)
{
    chain c = {.seed = argc > 3 ? atoi(argv[3]) : 0};
    const struct {
        const char *name;
        td_rank_fn *fn;
        void *arg;
        int64_t deadline_ms;
    } tests[] = {
        {"mpi-chain", lose_one_after_the_other, &c, 20000},
        {"mpi-late", one_is_late, NULL, 100},
        {"mpi-stopped", one_is_stopped, NULL, 100},
        {"mpi-stopped-lowest", the_lowest_is_stopped, NULL, 100},
        {"mpi-idle", an_idle_spare_dies, argc > 4 ? argv[4] : NULL, 20000},
        {"mpi-cannot", it_cannot, NULL, 20000},
        {"mpi-fail", one_fails, NULL, 20000},
        {"mpi-behind", the_others_end_late, &c, 20000},
        {"mpi-quiet", quiet, NULL, 20000},
        {"mpi-nothing", quiet, &c, 20000},
    };
    *known = true;
    for (size_t k = 0; k < sizeof tests / sizeof *tests; k++) {
        if (strcmp(argv[1], tests[k].name) != 0) continue;
        td_comm_config config = {.deadline_ms = tests[k].deadline_ms,
                                 .spares = argc > 2 ? atoi(argv[2]) : 0};
        if (argc > 4) write_pid(argv[4]);
        return td_comm_run_mpi(&config, tests[k].fn, tests[k].arg);
    }
    *known = false;
    return TD_OK;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spares_replace_the_lost),
        cmocka_unit_test(groups_shrink_without_spares),
        cmocka_unit_test(places_stay_where_they_can),
        cmocka_unit_test(a_false_alarm_loses_nobody),
        cmocka_unit_test(a_silent_rank_is_named_by_all),
        cmocka_unit_test(what_cannot_be_recovered_is_said),
        cmocka_unit_test(spares_may_die),
    };
    bool known = false;
    td_status status = argc > 1 ? on_mpi(argc, argv, &known) : TD_OK;
    if (argc > 1 && !known) return 2;
    if (argc < 2) return cmocka_run_group_tests(tests, NULL, NULL);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}
