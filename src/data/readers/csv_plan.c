/* What the columns of a CSV or TSV file are. See csv.h and td_data_config. */
#include "data/readers/csv.h"

#include "base/alloc.h"
#include "base/error.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { SAMPLE_LINES = 1000 };

/* What the first lines show of a column. */
typedef struct sample {
    csv_field first;       /* of line 1 */
    size_t numbers, texts; /* in the lines below it */
    bool number_below;     /* in line 2 */
    bool again;            /* the first text came again */
} sample;

/* Blanks around fields are ignored, but not where they part fields. */
static bool is_blank(char c, char delimiter)
{
    return (c == ' ' || c == '\t') && c != delimiter;
}

const char *csv_next_field(const td_text *text, const char *at, const char *end, csv_field *out)
{
    char delimiter = text->delimiter;
    while (at < end && is_blank(*at, delimiter)) at++;
    out->doubled = out->quoted = false;
    if (at < end && *at == '"') {
        out->quoted = true;
        out->at = ++at;
        for (; at < end; at++) {
            if (*at != '"') continue;
            if (at + 1 == end || at[1] != '"') break;
            out->doubled = true;
            at++;
        }
        if (at == end) return NULL;
        out->end = at++;
        while (at < end && is_blank(*at, delimiter)) at++;
        return csv_at_line_end(at, end) || *at == delimiter ? at : NULL;
    }
    out->at = at;
    while (at < end && *at != delimiter && *at != '\n') at++;
    const char *stop = at;
    if (stop > out->at && stop[-1] == '\r' && (at == end || *at == '\n')) stop = --at;
    while (stop > out->at && (stop[-1] == ' ' || stop[-1] == '\t')) stop--;
    out->end = stop;
    return at;
}

static size_t length(const csv_field *f)
{
    return (size_t)(f->end - f->at);
}

static bool same(const csv_field *f, const char *at, size_t n)
{
    return length(f) == n && memcmp(f->at, at, n) == 0;
}

bool csv_is_missing(const csv_plan *plan, const char *at, const char *end)
{
    if (at == end) return true;
    for (size_t i = 0; i < plan->missing_count; i++)
        if (same(&plan->missing[i], at, (size_t)(end - at))) return true;
    return false;
}

void csv_column_text(const csv_plan *plan, size_t column, char *out, size_t room)
{
    if (plan->name)
        snprintf(out, room, "%zu (%.*s)", column,
                 (int)(length(&plan->name[column]) < 60 ? length(&plan->name[column]) : 60),
                 plan->name[column].at);
    else
        snprintf(out, room, "%zu", column);
}

static bool is_number(const csv_field *f)
{
    float x;
    return td_parse_float(f->at, f->end, &x) == f->end && f->at < f->end;
}

/* Cuts "a,b,c" (borrowed text) at its commas; *out is the caller's to free. */
static td_status cut_list(const char *list, csv_field **out, size_t *out_count)
{
    size_t count = 1, n = 0;
    for (const char *c = list; *c; c++) count += *c == ',';
    csv_field *parts = td_calloc(count, sizeof *parts);
    if (!parts) return td_fail(TD_ERR_NOMEM, "no memory for a list of %zu texts", count);
    for (const char *at = list;; at++) {
        const char *end = at + strcspn(at, ",");
        parts[n].at = at;
        parts[n].end = end;
        if (end > at) n++;
        at = end;
        if (!*at) break;
    }
    *out = parts;
    *out_count = n;
    return TD_OK;
}

/* ---- looking at the first lines ---- */

static td_status count_fields(const td_text *text, const char *line, size_t *out)
{
    size_t fields = 0;
    for (const char *at = line;; at++) {
        csv_field f;
        at = csv_next_field(text, at, text->end, &f);
        if (!at)
            return td_fail(TD_ERR_DATA, "%s:%zu: a quoted field is not closed, or text follows it",
                           text->name, td_text_line(text, line));
        fields++;
        if (csv_at_line_end(at, text->end)) break;
    }
    *out = fields;
    return TD_OK;
}

