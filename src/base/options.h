/* Options: rows that drive flags, job files, help, completion and the manual page alike.
 *
 * A row names a field of a config struct. Values come as text, from a flag ("--lr 0.05"), from
 * "--set optimizer.lr=0.05" or from a job file's "optimizer: {lr: 0.05}". */
#ifndef TD_BASE_OPTIONS_H
#define TD_BASE_OPTIONS_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum td_option_type {
    TD_OPT_BOOL,   /* bool; the flag alone means true */
    TD_OPT_INT,    /* int */
    TD_OPT_SIZE,   /* uint64_t */
    TD_OPT_NUMBER, /* double */
    TD_OPT_PERIOD, /* td_period */
    TD_OPT_TEXT,   /* char *, owned */
    TD_OPT_CHOICE  /* int: index into choices */
} td_option_type;

/* "100" (steps), or "30s", "5m", "1h". */
typedef struct td_period {
    uint64_t steps, seconds; /* one of them, or neither */
} td_period;

typedef struct td_option {
    const char *name; /* in job files: "optimizer.lr" */
    const char *flag; /* "lr"; NULL: the name */
    td_option_type type;
    size_t offset;
    const char *initial;        /* NULL: zero, no text */
    const char *value;          /* what help calls it: "RATE" */
    const char *help;           /* one line */
    double least, most;         /* of numbers; both 0: any */
    const char *const *choices; /* NULL at the end; of a text: what it may be */
    unsigned where;             /* bits of the caller's: which commands have it, job file or not */
    const char *number;         /* what a number given for one of the choices was perhaps meant for,
                                   as the end of a sentence; NULL: nothing */
} td_option;

/* Tables end with a row without name. */

TD_MUST_CHECK td_status td_options_init(const td_option *rows, void *config);
void td_options_fini(const td_option *rows, void *config);

/* Sets one option from text. `what` names it in messages ("--lr", "job.yaml:3: optimizer.lr"). */
TD_MUST_CHECK td_status td_option_set(const td_option *row, void *config, const char *what,
                                      const char *text);
const td_option *td_option_by_name(const td_option *rows, const char *name);

/* Reads flags of the rows with one of the bits `where`: "--lr 0.05", "--lr=0.05", "--no-flip",
 * "--set optimizer.lr=0.05". What is not a flag goes to rest[0..*rest_count), at most rest_room.
 * Unknown flags are refused with the nearest known one. given (or NULL): [rows], set where an
 * option was given. */
typedef struct td_arguments {
    unsigned where;
    const char **rest;
    int rest_room, rest_count;
    bool *given;
} td_arguments;
TD_MUST_CHECK td_status td_options_parse(const td_option *rows, void *config, int argc, char **argv,
                                         td_arguments *arguments);

/* A job file (YAML: a mapping of names, nested or dotted). Only rows with a bit of `where`. */
TD_MUST_CHECK td_status td_options_read_yaml(const td_option *rows, void *config, unsigned where,
                                             const char *path, const char *text, size_t size);
/* The options as a job file, in new memory (td_free). */
TD_MUST_CHECK td_status td_options_write_yaml(const td_option *rows, const void *config,
                                              unsigned where, char **out);

/* Help lines of the rows with a bit of `where`. */
void td_options_print(const td_option *rows, unsigned where, FILE *to);
/* The value of a row as text, for printing. */
void td_option_text(const td_option *row, const void *config, char *text, size_t room);

/* The candidate (NULL at the end of the list) nearest to `word`, or NULL when none is near. */
const char *td_nearest(const char *word, const char *const *candidates);

#endif
