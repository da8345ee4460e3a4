/* Opening by path: folders, names, content, side files, the cache; the real data sets if there. */
#include "data/data_test.h"

#include <fcntl.h>
#include <sys/stat.h>

static char folder[TD_PATH_MAX];

static int set_up(void **state)
{
    (void)state;
    make_folder(folder);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    return td_remove_tree(folder) == TD_OK ? 0 : 1;
}

static const char *in_folder(const char *name)
{
    static char path[TD_PATH_MAX];
    return td_path_join(path, folder, name) == TD_OK ? path : "";
}

static td_dataset *open_path(const char *path, const td_data_config *options)
{
    td_data_config config = options ? *options : (td_data_config){0};
    td_dataset *data = NULL;
    config.path = path;
    assert_ok(td_dataset_open(&config, &data));
    return data;
}

static td_status try_path(const char *path, td_data_config config)
{
    td_dataset *data;
    config.path = path;
    TD_TRY(td_dataset_open(&config, &data));
    td_dataset_close(data);
    return TD_OK;
}

static const unsigned char idx_images[] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0,
                                           0, 1, 0, 0, 0, 2, 1, 2, 3, 4};
static const unsigned char idx_labels[] = {0, 0, 8, 1, 0, 0, 0, 2, 1, 0};

static void test_idx_folder(void **state)
{
    (void)state;
    put_file(folder, "train-images-idx3-ubyte", idx_images, sizeof idx_images);
    assert_fails(TD_ERR_DATA, "not its labels, train-labels-idx1-ubyte",
                 try_path(folder, (td_data_config){0}));
    put_file(folder, "train-labels-idx1-ubyte", idx_labels, sizeof idx_labels);
    td_dataset *a = open_path(folder, NULL), *b;
    assert_int_equal(td_dataset_info(a)->samples, 2);
    unsigned char *gz;
    size_t size = make_gz(idx_images, sizeof idx_images, &gz);
    put_file(folder, "t10k-images.idx3-ubyte.gz", gz, size);
    free(gz);
    put_file(folder, "t10k-labels.idx1-ubyte", idx_labels, sizeof idx_labels);
    b = open_path(folder, &(td_data_config){.split = TD_SPLIT_TEST, .like = a});
    assert_same_data(a, b);
    td_dataset_close(b);
    b = open_path(in_folder("t10k-images.idx3-ubyte.gz"), NULL); /* finds its labels */
    assert_same_data(a, b);
    td_dataset_close(b);
    b = open_path(in_folder("train-images-idx3-ubyte"), NULL);
    assert_same_data(a, b);
    td_dataset_close(b);
    td_dataset_close(a);
    assert_fails(TD_ERR_DATA, "holds no test data: looked for test.csv, each also with .gz",
                 try_path(folder,
                          (td_data_config){.split = TD_SPLIT_TEST, .format = TD_FORMAT_CSV}));
}

static void test_missing_files(void **state)
{
    (void)state;
    assert_fails(TD_ERR_DATA, "looked for train-images-idx3-ubyte",
                 try_path(folder, (td_data_config){0}));
    assert_fails(TD_ERR_DATA, "there is no file or folder",
                 try_path(in_folder("no.csv"), (td_data_config){0}));
    assert_fails(TD_ERR_ARG, "needs a path", try_path(NULL, (td_data_config){0}));
    put_file(folder, "empty", "", 0);
    assert_fails(TD_ERR_DATA, "empty is empty", try_path(in_folder("empty"), (td_data_config){0}));
    put_file(folder, "text", "what is this", 12);
    assert_fails(TD_ERR_DATA, "neither its name nor its beginning",
                 try_path(in_folder("text"), (td_data_config){0}));
    put_file(folder, "a.csv", "1,2\n", 4);
    assert_fails(TD_ERR_ARG, "1 to 1024 threads",
                 try_path(in_folder("a.csv"), (td_data_config){.threads = 4000}));
    put_file(folder, "torn.csv.gz", "\x1f\x8b\x08\0\0\0", 6);
    assert_fails(TD_ERR_DATA, "the gzip data is cut off",
                 try_path(in_folder("torn.csv.gz"), (td_data_config){0}));
    put_file(folder, "x.npy", "1", 1);
    assert_fails(TD_ERR_DATA, "y.npy, which is not there",
                 try_path(in_folder("x.npy"), (td_data_config){0}));
    put_file(folder, "pixels-idx3-ubyte", idx_images, sizeof idx_images);
    assert_fails(TD_ERR_DATA, "has \"images\" in its name",
                 try_path(in_folder("pixels-idx3-ubyte"), (td_data_config){0}));
    td_dataset_close(open_path(in_folder("pixels-idx3-ubyte"), &(td_data_config){.label = "none"}));
}

