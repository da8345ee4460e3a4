/* The cache file:
 *
 *     [head: magic, key, scalars, size and XXH3 of each section, XXH3 of the head][pad]
 *     [section][pad] [section][pad] ...
 *
 * Sections begin at multiples of 64 and are the arrays of td_dataset as they lie in memory; lists
 * of texts are the texts one behind the other, each ended by 0. The byte order is the machine's:
 * a foreign file has another magic number. Every section is checked before it is used. */
#include "data/cache.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/log.h"

#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define MAGIC 0x3130454843414454ull /* "TDCACHE01" less the last, little-endian */
enum { VERSION = 3, ALIGN = 64 };

typedef enum section {
    DENSE,
    ROW_START,
    INDEX,
    VALUE,
    FIELD,
    LABEL,
    TARGET,
    WEIGHT,
    GROUP,
    CLASS_VALUE,
    HASHED_AT,
    HASHED,
    CATEGORY_COUNT,
    COLUMN_NAMES,
    CLASS_NAMES,
    CATEGORY_NAMES,
    SECTIONS
} section;

typedef struct cache_head {
    uint64_t magic, key;
    uint64_t samples, columns, shape[4], classes, hash_seed;
    uint32_t version, dtype, rank, one_hot, sparse, index_base;
    uint64_t bytes[SECTIONS]; /* 0: absent */
    uint64_t hash[SECTIONS];
    uint64_t own_hash; /* of all above */
} cache_head;

static size_t aligned(uint64_t bytes)
{
    return (size_t)((bytes + ALIGN - 1) & ~(uint64_t)(ALIGN - 1));
}

/* ---- the key ---- */

static uint64_t mix(uint64_t hash, const void *bytes, size_t size)
{
    return XXH3_64bits_withSeed(bytes, size, hash ^ size);
}

static uint64_t mix_text(uint64_t hash, const char *text)
{
    return text ? mix(hash, text, strlen(text)) : mix(hash, "\1\2", 2);
}

static uint64_t mix_number(uint64_t hash, uint64_t number)
{
    return mix(hash, &number, sizeof number);
}

static uint64_t mix_file(uint64_t hash, const char *path)
{
    struct stat s;
    if (!*path || stat(path, &s) != 0) return mix_number(hash, 0);
    hash = mix_number(hash, (uint64_t)s.st_size);
    hash = mix_number(hash, (uint64_t)s.st_mtim.tv_sec);
    hash = mix_number(hash, (uint64_t)s.st_mtim.tv_nsec);
    return mix_text(hash, path);
}

static uint64_t mix_like(uint64_t hash, const td_dataset *like)
{
    if (!like) return mix_number(hash, 1);
    const td_data_info *info = &like->info;
    hash = mix_number(hash, info->features);
    hash = mix_number(hash, (uint64_t)info->classes);
    hash = mix_number(hash, (uint64_t)like->index_base);
    for (int k = 0; info->class_names && k < info->classes; k++)
        hash = mix_text(hash, info->class_names[k]);
    for (int k = 0; like->class_value && k < info->classes; k++)
        hash = mix(hash, &like->class_value[k], sizeof *like->class_value);
    for (size_t c = 0; like->column_names && c < like->columns; c++)
        hash = mix_text(hash, like->column_names[c]);
    for (size_t c = 0; like->category_count && c < like->columns; c++)
        for (int k = 0; k < like->category_count[c]; k++)
            hash = mix_text(mix_number(hash, c), like->category_names[c][k]);
    if (like->hashed_at) {
        hash = mix_number(hash, like->hash_seed);
        hash = mix(hash, like->hashed_at, like->columns * sizeof *like->hashed_at);
    }
    return hash;
}

