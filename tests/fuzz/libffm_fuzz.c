/* libffm from any bytes; the first chooses the index base, the kind of labels and whether there are
 * any. */
#include "reader_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    td_data_config config = {.index_base = data[0] % 3 - 1,
                             .label_kind = (td_label_kind)(data[0] / 3 % 3),
                             .no_labels = data[0] / 9 % 2};
    fuzz_read(TD_FORMAT_LIBFFM, config,
              (td_source){.name = "fuzz", .data = data + 1, .size = size - 1}, (td_source){0});
    return 0;
}
