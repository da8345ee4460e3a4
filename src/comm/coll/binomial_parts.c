/* Gather and scatter of equal parts along a binomial tree whose ranks are numbered from the root: a
 * rank's parent is found by clearing its lowest set bit, and its subtree is a run of numbers.
 * Cost: n - 1 messages, ceil(log2 n) of them one after the other (n - 1 at the root of linear.c);
 * a part moves once for each set bit of its rank's number, so about b n log2(n) / 2 bytes in all,
 * (n - 1) b of them at the root. Long parts are better sent once: linear.c. Parts that differ are
 * not served here.
 * Source: Thakur, Rabenseifner, Gropp, "Optimization of collective communication operations in
 * MPICH", 2005. */
#include "comm/coll/coll.h"

#include "base/alloc.h"
#include "base/error.h"

#include <string.h>

typedef struct tree {
    int n, root;
    int me, low; /* number; its lowest bit, at the root the first that is not below n */
    size_t bytes;
} tree;

static tree tree_of(const td_comm *comm, const td_call *call)
{
    tree t = {comm->size, call->root, 0, 1, call->bytes};
    t.me = (comm->rank - t.root + t.n) % t.n;
    while (t.low < t.n && !(t.me & t.low)) t.low <<= 1;
    return t;
}

static int rank_of(const tree *t, int number)
{
    return (number + t->root) % t->n;
}

/* Bytes of the subtree of that number, of at most `low` ranks. */
static size_t below(const tree *t, int number, int low)
{
    int ranks = t->n - number < low ? t->n - number : low;
    return (size_t)ranks * t->bytes;
}

/* Parts in the order of numbers to that of ranks, or back. */
static void rotate(const tree *t, char *by_number, char *by_rank, bool back)
{
    size_t first = (size_t)(t->n - t->root) * t->bytes, rest = (size_t)t->root * t->bytes;
    if (first) memcpy(back ? by_number : by_rank + rest, back ? by_rank + rest : by_number, first);
    if (rest) memcpy(back ? by_number + first : by_rank, back ? by_rank : by_number + first, rest);
}

static td_status no_memory(const tree *t)
{
    return td_fail(TD_ERR_NOMEM, "no memory for %d parts of %zu bytes", t->n, t->bytes);
}

/* room: this rank's part, and behind it those of the ranks below it. */
static td_status gather(td_comm *comm, const tree *t, char *room)
{
    for (int bit = 1; bit < t->low && t->me + bit < t->n; bit <<= 1)
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, room + (size_t)bit * t->bytes,
                                below(t, t->me + bit, bit), rank_of(t, t->me + bit),
                                TD_TAG_COLLECTIVE));
    if (t->me == 0) return TD_OK;
    return td_comm_exchange(comm, room, below(t, t->me, t->low), rank_of(t, t->me & ~t->low), NULL,
                            0, -1, TD_TAG_COLLECTIVE);
}

td_status td_binomial_gather(td_comm *comm, const td_call *call)
{
    tree t = tree_of(comm, call);
    bool at_place = t.me == 0 && t.root == 0; /* both orders are one */
    char *room = at_place ? call->out : td_malloc(below(&t, t.me, t.low));
    if (!room) return at_place ? gather(comm, &t, room) : no_memory(&t);
    if (t.bytes && call->in != room) memcpy(room, call->in, t.bytes);
    td_status status = gather(comm, &t, room);
    if (status == TD_OK && t.me == 0 && !at_place) rotate(&t, room, call->out, false);
    if (!at_place) td_free(room);
    return status;
}

static td_status scatter(td_comm *comm, const tree *t, char *room)
{
    if (t->me)
        TD_TRY(td_comm_exchange(comm, NULL, 0, -1, room, below(t, t->me, t->low),
                                rank_of(t, t->me & ~t->low), TD_TAG_COLLECTIVE));
    for (int bit = t->low >> 1; bit; bit >>= 1)
        if (t->me + bit < t->n)
            TD_TRY(td_comm_exchange(comm, room + (size_t)bit * t->bytes, below(t, t->me + bit, bit),
                                    rank_of(t, t->me + bit), NULL, 0, -1, TD_TAG_COLLECTIVE));
    return TD_OK;
}

td_status td_binomial_scatter(td_comm *comm, const td_call *call)
{
    tree t = tree_of(comm, call);
    bool at_place = t.me == 0 && t.root == 0;
    char *all = (char *)(uintptr_t)call->in, *room = all;
    if (!at_place && !(room = td_malloc(below(&t, t.me, t.low)))) return no_memory(&t);
    if (t.me == 0 && !at_place) rotate(&t, room, all, true);
    td_status status = scatter(comm, &t, room);
    if (status == TD_OK && t.bytes && call->out != room) memcpy(call->out, room, t.bytes);
    if (!at_place) td_free(room);
    return status;
}
