/* A table of counters under kills: which pushes were acknowledged, and what the table says.
 *
 *     counters FOLDER WORKERS SERVERS CLOCK STEPS [PAUSE_US]
 *
 * on WORKERS + SERVERS ranks of mpiexec, and as many spares as there are more; with "threads" in
 * front of FOLDER on threads, where nobody dies. Each worker pushes +1 to keys that follow from its
 * number and its step, and each rank writes to FOLDER/rank-R
 *
 *     WHAT u32 | WORKER u32 | STEP u64 | TIME u64 (ns of the monotonic clock)
 *
 * what it tries (before), what it has had acknowledged (behind), and when it goes on in another
 * group. In the end each counter must be, at both its servers, at least the number of acknowledged
 * pushes and at most that of those that were tried. Since a step of a worker is one push whoever
 * makes it, and one that was not acknowledged is the last of somebody that died, that is exact but
 * for the dead.
 *
 * Exit status 0: the counters are right; 3: rows are lost, since both servers that had them have
 * died. */
#include "ps/sharded.h"
#include "train/rows_tables.h"

#include "base/alloc.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/rng.h"
#include "tandem/recover.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { COUNTERS = 4096, KEYS = 24, LOST = 3 };
enum { TRIES = 1, ACKNOWLEDGED = 2, GOES_ON = 3 };

typedef struct record {
    uint32_t what, worker;
    uint64_t step, ns;
} record;

typedef struct plan {
    const char *folder;
    int workers, servers;
    td_clock clock;
    uint64_t steps;
    long pause_us;
    bool lost;
} plan;

typedef struct life {
    plan *p;
    td_comm *world, *comm, *former;
    td_sharded *s;
    td_roles roles;
    int file;
    bool tries; /* a push is under way: of this step */
    uint64_t step;
} life;

static td_status note(life *l, uint32_t what, uint64_t step)
{
    record r = {what, (uint32_t)td_sharded_worker(l->s), step, (uint64_t)td_clock_ns()};
    if (write(l->file, &r, sizeof r) == sizeof r) return TD_OK;
    return td_fail(TD_ERR_IO, "a record cannot be written");
}

/* Different ones. */
static void keys_of(uint64_t worker, uint64_t step, uint64_t keys[KEYS])
{
    td_rng rng;
    td_rng_init(&rng, 12, TD_RNG_TEST, worker, step);
    uint64_t first = td_rng_below(&rng, COUNTERS), by = 1 + 2 * td_rng_below(&rng, COUNTERS / 2);
    for (uint64_t k = 0; k < KEYS; k++) keys[k] = (first + k * by) % COUNTERS;
}

static td_servers servers_of(life *l)
{
    return (td_servers){.rank = l->roles.server, .count = l->roles.server_count, .replicas = 1};
}

static td_status push(life *l)
{
    uint64_t keys[KEYS];
    float rows[KEYS], g[KEYS];
    for (int k = 0; k < KEYS; k++) g[k] = -1;
    l->step = td_sharded_clock(l->s);
    keys_of((uint64_t)td_sharded_worker(l->s), l->step, keys);
    TD_TRY(td_sharded_pull(l->s, keys, KEYS, rows));
    if (l->p->pause_us) nanosleep(&(struct timespec){.tv_nsec = l->p->pause_us * 1000}, NULL);
    TD_TRY(note(l, TRIES, l->step));
    l->tries = true;
    td_sharded_step step =
        {.keys = keys, .count = KEYS, .gradients = g, .scale = 1, .rate = 1, .decay = 1};
    TD_TRY(td_sharded_push(l->s, &step));
    l->tries = false;
    return note(l, ACKNOWLEDGED, l->step);
}

static td_status work(life *l)
{
    while (td_sharded_worker(l->s) >= 0 && td_sharded_clock(l->s) < l->p->steps) TD_TRY(push(l));
    TD_TRY(td_sharded_meet(l->s));
    return td_sharded_finish(l->s);
}

/* --- another group --- */

static td_status move(life *l, bool joined)
{
    bool lost = false;
    TD_TRY(td_roles_take(&l->roles, l->comm, joined));
    td_servers servers = servers_of(l);
    td_status status = td_sharded_move(l->s, l->comm, &servers, l->roles.worker, joined, &lost);
    l->p->lost = lost;
    if (l->tries && td_sharded_clock(l->s) > l->step) { /* made again */
        l->tries = false;
        TD_TRY(note(l, ACKNOWLEDGED, l->step));
    }
    if (status != TD_OK) return status;
    return note(l, GOES_ON, td_comm_generation(l->comm));
}

static td_status recover(life *l)
{
    td_comm *next;
    TD_TRY(td_comm_recover(l->comm, NULL, &next, NULL));
    if (l->former != l->world) td_comm_close(l->former);
    l->former = l->comm, l->comm = next;
    return move(l, false);
}

/* --- the end --- */

static td_status read_records(const plan *p, uint8_t *fate)
{
    char path[TD_PATH_MAX];
    record r;
    for (int rank = 0; rank < 64; rank++) {
        snprintf(path, sizeof path, "%.400s/rank-%d", p->folder, rank);
        FILE *f = fopen(path, "rb");
        if (!f) continue;
        while (fread(&r, sizeof r, 1, f) == 1)
            if (r.what != GOES_ON && r.step < p->steps && r.worker < (uint32_t)p->workers &&
                fate[r.worker * p->steps + r.step] < r.what)
                fate[r.worker * p->steps + r.step] = (uint8_t)r.what;
        fclose(f);
    }
    return TD_OK;
}

