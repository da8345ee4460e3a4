/* A server's share of a sparse table: rows of weights, and of the update rule's state right behind
 * them, under 64-bit keys. Keys may be anything: hashed features, or numbers of users.
 *
 * A row is made when its key is first seen, from the generator keyed by (seed, table, key), so that
 * it is the same whichever server makes it and when. The places in memory of a batch's keys are
 * asked for some keys ahead: rows come at the speed of memory, not of one miss after the other
 * (Chen et al., "Improving hash join performance through prefetching", 2004).
 *
 * Memory: a row is rounded up to 16 bytes (64 where it is longer); its key takes 16 bytes more of
 * an index that is between 3/8 and 3/4 full. The index is cut into parts that grow one at a time,
 * so that no request waits for the whole. Not for several threads at once.
 *
 * With memory_bytes, all that takes no more than that, but for the lists of a request's keys (16
 * bytes a key): rows that were not used for longest are cold, in files (cold.h; some 16 MiB more,
 * whatever the limit). They come back when a request needs them, bit for bit as they were. A
 * request then may also fail with TD_ERR_IO or TD_ERR_FULL, where the disk does, or with
 * TD_ERR_ARG, where its own rows are more than fit; no row is lost or moved then, and later ones
 * may succeed. Sightings of keys that have no row yet may be forgotten. */
#ifndef TD_PS_TABLE_H
#define TD_PS_TABLE_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum td_table_init { TD_TABLE_ZERO, TD_TABLE_UNIFORM, TD_TABLE_NORMAL } td_table_init;

/* Weights [begin, end) of a table, the i-th of a key being number key * width + i: they decay, or
 * are running averages, in which a push counts as `average` of 1. */
typedef struct td_table_span {
    size_t begin, end;
    bool averages; /* else they decay */
    float average;
} td_table_span;

typedef struct td_table_config {
    size_t width;     /* floats of a row's weights, 1 to 65536 */
    const char *rule; /* of td_table_rule_names; NULL: "sgd" */
    float lr;
    float momentum;     /* momentum; 0: 0.9 */
    float beta1, beta2; /* adam; 0: 0.9 and 0.999 */
    float epsilon;      /* adagrad, adam; 0: 1e-10 and 1e-8 */
    float weight_decay; /* not ftrl */
    /* [span_count], ascending and apart, borrowed as long as the table (or what opens tables by
     * this) lives: all other weights are moved without decay. NULL: all decay. */
    const td_table_span *spans;
    size_t span_count;
    float l1, l2, beta; /* ftrl; beta 0: 1 */
    td_table_init init; /* of new rows; their state is 0 */
    float scale;        /* uniform: within +-scale; normal: deviation */
    uint64_t seed;
    uint32_t number;     /* of the table, among those of one seed */
    uint32_t admit;      /* pushes that make a row; 0: 1 */
    size_t memory_bytes; /* 0: no limit */
    const char *folder;  /* with a limit: where cold rows lie, this table's alone */
} td_table_config;

extern const char *const td_table_rule_names[]; /* NULL at the end */

typedef struct td_table td_table;

/* What config points to is borrowed during the call. TD_ERR_ARG (another run uses the folder), with
 * a limit TD_ERR_IO and TD_ERR_UNSUPPORTED (no RocksDB), TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_table_create(const td_table_config *config, td_table **out);
void td_table_destroy(td_table *table);

/* Copies the weights of `count` rows to out [count][width]. Rows not admitted yet give what they
 * would begin with; where the first push would make them, they may be made. Neither a sighting nor
 * a use. TD_ERR_NOMEM: some rows may have been made. */
TD_MUST_CHECK td_status td_table_pull(td_table *table, const uint64_t *keys, size_t count,
                                      float *out);

/* The same, but makes no row, and leaves cold rows cold. Fails only where rows
 * are cold: TD_ERR_IO, TD_ERR_NOMEM. */
td_status td_table_peek(const td_table *table, const uint64_t *keys, size_t count, float *out);
/* And counts as a read. */
td_status td_table_read(td_table *table, const uint64_t *keys, size_t count, float *out);

/* The same three where the keys are some of a longer batch's, whose rows `out` has: keys[i] is its
 * key number places[i]. */
