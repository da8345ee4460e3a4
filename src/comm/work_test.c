/* Operations under way beside their rank: see ranks_test.h. The oracle is the blocking call. */
#include "comm/ranks_test.h"

#include "base/clock.h"
#include "base/rng.h"
#include "comm/recorder.h"

enum { N = 40000, WORKS = 12 };

static float *randoms(td_comm *c, size_t n)
{
    float *x = td_malloc(n * sizeof *x);
    td_rng rng;
    td_rng_init(&rng, 3, TD_RNG_TEST, (uint64_t)td_comm_rank(c), 0);
    for (size_t i = 0; i < n; i++) x[i] = td_rng_normal(&rng);
    return x;
}

/* Several in flight, blocking calls between them, started again and again. */
static td_status many(td_comm *c, void *arg)
{
    (void)arg;
    size_t n = (size_t)td_comm_size(c), counts[WORKS];
    float *in = randoms(c, N), *want = td_malloc(N * 4), *out[WORKS];
    td_work *work[WORKS];
    for (int k = 0; k < WORKS; k++) {
        counts[k] = (size_t)(k * k * 250 + k % 3);
        out[k] = td_malloc(counts[k] * 4);
        td_collective what = {.pattern = TD_ALLREDUCE,
                              .in = in,
                              .out = out[k],
                              .count = counts[k],
                              .type = TD_F32,
                              .op = TD_SUM};
        TD_TRY(td_work_create(c, &what, &work[k]));
        CHECK(td_work_done(work[k]));
    }
    for (int round = 0; round < 3; round++) {
        in[0] = (float)round;
        for (int k = 0; k < WORKS; k++) memset(out[k], 255, counts[k] * 4);
        if (round == 1)
            TD_TRY(td_work_start_all(work, WORKS));
        else
            for (int k = 0; k < WORKS; k++) TD_TRY(td_work_start(work[k]));
        TD_TRY(td_comm_allreduce(c, in, want, N, TD_F32, TD_SUM)); /* meanwhile */
        for (int k = WORKS - 1; k >= 0; k--) {
            TD_TRY(td_work_wait(work[k]));
            CHECK(td_work_done(work[k]));
            CHECK(!memcmp(out[k], want, counts[k] * 4));
        }
    }
    for (int k = 0; k < WORKS; k++) {
        td_work_destroy(work[k]);
        td_free(out[k]);
    }
    CHECK(n == (size_t)td_comm_size(c));
    td_free(in), td_free(want);
    return TD_OK;
}

/* Every pattern gives what the blocking call gives. */
static td_status patterns(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c), root = n / 2;
    size_t part = 999, all = part * (size_t)n;
    float *in = randoms(c, all), *want = td_calloc(all, 4), *got = td_calloc(all, 4);
    size_t counts[64];
    for (int r = 0; r < n; r++) counts[r] = part;
    for (int p = 0; p < TD_PATTERNS; p++) {
        bool at_root = me == root;
        td_collective what = {.pattern = (td_pattern)p,
                              .in = in,
                              .out = want,
                              .bytes = part * 4,
                              .count = part,
                              .root = root,
                              .type = TD_F32,
                              .op = TD_SUM};
        if (p == TD_REDUCE_SCATTER) what.parts = counts;
        if (p == TD_BROADCAST && at_root) what.out = NULL;
        td_collective beside = what;
        beside.out = what.out ? got : NULL;
        memset(want, 0, all * 4), memset(got, 0, all * 4);
        td_work *work;
        TD_TRY(td_comm_run(c, &what));
        TD_TRY(td_comm_start(c, &beside, &work));
        TD_TRY(td_work_wait(work));
        CHECK(!memcmp(want, got, all * 4));
        td_work_destroy(work);
    }
    td_free(in), td_free(want), td_free(got);
    return TD_OK;
}

