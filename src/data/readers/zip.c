/* See zip.h. Layout (PKWARE's APPNOTE), little-endian:
 *
 *     [local header 30 + name + extra][bytes] ...          members
 *     [central header 46 + name + extra + comment] ...     the directory
 *     [end record 22 + comment]                            where the directory is
 *
 * Every offset is checked against the span before it is followed. Not handled: encryption, more
 * than 2^32 bytes or 2^16 members (zip64 directories), several disks. */
#include "data/readers/zip.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

enum { LOCAL = 30, CENTRAL = 46, END = 22, COMMENT_MOST = 65535, DEFLATE_MOST = 1032 };

static uint32_t u16(const unsigned char *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

static uint32_t u32(const unsigned char *at)
{
    return u16(at) | u16(at + 2) << 16;
}

typedef struct member {
    const unsigned char *name;
    size_t name_length, packed, size, local;
    uint32_t method, flags, crc;
} member;

bool td_is_zip(const unsigned char *data, size_t size)
{
    return size >= 4 && data[0] == 'P' && data[1] == 'K' &&
           ((data[2] == 3 && data[3] == 4) || (data[2] == 5 && data[3] == 6));
}

/* Finds the directory: *at its first byte, *count its members. */
static td_status find_directory(td_source zip, size_t *at, uint32_t *count)
{
    if (zip.size >= END)
        for (size_t back = END; back <= END + COMMENT_MOST && back <= zip.size; back++) {
            const unsigned char *end = zip.data + zip.size - back;
            if (memcmp(end, "PK\5\6", 4) != 0) continue;
            *count = u16(end + 10);
            *at = u32(end + 16);
            if (*at > zip.size - back)
                return td_fail(TD_ERR_DATA, "%s: its zip directory at byte %zu lies outside of it",
                               zip.name, *at);
            return TD_OK;
        }
    return td_fail(TD_ERR_DATA, "%s is cut off: it has no zip directory at its end", zip.name);
}

static td_status next_member(td_source zip, size_t *at, member *out)
{
    const unsigned char *head = zip.data + *at;
    size_t left = zip.size - *at;
    if (left < CENTRAL || memcmp(head, "PK\1\2", 4) != 0)
        return td_fail(TD_ERR_DATA, "%s: its zip directory is damaged at byte %zu", zip.name, *at);
    size_t whole = CENTRAL + (size_t)u16(head + 28) + u16(head + 30) + u16(head + 32);
    if (left < whole)
        return td_fail(TD_ERR_DATA, "%s: its zip directory is cut off at byte %zu", zip.name, *at);
    *out = (member){
        .name = head + CENTRAL,
        .name_length = u16(head + 28),
        .packed = u32(head + 20),
        .size = u32(head + 24),
        .local = u32(head + 42),
        .method = u16(head + 10),
        .flags = u16(head + 8),
        .crc = u32(head + 16),
    };
    *at += whole;
    return TD_OK;
}

static voidpf zip_alloc(voidpf opaque, uInt items, uInt size)
{
    (void)opaque;
    return td_calloc(items, size);
}

static void zip_free(voidpf opaque, voidpf memory)
{
    (void)opaque;
    td_free(memory);
}

static td_status unpack(td_source zip, const member *m, const unsigned char *from, void **owned)
{
    if (m->size / DEFLATE_MOST > m->packed)
        return td_fail(TD_ERR_DATA, "%s: member %.*s claims an impossible size", zip.name,
                       (int)(m->name_length < 80 ? m->name_length : 80), (const char *)m->name);
    void *bytes = td_malloc(m->size);
    z_stream z = {.zalloc = zip_alloc, .zfree = zip_free};
    if (!bytes || inflateInit2(&z, -15) != Z_OK) {
        td_free(bytes);
        return td_fail(TD_ERR_NOMEM, "%s: no memory for %zu bytes", zip.name, m->size);
    }
    z.next_in = (Bytef *)(uintptr_t)from;
    z.avail_in = (uInt)m->packed;
    z.next_out = bytes;
    z.avail_out = (uInt)m->size;
    int result = inflate(&z, Z_FINISH);
    bool good = result == Z_STREAM_END && z.avail_out == 0;
    inflateEnd(&z);
    if (!good) {
        td_free(bytes);
        if (result == Z_MEM_ERROR)
            return td_fail(TD_ERR_NOMEM, "%s: no memory to inflate", zip.name);
        return td_fail(TD_ERR_DATA, "%s: member %.*s is damaged", zip.name,
                       (int)(m->name_length < 80 ? m->name_length : 80), (const char *)m->name);
    }
    *owned = bytes;
    return TD_OK;
}

static td_status open_member(td_source zip, const member *m, const char *name, td_source *out,
                             void **owned)
{
    size_t at = m->local;
    if (m->size == UINT32_MAX || m->packed == UINT32_MAX || m->local == UINT32_MAX)
        return td_fail(TD_ERR_DATA, "%s: member %s has 4 GiB or more; save it as .npy", zip.name,
                       name);
    if (m->flags & 1 || (m->method != 0 && m->method != 8))
        return td_fail(TD_ERR_DATA,
                       "%s: member %s is encrypted or packed by method %u; only stored "
                       "and deflated ones can be read",
                       zip.name, name, m->method);
    if (at > zip.size || zip.size - at < LOCAL || memcmp(zip.data + at, "PK\3\4", 4) != 0)
        return td_fail(TD_ERR_DATA, "%s: no member at byte %zu, where %s should be", zip.name, at,
                       name);
    size_t head = LOCAL + (size_t)u16(zip.data + at + 26) + u16(zip.data + at + 28);
    if (zip.size - at < head || zip.size - at - head < m->packed)
        return td_fail(TD_ERR_DATA, "%s: member %s is cut off", zip.name, name);
    *out = (td_source){.name = name, .data = zip.data + at + head, .size = m->size};
    if (m->method == 8) {
        TD_TRY(unpack(zip, m, out->data, owned));
        out->data = *owned;
    } else if (m->size != m->packed) {
        return td_fail(TD_ERR_DATA, "%s: member %s has two sizes", zip.name, name);
    }
    if (crc32_z(0, out->data, out->size) == m->crc) return TD_OK;
    td_free(*owned);
    *owned = NULL;
    return td_fail(TD_ERR_DATA, "%s: member %s is damaged: its checksum differs", zip.name, name);
}

td_status td_zip_find(td_source zip, const char *name, bool *found, td_source *out, void **owned)
{
    size_t at = 0, length = strlen(name);
    uint32_t count = 0;
    *found = false;
    *owned = NULL;
    TD_TRY(find_directory(zip, &at, &count));
    for (uint32_t i = 0; i < count; i++) {
        member m = {0};
        TD_TRY(next_member(zip, &at, &m));
        if (m.name_length != length || memcmp(m.name, name, length) != 0) continue;
        TD_TRY(open_member(zip, &m, name, out, owned));
        *found = true;
        return TD_OK;
    }
    return TD_OK;
}

void td_zip_names(td_source zip, char *text, size_t room)
{
    size_t at = 0, used = 0;
    uint32_t count = 0;
    member m = {0};
    *text = 0;
    if (find_directory(zip, &at, &count) != TD_OK) return;
    for (uint32_t i = 0; i < count && next_member(zip, &at, &m) == TD_OK; i++) {
        size_t shown = m.name_length < 60 ? m.name_length : 60;
        if (used + shown + 3 > room) return;
        used += (size_t)snprintf(text + used, room - used, "%s%.*s", i ? ", " : "", (int)shown,
                                 (const char *)m.name);
    }
}
