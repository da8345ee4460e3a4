/* Push and pull of keyed parts: see ranks_test.h. The oracle is a table that every rank keeps by
 * itself; values are whole numbers, so that sums do not depend on their order. */
#include "comm/ranks_test.h"

#include "base/clock.h"
#include "base/rng.h"
#include "tandem/keyed.h"

enum { KEYS = 300 };

/* --- a server's table: parts of any size, a push adds --- */

typedef struct table {
    double *part[KEYS];
    size_t values[KEYS];
    int asked;
    bool out_of_order;
} table;

static td_status serve(void *user, const td_keyed_request *q)
{
    table *t = user;
    const char *in = q->in;
    char *out = q->out;
    t->asked++;
    size_t all = 0;
    for (size_t i = 0; i < q->count; i++) {
        size_t bytes = q->sizes ? q->sizes[i] : 16, n = bytes / sizeof(double);
        if (q->keys[i] >= KEYS)
            return td_fail(TD_ERR_ARG, "key %llu is not in the table",
                           (unsigned long long)q->keys[i]);
        double **part = &t->part[q->keys[i]];
        if (!*part) *part = td_calloc(n + 1, sizeof **part), t->values[q->keys[i]] = n;
        if (t->values[q->keys[i]] != n) return td_fail(TD_ERR_ARG, "another size than before");
        for (size_t v = 0; v < n; v++) {
            double d;
            if (q->does & TD_PUSH) memcpy(&d, in + all + v * sizeof d, sizeof d), (*part)[v] += d;
            if (q->does & TD_PULL) memcpy(out + all + v * sizeof d, &(*part)[v], sizeof d);
        }
        all += bytes;
    }
    return all == q->bytes ? TD_OK : td_fail(TD_ERR_INTERNAL, "the parts are not the bytes");
}

static void table_free(table *t)
{
    for (int k = 0; k < KEYS; k++) td_free(t->part[k]);
}

static int by_range(void *user, uint64_t key, int servers)
{
    (void)user;
    return key < KEYS ? (int)(key * (uint64_t)servers / KEYS) : 0;
}

/* Parts of key k have k % most values; bigger ones are sent apart. */
typedef struct layout {
    size_t most; /* 0: all of 2 values */
    bool range, one_server, some_servers;
    size_t keys; /* of a request */
} layout;

static size_t values_of(const layout *l, uint64_t key)
{
    return l->most ? key % l->most : 2;
}

/* What rank r pushes in a round. Returns values in all. */
static size_t make_push(const layout *l, int r, int round, uint64_t *keys, size_t *sizes,
                        double *in)
{
    td_rng rng;
    size_t n = 0;
    td_rng_init(&rng, 5, TD_RNG_TEST, (uint64_t)r, (uint64_t)round);
    uint64_t begin = td_rng_u32(&rng) % KEYS;
    for (size_t i = 0; i < l->keys; i++) {
        keys[i] = l->range ? (begin + i) % KEYS : td_rng_u32(&rng) % KEYS;
        size_t values = values_of(l, keys[i]);
        sizes[i] = values * sizeof(double);
        for (size_t v = 0; v < values; v++) in[n++] = (double)(td_rng_u32(&rng) % 1000);
    }
    return n;
}

static td_status open_table(td_comm *c, const layout *l, table *t, td_keyed **out)
{
    int size = td_comm_size(c), one[] = {size - 1}, some[] = {size / 2, 0};
    td_keyed_config config = {.width = 16, .serve = serve, .user = t};
    if (l->range) config.owner = by_range;
    if (l->one_server) config.servers = one, config.server_count = 1;
    if (l->some_servers && size > 1) config.servers = some, config.server_count = 2;
    return td_keyed_open(c, &config, out);
}

