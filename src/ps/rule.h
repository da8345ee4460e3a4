/* The update rules of a table's rows: their names, their states, and a step of one row. */
#ifndef TD_PS_RULE_H
#define TD_PS_RULE_H

#include "math/kernels.h"
#include "ps/table.h"

typedef enum td_rule {
    TD_RULE_SGD,
    TD_RULE_MOMENTUM,
    TD_RULE_ADAGRAD,
    TD_RULE_ADAM,
    TD_RULE_FTRL
} td_rule;

/* TD_ERR_ARG. */
TD_MUST_CHECK td_status td_rule_find(const char *name, td_rule *out);

/* Fills in a table's defaults, and checks it. TD_ERR_ARG. */
TD_MUST_CHECK td_status td_rule_config(td_table_config *config, td_rule *out);
/* What a key's weights begin with. */
void td_rule_first_weights(const td_table_config *config, uint64_t key, float *weights);

/* States of a row besides its weights, and what they are called ("sum"); NULL at the end. */
const char *const *td_rule_states(td_rule rule);
size_t td_rule_state_count(td_rule rule);

/* What a step does to all of its rows. */
typedef struct td_mover {
    td_update update;
    void (*kernel)(const td_update *update);
    size_t states;
    const td_table_span *spans; /* NULL: all of a row are alike */
    size_t span_count;
} td_mover;
td_mover td_rule_mover(td_rule rule, const td_table_config *config, td_table_step step);
void td_rule_move_in_parts(td_mover *mover, uint64_t key, float *row, const float *gradient);
/* Moves a key's row [td_table_row_floats] by its gradient. */
static inline void td_rule_move(td_mover *m, uint64_t key, float *row, const float *gradient)
{
    td_update *u = &m->update;
    if (m->spans) {
        td_rule_move_in_parts(m, key, row, gradient);
        return;
    }
    u->p = row, u->g = gradient;
    u->s1 = m->states > 0 ? row + u->n : NULL;
    u->s2 = m->states > 1 ? row + 2 * u->n : NULL;
    m->kernel(u);
}

#endif
