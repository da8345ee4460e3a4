/* See options.h. */
#include "base/options.h"

#include "base/alloc.h"
#include "base/error.h"

#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *field(const td_option *row, void *config)
{
    return (char *)config + row->offset;
}

static const char *flag_of(const td_option *row)
{
    return row->flag ? row->flag : row->name;
}

td_status td_options_init(const td_option *rows, void *config)
{
    for (const td_option *row = rows; row->name; row++)
        if (row->initial) TD_TRY(td_option_set(row, config, row->name, row->initial));
    return TD_OK;
}

void td_options_fini(const td_option *rows, void *config)
{
    for (const td_option *row = rows; row->name; row++) {
        if (row->type != TD_OPT_TEXT) continue;
        char **text = field(row, config);
        td_free(*text);
        *text = NULL;
    }
}

const td_option *td_option_by_name(const td_option *rows, const char *name)
{
    for (; rows->name; rows++)
        if (!strcmp(rows->name, name)) return rows;
    return NULL;
}

/* --- values --- */

static td_status set_number(const td_option *row, void *config, const char *what, const char *text)
{
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    bool whole = row->type != TD_OPT_NUMBER;
    if (row->type == TD_OPT_SIZE && !row->most && text[0] != '-' && end != text && !*end &&
        v > 9e15) {
        uint64_t large = strtoull(text, &end, 10); /* beyond a double's whole numbers */
        if (!*end && errno != ERANGE) {
            *(uint64_t *)field(row, config) = large;
            return TD_OK;
        }
    }
    if (row->type == TD_OPT_SIZE && end != text && *end && !end[1]) { /* 64k, 512m, 1g */
        const char *units = "kmg", *unit = strchr(units, *end | 0x20);
        for (ptrdiff_t k = unit ? unit - units : -1; k >= 0; k--) v *= 1024;
        if (unit) end++;
    }
    if (end == text || *end || errno == ERANGE || !isfinite(v))
        return td_fail(TD_ERR_ARG, "%s: \"%s\" is not a %snumber%s", what, text,
                       whole ? "whole " : "",
                       row->type == TD_OPT_SIZE ? ", with k, m or g behind it or without" : "");
    double least = row->least, most = row->most;
    if (least == 0 && most == 0) most = row->type == TD_OPT_INT ? INT32_MAX : 9e15, least = -most;
    if (whole && v > 9e15)
        return td_fail(TD_ERR_ARG, "%s: %s is too large; %.10g is the most", what, text, most);
    if (whole && (v != floor(v) || v < -9e15))
        return td_fail(TD_ERR_ARG, "%s: \"%s\" is not a whole number", what, text);
    if (row->type == TD_OPT_SIZE && least < 0) least = 0;
    if ((v < least || v > most) && most < INT32_MAX)
        return td_fail(TD_ERR_ARG, "%s must be %.10g to %.10g, not %s", what, least, most, text);
    if (v < least)
        return td_fail(TD_ERR_ARG, "%s must be at least %.10g, not %s", what, least, text);
    if (v > most) return td_fail(TD_ERR_ARG, "%s must be at most %.10g, not %s", what, most, text);
    if (row->type == TD_OPT_INT) *(int *)field(row, config) = (int)v;
    if (row->type == TD_OPT_SIZE) *(uint64_t *)field(row, config) = (uint64_t)v;
    if (row->type == TD_OPT_NUMBER) *(double *)field(row, config) = v;
    return TD_OK;
}

static td_status set_period(const td_option *row, void *config, const char *what, const char *text)
{
    static const char units[] = "smh";
    static const uint64_t seconds[] = {1, 60, 3600};
    char *end;
    double n = strtod(text, &end);
    const char *unit = *end ? strchr(units, *end) : NULL;
    if (text[0] < '0' || text[0] > '9' || n != floor(n) || (*end && (!unit || end[1])))
        return td_fail(TD_ERR_ARG,
                       "%s: \"%s\" is neither a number of steps nor a time such as 30s, 5m or 1h",
                       what, text);
    if (n > 1e12)
        return td_fail(TD_ERR_ARG, "%s must be at most 1000000000000, not %s", what, text);
    if (unit && n == 0) return td_fail(TD_ERR_ARG, "%s must be at least 1s, not %s", what, text);
    *(td_period *)field(row, config) =
        unit ? (td_period){.seconds = (uint64_t)n * seconds[unit - units]}
             : (td_period){.steps = (uint64_t)n};
    return TD_OK;
}

