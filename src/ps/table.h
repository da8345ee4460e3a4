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
 * so that no request waits for the whole. Not for several threads at once. */
#ifndef TD_PS_TABLE_H
#define TD_PS_TABLE_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum td_table_init { TD_TABLE_ZERO, TD_TABLE_UNIFORM, TD_TABLE_NORMAL } td_table_init;

typedef struct td_table_config {
    size_t width;     /* floats of a row's weights, 1 to 65536 */
    const char *rule; /* of td_table_rule_names; NULL: "sgd" */
    float lr;
    float momentum;     /* momentum; 0: 0.9 */
    float beta1, beta2; /* adam; 0: 0.9 and 0.999 */
    float epsilon;      /* adagrad, adam; 0: 1e-10 and 1e-8 */
    float weight_decay; /* not ftrl */
    float l1, l2, beta; /* ftrl; beta 0: 1 */
    td_table_init init; /* of new rows; their state is 0 */
    float scale;        /* uniform: within +-scale; normal: deviation */
    uint64_t seed;
    uint32_t number; /* of the table, among those of one seed */
    uint32_t admit;  /* sightings (pushes or pulls) that make a row; 0: 1 */
} td_table_config;

extern const char *const td_table_rule_names[]; /* NULL at the end */

typedef struct td_table td_table;

/* TD_ERR_ARG, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_table_create(const td_table_config *config, td_table **out);
void td_table_destroy(td_table *table);

/* Copies the weights of `count` rows to out [count][width]. Rows not admitted yet, which this
 * counts as a sighting of, give what they would begin with. TD_ERR_NOMEM: some rows may have been
 * made. */
TD_MUST_CHECK td_status td_table_pull(td_table *table, const uint64_t *keys, size_t count,
                                      float *out);

/* The same, but makes no row and counts no sighting. */
void td_table_peek(const td_table *table, const uint64_t *keys, size_t count, float *out);

/* What a push does to its rows: the rule's step number `step` (from 0; Adam's correction) with
 * gradient * scale, at the table's rate times rate_factor. */
typedef struct td_table_step {
    uint64_t step;
    float scale, rate_factor;
} td_table_step;

/* Moves `count` rows by their gradients [count][width], one after the other where keys are alike.
 * Rows that are not admitted stay as they are. TD_ERR_NOMEM: no row has moved. */
TD_MUST_CHECK td_status td_table_push(td_table *table, const uint64_t *keys, size_t count,
                                      const float *gradients, td_table_step step);

/* Later pushes and pulls mark their rows with this time, which must not go back. */
void td_table_set_clock(td_table *table, uint32_t now);
/* Takes out rows and sightings that were marked before `least`; returns how many rows. */
size_t td_table_evict(td_table *table, uint32_t least);

/* Takes out rows and sightings whose keys `gone` says so of; returns how many rows. */
typedef bool td_table_gone_fn(void *arg, uint64_t key);
size_t td_table_drop(td_table *table, td_table_gone_fn *gone, void *arg);

/* Rows there are, and bytes that table takes. */
size_t td_table_rows(const td_table *table);
size_t td_table_bytes(const td_table *table);
/* Floats of a row: its weights, then each state of the rule, width floats each. */
size_t td_table_row_floats(const td_table *table);

/* Every row, in no order: row is [td_table_row_floats]. Ends with what `each` fails with. */
typedef td_status td_table_each_fn(void *arg, uint64_t key, const float *row);
TD_MUST_CHECK td_status td_table_each(const td_table *table, td_table_each_fn *each, void *arg);
/* Puts a whole row in, instead of what is there. TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_table_put(td_table *table, uint64_t key, const float *row);

#endif
