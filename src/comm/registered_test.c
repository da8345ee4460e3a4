/* Vectors in memory that the other processes of a host map: registered.h, and the collectives that
 * read there. On every transport: see ranks_test.h. */
#include "comm/ranks_test.h"

#include "comm/keyed_impl.h"
#include "comm/registered.h"
#include "tandem/keyed.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- pieces and mappings --- */

static void pieces_are_found_by_what_lies_in_them(void **state)
{
    (void)state;
    void *a, *b;
    if (mpi_world && td_comm_rank(mpi_world)) return;
    assert_false(td_registered_find(&a, 1).number);
    assert_ok(td_comm_alloc(5000, &a));
    assert_ok(td_comm_alloc(0, &b));
    char *at = a;
    for (int i = 0; i < 5000; i++) assert_int_equal(at[i], 0);
    assert_true(td_registered_any());
    assert_int_equal(td_registered_find(at, 5000).offset, 0);
    assert_true(td_registered_find(at, 5000).number);
    assert_int_equal(td_registered_find(at + 77, 4000).offset, 77);
    assert_true(td_registered_find(at + 8192, 0).number); /* its end */
    assert_false(td_registered_find(at + 8191, 2).number);
    assert_false(td_registered_find(at, 8193).number);
    assert_false(td_registered_find(at, SIZE_MAX).number);
    assert_true(td_registered_find(b, 1).number != td_registered_find(a, 1).number);
    assert_int_equal(td_comm_free(at + 1), TD_ERR_ARG);
    assert_int_equal(td_comm_free(state), TD_ERR_ARG);
    assert_ok(td_comm_free(a));
    assert_false(td_registered_find(at, 1).number);
    assert_int_equal(td_comm_free(a), TD_ERR_ARG);
    assert_ok(td_comm_free(b));
    assert_ok(td_comm_free(NULL));
    assert_int_equal(td_comm_alloc(SIZE_MAX, &a), TD_ERR_ARG);
    assert_null(a);
    assert_int_equal(td_comm_alloc(SIZE_MAX / 4, &a), TD_ERR_NOMEM);
    td_error_clear();
    td_alloc_fail_at(1);
    assert_int_equal(td_comm_alloc(1, &a), TD_ERR_NOMEM);
    td_alloc_fail_at(0);
    td_error_clear();
}

/* In a process of its own: 0 when it reads what its parent has written there, and zeros (and is not
 * ended by a signal) when the parent has freed it. */
static int read_as_another(const td_registered *there, int from_parent, int to_parent)
{
    td_mappings mappings = {0};
    void *at;
    char word;
    if (td_mappings_find(&mappings, there, 4, &at) != TD_OK) return 2;
    const char *text = at;
    if (strcmp(text, "kept")) return 3;
    if (write(to_parent, "r", 1) != 1 || read(from_parent, &word, 1) != 1) return 4;
    if (strcmp(text, "") || text[4 << 20]) return 5;
    td_mappings_free(&mappings);
    td_registered freed = *there;
    if (td_mappings_find(&mappings, &freed, 4, &at) != TD_ERR_IO) return 6;
    return 0;
}

static void what_is_freed_reads_as_zeros_elsewhere(void **state)
{
    (void)state;
    int to_child[2], to_parent[2], result;
    void *memory;
    char word;
    if (mpi_world) return; /* a process of MPI is not to fork */
    assert_ok(td_comm_alloc((4 << 20) + 1, &memory));
    char *text = (char *)memory + 100;
    strcpy(text, "kept");
    text[(4 << 20) - 100] = 1;
    td_registered there = td_registered_find(text, 10);
    assert_int_equal(pipe(to_child) | pipe(to_parent), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) _exit(read_as_another(&there, to_child[0], to_parent[1]));
    assert_int_equal(read(to_parent[0], &word, 1), 1);
    assert_ok(td_comm_free(memory));
    assert_int_equal(write(to_child[1], "f", 1), 1);
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_true(WIFEXITED(result));
    assert_int_equal(WEXITSTATUS(result), 0);
    for (int k = 0; k < 2; k++) close(to_child[k]), close(to_parent[k]);
}

