/* The keys of a batch, each once: click logs repeat a few keys in nearly every sample, and a row
 * need travel once. */
#ifndef TD_PS_BATCH_H
#define TD_PS_BATCH_H

#include "tandem/status.h"

#include <stddef.h>
#include <stdint.h>

typedef struct td_batch {
    uint64_t *keys; /* [count] different ones, in the order in which they first appear */
    size_t count;
    uint32_t *place; /* [asked] where in `keys` the k-th asked for lies */
    size_t asked;
    uint32_t *seats; /* [room] of the hash table */
    size_t keys_room, seats_room;
} td_batch;

/* Begins as {0}; may be filled again and again, and keeps its memory. At most 2^31 keys.
 * TD_ERR_NOMEM, TD_ERR_ARG: it is empty then. */
TD_MUST_CHECK td_status td_batch_fill(td_batch *batch, const uint64_t *keys, size_t count);
void td_batch_free(td_batch *batch);

/* rows [count][width] to out [asked][width]. */
void td_batch_spread(const td_batch *batch, size_t width, const float *rows, float *out);
/* values [asked][width] to rows [count][width]: those of a key are added in the order asked. */
void td_batch_gather(const td_batch *batch, size_t width, const float *values, float *rows);

#endif
