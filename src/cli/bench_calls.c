/* See bench_calls.h. Elements are small whole numbers, so that every type holds every result. */
#include "cli/bench_calls.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

enum { KEY_BYTES = 256, SLACK = 64, TAG = 1 };

static td_status make_vectors(td_bench_calls *b, size_t room)
{
    void *in, *out;
    if (!b->registered) {
        b->in = td_alloc_aligned(room), b->out = td_alloc_aligned(room);
        return b->in && b->out
                   ? TD_OK
                   : td_fail(TD_ERR_NOMEM, "no memory for two vectors of %zu bytes", room);
    }
    TD_TRY(td_comm_alloc(room, &in));
    b->in = in;
    TD_TRY(td_comm_alloc(room, &out));
    b->out = out;
    return TD_OK;
}

td_status td_bench_calls_open(td_comm *comm, size_t most_bytes, bool registered, td_type type,
                              td_op op, td_bench_calls *out)
{
    td_bench_calls b = {.comm = comm,
                        .rank = td_comm_rank(comm),
                        .size = td_comm_size(comm),
                        .type = type,
                        .op = op,
                        .registered = registered,
                        .width = td_type_size(type)};
    size_t room = most_bytes + 8 * (size_t)b.size + SLACK;
    td_status status = make_vectors(&b, room);
    b.table = td_alloc_aligned(room);
    b.counts = td_calloc((size_t)b.size, sizeof *b.counts);
    b.keys = td_calloc(most_bytes / KEY_BYTES + 1, sizeof *b.keys);
    *out = b;
    if (status != TD_OK) return status;
    if (!b.table || !b.counts || !b.keys)
        return td_fail(TD_ERR_NOMEM, "no memory for vectors of %zu bytes", most_bytes);
    return TD_OK;
}

static void close_keyed(td_bench_calls *b)
{
    if (b->keyed && td_keyed_finish(b->keyed) != TD_OK) td_error_clear();
    td_keyed_destroy(b->keyed);
    b->keyed = NULL;
}

void td_bench_calls_close(td_bench_calls *b)
{
    close_keyed(b);
    if (b->registered) {
        if (td_comm_free(b->in) != TD_OK || td_comm_free(b->out) != TD_OK) td_error_clear();
    } else {
        td_free(b->in), td_free(b->out);
    }
    td_free(b->table), td_free(b->counts), td_free(b->keys);
    *b = (td_bench_calls){0};
}

/* --- elements --- */

/* Sums of 64 ranks fit eight bits; so do products of as many, which are of ones but for every 8th.
 */
static int value(const td_bench_calls *b, int rank, size_t i)
{
    if (b->pattern >= TD_REDUCE && b->pattern < TD_PATTERNS && b->op == TD_PROD)
        return (i + (size_t)rank) % 8 == 0 ? 2 : 1;
    return (int)((i * 7 + (size_t)rank * 13) % 3);
}

static void store(td_type type, void *to, size_t i, int v)
{
    switch (type) {
    case TD_F32: ((float *)to)[i] = (float)v; break;
    case TD_F64: ((double *)to)[i] = v; break;
    case TD_I32: ((int32_t *)to)[i] = v; break;
    case TD_I64: ((int64_t *)to)[i] = v; break;
    case TD_U8: ((uint8_t *)to)[i] = (uint8_t)v; break;
    case TD_F16: ((uint16_t *)to)[i] = td_f32_to_f16((float)v); break;
    case TD_BF16: ((uint16_t *)to)[i] = td_f32_to_bf16((float)v); break;
    }
}

static int reduced(const td_bench_calls *b, size_t i, int ranks)
{
    int all = value(b, 0, i);
    for (int r = 1; r < ranks; r++) {
        int v = value(b, r, i);
        switch (b->op) {
        case TD_SUM: all += v; break;
        case TD_MIN: all = v < all ? v : all; break;
        case TD_MAX: all = v > all ? v : all; break;
        case TD_PROD: all *= v; break;
        }
    }
    return all;
}

/* What element i of this rank's result must be; false: the rank has no such element. */
static bool expected(const td_bench_calls *b, size_t i, int *out)
{
    size_t part = b->count / (size_t)b->size, me = (size_t)b->rank;
    bool root = b->rank == 0;
    switch (b->pattern) {
    case TD_BROADCAST: *out = value(b, 0, i); return !root;
    case TD_SCATTER: *out = value(b, 0, me * part + i); return i < part;
    case TD_GATHER: *out = value(b, (int)(i / part), i % part); return root;
    case TD_ALLGATHER: *out = value(b, (int)(i / part), i % part); return true;
    case TD_ALLTOALL: *out = value(b, (int)(i / part), me * part + i % part); return true;
    case TD_REDUCE: *out = reduced(b, i, b->size); return root;
    case TD_ALLREDUCE: *out = reduced(b, i, b->size); return true;
    case TD_REDUCE_SCATTER: *out = reduced(b, me * part + i, b->size); return i < part;
    case TD_SCAN: *out = reduced(b, i, b->rank + 1); return true;
    case TD_BENCH_SEND_RECV: *out = value(b, 0, i); return b->size > 1 && b->rank == b->size - 1;
    case TD_BENCH_PUSH_PULL: *out = value(b, 0, i); return true;
    default: return false;
    }
}

