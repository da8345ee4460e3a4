/* CSV and TSV from any bytes; the first chooses options. */
#include "reader_fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    static const char *const label[] = {NULL, "-1", "none", "1"};
    static const char *const missing[] = {NULL, "-1,x"};
    td_data_config config = {.label = label[data[0] & 3],
                             .header = (data[0] >> 2 & 3) % 3 - 1,
                             .one_hot = (data[0] & 80) == 16,
                             .hash_categories = (data[0] & 80) == 80,
                             .missing = missing[data[0] >> 5 & 1],
                             .categorical = data[0] & 64 ? "1" : NULL};
    fuzz_read(data[0] & 128 ? TD_FORMAT_TSV : TD_FORMAT_CSV, config,
              (td_source){.name = "fuzz", .data = data + 1, .size = size - 1}, (td_source){0});
    return 0;
}