static void other_files_are_not_mapped(void **state)
{
    (void)state;
    void *memory;
    void *at;
    td_mappings mappings = {0};
    if (mpi_world) return;
    assert_ok(td_comm_alloc(100, &memory));
    td_registered right = td_registered_find(memory, 100), wrong = right;
    wrong.inode++;
    assert_int_equal(td_mappings_find(&mappings, &wrong, 4, &at), TD_ERR_IO);
    wrong = right, wrong.bytes *= 2;
    assert_int_equal(td_mappings_find(&mappings, &wrong, 4, &at), TD_ERR_IO);
    wrong = right, wrong.file = 1 << 20;
    assert_int_equal(td_mappings_find(&mappings, &wrong, 4, &at), TD_ERR_IO);
    struct rlimit files, none;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &files), 0);
    none = files, none.rlim_cur = 0; /* what lacks here is not gone there */
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(td_mappings_find(&mappings, &right, 4, &at), TD_ERR_NOMEM);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    td_error_clear();
    assert_ok(td_mappings_find(&mappings, &right, 4, &at));
    *(char *)memory = 42;
    assert_int_equal(*(const char *)at, 42);
    td_mappings_free(&mappings);
    assert_ok(td_comm_free(memory));
}

static void the_least_used_mapping_makes_room(void **state)
{
    (void)state;
    enum { N = 9, MOST = 4 };
    void *memory[N];
    void *at, *first;
    td_mappings mappings = {0};
    if (mpi_world) return;
    for (int k = 0; k < N; k++) {
        assert_ok(td_comm_alloc(1, &memory[k]));
        *(char *)memory[k] = (char)k;
    }
    td_registered zeroth = td_registered_find(memory[0], 1);
    assert_ok(td_mappings_find(&mappings, &zeroth, MOST, &first));
    for (int k = 1; k < 3 * N; k++) {
        td_registered there = td_registered_find(memory[k % N], 1);
        assert_ok(td_mappings_find(&mappings, &there, MOST, &at));
        assert_int_equal(*(const char *)at, k % N);
        assert_true(mappings.count <= MOST);
        assert_ok(td_mappings_find(&mappings, &zeroth, MOST, &at)); /* stays */
        assert_ptr_equal(at, first);
    }
    td_mappings_free(&mappings);
    for (int k = 0; k < N; k++) assert_ok(td_comm_free(memory[k]));
}

/* --- collectives --- */

enum { FLOATS = 20011, CALLS = 300 /* so many that each way of a call is tried, and chosen */ };

typedef struct vectors {
    float *in, *out;
    bool owned; /* of malloc */
} vectors;

/* Of FLOATS and 13 for each rank, at an odd place. */
static td_status make(int ranks, bool registered, vectors *v)
{
    size_t bytes = (size_t)(FLOATS + 13) * (size_t)ranks * sizeof(float) + 13 * sizeof(float);
    void *in = registered ? NULL : td_malloc(bytes), *out = registered ? NULL : td_malloc(bytes);
    if (registered) TD_TRY(td_comm_alloc(bytes, &in));
    if (registered) TD_TRY(td_comm_alloc(bytes, &out));
    *v = (vectors){(float *)in + 13, (float *)out + 13, !registered};
    return TD_OK;
}

static td_status unmake(vectors *v)
{
    if (v->owned) {
        td_free(v->in - 13), td_free(v->out - 13);
        return TD_OK;
    }
    TD_TRY(td_comm_free(v->in - 13));
    return td_comm_free(v->out - 13);
}

static float value(int rank, int call, size_t i)
{
    return (float)((rank + 1) * 10000 + call + (int)(i % 97));
}

static float sum(int ranks, int call, size_t i)
{
    float all = 0;
    for (int r = 0; r < ranks; r++) all += value(r, call, i);
    return all;
}

/* Whole numbers below 2^24 for up to 8 ranks: sums are exact. */
static td_status reduce_once(td_comm *c, vectors *v, int call, bool in_place)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    float *out = in_place ? v->in : v->out;
    for (size_t i = 0; i < FLOATS; i++) v->in[i] = value(me, call, i);
    TD_TRY(td_comm_allreduce(c, v->in, out, FLOATS, TD_F32, TD_SUM));
    if (!in_place) memset(v->in, 0xee, FLOATS * sizeof(float)); /* nobody reads it any more */
    for (size_t i = 0; i < FLOATS; i += call % 5 ? 307 : 1) CHECK(out[i] == sum(n, call, i));
    memset(out, 0xdd, FLOATS * sizeof(float));
    return TD_OK;
}

