/* The optimizer in shards against the optimizer in whole, to the bit: every rule, with clipping,
 * decay and averaged statistics, through changes of the number of ranks and losses of some of them.
 */
#include "strategy/shards.h"

#include "base/error.h"
#include "base/rng.h"
#include "base/test.h"

#include <string.h>

enum { SLOTS = 4, PARAMS = 1203, STEPS = 12, RANKS = 5 };

static const td_slot slots[SLOTS] = {
    {.name = "w", .kind = TD_SLOT_WEIGHT, .count = 700},
    {.name = "b", .kind = TD_SLOT_BIAS, .offset = 704, .count = 13},
    {.name = "mean", .kind = TD_SLOT_STAT, .offset = 720, .count = 90, .momentum = 0.1F},
    {.name = "v", .kind = TD_SLOT_WEIGHT, .offset = 816, .count = PARAMS - 816},
};

typedef struct trial {
    const char *rule;
    double momentum;
    float params[STEPS + 1][PARAMS]; /* wanted after each step */
    float state[2][PARAMS];          /* wanted at the end */
} trial;

static void gradient_of(uint64_t step, float *g)
{
    td_rng rng;
    td_rng_init(&rng, 5, TD_RNG_TEST, step, 0);
    for (int i = 0; i < PARAMS; i++) g[i] = (float)td_rng_normal(&rng);
}

static td_shards_config config_of(const trial *t, bool sharded, int size, int rank)
{
    return (td_shards_config){.optim = {.rule = t->rule,
                                        .lr = 0.02,
                                        .momentum = t->momentum,
                                        .weight_decay = 0.01,
                                        .clip_norm = 9},
                              .slots = slots,
                              .slot_count = SLOTS,
                              .params = PARAMS,
                              .sharded = sharded,
                              .size = size,
                              .rank = rank};
}

static void make_wanted(trial *t)
{
    static float g[PARAMS];
    td_shards *s;
    td_shards_config config = config_of(t, false, 1, 0);
    assert_ok(td_shards_create(&config, &s));
    for (int i = 0; i < PARAMS; i++) t->params[0][i] = (float)(i % 11) / 5 - 1;
    for (uint64_t step = 0; step < STEPS; step++) {
        gradient_of(step, g);
        memcpy(t->params[step + 1], t->params[step], sizeof *t->params);
        td_shards_step(s, step, g, step == 7 ? 0 : 0.3F, t->params[step + 1]);
    }
    for (int k = 0; k < td_shards_states(s); k++)
        memcpy(t->state[k], td_shards_state(s, k), sizeof *t->state);
    td_shards_destroy(s);
}

/* Steps [from, to) on a group; checks params after each. */
static td_status make_steps(const trial *t, td_shards *s, td_comm *comm, uint64_t from, uint64_t to,
                            float *params)
{
    static _Thread_local float g[PARAMS];
    for (uint64_t step = from; step < to; step++) {
        gradient_of(step, g);
        td_shards_step(s, step, g, step == 7 ? 0 : 0.3F, params);
        TD_TRY(td_shards_share(s, comm, params));
        for (int k = 0; k < SLOTS; k++)
            if (memcmp(params + slots[k].offset, t->params[step + 1] + slots[k].offset,
                       slots[k].count * sizeof *params) != 0)
                return td_fail(TD_ERR_INTERNAL, "%s: slot %s differs at step %d", t->rule,
                               slots[k].name, (int)step);
    }
    return TD_OK;
}

/* Each rank looks at a part of its own. */
static td_status check_state(const trial *t, td_shards *s, td_comm *comm)
{
    static _Thread_local float out[PARAMS];
    size_t rank = (size_t)td_comm_rank(comm), begin = rank * 131 % PARAMS, end = PARAMS - rank * 17;
    for (int k = 0; k < td_shards_states(s); k++) {
        if (begin > end) begin = end;
        TD_TRY(td_shards_gather(s, comm, k, begin, end, out));
        for (size_t i = begin; i < end; i++) {
            bool in_slot = false;
            for (int n = 0; n < SLOTS; n++)
                in_slot |= i >= slots[n].offset && i < slots[n].offset + slots[n].count;
            if (in_slot && memcmp(&out[i - begin], &t->state[k][i], sizeof *out) != 0)
                return td_fail(TD_ERR_INTERNAL, "%s: state %d differs at %zu", t->rule, k, i);
        }
    }
    return TD_OK;
}

/* 3 ranks, then all 5 (two come with nothing), then those that are left when 1 and 3 are lost, then
 * parts for the first two, who go on. */
