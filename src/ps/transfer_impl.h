/* What the formats of transfer.h share. */
#ifndef TD_PS_TRANSFER_IMPL_H
#define TD_PS_TRANSFER_IMPL_H

#include "ps/rule.h"
#include "ps/transfer.h"

/* The columns of a table's file: weights, then the rule's states. */
enum { TD_TRANSFER_COLUMNS = 4, TD_TRANSFER_NAME = 64 };
typedef struct td_columns {
    size_t count, width;
    char name[TD_TRANSFER_COLUMNS][TD_TRANSFER_NAME];
} td_columns;
void td_columns_of(const td_table_config *config, bool states, td_columns *out);

/* A row on its way into a table. */
typedef struct td_intake {
    td_table *table;
    const char *path;
    td_transfer_want want;
    td_columns columns;
    float *row; /* [td_table_row_floats] */
    td_transfer_taken taken;
} td_intake;
TD_MUST_CHECK td_status td_intake_put(td_intake *intake, uint64_t key);
/* Whether the file may say that its rows mean this; NULL: it does not say. TD_ERR_DATA. */
TD_MUST_CHECK td_status td_intake_means(const td_intake *intake, const char *meaning);
/* Whether a file of weights alone will do. TD_ERR_DATA. */
TD_MUST_CHECK td_status td_intake_lacks_states(const td_intake *intake);

typedef struct td_format {
    const char *ending;
    td_status (*write)(const td_transfer_rows *rows, const char *path, const char *meaning);
    td_status (*read)(td_intake *intake);
} td_format;
extern const td_format td_format_safetensors, td_format_tsv;

#endif
