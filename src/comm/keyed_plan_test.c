/* Requests that are started time and again: what each gives is what one that is begun anew gives.
 * See ranks_test.h. */
#include "comm/ranks_test.h"

#include "tandem/keyed.h"

enum { KEYS = 40, ROUNDS = 5, LONGEST = 3 };

/* Of each key the sum of what was pushed; parts of key k have k % 3 + 1 numbers, or one. */
typedef struct table {
    double sum[KEYS][LONGEST];
    uint64_t notes;
} table;

static size_t numbers_of(const td_keyed_request *q, size_t i)
{
    return q->sizes ? q->sizes[i] / sizeof(double) : 1;
}

static td_status serve(void *user, const td_keyed_request *q)
{
    table *t = user;
    const double *in = q->in;
    double *out = q->out;
    t->notes += *(const uint64_t *)q->note;
    for (size_t i = 0; i < q->count; i++)
        for (size_t n = 0; n < numbers_of(q, i); n++) {
            if (in) t->sum[q->keys[i]][n] += *in++;
            if (out) *out++ = t->sum[q->keys[i]][n];
        }
    return TD_OK;
}

typedef struct request {
    uint64_t keys[KEYS], note;
    size_t sizes[KEYS];
    int owner[KEYS];
    double in[KEYS * LONGEST], out[KEYS * LONGEST];
    size_t numbers;
    td_parts parts;
} request;

/* kind 0: as the channel has it; 1: with sizes; 2: with servers of its own. */
static void prepare(request *r, int kind, int size)
{
    *r = (request){.note = 7, .numbers = 0};
    for (size_t i = 0; i < KEYS; i++) {
        r->keys[i] = (i * 7 + 3) % KEYS;
        r->sizes[i] = (kind == 1 ? r->keys[i] % LONGEST + 1 : 1) * sizeof(double);
        r->owner[i] = (int)(r->keys[i] % (uint64_t)size);
        r->numbers += r->sizes[i] / sizeof(double);
    }
    r->parts = (td_parts){.keys = r->keys, .count = KEYS, .in = r->in, .out = r->out};
    r->parts.note = &r->note;
    if (kind == 1) r->parts.sizes = r->sizes;
    if (kind == 2) r->parts.owner = r->owner;
}

/* What the request was made of may go. */
static void forget(request *r)
{
    memset(r->keys, 0xff, sizeof r->keys), memset(r->sizes, 0xff, sizeof r->sizes);
    memset(r->owner, 0xff, sizeof r->owner);
    r->note = 0;
}

static td_status rounds(td_comm *c, td_keyed *keyed, int kind)
{
    request push, pull;
    td_keyed_plan *pushes, *pulls;
    int size = td_comm_size(c);
    prepare(&push, kind, size), prepare(&pull, kind, size);
    TD_TRY(td_keyed_plan_create(keyed, TD_PUSH, &push.parts, &pushes));
    TD_TRY(td_keyed_plan_create(keyed, TD_PULL, &pull.parts, &pulls));
    size_t n = push.numbers;
    forget(&push), forget(&pull);
    for (int r = 1; r <= ROUNDS; r++) {
        uint64_t ticket[2];
        for (size_t i = 0; i < n; i++) push.in[i] = r * (double)(i + 1);
        TD_TRY(td_keyed_plan_start(pushes, &ticket[0]));
        TD_TRY(td_keyed_wait(keyed, ticket[0]));
        TD_TRY(td_comm_barrier(c));
        for (int k = 0; k < 2; k++)
            TD_TRY(td_keyed_plan_start(pulls, &ticket[k])); /* both at once */
        for (int k = 0; k < 2; k++) TD_TRY(td_keyed_wait(keyed, ticket[k]));
        for (size_t i = 0; i < n; i++)
            CHECK(pull.out[i] == size * r * (r + 1) / 2 * (double)(i + 1));
        TD_TRY(td_comm_barrier(c));
    }
    td_keyed_plan_destroy(pushes), td_keyed_plan_destroy(pulls);
    return TD_OK;
}

static td_status plans(td_comm *c, void *arg)
{
    (void)arg;
    for (int kind = 0; kind < 3; kind++) {
        table t = {.notes = 0};
        td_keyed *keyed;
        td_keyed_config config = {.width = sizeof(double), .serve = serve, .user = &t};
        TD_TRY(td_keyed_open(c, &config, &keyed));
        TD_TRY(rounds(c, keyed, kind));
        TD_TRY(td_keyed_finish(keyed));
        uint64_t notes;
        TD_TRY(td_comm_allreduce(c, &t.notes, &notes, 1, TD_I64, TD_SUM));
        CHECK(notes > 0 && t.notes % 7 == 0);
        td_keyed_destroy(keyed);
    }
    return TD_OK;
}

#define REFUSED(call, text) CHECK((call) == TD_ERR_ARG && strstr(td_last_error(), text))

static td_status mistakes(td_comm *c, void *arg)
{
    (void)arg;
    table t = {.notes = 0};
    td_keyed *keyed;
    td_keyed_plan *plan;
    request r;
    uint64_t ticket;
    td_keyed_config config = {.width = sizeof(double), .serve = serve, .user = &t};
    prepare(&r, 0, td_comm_size(c));
    td_parts none = r.parts, unknown = r.parts;
    int wrong[KEYS] = {[3] = 1024};
    none.keys = NULL, unknown.owner = wrong;
    TD_TRY(td_keyed_open(c, &config, &keyed));
    REFUSED(td_keyed_plan_create(NULL, TD_PUSH, &r.parts, &plan), "no channel");
    REFUSED(td_keyed_plan_create(keyed, TD_PUSH, NULL, &plan), "no parts");
    REFUSED(td_keyed_plan_create(keyed, TD_PUSH, &r.parts, NULL), "no place for the plan");
    REFUSED(td_keyed_plan_create(keyed, TD_PUSH, &none, &plan), "no keys for 40 parts");
    REFUSED(td_keyed_plan_start(NULL, &ticket), "no plan");
    TD_TRY(td_keyed_plan_create(keyed, TD_PUSH, &unknown, &plan));
    REFUSED(td_keyed_plan_start(plan, &ticket), "belongs to server 1024, not one of 0..");
    td_keyed_plan_destroy(plan);
    TD_TRY(td_keyed_plan_create(keyed, TD_PUSH, &r.parts, &plan));
    TD_TRY(td_comm_barrier(c));
    TD_TRY(td_keyed_finish(keyed));
    REFUSED(td_keyed_plan_start(plan, &ticket), "the channel has been finished");
    td_keyed_destroy(keyed);
    td_keyed_plan_destroy(plan);
    td_keyed_plan_destroy(NULL);
    return TD_OK;
}

static void each_start_is_a_request(void **state)
{
    (void)state;
    on_all_sizes(plans, NULL);
}

static void mistakes_have_sentences(void **state)
{
    (void)state;
    on_all_sizes(mistakes, NULL);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_start_is_a_request),
        cmocka_unit_test(mistakes_have_sentences),
    };
    return run_on_ranks(argc, argv, tests, sizeof tests / sizeof *tests);
}
