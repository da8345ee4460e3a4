/* What the fuzz targets of readers share: options from the first byte, a walk over the result. */
#ifndef TD_TESTS_READER_FUZZ_H
#define TD_TESTS_READER_FUZZ_H

#include "base/pool.h"
#include "data/readers/reader.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads bytes as `format` and touches all of the samples. Reads them again as a test
 * set of what came out. */
static inline void fuzz_read(td_format format, td_data_config config, td_source main,
                             td_source label)
{
    static td_pool *pool;
    if (!pool && td_pool_create(1, &pool) != TD_OK) abort();
    td_dataset *data = NULL, *again = NULL;
    td_read_job job = {.config = &config, .pool = pool, .main = main, .label = label};
    if (td_reader_run(format, &job, &data) != TD_OK) {
        if (!*td_last_error()) abort(); /* every failure has a sentence */
        return;
    }
    const td_data_info *info = td_dataset_info(data);
    if (info->features < 1 << 16) {
        float *x = malloc(info->features * sizeof *x);
        if (!x) abort();
        for (uint64_t i = 0; i < info->samples && i < 1 << 16; i++) {
            td_dataset_row(data, i, x);
            int32_t class = td_dataset_label(data, i);
            if (class < -1 || (info->classes && class >= info->classes)) abort();
        }
        free(x);
    }
    for (int k = 0; info->class_names && k < info->classes; k++)
        if (!info->class_names[k]) abort();
    config.like = data;
    if (td_reader_run(format, &job, &again) != TD_OK) abort(); /* it fits itself */
    td_dataset_close(again);
    td_dataset_close(data);
}

#endif
