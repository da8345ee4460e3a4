/* Update rules over slots. The arithmetic is in math/kernels/vec.c; here are the rows that say
 * which rule keeps what.
 *
 *   sgd       m = mu m + d;  p -= lr m              (mu 0: p -= lr d)
 *   nesterov  m = mu m + d;  p -= lr (d + mu m)     (Sutskever et al. 2013, PyTorch's form)
 *   adam      Kingma and Ba 2015; adamw: Loshchilov and Hutter 2019
 *   adagrad   s += d^2;  p -= lr d / (sqrt(s) + eps)            (Duchi et al. 2011)
 *   rmsprop   s = a s + (1 - a) d^2;  m = mu m + d / (sqrt(s) + eps);  p -= lr m
 * with d = scale g + decay p. */
#include "optim/apply.h"

#include "base/alloc.h"
#include "base/error.h"
#include "math/kernels.h"
#include "optim/schedule.h"

#include <math.h>
#include <string.h>

typedef struct rule {
    const char *name;
    int states;
    const char *state_names[2];
    bool adam, decoupled, nesterov;
    double epsilon, beta2;
    enum { SGD, ADAM, ADAGRAD, RMSPROP } kernel;
} rule;

static const rule rules[] = {
    {.name = "sgd", .states = 1, .state_names = {"momentum"}, .kernel = SGD},
    {.name = "nesterov", .states = 1, .state_names = {"momentum"}, .kernel = SGD, .nesterov = true},
    {.name = "adam",
     .states = 2,
     .state_names = {"first", "second"},
     .kernel = ADAM,
     .adam = true,
     .epsilon = 1e-8,
     .beta2 = 0.999},
    {.name = "adamw",
     .states = 2,
     .state_names = {"first", "second"},
     .kernel = ADAM,
     .adam = true,
     .decoupled = true,
     .epsilon = 1e-8,
     .beta2 = 0.999},
    {.name = "adagrad",
     .states = 1,
     .state_names = {"squares"},
     .kernel = ADAGRAD,
     .epsilon = 1e-10},
    {.name = "rmsprop",
     .states = 2,
     .state_names = {"squares", "momentum"},
     .kernel = RMSPROP,
     .epsilon = 1e-8,
     .beta2 = 0.99},
};
enum { RULES = sizeof rules / sizeof *rules };

const char *const td_optim_rule_names[] = {"sgd",     "nesterov", "adam", "adamw",
                                           "adagrad", "rmsprop",  NULL};

struct td_optim {
    td_optim_config config; /* with its defaults filled in */
    const rule *rule;
    const td_slot *slots;
    size_t slot_count, params;
    int states;
    float *state[2]; /* [params] each */
};

static td_status check(const td_optim_config *c)
{
    if (!(c->lr > 0 && c->lr < 1e6))
        return td_fail(TD_ERR_ARG, "lr must be above 0, not %g", c->lr);
    if (!(c->momentum >= 0 && c->momentum < 1))
        return td_fail(TD_ERR_ARG, "momentum must be at least 0 and below 1, not %g", c->momentum);
    if (!(c->beta1 >= 0 && c->beta1 < 1) || !(c->beta2 >= 0 && c->beta2 < 1))
        return td_fail(TD_ERR_ARG, "beta1 and beta2 must be at least 0 and below 1");
    if (!(c->weight_decay >= 0) || !(c->clip_norm >= 0) || !(c->epsilon >= 0))
        return td_fail(TD_ERR_ARG, "weight decay, clipping norm and epsilon must not be negative");
    return td_schedule_check(c);
}

td_status td_optim_create(const td_optim_config *config, const td_slot *slots, size_t slot_count,
                          size_t params, td_optim **out)
{
    td_optim_config c = *config;
    const rule *row = rules;
    if (!c.rule) c.rule = "sgd";
    while (row < rules + RULES && strcmp(row->name, c.rule) != 0) row++;
    if (row == rules + RULES)
        return td_fail(TD_ERR_ARG,
                       "no update rule is called \"%s\"; there are sgd, nesterov, "
                       "adam, adamw, adagrad and rmsprop",
                       c.rule);
    if (c.lr == 0) c.lr = 0.01;
    c.beta1 = c.beta1 == 0 ? 0.9 : c.beta1 < 0 ? 0 : c.beta1;
    c.beta2 = c.beta2 == 0 ? row->beta2 : c.beta2 < 0 ? 0 : c.beta2;
    if (c.epsilon == 0) c.epsilon = row->epsilon;
    if (c.gamma == 0) c.gamma = 0.1;
    TD_TRY(check(&c));
    td_optim *optim = td_calloc(1, sizeof *optim);
    if (!optim) return td_fail(TD_ERR_NOMEM, "no memory for the optimizer");
    optim->config = c;
    optim->rule = row;
    optim->slots = slots, optim->slot_count = slot_count, optim->params = params;
    optim->states = row->kernel == SGD && c.momentum == 0 ? 0 : row->states;
    for (int i = 0; i < optim->states; i++) {
        optim->state[i] = td_alloc_aligned(params * sizeof(float));
        if (!optim->state[i]) {
            td_optim_destroy(optim);
            return td_fail(TD_ERR_NOMEM, "no memory for the optimizer's state");
        }
        memset(optim->state[i], 0, params * sizeof(float));
    }
    *out = optim;
    return TD_OK;
}