/* --- pushes and pulls --- */

static td_status serve(void *user, const td_keyed_request *q)
{
    td_bench_calls *b = user;
    size_t bytes = b->part_bytes;
    for (size_t i = 0; i < q->count; i++) {
        char *part = b->table + q->keys[i] * bytes;
        if (q->in) memcpy(part, (const char *)q->in + i * bytes, bytes);
        if (q->out) memcpy((char *)q->out + i * bytes, part, bytes);
    }
    return TD_OK;
}

/* Every rank holds a share of the keys, pushes all and pulls all. */
static td_status open_keyed(td_bench_calls *b)
{
    size_t bytes = b->count * b->width;
    b->part_bytes = bytes < KEY_BYTES ? bytes : KEY_BYTES;
    b->key_count = bytes / b->part_bytes;
    b->count = b->key_count * b->part_bytes / b->width;
    for (size_t i = 0; i < b->key_count; i++) b->keys[i] = i;
    memset(b->table, 0, bytes); /* before it is timed */
    td_keyed_config config = {.width = b->part_bytes, .serve = serve, .user = b};
    return td_keyed_open(b->comm, &config, &b->keyed);
}

static td_status push_and_pull(td_bench_calls *b)
{
    td_parts parts = {.keys = b->keys, .count = b->key_count, .in = b->in, .out = b->out};
    TD_TRY(td_keyed_push(b->keyed, &parts));
    return td_keyed_pull(b->keyed, &parts);
}

/* --- calls --- */

/* From the first rank to the last, and back. */
static td_status send_and_receive(td_bench_calls *b)
{
    size_t bytes = b->count * b->width;
    int last = b->size - 1;
    if (last == 0 || (b->rank != 0 && b->rank != last)) return TD_OK;
    if (b->rank == 0) {
        TD_TRY(td_comm_send(b->comm, b->in, bytes, last, TAG));
        return td_comm_recv(b->comm, b->out, bytes, last, TAG);
    }
    TD_TRY(td_comm_recv(b->comm, b->out, bytes, 0, TAG));
    return td_comm_send(b->comm, b->out, bytes, 0, TAG);
}

static td_collective describe(const td_bench_calls *b)
{
    td_collective c = {.pattern = (td_pattern)b->pattern,
                       .in = b->in,
                       .out = b->out,
                       .bytes = b->count / (size_t)b->size * b->width,
                       .count = b->count,
                       .type = b->type,
                       .op = b->op};
    if (b->pattern == TD_BROADCAST) {
        c.bytes = b->count * b->width;
        c.out = b->rank == 0 ? NULL : b->out;
    }
    if (b->pattern == TD_REDUCE_SCATTER) c.parts = b->counts;
    return c;
}

td_status td_bench_calls_call(const td_bench_calls *b, td_call *out)
{
    td_collective c = describe(b);
    return td_call_make(b->comm, &c, out);
}

td_status td_bench_calls_set(td_bench_calls *b, int pattern, size_t bytes)
{
    bool parts = pattern == TD_SCATTER || pattern == TD_GATHER || pattern == TD_ALLGATHER ||
                 pattern == TD_ALLTOALL || pattern == TD_REDUCE_SCATTER;
    size_t count = bytes > b->width ? bytes / b->width : 1, ranks = (size_t)b->size;
    size_t part = (count + ranks - 1) / ranks;
    close_keyed(b);
    b->pattern = pattern;
    b->count = pattern == TD_BARRIER ? 0 : parts ? part * ranks : count;
    for (int r = 0; r < b->size; r++) b->counts[r] = part;
    for (size_t i = 0; i < b->count; i++)
        store(b->type, b->in, i, value(b, pattern == TD_BENCH_PUSH_PULL ? 0 : b->rank, i));
    return pattern == TD_BENCH_PUSH_PULL ? open_keyed(b) : TD_OK;
}

td_status td_bench_calls_run(td_bench_calls *b)
{
    if (b->pattern == TD_BENCH_SEND_RECV) return send_and_receive(b);
    if (b->pattern == TD_BENCH_PUSH_PULL) return push_and_pull(b);
    td_collective c = describe(b);
    return td_comm_run(b->comm, &c);
}

td_status td_bench_calls_check(td_bench_calls *b, bool *right)
{
    uint8_t wrong = 0, any = 0;
    int want;
    uint64_t as_stored;
    if (b->count) memset(b->out, 255, b->count * b->width);
    TD_TRY(td_bench_calls_run(b));
    for (size_t i = 0; i < b->count && !wrong; i++) {
        if (!expected(b, i, &want)) continue;
        store(b->type, &as_stored, 0, want);
        wrong = memcmp(b->out + i * b->width, &as_stored, b->width) != 0;
    }
    TD_TRY(td_comm_allreduce(b->comm, &wrong, &any, 1, TD_U8, TD_MAX));
    *right = !any;
    return TD_OK;
}