td_status td_cache_key_make(const td_data_config *config, const td_location *where,
                            td_cache_key *out)
{
    static const char suffix[] = ".tdcache";
    size_t length = strlen(where->main);
    if (length + sizeof suffix > sizeof out->path)
        return td_fail(TD_ERR_ARG, "path too long: %.200s...", where->main);
    memcpy(out->source, where->main, length + 1);
    memcpy(out->path, where->main, length);
    memcpy(out->path + length, suffix, sizeof suffix);
    uint64_t hash = mix_number(0, VERSION);
    hash = mix_file(hash, where->main);
    hash = mix_file(hash, where->label);
    hash = mix_file(hash, where->weight);
    hash = mix_file(hash, where->group);
    const uint64_t numbers[] = {(uint64_t)config->split,      (uint64_t)config->format,
                                (uint64_t)config->label_kind, (uint64_t)config->header,
                                (uint64_t)config->one_hot,    (uint64_t)config->index_base,
                                (uint64_t)config->features,   config->no_labels,
                                config->hash_categories,      config->hash_seed};
    hash = mix(hash, numbers, sizeof numbers);
    const char *const texts[] = {config->label, config->delimiter, config->weight_column,
                                 config->categorical, config->missing};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) hash = mix_text(hash, texts[i]);
    out->hash = mix_like(hash, config->like);
    return TD_OK;
}

/* ---- writing ---- */

/* The texts of a list one behind the other; NULL when out of memory. */
static char *join(const char *const *texts, size_t count, size_t *out_bytes)
{
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) bytes += strlen(texts[i]) + 1;
    char *blob = td_malloc(bytes), *at = blob;
    for (size_t i = 0; blob && i < count; i++) {
        size_t n = strlen(texts[i]) + 1;
        memcpy(at, texts[i], n);
        at += n;
    }
    *out_bytes = bytes;
    return blob;
}

static td_status join_lists(const td_dataset *d, const void *data[SECTIONS],
                            uint64_t bytes[SECTIONS], char *owned[SECTIONS])
{
    size_t n = 0, total = 0;
    if (d->column_names)
        data[COLUMN_NAMES] = owned[COLUMN_NAMES] = join(d->column_names, d->columns, &n);
    bytes[COLUMN_NAMES] = n;
    n = 0;
    if (d->info.class_names)
        data[CLASS_NAMES] = owned[CLASS_NAMES] =
            join(d->info.class_names, (size_t)d->info.classes, &n);
    bytes[CLASS_NAMES] = n;
    for (size_t c = 0; d->category_count && c < d->columns; c++)
        total += (size_t)d->category_count[c];
    n = 0;
    if (total) {
        const char **all = td_reallocarray(NULL, total, sizeof *all);
        size_t used = 0;
        for (size_t c = 0; all && c < d->columns; c++)
            for (int k = 0; k < d->category_count[c]; k++) all[used++] = d->category_names[c][k];
        if (all) data[CATEGORY_NAMES] = owned[CATEGORY_NAMES] = join(all, total, &n);
        td_free(all);
    }
    bytes[CATEGORY_NAMES] = n;
    if ((d->column_names && !owned[COLUMN_NAMES]) || (d->info.class_names && !owned[CLASS_NAMES]) ||
        (total && !owned[CATEGORY_NAMES]))
        return td_fail(TD_ERR_NOMEM, "no memory for names");
    return TD_OK;
}

static void list_arrays(const td_dataset *d, const void *data[SECTIONS], uint64_t bytes[SECTIONS])
{
    uint64_t n = d->info.samples, entries = d->row_start ? d->row_start[n] : 0;
    uint64_t width = d->dtype == TD_DTYPE_U8 ? 1 : 4;
    const struct {
        const void *at;
        uint64_t bytes;
    } all[] = {
        [DENSE] = {d->dense, n * d->columns * width},
        [ROW_START] = {d->row_start, (n + 1) * sizeof *d->row_start},
        [INDEX] = {d->index, entries * sizeof *d->index},
        [VALUE] = {d->value, entries * sizeof *d->value},
        [FIELD] = {d->field, entries * sizeof *d->field},
        [LABEL] = {d->label, n * sizeof *d->label},
        [TARGET] = {d->target, n * sizeof *d->target},
        [WEIGHT] = {d->weight, n * sizeof *d->weight},
        [GROUP] = {d->group, n * sizeof *d->group},
        [CLASS_VALUE] = {d->class_value, (uint64_t)d->info.classes * sizeof *d->class_value},
        [HASHED_AT] = {d->hashed_at, d->columns * sizeof *d->hashed_at},
        [HASHED] = {d->hashed, n * d->hashed_columns * sizeof *d->hashed},
        [CATEGORY_COUNT] = {d->category_count, d->columns * sizeof *d->category_count},
    };
    for (int s = DENSE; s <= CATEGORY_COUNT; s++) {
        data[s] = all[s].at;
        bytes[s] = all[s].at ? all[s].bytes : 0;
    }
}

