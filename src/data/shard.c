/* The shard plan: which sample stands where in which batch, as pure functions.
 *
 * Global and none: position p of an epoch is sample order(p); batch s is the positions
 * [s*B, (s+1)*B) and leaf l their part [l*n/L, (l+1)*n/L).
 *
 * Leaf: the data set is cut into L parts, and leaf l walks its own part with the stride of its
 * share of a batch, so batches are full until the parts run out. Every sample comes once. */
#include "tandem/data.h"

#include "base/error.h"
#include "base/rng.h"

const char *const td_shuffle_names[] = {"global", "leaf", "none", NULL};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static uint64_t part_size(uint64_t n, uint64_t parts, uint64_t part)
{
    return td_cut(n, parts, part + 1) - td_cut(n, parts, part);
}

td_status td_shard_check(const td_shard_plan *plan)
{
    if (plan->samples == 0) return td_fail(TD_ERR_ARG, "a data set without samples has no batches");
    if (plan->samples >> 40 || plan->batch >> 40)
        return td_fail(TD_ERR_ARG, "more than 2^40 samples in a data set or a batch");
    if (plan->batch == 0) return td_fail(TD_ERR_ARG, "a batch needs at least 1 row");
    if (plan->leaves < 1 || plan->leaves > 1 << 20)
        return td_fail(TD_ERR_ARG, "a batch is cut into 1 to 1048576 leaves, not %d", plan->leaves);
    if ((unsigned)plan->shuffle > TD_SHUFFLE_NONE)
        return td_fail(TD_ERR_ARG, "shuffle mode %d does not exist", (int)plan->shuffle);
    if (plan->shuffle == TD_SHUFFLE_LEAF && plan->batch < (uint64_t)plan->leaves)
        return td_fail(TD_ERR_ARG,
                       "shuffling by leaf needs a batch of at least %d rows, one for each leaf, "
                       "not %llu",
                       plan->leaves, (unsigned long long)plan->batch);
    if (td_shard_steps(plan) == 0)
        return td_fail(TD_ERR_ARG,
                       "%llu samples give no full batch of %llu rows, and partial ones are dropped",
                       (unsigned long long)plan->samples, (unsigned long long)plan->batch);
    return TD_OK;
}

uint64_t td_shard_steps(const td_shard_plan *plan)
{
    uint64_t n = plan->samples, batch = plan->batch, leaves = (uint64_t)plan->leaves;
    if (plan->shuffle != TD_SHUFFLE_LEAF)
        return plan->drop_last ? n / batch : (n + batch - 1) / batch;
    uint64_t most = 0, fewest = UINT64_MAX;
    for (uint64_t l = 0; l < leaves; l++) {
        uint64_t part = part_size(n, leaves, l), stride = part_size(batch, leaves, l);
        uint64_t up = (part + stride - 1) / stride;
        most = up > most ? up : most;
        fewest = least(fewest, part / stride);
    }
    return plan->drop_last ? fewest : most;
}

/* Positions [*begin, *end) of a leaf in a step: of the epoch, or of the leaf's own part. */
static void leaf_span(const td_shard_plan *plan, uint64_t step, int leaf, uint64_t *begin,
                      uint64_t *end)
{
    uint64_t leaves = (uint64_t)plan->leaves, l = (uint64_t)leaf;
    if (plan->shuffle == TD_SHUFFLE_LEAF) {
        uint64_t part = part_size(plan->samples, leaves, l);
        uint64_t stride = part_size(plan->batch, leaves, l);
        *begin = least(step * stride, part);
        *end = least(*begin + stride, part);
        return;
    }
    uint64_t first = least(step * plan->batch, plan->samples);
    uint64_t rows = least(plan->batch, plan->samples - first);
    *begin = first + td_cut(rows, leaves, l);
    *end = first + td_cut(rows, leaves, l + 1);
}

size_t td_shard_leaf_rows(const td_shard_plan *plan, uint64_t step, int leaf)
{
    uint64_t begin, end;
    leaf_span(plan, step, leaf, &begin, &end);
    return (size_t)(end - begin);
}

size_t td_shard_batch_rows(const td_shard_plan *plan, uint64_t step)
{
    if (plan->shuffle != TD_SHUFFLE_LEAF) {
        uint64_t first = least(step * plan->batch, plan->samples);
        return (size_t)least(plan->batch, plan->samples - first);
    }
    size_t rows = 0;
    for (int l = 0; l < plan->leaves; l++) rows += td_shard_leaf_rows(plan, step, l);
    return rows;
}

void td_shard_leaf(const td_shard_plan *plan, uint64_t epoch, uint64_t step, int leaf,
                   uint64_t *sample)
{
    uint64_t begin, end, base = 0, domain = plan->samples, stream = 0;
    leaf_span(plan, step, leaf, &begin, &end);
    if (plan->shuffle == TD_SHUFFLE_LEAF) {
        uint64_t leaves = (uint64_t)plan->leaves, l = (uint64_t)leaf;
        base = td_cut(plan->samples, leaves, l);
        domain = part_size(plan->samples, leaves, l);
        stream = l + 1;
    }
    if (plan->shuffle == TD_SHUFFLE_NONE) {
        for (uint64_t p = begin; p < end; p++) *sample++ = p;
        return;
    }
    if (domain == 0) return;
    td_permutation permutation;
    td_permutation_init(&permutation, domain, plan->seed, epoch, stream);
    for (uint64_t p = begin; p < end; p++) *sample++ = base + td_permutation_at(&permutation, p);
}
