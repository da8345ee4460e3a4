/* In-place parts, which servers read and write where they lie in the asker's memory: see
 * ranks_test.h. The oracle is what each rank has pushed, of keys that are its own. */
#include "comm/ranks_test.h"

#include "tandem/keyed.h"

#include <stdatomic.h>

enum { PARTS = 2003, MOST_WIDTH = 40, MOST_RANKS = 16, BATCHES = 3, ROOM = PARTS * MOST_WIDTH };
static const uint64_t bad = 1u << 20; /* no server has it, nor any key above */

typedef struct table {
    int self;
    size_t width;
    unsigned char *part; /* [MOST_RANKS * PARTS][width] sums modulo 256 */
    int placed, placed_of_others;
    int pushes, pushes_due; /* pulls wait for so many */
    atomic_int put_off;
} table;

static bool is_due(void *user, const td_keyed_request *q)
{
    table *t = user;
    bool due = q->does != TD_PULL || t->pushes >= t->pushes_due;
    atomic_fetch_add(&t->put_off, !due);
    return due;
}

static td_status serve(void *user, const td_keyed_request *q)
{
    table *t = user;
    t->placed += q->places != NULL;
    t->pushes += q->does == TD_PUSH;
    t->placed_of_others += q->places && q->from != t->self;
    for (size_t i = 0; i < q->count; i++) {
        size_t at = (q->places ? q->places[i] : i) * t->width;
        if (q->keys[i] >= bad) return td_fail(TD_ERR_DATA, "no such key");
        unsigned char *part = t->part + q->keys[i] * t->width;
        for (size_t b = 0; b < t->width; b++) {
            if (q->does & TD_PUSH) part[b] += ((const unsigned char *)q->in)[at + b];
            if (q->does & TD_PULL) ((unsigned char *)q->out)[at + b] = part[b];
        }
    }
    return TD_OK;
}

typedef struct setting {
    size_t width;
    bool registered, sized;
} setting;

typedef struct batch {
    uint64_t keys[PARTS];
    size_t sizes[PARTS];
    unsigned char *in, *out; /* [ROOM + 1] */
    td_parts parts;
} batch;

/* This rank's keys, and other values each time. */
static void fill(batch *b, const setting *s, int rank, int round)
{
    for (uint64_t i = 0; i < PARTS; i++) b->keys[i] = (uint64_t)rank * PARTS + (i * 7) % PARTS;
    for (size_t i = 0; i < PARTS; i++) b->sizes[i] = s->width;
    for (size_t k = 0; k < ROOM; k++) b->in[k] = (unsigned char)(k * 11 + (size_t)(round + rank));
    memset(b->out, 0xa5, ROOM + 1);
    b->parts =
        (td_parts){.keys = b->keys, .count = PARTS, .in = b->in, .out = b->out, .in_place = true};
    if (s->sized) b->parts.sizes = b->sizes;
}

/* Three pushes, one that brings values back, and two pulls, all under way at once: more than a
 * server's process has slots for. */
static td_status comes_back(td_comm *c, td_keyed *keyed, const setting *s, batch b[BATCHES])
{
    uint64_t push[BATCHES], back[BATCHES];
    for (int k = 0; k < BATCHES; k++) {
        fill(&b[k], s, td_comm_rank(c), k);
        TD_TRY(td_keyed_start(keyed, TD_PUSH, &b[k].parts, &push[k]));
    }
    for (int k = 0; k < BATCHES; k++)
        TD_TRY(td_keyed_start(keyed, k ? TD_PULL : TD_PUSH_PULL, &b[k].parts, &back[k]));
    for (int k = BATCHES; k-- > 0;) TD_TRY(td_keyed_wait(keyed, back[k]));
    for (int k = 0; k < BATCHES; k++) TD_TRY(td_keyed_wait(keyed, push[k]));
    for (size_t i = 0; i < PARTS * s->width; i++) {
        CHECK(b[0].out[i] == (unsigned char)(2 * b[0].in[i] + b[1].in[i] + b[2].in[i]));
        for (int k = 1; k < BATCHES; k++) CHECK(b[k].out[i] == b[0].out[i]);
    }
    CHECK(b[0].out[PARTS * s->width] == 0xa5);
    return TD_OK;
}

/* The server that finds a wrong key gives none of its parts, the others all of theirs. */
static td_status fails_in_part(td_comm *c, td_keyed *keyed, const setting *s, batch *b)
{
    int size = td_comm_size(c);
    uint64_t ticket;
    fill(b, s, td_comm_rank(c), 0);
    unsigned char *want = td_malloc(ROOM);
    b->parts.in = NULL;
    TD_TRY(td_keyed_start(keyed, TD_PULL, &b->parts, &ticket));
    TD_TRY(td_keyed_wait(keyed, ticket));
    memcpy(want, b->out, ROOM);
    memset(b->out, 0xa5, ROOM);
    b->keys[PARTS / 2] = bad + 1;
    int wrong = td_keyed_owner(bad + 1, size);
    TD_TRY(td_keyed_start(keyed, TD_PULL, &b->parts, &ticket));
    CHECK(td_keyed_wait(keyed, ticket) == TD_ERR_DATA);
    for (size_t i = 0; i < PARTS; i++) {
        bool none = td_keyed_owner(b->keys[i], size) == wrong;
        for (size_t k = i * s->width; k < (i + 1) * s->width; k++)
            CHECK(b->out[k] == (none ? 0 : want[k]));
    }
    td_free(want);
    return TD_OK;
}

