/* What a rank has been doing: rings of its newest operations, in a file that outlives the process.
 *
 * The file is mapped, so an entry is a few stores, and what was stored is there for "tandem
 * diagnose" however the process ends. Each group of the rank has a place of its own, with a ring of
 * its collectives and one of what a rank does there alone (messages, keyed parts): a group is used
 * by one thread at a time, its ranks run the same collectives under the same numbers, and many
 * messages push no collective out. A group that finds no place is counted and not recorded.
 *
 * Times cost more than all else in an entry; so they are taken of every 32nd operation of a group,
 * the same ones at all its ranks, and of each that has to wait longer than a moment (which reads
 * the clock anyway): the one in which a rank hangs always has one. How far apart ranks came to an
 * operation, and how long each waited inside, is told from the entries of all. A short operation
 * that waited and is none of these ends, in its entry, as long behind its first wait as all its
 * waits took.
 *
 * Layout of the file, native byte order: td_recorder_head (4,096 bytes), td_recorder_group
 * [TD_RECORDER_GROUPS]; the entry of collective i of a group at i % TD_RECORDS. */
#ifndef TD_COMM_RECORDER_H
#define TD_COMM_RECORDER_H

#include "comm/transport.h"
#include "tandem/keyed.h"

#include <pthread.h>

enum { TD_RECORDS = 128, TD_RECORDS_ALONE = 16, TD_RECORDER_GROUPS = 32 };
enum { TD_RECORDS_TIMED = 32, TD_RECORDER_VERSION = 5 };
enum { TD_RECORD_PUT_OFF = 16 << 10 }; /* most bytes of an operation whose entry may wait */
enum { TD_RECORDER_HEAD_BYTES = 4096 };
#define TD_RECORDER_MAGIC "tandemR"

enum { TD_RECORD_BEGUN = 1, TD_RECORD_DONE, TD_RECORD_FAILED };

typedef struct td_record {
    uint64_t sequence; /* of its ring, from 1 */
    uint64_t bytes;
    int64_t begin_ns;  /* CLOCK_MONOTONIC, 0: not taken */
    int64_t end_ns;    /* 0: not taken; of one under way: since when it waits, 0: it does not */
    int64_t waited_ns; /* for other ranks, where it was long; of one that failed: until then */
    uint32_t number;   /* among all operations of the rank, modulo 2^32 */
    int32_t missing;   /* the rank of the run that it waits for, -1: unknown or nobody */
    uint32_t parts;    /* as in a header: a hash of the sizes of its parts; a message's tag */
    int32_t root;      /* root or peer (rank of the run), -1: none */
    uint16_t width;    /* of elements that are the user's, else 0 */
    uint8_t does, state;
    uint8_t put_off; /* it is short, and was written when it had begun */
    uint8_t type, op;
    uint8_t algorithm; /* of coll.c's table, + 1; 0: it has none */
} td_record;
_Static_assert(sizeof(td_record) == 64, "a cache line");

/* What a group is for, which tells apart groups of the same ranks. */
enum {
    TD_GROUP_RECORDED,
    TD_GROUP_SPLIT,
    TD_GROUP_WORKS,
    TD_GROUP_KEYED,
    TD_GROUP_MEETING, /* split, for ranks that wait there while others still work */
    TD_GROUP_KINDS
};

typedef struct td_recorder_group {
    uint64_t number, parent; /* as in a card, the same at all its ranks; number 0: unused */
    uint64_t generation;
    uint64_t collectives, alone; /* begun */
    int32_t ranks, rank;         /* of the group; this one's in it */
    uint32_t kind, closed;
    uint32_t made;       /* which of the rank's groups it is */
    uint32_t waited_for; /* of works: the rank itself waits for them */
    td_record collective[TD_RECORDS], by_itself[TD_RECORDS_ALONE];
} td_recorder_group;
_Static_assert(sizeof(td_recorder_group) == (1 + TD_RECORDS + TD_RECORDS_ALONE) * 64,
               "its head is a cache line");

typedef struct td_recorder_head {
    char magic[8];
    uint32_t version, record_bytes;
    int32_t rank, size;
    int64_t pid;
    int64_t opened_ns;   /* CLOCK_MONOTONIC */
    int64_t opened_wall; /* the same moment in nanoseconds since 1970: hosts share no other clock */
    int64_t closed_ns;   /* 0: not yet, or never */
    uint64_t next;       /* operations begun */
    uint64_t step;       /* of training */
    char host[64], transport[8];
    uint64_t generation;   /* of the group that the rank is in, or was in last */
    uint32_t groups, lost; /* made since; those that found no place */
} td_recorder_head;

typedef struct td_recorder {
    td_recorder_head *head;
    td_recorder_group *group; /* [TD_RECORDER_GROUPS] */
    bool several;             /* works write as well; atomic */
    pthread_mutex_t lock;
    int groups; /* guarded by lock, as who has which place; that have it open */
} td_recorder;

static inline size_t td_recorder_bytes(void)
{
    return TD_RECORDER_HEAD_BYTES + TD_RECORDER_GROUPS * sizeof(td_recorder_group);
}

/* This group, made from `from`, is recorded where that is; what it is for. */
void td_recorder_join(td_comm *comm, const td_comm *from);
/* The same of a meeting, and of a channel of keyed parts, that were opened before the record. */
void td_recorder_join_meeting(td_comm *meeting, const td_comm *from);
void td_recorder_join_keyed(td_keyed *keyed, const td_comm *from);
void td_recorder_call(td_comm *comm, int kind);
/* Whether the rank itself waits for its works (NULL: their group is closed). */
void td_recorder_wait_for(td_comm *works, bool waits);
/* The record goes on in a group that takes the place of `from`. */
void td_recorder_move(td_comm *from, td_comm *to);
/* The rank has ended, if the group began the record: it may wait for the others to. */
void td_recorder_rest(td_comm *comm);
/* The group's place is free; the record ends with the group that began it. */
void td_recorder_close(td_comm *comm);
/* Writes what each recorder of this process does now, a line each; async-signal-safe. */
void td_recorder_print_all(int fd);

#endif
