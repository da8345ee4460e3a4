/* Options: rows, defaults, flags, job files, and a sentence for every mistake. */
#include "base/options.h"

#include "base/test.h"

#include <math.h>
#include <stdlib.h>

enum { A = 1, B = 2 };

typedef struct config {
    bool flip, quiet;
    int batch, any, header;
    uint64_t steps, seed;
    td_period every;
    double lr, beta;
    char *path, *rule;
    int shuffle;
} config;

#define AT(field) offsetof(config, field)
static const char *const shuffles[] = {"global", "leaf", "none", NULL};
static const td_option rows[] = {
    {"data.path", "data", TD_OPT_TEXT, AT(path), NULL, "PATH", "training data", 0, 0, NULL, A},
    {"data.header", "header", TD_OPT_INT, AT(header), "0", "N", "-1 to 1", -1, 1, NULL, A},
    {"data.shuffle", "shuffle", TD_OPT_CHOICE, AT(shuffle), "leaf", "HOW", "order", 0, 0, shuffles,
     A, "--batch is a number"},
    {"augment.flip", "flip", TD_OPT_BOOL, AT(flip), "false", NULL, "mirror", 0, 0, NULL, A},
    {"optimizer.name", "optimizer", TD_OPT_TEXT, AT(rule), "sgd", "RULE", "update rule", 0, 0, NULL,
     A | B},
    {"optimizer.lr", "lr", TD_OPT_NUMBER, AT(lr), "0.01", "RATE", "learning rate", 1e-12, 1e6, NULL,
     A},
    {"optimizer.beta", "beta", TD_OPT_NUMBER, AT(beta), NULL, "B", "any number", 0, 0, NULL, A},
    {"train.batch", "batch", TD_OPT_INT, AT(batch), "128", "N", "samples", 1, 16777216, NULL,
     A | B},
    {"train.steps", "steps", TD_OPT_SIZE, AT(steps), "0", "N", "steps", 0, 0, NULL, A},
    {"checkpoint.every", "every", TD_OPT_PERIOD, AT(every), "0", "PERIOD", "between checkpoints", 0,
     0, NULL, A},
    {"any", NULL, TD_OPT_INT, AT(any), NULL, "N", "any whole number", 0, 0, NULL, A},
    {"train.seed", "seed", TD_OPT_SIZE, AT(seed), "1", "N", "seed", 1, 1e15, NULL, A},
    {"quiet", NULL, TD_OPT_BOOL, AT(quiet), "true", NULL, "say less", 0, 0, NULL, B},
    {NULL, NULL, TD_OPT_BOOL, 0, NULL, NULL, NULL, 0, 0, NULL, 0},
};
enum { ROWS = sizeof rows / sizeof *rows };

static config c;

static int set_up(void **state)
{
    (void)state;
    memset(&c, 0, sizeof c);
    return td_options_init(rows, &c) != TD_OK;
}

static int tear_down(void **state)
{
    (void)state;
    td_options_fini(rows, &c);
    return 0;
}

static td_status set(const char *name, const char *text)
{
    return td_option_set(td_option_by_name(rows, name), &c, name, text);
}

enum { WORDS = 8 };

/* Parses words parted by '|'. */
static const char *rest[2];
static bool given[ROWS];
static int rest_count;
static td_status parse(unsigned where, const char *line)
{
    static char text[512];
    char *words[WORDS], *at = text;
    int n = 0;
    snprintf(text, sizeof text, "%s", line);
    for (char *word; n < WORDS && (word = strsep(&at, "|"));) words[n++] = word;
    memset(given, 0, sizeof given);
    td_arguments a = {.where = where, .rest = rest, .rest_room = 2, .given = given};
    td_status status = td_options_parse(rows, &c, n, words, &a);
    rest_count = a.rest_count;
    return status;
}

static td_status yaml(const char *text)
{
    return td_options_read_yaml(rows, &c, A, "job.yaml", text, strlen(text));
}