static inline size_t td_table_place(const uint32_t *places, size_t i) /* NULL: all of the batch's */
{
    return places ? places[i] : i;
}
TD_MUST_CHECK td_status td_table_pull_at(td_table *table, const uint64_t *keys,
                                         const uint32_t *places, size_t count, float *out);
td_status td_table_peek_at(const td_table *table, const uint64_t *keys, const uint32_t *places,
                           size_t count, float *out);
td_status td_table_read_at(td_table *table, const uint64_t *keys, const uint32_t *places,
                           size_t count, float *out);

/* What a push does to its rows: the rule's step number `step` (from 0; Adam's correction) with
 * gradient * scale, at the table's rate times rate_factor and its weight decay times `decay`: 1, or
 * less where several pushes make a step. */
typedef struct td_table_step {
    uint64_t step;
    float scale, rate_factor, decay;
} td_table_step;

/* Moves `count` rows by their gradients [count][width], one after the other where keys are alike.
 * Rows that are not admitted stay as they are. TD_ERR_NOMEM: no row has moved. */
TD_MUST_CHECK td_status td_table_push(td_table *table, const uint64_t *keys, size_t count,
                                      const float *gradients, td_table_step step);

/* The same, of a longer batch's gradients, as td_table_pull_at has them. */
TD_MUST_CHECK td_status td_table_push_at(td_table *table, const uint64_t *keys,
                                         const uint32_t *places, size_t count,
                                         const float *gradients, td_table_step step);

/* Calls fn with the rows [td_table_row_floats] themselves, to be changed, in turn; they are made as
 * by a push, and those that are not admitted left out. Ends with what fn fails with. */
typedef td_status td_table_apply_fn(void *arg, uint64_t key, float *row);
TD_MUST_CHECK td_status td_table_apply(td_table *table, const uint64_t *keys, size_t count,
                                       td_table_apply_fn *fn, void *arg);

/* Later pushes mark their rows with this time, which must not go back. */
void td_table_set_clock(td_table *table, uint32_t now);
/* Takes out rows and sightings that were marked before `least`; returns how many rows. Where cold
 * rows cannot be taken out, which it logs, rows stay until a later call. */
size_t td_table_evict(td_table *table, uint32_t least);

/* Takes out rows and sightings whose keys `gone` says so of; returns how many rows. As
 * td_table_evict where cold rows cannot be taken out. */
typedef bool td_table_gone_fn(void *arg, uint64_t key);
size_t td_table_drop(td_table *table, td_table_gone_fn *gone, void *arg);

/* Rows there are, and bytes of memory that table takes. */
size_t td_table_rows(const td_table *table);
size_t td_table_bytes(const td_table *table);
/* Floats of a row: its weights, then each state of the rule, width floats each. */
size_t td_table_row_floats(const td_table *table);

typedef struct td_table_stats {
    size_t rows, hot_rows, bytes;     /* hot: in memory */
    uint64_t hits, misses;            /* keys of reads whose row was in memory, and others; a read
                                         is a pull or a td_table_read */
    uint64_t cold_reads, cold_writes; /* rows that came from disk, and that went there */
    uint64_t disk_bytes;
} td_table_stats;
void td_table_measure(const td_table *table, td_table_stats *out);

/* As it was created, with its defaults filled in and no folder. */
const td_table_config *td_table_config_of(const td_table *table);

/* Every row, in no order: row is [td_table_row_floats]. Ends with what `each` fails with. */
typedef td_status td_table_each_fn(void *arg, uint64_t key, const float *row);
TD_MUST_CHECK td_status td_table_each(const td_table *table, td_table_each_fn *each, void *arg);
/* What a table remembers of a key besides its row: when it was last used, and, where it has no row
 * yet, how often it was seen. */
typedef struct td_table_mark {
    uint32_t used, seen; /* seen 0: there is a row */
} td_table_mark;
/* Every key with a row (NULL: none yet), in no order, and back. As td_table_each, td_table_put. */
typedef td_status td_table_each_key_fn(void *arg, uint64_t key, td_table_mark mark,
                                       const float *row);
TD_MUST_CHECK td_status td_table_each_key(const td_table *table, td_table_each_key_fn *each,
                                          void *arg);
TD_MUST_CHECK td_status td_table_put_key(td_table *table, uint64_t key, td_table_mark mark,
                                         const float *row);
