/* See dict.h. Linear probing; what is stored of a text is its length by way of the next one's. */
#include "data/readers/dict.h"

#include "base/alloc.h"

#include <stdbool.h>
#include <string.h>
#include <xxhash.h>

enum { FIRST_SLOTS = 64, MOST = 1 << 24 };

static size_t length_of(const td_dict *dict, uint32_t k)
{
    size_t end = k + 1 < dict->count ? dict->at[k + 1] : dict->used;
    return end - dict->at[k] - 1;
}

static uint32_t find(const td_dict *dict, const char *text, size_t length)
{
    uint32_t mask = dict->slots - 1, i = (uint32_t)XXH3_64bits(text, length) & mask;
    for (;; i = (i + 1) & mask) {
        if (dict->slot[i] == 0) return i;
        uint32_t k = dict->slot[i] - 1;
        if (length_of(dict, k) == length && !memcmp(td_dict_text(dict, k), text, length)) return i;
    }
}

static bool grow_slots(td_dict *dict)
{
    uint32_t slots = dict->slots ? dict->slots * 2 : FIRST_SLOTS;
    uint32_t *fresh = td_calloc(slots, sizeof *fresh);
    if (!fresh) return false;
    td_free(dict->slot);
    dict->slot = fresh;
    dict->slots = slots;
    for (uint32_t k = 0; k < dict->count; k++)
        dict->slot[find(dict, td_dict_text(dict, k), length_of(dict, k))] = k + 1;
    return true;
}

static bool make_room(td_dict *dict, size_t length)
{
    if (dict->used + length + 1 > dict->room) {
        size_t room = 2 * dict->room + length + 256;
        char *larger = td_realloc(dict->bytes, room);
        if (!larger) return false;
        dict->bytes = larger;
        dict->room = room;
    }
    if (dict->count == dict->at_room) {
        uint32_t room = 2 * dict->at_room + 32;
        size_t *larger = td_reallocarray(dict->at, room, sizeof *larger);
        if (!larger) return false;
        dict->at = larger;
        dict->at_room = room;
    }
    return 2 * (dict->count + 1) <= dict->slots || grow_slots(dict);
}

int td_dict_add(td_dict *dict, const char *text, size_t length)
{
    if (dict->slots) {
        uint32_t i = find(dict, text, length);
        if (dict->slot[i]) return (int)dict->slot[i] - 1;
    }
    if (dict->count >= MOST || !make_room(dict, length)) return -1;
    uint32_t k = dict->count;
    dict->slot[find(dict, text, length)] = k + 1;
    memcpy(dict->bytes + dict->used, text, length);
    dict->bytes[dict->used + length] = 0;
    dict->at[k] = dict->used;
    dict->used += length + 1;
    dict->count++;
    return (int)k;
}

void td_dict_fini(td_dict *dict)
{
    td_free(dict->bytes);
    td_free(dict->at);
    td_free(dict->slot);
}
