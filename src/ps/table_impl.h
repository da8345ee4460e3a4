/* What the files of a table share: rows.c (the index, and the rows in slabs), tier.c (rows that are
 * cold), version.c (those on disk as they once were), table.c (batches, and all rows), range.c
 * (rows in ascending order), tap.c (keys while the table goes on).
 *
 *   key -> part -> entry {key, row, used} -> slab: weights [width] | states [..][width] | padding
 *
 * With a memory limit, a key that has an entry is hot, and what its entry says is the truth; any
 * other key may be in the cold rows (cold.h). A hot row may have a copy there. */
#ifndef TD_PS_TABLE_IMPL_H
#define TD_PS_TABLE_IMPL_H

#include "ps/cold.h"
#include "ps/rule.h"
#include "ps/table.h"

enum { TD_TABLE_PARTS = 64, TD_TABLE_AHEAD = 32 }; /* places in memory asked for before their use */
#define TD_TABLE_NONE UINT32_MAX
/* An entry without a row: how often its key was seen, in the other bits. */
#define TD_TABLE_SIGHTED 0x80000000u

typedef struct td_entry {
    uint64_t key;
    uint32_t row;  /* NONE: free; SIGHTED | n: none yet */
    uint32_t used; /* clock */
} td_entry;

typedef struct td_part {
    td_entry *entries; /* [mask + 1] */
    size_t mask, taken;
    size_t hand; /* where the search for rows to put out goes on */
} td_part;

/* Marks of a row in a table with a limit. */
enum {
    TD_ROW_COPIED = 1, /* there is a cold copy */
    TD_ROW_MOVED = 2,  /* the copy, if there is one, is of before */
    TD_ROW_USED = 4,   /* since the hand last came by */
    TD_ROW_HELD = 8    /* by the request under way */
};

typedef struct td_tier {
    td_cold *cold;    /* NULL: no limit, and the rest idle */
    size_t quota;     /* entries of a part */
    uint8_t *marks;   /* [spare_room] */
    size_t rows;      /* that are only cold */
    uint32_t oldest;  /* no copy was used before */
    uint64_t *absent; /* [absent_room] the request's keys that have no row in memory */
    size_t absent_room;
    uint64_t reads, writes; /* rows */
} td_tier;

typedef struct td_table_notes { /* keys that enter memory */
    bool on, lost;              /* lost: there was no memory for some */
    uint64_t *keys;
    size_t count, room;
} td_table_notes;

struct td_table {
    td_table_config config;
    td_rule rule;
    size_t stride; /* floats from row to row */
    td_part parts[TD_TABLE_PARTS];
    float **slabs;
    size_t slab_count;
    uint32_t slab_bits;             /* rows of a slab: 1 << slab_bits */
    uint32_t made;                  /* rows ever */
    uint32_t *spare;                /* rows that were evicted */
    size_t spare_count, spare_room; /* room for all rows */
    size_t rows;                    /* in memory */
    uint32_t clock;
    float **found; /* [found_room] rows of the batch under way */
    size_t found_room;
    uint64_t read, missed; /* keys of reads; those of them that had no row in memory */
    uint64_t rowless;      /* sightings of keys that had no row */
    uint32_t least;        /* what was not used since then is evicted */
    td_tier tier;
    td_table_notes notes;
};

/* Stafford's 13th mixer; other bits than those that choose the server. */
static inline uint64_t td_table_mixed(uint64_t key)
{
    key = (key ^ key >> 30) * 0xbf58476d1ce4e5b9;
    key = (key ^ key >> 27) * 0x94d049bb133111eb;
    return key ^ key >> 31;
}

static inline size_t td_table_part(uint64_t hash)
{
    return hash >> 58;
}

_Static_assert(sizeof(td_entry) == 16, "four are a cache line, which a part begins with");

/* Where a key would like to be: at the head of a cache line of entries. */
static inline size_t td_table_home(const td_part *p, uint64_t hash)
{
    return hash & p->mask & ~(size_t)3;
}

/* The key's entry, or the free one where it goes: linear probing (Knuth, vol. 3, 6.4 L). A line is
 * looked through without branches, as half of the keys are not at its head. */
static inline td_entry *td_table_probe(const td_table *t, uint64_t key, uint64_t hash)
{
    const td_part *p = &t->parts[td_table_part(hash)];
    for (size_t at = td_table_home(p, hash);; at = (at + 4) & p->mask) {
        td_entry *e = &p->entries[at];
        unsigned ends = 0; /* the search, a bit an entry */
        for (unsigned j = 0; j < 4; j++)
            ends |= (unsigned)((e[j].row == TD_TABLE_NONE) | (e[j].key == key)) << j;
        if (ends) return &e[__builtin_ctz(ends)];
    }
}