static void defaults_are_those_of_the_rows(void **state)
{
    (void)state;
    assert_null(c.path);
    assert_string_equal(c.rule, "sgd");
    assert_int_equal(c.batch, 128);
    assert_int_equal(c.steps, 0);
    assert_int_equal(c.seed, 1);
    assert_int_equal(c.shuffle, 1);
    assert_true(c.lr == 0.01 && c.beta == 0 && c.quiet && !c.flip);
    td_options_fini(rows, &c);
    assert_null(c.rule);
    td_options_fini(rows, &c); /* twice is fine */
}

static void nothing_is_said_twice(void **state)
{
    (void)state;
    assert_fails(TD_ERR_ARG, "job.yaml:3: \"batch\" is there twice",
                 yaml("train:\n  batch: 32\n  batch: 64\n"));
    assert_fails(TD_ERR_ARG, "job.yaml:4: a job file holds one document",
                 yaml("train:\n  batch: 32\n---\ntrain:\n  batch: 64\n"));
    assert_fails(TD_ERR_ARG, "job.yaml:3: \"train.batch\" is there twice",
                 yaml("train:\n  batch: 32\ntrain.batch: 64\n"));
    assert_fails(TD_ERR_ARG, "job.yaml:2: \"optimizer.name\" is there twice",
                 yaml("optimizer: sgd\noptimizer.name: adam\n"));
    assert_ok(yaml("---\ntrain:\n  batch: 32\n...\n"));
    assert_int_equal(c.batch, 32);
}

static void names_in_job_files(void **state)
{
    (void)state;
    assert_fails(TD_ERR_ARG, "job.yaml:1: unknown option \"lr\"; did you mean optimizer.lr?",
                 yaml("lr: 0.1\n"));
    assert_fails(TD_ERR_ARG, "job.yaml:1: unknown option \"data\"; did you mean data.path?",
                 yaml("data: a.csv\n"));
    assert_fails(TD_ERR_ARG,
                 "job.yaml:1: unknown option \"train\"; there are options in it, such as "
                 "train.batch",
                 yaml("train: 5\n"));
    assert_fails(TD_ERR_ARG,
                 "job.yaml:2: unknown option \"quiet\" in a job file; give it as --quiet",
                 yaml("any: 3\nquiet: true\n"));
    assert_ok(yaml("train:\n"));
    assert_fails(TD_ERR_ARG, "write --set NAME=VALUE", parse(A, "--set|=1"));
}

static void periods(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t steps, seconds;
        const char *written;
    } good[] = {{"0", 0, 0, "0"},       {"250", 250, 0, "250"},   {"30s", 0, 30, "30s"},
                {"5m", 0, 300, "300s"}, {"1e3", 1000, 0, "1000"}, {"2h", 0, 7200, "7200s"}};
    static const char *const bad[] = {"",    "s",   "-5",   "-5s", "5x",
                                      "5 m", "5ms", "1.5h", "nan", "0s"};
    char text[64];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_ok(set("checkpoint.every", good[i].text));
        assert_int_equal(c.every.steps, good[i].steps);
        assert_int_equal(c.every.seconds, good[i].seconds);
        td_option_text(td_option_by_name(rows, "checkpoint.every"), &c, text, sizeof text);
        assert_string_equal(text, good[i].written);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_fails(TD_ERR_ARG, i + 1 < sizeof bad / sizeof *bad ? "is neither" : "at least 1s",
                     set("checkpoint.every", bad[i]));
    assert_fails(TD_ERR_ARG, "at most", set("checkpoint.every", "99999999999999999999"));
    assert_int_equal(c.every.seconds, 7200); /* what was refused changes nothing */
}

