/* See schema.h. */
#include "data/schema.h"

#include "base/alloc.h"
#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_CLASSES = 1 << 24 };

/* ---- text ---- */

json_t *td_text_to_json(const char *text)
{
    json_t *plain = json_string(text);
    if (plain) return plain;
    size_t n = strlen(text);
    char *hex = td_malloc(2 * n + 1);
    if (!hex) return NULL;
    for (size_t i = 0; i < n; i++) snprintf(hex + 2 * i, 3, "%02x", (unsigned char)text[i]);
    hex[2 * n] = 0;
    json_t *object = json_pack("{s:s}", "hex", hex);
    td_free(hex);
    return object;
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) : -1;
}

td_status td_text_from_json(const json_t *json, char **out)
{
    const char *plain = json_string_value(json),
               *hex = json_string_value(json_object_get(json, "hex"));
    if (!plain && (!hex || strlen(hex) % 2)) return td_fail(TD_ERR_CORRUPT, "a text was expected");
    size_t n = plain ? strlen(plain) : strlen(hex) / 2;
    char *text = td_malloc(n + 1);
    if (!text) return td_fail(TD_ERR_NOMEM, "no memory for a text of %zu bytes", n);
    if (plain) memcpy(text, plain, n);
    for (size_t i = 0; !plain && i < n; i++) {
        int high = hex_digit(hex[2 * i]), low = hex_digit(hex[2 * i + 1]);
        if (high < 0 || low < 0 || high + low == 0) {
            td_free(text);
            return td_fail(TD_ERR_CORRUPT, "\"%.20s\" is not the bytes of a text", hex);
        }
        text[i] = (char)(16 * high + low);
    }
    text[n] = 0;
    *out = text;
    return TD_OK;
}

/* ---- writing: `false` and NULL mean no memory ---- */

