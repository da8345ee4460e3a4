/* What the files of a feed share: see rows_feed.h. */
#ifndef TD_TRAIN_ROWS_FEED_IMPL_H
#define TD_TRAIN_ROWS_FEED_IMPL_H

#include "train/rows_feed.h"

typedef struct td_feed_tally { /* of an epoch's samples, as one rank has learnt from them */
    uint64_t samples, marks;
} td_feed_tally;

typedef struct td_feed_payload { /* samples as bytes, for a rank that has asked for them */
    char *data;
    size_t bytes, room;
    uint64_t of; /* shard, or step, + 1; 0: none */
} td_feed_payload;

typedef struct td_feed_part { /* what is packed: leaves of an epoch's step */
    uint64_t epoch, step;
    int leaf_begin, leaf_end;
    uint64_t of; /* as td_feed_payload's */
} td_feed_part;

struct td_feed {
    td_feed_config config;
    td_keyed *keyed;
    int number;                    /* of this rank among the servers, -1: none */
    uint64_t steps, shards, epoch; /* steps of an epoch; shards of it: of each step config.parts */
    uint64_t start;                /* no shard of the run below, counted through, is to be dealt */
    uint8_t *state;                /* [shards] */
    int32_t *holder;               /* [shards] rank in the run */
    uint64_t *name;        /* [shards] of the push, by name_of: of the lease, or that is owed */
    uint64_t first;        /* no shard below is free or owed */
    uint64_t settled;      /* a server: all of its shards below are done */
    bool unknown;          /* what has been learnt from: who knew has died */
    td_feed_tally *learnt; /* [ranks] as far as this rank knows, by rank in the run */
    size_t ranks;
    int rank; /* in the run, as the next two */
    int *workers, *servers;
    /* a server: */
    td_feed_payload *kept; /* [group] by rank that asks */
    int group;             /* ranks of it */
    uint64_t *key, *sample;
    float *value, *numbers;
    uint16_t *field;
    size_t most;
    /* a worker: */
    uint64_t held, held_name; /* shard + 1 that it has, and the name of its push, */
    bool held_owed;           /* which another has begun */
    uint64_t finished;        /* shard + 1 that its server is to be told is done */
    uint64_t owed;            /* no shard below is owed under its own name */
    uint64_t window;          /* it asks for shards below while any server has one */
    char *in;
    size_t in_room;
    int next; /* server to be asked first */
    /* in step: */
    uint64_t asked, asked_step; /* ticket of what is read ahead, 0: nothing, and the step */
    char *answers;              /* [servers][TD_KEYED_NOTE] */
    size_t *leaf_row;           /* [leaves + 1] of this worker's */
};

/* rows_feed_bytes.c: samples as bytes, for who asks; and those that it fetches, of its shard or
 * step. */
TD_MUST_CHECK td_status td_feed_pack(td_feed *f, const td_feed_part *part, td_feed_payload *out);
TD_MUST_CHECK td_status td_feed_give(const td_feed *f, const td_keyed_request *request);
TD_MUST_CHECK td_status td_feed_fetch(td_feed *f, int server, uint64_t shard, uint64_t bytes,
                                      td_rows_batch *batch);

/* rows_feed_steps.c */
TD_MUST_CHECK td_status td_feed_serve_steps(td_feed *f, const td_keyed_request *request);

#endif
