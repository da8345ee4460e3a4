/* See json.h. json_dumps of jansson 2.14 leaves keys out when its buffer cannot grow, and says
 * nothing; here the buffer is ours and remembers. */
#include "ckpt/json.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdbool.h>
#include <string.h>

typedef struct text {
    char *bytes; /* [room] */
    size_t used, room;
    bool failed;
} text;

static int append(const char *bytes, size_t size, void *arg)
{
    text *t = arg;
    if (t->failed) return -1;
    if (t->used + size + 1 > t->room) {
        size_t room = 2 * t->room + size + 256;
        char *larger = td_realloc(t->bytes, room);
        if (!larger) {
            t->failed = true;
            return -1;
        }
        t->bytes = larger;
        t->room = room;
    }
    memcpy(t->bytes + t->used, bytes, size);
    t->used += size;
    return 0;
}

td_status td_json_text(const json_t *json, size_t flags, char **out)
{
    text t = {0};
    if (!json || json_dump_callback(json, append, &t, flags) != 0 || t.failed || !t.bytes) {
        td_free(t.bytes);
        return td_fail(TD_ERR_NOMEM, "no memory to write JSON");
    }
    t.bytes[t.used] = 0;
    *out = t.bytes;
    return TD_OK;
}
