/* What tandem bench --comm times: the collectives, a message to and fro, a push and a pull, each
 * with buffers whose result is known. */
#ifndef TD_CLI_BENCH_CALLS_H
#define TD_CLI_BENCH_CALLS_H

#include "comm/coll/coll.h"
#include "tandem/keyed.h"

/* Behind the td_patterns, in the order of td_job_patterns. */
enum { TD_BENCH_SEND_RECV = TD_PATTERNS, TD_BENCH_PUSH_PULL, TD_BENCH_PATTERNS };

typedef struct td_bench_calls {
    td_comm *comm;
    int rank, size;
    td_type type;
    td_op op;
    size_t width; /* bytes of an element */
    int pattern;
    size_t count;      /* elements of the vector; of all parts, where there are parts */
    char *in, *out;    /* [room] */
    bool registered;   /* of td_comm_alloc */
    size_t *counts;    /* [size] */
    td_keyed *keyed;   /* of a push and pull of this size */
    char *table;       /* [room] what this rank holds of it */
    size_t part_bytes; /* of a key */
    uint64_t *keys;    /* [key_count] */
    size_t key_count;
} td_bench_calls;

/* Room for vectors of so many bytes, registered: of td_comm_alloc. Local. TD_ERR_NOMEM, TD_ERR_IO.
 */
TD_MUST_CHECK td_status td_bench_calls_open(td_comm *comm, size_t most_bytes, bool registered,
                                            td_type type, td_op op, td_bench_calls *out);
void td_bench_calls_close(
    td_bench_calls *calls); /* collective where calls->keyed; zeroed is fine */
/* From here on of that pattern, and of about so many bytes. Collective. */
TD_MUST_CHECK td_status td_bench_calls_set(td_bench_calls *calls, int pattern, size_t bytes);
/* One of them. Collective. */
TD_MUST_CHECK td_status td_bench_calls_run(td_bench_calls *calls);
/* One of them, its result compared at all ranks. Collective. */
TD_MUST_CHECK td_status td_bench_calls_check(td_bench_calls *calls, bool *right);
/* As the table of algorithms knows it. TD_ERR_ARG: the pattern is no collective. */
TD_MUST_CHECK td_status td_bench_calls_call(const td_bench_calls *calls, td_call *out);

#endif
