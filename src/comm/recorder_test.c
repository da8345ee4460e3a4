/* The record of operations: what its file holds, and what a signal prints of it.
 *
 *     recorder_test                    the tests
 *     recorder_test scene NAME RUN MS  ranks with a deadline of MS ms that record themselves for
 *                                      "tandem diagnose RUN"; the one that stays away prints "up"
 *                                      and comes back when RUN/go is there */
#include "comm/ranks_test.h"

#include "base/clock.h"
#include "comm/recorder.h"
#include "tandem/keyed.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MANY = 200, NAP_NS = 30000000 };

static const td_recorder_group *place_of(const td_comm *c, int kind)
{
    for (int k = 0; k < TD_RECORDER_GROUPS; k++)
        if (c->recorder->group[k].number && c->recorder->group[k].kind == (uint32_t)kind)
            return &c->recorder->group[k];
    return NULL;
}

static void nap(void)
{
    nanosleep(&(struct timespec){.tv_nsec = NAP_NS}, NULL);
}

/* --- what the file holds --- */

static td_status groups_apart(td_comm *c, void *arg)
{
    (void)arg;
    float x[4] = {0}, y[4];
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = x, .out = y, .count = 4};
    td_work *work;
    td_comm *half;
    TD_TRY(td_comm_record(c, NULL));
    CHECK(td_comm_record(c, NULL) == TD_ERR_ARG);
    TD_TRY(td_work_create(c, &sum, &work));
    uint64_t before = c->sequence;
    for (int k = 0; k < 5; k++) {
        TD_TRY(td_work_start(work));
        TD_TRY(td_comm_barrier(c));
        TD_TRY(td_work_wait(work));
    }
    TD_TRY(td_comm_split(c, td_comm_rank(c) / 2, 0, &half));
    TD_TRY(td_comm_barrier(half));
    const td_recorder_group *own = place_of(c, TD_GROUP_RECORDED),
                            *works = place_of(c, TD_GROUP_WORKS),
                            *split = place_of(c, TD_GROUP_SPLIT);
    CHECK(own && works && split);
    size_t give[64] = {0}, take[64] = {0};
    static char longer[20000], got[20000]; /* entries of long ones are written sooner */
    if (c->size > 1 && c->rank == 0) give[1] = sizeof longer;
    if (c->size > 1 && c->rank == 1) take[0] = sizeof got;
    TD_TRY(td_comm_alltoallv(c, longer, give, got, take));
    const td_record *dealt = &own->collective[own->collectives % TD_RECORDS];
    CHECK(dealt->does == TD_ALLTOALL && dealt->root == -1 && dealt->bytes == 0);
    CHECK(own->collectives == before + 7 && works->collectives == 5 && split->collectives == 1);
    CHECK(own->number == c->card.group && works->parent == own->number);
    CHECK(split->number == half->card.group && split->ranks == half->size);
    for (int k = 1; k <= 5; k++) {
        const td_record *e = &works->collective[k];
        CHECK(e->sequence == (uint64_t)k && e->does == TD_ALLREDUCE && e->bytes == 16);
        CHECK(own->collective[before + (uint64_t)k].does == TD_BARRIER);
    }
    td_comm_close(half);
    CHECK(split->closed && !own->closed);
    td_work_destroy(work);
    return TD_OK;
}

static td_status messages_push_nothing_out(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c), x = 0;
    TD_TRY(td_comm_record(c, NULL));
    TD_TRY(td_comm_barrier(c));
    for (int k = 0; k < MANY; k++)
        TD_TRY(me == 0 ? td_comm_send(c, &x, sizeof x, 1, 7) : td_comm_recv(c, &x, sizeof x, 0, 7));
    const td_recorder_group *g = place_of(c, TD_GROUP_RECORDED);
    CHECK(g->collectives == 1 && g->collective[1].does == TD_BARRIER && g->alone == MANY);
    const td_record *e = &g->by_itself[MANY % TD_RECORDS_ALONE];
    CHECK(e->does == (me ? TD_DOES_RECV : TD_DOES_SEND) && e->root == 1 - me && e->parts == 7);
    CHECK(e->bytes == sizeof x && e->state == TD_RECORD_DONE);
    return TD_OK;
}

