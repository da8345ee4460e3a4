/* Synchronous data parallelism: every worker computes its leaves' gradients, the tree sum adds
 * them, every worker makes the same update, or its part of it.
 *
 * The parameter array is cut into buckets from its end; a bucket is posted to the tree sum when all
 * lanes have passed it going backward, so that its reduction runs under the rest of the backward
 * pass. Parts of an accumulated batch are reduced one by one and added in order: the sum does not
 * depend on how many workers there are. */
#include "strategy/strategy.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/pool.h"
#include "comm/transport.h"
#include "comm/treesum.h"
#include "math/kernels.h"
#include "strategy/mishap.h"
#include "strategy/slow.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { LEAF_STOP = TD_LEAF_VALUES, LEAF_CHECKPOINT, LEAF_WRITING, LEAF_RESIZE, LEAF_WIDTH };

typedef struct lane {
    td_strategy *strategy;
    int begin, end; /* leaves of the batch */
    size_t *leaf_row;
    int *merges;
    float **nodes;
    atomic_size_t ready; /* params from here on are done */
} lane;

struct td_strategy {
    td_comm *comm;
    td_oracle oracle;
    td_strategy_config config;
    td_pool *pool;
    td_treesum *sum;
    td_shards *shards;
    lane *lanes;
    int leaf_begin, leaf_end;
    size_t *bounds;        /* [bound_count], descending, the last 0: where buckets begin */
    int bound_count, next; /* bucket to be posted next */
    int parts;             /* added in this step */
    float *total;          /* [params], where there are several parts */
    td_totals totals;
    const float *params; /* of the add under way */
    const td_rows *rows;
    td_notes notes;
    const float *gradient; /* of the last update, while it was the last thing done */
    float scale;
    int64_t compute_ns, update_ns;
    int64_t wait_ns, move_ns; /* of tree sums that have gone */
    td_slow slow;
    const char *mishaps;
};

static td_status create_lanes(td_strategy *s)
{
    s->lanes = td_calloc((size_t)s->config.lanes, sizeof *s->lanes);
    if (!s->lanes) return td_fail(TD_ERR_NOMEM, "no memory for %d threads", s->config.lanes);
    for (int i = 0; i < s->config.lanes; i++) {
        lane *l = &s->lanes[i];
        l->strategy = s;
        td_treesum_lane_leaves(s->sum, i, &l->begin, &l->end);
        size_t leaves = (size_t)(l->end - l->begin);
        int nodes = td_treesum_nodes(s->sum, i);
        l->leaf_row = td_calloc(leaves + 1, sizeof *l->leaf_row);
        l->merges = td_calloc(leaves + 1, sizeof *l->merges);
        l->nodes = td_calloc((size_t)nodes + 1, sizeof *l->nodes);
        if (!l->leaf_row || !l->merges || !l->nodes)
            return td_fail(TD_ERR_NOMEM, "no memory for %d threads", s->config.lanes);
        td_tree_merges(s->config.leaves, l->begin, l->end, l->merges);
        for (int k = 0; k < nodes; k++) l->nodes[k] = td_treesum_node(s->sum, i, k);
    }
    return TD_OK;
}

/* Buckets begin at slots. They must not depend on who is ready when: all ranks post the same. */
static td_status cut_buckets(td_strategy *s)
{
    size_t bytes = s->config.bucket_bytes ? s->config.bucket_bytes : 1 << 20;
    size_t end = s->oracle.params, least = bytes / sizeof(float);
    s->bounds = td_calloc(s->oracle.slot_count + 1, sizeof *s->bounds);
    if (!s->bounds) return td_fail(TD_ERR_NOMEM, "no memory for the strategy");
    for (size_t i = s->oracle.slot_count; i-- > 1;) {
        size_t begin = s->oracle.slots[i].offset;
        if (end - begin >= least) end = s->bounds[s->bound_count++] = begin;
    }
    s->bounds[s->bound_count++] = 0;
    return TD_OK;
}

static void destroy_lanes(td_strategy *s)
{
    for (int i = 0; s->lanes && i < s->config.lanes; i++) {
        td_free(s->lanes[i].leaf_row);
        td_free(s->lanes[i].merges);
        td_free(s->lanes[i].nodes);
    }
    td_free(s->lanes);
    s->lanes = NULL;
}

