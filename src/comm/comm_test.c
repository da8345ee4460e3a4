/* Messages, groups, cores, failures: see ranks_test.h. */
#include "comm/ranks_test.h"

#include "comm/recover.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/time.h>

static td_status splits(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *half;
    int n = td_comm_size(c), me = td_comm_rank(c);
    TD_TRY(td_comm_split(c, me % 2, -me, &half)); /* odd and even, in reverse order */
    int size = (n + 1 - me % 2) / 2;
    CHECK(td_comm_size(half) == size && td_comm_rank(half) == size - 1 - me / 2);
    int32_t one = me, sum;
    TD_TRY(td_comm_allreduce(half, &one, &sum, 1, TD_I32, TD_SUM));
    int32_t want = 0;
    for (int r = me % 2; r < n; r += 2) want += r;
    CHECK(sum == want);
    td_region region;
    TD_TRY(td_comm_shared_create(half, 1000, &region));
    int place = td_comm_rank(half);
    ((int *)region.data)[place] = place + 1;
    TD_TRY(td_comm_barrier(half));
    for (int r = 0; r < size; r++)
        if (td_comm_host_of(half, r) == td_comm_host_of(half, place))
            CHECK(((int *)region.data)[r] == r + 1);
    TD_TRY(td_comm_barrier(half));
    td_comm_shared_destroy(half, &region);
    td_comm_close(half);
    TD_TRY(td_comm_split(c, me == 0 ? 0 : -1, 0, &half));
    CHECK((half != NULL) == (me == 0));
    td_comm_close(half);
    return TD_OK;
}

/* --- cores --- */

/* Ranks are dealt out over the cores they may run on, more ranks than cores as well, and may run on
 * all of them still. The system may move a thread right behind it, hence the tries. */
static td_status comes_to_its_core(td_comm *c, void *arg)
{
    (void)arg;
    cpu_set_t before, after;
    int core = -1, tries = 0;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    int count = CPU_COUNT(&before);
    bool fewer = count < c->seat->places;
    if (fewer && count < c->cores) return td_comm_barrier(c); /* it is left alone */
    int first = 0;
    while (c->host[first] != c->host[c->rank]) first++;
    int left = fewer ? (c->world[first] + c->local_rank) % count : c->seat->place;
    while (left >= 0) left -= CPU_ISSET(++core, &before) != 0;
    do td_comm_spread_out(c);
    while (sched_getcpu() != core && ++tries < 1000);
    CHECK(tries < 1000);
    CHECK(sched_getaffinity(0, sizeof after, &after) == 0 && CPU_EQUAL(&before, &after));
    return td_comm_barrier(c);
}

static void ranks_are_dealt_out_over_cores(void **state)
{
    (void)state;
    on_all_sizes(comes_to_its_core, NULL);
}

/* The cores of a group are those of its ranks on this host, of whom each may run on one. */
static td_status has_cores_of_all(td_comm *c)
{
    enum { MOST = 8 };
    cpu_set_t own, all[MOST], together;
    CHECK(td_comm_size(c) <= MOST && sched_getaffinity(0, sizeof own, &own) == 0);
    CHECK(CPU_COUNT(&own) == 1);
    TD_TRY(td_comm_allgather(c, &own, sizeof own, all));
    CPU_ZERO(&together);
    for (int r = 0; r < td_comm_size(c); r++)
        if (td_comm_host_of(c, r) == td_comm_host_of(c, td_comm_rank(c)))
            CPU_OR(&together, &together, &all[r]);
    CHECK(c->cores == CPU_COUNT(&together));
    CHECK(c->crowded == (c->cores < td_comm_local_size(c)));
    return TD_OK;
}

