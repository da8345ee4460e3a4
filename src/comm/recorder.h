/* What a rank has been doing: a ring of its newest operations, in a file that outlives the process.
 *
 * The file is mapped, so an entry is a few stores, and what was stored is there for "tandem
 * diagnose" however the process ends. Times cost more than all else in an entry; so a time is taken
 * of every 16th operation, and of each that has to wait longer than a moment (which reads the clock
 * anyway): the one in which a rank hangs always has one.
 *
 * Layout of the file, native byte order: td_recorder_head (4,096 bytes), td_record [TD_RECORDS],
 * the entry of operation i at i % TD_RECORDS. */
#ifndef TD_COMM_RECORDER_H
#define TD_COMM_RECORDER_H

#include "comm/transport.h"

enum { TD_RECORDS = 256, TD_RECORDER_VERSION = 1 };
#define TD_RECORDER_MAGIC "tandemR"

enum { TD_RECORD_BEGUN = 1, TD_RECORD_DONE, TD_RECORD_FAILED };

typedef struct td_record {
    uint64_t sequence; /* of its group */
    uint64_t bytes;
    int64_t begin_ns;  /* CLOCK_MONOTONIC, 0: not taken */
    int64_t waited_ns; /* for other ranks, where it was long */
    int32_t root;      /* root or peer (in its group), -1: none */
    int32_t missing;   /* the rank of the run that it waits for, -1: unknown or nobody */
    uint8_t does, type, op, state;
    uint32_t group; /* ranks in its group */
} td_record;

typedef struct td_recorder_head {
    char magic[8];
    uint32_t version, record_bytes;
    int32_t rank, size;
    int64_t pid;
    int64_t opened_ns;   /* CLOCK_MONOTONIC */
    int64_t opened_wall; /* seconds since 1970 */
    int64_t closed_ns;   /* 0: not yet, or never */
    uint64_t next;       /* operations begun */
    uint64_t step;       /* of training */
    char host[64], transport[8];
    uint64_t generation; /* of the group that the rank is in, or was in last */
} td_recorder_head;

typedef struct td_recorder {
    td_recorder_head *head;
    td_record *ring;
    bool several; /* more than one thread writes */
} td_recorder;

/* The entry of an operation that begins (never NULL). */
td_record *td_recorder_add(td_recorder *recorder);
/* Writes what each recorder of this process does now, a line each; async-signal-safe. */
void td_recorder_print_all(int fd);
void td_recorder_close(td_comm *comm);

#endif
