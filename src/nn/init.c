/* Initial parameters, a function of the seed and the slot's number alone. */
#include "nn/internal.h"

#include "base/error.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

typedef enum shape_of_noise { UNIFORM, NORMAL } shape_of_noise;

typedef struct initialiser {
    const char *name;
    shape_of_noise noise;
    double gain;    /* variance = gain / fan */
    bool both_fans; /* fan = (in + out) / 2, else in */
    bool biases;    /* biases get noise too */
} initialiser;

static const initialiser rows[] = {
    {"fan-in", UNIFORM, 1.0 / 3, false, true}, /* +-1/sqrt(fan in) */
    {"he", UNIFORM, 2, false, false},          {"he-normal", NORMAL, 2, false, false},
    {"xavier", UNIFORM, 1, true, false},       {"xavier-normal", NORMAL, 1, true, false},
};
const char *const td_net_init_names[] = {"fan-in",        "he", "he-normal", "xavier",
                                         "xavier-normal", NULL};

static void fill(const initialiser *how, const td_slot *slot, size_t number, uint64_t seed,
                 float *p)
{
    double fan = how->both_fans ? (double)(slot->fan_in + slot->fan_out) / 2 : (double)slot->fan_in;
    float spread = (float)sqrt(how->gain * (how->noise == UNIFORM ? 3 : 1) / (fan > 0 ? fan : 1));
    td_rng rng;
    td_rng_init(&rng, seed, TD_RNG_INIT, number, 0);
    for (size_t i = 0; i < slot->count; i++)
        p[i] = how->noise == UNIFORM ? (2 * td_rng_unit(&rng) - 1) * spread
                                     : td_rng_normal(&rng) * spread;
}

td_status td_net_init(const td_net *net, const char *how, uint64_t seed, float *params)
{
    const initialiser *row = rows;
    if (how)
        while (row < rows + sizeof rows / sizeof *rows && strcmp(row->name, how) != 0) row++;
    if (row == rows + sizeof rows / sizeof *rows)
        return td_fail(TD_ERR_ARG,
                       "no initialiser is called \"%s\"; there are fan-in, he, "
                       "he-normal, xavier and xavier-normal",
                       how);
    memset(params, 0, net->params * sizeof *params);
    for (size_t s = 0; s < net->slot_count; s++) {
        const td_slot *slot = &net->slots[s];
        if (slot->kind == TD_SLOT_WEIGHT || (slot->kind == TD_SLOT_BIAS && row->biases))
            fill(row, slot, s, seed, params + slot->offset);
        else
            for (size_t i = 0; i < slot->count; i++) params[slot->offset + i] = slot->initial;
    }
    return TD_OK;
}