static td_status pushes_add_up(td_comm *c, void *arg)
{
    const layout *l = arg;
    enum { ROUNDS = 4 };
    int size = td_comm_size(c);
    table mine = {0};
    td_keyed *keyed;
    size_t room = l->keys * (l->most ? l->most : 2) + 1;
    uint64_t *keys = td_calloc(KEYS + l->keys, sizeof *keys);
    size_t *sizes = td_calloc(KEYS + l->keys, sizeof *sizes);
    double *in = td_calloc(room, sizeof *in), *want[KEYS], *got;
    for (int k = 0; k < KEYS; k++)
        want[k] = td_calloc(values_of(l, (uint64_t)k) + 1, sizeof(double));
    TD_TRY(open_table(c, l, &mine, &keyed));
    for (int round = 0; round < ROUNDS; round++) {
        make_push(l, td_comm_rank(c), round, keys, sizes, in);
        td_parts parts = {keys, l->keys, l->most ? sizes : NULL, in, NULL};
        TD_TRY(td_keyed_push(keyed, &parts));
    }
    TD_TRY(td_comm_barrier(c));
    for (int r = 0; r < size; r++)
        for (int round = 0; round < ROUNDS; round++) {
            make_push(l, r, round, keys, sizes, in);
            for (size_t i = 0, at = 0; i < l->keys; at += sizes[i++] / sizeof(double))
                for (size_t v = 0; v < sizes[i] / sizeof(double); v++)
                    want[keys[i]][v] += in[at + v];
        }
    size_t all = 0, at = 0;
    for (size_t k = 0; k < KEYS; k++) {
        keys[k] = (k * 7) % KEYS; /* every key once, in another order */
        sizes[k] = values_of(l, keys[k]) * sizeof(double);
        all += sizes[k];
    }
    got = td_malloc(all + 1);
    memset(got, 255, all);
    td_parts parts = {keys, KEYS, l->most ? sizes : NULL, NULL, got};
    TD_TRY(td_keyed_pull(keyed, &parts));
    for (size_t k = 0; k < KEYS; at += sizes[k++] / sizeof(double))
        CHECK(!memcmp(got + at, want[keys[k]], sizes[k]));
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    for (int k = 0; k < KEYS; k++) td_free(want[k]);
    td_free(keys), td_free(sizes), td_free(in), td_free(got);
    table_free(&mine);
    return TD_OK;
}

static void pushes_of_all_ranks_add_up(void **state)
{
    (void)state;
    layout layouts[] = {{.keys = 100},
                        {.keys = 1, .range = true},
                        {.keys = KEYS, .range = true},
                        {.keys = 57, .one_server = true},
                        {.keys = 40, .most = 13, .some_servers = true},
                        {.keys = 80, .most = 400},
                        {.keys = 280, .most = 300, .range = true, .one_server = true}};
    for (size_t k = 0; k < sizeof layouts / sizeof *layouts; k++)
        on_all_sizes(pushes_add_up, &layouts[k]);
}

/* --- order, several at once, push and pull in one --- */

static td_status in_flight(td_comm *c, void *arg)
{
    (void)arg;
    enum { N = 24, EACH = 60 };
    table mine = {0};
    td_keyed *keyed;
    layout l = {.keys = EACH};
    uint64_t keys[EACH], ticket[2 * N];
    int rank = td_comm_rank(c), size = td_comm_size(c);
    double one[2 * EACH], *got = td_calloc(N * 2 * EACH, sizeof *got), both[2 * EACH];
    TD_TRY(open_table(c, &l, &mine, &keyed));
    size_t n = 0; /* this rank's own keys: nobody else changes them */
    for (uint64_t k = 0; k < KEYS && n < EACH; k++)
        if (k % (uint64_t)size == (uint64_t)rank) keys[n++] = k;
    for (size_t i = 0; i < 2 * n; i++) one[i] = 1;
    for (int k = 0; k < N; k++) {
        td_parts push = {keys, n, NULL, one, NULL},
                 pull = {keys, n, NULL, NULL, got + k * 2 * EACH};
        TD_TRY(td_keyed_start(keyed, TD_PUSH, &push, &ticket[2 * k]));
        TD_TRY(td_keyed_start(keyed, TD_PULL, &pull, &ticket[2 * k + 1]));
    }
    for (int k = N; k-- > 0;) { /* the last first: answers keep their places */
        TD_TRY(td_keyed_wait(keyed, ticket[2 * k + 1]));
        for (size_t i = 0; i < 2 * n; i++) CHECK(got[k * 2 * EACH + (int)i] == k + 1);
        CHECK(td_keyed_done(keyed, ticket[2 * k]));
    }
    TD_TRY(td_keyed_wait(keyed, 0));
    td_parts parts = {keys, n, NULL, one, both};
    uint64_t t;
    TD_TRY(td_keyed_start(keyed, TD_PUSH_PULL, &parts, &t));
    TD_TRY(td_keyed_wait(keyed, t));
    for (size_t i = 0; i < 2 * n; i++) CHECK(both[i] == N + 1);
    td_parts nothing = {NULL, 0, NULL, NULL, NULL};
    TD_TRY(td_keyed_push(keyed, &nothing));
    TD_TRY(td_keyed_wait(keyed, 0));
    CHECK(td_keyed_wait(keyed, 9999) == TD_ERR_ARG);
    TD_TRY(td_keyed_finish(keyed));
    CHECK(td_keyed_push(keyed, &parts) == TD_ERR_ARG);
    td_keyed_destroy(keyed);
    td_free(got);
    table_free(&mine);
    return TD_OK;
}

