/* See rocks.h. */
#include "ps/rocks.h"

#include "base/error.h"

#include <ps/td_rocksdb.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>

static pthread_once_t once = PTHREAD_ONCE_INIT;
static td_rocks calls; /* written once, as all of these */
static bool loaded;
static char reason[300];

static void load(void)
{
    void *library = dlopen(TD_ROCKSDB, RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen(TD_ROCKSDB_DIR "/" TD_ROCKSDB, RTLD_NOW | RTLD_LOCAL);
    void *call = library;
#define TD_ROCKS_CALL(name)                                                                        \
    if (call) call = *(void **)&calls.name = dlsym(library, "rocksdb_" #name)
#include "ps/rocks_calls.h"
#undef TD_ROCKS_CALL
    loaded = call != NULL;
    if (!loaded) snprintf(reason, sizeof reason, "%s", dlerror());
}

td_status td_rocks_load(const td_rocks **out)
{
    pthread_once(&once, load);
    if (!loaded)
        return td_fail(TD_ERR_UNSUPPORTED,
                       "a table with a memory limit needs RocksDB, which cannot be loaded: %s",
                       reason);
    *out = &calls;
    return TD_OK;
}
