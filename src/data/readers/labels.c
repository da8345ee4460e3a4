/* See labels.h. */
#include "data/readers/labels.h"

#include "base/alloc.h"
#include "base/error.h"

#include <stdio.h>
#include <string.h>

enum { AUTO_CLASSES = 1000, ID_CLASSES = 65536, MOST_CLASSES = 65536 };

td_status td_labels_take_classes(td_dataset *out, const td_dataset *like)
{
    const td_data_info *from = &like->info;
    out->info.classes = from->classes;
    size_t count = (size_t)from->classes;
    if (from->class_names) {
        const char **names = NULL;
        TD_TRY(td_dataset_take(out, count, sizeof *names, "class names", &names));
        for (size_t k = 0; k < count; k++) {
            names[k] = td_dataset_text(out, from->class_names[k], strlen(from->class_names[k]));
            if (!names[k]) return td_fail(TD_ERR_NOMEM, "no memory for class names");
        }
        out->info.class_names = names;
    }
    if (like->class_value) {
        double *value = NULL;
        TD_TRY(td_dataset_take(out, count, sizeof *value, "classes", &value));
        memcpy(value, like->class_value, count * sizeof *value);
        out->class_value = value;
    }
    return TD_OK;
}

/* "one of the training set's 3 classes (a, b, c)" */
static void describe_classes(const td_dataset *like, char *text, size_t room)
{
    size_t used = (size_t)snprintf(text, room, "the training set's %d classes", like->info.classes);
    for (int k = 0; like->info.class_names && k < like->info.classes && used + 60 < room; k++)
        used += (size_t)snprintf(text + used, room - used, "%s%.40s%s", k ? ", " : " (",
                                 like->info.class_names[k],
                                 k + 1 == like->info.classes ? ")"
                                 : used + 120 > room         ? ", ...)"
                                                             : "");
}

static td_status unknown_class(const td_dataset *like, const char *where, const char *label)
{
    char classes[500];
    describe_classes(like, classes, sizeof classes);
    return td_fail(TD_ERR_DATA, "%s: class \"%.60s\" is not one of %s", where, label, classes);
}

/* Where a row is, the number of a sample says less well: the reader alone knows its line. */
static td_status set_values(const td_read_job *job, const float *number, td_label_where *where,
                            const void *arg, td_dataset *out)
{
    float *target = NULL;
    char place[600];
    for (uint64_t i = 0; job->config->counts && i < out->info.samples; i++) {
        if (!(number[i] < 0)) continue;
        where(arg, i, place, sizeof place);
        return td_fail(TD_ERR_DATA,
                       "%s: label %g, where counts, which poisson is for, are 0 or more; use "
                       "squared for others",
                       place, (double)number[i]);
    }
    TD_TRY(td_dataset_take(out, out->info.samples, sizeof *target, "targets", &target));
    memcpy(target, number, out->info.samples * sizeof *target);
    out->target = target;
    return TD_OK;
}

/* ---- numbers ---- */

typedef struct survey {
    bool integers, signs; /* all whole; all -1 or 1 */
    float low, high;
} survey;

static survey survey_numbers(const float *number, uint64_t n)
{
    survey s = {true, true, number[0], number[0]};
    for (uint64_t i = 0; i < n; i++) {
        float x = number[i];
        if (x < s.low) s.low = x;
        if (x > s.high) s.high = x;
        s.signs = s.signs && (x == 1 || x == -1);
        s.integers = s.integers && x > -16777216.0f && x < 16777216.0f && x == (float)(int32_t)x;
    }
    return s;
}

