/* gzip files: several members behind each other are one stream; zeros behind the last are padding.
 *
 * Invariant: memory grows with what was really inflated, never with what a file says of itself, so
 * a small file cannot ask for a large buffer. */
#include "data/readers/reader.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { SLICE = 1 << 20, GZ_WINDOW = 15 + 16 };

bool td_is_gz(const unsigned char *data, size_t size)
{
    return size >= 2 && data[0] == 0x1f && data[1] == 0x8b;
}

static voidpf zlib_alloc(voidpf opaque, uInt items, uInt size)
{
    (void)opaque;
    return td_calloc(items, size);
}

static void zlib_free(voidpf opaque, voidpf memory)
{
    (void)opaque;
    td_free(memory);
}

td_status td_stream_open(td_stream *stream, td_source source)
{
    *stream = (td_stream){.source = source, .gz = td_is_gz(source.data, source.size)};
    if (!stream->gz) return TD_OK;
    stream->z.zalloc = zlib_alloc;
    stream->z.zfree = zlib_free;
    if (inflateInit2(&stream->z, GZ_WINDOW) != Z_OK)
        return td_fail(TD_ERR_NOMEM, "%s: no memory to inflate", source.name);
    return TD_OK;
}

void td_stream_close(td_stream *stream)
{
    if (stream->gz) inflateEnd(&stream->z);
    stream->gz = false;
}

/* Lets go of the file's pages that have been read: they would count as ours. */
static void drop_pages(td_stream *stream)
{
    size_t whole = stream->at & ~(size_t)(SLICE - 1);
    if (!stream->source.mapped || whole <= stream->dropped) return;
    td_map_let_go(stream->source.data + stream->dropped, whole - stream->dropped);
    stream->dropped = whole;
}

/* Behind a member: another one, padding, or dirt. */
static td_status next_member(td_stream *stream)
{
    const td_source *source = &stream->source;
    if (td_is_gz(source->data + stream->at, source->size - stream->at)) {
        inflateReset2(&stream->z, GZ_WINDOW);
        return TD_OK;
    }
    for (size_t i = stream->at; i < source->size; i++)
        if (source->data[i] != 0)
            return td_fail(TD_ERR_DATA, "%s: %zu bytes behind the end of the gzip data (byte %zu)",
                           source->name, source->size - stream->at, stream->at);
    stream->ended = true;
    return TD_OK;
}

static td_status inflate_some(td_stream *stream)
{
    const td_source *source = &stream->source;
    size_t left = source->size - stream->at;
    if (left == 0)
        return td_fail(TD_ERR_DATA, "%s: the gzip data is cut off after %zu bytes", source->name,
                       source->size);
    size_t offered = left < SLICE ? left : SLICE;
    stream->z.next_in = (Bytef *)(uintptr_t)(source->data + stream->at);
    stream->z.avail_in = (uInt)offered;
    int result = inflate(&stream->z, Z_NO_FLUSH);
    stream->at += offered - stream->z.avail_in;
    drop_pages(stream);
    if (result == Z_STREAM_END) return next_member(stream);
    if (result == Z_MEM_ERROR)
        return td_fail(TD_ERR_NOMEM, "%s: no memory to inflate", source->name);
    if (result != Z_OK && result != Z_BUF_ERROR)
        return td_fail(TD_ERR_DATA, "%s: the gzip data is damaged near byte %zu (%s)", source->name,
                       stream->at, stream->z.msg ? stream->z.msg : "inflate failed");
    return TD_OK;
}

td_status td_stream_read(td_stream *stream, void *to, size_t want, size_t *got)
{
    if (!stream->gz) {
        size_t left = stream->source.size - stream->at;
        *got = want < left ? want : left;
        if (*got) memcpy(to, stream->source.data + stream->at, *got);
        stream->at += *got;
        drop_pages(stream);
        return TD_OK;
    }
    size_t done = 0;
    while (done < want && !stream->ended) {
        size_t room = want - done < SLICE ? want - done : SLICE;
        stream->z.next_out = (Bytef *)to + done;
        stream->z.avail_out = (uInt)room;
        TD_TRY(inflate_some(stream));
        done += room - stream->z.avail_out;
    }
    *got = done;
    return TD_OK;
}

td_status td_source_inflate(td_source source, td_source *out, void **owned)
{
    *owned = NULL;
    *out = source;
    if (!td_is_gz(source.data, source.size)) return TD_OK;
    td_stream stream;
    TD_TRY(td_stream_open(&stream, source));
    /* Text usually shrinks to a quarter; one byte more tells a full buffer from the end. */
    size_t room = source.size < SIZE_MAX / 8 ? source.size * 4 + 4096 : source.size, size = 0, got;
    td_status status = TD_OK;
    char *bytes = td_malloc(room);
    for (;;) {
        if (!bytes) {
            status =
                td_fail(TD_ERR_NOMEM, "%s: no memory for %zu inflated bytes", source.name, room);
            goto out;
        }
        TD_GOTO(td_stream_read(&stream, bytes + size, room - size, &got));
        size += got;
        if (size < room) break;
        room += room / 2;
        char *larger = td_realloc(bytes, room);
        if (!larger) td_free(bytes);
        bytes = larger;
    }
    *out = (td_source){.name = source.name, .data = (unsigned char *)bytes, .size = size};
    *owned = bytes;
    bytes = NULL;
out:
    td_free(bytes);
    td_stream_close(&stream);
    return status;
}
