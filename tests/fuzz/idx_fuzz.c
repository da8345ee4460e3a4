/* IDX, plain or gzip: the first byte is the length of the labels that follow, the rest are the
 * images. */
#include "reader_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size - 1 < data[0]) return 0;
    td_source label = {.name = "labels", .data = data + 1, .size = data[0]};
    td_source images = {.name = "images", .data = data + 1 + data[0], .size = size - 1 - data[0]};
    if (label.size == 0) label.name = NULL;
    fuzz_read(TD_FORMAT_IDX, (td_data_config){0}, images, label);
    return 0;
}
