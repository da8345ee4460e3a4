/* See synth.h. */
#include "data/synth.h"

#include "base/rng.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { COUNTS_OF_ROW = 1000, WEIGHTS_OF_COUNTS }; /* streams beside those of fields */

static const float bias = -1.6f, category_weight = 0.5f, factor = 0.2f, count_weight = 0.25f;

const char *const td_click_formats[] = {"auto", "tsv", "csv", "libsvm", "libffm", NULL};

/* --- Zipf's law: rejection from the integral of x^-s (Hoermann and Derflinger,
 * "Rejection-inversion to generate variates from monotone discrete distributions", 1996) --- */

static double integral(double s, double x)
{
    double t = (1 - s) * log(x);
    return fabs(t) < 1e-8 ? log(x) : expm1(t) / (1 - s);
}

static double inverse(double s, double y)
{
    double t = y * (1 - s);
    return fabs(t) < 1e-8 ? exp(y) : exp(log1p(t < -1 ? -1 : t) / (1 - s));
}

static double unit(td_rng *rng)
{
    return (double)(td_rng_u64(rng) >> 11) * 0x1p-53;
}

/* From 0. */
static uint32_t zipf(td_rng *rng, double s, uint32_t n)
{
    double low = integral(s, 1.5) - 1, high = integral(s, n + 0.5);
    double near = 2 - inverse(s, integral(s, 2.5) - pow(2, -s));
    for (;;) {
        double u = high + unit(rng) * (low - high), x = inverse(s, u);
        double k = floor(x + 0.5);
        k = k < 1 ? 1 : k > n ? n : k;
        if (k - x <= near || u >= integral(s, k + 0.5) - pow(k, -s)) return (uint32_t)k - 1;
    }
}

/* --- rows --- */

static float within(td_rng *rng, float most)
{
    return most * (2 * td_rng_unit(rng) - 1);
}

static float logit(const td_click_config *c, const td_click_row *row)
{
    td_rng rng;
    float sum = bias, of[TD_CLICK_FACTORS] = {0}, squares = 0;
    td_rng_init(&rng, c->seed, TD_RNG_SYNTH, WEIGHTS_OF_COUNTS, 0);
    for (int i = 0; i < TD_CLICK_COUNTS; i++)
        sum += within(&rng, count_weight) * log1pf((float)row->count[i]);
    for (int f = 0; f < TD_CLICK_FIELDS; f++) {
        td_rng_init(&rng, c->seed, TD_RNG_SYNTH, (uint64_t)f, row->category[f]);
        sum += within(&rng, category_weight);
        for (int k = 0; k < TD_CLICK_FACTORS; k++) {
            float v = within(&rng, factor);
            of[k] += v;
            squares += v * v;
        }
    }
    for (int k = 0; k < TD_CLICK_FACTORS; k++) sum += of[k] * of[k] / 2;
    return sum - squares / 2;
}

void td_click_make(const td_click_config *c, uint64_t row, td_click_row *out)
{
    td_rng rng;
    td_rng_init(&rng, c->seed, TD_RNG_SYNTH, COUNTS_OF_ROW, row);
    for (int i = 0; i < TD_CLICK_COUNTS; i++)
        out->count[i] = (uint32_t)expf(1.5f * td_rng_normal(&rng));
    for (int f = 0; f < TD_CLICK_FIELDS; f++) out->category[f] = zipf(&rng, c->zipf, c->categories);
    out->probability = 1 / (1 + expf(-logit(c, out)));
    out->clicked = td_rng_unit(&rng) < out->probability;
}

/* --- lines --- */

td_click_format td_click_format_of(const char *path)
{
    static const struct {
        const char *ending;
        td_click_format format;
    } known[] = {{".csv", TD_CLICK_CSV},
                 {".svm", TD_CLICK_LIBSVM},
                 {".libsvm", TD_CLICK_LIBSVM},
                 {".ffm", TD_CLICK_LIBFFM},
                 {".libffm", TD_CLICK_LIBFFM}};
    const char *ending = strrchr(path, '.');
    for (size_t k = 0; ending && k < sizeof known / sizeof *known; k++)
        if (!strcasecmp(ending, known[k].ending)) return known[k].format;
    return TD_CLICK_TSV;
}

