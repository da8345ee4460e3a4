/* See unique.h. */
#include "ps/unique.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdbool.h>
#include <string.h>

enum { AHEAD = 16 };

void td_unique_free(td_unique *b)
{
    td_free(b->keys), td_free(b->place), td_free(b->seats);
    *b = (td_unique){0};
}

static td_status room_for_keys(td_unique *b, size_t count)
{
    if (count <= b->keys_room) return TD_OK;
    uint64_t *keys = td_reallocarray(b->keys, count, sizeof *keys);
    if (keys) b->keys = keys;
    uint32_t *place = td_reallocarray(b->place, count, sizeof *place);
    if (place) b->place = place;
    if (!keys || !place) return td_fail(TD_ERR_NOMEM, "no memory for a batch of %zu keys", count);
    b->keys_room = count;
    return TD_OK;
}

static td_status make_room(td_unique *b, size_t count)
{
    size_t seats = 16;
    while (seats < 2 * count) seats *= 2;
    TD_TRY(room_for_keys(b, count));
    if (seats > b->seats_room) {
        uint32_t *more = td_reallocarray(b->seats, seats, sizeof *more);
        if (!more) return td_fail(TD_ERR_NOMEM, "no memory for a batch of %zu keys", count);
        b->seats = more, b->seats_room = seats;
    }
    memset(b->seats, 0xff, seats * sizeof *b->seats);
    return TD_OK;
}

td_status td_unique_copy(td_unique *b, const uint64_t *keys, size_t count)
{
    b->count = b->asked = 0;
    TD_TRY(room_for_keys(b, count));
    if (count) memcpy(b->keys, keys, count * sizeof *keys);
    b->count = count;
    return TD_OK;
}

/* Fibonacci hashing (Knuth, vol. 3, 6.4): the upper bits of a product. */
static size_t seat_of(uint64_t key, int bits)
{
    return (size_t)(((key ^ key >> 32) * 0x9e3779b97f4a7c15) >> (64 - bits));
}

static int seat_bits(size_t count)
{
    int bits = 4;
    while ((size_t)1 << bits < 2 * count) bits++;
    return bits;
}

td_status td_unique_fill(td_unique *b, const uint64_t *keys, size_t count)
{
    b->count = b->asked = 0;
    if (count > (size_t)1 << 31)
        return td_fail(TD_ERR_ARG, "a batch has at most 2^31 keys, not %zu", count);
    TD_TRY(make_room(b, count));
    int bits = seat_bits(count);
    size_t mask = ((size_t)1 << bits) - 1;
    for (size_t i = 0; i < count; i++) {
        if (i + AHEAD < count) __builtin_prefetch(&b->seats[seat_of(keys[i + AHEAD], bits)], 1);
        size_t at = seat_of(keys[i], bits);
        while (b->seats[at] != UINT32_MAX && b->keys[b->seats[at]] != keys[i]) at = (at + 1) & mask;
        if (b->seats[at] == UINT32_MAX) {
            b->seats[at] = (uint32_t)b->count;
            b->keys[b->count++] = keys[i];
        }
        b->place[i] = b->seats[at];
    }
    b->asked = count;
    return TD_OK;
}

static bool has(const td_unique *b, uint64_t key, int bits)
{
    size_t mask = ((size_t)1 << bits) - 1, at = seat_of(key, bits);
    while (b->seats[at] != UINT32_MAX && b->keys[b->seats[at]] != key) at = (at + 1) & mask;
    return b->seats[at] != UINT32_MAX;
}

size_t td_unique_split(const td_unique *before, const td_unique *b, uint32_t *place)
{
    size_t apart = 0, behind = b->count;
    int bits = seat_bits(before->asked);
    for (size_t k = 0; k < b->count; k++) {
        if (before->asked && k + AHEAD < b->count)
            __builtin_prefetch(&before->seats[seat_of(b->keys[k + AHEAD], bits)]);
        if (before->asked && has(before, b->keys[k], bits))
            place[--behind] = (uint32_t)k;
        else
            place[apart++] = (uint32_t)k;
    }
    return apart;
}

void td_unique_spread(const td_unique *b, size_t width, const float *rows, float *out)
{
    for (size_t i = 0; i < b->asked; i++)
        memcpy(out + i * width, rows + b->place[i] * width, width * sizeof *out);
}

/* Keys first appear in order: the next new place is where a row begins. */
void td_unique_gather(const td_unique *b, size_t width, const float *values, float *rows)
{
    size_t begun = 0;
    for (size_t i = 0; i < b->asked; i++) {
        float *row = rows + b->place[i] * width;
        if (b->place[i] == begun) {
            memcpy(row, values + i * width, width * sizeof *row);
            begun++;
        } else {
            for (size_t k = 0; k < width; k++) row[k] += values[i * width + k];
        }
    }
}
