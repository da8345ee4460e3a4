/* See auc.h. */
#include "math/auc.h"

#include <math.h>
#include <string.h>

/* Negative floats in reverse, below the positive ones. */
static size_t bin_of(float score)
{
    uint32_t bits;
    if (isnan(score)) return 0;
    if (score == 0) score = 0; /* the sign of zero orders nothing */
    memcpy(&bits, &score, sizeof bits);
    bits = bits >> 31 ? ~bits : bits | 0x80000000;
    return bits >> 14;
}

void td_auc_add(td_auc *auc, float score, int positive, float weight)
{
    auc->counts[positive != 0][bin_of(score)] += (uint64_t)llrint((double)weight * 0x1p20);
}

double td_auc_value(const td_auc *auc)
{
    double above = 0, below = 0, positives = 0; /* below: negatives of the bins so far */
    for (size_t k = 0; k < TD_AUC_BINS; k++) {
        double n = (double)auc->counts[0][k], p = (double)auc->counts[1][k];
        above += p * (below + n / 2);
        below += n, positives += p;
    }
    return above / (positives * below);
}
