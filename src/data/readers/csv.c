/* CSV (RFC 4180) and TSV: quoted fields with doubled quotes and line ends, \n or \r\n, blanks
 * around fields ignored, blank lines skipped.
 *
 * Two passes over chunks of lines: rows are counted, so that the table has its final size before
 * the second pass parses every row into its place. Texts get numbers from a dictionary of their
 * chunk; at the end the dictionaries are merged in the order of their bytes and the numbers
 * rewritten. Where only hashes of categories are wanted there are no dictionaries. */
#include "data/readers/csv.h"

#include "data/hashing.h"
#include "data/readers/dict.h"
#include "data/readers/labels.h"

#include "base/alloc.h"
#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CODES = 1 << 24 }; /* that a float holds */

/* Where a column's values go: to[row * stride]. */
typedef struct place {
    float *to;
    size_t stride;
    size_t text;    /* number of the text column */
    bool plain;     /* numbers are expected, and none of them means "missing" */
    uint64_t *hash; /* of categories: to hash[row * hashed columns]; or NULL */
    uint64_t under; /* the column's own hash */
} place;

typedef struct csv {
    const td_read_job *job;
    td_text text;
    csv_plan plan;
    uint64_t rows;
    float *x;         /* [rows][features] */
    float *label;     /* [rows] or NULL */
    float *weight;    /* [rows] or NULL */
    uint64_t *hashed; /* [rows][hashed_columns] or NULL */
    size_t hashed_columns;
    place *places;     /* [fields] */
    td_dict *dicts;    /* [chunks][text_columns] */
    float *recode;     /* [total of a column's dictionaries] while merging */
    size_t *recode_at; /* [chunks + 1] */
    const place *recoding;
} csv;

/* ---- fields that are not plain numbers ---- */

static td_status bad_field(const csv *c, const char *at, size_t column, const csv_field *f)
{
    char name[100];
    csv_column_text(&c->plan, column, name, sizeof name);
    size_t line = td_text_line(&c->text, at), n = (size_t)(f->end - f->at);
    int shown = (int)(n < 60 ? n : 60);
    csv_kind kind = c->plan.kind[column];
    if (csv_is_missing(&c->plan, f->at, f->end))
        return td_fail(TD_ERR_DATA, "%s:%zu: column %s: the %s is missing", c->text.name, line,
                       name, kind == CSV_WEIGHT ? "weight" : "label");
    return td_fail(TD_ERR_DATA, "%s:%zu: column %s: \"%.*s\" is not %s%s", c->text.name, line, name,
                   shown, f->at,
                   kind == CSV_WEIGHT ? "a finite weight of at least 0" : "a finite number",
                   kind == CSV_NUMBER
                       ? "; name the column as categorical or the text as missing if "
                         "it is meant"
                       : "");
}

/* A field's text with single quotes for doubled ones: f->at, or *owned (td_free). NULL: no memory.
 */
static const char *plain_text(const csv_field *f, size_t *length, char **owned)
{
    size_t n = (size_t)(f->end - f->at), used = 0;
    *length = n, *owned = NULL;
    if (!f->doubled) return f->at;
    char *plain = *owned = td_malloc(n);
    for (size_t i = 0; plain && i < n; i++) {
        plain[used++] = f->at[i];
        i += f->at[i] == '"'; /* the second of two */
    }
    *length = used;
    return plain;
}

/* A number of its chunk's dictionary, or a hash. */
static td_status add_text(csv *c, size_t chunk, size_t column, const csv_field *f, uint64_t row,
                          float *out)
{
    const place *p = &c->places[column];
    size_t n;
    char *owned;
    const char *text = plain_text(f, &n, &owned);
    if (!text) return td_fail(TD_ERR_NOMEM, "%s: no memory for a field", c->text.name);
    int code = 0;
    if (p->hash)
        p->hash[row * c->hashed_columns] = td_hash_category(text, n, p->under);
    else
        code = td_dict_add(&c->dicts[chunk * c->plan.text_columns + p->text], text, n);
    td_free(owned);
    if (code < 0)
        return td_fail(TD_ERR_NOMEM, "%s: no memory for the categories of column %zu", c->text.name,
                       column);
    *out = (float)code;
    return TD_OK;
}

