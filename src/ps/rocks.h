/* RocksDB's C functions, as its c.h has them, by their names there without "rocksdb_". The library
 * is loaded with a process's first cold rows: with what it needs in turn it would cost the start of
 * every process some 10 ms, and a program would not start where it is missing. */
#ifndef TD_PS_ROCKS_H
#define TD_PS_ROCKS_H

#include "tandem/status.h"

#include <rocksdb/c.h>

typedef struct td_rocks {
#define TD_ROCKS_CALL(name) __typeof__(rocksdb_##name) *name
#include "ps/rocks_calls.h"
#undef TD_ROCKS_CALL
} td_rocks;

/* *out stays for the process's life. TD_ERR_UNSUPPORTED: it is not there, or lacks some. */
TD_MUST_CHECK td_status td_rocks_load(const td_rocks **out);

#endif