static void values_of_every_type(void **state)
{
    (void)state;
    assert_ok(set("augment.flip", "yes"));
    assert_true(c.flip);
    assert_ok(set("augment.flip", "off"));
    assert_false(c.flip);
    assert_ok(set("data.header", "-1"));
    assert_int_equal(c.header, -1);
    assert_ok(set("train.batch", "1e3"));
    assert_int_equal(c.batch, 1000);
    assert_ok(set("train.steps", "1e3")); /* not the 1 before the e */
    assert_int_equal(c.steps, 1000);
    assert_ok(set("train.steps", "9000000000000000"));
    assert_true(c.steps == 9000000000000000);
    assert_ok(set("any", "-2147483647"));
    assert_int_equal(c.any, -2147483647);
    assert_ok(set("optimizer.lr", "2.5e-3"));
    assert_true(c.lr == 2.5e-3);
    assert_ok(set("optimizer.beta", "-.5"));
    assert_true(c.beta == -.5);
    assert_ok(set("data.shuffle", "none"));
    assert_int_equal(c.shuffle, 2);
    assert_ok(set("data.path", ""));
    assert_string_equal(c.path, "");
    assert_ok(set("data.path", "x y"));
    assert_string_equal(c.path, "x y");
}

static void bad_values_change_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *says;
    } cases[] = {
        {"optimizer.lr", "fast", "optimizer.lr: \"fast\" is not a number"},
        {"optimizer.lr", "", "is not a number"},
        {"optimizer.lr", "0.1x", "is not a number"},
        {"optimizer.lr", "1,5", "is not a number"},
        {"optimizer.lr", "nan", "is not a number"},
        {"optimizer.lr", "inf", "is not a number"},
        {"optimizer.lr", "1e999", "is not a number"},
        {"optimizer.lr", "0", "must be 1e-12 to 1000000, not 0"},
        {"optimizer.lr", "-1", "must be"},
        {"train.batch", "1.5", "is not a whole number"},
        {"train.batch", "many", "is not a whole number"},
        {"train.batch", "0", "must be 1 to 16777216, not 0"},
        {"train.batch", "16777217", "must be 1 to 16777216, not 16777217"},
        {"train.batch", "1e300", "is too large; 16777216 is the most"},
        {"any", "3000000000", "must be at most 2147483647, not 3000000000"},
        {"any", "-3000000000", "must be at least -2147483647, not -3000000000"},
        {"train.steps", "-1", "must be at least 0, not -1"},
        {"train.steps", "18446744073709551616", "is not a whole number"},
        {"train.seed", "0", "must be at least 1, not 0"},
        {"train.seed", "2e15", "must be at most 1e+15, not 2e15"},
        {"data.header", "2", "must be -1 to 1, not 2"},
        {"augment.flip", "maybe", "\"maybe\" is neither true nor false"},
        {"augment.flip", "", "neither true nor false"},
        {"data.shuffle", "globl", "\"globl\" is not one of global, leaf, none"},
        {"data.shuffle", "3", "\"3\" is not one of global, leaf, none; --batch is a number"},
    };
    config before = c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(TD_ERR_ARG, cases[i].says, set(cases[i].name, cases[i].text));
    assert_memory_equal(&c, &before, sizeof c);
}

static void flags_in_all_their_forms(void **state)
{
    (void)state;
    assert_ok(parse(A, "one|--lr|0.5|--batch=7|--flip|two"));
    assert_true(c.lr == 0.5 && c.batch == 7 && c.flip);
    assert_int_equal(rest_count, 2);
    assert_string_equal(rest[0], "one");
    assert_string_equal(rest[1], "two");
    assert_true(given[5] && given[7] && given[3] && !given[0]);
    assert_ok(parse(A, "--no-flip|--beta|-3|--optimizer.lr|0.25|--data=a=b"));
    assert_true(!c.flip && c.beta == -3 && c.lr == 0.25);
    assert_string_equal(c.path, "a=b");
    assert_ok(parse(A, "--set|optimizer.lr=0.75|--set=batch=9|--set|data.path="));
    assert_true(c.lr == 0.75 && c.batch == 9 && given[5] && given[7]);
    assert_string_equal(c.path, "");
    assert_ok(parse(A, "--flip=false|--lr|1|--lr|2|--|--lr")); /* the last counts; -- ends flags */
    assert_true(!c.flip && c.lr == 2);
    assert_string_equal(rest[0], "--lr");
    assert_ok(parse(B, "--batch|3|-"));
    assert_int_equal(c.batch, 3);
    assert_string_equal(rest[0], "-");
}

