/* libsvm (SVMlight) and libffm text, one sample a line:
 *
 *     label[:weight] [qid:group] index:value index:value ...               # comment
 *     label[:weight] [qid:group] field:index:value field:index:value ...   # comment
 *
 * libsvm's indices ascend; libffm's come in any order, as hashing makes them, more than once if
 * need be, and are put in order of index and field here. They count from 1 unless an index 0 occurs
 * (or the options say so). Rows and an upper bound of the entries (colons) are counted first, so
 * that the second pass parses every entry into its place; the few holes of labels' weights and
 * groups are closed at the end. Indices are kept less one while nothing tells the base. */
#include "data/readers/libsvm.h"

#include "data/readers/labels.h"

#include "base/alloc.h"
#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

td_status td_svm_fail(const td_svm *s, const char *at, const char *end, const char *problem)
{
    int n = 0;
    while (n < 40 && at + n < end && at[n] != ' ' && at[n] != '\n' && at[n] != '\r' &&
           at[n] != '\t')
        n++;
    return td_fail(TD_ERR_DATA, "%s:%zu: \"%.*s\" %s", s->text.name, td_text_line(&s->text, at), n,
                   at, problem);
}

static td_status count_entries(void *arg, size_t chunk)
{
    td_svm *s = arg;
    uint64_t colons = 0;
    const char *at = s->text.cut[chunk], *end = s->text.cut[chunk + 1];
    for (const char *c = at; c < end; c++) colons += *c == ':';
    s->chunk[chunk].entries = s->fields ? colons / 2 : colons;
    s->chunk[chunk].groups = memchr(at, 'q', (size_t)(end - at)) != NULL;
    return TD_OK;
}

/* Behind a label that nobody wants; where a line has none, its first token is an entry. */
static void skip_label(td_svm *s, uint64_t row, const char **at, const char *end)
{
    const char *p = *at;
    while (!td_svm_ends(p, end) && *p != ':') p++;
    s->label[row] = 0;
    if (p == end || *p != ':') *at = p;
}

static td_status parse_qid(td_svm *s, uint64_t row, const char **at, const char *end)
{
    const char *p = *at;
    while (p < end && td_svm_blank(*p)) p++;
    if (end - p >= 4 && memcmp(p, "qid:", 4) == 0) {
        const char *token = p, *digits = p += 4;
        uint64_t group = 0;
        while (p < end && (unsigned)(*p - '0') < 10 && p - digits < 18)
            group = group * 10 + (unsigned)(*p++ - '0');
        if (p == digits || !td_svm_ends(p, end))
            return td_svm_fail(s, token, end, "is not qid:number");
        s->group[row] = (int64_t)group;
    } else if (s->group) {
        s->group[row] = -1;
    }
    *at = p;
    return TD_OK;
}

static td_status parse_head(td_svm *s, uint64_t row, const char **at, const char *end)
{
    if (s->job->config->no_labels && !s->weights) {
        skip_label(s, row, at, end);
        return parse_qid(s, row, at, end);
    }
    const char *from = *at, *p = td_parse_number(from, end, &s->label[row]);
    if (!p || isinf(s->label[row]) || !(td_svm_ends(p, end) || *p == ':') ||
        (s->fields && td_ffm_is_entry(from, end)))
        return td_svm_fail(s, from, end, "is not a label, a finite number");
    if (p < end && (*p == ':') != s->weights)
        return td_svm_fail(s, from, end,
                           s->weights ? "has no weight where the first line has one"
                                      : "has a weight where the first line has none");
    if (s->weights) {
        if (p == end)
            return td_svm_fail(s, from, end, "has no weight where the first line has one");
        p = td_parse_float(p + 1, end, &s->weight[row]);
        if (!p || !td_svm_ends(p, end) || isinf(s->weight[row]) || s->weight[row] < 0)
            return td_svm_fail(s, from, end,
                               "is not label:weight with a finite weight of at least 0");
    }
    *at = p;
    return parse_qid(s, row, at, end);
}

