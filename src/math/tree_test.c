/* The tree sum's one promise: however the leaves are dealt out, the same bits. */
#include "math/tree.h"

#include "base/rng.h"
#include "base/test.h"

enum { MOST = 40, N = 1500 };

/* The definition, by recursion over [begin, begin + 2^level). */
static void reference(int leaves, int begin, int level, float leaf[][N], float *out)
{
    if (level == 0) {
        memcpy(out, leaf[begin], N * sizeof *out);
        return;
    }
    float right[N];
    int middle = begin + (1 << (level - 1));
    reference(leaves, begin, level - 1, leaf, out);
    if (middle >= leaves) return;
    reference(leaves, middle, level - 1, leaf, right);
    for (int i = 0; i < N; i++) out[i] += right[i];
}

static void any_dealing_gives_the_same_bits(void **state)
{
    (void)state;
    static float leaf[MOST][N], nodes[64][N], want[N], got[N];
    td_rng rng;
    td_rng_init(&rng, 1, TD_RNG_TEST, 0, 0);
    for (int l = 0; l < MOST; l++)
        for (int i = 0; i < N; i++) leaf[l][i] = td_rng_normal(&rng);
    for (int leaves = 1; leaves <= MOST; leaves++) {
        int top = 0;
        while (1 << top < leaves) top++;
        reference(leaves, 0, top, leaf, want);
        for (int ranks = 1; ranks <= leaves && ranks <= 9; ranks++) {
            td_tree_node id[64];
            int count = 0, merges[64];
            for (int r = 0; r < ranks; r++) {
                int begin = leaves * r / ranks, end = leaves * (r + 1) / ranks, own[MOST];
                const float *parts[MOST];
                float *outs[64];
                int n = td_tree_nodes(leaves, begin, end, id + count);
                for (int k = 0; k < n; k++) outs[k] = nodes[count + k];
                for (int l = begin; l < end; l++) parts[l - begin] = leaf[l];
                td_tree_merges(leaves, begin, end, own);
                td_tree_fold_to(parts, own, end - begin, 0, N, outs);
                count += n;
            }
            const float *parts[64];
            for (int k = 0; k < count; k++) parts[k] = nodes[k];
            assert_int_equal(td_tree_merge_nodes(leaves, id, count, merges, NULL), 1);
            memset(got, 255, sizeof got);
            td_tree_fold(parts, merges, count, 0, 700, got);
            td_tree_fold(parts, merges, count, 700, N, got);
            assert_memory_equal(got, want, sizeof got);
        }
    }
}

static void doubles_follow_the_same_tree(void **state)
{
    (void)state;
    const double v[] = {1e16, 1, 1, -1e16, 3};
    /* ((1e16 + 1) + (1 - 1e16)) + 3: each 1 is lost but for rounding */
    double want = ((v[0] + v[1]) + (v[2] + v[3])) + v[4];
    assert_true(td_tree_fold_doubles(v, 1, 5) == want);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_dealing_gives_the_same_bits),
        cmocka_unit_test(doubles_follow_the_same_tree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
