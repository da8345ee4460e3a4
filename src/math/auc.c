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
    size_t bin = bin_of(score), block = bin / TD_AUC_BLOCK;
    auc->used[block] = 1;
    auc->counts[block][positive != 0][bin % TD_AUC_BLOCK] +=
        (uint64_t)llrint((double)weight * 0x1p20);
}

size_t td_auc_pack(td_auc *auc)
{
    size_t n = 0;
    for (size_t k = 0; k < TD_AUC_BLOCKS; k++) {
        if (!auc->used[k]) continue;
        if (n < k) memcpy(auc->counts[n], auc->counts[k], sizeof auc->counts[n]);
        n++;
    }
    memset(auc->used, 0, sizeof auc->used);
    memset(auc->used, 1, n);
    return n * sizeof auc->counts[0] / sizeof auc->counts[0][0][0];
}

double td_auc_value(const td_auc *auc)
{
    double above = 0, below = 0, positives = 0; /* below: negatives of the bins so far */
    for (size_t block = 0; block < TD_AUC_BLOCKS; block++)
        for (size_t k = 0; k < TD_AUC_BLOCK && auc->used[block]; k++) {
            double n = (double)auc->counts[block][0][k], p = (double)auc->counts[block][1][k];
            above += p * (below + n / 2);
            below += n, positives += p;
        }
    return above / (positives * below);
}