static void a_rank_sees_its_own_pushes_in_their_order(void **state)
{
    (void)state;
    on_all_sizes(in_flight, NULL);
}

/* --- failures --- */

static td_status refused(td_comm *c, void *arg)
{
    (void)arg;
    table mine = {0};
    td_keyed *keyed;
    layout l = {.one_server = true, .keys = 1};
    uint64_t good = 3, bad = KEYS + 5;
    double in[2] = {1, 2}, out[2] = {7, 7};
    char who[64];
    TD_TRY(open_table(c, &l, &mine, &keyed));
    td_parts parts = {&bad, 1, NULL, in, out};
    CHECK(td_keyed_push(keyed, &parts) == TD_ERR_ARG);
    snprintf(who, sizeof who, "push at rank %d: key 305", td_comm_size(c) - 1);
    CHECK(strstr(td_last_error(), who));
    CHECK(td_keyed_pull(keyed, &parts) == TD_ERR_ARG);
    parts.count = SIZE_MAX;
    CHECK(td_keyed_pull(keyed, &parts) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "keys are more than memory holds"));
    parts.count = 1, parts.only = td_comm_size(c) + 1;
    CHECK(td_keyed_pull(keyed, &parts) == TD_ERR_ARG);
    parts.only = 0;
    CHECK(out[0] == 0); /* what a refused pull gives is nothing */
    parts.keys = &good;
    TD_TRY(td_keyed_push(keyed, &parts));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_keyed_pull(keyed, &parts));
    CHECK(out[0] == td_comm_size(c) && out[1] == 2 * td_comm_size(c));
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    table_free(&mine);
    return TD_OK;
}

static void a_servers_refusal_reaches_who_asked(void **state)
{
    (void)state;
    on_all_sizes(refused, NULL);
}

static int nobody(void *user, uint64_t key, int servers)
{
    (void)user, (void)key;
    return servers;
}

static td_status misused(td_comm *c, void *arg)
{
    (void)arg;
    int size = td_comm_size(c), twice[] = {0, 0}, beyond[] = {size};
    td_keyed *keyed = NULL;
    table mine = {0};
    uint64_t key = 1;
    td_keyed_config config = {.width = 16};
    CHECK(td_keyed_open(c, &config, &keyed) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "without a function"));
    config.serve = serve, config.user = &mine, config.servers = beyond, config.server_count = 1;
    CHECK(td_keyed_open(c, &config, &keyed) == TD_ERR_ARG);
    config.servers = twice, config.server_count = 2;
    CHECK(td_keyed_open(c, &config, &keyed) == TD_ERR_ARG);
    config.servers = NULL, config.owner = nobody;
    TD_TRY(td_keyed_open(c, &config, &keyed));
    double in[2] = {0};
    td_parts parts = {&key, 1, NULL, in, NULL}, bare = {&key, 1, NULL, NULL, NULL};
    CHECK(td_keyed_open(c, NULL, &keyed) == TD_ERR_ARG);
    CHECK(td_keyed_pull(keyed, NULL) == TD_ERR_ARG && td_keyed_wait(NULL, 0) == TD_ERR_ARG);
    CHECK(td_keyed_pull(keyed, &parts) == TD_ERR_ARG);
    CHECK(strstr(td_last_error(), "no buffer"));
    CHECK(td_keyed_push(keyed, &bare) == TD_ERR_ARG);
    if (size > 1) CHECK(td_keyed_push(keyed, &parts) == TD_ERR_ARG); /* the owner is no server */
    bare.keys = NULL;
    CHECK(td_keyed_push(keyed, &bare) == TD_ERR_ARG);
    CHECK(td_keyed_start(keyed, (td_keyed_does)7, &parts, &key) == TD_ERR_ARG);
    td_error_clear();
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    table_free(&mine);
    return TD_OK;
}