static void look_at_line(const td_text *text, const csv_plan *plan, const char *line, size_t number,
                         sample *columns)
{
    const char *at = line;
    for (size_t k = 0; k < plan->fields; k++, at++) {
        csv_field f;
        at = csv_next_field(text, at, text->end, &f);
        if (!at) return;
        sample *s = &columns[k];
        if (number == 0) {
            s->first = f;
        } else if (!csv_is_missing(plan, f.at, f.end)) {
            bool is = is_number(&f);
            s->numbers += is;
            s->texts += !is;
            s->number_below = s->number_below || (number == 1 && is);
            s->again = s->again || same(&s->first, f.at, length(&f));
        }
        if (csv_at_line_end(at, text->end)) return;
    }
}

/* The first row's line, then the following ones, up to `most`. */
static const char *next_row(const td_text *text, const char *at)
{
    while (at < text->end) {
        const char *line_end = td_text_line_end(text, at, text->end);
        if (td_text_is_row(text, at, line_end)) return at;
        at = line_end < text->end ? line_end + 1 : line_end;
    }
    return NULL;
}

static const char *behind_line(const td_text *text, const char *line)
{
    const char *line_end = td_text_line_end(text, line, text->end);
    return line_end < text->end ? line_end + 1 : line_end;
}

/* A test set is like its training set: with a header when that has one and a name of it is here, at
 * most the label and the weight further on. */
static bool has_header_like(const td_dataset *like, const csv_plan *plan, const sample *columns)
{
    for (size_t k = 0; like->column_names && k < plan->fields; k++)
        for (size_t c = k < 2 ? 0 : k - 2; c <= k && c < like->columns; c++)
            if (same(&columns[k].first, like->column_names[c], strlen(like->column_names[c])) &&
                !is_number(&columns[k].first))
                return true;
    return false;
}

static bool first_line_is_header(const td_read_job *job, const csv_plan *plan,
                                 const sample *columns)
{
    const td_dataset *like = job->config->like;
    if (like && has_header_like(like, plan, columns)) return true;
    if (like && !like->column_names) return false;
    bool below = false, again = false;
    for (size_t k = 0; k < plan->fields; k++) {
        if (is_number(&columns[k].first)) return false;
        below = below || columns[k].number_below;
        again = again || (columns[k].again && columns[k].first.end > columns[k].first.at);
    }
    return below || !again;
}

/* ---- options ---- */

static td_status named_twice(const td_text *text, const char *option, const csv_field *name,
                             ptrdiff_t first, size_t second)
{
    size_t n = length(name) < 100 ? length(name) : 100;
    return td_fail(TD_ERR_ARG,
                   "%s \"%.*s\" is the name of columns %td and %zu of %s; give the number", option,
                   (int)n, name->at, first, second, text->name);
}

static td_status find_column(const td_text *text, const csv_plan *plan, const char *option,
                             const char *spec, size_t spec_length, ptrdiff_t *out)
{
    ptrdiff_t found = -1;
    for (size_t k = 0; plan->name && k < plan->fields; k++) {
        if (!same(&plan->name[k], spec, spec_length)) continue;
        if (found >= 0) return named_twice(text, option, &plan->name[k], found, k);
        found = (ptrdiff_t)k;
    }
    if (found >= 0) {
        *out = found;
        return TD_OK;
    }
    char number[24];
    if (spec_length < sizeof number) {
        memcpy(number, spec, spec_length);
        number[spec_length] = 0;
        char *end;
        long k = strtol(number, &end, 10);
        if (end > number && !*end && isdigit((unsigned char)end[-1])) {
            if (k < 0) k += (long)plan->fields;
            if (k >= 0 && (size_t)k < plan->fields) {
                *out = k;
                return TD_OK;
            }
        }
    }
    return td_fail(TD_ERR_ARG, "%s \"%.*s\" is not a column of %s, which has %s%zu columns", option,
                   (int)(spec_length < 100 ? spec_length : 100), spec, text->name,
                   plan->name ? "other names and " : "no header and ", plan->fields);
}

