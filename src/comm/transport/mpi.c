/* Ranks are processes that mpiexec started. This file and its neighbours mpi_*.c alone know MPI.
 *
 * Built as a module of its own and loaded at run time; it calls the library through a table of
 * services. Messages are MPI_Isend and MPI_Irecv of bytes, tested, never waited for inside MPI, so
 * that every wait keeps its deadline. Memory shared inside a host is POSIX shared memory, mapped
 * by all and unlinked at once: unlike an MPI window it stays usable when a rank has died. */
#include "comm/transport/mpi_group.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { NAME = 64, NAME_TRIES = 100, DRAIN_NS = 200000000, SEND_NS = 2000000 };

const td_mpi_services *td_mpi_library;

static td_status start(td_comm *comm, td_request *request, int code)
{
    request->done = code != MPI_SUCCESS;
    return code == MPI_SUCCESS ? TD_OK : td_mpi_error(code, comm, request->peer);
}

static td_status too_long(const td_request *request)
{
    return td_mpi_library->fail(TD_ERR_ARG, "a message of %zu bytes; one may have 2147483647",
                                request->bytes);
}

static td_status mpi_isend(td_comm *comm, td_request *request)
{
    td_mpi_group *g = comm->impl;
    if (request->bytes > 2147483647u) return too_long(request);
    return start(comm, request,
                 MPI_Isend(request->data, (int)request->bytes, MPI_BYTE,
                           td_mpi_peer(g, request->peer), td_mpi_tag(g, request->tag), g->comm,
                           td_mpi_native(request)));
}

static td_status mpi_irecv(td_comm *comm, td_request *request)
{
    td_mpi_group *g = comm->impl;
    if (request->bytes > 2147483647u) return too_long(request);
    request->self = TD_MPI_RECEIVES; /* they know their length */
    return start(comm, request,
                 MPI_Irecv(request->data, (int)request->bytes, MPI_BYTE,
                           td_mpi_peer(g, request->peer), td_mpi_tag(g, request->tag), g->comm,
                           td_mpi_native(request)));
}

/* A receive got another length than it has room for, or than it wants. */
static td_status misfit(td_comm *comm, const td_request *request, size_t got)
{
    int other = td_mpi_in_run(comm, request->peer), me = td_mpi_in_run(comm, comm->rank);
    if (got == request->bytes) /* this MPI does not say how much it was */
        return td_mpi_library
            ->fail(TD_ERR_PEER, "rank %d sent more than the %zu bytes that rank %d expected in %s",
                   other, request->bytes, me, td_mpi_operation(comm));
    return td_mpi_library->fail(TD_ERR_PEER,
                                "rank %d sent %zu bytes where rank %d expected %zu in %s", other,
                                got, me, request->bytes, td_mpi_operation(comm));
}

static td_status mpi_test(td_comm *comm, td_request *request, bool *done)
{
    *done = true;
    if (request->done) return TD_OK;
    int flag = 0, got = 0;
    MPI_Status status;
    int code = MPI_Test(td_mpi_native(request), &flag, &status);
    if (code != MPI_SUCCESS) {
        int class = 0;
        MPI_Error_class(code, &class);
        if (class != MPI_ERR_TRUNCATE) return td_mpi_error(code, comm, request->peer);
        request->done = 1;
        MPI_Get_count(&status, MPI_BYTE, &got);
        return misfit(comm, request, got > 0 ? (size_t)got : request->bytes);
    }
    *done = flag != 0;
    if (!flag) return TD_OK;
    request->done = 1;
    if (request->self == TD_MPI_OWN) free(request->native[1]);
    if (request->self != TD_MPI_RECEIVES) return TD_OK;
    MPI_Get_count(&status, MPI_BYTE, &got);
    request->got = (size_t)got;
    bool fits = request->at_most ? request->got <= request->bytes : request->got == request->bytes;
    return fits ? TD_OK : misfit(comm, request, request->got);
}

/* MPI may read, or write, that request's memory as long as it likes. */
static void leave_to_itself(td_comm *comm, const td_request *request)
{
    comm->adrift = true;
    if (request->self == TD_MPI_OWN) {
        const td_mpi_own_memory *m = request->native[1];
        td_mpi_library->adrift(m->in, m->in_bytes);
        td_mpi_library->adrift(m->out, m->out_bytes);
    } else {
        td_mpi_library->adrift(request->data, request->bytes);
    }
}

/* A receive that has begun to come from a rank that is silent, or dead, is left to itself, and so
 * is a send that nobody has taken: a rank that is late may still do so. */
