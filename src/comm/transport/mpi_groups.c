/* Groups of an MPI job, its beginning and its end. */
#include "comm/transport/mpi_group.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME = 64, NUMBERS = 64 }; /* least groups at once, of one communicator */

/* --- groups --- */

void td_mpi_numbers(td_comm *comm, uint64_t free_ones[TD_GROUP_WORDS])
{
    const td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    for (int k = 0; k < TD_GROUP_WORDS; k++)
        free_ones[k] =
            w->many_tags ? ~__atomic_load_n(&w->taken[k], __ATOMIC_ACQUIRE) : (uint64_t)0;
}

bool td_mpi_take(td_comm *comm, int number)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    uint64_t bit = (uint64_t)1 << (number % 64);
    return !(__atomic_fetch_or(&w->taken[number / 64], bit, __ATOMIC_ACQ_REL) & bit);
}

void td_mpi_give_back(td_comm *comm, int number)
{
    td_mpi_group *w = ((td_mpi_group *)comm->impl)->world;
    __atomic_fetch_and(&w->taken[number / 64], ~((uint64_t)1 << (number % 64)), __ATOMIC_ACQ_REL);
}

td_mpi_group *td_mpi_group_create(td_mpi_group *world, int number, const int *member, int size)
{
    td_mpi_group *g = calloc(1, sizeof *g);
    int *copy = calloc((size_t)size, sizeof *copy);
    if (!g || !copy) {
        free(g), free(copy);
        return NULL;
    }
    memcpy(copy, member, (size_t)size * sizeof *copy);
    *g = (td_mpi_group){.comm = world->comm,
                        .number = number,
                        .member = copy,
                        .own = MPI_COMM_NULL,
                        .world = world};
    __atomic_fetch_or(&world->taken[number / 64], (uint64_t)1 << (number % 64), __ATOMIC_ACQ_REL);
    return g;
}

/* Where tags are few. May wait for a rank that has died. */
static td_status split_communicator(td_comm *comm, int color, int key, td_comm *out)
{
    td_mpi_group *g = comm->impl, *child = calloc(1, sizeof *child);
    if (!child) return td_mpi_library->fail(TD_ERR_NOMEM, "no memory for a group");
    int code = MPI_Comm_split(g->comm, color < 0 ? MPI_UNDEFINED : color, key, &child->comm);
    if (code != MPI_SUCCESS || color < 0) {
        free(child);
        return code == MPI_SUCCESS ? TD_OK : td_mpi_error(code, comm, -1);
    }
    MPI_Comm_set_errhandler(child->comm, MPI_ERRORS_RETURN);
    child->world = g->world;
    child->number = -1;
    child->own = MPI_COMM_NULL;
    out->impl = child;
    return TD_OK;
}

td_status td_mpi_split(td_comm *comm, int color, int key, const int *members, int number,
                       td_comm *out)
{
    td_mpi_group *g = comm->impl;
    if (!g->world->many_tags) return split_communicator(comm, color, key, out);
    if (number < 0)
        return td_mpi_library->fail(TD_ERR_UNSUPPORTED,
                                    "rank %d, or another of its group, has no number left for a "
                                    "group: all of up to %d are those of groups that are open, "
                                    "that failed, or that a recovery or resize has ended",
                                    g->world->rank, 64 * TD_GROUP_WORDS);
    if (!members) return TD_OK;
    int *world = calloc((size_t)out->size, sizeof *world);
    for (int k = 0; world && k < out->size; k++) world[k] = td_mpi_peer(g, members[k]);
    out->impl = world ? td_mpi_group_create(g->world, number, world, out->size) : NULL;
    free(world);
    if (out->impl) return TD_OK;
    td_mpi_give_back(comm, number);
    return td_mpi_library->fail(TD_ERR_NOMEM, "no memory for a group");
}

/* After a failure messages may come that nobody takes: its number goes to no other group then, and
 * MPI could wait. */
static void close_group(td_comm *comm)
{
    td_mpi_group *g = comm->impl, *w = g->world;
    bool ended = (int64_t)comm->generation <= __atomic_load_n(&w->revoked, __ATOMIC_ACQUIRE);
    bool whole = !w->failed && !w->sent && !comm->spoiled && !ended;
    if (whole && g->own != MPI_COMM_NULL) MPI_Comm_free(&g->own);
    if (whole && g->number < 0) MPI_Comm_free(&g->comm);
    if (whole && g->number > 0) td_mpi_give_back(comm, g->number);
    free(g->member);
    free(g);
}

/* --- beginning and end --- */

/* Hosts are told apart by name and by space of process ids (containers may share a name). */
static void describe_host(td_mpi_host *own)
{
    char host[NAME] = "", space[24] = "";
    gethostname(host, NAME - 1);
    if (readlink("/proc/self/ns/pid", space, sizeof space - 1) < 0) space[0] = 0;
    snprintf(own->name, TD_HOST_NAME, "%s %s", host, space);
#if defined(__linux__)
    cpu_set_t allowed;
    _Static_assert(sizeof allowed <= sizeof own->cores, "a mask fits");
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0)
        memcpy(own->cores, &allowed, sizeof allowed);
#endif
}

