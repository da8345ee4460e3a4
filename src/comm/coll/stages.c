#include "comm/coll/stages.h"

#include "base/error.h"

enum { SLOTS = TD_HOSTS_SLOTS, LINE = 64 };

size_t td_stages_cut(const td_stages *j, size_t count, int parts, int k)
{
    size_t unit = j->width < LINE ? LINE / j->width : 1, units = (count + unit - 1) / unit;
    size_t at = units * (size_t)k / (size_t)parts * unit;
    return at < count ? at : count;
}

td_span td_stages_slice(const td_stages *j, size_t lo, size_t hi)
{
    int channel = j->h->local;
    if (channel >= j->channels) return (td_span){0, 0};
    return (td_span){lo + td_stages_cut(j, hi - lo, j->channels, channel),
                     lo + td_stages_cut(j, hi - lo, j->channels, channel + 1)};
}

static int peer_at(const td_stages *j, int host)
{
    return j->h->ranks[j->h->first[host] + j->h->local];
}

/* --- what ranks of the host tell each other --- */

static bool all_at(const td_stages *j, td_host_stage stage, int ranks, uint64_t blocks)
{
    for (int r = 0; r < ranks; r++)
        if (__atomic_load_n(&j->h->lines[r].stage[stage], __ATOMIC_ACQUIRE) < blocks) return false;
    return true;
}

static void reach(td_stages *j, td_host_stage stage, size_t blocks)
{
    __atomic_store_n(&j->h->lines[j->h->local].stage[stage], j->h->before + blocks,
                     __ATOMIC_RELEASE);
}

/* Of this rank, or another, in the operation under way. */
static td_header *shown(const td_stages *j, int local)
{
    return &j->h->lines[local].shown[j->h->before % SLOTS];
}

td_status td_stages_compare(const td_stages *j, int local)
{
    int rank = j->h->ranks[j->h->first[j->h->host] + local];
    return local == j->h->local ? TD_OK : td_header_compare(j->comm, rank, shown(j, local));
}

td_status td_stages_compare_all(const td_stages *j, size_t block)
{
    for (int r = 0; r < j->h->size && block == 0; r++) TD_TRY(td_stages_compare(j, r));
    return TD_OK;
}

bool td_stages_all_staged(const td_stages *j, size_t block)
{
    return all_at(j, TD_STAGED, j->h->size, j->h->before + block + 1);
}

/* --- messages --- */

td_status td_stages_start(td_stages *j, size_t block, bool sends, void *data, size_t count,
                          int host, int tag)
{
    int slot = (int)(block % SLOTS);
    td_request *q = &j->h->requests[slot * j->h->request_room + j->used[slot]];
    if (count == 0) return TD_OK;
    *q =
        (td_request){.data = data, .bytes = count * j->width, .peer = peer_at(j, host), .tag = tag};
    TD_TRY((sends ? j->comm->ops->isend : j->comm->ops->irecv)(j->comm, q));
    j->used[slot]++;
    if (sends) j->comm->bytes_sent += q->bytes;
    return TD_OK;
}

td_status td_stages_hello_with(td_stages *j, int host, int text, size_t bytes)
{
    TD_TRY(td_hello_send(j->comm, &j->h->requests[j->used[0]], peer_at(j, host),
                         j->h->hello[j->h->count + text], bytes));
    j->used[0]++;
    j->comm->bytes_sent += bytes;
    return TD_OK;
}

td_status td_stages_hello(td_stages *j, size_t block, bool sends, int host)
{
    if (block > 0) return TD_OK;
    if (sends) return td_stages_hello_with(j, host, host, 0);
    TD_TRY(td_hello_receive(j->comm, &j->h->requests[j->used[0]], peer_at(j, host),
                            j->h->hello[host]));
    j->used[0]++;
    return TD_OK;
}

/* Whether the block's first `wanted` requests are done. */
static td_status requests_done(td_stages *j, size_t block, int wanted, bool *all)
{
    int slot = (int)(block % SLOTS);
    td_request *q = &j->h->requests[slot * j->h->request_room];
    *all = false;
    for (; j->done[slot] < wanted; j->done[slot]++) {
        const td_request *next = &q[j->done[slot]];
        bool done;
        TD_TRY(j->comm->ops->test(j->comm, &q[j->done[slot]], &done));
        if (!done) return TD_OK;
        if (next->at_most) TD_TRY(td_hello_compare(j->comm, next));
    }
    *all = true;
    return TD_OK;
}

