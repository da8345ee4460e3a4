/* See safetensors.h. The machine is little-endian. */
#include "ckpt/safetensors.h"

#include "base/alloc.h"
#include "base/error.h"
#include "ckpt/json.h"

#include <string.h>
#include <xxhash.h>

static size_t bytes_of_tensor(const td_tensor *t)
{
    return t->count * (t->keys ? sizeof *t->keys : sizeof *t->data);
}

static td_status make_header(const td_tensor *tensors, size_t n, char **out)
{
    json_t *root = json_object();
    size_t at = 0;
    int failed = !root;
    for (size_t i = 0; i < n && !failed; i++) {
        if (json_object_get(root, tensors[i].name)) {
            json_decref(root);
            return td_fail(TD_ERR_ARG, "two tensors are called %s", tensors[i].name);
        }
        size_t bytes = bytes_of_tensor(&tensors[i]);
        json_t *shape = json_array();
        for (int d = 0; d < tensors[i].rank; d++)
            failed |= json_array_append_new(shape, json_integer((json_int_t)tensors[i].shape[d]));
        json_t *row =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", tensors[i].keys ? "I64" : "F32", "shape",
                      shape, "data_offsets", (json_int_t)at, (json_int_t)(at + bytes));
        failed |= json_object_set_new(root, tensors[i].name, row);
        at += bytes;
    }
    char *text = NULL;
    td_status status = td_json_text(failed ? NULL : root, JSON_COMPACT, &text);
    json_decref(root);
    TD_TRY(status);
    size_t length = strlen(text), padded = (length + 7) & ~(size_t)7;
    char *header = td_malloc(padded + 1);
    if (header) {
        memcpy(header, text, length);
        memset(header + length, ' ', padded - length);
        header[padded] = 0;
    }
    td_free(text);
    if (!header) return td_fail(TD_ERR_NOMEM, "no memory for the header of %zu tensors", n);
    *out = header;
    return TD_OK;
}

static td_status put(td_writer *w, XXH64_state_t *hash, const void *bytes, size_t size)
{
    XXH64_update(hash, bytes, size);
    return td_writer_put(w, bytes, size);
}

td_status td_safetensors_write(const char *path, const td_tensor *tensors, size_t n,
                               uint64_t *out_hash, uint64_t *out_bytes)
{
    char *header = NULL;
    TD_TRY(make_header(tensors, n, &header));
    XXH64_state_t *hash = XXH64_createState();
    td_writer w = {.fd = -1};
    td_status status = TD_OK;
    if (!hash) {
        status = td_fail(TD_ERR_NOMEM, "no memory to write %s", path);
        goto out;
    }
    XXH64_reset(hash, 0);
    TD_GOTO(td_writer_open(&w, path));
    uint64_t length = strlen(header);
    TD_GOTO(put(&w, hash, &length, sizeof length));
    TD_GOTO(put(&w, hash, header, length));
    for (size_t i = 0; i < n; i++)
        TD_GOTO(put(&w, hash, tensors[i].keys ? (const void *)tensors[i].keys : tensors[i].data,
                    bytes_of_tensor(&tensors[i])));
    *out_bytes = w.written;
    status = td_writer_commit(&w);
    if (status == TD_OK) *out_hash = XXH64_digest(hash);
out:
    td_writer_abandon(&w);
    XXH64_freeState(hash);
    td_free(header);
    return status;
}

struct td_safetensors {
    char *name;
    td_mapping map; /* size 0 when the bytes are borrowed */
    const unsigned char *bytes;
    size_t size, data_at;
    json_t *header;
};

static td_status broken(const td_safetensors *f, const char *what)
{
    return td_fail(TD_ERR_CORRUPT, "%s is damaged: %s", f->name, what);
}