static td_status slow_field(csv *c, size_t chunk, size_t column, uint64_t row, const char **at,
                            const char *end, float *out)
{
    csv_field f;
    const char *stop = csv_next_field(&c->text, *at, end, &f);
    if (!stop)
        return td_fail(TD_ERR_DATA, "%s:%zu: a quoted field is not closed, or text follows it",
                       c->text.name, td_text_line(&c->text, *at));
    csv_kind kind = c->plan.kind[column];
    const char *from = *at;
    *at = stop;
    if (kind == CSV_UNREAD) {
        *out = 0;
        return TD_OK;
    }
    if (csv_is_missing(&c->plan, f.at, f.end)) {
        uint64_t *hash = c->places[column].hash;
        if (kind != CSV_NUMBER && kind != CSV_CATEGORY) return bad_field(c, from, column, &f);
        if (hash) hash[row * c->hashed_columns] = TD_HASHED_MISSING;
        *out = NAN;
        return TD_OK;
    }
    if (kind == CSV_CATEGORY || kind == CSV_LABEL_TEXT)
        return add_text(c, chunk, column, &f, row, out);
    float x;
    if (td_parse_float(f.at, f.end, &x) != f.end || isinf(x) || (kind == CSV_WEIGHT && x < 0))
        return bad_field(c, from, column, &f);
    *out = x;
    return TD_OK;
}

/* ---- rows ---- */

static td_status ragged(const csv *c, const char *line, const char *end)
{
    size_t fields = 0;
    for (const char *at = line; at; at++) {
        csv_field f;
        at = csv_next_field(&c->text, at, end, &f);
        fields++;
        if (!at || csv_at_line_end(at, end)) break;
    }
    return td_fail(TD_ERR_DATA, "%s:%zu: %zu fields where the %s has %zu", c->text.name,
                   td_text_line(&c->text, line), fields, c->plan.name ? "header" : "first line",
                   c->plan.fields);
}

/* The end of a plain number that fills the field at `at`; NULL where the field is another. */
static inline const char *plain_number(const char *at, const char *end, char delimiter, char blank,
                                       float *out)
{
    while (at < end && *at == blank) at++;
    float x;
    at = td_parse_number(at, end, &x);
    if (!at) return NULL;
    *out = x;
    while (at < end && *at == blank) at++;
    bool ends = (at < end && *at == delimiter) || csv_at_line_end(at, end);
    return ends && !isinf(x) ? at : NULL;
}

static td_status parse_row(csv *c, size_t chunk, uint64_t row, const char **at, const char *end)
{
    const char *line = *at, *p = line;
    char delimiter = c->text.delimiter, blank = delimiter == ' ' ? '\t' : ' ';
    size_t last = c->plan.fields - 1;
    for (size_t k = 0; k <= last; k++) {
        const place *field = &c->places[k];
        float *to = field->to + row * field->stride;
        const char *q = field->plain ? plain_number(p, end, delimiter, blank, to) : NULL;
        if (q)
            p = q;
        else
            TD_TRY(slow_field(c, chunk, k, row, &p, end, to));
        bool more = p < end && *p == delimiter; /* a field ends there or at the line's end */
        if (more != (k < last)) return ragged(c, line, end);
        p += more;
    }
    if (p < end && *p == '\r') p++;
    *at = p < end ? p + 1 : p;
    return TD_OK;
}