/* arg: on how many cores, by turns. */
static td_status shares_cores(td_comm *c, void *arg)
{
    td_comm *half;
    int of = *(const int *)arg, all = td_comm_hosts(c) == 1 ? td_comm_size(c) : of;
    TD_TRY(has_cores_of_all(c));
    CHECK(td_comm_hosts(c) > 1 || c->cores == (of < all ? of : all));
    TD_TRY(td_comm_split(c, td_comm_rank(c) % 2, 0, &half));
    td_status status = has_cores_of_all(half);
    td_comm_close(half);
    return status == TD_OK ? td_comm_barrier(c) : status;
}

/* This process may run on one of the first `*of` cores that it may run on now, of which there may
 * be fewer. */
static void take_one_core(int *most)
{
    int of = *most;
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    cpu_set_t allowed, one;
    if (!rank) rank = getenv("PMI_RANK");
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
    if (of > CPU_COUNT(&allowed)) *most = of = CPU_COUNT(&allowed);
    int cpu = -1, left = rank ? atoi(rank) % of : 0;
    while (left >= 0) left -= CPU_ISSET(++cpu, &allowed) != 0;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

/* Enough short rounds for those that outnumber the cores to look around, and go on as they were. */
static td_status makes_many_rounds(td_comm *c, void *arg)
{
    int32_t n = td_comm_size(c), sum = 0;
    if (!arg) { /* and the odd, and the even, by themselves */
        td_comm *half;
        TD_TRY(td_comm_split(c, td_comm_rank(c) % 2, 0, &half));
        td_status status = makes_many_rounds(half, &(int){1});
        td_comm_close(half);
        if (status != TD_OK) return status;
    }
    for (int32_t k = 0; k < 2000; k++) {
        int32_t x = k + td_comm_rank(c);
        TD_TRY(td_comm_allreduce(c, &x, &sum, 1, TD_I32, TD_SUM));
        CHECK(sum == n * k + n * (n - 1) / 2);
    }
    return TD_OK;
}

static void many_rounds_sum_alike(void **state)
{
    (void)state;
    on_all_sizes(makes_many_rounds, NULL);
}

/* --- failures --- */

static void nap(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

static td_status one_fails(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y;
    if (td_comm_rank(c) == 1) return td_fail(TD_ERR_DATA, "line 7 is torn");
    td_status status = td_comm_allreduce(c, &x, &y, 1, TD_F32, TD_SUM);
    CHECK(status == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1 failed: line 7 is torn"));
    return status;
}

/* In a group of the odd and the even, the rank is named as in the run. */
static td_status one_fails_beside_a_group(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *half;
    int me = td_comm_rank(c);
    TD_TRY(td_comm_split(c, me % 2, 0, &half));
    td_status status = TD_OK;
    if (me == 3)
        status = td_fail(TD_ERR_DATA, "line 8 is torn");
    else
        status = td_comm_barrier(half);
    if (me == 1) CHECK(status == TD_ERR_PEER && strstr(td_last_error(), "rank 3 failed"));
    td_comm_close(half);
    return status;
}

static td_status one_sleeps(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c);
    if (me == 1) {
        nap(700);
        return TD_OK;
    }
    return me == 0 ? td_comm_barrier(c) : TD_OK;
}

static td_status one_leaves(td_comm *c, void *arg)
{
    (void)arg;
    char x;
    return td_comm_rank(c) == 0 ? td_comm_recv(c, &x, 1, 1, 3) : TD_OK;
}

static td_status lengths_differ(td_comm *c, void *arg)
{
    (void)arg;
    char x[8] = "";
    if (td_comm_rank(c) == 1) return td_comm_send(c, x, 8, 0, 3);
    td_status status = td_comm_recv(c, x, 4, 1, 3);
    CHECK(status == TD_ERR_PEER && strstr(td_last_error(), "rank 1 sent 8 bytes"));
    return TD_OK;
}

static void failures_name_the_rank(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_comm_config quick = {.deadline_ms = 200};
    assert_fails(TD_ERR_DATA, "line 7 is torn", td_comm_run_local(3, NULL, one_fails, NULL));
    assert_fails(TD_ERR_DATA, "line 8 is torn",
                 td_comm_run_local(5, NULL, one_fails_beside_a_group, NULL));
    assert_fails(TD_ERR_TIMEOUT, "200 ms for rank 1 in barrier (operation 1)",
                 td_comm_run_local(2, &quick, one_sleeps, NULL));
    assert_fails(TD_ERR_PEER, "rank 1 left while rank 0 waited for it in recv",
                 td_comm_run_local(2, NULL, one_leaves, NULL));
    assert_ok(td_comm_run_local(2, NULL, lengths_differ, NULL));
    assert_fails(TD_ERR_ARG, "1 to 1024", td_comm_run_local(0, NULL, one_leaves, NULL));
    assert_ok(td_comm_check_ranks(1024, 0)); /* of threads or processes */
    assert_fails(TD_ERR_ARG, "1 to 1024, not 1025", td_comm_check_ranks(1025, 0));
    assert_fails(TD_ERR_ARG, "3 of 3 ranks", td_comm_check_ranks(3, 3));
}

static td_status announced(td_comm *c, void *arg)
{
    float x[9000] = {0}, y[9000];
    (void)arg;
    if (td_comm_size(c) == 1) return TD_OK;
    if (td_comm_rank(c) == 1) {
        td_comm_fail(c, TD_ERR_DATA, "line 9 is torn");
        return TD_OK;
    }
    CHECK(td_comm_allreduce(c, x, y, 9000, TD_F32, TD_SUM) == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1 failed: line 9 is torn"));
    return TD_OK;
}

/* The job's last words, as a failure is for good: comm_test mpi-fail, comm_test mpi-late. */
static td_status late(td_comm *c, void *arg)
{
    (void)arg;
    char x = 0;
    int me = td_comm_rank(c);
    if (me == 1) nap(700);
    if (me != 0 || td_comm_size(c) == 1) return TD_OK;
    CHECK(td_comm_recv(c, &x, 1, 1, 5) == TD_ERR_TIMEOUT);
    CHECK(strstr(td_last_error(), "200 ms for rank 1 in recv"));
    return TD_OK;
}

/* The others have ended long before rank 1, and rank 0 is asked meanwhile: comm_test mpi-long. */
static td_status takes_long(td_comm *c, void *arg)
{
    (void)arg;
    struct itimerval soon = {.it_value.tv_usec = 600000};
    TD_TRY(td_comm_record(c, NULL));
    TD_TRY(td_comm_print_on_signal(SIGALRM));
    if (td_comm_rank(c) == 1) nap(1200);
    if (td_comm_rank(c) == 0) CHECK(setitimer(ITIMER_REAL, &soon, NULL) == 0);
    return TD_OK;
}

static void a_rank_may_announce_its_failure(void **state)
{
    (void)state;
    if (mpi_world) skip();
    assert_fails(TD_ERR_DATA, "line 9 is torn", td_comm_run_local(3, NULL, announced, NULL));
}

static void a_rank_alone_is_a_group(void **state)
{
    (void)state;
    td_comm *c;
    int32_t x = 5, y = 0;
    assert_ok(td_comm_self(NULL, &c));
    assert_int_equal(td_comm_size(c), 1);
    assert_int_equal(td_comm_local_size(c), 1);
    assert_ok(td_comm_allreduce(c, &x, &y, 1, TD_I32, TD_SUM));
    assert_ok(td_comm_barrier(c));
    assert_int_equal(y, 5);
    td_comm_close(c);
}

static void splits_make_working_groups(void **state)
{
    (void)state;
    on_all_sizes(splits, NULL);
}

typedef struct splitter {
    td_comm *group;
    char payload;
    td_status status;
    char why[256];
} splitter;

/* Each message comes from the same thread's group of the other ranks. */
static td_status split_and_tell(td_comm *c, char payload)
{
    for (int round = 0; round < 200; round++) {
        td_comm *g;
        int n = td_comm_size(c), me = td_comm_rank(c);
        char got = 0;
        TD_TRY(td_comm_split(c, 0, me, &g));
        if (me > 0) TD_TRY(td_comm_recv(g, &got, 1, me - 1, 5));
        if (me < n - 1) TD_TRY(td_comm_send(g, &payload, 1, me + 1, 5));
        CHECK(me == 0 || got == payload);
        td_comm_close(g);
    }
    return TD_OK;
}

static void *splitter_main(void *arg)
{
    splitter *own = arg;
    own->status = split_and_tell(own->group, own->payload);
    snprintf(own->why, sizeof own->why, "%s", td_last_error());
    return NULL;
}

/* A rank's threads make groups of groups of their own at the same time. */
static td_status threads_split(td_comm *c, void *arg)
{
    (void)arg;
    enum { THREADS = 3 };
    splitter of[THREADS];
    pthread_t thread[THREADS];
    td_status status = TD_OK;
    for (int k = 0; k < THREADS; k++) {
        of[k] = (splitter){.payload = (char)('a' + k)};
        TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &of[k].group));
        of[k].group->deadline_ms = 10000;
    }
    for (int k = 0; k < THREADS; k++)
        CHECK(pthread_create(&thread[k], NULL, splitter_main, &of[k]) == 0);
    for (int k = 0; k < THREADS; k++) pthread_join(thread[k], NULL);
    for (int k = 0; k < THREADS; k++) {
        if (of[k].status != TD_OK && status == TD_OK)
            status = td_fail_again(of[k].status, of[k].why);
        td_comm_close(of[k].group);
    }
    return status;
}

static void threads_of_a_rank_may_split_at_once(void **state)
{
    (void)state;
    if (!getenv("TANDEM_TEST_SHORT") || mpi_world) on_all_sizes(threads_split, NULL);
}

static td_status wrong_arguments(td_comm *c, void *arg)
{
    (void)arg;
    char b[8] = "";
    int n = td_comm_size(c);
    CHECK(td_comm_send(c, b, 1, n, 0) == TD_ERR_ARG);
    CHECK(td_comm_send(c, b, 1, td_comm_rank(c), 0) == TD_ERR_ARG);
    CHECK(td_comm_recv(c, b, 1, -1, 0) == TD_ERR_ARG);
    return TD_OK;
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    on_all_sizes(wrong_arguments, NULL);
}

/* However many are closed after it: a work holds its group's handle. */
static td_status closed(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *first = NULL, *newest = NULL;
    td_work *work = NULL;
    td_status status;
    float x = 1, y = 0;
    TD_TRY(td_comm_self(NULL, &first));
    TD_TRY(
        td_work_create(first,
                       &(td_collective){.pattern = TD_ALLREDUCE, .in = &x, .out = &y, .count = 1},
                       &work));
    TD_TRY(td_work_start(work));
    td_comm_close(first);
    TD_TRY(td_work_wait(work));
    CHECK(y == 1);
    for (int k = 0; k < 300; k++) {
        TD_TRY(td_comm_self(NULL, &newest));
        td_comm_close(newest);
    }
    TD_TRY(td_comm_barrier(c)); /* the newest of each rank is among those that are kept */
    TD_TRY(td_comm_self(NULL, &newest));
    td_comm_close(newest);
    CHECK(td_work_start(work) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "all-reduce: the operation's group was closed"));
    TD_TRY(td_work_wait(work));
    td_work_destroy(work);
    td_log_set_level(TD_LOG_QUIET);
    td_comm_close(newest);
    if (td_comm_transport(c)[0] == 'l') td_comm_close(c); /* a run's own is not closed */
    td_log_set_level(TD_LOG_WARN);
    CHECK(td_comm_barrier(newest) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "barrier: this group, in which this rank was rank 0 of 1, was"));
    CHECK(td_comm_agree(newest, TD_OK) == TD_ERR_ARG);
    CHECK(td_comm_split(newest, 0, 0, &first) == TD_ERR_ARG);
    CHECK(td_comm_tune(newest, "x") == TD_ERR_ARG);
    CHECK(td_comm_record(newest, "x") == TD_ERR_ARG);
    CHECK(td_comm_can_recover(newest) == TD_ERR_ARG);
    td_region region;
    CHECK(td_comm_shared_create(newest, 8, &region) == TD_ERR_ARG);
    status = td_comm_barrier(c);
    return status;
}

