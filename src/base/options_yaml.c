/* Job files. Only mappings and plain values: nested names are joined by dots. */
#include "base/options.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MOST_ROWS = 256 };

typedef struct reading {
    const td_option *rows;
    void *config;
    unsigned where;
    const char *path;
    char name[256];       /* of the mapping under way, dots behind */
    bool seen[MOST_ROWS]; /* rows that have got a value */
} reading;

/* A name that options begin with, dot behind, or NULL. */
static const char *in_group(const reading *r, const char *group, size_t length)
{
    for (const td_option *o = r->rows; o->name; o++)
        if ((o->where & r->where) && !strncmp(o->name, group, length) && o->name[length] == '.')
            return o->name;
    return NULL;
}

static td_status unknown(const reading *r, const char *name, size_t line)
{
    const char *names[MOST_ROWS], *near = NULL, *within = in_group(r, name, strlen(name));
    size_t n = 0;
    for (const td_option *o = r->rows; o->name && n < MOST_ROWS - 1; o++) {
        if (!(o->where & r->where)) {
            if (strcmp(o->name, name) != 0) continue;
            return td_fail(TD_ERR_ARG,
                           "%s:%zu: unknown option \"%s\" in a job file; give it as --%s", r->path,
                           line, name, o->flag ? o->flag : name);
        }
        names[n++] = o->name;
        if (o->flag && !strcmp(o->flag, name)) near = o->name;
    }
    names[n] = NULL;
    if (within && !near)
        return td_fail(TD_ERR_ARG,
                       "%s:%zu: unknown option \"%s\"; there are options in it, such as %s",
                       r->path, line, name, within);
    if (!near) near = td_nearest(name, names);
    return td_fail(TD_ERR_ARG, "%s:%zu: unknown option \"%s\"%s%s%s", r->path, line, name,
                   near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

static td_status set_value(reading *r, const char *key, const char *value, size_t line)
{
    char name[400], what[600];
    snprintf(name, sizeof name, "%s%s", r->name, key);
    const td_option *row = td_option_by_name(r->rows, name);
    if (!row || !(row->where & r->where)) { /* "optimizer: sgd" stands for optimizer.name */
        char longer[420];
        snprintf(longer, sizeof longer, "%s.name", name);
        const td_option *named = td_option_by_name(r->rows, longer);
        row = named && (named->where & r->where) ? named : NULL;
    }
    if (!row && !*value && in_group(r, name, strlen(name))) return TD_OK; /* nothing in it */
    if (!row) return unknown(r, name, line);
    size_t number = (size_t)(row - r->rows);
    if (number < MOST_ROWS && r->seen[number])
        return td_fail(TD_ERR_ARG, "%s:%zu: \"%s\" is there twice", r->path, line, row->name);
    if (number < MOST_ROWS) r->seen[number] = true;
    snprintf(what, sizeof what, "%s:%zu: %s", r->path, line, name);
    return td_option_set(row, r->config, what, value);
}

/* Whether options begin with the name of the mapping under way. Others are not gone into, so a
 * mapping that holds itself ends here. */
static bool is_group(const reading *r)
{
    return in_group(r, r->name, strlen(r->name) - 1) != NULL;
}

static td_status unknown_group(const reading *r, yaml_document_t *doc, const yaml_node_t *map,
                               size_t line)
{
    char name[400];
    const yaml_node_pair_t *p = map->data.mapping.pairs.start;
    const yaml_node_t *key =
        p < map->data.mapping.pairs.top ? yaml_document_get_node(doc, p->key) : NULL;
    int group = (int)strlen(r->name) - 1; /* less its dot */
    if (key && key->type == YAML_SCALAR_NODE)
        snprintf(name, sizeof name, "%s%.100s", r->name, (const char *)key->data.scalar.value);
    else
        snprintf(name, sizeof name, "%.*s", group, r->name);
    return unknown(r, name, line);
}

static bool same_scalar(const yaml_node_t *a, const yaml_node_t *b)
{
    return a->type == YAML_SCALAR_NODE && a->data.scalar.length == b->data.scalar.length &&
           !memcmp(a->data.scalar.value, b->data.scalar.value, b->data.scalar.length);
}

static td_status read_mapping(reading *r, yaml_document_t *doc, yaml_node_t *map)
{
    size_t base = strlen(r->name);
    for (yaml_node_pair_t *p = map->data.mapping.pairs.start; p < map->data.mapping.pairs.top;
         p++) {
        yaml_node_t *key = yaml_document_get_node(doc, p->key);
        yaml_node_t *value = yaml_document_get_node(doc, p->value);
        size_t line = key->start_mark.line + 1;
        if (key->type != YAML_SCALAR_NODE || base + key->data.scalar.length + 2 > sizeof r->name)
            return td_fail(TD_ERR_ARG, "%s:%zu: a plain name was expected", r->path, line);
        const char *name = (const char *)key->data.scalar.value;
        for (yaml_node_pair_t *q = map->data.mapping.pairs.start; q < p; q++)
            if (same_scalar(yaml_document_get_node(doc, q->key), key))
                return td_fail(TD_ERR_ARG, "%s:%zu: \"%s\" is there twice", r->path, line, name);
        if (value->type == YAML_SCALAR_NODE) {
            if (strlen((const char *)value->data.scalar.value) != value->data.scalar.length)
                return td_fail(TD_ERR_ARG, "%s:%zu: \"%s\" holds a zero byte", r->path, line, name);
            TD_TRY(set_value(r, name, (const char *)value->data.scalar.value, line));
        } else if (value->type == YAML_MAPPING_NODE) {
            snprintf(r->name + base, sizeof r->name - base, "%s.", name);
            if (!is_group(r)) return unknown_group(r, doc, value, line);
            TD_TRY(read_mapping(r, doc, value));
            r->name[base] = 0;
        } else {
            return td_fail(TD_ERR_ARG, "%s:%zu: \"%s\" must be a plain value", r->path, line, name);
        }
    }
    return TD_OK;
}

td_status td_options_read_yaml(const td_option *rows, void *config, unsigned where,
                               const char *path, const char *text, size_t size)
{
    yaml_parser_t parser;
    yaml_document_t doc;
    if (!yaml_parser_initialize(&parser))
        return td_fail(TD_ERR_NOMEM, "no memory to read %s", path);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, size);
    td_status status = TD_OK;
    if (!yaml_parser_load(&parser, &doc)) {
        status = td_fail(TD_ERR_ARG, "%s:%zu: not YAML: %s", path, parser.problem_mark.line + 1,
                         parser.problem ? parser.problem : "it cannot be read");
        yaml_parser_delete(&parser);
        return status;
    }
    yaml_node_t *root = yaml_document_get_root_node(&doc);
    reading r = {.rows = rows, .config = config, .where = where, .path = path};
    if (root && root->type != YAML_MAPPING_NODE)
        status = td_fail(TD_ERR_ARG, "%s:1: a job file is a list of \"name: value\" lines", path);
    else if (root)
        status = read_mapping(&r, &doc, root);
    yaml_document_delete(&doc);
    if (status == TD_OK && yaml_parser_load(&parser, &doc)) {
        root = yaml_document_get_root_node(&doc);
        if (root)
            status =
                td_fail(TD_ERR_ARG, "%s:%zu: a job file holds one document, here begins a second",
                        path, root->start_mark.line + 1);
        yaml_document_delete(&doc);
    }
    yaml_parser_delete(&parser);
    return status;
}

/* Single-quoted YAML needs only its quotes doubled, but folds line ends. */
static void quote(FILE *to, const char *text)
{
    bool plain = true;
    for (const char *c = text; *c; c++) plain = plain && (unsigned char)*c >= ' ';
    if (!plain) {
        fputc('"', to);
        for (; *text; text++) {
            if ((unsigned char)*text < ' ')
                fprintf(to, "\\x%02x", (unsigned)*text);
            else
                fprintf(to, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
        }
        fputc('"', to);
        return;
    }
    fputc('\'', to);
    for (; *text; text++) {
        if (*text == '\'') fputc('\'', to);
        fputc(*text, to);
    }
    fputc('\'', to);
}

static bool is_written(const td_option *row, const void *config, unsigned where)
{
    bool none = row->type == TD_OPT_TEXT && !*(char *const *)((const char *)config + row->offset);
    return row->where & where && !none;
}

static void write_row(FILE *to, const td_option *row, const void *config, size_t group)
{
    char value[4096];
    td_option_text(row, config, value, sizeof value);
    fprintf(to, "%s%s: ", group ? "  " : "", row->name + group);
    if (row->type == TD_OPT_TEXT)
        quote(to, value);
    else
        fputs(value, to);
    fputc('\n', to);
}

/* Bytes of a name up to its dot, with that; 0: it is in no group. */
static size_t group_of(const td_option *row)
{
    const char *dot = strchr(row->name, '.');
    return dot ? (size_t)(dot - row->name) + 1 : 0;
}

/* The group's rows, which may lie apart, where its first one is met. */
static void write_group(FILE *to, const td_option *rows, const td_option *row, const void *config,
                        unsigned where)
{
    size_t group = group_of(row);
    for (const td_option *r = rows; r < row; r++)
        if (is_written(r, config, where) && !strncmp(r->name, row->name, group)) return;
    fprintf(to, "%.*s:\n", (int)group - 1, row->name);
    for (const td_option *r = row; r->name; r++)
        if (is_written(r, config, where) && !strncmp(r->name, row->name, group))
            write_row(to, r, config, group);
}

td_status td_options_write_yaml(const td_option *rows, const void *config, unsigned where,
                                char **out)
{
    char *text = NULL;
    size_t size;
    FILE *to = open_memstream(&text, &size);
    if (!to) return td_fail(TD_ERR_NOMEM, "no memory for a job file");
    for (const td_option *row = rows; row->name; row++) {
        if (!is_written(row, config, where)) continue;
        if (group_of(row))
            write_group(to, rows, row, config, where);
        else
            write_row(to, row, config, 0);
    }
    fclose(to);
    *out = td_strdup(text ? text : "");
    free(text);
    return *out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a job file");
}
