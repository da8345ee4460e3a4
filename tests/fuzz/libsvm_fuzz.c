/* libsvm from any bytes; the first chooses the index base and the kind of labels. */
#include "reader_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    td_data_config config = {.index_base = data[0] % 3 - 1,
                             .label_kind = (td_label_kind)(data[0] / 3 % 3)};
    fuzz_read(TD_FORMAT_LIBSVM, config,
              (td_source){.name = "fuzz", .data = data + 1, .size = size - 1}, (td_source){0});
    return 0;
}