static void closed_groups_are_refused(void **state)
{
    (void)state;
    on_all_sizes(closed, NULL);
}

typedef struct closer {
    td_comm *group;
    pthread_barrier_t *both;
} closer;

static void *close_at_once(void *arg)
{
    closer *own = arg;
    pthread_barrier_wait(own->both);
    td_comm_close(own->group);
    return NULL;
}

/* Of a rank alone, whose run goes with the last of its groups. */
static void the_last_groups_may_close_at_once(void **state)
{
    (void)state;
    pthread_barrier_t both;
    pthread_t thread;
    td_comm *alone;
    if (mpi_world) skip();
    assert_int_equal(pthread_barrier_init(&both, NULL, 2), 0);
    for (int round = 0; round < 3000; round++) {
        closer of[2] = {{NULL, &both}, {NULL, &both}};
        assert_ok(td_comm_self(NULL, &alone));
        for (int k = 0; k < 2; k++) assert_ok(td_comm_split(alone, 0, 0, &of[k].group));
        td_comm_close(alone);
        assert_int_equal(pthread_create(&thread, NULL, close_at_once, &of[0]), 0);
        close_at_once(&of[1]);
        assert_int_equal(pthread_join(thread, NULL), 0);
    }
    pthread_barrier_destroy(&both);
}