static td_status set_bool(const td_option *row, void *config, const char *what, const char *text)
{
    static const char *const yes[] = {"true", "yes", "on", "1"}, *const no[] = {"false", "no",
                                                                                "off", "0"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) != 0 && strcmp(text, no[i]) != 0) continue;
        *(bool *)field(row, config) = !strcmp(text, yes[i]);
        return TD_OK;
    }
    return td_fail(TD_ERR_ARG, "%s: \"%s\" is neither true nor false", what, text);
}

static bool is_number(const char *text)
{
    char *end;
    strtod(text, &end);
    return end != text && !*end;
}

static td_status find_choice(const td_option *row, const char *what, const char *text, int *out)
{
    char all[256] = "";
    for (int i = 0; row->choices[i]; i++) {
        if (!strcmp(row->choices[i], text)) {
            *out = i;
            return TD_OK;
        }
        size_t n = strlen(all);
        snprintf(all + n, sizeof all - n, "%s%s", i ? ", " : "", row->choices[i]);
    }
    bool hint = row->number && is_number(text);
    return td_fail(TD_ERR_ARG, "%s: \"%s\" is not one of %s%s%s", what, text, all, hint ? "; " : "",
                   hint ? row->number : "");
}

td_status td_option_set(const td_option *row, void *config, const char *what, const char *text)
{
    if (row->type == TD_OPT_BOOL) return set_bool(row, config, what, text);
    if (row->type == TD_OPT_PERIOD) return set_period(row, config, what, text);
    if (row->type == TD_OPT_CHOICE) return find_choice(row, what, text, field(row, config));
    if (row->type != TD_OPT_TEXT) return set_number(row, config, what, text);
    int known;
    if (row->choices) TD_TRY(find_choice(row, what, text, &known));
    char **at = field(row, config), *copy = td_strdup(text);
    if (!copy) return td_fail(TD_ERR_NOMEM, "no memory for %s", what);
    td_free(*at);
    *at = copy;
    return TD_OK;
}

void td_option_text(const td_option *row, const void *config, char *text, size_t room)
{
    const void *at = (const char *)config + row->offset;
    switch (row->type) {
    case TD_OPT_BOOL: snprintf(text, room, "%s", *(const bool *)at ? "true" : "false"); break;
    case TD_OPT_INT: snprintf(text, room, "%d", *(const int *)at); break;
    case TD_OPT_SIZE:
        snprintf(text, room, "%llu", (unsigned long long)*(const uint64_t *)at);
        break;
    case TD_OPT_NUMBER: {
        int digits = 6; /* the fewest that read back as the same number */
        do snprintf(text, room, "%.*g", digits, *(const double *)at);
        while (strtod(text, NULL) != *(const double *)at && ++digits <= 17);
        break;
    }
    case TD_OPT_PERIOD: {
        const td_period *p = at;
        if (p->seconds)
            snprintf(text, room, "%llus", (unsigned long long)p->seconds);
        else
            snprintf(text, room, "%llu", (unsigned long long)p->steps);
        break;
    }
    case TD_OPT_TEXT: {
        const char *s = *(char *const *)at;
        snprintf(text, room, "%s", s ? s : "");
        break;
    }
    case TD_OPT_CHOICE: snprintf(text, room, "%s", row->choices[*(const int *)at]); break;
    }
}

/* --- the nearest word --- */

/* Of short words: letters changed, added, left out, or exchanged with their neighbour (Damerau, "A
 * technique for computer detection and correction of spelling errors", 1964). */
static size_t distance(const char *a, const char *b)
{
    enum { MOST = 40 };
    size_t rows[3][MOST + 1], n = strlen(b), m = strlen(a);
    if (n > MOST || m > MOST) return SIZE_MAX;
    for (size_t j = 0; j <= n; j++) rows[0][j] = j;
    for (size_t i = 1; i <= m; i++) {
        size_t *row = rows[i % 3], *above = rows[(i - 1) % 3], *second = rows[(i + 1) % 3];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t least = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            if (above[j] + 1 < least) least = above[j] + 1;
            bool crossed = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (crossed && second[j - 2] + 1 < least) least = second[j - 2] + 1;
            row[j] = least;
        }
    }
    return rows[m % 3][n];
}

const char *td_nearest(const char *word, const char *const *candidates)
{
    const char *best = NULL;
    size_t least = (strlen(word) + 2) / 3;
    for (; *candidates; candidates++) {
        size_t d = distance(word, *candidates);
        if (d <= least && (!best || d < least)) best = *candidates, least = d;
    }
    return best;
}