static void mpi_cancel(td_comm *comm, td_request *request)
{
    if (request->done || *td_mpi_native(request) == MPI_REQUEST_NULL) return;
    if (request->self == TD_MPI_OWN) { /* MPI cannot withdraw it: what it holds is lost */
        leave_to_itself(comm, request);
        return;
    }
    /* A message that is on its way into the memory already cannot be withdrawn, and no send can. */
    bool receives = request->self == TD_MPI_RECEIVES;
    if (receives) MPI_Cancel(td_mpi_native(request));
    int64_t until = td_mpi_now_ns() + (receives ? DRAIN_NS : SEND_NS);
    int ended = 0;
    while (!ended && td_mpi_now_ns() < until) {
        if (MPI_Test(td_mpi_native(request), &ended, MPI_STATUS_IGNORE) != MPI_SUCCESS) ended = 1;
        if (!ended) nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    if (!ended) leave_to_itself(comm, request);
    /* An error of a send that was freed would end the process: it is left to itself. */
    if (receives && *td_mpi_native(request) != MPI_REQUEST_NULL)
        MPI_Request_free(td_mpi_native(request));
    *td_mpi_native(request) = MPI_REQUEST_NULL;
    request->done = 1;
}

static td_bell *mpi_bell(td_comm *comm)
{
    (void)comm;
    return NULL; /* MPI has to be asked */
}

/* --- shared memory --- */

static td_status map_shared(const char *name, bool create, size_t bytes, td_region *out)
{
    int fd = shm_open(name, create ? O_RDWR | O_CREAT | O_EXCL : O_RDWR, 0600);
    if (fd < 0 && !create && errno == ENOENT)
        return td_mpi_library->fail(TD_ERR_PEER, "the rank that made shared memory %s has given up",
                                    name);
    if (fd < 0) {
        int why = errno;
        td_status status = td_mpi_library->fail(TD_ERR_IO, "shared memory %s cannot be opened: %s",
                                                name, strerror(why));
        errno = why;
        return status;
    }
    errno = 0;
    td_status status = TD_OK;
    void *at = MAP_FAILED;
    if (create && posix_fallocate(fd, 0, (off_t)bytes) != 0)
        status = td_mpi_library->fail(TD_ERR_NOMEM,
                                      "%zu bytes of shared memory cannot be had in "
                                      "/dev/shm",
                                      bytes);
    struct stat s;
    if (!create && (fstat(fd, &s) != 0 || (size_t)s.st_size != bytes))
        status = td_mpi_library->fail(TD_ERR_IO,
                                      "shared memory %s has not the %zu bytes that this rank looks "
                                      "for",
                                      name, bytes);
    if (status == TD_OK) at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (status == TD_OK && at == MAP_FAILED)
        status =
            td_mpi_library->fail(TD_ERR_NOMEM, "%zu bytes of shared memory cannot be mapped: %s",
                                 bytes, strerror(errno));
    close(fd);
    if (status == TD_OK)
        *out = (td_region){.data = at, .bytes = bytes, .handle = at};
    else if (create)
        shm_unlink(name);
    return status;
}

typedef struct answer { /* of a rank that should have mapped memory */
    int32_t status, unused;
    td_card card;
} answer;

static td_status not_mapped(td_comm *comm, int r, const answer *got)
{
    td_status status = got->status == TD_ERR_PEER
                           ? TD_OK
                           : td_mpi_library->judge(comm, comm->world[r], &got->card, true);
    if (status != TD_OK) return status;
    /* Who lacks memory is that rank, not this one. */
    status = got->status == TD_ERR_NOMEM ? TD_ERR_PEER : (td_status)got->status;
    return td_mpi_library->fail(status, "rank %d %s the shared memory", comm->world[r],
                                got->status == TD_ERR_PEER ? "lost a rank before it mapped"
                                                           : "could not map");
}

/* The host's lowest rank makes the memory and tells its name; when all have mapped it (they answer
 * with their status: who has heard of a death, or runs something else, gives up for that) the name
 * goes away. */
static td_status mpi_shared_create(td_comm *comm, size_t bytes, td_region *out)
{
    char name[NAME] = "", why[512] = ""; /* not "": the memory could not be made here */
    int leader = 0, tries = 0;
    while (comm->host[leader] != comm->host[comm->rank]) leader++;
    td_status mine = TD_OK;
    if (comm->rank == leader) {
        do { /* a rank that was killed here may have left a name of that number */
            snprintf(name, sizeof name, "/tandem-%ld-%d", (long)getpid(),
                     __atomic_fetch_add(&((td_mpi_group *)comm->impl)->world->serial, 1,
                                        __ATOMIC_RELAXED));
            mine = map_shared(name, true, bytes, out);
        } while (mine != TD_OK && errno == EEXIST && ++tries < NAME_TRIES);
        if (mine != TD_OK) snprintf(why, sizeof why, "%s", td_mpi_library->last_error());
        if (mine != TD_OK) name[0] = 0;
    }
    for (int r = leader + 1; r < comm->size; r++) {
        if (comm->host[r] != comm->host[leader]) continue;
        td_status status = TD_OK;
        if (comm->rank == leader)
            status = td_mpi_library->exchange(comm, name, NAME, r, NULL, 0, -1, TD_TAG_SHARED);
        else if (comm->rank == r)
            status = td_mpi_library->exchange(comm, NULL, 0, -1, name, NAME, leader, TD_TAG_SHARED);
        if (status != TD_OK && !why[0]) mine = status;
    }
    if (comm->rank != leader && mine == TD_OK)
        mine = name[0] ? map_shared(name, false, bytes, out)
                       : td_mpi_library->fail(TD_ERR_PEER,
                                              "rank %d could not make %zu bytes of shared "
                                              "memory",
                                              comm->world[leader], bytes);
    answer own = {.status = (int32_t)mine, .card = comm->card};
    for (int r = leader + 1; r < comm->size; r++) {
        answer got = {.status = 0};
        if (comm->host[r] != comm->host[leader]) continue;
        td_status status = TD_OK;
        if (comm->rank == leader)
            status =
                td_mpi_library->exchange(comm, NULL, 0, -1, &got, sizeof got, r, TD_TAG_SHARED);
        else if (comm->rank == r)
            status = td_mpi_library->exchange(comm, &own, sizeof own, leader, NULL, 0, -1,
                                              TD_TAG_SHARED);
        if (status != TD_OK)
            mine = why[0] ? mine : status;
        else if (comm->rank == leader && got.status && mine == TD_OK)
            mine = not_mapped(comm, r, &got);
    }
    if (comm->rank == leader && name[0]) shm_unlink(name);
    if (mine != TD_OK && out->handle) {
        munmap(out->handle, out->bytes);
        *out = (td_region){0};
    }
    return why[0] ? td_mpi_library->fail(mine, "%s", why) : mine;
}

/* Messages that are left to themselves find memory that is empty instead. */
static void mpi_shared_destroy(td_comm *comm, td_region *region)
{
    int how = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    if (comm->adrift)
        mmap(region->handle, region->bytes, PROT_READ | PROT_WRITE, how, -1, 0);
    else
        munmap(region->handle, region->bytes);
}

static void mpi_die(td_comm *comm)
{
    (void)comm;
    raise(SIGKILL);
}

/* --- the module --- */

static void mpi_launcher(char path[512])
{
    Dl_info here;
    snprintf(path, 512, "mpiexec");
    if (!dladdr((const void *)(uintptr_t)MPI_Init, &here) || !here.dli_fname) return;
    char beside[512];
    snprintf(beside, sizeof beside - 16, "%s", here.dli_fname);
    for (int k = 0; k < 2; k++) { /* PREFIX/lib/libmpi.so */
        char *slash = strrchr(beside, '/');
        if (!slash) return;
        *slash = 0;
    }
    strcat(beside, "/bin/mpiexec");
    if (access(beside, X_OK) == 0) memcpy(path, beside, sizeof beside);
}

static bool mpi_lose_a_rank(void)
{
#if defined(MPIX_ERR_PROC_FAILED)
    int rank, size, left = 0;
    MPI_Comm rest;
    if (MPI_Init(NULL, NULL) != MPI_SUCCESS) return false;
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size < 2 || MPI_Barrier(MPI_COMM_WORLD) != MPI_SUCCESS) return false;
    if (rank == size - 1) kill(getpid(), SIGKILL);
    for (int i = 0; i < 1000 && MPI_Barrier(MPI_COMM_WORLD) == MPI_SUCCESS; i++)
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    MPIX_Comm_revoke(MPI_COMM_WORLD);
    if (MPIX_Comm_shrink(MPI_COMM_WORLD, &rest) != MPI_SUCCESS) return false;
    MPI_Comm_size(rest, &left);
    return left == size - 1 && MPI_Barrier(rest) == MPI_SUCCESS;
#else
    return false;
#endif
}