#define NAMED(call, text) CHECK((call) == TD_ERR_ARG && strstr(td_last_error(), text))

/* Also where a rank alone has it, which then goes on: nothing has begun. */
static td_status nothing_given(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *g;
    td_work *work;
    td_region region;
    char b[8] = "";
    int other = td_comm_rank(c) ? 0 : 1;
    NAMED(td_comm_run(c, NULL), "a collective: NULL says none");
    NAMED(td_comm_start(c, NULL, &work), "a collective: NULL says none");
    NAMED(td_comm_start(c, &(td_collective){.pattern = TD_BARRIER}, NULL),
          "barrier: no place for the operation");
    if (td_comm_size(c) > 1) NAMED(td_comm_start_send(c, b, 8, other, 0, NULL), "send: no place");
    if (td_comm_size(c) > 1) NAMED(td_comm_start_recv(c, b, 8, other, 0, NULL), "recv: no place");
    NAMED(td_work_wait(NULL), "an operation to be waited for is NULL");
    CHECK(td_work_done(NULL));
    NAMED(td_comm_split(c, 0, 0, NULL), "split: no place for the group");
    NAMED(td_comm_shared_create(c, 8, NULL), "shared memory: no place for it");
    NAMED(td_comm_alloc(8, NULL), "no place for them");
    NAMED(td_comm_tune(c, NULL), "tune: no path of a file");
    NAMED(td_comm_split(NULL, 0, 0, &g), "split: there is no group");
    NAMED(td_comm_shared_create(NULL, 8, &region), "shared memory: there is no group");
    td_comm_shared_destroy(NULL, &region), td_comm_shared_destroy(c, NULL);
    NAMED(td_comm_recover(NULL, NULL, &g, NULL), "recover: there is no group");
    NAMED(td_comm_resize(NULL, 1, &g), "recover: there is no group");
    NAMED(td_comm_resize(c, 1, NULL), "recover: no place for the new group");
    td_comm_fail(NULL, TD_ERR_DATA, "?"), td_comm_record_step(NULL, 3), td_comm_die(NULL);
    CHECK(td_comm_rank(NULL) == -1 && td_comm_size(NULL) == 0 && td_comm_hosts(NULL) == 0);
    CHECK(td_comm_host_of(NULL, 0) == -1 && td_comm_local_rank(NULL) == -1);
    CHECK(td_comm_local_size(NULL) == 0 && td_comm_bytes_sent(NULL) == 0);
    CHECK(!strcmp(td_comm_transport(NULL), "none") && td_comm_agreement(NULL).alike == 0);
    CHECK(td_comm_rank_in_run(NULL, 0) == -1 && td_comm_rank_in_run(c, td_comm_size(c)) == -1);
    CHECK(td_comm_generation(NULL) == 0 && !td_comm_joined(NULL, 0));
    return td_comm_barrier(c);
}