static td_status move_once(td_comm *c, vectors *v, int call)
{
    int n = td_comm_size(c), me = td_comm_rank(c), root = call % n;
    size_t parts[64], bytes = FLOATS * sizeof(float), all = (size_t)FLOATS * (size_t)n, at = 0;
    for (size_t i = 0; i < FLOATS; i++) v->in[i] = value(me, call, i);
    TD_TRY(td_comm_broadcast(c, me == root ? v->in : v->out, bytes, root));
    for (size_t i = 0; i < FLOATS && me != root; i += 101) CHECK(v->out[i] == value(root, call, i));
    for (size_t i = 0; i < all; i++) v->in[i] = value((int)(i / FLOATS), call + 1, i % FLOATS);
    TD_TRY(td_comm_scatter(c, me == root ? v->in : NULL, bytes, v->out, root));
    memset(v->in, 0xee, all * sizeof(float));
    for (size_t i = 0; i < FLOATS; i += 101) CHECK(v->out[i] == value(me, call + 1, i));
    for (size_t i = 0; i < FLOATS; i++) v->in[i] = value(me, call, i);
    TD_TRY(td_comm_allgather(c, v->in, bytes, v->out));
    memset(v->in, 0xee, bytes);
    for (size_t i = 0; i < all; i += 101)
        CHECK(v->out[i] == value((int)(i / FLOATS), call, i % FLOATS));
    for (size_t i = 0; i < all; i++) v->in[i] = value(me, call + (int)(i / FLOATS), i % FLOATS);
    TD_TRY(td_comm_alltoall(c, v->in, bytes, v->out));
    for (size_t i = 0; i < all; i += 101)
        CHECK(v->out[i] == value((int)(i / FLOATS), call + me, i % FLOATS));
    for (int r = 0; r < n; r++) parts[r] = r == root ? FLOATS : 13;
    for (int r = 0; r < me; r++) at += parts[r];
    for (size_t i = 0; i < FLOATS + 13 * (size_t)n; i++) v->in[i] = value(me, call, i);
    TD_TRY(td_comm_reduce_scatter(c, v->in, v->out, parts, TD_F32, TD_SUM));
    memset(v->in, 0xee, all * sizeof(float));
    for (size_t i = 0; i < parts[me]; i += 7) CHECK(v->out[i] == sum(n, call, at + i));
    for (size_t i = 0; i < 13; i++) v->in[i] = value(me, call, i); /* of parts that differ */
    for (size_t i = 0; i < parts[me]; i++) v->in[i] = value(me, call, i);
    for (int r = 0; r < n; r++) parts[r] *= sizeof(float);
    TD_TRY(td_comm_allgatherv(c, v->in, parts, v->out));
    const float *got = v->out;
    for (int r = 0; r < n; got += parts[r++] / sizeof(float))
        for (size_t i = 0; i < parts[r] / sizeof(float); i += 5) CHECK(got[i] == value(r, call, i));
    return TD_OK;
}

/* The same calls with vectors in such memory at all ranks, at some, at none; in place at all, at
 * one. */
static td_status calls(td_comm *c, void *arg)
{
    (void)arg;
    int me = td_comm_rank(c), n = td_comm_size(c);
    vectors open, closed;
    TD_TRY(make(n, true, &open));
    TD_TRY(make(n, false, &closed));
    int most = getenv("TANDEM_TEST_SHORT") ? CALLS / 2 : CALLS;
    for (int call = 0; call < most; call++) {
        bool some = call % 16 >= 13 && me % 2, none = call % 16 == 12;
        bool in_place = call % 32 == 7 || (call % 32 == 9 && me == 0);
        vectors *v = some || none ? &closed : &open;
        TD_TRY(reduce_once(c, v, call, in_place));
        if (call % 16 < 3 || call % 16 > 11) TD_TRY(move_once(c, v, call));
    }
    TD_TRY(unmake(&open));
    return unmake(&closed);
}

