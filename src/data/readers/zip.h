/* The members of a zip file (npz): stored or deflated, checked by their CRC. */
#ifndef TD_DATA_READERS_ZIP_H
#define TD_DATA_READERS_ZIP_H

#include "data/readers/reader.h"

bool td_is_zip(const unsigned char *data, size_t size);

/* The member called `name`: *found tells whether it is there. Its bytes are a part of the zip's
 * span, or *owned (td_free) where they were deflated. Named `name` in *out: borrowed. */
TD_MUST_CHECK td_status td_zip_find(td_source zip, const char *name, bool *found, td_source *out,
                                    void **owned);

/* The members' names with ", " between, as far as they fit; for error sentences. */
void td_zip_names(td_source zip, char *text, size_t room);

#endif
