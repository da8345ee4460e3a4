/* Tandem: statuses. Every call that can fail returns one, and none may be ignored.
 *
 * The first function to decide an error writes one sentence that says what was wrong, where, and
 * what would be right; callers only pass the status on. The sentence belongs to the thread that
 * failed and is read with td_last_error. */
#ifndef TANDEM_STATUS_H
#define TANDEM_STATUS_H

#if defined(__GNUC__)
#define TD_API __attribute__((visibility("default")))
#define TD_MUST_CHECK __attribute__((warn_unused_result))
#define TD_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#else
#define TD_API
#define TD_MUST_CHECK
#define TD_PRINTF(fmt, first)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum td_status {
    TD_OK = 0,
    TD_ERR_ARG,         /* an argument or option is wrong: the sentence names it */
    TD_ERR_DATA,        /* an input file is wrong: the sentence names file and line or byte */
    TD_ERR_CORRUPT,     /* a file that Tandem wrote is torn or altered */
    TD_ERR_DIVERGED,    /* the loss is no longer a finite number */
    TD_ERR_IO,          /* the operating system refused to read or write */
    TD_ERR_NOMEM,       /* memory could not be had */
    TD_ERR_PEER,        /* another rank has died, left or failed: the sentence names it */
    TD_ERR_TIMEOUT,     /* a wait passed its deadline: the sentence names who is missing */
    TD_ERR_UNSUPPORTED, /* this build or machine cannot do it: the sentence says why */
    TD_ERR_INTERRUPTED, /* stopped on request, after its state was saved */
    TD_ERR_INTERNAL,    /* a bug in Tandem */
    TD_ERR_FULL /* a disk has no room for what is needed to go on: the sentence says which */
} td_status;

/* A static name such as "TD_ERR_ARG"; never NULL. */
TD_API const char *td_status_name(td_status status);

/* The sentence of the last failure on the calling thread, "" if there was none. Borrowed; valid
 * until the next failure on this thread. */
TD_API const char *td_last_error(void);

/* The exit status of the program for a status: 0, 2 for a user's mistake (argument, data,
 * corrupt file, divergence), 1 for a failure of the machine or of another rank. */
TD_API int td_exit_code(td_status status);

#ifdef __cplusplus
}
#endif
#endif
