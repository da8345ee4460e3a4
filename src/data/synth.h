/* A click log of any length with a planted model, for trying scale anywhere: 13 counts and 26
 * categories a row, as advertising's logs have, the categories by Zipf's law. A row is a function
 * of the seed and its number.
 *
 * The click's logit: a bias, a weight for the logarithm of each count, a weight for each category,
 * and the products of the categories' factors, all pairs (Rendle, "Factorization machines", 2010,
 * equation 1). Its probability is the best that a model can know of a row. */
#ifndef TD_DATA_SYNTH_H
#define TD_DATA_SYNTH_H

#include "tandem/status.h"

#include <stddef.h>
#include <stdint.h>

enum { TD_CLICK_COUNTS = 13, TD_CLICK_FIELDS = 26, TD_CLICK_FACTORS = 4 };

typedef struct td_click_config {
    uint64_t seed;
    uint32_t categories; /* of each field, 1 or more */
    double zipf;         /* exponent: the k-th category is k^-zipf as frequent as the first */
} td_click_config;

typedef struct td_click_row {
    int clicked;
    float probability;
    uint32_t count[TD_CLICK_COUNTS];
    uint32_t category[TD_CLICK_FIELDS]; /* from 0, by frequency */
} td_click_row;

void td_click_make(const td_click_config *config, uint64_t row, td_click_row *out);

typedef enum td_click_format {
    TD_CLICK_AUTO, /* no file's: as td_click_format_of says */
    TD_CLICK_TSV,
    TD_CLICK_CSV,
    TD_CLICK_LIBSVM,
    TD_CLICK_LIBFFM
} td_click_format;
extern const char *const td_click_formats[]; /* NULL at the end */
/* That by which a file of this name is read; TSV where none says. */
td_click_format td_click_format_of(const char *path);
enum { TD_CLICK_TEXT = 1024 }; /* most bytes of a line */

/* The first line of TSV and CSV, or nothing; returns its length. */
size_t td_click_header(td_click_format format, char text[TD_CLICK_TEXT]);
/* A line with its end; returns its length. Features of libsvm and libffm count from 0: the counts'
 * logarithms first, then the categories of each field in turn. */
size_t td_click_line(const td_click_config *config, const td_click_row *row, td_click_format format,
                     char text[TD_CLICK_TEXT]);

#endif