static void withdraw(td_stages *j)
{
    for (int slot = 0; slot < SLOTS; slot++)
        for (int k = j->done[slot]; k < j->used[slot]; k++)
            j->comm->ops->cancel(j->comm, &j->h->requests[slot * j->h->request_room + k]);
}

/* --- the stages --- */

static bool slot_free(const td_stages *j, size_t block)
{
    uint64_t number = j->h->before + block;
    return number < SLOTS || all_at(j, TD_COPIED, j->h->size, number + 1 - SLOTS);
}

static td_status stage_next(td_stages *j)
{
    size_t block = j->staged;
    int slot = (int)(block % SLOTS);
    j->used[slot] = j->awaited[slot] = j->done[slot] = 0;
    if (block == 0) *shown(j, j->h->local) = j->comm->card.runs;
    if (j->h->local < j->channels) TD_TRY(j->does->receive(j, block));
    j->does->stage(j, block);
    reach(j, TD_STAGED, ++j->staged);
    return TD_OK;
}

/* A channel's part; the other ranks of the host wait for it. */
static td_status move_slices(td_stages *j, bool *moved)
{
    bool all;
    if (j->finished < j->summed) {
        TD_TRY(requests_done(j, j->finished, j->used[j->finished % SLOTS], &all));
        if (all) reach(j, TD_FINISHED, ++j->finished), *moved = true;
    }
    if (j->summed < j->scattered) {
        TD_TRY(requests_done(j, j->summed, j->awaited[j->summed % SLOTS], &all));
        if (all) {
            if (j->does->sum) TD_TRY(j->does->sum(j, j->summed));
            j->summed++, *moved = true;
        }
    }
    if (j->scattered < j->staged && j->does->ready(j, j->scattered)) {
        if (j->does->scatter) TD_TRY(j->does->scatter(j, j->scattered));
        j->scattered++, *moved = true;
    }
    return TD_OK;
}

static td_status copy_next(td_stages *j)
{
    if (j->copied == 0) TD_TRY(td_stages_compare(j, 0)); /* which has finished it */
    if (j->does->copy) j->does->copy(j, j->copied);
    reach(j, TD_COPIED, ++j->copied);
    return TD_OK;
}

/* *done: something has moved. */
static td_status advance(void *arg, bool *done)
{
    td_stages *j = arg;
    bool moved = false;
    if (j->h->local < j->channels) TD_TRY(move_slices(j, &moved));
    if (j->copied < j->staged &&
        all_at(j, TD_FINISHED, j->channels, j->h->before + j->copied + 1)) {
        TD_TRY(copy_next(j));
        moved = true;
    }
    if (j->staged < j->blocks && slot_free(j, j->staged)) {
        TD_TRY(stage_next(j));
        moved = true;
    }
    *done = moved;
    return TD_OK;
}

/* Whom the oldest block waits for. */
static int missing(void *arg)
{
    const td_stages *j = arg;
    const td_hosts *h = j->h;
    const int *ranks = h->ranks + h->first[h->host];
    if (j->scattered == j->copied && j->does->ready == td_stages_all_staged)
        for (int r = 0; r < h->size; r++)
            if (__atomic_load_n(&h->lines[r].stage[TD_STAGED], __ATOMIC_ACQUIRE) <=
                h->before + j->copied)
                return ranks[r];
    int slot = (int)(j->copied % SLOTS);
    if (h->local < j->channels && j->done[slot] < j->used[slot])
        return h->requests[slot * h->request_room + j->done[slot]].peer;
    for (int r = 0; r < j->channels; r++)
        if (__atomic_load_n(&h->lines[r].stage[TD_FINISHED], __ATOMIC_ACQUIRE) <=
            h->before + j->copied)
            return ranks[r];
    return -1;
}

td_status td_stages_run(td_stages *j)
{
    td_status status = TD_OK;
    while (j->copied < j->blocks && status == TD_OK)
        status = td_comm_wait(j->comm, -1, NULL, advance, missing, j);
    if (status != TD_OK) withdraw(j);
    j->h->before += j->blocks;
    return status;
}
