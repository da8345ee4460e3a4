/* Tandem: ranks, and what they say to each other.
 *
 * A td_comm is an ordered group of ranks. Two transports carry it: `local` (ranks are threads of
 * this process) and `mpi` (ranks are processes that mpiexec started). A handle belongs to one rank
 * and is used by one thread at a time; all ranks of a group make the same collective calls in the
 * same order.
 *
 * NULL for a group, a buffer or a place for a result is TD_ERR_ARG, with a sentence, unless it is
 * said to be fine. What has no status to give says -1, 0, false or "none", or does nothing.
 *
 * No call hangs. One that waits for a peer ends, within the deadline, in TD_ERR_PEER (the peer has
 * died, left or failed) or TD_ERR_TIMEOUT (it is silent); the sentence names the rank and the
 * operation, and what is known of the rank: what it waits in itself, and for whom, or the operation
 * in which it was heard of last. Ranks in sentences are numbered in the whole run, also in groups
 * made by split.
 *
 * Under MPI a message of an operation that has failed may still be taken from its buffer, or come
 * there, when a rank that is late catches up: keep the buffer until the process ends. Memory of
 * td_comm_alloc may be freed at once. */
#ifndef TANDEM_COMM_H
#define TANDEM_COMM_H

#include "tandem/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_comm td_comm;

/* F16 is IEEE 754-2008 binary16, BF16 the upper half of a float. Both are widened to f32, reduced
 * there, and rounded once, to nearest even. Integers wrap round. */
typedef enum td_type { TD_F32, TD_F64, TD_I32, TD_I64, TD_U8, TD_F16, TD_BF16 } td_type;
typedef enum td_op { TD_SUM, TD_MIN, TD_MAX, TD_PROD } td_op;

/* An operation of the user's: into[i] = into[i] op from[i] for `count` elements. Associative (up to
 * rounding); it need not commute, as operands keep their ranks' order. Called by any rank, on
 * pieces of a vector. */
typedef void td_combine_fn(void *into, const void *from, size_t count, void *user);

TD_API size_t td_type_size(td_type type);

typedef struct td_comm_config {
    int64_t deadline_ms; /* of each wait, 1 to 1e12; 0, as in a zeroed struct: 300,000 */
    int spares;          /* the run's last ranks wait to replace others, see tandem/recover.h */
} td_comm_config;

/* --- starting and ending --- */

/* What a rank does. Its status is the rank's result. */
typedef td_status td_rank_fn(td_comm *comm, void *arg);

/* Runs `fn` on `ranks` threads (1..1024, spares among them) and returns when all are done: TD_OK,
 * or the first cause of failure with its sentence (not the TD_ERR_PEER that it made elsewhere). A
 * rank that fails ends the waits of the others. */
TD_API TD_MUST_CHECK td_status td_comm_run_local(int ranks, const td_comm_config *config,
                                                 td_rank_fn *fn, void *arg);

/* Whether this process was started by mpiexec or a like. */
TD_API bool td_comm_launched_by_mpi(void);

/* Runs `fn` on this process as one of the ranks (1..1024) that MPI started, initialising and
 * finalising MPI. Every process gets its own rank's status. SIGPIPE is ignored from here on, unless
 * it has a handler: a write to a rank that has just died raises it. A spare that waits gets what a
 * rank has failed with. TD_ERR_UNSUPPORTED without the MPI module. */
TD_API TD_MUST_CHECK td_status td_comm_run_mpi(const td_comm_config *config, td_rank_fn *fn,
                                               void *arg);

/* The same in two calls; end it with td_comm_close, before which a rank that has failed calls
 * td_comm_fail. Once in a process. A spare returns when it is taken, or with *out NULL when the run
 * has ended without it. */
TD_API TD_MUST_CHECK td_status td_comm_open_mpi(const td_comm_config *config, td_comm **out);

/* A group of this thread alone, to close with td_comm_close. */
TD_API TD_MUST_CHECK td_status td_comm_self(const td_comm_config *config, td_comm **out);

/* Tells all ranks of the whole run that this one has failed: their waits end in TD_ERR_PEER with
 * this sentence. For a rank that goes on to clean up, or whose fn will return TD_OK all the same;
 * a rank whose fn returns a failure has told it by that. */
TD_API void td_comm_fail(td_comm *comm, td_status status, const char *sentence);

/* What the MPI module says of its MPI: "Open MPI v5.0.11, ..." and whether it has user-level
 * failure mitigation. `text` holds 256 bytes. Does not initialise MPI. */
TD_API TD_MUST_CHECK td_status td_comm_mpi_version(char text[256], bool *has_ulfm);

/* --- the group --- */