static void what_is_not_given_is_named(void **state)
{
    (void)state;
    on_all_sizes(nothing_given, NULL);
    if (mpi_world) return;
    assert_fails(TD_ERR_ARG, "a run: no function for its ranks",
                 td_comm_run_local(2, NULL, NULL, NULL));
    assert_fails(TD_ERR_ARG, "a run: no function for its ranks", td_comm_run_mpi(NULL, NULL, NULL));
    assert_fails(TD_ERR_ARG, "open: no place for the group", td_comm_open_mpi(NULL, NULL));
    assert_fails(TD_ERR_ARG, "a group of one: no place for it", td_comm_self(NULL, NULL));
    assert_fails(TD_ERR_ARG, "no place for its text", td_comm_mpi_version(NULL, NULL));
}

static td_status recovers_at_once(td_comm *c, void *arg)
{
    (void)arg;
    td_comm *next;
    CHECK(td_comm_recover(c, &(td_recover_config){.deadline_ms = -1}, &next, NULL) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "recover: a deadline of -1 ms; 1 or more are possible, and 0 "
                                  "for the group's, but 30000 at most"));
    return td_comm_barrier(c);
}

static void deadlines_have_bounds(void **state)
{
    (void)state;
    td_comm *c;
    td_comm_config negative = {.deadline_ms = -4}, endless = {.deadline_ms = INT64_MAX};
    assert_fails(TD_ERR_ARG,
                 "a deadline of -4 ms; 1 to 1000000000000 are possible, and 0 for 300000",
                 td_comm_self(&negative, &c));
    assert_fails(TD_ERR_ARG, "a deadline of 9223372036854775807 ms",
                 td_comm_run_local(2, &endless, closed, NULL));
    if (!mpi_world) assert_ok(td_comm_run_local(2, NULL, recovers_at_once, NULL));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(splits_make_working_groups),
        cmocka_unit_test(ranks_are_dealt_out_over_cores),
        cmocka_unit_test(many_rounds_sum_alike),
        cmocka_unit_test(threads_of_a_rank_may_split_at_once),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(failures_name_the_rank),
        cmocka_unit_test(a_rank_may_announce_its_failure),
        cmocka_unit_test(a_rank_alone_is_a_group),
        cmocka_unit_test(closed_groups_are_refused),
        cmocka_unit_test(the_last_groups_may_close_at_once),
        cmocka_unit_test(what_is_not_given_is_named),
        cmocka_unit_test(deadlines_have_bounds),
    };
    td_comm_config quick = {.deadline_ms = 200};
    td_status status = TD_OK;
    if (argc > 1 && !strcmp(argv[1], "mpi-fail"))
        status = td_comm_run_mpi(NULL, announced, NULL);
    else if (argc > 1 && !strcmp(argv[1], "mpi-late"))
        status = td_comm_run_mpi(&quick, late, NULL);
    else if (argc > 1 && !strcmp(argv[1], "mpi-long"))
        status = td_comm_run_mpi(&quick, takes_long, NULL);
    else if (argc > 2 && !strcmp(argv[1], "mpi-cores")) {
        int cores = atoi(argv[2]);
        take_one_core(&cores);
        status = td_comm_run_mpi(NULL, shares_cores, &cores);
    } else
        return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}
