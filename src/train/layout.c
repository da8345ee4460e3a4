/* See layout.h. */
#include "train/layout.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

enum { LEAST_BYTES = 256 << 10 }; /* of a file: smaller ones cost more than they spread */

size_t td_slot_rows(const td_slot *slot)
{
    size_t rows = slot->rank > 0 ? slot->shape[0] : 0;
    return rows && slot->count % rows == 0 ? rows : 1;
}

void td_layout_name(const td_array *a, const td_slot *slot, char name[TD_LAYOUT_NAME])
{
    snprintf(name, TD_LAYOUT_NAME, "%.40s%s%.63s", a->prefix, *a->prefix ? "/" : "", slot->name);
}

void td_layout_make(const td_oracle *oracle, int leaves, td_layout *l)
{
    l->slots = oracle->slots, l->slot_count = oracle->slot_count, l->params = oracle->params;
    size_t most = leaves < TD_LAYOUT_FILES ? (size_t)leaves : TD_LAYOUT_FILES;
    size_t files = (size_t)l->arrays * l->params * sizeof(float) / LEAST_BYTES;
    l->files = files > most ? most : files;
    if (l->files == 0) l->files = 1;
}

size_t td_layout_cut(const td_layout *l, size_t file)
{
    size_t all = (size_t)l->arrays * l->params, low = 0, high = l->slot_count;
    size_t at = all / l->files * file + all % l->files * file / l->files;
    if (file == 0 || file == l->files || l->slot_count == 0) return file ? all : 0;
    size_t in_array = at % l->params;
    while (high - low > 1) { /* the last slot that begins at or before it */
        size_t middle = (low + high) / 2;
        if (l->slots[middle].offset <= in_array)
            low = middle;
        else
            high = middle;
    }
    const td_slot *s = &l->slots[low];
    if (in_array < s->offset || in_array >= s->offset + s->count) return at; /* between two */
    return at - (in_array - s->offset) % (s->count / td_slot_rows(s));
}

td_status td_layout_copy(const td_layout *l, td_comm *comm, size_t begin, size_t end, float *out)
{
    for (int a = 0; a < l->arrays; a++) {
        size_t first = (size_t)a * l->params, last = first + l->params;
        size_t lo = begin > first ? begin : first, hi = end < last ? end : last;
        if (lo > hi) lo = hi = first;
        float *to = lo < hi ? out + (lo - begin) : out;
        if (!l->array[a].data)
            TD_TRY(
                td_shards_gather(l->shards, comm, l->array[a].state, lo - first, hi - first, to));
        else if (lo < hi)
            memcpy(to, l->array[a].data + (lo - first), (hi - lo) * sizeof *out);
    }
    return TD_OK;
}

/* The part of a slot that lies in floats [begin, end) of all arrays; false when none does. */
static bool part_of(const td_layout *l, int a, const td_slot *s, size_t begin, size_t end,
                    const float *copy, td_tensor *t, char name[TD_LAYOUT_NAME])
{
    size_t first = (size_t)a * l->params + s->offset, last = first + s->count;
    size_t lo = begin > first ? begin : first, hi = end < last ? end : last;
    if (lo >= hi && !(s->count == 0 && first >= begin && first < end)) return false;
    td_layout_name(&l->array[a], s, name);
    *t = (td_tensor){.name = name, .rank = s->rank, .data = copy + (lo - begin)};
    memcpy(t->shape, s->shape, sizeof s->shape);
    t->count = s->count ? hi - lo : 0;
    if (t->count == s->count) return true;
    size_t width = s->count / td_slot_rows(s), n = strlen(name);
    snprintf(name + n, TD_LAYOUT_NAME - n, "[%zu:%zu]", (lo - first) / width, (hi - first) / width);
    t->shape[0] = (hi - lo) / width;
    return true;
}

td_status td_layout_write(const td_layout *l, size_t file, const float *copy, const char *path,
                          td_bundle_file *out)
{
    size_t begin = td_layout_cut(l, file), end = td_layout_cut(l, file + 1), n = 0;
    size_t room = (size_t)l->arrays * l->slot_count;
    td_tensor *tensors = td_calloc(room, sizeof *tensors);
    char(*names)[TD_LAYOUT_NAME] = td_calloc(room, TD_LAYOUT_NAME);
    td_status status = TD_OK;
    if (!tensors || !names) {
        status = td_fail(TD_ERR_NOMEM, "no memory to write %s", path);
        goto out;
    }
    for (int a = 0; a < l->arrays; a++)
        for (size_t s = 0; s < l->slot_count; s++)
            if (part_of(l, a, &l->slots[s], begin, end, copy, &tensors[n], names[n])) n++;
    status = td_safetensors_write(path, tensors, n, &out->hash, &out->bytes);
out:
    td_free(names);
    td_free(tensors);
    return status;
}