/* Where a tensor lies; false when the row does not say. */
static bool read_offsets(const json_t *row, json_int_t *begin, json_int_t *end)
{
    const json_t *at = json_object_get(row, "data_offsets");
    const json_t *first = json_array_get(at, 0), *second = json_array_get(at, 1);
    *begin = json_integer_value(first), *end = json_integer_value(second);
    return json_array_size(at) == 2 && json_is_integer(first) && json_is_integer(second);
}

/* Bytes of an element; 0: a type that is not read. */
static int bytes_of(const char *type)
{
    return !strcmp(type, "F32") ? 4 : !strcmp(type, "I64") || !strcmp(type, "U64") ? 8 : 0;
}

static td_status check_tensor(const td_safetensors *f, const char *name, const json_t *row)
{
    json_int_t begin, end, elements = 1;
    const char *type = json_string_value(json_object_get(row, "dtype"));
    const json_t *shape = json_object_get(row, "shape"), *extent;
    size_t i;
    if (!type || !json_is_array(shape) || !read_offsets(row, &begin, &end))
        return broken(f, "a tensor's description cannot be read");
    if (!bytes_of(type))
        return td_fail(TD_ERR_CORRUPT, "%s: tensor %s is of type %s, not F32, I64 or U64", f->name,
                       name, type);
    json_array_foreach(shape, i, extent)
    {
        json_int_t n = json_integer_value(extent);
        if (!json_is_integer(extent)) return broken(f, "a tensor's description cannot be read");
        if (n < 0 || (n && elements > (json_int_t)(f->size / (size_t)n)))
            return broken(f, "a tensor is larger than the file");
        elements *= n;
    }
    if (begin < 0 || end < begin || (uint64_t)end > f->size - f->data_at ||
        end - begin != elements * bytes_of(type))
        return td_fail(TD_ERR_CORRUPT, "%s is cut off or damaged: tensor %s reaches beyond it",
                       f->name, name);
    return TD_OK;
}

static td_status read_header(td_safetensors *f)
{
    uint64_t length;
    json_error_t error;
    if (f->size < 8) return broken(f, "it is shorter than its header");
    memcpy(&length, f->bytes, 8);
    if (length > f->size - 8) return broken(f, "it is shorter than its header");
    f->header = json_loadb((const char *)f->bytes + 8, length, JSON_REJECT_DUPLICATES, &error);
    if (!f->header)
        return td_fail(TD_ERR_CORRUPT, "%s is damaged: its header is not JSON: %s", f->name,
                       error.text);
    if (!json_is_object(f->header)) return broken(f, "its header is not a JSON object");
    f->data_at = 8 + length;
    const char *name;
    json_t *row;
    json_object_foreach(f->header, name, row) if (strcmp(name, "__metadata__") != 0)
        TD_TRY(check_tensor(f, name, row));
    return TD_OK;
}

static td_status open_bytes(const char *name, td_mapping map, const unsigned char *bytes,
                            size_t size, td_safetensors **out)
{
    td_safetensors *f = td_calloc(1, sizeof *f);
    td_status status = TD_ERR_NOMEM;
    if (!f) {
        td_unmap(&map);
        return td_fail(TD_ERR_NOMEM, "no memory to read %s", name);
    }
    f->map = map, f->bytes = bytes, f->size = size;
    f->name = td_strdup(name);
    status = f->name ? read_header(f) : td_fail(TD_ERR_NOMEM, "no memory to read %s", name);
    if (status == TD_OK)
        *out = f;
    else
        td_safetensors_close(f);
    return status;
}

td_status td_safetensors_open(const char *path, td_safetensors **out)
{
    td_mapping map;
    TD_TRY(td_map_file(path, &map));
    return open_bytes(path, map, map.data, map.size, out);
}

td_status td_safetensors_parse(const char *name, const unsigned char *bytes, size_t size,
                               td_safetensors **out)
{
    return open_bytes(name, (td_mapping){NULL, 0}, bytes, size, out);
}

