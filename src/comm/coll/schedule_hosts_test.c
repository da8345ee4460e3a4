/* Schedules over several hosts, simulated: the right result, in the right order, with hosts of
 * neighbours, of ranks dealt in turn and of unequal size, and exactly the messages and the bytes
 * that their files say. */
#include "comm/coll/schedule_trial_test.h"

enum { SHARED_WORD = 64 };

/* The cost function of these is NULL, as headers go along. */
static const schedule over_hosts[] = {
    {"hierarchical all-reduce", TD_ALLREDUCE, td_hierarchical_reduce, NULL, TREE},
    {"hierarchical exchange", TD_ALLREDUCE, td_hierarchical_exchange, NULL, TREE},
    {"hierarchical reduce", TD_REDUCE, td_hierarchical_reduce, NULL, TREE},
    {"hierarchical broadcast", TD_BROADCAST, td_hierarchical_broadcast, NULL},
    {"hierarchical all-gather", TD_ALLGATHER, td_hierarchical_allgather, NULL},
    {"hierarchical reduce-scatter", TD_REDUCE_SCATTER, td_hierarchical_reduce_scatter, NULL, TREE},
};
enum { OVER_HOSTS = sizeof over_hosts / sizeof *over_hosts };

/* Hosts that hold as many ranks each, and how a vector is cut between them. */
typedef struct layout {
    int hosts, ranks; /* of a host */
    bool dealt;       /* ranks, one to each host in turn; or else they are neighbours */
    int nodes;        /* of the tree that a host's ranks make */
    int channels, blocks;
    bool along; /* what is sent of each host's first node is short: it goes with the headers */
} layout;

static cost between_hosts(const schedule *which, const layout *l, uint64_t bytes)
{
    uint64_t h = (uint64_t)l->hosts, one = h - 1, all = h * one, k = (uint64_t)l->nodes;
    uint64_t channels = (uint64_t)l->channels, each = channels * (uint64_t)l->blocks;
    uint64_t along = l->along ? channels * all : 0;
    if (which->run == td_hierarchical_exchange)
        return (cost){each * all * k - along, bytes * all * k, 0};
    switch (which->pattern) {
    case TD_ALLREDUCE: return (cost){each * all * (k + 1) - along, bytes * one * (k + 1), 0};
    case TD_REDUCE:
        return (cost){each * (all * k + one) - along, bytes * one * k + bytes / h * one, 0};
    case TD_BROADCAST: return (cost){each * one, bytes * one, 0};
    case TD_ALLGATHER: return (cost){each * all, h * (uint64_t)l->ranks * bytes * one, 0};
    default: return (cost){each * all * k, bytes * one * k, 0};
    }
}

static void check_hosts(const schedule *which, const layout *l, size_t count)
{
    int host[MOST_RANKS], n = l->hosts * l->ranks;
    trial t = {.schedule = which, .root = n / 2, .count = count};
    td_simulation sim = {.host = host, .latency = 1};
    for (int r = 0; r < n; r++) host[r] = l->dealt ? r % l->hosts : r / l->ranks;
    simulate(&t, n, &sim);
    cost want = between_hosts(which, l, t.count * 4);
    uint64_t one = (uint64_t)(l->hosts - 1), hellos = one * (uint64_t)l->channels;
    if (which->pattern != TD_BROADCAST) hellos *= (uint64_t)l->hosts;
    want.messages += hellos, want.bytes += hellos * TD_HELLO_BYTES;
    uint64_t others = (uint64_t)(n - l->hosts); /* are told of their host's shared memory */
    want.messages += others, want.bytes += others * SHARED_WORD;
    if (sim.messages != want.messages || sim.bytes != want.bytes)
        fail_msg("%s of %zu bytes, %d ranks%s on %d hosts: %llu messages, %llu bytes; %llu and "
                 "%llu are right",
                 which->name, t.count * 4, n, l->dealt ? " dealt" : "", l->hosts,
                 (unsigned long long)sim.messages, (unsigned long long)sim.bytes,
                 (unsigned long long)want.messages, (unsigned long long)want.bytes);
}

/* Of one block over one channel. A host's neighbours are one node where they are a power of two,
 * and three are two; ranks that are dealt are one each. */
static void hosts_send_what_they_say(void **state)
{
    (void)state;
    int most = getenv("TANDEM_TEST_SHORT") ? 8 : MOST_RANKS;
    for (int h = 2; h <= 4; h++)
        for (int n = h; n <= most; n += h)
            for (int dealt = 0; dealt < (n <= 16 ? 2 : 1); dealt++)
                for (size_t k = 0; k < OVER_HOSTS; k++) {
                    const schedule *which = &over_hosts[k];
                    layout l = {h, n / h, dealt, dealt ? n / h : 1, 1, 1, true};
                    if (!dealt && l.ranks == 3) l.nodes = 2;
                    if (which->order && l.nodes == 1 && l.ranks & (l.ranks - 1)) continue;
                    int each = which->pattern == TD_ALLGATHER ? 1 : n; /* so that cuts are even */
                    check_hosts(which, &l, (size_t)(16 * h * each));
                }
}

/* Over as many channels as a host has ranks; short pieces in one block, and the longest in several.
 */