static bool has_columns(td_click_format format)
{
    return format == TD_CLICK_TSV || format == TD_CLICK_CSV;
}

static char between(td_click_format format)
{
    return format == TD_CLICK_CSV ? ',' : '\t';
}

size_t td_click_header(td_click_format format, char text[TD_CLICK_TEXT])
{
    size_t at = 0;
    char comma = between(format);
    if (!has_columns(format)) return 0;
    at += (size_t)snprintf(text, TD_CLICK_TEXT, "click");
    for (int i = 0; i < TD_CLICK_COUNTS; i++)
        at += (size_t)snprintf(text + at, TD_CLICK_TEXT - at, "%ci%d", comma, i + 1);
    for (int f = 0; f < TD_CLICK_FIELDS; f++)
        at += (size_t)snprintf(text + at, TD_CLICK_TEXT - at, "%cc%d", comma, f + 1);
    text[at++] = '\n';
    return at;
}

static size_t put_number(char *text, uint64_t x)
{
    char digits[20];
    size_t n = 0, at = 0;
    do digits[n++] = (char)('0' + x % 10);
    while (x /= 10);
    while (n) text[at++] = digits[--n];
    return at;
}

/* Another name for each category of a field (a bijection: Murmur3's finaliser), never a number. */
static size_t put_name(char *text, int field, uint32_t category)
{
    uint32_t x = category + 0x9e3779b9u * (uint32_t)(field + 1);
    x = (x ^ x >> 16) * 0x85ebca6b;
    x = (x ^ x >> 13) * 0xc2b2ae35;
    x ^= x >> 16;
    *text = 'x';
    for (int k = 8; k > 0; k--, x >>= 4) text[k] = "0123456789abcdef"[x & 15];
    return 9;
}

/* Three digits behind the point. */
static size_t put_logarithm(char *text, uint32_t count)
{
    unsigned thousandths = (unsigned)lroundf(1000 * log1pf((float)count));
    size_t at = put_number(text, thousandths / 1000);
    text[at++] = '.';
    for (unsigned k = 100; k; k /= 10) text[at++] = (char)('0' + thousandths / k % 10);
    return at;
}

static size_t put_columns(const td_click_row *row, char comma, char *text)
{
    size_t at = 0;
    for (int i = 0; i < TD_CLICK_COUNTS; i++) {
        text[at++] = comma;
        at += put_number(text + at, row->count[i]);
    }
    for (int f = 0; f < TD_CLICK_FIELDS; f++) {
        text[at++] = comma;
        at += put_name(text + at, f, row->category[f]);
    }
    return at;
}

static size_t put_features(const td_click_config *c, const td_click_row *row, int fields,
                           char *text)
{
    size_t at = 0;
    for (int i = 0; i < TD_CLICK_COUNTS + TD_CLICK_FIELDS; i++) {
        int f = i - TD_CLICK_COUNTS;
        text[at++] = ' ';
        if (fields) {
            at += put_number(text + at, (uint64_t)i);
            text[at++] = ':';
        }
        at += put_number(text + at,
                         f < 0 ? (uint64_t)i
                               : TD_CLICK_COUNTS + (uint64_t)f * c->categories + row->category[f]);
        text[at++] = ':';
        if (f < 0)
            at += put_logarithm(text + at, row->count[i]);
        else
            text[at++] = '1';
    }
    return at;
}

size_t td_click_line(const td_click_config *c, const td_click_row *row, td_click_format format,
                     char text[TD_CLICK_TEXT])
{
    size_t at = 1;
    *text = row->clicked ? '1' : '0';
    at += has_columns(format) ? put_columns(row, between(format), text + at)
                              : put_features(c, row, format == TD_CLICK_LIBFFM, text + at);
    text[at++] = '\n';
    return at;
}