/* Round a ring, beside a collective; the blocking calls of one side meet the works of the other. */
static td_status messages(td_comm *c, void *arg)
{
    (void)arg;
    enum { TAGS = 5, MOST = 30000 };
    int n = td_comm_size(c), me = td_comm_rank(c), right = (me + 1) % n, left = (me + n - 1) % n;
    if (n == 1) return TD_OK;
    static const size_t bytes[TAGS] = {0, 1, 777, 4096, MOST};
    char *give = td_malloc(MOST), *take = td_malloc(TAGS * MOST);
    float one = 1, all = 0;
    td_work *work[2 * TAGS + 1];
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = &one, .out = &all, .count = 1};
    for (int k = 0; k < TAGS; k++) {
        TD_TRY(td_work_create_recv(c, take + k * MOST, bytes[k], left, k, &work[k]));
        TD_TRY(td_work_create_send(c, give, bytes[k], right, k, &work[2 * TAGS - 1 - k]));
    }
    TD_TRY(td_work_create(c, &sum, &work[2 * TAGS]));
    for (int round = 0; round < 3; round++) {
        memset(give, 10 * round + me, MOST);
        memset(take, 255, TAGS * MOST);
        TD_TRY(td_work_start_all(work, 2 * TAGS + 1));
        CHECK(td_work_start(work[0]) == TD_ERR_ARG);
        for (int k = 2 * TAGS; k >= 0; k--) TD_TRY(td_work_wait(work[k]));
        for (int k = 0; k < TAGS; k++)
            for (size_t i = 0; i < MOST; i++)
                CHECK(take[k * MOST + (int)i] == (i < bytes[k] ? 10 * round + left : -1));
        CHECK((int)all == n && td_work_done(work[0]));
    }
    for (int k = 0; k <= 2 * TAGS; k++) td_work_destroy(work[k]);
    td_work *beside;
    if (me % 2 == 0 && right % 2 == 1) { /* even ranks ask by works, odd ones block */
        TD_TRY(td_comm_start_send(c, give, 100, right, 9, &beside));
        while (!td_work_done(beside)) {
        }
        TD_TRY(td_work_wait(beside));
        td_work_destroy(beside);
    } else if (me % 2 == 1) {
        TD_TRY(td_comm_recv(c, take, 100, left, 9));
        CHECK(take[99] == 20 + left);
    }
    td_free(give), td_free(take);
    return TD_OK;
}

static td_status misfit(td_comm *c, void *arg)
{
    (void)arg;
    char data[64] = {0};
    td_work *work;
    CHECK(td_comm_start_send(c, data, 8, td_comm_size(c), 0, &work) == TD_ERR_ARG);
    CHECK(td_comm_start_recv(c, NULL, 8, (td_comm_rank(c) + 1) % 2, 0, &work) == TD_ERR_ARG);
    CHECK(td_comm_start_send(c, data, 8, (td_comm_rank(c) + 1) % 2, -1, &work) == TD_ERR_ARG);
    td_error_clear();
    if (td_comm_rank(c) == 1) {
        TD_TRY(td_comm_send(c, data, 8, 0, 0));
        nanosleep(&(struct timespec){.tv_nsec = 900000000}, NULL); /* alive, but silent */
    } else if (td_comm_rank(c) == 0) {
        TD_TRY(td_comm_start_recv(c, data, 9, 1, 0, &work));
        while (!td_work_done(work)) {
        }
        CHECK(td_work_wait(work) == TD_ERR_PEER);
        CHECK(strstr(td_last_error(), "rank 1 sent 8 bytes where rank 0 expected 9 in recv"));
        td_error_clear();
        td_work_destroy(work);
        TD_TRY(td_comm_start_recv(c, data, 9, 1, 7, &work)); /* never sent */
        CHECK(td_work_wait(work) == TD_ERR_TIMEOUT &&
              strstr(td_last_error(), "for rank 1 in recv"));
        td_error_clear();
        td_work_destroy(work);
    }
    return TD_OK;
}

/* A group that is closed lets go of the receives that are under way there: nothing that is sent
 * afterwards, in that group or in the next, goes to them. */
