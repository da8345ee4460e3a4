/* How a run's state is cut into the files of a checkpoint.
 *
 * The arrays (parameters, the optimizer's, the best parameters) lie one behind the other; the files
 * take about equal parts of them, cut between rows of tensors. How many files there are follows
 * from the state and the leaves, not from the number of ranks: any number of ranks writes the same
 * bytes, each a run of neighbouring files. */
#ifndef TD_TRAIN_LAYOUT_H
#define TD_TRAIN_LAYOUT_H

#include "ckpt/bundle.h"
#include "strategy/strategy.h"

enum { TD_LAYOUT_ARRAYS = 4, TD_LAYOUT_FILES = 256, TD_LAYOUT_NAME = 128 };

typedef struct td_array {
    const char *prefix; /* of tensors' names: "" or "momentum" */
    float *data;        /* [params]; NULL: array `state` of the optimizer, in shards */
    int state;
} td_array;

typedef struct td_layout {
    const td_slot *slots; /* borrowed */
    size_t slot_count, params;
    td_shards *shards; /* borrowed */
    td_array array[TD_LAYOUT_ARRAYS];
    int arrays;
    size_t files;
} td_layout;

/* Fills in what follows from the arrays: `files`. */
void td_layout_make(const td_oracle *oracle, int leaves, td_layout *layout);
/* Where file 0..files begins (that of `files`: the end), in floats of all arrays. */
size_t td_layout_cut(const td_layout *layout, size_t file);
/* Copies floats [begin, end) of the arrays, which differ from rank to rank. Collective where the
 * optimizer is in shards. */
TD_MUST_CHECK td_status td_layout_copy(const td_layout *layout, td_comm *comm, size_t begin,
                                       size_t end, float *out);
/* Writes a file, synced, from `copy`: the floats from its cut on. */
TD_MUST_CHECK td_status td_layout_write(const td_layout *layout, size_t file, const float *copy,
                                        const char *path, td_bundle_file *out);
/* Rows of a slot: what tensors are cut between. */
size_t td_slot_rows(const td_slot *slot);
void td_layout_name(const td_array *array, const td_slot *slot, char name[TD_LAYOUT_NAME]);

#endif
