/* Asking a run for other numbers of ranks: RUN/resize is the request, RUN/resized the answer to
 * it. Both are written whole, and carry a token: an answer is to one request. */
#ifndef TD_TRAIN_RESIZE_H
#define TD_TRAIN_RESIZE_H

#include "base/fs.h"
#include "tandem/status.h"

#include <stdbool.h>
#include <stdint.h>

enum { TD_RESIZE_TEXT = 256 };

typedef struct td_resize {
    int ranks;                 /* in all; 0: not named */
    int servers, data_servers; /* ranks that only serve, that read; -1: not named */
    char token[64];            /* "": no request */
} td_resize;

/* The one who asks: writes the request, and fills its token. */
TD_MUST_CHECK td_status td_resize_ask(const char *run, td_resize *ask);
/* Whether the answer is there; then it is taken away. *done: the request was granted. */
TD_MUST_CHECK td_status td_resize_answered(const char *run, const td_resize *asked, bool *there,
                                           bool *done, char sentence[TD_RESIZE_TEXT]);
void td_resize_take_back(const char *run);

/* The run. */
bool td_resize_is_asked(const char *run); /* one question to the file system */
/* The same between steps: false, without a question, within a tenth of a second of the last one. */
bool td_resize_is_asked_anew(const char *run, int64_t *looked_at);
TD_MUST_CHECK td_status td_resize_read(const char *run, td_resize *out);
/* The request goes. */
TD_MUST_CHECK td_status td_resize_answer(const char *run, const td_resize *asked, bool done,
                                         const char *sentence);

#endif