TD_API int td_comm_rank(const td_comm *comm);
TD_API int td_comm_size(const td_comm *comm);
TD_API const char *td_comm_transport(const td_comm *comm); /* "local", "mpi" */
/* Hosts are numbered by their lowest rank. */
TD_API int td_comm_hosts(const td_comm *comm);
TD_API int td_comm_host_of(const td_comm *comm, int rank);
/* Among the ranks of this rank's host, in rank order. */
TD_API int td_comm_local_rank(const td_comm *comm);
TD_API int td_comm_local_size(const td_comm *comm);
/* Payload bytes that this rank has sent to other hosts (and, point to point, to its own). */
TD_API uint64_t td_comm_bytes_sent(const td_comm *comm);

/* Ranks of one colour make a new group, ordered by key, then by rank; a negative colour gets NULL.
 * The new group is the caller's, to close with td_comm_close. Collective. */
TD_API TD_MUST_CHECK td_status td_comm_split(td_comm *comm, int color, int key, td_comm **out);
/* NULL is fine. For groups made by split, self, open_mpi, recover and resize. Waits for nobody, but
 * that open_mpi's group closes when all its ranks do. Calls with one of the newest 256 groups that
 * were closed, and works of any, end in TD_ERR_ARG; a second close is a warning. All that was sent
 * there should have been received: under MPI, where a short send does not wait for that, a later
 * group might get it. */
TD_API void td_comm_close(td_comm *comm);

/* --- point to point; tags 0..1,000,000 --- */

/* May wait until the receiver takes it: two ranks that both send first wait for each other. */
TD_API TD_MUST_CHECK td_status td_comm_send(td_comm *comm, const void *data, size_t bytes, int to,
                                            int tag);
/* Exactly `bytes` must arrive. */
TD_API TD_MUST_CHECK td_status td_comm_recv(td_comm *comm, void *data, size_t bytes, int from,
                                            int tag);

/* --- collectives ---
 *
 * Ranks that disagree on the pattern, root, type, operation, length, parts, algorithm or order get
 * TD_ERR_ARG with a sentence that names both, wherever they are: at once where one awaits the other
 * in shared memory or takes a message of it, within about 20 ms where both wait and no message
 * comes. A rank that only gives (a root of a broadcast, say) may be told in a later operation of
 * the group; if it never awaits the others again, at the deadline or not at all. After an error the
 * group is fit only to be closed. Buffers that are read and written may not overlap except where it
 * is said. Parts lie in rank order, one behind the other; arrays of their sizes have an entry for
 * each rank. A count of 0 is fine. TD_ERR_ARG: a null buffer, a root out of range, a length beyond
 * memory, overlapping buffers. */

TD_API TD_MUST_CHECK td_status td_comm_barrier(td_comm *comm);
TD_API TD_MUST_CHECK td_status td_comm_broadcast(td_comm *comm, void *data, size_t bytes, int root);

/* in: all parts at the root (ignored elsewhere); out: this rank's, which may be its place in `in`.
 */
TD_API TD_MUST_CHECK td_status td_comm_scatter(td_comm *comm, const void *in, size_t bytes,
                                               void *out, int root);
/* bytes[r] of rank r; the same array everywhere. */
TD_API TD_MUST_CHECK td_status td_comm_scatterv(td_comm *comm, const void *in, const size_t *bytes,
                                                void *out, int root);
/* out: all parts at the root (ignored elsewhere); in may be its place in out. */
TD_API TD_MUST_CHECK td_status td_comm_gather(td_comm *comm, const void *in, size_t bytes,
                                              void *out, int root);
TD_API TD_MUST_CHECK td_status td_comm_gatherv(td_comm *comm, const void *in, const size_t *bytes,
                                               void *out, int root);
/* The same, with the result at all ranks. */
TD_API TD_MUST_CHECK td_status td_comm_allgather(td_comm *comm, const void *in, size_t bytes,
                                                 void *out);
TD_API TD_MUST_CHECK td_status td_comm_allgatherv(td_comm *comm, const void *in,
                                                  const size_t *bytes, void *out);
/* Rank r gets part r of each rank, in their order. in and out: [size][bytes]. */
TD_API TD_MUST_CHECK td_status td_comm_alltoall(td_comm *comm, const void *in, size_t bytes,
                                                void *out);
/* give[r] bytes go to rank r, take[r] come from it; what one gives the other must take. */
TD_API TD_MUST_CHECK td_status td_comm_alltoallv(td_comm *comm, const void *in, const size_t *give,
                                                 void *out, const size_t *take);

