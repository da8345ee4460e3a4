/* Which algorithm serves which size, and the arithmetic of reductions. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

typedef struct allreduce_row {
    const char *name;
    size_t from_bytes; /* taken from this size on */
    bool (*supports)(const td_comm *comm);
    td_status (*run)(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                     td_op op);
} allreduce_row;

/* Binomial reduction to rank 0 and back: 2 log2 n messages one after the other. */
static td_status reduce_broadcast(td_comm *comm, const void *in, void *out, size_t count,
                                  td_type type, td_op op)
{
    TD_TRY(td_coll_reduce(comm, in, out, count, type, op, 0));
    return td_coll_broadcast(comm, out, count * td_type_size(type), 0);
}

/* Reduce-scatter and all-gather: 2 (n - 1) messages, 2 (n - 1) / n of the bytes a rank.
 * Rabenseifner, "Optimization of collective reduction operations", 2004. */
static td_status scatter_gather(td_comm *comm, const void *in, void *out, size_t count,
                                td_type type, td_op op)
{
    size_t n = (size_t)comm->size, width = td_type_size(type), me = (size_t)comm->rank;
    size_t *sizes = td_calloc(2 * n, sizeof *sizes), *counts = sizes + n;
    char *part = NULL;
    td_status status = TD_OK;
    if (sizes) {
        for (size_t r = 0; r < n; r++) {
            counts[r] = (r + 1) * count / n - r * count / n;
            sizes[r] = counts[r] * width;
        }
        part = td_malloc(sizes[me]);
    }
    if (!part) {
        status = td_fail(TD_ERR_NOMEM, "no memory for an all-reduce");
        goto out;
    }
    TD_GOTO(td_coll_reduce_scatter(comm, in, part, counts, type, op));
    TD_GOTO(td_coll_allgatherv(comm, part, sizes, out));
out:
    td_free(part);
    td_free(sizes);
    return status;
}

static bool always(const td_comm *comm)
{
    (void)comm;
    return true;
}

/* The last row that fits serves. */
static const allreduce_row allreduce_table[] = {
    {"reduce-broadcast", 0, always, reduce_broadcast},
    {"scatter-gather", 16384, always, scatter_gather},
    {"shared", 2048, td_coll_shared_fits, td_coll_shared_allreduce},
};
enum { ALLREDUCE_ROWS = sizeof allreduce_table / sizeof *allreduce_table };

td_status td_coll_allreduce(td_comm *comm, const void *in, void *out, size_t count, td_type type,
                            td_op op)
{
    const allreduce_row *row = &allreduce_table[ALLREDUCE_ROWS - 1];
    while (row->from_bytes > count * td_type_size(type) || !row->supports(comm)) row--;
    return row->run(comm, in, out, count, type, op);
}

#define COMBINE(T, EXPRESSION)                                                                    \
    do {                                                                                          \
        T *restrict a = into;                                                                     \
        const T *restrict b = from;                                                               \
        for (size_t i = 0; i < count; i++) a[i] = (T)(EXPRESSION);                                \
    } while (0)
#define COMBINE_OF(T)                                                                             \
    switch (op) {                                                                                 \
    case TD_SUM: COMBINE(T, a[i] + b[i]); break;                                                  \
    case TD_MIN: COMBINE(T, b[i] < a[i] ? b[i] : a[i]); break;                                    \
    case TD_MAX: COMBINE(T, b[i] > a[i] ? b[i] : a[i]); break;                                    \
    case TD_PROD: COMBINE(T, a[i] * b[i]); break;                                                 \
    }                                                                                             \
    break

void td_coll_combine(void *into, const void *from, size_t count, td_type type, td_op op)
{
    switch (type) {
    case TD_F32: COMBINE_OF(float);
    case TD_F64: COMBINE_OF(double);
    case TD_I32: COMBINE_OF(int32_t);
    case TD_I64: COMBINE_OF(int64_t);
    case TD_U8: COMBINE_OF(uint8_t);
    }
}