static td_status parse_chunk(void *arg, size_t chunk)
{
    csv *c = arg;
    const char *at = c->text.cut[chunk], *end = c->text.cut[chunk + 1];
    uint64_t row = c->text.row[chunk];
    while (at < end) {
        if (*at == '\n' || *at == '\r' || *at == ' ' || *at == '\t') { /* perhaps no row */
            const char *line_end = td_text_line_end(&c->text, at, end);
            if (!td_text_is_row(&c->text, at, line_end)) {
                at = line_end < end ? line_end + 1 : end;
                continue;
            }
        }
        if (row == c->text.row[chunk + 1]) break;
        TD_TRY(parse_row(c, chunk, row++, &at, end));
    }
    if (at < end || row < c->text.row[chunk + 1]) /* lines were cut elsewhere than fields are */
        return td_fail(TD_ERR_DATA, "%s:%zu: quotes that do not open and close a field",
                       c->text.name, td_text_line(&c->text, c->text.cut[chunk]));
    return TD_OK;
}

/* ---- dictionaries ---- */

typedef struct word {
    const char *text;
    size_t at; /* in recode */
} word;

static int compare_words(const void *a, const void *b)
{
    return strcmp(((const word *)a)->text, ((const word *)b)->text);
}

static td_status recode_chunk(void *arg, size_t chunk)
{
    csv *c = arg;
    const place *p = c->recoding;
    for (uint64_t row = c->text.row[chunk]; row < c->text.row[chunk + 1]; row++) {
        float *at = p->to + row * p->stride;
        if (!isnan(*at)) *at = c->recode[c->recode_at[chunk] + (size_t)*at];
    }
    return TD_OK;
}