/* Reductions are made along the tree whose leaves are the ranks, ((0 + 1) + (2 + 3)) + ..., so that
 * equal inputs give equal bits on every transport, by every algorithm and, between reduce,
 * all-reduce and reduce-scatter, by every call. `in` may be `out` but in reduce-scatter. */
TD_API TD_MUST_CHECK td_status td_comm_reduce(td_comm *comm, const void *in, void *out,
                                              size_t count, td_type type, td_op op, int root);
TD_API TD_MUST_CHECK td_status td_comm_allreduce(td_comm *comm, const void *in, void *out,
                                                 size_t count, td_type type, td_op op);
/* in: all parts in rank order; rank r gets its counts[r] elements, reduced, in out. */
TD_API TD_MUST_CHECK td_status td_comm_reduce_scatter(td_comm *comm, const void *in, void *out,
                                                      const size_t *counts, td_type type, td_op op);
/* Rank r gets the reduction of ranks 0..r, made in rank order: (0 + 1) + 2 ... */
TD_API TD_MUST_CHECK td_status td_comm_scan(td_comm *comm, const void *in, void *out, size_t count,
                                            td_type type, td_op op);

/* The same with the user's operation on elements of `width` bytes, 1..2048. */
TD_API TD_MUST_CHECK td_status td_comm_reduce_by(td_comm *comm, const void *in, void *out,
                                                 size_t count, size_t width, td_combine_fn *combine,
                                                 void *user, int root);
TD_API TD_MUST_CHECK td_status td_comm_allreduce_by(td_comm *comm, const void *in, void *out,
                                                    size_t count, size_t width,
                                                    td_combine_fn *combine, void *user);
TD_API TD_MUST_CHECK td_status td_comm_reduce_scatter_by(td_comm *comm, const void *in, void *out,
                                                         const size_t *counts, size_t width,
                                                         td_combine_fn *combine, void *user);
TD_API TD_MUST_CHECK td_status td_comm_scan_by(td_comm *comm, const void *in, void *out,
                                               size_t count, size_t width, td_combine_fn *combine,
                                               void *user);

/* --- collectives as values: non-blocking, persistent, grouped --- */

typedef enum td_pattern {
    TD_BARRIER,
    TD_BROADCAST,
    TD_SCATTER,
    TD_GATHER,
    TD_ALLGATHER,
    TD_ALLTOALL,
    TD_REDUCE, /* from here on: reductions */
    TD_ALLREDUCE,
    TD_REDUCE_SCATTER,
    TD_SCAN,
    TD_PATTERNS
} td_pattern;

/* What the calls above say in their arguments; what a pattern does not use is ignored. */
typedef struct td_collective {
    td_pattern pattern;
    const void *in; /* broadcast: the buffer at the root is `in`, elsewhere `out` */
    void *out;
    size_t bytes;        /* broadcast; scatter, gather, all-gather, all-to-all of equal parts */
    size_t count;        /* reduce, all-reduce, scan: elements */
    const size_t *parts; /* [size] bytes of parts that differ; reduce-scatter: elements */
    const size_t *takes; /* [size] all-to-all of parts that differ: bytes from each rank */
    td_type type;
    td_op op;
    td_combine_fn *combine; /* NULL: op on type; else on elements of `width` bytes */
    size_t width;
    void *user;
    int root;
} td_collective;

/* Runs it and returns when it is done here. */
TD_API TD_MUST_CHECK td_status td_comm_run(td_comm *comm, const td_collective *what);

/* An operation that may be under way while its rank does other things: made once, started and
 * waited for as often as wanted. Buffers and arrays are borrowed; while it is under way nobody may
 * touch what it writes or change what it reads. A thread of the rank's own carries them out one
 * after the other, in the order in which they were started, which must be the same at all ranks of
 * the group (blocking calls may come between in any order). Close the group after its works. */
typedef struct td_work td_work;

/* Checks the arguments. The first of a group is collective. TD_ERR_ARG, TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_work_create(td_comm *comm, const td_collective *what,
                                              td_work **out);
TD_API TD_MUST_CHECK td_status td_work_start(td_work *work);
/* Starts all; short all-reduces, reduces or scans of one type and operation, and short broadcasts,
 * from one root, that are neighbours become one. */
TD_API TD_MUST_CHECK td_status td_work_start_all(td_work *const *works, int count);
/* Whether it has ended (true for one never started). */
TD_API bool td_work_done(td_work *work);
/* Its result once it has ended; TD_OK for one never started. It may be started again. */
TD_API TD_MUST_CHECK td_status td_work_wait(td_work *work);
/* Waits for it, if it is under way. NULL is fine. */
TD_API void td_work_destroy(td_work *work);