static td_status find_label(const td_read_job *job, const td_text *text, csv_plan *plan)
{
    const char *spec = job->config->label;
    plan->label = -1;
    if (spec && !strcmp(spec, "none")) return TD_OK;
    if (spec && *spec) return find_column(text, plan, "label", spec, strlen(spec), &plan->label);
    for (size_t k = 0; plan->name && k < plan->fields; k++) {
        if (length(&plan->name[k]) != 5 || strncasecmp(plan->name[k].at, "label", 5) != 0) continue;
        if (plan->label >= 0) return named_twice(text, "label", &plan->name[k], plan->label, k);
        plan->label = (ptrdiff_t)k;
    }
    if (plan->label < 0) plan->label = 0;
    return TD_OK;
}

static bool mostly_text(const sample *s)
{
    return s->texts > 0 && s->texts >= s->numbers;
}

static td_status choose_categories(const td_read_job *job, const td_text *text, csv_plan *plan,
                                   const sample *columns)
{
    const char *list = job->config->categorical;
    const td_dataset *like = job->config->like;
    bool automatic = !list || !*list || !strcmp(list, "auto");
    size_t feature = 0;
    for (size_t k = 0; k < plan->fields; k++) {
        if ((ptrdiff_t)k == plan->label || (ptrdiff_t)k == plan->weight) continue;
        bool is = automatic && mostly_text(&columns[k]);
        if (like)
            is = feature < like->columns &&
                 (td_dataset_hashes(like, feature) ||
                  (like->category_count && like->category_count[feature]));
        plan->kind[k] = is ? CSV_CATEGORY : CSV_NUMBER;
        feature++;
    }
    if (automatic || like || !strcmp(list, "none")) return TD_OK;
    csv_field *named = NULL;
    size_t count = 0;
    TD_TRY(cut_list(list, &named, &count));
    td_status status = TD_OK;
    for (size_t i = 0; status == TD_OK && i < count; i++) {
        ptrdiff_t k;
        status = find_column(text, plan, "categorical", named[i].at, length(&named[i]), &k);
        if (status != TD_OK) break;
        if (k == plan->label || k == plan->weight)
            status = td_fail(TD_ERR_ARG, "column %td of %s is the label or weight, not a feature",
                             k, text->name);
        else
            plan->kind[k] = CSV_CATEGORY;
    }
    td_free(named);
    return status;
}

static csv_kind label_kind(const td_read_job *job, const sample *s)
{
    const td_dataset *like = job->config->like;
    if (job->config->no_labels) return CSV_UNREAD;
    if (like)
        return like->info.class_names && !like->class_value ? CSV_LABEL_TEXT : CSV_LABEL_NUMBER;
    if (job->config->label_kind == TD_LABEL_VALUE) return CSV_LABEL_NUMBER;
    return mostly_text(s) ? CSV_LABEL_TEXT : CSV_LABEL_NUMBER;
}

