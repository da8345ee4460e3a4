/* Tables as text, see transfer.h. */
#include "ps/transfer_impl.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/fs.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BUFFER_BYTES = 256 << 10, MOST_WORD = 96 };

/* --- out --- */

typedef struct writing {
    td_columns columns;
    td_writer file;
    char *bytes; /* [BUFFER_BYTES] */
    size_t used, rows;
} writing;

static td_status flush(writing *w)
{
    TD_TRY(td_writer_put(&w->file, w->bytes, w->used));
    w->used = 0;
    return TD_OK;
}

/* Room for another word. */
static td_status room(writing *w, char **out)
{
    if (BUFFER_BYTES - w->used < MOST_WORD) TD_TRY(flush(w));
    *out = w->bytes + w->used;
    return TD_OK;
}

static td_status write_names(writing *w)
{
    char *at;
    TD_TRY(room(w, &at));
    w->used += (size_t)sprintf(at, "key");
    for (size_t k = 0; k < w->columns.count; k++)
        for (size_t i = 0; i < w->columns.width; i++) {
            TD_TRY(room(w, &at));
            w->used += (size_t)snprintf(at, MOST_WORD, "\t%s.%zu", w->columns.name[k], i);
        }
    TD_TRY(room(w, &at));
    *at = '\n', w->used++;
    return TD_OK;
}

/* Nine digits tell any two floats apart. */
static td_status write_row(void *arg, uint64_t key, td_table_mark mark, const float *row)
{
    writing *w = arg;
    char *at;
    (void)mark;
    w->rows++;
    TD_TRY(room(w, &at));
    w->used += (size_t)sprintf(at, "%llu", (unsigned long long)key);
    for (size_t i = 0; i < w->columns.count * w->columns.width; i++) {
        TD_TRY(room(w, &at));
        w->used += (size_t)sprintf(at, "\t%.9g", (double)row[i]);
    }
    TD_TRY(room(w, &at));
    *at = '\n', w->used++;
    return TD_OK;
}

static td_status write_file(const td_transfer_rows *rows, const char *path, const char *meaning)
{
    writing w = {.file = {.fd = -1}};
    td_status status = TD_OK;
    char *at;
    td_columns_of(rows->config, rows->states, &w.columns);
    w.bytes = td_malloc(BUFFER_BYTES);
    if (!w.bytes) return td_fail(TD_ERR_NOMEM, "no memory to write %s", path);
    TD_GOTO(td_writer_open(&w.file, path));
    TD_GOTO(write_names(&w));
    TD_GOTO(rows->walk(rows->self, write_row, &w));
    TD_GOTO(room(&w, &at));
    w.used += (size_t)sprintf(at, "# %zu rows%s", w.rows, meaning ? " of " : "");
    TD_GOTO(flush(&w));
    if (meaning) TD_GOTO(td_writer_put(&w.file, meaning, strlen(meaning)));
    TD_GOTO(td_writer_put(&w.file, "\n", 1));
    status = td_writer_commit(&w.file);
out:
    td_writer_abandon(&w.file);
    td_free(w.bytes);
    return status;
}

/* --- in --- */

typedef struct reading {
    td_intake *in;
    FILE *file;
    char *line; /* of getline */
    size_t line_room, number;
    size_t floats; /* of a line */
    size_t rows;
    uint64_t last; /* key */
} reading;

static td_status wrong(const reading *r, const char *what)
{
    return td_fail(TD_ERR_DATA, "%s:%zu: %s", r->in->path, r->number, what);
}

/* The next line without its end. */
static td_status next_line(reading *r)
{
    r->number++;
    errno = 0;
    ssize_t length = getline(&r->line, &r->line_room, r->file);
    if (length < 0 && errno == ENOMEM)
        return td_fail(TD_ERR_NOMEM, "no memory for %s", r->in->path);
    if (length < 0 && ferror(r->file)) return td_fail_errno("cannot read %s", r->in->path);
    if (length < 0) return wrong(r, "the file is cut off: it must end with \"# N rows\"");
    if (r->line[length - 1] != '\n') return wrong(r, "the file is cut off within this line");
    if (strlen(r->line) != (size_t)length) return wrong(r, "there is a 0 byte in this line");
    r->line[length - 1] = 0;
    return TD_OK;
}

/* Goes past `word` and, unless it is the last, a tab. */
static bool skip_word(char **at, const char *word)
{
    size_t length = strlen(word);
    if (strncmp(*at, word, length) != 0) return false;
    if ((*at)[length] != '\t' && (*at)[length] != 0) return false;
    *at += length + ((*at)[length] == '\t');
    return true;
}