static void mistaken_flags_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *line, *says;
    } cases[] = {
        {"--bacth|3", "unknown option --bacth; did you mean --batch?"},
        {"--optimzer=adam", "did you mean --optimizer?"},
        {"--optimiser.lr|1", "did you mean --optimizer.lr?"},
        {"--no-flop", "unknown option --no-flop"},
        {"--no-lr", "unknown option --no-lr"},
        {"--no-flip=true", "--no-flip takes no value"},
        {"--zzzzzzzzzz", "\"tandem help\" lists them"},
        {"-l|3", "unknown option -l"},
        {"--quiet", "unknown option --quiet"}, /* of another command */
        {"--lr", "--lr needs a value"},
        {"--lr=", "--lr: \"\" is not a number"},
        {"--lr|--flip", "--lr: \"--flip\" is not a number"},
        {"--set", "--set needs a value"},
        {"--set|lr", "write --set NAME=VALUE"},
        {"--set|optimizer.lt=1", "unknown option optimizer.lt; did you mean optimizer.lr?"},
        {"--set|train.batch=x", "train.batch: \"x\" is not a whole number"},
        {"a|b|c", "unexpected argument \"c\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(TD_ERR_ARG, cases[i].says, parse(A, cases[i].line));
    char word[400] = "--";
    memset(word + 2, 'x', sizeof word - 3);
    assert_fails(TD_ERR_ARG, "unknown option --xxx", parse(A, word));
}

static void the_nearest_word(void **state)
{
    (void)state;
    static const char *const words[] = {"epochs", "batch", "lr", NULL}, *const none[] = {NULL};
    assert_string_equal(td_nearest("epoch", words), "epochs");
    assert_string_equal(td_nearest("l", words), "lr");
    assert_string_equal(td_nearest("batch", words), "batch");
    assert_null(td_nearest("zebra-crossing", words));
    assert_null(td_nearest("epochs", none));
    char longer[200];
    memset(longer, 'b', sizeof longer);
    longer[199] = 0;
    assert_null(td_nearest(longer, words));
}

static void job_files_in_all_their_forms(void **state)
{
    (void)state;
    assert_ok(yaml(""));
    assert_ok(yaml("# nothing\n"));
    assert_ok(yaml("optimizer: {name: adam, lr: 5e-1}\n"
                   "train:\n  batch: 64\n  steps: \"12\"\n"
                   "data.path: 'it''s'\ndata.shuffle: none\naugment: {flip: true}\nany: -4\n"));
    assert_string_equal(c.rule, "adam");
    assert_string_equal(c.path, "it's");
    assert_true(c.lr == 0.5 && c.flip);
    assert_int_equal(c.batch, 64);
    assert_int_equal(c.steps, 12);
    assert_int_equal(c.shuffle, 2);
    assert_int_equal(c.any, -4);
    assert_ok(yaml("optimizer: nesterov\n")); /* stands for its name */
    assert_string_equal(c.rule, "nesterov");
    assert_ok(yaml("{\"train\": {\"batch\": 8}, \"augment.flip\": false}")); /* JSON is YAML */
    assert_true(c.batch == 8 && !c.flip);
    assert_ok(yaml("train: {}\n"));
}

static void mistaken_job_files_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"train:\n  bacth: 3\n",
         "job.yaml:2: unknown option \"train.bacth\"; did you mean train.batch?"},
        {"optimiser: {lr: 1}\n",
         "job.yaml:1: unknown option \"optimiser.lr\"; did you mean optimizer.lr?"},
        {"nonsense: {}\n", "unknown option \"nonsense\""},
        {"nonsense: {a: {b: {c: 1}}}\n", "unknown option \"nonsense.a\""},
        {"train: {batch: {n: 1}}\n", "unknown option \"train.batch.n\""},
        {"train: 3\n", "unknown option \"train\""},
        {"quiet: true\n", "unknown option \"quiet\""}, /* not of job files */
        {"optimizer:\n  lr: fast\n", "job.yaml:2: optimizer.lr: \"fast\" is not a number"},
        {"train: {batch: 0}\n", "job.yaml:1: train.batch must be 1 to 16777216, not 0"},
        {"train: {batch: }\n", "is not a whole number"},
        {"train: {batch: [1, 2]}\n", "\"batch\" must be a plain value"},
        {"- train\n", "list of \"name: value\" lines"},
        {"just words\n", "list of \"name: value\" lines"},
        {"? [a, b]\n: 1\n", "a plain name was expected"},
        {"train: {batch: 1\n", "job.yaml:2: not YAML"},
        {"a: b: c\n", "job.yaml:1: not YAML"},
        {"\ttrain: 1\n", "not YAML"},
        {"data.path: \"a\\0b\"\n", "holds a zero byte"},
        {"data: &a {x: *a, y: *a}\n", "unknown option"},
        {"x: &a {x: *a, y: *a}\n", "unknown option"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_fails(TD_ERR_ARG, cases[i].says, yaml(cases[i].text));
}

