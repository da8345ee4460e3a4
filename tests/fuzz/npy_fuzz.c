/* npz, or npy without labels, from any bytes; the first chooses the split. */
#include "reader_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    td_data_config config = {.split = (td_split)(data[0] & 1),
                             .label = data[0] & 2 ? "none" : NULL};
    fuzz_read(TD_FORMAT_NPY, config,
              (td_source){.name = "fuzz", .data = data + 1, .size = size - 1}, (td_source){0});
    return 0;
}
