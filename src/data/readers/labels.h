/* What a column of labels means: classes or values. See td_label_kind. */
#ifndef TD_DATA_READERS_LABELS_H
#define TD_DATA_READERS_LABELS_H

#include "data/readers/reader.h"

/* Where row `row` is, for an error sentence: "file:line" or "file: sample N". */
typedef void td_label_where(const void *arg, uint64_t row, char *text, size_t room);

/* Sets label or target of `out` from numbers [samples]; fits them to like's classes. */
TD_MUST_CHECK td_status td_labels_from_numbers(const td_read_job *job, const float *number,
                                               td_label_where *where, const void *arg,
                                               td_dataset *out);

/* Sets label from codes [samples] of `count` names sorted by their bytes. */
TD_MUST_CHECK td_status td_labels_from_codes(const td_read_job *job, const float *code, int count,
                                             const char *const *names, td_label_where *where,
                                             const void *arg, td_dataset *out);

/* Copies like's classes into out. */
TD_MUST_CHECK td_status td_labels_take_classes(td_dataset *out, const td_dataset *like);

#endif