/* Where x is, or belongs, in ascending values. */
static int lower_bound(const double *value, int count, double x)
{
    int low = 0, high = count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (value[middle] < x)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int find_value(const double *value, int count, double x)
{
    int at = lower_bound(value, count, x);
    return at < count && value[at] == x ? at : -1;
}

/* The different numbers in ascending order, in value [MOST_CLASSES]; -1 when there are more. */
static int collect_values(const float *number, uint64_t n, double *value)
{
    int count = 0;
    for (uint64_t i = 0; i < n; i++) {
        double x = number[i];
        int at = lower_bound(value, count, x);
        if (at < count && value[at] == x) continue;
        if (count == MOST_CLASSES) return -1;
        memmove(value + at + 1, value + at, (size_t)(count - at) * sizeof *value);
        value[at] = x;
        count++;
    }
    return count;
}

static td_status number_classes(const td_read_job *job, const float *number, td_dataset *out)
{
    double *all = td_calloc(MOST_CLASSES, sizeof *all), *value = NULL;
    if (!all) return td_fail(TD_ERR_NOMEM, "no memory for classes");
    td_status status = TD_OK;
    const char **names = NULL;
    int count = collect_values(number, out->info.samples, all);
    if (count < 0) {
        status = td_fail(TD_ERR_DATA,
                         "%s: its labels have more than %d different values, too many for classes; "
                         "read them as values",
                         job->main.name, MOST_CLASSES);
        goto out;
    }
    TD_GOTO(td_dataset_take(out, (size_t)count, sizeof *value, "classes", &value));
    TD_GOTO(td_dataset_take(out, (size_t)count, sizeof *names, "class names", &names));
    for (int k = 0; k < count; k++) {
        char text[40];
        int length = snprintf(text, sizeof text, "%.9g", all[k]);
        value[k] = all[k];
        names[k] = td_dataset_text(out, text, (size_t)length);
        if (!names[k]) {
            status = td_fail(TD_ERR_NOMEM, "no memory for class names");
            goto out;
        }
    }
    out->info.classes = count;
    out->info.class_names = names;
    out->class_value = value;
out:
    td_free(all);
    return status;
}

/* The classes are known; -1 marks a number that is none of them. */
static int32_t class_of(const td_dataset *set, float x)
{
    if (set->class_value) return find_value(set->class_value, set->info.classes, x);
    if (set->info.class_names) return -1; /* names that are not numbers */
    return x >= 0 && x < (float)set->info.classes && x == (float)(int32_t)x ? (int32_t)x : -1;
}

td_status td_labels_from_numbers(const td_read_job *job, const float *number, td_label_where *where,
                                 const void *arg, td_dataset *out)
{
    const td_dataset *like = job->config->like;
    td_label_kind kind = job->config->label_kind;
    uint64_t n = out->info.samples;
    if (like) {
        if (like->info.classes == 0) return set_values(job, number, where, arg, out);
        TD_TRY(td_labels_take_classes(out, like));
    } else {
        survey s = survey_numbers(number, n);
        bool ids = s.integers && s.low >= 0, one_and_two = ids && s.low == 1 && s.high == 2;
        if (kind == TD_LABEL_AUTO)
            kind = s.signs || (ids && s.high < AUTO_CLASSES) ? TD_LABEL_CLASS : TD_LABEL_VALUE;
        if (kind == TD_LABEL_VALUE) return set_values(job, number, where, arg, out);
        if (ids && !one_and_two && s.high < (kind == TD_LABEL_CLASS ? ID_CLASSES : AUTO_CLASSES))
            out->info.classes = (int)s.high + 1;
        else
            TD_TRY(number_classes(job, number, out));
    }
    int32_t *label = NULL;
    TD_TRY(td_dataset_take(out, n, sizeof *label, "labels", &label));
    for (uint64_t i = 0; i < n; i++) {
        label[i] = class_of(out, number[i]);
        if (label[i] >= 0) continue;
        char place[600], text[40];
        where(arg, i, place, sizeof place);
        snprintf(text, sizeof text, "%.9g", (double)number[i]);
        return unknown_class(like ? like : out, place, text);
    }
    out->label = label;
    return TD_OK;
}

/* ---- names ---- */

static int find_name(const td_dataset *set, const char *name)
{
    for (int low = 0, high = set->info.classes; low < high;) {
        int middle = low + (high - low) / 2, order = strcmp(set->info.class_names[middle], name);
        if (order == 0) return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

td_status td_labels_from_codes(const td_read_job *job, const float *code, int count,
                               const char *const *names, td_label_where *where, const void *arg,
                               td_dataset *out)
{
    const td_dataset *like = job->config->like;
    uint64_t n = out->info.samples;
    if (count > MOST_CLASSES)
        return td_fail(TD_ERR_DATA, "%s: its label column holds %d different texts, too many",
                       job->main.name, count);
    int32_t *label = NULL;
    TD_TRY(td_dataset_take(out, n, sizeof *label, "labels", &label));
    if (like)
        TD_TRY(td_labels_take_classes(out, like));
    else
        out->info.classes = count, out->info.class_names = names;
    for (uint64_t i = 0; i < n; i++) {
        int k = (int)code[i];
        label[i] = like ? find_name(out, names[k]) : k;
        if (label[i] >= 0) continue;
        char place[600];
        where(arg, i, place, sizeof place);
        return unknown_class(like, place, names[k]);
    }
    out->label = label;
    return TD_OK;
}
