/* Which files a path means, and in which format they are. */
#ifndef TD_DATA_LOCATE_H
#define TD_DATA_LOCATE_H

#include "data/readers/reader.h"

typedef struct td_location {
    const td_reader *reader; /* NULL: the name does not tell */
    char main[TD_PATH_MAX];
    char label[TD_PATH_MAX];  /* "" when there is none */
    char weight[TD_PATH_MAX]; /* side files: "" when there is none */
    char group[TD_PATH_MAX];
} td_location;

/* TD_ERR_DATA naming the files looked for, TD_ERR_IO, TD_ERR_ARG. */
TD_MUST_CHECK td_status td_locate(const td_data_config *config, td_location *out);

#endif
