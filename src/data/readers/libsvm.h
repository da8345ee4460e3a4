/* What the readers of libsvm and libffm share: the state of a parse, and what a token is. libsvm.c
 * reads lines, libffm.c the entries of three parts. */
#ifndef TD_DATA_READERS_LIBSVM_H
#define TD_DATA_READERS_LIBSVM_H

#include "data/readers/text.h"

enum { TD_SVM_AUTO = 0, TD_SVM_ONE = 1, TD_SVM_ZERO = -1 };

typedef struct td_svm_chunk {
    uint64_t entries_at; /* room before this chunk */
    uint64_t entries;    /* room, then used */
    uint64_t largest;    /* index as written + 1; 0: none */
    bool zero;           /* an index 0 occurs */
    bool groups;
} td_svm_chunk;

typedef struct td_svm {
    const td_read_job *job;
    td_text text;
    int base;    /* TD_SVM_ */
    bool fields; /* libffm */
    bool weights;
    uint64_t rows;
    td_svm_chunk *chunk; /* [chunks] */
    float *label;        /* [rows] */
    float *weight;       /* [rows] or NULL */
    int64_t *group;      /* [rows] or NULL */
    uint64_t *row_start;
    uint32_t *index;
    float *value;
    uint16_t *field; /* libffm, else NULL */
} td_svm;

static inline bool td_svm_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Whether a token ends at `at`. */
static inline bool td_svm_ends(const char *at, const char *end)
{
    return at == end || td_svm_blank(*at) || *at == '\n' || *at == '\r' || *at == '#';
}

/* Fails with the file, the line and the token at `at`. */
TD_MUST_CHECK td_status td_svm_fail(const td_svm *s, const char *at, const char *end,
                                    const char *problem);
/* All of a file, of libffm where `fields`. */
TD_MUST_CHECK td_status td_svm_read(const td_read_job *job, bool fields, td_dataset *out);

/* A number up to `most` and the colon behind it; NULL where there is none. */
const char *td_svm_part(const char *p, const char *end, uint64_t most, uint64_t *out);
/* What follows the first number and blanks; NULL where that is none. */
const char *td_svm_behind_label(const char *at, const char *end);

/* ---- libffm.c ---- */

/* Whether the token has two colons, as an entry has; label:weight has one. */
bool td_ffm_is_entry(const char *at, const char *end);
/* The entries of a line at *at into index, field and value from *used on. */
TD_MUST_CHECK td_status td_ffm_entries(td_svm *s, td_svm_chunk *count, uint64_t *used,
                                       const char **at, const char *end);
/* Leaves out the entries of features that the training set does not have: the last of each row. */
void td_ffm_drop_unknown(td_svm *s, size_t features);

#endif
