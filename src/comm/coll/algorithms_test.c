/* Every algorithm of a pattern gives the same bits: see ranks_test.h. Threads pretend to be on
 * several hosts as well. */
#include "comm/ranks_test.h"

#include "base/rng.h"
#include "comm/coll/coll.h"

enum { N = 30011, FEW = 2003 /* which no algorithm finds too long */, MOST = 16 };

/* Float sums of so many by each algorithm, forced, are those of the default. */
static td_status same_bits_of(td_comm *c, size_t count)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    size_t all = count / (size_t)n * (size_t)n, counts[64];
    float *in = td_malloc(N * 4), *want = td_calloc(N, 4), *got = td_calloc(N, 4);
    td_rng rng;
    td_rng_init(&rng, 5, TD_RNG_TEST, (uint64_t)me, 0);
    for (size_t i = 0; i < N; i++) in[i] = td_rng_normal(&rng);
    for (int r = 0; r < n; r++) counts[r] = all / (size_t)n;
    for (int p = 0; p < TD_PATTERNS; p++) {
        const char *names[MOST];
        int algorithms = td_coll_algorithms(c, (td_pattern)p, false, names, MOST);
        td_collective what = {.pattern = (td_pattern)p,
                              .in = in,
                              .out = want,
                              .bytes = all / (size_t)n * 4,
                              .count = count,
                              .type = TD_F32,
                              .op = TD_SUM,
                              .parts = p == TD_REDUCE_SCATTER ? counts : NULL};
        td_collective other = what;
        other.out = got;
        if (p == TD_BROADCAST && me == 0) what.out = other.out = NULL;
        CHECK(algorithms >= 1);
        memset(want, 0, N * 4);
        TD_TRY(td_comm_run(c, &what));
        for (int k = 0; k < algorithms; k++) {
            memset(got, 0, N * 4);
            TD_TRY(td_coll_force(c, (td_pattern)p, names[k]));
            TD_TRY(td_comm_run(c, &other));
            CHECK(!memcmp(want, got, N * 4));
        }
        TD_TRY(td_coll_force(c, (td_pattern)p, NULL));
        CHECK(td_coll_force(c, (td_pattern)p, "carrier-pigeon") == TD_ERR_ARG);
    }
    td_free(in), td_free(want), td_free(got);
    return TD_OK;
}

static td_status same_bits(td_comm *c, void *arg)
{
    (void)arg;
    TD_TRY(same_bits_of(c, FEW));
    return same_bits_of(c, N);
}

/* Where each rank is a host it gives its vector to all others, while a header's message holds it.
 * (Of two hosts it would send as much by the longer ones' schedule.) */
static td_status exchanged(td_comm *c, void *arg)
{
    uint64_t others = (uint64_t)td_comm_size(c) - 1;
    static const size_t counts[] = {1, FEW, TD_HELLO_INLINE / 4, TD_HELLO_INLINE / 4 + 1};
    (void)arg;
    if (td_comm_hosts(c) != td_comm_size(c) || others < 2 || others > 3) return TD_OK;
    float *in = td_calloc(N, 4), *out = td_calloc(N, 4);
    TD_TRY(td_coll_force(c, TD_ALLREDUCE, "hierarchical-exchange"));
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        uint64_t before = td_comm_bytes_sent(c), all = others * counts[k] * 4;
        TD_TRY(td_comm_allreduce(c, in, out, counts[k], TD_F32, TD_SUM));
        uint64_t sent = td_comm_bytes_sent(c) - before;
        CHECK(k < 3 ? sent == all : sent < all);
    }
    TD_TRY(td_coll_force(c, TD_ALLREDUCE, NULL));
    td_free(in), td_free(out);
    return TD_OK;
}

