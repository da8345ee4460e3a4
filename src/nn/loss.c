/* Losses and their gradients at the network's outputs, row by row in order.
 *
 *   softmax: -log softmax(x)[label]            gradient softmax(x) - one-hot(label)
 *   binary:  -log of the logistic function of x (label 1) or of -x (label 0)
 *                                              gradient logistic(x) - label
 *   hinge:   max(0, 1 - x) (label 1) or max(0, 1 + x) (label 0)
 *                                              gradient -1 or 1 where the loss is not 0
 *   squared: sum of (x - target)^2             gradient 2 (x - target)
 *   poisson: sum of exp(x) - target x          gradient exp(x) - target
 * each times the row's weight. Totals are kept in double precision. */
#include "nn/loss.h"

#include "nn/internal.h"

#include <math.h>
#include <string.h>

const char *const td_loss_names[] = {"softmax", "squared", "binary", "hinge", "poisson", NULL};

/* Natural logarithm by its series in (m - 1) / (m + 1): the C library's differs in its last bits
 * between versions, and the loss decides which model is kept. NaN and infinity pass through. */
static double log_(double x)
{
    if (!(x > 0) || x > 1e300) return x == 0 ? -INFINITY : x < 0 ? NAN : x;
    int exponent;
    double m = frexp(x, &exponent); /* in [0.5, 1) */
    if (m < 0.70710678118654752) m *= 2, exponent--;
    double s = (m - 1) / (m + 1), z = s * s, sum = 0;
    for (int k = 21; k >= 1; k -= 2) sum = sum * z + 1.0 / k;
    return exponent * 0.69314718055994531 + 2 * s * sum;
}

/* The exponential, by its series around the nearest multiple of log 2, for the same reason. */
static double exp_(double x)
{
    if (!(x > -700 && x < 700)) return x < 0 ? 0 : x > 0 ? INFINITY : x;
    double k = rint(x * 1.4426950408889634), sum = 0;
    double r = (x - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10;
    for (int n = 14; n >= 1; n--) sum = (sum + 1) * r / n;
    return ldexp(sum + 1, (int)k);
}

static double row_loss(double p) /* of a float's probability; 0 is taken for the least float */
{
    return p == 0 ? 103.28 : -log_(p);
}

static size_t first_maximum(size_t n, const float *x)
{
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

static double softmax_row(size_t classes, const float *x, int32_t label, float weight, float *dx,
                          bool *correct)
{
    enum { ON_STACK = 512 };
    const td_kernels *k = td_kernels_best();
    *correct = first_maximum(classes, x) == (size_t)label;
    if (!dx) { /* evaluation: the probability of the label alone */
        float top = x[0], stack[ON_STACK];
        double sum = 0;
        for (size_t c = 1; c < classes; c++) top = x[c] > top ? x[c] : top;
        if (classes <= ON_STACK) {
            k->softmax(1, classes, x, stack);
            return row_loss(stack[label]);
        }
        for (size_t c = 0; c < classes; c++) sum += exp((double)x[c] - top);
        return log_(sum) - ((double)x[label] - top);
    }
    k->softmax(1, classes, x, dx);
    double loss = row_loss(dx[label]);
    dx[label] -= 1;
    if (weight != 1)
        for (size_t c = 0; c < classes; c++) dx[c] *= weight;
    return loss;
}

static double binary_row(float x, float y, float weight, float *dx, bool *correct)
{
    const td_kernels *k = td_kernels_best();
    float both[2] = {x, -x}, p[2];
    k->sigmoid(2, both, p);
    if (dx) *dx = weight * (p[0] - y);
    *correct = (x > 0) == (y > 0.5f);
    return y * row_loss(p[0]) + (1 - y) * row_loss(p[1]);
}

static double hinge_row(float x, float y, float weight, float *dx, bool *correct)
{
    double sign = y > 0.5f ? 1 : -1, short_of = 1 - sign * (double)x;
    if (dx) *dx = short_of > 0 ? (float)-sign * weight : 0;
    *correct = (x > 0) == (y > 0.5f);
    return short_of <= 0 ? 0 : short_of; /* NaN stays */
}

void td_loss_rows(td_loss loss, size_t outputs, const td_net_pass *pass, size_t begin, size_t end,
                  const float *logits, float *dlogits, double values[TD_LEAF_VALUES])
{
    double total = 0, weights = 0, right = 0;
    for (size_t r = begin; r < end; r++) {
        float weight = pass->weight ? pass->weight[r] : 1;
        const float *x = logits + r * outputs;
        float *dx = dlogits ? dlogits + r * outputs : NULL;
        double one = 0;
        bool correct = false;
        switch (loss) {
        case TD_LOSS_SOFTMAX:
            one = softmax_row(outputs, x, pass->label ? pass->label[r] : (int32_t)pass->target[r],
                              weight, dx, &correct);
            break;
        case TD_LOSS_BINARY:
        case TD_LOSS_HINGE: {
            float y = pass->label ? (float)(pass->label[r] > 0) : pass->target[r];
            one = loss == TD_LOSS_BINARY ? binary_row(*x, y, weight, dx, &correct)
                                         : hinge_row(*x, y, weight, dx, &correct);
            break;
        }
        case TD_LOSS_POISSON:
            for (size_t o = 0; o < outputs; o++) {
                double target = pass->target ? (double)pass->target[r] : pass->label[r];
                double rate = exp_((double)x[o]);
                one += rate - target * (double)x[o];
                if (dx) dx[o] = (float)((double)weight * (rate - target));
            }
            break;
        case TD_LOSS_SQUARED:
            for (size_t o = 0; o < outputs; o++) {
                float target = pass->target ? pass->target[r] : (float)pass->label[r];
                float d = x[o] - target;
                one += (double)d * d;
                if (dx) dx[o] = 2 * weight * d;
            }
            break;
        }
        total += weight * one;
        weights += weight;
        right += correct ? (double)weight : 0;
    }
    values[TD_LEAF_LOSS] = total;
    values[TD_LEAF_WEIGHT] = weights;
    values[TD_LEAF_CORRECT] = right;
}

void td_net_probabilities(const td_net *net, size_t rows, float *logits)
{
    td_loss_probabilities(net->loss, td_net_outputs(net), rows, logits);
}

void td_loss_probabilities(td_loss loss, size_t outputs, size_t rows, float *logits)
{
    const td_kernels *k = td_kernels_best();
    if (loss == TD_LOSS_SOFTMAX) k->softmax(rows, outputs, logits, logits);
    if (loss == TD_LOSS_BINARY) k->sigmoid(rows * outputs, logits, logits);
    for (size_t i = 0; loss == TD_LOSS_POISSON && i < rows * outputs; i++)
        logits[i] = (float)exp_((double)logits[i]);
}
