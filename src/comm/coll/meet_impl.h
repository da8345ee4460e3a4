/* A meeting place, as meet.c (its rounds) and meet_memory.c (what ranks read of each other outside
 * their blocks) see it. */
#ifndef TD_COMM_COLL_MEET_IMPL_H
#define TD_COMM_COLL_MEET_IMPL_H

#include "comm/coll/meet.h"
#include "comm/registered.h"

enum { TD_MEET_ARRIVED, TD_MEET_REDUCED, TD_MEET_DONE, TD_MEET_STAGES };
enum { TD_MEET_SLOT = 4096, TD_MEET_HEAD = 64, TD_MEET_SHOWN = 64 /* rounds that ranks show */ };
enum {
    TD_MEET_MOST_SLOTS = TD_MEET_BLOCK / TD_MEET_SLOT + 1,
    TD_MEET_SLOTS = 2 * TD_MEET_MOST_SLOTS + 2, /* a rank's ring */
    TD_MEET_SLOTS_OF_TWO = 512                  /* one of two ranks': see ring_of */
};
enum { TD_MEET_CHECKED = TD_MEET_RANKS / 64 };
enum { TD_MEET_READS = 1, TD_MEET_WRITES };

/* Written by its rank alone. Two cache lines: neighbours are fetched in pairs. */
typedef struct td_meet_line {
    uint64_t stage[TD_MEET_STAGES]; /* newest round that has come so far */
    const void *in;
    void *out;
    int32_t looking, withdrawn; /* looking: TD_MEET_READS or TD_MEET_WRITES, 0: it does not */
    int32_t more; /* ns that 64 KiB cost it more when they were staged past the caches */
    int32_t core; /* it arrived on last */
    int32_t pid, reaches, maps, unused;
    td_registered mark; /* the piece that has it */
    uint64_t spare;
} td_meet_line;
_Static_assert(sizeof(td_meet_line) == 128, "a line of counters");

/* Where a rank's vectors lie that others may map, shown in the first round of a call. */
typedef struct td_meet_open {
    td_registered in, out;
    int32_t open;  /* 0: what others would read cannot be mapped */
    int32_t apart; /* in and out are not one vector */
    int64_t gain;  /* see td_meet_ways: of calls of this length */
} td_meet_open;

/* Of one way: ns of all, and of the longest. */
typedef struct td_meet_tries {
    int count;
    int64_t spent, most;
} td_meet_tries;

/* Two ways to make a call, tried now and then, a few times one after the other. Each rank times its
 * own, from when all have arrived, and shows what the second has gained with its next call, so that
 * all choose alike. */
typedef struct td_meet_ways {
    /* A turn is tries of the first way, calls that go the second way and do not count, tries of
     * that one, and then what has come of them. */
    uint64_t calls;           /* of this turn */
    unsigned turns, warm;     /* turns so far; calls that do not count */
    bool second, timed, last; /* the call under way; last: of the tries of a turn */
    bool times;               /* this rank does */
    int64_t since;
    td_meet_tries tries[2]; /* of this turn */
    int64_t gain;           /* ns that the second way took less */
} td_meet_ways;

/* Rounds of at least some length, in which the two ways of staging are tried in turn: each
 * rank times what it does itself, without its waits. */
typedef struct td_meet_trying {
    uint64_t rounds;
    bool through; /* this round stages past the caches */
    bool better;  /* through, for all ranks together */
    bool timed;   /* this round is */
    size_t bytes; /* of this round */
    int64_t since, spent;
    int64_t first;      /* spent by the first of the two, */
    size_t first_bytes; /* which had so many bytes */
} td_meet_trying;

struct td_meet {
    td_comm *comm;
    /* lines | bell | headers [size][SHOWN] | opens [size][SHOWN] | shorts [size][SHOWN] |
     * slots [size][ring]; a block is head | what is staged */
    td_region region;
    td_meet_line *lines;
    td_bell *bell;
    td_header *headers;  /* [size][SHOWN] what a rank runs in a round */
    td_meet_open *opens; /* [size][SHOWN] */
    char *shorts, *slots;
    uint64_t round;
    uint64_t short_rounds;
    size_t short_bytes; /* of the last one's block */
    bool is_short;      /* this round's block */
    unsigned looks;     /* at heads of short blocks that were not there yet */
    size_t first, next; /* slots: of this round, behind it */
    size_t ring;        /* slots of a rank */
    uint64_t *used;     /* [ring] the round that took a slot last */
    uint64_t done_with; /* all are, with rounds up to this one, as far as this rank has looked */
    uint64_t checked[TD_MEET_CHECKED]; /* ranks whose operation has been compared, a bit each */
    int stage, only;                   /* waited for */
    unsigned tests;                    /* of waits */
    int64_t moved_at;                  /* to another core */
    uint64_t wanted;
    td_meet_trying trying;
    char *draft; /* [TD_MEET_BLOCK] or NULL */
    char *scratch;
    size_t scratch_bytes;
    /* What this rank gives others to read in this call, and whether all do: kept for each pattern,
     * as what the next call of it may expect. */
    td_meet_open open;
    bool opens_up, told, all_open, all_apart, sees, expects[TD_PATTERNS];
    int64_t all_gain;
    /* Of calls of 2^k bytes and more: of each pattern where memory is seen, and where it is not. */
    td_meet_ways ways[2][TD_PATTERNS][8 * sizeof(size_t)], *way;
    td_mappings mappings;
    /* The first: what others find at this address, and in this piece, if they can; they write to
     * the one behind it that is theirs. */
    uint64_t marks[1 + TD_MEET_RANKS];
    void *piece;
    bool tried, reaches, maps;
};

static inline td_header *td_meet_header(const td_meet *m, int rank, uint64_t round)
{
    return &m->headers[rank * TD_MEET_SHOWN + (int)(round % TD_MEET_SHOWN)];
}

static inline td_meet_open *td_meet_open_of(const td_meet *m, int rank, uint64_t round)
{
    return &m->opens[rank * TD_MEET_SHOWN + (int)(round % TD_MEET_SHOWN)];
}

/* Of another rank of this call. */
static inline void td_meet_has_opened(td_meet *m, const td_meet_open *its)
{
    m->all_open = m->all_open && its->open;
    m->all_apart = m->all_apart && its->apart;
    m->all_gain += its->gain;
}

#endif