/* In more pieces than are received ahead, by two trees of which a half has an odd end. */
static td_status many_pieces(td_comm *c, void *arg)
{
    enum { LONG = 300007, BYTES = LONG * 4 - 1, LAST = 99 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    int32_t *in = td_malloc(LONG * 4), *out = td_malloc(LONG * 4);
    unsigned char *bytes = td_malloc(BYTES + 1);
    (void)arg;
    TD_TRY(td_coll_force(c, TD_BROADCAST, "double-tree"));
    TD_TRY(td_coll_force(c, TD_ALLREDUCE, "double-tree"));
    for (int root = 0; root < n; root += n < 3 ? 1 : n - 2) {
        for (size_t i = 0; i < BYTES; i++) bytes[i] = me == root ? (unsigned char)(i * i % 251) : 0;
        bytes[BYTES] = LAST;
        TD_TRY(td_comm_broadcast(c, bytes, BYTES, root));
        for (size_t i = 0; i < BYTES; i++) CHECK(bytes[i] == (unsigned char)(i * i % 251));
        CHECK(bytes[BYTES] == LAST);
    }
    for (int in_place = 0; in_place < 2; in_place++) {
        for (size_t i = 0; i < LONG; i++) in[i] = (int32_t)(i % 7919) * (me + 3);
        TD_TRY(td_comm_allreduce(c, in, in_place ? in : out, LONG, TD_I32, TD_SUM));
        const int32_t *got = in_place ? in : out;
        for (size_t i = 0; i < LONG; i++)
            CHECK(got[i] == (int32_t)(i % 7919) * (n * (n - 1) / 2 + 3 * n));
    }
    TD_TRY(td_coll_force(c, TD_BROADCAST, NULL));
    TD_TRY(td_coll_force(c, TD_ALLREDUCE, NULL));
    td_free(in), td_free(out), td_free(bytes);
    return TD_OK;
}

static bool has(const char *const *names, int n, const char *name)
{
    for (int k = 0; k < n; k++)
        if (!strcmp(names[k], name)) return true;
    return false;
}

/* Algorithms of another order serve whole numbers, with the same result, and nothing else. */
static td_status whole_numbers(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    size_t counts[64];
    float *floats = td_malloc(N * 4);
    int32_t *in = td_malloc(N * 4), *want = td_calloc(N, 4), *got = td_calloc(N, 4);
    for (size_t i = 0; i < N; i++)
        in[i] = (int32_t)(i % 7919) * (me + 3), floats[i] = (float)in[i] / 7;
    for (int r = 0; r < n; r++) counts[r] = (size_t)(r * 5 % 3) * (N / (size_t)n / 3);
    for (int p = TD_REDUCE; p <= TD_SCAN; p++) {
        const char *names[MOST];
        int algorithms = td_coll_algorithms(c, (td_pattern)p, true, names, MOST);
        CHECK(p != TD_ALLREDUCE || has(names, algorithms, "double-tree"));
        CHECK(p != TD_ALLREDUCE || has(names, algorithms, "recursive-halving"));
        for (int type = TD_F32; type <= TD_I32; type++) {
            td_collective what = {.pattern = (td_pattern)p,
                                  .in = type == TD_F32 ? (void *)floats : in,
                                  .out = want,
                                  .count = N,
                                  .type = (td_type)type,
                                  .op = TD_SUM,
                                  .root = n - 1,
                                  .parts = p == TD_REDUCE_SCATTER ? counts : NULL};
            if (type == TD_F64) continue;
            memset(want, 0, N * 4);
            TD_TRY(td_comm_run(c, &what));
            for (int k = 0; k < algorithms; k++) {
                TD_TRY(td_coll_force(c, (td_pattern)p, names[k]));
                memset(got, 0, N * 4);
                what.out = got;
                TD_TRY(td_comm_run(c, &what));
                CHECK(!memcmp(want, got, N * 4));
            }
            TD_TRY(td_coll_force(c, (td_pattern)p, NULL));
        }
    }
    td_free(in), td_free(floats), td_free(want), td_free(got);
    return TD_OK;
}

/* Many ranks of a host meet in memory as few do, and see that one runs something else. */
static td_status crowd(td_comm *c, void *arg)
{
    enum { COUNT = 5000, CROWD = 128 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    int32_t *in = td_calloc(COUNT, 4), *out = td_calloc(COUNT, 4), all[CROWD];
    td_call call;
    td_collective sum = {.pattern = TD_ALLREDUCE, .in = in, .out = out, .type = TD_I32};
    for (size_t count = 1; count <= COUNT; count += COUNT - 1) {
        for (size_t i = 0; i < count; i++) in[i] = me + (int32_t)i;
        sum.count = count;
        TD_TRY(td_call_make(c, &sum, &call));
        CHECK(!strcmp(td_coll_serving(c, &call), "shared"));
        TD_TRY(td_comm_run(c, &sum));
        for (size_t i = 0; i < count; i++) CHECK(out[i] == n * (n - 1) / 2 + n * (int32_t)i);
    }
    TD_TRY(td_comm_allgather(c, &me, sizeof me, all));
    for (int r = 0; r < n; r++) CHECK(all[r] == r);
    td_status status = arg && me == n - 1 ? td_comm_barrier(c) : td_comm_run(c, &sum);
    td_free(in), td_free(out);
    return status;
}

static void a_crowd_meets_in_memory(void **state)
{
    (void)state;
    bool differs = true;
    if (mpi_world || getenv("TANDEM_TEST_SHORT")) skip();
    assert_ok(td_comm_run_local(65, NULL, crowd, NULL));
    assert_ok(td_comm_run_local(128, NULL, crowd, NULL));
    assert_fails(TD_ERR_ARG, "rank 99", td_comm_run_local(100, NULL, crowd, &differs));
    assert_non_null(strstr(td_last_error(), "runs barrier"));
}

/* Under MPI by what /dev/shm has in all. */
static void many_meet_where_memory_is_plenty(void **state)
{
    (void)state;
    const uint64_t mib = 1 << 20;
    assert_false(td_shared_suits(1, UINT64_MAX));
    assert_true(td_shared_suits(2, 0));
    assert_true(td_shared_suits(64, 64 * mib));
    assert_false(td_shared_suits(65, 64 * mib));
    assert_false(td_shared_suits(128, 399 * mib));
    assert_true(td_shared_suits(128, 400 * mib));
    assert_false(td_shared_suits(129, UINT64_MAX));
}

/* --- receives that cannot be withdrawn, as of MPI --- */

enum { DRIFTING = 64 };

typedef struct drift {
    td_transport_ops ops;
    const td_transport_ops *under;
    td_request late[DRIFTING];
    int count;
} drift;
static _Thread_local drift drifting;

/* What is kept is no leak. */
void __lsan_disable(void) __attribute__((weak));
void __lsan_enable(void) __attribute__((weak));

/* What is still to come then. */
static void cannot_withdraw(td_comm *comm, td_request *request)
{
    if (drifting.count < DRIFTING)
        drifting.late[drifting.count++] =
            (td_request){.data = request->data, .bytes = request->bytes};
    drifting.under->cancel(comm, request);
    comm->adrift = true;
    td_alloc_keep(request->data, request->bytes);
}

/* Rank 1 is silent. What comes late from it finds the memory that it was to go to. */
static td_status late_messages(td_comm *c, void *arg)
{
    (void)arg;
    static const td_pattern patterns[] = {TD_ALLREDUCE, TD_ALLREDUCE, TD_ALLREDUCE, TD_ALLTOALL,
                                          TD_SCAN};
    static const char *const names[] = {"pairwise", "binomial", "recursive-halving", "bruck",
                                        "chain"};
    td_comm *g;
    int me = td_comm_rank(c), n = td_comm_size(c);
    drift *d = &drifting;
    *d = (drift){.ops = *c->ops, .under = c->ops};
    d->ops.cancel = cannot_withdraw;
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        float *in = td_calloc(N, 4), *out = td_calloc(N, 4);
        td_collective what = {.pattern = patterns[k],
                              .in = in,
                              .out = out,
                              .bytes = N / (size_t)n * 4,
                              .count = N};
        TD_TRY(td_comm_split(c, 0, me, &g));
        d->count = 0;
        if (__lsan_disable) __lsan_disable();
        if (me != 1) {
            g->ops = &d->ops, g->deadline_ms = 50;
            TD_TRY(td_coll_force(g, patterns[k], names[k]));
            CHECK(td_comm_run(g, &what) != TD_OK);
            CHECK(g->adrift && d->count > 0);
            g->ops = d->under;
        }
        if (__lsan_enable) __lsan_enable();
        TD_TRY(td_comm_barrier(c));
        td_comm_close(g);
        for (int i = 0; i < d->count; i++) memset(d->late[i].data, 0, d->late[i].bytes);
        td_free(in), td_free(out);
    }
    return TD_OK;
}

static void what_comes_late_finds_its_memory(void **state)
{
    (void)state;
    if (mpi_world) skip();
    setenv("TANDEM_FAKE_HOSTS", "0,1,2,3", 1);
    assert_ok(td_comm_run_local(4, NULL, late_messages, NULL));
    unsetenv("TANDEM_FAKE_HOSTS");
}

static const char *served(td_comm *c, td_pattern pattern, size_t bytes, const size_t *parts)
{
    static char anything; /* buffers are not looked into */
    td_collective what = {.pattern = pattern, .bytes = bytes, .parts = parts, .takes = parts};
    td_call call = {.pattern = TD_BARRIER};
    what.in = pattern == TD_BROADCAST && td_comm_rank(c) ? NULL : &anything;
    what.out = (char *)(uintptr_t)(1 + (uintptr_t)&anything + ((uintptr_t)1 << 42));
    if (pattern == TD_BROADCAST && td_comm_rank(c) == 0) what.out = NULL;
    if (td_coll_force(c, pattern, "mpi") != TD_OK) return "nobody";
    if (td_call_make(c, &what, &call) != TD_OK) return td_last_error();
    const char *name = td_coll_serving(c, &call);
    return td_coll_force(c, pattern, NULL) == TD_OK ? name : "nobody";
}

/* MPI's own algorithms give way where an int does not count the bytes. */
static td_status too_long_for_mpi(td_comm *c, void *arg)
{
    (void)arg;
    size_t n = (size_t)td_comm_size(c), most = INT32_MAX, parts[64];
    if (n == 1) return TD_OK;
    for (size_t r = 0; r < n; r++) parts[r] = most / n;
    for (int more = 0; more < 2; more++) {
        bool mpi = more == 0;
        CHECK(!strcmp(served(c, TD_BROADCAST, most + (size_t)more, NULL), "mpi") == mpi);
        CHECK(!strcmp(served(c, TD_ALLGATHER, most + (size_t)more, NULL), "mpi") == mpi);
        CHECK(!strcmp(served(c, TD_ALLTOALL, most + (size_t)more, NULL), "mpi") == mpi);
        CHECK(!strcmp(served(c, TD_GATHER, most / n + (size_t)more, NULL), "mpi") == mpi);
        CHECK(!strcmp(served(c, TD_SCATTER, most / n + (size_t)more, NULL), "mpi") == mpi);
        CHECK(!strcmp(served(c, TD_GATHER, 0, parts), "mpi") == mpi);
        CHECK(!strcmp(served(c, TD_ALLTOALL, 0, parts), "mpi")); /* ranks decide it together */
        for (size_t r = 0; r < n; r++) parts[r]++;
    }
    return TD_OK;
}

/* A collective of MPI's own cannot be withdrawn: what it writes to stays. */
static td_status drifting_own(td_comm *c, void *arg)
{
    (void)arg;
    static char in[64], out[16][64];
    bool first = td_comm_rank(c) == 0;
    td_call call = {.pattern = TD_ALLGATHER, .in = in, .out = out, .bytes = sizeof in, .unit = 1};
    td_request q = {.peer = -1};
    if (td_comm_size(c) == 1) return TD_OK;
    if (first) {
        TD_TRY(c->ops->own(c, &call, &q));
        c->ops->cancel(c, &q);
        CHECK(c->adrift);
        c->adrift = false; /* there is nothing else of it */
    }
    TD_TRY(td_comm_barrier(c));
    if (!first) TD_TRY(c->ops->own(c, &call, &q));
    if (!first) TD_TRY(td_comm_wait_request(c, &q));
    return td_comm_barrier(c);
}

static void on_hosts(const char *hosts, int ranks, td_rank_fn *fn)
{
    setenv("TANDEM_FAKE_HOSTS", hosts, 1);
    assert_ok(td_comm_run_local(ranks, NULL, fn, NULL));
    unsetenv("TANDEM_FAKE_HOSTS");
}

/* On threads: one host, and ranks adjacent, dealt in turn and each on a host of its own; more of
 * them, too. */
static void on_all_hosts(td_rank_fn *fn)
{
    static const char *const hosts[] = {"0", "0,0,1,1", "0,1,2,2", "0,1,0,1", "0,1,2,3,4,5,6,7"};
    if (mpi_world) {
        assert_ok(td_comm_agree(mpi_world, fn(mpi_world, NULL)));
        return;
    }
    for (int h = 0; h < 5; h++)
        for (int n = 2; n <= 5; n++) on_hosts(hosts[h], n, fn);
    bool some = getenv("TANDEM_TEST_SHORT") != NULL; /* under sanitizers */
    for (int n = some ? 11 : 8; n <= 11; n += 3) {
        if (!some) on_hosts("0", n, fn);
        on_hosts("0,0,0,1,1,1,2,2,1,0,2", n, fn);
    }
}

static void every_algorithm_gives_the_same_bits(void **state)
{
    (void)state;
    on_all_hosts(same_bits);
}

static void short_vectors_go_to_all_hosts_whole(void **state)
{
    (void)state;
    on_all_hosts(exchanged);
}

static void two_trees_carry_many_pieces(void **state)
{
    static const int sizes[] = {3, 8, 2, 5, 11};
    (void)state;
    if (mpi_world) assert_ok(td_comm_agree(mpi_world, many_pieces(mpi_world, NULL)));
    for (int k = 0; k < (getenv("TANDEM_TEST_SHORT") ? 2 : 5) && !mpi_world; k++)
        on_hosts("0", sizes[k], many_pieces);
}

static void long_calls_are_not_mpis(void **state)
{
    (void)state;
    if (!mpi_world) skip();
    assert_ok(td_comm_agree(mpi_world, too_long_for_mpi(mpi_world, NULL)));
}

static void what_mpi_writes_to_is_kept(void **state)
{
    (void)state;
    if (!mpi_world) skip();
    assert_ok(td_comm_agree(mpi_world, drifting_own(mpi_world, NULL)));
}

static void other_orders_serve_whole_numbers_alone(void **state)
{
    (void)state;
    on_all_hosts(whole_numbers);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_algorithm_gives_the_same_bits),
        cmocka_unit_test(other_orders_serve_whole_numbers_alone),
        cmocka_unit_test(short_vectors_go_to_all_hosts_whole),
        cmocka_unit_test(two_trees_carry_many_pieces),
        cmocka_unit_test(a_crowd_meets_in_memory),
        cmocka_unit_test(many_meet_where_memory_is_plenty),
        cmocka_unit_test(long_calls_are_not_mpis),
        cmocka_unit_test(what_mpi_writes_to_is_kept),
        cmocka_unit_test(what_comes_late_finds_its_memory),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
