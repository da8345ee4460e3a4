/* Collectives on every transport: see ranks_test.h. Oracles are serial. */
#include "comm/ranks_test.h"

#include "base/rng.h"
#include "comm/coll/reduction.h"

#include <math.h>

static const size_t counts[] = {0, 1, 3, 17, 1000, 100003};
enum { COUNTS = sizeof counts / sizeof *counts, MOST = 100003 };

/* Element i of rank r: small integers, so that every type and order gives exact results. */
static int element(int r, size_t i, td_op op)
{
    return op == TD_PROD ? 1 + ((int)i + r) % 2 : (int)((i * 7 + (size_t)r * 5) % 11);
}

static double combined(int ranks, size_t i, td_op op)
{
    double v = element(0, i, op);
    for (int r = 1; r < ranks; r++) {
        double e = element(r, i, op);
        v = op == TD_SUM    ? v + e
            : op == TD_PROD ? v * e
            : op == TD_MIN  ? (e < v ? e : v)
                            : (e > v ? e : v);
    }
    return v;
}

static void put(void *buffer, size_t i, td_type type, double v)
{
    switch (type) {
    case TD_F32: ((float *)buffer)[i] = (float)v; break;
    case TD_F64: ((double *)buffer)[i] = v; break;
    case TD_I32: ((int32_t *)buffer)[i] = (int32_t)v; break;
    case TD_I64: ((int64_t *)buffer)[i] = (int64_t)v; break;
    case TD_U8: ((uint8_t *)buffer)[i] = (uint8_t)v; break;
    case TD_F16: ((uint16_t *)buffer)[i] = td_f32_to_f16((float)v); break;
    case TD_BF16: ((uint16_t *)buffer)[i] = td_f32_to_bf16((float)v); break;
    }
}

static double get(const void *buffer, size_t i, td_type type)
{
    switch (type) {
    case TD_F32: return ((const float *)buffer)[i];
    case TD_F64: return ((const double *)buffer)[i];
    case TD_I32: return ((const int32_t *)buffer)[i];
    case TD_I64: return (double)((const int64_t *)buffer)[i];
    case TD_U8: return ((const uint8_t *)buffer)[i];
    case TD_F16: return td_f16_to_f32(((const uint16_t *)buffer)[i]);
    case TD_BF16: return td_bf16_to_f32(((const uint16_t *)buffer)[i]);
    }
    return 0;
}

static td_status reductions(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    void *in = td_malloc(MOST * 8), *out = td_malloc(MOST * 8);
    for (int t = TD_F32; t <= TD_BF16; t++)
        for (int o = TD_SUM; o <= TD_PROD; o++)
            for (size_t k = 0; k < COUNTS; k++) {
                size_t count = counts[k], *parts = td_calloc((size_t)n, sizeof *parts), at = 0;
                int root = (int)k % n;
                for (size_t i = 0; i < count; i++) put(in, i, t, element(me, i, o));
                TD_TRY(td_comm_allreduce(c, in, out, count, t, o));
                for (size_t i = 0; i < count; i++) CHECK(get(out, i, t) == combined(n, i, o));
                TD_TRY(td_comm_reduce(c, in, out, count, t, o, root));
                for (size_t i = 0; i < count && me == root; i++)
                    CHECK(get(out, i, t) == combined(n, i, o));
                TD_TRY(td_comm_scan(c, in, out, count, t, o));
                for (size_t i = 0; i < count; i++) CHECK(get(out, i, t) == combined(me + 1, i, o));
                for (int r = 0; r < n; r++) parts[r] = count / (size_t)n;
                parts[0] += count % (size_t)n;
                for (int r = 0; r < me; r++) at += parts[r];
                TD_TRY(td_comm_reduce_scatter(c, in, out, parts, t, o));
                for (size_t i = 0; i < parts[me]; i++)
                    CHECK(get(out, i, t) == combined(n, at + i, o));
                td_free(parts);
            }
    td_free(in), td_free(out);
    return TD_OK;
}