static _Atomic uintptr_t of_rank_0;

static bool waits_for_1(int sequence)
{
    const volatile td_recorder_group *g = (void *)atomic_load(&of_rank_0);
    const volatile td_record *e = &g->collective[sequence];
    return e->state == TD_RECORD_BEGUN && e->missing == 1;
}

/* The next barrier is that number; rank 1 comes when the other has waited for so long. */
static td_status comes_late(td_comm *c, int sequence)
{
    if (td_comm_rank(c) == 1) {
        while (!waits_for_1(sequence)) nap();
        nap();
    }
    TD_TRY(td_comm_barrier(c));
    const td_record *e = &place_of(c, TD_GROUP_RECORDED)->collective[sequence];
    bool timed = sequence % TD_RECORDS_TIMED == 0;
    if (td_comm_rank(c) == 1 && !timed) return TD_OK; /* who need not wait */
    CHECK(e->begin_ns && e->end_ns >= e->begin_ns + e->waited_ns && e->missing == -1);
    if (td_comm_rank(c)) return TD_OK;
    CHECK(e->waited_ns >= NAP_NS && e->end_ns - e->begin_ns >= NAP_NS);
    CHECK(e->put_off == !timed);
    CHECK(timed || e->end_ns == e->begin_ns + e->waited_ns);
    return TD_OK;
}

/* All ranks time the same operations; a wait says for whom, and how long. */
static td_status times(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c);
    TD_TRY(td_comm_record(c, NULL));
    if (me == 0) atomic_store(&of_rank_0, (uintptr_t)place_of(c, TD_GROUP_RECORDED));
    for (int k = 1; k < 2 * TD_RECORDS_TIMED - 1; k++) TD_TRY(td_comm_barrier(c));
    for (int k = -1; k <= 0; k++) TD_TRY(comes_late(c, 2 * TD_RECORDS_TIMED + k));
    const td_recorder_group *g = place_of(c, TD_GROUP_RECORDED);
    CHECK(g->collective[TD_RECORDS_TIMED].begin_ns && g->collective[TD_RECORDS_TIMED].end_ns);
    CHECK(c->recorder->head->opened_wall > (int64_t)1600000000 * 1000000000);
    if (me == 1) return TD_OK;
    td_status status = td_comm_barrier(c); /* which the other does not come to */
    const td_record *e = &g->collective[2 * TD_RECORDS_TIMED + 1];
    CHECK(status != TD_OK && e->state == TD_RECORD_FAILED && e->begin_ns);
    CHECK(e->end_ns > e->begin_ns && e->waited_ns > 0 && e->missing == 1);
    return TD_OK;
}

/* Places are had again when groups are closed; more than there are places work unrecorded. */
static td_status many_groups(td_comm *c, void *arg)
{
    td_comm *open[TD_RECORDER_GROUPS + 2];
    TD_TRY(td_comm_record(c, arg));
    for (int k = 0; k < 3 * TD_RECORDER_GROUPS; k++) {
        TD_TRY(td_comm_split(c, 0, 0, &open[0]));
        TD_TRY(td_comm_barrier(open[0]));
        td_comm_close(open[0]);
    }
    CHECK(c->recorder->head->lost == 0);
    for (int k = 0; k < TD_RECORDER_GROUPS + 2; k++) {
        TD_TRY(td_comm_split(c, 0, 0, &open[k]));
        TD_TRY(td_comm_barrier(open[k]));
    }
    CHECK(c->recorder->head->lost == 3);
    for (int k = 0; k < TD_RECORDER_GROUPS + 2; k++) td_comm_close(open[k]);
    CHECK(c->recorder->groups == 1);
    return TD_OK;
}

static void test_groups_are_told_apart(void **state)
{
    (void)state;
    assert_ok(td_comm_run_local(4, NULL, groups_apart, NULL));
}