static void longer_vectors_go_over_all_channels(void **state)
{
    enum { SHORT = 8 << 10, LONG = 48 << 10, COLUMN = LONG - 128, BLOCKS = 4 };
    static const layout layouts[] = {{3, 3, false, 2},
                                     {2, 3, true, 3},
                                     {2, 4, false, 1},
                                     {4, 2, false, 1}};
    (void)state;
    for (int i = 0; i < (getenv("TANDEM_TEST_SHORT") ? 2 : 4); i++)
        for (size_t k = 0; k < OVER_HOSTS; k++) {
            const schedule *which = &over_hosts[k];
            layout l = layouts[i];
            int n = l.hosts * l.ranks, each = which->pattern == TD_ALLGATHER ? 1 : n;
            bool columns = each == 1 || which->pattern == TD_REDUCE_SCATTER;
            l.channels = l.ranks, l.blocks = 1, l.along = true;
            check_hosts(which, &l, (size_t)(each * SHORT / 4));
            if (which->run == td_hierarchical_exchange) continue;
            l.blocks = which->pattern == TD_BROADCAST ? BLOCKS * l.hosts : BLOCKS, l.along = false;
            check_hosts(which, &l, (size_t)(BLOCKS * each * (columns ? COLUMN : LONG) / 4));
        }
}

/* Hosts of several ranks, adjacent, dealt in turn and of unequal size. */
static void check_layouts(const schedule *which, int n, int root, int late, size_t count)
{
    int host[MOST_RANKS];
    for (int dealt = 0; dealt < 3; dealt++) {
        for (int r = 0; r < n; r++)
            host[r] = dealt == 0 ? 3 * r / n : dealt == 1 ? r % 3 : r < n / 4 ? 0 : 1 + r % 2;
        trial t = {.schedule = which, .root = root % n, .late = late, .count = count};
        td_simulation sim = {.host = host, .latency = 1};
        simulate(&t, n, &sim);
    }
}

static void schedules_over_hosts_are_right(void **state)
{
    (void)state;
    int most = getenv("TANDEM_TEST_SHORT") ? 10 : MOST_RANKS;
    for (int n = 2; n <= most; n++)
        for (size_t k = 0; k < OVER_HOSTS; k++)
            check_layouts(&over_hosts[k], n, n * 5 + (int)k, 0,
                          (size_t)((n > 24 ? 1 : n) * n * 40));
}

/* In more blocks than are under way at once, the last one of which is another length; and one rank
 * comes late. */
static void long_vectors_over_hosts_are_right(void **state)
{
    static const int sizes[] = {3, 5, 8};
    (void)state;
    for (int i = 0; i < (getenv("TANDEM_TEST_SHORT") ? 2 : 3); i++)
        for (size_t k = 0; k < OVER_HOSTS; k++) {
            const schedule *which = &over_hosts[k];
            int late = 1 + i;
            size_t n = (size_t)sizes[i], count = 400009;
            if (which->pattern == TD_ALLGATHER) count /= n;
            if (which->pattern == TD_REDUCE_SCATTER) count -= count % n;
            if (which->run != td_hierarchical_exchange)
                check_layouts(which, sizes[i], (int)k, late, count);
        }
}

/* --- wide elements, of which a slice cannot be cut as finely as it should --- */

enum { WORDS = 512 };

static void add_words(void *into, const void *from, size_t count, void *user)
{
    size_t width = *(const size_t *)user;
    int32_t *a = into;
    const int32_t *b = from;
    for (size_t i = 0; i < count * width / 4; i++) a[i] += b[i];
}

typedef struct wide {
    size_t width, each; /* bytes; elements of a rank's part */
} wide;

static td_status scatter_wide(td_comm *comm, void *arg)
{
    wide *w = arg;
    int n = td_comm_size(comm), me = td_comm_rank(comm);
    size_t part = w->each * w->width / 4, parts[MOST_RANKS];
    int32_t *in = td_calloc(part * (size_t)n, 4), *out = td_calloc(part, 4);
    td_reduction how = {.width = w->width, .combine = add_words, .user = &w->width};
    td_call call = {.pattern = TD_REDUCE_SCATTER,
                    .in = in,
                    .out = out,
                    .bytes = part * (size_t)n * 4,
                    .parts = parts,
                    .unit = w->width,
                    .how = how,
                    .count = w->each * (size_t)n};
    td_status status = in && out ? TD_OK : td_fail(TD_ERR_NOMEM, "no memory for a trial");
    for (int r = 0; r < n; r++) parts[r] = w->each;
    for (size_t i = 0; i < part * (size_t)n; i++) in[i] = element(me, i);
    if (status == TD_OK) status = td_greeting_begin(comm);
    if (status == TD_OK) status = td_hierarchical_reduce_scatter(comm, &call);
    for (size_t i = 0; i < part && status == TD_OK; i++) {
        int32_t want = 0;
        for (int r = 0; r < n; r++) want += element(r, (size_t)me * part + i);
        if (out[i] != want)
            status = td_fail(TD_ERR_INTERNAL, "rank %d of %d has %d at %zu, not %d", me, n, out[i],
                             i, want);
    }
    td_free(in), td_free(out);
    return status;
}

static void wide_elements_fit_their_rooms(void **state)
{
    (void)state;
    static const int sizes[][3] = {{40, 1, 1}, {2, 2, 2}, {3, 2, 1}, {9, 2, 2}, {17, 3, 4}};
    int host[MOST_RANKS];
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (size_t width = 4 * WORDS; width > 64; width = k ? width * 5 / 8 / 4 * 4 : 0)
            for (size_t bytes = 2048; bytes <= (k ? 32768 : 2048); bytes *= 4) {
                int n = 0;
                for (int h = 0; h < 3; h++)
                    for (int r = 0; r < sizes[k][h]; r++) host[n++] = h;
                wide w = {width, (bytes + width - 1) / width};
                td_simulation sim = {.host = host, .latency = 1};
                assert_ok(td_comm_simulate(n, &sim, scatter_wide, &w));
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hosts_send_what_they_say),
        cmocka_unit_test(longer_vectors_go_over_all_channels),
        cmocka_unit_test(schedules_over_hosts_are_right),
        cmocka_unit_test(long_vectors_over_hosts_are_right),
        cmocka_unit_test(wide_elements_fit_their_rooms),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
