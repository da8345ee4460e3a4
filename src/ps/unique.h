/* The keys of a batch, each once: click logs repeat a few keys in nearly every sample, and a row
 * need travel once. */
#ifndef TD_PS_UNIQUE_H
#define TD_PS_UNIQUE_H

#include "tandem/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct td_unique {
    uint64_t *keys; /* [count] different ones, in the order in which they first appear */
    size_t count;
    uint32_t *place; /* [asked] where in `keys` the k-th asked for lies */
    size_t asked;
    uint32_t *seats; /* [room] of the hash table */
    size_t keys_room, seats_room;
} td_unique;

/* Begins as {0}; may be filled again and again, and keeps its memory. At most 2^31 keys.
 * TD_ERR_NOMEM, TD_ERR_ARG: it is empty then. */
TD_MUST_CHECK td_status td_unique_fill(td_unique *batch, const uint64_t *keys, size_t count);
/* Of keys that do not repeat: they are kept, and nothing else is known of them. */
TD_MUST_CHECK td_status td_unique_copy(td_unique *batch, const uint64_t *keys, size_t count);
void td_unique_free(td_unique *batch);

/* rows [count][width] to out [asked][width]. */
void td_unique_spread(const td_unique *batch, size_t width, const float *rows, float *out);
/* Places of the keys of `batch`, each once: first of those that `before` does not have, which is
 * how many it returns. place: [batch->count]. */
size_t td_unique_split(const td_unique *before, const td_unique *batch, uint32_t *place);
/* values [asked][width] to rows [count][width]: those of a key are added in the order asked. */
void td_unique_gather(const td_unique *batch, size_t width, const float *values, float *rows);

#endif
