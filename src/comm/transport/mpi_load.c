/* Finds and loads the module that is linked with MPI, so that the library itself is not, and runs
 * where there is none. */
#include "base/alloc.h"
#include "base/error.h"
#include "comm/transport.h"

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
static const char *const places[] = {"", "/../lib/tandem", "/../lib64/tandem",
                                     "/../" TD_LIBDIR "/tandem", "/tandem", "/src/comm",
                                     "/../src/comm"};

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
        return td_fail(TD_ERR_UNSUPPORTED, "the MPI module %s was not found or does not fit%s; "
                       "build Tandem with MPI, or run without mpiexec", module_name, reason);
    *out = loaded;
    return TD_OK;
}

td_status td_comm_mpi_version(char text[256], bool *has_ulfm)
{
    const td_mpi_module *module = NULL;
    TD_TRY(td_mpi_load(&module));
    module->version(text);
    *has_ulfm = module->has_ulfm;
    return TD_OK;
}

td_status td_comm_run_mpi(const td_comm_config *config, td_rank_fn *fn, void *arg)
{
    static const td_mpi_services services = {td_fail, td_last_error, td_comm_exchange};
    const td_mpi_module *module = NULL;
    TD_TRY(td_mpi_load(&module));
    td_comm world = {.ops = module->ops};
    world.deadline_ms = config && config->deadline_ms ? config->deadline_ms : 300000;
    char *names = NULL;
    int *host = NULL;
    td_status status = module->open(&services, &world, &names);
    if (status != TD_OK) return status;
    host = td_calloc((size_t)world.size, sizeof *host);
    if (!host) {
        status = td_fail(TD_ERR_NOMEM, "no memory for %d ranks", world.size);
        goto out;
    }
    for (int r = 0; r < world.size; r++)
        while (strcmp(names + 64 * host[r], names + 64 * r) != 0) host[r]++;
    /* For tests: pretend that ranks are on several hosts, "0,0,1,1". */
    const char *fake = getenv("TANDEM_FAKE_HOSTS");
    for (int r = 0; fake && r < world.size; r++) {
        host[r] = atoi(fake);
        fake = strchr(fake, ',') ? strchr(fake, ',') + 1 : fake;
    }
    TD_GOTO(td_comm_set_hosts(&world, host));
    status = fn(&world, arg);
out:
    td_free(host);
    if (status != TD_OK) world.ops->fail(&world, status);
    module->release(names);
    module->finish(&world, status != TD_OK);
    td_free(world.host);
    return status;
}
