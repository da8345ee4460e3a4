/* Text cut into chunks of whole lines that threads parse at once, and the parsing of numbers.
 *
 * Invariant: where the cuts are depends on the text alone, each chunk is parsed by itself, and the
 * failure of the first chunk that has one is the failure of all, so neither results nor errors
 * depend on the number of threads. */
#ifndef TD_DATA_READERS_TEXT_H
#define TD_DATA_READERS_TEXT_H

#include "data/readers/reader.h"

typedef struct td_text {
    const char *name;
    const char *start;       /* of the file: line 1 */
    const char *begin, *end; /* of the rows */
    char delimiter;          /* of fields */
    char comment;            /* a line that begins with it is no row; 0: none */
    bool quotes;             /* fields may be quoted and hold line ends */
    size_t chunks;
    const char **cut; /* [chunks + 1] */
    uint64_t *row;    /* [chunks + 1] first row of each chunk, after td_text_count */
} td_text;

/* `text` has the fields above `chunks` set. */
TD_MUST_CHECK td_status td_text_cut(td_text *text);
void td_text_fini(td_text *text);

/* Calls work for every chunk. work may fail for one chunk after the other; see the invariant. */
typedef td_status td_text_work(void *arg, size_t chunk);
TD_MUST_CHECK td_status td_text_run(td_pool *pool, size_t chunks, td_text_work *work, void *arg);

/* Counts the rows (lines that are not blank or comments) into text->row. */
TD_MUST_CHECK td_status td_text_count(td_text *text, td_pool *pool);

/* The end of the line at `at` (its \n, or the end of the text), and whether the line is a row. */
const char *td_text_line_end(const td_text *text, const char *at, const char *end);
bool td_text_is_row(const td_text *text, const char *line, const char *line_end);

/* The number, from 1, of the line that holds `at`, or row `row`. For error sentences: slow. */
size_t td_text_line(const td_text *text, const char *at);
size_t td_text_row_line(const td_text *text, uint64_t row);

/* The number at [at, end) rounded as strtof does in the C locale, whatever the locale is. Returns
 * where it ends, NULL where there is none. "nan", "inf" and hexadecimals are none; a number too
 * large for a float gives infinity. */
const char *td_parse_float(const char *at, const char *end, float *out);

/* The same, quick for the single digits that fill tables of codes. */
static inline const char *td_parse_number(const char *at, const char *end, float *out)
{
    /* Blanks, line ends, commas and # come before the point and the letters. One branch for both
     * tests: whether a sign stands first is hard to predict. */
    if (end - at >= 2 && (((unsigned)(at[0] - '0') < 10) & ((unsigned char)at[1] <= ','))) {
        *out = (float)(at[0] - '0');
        return at + 1;
    }
    return td_parse_float(at, end, out);
}

/* One number from each row of a side file, such as weights; exactly `count` of them, not below
 * `least`. */
TD_MUST_CHECK td_status td_read_numbers(td_source source, uint64_t count, float least, float *out);

/* The rows of each query become ids 0, 1, ... in group [rows]. */
TD_MUST_CHECK td_status td_read_group_sizes(td_source source, uint64_t rows, int64_t *group);

/* Weights and groups from the files beside a text file, where the job has them. */
TD_MUST_CHECK td_status td_read_side_files(const td_read_job *job, td_dataset *out);

#endif
