/* Keys of a table's columns and categories: XXH3 of a column's name (or number) under a seed, and
 * of a category's text under that. Inline, as a call would take as long as the hash of an index; to
 * be included ahead of other users of xxhash.h. */
#ifndef TD_DATA_HASHING_H
#define TD_DATA_HASHING_H

#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define TD_HASHED_MISSING UINT64_MAX /* no text's */

static inline uint64_t td_hash_number(uint64_t number, uint64_t seed)
{
    number = htole64(number);
    return XXH3_64bits_withSeed(&number, sizeof number, seed);
}

/* name: NULL, columns have none. */
static inline uint64_t td_hash_column(const char *name, size_t length, size_t column, uint64_t seed)
{
    return name ? XXH3_64bits_withSeed(name, length, seed) : td_hash_number(column, seed);
}

static inline uint64_t td_hash_category(const char *text, size_t length, uint64_t column)
{
    uint64_t hash = XXH3_64bits_withSeed(text, length, column);
    return hash == TD_HASHED_MISSING ? hash - 1 : hash;
}

#endif