static void misuse_is_named(void **state)
{
    (void)state;
    on_all_sizes(misused, NULL);
}

static bool never(void *user, const td_keyed_request *q)
{
    (void)user, (void)q;
    return false;
}

/* Rank 1, the server, is never ready, and leaves or is silent. */
static td_status unanswered(td_comm *c, void *arg)
{
    bool silent = *(bool *)arg;
    enum { PULLS = 4 };
    table mine = {0};
    td_keyed *keyed;
    int server[] = {1};
    td_keyed_config config = {.servers = server, .server_count = 1, .width = 16};
    config.serve = serve, config.user = &mine, config.ready = never;
    uint64_t key = 1, ticket[PULLS];
    double out[PULLS][2];
    TD_TRY(td_keyed_open(c, &config, &keyed));
    for (int k = 0; k < PULLS && td_comm_rank(c) == 0; k++) {
        td_parts parts = {.keys = &key, .count = 1, .out = out[k]};
        TD_TRY(td_keyed_start(keyed, TD_PULL, &parts, &ticket[k]));
    }
    int64_t begin = td_clock_ns();
    if (td_comm_rank(c) == 0 && silent) {
        CHECK(td_keyed_wait(keyed, 0) == TD_ERR_TIMEOUT); /* one deadline, not one for each */
        CHECK(td_clock_ns() - begin < 2 * c->deadline_ms * 1000000);
        CHECK(strstr(td_last_error(), "for rank 1 in pull"));
        td_error_clear();
    } else if (td_comm_rank(c) == 0) {
        while (!td_keyed_done(keyed, ticket[PULLS - 1])) CHECK(td_clock_ns() - begin < 5000000000);
        CHECK(td_keyed_wait(keyed, ticket[PULLS - 1]) == TD_ERR_PEER);
        CHECK(strstr(td_last_error(), "rank 1 left while rank 0 waited for it in pull"));
        td_error_clear();
    } else if (silent) {
        nanosleep(&(struct timespec){.tv_sec = 3}, NULL);
    }
    td_keyed_destroy(keyed);
    return TD_OK;
}

/* At hand, and on another host. */
static void assert_unanswered(const td_comm_config *config, bool silent)
{
    if (mpi_world) return;
    assert_ok(td_comm_run_local(2, config, unanswered, &silent));
    setenv("TANDEM_FAKE_HOSTS", "0,1", 1);
    assert_ok(td_comm_run_local(2, config, unanswered, &silent));
    unsetenv("TANDEM_FAKE_HOSTS");
}

static void who_asks_for_an_answer_hears_that_the_server_left(void **state)
{
    (void)state;
    assert_unanswered(NULL, false);
}

static void a_silent_server_costs_one_deadline(void **state)
{
    (void)state;
    assert_unanswered(&(td_comm_config){.deadline_ms = 700}, true);
}

/* One rank gives up with requests under way. */
static td_status abandoned(td_comm *c, void *arg)
{
    (void)arg;
    table mine = {0};
    td_keyed *keyed;
    layout l = {.keys = 50, .most = 200};
    uint64_t *keys = td_calloc(KEYS, sizeof *keys), ticket;
    size_t *sizes = td_calloc(KEYS, sizeof *sizes);
    double *in = td_calloc(l.keys * l.most, sizeof *in);
    TD_TRY(open_table(c, &l, &mine, &keyed));
    make_push(&l, 1, 1, keys, sizes, in);
    td_parts parts = {keys, l.keys, sizes, in, NULL};
    for (int k = 0; k < 5; k++) TD_TRY(td_keyed_start(keyed, TD_PUSH, &parts, &ticket));
    td_keyed_destroy(keyed);
    td_free(keys), td_free(sizes), td_free(in);
    table_free(&mine);
    return TD_OK;
}

