/* Ranges dealt between ranks: whoever has an element has the same of it, so each wanted element
 * must come to be what it is everywhere, and one that nobody has must be said to be lost. */
#include "comm/buddy.h"

#include "base/rng.h"
#include "comm/ranks_test.h"

enum { MOST = 1000, VECTORS = 3 };

static uint32_t value(int vector, size_t element)
{
    return (uint32_t)(vector * 100003 + (int)element * 7 + 1);
}

/* Memory for a range, with its elements' values or nothing in it. */
static void fill(td_range *r, uint32_t room[VECTORS][MOST], bool known)
{
    for (int v = 0; v < VECTORS; v++) {
        r->data[v] = (char *)room[v];
        for (size_t i = r->begin; i < r->end; i++) room[v][i - r->begin] = known ? value(v, i) : 0;
    }
}

static td_range random_range(td_rng *rng, size_t count)
{
    size_t a = td_rng_below(rng, (uint32_t)count + 1), b = td_rng_below(rng, (uint32_t)count + 1);
    return (td_range){a < b ? a : b, a < b ? b : a, {0}};
}

static bool inside(const td_range *r, size_t i)
{
    return r->begin <= i && i < r->end;
}

typedef struct claims {
    td_range have[TD_BUDDY_HAVE], want[TD_BUDDY_WANT];
} claims;

/* All ranks draw the same ranges of all ranks. */
static td_status deal_at_random(td_comm *c, void *arg)
{
    (void)arg;
    static _Thread_local uint32_t had[TD_BUDDY_HAVE][VECTORS][MOST],
        got[TD_BUDDY_WANT][VECTORS][MOST];
    int size = td_comm_size(c), rank = td_comm_rank(c);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, (uint64_t)size, 0);
    for (int trial = 0; trial < 60; trial++) {
        size_t count = 1 + td_rng_below(&rng, MOST);
        claims all[8];
        bool gap = false, lost = true;
        for (int r = 0; r < size; r++) {
            for (int k = 0; k < TD_BUDDY_HAVE; k++) all[r].have[k] = random_range(&rng, count);
            for (int k = 0; k < TD_BUDDY_WANT; k++) all[r].want[k] = random_range(&rng, count);
        }
        if (trial % 3) all[trial % size].have[0] = (td_range){0, count, {0}};
        for (size_t i = 0; i < count; i++) {
            bool wanted = false, there = false;
            for (int r = 0; r < size; r++) {
                for (int k = 0; k < TD_BUDDY_HAVE; k++) there |= inside(&all[r].have[k], i);
                for (int k = 0; k < TD_BUDDY_WANT; k++) wanted |= inside(&all[r].want[k], i);
            }
            gap |= wanted && !there;
        }
        claims *own = &all[rank];
        for (int k = 0; k < TD_BUDDY_HAVE; k++) fill(&own->have[k], had[k], true);
        for (int k = 0; k < TD_BUDDY_WANT; k++) fill(&own->want[k], got[k], false);
        td_status status = td_buddy_deal(c, sizeof(uint32_t), VECTORS, own->have, own->want, &lost);
        CHECK(lost == gap);
        CHECK(status == (gap ? TD_ERR_PEER : TD_OK));
        for (int k = 0; k < TD_BUDDY_WANT && !gap; k++)
            for (int v = 0; v < VECTORS; v++)
                for (size_t i = own->want[k].begin; i < own->want[k].end; i++)
                    CHECK(got[k][v][i - own->want[k].begin] == value(v, i));
    }
    return TD_OK;
}

static void wanted_elements_come(void **state)
{
    (void)state;
    on_all_sizes(deal_at_random, NULL);
}

/* Own parts cover everything once, and each is somebody else's mirror. */
static void parts_are_mirrored(void **state)
{
    (void)state;
    for (size_t count = 0; count < 300; count += 7)
        for (int size = 1; size < 12; size++) {
            size_t at = 0;
            for (int r = 0; r < size; r++) {
                td_range own = td_buddy_own(count, size, r);
                td_range mirror = td_buddy_mirror(count, size, (r + 1) % size);
                assert_int_equal(own.begin, at);
                assert_true(own.end == count || own.end % 16 == 0);
                at = own.end;
                if (size > 1) assert_true(mirror.begin == own.begin && mirror.end == own.end);
                if (size == 1) assert_true(mirror.begin == mirror.end);
            }
            assert_int_equal(at, count);
        }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(wanted_elements_come),
        cmocka_unit_test(parts_are_mirrored),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
