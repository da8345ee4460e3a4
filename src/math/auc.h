/* Area under the ROC curve: how likely a positive sample has a higher score than a negative one,
 * ties counting half (Fawcett, "An introduction to ROC analysis", 2006).
 *
 * Scores are counted in bins that keep their order: a float's sign, exponent and first 9 bits of
 * its fraction. Scores of one bin count as ties: in [1/2, 1] bins are 1/1024 wide, closer to 0
 * finer. Counts are whole numbers, of weights in units of 2^-20, so those of several ranks may be
 * added in any order, and the area is to the bit the same. Exact where no bin holds two different
 * scores.
 *
 * Bins come in blocks, one for each sign and exponent, of which scores use few: the counts of
 * others are neither looked at nor sent. */
#ifndef TD_MATH_AUC_H
#define TD_MATH_AUC_H

#include <stddef.h>
#include <stdint.h>

enum { TD_AUC_BLOCKS = 1 << 9, TD_AUC_BLOCK = 1 << 9 };

typedef struct td_auc {
    uint64_t counts[TD_AUC_BLOCKS][2][TD_AUC_BLOCK]; /* negatives, positives */
    uint8_t used[TD_AUC_BLOCKS];                     /* 1: there are scores */
} td_auc;

/* Begins as zeros. NaN counts as the lowest score. weight: 0 or more; of all together below 2^43.
 */
void td_auc_add(td_auc *auc, float score, int positive, float weight);
/* For a sum over ranks: first make `used` the maximum over them; then this moves the counts of used
 * blocks to the front, and returns how many numbers there are to be summed. Afterwards nothing may
 * be added. */
size_t td_auc_pack(td_auc *auc);
/* NaN where there are no positives, or no negatives. */
double td_auc_value(const td_auc *auc);

#endif
