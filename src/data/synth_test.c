/* The planted model is what the rows follow, and their categories Zipf's law. */
#include "data/synth.h"

#include "base/test.h"
#include "tandem/data.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

static void rows_follow_the_planted_model(void **state)
{
    (void)state;
    enum { ROWS = 40000 };
    td_click_config c = {.seed = 3, .categories = 1000, .zipf = 1.1};
    double clicks[10] = {0}, wanted[10] = {0}, variance[10] = {0};
    for (uint64_t row = 0; row < ROWS; row++) {
        td_click_row r, again;
        td_click_make(&c, row, &r);
        td_click_make(&c, row, &again);
        assert_memory_equal(&r, &again, sizeof r);
        int k = (int)(r.probability * 10);
        assert_in_range(k, 0, 9);
        clicks[k] += r.clicked, wanted[k] += r.probability;
        variance[k] += r.probability * (1 - r.probability);
    }
    for (int k = 0; k < 10; k++)
        assert_true(fabs(clicks[k] - wanted[k]) <= 5 * sqrt(variance[k]) + 1);
}

static void categories_follow_zipf(void **state)
{
    (void)state;
    static const double exponents[] = {0, 0.7, 1, 1.1, 2.5};
    enum { N = 40, ROWS = 4000, FIRST = 6 };
    for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++) {
        td_click_config c = {.seed = 8, .categories = N, .zipf = exponents[e]};
        double seen[N] = {0}, all = 0;
        for (int k = 1; k <= N; k++) all += pow(k, -exponents[e]);
        for (uint64_t row = 0; row < ROWS; row++) {
            td_click_row r;
            td_click_make(&c, row, &r);
            for (int f = 0; f < TD_CLICK_FIELDS; f++) {
                assert_in_range(r.category[f], 0, N - 1);
                seen[r.category[f]]++;
            }
        }
        for (int k = 1; k <= N; k++) {
            double n = (double)ROWS * TD_CLICK_FIELDS, p = pow(k, -exponents[e]) / all;
            assert_true(fabs(seen[k - 1] - n * p) <= 5 * sqrt(n * p * (1 - p)) + 1);
        }
    }
    td_click_config one = {.seed = 8, .categories = 1, .zipf = 1.1};
    td_click_row r;
    td_click_make(&one, 5, &r);
    for (int f = 0; f < TD_CLICK_FIELDS; f++) assert_int_equal(r.category[f], 0);
}

/* Every line is one that the readers take. */
static void lines_can_be_read(void **state)
{
    (void)state;
    enum { ROWS = 300 };
    for (td_click_format format = TD_CLICK_TSV; format <= TD_CLICK_LIBFFM; format++) {
        td_click_config c = {.seed = 1, .categories = 100000000, .zipf = 0.5};
        bool columns = format <= TD_CLICK_CSV;
        if (!columns) c.categories = 1000; /* its features end at 2^31 */
        char path[] = "/tmp/td-synth-XXXXXX.svm", line[TD_CLICK_TEXT];
        strcpy(path + strlen(path) - 3, format == TD_CLICK_TSV      ? "tsv"
                                        : format == TD_CLICK_CSV    ? "csv"
                                        : format == TD_CLICK_LIBSVM ? "svm"
                                                                    : "ffm");
        int fd = mkstemps(path, 4);
        assert_true(fd >= 0);
        assert_int_equal(td_click_format_of(path), format);
        FILE *f = fdopen(fd, "w");
        fwrite(line, 1, td_click_header(format, line), f);
        int clicks = 0;
        for (uint64_t row = 0; row < ROWS; row++) {
            td_click_row r;
            td_click_make(&c, row, &r);
            size_t n = td_click_line(&c, &r, format, line);
            assert_in_range(n, 40, TD_CLICK_TEXT);
            fwrite(line, 1, n, f);
            clicks += r.clicked;
        }
        fclose(f);
        td_dataset *data;
        td_data_config config = {.path = path, .label = columns ? "click" : NULL};
        assert_ok(td_dataset_open(&config, &data));
        assert_int_equal(td_dataset_info(data)->samples, ROWS);
        assert_int_equal(td_dataset_info(data)->classes, 2);
        for (uint64_t row = 0; row < ROWS; row++) clicks -= td_dataset_label(data, row);
        assert_int_equal(clicks, 0);
        td_dataset_close(data);
        unlink(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_follow_the_planted_model),
        cmocka_unit_test(categories_follow_zipf),
        cmocka_unit_test(lines_can_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