static td_status movements(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    uint8_t *in = td_malloc(MOST), *out = td_malloc(MOST * (size_t)n + (size_t)n * (size_t)n);
    for (size_t k = 0; k < COUNTS; k++) {
        size_t count = counts[k], sizes[64], at = 0;
        for (int root = 0; root < n; root++) {
            for (size_t i = 0; i < count; i++) in[i] = (uint8_t)(me * 3 + (int)i);
            TD_TRY(td_comm_gather(c, in, count, out, root));
            for (size_t i = 0; i < count * (size_t)n && me == root; i++)
                CHECK(out[i] == (uint8_t)(i / count * 3 + i % count));
            TD_TRY(td_comm_broadcast(c, in, count, root));
            for (size_t i = 0; i < count; i++) CHECK(in[i] == (uint8_t)(root * 3 + (int)i));
        }
        for (size_t i = 0; i < count; i++) in[i] = (uint8_t)(me * 3 + (int)i);
        TD_TRY(td_comm_allgather(c, in, count, out));
        for (size_t i = 0; i < count * (size_t)n; i++)
            CHECK(out[i] == (uint8_t)(i / count * 3 + i % count));
        for (int r = 0; r < n; r++) sizes[r] = count < (size_t)r ? 0 : count - (size_t)r;
        TD_TRY(td_comm_allgatherv(c, in, sizes, out));
        for (int r = 0; r < n; at += sizes[r++])
            for (size_t i = 0; i < sizes[r]; i++) CHECK(out[at + i] == (uint8_t)(r * 3 + (int)i));
        TD_TRY(td_comm_barrier(c));
    }
    for (int r = 0; r + 1 < n; r++) { /* a token down the line */
        int token = me;
        if (me == r) TD_TRY(td_comm_send(c, &token, sizeof token, r + 1, 7));
        if (me == r + 1) TD_TRY(td_comm_recv(c, &token, sizeof token, r, 7));
        CHECK(me != r + 1 || token == r);
    }
    td_free(in), td_free(out);
    return TD_OK;
}