/* Messages as operations: no thread carries them out, so they keep no order with collectives; those
 * between two ranks with one tag arrive in the order in which they were started, and fit the other
 * side's blocking calls. Waited for by the thread that uses the group. The deadline counts from the
 * wait. Not collective. */
TD_API TD_MUST_CHECK td_status td_work_create_send(td_comm *comm, const void *data, size_t bytes,
                                                   int to, int tag, td_work **out);
TD_API TD_MUST_CHECK td_status td_work_create_recv(td_comm *comm, void *data, size_t bytes,
                                                   int from, int tag, td_work **out);

/* create and start; destroy it after the wait. */
TD_API TD_MUST_CHECK td_status td_comm_start_send(td_comm *comm, const void *data, size_t bytes,
                                                  int to, int tag, td_work **out);
TD_API TD_MUST_CHECK td_status td_comm_start_recv(td_comm *comm, void *data, size_t bytes, int from,
                                                  int tag, td_work **out);
TD_API TD_MUST_CHECK td_status td_comm_start(td_comm *comm, const td_collective *what,
                                             td_work **out);

/* All ranks learn the worst status of all, with the sentence of the lowest rank that has it. Call
 * it where some ranks might go on to a collective that others would skip. */
TD_API TD_MUST_CHECK td_status td_comm_agree(td_comm *comm, td_status mine);
/* The group's newest operation, if it was an agreement on a failure; else `alike` is 0. */
typedef struct td_agreement {
    td_status status; /* agreed on */
    td_status mine;   /* what this rank brought */
    int alike;        /* ranks that brought the status agreed on: the same number at all */
} td_agreement;
TD_API td_agreement td_comm_agreement(const td_comm *comm);

/* Which algorithm serves which size, as "tandem bench --tune FILE" measured it on this machine for
 * a group of this shape: here, in works that are created later, and, where the file has something
 * for their shapes, in groups that are split from it or made by its recovery. A work that there is
 * goes on as it was. Collective; rank 0 reads. TD_ERR_ARG: measured on another machine, or for
 * groups of other shapes alone, TD_ERR_CORRUPT: cut short or changed, TD_ERR_IO. */
TD_API TD_MUST_CHECK td_status td_comm_tune(td_comm *comm, const char *path);

/* --- what ranks are doing --- */

/* From now on this rank's newest operations stand in the file (made or emptied), also those of
 * groups split from this one later; "tandem diagnose" reads it, even when the process was killed.
 * Name it RUN/recorder/rank-N, N: the rank, for "tandem diagnose RUN". NULL: in memory alone, for
 * td_comm_print_on_signal. Costs a few nanoseconds an operation. Once for a group. TD_ERR_ARG,
 * TD_ERR_IO, TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_comm_record(td_comm *comm, const char *path);
/* From now on this signal (such as SIGUSR1) does not end the process: what each recorded rank of it
 * is doing is printed on standard error, a line each. For the whole process, once; any thread may
 * call it. A handler that the application has set, or that it ignores the signal, stays:
 * TD_ERR_ARG. */
TD_API TD_MUST_CHECK td_status td_comm_print_on_signal(int number);
/* The training step that the rank is in, for the record. */
TD_API void td_comm_record_step(td_comm *comm, uint64_t step);

/* --- memory shared by the ranks of a host --- */

/* Memory for vectors that collectives read and write, zeroed, on pages of its own: as
 * MPI_Alloc_mem, or NCCL's registered buffers. Processes of a host read it where it lies, where
 * they would fetch or copy what lies elsewhere, so that long vectors (from 16 KiB on) take about
 * half the time; it serves where all ranks' vectors of a call lie in such memory. Between threads,
 * and hosts, it is memory like any other. Each piece is an open file: for few, long buffers.
 * Belongs to no group; give it back when no operation uses it. A child of fork(2) shares it with
 * its parent. TD_ERR_ARG (more bytes than there can be), TD_ERR_NOMEM, TD_ERR_IO; free: TD_ERR_ARG
 * for what alloc did not give (NULL is fine). */
TD_API TD_MUST_CHECK td_status td_comm_alloc(size_t bytes, void **out);
TD_API td_status td_comm_free(void *memory);

typedef struct td_region {
    void *data; /* 64-byte aligned, zeroed; the same bytes at every rank of the host */
    size_t bytes;
    void *handle;
} td_region;
/* Collective over the group; each host makes its own. Stays usable when a rank has died. */
TD_API TD_MUST_CHECK td_status td_comm_shared_create(td_comm *comm, size_t bytes, td_region *out);
TD_API void td_comm_shared_destroy(td_comm *comm, td_region *region); /* zeroed one is fine */

#ifdef __cplusplus
}
#endif
#endif
