/* What the files of td_sharded share: see sharded.h. */
#ifndef TD_PS_SHARDED_IMPL_H
#define TD_PS_SHARDED_IMPL_H

#include "ps/unique.h"
#include "ps/cache.h"
#include "ps/copies.h"
#include "ps/sharded.h"
#include "ps/store.h"
#include "tandem/keyed.h"

enum { TD_AS_PRIMARY, TD_AS_BACKUP };
typedef enum td_asks {
    TD_ASKS_PARTS,
    TD_ASKS_STOP,
    TD_RETIRES,
    TD_ASKS_KEYS,
    TD_ASKS_ROWS,
    TD_APPLIES,
    TD_ASKS_COPIES /* whether the server has all its copies, and has given all */
} td_asks;

typedef struct td_ask {   /* note of a request */
    int32_t worker, role; /* worker -1: none, which only looks */
    uint64_t clock;
    float scale, rate;
    int32_t asks;     /* a td_asks; not TD_ASKS_PARTS: no push */
    int32_t function; /* its number */
    union {
        struct {
            uint64_t first, last, most; /* keys; rows that there is room for */
        } range;
        char argument[TD_SHARDED_ARGUMENT];
        struct {           /* a push, as td_store_push has it */
            uint64_t read; /* of others' pushes */
            float seconds, factor, decay;
            uint32_t again; /* it was sent before, perhaps to some servers alone */
        };
    };
} td_ask;

typedef struct td_told { /* note of an answer */
    uint64_t slowest, over;
    uint32_t applied;
    float factor; /* of a push's rate */
    uint64_t stops;
    uint64_t rows, more, reached; /* of a page: keys; rows of the server's table, 0: none of them is
                                     behind the page; the last key that was looked at */
    union {
        uint64_t others;  /* pushes of the other workers */
        uint64_t copying; /* TD_ASKS_COPIES */
    };
} td_told;
_Static_assert(sizeof(td_ask) == TD_KEYED_NOTE && sizeof(td_told) == TD_KEYED_NOTE, "a note each");

typedef struct td_asked { /* a request's memory, which stays; rooms are in items */
    int *owner;
    uint64_t *keys;
    uint32_t *place;
    float *rows;
    size_t *sizes;
    size_t owner_room, keys_room, place_room, rows_room, sizes_room;
    size_t count;
    float *out;         /* the caller's */
    double kept_others; /* of the rows that were kept: the sum of their ages' */
    size_t kept;
    td_ask ask;
    uint64_t ticket;
} td_asked;

typedef struct td_kept { /* a step that was not acknowledged */
    uint64_t *keys;
    float *values;
    size_t count;
    td_ask ask;
    bool waits, pairs;
} td_kept;

struct td_sharded {
    td_comm *comm, *meeting;        /* meeting: its own group, without deadline */
    td_sharded_config config;       /* without what was borrowed */
    td_sharded_function *functions; /* [config.function_count] */
    td_place place;
    td_store store;
    pthread_mutex_t lock; /* of place and store, against copies; held while this rank serves */
    td_copies *copies;    /* NULL: all slices are where they belong */
    td_keyed *keyed;
    int rank, worker;
    int *of_worker; /* [worker_count] ranks in the run, -1: gone for good */
    int *server_of; /* [size] a rank's number among the servers, -1: none */
    int *serving;   /* [server_count] ranks */
    int server_count;
    bool replicas;
    bool retired; /* this worker: nobody waits for it */
    size_t width, row_bytes;
    uint64_t clock, bound;
    td_told *told;  /* [server_count] */
    td_cache cache; /* rows 0: nothing is kept */
    td_asked fetch, push, copy;
    td_kept kept;
    td_unique batch;
    float *unique;
    size_t unique_room;
    td_staleness reads; /* of rows that were kept */
    uint64_t read_at;   /* the step whose rows were read last, */
    double read_others; /* the sum of others' pushes that they had, */
    size_t read_rows;   /* of so many */
    int64_t began;      /* when this worker began to compute; 0: unknown */
    uint64_t cached, asked, late;
};

td_keyed_serve_fn td_sharded_serve;
td_keyed_ready_fn td_sharded_ready;
/* sharded_range.c: a server's keys of a range, to `out`; the rows of keys. */
TD_MUST_CHECK td_status td_sharded_serve_keys(const td_sharded *sharded, const td_ask *ask,
                                              void *out, td_told *told);
TD_MUST_CHECK td_status td_sharded_serve_rows(const td_sharded *sharded,
                                              const td_keyed_request *request);
/* Makes the kept step again, if there is one. */
TD_MUST_CHECK td_status td_sharded_push_again(td_sharded *sharded);

#endif
