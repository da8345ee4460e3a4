/* See rule.h. */
#include "ps/rule.h"

#include "base/error.h"
#include "base/rng.h"
#include "optim/apply.h"

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

td_status td_rule_config(td_table_config *c, td_rule *rule)
{
    if (c->width < 1 || c->width > 65536)
        return td_fail(TD_ERR_ARG, "a table's rows have 1 to 65536 weights, not %zu", c->width);
    TD_TRY(td_rule_find(c->rule ? c->rule : "sgd", rule));
    if (c->momentum == 0) c->momentum = 0.9f;
    if (c->beta1 == 0) c->beta1 = 0.9f;
    if (c->beta2 == 0) c->beta2 = 0.999f;
    if (c->epsilon == 0) c->epsilon = *rule == TD_RULE_ADAM ? 1e-8f : 1e-10f;
    if (c->beta == 0) c->beta = 1;
    if (c->admit == 0) c->admit = 1;
    if (!(c->lr > 0 && c->lr < 1e6f))
        return td_fail(TD_ERR_ARG, "lr must be above 0, not %g", (double)c->lr);
    if (!(c->momentum > 0 && c->momentum < 1) || !(c->beta1 > 0 && c->beta1 < 1) ||
        !(c->beta2 > 0 && c->beta2 < 1))
        return td_fail(TD_ERR_ARG, "momentum, beta1 and beta2 must be between 0 and 1");
    if (!(c->l1 >= 0) || !(c->l2 >= 0) || !(c->beta > 0) || !(c->epsilon > 0) ||
        !(c->weight_decay >= 0) || !(c->scale >= 0))
        return td_fail(TD_ERR_ARG,
                       "l1, l2, beta, epsilon, weight decay and the scale of new rows must not "
                       "be negative");
    if (c->admit >= (uint32_t)1 << 31)
        return td_fail(TD_ERR_ARG, "rows are admitted after less than 2^31 sightings");
    return TD_OK;
}

void td_rule_first_weights(const td_table_config *c, uint64_t key, float *w)
{
    td_rng rng;
    if (c->init == TD_TABLE_ZERO) {
        memset(w, 0, c->width * sizeof *w);
        return;
    }
    td_rng_init(&rng, c->seed, TD_RNG_TABLE, c->number, key);
    for (size_t i = 0; i < c->width; i++)
        w[i] = c->scale *
               (c->init == TD_TABLE_UNIFORM ? 2 * td_rng_unit(&rng) - 1 : td_rng_normal(&rng));
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

td_mover td_rule_mover(td_rule rule, const td_table_config *c, td_table_step step)
{
    const td_kernels *k = td_kernels_best();
    td_mover m = {.kernel = k->sgd, .states = td_rule_state_count(rule)};
    m.spans = c->spans, m.span_count = c->span_count;
    m.update = (td_update){.n = c->width,
                           .scale = step.scale,
                           .lr = c->lr * step.rate_factor,
                           .momentum = rule == TD_RULE_MOMENTUM ? c->momentum : 0,
                           .beta1 = c->beta1,
                           .beta2 = c->beta2,
                           .epsilon = c->epsilon,
                           .weight_decay = c->weight_decay * step.decay,
                           .l1 = c->l1,
                           .l2 = c->l2,
                           .beta = c->beta};
    switch (rule) {
    case TD_RULE_ADAM:
        m.kernel = k->adam;
        m.update.correct1 = (float)(1 / (1 - pow((double)c->beta1, (double)step.step + 1)));
        m.update.correct2 = (float)(1 / (1 - pow((double)c->beta2, (double)step.step + 1)));
        break;
    case TD_RULE_ADAGRAD: m.kernel = k->adagrad; break;
    case TD_RULE_FTRL: m.kernel = k->ftrl; break;
    default: break;
    }
    return m;
}

/* [from, to) of a row. */
static void move_part(td_mover *m, float *row, const float *gradient, size_t from, size_t to,
                      float decay)
{
    td_update *u = &m->update, whole = *u;
    if (from == to) return;
    u->n = to - from;
    u->weight_decay = decay;
    u->p = row + from, u->g = gradient + from;
    u->s1 = m->states > 0 ? row + whole.n + from : NULL;
    u->s2 = m->states > 1 ? row + 2 * whole.n + from : NULL;
    m->kernel(u);
    *u = whole;
}

/* The first that ends behind it. */
static size_t find_span(const td_mover *m, size_t at)
{
    size_t lo = 0, hi = m->span_count;
    while (lo < hi) {
        size_t middle = (lo + hi) / 2;
        if (m->spans[middle].end > at)
            hi = middle;
        else
            lo = middle + 1;
    }
    return lo;
}

void td_rule_move_in_parts(td_mover *m, uint64_t key, float *row, const float *gradient)
{
    size_t n = m->update.n, begin = (size_t)key * n, end = begin + n, at = 0;
    float decay = m->update.weight_decay, scale = m->update.scale;
    for (size_t s = find_span(m, begin); s < m->span_count && m->spans[s].begin < end; s++) {
        const td_table_span *span = &m->spans[s];
        size_t from = (span->begin > begin ? span->begin : begin) - begin;
        size_t to = (span->end < end ? span->end : end) - begin;
        move_part(m, row, gradient, at, from, 0);
        if (span->averages)
            td_optim_average(to - from, span->average, gradient + from, scale, row + from);
        else
            move_part(m, row, gradient, from, to, decay);
        at = to;
    }
    move_part(m, row, gradient, at, n, 0);
}