static void mpi_version(char text[256])
{
    char full[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(full, &length);
    snprintf(text, 256, "%.255s", full);
}

static const td_transport_ops mpi_ops = {
    .name = "mpi",
    .own = td_mpi_own,
    .isend = mpi_isend,
    .irecv = mpi_irecv,
    .test = mpi_test,
    .cancel = mpi_cancel,
    .bell = mpi_bell,
    .check = td_mpi_check,
    .fail = td_mpi_fail,
    .failure = td_mpi_failure,
    .show = td_mpi_show,
    .card = td_mpi_card,
    .give_up = td_mpi_give_up,
    .numbers = td_mpi_numbers,
    .take = td_mpi_take,
    .give_back = td_mpi_give_back,
    .split = td_mpi_split,
    .shared_create = mpi_shared_create,
    .shared_destroy = mpi_shared_destroy,
    .close = td_mpi_close,
    .muster = td_mpi_bring_together,
    .formed = td_mpi_formed,
    .can_recover = td_mpi_can_recover,
    .can_resize = td_mpi_can_resize,
    .die = mpi_die,
};

static const td_mpi_module module = {
    .abi = TD_MPI_ABI,
    .ops = &mpi_ops,
#if defined(MPIX_ERR_PROC_FAILED)
    .has_ulfm = true,
#endif
    .version = mpi_version,
    .open = td_mpi_open,
    .release = free,
    .launcher = mpi_launcher,
    .lose_a_rank = mpi_lose_a_rank,
};

extern TD_API const td_mpi_module *const td_mpi_module_entry;
const td_mpi_module *const td_mpi_module_entry = &module;
