/* The ranks' records of operations (comm/recorder.h), read for "tandem diagnose".
 *
 * A run that is under way goes on while it is read. So each record is read twice, all of them once
 * before any a second time: what a rank was in at the first reading and still is at the second, all
 * others have had the time between to come to; and an entry that both readings agree on was not
 * being written. Nothing is said of a rank that rests on one reading alone. */
#ifndef TD_CLI_DIAGNOSE_H
#define TD_CLI_DIAGNOSE_H

#include "comm/recorder.h"

enum { TD_PAST_RANKS = 1024, TD_PAST_TEXT = 256 };

typedef enum td_past_life { TD_NO_RECORD, TD_LIVES, TD_STOPPED, TD_DIED, TD_ENDED } td_past_life;

typedef struct td_past {  /* of a rank */
    char *bytes, *before; /* both readings; NULL: there is no record */
    const td_recorder_head *head;
    td_past_life life;
    bool left;         /* the others have made a group without it since */
    int64_t now, wall; /* by its clock: when it was read; what to add for nanoseconds since 1970 */
} td_past;

typedef struct td_past_group {
    uint64_t number;
    int kind, ranks, members; /* members: whose records know it */
    char name[64];            /* "", "group 1", "the works of group 1" */
} td_past_group;

typedef struct td_diagnosis {
    td_past *rank; /* [size] */
    int size;
    td_past_group *group; /* [groups] of the newest generation */
    int groups;
    uint64_t generation;
    int64_t between_ns; /* the two readings */
} td_diagnosis;

/* Of td_past_doing and others: an operation of a rank. */
typedef struct td_deed {
    const td_past_group *group; /* NULL: none */
    const td_record *entry;
    int rank;
} td_deed;

TD_MUST_CHECK td_status td_diagnosis_read(const char *folder, td_diagnosis *out);
void td_diagnosis_free(td_diagnosis *d);

/* A rank's place of the group, NULL: it is not known to be in it. */
const td_recorder_group *td_past_of(const td_diagnosis *d, int rank, const td_past_group *g);
/* The entry of a collective as both readings have it, NULL: there is none. */
const td_record *td_past_entry(const td_diagnosis *d, int rank, const td_past_group *g,
                               uint64_t sequence);
/* The newest collective, or the newest that it did alone, at the second reading; NULL: none. */
const td_record *td_past_newest(const td_diagnosis *d, int rank, const td_past_group *g,
                                bool alone);
/* Whether the rank has begun something between the two readings. */
bool td_past_goes_on(const td_diagnosis *d, int rank);
/* Whether an entry is under way at both readings. */
bool td_past_stuck(const td_diagnosis *d, int rank, const td_record *e);
/* What the rank itself (not its works) is in, else did last. */
td_deed td_past_doing(const td_diagnosis *d, int rank);
/* Its newest operation in any group, also of those that the others have left; NULL: none. */
const td_record *td_past_last(const td_diagnosis *d, int rank);
/* The works that the rank waits for, NULL: it waits for none. */
const td_past_group *td_past_awaits(const td_diagnosis *d, int rank);

/* Seconds since that moment of the rank's clock, up to the reading. */
double td_past_since(const td_diagnosis *d, int rank, int64_t ns);
/* On the one clock of all ranks, nanoseconds since 1970. */
int64_t td_past_wall(const td_diagnosis *d, int rank, int64_t ns);
/* Since when a rank that is in no operation is in none: seconds; *exactly: else it is the most. */
double td_past_idle(const td_diagnosis *d, td_deed last, bool *exactly);

/* "all-reduce 400 B f32 sum", "recv 40 B from rank 1 under tag 3". */
void td_deed_describe(const td_record *e, char text[TD_PAST_TEXT]);
/* " (operation 7 of group 1)"; of what a rank does alone " (in group 1)" or nothing. */
void td_deed_place(td_deed deed, char text[TD_PAST_TEXT]);
/* What the rank does now, in words that follow "rank 3 ". */
void td_past_tell(const td_diagnosis *d, int rank, char text[2 * TD_PAST_TEXT]);

/* Prints what can be told of the run; a line each. */
void td_diagnosis_verdict(const td_diagnosis *d);

#endif