static td_status read_names(reading *r)
{
    const td_columns *c = &r->in->columns;
    char *at, word[MOST_WORD];
    TD_TRY(next_line(r));
    at = r->line;
    if (!skip_word(&at, "key")) return wrong(r, "the first column must be called key");
    for (size_t k = 0; k < c->count; k++)
        for (size_t i = 0; i < c->width; i++) {
            if (!*at && k == 1 && i == 0) return td_intake_lacks_states(r->in);
            snprintf(word, sizeof word, "%s.%zu", c->name[k], i);
            if (!skip_word(&at, word))
                return td_fail(TD_ERR_DATA,
                               "%s:1: column %zu must be called %s, as of a table with %zu weights "
                               "a row under %s",
                               r->in->path, r->floats + 2, word, c->width,
                               td_table_config_of(r->in->table)->rule);
            r->floats++;
        }
    if (*at)
        return td_fail(TD_ERR_DATA,
                       "%s:1: columns from %.*s on are more than a table's with %zu "
                       "weights a row under %s",
                       r->in->path, (int)strcspn(at, "\t"), at, c->width,
                       td_table_config_of(r->in->table)->rule);
    return TD_OK;
}

static td_status read_number(const reading *r, size_t column, char **at)
{
    char *end;
    float *x = &r->in->row[column];
    bool blank = **at == ' ' || **at == '\t' || **at == 0;
    *x = strtof(*at, &end);
    if (blank || end == *at || (*end != '\t' && *end != 0))
        return td_fail(TD_ERR_DATA, "%s:%zu: column %zu is not a number: %.40s", r->in->path,
                       r->number, column + 2, *at);
    if (isinf(*x) && strcspn(*at, "iI") > (size_t)(end - *at))
        return td_fail(TD_ERR_DATA, "%s:%zu: column %zu is beyond a float: %.40s", r->in->path,
                       r->number, column + 2, *at);
    if ((*end == 0) != (column + 1 == r->floats))
        return td_fail(TD_ERR_DATA, "%s:%zu: a row has %zu numbers behind its key, this line %s",
                       r->in->path, r->number, r->floats, *end ? "more" : "fewer");
    *at = end + (*end != 0);
    return TD_OK;
}

static td_status read_row(reading *r)
{
    char *at;
    errno = 0;
    uint64_t key = strtoull(r->line, &at, 10);
    if (r->line[0] < '0' || r->line[0] > '9' || *at != '\t' || errno)
        return td_fail(TD_ERR_DATA, "%s:%zu: a key must be a number below 2^64, not %.40s",
                       r->in->path, r->number, r->line);
    if (r->rows++ && key <= r->last)
        return td_fail(TD_ERR_DATA, "%s:%zu: key %llu comes after %llu; keys must ascend",
                       r->in->path, r->number, (unsigned long long)key,
                       (unsigned long long)r->last);
    r->last = key, at++;
    for (size_t i = 0; i < r->floats; i++) TD_TRY(read_number(r, i, &at));
    return td_intake_put(r->in, key);
}

static td_status read_rows(reading *r)
{
    char last[64];
    TD_TRY(read_names(r));
    for (;;) {
        TD_TRY(next_line(r));
        if (r->line[0] == '#') break;
        TD_TRY(read_row(r));
    }
    int length = snprintf(last, sizeof last, "# %zu rows", r->rows);
    const char *behind = r->line + length;
    bool says = !strncmp(r->line, last, (size_t)length);
    if (says && *behind) says = !strncmp(behind, " of ", 4);
    if (!says)
        return td_fail(TD_ERR_DATA, "%s:%zu: the file has %zu rows, but says \"%.40s\"",
                       r->in->path, r->number, r->rows, r->line);
    TD_TRY(td_intake_means(r->in, *behind ? behind + 4 : NULL));
    if (getc(r->file) == EOF) return TD_OK;
    r->number++;
    return wrong(r, "nothing may come behind the number of rows");
}

static td_status read_file(td_intake *in)
{
    reading r = {.in = in, .file = fopen(in->path, "re")};
    if (!r.file) return td_fail_errno("cannot open %s", in->path);
    td_status status = read_rows(&r);
    fclose(r.file);
    free(r.line);
    return status;
}

const td_format td_format_tsv = {".tsv", write_file, read_file};
