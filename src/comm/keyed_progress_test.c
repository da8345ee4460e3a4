/* Pulled parts that are taken while others are still made: see ranks_test.h. */
#include "comm/ranks_test.h"

#include "tandem/keyed.h"

enum { PARTS = 1000, PIECES = 5 };

/* The last rank serves: a key's part is the key. Key 1 alone: fails behind the third piece. */
static td_status serve(void *user, const td_keyed_request *q)
{
    (void)user;
    uint64_t *out = q->out;
    for (size_t i = 0; i < q->count; i++) {
        out[i] = q->keys[i];
        if ((i + 1) % (PARTS / PIECES)) continue;
        td_keyed_wrote(q, i + 1 < PARTS ? (i + 1) * sizeof *out : SIZE_MAX); /* all there are */
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        if (q->keys[0] == 1 && i > PARTS / 2) return td_fail(TD_ERR_DATA, "no more of it");
    }
    return TD_OK;
}

/* Two requests are under way at once; the third pair fails. */
static td_status pulls(td_comm *c, void *arg)
{
    (void)arg;
    int last = td_comm_size(c) - 1;
    td_keyed *keyed;
    td_keyed_config config = {.servers = &last, .server_count = 1, .width = 8, .serve = serve};
    static _Thread_local uint64_t keys[PARTS], out[2][PARTS];
    uint64_t ticket[2];
    TD_TRY(td_keyed_open(c, &config, &keyed));
    for (int round = 0; round < 4; round++) {
        bool fails = round == 2;
        memset(out, 0xff, sizeof out);
        for (uint64_t i = 0; i < PARTS; i++) keys[i] = fails ? i + 1 : i * 7 + (uint64_t)round + 2;
        for (int k = 0; k < 2; k++) {
            td_parts parts = {.keys = keys, .count = PARTS, .out = out[k]};
            TD_TRY(td_keyed_start(keyed, TD_PULL, &parts, &ticket[k]));
        }
        for (int k = 0; k < 2; k++) {
            td_status status = td_keyed_wait(keyed, ticket[k]);
            CHECK(status == (fails ? TD_ERR_DATA : TD_OK));
            for (int i = 0; i < PARTS; i++) CHECK(out[k][i] == (fails ? 0 : keys[i]));
        }
    }
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    return TD_OK;
}

static void parts_come_while_others_are_made(void **state)
{
    (void)state;
    on_all_sizes(pulls, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_come_while_others_are_made)};
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
