/* The parts of the CSV and TSV reader: csv_plan.c decides what the columns are from the options and
 * the first lines; csv.c parses the rows by that plan. */
#ifndef TD_DATA_READERS_CSV_H
#define TD_DATA_READERS_CSV_H

#include "data/readers/text.h"

/* One field of a line. */
typedef struct csv_field {
    const char *at, *end; /* without quotes and the blanks around it */
    bool quoted;
    bool doubled; /* holds two quotes for one */
} csv_field;

/* The field at `at`; returns where it ended: a delimiter, the line's end or `end`. NULL: text
 * follows a closing quote, or the quote is never closed. */
const char *csv_next_field(const td_text *text, const char *at, const char *end, csv_field *out);

/* Whether *at ends a line: \n, \r\n, or the end of the text. */
static inline bool csv_at_line_end(const char *at, const char *end)
{
    return at == end || *at == '\n' || (*at == '\r' && (at + 1 == end || at[1] == '\n'));
}

typedef enum csv_kind {
    CSV_NUMBER,
    CSV_CATEGORY,
    CSV_LABEL_NUMBER,
    CSV_LABEL_TEXT,
    CSV_WEIGHT,
    CSV_UNREAD /* a label that nobody wants */
} csv_kind;

typedef struct csv_plan {
    size_t fields;       /* of a line */
    csv_kind *kind;      /* [fields] */
    csv_field *name;     /* [fields] of the header; NULL without one */
    ptrdiff_t label;     /* column or -1 */
    ptrdiff_t weight;    /* column or -1 */
    size_t features;     /* columns that are neither */
    size_t text_columns; /* CSV_CATEGORY and CSV_LABEL_TEXT */
    csv_field *missing;  /* [missing_count] */
    size_t missing_count;
    bool missing_numbers; /* one of them could be read as a number */
} csv_plan;

/* Sets the plan and moves text->begin behind the header. */
TD_MUST_CHECK td_status csv_plan_make(const td_read_job *job, td_text *text, csv_plan *out);
void csv_plan_fini(csv_plan *plan);
bool csv_is_missing(const csv_plan *plan, const char *at, const char *end);
/* "3" or "3 (age)" */
void csv_column_text(const csv_plan *plan, size_t column, char *out, size_t room);

#endif
