/* See text.h. */
#include "data/readers/text.h"

#include "base/alloc.h"
#include "base/error.h"

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_LEAST = 256, CHUNK_MOST = 1 << 20, CHUNKS_WANTED = 64 };

/* ---- lines ---- */

/* Quotes count only where a field begins; in a quoted field, two quotes are one. */
static const char *quoted_line_end(const td_text *text, const char *at, const char *end)
{
    bool field_begins = true;
    while (at < end && *at != '\n') {
        if (field_begins && *at == '"') {
            for (at++; at < end; at++) {
                if (*at != '"') continue;
                if (at + 1 < end && at[1] == '"')
                    at++;
                else
                    break;
            }
            if (at < end) at++;
            field_begins = false;
            continue;
        }
        bool space = *at == ' ' || *at == '\t';
        field_begins = *at == text->delimiter || (field_begins && space);
        at++;
    }
    return at;
}

const char *td_text_line_end(const td_text *text, const char *at, const char *end)
{
    if (text->quotes) return quoted_line_end(text, at, end);
    const char *found = at < end ? memchr(at, '\n', (size_t)(end - at)) : NULL;
    return found ? found : end;
}

bool td_text_is_row(const td_text *text, const char *line, const char *line_end)
{
    if (line < line_end && line_end[-1] == '\r') line_end--;
    while (line < line_end && (*line == ' ' || (*line == '\t' && text->delimiter != '\t'))) line++;
    return line < line_end && !(text->comment && *line == text->comment);
}

static size_t count_lines(const char *at, const char *end)
{
    size_t lines = 0;
    while (at < end && (at = memchr(at, '\n', (size_t)(end - at)))) lines++, at++;
    return lines;
}

size_t td_text_line(const td_text *text, const char *at)
{
    return 1 + count_lines(text->start, at);
}

size_t td_text_row_line(const td_text *text, uint64_t row)
{
    const char *at = text->begin;
    for (uint64_t seen = 0; at < text->end;) {
        const char *line_end = td_text_line_end(text, at, text->end);
        if (td_text_is_row(text, at, line_end) && seen++ == row) break;
        at = line_end < text->end ? line_end + 1 : line_end;
    }
    return td_text_line(text, at);
}

/* ---- chunks ---- */

td_status td_text_cut(td_text *text)
{
    size_t size = (size_t)(text->end - text->begin), step = size / CHUNKS_WANTED;
    step = step < CHUNK_LEAST ? CHUNK_LEAST : step > CHUNK_MOST ? CHUNK_MOST : step;
    size_t room = size / step + 2;
    text->cut = td_calloc(room, sizeof *text->cut);
    text->row = td_calloc(room, sizeof *text->row);
    if (!text->cut || !text->row)
        return td_fail(TD_ERR_NOMEM, "%s: no memory for %zu chunks", text->name, room);
    text->chunks = 0;
    text->cut[0] = text->begin;
    const char *line = text->begin;
    while (line < text->end) {
        const char *goal = (size_t)(text->end - line) > step ? line + step : text->end, *at = line;
        if (text->quotes) {
            while (at < goal) {
                at = td_text_line_end(text, at, text->end);
                if (at < text->end) at++;
            }
        } else if (goal < text->end) {
            at = td_text_line_end(text, goal, text->end);
            if (at < text->end) at++;
        } else {
            at = goal;
        }
        text->cut[++text->chunks] = line = at;
    }
    return TD_OK;
}

void td_text_fini(td_text *text)
{
    td_free(text->cut);
    td_free(text->row);
}

typedef struct run_lane {
    td_status status;
    size_t chunk; /* that failed */
    char sentence[1024];
} run_lane;

typedef struct run {
    size_t chunks;
    int lanes;
    td_text_work *work;
    void *arg;
    run_lane *lane;
} run;

static td_status run_chunks(void *arg, int lane)
{
    run *r = arg;
    run_lane *mine = &r->lane[lane];
    for (size_t c = (size_t)lane; c < r->chunks; c += (size_t)r->lanes) {
        mine->status = r->work(r->arg, c);
        if (mine->status == TD_OK) continue;
        mine->chunk = c;
        snprintf(mine->sentence, sizeof mine->sentence, "%s", td_last_error());
        break;
    }
    return TD_OK;
}

