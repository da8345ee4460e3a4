/* Any bytes as a data file of one format (-DFORMAT): an answer or a sentence, never a crash. */
#include "tandem/data.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static int fd = -1;
    static char path[64];
    if (fd < 0) {
        fd = memfd_create("input", 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size) return 0;
    td_data_config config = {.path = path, .format = FORMAT, .threads = 1};
    td_dataset *data;
    if (td_dataset_open(&config, &data) != TD_OK) return 0;
    const td_data_info *info = td_dataset_info(data);
    float *row = malloc((info->features + 1) * sizeof *row);
    for (uint64_t i = 0; row && i < info->samples && i < 8; i++) {
        td_dataset_row(data, i, row);
        if (info->classes && td_dataset_label(data, i) >= info->classes) abort();
    }
    free(row);
    td_dataset_close(data);
    return 0;
}