static void test_some_weight_is_needed(void **state)
{
    (void)state;
    td_data_config config = {.weight_column = "w"};
    put_file(folder, "none.csv", "y,a,w\n1,5,0\n2,5,0\n", 18);
    assert_fails(TD_ERR_DATA, "none.csv: every sample has weight 0",
                 try_path(in_folder("none.csv"), config));
    put_file(folder, "plain.svm", "1 1:2\n0 1:3\n", 12);
    assert_fails(TD_ERR_ARG, "weight column \"w\": ", try_path(in_folder("plain.svm"), config));
    put_file(folder, "some.csv", "y,a,w\n1,5,0\n2,5,1\n", 18);
    assert_ok(try_path(in_folder("some.csv"), config));
}

static void test_by_content_and_side_files(void **state)
{
    (void)state;
    put_file(folder, "a.train", "1\t2\t3\n0\t4\t5\n", 12);
    put_file(folder, "a.train.weight", "2\n3\n", 4);
    td_dataset *d = open_path(in_folder("a.train"), NULL);
    assert_int_equal(td_dataset_info(d)->features, 2);
    assert_true(td_dataset_weight(d, 1) == 3);
    td_dataset_close(d);
    put_file(folder, "r.train", "1 1:2\n0 2:1\n", 12);
    put_file(folder, "r.train.query", "1\n1\n", 4);
    d = open_path(in_folder("r.train"), NULL);
    assert_true(td_dataset_info(d)->sparse && td_dataset_group(d, 1) == 1);
    td_dataset_close(d);
    unsigned char *gz;
    size_t size = make_gz("1,2\n", 4, &gz);
    put_file(folder, "packed", gz, size);
    put_file(folder, "train.csv.gz", gz, size);
    free(gz);
    d = open_path(in_folder("packed"), NULL);
    assert_row(d, 0, (float[]){2});
    td_dataset_close(d);
    d = open_path(folder, NULL);
    assert_row(d, 0, (float[]){2});
    td_dataset_close(d);
}

static void test_libffm_folder(void **state)
{
    (void)state;
    put_file(folder, "train.ffm", "1 0:3:1\n", 8);
    put_file(folder, "test.libffm", "0 2:1:1\n", 8);
    put_file(folder, "f.train", "1 0:3:1\n", 8); /* by its content */
    td_data_config config = {.index_base = 1};
    td_dataset *d = open_path(folder, &config), *test;
    assert_int_equal(*td_dataset_sparse_fields(d, 0), 0);
    test = open_path(folder, &(td_data_config){.split = TD_SPLIT_TEST, .like = d});
    assert_int_equal(*td_dataset_sparse_fields(test, 0), 2);
    td_dataset_close(test);
    td_dataset_close(d);
    d = open_path(in_folder("f.train"), NULL);
    assert_non_null(td_dataset_sparse_fields(d, 0));
    td_dataset_close(d);
}