static void destroy_sum(td_strategy *s)
{
    if (!s->sum) return;
    td_treesum_times times = td_treesum_get_times(s->sum);
    s->wait_ns += times.wait_ns, s->move_ns += times.move_ns;
    td_treesum_destroy(s->sum);
    s->sum = NULL;
}

td_status td_strategy_deal(td_strategy *s, td_comm *comm, const int *bounds)
{
    td_treesum_config config = {.leaves = s->config.leaves,
                                .lanes = s->config.lanes,
                                .count = s->oracle.params,
                                .leaf_values = LEAF_WIDTH,
                                .most_ranges = (int)s->oracle.slot_count + 1,
                                .bounds = bounds};
    int unused;
    destroy_lanes(s);
    destroy_sum(s);
    s->comm = comm;
    s->parts = 0;
    s->mishaps = td_mishaps();
    TD_TRY(td_treesum_create(comm, &config, &s->sum));
    td_treesum_lane_leaves(s->sum, 0, &s->leaf_begin, &unused);
    td_treesum_lane_leaves(s->sum, s->config.lanes - 1, &unused, &s->leaf_end);
    s->slow = td_slow_read(td_comm_rank(s->comm), s->leaf_end - s->leaf_begin);
    return create_lanes(s);
}

td_status td_allreduce_create(td_comm *comm, const td_oracle *oracle,
                              const td_strategy_config *config, td_strategy **out)
{
    td_status status = TD_OK;
    td_strategy *s = td_calloc(1, sizeof *s);
    if (!s) return td_fail(TD_ERR_NOMEM, "no memory for the strategy");
    s->oracle = *oracle;
    s->config = *config;
    TD_GOTO(td_strategy_deal(s, comm, NULL));
    TD_GOTO(td_pool_create(config->lanes, &s->pool));
    TD_GOTO(cut_buckets(s));
    td_shards_config shards = {.optim = config->optim,
                               .slots = oracle->slots,
                               .slot_count = oracle->slot_count,
                               .params = oracle->params,
                               .sharded = config->shard_optimizer,
                               .empty = config->empty,
                               .size = td_comm_size(comm),
                               .rank = td_comm_rank(comm)};
    TD_GOTO(td_shards_create(&shards, &s->shards));
    *out = s;
    return TD_OK;
out:
    td_strategy_destroy(s);
    return status;
}

void td_strategy_destroy(td_strategy *s)
{
    if (!s) return;
    td_shards_destroy(s->shards);
    destroy_lanes(s);
    td_pool_destroy(s->pool);
    destroy_sum(s);
    td_free(s->bounds);
    td_free(s->total);
    td_free(s);
}

void td_strategy_leaves(const td_strategy *s, int *begin, int *end)
{
    *begin = s->leaf_begin;
    *end = s->leaf_end;
}

td_shards *td_strategy_shards(td_strategy *s)
{
    return s->shards;
}

/* --- one part of a batch --- */

/* What all lanes have passed. */
static size_t all_ready(const td_strategy *s)
{
    size_t ready = 0;
    for (int i = 0; i < s->config.lanes; i++) {
        size_t own = atomic_load_explicit(&s->lanes[i].ready, memory_order_acquire);
        if (own > ready) ready = own;
    }
    return ready;
}

/* Posts the buckets that all lanes have passed. */
static td_status post_ready(td_strategy *s)
{
    for (size_t ready = all_ready(s); s->next < s->bound_count && ready <= s->bounds[s->next];
         s->next++)
        TD_TRY(td_treesum_post(s->sum, s->bounds[s->next],
                               s->next ? s->bounds[s->next - 1] : s->oracle.params));
    return TD_OK;
}

/* Called by each lane between layers; lane 0 speaks to the tree sum. Leaf values are not written
 * yet, so the last bucket waits for add. */
static void on_ready(void *user, size_t lo, size_t hi)
{
    (void)hi;
    lane *l = user;
    td_strategy *s = l->strategy;
    if (lo == 0) return;
    atomic_store_explicit(&l->ready, lo, memory_order_release);
    if (l != s->lanes) return;
    if (td_mishap(s->mishaps, s->comm, s->rows->step, "backward") != TD_OK) return;
    /* A failure here is met again, and told, by the wait. */
    if (post_ready(s) == TD_OK && td_treesum_progress(s->sum) != TD_OK) return;
}

