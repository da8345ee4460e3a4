/* Looks at made-up paces: who is slow is named, each once, and nobody for what is noise. */
#include "train/pace.h"

#include "base/error.h"
#include "base/test.h"

enum { RANKS = 6, LOOKS = 6 };

typedef struct plan {
    double ms[LOOKS][RANKS]; /* a step of each rank between two looks */
    int named[LOOKS];        /* by each look; -1: nobody */
} plan;

static td_status look_rank(td_comm *comm, void *arg)
{
    const plan *p = arg;
    td_paces *paces = NULL;
    td_pace_look look;
    int rank = td_comm_rank(comm);
    td_status status = td_paces_create(comm, 16, false, &paces);
    for (int k = 0; status == TD_OK && k < LOOKS; k++) {
        double seconds = p->ms[k][rank] / 1e3;
        for (int s = 0; s < TD_PACE_STEPS; s++)
            td_paces_step(paces, seconds, 0, (td_pace){.seconds = {[TD_PHASE_COMPUTE] = seconds}});
        status = td_paces_look(paces, &look);
        if (status == TD_OK && look.slow != p->named[k])
            status =
                td_fail(TD_ERR_INTERNAL, "look %d: rank %d, not %d", k, look.slow, p->named[k]);
    }
    td_paces_destroy(paces);
    return status;
}

static void looks(int ranks, plan p)
{
    assert_ok(td_comm_run_local(ranks, NULL, look_rank, &p));
}

/* A row for each look. */
static void two_that_become_slow_together_are_both_named(void **state)
{
    (void)state;
    looks(5, (plan){{{20, 90, 20, 90, 20},
                     {20, 90, 20, 90, 20},
                     {20, 90, 20, 90, 20},
                     {20, 90, 20, 90, 20},
                     {20, 20, 20, 90, 20},
                     {20, 90, 20, 90, 20}},
                    {-1, 1, 3, -1, -1, -1}});
    looks(6, (plan){{{90, 20, 90, 20, 20, 20},
                     {90, 20, 90, 20, 20, 20},
                     {90, 20, 90, 20, 20, 90}, /* a third, with those who wait */
                     {20, 20, 90, 20, 20, 90},
                     {90, 20, 90, 20, 20, 90},
                     {90, 20, 90, 20, 20, 90}}, /* the first, once more */
                    {-1, 0, 2, 5, -1, 0}});
}

static void one_of_two_at_two_thirds_is_named(void **state)
{
    (void)state;
    looks(2, (plan){{{40, 80}, {40, 80}, {40, 80}, {40, 40}, {80, 40}, {80, 40}},
                    {-1, 1, -1, -1, -1, 0}});
    looks(4, (plan){{{40, 80, 40, 80},
                     {40, 80, 40, 80},
                     {40, 80, 40, 80},
                     {40, 80, 40, 80},
                     {40, 80, 40, 80},
                     {40, 80, 40, 80}},
                    {-1, 1, 3, -1, -1, -1}});
}

/* Less than half as long again, less than 10 ms, or not twice in a row. */
static void noise_names_nobody(void **state)
{
    (void)state;
    looks(2, (plan){{{40, 58}, {58, 40}, {40, 58}, {40, 58}, {40, 58}, {40, 58}},
                    {-1, -1, -1, -1, -1, -1}});
    looks(2,
          (plan){{{2, 11}, {2, 11}, {2, 11}, {2, 11}, {11, 2}, {11, 2}}, {-1, -1, -1, -1, -1, -1}});
    looks(2, (plan){{{40, 99}, {99, 40}, {40, 99}, {40, 40}, {99, 40}, {40, 40}},
                    {-1, -1, -1, -1, -1, -1}});
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_that_become_slow_together_are_both_named),
        cmocka_unit_test(one_of_two_at_two_thirds_is_named),
        cmocka_unit_test(noise_names_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