/* --- flags --- */

static const td_option *by_flag(const td_option *rows, unsigned where, const char *name)
{
    for (; rows->name; rows++)
        if ((rows->where & where) && (!strcmp(flag_of(rows), name) || !strcmp(rows->name, name)))
            return rows;
    return NULL;
}

static td_status unknown(const td_option *rows, unsigned where, const char *form, const char *name)
{
    const char *names[256];
    size_t n = 0;
    bool dotted = strchr(name, '.') || form[0] != '-';
    for (; rows->name && n < 255; rows++)
        if (rows->where & where) names[n++] = dotted ? rows->name : flag_of(rows);
    names[n] = NULL;
    const char *near = td_nearest(name, names);
    if (near)
        return td_fail(TD_ERR_ARG, "unknown option %s%s; did you mean %s%s?", form, name,
                       form[0] == '-' ? "--" : "", near);
    return td_fail(TD_ERR_ARG, "unknown option %s%s; \"tandem help\" lists them", form, name);
}

static void note(const td_option *rows, const td_option *row, bool *given)
{
    if (given) given[row - rows] = true;
}

static td_status set_by_name(const td_option *rows, void *config, const char *assignment,
                             td_arguments *a)
{
    char name[128];
    const char *equals = strchr(assignment, '=');
    if (!equals || equals == assignment || (size_t)(equals - assignment) >= sizeof name)
        return td_fail(TD_ERR_ARG, "--set %s: write --set NAME=VALUE", assignment);
    snprintf(name, sizeof name, "%.*s", (int)(equals - assignment), assignment);
    const td_option *row = by_flag(rows, a->where, name);
    if (!row) return unknown(rows, a->where, "", name);
    note(rows, row, a->given);
    return td_option_set(row, config, name, equals + 1);
}

td_status td_options_parse(const td_option *rows, void *config, int argc, char **argv,
                           td_arguments *a)
{
    bool flags = true;
    a->rest_count = 0;
    for (int i = 0; i < argc; i++) {
        const char *word = argv[i];
        if (!flags || strncmp(word, "--", 2) != 0) {
            if (flags && word[0] == '-' && word[1]) return unknown(rows, a->where, "-", word + 1);
            if (a->rest_count == a->rest_room)
                return td_fail(TD_ERR_ARG, "unexpected argument \"%s\"", word);
            a->rest[a->rest_count++] = word;
            continue;
        }
        if (!word[2]) {
            flags = false;
            continue;
        }
        char name[128], what[136];
        const char *equals = strchr(word, '=');
        snprintf(name, sizeof name, "%.*s", equals ? (int)(equals - word - 2) : 120, word + 2);
        bool set = !strcmp(name, "set");
        const td_option *row = set ? NULL : by_flag(rows, a->where, name);
        bool negated = !row && !strncmp(name, "no-", 3);
        if (negated) row = by_flag(rows, a->where, name + 3);
        if (!set && (!row || (negated && row->type != TD_OPT_BOOL)))
            return unknown(rows, a->where, "--", name);
        snprintf(what, sizeof what, "--%s", name);
        const char *value = equals ? equals + 1 : NULL;
        if (negated && value) return td_fail(TD_ERR_ARG, "%s takes no value", what);
        if (row && row->type == TD_OPT_BOOL && !value) value = negated ? "false" : "true";
        if (!value && i + 1 == argc) return td_fail(TD_ERR_ARG, "%s needs a value", what);
        if (!value) value = argv[++i];
        if (set) {
            TD_TRY(set_by_name(rows, config, value, a));
            continue;
        }
        note(rows, row, a->given);
        TD_TRY(td_option_set(row, config, what, value));
    }
    return TD_OK;
}

void td_options_print(const td_option *rows, unsigned where, FILE *to)
{
    for (; rows->name; rows++) {
        if (!(rows->where & where)) continue;
        char left[64], choices[256] = "";
        snprintf(left, sizeof left, "--%s%s%s", flag_of(rows), rows->value ? " " : "",
                 rows->value ? rows->value : "");
        for (int i = 0; rows->choices && rows->choices[i]; i++) {
            size_t n = strlen(choices);
            snprintf(choices + n, sizeof choices - n, "%s%s", i ? ", " : ": ", rows->choices[i]);
        }
        fprintf(to, "  %-26s %s%s", left, rows->help, choices);
        if (rows->initial && rows->type != TD_OPT_BOOL) fprintf(to, " [%s]", rows->initial);
        fputc('\n', to);
    }
}