/* Parts so long that ranks read them where they lie; memory may change at once behind a call. */
static td_status long_movements(td_comm *c, void *arg)
{
    (void)arg;
    enum { LONG = 300007 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    size_t all = (size_t)LONG * (size_t)n;
    uint8_t *in = td_malloc(all), *out = td_malloc(all);
    int root = n - 1, turns = getenv("TANDEM_TEST_SHORT") ? 1 : 3;
    for (size_t i = 0; i < LONG; i++) in[i] = (uint8_t)(me * 3 + (int)(i % 251));
    TD_TRY(td_comm_gather(c, in, LONG, out, root));
    memset(in, 0xee, LONG);
    for (size_t i = 0; i < all && me == root; i++)
        CHECK(out[i] == (uint8_t)(i / LONG * 3 + i % LONG % 251));
    for (size_t i = 0; i < LONG; i++) out[i] = (uint8_t)(me * 5 + (int)(i % 241));
    TD_TRY(td_comm_broadcast(c, out, LONG, root));
    for (size_t i = 0; i < LONG; i++) CHECK(out[i] == (uint8_t)(root * 5 + (int)(i % 241)));
    for (int turn = 0; turn < turns; turn++) {
        for (size_t i = 0; i < LONG; i++) in[i] = (uint8_t)(me * 3 + turn + (int)(i % 251));
        TD_TRY(td_comm_allgather(c, in, LONG, out));
        memset(in, 0xee, all);
        for (size_t i = 0; i < all; i++)
            CHECK(out[i] == (uint8_t)(i / LONG * 3 + (size_t)turn + i % LONG % 251));
        for (size_t i = 0; i < all; i++)
            in[i] = (uint8_t)((size_t)me * 7 + i / LONG * 11 + (size_t)turn + i % LONG % 251);
        TD_TRY(td_comm_alltoall(c, in, LONG, out));
        memset(in, 0xee, all);
        for (size_t i = 0; i < all; i++)
            CHECK(out[i] ==
                  (uint8_t)(i / LONG * 7 + (size_t)me * 11 + (size_t)turn + i % LONG % 251));
    }
    int32_t *x = (int32_t *)(void *)in,
            *y = (int32_t *)(void *)out; /* in place, at one or at all */
    size_t count = LONG / 4;
    for (int turn = 0; turn < 2; turn++) {
        for (size_t i = 0; i < count; i++) x[i] = (int32_t)i * (me + 1) + turn;
        bool apart = turn == 0 && me == 0;
        TD_TRY(td_comm_allreduce(c, x, apart ? y : x, count, TD_I32, TD_SUM));
        for (size_t i = 0; i < count; i++)
            CHECK((apart ? y : x)[i] == (int32_t)i * (n * (n + 1) / 2) + turn * n);
    }
    td_free(in), td_free(out);
    return TD_OK;
}

/* What rank a gives rank b. */
static size_t dealt(int a, int b, size_t count)
{
    return (a + 2 * b) % 3 == 0 ? 0 : count / 7 + (size_t)(a * 5 + b);
}

static uint8_t byte_of(int a, int b, size_t i)
{
    return (uint8_t)(a * 31 + b * 7 + (int)i);
}

static td_status deals(td_comm *c, void *arg)
{
    (void)arg;
    int n = td_comm_size(c), me = td_comm_rank(c);
    for (size_t k = 0; k < COUNTS; k++) {
        size_t count = counts[k], give[64], take[64], parts[64], gives = 0, takes = 0, all = 0;
        int root = (int)k % n;
        for (int r = 0; r < n; r++) {
            gives += give[r] = dealt(me, r, count), takes += take[r] = dealt(r, me, count);
            all += parts[r] = dealt(r, r + 1, count);
        }
        size_t most = gives > all ? gives : all;
        if (count * (size_t)n > most) most = count * (size_t)n;
        uint8_t *in = td_malloc(most + 1), *out = td_malloc(most + takes + 1), *at = in;
        for (int r = 0; r < n; r++)
            for (size_t i = 0; i < give[r]; i++) *at++ = byte_of(me, r, i);
        TD_TRY(td_comm_alltoallv(c, in, give, out, take));
        at = out;
        for (int r = 0; r < n; r++)
            for (size_t i = 0; i < take[r]; i++) CHECK(*at++ == byte_of(r, me, i));
        at = in;
        for (int r = 0; r < n; r++)
            for (size_t i = 0; i < count; i++) *at++ = byte_of(me, r, i);
        TD_TRY(td_comm_alltoall(c, in, count, out));
        at = out;
        for (int r = 0; r < n; r++)
            for (size_t i = 0; i < count; i++) CHECK(*at++ == byte_of(r, me, i));
        TD_TRY(td_comm_scatter(c, in, count, out, root));
        for (size_t i = 0; i < count; i++) CHECK(out[i] == byte_of(root, me, i));
        at = in;
        for (int r = 0; r < n; r++)
            for (size_t i = 0; i < parts[r]; i++) *at++ = byte_of(me, r, i);
        TD_TRY(td_comm_scatterv(c, in, parts, out, root));
        for (size_t i = 0; i < parts[me]; i++) CHECK(out[i] == byte_of(root, me, i));
        memcpy(in, out, parts[me]);
        TD_TRY(td_comm_gatherv(c, in, parts, out, root));
        at = out;
        for (int r = 0; r < n && me == root; r++)
            for (size_t i = 0; i < parts[r]; i++) CHECK(*at++ == byte_of(root, r, i));
        td_free(in), td_free(out);
    }
    return TD_OK;
}

/* 2 x 2 matrices over the integers modulo 2^32: their product does not commute. */
typedef struct matrix {
    uint32_t a, b, c, d;
} matrix;

static matrix product(matrix x, matrix y)
{
    return (matrix){x.a * y.a + x.b * y.c, x.a * y.b + x.b * y.d, x.c * y.a + x.d * y.c,
                    x.c * y.b + x.d * y.d};
}

static void multiply(void *into, const void *from, size_t count, void *user)
{
    matrix *x = into;
    const matrix *y = from;
    for (size_t i = 0; i < count; i++) x[i] = product(x[i], y[i]);
    if (user) ++*(int *)user;
}

static matrix matrix_of(int rank, size_t i)
{
    uint32_t k = (uint32_t)rank * 977 + (uint32_t)i;
    return (matrix){k, k * k + 1, 3 - k, 2 * k + 5};
}

static td_status own_operations(td_comm *c, void *arg)
{
    (void)arg;
    enum { N = 40009, W = sizeof(matrix) };
    int n = td_comm_size(c), me = td_comm_rank(c), calls = 0;
    matrix *in = td_malloc(N * W), *out = td_malloc(N * W), *upto = td_malloc(N * W);
    matrix *all = td_malloc(N * W);
    for (size_t i = 0; i < N; i++) {
        in[i] = matrix_of(me, i);
        all[i] = matrix_of(0, i);
        for (int r = 1; r < n; r++) {
            if (r == me + 1) upto[i] = all[i];
            all[i] = product(all[i], matrix_of(r, i));
        }
        if (me == n - 1) upto[i] = all[i];
    }
    static const size_t sizes[] = {1, 100, 3000, N};
    for (size_t k = 0; k < 4; k++) {
        size_t count = sizes[k], *parts = td_calloc((size_t)n, sizeof *parts);
        TD_TRY(td_comm_allreduce_by(c, in, out, count, W, multiply, &calls));
        CHECK(!memcmp(out, all, count * W));
        TD_TRY(td_comm_reduce_by(c, in, out, count, W, multiply, NULL, n / 2));
        CHECK(me != n / 2 || !memcmp(out, all, count * W));
        TD_TRY(td_comm_scan_by(c, in, out, count, W, multiply, NULL));
        CHECK(!memcmp(out, upto, count * W));
        parts[n - 1] = count;
        TD_TRY(td_comm_reduce_scatter_by(c, in, out, parts, W, multiply, NULL));
        CHECK(me != n - 1 || !memcmp(out, all, count * W));
        td_free(parts);
    }
    td_free(in), td_free(out), td_free(upto), td_free(all);
    return TD_OK;
}

/* Half types: the tree of widened values, rounded once. */
static td_status half_bits(td_comm *c, void *arg)
{
    (void)arg;
    enum { N = 33333 };
    int n = td_comm_size(c), me = td_comm_rank(c);
    uint16_t *in = td_malloc(N * 2), *out = td_malloc(N * 2), *all = td_malloc((size_t)n * N * 2);
    uint16_t *prefix = td_malloc(N * 2);
    float *wide = td_malloc((size_t)n * N * 4);
    for (int t = TD_F16; t <= TD_BF16; t++) {
        td_rng rng;
        td_rng_init(&rng, 9, TD_RNG_TEST, (uint64_t)me, (uint64_t)t);
        for (size_t i = 0; i < N; i++) put(in, i, t, td_rng_normal(&rng));
        TD_TRY(td_comm_allgather(c, in, N * 2, all));
        for (size_t i = 0; i < (size_t)n * N; i++) wide[i] = (float)get(all, i, t);
        for (size_t i = 0; i < N; i++) { /* scan: one after the other */
            float sum = wide[i];
            for (int r = 1; r <= me; r++) sum += wide[(size_t)r * N + i];
            put(prefix, i, t, sum);
        }
        for (int bit = 1; bit < n; bit *= 2)
            for (int r = 0; r + bit < n; r += 2 * bit)
                for (size_t i = 0; i < N; i++)
                    wide[(size_t)r * N + i] += wide[(size_t)(r + bit) * N + i];
        for (size_t i = 0; i < N; i++) put(all, i, t, wide[i]);
        for (size_t count = 1; count <= N; count += 11110) {
            TD_TRY(td_comm_allreduce(c, in, out, count, t, TD_SUM));
            CHECK(!memcmp(out, all, count * 2));
            TD_TRY(td_comm_reduce(c, in, out, count, t, TD_SUM, 0));
            CHECK(me || !memcmp(out, all, count * 2));
            TD_TRY(td_comm_scan(c, in, out, count, t, TD_SUM));
            CHECK(!memcmp(out, prefix, count * 2));
            size_t parts[64], at = 0, part = count / (size_t)n;
            for (int r = 0; r < n; r++) parts[r] = r == n - 1 ? count - part * (size_t)r : part;
            for (int r = 0; r < me; r++) at += parts[r];
            TD_TRY(td_comm_reduce_scatter(c, in, out, parts, t, TD_SUM));
            CHECK(!memcmp(out, all + at, parts[me] * 2));
        }
    }
    td_free(in), td_free(out), td_free(all), td_free(wide), td_free(prefix);
    return TD_OK;
}

static void half_types_round_to_nearest_even(void **state)
{
    (void)state;
    if (mpi_world) skip();
    for (uint32_t h = 0; h < 65536; h++) {
        float x = td_f16_to_f32((uint16_t)h);
        int exponent = (int)(h >> 10 & 31), fraction = (int)(h & 1023);
        double want = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? ldexp(1024 + fraction, exponent - 25)
                                     : ldexp(fraction, -24);
        if (h & 0x8000) want = -want;
        assert_true(isnan(want) ? isnan(x) : (x == want && !signbit(x) == !(h >> 15)));
        if (!isnan(x)) assert_int_equal(td_f32_to_f16(x), h);
        if (!isnan(td_bf16_to_f32((uint16_t)h)))
            assert_int_equal(td_f32_to_bf16(td_bf16_to_f32((uint16_t)h)), h);
        if ((h & 0x7fff) >= 0x7bff) continue; /* the next one is finite */
        float next = td_f16_to_f32((uint16_t)(h + 1)), middle = x + (next - x) / 2;
        assert_int_equal(td_f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(td_f32_to_f16(nextafterf(middle, next)), h + 1);
        assert_int_equal(td_f32_to_f16(nextafterf(middle, x)), h);
    }
    assert_int_equal(td_f32_to_f16(65519.99f), 0x7bff);
    assert_int_equal(td_f32_to_f16(65520), 0x7c00);
    assert_int_equal(td_f32_to_f16(1e-8f), 0);
    assert_true(isnan(td_f16_to_f32(td_f32_to_f16(NAN))));
    assert_int_equal(td_f32_to_bf16(1.00390625f), 0x3f80); /* a tie: 1 is even */
    assert_int_equal(td_f32_to_bf16(1.01171875f), 0x3f82); /* a tie: up */
    assert_int_equal(td_f32_to_bf16(3.4e38f), 0x7f80);
    assert_true(isnan(td_bf16_to_f32(td_f32_to_bf16(NAN))));
}

/* Random floats: the sum along the tree of ranks, bit for bit, whatever call and algorithm. */
static td_status float_bits(td_comm *c, void *arg)
{
    (void)arg;
    enum { N = 600011 };
    static const size_t sizes[] = {1, 33, 700, 5000, 50021, N}; /* each algorithm's */
    int n = td_comm_size(c), me = td_comm_rank(c);
    float *in = td_malloc(N * 4), *out = td_malloc(N * 4), *all = td_malloc((size_t)n * N * 4);
    td_rng rng;
    td_rng_init(&rng, 7, TD_RNG_TEST, (uint64_t)me, 0);
    for (size_t i = 0; i < N; i++) in[i] = td_rng_normal(&rng);
    TD_TRY(td_comm_allgather(c, in, N * 4, all));
    for (int bit = 1; bit < n; bit *= 2)
        for (int r = 0; r + bit < n; r += 2 * bit)
            for (size_t i = 0; i < N; i++) all[(size_t)r * N + i] += all[(size_t)(r + bit) * N + i];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        TD_TRY(td_comm_allreduce(c, in, out, sizes[k], TD_F32, TD_SUM));
        CHECK(!memcmp(out, all, sizes[k] * 4));
        TD_TRY(td_comm_reduce(c, in, out, sizes[k], TD_F32, TD_SUM, n - 1));
        CHECK(me != n - 1 || !memcmp(out, all, sizes[k] * 4));
        if (me != n - 1) memset(out, 0, sizes[k] * 4);
        TD_TRY(td_comm_broadcast(c, out, sizes[k] * 4, n - 1));
        CHECK(!memcmp(out, all, sizes[k] * 4));
    }
    size_t *parts = td_calloc((size_t)n, sizeof *parts);
    parts[n - 1] = N;
    TD_TRY(td_comm_reduce_scatter(c, in, out, parts, TD_F32, TD_SUM));
    CHECK(me != n - 1 || !memcmp(out, all, N * 4));
    TD_TRY(td_comm_allreduce(c, in, in, N, TD_F32, TD_SUM)); /* in place */
    CHECK(!memcmp(in, all, N * 4));
    td_free(in), td_free(out), td_free(all), td_free(parts);
    return TD_OK;
}

/* --- ranks that disagree --- */

static float some[60000], others[60000];

/* Rank 2 does `wrong`, the others all-reduce 100 floats. */
static td_status disagree(td_comm *c, void *arg)
{
    int wrong = *(int *)arg;
    size_t sizes[3] = {4, 4, 4}, longer[3] = {4, 8, 4};
    float x[100] = {0}, y[200];
    if (wrong >= 20) { /* all-to-all in which two sizes differ */
        return td_comm_alltoallv(c, x, td_comm_rank(c) == 2 ? longer : sizes, y, sizes);
    }
    if (td_comm_rank(c) != 2) return td_comm_allreduce(c, x, y, 100, TD_F32, TD_SUM);
    switch (wrong) {
    case 0: return td_comm_allreduce(c, x, y, 99, TD_F32, TD_SUM);
    case 1: return td_comm_allreduce(c, x, y, 100, TD_I32, TD_SUM);
    case 2: return td_comm_allreduce(c, x, y, 100, TD_F32, TD_MAX);
    case 3: return td_comm_reduce(c, x, y, 100, TD_F32, TD_SUM, 0);
    case 4: return td_comm_reduce(c, x, y, 100, TD_F32, TD_SUM, 2);
    case 5: return td_comm_barrier(c);
    case 6: return td_comm_broadcast(c, x, 400, 2);
    case 7: return td_comm_allgather(c, x, 4, y);
    case 8: return td_comm_gather(c, x, 4, y, 2);
    case 9: return td_comm_scatter(c, x, 4, y, 2);
    case 10: return td_comm_alltoall(c, x, 4, y);
    case 11: return td_comm_scan(c, x, y, 100, TD_F32, TD_SUM);
    case 12: return td_comm_allreduce(c, some, others, 60000, TD_F32, TD_SUM);
    case 13: return td_comm_allreduce_by(c, x, y, 25, sizeof(matrix), multiply, NULL);
    case 14: return td_comm_broadcast(c, x, 400, 0);
    case 15: return td_comm_allgatherv(c, x, sizes, y);
    }
    return TD_OK;
}

/* Within a host. Each case in a group of its own, which is of no use afterwards. */
static td_status all_disagree(td_comm *c, void *arg)
{
    (void)arg;
    static const char *const says[] = {"396 bytes",
                                       "i32",
                                       "max",
                                       "reduce (sum",
                                       "with root 2",
                                       "barrier",
                                       "broadcast of 400 bytes",
                                       "all-gather",
                                       "gather",
                                       "scatter",
                                       "all-to-all",
                                       "scan",
                                       "240000 bytes",
                                       "own operation",
                                       "with root 0",
                                       "all-gather of 12 bytes"};
    if (td_comm_size(c) != 3 || td_comm_hosts(c) > 1) return TD_OK;
    for (int wrong = 0; wrong <= 15; wrong++) {
        td_comm *group;
        TD_TRY(td_comm_split(c, 0, td_comm_rank(c), &group));
        td_status status = disagree(group, &wrong);
        char sentence[1024];
        snprintf(sentence, sizeof sentence, "%s", td_last_error());
        TD_TRY(td_comm_barrier(c)); /* who leaves early is told of instead */
        if (status != TD_OK) status = td_fail_again(status, sentence);
        /* One that only gives (to a root) does not look at the others. */
        CHECK(status == TD_ERR_ARG || (status == TD_OK && td_comm_rank(c) == 2));
        CHECK(status == TD_OK || (strstr(sentence, says[wrong]) && strstr(sentence, "rank 2") &&
                                  strstr(sentence, "runs all-reduce")));
        td_comm_close(group);
    }
    return TD_OK;
}

static void ranks_that_disagree_are_told(void **state)
{
    (void)state;
    on_all_sizes(all_disagree, NULL);
    if (mpi_world) return;
    int parts = 20;
    assert_fails(TD_ERR_ARG, "rank 2 gives 8 bytes where rank 1 takes 4",
                 td_comm_run_local(3, NULL, disagree, &parts));
}

static void pause_ms(int ms)
{
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
}

/* The others have left the group's first operation, and wait elsewhere, when rank 0 begins it. */
static td_status left_behind(td_comm *c, void *arg)
{
    (void)arg;
    static const char *const says[2][3] = {{"rank 2 runs barrier where rank 0 runs all-reduce",
                                            "rank 2 runs barrier", "runs barrier"},
                                           {"rank 1 gave up all-reduce",
                                            "waited more than 50 ms for rank 0", "rank 0"}};
    if (td_comm_size(c) != 3 || td_comm_hosts(c) > 1) return TD_OK;
    for (int late = 0; late < 2; late++) {
        td_comm *group;
        int me = td_comm_rank(c), wrong = late ? 99 : 5;
        float x[100] = {0}, y[100];
        TD_TRY(td_comm_split(c, 0, me, &group));
        if (late && me == 1) group->deadline_ms = 50;
        if (me == 0) pause_ms(300);
        td_status status =
            late ? td_comm_allreduce(group, x, y, 100, TD_F32, TD_SUM) : disagree(group, &wrong);
        char sentence[1024];
        snprintf(sentence, sizeof sentence, "%s", td_last_error());
        TD_TRY(td_comm_barrier(c));
        if (status != TD_OK) status = td_fail_again(status, sentence);
        td_status want = !late ? TD_ERR_ARG : me == 1 ? TD_ERR_TIMEOUT : TD_ERR_PEER;
        CHECK(status == want && strstr(sentence, says[late][me]));
        td_comm_close(group);
    }
    return TD_OK;
}

static void who_is_left_behind_is_told(void **state)
{
    (void)state;
    on_all_sizes(left_behind, NULL);
}

static td_status wrong_arguments(td_comm *c, void *arg)
{
    (void)arg;
    char b[8] = "";
    int n = td_comm_size(c);
    CHECK(td_comm_broadcast(c, NULL, 1, 0) == TD_ERR_ARG);
    CHECK(td_comm_broadcast(c, b, 1, n) == TD_ERR_ARG);
    CHECK(td_comm_allreduce(c, b, b, SIZE_MAX / 2, TD_F64, TD_SUM) == TD_ERR_ARG);
    CHECK(td_comm_allreduce(c, b, b, 1, (td_type)9, TD_SUM) == TD_ERR_ARG);
    CHECK(td_comm_reduce(c, b, b, 1, TD_U8, (td_op)7, 0) == TD_ERR_ARG);
    CHECK(td_comm_allgatherv(c, b, NULL, b) == TD_ERR_ARG);
    CHECK(td_comm_alltoallv(c, b, NULL, b, NULL) == TD_ERR_ARG);
    CHECK(td_comm_scatter(c, b, 1, b, -1) == TD_ERR_ARG);
    CHECK(td_comm_gather(c, b, SIZE_MAX / 2, b, n) == TD_ERR_ARG);
    CHECK(td_comm_alltoall(c, b, 1, b) == TD_ERR_ARG && strstr(td_last_error(), "overlap"));
    CHECK(td_comm_allreduce(c, b, b + 1, 4, TD_U8, TD_SUM) == TD_ERR_ARG);
    CHECK(td_comm_allreduce_by(c, b, b, 1, 0, multiply, NULL) == TD_ERR_ARG);
    CHECK(td_comm_allreduce_by(c, b, b, 1, 1, NULL, NULL) == TD_ERR_ARG);
    return TD_OK;
}

static void reductions_match_the_serial_result(void **state)
{
    (void)state;
    on_all_sizes(reductions, NULL);
}

static void movements_bring_every_byte(void **state)
{
    (void)state;
    on_all_sizes(movements, NULL);
    on_all_sizes(long_movements, NULL);
}

static void parts_are_dealt_to_their_ranks(void **state)
{
    (void)state;
    on_all_sizes(deals, NULL);
}

static void own_operations_keep_the_order_of_ranks(void **state)
{
    (void)state;
    on_all_sizes(own_operations, NULL);
}

static void half_types_are_rounded_once(void **state)
{
    (void)state;
    on_all_sizes(half_bits, NULL);
}

static void wrong_arguments_are_refused(void **state)
{
    (void)state;
    on_all_sizes(wrong_arguments, NULL);
}

static void float_sums_follow_the_tree_of_ranks(void **state)
{
    (void)state;
    on_all_sizes(float_bits, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reductions_match_the_serial_result),
        cmocka_unit_test(movements_bring_every_byte),
        cmocka_unit_test(float_sums_follow_the_tree_of_ranks),
        cmocka_unit_test(parts_are_dealt_to_their_ranks),
        cmocka_unit_test(own_operations_keep_the_order_of_ranks),
        cmocka_unit_test(half_types_round_to_nearest_even),
        cmocka_unit_test(half_types_are_rounded_once),
        cmocka_unit_test(ranks_that_disagree_are_told),
        cmocka_unit_test(who_is_left_behind_is_told),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