/* The code of a text in a sorted list, -1 when it is not there. */
static int find_name(const char *const *names, int count, const char *text)
{
    for (int low = 0, high = count; low < high;) {
        int middle = low + (high - low) / 2, order = strcmp(names[middle], text);
        if (order == 0) return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

/* Gives the words their final codes: places in `names` where those are given, else in the sorted
 * list of the words, which becomes *names. */
static td_status number_words(csv *c, word *words, size_t total, td_dataset *out,
                              const char *const **names, int *count)
{
    if (*names) {
        for (size_t i = 0; i < total; i++) {
            int k = find_name(*names, *count, words[i].text);
            c->recode[words[i].at] = k < 0 ? NAN : (float)k;
        }
        return TD_OK;
    }
    qsort(words, total, sizeof *words, compare_words);
    int distinct = 0;
    for (size_t i = 0; i < total; i++) {
        distinct += i == 0 || strcmp(words[i].text, words[i - 1].text) != 0;
        c->recode[words[i].at] = (float)(distinct - 1);
    }
    if (distinct > MOST_CODES)
        return td_fail(TD_ERR_DATA, "%s: a column has %d categories; at most %d can be told apart",
                       c->text.name, distinct, MOST_CODES);
    const char **made = NULL;
    TD_TRY(td_dataset_take(out, (size_t)distinct, sizeof *made, "categories", &made));
    int k = 0;
    for (size_t i = 0; i < total; i++) {
        if (i > 0 && strcmp(words[i].text, words[i - 1].text) == 0) continue;
        made[k] = td_dataset_text(out, words[i].text, strlen(words[i].text));
        if (!made[k++]) return td_fail(TD_ERR_NOMEM, "no memory for categories");
    }
    *names = made;
    *count = distinct;
    return TD_OK;
}

/* Merges the chunks' dictionaries of a text column and rewrites the column. */
static td_status merge_column(csv *c, const place *p, td_dataset *out, const char *const **names,
                              int *count)
{
    td_status status = TD_OK;
    size_t total = 0, columns = c->plan.text_columns;
    c->recode_at = td_calloc(c->text.chunks + 1, sizeof *c->recode_at);
    for (size_t i = 0; c->recode_at && i < c->text.chunks; i++) {
        c->recode_at[i] = total;
        total += c->dicts[i * columns + p->text].count;
    }
    word *words = td_calloc(total, sizeof *words);
    c->recode = td_calloc(total, sizeof *c->recode);
    if (!words || !c->recode || !c->recode_at) {
        status = td_fail(TD_ERR_NOMEM, "%s: no memory for %zu categories", c->text.name, total);
        goto out;
    }
    size_t n = 0;
    for (size_t i = 0; i < c->text.chunks; i++) {
        const td_dict *dict = &c->dicts[i * columns + p->text];
        for (uint32_t k = 0; k < dict->count; k++, n++) words[n] = (word){td_dict_text(dict, k), n};
    }
    TD_GOTO(number_words(c, words, total, out, names, count));
    c->recoding = p;
    status = td_text_run(c->job->pool, c->text.chunks, recode_chunk, c);
out:
    td_free(words);
    td_free(c->recode);
    td_free(c->recode_at);
    c->recode = NULL;
    c->recode_at = NULL;
    return status;
}

/* Copies the names of like's categories, so that the test set can outlive it. */
static td_status copy_categories(td_dataset *out, const td_dataset *like, size_t column,
                                 const char *const **names, int *count)
{
    const char **made = NULL;
    size_t n = (size_t)like->category_count[column];
    TD_TRY(td_dataset_take(out, n, sizeof *made, "categories", &made));
    for (size_t k = 0; k < n; k++) {
        const char *text = like->category_names[column][k];
        made[k] = td_dataset_text(out, text, strlen(text));
        if (!made[k]) return td_fail(TD_ERR_NOMEM, "no memory for categories");
    }
    *names = made;
    *count = (int)n;
    return TD_OK;
}

static td_status merge_categories(csv *c, td_dataset *out)
{
    size_t features = c->plan.features;
    const td_dataset *like = c->job->config->like;
    int *count = NULL;
    const char *const **names = NULL;
    if (c->hashed || c->plan.text_columns ==
                         (c->plan.label >= 0 && c->plan.kind[c->plan.label] == CSV_LABEL_TEXT))
        return TD_OK;
    TD_TRY(td_dataset_take(out, features, sizeof *count, "category counts", &count));
    TD_TRY(td_dataset_take(out, features, sizeof *names, "category lists", &names));
    memset(count, 0, features * sizeof *count);
    memset(names, 0, features * sizeof *names);
    size_t f = 0;
    for (size_t k = 0; k < c->plan.fields; k++) {
        if (c->plan.kind[k] == CSV_CATEGORY) {
            if (like) TD_TRY(copy_categories(out, like, f, &names[f], &count[f]));
            TD_TRY(merge_column(c, &c->places[k], out, &names[f], &count[f]));
        }
        f += c->plan.kind[k] == CSV_CATEGORY || c->plan.kind[k] == CSV_NUMBER;
    }
    out->category_count = count;
    out->category_names = (const char *const *const *)names;
    return TD_OK;
}

/* ---- the whole ---- */

/* Room for hashes in place of dictionaries, where those are wanted. */
static td_status take_hashes(csv *c, td_dataset *out)
{
    const td_data_config *config = c->job->config;
    const td_dataset *like = config->like;
    bool wanted = like ? like->hashed_at != NULL : config->hash_categories;
    size_t feature = 0, cells;
    int32_t *at = NULL;
    if (!wanted) return TD_OK;
    out->hash_seed = like ? like->hash_seed : config->hash_seed;
    TD_TRY(td_dataset_take(out, c->plan.features, sizeof *at, "hashed columns", &at));
    for (size_t k = 0; k < c->plan.fields; k++) {
        csv_kind kind = c->plan.kind[k];
        if (kind == CSV_CATEGORY || kind == CSV_NUMBER)
            at[feature++] = kind == CSV_CATEGORY ? (int32_t)c->hashed_columns++ : -1;
    }
    if (!c->hashed_columns) return TD_OK;
    if (!td_mul(c->rows, c->hashed_columns, &cells))
        return td_fail(TD_ERR_NOMEM, "%s: its table does not fit in memory", c->text.name);
    TD_TRY(td_dataset_take(out, cells, sizeof *c->hashed, "categories", &c->hashed));
    out->hashed_at = at, out->hashed = c->hashed, out->hashed_columns = c->hashed_columns;
    return TD_OK;
}

/* A test set's columns are the training set's, whatever it calls them. */
static void place_hashes(const csv *c, const td_dataset *out, size_t field, size_t feature,
                         place *p)
{
    const td_dataset *like = c->job->config->like;
    const csv_field *own = !like && c->plan.name ? &c->plan.name[field] : NULL;
    const char *name = like && like->column_names ? like->column_names[feature] : NULL;
    size_t length = name ? strlen(name) : 0;
    if (own) name = own->at, length = (size_t)(own->end - own->at);
    p->hash = c->hashed + out->hashed_at[feature];
    p->under = td_hash_column(name, length, feature, out->hash_seed);
}

static td_status take_memory(csv *c, td_dataset *out)
{
    const csv_plan *plan = &c->plan;
    size_t cells;
    if (!td_mul(c->rows, plan->features, &cells))
        return td_fail(TD_ERR_NOMEM, "%s: its table does not fit in memory", c->text.name);
    TD_TRY(td_dataset_take(out, cells, sizeof *c->x, "values", &c->x));
    TD_TRY(take_hashes(c, out));
    if (plan->weight >= 0)
        TD_TRY(td_dataset_take(out, c->rows, sizeof *c->weight, "weights", &c->weight));
    if (plan->label >= 0) c->label = td_reallocarray(NULL, c->rows, sizeof *c->label);
    c->places = td_calloc(plan->fields, sizeof *c->places);
    c->dicts = td_calloc(c->text.chunks * plan->text_columns, sizeof *c->dicts);
    if ((plan->label >= 0 && !c->label) || !c->places || !c->dicts)
        return td_fail(TD_ERR_NOMEM, "%s: no memory for %llu rows", c->text.name,
                       (unsigned long long)c->rows);
    size_t feature = 0, text = 0;
    for (size_t k = 0; k < plan->fields; k++) {
        place *p = &c->places[k];
        if ((ptrdiff_t)k == plan->label)
            *p = (place){.to = c->label, .stride = 1};
        else if ((ptrdiff_t)k == plan->weight)
            *p = (place){.to = c->weight, .stride = 1};
        else
            *p = (place){.to = c->x + feature++, .stride = plan->features};
        if (c->hashed && plan->kind[k] == CSV_CATEGORY) place_hashes(c, out, k, feature - 1, p);
        if (plan->kind[k] == CSV_CATEGORY || plan->kind[k] == CSV_LABEL_TEXT) p->text = text++;
        p->plain = !plan->missing_numbers &&
                   (plan->kind[k] == CSV_NUMBER || plan->kind[k] == CSV_LABEL_NUMBER);
    }
    return TD_OK;
}

static td_status name_columns(csv *c, td_dataset *out)
{
    if (!c->plan.name) return TD_OK;
    const char **names = NULL;
    TD_TRY(td_dataset_take(out, c->plan.features, sizeof *names, "column names", &names));
    size_t feature = 0;
    for (size_t k = 0; k < c->plan.fields; k++) {
        if ((ptrdiff_t)k == c->plan.label || (ptrdiff_t)k == c->plan.weight) continue;
        const csv_field *f = &c->plan.name[k];
        names[feature] = td_dataset_text(out, f->at, (size_t)(f->end - f->at));
        if (!names[feature++]) return td_fail(TD_ERR_NOMEM, "no memory for column names");
    }
    out->column_names = names;
    return TD_OK;
}

static void where(const void *arg, uint64_t row, char *text, size_t room)
{
    const csv *c = arg;
    snprintf(text, room, "%.500s:%zu", c->text.name, td_text_row_line(&c->text, row));
}

static td_status finish_labels(csv *c, td_dataset *out)
{
    const csv_plan *plan = &c->plan;
    if (plan->label < 0 || plan->kind[plan->label] == CSV_UNREAD) return TD_OK;
    if (plan->kind[plan->label] != CSV_LABEL_TEXT)
        return td_labels_from_numbers(c->job, c->label, where, c, out);
    const char *const *names = NULL;
    int count = 0;
    TD_TRY(merge_column(c, &c->places[plan->label], out, &names, &count));
    return td_labels_from_codes(c->job, c->label, count, names, where, c, out);
}

static td_status check_like(const csv *c, const td_dataset *like)
{
    if (!like || like->columns == c->plan.features) return TD_OK;
    return td_fail(TD_ERR_DATA, "%s has %zu feature columns where the training set %s has %zu",
                   c->text.name, c->plan.features, like->info.path, like->columns);
}

static td_status parse(csv *c, td_dataset *out)
{
    TD_TRY(csv_plan_make(c->job, &c->text, &c->plan));
    TD_TRY(check_like(c, c->job->config->like));
    TD_TRY(td_text_cut(&c->text));
    TD_TRY(td_text_count(&c->text, c->job->pool));
    c->rows = c->text.row[c->text.chunks];
    TD_TRY(take_memory(c, out));
    TD_TRY(td_text_run(c->job->pool, c->text.chunks, parse_chunk, c));
    out->info.samples = c->rows;
    out->info.bytes =
        c->rows * (c->plan.features * sizeof *c->x + c->hashed_columns * sizeof *c->hashed);
    out->columns = c->plan.features;
    out->dense = c->x;
    if (c->weight) out->weight = c->weight, out->info.has_weights = true;
    TD_TRY(merge_categories(c, out));
    TD_TRY(name_columns(c, out));
    TD_TRY(td_dataset_set_columns(out, c->job->config->one_hot));
    TD_TRY(finish_labels(c, out));
    return td_read_side_files(c->job, out);
}

static td_status read_separated(const td_read_job *job, char delimiter, td_dataset *out)
{
    const char *asked = job->config->delimiter, *data = (const char *)job->main.data;
    size_t size = job->main.size;
    if (asked && !strcmp(asked, "tab")) asked = "\t";
    if (asked && *asked && (asked[1] || strchr("\"\r\n", *asked)))
        return td_fail(TD_ERR_ARG, "delimiter \"%s\" is not one character or \"tab\"", asked);
    bool marked = size >= 3 && memcmp(data, "\xEF\xBB\xBF", 3) == 0; /* UTF-8 byte order mark */
    csv c = {.job = job};
    c.text = (td_text){
        .name = job->main.name,
        .start = data,
        .begin = data + (marked ? 3 : 0),
        .end = data + size,
        .delimiter = asked && *asked ? *asked : delimiter,
        .quotes = size > 0 && memchr(data, '"', size) != NULL,
    };
    td_status status = parse(&c, out);
    for (size_t i = 0; c.dicts && i < c.text.chunks * c.plan.text_columns; i++)
        td_dict_fini(&c.dicts[i]);
    td_free(c.dicts);
    td_free(c.places);
    td_free(c.label);
    csv_plan_fini(&c.plan);
    td_text_fini(&c.text);
    return status;
}

static td_status read_csv(const td_read_job *job, td_dataset *out)
{
    return read_separated(job, ',', out);
}

static td_status read_tsv(const td_read_job *job, td_dataset *out)
{
    return read_separated(job, '\t', out);
}

static bool first_line_has(const unsigned char *data, size_t size, char c)
{
    const unsigned char *end = size ? memchr(data, '\n', size) : NULL;
    size_t n = end ? (size_t)(end - data) : size;
    return n && memchr(data, c, n) && !memchr(data, 0, n);
}

static bool looks_like_csv(const unsigned char *data, size_t size)
{
    return first_line_has(data, size, ',');
}

static bool looks_like_tsv(const unsigned char *data, size_t size)
{
    return first_line_has(data, size, '\t');
}

static const char *const csv_extensions[] = {".csv", NULL};
static const char *const tsv_extensions[] = {".tsv", NULL};

const td_reader td_reader_csv = {
    .format = TD_FORMAT_CSV,
    .extensions = csv_extensions,
    .looks_like = looks_like_csv,
    .read = read_csv,
    .inflate = true,
};
const td_reader td_reader_tsv = {
    .format = TD_FORMAT_TSV,
    .extensions = tsv_extensions,
    .looks_like = looks_like_tsv,
    .read = read_tsv,
    .inflate = true,
};
