/* Tandem: slots, the named parts of a flat parameter array. */
#ifndef TANDEM_SLOT_H
#define TANDEM_SLOT_H

#include <stddef.h>

enum { TD_SLOT_NAME = 64, TD_SLOT_RANK = 4 };

typedef enum td_slot_kind {
    TD_SLOT_WEIGHT,
    TD_SLOT_BIAS,
    TD_SLOT_NORM, /* scale and shift of a normalisation: no weight decay */
    TD_SLOT_STAT  /* running statistics: no gradient, averaged over leaves */
} td_slot_kind;

/* A named part of the parameter array. What a bucket carries and a checkpoint names. */
typedef struct td_slot {
    char name[TD_SLOT_NAME];
    td_slot_kind kind;
    int rank;
    size_t shape[TD_SLOT_RANK];
    size_t offset, count; /* in floats; offsets are multiples of 16 */
    size_t fan_in, fan_out;
    float initial;  /* norm and stat slots start here */
    float momentum; /* stat slots: p = (1 - momentum) p + momentum * weighted mean over samples */
} td_slot;

#endif