static bool put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static json_t *texts_json(const char *const *texts, size_t n)
{
    json_t *array = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(array, td_text_to_json(texts[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *column_json(const td_dataset *d, size_t column)
{
    json_t *object = json_object();
    int n = d->category_count ? d->category_count[column] : 0;
    if ((d->column_names && !put(object, "name", td_text_to_json(d->column_names[column]))) ||
        (td_dataset_hashes(d, column) && !put(object, "hashed", json_true())) ||
        (n && !put(object, "categories", texts_json(d->category_names[column], (size_t)n)))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

static bool put_columns(const td_dataset *d, json_t *schema)
{
    if (!d->column_names && !d->category_count && !d->hashed_at) return true;
    if (d->hashed_at && !put(schema, "hash_seed", json_integer((json_int_t)d->hash_seed)))
        return false;
    json_t *columns = json_array();
    bool whole = columns != NULL;
    for (size_t c = 0; whole && c < d->columns; c++)
        whole = json_array_append_new(columns, column_json(d, c)) == 0;
    if (whole) return put(schema, "columns", columns);
    json_decref(columns);
    return false;
}

static bool put_classes(const td_dataset *d, json_t *schema)
{
    const td_data_info *info = &d->info;
    size_t n = (size_t)info->classes;
    if (!put(schema, "classes", json_integer(info->classes))) return false;
    if (info->class_names && !put(schema, "class_names", texts_json(info->class_names, n)))
        return false;
    if (!d->class_value) return true;
    json_t *values = json_array();
    bool whole = values != NULL;
    for (size_t k = 0; whole && k < n; k++)
        whole = json_array_append_new(values, json_real(d->class_value[k])) == 0;
    if (whole) return put(schema, "class_values", values);
    json_decref(values);
    return false;
}

static json_t *shape_json(const td_data_info *info)
{
    json_t *shape = json_array();
    for (int d = 0; d < info->rank; d++)
        if (json_array_append_new(shape, json_integer((json_int_t)info->shape[d])) != 0) {
            json_decref(shape);
            return NULL;
        }
    return shape;
}

td_status td_schema_make(const td_dataset *dataset, json_t **out)
{
    const td_dataset *d = dataset->base ? dataset->base : dataset;
    json_t *schema = json_object();
    if (!put(schema, "path", td_text_to_json(d->info.path ? d->info.path : "memory")) ||
        !put(schema, "shape", shape_json(&d->info)) ||
        !put(schema, "one_hot", json_boolean(d->feature_at != NULL)) ||
        !put(schema, "index_base", json_integer(d->index_base)) || !put_columns(d, schema) ||
        !put_classes(d, schema)) {
        json_decref(schema);
        return td_fail(TD_ERR_NOMEM, "no memory to describe %s", d->info.path);
    }
    *out = schema;
    return TD_OK;
}

/* ---- reading ---- */

static td_status damaged(const char *what)
{
    return td_fail(TD_ERR_CORRUPT, "%s", what);
}

static td_status take_text(td_dataset *d, const json_t *json, const char **out)
{
    char *text;
    TD_TRY(td_text_from_json(json, &text));
    *out = td_dataset_text(d, text, strlen(text));
    td_free(text);
    return *out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a name");
}

static td_status take_texts(td_dataset *d, const json_t *array, size_t n, const char *const **out)
{
    const char **texts = NULL;
    TD_TRY(td_dataset_take(d, n, sizeof *texts, "names", &texts));
    for (size_t i = 0; i < n; i++) TD_TRY(take_text(d, json_array_get(array, i), &texts[i]));
    *out = texts;
    return TD_OK;
}

/* Names are found by halving, so their order is part of being whole. */
static bool ascending(const char *const *names, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (strcmp(names[i - 1], names[i]) >= 0) return false;
    return true;
}

static td_status read_column(td_dataset *d, const json_t *column, size_t c, const char **names,
                             int *counts, const char *const **lists)
{
    const json_t *categories = json_object_get(column, "categories");
    size_t n = json_array_size(categories);
    if (!json_is_object(column) || n > MOST_CLASSES) return damaged("a column is not described");
    if (names) TD_TRY(take_text(d, json_object_get(column, "name"), &names[c]));
    counts[c] = (int)n;
    lists[c] = NULL;
    if (n) TD_TRY(take_texts(d, categories, n, &lists[c]));
    return ascending(lists[c], n) ? TD_OK : damaged("the categories of a column are not in order");
}

static td_status read_hashed(td_dataset *d, const json_t *columns)
{
    int32_t *at = NULL, places = 0;
    TD_TRY(td_dataset_take(d, d->columns, sizeof *at, "hashed columns", &at));
    for (size_t c = 0; c < d->columns; c++)
        at[c] = json_is_true(json_object_get(json_array_get(columns, c), "hashed")) ? places++ : -1;
    if (places) d->hashed_at = at;
    td_dataset_count_hashed(d);
    return TD_OK;
}

static td_status read_columns(td_dataset *d, const json_t *columns, bool one_hot)
{
    const char **names = NULL;
    int *counts = NULL;
    const char *const **lists = NULL;
    bool some = false;
    d->columns = json_array_size(columns);
    if (d->columns == 0) return damaged("it has no columns");
    if (json_object_get(json_array_get(columns, 0), "name"))
        TD_TRY(td_dataset_take(d, d->columns, sizeof *names, "column names", &names));
    TD_TRY(td_dataset_take(d, d->columns, sizeof *counts, "category counts", &counts));
    TD_TRY(td_dataset_take(d, d->columns, sizeof *lists, "category lists", &lists));
    for (size_t c = 0; c < d->columns; c++) {
        TD_TRY(read_column(d, json_array_get(columns, c), c, names, counts, lists));
        some = some || counts[c];
    }
    d->column_names = names;
    TD_TRY(read_hashed(d, columns));
    if (some) {
        d->category_count = counts;
        d->category_names = (const char *const *const *)lists;
    }
    return td_dataset_set_columns(d, one_hot);
}

static td_status read_shape(td_dataset *d, const json_t *schema)
{
    const json_t *shape = json_object_get(schema, "shape"),
                 *columns = json_object_get(schema, "columns");
    size_t rank = json_array_size(shape), features = 1, sizes[4] = {0}, bytes;
    if (rank < 1 || rank > 4) return damaged("it has no shape");
    for (size_t i = 0; i < rank; i++) {
        json_int_t n = json_integer_value(json_array_get(shape, i));
        if (n < 1 || !td_mul(features, (size_t)n, &features) || !td_mul(features, 8, &bytes))
            return damaged("its shape cannot be");
        sizes[i] = (size_t)n;
    }
    if (columns) {
        TD_TRY(read_columns(d, columns, json_is_true(json_object_get(schema, "one_hot"))));
        if (rank != 1 || d->info.features != features)
            return damaged("its columns are not its shape's");
    }
    d->columns = columns ? d->columns : features;
    d->info.features = features;
    d->info.rank = (int)rank;
    memcpy(d->info.shape, sizes, sizeof sizes);
    return TD_OK;
}

static td_status read_classes(td_dataset *d, const json_t *schema)
{
    const json_t *names = json_object_get(schema, "class_names"),
                 *values = json_object_get(schema, "class_values");
    json_int_t classes = json_integer_value(json_object_get(schema, "classes"));
    size_t n = (size_t)classes;
    if (classes < 0 || classes > MOST_CLASSES || (names && json_array_size(names) != n) ||
        (values && (!names || json_array_size(values) != n)))
        return damaged("its classes are not as many as their names");
    d->info.classes = (int)classes;
    if (names) TD_TRY(take_texts(d, names, n, &d->info.class_names));
    if (names && !values && !ascending(d->info.class_names, n))
        return damaged("its classes are not in order");
    if (!values) return TD_OK;
    double *value = NULL;
    TD_TRY(td_dataset_take(d, n, sizeof *value, "classes", &value));
    for (size_t k = 0; k < n; k++) {
        value[k] = json_number_value(json_array_get(values, k));
        if (!json_is_number(json_array_get(values, k)) || (k && !(value[k - 1] < value[k])))
            return damaged("the values of its classes are not in order");
    }
    d->class_value = value;
    return TD_OK;
}

td_status td_schema_open(const json_t *schema, const char *name, td_dataset **out)
{
    td_dataset *d = td_dataset_new();
    if (!d) return td_fail(TD_ERR_NOMEM, "no memory for a data set");
    td_status status = TD_OK;
    json_int_t base = json_integer_value(json_object_get(schema, "index_base"));
    TD_GOTO(take_text(d, json_object_get(schema, "path"), &d->info.path));
    TD_GOTO(base >= -1 && base <= 1 ? TD_OK : damaged("indices do not begin there"));
    d->index_base = (int)base;
    d->hash_seed = (uint64_t)json_integer_value(json_object_get(schema, "hash_seed"));
    TD_GOTO(read_shape(d, schema));
    TD_GOTO(read_classes(d, schema));
    *out = d;
    d = NULL;
out:
    if (status == TD_ERR_CORRUPT)
        status =
            td_fail_within(status, "%s: its description of the training data is damaged: ", name);
    td_dataset_close(d);
    return status;
}
