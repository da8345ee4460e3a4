/* Runs one list of tests on every transport: "x_test" on threads, at sizes 1, 2, 3, 5 and 8, and
 * "x_test mpi [prefix]" on the ranks that mpiexec started, where rank 0 reports. */
#ifndef TD_COMM_RANKS_TEST_H
#define TD_COMM_RANKS_TEST_H

#include "comm/transport.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"
#include "tandem/recover.h"

#include <stdlib.h>
#include <time.h>

static td_comm *mpi_world; /* NULL on threads */

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return td_fail(TD_ERR_INTERNAL, "rank %d of %d, line %d: %s (%s)", td_comm_rank(c),    \
                           td_comm_size(c), __LINE__, #condition, td_last_error());                \
    } while (0)

/* Runs fn as every size of the transport. */
__attribute__((unused)) static void on_all_sizes(td_rank_fn *fn, void *arg)
{
    static const int sizes[] = {1, 2, 3, 5, 8};
    if (mpi_world) {
        td_status status = fn(mpi_world, arg);
        assert_ok(td_comm_agree(mpi_world, status));
        return;
    }
    bool some = getenv("TANDEM_TEST_SHORT") != NULL; /* under sanitizers */
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!some || (sizes[i] != 1 && sizes[i] != 5))
            assert_ok(td_comm_run_local(sizes[i], NULL, fn, arg));
}

/* For pthread_create: a rank that is lost so long from now. */
typedef struct killing {
    td_comm *comm;
    long ns;
} killing;

__attribute__((unused)) static void *kill_late(void *arg)
{
    killing *k = arg;
    nanosleep(&(struct timespec){.tv_nsec = k->ns}, NULL);
    td_comm_die(k->comm);
    return NULL;
}

typedef struct test_list {
    const struct CMUnitTest *tests;
    size_t count;
    int failed;
} test_list;

static td_status run_list(td_comm *comm, void *arg)
{
    test_list *list = arg;
    mpi_world = comm;
    if (comm && td_comm_rank(comm) != 0 && !freopen("/dev/null", "w", stdout)) return TD_ERR_IO;
    list->failed = _cmocka_run_group_tests("ranks", list->tests, list->count, NULL, NULL);
    return TD_OK;
}

__attribute__((unused)) static int run_on_ranks(int argc, char **argv,
                                                const struct CMUnitTest *tests, size_t count)
{
    test_list list = {tests, count, 0};
    bool on_mpi = argc > 1 && !strcmp(argv[1], "mpi");
    td_comm_config patient = {.deadline_ms = 60000};
    td_status status = on_mpi ? td_comm_run_mpi(&patient, run_list, &list) : run_list(NULL, &list);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK || list.failed;
}

#endif