/* Started time and again, with other values each time, also when what it was made of has gone. */
static td_status plans_come_back(td_comm *c, td_keyed *keyed, const setting *s, batch *b)
{
    enum { ROUNDS = 3 };
    td_keyed_plan *push, *pull;
    uint64_t ticket;
    unsigned char *want = td_malloc(ROOM);
    fill(b, s, td_comm_rank(c), 0);
    TD_TRY(td_keyed_plan_create(keyed, TD_PUSH, &b->parts, &push));
    TD_TRY(td_keyed_plan_create(keyed, TD_PULL, &b->parts, &pull));
    memset(b->keys, 0xff, sizeof b->keys), memset(b->sizes, 0xff, sizeof b->sizes);
    TD_TRY(td_keyed_plan_start(pull, &ticket));
    TD_TRY(td_keyed_wait(keyed, ticket));
    memcpy(want, b->out, ROOM);
    for (int r = 0; r < ROUNDS; r++) {
        for (size_t k = 0; k < PARTS * s->width; k++)
            b->in[k] = (unsigned char)(k * 5 + (size_t)r), want[k] += b->in[k];
        TD_TRY(td_keyed_plan_start(push, &ticket));
        TD_TRY(td_keyed_wait(keyed, ticket));
        memset(b->out, 0xa5, ROOM);
        TD_TRY(td_keyed_plan_start(pull, &ticket));
        TD_TRY(td_keyed_wait(keyed, ticket));
        CHECK(!memcmp(b->out, want, PARTS * s->width) && b->out[PARTS * s->width] == 0xa5);
    }
    td_keyed_plan_destroy(push), td_keyed_plan_destroy(pull);
    td_free(want);
    return TD_OK;
}

/* All push to the same parts, and pull them when all have: rank 0 does when another's pull waits.
 */
static td_status pulls_wait(td_comm *c, const setting *s, batch *b)
{
    int size = td_comm_size(c);
    table t = {.self = td_comm_rank(c), .width = s->width, .pushes_due = size};
    td_keyed_config config = {.width = s->width, .serve = serve, .ready = is_due, .user = &t};
    td_keyed *keyed;
    uint64_t push, pull;
    t.part = td_calloc(PARTS, s->width);
    TD_TRY(td_keyed_open(c, &config, &keyed));
    fill(b, s, 0, td_comm_rank(c));
    bool first = td_comm_rank(c) == 0 && size > 1;
    for (int k = 0; k < 100000 && first && !atomic_load(&t.put_off); k++)
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    CHECK(!first || atomic_load(&t.put_off));
    TD_TRY(td_keyed_start(keyed, TD_PUSH, &b->parts, &push));
    TD_TRY(td_keyed_wait(keyed, push));
    TD_TRY(td_keyed_start(keyed, TD_PULL, &b->parts, &pull));
    TD_TRY(td_keyed_wait(keyed, pull));
    for (size_t k = 0; k < PARTS * s->width; k++)
        CHECK(b->out[k] == (unsigned char)(size * (int)(k * 11) + size * (size - 1) / 2));
    CHECK(b->out[PARTS * s->width] == 0xa5);
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    td_free(t.part);
    return TD_OK;
}

static td_status works(td_comm *c, const setting *s, batch b[BATCHES])
{
    int size = td_comm_size(c), all, others;
    table t = {.self = td_comm_rank(c), .width = s->width};
    td_keyed_config config = {.width = s->width, .serve = serve, .user = &t};
    td_keyed *keyed;
    t.part = td_calloc((size_t)MOST_RANKS * PARTS, s->width);
    TD_TRY(td_keyed_open(c, &config, &keyed));
    TD_TRY(comes_back(c, keyed, s, b));
    TD_TRY(plans_come_back(c, keyed, s, &b[0]));
    TD_TRY(fails_in_part(c, keyed, s, &b[0]));
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    td_free(t.part);
    TD_TRY(td_comm_allreduce(c, &t.placed, &all, 1, TD_I32, TD_SUM));
    TD_TRY(td_comm_allreduce(c, &t.placed_of_others, &others, 1, TD_I32, TD_SUM));
    bool may = size > 1 && s->width >= 16 && !s->sized;
    CHECK(may ? all > 0 : all == 0);
    bool seen =
        td_comm_hosts(c) < size && (s->registered || !strcmp(td_comm_transport(c), "local"));
    CHECK((may && seen) == (others > 0));
    return pulls_wait(c, s, b);
}

static td_status parts_stay(td_comm *c, void *arg)
{
    (void)arg;
    static const setting settings[] = {{16, true, false},  {40, true, false}, {40, false, false},
                                       {16, false, false}, {8, true, false},  {16, true, true}};
    batch *b = td_calloc(BATCHES, sizeof *b);
    td_status status = TD_OK;
    for (size_t k = 0; k < sizeof settings / sizeof *settings && status == TD_OK; k++) {
        const setting *s = &settings[k];
        void *at[2 * BATCHES];
        for (int m = 0; m < 2 * BATCHES; m++) {
            if (s->registered) TD_TRY(td_comm_alloc(ROOM + 1, &at[m]));
            if (!s->registered) at[m] = td_malloc(ROOM + 1);
        }
        for (int m = 0; m < BATCHES; m++) b[m].in = at[2 * m], b[m].out = at[2 * m + 1];
        status = works(c, s, b);
        for (int m = 0; m < 2 * BATCHES; m++) {
            if (s->registered) TD_TRY(td_comm_free(at[m]));
            if (!s->registered) td_free(at[m]);
        }
    }
    td_free(b);
    return status;
}

static void parts_stay_where_they_are(void **state)
{
    (void)state;
    on_all_sizes(parts_stay, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parts_stay_where_they_are)};
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