/* What is written reads back as the same values, whatever they hold. */
static void a_written_job_file_reads_back(void **state)
{
    (void)state;
    static const char *const texts[] =
        {"it's: #1 \"x\"", " ",        "",    "a\\b", "line\nline\ttab\r\x01\"\\",
         "true",           "\xc3\xa9", "- x", "@x",   "{a}"};
    static const double numbers[] = {0.1, 1. / 3, 1e-12, 123456.789, 1e6, 2e-5};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_ok(set("data.path", texts[i]));
        c.lr = numbers[i % 6];
        c.beta = -c.lr;
        c.steps = 9000000000000000 - i;
        c.flip = i % 2;
        c.seed = i + 1;
        char *text;
        assert_ok(td_options_write_yaml(rows, &c, A, &text));
        assert_null(strstr(text, "quiet"));
        config was = c;
        memset(&c, 0, sizeof c);
        assert_ok(yaml(text));
        assert_string_equal(c.path, was.path);
        assert_string_equal(c.rule, was.rule);
        assert_true(c.lr == was.lr && c.beta == was.beta && c.steps == was.steps);
        assert_true(c.flip == was.flip && c.batch == was.batch && c.shuffle == was.shuffle);
        assert_true(c.seed == was.seed);
        td_options_fini(rows, &was);
        td_free(text);
    }
}

static void help_lists_what_a_command_has(void **state)
{
    (void)state;
    char *text = NULL, value[40];
    size_t size;
    FILE *to = open_memstream(&text, &size);
    assert_non_null(to);
    td_options_print(rows, B, to);
    fclose(to);
    assert_non_null(strstr(text, "--batch N"));
    assert_non_null(strstr(text, "samples [128]"));
    assert_null(strstr(text, "--lr"));
    free(text);
    td_option_text(td_option_by_name(rows, "optimizer.lr"), &c, value, sizeof value);
    assert_string_equal(value, "0.01");
    td_option_text(td_option_by_name(rows, "data.path"), &c, value, sizeof value);
    assert_string_equal(value, "");
    assert_null(td_option_by_name(rows, "lr"));
}

static td_status try_all(void *arg)
{
    (void)arg;
    config d = {0};
    char *text = NULL;
    static const char job[] = "optimizer: adam\ndata: {path: x}\n";
    td_status status = td_options_init(rows, &d);
    if (status == TD_OK) status = td_options_read_yaml(rows, &d, A, "job", job, sizeof job - 1);
    if (status == TD_OK) status = td_options_write_yaml(rows, &d, A, &text);
    td_free(text);
    td_options_fini(rows, &d);
    return status;
}

static void memory_may_run_out(void **state)
{
    (void)state;
    assert_survives_no_memory(try_all, NULL);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(defaults_are_those_of_the_rows),
        TEST(nothing_is_said_twice),
        TEST(names_in_job_files),
        TEST(periods),
        TEST(values_of_every_type),
        TEST(bad_values_change_nothing),
        TEST(flags_in_all_their_forms),
        TEST(mistaken_flags_are_named),
        TEST(the_nearest_word),
        TEST(job_files_in_all_their_forms),
        TEST(mistaken_job_files_are_named),
        TEST(a_written_job_file_reads_back),
        TEST(help_lists_what_a_command_has),
        TEST(memory_may_run_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