static td_status bad_entry(const td_svm *s, const char *token, const char *end)
{
    const char *p = token;
    uint64_t index = 0;
    float value;
    while (p < end && (unsigned)(*p - '0') < 10 && index < UINT32_MAX)
        index = index * 10 + (unsigned)(*p++ - '0');
    if (index > INT32_MAX) return td_svm_fail(s, token, end, "has an index beyond 2147483647");
    if (p == token || p == end || *p != ':')
        return td_svm_fail(s, token, end, "is not index:value");
    if (index == 0 && s->base == TD_SVM_ONE)
        return td_svm_fail(s, token, end, "has index 0 where indices count from 1");
    p = td_parse_float(p + 1, end, &value);
    if (!p || !td_svm_ends(p, end) || isinf(value))
        return td_svm_fail(s, token, end, "is not index:value with a finite number");
    return td_svm_fail(s, token, end,
                       "comes behind an index that is not smaller: indices must ascend");
}

/* The entries of a line at *at into index and value from *used on. */
static td_status parse_entries(td_svm *s, td_svm_chunk *count, uint64_t *used, const char **at,
                               const char *end)
{
    const char *p = *at;
    uint64_t next = s->base == TD_SVM_ONE, n = *used; /* the least index allowed */
    for (;;) {
        while (p < end && td_svm_blank(*p)) p++;
        if (td_svm_ends(p, end)) break;
        const char *token = p;
        uint64_t index = 0;
        unsigned digit;
        while (p < end && (digit = (unsigned)(*p - '0')) < 10 && index <= INT32_MAX)
            index = index * 10 + digit, p++;
        if (p == token || p == end || *p != ':' || index < next || index > INT32_MAX)
            return bad_entry(s, token, end);
        p = td_parse_number(p + 1, end, &s->value[n]);
        if (!p || !td_svm_ends(p, end) || isinf(s->value[n])) return bad_entry(s, token, end);
        s->index[n++] = (uint32_t)index - 1;
        if (index == 0) count->zero = true;
        next = index + 1;
    }
    if (n > *used && next > count->largest) count->largest = next;
    *used = n;
    *at = p;
    return TD_OK;
}

static td_status parse_chunk(void *arg, size_t chunk)
{
    td_svm *s = arg;
    td_svm_chunk *count = &s->chunk[chunk];
    const char *at = s->text.cut[chunk], *end = s->text.cut[chunk + 1];
    uint64_t row = s->text.row[chunk], used = count->entries_at;
    while (at < end) {
        bool plain = (unsigned)(*at - '0') < 10 || *at == '-' || *at == '+';
        if (plain || td_text_is_row(&s->text, at, td_text_line_end(&s->text, at, end))) {
            while (td_svm_blank(*at)) at++;
            s->row_start[row] = used;
            TD_TRY(parse_head(s, row, &at, end));
            TD_TRY(s->fields ? td_ffm_entries(s, count, &used, &at, end)
                             : parse_entries(s, count, &used, &at, end));
            if (at + 1 < end && *at == '\r' && at[1] != '\n')
                return td_svm_fail(s, at + 1, end, "comes behind a carriage return within a line");
            row++;
        }
        if (at < end && *at != '\n') at = td_text_line_end(&s->text, at, end);
        if (at < end) at++;
    }
    count->entries = used - count->entries_at;
    return TD_OK;
}

/* Moves each chunk's entries down behind those of the one before. Returns their number. */
static uint64_t close_holes(td_svm *s)
{
    uint64_t used = 0;
    for (size_t c = 0; c < s->text.chunks; c++) {
        const td_svm_chunk *count = &s->chunk[c];
        uint64_t hole = count->entries_at - used;
        if (hole) {
            memmove(s->index + used, s->index + count->entries_at,
                    count->entries * sizeof *s->index);
            memmove(s->value + used, s->value + count->entries_at,
                    count->entries * sizeof *s->value);
            if (s->field)
                memmove(s->field + used, s->field + count->entries_at,
                        count->entries * sizeof *s->field);
            for (uint64_t r = s->text.row[c]; r < s->text.row[c + 1]; r++) s->row_start[r] -= hole;
        }
        used += count->entries;
    }
    s->row_start[s->rows] = used;
    return used;
}

