/* What the files of a feed share: see rows_feed.h. */
#ifndef TD_TRAIN_ROWS_FEED_IMPL_H
#define TD_TRAIN_ROWS_FEED_IMPL_H

#include "train/rows_feed.h"

typedef struct td_feed_tally { /* of an epoch's samples, as one rank has learnt from them */
    uint64_t samples, marks;
} td_feed_tally;

struct td_feed {
    td_feed_config config;
    td_keyed *keyed;
    int number; /* of this rank among the servers, -1: none */
    uint64_t shards, epoch;
    uint8_t *state;        /* [shards] */
    int32_t *holder;       /* [shards] rank in the run */
    uint64_t *name;        /* [shards] of the push, by name_of: of the lease, or that is owed */
    uint64_t first;        /* no shard below is free or owed */
    bool unknown;          /* what has been learnt from: who knew has died */
    td_feed_tally *learnt; /* [ranks] as far as this rank knows, by rank in the run */
    size_t ranks;
    int rank; /* in the run, as the next two */
    int *workers, *servers;
    /* a server: */
    char *payload;
    size_t bytes, room;
    uint64_t *key, *sample;
    float *value, *numbers;
    uint16_t *field;
    size_t most;
    /* a worker: */
    uint64_t held, held_name; /* shard + 1 that it has, and the name of its push, */
    bool held_owed;           /* which another has begun */
    uint64_t finished;        /* shard + 1 that its server is to be told is done */
    uint64_t owed;            /* no shard below is owed under its own name */
    char *in;
    size_t in_room;
    int next; /* server to be asked first */
};

/* rows_feed_bytes.c: a shard's samples to f->payload, and from f->in. */
TD_MUST_CHECK td_status td_feed_pack(td_feed *f, uint64_t shard);
TD_MUST_CHECK td_status td_feed_unpack(td_feed *f, td_rows_batch *batch);

#endif