td_status td_text_run(td_pool *pool, size_t chunks, td_text_work *work, void *arg)
{
    int lanes = pool ? td_pool_lanes(pool) : 1;
    if (lanes == 1) {
        for (size_t c = 0; c < chunks; c++) TD_TRY(work(arg, c));
        return TD_OK;
    }
    run r = {chunks, lanes, work, arg, td_calloc((size_t)lanes, sizeof *r.lane)};
    if (!r.lane) return td_fail(TD_ERR_NOMEM, "no memory for %d threads", lanes);
    td_status status = td_pool_run(pool, run_chunks, &r);
    const run_lane *first = NULL;
    for (int l = 0; l < lanes; l++)
        if (r.lane[l].status != TD_OK && (!first || r.lane[l].chunk < first->chunk))
            first = &r.lane[l];
    if (status == TD_OK && first) status = td_fail_again(first->status, first->sentence);
    td_free(r.lane);
    return status;
}

static td_status count_chunk(void *arg, size_t chunk)
{
    td_text *text = arg;
    const char *at = text->cut[chunk], *end = text->cut[chunk + 1];
    uint64_t rows = 0;
    while (at < end) {
        const char *line_end = td_text_line_end(text, at, end);
        rows += td_text_is_row(text, at, line_end);
        at = line_end < end ? line_end + 1 : end;
    }
    text->row[chunk + 1] = rows;
    return TD_OK;
}

td_status td_text_count(td_text *text, td_pool *pool)
{
    TD_TRY(td_text_run(pool, text->chunks, count_chunk, text));
    for (size_t c = 0; c < text->chunks; c++) text->row[c + 1] += text->row[c];
    return TD_OK;
}

/* ---- numbers ---- */

enum { TENS = 60, DIGITS = 19, WHOLE = 7, TEXT_MOST = 1100 };