/* The same in portions, between which keys may be adopted (those may be given, too): some keys a
 * call, a 64th of those in memory at most or some hundred of others. *more: false behind the last.
 * Nothing else may happen to the table meanwhile. TD_ERR_NOMEM, what cold rows fail with, and what
 * `each` fails with. */
typedef struct td_table_walk td_table_walk;
TD_MUST_CHECK td_status td_table_walk_begin(const td_table *table, td_table_walk **out);
TD_MUST_CHECK td_status td_table_walk_on(td_table_walk *walk, td_table_each_key_fn *each, void *arg,
                                         bool *more);
void td_table_walk_end(td_table_walk *walk); /* NULL is fine */
/* All of a table's keys, to be taken from it while it goes on. Rows that are cold at the beginning
 * come from a view, as they were then. All other keys, which are in memory at the beginning or have
 * been since, are listed, to be looked up when they are taken: that is then the truth, also of
 * those that came from the view. One at a time, ended before the table is destroyed. Takes 8 bytes
 * of memory for each key that comes into memory until it is listed. TD_ERR_NOMEM, TD_ERR_IO. */
typedef struct td_table_tap td_table_tap;
TD_MUST_CHECK td_status td_table_tap_begin(td_table *table, td_table_tap **out);
/* Some hundred more rows of the view, by one thread, while others use the table. *more: false
 * behind the last. */
TD_MUST_CHECK td_status td_table_tap_cold(td_table_tap *tap, td_table_each_key_fn *each, void *arg,
                                          bool *more);
/* Keys in memory, and at later calls those that have come there since. They may repeat. */
typedef td_status td_table_key_fn(void *arg, uint64_t key);
TD_MUST_CHECK td_status td_table_tap_keys(td_table_tap *tap, td_table_key_fn *each, void *arg);
void td_table_tap_end(td_table_tap *tap); /* NULL is fine */
/* What there is of those of the keys, which ascend, that there are, in no order; nothing changes.
 */
TD_MUST_CHECK td_status td_table_look_up(const td_table *table, const uint64_t *keys, size_t count,
                                         td_table_each_key_fn *each, void *arg);
/* Takes keys in from another table, instead of what is there of them: their marks, and their rows
 * [count][td_table_row_floats], which say nothing of those that have been seen only. Keys are all
 * different. Leaves out what this table would have evicted by now. With a limit rows come as cold
 * ones, so that none in memory makes way for them, and sightings for which there is no room are
 * forgotten. As td_table_put_key. */
TD_MUST_CHECK td_status td_table_adopt(td_table *table, const uint64_t *keys,
                                       const td_table_mark *marks, const float *rows, size_t count);
/* Rows of keys first to last, both among them, in ascending order, without keys that have none. In
 * passes: it takes memory for a 16th of the keys that there are. Also TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_table_range(const td_table *table, uint64_t first, uint64_t last,
                                       td_table_each_key_fn *each, void *arg);
/* The `most` lowest of them: one pass, in memory for as many keys. */
TD_MUST_CHECK td_status td_table_range_some(const td_table *table, uint64_t first, uint64_t last,
                                            size_t most, td_table_each_key_fn *each, void *arg);
/* All rows of a table with a limit as they are now, while it goes on: one version, whatever moves
 * behind it. Writes to a file the rows in memory that have moved since they were last on disk: it
 * takes disk while the version is there, and memory as td_table_range does. TD_ERR_ARG: no limit;
 * TD_ERR_IO, TD_ERR_FULL, TD_ERR_NOMEM. Freed before the table is destroyed. */
typedef struct td_table_version td_table_version;
TD_MUST_CHECK td_status td_table_freeze(td_table *table, td_table_version **out);
/* Every row, in ascending order of keys, as td_table_range; any number of times, by one thread,
 * while others use the table. */
TD_MUST_CHECK td_status td_table_version_each(const td_table_version *version,
                                              td_table_each_key_fn *each, void *arg);
void td_table_version_free(td_table_version *version); /* NULL is fine */

/* Weights of `count` rows whose keys ascend, to out [count]: [width] floats each, and behind them a
 * uint32_t, 1 where there is such a row, 0 where there is none. Like td_table_peek it changes
 * nothing. */
TD_MUST_CHECK td_status td_table_find(const td_table *table, const uint64_t *keys, size_t count,
                                      void *out);
/* Puts a whole row in, instead of what is there. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_table_put(td_table *table, uint64_t key, const float *row);

#endif