void td_safetensors_close(td_safetensors *f)
{
    if (!f) return;
    json_decref(f->header);
    td_unmap(&f->map);
    td_free(f->name);
    td_free(f);
}

uint64_t td_mapping_hash(const td_mapping *map)
{
    enum { PIECE = 16 << 20 };
    XXH64_state_t *state = map->size > PIECE ? XXH64_createState() : NULL;
    if (!state) return XXH64(map->data, map->size, 0);
    XXH64_reset(state, 0);
    for (size_t at = 0; at < map->size; at += PIECE) {
        size_t n = map->size - at < PIECE ? map->size - at : PIECE;
        XXH64_update(state, map->data + at, n);
        td_map_let_go(map->data + at, n);
    }
    uint64_t hash = XXH64_digest(state);
    XXH64_freeState(state);
    return hash;
}

uint64_t td_safetensors_hash(const td_safetensors *f)
{
    return f->map.size ? td_mapping_hash(&f->map) : XXH64(f->bytes, f->size, 0);
}

uint64_t td_safetensors_bytes(const td_safetensors *f)
{
    return f->size;
}

bool td_safetensors_has(const td_safetensors *f, const char *name)
{
    return json_object_get(f->header, name) != NULL;
}

const char *td_safetensors_metadata(const td_safetensors *f, const char *name)
{
    return json_string_value(json_object_get(json_object_get(f->header, "__metadata__"), name));
}

const char *td_safetensors_next(const td_safetensors *f, void **at)
{
    *at = *at ? json_object_iter_next(f->header, *at) : json_object_iter(f->header);
    return *at ? json_object_iter_key(*at) : NULL;
}

static td_status find(const td_safetensors *f, const char *name, const json_t **row,
                      json_int_t *begin, json_int_t *end)
{
    *row = json_object_get(f->header, name);
    if (!*row || !read_offsets(*row, begin, end))
        return td_fail(TD_ERR_CORRUPT,
                       "%s has no tensor %s: it belongs to another architecture, or to data of "
                       "another shape",
                       f->name, name);
    return TD_OK;
}

td_status td_safetensors_read(const td_safetensors *f, const char *name, size_t count, float *out)
{
    json_int_t begin = 0, end = 0;
    const json_t *row = NULL;
    TD_TRY(find(f, name, &row, &begin, &end));
    const char *type = json_string_value(json_object_get(row, "dtype"));
    if (!type || strcmp(type, "F32") != 0)
        return td_fail(TD_ERR_CORRUPT, "%s: tensor %s is of type %s, not F32", f->name, name,
                       type ? type : "none");
    if ((uint64_t)(end - begin) != count * sizeof(float))
        return td_fail(TD_ERR_CORRUPT,
                       "%s: tensor %s has %lld elements where the architecture has "
                       "%zu",
                       f->name, name, (long long)(end - begin) / 4, count);
    memcpy(out, f->bytes + f->data_at + begin, count * sizeof *out);
    return TD_OK;
}

td_status td_safetensors_view(const td_safetensors *f, const char *name, td_tensor_view *out)
{
    json_int_t begin = 0, end = 0;
    const json_t *row = NULL;
    if (!strcmp(name, "__metadata__")) return broken(f, "a tensor is called __metadata__");
    TD_TRY(find(f, name, &row, &begin, &end));
    const json_t *shape = json_object_get(row, "shape");
    td_tensor_view view = {.type = json_string_value(json_object_get(row, "dtype")),
                           .rank = json_array_size(shape),
                           .bytes = f->bytes + f->data_at + begin};
    for (size_t d = 0; d < view.rank && d < 4; d++)
        view.shape[d] = (size_t)json_integer_value(json_array_get(shape, d));
    *out = view;
    return TD_OK;
}

uint64_t td_safetensors_offset(const td_safetensors *f, const void *bytes)
{
    return (uint64_t)((const unsigned char *)bytes - f->bytes);
}