static td_status put_padded(td_writer *w, const void *bytes, uint64_t size)
{
    static const char zeros[ALIGN];
    TD_TRY(td_writer_put(w, bytes, (size_t)size));
    return td_writer_put(w, zeros, aligned(size) - (size_t)size);
}

static td_status save(const td_cache_key *key, const td_dataset *d, char *owned[SECTIONS])
{
    cache_head head;
    memset(&head, 0, sizeof head);
    head.magic = MAGIC;
    head.key = key->hash;
    head.version = VERSION;
    head.samples = d->info.samples;
    head.columns = d->columns;
    head.classes = (uint64_t)d->info.classes;
    head.hash_seed = d->hash_seed;
    head.dtype = (uint32_t)d->dtype;
    head.rank = (uint32_t)d->info.rank;
    head.one_hot = d->feature_at != NULL;
    head.sparse = d->info.sparse;
    head.index_base = (uint32_t)d->index_base;
    for (int i = 0; i < 4; i++) head.shape[i] = d->info.shape[i];
    const void *data[SECTIONS] = {NULL};
    list_arrays(d, data, head.bytes);
    TD_TRY(join_lists(d, data, head.bytes, owned));
    for (int s = 0; s < SECTIONS; s++)
        if (head.bytes[s]) head.hash[s] = XXH3_64bits(data[s], head.bytes[s]);
    head.own_hash = XXH3_64bits(&head, offsetof(cache_head, own_hash));
    td_writer writer;
    TD_TRY(td_writer_open(&writer, key->path));
    td_status status = put_padded(&writer, &head, sizeof head);
    for (int s = 0; status == TD_OK && s < SECTIONS; s++)
        if (head.bytes[s]) status = put_padded(&writer, data[s], head.bytes[s]);
    if (status == TD_OK) return td_writer_commit(&writer);
    td_writer_abandon(&writer);
    return status;
}

void td_cache_save(const td_cache_key *key, const td_dataset *dataset)
{
    char *owned[SECTIONS] = {NULL};
    if (save(key, dataset, owned) != TD_OK)
        td_warn("no cache was kept for %s: %s", key->source, td_last_error());
    for (int s = 0; s < SECTIONS; s++) td_free(owned[s]);
    td_error_clear();
}

/* ---- reading ---- */

static td_status torn(const td_cache_key *key)
{
    return td_fail(TD_ERR_CORRUPT, "%s is torn or altered", key->path);
}

static td_status split_texts(td_dataset *d, const char *blob, uint64_t bytes, size_t count,
                             const char *const **out)
{
    const char **texts = NULL;
    TD_TRY(td_dataset_take(d, count, sizeof *texts, "names", &texts));
    const char *at = blob, *end = blob + bytes;
    for (size_t i = 0; i < count; i++) {
        const char *zero = at < end ? memchr(at, 0, (size_t)(end - at)) : NULL;
        if (!zero) return td_fail(TD_ERR_CORRUPT, "a list of names is too short");
        texts[i] = at;
        at = zero + 1;
    }
    *out = texts;
    return TD_OK;
}

static td_status take_categories(td_dataset *d, const char *blob, uint64_t bytes)
{
    size_t total = 0;
    const char *const *all = NULL, *const **lists = NULL;
    for (size_t c = 0; c < d->columns; c++) total += (size_t)d->category_count[c];
    TD_TRY(split_texts(d, blob, bytes, total, &all));
    TD_TRY(td_dataset_take(d, d->columns, sizeof *lists, "categories", &lists));
    for (size_t c = 0; c < d->columns; c++) {
        lists[c] = all;
        all += d->category_count[c];
    }
    d->category_names = (const char *const *const *)lists;
    return TD_OK;
}