static td_status choose_columns(const td_read_job *job, const td_text *text, csv_plan *plan,
                                const sample *columns)
{
    const char *weight = job->config->weight_column;
    bool bare = job->config->no_labels && job->config->like; /* it tells what is left out */
    size_t more = bare && plan->fields > job->config->like->columns
                      ? plan->fields - job->config->like->columns
                      : 0; /* columns that are no features */
    plan->label = plan->weight = -1;
    if (!bare || more) {
        td_status status = find_label(job, text, plan);
        if (status != TD_OK && !(bare && weight)) return status;
        if (status != TD_OK) plan->label = -1; /* the column is that of the weights */
        more -= bare && plan->label >= 0;
    }
    if ((!bare || more) && weight && *weight && strcmp(weight, "none") != 0)
        TD_TRY(find_column(text, plan, "weight column", weight, strlen(weight), &plan->weight));
    if (plan->weight >= 0 && plan->weight == plan->label)
        return td_fail(TD_ERR_ARG, "column %td of %s cannot be both label and weight", plan->label,
                       text->name);
    plan->features = plan->fields - (plan->label >= 0) - (plan->weight >= 0);
    if (plan->features == 0)
        return td_fail(TD_ERR_DATA,
                       "%s has no feature columns: %zu columns, read with '%c' between", text->name,
                       plan->fields, text->delimiter == '\t' ? ' ' : text->delimiter);
    if (plan->weight >= 0) plan->kind[plan->weight] = CSV_WEIGHT;
    if (plan->label >= 0) plan->kind[plan->label] = label_kind(job, &columns[plan->label]);
    TD_TRY(choose_categories(job, text, plan, columns));
    for (size_t k = 0; k < plan->fields; k++)
        plan->text_columns += plan->kind[k] == CSV_CATEGORY || plan->kind[k] == CSV_LABEL_TEXT;
    return TD_OK;
}

static td_status take_missing(const td_read_job *job, csv_plan *plan)
{
    const char *list = job->config->missing ? job->config->missing : TD_DATA_MISSING;
    TD_TRY(cut_list(list, &plan->missing, &plan->missing_count));
    for (size_t i = 0; i < plan->missing_count; i++)
        plan->missing_numbers = plan->missing_numbers || is_number(&plan->missing[i]);
    return TD_OK;
}

static td_status take_names(csv_plan *plan, const sample *columns)
{
    plan->name = td_calloc(plan->fields, sizeof *plan->name);
    if (!plan->name) return td_fail(TD_ERR_NOMEM, "no memory for %zu columns", plan->fields);
    for (size_t k = 0; k < plan->fields; k++) plan->name[k] = columns[k].first;
    return TD_OK;
}

td_status csv_plan_make(const td_read_job *job, td_text *text, csv_plan *out)
{
    *out = (csv_plan){0};
    td_status status = TD_OK;
    sample *columns = NULL;
    const char *first = next_row(text, text->begin);
    if (!first) return td_fail(TD_ERR_DATA, "%s is empty: it has no line with text", text->name);
    TD_GOTO(count_fields(text, first, &out->fields));
    columns = td_calloc(out->fields, sizeof *columns);
    out->kind = td_calloc(out->fields, sizeof *out->kind);
    if (!columns || !out->kind) {
        status = td_fail(TD_ERR_NOMEM, "%s: no memory for %zu columns", text->name, out->fields);
        goto out;
    }
    TD_GOTO(take_missing(job, out));
    size_t lines = 0;
    for (const char *line = first; line && lines <= SAMPLE_LINES; lines++) {
        look_at_line(text, out, line, lines, columns);
        line = next_row(text, behind_line(text, line));
    }
    int header = job->config->header;
    if (header > 0 || (header == 0 && first_line_is_header(job, out, columns))) {
        TD_GOTO(take_names(out, columns));
        text->begin = behind_line(text, first);
    } else { /* the first line is a row like the others */
        for (size_t k = 0; k < out->fields; k++) {
            const csv_field *f = &columns[k].first;
            if (csv_is_missing(out, f->at, f->end)) continue;
            *(is_number(f) ? &columns[k].numbers : &columns[k].texts) += 1;
        }
    }
    if (!next_row(text, text->begin)) {
        status = td_fail(TD_ERR_DATA, "%s has a header but no rows", text->name);
        goto out;
    }
    TD_GOTO(choose_columns(job, text, out, columns));
out:
    td_free(columns);
    if (status != TD_OK) csv_plan_fini(out);
    return status;
}

void csv_plan_fini(csv_plan *plan)
{
    td_free(plan->kind);
    td_free(plan->name);
    td_free(plan->missing);
    *plan = (csv_plan){0};
}
