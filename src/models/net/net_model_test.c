/* Warm steps allocate nothing: a run of forty steps asks the heap as often as one of ten. Every
 * allocation of the process is counted, the C library's own included. */
#include "models/net/net_model.h"

#include "base/alloc.h"
#include "base/error.h"
#include "base/test.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define COUNTED 0
#else
#define COUNTED 1
static atomic_long allocations;
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t m);
void *__libc_realloc(void *p, size_t n);
void *__libc_memalign(size_t a, size_t n);

void *malloc(size_t n)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t m)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_calloc(n, m);
}
void *realloc(void *p, size_t n)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_realloc(p, n);
}
void *aligned_alloc(size_t a, size_t n)
{
    atomic_fetch_add(&allocations, 1);
    return __libc_memalign(a, n);
}
#endif

enum { SAMPLES = 2000, SIDE = 8 };

typedef struct fixture {
    td_job job;
    td_dataset *data;
    td_net_model model;
} fixture;

static td_status rank(td_comm *comm, void *arg)
{
    fixture *f = arg;
    td_train_data data = {.train = f->data, .normalise = &f->model.normalise};
    return td_net_model_train(comm, &f->job, &data, &f->model, NULL);
}

static long run(fixture *f, uint64_t steps, int workers)
{
    f->job.steps = steps;
#if COUNTED
    long before = atomic_load(&allocations);
#else
    long before = 0;
#endif
    assert_ok(td_comm_run_local(workers, NULL, rank, f));
    assert_ok(td_remove_tree(f->job.run));
    assert_ok(td_make_dirs(f->job.run));
#if COUNTED
    return atomic_load(&allocations) - before;
#else
    return before;
#endif
}

static void warm_steps_allocate_nothing(void **state)
{
    (void)state;
    static uint8_t pixels[SAMPLES][SIDE * SIDE];
    static int32_t labels[SAMPLES];
    static const char *const archs[] = {"dense:16 relu dense:0",
                                        "conv:4,3 bn relu pool:2 dropout:0.1 dense:0"};
    char folder[] = "/tmp/td-warm-XXXXXX";
    assert_non_null(mkdtemp(folder));
    for (int i = 0; i < SAMPLES; i++) {
        labels[i] = i % 3;
        for (int k = 0; k < SIDE * SIDE; k++) pixels[i][k] = (uint8_t)(i * 31 + k * labels[i]);
    }
    td_arrays arrays = {.samples = SAMPLES,
                        .rank = 3,
                        .shape = {1, SIDE, SIDE},
                        .dtype = TD_DTYPE_U8,
                        .x = pixels,
                        .label = labels,
                        .classes = 3};
    for (size_t a = 0; a < 2; a++) {
        fixture f = {0};
        assert_ok(td_job_init(&f.job));
        td_free(f.job.model);
        f.job.model = td_strdup(archs[a]);
        f.job.run = td_strdup(folder);
        f.job.batch = 32, f.job.quiet = true, f.job.metrics_every = 1000, f.job.momentum = 0.9;
        assert_ok(td_dataset_from_arrays(&arrays, &f.data));
        assert_ok(td_net_model_create(&f.job, f.data, &f.model));
        for (int workers = 1; workers <= 3; workers += 2) {
            run(&f, 10, workers); /* the C library's own first uses */
            assert_int_equal(run(&f, 10, workers), run(&f, 40, workers));
        }
        td_net_model_close(&f.model);
        td_dataset_close(f.data);
        td_options_fini(td_job_rows, &f.job);
    }
    assert_ok(td_remove_tree(folder));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(warm_steps_allocate_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