static td_status find_sections(const td_cache_key *key, const td_mapping *map,
                               const cache_head *head, const unsigned char *at[SECTIONS])
{
    size_t offset = aligned(sizeof *head);
    for (int s = 0; s < SECTIONS; s++) {
        uint64_t bytes = head->bytes[s];
        at[s] = NULL;
        if (bytes == 0) continue;
        if (offset > map->size || bytes > map->size - offset) return torn(key);
        at[s] = map->data + offset;
        if (XXH3_64bits(at[s], bytes) != head->hash[s]) return torn(key);
        offset += aligned(bytes);
    }
    return offset == map->size ? TD_OK : torn(key);
}

static td_status load(const td_cache_key *key, td_dataset *d)
{
    TD_TRY(td_map_file(key->path, &d->cache));
    const cache_head *head = (const void *)d->cache.data;
    if (d->cache.size < aligned(sizeof *head) || head->magic != MAGIC ||
        XXH3_64bits(head, offsetof(cache_head, own_hash)) != head->own_hash)
        return torn(key);
    if (head->key != key->hash || head->version != VERSION)
        return td_fail(TD_ERR_CORRUPT, "%s is out of date", key->path);
    const unsigned char *at[SECTIONS];
    TD_TRY(find_sections(key, &d->cache, head, at));
    d->dtype = (td_dtype)head->dtype;
    d->columns = (size_t)head->columns;
    d->index_base = (int)head->index_base;
    d->info.samples = head->samples;
    d->info.classes = (int)head->classes;
    d->info.sparse = head->sparse != 0;
    d->info.bytes = d->cache.size;
    d->dense = at[DENSE];
    d->row_start = (const void *)at[ROW_START];
    d->index = (const void *)at[INDEX];
    d->value = (const void *)at[VALUE];
    d->field = (const void *)at[FIELD];
    d->label = (const void *)at[LABEL];
    d->target = (const void *)at[TARGET];
    d->weight = (const void *)at[WEIGHT];
    d->group = (const void *)at[GROUP];
    d->class_value = (const void *)at[CLASS_VALUE];
    d->category_count = (const void *)at[CATEGORY_COUNT];
    d->hashed_at = (const void *)at[HASHED_AT];
    d->hashed = (const void *)at[HASHED];
    d->hash_seed = head->hash_seed;
    td_dataset_count_hashed(d);
    d->info.has_weights = d->weight != NULL;
    d->info.has_groups = d->group != NULL;
    const uint64_t *bytes = head->bytes;
    if (at[COLUMN_NAMES])
        TD_TRY(split_texts(d, (const char *)at[COLUMN_NAMES], bytes[COLUMN_NAMES], d->columns,
                           &d->column_names));
    if (at[CLASS_NAMES])
        TD_TRY(split_texts(d, (const char *)at[CLASS_NAMES], bytes[CLASS_NAMES],
                           (size_t)head->classes, &d->info.class_names));
    if (d->category_count)
        TD_TRY(take_categories(d, (const char *)at[CATEGORY_NAMES], bytes[CATEGORY_NAMES]));
    TD_TRY(td_dataset_set_columns(d, head->one_hot != 0));
    d->info.rank = (int)head->rank;
    for (int i = 0; i < 4; i++) d->info.shape[i] = (size_t)head->shape[i];
    d->info.path = td_dataset_text(d, key->source, strlen(key->source));
    return d->info.path ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a name");
}

td_status td_cache_load(const td_cache_key *key, td_dataset **out)
{
    td_dataset *dataset = td_dataset_new();
    if (!dataset) return td_fail(TD_ERR_NOMEM, "no memory for a data set");
    td_status status = load(key, dataset);
    if (status == TD_OK)
        *out = dataset;
    else
        td_dataset_close(dataset);
    return status;
}
