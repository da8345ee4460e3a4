/* Finds and loads the module that is linked with MPI, so that the library itself is not, and runs
 * where there is none. */
#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"
#include "comm/recover.h"
#include "comm/registered.h"
#include "comm/transport.h"
#include "comm/transport/mpi_start.h"

#include <td_paths.h>

#include <dlfcn.h>
#include <libgen.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char module_name[] = "tandem-mpi.so";

/* Places to look, relative to the folder of the program or library ("" as they are). */
static const char *const places[] =
    {"",        "/../lib/tandem", "/../lib64/tandem", "/../" TD_LIBDIR "/tandem",
     "/tandem", "/src/comm",      "/../src/comm"};

static void *open_beside(const char *file, char *why, size_t room)
{
    char folder[PATH_MAX], path[PATH_MAX + 64];
    if (!realpath(file, folder)) return NULL;
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%s/%s", folder, places[i], module_name);
        if (access(path, R_OK) != 0) continue;
        void *handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
        if (handle) return handle;
        snprintf(why, room, ": %s", dlerror());
    }
    return NULL;
}

static void *open_module(char *why, size_t room)
{
    const char *named = getenv("TANDEM_MPI_MODULE");
    if (named) {
        void *handle = dlopen(named, RTLD_NOW | RTLD_GLOBAL);
        if (!handle) snprintf(why, room, ": %s", dlerror());
        return handle;
    }
    void *handle = open_beside("/proc/self/exe", why, room);
    Dl_info here;
    if (!handle && dladdr((const void *)(uintptr_t)td_mpi_load, &here) && here.dli_fname)
        handle = open_beside(here.dli_fname, why, room);
    if (!handle) handle = dlopen(TD_MODULE_DIR "/tandem-mpi.so", RTLD_NOW | RTLD_GLOBAL);
    return handle;
}

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const td_mpi_module *loaded; /* written once */
static char reason[512];

static void load(void)
{
    void *handle = open_module(reason, sizeof reason);
    if (!handle) return;
    const td_mpi_module *const *module = dlsym(handle, "td_mpi_module_entry");
    if (module && (*module)->abi == TD_MPI_ABI) loaded = *module;
}

td_status td_mpi_load(const td_mpi_module **out)
{
    pthread_once(&once, load);
    if (!loaded)
        return td_fail(TD_ERR_UNSUPPORTED,
                       "the MPI module %s was not found or does not fit%s; "
                       "build Tandem with MPI, or run without mpiexec",
                       module_name, reason);
    *out = loaded;
    return TD_OK;
}

td_status td_comm_mpi_version(char text[256], bool *has_ulfm)
{
    const td_mpi_module *module = NULL;
    TD_TRY(td_comm_check_given(text, "the version of MPI", "place for its text"));
    TD_TRY(td_mpi_load(&module));
    module->version(text);
    if (has_ulfm) *has_ulfm = module->has_ulfm;
    return TD_OK;
}

/* --- the job --- */

/* Numbers for host names, the same at all ranks; and which cores each may run on: a rank may be
 * bound to one, and a job to some of its machine's. */
static td_status know_hosts(const td_mpi_host *hosts, td_seat *seat)
{
    seat->host = td_calloc((size_t)seat->ranks, sizeof *seat->host);
    seat->cores = td_calloc((size_t)seat->ranks, sizeof *seat->cores);
    if (!seat->host || !seat->cores)
        return td_fail(TD_ERR_NOMEM, "no memory for %d ranks", seat->ranks);
    for (int r = 0; r < seat->ranks; r++)
        while (strcmp(hosts[seat->host[r]].name, hosts[r].name) != 0) seat->host[r]++;
    for (int r = 0; r < seat->ranks; r++) {
        bool here = seat->host[r] == seat->host[seat->rank];
        seat->place += here && r < seat->rank;
        seat->places += here;
        memcpy(seat->cores[r], hosts[r].cores, sizeof hosts[r].cores);
    }
    td_comm_fake_hosts(seat->host, seat->ranks);
    return TD_OK;
}

/* The handle that begins and ends MPI: of the ranks that are active, or a spare's own. */
static td_status open_world(const td_comm_config *config, td_comm **out, bool *spare)
{
    static const td_mpi_services services =
        {td_fail,         td_log,        td_last_error,       td_comm_exchange,
         td_recover_plan, td_card_judge, td_registered_adrift};
    const td_mpi_module *module = NULL;
    TD_TRY(td_comm_check_config(config));
    TD_TRY(td_mpi_load(&module));
    td_mpi_host *hosts = NULL;
    int spares = config ? config->spares : 0;
    td_comm *world = td_calloc(1, sizeof *world);
    td_seat *seat = td_calloc(1, sizeof *seat);
    if (!world || !seat) {
        td_free(world), td_free(seat);
        return td_fail(TD_ERR_NOMEM, "no memory for a group");
    }
    world->ops = module->ops;
    world->deadline_ms = td_comm_deadline(config);
    td_start start;
    td_start_begin(&start, world->deadline_ms);
    td_status status = module->open(&services, config, world, &hosts);
    td_start_end(&start);
    *seat = (td_seat){.rank = world->rank, .ranks = world->size};
    if (status == TD_OK) status = td_comm_check_ranks(seat->ranks, spares);
    if (status == TD_OK) status = know_hosts(hosts, seat);
    *spare = status == TD_OK && seat->rank >= seat->ranks - spares;
    if (status == TD_OK && !*spare) world->size -= spares;
    world->seat = seat;
    if (status == TD_OK) status = td_comm_set_hosts(world, seat->host, NULL);
    module->release(hosts);
    if (status == TD_OK) td_comm_spread_out(world);
    world->owns_seat = true;
    if (status == TD_OK) {
        *out = world;
        return TD_OK;
    }
    if (world->impl && world->size) world->ops->fail(world, status);
    td_comm_close(world);
    return status;
}

td_status td_comm_open_mpi(const td_comm_config *config, td_comm **out)
{
    td_comm *world = NULL, *taken = NULL;
    bool spare = false;
    TD_TRY(td_comm_check_given(out, "open", "place for the group"));
    TD_TRY(open_world(config, &world, &spare));
    td_status status = spare ? td_comm_wait_taken(world, &taken) : TD_OK;
    *out = spare ? taken : world;
    if (taken) taken->ends = world;
    if (!*out) td_comm_close(world);
    return status;
}

td_status td_comm_run_mpi(const td_comm_config *config, td_rank_fn *fn, void *arg)
{
    bool anothers;
    return td_comm_run_mpi_told(config, fn, arg, &anothers);
}

td_status td_comm_run_mpi_told(const td_comm_config *config, td_rank_fn *fn, void *arg,
                               bool *anothers)
{
    char sentence[1024];
    td_comm *world = NULL;
    bool spare = false;
    *anothers = false;
    if (!fn) return td_fail(TD_ERR_ARG, "a run: no function for its ranks");
    TD_TRY(open_world(config, &world, &spare));
    td_status status = td_comm_run_rank(world, spare, fn, arg);
    *anothers = world->seat->waited_in_vain && td_comm_failure(world) != TD_OK;
    if (status == TD_OK) {
        td_comm_close(world);
        return TD_OK;
    }
    snprintf(sentence, sizeof sentence, "%s", td_last_error());
    world->ops->fail(world, status);
    td_comm_close(world);
    return td_fail_again(status, sentence);
}