#define TEN(f, d)                                                                                  \
    f(1e##d##0), f(1e##d##1), f(1e##d##2), f(1e##d##3), f(1e##d##4), f(1e##d##5), f(1e##d##6),     \
        f(1e##d##7), f(1e##d##8), f(1e##d##9)
#define AS_IT_IS(x) (x)
#define INVERSE(x) (1 / (x))
#define ALL_TENS(f) TEN(f, 0), TEN(f, 1), TEN(f, 2), TEN(f, 3), TEN(f, 4), TEN(f, 5)
static const double tens[TENS] = {ALL_TENS(AS_IT_IS)};
static const double tenths[TENS] = {ALL_TENS(INVERSE)};
#undef ALL_TENS
#undef INVERSE
#undef AS_IT_IS
#undef TEN

static const char *parse_slowly(const char *begin, const char *end, float *out)
{
    char copy[TEXT_MOST];
    size_t length = (size_t)(end - begin);
    if (length >= sizeof copy) return NULL;
    memcpy(copy, begin, length);
    copy[length] = 0;
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!c_locale) return NULL;
    *out = strtof_l(copy, NULL, c_locale);
    freelocale(c_locale);
    return end;
}

/* After Clinger, "How to read floating point numbers accurately" (1990), with room to spare: up to
 * 19 digits and a power of ten give a double that is wrong by at most 2 of its units. That double
 * rounds to the right float unless it lies within 4 units of the middle between two floats. */
const char *td_parse_float(const char *at, const char *end, float *out)
{
    const char *begin = at;
    uint32_t negative = 0; /* signs are as random as data: no branch on them */
    if (at < end) {
        negative = *at == '-';
        at += negative | (*at == '+');
    }
    uint64_t mantissa = 0;
    const char *digits = at;
    unsigned digit;
    while (at < end && (digit = (unsigned)(*at - '0')) < 10) mantissa = mantissa * 10 + digit, at++;
    ptrdiff_t count = at - digits;
    long exponent = 0;
    if (at < end && (unsigned char)*at <= ',' && count &&
        count <= WHOLE) { /* a short whole number */
        *out = negative ? -(float)(int32_t)mantissa : (float)(int32_t)mantissa;
        return at;
    }
    if (at < end && *at == '.') {
        const char *fraction = ++at;
        while (at < end && (digit = (unsigned)(*at - '0')) < 10)
            mantissa = mantissa * 10 + digit, at++;
        exponent = -(long)(at - fraction);
        count += at - fraction;
    }
    if (count == 0) return NULL;
    if (at < end && (*at | 32) == 'e') {
        const char *e = at + 1;
        bool down = false;
        if (e < end && (*e == '-' || *e == '+')) down = *e++ == '-';
        if (e < end && (unsigned)(*e - '0') < 10) {
            long power = 0;
            for (; e < end && (digit = (unsigned)(*e - '0')) < 10; e++)
                if (power < 100000) power = power * 10 + (long)digit;
            exponent += down ? -power : power;
            at = e;
        }
    }
    if (count > DIGITS || exponent <= -TENS || exponent >= TENS)
        return parse_slowly(begin, at, out);
    double value = (double)mantissa;
    value *= exponent < 0 ? tenths[-exponent] : tens[exponent];
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint64_t middle = (bits & 0x1FFFFFFF) - (0x10000000 - 4); /* the 29 bits a float lacks */
    if (middle <= 8 || ((value < FLT_MIN || value > FLT_MAX) && mantissa))
        return parse_slowly(begin, at, out);
    float rounded = (float)value;
    uint32_t word;
    memcpy(&word, &rounded, sizeof word);
    word |= negative << 31;
    memcpy(out, &word, sizeof word);
    return at;
}

/* ---- side files ---- */

td_status td_read_numbers(td_source source, uint64_t count, float least, float *out)
{
    const char *begin = (const char *)source.data, *at = begin, *end = begin + source.size;
    uint64_t seen = 0;
    size_t line = 0;
    while (at < end) {
        const char *next = memchr(at, '\n', (size_t)(end - at)), *stop = next ? next : end;
        line++;
        while (stop > at && (stop[-1] == '\r' || stop[-1] == ' ' || stop[-1] == '\t')) stop--;
        while (at < stop && (*at == ' ' || *at == '\t')) at++;
        if (at < stop) {
            float value;
            if (td_parse_float(at, stop, &value) != stop || isinf(value) || value < least)
                return td_fail(TD_ERR_DATA, "%s:%zu: \"%.*s\" is not a number of at least %g",
                               source.name, line, (int)(stop - at < 40 ? stop - at : 40), at,
                               (double)least);
            if (seen < count) out[seen] = value;
            seen++;
        }
        at = next ? next + 1 : end;
    }
    if (seen != count)
        return td_fail(TD_ERR_DATA, "%s holds %llu numbers where %llu are needed", source.name,
                       (unsigned long long)seen, (unsigned long long)count);
    return TD_OK;
}

td_status td_read_group_sizes(td_source source, uint64_t rows, int64_t *group)
{
    const char *begin = (const char *)source.data, *end = begin + source.size;
    uint64_t queries = 0, filled = 0;
    for (const char *at = begin; at < end;) {
        const char *next = memchr(at, '\n', (size_t)(end - at)), *stop = next ? next : end;
        bool blank = true;
        for (const char *c = at; c < stop; c++)
            blank = blank && (*c == ' ' || *c == '\t' || *c == '\r');
        queries += !blank;
        at = next ? next + 1 : end;
    }
    float *size = td_calloc((size_t)queries, sizeof *size);
    if (!size) return td_fail(TD_ERR_NOMEM, "%s: no memory for its numbers", source.name);
    td_status status = td_read_numbers(source, queries, 1, size);
    for (uint64_t q = 0; status == TD_OK && q < queries; q++) {
        uint64_t more = size[q] < 1e18f ? (uint64_t)size[q] : UINT64_MAX;
        if (size[q] != floorf(size[q])) {
            status = td_fail(TD_ERR_DATA, "%s: query %llu has %g rows, which is not a whole number",
                             source.name, (unsigned long long)q, (double)size[q]);
            break;
        }
        if (more > rows - filled) {
            status = td_fail(TD_ERR_DATA, "%s: query %llu ends behind the %llu rows of the data",
                             source.name, (unsigned long long)q, (unsigned long long)rows);
            break;
        }
        for (uint64_t i = 0; i < more; i++) group[filled++] = (int64_t)q;
    }
    if (status == TD_OK && filled != rows)
        status = td_fail(TD_ERR_DATA, "%s: its queries hold %llu rows where the data has %llu",
                         source.name, (unsigned long long)filled, (unsigned long long)rows);
    td_free(size);
    return status;
}

td_status td_read_side_files(const td_read_job *job, td_dataset *out)
{
    uint64_t rows = out->info.samples;
    if (job->weight.name && !out->weight) {
        float *weight = NULL;
        TD_TRY(td_dataset_take(out, rows, sizeof *weight, "weights", &weight));
        TD_TRY(td_read_numbers(job->weight, rows, 0, weight));
        out->weight = weight;
        out->info.has_weights = true;
    }
    if (job->group.name && !out->group) {
        int64_t *group = NULL;
        TD_TRY(td_dataset_take(out, rows, sizeof *group, "query ids", &group));
        TD_TRY(td_read_group_sizes(job->group, rows, group));
        out->group = group;
        out->info.has_groups = true;
    }
    return TD_OK;
}
