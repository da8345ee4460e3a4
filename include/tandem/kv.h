/* Tandem: a table over the servers of a group, used from C. Rows of weights, and of an update
 * rule's states, lie at servers under 64-bit keys, or, of a dense table, under 0 to rows - 1;
 * workers pull rows, compute, and push gradients, each at its own pace, as the clock allows. What
 * "tandem train --strategy ps" rides on (docs/PARAMETER-SERVER.md says what it promises).
 *
 * NULL for a table, or for keys, rows, a function or a path that are needed, is TD_ERR_ARG.
 *
 * Ranks are workers, servers, or both. All calls of a rank to one table come from one thread; only
 * opening, importing, finishing, moving and destroying are collective.
 *
 * Source: Li et al., "Scaling distributed machine learning with the parameter server", OSDI 2014.
 */
#ifndef TANDEM_KV_H
#define TANDEM_KV_H

#include "tandem/comm.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct td_kv td_kv;

/* A function on a row, called at its servers: its weights [width], then each state of the rule
 * [width], to be changed. argument: TD_KV_ARGUMENT bytes of the asker. It may not ask the table for
 * anything. With replicas it must do the same at both servers of a row. */
enum { TD_KV_ARGUMENT = 32 };
typedef td_status td_kv_fn(void *user, const void *argument, uint64_t key, float *row);
typedef struct td_kv_function {
    td_kv_fn *fn;
    void *user;
} td_kv_function;

/* The same at all ranks, but for user, folder and memory_bytes. */
typedef struct td_kv_config {
    size_t width;     /* floats of a row's weights, 1 to 65536 */
    const char *rule; /* "sgd", "momentum", "adagrad", "adam", "ftrl"; NULL: "sgd" */
    float lr;
    float momentum;       /* 0: 0.9 */
    float beta1, beta2;   /* adam; 0: 0.9 and 0.999 */
    float epsilon;        /* adagrad, adam; 0: 1e-10 and 1e-8 */
    float weight_decay;   /* not ftrl */
    float l1, l2, beta;   /* ftrl; beta 0: 1 */
    float scale;          /* new rows are uniform within +-scale; 0: zero */
    uint64_t seed;        /* of new rows: the same whichever server makes them, and when */
    uint32_t admit;       /* pushes that make a row, which earlier ones do not move; 0: 1 */
    uint64_t evict_after; /* a row that no push and no function has moved for so many steps, by the
                             mean of the workers' clocks, is forgotten; 0: never; not with
                             replicas */
    size_t memory_bytes;  /* of a server's rows in memory; 0: no limit */
    const char *folder;   /* with a limit: where a server's other rows lie, its alone */
    int servers;       /* ranks that serve and do not work, the last of the group; 0: all do both */
    int replicas;      /* 1: each row is at a second server, too */
    uint64_t rows;     /* a dense table: cut by range over the servers; 0: sparse, by a hash */
    const char *clock; /* "asp", "ssp:S", "backup:K[:apply]", "groups:G:S:L"; NULL: "asp" */
    bool by_staleness; /* a push moves by 1/s of its rate, s: steps of the others since its rows
                          were read */
    const char *meaning; /* of keys and rows, a line for files that are exported, which imports
                            compare; NULL: none */
    const td_kv_function *functions; /* [function_count] for td_kv_apply */
    int function_count;
} td_kv_config;

/* Collective. Borrows only functions' `user`. TD_ERR_ARG at all ranks (a value, or ranks differ),
 * TD_ERR_NOMEM, TD_ERR_IO (folder), TD_ERR_UNSUPPORTED (an MPI that one thread alone may call). */
TD_API TD_MUST_CHECK td_status td_kv_open(td_comm *comm, const td_kv_config *config, td_kv **out);

/* This rank's number among the workers, -1: none; and how many steps it has pushed. */
TD_API int td_kv_worker(const td_kv *kv);
TD_API uint64_t td_kv_clock(const td_kv *kv);

/* Rows of `count` keys, which may repeat, to out [count][width], as this worker's clock allows;
 * ranks that are no worker get what there is. What servers fail with; TD_ERR_PEER, TD_ERR_TIMEOUT:
 * fit only to be moved or destroyed. */
TD_API TD_MUST_CHECK td_status td_kv_pull(td_kv *kv, const uint64_t *keys, size_t count,
                                          float *out);