static td_status set_features(td_svm *s, uint64_t entries, td_dataset *out)
{
    const td_data_config *config = s->job->config;
    bool zero = false;
    uint64_t largest = 0; /* as written, + 1 */
    for (size_t c = 0; c < s->text.chunks; c++) {
        zero = zero || s->chunk[c].zero;
        if (s->chunk[c].largest > largest) largest = s->chunk[c].largest;
    }
    out->index_base = s->base == TD_SVM_ONE || (s->base == TD_SVM_AUTO && !zero) ? 1 : 0;
    if (out->index_base == 0)
        for (uint64_t i = 0; i < entries; i++) s->index[i]++;
    uint64_t needed = largest ? largest - (uint64_t)out->index_base : 0;
    size_t features = config->like       ? config->like->info.features
                      : config->features ? config->features
                                         : (size_t)needed;
    if (needed > features && s->fields && config->like)
        td_ffm_drop_unknown(s, features);
    else if (needed > features)
        return td_fail(TD_ERR_DATA, "%s: index %llu is beyond the %zu features of %s", s->text.name,
                       (unsigned long long)largest - 1, features,
                       config->like ? "the training set" : "the options");
    if (features == 0) return td_fail(TD_ERR_DATA, "%s: no line has a feature", s->text.name);
    out->columns = features;
    out->info.sparse = true;
    return td_dataset_set_columns(out, false);
}

static void where(const void *arg, uint64_t row, char *text, size_t room)
{
    const td_svm *s = arg;
    snprintf(text, room, "%.500s:%zu", s->text.name, td_text_row_line(&s->text, row));
}

static td_status check_groups(const td_svm *s)
{
    for (uint64_t r = 0; s->group && r < s->rows; r++)
        if (s->group[r] < 0)
            return td_fail(TD_ERR_DATA, "%s:%zu: no qid where other lines have one", s->text.name,
                           td_text_row_line(&s->text, r));
    return TD_OK;
}

/* Whether the first row's label carries a weight. */
static bool first_has_weight(const td_svm *s)
{
    const char *at = s->text.begin;
    while (at < s->text.end) {
        const char *line_end = td_text_line_end(&s->text, at, s->text.end);
        while (at < line_end && td_svm_blank(*at)) at++;
        if (td_text_is_row(&s->text, at, line_end)) {
            while (at < line_end && !td_svm_ends(at, line_end) && *at != ':') at++;
            return at < line_end && *at == ':' && !(s->fields && td_ffm_is_entry(at, line_end));
        }
        at = line_end < s->text.end ? line_end + 1 : line_end;
    }
    return false;
}

/* Without labels to be read, "2:1" at the beginning of a line may be its first entry. */
static td_status choose_head(td_svm *s)
{
    const char *label = s->job->config->label;
    if (label && !strcmp(label, "0")) return TD_OK;
    if (!label || strcmp(label, "none") != 0)
        return td_fail(TD_ERR_DATA,
                       "%s: its first line begins with index:value or with label:weight; set label "
                       "to none for the one, to 0 for the other",
                       s->text.name);
    s->weights = false;
    return TD_OK;
}

static td_status take_memory(td_svm *s, td_dataset *out)
{
    s->chunk = td_calloc(s->text.chunks, sizeof *s->chunk);
    if (!s->chunk) return td_fail(TD_ERR_NOMEM, "%s: no memory for its chunks", s->text.name);
    TD_TRY(td_text_run(s->job->pool, s->text.chunks, count_entries, s));
    uint64_t room = 0;
    bool groups = false;
    for (size_t c = 0; c < s->text.chunks; c++) {
        s->chunk[c].entries_at = room;
        room += s->chunk[c].entries;
        groups = groups || s->chunk[c].groups;
    }
    TD_TRY(td_dataset_take(out, room, sizeof *s->index, "indices", &s->index));
    TD_TRY(td_dataset_take(out, room, sizeof *s->value, "values", &s->value));
    if (s->fields) TD_TRY(td_dataset_take(out, room, sizeof *s->field, "fields", &s->field));
    TD_TRY(td_dataset_take(out, s->rows + 1, sizeof *s->row_start, "rows", &s->row_start));
    if (s->weights) TD_TRY(td_dataset_take(out, s->rows, sizeof *s->weight, "weights", &s->weight));
    if (groups) TD_TRY(td_dataset_take(out, s->rows, sizeof *s->group, "query ids", &s->group));
    s->label = td_reallocarray(NULL, s->rows, sizeof *s->label);
    if (!s->label) return td_fail(TD_ERR_NOMEM, "%s: no memory for its labels", s->text.name);
    return TD_OK;
}