static td_status closed_under_way(td_comm *c, void *arg)
{
    (void)arg;
    enum { BYTES = 64 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    char *gone = td_malloc(BYTES), data[BYTES];
    td_comm *first, *second;
    td_work *work = NULL;
    if (n == 1) return td_free(gone), TD_OK;
    memset(data, me + 1, BYTES);
    TD_TRY(td_comm_split(c, 0, me, &first));
    if (me == 0) {
        TD_TRY(td_comm_start_recv(first, gone, BYTES, 1, 3, &work));
        td_comm_close(first);
        CHECK(td_work_done(work));
        CHECK(td_work_wait(work) == TD_ERR_ARG && strstr(td_last_error(), "recv: this group"));
        CHECK(td_work_wait(work) == TD_OK);
        td_error_clear();
        td_work_destroy(work);
        td_free(gone);
    } else {
        td_free(gone);
    }
    TD_TRY(td_comm_barrier(c));
    if (me == 1 && !mpi_world) {
        CHECK(td_comm_send(first, data, BYTES, 0, 3) == TD_ERR_PEER);
        CHECK(strstr(td_last_error(), "rank 0 left while rank 1 waited"));
        td_error_clear();
    }
    if (me != 0) td_comm_close(first);
    TD_TRY(td_comm_split(c, 0, me, &second));
    if (me == 1) TD_TRY(td_comm_send(second, data, BYTES, 0, 3));
    if (me == 0) TD_TRY(td_comm_recv(second, data, BYTES, 1, 3));
    CHECK(data[BYTES - 1] == (me == 0 ? 2 : me + 1));
    td_comm_close(second);
    return TD_OK;
}

/* So does one whose message did not fit: of a long one there may be more to come. */
static td_status closed_behind_a_misfit(td_comm *c, void *arg)
{
    (void)arg;
    char data[40] = {0};
    td_comm *g;
    td_work *work = NULL;
    int me = td_comm_rank(c);
    if (td_comm_size(c) == 1) return TD_OK;
    TD_TRY(td_comm_split(c, 0, me, &g));
    if (me == 0) TD_TRY(td_comm_start_recv(g, data, 40, 1, 3, &work));
    if (me == 1) TD_TRY(td_comm_send(g, data, 20, 0, 3));
    TD_TRY(td_comm_barrier(c));
    td_comm_close(g);
    if (me != 0) return TD_OK;
    CHECK(g->spoiled);
    CHECK(td_work_wait(work) == TD_ERR_ARG);
    td_error_clear();
    td_work_destroy(work);
    return TD_OK;
}

/* Whoever asks again and again whether a message has come hears that its peer has left. */
static td_status left(td_comm *c, void *arg)
{
    (void)arg;
    char data[8];
    td_work *work;
    if (td_comm_rank(c) == 1) return TD_OK;
    TD_TRY(td_comm_start_recv(c, data, 8, 1, 0, &work));
    int64_t begin = td_clock_ns();
    while (!td_work_done(work)) CHECK(td_clock_ns() - begin < 5000000000);
    CHECK(td_work_wait(work) == TD_ERR_PEER);
    CHECK(strstr(td_last_error(), "rank 1 left while rank 0 waited for it in recv"));
    td_error_clear();
    td_work_destroy(work);
    return TD_OK;
}

static td_status mistakes(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y = 0;
    td_work *work;
    td_collective what = {.pattern = TD_ALLREDUCE, .in = &x, .out = NULL, .count = 1};
    CHECK(td_work_create(c, &what, &work) == TD_ERR_ARG);
    what.pattern = TD_PATTERNS;
    CHECK(td_work_create(c, &what, &work) == TD_ERR_ARG);
    what.pattern = TD_ALLREDUCE, what.out = &y;
    TD_TRY(td_work_create(c, &what, &work));
    CHECK(td_work_start_all((td_work *[]){work, work}, 2) == TD_ERR_ARG);
    TD_TRY(td_work_wait(work)); /* never started */
    TD_TRY(td_work_start(work));
    td_work_destroy(work); /* waits */
    td_work_destroy(NULL);
    CHECK((int)y == td_comm_size(c));
    return TD_OK;
}

/* A rank that fails meanwhile ends the works of the others, by name. */
static td_status one_fails(td_comm *c, void *arg)
{
    (void)arg;
    float x = 1, y;
    td_work *work;
    td_collective what = {.pattern = TD_ALLREDUCE, .in = &x, .out = &y, .count = 1};
    TD_TRY(td_work_create(c, &what, &work));
    if (td_comm_rank(c) == 1) {
        td_work_destroy(work);
        return td_fail(TD_ERR_DATA, "line 5 is torn");
    }
    TD_TRY(td_work_start(work));
    td_status status = td_work_wait(work);
    CHECK(status == TD_ERR_PEER && strstr(td_last_error(), "rank 1 failed: line 5 is torn"));
    td_work_destroy(work);
    return status;
}

static void many_are_in_flight_at_once(void **state)
{
    (void)state;
    on_all_sizes(many, NULL);
}

static void every_pattern_runs_beside_its_rank(void **state)
{
    (void)state;
    on_all_sizes(patterns, NULL);
}

static void messages_are_under_way_beside_collectives(void **state)
{
    (void)state;
    on_all_sizes(messages, NULL);
}

static void a_group_closes_while_messages_are_under_way(void **state)
{
    (void)state;
    on_all_sizes(closed_under_way, NULL);
    on_all_sizes(closed_behind_a_misfit, NULL);
}

static void who_asks_for_a_message_hears_that_its_peer_left(void **state)
{
    (void)state;
    if (mpi_world) skip();
    assert_ok(td_comm_run_local(2, NULL, left, NULL));
}

static void a_message_that_does_not_fit_is_named(void **state)
{
    (void)state;
    if (mpi_world) skip();
    td_comm_config hasty = {.deadline_ms = 500};
    assert_ok(td_comm_run_local(2, &hasty, misfit, NULL));
}

/* Operations that the group's works have run. */
static uint64_t works_of(const td_comm *comm)
{
    const td_recorder *r = comm->recorder;
    uint64_t n = 0;
    for (int k = 0; k < TD_RECORDER_GROUPS; k++)
        if (r->group[k].number && r->group[k].kind == TD_GROUP_WORKS) n += r->group[k].collectives;
    return n;
}

/* Small sums that are started at once are one operation, of as many as are of a type. */
static td_status grouped(td_comm *c, void *arg)
{
    (void)arg;
    enum { COUNT = 100, KINDS = 2 };
    td_comm *g;
    td_work *work[WORKS];
    float x[WORKS][COUNT], y[WORKS][COUNT], want = 0;
    int n = td_comm_size(c), me = td_comm_rank(c);
    for (int r = 0; r < n; r++) want += (float)r;
    TD_TRY(td_comm_split(c, 0, me, &g));
    TD_TRY(td_comm_record(g, NULL));
    for (int k = 0; k < WORKS; k++) {
        for (int i = 0; i < COUNT; i++) x[k][i] = (float)(me + (k >= WORKS / 2) * 100);
        td_collective sum = {.pattern = TD_ALLREDUCE, .in = x[k], .out = y[k], .count = COUNT};
        if (k >= WORKS / 2) sum.op = TD_MAX;
        TD_TRY(td_work_create(g, &sum, &work[k]));
    }
    uint64_t before = works_of(g);
    TD_TRY(td_work_start_all(work, WORKS));
    for (int k = 0; k < WORKS; k++) TD_TRY(td_work_wait(work[k]));
    CHECK(works_of(g) - before == KINDS);
    for (int k = 0; k < WORKS; k++)
        CHECK(y[k][COUNT - 1] == (k < WORKS / 2 ? want : (float)(n + 99)));
    before = works_of(g);
    for (int k = 0; k < WORKS; k++) TD_TRY(td_work_start(work[k]));
    for (int k = 0; k < WORKS; k++) TD_TRY(td_work_wait(work[k]));
    CHECK(works_of(g) - before == WORKS);
    for (int k = 0; k < WORKS; k++) td_work_destroy(work[k]);
    td_comm_close(g);
    return TD_OK;
}

/* The same with other patterns, of which some ranks give or get nothing. */
static td_status grouped_with_roots(td_comm *c, void *arg)
{
    (void)arg;
    enum { EACH = 3, ALL = 4 * EACH, MOST = 64 };
    td_comm *g;
    td_work *work[ALL];
    int32_t x[ALL][MOST], y[ALL][MOST];
    int n = td_comm_size(c), me = td_comm_rank(c), last = n - 1, sum = n * (n - 1) / 2;
    TD_TRY(td_comm_split(c, 0, me, &g));
    TD_TRY(td_comm_record(g, NULL));
    for (int k = 0; k < ALL; k++) {
        size_t count = (size_t)(20 * (k % EACH) + 1);
        for (int i = 0; i < MOST; i++) x[k][i] = me + k, y[k][i] = -1;
        td_collective reduce = {.pattern = k < EACH ? TD_REDUCE : TD_SCAN,
                                .in = x[k],
                                .out = k >= EACH || me == last ? y[k] : NULL,
                                .count = count,
                                .root = k < EACH ? last : 0,
                                .type = TD_I32};
        td_collective spread = {.pattern = TD_BROADCAST,
                                .in = me == k / (3 * EACH) * last ? x[k] : NULL,
                                .out = me == k / (3 * EACH) * last ? NULL : y[k],
                                .bytes = count * 4,
                                .root = k / (3 * EACH) * last};
        TD_TRY(td_work_create(g, k < 2 * EACH ? &reduce : &spread, &work[k]));
    }
    uint64_t before = works_of(g);
    TD_TRY(td_work_start_all(work, ALL));
    for (int k = 0; k < ALL; k++) TD_TRY(td_work_wait(work[k]));
    CHECK(works_of(g) - before == (n > 1 ? 4 : 3)); /* alone there is one root */
    for (int k = 0; k < ALL; k++) {
        int root = k < EACH ? last : k / (3 * EACH) * last, at = 20 * (k % EACH);
        int want = k < EACH       ? sum + n * k
                   : k < 2 * EACH ? me * (me + 1) / 2 + (me + 1) * k
                                  : root + k;
        bool gets = k < EACH ? me == root : k < 2 * EACH || me != root;
        CHECK(y[k][at] == (gets ? want : -1) && y[k][at + 1] == -1);
    }
    for (int k = 0; k < ALL; k++) td_work_destroy(work[k]);
    td_comm_close(g);
    return TD_OK;
}

static void small_ones_are_one_operation(void **state)
{
    (void)state;
    on_all_sizes(grouped, NULL);
    on_all_sizes(grouped_with_roots, NULL);
}

static void mistakes_are_refused(void **state)
{
    (void)state;
    on_all_sizes(mistakes, NULL);
}

static void a_failing_rank_ends_the_others_works(void **state)
{
    (void)state;
    if (mpi_world) skip();
    assert_fails(TD_ERR_DATA, "line 5 is torn", td_comm_run_local(3, NULL, one_fails, NULL));
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_are_in_flight_at_once),
        cmocka_unit_test(every_pattern_runs_beside_its_rank),
        cmocka_unit_test(messages_are_under_way_beside_collectives),
        cmocka_unit_test(a_group_closes_while_messages_are_under_way),
        cmocka_unit_test(who_asks_for_a_message_hears_that_its_peer_left),
        cmocka_unit_test(a_message_that_does_not_fit_is_named),
        cmocka_unit_test(small_ones_are_one_operation),
        cmocka_unit_test(mistakes_are_refused),
        cmocka_unit_test(a_failing_rank_ends_the_others_works),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