static td_status exchange_hosts(td_mpi_group *g, td_comm *world, td_mpi_host **hosts)
{
    struct card {
        td_mpi_host host;
        long pid;
    } own = {.pid = (long)getpid()}, *all = calloc((size_t)world->size, sizeof *all);
    *hosts = calloc((size_t)world->size, sizeof **hosts);
    g->pid = calloc((size_t)world->size, sizeof *g->pid);
    if (!all || !*hosts || !g->pid) {
        free(all);
        return td_mpi_library->fail(TD_ERR_NOMEM, "no memory for %d ranks", world->size);
    }
    describe_host(&own.host);
    int code = MPI_Allgather(&own, sizeof own, MPI_BYTE, all, sizeof own, MPI_BYTE, g->comm);
    for (int r = 0; r < world->size; r++) {
        (*hosts)[r] = all[r].host;
        if (!strcmp(all[r].host.name, own.host.name)) g->pid[r] = all[r].pid;
    }
    free(all);
    return code == MPI_SUCCESS ? TD_OK : td_mpi_error(code, world, -1);
}

static int most_tags(MPI_Comm comm)
{
    int *most = NULL, known = 0;
    MPI_Comm_get_attr(comm, MPI_TAG_UB, &most, &known);
    return known ? *most : 0;
}

static td_status check_tags(const td_mpi_group *g, int spares)
{
    int most = most_tags(g->comm);
    if (most < TD_TAG_END)
        return td_mpi_library->fail(TD_ERR_UNSUPPORTED,
                                    "this MPI's tags end at %d; Tandem needs %d", most, TD_TAG_END);
    if (spares && !g->many_tags)
        return td_mpi_library->fail(TD_ERR_UNSUPPORTED,
                                    "this MPI's tags end at %d; a run with spares needs %lld", most,
                                    (long long)TD_TAG_END * NUMBERS);
    return TD_OK;
}

/* How many groups there may be at once, and whether the job outlives its ranks. */
static void look_at_mpi(td_mpi_group *g)
{
    long long numbers = ((long long)most_tags(g->comm) + 1) / TD_TAG_END;
    g->many_tags = numbers >= NUMBERS;
    for (int k = 0; k < 64 * TD_GROUP_WORDS; k++)
        if (k >= numbers) g->taken[k / 64] |= (uint64_t)1 << (k % 64);
#if defined(MPIX_FT)
    int *mitigates = NULL, known = 0;
    MPI_Comm_get_attr(MPI_COMM_WORLD, MPIX_FT, &mitigates, &known);
    g->mitigates = known && *mitigates;
#endif
}

/* MPI writes to connections whose other end may have been killed: that must not end this rank. */
static void survive_broken_pipes(void)
{
    struct sigaction now;
    if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) signal(SIGPIPE, SIG_IGN);
}

td_status td_mpi_open(const td_mpi_services *given, const td_comm_config *config, td_comm *world,
                      td_mpi_host **hosts)
{
    int provided = 0, begun = 0;
    td_mpi_library = given;
    MPI_Initialized(&begun);
    if (begun)
        return td_mpi_library->fail(TD_ERR_UNSUPPORTED, "MPI can be opened once in a process");
    survive_broken_pipes();
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS)
        return td_mpi_library->fail(TD_ERR_IO, "MPI could not be initialised");
    td_mpi_group *g = calloc(1, sizeof *g);
    if (!g) return td_mpi_library->fail(TD_ERR_NOMEM, "no memory for MPI's group");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_dup(MPI_COMM_WORLD, &g->comm);
    MPI_Comm_set_errhandler(g->comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(g->comm, &world->rank);
    MPI_Comm_size(g->comm, &world->size);
    g->world = g, g->rank = world->rank, g->size = world->size;
    g->own = MPI_COMM_NULL, g->revoked = -1, g->taken[0] = 1; /* the world's */
    world->impl = g;
    look_at_mpi(g);
    int spares = config ? config->spares : 0;
    if (spares > 0 && !g->mitigates && g->rank == 0)
        td_mpi_library->log(TD_LOG_WARN,
                            "MPI runs without its failure mitigation: spares are of use for resize "
                            "alone, and recovery from a lost rank is a restart; start mpiexec with "
                            "--with-ft ulfm, if it has it");
    bool wants = spares > 0 || (g->mitigates && g->many_tags);
    bool memory = td_mpi_word_begin(g) && (!wants || td_mpi_muster_begin(g, g->size - spares));
    world->one_thread = provided < MPI_THREAD_MULTIPLE;
    td_status status =
        provided < MPI_THREAD_SERIALIZED
            ? td_mpi_library->fail(TD_ERR_UNSUPPORTED,
                                   "this MPI cannot be called by another thread than "
                                   "the first")
        : !memory ? td_mpi_library->fail(TD_ERR_NOMEM, "no memory for %d ranks", g->size)
                  : check_tags(g, spares);
    return status == TD_OK ? exchange_hosts(g, world, hosts) : status;
}

void td_mpi_close(td_comm *comm)
{
    td_mpi_group *g = comm->impl;
    if (!g) return;
    comm->card.waits = TD_LEFT;
    if (g->world != g) {
        close_group(comm);
        return;
    }
    bool failed = g->failed || g->sent || !g->known;
    if (!failed)
        failed = g->muster ? !td_mpi_muster_leave(g, &comm->card, comm->deadline_ms)
                           : !td_mpi_leave(g, &comm->card, comm->deadline_ms);
    if (failed && (!g->known || !td_mpi_say_goodbye(g, &comm->card))) return;
    /* MPI_Finalize may wait for ranks that have died; mpiexec is content with a process that exits
     * without, if all do. Where letters may still come, that nobody takes, the communicator stays:
     * Open MPI's failure mitigation was seen to lose what came behind one for a freed one. */
    if (!g->lossy) {
        if (!g->muster) MPI_Comm_free(&g->comm);
        MPI_Finalize();
    }
    free(g->pid);
    td_mpi_word_end(g);
    free(g);
}
