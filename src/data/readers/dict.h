/* Texts numbered as they come: a hash table over bytes copied into one growing buffer. */
#ifndef TD_DATA_READERS_DICT_H
#define TD_DATA_READERS_DICT_H

#include <stddef.h>
#include <stdint.h>

typedef struct td_dict {
    char *bytes; /* the texts, each ended by 0 */
    size_t used, room;
    size_t *at; /* [count] where text k begins in bytes */
    uint32_t count, at_room;
    uint32_t *slot; /* [slots] number + 1; 0: free */
    uint32_t slots; /* a power of two, at least twice count; or 0 */
} td_dict;

/* The text's number, -1 when out of memory or full (2^24 texts). A zeroed dict is empty. */
int td_dict_add(td_dict *dict, const char *text, size_t length);
static inline const char *td_dict_text(const td_dict *dict, uint32_t k)
{
    return dict->bytes + dict->at[k];
}
void td_dict_fini(td_dict *dict);

#endif