/* Other memory: two processes fetch, or stage, as they find out. */
static td_status closed_calls(td_comm *c, void *arg)
{
    (void)arg;
    enum { SOME = 70 };
    vectors v;
    TD_TRY(make(td_comm_size(c), false, &v));
    for (int call = 0; call < SOME; call++) {
        TD_TRY(reduce_once(c, &v, call, call % 3 == 1 || (call % 3 == 2 && td_comm_rank(c))));
        TD_TRY(move_once(c, &v, call));
    }
    return unmake(&v);
}

/* More pieces, one after the other, than a group keeps mapped, some at addresses of freed ones. */
static td_status many_pieces(td_comm *c, void *arg)
{
    (void)arg;
    vectors v, kept[3];
    for (int k = 0; k < 3; k++) TD_TRY(make(1, true, &kept[k]));
    for (int call = 0; call < 60; call++) {
        TD_TRY(make(1, true, &v));
        TD_TRY(reduce_once(c, &v, call, call % 3 == 0));
        TD_TRY(reduce_once(c, &kept[call % 3], call, false));
        TD_TRY(unmake(&v));
    }
    for (int k = 0; k < 3; k++) TD_TRY(unmake(&kept[k]));
    return TD_OK;
}

/* Found where it is, as with other memory. */
static td_status disagree(td_comm *c, void *arg)
{
    int lower = *(int *)arg, n = td_comm_size(c);
    td_comm *group;
    vectors v;
    TD_TRY(make(n, true, &v));
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &group));
    for (int call = 0; call < 3; call++) TD_TRY(reduce_once(group, &v, call, false));
    size_t count = td_comm_rank(c) == 1 ? FLOATS - (size_t)lower : FLOATS;
    td_status status = td_comm_allreduce(group, v.in, v.out, count, TD_F32, TD_SUM);
    CHECK(n < 2 || status == TD_ERR_ARG);
    CHECK(n < 2 || strstr(td_last_error(), "all-reduce"));
    td_error_clear();
    td_comm_close(group);
    TD_TRY(td_comm_barrier(c));
    return unmake(&v);
}

/* Rank 0 gives up two long sends, of such memory and of the host's, and the memory with them; rank
 * 1 comes late, and fetches them all the same. */
static td_status fetched_late(td_comm *c, void *arg)
{
    (void)arg;
    enum { LONG = 1 << 20, LATE = 7, SAID = 10 };
    int me = td_comm_rank(c);
    void *piece;
    char *got = td_calloc(3, LONG), *heap = td_malloc(LONG), word = 1;
    td_region region;
    td_comm *group;
    TD_TRY(td_comm_split(c, 0, me, &group));
    TD_TRY(td_comm_shared_create(group, LONG, &region));
    if (me == 0 && td_comm_size(c) > 1) {
        TD_TRY(td_comm_alloc(LONG, &piece));
        void *from[] = {piece, region.data, heap};
        memset(heap, 7, LONG);
        for (int k = 0; k < 3; k++) {
            td_request q = {.data = from[k], .bytes = LONG, .peer = 1, .tag = LATE + k};
            TD_TRY(group->ops->isend(group, &q));
            group->ops->cancel(group, &q);
        }
        CHECK(group->adrift);
        TD_TRY(td_comm_free(piece));
        td_free(heap);
        heap = td_calloc(1, LONG); /* elsewhere */
    }
    td_comm_shared_destroy(group, &region);
    TD_TRY(td_comm_barrier(c));
    if (me == 1) {
        for (int k = 0; k < 3; k++) TD_TRY(td_comm_recv(group, got + k * LONG, LONG, 0, LATE + k));
        for (int i = 0; i < LONG; i++) CHECK(got[2 * LONG + i] == 7);
        TD_TRY(td_comm_send(c, &word, 1, 0, SAID));
    } else if (me == 0 && td_comm_size(c) > 1) {
        TD_TRY(td_comm_recv(c, &word, 1, 1, SAID));
    }
    td_free(got), td_free(heap);
    td_comm_close(group);
    return td_comm_barrier(c);
}

static void what_was_to_be_sent_may_be_fetched_late(void **state)
{
    (void)state;
    if (!mpi_world) skip(); /* threads withdraw */
    assert_ok(td_comm_agree(mpi_world, fetched_late(mpi_world, NULL)));
}

