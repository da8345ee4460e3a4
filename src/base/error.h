/* How errors are decided and passed on inside the library. See include/tandem/status.h. */
#ifndef TD_BASE_ERROR_H
#define TD_BASE_ERROR_H

#include "tandem/status.h"

/* Records the sentence for this thread and returns `status`. Longer sentences are cut at 1,023
 * bytes. Use in the form `return td_fail(TD_ERR_DATA, "%s:%zu: ...", path, line);`. */
td_status td_fail(td_status status, const char *format, ...) TD_PRINTF(2, 3);

/* As td_fail with TD_ERR_IO, adding what errno says. */
td_status td_fail_errno(const char *format, ...) TD_PRINTF(1, 2);

/* Puts `sentence` in place of this thread's (carries an error from one thread to another). */
td_status td_fail_again(td_status status, const char *sentence);

/* Puts text in front of the sentence of the failure just returned. */
td_status td_fail_within(td_status status, const char *format, ...) TD_PRINTF(2, 3);

void td_error_clear(void);

/* Passes a failure on; for functions that own nothing yet. */
#define TD_TRY(call)                                                                               \
    do {                                                                                           \
        td_status td_try_status_ = (call);                                                         \
        if (td_try_status_ != TD_OK) return td_try_status_;                                        \
    } while (0)

/* Passes a failure on through the function's single exit label `out`, with `status` declared. */
#define TD_GOTO(call)                                                                              \
    do {                                                                                           \
        status = (call);                                                                           \
        if (status != TD_OK) goto out;                                                             \
    } while (0)

#endif
