/* Groups that change size: they grow by spares, shrink from the end or by chosen ranks, and add
 * exactly. See ranks_test.h; under MPI the program runs one test: "resize_test mpi"
 * or "resize_test mpi-keeping". */
#include "comm/recover_works_test.h"

/* 2 -> 4 -> 1 -> 3 -> 2 of 4 ranks; a rank that joins learns how often from the others. */
static td_status changes_size(td_comm *first, void *arg)
{
    static const int sizes[] = {4, 1, 3, 2};
    enum { SIZES = 4 };
    (void)arg;
    td_comm *c = first;
    int32_t at = td_comm_joined(c, td_comm_rank(c)) ? -1 : 0;
    td_status status = TD_OK;
    for (bool owned = false; c && status == TD_OK; owned = true) {
        td_comm *next = NULL;
        status = agree_on_round(c, &at);
        if (status == TD_OK) status = works(c);
        if (status == TD_OK && at < SIZES) {
            status = td_comm_resize(c, sizes[at], &next);
            if (status == TD_OK && next && td_comm_size(next) != sizes[at])
                status = td_fail(TD_ERR_INTERNAL, "%d ranks where %d were wanted",
                                 td_comm_size(next), sizes[at]);
            at++;
        }
        if (owned) td_comm_close(c);
        c = next;
    }
    return status;
}

static void groups_grow_and_shrink(void **state)
{
    (void)state;
    for (int k = 0; k < 5; k++)
        assert_ok(td_comm_run_local(4, &(td_comm_config){.spares = 2}, changes_size, NULL));
}

/* Six ranks, two of them spares: those that go are in the middle, and once the others come for
 * them. Places of those that stay do not move while nobody before them goes for good. */
static td_status keeps_chosen_ranks(td_comm *first, void *arg)
{
    static const struct {
        bool stays[4];
        int ranks, world[4];
    } turns[] = {{{true, false, true, true}, 3, {0, 2, 3}},
                 {{true, true, false}, 4, {0, 2, -1, -1}}, /* two come, of three that wait */
                 {{true, false, true, false}, 2, {0, -1}}};
    enum { TURNS = 3 };
    td_comm *c = first, *next = NULL;
    int32_t at = td_comm_joined(c, td_comm_rank(c)) ? -1 : 0;
    td_status status = TD_OK;
    (void)arg;
    for (bool owned = false; c && status == TD_OK; owned = true, c = next) {
        next = NULL;
        status = agree_on_round(c, &at);
        if (status == TD_OK) status = works(c);
        if (status == TD_OK && at < TURNS) {
            bool stay = turns[at].stays[td_comm_rank(c)];
            status = td_comm_resize_keeping(c, turns[at].ranks, turns[at].stays, &next);
            bool right = status != TD_OK || (next != NULL) == stay;
            right = right && (!next || td_comm_size(next) == turns[at].ranks);
            for (int r = 0; right && next && r < td_comm_size(next); r++)
                right =
                    turns[at].world[r] < 0 || td_comm_rank_in_run(next, r) == turns[at].world[r];
            if (!right) status = td_fail(TD_ERR_INTERNAL, "turn %d: another group", (int)at);
            at++;
        }
        if (owned) td_comm_close(c);
    }
    return status;
}

static td_status none_stays(td_comm *c, void *arg)
{
    static const bool nobody[2] = {false, false};
    td_comm *next;
    (void)arg;
    CHECK(td_comm_can_resize(c) == TD_OK);
    CHECK(td_comm_resize_keeping(c, 1, nobody, &next) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "none of 2 ranks would stay"));
    return td_comm_barrier(c);
}

static void chosen_ranks_stay(void **state)
{
    (void)state;
    for (int k = 0; k < 5; k++)
        assert_ok(td_comm_run_local(6, &(td_comm_config){.spares = 2}, keeps_chosen_ranks, NULL));
    assert_ok(td_comm_run_local(2, NULL, none_stays, NULL));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_grow_and_shrink),
        cmocka_unit_test(chosen_ranks_stay),
    };
    if (argc < 2) return cmocka_run_group_tests(tests, NULL, NULL);
    td_comm_config config = {.deadline_ms = 20000, .spares = 2};
    td_rank_fn *fn = !strcmp(argv[1], "mpi-keeping") ? keeps_chosen_ranks : changes_size;
    td_status status = td_comm_run_mpi(&config, fn, NULL);
    if (status != TD_OK) fprintf(stderr, "%s\n", td_last_error());
    return status != TD_OK;
}