static void test_messages_push_no_collective_out(void **state)
{
    (void)state;
    assert_ok(td_comm_run_local(2, NULL, messages_push_nothing_out, NULL));
}

static void test_times_of_begin_wait_and_end(void **state)
{
    (void)state;
    td_comm_config config = {.deadline_ms = 3000};
    assert_ok(td_comm_run_local(2, &config, times, NULL));
}

static void test_places_of_groups(void **state)
{
    (void)state;
    assert_ok(td_comm_run_local(2, NULL, many_groups, NULL));
}

enum { SPLITS = 50000 };

static void *split_again_and_again(void *arg)
{
    td_comm *own = arg, *child;
    for (int k = 0; k < SPLITS; k++) {
        if (td_comm_split(own, 0, 0, &child) != TD_OK) return arg;
        td_comm_close(child);
    }
    return NULL;
}

/* Each of a rank's groups is one thread's; all are in one record. */
static void test_groups_of_several_threads(void **state)
{
    (void)state;
    td_comm *alone, *half[2];
    pthread_t thread[2];
    void *failed;
    assert_ok(td_comm_self(NULL, &alone));
    assert_ok(td_comm_record(alone, NULL));
    for (int k = 0; k < 2; k++) assert_ok(td_comm_split(alone, 0, 0, &half[k]));
    for (int k = 0; k < 2; k++)
        assert_int_equal(pthread_create(&thread[k], NULL, split_again_and_again, half[k]), 0);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(pthread_join(thread[k], &failed), 0);
        assert_null(failed);
    }
    assert_int_equal(alone->recorder->groups, 3);
    assert_int_equal(alone->recorder->head->groups, 3 + 2 * SPLITS);
    assert_int_equal(alone->recorder->head->lost, 0);
    td_comm_close(half[0]), td_comm_close(half[1]), td_comm_close(alone);
}

/* A record that cannot be made says why, and leaves nothing behind. */
static void test_a_record_that_cannot_be_made(void **state)
{
    (void)state;
    char folder[] = "/tmp/tandem-record-XXXXXX", file[64], made[80], taken[80];
    struct rlimit limit, small;
    td_comm *alone;
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/rank-0", folder);
    snprintf(made, sizeof made, "%s.new", file);
    snprintf(taken, sizeof taken, "%s/in", file);
    assert_ok(td_comm_self(NULL, &alone));
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit, small.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    td_status status = td_comm_record(alone, file);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_fails(TD_ERR_IO, "File too large", status);
    assert_int_equal(access(made, F_OK), -1);
    assert_int_equal(mkdir(file, 0700), 0); /* what is there is no file */
    assert_int_equal(mkdir(taken, 0700), 0);
    assert_fails(TD_ERR_IO, "cannot be written", td_comm_record(alone, file));
    assert_int_equal(access(made, F_OK), -1);
    td_comm_close(alone);
    assert_int_equal(rmdir(taken) | rmdir(file) | rmdir(folder), 0);
}

/* --- by a signal --- */

static volatile int handled;

static void own_handler(int number)
{
    (void)number;
    handled++;
}

static td_status ask_a_recorded_one(td_comm *c, void *arg)
{
    (void)arg;
    if (td_comm_rank(c) == 0) TD_TRY(td_comm_record(c, NULL));
    TD_TRY(td_comm_barrier(c));
    if (td_comm_rank(c) == 1) {
        nap(); /* until rank 0 waits in the second one; without it its line says less */
        raise(SIGUSR1);
    }
    return td_comm_barrier(c);
}

static void as_asked(void)
{
    td_comm_config config = {.deadline_ms = 20000};
    if (td_comm_print_on_signal(SIGUSR1) != TD_OK) _exit(3);
    if (td_comm_print_on_signal(SIGUSR1) != TD_OK) _exit(4); /* once more is fine */
    raise(SIGUSR1);
    _exit(td_comm_run_local(2, &config, ask_a_recorded_one, NULL) == TD_OK ? 0 : 5);
}