/* --- keyed parts --- */

enum { EACH = 6, WIDTH = 1000, REQUESTS = 7 /* more than a room holds */ };

typedef struct shard {
    int servers;
    float *values; /* [EACH * servers][WIDTH] */
    bool fails;
} shard;

static int owner_of(void *user, uint64_t key, int servers)
{
    (void)user, (void)servers;
    return (int)(key / EACH);
}

static td_status serve(void *user, const td_keyed_request *q)
{
    shard *s = user;
    if (s->fails) return td_fail(TD_ERR_ARG, "no such rows");
    for (size_t i = 0; i < q->count; i++) {
        float *row = s->values + q->keys[i] * WIDTH;
        for (size_t k = 0; k < WIDTH && q->in; k++) row[k] += ((const float *)q->in)[i * WIDTH + k];
        if (q->out) memcpy((float *)q->out + i * WIDTH, row, WIDTH * sizeof *row);
    }
    return TD_OK;
}

static td_status push_and_pull(td_comm *c, td_keyed *k, shard *s)
{
    int n = td_comm_size(c), me = td_comm_rank(c);
    size_t keys = (size_t)EACH * (size_t)n, floats = keys * WIDTH;
    uint64_t key[EACH * 8], ticket[REQUESTS];
    void *in, *out[REQUESTS];
    TD_TRY(td_comm_alloc(floats * sizeof(float), &in));
    for (int q = 0; q < REQUESTS; q++) TD_TRY(td_comm_alloc(floats * sizeof(float), &out[q]));
    for (size_t i = 0; i < keys; i++) key[i] = i;
    for (int turn = 1; turn <= 3; turn++) {
        for (size_t i = 0; i < floats; i++) ((float *)in)[i] = (float)((me + 1) * (int)(i % 1009));
        TD_TRY(td_keyed_push(k, &(td_parts){.keys = key, .count = keys, .in = in}));
        memset(in, 0xee, floats * sizeof(float));
        TD_TRY(td_comm_barrier(c));
        for (int q = 0; q < REQUESTS; q++)
            TD_TRY(td_keyed_start(k, TD_PULL,
                                  &(td_parts){.keys = key, .count = keys, .out = out[q]},
                                  &ticket[q]));
        for (int q = 0; q < REQUESTS; q++) {
            TD_TRY(td_keyed_wait(k, ticket[q]));
            for (size_t i = 0; i < floats; i++)
                CHECK(((float *)out[q])[i] == (float)(turn * n * (n + 1) / 2 * (int)(i % 1009)));
        }
        TD_TRY(td_comm_barrier(c));
    }
    s->fails = true;
    TD_TRY(td_comm_barrier(c));
    CHECK(td_keyed_pull(k, &(td_parts){.keys = key, .count = keys, .out = out[0]}) == TD_ERR_ARG);
    td_error_clear();
    for (size_t i = 0; i < floats; i++) CHECK(((float *)out[0])[i] == 0);
    TD_TRY(td_comm_free(in));
    for (int q = 0; q < REQUESTS; q++) TD_TRY(td_comm_free(out[q]));
    return TD_OK;
}

static td_status keyed_parts(td_comm *c, void *arg)
{
    (void)arg;
    shard s = {.servers = td_comm_size(c)};
    td_keyed *k;
    s.values = td_calloc((size_t)EACH * (size_t)s.servers * WIDTH, sizeof *s.values);
    TD_TRY(td_keyed_open(c,
                         &(td_keyed_config){.width = WIDTH * sizeof(float),
                                            .owner = owner_of,
                                            .serve = serve,
                                            .user = &s},
                         &k));
    td_status status = push_and_pull(c, k, &s);
    if (status == TD_OK) status = td_keyed_finish(k);
    td_keyed_destroy(k);
    td_free(s.values);
    return status;
}

typedef struct slow_shard {
    int served;
    int torn; /* values that were not what was pushed */
} slow_shard;

static td_status serve_slowly(void *user, const td_keyed_request *q)
{
    slow_shard *s = user;
    const float *in = q->in;
    for (int look = 0; look < 2; look++) {
        if (look) nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
        for (size_t i = 0; i < q->count * WIDTH; i++) s->torn += in[i] != 1;
    }
    s->served++;
    return TD_OK;
}

