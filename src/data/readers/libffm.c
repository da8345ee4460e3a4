/* libffm's entries, field:index:value, in any order; see libsvm.h. */
#include "data/readers/libsvm.h"

#include "base/error.h"

#include <math.h>

bool td_ffm_is_entry(const char *at, const char *end)
{
    int colons = 0;
    for (; !td_svm_ends(at, end); at++) colons += *at == ':';
    return colons > 1;
}

static td_status bad_field(const td_svm *s, const char *token, const char *end)
{
    const char *p = token;
    uint64_t number[2] = {0, 0}; /* field, index */
    for (int i = 0; i < 2; i++, p++) {
        const char *digits = p;
        while (p < end && (unsigned)(*p - '0') < 10 && number[i] < UINT32_MAX)
            number[i] = number[i] * 10 + (unsigned)(*p++ - '0');
        if (i == 0 && number[i] > UINT16_MAX)
            return td_svm_fail(s, token, end, "has a field beyond 65535");
        if (number[i] > INT32_MAX)
            return td_svm_fail(s, token, end, "has an index beyond 2147483647");
        if (p == digits || p == end || *p != ':')
            return td_svm_fail(s, token, end, "is not field:index:value");
    }
    if (number[1] == 0 && s->base == TD_SVM_ONE)
        return td_svm_fail(s, token, end, "has index 0 where indices count from 1");
    return td_svm_fail(s, token, end, "is not field:index:value with a finite number");
}

static uint64_t order_of(const td_svm *s, uint64_t entry)
{
    return (uint64_t)(s->index[entry] + 1) << 16 | s->field[entry]; /* -1: 0 as written */
}

/* Puts n entries in order of index and field; Shell's sort by Knuth's gaps, as rows are short. */
static void sort_entries(td_svm *s, uint64_t begin, uint64_t n)
{
    uint64_t gap = 1;
    while (gap < n / 3) gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (uint64_t i = begin + gap; i < begin + n; i++) {
            uint64_t order = order_of(s, i), to = i;
            uint32_t index = s->index[i];
            uint16_t field = s->field[i];
            float value = s->value[i];
            for (; to >= begin + gap && order_of(s, to - gap) > order; to -= gap) {
                s->index[to] = s->index[to - gap];
                s->field[to] = s->field[to - gap];
                s->value[to] = s->value[to - gap];
            }
            s->index[to] = index, s->field[to] = field, s->value[to] = value;
        }
}

td_status td_ffm_entries(td_svm *s, td_svm_chunk *count, uint64_t *used, const char **at,
                         const char *end)
{
    const char *p = *at;
    uint64_t n = *used, last = 0, least = s->base == TD_SVM_ONE;
    bool ordered = true;
    for (;;) {
        while (p < end && td_svm_blank(*p)) p++;
        if (td_svm_ends(p, end)) break;
        const char *token = p;
        uint64_t field, index;
        p = td_svm_part(p, end, UINT16_MAX, &field);
        if (p) p = td_svm_part(p, end, INT32_MAX, &index);
        if (!p || index < least) return bad_field(s, token, end);
        p = td_parse_number(p, end, &s->value[n]);
        if (!p || !td_svm_ends(p, end) || isinf(s->value[n])) return bad_field(s, token, end);
        s->index[n] = (uint32_t)index - 1;
        s->field[n] = (uint16_t)field;
        uint64_t order = order_of(s, n++);
        ordered = ordered && order >= last;
        last = order;
        if (index == 0) count->zero = true;
        if (index + 1 > count->largest) count->largest = index + 1;
    }
    if (!ordered) sort_entries(s, *used, n - *used);
    *used = n;
    *at = p;
    return TD_OK;
}

void td_ffm_drop_unknown(td_svm *s, size_t features)
{
    uint64_t used = 0, begin = 0;
    for (uint64_t r = 0; r < s->rows; r++) {
        uint64_t end = s->row_start[r + 1];
        for (uint64_t e = begin; e < end && s->index[e] < features; e++, used++) {
            s->index[used] = s->index[e];
            s->value[used] = s->value[e];
            s->field[used] = s->field[e];
        }
        begin = end;
        s->row_start[r + 1] = used;
    }
}

static td_status read_libffm(const td_read_job *job, td_dataset *out)
{
    return td_svm_read(job, true, out);
}

/* A number, then a token with two colons behind digits. */
static bool looks_like_libffm(const unsigned char *data, size_t size)
{
    const char *end = (const char *)data + size, *at = td_svm_behind_label((const char *)data, end);
    uint64_t part;
    if (at) at = td_svm_part(at, end, UINT16_MAX, &part);
    return at && td_svm_part(at, end, INT32_MAX, &part);
}

static const char *const libffm_extensions[] = {".ffm", ".libffm", NULL};

const td_reader td_reader_libffm = {
    .format = TD_FORMAT_LIBFFM,
    .extensions = libffm_extensions,
    .looks_like = looks_like_libffm,
    .read = read_libffm,
    .inflate = true,
};
