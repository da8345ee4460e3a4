/* Rows that a worker has pulled, to be read again while they are fresh enough. When it is full it
 * is emptied: keys that are hot come back at once. */
#ifndef TD_PS_CACHE_H
#define TD_PS_CACHE_H

#include "tandem/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct td_age {
    uint64_t clock;  /* up to which all workers' pushes are in it */
    uint64_t others; /* of the other workers there were so many pushes then */
} td_age;

typedef struct td_cache {
    size_t width, rows, count; /* rows: room, a power of two */
    uint64_t *keys;            /* [2 * rows] seats; linear probing */
    uint32_t *place;           /* [2 * rows] UINT32_MAX: free */
    td_age *age;               /* [rows] */
    float *values;             /* [rows][width] */
} td_cache;

/* Room for at least `rows`. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_cache_init(td_cache *cache, size_t rows, size_t width);
void td_cache_fini(td_cache *cache); /* zeroed is fine */
void td_cache_clear(td_cache *cache);
/* The row, if it is of clock `least` or later. NULL: none. */
const float *td_cache_get(const td_cache *cache, uint64_t key, uint64_t least, td_age *age);
void td_cache_put(td_cache *cache, uint64_t key, td_age age, const float *row);

#endif
