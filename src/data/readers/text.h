/* Text cut into chunks of whole lines that threads parse at once, and the parsing of numbers.
 *
 * Invariant: where the cuts are depends on the text alone, each chunk is parsed by itself, and the
 * failure of the first chunk that has one is the failure of all, so neither results nor errors
 * depend on the number of threads. */
#ifndef TD_DATA_READERS_TEXT_H
#define TD_DATA_READERS_TEXT_H

#include "data/readers/reader.h"

#include <string.h>

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

/* ---- eight characters as one word ---- */

/* The eight characters at `at`, the first in the lowest byte, digits as their values. */
static inline uint64_t td_digits_load(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    return word ^ 0x3030303030303030;
}

/* The top bit of each byte that is no digit. */
static inline uint64_t td_digits_others(uint64_t word)
{
    return (((word & 0x7F7F7F7F7F7F7F7F) + 0x7676767676767676) | word) & 0x8080808080808080;
}

/* The number that the first 1 to 8 of them make: pairs, then fours, then all, in three products. */
static inline uint32_t td_digits_value(uint64_t word, int count)
{
    word <<= 8 * (8 - count); /* zeros in front */
    word = word * 10 + (word >> 8);
    return (uint32_t)(((word & 0xFF000000FF) * (100 + (1000000ull << 32)) +
                       (word >> 16 & 0xFF000000FF) * (1 + (10000ull << 32))) >>
                      32);
}

/* td_parse_float, quick for numbers of at most seven characters, sign aside: the point is squeezed
 * out, and as both the digits' number and the power of ten are exact in a float, one division
 * rounds right (Clinger, see text.c). */
static inline const char *td_parse_number(const char *at, const char *end, float *out)
{
    static const float tens[8] = {1e0f, 1e1f, 1e2f, 1e3f, 1e4f, 1e5f, 1e6f, 1e7f};
    if (end - at < 9) return td_parse_float(at, end, out);
    uint32_t negative = *at == '-'; /* signs are as random as data: no branch on them */
    const char *digits = at + (negative | (*at == '+'));
    uint64_t word = td_digits_load(digits), others = td_digits_others(word);
    if (!others) return td_parse_float(at, end, out);
    int whole = __builtin_ctzll(others) / 8, length = whole, count = whole;
    if (digits[whole] == '.') {
        others &= others - 1;
        if (!others) return td_parse_float(at, end, out);
        uint64_t before = ((uint64_t)1 << 8 * whole) - 1;
        word = (word & before) | (word >> 8 & ~before);
        length = __builtin_ctzll(others) / 8;
        count = length - 1;
    }
    if (count == 0 || (digits[length] | 32) == 'e') return td_parse_float(at, end, out);
    float value = (float)(int32_t)td_digits_value(word, count) / tens[count - whole];
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits |= negative << 31;
    memcpy(out, &bits, sizeof bits);
    return digits + length;
}

/* One number from each row of a side file, such as weights; exactly `count` of them, not below
 * `least`. */
TD_MUST_CHECK td_status td_read_numbers(td_source source, uint64_t count, float least, float *out);

/* The rows of each query become ids 0, 1, ... in group [rows]. */
TD_MUST_CHECK td_status td_read_group_sizes(td_source source, uint64_t rows, int64_t *group);

/* Weights and groups from the files beside a text file, where the job has them. */
TD_MUST_CHECK td_status td_read_side_files(const td_read_job *job, td_dataset *out);

#endif