static int all_at_rank_0(void *user, uint64_t key, int servers)
{
    (void)user, (void)key, (void)servers;
    return 0;
}

/* Rank 1 waits for a server that is slow, gives up, and uses its memory for something else. */
static td_status given_up_push(td_comm *c, void *arg)
{
    (void)arg;
    enum { PUSHES = 2 };
    slow_shard s = {0};
    td_keyed_config config = {.width = WIDTH * sizeof(float),
                              .owner = all_at_rank_0,
                              .serve = serve_slowly,
                              .user = &s};
    uint64_t key[EACH] = {0, 1, 2, 3, 4, 5}, ticket[PUSHES + 1];
    static float small[WIDTH]; /* of this process alone */
    void *in;
    td_comm *group;
    td_keyed *k;
    TD_TRY(td_comm_alloc(EACH * WIDTH * sizeof(float), &in));
    for (int i = 0; i < EACH * WIDTH; i++) ((float *)in)[i] = 1;
    TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &group));
    TD_TRY(td_keyed_open(group, &config, &k));
    if (td_comm_rank(c) == 1) {
        k->comm->deadline_ms = 100;
        for (int q = 0; q < PUSHES; q++)
            TD_TRY(td_keyed_start(k, TD_PUSH, &(td_parts){.keys = key, .count = EACH, .in = in},
                                  &ticket[q]));
        TD_TRY(td_keyed_start(k, TD_PUSH, &(td_parts){.keys = key, .count = 1, .in = small},
                              &ticket[PUSHES]));
        CHECK(td_keyed_wait(k, ticket[0]) == TD_ERR_TIMEOUT);
        for (int q = 1; q <= PUSHES; q++) { /* taken back with it */
            CHECK(td_keyed_done(k, ticket[q]));
            CHECK(td_keyed_wait(k, ticket[q]) == TD_ERR_PEER);
        }
        td_error_clear();
        memset(in, 0xee, EACH * WIDTH * sizeof(float));
    }
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 500000000}, NULL);
    TD_TRY(td_comm_barrier(c));
    td_keyed_destroy(k);
    td_comm_close(group);
    TD_TRY(td_comm_free(in));
    CHECK(td_comm_rank(c) || s.served);
    CHECK(s.torn == 0);
    return TD_OK;
}

static void what_is_given_up_is_left_alone(void **state)
{
    (void)state;
    if (!mpi_world || td_comm_size(mpi_world) < 2) skip(); /* threads are asked at their desks */
    assert_ok(td_comm_agree(mpi_world, given_up_push(mpi_world, NULL)));
}

static void values_of_keyed_parts_are_moved_where_they_lie(void **state)
{
    (void)state;
    on_all_sizes(keyed_parts, NULL);
}

static void vectors_that_all_map_are_read_where_they_lie(void **state)
{
    (void)state;
    on_all_sizes(calls, NULL);
}

static void other_vectors_are_moved_either_way(void **state)
{
    (void)state;
    on_all_sizes(closed_calls, NULL);
}

static void pieces_come_and_go(void **state)
{
    (void)state;
    on_all_sizes(many_pieces, NULL);
}

static void ranks_that_disagree_are_told(void **state)
{
    (void)state;
    static int a_little = 1, a_lot = FLOATS - 8;
    on_all_sizes(disagree, &a_little);
    on_all_sizes(disagree, &a_lot);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_found_by_what_lies_in_them),
        cmocka_unit_test(what_is_freed_reads_as_zeros_elsewhere),
        cmocka_unit_test(other_files_are_not_mapped),
        cmocka_unit_test(the_least_used_mapping_makes_room),
        cmocka_unit_test(vectors_that_all_map_are_read_where_they_lie),
        cmocka_unit_test(other_vectors_are_moved_either_way),
        cmocka_unit_test(pieces_come_and_go),
        cmocka_unit_test(values_of_keyed_parts_are_moved_where_they_lie),
        cmocka_unit_test(what_is_given_up_is_left_alone),
        cmocka_unit_test(ranks_that_disagree_are_told),
        cmocka_unit_test(what_was_to_be_sent_may_be_fetched_late),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
