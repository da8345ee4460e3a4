/* Logistic regression with a gradient of our own, trained by several workers.
 *
 *     cc logistic.c $(pkg-config --cflags --libs tandem) -lm -o logistic
 *     ./logistic data.svm 4
 *
 * The printed weights are the same, to the last digit, for any number of workers. */
#include <tandem/train.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct job {
    td_dataset *data;
    td_normalise scaling;
    size_t features;
} job;

/* Of one leaf: the gradient of sum log(1 + exp(-y (w x + b))), y in {-1, 1}; b is the last. */
static double logistic(void *user, const td_leaf *leaf, const float *w, float *g)
{
    (void)user;
    double loss = 0;
    size_t n = leaf->features;
    for (size_t r = 0; r < leaf->rows; r++) {
        const float *x = leaf->x + r * n;
        float y = leaf->label[r] ? 1 : -1, margin = w[n];
        for (size_t k = 0; k < n; k++) margin += w[k] * x[k];
        margin *= y;
        float slope = -y / (1 + expf(margin));
        for (size_t k = 0; k < n; k++) g[k] += slope * x[k];
        g[n] += slope;
        loss += margin > 0 ? log1p(exp(-margin)) : log1p(exp(margin)) - margin;
    }
    return loss;
}

static void report(void *user, uint64_t epoch, double loss)
{
    (void)user;
    printf("epoch %llu  loss %.6f\n", (unsigned long long)epoch + 1, loss);
}

/* What each worker does. */
static td_status work(td_comm *comm, void *arg)
{
    job *j = arg;
    float *w = calloc(j->features + 1, sizeof *w);
    td_fit_config config = {
        .data = j->data,
        .normalise = &j->scaling,
        .batch = 256,
        .epochs = 5,
        .seed = 1,
        .optim = {.rule = "adam", .lr = 0.01},
        .gradient = logistic,
        .epoch = td_comm_rank(comm) == 0 ? report : NULL,
    };
    td_status status = td_fit(comm, &config, j->features + 1, w);
    if (status == TD_OK && td_comm_rank(comm) == 0)
        printf("first weight %.9g, bias %.9g\n", (double)w[0], (double)w[j->features]);
    free(w);
    return status;
}

int main(int argc, char **argv)
{
    job j = {0};
    td_data_config data = {.path = argc > 1 ? argv[1] : "", .label_kind = TD_LABEL_CLASS};
    td_status status = td_dataset_open(&data, &j.data);
    if (status == TD_OK) {
        j.features = td_dataset_info(j.data)->features;
        status = td_normalise_fit(j.data, TD_NORMALISE_AUTO, &j.scaling);
    }
    if (status == TD_OK) status = td_comm_run_local(argc > 2 ? atoi(argv[2]) : 1, NULL, work, &j);
    if (status != TD_OK) fprintf(stderr, "logistic: %s\n", td_last_error());
    td_normalise_fini(&j.scaling);
    td_dataset_close(j.data);
    return td_exit_code(status);
}
