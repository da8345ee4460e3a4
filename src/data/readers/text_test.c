/* Numbers against strtof, to the bit; lines and side files. */
#include "data/readers/text.h"

#include "base/rng.h"
#include "data/data_test.h"

static void assert_parses(const char *text)
{
    float got = -77, want = strtof(text, NULL);
    const char *end = text + strlen(text);
    if (td_parse_float(text, end, &got) != end) fail_msg("%s is not read to its end", text);
    if (memcmp(&got, &want, sizeof got) != 0)
        fail_msg("%s: %.9g, strtof %.9g", text, (double)got, (double)want);
    char line[1200]; /* with more text behind it, as in a file */
    int length = snprintf(line, sizeof line, "%s,8.25e3;99", text);
    const char *stop = td_parse_number(line, line + length, &got);
    if (stop != line + (end - text)) fail_msg("%s is not read to its end from a line", text);
    if (memcmp(&got, &want, sizeof got) != 0)
        fail_msg("%s from a line: %.9g, strtof %.9g", text, (double)got, (double)want);
}

static void test_numbers(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "0",
        "-0",
        "+1",
        "1.",
        ".5",
        "-.25e1",
        "1e0",
        "1E+5",
        "1e-5",
        "16777217",
        "16777219",
        "33554433.0",
        "0.1",
        "3.4028235e38",
        "3.4028236e38",
        "1e39",
        "-1e400",
        "1.1754944e-38",
        "1e-45",
        "7.0064923e-46",
        "7.0064924e-46",
        "1e-400",
        "0e999999999",
        "12345678901234567890",
        "123456789012345678901234567890",
        "0.000000000000000000000000000001",
        "9007199254740993",
        "9007199791611905",
        "9007199791611904.99999999999999999",
        "1.00000017881393432617187499",
        "1.00000017881393432617187500",
        "1.00000017881393432617187501",
        "8388608.5",
        "8388609.5",
        "0.00000000000000000000000000000000000001175494350822287508",
        "99999999999999999999e-20",
        "18446744073709551615",
        "18446744073709551616",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) assert_parses(texts[i]);
}

static void test_random_numbers(void **state)
{
    (void)state;
    td_rng rng;
    td_rng_init(&rng, 7, TD_RNG_TEST, 0, 0);
    for (int i = 0; i < 300000; i++) {
        char text[80];
        uint32_t bits = td_rng_u32(&rng);
        float x;
        memcpy(&x, &bits, sizeof x);
        if (x - x != 0) continue;
        snprintf(text, sizeof text, "%.*g", 1 + (int)td_rng_below(&rng, 20), (double)x);
        assert_parses(text);
        /* halfway between two floats, and one digit to either side of it */
        bits = (bits & 0x807fffff) | (100 + td_rng_below(&rng, 54)) << 23;
        memcpy(&x, &bits, sizeof x);
        float up = nextafterf(x, INFINITY);
        snprintf(text, sizeof text, "%.*e", 15 + (int)td_rng_below(&rng, 12), ((double)x + up) / 2);
        assert_parses(text);
        snprintf(text, sizeof text, "%u.%0*u", td_rng_below(&rng, 1000),
                 1 + (int)td_rng_below(&rng, 6), td_rng_below(&rng, 10));
        assert_parses(text);
    }
}

/* Every place of the point and of a sign around it, through all lengths that fit one word. */
static void test_short_numbers(void **state)
{
    (void)state;
    static const char *const signs[] = {"", "-", "+"};
    td_rng rng;
    td_rng_init(&rng, 8, TD_RNG_TEST, 0, 0);
    for (int length = 1; length <= 9; length++)
        for (int point = 0; point <= length; point++)
            for (int i = 0; i < 300; i++) {
                char text[20];
                int n = snprintf(text, sizeof text, "%s", signs[i % 3]);
                for (int k = 0; k < length; k++) {
                    if (k == point && point < length) text[n++] = '.';
                    text[n++] = (char)('0' + td_rng_below(&rng, 10));
                }
                if (i % 5 == 0) n += snprintf(text + n, sizeof text - (size_t)n, "e%d", i % 7 - 3);
                text[n] = 0;
                assert_parses(text);
            }
}

static void test_no_numbers(void **state)
{
    (void)state;
    static const char *const texts[] = {"",    "-",   "+",    ".",  "-.", "e5",
                                        "nan", "inf", "-inf", "x1", "--1"};
    float x;
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_null(td_parse_float(texts[i], texts[i] + strlen(texts[i]), &x));
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char line[40];
        int length = snprintf(line, sizeof line, "%s,1.5,2.5,3.5", texts[i]);
        assert_null(td_parse_number(line, line + length, &x));
    }
    static const struct {
        const char *text;
        size_t length;
    } parts[] = {{"1e", 1}, {"1e+", 1}, {"0x10", 1}, {"1.5.2", 3}, {"12abc", 2}, {"1-2", 1}};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        const char *text = parts[i].text;
        assert_ptr_equal(td_parse_float(text, text + strlen(text), &x), text + parts[i].length);
        char line[40];
        int length = snprintf(line, sizeof line, "%s,1.5,2.5,3.5", text);
        assert_ptr_equal(td_parse_number(line, line + length, &x), line + parts[i].length);
    }
}

static void test_side_files(void **state)
{
    (void)state;
    float w[3];
    int64_t g[5];
    assert_ok(td_read_numbers(source_of("w", "1\n 2.5 \r\n\n3", 11), 3, 0, w));
    assert_true(w[0] == 1 && w[1] == 2.5f && w[2] == 3);
    assert_fails(TD_ERR_DATA, "w:2: \"x\"", td_read_numbers(source_of("w", "1\nx\n", 4), 2, 0, w));
    assert_fails(TD_ERR_DATA, "w:1: \"-1\"", td_read_numbers(source_of("w", "-1\n", 3), 1, 0, w));
    assert_fails(TD_ERR_DATA, "w holds 1 numbers where 3",
                 td_read_numbers(source_of("w", "1\n", 2), 3, 0, w));
    assert_ok(td_read_group_sizes(source_of("q", "2\n3\n", 4), 5, g));
    assert_true(g[0] == 0 && g[1] == 0 && g[2] == 1 && g[4] == 1);
    assert_fails(TD_ERR_DATA, "behind the 4 rows",
                 td_read_group_sizes(source_of("q", "2\n3\n", 4), 4, g));
    assert_fails(TD_ERR_DATA, "hold 2 rows where the data has 5",
                 td_read_group_sizes(source_of("q", "2\n", 2), 5, g));
    assert_fails(TD_ERR_DATA, "q: query 1 has 1.5 rows, which is not a whole number",
                 td_read_group_sizes(source_of("q", "2\n1.5\n", 6), 5, g));
    assert_fails(TD_ERR_DATA, "query 0 ends behind the 5 rows",
                 td_read_group_sizes(source_of("q", "3e38\n", 5), 5, g));
    memset(g, 0, sizeof g);
    assert_ok(td_read_group_sizes(source_of("q", "\t\n2\t\n \t \r\n\r\n3\n\t", 15), 5, g));
    assert_true(g[1] == 0 && g[2] == 1 && g[4] == 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_random_numbers),
        cmocka_unit_test(test_short_numbers), cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_side_files),
    };
    return cmocka_run_group_tests_name("text", tests, NULL, NULL);
}