static inline void td_table_prefetch(const td_table *t, uint64_t hash)
{
    const td_part *p = &t->parts[td_table_part(hash)];
    __builtin_prefetch(&p->entries[td_table_home(p, hash)]);
}

static inline float *td_table_row(const td_table *t, uint32_t row)
{
    return t->slabs[row >> t->slab_bits] + (row & ((1u << t->slab_bits) - 1)) * t->stride;
}

/* --- rows.c --- */

enum { TD_TABLE_LEAST_ENTRIES = 64 };
bool td_part_make(td_part *part, size_t entries); /* a power of two */

/* A new key's entry. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_table_enter(td_table *t, uint64_t key, uint64_t hash, td_entry **out);
/* An entry without a row gets one, not cleared. TD_ERR_NOMEM, TD_ERR_UNSUPPORTED. */
TD_MUST_CHECK td_status td_table_give_row(td_table *t, td_entry *e);
/* Frees the part's entry at `hole`, and its row; others move there. */
void td_table_take_out(td_table *t, td_part *part, size_t hole);

/* One more sighting of a key whose entry has no row yet, or is free. */
TD_MUST_CHECK td_status td_table_see_rowless(td_table *t, uint64_t key, uint64_t hash, td_entry *e,
                                             float **row);

/* *row: NULL, or the key's. moves: the row will change, which is a sighting, and makes the row if
 * it is time; else one that is there at the first sighting is made, too. */
TD_MUST_CHECK static inline td_status td_table_see(td_table *t, uint64_t key, uint64_t hash,
                                                   bool moves, float **row)
{
    td_entry *e = td_table_probe(t, key, hash);
    if (e->row >= TD_TABLE_SIGHTED) {
        *row = NULL;
        if (!moves && t->config.admit > 1) return TD_OK;
        return td_table_see_rowless(t, key, hash, e, row);
    }
    uint8_t mark = TD_ROW_USED | (moves ? TD_ROW_MOVED : 0);
    /* Lines that stay clean are not written back. */
    if (moves && e->used != t->clock) e->used = t->clock, mark |= TD_ROW_MOVED;
    if (t->tier.marks) t->tier.marks[e->row] |= mark;
    *row = td_table_row(t, e->row);
    return TD_OK;
}

/* --- tier.c: what does nothing in a table without a limit --- */

/* Shares the limit out. TD_ERR_ARG: it is too small, or as td_cold_open. */
TD_MUST_CHECK td_status td_tier_open(td_table *t);
void td_tier_close(td_table *t);

/* Brings the request's cold rows in, and makes room for those that it will make. TD_ERR_ARG: it
 * does not fit; TD_ERR_NOMEM; what the cold rows fail with. No row is lost then. */
TD_MUST_CHECK td_status td_tier_warm(td_table *t, const uint64_t *keys, size_t count);
/* The weights of those of the keys that are cold. */
TD_MUST_CHECK td_status td_tier_peek(const td_table *t, const uint64_t *keys,
                                     const uint32_t *places, size_t count, float *out);
/* Takes out all copies used before `least`; *gone grows by rows that were only cold. */
TD_MUST_CHECK td_status td_tier_evict(td_table *t, uint32_t least, size_t *gone);

/* Takes out the copies of keys that `gone` says so of; the same. */
TD_MUST_CHECK td_status td_tier_drop(td_table *t, td_table_gone_fn *gone, void *arg, size_t *rows);

/* td_table_adopt of a table with a limit. */
TD_MUST_CHECK td_status td_tier_adopt(td_table *t, const uint64_t *keys, const td_table_mark *marks,
                                      const float *rows, size_t count);

/* A walk through rows that are only cold. */
TD_MUST_CHECK td_status td_tier_seek(const td_table *t, uint64_t first, td_cold_cursor *cursor);
TD_MUST_CHECK td_status td_tier_next(const td_table *t, td_cold_cursor *cursor);

/* --- tap.c --- */

void td_table_note(td_table *t, uint64_t key);

/* --- range.c --- */

/* Rows in memory that have no cold copy, or one of before, in ascending order; as td_table_range.
 */
TD_MUST_CHECK td_status td_table_each_moved(const td_table *t, td_table_each_key_fn *each,
                                            void *arg);

#endif