/* Counters of this rank that are wrong: those that it speaks for, and those that it copies. */
static td_status check(life *l, const uint8_t *fate, int64_t wrong[3])
{
    const plan *p = l->p;
    td_table *table = td_sharded_table(l->s);
    static const int limit = 20;
    int *least = td_calloc(2 * COUNTERS, sizeof *least), *most = least ? least + COUNTERS : NULL;
    if (!least) return td_fail(TD_ERR_NOMEM, "no memory for counters");
    for (uint64_t w = 0; w < (uint64_t)p->workers; w++)
        for (uint64_t step = 0; step < p->steps; step++) {
            uint64_t keys[KEYS], did = fate[w * p->steps + step];
            keys_of(w, step, keys);
            wrong[1] += did == ACKNOWLEDGED, wrong[2] += did == TRIES;
            for (int k = 0; k < KEYS && did; k++)
                least[keys[k]] += did == ACKNOWLEDGED, most[keys[k]]++;
        }
    for (uint64_t key = 0; key < COUNTERS && table; key++) {
        float row;
        if (!td_place_has(td_sharded_place(l->s), key, td_comm_rank(l->comm))) continue;
        TD_TRY(td_table_peek(table, &key, 1, &row));
        if (row >= (float)least[key] && row <= (float)most[key]) continue;
        if (wrong[0]++ < limit)
            fprintf(stderr, "counters: %d has %g, not %d to %d\n", (int)key, (double)row,
                    least[key], most[key]);
    }
    td_free(least);
    return TD_OK;
}

static td_status compare(life *l)
{
    const plan *p = l->p;
    int64_t mine[3] = {0}, all[3];
    uint8_t *fate = td_calloc((size_t)p->workers * p->steps, 1);
    td_status status = fate ? read_records(p, fate) : td_fail(TD_ERR_NOMEM, "no memory");
    if (status == TD_OK) status = check(l, fate, mine);
    td_free(fate);
    TD_TRY(td_comm_agree(l->comm, status));
    TD_TRY(td_comm_allreduce(l->comm, mine, all, 3, TD_I64, TD_MAX));
    if (td_comm_rank(l->comm) == 0)
        printf("counters: %lld acknowledged, %lld tried without an answer, %s\n", (long long)all[1],
               (long long)all[2], all[0] ? "WRONG" : "exact");
    return all[0] ? td_fail(TD_ERR_CORRUPT, "counters are wrong") : TD_OK;
}

/* --- a rank --- */

static td_status live(td_comm *c, void *arg)
{
    plan *p = arg;
    char path[TD_PATH_MAX];
    life l = {.p = p, .world = c, .comm = c, .former = c};
    td_sharded_config config = {.table = {.width = 1, .lr = 1}, .clock = p->clock};
    bool joined = td_comm_joined(c, td_comm_rank(c));
    config.worker_count = p->workers;
    l.roles.now.counts = (td_role_counts){.workers = p->workers, .servers = p->servers};
    snprintf(path, sizeof path, "%.400s/rank-%d", p->folder,
             td_comm_rank_in_run(c, td_comm_rank(c)));
    l.file = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0666);
    td_status status = l.file >= 0 ? TD_OK : td_fail(TD_ERR_IO, "%s cannot be made", path);
    if (!joined) status = td_comm_agree(c, status);
    if (!joined && status == TD_OK) status = td_roles_take(&l.roles, c, false);
    if (status == TD_OK) {
        config.servers = servers_of(&l), config.worker = l.roles.worker;
        status = joined ? td_sharded_join(&config, &l.s) : td_sharded_open(c, &config, &l.s);
    }
    if (status == TD_OK && joined) status = move(&l, true);
    if (status == TD_OK) status = work(&l);
    while ((status == TD_ERR_PEER || status == TD_ERR_TIMEOUT) && !p->lost) {
        status = recover(&l);
        if (status == TD_OK) status = work(&l);
    }
    if (status == TD_OK) status = compare(&l);
    td_sharded_destroy(l.s);
    td_roles_free(&l.roles);
    if (l.former != l.comm && l.former != c) td_comm_close(l.former);
    if (l.comm != c) td_comm_close(l.comm);
    if (l.file >= 0) close(l.file);
    return status;
}

int main(int argc, char **argv)
{
    plan p = {0};
    bool threads = argc > 1 && !strcmp(argv[1], "threads");
    argc -= threads, argv += threads;
    if (argc < 6) return fprintf(stderr, "counters: see the top of counters.c\n"), 2;
    p.folder = argv[1], p.workers = atoi(argv[2]), p.servers = atoi(argv[3]);
    p.steps = strtoull(argv[5], NULL, 10);
    p.pause_us = argc > 6 ? atol(argv[6]) : 0;
    td_status status = td_clock_parse(argv[4], &p.clock);
    const char *size = getenv("OMPI_COMM_WORLD_SIZE");
    int ranks = p.workers + p.servers;
    td_comm_config config = {.deadline_ms = 60000};
    if (size) config.spares = atoi(size) - ranks;
    if (status == TD_OK)
        status = threads ? td_comm_run_local(ranks, &config, live, &p)
                         : td_comm_run_mpi(&config, live, &p);
    if (status != TD_OK) fprintf(stderr, "counters: %s\n", td_last_error());
    return p.lost ? LOST : status != TD_OK;
}
