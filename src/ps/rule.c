/* See rule.h. */
#include "ps/rule.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

enum { RULES = TD_RULE_FTRL + 1, MOST_STATES = 2 };
const char *const td_table_rule_names[] = {"sgd", "momentum", "adagrad", "adam", "ftrl", NULL};
static const char *const states[RULES][MOST_STATES + 1] = {
    [TD_RULE_MOMENTUM] = {"velocity"},
    [TD_RULE_ADAGRAD] = {"sum"},
    [TD_RULE_ADAM] = {"exp_avg", "exp_avg_sq"},
    [TD_RULE_FTRL] = {"z", "n"},
};

td_status td_rule_find(const char *name, td_rule *out)
{
    for (int k = 0; k < RULES; k++) {
        if (strcmp(td_table_rule_names[k], name) != 0) continue;
        *out = (td_rule)k;
        return TD_OK;
    }
    return td_fail(TD_ERR_ARG,
                   "no update rule of tables is called \"%s\"; there are sgd, momentum, adagrad, "
                   "adam and ftrl",
                   name);
}

const char *const *td_rule_states(td_rule rule)
{
    return states[rule];
}

size_t td_rule_state_count(td_rule rule)
{
    size_t count = 0;
    while (states[rule][count]) count++;
    return count;
}

td_update td_rule_update(td_rule rule, const td_table_config *c, td_table_step step)
{
    td_update u = {.n = c->width,
                   .scale = step.scale,
                   .lr = c->lr * step.rate_factor,
                   .momentum = rule == TD_RULE_MOMENTUM ? c->momentum : 0,
                   .beta1 = c->beta1,
                   .beta2 = c->beta2,
                   .epsilon = c->epsilon,
                   .weight_decay = c->weight_decay,
                   .l1 = c->l1,
                   .l2 = c->l2,
                   .beta = c->beta};
    if (rule == TD_RULE_ADAM) {
        u.correct1 = (float)(1 / (1 - pow((double)c->beta1, (double)step.step + 1)));
        u.correct2 = (float)(1 / (1 - pow((double)c->beta2, (double)step.step + 1)));
    }
    return u;
}

void td_rule_move(td_rule rule, td_update *u, float *row, const float *gradient)
{
    const td_kernels *k = td_kernels_best();
    size_t count = td_rule_state_count(rule);
    u->p = row, u->g = gradient;
    u->s1 = count > 0 ? row + u->n : NULL;
    u->s2 = count > 1 ? row + 2 * u->n : NULL;
    switch (rule) {
    case TD_RULE_ADAGRAD: k->adagrad(u); break;
    case TD_RULE_ADAM: k->adam(u); break;
    case TD_RULE_FTRL: k->ftrl(u); break;
    default: k->sgd(u); break;
    }
}