/* The same in two parts, so that the next batch's rows come while this one computes: the first asks
 * for them, as of this worker's clock, the second waits. Pushes may go on between, of which rows
 * then have what was there when they were asked for; pulls may not. TD_ERR_ARG: the one before has
 * not been waited for; this rank is no worker. */
TD_API TD_MUST_CHECK td_status td_kv_fetch(td_kv *kv, const uint64_t *keys, size_t count);
TD_API TD_MUST_CHECK td_status td_kv_fetched(td_kv *kv, float *out);
/* A worker's step: rows move by the sum of their gradients [count][width], whose keys may repeat.
 * In order, once at each server, also when a server or a worker dies meanwhile; returns when all
 * servers concerned have it. The worker's clock goes on by one. The same errors; a step that was
 * not acknowledged is made again by td_kv_move. TD_ERR_ARG, and no step: a gradient that is not
 * finite. */
TD_API TD_MUST_CHECK td_status td_kv_push(td_kv *kv, const uint64_t *keys, size_t count,
                                          const float *gradients);
/* This worker pushes no more: nobody waits for it, until it pulls again. */
TD_API TD_MUST_CHECK td_status td_kv_retire(td_kv *kv);

/* Calls `each` with the weights of the rows of keys first to last, both among them, in ascending
 * order; ends with what it fails with. Every push that was acknowledged before is in it. */
typedef td_status td_kv_each_fn(void *arg, uint64_t key, const float *weights);
TD_API TD_MUST_CHECK td_status td_kv_range(td_kv *kv, uint64_t first, uint64_t last,
                                           td_kv_each_fn *each, void *arg);
/* Calls the function of that number with the rows of `count` keys, at their servers, making rows
 * that there are not; argument: up to TD_KV_ARGUMENT bytes, NULL with 0. What it fails with: rows
 * before that one have been changed. Behind td_kv_move it waits until rows
 * that had one copy left have two. */
TD_API TD_MUST_CHECK td_status td_kv_apply(td_kv *kv, int function, const uint64_t *keys,
                                           size_t count, const void *argument,
                                           size_t argument_bytes);

/* All rows' weights to a .tsv or .safetensors file, for other tools; they pass through this rank's
 * memory. By any rank. TD_ERR_ARG (the ending), TD_ERR_IO, TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_kv_export(td_kv *kv, const char *path);
/* Rows of such a file, with states or without, instead of what is there under their keys: each
 * server reads it and takes its own. Collective, while nobody pulls or pushes. TD_ERR_DATA,
 * TD_ERR_CORRUPT: of another width, rule or meaning, with keys that a dense table does not have,
 * damaged, or not the same everywhere;
 * TD_ERR_IO, TD_ERR_NOMEM. */
TD_API TD_MUST_CHECK td_status td_kv_import(td_kv *kv, const char *path);

enum { TD_KV_STALENESS = 33 };
typedef struct td_kv_stats {
    uint64_t rows;            /* of this rank's server */
    uint64_t pushes, dropped; /* that it applied, or dropped as late ("backup") */
    uint64_t asked, cached;   /* rows that this rank asked for, and read from what it keeps */
    uint64_t staleness[TD_KV_STALENESS]; /* rows read from it, and from what this rank keeps, by the
                                            steps of the slowest worker that they lacked; last: and
                                            more */
} td_kv_stats;
TD_API void td_kv_measure(const td_kv *kv, td_kv_stats *out);

/* When ranks have died or come (tandem/recover.h): goes on in the new group. Ranks that joined call
 * td_kv_join, the others td_kv_move; collective together. Who has joined takes the place of a
 * server that is missing, else of a worker, at whose clock it goes on. Rows of which one copy is
 * left are used at once, and copied again behind; a server that has come then answers reads of them
 * from the next td_kv_import or td_kv_finish on, which wait for the last copy. TD_ERR_PEER: rows
 * are at no rank that is left, or another loss: to be moved again, also where a join has failed so
 * (*out is NULL else). The old group may be closed afterwards. */
TD_API TD_MUST_CHECK td_status td_kv_move(td_kv *kv, td_comm *comm);
TD_API TD_MUST_CHECK td_status td_kv_join(td_comm *comm, const td_kv_config *config, td_kv **out);

/* Collective: all pushes of all ranks are done behind it; nothing can be asked for any more. */
TD_API TD_MUST_CHECK td_status td_kv_finish(td_kv *kv);
TD_API void td_kv_destroy(td_kv *kv); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