static void with_an_own_handler(void)
{
    signal(SIGUSR1, own_handler);
    if (td_comm_print_on_signal(SIGUSR1) != TD_ERR_ARG) _exit(3);
    raise(SIGUSR1);
    _exit(handled == 1 ? 0 : 4);
}

static void ignoring_it(void)
{
    signal(SIGUSR1, SIG_IGN);
    if (td_comm_print_on_signal(SIGUSR1) != TD_ERR_ARG) _exit(3);
    raise(SIGUSR1);
    _exit(td_comm_print_on_signal(SIGKILL) == TD_ERR_ARG ? 0 : 4);
}

/* In a process of its own, whose standard error is read. */
static void in_a_child(void (*act)(void), char *said, size_t room)
{
    int ends[2], how;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]), close(ends[1]);
        act();
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < room - 1 && (got = read(ends[0], said + n, room - 1 - n)) > 0;)
        n += (size_t)got;
    said[n] = 0;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &how, 0), pid);
    assert_true(WIFEXITED(how));
    assert_int_equal(WEXITSTATUS(how), 0);
}

static void test_a_signal_prints_what_ranks_do(void **state)
{
    (void)state;
    char said[2000];
    in_a_child(as_asked, said, sizeof said);
    assert_non_null(strstr(said, "no rank of this process records"));
    assert_non_null(strstr(said, "rank 0 of 2, step 0: "));
    assert_non_null(strstr(said, "barrier (operation "));
    assert_null(strstr(said, "rank 1 of 2"));
}

static void test_an_application_keeps_its_handler(void **state)
{
    (void)state;
    char said[2000];
    in_a_child(with_an_own_handler, said, sizeof said);
    in_a_child(ignoring_it, said, sizeof said);
}

/* --- scenes --- */

static const char *run_folder;

/* Until the one who looks has seen enough. */
static void stay_away(void)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/go", run_folder);
    puts("up");
    fflush(stdout);
    while (access(path, F_OK) != 0) nap();
}

/* Legal: a blocking call may come before or after a work. */
static td_status works(td_comm *c)
{
    float x[100] = {0}, y[100];
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = x, .out = y, .count = 100};
    td_work *work;
    TD_TRY(td_work_create(c, &sum, &work));
    td_status status = TD_OK;
    for (int k = 0; k < 3 && status == TD_OK; k++) {
        status = td_work_start(work);
        if (status == TD_OK) status = td_work_wait(work);
    }
    if (status == TD_OK && td_comm_rank(c) == 0) {
        status = td_work_start(work);
        stay_away();
        if (status == TD_OK) status = td_comm_barrier(c);
    } else if (status == TD_OK) {
        status = td_comm_barrier(c);
        if (status == TD_OK) status = td_work_start(work);
    }
    if (status == TD_OK) status = td_work_wait(work);
    td_work_destroy(work);
    return status;
}

/* Rank 1 does not start the work that the others wait for. */
static td_status a_work_alone(td_comm *c)
{
    float x[100] = {0}, y[100];
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = x, .out = y, .count = 100};
    td_work *work;
    TD_TRY(td_work_create(c, &sum, &work));
    if (td_comm_rank(c) == 1) stay_away();
    td_status status = td_comm_rank(c) == 1 ? TD_OK : td_work_start(work);
    if (status == TD_OK) status = td_work_wait(work);
    char sentence[400];
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    td_work_destroy(work);
    return status == TD_OK ? TD_OK : td_fail_again(status, sentence);
}

/* Two halves, of which one waits for rank 1. */
static td_status half(td_comm *c)
{
    float x[100] = {0}, y[100];
    td_comm *g;
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_comm_split(c, td_comm_rank(c) / 2, 0, &g));
    if (td_comm_rank(c) == 1) {
        stay_away();
        return TD_OK;
    }
    return td_comm_allreduce(g, x, y, 100, TD_F32, TD_SUM);
}

static td_status receive(td_comm *c)
{
    float x[10];
    TD_TRY(td_comm_barrier(c));
    if (td_comm_rank(c) == 0) return td_comm_recv(c, x, sizeof x, 1, 3);
    if (td_comm_rank(c) == 1) stay_away();
    return TD_OK;
}