void td_optim_destroy(td_optim *optim)
{
    if (!optim) return;
    td_free(optim->state[0]);
    td_free(optim->state[1]);
    td_free(optim);
}

double td_optim_rate(const td_optim *optim, uint64_t step)
{
    return td_schedule_rate(&optim->config, step);
}

int td_optim_states(const td_optim *optim)
{
    return optim->states;
}

const char *td_optim_state_name(const td_optim *optim, int index)
{
    return optim->rule->state_names[index];
}

float *td_optim_state(td_optim *optim, int index)
{
    return optim->state[index];
}

/* Eight chains over each slot, in double precision. */
float td_optim_clip(double most, const td_slot *slots, size_t slot_count, const float *gradient,
                    float scale)
{
    if (most == 0) return scale;
    double total = 0;
    for (size_t s = 0; s < slot_count; s++) {
        const td_slot *slot = &slots[s];
        if (slot->kind == TD_SLOT_STAT) continue;
        const float *g = gradient + slot->offset;
        double sum[8] = {0};
        for (size_t i = 0; i < slot->count; i++) sum[i % 8] += (double)g[i] * g[i];
        for (int k = 0; k < 8; k++) total += sum[k];
    }
    double norm = sqrt(total) * scale;
    return norm > most ? (float)(scale * (most / norm)) : scale;
}

void td_optim_average(size_t n, float momentum, const float *gradient, float scale, float *params)
{
    if (scale == 0) return; /* no weight at all */
    for (size_t i = 0; i < n; i++)
        params[i] = (1 - momentum) * params[i] + momentum * (gradient[i] * scale);
}

void td_optim_step(td_optim *optim, uint64_t step, const float *gradient, float scale,
                   float *params)
{
    float clipped =
        td_optim_clip(optim->config.clip_norm, optim->slots, optim->slot_count, gradient, scale);
    td_optim_apply(optim, step, gradient, scale, clipped, params);
}

void td_optim_apply(td_optim *optim, uint64_t step, const float *gradient, float scale,
                    float clipped, float *params)
{
    const td_kernels *k = td_kernels_best();
    const td_optim_config *c = &optim->config;
    td_update u = {
        .scale = clipped,
        .lr = (float)td_optim_rate(optim, step),
        .momentum = (float)c->momentum,
        .beta1 = (float)c->beta1,
        .beta2 = (float)c->beta2,
        .epsilon = (float)c->epsilon,
        .nesterov = optim->rule->nesterov,
        .decoupled = optim->rule->decoupled,
    };
    if (optim->rule->adam) {
        u.correct1 = (float)(1 / (1 - pow((double)u.beta1, (double)step + 1)));
        u.correct2 = (float)(1 / (1 - pow((double)u.beta2, (double)step + 1)));
    }
    for (size_t s = 0; s < optim->slot_count; s++) {
        const td_slot *slot = &optim->slots[s];
        if (slot->kind == TD_SLOT_STAT) {
            td_optim_average(slot->count, slot->momentum, gradient + slot->offset, scale,
                             params + slot->offset);
            continue;
        }
        u.n = slot->count;
        u.p = params + slot->offset;
        u.g = gradient + slot->offset;
        u.weight_decay = slot->kind == TD_SLOT_WEIGHT ? (float)c->weight_decay : 0;
        u.s1 = optim->states > 0 ? optim->state[0] + slot->offset : NULL;
        u.s2 = optim->states > 1 ? optim->state[1] + slot->offset : NULL;
        switch (optim->rule->kernel) {
        case SGD: k->sgd(&u); break;
        case ADAM: k->adam(&u); break;
        case ADAGRAD: k->adagrad(&u); break;
        case RMSPROP: k->rmsprop(&u); break;
        }
    }
}