static td_status change_ranks(td_comm *comm, void *arg)
{
    const trial *t = arg;
    int rank = td_comm_rank(comm);
    td_comm *three = NULL, *rest = NULL, *two = NULL;
    td_shards *s = NULL;
    static _Thread_local float params[PARAMS];
    bool lost;
    memset(params, 0, sizeof params);
    td_shards_config config = config_of(t, true, rank < 3 ? 3 : RANKS, rank);
    config.empty = rank >= 3;
    TD_TRY(td_shards_create(&config, &s));
    td_status status = td_comm_split(comm, rank < 3 ? 0 : 1, rank, &three);
    if (status == TD_OK && rank < 3) {
        memcpy(params, t->params[0], sizeof params);
        status = make_steps(t, s, three, 0, 4, params);
    }
    if (status == TD_OK) status = td_shards_deal(s, comm, RANKS, params, &lost);
    if (status == TD_OK) status = td_shards_share(s, comm, params);
    if (status == TD_OK) status = make_steps(t, s, comm, 4, 6, params);
    if (status == TD_OK) status = td_comm_split(comm, rank == 1 || rank == 3, rank, &rest);
    if (status == TD_OK && rank != 1 && rank != 3) {
        status = td_shards_deal(s, rest, 3, params, &lost);
        if (status == TD_OK) status = make_steps(t, s, rest, 6, 9, params);
        if (status == TD_OK) status = td_shards_deal(s, rest, 2, params, &lost);
        if (status == TD_OK) status = td_comm_split(rest, rank < 4 ? 0 : -1, rank, &two);
        if (status == TD_OK && two) status = td_shards_deal(s, two, 2, params, &lost);
        if (status == TD_OK && two) status = make_steps(t, s, two, 9, STEPS, params);
        if (status == TD_OK && two) status = check_state(t, s, two);
    }
    td_comm_close(two);
    td_comm_close(rest);
    td_comm_close(three);
    td_shards_destroy(s);
    return status;
}

/* Neighbours are lost together, and with them what only they had. */
static td_status lose_neighbours(td_comm *comm, void *arg)
{
    const trial *t = arg;
    int rank = td_comm_rank(comm);
    td_comm *rest = NULL;
    td_shards *s = NULL;
    static _Thread_local float params[PARAMS];
    bool lost = false;
    td_shards_config config = config_of(t, true, RANKS, rank);
    TD_TRY(td_shards_create(&config, &s));
    memcpy(params, t->params[0], sizeof params);
    td_status status = make_steps(t, s, comm, 0, 2, params);
    if (status == TD_OK) status = td_comm_split(comm, rank == 1 || rank == 2, rank, &rest);
    if (status == TD_OK && rank != 1 && rank != 2) {
        status = td_shards_deal(s, rest, 3, params, &lost);
        status = status == TD_ERR_PEER && lost && strstr(td_last_error(), "have died")
                     ? TD_OK
                     : td_fail(TD_ERR_INTERNAL, "nothing was said to be lost");
    }
    td_comm_close(rest);
    td_shards_destroy(s);
    return status;
}

static td_status on_ranks(td_comm *comm, void *arg)
{
    const trial *t = arg;
    td_shards *s = NULL;
    static _Thread_local float params[PARAMS];
    td_shards_config config = config_of(t, true, td_comm_size(comm), td_comm_rank(comm));
    TD_TRY(td_shards_create(&config, &s));
    memcpy(params, t->params[0], sizeof params);
    td_status status = make_steps(t, s, comm, 0, STEPS, params);
    if (status == TD_OK) status = check_state(t, s, comm);
    td_shards_destroy(s);
    return status;
}

static void shards_make_the_same_steps(void **state)
{
    (void)state;
    static trial t;
    static const struct {
        const char *rule;
        double momentum;
    } rules[] = {{"sgd", 0},   {"sgd", 0.9},   {"nesterov", 0.9}, {"adam", 0},
                 {"adamw", 0}, {"adagrad", 0}, {"rmsprop", 0.5}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        t.rule = rules[i].rule, t.momentum = rules[i].momentum;
        make_wanted(&t);
        for (int ranks = 1; ranks < 8; ranks++)
            assert_ok(td_comm_run_local(ranks, NULL, on_ranks, &t));
        assert_ok(td_comm_run_local(RANKS, NULL, change_ranks, &t));
        assert_ok(td_comm_run_local(RANKS, NULL, lose_neighbours, &t));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(shards_make_the_same_steps)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