static void requests_can_be_given_up(void **state)
{
    (void)state;
    if (!mpi_world) on_all_sizes(abandoned, NULL); /* processes would leave messages unread */
}

/* --- notes, servers without keys, requests that are put off --- */

/* Server s holds key s; a pull with note n waits until all other ranks have pushed n times. */
typedef struct clocks {
    int size, rank;
    uint64_t pushes[16];
    double sum;
} clocks;

static bool all_have_pushed(void *user, const td_keyed_request *q)
{
    const clocks *k = user;
    const uint64_t *note = q->note;
    for (int r = 0; r < k->size && q->does == TD_PULL; r++)
        if (r != q->from && k->pushes[r] < note[0]) return false;
    return true;
}

static td_status serve_clocks(void *user, const td_keyed_request *q)
{
    clocks *k = user;
    const uint64_t *note = q->note;
    uint64_t *answer = q->answer;
    const double *in = q->in;
    double *out = q->out;
    if (q->does == TD_PUSH) k->pushes[q->from]++;
    if (q->does == TD_PULL && !all_have_pushed(k, q)) return td_fail(TD_ERR_INTERNAL, "too soon");
    for (size_t i = 0; i < q->count; i++) {
        if (q->keys[i] != (uint64_t)k->rank) return td_fail(TD_ERR_INTERNAL, "another's key");
        if (q->does == TD_PUSH) k->sum += in[2 * i];
        if (q->does == TD_PULL) out[2 * i] = k->sum, out[2 * i + 1] = 0;
    }
    answer[0] = note[1] + (uint64_t)k->rank;
    return TD_OK;
}

static td_status in_step(td_comm *c, void *arg)
{
    (void)arg;
    enum { STEPS = 30 };
    clocks mine = {.size = td_comm_size(c), .rank = td_comm_rank(c)};
    td_keyed_config config = {.width = 16, .serve = serve_clocks, .ready = all_have_pushed};
    config.user = &mine;
    td_keyed *keyed;
    TD_TRY(td_keyed_open(c, &config, &keyed));
    uint64_t answers[16][TD_KEYED_NOTE / 8], note[TD_KEYED_NOTE / 8] = {0}, ticket;
    for (int step = 1; step <= STEPS; step++) {
        uint64_t key = (uint64_t)(step % mine.size);
        int owner = (int)key;
        double one[2] = {1, 0}, got[2] = {0};
        note[0] = (uint64_t)step, note[1] = (uint64_t)(100 * step + mine.rank);
        td_parts push = {.keys = &key, .count = 1, .in = one, .owner = &owner};
        push.everywhere = true, push.note = note, push.answers = answers;
        td_parts pull = {.keys = &key, .count = 1, .out = got, .owner = &owner, .note = note};
        TD_TRY(td_keyed_push(keyed, &push));
        for (int s = 0; s < mine.size; s++) CHECK(answers[s][0] == note[1] + (uint64_t)s);
        if (mine.rank == step % 3) nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        TD_TRY(td_keyed_start(keyed, TD_PULL, &pull, &ticket));
        TD_TRY(td_keyed_wait(keyed, ticket));
        int so_far = 0; /* pushes of this key; a faster rank may have pushed the next */
        for (int s = 1; s <= step; s++) so_far += s % mine.size == (int)key;
        CHECK(got[0] >= so_far * mine.size && got[0] < (so_far + 1) * mine.size);
    }
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    return TD_OK;
}

static void a_request_waits_until_its_server_is_ready(void **state)
{
    (void)state;
    on_all_sizes(in_step, NULL);
}