static td_status run_lane(void *arg, int index)
{
    td_strategy *s = arg;
    lane *l = &s->lanes[index];
    const td_rows *rows = s->rows;
    int first = l->begin - s->leaf_begin, leaves = l->end - l->begin;
    double values[TD_TREE_MAX_LEAVES * TD_LEAF_VALUES];
    if (leaves == 0) {
        atomic_store_explicit(&l->ready, 0, memory_order_release);
        return TD_OK;
    }
    size_t begin = rows->leaf_row[first];
    for (int k = 0; k <= leaves; k++) l->leaf_row[k] = rows->leaf_row[first + k] - begin;
    td_net_pass pass = {
        .params = s->params,
        .rows = l->leaf_row[leaves],
        .x = rows->x + begin * rows->features,
        .label = rows->label ? rows->label + begin : NULL,
        .target = rows->target ? rows->target + begin : NULL,
        .weight = rows->weight ? rows->weight + begin : NULL,
        .sample = rows->sample ? rows->sample + begin : NULL,
        .seed = s->config.seed,
        .epoch = rows->epoch,
        .leaves = leaves,
        .leaf_row = l->leaf_row,
        .merges = l->merges,
        .nodes = l->nodes,
        .leaf_values = values,
        .ready = on_ready,
        .user = l,
    };
    TD_TRY(s->oracle.gradient(s->oracle.self, index, &pass));
    for (int k = 0; k < leaves; k++) {
        double *to = td_treesum_leaf(s->sum, l->begin + k);
        memcpy(to, values + k * TD_LEAF_VALUES, TD_LEAF_VALUES * sizeof *to);
        to[LEAF_STOP] = s->notes.stop;
        to[LEAF_CHECKPOINT] = s->notes.checkpoint;
        to[LEAF_WRITING] = s->notes.writing;
        to[LEAF_RESIZE] = s->notes.resize;
    }
    atomic_store_explicit(&l->ready, 0, memory_order_release);
    return TD_OK;
}

/* Takes the tree sum's result over before the next part overwrites it. */
static td_status keep_part(td_strategy *s)
{
    size_t n = s->oracle.params;
    if (!s->total && !(s->total = td_alloc_aligned(n * sizeof(float))))
        return td_fail(TD_ERR_NOMEM, "no memory to accumulate gradients");
    if (s->parts == 1)
        memcpy(s->total, td_treesum_sum(s->sum), n * sizeof(float));
    else
        td_kernels_best()->add(n, s->total, td_treesum_sum(s->sum), s->total);
    return TD_OK;
}

static void add_totals(td_strategy *s)
{
    const double *sums = td_treesum_leaf_sums(s->sum);
    if (s->parts == 0) s->totals = (td_totals){0};
    s->totals.loss += sums[TD_LEAF_LOSS];
    s->totals.weight += sums[TD_LEAF_WEIGHT];
    s->totals.correct += sums[TD_LEAF_CORRECT];
    s->totals.any.stop |= sums[LEAF_STOP] > 0;
    s->totals.any.checkpoint |= sums[LEAF_CHECKPOINT] > 0;
    s->totals.any.writing |= sums[LEAF_WRITING] > 0;
    s->totals.any.resize |= sums[LEAF_RESIZE] > 0;
}

td_status td_strategy_add(td_strategy *s, const float *params, const td_rows *rows, td_notes notes)
{
    if (s->parts) TD_TRY(keep_part(s));
    s->params = params, s->rows = rows, s->notes = notes;
    s->next = 0;
    for (int i = 0; i < s->config.lanes; i++)
        atomic_store_explicit(&s->lanes[i].ready, s->oracle.params, memory_order_relaxed);
    int64_t begin = td_clock_ns(), moved = td_treesum_get_times(s->sum).move_ns,
            computed = td_clock_thread_ns();
    TD_TRY(td_pool_run(s->pool, run_lane, s));
    td_slow_down(&s->slow, td_clock_thread_ns() - computed);
    s->compute_ns += td_clock_ns() - begin - (td_treesum_get_times(s->sum).move_ns - moved);
    TD_TRY(td_mishap(s->mishaps, s->comm, rows->step, "backward"));
    TD_TRY(post_ready(s));
    TD_TRY(td_mishap(s->mishaps, s->comm, rows->step, "reduce"));
    TD_TRY(td_treesum_wait(s->sum));
    add_totals(s);
    s->parts++;
    return TD_OK;
}