/* They receive first, both. */
static td_status crossed(td_comm *c)
{
    float x[10];
    int me = td_comm_rank(c);
    TD_TRY(td_comm_barrier(c));
    if (me < 2) return td_comm_recv(c, x, sizeof x, 1 - me, 3);
    if (me == 2) stay_away();
    return TD_OK;
}

static td_status serve(void *user, const td_keyed_request *r)
{
    (void)user;
    if (r->out) memset(r->out, 0, r->bytes);
    return TD_OK;
}

/* Rank 0 asks, and then computes; the others have no more to ask. */
static td_status keyed(td_comm *c)
{
    int server = 1;
    td_keyed *k;
    td_keyed_config config = {.servers = &server, .server_count = 1, .width = 8, .serve = serve};
    uint64_t keys[4] = {1, 2, 3, 4};
    double out[4];
    TD_TRY(td_keyed_open(c, &config, &k));
    td_status status = td_comm_barrier(c);
    for (int i = 0; i < MANY && td_comm_rank(c) == 0 && status == TD_OK; i++)
        status = td_keyed_pull(k, &(td_parts){.keys = keys, .count = 4, .out = out});
    if (td_comm_rank(c) == 0) stay_away();
    if (status == TD_OK) status = td_keyed_finish(k);
    td_keyed_destroy(k);
    return status;
}

/* Rank 2 is slower than the others in each step. */
static td_status slow(td_comm *c)
{
    for (int k = 0; k < 4 * TD_RECORDS_TIMED; k++) {
        if (td_comm_rank(c) == 2 && k % TD_RECORDS_TIMED == TD_RECORDS_TIMED - 1) nap();
        TD_TRY(td_comm_barrier(c));
    }
    if (td_comm_rank(c) == 0) stay_away();
    return td_comm_barrier(c);
}

/* All compute, after the same operations. */
static td_status alike(td_comm *c)
{
    td_comm *g;
    TD_TRY(td_comm_split(c, td_comm_rank(c) / 2, 0, &g));
    TD_TRY(td_comm_barrier(g));
    TD_TRY(td_comm_barrier(c));
    stay_away();
    td_comm_close(g);
    return TD_OK;
}

static td_status play(td_comm *c, void *arg)
{
    static const struct {
        const char *name;
        td_status (*act)(td_comm *c);
    } acts[] = {{"works", works},     {"a work alone", a_work_alone},
                {"half", half},       {"recv", receive},
                {"crossed", crossed}, {"keyed", keyed},
                {"slow", slow},       {"alike", alike}};
    const char *name = arg;
    char path[1024];
    snprintf(path, sizeof path, "%s/recorder/rank-%d", run_folder, td_comm_rank(c));
    TD_TRY(td_comm_record(c, path));
    for (size_t k = 0; k < sizeof acts / sizeof *acts; k++)
        if (!strcmp(acts[k].name, name)) return acts[k].act(c);
    return td_fail(TD_ERR_ARG, "no scene %s", name);
}

int main(int argc, char **argv)
{
    if (argc > 4 && !strcmp(argv[1], "scene")) {
        run_folder = argv[3];
        td_comm_config config = {.deadline_ms = atoi(argv[4])};
        alarm(100);
        td_status status = td_comm_launched_by_mpi() ? td_comm_run_mpi(&config, play, argv[2])
                                                     : td_comm_run_local(4, &config, play, argv[2]);
        if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
        return status != TD_OK;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups_are_told_apart),
        cmocka_unit_test(test_messages_push_no_collective_out),
        cmocka_unit_test(test_times_of_begin_wait_and_end),
        cmocka_unit_test(test_places_of_groups),
        cmocka_unit_test(test_groups_of_several_threads),
        cmocka_unit_test(test_a_record_that_cannot_be_made),
        cmocka_unit_test(test_a_signal_prints_what_ranks_do),
        cmocka_unit_test(test_an_application_keeps_its_handler),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