/* Requests behind one that is put off keep their order. */
static td_status queued(td_comm *c, void *arg)
{
    (void)arg;
    clocks mine = {.size = td_comm_size(c), .rank = td_comm_rank(c)};
    td_keyed_config config = {.width = 16, .serve = serve_clocks, .ready = all_have_pushed};
    config.user = &mine;
    td_keyed *keyed;
    TD_TRY(td_keyed_open(c, &config, &keyed));
    uint64_t note[TD_KEYED_NOTE / 8] = {1}, ticket[2], key = 0;
    int owner = 0, others = mine.size - 1;
    double one[2] = {1, 0}, got[2] = {0};
    td_parts push = {.keys = &key, .count = 1, .in = one, .owner = &owner, .note = note};
    td_parts pull = {.keys = &key, .count = 1, .out = got, .owner = &owner, .note = note};
    if (mine.rank == others) {
        TD_TRY(td_keyed_start(keyed, TD_PULL, &pull, &ticket[0]));
        TD_TRY(td_keyed_start(keyed, TD_PUSH, &push, &ticket[1]));
        TD_TRY(td_keyed_wait(keyed, ticket[1]));
        TD_TRY(td_keyed_wait(keyed, ticket[0]));
        CHECK(got[0] == others); /* the others' pushes, and not the one behind it */
    } else {
        nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        TD_TRY(td_keyed_push(keyed, &push));
    }
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    return TD_OK;
}

static void requests_keep_their_order_behind_one_that_waits(void **state)
{
    (void)state;
    on_all_sizes(queued, NULL);
}

/* More requests under way than there is room for, waited for in another order than they began. */
static td_status many(td_comm *c, void *arg)
{
    const layout *l = arg;
    enum { PULLS = 23 };
    table mine = {0};
    td_keyed *keyed;
    double *in = td_calloc(l->keys * l->most + 1, sizeof *in);
    uint64_t *keys = td_calloc(l->keys, sizeof *keys), ticket[PULLS];
    size_t *sizes = td_calloc(l->keys, sizeof *sizes);
    double *got[PULLS], *want;
    TD_TRY(open_table(c, l, &mine, &keyed));
    size_t values = make_push(l, 0, 0, keys, sizes, in);
    td_parts first = {keys, l->keys, sizes, in, want = td_calloc(values + 1, sizeof *want)};
    if (td_comm_rank(c) == 0) TD_TRY(td_keyed_push(keyed, &first));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_keyed_pull(keyed, &first));
    for (size_t v = 0; v < values; v++) in[v] = 0;
    for (int k = 0; k < PULLS; k++) {
        got[k] = td_calloc(values + 1, sizeof(double));
        for (size_t v = 0; v < values; v++) got[k][v] = -1;
        td_parts parts = {keys, l->keys, sizes, in, got[k]};
        TD_TRY(td_keyed_start(keyed, TD_PUSH_PULL, &parts, &ticket[k]));
    }
    for (int k = 0; k < PULLS; k++) TD_TRY(td_keyed_wait(keyed, ticket[(7 * k + 22) % PULLS]));
    for (int k = 0; k < PULLS; k++)
        for (size_t v = 0; v < values; v++) CHECK(got[k][v] == want[v] && want[v] > 0);
    TD_TRY(td_keyed_finish(keyed));
    td_keyed_destroy(keyed);
    for (int k = 0; k < PULLS; k++) td_free(got[k]);
    td_free(in), td_free(keys), td_free(sizes), td_free(want);
    table_free(&mine);
    return TD_OK;
}

static void any_number_of_requests_may_be_under_way(void **state)
{
    (void)state;
    layout scattered = {.most = 9, .keys = 60}, ranges = {.most = 9, .keys = 60, .range = true};
    on_all_sizes(many, &scattered);
    on_all_sizes(many, &ranges);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pushes_of_all_ranks_add_up),
        cmocka_unit_test(a_rank_sees_its_own_pushes_in_their_order),
        cmocka_unit_test(a_servers_refusal_reaches_who_asked),
        cmocka_unit_test(misuse_is_named),
        cmocka_unit_test(who_asks_for_an_answer_hears_that_the_server_left),
        cmocka_unit_test(a_silent_server_costs_one_deadline),
        cmocka_unit_test(requests_can_be_given_up),
        cmocka_unit_test(a_request_waits_until_its_server_is_ready),
        cmocka_unit_test(requests_keep_their_order_behind_one_that_waits),
        cmocka_unit_test(any_number_of_requests_may_be_under_way),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