static td_status parse(td_svm *s, td_dataset *out)
{
    TD_TRY(td_text_cut(&s->text));
    TD_TRY(td_text_count(&s->text, s->job->pool));
    s->rows = s->text.row[s->text.chunks];
    if (s->rows == 0)
        return td_fail(TD_ERR_DATA, "%s is empty: it has no line with a label", s->text.name);
    s->weights = first_has_weight(s);
    if (s->weights && s->job->config->no_labels && !s->fields) TD_TRY(choose_head(s));
    TD_TRY(take_memory(s, out));
    TD_TRY(td_text_run(s->job->pool, s->text.chunks, parse_chunk, s));
    /* A 'q' may have been in a comment. */
    bool grouped = false;
    for (uint64_t r = 0; s->group && !grouped && r < s->rows; r++) grouped = s->group[r] >= 0;
    if (!grouped) s->group = NULL;
    TD_TRY(check_groups(s));
    uint64_t entries = close_holes(s);
    out->info.samples = s->rows;
    out->info.bytes = entries * (s->fields ? 10 : 8) + s->rows * 8;
    out->row_start = s->row_start;
    out->index = s->index;
    out->value = s->value;
    out->field = s->field;
    out->weight = s->weight;
    out->group = s->group;
    out->info.has_weights = s->weight != NULL;
    out->info.has_groups = s->group != NULL;
    TD_TRY(set_features(s, entries, out));
    if (!s->job->config->no_labels) TD_TRY(td_labels_from_numbers(s->job, s->label, where, s, out));
    return td_read_side_files(s->job, out);
}

td_status td_svm_read(const td_read_job *job, bool fields, td_dataset *out)
{
    const td_data_config *config = job->config;
    const char *data = (const char *)job->main.data;
    td_svm s = {.job = job, .base = config->index_base, .fields = fields};
    if (config->index_base < -1 || config->index_base > 1)
        return td_fail(TD_ERR_ARG, "indices count from 1 (1) or from 0 (-1), not %d",
                       config->index_base);
    if (config->features > INT32_MAX)
        return td_fail(TD_ERR_ARG, "more than 2147483647 features: %zu", config->features);
    if (config->like && config->like->index_base >= 0)
        s.base = config->like->index_base ? TD_SVM_ONE : TD_SVM_ZERO;
    s.text = (td_text){
        .name = job->main.name,
        .start = data,
        .begin = data,
        .end = data + job->main.size,
        .delimiter = ' ',
        .comment = '#',
    };
    td_status status = parse(&s, out);
    td_free(s.chunk);
    td_free(s.label);
    td_text_fini(&s.text);
    return status;
}

static td_status read_libsvm(const td_read_job *job, td_dataset *out)
{
    return td_svm_read(job, false, out);
}

const char *td_svm_part(const char *p, const char *end, uint64_t most, uint64_t *out)
{
    const char *digits = p;
    uint64_t number = 0;
    unsigned digit;
    while (p < end && (digit = (unsigned)(*p - '0')) < 10 && number <= most)
        number = number * 10 + digit, p++;
    *out = number;
    return p > digits && p < end && *p == ':' && number <= most ? p + 1 : NULL;
}

const char *td_svm_behind_label(const char *at, const char *end)
{
    float x;
    at = td_parse_float(at, end, &x);
    while (at && at < end && td_svm_blank(*at)) at++;
    return at;
}

/* A number, then nothing or a token with a colon behind digits or qid. */
static bool looks_like_libsvm(const unsigned char *data, size_t size)
{
    const char *end = (const char *)data + size, *at = td_svm_behind_label((const char *)data, end);
    uint64_t index;
    if (!at) return false;
    if (end - at >= 4 && !memcmp(at, "qid:", 4)) return true;
    return td_svm_part(at, end, UINT64_MAX >> 4, &index) != NULL;
}

static const char *const libsvm_extensions[] = {".svm", ".libsvm", NULL};

const td_reader td_reader_libsvm = {
    .format = TD_FORMAT_LIBSVM,
    .extensions = libsvm_extensions,
    .looks_like = looks_like_libsvm,
    .read = read_libsvm,
    .inflate = true,
};