static void set_time(const char *path, time_t seconds)
{
    struct timespec times[2] = {{seconds, 0}, {seconds, 0}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void check_cache(const char *name, const char *text, const td_data_config *options)
{
    char source[TD_PATH_MAX], cache[TD_PATH_MAX + 16];
    put_file(folder, name, text, strlen(text));
    snprintf(source, sizeof source, "%s", in_folder(name));
    snprintf(cache, sizeof cache, "%s.tdcache", source);
    set_time(source, 1000000);
    td_data_config with = *options;
    with.cache = true;
    td_dataset *plain = open_path(source, options), *d;
    assert_false(td_path_exists(cache));
    for (int round = 0; round < 2; round++) {
        d = open_path(source, &with);
        assert_int_equal(d->cache.size > 0, round == 1);
        assert_same_data(plain, d);
        td_dataset_close(d);
    }
    /* Any altered or missing byte: parsed again and written again. */
    char *bytes;
    size_t size;
    assert_ok(td_read_file(cache, &bytes, &size));
    for (size_t i = 0; i < size; i += 1 + size / 97) {
        bytes[i] ^= 4;
        assert_ok(td_write_file(cache, bytes, i % 2 ? size : i));
        bytes[i] ^= 4;
        d = open_path(source, &with);
        assert_same_data(plain, d);
        td_dataset_close(d);
    }
    td_free(bytes);
    /* Another time, other options: out of date. */
    d = open_path(source, &with);
    assert_true(d->cache.size > 0);
    td_dataset_close(d);
    set_time(source, 2000000);
    d = open_path(source, &with);
    assert_int_equal(d->cache.size, 0);
    td_dataset_close(d);
    with.label_kind = TD_LABEL_CLASS;
    d = open_path(source, &with);
    assert_int_equal(d->cache.size, 0);
    td_dataset_close(d);
    td_dataset_close(plain);
}

static void test_cache(void **state)
{
    (void)state;
    check_cache("t.csv", "label,c,d,v\nx,b,q,5\ny,a,q,6\nx,?,r,7\n",
                &(td_data_config){.one_hot = true, .weight_column = "v", .missing = "?"});
}

static void test_cache_kinds(void **state)
{
    (void)state;
    check_cache("u.csv", "label,c,d\nx,b,1\ny,a,2\nx,?,\n", &(td_data_config){0});
    check_cache("h.csv", "label,c,d\nx,b,1\ny,a,2\nx,?,\n",
                &(td_data_config){.hash_categories = true, .hash_seed = 9});
    check_cache("v.csv", "1.5,2\n-3,4\n", &(td_data_config){0});
    check_cache("w.svm", "1:2 qid:1 1:2 5:1\n-1:1 qid:2 2:1\n", &(td_data_config){0});
    check_cache("w.ffm", "1 3:1:2 0:5:1\n-1 1:2:1 9:2:4\n", &(td_data_config){0});
}

/* A test set kept for one training set is not that of another. */
static void test_cache_of_a_test_set(void **state)
{
    (void)state;
    static const char *const trains[] = {"label,c\n-1,2\n1,3\n", "label,d\n-1,2\n1,3\n",
                                         "label,c\na,2\nb,3\n"};
    put_file(folder, "new.csv", trains[0], strlen(trains[0]));
    for (int i = 0; i < 3; i++) {
        put_file(folder, "old.csv", trains[i], strlen(trains[i]));
        td_dataset *train = open_path(in_folder("old.csv"), NULL);
        td_data_config config = {.like = train, .cache = true};
        if (i == 0)
            td_dataset_close(open_path(in_folder("new.csv"), &config));
        else
            assert_fails(TD_ERR_DATA, i == 1 ? "where the training set has \"d\"" : "class \"-1\"",
                         try_path(in_folder("new.csv"), config));
        td_dataset_close(train);
    }
}

static td_status try_cached(void *arg)
{
    td_data_config config = {.cache = true, .threads = 2};
    return try_path(arg, config);
}

static td_status try_fresh(void *arg)
{
    char cache[TD_PATH_MAX + 16];
    snprintf(cache, sizeof cache, "%s.tdcache", (const char *)arg);
    unlink(cache);
    return try_cached(arg);
}

static void test_no_memory(void **state)
{
    (void)state;
    char path[TD_PATH_MAX];
    put_file(folder, "m.csv", "label,c,v\nx,b,5\ny,a,6\n", 22);
    snprintf(path, sizeof path, "%s", in_folder("m.csv"));
    /* A cache that cannot be had is no failure, so success is no sign of the last allocation. */
    for (int fresh = 0; fresh < 2; fresh++)
        for (size_t k = 1; k < 120; k++) {
            td_alloc_fail_at(k);
            td_status status = fresh ? try_fresh(path) : try_cached(path);
            td_alloc_fail_at(0);
            assert_true(status == TD_OK || status == TD_ERR_NOMEM);
            if (k == 119) assert_true(status == TD_OK);
        }
}

/* ---- data sets that a developer's machine may have ---- */

static void check_real(const char *name, td_data_config config, uint64_t samples, size_t features,
                       int classes)
{
    char path[TD_PATH_MAX];
    if (!development_data(name, path)) return;
    td_dataset *d = open_path(path, &config);
    assert_int_equal(td_dataset_info(d)->samples, samples);
    assert_int_equal(td_dataset_info(d)->features, features);
    assert_int_equal(td_dataset_info(d)->classes, classes);
    td_dataset_close(d);
}

static void test_real_data(void **state)
{
    (void)state;
    check_real("adult/adult-train.csv", (td_data_config){.label = "-1"}, 32561, 14, 2);
    check_real("adult/a9a", (td_data_config){0}, 32561, 123, 2);
    check_real("kdd99.csv.gz", (td_data_config){.label = "-1"}, 494021, 41, 23);
    check_real("shuttle.csv.gz", (td_data_config){.label = "Class"}, 58000, 9, 7);
    check_real("fertility.csv.gz", (td_data_config){.label = "morekids", .one_hot = true}, 254654,
               12, 2);
    check_real("insteval.csv.gz", (td_data_config){.label = "y", .label_kind = TD_LABEL_VALUE},
               73421, 2, 0);
    check_real("california-housing.csv", (td_data_config){.label = "median_house_value"}, 20640, 9,
               0);
    check_real("higgs7k/binary.train", (td_data_config){0}, 7000, 28, 2);
    check_real("lambdarank/rank.train", (td_data_config){0}, 3005, 300, 5);
    check_real("cora/nodes.svm", (td_data_config){0}, 2708, 1433, 7);
}

static void test_fashion_mnist(void **state)
{
    (void)state;
    const char *path = "/usr/share/datasets/fashion-mnist";
    if (!td_path_is_dir(path)) {
        print_message("package dataset-fashion-mnist is not there: skipped\n");
        return;
    }
    td_dataset *train = open_path(path, NULL);
    td_dataset *test = open_path(path, &(td_data_config){.split = TD_SPLIT_TEST, .like = train});
    assert_int_equal(td_dataset_info(train)->samples, 60000);
    assert_int_equal(td_dataset_info(test)->samples, 10000);
    int count[10] = {0};
    for (uint64_t i = 0; i < 60000; i++) count[td_dataset_label(train, i)]++;
    for (int k = 0; k < 10; k++) assert_int_equal(count[k], 6000);
    td_normalise n;
    assert_ok(td_normalise_fit(train, TD_NORMALISE_STANDARD, &n));
    assert_true(fabs(n.mean[0] / 255 - 0.2860) < 1e-4); /* as published with the data */
    assert_true(fabs(1 / n.scale[0] / 255 - 0.3530) < 1e-4);
    td_normalise_fini(&n);
    td_dataset_close(test);
    td_dataset_close(train);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_idx_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_missing_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_some_weight_is_needed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_by_content_and_side_files, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_libffm_folder, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cache, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cache_kinds, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cache_of_a_test_set, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_memory, set_up, tear_down),
        cmocka_unit_test(test_real_data),
        cmocka_unit_test(test_fashion_mnist),
    };
    return cmocka_run_group_tests_name("open", tests, NULL, NULL);
}