td_status td_strategy_update(td_strategy *s, uint64_t step, float *params, td_totals *out)
{
    int64_t begin = td_clock_ns();
    if (s->parts > 1) TD_TRY(keep_part(s));
    s->gradient = s->parts > 1 ? s->total : td_treesum_sum(s->sum);
    s->scale = s->totals.weight > 0 ? (float)(1 / s->totals.weight) : 0;
    *out = s->totals;
    s->parts = 0;
    td_shards_step(s->shards, step, s->gradient, s->scale, params);
    s->update_ns += td_clock_ns() - begin;
    return TD_OK;
}

td_status td_strategy_share(td_strategy *s, float *params)
{
    int64_t begin = td_clock_ns();
    TD_TRY(td_shards_share(s->shards, s->comm, params));
    s->move_ns += td_clock_ns() - begin;
    return TD_OK;
}

/* --- after a loss --- */

/* Among the donor, rank 0, and those behind it. All that comes is there before any of it counts. */
static td_status make_missing_step(td_strategy *s, td_comm *few, uint64_t step, float *params,
                                   void *mark, size_t bytes)
{
    size_t n = s->oracle.params;
    bool donor = td_comm_rank(few) == 0;
    void *newer = td_malloc(bytes);
    if (!donor && !s->total) s->total = td_alloc_aligned(n * sizeof(float));
    td_status status =
        newer && (donor || s->total)
            ? TD_OK
            : td_fail(TD_ERR_NOMEM, "no memory to make a step that others have made");
    status = td_comm_agree(few, status);
    if (status == TD_OK && donor) memcpy(newer, mark, bytes);
    if (status == TD_OK) status = td_comm_broadcast(few, newer, bytes, 0);
    if (status == TD_OK) status = td_comm_broadcast(few, &s->scale, sizeof s->scale, 0);
    if (status == TD_OK) {
        float *gradient = donor ? (float *)(uintptr_t)s->gradient : s->total; /* only read there */
        status = td_comm_broadcast(few, gradient, n * sizeof(float), 0);
    }
    if (status == TD_OK && !donor) {
        s->gradient = s->total;
        td_shards_step(s->shards, step, s->gradient, s->scale, params);
        memcpy(mark, newer, bytes);
    }
    if (status != TD_OK && few->adrift && !donor) s->total = NULL; /* more may come there */
    td_free(newer);
    return status;
}

td_status td_strategy_catch_up(td_strategy *s, td_comm *comm, float *params, void *mark,
                               size_t bytes)
{
    int size = td_comm_size(comm), rank = td_comm_rank(comm), donor = -1;
    int64_t made = s ? td_shards_made(s->shards) : -1, newest = -1;
    bool some = false;
    td_comm *few = NULL;
    int64_t *all = td_calloc((size_t)size, sizeof *all);
    td_status status = all ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory to recover");
    status = td_comm_agree(comm, status);
    if (status == TD_OK) status = td_comm_allgather(comm, &made, sizeof made, all);
    for (int r = size - 1; r >= 0 && status == TD_OK; r--)
        if (all[r] >= newest) newest = all[r], donor = r;
    for (int r = 0; r < size && status == TD_OK; r++) some |= all[r] >= 0 && all[r] < newest;
    td_free(all);
    if (status != TD_OK || !some) return status;
    bool behind = made >= 0 && made < newest, in = behind || rank == donor;
    TD_TRY(td_comm_split(comm, in ? 0 : -1, behind, &few));
    if (in) status = make_missing_step(s, few, (uint64_t)newest - 1, params, mark, bytes);
    if (status == TD_ERR_NOMEM && td_comm_agreement(few).alike &&
        td_comm_agreement(few).mine == TD_OK)
        status = td_fail(TD_ERR_PEER, "a rank that is a step behind lacks memory");
    td_comm_close(few);
    return td_comm_agree(comm, status);
}

td_step_times td_strategy_times(const td_strategy *s)
{
    td_treesum_times t = td_treesum_get_times(s->sum);
    return (td_step_times){td_seconds(s->compute_ns), td_seconds(s->wait_ns + t.wait_ns),
                           td_seconds(s->move_ns + t.move_ns), td_seconds(s->update_ns)};
}
