/* See cache.h. */
#include "ps/cache.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

td_status td_cache_init(td_cache *c, size_t rows, size_t width)
{
    *c = (td_cache){.width = width, .rows = 16};
    while (c->rows < rows) c->rows *= 2;
    c->keys = td_calloc(2 * c->rows, sizeof *c->keys);
    c->place = td_calloc(2 * c->rows, sizeof *c->place);
    c->age = td_calloc(c->rows, sizeof *c->age);
    c->values = td_calloc(c->rows * width, sizeof *c->values);
    if (!c->keys || !c->place || !c->age || !c->values) {
        td_cache_fini(c);
        return td_fail(TD_ERR_NOMEM, "no memory to keep %zu rows of a table", rows);
    }
    td_cache_clear(c);
    return TD_OK;
}

void td_cache_fini(td_cache *c)
{
    td_free(c->keys), td_free(c->place), td_free(c->age), td_free(c->values);
    *c = (td_cache){0};
}

void td_cache_clear(td_cache *c)
{
    if (!c->rows) return;
    memset(c->place, 0xff, 2 * c->rows * sizeof *c->place);
    c->count = 0;
}

static size_t seat_of(const td_cache *c, uint64_t key)
{
    size_t mask = 2 * c->rows - 1;
    size_t at = (size_t)((key ^ key >> 32) * 0x9e3779b97f4a7c15 >> 20) & mask;
    while (c->place[at] != UINT32_MAX && c->keys[at] != key) at = (at + 1) & mask;
    return at;
}

const float *td_cache_get(const td_cache *c, uint64_t key, uint64_t least, td_age *age)
{
    uint32_t place = c->place[seat_of(c, key)];
    if (place == UINT32_MAX || c->age[place].clock < least) return NULL;
    *age = c->age[place];
    return c->values + place * c->width;
}

void td_cache_put(td_cache *c, uint64_t key, td_age age, const float *row)
{
    size_t at = seat_of(c, key);
    if (c->place[at] == UINT32_MAX) {
        if (c->count == c->rows) {
            td_cache_clear(c);
            at = seat_of(c, key);
        }
        c->keys[at] = key;
        c->place[at] = (uint32_t)c->count++;
    }
    c->age[c->place[at]] = age;
    memcpy(c->values + c->place[at] * c->width, row, c->width * sizeof *row);
}
