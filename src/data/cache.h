/* Parsed data kept beside its source and mapped the next time. */
#ifndef TD_DATA_CACHE_H
#define TD_DATA_CACHE_H

#include "data/locate.h"

typedef struct td_cache_key {
    char path[TD_PATH_MAX]; /* of the cache */
    char source[TD_PATH_MAX];
    uint64_t hash; /* of the sources' names, sizes and times, the options and like's content */
} td_cache_key;

TD_MUST_CHECK td_status td_cache_key_make(const td_data_config *config, const td_location *where,
                                          td_cache_key *out);

/* TD_ERR_CORRUPT, or another failure, where there is no whole cache of this key. */
TD_MUST_CHECK td_status td_cache_load(const td_cache_key *key, td_dataset **out);

/* Writes the cache; a failure is a warning and otherwise ignored. */
void td_cache_save(const td_cache_key *key, const td_dataset *dataset);

#endif
