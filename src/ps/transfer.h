/* All rows of a table to a file, and back, for other tools. The path's ending says which format:
 *
 *   .safetensors   keys I64 [rows] | weights F32 [rows][width] | each state F32 [rows][width]
 *                  states are called "adagrad.sum", "momentum.velocity", "adam.exp_avg",
 *                  "adam.exp_avg_sq", "ftrl.z", "ftrl.n"; keys of 2^63 and above look negative;
 *                  __metadata__ has, as "rows_of", what the rows mean
 *   .tsv           key weights.0 weights.1 ... adagrad.sum.0 ...     names of columns
 *                  a row a line, numbers with as many digits as it takes to read the same back
 *                  # 2 rows of fm bits=20 hash-seed=1                at the end
 *
 * Rows are in ascending order of keys without a sign, so that the same rows are the same bytes
 * whatever made the table. Memory is bounded whatever its size, one byte a row aside
 * (td_table_range). Of a NaN in a .tsv only the sign is kept. */
#ifndef TD_PS_TRANSFER_H
#define TD_PS_TRANSFER_H

#include "ps/table.h"
#include "tandem/comm.h"

/* TD_ERR_ARG: the ending says no format. */
TD_MUST_CHECK td_status td_transfer_check(const char *path);

/* Writes the file as a whole or not at all. meaning: a line of text that tells what keys and
 * weights mean, for whoever imports them; NULL: the file does not say.
 * TD_ERR_ARG (the ending), TD_ERR_IO, TD_ERR_NOMEM. */
TD_MUST_CHECK td_status td_transfer_export(const td_table *table, const char *path,
                                           const char *meaning);

/* The same of rows that are in no table. */
typedef struct td_transfer_rows {
    const td_table_config *config; /* width, rule */
    bool states;                   /* rows have them behind their weights */
    size_t count;
    td_status (*walk)(void *self, td_table_each_key_fn *each, void *arg); /* in ascending order */
    void *self;
} td_transfer_rows;
TD_MUST_CHECK td_status td_transfer_write(const td_transfer_rows *rows, const char *path,
                                          const char *meaning);
/* All of a table's, with states. */
td_transfer_rows td_transfer_table(const td_table *table);

/* Whether a key is meant; files may be of any number of servers. */
typedef bool td_transfer_mine_fn(void *arg, uint64_t key);

/* Those of the rows that are `mine`, and, if asked for, when each was last used (used I64 [rows];
 * td_transfer_import does not take it), to a .safetensors file; *out_hash is XXH64 of all its
 * bytes. Two walks, the first of which counts: rows->count is not looked at. The same errors, and
 * what the walks fail with. */
TD_MUST_CHECK td_status td_transfer_write_some(const td_transfer_rows *rows, const char *path,
                                               td_transfer_mine_fn *mine, void *arg, bool used,
                                               uint64_t *out_hash, uint64_t *out_bytes);

/* What is taken of a file, and what it must be. Zeroed: all of it, whatever it is. */
typedef struct td_transfer_want {
    td_transfer_mine_fn *mine; /* NULL: all rows */
    void *arg;
    const char *meaning; /* a file that says another is refused; NULL: none is */
    int bits;            /* keys have no more; 0: 64 */
} td_transfer_want;

typedef struct td_transfer_taken {
    size_t rows;   /* put into the table */
    uint64_t hash; /* of all rows of the file: who else reads it can compare */
} td_transfer_taken;

/* Puts rows of the file into the table, instead of what is there under their keys. A file of
 * weights alone gives rows whose states are 0; not under ftrl, whose weights are a function of its
 * states. want (NULL is as zeroed), out (may be NULL).
 * TD_ERR_DATA, TD_ERR_CORRUPT: cut off, damaged, of another width, rule or meaning, keys not in
 * ascending order or of too many bits, with line or byte. What td_table_put fails with. A
 * .safetensors file is checked first; of a .tsv file the rows before the fault are in the table
 * then. */
TD_MUST_CHECK td_status td_transfer_import(td_table *table, const char *path,
                                           const td_transfer_want *want, td_transfer_taken *out);

/* That all ranks which read the file have read the same rows. TD_ERR_DATA at all. Collective. */
TD_MUST_CHECK td_status td_transfer_compare(td_comm *comm, const char *path, bool reads,
                                            uint64_t hash);

#endif
